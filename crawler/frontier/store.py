"""The durable half of the frontier: which links are known, which wait, which are settled.

The protocol is synchronous and batch-shaped: the pump calls it from one engine thread, so an implementation needs no
lock. (``stats``, ``own_counts``, ``removed``, ``clock``, ``longest``, ``memory_used``, ``shed``, ``lookup`` and ``budgets`` may
be asked from any thread.)

Invariants: what ``commit`` returned from is never forgotten; what was not committed never happened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

from msgspec import Struct

from crawler.config import Config
from crawler.core.batch import Batch, Prepared
from crawler.core.model import Known, Lease, Mark
from crawler.frontier.progress import Tally
from crawler.frontier.recrawl import RecrawlOrder
from crawler.frontier.selection import Selection, Step

PROMOTED_MAX: Final = 1000
"""Most links whose time has come that one claim moves back among the waiting."""


class Limits(Struct, frozen=True):
    """The rules that need the store's memory. ``depth_limited``: least depths matter. 0 means no limit. ``sitemaps``: they are
    read, each for every site that names it. ``recrawl``: what was settled becomes due again by schedule."""

    depth_limited: bool = False
    pages_per_host: int = 0
    queries_per_path: int = 0
    sitemaps: bool = False
    recrawl: bool = False

    @classmethod
    def of(cls, config: Config) -> Limits:
        """What is embedded and linked as well is nearer as a link, whatever depth means otherwise."""
        return cls(
            depth_limited=config.depth > 0 or (config.requisites and config.depth != 0),
            pages_per_host=config.max_pages_per_host,
            queries_per_path=config.max_queries_per_path,
            sitemaps=config.sitemaps,
            recrawl=config.recrawl_every > 0,
        )


class Counts(Struct, frozen=True, gc=False):
    """Totals as of the last commit; never the result of a scan."""

    known: int = 0
    waiting: int = 0
    """Admitted or made due again, not settled, without ``retrying``; links to expand once more included."""
    retrying: int = 0
    """Not settled; the last attempt failed."""
    recrawl: int = 0
    """Of what is settled, what is due again by schedule."""
    done: int = 0
    hosts: int = 0
    outcomes: Mapping[str, int] = {}
    """Settled URLs by outcome."""
    reasons: Mapping[str, int] = {}
    """Settled URLs by reason, and listed lines that are no URL."""
    refused: Mapping[str, int] = {}
    """Links left out, by rule."""
    lines: Mapping[str, int] = {}
    """Listed lines that are no URL of their own: ``invalid_url``, ``duplicate``."""
    not_pages: Mapping[str, int] = {}
    """Settled URLs that are no pages (robots.txt, sitemaps), by kind: in none of the other counts."""
    statuses: Mapping[str, int] = {}
    """Settled URLs that are ``http_error``, by HTTP status. Not of those that an earlier version settled."""
    changes: Mapping[str, int] = {}
    """What visits found against the last ones (``Known.change``), since a recrawl was last ordered."""
    settled: int = 0
    """How often a page was settled: unlike ``done`` never less, whatever is due again."""
    recrawl_skipped: int = 0
    """Of ``recrawl``, what was left out at its last visit."""


class Store(Protocol):
    """See the module. Every method may raise StorageError; after that only ``rewind`` and ``close`` may be called."""

    removed: int
    """Pages that were forgotten since it was made: so many fewer are known."""

    def prepare(self, batch: Batch) -> Prepared:
        """Decide what is new. Writes nothing. ValueError: a lease is not claimed."""

    def commit(self, prepared: Prepared, known: Sequence[Known | None], marks: Mapping[str, Mark]) -> None:
        """Make the batch true in one synced transaction; durable on return.

        ``known`` is aligned with ``batch.settled`` (None for Retry and for the kinds EXPANDED). ``marks`` are the files
        touched: the rest keep theirs. After a StorageError the batch may be there nevertheless (the disk took it, but
        did not say so): once ``rewind`` has returned, it is exactly if ``clock() == prepared.batch.now``.
        """

    def claim(self, hosts: int, per_host: int, now: float, low: Mapping[str, int]) -> list[Lease]:
        """Up to ``per_host`` waiting links each from up to ``hosts`` hosts due at ``now`` that have none claimed, and
        up to the given number for each of ``low``, which have. By priority, then first in, first out; a retry that
        is due again stands one step of priority before its peers. A claimed link is not claimed again until given back
        or settled. Links of a host that is down come at once, whatever it rests. It is down until a new seed of it is
        committed, one of its URLs is revived, or the store is opened anew."""

    def give_back(self, leases: Sequence[Lease]) -> None:
        """These were not visited: they may be claimed again. Writes nothing."""

    def next_due(self) -> float | None:
        """The crawl-clock time at which ``claim`` may find more than now; None if nothing waits."""

    def stats(self) -> Counts: ...

    def own_counts(self) -> Counts:
        """Of ``stats``, what this node has counted: of many, in a crawl of many machines."""

    def progress(self, kind: str) -> dict[str, Tally]:
        """How far each list is (``progress.LIST``), by name, or each tag (``progress.TAG``), by itself as JSON; "" stands for
        all that are not told apart."""

    def lookup(self, url: str) -> Known | str | None:
        """What is known of a canonical URL: its record, ``"waiting"``, ``"retrying"``, or None if it was never admitted."""

    def budgets(self, url: str) -> tuple[int, int]:
        """How many links were admitted for a URL's host, and how many different query strings for its path; those
        are counted only where ``Limits`` has a limit for them."""

    def revive_some(self, which: Selection, after: bytes = b"") -> Step:
        """Make settled URLs due again, as the next attempt: one step of it, durable on return. Their hosts are given up no more,
        and their robots visits suspected of nothing."""

    def remove_some(self, which: Selection, after: bytes = b"") -> Step:
        """One step of forgetting settled URLs: found or named again, they are new. Those that wait again are left."""

    def order(self, order: RecrawlOrder) -> None:
        """Keep it, durable on return; at most ORDERS_MAX. ``changes`` are counted anew from now on, unless it is a schedule."""

    def orders(self) -> list[RecrawlOrder]:
        """What was ordered and is not fulfilled yet."""

    def fulfil(self, pages: int) -> int | None:
        """Look at so many settled URLs for the first order, and make those it chooses due again, or give them a schedule; how
        many these were. None: there is no order, any more."""

    def hasten(self, modified: Mapping[str, float]) -> int:
        """Of these canonical URLs, make those due again that were last fetched before the wall time given; how many."""

    def robots(self, origins: Sequence[str]) -> list[bytes | None]:
        """The robots records kept for these origins."""

    def marks(self, folder: str = "") -> dict[str, Mark]:
        """Every file of the crawl, or of one folder (``results/``), and its length as of the last commit."""

    def positions(self, begins: str = "") -> dict[str, bytes]:
        """Seed sources, or those whose name begins so, and the positions committed for them."""

    def clock(self) -> float:
        """Crawl clock of the last commit, 0.0 if there was none."""

    def last_commit_wall(self) -> float:
        """Wall time of the last commit, 0.0 if there was none."""

    def secret(self) -> int:
        """The seed of this crawl's fingerprints: 64 random bits, drawn once."""

    def identity(self) -> bytes | None:
        """What ``set_identity`` kept: how the crawl was begun (opaque here)."""

    def set_identity(self, identity: bytes) -> None:
        """Keep it, durable on return."""

    def suspects(self) -> dict[bytes, int]:
        """Leases by key that were out when the process died, and how often. Settling or retrying one clears it; a visit for
        robots rules has ``suspects.robots_key`` for its key, and is cleared by an end that is not ``crashed``."""

    def set_suspects(self, counts: Mapping[bytes, int]) -> None:
        """Keep these counts, durable on return; keys of links that do not wait (any more) are left out. Such a link
        is claimed with ``suspect`` set and its attempt raised by the count; from ``host_state.CRASHES_MAX`` on it is given up.
        At most ``suspects.ROBOTS_SUSPECTS_MAX`` visits for robots rules are kept."""

    def longest(self, limit: int) -> list[tuple[str, int]]:
        """Hosts with the most waiting links and how many, of those touched since the store was opened; longest first."""

    def memory_used(self) -> int:
        """Bytes held by caches and write buffers."""

    def shed(self) -> None:
        """Empty the caches that can be filled again; from any thread."""

    def copy_to(self, path: Path) -> None:
        """A store of its own in ``path``, which must not exist: as of the last commit. StorageError: it cannot be made."""

    def rewind(self, claimed: Sequence[Lease] = ()) -> None:
        """Forget all that is not committed and open anew after a failure; only ``claimed`` are still claimed. May be
        tried again when it fails."""

    def close(self) -> None: ...
