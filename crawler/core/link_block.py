"""A page's links, packed: made where the page is read, opened where they are stored, and carried unopened in between.

A block is a few columns of bytes, so that a store decides by slices of them. What all links of the page share stands in it
once; a link's own value is put together when it is admitted, and a ``Link`` object when it is claimed. Pure; the parser
processes import it.
"""

from __future__ import annotations

import re
import struct
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, chain, repeat
from operator import add, sub
from typing import Final

from msgspec import Struct
from msgspec.msgpack import Decoder, Encoder
from msgspec.structs import replace
from xxhash import xxh3_64_digest

from crawler.core.keys import KEY_BYTES, Keys
from crawler.core.model import EMBED, EMBED_DEPTH, PRIORITY_DEFAULT, PRIORITY_EMBED, Link, Tag
from crawler.core.reply_limits import PART_LINKS
from crawler.core.urls import host_key

QUERY_BYTES: Final = 8
NO_QUERY: Final = b"\0" * QUERY_BYTES
URL_BYTES_MIN: Final = len("http://h/")

_encode = Encoder().encode
_surrogates = re.compile("[\ud800-\udfff]").sub
is_printable = re.compile(rb"[!-~]*+").fullmatch
"""Whether bytes are such as canonical URLs have."""
_links = Decoder(Link)


def encode_link(link: Link, flags: int = 0) -> bytes:
    """A link as stores keep it: a byte of flags, then a msgpack array of its fields. Half a surrogate pair in what a person
    gave has no UTF-8; it is kept as U+FFFD."""
    try:
        return bytes((flags,)) + _encode(link)
    except UnicodeEncodeError:
        return bytes((flags,)) + _encode(replace(link, given=_surrogates("\ufffd", link.given or "")))


def decode_link(value: bytes) -> tuple[int, Link]:
    """(flags, link)"""
    return value[0], _links.decode(memoryview(value)[1:])


class Columns(Struct, frozen=True, array_like=True, gc=False):
    """What a parser process says of the links of a page, every URL once."""

    keys: bytes
    """KEY_BYTES a link: fingerprint of its host, fingerprint of its URL, both by the crawl's secret."""
    urls: bytes
    """The canonical URLs, one behind the other. Printable ASCII, as canonical URLs are."""
    ends: bytes
    """Where each of ``urls`` ends: unsigned 32-bit integers in the machine's order."""
    queries: bytes
    """QUERY_BYTES a link: fingerprint of the URL before its question mark, NO_QUERY where there is none; empty if no link
    has one, or nobody asks."""

    def __len__(self) -> int:
        return len(self.keys) // KEY_BYTES

    def is_sound(self, url_bytes_max: int) -> bool:
        """Whether the columns fit each other, and say no more than a page's may. (A process that a document took over may say
        anything: URLs that overlap, each with all the text of the others, or such as would end the line that they stand in.)"""
        count, odd = divmod(len(self.keys), KEY_BYTES)
        fits = not odd and len(self.ends) == 4 * count and len(self.queries) in (0, QUERY_BYTES * count)
        if not fits or count > PART_LINKS or not is_printable(self.urls):
            return False
        ends = array("I", self.ends)
        lengths = [*map(sub, ends, chain((0,), ends))]
        fits = min(lengths, default=URL_BYTES_MIN) >= URL_BYTES_MIN and max(lengths, default=0) <= url_bytes_max
        return fits and sum(lengths) == len(self.urls)


class LinkBlock(Struct, frozen=True, array_like=True, gc=False):
    """The links of kind ``link``, or ``embed``, that a page has, or a part of them."""

    columns: Columns
    depth: int
    tail: bytes
    """Encoded fields that all of them share, behind URL and host."""
    tag: Tag | None = None
    priority: int = PRIORITY_DEFAULT

    def __len__(self) -> int:
        return len(self.columns.keys) // KEY_BYTES

    @property
    def size(self) -> int:
        """Bytes in memory."""
        columns = self.columns
        return len(columns.keys) + len(columns.urls) + len(columns.ends) + len(columns.queries) + len(self.tail)

    def keys(self) -> list[bytes]:
        return list(struct.unpack(f"{KEY_BYTES}s" * len(self), self.columns.keys))

    def urls(self) -> Iterator[bytes]:
        ends = array("I", self.columns.ends)
        return map(self.columns.urls.__getitem__, map(slice, chain((0,), ends), ends))

    def only(self, places: Sequence[int]) -> LinkBlock:
        """A block of the links at these places, in their order."""
        keys, queries, found = self.columns.keys, self.columns.queries, self.columns.urls
        ends = array("I", (0,))
        ends.frombytes(self.columns.ends)
        urls = [found[ends[at] : ends[at + 1]] for at in places]
        columns = Columns(
            b"".join([keys[at * KEY_BYTES : (at + 1) * KEY_BYTES] for at in places]),
            b"".join(urls),
            array("I", accumulate(map(len, urls))).tobytes(),
            b"".join([queries[at * QUERY_BYTES : (at + 1) * QUERY_BYTES] for at in places]) if queries else b"",
        )
        return LinkBlock(columns, self.depth, self.tail, self.tag, self.priority)

    def links(self) -> list[Link]:
        """All of them, decoded."""
        hosts = (packed_text(host_key(url.decode()).encode()) for url in self.urls())
        return [decode_link(link_value(url, host, self.tail))[1] for url, host in zip(self.urls(), hosts, strict=True)]


def block_of(columns: Columns, page: Link, *, deeper: int = 1) -> LinkBlock:
    """The links of a page, which is ``page`` as it was visited; by so many ``deeper`` than it."""
    shared = Link("", "", "link", page.depth + deeper, via=page.url, tag=page.tag, anchor=page.anchor or page.url)
    return LinkBlock(columns, shared.depth, _encode(shared)[3:], page.tag)


def embeds_of(columns: Columns, page: Link) -> LinkBlock:
    """What a page, or something embedded in it, needs to be shown."""
    depth, priority = page.depth + (page.kind != EMBED), PRIORITY_EMBED + page.nesting + 1
    shared = Link("", "", "embed", depth, priority, via=page.url, tag=page.tag, anchor=page.anchor or page.url)
    return LinkBlock(columns, EMBED_DEPTH, _encode(shared)[3:], page.tag, priority)


def link_value(url: bytes, host: bytes, tail: bytes) -> bytes:
    """A link as ``encode_link`` makes it, without flags. ``host`` is encoded, ``tail`` as in ``LinkBlock``."""
    return _HEAD + packed_text(url) + host + tail


def packed_text(text: bytes) -> bytes:
    """A msgpack string."""
    size = len(text)
    if size < 32:
        return bytes((0xA0 | size,)) + text
    if size < 256:
        return bytes((0xD9, size)) + text
    if size < 65536:
        return b"\xda" + size.to_bytes(2, "big") + text
    return b"\xdb" + size.to_bytes(4, "big") + text


class Packer:
    """Collects the links of one page. ``with_queries``: the crawl limits the different query strings of a path."""

    def __init__(self, keys_by: Keys, *, with_queries: bool) -> None:
        self._host_key, self._secret, self._with_queries = keys_by.host, keys_by.secret, with_queries
        self._keys: list[bytes] = []
        self._urls: list[bytes] = []

    def __len__(self) -> int:
        return len(self._urls)

    def add(self, links: Iterable[tuple[str, str]]) -> int:
        """Links, each as its URL and host; how many there are by now."""
        links = list(links)
        urls = [url.encode() for url, _ in links]
        hosts = [host for _, host in links]
        self._keys += map(add, map(self._host_key, hosts), map(xxh3_64_digest, urls, repeat(self._secret)))
        self._urls += urls
        return len(self._urls)

    def take(self) -> Columns:
        """What was added since the last time."""
        found = self._urls
        ends = array("I", accumulate(map(len, found))).tobytes()
        urls, queries = b"".join(found), b""
        if self._with_queries and b"?" in urls:
            queries = b"".join([self._query(url) if b"?" in url else NO_QUERY for url in found])
        columns = Columns(b"".join(self._keys), urls, ends, queries)
        self._keys, self._urls = [], []
        return columns

    def _query(self, url: bytes) -> bytes:
        return xxh3_64_digest(url[: url.index(b"?")], self._secret)


_HEAD: Final = b"\0" + _encode(Link("", ""))[:1]
"""No flags, and the head of a link's array."""
