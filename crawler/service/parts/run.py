"""``run`` by several processes: as ``crawler.service.run``, of which this is the other half.

Invariants: the first signal drains, the second ends at once, and neither loses anything; the report names what ended it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Callable
from typing import Final

from crawler.config.sections import Config
from crawler.core.errors import StorageError
from crawler.core.snapshot import Snapshot
from crawler.core.version import __version__
from crawler.crawl.metrics import Metrics
from crawler.policy.scope import RULES
from crawler.service.parts.crew import Crew, PartsError
from crawler.service.parts.opening import Opened
from crawler.service.run import Report, all_shown, code_of, exit_code, showing, stopping, telling
from crawler.service.signals import Signals

logger: Final = logging.getLogger(__name__)


def crew_of(config: Config, opened: Opened) -> Crew:
    """The parts of an opened crawl, not begun yet. ``Crew.config`` may be replaced: the next processes take it."""
    metrics = Metrics(version=__version__, rules=RULES)
    crew = Crew(config, opened.division.parts, opened.nursery, lambda part: opened.share(crew.config, part), metrics)
    metrics.source = crew.readings
    return crew


async def run_parts(
    config: Config,
    opened: Opened,
    *,
    on_snapshot: Callable[[Snapshot], None] = lambda snapshot: None,
    interval: float = 1.0,
    signals: Signals | None = None,
) -> Report:
    """As ``run_crawl``, for a crawl that is opened for several processes. RemoteError: not all of them could open it."""
    error: Exception | None = None
    with contextlib.ExitStack() as stack:
        if signals is None:
            signals = stack.enter_context(Signals())
        crew = crew_of(config, opened)
        stack.enter_context(signals.at_last(crew.kill))
        async with scraped(config, crew):
            calls = stopping(crew, signals, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
            calls |= telling(crew.stats, crew.lately, crew.memory_report)
            with signals.heard(calls):
                shown = asyncio.create_task(showing(crew, on_snapshot, interval), name="progress")
                try:
                    await crew.run()
                except (StorageError, PartsError) as failure:
                    error = failure
                finally:
                    shown.cancel()
        await all_shown(shown)
        if error is not None and crew.stopped_by is None and crew.may_open_anew(error):
            raise error
        snapshot = crew.stats("ended")
        if error is None or crew.begun is not None:
            on_snapshot(snapshot)
        if error is not None:
            logger.error("%s", error)
        has_arrived = opened.board.look() is not None  # what the parts have sent each other is in no count on its way
        is_whole = snapshot.is_whole and has_arrived and config.cluster is None
        stopped_by = None if is_whole else crew.stopped_by
        code = code_of(error) if error is not None else exit_code(snapshot, config.max_failed, stopped_by is not None)
        return Report(code, snapshot, stopped_by, str(error) if error is not None else None, crew.begun)


@contextlib.asynccontextmanager
async def scraped(config: Config, crew: Crew) -> AsyncIterator[None]:
    """Serve /metrics, /livez and /readyz where the configuration says so."""
    if not config.metrics_listen:
        yield
        return
    from crawler.service.listener import open_listener, watched

    served = watched(crew.metrics.registry, crew.alive, crew.ready)
    async with open_listener(config.metrics_listen, served):
        yield
