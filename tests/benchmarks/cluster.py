"""What a cluster's commits cost its database and its nodes, where so much is known already.

    python tests/benchmarks/cluster.py --known 5000000

Half of what is known is settled, half waits. One member commits pages in batches of 100, each with 20 links of which 2 are
new: claim, prepare and commit as ever, over a PostgreSQL of its own that syncs. Then the same store does so alone. Prints the
CPU of either per page, how long a commit took, and how long it is until a slot is dealt from. Nothing is fetched or archived.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import psycopg
from msgspec.structs import replace

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.copies import Copy
from support.postgres import Server, binaries, rows, schema_of
from support.stores import REST, done, pack, record

from crawler.core.batch import Admitted, Batch, HostRest, Settled
from crawler.core.keys import SLOTS, Keys, Share
from crawler.core.model import Known, Lease, Link, Ref
from crawler.core.urls import host_key
from crawler.frontier import Limits, Store, open_store
from crawler.frontier.cluster.member import LOAD_ROWS
from crawler.frontier.cluster.rows import KNOWN_FAMILIES
from crawler.frontier.rocksdb.layout import encode_page, encode_seen

BATCH = 100
NEIGHBOURS, STRANGERS = 16, 2
"""Known links of a page, to its own host and to others; and it has a new one to either."""
HOST_LINKS = 200
FILL_LINKS = 10_000
STEP_S = 1.0
"""Crawl time between two commits: no host rests any more."""
LEASE_S = 7200.0
MEMORY_BYTES = 256 << 20
SYNCING = {
    "fsync": "on",
    "full_page_writes": "on",
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "15min",
    "wal_compression": "lz4",
    "autovacuum_naptime": "10s",
    "autovacuum_vacuum_cost_delay": "1ms",
    "autovacuum_vacuum_cost_limit": "2000",
    "autovacuum_vacuum_scale_factor": "0.05",
    "autovacuum_vacuum_insert_scale_factor": "0.1",
}
"""As ``deploy/postgresql/crawler.conf``, for a machine of this size."""
LIMITS = Limits()
RECORD = Ref("warc/crawl-20260101000000000-00001-node.warc.gz", 123_456_789, 12_345)
ROW = Ref("results/results-000001.jsonl", 12_345_678, 789)
TICKS = os.sysconf("SC_CLK_TCK")


def url_of(host: int, name: str) -> str:
    return f"https://host-{host}.example/some/section/page-{name}.html"


def link_of(host: int, name: str) -> Link:
    url = url_of(host, name)
    via = url_of(host, "s0")
    return Link(url, host_key(url), "link", via=via, anchor=via)


# -- filling ----------------------------------------------------------------------------------------------------------


def settled_rows(hosts: Sequence[int], keys: Keys) -> Iterator[tuple[int, int, bytes, bytes]]:
    """Of the table ``known``."""
    for host in hosts:
        for n in range(HOST_LINKS // 2):
            link = link_of(host, f"s{n}")
            key = keys.of(link.host, link.url)
            known = Known(link, "ok", None, 200, 1.8e9, RECORD, ROW, etag='"0123456789abcdef"', digest=key + key + key[:4])
            yield key[0], KNOWN_FAMILIES["seen"], key, encode_seen(None, False)
            yield key[0], KNOWN_FAMILIES["page"], key, encode_page(known, 0)


def fill(url: str, path: Path, hosts: Sequence[int]) -> None:
    """Every host with as many links; by a member that goes away."""
    copy = Copy(url, path, LIMITS, 1000.0, lambda host: REST, name="filler", lease_s=LEASE_S, memory_bytes=MEMORY_BYTES)
    keys, now = Keys(copy.store.secret()), 1000.0
    waiting = (link_of(host, f"w{n}") for host in hosts for n in range(HOST_LINKS // 2))
    while some := tuple(link for _, link in zip(range(FILL_LINKS), waiting, strict=False)):
        now += 0.01
        copy.store.commit(copy.store.prepare(Batch([], [Admitted(some)], {}, {}, now, now)), [], {})
    copy.store.close()
    into = f"COPY {schema_of(url)}.known FROM STDIN (FORMAT BINARY)"
    with psycopg.connect(url.partition("?")[0]) as connection, connection.cursor().copy(into) as rows_in:
        rows_in.set_types(["int2", "int2", "bytea", "bytea"])
        for row in settled_rows(hosts, keys):
            rows_in.write_row(row)


# -- crawling ---------------------------------------------------------------------------------------------------------


def page_of(lease: Lease, hosts: Sequence[int], keys: Keys, rng: random.Random, number: int) -> Settled:
    own = int(lease.link.host.partition("-")[2].partition(".")[0])
    places = [own] * NEIGHBOURS + rng.choices(hosts, k=STRANGERS)
    urls = {url_of(host, f"{rng.choice('sw')}{rng.randrange(HOST_LINKS // 2)}"): None for host in places}
    urls |= dict.fromkeys((url_of(own, f"n{number}"), url_of(rng.choice(hosts), f"o{number}")))
    outcome = replace(done(), block=pack(list(urls), keys, lease.link))
    return Settled(lease, outcome, 0.0)


class Crawled:
    """What some thousands of pages took."""

    def __init__(self) -> None:
        self.pages = 0
        self.cpu_s = 0.0
        self.commits_s: list[float] = []

    @property
    def cpu_us(self) -> float:
        return self.cpu_s / self.pages * 1e6


def crawl(store: Store, hosts: Sequence[int], batches: int, now: float, seed: str, outbox: Copy | None = None) -> Crawled:
    keys, rng, told = Keys(store.secret()), random.Random(seed), Crawled()
    for batch in range(batches):
        now += STEP_S
        began = time.thread_time()
        leases = store.claim(BATCH, 1, now, {})
        told.cpu_s += time.thread_time() - began
        settled = [page_of(lease, hosts, keys, rng, f"{seed}-{batch}-{n}") for n, lease in enumerate(leases)]
        known = [record(one.lease, one.outcome, archive=RECORD, row=ROW, digest=bytes(20)) for one in settled]
        rests = {one.lease.link.host: HostRest(now + REST) for one in settled}
        began = time.thread_time()
        prepared = store.prepare(Batch(settled, [], rests, {}, now, now))
        if outbox is not None:
            outbox.outbox.append(prepared)
        committing = time.monotonic()
        store.commit(prepared, known, {})
        told.commits_s.append(time.monotonic() - committing)
        told.cpu_s += time.thread_time() - began
        told.pages += len(settled)
    return told


# -- what the server took ---------------------------------------------------------------------------------------------


def cpu_of(server: Server) -> tuple[float, float]:
    """Seconds, since it began: of sessions, and of all else that it does (vacuum, checkpoints)."""
    master = int((server.folder / "data" / "postmaster.pid").read_text().split()[0])
    sessions, rest = 0.0, _times(master, 4)
    for pid in map(int, Path(f"/proc/{master}/task/{master}/children").read_text().split()):
        with suppress(FileNotFoundError):  # it has just ended: then it is counted as its parent's
            if "127.0.0.1" in Path(f"/proc/{pid}/cmdline").read_text():
                sessions += _times(pid, 2)
            else:
                rest += _times(pid, 2)
    return sessions, rest


def _times(pid: int, fields: int) -> float:
    """utime, stime, and those of children that have ended."""
    try:
        values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, values[11 : 11 + fields])) / TICKS


def quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def measured(what: str, server: Server, crawled: Callable[[], Crawled]) -> Crawled:
    before, wal, began = cpu_of(server), wal_of(server), time.monotonic()
    told = crawled()
    took_s = time.monotonic() - began
    p50, p99 = (quantile(told.commits_s, share) * 1000 for share in (0.5, 0.99))
    sessions_us, rest_us = ((now - then) / told.pages * 1e6 for now, then in zip(cpu_of(server), before, strict=True))
    wal_bytes = (wal_of(server) - wal) / told.pages
    print(
        f"{what}: {told.pages:,} pages in {took_s:.0f} s; a page: server {sessions_us:.0f} µs of CPU, {rest_us:.0f} behind it, "
        f"{wal_bytes:,.0f} bytes of WAL, store's thread {told.cpu_us:.0f} µs; a commit p50 {p50:.1f}, p99 {p99:.1f} ms; "
        f"load {os.getloadavg()[0]:.1f}",
        flush=True,
    )
    return told


def wal_of(server: Server) -> float:
    return float(rows(server.url("public"), "SELECT pg_current_wal_lsn() - '0/0'")[0][0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--known", type=int, default=1_000_000)
    parser.add_argument("--pages", type=int, default=50_000)
    parser.add_argument("--slot", type=int, default=1_000_000, help="rows of the one slot that is loaded first")
    given = parser.parse_args()
    found = binaries()
    assert found is not None, "no PostgreSQL here (Debian: apt install postgresql)"
    server = Server(found, SYNCING)
    with tempfile.TemporaryDirectory(prefix="cluster-benchmark-", dir="/tmp") as folder:
        run(server, Path(folder), given)


def run(server: Server, folder: Path, given: argparse.Namespace) -> None:
    url, hosts = server.url(), list(range(given.known // HOST_LINKS))
    empty = Copy(url, folder / "empty", LIMITS, 1000.0, lambda host: REST, name="filler", lease_s=LEASE_S)
    host_key_of = Keys(empty.store.secret()).host
    empty.store.close()
    slot, more, at = 7, [], len(hosts)
    while len(more) * HOST_LINKS * 2 < given.slot:  # what is settled has a record as well, what waits a link
        if host_key_of(host_key(url_of(at, "")))[0] == slot:
            more.append(at)
        at += 1
    began, before = time.monotonic(), sum(cpu_of(server))
    fill(url, folder / "filler", hosts + more)
    counts = rows(url, "SELECT (SELECT count(*) FROM known WHERE family = 0), (SELECT count(*) FROM work)")[0]
    rows(url, "VACUUM ANALYZE")
    rows(url, "CHECKPOINT")
    took_s, cpu = time.monotonic() - began, sum(cpu_of(server)) - before
    print(f"{counts[0]:,} known, {counts[1]:,} rows of work; filled in {took_s:.0f} s, {cpu:.0f} s of server CPU", flush=True)

    bounds = {"lease_s": LEASE_S, "memory_bytes": MEMORY_BYTES, "rows_max": LOAD_ROWS}
    copy = Copy(url, folder / "node", LIMITS, 2000.0, lambda host: REST, name="node", held=(), **bounds)
    for what, wanted in ((f"slot {slot}", {slot}), ("all slots", set(range(SLOTS)))):
        asked = "SELECT (SELECT count(*) FROM known WHERE slot = ANY(%s)) + (SELECT count(*) FROM work WHERE slot = ANY(%s))"
        new = sorted(wanted - copy.mirror.epochs.keys())
        [(count,)] = rows(url, asked, new, new)
        before, began, cpu = sum(cpu_of(server)), time.monotonic(), time.thread_time()
        copy.hold(2000.0, wanted)
        took_s, cpu = time.monotonic() - began, time.thread_time() - cpu
        client_us, server_us = cpu / count * 1e6, (sum(cpu_of(server)) - before) / count * 1e6
        said = f"{count:,} rows loaded in {took_s:.1f} s; a row: client {client_us:.1f}, server {server_us:.1f} µs of CPU"
        print(f"{what}: {said}", flush=True)
    batches = given.pages // BATCH
    now = 2100.0
    for turn in range(2):
        both = measured("node", server, partial(crawl, copy.store, hosts, batches, now, f"c{turn}", copy))
        now += 2 * batches * STEP_S
    secret = copy.store.secret()
    copy.store.close()
    share = Share(0, bytes(SLOTS), secret)
    bounds = {"memory_bytes": MEMORY_BYTES, "share": share}
    alone = open_store("embedded", folder / "node", LIMITS, now=now, rest=lambda host: REST, **bounds)
    only = measured("RocksDB alone", server, partial(crawl, alone, hosts, batches, now + 100, "a"))
    alone.close()
    print(f"client: {both.cpu_us - only.cpu_us:.0f} µs of CPU a page over RocksDB alone")


if __name__ == "__main__":
    main()
