"""A page's links, packed: made where the page is read, opened where they are stored, and carried unopened in between.

A block is columns of fixed width beside the links themselves, each encoded as a store keeps it, so that a store decides by
slices of bytes; a ``Link`` object is made only when a link is claimed. Pure; the parser processes import it.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator
from itertools import pairwise
from typing import Final

from msgspec import Struct
from msgspec.msgpack import Decoder, Encoder
from msgspec.structs import replace

from crawler.core.model import Link
from crawler.core.urls import fingerprint

KEY_BYTES: Final = 16
HOST_BYTES: Final = 8
QUERY_BYTES: Final = 8
NO_QUERY: Final = b"\0" * QUERY_BYTES

_encode = Encoder().encode
_surrogates = re.compile("[\ud800-\udfff]").sub
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


def host_of(value: bytes) -> str:
    """The host key of an encoded link, without decoding the rest: it stands second, behind the URL."""
    at, size = _text_at(value, 2)
    at, size = _text_at(value, at + size)
    return value[at : at + size].decode()


def _text_at(value: bytes, at: int) -> tuple[int, int]:
    """Where the msgpack string that begins at ``at`` has its bytes, and how many."""
    head = value[at]
    if head < 0xC0:
        return at + 1, head & 0x1F
    width = 1 << (head - 0xD9)
    return at + 1 + width, int.from_bytes(value[at + 1 : at + 1 + width], "big")


class LinkBlock(Struct, frozen=True, array_like=True, gc=False):
    """Links of kind ``link`` found on one page. Every URL stands in it once."""

    keys: bytes
    """KEY_BYTES a link: fingerprint of its host, fingerprint of its URL, both by the crawl's secret."""
    values: bytes
    """The links as ``encode_link`` makes them, one behind the other."""
    ends: bytes
    """Where each of ``values`` ends: unsigned 32-bit integers in the machine's order."""
    queries: bytes
    """QUERY_BYTES a link: fingerprint of the URL before its question mark, NO_QUERY where there is none; empty if no link
    has one."""
    depth: int
    """Of every link."""

    def __len__(self) -> int:
        return len(self.keys) // KEY_BYTES

    @property
    def size(self) -> int:
        """Bytes in memory."""
        return len(self.keys) + len(self.values) + len(self.ends) + len(self.queries)

    def each_key(self) -> list[bytes]:
        keys = self.keys
        return [keys[at : at + KEY_BYTES] for at in range(0, len(keys), KEY_BYTES)]

    def each_value(self) -> Iterator[bytes]:
        values = self.values
        return (values[start:end] for start, end in pairwise((0, *array("I", self.ends))))

    def links(self) -> list[Link]:
        return [decode_link(value)[1] for value in self.each_value()]


class Packer:
    """Makes blocks of the links of one page. ``template`` is a link of it without ``url`` and ``host``; ``with_queries``: the
    crawl limits the different query strings of a path."""

    def __init__(self, secret: int, template: Link, *, with_queries: bool) -> None:
        self._secret, self._depth, self._with_queries = secret, template.depth, with_queries
        # flags, the head of an array, two empty strings, then what all links of the page share
        self._head, self._tail = b"\0" + _encode(template)[:1], _encode(template)[3:]
        self._hosts: dict[str, tuple[bytes, bytes]] = {}
        self._clear()

    def _clear(self) -> None:
        self._keys: list[bytes] = []
        self._values: list[bytes] = []
        self._ends = array("I")
        self._queries: list[bytes] = []
        self._size = 0
        self._has_query = False

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, url: str, host: str) -> None:
        known = self._hosts.get(host)
        if known is None:
            known = self._hosts[host] = (fingerprint(host, self._secret), _encode(host) + self._tail)
        host_key, tail = known
        self._keys.append(host_key + fingerprint(url, self._secret))
        value = self._head + _encode(url) + tail
        self._values.append(value)
        self._size += len(value)
        self._ends.append(self._size)
        if self._with_queries:
            path, mark, _ = url.partition("?")
            self._queries.append(fingerprint(path, self._secret) if mark else NO_QUERY)
            self._has_query = self._has_query or bool(mark)

    def block(self) -> LinkBlock:
        """What was added since the last one."""
        queries = b"".join(self._queries) if self._has_query else b""
        made = LinkBlock(b"".join(self._keys), b"".join(self._values), self._ends.tobytes(), queries, self._depth)
        self._clear()
        return made


def pack(links: list[Link], secret: int, *, with_queries: bool = True) -> LinkBlock:
    """A block of links that share all but URL and host; for tests."""
    packer = Packer(secret, links[0], with_queries=with_queries)
    for link in links:
        packer.add(link.url, link.host)
    return packer.block()
