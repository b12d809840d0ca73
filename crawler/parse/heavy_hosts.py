"""Hosts whose documents take long to read, or end their process: their next ones wait for a turn, so that those of all others are
read meanwhile. Hosts count by their domain: names below it cost nothing.

Invariant: once a domain is known to be heavy, at most one document of such in each process is being read; and while others have
any to be read, theirs leave one process free (if there is more than one), and take no more than a part of the time.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Final

from crawler.core.domains import domain_of

HEAVY_S: Final = 0.1
"""A domain is heavy once a document of it took longer, and as long as its documents do on average: each counts as much as all
those before it."""
OTHERS_SHARE: Final = 4
"""So many times as long as a heavy document took, the others have the processes for themselves, as long as they come."""
OTHERS_EXPECTED_S: Final = 10.0
"""So long after one of the others' was read, a process is kept free for the next."""
DOMAINS_MAX: Final = 1024

NO_TURN: Final[AbstractAsyncContextManager[None]] = nullcontext()
"""Of documents that need not wait for one."""


class HeavyHosts:
    """``processes``: how many of them read documents."""

    def __init__(self, processes: int) -> None:
        self._processes = max(1, processes)
        self._domains: OrderedDict[str, float] = OrderedDict()  # heavy ones → seconds, on average
        self._order = asyncio.Lock()  # only the first of those that wait asks whether it may begin
        self._ended = asyncio.Event()
        self._turns = 0
        """That are held."""
        self._others_at = -math.inf
        """When the last document of others was read."""
        self._over_at = 0.0
        """When the last heavy one was over."""
        self._gap_s = self._free_at = 0.0
        """The others have the processes for themselves until none of theirs was read for so long, but no longer than this."""
        self.waiting = 0

    def turn(self, host: str) -> AbstractAsyncContextManager[None]:
        """What to hold while a document of this host is read."""
        return self._turn() if self._domains and domain_of(host) in self._domains else NO_TURN

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        self.waiting += 1
        try:
            async with self._order:
                await self._may_begin()
                self._turns += 1
        finally:
            self.waiting -= 1
        try:
            yield
        finally:
            self._turns -= 1
            self._ended.set()

    async def _may_begin(self) -> None:
        """Returns when there is a process for a heavy document, and the others have had their time."""
        while True:
            if self._turns >= self._turns_max():
                self._ended.clear()
                await self._ended.wait()
            elif (left_s := min(self._free_at, max(self._over_at, self._others_at) + self._gap_s) - _now()) > 0:
                await asyncio.sleep(left_s)
            else:
                return

    def _turns_max(self) -> int:
        """One process is kept free while others are expected."""
        are_expected = _now() - self._others_at < OTHERS_EXPECTED_S
        return max(1, self._processes - are_expected)

    def took(self, host: str, seconds: float) -> None:
        """A document of this host was in the hands of a process for so long, all tries together."""
        if seconds <= HEAVY_S and not self._domains:
            return
        domain = domain_of(host)
        before = self._domains.pop(domain, None)
        average = seconds if before is None else (before + seconds) / 2
        if average > HEAVY_S:
            self._domains[domain] = average
            if len(self._domains) > DOMAINS_MAX:
                self._domains.popitem(last=False)
        if seconds > HEAVY_S:
            self._heavy_read(seconds / self._processes)
        elif before is None:
            self._others_at = _now()

    def _heavy_read(self, share_s: float) -> None:
        """A heavy document is over. If one of others was read since the last such, they have a time of their own now."""
        now = _now()
        if self._others_at >= self._over_at:
            self._gap_s, self._free_at = share_s, max(self._free_at, now + OTHERS_SHARE * share_s)
        self._over_at = now


def _now() -> float:
    return asyncio.get_running_loop().time()
