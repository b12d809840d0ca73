"""Visits that are out: they are broken off by what they are of, and whoever waits for their end hears of it."""

from __future__ import annotations

import asyncio
import gc
import gzip
import os
import socket
from pathlib import Path
from types import SimpleNamespace

from support.daemons import ROOMY
from support.webs import Answer, Web, page, text

from crawler.config.load import load
from crawler.core.batch import Admitted
from crawler.core.model import Lease, Link, Unvisited
from crawler.crawl.visits import Visits
from crawler.crawl.wiring import open_crawl


def lease(host: str) -> Lease:
    return Lease(Link(f"http://{host}/", host), b"", 0.0)


async def test_only_the_unwanted_are_broken_off_and_all_who_wait_hear_of_their_end() -> None:
    visits = Visits()
    workers = [asyncio.create_task(asyncio.sleep(60)) for _ in range(3)]
    for worker, host in zip(workers, ("a", "b", "c"), strict=True):
        visits.begins(worker, lease(host))
    unwanted = {"a", "b"}
    visits.break_off_unwanted(lambda lease: lease.link.host in unwanted)
    assert [worker.cancelling() for worker in workers] == [1, 1, 0]

    judged: list[str] = []

    def is_unwanted(lease: Lease) -> bool:
        judged.append(lease.link.host)
        return lease.link.host in unwanted

    waiting = [asyncio.create_task(visits.are_over(is_unwanted)) for _ in range(2)]
    await asyncio.sleep(0)
    visits.ended(workers[2])
    visits.ended(workers[0])
    await asyncio.sleep(0.01)
    assert not any(task.done() for task in waiting), "one of them is still out"
    visits.ended(workers[1])
    async with asyncio.timeout(5):
        await asyncio.gather(*waiting)
    assert judged == ["a", "b", "c"] * 2, "there may be thousands of expressions: not after each visit anew"
    for worker in workers:
        worker.cancel()


async def test_the_longest_out_are_broken_off_first_and_each_once() -> None:
    visits = Visits()
    workers = [asyncio.create_task(asyncio.sleep(60)) for _ in range(4)]
    for worker in workers[:3]:
        visits.begins(worker, lease("a"))
    for worker in (workers[1], workers[1], workers[3]):
        visits.break_off(worker)
    visits.break_off_oldest(1)
    assert [worker.cancelling() for worker in workers] == [1, 1, 0, 0]
    assert visits.was_broken_off(workers[1]) and not visits.was_broken_off(workers[1]) and not workers[1].cancelling()

    visits.ended(workers[0])  # by an error, met as it was broken off
    assert not visits.was_broken_off(workers[0]), "its next cancellation would be taken for ours, and back"
    for worker in workers:
        worker.cancel()


async def test_what_a_body_decodes_to_is_held_no_longer_than_its_visit(tmp_path: Path) -> None:
    """It is read for links, and would else wait for the commit beside the body as it came."""
    body = page("/next").body
    web = Web({"127.0.0.1": {"/": Answer(body=gzip.compress(body), headers=(("Content-Encoding", "gzip"),))}})
    with web.running():
        listed = tmp_path / "list"
        listed.write_text(web.url("127.0.0.1") + "\n")
        settings = {"input": [str(listed)], "output": str(tmp_path / "out"), "depth": 1, "robots": False}
        async with open_crawl(load(settings | {"allow_net": ["127.0.0.0/8"]}).config) as crawl, asyncio.TaskGroup() as tasks:
            running = tasks.create_task(crawl.pump.run(crawl.disk.recover))
            (chunk,) = crawl.seeds
            await (await crawl.frontier.admit(Admitted(chunk.links, chunk.faults, chunk.position)))
            lease = await crawl.frontier.take()
            outcome = await crawl.visitor.visit(lease, crawl.memory.budget.visit())
            assert [found.url for found in outcome.block.links()] == [web.url("127.0.0.1", "/next")]
            assert (outcome.page.plain, outcome.page.bytes_decoded) == (None, len(body))
            crawl.visitor.settle(lease, outcome)
            crawl.pump.end()
            await running


async def test_no_visit_begins_of_a_slot_that_was_lost_while_its_sitemaps_waited_to_be_admitted(tmp_path: Path) -> None:
    """They wait for room while the database is away, for longer than a lease: by then another node visits that host."""
    web = Web(default=lambda host, path: text("page"))
    with web.running():
        url = web.url("127.0.0.1", "/page")
        settings = {"urls": [url], "output": str(tmp_path / "out"), "sitemaps": True, "delay": 0.0, "workers": 1}
        settings |= {"allow_net": ["127.0.0.0/8"], "memory_limit": ROOMY}
        async with open_crawl(load(settings).config) as crawl:
            sitemaps, lost, settled = crawl.visitor._expander.sitemaps, set(), []
            admit = sitemaps._admit

            async def admit_late(admitted: Admitted) -> None:
                await admit(admitted)
                lost.add(url)

            def ended(lease: Lease, outcome: object) -> None:
                settled.append((lease.link.kind, type(outcome)))
                if lost:
                    crawl.drain("the test")

            sitemaps._admit = admit_late
            crawl.visitor._member = SimpleNamespace(is_lost=lambda lease: lease.link.url in lost)
            crawl.visitor.on_settled = ended
            async with asyncio.timeout(30):
                await crawl.run()
    assert ("seed", Unvisited) in settled
    assert set(web.asked()) == {web.url("127.0.0.1", "/robots.txt")}


async def test_visits_that_fail_leave_nothing_to_the_collector_of_cycles(tmp_path: Path) -> None:
    """It comes seldom: an error that holds the frames that hold it would keep buffers, sockets and decoders until then."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/"
        settings = {"urls": [url], "output": str(tmp_path / "out"), "robots": False, "allow_net": ["127.0.0.0/8"]}
        async with open_crawl(load(settings).config) as crawl:
            room = crawl.memory.budget.visit()
            lease = Lease(Link(url, url.removeprefix("http://").rstrip("/")), b"", 0.0)
            await crawl.visitor.visit(lease, room)
            gc.collect()
            gc.disable()
            try:
                outcomes = [await crawl.visitor.visit(lease, room) for _ in range(20)]
                assert {outcome.reason for outcome in outcomes} == {"refused"}
                assert gc.collect() < 20, "not one object a visit"
            finally:
                gc.enable()


async def test_robots_records_that_wait_for_a_commit_are_in_an_account(tmp_path: Path) -> None:
    """Their bodies are on disk by then. Dozens of half a megabyte each may wait, and of bytes that are not ASCII the records are
    larger than the files."""
    rules = b"User-agent: *\n" + b"".join(b"Disallow: /%b\n" % bytes(n | 0x80 for n in os.urandom(2000)) for _ in range(250))
    robots = Answer(body=rules, mime="text/plain")
    with Web({f"127.0.0.{n}": {"/robots.txt": robots, "/": text("page")} for n in (2, 3, 4)}).running() as web:
        settings = {"urls": [web.url(f"127.0.0.{n}") for n in (2, 3, 4)], "output": str(tmp_path / "out")}
        settings |= {"allow_net": ["127.0.0.0/8"], "delay": 0, "memory_limit": ROOMY}
        async with open_crawl(load(settings).config) as crawl:
            outcomes, seen = crawl.memory.budget.account("outcome"), []

            def settled(lease: Lease, outcome: object) -> None:
                held = sum(map(len, crawl.pump._batches.open.robots.values()))
                seen.append((held, outcomes.used))

            crawl.visitor.on_settled = settled
            await crawl.run()
    assert max(held for held, _ in seen) > len(rules) and all(held <= used for held, used in seen)
