"""The layout of the durable store: families, keys and values. Pure.

One database, one write-ahead log, eight families. Integers and times are big-endian, so that keys sort as numbers do.
p = key of the host, u = fingerprint of the canonical URL, both seeded with the crawl's secret (crawler.core.keys). The first
byte of p is the host's slot: what begins with it is one range in ``seen``, ``queue``, ``host`` and ``page``.

    seen    p8 u8               → least depth (2 bytes, only under a depth limit), "r" once an attempt failed
            p8 s8               → the same for a sitemap as that of one site: s = fingerprint of its URL and the site
    queue   p8 lane1 seq8       → flags, link, or several as a bundle; deleted when settled or retried
    host    p8                  → HostRecord
            p8 x8               → different query strings of the path with fingerprint x (4 bytes)
    ready   due8 p8             → nothing; exists exactly while the host's queue is not empty
    due     due8 p8 prio1 seq8  → flags, link: a failed link until it may be tried again
                                → SCHEDULED, u8: a settled URL until it is visited again; void unless its page says the same time
    page    p8 u8               → flags, Known: only URLs that were settled
    robots  origin              → opaque
    meta    schema, state, identity, recrawl, mark:FILE, position:SOURCE, suspect:QUEUE-KEY, progress:list:NAME, progress:tag:TAG

A link stands in the lane of its priority; a retry that is due again one lane before. Within a lane the sequence only
grows and every lane knows where its first link is, so that no scan walks over what was deleted before.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from msgspec import Struct, field
from msgspec.msgpack import Decoder, Encoder

from crawler.core.errors import StorageError
from crawler.core.keys import SLOTS
from crawler.core.model import Known, Mark
from crawler.frontier.host_state import HostState
from crawler.frontier.progress import Tally
from crawler.frontier.recrawl import RecrawlOrder
from crawler.frontier.store import Counts

FAMILIES: Final = ("seen", "queue", "host", "ready", "due", "page", "robots", "meta")
BY_SLOT: Final = ("seen", "queue", "host", "page")
"""Families whose keys begin with the host's."""
BY_TIME: Final = ("ready", "due")
"""Families whose keys begin with a time, the host's behind it."""
TIME_BYTES: Final = 8

SCHEMA: Final = 2
"""1: every entry of ``queue`` is a single link · 2: it may be a bundle. What 1 wrote is read as it is."""
URL_RULES: Final = 1
"""Raised when ``crawler.core.urls`` changes what a canonical URL is: fingerprints made before would not match any more."""

SCHEMA_KEY: Final = b"schema"
STATE_KEY: Final = b"state"
IDENTITY_KEY: Final = b"identity"
RECRAWL_KEY: Final = b"recrawl"
"""Orders that are not fulfilled yet."""
MARK: Final = b"mark:"
POSITION: Final = b"position:"
SUSPECT: Final = b"suspect:"
PROGRESS: Final = b"progress:"
COPY: Final = b"copy:"
"""Of a working copy. Behind it a slot: under which epoch it was held, and the greatest sequence then."""

QUEUE_KEY_BYTES: Final = 17
LAST: Final = b"\xff" * 26
"""Sorts behind every key of ``ready`` and ``due``."""
REVIVED: Final = 1
"""Flag of a page: it waits to be visited once more, on request."""
NO_PAGE: Final = 2
"""Flag of a page: it is counted as none. Not set by versions that counted robots.txt and sitemaps as pages."""

SCHEDULED: Final = 0x10
"""First byte of an entry of ``due`` that is no link."""

_time = struct.Struct(">d")
_tail = struct.Struct(">BQ")
encode: Final = Encoder().encode


class Schema(Struct, frozen=True, array_like=True):
    """Which layout and URL rules a store was written with, and its secret."""

    schema: int
    url_rules: int
    secret: int


class StoreState(Struct, frozen=True, array_like=True):
    """What every commit rewrites."""

    sequence: int = 0
    now: float = 0.0
    wall: float = 0.0
    counts: Counts = Counts()


class Lane(Struct, array_like=True, gc=False):
    """A host's waiting links of one priority; none has a sequence below ``head``."""

    number: int
    head: int
    count: int = 0


class HostRecord(HostState):
    """What is kept of a host, with its queue's lanes."""

    lanes: list[Lane] = field(default_factory=list)

    @property
    def waiting(self) -> int:
        return sum(lane.count for lane in self.lanes)

    def enter(self, number: int, sequence: int, links: int) -> None:
        """Links join the lane's end, as one entry."""
        for lane in self.lanes:
            if lane.number == number:
                lane.count += links
                return
        self.lanes.append(Lane(number, sequence, links))
        self.lanes.sort(key=lambda lane: lane.number)

    def leave(self, number: int) -> None:
        """A link of the lane is gone; an empty lane is forgotten."""
        for lane in self.lanes:
            if lane.number == number:
                lane.count -= 1
                if not lane.count:
                    self.lanes.remove(lane)
                return
        raise StorageError("frontier store: a host has fewer links than its queue", final=True)

    def ready_key(self, host: bytes) -> bytes | None:
        return pack_time(self.ready_at) + host if self.lanes else None


class StoredPage(NamedTuple):
    """A settled URL, and how it stands in ``page``."""

    key: bytes
    flags: int
    known: Known


_pages = Decoder(Known)
decode_host: Final = Decoder(HostRecord).decode
decode_state: Final = Decoder(StoreState).decode
decode_schema: Final = Decoder(Schema).decode
decode_mark: Final = Decoder(Mark).decode
decode_tally: Final = Decoder(Tally).decode
decode_orders: Final = Decoder(list[RecrawlOrder]).decode


def pack_time(seconds: float) -> bytes:
    """Not negative; IEEE 754 numbers then sort as their bytes do."""
    return _time.pack(seconds if seconds > 0 else 0.0)


def unpack_time(key: bytes) -> float:
    return float(_time.unpack_from(key)[0])


def slot_range(slot: int) -> tuple[bytes, bytes]:
    """The keys of a slot in a family of BY_SLOT: from the first on, and before the second."""
    return bytes((slot,)), bytes((slot + 1,)) if slot + 1 < SLOTS else b"\xff" * 64


def queue_key(host: bytes, lane: int, sequence: int) -> bytes:
    return host + _tail.pack(lane, sequence)


def encode_page(known: Known, flags: int) -> bytes:
    return bytes((flags,)) + encode(known)


def decode_page(value: bytes) -> tuple[int, Known]:
    return value[0], _pages.decode(memoryview(value)[1:])


def encode_seen(depth: int | None, retrying: bool) -> bytes:
    """``depth`` is None where depths do not matter."""
    return (b"" if depth is None else min(depth, 0xFFFF).to_bytes(2, "big")) + (b"r" if retrying else b"")


def decode_seen(value: bytes) -> tuple[int, bool]:
    return int.from_bytes(value[:2], "big") if len(value) > 1 else 0, len(value) & 1 == 1


def file_key(prefix: bytes, name: str) -> bytes:
    return prefix + name.encode("utf-8", "surrogateescape")


def file_name(prefix: bytes, key: bytes) -> str:
    return key[len(prefix) :].decode("utf-8", "surrogateescape")
