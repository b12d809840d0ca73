"""How a visit ended: from one page or one error to one outcome. Pure.

Invariants: every response and every error has exactly one outcome and at most one reason, both from closed sets; an attempt
that may pass later is a Retry while attempts are left, and only then. How long anybody waits then is ``politeness``'s.
"""

from __future__ import annotations

import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

from crawler.core import urls
from crawler.core.errors import FetchError
from crawler.core.model import CODING_FAULTS, EMBED, PRIORITY_REDIRECT, SITEMAPS, Done, Dropped, HostSign, Lease, Link, Retry
from crawler.core.page import Page

RETRY_OUTCOMES: Final = frozenset({"timeout", "connect_error", "dns_error", "truncated"})
RETRY_STATUS: Final = frozenset({408, 425, 429})
"""And those of a server's fault: see ``may_pass``."""
FINAL_5XX: Final = frozenset({501, 505})
BUSY_STATUS: Final = frozenset({429, 503})
REDIRECT_STATUS: Final = frozenset({301, 302, 303, 307, 308})
RETRY_AFTER_S_MAX: Final = 1e12
"""What is more is no number."""


class Judge:
    """``move_anchor``: a seed that is redirected takes its scope along."""

    def __init__(
        self,
        *,
        retries: int,
        max_redirects: int,
        rules: urls.UrlRules,
        move_anchor: bool = True,
    ) -> None:
        self._retries = retries
        self._max_redirects = max_redirects
        self._rules = rules
        self._move_anchor = move_anchor

    def change(self, *, retries: int) -> None:
        self._retries = retries

    def error(self, lease: Lease, error: FetchError) -> Dropped | Retry:
        """No response, or one that could not be read at all."""
        sign = host_sign(error)
        is_hopeful = (error.outcome in RETRY_OUTCOMES and not error.permanent) or error.stray
        if is_hopeful and self._may_retry(lease):
            return Retry(error.outcome, error.reason, sign, error.detail, error.first_byte_s)
        return Dropped(error.outcome, error.reason, error.detail, sign, error.first_byte_s)

    def page(self, lease: Lease, page: Page, wall: float) -> Done | Retry:
        """A response, whole or not; its outlinks are still to be found, but for the redirect's target. Four cases: it may be
        another the next time; it is not whole; it redirects; it is what it is."""
        is_busy = page.status in BUSY_STATUS
        sign: HostSign = "busy" if is_busy else "alive"
        # RFC 9110 10.2.3 has it on 503 and any 3xx, other rules on 413 and 429: whoever sends it is heard
        after_s = retry_after(page.header("retry-after"), wall, page.header("date")) if page.status >= 300 else 0.0
        fault = page.fault
        if fault is None and page.status in (206, 226) and is_part(page.status, page.header("content-range")):
            fault = FetchError("cut")
        is_redirect = page.status in REDIRECT_STATUS
        if fault is not None and is_redirect and fault.reason in CODING_FAULTS and page.raw_header("location"):
            fault = None  # nobody reads the body of a redirect
        outcome, reason = (fault.outcome, fault.reason) if fault is not None else ("http_error", None)
        if (may_pass(page.status) or outcome in RETRY_OUTCOMES) and self._may_retry(lease):
            return Retry(outcome, reason, sign, "", page.timings.first_byte, after_s)
        if is_redirect and outcome in RETRY_OUTCOMES and page.raw_header("location"):
            fault = None  # it will not come whole, and where to is known
        if fault is not None:
            return Done(page, outcome, reason, sign=sign, retry_after_s=after_s)
        if is_redirect:
            return self._redirect(lease, page, after_s)
        is_fine = 200 <= page.status < 300 or page.status == 304
        if lease.link.kind == "robots" and 400 <= page.status < 500:
            is_fine = not is_busy  # that there is none says that everything is allowed (RFC 9309, 2.3.1.3)
        return Done(page, "ok" if is_fine else "http_error", sign=sign, retry_after_s=after_s)

    def _redirect(self, lease: Lease, page: Page, after_s: float) -> Done:
        link = lease.link
        raw, location = page.raw_header("location"), page.header("location")
        if not raw or not location:
            return Done(page, "redirect_error", "no_location", retry_after_s=after_s)
        try:
            target = urls.parse(urls.escaped(raw), link.url, self._rules)
        except FetchError:
            return Done(page, "redirect_error", "bad_location", retry_after_s=after_s)
        chain = link.chain + urls.fingerprint(link.url)
        if _stands_in(urls.fingerprint(target.href), chain):
            return Done(page, "redirect_error", "loop", retry_after_s=after_s)
        is_robots = link.kind == "robots"  # the robots gate knows how many of these are followed
        if not self._max_redirects and not is_robots:
            return Done(page, "redirect", retry_after_s=after_s)
        if link.hops >= self._max_redirects and not is_robots:
            return Done(page, "redirect_error", "too_many_redirects", retry_after_s=after_s)
        onward = Link(
            target.href,
            target.host,
            "robots" if is_robots else "sitemap" if link.kind in SITEMAPS else "embed" if link.kind == EMBED else "redirect",
            link.depth,
            PRIORITY_REDIRECT if link.kind != EMBED else link.priority,
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
        return Done(page, "redirect", outlinks=(onward,), retry_after_s=after_s)

    def _may_retry(self, lease: Lease) -> bool:
        return lease.link.attempt <= self._retries


def may_pass(status: int) -> bool:
    """Whether a response may be another the next time. An unknown 5xx is treated as 500, and so is a status beyond 599
    (RFC 9110 15); 501 and 505 say that the server cannot."""
    return status in RETRY_STATUS or (status >= 500 and status not in FINAL_5XX)


def host_sign(error: FetchError) -> HostSign:
    """What an error tells of its host. Only no address, no connection and no TLS are signs that it is down. Five cases:

    1. it was not asked: the URL or its address is refused, the proxy cannot be reached, or another visit's lookup failed;
    2. there is no such name;
    3. no TLS, whenever that shows; or no address or connection, so that the request could not be sent;
    4. the request was sent, and no response came;
    5. something came that is no response, or none that is wanted."""
    if error.outcome in ("blocked", "invalid_url") or error.shared:
        return "silent"
    if error.reason == "nxdomain":
        return "gone"
    if error.outcome == "tls_error":
        return "failed"
    if error.outcome in RETRY_OUTCOMES and error.outcome != "truncated":
        return "mute" if error.sent else "failed"
    return "alive"


def is_part(status: int, content_range: str | None) -> bool:
    """Whether a response says of itself that it is not the whole page: a range (206; RFC 9110, 15.3.7) or a difference (226;
    RFC 3229), and neither was asked for."""
    if status != 206:
        return status == 226
    whole = re.fullmatch(r"bytes 0-(\d{1,18})/(\d{1,18})", (content_range or "").strip(), re.A)
    return whole is None or int(whole[1]) + 1 != int(whole[2])


def retry_after(value: str | None, wall: float, date: str | None = None) -> float:
    """Seconds to wait by a Retry-After field (RFC 9110, 10.2.3: seconds, of which some servers send fractions, or an HTTP-date);
    0.0 if absent or unreadable. ``date``: what the response says of its own time; whose clock is not ours asks for no less."""
    if not value:
        return 0.0
    value = value.strip()
    if re.fullmatch(r"\d+(?:\.\d+)?", value, re.A):
        return min(float(value), RETRY_AFTER_S_MAX)
    when, since = _http_date(value), _http_date(date)
    if when is None:
        return 0.0
    return max(0.0, when - (since if since is not None else wall))


def _http_date(text: str | None) -> float | None:
    """Seconds since the epoch; None if it is absent or none."""
    try:
        when = parsedate_to_datetime(text or "")
        return (when if when.tzinfo is not None else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError, LookupError):  # which of these depends on the nonsense
        return None


def _stands_in(fingerprint: bytes, chain: bytes) -> bool:
    return any(chain[at : at + 8] == fingerprint for at in range(0, len(chain), 8))
