"""The batch that is collecting: bounded in outcomes, links and bytes, and what becomes of it when it closes.

The law: a batch is committed whole or, after a failed write, its admissions are put before the next batch's, in order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from crawler.core.model import Done, Link, Mark
from crawler.frontier.store import Admitted, Batch, HostRest, Settled

OUTCOMES_MAX: Final = 1000
LINKS_MAX: Final = 10_000
LINKS_BYTES_MAX: Final = 4 << 20
"""Of the URLs admitted by themselves: those of an outcome are bounded by its account."""
BODY_BYTES_MAX: Final = 32 << 20


class OpenBatch:
    """False while it holds nothing that needs a commit."""

    def __init__(self) -> None:
        self.settled: list[Settled] = []
        self.admitted: list[Admitted] = []
        self.hosts: dict[str, HostRest] = {}
        self.refused: dict[str, int] = {}
        self.robots: dict[str, bytes] = {}
        self.retired: dict[str, Mark | None] = {}
        self.is_last = False
        """It is committed even if it is empty: the files are closed with it."""
        self.links_count = 0
        self.links_bytes = 0
        self.body_bytes = 0
        self.releases: list[Callable[[], None]] = []
        self._committed: list[asyncio.Future[None]] = []

    def __bool__(self) -> bool:
        return bool(self.is_last or self.settled or self.admitted or self.robots or self.hosts or self.refused or self.retired)

    def is_full(self) -> bool:
        many = len(self.settled) >= OUTCOMES_MAX or self.links_count >= LINKS_MAX
        return many or self.links_bytes >= LINKS_BYTES_MAX or self.body_bytes >= BODY_BYTES_MAX

    def settle(self, settled: Settled, rest: HostRest | None) -> None:
        self.settled.append(settled)
        if rest is not None:
            self.hosts[settled.lease.link.host] = rest
        if isinstance(settled.outcome, Done):
            self.links_count += len(settled.outcome.outlinks)
            self.body_bytes += settled.outcome.page.body.size
            self.refuse(settled.outcome.refused or {})

    def admit(self, admitted: Admitted) -> None:
        self.admitted.append(admitted)
        self.links_count += _count(admitted)
        self.links_bytes += _bytes(admitted)

    def refuse(self, refused: Mapping[str, int]) -> None:
        for rule, count in refused.items():
            self.refused[rule] = self.refused.get(rule, 0) + count

    def links(self) -> Iterator[Link]:
        """All links, in the order of ``Prepared.fresh``."""
        for settled in self.settled:
            if isinstance(settled.outcome, Done):
                yield from settled.outcome.outlinks
        for admitted in self.admitted:
            yield from admitted.links

    def closed(self, now: float, wall: float) -> Batch:
        return Batch(self.settled, self.admitted, self.hosts, self.refused, now, wall, self.robots, self.retired)

    def prepend(self, failed: OpenBatch) -> None:
        """Take over what a failed batch still owes: admissions, counts, robots records and retired files, but no visits."""
        self.admitted[:0] = failed.admitted
        self.links_count += sum(map(_count, failed.admitted))
        self.links_bytes += sum(map(_bytes, failed.admitted))
        self.hosts = failed.hosts | self.hosts
        self.is_last |= failed.is_last
        self.refuse(failed.refused)
        self.robots = failed.robots | self.robots
        self.retired = failed.retired | self.retired
        self._committed += failed._committed

    def committed(self) -> asyncio.Future[None]:
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
        for future in self._committed:
            if not future.done():
                future.set_result(None)


def _count(admitted: Admitted) -> int:
    """One at least: a position alone takes room as well."""
    return max(1, len(admitted.links) + len(admitted.faults))


def _bytes(admitted: Admitted) -> int:
    return sum(len(link.url) + len(link.extra or "") for link in admitted.links) + sum(map(len, admitted.extras.values()))
