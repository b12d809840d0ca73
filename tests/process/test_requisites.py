"""What a page needs is fetched with it: from any host, one hop beyond depth and scope, and told apart."""

import gzip

import orjson
import pytest
from support.programs import LOCAL, command, rows_of
from support.replay import captures
from support.webs import Answer, Web, page, redirect

from crawler.crawl import incomplete, open_crawl_reader
from crawler.output import crawl_in

HOST, CDN = "127.0.0.1", "127.0.0.2"


def css(text: str) -> Answer:
    return Answer(body=text.encode(), mime="text/css")


def html(text: str) -> Answer:
    return Answer(body=text.encode())


def image(name: str = "") -> Answer:
    return Answer(body=b"\x89PNG\r\n\x1a\n" + name.encode(), mime="image/png")


def site(web: Web) -> dict[str, dict[str, Answer]]:
    far = web.url(CDN)
    return {
        HOST: {
            "/": html(
                f"<link rel=stylesheet href={far}site.css><img src=/logo.png srcset='/logo2.png 2x'>"
                f"<script src=/moved.js></script>"
                f"<iframe src={far}frame.html></iframe><a href=/two>two</a><a href=/both.html>both</a>"
                f"<a href={far}elsewhere>elsewhere</a><img src=/missing.png><img src=/logo.png>"
            ),
            "/two": html("<img src=/deep.png><style>@import '/nest1.css'</style><iframe src=/both.html></iframe><a href=/three>"),
            "/both.html": html("<a href=/of-both>"),
            "/of-both": html("it is a page of depth 2"),
            "/three": html("<img src=/never.png>"),
            "/moved.js": redirect("/here.js"),
            "/here.js": Answer(body=b"1", mime="text/javascript"),
            **{f"/nest{n}.css": css(f"@import 'nest{n + 1}.css'; a{{background:url(nest{n}.png)}}") for n in range(1, 9)},
            **{f"/nest{n}.png": image() for n in range(1, 9)},
            **{f"/{name}.png": image(name) for name in ("logo", "logo2", "deep", "never")},
        },
        CDN: {
            "/site.css": css("@import url(more.css); body{background:url('bg.png')} @font-face{src:url(font.woff2)}"),
            "/more.css": css("p{background:url(/more.png)}"),
            "/frame.html": html("<img src=in-frame.png><a href=/linked-in-frame>never</a>"),
            "/font.woff2": Answer(body=b"wOF2", mime="font/woff2"),
            **{f"/{name}.png": image() for name in ("bg", "more", "in-frame")},
        },
    }


@pytest.fixture(scope="module")
def crawled(tmp_path_factory):
    """(web, directory) of a crawl of depth 1."""
    out = tmp_path_factory.mktemp("requisites") / "out"
    with Web().running() as web:
        web.hosts = site(web)
        said = command("run", web.url(HOST), "--depth", "1", "--requisites", "-o", str(out), *LOCAL)
        assert said.returncode == 0, said.stderr
        yield web, out


NEST = {f"/nest{n}.css" for n in range(1, 7)} | {f"/nest{n}.png" for n in range(1, 6)}
"""The fifth sheet is the last that is read."""


def test_all_that_the_pages_need_is_fetched_once_and_nothing_else(crawled):
    web, _ = crawled
    local = {"/", "/two", "/both.html", "/logo.png", "/logo2.png", "/moved.js", "/here.js", "/missing.png", "/deep.png"} | NEST
    assert web.asked(HOST) == dict.fromkeys(local, 1)
    far = ("site.css", "more.css", "bg.png", "more.png", "font.woff2", "frame.html", "in-frame.png")
    assert web.asked(CDN) == {f"/{name}": 1 for name in far}


def test_rows_tell_what_a_page_needs_apart(crawled):
    web, out = crawled
    rows = {row["url"]: row for row in rows_of(out)}
    pages = {url for url, row in rows.items() if row["kind"] in ("seed", "link")}
    assert pages == {web.url(HOST, f"/{name}") for name in ("", "two", "both.html")}
    more, moved = rows[web.url(CDN, "/more.png")], rows[web.url(HOST, "/here.js")]
    assert (more["kind"], more["via"], more["depth"], more["final"]) == ("embed", web.url(CDN, "/more.css"), 1, False)
    assert (moved["kind"], moved["via"]) == ("embed", web.url(HOST, "/moved.js"))
    assert len(command("results", str(out), "--final").stdout.splitlines()) == 3
    exported = command("export", str(out)).stdout.splitlines()
    assert {orjson.loads(line)["kind"] for line in exported} == {"seed", "link"}
    assert len(captures(out)) == len(rows)


def test_off_means_off(tmp_path):
    with Web().running() as web:
        web.hosts = site(web)
        assert command("run", web.url(HOST), "--depth", "1", "-o", str(tmp_path), *LOCAL).returncode == 0
        assert set(web.asked(HOST)) == {"/", "/two", "/both.html"} and not web.asked(CDN)


@pytest.mark.parametrize("depth", ["2", "-1"])
def test_what_is_embedded_and_linked_is_read_for_its_links(tmp_path, depth):
    """In whichever order it is found; it is stored once."""
    with Web().running() as web:
        pages = {"/": page("/b", "/c"), "/b": html("<iframe src=/both></iframe>"), "/c": page("/both"), "/both": page("/found")}
        if depth == "-1":
            pages |= {"/found": page("/last"), "/last": page()}
        web.hosts = {HOST: pages | {"/found": page()} if depth == "2" else pages}
        run = ("run", web.url(HOST), "--depth", depth if depth == "-1" else "3", "--requisites", "-o", str(tmp_path), *LOCAL)
        assert command(*run).returncode == 0
    rows = [row["url"] for row in rows_of(tmp_path)]
    assert web.url(HOST, "/found") in rows and len(rows) == len(set(rows))


def test_a_list_without_depth_has_its_requisites(tmp_path):
    with Web().running() as web:
        web.hosts = site(web)
        settings = ("--requisites", "--exclude", "nest[3-9]", "-o", str(tmp_path), *LOCAL)
        assert command("run", web.url(HOST, "/two"), *settings, "--max-pages", "1").returncode == 5
        assert command("run", *settings).returncode == 0, "what a page needs does not count among the pages"
        assert set(web.asked(HOST)) == {"/two", "/deep.png", "/both.html", "/nest1.css", "/nest2.css", "/nest1.png", "/nest2.png"}


@pytest.mark.parametrize("most", [1, 2, 3])
def test_what_a_page_needs_is_not_counted_where_pages_are_limited(tmp_path, most):
    """A crawl ended only where the last that it was allowed was a page; else it waited for ever."""
    with Web().running() as web:
        needs = html("<img src=/logo.png><img src=/logo2.png><a href=/1><a href=/2><a href=/3>")
        web.hosts = {HOST: {"/": needs, **{f"/{n}": needs for n in (1, 2, 3)}, "/logo.png": image("1"), "/logo2.png": image("2")}}
        options = ("--depth", "2", "--requisites", "--workers", "1", "--max-time", "60s", "--max-pages", str(most))
        ended = command("run", web.url(HOST), "-o", str(tmp_path), *LOCAL, *options, "--json")
    assert (ended.returncode, orjson.loads(ended.stdout)["stopped_by"]) == (5, "max_pages")
    assert sum(row["kind"] != "embed" for row in rows_of(tmp_path)) == most


def test_every_page_that_lacks_something_is_named(tmp_path):
    """Also where another page was the first to need it, or a style sheet does."""
    with Web().running() as web:
        css_of_all = css("a{background:url(lost.png)} b{background:url(there.png)}")
        sheet = "<link rel=stylesheet href=/all.css>"
        pages = {"/": html(f"{sheet}<a href=/one><a href=/two><a href=/whole>"), "/one": html(f"{sheet}<img src=/gone.png>")}
        pages |= {
            "/two": html("<img src=/gone.png><img src=/moved.png>"),
            "/whole": html("<img src=/there.png><img src=/moved.png>"),
        }
        pages |= {"/all.css": css_of_all, "/there.png": image(), "/moved.png": redirect("/there.png")}
        web.hosts = {HOST: pages}
        assert command("run", web.url(HOST), "--depth", "1", "--requisites", "-o", str(tmp_path), *LOCAL).returncode == 0
        lost, gone = web.url(HOST, "/lost.png"), web.url(HOST, "/gone.png")
        found = {
            page["url"]: page["missing"]
            for page in map(orjson.loads, command("summary", str(tmp_path), "--incomplete").stdout.splitlines())
        }
    assert found == {web.url(HOST): [lost], web.url(HOST, "/one"): [gone, lost], web.url(HOST, "/two"): [gone]}


@pytest.mark.parametrize(("bound", "most"), [("MISSING_BYTES_MAX", 60), ("DOCUMENTS_MAX", 12)])
def test_a_page_that_lacks_more_than_can_be_told_is_one_that_cannot_be_judged(tmp_path, monkeypatch, bound, most):
    """Style sheets that load one another: each is read anew at each depth, and all that they lack is the page's."""
    monkeypatch.setattr(incomplete, bound, most, raising=False)
    loads = "".join(f"@import '{n}.css';" for n in range(3))
    sheets = {f"/{n}.css": f"{loads}a{{background:url(lost{n}.png)}}" for n in range(3)}
    pages = {"/": html("<link rel=stylesheet href=/0.css><a href=/one>"), "/one": html("<img src=/lost0.png>")}
    with Web({HOST: pages | {path: css(text) for path, text in sheets.items()}}).running() as web:
        assert command("run", web.url(HOST), "--depth", "1", "--requisites", "-o", str(tmp_path), *LOCAL).returncode == 0
        unread = []
        with open_crawl_reader(crawl_in(tmp_path)) as reader:
            found = list(incomplete.incomplete_pages(reader, lambda: unread.append(1)))
    assert ([page.url for page in found], len(unread)) == ([web.url(HOST, "/one")], 1)
    monkeypatch.undo()
    monkeypatch.setattr(incomplete, "REMEMBERED_BYTES_MAX", 0, raising=False)
    with open_crawl_reader(crawl_in(tmp_path)) as reader:
        assert sorted(len(page.missing) for page in incomplete.incomplete_pages(reader)) == [1, 3], "whatever is remembered"


def test_a_page_in_a_faulty_coding_is_read_for_what_it_needs_and_lacks(tmp_path):
    with Web().running() as web:
        body = gzip.compress(b"<img src=/gone.png>") + b"\0"
        web.hosts = {HOST: {"/": Answer(body=body, headers=(("Content-Encoding", "gzip"),))}}
        assert command("run", web.url(HOST), "--requisites", "-o", str(tmp_path), *LOCAL).returncode == 0
        assert [row["outcome"] for row in rows_of(tmp_path)] == ["bad_response", "http_error"]
        told = command("summary", str(tmp_path), "--incomplete").stdout
        assert orjson.loads(told) == {"url": web.url(HOST), "missing": [web.url(HOST, "/gone.png")]}


def test_that_no_page_lacks_anything_is_said(tmp_path):
    with Web({HOST: {"/": html("<img src=/there.png>"), "/there.png": image()}}).running() as web:
        assert command("run", web.url(HOST), "--requisites", "-o", str(tmp_path), *LOCAL).returncode == 0
    told = command("summary", str(tmp_path), "--incomplete")
    assert (told.returncode, told.stdout, told.stderr) == (0, "", "crawler: no page lacks anything\n")


def test_what_the_operator_leaves_out_is_not_called_missing(tmp_path):
    """Neither what is excluded, nor what is on a host that is blocked."""
    config = tmp_path / "c.toml"
    config.write_text(f'[[host]]\nmatch = "{CDN}"\nblock = true\n')
    with Web().running() as web:
        web.hosts = {HOST: {"/": html(f"<img src={web.url(CDN, '/a.png')}><img src=/excluded.png><img src=/gone.png>")}}
        rules = ("--requisites", "--exclude", "excluded", "--config", str(config))
        assert command("run", web.url(HOST), *rules, "-o", str(tmp_path / "out"), *LOCAL).returncode == 0
        told = command("summary", str(tmp_path / "out"), "--incomplete").stdout
        assert orjson.loads(told) == {"url": web.url(HOST), "missing": [web.url(HOST, "/gone.png")]}
