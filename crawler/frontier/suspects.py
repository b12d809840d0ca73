"""What a visit is known by among those that may have ended the process. Pure.

A link that stands in a queue is known by its place there. A visit for robots rules stands in none: it is known by the origin
that waits for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from crawler.core.batch import Settled
from crawler.core.model import Dropped, Lease, Link
from crawler.core.urls import fingerprint, host_key

ROBOTS_KEY: Final = b"robots:"
ROBOTS_SUSPECTS_MAX: Final = 1000
"""Visits for robots rules that are suspected; those that ended the process least often are forgotten first."""
CRASHED: Final = Dropped("skipped", "crashed")


def asking_host(link: Link) -> str:
    """The host that waits for what a robots link brings: not always the one that is visited."""
    return host_key(f"{link.anchor}/") if link.anchor else link.host


def robots_key(origin: str) -> bytes:
    """The visit for an origin's robots rules."""
    return ROBOTS_KEY + fingerprint(origin)


def suspect_key(lease: Lease) -> bytes:
    """The visit of a lease."""
    return lease.key or robots_key(lease.link.anchor or lease.link.url)


def cleared_robots(settled: Settled) -> bytes | None:
    """The key of a visit for robots rules that has ended without ending the process; None: it is no such visit."""
    link = settled.lease.link
    if link.kind != "robots" or link.anchor is None or settled.outcome == CRASHED:
        return None
    return robots_key(link.anchor)


def bounded_robots(known: Mapping[bytes, int], counts: Mapping[bytes, int]) -> tuple[dict[bytes, int], list[bytes]]:
    """Of the visits for robots rules in both, new counts before known ones: (the counts to keep, the keys to forget)."""
    every = {key: count for key, count in {**known, **counts}.items() if key.startswith(ROBOTS_KEY)}
    keys = sorted(every, key=every.__getitem__, reverse=True)
    return {key: every[key] for key in keys[:ROBOTS_SUSPECTS_MAX]}, keys[ROBOTS_SUSPECTS_MAX:]
