"""``serve`` by several processes: as ``crawler.service.serve``, of which this is the other half.

Invariants: it ends only when told to, or when a promise can no longer be kept; what was acknowledged survives both.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable
from functools import partial
from typing import Final

from crawler.config.sections import Config
from crawler.core.errors import ConfigError, StorageError, first_of
from crawler.service.api import CONNECTIONS_MAX
from crawler.service.listener import open_listener
from crawler.service.parts.crew import PartsError
from crawler.service.parts.opening import Opened, check_memory
from crawler.service.parts.run import crew_of, scraped
from crawler.service.parts.steering import SteeredParts
from crawler.service.reload import Changes
from crawler.service.run import Report, stopping, telling
from crawler.service.sd_notify import Notifier
from crawler.service.serve import beside, control_of, ended, reloading
from crawler.service.signals import Signals

logger: Final = logging.getLogger(__name__)


async def serve_parts(
    config: Config,
    opened: Opened,
    *,
    load: Callable[[], Config],
    on_ready: Callable[[int], None] = lambda port: None,
    on_change: Callable[[Config], None] = lambda config: None,
    signals: Signals | None = None,
) -> Report:
    """As ``serve``, for a crawl that is opened for several processes. RemoteError: not all of them could open it."""
    notifier = Notifier()
    notifier.status("opening")
    async with contextlib.AsyncExitStack() as stack:
        if signals is None:
            signals = stack.enter_context(Signals(reloads=True))
        crew = crew_of(config, opened)
        stack.enter_context(signals.at_last(crew.kill))
        await stack.enter_async_context(scraped(config, crew))
        steered = SteeredParts(crew, opened, on_change)
        changes = Changes(steered, opened.root, partial(check_memory, parts=opened.division.parts, endless=True))
        crew.last_reload_successful = lambda: changes.last_reload_successful
        control = control_of(steered, crew, changes, crew.metrics.registry)
        error: Exception | None = None
        try:
            async with asyncio.TaskGroup() as tasks:
                calls = stopping(crew, signals, signal.SIGTERM, signal.SIGINT)
                calls |= telling(crew.stats, crew.lately, crew.memory_report)
                with reloading(tasks, changes, notifier, load) as reloads, signals.heard(calls | reloads):
                    async with open_listener(config.listen, control.application(), connections_max=CONNECTIONS_MAX) as port:
                        running = tasks.create_task(crew.run(), name="parts")
                        opening = tasks.create_task(crew.opened.wait(), name="opening")
                        await asyncio.wait([running, opening], return_when=asyncio.FIRST_COMPLETED)
                        if not opening.done():
                            opening.cancel()
                            await running
                        logger.info("control API on port %d; crawling with %d processes", port, opened.division.parts)
                        notifier.ready()
                        on_ready(port)
                        with beside(tasks, crew.drains, crew.alive, crew.stats, crew.lately, notifier):
                            await running
        except* (StorageError, PartsError) as group:
            error = first_of(group)
        except* ConfigError as group:
            raise first_of(group) from None
        if error is not None and crew.may_open_anew(error, or_full=True):
            if crew.stopped_by is None:
                raise error
            logger.warning("%s", error)
            error = None  # told to stop meanwhile, it waits for nothing
        return ended(crew, error)
