"""The durable store: an embedded RocksDB, one synced transaction per batch.

Invariants: what ``commit`` returned from survives SIGKILL and power cuts; after a failed write the handle is dropped and the
state on disk is read again. Memory does not grow with the crawl.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from crawler.core.batch import Batch, Prepared
from crawler.core.errors import StorageError
from crawler.core.keys import HOST_BYTES, Share
from crawler.core.model import Known, Lease, Mark, Retry
from crawler.core.urls import host_key, origin
from crawler.frontier.admission import (
    Ask,
    Decided,
    check_settled,
    columns_of,
    decide,
    ended_in,
    is_own_visit,
    is_robots_record,
    is_robots_txt,
)
from crawler.frontier.progress import Tally
from crawler.frontier.recrawl import RecrawlOrder, is_behind
from crawler.frontier.rocksdb.claims import Claims
from crawler.frontier.rocksdb.database import translated
from crawler.frontier.rocksdb.layout import (
    IDENTITY_KEY,
    MARK,
    NO_PAGE,
    POSITION,
    RECRAWL_KEY,
    REVIVED,
    SCHEDULED,
    SUSPECT,
    StoredPage,
    decode_orders,
    decode_page,
    encode,
    file_key,
    pack_time,
)
from crawler.frontier.rocksdb.opening import make_schema, open_database, read_schema
from crawler.frontier.rocksdb.reader import Facts
from crawler.frontier.rocksdb.seen import Seen
from crawler.frontier.rocksdb.transaction import Hosts, Ledger, Transaction
from crawler.frontier.rocksdb.upstream import Upstream, Writes
from crawler.frontier.selection import Selection, Step
from crawler.frontier.store import PROMOTED_MAX, Counts, Limits
from crawler.frontier.suspects import bounded_robots, cleared_robots, robots_key


class RocksStore(Facts):
    """See ``crawler.frontier.store.Store``. A lease's key is its queue key, and in a bundle its place there. ``upstream``: where
    it is a working copy of what is true elsewhere."""

    def __init__(
        self,
        path: Path,
        limits: Limits,
        now: float,
        rest: Callable[[str], float],
        memory_bytes: int,
        share: Share | None,
        upstream: Upstream | None = None,
    ) -> None:
        self._path, self._limits, self._rest, self._share, self._upstream = path, limits, rest, share, upstream
        self._memory_bytes, self._opened_at = memory_bytes, now
        self.removed = 0
        self._open()

    @translated
    def _open(self) -> None:
        share = self._memory_bytes // 12  # nine are for the block cache and write buffers
        database = open_database(self._path, 9 * share)
        try:
            of = self._share
            schema = make_schema(database, read_schema(database), of.secret if of is not None else None)
            if of is not None and schema.secret != of.secret:
                raise StorageError(f"{self._path}: the frontier store is of another crawl", final=True)
            if self._upstream is not None:
                self._upstream.opened(database)
            super().__init__(database, schema.secret, of.group_of if of is not None else None)
            self._state = self.state()
            self._opened_at = max(self._opened_at, self._state.now)
            hosts_max, is_part = share // Hosts.RECORD_BYTES, self._share is not None
            self._ledger = Ledger(database, self._state, hosts_max, self._upstream, is_part=is_part)
            self._seen = Seen(database, 3 * share // 2 // Seen.ENTRY_BYTES)
            self._claims = Claims(
                database, self._ledger.hosts, self._keys_by, self._opened_at, self._rest, share // 2, self._upstream
            )
            self._claims.lowered = {} if self._limits.depth_limited else None
            for key, value in database.scan("meta", SUSPECT):
                self._claims.suspects[key[len(SUSPECT) :]] = int(value)
        except BaseException:
            with suppress(Exception):
                database.close()
            raise

    # -- what is new ----------------------------------------------------------------------------------------------

    @translated
    def prepare(self, batch: Batch) -> Prepared:
        self._database.check_place()
        self._ledger.check()
        columns = columns_of(batch, self._keys_by, self._limits, self._share)
        ended = ended_in(batch, self._keys_by)
        if self._upstream is not None:
            self._upstream.refuse_foreign(ended.keys)
        for settled in batch.settled:
            if settled.lease.key and self._claims.flags(settled.lease) is None:
                raise ValueError(f"not claimed: {settled.lease}")
        ask = Ask(lambda nearer: self._fruitful(nearer, ended.fruitful), self._admitted, self._seen.queries)

        def known_of() -> dict[bytes, int]:
            return self._seen.depths(columns.asked())

        decided = decide(batch, ended, columns, known_of, self._limits, ask, self._keys_by)
        if self._limits.depth_limited:
            self._claims.lowered = decided.judged.depths
        return decided

    def _fruitful(self, keys: Collection[bytes], ended: Mapping[bytes, bool]) -> set[bytes]:
        """Settled in this batch, out now, or settled before."""
        flying = self._claims.flying
        worth = {key for key in keys if ended.get(key, key in flying)}
        return worth | self._seen.fruitful([key for key in keys if key not in ended and key not in flying])

    def _admitted(self, hosts: Collection[bytes]) -> dict[bytes, int]:
        return {key: record.admitted for key, record in self._ledger.hosts.load(hosts).items()}

    # -- making it true -------------------------------------------------------------------------------------------

    @translated
    def commit(self, prepared: Prepared, known: Sequence[Known | None], marks: Mapping[str, Mark]) -> None:
        assert isinstance(prepared, Decided)
        batch = prepared.batch
        check_settled(batch, known)
        rests = {self._keys_by.host(host): host for host in batch.hosts}
        if self._upstream is not None:
            rests = {place: host for place, host in rests.items() if self._decides(place)}
        names = rests | {each.host_key: each.host for each in prepared.admitted}
        names |= {key[:HOST_BYTES]: each.lease.link.host for key, each in zip(prepared.settled, batch.settled, strict=True)}
        tx = Transaction(self._ledger, self._limits.depth_limited, batch.now, names)
        self._settle(tx, prepared, known)
        for host, name in rests.items():
            tx.rest(host, batch.hosts[name])
        for each in prepared.admitted:
            tx.admit(each)
        depths = self._note_depths(tx, prepared)
        self._note_rest(tx, prepared, marks)
        cleared = self._clear(tx, (key for settled in batch.settled if (key := cleared_robots(settled)) is not None))
        if self._upstream is not None:
            self._upstream.enclose(prepared)
        self._write(tx, batch.now, batch.wall, sync=True)
        leases = [settled.lease for settled in batch.settled if settled.lease.key]
        for key in (*cleared, *(lease.key for lease in leases)):
            self._claims.suspects.pop(key, None)
        self._claims.release(leases)
        self._seen.note(depths)
        if self._limits.depth_limited:
            self._claims.lowered = {}

    def _clear(self, tx: Transaction, keys: Iterable[bytes]) -> set[bytes]:
        """Of these visits for robots rules, the suspected ones: they are no more, once ``tx`` is written."""
        suspects = self._claims.suspects
        cleared = {key for key in keys if key in suspects} if suspects else set()
        for key in cleared:
            tx.batch.delete(SUSPECT + key, self._database.handle("meta"))
        return cleared

    def _settle(self, tx: Transaction, prepared: Decided, known: Sequence[Known | None]) -> None:
        recorded: dict[bytes, Known] = {}
        aside: list[tuple[bytes, Known]] = []
        for settled, key, record in zip(prepared.batch.settled, prepared.settled, known, strict=True):
            lease = settled.lease
            if lease.link.kind == "robots":
                if record is not None and is_robots_txt(lease.link):
                    aside.append((key, record))
                record = None
            if lease.key:
                tx.settle(settled, self._claims.flags(lease) or 0, record, key, lease.key in self._claims.suspects)
            if record is not None:
                recorded[key] = record
        for key, record in aside:
            self._settle_robots(tx, key, record, recorded)

    def _settle_robots(self, tx: Transaction, key: bytes, record: Known, recorded: dict[bytes, Known]) -> None:
        before, flags = recorded.get(key), NO_PAGE
        if before is None and (value := self._database.get("page", key)) is not None:
            flags, before = decode_page(value)
        is_known = before is not None or self._database.get("seen", key) is not None
        if not is_robots_record(before, is_known=is_known):
            return
        if before is None:
            tx.know(key, 0)
        else:
            tx.unsettle(before, flags)
            self._ledger.tally.known -= not flags & NO_PAGE
        recorded[key] = record
        tx.record(key, record)

    def _note_depths(self, tx: Transaction, prepared: Decided) -> Mapping[bytes, int]:
        """``seen``: what is new, what was found nearer than before, and what failed for the first time. The depths that it has
        now: not of what was removed after the batch was prepared."""
        depths = prepared.judged.depths
        new = [key for entry in prepared.admitted if not entry.expand for key in entry.keys]
        new += prepared.judged.roles
        tx.know_all(new, depths)
        settled = zip(prepared.settled, prepared.batch.settled, strict=True)
        failed = {key for key, settled in settled if isinstance(settled.outcome, Retry) and is_own_visit(settled.lease.link)}
        nearer = depths.keys() - new if len(new) < len(depths) else set()
        found = self._seen.retrying(failed | nearer)
        for key, (depth, retrying) in found.items():
            tx.know(key, min(depth, depths.get(key, depth)), retrying or key in failed)
        removed = nearer - found.keys()
        return {key: depth for key, depth in depths.items() if key not in removed} if removed else depths

    def _note_rest(self, tx: Transaction, prepared: Decided, marks: Mapping[str, Mark]) -> None:
        batch, put = prepared.batch, tx.batch.put
        host, robots, meta = (self._database.handle(name) for name in ("host", "robots", "meta"))
        for path, count in prepared.judged.queries.items():
            put(path, count.to_bytes(4, "big"), host)
        for of, record in batch.robots.items():
            if self._owns(of):
                put(of.encode(), record, robots)
        for name, mark in {**marks, **batch.retired}.items():
            if mark is None:
                tx.batch.delete(file_key(MARK, name), meta)
            else:
                put(file_key(MARK, name), encode(mark), meta)
        for admitted in batch.admitted:
            if admitted.position is not None and not self._is_message(admitted.position[0]):
                put(file_key(POSITION, admitted.position[0]), admitted.position[1], meta)
        self._ledger.tally.refuse(batch.refused)
        self._ledger.tally.judged(prepared, prepared.forged)
        self._ledger.progress.note(prepared, prepared.admitted)

    def _owns(self, origin: str) -> bool:
        return self._decides(self._keys_by.host(host_key(f"{origin}/")))

    def _decides(self, key: bytes) -> bool:
        return self._share is None or self._share.owner(key) == self._share.own

    def _is_message(self, source: str) -> bool:
        return self._upstream is not None and self._upstream.is_message(source)

    def _write(self, tx: Transaction, now: float, wall: float, *, sync: bool) -> None:
        """The only place where the queues change. What is held in memory follows once the write has succeeded."""
        bundles = tx.shrink(self._claims.bundles_of(tx.left))
        state = tx.finish(now, wall)
        self._ledger.write(tx.batch, sync=sync)
        self._claims.shrunk(bundles)
        self._state, self._ledger.sequence = state, state.sequence
        for host, key in tx.moved:
            self._claims.ready(host, key)
        for key in tx.due_from:
            self._claims.due(key)

    # -- handing out ----------------------------------------------------------------------------------------------

    @translated
    def claim(self, hosts: int, per_host: int, now: float, low: Mapping[str, int]) -> list[Lease]:
        self._ledger.check()
        expired = self._claims.expired(now, PROMOTED_MAX)
        if not self._limits.recrawl:  # what an earlier run has scheduled stays as it is
            expired = [(key, value) for key, value in expired if value[0] != SCHEDULED]
        if expired:
            self._promote(expired, now)
        return self._claims.claim(hosts, per_host, now, low)

    def _promote(self, expired: Sequence[tuple[bytes, bytes]], now: float) -> None:
        """Links and settled URLs whose time has come wait to be visited. Not synced: should the write be lost, they are still in
        ``due``, and expired."""
        tx = Transaction(self._ledger, self._limits.depth_limited, now, {key[8:16]: "" for key, _ in expired})
        scheduled = {key: key[8:16] + value[1:] for key, value in expired if value[0] == SCHEDULED}
        pages = self._seen.pages(set(scheduled.values())) if scheduled else {}
        for key, value in expired:
            if (page_key := scheduled.get(key)) is None:
                tx.promote(key, value)
                continue
            tx.void(key)
            page = pages.get(page_key)
            if page is not None and page.known.due is not None and pack_time(page.known.due) == key[:8]:
                del pages[page_key]  # or it would wait twice
                tx.revive(*page, recrawl_at=page.known.due)
        self._write(tx, self._state.now, self._state.wall, sync=False)

    @translated
    def give_back(self, leases: Sequence[Lease]) -> None:
        self._claims.give_back([lease for lease in leases if lease.key])

    @translated
    def next_due(self) -> float | None:
        return self._claims.next_due()

    @translated
    def revive_some(self, which: Selection, after: bytes = b"") -> Step:
        chosen, rest = self._chosen(which, after)
        if not chosen:
            return Step(0, frozenset(), rest)
        tx = self._transaction(chosen)
        for page in chosen:
            tx.revive(*page)
        cleared = self._clear(tx, (robots_key(origin(page.known.link.url)) for page in chosen))
        self._write(tx, self._state.now, self._state.wall, sync=True)
        for key in cleared:
            self._claims.suspects.pop(key, None)
        return Step(len(chosen), frozenset(page.known.link.host for page in chosen), rest)

    @translated
    def remove_some(self, which: Selection, after: bytes = b"") -> Step:
        chosen, rest = self._chosen(which, after)
        if not chosen:
            return Step(0, frozenset(), rest)
        tx = self._transaction(chosen)
        for page in chosen:
            tx.remove(*page)
        self._write(tx, self._state.now, self._state.wall, sync=True)
        self.removed += sum(not page.flags & NO_PAGE for page in chosen)
        self._seen.forget([page.key for page in chosen])
        return Step(len(chosen), frozenset(page.known.link.host for page in chosen), rest)

    def _chosen(self, which: Selection, after: bytes) -> tuple[list[StoredPage], bytes | None]:
        if which.url is not None:
            pages, last = self._seen.settled(which, b"", self._keys_by.of(host_key(which.url), which.url))
        else:
            pages, last = self._seen.settled(which, after, self._prefix(which))
        return [page for page in pages if self._decides(page.key)], last  # a working copy may have more

    def _prefix(self, which: Selection) -> bytes:
        if which.host is not None:
            return self._keys_by.host(which.host)
        return b"" if which.slot is None else bytes((which.slot,))

    def _transaction(self, chosen: Iterable[StoredPage]) -> Transaction:
        """Between two commits, over these."""
        names = {page.key[:HOST_BYTES]: page.known.link.host for page in chosen}
        return Transaction(self._ledger, self._limits.depth_limited, self._state.now, names)

    @translated
    def order(self, order: RecrawlOrder) -> None:
        tx = self._transaction(())
        if not order.every:
            self._ledger.tally.changes.clear()
        self._put_orders(tx, [*self.orders(), order])
        self._write(tx, self._state.now, self._state.wall, sync=True)

    @translated
    def orders(self) -> list[RecrawlOrder]:
        return decode_orders(self._database.get("meta", RECRAWL_KEY) or encode([]))

    @translated
    def fulfil(self, pages: int) -> int | None:
        if not (orders := self.orders()):
            return None
        order, place = orders[0], orders[0].which.place
        of_host = self._keys_by.host(place) if place is not None else b""
        found, behind = self._seen.slice(max(order.start, of_host), pages)
        if found and not found[-1].key.startswith(of_host):
            found, behind = [page for page in found if page.key.startswith(of_host)], None
        chosen = [page for page in found if not page.flags & REVIVED and order.chooses(page.known) and self._decides(page.key)]
        tx = self._transaction(chosen)
        for page in chosen:
            if order.every:
                tx.schedule(page.key, page.flags, order.scheduled(page.known))
            else:
                tx.revive(*page, recrawl_at=order.at)
        self._put_orders(tx, [*order.rest(behind), *orders[1:]])
        self._write(tx, self._state.now, self._state.wall, sync=False)  # a write that is lost is made again
        return len(chosen)

    def _put_orders(self, tx: Transaction, orders: Sequence[RecrawlOrder]) -> None:
        tx.batch.put(RECRAWL_KEY, encode(orders), self._database.handle("meta"))

    @translated
    def hasten(self, modified: Mapping[str, float]) -> int:
        keys = {self._keys_by.of(host_key(url), url): at for url, at in modified.items()}
        pages = self._seen.pages(keys).values()
        chosen = [page for page in pages if self._decides(page.key) and is_behind(page.known, keys[page.key])]
        if chosen:
            tx = self._transaction(chosen)
            for page in chosen:
                tx.revive(*page, recrawl_at=self._state.now)
            self._write(tx, self._state.now, self._state.wall, sync=False)
        return len(chosen)

    # -- what is known --------------------------------------------------------------------------------------------

    def stats(self) -> Counts:
        return self._state.counts if self._upstream is None else self._upstream.total(self._state.counts)

    def own_counts(self) -> Counts:
        """As ``stats``, of what this store has committed alone."""
        return self._state.counts

    def clock(self) -> float:
        return self._state.now

    def last_commit_wall(self) -> float:
        return self._state.wall

    @translated
    def set_identity(self, identity: bytes) -> None:
        self._put_meta({IDENTITY_KEY: identity})

    def suspects(self) -> dict[bytes, int]:
        return dict(self._claims.suspects)

    @translated
    def set_suspects(self, counts: Mapping[bytes, int]) -> None:
        if self._upstream is not None:
            counts = self._upstream.suspects_held(counts)
        suspects = self._claims.suspects
        robots, forgotten = bounded_robots(suspects, counts)
        kept = {key: counts[key] for key in self._claims.waiting(counts)} | robots
        self._put_meta({SUSPECT + key: str(count).encode() for key, count in kept.items()}, [SUSPECT + key for key in forgotten])
        suspects.update(kept)
        for key in forgotten:
            suspects.pop(key, None)

    def _put_meta(self, values: Mapping[bytes, bytes], deleted: Sequence[bytes] = ()) -> None:
        batch: Writes = self._ledger.new_batch()
        for key in deleted:
            batch.delete(key, self._database.handle("meta"))
        for key, value in values.items():
            batch.put(key, value, self._database.handle("meta"))
        self._ledger.write(batch, sync=True)

    def progress(self, kind: str) -> dict[str, Tally]:
        return self._ledger.progress.of(kind)

    def longest(self, limit: int) -> list[tuple[str, int]]:
        return self._ledger.longest.top(limit)

    def memory_used(self) -> int:
        cached = len(self._seen) * Seen.ENTRY_BYTES + len(self._ledger.hosts) * Hosts.RECORD_BYTES
        cached += self._claims.bundles.memory_bytes
        return self._database.memory_used() + cached

    def shed(self) -> None:
        self._database.shed()

    @translated
    def copy_to(self, path: Path) -> None:
        if self._upstream is not None:
            raise StorageError("a node of a cluster has a working copy: back up the crawl's database instead (pg_dump)")
        self._database.copy_to(path)

    def slots_changed(self, sequence: int, suspects: Mapping[bytes, int], lost: Collection[int]) -> None:
        """Of a working copy: slots were taken over (``suspects`` stand in them), or lost. Nothing remembered of hosts holds."""
        self._seen.clear()
        self._ledger.slots_changed(sequence)
        self._claims.slots_changed(suspects, lost)

    def rewind(self, claimed: Sequence[Lease] = ()) -> None:
        with suppress(Exception):  # it may not be able to flush; what counts is in the log
            self._database.close()
        self._database.check_place()
        if self._upstream is not None:
            self._upstream.rejoin()
        self._open()
        self._hold(claimed)

    @translated
    def _hold(self, claimed: Sequence[Lease]) -> None:
        self._claims.hold([lease for lease in claimed if lease.key])

    @translated
    def close(self) -> None:
        if self._upstream is not None:
            self._upstream.leave()
        self._database.close()
