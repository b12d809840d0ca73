"""What a member of a cluster asks of the database that holds the truth, and what it is told. One seam: ``Truth``.

Invariants: a slot has one owner, by the database's clock; only its owner changes what stands in it, and only while it is the
owner; a commit is one transaction. Every method may raise RemoteError: the database cannot be reached (nothing is known of what
was under way), or it says that slots are lost (``at_once``: nothing was changed).
"""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from typing import Final, Protocol
from uuid import UUID

from msgspec import Struct

from crawler.frontier.rocksdb.layout import decode_state

TICK_EVERY_S_MAX: Final = 1.0
"""How often a member says that it lives, and four times a lease at least."""
NOBODY: Final = 0
"""In place of a member's number: no member owns the slot, or the message is for whoever comes to own it."""

Row = tuple[int, int, bytes, bytes]
"""(slot, family, key, value)"""
RowKey = tuple[int, int, bytes]


class Joined(Struct, frozen=True):
    """A member as it joins, again or for the first time."""

    number: int
    """Of this member, for ever: in the names of its files too."""
    secret: int
    """Of the crawl's fingerprints."""
    commits: int
    """How many of its own are true."""
    state: bytes
    """As its last commit left it; empty if there was none."""
    own: dict[bytes, bytes]
    """What only this member writes: marks, positions, progress."""
    held: dict[int, int]
    """Slots that are still its own, and their epochs, which are new."""
    ahead_s: float
    """The database's clock, seconds since the epoch, less this machine's monotonic one."""
    out_long: Sequence[bytes] = ()
    """What its last process was at for long when it was last heard of."""
    lost_positions: Mapping[str, Sequence[bytes]] = {}
    """For one that reads lists: how far members that were declared lost had read theirs."""
    states: Sequence[bytes] = ()
    """Of all members, as their last commits left them; empty of those that have made none."""


def ahead_s(joined: Joined) -> float:
    """By how much the crawl's clock is ahead of this machine's monotonic one. It is the database's, but not before what was
    committed by it: that may be set back, or another server take over whose clock is behind, and a host's rest be far ahead."""
    last = max((decode_state(state).now for state in joined.states if state), default=0.0)
    return max(joined.ahead_s, last - time.monotonic())


class Changes(Struct):
    """One commit. Puts replace; deletes may name what is not there."""

    commits: int
    """How many there were before."""
    state: bytes
    slots: dict[int, int] = {}
    """Every slot that is touched, and its epoch."""
    known: list[Row] = []
    known_gone: list[RowKey] = []
    work: list[Row] = []
    work_gone: list[RowKey] = []
    own: list[tuple[bytes, bytes]] = []
    own_gone: list[bytes] = []
    boxes: Sequence[tuple[int, bytes]] = ()
    """(member, message)"""
    taken: Sequence[int] = ()
    """Messages that this commit makes true."""
    seeds_ended: bool = False


class MemberView(Struct, frozen=True):
    """A member as the others see it."""

    number: int
    node: str
    name: str
    seen_ago_s: float
    is_alive: bool
    is_seeding: bool
    is_lost: bool
    state: bytes
    incarnation: int
    """Of the process that has joined last."""
    directory: str
    """Its name for ever."""


class BoxView(Struct, frozen=True):
    """What waits for one member."""

    messages: int
    size: int
    oldest_s: float


class Tick(Struct, frozen=True):
    """How things stand, once this member has said that it lives."""

    held: dict[int, int]
    """Slot → epoch, of all that are this member's for another lease."""
    surplus: frozenset[int]
    """Of these, what it has too many."""
    heired: dict[int, int]
    """Of these, what it has just got from a member that had not given it up: slot → that member."""
    accused: dict[int, Sequence[bytes]]
    """Of slots in ``heired``: what that member was at for long when it was last heard of, of the slot; with one
    of its slots, what is of none."""
    owners: dict[int, int]
    """Slot → the member that leases it, NOBODY."""
    members: list[MemberView]
    boxes: dict[int, BoxView]
    """By member."""
    is_member: bool = True
    """False: another process has joined in this one's place."""


class End(Struct, frozen=True):
    """The whole crawl in one snapshot."""

    is_seeding: bool
    has_messages: bool
    states: list[bytes]


class Truth(Protocol):
    """One session, used by one thread at a time."""

    def join(self, *, seeding: bool) -> Joined:
        """From now on earlier processes of this member can commit nothing. Waits for a commit of theirs that is under way.
        Raises StorageError, ``final``, where this one had joined before, and another has meanwhile."""

    def ended(self, directory: UUID) -> Joined | None:
        """Another member of this node, which no process is: as its last commit left it, and nothing is held. From now on its
        last process can commit nothing. None: there never was one."""

    def tick(self, out_long: Sequence[bytes], wants: bool = True) -> Tick:
        """Renew the lease of all slots held, and take free ones up to a fair share; where none is wanted, those held are all
        surplus, and the others share them. ``out_long``: visits an heir must suspect."""

    def release(self, slots: Mapping[int, int]) -> None:
        """Give these slots up, as held under these epochs: others may have them at once."""

    def leave(self) -> None:
        """Give all slots up, and be no member any more until the next ``join``."""

    def withdraw(self) -> None:
        """Where this process was the first of its member: there never was one. It owns no slots yet."""

    def commit(self, changes: Changes) -> None:
        """All of it or nothing, only while every slot is held, in one round trip."""

    def filled(self, slots: Sequence[int]) -> list[int]:
        """Of these slots, those of which there is anything."""

    def load(self, slot: int, rows_max: int) -> Generator[tuple[int, list[Row]], None, None]:
        """All rows of a slot, so many at a time, of not too many bytes: (table, rows). By a session of its own, from any one
        thread."""

    def receive(self, without: Sequence[int], limit: int) -> list[tuple[int, bytes]]:
        """The oldest messages for this member, but for these."""

    def still_mine(self, messages: Sequence[int]) -> set[int]:
        """Of these messages, those that are still for this member."""

    def adopt(self, alive: Sequence[int], limit: int) -> int:
        """Take over messages for members that are not among these; how many."""

    def send(self, member: int, message: bytes) -> None:
        """What belongs to no commit."""

    def marks_of(self, members: Sequence[int]) -> Mapping[bytes, bytes]:
        """What stands in ``own`` of these members about their files, by key."""

    def dead_rows(self) -> Mapping[str, int]:
        """By table: those that vacuum has not taken away yet."""

    def end(self) -> End: ...

    def close(self) -> None: ...
