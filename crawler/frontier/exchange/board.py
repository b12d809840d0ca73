"""How far every part has written, and how far every part has read every other: what the parts tell each other.

A few words of memory that all of them share, each written by one part only. The law: a part announces only what it has
committed; what is not announced is not read, and what is not announced as read is not deleted.
"""

from __future__ import annotations

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
    """For ``parts`` parts, in ``memory`` of at least ``size(parts)`` bytes, zeroed at first; None: memory of this process."""

    def __init__(self, parts: int, memory: mmap | bytearray | None = None) -> None:
        self.parts = parts
        words = memoryview(bytearray(self.size(parts)) if memory is None else memory).cast("Q")
        self._written = words[:parts]
        self._read = words[parts : parts + parts * parts]

    @staticmethod
    def size(parts: int) -> int:
        return (parts + parts * parts) * WORD_BYTES

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
