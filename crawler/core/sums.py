"""What several parts have counted, added up. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from msgspec import Struct

K = TypeVar("K")
T = TypeVar("T", bound=Struct)


def summed(named: Sequence[Mapping[K, int]]) -> dict[K, int]:
    """Counts added by name, without those that come to 0. (A part's count may be negative: what another part has counted was
    settled again there.)"""
    total: dict[K, int] = {}
    for one in named:
        for name, count in one.items():
            total[name] = total.get(name, 0) + count
    return {name: count for name, count in total.items() if count}


def added(parts: Sequence[T], **told: Any) -> T:
    """Several as one: numbers are added, mappings of numbers by name. ``told`` gives the fields that are no sums. TypeError: a
    field is neither, and was not given."""
    kind = type(parts[0])
    columns = {name: [getattr(one, name) for one in parts] for name in kind.__struct_fields__ if name not in told}
    return kind(**{name: _sum(values) for name, values in columns.items()}, **told)


def _sum(values: list[Any]) -> Any:
    return summed(values) if isinstance(values[0], Mapping) else sum(values)


__all__ = ["added", "summed"]
