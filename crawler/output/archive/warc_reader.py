"""WARC records and their bodies, read back in bounded pieces, also from files that are still being written.

Invariants: only what a ``Ref`` or a mark vouches for is read; anything there that is not exactly a record is a StorageError
that names the place.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO, Final

from crawler.core.content_coding import codings_of, decoded, decoders_bytes
from crawler.core.durable import open_there
from crawler.core.errors import FetchError, StorageError
from crawler.core.model import Ref
from crawler.output.archive.gzip_member import MemberReader
from crawler.output.archive.records import END, lines_of

HEAD_BYTES_MAX: Final = 16 << 20
"""Of a response's status line and fields: above what the fetcher's own limits let through."""

READ: Final = frozenset(
    {"warc-type", "content-length", "warc-block-digest", "warc-payload-digest", "warc-target-uri", "warc-date"}
)
"""Fields of a record, in lower case, that are looked at."""


class RecordReader:
    """The record at ``offset``: its head is read at once, its block while iterating over ``block``.

    ``length``, of the compressed member, is known once the block is read to its end."""

    def __init__(self, file: BinaryIO, name: str, offset: int, end: int) -> None:
        self._where = f"{name}: the record at {offset}"
        self._member = MemberReader(file, name, offset, end)
        head, self._rest = self.split(iter(self._member.read, b""))
        lines = (line.decode("utf-8", "replace") for line in lines_of(head[: -len(END)]))
        if (version := next(lines)) != "WARC/1.1":
            raise self.broken(f"begins with {version[:20]!r}")
        fields = ((name.lower(), value) for name, _, value in (line.partition(": ") for line in lines))
        self.fields = {name: value for name, value in fields if name in READ}
        self.kind = self.fields.get("warc-type", "")
        try:
            self._block_bytes = int(self.fields["content-length"])
        except (KeyError, ValueError):
            raise self.broken("has no length") from None

    @property
    def length(self) -> int:
        return self._member.length

    def block(self) -> Iterator[bytes]:
        """The block in pieces; then what follows it is checked to be the record's end."""
        left = self._block_bytes
        tail = b""
        for piece in self._rest:
            part, behind = piece[:left], piece[left:]
            left -= len(part)
            tail = (tail + behind)[: len(END) + 1]
            if part:
                yield part
        if left or tail != END:
            raise self.broken(f"ends {left} bytes early" if left else "is longer than it says")

    def split(self, pieces: Iterable[bytes]) -> tuple[bytes, Iterator[bytes]]:
        """(head up to and with its empty line, what follows) of a record, or of the HTTP message in its block."""
        pieces = iter(pieces)
        held = bytearray()
        for piece in pieces:
            searched = max(0, len(held) - len(END) + 1)
            held += piece
            if (at := held.find(END, searched)) >= 0:
                at += len(END)
                return bytes(held[:at]), chain((bytes(held[at:]),), pieces)
            if len(held) > HEAD_BYTES_MAX:
                break
        raise self.broken("has no end of its head")

    def broken(self, how: str) -> StorageError:
        return StorageError(f"{self._where} {how}")


def open_record_body(root: Path, ref: Ref, *, raw: bool = False) -> BinaryIO:
    """The body of the response record at ``ref``, in bounded memory: decoded, or ``raw`` as it is kept.

    Of a body whose coding is cut or corrupt (its row says so), what can be decoded."""
    file = open_there(root / ref.file)
    try:
        codings, pieces = _response(file, ref)
    except StorageError:
        file.close()
        raise
    if raw:
        return io.BufferedReader(_Stream(file, pieces))
    return io.BufferedReader(_Stream(file, _as_far_as_it_goes(decoded(pieces, codings)), decoders_bytes(codings)))


def codings_at(root: Path, ref: Ref) -> tuple[str, ...]:
    """The codings that the body of the response record at ``ref`` bears. StorageError: there is none."""
    with open_there(root / ref.file) as file:
        return _response(file, ref)[0]


def _response(file: BinaryIO, ref: Ref) -> tuple[tuple[str, ...], Iterator[bytes]]:
    """(content codings, body in pieces) of the response record at ``ref``."""
    record = RecordReader(file, ref.file, ref.offset, ref.offset + ref.length)
    if record.kind != "response":
        raise record.broken(f"is a {record.kind}: it holds no body")
    head, pieces = record.split(record.block())
    return codings_of(header_values(head, b"content-encoding")), pieces


def header_values(head: bytes, name: bytes) -> list[str]:
    """Values of the fields of that lower-case name in an HTTP head."""
    fields = (line.partition(b":") for line in islice(lines_of(head), 1, None))
    return [value.strip().decode("latin-1") for key, _, value in fields if key.lower() == name]


def _as_far_as_it_goes(pieces: Iterator[bytes]) -> Iterator[bytes]:
    try:
        yield from pieces
    except FetchError:
        return


class _Stream(io.RawIOBase):
    """Pieces as a file, for as long as the file behind them is open. ``decoder_bytes``: what undoes their codings may take."""

    def __init__(self, file: BinaryIO, pieces: Iterator[bytes], decoder_bytes: int = 0) -> None:
        self.decoder_bytes = decoder_bytes
        self._file = file
        self._pieces = pieces
        self._piece = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._piece:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._piece = memoryview(piece)
        n = min(len(buffer), len(self._piece))
        buffer[:n] = self._piece[:n]
        self._piece = self._piece[n:]
        return n

    def close(self) -> None:
        self._file.close()
        super().close()
