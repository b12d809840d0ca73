"""Moves hosts from one store to another: everything of them as it stands. A new store begins as a branch of one that has most of
its slots, and shares its tables until they are compacted; the rest is copied slot by slot, key by key.

Invariants: each step may be done again from its beginning, however far it came before; a store holds what it had until all of
it stands elsewhere. Nobody else has these stores open meanwhile.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from msgspec.structs import replace
from rocksdict import WriteBatch

from crawler.core.keys import HOST_BYTES, SLOTS, Keys
from crawler.core.sums import added
from crawler.core.urls import host_key
from crawler.frontier.bundle import BUNDLE
from crawler.frontier.counters import RETRYING, Counters
from crawler.frontier.parts_reader import total
from crawler.frontier.progress import Tally
from crawler.frontier.rocksdb.database import Database, translated
from crawler.frontier.rocksdb.layout import (
    BY_SLOT,
    BY_TIME,
    IDENTITY_KEY,
    MARK,
    POSITION,
    PROGRESS,
    SCHEDULED,
    SCHEMA_KEY,
    STATE_KEY,
    SUSPECT,
    TIME_BYTES,
    StoreState,
    decode_host,
    decode_state,
    decode_tally,
    encode,
    file_key,
    file_name,
    slot_range,
)
from crawler.frontier.rocksdb.opening import make_schema, open_database, read_schema
from crawler.frontier.suspects import ROBOTS_KEY

MEMORY_BYTES: Final = 32 << 20
ENTRIES_PER_WRITE: Final = 4000
MERGED: Final = b"merged:"
"""Under this and a name a store notes whose totals it has taken over."""

Entry = tuple[bytes, bytes]
"""(key, value)"""


class MovingStore:
    """A store that is opened to give hosts away, and to take them. StorageError: it is another crawl's, or damaged."""

    def __init__(self, path: Path, secret: int | None, keys_of: Callable[[int], Keys]) -> None:
        """``secret``: the crawl's, where it is known."""
        self._database = open_database(path, MEMORY_BYTES)
        self.secret = _named(self._database, secret)
        self._keys_by = keys_of(self.secret)

    @translated
    def give(self, to: MovingStore, slots: Collection[int]) -> int:
        """Copy the hosts of these slots; the number of entries."""
        wanted, scan = frozenset(slots), self._database.scan
        count = sum(to.put(family, self._in_slots(family, slots)) for family in BY_SLOT)
        count += sum(to.put(family, (each for each in scan(family) if each[0][TIME_BYTES] in wanted)) for family in BY_TIME)
        count += to.put("robots", (each for each in scan("robots") if self._slot_of_origin(each[0]) in wanted))
        return count + to.put("meta", (each for each in scan("meta", SUSPECT) if _is_suspect_of(each[0], wanted)))

    @translated
    def branch(self, path: Path) -> None:
        """Make a store in ``path`` that has all that this one has: in no time, since both share their tables. What is there
        already goes. It is to ``begin_anew``, and to ``settle``."""
        shutil.rmtree(path, ignore_errors=True)
        self._database.copy_to(path)

    @translated
    def begin_anew(self, slots: Collection[int]) -> None:
        """A branch keeps no totals, marks or positions, which stay where they were; of suspects those of these slots."""
        own = frozenset(slots)
        kept = {SCHEMA_KEY, IDENTITY_KEY}
        self._delete(
            ("meta", key)
            for key, _ in self._database.scan("meta")
            if key not in kept and not (key.startswith(SUSPECT) and _is_suspect_of(key, own))
        )
        self._database.write(WriteBatch(raw_mode=True), sync=True)

    def _in_slots(self, family: str, slots: Collection[int]) -> Iterator[Entry]:
        for slot in sorted(slots):
            yield from self._database.scan(family, bytes((slot,)))

    def _slot_of_origin(self, origin: bytes) -> int:
        return self._keys_by.host(host_key(f"{origin.decode()}/"))[0]

    @translated
    def put(self, family: str, entries: Iterable[Entry]) -> int:
        """Durable on return."""
        count, left, handle = 0, iter(entries), self._database.handle(family)
        while some := list(islice(left, ENTRIES_PER_WRITE)):
            batch = WriteBatch(raw_mode=True)
            put = batch.put
            for key, value in some:
                put(key, value, handle)
            self._database.write(batch, sync=False)
            count += len(some)
        self._database.write(WriteBatch(raw_mode=True), sync=True)
        return count

    @translated
    def take_over(self, of: MovingStore, name: str) -> None:
        """The totals, marks and positions of a store that will be no more, once; what waits is counted by ``settle``."""
        note = MERGED + name.encode()
        if self._database.get("meta", note) is not None:
            return
        own, others = self._state(), of._state()
        batch, meta = WriteBatch(raw_mode=True), self._database.handle("meta")
        for prefix in (MARK, POSITION):
            for key, value in of._database.scan("meta", prefix):
                batch.put(key, value, meta)
        for key, value in of._database.scan("meta", PROGRESS):
            batch.put(key, encode(added([self._tally(key), decode_tally(value)])), meta)
        batch.put(STATE_KEY, encode(replace(own, counts=total([own.counts, others.counts]))), meta)
        batch.put(note, b"1", meta)
        self._database.write(batch, sync=True)

    @translated
    def marks(self) -> list[str]:
        """The files of which it holds marks."""
        return [file_name(MARK, key) for key, _ in self._database.scan("meta", MARK)]

    @translated
    def give_marks(self, files: Collection[str], to: MovingStore) -> None:
        keys = {file_key(MARK, file) for file in files}
        to.put("meta", (each for each in self._database.scan("meta", MARK) if each[0] in keys))
        self._delete(("meta", key) for key in keys)
        self._database.write(WriteBatch(raw_mode=True), sync=True)

    @translated
    def settle(self, slots: Collection[int], latest: StoreState, sequence: int, gone: Collection[bytes]) -> None:
        """Keep the hosts of these slots alone, count what waits of them, and go on behind ``sequence`` and, in time, behind
        ``latest``. ``gone`` are prefixes of entries of ``meta`` that mean nothing any more."""
        foreign = frozenset(range(SLOTS)) - frozenset(slots)
        batch = WriteBatch(raw_mode=True)
        for family in BY_SLOT:
            for slot in foreign:
                batch.delete_range(*slot_range(slot), self._database.handle(family))
        self._database.write(batch, sync=False)
        self._delete((family, key) for family in BY_TIME for key, _ in self._database.scan(family) if key[TIME_BYTES] in foreign)
        self._delete(("robots", key) for key, _ in self._database.scan("robots") if self._slot_of_origin(key) in foreign)
        self._delete(("meta", key) for prefix in gone for key, _ in self._database.scan("meta", prefix))
        own = self._state()
        counts = Counters(own.counts)
        counts.waiting, counts.retrying, counts.hosts = self._waiting()
        settled = StoreState(max(own.sequence, sequence), max(own.now, latest.now), max(own.wall, latest.wall), counts.freeze())
        batch = WriteBatch(raw_mode=True)
        batch.put(STATE_KEY, encode(settled), self._database.handle("meta"))
        self._database.write(batch, sync=True)

    def _delete(self, keys: Iterable[tuple[str, bytes]]) -> None:
        found = iter(keys)  # of what stood there when the scan began
        while some := list(islice(found, ENTRIES_PER_WRITE)):
            batch = WriteBatch(raw_mode=True)
            for family, key in some:
                batch.delete(key, self._database.handle(family))
            self._database.write(batch, sync=False)

    def _waiting(self) -> tuple[int, int, int]:
        """(links that wait, those of which the last attempt failed, hosts)"""
        links = hosts = retrying = 0
        for key, value in self._database.scan("host"):
            if len(key) == HOST_BYTES:  # others count the query strings of its paths
                links, hosts = links + decode_host(value).waiting, hosts + 1
        for family in ("queue", "due"):
            for _, value in self._database.scan(family):
                if value[0] == SCHEDULED:
                    continue
                links += family == "due"
                retrying += not value[0] & BUNDLE and bool(value[0] & RETRYING)
        return links - retrying, retrying, hosts

    def _tally(self, key: bytes) -> Tally:
        value = self._database.get("meta", key)
        return decode_tally(value) if value is not None else Tally()

    @translated
    def identify_as(self, of: MovingStore) -> None:
        """Say with what the crawl was begun, as another store says."""
        if (identity := of._database.get("meta", IDENTITY_KEY)) is not None:
            self.put("meta", [(IDENTITY_KEY, identity)])

    def _state(self) -> StoreState:
        value = self._database.get("meta", STATE_KEY)
        return decode_state(value) if value is not None else StoreState()

    @property
    def state(self) -> StoreState:
        return translated(self._state)()

    @translated
    def close(self) -> None:
        self._database.close()


def _is_suspect_of(key: bytes, slots: frozenset[int]) -> bool:
    """Those of robots.txt are everybody's."""
    return key.startswith(SUSPECT + ROBOTS_KEY) or key[len(SUSPECT)] in slots


@translated
def _named(database: Database, secret: int | None) -> int:
    return make_schema(database, read_schema(database), secret).secret
