"""What a store remembers of a host, and the rules that change it: the same for every store. Pure; time is an argument."""

from __future__ import annotations

from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from crawler.core.batch import HostRest
from crawler.core.model import Known, Lease, Link

CRASHES_MAX: Final = 3
"""A link that was out at this many ends of the process is settled as skipped, ``crashed``."""

REVIVE_AFTER_S: Final = 3600.0
"""A new seed tries a given-up host again after this many seconds of the crawl clock."""


class HostState(Struct, array_like=True):
    """``since`` is the crawl clock when ``due`` was last known for certain (its creation, a visit), or when the host was
    given up. ``failures`` and ``busy`` count those in a row, ``admitted`` the links so far."""

    due: float
    since: float
    failures: int = 0
    busy: int = 0
    admitted: int = 0
    down: tuple[str, str] | None = None
    """(outcome, reason) once it was given up."""

    def visited(self, rest: HostRest, now: float) -> None:
        """What a visit told of it."""
        if not (rest.down and self.down):
            self.since = now
        self.due = now if rest.down else rest.due
        self.failures, self.busy, self.down = rest.failures, rest.busy, rest.down

    def admit(self, links: int, is_seed: bool, now: float) -> None:
        """New links of it join its queue. A person who names a host that was given up long ago wants it tried again."""
        self.admitted += links
        if is_seed and self.down and now - self.since >= REVIVE_AFTER_S:
            self.down, self.failures, self.due = None, 0, now

    def revive(self) -> None:
        """A settled URL of it is wanted once more, whatever the host had done."""
        self.down, self.failures = None, 0

    def lease(self, link: Link, key: bytes, known: Known | None, *, crashes: int, earliest: float) -> Lease:
        """The right to visit a link of it: not before its rest is over, nor before ``earliest``; at once if it was given up.
        ``crashes``: how often the link was out when the process ended; each counts as an attempt."""
        down = self.down
        due = 0.0 if down else max(self.due, earliest)
        if crashes:
            link = replace(link, attempt=link.attempt + crashes)
            if down is None and crashes >= CRASHES_MAX:
                down = ("skipped", "crashed")
        return Lease(link, key, due, crashes > 0, down, known, self.failures, self.busy)
