"""The forms a sitemap comes in, read from plain bytes: XML (urlset, sitemapindex, RSS, Atom) or one URL a line.

The law: bytes in any order end in URLs or in a Stop, and nothing here grows with the input. expat, not lxml: it builds no
tree, and lxml keeps the name of every element it ever saw (measured: 35 MiB after one hostile file). A document type with
anything inside is refused, so there are no entities to expand.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from typing import Final, Literal, Protocol, TypeAlias
from xml.parsers import expat

URL_CHARS_MAX: Final = 8 << 10
TEXT_CHARS_FREE: Final = 64 << 10
"""A list of URLs has its first one within these."""
TOKEN_BYTES_MAX: Final = 256 << 10
"""A tag, comment or instruction: expat scans an unfinished one again with every piece."""
ELEMENT_DEPTH_MAX: Final = 32
NAMES_MAX: Final = 1_000
"""Different names of elements and attributes: expat keeps each."""

Kind: TypeAlias = Literal["urlset", "index", "rss", "atom", "text"]
Fault: TypeAlias = Literal[
    "not_a_sitemap",
    "too_large",
    "too_many_urls",
    "index_depth",
    "xml",
    "encoding",
    "doctype",
    "token_too_long",
    "too_deep",
    "too_many_names",
    "gzip",
    "gzip_cut",
    "decode_ratio",
]

_ROOTS: Final[dict[str, Kind]] = {"urlset": "urlset", "sitemapindex": "index", "rss": "rss", "RDF": "rss", "feed": "atom"}
_PLACES: Final[dict[Kind, tuple[str, str]]] = {
    "urlset": ("url", "loc"),
    "index": ("sitemap", "loc"),
    "rss": ("item", "link"),
    "atom": ("entry", "link"),
}
_DECLARED = re.compile(rb"<\?xml[^>]{0,200}?\sencoding\s*=\s*[\"']([^\"']{0,40})", re.IGNORECASE)
_ENCODINGS = re.compile(r"us-ascii|iso-8859-\d{1,2}|windows-125\d|koi8-[ru]", re.IGNORECASE)
"""Those of one byte a character. Matched before Python looks for a codec, because it remembers every name it was asked."""


class Stop(Exception):
    """Reading ends here."""

    def __init__(self, fault: Fault, detail: str = "") -> None:
        self.fault = fault
        self.detail = detail


class Form(Protocol):
    """Told of URLs by the functions it was made with: ``named(kind)`` once, then ``add(url)``; ``skip()`` what is none."""

    def read(self, piece: bytes) -> None: ...

    def end(self) -> None: ...

    def release(self) -> None:
        """Break the reference cycle with the parser."""


def form_of(head: bytes, named: Callable[[Kind], None], add: Callable[[str], None], skip: Callable[[], None]) -> Form:
    """Chosen by the first bytes of the document, which are to be read by it."""
    if head[:2] in (b"<\0", b"\0<"):
        return _Xml("utf-16le" if head[0] else "utf-16be", named, add)
    if head[:4] in (b"\xff\xfe<\0", b"\xfe\xff\0<"):
        return _Xml("utf-16", named, add)
    if head[:1] == b"<":
        return _Xml(_declared(head), named, add)
    return _Text("utf-16" if head[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8", named, add, skip)


def _declared(head: bytes) -> str:
    declared = _DECLARED.match(head)
    name = declared[1].decode("latin-1").lower() if declared else "utf-8"
    if name.startswith(("utf-8", "utf8", "utf-16")):
        return "utf-8"  # it reads as ASCII, so it is not UTF-16 whatever it says
    if not _ENCODINGS.fullmatch(name):
        raise Stop("encoding", name)
    try:
        return codecs.lookup(name).name
    except LookupError:
        raise Stop("encoding", name) from None


class _Text:
    """One URL a line, UTF-8. A file that begins without any is something else."""

    def __init__(
        self, encoding: str, named: Callable[[Kind], None], add: Callable[[str], None], skip: Callable[[], None]
    ) -> None:
        self._named, self._add, self._skip = named, add, skip
        self._any = False
        self._decode = codecs.getincrementaldecoder(encoding)("replace").decode
        self._rest = ""
        self._chars = 0

    def read(self, piece: bytes, *, final: bool = False) -> None:
        text = self._decode(piece, final)
        self._chars += len(text)
        # Only the beginning of an endless line is kept: enough to see that it is too long.
        lines = (self._rest + text.replace("\r", "\n")).split("\n")
        self._rest = "" if final else lines.pop()[: URL_CHARS_MAX + 1]
        for line in lines:
            line = line.strip(" \t\0\ufeff")
            if line[:8].lower().startswith(("http://", "https://")):
                if not self._any:
                    self._any = True
                    self._named("text")
                self._add(line)
            elif line:
                self._skip()
        if not self._any and (final or self._chars > TEXT_CHARS_FREE):
            raise Stop("not_a_sitemap")

    def end(self) -> None:
        self.read(b"", final=True)

    def release(self) -> None:
        pass


class _Xml:
    """The URLs in the places that the root element's name tells."""

    def __init__(self, encoding: str, named: Callable[[Kind], None], add: Callable[[str], None]) -> None:
        self._named, self._add = named, add
        self._atom = False
        self._names: dict[str, str] = {}
        self._parser = expat.ParserCreate(encoding, None, self._names)
        self._parser.buffer_text = True
        self._parser.StartDoctypeDeclHandler = self._doctype
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._leave
        self._path: list[str] = []
        self._entry = self._leaf = ""
        self._text: list[str] | None = None
        self._text_chars = 0
        self._bytes = 0

    def read(self, piece: bytes) -> None:
        self._parse(piece, False)
        self._bytes += len(piece)
        if self._bytes - max(self._parser.CurrentByteIndex, 0) > TOKEN_BYTES_MAX:
            raise Stop("token_too_long")
        if len(self._names) > NAMES_MAX:
            raise Stop("too_many_names")

    def end(self) -> None:
        self._parse(b"", True)

    def release(self) -> None:
        self._parser.StartDoctypeDeclHandler = self._parser.StartElementHandler = None
        self._parser.EndElementHandler = self._parser.CharacterDataHandler = None

    def _parse(self, piece: bytes, final: bool) -> None:
        try:
            self._parser.Parse(piece, final)
        except expat.ExpatError as error:
            raise Stop("xml", str(error)) from None

    def _doctype(self, name: str, system: str | None, public: str | None, subset: bool) -> None:
        if subset:
            raise Stop("doctype")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        name = name.rpartition(":")[2]
        if not self._path:
            kind = _ROOTS.get(name)
            if kind is None:
                raise Stop("not_a_sitemap")
            self._entry, self._leaf = _PLACES[kind]
            self._atom = kind == "atom"
            self._named(kind)
        elif name == self._leaf and self._path[-1] == self._entry:
            if not self._atom:
                self._text, self._text_chars = [], 0
                self._parser.CharacterDataHandler = self._characters
            elif attributes.get("rel", "alternate") == "alternate":
                self._add(attributes.get("href", ""))
        if len(self._path) >= ELEMENT_DEPTH_MAX:
            raise Stop("too_deep")
        self._path.append(name)

    def _characters(self, text: str) -> None:
        if self._text is not None and self._text_chars <= URL_CHARS_MAX:
            self._text.append(text)
            self._text_chars += len(text)

    def _leave(self, name: str) -> None:
        self._path.pop()
        if self._text is not None and self._path[-1] == self._entry:
            text, self._text = "".join(self._text), None
            self._parser.CharacterDataHandler = None
            self._add(text)
