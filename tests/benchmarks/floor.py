"""What the parts of a page cost that no crawler built from these libraries can leave out, each alone in a bare loop: no limits,
no politeness, no robots, no retries, no metrics, no threads. Their sums are a floor under any ratio that ``run.py`` prints.

    python tests/benchmarks/floor.py --pages 20000 --rounds 5

    ask    aiohttp's connector, pool and C parser, the request as ready bytes, the body read and dropped
    keep   three digests, one gzip member by isal, one row by orjson, appended; synced every 100 pages
    read   the document decoded where it came compressed, and parsed; its links joined by slicing
    queue  RocksDB tuned as ours: links looked up, new ones put into ``seen`` and ``queue``, the page settled; synced every
           100 pages. Keys and values are made beforehand

    one    asked and kept in one loop, as a crawler must: a web that is asked less often than it could answer sleeps in between,
           and waking it is the client's CPU; so is what the two displace of each other in the caches

A list needs the first two, a crawl all four; ``one`` is in no sum. CPU is user and system time of the part's own loop, start-up
left out; that of REF counts whole, as in ``run.py``, which runs these parts in each of its rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import random
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from measure import CLIENT_CPU, HERE, Profile, farm, prepare, run

LIST = ("ask", "keep")
CRAWL = ("ask", "keep", "read", "queue")
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


def ask(
    urls: list[str],
    bodies: list[bytes],
    folder: Path,
    options: argparse.Namespace,
    then: Callable[[str], object] = lambda url: None,
) -> float:
    """``then`` is called after each page."""
    import aiohttp
    import uvloop
    from aiohttp.client_reqrep import ConnectionKey
    from yarl import URL

    accepted = "Accept: */*\r\nAccept-Encoding: gzip\r\n" if options.gzip else "Accept: */*\r\n"
    context = trust_of(options.ca)

    class Asking:
        """What the connector wants to know of a request."""

        proxy = server_hostname = None
        ssl = context or True

        def __init__(self, url: str) -> None:
            self.href = url
            authority, _, path = url.partition("//")[2].partition("/")
            host, _, port = authority.partition(":")
            self.port = int(port)
            self.head = f"GET /{path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: floor\r\n{accepted}\r\n".encode()
            self.connection_key = ConnectionKey(host, self.port, self.is_ssl(), self.ssl, None, None, None, None)

        def is_ssl(self) -> bool:
            return context is not None

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
            then(url)

    async def all_of_them() -> None:
        left = iter(urls)
        async with aiohttp.TCPConnector(limit=WORKERS) as connector:
            await asyncio.gather(*(worker(connector, left, aiohttp.ClientTimeout()) for _ in range(WORKERS)))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return clocked(lambda: runner.run(all_of_them()))


class Keeping:
    """Keeps a page at each call."""

    def __init__(self, bodies: list[bytes], folder: Path) -> None:
        import orjson
        from isal import isal_zlib

        self._compress, self._dumps = isal_zlib.compress, orjson.dumps
        self._bodies, self._number = bodies, 0
        self._warc, self._rows = (Path(folder, name).open("wb") for name in ("warc", "rows"))  # noqa: SIM115 - until it ends
        self._head = (
            b"HTTP/1.1 200 OK\r\nServer: webfarm\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: 12345\r\n\r\n"
        )
        self._about = b"WARC/1.1\r\n" + b"WARC-Some-Field: some value of some length\r\n" * 12 + b"\r\n"

    def __call__(self, url: str) -> None:
        self._number += 1
        head, body = self._head, self._bodies[self._number % len(self._bodies)]
        digests = [hashlib.sha1(body).hexdigest(), hashlib.sha1(head + body).hexdigest()]
        digests.append(hashlib.sha256(body).hexdigest())
        self._warc.write(self._compress(b"".join((self._about, head, body, b"\r\n\r\n")), 1, 31))
        row = {"url": url, "canonical": url, "status": 200, "digests": digests}
        self._rows.write(self._dumps(row | {f"field{n}": n for n in range(24)}) + b"\n")
        if self._number % PAGES_A_SYNC == 0:
            for file in (self._warc, self._rows):
                file.flush()
                os.fdatasync(file.fileno())


def keep(urls: list[str], bodies: list[bytes], folder: Path, options: argparse.Namespace) -> float:
    keeping = Keeping(bodies, folder)

    def work() -> None:
        for url in urls:
            keeping(url)

    return clocked(work)


def one(urls: list[str], bodies: list[bytes], folder: Path, options: argparse.Namespace) -> float:
    return ask(urls, bodies, folder, options, then=Keeping(bodies, folder))


def read(urls: list[str], bodies: list[bytes], folder: Path, options: argparse.Namespace) -> float:
    import turbohtml
    from isal import isal_zlib

    def work() -> None:
        for number, url in enumerate(urls):
            origin = url[: url.find("/", 8)]
            body = bodies[number % len(bodies)]
            if options.gzip:
                body = isal_zlib.decompress(body, 31)
            document = turbohtml.parse(body, encoding="utf-8", detect_encoding=True, positions=False)
            hrefs = [element.attr("href") for element in document.iter_elements(["a", "area", "link", "img", "iframe"])]
            assert {origin + href if href[0] == "/" else href for href in hrefs if href}

    return clocked(work)


def queue(urls: list[str], bodies: list[bytes], folder: Path, options: argparse.Namespace) -> float:
    from rocksdict import WriteBatch

    from crawler.core.urls import fingerprint
    from crawler.frontier.rocksdb.database import Database

    hosts = [fingerprint(str(n)) for n in range(HOSTS)]
    chance = random.Random(1)

    met: list[bytes] = []

    def link(home: bytes) -> bytes:
        """As webfarm's pages link: a fifth to other hosts, popular pages more often; or to what was met before."""
        if met and chance.random() < options.known_share:
            return chance.choice(met)
        host = home if chance.random() < 0.8 else chance.choice(hosts)
        met.append(host + fingerprint(str(int(1_000_000 * chance.random() ** 2))))
        return met[-1]

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


Part = Callable[[list[str], list[bytes], Path, argparse.Namespace], float]
PARTS: dict[str, Part] = {"ask": ask, "keep": keep, "read": read, "queue": queue, "one": one}


def trust_of(ca: Path | None) -> ssl.SSLContext | None:
    return ssl.create_default_context(cafile=ca) if ca else None


def sample(url: str, options: argparse.Namespace) -> bytes:
    """A body as it comes over the wire."""
    request = urllib.request.Request(url, headers={"Accept-Encoding": "gzip"} if options.gzip else {})
    with urllib.request.urlopen(request, context=trust_of(options.ca)) as response:
        return bytes(response.read())


def cost_of(part: str, urls: str, profile: Profile, ca: Path | None) -> float:
    """CPU seconds of one part over these URLs, a line each, in a process of its own."""
    command = ["taskset", "-c", CLIENT_CPU, sys.executable, __file__, "--part", part, f"--known-share={profile.known_share}"]
    command += ["--gzip"] * profile.gzip + ([f"--ca={ca}"] if ca else [])
    return float(subprocess.run(command, input=urls, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gzip", action="store_true", help="the web compresses")
    parser.add_argument("--tls", action="store_true", help="asked by TLS")
    parser.add_argument("--known-share", type=float, default=0.0, help="of a page's links")
    parser.add_argument("--json", type=Path, help="write every round here, in microseconds a page")
    parser.add_argument("--part", choices=PARTS, help="one part alone, over the URLs of standard input: its CPU seconds")
    parser.add_argument("--ca", type=Path, help="of --part, where its URLs are https: who signed the certificates")
    options = parser.parse_args()
    if options.part:
        urls = sys.stdin.read().split()
        bodies = [sample(url, options) for url in urls[:SAMPLES]]
        with tempfile.TemporaryDirectory(prefix="floor-") as folder:
            print(PARTS[options.part](urls, bodies, Path(folder), options))
        return
    prepare()
    rounds = [*measured(options)]
    for name in rounds[0]:
        us = statistics.median(one[name] for one in rounds)
        print(f"{name:22} {us:7.1f} µs a page  {statistics.median(one[name] / one['REF'] for one in rounds):5.2f} × REF")
    if options.json:
        options.json.write_text(json.dumps(rounds, indent=1) + "\n")


def measured(options: argparse.Namespace) -> Iterator[dict[str, float]]:
    """Microseconds a page of REF, of each part and of their sums, a round each."""
    profile = Profile(options.gzip, options.tls, known_share=options.known_share)
    hosts = HOSTS if options.tls else 0
    with (
        farm(0, f"--hosts={HOSTS}", *profile.farm_options, tls_hosts=hosts) as web,
        tempfile.NamedTemporaryFile("w+") as named,
    ):
        urls = "\n".join(web.urls(options.pages, HOSTS)) + "\n"
        named.write(urls)
        named.flush()
        environ = {"SSL_CERT_FILE": str(web.ca)} if web.ca else {}
        for _ in range(options.rounds):
            ref = run([sys.executable, str(HERE / "ref.py"), named.name], timeout_s=600, environ=environ).cpu_s
            costs = {part: cost_of(part, urls, profile, web.ca) for part in PARTS}
            sums = {"list": sum(costs[part] for part in LIST), "crawl": sum(costs[part] for part in CRAWL)}
            sums |= {f"{name}, by session.get": ref + cost - costs["ask"] for name, cost in sums.items()}
            yield {name: cost / options.pages * 1e6 for name, cost in ({"REF": ref} | costs | sums).items()}


if __name__ == "__main__":
    main()
