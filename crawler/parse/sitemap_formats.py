"""A part of a sitemap, read in a parser process: XML (urlset, sitemapindex, RSS, Atom) or one URL a line.

Invariants: one part in; its entries, and what the next part needs, out. Reading ends whatever the bytes, and holds no more than
a part and an entry. A fault is named and damages no entry but the one it stands in.

expat reads a part (``sitemap_xml``). Where it finds a fault, ``sitemap_repair`` helps it over, entry by entry where it must.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from typing import Final
from xml.parsers import expat

import msgspec

from crawler.parse.microsyntax import codec_of, decoded_raw, xml_label
from crawler.parse.sitemap_part import (
    COMMENT,
    PLACES,
    ROOTS,
    SPACE,
    URL_CHARS_MAX,
    End,
    Full,
    How,
    Part,
    SitemapReading,
    SitemapState,
    Stop,
    decode_state,
    is_url,
    raw_byte,
)
from crawler.parse.sitemap_xml import Odd, Strict

ENTRY_BYTES_MAX: Final = 512 << 10
"""From the end of one entry to the end of the next: RSS may carry whole articles."""
HEAD_CHARS_MAX: Final = 64 << 10
"""A document shows what it is within these."""

_NAME: Final = r"(?:[A-Za-z_][\w.\-]*:)?"
_roots = re.compile(rf"{COMMENT}|<(?P<element>{_NAME}(?P<name>urlset|sitemapindex|rss|RDF|feed))(?=[\s>/])", re.DOTALL).finditer
_entries = re.compile(rf"{COMMENT}|<{_NAME}(?P<name>url|sitemap|item|entry)(?=[\s>])[^<>]*>", re.DOTALL).finditer
_is_html = re.compile(r"(?:<!--.{0,1000}?-->\s*)?<(?:!DOCTYPE\s+html|html|head)[\s>]", re.IGNORECASE | re.DOTALL).match
_subset = re.compile(r"<!DOCTYPE[^<>\[]*+\[", re.IGNORECASE).search


def part(data: bytes, state: bytes, end: End, how: How | list[object]) -> Part:
    """Read on with these bytes. ``state``: as the part before gave it back; ``b""`` for the first."""
    reading = SitemapReading(
        decode_state(state) if state else SitemapState(), how if isinstance(how, How) else msgspec.convert(how, How)
    )
    try:
        if not reading.state.is_over:
            _read(reading, data, end)
    except Full:
        return reading.reply(more=True)
    except Stop as stop:
        reading.fault(stop.fault, stop.detail)
        reading.state.is_over, reading.state.rest = True, b""
    return reading.reply()


def _read(reading: SitemapReading, data: bytes, end: End) -> None:
    state = reading.state
    text = state.rest.decode("utf-8", "surrogatepass") + _decoded(reading, data, end)
    if state.kind is None:
        text = _begun(reading, text)
        if state.kind is None:
            if end or len(text) >= HEAD_CHARS_MAX:
                raise Stop("not_a_sitemap")
            return reading.keep(text, 0)
    if state.kind == "text":
        return _lines(reading, text, end)
    return _xml(reading, text, end)


def _first(found: Iterator[re.Match[str]]) -> re.Match[str] | None:
    """The first that is no comment."""
    return next((each for each in found if each["name"] is not None), None)


def _begun(reading: SitemapReading, text: str) -> str:
    """Choose the kind, by what stands there first: a root, an entry, or a URL alone in its line."""
    bare = text.lstrip(SPACE)
    reading.state.line += text.count("\n", 0, len(text) - len(bare))
    if _is_html(bare):
        raise Stop("not_a_sitemap", "an HTML page")
    if (root := _first(_roots(bare))) is not None:
        reading.state.kind = ROOTS[root["name"]]
    elif (entry := _first(_entries(bare))) is not None and any(
        f"{leaf}>" in bare or f"{leaf} " in bare for leaf in ("loc", "link")
    ):
        reading.state.is_guess = True
        reading.state.kind = next(kind for kind, place in PLACES.items() if place[0] == entry["name"])
    else:
        lines = [line for line in map(str.strip, bare[:HEAD_CHARS_MAX].splitlines()) if line]
        urls = sum(is_url(line) is not None for line in lines)
        if urls and (bare[0] != "<" or 2 * urls >= len(lines)):
            reading.state.kind = "text"
    return bare


# -- bytes into text: what is not of the encoding stays, byte by byte, as halves of surrogate pairs --------------------


def _decoded(reading: SitemapReading, data: bytes, end: End) -> str:
    state = reading.state
    if not state.encoding:
        data = _without_bom(reading, data)
    decoder = codecs.getincrementaldecoder(codec_of(state.encoding))("crawler.raw")
    if state.decoder is not None:  # none is as it begins: (b"", 0) is no state of ISO-2022-JP, and ends CPython
        decoder.setstate(state.decoder)
    text = decoded_raw(decoder, data, bool(end))
    state.decoder = decoder.getstate()
    if (wrong := raw_byte.search(text)) is not None:
        line = state.line + state.rest.count(b"\n") + text.count("\n", 0, wrong.start())
        reading.fault("encoding", f"line {line}: byte 0x{ord(wrong[0]) - 0xDC00:02X} is not {state.encoding}")
    return text


def _without_bom(reading: SitemapReading, data: bytes) -> bytes:
    """Choose the encoding: BOM, header, XML declaration (RFC 7303, 3). Letters with a NUL each are UTF-16."""
    state, head = reading.state, data[:1024]
    for bom, name in ((codecs.BOM_UTF8, "UTF-8"), (codecs.BOM_UTF16_LE, "UTF-16LE"), (codecs.BOM_UTF16_BE, "UTF-16BE")):
        if data.startswith(bom):
            state.encoding = name
            return data[len(bom) :]
    if 4 * head.count(0) > len(head):
        state.encoding = "UTF-16LE" if head[1::2].count(0) > head[::2].count(0) else "UTF-16BE"
        return data
    for label in (reading.how.charset, xml_label(data)):
        if label is not None and not label.lower().startswith(("utf-16", "utf16")):
            if (known := _encoding_of(label)) is not None:
                state.encoding = known
                return data
            reading.fault("encoding", f"{label[:40]} is not read")
    state.encoding = "UTF-8"
    return data


def _encoding_of(label: str) -> str | None:
    """The WHATWG name of an encoding that can be read piece by piece; None if a label names none."""
    if label.lower() in ("utf-8", "utf8"):
        return "UTF-8"
    from crawler.parse.encoding import name_of  # few sitemaps are in another

    name = name_of(label)
    return None if name in ("replacement", "x-user-defined") else name


# -- one URL a line ----------------------------------------------------------------------------------------------------


def _lines(reading: SitemapReading, text: str, end: End) -> None:
    lines = text.replace("\r", "\n").split("\n")
    rest = "" if end == "whole" else lines.pop()
    at = 0
    for line in lines:
        if reading.is_full:
            reading.keep(text, at)
            raise Full
        at += len(line) + 1
        if is_url(line := line.strip(SPACE)):
            reading.add(line)
        elif line:
            reading.refuse("syntax")
    # Only the beginning of an endless line is kept: enough to see that it is too long.
    reading.keep(text[:at] + rest[: URL_CHARS_MAX + 1], min(at, len(text)))


# -- XML ---------------------------------------------------------------------------------------------------------------


def _xml(reading: SitemapReading, text: str, end: End) -> None:
    """Three ways: 1. the part is well-formed: what is behind its last whole entry is kept; 2. there is a fault: what is
    behind the last whole entry before it is repaired; 3. bytes that are no characters: all of it is repaired."""
    state = reading.state
    try:
        data = text.encode()
    except UnicodeEncodeError:  # it is named already
        return _repair(reading, text, end)
    strict = Strict(reading, state.path)
    try:
        strict.read(data, end == "whole")
    except expat.ExpatError as error:
        reading.fault("xml", f"line {state.line + error.lineno - 1}: {expat.ErrorString(error.code)}")
    except Odd as odd:
        reading.fault(odd.fault, odd.detail)
    except Full:
        _go_on(reading, strict, data)
        raise
    else:
        _go_on(reading, strict, data)
        if end or len(state.rest) <= ENTRY_BYTES_MAX:
            return None
        data, strict.safe = state.rest, 0
    finally:
        strict.release()
    _go_on(reading, strict, data)
    return _repair(reading, state.rest.decode(), end)


def _go_on(reading: SitemapReading, strict: Strict, data: bytes) -> None:
    """From the end of the last whole entry."""
    state = reading.state
    state.path, state.rest = strict.path, data[strict.safe :]
    state.line += data.count(b"\n", 0, strict.safe)


def _repair(reading: SitemapReading, text: str, end: End) -> None:
    """Read what can be read of whole entries; the beginning of another is kept."""
    from crawler.parse.sitemap_repair import behind_last, mended, repaired  # few parts need it

    state = reading.state
    assert state.kind is not None
    if not state.path:
        root = _first(_roots(text))
        if _subset(text, 0, root.start() if root else len(text)):
            raise Stop("doctype")
        state.path = [root["element"] if root else "root", *(("channel",) if state.kind == "rss" and "<channel" in text else ())]
        if root and _first(_entries(text, 0, root.start())) is None:
            # Its own tag is read once more, for what it says; a declaration before it would be a fault that hides it.
            state.line += text.count("\n", 0, root.start())
            text = text[root.start() :]
    cut = len(text)
    if not end:
        cut = behind_last(text, PLACES[state.kind][0])
        if len(text) - cut > ENTRY_BYTES_MAX:
            reading.fault("entry_too_long", f"line {state.line}: no end of an entry within {ENTRY_BYTES_MAX} bytes")
            cut = len(text)
    head, tail = mended(text[:cut]).encode(), text[cut:].encode("utf-8", "surrogatepass")
    line = state.line + text.count("\n", 0, cut)
    left = repaired(reading, head)
    state.rest = head[left:] + tail
    state.line = line - head.count(b"\n", left)
    if left < len(head):
        raise Full
