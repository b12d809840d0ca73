"""Checks a crawl's directory: every mark against its file, every record and index against its kind's rules, every row
against its record.

Invariants: one pass over rows and records in bounded memory; a fault ends nothing: what can still be checked is checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from crawler.core.durable import OPEN, length_of, missing
from crawler.core.errors import StorageError
from crawler.core.model import Mark
from crawler.output.archive import KINDS, Checker, Findings, Kind, kind_of, refs_of
from crawler.output.file_names import order
from crawler.output.results import Row


def verify(root: Path, marks: Mapping[str, Mark], rows: Iterable[Row], report: Callable[[str], None]) -> Findings:
    """Check the crawl in ``root``; each fault is reported in one sentence. ``rows`` are all rows up to the marks."""
    findings = Findings(report, rows_retired=_are_rows_retired(marks))
    for file, mark in sorted(marks.items()):
        if not mark.retired:
            findings.files += 1
            with findings.noting():
                _check_length(root / file, mark)
    checkers: dict[Kind | None, Checker] = {kind: kind.checker(root, marks, findings) for kind in KINDS.values()}
    for row in _readable(rows, findings):
        findings.rows += 1
        with findings.noting():
            if (refs := refs_of(row)) is None:
                continue
            record = refs[0]
            if (checker := checkers.get(kind_of(record.file))) is None:
                raise StorageError(f"{record.file}: a row names this file, but it is no archive's")
            checker.row(record, row)
    for checker in checkers.values():
        checker.end()
    return findings


def _are_rows_retired(marks: Mapping[str, Mark]) -> bool:
    """Whether a results file is missing from those that are kept: then records may have no row."""
    kept = [order(file) for file, mark in marks.items() if file.startswith("results/") and not mark.retired]
    newest = dict(sorted(kept))
    return len(kept) < sum(number + 1 for number in newest.values())


def _check_length(path: Path, mark: Mark) -> None:
    opened = path.with_name(path.name + OPEN)
    if length_of(path) < mark.length and length_of(opened) < mark.length:
        raise missing(opened if length_of(path) < 0 <= length_of(opened) else path, mark.length, full=mark.closed)


def _readable(rows: Iterable[Row], findings: Findings) -> Iterator[Row]:
    """The rows, up to the first that cannot be read."""
    with findings.noting():
        yield from rows
