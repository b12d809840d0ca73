"""A cluster under blows: nodes, their database and a web, each in a network namespace of its own; and a judge.

    cd tests && python -m support.cluster_bench --nodes 5 --parts 2 --minutes 10 --seed 7

deals blows at random for so long, lets the crawl end, and prints what came of it; exit 1 where a promise was broken.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import orjson
from fastwarc.warc import ArchiveIterator, WarcRecordType

from crawler.frontier.rocksdb.layout import decode_mark
from support import pinch
from support.cluster_net import Database, Net, net, reason_not
from support.judged_web import POISON, Excuse, Verdict, host_of, judge, not_once, url_of, visits_of
from support.programs import CLEAN, command_of

WEB_PORT = 8000
REST_S = 0.15
LISTED = 40
"""Pages that the nodes' lists name, shared out among them; the first of them stands in each."""
FAKETIME = (
    Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"),
    Path("/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1"),
)
SETTINGS = """--allow-net 10.77.0.0/16 --min-free-disk 0 --parsers 0 --progress none --log-format text
  --connect-timeout 2s --first-byte-timeout 10s --backoff-max 2s --grace 6s --workers 40"""
PATIENCE_S = 60.0
THAWED_S = 0.25
"""A process that is thawed sends what it was about to send, before it learns what time it is."""


def faketime() -> Path | None:
    """The library that sets clocks wrong (Debian: libfaketime), or where FAKETIME_LIBRARY says."""
    return next((path for path in (Path(os.environ.get("FAKETIME_LIBRARY", "/none")), *FAKETIME) if path.exists()), None)


def wait_for(what: str, is_so: Callable[[], object], timeout: float = PATIENCE_S) -> None:
    until = time.monotonic() + timeout
    while not is_so():
        assert time.monotonic() < until, f"it did not come to that: {what}"
        time.sleep(0.02)


@dataclass
class Node:
    """A machine that crawls. ``environ``: of its next start."""

    name: str
    address: str
    directory: Path
    command: list[str]
    environ: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    pinched: Path | None = None
    helpers: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def runs(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def has_a_name(self) -> bool:
        """One that has just been started has none yet."""
        return self._name_file.exists()

    @property
    def uuid(self) -> str:
        return str(tomllib.loads(self._name_file.read_text())["node"])

    @property
    def _name_file(self) -> Path:
        return self.directory / "frontier" / "node.toml"


class Bench:
    """``stores``: full files are copied to ``stored``, a directory. Without ``clustered`` each node is a crawl of its own."""

    def __init__(
        self,
        folder: Path,
        network: Net,
        *,
        pages: int,
        hosts: int = 60,
        parts: int = 1,
        lease_s: float = 3.0,
        stores: bool = False,
        clustered: bool = True,
        poison: bool = False,
        listed: int = LISTED,
    ) -> None:
        self.folder, self.net, self.pages, self.hosts, self.parts, self.lease_s = folder, network, pages, hosts, parts, lease_s
        self.stores, self.clustered, self.listed, self._poison = stores, clustered, listed, poison
        self.stored, self.log = folder / "stored", folder / "visits"
        self.nodes: list[Node] = []
        self.lost: list[set[Path]] = []
        """Of each node whose disk was lost, what stands in ``stored`` and is known to: what was on its way has no mark."""
        self.lost_lines: set[tuple[str, int]] = set()
        """Those that named what was known: their rows went with a disk, and are not written again."""
        self.excuses: list[Excuse] = []
        self._cut_at: dict[str, float] = {}
        self.told: list[str] = []
        self.takeovers_s: list[float] = []
        self.database = Database(network) if clustered else None
        self.log.touch()
        command = [sys.executable, "-m", "support.judged_web", hosts, pages, WEB_PORT, self.log]
        self._web = subprocess.Popen(network.inside("web", command), cwd=Path(__file__).parents[1], stdout=subprocess.PIPE)
        assert self._web.stdout is not None and self._web.stdout.readline() == b"ready\n"

    # -- nodes --------------------------------------------------------------------------------------------------------

    def add(self, *options: str, pinched: bool = False) -> Node:
        """A machine more; ``start`` it. ``pinched``: its way to the database goes over a wire that ``order`` pinches."""
        number = len(self.nodes)
        name, address = f"n{number}", f"10.77.2.{number + 1}"
        self.net.add(name, web=f"{address}/16", db=f"10.78.0.{number + 10}/24")
        (self.folder / f"list-{name}.txt").write_text("".join(f"{line}\n" for line in self.lines(number)))
        settings = ["--delay", f"{REST_S}s", "--factor", "0", "--depth", "-1", "--scope", "any", "--no-robots", "--retries", "20"]
        settings += SETTINGS.split()
        settings += ["--processes", str(self.parts), "--memory-limit", f"{max(1, self.parts)}GiB"]
        directory = self.folder / name
        if self.stores:
            settings += ["--store", f"file://{self.stored}", "--roll-time", "2s"]
        node = Node(name, address, directory, [])
        if self.database is not None:
            url = self.database.url()
            if pinched:
                node.pinched = self.folder / f"{name}.pinch"
                command = [sys.executable, "-m", "support.pinch", "10.78.0.2", "5432", node.pinched]
                options_of = {"cwd": Path(__file__).parents[1], "stdout": subprocess.PIPE, "text": True}
                helper = subprocess.Popen(self.net.inside(name, command), **options_of)
                node.helpers.append(helper)
                assert helper.stdout is not None
                url = self.database.url("127.0.0.1", int(helper.stdout.readline()))
            settings += ["--cluster", url, "--cluster-lease", f"{self.lease_s}s"]
        arguments = ["run", "-i", str(self.folder / f"list-{name}.txt"), "-o", str(directory), *settings, *options]
        node.command = self.net.inside(name, command_of(arguments))
        self.nodes.append(node)
        return node

    def lines(self, number: int) -> list[str]:
        """What the list of a node says: its share, the first page, and a poison where there is one."""
        ours = [url_of(n, self.hosts, WEB_PORT) for n in range(1, self.listed + 1) if n % 5 == number % 5 and number < 5]
        poison = [f"http://{host_of(0, self.hosts)}:{WEB_PORT}{POISON}"] if self._poison and number == 0 else []
        return [url_of(1, self.hosts, WEB_PORT), *ours, *poison]

    def start(self, *nodes: Node) -> None:
        for node in nodes or self.nodes:
            log = (self.folder / f"{node.name}.log").open("ab")
            with log:
                options = {"env": CLEAN | node.environ, "stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
                node.process = subprocess.Popen(node.command, **options)

    def visits_by(self, node: Node, since: float = 0.0) -> int:
        return sum(visit.client == node.address and visit.begun > since for visit in visits_of(self.log)[0])

    def until_all_crawl(self, *nodes: Node) -> None:
        """From now on each has made a visit."""
        began = time.monotonic()
        for node in nodes or self.nodes:
            wait_for(f"{node.name} visits a page", lambda node=node: self.visits_by(node, began) or not node.runs)

    # -- blows --------------------------------------------------------------------------------------------------------

    def kill(self, node: Node) -> float:
        """SIGKILL to all of its processes; when."""
        at = time.monotonic()
        self.say(f"{node.name}: kill -9")
        self.net.signal(node.name, signal.SIGKILL, self._helpers(node))
        assert node.process is not None
        node.process.wait()
        return at

    def drain(self, node: Node) -> int:
        self.say(f"{node.name}: SIGTERM")
        assert node.process is not None
        node.process.terminate()
        return node.process.wait(PATIENCE_S)

    def freeze(self, node: Node) -> float:
        self.say(f"{node.name}: SIGSTOP")
        self.net.signal(node.name, signal.SIGSTOP, self._helpers(node))
        return time.monotonic()

    def thaw(self, node: Node) -> None:
        self.say(f"{node.name}: SIGCONT")
        self.excuses.append(Excuse(node.address, time.monotonic(), time.monotonic() + THAWED_S))
        self.net.signal(node.name, signal.SIGCONT)

    def cut(self, node: Node, bridge: str) -> float:
        """From ``web`` or ``db``."""
        self.say(f"{node.name}: cut off from the {bridge}")
        self.net.cut(node.name, bridge)
        if bridge == "web":
            self._cut_at[node.name] = time.monotonic()
        return time.monotonic()

    def mend(self, node: Node, bridge: str) -> None:
        self.say(f"{node.name}: joined to the {bridge} again")
        now = time.monotonic()
        if bridge == "web" and node.name in self._cut_at:  # what was under way is sent again, at longer and longer intervals
            cut_s = now - self._cut_at.pop(node.name)
            self.excuses.append(Excuse(node.address, now, now + 2 * cut_s + 1, repeated=True))
        self.net.join(node.name, bridge)
        if bridge == "db" and node.pinched is not None:
            pinch.order(node.pinched, "pass")

    def pinch(self, node: Node, word: str) -> float:
        """As ``support.pinch``, done on return."""
        assert node.pinched is not None
        pinch.order(node.pinched, word)
        self.say(f"{node.name}: a transaction was pinched ({word})")
        return time.monotonic()

    def kill_database(self) -> None:
        assert self.database is not None
        self.say("the database: killed")
        self.database.kill()

    def start_database(self) -> None:
        assert self.database is not None
        self.say("the database: back")
        self.database.start()

    def lose_disk(self, node: Node) -> None:
        """Of a node that is dead: it comes back as another, if at all."""
        self.say(f"{node.name}: its disk is lost")
        node_id = node.uuid
        self.lost.append(self.stored_of(node))
        kept = {file.name for file in self.lost[-1]}
        gone = [row for file in (node.directory / "results").iterdir() if file.name not in kept for row in rows_in(file)]
        self.lost_lines |= {line_of(row) for row in gone if row["reason"] == "duplicate" and row["final"]}
        shutil.rmtree(node.directory)
        node.command = []
        wait_for("the database has not heard of it for a lease", lambda: not self._is_heard_of(node_id))
        done = subprocess.run(
            self.net.inside("db", command_of(["cluster", "lost", node_id, *self._cluster_flags()])),
            env=CLEAN,
            capture_output=True,
            text=True,
        )
        self.say(f"cluster lost {node.name}: {(done.stderr + done.stdout).strip()}")
        assert done.returncode == 0, done.stderr

    def stored_of(self, node: Node) -> set[Path]:
        """Its files that the database knows to be stored."""
        assert self.database is not None
        found = self.database.rows(
            """SELECT key, value FROM own WHERE member IN (SELECT id FROM member WHERE node = %s)
              AND substring(key, 1, 5) = 'mark:'""",
            node.uuid,
        )
        folder = self.stored / (node.directory / "store.id").read_text().strip() if self.stores else self.stored
        return {folder / bytes(key[5:]).decode() for key, value in found if decode_mark(bytes(value)).stored}

    def _cluster_flags(self) -> list[str]:
        assert self.database is not None
        return ["--cluster", self.database.url(), "--cluster-lease", f"{self.lease_s}s"]

    def _is_heard_of(self, node_id: str) -> bool:
        assert self.database is not None
        (found,) = self.database.rows(
            "SELECT coalesce(max(seen) > clock_timestamp() - make_interval(secs => %s), false) FROM member WHERE node = %s",
            self.lease_s,
            node_id,
        )
        return bool(found[0])

    def _helpers(self, node: Node) -> list[int]:
        return [helper.pid for helper in node.helpers]

    # -- what comes of them -------------------------------------------------------------------------------------------

    def taken_over(self, node: Node, since: float, patience_s: float = PATIENCE_S) -> float:
        """Seconds until all slots are held, and none by this node, which was gone at ``since``."""
        database, node_id = self.database, node.uuid
        assert database is not None
        free = """SELECT count(*) FROM slot WHERE owner IS NULL OR until < clock_timestamp()
          OR owner IN (SELECT id FROM member WHERE node = %s)"""
        wait_for("its slots are held by others", lambda: database.rows(free, node_id) == [(0,)], patience_s)
        took_s = time.monotonic() - since
        self.takeovers_s.append(took_s)
        self.say(f"{node.name}: taken over after {took_s:.2f} s")
        return took_s

    def finish(self, timeout: float = 120.0) -> None:
        """Mend everything, start what does not run, and let the crawl end: each node says so with exit 0."""
        for node in self.nodes:
            for bridge in ("web", "db"):
                self.net.join(node.name, bridge)
        alive = [node for node in self.nodes if node.command]
        for node in alive:
            if not node.runs:
                self.start(node)
        until = time.monotonic() + timeout
        for node in alive:
            assert node.process is not None
            code = node.process.wait(max(1.0, until - time.monotonic()))
            assert code == 0, f"{node.name}: exit {code}\n{(self.folder / f'{node.name}.log').read_text()[-3000:]}"

    def judged(self) -> Verdict:
        return judge(visits_of(self.log)[0], REST_S, excuses=self.excuses)

    def faults(self) -> list[str]:
        """What was promised, and is not so."""
        files = {file for node in self.nodes if node.command for file in node.directory.glob("*/*") if file.is_file()}
        files |= {file for stored in self.lost for file in stored}
        rows = [row for file in files if file.parent.name == "results" for row in rows_in(file)]
        pages = {url_of(n, self.hosts, WEB_PORT) for n in range(1, self.pages + 1)}
        settled = [row["canonical"] for row in rows if row["reason"] not in ("duplicate", "crashed")]
        faults = [f"rows: {url}: {count}" for url, count in not_once(settled, pages).items()]
        faults += [f"{row['canonical']}: {row['outcome']} {row['reason']}" for row in rows if not _is_fine(row)]
        recorded = [uri for file in files if file.parent.name == "warc" for uri in responses_in(file)]
        faults += [f"records: {url}: {count}" for url, count in not_once(recorded, pages).items()]
        lines = {
            (f"list-{node.name}.txt", n) for number, node in enumerate(self.nodes) for n in range(1, len(self.lines(number)) + 1)
        }
        final = [line_of(row) for row in rows if row["final"] and row["input"]]
        once, gone = not_once(map(str, final), map(str, lines)), set(map(str, self.lost_lines))
        faults += [f"final rows of line {line}: {count}" for line, count in once.items() if count or line not in gone]
        return faults + self.judged().faults

    def say(self, text: str) -> None:
        self.told.append(f"{time.monotonic():.2f} {text}")

    def close(self) -> None:
        self._web.kill()
        self._web.wait()
        if self._web.stdout is not None:
            self._web.stdout.close()
        for node in self.nodes:
            for helper in node.helpers:
                helper.kill()
                helper.wait()
                if helper.stdout is not None:
                    helper.stdout.close()
            if node.process is not None and node.process.poll() is None:
                self.net.signal(node.name, signal.SIGCONT)
                self.net.signal(node.name, signal.SIGKILL)
                node.process.wait()
        if self.database is not None:
            self.database.close()


def _is_fine(row: dict) -> bool:
    return row["outcome"] == "ok" or row["reason"] == "duplicate" or (row["reason"] == "crashed" and POISON in row["canonical"])


def rows_in(file: Path) -> list[dict]:
    return [orjson.loads(line) for line in file.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def line_of(row: dict) -> tuple[str, int]:
    """Its list's name, and its number."""
    return Path(row["input"]["list"]).name, row["input"]["line"]


def responses_in(file: Path) -> list[str]:
    with file.open("rb") as stream:
        records = ArchiveIterator(stream, record_types=WarcRecordType.response, parse_http=False)
        return [record.headers["WARC-Target-URI"] for record in records]


@contextlib.contextmanager
def bench(folder: Path, **settings: object) -> Iterator[Bench]:
    hosts = settings.setdefault("hosts", 60)
    with net(hosts) as network:
        made = None
        try:
            made = Bench(folder, network, **settings)
            yield made
        finally:
            if made is not None:
                made.close()


# -- blows at random --------------------------------------------------------------------------------------------------


def pages_for(seconds: float, hosts: int) -> int:
    """So many that the crawl cannot end earlier, however fast the machine is: each host rests between two visits."""
    return int(seconds * hosts / REST_S)


def random_blows(bench: Bench, rng: random.Random, seconds: float, nodes_max: int) -> Counter[str]:
    """One after the other, for so long; at its end all is as it was. How many of each kind."""
    dealt: Counter[str] = Counter()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        alive = [node for node in bench.nodes if node.runs and node.has_a_name]
        assert alive, "all nodes have ended before the time is over"
        node, pause_s = rng.choice(alive), rng.uniform(0.5, 2.5) * bench.lease_s
        blow = rng.choice(
            ("kill", "kill", "drain", "freeze", "cut db", "cut web", "database", "answer", "request", "half", "join")
        )
        since = len(bench.told)
        if blow == "kill" or blow == "drain":
            getattr(bench, blow)(node)
            began = time.monotonic()
            with contextlib.suppress(AssertionError):  # it comes back before, perhaps
                bench.taken_over(node, began, pause_s)
            time.sleep(max(0.0, began + pause_s - time.monotonic()))
            bench.start(node)
        elif blow == "freeze":
            bench.freeze(node)
            time.sleep(pause_s)
            bench.thaw(node)
        elif blow.startswith("cut"):
            bridge = blow.partition(" ")[2]
            bench.cut(node, bridge)
            time.sleep(pause_s)
            bench.mend(node, bridge)
        elif blow == "database":
            bench.kill_database()
            time.sleep(pause_s)
            bench.start_database()
        elif blow == "join" and len(bench.nodes) < nodes_max:
            bench.start(joined := bench.add())
            bench.say(f"{joined.name}: joins")
        elif node.pinched is not None and blow in ("answer", "request", "half"):
            with contextlib.suppress(TimeoutError):
                bench.pinch(node, blow)
                if blow == "half":
                    bench.cut(node, "db")
                    time.sleep(pause_s)
                    bench.mend(node, "db")
        dealt[blow] += len(bench.told) > since
        time.sleep(rng.uniform(0.5, 2.0) * bench.lease_s)
    return dealt


def figures(bench: Bench, dealt: Counter[str], seconds: float) -> str:
    """What came of it, but for its faults."""
    verdict = bench.judged()
    took = f"; takeover at most {max(bench.takeovers_s):.1f} s" if bench.takeovers_s else ""
    return (
        f"{bench.pages:,} pages, {verdict.visits:,} visits, {verdict.again} of them again, in {seconds:.0f} s; "
        f"{dealt.total()} blows: {', '.join(f'{kind} {count}' for kind, count in sorted(dealt.items()))}; "
        f"smallest pause {verdict.pause_min_s * 1000:.0f} of {REST_S * 1000:.0f} ms, {len(verdict.overlaps)} overlaps, "
        f"{len(verdict.hurried)} hurried, {verdict.excused} excused{took}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=5)
    parser.add_argument("--parts", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--pages", type=int, help="how many there are (default: as many as take about so long)")
    parser.add_argument("--hosts", type=int, default=30)
    parser.add_argument("--lease", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument("--folder", type=Path, help="where everything goes, and stays")
    given = parser.parse_args()
    if (why := reason_not()) is not None:
        print(why, file=sys.stderr)
        return 2
    folder = given.folder or Path(tempfile.mkdtemp(prefix="cluster-bench-", dir="/tmp"))
    folder.mkdir(exist_ok=True)
    pages = given.pages or pages_for(given.minutes * 60, given.hosts)
    print(f"seed {given.seed}, {pages} pages, in {folder}")
    began = time.monotonic()
    settings = {"pages": pages, "hosts": given.hosts, "parts": given.parts, "lease_s": given.lease}
    with bench(folder, **settings) as made:
        for _ in range(given.nodes):
            made.add(pinched=True)
        made.start()
        made.until_all_crawl()
        dealt = random_blows(made, random.Random(given.seed), given.minutes * 60, given.nodes + 2)
        print(*made.told, sep="\n", flush=True)
        made.finish(1800)
        print(figures(made, dealt, time.monotonic() - began))
        faults = made.faults()
    print(*faults[:50], sep="\n")
    if given.folder is None and not faults:
        shutil.rmtree(folder)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
