"""Memory before a swarm: the heaviest responses there are, all at once, and a limit that must hold.

    nice python tests/benchmarks/swarm.py --memory-limit 256MiB -- --no-robots
    nice python tests/benchmarks/swarm.py --memory-limit 256MiB -- --no-robots --depth 1 --scope any

Thirty of each of twenty kinds (``tests/support/sins_heavy.py``), each kind once at each of thirty hosts, which all have a
robots.txt of 400 KiB. What follows ``--`` is given to ``crawler run``. Prints the peak, and what each account used then. Ends
with 0 if the process tree stayed below the limit at each of ten samples a second, and every URL has the one row that its kind
must have, every page its record.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import uvloop
from gauges import free_port, scraped
from measure import HERE, tree
from serving import serving

sys.path.insert(0, str(HERE.parent))

from support.programs import CLEAN, crawler, rows_of
from support.sinful import Conn, Site, head, stay
from support.sins_heavy import HEAVY, MAX_BODY

MIB: Final = 1 << 20
SAMPLE_EVERY_S: Final = 0.1
SCRAPE_EVERY_S: Final = 0.25
SETTINGS: Final = (
    *("--allow-net", "127.0.0.0/8", "--delay", "0", "--factor", "0", "--max-body", str(MAX_BODY), "--workers", "64"),
    *("--per-host", "8", "--min-free-disk", "1MiB", "--progress", "none"),
)
ROBOTS: Final = b"User-agent: *\n" + b"".join(b"Disallow: /private/%d/*/x\n" % n for n in range(14_000))


class Swarm(Site):
    """``/sin/NAME?N`` for every heavy kind, and a robots.txt."""

    async def answer(self, conn: Conn, target: str) -> None:
        if target == "/robots.txt":
            await conn.play([head(len(ROBOTS), mime="text/plain") + ROBOTS, stay])
        else:
            await super().answer(conn, target)


def lines(port: int, each: int, kinds: Sequence[str]) -> list[str]:
    """Each kind once at each host."""
    hosts = [f"127.0.{2 + number // 250}.{1 + number % 250}:{port}" for number in range(each)]
    return [f"http://{host}/sin/{kind}" for host in hosts for kind in kinds]


class Sample(NamedTuple):
    """Bytes of a process tree, what is shared counted once."""

    at: float
    pss: int
    anonymous: int


def sampled(pid: int) -> Sample:
    """``measure.tree`` and its PSS; a child that was just made by vfork still is its parent."""
    pss, anonymous, seen = 0, 0, set()
    for one in tree(pid):
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{one}/cmdline").read_bytes()
            if one != pid and command in seen and b"crawler.parse.child" not in command:
                continue
            seen.add(command)
            rollup = Path(f"/proc/{one}/smaps_rollup").read_text()
            pss += int(re.search(r"(?m)^Pss: +(\d+)", rollup)[1]) << 10
            anonymous += int(re.search(r"(?m)^Pss_Anon: +(\d+)", rollup)[1]) << 10
    return Sample(time.monotonic(), pss, anonymous)


@dataclass
class Watcher:
    """Samples a process tree, and what the crawl says of its accounts, until it is left."""

    pid: int
    port: int
    samples: list[Sample] = field(default_factory=list)
    gauges: list[tuple[float, Mapping[str, float]]] = field(default_factory=list)

    def __enter__(self) -> Watcher:
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._sample), threading.Thread(target=self._scrape)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _sample(self) -> None:
        while not self._ended.wait(SAMPLE_EVERY_S):
            self.samples.append(sampled(self.pid))

    def _scrape(self) -> None:
        while not self._ended.wait(SCRAPE_EVERY_S):
            if gauges := scraped(self.port):
                self.gauges.append((time.monotonic(), gauges))

    @property
    def peak(self) -> Sample:
        return max(self.samples, key=lambda sample: sample.pss)

    def at_peak(self) -> Mapping[str, float]:
        """What the crawl said of itself nearest to the peak."""
        at = self.peak.at
        return min(self.gauges, key=lambda read: abs(read[0] - at), default=(0.0, {}))[1]

    def largest(self, account: str) -> float:
        name = f'crawler_memory_used_bytes{{account="{account}"}}'
        return max((gauges.get(name, 0.0) for _, gauges in self.gauges), default=0.0)


async def serve(port: int) -> None:
    scripts = {name: sin.script for name, sin in HEAVY.items()}
    async with Swarm(host="0.0.0.0", port=port, scripts=scripts):
        print("ready", flush=True)
        await asyncio.Event().wait()


def wrong_ends(out: Path, given: Sequence[str]) -> dict[str, object]:
    """URLs that did not get the one row that their kind must have."""
    ends: dict[str, list[tuple[str, str | None]]] = {url: [] for url in given}
    for row in rows_of(out):
        if row["kind"] == "seed":
            ends[row["url"]].append((row["outcome"], row["reason"]))
    wanted = {url: HEAVY[url.rpartition("/")[2]] for url in given}
    return {url: ends[url] for url, sin in wanted.items() if ends[url] != [(sin.outcome, sin.reason)]}


@dataclass
class Result:
    code: int
    seconds: float
    cpu_s: float
    """User and system, of the whole tree."""
    watcher: Watcher
    wrong: dict[str, object]
    said: str


def crawled(given: Sequence[str], folder: Path, *options: str) -> Result:
    """One crawl of these lines in ``folder``/out."""
    out, port = folder / "out", free_port()
    (folder / "list").write_text("\n".join(given))
    command = [sys.executable, "-m", "crawler", "run", "-i", str(folder / "list"), "-o", str(out), *SETTINGS, *options]
    command += ["--metrics-listen", f"127.0.0.1:{port}"]
    began = time.monotonic()
    with (
        (folder / "said").open("w") as said,
        subprocess.Popen(command, env=CLEAN, stdin=subprocess.DEVNULL, stderr=said) as crawl,
    ):
        try:
            with Watcher(crawl.pid, port) as watcher:
                _, status, usage = os.wait4(crawl.pid, 0)
                crawl.returncode = code = os.waitstatus_to_exitcode(status)
        finally:
            crawl.kill()
    took = time.monotonic() - began
    wrong = wrong_ends(out, given) if code == 0 else {"exit": code}
    if code == 0 and (checked := crawler("verify", str(out), timeout=600)).returncode:
        wrong["verify"] = checked.stdout + checked.stderr
    return Result(code, took, usage.ru_utime + usage.ru_stime, watcher, wrong, (folder / "said").read_text())


def report(result: Result, limit: str) -> str:
    watcher, peak = result.watcher, result.watcher.peak
    at = f"at {peak.at - watcher.samples[0].at:.1f} s"
    text = [f"peak PSS {peak.pss / MIB:.1f} MiB of {limit}, anonymous {peak.anonymous / MIB:.1f} MiB, {at}"]
    gauges = watcher.at_peak()
    states = [name.split('"')[1] for name, on in gauges.items() if name.startswith("crawler_memory_state{") and on]
    text.append(f"then: state {', '.join(states)}, {gauges.get('crawler_requests_in_flight', 0):.0f} requests in flight")
    text.append(f"{'account':<12}{'MiB then':>10}{'of':>8}{'largest':>10}{'waits':>8}")
    for name in gauges:
        if found := re.fullmatch(r'crawler_memory_budget_bytes\{account="(.*)"\}', name):
            used, budget = gauges[f'crawler_memory_used_bytes{{account="{found[1]}"}}'], gauges[name]
            waits = gauges.get(f'crawler_memory_waits_total{{account="{found[1]}"}}', 0)
            text.append(
                f"{found[1]:<12}{used / MIB:>10.1f}{budget / MIB:>8.1f}{watcher.largest(found[1]) / MIB:>10.1f}{waits:>8.0f}"
            )
    return "\n".join(text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=30, help="of each kind; that many hosts")
    parser.add_argument("--kinds", nargs="+", choices=HEAVY, default=list(HEAVY), metavar="KIND", help="only these")
    parser.add_argument("--memory-limit", default="256MiB")
    parser.add_argument("--dir", type=Path, help="where the crawl is kept while it lasts (default: /tmp)")
    parser.add_argument("--serve", type=int, metavar="PORT", help="only be the swarm")
    parser.add_argument("--csv", type=Path, help="write the samples here")
    parser.add_argument("options", nargs="*", help="of crawler run")
    options = parser.parse_args()
    if options.serve:
        uvloop.run(serve(options.serve))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started ends as well
    with serving(__file__) as port, tempfile.TemporaryDirectory(prefix="swarm-", dir=options.dir) as folder:
        given = lines(port, options.each, options.kinds)
        result = crawled(given, Path(folder), "--memory-limit", options.memory_limit, *options.options)
    if options.csv:
        begun = result.watcher.samples[0].at
        options.csv.write_text("".join(f"{one.at - begun:.2f},{one.pss},{one.anonymous}\n" for one in result.watcher.samples))
    print(result.said, end="")
    print(report(result, options.memory_limit))
    limit = result.watcher.at_peak().get("crawler_memory_limit_bytes", 0)
    kinds = Counter(str(end) if isinstance(end, str) else f"{url.rpartition('/')[2]}: {end}" for url, end in result.wrong.items())
    for text, count in kinds.items():
        print(f"wrong: {count} × {text}")
    took = f"{result.seconds:.0f} s, {result.cpu_s:.0f} s of CPU"
    print(f"{len(given) - len(result.wrong)} of {len(given)} settled as they must, exit {result.code}, {took}")
    return 1 if result.wrong or result.watcher.peak.pss >= limit else 0


if __name__ == "__main__":
    sys.exit(main())
