"""How a visit ended: from one page or one error to one outcome. Pure but for the random numbers handed in.

The law: every answer and every error has exactly one outcome and at most one reason, both from closed sets; an attempt
that may pass later is a Retry while attempts are left, and only then.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from crawler.core import urls
from crawler.core.errors import FetchError
from crawler.core.model import PRIORITY_REDIRECT, Done, Dropped, HostSign, Lease, Link, Retry
from crawler.core.page import Page

RETRY_OUTCOMES: Final = frozenset({"timeout", "connect_error", "dns_error", "truncated"})
RETRY_STATUS: Final = frozenset({408, 429, 500, 502, 503, 504})
BUSY_STATUS: Final = frozenset({429, 503})
REDIRECT_STATUS: Final = frozenset({301, 302, 303, 307, 308})
NO_ANSWER: Final = frozenset({"connect_error", "dns_error", "tls_error"})
NO_ANSWER_REASONS: Final = frozenset({"connect_timeout", "first_byte_timeout"})
PERMANENT_REASONS: Final = frozenset({"nxdomain"})
RETRY_BASE_S: Final = 1.0


class Judge:
    """``rest(link, first_byte_s)`` is the pause a host wishes after a visit; ``jitter()`` gives numbers in [0, 1)."""

    def __init__(
        self,
        *,
        retries: int,
        max_redirects: int,
        rules: urls.Rules,
        backoff_max_s: float,
        rest: Callable[[Link, float], float],
        jitter: Callable[[], float],
        move_anchor: bool = True,
    ) -> None:
        self._retries = retries
        self._max_redirects = max_redirects
        self._rules = rules
        self._backoff_max_s = backoff_max_s
        self._rest = rest
        self._jitter = jitter
        self._move_anchor = move_anchor

    def change(self, *, retries: int, backoff_max_s: float) -> None:
        self._retries, self._backoff_max_s = retries, backoff_max_s

    def error(self, lease: Lease, error: FetchError) -> Dropped | Retry:
        """No answer, or one that could not be read at all."""
        rest = self._rest(lease.link, 0.0)
        sign = sign_of(error)
        if error.outcome in RETRY_OUTCOMES and error.reason not in PERMANENT_REASONS and self._may_retry(lease):
            return self._retry(lease, error.outcome, error.reason, rest, sign, error.detail)
        return Dropped(error.outcome, error.reason, error.detail, rest if sign != "silent" else 0.0, sign)

    def page(self, lease: Lease, page: Page, wall: float) -> Done | Retry:
        """An answer, whole or not; its outlinks are still to be found, but for the redirect's target."""
        rest = self._rest(lease.link, page.timings.first_byte)
        fault = page.fault
        if fault is None and page.status in (206, 226) and is_part(page.status, page.header("content-range")):
            fault = FetchError("cut")
        if fault is not None:
            outcome, reason = fault.outcome, fault.reason
            if outcome in RETRY_OUTCOMES and self._may_retry(lease):
                return self._retry(lease, outcome, reason, rest, "alive")
            return Done(page, outcome, reason, rest=rest)
        busy = page.status in BUSY_STATUS
        if busy:
            rest = max(rest, min(retry_after(page.header("retry-after"), wall), self._backoff_max_s))
        if page.status in RETRY_STATUS and self._may_retry(lease):
            return self._retry(lease, "http_error", None, rest, "busy" if busy else "alive")
        if page.status in REDIRECT_STATUS:
            return self._redirect(lease, page, rest)
        fine = 200 <= page.status < 300 or page.status == 304
        if lease.link.kind == "robots" and 400 <= page.status < 500:
            fine = not busy  # that there is none is an answer: everything is allowed (RFC 9309, 2.3.1.3)
        outcome = "ok" if fine else "http_error"
        return Done(page, outcome, rest=rest, sign="busy" if busy else "alive")

    def _redirect(self, lease: Lease, page: Page, rest: float) -> Done:
        link = lease.link
        location = page.header("location")
        if not location:
            return Done(page, "redirect_error", "no_location", rest=rest)
        try:
            target = urls.parse(location, link.url, self._rules)
        except FetchError:
            return Done(page, "redirect_error", "bad_location", rest=rest)
        chain = link.chain + urls.fingerprint(link.url)
        if _stands_in(urls.fingerprint(target.href), chain):
            return Done(page, "redirect_error", "loop", rest=rest)
        is_robots = link.kind == "robots"  # the desk knows how many of these are followed
        if not self._max_redirects and not is_robots:
            return Done(page, "redirect", rest=rest)
        if link.hops >= self._max_redirects and not is_robots:
            return Done(page, "redirect_error", "too_many_redirects", rest=rest)
        onward = Link(
            target.href,
            target.host,
            link.kind if is_robots or link.kind == "sitemap" else "redirect",
            link.depth,
            PRIORITY_REDIRECT,
            link.hops + 1,
            urls.masked(location) if location != target.href and len(location) <= urls.URL_BYTES_MAX else None,
            link.via if is_robots else link.url,
            link.input,
            link.tag,
            link.anchor if self._move_anchor else link.anchor or link.url,
            chain,
            listed=link.as_listed,
            extra=link.extra,
        )
        return Done(page, "redirect", outlinks=(onward,), rest=rest)

    def _may_retry(self, lease: Lease) -> bool:
        return lease.link.attempt <= self._retries

    def _retry(self, lease: Lease, outcome: str, reason: str | None, rest: float, sign: HostSign, detail: str = "") -> Retry:
        """A robots.txt is its host's next link: the whole host waits until it is asked for again."""
        after = self._after(lease)
        return Retry(outcome, reason, after, max(rest, after) if lease.link.kind == "robots" else rest, sign, detail)

    def _after(self, lease: Lease) -> float:
        ceiling = min(self._backoff_max_s, RETRY_BASE_S * 2.0 ** min(lease.link.attempt, 32))
        return self._jitter() * ceiling


def sign_of(error: FetchError) -> HostSign:
    """What an error tells of its host."""
    if error.reason == "nxdomain":
        return "gone"
    if error.outcome in NO_ANSWER or error.reason in NO_ANSWER_REASONS:
        return "failed"
    return "silent" if error.outcome in ("blocked", "invalid_url") else "alive"


def is_part(status: int, content_range: str | None) -> bool:
    """Whether an answer says of itself that it is not the whole page: a range (206; RFC 9110, 15.3.7) or a difference (226;
    RFC 3229), and neither was asked for."""
    if status != 206:
        return status == 226
    whole = re.fullmatch(r"bytes 0-(\d{1,18})/(\d{1,18})", (content_range or "").strip(), re.A)
    return whole is None or int(whole[1]) + 1 != int(whole[2])


def retry_after(value: str | None, wall: float) -> float:
    """Seconds to wait by a Retry-After field (RFC 9110, 10.2.3: seconds or an HTTP-date); 0.0 if absent or unreadable."""
    if not value:
        return 0.0
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:12])
    try:
        when = parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError, IndexError):
        return 0.0
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.fromtimestamp(wall, UTC)).total_seconds())


def _stands_in(fingerprint: bytes, chain: bytes) -> bool:
    return any(chain[at : at + 8] == fingerprint for at in range(0, len(chain), 8))
