"""Result rows on disk: JSON lines in ``results/results-NNNNNN.jsonl``, appended, rolled at a commit, read back.

Invariant: a reader stops at the mark, so a row that was seen once stays, also while a crawl runs.
"""

from __future__ import annotations

import errno
import io
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final, TypedDict

import msgspec
import orjson
from msgspec import Meta, Struct

from crawler.core import exact_json
from crawler.core.durable import length_of, missing, storing
from crawler.core.errors import StorageError
from crawler.core.model import Mark, Ref
from crawler.core.rolling import RollingFile
from crawler.output.archive import refs_of
from crawler.output.file_names import WHOLE, order, part_prefix

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

_NAME: Final = re.compile(r"results/(?:p\d{2,}-)?results-(\d{6,})\.jsonl")
_MOMENT: Final = r"^[1-9]\d{3}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])T([01]\d|2[0-3]):[0-5]\d:[0-5]\d\.\d{3}Z$"
_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")

Row = dict[str, Any]


class _Line(TypedDict):
    list: str
    line: int


class _Timings(TypedDict):
    queue: float
    first_byte: float
    total: float


class _Place(TypedDict, total=False):
    file: str
    offset: int
    length: int
    path: str
    revisit_of: _Place


class _Shape(TypedDict):
    """Of what every row has had from the beginning: what a disk has damaged need not have it."""

    url: str
    canonical: str | None
    outcome: str
    status: int | None
    reason: str | None
    kind: str
    input: _Line | None
    final: bool
    via: str | None
    depth: int | None
    hops: int | None
    location: str | None
    mime: str | None
    charset: str | None
    bytes_wire: int | None
    bytes_decoded: int | None
    sha256: str | None
    truncated: str | None
    fetched_at: Annotated[str, Meta(pattern=_MOMENT)]
    attempt: int | None
    timings: _Timings | None
    ip: str | None
    archive: _Place | None
    tag: str | int | float | None


class Results(RollingFile):
    """The rows of the crawl in ``root``, or of the part of it with this number."""

    def __init__(self, root: Path, roll_bytes: int, part: int = WHOLE) -> None:
        super().__init__(root, f"results/{part_prefix(part, '-')}results-", ".jsonl", roll_bytes)

    def append(self, row: Mapping[str, Any]) -> Ref:
        """Write one row; where it stands, its line end included."""
        line = _line(row)
        return Ref(*self.write(line), len(line))

    def holds(self, ref: Ref) -> bool:
        """Whether the file of a row that was committed is still there."""
        return length_of(self._root / ref.file) >= 0

    def row(self, ref: Ref) -> Row | None:
        """One that was committed; None if it cannot be read any more."""
        try:
            return row_at(self._root, ref)
        except StorageError:
            return None


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
    """Every committed row and where it stands, in order, one part's behind the other's, from ``start`` (file, offset) on.
    ``is_retired`` may know of later marks than these. StorageError: a file is missing (and not retired) or damaged."""
    first = order(start[0]) if start else (-1, 0)
    for key in sorted((key for key in marks if _NAME.fullmatch(key)), key=order):
        if order(key) < first or marks[key].retired or (is_retired is not None and is_retired(key)):
            continue
        offset = start[1] if start is not None and order(key) == first else 0
        try:
            file = _opened(root / key, marks[key])
        except StorageError:
            if is_retired is not None and is_retired(key):  # just now
                continue
            raise
        for line in _lines(file, root / key, offset, marks[key].length):
            yield Ref(key, offset, len(line)), _parsed(line, key, offset)
            offset += len(line)


def row_at(root: Path, ref: Ref) -> Row | None:
    """The row at a place the store knows; None if its file was retired."""
    path = root / ref.file
    try:
        with storing(path), path.open("rb") as file:
            file.seek(ref.offset)
            line = file.read(min(ref.length, ROW_BYTES_MAX))
    except StorageError as error:
        if error.errno != errno.ENOENT:
            raise
        return None
    return _parsed(line, ref.file, ref.offset)


def _opened(path: Path, mark: Mark) -> io.FileIO:
    if length_of(path) < mark.length:
        raise missing(path, mark.length, full=mark.closed)
    with storing(path):
        return path.open("rb", buffering=0)


def _lines(file: io.FileIO, path: Path, offset: int, end: int) -> Iterator[bytes]:
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
        row: Row = orjson.loads(line)
        msgspec.convert(row, _Shape)
        return row if row.get("extra") is None else exact_json.loads(line)  # nowhere else is a whole number beyond 64 bits
    except (orjson.JSONDecodeError, msgspec.ValidationError) as error:
        raise StorageError(f"{file}: the row at {offset} is damaged: {error}") from None


def _line(row: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # a text that is not Unicode: a file name or a line with stray bytes
        return orjson.dumps(_clean(row), option=orjson.OPT_APPEND_NEWLINE)


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", value)
    return {key: _clean(inner) for key, inner in value.items()} if isinstance(value, Mapping) else value
