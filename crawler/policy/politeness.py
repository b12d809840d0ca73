"""How long a host rests after a visit, when a link is tried again, and when a host is given up: decided here and nowhere
else. Pure but for the random numbers handed in.

Rest = the longest of: the host's delay, factor × time to first byte, its Crawl-delay; Retry-After; and the full-jitter
exponential back-off of a host that fails or asks us to slow down.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from crawler.core.batch import HostRest
from crawler.core.model import Done, Dropped, Link, Outcome, Retry, Unvisited

if TYPE_CHECKING:
    from crawler.config import HostRules

BACKOFF_BASE_S: Final = 1.0
RUN_BACKOFF_MAX_S: Final = 300.0
SERVE_BACKOFF_MAX_S: Final = 3600.0
"""Where ``backoff_max`` is not set: a crawl that has an end waits less than one that has none."""
NXDOMAINS_MAX: Final = 3
"""A host that has never responded is given up after so many of these in a row, or ``host_failures`` if they are fewer."""


class Politeness:
    """``crawl_delay(link)`` is what the robots.txt of a link's origin asks for, as far as it is known, None where none is read;
    ``jitter()`` gives numbers in [0, 1)."""

    def __init__(
        self,
        hosts: HostRules,
        crawl_delay: Callable[[Link], float] | None,
        jitter: Callable[[], float],
        *,
        backoff_max_s: float,
        host_failures: int,
    ) -> None:
        self._hosts = hosts
        self._crawl_delay = crawl_delay
        self._jitter = jitter
        self._backoff_max_s = backoff_max_s
        self._host_failures = host_failures

    def change(self, *, backoff_max_s: float, host_failures: int) -> None:
        self._backoff_max_s, self._host_failures = backoff_max_s, host_failures

    def pause(self, link: Link) -> float:
        """Between two visits of a link's host, whatever the first one brought; seconds."""
        delay = self._hosts.delay(link.host)
        return delay if self._crawl_delay is None else max(delay, self._crawl_delay(link))

    def backoff(self, times: int) -> float:
        """After so many failures in a row. Full jitter: anywhere up to the exponential ceiling, so that hosts do not come
        back in step."""
        return self._jitter() * min(self._backoff_max_s, BACKOFF_BASE_S * 2.0 ** min(times - 1, 32))

    def retry_in(self, link: Link, outcome: Retry) -> float:
        """Seconds until a link is due again. A name is asked for later than a page: what name servers remember of a failure
        must have a chance to be forgotten."""
        return self.backoff(link.attempt + (2 if outcome.outcome == "dns_error" else 1))

    def after(self, link: Link, outcome: Outcome, host: HostRest, now: float, pause: float) -> HostRest:
        """The rest of a host after a visit of a link, and what is remembered of it. ``host`` is as it was before; ``pause`` as it
        was when the visit began: by now the Crawl-delay may be at hand no more, and the delay set to another."""
        is_robots = link.kind == "robots"  # which may have told of another Crawl-delay
        pause = max(pause, self.pause(link) if is_robots else self._hosts.delay(link.host))
        if isinstance(outcome, Unvisited):
            return replace(host, due=max(host.due, now + max(outcome.rest_s, pause)))
        rest = self._wish(link, outcome, pause)
        sign, failures, busy = outcome.sign, host.failures, host.busy
        has_responded = host.has_responded or sign in ("alive", "busy", "mute")
        if sign == "alive":
            failures = busy = 0
        elif sign == "mute":
            failures = 0
        elif sign == "busy":
            failures, busy = 0, busy + 1
            rest = max(rest, self.backoff(busy))
        elif sign in ("failed", "gone"):
            failures += 1
            rest = max(rest, self.backoff(failures))
        down = host.down if sign == "silent" else None
        if sign in ("failed", "gone") and failures >= self._failures_max(outcome, has_responded):
            down = (outcome.outcome, "host_down")
            rest = self._wish(link, outcome, pause)  # nothing of it waits any more, and what comes later need not
        return HostRest(max(host.due, now + rest), failures, down, busy, has_responded)

    def _wish(self, link: Link, outcome: Done | Dropped | Retry, pause: float) -> float:
        """What the visit itself asks for, without what the host has done before."""
        if isinstance(outcome, Dropped) and outcome.sign == "silent":
            return 0.0
        first_byte_s = outcome.page.timings.first_byte if isinstance(outcome, Done) else outcome.first_byte_s
        rest = max(pause, self._hosts.factor * first_byte_s)
        if isinstance(outcome, Dropped):
            return rest
        if outcome.retry_after_s:
            rest = max(rest, min(outcome.retry_after_s, self._backoff_max_s))
        if link.kind == "robots" and isinstance(outcome, Retry):
            rest = max(rest, self.retry_in(link, outcome))  # it is its host's next link: the whole host waits for it
        return rest

    def _failures_max(self, outcome: Done | Dropped | Retry, has_responded: bool) -> int:
        """With so many failures in a row a host is given up. That there is no such name is believed sooner, and at once if it
        is not to be asked for again; but not of a host that has responded."""
        if outcome.sign != "gone" or has_responded:
            return self._host_failures
        return min(self._host_failures, NXDOMAINS_MAX) if isinstance(outcome, Retry) else 1
