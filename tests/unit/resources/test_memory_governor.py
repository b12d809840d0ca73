"""A crawl whose memory nears its limit: a neighbour in its group, a leak, a body larger than its account; it recovers or ends."""

import asyncio
import contextlib
import os
import threading
from collections import Counter

import pytest
from support.machine import Machine
from support.programs import LOCAL, crawler, rows_of
from support.waiting import until
from support.webs import Answer, Web

from crawler.config.load import changed, load
from crawler.core.errors import StorageError
from crawler.core.model import Done
from crawler.crawl.wiring import open_crawl
from crawler.output import uploads
from crawler.resources import memory_governor, memory_pressure
from crawler.resources.memory_plan import CONNECTION_BYTES, TUNNEL_BYTES

MIB = 1 << 20
PAGES = 40


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(memory_governor, "EVERY_S", 0.005)


@pytest.fixture
def web():
    web = Web(default=lambda host, path: Answer(body=os.urandom(1000), wait=0.3 if path == "/0" else 0.0))
    with web.running():
        yield web


@contextlib.asynccontextmanager
async def crawling(web, root, **more):
    """(crawl, its machine)"""
    listed = root / "list"
    listed.write_text("".join(f"{web.url(f'127.0.1.{n + 1}', f'/{n}')}\n" for n in range(PAGES)))
    given = {"input": [str(listed)], "output": str(root / "out"), "allow_net": ["127.0.0.0/8"], "delay": 0, "robots": False}
    config = load(given | {"memory_limit": "256MiB", "min_free_disk": 0, "archive": "discard"} | more, environ={}).config
    async with open_crawl(config) as crawl:
        machine = Machine(root)
        crawl.memory._meter = machine.meter
        yield crawl, machine


async def test_a_neighbour_in_the_group_holds_it_up_only_while_it_is_there(web, tmp_path):
    async with crawling(web, tmp_path) as (crawl, machine):
        machine.set(100, 290)
        running = asyncio.create_task(crawl.memory.run())
        await until(lambda: crawl.memory.watch.state == "critical")
        assert crawl.frontier.pauses == {"memory"} and crawl.memory.watch.given_back
        running.cancel()
        running = asyncio.create_task(crawl.run())
        await until(lambda: crawl.stats().known == PAGES)
        assert crawl.stats().done == 0 and crawl.stats().waits_for == "memory"
        machine.set(100, 150)
        await running
        assert crawl.stats().done == PAGES


async def test_it_is_watched_while_every_helper_of_the_loop_stands_before_a_stalled_disk(web, tmp_path):
    stalled = threading.Event()
    async with crawling(web, tmp_path) as (crawl, machine):
        loop = asyncio.get_running_loop()
        helpers = [loop.run_in_executor(None, stalled.wait) for _ in range(100)]
        machine.set(300, 300)
        running = asyncio.create_task(crawl.memory.run())
        await until(lambda: crawl.memory.watch.given_back)
        running.cancel()
        stalled.set()
        await asyncio.gather(*helpers)


async def test_a_worker_that_waits_holds_nothing_of_its_last_page(web, tmp_path):
    async with crawling(web, tmp_path) as (crawl, _):
        crawl.pump._endless = True
        running = asyncio.create_task(crawl.run())
        await until(lambda: crawl.stats().done == PAGES and not crawl.frontier.out_count)
        workers = [task for task in asyncio.all_tasks() if task.get_name().startswith("worker ")]
        assert len(workers) == crawl.config.workers
        for worker in workers:
            assert not any(isinstance(held, Done) for held in worker.get_coro().cr_frame.f_locals.values())
        crawl.drain("enough")
        await running


async def test_what_comes_between_two_readings_is_acted_on(web, tmp_path, monkeypatch):
    monkeypatch.setattr(memory_governor, "EVERY_S", 3600.0)
    async with crawling(web, tmp_path) as (crawl, machine):
        running = asyncio.create_task(crawl.memory.run())
        await until(lambda: crawl.memory.reading.pss == 100 * MIB)
        for mib, state in (250, "critical"), (270, "over"):
            machine.set(mib, 100)
            await until(lambda state=state: crawl.memory.watch.state == state)
        running.cancel()


async def test_a_tls_proxy_that_is_named_while_a_crawl_runs_has_each_visit_take_more(web, tmp_path):
    async with crawling(web, tmp_path) as (crawl, _):
        connections = crawl.memory.budget.account("connection")
        room = crawl.memory.budget.visit()
        for proxy, size in (("https://p.example", TUNNEL_BYTES), ("http://p.example", CONNECTION_BYTES)):
            crawl.reconfigure(changed(crawl.config, {"host": [{"match": "a.example", "proxy": proxy}]}))
            async with room:
                assert connections.used == size
        assert connections.used == 0


class Greedy:
    """A bucket whose first answer takes all memory there is, without an end."""

    is_bounded = False

    def __init__(self, bucket, machine):
        self.bucket, self.machine, self.is_first = bucket, machine, True

    async def put(self, name, path, length):
        if self.is_first:
            self.is_first = False
            self.machine.set(300, 100)
            try:
                await asyncio.sleep(3600)
            finally:
                self.machine.set(100, 100)
        await self.bucket.put(name, path, length)


async def test_an_upload_that_takes_all_memory_is_broken_off_and_made_again(web, tmp_path, monkeypatch):
    """Also at the end, when no visit is out any more."""
    monkeypatch.setattr(uploads, "AGAIN_MIN_S", 0.01)
    async with crawling(web, tmp_path, store_url=f"file://{tmp_path / 'there'}") as (crawl, machine), asyncio.timeout(60):
        crawl.uploads._bucket = Greedy(crawl.uploads._bucket, machine)
        await crawl.run()
        assert crawl.uploads.failures == 1 and crawl.stats("ended").unstored == 0


async def test_free_memory_goes_back_now_and_then_with_no_need(web, tmp_path, monkeypatch):
    trims: list[None] = []
    monkeypatch.setattr(memory_governor, "trim", lambda: trims.append(None))
    monkeypatch.setattr(memory_governor, "TRIM_EVERY_S", 0.02)
    async with crawling(web, tmp_path) as (crawl, _):
        running = asyncio.create_task(crawl.memory.run())
        await until(lambda: len(trims) > 2)
        assert crawl.memory.watch.given_back == 0
        running.cancel()


async def test_visits_given_up_are_no_attempts_and_are_made_again(web, tmp_path):
    given_up = threading.Event()
    web.default = lambda host, path: Answer(body=b"x", until=given_up.is_set if path == "/0" else None)
    async with crawling(web, tmp_path) as (crawl, machine):
        running = asyncio.create_task(crawl.run())
        await until(lambda: "/0" in {lease.link.url[-2:] for lease in crawl.frontier.leases_out()})
        machine.set(300, 300)
        await until(lambda: crawl.memory.watch.given_up)
        given_up.set()
        machine.set(100, 100)
        await running
        assert crawl.stats().outcomes == {"ok": PAGES}
    rows = rows_of(tmp_path / "out")
    assert Counter(row["outcome"] for row in rows) == {"ok": PAGES} and {row["attempt"] for row in rows} == {1}


async def test_a_leak_that_never_ends_ends_the_crawl_which_can_be_resumed(web, tmp_path, monkeypatch):
    for name in ("SINGLE_AFTER_S", "RESTART_AFTER_S", "END_AFTER_S", "GIVE_BACK_EVERY_S"):
        monkeypatch.setattr(memory_pressure, name, getattr(memory_pressure, name) / 1000)
    web.default = lambda host, path: Answer(body=b"slow", wait=0.2)
    async with crawling(web, tmp_path) as (crawl, machine):
        machine.set(300, 300)
        with pytest.raises(StorageError, match="limit cannot be held"):
            await crawl.run()
        assert crawl.memory.watch.restarts == 1
    crawled = crawler("run", "-i", str(tmp_path / "list"), "-o", str(tmp_path / "out"), *LOCAL, "--archive", "discard")
    assert crawled.returncode == 0 and {row["outcome"] for row in rows_of(tmp_path / "out")} == {"ok"}


def test_a_body_larger_than_its_account_is_fetched_all_the_same(web, tmp_path):
    web.hosts = {"127.0.0.9": {"/large": Answer(body=bytes(24 * MIB))}}
    (tmp_path / "list").write_text(web.url("127.0.0.9", "/large"))
    options = ("--workers", "1", "--memory-limit", "150MiB", "--archive", "discard", "--max-body", "64MiB")
    ended = crawler("run", "-i", str(tmp_path / "list"), "-o", str(tmp_path / "out"), *LOCAL, *options)
    assert ended.returncode == 0, ended.stderr
    (row,) = rows_of(tmp_path / "out")
    assert row["outcome"] == "ok" and row["bytes_wire"] == 24 * MIB


@pytest.mark.parametrize(("processes", "whose"), [("1", "these settings"), ("2", "2 processes")])
def test_a_limit_too_small_is_refused_with_the_table(tmp_path, processes, whose):
    (tmp_path / "list").write_text("http://127.0.0.1:9/\n")
    out = tmp_path / "out"
    ended = crawler(
        "run", "-i", str(tmp_path / "list"), "-o", str(out), *LOCAL, "--memory-limit", "140MiB", "--processes", processes
    )
    assert ended.returncode == 2 and ended.stdout == "" and "Traceback" not in ended.stderr
    assert "the store's cache and write buffers" in ended.stderr and "smallest memory_limit" in ended.stderr
    least = ended.stderr.rpartition(f"{whose} is ")[2].split()[0]
    ended = crawler(
        "run", "-i", str(tmp_path / "list"), "-o", str(out), *LOCAL, "--memory-limit", least, "--processes", processes
    )
    assert ended.returncode != 2, ended.stderr
