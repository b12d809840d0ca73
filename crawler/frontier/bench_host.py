"""What stands on the workbench: hosts with the links that wait for them. Pure.

Invariant: what a host weighs there, and each of its leases, covers the memory that they take (see LINK_BYTES).
"""

from __future__ import annotations

from typing import Final

from crawler.core.model import Lease

LINK_BYTES: Final = 1024
"""Texts of a link that the room of an ordinary one has place for."""
HOST_SIZE: Final = 1
"""How many ordinary links a host takes the room of, without its links."""

# Where a host stands, if it is in no lane.
NOWHERE: Final = -1
"""It cannot deal."""
RESTING: Final = -2
"""In the heap."""
PARKED: Final = -3
"""At its group, until it is called."""
ASIDE: Final = -4
"""One slow host too many."""


def size(lease: Lease) -> int:
    """How many ordinary links a lease takes the room of: each LINK_BYTES of its texts is one more, and so is what is known from
    an earlier visit."""
    if lease.known is None:
        return 1 + lease.link.text_bytes // LINK_BYTES
    return 2 + lease.text_bytes // LINK_BYTES


class BenchHost:
    """A host, from its first lease there to its last."""

    __slots__ = (
        *("busy", "called_by", "down", "due", "failures", "has_responded", "has_turn", "is_held", "is_new", "is_prompt"),
        *("is_prompt_and_waits", "is_slow", "out", "place", "queue", "robots_queue", "share", "slow_out", "stored_due"),
    )

    def __init__(self, lease: Lease) -> None:
        self.queue: list[Lease] = []  # an empty deque has 600 bytes
        self.robots_queue: list[Lease] = []  # dealt before all others, even while it is held
        self.is_held = False
        self.is_new = True  # no visit of it has ended here
        self.place = NOWHERE
        """NOWHERE, RESTING, PARKED or ASIDE; else the number of its lane."""
        self.called_by: str | None = None  # the group by which, if it is in a lane because it was called
        self.has_turn = False  # at its group: it was dealt from, but that led to no visit
        self.out = 0
        self.due = self.stored_due = lease.due  # the second as the store knows it
        self.failures = lease.failures
        self.busy = lease.busy
        self.has_responded = lease.has_responded
        self.down: tuple[str, str] | None = None
        self.share = 0  # the most links it has had here
        self.is_prompt = False
        self.is_slow = lease.failures > 0  # it failed before it came here; one that was never visited is neither
        self.is_prompt_and_waits = False  # prompt, and it has links waiting
        self.slow_out = 0  # of its visits out, those that began while it was not known to be prompt

    def next(self) -> Lease | None:
        """The lease that this host would deal; None if it has none, or is held."""
        if self.robots_queue:
            return self.robots_queue[0]
        return self.queue[0] if self.queue and not self.is_held else None

    def visits_for_itself(self) -> bool:
        """Whether no robots.txt is to be visited here for another host."""
        return not any(lease.link.hops for lease in self.robots_queue)
