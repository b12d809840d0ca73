"""Messages that other members take over while they are on their way into a commit."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.frontiers import NoFiles, handed
from support.postgres import rows
from support.stores import Driver, link

from crawler.core.batch import Admitted
from crawler.core.clock import Clock
from crawler.core.errors import RemoteError, StorageError
from crawler.core.link_block import encode_link
from crawler.core.snapshot import Pause
from crawler.frontier import batch
from crawler.frontier.cluster.box import accusation
from crawler.frontier.cluster.engine import Engine
from crawler.frontier.cluster.gauges import Gauges
from crawler.frontier.cluster.incoming import Incoming
from crawler.frontier.exchange.segment import Parcel, Piece, encode_parcel
from crawler.frontier.pump import Pump
from crawler.frontier.selection import Selection
from crawler.frontier.workbench import Workbench


class FailsOnce(NoFiles):
    """The first write waits for ``go_on``, and fails."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()

    def write(self, prepared):
        if not self.begun.is_set():
            self.begun.set()
            self.go_on.wait(20)
            raise StorageError("disk full", errno=28)
        return super().write(prepared)


def taking_in(driver: Driver, files: NoFiles) -> tuple[Incoming, Pump]:
    """What a member takes in, by a pump that nobody runs yet."""
    engine, clock, forever = Engine(), Clock(), asyncio.Event()
    incoming = Incoming(driver.copy.mirror, engine, driver.copy.accused, Gauges(), driver.copy.outbox)
    idle = {"run": lambda pump: forever.wait(), "deals": lambda host: True, "taken_at": lambda host: 0.0}
    member = SimpleNamespace(**idle, rewound=lambda: None, undone=incoming.undone)
    pump = Pump(
        driver.store,
        Workbench(lambda host: 1),
        handed(),
        files,
        clock=clock.now,
        wall=clock.wall,
        links_max=100,
        member=member,
    )
    engine.begin(pump)
    return incoming, pump


async def test_a_message_that_is_taken_over_while_it_waits_for_room_keeps_no_commit_from_being_made(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(batch, "LINKS_MAX", 2)
    driver, files = Driver("cluster", tmp_path / "store"), FailsOnce()
    mirror = driver.copy.mirror
    incoming, pump = taking_in(driver, files)
    recovered: list[StorageError] = []

    async def recover(error: StorageError) -> None:
        recovered.append(error)
        assert len(recovered) < 10, "what is another's is committed again and again"

    parcel = encode_parcel(Parcel([Piece([encode_link(link("sent/1"))], None)], [], []))
    driver.copy.truth.send(mirror.number, parcel)
    running = asyncio.create_task(pump.run(recover))
    async with asyncio.timeout(30):
        first = await pump.frontier.admit(Admitted((link("a/1"),)))
        await asyncio.to_thread(files.begun.wait)
        second = await pump.frontier.admit(Admitted((link("a/2"), link("a/3"))))
        receiving = asyncio.create_task(incoming.receive())
        while not pump._batches._room._waiters:
            await asyncio.sleep(0.01)
        rows(driver.url, "UPDATE box SET dest = 77")
        files.go_on.set()
        await asyncio.wait([running, receiving], return_when=asyncio.FIRST_COMPLETED)
        assert await receiving
        third = await pump.frontier.admit(Admitted((link("a/4"),)))
        await asyncio.wait([running, asyncio.gather(first, second, third)], return_when=asyncio.FIRST_COMPLETED)
        assert third.done(), recovered
        assert [driver.store.lookup(link(name).url) for name in ("a/1", "a/3", "a/4", "sent/1")] == [*3 * ["waiting"], None]
        assert not mirror.pending and rows(driver.url, "SELECT dest FROM box") == [(77,)]
        pump.end()
        await running
    pump.close()
    driver.store.close()


async def test_an_accusation_is_counted_once_though_its_reader_is_killed_before_it_commits_anything_else(tmp_path: Path) -> None:
    driver = Driver("cluster", tmp_path / "store")
    driver.commit([link("a/1")])
    key = driver.claim_one("a/1").key
    driver.copy.truth.send(driver.copy.mirror.number, accusation([key]))
    for _ in range(2):
        incoming, pump = taking_in(driver, NoFiles())
        await incoming.receive()
        pump.close()
        driver.store._database.close()  # killed
        driver.copy.truth.close()
        driver.store = driver.open()
    assert driver.store.suspects() == {key: 1} and rows(driver.url, "SELECT * FROM box") == []
    driver.store.close()


async def test_while_the_database_is_away_it_is_what_everybody_waits_for(tmp_path: Path, monkeypatch) -> None:
    driver = Driver("cluster", tmp_path / "store")
    _, pump = taking_in(driver, NoFiles())
    asked, back = asyncio.Event(), asyncio.Event()

    def away(*, seeding: bool) -> None:
        raise RemoteError("the database is away")

    async def recover(error: StorageError) -> None:
        if asked.is_set():
            await back.wait()
        asked.set()

    with monkeypatch.context() as patch:
        patch.setattr(driver.copy.truth, "join", away)
        running = asyncio.create_task(pump.run(recover))
        pump.failed(RemoteError("the database is away"))
        await asked.wait()
        while driver.store._database._rdict is not None:
            await asyncio.sleep(0.01)
        for call in (pump.revive(Selection()), pump.ask(driver.store.orders)):
            with pytest.raises(RemoteError, match="is away"):
                await call
        assert pump.frontier.pauses == {Pause.DATABASE}
    back.set()
    await (await pump.frontier.admit(Admitted((link("a/1"),))))
    pump.end()
    await running
    pump.close()
    driver.store.close()
