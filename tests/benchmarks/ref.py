"""REF: bare aiohttp over a list of URLs with a fixed pool of workers on uvloop, bodies read and dropped. No more than that:
no robots, no politeness, no store, no archive, no retry. What everything else is measured against.

    python tests/benchmarks/ref.py LIST [WORKERS]
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator

import aiohttp
import uvloop


async def worker(session: aiohttp.ClientSession, urls: Iterator[str]) -> int:
    read = 0
    for url in urls:
        async with session.get(url) as answer:
            read += len(await answer.read())
    return read


async def main(path: str, workers: int) -> None:
    with open(path) as lines:
        urls = (line.strip() for line in lines)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=workers)) as session:
            print(sum(await asyncio.gather(*(worker(session, urls) for _ in range(workers)))), "bytes")


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 100))
