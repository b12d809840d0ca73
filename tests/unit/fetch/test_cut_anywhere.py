"""Connections that end at any byte, of TLS or of the response, in any way: nothing of them is left."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import os
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import uvloop
from support.hostile import fetching, lease_of
from support.sinful import Conn, Site, head, running
from support.sinful_net import tls_ports
from support.sins import chunked

from crawler.core.errors import FetchError
from crawler.fetch import Fetcher
from crawler.resources.memory_budget import Budget
from crawler.resources.memory_plan import BODY_BYTES, CONNECTION_BYTES, HEAD_COPIES, VISIT_ACCOUNTS, Plan

HEAD_BYTES = 64 << 10
VISITS, AT_ONCE = 400, 40
DEADLINES = {"timeout": 1.5, "connect_timeout": 1.0, "first_byte_timeout": 0.7, "read_timeout": 0.5}


async def respond(conn: Conn) -> None:
    """Any response, in pieces of any size."""
    fields = [f"X-{n}: {'x' * 1000}" for n in range(random.choice((0, 20, 40, 60)))]
    body = random.randbytes(random.choice((0, 100, 5000, 70_000, 300_000)))
    if random.random() < 0.3:
        body = gzip.compress(body, 1)
        fields.append("Content-Encoding: gzip")
    if random.random() < 0.5:
        sent = head(len(body), *fields) + body
    else:
        trailers = b"".join(b"T-%d: %b\r\n" % (n, b"t" * 3000) for n in range(random.choice((0, 1, 8))))
        sent = chunked(body, last=b"0\r\n" + trailers + b"\r\n", fields=tuple(fields))
    sent = head(None, status="103 Early Hints") * random.choice((0, 0, 0, 1, 10)) + sent + b"more" * (random.random() < 0.05)
    at = random.randrange(len(sent))
    for piece in (sent[:at], sent[at:]):
        await conn.send(piece)
        await asyncio.sleep(random.choice((0, 0.01)))
    await conn.stay()


@contextlib.asynccontextmanager
async def cut_ports(site: Site) -> AsyncIterator[None]:
    """``cut-http`` and ``cut-tls``: what comes of the site through them is cut anywhere."""

    async def passed_on(conn: Conn, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        asking = asyncio.create_task(pump(conn.reader, writer))
        left = int(10 ** random.uniform(0, 6))
        try:
            while left > 0 and (data := await reader.read(random.choice((100, 4096, 65536)))):
                await conn.send(data[:left])
                left -= len(data)
            match random.randrange(4):
                case 0:
                    await conn.reset()
                case 1:
                    await conn.send(random.randbytes(1000))
                case 2:
                    await asyncio.sleep(1.0)
        finally:
            asking.cancel()
            writer.transport.abort()

    site.ports["cut-http"] = await site.listen(lambda conn: passed_on(conn, site.ports["http"]))
    site.ports["cut-tls"] = await site.listen(lambda conn: passed_on(conn, site.ports["tls-good"]))
    yield


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
    except OSError:
        pass
    finally:
        writer.transport.abort()


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with running(Site(scripts={"any": [respond]}, extras=[tls_ports, cut_ports])) as site:
        yield site


def sockets() -> int:
    """Open ones of this process, those of the site as well."""
    found = 0
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found += os.readlink(link).startswith("socket:")
    return found


async def visit(fetcher: Fetcher, url: str, budget: Budget) -> None:
    async with budget.visit() as room:
        got = await fetcher.fetch(lease_of(url), room)
        got.body.discard()


async def visits(fetcher: Fetcher, site: Site, budget: Budget) -> None:
    turn = asyncio.Semaphore(AT_ONCE)

    async def one(n: int) -> None:
        async with turn:
            scheme = random.choice(("http", "tls"))
            start = f"http{'s' * (scheme == 'tls')}://127.0.0.1:{site.ports[f'cut-{scheme}']}"
            going = asyncio.create_task(visit(fetcher, f"{start}/sin/any?{n}", budget))
            if random.random() < 0.15:
                await asyncio.wait([going], timeout=10 ** random.uniform(-4, 0))
                going.cancel()
            with contextlib.suppress(FetchError, asyncio.CancelledError):
                await going

    async with asyncio.timeout(60):
        await asyncio.gather(*(one(n) for n in range(VISITS)))


@pytest.mark.parametrize("loop_factory", [None, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_nothing_is_left_of_connections_that_end_anywhere(site: Site, tmp_path: Path, loop_factory) -> None:
    """There is room for one long head at a time, so that some wait for it while their connections end."""
    (spool := tmp_path / "spool").mkdir()
    site.trust(tmp_path / "ca.pem")
    sizes = (AT_ONCE * CONNECTION_BYTES, AT_ONCE * BODY_BYTES, HEAD_COPIES * HEAD_BYTES, 20 << 20, 1 << 20)
    budget = Budget(Plan(1 << 30, dict(zip(VISIT_ACCOUNTS, sizes, strict=True)), AT_ONCE, 0))

    async def main() -> None:
        before = sockets()
        settings = DEADLINES | {"max_head": HEAD_BYTES, "max_body": 200_000, "ca_file": "{ca}"}
        async with fetching(spool, site, decode_body=True, **settings) as fetcher:
            await visits(fetcher, site, budget)
            connector = fetcher._connector
            connector.forget()
            while connector.tls_waste._connections:
                await asyncio.sleep(0.01)
            assert (fetcher.stats().in_flight, connector.acquired, connector.idle, connector.idle_bytes) == (0, 0, 0, 0)
            assert not connector._conns and not connector.tls_waste._handshakes
            assert not fetcher._bodies and not len(fetcher._deadlines)
            assert asyncio.all_tasks() == {asyncio.current_task()}
        assert not any(use.used for use in budget.uses().values())
        assert not any(budget.account(name).waiting_count for name in VISIT_ACCOUNTS)
        assert not list(spool.iterdir())
        while sockets() > before:  # until the site has heard of it
            await asyncio.sleep(0.02)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())
