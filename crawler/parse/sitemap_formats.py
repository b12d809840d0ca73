"""A part of a sitemap, read in a parser process: XML (urlset, sitemapindex, RSS, Atom) or one URL a line.

Invariants: one part in; its entries, and what the next part needs, out. Reading ends whatever the bytes, and holds no more than
a part and an entry. A fault is named and damages no entry but the one it stands in.

expat reads a part. Where it finds a fault, crawler.parse.sitemap_repair helps it over, entry by entry where it must. Entities
are never expanded, and a document type with an internal subset is refused.
"""

from __future__ import annotations

import codecs
import re
from contextlib import suppress
from typing import Final, Literal, TypeAlias
from xml.parsers import expat

import msgspec
from msgspec import Struct

from crawler.core.errors import FetchError
from crawler.core.urls import Base, UrlRules, join
from crawler.parse.microsyntax import codec_of, date_of, decoded_raw, encoding_of_label, xml_label

URL_CHARS_MAX: Final = 8 << 10
ENTRY_URLS_MAX: Final = 100
"""Of an entry: one is usual, and an Atom entry may have one for each language and type (RFC 4287 4.1.2)."""
ENTRY_BYTES_MAX: Final = 512 << 10
"""From the end of one entry to the end of the next: RSS may carry whole articles."""
HEAD_CHARS_MAX: Final = 64 << 10
"""A document shows what it is within these."""
PART_REPLY_BYTES_MAX: Final = 512 << 10
"""Of URLs: short references to a long base may stand in a part. What does not fit is read by the next call."""
ELEMENT_DEPTH_MAX: Final = 32
NAME_CHARS_MAX: Final = 256
_FEED_BYTES: Final = 16 << 10

SitemapKind: TypeAlias = Literal["urlset", "index", "rss", "atom", "text"]
SitemapFault: TypeAlias = Literal["not_a_sitemap", "doctype", "xml", "encoding", "entry_too_long", "too_deep", "too_many_faults"]
End: TypeAlias = Literal["", "whole", "cut"]
"""Whether more follows a part, it is the last, or it is where the document was cut."""

ROOTS: Final[dict[str, SitemapKind]] = {"urlset": "urlset", "sitemapindex": "index", "rss": "rss", "RDF": "rss", "feed": "atom"}
PLACES: Final[dict[SitemapKind, tuple[str, str]]] = {
    "urlset": ("url", "loc"),
    "index": ("sitemap", "loc"),
    "rss": ("item", "link"),
    "atom": ("entry", "link"),
}
"""An entry's element, and the one in it that holds the URL."""

_DATES: Final = frozenset({"lastmod", "pubDate", "updated", "date"})  # of RSS 1.0 the last
_space: Final = " \t\r\n\0\ufeff"
_raw_byte = re.compile("[\udc80-\udcff]")
_root = re.compile(r"<((?:[A-Za-z_][\w.\-]*:)?(urlset|sitemapindex|rss|RDF|feed))(?=[\s>/])").search
_entry = re.compile(r"<(?:[A-Za-z_][\w.\-]*:)?(url|sitemap|item|entry)(?=[\s>])[^<>]*>").search
_is_html = re.compile(r"(?:<!--.{0,1000}?-->\s*)?<(?:!DOCTYPE\s+html|html|head)[\s>]", re.IGNORECASE | re.DOTALL).match
_subset = re.compile(r"<!DOCTYPE[^<>\[]*+\[", re.IGNORECASE).search
is_url = re.compile(r"https?://", re.IGNORECASE).match


class How(Struct, frozen=True, array_like=True):
    """``url`` is the sitemap's own, ``charset`` its header's. ``with_modified``: when entries were modified is wanted as well."""

    url: str
    charset: str | None = None
    rules: UrlRules = UrlRules()
    with_modified: bool = False


class SitemapState(Struct, array_like=True):
    """What was left of the parts before."""

    encoding: str = ""
    decoder: tuple[bytes, int] | None = None
    kind: SitemapKind | None = None
    is_guess: bool = False
    """The kind is known by the entries alone."""
    path: list[str] = []
    """The elements that are open, as written."""
    rest: bytes = b""
    """What of them is not read yet, as UTF-8; with it the next part begins."""
    line: int = 1
    """Where that is."""
    repairs: int = 0
    """Damaged entries so far."""
    is_over: bool = False
    """Nothing is read any more."""
    base: str = ""
    """What URLs are relative to, if it is not the document's own."""


class Part(Struct, array_like=True):
    """What was read. ``entries``: canonical URLs. ``refused``: how many are none, by rule. ``faults``: how many there are by
    name, and the first in words. ``more``: it held more entries than one reply may; call again without bytes. ``modified``:
    wall times by URL, for entries that say (``lastmod``, in feeds ``updated``, ``pubDate``)."""

    entries: list[str]
    kind: SitemapKind | None
    encoding: str
    state: bytes
    refused: dict[str, int]
    faults: dict[str, tuple[int, str]]
    more: bool = False
    modified: dict[str, float] = {}


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(SitemapState).decode


def part(data: bytes, state: bytes, end: End, how: How | list[object]) -> Part:
    """Read on with these bytes. ``state``: as the part before gave it back; ``b""`` for the first."""
    reading = SitemapReading(
        _decode(state) if state else SitemapState(), how if isinstance(how, How) else msgspec.convert(how, How)
    )
    try:
        if not reading.state.is_over:
            reading.read(data, end)
    except Full:
        return reading.reply(more=True)
    except Stop as stop:
        reading.fault(stop.fault, stop.detail)
        reading.state.is_over, reading.state.rest = True, b""
    return reading.reply()


def without_part(state: bytes) -> bytes:
    """The state to go on from where a part, and what was left before it, could not be read at all."""
    before = _decode(state) if state else SitemapState("UTF-8")
    before.rest, before.decoder = b"", None
    return _encode(before)


class Stop(Exception):
    """Reading ends here, for the whole document."""

    def __init__(self, fault: SitemapFault, detail: str = "") -> None:
        self.fault, self.detail = fault, detail


class Full(Exception):
    """No more entries fit into this reply. What is not read is in the state."""


class Odd(Exception):
    """What expat lets pass, but we do not read."""

    def __init__(self, fault: SitemapFault, detail: str) -> None:
        self.fault, self.detail = fault, detail


class SitemapReading:
    """One call."""

    def __init__(self, state: SitemapState, how: How) -> None:
        self.state, self._how = state, how
        self.with_modified = how.with_modified
        self._modified: dict[str, float] = {}
        self._join = Base(self.base, how.rules).join
        self._found: dict[str, None] = {}
        self._bytes_left = PART_REPLY_BYTES_MAX
        self._refused: dict[str, int] = {}
        self._faults: dict[str, tuple[int, str]] = {}

    def reply(self, *, more: bool = False) -> Part:
        state = self.state
        read = (_encode(state), self._refused, self._faults, more, self._modified)
        return Part(list(self._found), state.kind, state.encoding, *read)

    def fault(self, name: SitemapFault, detail: str) -> None:
        count, first = self._faults.get(name, (0, detail))
        self._faults[name] = count + 1, first

    @property
    def is_full(self) -> bool:
        return self._bytes_left <= 0

    @property
    def base(self) -> str:
        return self.state.base or self._how.url

    def rebase(self, base: str) -> None:
        """Of a feed: what its URLs are relative to from now on (RFC 4287 2)."""
        with suppress(FetchError):
            self.state.base = join(self._how.url, base)
            self._join = Base(self.base, self._how.rules).join

    def add(self, reference: str, modified: str = "") -> None:
        """Take what stands where a URL should, and when it says to have been modified. Bytes that are not of the encoding are
        percent-encoded as they are."""
        reference = _raw_byte.sub(lambda byte: f"%{ord(byte[0]) - 0xDC00:02X}", reference.strip(_space))
        try:
            if not reference:
                raise FetchError("syntax")
            if len(reference) > URL_CHARS_MAX:
                raise FetchError("too_long")
            url = self._join(reference)
        except FetchError as error:
            self.refuse("url_length" if error.reason == "too_long" else error.reason)
        else:
            if url not in self._found:
                self._found[url] = None
                self._bytes_left -= len(url)
                if modified and (at := date_of(modified)) is not None:
                    self._modified[url] = at

    def refuse(self, rule: str, count: int = 1) -> None:
        if count:
            self._refused[rule] = self._refused.get(rule, 0) + count

    def keep(self, text: str, at: int) -> None:
        """What is behind this place is read with the next part."""
        self.state.line += text.count("\n", 0, at)
        self.state.rest = text[at:].encode("utf-8", "surrogatepass")

    def read(self, data: bytes, end: End) -> None:
        state = self.state
        text = state.rest.decode("utf-8", "surrogatepass") + self._decoded(data, end)
        if state.kind is None:
            text = self._begun(text)
            if state.kind is None:
                if end or len(text) >= HEAD_CHARS_MAX:
                    raise Stop("not_a_sitemap")
                return self.keep(text, 0)
        if state.kind == "text":
            return self._lines(text, end)
        return self._xml(text, end)

    def _begun(self, text: str) -> str:
        """Choose the kind, by what stands there first: a root, an entry, or a URL alone in its line."""
        bare = text.lstrip(_space)
        self.state.line += text.count("\n", 0, len(text) - len(bare))
        if _is_html(bare):
            raise Stop("not_a_sitemap", "an HTML page")
        if (root := _root(bare)) is not None:
            self.state.kind = ROOTS[root[2]]
        elif (entry := _entry(bare)) is not None and any(f"{leaf}>" in bare or f"{leaf} " in bare for leaf in ("loc", "link")):
            self.state.is_guess = True
            self.state.kind = next(kind for kind, place in PLACES.items() if place[0] == entry[1])
        else:
            lines = [line for line in map(str.strip, bare[:HEAD_CHARS_MAX].splitlines()) if line]
            urls = sum(is_url(line) is not None for line in lines)
            if urls and (bare[0] != "<" or 2 * urls >= len(lines)):
                self.state.kind = "text"
        return bare

    # -- bytes into text: what is not of the encoding stays, byte by byte, as halves of surrogate pairs --------------------

    def _decoded(self, data: bytes, end: End) -> str:
        state = self.state
        if not state.encoding:
            data = self._without_bom(data)
        decoder = codecs.getincrementaldecoder(codec_of(state.encoding))("crawler.raw")
        if state.decoder is not None:  # none is as it begins: (b"", 0) is no state of ISO-2022-JP, and ends CPython
            decoder.setstate(state.decoder)
        text = decoded_raw(decoder, data, bool(end))
        state.decoder = decoder.getstate()
        if (wrong := _raw_byte.search(text)) is not None:
            line = state.line + state.rest.count(b"\n") + text.count("\n", 0, wrong.start())
            self.fault("encoding", f"line {line}: byte 0x{ord(wrong[0]) - 0xDC00:02X} is not {state.encoding}")
        return text

    def _without_bom(self, data: bytes) -> bytes:
        """Choose the encoding: BOM, header, XML declaration (RFC 7303, 3). Letters with a NUL each are UTF-16."""
        state, head = self.state, data[:1024]
        for bom, name in ((codecs.BOM_UTF8, "UTF-8"), (codecs.BOM_UTF16_LE, "UTF-16LE"), (codecs.BOM_UTF16_BE, "UTF-16BE")):
            if data.startswith(bom):
                state.encoding = name
                return data[len(bom) :]
        if 4 * head.count(0) > len(head):
            state.encoding = "UTF-16LE" if head[1::2].count(0) > head[::2].count(0) else "UTF-16BE"
            return data
        for label in (self._how.charset, xml_label(data)):
            if label is not None and not label.lower().startswith(("utf-16", "utf16")):
                if (known := encoding_of_label(label)) is not None:
                    state.encoding = known
                    return data
                self.fault("encoding", f"{label[:40]} is not read")
        state.encoding = "UTF-8"
        return data

    # -- one URL a line ----------------------------------------------------------------------------------------------------

    def _lines(self, text: str, end: End) -> None:
        lines = text.replace("\r", "\n").split("\n")
        rest = "" if end == "whole" else lines.pop()
        at = 0
        for line in lines:
            if self.is_full:
                self.keep(text, at)
                raise Full
            at += len(line) + 1
            if is_url(line := line.strip(_space)):
                self.add(line)
            elif line:
                self.refuse("syntax")
        # Only the beginning of an endless line is kept: enough to see that it is too long.
        self.keep(text[:at] + rest[: URL_CHARS_MAX + 1], min(at, len(text)))

    # -- XML ---------------------------------------------------------------------------------------------------------------

    def _xml(self, text: str, end: End) -> None:
        """Three ways: 1. the part is well-formed: what is behind its last whole entry is kept; 2. there is a fault: what is
        behind the last whole entry before it is repaired; 3. bytes that are no characters: all of it is repaired."""
        state = self.state
        try:
            data = text.encode()
        except UnicodeEncodeError:  # it is named already
            return self._repair(text, end)
        strict = Strict(self, state.path)
        try:
            strict.read(data, end == "whole")
        except expat.ExpatError as error:
            self.fault("xml", f"line {state.line + error.lineno - 1}: {expat.ErrorString(error.code)}")
        except Odd as odd:
            self.fault(odd.fault, odd.detail)
        except Full:
            self._go_on(strict, data)
            raise
        else:
            self._go_on(strict, data)
            if end or len(state.rest) <= ENTRY_BYTES_MAX:
                return None
            data, strict.safe = state.rest, 0
        finally:
            strict.release()
        self._go_on(strict, data)
        return self._repair(state.rest.decode(), end)

    def _go_on(self, strict: Strict, data: bytes) -> None:
        """From the end of the last whole entry."""
        state = self.state
        state.path, state.rest = strict.path, data[strict.safe :]
        state.line += data.count(b"\n", 0, strict.safe)

    def _repair(self, text: str, end: End) -> None:
        """Read what can be read of whole entries; the beginning of another is kept."""
        from crawler.parse.sitemap_repair import behind_last, mended, repaired  # few parts need it

        state = self.state
        assert state.kind is not None
        if not state.path:
            root = _root(text)
            if _subset(text, 0, root.start() if root else len(text)):
                raise Stop("doctype")
            state.path = [root[1] if root else "root", *(("channel",) if state.kind == "rss" and "<channel" in text else ())]
        cut = len(text)
        if not end:
            cut = behind_last(text, PLACES[state.kind][0])
            if len(text) - cut > ENTRY_BYTES_MAX:
                self.fault("entry_too_long", f"line {state.line}: no end of an entry within {ENTRY_BYTES_MAX} bytes")
                cut = len(text)
        head, tail = mended(text[:cut]).encode(), text[cut:].encode("utf-8", "surrogatepass")
        line = state.line + text.count("\n", 0, cut)
        left = repaired(self, head)
        state.rest = head[left:] + tail
        state.line = line - head.count(b"\n", left)
        if left < len(head):
            raise Full


class Strict:
    """expat, told which elements are open already. The URLs of whole entries go to ``reading``."""

    def __init__(self, reading: SitemapReading, path: list[str]) -> None:
        self.path, self.safe = path, 0
        """The elements open behind the last whole entry, and how many bytes that is."""
        self._reading = reading
        self._open: list[str] = []
        self._parser = expat.ParserCreate("utf-8")
        self._parser.buffer_text = True
        self._parser.StartDoctypeDeclHandler = self._doctype
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._leave
        self._entry, self._leaf = PLACES[reading.state.kind or "urlset"]
        self._is_atom = reading.state.kind == "atom"
        self._text: list[str] | None = None
        self._text_chars = 0
        self._urls: list[str] = []  # of this entry
        self._modified = self._guid = self._heard = ""  # the last: the element whose text is read
        self._urls_over = 0
        self._base: str | None = None  # of this entry
        self._data, self._shift = b"", 0
        self.fed = 0  # how far it was read, about

    def read(self, data: bytes, last: bool, at: int = 0) -> None:
        """From a place on. Raises ExpatError, Odd, Stop, Full."""
        before = "".join(f"<{name}>" for name in self.path).encode()
        self._data, self._shift, self.safe = data, at - len(before), at
        self._parser.Parse(before, False)
        view = memoryview(data)
        while True:  # in pieces: most that is read again has a fault not far from here
            self.fed = min(at + _FEED_BYTES, len(data))
            self._parser.Parse(view[at : self.fed], last and self.fed == len(data))
            if (at := self.fed) >= len(data):
                break

    def release(self) -> None:
        """Break the reference cycle with the parser."""
        self._parser.StartDoctypeDeclHandler = self._parser.StartElementHandler = None
        self._parser.EndElementHandler = self._parser.CharacterDataHandler = None

    def _doctype(self, name: str, system: str | None, public: str | None, subset: bool) -> None:
        if subset:
            raise Stop("doctype")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        local = name.rpartition(":")[2]
        if not self._open:
            self._root(name, local)
        elif local == self._leaf and self._open[-1].rpartition(":")[2] == self._entry:
            if not self._is_atom:
                self._listen(local)
            elif attributes.get("rel", "alternate") == "alternate":
                self._take(self._based(attributes.get("href", ""), attributes.get("xml:base")))
        elif self._is_told(local, attributes) and self._open[-1].rpartition(":")[2] == self._entry:
            self._listen(local)
        if self._is_atom and (base := attributes.get("xml:base")) is not None:
            if local == self._entry:
                self._base = base
            elif local == "feed":
                self._reading.rebase(base)
        if len(self._open) >= ELEMENT_DEPTH_MAX or len(name) > NAME_CHARS_MAX:
            raise Odd("too_deep", f"over {ELEMENT_DEPTH_MAX} elements in one another, or a name of over {NAME_CHARS_MAX} letters")
        self._open.append(name)

    def _root(self, name: str, local: str) -> None:
        """What the root is called decides, where it could be read."""
        state = self._reading.state
        if (kind := ROOTS.get(local)) is not None:
            state.kind = kind
            self._entry, self._leaf = PLACES[kind]
            self._is_atom = kind == "atom"
        elif not self.path:
            if state.is_guess and local != self._entry:
                raise Stop("not_a_sitemap", f"the root is {name[:40]}")
            raise Odd("xml", f"line {state.line}: the root is {name[:40]}")

    def _is_told(self, local: str, attributes: dict[str, str]) -> bool:
        """Whether an element of an entry is read beside its URL. A ``guid`` is one unless it says that it is none (RSS 2.0)."""
        if local in _DATES:
            return self._reading.with_modified
        return local == "guid" and self._entry == "item" and attributes.get("isPermaLink", "").strip().lower() != "false"

    def _listen(self, local: str) -> None:
        self._text, self._text_chars, self._heard = [], 0, local
        self._parser.CharacterDataHandler = self._characters

    def _characters(self, text: str) -> None:
        if self._text is not None and self._text_chars <= URL_CHARS_MAX:
            self._text.append(text)
            self._text_chars += len(text)

    def _leave(self, name: str) -> None:
        opened = self._open
        opened.pop()
        if name.rpartition(":")[2] == self._entry:
            self._entry_ended()
        elif self._text is not None and opened[-1].rpartition(":")[2] == self._entry:
            text, self._text = "".join(self._text), None
            self._parser.CharacterDataHandler = None
            if self._heard in _DATES:
                self._modified = text.strip()
            elif self._heard == "guid":
                self._guid = text.strip(_space)
            else:
                self._take(text)

    def _based(self, href: str, own: str | None) -> str:
        """A URL of an entry that, or a link that, has a base of its own."""
        base, bases = self._reading.base, [text for text in (self._base, own) if text]
        with suppress(FetchError):
            for text in bases:
                base = join(base, text)
            href = join(base, href) if bases and href.strip() else href
        return href

    def _take(self, url: str) -> None:
        if len(self._urls) < ENTRY_URLS_MAX:
            self._urls.append(url)
        else:
            self._urls_over += 1

    def _entry_ended(self) -> None:
        self._text = self._parser.CharacterDataHandler = self._base = None
        at = self._parser.CurrentByteIndex + self._shift
        if is_url(self._guid) and not any(url.strip(_space) for url in self._urls):
            self._urls = [self._guid]
        for url in self._urls:  # not before: an entry that is not whole is read again
            self._reading.add(url, self._modified)
        self._modified = self._guid = ""
        self._reading.refuse("outlinks", self._urls_over)
        self._urls.clear()
        self._urls_over = 0
        if self._data.startswith(b"</", at):  # not the end of an empty element
            self.safe = self._data.index(b">", at) + 1
            self.path = self._open.copy()
            if self._reading.is_full:
                raise Full
