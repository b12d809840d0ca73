"""The page at ``/``, without a browser: what it shows, who may see and steer, and that it stays live."""

import asyncio
import contextlib
import re
import time
from contextlib import AsyncExitStack

import aiohttp
import orjson
import pytest
from support.daemons import daemon
from support.sinful import Site, head, running, stay

from crawler.service import api_errors, dashboard, dashboard_html, session

TOKEN = "s3cret-token"


@pytest.fixture(scope="module")
def site():
    with running(Site(scripts={"gone": [head(0, status="404 Not Found"), stay]})) as site:
        yield site


async def text(answer):
    async with answer as got:
        return got.status, await got.text()


async def test_the_page_shows_the_crawl_and_asks_nobody_else(tmp_path, site):
    gone = f"http://127.0.0.1:{site.ports['http']}/sin/gone?<b>"
    async with daemon(tmp_path) as d:
        await d.ask("POST", "/v1/seeds?list=mine&tag=t", data=gone.encode())
        await d.until(done=1)
        await d.ask("POST", "/v1/exclusions", json={"exclude": ["<script>"]})
        async with d.session.get("/") as answer:
            page = await answer.text()
            policy = answer.headers["Content-Security-Policy"]
            assert (answer.status, answer.content_type) == (200, "text/html")
        assert "default-src 'none'" in policy and "unsafe" not in policy and "*" not in policy
        for said in ("running", "1 of 1 (100.0%)", "http_error", "mine", "&lt;script&gt;", "workers by state", "most failures"):
            assert said in page, said
        assert "<script>" not in page and "<b>" not in page
        assert not re.findall(r"""(?:src|href|action)=["'](?:https?:)?//""", page), "all addresses are relative"
        assert not re.findall(r"\s(?:style|on\w+)=", page), "what the policy forbids"
        (link,) = re.findall(r'href="(why\?url=[^"]*)"', page)
        status, why = await text(d.session.get("/" + link))
        assert (status, "settled as http_error, status 404" in why) == (200, True)
        assert "not a URL" in (await text(d.session.get("/why?url=http://")))[1]
        for name in ("page.css", "page.js"):
            assert (await text(d.session.get("/" + name)))[0] == 200


async def test_the_buttons_work_without_scripts(tmp_path):
    async with daemon(tmp_path) as d:

        async def press(**form):
            async with d.session.post("/steer", data=form, allow_redirects=False) as answer:
                return answer.status, answer.headers.get("Location"), await answer.text()

        assert (await press(action="pause"))[:2] == (303, "./")
        assert (await d.ask("GET", "/v1/status"))[1]["paused_by"] == ["user"]
        assert "Resume" in (await text(d.session.get("/")))[1], "the page after an order is a new one"
        await press(action="resume")
        await press(action="exclude", value="/trap/")
        await press(action="block", value="a.test")
        assert (await d.ask("GET", "/v1/exclusions"))[1] == {"exclude": ["/trap/"], "blocked": ["a.test"]}
        await press(action="exclude", value="/trap/", undo="yes")
        assert (await d.ask("GET", "/v1/exclusions"))[1]["exclude"] == []
        for odd in (" a b ", ""):  # as settings may have them
            await d.ask("PATCH", "/v1/settings", json={"exclude": [odd]})
            assert (await press(action="exclude", value=odd, undo="yes"))[0] == 303
            assert (await d.ask("GET", "/v1/exclusions"))[1]["exclude"] == []
        assert (await press(action="exclude", value=" "))[0] == 400
        status, _, said = await press(action="exclude", value="(")
        assert status == 400 and "is not a regular expression" in said
        assert (await press(action="drain"))[0] == 400, "it must be meant"
        assert (await d.ask("GET", "/v1/status"))[1]["state"] == "running"
        await press(action="drain", sure="yes")
        assert (await d.ask("GET", "/v1/status"))[1]["state"] == "draining"


async def test_with_a_token_nobody_sees_or_steers_without_it(tmp_path):
    async with daemon(tmp_path, api_token=TOKEN) as d:
        status, page = await text(d.session.get("/"))
        assert status == 401 and 'action="login"' in page and str(tmp_path) not in page
        for path in ("/events", "/v1/status"):
            assert (await text(d.session.get(path)))[0] == 401
        assert (await text(d.session.post("/steer", data={"action": "pause"})))[0] == 401
        assert (await text(d.session.post("/login", data={"token": "wrong"})))[0] == 401
        assert d.crawl.frontier.pauses == set()
        jar = aiohttp.CookieJar(unsafe=True)  # for a numeric address
        async with aiohttp.ClientSession(f"http://127.0.0.1:{d.port}", cookie_jar=jar) as browser:
            async with browser.post("/login", data={"token": TOKEN}, allow_redirects=False) as answer:
                assert answer.status == 303
                assert "HttpOnly" in answer.headers["Set-Cookie"] and "SameSite=Strict" in answer.headers["Set-Cookie"]
                assert TOKEN not in answer.headers["Set-Cookie"]
            assert "Log out" in (await text(browser.get("/")))[1]
            assert (await text(browser.post("/steer", data={"action": "pause"})))[0] == 200
            assert d.crawl.frontier.pauses == {"user"}
            evil = {"Origin": "http://evil.test"}
            assert (await text(browser.post("/steer", data={"action": "resume"}, headers=evil)))[0] == 403
            assert (await text(browser.post("/logout")))[0] == 401
            assert (await text(browser.get("/")))[0] == 401


async def test_a_browser_is_logged_in_to_several_daemons_of_a_machine(tmp_path):
    """Browsers keep a machine's cookies for all its ports."""
    async with AsyncExitStack() as stack:
        tokens = {}
        for token in (TOKEN, "another"):
            d = await stack.enter_async_context(daemon(tmp_path / token, api_token=token))
            tokens[f"http://127.0.0.1:{d.port}/"] = token
        browser = await stack.enter_async_context(aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)))
        for page, token in tokens.items():
            assert (await text(browser.post(f"{page}login", data={"token": token})))[0] == 200
        assert [(await text(browser.get(page)))[0] for page in tokens] == [200, 200]
        await text(browser.post(f"{next(iter(tokens))}logout"))
        assert [(await text(browser.get(page)))[0] for page in tokens] == [401, 200]


@pytest.mark.parametrize(
    ("mime", "body", "status"),
    [
        ("application/x-www-form-urlencoded", b"token=\xff%ff&token&;=", 401),
        ("application/x-www-form-urlencoded; charset=none-such", b"token=x", 401),
        ("multipart/form-data", b"token=x", 415),
        ("multipart/form-data; boundary=x", b"token=x", 415),
        ("text/plain", b"", 415),
    ],
)
async def test_what_strangers_send_as_a_form_is_no_fault_of_ours(tmp_path, caplog, mime, body, status):
    async with daemon(tmp_path, api_token=TOKEN) as d:
        assert (await text(d.session.post("/login", data=body, headers={"Content-Type": mime})))[0] == status
        assert (await text(d.session.post("/login", data={"token": TOKEN}, allow_redirects=False)))[0] == 303
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    "request_",
    [
        "POST /login HTTP/1.1\r\nContent-Type: application/x-www-form-urlencoded",
        f"POST /v1/retry HTTP/1.1\r\nContent-Type: application/json\r\nAuthorization: Bearer {TOKEN}",
        f"PATCH /v1/settings HTTP/1.1\r\nContent-Type: application/json\r\nAuthorization: Bearer {TOKEN}",
    ],
)
async def test_whoever_sends_half_a_body_holds_no_connection_for_ever(tmp_path, monkeypatch, request_):
    """Even without a token; so many of them as there may be clients kept all others out."""
    monkeypatch.setattr(api_errors, "BODY_S", 0.1)
    async with daemon(tmp_path, api_token=TOKEN) as d, asyncio.timeout(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", d.port)
        writer.write(f"{request_}\r\nHost: localhost\r\nContent-Length: 10\r\n\r\ntoken".encode())
        said = await reader.read()
        writer.close()
    assert said.startswith(b"HTTP/1.1 408 ") and b"the request's body did not come" in said


def test_a_session_is_for_one_token_and_ends():
    now = time.time()
    kept = session.session_of(TOKEN, now + 60)
    assert session.is_session(kept, TOKEN, now)
    assert not session.is_session(kept, TOKEN, now + 61)
    assert not session.is_session(kept, TOKEN + "x", now)
    later = f"{now + 9999:.0f}.{kept.partition('.')[2]}"
    assert not any(session.is_session(forged, TOKEN, now) for forged in (later, "", ".", kept[:-1], "é.é"))


async def events(answer):
    async for line in answer.content:
        if line.startswith(b"data: "):
            yield orjson.loads(line[6:])


async def test_a_live_page_is_told_what_has_changed_and_no_more(tmp_path, site, monkeypatch):
    monkeypatch.setattr(dashboard, "LIVE_S", 0.05)
    async with daemon(tmp_path) as d:
        _, page = await text(d.session.get("/"))
        version = re.search(r'data-version="(\d+)"', page)[1]
        async with d.session.get("/events", params={"version": version}) as answer:
            assert answer.content_type == "text/event-stream"
            await d.ask("POST", "/v1/seeds", data=f"http://127.0.0.1:{site.ports['http']}/good/1".encode())
            async with asyncio.timeout(30):
                seen = set()
                async for sections in events(answer):
                    seen |= sections.keys()
                    if "1 of 1" in sections.get("overview", ""):
                        break
        assert "excluded" not in seen and "failures" not in seen
        async with d.session.get("/events", params={"version": "0"}) as answer:
            async with asyncio.timeout(30):
                sections = await anext(events(answer))
            assert sections.keys() >= {"head", "overview", "excluded", "failures"}, "whoever missed some gets all"


async def test_a_page_that_an_earlier_process_made_is_shown_all_anew(tmp_path):
    async with daemon(tmp_path) as d:
        await d.ask("POST", "/v1/exclusions", json={"exclude": ["/trap/"]})
        version = re.search(r'data-version="(\d+)"', (await text(d.session.get("/")))[1])[1]
    async with daemon(tmp_path) as d, asyncio.timeout(30), d.session.get("/events", params={"version": version}) as answer:
        assert "Nothing is excluded" in (await anext(events(answer)))["excluded"]


async def test_of_very_much_that_is_excluded_the_page_shows_some_and_counts_the_rest(tmp_path):
    """100 open pages that took nothing had a megabyte of expressions waiting for each of them."""
    async with daemon(tmp_path) as d:
        for begin in range(0, 200, 40):
            orders = {"exclude": [f"/{n}/{'x' * 1000}" for n in range(begin, begin + 40)]}
            assert (await d.ask("POST", "/v1/exclusions", json=orders))[0] == 200
        _, page = await text(d.session.get("/"))
        assert len(page) < 2 * dashboard.EXCLUDED_CHARS_MAX
        shown = page.count('aria-label="Undo: excluded:')
        assert 10 < shown < 200 and f"and {200 - shown} more (GET /v1/exclusions)" in page


async def test_where_a_process_hangs_nobody_waits_for_the_page_for_ever_and_a_live_one_is_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(dashboard, "LIVE_S", 0.05)

    async def hang(*_):
        await asyncio.Event().wait()

    async with daemon(tmp_path) as d, asyncio.timeout(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", d.port)
        writer.write(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        begun = await reader.readuntil(b"event: sections")
        monkeypatch.setattr(dashboard, "MADE_S", 0.2)
        d.control.crawl.hosts = d.control.crawl.explain = d.control.crawl.pause = hang
        with contextlib.suppress(ConnectionResetError):
            while more := await reader.read(65536):
                begun += more
        writer.close()
        assert begun.count(b"HTTP/1.1") == 1, "no second response within the first"
        for path in ("/", "/why?url=http://a.test/"):
            assert (await text(d.session.get(path)))[0] == 504
        assert (await text(d.session.post("/steer", data={"action": "pause"})))[0] == 504


async def test_so_many_pages_are_live(tmp_path, monkeypatch):
    monkeypatch.setattr(dashboard, "LISTENERS_MAX", 2)
    monkeypatch.setattr(dashboard, "LIVE_S", 0.05)
    async with daemon(tmp_path) as d:
        async with d.session.get("/events"), d.session.get("/events") as second:
            async with d.session.get("/events") as third:
                assert third.status == 503
            second.close()
            async with asyncio.timeout(30):
                status = 503
                while status == 503:
                    async with d.session.get("/events") as answer:
                        status = answer.status
                        answer.close()
        assert status == 200


async def test_the_page_is_made_once_for_all_who_look(tmp_path, monkeypatch):
    made = 0
    real = dashboard_html.overview

    def counted(*args):
        nonlocal made
        made += 1
        return real(*args)

    monkeypatch.setattr(dashboard_html, "overview", counted)
    monkeypatch.setattr(dashboard, "LIVE_S", 60.0)
    async with daemon(tmp_path) as d, AsyncExitStack() as stack:
        live = [await stack.enter_async_context(d.session.get("/events")) for _ in range(20)]
        for _ in range(20):
            await text(d.session.get("/"))
        assert made == 1
        for answer in live:
            answer.close()


async def test_a_proxy_may_ask_by_the_names_it_is_known_by(tmp_path):
    async with daemon(tmp_path, server_names=("crawler.example.org",)) as d:

        async def asked(method="GET", path="/v1/status", **headers):
            async with d.session.request(method, path, headers=headers) as answer:
                return answer.status

        assert await asked(Host="crawler.example.org") == 200
        assert await asked(Host="evil.example.org") == 403
        steer = {"method": "POST", "path": "/v1/pause"}
        assert await asked(**steer, Host="127.0.0.1:9700", Origin="https://crawler.example.org") == 200
        assert await asked(**steer, Host="127.0.0.1:9700", Origin="https://evil.example.org") == 403
        assert await asked(**steer, Host="127.0.0.1:9700", Origin="http://localhost:8080") == 403
        assert await asked(path="/", **{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}) == 200
        assert await asked(**{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}) == 403
