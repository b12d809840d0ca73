"""The visits that are out, by worker: what breaks off those that are wanted no more, and what waits until they are over.

Invariant: a visit that was broken off counts as not made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from crawler.core.model import Lease
from crawler.resources.memory_governor import MemoryGovernor


class Visits:
    """``memory`` breaks them off, as it does where memory is short."""

    def __init__(self, memory: MemoryGovernor) -> None:
        self._memory = memory
        self._leases: dict[asyncio.Task[None], Lease] = {}
        self._one_ended = asyncio.Event()

    def begins(self, worker: asyncio.Task[None], lease: Lease) -> None:
        """This worker's visit may be broken off from here on."""
        self._memory.begins(worker)
        self._leases[worker] = lease

    def ended(self, worker: asyncio.Task[None]) -> None:
        """From here on this worker's visit cannot be broken off. May be called again."""
        self._memory.ended(worker)
        self._leases.pop(worker, None)
        self._one_ended.set()

    def break_off(self, is_unwanted: Callable[[Lease], bool]) -> None:
        for worker, lease in list(self._leases.items()):
            if is_unwanted(lease):
                self._memory.give_up(worker)

    async def are_over(self, is_unwanted: Callable[[Lease], bool]) -> None:
        """Returns when of the visits like that which are out now none is out any more."""
        unwanted = {worker: lease for worker, lease in self._leases.items() if is_unwanted(lease)}
        while any(self._leases.get(worker) is lease for worker, lease in unwanted.items()):
            self._one_ended.clear()
            await self._one_ended.wait()
