"""What the bench is short of, and one trip to the engine thread that gets it all: new hosts, more links for hosts that run low,
leases given back, robots records.

Invariants: the bench never holds more than ``links_max`` links. A host that has nothing more in the store is not asked for again
until something is admitted for it. Robots records are read for as many hosts as can be dealt now: those of all that wait
would not fit into memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import islice
from random import random
from typing import Final

from msgspec import Struct

from crawler.core.errors import StorageError
from crawler.core.model import Lease, Link
from crawler.core.urls import origin
from crawler.frontier.bench_host import HOST_SIZE
from crawler.frontier.committer import Committer
from crawler.frontier.store import Store
from crawler.frontier.suspects import robots_key
from crawler.frontier.workbench import Workbench

CLAIM_HOSTS_MAX: Final = 256
CLAIM_LINKS_PER_HOST: Final = 4
PLACE_SIZE: Final = CLAIM_LINKS_PER_HOST + HOST_SIZE
"""The room that a host takes which comes onto the bench."""
CLAIM_LINKS_DOWN: Final = 1000
"""In one trip, of all hosts together whose links are wanted to be settled unfetched; but one of each at least."""
SHARE_LINKS_MAX: Final = 256
"""Most links one host may have on the bench."""
RULES_PER_TRIP_MAX: Final = 16
"""A giant robots.txt makes a record of some hundred KiB."""
SIFTED_HOSTS: Final = 2
SIFTED_LINKS: Final = 500
"""So many hosts at a time are asked for so many of their next links, to settle those that are wanted no more."""
SIFTED_HOSTS_MAX: Final = 1024
"""Hosts remembered to be asked so. Any other is come upon again when it is due."""
ABSENT_MAX: Final = 64
"""Hosts that had nothing more in the store, and have left the bench unvisited, or never came onto it: about so many at most are
remembered."""
REFILL_EVERY_S: Final = 1.0
REFILL_S_MIN: Final = 0.005


Refuses = Callable[[Link], tuple[str, str] | None]


class Got(Struct, frozen=True):
    """What a trip brought: leases, and for each host that waits for robots rules a link of it and the record kept."""

    leases: list[Lease]
    records: list[tuple[Link, bytes | None, int]]
    """(link, record, how often the visit for these rules has ended the process)"""
    emptied: set[str]
    """Hosts whose links were wanted to be settled unfetched."""
    sifted: set[str]
    """Hosts whose next links were wanted to settle the excluded ones among them."""
    excluded: dict[bytes, tuple[str, str]]
    """(outcome, reason) of those leases, by key, whose link is wanted no more."""


class Refill:
    """``get`` makes the trips; all else notes what the next one is for. ``clock()`` is crawl-clock time."""

    def __init__(self, store: Store, committer: Committer, bench: Workbench, clock: Callable[[], float], links_max: int) -> None:
        self._store, self._committer, self._bench = store, committer, bench
        self._clock = clock
        self._links_max = links_max
        self._low: dict[str, int] = {}  # host → links it should be given
        self.emptying: set[str] = set()
        """Of the hosts in ``_low``, those whose links are wanted to be settled unfetched."""
        self._sifting: dict[str, None] = {}  # hosts among whose next links some are excluded
        self._exhausted: set[str] = set()  # hosts on the bench with nothing more in the store
        self._robots_wanted: dict[str, Link] = {}  # host → a link whose origin's robots rules are wanted
        self._robots_queued: set[str] = set()  # hosts with a robots link in the store
        self._returned: list[Lease] = []
        self._due: float | None = 0.0  # unknown until the first trip
        self._store_has_more = False
        self.others_wait = False
        """The last trip left hosts that are due in the store for want of room."""
        self._kept = 0  # room for so many links is kept for hosts that are not on the bench
        self._epoch = 0
        self.wanted = asyncio.Event()

    def dealt(self, lease: Lease) -> None:
        """Its host may run low, and so may the bench. Behind a robots link that stood in its queue there may be another."""
        host = lease.link.host
        if lease.key and lease.link.kind == "robots":
            self.robots_queued((host,))
        if host not in self._exhausted and (more := self._bench.shortage(host, SHARE_LINKS_MAX)):
            self._low[host] = more
            self.wanted.set()
        if self._store_has_more and self._bench.weight * 2 < self._links_max:
            self.wanted.set()

    def given_up(self, host: str) -> None:
        """All that still waits for this host is wanted, to be settled unfetched."""
        self._low[host] = CLAIM_LINKS_DOWN
        self.emptying.add(host)
        self.wanted.set()

    def sift(self, host: str) -> None:
        """A link of this host is wanted no more, and so may its next ones be: they are wanted, to be settled unfetched."""
        self._exhausted.discard(host)
        if len(self._sifting) < SIFTED_HOSTS_MAX:
            self._sifting[host] = None
            self.wanted.set()

    def want_robots(self, link: Link) -> None:
        """The robots rules of this link's origin are wanted."""
        self._robots_wanted[link.host] = link
        self.wanted.set()

    def rules_missed(self) -> None:
        """Nothing could be dealt: perhaps for want of rules."""
        if self._robots_wanted:
            self.wanted.set()

    def robots_queued(self, hosts: Collection[str]) -> None:
        """A robots link stands first in the queue of each of these hosts. It is wanted however full the bench is: that may be
        full of links that wait for it."""
        if hosts:
            self._robots_queued.update(hosts)
            self.wanted.set()

    def give_back(self, lease: Lease) -> None:
        self._returned.append(lease)
        self._exhausted.discard(lease.link.host)
        if lease.link.kind == "robots":
            self._robots_queued.add(lease.link.host)
        self.wanted.set()

    def make_way(self, leases: Sequence[Lease]) -> None:
        """Leases that have left the bench for hosts that are not on it: hosts that are would take that room as well."""
        hosts = {lease.link.host for lease in leases}
        self._kept += len(leases) + HOST_SIZE * len(hosts)
        for host in hosts - self.emptying:
            self._low.pop(host, None)

    def committed(self, hosts: Iterable[str], fed: Iterable[str]) -> None:
        """After a commit: hosts that may have left the bench, and hosts that links were admitted for."""
        for host in hosts:
            if host not in self._bench:
                self._exhausted.discard(host)
        if self._exhausted:
            self._exhausted.difference_update(fed)
        if len(self._exhausted) > 2 * len(self._bench) + ABSENT_MAX:
            self._exhausted = {host for host in self._exhausted if host in self._bench}
        self.wanted.set()

    def rewound(self) -> None:
        """The store has forgotten its claims: whatever is under way is void."""
        self._epoch += 1
        self._returned.clear()
        self._exhausted.clear()
        self.wanted.set()

    def restocked(self) -> None:
        """The store may have more of any host."""
        self._exhausted.clear()
        self.wanted.set()

    @property
    def has_room(self) -> bool:
        """Whether another host may come onto the bench."""
        return self._links_max - self._bench.weight >= PLACE_SIZE

    def is_behind(self) -> bool:
        """Whether the last trip left something in the store that is due."""
        return self._due is not None and self._due <= self._clock()

    async def wait(self, *, in_vain: bool = False) -> None:
        """Until something is wanted, or the store may have more than last time. ``in_vain``: no trip is made just now."""
        due = None if in_vain else self._due
        seconds = REFILL_EVERY_S if due is None else min(REFILL_EVERY_S, max(REFILL_S_MIN, due - self._clock()))
        try:
            async with asyncio.timeout(seconds):
                await self.wanted.wait()
        except TimeoutError:
            pass
        self.wanted.clear()

    async def get(self, rules_max: int, refuses: Refuses | None = None) -> Got | None:
        """One trip, with the robots records of so many hosts; None if the store was rewound meanwhile. ``refuses(link)`` tells
        (outcome, reason) of one that is wanted no more. Raises StorageError."""
        # 1. what is wanted, all of it or as much as one trip brings
        epoch = self._epoch
        low, self._low = self._low, {}
        emptied, self.emptying = self.emptying, set()
        sifted = set(islice(self._sifting, SIFTED_HOSTS))
        for host in sifted:
            del self._sifting[host]
        returned, self._returned = self._returned, []
        robots_wanted = {
            host: self._robots_wanted.pop(host) for host in list(islice(self._robots_wanted, min(rules_max, RULES_PER_TRIP_MAX)))
        }
        robots_queued, self._robots_queued = self._robots_queued, set()
        # 2. the links each host is given, within the room there is
        others = min(CLAIM_HOSTS_MAX, self._kept // PLACE_SIZE)
        self._kept -= others * PLACE_SIZE
        room = self._links_max - self._bench.weight - others * PLACE_SIZE
        down = max(1, CLAIM_LINKS_DOWN // max(1, len(emptied)))
        low.update(dict.fromkeys(emptied, down))
        visited = [host for host in low if host not in emptied]
        room -= len(visited)  # one link for each, before one of them is given more
        for host in visited:
            more = max(0, min(low[host] - 1, room))
            low[host] = 1 + more
            room -= more
        low.update((host, SIFTED_LINKS) for host in sifted - emptied)
        for host in robots_queued:
            low.setdefault(host, 1)
        hosts = min(CLAIM_HOSTS_MAX, others + max(0, room // PLACE_SIZE))
        # 3. the trip; what it did not bring is wanted as before
        origins = [origin(link.url) for link in robots_wanted.values()]
        try:
            leases, excluded, records, crashes = await self._committer.on_engine(
                self._trip, hosts, low, returned, origins, refuses
            )
        except StorageError:
            self._want_again(robots_wanted, robots_queued, emptied, sifted)
            raise
        if epoch != self._epoch:
            self._want_again(robots_wanted, robots_queued, emptied, sifted)
            return None
        if any(lease.suspect for lease in leases):
            _shuffle_hosts(leases)
        asked = {host: more for host, more in low.items() if host not in emptied and host not in sifted}
        self._learn(leases, asked, hosts)
        return Got(leases, list(zip(robots_wanted.values(), records, crashes, strict=True)), emptied, sifted, excluded)

    def _want_again(
        self, robots_wanted: dict[str, Link], robots_queued: set[str], emptied: Iterable[str], sifted: Iterable[str]
    ) -> None:
        """The trip for these brought nothing. Other leases come again by themselves, once the store is rewound."""
        self._robots_wanted = robots_wanted | self._robots_wanted
        self._robots_queued |= robots_queued
        for host in emptied:
            self.given_up(host)
        for host in sifted:
            self.sift(host)
        self.wanted.set()

    def _trip(
        self, hosts: int, low: dict[str, int], returned: list[Lease], origins: list[str], refuses: Refuses | None
    ) -> tuple[list[Lease], dict[bytes, tuple[str, str]], list[bytes | None], list[int]]:
        """In the engine thread: a thousand links, each judged by every expression, would keep the loop from all else."""
        self._store.give_back(returned)
        now = self._clock()
        leases = self._store.claim(hosts, CLAIM_LINKS_PER_HOST, now, low)
        due = self._store.next_due()
        self._due = due if hosts else None  # a full bench says itself when it has room
        self.others_wait = hosts < CLAIM_HOSTS_MAX and due is not None and due <= now
        excluded = {lease.key: why for lease in leases if (why := refuses(lease.link))} if refuses is not None else {}
        if not origins:
            return leases, excluded, [], []
        suspects = self._store.suspects()
        return leases, excluded, self._store.robots(origins), [suspects.get(robots_key(of), 0) for of in origins]

    def _learn(self, leases: list[Lease], low: dict[str, int], hosts: int) -> None:
        got: dict[str, int] = {}
        for lease in leases:
            got[lease.link.host] = got.get(lease.link.host, 0) + 1
        self._exhausted.update(host for host, n in got.items() if n < low.get(host, CLAIM_LINKS_PER_HOST))
        self._exhausted.update(host for host in low if host not in got and host in self._bench)
        self._store_has_more = len(got.keys() - low.keys()) >= hosts
        if self._store_has_more and (self._bench.weight + len(leases)) * 2 < self._links_max:
            self.wanted.set()


def _shuffle_hosts(leases: list[Lease]) -> None:
    """Suspects come in another order after each start, so that it is not always the same one that is out at a kill."""
    order = {lease.link.host: random() for lease in leases}  # noqa: S311 - nothing secret
    leases.sort(key=lambda lease: order[lease.link.host])
