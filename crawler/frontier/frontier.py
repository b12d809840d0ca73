"""What decides the next visit: leases are dealt to workers, and visits that ended are settled into the open batch.

    take ◀─ deal ◀─ bench ◀─ refill …… settle ─▶ open batch ─▶ …… commit

Invariants. A lease is on the bench, out, or in a batch, never in two of them. It is dealt to one worker, only if its host
is due, its origin's robots rules are at hand, and no pause or limit forbids it. Dealing and settling decide at once; they
never wait for the disk. Commits and trips to the store are the pump's (pump.py).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final

from crawler.core.batch import Admitted, Settled
from crawler.core.model import (
    NO_FAILURE,
    NO_RESPONSE,
    NOT_PAGES,
    PAGES,
    Done,
    Dropped,
    Lease,
    Link,
    Mark,
    Outcome,
    Retry,
    Unvisited,
)
from crawler.core.snapshot import Limiter, Pause, WaitsFor
from crawler.core.urls import host_key
from crawler.frontier.batch import Collector, OpenBatch
from crawler.frontier.handed import Handed
from crawler.frontier.in_flight import InFlight
from crawler.frontier.refill import Refill
from crawler.frontier.store import Counts
from crawler.frontier.suspects import asking_host, suspect_key
from crawler.frontier.workbench import Workbench

DEAL_SLACK_S: Final = 0.0005
"""A timer that rang a moment early would find nothing due."""
VISITS_LOW: Final = 64
"""Under --max-pages: with so many left, more are asked for."""

PAUSED_BY: Final[dict[Pause, WaitsFor]] = {
    Pause.DATABASE: "database",
    Pause.DISK: "disk",
    Pause.DISK_LOW: "disk",
    Pause.MEMORY: "memory",
    Pause.OFFLINE: "network",
    Pause.USER: "operator",
    Pause.EXCHANGE: "exchange",
}
"""The gravest first."""
LIMITED_BY: Final[dict[Limiter, WaitsFor]] = {
    Limiter.MEMORY: "memory",
    Limiter.DESCRIPTORS: "descriptors",
    Limiter.SCARCE: "descriptors",
}

logger: Final = logging.getLogger(__name__)


class Frontier:
    """The workers' side. ``visits_max``: no more visits than these (--max-pages), None: no limit. ``on_unfetched`` is told
    the host of each page that is settled without a visit."""

    def __init__(
        self,
        bench: Workbench,
        refill: Refill,
        batches: Collector,
        handed: Handed,
        clock: Callable[[], float],
        *,
        in_flight: InFlight | None,
        visits_max: int | None,
        on_unfetched: Callable[[str], None],
    ) -> None:
        self.bench = bench
        self._refill, self._batches, self._clock, self._in_flight = refill, batches, clock, in_flight
        self._politeness, self._robots, self._exclusion, self._links_room = handed
        self._visits_left = visits_max
        self.visits_wanted: Callable[[], None] = lambda: None
        """Called where hardly more visits are allowed than are out."""
        self.deals: Callable[[str], bool] = lambda host: True
        """Whether visits of a host may begin here: it may be another's by now, though it is still on the bench."""
        self._on_unfetched = on_unfetched
        self._out: dict[int, tuple[Lease, int, float, float]] = {}  # id(lease) → lease, its slot in in_flight, dealt at, pause
        self._denied: set[str] = set()
        """Hosts whose robots rules could not be fetched: what waits for those is being settled."""
        self._waiters: deque[asyncio.Future[Lease | None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._deals_one = False
        self._limits: dict[Limiter, int] = {}
        self._limit: Limiter | None = None
        """The strictest of ``_limits``."""
        self._held = 0
        self.pauses: set[Pause] = set()
        self._paused_at: dict[Pause, float] = {}
        self.seeding = True
        """Seeds are still to come."""
        self.draining = False
        self.finished = False
        self.counts = Counts()
        """As of the last commit."""
        self.waits_for: WaitsFor = "frontier"
        """Why nothing was dealt when a worker last asked in vain."""

    def __repr__(self) -> str:
        state = "draining" if self.draining else "finished" if self.finished else "open"
        return f"<Frontier {self.bench.waiting} benched, {len(self._out)} out, {state}>"

    # -- dealing --------------------------------------------------------------------------------------------------

    async def take(self) -> Lease | None:
        """The right to visit one link, as soon as one may be visited; None when there will be no more."""
        if not self._waiters and not self.draining and (lease := self._next(self._clock())) is not None:
            return lease
        waiter: asyncio.Future[Lease | None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self.deal()
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and (unused := waiter.result()) is not None:
                self._leave(unused)
                self.bench.give_back(unused)
            raise

    def deal(self) -> None:
        """Give out whatever may be given now, and wake again when more may be."""
        if not self._waiters and self._timer is None:
            return
        now = self._clock()
        while self._waiters:
            if self._waiters[0].done():
                self._waiters.popleft()
            elif self.draining or self.finished:
                self._waiters.popleft().set_result(None)
            elif (lease := self._next(now)) is not None:
                self._waiters.popleft().set_result(lease)
            else:
                break
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiters and not self.pauses and (due := self.bench.next_due()) is not None and due > now:
            self._timer = asyncio.get_running_loop().call_later(due - now + DEAL_SLACK_S, self.deal)

    def _next(self, now: float) -> Lease | None:
        """The next lease, or None; then ``waits_for`` says which of five reasons it is."""
        # 1. somebody has paused it; offline, one lease may be dealt to see whether anybody responds
        if self.pauses and not (self._deals_one and self.pauses == {Pause.OFFLINE}):
            return self._idle(self.paused_by)
        # 2. one batch is being committed and the next is full
        if self._batches.closing is not None and self._batches.open.is_full():
            return self._idle("disk")
        # 3. as many visits are out as memory or descriptors allow; those held have ended
        if self._limit is not None and len(self._out) - self._held >= self._limits[self._limit]:
            return self._idle(LIMITED_BY[self._limit])
        # 4. --max-pages allows no more than are out
        if self._visits_left is not None and (spare := self._visits_left - len(self._out)) <= VISITS_LOW:
            self.visits_wanted()
            if spare <= 0:
                return self._idle("frontier")
        # 5. no host is due; one that is, but whose robots rules must be fetched first, is held and they are sent for
        while (lease := self.bench.take(now)) is not None:
            if self._robots is None or lease.link.kind == "robots" or self._robots.ready(lease.link):
                break
            self.bench.give_back(lease)
            self.bench.hold_for_robots(lease.link.host, True)
            self._refill.want_robots(lease.link)
        if lease is None:
            self._refill.rules_missed()
            waits = self.bench.waiting or self.counts.waiting + self.counts.retrying > len(self._out)  # those out are counted
            return self._idle("politeness" if waits else "frontier")
        self._deals_one = False
        slot = self._in_flight.enter(suspect_key(lease)) if self._in_flight else -1
        self._out[id(lease)] = (lease, slot, now, self._politeness.pause(lease.link))
        self._refill.dealt(lease)
        return lease

    def _idle(self, waits_for: WaitsFor | None) -> Lease | None:
        self.waits_for = waits_for or self.waits_for
        return None

    def _leave(self, lease: Lease) -> tuple[float, float]:  # when it was dealt, and the pause after it
        _, slot, dealt_at, pause = self._out.pop(id(lease))
        if slot >= 0 and self._in_flight is not None:
            self._in_flight.leave(slot)
        return dealt_at, pause

    def blame(self, lease: Lease) -> None:
        """The visit of this lease, or its settlement, is about to end the process: the next one is to suspect it."""
        if self._in_flight is None:
            return
        if id(lease) in self._out:
            self._in_flight.blame(self._out[id(lease)][1])
        else:
            self._in_flight.accuse((suspect_key(lease),))

    @property
    def paused_by(self) -> WaitsFor | None:
        """What the gravest of the pauses waits for."""
        return next((PAUSED_BY[pause] for pause in PAUSED_BY if pause in self.pauses), None) if self.pauses else None

    # -- who is out, and who may be -------------------------------------------------------------------------------

    @property
    def out_count(self) -> int:
        """Visits out."""
        return len(self._out)

    @property
    def visiting_count(self) -> int:
        """Visits out that have not ended: without those held until it is known whose fault they were."""
        return len(self._out) - self._held

    @property
    def idle_count(self) -> int:
        """Workers that wait for a lease."""
        return len(self._waiters)

    @property
    def room(self) -> int:
        """How many more visits could begin now."""
        below = self.idle_count if self._limit is None else self._limits[self._limit] - self.visiting_count
        return max(0, min(self.idle_count, below))

    def is_out(self, url: str) -> bool:
        """Whether a canonical URL is being visited."""
        return any(lease.link.url == url for lease in self.leases_out())

    def leases_out(self) -> list[Lease]:
        return [lease for lease, *_ in self._out.values()]

    def leases_held(self) -> list[Lease]:
        """Every lease that is out or on the bench."""
        return [*self.leases_out(), *self.bench.leases()]

    def pause(self, why: Pause) -> None:
        """Deal nothing until ``resume`` with the same reason."""
        if why not in self.pauses:
            self.pauses.add(why)
            self._paused_at[why] = self._clock()
            logger.info("paused", extra={"pause": str(why)})

    def resume(self, why: Pause) -> None:
        if why in self.pauses:
            self.pauses.discard(why)
            seconds = round(self._clock() - self._paused_at.pop(why), 1)
            logger.info("resumed", extra={"pause": str(why), "seconds": seconds})
        self.deal()

    def limit(self, by: Limiter, visits_max: int | None) -> None:
        """At most so many visits out at a time; None: as many as there are workers."""
        if visits_max is None:
            self._limits.pop(by, None)
        else:
            self._limits[by] = visits_max
        self._limit = min(self._limits, key=self._limits.__getitem__, default=None)
        self.bench.limit(self._limits[self._limit] if self._limit is not None else None)

    def hold(self, visits: int) -> None:
        """So many of the visits out have ended, and are held until it is known whose fault their end was."""
        self._held = visits

    def deal_one(self) -> None:
        """Offline: deal one lease all the same, to see whether anybody responds."""
        self._deals_one = True
        self.deal()

    def drain(self) -> None:
        """Deal nothing more, for good."""
        self.draining = True
        self.deal()
        self._batches.hurry()

    def finish(self) -> None:
        """Nothing waits, is out or can still come: workers that ask are told so."""
        self.finished = True
        self.deal()

    # -- settling -------------------------------------------------------------------------------------------------

    def settle(self, lease: Lease, outcome: Outcome, committed: Callable[[], None] | None = None) -> None:
        """Record the outcome of a visit. Returns at once; durable after the next commit. ``committed`` is called when it is,
        or at once where the lease is given back: what it holds in memory is free then."""
        batch = self._batches.open
        dealt_at, pause = self._leave(lease)
        if self._visits_left is not None and isinstance(outcome, Done) and lease.link.kind in PAGES:
            self._visits_left -= 1
        host, now = lease.link.host, self._clock()
        before = self.bench.state(host)
        rest = self._politeness.after(lease.link, outcome, before, now, pause)
        self.bench.release(lease, rest, now - dealt_at, responded=outcome.sign not in NO_RESPONSE)
        if isinstance(outcome, Unvisited):
            if committed is not None:
                committed()  # nothing of it waits for a commit, and perhaps there is none before somebody needs that memory
            self.give_back(lease)
            self.bench.leave(host)
            self.deal()
            return
        if committed is not None:
            batch.releases.append(committed)
        if isinstance(outcome, Retry) and lease.link.kind == "robots":
            # it is its host's next link again: whoever waits for it holds a place on the bench, and most stand in no queue
            batch.hosts[host] = rest
            self.bench.put_robots_first(Lease(lease.link.retried(), lease.key, suspect=lease.suspect))
        else:
            # its host rests as long as it rests
            retry_at = now + self._politeness.retry_in(lease.link, outcome) if isinstance(outcome, Retry) else 0.0
            batch.settle(Settled(lease, outcome, retry_at), rest)
            if lease.suspect:
                self.bench.hold_suspects(True)
        if rest.down:
            if before.down is None:
                logger.info("host given up", extra={"host": host, "outcome": rest.down[0], "failures": rest.failures})
            self._give_up(host, rest.down)
        is_last = not self._out and not self.bench.waiting  # nothing else can be done until this is true
        backs_off = rest.busy + rest.failures > 0 or getattr(outcome, "retry_after_s", 0.0) > 0.0
        self._batches.mark_dirty(now, urgent=is_last or lease.suspect or backs_off)
        self.deal()

    def _give_up(self, host: str, down: tuple[str, str]) -> None:
        """What waits on the bench for this host is settled unfetched; a robots link asked for by another host is dropped."""
        self.settle_unfetched([(lease, down) for lease in self.bench.clear(host) if lease.key or asking_host(lease.link) != host])
        self._refill.given_up(host)

    def give_back(self, lease: Lease) -> None:
        """It was not visited. A robots link stands in no queue: its host asks for it again by itself."""
        if lease.key:
            self._refill.give_back(lease)
        else:
            self.bench.hold_for_robots(asking_host(lease.link), False)

    def settle_unfetched(self, down: Sequence[tuple[Lease, tuple[str, str]]]) -> None:
        """Links of hosts given up, links whose robots rules cannot be fetched, and links that killed the process too often:
        (lease, (outcome, reason)) of each."""
        for lease, (outcome, reason) in down:
            dropped = Dropped(outcome, reason)
            if lease.link.kind == "robots" and self._robots is not None:
                self.rules_learned(self._robots.learn(lease.link, dropped))
            if lease.key:
                self._batches.open.settle(Settled(lease, dropped), None)
                if lease.link.kind not in NOT_PAGES and outcome not in NO_FAILURE:
                    self._on_unfetched(lease.link.host)
            if reason == "host_down" or lease.link.host in self._denied:
                self._refill.given_up(lease.link.host)
        if down:
            self._batches.mark_dirty(self._clock())

    def refusing(self) -> Callable[[Link], tuple[str, str] | None] | None:
        """(outcome, reason) of a link that is wanted no more; None where nothing is excluded."""
        return self._exclusion.refuses if self._exclusion.is_set else None

    def undone(self, visits: Iterable[Settled], batch: OpenBatch) -> None:
        """These visits of a batch were not made, after all. The store gives leases again, robots links are asked for again."""
        for settled in visits:
            if self._visits_left is not None and isinstance(settled.outcome, Done) and settled.lease.link.kind in PAGES:
                self._visits_left += 1
            if not settled.lease.key:
                self.bench.hold_for_robots(asking_host(settled.lease.link), False)
            if settled.lease.link.kind == "robots" and self._robots is not None:
                batch.unlearn(self._robots.unlearn(settled.lease.link))

    @property
    def is_used_up(self) -> bool:
        """Whether as many pages are fetched as may be under --max-pages."""
        return self._visits_left is not None and self._visits_left <= 0

    @property
    def visits_left(self) -> int:
        """Pages that may still be visited under --max-pages; 0 where there is no such limit."""
        return self._visits_left or 0

    def allow(self, visits: int) -> None:
        """So many visits more than before."""
        if self._visits_left is not None:
            self._visits_left += visits
            self.deal()

    def give_up_visits(self) -> int:
        """Allow only those that are out; how many fewer that is."""
        if spare := max(0, self.visits_left - len(self._out)):
            self.allow(-spare)
        return spare

    def rest(self, host: str, due: float) -> None:
        """No visit of a host on the bench before ``due``. The store is told: where the bench is full, it may wait there."""
        if self.bench.rest(host, due):
            self._batches.rest(host, self.bench.state(host), self._clock())

    # -- robots rules ---------------------------------------------------------------------------------------------

    def put_robots(self, link: Link) -> bool:
        """Where a robots.txt was redirected to, as that host's next link once the redirect is settled. False if the host is
        not on the bench, or not dealt from: then it must go through its queue."""
        if link.host not in self.bench or not self.deals(link.host):
            return False
        self.bench.put_robots_first(Lease(link, b""))
        return True

    def rules_learned(self, learned: Sequence[tuple[str, bytes | None]]) -> None:
        """(origin, record) of each: kept with the next batch; the hosts that waited for them may deal again. None: the rules
        could not be fetched. What waits for them is settled now, however long its host rests."""
        for of, record in learned:
            host = host_key(of + "/")
            self.bench.hold_for_robots(host, False)
            if record is not None:
                self.rest(host, self._clock() + self._politeness.pause(Link(of + "/", host)))  # it was visited for them
                self._batches.open.learn(of, record)
                self._batches.mark_dirty(self._clock())
            else:
                if self._robots is not None and (failure := self._robots.failed(of)) is not None:
                    self._batches.open.denials[of] = failure
                self._denied.add(host)
                denied = self.bench.withdraw(host, self.denial)
                self.settle_unfetched([(lease, why) for lease in denied if (why := self.denial(lease.link))])
                self._refill.given_up(host)
            self.deal()

    def denial(self, link: Link) -> tuple[str, str] | None:
        """(outcome, reason) of a link whose robots rules could not be fetched, at a host of which this has just been learned."""
        if self._robots is None or link.host not in self._denied or link.kind == "robots":
            return None
        return self._robots.failure(link)

    def denied_while(self, emptying: Collection[str]) -> None:
        """Of the hosts whose robots rules could not be fetched, only these may still have links in the store."""
        self._denied.intersection_update(emptying)

    # -- what comes in otherwise ----------------------------------------------------------------------------------

    async def admit(self, admitted: Admitted) -> asyncio.Future[None]:
        """Links into the next batch, as soon as it has room. The future is done when they are committed."""
        held = await self._links_room.links(admitted)
        try:
            await self._batches.room()
        except BaseException:
            held.release()
            raise
        self._batches.open.admit(admitted, held.release)
        self._batches.mark_dirty(self._clock())
        return self._batches.open.when_committed()

    async def receive(
        self,
        admitted: Sequence[Admitted],
        robots: Sequence[tuple[str, bytes]],
        denials: Sequence[tuple[str, tuple[str, str]]],
    ) -> asyncio.Future[None]:
        """What another part has sent, all of it into one batch: links, and of origins whose hosts wait here (origin, robots
        record), or (origin, (outcome, reason)) where the rules could not be fetched. The future is done when it is committed."""
        await self._batches.room()
        for one in admitted:
            self._batches.open.admit(one)
        self._batches.mark_dirty(self._clock())
        committed = self._batches.open.when_committed()
        if self._robots is not None:
            for of, record in robots:
                self._robots.load(of, record)
            for of, failure in denials:
                self._robots.deny(of, failure)
            self.rules_learned([*robots, *((of, None) for of, _ in denials)])
        return committed

    def retire(self, marks: Mapping[str, Mark | None]) -> asyncio.Future[None]:
        """Files that are no longer kept (None: no mark any more). The future is done when that is committed."""
        self._batches.open.retired.update(marks)
        self._batches.mark_dirty(self._clock(), urgent=True)  # somebody waits for it
        return self._batches.open.when_committed()

    def seeds_ended(self) -> None:
        """No more seeds: the crawl may finish."""
        self.seeding = False
        self._batches.mark_dirty(self._clock(), urgent=True)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
