"""Memory over the number of known URLs: a list of 10 on each of many hosts is admitted and hardly any of it is visited.

    python tests/benchmarks/known.py 10000000 1000000 --memory-limit 256MiB > known.csv

Prints known URLs, seconds, the tree's PSS and the store's account in bytes, as CSV. The hosts are loopback addresses that
the guard refuses, and --rate keeps visits few: what is measured is what knowing a URL costs.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from gauges import free_port, scraped, tree_pss


def write_list(out: BinaryIO, urls: int, hosts: int, port: int = 8) -> None:
    """``urls`` lines, turn by turn over ``hosts`` addresses of 127.0.0.0/8, so that no host's links come together."""
    for low in range(0, urls, 10_000):
        turns = ((line // hosts, 1 + line % hosts) for line in range(low, min(low + 10_000, urls)))
        lines = (f"http://127.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}:{port}/p/{page}\n" for page, n in turns)
        out.write("".join(lines).encode())
    out.close()


def measured(command: list[str], urls: int, hosts: int, tell: Callable[[int, float, int, int], None], port: int) -> None:
    """Run the crawl until all is known, then for five seconds more."""
    crawl = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert crawl.stdin is not None
    threading.Thread(target=write_list, args=(crawl.stdin, urls, hosts), daemon=True).start()
    began, known, left = time.monotonic(), 0, 5
    try:
        while left and crawl.poll() is None:
            time.sleep(1)
            gauges = scraped(port)
            if not gauges:
                continue
            known = int(sum(value for name, value in gauges.items() if name.startswith("crawler_frontier_urls{")))
            store = int(gauges.get('crawler_memory_used_bytes{account="store"}', 0))
            tell(known, time.monotonic() - began, tree_pss(crawl.pid), store)
            left -= known >= urls
    finally:
        crawl.terminate()
        crawl.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("urls", type=int)
    parser.add_argument("hosts", type=int)
    parser.add_argument("--memory-limit", default="256MiB")
    wanted = parser.parse_args()
    port = free_port()
    print("known,seconds,pss_bytes,store_bytes", flush=True)
    with tempfile.TemporaryDirectory() as root:
        command = [sys.executable, "-m", "crawler", "run", "-i", "-", "-o", str(Path(root, "crawl")), "--quiet"]
        command += ["--no-robots", "--archive", "discard", "--rate", "1", "--memory-limit", wanted.memory_limit]
        command += ["--metrics-listen", f"127.0.0.1:{port}", "--log-level", "error"]

        def tell(known: int, seconds: float, pss: int, store: int) -> None:
            print(f"{known},{seconds:.1f},{pss},{store}", flush=True)

        measured(command, wanted.urls, wanted.hosts, tell, port)


if __name__ == "__main__":
    main()
