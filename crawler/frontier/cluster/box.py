"""What members send each other: rows of the truth, one per addressee and commit, deleted in the commit that makes them true.

Invariant: a message is there from the commit of its sender to that of its receiver. Links of slots that have moved meanwhile are
sent on by the member that reads them; a message for a member that is no more is taken over by another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct, field
from msgspec.msgpack import Decoder

from crawler.core.batch import Admitted, Prepared
from crawler.core.errors import StorageError
from crawler.core.model import Mark
from crawler.frontier.cluster.mirror import BOX, Mirror
from crawler.frontier.exchange.parcels import Parcels
from crawler.frontier.exchange.segment import Parcel, encode_parcel


class Outbox:
    """As what a commit writes for others (``crawler.output.journal.Outbox``); ``take`` hands it to the commit."""

    def __init__(self, mirror: Mirror) -> None:
        self._mirror, self._parcels = mirror, Parcels(mirror.share, sends_on=True)
        self._packed: list[tuple[int, bytes]] = []
        self.links_sent = 0
        """Since it was opened."""

    def append(self, prepared: Prepared) -> None:
        self._packed.clear()
        for to, packing in self._parcels.of(prepared):
            self._packed.append((self._mirror.member_of(to), encode_parcel(packing.parcel)))
            self.links_sent += packing.links

    def take(self) -> list[tuple[int, bytes]]:
        packed, self._packed = self._packed, []
        return packed

    def forget(self) -> None:
        """As ``Parcels.forget``."""
        self._parcels.forget()

    def sync(self) -> dict[str, Mark]:
        """It is durable with the commit."""
        return {}

    def committed(self) -> None:
        self._parcels.committed()

    def rewind(self, marks: Mapping[str, Mark]) -> list[str]:
        self._packed.clear()
        self._parcels.undone()
        return []

    def cut(self, marks: Mapping[str, Mark]) -> None:
        self._packed.clear()

    def close(self) -> None:
        pass

    @property
    def buffered(self) -> int:
        return sum(len(data) for _, data in self._packed)


class Letter(Parcel, array_like=True):
    """A parcel, and what belongs to no commit."""

    accused: list[bytes] = field(default_factory=list)
    """Keys of visits that may have ended a process."""
    forgets: bool = False
    """Its sender has forgotten URLs."""


_letters: Final = Decoder(Letter)


def accusation(keys: Sequence[bytes]) -> bytes:
    """A message that brings nothing else."""
    return encode_parcel(Letter([], [], [], list(keys)))


def oblivion() -> bytes:
    """A message that brings nothing else: URLs are forgotten, so that what was sent of them is to be sent again."""
    return encode_parcel(Letter([], [], [], [], True))


class Message(Struct, frozen=True):
    """One that was read, to be committed in one batch."""

    id: int
    admitted: list[Admitted]
    robots: list[tuple[str, bytes]]
    denials: list[tuple[str, tuple[str, str]]]
    links: int
    accused: list[bytes]
    forgets: bool


def message_of(id: int, data: bytes) -> Message:
    try:
        parcel = _letters.decode(data)
        admitted = parcel.admitted()
    except ValueError as error:
        raise StorageError(f"cluster: message {id} is damaged: {error}", final=True) from error
    links = sum(len(piece.links) + len(piece.block or ()) for piece in parcel.pieces)
    admitted.append(Admitted((), position=(BOX, id.to_bytes(8, "big"))))
    return Message(id, admitted, parcel.robots, parcel.denials, links, parcel.accused, parcel.forgets)
