"""A member's slots, by what the database and the engine say in an order that is seldom met."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from msgspec.structs import replace
from support.postgres import rows
from support.stores import REST, Driver, done, link

from crawler.core.errors import RemoteError, StorageError
from crawler.core.model import Mark
from crawler.core.snapshot import Pause
from crawler.frontier.cluster.box import message_of
from crawler.frontier.cluster.member import Member
from crawler.frontier.cluster.room import Room
from crawler.frontier.recrawl import RecrawlOrder
from crawler.frontier.rocksdb.layout import decode_state, encode

NODE = "a"


class Holdings:
    """In memory there is nothing."""

    def __init__(self) -> None:
        self.evicted: set[int] = set()

    def evict(self, slots, slot_of, slot_of_host) -> None:
        self.evicted |= slots

    def give_back_waiting(self, slots, slot_of_host) -> None: ...


class Pump:
    """In the pump's place: everything is done at once; ``meanwhile`` before the loop hears of what was done between commits."""

    failure = None

    def __init__(self) -> None:
        self.frontier = SimpleNamespace(pauses=set(), resume=lambda why: None, pause=lambda why: None)
        self.holdings = Holdings()
        self.meanwhile: Callable = lambda: None

    async def ask(self, call, *args):
        return call(*args)

    async def between_commits(self, call, *args, still_s=0.0):
        done = call(*args)
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        if (waiting := meanwhile()) is not None:
            await waiting
        return done

    def restocked(self) -> None: ...
    def counted(self) -> None: ...


@pytest.fixture
def made(tmp_path: Path):
    driver = Driver("cluster", tmp_path / "store")
    copy = driver.copy
    driver.commit([link("a/1")])
    copy.mirror.drop(list(copy.mirror.epochs))
    member = Member(copy.mirror, copy.store, copy.outbox, node=NODE, parts=(), lease_s=600.0, clock=lambda: driver.now)
    pump = Pump()
    member._engine.begin(pump)
    yield member, pump, driver
    driver.store.close()


def slot_of(member: Member) -> int:
    return member.slot_of_host(link("a/1").host)


async def test_a_tick_that_was_asked_before_a_slot_was_taken_does_not_make_it_one_that_is_loaded(made) -> None:
    member, pump, driver = made
    tick = driver.copy.truth.tick([])
    await member._reconcile(tick)
    pump.meanwhile = lambda: member._reconcile(tick)
    await member._load(dict(member._slots.wanted), None)
    assert (member.look().held, member.look().loading) == (256, 0)
    assert [lease.link.url for lease in driver.claim()] == [link("a/1").url]
    assert member.taken_at(link("a/1").host) == driver.now, "it may have been visited until then"
    member._lose({slot_of(member)})
    assert pump.holdings.evicted == {slot_of(member)}, "what is out of it is broken off"


async def test_a_slot_that_is_lost_while_it_is_taken_is_not_dealt_from_and_can_be_had_again(made) -> None:
    member, pump, driver = made
    tick = driver.copy.truth.tick([])
    await member._reconcile(tick)
    pump.meanwhile = lambda: member._lose({slot_of(member)})
    await member._load(dict(member._slots.wanted), None)
    assert not member.deals(link("a/1").host) and driver.claim() == []
    await member._settle_slots()
    await member._reconcile(tick)
    await member._load(dict(member._slots.wanted), None)
    driver.now += REST
    assert len(driver.claim()) == 1 and member.look().held == 256


@pytest.mark.parametrize("ends", ["nobody wants it any more", "the store cannot be written"])
async def test_rows_that_are_not_read_to_their_end_are_closed_where_they_are_read(made, monkeypatch, ends) -> None:
    """That may wait for the database as long as reading them may: the loop has leases to guard."""
    member, pump, driver = made
    closed_in: list[str] = []

    def load(slot, rows_max):
        try:
            while True:
                yield 1, []
        finally:
            closed_in.append(threading.current_thread().name)

    monkeypatch.setattr(driver.copy.truth, "load", load)
    await member._reconcile(driver.copy.truth.tick([]))
    if ends == "nobody wants it any more":
        member._lose({7})
    else:
        pump.failure = StorageError("no space left")
    with ThreadPoolExecutor(1, "loader") as loader:
        assert await member._load_slot(7, loader) is None
    assert closed_in == ["loader_0"]


async def test_what_was_searched_for_a_lost_disk_is_not_remembered_for_ever(made) -> None:
    member, pump, _ = made
    pump.revive = lambda which: asyncio.sleep(0, 0)
    lost = member._lost_disks
    lost.told(frozenset((77,)))
    for epoch in range(1, 5):
        held = {(slot, epoch) for slot in range(256)}
        assert lost.are_left(held)
        while await lost.search(held):
            ...
        assert not lost.are_left(held)
    assert len(lost._searched) == 256


async def test_a_member_that_is_declared_lost_while_another_is_searched_for_is_searched_for_as_well(made) -> None:
    member, pump, driver = made
    lost, files = member._lost_disks, []
    driver.copy.truth.marks_of = lambda members: {b"mark:%d" % one: encode(Mark(1)) for one in members}

    async def revive(which) -> int:
        files.append((which.slot, sorted(which.files)))
        lost.told(frozenset((7, 8)))
        return 0

    pump.revive = revive
    lost.told(frozenset((7,)))
    while await lost.search({(1, 1), (2, 1)}):
        ...
    assert files == [(1, ["7"]), (1, ["7", "8"]), (2, ["7", "8"])]
    lost.lost([2])
    assert lost.are_left({(2, 1)}), "it may have been lost in the middle of it"


async def test_only_what_has_come_is_looked_through_for_a_lost_disk(made) -> None:
    member, pump, driver = made
    slots = []
    driver.copy.truth.marks_of = lambda members: {b"mark:x": encode(Mark(1))}

    async def revive(which) -> int:
        slots.append(which.slot)
        return 0

    pump.revive = revive
    member._lost_disks.told(frozenset((7,)))
    for held in ({(1, 1), (2, 1)}, {(1, 1), (2, 1), (3, 1)}, {(1, 1), (3, 2)}):
        while await member._lost_disks.search(held):
            ...
    assert slots == [1, 2, 3, 3]


async def test_it_is_told_who_leases_a_host(made) -> None:
    member, _, driver = made
    assert member.lessee(link("a/1").host) is None
    await member._reconcile(driver.copy.truth.tick([]))
    lessee = member.lessee(link("a/1").host)
    assert (lessee.is_own, lessee.node) == (True, str(driver.copy.node))


def test_a_node_whose_disk_stays_low_wants_no_slots_and_one_that_is_paused_keeps_its_own() -> None:
    room = Room()
    assert room.wants_slots({Pause.USER}, 0) and room.wants_slots({Pause.USER}, 1000)
    assert room.wants_slots({Pause.DISK_LOW}, 1001) and room.wants_slots({Pause.DISK_LOW}, 1060)
    assert not room.wants_slots({Pause.DISK_LOW, Pause.DATABASE}, 1061)
    assert room.wants_slots({Pause.DATABASE}, 1062)
    assert room.wants_slots({Pause.DISK_LOW}, 1063)


async def test_what_was_written_ahead_of_a_commit_is_true_before_its_slot_is_given_up(made) -> None:
    member, pump, driver = made
    await member._reconcile(driver.copy.truth.tick([]))
    await member._load(dict(member._slots.wanted), None)
    driver.now += REST
    driver.settle(driver.claim_one("a/1"), done())
    driver.store.order(RecrawlOrder(driver.now, driver.now + 99))
    assert driver.store.fulfil(1000) == 1
    member._slots.leave([slot_of(member)])
    pump.holdings.slots_out = lambda slot_of: set()
    await member._settle_slots()
    assert not member.deals(link("a/1").host)
    driver.commit([link("b/1")])
    [(state,)] = rows(driver.url, "SELECT state FROM member")
    assert rows(driver.url, "SELECT count(*) FROM work WHERE family = 0") == [(decode_state(state).counts.waiting,)] == [(2,)]


async def test_a_node_whose_disk_stays_low_waits_for_its_disk_and_not_for_the_database(made) -> None:
    member, pump, driver = made
    pauses = {Pause.DISK_LOW}
    pump.frontier = SimpleNamespace(pauses=pauses, resume=pauses.discard, pause=pauses.add)
    pump.holdings.slots_out = lambda slot_of: set()
    for now, wants in ((0, True), (61, False)):
        assert member._room.wants_slots(pauses, now) == wants
        await member._reconcile(driver.copy.truth.tick([], wants))
        await member._load(dict(member._slots.wanted), None)
        await member._settle_slots()
        assert (member.look().held > 0) == wants
    assert pauses == {Pause.DISK_LOW}
    pump.failure = RemoteError("the database is away")
    member._pace()
    assert pauses == {Pause.DISK_LOW, Pause.DATABASE}


async def test_pages_of_a_slot_that_is_to_be_loaded_are_told_of_until_it_is_its_turn(made, monkeypatch) -> None:
    """Readers ask for them, and the process may be killed before, or the slot be another's."""
    member, pump, driver = made
    mirror, links = driver.copy.mirror, [link(f"{host}/1") for host in "abcdef"]
    driver.copy.hold(driver.now)
    driver.commit(links[1:])
    driver.now += REST
    driver.commit(settled=[(lease, done()) for lease in driver.claim()])
    mirror.drop(list(mirror.epochs))
    mirror._notes.clear()  # others have had them

    def load(slot, rows_max):
        raise RemoteError("gone")
        yield

    monkeypatch.setattr(driver.copy.truth, "load", load)
    pump.failed = lambda error: None
    await member._reconcile(driver.copy.truth.tick([]))
    with ThreadPoolExecutor(1, "loader") as loader:
        await member._load(dict(member._slots.wanted), loader)
    gone = [link for link in links if driver.store.lookup(link.url) is None]
    assert 0 < len(gone) < len(links)


async def test_a_member_whose_lease_has_run_out_sends_again_what_it_has_sent(made) -> None:
    """Others took it for dead, and did not tell it what they have forgotten meanwhile."""
    member, pump, driver = made
    sent = member._outbox._parcels._sent
    sent[b"key"] = 1
    pump.out_long, pump.frontier.bench = list, SimpleNamespace(deals_until=0.0)
    for until, is_known in ((driver.now, True), (driver.now - 0.01, False)):
        member._until = until
        keeping = asyncio.create_task(member._keep())
        while member._until == until:
            await asyncio.sleep(0.01)
        keeping.cancel()
        assert (member._outbox._parcels._sent.get(b"key") == 1) is is_known


async def test_others_are_told_at_once_that_urls_are_forgotten_or_else_with_the_next_tick(made) -> None:
    """Up to a second later they sent no link to these that they had sent before: a page that was visited again as soon as the
    response had come brought hardly any of them back."""
    member, pump, driver = made
    tick = driver.copy.truth.tick([])
    other = replace(tick.members[0], number=tick.members[0].number + 1)
    tick = replace(tick, members=(*tick.members, other))
    told = []
    driver.copy.truth.send = lambda member, message: told.append((member, message_of(1, message).forgets))
    await member.has_forgotten()
    assert not told, "nobody is known yet"
    await member._reconcile(tick)
    assert told == [(other.number, True)]
    await member.has_forgotten()
    assert told == [(other.number, True)] * 2
    pump.failure = RemoteError("away")
    await member.has_forgotten()
    pump.failure = None
    await member._reconcile(tick)
    await member._reconcile(tick)
    assert told == [(other.number, True)] * 3
