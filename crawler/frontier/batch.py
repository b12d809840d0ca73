"""The batch that collects, bounded in outcomes, links and bytes, and the one that is being committed.

Invariant: a batch is committed whole or, after a failed write, its admissions are put before the next batch's, in order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Final

from msgspec.structs import replace

from crawler.core.batch import Admitted, Batch, HostRest, Settled
from crawler.core.model import Done, Mark

OUTCOMES_MAX: Final = 1000
LINKS_MAX: Final = 10_000
LINKS_BYTES_MAX: Final = 4 << 20
"""Of the links and invalid lines admitted by themselves, of the links visited, and of robots records: the outlinks of an outcome
are bounded by its account."""
BODY_BYTES_MAX: Final = 32 << 20


class OpenBatch:
    """False while it holds nothing that needs a commit."""

    def __init__(self) -> None:
        self.settled: list[Settled] = []
        self.admitted: list[Admitted] = []
        self.hosts: dict[str, HostRest] = {}
        self.robots: dict[str, bytes] = {}
        self.denials: dict[str, tuple[str, str]] = {}
        self.retired: dict[str, Mark | None] = {}
        self.has_suspect = False
        """Of its visits, one was suspected of having ended the process before: no more than one."""
        self.is_last = False
        """It is committed even if it is empty: the files are closed with it."""
        self.links_count = 0
        self.links_bytes = 0
        self.body_bytes = 0
        self.releases: list[Callable[[], None]] = []
        """Of the memory that outcomes hold: called when the batch is committed, or has failed."""
        self.admitted_releases: list[Callable[[], None]] = []
        """Of the memory that admitted links hold: called when they are committed."""
        self._committed: list[asyncio.Future[None]] = []

    def __bool__(self) -> bool:
        return bool(self.is_last or self.settled or self.admitted or self.robots or self.hosts or self.retired)

    def is_full(self) -> bool:
        many = len(self.settled) >= OUTCOMES_MAX or self.links_count >= LINKS_MAX
        return many or self.links_bytes >= LINKS_BYTES_MAX or self.body_bytes >= BODY_BYTES_MAX

    def settle(self, settled: Settled, rest: HostRest | None) -> None:
        self.settled.append(settled)
        self.has_suspect |= settled.lease.suspect
        self.links_bytes += settled.lease.text_bytes
        if rest is not None:
            self.hosts[settled.lease.link.host] = rest
        if isinstance(settled.outcome, Done):
            block = settled.outcome.block
            self.links_count += len(settled.outcome.outlinks) + (len(block) if block is not None else 0)
            self.body_bytes += settled.outcome.page.body.size

    def admit(self, admitted: Admitted, committed: Callable[[], None] | None = None) -> None:
        self.admitted.append(admitted)
        if committed is not None:
            self.admitted_releases.append(committed)
        self.links_count += _count(admitted)
        self.links_bytes += _bytes(admitted)

    def learn(self, origin: str, record: bytes) -> None:
        """The robots record of an origin, to be kept."""
        self.robots[origin] = record
        self.links_bytes += len(record)

    def unlearn(self, origins: Collection[str]) -> None:
        """The visits that taught these are not made, after all: nothing is kept of them."""
        for origin in origins:
            self.robots.pop(origin, None)
            self.denials.pop(origin, None)

    def closed(self, now: float, wall: float) -> Batch:
        refused: dict[str, int] = {}
        for settled in self.settled:  # not before: those of a batch that fails are visited again
            if isinstance(settled.outcome, Done) and settled.outcome.refused and not settled.is_read_again:
                for rule, count in settled.outcome.refused.items():
                    refused[rule] = refused.get(rule, 0) + count
        return Batch(self.settled, self.admitted, self.hosts, refused, now, wall, self.robots, self.denials, self.retired)

    def seed_hosts(self) -> set[str]:
        """The hosts that a person named a URL of."""
        return {link.host for admitted in self.admitted for link in admitted.links if link.kind == "seed"}

    def robots_hosts(self) -> set[str]:
        """The hosts to which a visit for robots rules was redirected, and goes through their queues."""
        visits = [settled.outcome for settled in self.settled if settled.lease.link.kind == "robots"]
        onward = [link.host for outcome in visits if isinstance(outcome, Done) for link in outcome.outlinks]
        return {*onward, *(link.host for admitted in self.admitted for link in admitted.links if link.kind == "robots")}

    def prepend(self, failed: OpenBatch) -> None:
        """Take over what a failed batch still owes: admissions, robots records and retired files, but no visits."""
        self.admitted[:0] = failed.admitted
        self.links_count += sum(map(_count, failed.admitted))
        self.links_bytes += sum(map(_bytes, failed.admitted)) + sum(map(len, failed.robots.values()))
        self.hosts = failed.hosts | self.hosts
        self.is_last |= failed.is_last
        self.robots = failed.robots | self.robots
        self.denials = failed.denials | self.denials
        self.retired = failed.retired | self.retired
        self._committed += failed._committed
        self.admitted_releases += failed.admitted_releases

    def when_committed(self) -> asyncio.Future[None]:
        """A future that is done when this batch is committed."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._committed.append(future)
        return future

    def discard_bodies(self) -> None:
        """Free what the outcomes hold: they are in the archive now, or to be fetched again."""
        for release in self.releases:
            release()
        self.releases.clear()
        for settled in self.settled:
            if isinstance(settled.outcome, Done):
                settled.outcome.page.body.discard()

    def resolve(self) -> None:
        """This batch is committed: tell those who wait for that."""
        for release in self.admitted_releases:
            release()
        for future in self._committed:
            if not future.done():
                future.set_result(None)


class Collector:
    """The open batch, the one that closes, and when the next commit is due: at once if the open one is full or urgent."""

    def __init__(self) -> None:
        self.open = OpenBatch()
        self.closing: OpenBatch | None = None
        self._begun: list[float] = []  # when the oldest of the batch that closes, and of the open one, came
        self._dirty, self._full, self._room = asyncio.Event(), asyncio.Event(), asyncio.Event()

    def uncommitted_s(self, now: float) -> float:
        """How long the oldest outcome or link that is not committed has waited; 0.0 if there is none."""
        return now - self._begun[0] if self._begun else 0.0

    def given_up(self, host: str) -> tuple[str, str] | None:
        """(outcome, reason) if a host was given up in a batch that is not committed yet: the store does not know."""
        for batch in (self.open, self.closing):
            if batch is not None and (rest := batch.hosts.get(host)) is not None:
                return rest.down
        return None

    def revive(self, only: Collection[str] | None) -> None:
        """Hosts that were given up in a batch that is not committed yet, or these of them, are to be tried again."""
        for batch in (self.open, self.closing or self.open):
            for host, rest in batch.hosts.items():
                if rest.down and (only is None or host in only):
                    batch.hosts[host] = replace(rest, down=None, failures=0)

    def rest(self, host: str, rest: HostRest, now: float) -> None:
        """A host rests longer than its last visit had told."""
        self.open.hosts[host] = rest
        self.mark_dirty(now)

    def mark_dirty(self, now: float, urgent: bool = False) -> None:
        """The open batch holds something to be committed, within a moment if it is urgent."""
        if not self._dirty.is_set():
            self._begun.append(now)
            self._dirty.set()
        if urgent or self.open.is_full():
            self._full.set()

    def hurry(self) -> None:
        """Whatever there is to commit, do it soon."""
        self._full.set()

    async def room(self) -> None:
        """Until the open batch has room."""
        while self.open.is_full():
            self._room.clear()
            self._full.set()
            await self._room.wait()

    async def due(self, seconds: float) -> None:
        """Until there is something to commit, and then until it is full, urgent or so old."""
        await self._dirty.wait()
        try:
            async with asyncio.timeout(seconds):
                await self._full.wait()
        except TimeoutError:
            pass

    def close(self) -> OpenBatch:
        """The batch to commit; another one collects from now on."""
        batch, self.open = self.open, OpenBatch()
        self.closing = batch
        self._dirty.clear()
        self._full.clear()
        self._room.set()
        return batch

    def committed(self) -> None:
        """The batch that closed is committed."""
        del self._begun[:1]
        self.closing = None

    def undo(self, batch: OpenBatch) -> None:
        """The batch that closed has failed: what it still owes comes again with the next one."""
        self.open.prepend(batch)
        del self._begun[1:]
        self._dirty.set()
        self.closing = None

    def end(self) -> None:
        """The open batch is the last: it is committed even if it is empty."""
        self.open.is_last = True
        self._dirty.set()
        self._full.set()


def _count(admitted: Admitted) -> int:
    """One at least: a position alone takes room as well."""
    return max(1, len(admitted.links) + len(admitted.block or ()) + len(admitted.faults))


def _bytes(admitted: Admitted) -> int:
    block = admitted.block.size if admitted.block is not None else 0
    return admitted.text_bytes + block
