"""A queue of what takes bytes, documents and reservations: small ones before large ones, within bounds. Pure.

Otherwise a host with many large pages would hold up the small ones of all others, which could be read by the hundred meanwhile.

Invariant: a large item is overtaken by a bounded number of bytes, so that neither kind waits for ever for the other.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Waiting(Generic[T]):
    """Items with their sizes. Those of a kind keep their order. Beyond ``large_bytes`` an item is large; what overtakes it may
    have ``ahead`` times its size in all."""

    def __init__(self, large_bytes: int, ahead: int = 1) -> None:
        self._large_bytes, self._ahead = large_bytes, ahead
        self._small: deque[tuple[int, T]] = deque()
        self._large: deque[tuple[int, T]] = deque()
        self._overtaken_bytes = 0
        """By which the first large one has been overtaken."""
        self.count = 0
        """Of all that wait."""

    def __len__(self) -> int:
        return self.count

    def append(self, size: int, item: T) -> None:
        self.count += 1
        self._of(size).append((size, item))

    def give_back(self, size: int, item: T) -> None:
        """It was taken, and is to be the first of its kind again."""
        self.count += 1
        self._of(size).appendleft((size, item))

    @property
    def first(self) -> tuple[int, T]:
        return self._next()[0]

    def pop(self) -> T:
        """Take the first."""
        line = self._next()
        size, item = line.popleft()
        self.count -= 1
        if line is self._large:
            self._overtaken_bytes = 0
        elif self._large:
            self._overtaken_bytes += size
        return item

    def _of(self, size: int) -> deque[tuple[int, T]]:
        return self._large if size > self._large_bytes else self._small

    def _next(self) -> deque[tuple[int, T]]:
        if not self._large or (self._small and self._overtaken_bytes < self._ahead * self._large[0][0]):
            return self._small
        return self._large
