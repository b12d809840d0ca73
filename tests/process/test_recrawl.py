"""A crawl that comes back: what has changed since is told, what has not is stored once, and all of it replays."""

import asyncio
import shlex
import time
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import orjson
import pytest
from support.daemons import daemon
from support.programs import LOCAL, command, crawler, crawling, rows_of
from support.replay import captures
from support.webs import Answer, Web, page, redirect

from crawler.core.model import NOT_FETCHED

HOST = "127.0.0.1"
OLD, NEW, CHANGED, GONE = 949, 50, 99, 50
"""Pages but for the index, which links to all and changes as well."""


def week(second: bool) -> dict[str, Answer]:
    pages = {}
    for n in range(OLD + (NEW if second else 0)):
        is_changed = second and n < CHANGED
        body = f"<p>page {n}{' anew' * is_changed}".encode()
        tag = (("ETag", f'"{n}{"b" * is_changed}"'),) if n % 2 else ()  # the others must be compared
        pages[f"/p/{n}"] = Answer(body=body, headers=tag)
    index = page(*pages)
    if second:
        for n in range(CHANGED, CHANGED + GONE):
            pages[f"/p/{n}"] = Answer(404)
    return pages | {"/": index}


def rows_in(out: Path) -> list[dict]:
    """As they stand in its files."""
    return [orjson.loads(line) for file in (out / "results").iterdir() for line in file.read_bytes().splitlines()]


def results(out: Path, *arguments: str) -> list[dict]:
    return [orjson.loads(line) for line in command("results", str(out), *arguments).stdout.splitlines()]


@pytest.fixture(scope="module")
def weeks(tmp_path_factory):
    """Two weeks of a site of 1,000 pages: (directory, what the commands said)."""
    out = tmp_path_factory.mktemp("weeks") / "out"
    with Web({HOST: week(second=False)}).running() as web:
        run = ("run", web.url(HOST), "--depth", "1", "-o", str(out), *LOCAL, "--per-host", "16")
        said = {"first": command(*run), "again": command(*run)}
        web.hosts = {HOST: week(second=True)}
        web.visits.clear()
        said["ordered"] = command("recrawl", str(out))
        said["second"] = command(*run)
        asked = web.asked(HOST)
        yield out, web.url(HOST)[:-1], said, asked


def test_in_the_second_week_exactly_what_changed_is_told(weeks):
    out, base, said, asked = weeks
    assert all(ended.returncode == 0 for ended in said.values()), said
    assert f" {OLD + 1} URLs are due again" in said["ordered"].stderr
    assert set(asked.values()) == {1} and len(asked) == OLD + 1 + NEW
    rows = results(out)[OLD + 1 :]
    assert Counter(row["change"] for row in rows) == {"unchanged": 800, "changed": 100, "gone": 50, "new": 50}
    told = {
        change: {row["url"].removeprefix(base) for row in rows if row["change"] == change}
        for change in ("new", "gone", "changed")
    }
    assert told["new"] == {f"/p/{n}" for n in range(OLD, OLD + NEW)}
    assert told["gone"] == {f"/p/{n}" for n in range(CHANGED, CHANGED + GONE)}
    assert told["changed"] == {"/", *(f"/p/{n}" for n in range(CHANGED))}
    assert Counter(row["kind"] for row in rows) == {"recrawl": OLD + 1, "link": NEW}
    assert {row["attempt"] for row in rows} == {1}
    assert len(results(out, "--change", "gone")) == GONE
    assert Counter(row["change"] for row in results(out, "--final")) == {"unchanged": 800, "changed": 100, "gone": 50, "new": 50}
    table = said["second"].stderr
    assert "against the last visits" in table and "  unchanged  800" in table


def listed_by(said: str, line: str) -> list[dict]:
    """What the command prints that a closing table names."""
    [words] = [words for words in said.splitlines() if words.startswith(f"to list {line}: crawler ")]
    return [orjson.loads(row) for row in command(*shlex.split(words.partition("crawler ")[2])).stdout.splitlines()]


def test_the_command_that_lists_what_has_changed_leaves_out_what_the_first_week_found_new(weeks):
    _, _, said, _ = weeks
    assert Counter(row["change"] for row in listed_by(said["second"].stderr, "them")) == {"changed": 100, "gone": 50, "new": 50}


@pytest.mark.parametrize("requisites", [False, True])
def test_the_command_that_lists_what_failed_leaves_out_what_has_come_since(tmp_path, requisites):
    """Embeds have no final rows: of a crawl that fetches them all rows are listed, rather than too few."""
    out = tmp_path / "out"
    pages = {"/": Answer(body=b"<a href=/a>a</a><a href=/b>b</a><img src=/i.png>"), "/a": Answer(404), "/b": Answer(404)}
    with Web({HOST: pages}).running() as web:
        run = ("run", web.url(HOST), "--depth", "1", "-o", str(out), *LOCAL, *(["--requisites"] * requisites))
        first = listed_by(command(*run).stderr, "what failed")
        web.hosts = {HOST: pages | {"/a": page()}}
        assert command("recrawl", str(out)).returncode == 0
        again = listed_by(command(*run).stderr, "what failed")
    embeds = ["/i.png"] * requisites
    assert sorted(urlsplit(row["url"]).path for row in first) == ["/a", "/b", *embeds]
    visits = ["/a", "/b", "/b", *2 * embeds] if requisites else ["/b"]
    assert sorted(urlsplit(row["url"]).path for row in again) == visits


def test_a_finished_crawl_says_that_nothing_was_left_and_what_to_do(weeks):
    _, _, said, _ = weeks
    assert "crawler recrawl" in said["again"].stderr and "--fresh" in said["again"].stderr
    assert not any("nothing was left" in said[name].stderr for name in ("first", "second"))


def test_what_did_not_change_is_a_revisit_that_replays_as_the_page(weeks):
    out, base, _, _ = weeks
    found = captures(out)
    assert Counter(capture.kind for capture in found) == {"response": OLD + 1 + 100 + 50 + NEW, "revisit": 800}
    pages = week(second=True)
    for capture in found:
        if capture.kind == "revisit":
            asked = pages[capture.url.removeprefix(base)]
            assert (capture.status, capture.body, capture.mime) == ("200", asked.body, "text/html; charset=utf-8")
    assert command("verify", str(out)).returncode == 0


def test_killed_while_it_comes_back_it_visits_each_page_once(tmp_path):
    """With what the pages need; nothing is lost, and nothing is told or stored twice."""
    out = tmp_path / "out"
    pages = {f"/{n}": Answer(body=f"<img src=/{n}.png>".encode()) for n in range(30)}
    pages |= {f"/{n}.png": Answer(body=b"%d" % n, mime="image/png") for n in range(30)}
    with Web({HOST: {"/": page(*(f"/{n}" for n in range(30))), **pages}}).running() as web:
        words = ("run", web.url(HOST), "--depth", "1", "--requisites", "-o", str(out), *LOCAL, "--delay", "5ms")
        assert command(*words).returncode == 0
        assert command("recrawl", str(out)).returncode == 0
        web.visits.clear()
        with crawling(*words) as process:
            while len(web.visits) < 20:
                assert process.poll() is None, process.stderr.read()
                time.sleep(0.01)
            process.kill()
        assert command(*words).returncode == 0
    again = rows_of(out)[61:]
    assert Counter(row["canonical"] for row in again) == {web.url(HOST, path): 1 for path in ("/", *pages)}
    assert Counter((row["kind"], row["change"]) for row in again) == {("recrawl", "unchanged"): 31, ("embed", "unchanged"): 30}
    assert Counter(capture.kind for capture in captures(out)) == {"response": 61, "revisit": 61}
    assert command("verify", str(out)).returncode == 0


def test_what_a_page_leaves_out_is_counted_at_its_first_visit_only(tmp_path):
    out = tmp_path / "out"
    with Web({HOST: {"/": page("http://elsewhere.example/", "/a"), "/a": page("/b")}}).running() as web:
        run = ("run", web.url(HOST), "--depth", "1", "-o", str(out), *LOCAL, "--json")
        first = orjson.loads(command(*run).stdout)["refused"]
        assert first == {"host": 1}
        assert command("recrawl", str(out)).returncode == 0
        again = orjson.loads(command(*run).stdout)
    assert (again["changes"], again["refused"]) == ({"unchanged": 2}, first)


def test_what_is_recrawled_is_chosen(tmp_path):
    out = tmp_path / "out"
    with Web({HOST: {"/a": Answer(), "/b": Answer(404), "/c": Answer(500)}}).running() as web:
        run = ("run", *(web.url(HOST, path) for path in ("/a", "/b", "/c")), "-o", str(out), *LOCAL, "--retries", "0")
        command(*run)

        def ordered(*arguments: str) -> str:
            return command("recrawl", str(out), *arguments).stderr.split()[1]

        assert ordered("--older-than", "1h") == "no"
        assert ordered("--match", "/[ab]$", "--outcome", "http_error") == "1"
        assert ordered("--outcome", "http_error") == "1", "what is due already is not counted again"
        command(*run)
        assert [row["url"].rpartition("/")[2] for row in rows_of(out) if row["kind"] == "recrawl"] == ["b", "c"]
        for wrong in (("--match", "("), ("--older-than", "soon"), ("--outcome", "fine")):
            assert command("recrawl", str(out), *wrong).returncode == 2


def test_a_run_visits_again_what_is_due_by_schedule_and_ends(tmp_path):
    """What never changes is asked for less often each time."""
    out = tmp_path / "out"
    with Web({HOST: {"/": page("/a"), "/a": Answer(body=b"a")}}).running() as web:
        run = ("run", web.url(HOST), "--depth", "1", "-o", str(out), *LOCAL, "--recrawl-min", "0")

        def asked_after(*arguments: str) -> Counter[str]:
            assert command(*run, *arguments).returncode == 0
            return web.asked(HOST)

        assert asked_after() == {"/": 1, "/a": 1}
        scheduled = asked_after("--recrawl-every", "1ms")  # what had no schedule is given one, and is due
        assert min(scheduled.values()) >= 2
        assert asked_after() == scheduled, "without the setting nothing is due"
        again = asked_after("--recrawl-every", "1ms")
        assert all(again[path] > scheduled[path] for path in scheduled)
    for path, visits in again.items():
        known = orjson.loads(command("why", web.url(HOST, path), "--data", str(out), "--json").stdout)["record"]
        assert known["interval"] == pytest.approx(0.001 * 1.5 ** (visits - 1))


def test_a_page_of_which_only_the_head_was_fetched_is_fetched_whole_later(tmp_path):
    """Links were checked by HEAD first: that the page has not changed since then gives nobody its body."""
    out = tmp_path / "out"
    with Web({HOST: {"/": Answer(body=b"all of it", headers=(("ETag", '"1"'),))}}).running() as web:
        run = ("run", web.url(HOST), "-o", str(out), *LOCAL)
        assert command(*run, "--method", "HEAD").returncode == 0
        for _ in range(2):
            assert command("recrawl", str(out)).returncode == 0
            assert command(*run).returncode == 0
            assert command("cat", str(out), web.url(HOST)).stdout == "all of it"
        assert ["if-none-match" in visit.fields for visit in web.visits] == [False, False, True]


def sitemap(**modified: str) -> Answer:
    entries = "".join(f"<url><loc>/{path}</loc><lastmod>{at}</lastmod></url>" for path, at in modified.items())
    return Answer(body=f"<urlset>{entries}</urlset>".encode(), mime="application/xml")


async def test_a_daemon_comes_back_by_order_and_to_what_a_sitemap_says_is_newer(tmp_path):
    soon = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))
    pages = {
        "/": page(),
        "/a": Answer(body=b"a"),
        "/b": Answer(body=b"b"),
        "/sitemap.xml": sitemap(a="2001-01-01", b="2001-01-01"),
    }
    with Web({HOST: pages}).running() as web:
        settings = {"urls": (web.url(HOST),), "sitemaps": True, "recrawl_every": "7d", "recrawl_min": 0}
        async with daemon(tmp_path / "out", **settings) as told:
            status = await told.until(done=3, recrawl=3, waiting=0, in_flight=0)
            assert status["changes"] == {"new": 3}
            web.hosts[HOST]["/sitemap.xml"] = sitemap(a="2001-01-01", b=soon)
            web.hosts[HOST]["/b"] = Answer(404)
            assert (await told.ask("POST", "/v1/recrawl?match=sitemap.xml$"))[0] == 202
            await told.until(changes={"gone": 1}, waiting=0, in_flight=0)
            assert web.asked(HOST) == {"/robots.txt": 1, "/": 1, "/a": 1, "/b": 2, "/sitemap.xml": 2}
            assert (await told.ask("POST", "/v1/recrawl?outcome=timeout&outcome=ok"))[0] == 202
            await told.until(changes={"unchanged": 2}, waiting=0, in_flight=0)
            for wrong in ("match=(", "older_than=soon", "outcome=fine"):
                assert (await told.ask("POST", f"/v1/recrawl?{wrong}"))[0] == 400
            places = ({"url": "no url"}, {"host": "http://x"}, {"host": "x/../y"}, {"host": "me@x"})
            for wrong in (*places, {"outcome": "ok"}, {"older": "7d"}, {"older_than": True}, {"match": "("}, []):
                assert (await told.ask("POST", "/v1/recrawl", json=wrong))[0] == 400, wrong
            only = {"url": web.url(HOST, "/a"), "host": f"{HOST}:{web.port}", "outcome": ["ok"], "older_than": 0, "match": "a$"}
            assert (await told.ask("POST", "/v1/recrawl", json=only | {"tag": "none has it"}))[0] == 202
            asked = web.asked(HOST)
            assert (await told.ask("POST", "/v1/recrawl", json=only))[0] == 202
            await told.until(changes={"unchanged": 1}, waiting=0, in_flight=0)
            assert web.asked(HOST) == asked | {"/a": asked["/a"] + 1}
            _, why = await told.ask("GET", "/v1/urls", params={"url": web.url(HOST, "/a")})
            assert why["record"]["interval"] == 1.5**2 * 7 * 86400


@pytest.mark.parametrize("store", ["embedded", "memory"])
@pytest.mark.parametrize("exclusion", [{"exclude": ["/a$"]}, {"block": [HOST]}])
async def test_a_page_that_is_excluded_when_it_is_due_keeps_its_schedule(tmp_path, store, exclusion):
    """It was never visited again, however soon the exclusion was taken back."""
    with Web({HOST: {"/a": Answer(body=b"a")}}).running() as web:
        settings = {"urls": (web.url(HOST, "/a"),), "recrawl_every": 0.2, "recrawl_min": 0, "recrawl_max": 0.2, "store": store}
        async with daemon(tmp_path / "out", **settings) as told:
            await told.until(done=1)
            assert (await told.ask("POST", "/v1/exclusions", json=exclusion))[0] == 200
            await told.until(reasons={"excluded": 1}, recrawl=1)
            asked = web.asked(HOST)["/a"]
            assert (await told.ask("POST", "/v1/exclusions", json=exclusion | {"undo": True}))[0] == 200
            await told.until(outcomes={"ok": 1}, recrawl=1)
            assert web.asked(HOST)["/a"] > asked


@pytest.mark.parametrize("store", ["embedded", "memory"])
@pytest.mark.parametrize("is_blocked", [True, False])
async def test_a_page_that_is_left_out_whenever_it_is_due_has_one_row_that_says_so(tmp_path, store, is_blocked):
    """A blocked host, or one whose robots.txt forbids it, had a row more of each of its pages at each interval."""
    out, exclusion = tmp_path / "out", {"block": [HOST]}
    rules = Answer(body=b"User-agent: *\nDisallow: /a" if not is_blocked else b"", mime="text/plain")
    with Web({HOST: {"/a": Answer(body=b"a"), "/robots.txt": rules}}).running() as web:
        settings = {"urls": (web.url(HOST, "/a"),), "recrawl_every": 0.1, "recrawl_min": 0, "recrawl_max": 0.1, "store": store}
        async with daemon(out, **settings, robots=True, roll_size=1) as told:

            async def settled_again(times):
                before = (await told.ask("GET", "/v1/status"))[1]["settled"]
                while (await told.ask("GET", "/v1/status"))[1]["settled"] < before + times:
                    await asyncio.sleep(0.02)

            await told.until(done=1)
            if is_blocked:
                await told.ask("POST", "/v1/exclusions", json=exclusion)
                await told.until(reasons={"excluded": 1}, recrawl=1)
            await settled_again(3)
            assert (await told.until(done=1, recrawl=1))["outcomes"] == {"skipped" if is_blocked else "robots_denied": 1}
            before = [row for row in rows_in(out) if row["outcome"] in NOT_FETCHED]
            for file in (out / "results").iterdir():
                file.unlink()  # as retention does: a row that has gone is written anew
            await settled_again(3)
        after = [row for row in rows_in(out) if row["outcome"] in NOT_FETCHED]
    assert len(before) == len(after) == 1
    assert {row["final"] for row in before + after} == {True}


def test_a_page_whose_row_was_retired_is_fetched_whole_again_or_nobody_would_know_its_type(tmp_path):
    """Rows may be full, and retired, before the archive file that holds the body is."""
    out = tmp_path / "out"
    with Web({HOST: {"/": Answer(body=b"all of it", headers=(("ETag", '"1"'),))}}).running() as web:
        run = ("run", web.url(HOST), "-o", str(out), *LOCAL, "--roll-size", "1")
        assert command(*run).returncode == 0
        for file in (out / "results").iterdir():
            file.unlink()
        assert command("retire", str(out), "--missing").returncode == 0
        for _ in range(2):
            assert command("recrawl", str(out)).returncode == 0
            assert command(*run).returncode == 0
    assert ["if-none-match" in visit.fields for visit in web.visits] == [False, False, True]
    assert [(row["change"], row["mime"]) for row in rows_of(out)] == [("unchanged", "text/html")] * 2


def test_what_lost_its_schedule_has_one_again_though_excluded_pages_kept_theirs(tmp_path):
    """Those were taken for them: as long as they were as many, nothing was ever visited again."""
    out = tmp_path / "out"
    with Web({HOST: {f"/{n}": Answer(body=b"%d" % n) for n in range(5)}}).running() as web:
        urls = [web.url(HOST, path) for path in web.hosts[HOST]]
        run = ("run", *urls, "-o", str(out), *LOCAL)
        schedule, exclude = ("--recrawl-every", "1h"), ("--exclude", "/[012]$")
        for words in (schedule, (*schedule, *exclude), exclude):
            assert command(*run, *words).returncode == 0
            assert command("recrawl", str(out)).returncode == 0
        assert command(*run, *exclude).returncode == 0
        assert command(*run, *schedule, *exclude).returncode == 0
        told = [command("why", url, "--data", str(out)).stdout for url in urls]
    assert ["(excluded)" in each for each in told] == [True] * 3 + [False] * 2
    assert ["visited again about" in each for each in told] == [True] * 5


@pytest.mark.parametrize("store", ["embedded", "memory"])
async def test_a_page_that_is_of_an_unwanted_type_for_once_keeps_its_schedule(tmp_path, store):
    """A server that told of its maintenance in plain text ended the schedule of all its pages."""
    with Web({HOST: {"/a": Answer(body=b"a")}}).running() as web:
        settings = {"urls": (web.url(HOST, "/a"),), "recrawl_every": 0.2, "recrawl_min": 0, "recrawl_max": 0.2, "store": store}
        async with daemon(tmp_path / "out", **settings, accept_mime=("text/html",)) as told:
            await told.until(done=1)
            web.hosts = {HOST: {"/a": Answer(body=b"back soon", mime="text/plain")}}
            assert (await told.until(reasons={"mime": 1}))["recrawl"] == 1
            web.hosts = {HOST: {"/a": Answer(body=b"a")}}
            await told.until(outcomes={"ok": 1}, recrawl=1)


@pytest.mark.parametrize("store", ["embedded", "memory"])
async def test_a_listed_line_that_redirects_is_done_once_whatever_becomes_of_it(tmp_path, store):
    """Each time that it failed, did not redirect, or led elsewhere for the first time, one line more was done than there are."""
    (urls := tmp_path / "urls.txt").write_text("")
    no_response = Answer(headers=(("Content-Length", "none"),))
    with Web({HOST: {"/b": redirect("/f"), "/f": Answer(404)}}).running() as web:
        urls.write_text("".join(f"{web.url(HOST, path)}\n" for path in ("/a", "/b", "/c")))
        async with daemon(tmp_path / "out", input=(str(urls),), retries=0, store=store) as told:
            settled = 0
            for to in ("/d", "/e", None, "/b", "/d", None, "/g", "/i", "/i"):
                now = {"/a": redirect(to) if to else Answer(500), "/d": Answer(), "/g": redirect("/h"), "/i": no_response}
                web.hosts = {HOST: web.hosts[HOST] | now}
                assert (await told.ask("POST", "/v1/recrawl", json={}))[0] == 202
                while (count := (await told.until(waiting=0, retrying=0, in_flight=0))["settled"]) < settled + 3:
                    await asyncio.sleep(0.02)
                settled = count
                [progress] = (await told.ask("GET", "/v1/lists"))[1]["lists"]
                assert (progress["known"], progress["done"]) == (3, 3), to


def test_pages_get_a_schedule_whichever_process_has_them_since(tmp_path):
    """Their counts stay with the process that counted them; one that had counted none took all its pages to have a schedule."""
    hosts = [f"127.0.0.{number}" for number in range(1, 9)]
    with Web({host: {"/": Answer()} for host in hosts}).running() as web:
        for arguments in (("--processes", "1"), ("--processes", "2"), ("--processes", "2", "--recrawl-every", "7d")):
            ended = crawler("run", *map(web.url, hosts), "-o", str(tmp_path / "out"), *LOCAL, "--json", *arguments)
    assert orjson.loads(ended.stdout)["recrawl"] == len(hosts), ended.stderr
