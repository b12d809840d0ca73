"""What a part's pump does for the exchange, beside its commits and refills: it takes in what the other parts have sent, as fast
as its batches have room, deletes what all have read, and sees the end of the crawl.

Invariant: nothing is read or deleted while a write that failed is not made good, or while somebody holds the exchange.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from crawler.core.errors import StorageError, lack_of
from crawler.core.snapshot import Pause
from crawler.frontier.exchange.exchange import Exchange
from crawler.frontier.exchange.inbox import Received

if TYPE_CHECKING:
    from crawler.frontier.frontier import Frontier
    from crawler.frontier.pump import Pump

EVERY_S: Final = 1.0
HOLD_S: Final = 30.0


class Intake:
    """``clock`` is monotonic, in seconds."""

    def __init__(self, exchange: Exchange, clock: Callable[[], float]) -> None:
        self.exchange: Final = exchange
        self._clock = clock
        self._under_way = asyncio.Lock()
        """Held while something is received or deleted, and while nothing may be (see ``hold``)."""

    async def hold(self) -> None:
        """Until ``let_go`` nothing more is read of what the other parts send, and nothing that all have read is deleted.
        Raises TimeoutError: what is under way takes too long."""
        async with asyncio.timeout(HOLD_S):
            await self._under_way.acquire()

    def let_go(self) -> None:
        self._under_way.release()

    async def run(self, pump: Pump) -> None:
        """Until the pump has ended."""
        told_at = self._clock()
        while not pump.has_ended:
            self._pace(pump.frontier)
            async with self._under_way:
                may_commit = pump.failure is None and not pump.frontier.draining
                if may_commit and (received := await self._receive(pump)) is not None:
                    await self._admit(pump, received)
                    continue
                if pump.may_end and self.exchange.is_over():
                    pump.over()
                if pump.frontier.finished:
                    self.exchange.end()
                if may_commit and self._clock() - told_at >= EVERY_S:
                    told_at = self._clock()
                    for passed in self.exchange.inbox.passed():
                        await self._admit(pump, passed)
                    await self._delete_spent(pump)
            await self.exchange.news(EVERY_S)

    async def _receive(self, pump: Pump) -> Received | None:
        try:
            return await pump.ask(self.exchange.inbox.receive)
        except StorageError as error:
            pump.failed(error)
            return None

    async def _admit(self, pump: Pump, received: Received) -> None:
        committed = await pump.frontier.receive(received.admitted, received.robots, received.denials)
        committed.add_done_callback(lambda done: None if done.cancelled() else self.exchange.committed(received))

    def _pace(self, frontier: Frontier) -> None:
        """While somebody is far behind, nothing is dealt."""
        if self.exchange.lags:
            frontier.pause(Pause.EXCHANGE)
        elif Pause.EXCHANGE in frontier.pauses:
            frontier.resume(Pause.EXCHANGE)

    async def _delete_spent(self, pump: Pump) -> None:
        """Files that all have read: retired first, then deleted, then forgotten, each in a commit of its own. What fails is done
        again; also where there is no thread to delete in."""
        try:
            marks = await pump.marks()
            if files := self.exchange.spent(marks):
                await pump.frontier.retire({file: replace(marks[file], retired=True) for file in files})
                await asyncio.to_thread(self.exchange.delete, files)
                await pump.frontier.retire(dict.fromkeys(files))
        except StorageError as error:
            pump.failed(error)
        except RuntimeError as error:
            if lack_of(error) is None:
                raise


__all__ = ["Intake"]
