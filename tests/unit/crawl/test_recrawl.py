"""Orders to visit again, while the store cannot be written or opened."""

import asyncio
import threading
from types import SimpleNamespace

from support.frontiers import NoFiles, handed
from support.stores import Driver, done, link

from crawler.core.batch import Admitted
from crawler.core.clock import Clock
from crawler.core.errors import StorageError
from crawler.core.model import Link
from crawler.crawl import recrawl
from crawler.crawl.recrawl import Recrawler
from crawler.frontier import Limits, open_store
from crawler.frontier.pump import Pump
from crawler.frontier.recrawl import RecrawlOrder
from crawler.frontier.rocksdb import store as rocks
from crawler.frontier.rocksdb.database import Database
from crawler.frontier.workbench import Workbench


class FailsOnce(NoFiles):
    def __init__(self) -> None:
        self.has_failed = False

    def write(self, prepared):
        if not self.has_failed:
            self.has_failed = True
            raise StorageError("no space left", errno=28)
        return super().write(prepared)


async def test_an_order_waits_while_the_store_cannot_be_opened_anew(tmp_path, monkeypatch):
    """The disk is full: after a failed write the store is closed, and cannot be opened before there is room again."""
    monkeypatch.setattr(recrawl, "AGAIN_S", 0.01)
    clock = Clock()
    store = open_store("embedded", tmp_path / "frontier", Limits(), now=clock.now(), rest=lambda host: 0.0)
    pump = Pump(store, Workbench(lambda host: 1), handed(), FailsOnce(), clock=clock.now, wall=clock.wall, links_max=100)
    recrawler = Recrawler(SimpleNamespace(recrawl_every=0.0, recrawl_min=0.0), store, pump, clock)
    is_full, asked_in_vain = asyncio.Event(), asyncio.Event()
    open_database = rocks.open_database

    def no_room(*args):
        if not is_full.is_set():
            return open_database(*args)
        raise StorageError("no space left", errno=28)

    async def recover(error: StorageError) -> None:
        if is_full.is_set():
            await asyncio.sleep(0.2)
            asked_in_vain.set()
            is_full.clear()
        else:
            is_full.set()

    monkeypatch.setattr(rocks, "open_database", no_room)
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(pump.run(recover))
        fulfilling = tasks.create_task(recrawler.run())
        fulfil = store.fulfil
        monkeypatch.setattr(store, "fulfil", lambda pages: None if not asked_in_vain.is_set() else fulfil(pages))
        await recrawler.order(RecrawlOrder(clock.now(), clock.wall()))
        await (await pump.frontier.admit(Admitted((Link("http://a.test/", "a.test"),))))
        assert asked_in_vain.is_set()
        while await pump.ask(store.orders):
            await asyncio.sleep(0.01)
        fulfilling.cancel()
        pump.end()
        await running
    pump.close()
    store.close()


async def test_a_schedule_is_ordered_once_however_often_the_crawl_is_begun_before_it_is_fulfilled(tmp_path, monkeypatch):
    """Each such order looks at all that is settled, and there may be but few."""
    driver = Driver("memory", tmp_path / "store", Limits(recrawl=True))
    driver.commit([link("a/0")])
    driver.settle(driver.claim_one("a/0"), done())
    clock = Clock()
    pump = Pump(driver.store, Workbench(lambda host: 1), handed(), NoFiles(), clock=clock.now, wall=clock.wall, links_max=100)

    async def killed() -> None: ...

    for every_s in (60.0, 60.0, 60.0, 90.0):
        recrawler = Recrawler(SimpleNamespace(recrawl_every=every_s, recrawl_min=0.0), driver.store, pump, clock)
        monkeypatch.setattr(recrawler, "fulfil", killed)
        await recrawler.begin()
    assert [order.every for order in driver.store.orders()] == [60.0, 90.0]
    pump.close()


async def test_the_first_failure_tells_what_is_wrong_though_a_commit_fails_behind_it(tmp_path, monkeypatch):
    """It waited for the same thread, and has failed since nothing is written before the store is opened anew."""
    clock = Clock()
    store = open_store("embedded", tmp_path / "frontier", Limits(), now=clock.now(), rest=lambda host: 0.0)
    pump = Pump(store, Workbench(lambda host: 1), handed(), NoFiles(), clock=clock.now, wall=clock.wall, links_max=100)
    is_due, told, write = threading.Event(), [], Database.write

    def fails_once(self, batch, *, sync):
        monkeypatch.setattr(Database, "write", write)
        assert is_due.wait(30)
        raise StorageError("no space left", errno=28)

    async def recover(error: StorageError) -> None:
        told.append(error.errno)

    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(pump.run(recover))
        await (await pump.frontier.admit(Admitted((Link("http://a.test/", "a.test"),))))
        monkeypatch.setattr(Database, "write", fails_once)
        ordered = tasks.create_task(pump.change(lambda: store.order(RecrawlOrder(clock.now(), clock.wall()))))
        committed = await pump.frontier.admit(Admitted((Link("http://b.test/", "b.test"),)))
        while not pump.uncommitted_s or pump._batches.closing is None:
            await asyncio.sleep(0.01)
        is_due.set()
        await asyncio.wait((committed, ordered))
        assert told and set(told) == {28}
        pump.end()
        await running
    pump.close()
    store.close()
