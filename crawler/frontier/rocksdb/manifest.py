"""Repairs RocksDB's MANIFEST after a power cut. RocksDB accepts a torn end of its log, but not of this file.

Invariant: only what was never synced is cut off. A record with wrong bytes, one of whose sectors holds nothing but zeros, never
reached the disk whole; so no sync after it returned, and nothing behind it was relied on. Any other damage is left as it is.
"""

from __future__ import annotations

import os
import shutil
import struct
from pathlib import Path
from typing import Final

from crawler.core.durable import storing, sync_dir, sync_file

SECTOR_BYTES: Final = 512
BLOCK_BYTES: Final = 32 << 10
UNSYNCED_BYTES_MAX: Final = 256 << 10
"""RocksDB syncs after each group of edits: more than this behind the damage is not a torn end."""

_HEADER: Final = struct.Struct("<IHB")
_WHOLE, _LAST = 1, 4


def trim(store: Path) -> Path | None:
    """Cut the torn end off the current MANIFEST of a store that is not open; the copy kept of what it was before.

    None: its end is not torn. Raises StorageError."""
    try:
        manifest = store / (store / "CURRENT").read_text().strip()
        data = manifest.read_bytes()
    except (OSError, ValueError):
        return None
    end = _torn(data)
    if end is None:
        return None
    kept = manifest.with_name(f"torn-{manifest.name}")
    with storing(kept):
        shutil.copyfile(manifest, kept)
        sync_file(kept)
        sync_dir(store)
        os.truncate(manifest, end)
        sync_file(manifest)
    return kept


def _torn(data: bytes) -> int | None:
    """Where the record begins that did not reach the disk whole; None: there is none, or the damage is another."""
    at = begun = 0
    while at + _HEADER.size <= len(data):
        if BLOCK_BYTES - at % BLOCK_BYTES < _HEADER.size:
            at += BLOCK_BYTES - at % BLOCK_BYTES
            continue
        checksum, length, kind = _HEADER.unpack_from(data, at)
        end = at + _HEADER.size + length
        if end > len(data) or masked_crc(crc32c(data[at + 6 : end])) != checksum:
            unsynced = len(data) - at <= UNSYNCED_BYTES_MAX
            return begun if unsynced and _has_empty_sector(data, at, min(end, len(data))) else None
        at = end
        if kind in (_WHOLE, _LAST):
            begun = at
    return None


def _has_empty_sector(data: bytes, start: int, end: int) -> bool:
    while start < end:
        stop = min(end, start - start % SECTOR_BYTES + SECTOR_BYTES)
        if not any(data[start:stop]):
            return True
        start = stop
    return False


def _table() -> list[int]:
    table = []
    for number in range(256):
        for _ in range(8):
            number = number >> 1 ^ (0x82F63B78 if number & 1 else 0)
        table.append(number)
    return table


_TABLE: Final = _table()


def crc32c(data: bytes) -> int:
    """CRC-32C (RFC 3720, appendix B.4)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[crc & 0xFF ^ byte] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def masked_crc(crc: int) -> int:
    """As RocksDB and LevelDB store a checksum."""
    return (crc >> 15 | crc << 17) + 0xA282EAD8 & 0xFFFFFFFF
