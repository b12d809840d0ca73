"""What a store remembers of a host, and the rules that change it: the same for every store. Pure; time is an argument."""

from __future__ import annotations

from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from crawler.core.batch import HostRest
from crawler.core.model import Known, Lease, Link
from crawler.frontier.counters import LINE_ENDED, RECRAWL

CRASHES_MAX: Final = 3
"""A link that was out at this many ends of the process is settled as skipped, ``crashed``."""


class _Later(Struct, array_like=True, kw_only=True):
    """Fields added later: keyword-only ones come last in the records of every subclass, so that older records are read."""

    has_responded: bool = False
    """It took a request at any time of this crawl."""


class HostState(_Later, array_like=True):
    """``since`` is the crawl clock when ``due`` was last known for certain: at its creation, or its last visit. ``failures`` and
    ``busy`` count those in a row, ``admitted`` the links so far."""

    due: float
    since: float
    failures: int = 0
    busy: int = 0
    admitted: int = 0
    down: tuple[str, str] | None = None
    """(outcome, reason) once it was given up."""

    def visited(self, rest: HostRest, now: float) -> None:
        """What a visit told of it."""
        self.since, self.due = now, rest.due
        self.failures, self.busy, self.down = rest.failures, rest.busy, rest.down
        self.has_responded |= rest.has_responded

    @property
    def ready_at(self) -> float:
        """When its links may be claimed; those of a host that was given up at once, to be settled unfetched."""
        return self.since if self.down else self.due

    def admit(self, links: int, is_seed: bool) -> None:
        """New links of it join its queue. A person who names a host that was given up wants it tried again: one more failure
        gives it up anew."""
        self.admitted += links
        if is_seed and self.down:
            self.down, self.failures = None, max(0, self.failures - 1)

    def revive(self) -> None:
        """A settled URL of it is wanted once more, whatever the host had done."""
        self.down, self.failures = None, 0

    def lease(self, link: Link, key: bytes, known: Known | None, flags: int, *, crashes: int, earliest: float | None) -> Lease:
        """The right to visit a link of it: not before its rest is over, nor before ``earliest``; at once if it was given up.
        ``flags`` are those it has while it waits (see ``counters``). ``crashes``: how often the link was out when the process
        ended; each counts as an attempt. ``earliest`` is None once it was visited since the store was opened: what an earlier
        process could not reach may be there now, or the settings right, so that one more failure gives it up anew."""
        down, failures = self.down, self.failures
        if down and earliest is not None:
            down, failures = None, max(0, failures - 1)
        due = 0.0 if down else max(self.due, earliest or 0.0)
        if crashes:
            link = replace(link, attempt=link.attempt + crashes)
            if down is None and crashes >= CRASHES_MAX:
                down = ("skipped", "crashed")
        told = (failures, self.busy, self.has_responded, flags & RECRAWL > 0, flags & LINE_ENDED > 0)
        return Lease(link, key, due, crashes > 0, down, known, *told)
