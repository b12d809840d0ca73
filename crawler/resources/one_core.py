"""Binds the threads that share the interpreter's lock to one core.

Only one of them runs at a time. To hand the lock from core to core, for each piece read or written, costs a crawl a fifth of
its CPU and brings no page more. (With bodies of megabytes, which are compressed without the lock, a second core would bring a
tenth to a sixth.)

Invariant: only those threads are bound, for as long as the crawl runs; where others keep that core busy, the system chooses
again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Final, Literal

from msgspec import Struct

LOOK_EVERY_S: Final = 0.5
CROWDED_SHARE: Final = 0.2
"""Of the time: the loop waits so long for its core while others than its own threads use it."""
CROWDED_LOOKS_MAX: Final = 64
"""Where every core is as crowded, the system is asked to choose no oftener than after so many looks."""
_TASKS: Final = Path("/proc/self/task")
_CPU_FIELD: Final = 36
"""Of /proc/PID/task/TID/stat, behind the name: the core it ran on last (proc(5), field 39)."""

Step = Literal["bind", "free", "stay"]

logger: Final = logging.getLogger(__name__)


class Choice:
    """Whether to be bound, look by look. Pure: the shares are arguments."""

    def __init__(self) -> None:
        self.is_bound = False
        self._crowded_looks = 0
        self._patience_looks = 1

    def see(self, crowded_share: float) -> Step:
        """``crowded_share``: of the time since the last look, the loop waited while others used its core."""
        if not self.is_bound:
            self.is_bound = True
            self._crowded_looks = 0
            return "bind"
        if crowded_share <= CROWDED_SHARE:
            self._crowded_looks = 0
            self._patience_looks = max(1, self._patience_looks // 2)
            return "stay"
        self._crowded_looks += 1
        if self._crowded_looks < self._patience_looks:
            return "stay"
        self._patience_looks = min(2 * self._patience_looks, CROWDED_LOOKS_MAX)
        self.is_bound = False
        return "free"


class Spent(Struct, frozen=True):
    """Seconds of a thread since it began."""

    ran_s: float
    waited_s: float
    """Ready to run, and not let."""


class OneCore:
    """Binds the running thread, which is the loop's, and ``threads()`` (native ids) beside it; ``children()`` are processes
    that it started, which inherit what they must not."""

    def __init__(self, threads: Callable[[], Collection[int]], children: Callable[[], Iterable[int]]) -> None:
        self._threads = threads
        self._children = children
        self._choice = Choice()
        self._spent: dict[int, Spent] = {}

    async def run(self) -> None:
        """Until cancelled; ends at once where there is but one core, or the system does not say what is asked of it."""
        cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
        if len(cores) < 2 or not _TASKS.exists():
            return
        loop = asyncio.get_running_loop()
        looked_at = loop.time()
        try:
            while True:
                await asyncio.sleep(LOOK_EVERY_S)
                now = loop.time()
                self._look(cores, now - looked_at)
                looked_at = now
        except (OSError, ValueError, IndexError) as error:
            logger.debug("threads run on any core: %s", error)
        finally:
            with contextlib.suppress(OSError):  # refused (seccomp): then nothing was bound
                self._bind((), cores, cores)

    def _look(self, cores: set[int], seconds: float) -> None:
        loop = threading.get_native_id()
        bound = (loop, *self._threads())
        step = self._choice.see(self._crowded_s(bound) / seconds)
        if step != "stay":
            core = {_core_of(loop)} & cores
            self._bind(bound if step == "bind" else (), core or cores, cores)
        elif self._choice.is_bound:
            self._bind_others(bound, cores)

    def _crowded_s(self, bound: Collection[int]) -> float:
        """Since the last look: how long the first of these waited for a core that was not used by one of the others."""
        spent = {thread: _spent(thread) for thread in bound}
        before, self._spent = self._spent, spent
        new = {thread: before.get(thread, spent[thread]) for thread in bound}
        first, *others = bound
        ran_s = sum(spent[thread].ran_s - new[thread].ran_s for thread in others)
        return spent[first].waited_s - new[first].waited_s - ran_s

    def _bind(self, bound: Collection[int], core: set[int], cores: set[int]) -> None:
        for thread in bound:
            os.sched_setaffinity(thread, core)
        self._bind_others(bound, cores)

    def _bind_others(self, bound: Collection[int], cores: set[int]) -> None:
        """What a bound thread begins is bound as it is, until here."""
        for other in (*(int(path.name) for path in _TASKS.iterdir()), *self._children()):
            if other not in bound:
                with contextlib.suppress(ProcessLookupError):  # it has ended
                    os.sched_setaffinity(other, cores)


def _spent(thread: int) -> Spent:
    ran_ns, waited_ns, _ = (_TASKS / str(thread) / "schedstat").read_text().split()
    return Spent(int(ran_ns) / 1e9, int(waited_ns) / 1e9)


def _core_of(thread: int) -> int:
    return int((_TASKS / str(thread) / "stat").read_text().rpartition(")")[2].split()[_CPU_FIELD])
