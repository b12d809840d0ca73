"""The listener: what it serves without token, and that no client holds it up for ever."""

import asyncio
import contextlib
import json
import os
import resource
import socket

import aiohttp
import pytest
import uvloop
from aiohttp import web

from crawler.core.errors import ConfigError, StorageError
from crawler.crawl.metrics import Metrics
from crawler.service.listener import STALLED_S, check_addresses, open_listener, watched


async def ask(port, request=b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    await writer.drain()
    return reader, writer


async def head_of(reader):
    return (await reader.readuntil(b"\r\n\r\n")).decode()


async def test_metrics_and_health_are_served():
    wrong = {"alive": None, "ready": "opening the store"}
    handlers = watched(Metrics().registry, lambda: wrong["alive"], lambda: wrong["ready"])
    async with open_listener("127.0.0.1:0", handlers) as port, aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        async with session.get("/metrics") as answer:
            text = await answer.text()
            assert answer.content_type == "text/plain"
            assert "crawler_state{" in text and "process_open_fds" in text
        async with session.get("/metrics", params={"name[]": "crawler_state"}) as answer:
            assert {line.split("{")[0] for line in (await answer.text()).splitlines() if line[0] != "#"} == {"crawler_state"}
        async with session.get("/livez") as answer:
            assert (answer.status, await answer.text()) == (200, "ok\n")
        async with session.get("/readyz") as answer:
            assert (answer.status, await answer.text()) == (503, "opening the store\n")
        async with session.post("/metrics") as answer:
            assert answer.status == 405


async def test_what_is_no_request_is_refused_and_fills_no_log(caplog):
    async with open_listener("127.0.0.1:0", watched(Metrics().registry, lambda: None, lambda: None)) as port:
        for request in (b"\x16\x03\x01\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 20_000 + b"\r\n\r\n"):
            reader, writer = await ask(port, request)
            assert " 400 " in await head_of(reader)
            writer.close()
    assert caplog.records == []


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /v1/urls?url=" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/9.1\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"".join(b"X%d: %s\r\n" % (n, b"x" * 8000) for n in range(6)), 431),
    ],
    ids=["long line", "malformed", "long head"],
)
async def test_what_is_no_request_is_told_so_by_a_crawler(request_, status):
    async with open_listener("127.0.0.1:0", watched(Metrics().registry, lambda: None, lambda: None)) as port:
        reader, writer = await ask(port, request_)
        head = await head_of(reader)
        assert f" {status} " in head and "Crawler-API: v1" in head and "application/problem+json" in head
        problem = json.loads(await reader.read())
        assert problem["status"] == status and problem["detail"] and "bytearray" not in problem["detail"]
        await closed(writer)


async def closed(writer):
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


LINES = b"X: " + b"x" * 8000 + b"\r\n"


@pytest.mark.parametrize(
    "before",
    [
        b"GET /livez HTTP/1.1\r\nHost: a\r\n",
        b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\nGET /livez HTTP/1.1\r\nHost: a\r\n",
        b"POST /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n",
    ],
    ids=["first", "second", "trailers"],
)
async def test_a_request_head_of_many_long_lines_is_cut_off(before):
    async def read(request):
        return web.Response(body=await request.read())

    app = web.Application()
    app.router.add_get("/livez", read)
    app.router.add_post("/body", read)
    async with open_listener("127.0.0.1:0", app) as port:
        reader, writer = await ask(port, before)
        sent = 0
        with contextlib.suppress(ConnectionError):
            while not reader.at_eof() and sent < 100:
                writer.write(LINES)
                await writer.drain()
                await asyncio.sleep(0.01)
                sent += 1
        assert sent < 20
        await closed(writer)


async def test_a_request_head_of_many_long_lines_is_told_so():
    async with open_listener("127.0.0.1:0", watched(Metrics().registry, lambda: None, lambda: None)) as port:
        reader, writer = await ask(port, b"GET /livez HTTP/1.1\r\nHost: a\r\n")
        for _ in range(5):
            writer.write(LINES)
            await asyncio.sleep(0.05)
        assert " 431 " in await head_of(reader)
        await closed(writer)


async def test_a_long_body_and_many_requests_at_once_are_no_long_head():
    async def read(request):
        await asyncio.sleep(0.1)
        return web.Response(body=str(len(await request.read())).encode())

    app = web.Application(client_max_size=1 << 20)
    app.router.add_post("/body", read)
    head = b"POST /body HTTP/1.1\r\nHost: a\r\n"
    request = head + b"Content-Length: 500000\r\n\r\n" + b"x" * 500_000
    chunked = head + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 30_000 + b"0\r\n\r\n"
    async with open_listener("127.0.0.1:0", app) as port:
        reader, writer = await ask(port, request + chunked + request)
        for size in (500_000, 30_000, 500_000):
            assert " 200 " in await head_of(reader)
            assert await reader.readexactly(len(str(size))) == str(size).encode()
        short = head + b"X: " + b"x" * 10_000 + b"\r\nContent-Length: 0\r\n\r\n"
        writer.write(short * 20)
        for _ in range(20):
            assert " 200 " in await head_of(reader)
            await reader.readexactly(1)
        await closed(writer)


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_one_connection_too_many_is_told_so_and_the_others_are_served(new_loop, caplog):
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(asyncio.wait_for(_one_too_many(), 30))
    assert caplog.records == []


async def _one_too_many():
    async with open_listener("127.0.0.1:0", watched(Metrics().registry, lambda: None, lambda: None), connections_max=2) as port:
        first, first_writer = await ask(port)
        second, second_writer = await ask(port)
        assert "200 OK" in await head_of(first)
        assert "200 OK" in await head_of(second)
        third, third_writer = await ask(port)
        assert "503" in await head_of(third)
        assert json.loads(await third.read())["status"] == 503
        third_writer.close()
        second_writer.close()
        while True:  # until the server has seen that the second is gone
            reader, writer = await ask(port)
            head = await head_of(reader)
            writer.close()
            if "200 OK" in head:
                break
        first_writer.close()


async def test_a_request_head_that_does_not_end_is_cut_off():
    async with open_listener("127.0.0.1:0", watched(Metrics().registry, lambda: None, lambda: None), idle_s=0.2) as port:
        reader, writer = await ask(port, b"GET /livez HTTP/1.1\r\nX-Slow: ")
        assert await reader.read() == b""
        writer.close()
        reader, writer = await ask(port, b"")
        assert await reader.read() == b""
        writer.close()


async def test_a_client_that_stops_reading_is_cut_off_by_tcp():
    found = []

    async def handler(request):
        connection = request.transport.get_extra_info("socket")
        found.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT))
        return web.Response()

    async with open_listener("127.0.0.1:0", {"/": handler}) as port, aiohttp.ClientSession() as session:
        await session.get(f"http://127.0.0.1:{port}/")
    assert found == [STALLED_S * 1000]


async def test_an_address_that_cannot_be_had_is_the_operators_fault():
    async with open_listener("127.0.0.1:0", {}) as port:
        with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{port}: Address already in use: name another$"):
            async with open_listener(f"127.0.0.1:{port}", {}):
                pass
    with pytest.raises(ConfigError, match=r"no-such-host\.invalid:1: "):
        async with open_listener("no-such-host.invalid:1", {}):
            pass


async def test_of_the_addresses_of_a_name_those_that_this_machine_has_are_listened_on(monkeypatch):
    """As of localhost in a container without IPv6: the names it is given have ::1 all the same."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (place, 0)) for place in ("192.0.2.1", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    async with open_listener("localhost:0", watched(Metrics().registry, lambda: None, lambda: None)) as port:
        reader, writer = await ask(port)
        assert "200 OK" in await head_of(reader)
        writer.close()
    found.pop()
    with pytest.raises(ConfigError, match=r"cannot listen on localhost:0: Cannot assign requested address"):
        async with open_listener("localhost:0", {}):
            pass


async def test_where_no_descriptor_is_left_for_a_client_it_says_so():
    async with open_listener("127.0.0.1:0", {}):
        taken = max(map(int, os.listdir("/proc/self/fd"))) + 1
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as stack:
        while (fd := os.open(os.devnull, os.O_RDONLY)) < taken:  # those below are no longer free
            stack.callback(os.close, fd)
        os.close(fd)
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (taken + 2, hard))
        with pytest.raises(StorageError, match="ulimit -n"):
            async with open_listener("127.0.0.1:0", {}):
                pass


async def test_closing_does_not_wait_for_a_client_that_does_nothing():
    async with open_listener("127.0.0.1:0", watched(Metrics().registry, lambda: None, lambda: None)) as port:
        reader, writer = await ask(port, b"GET /livez HTTP/1.1\r\n")
    assert await reader.read() == b""
    writer.close()


async def test_that_no_descriptor_is_left_is_no_fault_of_the_address():
    await check_addresses(["127.0.0.1:0"])  # begins the thread that looks it up
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(StorageError, match="ulimit -n"):
            await check_addresses(["127.0.0.1:0"])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
