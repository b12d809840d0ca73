"""The visits that are out, by worker: what breaks them off, and what waits until they are over.

Invariant: a visit that was broken off counts as not made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import islice

from crawler.core.model import Lease

Worker = asyncio.Task[None]


class Visits:
    """A worker has one visit at a time."""

    def __init__(self) -> None:
        self._leases: dict[Worker, Lease] = {}  # in the order in which their visits began
        self._broken_off: set[Worker] = set()
        self._one_ended = asyncio.Event()

    def begins(self, worker: Worker, lease: Lease) -> None:
        """This worker's visit may be broken off from here on."""
        self._leases[worker] = lease

    def ended(self, worker: Worker) -> None:
        """From here on this worker's visit cannot be broken off. May be called again."""
        self._leases.pop(worker, None)
        self._broken_off.discard(worker)
        self._one_ended.set()

    def break_off(self, worker: Worker) -> None:
        """End this worker's visit, if it has not ended."""
        if worker in self._leases and worker not in self._broken_off:
            self._broken_off.add(worker)
            worker.cancel()

    def break_off_oldest(self, count: int) -> None:
        """Those that have been out longest hold most."""
        for worker in list(islice((worker for worker in self._leases if worker not in self._broken_off), count)):
            self.break_off(worker)

    def break_off_unwanted(self, is_unwanted: Callable[[Lease], bool]) -> None:
        for worker, lease in list(self._leases.items()):
            if is_unwanted(lease):
                self.break_off(worker)

    def was_broken_off(self, worker: Worker) -> bool:
        """Whether the cancellation just caught was ours; it is taken back then."""
        if worker not in self._broken_off:
            return False
        self._broken_off.discard(worker)
        worker.uncancel()
        return True

    async def are_over(self, is_unwanted: Callable[[Lease], bool]) -> None:
        """Returns when of the visits like that which are out now none is out any more."""
        unwanted = {worker: lease for worker, lease in self._leases.items() if is_unwanted(lease)}
        while any(self._leases.get(worker) is lease for worker, lease in unwanted.items()):
            self._one_ended.clear()
            await self._one_ended.wait()
