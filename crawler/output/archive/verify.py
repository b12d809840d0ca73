"""Is everything there that was committed? Every mark against its file, every record against its digests, every row against
its body.

The law: one pass over the archive in bounded memory, and a fault ends nothing: what can still be checked is checked. Rows
and records were appended in one order, so they are read side by side.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final

from msgspec import Struct

from crawler.core.durable import length_of, missing, storing
from crawler.core.errors import StorageError
from crawler.core.model import Mark, Ref
from crawler.output.archive.reader import RecordReader, open_file
from crawler.output.archive.records import sha1_text
from crawler.output.file_names import number_of, order, part_of, retired_in

READ_BYTES: Final = 1 << 20
INDEX_LINE_BYTES_MAX: Final = 1 << 20
ANSWERS: Final = frozenset({"response", "revisit"})

Row = dict[str, Any]


class Verified(Struct):
    """What was looked at, and how much of it was not as it should be."""

    files: int = 0
    records: int = 0
    rows: int = 0
    faults: int = 0


def verify(root: Path, marks: Mapping[str, Mark], rows: Iterable[Row], report: Callable[[str], None]) -> Verified:
    """Check the crawl in ``root``; each fault is reported in one sentence. ``rows`` are all rows up to the marks."""
    return _Verifier(root, marks, report).run(rows)


class _Verifier:
    def __init__(self, root: Path, marks: Mapping[str, Mark], report: Callable[[str], None]) -> None:
        self._root = root
        self._marks = marks
        self._report = report
        self._counts = Verified()
        self._is_retired = retired_in(marks)
        rows_kept = [
            (part_of(key), number_of(key)) for key, mark in marks.items() if key.startswith("results/") and not mark.retired
        ]
        newest = dict(sorted(rows_kept))
        self._rows_retired = len(rows_kept) < sum(number + 1 for number in newest.values())

    def run(self, rows: Iterable[Row]) -> Verified:
        for key, mark in sorted(self._marks.items()):
            if not mark.retired:
                self._try(partial(self._file, key, mark))
        places = _Places(self._rows(rows))
        for key in sorted((key for key in self._marks if key.startswith("warc/")), key=order):
            if not self._marks[key].retired:
                answers = self._warc(key, self._marks[key].length, places)
                self._try(partial(self._index, key, answers))
        self._not_there(places)
        return self._counts

    def _fault(self, text: str) -> None:
        self._counts.faults += 1
        self._report(text)

    def _try(self, check: Callable[[], None]) -> None:
        try:
            check()
        except StorageError as error:
            self._fault(str(error))

    def _file(self, key: str, mark: Mark) -> None:
        self._counts.files += 1
        path = self._root / key
        opened = path.with_name(path.name + ".open")
        if length_of(path) < mark.length and length_of(opened) < mark.length:
            raise missing(path if length_of(path) >= 0 else opened if length_of(opened) >= 0 else path, mark.length)

    # -- rows -----------------------------------------------------------------------------------------------------

    def _rows(self, rows: Iterable[Row]) -> Iterator[tuple[Ref, Row]]:
        """Rows with a record, and where it stands; bodies kept as files are checked on the way."""
        found = iter(rows)
        while True:
            try:
                row = next(found, None)
            except StorageError as error:
                self._fault(str(error))
                return
            if row is None:
                return
            self._counts.rows += 1
            place = row["archive"]
            if place is None:
                continue
            if "path" in place:
                self._try(partial(self._body, place["path"], row))
            elif self._is_retired(place["file"]):
                continue
            elif place["file"] not in self._marks:
                self._fault(f"{place['file']}: a row names this file, but no commit does")
            else:
                yield Ref(place["file"], place["offset"], place["length"]), row

    def _body(self, name: str, row: Row) -> None:
        digest = hashlib.sha256()
        with open_file(self._root, name) as file, storing(self._root / name):
            while piece := file.read(READ_BYTES):
                digest.update(piece)
        self._counts.records += 1
        if digest.hexdigest() != name.rpartition("/")[2].partition(".")[0] or row["sha256"] not in (None, digest.hexdigest()):
            raise StorageError(f"{name}: its sha256 is {digest.hexdigest()}")

    # -- records --------------------------------------------------------------------------------------------------

    def _warc(self, key: str, end: int, places: _Places) -> int | None:
        """Check one file's records and the rows that name them; how many answers it holds, None if that cannot be told."""
        offset = answers = 0
        whole = True
        try:
            file = open_file(self._root, key)
        except StorageError:
            return None  # reported with its mark
        with file:
            while offset < end:
                try:
                    kind, length, sha256 = _record(file, key, offset, end)
                except StorageError as error:
                    self._fault(str(error))
                    whole = False
                    places.drop(key, offset + 1)
                    offset = places.offset_in(key, end)
                    continue
                self._counts.records += 1
                if kind in ANSWERS:
                    answers += 1
                    self._answer(Ref(key, offset, length), sha256, places)
                offset += length
        self._not_there(places.drop(key, end))
        return answers if whole else None

    def _answer(self, ref: Ref, sha256: str | None, places: _Places) -> None:
        self._not_there(places.drop(ref.file, ref.offset))
        row = places.take(ref)
        if row is None:
            if not self._rows_retired:
                self._fault(f"{ref.file}: no row names the record at {ref.offset}")
        elif row["archive"]["length"] != ref.length:
            self._fault(f"{ref.file}: the record at {ref.offset} is {ref.length} bytes long, its row says otherwise")
        elif sha256 is not None and row["sha256"] != sha256:
            self._fault(f"{ref.file}: the body of the record at {ref.offset} is not the one of its row ({row['sha256']})")

    def _not_there(self, places: Iterable[tuple[Ref, Row]]) -> None:
        for ref, _ in places:
            self._fault(f"{ref.file}: a row names a record at {ref.offset}, which is not there")

    def _index(self, key: str, answers: int | None) -> None:
        """One line per answer; in order, once the file is closed."""
        name = key.replace("warc/", "index/").replace(".warc.gz", ".cdxj")
        mark = self._marks.get(name)
        if mark is None:
            raise StorageError(f"{name}: no length was committed")
        if mark.retired:
            return
        count, last, left = 0, b"", mark.length
        with storing(self._root / name), io.BufferedReader(open_file(self._root, name)) as file:
            while left > 0 and (line := file.readline(min(left, INDEX_LINE_BYTES_MAX))):
                if mark.closed and line < last:
                    raise StorageError(f"{name}: line {count + 1} is out of order")
                count, last, left = count + 1, line, left - len(line)
        if answers is not None and count != answers:
            raise StorageError(f"{name}: {count} lines for {answers} answers")


class _Places:
    """Rows with records, in order, one of them looked at ahead."""

    def __init__(self, rows: Iterator[tuple[Ref, Row]]) -> None:
        self._rows = rows
        self._next = next(rows, None)

    def __iter__(self) -> Iterator[tuple[Ref, Row]]:
        while self._next is not None:
            yield self._pop()

    def take(self, ref: Ref) -> Row | None:
        """The row of this record, if it is the next one."""
        if self._next is not None and (self._next[0].file, self._next[0].offset) == (ref.file, ref.offset):
            return self._pop()[1]
        return None

    def drop(self, file: str, before: int) -> list[tuple[Ref, Row]]:
        """The next rows, as long as they name records of this file before an offset."""
        dropped = []
        while self._next is not None and self._next[0].file == file and self._next[0].offset < before:
            dropped.append(self._pop())
        return dropped

    def offset_in(self, file: str, end: int) -> int:
        """Where the next row says that a record of this file begins; ``end`` if it is of another one."""
        return self._next[0].offset if self._next is not None and self._next[0].file == file else end

    def _pop(self) -> tuple[Ref, Row]:
        taken, self._next = self._next, next(self._rows, None)
        assert taken is not None
        return taken


def _record(file: BinaryIO, name: str, offset: int, end: int) -> tuple[str, int, str | None]:
    """(kind, length, sha256 of the payload of a response) of the record at ``offset``. StorageError: it is damaged."""
    record = RecordReader(file, name, offset, end)
    block = hashlib.sha1(usedforsecurity=False)

    def digested() -> Iterator[bytes]:
        for piece in record.block():
            block.update(piece)
            yield piece

    if record.kind == "response":
        _, payload = record.split(digested())
        sha1, sha256 = hashlib.sha1(usedforsecurity=False), hashlib.sha256()
        for piece in payload:
            sha1.update(piece)
            sha256.update(piece)
        if record.fields.get("warc-payload-digest") != sha1_text(sha1.digest()):
            raise record.broken("has another payload than its digest says")
        found = sha256.hexdigest()
    else:
        found = None
        for _ in digested():
            pass
    if record.fields.get("warc-block-digest") != sha1_text(block.digest()):
        raise record.broken("has another block than its digest says")
    return record.kind, record.length, found
