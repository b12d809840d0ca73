"""What the store knows of URLs: asked for a whole batch at a time, sorted, behind a bounded exact cache.

Nine links of ten are known, half of them the navigation links of their host: those never reach the database.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from crawler.frontier.admission import fruitful
from crawler.frontier.cache import GenerationCache
from crawler.frontier.rocksdb.database import Database
from crawler.frontier.rocksdb.layout import REVIVED, StoredPage, decode_page, decode_seen
from crawler.frontier.selection import LOOKED_AT, Selection

CHOSEN_MAX: Final = 1000
"""Most links revived or forgotten in one transaction."""
CHOSEN_BYTES_MAX: Final = 4 << 20
"""The same of what is kept of them: a listed line may have 64 KiB."""


class Seen:
    """Keys are p8 u8 throughout. The cache holds committed URLs only."""

    ENTRY_BYTES: Final = 160
    """Roughly what one takes in memory."""

    def __init__(self, database: Database, entries_max: int) -> None:
        self._database = database
        self._recent: GenerationCache[bytes, int] = GenerationCache(entries_max // 2)

    def __len__(self) -> int:
        return len(self._recent)

    def depths(self, keys: Collection[bytes]) -> dict[bytes, int]:
        """The least depths of those that are known."""
        known, missing = self._recent.pick(keys)
        read = {key: decode_seen(value)[0] for key, value in self._database.found("seen", missing)}
        self._recent.update(read)
        return known | read

    def note(self, depths: Mapping[bytes, int]) -> None:
        """Least depths of URLs that were committed."""
        self._recent.update(depths)

    def retrying(self, keys: Collection[bytes]) -> dict[bytes, tuple[int, bool]]:
        """(least depth, whether an attempt failed) of known URLs."""
        return {key: decode_seen(value) for key, value in self._database.found("seen", keys)}

    def fruitful(self, keys: Collection[bytes]) -> set[bytes]:
        """Of these URLs, the settled ones that may have had outlinks."""
        return {key for key, value in self._database.found("page", keys) if fruitful(decode_page(value)[1])}

    def settled(self, which: Selection, after: bytes, prefix: bytes) -> tuple[list[StoredPage], bytes | None]:
        """URLs behind the key ``after`` that are meant and do not wait again, and the last key looked at;
        None if there are no more. Their keys begin with ``prefix``. (robots.txt is asked for when it is due.)"""
        entries = self._database.scan("page", start=max(prefix, after + b"\0" if after else b""))
        chosen: list[StoredPage] = []
        left = CHOSEN_BYTES_MAX
        for looked_at, (key, value) in enumerate(entries, 1):
            if not key.startswith(prefix):
                break
            page = StoredPage(key, *decode_page(value))
            if not page.flags & REVIVED and page.known.link.kind != "robots" and which.takes(page.known):
                chosen.append(page)
                left -= len(value)
            if looked_at == LOOKED_AT or len(chosen) == CHOSEN_MAX or left <= 0:
                return chosen, key
        return chosen, None

    def forget(self, keys: Iterable[bytes]) -> None:
        """These URLs are known no more."""
        for key in keys:
            self._recent.discard(key)

    def clear(self) -> None:
        """Forget all: others may have changed what is stored."""
        self._recent.clear()

    def slice(self, start: bytes, limit: int) -> tuple[list[StoredPage], bytes | None]:
        """Settled URLs from the key ``start`` on, so many or of CHOSEN_BYTES_MAX, and where to go on; None:
        there are no more."""
        found: list[StoredPage] = []
        left = CHOSEN_BYTES_MAX
        for key, value in self._database.scan("page", start=start):
            found.append(StoredPage(key, *decode_page(value)))
            left -= len(value)
            if len(found) == limit or left <= 0:
                return found, key + b"\0"
        return found, None

    def pages(self, keys: Collection[bytes]) -> dict[bytes, StoredPage]:
        """Those that are settled and do not wait again, by key."""
        pages = (StoredPage(key, *decode_page(value)) for key, value in self._database.found("page", keys))
        return {page.key: page for page in pages if not page.flags & REVIVED}

    def queries(self, paths: Collection[bytes]) -> dict[bytes, int]:
        """Different query strings so far, by the key of the URL before its question mark."""
        return {key: int.from_bytes(value, "big") for key, value in self._database.found("host", paths)}
