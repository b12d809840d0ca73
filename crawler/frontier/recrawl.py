"""Which settled URLs become due again, and when: the orders a store fulfils slice by slice. Pure.

An order is kept with the store and walks over its settled URLs, so that however many there are, no more than a slice of them is
in memory, and a kill loses nothing of it. A schedule is an order as well: for what was settled before there was one.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from crawler.core.model import NOT_PAGES, Known, Tag
from crawler.frontier.selection import Selection

ORDERS_MAX: Final = 8
SLICE_PAGES: Final = 1000
"""Settled URLs looked at in one transaction."""
NEVER: Final = frozenset({"skipped", "invalid_url"})
"""Outcomes of URLs that are not to be visited again by themselves."""


class RecrawlOrder(Struct, frozen=True, array_like=True):
    """``at`` is crawl-clock time: a host that was given up, and not tried since, is tried again. ``before`` is wall time: only
    URLs last visited before it are chosen. ``outcomes``: only these; none: all but NEVER. ``match``: a regular expression."""

    at: float
    before: float
    outcomes: tuple[str, ...] = ()
    match: str | None = None
    every: float = 0.0
    """Not 0: those that have no schedule get one, with this interval from their last visit on; nothing is due at once."""
    start: bytes = b""
    """Where the next slice begins."""
    url: str | None = None
    host: str | None = None
    tag: Tag | None = None
    """With ``outcomes`` what a ``Selection`` says."""

    @property
    def which(self) -> Selection:
        return Selection(self.url, self.host, frozenset(self.outcomes), self.tag)

    def chooses(self, known: Known) -> bool:
        """Whether a settled URL is meant. robots.txt is asked for when it is needed."""
        if known.link.kind == "robots":
            return False
        if known.due is not None if self.every else known.fetched_at >= self.before:
            return False
        if (not self.outcomes and known.outcome in NEVER) or not self.which.takes(known):
            return False
        return self.match is None or _pattern(self.match).search(known.link.url) is not None

    def scheduled(self, known: Known) -> Known:
        """The same URL, with the schedule that this order gives it. One visited after ``before`` has just been visited."""
        rested = max(0.0, self.before - known.fetched_at)
        return replace(known, interval=self.every, due=self.at + max(0.0, self.every - rested))

    def rest(self, start: bytes | None) -> list[RecrawlOrder]:
        """What is left of it when the next slice begins at ``start``; nothing if there is none."""
        return [] if start is None else [replace(self, start=start)]


_pattern = lru_cache(maxsize=ORDERS_MAX)(re.compile)


def is_behind(known: Known, modified: float) -> bool:
    """Whether a page that says of itself to be modified at this wall time was last visited before."""
    return known.fetched_at < modified and known.link.kind not in NOT_PAGES and known.outcome not in NEVER
