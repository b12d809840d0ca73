"""What is done as memory nears its limit: fewer visits, caches emptied, visits given up, parsers begun anew, the crawl ended.

Invariant: what the watch decides is carried out here and nowhere else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Final, TypeVar

from crawler.core.errors import StorageError
from crawler.core.snapshot import Limiter, Pause
from crawler.resources.dealing import Dealing
from crawler.resources.memory_budget import Budget
from crawler.resources.memory_pressure import (
    EVERY_S,
    LOOK_EVERY_S,
    OVER,
    TRIM_EVERY_S,
    Decision,
    MemoryReading,
    Meter,
    Watch,
    give_back,
    trim,
)

ENDED: Final = "memory: the limit cannot be held; give more with --memory-limit, or fewer --workers"

T = TypeVar("T")

logger: Final = logging.getLogger(__name__)


class MemoryGovernor:
    """``children()`` are the process ids of the tree besides our own; ``empty`` are caches that can be emptied;
    ``give_up_visits`` ends so many that are out; ``break_off``, over the limit, what else can be done again."""

    def __init__(
        self,
        budget: Budget,
        dealing: Dealing,
        *,
        children: Callable[[], Iterable[int]],
        empty: Iterable[Callable[[], None]],
        give_up_visits: Callable[[int], None],
        restart_parsers: Callable[[], None],
        clock: Callable[[], float],
        break_off: Callable[[], None] = lambda: None,
    ) -> None:
        self.budget = budget
        self.watch = Watch(budget.plan.visits_max)
        self.reading = MemoryReading(0, budget.plan.limit)
        self._dealing = dealing
        self._meter = Meter(budget.plan.limit, children)
        self._empty = tuple(empty)
        self._give_up_visits, self._restart_parsers, self._break_off = give_up_visits, restart_parsers, break_off
        self._clock = clock
        self._base = 0
        self._thread: Executor | None = None
        budget.measure("base", lambda: self._base)
        dealing.limit(Limiter.MEMORY, budget.plan.visits_max)

    async def run(self) -> None:
        """Watch until cancelled. Raises StorageError when the limit cannot be held."""
        with ThreadPoolExecutor(1, "memory") as self._thread:  # its own: the loop's may all stand before a stalled disk
            await self._watch()

    async def _watch(self) -> None:
        trimmed_at = self._clock()
        while True:
            self.reading = await self._aside(self._meter.read)
            named = sum(use.used for name, use in self.budget.uses().items() if name != "base")
            self._base = max(0, self.reading.pss - named)
            before = self.watch.state
            decision = self.watch.see(self.reading.pressure, self._dealing.visiting_count, self._clock())
            if decision.state != before:
                level = logging.INFO if decision.state == "normal" else logging.WARNING
                logger.log(level, "memory: %s, %.0f %% of the limit", decision.state, 100 * self.reading.pressure)
            await self._act(decision)
            if (now := self._clock()) - trimmed_at >= TRIM_EVERY_S:
                trimmed_at = now
                await self._aside(trim)
            await self._next_reading()

    async def _next_reading(self) -> None:
        """Until it is due. Memory can be taken within a tenth of the time between two."""
        due = self._clock() + EVERY_S
        while (left := due - self._clock()) > 0:
            await asyncio.sleep(min(left, LOOK_EVERY_S))
            if self._meter.is_urgent():
                return

    async def _aside(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    async def _act(self, decision: Decision) -> None:
        self._dealing.limit(Limiter.MEMORY, decision.visits_max)
        if decision.visits_max:
            self._dealing.resume(Pause.MEMORY)
        else:
            self._dealing.pause(Pause.MEMORY)
        if decision.give_back:
            for empty in self._empty:
                empty()
            await self._aside(give_back)
        if self.reading.pressure > OVER:
            self._break_off()
        if decision.give_up:
            self._give_up_visits(decision.give_up)
        if decision.restart_parsers:
            self._restart_parsers()
        if decision.end:
            raise StorageError(ENDED)
