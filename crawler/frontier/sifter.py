"""Settles what waits on the bench and is wanted no more, since the settings have changed; the rest when it is claimed or dealt.

Thousands of links wait there, and each is judged by every expression: others have their turns in between.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

from crawler.core.model import Lease
from crawler.frontier.batch import Collector
from crawler.frontier.frontier import Frontier
from crawler.frontier.handed import Exclusion
from crawler.frontier.refill import Refill
from crawler.frontier.suspects import asking_host

TURN_S: Final = 0.01
"""How long it judges, about, until others have a turn."""


class Sifter:
    """``run`` it; it begins with the first host again whenever it is told to."""

    def __init__(self, frontier: Frontier, refill: Refill, batches: Collector, exclusion: Exclusion) -> None:
        self._frontier, self._refill, self._batches, self._exclusion = frontier, refill, batches, exclusion
        self._wanted = asyncio.Event()
        self._turn_until = 0.0

    def begin(self) -> None:
        """The settings have changed."""
        self._wanted.set()

    async def run(self) -> None:
        """For ever."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            await self.sift()

    async def sift(self) -> None:
        """Once, every host that is on the bench now; but a drain does not wait for it."""
        for host in self._frontier.bench.names():
            if self._exclusion.is_set and not (self._wanted.is_set() or self._frontier.draining):
                gone = await self._withdraw(host)
                self._frontier.bench.leave(host)
                if gone:
                    self._frontier.settle_unfetched(gone)
                    self._refill.sift(host)
        self._frontier.deal()

    async def _withdraw(self, host: str) -> list[tuple[Lease, tuple[str, str]]]:
        """The leases of a host that are wanted no more, with (outcome, reason) of each; they are on the bench no longer."""
        bench = self._frontier.bench
        await self._batches.room()
        await self._turn()
        refuses = self._exclusion.refuses
        if self._exclusion.blocks(host):
            gone = [lease for lease in bench.clear(host) if lease.key or asking_host(lease.link) != host]
            return [(lease, why) for lease in gone if (why := refuses(lease.link))]
        links = bench.links(host)  # they live as long as this list
        refused: dict[int, tuple[str, str]] = {}
        for link in links:
            if (why := refuses(link)) is not None:
                refused[id(link)] = why
            await self._turn()
        if refuses != self._exclusion.refuses:  # they have changed once more
            return []
        gone = bench.withdraw(host, lambda link: id(link) in refused)
        return [(lease, refused[id(lease.link)]) for lease in gone]

    async def _turn(self) -> None:
        if time.monotonic() >= self._turn_until:
            await asyncio.sleep(0)
            self._turn_until = time.monotonic() + TURN_S
