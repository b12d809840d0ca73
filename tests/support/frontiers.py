"""A frontier over a store in memory, with a clock that only the test moves."""

from __future__ import annotations

from crawler.core.model import Lease, Link
from crawler.core.urls import host_key
from crawler.frontier.frontier import Frontier
from crawler.frontier.memory import MemoryStore
from crawler.frontier.pump import Pump
from crawler.frontier.store import Limits
from crawler.frontier.workbench import Workbench
from crawler.policy.politeness import Rests


class Time:
    """``sleep`` passes at once, and is remembered."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class NoFiles:
    """A journal that keeps nothing."""

    def write(self, prepared):
        return [], {}

    def committed(self) -> None: ...

    def rewind(self, marks) -> None: ...


def frontier(time: Time) -> Frontier:
    return Pump(
        MemoryStore(Limits()),
        Workbench(lambda host: 10),
        Rests(lambda host: 0.0, lambda: 0.5, backoff_max_s=1.0, host_failures=8),
        NoFiles(),
        clock=time,
        wall=time,
        links_max=100,
    ).frontier


def lease(url: str) -> Lease:
    """As claimed: it stands in no queue."""
    return Lease(Link(url, host_key(url)), b"")
