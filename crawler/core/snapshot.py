"""A running crawl at one moment, as people and programs are told it; and why it does not go faster. Frozen."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Literal, TypeAlias

from msgspec import Struct

CrawlState: TypeAlias = Literal["opening", "running", "paused", "offline", "draining", "ended"]

WaitsFor: TypeAlias = Literal[
    "politeness",
    "frontier",
    "memory",
    "descriptors",
    "rate",
    "disk",
    "network",
    "parser",
    "operator",
    "exchange",
    "database",
    "nothing",
]
"""What most of the workers wait for. frontier: there is no URL to visit · descriptors: the process may open no more · rate:
the crawl-wide ceiling of requests or bytes · disk: it is full, failing, or commits take long · network: ours is down ·
operator: a person has paused the crawl · exchange: another part of the crawl is far behind with what this one has sent ·
database: that of a crawl of many machines cannot be reached, or has given this node nothing yet · nothing: they are all busy."""


class Pause(StrEnum):
    """Why nothing is dealt; several may hold at a time."""

    USER = "user"
    DISK = "disk"
    """A write failed: everything is being cut back to the last commit."""
    DISK_LOW = "disk_low"
    MEMORY = "memory"
    OFFLINE = "offline"
    EXCHANGE = "exchange"
    """Another part of the crawl is far behind with what this one has sent."""
    DATABASE = "database"
    """In a crawl of many machines: the database cannot be reached, or this node leases nothing."""


class Limiter(StrEnum):
    """What allows fewer visits at a time than there are workers."""

    MEMORY = "memory"
    DESCRIPTORS = "descriptors"
    """Of RLIMIT_NOFILE."""
    SCARCE = "scarce"
    """The machine has just had none to give (EMFILE, ENFILE, ENOBUFS, ENOMEM)."""


class LongestHost(Struct, frozen=True):
    """The host that politeness keeps busy longest. ``rest`` in seconds between its visits."""

    host: str
    waiting: int
    rest: float
    per_host: int = 1

    @property
    def lasts_s(self) -> float:
        """How long politeness keeps it busy."""
        return self.waiting * self.rest / self.per_host


class Snapshot(Struct, frozen=True, kw_only=True):
    """A running crawl at one moment: totals since its directory was begun, as people and programs are told them."""

    at: float
    """Monotonic clock, seconds: only differences mean something."""
    state: CrawlState
    waits_for: WaitsFor = "nothing"
    reading: bool = False
    """The URL lists are not yet read to their end: ``known`` still grows with them."""
    known: int = 0
    waiting: int = 0
    retrying: int = 0
    done: int = 0
    in_flight: int = 0
    bytes: int = 0
    """Body bytes received."""
    outcomes: Mapping[str, int] = {}
    """Settled URLs by outcome."""
    statuses: Mapping[str, int] = {}
    """Of those that are ``http_error``, by HTTP status."""
    reasons: Mapping[str, int] = {}
    """Settled URLs and listed lines that are no URL, by reason."""
    not_pages: Mapping[str, int] = {}
    """Settled besides, and in no other count, by kind: ``robots``, ``sitemap``."""
    refused: Mapping[str, int] = {}
    """Links left out, by rule."""
    lines: Mapping[str, int] = {}
    """Listed lines that are no URL of their own: ``invalid_url``, ``duplicate``."""
    recrawl: int = 0
    """Of ``done``, those that are due again by schedule."""
    changes: Mapping[str, int] = {}
    """What visits found against the last ones, by change, since a recrawl was last ordered."""
    settled: int = 0
    """How often a page was settled: unlike ``done`` never less, whatever is due again."""
    longest_host: LongestHost | None = None
    failing_hosts: tuple[tuple[str, int], ...] = ()
    """(host key, failures) of at most ten hosts, most failures first."""
    unstored: int = 0
    """Full files that wait to be stored at ``store_url``."""
    unstored_bytes: int = 0
    store_trouble: str | None = None
    """Why they cannot be stored just now."""

    @property
    def is_whole(self) -> bool:
        """All that is known is settled, and stored where it is to be, and nothing more is read."""
        return not (self.reading or self.waiting or self.retrying or self.in_flight or self.unstored)
