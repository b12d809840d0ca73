"""What decides the next visit: the pump and its workbench in memory, the store below. ``open_store`` is the table of stores.

frontier      deals leases to workers, and settles their visits into the open batch (batch), by what it is handed (handed)
workbench     the hosts in memory and which is next; bench_host, bench_groups
refill        what the bench is short of, fetched from the store
sifter        what waits on the bench and is wanted no more
pump          drives refills and commits; committer has the two threads
store         the contract of a store: memory (memory_queues) and rocksdb/ keep it, with a bounded cache
admission     which links of a batch are new; bundle packs those of one host
host_state, counters, progress   what stores count and remember, the same for each
recrawl, selection               which settled URLs become due again
in_flight, suspects              which visits were out when a process ended
division, dividing, parts_reader, exchange/   a crawl by several processes
cluster/, holdings                            a crawl of many machines
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from crawler.core.keys import Share
from crawler.frontier.store import Counts, Limits, Store

if TYPE_CHECKING:
    from crawler.frontier.cluster.node import NodeReader
    from crawler.frontier.parts_reader import PartsReader
    from crawler.frontier.rocksdb.reader import RocksReader
    from crawler.frontier.rocksdb.upstream import Upstream

MEMORY_BYTES: Final = 64 << 20


def open_store(
    kind: Literal["embedded", "memory"],
    path: Path,
    limits: Limits,
    *,
    now: float,
    rest: Callable[[str], float],
    memory_bytes: int = MEMORY_BYTES,
    share: Share | None = None,
    upstream: Upstream | None = None,
) -> Store:
    """Open the store in ``path``, made if it is not there. Raises StorageError, ``final`` where the directory is damaged or
    newer than this program.

    ``now`` is the wall time: the crawl clock goes on from there, but never before the last commit's. ``rest(host)`` is a
    host's configured rest in seconds: at open every host counts as just visited. ``memory_bytes`` bounds all caches and
    write buffers (8 MiB at least). ``share``: which hosts are its own; None: all are. ``upstream``: where it is a working copy of
    what is true elsewhere."""
    if kind == "memory":
        from crawler.frontier.memory import MemoryStore

        return MemoryStore(limits, share)
    from crawler.frontier.rocksdb.store import RocksStore

    return RocksStore(path, limits, now, rest, memory_bytes, share, upstream)


def open_reader(path: Path) -> RocksReader | PartsReader | NodeReader:
    """Read a store, or those of all parts, while other processes may be writing to them. Raises StorageError; also while hosts
    are divided anew."""
    from crawler.frontier.division import division_at, require_divided
    from crawler.frontier.rocksdb.reader import RocksReader

    require_divided(path)
    division = division_at(path)
    if division is None:
        from crawler.frontier.cluster.node import NodeReader, node_at

        node = node_at(path)
        return RocksReader(path) if node is None else NodeReader(path, node)
    from crawler.frontier.parts_reader import PartsReader

    return PartsReader(path, division)


def has_opened_a_store() -> bool:
    """Whether this process, or one that it was forked from, has opened one of the embedded kind, to read or to write."""
    from crawler.frontier.rocksdb.database import Database

    return Database.was_opened


__all__ = ["Counts", "Limits", "Store", "has_opened_a_store", "open_reader", "open_store"]
