"""A store that forgets on exit: for tests and throw-away runs. Same laws as the durable one, nothing on disk.

Its memory grows with the crawl; that is what the durable store is for.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from msgspec.structs import replace

from crawler.core.model import Known, Lease, Link, Mark, Retry
from crawler.core.urls import host_key
from crawler.frontier.admission import FRUITFUL, Ask, Judged, check_settled, fruitful, is_aside, is_robots_txt, judge, links_of
from crawler.frontier.counters import RECORDED, RULE_OF, Longest, Tally, land
from crawler.frontier.memory_queues import Queues
from crawler.frontier.store import CRASHES_MAX, EXPAND, NEW, Batch, Counts, Limits, Prepared, Settled


class _Prepared(Prepared):
    judged: Judged[str]


class MemoryStore:
    """See ``crawler.frontier.store.Store``."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._tally = Tally(Counts())
        self._counts = Counts()
        self._longest = Longest()
        self._now = self._wall = 0.0
        self._secret = secrets.randbits(64)
        self._queues = Queues()
        self._depths: dict[str, int] = {}  # every known URL → its least depth
        self._lowered: dict[str, int] = {}  # as the batch in preparation found them
        self._flying: Counter[str] = Counter()  # URLs that are out, and as how many links
        self._retrying: set[str] = set()
        self._pages: dict[str, Known] = {}
        self._revived: set[str] = set()
        self._queries: dict[str, int] = {}
        self._suspects: dict[bytes, int] = {}
        self._robots: dict[str, bytes] = {}
        self._marks: dict[str, Mark] = {}
        self._positions: dict[str, bytes] = {}
        self._identity: bytes | None = None

    # -- what is new ----------------------------------------------------------------------------------------------

    def prepare(self, batch: Batch) -> Prepared:
        links = links_of(batch)
        urls = [link.url for link in links]
        known = {url: depth for url in urls if (depth := self._depths.get(url)) is not None}
        ended: dict[str, bool] = {}
        for settled in batch.settled:
            url = settled.lease.link.url
            if not is_aside(settled.lease.link):
                ended[url] = fruitful(settled.outcome)
            elif is_robots_txt(settled.lease.link):
                known.setdefault(url, 0)
            if settled.lease.key and settled.lease.key not in self._queues.out:
                raise ValueError(f"not claimed: {settled.lease}")

        def worth(urls: Collection[str]) -> set[str]:
            return {url for url in urls if ended.get(url, url in self._flying or self._was_fruitful(url))}

        ask = Ask(worth, self._admitted, lambda paths: {path: self._queries.get(path, 0) for path in paths})
        judged = judge(links, urls, known, self._limits, ask)
        self._lowered = judged.depths
        return _Prepared(batch, judged.fresh, judged)

    def _was_fruitful(self, url: str) -> bool:
        page = self._pages.get(url)
        return page is not None and page.outcome in FRUITFUL

    def _admitted(self, hosts: Collection[str]) -> dict[str, int]:
        return {host: self._queues.hosts[host].admitted for host in hosts if host in self._queues.hosts}

    # -- making it true -------------------------------------------------------------------------------------------

    def commit(self, prepared: Prepared, known: Sequence[Known | None], marks: Mapping[str, Mark]) -> None:
        assert isinstance(prepared, _Prepared)
        batch = prepared.batch
        check_settled(batch, known)
        self._depths.update(prepared.judged.depths)
        self._lowered = {}
        for settled, record in zip(batch.settled, known, strict=True):
            if settled.lease.key:
                self._settle(settled, record)
        for settled, record in zip(batch.settled, known, strict=True):
            link = settled.lease.link
            if record is not None and is_aside(link) and is_robots_txt(link):
                self._settle_aside(link.url, record)
        for name, rest in batch.hosts.items():
            self._queues.host(name, batch.now).rest(rest, batch.now)
        for link, verdict in zip(links_of(batch), prepared.fresh, strict=True):
            if verdict in (NEW, EXPAND):
                self._admit(link, verdict == EXPAND, batch.now)
            elif verdict in RULE_OF:
                self._tally.refuse({RULE_OF[verdict]: 1})
        self._queries.update(prepared.judged.queries)
        self._robots.update(batch.robots)
        self._marks.update(marks)
        for file, mark in batch.retired.items():
            if mark is None:
                self._marks.pop(file, None)
            else:
                self._marks[file] = mark
        self._positions.update(admitted.position for admitted in batch.admitted if admitted.position)
        self._tally.refuse(batch.refused)
        self._tally.listed(prepared)
        self._tally.hosts = len(self._queues.hosts)
        self._now, self._wall, self._counts = batch.now, batch.wall, self._tally.freeze()
        self._offer({*batch.hosts, *(link.host for link in links_of(batch)), *(s.lease.link.host for s in batch.settled)})

    def _settle(self, settled: Settled, record: Known | None) -> None:
        lease, link = settled.lease, settled.lease.link
        self._suspects.pop(lease.key, None)
        if not is_aside(link):
            land(self._flying, link.url)
        flags = self._queues.leave(lease.key)
        if isinstance(settled.outcome, Retry):
            self._tally.retry(flags)
            if not is_aside(link):
                self._retrying.add(link.url)
            self._queues.enter_later(settled.retry_at, link.again(), flags)
            return
        self._tally.leave(flags)
        if record is not None and link.kind != "expand" and not is_aside(link):
            self._retrying.discard(link.url)
            self._revived.discard(link.url)
            self._record(link.url, record)

    def _settle_aside(self, url: str, record: Known) -> None:
        """A robots.txt: settled, unless it was, or is to be, visited as a page."""
        before = self._pages.get(url)
        if url not in self._depths:
            self._depths[url] = 0
            self._tally.known += 1
        elif before is not None and before.link.kind == "robots":
            self._tally.settle(before, -1)
        else:
            return
        self._record(url, record)

    def _record(self, url: str, record: Known) -> None:
        self._pages[url] = record
        self._tally.settle(record)

    def _admit(self, link: Link, expand: bool, now: float) -> None:
        self._tally.admit(expand)
        host = self._queues.host(link.host, now)
        if not expand:
            host.admit(link, now)
        elif not is_aside(link):
            link = replace(link, kind="expand")
        self._queues.enter(link, link.priority, RECORDED if expand else 0)

    def _offer(self, names: Collection[str]) -> None:
        for name in names:
            if name in self._queues.hosts:
                self._longest.note(name, self._queues.offer(name))

    # -- handing out ----------------------------------------------------------------------------------------------

    def claim(self, hosts: int, per_host: int, now: float, hungry: Mapping[str, int]) -> list[Lease]:
        return [self._lease(key, link, flags) for key, (_, _, link, flags) in self._queues.claim(hosts, per_host, now, hungry)]

    def _lease(self, key: bytes, link: Link, flags: int) -> Lease:
        host = self._queues.hosts[link.host]
        if not is_aside(link):
            self._flying[link.url] += 1
        depth = self._lowered.get(link.url, self._depths.get(link.url, link.depth))
        if self._limits.depth_limited and depth < link.depth:
            link = replace(link, depth=depth)
        down = host.down
        crashes = self._suspects.get(key, 0)
        if crashes:
            link = replace(link, attempt=link.attempt + crashes)
            down = down or (("skipped", "crashed") if crashes >= CRASHES_MAX else None)
        known = self._pages.get(link.url) if flags & RECORDED and not is_aside(link) else None
        return Lease(link, key, 0.0 if host.down else host.due, crashes > 0, down, known, host.failures, host.busy)

    def give_back(self, leases: Sequence[Lease]) -> None:
        for lease in leases:
            if lease.key in self._queues.out and not is_aside(lease.link):
                land(self._flying, lease.link.url)
        self._queues.give_back([lease.key for lease in leases])

    def next_due(self) -> float | None:
        return self._queues.next_due()

    def revive(self, outcomes: frozenset[str]) -> int:
        pages = [page for url, page in self._pages.items() if page.outcome in outcomes and url not in self._revived]
        pages = [page for page in pages if page.link.kind != "robots"]
        for page in pages:
            link = page.link.anew()
            self._revived.add(link.url)
            self._tally.settle(page, -1)
            self._tally.waiting += 1
            host = self._queues.host(link.host, self._now)
            host.down, host.failures = None, 0
            self._queues.enter(link, link.priority, RECORDED)
        self._offer({page.link.host for page in pages})
        self._counts = self._tally.freeze()
        return len(pages)

    # -- what is known --------------------------------------------------------------------------------------------

    def stats(self) -> Counts:
        return self._counts

    def lookup(self, url: str) -> Known | str | None:
        if (page := self._pages.get(url)) is not None:
            return page
        if url not in self._depths:
            return None
        return "retrying" if url in self._retrying else "waiting"

    def budgets(self, url: str) -> tuple[int, int]:
        host = host_key(url)
        return self._admitted([host]).get(host, 0), self._queries.get(url.partition("?")[0], 0)

    def robots(self, origins: Sequence[str]) -> list[bytes | None]:
        return [self._robots.get(origin) for origin in origins]

    def marks(self) -> dict[str, Mark]:
        return dict(self._marks)

    def positions(self) -> dict[str, bytes]:
        return dict(self._positions)

    def clock(self) -> float:
        return self._now

    def last_commit_wall(self) -> float:
        return self._wall

    def secret(self) -> int:
        return self._secret

    def identity(self) -> bytes | None:
        return self._identity

    def set_identity(self, identity: bytes) -> None:
        self._identity = identity

    def suspects(self) -> dict[bytes, int]:
        return dict(self._suspects)

    def set_suspects(self, counts: Mapping[bytes, int]) -> None:
        waiting = self._queues.waiting()
        self._suspects.update((key, count) for key, count in counts.items() if key in waiting)

    def longest(self, limit: int) -> list[tuple[str, int]]:
        return self._longest.top(limit)

    def memory_used(self) -> int:
        return 0

    def shed(self) -> None:
        """It has no cache: all it holds is the only copy."""

    def rewind(self, claimed: Sequence[Lease] = ()) -> None:
        kept = {lease.key for lease in claimed}
        self._queues.give_back([key for key in self._queues.out if key not in kept])
        self._flying = Counter(item[2].url for item in self._queues.out.values() if not is_aside(item[2]))
        self._lowered = {}

    def close(self) -> None:
        """Nothing to let go."""
