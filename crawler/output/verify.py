"""Checks a crawl's directory: every mark against its file, every record and index against its kind's rules, every row
against its record.

Invariants: one pass over rows and records in bounded memory; a fault ends nothing: what can still be checked is checked.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from pathlib import Path

from crawler.core.durable import OPEN, length_of, missing
from crawler.core.errors import StorageError
from crawler.core.model import Mark
from crawler.output.archive import KINDS, Checker, Findings, Kind, kind_of, refs_of
from crawler.output.file_names import order, retired_in
from crawler.output.results import Row, rows


def verify(
    root: Path,
    marks: Mapping[str, Mark],
    marks_now: Callable[[], Mapping[str, Mark]],
    is_retired: Callable[[str], bool],
    report: Callable[[str], None],
) -> Findings:
    """Check the crawl in ``root``; each fault is reported in one sentence. What is retired meanwhile is none: ``is_retired``, and
    ``marks_now`` as of the last commit, know of that."""
    findings = Findings(report, rows_retired=_are_rows_retired(marks))
    faulty = _check_lengths(root, marks, marks_now, findings)

    def is_skipped(file: str) -> bool:
        findings.rows_retired |= (skipped := file in faulty or is_retired(file))
        return skipped

    checkers: dict[Kind | None, Checker] = {kind: kind.checker(root, marks, findings) for kind in KINDS.values()}
    for row in _readable((row for _, row in rows(root, marks, is_retired=is_skipped)), findings):
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


def _check_lengths(
    root: Path, marks: Mapping[str, Mark], marks_now: Callable[[], Mapping[str, Mark]], findings: Findings
) -> Set[str]:
    """The files that are missing or too short. One deleted since the marks were read had been marked as retired before."""
    faults: dict[str, StorageError] = {}
    for file, mark in sorted(marks.items()):
        if not mark.retired:
            findings.files += 1
            try:
                _check_length(root / file, mark)
            except StorageError as error:
                faults[file] = error
    is_gone = retired_in(marks)
    if faults:
        with contextlib.suppress(StorageError):  # the store's faults are told by the store
            is_gone = retired_in(marks_now())
    faulty = {file: fault for file, fault in faults.items() if not is_gone(file)}
    for fault in faulty.values():
        findings.fault(str(fault))
    return faulty.keys()


def _check_length(path: Path, mark: Mark) -> None:
    opened = path.with_name(path.name + OPEN)
    if max(map(length_of, (path, opened, path))) < mark.length:  # it may be renamed between two looks
        raise missing(opened if length_of(path) < 0 <= length_of(opened) else path, mark.length, full=mark.closed)


def _readable(rows: Iterable[Row], findings: Findings) -> Iterator[Row]:
    """The rows, up to the first that cannot be read: which records have a row behind it, nobody knows."""
    with findings.noting():
        yield from rows
        return
    findings.rows_retired = True
