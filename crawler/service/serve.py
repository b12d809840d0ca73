"""The daemon: open, serve, drain, close, report. The same crawl as ``run``, controlled over HTTP.

Invariants: it ends only when told to, or when a promise can no longer be kept; what was acknowledged survives both.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from crawler.config.sections import Config
from crawler.core.errors import ConfigError, Exit, StorageError, first_of
from crawler.core.snapshot import Snapshot
from crawler.crawl import open_crawl
from crawler.crawl.status import Rates, status_fields, status_line
from crawler.service.api import CONNECTIONS_MAX, Control
from crawler.service.health import open_vitals
from crawler.service.listener import open_listener
from crawler.service.reload import Changes
from crawler.service.run import Drains, Report, code_of, stopping, telling
from crawler.service.sd_notify import Notifier
from crawler.service.signals import Signals
from crawler.service.steered import Direct, Steered, Vital

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

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
    error: StorageError | None = None
    fault: ConfigError | None = None
    async with contextlib.AsyncExitStack() as stack:
        # a store that has failed cannot be closed either: its end is told all the same
        stack.push(lambda kind, raised, trace: error is not None and isinstance(raised, StorageError))
        if signals is None:
            signals = stack.enter_context(Signals(reloads=True))
        crawl = await stack.enter_async_context(open_crawl(config, endless=True))
        vitals = await stack.enter_async_context(open_vitals(crawl))

        steered = Direct(crawl, on_change)
        changes = Changes(steered, Path(config.output or ""))
        vitals.last_reload_successful = lambda: changes.last_reload_successful
        control = control_of(steered, vitals, changes, crawl.metrics.registry)
        try:
            async with asyncio.TaskGroup() as tasks:
                calls = stopping(crawl, signals, signal.SIGTERM, signal.SIGINT)
                calls |= telling(crawl.stats, vitals.lately, vitals.memory_report)
                with reloading(tasks, changes, notifier, load) as reloads, signals.heard(calls | reloads):
                    async with open_listener(config.listen, control.application(), connections_max=CONNECTIONS_MAX) as port:
                        logger.info("control API on port %d; crawling", port)
                        notifier.ready()
                        on_ready(port)
                        with beside(tasks, crawl.drains, vitals.alive, crawl.stats, vitals.lately, notifier):
                            await crawl.run()
        except* StorageError as group:
            error = first_of(group)
        except* ConfigError as group:
            fault = first_of(group)
        if fault is not None:
            raise fault
        return ended(crawl, error)


def control_of(crawl: Steered, vitals: Vital, changes: Changes, registry: CollectorRegistry) -> Control:
    return Control(crawl, Path(crawl.config.output or ""), registry=registry, vitals=vitals, changes=changes)


@contextlib.contextmanager
def beside(
    tasks: asyncio.TaskGroup,
    drains: Callable[[], Coroutine[None, None, None]],
    alive: Callable[[], str | None],
    stats: Callable[[], Snapshot],
    lately: Rates,
    notifier: Notifier,
) -> Iterator[None]:
    """What systemd and the log want to know, while the crawl runs."""

    async def tell_the_end() -> None:
        await drains()
        notifier.stopping()

    async def tell_the_status() -> None:
        while True:
            await asyncio.sleep(STATUS_EVERY_S)
            logger.info("status", extra=status_fields(stats(), lately))

    helpers = [
        tasks.create_task(tell_the_status(), name="status"),
        tasks.create_task(notifier.keep(alive, lambda: status_line(stats(), lately)), name="notify"),
        tasks.create_task(tell_the_end(), name="stopping"),
    ]
    try:
        yield
    finally:
        for task in helpers:
            task.cancel()


@contextlib.contextmanager
def reloading(
    tasks: asyncio.TaskGroup, changes: Changes, notifier: Notifier, load: Callable[[], Config]
) -> Iterator[dict[signal.Signals, Callable[[], object]]]:
    """What SIGHUP does, until the crawl has ended. While one reload goes on (its file may be on a disk that hangs), one more
    waits: it reads what stands there by then, however often it is asked for."""
    asked: set[asyncio.Task[None]] = set()

    async def reload() -> None:
        notifier.reloading()
        await changes.reload(load)
        notifier.ready()

    def ask() -> None:
        if len(asked) < 2:
            asked.add(task := tasks.create_task(reload(), name="reload"))
            task.add_done_callback(asked.discard)

    try:
        yield {signal.SIGHUP: ask}
    finally:
        for task in asked:
            task.cancel()


def ended(crawl: Drains, error: Exception | None) -> Report:
    """A drain that was asked for is a good end; a limit of the configuration has stopped it early."""
    snapshot, stopped_by = crawl.stats("ended"), crawl.stopped_by
    if error is not None:
        logger.error("%s", error)
    by = stopped_by or ("itself" if error is None else "an error")
    logger.info("ended by %s: %d of %d URLs settled", by, snapshot.done, snapshot.known)
    good = Exit.STOPPED if (stopped_by or "").startswith("max_") else Exit.OK
    return Report(good if error is None else code_of(error), snapshot, stopped_by, str(error) if error is not None else None)
