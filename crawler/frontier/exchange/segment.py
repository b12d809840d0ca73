"""What stands in an exchange file: segments, each for one part, one behind the other. Pure.

    magic2 to1 kind1 count4 length4 hash8 check4 | payload

Integers are little-endian; the hash is xxh3-64 of the payload, the check the low half of that of all before it. A file that
is full ends with a segment of kind END, which has no payload. Columns of links stand as they are in memory: such a file is
read on the machine it was written on.
"""

from __future__ import annotations

import struct
from typing import Final

from msgspec import Struct
from msgspec.msgpack import Decoder, Encoder
from xxhash import xxh3_64_intdigest

from crawler.core.batch import Admitted
from crawler.core.link_block import LinkBlock, decode_link

PARCEL: Final = 0
END: Final = 1

_MAGIC: Final = b"X1"
_ALL: Final = 255
"""Whom the end of a file is for."""
_head = struct.Struct("<2sBBIIQ")
_check = struct.Struct("<I")
HEAD_BYTES: Final = _head.size + _check.size


class Piece(Struct, array_like=True):
    """What one page, or one chunk of seeds, brought for a part."""

    links: list[bytes]
    """As ``encode_link`` makes them."""
    block: LinkBlock | None
    visited_at: float = 0.0
    was_redirected: bool = False
    """As those of ``Admitted``."""


class Parcel(Struct, array_like=True):
    """What one segment brings, to be committed by its receiver as one."""

    pieces: list[Piece]
    robots: list[tuple[str, bytes]]
    """(origin, robots record)"""
    denials: list[tuple[str, tuple[str, str]]]
    """(origin, (outcome, reason)), where its robots rules could not be fetched"""

    def admitted(self) -> list[Admitted]:
        """What its receiver admits. ValueError: it is damaged."""
        return [
            Admitted(
                tuple(decode_link(link)[1] for link in piece.links),
                block=piece.block,
                visited_at=piece.visited_at,
                was_redirected=piece.was_redirected,
            )
            for piece in self.pieces
        ]


class Head(Struct, frozen=True):
    to: int
    kind: int
    count: int
    """Links."""
    length: int
    """Of the payload, bytes."""
    digest: int

    @property
    def size(self) -> int:
        """Of the segment, bytes."""
        return HEAD_BYTES + self.length


def segment(to: int, parcel: Parcel) -> bytes:
    count = sum(len(piece.links) + len(piece.block or ()) for piece in parcel.pieces)
    return _segment(to, PARCEL, count, encode_parcel(parcel))


def head_of(data: bytes) -> Head:
    """What a segment begins with. ValueError: it is cut, damaged or something else."""
    if len(data) < HEAD_BYTES or _checked(data[: _head.size]) != data[_head.size : HEAD_BYTES]:
        raise ValueError("no segment begins here")
    magic, to, kind, count, length, digest = _head.unpack_from(data)
    if magic != _MAGIC or kind not in (PARCEL, END):
        raise ValueError("a segment of another version begins here")
    return Head(to, kind, count, length, digest)


def parcel_of(data: bytes) -> Parcel:
    """The content of a whole segment. ValueError: it is cut or damaged."""
    head, payload = head_of(data), memoryview(data)[HEAD_BYTES:]
    if len(payload) != head.length or xxh3_64_intdigest(payload) != head.digest:
        raise ValueError("a segment is damaged")
    return _decode(payload)


def _segment(to: int, kind: int, count: int, payload: bytes) -> bytes:
    head = _head.pack(_MAGIC, to, kind, count, len(payload), xxh3_64_intdigest(payload))
    return head + _checked(head) + payload


def _checked(head: bytes) -> bytes:
    return _check.pack(xxh3_64_intdigest(head) & 0xFFFFFFFF)


encode_parcel: Final = Encoder().encode
_decode = Decoder(Parcel).decode
LAST: Final = _segment(_ALL, END, 0, b"")
"""The end of a file."""
