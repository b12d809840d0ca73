"""What one commit makes true: the visits that ended, the links that were admitted, and what the store decided about them.

Handed from the frontier to the store and to what writes the files, so that none of the three needs to know the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import IntEnum

from msgspec import Struct

from crawler.core.link_block import LinkBlock
from crawler.core.model import THERE, Done, Input, Lease, LineFault, Link, Mark, Outcome, is_miscoded, text_bytes


class HostRest(Struct, frozen=True, gc=False):
    """What a commit remembers of a host. ``due`` is crawl-clock time, ``failures`` counts those in a row,
    ``down`` is (outcome, reason) once the host was given up, None otherwise."""

    due: float
    failures: int = 0
    down: tuple[str, str] | None = None
    busy: int = 0
    """Times in a row it asked us to slow down (429, 503)."""
    has_responded: bool = False
    """It responded, or at least took a request, at some time in this crawl."""


class Settled(Struct, frozen=True):
    """A lease and how its visit ended. ``retry_at`` is the crawl-clock time a Retry is due again.

    ``lease.key == b""``: it never stood in the queue (robots.txt): nothing to delete. The URL of a robots link becomes
    known and settled if it was neither, but only if it is a robots.txt: what that was redirected to may be any page. A URL
    settled again (robots, retry) leaves its earlier count; one that was settled as a page keeps that record."""

    lease: Lease
    outcome: Outcome
    retry_at: float = 0.0

    @property
    def is_read_again(self) -> bool:
        """A recrawl of what was read before: what it leaves out was counted then."""
        known = self.lease.known
        return self.lease.recrawl and known is not None and (known.outcome in THERE or is_miscoded(known))

    @property
    def was_redirected(self) -> bool:
        """It, or what redirects to it, at an earlier visit: the line that named it has ended then, there or elsewhere."""
        known = self.lease.known
        return self.lease.line_has_ended or (known is not None and (known.line_has_ended or known.outcome == "redirect"))


class Admitted(Struct, frozen=True):
    """Links from a person or a part of a page, all or nothing."""

    links: tuple[Link, ...]
    faults: tuple[LineFault, ...] = ()
    position: tuple[str, bytes] | None = None
    """(source, opaque position after these lines), committed together with them."""
    block: LinkBlock | None = None
    """The links of a part of a page, packed; they come behind ``links``."""
    extras: Mapping[Input, str] = {}
    """Further keys of the lines among ``faults`` (see ``Link.extra``)."""
    visited_at: float = 0.0
    """When another part of the crawl visited the page they are of, seconds since the epoch by its wall clock; 0.0: none has."""
    was_redirected: bool = False
    """As of that visit (see ``Settled``)."""

    @property
    def text_bytes(self) -> int:
        """Most that the texts of ``links`` and ``faults`` hold in memory."""
        links = sum([link.text_bytes for link in self.links])
        return links + sum([text_bytes(fault.text) for fault in self.faults]) + sum(map(text_bytes, self.extras.values()))


class Batch(Struct):
    """What one commit makes true. Unvisited outcomes do not come here: see ``Store.give_back``."""

    settled: list[Settled]
    admitted: list[Admitted]
    hosts: dict[str, HostRest]
    """Host key → its rest, for every host of ``settled``."""
    refused: dict[str, int]
    """Links left out so far, by rule: added to the counters."""
    now: float
    """Crawl clock, seconds."""
    wall: float
    """Wall time, seconds since the epoch."""
    robots: dict[str, bytes] = {}
    """Origin → its robots record (opaque here), to be kept by the part of the crawl whose origin it is."""
    denials: dict[str, tuple[str, str]] = {}
    """Origin → (outcome, reason), where its robots rules could not be fetched: sent to the part whose origin it is, and kept
    nowhere."""
    retired: dict[str, Mark | None] = {}
    """New marks of closed files that are no longer kept; None: it needs no mark any more."""


class Verdict(IntEnum):
    """What the store decided about a link."""

    KNOWN = 0
    """The URL is known already, or stands earlier in the same batch."""
    NEW = 1
    """It is admitted."""
    EXPAND = 2
    """It is known, but this path to it is shorter: it is queued again as kind ``expand``. Or it is a robots link, which is
    queued whatever is known, and makes nothing known."""
    HOST_BUDGET = 3
    QUERY_EXPLOSION = 4
    """Refused, and counted under that rule; never a seed, a redirect or a robots link."""
    FOREIGN = 5
    """Another part of the crawl decides about it, and is sent it."""


KNOWN, NEW, EXPAND, HOST_BUDGET, QUERY_EXPLOSION, FOREIGN = Verdict


class Prepared(Struct):
    """The store's verdict on a batch, before anything is written. Only the latest one may be committed, once.

    ``verdicts`` are Verdicts, a byte for each of the batch's links in the order of ``found_in``. ``fed`` are the hosts that
    links were admitted for."""

    batch: Batch
    verdicts: bytes
    fed: frozenset[str]


def found_in(batch: Batch) -> Iterator[tuple[Sequence[Link], LinkBlock | None, Settled | Admitted]]:
    """The links of a batch: for each of ``settled`` its outlinks, then its block; then the same for each of ``admitted``. The
    third is which of these brought them."""
    for settled in batch.settled:
        if isinstance(settled.outcome, Done):
            yield settled.outcome.outlinks, settled.outcome.block, settled
    for admitted in batch.admitted:
        yield admitted.links, admitted.block, admitted


def link_verdicts(prepared: Prepared) -> Iterator[tuple[Sequence[Link], bytes]]:
    """As ``found_in``: the links that came unpacked, and their verdicts."""
    at = 0
    for links, block, _ in found_in(prepared.batch):
        yield links, prepared.verdicts[at : at + len(links)]
        at += len(links) + (len(block) if block is not None else 0)
