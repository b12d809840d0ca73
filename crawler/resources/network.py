"""Watches our own network through the outcomes of visits.

Outcomes that a lost network may be to blame for are held until that is known, then settled as judged or given back. While
offline one visit is dealt now and then; the first response from any host ends it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final

from crawler.core.errors import StorageError
from crawler.core.model import Done, Dropped, Lease, Outcome, Retry, Unvisited
from crawler.core.snapshot import Pause
from crawler.resources.dealing import Dealing
from crawler.resources.outage_detector import HELD_MAX, Outage, Sign, network_sign

EndedVisit = tuple[Lease, Outcome]

logger: Final = logging.getLogger(__name__)


class Network:
    """``reaches(host)`` says whether a host's port takes a connection, or refuses it. Every method that returns visits returns
    those that may be settled now, (lease, outcome) each: as judged, or given back."""

    def __init__(
        self,
        dealing: Dealing,
        reaches: Callable[[str], Awaitable[bool]],
        *,
        clock: Callable[[], float],
        patience_s: float,
    ) -> None:
        self._dealing, self._reaches = dealing, reaches
        self._clock, self._patience_s = clock, patience_s
        self._outage: Outage[EndedVisit] = Outage()
        self._last_fault = ""
        """Of the last visit that a lost network may be to blame for."""

    def observe(self, lease: Lease, outcome: Outcome) -> list[EndedVisit]:
        """A visit that used the network has ended: it is settled now, or held until it is known whose fault that was."""
        if isinstance(outcome, Done) and outcome.reason is None and self._outage.is_calm:
            self._outage.responded(lease.link.host)
            return [(lease, outcome)]
        sign = _sign(outcome)
        if sign not in ("response", "nothing"):
            self._last_fault = _told(outcome)
        return self._released(self._outage.note((lease, outcome), lease.link.host, sign, self._clock()))

    def tick(self) -> list[EndedVisit]:
        """To be called now and then: what has been held long enough."""
        return self._released(self._outage.tick(self._clock(), idle=not self._dealing.visiting_count))

    def flush(self) -> list[EndedVisit]:
        """The crawl ends: what is held is given back."""
        return self._released(self._outage.flush())

    async def probe(self) -> None:
        """While offline, and when it is time: see whether a host that responded lately takes a connection, or let one visit
        try. Raises StorageError when we have been offline for longer than the patience."""
        if not self._outage.offline:
            return
        now = self._clock()
        if now - self._outage.since > self._patience_s:
            why = "no name server, no route, no proxy, or nobody responds"
            raise StorageError(f"our own network is down: {why} (last fault: {self._last_fault})")
        if not self._outage.probe(now):
            return
        for host in self._outage.witnesses[:2]:
            if await self._reaches(host):
                self._outage.reached()
                self._pause_or_resume()
                return
        self._dealing.deal_one()

    def _released(self, decided: list[tuple[EndedVisit, bool]]) -> list[EndedVisit]:
        self._dealing.hold(self._outage.held)
        released: list[EndedVisit] = []
        for (lease, outcome), as_judged in decided:
            if not as_judged:
                if isinstance(outcome, Done):
                    outcome.page.body.discard()
                outcome = Unvisited()
            released.append((lease, outcome))
        self._pause_or_resume()
        return released

    def _pause_or_resume(self) -> None:
        is_paused = Pause.OFFLINE in self._dealing.pauses
        if self._outage.offline and not is_paused:
            said = "network: nobody responds any more (last fault: %s); paused, trying again now and then"
            logger.warning(said, self._last_fault)
            self._dealing.pause(Pause.OFFLINE)
        elif is_paused and not self._outage.offline:
            why = "taken to work after all, so each failure is its host's" if self._outage.is_blind else "responds again"
            logger.info("network: %s; going on", why)
            self._dealing.resume(Pause.OFFLINE)


def _sign(outcome: Outcome) -> Sign:
    return "nothing" if isinstance(outcome, Unvisited) else network_sign(outcome.reason, _detail(outcome))


def _detail(outcome: Outcome) -> str:
    return outcome.detail if isinstance(outcome, Dropped | Retry) else ""


def _told(outcome: Outcome) -> str:
    """Why a visit failed, for people: ``proxy, status 407``."""
    reason = "" if isinstance(outcome, Unvisited) else outcome.reason or outcome.outcome
    return ", ".join(filter(None, (reason, _detail(outcome))))


__all__ = ["HELD_MAX", "Network"]
