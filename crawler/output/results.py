"""Result rows on disk: JSON lines in ``results/results-NNNNNN.jsonl``, appended, rolled at a commit, read back.

Invariant: a reader stops at the mark, so a row that was seen once stays, also while a crawl runs.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Final

import orjson
from msgspec import Struct

from crawler.core.durable import MarkedFile, cut_back, length_of, lose, make_dir, missing, storing
from crawler.core.errors import StorageError
from crawler.core.model import Mark, Ref
from crawler.output.archive import refs_of
from crawler.output.file_names import number_of

SCHEMA: Final = 1
# fmt: off
FIELDS: Final = (
    "url", "canonical", "outcome", "status", "reason", "kind", "input", "final", "via", "depth", "hops", "location",
    "mime", "charset", "bytes_wire", "bytes_decoded", "sha256", "truncated", "fetched_at", "attempt", "timings", "ip",
    "archive", "tag", "robots", "listed", "extra", "encoding", "cut", "fault",
    "change",
)
# fmt: on
"""Of a row, behind ``schema``; all are always there, null where they do not apply."""

READ_BYTES: Final = 256 << 10
"""Read of a results file at a time."""
ROW_BYTES_MAX: Final = 8 << 20
"""No row is longer: its texts are bounded by the limits of URLs and header lines."""

_NAME: Final = re.compile(r"results/results-(\d{6,})\.jsonl")
_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")

Row = dict[str, Any]


class Results:
    """The rows of the crawl in ``root``; ``rewind`` must come before the first ``append``. Every method may raise
    StorageError; after that only ``rewind`` and ``close`` may be called."""

    def __init__(self, root: Path, roll_bytes: int) -> None:
        self._root = root
        self._roll_bytes = roll_bytes
        self._file: MarkedFile | None = None
        self._begun: str | None = None
        """The last file that was begun here: perhaps no commit knows it."""
        self._changed = False
        self._closed = False
        self._number = 0

    def append(self, row: Mapping[str, Any]) -> Ref:
        """Write one row; where it stands, its line end included."""
        if self._file is None:
            self._file = self._create()
        assert not self._closed, "append between sync and committed"
        self._changed = True
        line = _line(row)
        return Ref(self._key(), self._file.append(line), len(line))

    def row(self, ref: Ref) -> Row | None:
        """One that was committed; None if it cannot be read any more."""
        try:
            return row_at(self._root, ref)
        except StorageError:
            return None

    def sync(self) -> dict[str, Mark]:
        """Make all rows durable; the mark of the file if it changed. A full file is marked ``closed``."""
        if self._file is None or not self._changed:
            return {}
        self._file.sync()
        self._changed = False
        self._closed = self._file.size >= self._roll_bytes
        return {self._key(): Mark(self._file.size, self._closed)}

    def committed(self) -> None:
        """The mark of the last ``sync`` is committed: a full file is followed by a new one."""
        if self._closed:
            self.close()
            self._number += 1

    def rewind(self, marks: Mapping[str, Mark]) -> list[str]:
        """Cut the open file back to its mark and continue from there; the files moved to lost+found."""
        ours = self._key() if self._file is not None else None
        with suppress(StorageError):  # what its descriptor still held lies behind the mark
            self.close()
        make_dir(self._root / "results")
        own = {key: mark for key, mark in marks.items() if _NAME.fullmatch(key)}
        self._number = max(map(number_of, own), default=-1) + 1
        lost = []
        # 1. Files that a commit knows: the open one is cut back and continued, closed ones must be whole.
        for key, mark in own.items():
            if not mark.closed:
                self._file = MarkedFile.open(self._root / key, mark.length)
                self._number = number_of(key)
            elif not mark.retired and length_of(self._root / key) < mark.length:
                raise missing(self._root / key, mark.length)
        # 2. The next file may exist already: begun by this process and not committed, or lost with an earlier one.
        if self._file is None and length_of(self._root / self._key()) >= 0:
            if self._key() == ours:
                self._file = MarkedFile.open(self._root / ours, 0)
            else:
                lost.append(lose(self._root, self._root / self._key()))
        return lost

    def cut(self, marks: Mapping[str, Mark]) -> None:
        """Close, and cut the open file back to its mark: the process ends. Only ``close`` may follow."""
        with suppress(StorageError):
            self.close()
        names = {key for key, mark in marks.items() if _NAME.fullmatch(key) and not mark.closed}
        for key in {*names, *((self._begun,) if self._begun else ())}:
            cut_back(self._root / key, marks.get(key, Mark(0)).length)

    def close(self) -> None:
        file, self._file = self._file, None
        self._changed = self._closed = False
        if file is not None:
            file.close()

    @property
    def buffered(self) -> int:
        """Bytes appended that wait in memory. May be asked by any thread."""
        file = self._file
        return file.buffered if file is not None else 0

    def _key(self) -> str:
        return f"results/results-{self._number:06d}.jsonl"

    def _create(self) -> MarkedFile:
        while length_of(self._root / self._key()) >= 0:
            self._number += 1  # not this crawl's: left alone
        file = MarkedFile.create(self._root / self._key())
        self._begun = self._key()
        return file


class Result(Struct, frozen=True):
    """One row and a way to its body."""

    row: Row
    open_ref: Callable[[Ref], BinaryIO]

    def open(self) -> BinaryIO:
        """The decoded body, in bounded memory; close it after use. LookupError: none was kept, or it is kept no longer."""
        if (ref := body_ref(self.row)) is None:
            raise LookupError(f"no body was kept of {self.row['url']}")
        return self.open_ref(ref)


def read(
    root: Path,
    marks: Mapping[str, Mark],
    open_body: Callable[[Ref], BinaryIO],
    is_retired: Callable[[str], bool] | None = None,
) -> Iterator[Result]:
    """Every row up to the marks, in order. StorageError: a file is missing or damaged."""
    for _, row in rows(root, marks, is_retired=is_retired):
        yield Result(row, open_body)


def body_ref(row: Row) -> Ref | None:
    """Where the body of a row stands; None if none was kept."""
    refs = refs_of(row)
    return refs and refs[1]


def rows(
    root: Path,
    marks: Mapping[str, Mark],
    start: tuple[str, int] | None = None,
    is_retired: Callable[[str], bool] | None = None,
) -> Iterator[tuple[Ref, Row]]:
    """Every committed row and where it stands, in order, from ``start`` (file, offset) on. ``is_retired`` may know of later
    marks than these. StorageError: a file is missing (and not retired) or damaged."""
    first = (number_of(start[0]), start[1]) if start else (0, 0)
    for key in sorted((key for key in marks if _NAME.fullmatch(key)), key=number_of):
        if number_of(key) < first[0] or marks[key].retired or (is_retired is not None and is_retired(key)):
            continue
        offset = first[1] if number_of(key) == first[0] else 0
        for line in _lines(root / key, offset, marks[key].length):
            yield Ref(key, offset, len(line)), _parsed(line, key, offset)
            offset += len(line)


def row_at(root: Path, ref: Ref) -> Row | None:
    """The row at a place the store knows; None if its file was retired."""
    path = root / ref.file
    if length_of(path) < 0:
        return None
    with storing(path), path.open("rb") as file:
        file.seek(ref.offset)
        line = file.read(min(ref.length, ROW_BYTES_MAX))
    return _parsed(line, ref.file, ref.offset)


def _lines(path: Path, offset: int, end: int) -> Iterator[bytes]:
    if length_of(path) < end:
        raise missing(path, end)
    with storing(path):
        file = path.open("rb", buffering=0)
    with file, io.BytesIO() as held:
        file.seek(offset)
        while offset < end:
            with storing(path):
                piece = file.read(min(READ_BYTES, end - offset))
            offset += len(piece)
            *whole, rest = piece.split(b"\n")
            for text in whole:
                yield held.getvalue() + text + b"\n"
                held.seek(0)
                held.truncate()
            held.write(rest)
            if not piece or held.tell() > ROW_BYTES_MAX:
                break
        if offset < end or held.tell():
            raise StorageError(f"{path}: the row before {offset} does not end", final=True)


def _parsed(line: bytes, file: str, offset: int) -> Row:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise StorageError(f"{file}: the row at {offset} is damaged: {error}") from None
    if not isinstance(row, dict):
        raise StorageError(f"{file}: the row at {offset} is damaged: it is not an object")
    return row


def _line(row: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # a text that is not Unicode: a file name or a line with stray bytes
        return orjson.dumps(_clean(row), option=orjson.OPT_APPEND_NEWLINE)


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", value)
    return {key: _clean(inner) for key, inner in value.items()} if isinstance(value, Mapping) else value
