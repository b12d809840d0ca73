"""How often a URL is visited again: an interval that follows what its visits find. Pure.

It halves after a change and grows by half after none, within its bounds, so that a page that changes every day and one that
never does are both visited about as often as is worth while.
"""

from __future__ import annotations

from typing import Final

from crawler.core.model import Change

SHORTER: Final = 0.5
LONGER: Final = 1.5


class Intervals:
    """Seconds: ``every_s`` at first, later between ``min_s`` and ``max_s``, which it may itself lie beyond."""

    def __init__(self, every_s: float, *, min_s: float, max_s: float) -> None:
        self._every_s, self._min_s, self._max_s = every_s, min(min_s, every_s), max(max_s, every_s)

    def after(self, interval_s: float | None, change: Change | None) -> float:
        """Seconds until the next visit: ``interval_s`` lay before this one, None if it is the first. A visit that could not
        tell whether anything has changed leaves it as it is."""
        if interval_s is None or change == "new":
            return self._every_s
        if change == "changed":
            interval_s *= SHORTER
        elif change is not None:
            interval_s *= LONGER
        return min(self._max_s, max(self._min_s, interval_s))
