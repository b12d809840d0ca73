"""Where what a store writes must be true first, if it is a working copy: the seam between RocksDB and a cluster's truth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from rocksdict import ColumnFamily, WriteBatch

from crawler.core.batch import Prepared
from crawler.frontier.rocksdb.database import Database
from crawler.frontier.store import Counts

Ops = dict[tuple[str, bytes], bytes | None]
"""(family, key) → value, None: deleted."""


class Writes(Protocol):
    """What a transaction collects: a WriteBatch, or one that can be read again."""

    def put(self, key: bytes, value: bytes, family: ColumnFamily) -> object: ...

    def delete(self, key: bytes, family: ColumnFamily) -> object: ...


class Recorded:
    """A WriteBatch that can be read again."""

    def __init__(self, families: Mapping[int, str]) -> None:
        """``families``: names by ``id`` of their handles."""
        self.raw = WriteBatch(raw_mode=True)
        self.ops: Ops = {}
        self._families = families

    def put(self, key: bytes, value: bytes, family: ColumnFamily) -> None:
        self.ops[self._families[id(family)], key] = value
        self.raw.put(key, value, family)

    def delete(self, key: bytes, family: ColumnFamily) -> None:
        self.ops[self._families[id(family)], key] = None
        self.raw.delete(key, family)


class Upstream(Protocol):
    """A working copy's truth, as its store sees it; called by the engine thread. Methods may raise StorageError."""

    slots: bytearray
    """1: its hosts are dealt from here."""
    taken_at: list[float]
    """Crawl clock at which each slot was taken over: its hosts count as just visited then."""
    sequence: int
    """No entry of the slots held has a greater one, but for those of this store's own commits."""

    def rejoin(self) -> None:
        """After a failure, before the database is opened anew."""

    def opened(self, database: Database) -> None:
        """Bring what is here in line with what is true."""

    def batch(self) -> Recorded: ...

    def write(self, batch: Recorded, *, sync: bool) -> None:
        """``sync``: true there, then written here. Else written here; true with the next that is, or at once
        where that is much by now."""

    def enclose(self, prepared: Prepared) -> None:
        """The next ``write`` makes this batch's messages true as well: those sent, and those taken in."""

    def refuse_foreign(self, keys: Iterable[bytes]) -> None:
        """Raise RemoteError if one of these hosts, or URLs, is not ours any more."""

    def suspects_held(self, counts: Mapping[bytes, int]) -> dict[bytes, int]:
        """Those that this member decides about. The others are put aside: each has been suspected once more."""

    def total(self, counts: Counts) -> Counts:
        """With what the rest of the crawl has counted, where this store tells of the whole."""

    def is_message(self, source: str) -> bool:
        """Whether a source is no list: a position of it stands for messages that were taken in."""

    def leave(self) -> None:
        """Give everything back: the process ends."""
