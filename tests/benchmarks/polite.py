"""A polite crawl of many hosts by TLS: what it costs where most hosts rest, and their connections wait, by memory limit.

    python tests/benchmarks/polite.py --hosts 1000 --seconds 40 --limits 512MiB,1GiB

Links are followed with the default delays, each response comes 50 ms late and compressed, and every host has a certificate of
its own. Told are pages, CPU a page, connections a page, and the peak of memory. A connection that had to go while its host
rested costs a handshake.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from measure import Farm, Run, farm, prepare, run


def crawl(web: Farm, urls: list[str], seconds: int, limit: str) -> Run:
    with tempfile.TemporaryDirectory(prefix="polite-") as folder:
        listed = Path(folder, "list")
        listed.write_text("\n".join(urls) + "\n")
        asked = [
            "-i",
            str(listed),
            "-o",
            str(Path(folder, "out")),
            "--depth",
            "-1",
            "--scope",
            "any",
            "--max-time",
            f"{seconds}s",
        ]
        settings = ["--allow-net", "127.0.0.0/8", "--ca-file", str(web.ca), "--memory-limit", limit, "--progress", "none", "-q"]
        return run([sys.executable, "-m", "crawler", "run", *asked, *settings], timeout_s=seconds + 60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, default=1000)
    parser.add_argument("--seconds", type=int, default=40)
    parser.add_argument("--limits", default="512MiB,1GiB", help="memory limits, each run after the other")
    parser.add_argument("--latency", type=int, default=50, help="milliseconds before each response")
    options = parser.parse_args()
    prepare()
    print("| memory limit | pages | pages/s | CPU ms a page | connections a page | peak PSS MiB |")
    print("| --- | --- | --- | --- | --- | --- |")
    with farm(0, f"--hosts={options.hosts}", "--gzip=1", f"--latency-ms={options.latency}", tls_hosts=options.hosts) as web:
        urls = web.urls(options.hosts, options.hosts)
        for limit in options.limits.split(","):
            web.reset()
            done = crawl(web, urls, options.seconds, limit)
            if done.code != 5:
                raise SystemExit(f"exit {done.code}: {done.said}")
            stats = web.stats()
            pages = int(stats["pages_ok"])
            told = f"{done.cpu_s / pages * 1e3:.2f} | {stats['connections'] / pages:.2f} | {done.pss_bytes >> 20}"
            print(f"| {limit} | {pages:,} | {pages / done.wall_s:,.0f} | {told} |", flush=True)


if __name__ == "__main__":
    main()
