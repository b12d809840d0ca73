"""The control API over a real crawl: what it takes, what it tells, whom it refuses, and that nobody holds it up."""

import asyncio
import contextlib
import errno
import gc
import gzip
import logging
import socket
import threading

import orjson
import pytest
import yaml
from openapi_spec_validator import validate
from support.daemons import OPENAPI, daemon
from support.sinful import Site, head, once, running, stay
from support.webs import Answer, Web, page

from crawler.core.batch import Admitted
from crawler.core.errors import StorageError
from crawler.core.model import Link, Mark
from crawler.frontier.batch import LINKS_MAX, OpenBatch
from crawler.frontier.rocksdb.database import Database
from crawler.frontier.rocksdb.layout import MARK, POSITION, file_name
from crawler.service import api_seeds, api_streams


@pytest.fixture(scope="module")
def site():
    gone = [head(0, status="404 Not Found"), stay]
    with running(Site(scripts={"gone": gone})) as site:
        yield site


def lines(urls):
    return "\n".join(urls).encode()


def unreachable(count, first=0):
    """URLs that are admitted and not visited: the tests pause."""
    return [f"http://host-{n % 97}.test/{n}" for n in range(first, first + count)]


# -- the description --------------------------------------------------------------------------------------------------


def test_the_description_is_valid():
    validate(OPENAPI)


async def test_the_routes_are_those_of_the_description(tmp_path):
    async with daemon(tmp_path) as d:
        routes = {(method.lower(), path) for method, path, _ in d.control.routes()}
    assert routes == {(method, path) for path, methods in OPENAPI["paths"].items() for method in methods}


async def test_the_description_is_served(tmp_path):
    async with daemon(tmp_path) as d, d.session.get("/v1/openapi.yaml") as answer:
        assert yaml.load(await answer.text(), yaml.CSafeLoader) == OPENAPI


# -- seeds ------------------------------------------------------------------------------------------------------------


async def test_seeds_are_crawled_and_their_lines_told(tmp_path, site):
    urls = site.good(3)
    body = (
        b"# mine\r\n\r\n"
        + urls[0].encode()
        + b"\r\nftp://no/\n"
        + orjson.dumps({"url": urls[1], "tag": "own"})
        + b"\n"
        + urls[2].encode()
    )
    async with daemon(tmp_path) as d:
        status, told = await d.ask("POST", "/v1/seeds?tag=mine&list=first", data=body)
        assert status == 200
        assert told["list"] == "first"
        assert (told["lines"], told["accepted"], told["invalid"]) == (6, 3, 1)
        assert [(error["line"], error["reason"]) for error in told["errors"]] == [(4, "scheme")]
        await d.until(done=3)
        async with d.session.get("/v1/results") as answer:
            rows = [orjson.loads(line) for line in (await answer.read()).splitlines()]
    found = {(row["input"]["line"], row["outcome"], row["tag"]) for row in rows}
    assert found == {(3, "ok", "mine"), (4, "invalid_url", "mine"), (5, "ok", "own"), (6, "ok", "mine")}
    assert {row["input"]["list"] for row in rows} == {"first"}


@pytest.mark.parametrize(
    "body",
    [
        gzip.compress(lines(unreachable(500))),
        gzip.compress(lines(unreachable(250)) + b"\n") + gzip.compress(lines(unreachable(250, 250))),
        gzip.compress(lines(unreachable(500))) + b"\0" * 512,
        gzip.compress(lines(unreachable(500))) + b"\0" * (50 << 10),
        lines(unreachable(500)),
    ],
    ids=["gzip", "members", "padded", "padded far", "plain"],
)
async def test_seeds_may_be_packed(tmp_path, body):
    async with daemon(tmp_path) as d:
        await d.ask("POST", "/v1/pause")
        status, told = await d.ask("POST", "/v1/seeds", data=body)
        assert (status, told["accepted"], told["invalid"]) == (200, 500, 0)
        assert (await d.ask("GET", "/v1/status"))[1]["known"] == 500, "acknowledged is committed"


async def test_what_is_packed_tightly_leaves_others_their_turn(tmp_path, monkeypatch):
    turns, seen = 0, set()

    class Watched(api_seeds.Lines):
        def feed(self, data):
            seen.add(turns)
            return super().feed(data)

    async def count():
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    monkeypatch.setattr(api_seeds, "Lines", Watched)
    async with daemon(tmp_path) as d:
        await d.ask("POST", "/v1/pause")
        counting = asyncio.create_task(count())
        status, told = await d.ask("POST", "/v1/seeds", data=gzip.compress(b"a" * (16 << 20)))
        counting.cancel()
    assert (status, told["invalid"]) == (200, 1)
    assert len(seen) >= 1024, "one between two blocks"


def test_positions_alone_fill_a_batch_too():
    batch = OpenBatch()
    for _ in range(LINKS_MAX):
        assert not batch.is_full()
        batch.admit(Admitted((), (), ("list", b"position")))
    assert batch.is_full()
    again = OpenBatch()
    again.prepend(batch)
    assert again.is_full()


def test_long_urls_fill_a_batch_before_many_do():
    batch = OpenBatch()
    links = tuple(Link(f"http://a.test/{'x' * 2000}{n}", "a.test") for n in range(1000))
    batch.admit(Admitted(links))
    assert not batch.is_full()
    batch.admit(Admitted(links))
    batch.admit(Admitted(links))
    assert batch.is_full() and batch.links_count == 3000
    again = OpenBatch()
    again.prepend(batch)
    assert again.is_full()


async def test_one_byte_at_a_time_is_the_same_list(tmp_path):
    async def dripping(data):
        for n in range(len(data)):
            yield data[n : n + 1]

    for packed in (gzip.compress(lines(unreachable(5))), lines(unreachable(5)), b"a", b""):
        async with daemon(tmp_path / str(len(packed))) as d:
            await d.ask("POST", "/v1/pause")
            status, told = await d.ask("POST", "/v1/seeds", data=dripping(packed))
            assert status == 200
            assert (told["accepted"], told["invalid"]) == {b"a": (0, 1), b"": (0, 0)}.get(packed, (5, 0))


async def test_what_is_not_gzip_to_its_end_is_told_and_what_could_be_read_is_kept(tmp_path):
    whole = gzip.compress(lines(unreachable(20_000)))
    async with daemon(tmp_path) as d:
        await d.ask("POST", "/v1/pause")
        status, told = await d.ask("POST", "/v1/seeds", data=whole[: len(whole) // 2])
        assert (status, told["title"]) == (400, "Bad Request")
        assert 0 < told["accepted"] < 20_000
        assert (await d.ask("GET", "/v1/status"))[1]["known"] == told["accepted"]
        status, told = await d.ask("POST", "/v1/seeds", data=b"\x1f\x8bnothing of the kind")
        assert (status, told["accepted"]) == (400, 0)


async def test_a_named_list_continues_where_it_stopped_and_may_only_grow(tmp_path):
    first, more = lines(unreachable(300)) + b"\n", lines(unreachable(100, 300)) + b"\n"
    async with daemon(tmp_path) as d:
        await d.ask("POST", "/v1/pause")
        assert (await d.ask("POST", "/v1/seeds?list=a", data=first))[1]["accepted"] == 300
        assert (await d.ask("POST", "/v1/seeds?list=a", data=first))[1]["accepted"] == 0
        status, told = await d.ask("POST", "/v1/seeds?list=a", data=first + more)
        assert (status, told["lines"], told["accepted"]) == (200, 400, 100)
    async with daemon(tmp_path) as d:
        await d.ask("POST", "/v1/pause")
        status, told = await d.ask("POST", "/v1/seeds?list=a", data=b"http://other.test/\n" + first)
        assert (status, told["title"]) == (409, "Conflict")
        assert (await d.ask("GET", "/v1/status"))[1]["known"] == 400


@pytest.mark.parametrize("query", ["list=", "list=a/b", "list=argv", "list=-", "tag=", f"tag={'x' * 257}", f"list={'x' * 101}"])
async def test_names_and_tags_are_checked(tmp_path, query):
    async with daemon(tmp_path) as d:
        status, told = await d.ask("POST", f"/v1/seeds?{query}", data=b"http://a.test/")
        assert (status, told["status"]) == (400, 400)


async def test_other_codings_are_refused(tmp_path):
    async with daemon(tmp_path) as d:
        status, _ = await d.ask("POST", "/v1/seeds", data=b"x", headers={"Content-Encoding": "br"})
        assert status == 415


async def test_an_upload_is_read_no_faster_than_it_is_admitted(tmp_path):
    """The engine thread is held: nothing can be committed, so after a batch or two the socket is not read any more."""
    body = lines([f"http://a.test/{n}?{'x' * 900}" for n in range(40_000)])
    go_on = threading.Event()
    async with daemon(tmp_path) as d:
        await d.ask("POST", "/v1/pause")
        held = asyncio.ensure_future(d.crawl.pump.ask(go_on.wait))
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", d.port)
            writer.write(b"POST /v1/seeds HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body))
            sent = await as_much_as_it_takes(writer, body)
            assert sent < len(body) - (4 << 20), "it was read although nothing could be committed"
            assert await (await d.session.get("/livez")).text() == "ok\n", "the loop is free meanwhile"
        finally:
            go_on.set()
            await held
        writer.write(body[sent:])
        assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
        assert (await d.ask("GET", "/v1/status"))[1]["known"] == 40_000
        writer.close()


async def as_much_as_it_takes(writer, body):
    """Write until nothing more is taken for a second; how much was written."""
    for sent in range(0, len(body), 1 << 16):
        writer.write(body[sent : sent + (1 << 16)])
        try:
            async with asyncio.timeout(1):
                await writer.drain()
        except TimeoutError:
            return sent + (1 << 16)
    return len(body)


async def test_an_upload_that_stalls_ends_and_what_was_told_is_committed(tmp_path, monkeypatch):
    monkeypatch.setattr(api_seeds, "STALL_S", 0.3)
    async with daemon(tmp_path) as d:
        await d.ask("POST", "/v1/pause")
        reader, writer = await asyncio.open_connection("127.0.0.1", d.port)
        writer.write(b"POST /v1/seeds?list=s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999\r\n\r\n")
        writer.write(lines(unreachable(100)) + b"\nhttp://half.te")
        answer = await reader.readuntil(b"\r\n\r\n")
        assert b"408" in answer.splitlines()[0]
        told = orjson.loads(await reader.readuntil(b"}"))
        assert told["accepted"] == 100
        assert (await d.ask("GET", "/v1/status"))[1]["known"] == 100
        writer.close()
        assert (await d.ask("POST", "/v1/seeds?list=s", data=lines(unreachable(101))))[1]["accepted"] == 1


async def test_a_list_that_is_cut_and_sent_again_at_once_names_no_line_twice(tmp_path):
    """The engine thread is held: what came before the cut is not committed yet when the list comes again."""
    body, go_on = lines(unreachable(100)) + b"\n", threading.Event()
    async with daemon(tmp_path) as d:
        await d.ask("POST", "/v1/pause")
        _, writer = await asyncio.open_connection("127.0.0.1", d.port)
        writer.write(b"POST /v1/seeds?list=s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999\r\n\r\n" + body[:9])
        while not d.control.lists._names:
            await asyncio.sleep(0.01)
        await d.crawl.pump.ask(d.crawl.store.positions)  # as it has asked, too
        held = asyncio.ensure_future(d.crawl.pump.ask(go_on.wait))
        writer.write(body[9:])
        batches = d.crawl.frontier._batches
        while batches.open.links_count + (batches.closing.links_count if batches.closing else 0) < 100:
            await asyncio.sleep(0.01)
        writer.close()
        again = asyncio.create_task(d.ask("POST", "/v1/seeds?list=s", data=body))
        await asyncio.wait([again], timeout=0.3)
        go_on.set()
        await held
        while (told := await again)[0] == 409:  # the cut one ends first
            again = asyncio.create_task(d.ask("POST", "/v1/seeds?list=s", data=body))
        assert told[1]["accepted"] == 0
        status = await d.until(known=100)
        assert status["lines"] == {}


async def test_a_list_is_received_once_at_a_time_and_so_many_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr(api_seeds, "UPLOADS_MAX", 2)
    async with daemon(tmp_path) as d:
        begun = []
        for name in (b"one", b"two"):
            _, writer = await asyncio.open_connection("127.0.0.1", d.port)
            writer.write(b"POST /v1/seeds?list=" + name + b" HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n")
            begun.append(writer)
        while len(d.control.lists._names) < 2:
            await asyncio.sleep(0.01)
        assert (await d.ask("POST", "/v1/seeds?list=three", data=b""))[0] == 503
        begun.pop().close()
        while len(d.control.lists._names) > 1:
            await asyncio.sleep(0.01)
        assert (await d.ask("POST", "/v1/seeds?list=one", data=b""))[0] == 409
        assert (await d.ask("POST", "/v1/seeds?list=three", data=b""))[0] == 200
        begun.pop().close()


# -- what is told -----------------------------------------------------------------------------------------------------


async def test_why_a_url_is_where_it_is(tmp_path, site):
    urls = [*site.good(1), f"http://127.0.0.1:{site.ports['http']}/sin/gone"]
    async with daemon(tmp_path) as d:
        await d.ask("POST", "/v1/seeds?list=l", data=lines(urls))
        await d.until(done=2)
        _, told = await d.ask("GET", "/v1/urls", params={"url": urls[0] + "#fragment"})
        assert (told["state"], told["canonical"], told["record"]["outcome"]) == ("done", urls[0], "ok")
        assert told["row"]["status"] == 200
        assert told["record"]["input"] == {"list": "l", "line": 1}
        _, told = await d.ask("GET", "/v1/urls", params={"url": urls[1]})
        assert (told["record"]["outcome"], told["record"]["status"]) == ("http_error", 404)
        _, told = await d.ask("GET", "/v1/urls", params={"url": "http://never.test/"})
        assert (told["state"], told["in_flight"]) == ("unknown", False)
        await d.ask("POST", "/v1/pause")
        await d.ask("POST", "/v1/seeds", data=b"http://waits.test/")
        assert (await d.ask("GET", "/v1/urls", params={"url": "http://waits.test"}))[1]["state"] == "waiting"
        assert (await d.ask("GET", "/v1/urls"))[0] == 400
        assert (await d.ask("GET", "/v1/urls", params={"url": "http://"}))[0] == 400
        _, hosts = await d.ask("GET", "/v1/hosts", params={"sort": "errors"})
        assert [(host["host"], host["errors"]) for host in hosts["hosts"]] == [(f"127.0.0.1:{site.ports['http']}", 1)]
        _, hosts = await d.ask("GET", "/v1/hosts", params={"sort": "waiting", "limit": "1"})
        assert [(host["host"], host["waiting"]) for host in hosts["hosts"]] == [("waits.test", 1)]
        assert (await d.ask("GET", "/v1/hosts?sort=size"))[0] == (await d.ask("GET", "/v1/hosts?limit=-1"))[0] == 400


async def test_what_stands_between_a_url_and_its_visit_is_told_as_it_is(tmp_path):
    """Rules that were asked for by an earlier process were said not to have been; those that are not obeyed to allow it; and a
    line that is visited all the same to be excluded."""
    web = Web({"127.0.0.1": {"/": page(), "/robots.txt": Answer(body=b"User-agent: *\nDisallow: /no", mime="text/plain")}})
    with web.running():
        listed, denied = web.url("127.0.0.1"), web.url("127.0.0.1", "/no")
        settings = {"exclude": ["127.0.0.1"], "robots": True}

        async def told(d, url):
            _, why = await d.ask("GET", "/v1/urls", params={"url": url})
            return why["state"], why["robots"], why.get("excluded", False)

        async with daemon(tmp_path / "d", **settings) as d:
            await d.ask("POST", "/v1/pause")
            await d.ask("POST", "/v1/seeds", data=listed.encode())
            assert await told(d, listed) == ("waiting", "not asked yet", False)
            await d.ask("POST", "/v1/resume")
            await d.until(done=1)
            assert await told(d, listed) == ("done", "allowed", False)
        async with daemon(tmp_path / "d", **settings) as d:
            assert await told(d, listed) == ("done", "allowed", False)
            assert await told(d, denied) == ("unknown", "rule", True)
            await d.ask("POST", "/v1/pause")
            await d.ask("PATCH", "/v1/settings", json={"exclude": ["127.0.0.1", "/later"]})
            await d.ask("POST", "/v1/seeds", data=web.url("127.0.0.1", "/later").encode())
            assert await told(d, web.url("127.0.0.1", "/later")) == ("waiting", "allowed", True)
        async with daemon(tmp_path / "d", **settings | {"robots": False}) as d:
            assert await told(d, denied) == ("unknown", None, True)


async def test_a_host_that_fails_is_among_those_backed_off(tmp_path):
    with running(Site(scripts={})) as closed:
        url = f"http://127.0.0.1:{closed.ports['http']}/"
    async with daemon(tmp_path, retries=5) as d:
        await d.ask("POST", "/v1/seeds", data=lines([url + str(n) for n in range(20)]))
        while not (hosts := (await d.ask("GET", "/v1/hosts?sort=backoff"))[1]["hosts"]):
            await asyncio.sleep(0.02)
        assert hosts[0]["failures"] >= 1


async def test_bodies_are_given_out_so_that_no_browser_shows_them(tmp_path, site):
    (url,) = site.good(1)
    async with daemon(tmp_path) as d:
        await d.ask("POST", "/v1/seeds", data=url.encode())
        await d.until(done=1)
        async with d.session.get("/v1/body", params={"url": url}) as answer:
            assert answer.status == 200
            body = await answer.read()
            assert answer.headers["Content-Type"] == "application/octet-stream"
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Content-Security-Policy"] == "sandbox"
        assert body and body == (await (await d.session.get("/v1/body", params={"url": url, "raw": "true"})).read())
        status, told = await d.ask("GET", "/v1/body", params={"url": "http://never.test/"})
        assert (status, told["state"]) == (404, "unknown")
        assert (await d.ask("GET", "/v1/body", params={"url": url, "raw": "maybe"}))[0] == 400


async def test_where_the_memory_is(tmp_path):
    async with daemon(tmp_path) as d:
        text = await (await d.session.get("/debug/memory")).text()
        assert "Visitor.work" in text and "store" in text and "not traced" in text
        assert "MiB in" in await (await d.session.get("/debug/memory?seconds=1")).text()
        assert (await d.ask("GET", "/debug/memory?seconds=21"))[0] == 400


async def test_of_several_who_ask_where_the_memory_is_each_is_told(tmp_path):
    async with daemon(tmp_path) as d:

        async def ask():
            return await (await d.session.get("/debug/memory?seconds=1")).text()

        for text in await asyncio.gather(ask(), ask(), ask()):
            assert "MiB in" in text
        assert "not traced" in await (await d.session.get("/debug/memory")).text()


# -- results ----------------------------------------------------------------------------------------------------------


async def all_rows(d, cursor="0-0"):
    """Every row from a cursor on, page by page, and the last cursor."""
    rows = []
    while True:
        async with d.session.get("/v1/results", params={"cursor": cursor}) as answer:
            data, cursor = await answer.read(), answer.headers["Next-Cursor"]
        if not data:
            return rows, cursor
        assert data.endswith(b"\n")
        rows += [orjson.loads(line) for line in data.splitlines()]


async def test_a_cursor_gives_every_row_once_over_pages_files_and_restarts(tmp_path, site, monkeypatch):
    monkeypatch.setattr(api_streams, "ROWS_BYTES", 5000)
    found, cursor = [], "0-0"
    for first in (0, 40):
        async with daemon(tmp_path, roll_size=20_000) as d:
            await d.ask("POST", "/v1/seeds", data=lines(site.good(40, first)))
            await d.until(done=first + 40)
            more, cursor = await all_rows(d, cursor)
            found += more
            assert await all_rows(d, cursor) == ([], cursor)
    assert sorted(row["url"] for row in found) == sorted(site.good(80))
    assert int(cursor.split("-")[0]) >= 1, "files have been rolled"


@pytest.fixture
def keys_read(monkeypatch):
    """Keys of the store that scans have come upon."""
    read, scan = [], Database.scan

    def noted(self, family, prefix=b"", start=b""):
        for key, value in scan(self, family, prefix, start):
            read.append(key)
            yield key, value

    monkeypatch.setattr(Database, "scan", noted)
    return read


async def test_who_reads_rows_or_a_body_has_no_other_folder_looked_through(tmp_path, site, keys_read):
    """A reader that waits asks anew after each commit, and after years there are a hundred thousand files."""
    (url,) = site.good(1)
    async with daemon(tmp_path) as d:
        await d.ask("POST", "/v1/seeds", data=url.encode())
        await d.until(done=1)
        for path, folder in ((f"/v1/body?url={url}", "warc/"), ("/v1/results?wait=1&cursor=0-0", "results/")):
            keys_read.clear()
            async with d.session.get(path) as answer:
                assert answer.status == 200 and await answer.read()
            assert {file_name(MARK, key).partition("/")[0] + "/" for key in keys_read if key.startswith(MARK)} == {folder}


async def test_a_list_is_continued_without_a_look_at_all_that_were_ever_named(tmp_path, keys_read):
    async with daemon(tmp_path) as d:
        for name in ("a", "b", "a"):
            keys_read.clear()
            status, told = await d.ask("POST", "/v1/seeds", params={"list": name}, data=b"http://192.0.2.1/\n")
            assert status == 200
        assert [key for key in keys_read if key.startswith(POSITION)] == [POSITION + b"a"] and told["accepted"] == 0


async def test_a_reader_may_wait_for_rows(tmp_path, site):
    async with daemon(tmp_path) as d:
        waiting = asyncio.ensure_future(d.session.get("/v1/results?wait=30"))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        await d.ask("POST", "/v1/seeds", data=lines(site.good(1)))
        async with await waiting as answer:
            assert orjson.loads(await answer.read())["outcome"] == "ok"


async def test_who_waits_for_rows_and_goes_away_makes_room_for_others(tmp_path, monkeypatch):
    monkeypatch.setattr(api_streams, "WAIT_S_MAX", 999)
    async with daemon(tmp_path) as d, asyncio.timeout(60):

        async def is_served():
            async with d.session.get("/livez", headers={"Connection": "close"}) as answer:
                return answer.status == 200

        writers = []
        while await is_served():
            for _ in range(16):
                _, writer = await asyncio.open_connection("127.0.0.1", d.port)
                writer.write(b"GET /v1/results?wait=999 HTTP/1.1\r\nHost: localhost\r\n\r\n")
                writers.append(writer)
        for writer in writers:
            writer.close()
        while not await is_served():
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("cursor", ["", "1", "0-1", "9-0", "0-999999999", "-1-0", "0-0-0", "x", "0-" + "9" * 19])
async def test_a_cursor_that_was_never_given_out_is_refused(tmp_path, site, cursor):
    async with daemon(tmp_path) as d:
        await d.ask("POST", "/v1/seeds", data=lines(site.good(1)))
        await d.until(done=1)
        status, told = await d.ask("GET", "/v1/results", params={"cursor": cursor})
        assert (status, "cursor" in told["detail"]) == (400, True)


@pytest.mark.parametrize("part", [7, 100, 2**31 - 1])
async def test_a_cursor_of_any_part_is_taken_back(tmp_path, part):
    """Those of a cluster's nodes are numbered for as long as it lives."""
    async with daemon(tmp_path) as d:
        marks = {**await d.crawl.pump.marks(), f"results/p{part:02d}-results-000000.jsonl": Mark(7, closed=True)}

        async def marked(folder=""):
            return marks

        d.control.crawl.marks = marked
        (tmp_path / "results" / f"p{part:02d}-results-000000.jsonl").write_bytes(b'{"a":}\n')
        async with d.session.get("/v1/results") as answer:
            assert (answer.status, await answer.read()) == (200, b'{"a":}\n')
            cursor = answer.headers["Next-Cursor"]
        async with d.session.get(f"/v1/results?cursor={cursor}") as answer:
            assert (answer.status, await answer.read(), answer.headers["Next-Cursor"]) == (200, b"", cursor)


async def test_a_row_longer_than_a_page_is_a_page(tmp_path, site, monkeypatch):
    monkeypatch.setattr(api_streams, "ROWS_BYTES", 100)
    async with daemon(tmp_path) as d:
        await d.ask("POST", "/v1/seeds", data=lines(site.good(3)))
        await d.until(done=3)
        assert len((await all_rows(d))[0]) == 3


# -- steering ---------------------------------------------------------------------------------------------------------


async def test_pause_and_resume(tmp_path, site):
    async with daemon(tmp_path) as d:
        status, told = await d.ask("POST", "/v1/pause")
        assert (status, told["state"], told["paused_by"]) == (200, "paused", ["user"])
        await d.ask("POST", "/v1/seeds", data=lines(site.good(5)))
        assert (await (await d.session.get("/readyz")).text()) == "ok\n", "it takes seeds"
        await asyncio.sleep(0.3)
        assert (await d.ask("GET", "/v1/status"))[1]["waiting"] == 5
        assert (await d.ask("POST", "/v1/resume"))[1]["state"] == "running"
        await d.until(done=5)


async def test_draining_is_not_ready_and_takes_no_more_seeds(tmp_path, site):
    slow, was_refused = f"http://127.0.0.1:{site.ports['http']}/sin/held", threading.Event()
    site.scripts["held"] = [once(was_refused.is_set), head(2) + b"ok", stay]
    async with daemon(tmp_path) as d:
        await d.ask("POST", "/v1/seeds", data=slow.encode())
        await d.until(in_flight=1)
        assert (await d.ask("POST", "/v1/drain"))[1]["state"] == "draining"
        async with d.session.get("/readyz") as answer:
            assert (answer.status, await answer.text()) == (503, "draining\n")
        status, told = await d.ask("POST", "/v1/seeds", data=b"http://late.test/\n")
        assert (status, told["accepted"], told["lines"]) == (503, 0, 0), "what is told is committed"
        was_refused.set()


async def test_settings_change_together_or_not_at_all(tmp_path):
    async with daemon(tmp_path) as d:
        status, told = await d.ask(
            "PATCH", "/v1/settings", json={"delay": "2s", "rate": 50, "host": [{"match": "a.test", "delay": 9}]}
        )
        assert (status, told["delay"], told["rate"]) == (200, 2.0, 50.0)
        assert d.crawl.hosts.delay("b.test") == 2.0
        assert d.crawl.hosts.delay("a.test") == 9.0
        assert 'delay = "2s"' in (tmp_path / "crawl.toml").read_text()
        for changes, says in (
            ({"delay": 3, "rate": "x"}, "rate"),
            ({"delay": 3, "dellay": 4}, "did you mean delay"),
            ({"delay": 3, "archive": "files"}, "archive belongs to what this crawl was begun with: only a new crawl"),
            ({"delay": 3, "depth": 4, "workers": 1}, "depth belongs to what this crawl was begun with: only a new crawl"),
            ({"delay": 3, "depth": 4, "workers": 1}, "workers can only be changed by a restart"),
        ):
            status, told = await d.ask("PATCH", "/v1/settings", json=changes)
            assert (status, any(says in fault for fault in told["faults"])) == (400, True), told
        assert (await d.ask("GET", "/v1/settings"))[1]["delay"] == 2.0
        assert (await d.ask("PATCH", "/v1/settings", json={"delay": None}))[1]["delay"] == 1.0
        for body in (b"{", b"[]", b"1", b'"x"'):
            assert (await d.ask("PATCH", "/v1/settings", data=body, headers={"Content-Type": "application/json"}))[0] == 400
        assert (await d.ask("PATCH", "/v1/settings", data=b"{}", headers={"Content-Type": "text/plain"}))[0] == 415
        assert (await d.ask("PATCH", "/v1/settings", json={"x": "y" * 100_000}))[0] == 413
        deep = b'{"exclude": %b%b}' % (b"[" * 1020, b"]" * 1020)
        assert (await d.ask("PATCH", "/v1/settings", data=deep, headers={"Content-Type": "application/json"}))[0] == 400


async def test_all_of_a_host_table_takes_effect_while_it_runs(tmp_path, caplog):
    """Also robots.txt, where none was obeyed before."""
    caplog.set_level(logging.INFO)
    rules = b"User-agent: *\nDisallow: /good/9\n"

    class Ruled(Site):
        async def answer(self, conn, target):
            if target.endswith("/robots.txt"):
                await conn.play([head(len(rules), mime="text/plain") + rules, stay])
            else:
                await super().answer(conn, target)

    with running(Ruled(host="0.0.0.0")) as site:
        port = site.ports["http"]
        async with daemon(tmp_path) as d:

            async def crawled(host: str, *numbers: int) -> list[bytes]:
                before, (_, told) = len(site.requests), await d.ask("GET", "/v1/status")
                await d.ask("POST", "/v1/seeds", data=lines(f"http://{host}:{port}/good/{n}" for n in numbers))
                await d.until(done=told["done"] + len(numbers), in_flight=0)
                return site.requests[before:]

            async def change(**table) -> None:
                status, _ = await d.ask("PATCH", "/v1/settings", json={"host": [{"match": "127.0.0.2"} | table]})
                assert (status, caplog.messages[-1]) == (200, "changed: host")

            (first,) = await crawled("127.0.0.2", 1)
            assert b"Mine: yes" not in first
            await change(robots=True, headers={"Mine": "yes"})
            robots, second = await crawled("127.0.0.2", 2, 9)
            assert robots.startswith(b"GET /robots.txt ") and second.startswith(b"GET /good/2 ") and b"Mine: yes" in second
            assert len(await crawled("127.0.0.3", 1, 9)) == 2, "only where the table says so"
            await change(robots=False, proxy=f"http://127.0.0.9:{port}")
            (third,) = await crawled("127.0.0.2", 3)
            assert third.startswith(f"GET http://127.0.0.2:{port}/good/3 ".encode()) and b"Mine: yes" not in third
            await change(delay=7, per_host=3)
            hosts = d.crawl.hosts
            assert (hosts.delay("127.0.0.2"), hosts.per_host("127.0.0.2"), hosts.delay("127.0.0.3")) == (7.0, 3, 0.0)


# -- who may ask ------------------------------------------------------------------------------------------------------


async def test_a_token_is_asked_for_everywhere_but_of_health_checks(tmp_path):
    async with daemon(tmp_path, api_token="s3cret") as d:
        for path in OPENAPI["paths"]:
            method = next(iter(OPENAPI["paths"][path])).upper()
            async with d.session.request(method, path) as answer:
                assert answer.status == (200 if path in ("/livez", "/readyz") else 401), path
                assert answer.status == 200 or answer.headers["WWW-Authenticate"] == "Bearer"
        for given in ("Bearer wrong", "Bearer ", "s3cret", "Basic s3cret", "Bearer s3cret2", "Bearer s3cr\u00e9t"):
            async with d.session.get("/v1/status", headers={"Authorization": given}) as answer:
                assert answer.status == 401, given
        async with d.session.get("/v1/status", headers={"Authorization": "bearer s3cret"}) as answer:
            assert answer.status == 200
            assert "s3cret" not in await answer.text()
        async with d.session.get("/v1/settings", headers={"Authorization": "Bearer s3cret"}) as answer:
            assert (await answer.json())["api_token"] == "***"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "localhost:1"}, 200),
        ({"Host": "127.0.0.1"}, 200),
        ({"Host": "[::1]:80"}, 200),
        ({"Host": "evil.test"}, 403),
        ({"Host": "127.0.0.1.evil.test"}, 403),
        ({"Host": "10.0.0.1"}, 403),
        ({"Host": "]["}, 403),
        ({"Origin": "http://evil.test"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://["}, 403),
        ({"Host": "localhost:9", "Origin": "http://localhost:9"}, 200),
        ({"Host": "localhost:9", "Origin": "http://localhost:8"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
    ],
    ids=str,
)
async def test_web_pages_of_others_are_refused(tmp_path, headers, status):
    async with daemon(tmp_path) as d:
        async with d.session.post("/v1/pause", headers=headers) as answer:
            assert answer.status == status
            assert "Access-Control-Allow-Origin" not in answer.headers
        assert ("user" in d.crawl.frontier.pauses) == (status == 200)


async def test_whatever_is_wrong_is_problem_json(tmp_path):
    async with daemon(tmp_path) as d:
        for method, path, status in (("GET", "/nowhere", 404), ("PUT", "/v1/status", 405), ("GET", "/v1/urls", 400)):
            async with d.session.request(method, path) as answer:
                told = await answer.json(content_type="application/problem+json")
                assert (answer.status, told["status"], told["type"]) == (status, status, "about:blank")
                assert told["detail"]
                assert (status == 405) == ("Allow" in answer.headers)


async def test_head_is_answered_where_get_is(tmp_path, site):
    """By its head alone, and the same connection serves again."""
    async with daemon(tmp_path) as d:
        (url,) = site.good(1)
        await d.ask("POST", "/v1/seeds", data=url)
        await d.until(done=1)
        queries = {"/v1/body": f"?url={url}", "/v1/urls": f"?url={url}", "/v1/results": "?outcome=ok"}
        reader, writer = await asyncio.open_connection("127.0.0.1", d.port)
        async with asyncio.timeout(30):
            for resource in d.control.application().router.resources():
                if not any(route.method == "GET" for route in resource):
                    continue
                path = resource.canonical + queries.get(resource.canonical, "")
                writer.write(f"HEAD {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
                told = (await reader.readuntil(b"\r\n\r\n")).decode()
                assert told.startswith("HTTP/1.1 200 "), told
        writer.close()
        async with d.session.head("/v1/pause") as answer:
            assert answer.status == 405


async def test_a_path_that_is_not_there_leaves_no_frames_to_the_collector_of_cycles(tmp_path):
    async with daemon(tmp_path) as d:
        await d.ask("GET", "/nowhere")
        gc.disable()
        try:
            gc.collect()
            for _ in range(20):
                await d.ask("GET", "/nowhere")
            found = gc.collect()
        finally:
            gc.enable()
        assert found < 200, "there were 20 objects a request with the frames, and are 6"


async def test_a_fault_of_ours_is_logged_and_not_told(tmp_path, monkeypatch, caplog):
    async with daemon(tmp_path) as d:
        monkeypatch.setattr(d.crawl, "stats", lambda *args: 1 / 0)
        status, told = await d.ask("GET", "/v1/status")
        assert status == 500
        assert "division" not in told["detail"]
        assert "ZeroDivisionError" in caplog.text and "GET /v1/status" in caplog.text
        monkeypatch.undo()


@pytest.mark.parametrize("lack", [RuntimeError("can't start new thread"), OSError(errno.EMFILE, "Too many open files")])
async def test_what_this_machine_lacks_is_no_fault_of_ours(tmp_path, monkeypatch, caplog, lack):
    def fail(*_):
        raise lack

    async with daemon(tmp_path) as d:
        monkeypatch.setattr(d.crawl, "stats", fail)
        status, told = await d.ask("GET", "/v1/status")
        monkeypatch.undo()
    assert status == 503 and "ulimit" in told["detail"]
    assert "Traceback" not in caplog.text


async def stalled_reader(port, path="/v1/results"):
    """Asks for the same over and over, and takes nothing of it."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
    await asyncio.get_running_loop().sock_sendall(connection, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode() * 50)
    return connection


async def until_reset(connection):
    with connection, contextlib.suppress(ConnectionResetError):
        while await asyncio.get_running_loop().sock_recv(connection, 1 << 16):
            pass


async def test_who_asks_to_the_last_is_told_that_the_crawl_has_ended(tmp_path):
    """A part of a crawl that drains may be asked once its store is closed: 503, no fault of ours."""
    async with daemon(tmp_path) as running:
        pass
    with pytest.raises(StorageError, match="the crawl has ended"):
        await running.crawl.pump.marks()


@pytest.mark.parametrize("path", ["/v1/tags", "/"])
async def test_of_what_is_made_whole_only_little_waits_for_clients_that_do_not_read(tmp_path, monkeypatch, path):
    """128 of them had 1,000 tags make 400 MiB."""
    monkeypatch.setattr(api_streams, "SLOT_S", 0.2)
    tagged = [orjson.dumps({"url": url, "tag": f"{n}" + 250 * "\N{CRAB}"}) for n, url in enumerate(unreachable(300))]
    excluded = {"exclude": [f"/{n}/{'x' * 100}" for n in range(400)]}
    async with daemon(tmp_path) as d:
        await d.ask("POST", "/v1/pause")
        await d.ask("POST", "/v1/seeds", data=b"\n".join(tagged))
        await d.ask("POST", "/v1/exclusions", json=excluded)
        readers = [await stalled_reader(d.port, path) for _ in range(4)]
        async with asyncio.timeout(20):
            refused = None
            while refused != 503:
                async with d.session.get(path) as answer:
                    refused = answer.status
        assert (await d.ask("GET", "/v1/status"))[0] == (await d.ask("GET", "/v1/lists"))[0] == 200, "others need not wait"
        for connection in readers:
            connection.close()
        async with asyncio.timeout(20):
            while refused == 503:
                async with d.session.get(path) as answer:
                    refused, size = answer.status, len(await answer.read())
        assert refused == 200 and size > 100_000


async def test_the_page_and_the_settings_need_no_thread_which_a_disk_that_hangs_may_keep(tmp_path):
    async with daemon(tmp_path) as d:
        free = threading.Event()
        threads = [asyncio.get_running_loop().run_in_executor(None, free.wait) for _ in range(64)]
        try:
            async with asyncio.timeout(20):
                for path in ("/", "/v1/settings", "/v1/lists"):
                    async with d.session.get(path) as answer:
                        assert answer.status == 200
        finally:
            free.set()
            await asyncio.gather(*threads)


async def test_readers_that_do_not_read_are_cut_off_and_meanwhile_others_wait(tmp_path, monkeypatch):
    monkeypatch.setattr(api_streams, "STREAMS_MAX", 2)
    monkeypatch.setattr(api_streams, "SLOT_S", 0.2)
    monkeypatch.setattr(api_streams, "SLOW_S", 1.0)
    monkeypatch.setattr(api_streams, "RATE_MIN", 100 << 20)
    async with daemon(tmp_path) as d:
        await d.ask("POST", "/v1/seeds", data=gzip.compress(b"\n".join(b"bad%d " % n + b"z" * 5000 for n in range(300))))
        readers = [await stalled_reader(d.port) for _ in range(2)]
        while not d.control.follow._slots.locked():
            await asyncio.sleep(0.01)
        refused, others = None, []
        while refused != 503:
            if not d.control.follow._slots.locked():  # on a machine that stalls they were cut off already
                others += [await stalled_reader(d.port) for _ in range(2)]
            async with d.session.get("/v1/results") as answer:
                refused = answer.status
        async with d.session.get("/livez") as answer:
            assert answer.status == 200
        while d.control.follow._slots.locked():
            await asyncio.sleep(0.01)
        await asyncio.gather(*map(until_reset, readers))
        for connection in others:
            connection.close()
        assert len((await all_rows(d))[0]) == 300


# -- slow clients -----------------------------------------------------------------------------------------------------


async def test_many_slow_clients_do_not_hold_up_the_crawl(tmp_path, site):
    """Readers that do not read, uploads that do not come, heads that do not end."""
    async with daemon(tmp_path) as d:
        await d.ask("POST", "/v1/seeds", data=lines(site.good(100)))
        await d.until(done=100)
        begun = []
        for n in range(48):
            request = (
                b"GET /v1/results HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20,
                b"POST /v1/seeds HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\nhttp://a.te",
                b"GET /v1/status HTTP/1.1\r\nHost: local",
            )[n % 3]
            _, writer = await asyncio.open_connection("127.0.0.1", d.port, limit=1024)
            writer.write(request)
            begun.append(writer)
        async with d.session.post("/v1/seeds", data=lines(site.good(100, 100))) as answer:
            assert answer.status in (200, 503), "as many uploads as there may be are held"
            if answer.status == 503:
                for writer in begun[1::3]:
                    writer.close()
                while d.control.lists._names:
                    await asyncio.sleep(0.01)
                assert (await d.ask("POST", "/v1/seeds", data=lines(site.good(100, 100))))[0] == 200
        await d.until(done=200)
        for writer in begun:
            writer.close()
