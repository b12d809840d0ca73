"""One part of a sitemap in a parser process: what goes in, what is found, and what the next part needs.

Invariant: what is held of a document between two parts is bounded, and so is the reply to each.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

from crawler.core.errors import FetchError
from crawler.core.urls import Base, UrlRules, join
from crawler.parse.microsyntax import date_of

URL_CHARS_MAX: Final = 8 << 10
PART_REPLY_BYTES_MAX: Final = 512 << 10
"""Of URLs: short references to a long base may stand in a part. What does not fit is read by the next call."""

SitemapKind: TypeAlias = Literal["urlset", "index", "rss", "atom", "text"]
SitemapFault: TypeAlias = Literal["not_a_sitemap", "doctype", "xml", "encoding", "entry_too_long", "too_deep", "too_many_faults"]
End: TypeAlias = Literal["", "whole", "cut"]
"""Whether more follows a part, it is the last, or it is where the document was cut."""

ROOTS: Final[dict[str, SitemapKind]] = {"urlset": "urlset", "sitemapindex": "index", "rss": "rss", "RDF": "rss", "feed": "atom"}
ENTRIES_MAX: Final = 100_000
"""In one reply: URLs of no more than PART_REPLY_BYTES_MAX."""
FAULT_CHARS_MAX: Final = 1000
Count: TypeAlias = Annotated[int, Meta(ge=0, le=1 << 40)]
Faults: TypeAlias = dict[SitemapFault, tuple[Count, Annotated[str, Meta(max_length=FAULT_CHARS_MAX)]]]
PLACES: Final[dict[SitemapKind, tuple[str, str]]] = {
    "urlset": ("url", "loc"),
    "index": ("sitemap", "loc"),
    "rss": ("item", "link"),
    "atom": ("entry", "link"),
}
"""An entry's element, and the one in it that holds the URL."""

SPACE: Final = " \t\r\n\0\ufeff"
raw_byte: Final = re.compile("[\udc80-\udcff]")
"""A byte that is not of the document's encoding, as ``microsyntax.decoded_raw`` leaves it in the text."""
is_url: Final = re.compile(r"https?://", re.IGNORECASE).match


def _section(name: str, begins: str, ends: str) -> str:
    """What begins and ends so, with nothing between that begins or ends so. One that is open is none: what stands in it may be
    all that is left of the document. It is looked for ahead and then taken whole, which is linear in its length; a possessive
    group would say the same, but is matched wrongly before Python 3.11.5."""
    return rf"{begins}(?=(?P<{name}>.*?(?:{begins}|{ends})))(?P={name})(?<={ends})"


COMMENT: Final = _section("comment", "<!--", "-->")
CDATA: Final = _section("cdata", r"<!\[CDATA\[", r"\]\]>")
"""Patterns, for re.DOTALL, with a group of that name."""


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

    entries: Annotated[list[str], Meta(max_length=ENTRIES_MAX)]
    kind: SitemapKind | None
    encoding: Annotated[str, Meta(max_length=40)]
    state: bytes
    refused: Annotated[dict[str, Count], Meta(max_length=64)]
    faults: Faults
    more: bool = False
    modified: Annotated[dict[str, Annotated[float, Meta(ge=-1e12, le=1e12)]], Meta(max_length=ENTRIES_MAX)] = {}


_encode = msgspec.msgpack.Encoder().encode
decode_state = msgspec.msgpack.Decoder(SitemapState).decode


def without_part(state: bytes) -> bytes:
    """The state to go on from where a part, and what was left before it, could not be read at all."""
    before = decode_state(state) if state else SitemapState("UTF-8")
    before.rest, before.decoder = b"", None
    return _encode(before)


class Stop(Exception):
    """Reading ends here, for the whole document."""

    def __init__(self, fault: SitemapFault, detail: str = "") -> None:
        self.fault, self.detail = fault, detail


class Full(Exception):
    """No more entries fit into this reply. What is not read is in the state."""


class SitemapReading:
    """One call: the state that it goes on from, and what it has found so far."""

    def __init__(self, state: SitemapState, how: How) -> None:
        self.state, self.how = state, how
        self.with_modified = how.with_modified
        self._modified: dict[str, float] = {}
        self._join = Base(self.base, how.rules).join
        self._found: dict[str, None] = {}
        self._bytes_left = PART_REPLY_BYTES_MAX
        self._refused: dict[str, int] = {}
        self._faults: Faults = {}

    def reply(self, *, more: bool = False) -> Part:
        state = self.state
        read = (_encode(state), self._refused, self._faults, more, self._modified)
        return Part(list(self._found), state.kind, state.encoding, *read)

    def fault(self, name: SitemapFault, detail: str) -> None:
        count, first = self._faults.get(name, (0, detail[:FAULT_CHARS_MAX]))
        self._faults[name] = count + 1, first

    @property
    def is_full(self) -> bool:
        return self._bytes_left <= 0

    @property
    def base(self) -> str:
        return self.state.base or self.how.url

    def rebase(self, base: str) -> None:
        """Of a feed: what its URLs are relative to from now on (RFC 4287 2)."""
        with suppress(FetchError):
            self.state.base = join(self.how.url, base)
            self._join = Base(self.base, self.how.rules).join

    def add(self, reference: str, modified: str = "") -> None:
        """Take what stands where a URL should, and when it says to have been modified. Bytes that are not of the encoding are
        percent-encoded as they are."""
        reference = raw_byte.sub(lambda byte: f"%{ord(byte[0]) - 0xDC00:02X}", reference.strip(SPACE))
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
