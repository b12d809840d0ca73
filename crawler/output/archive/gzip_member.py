"""One gzip member per record (RFC 1952; WARC 1.1 annex D): written in pieces, read back in bounded pieces.

A body that is compressed already is laid into the member as stored blocks (RFC 1951 section 3.2.4): deflating it again
costs eight times as much and wins nothing. Its head is still deflated.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import BinaryIO, Final

from isal import igzip_lib, isal_zlib

from crawler.core.errors import StorageError

LEVEL: Final = 1
"""isal's: 2 and 3 cost 10–80 % more for 1 % less."""
PIECE_BYTES: Final = 64 << 10
STORED_BYTES_MAX: Final = 0xFFFF
"""Of one stored block."""

_HEADER: Final = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
_LAST_BLOCK: Final = b"\x01\x00\x00\xff\xff"
_GZIP: Final = 31
_RAW: Final = -15


def deflated_whole(data: bytes) -> bytes:
    """A member of data that is in memory."""
    return igzip_lib.compress(data, LEVEL, igzip_lib.COMP_GZIP, igzip_lib.MEM_LEVEL_SMALL)


def deflated(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """A member of any length."""
    packer = isal_zlib.compressobj(LEVEL, isal_zlib.DEFLATED, _GZIP)
    for piece in pieces:
        yield packer.compress(piece)
    yield packer.flush()


def stored(head: bytes, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """A member with its head deflated and the pieces, each of at most STORED_BYTES_MAX, as they are."""
    packer = isal_zlib.compressobj(LEVEL, isal_zlib.DEFLATED, _RAW)
    yield _HEADER + packer.compress(head) + packer.flush(isal_zlib.Z_SYNC_FLUSH)
    crc, size = isal_zlib.crc32(head), len(head)
    for piece in pieces:
        crc, size = isal_zlib.crc32(piece, crc), size + len(piece)
        yield struct.pack("<BHH", 0, len(piece), len(piece) ^ 0xFFFF) + piece
    yield _LAST_BLOCK + struct.pack("<II", crc, size & 0xFFFFFFFF)


class MemberReader:
    """The member that begins at ``offset``, undone piece by piece. StorageError if it is cut or corrupt, or goes on
    beyond ``end``."""

    def __init__(self, file: BinaryIO, name: str, offset: int, end: int) -> None:
        self._file = file
        self._name = name
        self._offset = offset
        self._position = offset
        self._end = end
        self._decoder = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)

    def read(self) -> bytes:
        """The next 1 to PIECE_BYTES bytes; none at its end."""
        try:
            while not self._decoder.eof:
                piece: bytes = self._decoder.decompress(self._more(), PIECE_BYTES)
                if piece:
                    return piece
        except igzip_lib.IsalError as error:  # type: ignore[misc]
            raise self._broken(str(error)) from None
        return b""

    @property
    def length(self) -> int:
        """Of the compressed member; known at its end."""
        return self._position - len(self._decoder.unused_data) - self._offset

    def _more(self) -> bytes:
        if not self._decoder.needs_input:
            return b""
        try:
            self._file.seek(self._position)
            data = self._file.read(min(PIECE_BYTES, self._end - self._position))
        except OSError as error:
            raise StorageError(f"{self._name}: {error.strerror}", errno=error.errno or 0) from error
        if not data:
            raise self._broken("cut short")
        self._position += len(data)
        return data

    def _broken(self, how: str) -> StorageError:
        return StorageError(f"{self._name}: the gzip member at {self._offset} is damaged: {how}")
