"""Several stores, read as one: those of a divided crawl here, those of a node of a cluster in ``crawler.frontier.cluster.node``.

Invariant: what a host's part says of it is true; each part shows one commit's state, whole.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from crawler.core.errors import StorageError
from crawler.core.keys import SLOTS, GroupOf
from crawler.core.model import Known, Mark
from crawler.core.sums import added
from crawler.core.urls import host_key
from crawler.frontier.division import Division, moving_at, store_of
from crawler.frontier.rocksdb.reader import RocksReader
from crawler.frontier.store import Counts


class StoresReader:
    """What ``RocksReader`` tells that does not depend on who owns which host. All are opened, or none."""

    def __init__(self, stores: Iterable[Path], group_of: GroupOf | None) -> None:
        self._readers: list[RocksReader] = []
        with contextlib.ExitStack() as stack:
            for store in stores:
                self._readers.append(RocksReader(store, group_of))
                stack.callback(self._readers[-1].close)
            stack.pop_all()

    def marks(self) -> dict[str, Mark]:
        """Every file of the crawl and its length."""
        return {file: mark for reader in self._readers for file, mark in reader.marks().items()}

    def positions(self) -> dict[str, bytes]:
        """Seed sources and their positions: the first part reads them."""
        return self._readers[0].positions()

    def stats(self) -> Counts:
        """The totals."""
        return total([reader.stats() for reader in self._readers])

    def verify(self) -> Iterator[StorageError]:
        """As ``RocksReader.verify``."""
        for reader in self._readers:
            yield from reader.verify()

    def marks_now(self) -> dict[str, Mark]:
        """As of the last commits by now."""
        return {file: mark for reader in self._readers for file, mark in reader.marks_now().items()}

    def close(self) -> None:
        for reader in self._readers:
            reader.close()


class PartsReader(StoresReader):
    """As ``RocksReader``. ``path`` holds the parts' stores."""

    is_partial: ClassVar[bool] = False

    def __init__(self, path: Path, division: Division) -> None:
        was_moving = moving_at(path) is not None
        super().__init__((store_of(path, part) for part in range(division.parts)), division.group_of)
        self._is_moving = was_moving or moving_at(path) is not None
        """What a store holds may be another's as well: it is divided anew."""
        self._path, self._division = path, division
        self._share = division.share(0)
        self._keys_by = self._share.keys_by()

    def lookup(self, url: str) -> Known | str | None:
        """As ``Store.lookup``."""
        return self._of(url).lookup(url)

    def lags(self, file: str, url: str) -> bool:
        """Never, as ``RocksReader``."""
        return False

    def budgets(self, url: str) -> tuple[int, int]:
        """As ``Store.budgets``."""
        return self._of(url).budgets(url)

    def robots(self, origins: Sequence[str]) -> list[bytes | None]:
        """As ``Store.robots``."""
        return [self._of(f"{origin}/").robots([origin])[0] for origin in origins]

    def verify(self) -> Iterator[StorageError]:
        """As ``RocksReader.verify``; and whether every part keeps what it owns, and nothing else."""
        for part, reader in enumerate(self._readers):
            yield from reader.verify()
            foreign = [slot for slot in range(SLOTS) if self._division.owners[slot] != part and not self._is_moving]
            for slot in reader.slots_held(foreign):
                yield StorageError(f"{store_of(self._path, part)}: hosts of slot {slot} are another part's", final=True)

    def _of(self, url: str) -> RocksReader:
        return self._readers[self._share.owner(self._keys_by.host(host_key(url)))]


def total(counts: Sequence[Counts]) -> Counts:
    """Of all parts."""
    return added(counts) if counts else Counts()
