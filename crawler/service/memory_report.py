"""Where the memory is: accounts, tasks by coroutine, and the lines of code that allocated most. Costs nothing until asked.

It reads the running process, and changes nothing that the crawl does.
"""

from __future__ import annotations

import asyncio
import sys
import tracemalloc
from collections import Counter
from typing import Final

from crawler.crawl import Readings

TOP: Final = 25
TASKS_MAX: Final = 50
_MIB: Final = 1 << 20
_tracing: Final[set[object]] = set()
"""The reports that trace just now: the last of them ends what the first began."""


async def memory_report(readings: Readings, *, trace_s: float = 0.0) -> str:
    """Text for a person. With ``trace_s`` allocations are traced for so long, which slows the crawl meanwhile; without it
    they are listed only if tracing is on anyway (PYTHONTRACEMALLOC=1)."""
    lines = [*_accounts(readings), "", *_tasks(), ""]
    own = object()
    if trace_s > 0 and (_tracing or not tracemalloc.is_tracing()):
        tracemalloc.start()
        _tracing.add(own)
    try:
        await asyncio.sleep(trace_s)
        lines += await asyncio.to_thread(_allocations)
    finally:
        if own in _tracing:
            _tracing.remove(own)
            if not _tracing:
                tracemalloc.stop()
    return "\n".join(lines) + "\n"


def _accounts(readings: Readings) -> list[str]:
    lines = [f"memory: {readings.memory_rss / _MIB:.1f} of {readings.memory_limit / _MIB:.1f} MiB, {readings.memory_state}"]
    if readings.accounts:
        lines.append(f"{'account':<16} {'used MiB':>10} {'of MiB':>10} {'waits':>8}")
    for name, account in readings.accounts.items():
        lines.append(f"{name:<16} {account.used / _MIB:>10.2f} {account.budget / _MIB:>10.2f} {account.waits:>8}")
    lines.append(f"blocks allocated by Python: {sys.getallocatedblocks():,}")
    return lines


def _tasks() -> list[str]:
    """The tasks by coroutine; how many of each."""
    tasks = Counter(getattr(task.get_coro(), "__qualname__", "?") for task in asyncio.all_tasks())
    lines = [f"tasks: {sum(tasks.values())}"]
    return lines + [f"{count:>6} {name}" for name, count in tasks.most_common(TASKS_MAX)]


def _allocations() -> list[str]:
    if not tracemalloc.is_tracing():
        return ["allocations: not traced (ask with ?seconds=10, or start with PYTHONTRACEMALLOC=1)"]
    statistics = tracemalloc.take_snapshot().statistics("lineno")
    lines = [f"allocations: {sum(one.size for one in statistics) / _MIB:.2f} MiB in {len(statistics)} lines of code; most in"]
    return lines + [f"{one.size / 1024:>10.1f} KiB {one.count:>8}  {one.traceback}" for one in statistics[:TOP]]
