"""The pages that may still be visited under --max-pages, allowed to the parts of a crawl as they need them.

Invariant: what parts may visit, what is on its way to them, and what is left here are together never more than the limit. All
of it is visited, unless a part dies: what it was allowed counts as used, since nobody knows how much of it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

from crawler.service.parts.channel import Gone

GRANT_VISITS_MAX: Final = 256
"""Visits that a part is allowed at once."""
ANSWER_S: Final = 5.0
"""A part that does not answer in so long gives nothing back now. What it does give back, it says again when it asks itself."""

Ask: TypeAlias = Callable[..., Awaitable[Any]]
"""Of a part, by its number, as ``Crew.ask``."""


class AllowedVisits:
    """``visits`` in all, for so many ``parts``."""

    def __init__(self, visits: int, parts: int) -> None:
        self.left = visits
        """That no part was allowed yet."""
        self._parts = parts
        self._outstanding = [0] * parts
        """Allowed to each part and not fetched, as far as is known."""
        self._given_back = [0] * parts
        """By each part since its process began, as far as is known."""
        self._lives = [0] * parts
        """How many processes of each part have died."""

    async def allow(self, ask: Ask, part: int, left: int, spare: int, given_back: int) -> int:
        """How many visits a part is allowed more. It has ``left`` so many, does not need ``spare`` of them yet, and has given
        back so many in all. Where none is left, a part that has nothing to spare is allowed what the others do not need."""
        life = self._lives[part]
        self._take_back(part, given_back)
        self._outstanding[part] = left
        if not self.left and not spare:
            await asyncio.gather(*(self._give_up(ask, other) for other in range(self._parts) if other != part))
        return self.take(part) if life == self._lives[part] else 0

    def take(self, part: int) -> int:
        """How many more a part is allowed now; fewer as they run out, so that nobody keeps what others could use."""
        visits = min(self.left, max(1, min(GRANT_VISITS_MAX, self.left // (2 * self._parts))))
        self.left -= visits
        self._outstanding[part] += visits
        return visits

    def lose(self, part: int) -> None:
        """A part has died."""
        self._outstanding[part] = self._given_back[part] = 0
        self._lives[part] += 1

    @property
    def are_used(self) -> bool:
        """Whether no part may visit one more."""
        return not self.left and not any(self._outstanding)

    async def _give_up(self, ask: Ask, part: int) -> None:
        """Have a part keep no more visits than are out. It may have been allowed more since it was asked: what it gave back is
        taken from that."""
        life = self._lives[part]
        try:
            async with asyncio.timeout(ANSWER_S):
                given_back = await ask(part, "give_up_visits")
        except (Gone, TimeoutError):
            return
        if life == self._lives[part]:
            self._take_back(part, given_back)

    def _take_back(self, part: int, given_back: int) -> None:
        more = given_back - self._given_back[part]
        self._given_back[part] = given_back
        self._outstanding[part] = max(0, self._outstanding[part] - more)
        self.left += more
