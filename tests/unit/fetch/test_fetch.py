"""What a fetch gives, says, bounds and gives back. How it takes misbehaviour is in test_hostile."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import gc
import gzip
import hashlib
import re
import resource
import socket
import ssl
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from http.cookiejar import CookieJar
from pathlib import Path

import pytest
import uvloop
from hypothesis import assume, given
from hypothesis import strategies as st
from support.corpora import corpus
from support.hostile import LIMITS, end_of, fetching, lease_of, sinful_site, url_of
from support.sinful import Site, forever, hang, head, heard, page, running, stay
from support.sinful_net import name_server

from crawler.config.sections import FetchConfig, HostConfig
from crawler.core.errors import ConfigError, FetchError, StorageError
from crawler.core.model import Known, Ref, Retry
from crawler.core.urls import UrlRules
from crawler.fetch import connector, decoding, open_fetcher, session
from crawler.fetch import fetcher as fetcher_module
from crawler.fetch.connection import Watched
from crawler.fetch.connector import IDLE_BYTES, IDLE_TLS_BYTES
from crawler.fetch.cookies import Cookies
from crawler.fetch.deadline import Deadline, Deadlines
from crawler.fetch.exchange import CURRENT, Exchange
from crawler.fetch.framing import mended
from crawler.fetch.guard import Guard
from crawler.fetch.session import shares, tls_context
from crawler.output.archive.records import http_head
from crawler.policy.judge import Judge

TEXT = b"<!doctype html><p>" + b"word " * 40_000
MORE = {
    "headers": [
        head(2, "X-Name: caf\xe9", "x-name: again", status="200 Tr\xe8s bien", mime='text/HTML; charset="UTF-8"') + b"ok",
        stay,
    ],
    "blanks": [
        b"HTTP/1.1 200 OK\r\nContent-Type : text/html; charset=utf-8\r\nContent-Encoding \t: gzip\nX: a : b\r\n c : d\r\n"
        b"Content-Length: %d\r\n\r\n" % len(gzip.compress(TEXT)) + gzip.compress(TEXT),
        stay,
    ],
    "odd": [
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nno colon\r\nX-Powered By: x\r\n and folded\r\nX: a\r\n"
        b"Content-Length: 2, 2\r\n\xe9: x\r\n: x\r\nContent-length:2\r\nY : b\r\n\r\nok",
        stay,
    ],
    "utf-8": [b"HTTP/1.1 200 Tr\xc3\xa8s bien\r\nContent-Length: 2\r\n\r\nok", stay],
    "cookie": [head(2, "Set-Cookie: a=b; Path=/") + b"ok", stay],
    "image": [head(4, mime="image/png") + b"\x89PNG", stay],
    "untyped": [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", stay],
    "image-missing": [head(4, mime="image/png", status="404 Not Found") + b"gone", stay],
    "gzipped": [head(len(gzip.compress(TEXT)), "Content-Encoding: gzip") + gzip.compress(TEXT), stay],
    "gzipped-small": [head(len(gzip.compress(TEXT[:9000])), "Content-Encoding: gzip") + gzip.compress(TEXT[:9000]), stay],
    "gzip-bomb": [head(len(gzip.compress(bytes(9 << 20))), "Content-Encoding: gzip") + gzip.compress(bytes(9 << 20)), stay],
    "big": [head(300_000) + page(1, 300_000), stay],
    "late-head": [0.4, head(2) + b"ok", stay],
    "late-body": [head(10) + b"hello", 0.4, b"world", stay],
    "late-end": [0.4],
    "not-modified": [head(None, 'ETag: "1"', status="304 Not Modified"), stay],
    "hold": [head(1000) + b"x", hang],
    "hold-big": [head(1 << 30) + bytes(200_000), hang],
    "robots-endless": [head(None, mime="text/plain"), forever(b"Disallow: /x\n" * 1000)],
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = sinful_site()
    site.scripts |= MORE
    with running(site):
        site.trust(tmp_path_factory.mktemp("ca") / "ca.pem")
        yield site


def at(site: Site, path: str) -> str:
    return f"http://127.0.0.1:{site.ports['http']}{path}"


def fields_of(request: bytes) -> dict[str, str]:
    lines = request.decode("latin-1").split("\r\n")[1:-2]
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}


# -- what it gives ------------------------------------------------------------------------------------------------


async def test_a_page_is_what_was_sent(site: Site, tmp_path: Path) -> None:
    before = time.time()
    async with fetching(tmp_path, site) as fetcher:
        got = await fetcher.fetch(lease_of(at(site, "/good/3?bytes=100000")))
    body = page(3, 100_000)
    assert b"".join(got.body.chunks()) == body
    assert got.body.sha1 == hashlib.sha1(body).digest()
    assert (got.status, got.phrase, got.version) == (200, "OK", "1.1")
    assert (got.bytes_wire, got.bytes_decoded, got.coding) == (100_000, 100_000, None)
    assert (got.mime, got.charset, got.sniffed) == ("text/html", None, "text/html")
    assert (got.ip, got.fault, got.truncated) == ("127.0.0.1", None, None)
    assert got.url == at(site, "/good/3?bytes=100000")
    assert before <= got.fetched_at <= time.time()
    assert 0 <= got.timings.first_byte <= got.timings.total
    assert 0 <= got.timings.queue <= got.timings.total
    got.body.discard()


async def test_headers_are_kept_as_they_came(site: Site, tmp_path: Path) -> None:
    async with fetching(tmp_path, site) as fetcher:
        got = await fetcher.fetch(lease_of(at(site, "/sin/headers")))
    assert got.headers == (
        (b"Content-Type", b'text/HTML; charset="UTF-8"'),
        (b"X-Name", b"caf\xe9"),
        (b"x-name", b"again"),
        (b"Content-Length", b"2"),
    )
    assert (got.mime, got.charset) == ("text/html", "utf-8")


async def test_blanks_behind_the_name_of_a_field_are_not_of_it(site: Site, tmp_path: Path) -> None:
    """RFC 9112 5.1: proxies remove them from a response, and browsers."""
    async with fetching(tmp_path, site) as fetcher:
        got = await fetcher.fetch(lease_of(at(site, "/sin/blanks")))
        body = await fetcher.finisher.decoded(got, 1 << 20)
    assert [name for name, _ in got.headers] == [b"Content-Type", b"Content-Encoding", b"X", b"Content-Length"]
    assert (got.mime, got.charset, got.coding, body, got.fault) == ("text/html", "utf-8", "gzip", TEXT, None)
    assert got.header("x") == "a : b c : d"


async def test_a_head_that_browsers_read_is_read(site: Site, tmp_path: Path) -> None:
    """Lines that name no field they leave out, and of equal lengths they take one (RFC 9112 6.3)."""
    async with fetching(tmp_path, site) as fetcher:
        got = await fetcher.fetch(lease_of(at(site, "/sin/odd")))
        assert got.headers == ((b"Content-Type", b"text/html"), (b"X", b"a"), (b"Content-Length", b"2"), (b"Y", b"b"))
        assert (got.body.prefix(9), got.fault, fetcher.stats().connections_idle) == (b"ok", None, 1)


@given(
    st.lists(
        st.sampled_from(
            [
                b"\r\n",
                b"\n",
                b" ",
                b"\t",
                b":",
                b"X",
                b"Content-Length",
                b"5",
                b",",
                b"a b",
                b"n" * 64,
                b"\xe9",
                b"Transfer-Encoding",
            ]
        ),
        max_size=30,
    )
)
def test_what_frames_is_mended_by_nothing_but_equal_lengths(words: list[bytes]) -> None:
    head = b"HTTP/1.1 200 OK\r\nA: b\r\n" + b"".join(words) + b"\r\n\r\n"
    assume(re.search(rb"\n\r?\n", head[:-2]) is None)
    other = mended(head)
    if other is not None:
        assert mended(other) is None, "once is enough"
        for line in re.sub(rb"\r?\n[ \t]+", b" ", head).split(b"\n"):
            if line.partition(b":")[0].strip().lower() == b"transfer-encoding":
                assert line in other.split(b"\n")
        lengths = re.findall(rb"(?im)^content-length:(.*)$", head)
        assert bool(lengths) == bool(re.findall(rb"(?im)^content-length:(.*)$", other))


def test_a_flood_of_lines_is_not_mended() -> None:
    """The parser refuses so many fields, and before it has seen them all."""
    assert mended(b"HTTP/1.1 200 OK\r\n" + b"X : y\r\n" * 50_000 + b"\r\n") is None


@pytest.mark.parametrize(("sin", "phrase"), [("headers", b"Tr\xe8s bien"), ("utf-8", b"Tr\xc3\xa8s bien")])
async def test_a_reason_phrase_is_archived_as_it_came(site: Site, tmp_path: Path, sin: str, phrase: bytes) -> None:
    async with fetching(tmp_path, site) as fetcher:
        got = await fetcher.fetch(lease_of(at(site, f"/sin/{sin}")))
    assert http_head(got).startswith(b"HTTP/1.1 200 " + phrase + b"\r\n")


async def test_the_archived_request_is_the_one_that_was_sent(site: Site, tmp_path: Path) -> None:
    async with fetching(
        tmp_path, site, contact="https://example.org/bot", header=("Accept-Language: en", "accept: text/*")
    ) as fetcher:
        got = await fetcher.fetch(lease_of(at(site, "/good/1?a=%zz&b=|'\"%7E~ x&é=ü#fragment")))
    assert site.requests[-1] == got.request
    assert got.request.startswith(b"GET /good/1?a=%zz&b=|%27%22%7E~%20x&%C3%A9=%C3%BC HTTP/1.1\r\nHost: 127.0.0.1:")
    fields = fields_of(got.request)
    assert fields["user-agent"] == "Mozilla/5.0 (compatible; flatcrawler/0.1.0; +https://example.org/bot)"
    assert fields["accept-encoding"] == "gzip, br"
    assert (fields["accept-language"], fields["accept"]) == ("en", "text/*")


@pytest.mark.parametrize(("decode_body", "codings"), [(False, "gzip, br"), (True, "gzip, deflate, br, zstd")])
async def test_what_is_kept_as_it_comes_is_asked_for_in_what_others_undo(
    site: Site, tmp_path: Path, decode_body: bool, codings: str
) -> None:
    """Of a page in zstd pywb and ReplayWeb.page show the bytes that came, and the latter of one in deflate."""
    async with fetching(tmp_path, site, decode_body=decode_body) as fetcher:
        await fetcher.fetch(lease_of(at(site, "/good/1")))
        fetcher.change(fetcher._config)
        await fetcher.fetch(lease_of(at(site, "/good/2")))
    assert [fields_of(request)["accept-encoding"] for request in site.requests[-2:]] == [codings, codings]


@pytest.mark.parametrize("lean", [True, False])
@pytest.mark.parametrize("proxy", [None, "http://127.0.0.1:{proxy-good}"])
@pytest.mark.parametrize("host", ["good.sin.test", "good.sin.test.", "a_b.sin.test.", "127.0.0.1"])
@pytest.mark.parametrize("path", ["/?", "/good/1?", "/good/1?x", "/good/1??", "/a;b//c%2Fd?%20[]"])
async def test_every_way_of_sending_it_sends_the_archived_request(site: Site, tmp_path: Path, path, host, proxy, lean) -> None:
    """aiohttp's own left out an empty query, which is another page, and the dot behind a name: so did each request to a proxy."""
    site.name_server.says("a_b.sin.test", "good")
    url = f"http://{host}:{site.ports['http']}{path}"
    async with fetching(tmp_path, site, lean=lean, proxy=proxy, dns=("127.0.0.1:{dns}",)) as fetcher:
        got = await fetcher.fetch(lease_of(url))
    method, rest = got.request.split(b" ", 1)
    assert rest.startswith(path.encode() + b" HTTP/1.1\r\nHost: " + host.encode())
    assert site.requests[-1] == (got.request if proxy is None else b"%s %s%s" % (method, url.removesuffix(path).encode(), rest))
    got.body.discard()


async def test_a_compressed_body_is_kept_as_sent_or_decoded_as_asked(site: Site, tmp_path: Path) -> None:
    for decode_body in (False, True):
        async with fetching(tmp_path, site, decode_body=decode_body) as fetcher:
            got = await fetcher.fetch(lease_of(at(site, "/sin/gzipped")))
        kept = TEXT if decode_body else gzip.compress(TEXT)
        assert b"".join(got.body.chunks())[10:] == kept[10:]
        assert got.body.sha256 == hashlib.sha256(b"".join(got.body.chunks())).digest()
        assert got.coding == (None if decode_body else "gzip")
        assert (got.bytes_wire, got.bytes_decoded) == (len(gzip.compress(TEXT)), len(TEXT))
        assert got.decoded(1 << 20) == TEXT
        assert got.sniffed == "text/html"
        got.body.discard()
    assert list(tmp_path.iterdir()) == []


async def test_a_small_body_is_decoded_once_and_counted_while_it_is_held(site: Site, tmp_path: Path, monkeypatch) -> None:
    async with fetching(tmp_path, site) as fetcher:
        got = await fetcher.fetch(lease_of(at(site, "/sin/gzipped-small")))
        monkeypatch.setattr(decoding, "decoded", None)
        assert await fetcher.finisher.decoded(got, 1 << 20) == TEXT[:9000]
        assert await fetcher.finisher.decoded(got, 5) == TEXT[:5]
    assert got.memory_bytes == 9000 + got.body.size
    got.body.discard()


async def test_a_decoded_body_that_grows_too_large_is_kept_up_to_the_limit(site: Site, tmp_path: Path) -> None:
    async with fetching(tmp_path, site, decode_body=True, max_decode_ratio=1e6) as fetcher:
        got = await fetcher.fetch(lease_of(at(site, "/sin/gzip-bomb")))
    assert (got.fault.reason, got.truncated, got.body.size) == ("max_decoded", "length", 1 << 20)
    got.body.discard()


@pytest.mark.parametrize(
    ("name", "truncated", "reason", "size", "config"),
    [
        ("length-short", "disconnect", "content_length", 50, {}),
        ("chunked-cut-after-chunk", "disconnect", "chunked", 5, {}),
        ("close-reset", "disconnect", "cut", 5, {}),
        ("length-silence", "time", "read_timeout", 50, {"read_timeout": 0.3}),
        ("close-endless", "length", "max_body", 1 << 20, {}),
        ("length-exabytes", "length", "max_body", 70_000, {"max_body": 70_000}),
    ],
)
async def test_of_a_body_that_is_cut_the_part_that_came_is_kept(site, tmp_path, name, truncated, reason, size, config) -> None:
    async with fetching(tmp_path, site, **config) as fetcher:
        got = await fetcher.fetch(lease_of(url_of(name, site)))
        assert (got.truncated, got.fault.reason, got.body.size, got.bytes_wire) == (truncated, reason, size, size)
        got.body.discard()


# -- what it says -------------------------------------------------------------------------------------------------


async def test_secrets_go_to_their_hosts_only_and_to_no_record(site: Site, tmp_path: Path) -> None:
    tables = ({"match": "localhost", "headers": {"Authorization": "Bearer s3cret", "X-Key": "k3y", "Accept": "a/b"}},)
    async with fetching(tmp_path, site, hosts=tables) as fetcher:
        own = await fetcher.fetch(lease_of(f"http://localhost:{site.ports['http']}/good/1"))
        sent = fields_of(site.requests[-1])
        other = await fetcher.fetch(lease_of(at(site, "/good/1")))
    assert (sent["authorization"], sent["x-key"], sent["accept"]) == ("Bearer s3cret", "k3y", "a/b")
    assert b"s3cret" not in own.request and b"k3y" not in own.request
    assert fields_of(own.request)["authorization"] == "***"
    assert "authorization" not in fields_of(site.requests[-1])
    assert other.request == site.requests[-1]


async def test_proxy_credentials_reach_the_proxy_and_nobody_else(site: Site, tmp_path: Path) -> None:
    wanted = "Basic " + base64.b64encode(b"user:pa55").decode()
    async with fetching(tmp_path, site, proxy="http://user:pa55@127.0.0.1:{proxy-good}", ca_file="{ca}") as fetcher:
        plain = await fetcher.fetch(lease_of("http://somewhere.test/good/1"))
        assert fields_of(site.requests[-1])["proxy-authorization"] == wanted
        assert site.requests[-1].startswith(b"GET http://somewhere.test/good/1 HTTP/1.1\r\n")
        again = await fetcher.fetch(lease_of("http://somewhere.test/good/2"))
        assert fields_of(site.requests[-1])["proxy-authorization"] == wanted
        secure = await fetcher.fetch(lease_of(f"https://localhost:{site.ports['tls-good']}/good/1"))
        connect, tunnelled = site.requests[-2:]
    assert fields_of(connect)["proxy-authorization"] == wanted
    assert fields_of(connect)["user-agent"] == fields_of(tunnelled)["user-agent"], "to the proxy as well, we are who we are"
    assert "proxy-authorization" not in fields_of(tunnelled)
    for got in (plain, again, secure):
        assert b"pa55" not in got.request and b"Proxy" not in got.request and b"Basic" not in got.request
        assert got.ip is None
    assert plain.request.startswith(b"GET /good/1 HTTP/1.1\r\nHost: somewhere.test\r\n")


async def test_a_host_may_have_a_proxy_of_its_own(site: Site, tmp_path: Path) -> None:
    async with fetching(tmp_path, site, hosts=({"match": "*.test", "proxy": "http://127.0.0.1:{proxy-good}"},)) as fetcher:
        await fetcher.fetch(lease_of("http://inside.test/good/1"))
        assert site.requests[-1].startswith(b"GET http://inside.test/good/1 ")
        await fetcher.fetch(lease_of(at(site, "/good/1")))
        assert site.requests[-1].startswith(b"GET /good/1 ")


async def test_a_host_behind_a_proxy_is_never_connected_to(site: Site, tmp_path: Path) -> None:
    """Not even to see whether our network works."""
    behind = ({"match": "127.0.0.2", "proxy": "http://127.0.0.1:{proxy-good}"},)
    async with fetching(tmp_path, site, hosts=behind) as fetcher:
        assert await fetcher.reaches(f"127.0.0.1:{site.ports['http']}")
        seen = len(site.requests)
        with socket.create_server(("127.0.0.2", 0)) as host:
            host.setblocking(False)
            assert not await fetcher.reaches(f"127.0.0.2:{host.getsockname()[1]}")
            with pytest.raises(BlockingIOError):
                host.accept()
        assert len(site.requests) == seen
    of_https = {"match": "127.0.0.2:443", "headers": {"X": "y"}}
    async with fetching(tmp_path, site, hosts=(of_https, *behind)) as fetcher:
        assert not await fetcher.reaches("127.0.0.2"), "with http it is"


async def test_whether_a_host_is_reached_is_not_known_where_no_descriptor_is_left(site: Site, tmp_path: Path) -> None:
    """It is asked while nobody responds: that the name cannot be looked up either is no reason to end the crawl."""
    async with fetching(tmp_path, site) as fetcher:
        for host in ("somewhere.test", f"127.0.0.1:{site.ports['http']}"):
            with no_descriptor_left():
                assert not await fetcher.reaches(host)


async def test_an_unchanged_page_is_asked_for_with_its_validators(site: Site, tmp_path: Path) -> None:
    lease = lease_of(at(site, "/sin/not-modified"))
    known = Known(lease.link, "ok", None, 200, 0.0, Ref("w", 0, 1), etag='"1"', last_modified="Mon, 01 Jan 2024 00:00:00 GMT")
    async with fetching(tmp_path, site) as fetcher:
        got = await fetcher.fetch(lease_of(at(site, "/sin/not-modified"), known=known))
        assert (got.status, got.body.size, got.fault) == (304, 0, None)
        assert got.request == site.requests[-1]
        assert fields_of(got.request)["if-none-match"] == '"1"'
        assert fields_of(got.request)["if-modified-since"] == "Mon, 01 Jan 2024 00:00:00 GMT"
        evil = Known(lease.link, "ok", None, 200, 0.0, Ref("w", 0, 1), etag='"1"\r\nX-Smuggled: 1', last_modified="\xe9")
        got = await fetcher.fetch(lease_of(at(site, "/good/1"), known=evil))
        assert not {"if-none-match", "if-modified-since", "x-smuggled"} & set(fields_of(site.requests[-1]))
        star = Known(lease.link, "ok", None, 200, 0.0, Ref("w", 0, 1), etag="*", last_modified="Mon, 01 Jan 2024 00:00:00 GMT")
        await fetcher.fetch(lease_of(at(site, "/good/1"), known=star))
        assert "if-none-match" not in fields_of(site.requests[-1]), "it would ask for anything but no page at all"
        for tag in ('"1-gzip"', 'W/"1-br"'):  # of Apache, which knows the page by the other tag only
            coded = Known(lease.link, "ok", None, 200, 0.0, Ref("w", 0, 1), etag=tag)
            await fetcher.fetch(lease_of(at(site, "/good/1"), known=coded))
            assert fields_of(site.requests[-1])["if-none-match"] == f'{tag}, {tag[:-1].rpartition("-")[0]}"'


async def test_cookies_are_not_kept_and_the_environment_names_no_proxy(site: Site, tmp_path: Path, monkeypatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{site.ports['closed']}")
    async with fetching(tmp_path, site) as fetcher:
        await fetcher.fetch(lease_of(at(site, "/sin/cookie")))
        await fetcher.fetch(lease_of(at(site, "/sin/cookie")))
    assert "cookie" not in fields_of(site.requests[-1])


def test_every_canonical_url_of_the_corpus_can_be_requested_as_it_is() -> None:
    import json

    from yarl import URL

    from crawler.core import urls

    tried = 0
    for case in json.loads(corpus("url/urltestdata.json").read_text()):
        if isinstance(case, str) or case.get("failure") or not case["href"].startswith(("http://", "https://")):
            continue
        try:
            parsed = urls.parse(case["href"])
        except FetchError:
            continue
        url = URL(parsed.href, encoded=True)
        tried += 1
        assert url.raw_path_qs == parsed.href[len(urls.origin(parsed.href)) :].removesuffix("?"), parsed.href
        assert url.raw_host == parsed.hostname.strip("[]")
    assert tried > 150


# -- what it bounds -----------------------------------------------------------------------------------------------


async def test_only_wanted_kinds_are_fetched(site: Site, tmp_path: Path) -> None:
    async with fetching(tmp_path, site, accept_mime=("text/html", "application/*")) as fetcher:
        assert (await end_of(fetcher, at(site, "/sin/image")))[:2] == ("skipped", "mime")
        assert (await end_of(fetcher, at(site, "/sin/image-missing")))[:2] == ("http_error", None)
        assert (await end_of(fetcher, at(site, "/sin/untyped")))[:2] == ("ok", None)
        assert (await end_of(fetcher, at(site, "/good/1")))[:2] == ("ok", None)
        robots = await fetcher.fetch(lease_of(at(site, "/sin/image"), kind="robots"))
        assert robots.body.size == 4
    async with fetching(tmp_path, site, accept_mime=("image/*",)) as fetcher:
        assert (await end_of(fetcher, at(site, "/sin/image")))[:2] == ("ok", None)


@pytest.mark.parametrize("name", ["unwanted", "cut", "silent"])
async def test_a_response_sets_its_cookies_whatever_becomes_of_its_body(site: Site, tmp_path: Path, name: str) -> None:
    """A host that renewed its session with a picture that is not wanted, or a visit that was broken off, was asked by the old."""
    site.scripts["unwanted"] = [head(4, "Set-Cookie: session=2; Path=/", mime="image/png") + b"\x89PNG", stay]
    site.scripts["cut"] = [head(40, "Set-Cookie: session=2; Path=/") + b"hello"]
    site.scripts["silent"] = [head(40, "Set-Cookie: session=2; Path=/") + b"hello", hang]
    cookies = Cookies(CookieJar())
    config = FetchConfig(allow_net=("127.0.0.0/8",), accept_mime=("text/html",))
    async with open_fetcher(config, tmp=tmp_path, decode_body=False, cookies=cookies) as fetcher:
        cookies.received(at(site, "/"), ["session=1"])
        visit = asyncio.create_task(end_of(fetcher, at(site, f"/sin/{name}")))
        if name == "silent":
            while not fetcher.stats().bytes_in_flight:
                await asyncio.sleep(0.01)
            visit.cancel()
        await asyncio.wait([visit])
        await end_of(fetcher, at(site, "/good/1"))
    assert fields_of(site.requests[-1])["cookie"] == "session=2"


async def test_what_is_in_flight_is_counted_and_settings_change_with_the_next_request(site: Site, tmp_path: Path) -> None:
    async with fetching(tmp_path, site, max_body=1 << 30) as fetcher:
        task = asyncio.create_task(fetcher.fetch(lease_of(at(site, "/sin/hold-big"))))
        while fetcher.stats().bytes_in_flight < 200_000:
            await asyncio.sleep(0.01)
        assert (fetcher.stats().in_flight, fetcher.stats().connections_acquired) == (1, 1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert fetcher.stats().bytes_in_flight == 0
        table = HostConfig(match="127.0.0.1", headers={"X-Key": "k3y"})
        fetcher.change(FetchConfig(**LIMITS | {"max_body": 10}), [table])
        assert (await end_of(fetcher, at(site, "/good/1")))[:2] == ("too_large", "max_body")
        assert fields_of(site.requests[-1])["x-key"] == "k3y"


async def test_a_robots_file_is_read_up_to_its_own_limit_and_always_with_get(site: Site, tmp_path: Path) -> None:
    async with fetching(tmp_path, site, max_body=1000, max_robots=2000, method="HEAD") as fetcher:
        got = await fetcher.fetch(lease_of(at(site, "/sin/robots-endless"), kind="robots"))
        assert (got.body.size, got.fault.reason) == (2000, "max_body")
        assert site.requests[-1].startswith(b"GET ")
        got.body.discard()


async def test_a_sitemap_is_read_up_to_its_own_limit(site: Site, tmp_path: Path) -> None:
    async with fetching(tmp_path, site, max_body=1000, max_sitemap=4000) as fetcher:
        got = await fetcher.fetch(lease_of(at(site, "/good/1?bytes=4000"), kind="sitemap"))
        assert (got.body.size, got.fault) == (4000, None)
        got.body.discard()
        got = await fetcher.fetch(lease_of(at(site, "/good/1?bytes=4001"), kind="sitemap"))
        assert (got.body.size, got.fault.reason) == (4000, "max_body")
        got.body.discard()


async def test_time_we_take_ourselves_is_not_the_servers(site: Site, tmp_path: Path) -> None:
    async with fetching(tmp_path, site, bandwidth=100_000, read_timeout=0.5, min_rate=10**9, min_rate_grace=0.5) as fetcher:
        started = time.monotonic()
        assert (await end_of(fetcher, at(site, "/sin/big")))[0] == "ok"
        assert time.monotonic() - started > 1.5  # the rate was kept: 300 kB at 100 kB/s, the first 64 KiB free
    async with fetching(tmp_path, site, read_timeout=1.2) as fetcher:
        asyncio.get_running_loop().call_later(0.1, time.sleep, 2.0)
        assert await end_of(fetcher, at(site, "/sin/late-body")) == ("ok", None, b"helloworld")


async def test_a_deadline_ends_with_its_reason_and_leaves_other_cancellations_alone() -> None:
    all_of_them = Deadlines(asyncio.get_running_loop())
    with pytest.raises(FetchError) as caught, Deadline(all_of_them, 10) as deadline:
        deadline.arm(5, "connect_timeout")
        deadline.arm(0.05, "read_timeout")
        await asyncio.sleep(5)
    assert caught.value.reason == "read_timeout"
    with pytest.raises(FetchError) as caught, Deadline(all_of_them, 0.05) as deadline:
        deadline.arm(5, "connect_timeout")
        await asyncio.sleep(5)
    assert caught.value.reason == "total_timeout"
    with Deadline(all_of_them, 30) as deadline:  # moved on again and again
        for _ in range(7):
            deadline.arm(2.0, "read_timeout")
            await asyncio.sleep(0.3)

    with pytest.raises(FetchError), Deadline(all_of_them, 0.05) as deadline:  # a loop that is late again and again
        deadline.arm(0.05, "read_timeout")
        for _ in range(20):
            time.sleep(0.6)
            await asyncio.sleep(0.001)

    async def cancelled() -> None:
        with Deadline(all_of_them, 10):
            await asyncio.sleep(5)

    task = asyncio.create_task(cancelled())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not len(all_of_them)


@pytest.mark.parametrize("descriptors", [1, 16, 64, 256, 1024, 65536, 1 << 20])
def test_the_share_of_fetches_fits_into_the_descriptors(descriptors: int) -> None:
    fetches, idle = shares(descriptors)
    assert fetches >= 1
    assert fetches == 1 or 3 * fetches + idle <= descriptors - min(256, descriptors // 2)


@pytest.mark.parametrize(("worth_keeping_s", "kept"), [(0.0, 19), (600.0, 4)])
async def test_idle_connections_are_bounded_and_reused(site: Site, tmp_path: Path, monkeypatch, worth_keeping_s, kept) -> None:
    """Where no more can wait, the oldest makes room if it has waited for long; else the next one is closed."""
    monkeypatch.setattr(connector, "WORTH_KEEPING_S", worth_keeping_s)
    async with fetching(tmp_path, site, dns=("127.0.0.1:{dns}",)) as fetcher:
        fetcher._connector._idle_max = 5
        for asked, n in enumerate((*range(20), kept, kept), 1):
            await end_of(fetcher, f"http://good.n{n}.sin.test:{site.ports['http']}/good/1")
            assert fetcher.stats().connections_idle == min(asked, 5)
            assert fetcher.stats().connections_opened == min(asked, 20), "a connection that is used again was opened once"
        while site.connections > 5:
            await asyncio.sleep(0.01)
        await asyncio.gather(*(end_of(fetcher, at(site, "/good/1")) for _ in range(10)))
        assert sum(len(same) for same in fetcher._connector._conns.values()) <= 5
    while site.connections:
        await asyncio.sleep(0.01)


async def test_a_connection_that_its_server_closes_waits_no_more(tmp_path: Path) -> None:
    """It waited for aiohttp's clean-up: of servers that close each soon, 2,700 where 40 had room."""
    async with (
        Site(scripts={"leaves": [head(2) + b"ok", 0.02]}, extras=[name_server]) as site,
        fetching(tmp_path, site, dns=("127.0.0.1:{dns}",)) as fetcher,
    ):
        names = [f"good.n{n}.sin.test" for n in range(20)]
        await asyncio.gather(*(end_of(fetcher, f"http://{name}:{site.ports['http']}/sin/leaves") for name in names))
        while fetcher.stats().connections_idle:
            await asyncio.sleep(0.01)
        assert not fetcher._connector._conns


async def test_idle_connections_are_bounded_by_their_memory(site: Site, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(connector, "WORTH_KEEPING_S", 0.0)
    async with fetching(tmp_path, site, dns=("127.0.0.1:{dns}",), ca_file="{ca}") as fetcher:
        fetcher._connector._idle_bytes_max = 5 * IDLE_BYTES
        for n in range(10):
            await end_of(fetcher, f"http://good.n{n}.sin.test:{site.ports['http']}/good/1")
            assert fetcher.stats().idle_bytes == min(n + 1, 5) * IDLE_BYTES
        await end_of(fetcher, url_of("tls-good", site))
        waiting = fetcher.stats().idle_bytes - IDLE_TLS_BYTES
        assert IDLE_BYTES < waiting < IDLE_BYTES + 3 * 3000, "buffers as large as the response, beside a plain one"
        assert fetcher.stats().connections_opened == 11
        await end_of(fetcher, url_of("tls-expired", site))
        assert fetcher.stats().connections_opened == 11, "a handshake that failed makes none"
        assert fetcher.stats().connections_idle == 2
        fetcher.forget()
        assert fetcher.stats().idle_bytes == 0


async def test_a_tls_connection_that_takes_much_makes_room_for_others(site: Site, tmp_path: Path) -> None:
    """Its buffers are as large as its largest response. Were it kept, hosts with little to say would be connected to anew for
    each page."""
    async with fetching(tmp_path, site, dns=("127.0.0.1:{dns}",), insecure=True) as fetcher:

        async def ask(name: str, size: int) -> int:
            await end_of(fetcher, f"https://good.{name}.sin.test:{site.ports['tls-good']}/good/1?bytes={size}")
            return fetcher.stats().connections_opened

        fetcher._connector._idle_bytes_max = 5 * IDLE_TLS_BYTES
        assert await ask("large", 60_000) == 1
        assert fetcher.stats().idle_bytes > 3 * IDLE_TLS_BYTES
        assert [await ask(f"n{n}", 100) for n in range(4)] == [2, 3, 4, 5]
        assert fetcher.stats().connections_idle == 4
        assert [await ask(f"n{n}", 100) for n in range(4)] == [5] * 4
        assert await ask("large", 60_000) == 6
        assert fetcher.stats().connections_idle == 4, "it does not drive out those that take little"
        assert [await ask(f"n{n}", 100) for n in range(4)] == [6] * 4


async def test_heavy_answers_at_once_stay_within_memory(site: Site, tmp_path: Path) -> None:
    heavy = ["header-endless", "headers-endless", "interim-endless-new-lines", "close-endless", "tls-endless"]
    heavy += ["chunked-extension-endless", "endless-new-lines", "chunked-trailers-endless", "zstd-bomb", "br-bomb"]
    async with fetching(tmp_path, site, ca_file="{ca}", max_body=4 << 20) as fetcher:
        tracemalloc.start()
        try:
            await asyncio.gather(*(end_of(fetcher, url_of(name, site)) for name in heavy * 2))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 64 << 20
    assert list(tmp_path.iterdir()) == []


# -- connections --------------------------------------------------------------------------------------------------


async def test_what_lies_unread_on_a_kept_connection_is_no_answer(site: Site, tmp_path: Path) -> None:
    """The second answer is in the kernel, and the loop has not seen it when the next request is to be written."""
    async with fetching(tmp_path, site) as fetcher:
        assert (await end_of(fetcher, at(site, "/sin/second-later")))[2] == b"ok"
        time.sleep(0.3)
        assert await end_of(fetcher, at(site, "/good/2?bytes=70")) == ("ok", None, page(2, 70))


@pytest.mark.parametrize(("race_s", "times"), [(60.0, 2), (0.1, 1)])
async def test_a_request_is_sent_again_only_if_nobody_may_have_seen_it(site, tmp_path, monkeypatch, race_s, times) -> None:
    """A host that thinks about it for long, and then closes the connection, was asked twice in one visit, without a rest."""
    monkeypatch.setattr(fetcher_module, "RACE_S", race_s)
    async with fetching(tmp_path, site) as fetcher:
        await end_of(fetcher, at(site, "/good/1"))
        site.requests.clear()
        assert await end_of(fetcher, at(site, "/sin/late-end")) == ("connect_error", "disconnected", b"")
    assert len(site.requests) == times


async def test_an_answer_that_came_before_the_request_is_none() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        transport, protocol = await asyncio.get_running_loop().create_connection(
            lambda: Watched(asyncio.get_running_loop(), 10_000, 8), sock=ours
        )
        theirs.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nWRONG")
        while not transport.is_closing():
            await asyncio.sleep(0)
        exchange = Exchange()
        CURRENT.set(exchange)
        protocol.set_response_params(read_until_eof=True)
        assert exchange.unasked
        assert not protocol.idle
        await asyncio.sleep(0)
        with pytest.raises(Exception, match="disconnected"):
            await protocol.read()


class Copied(bytes):
    """Counts the bytes that are cut out of it."""

    count = 0

    def __getitem__(self, place):
        found = super().__getitem__(place)
        if not isinstance(found, bytes):
            return found
        Copied.count += len(found)
        return Copied(found)

    def lstrip(self, chars=None):
        found = super().lstrip(chars)
        Copied.count += len(found)
        return Copied(found)

    def __radd__(self, other):
        return Copied(other + bytes(self))


FLOODS = {
    "CRLF": b"\r\n" * (128 << 10),
    "LF": b"\n" * (256 << 10),
    "CR": b"\r" * (256 << 10),
    "mixed": b"\r\n\n\r\r\n" * (40 << 10),
    "CRLF before a head": b"\r\n" * (100 << 10) + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "interim heads": b"HTTP/1.1 102 Processing\r\n\r\n" * 8 + b"\r\n" * (100 << 10),
    "a head, then CRLF": b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n" * (100 << 10),
}


@pytest.mark.parametrize("piece", [1 << 20, 64 << 10, 1 << 10])
@pytest.mark.parametrize("name", FLOODS)
async def test_a_flood_of_empty_lines_is_read_once(name: str, piece: int) -> None:
    """256 KiB of them once held the loop for nine seconds: for each, what was left of the flood was copied."""
    ours, theirs = socket.socketpair()
    with theirs:
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.create_connection(lambda: Watched(loop, 1 << 20, 8), sock=ours)
        CURRENT.set(Exchange())
        protocol.set_response_params(read_until_eof=True, max_line_size=32 << 10, max_field_size=32 << 10, max_headers=256)
        Copied.count, flood = 0, FLOODS[name]
        for start in range(0, len(flood), piece):
            if not transport.is_closing():
                protocol.data_received(Copied(flood[start : start + piece]))
        assert Copied.count < 3 * len(flood)
        transport.abort()
        await asyncio.sleep(0)


async def test_a_kept_connection_is_used_again_only_while_it_is_at_rest(site: Site, tmp_path: Path) -> None:
    async with fetching(tmp_path, site) as fetcher:
        peers = set()
        for _ in range(5):
            await end_of(fetcher, at(site, "/good/1"))
            (protocol,) = fetcher._connector._idle
            peers.add(protocol.transport.get_extra_info("sockname"))
        assert len(peers) == 1
        for sin in ("length-too-small", "head-ends-bare-an-answer-follows"):
            await end_of(fetcher, at(site, f"/sin/{sin}"))
            assert fetcher.stats().connections_idle == 0, sin


@pytest.mark.parametrize("lean", [True, False])
@pytest.mark.parametrize(("method", "status"), [("HEAD", "200 OK"), ("GET", "304 Not Modified"), ("GET", "204 No Content")])
@pytest.mark.parametrize(
    ("fields", "opened"),
    [((), 1), (("Transfer-Encoding: chunked",), 1), (("Connection: x, Close",), 3), (("Content-Length: 9",), 1)],
)
async def test_a_response_that_has_no_body_whatever_it_says_leaves_its_connection_open(
    site: Site, tmp_path: Path, method, status, fields, opened, lean
) -> None:
    """Pages that are made as they are asked for have no length: by HEAD each took a connection, and a handshake, of its own."""
    site.scripts["bodiless"] = [head(None, *fields, status=status), stay]
    async with fetching(tmp_path, site, method=method, lean=lean) as fetcher:
        for _ in range(3):
            assert await end_of(fetcher, at(site, "/sin/bodiless")) == ("ok", None, b"")
        assert fetcher.stats().connections_opened == opened
        site.scripts["bodiless"] = [head(None, *fields, status=status) + b"and a body", stay]
        assert await end_of(fetcher, at(site, "/sin/bodiless")) == ("ok", None, b"")
        assert fetcher.stats().connections_idle == 0, "there was more than it may have"


@pytest.mark.parametrize("lean", [True, False])
@pytest.mark.parametrize("proxy", [None, "http://127.0.0.1:{proxy-good}"])
@pytest.mark.parametrize("name", ["length", "chunked"])
async def test_a_connection_is_used_again_after_a_body_that_comes_behind_its_head(
    site: Site, tmp_path: Path, name, proxy, lean
) -> None:
    """aiohttp's own way gave it back from within the last byte, when it was not at rest yet: each such page through a proxy took
    a connection of its own, with a tunnel and a handshake."""
    framed = {
        "length": [head(5), 0.05, b"hello"],
        "chunked": [head(None, "Transfer-Encoding: chunked"), 0.05, b"5\r\nhello\r\n0\r\n\r\n"],
    }
    site.scripts["behind"] = [*framed[name], stay]
    async with fetching(tmp_path, site, lean=lean, proxy=proxy, ca_file="{ca}") as fetcher:
        for _ in range(3):
            assert await end_of(fetcher, f"https://localhost:{site.ports['tls-good']}/sin/behind") == ("ok", None, b"hello")
        assert fetcher.stats().connections_opened == 1
        *start, last = framed[name]
        site.scripts["behind"] = [*start, last + head(2) + b"no", stay]
        assert await end_of(fetcher, f"https://localhost:{site.ports['tls-good']}/sin/behind") == ("ok", None, b"hello")
        assert await end_of(fetcher, f"https://localhost:{site.ports['tls-good']}/good/1") == ("ok", None, page(1, 2000))
        assert fetcher.stats().connections_opened == 2


async def test_rubbish_on_a_kept_connection_may_be_of_what_was_asked_before(site: Site, tmp_path: Path) -> None:
    """The server sends it when it has the next request, so that nobody can tell before: that page is to be asked for again."""
    site.scripts["left-over"] = [head(2) + b"ok", heard, b"left over", hang]
    async with fetching(tmp_path, site) as fetcher:
        await fetcher.fetch(lease_of(at(site, "/sin/left-over")))
        lease = lease_of(at(site, "/good/1"))
        with pytest.raises(FetchError) as met:
            await fetcher.fetch(lease)
        assert (met.value.reason, met.value.stray) == ("malformed", True)
        assert isinstance(Judge(retries=1, max_redirects=1, rules=UrlRules()).error(lease, met.value), Retry)
        assert (await end_of(fetcher, lease.link.url))[0] == "ok"


async def test_rubbish_on_a_new_connection_is_its_own(site: Site, tmp_path: Path) -> None:
    async with fetching(tmp_path, site) as fetcher:
        with pytest.raises(FetchError) as met:
            await fetcher.fetch(lease_of(url_of("garbage-line", site)))
        assert (met.value.reason, met.value.stray) == ("malformed", False)


async def test_a_late_head_that_is_not_wanted_tells_how_late_it_was(site: Site, tmp_path: Path) -> None:
    """Its host rests accordingly. Where no head came at all, that is the URL's fate and says nothing of the host (DESIGN 9)."""
    async with fetching(tmp_path, site, accept_mime=("image/*",), first_byte_timeout=1.0) as fetcher:
        with pytest.raises(FetchError) as failed:
            await fetcher.fetch(lease_of(at(site, "/sin/late-head")))
        assert failed.value.reason == "mime" and failed.value.first_byte_s > 0.39
        with pytest.raises(FetchError) as failed:
            await fetcher.fetch(lease_of(at(site, "/sin/silence")))
        assert (failed.value.reason, failed.value.first_byte_s) == ("first_byte_timeout", 0.0)


async def test_a_request_that_is_sent_again_is_one_more_for_the_rate(site: Site, tmp_path: Path) -> None:
    """The server closes each connection when it is used again: nearly every fetch takes two requests."""
    asked: list[float] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError), contextlib.closing(writer):
            for _ in range(2):
                await reader.readuntil(b"\r\n\r\n")
                asked.append(time.monotonic())
                if len(asked) % 2:
                    writer.write(head(2) + b"ok")
                else:
                    break

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, fetching(tmp_path, site, rate=20) as fetcher:
        began = time.monotonic()
        for n in range(4):
            await end_of(fetcher, f"http://127.0.0.1:{port}/{n}")
    assert len(asked) == 7
    assert asked[-1] - began > 6 / 20 - 0.05


@pytest.mark.parametrize("path", ["/sin/silence", "/sin/hold", "/sin/hold-big", "/good/1"])
async def test_a_cancelled_fetch_leaves_nothing_behind(site: Site, tmp_path: Path, path: str) -> None:
    async with fetching(tmp_path, site, rate=0.001 if path == "/good/1" else 0) as fetcher:
        if path == "/good/1":
            await end_of(fetcher, at(site, "/good/1"))  # takes the one permit: the next waits at the limiter
        before = len(asyncio.all_tasks())
        task = asyncio.create_task(fetcher.fetch(lease_of(at(site, path))))
        while path != "/good/1" and not site.connections:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.15)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(asyncio.all_tasks()) == before
        assert (fetcher.stats().in_flight, fetcher.stats().connections_acquired) == (0, 0)
        assert list(tmp_path.iterdir()) == []
    while site.connections:
        await asyncio.sleep(0.01)


async def test_cancelling_while_a_name_is_looked_up_or_connected_leaves_nothing_behind(site: Site, tmp_path: Path) -> None:
    """But the lookup, which may be somebody else's as well: it ends by itself, or with the fetcher."""
    before = len(asyncio.all_tasks())
    for name in ("dns-silent", "port-swallows", "tls-hang"):
        async with fetching(tmp_path, site, dns=("127.0.0.1:{dns}",)) as fetcher:
            task = asyncio.create_task(fetcher.fetch(lease_of(url_of(name, site))))
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.sleep(0.05)
            assert len(asyncio.all_tasks().difference(fetcher._connector._resolver._asked.values())) == before
            assert fetcher.stats().connections_acquired == 0
        assert len(asyncio.all_tasks()) == before


# -- our own trouble ----------------------------------------------------------------------------------------------


async def test_each_address_of_a_host_is_tried_once(site: Site, tmp_path: Path, monkeypatch) -> None:
    """aiohttp tries all of them, then all but the first, and so on: ten connections to four addresses."""
    made, socket_of = [], Guard.socket
    monkeypatch.setattr(Guard, "socket", lambda guard, info: made.append(info[4][0]) or socket_of(guard, info))
    hangs_up = await asyncio.start_server(lambda reader, writer: writer.transport.abort(), "0.0.0.0", 0)
    closed, port = site.ports["closed"], hangs_up.sockets[0].getsockname()[1]
    async with hangs_up, fetching(tmp_path, site, dns=("127.0.0.1:{dns}",)) as fetcher:
        for url, reason in ((f"http://many.sin.test:{closed}/", "refused"), (f"https://many.sin.test:{port}/", "handshake")):
            made.clear()
            with pytest.raises(FetchError) as caught:
                await fetcher.fetch(lease_of(url))
            assert caught.value.reason == reason
            assert made == [f"127.1.1.{n}" for n in range(1, 5)]


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Below the limit stand only those that are never closed, whatever comes free meanwhile, here or in the site's thread."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_no_descriptor_left_is_our_trouble(site: Site, tmp_path: Path) -> None:
    async with fetching(tmp_path, site, dns=("127.0.0.1:{dns}",), dns_timeout=0.5) as fetcher:
        for url in (at(site, "/good/1"), url_of("dns-good", site)):
            with no_descriptor_left(), pytest.raises(StorageError) as caught:
                await fetcher.fetch(lease_of(url))
            assert caught.value.errno == errno.EMFILE
        assert (await end_of(fetcher, at(site, "/good/1")))[0] == "ok"


async def test_a_spool_that_cannot_be_written_is_our_trouble(site: Site, tmp_path: Path) -> None:
    async with fetching(tmp_path / "missing", site) as fetcher:
        with pytest.raises(StorageError):
            await fetcher.fetch(lease_of(at(site, "/good/1?bytes=100000")))
        assert fetcher.stats().connections_acquired == 0
        assert (await end_of(fetcher, at(site, "/good/1")))[0] == "ok"


async def test_so_much_of_a_body_stays_in_memory(site: Site, tmp_path: Path) -> None:
    async with fetching(tmp_path, site, body_memory_bytes=100_000) as fetcher:
        for size, held in ((100_000, 100_000), (100_001, 0)):
            page = await fetcher.fetch(lease_of(at(site, f"/good/1?bytes={size}")))
            assert (page.body.size, page.body.memory_bytes) == (size, held)
            page.body.discard()


async def test_certificates_that_cannot_be_read_are_the_operators_to_mend(site: Site, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nonsense")
    for path in (tmp_path / "ca.pem", tmp_path / "none.pem", tmp_path):
        with pytest.raises(ConfigError, match="ca_file"):
            async with fetching(tmp_path, site, ca_file=str(path)):
                pass


async def test_certificates_are_read_with_the_first_https_link_once(site: Site, tmp_path: Path, monkeypatch) -> None:
    read: list[int] = []

    def counted(*args: object, **options: object) -> ssl.SSLContext:
        read.append(1)
        return tls_context(None, insecure=True)

    monkeypatch.setattr(session, "tls_context", counted)
    async with fetching(tmp_path, site) as fetcher:
        assert (await end_of(fetcher, at(site, "/good/1")))[0] == "ok"
        assert read == []
        for n in range(2):
            assert (await end_of(fetcher, f"https://127.0.0.1:{site.ports['tls-good']}/good/{n}"))[0] == "ok"
    assert read == [1]


@pytest.mark.skipif(ssl.get_default_verify_paths().cafile is None, reason="the system's certificates are looked for one by one")
async def test_certificates_are_not_read_while_no_descriptor_is_left(site: Site, tmp_path: Path, monkeypatch) -> None:
    """OpenSSL would trust nobody, and say nothing, for the rest of the crawl."""
    monkeypatch.setattr(session, "tls_context", session.tls_context.__wrapped__)  # which support.hostile remembers for all tests
    async with fetching(tmp_path, site) as fetcher:
        with no_descriptor_left(), pytest.raises(StorageError) as caught:
            await fetcher.fetch(lease_of(f"https://127.0.0.1:{site.ports['tls-good']}/good/1"))
        assert caught.value.errno == errno.EMFILE
        assert fetcher._connector._ssl is True, "made with the next link"


async def test_a_connection_that_we_drop_fills_no_log(tmp_path, site, caplog):
    """As uvloop tells it; what else goes wrong in the loop is still told, and once it is closed all is."""
    loop = asyncio.get_running_loop()
    dropped = {"message": "Fatal error on SSL protocol", "exception": RuntimeError("<TCPTransport>; the handler is closed")}
    async with fetching(tmp_path, site):
        loop.call_exception_handler(dropped)
        assert not caplog.records
        loop.call_exception_handler({"message": "of another kind", "exception": RuntimeError("a bug")})
        assert "of another kind" in caplog.text
    caplog.clear()
    loop.call_exception_handler(dropped)
    assert "Fatal error" in caplog.text


@pytest.mark.parametrize("name", ["plain-http", "close"])
def test_a_handshake_that_fails_as_its_visit_ends_fills_no_log(tmp_path, site, caplog, name):
    """One in forty was told by uvloop, with a traceback."""

    async def live() -> None:
        async with fetching(tmp_path, site, insecure=True) as fetcher:
            for n in range(600):
                visit = asyncio.create_task(fetcher.fetch(lease_of(f"https://localhost:{site.ports[f'tls-{name}']}/")))
                for _ in range(n % 60):
                    await asyncio.sleep(0)
                visit.cancel()
                with pytest.raises((FetchError, asyncio.CancelledError)):
                    await visit
            gc.collect()
            await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(live())
    assert not caplog.records
