"""What a scrape tells of a running crawl agrees with what the crawl did, to the unit."""

import asyncio
import re
import threading
from types import SimpleNamespace

import pytest
from support.daemons import daemon
from support.sinful import Site, head, once, running, stay

from crawler.config.load import load
from crawler.core.snapshot import Snapshot
from crawler.crawl.metrics import Metrics
from crawler.service.health import History
from crawler.service.parts.crew import Crew
from crawler.service.parts.merged import Look


@pytest.fixture(scope="module")
def site():
    robots = [b"HTTP/1.1 200 OK\r\nContent-Length: 26\r\n\r\nUser-agent: *\nDisallow: /x\n"[:-1], stay]
    gone = [head(0, status="404 Not Found"), stay]
    with running(Site(scripts={"gone": gone, "robots": robots})) as site:
        yield site


async def metrics(d):
    async with d.session.get("/metrics") as answer:
        text = await answer.text()
    return {name: float(value) for name, value in re.findall(r"^([a-z]\S*(?:\{.*?\})?) (\S+)$", text, re.MULTILINE)}


async def test_counts_agree_between_metrics_status_and_results(tmp_path, site):
    base = f"http://127.0.0.1:{site.ports['http']}"
    urls = [f"{base}/good/{n}" for n in range(30)] + [f"{base}/sin/gone", "http://127.0.0.1:1/", "nonsense"]
    async with daemon(tmp_path, retries=1) as d:
        before = await metrics(d)
        assert before['crawler_frontier_urls{state="done"}'] == 0
        await d.ask("POST", "/v1/seeds", data="\n".join(urls).encode())
        status = await d.until(done=32, in_flight=0)
        found = await metrics(d)
        rows = (await (await d.session.get("/v1/results")).text()).splitlines()
    assert len(rows) == 33
    assert found['crawler_frontier_urls{state="done"}'] == 32
    assert found['crawler_urls_total{event="settled"}'] == found['crawler_urls_total{event="admitted"}'] == 32
    assert found['crawler_fetches_total{outcome="ok"}'] == status["outcomes"]["ok"] == 30
    assert found['crawler_fetches_total{outcome="connect_error"}'] == 2, "each attempt counts"
    assert found['crawler_urls_total{event="retried"}'] == 1
    assert found['crawler_fetch_errors_total{reason="refused"}'] == 2
    assert found['crawler_responses_total{code="200"}'] == 30
    assert found['crawler_responses_total{code="404"}'] == found['crawler_fetches_total{outcome="http_error"}'] == 1
    assert found["crawler_fetch_duration_seconds_count"] == 31
    assert found["crawler_received_bytes_total"] > 0
    assert found["crawler_written_bytes_total"] == sum(
        path.stat().st_size for part in ("warc", "index", "results") for path in (tmp_path / part).iterdir()
    )
    assert found["crawler_commit_duration_seconds_count"] > 0
    assert found["crawler_memory_limit_bytes"] > found["crawler_memory_rss_bytes"] > 0
    assert found['crawler_memory_state{state="normal"}'] == 1
    assert found["crawler_disk_free_bytes"] > 0
    assert {name: value for name, value in found.items() if name.startswith("crawler_memory_budget_bytes")}
    assert before.keys() - found.keys() == set()


async def test_what_the_workers_do_adds_up_to_all_of_them(tmp_path, site):
    base, was_seen = f"http://127.0.0.1:{site.ports['http']}", threading.Event()
    site.scripts["held"] = [once(was_seen.is_set), head(2) + b"ok", stay]
    async with daemon(tmp_path, workers=9, delay=30) as d:
        await d.ask("POST", "/v1/pause")  # a host that was claimed before its second link was known would rest in the store
        await d.ask("POST", "/v1/seeds", data="\n".join([f"{base}/sin/held", f"{base}/good/1"]).encode())
        await d.until(known=2)
        await d.ask("POST", "/v1/resume")
        await d.until(in_flight=1)
        found = await metrics(d)
        workers = {name: value for name, value in found.items() if name.startswith("crawler_workers")}
        assert (sum(workers.values()), workers['crawler_workers{state="busy"}']) == (9, 1)
        assert found['crawler_frontier_hosts{state="out"}'] == found["crawler_requests_in_flight"] == 1
        was_seen.set()
        await d.until(in_flight=0, done=1)
        async with asyncio.timeout(30):
            while (found := await metrics(d))['crawler_frontier_hosts{state="resting"}'] != 1:
                await asyncio.sleep(0.02)  # its next link is only being claimed
        assert found['crawler_workers{state="politeness"}'] == 9


async def test_robots_and_caches_are_counted(tmp_path, site):
    base = f"http://127.0.0.1:{site.ports['http']}"
    async with daemon(tmp_path, robots=True) as d:
        await d.ask("POST", "/v1/seeds", data="\n".join([f"{base}/good/{n}" for n in range(5)]).encode())
        await d.until(done=5, not_pages={"robots": 1})
        found = await metrics(d)
    assert sum(value for name, value in found.items() if name.startswith("crawler_robots_fetches_total")) == 1
    assert found['crawler_cache_events_total{cache="robots",event="hit"}'] > 0


async def test_nothing_uncommitted_is_zero_and_a_held_store_is_not(tmp_path):
    go_on = threading.Event()
    async with daemon(tmp_path) as d:
        await d.ask("POST", "/v1/pause")
        await d.ask("POST", "/v1/seeds", data=b"http://a.test/")
        assert (await metrics(d))["crawler_commit_age_seconds"] == 0
        held = asyncio.ensure_future(d.crawl.pump.ask(go_on.wait))
        adding = asyncio.ensure_future(d.ask("POST", "/v1/seeds", data=b"http://b.test/"))
        try:
            async with asyncio.timeout(20):
                while not (first := (await metrics(d))["crawler_commit_age_seconds"]):
                    await asyncio.sleep(0.02)
            await asyncio.sleep(0.3)
            assert 0 < first < (await metrics(d))["crawler_commit_age_seconds"]
        finally:
            go_on.set()
        await held
        assert (await adding)[0] == 200
        assert (await metrics(d))["crawler_commit_age_seconds"] == 0


def test_what_is_drawn_are_the_pages_of_each_moment():
    """Not the mean of the last half minute, which hides that a crawl stands still."""
    history = History()
    for second in range(9):
        history.add(Snapshot(at=100.0 + second, state="running", done=min(5000 + 10 * second, 5040)))
    assert list(history.rates) == [10.0, 10.0, 0.0, 0.0]


async def test_what_parts_bring_along_is_not_drawn_as_settled_just_now():
    config = load({}, environ={}).config
    crew = Crew(config, 1, SimpleNamespace(pid="self"), lambda part: config, Metrics())
    await crew.look()
    crew._parts[0].look = Look(Snapshot(at=10.0, state="running", done=5000))
    crew.opened.set()
    for at in (10.0, 12.0):
        crew._parts[0].look = Look(Snapshot(at=at, state="running", done=5000))
        await crew.look()
    assert list(crew.history.rates) == [0.0]
