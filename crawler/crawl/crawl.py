"""The crawl: a fixed pool of workers, each one straight coroutine per URL.

    lease → robots? → fetch → judge → outlinks → scope → outcome → settle

The law: a visit writes nothing. One that is cancelled leaves no trace; one that meets our own trouble is given back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from crawler.config.hosts import HostRules
from crawler.config.sections import Config
from crawler.core.clock import Clock
from crawler.core.errors import FetchError, StorageError
from crawler.core.model import NO_FAILURE, NOT_PAGES, Done, Dropped, Lease, Link, Outcome, Retry, Snapshot, State, Unvisited
from crawler.crawl.expand import Expander
from crawler.crawl.failing_hosts import Tally
from crawler.crawl.metrics import Metrics
from crawler.crawl.status import snapshot_of
from crawler.crawl.thread_iter import Lazily
from crawler.fetch import Fetcher
from crawler.frontier.pump import Frontier
from crawler.frontier.store import Admitted, Store
from crawler.output.retention import Retention
from crawler.parse.seeds import Chunk
from crawler.policy.judge import Judge
from crawler.policy.robots_gate import RobotsDesk
from crawler.resources.disk import Trouble
from crawler.resources.memory_budget import Budget, Reservation, weight
from crawler.resources.memory_governor import Memory
from crawler.resources.network import Network

GRACE_FOR_COMMIT_S: Final = 1.0
"""The part of the grace kept for the last commit."""


class Parts(Struct, frozen=True):
    """What a crawl is made of; put together by ``crawler.crawl.wiring.open_crawl``."""

    config: Config
    clock: Clock
    frontier: Frontier
    fetcher: Fetcher
    judge: Judge
    trouble: Trouble
    seeds: Iterator[Chunk]
    store: Store
    hosts: HostRules
    roll: Callable[[], None]
    """Close the archive's and the results' open files with the next commit."""
    expander: Expander
    metrics: Metrics
    written_bytes: Callable[[], int]
    """Added to files since the crawl was opened."""
    patience_s: float
    """How long a disk or a network may be missing before the crawl gives up."""
    log: Callable[[str], None]
    budget: Budget
    children: Callable[[], Iterable[int]]
    """Process ids of the parsers."""
    caches: tuple[Callable[[], None], ...]
    """Each empties one."""
    restart_parsers: Callable[[], None]
    retention: Retention
    keeps: Callable[[str], bool]
    """Whether a file of the archive is there."""
    desk: RobotsDesk | None = None


class Crawl:
    """A running crawl over its parts. ``run`` returns when nothing is left to do, or after ``drain``."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.config = parts.config
        self.frontier = parts.frontier
        self.frontier.visits_left = parts.config.max_pages or None
        self.failing = Tally()
        self.frontier.unfetched = self.failing.add
        self.network = Network(
            parts.frontier,
            self._settle,
            parts.fetcher.reaches,
            clock=parts.clock.now,
            patience_s=parts.patience_s,
            log=parts.log,
        )
        self.stopped_by: str | None = None
        """Why the crawl was stopped early: a signal, max_pages, max_bytes, max_time; None if it was not."""
        self.memory = Memory(
            parts.budget,
            parts.frontier,
            children=parts.children,
            empty=parts.caches,
            restart_parsers=parts.restart_parsers,
            clock=parts.clock.now,
            log=parts.log,
        )
        self.on_visit: Callable[[Lease, Outcome], None] | None = None
        """Told of every visit while log_level is debug."""
        self._reserved: dict[int, Reservation] = {}  # id(lease) → what its outcome holds, until it is committed
        self._drain = asyncio.Event()
        self._pages = 0
        self._body_bytes = 0

    def drain(self, why: str) -> None:
        """Finish what is in flight within the grace, commit, end."""
        if self.stopped_by is None:
            self.stopped_by = why
        self._drain.set()
        self.frontier.drain()

    async def drains(self) -> None:
        """Returns when a drain has begun."""
        await self._drain.wait()

    async def run(self) -> None:
        """Until nothing is left or a drain is over. Raises StorageError, ConfigError (a list that cannot be read)."""
        async with asyncio.TaskGroup() as tasks:
            pump = tasks.create_task(self.frontier.pump(), name="pump")
            helpers = [
                tasks.create_task(self.parts.trouble.watch(), name="disk"),
                tasks.create_task(self.network.watch(), name="network"),
                tasks.create_task(self.memory.run(), name="memory"),
                tasks.create_task(self.parts.retention.run(), name="retention"),
                tasks.create_task(self._seed(), name="seeds"),
            ]
            if self.config.max_time:
                helpers.append(tasks.create_task(self._stop_in(self.config.max_time), name="max_time"))
            workers = [tasks.create_task(self._work(), name=f"worker {n}") for n in range(self.config.workers)]
            helpers.append(tasks.create_task(self._end_in_grace(workers), name="grace"))
            await asyncio.wait(workers)
            for helper in helpers:
                helper.cancel()
            self.network.flush()
            self.parts.roll()
            self.frontier.end()
            await pump

    async def _stop_in(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self.drain("max_time")

    async def _end_in_grace(self, workers: list[asyncio.Task[None]]) -> None:
        await self._drain.wait()
        await asyncio.wait(workers, timeout=max(0.0, self.config.grace - GRACE_FOR_COMMIT_S))
        for worker in workers:
            worker.cancel()

    async def _seed(self) -> None:
        """Admit the seeds, chunk by chunk, as fast as the batches take them."""
        async for chunk in Lazily(self.parts.seeds):
            await self.frontier.admit(Admitted(chunk.links, chunk.faults, chunk.position, chunk.extras))
        self.frontier.seeds_ended()

    # -- one worker -----------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        worker: asyncio.Task[None] | None = asyncio.current_task()
        assert worker is not None
        while (lease := await self.frontier.take()) is not None:
            if (refusal := self._refusal(lease.link)) is not None:
                self._settle(lease, refusal)
            else:
                await self._visited(lease, worker)

    async def _visited(self, lease: Lease, worker: asyncio.Task[None]) -> None:
        """A visit from its beginning to its settlement. What it brought is held no longer: the next may be far."""
        self.memory.begins(worker)
        try:
            outcome = await self.visit(lease)
        except StorageError as error:
            self._settle(lease, Unvisited())
            await self.parts.trouble.visit_failed(error, self.frontier.out_count)
        except BaseException:
            self._settle(lease, Unvisited())
            if not self.memory.gave_up(worker):
                raise
        else:
            self.parts.trouble.visit_worked(self.config.workers)
            self.network.ended(lease, outcome)
        finally:
            self.memory.ended(worker)

    async def visit(self, lease: Lease) -> Outcome:
        """The whole life of one link that robots.txt allows, between lease and outcome."""
        async with self.memory.budget.visit() as room:
            try:
                page = await self.parts.fetcher.fetch(self._as_kept(lease))
            except FetchError as error:
                return self.parts.judge.error(lease, error)
            try:
                self.parts.metrics.answered(page)
                room.received(page.body.memory_bytes)
                outcome = self.parts.judge.page(lease, page, self.parts.clock.wall())
                if isinstance(outcome, Retry):
                    page.body.discard()
                    return outcome
                if lease.link.kind != "robots":
                    outcome = await self.parts.expander.expand(lease.link, outcome, room)
                self._reserved[id(lease)] = await room.outcome(weight(outcome))
                return outcome
            except BaseException:
                page.body.discard()
                raise

    def _as_kept(self, lease: Lease) -> Lease:
        """Where the earlier body was retired, "not modified" would be no answer."""
        earlier = lease.known.archive if lease.known is not None else None
        return lease if earlier is None or self.parts.keeps(earlier.file) else replace(lease, known=None)

    def _refusal(self, link: Link) -> Outcome | None:
        desk = self.parts.desk
        if desk is None:
            return None
        try:
            refused = desk.refuses(link)
        except KeyError:
            return Unvisited()
        return Dropped(*refused) if refused else None

    def _settle(self, lease: Lease, outcome: Outcome) -> None:
        if lease.link.kind == "robots":
            self._settle_robots(lease, outcome)
        else:
            self.frontier.settle(lease, outcome, self._release_of(lease))
        self.parts.metrics.visited(lease.link.kind, outcome)
        self._count(lease, outcome)
        if self.on_visit is not None and self.config.log_level == "debug":
            self.on_visit(lease, outcome)

    def _release_of(self, lease: Lease) -> Callable[[], None] | None:
        reserved = self._reserved.pop(id(lease), None)
        return reserved.release if reserved is not None else None

    def _settle_robots(self, lease: Lease, outcome: Outcome) -> None:
        """Robots rules are learned with the visit; a redirect goes on as the next link of its host, or by its queue."""
        desk = self.parts.desk
        assert desk is not None
        onward = desk.onward(lease.link, outcome)
        learned = [] if onward else desk.learn(lease.link, outcome)
        is_queued = onward is not None and not self.frontier.put_robots(onward)
        if isinstance(outcome, Done):
            if onward is not None and is_queued:
                outlinks: tuple[Link, ...] = (onward,)
            else:
                home = lease.link.via
                found = [self.parts.expander.sitemaps(origin, desk.sitemaps(origin), home) for origin, _ in learned]
                outlinks = tuple(link for links in found for link in links)
            outcome = replace(outcome, outlinks=outlinks, rest=max(outcome.rest, desk.delay(lease.link)))
        self.frontier.settle(lease, outcome, self._release_of(lease))
        self.frontier.rules_learned(learned)

    def _count(self, lease: Lease, outcome: Outcome) -> None:
        is_page = lease.link.kind not in NOT_PAGES
        if is_page and isinstance(outcome, Done | Dropped) and outcome.outcome not in NO_FAILURE:
            self.failing.add(lease.link.host)
        if not isinstance(outcome, Done):
            return
        self._body_bytes += outcome.page.body.size
        if is_page and self.frontier.visits_left is not None:
            self.frontier.visits_left -= 1
            if not self.frontier.visits_left:
                self.drain("max_pages")
        if self.config.max_bytes and self._body_bytes >= self.config.max_bytes:
            self.drain("max_bytes")

    def stats(self, state: State | None = None) -> Snapshot:
        """The crawl at this moment, as people and programs are told it."""
        return snapshot_of(self, state)

    @property
    def body_bytes(self) -> int:
        """Of bodies received since it was opened."""
        return self._body_bytes
