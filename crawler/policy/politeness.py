"""How long a host rests after a visit, and when it is given up. Pure but for the random number handed in.

Rest = the visit's own wish (delay, factor × time to first byte, Crawl-delay), or Retry-After, or the full-jitter
exponential back-off of a host that fails or asks us to slow down, whichever is longest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from crawler.core.batch import HostRest
from crawler.core.model import Done, Dropped, Retry

BACKOFF_BASE_S: Final = 1.0


class Rests:
    """``delay(host)`` is a host's configured rest; ``jitter()`` gives numbers in [0, 1)."""

    def __init__(
        self, delay: Callable[[str], float], jitter: Callable[[], float], *, backoff_max_s: float, host_failures: int
    ) -> None:
        self.delay = delay
        self._jitter = jitter
        self._backoff_max_s = backoff_max_s
        self._host_failures = host_failures

    def change(self, *, backoff_max_s: float, host_failures: int) -> None:
        self._backoff_max_s, self._host_failures = backoff_max_s, host_failures

    def backoff(self, times: int) -> float:
        """After so many failures in a row. Full jitter: anywhere up to the exponential ceiling, so that hosts do not come
        back in step."""
        return self._jitter() * min(self._backoff_max_s, BACKOFF_BASE_S * 2.0 ** min(times - 1, 32))

    def after(self, outcome: Done | Dropped | Retry, now: float, due: float, failures: int, busy: int) -> HostRest:
        """The rest of a host after this visit, given its state before."""
        rest = outcome.rest
        if outcome.sign == "alive":
            failures = busy = 0
        elif outcome.sign == "busy":
            failures, busy = 0, busy + 1
            rest = max(rest, self.backoff(busy))
        elif outcome.sign in ("failed", "gone"):
            failures += 1
            rest = max(rest, self.backoff(failures))
        down = None
        if outcome.sign == "gone" or failures >= self._host_failures:
            down = (outcome.outcome, "host_down")
        return HostRest(max(due, now + rest), failures, down, busy)
