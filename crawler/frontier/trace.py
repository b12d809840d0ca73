"""Which links are out right now, in a file that outlives the process: one slot per visit.

The file is mapped into memory, so that a note costs no system call and survives SIGKILL (not a power cut, after which
nobody is suspected). After an unclean end the slots name the links that may have killed the process.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Final

SLOT_BYTES: Final = 32
"""A queue key of up to 31 bytes behind its length."""


class Trace:
    """``enter(key) -> slot`` when a visit begins, ``leave(slot)`` when it ends. ``found`` holds the keys left by an
    unclean end. Raises OSError where the file cannot be made."""

    def __init__(self, path: Path, slots: int) -> None:
        size = slots * SLOT_BYTES
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self.found = _keys(os.pread(fd, 1 << 24, 0))
            os.ftruncate(fd, 0)
            os.posix_fallocate(fd, 0, size)  # a hole in a mapped file would be SIGBUS on a full disk
            self._map = mmap.mmap(fd, size)
        finally:
            os.close(fd)
        self._free = list(range(slots - 1, -1, -1))

    def enter(self, key: bytes) -> int:
        slot = self._free.pop()
        at = slot * SLOT_BYTES
        self._map[at + 1 : at + 1 + len(key)] = key
        self._map[at] = len(key)
        return slot

    def leave(self, slot: int) -> None:
        self._map[slot * SLOT_BYTES] = 0
        self._free.append(slot)

    def close(self) -> None:
        self._map.close()


def _keys(content: bytes) -> list[bytes]:
    slots = (content[at : at + SLOT_BYTES] for at in range(0, len(content) - SLOT_BYTES + 1, SLOT_BYTES))
    return [slot[1 : 1 + slot[0]] for slot in slots if 0 < slot[0] < SLOT_BYTES]
