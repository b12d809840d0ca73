"""A crawl as a whole: how it ends."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
from support.daemons import ROOMY
from support.waiting import until, wait_until
from support.webs import Answer, Web, page

from crawler.config.load import load
from crawler.core import clock
from crawler.core.errors import ConfigError
from crawler.crawl import crawl as crawl_module
from crawler.crawl.reading import open_crawl_reader
from crawler.crawl.wiring import open_crawl


async def test_what_came_last_is_in_a_closed_file_though_another_commit_was_under_way(tmp_path: Path) -> None:
    """Of a crawl that is stopped: other tools look for files by their final names."""
    writing, closing = threading.Event(), threading.Event()

    def late() -> Answer:
        assert writing.wait(30)
        return page("/next")

    first, last = Web({"127.0.0.1": {"/": page("/next")}}), Web({"127.0.0.1": {"/": late}})
    with first.running(), last.running():
        urls = [web.url("127.0.0.1") for web in (first, last)]
        settings = {"urls": urls, "output": str(tmp_path / "out"), "depth": 1, "max_pages": 2}
        settings |= {"allow_net": ["127.0.0.0/8"], "robots": False, "memory_limit": ROOMY}
        async with open_crawl(load(settings).config) as crawl:
            write, roll, frontier = crawl.journal.write, crawl.journal.roll, crawl.frontier

            def held_up(prepared):
                if prepared.batch.settled and not writing.is_set():
                    writing.set()
                    wait_until(lambda: frontier.draining and not frontier.out_count)
                    closing.wait(0.3)
                return write(prepared)

            def rolls(**which):
                closing.set()
                roll(**which)

            with mock.patch.object(crawl.journal, "write", held_up), mock.patch.object(crawl.journal, "roll", rolls):
                await crawl.run()
    with open_crawl_reader(tmp_path / "out") as reader:
        assert sum(1 for _ in reader.rows()) == 2
        archive = {file: mark.closed for file, mark in reader.marks.items() if file.startswith(("warc/", "index/"))}
    assert len(archive) == 2 and all(archive.values())


async def test_a_crawl_that_has_run_says_so_where_it_is_run_again(tmp_path: Path) -> None:
    """As in a notebook, where a cell is easily run twice: it never returned."""
    config = load({"urls": ["no url"], "output": str(tmp_path / "out"), "memory_limit": ROOMY}).config
    async with open_crawl(config) as crawl:
        await crawl.run()
        with pytest.raises(RuntimeError, match="has run: open_crawl opens it again"):
            async with asyncio.timeout(20):
                await crawl.run()


async def test_a_jump_of_the_wall_clock_is_logged_once(tmp_path: Path, caplog, monkeypatch) -> None:
    wall, is_told = SimpleNamespace(ahead_s=0.0), threading.Event()
    monkeypatch.setattr(crawl_module, "CLOCK_EVERY_S", 0.01)
    monkeypatch.setattr(clock, "time", SimpleNamespace(monotonic=time.monotonic, time=lambda: time.time() + wall.ahead_s))
    web = Web({"127.0.0.1": {"/": Answer(until=is_told.is_set)}})
    with web.running():
        settings = {"urls": [web.url("127.0.0.1")], "output": str(tmp_path / "out"), "memory_limit": ROOMY}
        settings |= {"allow_net": ["127.0.0.0/8"], "robots": False}
        async with open_crawl(load(settings).config) as crawl:
            running = asyncio.create_task(crawl.run())
            for wall.ahead_s, said in ((90.0, "forward by 1 min 30 s, or"), (83.0, ""), (-3517.0, "back by 1 h: dates")):
                await until(lambda said=said: said in caplog.text)
                await asyncio.sleep(0.05)
            is_told.set()
            await running
    assert caplog.text.count("the wall clock was set") == 2


async def test_what_ends_a_crawl_is_raised_as_what_it_is(tmp_path: Path) -> None:
    """Not as a group of one, which no ``except ConfigError`` of a program catches."""
    config = load({"input": [str(tmp_path / "list")], "output": str(tmp_path / "out"), "memory_limit": ROOMY}).config
    async with open_crawl(config) as crawl:
        with pytest.raises(ConfigError, match="list: No such file"):
            await crawl.run()


async def test_what_there_was_no_time_to_look_for_is_not_stored_either(tmp_path: Path) -> None:
    """A crawl that was told to stop with its last page, and had a second for all, was called whole: exit 0."""
    web = Web(default=lambda host, path: page())
    settings = {"allow_net": ["127.0.0.0/8"], "robots": False, "min_free_disk": 0, "memory_limit": ROOMY, "parsers": 0}
    with web.running():
        settings |= {"urls": [web.url("127.0.0.1", "/")], "output": str(tmp_path / "out"), "grace": 1.0}
        async with open_crawl(load(settings | {"store_url": f"file://{tmp_path / 'there'}"}).config) as crawl:
            crawl.visitor.on_settled = lambda lease, outcome: crawl.drain("SIGTERM")
            await crawl.run()
            end = crawl.stats("ended")
    assert (end.done, end.unstored, end.is_whole) == (1, 3, False)
