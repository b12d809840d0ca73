"""One part's side of the exchange, as its pump drives it: what came in, what all have read, and when the crawl is over.

Invariant: the crawl is over when no part has anything left to do, everything sent is committed where it was sent to, and two
looks, one after the other, find that nobody has committed anything between them. Where one part has found so it is over for all:
that one reads nothing more. What comes due by schedule meanwhile waits for the next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from crawler.core.durable import storing
from crawler.core.keys import Share
from crawler.core.model import Mark
from crawler.frontier.exchange.board import Board
from crawler.frontier.exchange.inbox import Inbox, Received
from crawler.frontier.exchange.outbox import ROLL_BYTES, Outbox

LAG_BYTES_MAX: Final = 64 << 20
"""A part whose slowest reader is further behind than this deals nothing."""
LOOK_AGAIN_S: Final = 0.02


class Exchange:
    """For the part ``share.own``; ``positions`` are those of its store."""

    def __init__(
        self, root: Path, share: Share, board: Board, positions: Mapping[str, bytes], roll_bytes: int = ROLL_BYTES
    ) -> None:
        self._root, self._own, self._board = root, share.own, board
        self.outbox: Final = Outbox(root, share, board, roll_bytes)
        self.inbox: Final = Inbox(root, share, board, positions)
        self._commits = 0
        self._done = False
        self._seen: object = None
        self._news = asyncio.Event()
        board.announce_state(self._own, 0, done=False)

    @property
    def lags(self) -> bool:
        """Whether somebody is so far behind that nothing more should be sent."""
        return self.outbox.lag_bytes() > LAG_BYTES_MAX

    def committed(self, received: Received) -> None:
        """A batch with this is committed."""
        self.inbox.committed(received)
        self._board.ring(self._own)

    def tell(self, *, done: bool, committed: bool) -> None:
        """Whether this part has nothing left to do but what others may send; also after every commit."""
        if committed or done != self._done:
            self._commits += committed
            self._done = done
            self._board.announce_state(self._own, self._commits, done=done)
            self._board.ring(self._own)

    def is_over(self) -> bool:
        """Whether nothing is left to do anywhere: asked again and again, it is so only if it was so twice, or another ends."""
        before, self._seen = self._seen, self._board.look()
        return self._board.is_over or (self._seen is not None and self._seen == before)

    def end(self) -> None:
        """This part ends, as the crawl is over."""
        if not self._board.is_over:
            self._board.announce_over()
            self._board.ring(self._own)

    def spent(self, marks: Mapping[str, Mark]) -> list[str]:
        """As ``Outbox.spent``."""
        return self.outbox.spent(marks)

    def delete(self, files: list[str]) -> None:
        """What all have read, and the store has retired. Raises StorageError."""
        for file in files:
            with storing(self._root / file):
                (self._root / file).unlink(missing_ok=True)

    async def news(self, seconds: float) -> None:
        """Until another part has told something, or so long; not so long when the crawl seems to be over."""
        seconds = seconds if self._seen is None else min(seconds, LOOK_AGAIN_S)
        loop, bell = asyncio.get_running_loop(), self._board.bell(self._own)
        if bell is None:
            await asyncio.sleep(seconds)
            return
        loop.add_reader(bell, self._heard, bell)
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            pass
        finally:
            loop.remove_reader(bell)
        self._news.clear()

    def _heard(self, bell: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(bell)
        self._news.set()
