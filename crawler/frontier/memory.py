"""A store that forgets on exit: for tests and throw-away runs. Same laws as the durable one, nothing on disk.

Its memory grows with the crawl; that is what the durable store is for.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from heapq import heappop, heappush
from pathlib import Path

from crawler.core.batch import Batch, Prepared, Settled
from crawler.core.errors import StorageError
from crawler.core.keys import HOST_BYTES, Keys, Share
from crawler.core.link_block import decode_link
from crawler.core.model import NOT_PAGES, Known, Lease, Link, Mark, Retry
from crawler.core.urls import host_key, origin
from crawler.frontier.admission import (
    Admission,
    Ask,
    Decided,
    check_settled,
    columns_of,
    decide,
    ended_in,
    fruitful,
    is_own_visit,
    is_robots_record,
    is_robots_txt,
)
from crawler.frontier.bundle import values_of
from crawler.frontier.counters import RECORDED, RECRAWL, UNCOUNTED, Counters, Longest, land
from crawler.frontier.memory_queues import Queues
from crawler.frontier.progress import Tallies, Tally
from crawler.frontier.recrawl import RecrawlOrder, is_behind
from crawler.frontier.selection import Selection, Step
from crawler.frontier.store import PROMOTED_MAX, Counts, Limits
from crawler.frontier.suspects import bounded_robots, cleared_robots, robots_key


class MemoryStore:
    """See ``crawler.frontier.store.Store``."""

    def __init__(self, limits: Limits, share: Share | None = None) -> None:
        self._limits, self._share = limits, share
        self._tally = Counters(Counts())
        self._counts = Counts()
        self._longest = Longest()
        self._progress = Tallies()
        self._now = self._wall = 0.0
        self.removed = 0
        self._secret = secrets.randbits(64) if share is None else share.secret
        self._keys_by = Keys(self._secret, share.group_of if share is not None else None)
        self._queues = Queues()
        self._names: dict[bytes, str] = {}  # fingerprint of a host → its key
        # by the key of a URL: its host's fingerprint, then its own
        self._depths: dict[bytes, int] = {}  # every known URL → its least depth
        self._lowered: dict[bytes, int] = {}  # as the batch in preparation found them
        self._flying: Counter[bytes] = Counter()  # URLs that are out, and as how many links
        self._retrying: set[bytes] = set()
        self._pages: dict[bytes, Known] = {}
        self._revived: set[bytes] = set()
        self._queries: dict[bytes, int] = {}
        self._suspects: dict[bytes, int] = {}
        self._robots: dict[str, bytes] = {}
        self._marks: dict[str, Mark] = {}
        self._positions: dict[str, bytes] = {}
        self._identity: bytes | None = None
        self._scheduled: list[tuple[float, bytes]] = []  # a heap: when settled URLs are due again, or were meant to be
        self._orders: list[RecrawlOrder] = []
        self._looked_at: list[bytes] = []
        """Settled URLs as the first order found them."""

    # -- what is new ----------------------------------------------------------------------------------------------

    def prepare(self, batch: Batch) -> Prepared:
        columns = columns_of(batch, self._keys_by, self._limits, self._share)
        ended = ended_in(batch, self._keys_by)
        for settled in batch.settled:
            if settled.lease.key and settled.lease.key not in self._queues.out:
                raise ValueError(f"not claimed: {settled.lease}")

        def known_of() -> dict[bytes, int]:
            return {key: depth for key in columns.asked() if (depth := self._depths.get(key)) is not None}

        def worth(keys: Collection[bytes]) -> set[bytes]:
            return {key for key in keys if ended.fruitful.get(key, key in self._flying or self._was_fruitful(key))}

        ask = Ask(worth, self._admitted, lambda paths: {path: self._queries.get(path, 0) for path in paths})
        decided = decide(batch, ended, columns, known_of, self._limits, ask, self._keys_by)
        self._lowered = decided.judged.depths
        return decided

    def _url_key(self, url: str) -> bytes:
        return self._keys_by.of(host_key(url), url)

    def _was_fruitful(self, key: bytes) -> bool:
        page = self._pages.get(key)
        return page is not None and fruitful(page)

    def _admitted(self, hosts: Collection[bytes]) -> dict[bytes, int]:
        names = {key: self._names[key] for key in hosts if key in self._names}
        return {key: self._queues.hosts[name].admitted for key, name in names.items()}

    # -- making it true -------------------------------------------------------------------------------------------

    def commit(self, prepared: Prepared, known: Sequence[Known | None], marks: Mapping[str, Mark]) -> None:
        assert isinstance(prepared, Decided)
        batch = prepared.batch
        check_settled(batch, known)
        self._note_depths(prepared)
        self._lowered = {}
        for settled, key, record in zip(batch.settled, prepared.settled, known, strict=True):
            if settled.lease.key:
                self._settle(settled, key, record)
        for settled, key, record in zip(batch.settled, prepared.settled, known, strict=True):
            link = settled.lease.link
            if record is not None and link.kind == "robots" and is_robots_txt(link):
                self._settle_robots(key, record)
        for settled in batch.settled:
            self._suspects.pop(cleared_robots(settled) or b"", None)
        for name, rest in batch.hosts.items():
            self._queues.host(name, batch.now).visited(rest, batch.now)
        for admission in prepared.admitted:
            self._admit(admission, batch.now)
        self._queries.update(prepared.judged.queries)
        self._robots.update((origin, record) for origin, record in batch.robots.items() if self._owns(origin))
        for file, mark in {**marks, **batch.retired}.items():
            if mark is None:
                self._marks.pop(file, None)
            else:
                self._marks[file] = mark
        self._positions.update(admitted.position for admitted in batch.admitted if admitted.position)
        self._tally.refuse(batch.refused)
        self._tally.judged(prepared, prepared.forged)
        self._progress.note(prepared, prepared.admitted)
        self._tally.hosts = len(self._queues.hosts)
        self._now, self._wall, self._counts = batch.now, batch.wall, self._tally.freeze()
        self._offer({*batch.hosts, *prepared.fed, *(settled.lease.link.host for settled in batch.settled)})

    def _note_depths(self, prepared: Decided) -> None:
        """Of what is new, or was found nearer; but not of what was removed after the batch was prepared."""
        depths = prepared.judged.depths
        new = {key for entry in prepared.admitted if not entry.expand for key in entry.keys}.union(prepared.judged.roles)
        self._depths.update((key, depth) for key, depth in depths.items() if key in new or key in self._depths)

    def _owns(self, origin: str) -> bool:
        return self._share is None or self._share.owner(self._keys_by.host(host_key(f"{origin}/"))) == self._share.own

    def _settle(self, settled: Settled, key: bytes, record: Known | None) -> None:
        lease, link = settled.lease, settled.lease.link
        self._suspects.pop(lease.key, None)
        if link.kind != "robots":
            land(self._flying, key)
        flags = self._queues.leave(lease.key)
        if isinstance(settled.outcome, Retry):
            self._tally.retry(flags)
            if is_own_visit(link):
                self._retrying.add(key)
            self._queues.enter_later(settled.retry_at, link.retried(), flags)
            return
        self._tally.leave(link, flags)
        if record is not None and is_own_visit(link):
            self._retrying.discard(key)
            self._revived.discard(key)
            self._record(key, record)

    def _settle_robots(self, key: bytes, record: Known) -> None:
        before = self._pages.get(key)
        if not is_robots_record(before, is_known=key in self._depths):
            return
        if before is not None:
            self._tally.settle(before, -1)
        self._depths.setdefault(key, 0)
        self._record(key, record)

    def _record(self, key: bytes, record: Known) -> None:
        self._pages[key] = record
        self._tally.settle(record)
        if record.due is not None:
            heappush(self._scheduled, (record.due, key))

    def _admit(self, admission: Admission, now: float) -> None:
        self._tally.admit(len(admission.keys), is_new_page=admission.is_page and not admission.expand)
        self._names[admission.host_key] = admission.host
        host = self._queues.host(admission.host, now)
        if not admission.expand:
            host.admit(len(admission.keys), admission.is_seed)
        for value in values_of(admission.value):
            flags, link = decode_link(value)
            self._queues.enter(link, admission.priority, flags)

    def _offer(self, names: Collection[str]) -> None:
        for name in names:
            if name in self._queues.hosts:
                self._longest.note(name, self._queues.offer(name))

    # -- handing out ----------------------------------------------------------------------------------------------

    def claim(self, hosts: int, per_host: int, now: float, low: Mapping[str, int]) -> list[Lease]:
        self._fall_due(now)
        return [self._lease(key, link, flags) for key, (_, _, link, flags) in self._queues.claim(hosts, per_host, now, low)]

    def _lease(self, key: bytes, link: Link, flags: int) -> Lease:
        page = self._url_key(link.url)
        if link.kind != "robots":
            self._flying[page] += 1
        depth = self._lowered.get(page, self._depths.get(page, link.depth))
        if self._limits.depth_limited:
            link = link.found_nearer(depth)
        known = self._pages.get(page) if flags & RECORDED and link.kind != "robots" else None
        host = self._queues.hosts[link.host]
        return host.lease(link, key, known, flags, crashes=self._suspects.get(key, 0), earliest=None)

    def give_back(self, leases: Sequence[Lease]) -> None:
        for lease in leases:
            if lease.key in self._queues.out and lease.link.kind != "robots":
                land(self._flying, self._url_key(lease.link.url))
        self._queues.give_back([lease.key for lease in leases])

    def next_due(self) -> float | None:
        times = (self._queues.next_due(), self._scheduled[0][0] if self._scheduled and self._limits.recrawl else None)
        return min((time for time in times if time is not None), default=None)

    def _chosen(self, which: Selection) -> list[Known]:
        settled = (page for key, page in self._pages.items() if key not in self._revived and page.link.kind != "robots")
        return [page for page in settled if which.takes(page)]

    def remove_some(self, which: Selection, after: bytes = b"") -> Step:
        pages, known = self._chosen(which), self._tally.known
        for page in pages:
            key = self._url_key(page.link.url)
            self._tally.settle(page, -1)
            self._progress.undo(page, forgotten=True)
            self._tally.known -= page.link.kind not in NOT_PAGES
            del self._pages[key], self._depths[key]
        self._counts = self._tally.freeze()
        self.removed += known - self._tally.known  # not before: others read both
        return Step(len(pages), frozenset(page.link.host for page in pages))

    def revive_some(self, which: Selection, after: bytes = b"") -> Step:
        pages = self._chosen(which)
        for page in pages:
            self._suspects.pop(robots_key(origin(page.link.url)), None)
        self._revive(pages, None)
        return Step(len(pages), frozenset(page.link.host for page in pages))

    def _revive(self, pages: Sequence[Known], recrawl_at: float | None) -> None:
        """These wait again; to be recrawled, at a host that was given up only if it has not been tried since."""
        for page in pages:
            link = page.link.revived() if recrawl_at is None else page.link.recrawled()
            self._revived.add(self._url_key(link.url))
            self._tally.settle(page, -1)
            self._progress.undo(page, forgotten=False)
            self._tally.waiting += 1
            host = self._queues.host(link.host, self._now)
            if recrawl_at is None or (host.down and host.since < recrawl_at):
                host.revive()
            again = RECORDED if recrawl_at is None else RECORDED | RECRAWL
            self._queues.enter(link, link.priority, again | (UNCOUNTED if link.kind in NOT_PAGES else 0))
        self._offer({page.link.host for page in pages})
        self._counts = self._tally.freeze()

    def _fall_due(self, now: float) -> None:
        """Settled URLs whose time has come wait again."""
        for _ in range(PROMOTED_MAX):
            if not self._limits.recrawl or not self._scheduled or self._scheduled[0][0] > now:
                return
            at, key = heappop(self._scheduled)
            page = self._pages.get(key)
            if page is not None and page.due == at and key not in self._revived:
                self._revive([page], at)

    def order(self, order: RecrawlOrder) -> None:
        if not order.every:
            self._tally.changes.clear()
            self._counts = self._tally.freeze()
        self._orders.append(order)

    def orders(self) -> list[RecrawlOrder]:
        return list(self._orders)

    def fulfil(self, pages: int) -> int | None:
        if not self._orders:
            return None
        order = self._orders.pop(0)
        if not order.start:
            self._looked_at = list(self._pages)
        start = int.from_bytes(order.start, "big")
        keys = self._looked_at[start : start + pages]
        settled = [key for key in keys if key in self._pages and key not in self._revived]  # some may have been removed since
        chosen = [key for key in settled if order.chooses(self._pages[key])]
        if order.every:
            for key in chosen:
                self._pages[key] = page = order.scheduled(self._pages[key])
                self._tally.recrawl += page.link.kind not in NOT_PAGES
                heappush(self._scheduled, (page.due or 0.0, key))
            self._counts = self._tally.freeze()
        else:
            self._revive([self._pages[key] for key in chosen], order.at)
        self._orders[:0] = order.rest((start + pages).to_bytes(8, "big") if len(keys) == pages else None)
        return len(chosen)

    def hasten(self, modified: Mapping[str, float]) -> int:
        keys = {self._url_key(url): at for url, at in modified.items()}
        settled = [key for key in keys if key in self._pages and key not in self._revived]
        chosen = [self._pages[key] for key in settled if is_behind(self._pages[key], keys[key])]
        self._revive(chosen, self._now)
        return len(chosen)

    # -- what is known --------------------------------------------------------------------------------------------

    def stats(self) -> Counts:
        return self._counts

    def own_counts(self) -> Counts:
        return self._counts

    def lookup(self, url: str) -> Known | str | None:
        key = self._url_key(url)
        if (page := self._pages.get(key)) is not None:
            return page
        if key not in self._depths:
            return None
        return "retrying" if key in self._retrying else "waiting"

    def budgets(self, url: str) -> tuple[int, int]:
        path = self._keys_by.of(host_key(url), url.partition("?")[0])
        return self._admitted([path[:HOST_BYTES]]).get(path[:HOST_BYTES], 0), self._queries.get(path, 0)

    def robots(self, origins: Sequence[str]) -> list[bytes | None]:
        return [self._robots.get(origin) for origin in origins]

    def marks(self, folder: str = "") -> dict[str, Mark]:
        return {file: mark for file, mark in self._marks.items() if file.startswith(folder)}

    def positions(self, begins: str = "") -> dict[str, bytes]:
        return {source: position for source, position in self._positions.items() if source.startswith(begins)}

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
        robots, forgotten = bounded_robots(self._suspects, counts)
        self._suspects.update((key, count) for key, count in counts.items() if key in waiting)
        self._suspects.update(robots)
        for key in forgotten:
            self._suspects.pop(key, None)

    def progress(self, kind: str) -> dict[str, Tally]:
        return self._progress.of(kind)

    def longest(self, limit: int) -> list[tuple[str, int]]:
        return self._longest.top(limit)

    def memory_used(self) -> int:
        return 0

    def shed(self) -> None:
        """It has no cache: all it holds is the only copy."""

    def copy_to(self, path: Path) -> None:
        raise StorageError("a crawl whose store is in memory cannot be copied", final=True)

    def rewind(self, claimed: Sequence[Lease] = ()) -> None:
        kept = {lease.key for lease in claimed}
        self._queues.give_back([key for key in self._queues.out if key not in kept])
        self._flying = Counter(self._url_key(item[2].url) for item in self._queues.out.values() if item[2].kind != "robots")
        self._lowered = {}

    def close(self) -> None:
        """Nothing to let go."""
