"""What slow clients of the control API cost a daemon: the same crawl without and with them, in turn.

    python tests/benchmarks/slow_clients.py --pages 10000 --rounds 5

With: 99 clients that ask for results or metrics and hardly read the answer, and one upload that stalls in its middle. Prints
CPU seconds per 1,000 pages, peak memory and the 99th percentile of the loop's lag, and the ratios of the medians.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from typing import Final

from curve import cpu_s
from gauges import free_port, scraped, tree_pss
from measure import CLIENT_CPU, Farm, farm, prepare

CLIENTS: Final = 100
ASKED: Final = ("/v1/results", "/metrics", "/v1/status", "/v1/hosts")
LAG: Final = "crawler_event_loop_lag_seconds_bucket"
STALLED: Final = b"POST /v1/seeds HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n\r\nhttp://127.1.1.1:1/"


@contextlib.contextmanager
def slow(port: int, count: int) -> Iterator[None]:
    """So many connections to the control API, each with a small window and read a byte a second."""
    ended = threading.Event()
    clients = []
    for number in range(count):
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", port))
        asked = f"GET {ASKED[number % len(ASKED)]} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
        client.sendall(asked if number else STALLED.replace(b"127.0.0.1", b"127.0.0.1:%d" % port, 1))
        client.setblocking(False)
        clients.append(client)

    def read() -> None:
        while not ended.wait(1.0):
            for client in clients:
                with contextlib.suppress(OSError):
                    client.recv(1)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield
    finally:
        ended.set()
        reader.join()
        for client in clients:
            client.close()


def p99(gauges: dict[str, float]) -> float:
    """The least bucket bound, in seconds, below which 99 of 100 wake-ups were late."""
    buckets = {float(name.split('"')[1]): count for name, count in gauges.items() if name.startswith(LAG)}
    total = max(buckets.values())
    return min(bound for bound, count in buckets.items() if count >= 0.99 * total)


def measured(web: Farm, pages: int, clients: int) -> tuple[float, float, float]:
    """(CPU seconds per 1,000 pages, peak PSS in MiB, 99th percentile of the lag in seconds) of one daemon."""
    listen, metrics = free_port(), free_port()
    with tempfile.TemporaryDirectory() as root:
        command = ["taskset", "-c", CLIENT_CPU, sys.executable, "-m", "crawler", "serve", "--data", root, "--log-level", "error"]
        command += ["--listen", f"127.0.0.1:{listen}", "--metrics-listen", f"127.0.0.1:{metrics}", "--no-robots"]
        daemon = subprocess.Popen([*command, "--delay", "0", "--factor", "0", "--allow-net", "127.0.0.0/8"])
        try:
            while not scraped(metrics):
                time.sleep(0.1)
            with slow(listen, clients):
                began, peak = cpu_s(daemon.pid), 0
                urls = "\n".join(web.urls(pages, 200)).encode()
                request = urllib.request.Request(f"http://127.0.0.1:{listen}/v1/seeds", urls)
                urllib.request.urlopen(request, timeout=300).read()
                while (gauges := scraped(metrics)).get('crawler_frontier_urls{state="done"}', 0) < pages:
                    peak = max(peak, tree_pss(daemon.pid))
                    time.sleep(0.5)
                return 1000 * (cpu_s(daemon.pid) - began) / pages, peak / 2**20, p99(gauges)
        finally:
            daemon.terminate()
            daemon.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--port", type=int, default=8970, help="of the web")
    options = parser.parse_args()
    prepare()
    found: dict[int, list[tuple[float, float, float]]] = {0: [], CLIENTS: []}
    with farm(options.port, "--hosts", "200", "--gzip=0") as web:
        for _ in range(options.rounds):
            for clients, results in found.items():
                results.append(measured(web, options.pages, clients))
                cpu, pss, lag = results[-1]
                print(f"{clients} slow clients: {cpu:.3f} CPU s per 1,000 pages, {pss:.0f} MiB, lag p99 <= {lag:g} s", flush=True)
    without, beside = ([statistics.median(column) for column in zip(*results, strict=True)] for results in found.values())
    print(
        "ratios: "
        + ", ".join(f"{name} {b / a:.2f}" for name, a, b in zip(("CPU", "memory", "lag"), without, beside, strict=True))
    )


if __name__ == "__main__":
    os.environ.pop("CRAWLER_API_TOKEN", None)
    main()
