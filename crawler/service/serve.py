"""The daemon: open, serve, drain, close, report. The same crawl as ``run``, controlled over HTTP.

Invariants: it ends only when told to, or when a promise can no longer be kept; what was acknowledged survives both.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Final

from crawler.config.sections import Config
from crawler.core.errors import ConfigError, Exit, StorageError
from crawler.crawl import Crawl, open_crawl
from crawler.crawl.status import Rates, status_fields
from crawler.service.api import CONNECTIONS_MAX, Control
from crawler.service.health import Vitals, open_vitals
from crawler.service.listener import open_listener
from crawler.service.reload import Changes
from crawler.service.run import Report, first_of, status_liner, stopping, telling
from crawler.service.sd_notify import Notifier
from crawler.service.signals import Signals

STATUS_EVERY_S: Final = 60.0

logger: Final = logging.getLogger(__name__)


async def serve(
    config: Config,
    *,
    load: Callable[[], Config],
    on_ready: Callable[[int], None] = lambda port: None,
    on_change: Callable[[Config], None] = lambda config: None,
    signals: Signals | None = None,
) -> Report:
    """Crawl until a signal or the API drains it. ``load`` reads the configuration anew for SIGHUP; ``on_change`` gets the
    settings from then on, ``on_ready`` the port of the control API. ``signals``: those taken already, which stay so.

    ConfigError, and StorageError where the directory cannot be opened; later ones are in the report."""
    notifier = Notifier()
    notifier.status("opening")
    async with contextlib.AsyncExitStack() as stack:
        if signals is None:
            signals = stack.enter_context(Signals(reloads=True))
        crawl = await stack.enter_async_context(open_crawl(config, endless=True))
        vitals = await stack.enter_async_context(open_vitals(crawl))

        def use(new: Config) -> None:
            crawl.reconfigure(new)
            on_change(new)

        changes = Changes(crawl, Path(config.output or ""), use)
        vitals.last_reload_successful = lambda: changes.last_reload_successful
        control = _control(crawl, vitals, changes)
        error = fault = None
        try:
            async with asyncio.TaskGroup() as tasks:
                calls = stopping(crawl, signal.SIGTERM, signal.SIGINT) | telling(crawl, vitals)
                with signals.heard(calls | _reloading(tasks, changes, notifier, load)):
                    async with open_listener(config.listen, control.application(), connections_max=CONNECTIONS_MAX) as port:
                        logger.info("control API on port %d; crawling", port)
                        notifier.ready()
                        on_ready(port)
                        await _run(tasks, crawl, vitals, notifier)
        except* StorageError as group:
            error = first_of(group)
        except* ConfigError as group:
            fault = first_of(group)
        if fault is not None:
            raise fault
        snapshot = crawl.stats("ended")
        if error is not None:
            logger.error("%s", error)
        ended_by = crawl.stopped_by or "itself"
        logger.info("ended by %s: %d of %d URLs settled", ended_by, snapshot.done, snapshot.known)
        return Report(_exit_code(crawl, error), snapshot, crawl.stopped_by, str(error) if error is not None else None)


def _control(crawl: Crawl, vitals: Vitals, changes: Changes) -> Control:
    return Control(
        crawl,
        Path(crawl.config.output or ""),
        registry=crawl.metrics.registry,
        vitals=vitals,
        changes=changes,
    )


async def _run(tasks: asyncio.TaskGroup, crawl: Crawl, vitals: Vitals, notifier: Notifier) -> None:
    """The crawl, and beside it what systemd wants to know."""

    async def tell_the_end() -> None:
        await crawl.drains()
        notifier.stopping()

    async def tell_the_status() -> None:
        rates = Rates()
        while True:
            await asyncio.sleep(STATUS_EVERY_S / 2)
            rates.add(crawl.stats())
            await asyncio.sleep(STATUS_EVERY_S / 2)
            rates.add(now := crawl.stats())
            logger.info("status", extra=status_fields(now, rates))

    beside = [
        tasks.create_task(tell_the_status(), name="status"),
        tasks.create_task(notifier.keep(vitals.alive, status_liner(crawl)), name="notify"),
        tasks.create_task(tell_the_end(), name="stopping"),
    ]
    try:
        await crawl.run()
    finally:
        for task in beside:
            task.cancel()


def _reloading(
    tasks: asyncio.TaskGroup, changes: Changes, notifier: Notifier, load: Callable[[], Config]
) -> dict[signal.Signals, Callable[[], object]]:
    """What SIGHUP does."""

    async def reload() -> None:
        notifier.reloading()
        await changes.reload(load)
        notifier.ready()

    return {signal.SIGHUP: lambda: tasks.create_task(reload(), name="reload")}


def _exit_code(crawl: Crawl, error: StorageError | None) -> Exit:
    """A drain that was asked for is a good end; a limit of the configuration has stopped it early."""
    if error is not None:
        return Exit.STORAGE
    return Exit.STOPPED if (crawl.stopped_by or "").startswith("max_") else Exit.OK
