"""The memory curve: memory, CPU per page, claim latency and restart over the number of known URLs, while crawling.

    python tests/benchmarks/curve.py --known 100000 1000000 10000000 --csv curve.csv --plot curve.png

For every number a crawl is begun whose list names ten URLs on each of many hosts; once all are known it is ended by SIGKILL.
With ``--listed`` the list ends there, and the rest of the URLs goes through the store alone, as links of a page do: a
hundred million take an hour instead of a day.
What is told: how long the store takes to open and give its first leases, how long a claim takes, how long the command takes
to its first request, then CPU and memory of the next pages it fetches, their links admitted and the archive discarded.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Final

from gauges import free_port, scraped, tree_pss
from known import write_list
from measure import Farm, farm, tree

from crawler.core.batch import Admitted, Batch
from crawler.core.keys import Keys
from crawler.core.link_block import Packer, block_of
from crawler.core.model import Link
from crawler.core.urls import host_key
from crawler.frontier import Limits, open_store
from crawler.resources.memory_plan import Needs, divide

LIMIT_MIB: Final = 256
URLS_PER_HOST: Final = 10
HOSTS_A_COMMIT: Final = 500
"""Whose links go into the store at a time."""
CLAIMS: Final = 100
NEEDS: Final = Needs(100, 1, max_parse=4 << 20, max_body=64 << 20, max_head=256 << 10, max_outlinks=100_000)
LEASES_OF: Final = (64, 4)
"""Hosts and links of each that are claimed at a time."""
WARM_PAGES: Final = 2_000
TICKS: Final = os.sysconf("SC_CLK_TCK")


def begun(root: Path, urls: int, farm_port: int) -> None:
    """A crawl in ``root`` that knows so many URLs and has visited hardly any, killed."""
    port = free_port()
    crawl = subprocess.Popen([*command(root, port), "--rate", "1", "-i", "-"], stdin=subprocess.PIPE)
    assert crawl.stdin is not None
    lines = (crawl.stdin, urls, max(1, urls // URLS_PER_HOST), farm_port)
    threading.Thread(target=write_list, args=lines, daemon=True).start()
    try:
        while known(scraped(port)) < urls:
            assert crawl.poll() is None
            time.sleep(0.5)
    finally:
        crawl.kill()
        crawl.wait()


def command(root: Path, port: int) -> list[str]:
    found = [sys.executable, "-m", "crawler", "run", "-o", str(root), "--archive", "discard", "--no-robots", "--depth", "1"]
    found += ["--scope", "any", "--delay", "0", "--factor", "0", "--allow-net", "127.0.0.0/8", "-q", "--progress", "none"]
    return [*found, "--memory-limit", f"{LIMIT_MIB}MiB", "--metrics-listen", f"127.0.0.1:{port}"]


def admitted(root: Path, urls: int, listed: int, farm_port: int) -> None:
    """Make known the rest of ``urls`` on as many hosts as ``begun`` had in mind: blocks of links, as pages have them."""
    plan = divide(LIMIT_MIB << 20, NEEDS)
    store = open_store(
        "embedded", root / "frontier", Limits(True), now=time.time(), rest=lambda host: 0.0, memory_bytes=plan.accounts["store"]
    )
    page = Link("http://127.0.0.1/", "127.0.0.1", "seed")
    hosts, keys = urls // URLS_PER_HOST, Keys(store.secret())
    try:
        for low in range(listed // URLS_PER_HOST, hosts, HOSTS_A_COMMIT):
            names = [
                f"http://127.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}:{farm_port}/p/"
                for n in range(1 + low, 1 + min(low + HOSTS_A_COMMIT, hosts))
            ]
            packer = Packer(keys, with_queries=True)
            for name in names:
                host = host_key(name)
                packer.add((f"{name}{number}", host) for number in range(URLS_PER_HOST))
            block = block_of(packer.take(), page, deeper=0)
            batch = Batch([], [Admitted((), block=block)], {}, {}, now=store.clock(), wall=time.time())
            store.commit(store.prepare(batch), [], {})
    finally:
        store.close()


def known(gauges: dict[str, float]) -> int:
    return int(sum(value for name, value in gauges.items() if name.startswith("crawler_frontier_urls{")))


def asked_of_the_store(root: Path) -> dict[str, float]:
    """Milliseconds to open the store and claim from it the first time, and for each claim after that."""
    plan = divide(LIMIT_MIB << 20, NEEDS)
    began = time.perf_counter()
    store = open_store(
        "embedded", root / "frontier", Limits(True), now=time.time(), rest=lambda host: 0.0, memory_bytes=plan.accounts["store"]
    )
    try:
        now = store.clock() + 3600
        first = store.claim(*LEASES_OF, now, {})
        opened = time.perf_counter() - began
        assert first
        claims = []
        for _ in range(CLAIMS):
            at = time.perf_counter()
            store.claim(*LEASES_OF, now, {})
            claims.append(time.perf_counter() - at)
        claims.sort()
        return {
            "first_lease_ms": 1000 * opened,
            "claim_p50_ms": 1000 * statistics.median(claims),
            "claim_p99_ms": 1000 * claims[len(claims) * 99 // 100],
        }
    finally:
        store.close()


def cpu_s(pid: int) -> float:
    """User and system time of a process tree."""
    total = 0
    for process in tree(pid):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def crawled(root: Path, web: Farm, pages: int) -> dict[str, float]:
    """What the next ``pages`` pages cost, after some to warm up."""
    web.reset()
    port, began, peak = free_port(), time.monotonic(), 0
    crawl = subprocess.Popen(command(root, port))
    try:
        while not (served := web.stats()["pages_ok"]):
            time.sleep(0.02)
        first_request_s = time.monotonic() - began
        marks: list[tuple[float, float, float]] = []
        while served < WARM_PAGES + pages:
            assert crawl.poll() is None
            time.sleep(0.25)
            served, peak = web.stats()["pages_ok"], max(peak, tree_pss(crawl.pid))
            if served >= WARM_PAGES:
                marks.append((served, cpu_s(crawl.pid), time.monotonic()))
        (from_page, from_cpu, from_s), (to_page, to_cpu, to_s) = marks[0], marks[-1]
        return {
            "first_request_s": first_request_s,
            "cpu_ms_per_page": 1000 * (to_cpu - from_cpu) / (to_page - from_page),
            "pages_per_s": (to_page - from_page) / (to_s - from_s),
            "pss_mib": peak / 2**20,
            "known_at_end": known(scraped(port)),
        }
    finally:
        crawl.kill()
        crawl.wait()


def disk_mib(root: Path) -> float:
    return sum(path.stat().st_size for path in (root / "frontier").iterdir()) / 2**20


def plot(rows: list[dict[str, Any]], file: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(10, 3), dpi=90)
    urls = [row["known"] for row in rows]
    axes[0].axhline(LIMIT_MIB, color="grey", linestyle=":", linewidth=1, label="--memory-limit")
    shown = (
        (axes[0], "memory of the process tree, MiB", {"pss_mib": "peak PSS"}),
        (axes[1], "CPU per page, ms", {"cpu_ms_per_page": "user and system"}),
        (axes[2], "a claim of 64 hosts, ms", {"claim_p50_ms": "median", "claim_p99_ms": "99th percentile"}),
    )
    for axis, title, lines in shown:
        for key, label in lines.items():
            axis.plot(urls, [row[key] for row in rows], marker="o", label=label)
        axis.set(xscale="log", xlabel="known URLs", title=title, ylim=(0, None))
        axis.title.set_fontsize(9)
        axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--known", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--listed", type=int, help="URLs that come by the list at most (default: all)")
    parser.add_argument("--pages", type=int, default=20_000)
    parser.add_argument("--port", type=int, default=0, help="of the web (default: one that is free)")
    parser.add_argument("--dir", type=Path, help="where the crawls are kept while they last (default: /tmp)")
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with farm(options.port, "--hosts", "1000000", "--gzip=0") as web:
        for urls in options.known:
            with tempfile.TemporaryDirectory(dir=options.dir) as folder:
                root = Path(folder, "crawl")
                listed = min(urls, options.listed or urls)
                begun(root, listed, web.port)
                admitted(root, urls, listed, web.port)
                row = {"known": urls, "hosts": urls // URLS_PER_HOST, "disk_mib": disk_mib(root)}
                rows.append(row | asked_of_the_store(root) | crawled(root, web, options.pages))
                print(", ".join(f"{key} {value:,.1f}" for key, value in rows[-1].items()), flush=True)
    if options.csv:
        with options.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    if options.plot:
        plot(rows, options.plot)


if __name__ == "__main__":
    main()
