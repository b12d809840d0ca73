"""Watches our own network through the outcomes of visits.

Outcomes that a lost network may be to blame for are held until that is known, then settled as judged or given back. While
offline one visit is dealt now and then; the first response from any host ends it.

A host that is reached at an address that is known already says nothing of the name servers. So a name that they did not tell is
its host's fault only if they told another meanwhile, or do so when they are asked for one; else the visit is given back.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, Protocol

from crawler.core.errors import StorageError
from crawler.core.model import Done, Dropped, Lease, Outcome, Retry, Unvisited
from crawler.core.snapshot import Pause
from crawler.resources.dealing import Dealing
from crawler.resources.outage_detector import HELD_MAX, Outage, Sign, network_sign

EndedVisit = tuple[Lease, Outcome]

UNNAMED: Final = frozenset({"servfail", "dns_timeout", "resolver_unreachable"})
"""Reasons for which no name server may be to blame."""
ASK_EVERY_S: Final = 5.0
"""Name servers that told nothing are asked again so often."""
AT_ONCE_S: Final = 1.0
"""A witness that takes a connection later may have been asked again: TCP waits so long for the first word of it."""
UNNAMED_REST_S: Final = 30.0
"""A host whose name they did not tell rests so long."""

logger: Final = logging.getLogger(__name__)


class Names(Protocol):
    """What is known of the name servers."""

    @property
    def names_told(self) -> int:
        """Lookups to which they had something to say, so far."""

    async def speak(self) -> bool:
        """Whether they say anything now. True if they never did: then nobody knows that they could."""


class _Mute(NamedTuple):
    """Name servers were asked, and said nothing."""

    told: int
    """What ``names_told`` was."""
    asked_at: float
    since: float
    """When the first of these questions in a row was asked."""


class Network:
    """``reaches(host)`` says whether a host's port takes a connection, or refuses it. Every method that returns visits returns
    those that may be settled now, (lease, outcome) each: as judged, or given back."""

    def __init__(
        self,
        dealing: Dealing,
        reaches: Callable[[str], Awaitable[bool]],
        names: Names,
        *,
        clock: Callable[[], float],
        patience_s: float,
    ) -> None:
        self._dealing, self._reaches, self._names = dealing, reaches, names
        self._clock, self._patience_s = clock, patience_s
        self._outage: Outage[tuple[Lease, Outcome, int]] = Outage()
        self._unnamed: deque[tuple[Lease, Outcome, int, float]] = deque()
        """Whose names were not told, and nobody knows yet why: with what ``names_told`` was then, and the time."""
        self._heard_at = -math.inf
        """When the name servers spoke last though they were asked for nothing but that."""
        self._mute: _Mute | None = None
        self._last_fault = ""
        """Of the last visit that a lost network may be to blame for."""

    def observe(self, lease: Lease, outcome: Outcome) -> list[EndedVisit]:
        """A visit that used the network has ended: it is settled now, or held until it is known whose fault that was."""
        if isinstance(outcome, Done) and outcome.reason is None and self._outage.is_calm:
            self._outage.responded(lease.link.host, self._clock())
            return [(lease, outcome)]
        sign = _sign(outcome)
        if sign not in ("response", "nothing"):
            self._last_fault = _told(outcome)
        return self._released(self._outage.note((lease, outcome, self._names.names_told), lease.link.host, sign, self._clock()))

    def tick(self) -> list[EndedVisit]:
        """To be called now and then: what has been held long enough."""
        return self._released(self._outage.tick(self._clock(), idle=not self._dealing.visiting_count))

    def flush(self) -> list[EndedVisit]:
        """The crawl ends: what is held is given back."""
        unnamed = [(lease, Unvisited()) for lease, *_ in self._unnamed]
        self._unnamed.clear()
        return [*unnamed, *self._released(self._outage.flush())]

    async def probe(self) -> None:
        """While offline, and when it is time: see whether a host that responded lately takes a connection, or let one visit
        try. Raises StorageError when we have been offline, or without a name server, for longer than the patience."""
        if self._unnamed:
            await self._ask_for_a_name()
        if not self._outage.offline:
            return
        now = self._clock()
        self._check_patience(self._outage.since)
        if not self._outage.probe(now):
            return
        for host in self._outage.witnesses[:2]:
            asked_at = self._clock()
            if await self._reaches(host):
                at_once = self._clock() - asked_at < AT_ONCE_S
                self._outage.reached(names_speak=self._mute is None and await self._names.speak(), at_once=at_once)
                self._pause_or_resume()
                return
        self._dealing.deal_one()

    async def _ask_for_a_name(self) -> None:
        """See whether the name servers speak, unless that is known: ``_named`` judges by it."""
        if self._are_mute():
            return
        told, before = self._names.names_told, self._mute
        if await self._names.speak():
            self._heard_at, self._mute = self._clock(), None
            if before is not None:
                logger.info("network: a name server speaks again")
            return
        now = self._clock()
        is_same = before is not None and before.told == told and now - before.asked_at <= 2 * UNNAMED_REST_S
        self._mute = _Mute(told, now, before.since if before is not None and is_same else now)
        if before is None:
            logger.warning("network: no name server speaks (%s); hosts whose names are not known wait", self._last_fault)
        self._check_patience(self._mute.since)

    def _are_mute(self) -> bool:
        """Whether they were asked just now, in vain, and have told nothing since."""
        mute = self._mute
        return mute is not None and mute.told == self._names.names_told and self._clock() - mute.asked_at < ASK_EVERY_S

    def _named(self) -> list[EndedVisit]:
        """Those that may be settled now of the visits whose names were not told."""
        released: list[EndedVisit] = []
        for _ in range(len(self._unnamed)):
            lease, outcome, told, ended_at = self._unnamed.popleft()
            if told != self._names.names_told or ended_at <= self._heard_at:
                released.append((lease, outcome))
            elif self._are_mute() or len(self._unnamed) >= HELD_MAX:
                released.append((lease, Unvisited(UNNAMED_REST_S)))
            else:
                self._unnamed.append((lease, outcome, told, ended_at))
        return released

    def _check_patience(self, since: float) -> None:
        if self._clock() - since > self._patience_s:
            why = "no name server, no route, no proxy, or nobody responds"
            raise StorageError(f"our own network is down: {why} (last fault: {self._last_fault})")

    def _released(self, decided: list[tuple[tuple[Lease, Outcome, int], bool]]) -> list[EndedVisit]:
        released: list[EndedVisit] = []
        for (lease, outcome, told), as_judged in decided:
            if not as_judged:
                if isinstance(outcome, Done):
                    outcome.page.body.discard()
                outcome = Unvisited()
            elif not isinstance(outcome, Unvisited) and outcome.reason in UNNAMED:
                self._unnamed.append((lease, outcome, told, self._clock()))
                continue
            released.append((lease, outcome))
        if self._unnamed:
            released += self._named()
        self._dealing.hold(self._outage.held + len(self._unnamed))
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
