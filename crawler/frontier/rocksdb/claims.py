"""Claims: which links are handed out, and which come next.

Invariant: every ready entry before the cursor belongs to a host with links out, so a scan from the cursor misses
nothing and visits no entry twice. Claims write nothing: only this process knows what is out.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final

from rocksdict import RdictIter

from crawler.core.errors import StorageError
from crawler.core.keys import HOST_BYTES, Keys
from crawler.core.link_block import decode_link
from crawler.core.model import Known, Lease, Link
from crawler.frontier.bundle import BUNDLE, Bundle, decode_bundle, place_key
from crawler.frontier.counters import RECORDED, land
from crawler.frontier.rocksdb.database import Database
from crawler.frontier.rocksdb.layout import (
    LAST,
    QUEUE_KEY_BYTES,
    HostRecord,
    Lane,
    decode_page,
    decode_seen,
    pack_time,
    queue_key,
    unpack_time,
)
from crawler.frontier.rocksdb.transaction import Hosts
from crawler.frontier.rocksdb.upstream import Upstream

Taken = tuple[bytes, bytes, HostRecord]
"""Queue key, value, record of the host."""

TAKEN_BYTES_MAX: Final = 4 << 20
"""Of the links of one claim, as they are stored: listed lines among them may be of 64 KiB each. Beyond, a host that was asked for
gives one at most, and no other any."""

_NONE: Final[dict[bytes, int]] = {}


class Bundles:
    """Bundles with links out, as the store has them, as far as ``bytes_max`` goes: the others are read again. The bench may have
    links of thousands, each of 10 KiB."""

    _ENTRY_BYTES: Final = 500

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._kept: OrderedDict[bytes, Bundle] = OrderedDict()
        self.memory_bytes = 0

    def get(self, key: bytes) -> Bundle | None:
        return self._kept.get(key)

    def put(self, key: bytes, bundle: Bundle) -> None:
        self.discard(key)
        self._kept[key] = bundle
        self.memory_bytes += self._size(bundle)
        while self.memory_bytes > self._bytes_max:
            self.discard(next(iter(self._kept)))

    def discard(self, key: bytes) -> None:
        if (bundle := self._kept.pop(key, None)) is not None:
            self.memory_bytes -= self._size(bundle)

    def clear(self) -> None:
        self._kept.clear()
        self.memory_bytes = 0

    def _size(self, bundle: Bundle) -> int:
        return self._ENTRY_BYTES + len(bundle.urls) + len(bundle.tail) + 8 * len(bundle.lengths)


class Claims:
    """``rest(host)`` is a host's configured rest: hosts not visited after ``opened_at`` count as just visited then. ``upstream``:
    only of slots that it holds is anything handed out."""

    def __init__(
        self,
        database: Database,
        hosts: Hosts,
        keys_by: Keys,
        opened_at: float,
        rest: Callable[[str], float],
        bundles_bytes_max: int,
        upstream: Upstream | None = None,
    ) -> None:
        self._database, self._hosts, self._keys_by, self._upstream = database, hosts, keys_by, upstream
        self._opened_at, self._rest = opened_at, rest
        self._out: dict[bytes, dict[bytes, int]] = {}  # p → queue key → flags
        self._passed: dict[bytes, dict[int, bytes]] = {}
        """p → lane → the entry up to which all are out. Of hosts with links out: new ones join behind it."""
        self._ready_from = self._due_from = b""
        self.bundles: Final = Bundles(bundles_bytes_max)
        self.flying: Counter[bytes] = Counter()
        """Keys of the URLs that are out, and as how many links: one may be expanded once more while it is visited again. Kept
        under a depth limit only."""
        self.lowered: Mapping[bytes, int] | None = None
        """Least depths found by the batch in preparation; None without a depth limit."""
        self.suspects: dict[bytes, int] = {}
        self.expired(-1.0, 0)  # finds the first entry of ``due``

    def flags(self, lease: Lease) -> int | None:
        """None if it is not out."""
        return self._out.get(lease.key[:8], _NONE).get(lease.key)

    # -- handing out ----------------------------------------------------------------------------------------------

    def claim(self, hosts: int, per_host: int, now: float, low: Mapping[str, int]) -> list[Lease]:
        """As ``Store.claim``, without the promotion of what is due again."""
        taken: list[Taken] = []
        cursor = self._database.cursor("queue")
        wanted = {key: links for name, links in low.items() if self._is_held(key := self._keys_by.host(name))}
        records = self._hosts.load(wanted)
        left = TAKEN_BYTES_MAX
        for host, record in records.items():
            found = self._take(cursor, host, record, wanted[host], left)
            left -= _bytes(found)
            taken += found
        if hosts > 0:
            due = self._due_hosts(hosts, now)
            records = self._hosts.load(due)
            for host in due:
                if host not in records:
                    raise StorageError("frontier store: a ready host has no record", final=True)
                if left <= 0:
                    self._ready_from = min(self._ready_from, records[host].ready_key(host) or LAST)
                    break  # the ones behind it come later still
                found = self._take(cursor, host, records[host], per_host, left)
                left -= _bytes(found)
                taken += found
        return self._leases(taken)

    def _due_hosts(self, limit: int, now: float) -> list[bytes]:
        """The longest due hosts with nothing out; the cursor moves past them."""
        found: list[bytes] = []
        until = pack_time(now) + b"\xff" * 8
        for key in self._ready(self._ready_from):
            self._ready_from = key
            if key > until or len(found) == limit:
                return found
            if self._is_free(key[8:]):
                found.append(key[8:])
        self._ready_from = LAST
        return found

    def _is_held(self, host: bytes) -> bool:
        return self._upstream is None or self._upstream.slots[host[0]] == 1

    def _ready(self, start: bytes) -> Iterator[bytes]:
        cursor = self._database.cursor("ready")
        cursor.seek(start)
        while cursor.valid():
            yield cursor.key()
            cursor.next()
        cursor.status()

    def _take(self, cursor: RdictIter, host: bytes, record: HostRecord, links: int, left: int) -> list[Taken]:
        """The host's first links that are not out: by lane, then sequence, then place in a bundle. One at least, and no more
        entries once they have ``left`` bytes."""
        out, behind = self._out.get(host, _NONE), self._passed.get(host, {})
        taken: list[Taken] = []
        for lane in record.lanes:
            if len(taken) >= links or (taken and left <= 0):
                break
            passed = self._seek(cursor, host, lane, out, behind.get(lane.number))
            while passed < lane.count and len(taken) < links and (left > 0 or not taken):
                key = cursor.key()
                if key is None or key[:9] != host + bytes((lane.number,)):
                    cursor.status()
                    raise StorageError("frontier store: a host's queue is shorter than its record says", final=True)
                if not passed:
                    lane.head = int.from_bytes(key[9:], "big")
                found, count, are_all = self._entries(key, cursor, out, links - len(taken))
                taken += [(entry, value, record) for entry, value in found]
                left -= sum([len(value) for _, value in found])
                passed += count
                if are_all:
                    behind[lane.number] = key
                cursor.next()
        if taken:
            self._out.setdefault(host, {}).update([(key, value[0]) for key, value, _ in taken])
            self._passed[host] = behind
        return taken

    def _seek(self, cursor: RdictIter, host: bytes, lane: Lane, out: Mapping[bytes, int], behind: bytes | None) -> int:
        """To the lane's first entry of which not all is known to be out; how many links before it are there still."""
        if behind is None:
            cursor.seek(queue_key(host, lane.number, lane.head))
            return 0
        cursor.seek(behind + b"\0")
        before = [key for key in out if key[8] == lane.number and key[:QUEUE_KEY_BYTES] <= behind]
        if before:
            lane.head = int.from_bytes(min(before)[9:QUEUE_KEY_BYTES], "big")
        return len(before)

    def _entries(
        self, key: bytes, cursor: RdictIter, out: Mapping[bytes, int], links: int
    ) -> tuple[list[tuple[bytes, bytes]], int, bool]:
        """(key, value) of up to so many links of the entry at the cursor that are not out, how many it has in all, and whether
        all of them are out then."""
        bundle = self.bundles.get(key)
        if bundle is None:
            value = cursor.value()
            if not value[0] & BUNDLE:
                return ([] if key in out else [(key, value)]), 1, True
            bundle = decode_bundle(value)
        places = bundle.places()
        free = [place for place in places if place_key(key, place) not in out]
        if free:
            self.bundles.put(key, bundle)
        found = [(place_key(key, place), value) for place, value in bundle.values(free[:links]).items()]
        return found, len(places), len(free) <= links

    def _leases(self, taken: Sequence[Taken]) -> list[Lease]:
        links = [decode_link(value) for _, value, _ in taken]
        pages = self._page_keys(links, taken)
        depths = self._depths(pages) if self.lowered is not None else {}
        recorded = [page for page, (flags, _) in zip(pages, links, strict=True) if flags & RECORDED]
        known = {key: decode_page(value)[1] for key, value in self._database.found("page", recorded)}
        self.flying.update(page for page in pages if page in depths)
        return [
            self._lease(key, link.found_nearer(depths[page]) if page in depths else link, record, known.get(page), flags)
            for (key, _, record), (flags, link), page in zip(taken, links, pages, strict=True)
        ]

    def _page_keys(self, links: Sequence[tuple[int, Link]], taken: Sequence[Taken]) -> list[bytes]:
        """Only made where they are needed: under a depth limit, and for links settled before."""
        return [
            key[:8] + self._keys_by.url(link.url.encode())
            if (self.lowered is not None or flags & RECORDED) and link.kind != "robots"
            else b""
            for (flags, link), (key, _, _) in zip(links, taken, strict=True)
        ]

    def _depths(self, pages: Sequence[bytes]) -> dict[bytes, int]:
        depths = {key: decode_seen(value)[0] for key, value in self._database.found("seen", pages)}
        lowered = self.lowered or {}
        return {key: min(depth, lowered.get(key, depth)) for key, depth in depths.items()}

    def _lease(self, key: bytes, link: Link, record: HostRecord, known: Known | None, flags: int) -> Lease:
        """A host not visited since the store was opened counts as just visited then."""
        since = self._opened_at if self._upstream is None else max(self._opened_at, self._upstream.taken_at[key[0]])
        earliest = since + self._rest(link.host) if record.since <= since else None
        crashes = self.suspects.get(key, 0) if self.suspects else 0
        return record.lease(link, key, known, flags, crashes=crashes, earliest=earliest)

    # -- coming back ----------------------------------------------------------------------------------------------

    def give_back(self, leases: Collection[Lease]) -> None:
        """Leases that were not visited: their links wait again."""
        for lease in leases:
            self._passed.pop(lease.key[:HOST_BYTES], None)
        self.release(leases)

    def release(self, leases: Collection[Lease]) -> None:
        """Leases that are out no more; unless they were given back, their entries are gone from the queue."""
        free = []
        for lease in leases:
            host = lease.key[:HOST_BYTES]
            out = self._out.get(host)
            if out is not None and lease.key in out:
                del out[lease.key]
                if self.lowered is not None and lease.link.kind != "robots":
                    land(self.flying, host + self._keys_by.url(lease.link.url.encode()))
                if not out:
                    del self._out[host]
                    self._passed.pop(host, None)
                    free.append(host)
        for key in {lease.key[:QUEUE_KEY_BYTES] for lease in leases if len(lease.key) > QUEUE_KEY_BYTES}:
            out = self._out.get(key[:HOST_BYTES], _NONE)
            bundle = self.bundles.get(key)
            if bundle is not None and not any(place_key(key, place) in out for place in bundle.places()):
                self.bundles.discard(key)
        for host, record in self._hosts.load(free).items():
            if (entry := record.ready_key(host)) is not None:
                self.ready(host, entry)

    def shrunk(self, bundles: Mapping[bytes, Bundle | None]) -> None:
        """What is left of bundles, as it was written."""
        for key, bundle in bundles.items():
            if bundle is None:
                self.bundles.discard(key)
            else:
                self.bundles.put(key, bundle)

    def hold(self, leases: Sequence[Lease]) -> None:
        """Leases that were claimed before the database was opened anew are still out; but not where the link waits no more."""
        links = {lease.key: lease.link for lease in leases}
        for key, flags in self.waiting(links).items():
            self._out.setdefault(key[:HOST_BYTES], {})[key] = flags
            if self.lowered is not None and links[key].kind != "robots":
                self.flying[key[:HOST_BYTES] + self._keys_by.url(links[key].url.encode())] += 1

    def bundles_of(self, keys: Iterable[bytes]) -> dict[bytes, Bundle]:
        """Bundles as the store has them, by their own keys."""
        found = {key: self.bundles.get(key) for key in keys}
        missing = [key for key, bundle in found.items() if bundle is None]
        return {key: bundle for key, bundle in found.items() if bundle is not None} | self._read_bundles(missing)

    def waiting(self, keys: Iterable[bytes]) -> dict[bytes, int]:
        """Of these keys of leases, those that stand in the queue, with their flags."""
        keys = list(keys)
        bundles = self._read_bundles({key[:QUEUE_KEY_BYTES] for key in keys if len(key) > QUEUE_KEY_BYTES})
        single = (key for key in keys if len(key) == QUEUE_KEY_BYTES)
        found = {key: value[0] for key, value in self._database.found("queue", single)}
        for key in keys:
            bundle, place = bundles.get(key[:QUEUE_KEY_BYTES]), int.from_bytes(key[QUEUE_KEY_BYTES:], "big")
            if len(key) > QUEUE_KEY_BYTES and bundle is not None and place in bundle.places():
                found[key] = 0
        return found

    def _read_bundles(self, wanted: Iterable[bytes]) -> dict[bytes, Bundle]:
        return {key: decode_bundle(value) for key, value in self._database.found("queue", wanted)}

    def ready(self, host: bytes, key: bytes) -> None:
        """The host has this ready entry now."""
        if key < self._ready_from and host not in self._out:
            self._ready_from = key

    def due(self, key: bytes) -> None:
        """There is this entry in ``due`` now."""
        self._due_from = min(self._due_from, key)

    def slots_changed(self, suspects: Mapping[bytes, int], lost: Collection[int]) -> None:
        """Slots were taken over, or lost, and with them what was out."""
        gone = {host for host in self._out if host[0] in lost}
        for host in gone:
            del self._out[host]
        self._passed.clear()
        self.bundles.clear()
        for key in [key for key in self.flying if key[0] in lost]:
            del self.flying[key]
        for key in [key for key in self.suspects if len(key) in (QUEUE_KEY_BYTES, QUEUE_KEY_BYTES + 2) and key[0] in lost]:
            del self.suspects[key]
        self.suspects.update(suspects)
        self._ready_from = self._due_from = b""
        self.expired(-1.0, 0)

    def _is_free(self, host: bytes) -> bool:
        """Whether it is ours to claim from, and has nothing out."""
        return host not in self._out and self._is_held(host)

    # -- what comes when ------------------------------------------------------------------------------------------

    def expired(self, now: float, limit: int) -> list[tuple[bytes, bytes]]:
        """The first entries of ``due`` whose time has come, so many or of TAKEN_BYTES_MAX; later calls begin behind them."""
        until = pack_time(now) + b"\xff" * QUEUE_KEY_BYTES
        found: list[tuple[bytes, bytes]] = []
        left = TAKEN_BYTES_MAX
        if self._due_from > until:
            return found
        cursor = self._database.cursor("due")
        cursor.seek(self._due_from)
        while cursor.valid():
            self._due_from = cursor.key()
            if self._due_from > until or len(found) == limit or left <= 0:
                return found
            if self._is_held(self._due_from[8:]):
                found.append((self._due_from, cursor.value()))
                left -= len(found[-1][1])
            cursor.next()
        cursor.status()
        self._due_from = LAST
        return found

    def next_due(self) -> float | None:
        """When a host with nothing out may be claimed, or a link in ``due`` comes back; None if there is neither."""
        self._ready_from = next((key for key in self._ready(self._ready_from) if self._is_free(key[8:])), LAST)
        first = min(self._ready_from, self._due_from)
        return unpack_time(first) if first < LAST else None


def _bytes(taken: Sequence[Taken]) -> int:
    return sum([len(value) for _, value, _ in taken])
