"""What the control API asks of several processes, and how long it waits for them."""

import asyncio
import contextlib
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from crawler.config.load import load
from crawler.core.errors import StorageError
from crawler.core.keys import SLOTS
from crawler.crawl.recrawl import TooManyOrders
from crawler.frontier.division import Division
from crawler.frontier.exchange.board import Board
from crawler.frontier.selection import Selection
from crawler.service.parts import steering
from crawler.service.parts.channel import Gone
from crawler.service.reload import Changes


class SlowCrew:
    """Two processes: each answers after ``takes_s``, the first one once it has been gone ``gone`` times."""

    pause = resume = drain = look = pauses = hosts_known = None

    def __init__(self, takes_s, gone=0):
        self.config = load({}, environ={}).config
        self.takes_s, self.gone, self.asked, self.full, self.over = takes_s, gone, [], (), ()

    def is_over(self, part):
        return part in self.over

    async def ask(self, part, name, *arguments):
        if name == "may_recrawl":
            return part not in self.full
        if part == 0 and self.gone:
            self.gone -= 1
            raise Gone
        await asyncio.sleep(self.takes_s)
        self.asked.append((part, name))
        return 7

    def tell_all(self, name):
        self.asked.append(("all", name))


def opened_in(root):
    return SimpleNamespace(root=root, division=Division(2, bytes([0, 1] * (SLOTS // 2)), 0, False), board=Board(2))


def steered(crew, monkeypatch):
    monkeypatch.setattr(steering, "GONE_S", 0.2)
    monkeypatch.setattr(steering, "GONE_AGAIN_S", 0.01)
    return steering.SteeredParts(crew, opened_in(Path()))


def test_a_choice_takes_as_long_as_there_are_records(monkeypatch):
    crew = SlowCrew(0.4, gone=3)
    parts = steered(crew, monkeypatch)
    assert asyncio.run(parts.revive(Selection())) == asyncio.run(parts.remove(Selection())) == 14
    assert crew.asked == [(0, "revive"), (1, "revive"), (0, "remove"), (1, "remove"), ("all", "forget_sent")]


def test_what_is_answered_soon_has_a_deadline(monkeypatch):
    for crew in (SlowCrew(9), SlowCrew(0, gone=1000)):
        with pytest.raises(TimeoutError):
            asyncio.run(steered(crew, monkeypatch).position("list"))
    with pytest.raises(TimeoutError):
        asyncio.run(steered(SlowCrew(0, gone=1000), monkeypatch).revive(Selection()))


def test_who_asks_a_process_that_has_ended_is_told_so_at_once(monkeypatch):
    """Until it was told, the end of the daemon waited for the request, and cut it off."""
    crew = SlowCrew(0, gone=1000)
    crew.over = (0,)
    parts = steered(crew, monkeypatch)
    monkeypatch.setattr(steering, "GONE_S", 60)
    for asked in (parts.position("list"), parts.revive(Selection())):
        with pytest.raises(StorageError, match="the crawl has ended"):
            asyncio.run(asked)


def test_a_recrawl_is_ordered_of_all_processes_or_of_none(monkeypatch):
    crew = SlowCrew(0)
    parts = steered(crew, monkeypatch)
    for crew.full in ([0], [1]):
        with pytest.raises(TooManyOrders):
            asyncio.run(parts.recrawl(0.0, None, Selection()))
        assert crew.asked == []
    crew.full = ()
    asyncio.run(parts.recrawl(0.0, None, Selection()))
    assert crew.asked == [(0, "recrawl"), (1, "recrawl")]


async def test_settings_hold_for_the_parent_too_where_a_process_does_not_answer(tmp_path):
    """It has the log, and keeps the level that the others are told."""
    levels: list[str] = []
    crew, asked = SlowCrew(0), asyncio.Event()

    async def hang(config):
        asked.set()
        await asyncio.sleep(60)

    crew.reconfigure = hang
    parts = steering.SteeredParts(crew, opened_in(tmp_path), lambda config: levels.append(config.log_level))
    changing = asyncio.create_task(Changes(parts, tmp_path).patch({"log_level": "debug"}))
    await asyncio.wait([changing, asyncio.ensure_future(asked.wait())], timeout=30, return_when=asyncio.FIRST_COMPLETED)
    assert levels == ["debug"] and not changing.done()
    changing.cancel()


def test_however_many_ask_why_few_open_the_stores_at_once(monkeypatch):
    """Each held in the parent's memory what the parts had not written into tables yet, as many as there were threads."""
    begun, opened, most = threading.Barrier(2), [], []

    @contextlib.contextmanager
    def reader(root):
        opened.append(None)
        with contextlib.suppress(threading.BrokenBarrierError):
            begun.wait(0.2)
        most.append(len(opened))
        yield SimpleNamespace(is_retired=None)
        opened.pop()

    class Telling(SlowCrew):
        async def ask(self, part, name, *arguments):
            return {}

    monkeypatch.setattr(steering, "open_crawl_reader", reader)
    monkeypatch.setattr(steering, "explain", lambda *words, **more: {"state": "waiting"})

    async def main():
        parts = steered(Telling(0), monkeypatch)
        await asyncio.gather(*(parts.explain(f"http://a.example/{n}", "", None) for n in range(20)))

    asyncio.run(main())
    assert len(most) == 20 and max(most) <= 2
