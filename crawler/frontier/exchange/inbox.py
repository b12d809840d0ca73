"""What a part reads of what the others have sent it.

Invariant: nothing is read that its sender has not committed. Each segment becomes part of one batch, together with the place
behind it; that place is announced when the batch is committed, so a kill makes the part read it again, and only then.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from msgspec import Struct

from crawler.core.batch import Admitted
from crawler.core.durable import storing
from crawler.core.errors import StorageError
from crawler.core.keys import Share
from crawler.frontier.exchange.board import Board, Place, number_of, offset_of, place
from crawler.frontier.exchange.outbox import SUFFIX, prefix_of
from crawler.frontier.exchange.segment import END, HEAD_BYTES, Head, Parcel, head_of, parcel_of

SOURCE: Final = "\0part:"
"""Behind it the number of a part: the name under which a store keeps how far it was read. No list has such a name."""


def source_of(part: int) -> str:
    return f"{SOURCE}{part:02d}"


class Received(Struct, frozen=True):
    """One segment. ``admitted`` is to be committed in one batch, and ``robots`` (origin, record) with it; ``denials`` are
    (origin, (outcome, reason))."""

    sender: int
    until: Place
    admitted: list[Admitted]
    robots: list[tuple[str, bytes]]
    denials: list[tuple[str, tuple[str, str]]]
    links: int


class Inbox:
    """``positions`` are those of the part's store. ``receive`` and ``passed`` may raise StorageError: what was committed
    cannot be read."""

    def __init__(self, root: Path, share: Share, board: Board, positions: Mapping[str, bytes]) -> None:
        self._root, self._own, self._board = root, share.own, board
        self._others = [part for part in range(board.parts) if part != share.own]
        self._at: dict[int, Place] = {}
        self._given: dict[int, Place] = {}
        """How far what was read is on its way into a commit."""
        self.links_received = dict.fromkeys(self._others, 0)
        """By sender, since it was opened."""
        for part in self._others:
            at = int.from_bytes(positions.get(source_of(part), b""), "big")
            self._at[part] = self._given[part] = at
            board.announce_read(share.own, part, at)

    def receive(self) -> Received | None:
        """The next segment for this part; None if there is none now. The part that waits longest comes first."""
        for part in list(self._others):
            received = self._read(part)
            if received is not None:
                self._others.remove(part)
                self._others.append(part)
                self.links_received[part] += received.links
                return received
        return None

    def passed(self) -> list[Received]:
        """How far others were read without anything for this part: to be committed now and then, so that they may delete
        what all have read."""
        passed = [part for part in self._others if self._at[part] != self._given[part]]
        return [self._given_out(part, [], Parcel([], [], []), 0) for part in passed]

    def committed(self, received: Received) -> None:
        """A batch with this is committed."""
        self._board.announce_read(self._own, received.sender, received.until)

    @property
    def is_read(self) -> bool:
        """Whether all that others have committed is read, and committed here."""
        return all(self._board.read(self._own, part) == self._board.written(part) for part in self._others)

    # -- reading --------------------------------------------------------------------------------------------------

    def _read(self, part: int) -> Received | None:
        """The next segment of a part for us; what is for others is passed over."""
        end = self._board.written(part)
        if self._at[part] >= end:
            return None
        fd = -1
        try:
            while self._at[part] < end:
                path = self._path(part)
                with storing(path):
                    try:
                        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC) if fd < 0 else fd
                    except FileNotFoundError:
                        raise self._damaged(part) from None
                    data = os.pread(fd, HEAD_BYTES, offset_of(self._at[part]))
                head = self._head(part, data)
                if head.kind == END:
                    os.close(fd)
                    fd = -1
                    self._at[part] = place(number_of(self._at[part]) + 1, 0)
                elif head.to != self._own:
                    self._at[part] += head.size
                else:
                    with storing(path):
                        data = os.pread(fd, head.size, offset_of(self._at[part]))
                    return self._opened(part, head, data)
        finally:
            if fd >= 0:
                os.close(fd)
        return None

    def _head(self, part: int, data: bytes) -> Head:
        try:
            return head_of(data)
        except ValueError:
            raise self._damaged(part) from None

    def _opened(self, part: int, head: Head, data: bytes) -> Received:
        try:
            parcel = parcel_of(data)
            admitted = parcel.admitted()
        except ValueError:
            raise self._damaged(part) from None
        self._at[part] += head.size
        return self._given_out(part, admitted, parcel, head.count)

    def _given_out(self, part: int, admitted: list[Admitted], parcel: Parcel, links: int) -> Received:
        until = self._given[part] = self._at[part]
        admitted.append(Admitted((), position=(source_of(part), until.to_bytes(8, "big"))))
        return Received(part, until, admitted, parcel.robots, parcel.denials, links)

    def _damaged(self, part: int) -> StorageError:
        at = offset_of(self._at[part])
        return StorageError(f"{self._path(part)}: what was committed at {at} is damaged or missing", final=True)

    def _path(self, part: int) -> Path:
        return self._root / f"{prefix_of(part)}{number_of(self._at[part]):06d}{SUFFIX}"
