"""Columns of rows as PostgreSQL's binary protocol has arrays: made whole here, since psycopg asks a dumper for every element of a
list (per row 1.2 µs of CPU against 0.5)."""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Final

from psycopg.adapt import Buffer, Dumper
from psycopg.pq import Format

from crawler.core.keys import SLOTS

_HEAD: Final = Struct(">iiIii")
"""Dimensions, whether there are nulls, the type of the elements; how many of them, and the number of the first."""
_INT2, _BYTEA = 21, 17
_SMALL: Final = [Struct(">ih").pack(2, number) for number in range(SLOTS)]
_length: Final = Struct(">i").pack


class SmallInts(bytes):
    """``smallint[]``"""


class Byteas(bytes):
    """``bytea[]``"""


def small_ints(values: Sequence[int]) -> SmallInts:
    """Of numbers of slots and families. There must be one at least."""
    return SmallInts(b"".join((_HEAD.pack(1, 0, _INT2, len(values), 1), *[_SMALL[value] for value in values])))


def byteas(values: Sequence[bytes]) -> Byteas:
    """There must be one at least."""
    parts = [part for value in values for part in (_length(len(value)), value)]
    return Byteas(b"".join((_HEAD.pack(1, 0, _BYTEA, len(values), 1), *parts)))


class _Ready(Dumper):
    format = Format.BINARY

    def dump(self, obj: bytes) -> Buffer:
        return obj


class SmallIntsDumper(_Ready):
    oid = 1005


class ByteasDumper(_Ready):
    oid = 1001
