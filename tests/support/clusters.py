"""Nodes of a cluster as processes of their own, over one web and one database, and what must be true of them in the end."""

from __future__ import annotations

import contextlib
import gzip
import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from crawler.frontier.parts_reader import total
from crawler.frontier.rocksdb.layout import decode_host, decode_page, decode_state
from crawler.frontier.store import Counts
from support.crews import kill, parts_of
from support.postgres import rows
from support.programs import CLEAN, LOCAL, command_of, rows_of
from support.webs import Answer, Visit, Web, page

HOSTS = [f"127.0.9.{n}" for n in range(1, 41)]
SETTINGS = ("--depth", "99", "--scope", "any", "--min-free-disk", "0", "--parsers", "0", "--memory-limit", "2GiB")


def tree(pages: int, wait: float = 0.005) -> Web:
    """Page n links to pages 2n and 2n + 1, of other hosts, up to ``pages`` in all."""
    web = Web()

    def answer(host: str, path: str) -> Answer:
        n = int(path[1:])
        return page(*[url_of(web, m) for m in (2 * n, 2 * n + 1) if m <= pages], wait=wait)

    web.default = answer
    return web


def hold(web: Web, after: int, until: threading.Event) -> None:
    """No page of the tree behind so many begins before the event: the crawl lasts until then."""
    whole = web.default
    web.default = lambda host, path: replace(whole(host, path), until=lambda: int(path[1:]) <= after or until.is_set())


def url_of(web: Web, n: int) -> str:
    return web.url(HOSTS[n % len(HOSTS)], f"/{n}")


class Cluster:
    """``url``: of the crawl in the database. Nodes are begun one by one, each in a directory of its own."""

    def __init__(self, root: Path, url: str, lease_s: float = 2.0) -> None:
        self.root, self.url, self.lease_s = root, url, lease_s
        self.nodes: dict[str, subprocess.Popen[str]] = {}

    def directory(self, name: str) -> Path:
        return self.root / name

    def begin(self, name: str, *arguments: str, url: str | None = None, command: str = "run") -> subprocess.Popen[str]:
        """A node, again or for the first time."""
        where = ("-o", str(self.directory(name))) if command == "run" else ("--data", str(self.directory(name)))
        lease = ("--cluster", url or self.url, "--cluster-lease", f"{self.lease_s}s")
        with (self.root / f"{name}.log").open("a") as log:
            self.nodes[name] = subprocess.Popen(
                command_of([command, *where, *SETTINGS, *LOCAL, *lease, *arguments]),
                env=CLEAN,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                text=True,
            )
        return self.nodes[name]

    def said(self, name: str) -> str:
        return (self.root / f"{name}.log").read_text()

    def kill(self, name: str) -> None:
        self.nodes[name].kill()
        self.nodes[name].wait()

    def kill_all_of(self, name: str) -> None:
        """A node with its parts: they do not end by themselves because it has."""
        for part in parts_of(self.nodes[name].pid):
            kill(part)
        self.kill(name)

    def freeze(self, name: str, seconds: float) -> None:
        """A node and its parts stand still so long."""
        frozen = [self.nodes[name].pid, *parts_of(self.nodes[name].pid)]
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(seconds)
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)

    def drain(self, name: str) -> int:
        self.nodes[name].send_signal(signal.SIGTERM)
        return self.nodes[name].wait(60)

    def wait(self, *names: str, seconds: float = 60) -> None:
        """Until these nodes, or all, have ended in order."""
        until = time.monotonic() + seconds
        for name in names or self.nodes:
            code = self.nodes[name].wait(max(0.1, until - time.monotonic()))
            assert code == 0, f"{name} has ended with {code}: {self.said(name)[-2000:]}"

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        try:
            yield
        finally:
            for node in self.nodes.values():
                node.kill()
                node.wait()

    # -- what the database says -----------------------------------------------------------------------------------

    def slots_of(self, name: str) -> int:
        """How many slots a node leases."""
        return dict(rows(self.url, _SLOTS)).get(self.node_of(name), 0)

    def node_of(self, name: str) -> str:
        text = (self.directory(name) / "frontier" / "node.toml").read_text()
        return text.partition('node = "')[2].partition('"')[0]

    def is_shared(self, *names: str, **parts: int) -> bool:
        """Whether each of these has a fair share, and all slots are theirs. ``parts``: processes of a node, where not 1."""
        from psycopg.errors import UndefinedTable

        try:
            leased = dict(rows(self.url, _SLOTS))  # by one look: between two, the first member takes all of them
            slots = {name: leased.get(self.node_of(name), 0) for name in (*names, *parts)}
        except (FileNotFoundError, UndefinedTable):
            return False
        shares = [count / parts.get(name, 1) for name, count in slots.items()]
        return sum(slots.values()) == 256 and max(shares) - min(shares) <= len(shares)

    def known(self) -> int:
        return rows(self.url, "SELECT count(*) FROM known WHERE family = 0")[0][0]

    # -- what must be true in the end -----------------------------------------------------------------------------

    def rows(self) -> list[dict]:
        return [row for name in self.nodes for row in rows_of(self.directory(name))]

    def check(self, web: Web, pages: int) -> None:
        """Every page is once in the rows and once in the archives."""
        wanted = Counter({url_of(web, n): 1 for n in range(1, pages + 1)})
        assert Counter(row["canonical"] for row in self.rows() if row["outcome"] == "ok") == wanted
        archived = Counter(url for name in self.nodes for url in _archived(self.directory(name)))
        assert archived == wanted

    def counts(self) -> Counts:
        """As all members have committed them."""
        return total([decode_state(state).counts for (state,) in rows(self.url, "SELECT state FROM member") if state])

    def check_counts(self) -> None:
        """Where nothing waits any more: what the members have counted is what stands in the tables, and nothing is left over."""
        counts = self.counts()
        known = rows(self.url, "SELECT count(*) FROM known WHERE family = 0")[0][0]
        pages = [decode_page(value)[1] for (value,) in rows(self.url, "SELECT value FROM known WHERE family = 1")]
        told = (counts.known, counts.waiting, counts.retrying)
        assert told == (known, 0, 0), f"{told}, and {known} are known"
        assert counts.outcomes == Counter(page.outcome for page in pages) and len(pages) == known
        hosts = [
            decode_host(value) for key, value in rows(self.url, "SELECT key, value FROM work WHERE family = 1") if len(key) == 8
        ]
        assert not any(lane.count for host in hosts for lane in host.lanes)
        assert rows(self.url, "SELECT count(*) FROM work WHERE family IN (0, 2)") == [(0,)]


_SLOTS = """SELECT member.node::text, count(*) FROM slot JOIN member ON member.id = slot.owner
  WHERE slot.until > clock_timestamp() GROUP BY member.node"""


def check_spacing(web: Web, delay: float) -> None:
    """One visit at a time at each host, and none sooner than its rest, whoever made it. Visits that were made again do not count:
    one that was broken off has ended earlier where it was made than the server knows, and a process that was frozen may still
    send what it had begun to send."""
    times = Counter((visit.host, visit.path) for visit in web.visits)
    by_host: dict[str, list[Visit]] = {}
    for visit in sorted(web.visits, key=lambda visit: visit.begun):
        by_host.setdefault(visit.host, []).append(visit)
    pairs = [
        pair for visits in by_host.values() for pair in pairwise(visits) if all(times[one.host, one.path] == 1 for one in pair)
    ]
    short = [(after.begun - before.ended, before, after) for before, after in pairs if after.begun - before.ended < delay - 0.02]
    assert not short, f"{len(short)} of {len(pairs)}: {short[:2]}"


def _archived(directory: Path) -> list[str]:
    found = []
    for file in (directory / "warc").glob("*.warc.gz*"):
        with gzip.open(file, "rb") as stream:
            kind = b""
            for line in stream:
                if line.startswith(b"WARC-Type: "):
                    kind = line.split()[1]
                elif line.startswith(b"WARC-Target-URI: ") and kind == b"response":
                    found.append(line.split()[1].decode())
                    kind = b""
    return found
