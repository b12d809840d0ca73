"""Our own network, watched by what the visits say: is it them, or is it us?

The law: what a lost network may be to blame for is held until that is known, and then settled as judged or given back.
While offline nothing is dealt but one visit now and then; the first answer from anyone ends it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from crawler.core.errors import StorageError
from crawler.core.model import Done, Dropped, Lease, Outcome, Retry, Unvisited
from crawler.frontier.pump import Frontier
from crawler.resources.outage_detector import HELD_MAX, Outage, Sign, sign_of

WATCH_EVERY_S: Final = 0.5

Visit = tuple[Lease, Outcome]


logger: Final = logging.getLogger(__name__)


class Network:
    """``settle`` takes what is decided; ``reaches(host)`` tries a connection; ``patience_s``: how long to wait offline."""

    def __init__(
        self,
        frontier: Frontier,
        settle: Callable[[Lease, Outcome], None],
        reaches: Callable[[str], Awaitable[bool]],
        *,
        clock: Callable[[], float],
        patience_s: float,
    ) -> None:
        self._frontier = frontier
        self._settle = settle
        self._reaches = reaches
        self._clock = clock
        self._patience_s = patience_s
        self.outage: Outage[Visit] = Outage()

    def ended(self, lease: Lease, outcome: Outcome) -> None:
        """A visit that used the network has ended: it is settled now, or held."""
        self._act(self.outage.note((lease, outcome), lease.link.host, _sign(outcome), self._clock()))

    async def watch(self) -> None:
        """Until cancelled. Raises StorageError when we have been offline for longer than the patience."""
        while True:
            await asyncio.sleep(WATCH_EVERY_S)
            idle = self._frontier.out_count <= self._frontier.held
            self._act(self.outage.tick(self._clock(), idle=idle))
            if self.outage.offline:
                await self._probe()

    def flush(self) -> None:
        """The crawl ends: what is held is given back."""
        self._act(self.outage.flush())

    async def _probe(self) -> None:
        now = self._clock()
        if now - self.outage.stats().since > self._patience_s:
            raise StorageError("our own network is down: no name server, no route, or nobody answers")
        if not self.outage.probe(now):
            return
        for host in self.outage.witnesses[:2]:
            if await self._reaches(host):
                self.outage.reached()
                self._show()
                return
        self._frontier.deal_one()

    def _act(self, decided: list[tuple[Visit, bool]]) -> None:
        self._frontier.held = self.outage.held
        for (lease, outcome), as_judged in decided:
            if not as_judged:
                if isinstance(outcome, Done):
                    outcome.page.body.discard()
                outcome = Unvisited()
            self._settle(lease, outcome)
        self._show()

    def _show(self) -> None:
        paused = "offline" in self._frontier.pauses
        if self.outage.offline and not paused:
            logger.warning("network: nobody answers any more; paused, trying again now and then")
            self._frontier.pause("offline")
        elif paused and not self.outage.offline:
            logger.info("network: answers again; going on")
            self._frontier.resume("offline")


def _sign(outcome: Outcome) -> Sign:
    if isinstance(outcome, Unvisited):
        return "nothing"
    detail = outcome.detail if isinstance(outcome, Dropped | Retry) else ""
    return sign_of(outcome.reason, detail)


__all__ = ["HELD_MAX", "Network"]
