"""A rate that may change while some wait for it: aiolimiter's leaky bucket, whose waiters are served in their order.

Invariant: between any two moments there are no more turns than the rates that held meanwhile allow, and on top of them those of
``AT_ONCE_S``, or one.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from aiolimiter import AsyncLimiter

AT_ONCE_S: Final = 0.01
"""Turns are evenly spaced, but for rates so high that the loop could not keep the spacing: what is due within so long may come
at once."""


class Pace:
    """``per_second`` turns; 0.0: no limit."""

    def __init__(self, per_second: float = 0.0) -> None:
        self.per_second = per_second
        self.waiting = 0
        """How many wait for their turn."""
        self._order = asyncio.Lock()  # only the first of them waits at the bucket
        self._bucket: AsyncLimiter | None = None

    def change(self, per_second: float) -> None:
        """From now on. Those who wait keep their order, and as many turns are owed as before."""
        before, self.per_second = self.per_second, per_second
        if (bucket := self._bucket) is None or per_second == before:
            return
        # A bucket's rate is fixed from outside; the range of its versions in pyproject.toml is that of these names.
        bucket._leak()  # at the rate it had
        if not before:
            bucket._level = 0.0
        bucket.max_rate = _capacity(per_second)
        bucket._rate_per_sec = per_second or before
        bucket._wake_next()

    async def turn(self) -> None:
        """Wait for one."""
        if not self.per_second and not self.waiting:
            return
        if self._bucket is None:
            from aiolimiter import AsyncLimiter  # which asks the installed packages for its version: 10 ms

            capacity = _capacity(self.per_second)
            self._bucket = AsyncLimiter(capacity, capacity / self.per_second)
        self.waiting += 1
        try:
            async with self._order:
                if self.per_second:
                    await self._bucket.acquire()
        finally:
            self.waiting -= 1


def _capacity(per_second: float) -> float:
    return max(1.0, AT_ONCE_S * per_second) if per_second else math.inf
