"""The marked files of a crawl by their names, which of them are no longer kept, and what retention makes of them. Pure.

The law: a mark goes only after its file has gone, and the newest of each kind stays: numbers are never given twice, and a
file without a mark that is older than one with a mark is known to have been there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Set
from typing import Final

from crawler.core.model import Mark

EXCHANGE: Final = "exchange/"
"""What the parts of a crawl send each other: deleted by them, once all have read it."""
GONE: Final = Mark(0, closed=True, retired=True)
"""Of a file that was moved or deleted, and whose mark is still needed."""
UNNAMED: Final = math.inf
"""In place of the time of a closed file that has not got its final name yet."""
_PART: Final = re.compile(r"results/p(\d{2,})-.*|(?:warc|index)/[A-Za-z0-9_]+-\d{17}-\d{5,}-p(\d{2,})~.*")
_NUMBER: Final = re.compile(r"(?:warc|index)/[A-Za-z0-9_]+-\d{17}-(\d{5,})-.*|results/(?:p\d{2,}-)?results-(\d{6,})\.jsonl")


WHOLE: Final = -1
"""In place of the number of a part: the crawl is not divided, or its parts write such files together."""


def part_prefix(part: int, end: str) -> str:
    """What tells the files of one part of a crawl from those of the others."""
    return "" if part == WHOLE else f"p{part:02d}{end}"


def part_of(file: str) -> int:
    """The part of a crawl that writes a file, or WHOLE."""
    match = _PART.fullmatch(file)
    return int(match[1] or match[2]) if match else WHOLE


def number_of(file: str) -> int:
    """Serial of a WARC file or an index, number of a results file; -1 if it is none of them."""
    match = _NUMBER.fullmatch(file)
    return int(match[1] or match[2]) if match else -1


def order(file: str) -> tuple[int, int]:
    """By which files of one kind are read: one part's behind the other's, and each by number."""
    return part_of(file), number_of(file)


def index_of(warc: str) -> str:
    """The index beside a WARC file."""
    return "index/" + warc.removeprefix("warc/").removesuffix(".warc.gz") + ".cdxj"


def retired_in(marks: Mapping[str, Mark]) -> Callable[[str], bool]:
    """Whether a file that a record, a row or a cursor names was retired, marked so or already without a mark."""
    newest = _newest(marks)

    def retired(file: str) -> bool:
        if (mark := marks.get(file)) is not None:
            return mark.retired
        return -1 < number_of(file) < newest.get(_kind(file), -1)

    return retired


def noticed(marks: Mapping[str, Mark], there: Mapping[str, float]) -> dict[str, Mark | None]:
    """What becomes of the marks of closed files that are not ``there`` (by when they were last written). None: no mark."""
    lost = {file for file, mark in marks.items() if mark.closed and file not in there}
    for file in [file for file in lost if file.startswith("warc/") and not marks[file].retired]:
        lost.add(index_of(file))  # its operator moved it: what is left of the pair is the operator's
    newest = _newest(marks)
    told: dict[str, Mark | None] = {}
    for file in lost & marks.keys():
        is_needed = number_of(file) >= newest[_kind(file)] or _is_half_of_a_pair(file, marks, lost)
        told[file] = GONE if is_needed else None
    return {file: mark for file, mark in told.items() if mark != marks[file]}


def expired(marks: Mapping[str, Mark], there: Mapping[str, float], now: float, age_s: float, bytes_max: int) -> list[str]:
    """Files to be deleted: closed ones older than ``age_s``, and the oldest of those that are together more than
    ``bytes_max``; 0 is no limit. A WARC file comes with its index."""
    kept = {file: mark for file, mark in marks.items() if not mark.retired}
    total = sum(mark.length for mark in kept.values())
    chosen: list[str] = []
    for file in sorted((file for file, mark in kept.items() if mark.closed and file in there), key=lambda file: there[file]):
        if file.startswith("index/") or there[file] == UNNAMED:
            continue
        if not (age_s and now - there[file] > age_s) and not (bytes_max and total > bytes_max):
            continue
        unit = [each for each in (file, index_of(file)) if each in kept]
        total -= sum(kept[each].length for each in unit)
        chosen += unit
    return chosen


def _is_half_of_a_pair(file: str, marks: Mapping[str, Mark], lost: Set[str]) -> bool:
    """An index that was lost alone."""
    warc = "warc/" + file.removeprefix("index/").removesuffix(".cdxj") + ".warc.gz"
    return file.startswith("index/") and warc in marks and warc not in lost


def _newest(marks: Mapping[str, Mark]) -> dict[tuple[str, int], int]:
    newest: dict[tuple[str, int], int] = {}
    for file in marks:
        newest[_kind(file)] = max(newest.get(_kind(file), -1), number_of(file))
    return newest


def _kind(file: str) -> tuple[str, int]:
    """Files of one kind, and one part, are numbered."""
    return file.partition("/")[0], part_of(file)
