"""The signals of a crawling process, from its start to its end.

Invariants: no signal named here kills the process before it has said so; the first that stops it is never lost, the
second ends it at once. Handlers are the interpreter's own, not an event loop's: a loop has none before it runs and after it
closes, and in between a signal would kill. A signal that comes while nothing listens is kept until something does.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, NoReturn

from crawler.core.errors import Exit

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from types import FrameType

HANDLED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class Signals:
    """``reloads``: SIGHUP asks for a reload, as in the daemon; otherwise it stops, as the terminal has gone. Context manager:
    taken inside, given back on leaving."""

    def __init__(self, *, reloads: bool = False) -> None:
        self._stops = {signal.SIGINT, signal.SIGTERM} | (set() if reloads else {signal.SIGHUP})
        self._before: dict[signal.Signals, Any] = {}
        self._kept: dict[signal.Signals, None] = {}  # in the order in which they came, each once
        self._calls: Mapping[signal.Signals, Callable[[], object]] = {}
        self._loop: AbstractEventLoop | None = None
        self._stopped = False
        self._last: list[Callable[[], None]] = []

    def __enter__(self) -> Signals:
        self.take()
        return self

    def __exit__(self, *_: object) -> None:
        self.give_back()

    def take(self) -> None:
        """From now on they come here. Only the main thread can do this; elsewhere nothing happens."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in HANDLED:
            if number == signal.SIGHUP and number in self._stops and signal.getsignal(number) is signal.SIG_IGN:
                continue  # nohup: it is to survive its terminal
            self._before[number] = signal.signal(number, self._came)

    def give_back(self) -> None:
        """As it was before ``take``."""
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before.clear()

    def ignore(self) -> None:
        """The process is about to end by itself, with an exit code that no signal may take away any more."""
        for number in self._before:
            signal.signal(number, signal.SIG_IGN)

    @contextlib.contextmanager
    def heard(self, calls: Mapping[signal.Signals, Callable[[], object]]) -> Iterator[None]:
        """Call these in the running loop, also for what came before."""
        import asyncio  # here, because until signals are taken they kill: each import before that is a chance

        self._loop, self._calls = asyncio.get_running_loop(), calls
        for number in [number for number in self._kept if number in calls]:
            del self._kept[number]
            self._loop.call_soon(calls[number])
        try:
            yield
        finally:
            self._calls = {}

    @contextlib.contextmanager
    def at_last(self, call: Callable[[], None]) -> Iterator[None]:
        """Within it, call this before the process ends at once: it may have a terminal to give back, or others to end."""
        self._last.append(call)
        try:
            yield
        finally:
            self._last.remove(call)

    def end_at_once(self) -> NoReturn:
        """What is committed is safe, the rest is fetched again."""
        for call in self._last:
            call()
        os._exit(Exit.STOPPED)

    def _came(self, number: int, frame: FrameType | None) -> None:
        """Between any two instructions of the main thread."""
        came = signal.Signals(number)
        if came in self._stops:
            if self._stopped:
                self.end_at_once()
            self._stopped = True
        if came in self._calls and self._loop is not None:
            self._loop.call_soon_threadsafe(self._calls[came])  # which wakes it
        else:
            self._kept[came] = None
