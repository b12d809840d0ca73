"""Sitemaps on their way to the frontier: which a site has, what they name, and that nothing is left out without a word."""

from __future__ import annotations

import asyncio
import gzip
import logging
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from support.pages import links_of, page_of
from support.sitemaps import document, entry_of, urls_of

from crawler.config.sections import Config
from crawler.core import urls
from crawler.core.model import Done, Input, Link
from crawler.crawl import sitemaps
from crawler.crawl.expand import Expander
from crawler.crawl.sitemap_entries import PackedPart
from crawler.fetch.decoding import Finisher
from crawler.parse.heavy_hosts import NO_TURN
from crawler.parse.pool import ParseFault, ParserPool, open_parser
from crawler.parse.sitemap import INDEX_DEPTH_MAX, URLS_MAX
from crawler.parse.sitemap_part import Part
from crawler.parse.sitemap_xml import ENTRY_URLS_MAX
from crawler.policy.scope import RULES, Scope
from crawler.resources.memory_budget import Budget
from crawler.resources.memory_plan import Needs, divide

HOST = "a.example"
SEED = "http://a.example/"
MAP = Link("http://a.example/map.xml", HOST, "sitemap", anchor=SEED)
LISTED = Input("list", 1)


class Faulty:
    """A parser of which some calls end as they are told: number → fault."""

    def __init__(self, parser: ParserPool, faults: dict[int, ParseFault]) -> None:
        self.parser, self.faults, self.calls = parser, faults, 0
        self.begin_with = parser.begin_with

    def turn(self, host: str) -> AbstractAsyncContextManager[None]:
        return NO_TURN

    async def call(self, *arguments: Any, result: Any, host: str) -> Any:
        self.calls += 1
        return self.faults.get(self.calls) or await self.parser.call(*arguments, result=result, host=host)


class Trial:
    """An expander whose admitted links are kept."""

    def __init__(self, root: Path, parser: Any, **config: Any) -> None:
        self.root = root
        settings = Config(**{"sitemaps": True, **config})
        self.budget = Budget(
            divide(256 << 20, Needs(8, 1, max_parse=2 << 20, max_body=8 << 20, max_head=256 << 10, max_outlinks=100_000))
        )
        self.admitted: list[Link] = []
        self.sizes: list[int] = []
        finisher = Finisher(root, decode_body=False, ratio_max=100.0, codings_max=3)
        self.expander = Expander(settings, Scope(settings), parser, finisher, self._admit, secret=7)
        self.sitemaps = self.expander.sitemaps

    async def _admit(self, admitted: Any) -> None:
        links = links_of(admitted)
        assert len(links) <= 2000
        self.admitted += links
        self.sizes.append(sum(len(link.url) for link in links))

    async def read(self, body: bytes, link: Link = MAP, outcome: str = "ok", **fields: Any) -> tuple[list[Link], Done]:
        self.admitted.clear()
        page = page_of(self.root, body, link.url, (), **{"mime": "application/xml", "sniffed": None, **fields})
        async with self.budget.visit() as room:
            room.received(0)
            done = await self.expander.expand(link, Done(page, outcome, fields.get("reason")), room)
        assert self.budget.account("parse").used == 0
        assert set(done.refused or {}) <= set(RULES)
        assert {rule for rule, _ in done.cut} <= set(done.refused or {})
        return [*self.admitted, *links_of(done)], done


class Watched(Faulty):
    """When the second part is read, somebody needs as much memory as there is; ``had_at`` is the part after which it was had."""

    trial: Trial
    had_at = 0

    async def call(self, *arguments: Any, result: Any, host: str) -> Any:
        if self.calls == 1:
            account = self.trial.budget.account("parse")
            self.other = asyncio.ensure_future(account.take(account.bytes_max))
            self.other.add_done_callback(self._had)
        await asyncio.sleep(0)
        return await super().call(*arguments, result=result, host=host)

    def _had(self, other: asyncio.Future[Any]) -> None:
        self.had_at = self.calls
        other.result().release()


class Endless(Faulty):
    """A process that a document took over: it always has more to say."""

    async def call(self, *arguments: Any, result: Any, host: str) -> Any:
        self.calls += 1
        assert self.calls < 10_000
        return PackedPart(Part([], "urlset", "UTF-8", b"", {}, {}, more=True), [], 0, False)


@pytest.fixture
async def parser() -> AsyncIterator[ParserPool]:
    async with open_parser(Config(), parsers=0) as parser:
        yield parser


@pytest.fixture
def trial(tmp_path: Path, parser: ParserPool) -> Trial:
    return Trial(tmp_path, parser, depth=1)


@pytest.mark.parametrize(
    ("named", "taken"),
    [
        ("/map", True),
        ("http://www.example.org/anything.html", True),
        ("http://other.example/hub.html", False),
        ("http://other.example/", False),
        ("http://sitemap.example/hub", False),
        ("http://other.example/map.xml", True),
        ("http://other.example/map.xml.gz?day=1", True),
        ("http://other.example/sitemap_index.php", True),
        ("http://other.example/feed.atom", True),
        ("http://[bad", False),
    ],
)
def test_anothers_page_is_not_taken_for_a_sitemap(named: str, taken: bool, trial: Trial) -> None:
    """Visited as one, it would be known, and its links never followed."""
    links = [link.url for link in trial.sitemaps.of("http://www.example.org", (named,), "http://www.example.org/")]
    assert links == ([urls.join("http://www.example.org/", named)] if taken else []) + ["http://www.example.org/sitemap.xml"]


async def test_who_needs_all_the_memory_there_is_does_not_wait_for_the_end_of_a_sitemap(
    tmp_path: Path, parser: ParserPool
) -> None:
    """Behind him everybody would wait."""
    watched = Watched(parser, {})
    trial = watched.trial = Trial(tmp_path, watched)
    entries = [entry_of("urlset", url) for url in urls_of(20_000)]
    links, _ = await trial.read(document("urlset", "utf-8", entries).encode())
    assert len(links) == 20_000
    assert 2 <= watched.had_at <= 3 < watched.calls


async def test_a_sitemap_is_in_memory_once_there_is_room_for_it(trial: Trial) -> None:
    """Any number may wait for that: each had its first part, and what was left of it, in no account."""
    body = document("urlset", "utf-8", [entry_of("urlset", url) for url in urls_of(2_000)]).encode()
    pages = [page_of(trial.root, body, MAP.url, (), mime="application/xml", sniffed=None) for _ in range(20)]
    account = trial.budget.account("parse")
    held = await account.take(account.bytes_max)

    async def visit(page: Any) -> Done:
        async with trial.budget.visit() as room:
            room.received(0)
            return await trial.expander.expand(MAP, Done(page, "ok"), room)

    tracemalloc.start()
    try:
        visits = [asyncio.create_task(visit(page)) for page in pages]
        while account.waiting_count < len(pages):
            await asyncio.sleep(0)
        assert tracemalloc.get_traced_memory()[0] < len(body) < 200_000
    finally:
        tracemalloc.stop()
    held.release()
    assert not any(done.refused for done in await asyncio.gather(*visits))


async def test_what_is_not_taken_is_counted_by_a_rule_of_its_own(tmp_path: Path, parser: ParserPool) -> None:
    trial = Trial(tmp_path, parser, scope="any")
    index = document("index", "utf-8", [entry_of("index", url) for url in ("http://b.example/hub", "http://b.example/s.xml")])
    links, done = await trial.read(index.encode())
    assert [(link.url, link.kind, link.hops) for link in links] == [("http://b.example/s.xml", "sitemap", 1)]
    assert (done.refused, done.cut) == ({"sitemap_name": 1}, ())


@pytest.mark.parametrize(
    ("scope", "homes"),
    [
        ("host", ["http://a.example/x/y", "https://a.example/", "http://b.example/"]),
        ("domain", ["http://www.a.example/", "http://a.example/x", "http://b.example/"]),
        ("prefix", ["http://a.example/x/1", "https://a.example/x/2", "http://a.example/y/"]),
        ("any", ["http://a.example/", "http://b.example/"]),
    ],
)
def test_all_that_is_in_one_place_is_one_site(scope: str, homes: list[str]) -> None:
    """What is in the place of an anchor is in that of its site, and the other way round."""
    rules = Scope(Config(scope=scope))
    sites = [rules.site(home) for home in homes]
    assert len(set(sites)) == len(homes) - 1
    assert [rules.site(site) for site in sites] == sites
    for home, site in zip(homes, sites, strict=True):
        for url in homes:
            link = Link(url, urls.host_key(url), "link")
            assert rules.refuses(Link(link.url, link.host, "link", anchor=home)) == rules.refuses(
                Link(link.url, link.host, "link", anchor=site)
            )


async def test_each_site_names_the_sitemaps_of_an_origin_once(tmp_path: Path, parser: ParserPool) -> None:
    trial = Trial(tmp_path, parser, scope="prefix")

    async def named(link: Link, sitemaps: tuple[str, ...] | None = ("/map.xml",)) -> list[tuple[str, str | None]]:
        trial.admitted.clear()
        await trial.sitemaps.name(link, lambda origin: sitemaps)
        return [(link.url.removeprefix("http://a.example"), link.anchor) for link in trial.admitted]

    x, y = "http://a.example/x/", "http://a.example/y/"
    assert await named(Link(x, HOST), None) == []  # nobody knows yet
    assert await named(Link(x, HOST)) == [("/map.xml", x), ("/sitemap.xml", x)]
    assert await named(Link(x + "other", HOST)) == []
    assert await named(Link(x + "deeper", HOST, "link", 1, anchor=x + "other")) == []
    assert await named(Link(y, HOST, "redirect")) == [("/map.xml", y), ("/sitemap.xml", y)]
    assert await named(Link("http://a.example/z/robots.txt", HOST, "robots")) == []
    assert await named(Link("http://b.example/", "b.example", "link", anchor=x)) == []  # no place of this site
    trial.sitemaps._sites = dict.fromkeys(range(sitemaps.SITES_MAX), 0)
    assert len(await named(Link(x, HOST))) == 2
    assert len(trial.sitemaps._sites) == 1


async def test_sitemaps_that_are_named_later_or_refused_no_longer_are_admitted_in_a_crawl_that_goes_on(trial: Trial) -> None:
    link = Link(SEED, HOST)

    async def named(*sitemaps: str) -> list[str]:
        trial.admitted.clear()
        await trial.sitemaps.name(link, lambda origin: sitemaps)
        return [link.url.removeprefix(SEED) for link in trial.admitted]

    assert await named("/2025.xml") == ["2025.xml", "sitemap.xml"]
    assert await named("/2025.xml", "/2026.xml") == ["2025.xml", "2026.xml", "sitemap.xml"]
    assert await named("/2025.xml", "/2026.xml") == []
    config = Config(sitemaps=True, exclude=("sitemap",))
    trial.expander.change(config, Scope(config))
    assert await named("/2026.xml") == []
    trial.expander.change(Config(sitemaps=True), Scope(Config(sitemaps=True)))
    assert await named("/2026.xml") == ["2026.xml", "sitemap.xml"]


async def test_a_site_whose_sitemaps_could_not_be_admitted_names_them_again(trial: Trial) -> None:
    async def refuse(admitted: Any) -> None:
        raise asyncio.CancelledError

    admit, trial.sitemaps._admit = trial.sitemaps._admit, refuse
    with pytest.raises(asyncio.CancelledError):
        await trial.sitemaps.name(Link(SEED, HOST), lambda origin: ())
    trial.sitemaps._admit = admit
    await trial.sitemaps.name(Link(SEED, HOST), lambda origin: ())
    assert [link.url for link in trial.admitted] == ["http://a.example/sitemap.xml"]


async def test_rules_that_change_while_sitemaps_wait_for_room_hold_for_them_as_well(trial: Trial) -> None:
    """Those that the rules before refused were never admitted."""
    config, admit = Config(sitemaps=True, exclude=("old",)), trial.sitemaps._admit

    async def change(admitted: Any) -> None:
        trial.sitemaps._admit = admit
        trial.expander.change(Config(sitemaps=True), Scope(Config(sitemaps=True)))
        await admit(admitted)

    trial.expander.change(config, Scope(config))
    trial.sitemaps._admit = change
    for _ in range(2):
        await trial.sitemaps.name(Link(SEED, HOST), lambda origin: ("/old.xml", "/new.xml"))
    assert {link.url.removeprefix(SEED) for link in trial.admitted} == {"old.xml", "new.xml", "sitemap.xml"}


async def test_what_one_robots_txt_names_waits_for_room_at_a_time(trial: Trial) -> None:
    """It may name 500 sitemaps, of 1 MB together, which are in no account until there is room for them."""
    waiting, has_room = 0, asyncio.Event()

    async def admit(admitted: Any) -> None:
        nonlocal waiting
        waiting += 1
        await has_room.wait()
        trial.admitted += links_of(admitted)

    trial.sitemaps._admit = admit
    pages = [Link(f"http://h{n}.example/", f"h{n}.example", "seed") for n in range(20)]
    async with asyncio.TaskGroup() as tasks:
        for page in [*pages, *pages]:
            tasks.create_task(trial.sitemaps.name(page, lambda origin: ("/a.xml", "/b.xml")))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert waiting == 1
        has_room.set()
    assert waiting == len(pages) and len(trial.admitted) == 3 * len(pages)


async def test_a_sitemap_that_is_not_modified_is_not_faulty(trial: Trial, caplog: pytest.LogCaptureFixture) -> None:
    links, done = await trial.read(b"", status=304, mime=None)
    assert (links, done.refused, done.cut, caplog.records) == ([], None, (), [])
    links, done = await trial.read(b"")
    assert done.refused == {"sitemap_fault": 1}


async def test_a_fault_is_counted_told_and_logged_with_its_place(trial: Trial, caplog: pytest.LogCaptureFixture) -> None:
    body = "<urlset>\n\n<url><loc>http://a.example/1?a&b</loc></url><url><loc>http://a.example/2</loc></url>&nbsp;</urlset>"
    links, done = await trial.read(body.encode())
    assert [link.url for link in links] == ["http://a.example/1?a&b", "http://a.example/2"]
    assert (done.outcome, done.refused, done.encoding) == ("ok", {"sitemap_fault": 1}, "UTF-8")
    [(rule, words)] = done.cut
    assert (rule, "line 3" in words) == ("sitemap_fault", True)
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "http://a.example/map.xml" in record.getMessage() and words in record.getMessage()


async def test_a_page_at_the_usual_place_is_nobodys_fault(trial: Trial, caplog: pytest.LogCaptureFixture) -> None:
    """Many servers answer anything with a page; it is counted, and no warning."""
    link = Link("http://a.example/sitemap.xml", HOST, "sitemap", anchor=SEED)
    _, done = await trial.read(b"<!doctype html><p>hello <a href=/x>x</a>", link, mime="text/html", sniffed="text/html")
    assert (done.refused, links_of(done)) == ({"sitemap_fault": 1}, [])
    assert [record.levelno for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize(
    ("link", "body", "outcome", "config", "name", "count"),
    [
        (MAP, "\n".join(urls_of(URLS_MAX + 1)), "ok", {}, "too_many_urls", URLS_MAX),
        (MAP, "\n".join(urls_of(URLS_MAX)), "ok", {}, None, URLS_MAX),
        (MAP, "\n".join(urls_of(200)), "ok", {"max_sitemap": 2048}, "too_large", 64),
        (MAP, "\n".join(urls_of(200)), "too_large", {}, "max_body", 199),
        (MAP, "\n".join(urls_of(200)), "truncated", {}, "cut", 199),
        (MAP, "", "ok", {}, "not_a_sitemap", 0),
    ],
)
async def test_the_caps(
    link: Link, body: str, outcome: str, config: dict[str, Any], name: str | None, count: int, tmp_path: Path, parser: ParserPool
) -> None:
    """What a cap leaves out is counted, and which cap it was is told."""
    reason = name if outcome != "ok" else None
    trial = Trial(tmp_path, parser, **config)
    page = page_of(tmp_path, body.encode(), link.url, (), mime="text/plain")
    async with trial.budget.visit() as room:
        room.received(0)
        done = await trial.expander.expand(link, Done(page, outcome, reason), room)
    assert len(trial.admitted) + len(links_of(done)) == count
    assert done.refused == ({} if name is None else {"sitemap_fault": 1})
    assert [words.partition(":")[0] for _, words in done.cut] == ([] if name is None else [name])


async def test_indexes_in_one_another_end(trial: Trial) -> None:
    index = document("index", "utf-8", [entry_of("index", url) for url in urls_of(2)]).encode()
    for hops in range(INDEX_DEPTH_MAX + 1):
        links, done = await trial.read(index, Link(MAP.url, HOST, "sitemap", hops=hops, anchor=SEED))
        assert [link.hops for link in links] == ([hops + 1] * 2 if hops < INDEX_DEPTH_MAX else [])
        assert ("index_depth" in str(done.cut)) == (hops == INDEX_DEPTH_MAX)


async def test_a_sitemap_of_short_entries_to_a_long_base_is_admitted_in_parts_of_bounded_size(trial: Trial) -> None:
    base = "http://a.example/" + "a" * 1900 + "/s.xml"
    feed = b"<feed>" + b"".join(b'<entry><link href="%d"/></entry>' % n for n in range(1000)) + b"</feed>"
    for coding, body in ((None, feed), ("gzip", gzip.compress(feed))):
        trial.sizes.clear()
        links, done = await trial.read(body, Link(base, HOST, "sitemap", anchor=SEED), coding=coding)
        assert len(links) == 1000
        assert max(trial.sizes) < (512 << 10) + 2083
        assert sum(len(link.url) for link in links_of(done)) < (512 << 10) + 2083
    assert not list((trial.root / "tmp").glob("body-*"))


async def test_an_entry_of_many_links_is_read_in_part(trial: Trial) -> None:
    feed = b"<feed><entry>" + b"".join(b'<link href="%d"/>' % n for n in range(1000)) + b"</entry></feed>"
    links, done = await trial.read(feed)
    assert (len(links), done.refused) == (ENTRY_URLS_MAX, {"outlinks": 1000 - ENTRY_URLS_MAX})


async def test_a_part_that_a_parser_could_not_read_is_told_and_the_others_are_read(tmp_path: Path, parser: ParserPool) -> None:
    entries = [entry_of("urlset", url) for url in urls_of(20_000)]
    body = document("urlset", "utf-8", entries).encode()
    for reason in ("parse_timeout", "parse_crashed"):
        trial = Trial(tmp_path, Faulty(parser, {2: ParseFault(reason)}))
        links, done = await trial.read(body)
        assert 12_000 < len(links) < 20_000 and links[-1].url == urls_of(20_000)[-1]
        assert done.refused is not None and done.refused[reason] == 1
        assert dict(done.cut)[reason] == f"{256 << 10} bytes were not read"


async def test_a_sitemap_that_ends_its_parser_again_and_again_is_given_up(tmp_path: Path, parser: ParserPool) -> None:
    trial = Trial(tmp_path, Faulty(parser, dict.fromkeys(range(1, 1000), ParseFault("parse_crashed"))))
    links, done = await trial.read(b" " * (4 << 20))
    assert links == [] and done.refused is not None
    assert done.refused["parse_crashed"] == sitemaps.LOST_PARTS_MAX
    assert trial.sitemaps._parser.calls == sitemaps.LOST_PARTS_MAX


XML = document("urlset", "utf-8", [entry_of("urlset", url) for url in urls_of(3)])


@pytest.mark.parametrize(
    ("path", "mime", "body", "count"),
    [
        ("map.xml", "text/xml", XML.encode(), 3),
        ("map", None, XML.encode(), 3),
        ("map.html", "text/html", XML.encode(), 3),
        ("map.xml.gz", "application/gzip", gzip.compress(XML.encode()), 3),
        ("map", "binary/octet-stream", gzip.compress(XML.encode()), 3),
        ("map.xml", "text/xml", XML.encode("utf-16"), 3),
        ("map.xml", "text/xml", ("<br/>\n<b>Warning</b>: x\n" + XML).encode(), 3),
        ("map.xml", "text/xml", XML.replace("<url>", "&nbsp;<url>").encode(), 3),
        ("feed", "application/rss+xml", document("rss", "utf-8", [entry_of("rss", url) for url in urls_of(3)]).encode(), 3),
        ("feed", "application/atom+xml", document("atom", "utf-8", [entry_of("atom", url) for url in urls_of(3)]).encode(), 3),
        ("sitemap.txt", "text/plain", "\n".join(urls_of(3)).encode(), 3),
        ("notes.md", "text/plain", "\n".join(urls_of(3)).encode(), 0),
        ("map.xml", "text/xml", b"<opml><url><loc>http://a.example/</loc></url></opml>", 0),
        ("", "text/html", b"<!doctype html><p>about <urlset> and <rss>", 0),
        ("x.gz", "application/gzip", b"\x1f\x8b nothing", 0),
        ("x.png", "image/png", b"\x89PNG<rss>", 0),
    ],
)
async def test_a_listed_line_that_is_a_sitemap_is_read_as_one(
    path: str, mime: str | None, body: bytes, count: int, tmp_path: Path, parser: ParserPool
) -> None:
    """Its entries are as deep as it is, and bear its tag; but only where sitemaps are wanted, and only of what was listed, or
    what that redirects to."""
    seed = Link(SEED + path, HOST, "seed", 0, input=LISTED, tag="t")
    for link in (seed, Link(SEED + path, HOST, "redirect", 0, input=LISTED, tag="t", hops=1)):
        links, done = await Trial(tmp_path, parser).read(body, link, mime=mime)
        assert [(link.url, link.depth, link.tag, link.anchor) for link in links] == [
            (url, 0, "t", SEED + path) for url in urls_of(count)
        ]
        assert (done.encoding is not None) == bool(count)
    assert (await Trial(tmp_path, parser, sitemaps=False).read(body, seed, mime=mime))[0] == []
    assert (await Trial(tmp_path, parser).read(body, Link(SEED + path, HOST, "link", 0, anchor=SEED), mime=mime))[0] == []


async def test_a_listed_line_that_is_a_sitemap_in_a_faulty_coding_is_read_as_one(trial: Trial) -> None:
    body = gzip.compress(document("urlset", "utf-8", [entry_of("urlset", url) for url in urls_of(3)]).encode()) + b"\r\n"
    page = page_of(trial.root, body, SEED + "map.xml", (), mime="text/xml", coding="gzip")
    async with trial.budget.visit() as room:
        room.received(0)
        link = Link(page.url, HOST, "seed", input=LISTED)
        done = await trial.expander.expand(link, Done(page, "bad_response", "trailing_data"), room)
    assert (len(links_of(done)), done.refused) == (3, {"sitemap_fault": 1})


async def test_a_listed_index_leads_to_its_sitemaps(trial: Trial) -> None:
    index = document("index", "utf-8", [entry_of("index", "http://a.example/1.xml.gz")])
    [link], _ = await trial.read(index.encode(), Link(SEED + "x/index.xml", HOST, "seed", input=LISTED))
    assert (link.url, link.kind, link.depth, link.anchor) == ("http://a.example/1.xml.gz", "sitemap", 0, SEED)


async def test_a_list_of_links_for_people_is_read_as_the_page_it_is(trial: Trial) -> None:
    """robots.txt may name it; its links are followed as those of any page, and it is told that it is no sitemap."""
    html = b"<!doctype html><a href=/1>1</a><a href=http://b.example/>2</a>"
    link = Link("http://a.example/sitemap.html", HOST, "sitemap", anchor=SEED)
    links, done = await trial.read(html, link, mime="text/html", sniffed="text/html")
    assert [(link.url, link.depth) for link in links] == [("http://a.example/1", 1)]
    assert done.refused == {"sitemap_fault": 1, "host": 1}
    assert done.encoding is not None and dict(done.cut)["sitemap_fault"].startswith("not_a_sitemap")
    anothers = Link("http://b.example/sitemap.html", "b.example", "sitemap", anchor=SEED)
    assert (await trial.read(html, anothers, mime="text/html", sniffed="text/html"))[0] == []


async def test_what_can_be_decoded_of_a_sitemap_is_read(trial: Trial) -> None:
    body = gzip.compress(document("urlset", "utf-8", [entry_of("urlset", url) for url in urls_of(3)]).encode())
    for more, reason, count in ((b"\n", "trailing_data", 3), (b"\x1f\x8b rest", "content_coding", 3)):
        page = page_of(trial.root, body + more, MAP.url, (), mime="text/xml", coding="gzip")
        async with trial.budget.visit() as room:
            room.received(0)
            done = await trial.expander.expand(MAP, Done(page, "bad_response", reason), room)
        assert (len(links_of(done)), done.refused) == (count, {"sitemap_fault": 1})
        assert reason in str(done.cut)
    page = page_of(trial.root, body, MAP.url, (), mime="text/xml", status=404, coding="gzip")
    async with trial.budget.visit() as room:
        room.received(0)
        assert links_of(await trial.expander.expand(MAP, Done(page, "bad_response", "trailing_data"), room)) == []


async def test_of_a_sitemap_that_decodes_to_too_much_no_more_is_read_than_may_come_of_it(trial: Trial) -> None:
    """As where it is kept decoded: its row says so many bytes."""
    sent = gzip.compress(document("urlset", "utf-8", [entry_of("urlset", url) for url in urls_of(40_000)]).encode())
    page = page_of(trial.root, sent, MAP.url, (), mime="text/xml", bytes_decoded=0)
    finisher = Finisher(trial.root, decode_body=False, ratio_max=1.0, codings_max=3)
    await finisher.finish(page, ("gzip",), 64 << 20)
    assert page.fault is not None and page.fault.reason == "decode_ratio"
    async with trial.budget.visit() as room:
        room.received(0)
        done = await trial.expander.expand(MAP, Done(page, "bad_response", "decode_ratio"), room)
    found = len(trial.admitted) + len(links_of(done))
    assert 0 < found <= page.bytes_decoded // len(entry_of("urlset", urls_of(1)[0])) < 30_000


async def test_through_a_parser_process(tmp_path: Path) -> None:
    """As in a crawl: well-formed, faulty and huge."""
    urls = urls_of(30_000)
    entries = [entry_of("urlset", url, "&nbsp;" * (n % 1000 == 7)) for n, url in enumerate(urls)]
    async with open_parser(Config(), parsers=1, memory_bytes=24 << 20) as parser:
        trial = Trial(tmp_path, parser)
        links, done = await trial.read(gzip.compress(document("urlset", "utf-8", entries).encode()))
        assert [link.url for link in links] == urls
        assert done.refused == {"sitemap_fault": 1}
        assert parser.stats().restarts == 0


async def test_a_sitemap_ends_whatever_its_parser_says(tmp_path: Path, parser: ParserPool) -> None:
    _, done = await Trial(tmp_path, Endless(parser, {})).read(XML.encode())
    assert done.refused == {"parse_crashed": 1}
