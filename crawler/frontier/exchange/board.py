"""How far every part has written, how far every part has read every other, and who has nothing left to do.

A few words of memory that all of them share, each written by one part only. Invariant: a part announces only what it has
committed; what is not announced is not read, and what is not announced as read is not deleted.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from mmap import mmap
from typing import Final

WORD_BYTES: Final = 8
_OFFSET_BITS: Final = 40

Place = int
"""A place in the files of one part: number of the file, then offset there; later places are greater."""


def place(number: int, offset: int) -> Place:
    return number << _OFFSET_BITS | offset


def number_of(at: Place) -> int:
    return at >> _OFFSET_BITS


def offset_of(at: Place) -> int:
    return at & ((1 << _OFFSET_BITS) - 1)


class Board:
    """For ``parts`` parts, in ``memory`` of at least ``size(parts)`` bytes, zeroed at first; None: memory of this process.
    ``bells``: an eventfd for each part."""

    def __init__(self, parts: int, memory: mmap | bytearray | None = None, bells: Sequence[int] = ()) -> None:
        self.parts, self._bells = parts, bells
        words = memoryview(bytearray(self.size(parts)) if memory is None else memory).cast("Q")
        self._written = words[:parts]
        self._states = words[parts : 2 * parts]
        self._read = words[2 * parts : 2 * parts + parts * parts]
        self._over = words[2 * parts + parts * parts :]

    @staticmethod
    def size(parts: int) -> int:
        return (2 * parts + parts * parts + 1) * WORD_BYTES

    def written(self, part: int) -> Place:
        """The end of what a part has committed; 0 while it has not said so."""
        return self._written[part]

    def announce_written(self, part: int, end: Place) -> None:
        self._written[part] = end

    def read(self, reader: int, part: int) -> Place:
        """How far ``reader`` has committed what ``part`` has written."""
        return self._read[reader * self.parts + part]

    def announce_read(self, reader: int, part: int, until: Place) -> None:
        self._read[reader * self.parts + part] = until

    def read_by_all(self, part: int) -> Place:
        """How far all others have committed what ``part`` has written."""
        return min((self.read(reader, part) for reader in range(self.parts) if reader != part), default=self.written(part))

    def announce_state(self, part: int, commits: int, *, done: bool) -> None:
        """After so many commits of its process a part has nothing left to do, or something."""
        self._states[part] = commits << 1 | done

    def look(self) -> tuple[int, ...] | None:
        """How things stand, if nobody has anything left to do and all that was sent is read; else None."""
        pairs = [(reader, part) for reader in range(self.parts) for part in range(self.parts) if reader != part]
        if not all(state & 1 for state in self._states) or any(self.read(*pair) != self.written(pair[1]) for pair in pairs):
            return None
        return (*self._states, *self._written)

    @property
    def is_over(self) -> bool:
        """Whether a part has found that the crawl is over, and ends."""
        return bool(self._over[0])

    def announce_over(self) -> None:
        self._over[0] = 1

    def bell(self, part: int) -> int | None:
        """The eventfd by which a part is told that there is something to look at."""
        return self._bells[part] if self._bells else None

    def ring(self, own: int) -> None:
        """Tell all others."""
        for part, bell in enumerate(self._bells):
            if part != own:
                os.eventfd_write(bell, 1)
