"""One crawl from open to report: signals, progress, exit code.

Invariants: the first signal drains, the second ends at once, and neither loses anything; the report names what ended it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Final, Protocol

from msgspec import Struct

from crawler.config.sections import Config
from crawler.core.errors import ConfigError, Exit, StorageError, first_of
from crawler.core.model import NOT_FETCHED, RESPONDED, failed
from crawler.core.snapshot import CrawlState, Snapshot
from crawler.crawl import open_crawl
from crawler.crawl.status import Rates, status_line
from crawler.service.health import open_vitals
from crawler.service.signals import Signals

logger: Final = logging.getLogger(__name__)


class Report(Struct, frozen=True):
    """How a crawl ended."""

    exit_code: Exit
    snapshot: Snapshot
    stopped_by: str | None = None
    """None as well where nothing was left to do when it was told to stop."""
    error: str | None = None
    begun: Snapshot | None = None
    """What earlier runs had left in the directory; None: not all of it could be opened, and the snapshot tells of a part."""


async def run_crawl(
    config: Config,
    *,
    on_snapshot: Callable[[Snapshot], None] = lambda snapshot: None,
    interval: float = 1.0,
    signals: Signals | None = None,
) -> Report:
    """One crawl from open to report. SIGTERM, SIGINT and SIGHUP drain; a second one ends the process at once, without loss.
    SIGUSR1 logs a status line, SIGUSR2 where the memory is. ``signals``: those taken already, which stay so.
    ``on_snapshot`` is called at once, each ``interval`` seconds, and at the end.

    ConfigError, and StorageError where the directory cannot be opened; later ones are in the report. What ``on_snapshot`` raises
    ends the crawl as a signal does, and is raised here then."""
    error: StorageError | None = None
    fault: ConfigError | None = None
    async with contextlib.AsyncExitStack() as stack:
        # a store that has failed cannot be closed either: its end is told all the same
        stack.push(lambda kind, raised, trace: error is not None and isinstance(raised, StorageError))
        if signals is None:
            signals = stack.enter_context(Signals())
        crawl = await stack.enter_async_context(open_crawl(config))
        begun = crawl.stats()
        async with open_vitals(crawl) as vitals:
            calls = stopping(crawl, signals, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
            calls |= telling(crawl.stats, vitals.lately, vitals.memory_report)
            with signals.heard(calls):
                shown = asyncio.create_task(showing(crawl, on_snapshot, interval), name="progress")
                try:
                    await crawl.run()
                except* StorageError as group:
                    error = first_of(group)
                except* ConfigError as group:
                    fault = first_of(group)
                finally:
                    shown.cancel()
        if fault is not None:
            raise fault
        await all_shown(shown)
        snapshot = crawl.stats("ended")
        on_snapshot(snapshot)
        if error is not None:
            logger.error("%s", error)
        is_whole = snapshot.is_whole and config.cluster is None  # what other machines have not sent yet is not seen here
        stopped_by = None if is_whole else crawl.stopped_by
        code = code_of(error) if error is not None else exit_code(snapshot, config.max_failed, stopped_by is not None)
        return Report(code, snapshot, stopped_by, str(error) if error is not None else None, begun)


async def showing(crawl: Drains, on_snapshot: Callable[[Snapshot], None], interval: float) -> None:
    """Hand over what there is to show, for ever. If that fails, the crawl ends."""
    try:
        while True:
            on_snapshot(crawl.stats())
            await asyncio.sleep(interval)
    except Exception:
        crawl.drain("on_snapshot")
        raise


async def all_shown(shown: asyncio.Task[None]) -> None:
    """Of ``showing``, which is cancelled: raise what it failed with."""
    await asyncio.wait((shown,))
    if not shown.cancelled():
        shown.result()


class Drains(Protocol):
    """What can be asked to end: a crawl, or its parts."""

    @property
    def stopped_by(self) -> str | None: ...

    def drain(self, why: str) -> None: ...

    def stats(self, state: CrawlState | None = None) -> Snapshot: ...


def stopping(crawl: Drains, signals: Signals, *numbers: signal.Signals) -> dict[signal.Signals, Callable[[], None]]:
    """These drain; where something else has made it drain already, they end it at once: what is committed is safe."""

    def stop(number: signal.Signals) -> None:
        if crawl.stopped_by is not None:
            signals.end_at_once()
        crawl.drain(number.name)

    return {number: partial(stop, number) for number in numbers}


def telling(
    stats: Callable[[], Snapshot], lately: Rates, memory: Callable[[], Coroutine[None, None, str]]
) -> dict[signal.Signals, Callable[[], None]]:
    """What SIGUSR1 and SIGUSR2 do: log how far the crawl is, and where its ``memory`` is."""
    reports: set[asyncio.Task[None]] = set()

    async def report() -> None:
        logger.info("%s", (await memory()).rstrip())

    def ask_for_report() -> None:
        if not reports:  # one at a time
            task = asyncio.create_task(report(), name="memory report")
            reports.add(task)
            task.add_done_callback(reports.discard)

    return {signal.SIGUSR1: lambda: logger.info("%s", status_line(stats(), lately)), signal.SIGUSR2: ask_for_report}


def code_of(error: Exception) -> Exit:
    """Of a crawl that was ended by trouble of this machine, or by a part of it that goes on dying."""
    return Exit.STORAGE if isinstance(error, StorageError) else Exit.INTERNAL


def exit_code(end: Snapshot, max_failed: float, stopped: bool) -> Exit:
    """What the outcomes of all the directory's URLs mean for a script."""
    if stopped:
        return Exit.STOPPED
    if end.unstored:
        return Exit.STORAGE
    fetched = {name: count for name, count in end.outcomes.items() if count and name not in NOT_FETCHED}
    listed = sum(end.outcomes.values()) + end.lines.get("invalid_url", 0)
    if listed and not any(name in RESPONDED for name in fetched):
        return Exit.OK if end.outcomes.get("robots_denied") else Exit.NOTHING_FETCHED
    if failed(fetched) * 100 > max_failed * sum(fetched.values()):
        return Exit.FAILURES
    return Exit.OK
