"""Brings settled URLs back: what was ordered is fulfilled slice by slice, between the pump's own trips to the store.

Invariant: an order that was taken survives the process; whoever opens the directory next goes on with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from crawler.config.sections import RecrawlConfig
from crawler.config.types import parse_time, regex
from crawler.core.clock import Clock
from crawler.core.errors import StorageError
from crawler.core.text import counted
from crawler.frontier import Counts, Store
from crawler.frontier.pump import Pump
from crawler.frontier.recrawl import NEVER, ORDERS_MAX, SLICE_PAGES, RecrawlOrder

AGAIN_S: Final = 1.0
"""Until a slice is tried again that could not be written."""
TOMORROW_S: Final = 86400.0
"""What a sitemap says to have been modified later than this from now is not believed."""

T = TypeVar("T")

logger: Final = logging.getLogger(__name__)


class TooManyOrders(Exception):
    """As many as may be are not fulfilled yet."""


class Recrawler:
    """Takes orders, and fulfils them while the crawl runs."""

    def __init__(self, config: RecrawlConfig, store: Store, pump: Pump, clock: Clock, *, counts_all: bool = True) -> None:
        """``counts_all``: the store counts all that it holds, and nothing else."""
        self._every_s = config.recrawl_every
        self._min_s = min(config.recrawl_min, config.recrawl_every)
        self._store, self._pump, self._clock, self._counts_all = store, pump, clock, counts_all
        self._ordered = asyncio.Event()

    async def has_room(self) -> bool:
        """Whether one more order may be taken."""
        return len(await self._pump.ask(self._store.orders)) < ORDERS_MAX

    async def order(self, order: RecrawlOrder) -> None:
        """Durable on return; there is to be room for it. StorageError: it could not be kept."""
        try:
            if await self._pump.change(self._keep, order) is None:
                raise (self._pump.failure or StorageError("the order could not be kept")).with_traceback(None)
        finally:  # also where the caller has timed out: the order may be kept all the same
            self._ordered.set()

    def _keep(self, order: RecrawlOrder) -> bool:
        self._store.order(order)
        return True

    async def run(self) -> None:
        """Fulfil what is ordered while the crawl runs."""
        while True:
            await self._ordered.wait()
            self._ordered.clear()
            await self.fulfil()

    async def begin(self) -> None:
        """Go on with what is left of earlier orders, and give a schedule to what has none though there is to be one. Where counts
        do not say whether there is any, it is looked for."""
        if self._every_s and (not self._counts_all or _unscheduled(self._store.stats())):
            orders = await self._surely(self._store.orders)
            if all(order.every != self._every_s for order in orders):  # else an earlier start ended before it was fulfilled
                wall = self._clock.wall()
                await self._surely(self._keep, RecrawlOrder(self._clock.now(), wall, every=self._every_s))
        await self.fulfil()

    async def hasten(self, modified: Mapping[str, float]) -> None:
        """What a sitemap says to be newer than its last visit is due at once, but not sooner after that than ``recrawl_min``.
        What says to be of tomorrow knows nothing."""
        now = self._clock.wall()
        latest = {url: min(at, now - self._min_s) for url, at in modified.items() if at <= now + TOMORROW_S}
        if await self._surely(self._store.hasten, latest):
            logger.debug("recrawl: pages that a sitemap says are newer are due")

    async def fulfil(self) -> None:
        """All orders there are, one slice after the other."""
        total = 0
        while await self._surely(self._store.orders):
            if (count := await self._pump.change(self._store.fulfil, SLICE_PAGES)) is None:
                await asyncio.sleep(AGAIN_S)  # nothing can be written just now
            else:
                total += count
        if total:
            logger.info("recrawl: due again, or at a time from now on: %s", counted(total, "settled URL"))

    async def _surely(self, call: Callable[..., T], *args: object) -> T:
        """What it returns, as soon as nothing is wrong with the store."""
        while True:
            if (done := await self._pump.change(call, *args)) is not None:
                return done
            await asyncio.sleep(AGAIN_S)


def checked(older_than: str, match: str | None) -> tuple[float, str | None]:
    """Seconds and expression of an order, as a person wrote them. ValueError says what is wrong."""
    try:
        older_than_s = float(parse_time(older_than))
    except ValueError as error:
        raise ValueError(f"older_than {error}") from None
    try:
        regex(match or "")
    except ValueError as error:
        raise ValueError(f"match {error}") from None
    return older_than_s, match


def _unscheduled(counts: Counts) -> bool:
    """Whether settled URLs that ought to be visited again have no schedule. Those that were left out may have kept theirs."""
    wanted = sum(count for outcome, count in counts.outcomes.items() if outcome not in NEVER)
    return wanted > counts.recrawl - counts.recrawl_skipped
