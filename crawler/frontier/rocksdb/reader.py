"""Reading a store without changing it: the lookups of the store itself, and readers beside a running crawl.

Invariant: a reader shows one committed state, whole, with nothing later mixed into it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar, Final, TypeVar

from crawler.core.errors import StorageError
from crawler.core.keys import GroupOf, Keys
from crawler.core.model import Known, Mark
from crawler.core.urls import host_key
from crawler.frontier.rocksdb.database import Database, translated
from crawler.frontier.rocksdb.layout import (
    BY_SLOT,
    COPY,
    FAMILIES,
    IDENTITY_KEY,
    MARK,
    POSITION,
    STATE_KEY,
    StoreState,
    decode_host,
    decode_mark,
    decode_page,
    decode_seen,
    decode_state,
    file_key,
    file_name,
)
from crawler.frontier.rocksdb.opening import open_database, read_schema
from crawler.frontier.store import Counts

R = TypeVar("R")

MEMORY_BYTES: Final = 16 << 20
_TRIES: Final = 20


class Facts:
    """What can be asked of an open database."""

    def __init__(self, database: Database, secret: int, group_of: GroupOf | None = None) -> None:
        self._database = database
        self._secret = secret
        self._keys_by = Keys(secret, group_of)

    def secret(self) -> int:
        return self._secret

    @translated
    def lookup(self, url: str) -> Known | str | None:
        key = self._keys_by.of(host_key(url), url)
        if (page := self._database.get("page", key)) is not None:
            return decode_page(page)[1]
        if (seen := self._database.get("seen", key)) is None:
            return None
        return "retrying" if decode_seen(seen)[1] else "waiting"

    @translated
    def is_whole(self, url: str) -> bool:
        """Of a working copy: whether it has all that was committed from here of the URL's slot."""
        return self._database.get("meta", COPY + self._keys_by.host(host_key(url))[:1]) is not None

    @translated
    def budgets(self, url: str) -> tuple[int, int]:
        host, path = self._keys_by.host(host_key(url)), self._keys_by.url(url.partition("?")[0].encode())
        record, queries = self._database.get("host", host), self._database.get("host", host + path)
        return decode_host(record).admitted if record else 0, int.from_bytes(queries or b"", "big")

    @translated
    def robots(self, origins: Sequence[str]) -> list[bytes | None]:
        return self._database.many("robots", [origin.encode() for origin in origins])

    @translated
    def marks(self, folder: str = "") -> dict[str, Mark]:
        marks = self._database.scan("meta", file_key(MARK, folder))
        return {file_name(MARK, key): decode_mark(value) for key, value in marks}

    @translated
    def positions(self, begins: str = "") -> dict[str, bytes]:
        positions = self._database.scan("meta", file_key(POSITION, begins))
        return {file_name(POSITION, key): value for key, value in positions}

    @translated
    def identity(self) -> bytes | None:
        return self._database.get("meta", IDENTITY_KEY)

    @translated
    def read_through(self, family: str) -> None:
        """Every entry, and with it every block and its checksum."""
        for _ in self._database.scan(family):
            pass

    @translated
    def slots_held(self, slots: Sequence[int]) -> list[int]:
        """Those of these slots of which there is anything."""
        return [slot for slot in slots if any(any(self._database.scan(name, bytes((slot,)))) for name in BY_SLOT)]

    @translated
    def state(self) -> StoreState:
        value = self._database.get("meta", STATE_KEY)
        return StoreState() if value is None else decode_state(value)


class RocksReader:
    """A store as of its last commit when this was opened or last refreshed, while another process may be writing to it.

    Raises StorageError; ``final`` where there is no store, or a damaged one. URLs are canonical. ``group_of``: as the store
    makes its keys."""

    is_partial: ClassVar[bool] = False
    """It knows of all that there is."""

    def __init__(self, path: Path, group_of: GroupOf | None = None) -> None:
        self._path, self._group_of = path, group_of
        self._database, self._facts = _open(path, group_of)

    def lags(self, file: str, url: str) -> bool:
        """Never: rows are read as far as its marks go."""
        return False

    def lookup(self, url: str) -> Known | str | None:
        """As ``Store.lookup``."""
        return self._ask(lambda facts: facts.lookup(url))

    def is_whole(self, url: str) -> bool:
        """Of a working copy: whether it has all that was committed from here of the URL's slot."""
        return self._ask(lambda facts: facts.is_whole(url))

    def budgets(self, url: str) -> tuple[int, int]:
        """As ``Store.budgets``."""
        return self._ask(lambda facts: facts.budgets(url))

    def robots(self, origins: Sequence[str]) -> list[bytes | None]:
        """As ``Store.robots``."""
        return self._ask(lambda facts: facts.robots(origins))

    def marks(self) -> dict[str, Mark]:
        """Every file of the crawl and its length."""
        return self._ask(Facts.marks)

    def marks_now(self) -> dict[str, Mark]:
        """As of the last commit by now; everything else goes on showing what it showed."""
        with contextlib.closing(RocksReader(self._path, self._group_of)) as later:
            return later.marks()

    def positions(self) -> dict[str, bytes]:
        """Seed sources and their positions."""
        return self._ask(Facts.positions)

    def stats(self) -> Counts:
        """The totals."""
        return self._ask(Facts.state).counts

    def verify(self) -> Iterator[StorageError]:
        """Read every entry, so that every checksum is looked at; what is damaged. A writer at work may keep us from some."""
        for family in FAMILIES:
            try:
                self._ask(partial(Facts.read_through, family=family))
            except StorageError as error:
                if error.final:
                    yield error

    def slots_held(self, slots: Sequence[int]) -> list[int]:
        """Those of these slots of which there is anything."""
        return self._ask(partial(Facts.slots_held, slots=slots))

    def refresh(self) -> None:
        """Show what is committed now."""
        self._database.close()
        self._database, self._facts = _open(self._path, self._group_of)

    def close(self) -> None:
        self._database.close()

    def _ask(self, question: Callable[[Facts], R]) -> R:
        """The writer deletes files that it has merged into others; a reader that misses one opens anew."""
        try:
            return question(self._facts)
        except StorageError as error:
            if error.final:
                raise
            self.refresh()
            return question(self._facts)


def _open(path: Path, group_of: GroupOf | None) -> tuple[Database, Facts]:
    """A flush by the writer between reading the manifest and reading the log would leave a hole: then read anew."""
    for attempt in range(_TRIES):
        time.sleep(0.01 * attempt)
        before = manifest(path)
        try:
            database = open_database(path, MEMORY_BYTES, read_only=True)
        except StorageError as error:
            if before == manifest(path):
                raise
            failure = error
            continue
        if before == manifest(path):
            schema = read_schema(database)
            return database, Facts(database, schema.secret if schema else 0, group_of)
        database.close()
        failure = StorageError(f"{path}: the frontier store changes too fast to be read")
    raise failure


def manifest(path: Path) -> tuple[str, int]:
    """Which manifest is in force and how long it is: every flush and compaction makes it longer."""
    try:
        name = (path / "CURRENT").read_text().strip()
        return name, (path / name).stat().st_size
    except (OSError, ValueError):
        return "", 0
