"""A daemon's day in ten minutes: seeds while it crawls, pause, resume, reload, a scrape every second, SIGKILL, drain.

    tests/benchmarks/webfarm/start.sh --port 8900 &
    python tests/benchmarks/day.py --farm-port 8900 --urls 1000000 --seconds 600

Ends with 0 if at its end the API, the metrics, the rows and the archive agree to the unit, and prints what it saw.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gauges import free_port, scraped, tree_pss

from crawler.crawl.reading import open_crawl_reader
from crawler.frontier import open_reader

HOSTS = 200
LIST = "day"


class Day:
    """One daemon after the other on one directory, and what a scrape a second says of them."""

    def __init__(self, root: Path, farm_port: int, urls: int) -> None:
        self.root, self.farm_port, self.urls = root, farm_port, urls
        self.port, self.metrics_port = free_port(), free_port()
        self.file = root.parent / "crawler.toml"
        self.scrapes: list[dict[str, float]] = []
        self.pss = 0
        self.acknowledged: dict[str, Any] | None = None
        self.process = self.start()

    def start(self, rate: float = 0) -> subprocess.Popen[bytes]:
        self.file.write_text(f"rate = {rate}\n")
        listen = ["--listen", f"127.0.0.1:{self.port}", "--metrics-listen", f"127.0.0.1:{self.metrics_port}"]
        farm = ["--allow-net", "127.0.0.0/8", "--no-robots", "--delay", "0", "--per-host", "4", "--archive", "warc"]
        command = [sys.executable, "-m", "crawler", "serve", "--config", str(self.file), "--data", str(self.root)]
        process = subprocess.Popen([*command, *listen, *farm, "--log-level", "warning"])
        while not scraped(self.metrics_port):
            assert process.poll() is None
            time.sleep(0.05)
        return process

    def ask(self, method: str, path: str) -> dict[str, Any]:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            told: dict[str, Any] = json.loads(answer.read())
            return told

    def lines(self) -> Iterator[bytes]:
        for start in range(0, self.urls, 1000):
            numbers = range(start, min(start + 1000, self.urls))
            yield "".join(f"http://127.1.1.{1 + n % HOSTS}:{self.farm_port}/p/{n // HOSTS}\n" for n in numbers).encode()

    def upload(self) -> None:
        """The whole list; sent again under its name if a kill comes between."""
        while self.acknowledged is None:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection.request("POST", f"/v1/seeds?list={LIST}", self.lines())
                answer = connection.getresponse()
                told = json.loads(answer.read())
                if answer.status == 200:
                    self.acknowledged = told
            connection.close()
            time.sleep(0.1)

    def watch(self, seconds: float) -> None:
        """Scrape every second; no counter may go back while a process lives."""
        until = time.monotonic() + seconds
        before: dict[str, float] = {}
        while time.monotonic() < until:
            found = scraped(self.metrics_port)
            assert found, "a scrape failed"
            gone_back = [name for name in before if "_total" in name and found.get(name, 0) < before[name]]
            assert not gone_back, gone_back
            self.scrapes.append(found)
            self.pss = max(self.pss, tree_pss(self.process.pid))
            before = found
            time.sleep(1)

    def settled_down(self) -> tuple[dict[str, Any], dict[str, float]]:
        """Paused, nothing in flight, everything committed: status and metrics of that moment."""
        self.ask("POST", "/v1/pause")
        while True:
            status, found = self.ask("GET", "/v1/status"), scraped(self.metrics_port)
            if not status["in_flight"] and not found["crawler_commit_age_seconds"]:
                again = scraped(self.metrics_port)
                if again['crawler_frontier_urls{state="done"}'] == status["done"]:
                    return status, again
            time.sleep(0.2)


def lived(day: Day, seconds: float) -> dict[str, float]:
    """The day up to its drain; the last scrape. Asserts on the way."""
    uploading = threading.Thread(target=day.upload, daemon=True)
    uploading.start()
    day.watch(seconds * 0.25)

    first, _ = day.settled_down()
    time.sleep(2)
    assert day.ask("GET", "/v1/status")["done"] == first["done"], "it went on while paused"
    day.ask("POST", "/v1/resume")
    day.watch(seconds * 0.1)
    assert day.ask("GET", "/v1/status")["done"] > first["done"], "it did not go on"

    day.file.write_text("rate = 50\n")
    day.process.send_signal(signal.SIGHUP)
    day.watch(5)
    slow = day.scrapes[-1]["crawler_fetch_duration_seconds_count"] - day.scrapes[-3]["crawler_fetch_duration_seconds_count"]
    assert slow <= 50 * 4, f"{slow} fetches in about two seconds at a rate of 50"
    day.file.write_text("rate = 0\n")
    day.process.send_signal(signal.SIGHUP)
    day.watch(seconds * 0.15)

    known = day.ask("GET", "/v1/status")["known"]
    os.kill(day.process.pid, signal.SIGKILL)
    day.process.wait()
    began = time.monotonic()
    day.process = day.start()
    print(f"killed at {known:,} known; serving again after {time.monotonic() - began:.1f} s")
    found = scraped(day.metrics_port)
    assert sum(value for name, value in found.items() if name.startswith("crawler_frontier_urls{")) >= known
    done_before, settled_before = found['crawler_frontier_urls{state="done"}'], found['crawler_urls_total{event="settled"}']
    day.watch(seconds * 0.25)
    uploading.join()
    day.watch(seconds * 0.25)

    status, found = day.settled_down()
    assert status["known"] == day.urls, (status["known"], day.urls)
    assert done_before - settled_before + found['crawler_urls_total{event="settled"}'] == status["done"]
    return found


def agreed(day: Day, found: dict[str, float]) -> None:
    """API (which reads the store), metrics, rows and archive."""
    reader = open_reader(day.root / "frontier")
    counts = reader.stats()
    reader.close()
    with open_crawl_reader(day.root) as reading:
        rows = Counter(result.row["outcome"] for result in reading.results())
        verified = reading.verify(print)
    assert found['crawler_frontier_urls{state="done"}'] == counts.done == sum(rows.values()), (counts, rows)
    assert dict(rows) == dict(counts.outcomes), (rows, counts.outcomes)
    assert not verified.faults
    print(f"{counts.done:,} of {counts.known:,} settled, {dict(rows)}, {verified.records:,} records: all agree")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--farm-port", type=int, default=8900)
    parser.add_argument("--urls", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=600)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        day = Day(Path(directory) / "data", given.farm_port, given.urls)
        try:
            found = lived(day, given.seconds)
            began = time.monotonic()
            day.ask("POST", "/v1/drain")
            assert day.process.wait(60) == 0
            print(f"drained in {time.monotonic() - began:.1f} s; {len(day.scrapes)} scrapes; peak PSS {day.pss >> 20} MiB")
        finally:
            day.process.kill()
        agreed(day, found)


if __name__ == "__main__":
    main()
