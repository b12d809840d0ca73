"""Which rows are wanted: one set of conditions for all that is printed or exported. Pure."""

from __future__ import annotations

from msgspec import Struct

from crawler.core.text import matches_mime
from crawler.output.results import Row


class Filter(Struct, frozen=True):
    """What is empty allows everything. ``mimes``: media types or ranges such as ``image/*``; ``statuses``: such as ``404`` or
    ``5xx``; ``tags``: as text; ``since``: of rows fetched from then on, as rows have it (``2026-11-23T10:00:00.000Z``)."""

    outcomes: frozenset[str] = frozenset()
    kinds: frozenset[str] = frozenset()
    changes: frozenset[str] = frozenset()
    mimes: tuple[str, ...] = ()
    statuses: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()
    since: str = ""

    def wants(self, row: Row) -> bool:
        if self.kinds and row["kind"] not in self.kinds:
            return False
        if self.outcomes and row["outcome"] not in self.outcomes:
            return False
        if self.changes and row.get("change") not in self.changes:
            return False
        if self.tags and (row["tag"] is None or str(row["tag"]) not in self.tags):
            return False
        if self.since and row["fetched_at"] < self.since:
            return False
        status = str(row["status"])
        if self.statuses and status not in self.statuses and f"{status[0]}xx" not in self.statuses:
            return False
        return not self.mimes or any(matches_mime(row["mime"] or "", pattern) for pattern in self.mimes)
