"""One crawl from open to report: signals, progress, exit code.

The law: the first signal drains, the second ends at once, and both lose nothing; whatever ended the crawl is told.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final, TypeVar

from msgspec import Struct

from crawler.config.sections import Config
from crawler.core.errors import ConfigError, Exit, StorageError
from crawler.core.model import ANSWERED, NO_FAILURE, NOT_FETCHED, Snapshot
from crawler.crawl.crawl import Crawl
from crawler.crawl.wiring import open_crawl
from crawler.service.health import Vitals, open_vitals
from crawler.service.memory_report import memory_report

E = TypeVar("E", bound=BaseException)


logger: Final = logging.getLogger(__name__)


class Report(Struct, frozen=True):
    """How a crawl ended."""

    exit_code: Exit
    snapshot: Snapshot
    stopped_by: str | None = None
    error: str | None = None


async def run_crawl(
    config: Config,
    *,
    on_snapshot: Callable[[Snapshot], None] = lambda snapshot: None,
    interval: float = 1.0,
) -> Report:
    """One crawl from open to report. SIGTERM and SIGINT drain; a second one ends the process at once, without loss.

    ConfigError, and StorageError where the directory cannot be opened; later ones are in the report."""
    async with open_crawl(config) as crawl:
        error = fault = None
        with signals(crawl):
            async with open_vitals(crawl) as vitals, _reporting(vitals):
                showing = asyncio.create_task(_show(crawl, on_snapshot, interval), name="progress")
                try:
                    await crawl.run()
                except* StorageError as group:
                    error = first_of(group)
                except* ConfigError as group:
                    fault = first_of(group)
                finally:
                    showing.cancel()
        if fault is not None:
            raise fault
        snapshot = crawl.stats("ended")
        on_snapshot(snapshot)
        if error is not None:
            logger.error("%s", error)
        code = Exit.STORAGE if error is not None else exit_code(snapshot, config.max_failed, crawl.stopped_by is not None)
        return Report(code, snapshot, crawl.stopped_by, str(error) if error is not None else None)


async def _show(crawl: Crawl, on_snapshot: Callable[[Snapshot], None], interval: float) -> None:
    while True:
        on_snapshot(crawl.stats())
        await asyncio.sleep(interval)


@contextlib.asynccontextmanager
async def _reporting(vitals: Vitals) -> AsyncIterator[None]:
    """SIGUSR2 asks where the memory is."""
    asked, loop = asyncio.Event(), asyncio.get_running_loop()

    async def report() -> None:
        while await asked.wait():
            asked.clear()
            logger.info("%s", (await memory_report(vitals.readings())).rstrip())

    loop.add_signal_handler(signal.SIGUSR2, asked.set)
    reporting = asyncio.create_task(report(), name="memory report")
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGUSR2)
        reporting.cancel()


def first_of(group: BaseExceptionGroup[E]) -> E:
    """One of the errors that ended the tasks; the others followed from it or tell the same."""
    error: BaseExceptionGroup[E] | E = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


@contextlib.contextmanager
def signals(crawl: Crawl) -> Iterator[None]:
    """The first SIGTERM or SIGINT drains; the second ends at once: what is committed is safe, the rest is fetched again."""
    loop = asyncio.get_running_loop()

    def told(name: str) -> None:
        if crawl.stopped_by is not None:
            os._exit(Exit.STOPPED)
        crawl.drain(name)

    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, told, number.name)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def exit_code(end: Snapshot, max_failed: float, stopped: bool) -> Exit:
    """What the outcomes of all the directory's URLs mean for a script."""
    if stopped:
        return Exit.STOPPED
    fetched = {name: count for name, count in end.outcomes.items() if count and name not in NOT_FETCHED}
    failed = sum(count for name, count in fetched.items() if name not in NO_FAILURE)
    given = sum(end.outcomes.values()) + end.lines.get("invalid_url", 0)
    if given and not any(name in ANSWERED for name in fetched):
        return Exit.OK if end.outcomes.get("robots_denied") else Exit.NOTHING_FETCHED
    if failed * 100 > max_failed * sum(fetched.values()):
        return Exit.FAILURES
    return Exit.OK
