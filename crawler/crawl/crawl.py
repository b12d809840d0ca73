"""The crawl as a whole: it begins, runs, ends in its grace, and takes new settings meanwhile. What its workers do with each link
is ``crawler.crawl.visitor``.

Invariant: every task is a child of ``run``, and has ended when that returns.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Final

from crawler.config import Config
from crawler.config.render import as_fields
from crawler.core.batch import Admitted
from crawler.core.clock import Clock
from crawler.core.errors import CrawlerError, first_of
from crawler.core.model import EMBED, NO_FAILURE, NOT_PAGES, Done, Dropped, Lease, Outcome
from crawler.core.snapshot import CrawlState, Snapshot
from crawler.crawl.ending import Ending, visits_s
from crawler.crawl.failing_hosts import FailingHosts
from crawler.crawl.files import Files
from crawler.crawl.metrics import Metrics
from crawler.crawl.planning import connection_bytes_of
from crawler.crawl.recrawl import Recrawler
from crawler.crawl.status import duration, snapshot_of
from crawler.crawl.thread_iter import ThreadIterator
from crawler.crawl.visitor import Resources, Rules, Visitor
from crawler.fetch import Fetcher
from crawler.frontier.pump import Pump
from crawler.output import Retention, Uploads
from crawler.parse.seeds import Chunk
from crawler.policy.politeness import SERVE_BACKOFF_MAX_S
from crawler.resources.one_core import OneCore

if TYPE_CHECKING:
    from crawler.parse.pool import ParserPool

RECENT_FAILURES: Final = 20
STORED_ROLL_S: Final = 600.0
"""Files are closed so often where they are stored: what a lost disk loses is no more."""
CLOCK_EVERY_S: Final = 10.0
CLOCK_JUMP_S: Final = 10.0
"""Less may be NTP at its work."""

logger: Final = logging.getLogger(__name__)


class Crawl:
    """A running crawl over its parts. ``run`` returns when nothing is left to do, or after ``drain``.

    Put together by ``crawler.crawl.wiring.open_crawl``."""

    def __init__(
        self,
        config: Config,
        files: Files,
        *,
        clock: Clock,
        pump: Pump,
        rules: Rules,
        resources: Resources,
        fetcher: Fetcher,
        parser: ParserPool | None,
        visitor: Visitor,
        retention: Retention,
        uploads: Uploads | None,
        seeds: Iterator[Chunk],
        recrawler: Recrawler,
        metrics: Metrics,
        failing_hosts: FailingHosts,
    ) -> None:
        self.config = config
        self.root = files.root
        """The crawl's directory."""
        self.store, self.journal = files.store, files.journal
        self.clock = clock
        self.pump = pump
        self.frontier = pump.frontier
        self.hosts, self.robots, self._politeness, self.exclusion = rules
        self.memory, self.disk, _ = resources
        self.fetcher = fetcher
        self.parser = parser
        self.visitor = visitor
        self.retention = retention
        self.uploads = uploads
        self.seeds = seeds
        self.recrawler = recrawler
        self.metrics = metrics
        self.failing_hosts = failing_hosts
        self.recent_failures: deque[tuple[float, str, str, str]] = deque(maxlen=RECENT_FAILURES)
        """(wall time, URL, outcome, reason or status) of the last pages that failed."""
        self.visits_used: Callable[[], None] = lambda: self.drain("max_pages")
        """Called when as many pages are fetched as may be."""
        self._ending = Ending()
        self._has_run = False
        self.body_bytes = 0
        """Of bodies received since it was opened."""
        visitor.on_settled = self._count
        if pump.member is not None:
            pump.member.on_lost = self._break_off

    def reconfigure(self, config: Config) -> None:
        """From now on these settings hold, as far as they may change while a crawl runs."""
        self.config = config
        self.journal.describe(as_fields(config))
        self.hosts.change(config)
        backoff_max_s = config.backoff_max or SERVE_BACKOFF_MAX_S
        self._politeness.change(backoff_max_s=backoff_max_s, host_failures=config.host_failures)
        self.disk.change(min_free_bytes=config.min_free_disk)
        self.memory.budget.connection_bytes = connection_bytes_of(config)
        self.retention.change(age_s=config.retain_age, bytes_max=config.retain_bytes)
        if self.robots is not None:
            self.robots.change(crawl_delay_cap_s=config.crawl_delay_cap)
            self.robots.forgive()  # with other settings a robots.txt that could not be fetched may be there
        self.visitor.change(config)

    @property
    def stopped_by(self) -> str | None:
        """Why the crawl was stopped early: a signal, max_pages, max_bytes, max_time; None if it was not."""
        return self._ending.why

    def drain(self, why: str) -> None:
        """Finish what is in flight within the grace, commit, end."""
        self._ending.begin(why)
        self.frontier.drain()

    async def drains(self) -> None:
        """Returns when a drain has begun."""
        await self._ending.begun()

    async def run(self) -> None:
        """Until nothing is left or a drain is over. Raises StorageError, ConfigError (a list that cannot be read); RuntimeError
        if it has run before: what it found at its opening is used up."""
        if self._has_run:
            raise RuntimeError("this crawl has run: open_crawl opens it again, and goes on where it was")
        self._has_run = True
        try:
            await self._run()
        except BaseExceptionGroup as group:
            told, others = group.split(CrawlerError)
            if told is None or others is not None:
                raise
            raise first_of(told) from group

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            pump = tasks.create_task(self.pump.run(self.disk.recover, (self._committed,)), name="pump")
            helpers = [
                tasks.create_task(self.disk.watch(), name="disk"),
                tasks.create_task(self.visitor.watch_network(), name="network"),
                tasks.create_task(self._on_one_core().run(), name="one core"),
                tasks.create_task(self.retention.run(), name="retention"),
                tasks.create_task(self._seed(), name="seeds"),
                tasks.create_task(self.recrawler.run(), name="recrawl"),
                tasks.create_task(self._watch_wall_clock(), name="wall clock"),
            ]
            memory = tasks.create_task(self.memory.run(), name="memory")
            uploading = tasks.create_task(self.uploads.run(), name="uploads") if self.uploads is not None else None
            if (roll_time_s := self._roll_time_s()) > 0:
                helpers.append(tasks.create_task(self._roll_every(roll_time_s), name="roll"))
            if self.config.max_time:
                helpers.append(tasks.create_task(self._stop_in(self.config.max_time), name="max_time"))
            workers = [tasks.create_task(self.visitor.work(), name=f"worker {n}") for n in range(self.config.workers)]
            helpers.append(tasks.create_task(self._end_in_grace(workers), name="grace"))
            await asyncio.wait(workers)
            for helper in helpers:
                helper.cancel()
            self.visitor.end()
            await self.frontier.retire({})  # a commit under way would close the files before the last pages are in them
            if uploading is not None and self.uploads is not None:
                await self._store_the_rest(self.uploads)
                uploading.cancel()
            memory.cancel()
            self.journal.roll()
            self.pump.end()
            await pump

    def _on_one_core(self) -> OneCore:
        return OneCore(lambda: self.pump.threads, self.parser.pids if self.parser is not None else tuple)

    async def _watch_wall_clock(self) -> None:
        """Say when it jumps, for ever."""
        while True:
            await asyncio.sleep(CLOCK_EVERY_S)
            jump = self.clock.jump()
            if abs(jump) >= CLOCK_JUMP_S:
                logger.warning(
                    "the wall clock was set %s by %s%s: dates of rows and records follow it, rests and retries do not",
                    "forward" if jump > 0 else "back",
                    duration(abs(jump)),
                    ", or this machine slept" if jump > 0 else "",
                )

    def _roll_time_s(self) -> float:
        if self.config.roll_time is None:
            return STORED_ROLL_S if self.uploads is not None else 0.0
        return self.config.roll_time

    async def _roll_every(self, seconds: float) -> None:
        """Close what is written, so that it can be stored and taken away, for ever."""
        while True:
            await asyncio.sleep(seconds)
            self.journal.roll(rows=True)
            await self.frontier.retire({})

    async def _store_the_rest(self, uploads: Uploads) -> None:
        """No visit is out: what was written is closed and stored, as far as that is done in time."""
        self.journal.roll(rows=True)
        await self.frontier.retire({})
        await self._ending.give_time(uploads.finish(), self.config.store_wait, self.config.grace)
        await uploads.count()
        if uploads.waiting.files:
            logger.error(
                "%d files (%d MiB) are not stored: %s; the next start goes on with them",
                uploads.waiting.files,
                uploads.waiting.bytes >> 20,
                uploads.trouble or "there was no time",
            )

    def _committed(self, seconds: float) -> None:
        """After each commit: whatever kept the disk from being written has passed."""
        self.disk.committed()
        own = self.store.own_counts()
        if self.pump.member is not None:
            gauges = self.pump.member.look()
            self.metrics.links_sent, self.metrics.links_received = gauges.links_sent, gauges.links_received
        self.metrics.committed(seconds, own.known + self.store.removed, own.settled)

    async def _stop_in(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self.drain("max_time")

    async def _end_in_grace(self, workers: list[asyncio.Task[None]]) -> None:
        """Cancel the workers that still visit when the time for visits is over."""
        await self._ending.begun()
        await asyncio.wait(workers, timeout=visits_s(self.config.grace, uploads=self.uploads is not None))
        for worker in workers:
            worker.cancel()

    async def _seed(self) -> None:
        """Admit the seeds, chunk by chunk, as fast as the batches take them; what was ordered to be recrawled comes first."""
        member = self.pump.member
        if member is not None:
            await member.opened()
        await self.recrawler.begin()
        async for chunk in ThreadIterator(self.seeds):
            await self.frontier.admit(Admitted(chunk.links, chunk.faults, chunk.position, extras=chunk.extras))
        if member is not None:
            await self.frontier.admit(member.seeds_ended())
        self.frontier.seeds_ended()

    def _break_off(self, slots: Collection[int]) -> None:
        """These slots are another machine's by now: visits of them count as not made."""
        if (member := self.pump.member) is not None:
            self.visitor.break_off(lambda lease: member.slot_of(lease) in slots)

    def _count(self, lease: Lease, outcome: Outcome) -> None:
        is_page = lease.link.kind not in NOT_PAGES
        if is_page and isinstance(outcome, Done | Dropped) and outcome.outcome not in NO_FAILURE:
            self.failing_hosts.add(lease.link.host)
            said = outcome.reason or (str(outcome.page.status) if isinstance(outcome, Done) else "")
            self.recent_failures.append((self.clock.wall(), lease.link.url, outcome.outcome, said))
        if not isinstance(outcome, Done):
            return
        self.body_bytes += outcome.page.body.size
        if is_page and lease.link.kind != EMBED and self.frontier.is_used_up:
            self.visits_used()
        if self.config.max_bytes and self.body_bytes >= self.config.max_bytes:
            self.drain("max_bytes")

    def stats(self, state: CrawlState | None = None) -> Snapshot:
        """The crawl at this moment, as people and programs are told it."""
        return snapshot_of(self, state)
