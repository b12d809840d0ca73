"""Checks WARC files: every record against its digests, its row and its index line.

Invariants: one pass over the files, in bounded memory. Rows and records were appended in one order, so they are read side by
side: each row moves the reading position to the record that it names. A damaged record ends nothing: reading goes on at the
next record that a row names.
"""

from __future__ import annotations

import errno
import hashlib
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

from crawler.core.durable import OPEN, length_of, open_there, storing
from crawler.core.errors import StorageError
from crawler.core.model import Mark, Ref
from crawler.output.archive import cdxj
from crawler.output.archive.kind import Findings
from crawler.output.archive.records import sha1_text
from crawler.output.archive.warc_reader import RecordReader
from crawler.output.file_names import indexes_in, order, retired_in

FOLDER: Final = "warc/"
RESPONSES: Final = frozenset({"response", "revisit"})


class WarcChecker:
    """The files of one crawl, in the order of their parts and serial numbers."""

    def __init__(self, root: Path, marks: Mapping[str, Mark], findings: Findings) -> None:
        self._root, self._marks, self._findings = root, marks, findings
        self._is_retired, self._index_of = retired_in(marks), indexes_in(marks)
        files = sorted((file for file, mark in marks.items() if file.startswith(FOLDER) and not mark.retired), key=order)
        self._ahead = dict.fromkeys(files)  # not begun yet
        self._at: _File | None = None

    def row(self, ref: Ref, row: Mapping[str, Any]) -> None:
        if self._is_retired(ref.file):
            return
        if ref.file not in self._marks:
            self._findings.fault(f"{ref.file}: a row names this file, but no commit does")
            return
        while ref.file in self._ahead:
            self._next()
        if self._at is None or self._at.name != ref.file:
            self._findings.fault(f"{ref.file}: a row names a record at {ref.offset}, which is not there")
        else:
            self._at.row(ref, row)

    def end(self) -> None:
        while self._ahead:
            self._next()
        self._leave()

    def _next(self) -> None:
        self._leave()
        file = next(iter(self._ahead))
        del self._ahead[file]
        self._at = _File(self._root, file, self._marks[file].length, self._findings)

    def _leave(self) -> None:
        """What is left of the current file has no row; then its index is checked."""
        if (file := self._at) is None:
            return
        file.end()
        with self._findings.noting():
            self._check_index(file)
        self._at = None

    def _check_index(self, file: _File) -> None:
        """One line per response, which says where it stands; in order, once the file is closed and has its final name: a kill may
        have come between."""
        name = self._index_of(file.name)
        if name is None:
            raise StorageError(f"{file.name}: no length was committed of its index")
        mark = self._marks[name]
        length = length_of(self._root / name)
        if mark.retired or (length < 0 and length_of(self._root / f"{name}{OPEN}") < 0):
            return  # one that is missing was reported with its mark
        is_sorted = mark.closed and length >= 0
        count, last, places, damaged = 0, b"", 0, 0
        with storing(self._root / name), io.BufferedReader(open_there(self._root / name)) as lines:
            for line, found in cdxj.lines_before(lines, mark.length, self._marks[file.name].length):
                if is_sorted and line < last:
                    raise StorageError(f"{name}: line {count + 1} is out of order")
                count, last = count + 1, line
                if found is not None and found[0] == file.name.rpartition("/")[2]:
                    places += hash(found[1])
                else:
                    damaged = damaged or count
        if file.is_whole and count != file.responses:
            raise StorageError(f"{name}: {count} lines for {file.responses} responses")
        if damaged:
            raise StorageError(f"{name}: line {damaged} is damaged")
        if file.is_whole and places != file.places:
            raise StorageError(f"{name}: its lines do not say where the records stand, or what they hold")


class _File:
    """One file that is read up to ``end_offset``, record by record; ``offset`` is where the next one begins."""

    def __init__(self, root: Path, name: str, end_offset: int, findings: Findings) -> None:
        self.name = name
        self._end, self._findings = end_offset, findings
        self._offset = 0
        self.responses = self.places = 0
        """How many responses were read, and the sum of what stands in the index of each: it does not depend on their order."""
        self.is_whole = True
        """Every record could be read so far."""
        self._is_lost = False
        """The record at ``offset`` is damaged: where the next one begins only a row can tell."""
        try:
            self._file: io.FileIO | None = open_there(root / name)
        except StorageError as error:
            self._file, self.is_whole = None, False
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):  # one that is missing was reported with its mark
                findings.fault(str(error))

    def row(self, ref: Ref, row: Mapping[str, Any]) -> None:
        """Four cases of where the row's record lies:

        1. In a file that cannot be opened, which was reported.
        2. At a damaged record, which was reported. A row behind it says where reading goes on.
        3. At the end of a record: it is read and compared. Records before it have no row.
        4. Anywhere else: there is no such record."""
        if self._file is None:
            return
        self._read_to(ref.offset)
        if self._is_lost:
            if ref.offset <= self._offset:
                return
            self._offset, self._is_lost = min(ref.offset, self._end), False
        if ref.offset != self._offset or self._offset >= self._end:
            self._not_there(ref)
        elif (record := self._read()) is not None:
            kind, length, sha256, _ = record
            if kind not in RESPONSES:
                self._not_there(ref)
            elif ref.length != length:
                self._findings.fault(f"{self.name}: the record at {ref.offset} is {length} bytes long, its row says otherwise")
            elif sha256 is not None and row["sha256"] != sha256:
                self._findings.fault(
                    f"{self.name}: the body of the record at {ref.offset} is not the one of its row ({row['sha256']})"
                )

    def end(self) -> None:
        """Read the rest, which no row names, and close."""
        if self._file is not None:
            self._read_to(self._end)
            self._file.close()

    def _read_to(self, offset: int) -> None:
        """Read the records before ``offset``: those of responses should have had a row."""
        while self._offset < min(offset, self._end) and not self._is_lost:
            at, record = self._offset, self._read()
            if record is not None and record[0] in RESPONSES and not self._findings.rows_retired:
                self._findings.fault(f"{self.name}: no row names the record at {at}")

    def _read(self) -> Checked | None:
        """The next record, as ``checked_at`` says; None if it is damaged."""
        assert self._file is not None
        try:
            checked = checked_at(self._file, self.name, self._offset, self._end)
        except StorageError as error:
            self._findings.fault(str(error))
            self.is_whole, self._is_lost = False, True
            return None
        self._findings.records += 1
        if checked.kind in RESPONSES:
            self.responses += 1
            self.places += hash(checked.place)
        self._offset += checked.length
        return checked

    def _not_there(self, ref: Ref) -> None:
        self._findings.fault(f"{self.name}: a row names a record at {ref.offset}, which is not there")


class Checked(NamedTuple):
    """A record that is whole; ``sha256`` of the payload of a response, ``place`` as its index line has it."""

    kind: str
    length: int
    sha256: str | None
    place: cdxj.Pointer


def checked_at(file: BinaryIO, name: str, offset: int, end: int) -> Checked:
    """The record at ``offset``. StorageError: it is damaged."""
    record = RecordReader(file, name, offset, end)
    block = hashlib.sha1(usedforsecurity=False)

    def digested() -> Iterator[bytes]:
        for piece in record.block():
            block.update(piece)
            yield piece

    if record.kind == "response":
        http, payload = record.split(digested())
        sha1, sha256 = hashlib.sha1(usedforsecurity=False), hashlib.sha256()
        for piece in payload:
            sha1.update(piece)
            sha256.update(piece)
        if record.fields.get("warc-payload-digest") != sha1_text(sha1.digest()):
            raise record.broken("has another payload than its digest says")
        found = sha256.hexdigest()
    else:
        found, http, pieces = None, b"", digested()
        if record.kind == "revisit" and record.fields["content-length"] != "0":
            http, pieces = record.split(pieces)
        for _ in pieces:
            pass
    if record.fields.get("warc-block-digest") != sha1_text(block.digest()):
        raise record.broken("has another block than its digest says")
    url, date, digest = (record.fields.get(field, "") for field in ("warc-target-uri", "warc-date", "warc-payload-digest"))
    place = cdxj.pointer(url, date, digest, offset, record.length, http, is_revisit=record.kind == "revisit")
    return Checked(record.kind, record.length, found, place)
