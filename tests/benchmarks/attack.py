"""Memory under attack: every kind of heavy answer at once, from many hosts whose robots.txt are giants, with good pages among
them.

    nice python tests/benchmarks/attack.py --hosts 20000

Ends with 0 if the process tree stayed below --memory-limit at every sample and every good page is in the archive as it was
served; prints its figures.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gzip
import itertools
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import brotli
import uvloop
from gauges import free_port, scraped, tree_pss
from measure import HERE
from serving import serving
from warcio.archiveiterator import ArchiveIterator

sys.path.insert(0, str(HERE.parent))

from support.programs import CLEAN, rows_of
from support.sinful import page

from crawler.core.content_coding import zstd

MIB: Final = 1 << 20
GOOD_BYTES: Final = 20_000
HEAVY_FIRST: Final = 500
"""Hosts that are all heavy; after them one in HEAVY_ONE_IN."""
HEAVY_ONE_IN: Final = 50
HUGE_ROBOTS_ONE_IN: Final = 10
SMALL: Final = b"".join(b"Disallow: /private/%d/*/x\n" % n for n in range(1000))
HUGE: Final = b"".join(b"Disallow: /p/%d*/*%d$\n" % (n, n) for n in range(25_000))
ZEROS: Final = bytes(64 * MIB)
CODED: Final = {
    "gzip": gzip.compress(ZEROS),
    "deflate": zlib.compress(ZEROS),
    "br": brotli.compress(ZEROS, quality=5),
    "zstd": zstd.compress(ZEROS),
    "gzip, gzip": gzip.compress(gzip.compress(ZEROS)),
    "zstd, br": brotli.compress(zstd.compress(ZEROS), quality=5),
}
PAGES: Final = {
    "huge-line": b"<p>" + b"x" * (6 * MIB),
    "zeros": bytes(6 * MIB),
    "million-links": b"".join(b"<a href=/l/%d>" % n for n in range(1_000_000)),
    "deep": b"<div>" * MIB,
    "attributes": b"<a " + b"".join(b"a%d=b " % n for n in range(500_000)) + b">",
}
ENDLESS: Final = {
    "endless-lines": (b"HTTP/1.1 200 OK\r\n", b"A: b\r\n" * 1000),
    "endless-line": (b"HTTP/1.1 200 OK\r\nA: ", b"b" * 16_384),
    "endless-interim": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 500),
    "endless-body": (b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n", b"x" * 65_536),
    "endless-chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 5000),
    "endless-trailers": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"A: b\r\n" * 1000),
}
KINDS: Final = (*(f"bomb-{n}" for n in range(len(CODED))), *PAGES, *ENDLESS)


def head(length: int, *fields: str) -> bytes:
    lines = ["HTTP/1.1 200 OK", "Content-Type: text/html", f"Content-Length: {length}", *fields]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def answer(path: str, host: int) -> bytes:
    """Whatever is not endless."""
    _, kind, *name = path.split("/")
    if kind == "robots.txt":
        rules = b"User-agent: *\n" + (SMALL if host % HUGE_ROBOTS_ONE_IN else HUGE)
        return head(len(rules)) + rules
    if kind == "good":
        return head(GOOD_BYTES) + page(int(name[0]), GOOD_BYTES)
    if kind == "heavy" and name[0].startswith("bomb-"):
        coding = list(CODED)[int(name[0].removeprefix("bomb-"))]
        return head(len(CODED[coding]), f"Content-Encoding: {coding}") + CODED[coding]
    if kind == "heavy":
        return head(len(PAGES[name[0]])) + PAGES[name[0]]
    return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        address = [int(part) for part in writer.get_extra_info("sockname")[0].split(".")]
        while True:
            path = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1].decode()
            first, again = ENDLESS.get(path.rpartition("/")[2], (None, b""))
            writer.write(answer(path, address[2] << 8 | address[3]) if first is None else first)
            await writer.drain()
            while again and not writer.is_closing():
                writer.write(again)
                await writer.drain()
    writer.close()


async def attack(port: int) -> None:
    server = await asyncio.start_server(serve, "0.0.0.0", port, backlog=1000)
    print("ready", flush=True)
    await server.serve_forever()


def lines(hosts: int, port: int) -> Iterator[str]:
    """One URL on each host."""
    kinds = itertools.cycle(KINDS)
    for number in range(hosts):
        heavy = number < HEAVY_FIRST or not number % HEAVY_ONE_IN
        path = f"heavy/{next(kinds)}" if heavy else f"good/{number}"
        yield f"http://127.{1 + (number >> 16)}.{number >> 8 & 255}.{number & 255}:{port}/{path}"


def stored(out: Path) -> set[str]:
    """Good pages in the archive, as they were served."""
    found = set()
    for file in (out / "warc").iterdir():
        with file.open("rb") as stream:
            for record in ArchiveIterator(stream):
                url = record.rec_headers["WARC-Target-URI"]
                if record.rec_type != "response" or "/good/" not in url:
                    continue
                if record.content_stream().read() == page(int(urlsplit(url).path.rpartition("/")[2]), GOOD_BYTES):
                    found.add(url)
    return found


def crawled(given: list[str], out: Path, limit: str) -> int:
    """Run the crawl to its end; the peak of its tree's PSS in bytes."""
    port = free_port()
    command = [sys.executable, "-m", "crawler", "run", "-i", str(out.parent / "list"), "-o", str(out), "--depth", "1"]
    command += ["--allow-net", "127.0.0.0/8", "--delay", "0", "--factor", "0", "--workers", "500", "--memory-limit", limit]
    command += [
        "--max-body",
        "8MiB",
        "--max-pages-per-host",
        "3",
        "--max-outlinks",
        "20000",
        "--min-free-disk",
        "1MiB",
        "--progress",
        "none",
    ]
    command += ["--metrics-listen", f"127.0.0.1:{port}"]
    (out.parent / "list").write_text("\n".join(given))
    peak, began, told = 0, time.monotonic(), 0.0
    with subprocess.Popen(command, env=CLEAN, stdin=subprocess.DEVNULL) as crawl:
        try:
            while crawl.poll() is None:
                pss = tree_pss(crawl.pid)
                peak = max(peak, pss)
                if (now := time.monotonic() - began) - told >= 5 and (gauges := scraped(port)):
                    told = now
                    done = gauges['crawler_frontier_urls{state="done"}']
                    out_now = gauges["crawler_requests_in_flight"]
                    print(f"{now:.0f} s: {done:.0f} done, {out_now:.0f} in flight, {pss / MIB:.0f} MiB", flush=True)
                time.sleep(0.1)
        finally:
            crawl.kill()
    assert crawl.returncode == 0, crawl.returncode
    return peak


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, default=20_000)
    parser.add_argument("--memory-limit", type=int, default=256, metavar="MIB")
    parser.add_argument("--dir", type=Path, help="where the crawl is kept while it lasts (default: /tmp)")
    parser.add_argument("--serve", type=int, metavar="PORT", help="only be the attacker")
    options = parser.parse_args()
    if options.serve:
        uvloop.run(attack(options.serve))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started ends as well
    with serving(__file__) as port, tempfile.TemporaryDirectory(prefix="attack-", dir=options.dir) as root:
        given, out = list(lines(options.hosts, port)), Path(root, "out")
        began = time.monotonic()
        peak = crawled(given, out, f"{options.memory_limit}MiB")
        took = time.monotonic() - began
        good = {url for url in given if "/good/" in url}
        missing = good - stored(out)
        ends = Counter(
            (urlsplit(row["url"]).path.rpartition("/")[2], row["outcome"], row["reason"])
            for row in rows_of(out)
            if "/heavy/" in row["url"]
        )
    for (kind, outcome, reason), count in sorted(ends.items(), key=str):
        print(f"{kind:20} {outcome:14} {reason or '':18} {count}")
    print(f"{options.hosts} hosts, {len(good)} good pages, {len(missing)} of them missing; {took:.0f} s")
    print(f"peak PSS {peak / MIB:.1f} MiB of {options.memory_limit} MiB")
    return 1 if missing or peak >= options.memory_limit * MIB else 0


if __name__ == "__main__":
    sys.exit(main())
