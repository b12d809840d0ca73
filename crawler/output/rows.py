"""Which result rows a batch makes, and what stands in them (schema 1). Pure.

Invariant: every listed line gets exactly one row with ``final: true``. It is its own, or that of the page its redirects
lead to; where that page was known already, a row ``skipped``, ``duplicate`` stands for the line. Of a seed, or a redirect's
target, that another part of the crawl owns, that part makes this row.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from sys import intern
from typing import Final

import orjson
from msgspec.structs import replace

from crawler.core import urls
from crawler.core.batch import EXPAND, FOREIGN, KNOWN, NEW, Admitted, Prepared, Settled, link_verdicts
from crawler.core.errors import FetchError
from crawler.core.model import EMBED, EXPANDED, NOT_PAGES, VALIDATORS_CHARS_MAX, Done, Dropped, Input, Known, Link, Ref
from crawler.core.page import Page
from crawler.core.text import field_text
from crawler.output.archive import Kept, place_of
from crawler.output.archive.records import date
from crawler.output.changes import change_of, leaves_body, remembered
from crawler.output.results import FIELDS, SCHEMA, Row

_is_absolute = re.compile(r"https?://[^\t\r\n]*", re.I).fullmatch
RECRAWLED: Final = frozenset({"seed", "link", "redirect"})
"""Kinds whose later visits are told as ``recrawl``; what is no page stays told apart."""
DUPLICATE: Final = (KNOWN, EXPAND)
"""Verdicts on a URL that has, or will have, a row of its own."""
CARRIES_ON: Final = (NEW, FOREIGN, *DUPLICATE)
"""Verdicts on a redirect's target that will have the final row of its line."""
_VALIDATORS: Final = frozenset({b"etag", b"last-modified"})
_VALIDATOR_CHARS: Final = frozenset(map(len, _VALIDATORS))
_EMPTY: Final[Row] = {"schema": SCHEMA, **dict.fromkeys(FIELDS)}


def rows_of(prepared: Prepared, kept: Sequence[Kept | None]) -> Iterator[tuple[int | None, Row]]:
    """The batch's rows in order, each with the index of the settled lease whose own row it is, or None.

    ``kept`` is aligned with ``batch.settled``: where the archive put each page."""
    batch = prepared.batch
    verdicts = link_verdicts(prepared)
    for index, settled in enumerate(batch.settled):
        links, states = next(verdicts) if isinstance(settled.outcome, Done) else ((), b"")
        if has_row(settled):
            row, duplicate = _visit_rows(settled, kept[index], links, states, batch.wall)
            yield index, row
            if duplicate is not None:
                yield None, duplicate
    for admitted in batch.admitted:
        yield from _admitted_rows(admitted, next(verdicts)[1], batch.wall)


def has_row(settled: Settled) -> bool:
    """A retry is not settled yet, and a page that is expanded once more has its row."""
    return isinstance(settled.outcome, Done | Dropped) and settled.lease.link.kind not in EXPANDED


def has_record(settled: Settled) -> bool:
    """Whether the response is kept: not where its body was not wanted."""
    outcome = settled.outcome
    return isinstance(outcome, Done) and outcome.outcome != "skipped" and settled.lease.link.kind not in EXPANDED


def known_of(settled: Settled, kept: Kept | None, row: Row, ref: Ref, wall: float) -> Known:
    """What the store keeps of a settled URL whose row stands at ``ref``. A visit that brought no body leaves the earlier one
    to be known. Validators are kept of what is whole only: nothing else may be confirmed by a 304."""
    outcome, before = settled.outcome, settled.lease.known
    assert isinstance(outcome, Done | Dropped)
    page = outcome.page if isinstance(outcome, Done) else None
    is_left = leaves_body(settled)
    etag, modified = _validators(page) if page is not None and outcome.outcome == "ok" and not is_left else (None, None)
    known = Known(
        settled.lease.link,
        row["outcome"],
        outcome.reason,
        page.status if page is not None else None,
        page.fetched_at if page is not None else wall,
        row=ref,
        location=row["location"] if outcome.outcome == "redirect" else None,
        etag=etag,
        last_modified=modified,
        change=row["change"],
        content=remembered(settled) if before is not None else None,
        line_has_ended=settled.was_redirected,
    )
    is_confirmed = page is not None and page.status == 304 and before is not None and before.can_be_confirmed
    if page is not None and outcome.outcome != "skipped" and not is_confirmed and not is_left:
        place = kept.body if kept is not None else None
        at = kept.body_at if kept is not None and place is not kept.record and place != kept.record else None
        return replace(known, archive=place, digest=page.body.sha1, archived_at=at, coding=_single(page.coding or ""))
    if before is None:
        return known
    return replace(
        known,
        archive=before.archive,
        etag=etag or before.etag,
        last_modified=modified or before.last_modified,
        digest=before.digest,
        archived_at=before.archived_at or before.fetched_at,
        coding=before.coding,
    )


def _single(coding: str) -> str | None:
    """Of the few that there are each is in memory once. Of several, which nobody sends, there are many."""
    return intern(coding) if "," not in coding else None


def _robots_outcome(outcome: Done | Dropped) -> str:
    """That there is no robots.txt is well, and allows everything (RFC 9309, 2.3.1.3); what came instead is no robots.txt."""
    if isinstance(outcome, Done) and outcome.outcome == "ok" and outcome.page.status >= 400:
        return "http_error"
    return outcome.outcome


def _visit_rows(
    settled: Settled, kept: Kept | None, links: Sequence[Link], states: Sequence[int], wall: float
) -> tuple[Row, Row | None]:
    """The row of a visit, and that of the line whose redirect led to a page that was known already."""
    link, outcome = settled.lease.link, settled.outcome
    assert isinstance(outcome, Done | Dropped)
    onward = (links[0], states[0]) if links and outcome.outcome == "redirect" and link.kind != "robots" else None
    carries_on = onward is not None and onward[1] in CARRIES_ON
    row = _link_row(link, outcome.outcome if link.kind != "robots" else _robots_outcome(outcome), outcome.reason)
    row["final"] = not carries_on and link.kind not in NOT_PAGES and link.kind != EMBED
    row["attempt"] = link.attempt
    if settled.lease.recrawl and link.kind in RECRAWLED:
        row["kind"] = "recrawl"
    if isinstance(outcome, Dropped):
        row["fetched_at"] = iso(wall)
    else:
        _fill_response(row, outcome.page, kept, onward[0].url if onward else None)
        row["robots"] = outcome.robots
        row["encoding"] = outcome.encoding
        if outcome.cut:
            row["cut"] = ",".join(rule for rule, _ in outcome.cut)
            row["fault"] = "; ".join(f"{rule}: {words}" for rule, words in outcome.cut)
        if outcome.outcome == "skipped":
            row["sha256"] = None
        if link.kind != "robots":
            row["change"] = change_of(settled, row["location"])
    if onward is None or onward[1] not in DUPLICATE or link.input is None:
        return row, None
    duplicate = _link_row(onward[0], "skipped", "duplicate")
    duplicate["final"] = True
    duplicate["fetched_at"] = iso(wall)
    return row, duplicate


def _admitted_rows(admitted: Admitted, states: Sequence[int], wall: float) -> Iterator[tuple[None, Row]]:
    for link, state in zip(admitted.links, states, strict=True):
        is_line = link.kind == "seed" or (link.kind == "redirect" and link.input is not None)  # it may come from another part
        if is_line and state in DUPLICATE:
            row = _link_row(link, "skipped", "duplicate")
            row["final"] = True
            row["fetched_at"] = iso(admitted.visited_at or wall)
            yield None, row
    for fault in admitted.faults:
        row, shown, extra = dict(_EMPTY), urls.masked(fault.text), admitted.extras.get(fault.input)
        row.update(url=shown, outcome="invalid_url", reason=fault.reason, kind="seed", input=_input(fault.input), final=True)
        row.update(depth=0, hops=0, fetched_at=iso(wall), tag=fault.tag, listed=shown, extra=_object(extra))
        yield None, row


def _link_row(link: Link, outcome: str, reason: str | None) -> Row:
    row = dict(_EMPTY)
    row["url"] = link.url if link.given is None or _is_absolute(link.given) is None else urls.masked(link.given)
    row["canonical"] = link.url
    row["outcome"] = outcome
    row["reason"] = reason
    row["kind"] = link.kind
    row["input"] = _input(link.input) if link.input is not None else None
    row["via"] = link.via
    row["depth"] = link.depth
    row["hops"] = link.hops
    row["tag"] = link.tag
    if (listed := link.as_listed) is not None:
        row["listed"] = listed if listed is link.url else urls.masked(listed)
        row["extra"] = _object(link.extra) if link.extra is not None else None
    return row


def _object(extra: str | None) -> orjson.Fragment | None:
    """JSON as it is kept."""
    return None if extra is None else orjson.Fragment(extra)


def _fill_response(row: Row, page: Page, kept: Kept | None, target: str | None) -> None:
    timings = page.timings
    row["status"] = page.status
    row["location"] = target or (_location(page) if page.status >= 300 else None)
    row["mime"] = page.mime
    row["charset"] = page.charset
    row["bytes_wire"] = page.bytes_wire
    row["bytes_decoded"] = page.bytes_decoded
    row["sha256"] = page.body.sha256.hex() if kept is None or not kept.unmodified else None
    row["truncated"] = page.truncated
    row["fetched_at"] = iso(page.fetched_at)
    row["timings"] = {
        "queue": round(timings.queue, 6),
        "first_byte": round(timings.first_byte, 6),
        "total": round(timings.total, 6),
    }
    row["ip"] = page.ip
    row["archive"] = place_of(kept) if kept is not None else None


def _location(page: Page) -> str | None:
    """Where a response redirects to: canonical if it can be parsed, else as sent."""
    if not 300 <= page.status < 400 or not (raw := page.raw_header("location")):
        return None
    try:
        return urls.parse(urls.escaped(raw), page.url).href
    except FetchError:
        return urls.masked(page.header("location") or "")


def _validators(page: Page) -> tuple[str | None, str | None]:
    """ETag and Last-Modified: the first field of each name."""
    found: dict[bytes, str] = {}
    for name, value in page.headers:
        if len(name) in _VALIDATOR_CHARS and (kind := name.lower()) in _VALIDATORS and kind not in found:
            found[kind] = field_text(value)
    if sum(map(len, found.values())) > VALIDATORS_CHARS_MAX:
        return None, None
    return found.get(b"etag"), found.get(b"last-modified")


def _input(named: Input | None) -> Row | None:
    return None if named is None else {"list": named.list, "line": named.line}


def iso(wall: float) -> str:
    """``2026-11-23T10:00:00.123Z``"""
    return f"{date(wall)[:-1]}.{int(wall * 1000) % 1000:03d}Z"
