"""A running crawl is steered: what is excluded is not fetched any more, and every count stays right."""

import asyncio
import errno
import threading

import orjson
import pytest
from support.daemons import daemon
from support.full_disk import file_size_limit
from support.sinful import Site, head, running, stay

from crawler.cli.checkpoint_command import checkpoint
from crawler.core.errors import Exit, StorageError
from crawler.frontier import batch as batch_module
from crawler.frontier.batch import LINKS_MAX
from crawler.service import api, api_seeds


class Counting(Site):
    def see(self, request):
        super().see(request)
        self.asked.append(request.split(b" ", 2)[1])


@pytest.fixture(scope="module")
def site():
    site = Counting(host="0.0.0.0", scripts={"never": [60.0, head(0), stay]})
    site.asked = []
    with running(site):
        yield site


def urls(site, names, host="127.0.0.1"):
    return [f"http://{host}:{site.ports['http']}/good/{name}" for name in names]


def lines(urls):
    return "\n".join(urls).encode()


def asked(site, text):
    return sum(text in target for target in site.asked)


async def rows(d):
    async with d.session.get("/v1/results") as answer:
        return [orjson.loads(line) for line in (await answer.read()).splitlines()]


async def exclude(d, **what):
    status, told = await d.ask("POST", "/v1/exclusions", json=what)
    assert status == 200, told
    return told


async def test_nothing_of_a_trap_is_fetched_once_it_is_excluded(tmp_path, site):
    """Listed, waiting in the store and on the bench; what waits behind it at the same host is fetched."""
    trap = [f"{n}?trap" for n in range(3000)]
    async with daemon(tmp_path, workers=5, rate=200) as d:
        await d.ask("POST", "/v1/seeds", data=lines(urls(site, trap) + urls(site, range(20))))
        while asked(site, b"?trap") < 10:
            await asyncio.sleep(0.01)
        assert await exclude(d, exclude=["[?]trap$"]) == {"exclude": ["[?]trap$"], "blocked": []}
        async with d.session.get(urls(site, ["catch-up"])[0].replace("good", "sin")):  # all that was sent before has come
            before = asked(site, b"?trap")
        told = await d.until(done=3020, waiting=0, in_flight=0)
        assert asked(site, b"?trap") == before < 3000
        assert told["outcomes"]["ok"] + told["outcomes"]["skipped"] == 3020 and told["known"] == 3020
        assert told["reasons"] == {"excluded": told["outcomes"]["skipped"]}
        found = [row for row in await rows(d) if row["reason"] == "excluded"]
        assert all(row["outcome"] == "skipped" and row["final"] and "?trap" in row["url"] for row in found) and found
        _, told = await d.ask("GET", "/v1/urls", params={"url": urls(site, ["2999?trap"])[0]})
        assert told["record"]["reason"] == "excluded"
        assert 'exclude = ["[?]trap$"]' in (tmp_path / "crawl.toml").read_text()
    async with daemon(tmp_path, workers=5) as d:
        """A start without the expression is a start without it."""
        assert (await d.ask("GET", "/v1/exclusions"))[1]["exclude"] == []


async def test_a_full_disk_is_told_as_storage(tmp_path, monkeypatch):
    async def full(*_):
        raise StorageError("no room", errno=errno.ENOSPC)

    monkeypatch.setattr("crawler.service.steered.take", full)
    async with daemon(tmp_path) as d:
        status, told = await d.ask("POST", "/v1/checkpoint")
        assert (status, told["detail"], told["errno"]) == (503, "no room", "ENOSPC")
        where = ["--listen", f"127.0.0.1:{d.session._base_url.port}"]
        assert await asyncio.to_thread(checkpoint, [str(tmp_path), str(tmp_path / "copy"), *where]) == Exit.STORAGE


async def test_while_the_disk_is_full_an_order_is_told_so_at_once(tmp_path):
    """Not after half a minute, as a store that does not respond, or as no more than not kept."""
    async with daemon(tmp_path) as d:
        await d.ask("POST", "/v1/pause")
        with file_size_limit(64 << 10):
            adding = asyncio.create_task(d.ask("POST", "/v1/seeds", data=lines(f"http://a.test/{n}" for n in range(5000))))
            await d.until(paused_by=["disk", "user"])
            for path in ("/v1/checkpoint", "/v1/recrawl"):
                status, told = await d.ask("POST", path)
                assert (status, told.get("errno")) == (503, "EFBIG"), told
        await d.until(paused_by=["user"])
        await adding
        assert [(await d.ask("POST", path))[0] for path in ("/v1/checkpoint", "/v1/recrawl")] == [200, 202]


async def test_an_order_is_fulfilled_though_the_store_could_not_be_read_in_between(tmp_path, site):
    async with daemon(tmp_path) as d:
        await d.ask("POST", "/v1/seeds", data=lines(urls(site, range(5))))
        await d.until(done=5)
        read, calls = d.crawl.store.orders, []

        def orders():
            calls.append("")
            if len(calls) == 3:  # there was room, it was kept, and is to be fulfilled
                raise StorageError("no file descriptors left", errno=errno.EMFILE)
            return read()

        d.crawl.store.orders = orders
        assert (await d.ask("POST", "/v1/recrawl"))[0] == 202
        await d.until(changes={"unchanged": 5})
        assert len(calls) > 3 and (await d.ask("GET", "/v1/status"))[1]["storage_errors"] == {"EMFILE": 1}


async def test_an_order_that_is_kept_too_late_for_whoever_gave_it_is_fulfilled(tmp_path, site, monkeypatch):
    async with daemon(tmp_path) as d:
        await d.ask("POST", "/v1/seeds", data=lines(urls(site, range(5))))
        await d.until(done=5)
        keep, late, loop = d.crawl.store.order, threading.Event(), asyncio.get_running_loop()

        def order(given):
            loop.call_soon_threadsafe(loop.call_later, 0.5, late.set)  # later than the request's time, which runs already
            late.wait(30)
            keep(given)

        d.crawl.store.order = order
        with monkeypatch.context() as patch:
            patch.setattr(api, "REQUEST_S", 0.2)
            assert (await d.ask("POST", "/v1/recrawl"))[0] == 504
        await d.until(changes={"unchanged": 5})


async def test_what_a_sitemap_says_is_newer_is_due_though_the_store_failed_first(tmp_path, site):
    async with daemon(tmp_path, recrawl_every="1h", recrawl_min=0) as d:
        (url,) = urls(site, [7])
        await d.ask("POST", "/v1/seeds", data=lines([url]))
        await d.until(done=1)
        hasten, fails = d.crawl.store.hasten, [StorageError("no file descriptors left", errno=errno.EMFILE)]

        def hastened(modified):
            if fails:
                raise fails.pop()
            return hasten(modified)

        d.crawl.store.hasten = hastened
        await d.crawl.recrawler.hasten({url: d.crawl.clock.wall()})
        await d.until(changes={"new": 1, "unchanged": 1})


async def test_while_the_disk_is_full_seeds_are_refused_and_what_was_taken_of_them_is_kept(tmp_path, monkeypatch):
    """With what to do, not after as long as it is full; sent again, the list goes on where it was."""
    monkeypatch.setattr(api_seeds, "UNWRITTEN_S", 0.2)
    body = lines(f"http://a.test/{n}" for n in range(3 * LINKS_MAX))
    async with daemon(tmp_path) as d:
        await d.ask("POST", "/v1/pause")
        with file_size_limit(64 << 10):
            for _ in range(2):
                status, told = await d.ask("POST", "/v1/seeds?list=mine", data=body)
                assert (status, told["errno"], "make room" in told["detail"]) == (503, "ENOSPC", True)
            assert (await d.ask("GET", "/v1/status"))[1]["known"] == 0
        await d.until(paused_by=["user"])
        async with asyncio.timeout(30):
            while (again := await d.ask("POST", "/v1/seeds?list=mine", data=body))[0] == 409:  # being committed
                await asyncio.sleep(0.02)
        assert again[0] == 200 and again[1]["lines"] == 3 * LINKS_MAX and again[1]["accepted"] < 3 * LINKS_MAX
        told = await d.until(known=3 * LINKS_MAX)
        assert told["done"] == 0 and not told["outcomes"], "no line became a duplicate"


async def test_a_visit_that_goes_on_is_given_up_when_it_is_excluded(tmp_path, site):
    never = f"http://127.0.0.1:{site.ports['http']}/sin/never"
    async with daemon(tmp_path) as d:
        await d.ask("POST", "/v1/seeds", data=never.encode())
        await d.until(in_flight=1)
        await exclude(d, exclude=["never$"])
        told = await d.until(done=1, in_flight=0)
        assert told["outcomes"] == {"skipped": 1}


async def test_a_blocked_host_is_left_alone_until_it_is_not(tmp_path, site):
    async with daemon(tmp_path, rate=100) as d:
        mine, others = urls(site, range(300), "127.0.0.2"), urls(site, range(3), "127.0.0.3")
        before = len(site.asked)
        await d.ask("POST", "/v1/seeds", data=lines(mine + others))
        while len(site.asked) == before:
            await asyncio.sleep(0.01)
        assert (await exclude(d, block=["127.0.0.2"]))["blocked"] == ["127.0.0.2"]
        before = len(site.asked)
        told = await d.until(done=303)
        assert 0 < told["reasons"]["excluded"] <= 300 and len(site.asked) - before <= 3
        assert (await exclude(d, block=["127.0.0.2"], undo=True))["blocked"] == []
        await d.ask("POST", "/v1/seeds", data=lines(urls(site, [999], "127.0.0.2")))
        await d.until(done=304)
        assert asked(site, b"/good/999") == 1


async def test_what_was_listed_under_an_expression_is_visited_all_the_same(tmp_path, site):
    """As it always was; one that comes later holds for listed URLs as well, also after a restart."""
    (url,) = urls(site, ["1?listed"])
    async with daemon(tmp_path, exclude=("listed",)) as d:
        await d.ask("POST", "/v1/seeds", data=url.encode())
        assert (await d.until(done=1))["outcomes"] == {"ok": 1}
    async with daemon(tmp_path, exclude=("listed", "later")) as d:
        await d.ask("POST", "/v1/seeds", data=lines(urls(site, ["2?listed", "3?later"])))
        assert (await d.until(done=3))["outcomes"] == {"ok": 2, "skipped": 1}


async def test_many_hosts_with_excluded_links_fill_no_batch_beyond_its_bound(tmp_path, monkeypatch):
    """They are claimed no faster than they are committed."""
    most = 0
    settle = batch_module.OpenBatch.settle

    def settled(self, *args):
        nonlocal most
        settle(self, *args)
        most = max(most, len(self.settled))

    monkeypatch.setattr(batch_module.OpenBatch, "settle", settled)
    async with daemon(tmp_path) as d:
        await exclude(d, exclude=["."])
        hosts = [f"http://h{n}.test/{m}" for n in range(3000) for m in range(6)]
        await d.ask("POST", "/v1/seeds", data=lines(hosts))
        told = await d.until(done=18_000, waiting=0)
        assert told["reasons"] == {"excluded": 18_000}
    assert most <= batch_module.OUTCOMES_MAX + 256 * 4 + 2 * 500


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ({"exclude": ["("]}, "is not a regular expression"),
        ({"block": ["a.test", "http://b.test/"]}, "block 'http://b.test/': must be a host"),
        ({"exclude": ["a"], "undo": True}, "'a' is not excluded"),
        ({"block": ["a.test"], "undo": True}, "a.test is not blocked by itself"),
        ({}, "exclude what?"),
        ({"excluded": ["a"]}, "there is no excluded here"),
        ({"exclude": [1]}, "list of at most"),
        ({"exclude": ["a"], "undo": 1}, "true or false"),
    ],
)
async def test_a_wrong_exclusion_changes_nothing(tmp_path, what, says):
    async with daemon(tmp_path) as d:
        status, told = await d.ask("POST", "/v1/exclusions", json=what)
        assert status == 400 and says in told["detail"], told
        assert (await d.ask("GET", "/v1/exclusions"))[1] == {"exclude": [], "blocked": []}


async def test_what_is_excluded_already_may_be_said_again(tmp_path):
    """A script that says each night what is to be left alone was refused: its own exclusions were counted twice."""
    async with daemon(tmp_path) as d:
        many = {"exclude": [f"/trap/{n}$" for n in range(600)], "block": [f"H{n}.Test" for n in range(600)]}
        for _ in range(2):
            told = await exclude(d, **many)
            assert (len(told["exclude"]), len(told["blocked"])) == (600, 600)
        assert len((await exclude(d, block=["h0.test", "H0.TEST"]))["blocked"]) == 600
        status, told = await d.ask("POST", "/v1/exclusions", json={"exclude": [f"/more/{n}$" for n in range(401)]})
        assert status == 400 and "at most 1000 expressions" in told["detail"]


async def test_exclusions_may_be_changed_as_settings(tmp_path, site):
    async with daemon(tmp_path, depth=1) as d:
        changes = {"exclude": ["x"], "include": ["y"], "host": [{"match": "*.test", "block": True}]}
        assert (await d.ask("PATCH", "/v1/settings", json=changes))[0] == 200
        assert (await d.ask("GET", "/v1/exclusions"))[1] == {"exclude": ["x"], "blocked": ["*.test"]}
        await d.ask("POST", "/v1/seeds", data=lines([*urls(site, [4]), "http://a.test/"]))
        assert (await d.until(done=2))["outcomes"] == {"ok": 1, "skipped": 1}, "what is listed needs no include"


# -- what is to be visited again, and how far it is -------------------------------------------------------------------


async def test_settled_urls_are_due_again_or_forgotten(tmp_path, site):
    found = urls(site, range(4))
    gone = f"http://127.0.0.4:{site.ports['http']}/sin/gone"
    async with daemon(tmp_path) as d:
        await d.ask("POST", "/v1/seeds?list=l&tag=t", data=lines([*found, gone]))
        await d.until(done=5)
        assert await d.ask("POST", "/v1/retry", json={"outcome": ["http_error"]}) == (200, {"count": 1})
        while len(all_rows := await rows(d)) < 6:
            await asyncio.sleep(0.01)
        assert (all_rows[-1]["url"], all_rows[-1]["attempt"]) == (gone, 2)
        assert await d.ask("POST", "/v1/retry", json={"host": "127.0.0.1", "outcome": ["timeout"]}) == (200, {"count": 0})
        host = f"127.0.0.1:{site.ports['http']}"
        assert await d.ask("POST", "/v1/remove", json={"host": host, "tag": "t"}) == (200, {"count": 4})
        assert (await d.until(done=1))["known"] == 1
        assert (await d.ask("GET", "/v1/urls", params={"url": found[0]}))[1]["state"] == "unknown"
        await d.ask("POST", "/v1/seeds", data=found[0].encode())
        await d.until(done=2, known=2)
        events = d.crawl.metrics.events
        assert (events["admitted"], events["settled"]) == (6, 7), "what was removed and is new again counts once more"


async def test_a_list_of_outcomes_that_is_empty_does_not_mean_all(tmp_path, site):
    """A script whose own filter found none would otherwise have the whole crawl forgotten, or fetched again."""
    async with daemon(tmp_path) as d:
        (url,) = urls(site, ["kept"])
        await d.ask("POST", "/v1/seeds", data=url.encode())
        await d.until(done=1)
        for path in ("/v1/retry", "/v1/remove", "/v1/recrawl"):
            assert (await d.ask("POST", path, json={"outcome": []}))[0] == 400
        assert (await d.ask("POST", "/v1/recrawl", params={"outcome": ""}))[0] == 400
        assert (await d.ask("GET", "/v1/urls", params={"url": url}))[1]["state"] == "done"


@pytest.mark.parametrize(
    "which", [{}, {"outcome": ["okay"]}, {"url": "http://"}, {"host": ""}, {"tag": True}, {"urls": "http://a.test/"}, {"url": 1}]
)
async def test_a_wrong_selection_is_refused(tmp_path, which):
    async with daemon(tmp_path) as d:
        for path in ("/v1/retry", "/v1/remove"):
            assert (await d.ask("POST", path, json=which))[0] == 400


async def test_how_far_lists_and_tags_are(tmp_path, site):
    async with daemon(tmp_path) as d:
        await d.ask("POST", "/v1/seeds?list=first&tag=t", data=lines([*urls(site, range(3)), "ftp://no/"]))
        await d.until(done=3)
        await d.ask("POST", "/v1/pause")
        await d.ask("POST", "/v1/seeds?list=second", data=lines(urls(site, range(2, 5))))
        assert (await d.ask("GET", "/v1/lists"))[1]["lists"] == [
            {"name": "second", "known": 3, "done": 1, "waiting": 2, "outcomes": {"skipped": 1}},
            {"name": "first", "known": 4, "done": 4, "waiting": 0, "outcomes": {"ok": 3, "invalid_url": 1}},
        ]
        (tag,) = (await d.ask("GET", "/v1/tags"))[1]["tags"]
        assert tag == {"name": "t", "known": 4, "done": 4, "waiting": 0, "outcomes": {"ok": 3, "invalid_url": 1}}


async def test_results_by_what_they_are(tmp_path, site):
    async with daemon(tmp_path) as d:
        await d.ask("POST", "/v1/seeds?list=one&tag=t", data=lines([*urls(site, range(60)), "ftp://no/"]))
        other = f"http://127.0.0.5:{site.ports['http']}/sin/gone"
        await d.ask("POST", "/v1/seeds?list=two&tag=7", data=other.encode())
        await d.until(done=61)
        for query, count in (
            ("outcome=ok", 60),
            ("outcome=ok,http_error", 61),
            ("outcome=ok&outcome=http_error", 61),
            ("outcome=invalid_url&reason=scheme", 1),
            ("status=404", 1),
            ("status=200,404&list=two", 1),
            ("tag=7", 1),
            (f"host=127.0.0.1:{site.ports['http']}", 60),
            (f"host=%31%32%37.%EF%BC%91:{site.ports['http']}", 60),  # the same in other letters: a URL would be written so, too
            ("host=127.0.0.1", 0),
            ("kind=robots", 0),
            ("kind=seed&tag=t", 61),
        ):
            async with d.session.get(f"/v1/results?{query}") as answer:
                assert answer.status == 200 and answer.headers["Next-Cursor"] != "0-0"
                assert len((await answer.read()).splitlines()) == count, query
        for query in ("outcome=okay", "kind=page", "status=5xx", "outcom=ok", "outcome=", "host=http://a.test/"):
            assert (await d.ask("GET", f"/v1/results?{query}"))[0] == 400, query


async def test_an_unknown_parameter_is_an_error(tmp_path):
    async with daemon(tmp_path) as d:
        for method, path, says in (
            ("GET", "/v1/hosts?limits=1", "did you mean limit?"),
            ("GET", "/v1/status?x=1", "there is no parameter x here"),
            ("POST", "/v1/seeds?taq=a", "did you mean tag?"),
            ("POST", "/v1/pause?now=1", "there is no parameter now here"),
        ):
            status, told = await d.ask(method, path)
            assert status == 400 and says in told["detail"], told
        assert (await d.ask("GET", "/v1/status"))[1]["state"] == "running"


async def test_nothing_is_asked_of_a_blocked_host_not_even_its_robots_txt(tmp_path, site):
    blocked, other = urls(site, [31], "127.0.0.6"), urls(site, [32], "127.0.0.7")
    async with daemon(tmp_path, robots=True, host=({"match": "127.0.0.6", "block": True},)) as d:
        before = len(site.asked)
        await d.ask("POST", "/v1/seeds", data=lines(blocked))
        assert (await d.until(done=1))["reasons"] == {"excluded": 1}
        assert site.asked[before:] == []
        await d.ask("POST", "/v1/pause")
        await d.ask("POST", "/v1/seeds", data=lines(other))
        await d.ask("PATCH", "/v1/settings", json={"exclude": ["/good/32$"]})
        await d.ask("POST", "/v1/pause")
        _, told = await d.ask("GET", "/v1/urls", params={"url": other[0]})
        assert told.get("excluded") or told["record"]["reason"] == "excluded"
