"""A part of a sitemap that is not well-formed: plain faults are repaired, and expat is helped over the rest. Runs in parser
processes; imported at the first fault.

Invariants: a well-formed entry is read as if there were no fault anywhere. Of a damaged entry as much as is plain is read, never
a URL that may have been cut. Time is linear in the text but for a bounded number of damaged entries.

Recovery by a library alone was measured on the catalogue of tests/unit/parse/test_sitemap_faults.py: lxml (``recover=True``;
7 MiB and 60 ms to import) reads ``?a=1&b=2`` as ``?a=1=2`` and loses every entry behind an open quote, comment or CDATA section,
a second root, or text before the first; turbohtml's tree, made for HTML, reads ``&copy=1`` as ``©=1`` and loses what is behind
an open <title>. So entries are told apart first, and only a damaged one goes to turbohtml's tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final
from xml.parsers import expat

from turbohtml import Tokenizer, TokenType, unescape

from crawler.parse.sitemap_part import CDATA, COMMENT, PLACES, Full, SitemapKind, SitemapReading, Stop, is_url
from crawler.parse.sitemap_xml import FEED_BYTES, NAME_CHARS_MAX, Odd, Strict

REPAIRS_MAX: Final = 50_000
"""Damaged entries of one document: as many as it may have URLs."""
REPAIRS_PER_CALL_MAX: Final = 2_000
"""About 0.2 s."""
REPAIR_BYTES: Final = FEED_BYTES
"""One that has to be read further than so counts as several: it may open what never ends, such as a processing instruction."""

_OPENS_CDATA: Final = "<![CDATA["
_tags_of: Final = {
    kind: re.compile(
        rf"{COMMENT}|{CDATA}|<(?P<slash>/?)(?:[A-Za-z_][\w.\-]*:)?{entry}(?=[\s>/])[^<>]*>?".encode(), re.DOTALL
    ).finditer
    for kind, (entry, _) in PLACES.items()
}
_SIBLINGS: Final = frozenset(
    {"lastmod", "changefreq", "priority", "title", "description", "guid", "pubdate", "author", "category", "comments"}
    | {"enclosure", "source", "updated", "published", "summary", "content", "id"}
)
"""What may stand beside a URL whose end tag is missing. Before any other tag it may have been cut."""

_parted = re.compile(f"({CDATA})", re.DOTALL).split
_wrong = re.compile(
    "&(?:#[0-9]{1,9};|#x[0-9A-Fa-f]{1,8};|[A-Za-z][A-Za-z0-9]{0,40};)?|[\0-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff\ud800-\udfff]"
)
_XML: Final = frozenset({"&amp;", "&lt;", "&gt;", "&quot;", "&apos;"})
_marks = re.compile(r"<!--|-->|<!\[CDATA\[|\]\]>")
_open_quote = re.compile(r"(=\s*)[\"'](?=[^\"'<]*<)")
_opens_end_tag = re.compile(r".*</(?:[A-Za-z_][\w.\-]*:)?\Z", re.DOTALL).match
_tag_start = re.compile(r"<(/?)(?=[A-Za-z_:])")


def mended(text: str) -> str:
    """The text with every reference and character made what it can only have meant; CDATA sections are as they are, and begin
    only where they end."""
    if _OPENS_CDATA not in text:
        return _wrong.sub(_meant, text)
    pieces = enumerate(_by_cdata(text))
    return "".join(_raw(piece) if at % 2 else _wrong.sub(_meant, piece.replace(_OPENS_CDATA, "")) for at, piece in pieces)


def _by_cdata(text: str) -> list[str]:
    """Texts and, at every second place, CDATA sections."""
    pieces = _parted(text)
    del pieces[2::3]  # what stands in a section
    return pieces


def behind_last(text: str, entry: str) -> int:
    """The place behind the last end tag of an entry; 0 if there is none."""
    at = len(text)
    while (at := text.rfind(f"{entry}>", 0, at)) > 0:
        if _opens_end_tag(text, max(0, at - NAME_CHARS_MAX), at):
            return at + len(entry) + 1
    return 0


def repaired(reading: SitemapReading, data: bytes) -> int:
    """Read the entries of these bytes, of which none begins that does not end, unless the document ends; how many bytes are
    done with: fewer than all when there is more than one call should do."""
    at, repairs = 0, 0
    while at < len(data):
        if reading.is_full or repairs > REPAIRS_PER_CALL_MAX:
            return at
        strict = Strict(reading, reading.state.path)
        is_faulty = True
        try:
            strict.read(data, False, at)
            is_faulty = False
        except (expat.ExpatError, Odd):
            pass
        except Full:
            return strict.safe
        finally:
            strict.release()
        at = strict.safe
        if not is_faulty and not data[at:].strip():
            break
        at = _over(reading, data, at)
        cost = max(1, (strict.fed - strict.safe) // REPAIR_BYTES)
        repairs += cost
        reading.state.repairs += cost
        if reading.state.repairs > REPAIRS_MAX:
            raise Stop("too_many_faults", f"over {REPAIRS_MAX} damaged entries")
    return len(data)


def _over(reading: SitemapReading, data: bytes, at: int) -> int:
    """The place behind a fault, which is in the next entry or before it. What is plain of that entry is read."""
    kind = reading.state.kind
    assert kind is not None and kind != "text"
    start = -1
    for tag in _tags_of[kind](data, at):
        if tag["slash"] is None:
            continue  # a comment or a CDATA section
        if start >= 0:
            end = tag.end() if tag["slash"] else tag.start()
            break
        if not tag["slash"]:
            start = tag.start()
            if data[at:start].strip():
                return start  # what stands before it is skipped
    else:
        end = len(data)
    if start >= 0:
        for url in _loose(kind, data[start:end].decode()):
            reading.add(url)
    return end


def _raw(cdata: str) -> str:
    """A CDATA section without what may stand nowhere."""
    return re.sub("[\0-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff\ud800-\udfff]", _meant, cdata)


def _meant(wrong: re.Match[str]) -> str:
    found = wrong[0]
    if found[0] != "&":
        code = ord(found) - 0xDC00
        return f"%{code:02X}" if 0x80 <= code <= 0xFF else "\ufffd" if "\ud800" <= found <= "\udfff" else ""
    if found in _XML:
        return found
    meant = unescape(found) if found.endswith(";") else found
    if meant == found:
        return "&amp;" + found[1:]
    return "".join(f"&#{ord(char)};" for char in meant if _is_char(char))


def _is_char(char: str) -> bool:
    """Whether XML knows it (XML 1.0, 2.2)."""
    return char in "\t\n\r" or " " <= char <= "\ud7ff" or "\ue000" <= char <= "\ufffd" or char >= "\U00010000"


def _loose(kind: SitemapKind, entry: str) -> Iterator[str]:
    """The URLs of one entry, by turbohtml's tokenizer: it reads on after anything. As HTML knows some of its names (a <title>
    holds text only, a <link> nothing), all get a prefix; what is open is closed, or was no mark."""
    pieces = _by_cdata(entry)
    text = "".join(_text_of(piece) if at % 2 else _marks.sub("", piece) for at, piece in enumerate(pieces))
    url: list[str] | None = None
    leaf = guid = ""
    permalink: str | None = None  # where the entry has no other URL
    is_guid = has_url = False
    for token in Tokenizer(resolve_references=True).feed(_tag_start.sub(r"<\1x-", _open_quote.sub(r"\1", text))):
        name = token.tag or ""
        if token.type in (TokenType.TEXT, TokenType.CHARACTER_REFERENCE):
            if url is not None:
                url.append(token.data or "")
        elif token.type == TokenType.START_TAG or token.type == TokenType.END_TAG:
            is_end = token.type == TokenType.END_TAG
            if not leaf:  # the entry's own tag
                prefix = name.removesuffix(PLACES[kind][0])
                leaf, guid = f"{prefix}{PLACES[kind][1]}", f"{prefix}guid" if kind == "rss" else ""
                continue
            if url is not None and (is_end or name[2:].rpartition(":")[2] in _SIBLINGS):
                text = "".join(url)
                if is_guid:
                    permalink = text.strip()
                else:
                    has_url |= bool(text.strip())
                    yield text
            url = None
            if is_end:
                continue
            if name == leaf and kind == "atom":
                if (token.attr("rel") or "alternate") == "alternate":
                    yield token.attr("href") or ""
            elif name == leaf or (name == guid and (token.attr("ispermalink") or "").strip().lower() != "false"):
                url, is_guid = [], name == guid
    if permalink is not None and not has_url and is_url(permalink):
        yield permalink


def _text_of(cdata: str) -> str:
    return cdata[9:-3].replace("&", "&amp;").replace("<", "&lt;")
