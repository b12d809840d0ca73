"""A side file with the last RocksDB sequence number known to be synced; it detects a damaged log, and a MANIFEST that was cut.

RocksDB reads its log up to the first damaged record, and its MANIFEST up to the last whole one, and takes that for the end. After
a power cut that is right. But one bit flipped in the middle, or half a copy, would silently take back everything acknowledged
since. Closed in order, a store has no log: all of it is in tables, which were synced as they were written. Invariant: what is
noted here was synced before, so a store that ends earlier is damaged.

The file is mapped into memory: a note costs no system call and survives SIGKILL; a power cut leaves an older one.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path
from typing import Final

NAME: Final = "synced"
NOTE: Final = struct.Struct("<QQ")
"""A sequence number of the store, and its complement. 0: nothing was noted yet, or the store was closed in order by an earlier
version."""
_ONES: Final = (1 << 64) - 1


class Watermark:
    """Raises OSError."""

    def __init__(self, folder: Path) -> None:
        fd = os.open(folder / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, NOTE.size)  # a hole in a mapped file would be SIGBUS on a full disk
            self._map = mmap.mmap(fd, NOTE.size)
        finally:
            os.close(fd)

    def note(self, number: int) -> None:
        NOTE.pack_into(self._map, 0, number, number ^ _ONES)

    def close(self) -> None:
        self._map.close()


def noted(folder: Path) -> int | None:
    """The number noted last, 0 if there is none; None if the file is damaged."""
    try:
        with (folder / NAME).open("rb") as file:
            content = file.read(NOTE.size)
    except OSError:
        return 0
    if content == bytes(NOTE.size):
        return 0
    if len(content) < NOTE.size:
        return None
    number, check = NOTE.unpack(content)
    return int(number) if number == check ^ _ONES else None
