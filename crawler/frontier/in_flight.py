"""Which links are out right now, in a file that outlives the process: one slot per visit.

The file is mapped into memory, so that a note costs no system call and survives SIGKILL (not a power cut, after which
nobody is suspected). After an unclean end the slots name the links that may have killed the process: all of them if it
crashed, those that had been out for long if it was killed, since anybody may kill a process at any time. Where an exception
ended it, the visit that raised it is known, and its slot alone is left (``blame``).
"""

from __future__ import annotations

import faulthandler
import logging
import math
import mmap
import os
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from crawler.core.errors import StorageError
from crawler.frontier.store import Store

KEY_BYTES_MAX: Final = 31
SLOT: Final = struct.Struct(f"<{KEY_BYTES_MAX + 1}pd")
"""A queue key behind its length, and when its visit began (monotonic clock of this machine, seconds)."""
BEAT: Final = struct.Struct("<d")
OUT_LONG_S: Final = 1.0
SLOTS_MAX: Final = 200_000

logger: Final = logging.getLogger(__name__)


class InFlight:
    """``enter(key) -> slot`` when a visit begins, ``leave(slot)`` when it ends. ``found`` holds the keys of the links that
    are suspected of an unclean end, ``crashed`` what the fault handler wrote then. ``count(found)`` keeps them before they are
    cleared: where that fails, they are found again. Raises OSError."""

    def __init__(self, path: Path, slots: int, count: Callable[[list[bytes]], object] = len) -> None:
        self.crashed = _crash_of(path.with_name("crash"))
        size = BEAT.size + slots * SLOT.size
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self.found = _suspects(os.pread(fd, BEAT.size + SLOTS_MAX * SLOT.size, 0), bool(self.crashed))
            os.posix_fallocate(fd, 0, size)  # a hole in a mapped file would be SIGBUS on a full disk
            if self.found:
                count(self.found)
            os.ftruncate(fd, size)
            self._map = mmap.mmap(fd, size)
            self._map[:] = bytes(size)
        finally:
            os.close(fd)
        self._free = list(range(slots - 1, -1, -1))
        self._blamed: set[int] = set()
        self._crash_file = path.with_name("crash").open("w")
        faulthandler.enable(self._crash_file)

    def enter(self, key: bytes) -> int:
        slot = self._free.pop()
        now = time.monotonic()
        SLOT.pack_into(self._map, BEAT.size + slot * SLOT.size, key, now)
        BEAT.pack_into(self._map, 0, now)
        return slot

    def blame(self, slot: int) -> None:
        """This visit is about to end the process: its slot stays as it is, and counts however long it was out."""
        key, _ = SLOT.unpack_from(self._map, BEAT.size + slot * SLOT.size)
        SLOT.pack_into(self._map, BEAT.size + slot * SLOT.size, key, -math.inf)
        self._blamed.add(slot)

    def accuse(self, keys: Iterable[bytes]) -> None:
        """The same of visits that are out no more, as far as there is room."""
        for key in islice(keys, len(self._free)):
            self.blame(self.enter(key))

    def leave(self, slot: int) -> None:
        if slot in self._blamed:
            return
        SLOT.pack_into(self._map, BEAT.size + slot * SLOT.size, b"", 0.0)
        self._free.append(slot)

    def out_long(self) -> list[bytes]:
        """The keys of visits that have been out for long by now."""
        now = time.monotonic()
        return [key for key, began in _visits(self._map[:]) if now - began >= OUT_LONG_S]

    def heartbeat(self) -> None:
        """We are alive."""
        BEAT.pack_into(self._map, 0, time.monotonic())

    def close(self) -> None:
        faulthandler.disable()
        self._crash_file.close()
        self._map.close()


def open_in_flight(path: Path, slots: int, store: Store) -> InFlight:
    """The slots of the visits that are out; what an unclean end left there is suspected once more. Raises StorageError."""

    def count(found: list[bytes]) -> None:
        counts = store.suspects()
        store.set_suspects({key: counts.get(key, 0) + 1 for key in found})

    try:
        in_flight = InFlight(path, slots, count)
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}", errno=error.errno or 0) from error
    if in_flight.crashed:
        logger.warning("the last process crashed:\n%s", in_flight.crashed)
    return in_flight


def _crash_of(path: Path) -> str:
    """What the fault handler of the last process wrote, at most 4 KiB of it."""
    try:
        with path.open(errors="replace") as file:
            return file.read(4096)
    except FileNotFoundError:
        return ""


def _suspects(content: bytes, crashed: bool) -> list[bytes]:
    if len(content) < BEAT.size:
        return []
    (last,) = BEAT.unpack_from(content)
    return [key for key, began in _visits(content) if crashed or last - began >= OUT_LONG_S]


def _visits(content: bytes) -> Iterator[tuple[bytes, float]]:
    """Key and beginning of each."""
    slots = content[BEAT.size :]
    return ((key, began) for key, began in SLOT.iter_unpack(slots[: len(slots) // SLOT.size * SLOT.size]) if key)
