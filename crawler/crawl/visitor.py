"""What a worker does with each link: one straight way per URL, from its lease to its settlement.

    lease → robots? → fetch → judge → outlinks → scope → outcome → settle

Invariants: a visit writes nothing. A cancelled visit leaves no trace; one that meets local trouble is given back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from msgspec.structs import replace

from crawler.config import Config, HostRules
from crawler.core.clock import Clock
from crawler.core.durable import is_there
from crawler.core.errors import FetchError, StorageError, lack_of
from crawler.core.model import EXPANDED, Done, Dropped, Lease, Outcome, Retry, Unvisited
from crawler.crawl.expand import Expander
from crawler.crawl.metrics import Metrics
from crawler.crawl.visits import Visits
from crawler.fetch import Fetcher
from crawler.frontier.pump import Pump
from crawler.policy.exclusion import Exclusion
from crawler.policy.judge import Judge
from crawler.policy.politeness import Politeness
from crawler.policy.robots_rules import RECORDS_BYTES_FACTOR
from crawler.policy.scope import Scope
from crawler.resources.disk import Disk
from crawler.resources.memory_budget import Reservation, VisitMemory, head_bytes, weight
from crawler.resources.memory_governor import MemoryGovernor
from crawler.resources.network import Network

if TYPE_CHECKING:
    from crawler.crawl.sitemaps import Sitemaps
    from crawler.policy.robots_gate import RobotsGate

NETWORK_EVERY_S: Final = 0.5
NO_ROOM_REST_S: Final = 10.0
"""For a host whose response has a long head, while too many others wait for the memory that takes."""

logger: Final = logging.getLogger(__name__)


class Rules(NamedTuple):
    """What decides whether a link is visited, and when."""

    hosts: HostRules
    robots: RobotsGate | None
    politeness: Politeness
    exclusion: Exclusion


class Resources(NamedTuple):
    """What this machine has for visits: each watched, and the crawl slowed, paused or ended by it."""

    memory: MemoryGovernor
    disk: Disk
    network: Network


class Visitor:
    """The workers' way of every link; ``root`` is the crawl's directory. ``on_settled`` is told of every visit's outcome, those
    given back among them."""

    def __init__(
        self,
        root: Path,
        pump: Pump,
        *,
        clock: Clock,
        rules: Rules,
        fetcher: Fetcher,
        judge: Judge,
        expander: Expander,
        resources: Resources,
        visits: Visits,
        metrics: Metrics,
        workers: int,
    ) -> None:
        self.on_settled: Callable[[Lease, Outcome], None] = lambda lease, outcome: None
        self._root, self._clock, self._workers = root, clock, workers
        self._frontier, self._member, self._sifter = pump.frontier, pump.member, pump.sifter
        self._hosts, self._robots, self._exclusion = rules.hosts, rules.robots, rules.exclusion
        self._fetcher, self._judge, self._expander = fetcher, judge, expander
        self._memory, self._disk, self._network = resources
        self._metrics = metrics
        self._visits = visits
        self._reserved: dict[int, Reservation] = {}  # id(lease) → what its outcome holds, until it is committed

    def change(self, config: Config) -> None:
        """From now on links are visited by these settings, as far as they may change while a crawl runs; a visit that they
        exclude is broken off."""
        self._fetcher.change(config, config.host)
        self._judge.change(retries=config.retries)
        self._expander.change(config, Scope(config, blocked=self._hosts.blocked))
        if self._exclusion.change(config):
            self._sifter.begin()
            self._visits.break_off_unwanted(self._is_excluded)

    async def excluded_are_over(self) -> None:
        """Returns when no visit of a link that is excluded by now is out."""
        await self._visits.are_over(self._is_excluded)

    def break_off(self, is_unwanted: Callable[[Lease], bool]) -> None:
        """Visits like that count as not made."""
        self._visits.break_off_unwanted(is_unwanted)

    def _is_excluded(self, lease: Lease) -> bool:
        return self._exclusion.refuses(lease.link) is not None

    # -- one worker -----------------------------------------------------------------------------------------------

    async def work(self) -> None:
        """Visit what is dealt, one after the other, until nothing is any more."""
        worker: asyncio.Task[None] | None = asyncio.current_task()
        assert worker is not None
        room = self._memory.budget.visit(partial(self._visits.break_off, worker))
        while (lease := await self._frontier.take()) is not None:
            try:
                if self._expander.sitemaps is not None:
                    await self._name_sitemaps(self._expander.sitemaps, lease)
                refusal = self._refusal(lease)
            except Exception:
                self._frontier.blame(lease)
                raise
            if refusal is not None:
                self.settle(lease, refusal)
            else:
                await self._visited(lease, worker, room)

    async def _name_sitemaps(self, sitemaps: Sitemaps, lease: Lease) -> None:
        """The sitemaps of this link's origin, for the site it belongs to: before the visit, which robots.txt may forbid."""
        assert self._robots is not None
        try:
            await sitemaps.name(lease.link, self._robots.sitemaps)
        except BaseException:
            self.settle(lease, Unvisited())
            raise

    def _refusal(self, lease: Lease) -> Outcome | None:
        link = lease.link
        if self._member is not None and self._member.is_lost(lease):  # while its sitemaps waited for room
            return Unvisited()
        if self._exclusion.is_set and (why := self._exclusion.refuses(link)) is not None:
            return Dropped(*why)
        robots = self._robots
        if robots is None:
            return None
        try:
            refused = robots.refuses(link)
        except KeyError:
            return Unvisited()
        return Dropped(*refused) if refused else None

    async def _visited(self, lease: Lease, worker: asyncio.Task[None], room: VisitMemory) -> None:
        """A visit from its beginning to its settlement. What it brought is held no longer: the next may be far."""
        self._visits.begins(worker, lease)
        try:
            outcome = await self.visit(lease, room)
        except StorageError as error:
            self.settle(lease, Unvisited())
            self._visits.ended(worker)
            await self._disk.visit_failed(error, self._frontier.out_count)
        except BaseException as error:
            was_broken_off = self._visits.was_broken_off(worker)
            if isinstance(error, Exception) and not (was_broken_off or lack_of(error)):
                self._frontier.blame(lease)
            self.settle(lease, Unvisited(NO_ROOM_REST_S, "mute") if room.has_no_room else Unvisited())
            if not was_broken_off:
                raise
        else:
            self._disk.visit_worked(self._workers)
            for ended, judged in self._network.observe(lease, outcome):
                self.settle(ended, judged)
        finally:
            self._visits.ended(worker)

    async def visit(self, lease: Lease, room: VisitMemory) -> Outcome:
        """The whole life of one link that robots.txt allows, between lease and outcome. ``room`` is the worker's, and empty."""
        if not room.begin():
            await room.wait()
        try:
            try:
                page = await self._fetcher.fetch(lease if lease.known is None else self._as_kept(lease), room)
            except FetchError as error:
                return self._judge.error(lease, error.kept())
            try:
                self._metrics.responded(page)
                room.received(page.memory_bytes, head_bytes(page.headers) if room.has_long_head else 0)
                outcome = self._judge.page(lease, page, self._clock.wall())
                if isinstance(outcome, Retry):
                    page.body.discard()
                    return outcome
                if lease.link.kind != "robots":
                    outcome = await self._expander.expand(lease.link, outcome, room)
                page.plain = None
                size = weight(outcome)
                if lease.link.kind == "robots" and 200 <= page.status < 300:  # its rules are committed with it
                    size += RECORDS_BYTES_FACTOR * page.bytes_decoded
                self._reserved[id(lease)] = room.outcome_now(size) or await room.outcome(size)
                return outcome
            except BaseException:
                page.body.discard()
                raise
        finally:
            room.release()

    def _as_kept(self, lease: Lease) -> Lease:
        """Where the earlier body was retired, or the row that tells its type, or its links are what is wanted, "not modified"
        would be no response."""
        known = lease.known
        if known is None or known.archive is None:
            return lease
        kept = (ref for ref in (known.archive, known.row) if ref is not None)
        if lease.link.kind not in EXPANDED and all(is_there(self._root / ref.file) for ref in kept):
            return lease
        return replace(lease, known=None)

    # -- what a visit ends with -----------------------------------------------------------------------------------

    async def watch_network(self) -> None:
        """For ever: settle what has been held long enough; while offline, try now and then whether anybody responds."""
        while True:
            await asyncio.sleep(NETWORK_EVERY_S)
            for lease, outcome in self._network.tick():
                self.settle(lease, outcome)
            await self._network.probe()

    def end(self) -> None:
        """No worker visits any more: what was held until it is known whose fault it was is given back."""
        for lease, outcome in self._network.flush():
            self.settle(lease, outcome)

    def settle(self, lease: Lease, outcome: Outcome) -> None:
        """Hand an outcome over to the next commit."""
        if self._member is not None and self._member.is_lost(lease):
            if isinstance(outcome, Done):
                outcome.page.body.discard()
            outcome = Unvisited()
        try:
            if lease.link.kind == "robots":
                self._settle_robots(lease, outcome)
            else:
                self._frontier.settle(lease, outcome, self._release_of(lease))
        except Exception:
            self._frontier.blame(lease)
            raise
        self._metrics.visited(lease.link.kind, outcome)
        self.on_settled(lease, outcome)
        if logger.isEnabledFor(logging.DEBUG):
            log_visit(lease, outcome)

    def _release_of(self, lease: Lease) -> Callable[[], None] | None:
        reserved = self._reserved.pop(id(lease), None)
        return reserved.release if reserved is not None else None

    def _settle_robots(self, lease: Lease, outcome: Outcome) -> None:
        """Robots rules are learned with the visit; a redirect goes on as the next link of its host, or by its queue."""
        robots = self._robots
        assert robots is not None
        onward = robots.onward(lease.link, outcome)
        learned = [] if onward else robots.learn(lease.link, outcome)
        is_queued = onward is not None and not self._frontier.put_robots(onward)
        if isinstance(outcome, Done):
            outcome = replace(outcome, outlinks=(onward,) if onward is not None and is_queued else ())
            if cut := robots.cut(outcome, [origin for origin, _ in learned]):
                outcome = replace(outcome, refused={"max_robots": 1}, cut=(("max_robots", cut),))
        self._frontier.settle(lease, outcome, self._release_of(lease))
        self._frontier.rules_learned(learned)


def log_visit(lease: Lease, outcome: Outcome) -> None:
    """One line for a visit that was one: a lease given back was none."""
    if isinstance(outcome, Unvisited):
        return
    link = lease.link
    fields: dict[str, object] = {"outcome": outcome.outcome, "reason": outcome.reason, "url": link.url, "attempt": link.attempt}
    if isinstance(outcome, Done):
        page = outcome.page
        fields |= {"status": page.status, "bytes": page.bytes_wire, "seconds": round(page.timings.total, 3)}
    logger.debug("visit", extra=fields)
