"""Final rows: one per listed line, the latest attempt of each URL, duplicates resolved.

Invariants: a listed line has at most one row here, and exactly one once all that descends from it is settled. Nothing is
remembered between rows: the store is asked instead, so the memory used does not grow with the crawl.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Final, TypeAlias

from msgspec.structs import replace

from crawler.core.model import NOT_PAGES, Input, Known, Ref
from crawler.output.file_names import part_of
from crawler.output.results import Row
from crawler.output.rows import iso

HOPS_MAX: Final = 32
"""Redirects followed from a known URL to its page."""
_NAMED: Final = ("url", "kind", "input", "via", "depth", "hops", "tag", "listed", "extra")
"""Fields that say how a URL was named; the others say what was found there."""

Lookup: TypeAlias = Callable[[str], Known | str | None]
Lags: TypeAlias = Callable[[str, str], bool]
"""Whether the store may not know yet what a results file says of a canonical URL."""
ELSEWHERE: Final = "elsewhere"
"""What is known of a URL that is perhaps another's to know."""


def never_lags(file: str, url: str) -> bool:
    return False


def final_rows(
    rows: Iterable[tuple[Ref, Row]],
    lookup: Lookup,
    row_at: Callable[[Ref], Row | None],
    lags: Lags = never_lags,
    *,
    is_partial: bool = False,
) -> Iterator[Row]:
    """One row per listed line and per page found besides. ``rows`` are all rows with their places, ``lookup`` is the
    store's, as of the same commit; or, where it ``lags``, of an earlier one. ``is_partial``: what it does not know may be
    another's to know."""
    followed = partial(_followed, lookup, row_at, is_partial)
    for ref, row in rows:
        if not row["final"] or row["kind"] in NOT_PAGES:  # earlier versions made sitemaps final
            continue
        if row["canonical"] is None:
            yield row
        elif row["outcome"] == "skipped" and row["reason"] == "duplicate":
            if (resolved := _resolved(ref, row, followed, row_at)) is not None:
                yield resolved
        elif is_ahead(ref, row, known := lookup(row["canonical"]), lags):
            yield row
        elif isinstance(known, Known) and _is_latest(ref, known):
            yield row if _leads_here(row, known, followed) else {**row, "input": None, "listed": None, "extra": None}


def is_ahead(ref: Ref, row: Row, known: Known | str | None, lags: Lags) -> bool:
    """Whether a row is of a first visit to a page, which a store does not know of yet."""
    if isinstance(known, Known):
        return False
    is_visit = row["kind"] not in NOT_PAGES and row["kind"] != "recrawl" and row["reason"] != "duplicate"
    return is_visit and lags(ref.file, row["canonical"])


def _followed(lookup: Lookup, row_at: Callable[[Ref], Row | None], is_partial: bool, url: str) -> Known | str | None:
    """What is known of a URL, or ELSEWHERE; of one whose redirect was not followed when it was last visited, as it is excluded by
    now, no location: its own row is the final one."""
    known = lookup(url)
    if isinstance(known, Known) and known.outcome == "redirect" and known.row is not None:
        row = row_at(known.row)
        if row is not None and row["final"]:
            return replace(known, location=None)
    return ELSEWHERE if is_partial and not isinstance(known, Known) else known


def _is_latest(ref: Ref, known: Known) -> bool:
    """Whether a row is the latest of its URL."""
    return known.row == ref or known.link.kind == "robots"  # a robots visit has a row of its own, and no line


def _leads_here(row: Row, known: Known, lookup: Lookup) -> bool:
    """Whether the line that a row carries still redirects to its page; on a later visit it may have led elsewhere."""
    kind = known.link.kind if row["kind"] == "recrawl" else row["kind"]
    return row["input"] is None or _path(row["canonical"], row["via"], kind, lookup) is not None


def _path(target: str, via: str | None, kind: str, lookup: Lookup) -> list[str] | None:
    """The pages whose redirects led to ``target``, last first, as far as they are known here; None if one of them redirects to
    another by now."""
    pages: list[str] = []
    while kind == "redirect" and via is not None and len(pages) < HOPS_MAX:
        if (known := lookup(via)) == ELSEWHERE:
            break
        if not isinstance(known, Known) or known.outcome != "redirect" or known.location != target:
            return None
        pages.append(via)
        target, via, kind = via, known.link.via, known.link.kind
    return pages


def _resolved(ref: Ref, row: Row, lookup: Lookup, row_at: Callable[[Ref], Row | None]) -> Row | None:
    """The page's record under the line's name; the row itself where there is none (not settled yet, or a loop of redirects
    between listed pages); None if the line has another row, or if there is no line."""
    if row["input"] is None:
        return None
    # 1. The redirects that led the line here must still do so: otherwise the row is of an earlier visit.
    path = _path(row["canonical"], row["via"], row["kind"], lookup)
    if path is None or (path and not _belongs_to(lookup(path[0]), ref, row)):
        return None
    # 2. Where the known URL leads by now.
    known = _page(row, path, lookup)
    if known is None or known.row is None:
        return row
    # 3. The page's own row may be this line's already.
    if _is_named_by(row, known, lookup):
        return None
    # 4. The page's row, named as the line named it; none if its results file was retired.
    found = row_at(known.row)
    if found is None:
        return row
    return {**found, **{name: row.get(name) for name in _NAMED}, "final": True}


def _page(row: Row, path: list[str], lookup: Lookup) -> Known | None:
    """Where a known URL leads: to a page that has its own row for the line, or to the end of its redirects."""
    url = row["canonical"]
    for _ in range(HOPS_MAX):
        known = lookup(url)
        if url in path or not isinstance(known, Known):
            return None
        if known.outcome != "redirect" or known.location is None or _is_named_by(row, known, lookup):
            return known
        url = known.location
    return None


def _is_named_by(row: Row, known: Known, lookup: Lookup) -> bool:
    """Whether the row's line leads to this page's own row as well."""
    link, line = known.link, Input(row["input"]["list"], row["input"]["line"])
    return link.input == line and _path(link.url, link.via, link.kind, lookup) is not None


def _belongs_to(source: Known | str | None, ref: Ref, row: Row) -> bool:
    """Whether a redirect's duplicate row is of the last visit to the page that redirects: it stands directly behind that one's
    own, as they are of one commit, and files roll between commits. Another part of the crawl makes it later, elsewhere, with the
    time of the visit; in a directory of an earlier version with that of its own commit."""
    before = source.row if isinstance(source, Known) else None
    if not isinstance(source, Known) or before is None:
        return False
    if part_of(before.file) != part_of(ref.file):
        return str(row["fetched_at"]) >= iso(source.fetched_at)
    return before.file == ref.file and before.offset + before.length == ref.offset
