"""What a visit found against the last one that could tell, and when the URL is to be visited again. Pure.

A page is what its body is, by its digest; a redirect is where it leads. A failure tells nothing: what was there before it is
compared with what comes after it. A page that came cut, or was asked for by HEAD, only tells that something is there.
"""

from __future__ import annotations

import hashlib
from typing import Final, Protocol

from crawler.core.batch import Settled
from crawler.core.model import THERE, Change, Done, Dropped, Known, Outcome
from crawler.core.page import SHA1_OF_NOTHING

GONE_STATUS: Final = frozenset({404, 410})
CUT: Final = "truncated"


class Intervals(Protocol):
    """How often URLs are visited again; ``crawler.policy.intervals`` has the one that crawls use."""

    def after(self, interval_s: float | None, change: Change | None) -> float:
        """Seconds until the next visit: ``interval_s`` lay before this one, None if it is the first."""


def change_of(settled: Settled, location: str | None) -> Change | None:
    """``location`` is where the response redirects to. None: the visit could not tell, or found nothing where nothing was."""
    outcome, before = settled.outcome, settled.lease.known
    content = content_of(before) if before is not None else None
    if not isinstance(outcome, Done):
        return None
    if outcome.outcome in THERE:
        if content is None:
            return "new"
        if outcome.page.status == 304 and before is not None and before.can_be_confirmed:
            return "unchanged"
        if _is_bodiless(outcome):
            return None
        now = _moved_to(location) if outcome.outcome == "redirect" else outcome.page.body.sha1
        if now == content:
            return "unchanged"
        return "changed" if outcome.outcome != CUT else None
    return "gone" if outcome.page.status in GONE_STATUS and content is not None else None


def content_of(known: Known) -> bytes | None:
    """What there was, as the last visit that could tell had found it; None if there was nothing."""
    if known.outcome in THERE and (known.outcome != CUT or known.content is None):
        if known.outcome == "redirect":
            return _moved_to(known.location)
        is_by_head = known.digest == SHA1_OF_NOTHING and known.content is not None
        return known.content if is_by_head else known.digest
    return known.content


def remembered(settled: Settled) -> bytes | None:
    """What is to be remembered of an earlier visit, as this one could not tell."""
    outcome, before = settled.outcome, settled.lease.known
    assert isinstance(outcome, Done | Dropped)
    is_told = outcome.outcome in THERE - {CUT} or (isinstance(outcome, Done) and outcome.page.status in GONE_STATUS)
    is_told &= not _is_bodiless(outcome)
    return None if is_told or before is None else content_of(before)


def leaves_body(settled: Settled) -> bool:
    """Whether the page that was kept by an earlier visit is still what there is to be read: this one asked by HEAD."""
    before = settled.lease.known
    if before is None or before.digest in (None, SHA1_OF_NOTHING) or not _is_bodiless(settled.outcome):
        return False
    return before.digest == content_of(before)


def _is_bodiless(outcome: Outcome) -> bool:
    """A page is there, and nothing is told of its body."""
    return isinstance(outcome, Done) and outcome.outcome == "ok" and outcome.page.is_by_head and outcome.page.status != 304


def _moved_to(location: str | None) -> bytes:
    return hashlib.sha1((location or "").encode("utf-8", "surrogatepass"), usedforsecurity=False).digest()
