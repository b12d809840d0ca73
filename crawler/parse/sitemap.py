"""A sitemap's bytes on their way to a parser process: gzip undone, in parts of one size (https://www.sitemaps.org/protocol).

Invariants: memory is bounded and it ends, whatever comes in; what could be unpacked before a fault is handed on, the fault named.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final, Literal, TypeAlias

from crawler.core.content_coding import MEMBERS_MAX
from crawler.parse.sitemap_part import End

BYTES_MAX: Final = 50 << 20
"""Decoded, as the protocol says; so are the URLs."""
URLS_MAX: Final = 50_000
INDEX_DEPTH_MAX: Final = 3
PART_BYTES: Final = 256 << 10
"""Even, so that a part ends with a character of UTF-16."""
RATIO_MAX: Final = 1_000
RATIO_FREE_BYTES: Final = 1 << 20
_PIECE_BYTES: Final = 64 << 10
_FEED_BYTES: Final = 16 << 10

UnpackFault: TypeAlias = Literal["gzip", "gzip_cut", "decode_ratio", "too_large"]


class Unpacked:
    """The parts of a document, each with what follows it (see ``End``). ``fault`` and its ``detail`` are known behind the last.
    ``is_cut``: it is known already not to be whole."""

    def __init__(self, chunks: Iterable[bytes], *, bytes_max: int = BYTES_MAX, is_cut: bool = False) -> None:
        self.fault: UnpackFault | None = None
        self.detail = ""
        self._is_cut = is_cut
        self._chunks = chunks
        self._bytes_max = bytes_max

    def __iter__(self) -> Iterator[tuple[bytes, End]]:
        held = bytearray()
        for piece in self._bounded():
            held += piece
            while len(held) > PART_BYTES:
                yield bytes(held[:PART_BYTES]), ""
                del held[:PART_BYTES]
        yield bytes(held), "cut" if self.fault or self._is_cut else "whole"

    def _bounded(self) -> Iterator[bytes]:
        left = self._bytes_max
        for piece in self._plain():
            if len(piece) > left:
                self.fault, self.detail = "too_large", f"only {self._bytes_max} bytes of it are read"
                yield piece[:left]
                return
            left -= len(piece)
            yield piece

    def _plain(self) -> Iterator[bytes]:
        chunks = iter(self._chunks)
        head = b""
        for chunk in chunks:
            head += chunk
            if len(head) > 1:
                break
        if head[:2] != b"\x1f\x8b":
            yield head
            yield from chunks
        else:
            yield from self._inflated(head, chunks)

    def _inflated(self, head: bytes, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Members one behind the other; what follows the last and is none is padding."""
        decoder = zlib.decompressobj(31)
        wire_bytes = decoded_bytes = 0
        members = 1  # each takes longer than its bytes: a document of nothing else would hold up the loop
        while head:
            wire_bytes += len(head)
            for start in range(0, len(head), _FEED_BYTES):
                data = head[start : start + _FEED_BYTES]
                while data:
                    if decoder.eof:
                        if data[:2] != b"\x1f\x8b"[: len(data)]:
                            return
                        if members >= MEMBERS_MAX:
                            self.fault, self.detail = "gzip", f"over {MEMBERS_MAX} members"
                            return
                        members += 1
                        decoder = zlib.decompressobj(31)
                    before = decoder.copy()
                    try:
                        piece = decoder.decompress(data, _PIECE_BYTES)
                    except zlib.error as error:
                        self.fault, self.detail = "gzip", str(error)
                        yield _before_the_fault(before, data)
                        return
                    data = decoder.unused_data if decoder.eof else decoder.unconsumed_tail
                    decoded_bytes += len(piece)
                    if decoded_bytes > max(RATIO_FREE_BYTES, wire_bytes * RATIO_MAX):
                        self.fault, self.detail = "decode_ratio", f"over {RATIO_MAX} : 1"
                        return
                    yield piece
            head = next(chunks, b"")
        if not decoder.eof:
            self.fault = "gzip_cut"


def _before_the_fault(decoder: zlib._Decompress, data: bytes) -> bytes:
    """What comes out before the byte that is wrong: a call that fails gives nothing."""
    piece = bytearray()
    with suppress(zlib.error):
        for at in range(len(data)):
            piece += decoder.decompress(decoder.unconsumed_tail + data[at : at + 1], _PIECE_BYTES)
            if len(piece) > _PIECE_BYTES:
                break
    return bytes(piece)


__all__ = ["BYTES_MAX", "INDEX_DEPTH_MAX", "PART_BYTES", "URLS_MAX", "UnpackFault", "Unpacked"]
