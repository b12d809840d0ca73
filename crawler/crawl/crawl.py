"""The crawl: a fixed pool of workers, each one straight coroutine per URL.

    lease → robots? → fetch → judge → outlinks → scope → outcome → settle

Invariants: a visit writes nothing. A cancelled visit leaves no trace; one that meets local trouble is given back.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from crawler.config import Config, HostRules
from crawler.core.batch import Admitted
from crawler.core.clock import Clock
from crawler.core.durable import is_there
from crawler.core.errors import FetchError, StorageError, lack_of
from crawler.core.model import (
    EMBED,
    EXPANDED,
    NO_FAILURE,
    NOT_PAGES,
    CrawlState,
    Done,
    Dropped,
    Lease,
    Link,
    Outcome,
    Retry,
    Snapshot,
    Unvisited,
)
from crawler.crawl.ending import Ending, visits_s
from crawler.crawl.expand import Expander
from crawler.crawl.failing_hosts import FailingHosts
from crawler.crawl.metrics import Metrics
from crawler.crawl.recrawl import Recrawler
from crawler.crawl.status import snapshot_of
from crawler.crawl.thread_iter import ThreadIterator
from crawler.crawl.visits import Visits
from crawler.fetch import Fetcher
from crawler.frontier import Store
from crawler.frontier.pump import Pump
from crawler.output import Journal, Retention, Uploads
from crawler.parse.seeds import Chunk
from crawler.policy.exclusion import Exclusion
from crawler.policy.judge import Judge
from crawler.policy.politeness import SERVE_BACKOFF_MAX_S, Politeness
from crawler.policy.scope import Scope
from crawler.resources.disk import Disk
from crawler.resources.memory_budget import Reservation, VisitMemory, head_bytes, weight
from crawler.resources.memory_governor import MemoryGovernor
from crawler.resources.network import Network
from crawler.resources.one_core import OneCore

if TYPE_CHECKING:
    from crawler.crawl.sitemaps import Sitemaps
    from crawler.parse.pool import ParserPool
    from crawler.policy.robots_gate import RobotsGate

NETWORK_EVERY_S: Final = 0.5
RECENT_FAILURES: Final = 20
STORED_ROLL_S: Final = 600.0
NO_ROOM_REST_S: Final = 10.0
"""For a host whose response has a long head, while too many others wait for the memory that takes."""
"""Files are closed so often where they are stored: what a lost disk loses is no more."""


logger: Final = logging.getLogger(__name__)


class Crawl:
    """A running crawl over its parts. ``run`` returns when nothing is left to do, or after ``drain``.

    Put together by ``crawler.crawl.wiring.open_crawl``; ``root`` is the crawl's directory."""

    def __init__(
        self,
        config: Config,
        root: Path,
        *,
        clock: Clock,
        store: Store,
        pump: Pump,
        hosts: HostRules,
        politeness: Politeness,
        robots: RobotsGate | None,
        exclusion: Exclusion,
        fetcher: Fetcher,
        parser: ParserPool | None,
        expander: Expander,
        judge: Judge,
        journal: Journal,
        retention: Retention,
        uploads: Uploads | None,
        seeds: Iterator[Chunk],
        recrawler: Recrawler,
        memory: MemoryGovernor,
        disk: Disk,
        network: Network,
        metrics: Metrics,
        failing_hosts: FailingHosts,
    ) -> None:
        self.config = config
        self.root = root
        self.clock = clock
        self.store = store
        self.pump = pump
        self.frontier = pump.frontier
        self.hosts = hosts
        self.robots = robots
        self.exclusion = exclusion
        self.fetcher = fetcher
        self.parser = parser
        self.journal = journal
        self.retention = retention
        self.uploads = uploads
        self.recrawler = recrawler
        self.memory = memory
        self.disk = disk
        self.metrics = metrics
        self.failing_hosts = failing_hosts
        self.recent_failures: deque[tuple[float, str, str, str]] = deque(maxlen=RECENT_FAILURES)
        """(wall time, URL, outcome, reason or status) of the last pages that failed."""
        self.visits_used: Callable[[], None] = lambda: self.drain("max_pages")
        """Called when as many pages are fetched as may be."""
        self._politeness, self._expander, self._judge, self._seeds, self._network = politeness, expander, judge, seeds, network
        self._reserved: dict[int, Reservation] = {}  # id(lease) → what its outcome holds, until it is committed
        self._visits, self._ending = Visits(memory), Ending()
        self._body_bytes = 0
        if pump.member is not None:
            pump.member.on_lost = self._break_off

    def reconfigure(self, config: Config) -> None:
        """From now on these settings hold, as far as they may change while a crawl runs."""
        self.config = config
        self.hosts.change(config)
        self.fetcher.change(config, config.host)
        backoff_max_s = config.backoff_max or SERVE_BACKOFF_MAX_S
        self._judge.change(retries=config.retries)
        self._politeness.change(backoff_max_s=backoff_max_s, host_failures=config.host_failures)
        self.disk.change(min_free_bytes=config.min_free_disk)
        self.retention.change(age_s=config.retain_age, bytes_max=config.retain_bytes)
        if self.robots is not None:
            self.robots.change(crawl_delay_cap_s=config.crawl_delay_cap)
            self.robots.forgive()  # a robots.txt that could not be fetched may be there for whoever asks in another way
        self._expander.change(config, Scope(config, obey=config.robots, blocked=self.hosts.blocked))
        if self.exclusion.change(config):
            self.frontier.withdraw_excluded()
            self._visits.break_off(self._is_excluded)

    async def excluded_are_over(self) -> None:
        """Returns when no visit of a link that is excluded by now is out."""
        await self._visits.are_over(self._is_excluded)

    def _is_excluded(self, lease: Lease) -> bool:
        return self.exclusion.refuses(lease.link) is not None

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
        """Until nothing is left or a drain is over. Raises StorageError, ConfigError (a list that cannot be read)."""
        async with asyncio.TaskGroup() as tasks:
            pump = tasks.create_task(self.pump.run(self.disk.recover, (self._committed,)), name="pump")
            helpers = [
                tasks.create_task(self.disk.watch(), name="disk"),
                tasks.create_task(self._watch_network(), name="network"),
                tasks.create_task(self.memory.run(), name="memory"),
                tasks.create_task(self._on_one_core().run(), name="one core"),
                tasks.create_task(self.retention.run(), name="retention"),
                tasks.create_task(self._seed(), name="seeds"),
                tasks.create_task(self.recrawler.run(), name="recrawl"),
            ]
            uploading = tasks.create_task(self.uploads.run(), name="uploads") if self.uploads is not None else None
            if (roll_time_s := self._roll_time_s()) > 0:
                helpers.append(tasks.create_task(self._roll_every(roll_time_s), name="roll"))
            if self.config.max_time:
                helpers.append(tasks.create_task(self._stop_in(self.config.max_time), name="max_time"))
            workers = [tasks.create_task(self._work(), name=f"worker {n}") for n in range(self.config.workers)]
            helpers.append(tasks.create_task(self._end_in_grace(workers), name="grace"))
            await asyncio.wait(workers)
            for helper in helpers:
                helper.cancel()
            for lease, outcome in self._network.flush():
                self._settle(lease, outcome)
            if uploading is not None and self.uploads is not None:
                await self._store_the_rest(self.uploads)
                uploading.cancel()
            self.journal.roll()
            self.pump.end()
            await pump

    def _on_one_core(self) -> OneCore:
        return OneCore(lambda: self.pump.threads, self.parser.pids if self.parser is not None else tuple)

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
        await self._ending.give_time(uploads.finish(), "uploads", self.config.store_wait, self.config.grace)
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
        self.metrics.committed(seconds, own.known, own.settled)

    async def _watch_network(self) -> None:
        """Settle what has been held long enough; while offline, try now and then whether anybody responds."""
        while True:
            await asyncio.sleep(NETWORK_EVERY_S)
            for lease, outcome in self._network.tick():
                self._settle(lease, outcome)
            await self._network.probe()

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
        async for chunk in ThreadIterator(self._seeds):
            await self.frontier.admit(Admitted(chunk.links, chunk.faults, chunk.position, extras=chunk.extras))
        if member is not None:
            await self.frontier.admit(member.seeds_ended())
        self.frontier.seeds_ended()

    # -- one worker -----------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        worker: asyncio.Task[None] | None = asyncio.current_task()
        assert worker is not None
        room = self.memory.budget.visit(partial(self.memory.give_up, worker))
        while (lease := await self.frontier.take()) is not None:
            try:
                if self._expander.sitemaps is not None:
                    await self._name_sitemaps(self._expander.sitemaps, lease)
                refusal = self._refusal(lease.link)
            except Exception:
                self.frontier.blame(lease)
                raise
            if refusal is not None:
                self._settle(lease, refusal)
            else:
                await self._visited(lease, worker, room)

    async def _name_sitemaps(self, sitemaps: Sitemaps, lease: Lease) -> None:
        """The sitemaps of this link's origin, for the site it belongs to: before the visit, which robots.txt may forbid."""
        assert self.robots is not None
        try:
            await sitemaps.name(lease.link, self.robots.sitemaps)
        except BaseException:
            self._settle(lease, Unvisited())
            raise

    async def _visited(self, lease: Lease, worker: asyncio.Task[None], room: VisitMemory) -> None:
        """A visit from its beginning to its settlement. What it brought is held no longer: the next may be far."""
        self._visits.begins(worker, lease)
        try:
            outcome = await self.visit(lease, room)
        except StorageError as error:
            self._settle(lease, Unvisited())
            self._visits.ended(worker)
            await self.disk.visit_failed(error, self.frontier.out_count)
        except BaseException as error:
            gave_up = self.memory.gave_up(worker)
            if isinstance(error, Exception) and not (gave_up or lack_of(error)):
                self.frontier.blame(lease)
            self._settle(lease, Unvisited(NO_ROOM_REST_S, "mute") if room.has_no_room else Unvisited())
            if not gave_up:
                raise
        else:
            self.disk.visit_worked(self.config.workers)
            for ended, judged in self._network.observe(lease, outcome):
                self._settle(ended, judged)
        finally:
            self._visits.ended(worker)

    def _break_off(self, slots: Collection[int]) -> None:
        """These slots are another machine's by now: visits of them count as not made."""
        if (member := self.pump.member) is not None:
            self._visits.break_off(lambda lease: member.slot_of(lease) in slots)

    async def visit(self, lease: Lease, room: VisitMemory) -> Outcome:
        """The whole life of one link that robots.txt allows, between lease and outcome. ``room`` is the worker's, and empty."""
        if not room.begin():
            await room.wait()
        try:
            try:
                page = await self.fetcher.fetch(lease if lease.known is None else self._as_kept(lease), room)
            except FetchError as error:
                return self._judge.error(lease, error)
            try:
                self.metrics.responded(page)
                room.received(page.memory_bytes, head_bytes(page.headers) if room.has_long_head else 0)
                outcome = self._judge.page(lease, page, self.clock.wall())
                if isinstance(outcome, Retry):
                    page.body.discard()
                    return outcome
                if lease.link.kind != "robots":
                    outcome = await self._expander.expand(lease.link, outcome, room)
                page.plain = None
                size = weight(outcome)
                self._reserved[id(lease)] = room.outcome_now(size) or await room.outcome(size)
                return outcome
            except BaseException:
                page.body.discard()
                raise
        finally:
            room.release()

    def _as_kept(self, lease: Lease) -> Lease:
        """Where the earlier body was retired, or its links are what is wanted, "not modified" would be no response."""
        earlier = lease.known.archive if lease.known is not None else None
        if earlier is None or (lease.link.kind not in EXPANDED and is_there(self.root / earlier.file)):
            return lease
        return replace(lease, known=None)

    def _refusal(self, link: Link) -> Outcome | None:
        if self.exclusion.is_set and (why := self.exclusion.refuses(link)) is not None:
            return Dropped(*why)
        robots = self.robots
        if robots is None:
            return None
        try:
            refused = robots.refuses(link)
        except KeyError:
            return Unvisited()
        return Dropped(*refused) if refused else None

    def _settle(self, lease: Lease, outcome: Outcome) -> None:
        if self.pump.member is not None and self.pump.member.is_lost(lease):
            if isinstance(outcome, Done):
                outcome.page.body.discard()
            outcome = Unvisited()
        try:
            if lease.link.kind == "robots":
                self._settle_robots(lease, outcome)
            else:
                self.frontier.settle(lease, outcome, self._release_of(lease))
        except Exception:
            self.frontier.blame(lease)
            raise
        self.metrics.visited(lease.link.kind, outcome)
        self._count(lease, outcome)
        if logger.isEnabledFor(logging.DEBUG):
            _log_visit(lease, outcome)

    def _release_of(self, lease: Lease) -> Callable[[], None] | None:
        reserved = self._reserved.pop(id(lease), None)
        return reserved.release if reserved is not None else None

    def _settle_robots(self, lease: Lease, outcome: Outcome) -> None:
        """Robots rules are learned with the visit; a redirect goes on as the next link of its host, or by its queue."""
        robots = self.robots
        assert robots is not None
        onward = robots.onward(lease.link, outcome)
        learned = [] if onward else robots.learn(lease.link, outcome)
        is_queued = onward is not None and not self.frontier.put_robots(onward)
        if isinstance(outcome, Done):
            outcome = replace(outcome, outlinks=(onward,) if onward is not None and is_queued else ())
            if cut := robots.cut(outcome, [origin for origin, _ in learned]):
                outcome = replace(outcome, refused={"max_robots": 1}, cut=(("max_robots", cut),))
        self.frontier.settle(lease, outcome, self._release_of(lease))
        self.frontier.rules_learned(learned)

    def _count(self, lease: Lease, outcome: Outcome) -> None:
        is_page = lease.link.kind not in NOT_PAGES
        if is_page and isinstance(outcome, Done | Dropped) and outcome.outcome not in NO_FAILURE:
            self.failing_hosts.add(lease.link.host)
            said = outcome.reason or (str(outcome.page.status) if isinstance(outcome, Done) else "")
            self.recent_failures.append((self.clock.wall(), lease.link.url, outcome.outcome, said))
        if not isinstance(outcome, Done):
            return
        self._body_bytes += outcome.page.body.size
        if is_page and lease.link.kind != EMBED and self.frontier.is_used_up:
            self.visits_used()
        if self.config.max_bytes and self._body_bytes >= self.config.max_bytes:
            self.drain("max_bytes")

    def stats(self, state: CrawlState | None = None) -> Snapshot:
        """The crawl at this moment, as people and programs are told it."""
        return snapshot_of(self, state)

    @property
    def body_bytes(self) -> int:
        """Of bodies received since it was opened."""
        return self._body_bytes


def _log_visit(lease: Lease, outcome: Outcome) -> None:
    """One line for a visit that was one: a lease given back was none."""
    if isinstance(outcome, Unvisited):
        return
    link = lease.link
    fields: dict[str, object] = {"outcome": outcome.outcome, "reason": outcome.reason, "url": link.url, "attempt": link.attempt}
    if isinstance(outcome, Done):
        page = outcome.page
        fields |= {"status": page.status, "bytes": page.bytes_wire, "seconds": round(page.timings.total, 3)}
    logger.debug("visit", extra=fields)
