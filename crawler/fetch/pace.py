"""A rate that may change while some wait for it: a leaky bucket whose waiters are served in their order.

Invariant: whatever it was changed to meanwhile, between two moments there were no more turns than its rate allowed at each
time, and ``AT_ONCE_S`` of them, or one, on top.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from typing import Final

AT_ONCE_S: Final = 0.01
"""Turns are evenly spaced, but for rates so high that the loop could not keep the spacing: what is due within so long may come
at once."""

CLOCK_S: Final = 1e-9
"""A loop's timers may be as much too early."""


class Pace:
    """``per_second`` turns; 0.0: no limit."""

    def __init__(self, per_second: float = 0.0) -> None:
        self.per_second = per_second
        self._loop = asyncio.get_running_loop()
        self._free_at = -math.inf
        """When the bucket is empty again: each turn adds its part of a second."""
        self._waiting: deque[asyncio.Future[None]] = deque()  # no more than there are visits at a time
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def change(self, per_second: float) -> None:
        """From now on. Who waits goes on waiting in their order."""
        if per_second == self.per_second:
            return
        now = self._loop.time()
        if per_second and self.per_second and self._free_at > now:  # as many turns are owed as before
            self._free_at = now + (self._free_at - now) * self.per_second / per_second
        self.per_second = per_second
        self._serve()

    async def turn(self) -> None:
        """Wait for one."""
        if not self._waiting and self._may_be_taken():
            return
        turn = self._loop.create_future()
        self._waiting.append(turn)
        if self._timer is None:
            self._serve()
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.done():
                self._waiting.remove(turn)
            raise

    def _may_be_taken(self) -> bool:
        """Take a turn, if there is one now."""
        if not self.per_second:
            return True
        now, each = self._loop.time(), 1 / self.per_second
        if self._free_at - now > max(0.0, AT_ONCE_S - each) + CLOCK_S:
            return False
        self._free_at = max(now, self._free_at) + each
        return True

    def _serve(self) -> None:
        """Give the waiting their turns, and come again when the next one is due."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting:
            if self._waiting[0].done():  # it was cancelled
                self._waiting.popleft()
            elif self._may_be_taken():
                self._waiting.popleft().set_result(None)
            else:
                at = self._free_at - max(0.0, AT_ONCE_S - 1 / self.per_second)
                self._timer = self._loop.call_at(at, self._serve)
                return
