"""Whose documents take long to read, or end their process: the next ones of these wait for a turn, so that everybody else's are
read meanwhile. Hosts count by their domain: names below it cost nothing.

Invariant: once a domain is known to be heavy, at most one document of such in each process but one (if there is but one, in that)
is being read, and while others have any to be read, theirs take no more than a part of the time.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Final

from crawler.core.domains import domain_of

HEAVY_S: Final = 0.1
"""A domain is heavy once a document of it took longer, and as long as its documents do on average: each counts as much as all
those before it."""
OTHERS_SHARE: Final = 4
"""So many times as long as a heavy document took, the others have the processes for themselves, if any came meanwhile."""
DOMAINS_MAX: Final = 1024

NO_TURN: Final[AbstractAsyncContextManager[None]] = nullcontext()
"""Of documents that need not wait for one."""


class HeavyHosts:
    """``processes``: how many of them read documents."""

    def __init__(self, processes: int) -> None:
        self._processes = max(1, processes)
        self._slots = asyncio.Semaphore(max(1, processes - 1))
        self._domains: OrderedDict[str, float] = OrderedDict()  # heavy ones → seconds, on average
        self._next_at = 0.0
        self._others = 0
        """Documents of others since the last heavy one was over."""
        self.waiting = 0

    def turn(self, host: str) -> AbstractAsyncContextManager[None]:
        """What to hold while a document of this host is read."""
        if self._domains and domain_of(host) in self._domains:
            return self._turn()
        self._others += 1
        return NO_TURN

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        self.waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self.waiting -= 1
        try:
            await asyncio.sleep(max(0.0, self._next_at - asyncio.get_running_loop().time()))
            yield
        finally:
            self._slots.release()

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
        if seconds > HEAVY_S and self._others:
            now = asyncio.get_running_loop().time()
            self._next_at = max(self._next_at, now + OTHERS_SHARE * seconds / self._processes)
            self._others = 0
