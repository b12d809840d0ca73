"""A sitemap read as it comes in: urlset, sitemapindex, RSS, Atom or text, plain or gzip (https://www.sitemaps.org/protocol).

The law: whatever is fed, memory is bounded, reading ends, and what was read before a fault is kept and the fault named.
"""

from __future__ import annotations

import codecs
import zlib
from collections.abc import Iterable, Iterator
from typing import Final

from crawler.parse.sitemap_formats import URL_CHARS_MAX, Fault, Form, Kind, Stop, form_of

BYTES_MAX: Final = 50 << 20
"""Decoded, as the protocol says; so are the URLs."""
URLS_MAX: Final = 50_000
INDEX_DEPTH_MAX: Final = 3
PIECE_BYTES: Final = 64 << 10
RATIO_MAX: Final = 1_000
RATIO_FREE_BYTES: Final = 1 << 20
_HEAD_BYTES: Final = 256
"""The form is chosen once this much is there: the declaration of an encoding may be cut anywhere."""


class Reader:
    """Give it bytes with ``feed`` or ``pieces`` and ``close`` it; out come URLs as written, without white space around.

    ``depth``: how many indexes led here. The URLs of kind ``index`` are sitemaps, those of the others pages. ``skipped``
    counts entries that are no URL by their length or look. Once ``fault`` is set nothing more is read."""

    def __init__(self, *, depth: int = 0, bytes_max: int = BYTES_MAX, urls_max: int = URLS_MAX) -> None:
        self.kind: Kind | None = None
        self.fault: Fault | None = None
        self.detail = ""
        self.skipped = 0
        self.urls = 0
        self._depth = depth
        self._bytes_max = bytes_max
        self._urls_max = urls_max
        self._wire_bytes = self._decoded_bytes = 0
        self._magic: bytes | None = b""
        """The first byte, while it is the only one; None once the two of gzip's magic were seen or not."""
        self._gunzip: zlib._Decompress | None = None
        self._head = b""
        self._form: Form | None = None
        self._found: list[str] = []

    def feed(self, data: bytes) -> list[str]:
        """URLs that became known with these bytes."""
        return [url for part in self.pieces(data) for url in part]

    def pieces(self, data: bytes) -> Iterator[list[str]]:
        """The same in parts, each from at most 64 KiB decoded: little gzip can hold very many URLs. To be exhausted."""
        for start in range(0, len(data), PIECE_BYTES):
            yield from self._parts(self._wire(data[start : start + PIECE_BYTES]))

    def close(self) -> list[str]:
        """URLs that became known with the end."""
        return [url for part in self._parts(self._end()) for url in part]

    def _parts(self, steps: Iterator[None]) -> Iterator[list[str]]:
        if self.fault is not None:
            return
        try:
            for _ in steps:
                yield self._taken()
        except Stop as stop:
            self.fault, self.detail = stop.fault, stop.detail
        except zlib.error as error:
            self.fault, self.detail = "gzip", str(error)
        if self.fault is not None:
            if self._form is not None:
                self._form.release()
            self._form = self._gunzip = None
            yield self._taken()

    def _taken(self) -> list[str]:
        found, self._found = self._found, []
        return found

    def _wire(self, data: bytes) -> Iterator[None]:
        self._wire_bytes += len(data)
        if self._magic is not None:
            data = self._magic + data
            self._magic = data if len(data) < 2 else None
            if self._magic is not None:
                return
            if data[:2] == b"\x1f\x8b":
                self._gunzip = zlib.decompressobj(31)
        if self._gunzip is not None:
            yield from self._inflate(data)
        else:
            self._plain(data)
            yield

    def _inflate(self, data: bytes) -> Iterator[None]:
        while data and self._gunzip is not None:
            if self._gunzip.eof:
                if data[:2] != b"\x1f\x8b"[: len(data)]:
                    return  # padding behind the last member
                self._gunzip = zlib.decompressobj(31)
            piece = self._gunzip.decompress(data, PIECE_BYTES)
            data = self._gunzip.unused_data if self._gunzip.eof else self._gunzip.unconsumed_tail
            if self._decoded_bytes > max(RATIO_FREE_BYTES, self._wire_bytes * RATIO_MAX):
                raise Stop("decode_ratio")
            self._plain(piece)
            yield

    def _plain(self, piece: bytes) -> None:
        room = self._bytes_max - self._decoded_bytes
        self._decoded_bytes += len(piece)
        self._read(piece[:room])
        if len(piece) > room:
            raise Stop("too_large")

    def _read(self, piece: bytes) -> None:
        if self._form is not None:
            self._form.read(piece)
            return
        self._head = (self._head + piece).lstrip(b" \t\r\n")
        if len(self._head) >= _HEAD_BYTES:
            self._begin()

    def _begin(self) -> None:
        head, self._head = self._head.removeprefix(codecs.BOM_UTF8).lstrip(b" \t\r\n"), b""
        self._form = form_of(head, self._named, self._add, self._skip)
        self._form.read(head)

    def _end(self) -> Iterator[None]:
        if self._magic:
            self._plain(self._magic)
        if self._form is None:
            self._begin()
        assert self._form is not None
        if self._gunzip is not None and not self._gunzip.eof:
            raise Stop("gzip_cut")
        self._form.end()
        self._form.release()
        yield

    def _named(self, kind: Kind) -> None:
        self.kind = kind
        if kind == "index" and self._depth >= INDEX_DEPTH_MAX:
            raise Stop("index_depth")

    def _add(self, url: str) -> None:
        url = url.strip()
        if not url or len(url) > URL_CHARS_MAX:
            self.skipped += 1
            return
        if self.urls >= self._urls_max:
            raise Stop("too_many_urls")
        self.urls += 1
        self._found.append(url)

    def _skip(self) -> None:
        self.skipped += 1


def read(chunks: Iterable[bytes], reader: Reader) -> Iterator[list[str]]:
    """The URLs of a whole document in parts, until its end or a fault: one from each 64 KiB, empty ones too, so that the
    caller may let others have a turn."""
    for chunk in chunks:
        yield from reader.pieces(chunk)
        if reader.fault is not None:
            return
    yield reader.close()


__all__ = ["BYTES_MAX", "INDEX_DEPTH_MAX", "Fault", "Kind", "Reader", "read"]
