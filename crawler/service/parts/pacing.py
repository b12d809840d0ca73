"""The crawl-wide ``rate`` and ``bandwidth``, shared out anew every second by what each part uses of them.

Invariant: the shares that parts know of are together never more than the limit. A share becomes smaller first, and what was
freed is given to others only when its part has said that it keeps to it; one that is just being begun keeps its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

from crawler.config.sections import Config
from crawler.service.parts.channel import Gone
from crawler.service.parts.shares import paced

EVERY_S: Final = 1.0
ANSWER_S: Final = 5.0
"""A part that does not answer in so long keeps its share until it does."""

Ask: TypeAlias = Callable[..., Awaitable[Any]]
"""Of a part, by its number, as ``Crew.ask``."""


class _Shared:
    """One limit and the shares of it."""

    def __init__(self, limit: float, parts: int) -> None:
        self.limit = limit
        self.shares = [limit / parts] * parts
        self._counted: list[float | None] = [None] * parts
        self._used = [0.0] * parts
        self._waits = [False] * parts

    def note(self, part: int, counted: float, waiting: int, seconds: float) -> None:
        """What a part has counted since its process began, and how many of its visits wait for more."""
        before = self._counted[part]
        self._used[part] = max(0.0, counted - before) / seconds if before is not None and seconds else self.shares[part]
        self._counted[part], self._waits[part] = counted, waiting > 0

    def forget(self, part: int) -> None:
        """Nothing is known of what it uses: it may want its share."""
        self._counted[part], self._used[part], self._waits[part] = None, self.shares[part], False

    def wanted(self) -> list[float]:
        return paced(self.limit, self._used, self._waits)

    def lower(self, wanted: list[float]) -> list[float]:
        """The shares, but no larger than is wanted."""
        return list(map(min, wanted, self.shares))

    def higher(self, wanted: list[float]) -> list[float]:
        """The shares, raised to what is wanted, one after the other, as far as something is free."""
        free, shares = max(0.0, self.limit - sum(self.shares)), list(self.shares)
        for part, share in enumerate(shares):
            more = min(max(0.0, wanted[part] - share), free)
            free -= more
            shares[part] = share + more
        return shares


class Pacing:
    """For so many parts. ``settings(config, part)`` are those of a part with its share of today."""

    def __init__(self, config: Config, parts: int) -> None:
        self._parts = parts
        self._rate, self._bandwidth = _Shared(config.rate, parts), _Shared(float(config.bandwidth), parts)
        self._at = time.monotonic()
        self._handed_out = [0] * parts
        """How often each part was given settings, with its share of then."""

    def settings(self, config: Config, part: int) -> Config:
        self._handed_out[part] += 1
        bandwidth = self._bandwidth.shares[part]
        return config.replaced(rate=self._rate.shares[part], bandwidth=max(1, int(bandwidth)) if bandwidth else 0)

    def change(self, config: Config) -> None:
        """Other limits begin with even shares."""
        if config.rate != self._rate.limit:
            self._rate = _Shared(config.rate, self._parts)
        if config.bandwidth != self._bandwidth.limit:
            self._bandwidth = _Shared(float(config.bandwidth), self._parts)

    async def keep(self, ask: Ask) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(EVERY_S)
            if self._rate.limit or self._bandwidth.limit:
                await self.share(ask)

    async def share(self, ask: Ask) -> None:
        """Once."""
        rate, bandwidth = self._rate, self._bandwidth
        now = time.monotonic()
        seconds, self._at = now - self._at, now
        for part, used in enumerate(await self._of_each(ask, range(self._parts), "used")):
            if used is None:
                rate.forget(part)
                bandwidth.forget(part)
                continue
            requests, received, for_rate, for_bandwidth = used
            rate.note(part, requests, for_rate, seconds)
            bandwidth.note(part, received, for_bandwidth, seconds)
        rates, bandwidths = rate.wanted(), bandwidth.wanted()
        await self._put(ask, rate, bandwidth, list(zip(rate.lower(rates), bandwidth.lower(bandwidths), strict=True)))
        await self._put(ask, rate, bandwidth, list(zip(rate.higher(rates), bandwidth.higher(bandwidths), strict=True)))

    async def _put(self, ask: Ask, rate: _Shared, bandwidth: _Shared, shares: list[tuple[float, float]]) -> None:
        """Have parts keep to these shares. One that may have taken a larger one counts with it, whatever it has answered. Limits
        that were changed since the round began are for the next one."""
        if (rate, bandwidth) != (self._rate, self._bandwidth):
            return
        changed = [part for part, both in enumerate(shares) if both != (rate.shares[part], bandwidth.shares[part])]
        for part in changed:
            rate.shares[part] = max(rate.shares[part], shares[part][0])
            bandwidth.shares[part] = max(bandwidth.shares[part], shares[part][1])
        handed_out = list(self._handed_out)
        answers = await self._of_each(ask, changed, "pace", [shares[part] for part in changed])
        for part, answer in zip(changed, answers, strict=True):
            is_last_word = handed_out[part] == self._handed_out[part] and (rate, bandwidth) == (self._rate, self._bandwidth)
            if answer is not None and is_last_word:
                rate.shares[part], bandwidth.shares[part] = shares[part]

    async def _of_each(
        self, ask: Ask, parts: range | list[int], name: str, arguments: list[tuple[float, float]] | None = None
    ) -> list[Any]:
        """What each of them answers; None for one that is not there, or does not answer in time."""

        async def one(at: int, part: int) -> Any:
            try:
                async with asyncio.timeout(ANSWER_S):
                    return await ask(part, name, *(arguments[at] if arguments is not None else ()))
            except (Gone, TimeoutError):
                return None

        return await asyncio.gather(*(one(at, part) for at, part in enumerate(parts)))
