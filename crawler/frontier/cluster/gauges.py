"""What an operator must see of a node of a cluster. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from crawler.core.sums import added

TABLES: Final = ("known", "work", "box", "slot", "member", "own")
"""Whose dead rows are counted."""


class Gauges(Struct):
    """Of one member, or of all parts of a node. Seconds; counts are since it was opened."""

    held: int = 0
    """Slots."""
    loading: int = 0
    """Slots."""
    lease_left_s: float = 0.0
    oldest_message_s: float = 0.0
    """Of those for this member."""
    slots_lost: int = 0
    takeovers: int = 0
    """Slots that came from a member that had not given them up."""
    loads: int = 0
    load_seconds: float = 0.0
    links_sent: int = 0
    links_received: int = 0
    dead_rows: Mapping[str, int] = {}
    """Of the crawl's tables: not vacuumed yet."""


def together(parts: Sequence[Gauges]) -> Gauges | None:
    """Of a node; None: it is none."""
    if not parts:
        return None
    return added(
        parts,
        lease_left_s=min(one.lease_left_s for one in parts),
        oldest_message_s=max(one.oldest_message_s for one in parts),
        dead_rows=next((one.dead_rows for one in parts if one.dead_rows), {}),
    )
