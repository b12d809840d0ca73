"""Which settled URLs a person means: by URL, host, outcome and tag. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Set
from typing import Final

from msgspec import Struct

from crawler.core.model import Known, Tag
from crawler.core.urls import host_key

LOOKED_AT: Final = 2000
"""Records that one step looks at: some hundredths of a second."""


class Selection(Struct, frozen=True):
    """What is not given does not matter. ``url`` is canonical, ``host`` a host key."""

    url: str | None = None
    host: str | None = None
    outcomes: Set[str] = frozenset()
    tag: Tag | None = None
    files: Set[str] = frozenset()
    """Those whose record or row stands in one of these."""
    slot: int | None = None
    """Only records of this one are looked at."""

    @property
    def place(self) -> str | None:
        """The only host whose URLs may be meant."""
        return host_key(self.url) if self.url is not None else self.host

    @property
    def hosts(self) -> Collection[str] | None:
        """Those that a person may mean who wants them tried again; None: any. No person means a slot."""
        if self.place is not None:
            return (self.place,)
        return None if self.slot is None else ()

    def takes(self, known: Known) -> bool:
        link = known.link
        if (self.url is not None and link.url != self.url) or (self.host is not None and link.host != self.host):
            return False
        if self.outcomes and known.outcome not in self.outcomes:
            return False
        if self.files and not any(place is not None and place.file in self.files for place in (known.archive, known.row)):
            return False
        return self.tag is None or link.tag == self.tag


class Step(Struct):
    """What a step over the records did: ``count`` URLs of ``hosts``. ``after`` goes to the next one; None: it was the last."""

    count: int
    hosts: frozenset[str]
    after: bytes | None = None


def in_steps(some: Callable[[Selection, bytes], Step], which: Selection) -> int:
    """All that ``which`` means, one step after the other; how many URLs."""
    step = some(which, b"")
    total = step.count
    while step.after is not None:
        step = some(which, step.after)
        total += step.count
    return total
