"""TLS connections at rest: counted by what they take of memory, whatever the peer sends beside its responses."""

from __future__ import annotations

import asyncio
import gc
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing, suppress
from pathlib import Path

import pytest
import trustme
import uvloop
from support.hostile import end_of, fetching, lease_of
from support.sinful import Site, running
from support.waiting import until

from crawler.core.errors import FetchError
from crawler.fetch import connection, connector
from crawler.fetch.connection import Watched
from crawler.fetch.connector import IDLE_TLS_BYTES
from crawler.fetch.fetcher import Fetcher
from crawler.fetch.tls_waste import REST_BYTES_MAX, is_too_long, received_bytes
from crawler.policy.judge import host_sign


@pytest.fixture
def site() -> Iterator[Site]:
    with running(Site()) as site:
        yield site


def serving(tmp: Path, certificates: int) -> ssl.SSLContext:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own = authority.issue_cert("127.0.0.1")
    chain = tmp / "chain.pem"
    pems = [own.private_key_pem, *own.cert_chain_pems, *[authority.cert_pem] * certificates]
    chain.write_bytes(b"".join(pem.bytes() for pem in pems))
    context.load_cert_chain(chain)
    return context


@asynccontextmanager
async def served(tmp: Path, *, certificates: int = 0, tickets: int = 2, size: int = 10) -> AsyncIterator[str]:
    """The URL of one TLS server. ``certificates``: sent besides the one that is needed."""
    context = serving(tmp, certificates)
    context.num_tickets = tickets

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer), suppress(ConnectionError):
            while await reader.readline() not in (b"\r\n", b""):
                pass
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (size, bytes(size)))
            await reader.read()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


@asynccontextmanager
async def fetched(tmp: Path, **server: int) -> AsyncIterator[Fetcher]:
    """A fetcher that has asked one TLS server once."""
    async with served(tmp, **server) as url, fetching(tmp, Site(), insecure=True) as fetcher:
        assert (await end_of(fetcher, url))[0] == "ok"
        yield fetcher


async def test_certificates_that_nobody_needs_are_counted(tmp_path: Path) -> None:
    """300 little ones of 85 KB took 1.4 MB, and were counted as nothing: 400 such hosts took 405 MiB under a limit of 256."""
    async with fetched(tmp_path) as fetcher:
        assert IDLE_TLS_BYTES < fetcher.stats().idle_bytes < IDLE_TLS_BYTES + 16_000, "an ordinary one"
    async with fetched(tmp_path, certificates=50) as fetcher:
        assert fetcher.stats().idle_bytes > IDLE_TLS_BYTES + 40 * 400 * 16


@asynccontextmanager
async def stalling(tmp: Path, certificates: int) -> AsyncIterator[str]:
    """The URL of a TLS server that holds back the last bytes of its handshake."""
    context = serving(tmp, certificates)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received, sent = ssl.MemoryBIO(), ssl.MemoryBIO()
        received.write(await reader.read(1 << 16))
        with pytest.raises(ssl.SSLWantReadError):
            context.wrap_bio(received, sent, server_side=True).do_handshake()
        with closing(writer), suppress(ConnectionError):
            writer.write(sent.read()[:-10])
            await reader.read()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


@pytest.mark.parametrize("lean", [True, False])
@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("server", [served, stalling])
def test_a_handshake_is_no_longer_than_it_may_be(tmp_path: Path, server, lean, loop_factory) -> None:
    """94 KB of little certificates took 1.2 MB of each connection, for as long as its server kept it waiting."""

    async def live() -> None:
        patient = fetching(tmp_path, Site(), insecure=True, lean=lean, connect_timeout=60)
        async with server(tmp_path, certificates=180) as url, patient as fetcher:
            assert (await end_of(fetcher, url))[:2] == ("tls_error", "handshake")
            assert fetcher.stats().connections_acquired == fetcher.stats().connections_idle == 0
            assert not fetcher._connector.tls_waste._handshakes

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(live())


async def test_one_that_finds_no_room_at_all_drives_out_none(site: Site, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(connector, "WORTH_KEEPING_S", 0.0)
    async with served(tmp_path, certificates=50) as url, fetching(tmp_path, site, insecure=True) as fetcher:
        fetcher._connector._idle_bytes_max = 5 * IDLE_TLS_BYTES
        for _ in range(2):
            assert (await end_of(fetcher, f"http://127.0.0.1:{site.ports['http']}/good/1"))[0] == "ok"
            assert (await end_of(fetcher, url))[0] == "ok"
            assert fetcher.stats().connections_idle == 1
        assert fetcher.stats().connections_opened == 3


async def test_tickets_are_counted_as_what_is_received(tmp_path: Path) -> None:
    async with fetched(tmp_path, tickets=300) as fetcher:
        assert fetcher.stats().idle_bytes > IDLE_TLS_BYTES + 2 * 300 * 200


async def test_the_buffers_of_large_responses_are_counted_as_far_as_they_grow(tmp_path: Path) -> None:
    async with fetched(tmp_path, size=190_000) as fetcher:
        assert fetcher.stats().idle_bytes > IDLE_TLS_BYTES + 2 * 190_000
    async with fetched(tmp_path, size=1_000_000) as fetcher:
        assert IDLE_TLS_BYTES + 2 * 200_000 < fetcher.stats().idle_bytes < 600_000


async def test_a_connection_that_receives_much_at_rest_is_ended(tmp_path: Path, monkeypatch) -> None:
    """It was counted before that."""
    async with fetched(tmp_path) as fetcher:
        (waiting,) = fetcher._connector._idle
        assert isinstance(waiting, connection.Watched)
        for more, idle in ((0, 1), (REST_BYTES_MAX, 1), (REST_BYTES_MAX + 1, 0)):
            monkeypatch.setattr(connection, "received_bytes", lambda sock, more=more: waiting._wire_bytes + more)
            fetcher._connector.tls_waste.look(0.0, at_once=True)
            await asyncio.sleep(0.05)
            await until(lambda idle=idle: fetcher.stats().connections_idle == idle)


@pytest.mark.parametrize("lean", [True, False])
@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_visit_that_ends_just_as_its_handshake_is_done_leaves_nothing(tmp_path: Path, lean, loop_factory) -> None:
    """uvloop never said that such a connection was lost: it was remembered for ever, with all that its TLS takes of memory."""

    async def live() -> None:
        async with served(tmp_path) as url, fetching(tmp_path, Site(), insecure=True, lean=lean) as fetcher:
            known = fetcher._connector.tls_waste._connections
            for _ in range(5):
                visit = asyncio.create_task(fetcher.fetch(lease_of(url)))
                while not known and not visit.done():
                    await asyncio.sleep(0)
                visit.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await visit
                fetcher._connector.tls_waste.look(0.0, at_once=True)
                assert not known

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(live())


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_tls_holds_little_back_while_nobody_reads(tmp_path: Path, loop_factory) -> None:
    """Of itself it would take 256 KiB, and one more reading of 256 KiB. What is held back comes whole all the same."""

    async def live() -> None:
        size = 3_000_000
        paced = fetching(tmp_path, Site(), insecure=True, bandwidth=size, max_body=size)
        async with served(tmp_path, size=size) as url, paced as fetcher:
            assert (await end_of(fetcher, url))[2] == bytes(size)
            ((waiting,),) = fetcher._connector._conns.values()
            assert waiting[0].transport.get_read_buffer_limits()[1] == connection.TLS_HELD_BYTES

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(live())


@asynccontextmanager
async def tunnelling(tls: ssl.SSLContext | None, *, leaves: bool = False) -> AsyncIterator[str]:
    """The URL of a proxy that tunnels to this machine, spoken to by TLS or not; or says so and leaves."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer), suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1]
        if leaves:
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            return writer.close()
        onward = await asyncio.open_connection("127.0.0.1", int(target.rpartition(b":")[2]))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await asyncio.gather(pump(reader, onward[1]), pump(onward[0], writer))
        return None

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield f"http{'s' if tls else ''}://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def tls_proxy(tmp: Path, *, leaves: bool = False) -> AbstractAsyncContextManager[str]:
    return tunnelling(serving(tmp, 0), leaves=leaves)


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("is_by_tls", [False, True])
def test_nothing_is_left_of_a_tunnel_that_is_closed(tmp_path: Path, is_by_tls, loop_factory) -> None:
    """Cycles are looked for once in 20,000 objects: closed tunnels, of 500 KiB each, took 263 MiB under a limit of 256."""

    async def live() -> None:
        proxying = tunnelling(serving(tmp_path, 0) if is_by_tls else None)
        async with served(tmp_path) as url, proxying as proxy, fetching(tmp_path, Site(), insecure=True, proxy=proxy) as fetcher:
            assert (await end_of(fetcher, url))[0] == "ok"
            fetcher.forget()
            await until(lambda: not connections() - before)

    def connections() -> set[int]:
        return {id(one) for one in gc.get_objects() if type(one) is Watched}

    gc.collect()
    before = connections()
    gc.disable()
    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(live())
    finally:
        gc.enable()


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_body_by_way_of_a_tls_proxy_is_not_taken_for_what_the_proxy_sends_at_rest(tmp_path: Path, loop_factory) -> None:
    """Whatever took longer than a second was ended then."""

    async def live() -> None:
        size = 2_000_000
        async with (
            served(tmp_path, size=size) as url,
            tls_proxy(tmp_path) as proxy,
            fetching(tmp_path, Site(), insecure=True, proxy=proxy, bandwidth=2 * size, max_body=size) as fetcher,
        ):
            visit = asyncio.create_task(end_of(fetcher, url))
            await until(lambda: visit.done() or fetcher.stats().bytes_in_flight > 4 * REST_BYTES_MAX)
            fetcher._connector.tls_waste.look(0.0, at_once=True)
            assert await visit == ("ok", None, bytes(size))
            assert len(fetcher._connector.tls_waste._connections) == 1

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(live())


async def test_a_connection_that_waits_by_way_of_a_tls_proxy_weighs_twice(tmp_path: Path) -> None:
    """It has TLS within TLS: 500 took 262 MB where 138 were counted."""
    size, weights = 100_000, []
    async with served(tmp_path, size=size) as url, tls_proxy(tmp_path) as proxy:
        for way in ({}, {"proxy": proxy}):
            async with fetching(tmp_path, Site(), insecure=True, **way) as fetcher:
                assert await end_of(fetcher, url) == ("ok", None, bytes(size))
                assert fetcher.stats().connections_idle == 1
                weights.append(fetcher.stats().idle_bytes)
    assert weights[1] > 1.9 * weights[0]


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_connection_that_is_closed_and_not_told_so_yet_stops_no_deadline(tmp_path: Path, loop_factory) -> None:
    """It has no descriptor then; once that raised, no deadline of any fetch was looked at any more."""

    async def live() -> None:
        async with fetched(tmp_path) as fetcher:
            (waiting,) = fetcher._connector.tls_waste._connections
            sock, before = waiting._sock, waiting._wire_bytes
            assert sock is not None and received_bytes(sock) == before > 0
            waiting.transport.abort()
            await until(lambda: not fetcher._connector.tls_waste._connections and sock.fileno() < 0)
            assert received_bytes(sock) == 0 and not is_too_long(sock, 0)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(live())


@asynccontextmanager
async def leaving(begun: bytes) -> AsyncIterator[str]:
    """The URL of a server that begins a handshake so, and leaves."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer):
            await reader.read(1 << 16)
            writer.write(begun)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize(("leaves", "begun"), [(True, b""), (False, b""), (False, b"\x16\x03\x03\x10\x00" + bytes(100))])
def test_tls_that_ends_as_it_begins_within_a_proxys_has_failed(tmp_path: Path, leaves, begun, loop_factory, caplog) -> None:
    """It was reset as it took the request (uvloop), or disconnected, with a traceback of asyncio in the log."""

    async def live() -> None:
        async with (
            leaving(begun) as url,
            tls_proxy(tmp_path, leaves=leaves) as proxy,
            fetching(tmp_path, Site(), insecure=True, proxy=proxy) as fetcher,
        ):
            for _ in range(3):
                with pytest.raises(FetchError) as failed:
                    await fetcher.fetch(lease_of(url))
                assert (failed.value.reason, failed.value.sent, failed.value.shared) == ("handshake", False, False)
            fetcher._connector.tls_waste.look(0.0, at_once=True)
            assert not fetcher._connector.tls_waste._connections

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(live())
    assert "TypeError" not in caplog.text


@asynccontextmanager
async def breaking(tmp: Path, broken: bytes) -> AsyncIterator[str]:
    """The URL of a TLS server that says something broken at once behind its response."""
    context = serving(tmp, 0)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received, sent = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(received, sent, server_side=True)
        with closing(writer), suppress(ConnectionError):
            asked = b""
            while not asked.endswith(b"\r\n\r\n"):
                with suppress(ssl.SSLWantReadError):
                    tls.do_handshake()
                    asked += tls.read(1 << 16)
                writer.write(sent.read())
                if not asked:
                    received.write(await reader.read(1 << 16))
            tls.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npage")
            writer.write(sent.read() + broken)
            await reader.read()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("broken", [b"\x17\x03\x03\x00\x20" + bytes(32), b"HTTP/1.1 400 Bad Request\r\n"])
def test_tls_that_breaks_behind_a_response_is_no_handshake_that_failed(tmp_path: Path, broken, loop_factory) -> None:
    """Loops keep nothing of what came with it. Once that was a sign that the host is down, and the page was never tried again."""

    async def live() -> None:
        async with breaking(tmp_path, broken) as url, fetching(tmp_path, Site(), insecure=True) as fetcher:
            with pytest.raises(FetchError) as failed:
                await fetcher.fetch(lease_of(url))
            assert (failed.value.reason, host_sign(failed.value)) == ("disconnected", "mute")

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(live())
