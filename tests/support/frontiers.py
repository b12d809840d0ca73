"""A frontier over a store in memory, with a clock that only the test moves."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from crawler.config import Config
from crawler.core.batch import Admitted
from crawler.core.model import Lease, Link
from crawler.core.urls import host_key
from crawler.frontier.frontier import Frontier
from crawler.frontier.handed import Exclusion as Excludes
from crawler.frontier.handed import Handed, LinksRoom
from crawler.frontier.memory import MemoryStore
from crawler.frontier.pump import Pump
from crawler.frontier.store import Limits
from crawler.frontier.workbench import Workbench
from crawler.policy.exclusion import Exclusion
from crawler.policy.politeness import Politeness
from crawler.resources.memory_budget import Account, Reservation


class Hosts(Struct, frozen=True):
    """The same settings for every host."""

    delay_s: float = 0.0
    factor: float = 0.0

    def delay(self, host: str) -> float:
        return self.delay_s


def politeness(
    delay_s: float = 0.0,
    *,
    jitter: Callable[[], float] = lambda: 0.5,
    backoff_max_s: float = 1.0,
    host_failures: int = 8,
    factor: float = 0.0,
    crawl_delay_s: float = 0.0,
) -> Politeness:
    return Politeness(
        Hosts(delay_s, factor), lambda link: crawl_delay_s, jitter, backoff_max_s=backoff_max_s, host_failures=host_failures
    )


class Unbounded:
    """Room for whatever is admitted."""

    async def links(self, admitted: Admitted) -> Reservation:
        return Reservation(Account("links", 0), 0)


def handed(rests: Politeness | None = None, links_room: LinksRoom | None = None, exclusion: Excludes | None = None) -> Handed:
    """Without robots.txt; nothing is excluded by default."""
    nothing = Exclusion(Config(), (), lambda origin: False)
    return Handed(rests or politeness(), None, exclusion or nothing, links_room or Unbounded())


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
        handed(),
        NoFiles(),
        clock=time,
        wall=time,
        links_max=100,
    ).frontier


def lease(url: str) -> Lease:
    """As claimed: it stands in no queue."""
    return Lease(Link(url, host_key(url)), b"")
