"""Health of a running crawl: the readings of a scrape, its rates, and whether it is alive and ready. Reads, never changes.

Everything it reads is in memory already: it asks neither the disk nor another thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final

from crawler.core.snapshot import Pause, Snapshot
from crawler.crawl import Crawl
from crawler.crawl.metrics import ERRNOS, Readings
from crawler.crawl.status import Left, Rates, left, pages_between
from crawler.resources.descriptors import open_and_limit
from crawler.service.memory_report import memory_report

STUCK_S: Final = 60.0
"""Longer than any commit takes, except where the crawl waits for the disk and says so."""
SAMPLE_EVERY_S: Final = 1.0
HISTORY_EVERY_S: Final = 2.0
HISTORY_MAX: Final = 150
"""Rates remembered, to be drawn: of five minutes."""


class History:
    """Pages per second of late, to be drawn."""

    def __init__(self) -> None:
        self.rates: deque[float] = deque(maxlen=HISTORY_MAX)
        """Of HISTORY_EVERY_S each, the latest last."""
        self._before: Snapshot | None = None

    def add(self, now: Snapshot) -> None:
        before = self._before
        if before is not None and (seconds := now.at - before.at) < HISTORY_EVERY_S:
            return
        if before is not None:
            self.rates.append(pages_between(before, now) / seconds)
        self._before = now


@contextlib.asynccontextmanager
async def open_vitals(crawl: Crawl) -> AsyncIterator[Vitals]:
    """Measure the loop and the crawl's rates, and serve /metrics, /livez and /readyz where the configuration says so."""
    vitals = Vitals(crawl)
    metrics = crawl.metrics
    metrics.source = vitals.readings
    async with contextlib.AsyncExitStack() as stack:
        if crawl.config.metrics_listen:
            # aiohttp's server takes 20 ms to import
            from crawler.service.listener import open_listener, watched

            served = watched(metrics.registry, vitals.alive, vitals.ready)
            await stack.enter_async_context(open_listener(crawl.config.metrics_listen, served))
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        measuring = [
            tasks.create_task(metrics.watch_lag(), name="loop lag"),
            tasks.create_task(vitals.sampling(), name="rates"),
        ]
        try:
            yield vitals
        finally:
            for task in measuring:
                task.cancel()


class Vitals:
    """The readings of one crawl."""

    def __init__(self, crawl: Crawl) -> None:
        self._crawl = crawl
        self.lately = Rates()
        """Sampled every SAMPLE_EVERY_S."""
        self.history = History()
        self.last_reload_successful: Callable[[], bool] = lambda: True

    def readings(self) -> Readings:
        crawl, memory = self._crawl, self._crawl.memory
        frontier, counts, fetch = crawl.frontier, crawl.store.own_counts(), crawl.fetcher.stats()
        snapshot = crawl.stats()
        resting, ready, out = frontier.bench.census(crawl.clock.now())
        busy = min(frontier.out_count, crawl.config.workers)
        workers = {"busy": busy}
        descriptors_open, descriptors_limit = open_and_limit()
        if idle := crawl.config.workers - busy:
            workers[snapshot.waits_for if snapshot.waits_for != "nothing" else frontier.waits_for] = idle
        return Readings(
            state=snapshot.state,
            workers=workers,
            requests_in_flight=fetch.in_flight,
            bytes_in_flight=fetch.bytes_in_flight,
            bytes_written=crawl.journal.written_bytes,
            connections={"acquired": fetch.connections_acquired, "idle": fetch.connections_idle},
            connections_opened=fetch.connections_opened,
            urls={
                "waiting": counts.waiting,
                "retrying": counts.retrying,
                "recrawl": counts.recrawl,
                "done": counts.done - counts.recrawl,
            },
            changes=counts.changes,
            hosts={"resting": resting, "ready": ready, "out": out, "stored": max(0, counts.hosts - resting - ready - out)},
            refused=counts.refused,
            cache_events=self._cache_events(),
            memory_limit=memory.budget.plan.limit,
            memory_rss=memory.reading.pss,
            accounts=memory.budget.uses(),
            memory_state=memory.watch.state,
            **self._uploads(),
            commit_age=crawl.pump.uncommitted_s,
            disk_free=crawl.disk.free_bytes,
            storage_errors=_closed(crawl.disk.errors),
            last_reload_successful=self.last_reload_successful(),
            descriptors_open=descriptors_open,
            descriptors_limit=descriptors_limit,
            cpu_seconds=time.process_time(),
            cluster=crawl.pump.member.look() if crawl.pump.member is not None else None,
            exchange_lag=crawl.pump.intake.exchange.outbox.lag_bytes() if crawl.pump.intake is not None else 0,
        )

    def _uploads(self) -> dict[str, Any]:
        uploads = self._crawl.uploads
        if uploads is None:
            return {}
        waiting = uploads.waiting
        return {
            "uploaded_files": uploads.stored_files,
            "uploaded_bytes": uploads.stored_bytes,
            "upload_failures": uploads.failures,
            "upload_waiting_files": waiting.files,
            "upload_waiting_bytes": waiting.bytes,
            "upload_oldest": max(0.0, time.time() - waiting.since) if waiting.files else 0.0,
        }

    async def memory_report(self, trace_s: float = 0.0) -> str:
        """Where the memory is, for people."""
        return await memory_report(self.readings(), trace_s=trace_s)

    def _cache_events(self) -> dict[tuple[str, str], int]:
        fetcher, robots = self._crawl.fetcher, self._crawl.robots
        caches = {"dns": fetcher.names_events, "robots": robots.events() if robots is not None else {}}
        return {(cache, event): count for cache, events in caches.items() for event, count in events.items()}

    async def sampling(self) -> None:
        """Sample for ever."""
        while True:
            now = self._crawl.stats()
            self.lately.add(now)
            self.history.add(now)
            await asyncio.sleep(SAMPLE_EVERY_S)

    def left(self) -> Left | None:
        """How long the crawl goes on."""
        return left(self._crawl.stats(), self.lately)

    def rates(self) -> tuple[float, float]:
        """URLs settled and body bytes received per second, of late."""
        return self.lately.pages, self.lately.bytes

    def alive(self) -> str | None:
        """What keeps the crawl from making progress, where a restart might cure it; None if it is alive."""
        uncommitted_s = self._crawl.pump.uncommitted_s
        waits = {Pause.DISK, Pause.DISK_LOW, Pause.DATABASE}
        if uncommitted_s > STUCK_S and not self._crawl.frontier.pauses & waits:
            return f"no commit for {uncommitted_s:.0f} s"
        return None

    def ready(self) -> str | None:
        """Why it takes no new work just now; None if it does. It still takes seeds while a person has paused it."""
        pauses = self._crawl.frontier.pauses
        state = self._crawl.stats().state
        if state == "running" or (state == "paused" and pauses == {Pause.USER}):
            return self.alive()
        return f"{state}: {', '.join(sorted(pauses))}" if pauses else state


def _closed(errors: Mapping[str, int]) -> dict[str, int]:
    """Errors by names that are metric labels."""
    found: dict[str, int] = {}
    for name, count in errors.items():
        label = name if name in ERRNOS else "other"
        found[label] = found.get(label, 0) + count
    return found
