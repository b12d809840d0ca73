"""Memory that few responses need is reserved before it is taken: long heads and decoders wait for it, all others ask nothing."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import os
import random
import socket
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import brotli
import pytest
import uvloop
from support.hostile import fetching, lease_of
from support.sinful import Conn, Site, cut_tls, forever, head, page, rst, running, stay
from support.sinful_net import EXTRAS
from support.sins import chunked

from crawler.core.errors import FetchError
from crawler.core.page import Page
from crawler.fetch import Fetcher
from crawler.fetch.connection import PIECES_MAX, Watched
from crawler.fetch.connector import IDLE_BYTES
from crawler.resources.memory_budget import Account, Budget
from crawler.resources.memory_plan import BODY_BYTES, CONNECTION_BYTES, HEAD_COPIES, VISIT_ACCOUNTS, Plan

KIB, MIB = 1 << 10, 1 << 20
HEAD_BYTES = 256 * KIB
LONG = [f"X-{n}: {'x' * 1000}" for n in range(100)]
PARTS = head(2, *LONG)
CODED = brotli.compress(page(1, 300_000), lgwin=24)
BOMB = gzip.compress(bytes(9 * MIB))
HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: <".ljust((16 << 10) - 7, b"x") + b">\r\n\r\n"
SCRIPTS = {
    "long": [PARTS + b"ok", stay],
    "long-in-parts": [*(part for at in range(0, len(PARTS), 9_000) for part in (PARTS[at : at + 9_000], 0.001)), b"ok", stay],
    "long-without-end": [head(None, *LONG)[:-4], forever(b"x" * 10_000)],
    "long-after-interim": [b"HTTP/1.1 103 Early Hints\r\nLink: <" + b"x" * 15_000 + b">\r\n\r\n" + PARTS + b"ok", stay],
    "long-with-interim": [HINTS + PARTS[:3], 0.1, PARTS[3:] + b"ok", stay],
    "short": [head(2, *LONG[:10]) + b"ok", stay],
    "coded": [head(len(CODED), "Content-Encoding: br") + CODED, stay],
    "gzipped": [head(len(gzip.compress(page(1, 300_000))), "Content-Encoding: gzip") + gzip.compress(page(1, 300_000)), stay],
    "trailers": [chunked(b"ok", last=b"0\r\n" + b"".join(b"X-%d: %b\r\n" % (n, b"x" * 30_000) for n in range(200))), stay],
    "bomb": [head(len(BOMB), "Content-Encoding: gzip") + BOMB, stay],
}
ENDED_HEADS = ["long", "long-in-parts", "long-after-interim", "long-with-interim"]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with running(Site(scripts=SCRIPTS)) as site:
        yield site


def budget_of(visits: int = 1) -> Budget:
    """Room for so many visits, one long head and one decoder."""
    sizes = (visits * CONNECTION_BYTES, visits * BODY_BYTES, HEAD_COPIES * HEAD_BYTES, 20 * MIB, MIB)
    return Budget(Plan(1 << 30, dict(zip(VISIT_ACCOUNTS, sizes, strict=True)), visits, 0))


class Visited:
    """A visit under way, as the crawl makes it, with all of one account taken by somebody else."""

    def __init__(self, fetcher: Fetcher, site: Site, name: str, account: str, budget: Budget) -> None:
        self.budget, self.fetcher = budget, fetcher
        self.account: Account = budget.account(account)
        self.others = self.account.take_now(self.account.bytes_max)
        self.task = asyncio.create_task(self._visit(f"http://127.0.0.1:{site.ports['http']}/sin/{name}"))

    async def _visit(self, url: str) -> Page:
        async with self.budget.visit() as room:
            return await self.fetcher.fetch(lease_of(url), room)

    async def until_it_waits(self) -> None:
        async with asyncio.timeout(60):
            while not self.account.waiting_count:
                assert not self.task.done(), "it did not wait"
                await asyncio.sleep(0.002)

    def go_on(self) -> None:
        assert self.others is not None
        self.others.release()


@contextlib.asynccontextmanager
async def visiting(site: Site, tmp: Path, name: str, account: str) -> AsyncIterator[Visited]:
    patient = {"first_byte_timeout": 60, "read_timeout": 60, "connect_timeout": 60, "max_head": HEAD_BYTES, "max_body": 8 * MIB}
    budget = budget_of()
    async with fetching(tmp, site, **patient) as fetcher:
        visited = Visited(fetcher, site, name, account, budget)
        try:
            yield visited
        finally:
            visited.task.cancel()
            with contextlib.suppress(asyncio.CancelledError, FetchError):
                (await visited.task).body.discard()
        visited.go_on()
        assert fetcher.stats().connections_acquired == 0
    assert all(use.used == 0 for use in budget.uses().values())
    assert list(tmp.iterdir()) == []


@pytest.fixture(params=[None, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def loop_factory(request: pytest.FixtureRequest):
    return request.param


def run(main, loop_factory) -> None:
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())


@pytest.mark.parametrize("name", ENDED_HEADS)
def test_a_long_head_is_received_when_there_is_memory_for_it_and_no_deadline_passes(site, tmp_path, name, loop_factory):
    async def main() -> None:
        async with visiting(site, tmp_path, name, "head") as visited:
            await visited.until_it_waits()
            (deadline,) = visited.fetcher._deadlines._running
            deadline.look(asyncio.get_running_loop().time() + 10**6)
            assert deadline.expired is None, "it is not the server that is late"
            visited.go_on()
            got = await visited.task
            assert [value for key, value in got.headers if key.startswith(b"X-")] == [b"x" * 1000] * len(LONG)
            assert got.body.prefix(9) == b"ok" and got.fault is None
            got.body.discard()

    run(main, loop_factory)


TOLD = {
    "length": [head(2, *LONG[:20]) + b"ok"],
    "chunked": [head(None, "Transfer-Encoding: chunked", *LONG[:20]) + b"2\r\nok\r\n0\r\n\r\n"],
    "close": [head(None, *LONG[:20]) + b"ok"],
}
"""Whole responses, after which the server closes the connection."""


class Later:
    """Memory that there is later."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    def head(self, size, granted) -> bool:
        self.granted = granted
        self.asked.set()
        return False


@contextlib.asynccontextmanager
async def waiting(tmp_path, script, max_head: int = HEAD_BYTES) -> AsyncIterator[tuple[Fetcher, Later, asyncio.Task[Page]]]:
    """A fetch by TLS whose head waits for memory. In the end no connection is in use."""
    (tmp_path / "spool").mkdir()
    async with Site(scripts={"waits": script}, extras=EXTRAS) as site:
        site.trust(tmp_path / "ca.pem")
        async with fetching(tmp_path / "spool", site, ca_file="{ca}", max_head=max_head) as fetcher:
            room, open_ones = Later(), fetcher._connector.tls_waste._connections
            url = f"https://localhost:{site.ports['tls-good']}/sin/waits"
            task = asyncio.create_task(fetcher.fetch(lease_of(url), room))
            await room.asked.wait()
            yield fetcher, room, task
            await asyncio.sleep(0)
            assert fetcher.stats().connections_acquired == 0
        assert not open_ones


@pytest.mark.parametrize("is_given_up", [False, True])
@pytest.mark.parametrize("name", TOLD)
def test_a_response_is_whole_though_its_connection_ends_while_its_head_waits(tmp_path, name, is_given_up, loop_factory):
    """TLS tells of its peer's goodbye at once: the lack of memory was taken for a host that breaks off."""

    async def main() -> None:
        async with waiting(tmp_path, TOLD[name]) as (_, room, task):
            await asyncio.sleep(0.1)  # the goodbye came with the rest
            assert not task.done()
            if is_given_up:
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                room.granted()
            else:
                room.granted()
                got = await task
                assert got.fault is None and got.body.prefix(9) == b"ok"
                got.body.discard()

    run(main, loop_factory)


def test_what_comes_while_a_head_waits_does_not_end_with_its_connection(tmp_path, loop_factory):
    """uvloop drops what TLS holds then."""

    async def main() -> None:
        async with waiting(tmp_path, [head(40_000, *LONG[:20]), 0.05, bytes(40_000), cut_tls]) as (_, room, task):
            await asyncio.sleep(0.2)
            room.granted()
            got = await task
            assert (got.body.size, got.fault) == (40_000, None)
            got.body.discard()

    run(main, loop_factory)


@pytest.mark.parametrize("name", TOLD)
def test_memory_that_comes_just_as_the_connection_is_closed_is_no_end_of_all_deadlines(tmp_path, name, loop_factory):
    """The visit waited for ever then, and kept the memory from all others."""

    async def main() -> None:
        async with waiting(tmp_path, [*TOLD[name], stay]) as (fetcher, room, task):
            await asyncio.sleep(0.1)
            (connection,) = fetcher._connector._acquired
            connection.transport.abort()
            assert connection.transport.is_closing() and connection._lost is None
            room.granted()
            async with asyncio.timeout(30):
                got = await task
            assert (got.body.prefix(9) == b"ok" and got.fault is None) or name == "close"
            got.body.discard()

    run(main, loop_factory)


FLOOD = HINTS.replace(b">", b"xxx>") + b"".join(
    b"HTTP/1.1 103 Early Hints\r\nX-%d: %b\r\n\r\n" % (n, b"x" * 400) for n in range(60)
)


def test_a_head_with_two_faults_whose_connection_is_lost_while_it_waits_has_one_end(tmp_path, loop_factory):
    """The second, that it is too long, failed in the queue for memory."""

    async def main() -> None:
        async with waiting(tmp_path, [FLOOD, 0.1, rst], 32 * KIB) as (fetcher, room, task):
            (connection,) = fetcher._connector._acquired
            while connection._lost is None:
                await asyncio.sleep(0.01)
            room.granted()
            with pytest.raises(FetchError) as ended:
                await task
            assert ended.value.reason == "too_many_interim"

    run(main, loop_factory)


FAULTY = head(None, *LONG[:20], "Content-Length: none")[:-2] + b"X: y\r\n" * 50_000


def test_a_fault_in_a_head_that_has_waited_is_its_end_whatever_follows(tmp_path, loop_factory):
    """asyncio hands on what TLS holds just when the connection is closed for it: RuntimeError for whoever gave back memory."""

    async def main() -> None:
        async with waiting(tmp_path, [FAULTY[:22_000], 0.05, FAULTY[22_000:], stay], 64 * KIB) as (_, room, task):
            await asyncio.sleep(0.2)
            room.granted()
            with pytest.raises(FetchError) as ended:
                await task
            assert ended.value.reason == "malformed"

    run(main, loop_factory)


def test_a_head_that_waits_may_be_given_up(site, tmp_path, loop_factory):
    async def main() -> None:
        async with visiting(site, tmp_path, "long", "head") as visited:
            await visited.until_it_waits()
            visited.task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await visited.task
            visited.go_on()
            assert visited.account.used == 0

    run(main, loop_factory)


async def test_long_heads_are_received_one_after_the_other_where_there_is_room_for_one(site, tmp_path):
    budget = budget_of(20)
    most = 0

    async def visit(fetcher: Fetcher) -> None:
        nonlocal most
        async with budget.visit() as room:
            got = await fetcher.fetch(lease_of(f"http://127.0.0.1:{site.ports['http']}/sin/long"), room)
            most = max(most, budget.account("head").used)
            assert len(got.headers) == len(LONG) + 2
            got.body.discard()

    account = budget.account("head")
    others = account.take_now(HEAD_COPIES * HEAD_BYTES)
    async with fetching(tmp_path, site, max_head=HEAD_BYTES, timeout=600, first_byte_timeout=600) as fetcher:
        visits = [asyncio.create_task(visit(fetcher)) for _ in range(20)]
        while account.waiting_count < 10:
            await asyncio.sleep(0.01)
        others.release()
        await asyncio.gather(*visits)
    assert most == HEAD_COPIES * HEAD_BYTES
    assert account.used == 0


async def test_a_head_that_never_ends_is_refused_as_if_nobody_had_waited(site, tmp_path):
    async with visiting(site, tmp_path, "long-without-end", "head") as visited:
        await visited.until_it_waits()
        visited.go_on()
        with pytest.raises(FetchError) as ended:
            await visited.task
        assert ended.value.reason == "header_too_large"


@pytest.mark.parametrize("name", ["short", "gzipped"])
@pytest.mark.parametrize("account", ["head", "parse"])
async def test_an_ordinary_response_asks_for_nothing_more(site, tmp_path, name, account):
    async with visiting(site, tmp_path, name, account) as visited:
        (await visited.task).body.discard()
        assert visited.account.waits == 0


async def test_no_decoder_runs_before_its_memory_is_reserved(site, tmp_path):
    async with visiting(site, tmp_path, "coded", "parse") as visited:
        await visited.until_it_waits()
        visited.go_on()
        got = await visited.task
        assert (got.bytes_decoded, got.fault, visited.account.used) == (300_000, None, 0)
        got.body.discard()


async def test_a_fault_that_is_kept_keeps_nothing_it_was_raised_among(site, tmp_path):
    async with visiting(site, tmp_path, "bomb", "head") as visited:
        got = await visited.task
        assert got.fault is not None and got.fault.reason == "max_decoded"
        assert got.fault.__traceback__ is got.fault.__context__ is got.fault.__cause__ is None
        got.body.discard()


def far_apart(size: int) -> bytes:
    """Noise that comes again after 4 MiB."""
    noise = random.Random(1).randbytes(4 * MIB)
    return (noise * (size // len(noise) + 1))[:size]


async def test_one_coding_of_a_stack_is_undone_after_the_other(site, tmp_path):
    """Bodies of three brotli windows take the memory of one."""
    data = far_apart(8 * MIB - 64 * KIB)
    for _ in range(3):
        data = brotli.compress(data, quality=1, lgwin=24)
    site.scripts["thrice"] = [head(len(data), "Content-Encoding: br, br, br") + data, stay]
    async with visiting(site, tmp_path, "thrice", "parse") as visited:
        await visited.until_it_waits()
        visited.go_on()
        got = await visited.task
        assert (got.bytes_decoded, got.fault) == (8 * MIB - 64 * KIB, None)
        got.body.discard()


async def test_visits_that_wait_for_long_heads_leave_most_visits_to_others(site: Site, tmp_path: Path) -> None:
    """A quarter of eight may wait; a third visit is given up before it queues, and says so until the next one begins."""
    budget, given_up = budget_of(8), asyncio.Event()
    others = budget.account("head").take_now(HEAD_COPIES * HEAD_BYTES)
    assert others is not None
    waiting = [budget.visit(given_up.set) for _ in range(2)]
    for visit in waiting:
        assert visit.begin() and not visit.head(HEAD_BYTES, lambda: None)
    assert not given_up.is_set() and budget.account("head").waiting_count == 2
    third = budget.visit(given_up.set)
    assert third.begin() and not third.head(HEAD_BYTES, lambda: None)
    assert given_up.is_set() and third.has_no_room and budget.account("head").waiting_count == 2
    third.release()
    assert third.has_no_room
    assert third.begin() and not third.has_no_room
    for visit in (*waiting, third):
        visit.release()
    others.release()
    assert all(use.used == 0 for use in budget.uses().values())


@pytest.mark.parametrize("lean", [True, False])
async def test_a_connection_that_waits_for_its_next_use_keeps_no_head(tmp_path: Path, lean: bool) -> None:
    """Its parser would have all of it, twice: hundreds of hosts that answer with long heads would take hundreds of megabytes."""
    with running(Site(host="0.0.0.0", scripts=SCRIPTS)) as site:
        async with fetching(tmp_path, site, max_head=HEAD_BYTES, lean=lean) as fetcher:

            async def ask(n: int) -> None:
                with (await fetcher.fetch(lease_of(f"http://127.0.0.{n}:{site.ports['http']}/sin/long"))).body.open() as body:
                    assert body.read() == b"ok"

            await ask(1)
            tracemalloc.start()
            try:
                for n in range(2, 22):
                    await ask(n)
                assert fetcher.stats().connections_idle == 21
                assert tracemalloc.get_traced_memory()[0] < 20 * IDLE_BYTES
            finally:
                tracemalloc.stop()
            for _ in range(2):
                await ask(1)
            assert fetcher.stats().connections_opened == 21, "and serves again"


async def test_trailers_are_no_longer_than_an_ordinary_head(site: Site, tmp_path: Path) -> None:
    """256 lines of 32 KiB were kept of each connection, twice, in no account: 100 took 1.5 GB under a limit of 256 MiB."""
    async with fetching(tmp_path, site, max_head=HEAD_BYTES) as fetcher:
        tracemalloc.start()
        try:
            page = await fetcher.fetch(lease_of(f"http://127.0.0.1:{site.ports['http']}/sin/trailers"))
            assert tracemalloc.get_traced_memory()[1] < 4 * MIB, "some 256 KiB are read at a time"
        finally:
            tracemalloc.stop()
        assert page.fault is not None and page.fault.reason == "header_too_large"
        assert page.body.prefix(10) == b"ok"


async def test_a_body_that_waits_for_the_rate_keeps_no_piece_that_is_written(site: Site, tmp_path: Path) -> None:
    """Up to 256 KiB of each fetch, in no account."""
    site.scripts["large"] = [head(MIB) + bytes(MIB), stay]
    async with fetching(tmp_path, site, bandwidth=1, timeout=600, read_timeout=600, min_rate=0) as fetcher:
        task = asyncio.create_task(fetcher.fetch(lease_of(f"http://127.0.0.1:{site.ports['http']}/sin/large")))
        async with asyncio.timeout(60):
            while fetcher.held_up != (0, 1):
                await asyncio.sleep(0.002)
        held, waits = [], task.get_coro()
        while (frame := getattr(waits, "cr_frame", None)) is not None:
            held += [value for value in frame.f_locals.values() if isinstance(value, bytes)]
            waits = waits.cr_await
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert sum(map(len, held)) < KIB


async def test_a_body_that_nobody_reads_is_held_in_few_pieces(tmp_path: Path) -> None:
    """Each takes 40 bytes and more: of one that came by two bytes, a buffer of 128 KiB took megabytes."""
    start, pieces = 140_000, 2 * PIECES_MAX

    async def drip(conn: Conn) -> None:
        await conn.send(head(start + 2 * pieces) + bytes(start))
        for n in range(pieces):
            while came() < start + 2 * n:
                await asyncio.sleep(0)
            await conn.send(b"xy")
        await conn.stay()

    def came() -> int:
        (connection,) = fetcher._connector._acquired
        return connection._payload.total_bytes if connection._payload is not None else 0

    async with (
        Site(scripts={"drips": [drip]}) as site,
        fetching(tmp_path, site, bandwidth=1, timeout=600, read_timeout=600, min_rate=0) as fetcher,
    ):
        task = asyncio.create_task(fetcher.fetch(lease_of(f"http://127.0.0.1:{site.ports['http']}/sin/drips")))
        while fetcher.held_up != (0, 1):
            await asyncio.sleep(0)
        (connection,) = fetcher._connector._acquired
        while not connection._reading_paused and came() < start + 2 * pieces:
            await asyncio.sleep(0)
        assert connection._reading_paused and len(connection._payload._buffer) <= PIECES_MAX + 1
        fetcher.pace(0, 0)
        got = await task
        assert (got.body.size, got.fault, fetcher.stats().connections_idle) == (start + 2 * pieces, None, 1)
        got.body.discard()


async def bye(conn: Conn) -> None:
    """TLS's goodbye, and the end of the connection at once, as most servers do it."""
    with socket.socket(fileno=os.dup(conn.writer.get_extra_info("socket").fileno())) as sock:
        conn.writer.close()
        await asyncio.sleep(0.02)
        sock.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    ("start", "sent", "last", "end"),
    [
        (head(None, "Transfer-Encoding: chunked"), b"2000\r\n%b\r\n" % bytes(0x2000), b"0\r\n\r\n", cut_tls),
        (head(None), bytes(0x2000), b"", bye),
    ],
    ids=["chunked", "close"],
)
def test_a_body_that_waits_for_the_rate_does_not_end_with_its_connection(tmp_path, start, sent, last, end, loop_factory):
    """uvloop drops what TLS holds while nobody reads, once the connection ends: pages over 128 KiB were cut where a bandwidth was
    set."""
    (tmp_path / "spool").mkdir()

    async def main() -> None:
        pieces = 0

        async def send(conn: Conn) -> None:
            nonlocal pieces
            await conn.send(start)
            while not fetching_one()._reading_paused:
                await conn.send(sent)
                pieces += 1
                await asyncio.sleep(0.002)
            await conn.send(sent + last)
            pieces += 1
            await end(conn)

        def fetching_one() -> Watched:
            (connection,) = fetcher._connector._acquired
            return connection

        async with Site(scripts={"sends": [send]}, extras=EXTRAS) as site:
            site.trust(tmp_path / "ca.pem")
            limits = {"bandwidth": 1, "timeout": 600, "read_timeout": 600, "min_rate": 0, "ca_file": "{ca}"}
            async with fetching(tmp_path / "spool", site, **limits) as fetcher:
                task = asyncio.create_task(fetcher.fetch(lease_of(f"https://localhost:{site.ports['tls-good']}/sin/sends")))
                while fetcher.held_up != (0, 1) or not fetching_one()._reading_paused:
                    await asyncio.sleep(0.002)
                await asyncio.sleep(0.1)
                fetcher.pace(0, 0)
                got = await task
                assert (got.body.size, got.fault) == (0x2000 * pieces, None)
                got.body.discard()

    run(main, loop_factory)
