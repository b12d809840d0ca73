"""The encoding of a text, by one rule for all callers: byte order mark, sender, the text's own declaration, in the order of the
standards, and the bytes alone where none of them says. Pure; parser processes import it only where an encoding is rare.

Invariant: every input has an encoding, by its WHATWG name (https://encoding.spec.whatwg.org), and decoding by it never fails.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import BinaryIO, Final

import turbohtml

from crawler.core.sniff import PREFIX_BYTES, sniff
from crawler.parse.html import MIMES, document_of
from crawler.parse.limited import limited_memory
from crawler.parse.microsyntax import codec_of, css_label, xml_label

_XML_KINDS: Final = frozenset({"text/xml", "application/rss+xml", "application/atom+xml", "image/svg+xml"})
"""As ``crawler.core.sniff`` names them."""
_BOMS: Final = ((codecs.BOM_UTF8, "UTF-8"), (codecs.BOM_UTF16_LE, "UTF-16LE"), (codecs.BOM_UTF16_BE, "UTF-16BE"))
LOOKED_AT_BYTES_MAX: Final = 4 << 20
"""Of a text that says nothing of its encoding: as much of a page as is parsed, by default."""
PIECE_BYTES: Final = 64 << 10
_HELD_BYTES_MAX: Final = 128 << 10
"""Of bytes without a place where they could be cut."""
_mode = re.compile(rb"\x1b(?:\([BJI]|\$[@B])")
"""Of ISO-2022-JP."""


def read_text(body: BinaryIO, mime: str | None, charset: str | None, encoding: str | None = None) -> tuple[str, Iterator[str]]:
    """The encoding of a text and the text itself, in pieces. ``mime`` and ``charset`` are the header's; ``encoding`` is what a
    parser has found, else it is found here."""
    head = b""
    if encoding is None:
        head = _first(body, PREFIX_BYTES)
        if (encoding := _told(head, charset)) is None:
            head += _first(body, LOOKED_AT_BYTES_MAX - len(head))
            encoding = encoding_of(head, mime, charset)
    return encoding, _pieces(head, body, decoder_of(encoding))


def encoding_of(body: bytes, mime: str | None, charset: str | None) -> str:
    """The encoding of any text that begins with ``body``. HTML is told by its type or its looks, as the crawl tells it; of a page
    that takes too much memory only the bytes are looked at."""
    if told := _told(body, charset):
        return told
    kind = mime if mime in MIMES else sniff(body[:PREFIX_BYTES], mime)
    if kind in MIMES:
        with suppress(MemoryError), limited_memory():
            return document_of(body, None, kind).encoding or "UTF-8"
    if kind == "text/css":
        return css_encoding(body, charset)
    if kind in _XML_KINDS:
        return ((label := xml_label(body)) and name_of(label)) or "UTF-8"
    if kind == "application/json":  # RFC 8259, 8.1
        return "UTF-8"
    from turbohtml.detect import detect

    return detect(body).encoding or "UTF-8"


def css_encoding(body: bytes, charset: str | None) -> str:
    """The encoding of a style sheet (CSS Syntax, 3.2)."""
    return _told(body, charset) or ((label := css_label(body)) and name_of(label)) or "UTF-8"


def _told(body: bytes, charset: str | None) -> str | None:
    """What comes before all that stands in the text: BOM, header."""
    for bom, name in _BOMS:
        if body.startswith(bom):
            return name
    return name_of(charset) if charset else None


def name_of(label: str) -> str | None:
    """The WHATWG name of the encoding that a label names; None if none does."""
    try:
        return turbohtml.parse(b"", encoding=label).encoding
    except (LookupError, ValueError):
        return None


def decoder_of(name: str) -> Callable[[bytes, bool], str]:
    """``decode(piece, final)`` for the pieces of a text in an encoding, without its BOM. What is not of the encoding becomes
    U+FFFD."""
    if name.startswith("UTF-"):
        return _Unmarked(codecs.getincrementaldecoder(codec_of(name))("replace").decode)
    return _Moded(name) if name == "ISO-2022-JP" else _Pieces(name)


class _Unmarked:
    """A decoder of which a leading U+FEFF is left out."""

    def __init__(self, decode: Callable[[bytes, bool], str]) -> None:
        self._decode = decode
        self._begun = False

    def __call__(self, piece: bytes, final: bool) -> str:
        text = self._decode(piece, final)
        if text and not self._begun:
            self._begun = True
            text = text.removeprefix("\ufeff")
        return text


class _Pieces:
    """Whole characters at a time, decoded by the standard's own tables: Python's differ in what they know."""

    def __init__(self, name: str) -> None:
        from turbohtml import detect  # registers the codecs

        assert detect
        self._decode = codecs.lookup(f"whatwg-{name.lower()}").decode
        self._held = b""

    _ends: tuple[bytes, ...] = (b"\n", b" ", b"/")
    """No character of several bytes ends in one of these."""

    def __call__(self, piece: bytes, final: bool) -> str:
        data = self._held + piece
        cut = len(data)
        if not final:
            cut = max(map(data.rfind, self._ends)) + 1 or (cut if cut > _HELD_BYTES_MAX else 0)
        self._held = data[cut:]
        return self._whole(data[:cut]) if cut else ""

    def _whole(self, data: bytes) -> str:
        return self._decode(data)[0]


class _Moded(_Pieces):
    """The same of an encoding in which a sequence says how to read what follows it, to the next one."""

    _ends = (b"\n", b" ")
    _mode = b""
    """The last one."""

    def _whole(self, data: bytes) -> str:
        text = super()._whole(data if _mode.match(data) else self._mode + data)
        self._mode = (_mode.findall(data) or [self._mode])[-1]
        return text


def _first(body: BinaryIO, size: int) -> bytes:
    data = b""
    while len(data) < size and (piece := body.read(size - len(data))):
        data += piece
    return data


def _pieces(head: bytes, body: BinaryIO, decode: Callable[[bytes, bool], str]) -> Iterator[str]:
    yield decode(head, False)
    while piece := body.read(PIECE_BYTES):
        yield decode(piece, False)
    yield decode(b"", True)


__all__ = ["codec_of", "css_encoding", "decoder_of", "encoding_of", "name_of", "read_text"]
