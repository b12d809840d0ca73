"""What the parts of a page cost that no crawler built from these libraries can leave out, each alone in a bare loop: no limits,
no politeness, no robots, no retries, no metrics, no threads. Their sums are a floor under any ratio that ``run.py`` prints.

    python tests/benchmarks/floor.py --pages 20000 --rounds 5

    ask    aiohttp's connector, pool and C parser, the request as ready bytes, the body read and dropped
    keep   three digests, one gzip member by isal, one row by orjson, appended; synced every 100 pages
    read   the document parsed, its links joined by slicing
    queue  RocksDB tuned as ours: links looked up, new ones put into ``seen`` and ``queue``, the page settled; synced every
           100 pages. Keys and values are made beforehand

CPU is user and system time of the part's own loop, start-up left out; that of REF counts whole, as in ``run.py``.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from measure import CLIENT_CPU, HERE, farm, prepare, run

HOSTS = 200
SAMPLES = 400
"""Different pages that ``keep`` and ``read`` go round."""
PAGES_A_SYNC = 100
WORKERS = 100


def clocked(work: Callable[[], Any]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


# -- the parts: each gives the CPU seconds of its loop ---------------------------------------------------------------------


def ask(urls: list[str], bodies: list[bytes], folder: Path) -> float:
    import aiohttp
    import uvloop
    from aiohttp.client_reqrep import ConnectionKey
    from yarl import URL

    class Asking:
        """What the connector wants to know of a request."""

        proxy = server_hostname = None
        ssl = True

        def __init__(self, url: str) -> None:
            self.href = url
            authority, _, path = url.removeprefix("http://").partition("/")
            host, _, port = authority.partition(":")
            self.port = int(port)
            self.head = f"GET /{path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: floor\r\nAccept: */*\r\n\r\n".encode()
            self.connection_key = ConnectionKey(host, self.port, False, True, None, None, None, None)

        def is_ssl(self) -> bool:
            return False

        @property
        def url(self) -> URL:
            return URL(self.href)

    async def worker(connector: aiohttp.TCPConnector, left: Iterator[str], timeout: aiohttp.ClientTimeout) -> None:
        for url in left:
            asking: Any = Asking(url)
            connection = await connector.connect(asking, [], timeout)
            protocol = connection.protocol
            assert protocol is not None and protocol.transport is not None
            protocol.set_response_params(auto_decompress=False, read_bufsize=1 << 16)
            protocol.transport.write(asking.head)
            _, payload = await protocol.read()
            while not payload.at_eof():
                await payload.readany()
            connection.release()

    async def all_of_them() -> None:
        left = iter(urls)
        async with aiohttp.TCPConnector(limit=WORKERS) as connector:
            await asyncio.gather(*(worker(connector, left, aiohttp.ClientTimeout()) for _ in range(WORKERS)))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return clocked(lambda: runner.run(all_of_them()))


def keep(urls: list[str], bodies: list[bytes], folder: Path) -> float:
    import orjson
    from isal import isal_zlib

    head = b"HTTP/1.1 200 OK\r\nServer: webfarm\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: 12345\r\n\r\n"
    about = b"WARC/1.1\r\n" + b"WARC-Some-Field: some value of some length\r\n" * 12 + b"\r\n"

    def work() -> None:
        with Path(folder, "warc").open("wb") as warc, Path(folder, "rows").open("wb") as rows:
            for number, url in enumerate(urls, 1):
                body = bodies[number % len(bodies)]
                digests = [hashlib.sha1(body).hexdigest(), hashlib.sha1(head + body).hexdigest()]
                digests.append(hashlib.sha256(body).hexdigest())
                warc.write(isal_zlib.compress(b"".join((about, head, body, b"\r\n\r\n")), 1, 31))
                row = {"url": url, "canonical": url, "status": 200, "digests": digests}
                rows.write(orjson.dumps(row | {f"field{n}": n for n in range(24)}) + b"\n")
                if number % PAGES_A_SYNC == 0:
                    for file in (warc, rows):
                        file.flush()
                        os.fdatasync(file.fileno())

    return clocked(work)


def read(urls: list[str], bodies: list[bytes], folder: Path) -> float:
    import turbohtml

    def work() -> None:
        for number, url in enumerate(urls):
            origin = url[: url.find("/", 8)]
            document = turbohtml.parse(bodies[number % len(bodies)], encoding="utf-8", detect_encoding=True, positions=False)
            hrefs = [element.attr("href") for element in document.iter_elements(["a", "area", "link", "img", "iframe"])]
            assert {origin + href if href[0] == "/" else href for href in hrefs if href}

    return clocked(work)


def queue(urls: list[str], bodies: list[bytes], folder: Path) -> float:
    from rocksdict import WriteBatch

    from crawler.core.urls import fingerprint
    from crawler.frontier.rocksdb.database import Database

    hosts = [fingerprint(str(n)) for n in range(HOSTS)]
    chance = random.Random(1)

    def link(home: bytes) -> bytes:
        """As webfarm's pages link: a fifth to other hosts, popular pages more often."""
        host = home if chance.random() < 0.8 else chance.choice(hosts)
        return host + fingerprint(str(int(1_000_000 * chance.random() ** 2)))

    pages = [(hosts[n % HOSTS], n, [link(hosts[n % HOSTS]) for _ in range(20)]) for n in range(len(urls))]
    waiting, settled, record = b"v" * 90, b"v" * 160, b"v" * 60
    database = Database(folder / "db", 40 << 20, 512)
    seen, queued, page, host, meta = (database.handle(name) for name in ("seen", "queue", "page", "host", "meta"))
    sequence = 0

    def commit(part: list[tuple[bytes, int, list[bytes]]]) -> None:
        nonlocal sequence
        batch = WriteBatch(raw_mode=True)
        keys = sorted({key for _, _, links in part for key in links})
        for key, value in zip(keys, database.many("seen", keys), strict=True):
            if value is None:
                sequence += 1
                batch.put(key, b"", seen)
                batch.put(key[:8] + b"\x80" + sequence.to_bytes(8, "big"), waiting, queued)
        cursor = database.cursor("queue")
        for home, number, _ in part:
            cursor.seek(home)
            if cursor.valid():
                cursor.value()
                batch.delete(cursor.key(), queued)
            batch.put(home + number.to_bytes(8, "big"), settled, page)
            batch.put(home, record, host)
        batch.put(b"state", record, meta)
        database.write(batch, sync=True)

    def work() -> None:
        for start in range(0, len(pages), PAGES_A_SYNC):
            commit(pages[start : start + PAGES_A_SYNC])

    cpu_s = clocked(work)
    database.close()
    return cpu_s


PARTS: dict[str, Callable[[list[str], list[bytes], Path], float]] = {"ask": ask, "keep": keep, "read": read, "queue": queue}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--port", type=int, default=8980)
    parser.add_argument("--part", choices=PARTS, help="one part alone, over the URLs of standard input: its CPU seconds")
    options = parser.parse_args()
    if options.part:
        urls = sys.stdin.read().split()
        bodies = [urllib.request.urlopen(url).read() for url in urls[:SAMPLES]]
        with tempfile.TemporaryDirectory(prefix="floor-") as folder:
            print(PARTS[options.part](urls, bodies, Path(folder)))
        return
    prepare()
    with farm(options.port, "--hosts", str(HOSTS), "--gzip=0") as web, tempfile.NamedTemporaryFile("w+") as named:
        urls = "\n".join(web.urls(options.pages, HOSTS))
        named.write(urls + "\n")
        named.flush()
        rounds: list[dict[str, float]] = []
        for _ in range(options.rounds):
            ref = run([sys.executable, str(HERE / "ref.py"), named.name], timeout_s=600).cpu_s
            command = ["taskset", "-c", CLIENT_CPU, sys.executable, __file__, "--part"]
            costs = {
                part: float(subprocess.run([*command, part], input=urls, capture_output=True, text=True, check=True).stdout)
                for part in PARTS
            }
            more = {"list": costs["keep"], "crawl": costs["keep"] + costs["read"] + costs["queue"]}
            sums = {name: costs["ask"] + rest for name, rest in more.items()}
            sums |= {f"{name}, by session.get": ref + rest for name, rest in more.items()}
            rounds.append({"REF": ref} | costs | sums)
    for name in rounds[0]:
        us = statistics.median(one[name] for one in rounds) / options.pages * 1e6
        print(f"{name:22} {us:7.1f} µs a page  {statistics.median(one[name] / one['REF'] for one in rounds):5.2f} × REF")


if __name__ == "__main__":
    main()
