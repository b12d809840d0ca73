"""The queues of the store that forgets: which links of which hosts wait, are due later, or are out.

Invariant: a host stands in the heap once with its present ticket, while links of it wait and none is out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from heapq import heapify, heappop, heappush

from msgspec import field

from crawler.core.model import Link
from crawler.frontier.counters import RETRYING
from crawler.frontier.host_state import HostState
from crawler.frontier.store import PROMOTED_MAX

Item = tuple[int, int, Link, int]
"""Lane, sequence, link, flags: how a link stands in its host's queue."""


class QueuedHost(HostState):
    queue: list[Item] = field(default_factory=list)
    claimed: int = 0
    ticket: int = 0


class Queues:
    """``hosts`` by host key; ``out`` are the links that were claimed, by the keys of their leases."""

    def __init__(self) -> None:
        self.hosts: dict[str, QueuedHost] = {}
        self.out: dict[bytes, Item] = {}
        self._sequence = self._tickets = 0
        self._ready: list[tuple[float, int, str]] = []
        self._due: list[tuple[float, int, int, Link, int]] = []

    def host(self, name: str, now: float) -> QueuedHost:
        host = self.hosts.get(name)
        if host is None:
            host = self.hosts[name] = QueuedHost(now, now)
        return host

    def enter(self, link: Link, lane: int, flags: int) -> None:
        """At the end of a lane. ``offer`` its host afterwards."""
        self._sequence += 1
        heappush(self.hosts[link.host].queue, (lane, self._sequence, link, flags))

    def enter_later(self, at: float, link: Link, flags: int) -> None:
        self._sequence += 1
        heappush(self._due, (at, link.priority, self._sequence, link, flags))

    def leave(self, key: bytes) -> int:
        """A link that is out does not come back; its flags."""
        _, _, link, flags = self.out.pop(key)
        self.hosts[link.host].claimed -= 1
        return flags

    def offer(self, name: str) -> int:
        """Let the host be claimed when it is due; how many links it has."""
        host = self.hosts[name]
        self._tickets += 1
        host.ticket = self._tickets
        if host.queue and not host.claimed:
            heappush(self._ready, (host.ready_at, host.ticket, name))
        if len(self._ready) > 2 * len(self.hosts) + 64:
            self._ready = [entry for entry in self._ready if self.hosts[entry[2]].ticket == entry[1]]
            heapify(self._ready)
        return len(host.queue) + host.claimed

    def claim(self, hosts: int, per_host: int, now: float, low: Mapping[str, int]) -> Iterator[tuple[bytes, Item]]:
        """As ``Store.claim``."""
        self._promote(now)
        for name, links in low.items():
            if name in self.hosts:
                yield from self._take(self.hosts[name], links)
        while hosts > 0 and (first := self._first()) is not None and first[0] <= now:
            heappop(self._ready)
            yield from self._take(self.hosts[first[2]], per_host)
            hosts -= 1

    def _take(self, host: QueuedHost, links: int) -> Iterator[tuple[bytes, Item]]:
        for _ in range(min(links, len(host.queue))):
            item = heappop(host.queue)
            key = item[1].to_bytes(8, "big")
            self.out[key] = item
            host.claimed += 1
            host.ticket = 0
            yield key, item

    def _first(self) -> tuple[float, int, str] | None:
        while self._ready and self.hosts[self._ready[0][2]].ticket != self._ready[0][1]:
            heappop(self._ready)
        return self._ready[0] if self._ready else None

    def _promote(self, now: float) -> None:
        """Links whose time has come stand one lane before their peers."""
        for _ in range(PROMOTED_MAX):
            if not self._due or self._due[0][0] > now:
                break
            _, priority, _, link, flags = heappop(self._due)
            self.enter(link, max(priority - 1, 0), flags | RETRYING)
            self.offer(link.host)

    def give_back(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            if (item := self.out.pop(key, None)) is not None:
                host = self.hosts[item[2].host]
                host.claimed -= 1
                heappush(host.queue, item)
                self.offer(item[2].host)

    def next_due(self) -> float | None:
        first = self._first()
        times = ([first[0]] if first else []) + ([self._due[0][0]] if self._due else [])
        return min(times, default=None)

    def waiting(self) -> set[bytes]:
        """Keys of all links in queues or out."""
        return {item[1].to_bytes(8, "big") for host in self.hosts.values() for item in host.queue} | self.out.keys()
