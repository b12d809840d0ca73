"""What becomes of a visit that has ended: settled into the open batch, given back, or its whole host given up.

The law: settling never waits. A lease that was out is afterwards in the batch, back on its way to the bench, or (a robots
link to be asked for again) the next of its host, and the host rests from that moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from crawler.core.model import Dropped, Lease, Link, Mark, Outcome, Retry, Unvisited
from crawler.core.urls import host_key
from crawler.frontier.batch import OpenBatch
from crawler.frontier.dealer import Dealer, Desk
from crawler.frontier.in_flight import Trace
from crawler.frontier.refill import Refill
from crawler.frontier.store import Admitted, HostRest, Settled
from crawler.frontier.workbench import Workbench
from crawler.policy.politeness import Rests


class Settler(Dealer):
    """See the module. ``seeding``: seeds are still to come."""

    def __init__(
        self,
        bench: Workbench,
        refill: Refill,
        rests: Rests,
        clock: Callable[[], float],
        trace: Trace | None,
        desk: Desk | None,
    ) -> None:
        super().__init__(bench, refill, clock, trace, desk)
        self.rests = rests
        self._open = OpenBatch()
        self._begun: list[float] = []  # when the oldest of the batch that closes, and of the open one, came
        self._dirty, self._full, self._room = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.seeding = True
        self.unfetched: Callable[[str], None] = lambda host: None
        """Told of the host of each link that is settled without a visit."""

    def settle(self, lease: Lease, outcome: Outcome, committed: Callable[[], None] | None = None) -> None:
        """A visit ended. Never waits; it becomes true with the next commit. ``committed`` is called when it is true, or
        was given back: what it holds in memory is free then."""
        if committed is not None:
            self._open.releases.append(committed)
        self._leave(lease)
        host, now = lease.link.host, self._clock()
        due, failures, busy = self._bench.state(host)
        if isinstance(outcome, Unvisited):
            self._bench.release(lease, max(due, now + self.rests.delay(host)))
            self._give_back(lease)
            self.deal()
            return
        rest = self.rests.after(outcome, now, due, failures, busy)
        self._bench.remember(host, rest.failures, rest.busy)
        self._bench.release(lease, rest.due)
        if isinstance(outcome, Retry) and not lease.key:
            self._open.hosts[host] = rest
            link = lease.link
            self._bench.put_first(Lease(link.again(), b""))
        else:
            retry_at = now + outcome.after if isinstance(outcome, Retry) else 0.0  # its host rests as long as it rests
            self._open.settle(Settled(lease, outcome, retry_at), rest)
        if rest.down:
            self._give_up(host, rest)
        nothing_else = not self._out and not self._bench.waiting  # to be done until this is true
        self._mark_dirty(urgent=nothing_else or rest.busy + rest.failures > 0)
        self.deal()

    def _give_up(self, host: str, rest: HostRest) -> None:
        assert rest.down is not None
        leases = self._bench.clear(host)
        self._settle_down([(lease, rest.down) for lease in leases if lease.key or asking_host(lease.link) != host])
        self._refill.given_up(host)

    def _give_back(self, lease: Lease) -> None:
        """It was not visited. A robots link stands in no queue: its host asks for it again by itself."""
        if lease.key:
            self._refill.give_back(lease)
        else:
            self._bench.gate(asking_host(lease.link), False)

    def put_robots(self, link: Link) -> bool:
        """Where a robots.txt was redirected to, as that host's next link once the redirect is settled. False if the host is
        not on the bench: then it must go through its queue."""
        if link.host not in self._bench:
            return False
        self._bench.put_first(Lease(link, b""))
        return True

    def rules_learned(self, learned: Sequence[tuple[str, bytes]]) -> None:
        """(origin, record) of each: kept with the next batch; the hosts that waited for them may deal again."""
        for of, record in learned:
            self._open.robots[of] = record
            self._mark_dirty()
            self._bench.gate(host_key(of + "/"), False)
            self.deal()

    async def admit(self, admitted: Admitted) -> asyncio.Future[None]:
        """Links into the next batch, as soon as it has room. The future is done when they are committed."""
        while self._open.is_full():
            self._room.clear()
            self._full.set()
            await self._room.wait()
        self._open.admit(admitted)
        self._mark_dirty()
        return self._open.committed()

    def refuse(self, refused: Mapping[str, int]) -> None:
        """Count links that a rule left out."""
        self._open.refuse(refused)

    def retire(self, marks: Mapping[str, Mark | None]) -> asyncio.Future[None]:
        """Files that are no longer kept (None: no mark any more). The future is done when that is committed."""
        self._open.retired.update(marks)
        self._mark_dirty()
        return self._open.committed()

    def seeds_ended(self) -> None:
        """No more seeds: the crawl may finish."""
        self.seeding = False
        self._mark_dirty(urgent=True)

    def _mark_dirty(self, urgent: bool = False) -> None:
        if not self._dirty.is_set():
            self._begun.append(self._clock())
            self._dirty.set()
        if urgent or self._open.is_full():
            self._full.set()

    def _settle_down(self, down: Sequence[tuple[Lease, tuple[str, str]]]) -> None:
        """Links of hosts given up, and links that killed the process too often: settled unfetched."""
        for lease, (outcome, reason) in down:
            dropped = Dropped(outcome, reason)
            if lease.link.kind == "robots" and self._desk is not None:
                self.rules_learned(self._desk.learn(lease.link, dropped))
            if lease.key:
                self._open.settle(Settled(lease, dropped), None)
                self.unfetched(lease.link.host)
            if reason == "host_down":
                self._refill.given_up(lease.link.host)
        if down:
            self._mark_dirty()


def asking_host(link: Link) -> str:
    """The host that waits for what a robots link brings: not always the one that is visited."""
    return host_key(f"{link.anchor}/") if link.anchor else link.host
