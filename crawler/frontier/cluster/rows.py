"""A store's entries as rows of the truth: in which table, under which family and slot each stands. Pure.

``known`` holds what is known of URLs, ``work`` what is to be done and the hosts it is done at, ``own`` what only this member
writes. Entries of the family ``ready`` have no row: they follow from the hosts.
"""

from __future__ import annotations

from typing import Final

from crawler.core.keys import Keys
from crawler.core.urls import host_key
from crawler.frontier.cluster.truth import Changes, Row, RowKey
from crawler.frontier.rocksdb.layout import (
    BY_TIME,
    IDENTITY_KEY,
    MARK,
    POSITION,
    PROGRESS,
    RECRAWL_KEY,
    STATE_KEY,
    SUSPECT,
    TIME_BYTES,
)
from crawler.frontier.rocksdb.upstream import Ops
from crawler.frontier.suspects import ROBOTS_KEY

KNOWN_FAMILIES: Final = {"seen": 0, "page": 1}
WORK_FAMILIES: Final = {"queue": 0, "host": 1, "due": 2, "robots": 3, "suspect": 4}
"""A row's family by the name of the store's."""
FAMILIES: Final = ({code: name for name, code in KNOWN_FAMILIES.items()}, {code: name for name, code in WORK_FAMILIES.items()})
"""The same the other way round, of each of the two tables that are loaded by slots."""
OWN: Final = (MARK, POSITION, PROGRESS, SUSPECT + ROBOTS_KEY, IDENTITY_KEY, RECRAWL_KEY)
"""How the keys begin, in the family ``meta``, of what only this member writes."""


class Rows:
    """Finds the rows of a store's entries. ``keys_by`` tells the slot of an origin."""

    def __init__(self, keys_by: Keys) -> None:
        self._keys_by = keys_by

    def add(self, changes: Changes, ops: Ops) -> set[int]:
        """Add what a store writes to a commit; the slots that it touches."""
        slots: set[int] = set()
        for (family, key), value in ops.items():
            if family == "meta":
                self._add_meta(changes, slots, key, value)
            elif family != "ready":
                slot = self.slot(family, key)
                slots.add(slot)
                code = KNOWN_FAMILIES.get(family)
                if code is not None:
                    _add(changes.known, changes.known_gone, slot, code, key, value)
                else:
                    _add(changes.work, changes.work_gone, slot, WORK_FAMILIES[family], key, value)
        return slots

    def _add_meta(self, changes: Changes, slots: set[int], key: bytes, value: bytes | None) -> None:
        if key == STATE_KEY:
            changes.state = value or b""
        elif is_suspect(key):
            slot = key[len(SUSPECT)]
            slots.add(slot)
            _add(changes.work, changes.work_gone, slot, WORK_FAMILIES["suspect"], key[len(SUSPECT) :], value)
        elif key.startswith(OWN):
            if value is None:
                changes.own_gone.append(key)
            else:
                changes.own.append((key, value))

    def slots_of(self, ops: Ops) -> set[int]:
        """The slots that these touch."""
        places = (place for place in ops if place[0] not in ("meta", "ready"))
        suspects = {key[len(SUSPECT)] for family, key in ops if family == "meta" and is_suspect(key)}
        return {self.slot(family, key) for family, key in places} | suspects

    def slot(self, family: str, key: bytes) -> int:
        """The slot of an entry, of any family but ``meta`` and ``ready``."""
        if family in BY_TIME:
            return key[TIME_BYTES]
        if family == "robots":
            return self._keys_by.host(host_key(f"{key.decode()}/"))[0]
        return key[0]


def _add(puts: list[Row], gone: list[RowKey], slot: int, family: int, key: bytes, value: bytes | None) -> None:
    if value is None:
        gone.append((slot, family, key))
    else:
        puts.append((slot, family, key, value))


def is_suspect(key: bytes) -> bool:
    """Of a link, which stands in its slot; those of robots rules are the member's own."""
    return key.startswith(SUSPECT) and not key.startswith(SUSPECT + ROBOTS_KEY)
