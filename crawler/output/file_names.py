"""Names of a crawl's marked files: which belong together, which are no longer kept, what retention makes of them. Pure.

Results are ``results/results-NUMBER.jsonl``; a file of an archive is ``FOLDER/PREFIX-TIME-SERIAL-HOST...``, and its index, if
it has one, stands under the same PREFIX-TIME-SERIAL in ``index/``.

Invariants: a mark goes only after its file has gone, and the newest of each folder stays. So no number is given twice, and a
file without a mark that is older than one with a mark is known to have been there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Final

from crawler.core.model import Mark

EXCHANGE: Final = "exchange/"
"""What the parts of a crawl send each other: deleted by them, once all have read it."""
GONE: Final = Mark(0, closed=True, retired=True)
"""Of a file that was moved or deleted, and whose mark is still needed."""
UNNAMED: Final = math.inf
"""In place of the time of a closed file that has not got its final name yet."""
_INDEX: Final = "index/"
_NAME: Final = re.compile(
    r"[a-z]+/(?P<unit>[A-Za-z0-9_]+-\d{17}-(?P<serial>\d{5,}))-(?:p(?P<part>\d{2,})~)?.*"
    r"|results/(?:p(?P<results_part>\d{2,})-)?results-(?P<number>\d{6,})\.jsonl"
)


WHOLE: Final = -1
"""In place of the number of a part: the crawl is not divided, or its parts write such files together."""


def part_prefix(part: int, end: str) -> str:
    """What tells the files of one part of a crawl from those of the others."""
    return "" if part == WHOLE else f"p{part:02d}{end}"


def part_of(file: str) -> int:
    """The part of a crawl that writes a file, or WHOLE."""
    match = _NAME.fullmatch(file)
    number = match and (match["part"] or match["results_part"])
    return int(number) if number else WHOLE


def number_of(file: str) -> int:
    """Serial of an archive's file or index, number of a results file; -1 if it is none of them."""
    match = _NAME.fullmatch(file)
    return int(match["serial"] or match["number"]) if match else -1


def folder_of(file: str) -> str:
    """``warc/``"""
    return file.partition("/")[0] + "/"


def order(file: str) -> tuple[int, int]:
    """By which files of one kind are read: one part's behind the other's, and each by number."""
    return part_of(file), number_of(file)


def indexes_in(marks: Mapping[str, Mark]) -> Callable[[str], str | None]:
    """The index of an archive's file; None if it has none."""
    indexes = {_unit_of(file): file for file in marks if file.startswith(_INDEX)}

    def index_of(file: str) -> str | None:
        return None if file.startswith(_INDEX) or (unit := _unit_of(file)) is None else indexes.get(unit)

    return index_of


def retired_in(marks: Mapping[str, Mark]) -> Callable[[str], bool]:
    """Whether a file that a record, a row, a cursor or earlier marks name was retired, marked so or already without a mark."""
    newest = cache(lambda: _newest(marks))  # of thousands of files it takes a tenth of a second

    def retired(file: str) -> bool:
        if (mark := marks.get(file)) is not None:
            return mark.retired
        return file.startswith(EXCHANGE) or -1 < number_of(file) < newest().get(_folder(file), -1)

    return retired


def noticed(marks: Mapping[str, Mark], there: Mapping[str, float]) -> dict[str, Mark | None]:
    """What becomes of the marks of closed files that are not ``there`` (by when they were last written). None: no mark."""
    # 1. Files that are lost, and the indexes of those that an operator moved: what is left of a pair is the operator's.
    lost = {file for file, mark in marks.items() if mark.closed and file not in there}
    index_of = indexes_in(marks)
    pairs = {index: file for file in marks if (index := index_of(file)) is not None}
    for index, file in pairs.items():
        if file in lost and not marks[file].retired:
            lost.add(index)
    # 2. A mark is still needed of the newest in its folder, and of an index whose file is there; the others go.
    newest = _newest(marks)
    changed: dict[str, Mark | None] = {}
    for file in lost:
        is_lost_alone = file in pairs and pairs[file] not in lost
        is_needed = number_of(file) >= newest[_folder(file)] or is_lost_alone
        changed[file] = GONE if is_needed else None
    return {file: mark for file, mark in changed.items() if mark != marks[file]}


def expired(
    marks: Mapping[str, Mark],
    there: Mapping[str, float],
    now: float,
    age_s: float,
    bytes_max: int,
    *,
    stored_at: str | None = None,
    others: Mapping[str, tuple[float, int]] = {},
) -> list[str]:
    """Files to be deleted: closed ones older than ``age_s``, and the oldest of those that are together more than
    ``bytes_max``; 0 is no limit. An archive's file comes with its index. ``stored_at``: both must be stored there. ``others``:
    (when it was written, bytes) of each file of the other parts, which count, and are deleted by those."""
    index_of = indexes_in(marks)
    kept = {file: mark for file, mark in marks.items() if not mark.retired and (file in there or not mark.closed)}
    total = sum(mark.length for mark in kept.values()) + sum(size for _, size in others.values())
    times = {file: there[file] for file, mark in kept.items() if mark.closed} | {file: at for file, (at, _) in others.items()}
    chosen: list[str] = []
    for file in sorted(times, key=times.__getitem__):
        if (file.startswith(_INDEX) and file not in others) or times[file] == UNNAMED:
            continue
        if not (age_s and now - times[file] > age_s) and not (bytes_max and total > bytes_max):
            continue
        if file in others:
            total -= others[file][1]
            continue
        pair = [name for name in (file, index_of(file)) if name in kept]
        if stored_at is not None and not all(kept[name].is_stored_at(stored_at) for name in pair):
            continue
        total -= sum(kept[name].length for name in pair)
        chosen += pair
    return chosen


def _newest(marks: Mapping[str, Mark]) -> dict[tuple[str, int], int]:
    newest: dict[tuple[str, int], int] = {}
    for file in marks:
        newest[_folder(file)] = max(newest.get(_folder(file), -1), number_of(file))
    return newest


def _folder(file: str) -> tuple[str, int]:
    """The files of one folder, and one part, are numbered."""
    return file.partition("/")[0], part_of(file)


def _unit_of(file: str) -> tuple[str, int] | None:
    """What the names of an archive's file and of its index have in common."""
    match = _NAME.fullmatch(file)
    return (match["unit"], part_of(file)) if match else None
