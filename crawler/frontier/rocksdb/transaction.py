"""The writes of one commit, collected in one batch over all column families and written at once.

Invariant: host records, ready entries and counters change in the same batch as the links they count.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from msgspec.structs import replace
from rocksdict import WriteBatch

from crawler.core.batch import HostRest, Settled
from crawler.core.errors import RemoteError, StorageError
from crawler.core.keys import HOST_BYTES
from crawler.core.link_block import encode_link
from crawler.core.model import EXPANDED, NOT_PAGES, PRIORITY_DEFAULT, VALIDATORS_CHARS_MAX, Known, Retry
from crawler.frontier.admission import Admission
from crawler.frontier.bundle import Bundle, encode_bundle
from crawler.frontier.cache import GenerationCache
from crawler.frontier.counters import RECORDED, RECRAWL, RETRYING, UNCOUNTED, Counters, Longest
from crawler.frontier.progress import Tallies
from crawler.frontier.rocksdb.database import Database
from crawler.frontier.rocksdb.layout import (
    NO_PAGE,
    PROGRESS,
    QUEUE_KEY_BYTES,
    REVIVED,
    SCHEDULED,
    STATE_KEY,
    SUSPECT,
    HostRecord,
    StoreState,
    decode_host,
    decode_tally,
    encode,
    encode_page,
    encode_seen,
    file_key,
    file_name,
    pack_time,
    queue_key,
)
from crawler.frontier.rocksdb.upstream import Recorded, Upstream, Writes


class Hosts:
    """Host records, with a bounded cache in front. A record handed out may be changed by whoever writes it back."""

    RECORD_BYTES: Final = 512
    """Roughly what one takes in memory."""

    def __init__(self, database: Database, records_max: int) -> None:
        self._database = database
        self._recent: GenerationCache[bytes, HostRecord] = GenerationCache(records_max // 2)

    def __len__(self) -> int:
        return len(self._recent)

    def load(self, hosts: Iterable[bytes]) -> dict[bytes, HostRecord]:
        """The records of these hosts, as far as there are any."""
        records: dict[bytes, HostRecord] = {}
        missing = []
        for host in hosts:
            if (record := self._recent.get(host)) is not None:
                records[host] = record
            else:
                missing.append(host)
        for host, value in self._database.found("host", missing) if missing else ():
            records[host] = self._recent[host] = decode_host(value)
        return records

    def keep(self, host: bytes, record: HostRecord) -> None:
        self._recent[host] = record

    def forget(self) -> None:
        """Forget all: others may have changed what is stored."""
        self._recent.clear()


class Ledger:
    """What transactions change one after the other: the open database and what is held of it in memory.

    Invariant: after a transaction that was begun and not written nothing more is read from here, or written, until the database
    is opened anew: what is held in memory is not what was written."""

    def __init__(
        self, database: Database, state: StoreState, hosts_max: int, upstream: Upstream | None = None, *, is_part: bool
    ) -> None:
        self.database, self._upstream = database, upstream
        self.hosts = Hosts(database, hosts_max)
        self.tally = Counters(state.counts)
        self.longest = Longest()
        self.progress = Tallies(
            {file_name(PROGRESS, key): decode_tally(value) for key, value in database.scan("meta", PROGRESS)},
            is_part=is_part,
        )
        self.sequence = state.sequence if upstream is None else max(state.sequence, upstream.sequence)
        self._is_begun = False

    def check(self) -> None:
        """StorageError: a transaction has failed. Calls that were waiting for the engine thread run before the store is opened
        anew."""
        if self._is_begun and self._upstream is None:
            raise StorageError("a write to the frontier store has failed: what is not committed is made again")
        if self._is_begun:
            raise RemoteError("a commit has failed: what is not committed is made again", at_once=True)

    def new_batch(self) -> Writes:
        self.check()
        self._is_begun = True
        return WriteBatch(raw_mode=True) if self._upstream is None else self._upstream.batch()

    def write(self, batch: Writes, *, sync: bool) -> None:
        """The only way in which a store of links writes."""
        if self._upstream is None:
            assert isinstance(batch, WriteBatch)
            self.database.write(batch, sync=sync)
        else:
            assert isinstance(batch, Recorded)
            self._upstream.write(batch, sync=sync)
        self._is_begun = False

    def slots_changed(self, sequence: int) -> None:
        """Hosts have come, whose entries have sequences up to this, or gone."""
        self.sequence = max(self.sequence, sequence)
        self.hosts.forget()
        self.longest = Longest()


class Transaction:
    """Collects one batch. ``names``: p → host key (or "") of all hosts it may touch. ``moved`` and ``due_from`` tell
    afterwards which entries of ``ready`` and ``due`` are there now and were not before."""

    def __init__(self, ledger: Ledger, depth_limited: bool, now: float, names: Mapping[bytes, str]) -> None:
        database, hosts = ledger.database, ledger.hosts
        self.batch = ledger.new_batch()
        self.sequence = ledger.sequence
        self.moved: list[tuple[bytes, bytes]] = []  # (p, ready key)
        self.due_from: list[bytes] = []
        self.left: dict[bytes, set[int]] = {}  # bundle → places of links that have left it
        self._hosts, self._tally, self._longest = hosts, ledger.tally, ledger.longest
        self._progress = ledger.progress
        self._depth_limited, self._now, self._names = depth_limited, now, names
        self._records = hosts.load(names)
        self._ready = {host: record.ready_key(host) for host, record in self._records.items()}
        self._queue, self._seen, self._page, self._due, self._meta, self._host, self._ready_family = (
            database.handle(name) for name in ("queue", "seen", "page", "due", "meta", "host", "ready")
        )

    def _record(self, host: bytes) -> HostRecord:
        record = self._records.get(host)
        if record is None:
            record = self._records[host] = HostRecord(self._now, self._now)
            self._ready[host] = None
            self._hosts.keep(host, record)
            self._tally.hosts += 1
        return record

    def settle(self, settled: Settled, flags: int, known: Known | None, page_key: bytes, suspect: bool) -> None:
        """A link that stood in the queue stands there no more."""
        lease, link = settled.lease, settled.lease.link
        key, host = lease.key, lease.key[:8]
        if len(key) == QUEUE_KEY_BYTES:
            self.batch.delete(key, self._queue)
        else:
            self.left.setdefault(key[:QUEUE_KEY_BYTES], set()).add(int.from_bytes(key[QUEUE_KEY_BYTES:], "big"))
        if suspect:
            self.batch.delete(SUSPECT + key, self._meta)
        self._record(host).leave(key[8])
        if isinstance(settled.outcome, Retry):
            self._tally.retry(flags)
            self.sequence += 1
            due = pack_time(settled.retry_at) + queue_key(host, link.priority, self.sequence)
            self.batch.put(due, encode_link(link.retried(), flags | RETRYING), self._due)
            self.due_from.append(due)
            return
        self._tally.leave(link, flags)
        if known is not None and link.kind not in EXPANDED:
            self.record(page_key, known)

    def record(self, page_key: bytes, known: Known) -> None:
        """A known URL is settled."""
        if len(known.etag or "") + len(known.last_modified or "") > VALIDATORS_CHARS_MAX:
            known = replace(known, etag=None, last_modified=None)
        self._tally.settle(known)
        self.batch.put(page_key, encode_page(known, NO_PAGE if known.link.kind in NOT_PAGES else 0), self._page)
        if known.due is not None:
            self._put_due(page_key, known.due)

    def schedule(self, page_key: bytes, flags: int, known: Known) -> None:
        """A settled URL that had no schedule has one now."""
        assert known.due is not None
        self._tally.recrawl += not flags & NO_PAGE
        self.batch.put(page_key, encode_page(known, flags), self._page)
        self._put_due(page_key, known.due)

    def _put_due(self, page_key: bytes, at: float) -> None:
        self.sequence += 1
        due = pack_time(at) + queue_key(page_key[:8], PRIORITY_DEFAULT, self.sequence)
        self.batch.put(due, bytes((SCHEDULED,)) + page_key[8:], self._due)
        self.due_from.append(due)

    def unsettle(self, known: Known, flags: int) -> None:
        """A URL is about to be settled once more: it counts no longer as it did."""
        self._tally.settle(known, -1, as_page=not flags & NO_PAGE)

    def know(self, page_key: bytes, depth: int, retrying: bool = False) -> None:
        """A URL is known, at this least depth."""
        self.batch.put(page_key, encode_seen(depth if self._depth_limited else None, retrying), self._seen)

    def know_all(self, page_keys: Sequence[bytes], depths: Mapping[bytes, int]) -> None:
        """These URLs are known from now on, at these least depths."""
        put, seen = self.batch.put, self._seen
        if self._depth_limited:
            for key in page_keys:
                put(key, encode_seen(depths[key], False), seen)
        else:
            for key in page_keys:
                put(key, b"", seen)

    def rest(self, host: bytes, rest: HostRest) -> None:
        """What a visit told of its host."""
        self._record(host).visited(rest, self._now)

    def admit(self, entry: Admission) -> None:
        """Links join their host's queue."""
        keys = entry.keys
        host, links = keys[0][:HOST_BYTES], len(keys)
        self._tally.admit(links, is_new_page=entry.is_page and not entry.expand)
        record = self._records.get(host) or self._record(host)
        if not entry.expand:
            record.admit(links, entry.is_seed)
        self.sequence += 1
        record.enter(entry.priority, self.sequence, links)
        self.batch.put(queue_key(host, entry.priority, self.sequence), entry.value, self._queue)

    def _next(self, host: bytes, lane: int) -> bytes:
        """The queue key of one link more, at the end of a lane."""
        self.sequence += 1
        self._record(host).enter(lane, self.sequence, 1)
        return queue_key(host, lane, self.sequence)

    def shrink(self, bundles: Mapping[bytes, Bundle]) -> dict[bytes, Bundle | None]:
        """Write what is left of each bundle that links have left, and give it back. ``bundles`` are as the store has them."""
        rest = {key: bundles[key].without(places) for key, places in self.left.items()}
        for key, bundle in rest.items():
            if bundle is None:
                self.batch.delete(key, self._queue)
            else:
                self.batch.put(key, encode_bundle(bundle), self._queue)
        return rest

    def promote(self, due: bytes, value: bytes) -> None:
        """A link whose time has come goes from ``due`` into the lane before its own."""
        self.batch.delete(due, self._due)
        self.batch.put(self._next(due[8:16], max(due[16] - 1, 0)), value, self._queue)

    def void(self, due: bytes) -> None:
        """An entry of ``due`` means nothing any more."""
        self.batch.delete(due, self._due)

    def revive(self, page_key: bytes, flags: int, known: Known, *, recrawl_at: float | None = None) -> None:
        """A settled URL waits again, on request whatever its host had done; to be recrawled, at a host that was given up only
        if it has not been tried since ``recrawl_at``."""
        record = self._record(page_key[:8])
        if recrawl_at is None or (record.down and record.since < recrawl_at):
            record.revive()
        self.unsettle(known, flags)
        self._progress.undo(known, forgotten=False)
        self._tally.waiting += 1
        link = known.link.revived() if recrawl_at is None else known.link.recrawled()
        self.batch.put(page_key, encode_page(known, REVIVED), self._page)
        again = RECORDED if recrawl_at is None else RECORDED | RECRAWL
        value = encode_link(link, again | (UNCOUNTED if flags & NO_PAGE else 0))
        self.batch.put(self._next(page_key[:8], link.priority), value, self._queue)

    def remove(self, page_key: bytes, flags: int, known: Known) -> None:
        """A settled URL is known no more."""
        self._record(page_key[:8])
        self.unsettle(known, flags)
        self._progress.undo(known, forgotten=True)
        self._tally.known -= not flags & NO_PAGE
        self.batch.delete(page_key, self._page)
        self.batch.delete(page_key, self._seen)

    def finish(self, now: float, wall: float) -> StoreState:
        """The touched hosts' records and ready entries, and the totals as of ``now``."""
        for host, record in self._records.items():
            before, after = self._ready[host], record.ready_key(host)
            if before != after:
                if before is not None:
                    self.batch.delete(before, self._ready_family)
                if after is not None:
                    self.batch.put(after, b"", self._ready_family)
                    self.moved.append((host, after))
            self.batch.put(host, encode(record), self._host)
            if name := self._names.get(host):
                self._longest.note(name, record.waiting)
        for key, tally in self._progress.changed().items():
            if tally is None:
                self.batch.delete(file_key(PROGRESS, key), self._meta)
            else:
                self.batch.put(file_key(PROGRESS, key), encode(tally), self._meta)
        state = StoreState(self.sequence, now, wall, self._tally.freeze())
        self.batch.put(STATE_KEY, encode(state), self._meta)
        return state
