"""XML of a sitemap part by part: expat, told which elements are open already, and which URLs an entry holds.

Invariants: entities are never expanded, and a document type with an internal subset is refused. Only a whole entry is taken:
one that is not is read again, from where ``safe`` says.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final
from xml.parsers import expat

from crawler.core.errors import FetchError
from crawler.core.urls import join
from crawler.parse.sitemap_part import PLACES, ROOTS, SPACE, URL_CHARS_MAX, Full, SitemapFault, SitemapReading, Stop, is_url

ENTRY_URLS_MAX: Final = 100
"""Of an entry: one is usual, and an Atom entry may have one for each language and type (RFC 4287 4.1.2)."""
ELEMENT_DEPTH_MAX: Final = 32
NAME_CHARS_MAX: Final = 256
FEED_BYTES: Final = 16 << 10
_DATES: Final = frozenset({"lastmod", "pubDate", "updated", "date"})  # the last of RSS 1.0


class Odd(Exception):
    """What expat lets pass, but we do not read."""

    def __init__(self, fault: SitemapFault, detail: str) -> None:
        self.fault, self.detail = fault, detail


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
        self._data = b""
        self._shift = 0
        self.fed = 0  # how far it was read, about

    def read(self, data: bytes, last: bool, at: int = 0) -> None:
        """From a place on. Raises ExpatError, Odd, Stop, Full."""
        before = "".join(f"<{name}>" for name in self.path).encode()
        self._data, self._shift, self.safe = data, at - len(before), at
        self._parser.Parse(before, False)
        view = memoryview(data)
        size = FEED_BYTES  # in pieces: most that is read again has a fault not far from here
        while True:
            self.fed = min(at + size, len(data))
            self._parser.Parse(view[at : self.fed], last and self.fed == len(data))
            if (at := self.fed) >= len(data):
                break
            size *= 2  # expat looks through what has no end from its beginning again, at each piece

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
        if local != "guid" or self._entry != "item":
            return False
        said = {name.lower(): value.strip().lower() for name, value in attributes.items()}  # some write isPermalink
        return said.get("ispermalink") != "false"

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
                self._guid = text.strip(SPACE)
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
        if is_url(self._guid) and not any(url.strip(SPACE) for url in self._urls):
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
