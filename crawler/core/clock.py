"""The crawl's one clock: monotonic within a process, never running back over restarts.

Rests, retries and due times live in it. Wall time is for records and rows only: a wall clock that jumps shortens no rest.
"""

from __future__ import annotations

import time


class Clock:
    """``last``: the crawl clock of the last commit, 0.0 in a new crawl. ``now``: by the clock that machines share,
    where this one's does not count."""

    def __init__(self, last: float = 0.0, now: float | None = None) -> None:
        self._base = max(time.time() if now is None else now, last) - time.monotonic()
        self._wall_base = time.time() - time.monotonic()

    def now(self) -> float:
        """Crawl-clock seconds."""
        return self._base + time.monotonic()

    def wall(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def jump(self) -> float:
        """Seconds that the wall clock was set forward by since this was asked last, or that the machine slept; below 0: back."""
        base = time.time() - time.monotonic()
        jump, self._wall_base = base - self._wall_base, base
        return jump
