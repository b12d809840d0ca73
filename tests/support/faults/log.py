"""The log of ``faults.c``, read back."""

from __future__ import annotations

import enum
import struct
from pathlib import Path
from typing import NamedTuple

RECORD = struct.Struct("=IIIIQQqqIIII")
MAGIC = 0x544C4146
SYNCHRONOUS, FOLDER = 1, 2


class Kind(enum.IntEnum):
    """As ``enum kind`` in faults.c."""

    OPEN = 1
    CREATE = 2
    WRITE = 3
    TRUNCATE = 4
    SYNC_BEGIN = 5
    SYNC_END = 6
    SYNCFS_BEGIN = 7
    SYNCFS_END = 8
    RENAME = 9
    LINK = 10
    UNLINK = 11
    MKDIR = 12
    RMDIR = 13
    NOTE = 14
    MMAP = 15
    FAULT = 16


class Record(NamedTuple):
    """One change, sync, note or fault. ``error`` is an errno, ``sync`` pairs the two parts of one within ``pid``."""

    kind: Kind
    pid: int
    error: int
    inode: int
    sync: int
    offset: int
    length: int
    flags: int
    path: str
    other: str
    data: bytes


def read_log(path: Path) -> list[Record]:
    """All whole records. The last may be cut: its writer was killed."""
    whole = path.read_bytes()
    records, at = [], 0
    while at + RECORD.size <= len(whole):
        magic, kind, pid, error, inode, sync, offset, length, path_n, other_n, data_n, flags = RECORD.unpack_from(whole, at)
        if magic != MAGIC:
            raise ValueError(f"{path}: no record at {at}")
        at += RECORD.size
        if at + path_n + other_n + data_n > len(whole):
            break
        texts = [whole[at : at + path_n].decode(), whole[at + path_n : at + path_n + other_n].decode()]
        at += path_n + other_n
        records.append(Record(Kind(kind), pid, error, inode, sync, offset, length, flags, *texts, whole[at : at + data_n]))
        at += data_n
    return records


def notes(records: list[Record], cut: int | None = None) -> list[str]:
    """What programs under test said of themselves before the cut."""
    return [record.data.decode() for record in records[:cut] if record.kind is Kind.NOTE]
