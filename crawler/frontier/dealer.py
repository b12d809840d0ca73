"""Who gets which lease, and when: the workers' side of the frontier.

The law: a lease is dealt to one worker, only if its host is due, its origin's robots rules are at hand, and no pause or
ceiling forbids it. Dealing decides; it never waits for the disk.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from msgspec import Struct

from crawler.core.model import Lease, Link, Outcome
from crawler.frontier.in_flight import Trace
from crawler.frontier.refill import Refill
from crawler.frontier.workbench import Workbench


class Desk(Struct, frozen=True):
    """What the pump asks about robots.txt; bound to crawler.policy.robots_rules by ``crawler.crawl.wiring.open_crawl``."""

    ready: Callable[[Link], bool]
    """Whether the rules of a link's origin are at hand and fresh."""
    link: Callable[[Link], Link]
    """The robots link of a link's origin."""
    load: Callable[[str, bytes], bool]
    """Take in the record the store kept for an origin; whether that made it ready."""
    learn: Callable[[Link, Outcome], Sequence[tuple[str, bytes]]]
    """What the end of a robots link taught: (origin, record to keep) of each."""
    delay: Callable[[Link], float]
    """The Crawl-delay of a link's origin, seconds."""


class Dealer:
    """See the module. What it deals comes back through ``_leave``."""

    def __init__(
        self, bench: Workbench, refill: Refill, clock: Callable[[], float], trace: Trace | None, desk: Desk | None
    ) -> None:
        self._bench, self._refill, self._clock = bench, refill, clock
        self._trace, self._desk = trace, desk
        self._out: dict[int, tuple[Lease, int]] = {}  # id(lease) → lease, its slot in the trace
        self._waiters: deque[asyncio.Future[Lease | None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._one = False
        self.pauses: set[str] = set()
        self.ceilings: dict[str, int] = {}
        """At most so many visits out, by what sets the limit: memory, descriptors."""
        self.held = 0
        """Of the visits out, those that have ended and are held until it is known whose fault it was."""
        self.visits_left: int | None = None
        """At most so many more visits (--max-pages)."""
        self.draining = False
        self.finished = False

    @property
    def bench(self) -> Workbench:
        return self._bench

    @property
    def out_count(self) -> int:
        """Visits out."""
        return len(self._out)

    def is_out(self, url: str) -> bool:
        """Whether a canonical URL is being visited."""
        return any(lease.link.url == url for lease, _ in self._out.values())

    @property
    def idle_count(self) -> int:
        """Workers that wait for a lease."""
        return len(self._waiters)

    def _is_stuck(self) -> bool:
        """Whether what was visited must be written before more is dealt."""
        return False

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
                self._bench.give_back(unused)
            raise

    def deal(self) -> None:
        """Give out whatever may be given now, and wake again when more may be."""
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
        if self._waiters and not self.pauses and (due := self._bench.next_due()) is not None and due > now:
            self._timer = asyncio.get_running_loop().call_later(due - now + 0.0005, self.deal)

    def _next(self, now: float) -> Lease | None:
        if self._is_stuck() or (self.pauses and not self._deals_one()):
            return None
        if self.ceilings and len(self._out) - self.held >= min(self.ceilings.values()):
            return None
        if self.visits_left is not None and len(self._out) >= self.visits_left:
            return None
        while (lease := self._bench.take(now)) is not None:
            host = lease.link.host
            if self._desk is None or lease.link.kind == "robots" or self._desk.ready(lease.link):
                break
            self._bench.give_back(lease)
            self._bench.gate(host, True)
            self._refill.unruly(lease.link)
        if lease is None:
            self._refill.rules_missed()
            return None
        self._one = False
        self._out[id(lease)] = (lease, self._trace.enter(lease.key) if self._trace and lease.key else -1)
        self._refill.dealt(host)
        return lease

    @property
    def room(self) -> int:
        """How many more visits could begin now."""
        below = min(self.ceilings.values()) - (len(self._out) - self.held) if self.ceilings else self.idle_count
        return max(0, min(self.idle_count, below))

    def _leave(self, lease: Lease) -> None:
        slot = self._out.pop(id(lease))[1]
        if slot >= 0 and self._trace is not None:
            self._trace.leave(slot)

    def pause(self, why: str) -> None:
        """Deal nothing until ``resume`` with the same word: user, disk, memory, offline."""
        self.pauses.add(why)

    def resume(self, why: str) -> None:
        self.pauses.discard(why)
        self.deal()

    def deal_one(self) -> None:
        """Offline: deal one lease all the same, to see whether anybody answers."""
        self._one = True
        self.deal()

    def _deals_one(self) -> bool:
        return self._one and self.pauses == {"offline"}

    def drain(self) -> None:
        """Deal nothing more, for good."""
        self.draining = True
        self.deal()
