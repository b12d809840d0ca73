"""A working copy: what is written here is true first, and what is true can be loaded anywhere."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest
from support.copies import Copy
from support.postgres import rows
from support.stores import REST, TIMEOUT, Driver, done, link, names, retry

from crawler.core.batch import FOREIGN, NEW
from crawler.core.errors import RemoteError, StorageError
from crawler.core.keys import SLOTS
from crawler.core.model import Mark
from crawler.frontier import Limits
from crawler.frontier.cluster import mirror
from crawler.frontier.cluster.accused import Accused
from crawler.frontier.cluster.box import message_of
from crawler.frontier.cluster.node import Node, NodeReader
from crawler.frontier.cluster.postgres import PostgresTruth
from crawler.frontier.recrawl import RecrawlOrder
from crawler.frontier.rocksdb.layout import FAMILIES, decode_host, decode_state
from crawler.frontier.selection import Selection


@pytest.fixture
def driver(tmp_path: Path):
    driver = Driver("cluster", tmp_path / "store", Limits(depth_limited=True, pages_per_host=50, queries_per_path=9))
    yield driver
    driver.store.close()


def crawled(driver: Driver) -> None:
    """Some links of every state."""
    driver.commit([link(f"h{n}/{n}?q={n}", depth=1) for n in range(40)], robots={"http://h1.test": b"rules"})
    for n, lease in enumerate(driver.claim(hosts=20, per_host=2)):
        outcome = [done(link(f"h{n}/new"), link(f"i{n}/new")), TIMEOUT, retry(0.5)][n % 3]
        driver.settle(lease, outcome)
    driver.store.set_suspects({lease.key: 1 for lease in driver.claim(hosts=3, per_host=1)})


def held_by(store) -> dict[tuple[str, bytes], bytes]:
    """All that is of slots."""
    database = store._database
    places = {(family, key): value for family in FAMILIES if family != "meta" for key, value in database.scan(family)}
    return places | {("meta", key): value for key, value in database.scan("meta", b"suspect:")}


def true_of(url: str) -> set[tuple[str, bytes]]:
    """The same of what is true, but for what follows from it."""
    families = [("known", {0: "seen", 1: "page"}), ("work", {0: "queue", 1: "host", 2: "due", 3: "robots"})]
    found = {table: rows(url, f"SELECT family, key FROM {table} WHERE family <> 4") for table, _ in families}
    return {(names[family], bytes(key)) for table, names in families for family, key in found[table]}


def check_counts(driver: Driver) -> None:
    """What is true and what it comes to are one."""
    [(state,)] = rows(driver.url, "SELECT state FROM member")
    counts = decode_state(state).counts
    hosts = [
        decode_host(value) for key, value in rows(driver.url, "SELECT key, value FROM work WHERE family = 1") if len(key) == 8
    ]
    queued = rows(driver.url, "SELECT count(*) FROM work WHERE family = 0")[0][0]
    assert counts.waiting == sum(lane.count for host in hosts for lane in host.lanes) == queued


def test_what_is_loaded_elsewhere_is_what_was_there(driver: Driver, tmp_path: Path) -> None:
    crawled(driver)
    before, sequence = held_by(driver.store), driver.store._ledger.sequence
    driver.store.close()
    driver.now += 100
    other = Copy(driver.url, tmp_path / "other", driver.limits, driver.now, lambda host: REST, name="b")
    assert held_by(other.store) == before and len(before) > 150
    assert other.store._ledger.sequence >= sequence - 1
    leases = other.store.claim(100, 1, driver.now, {})
    assert {lease.due for lease in leases} == {driver.now + REST}, "every host counts as just visited"
    assert sum(lease.suspect for lease in leases) == 3
    other.store.close()
    driver.store = driver.open()


def test_what_is_forgotten_before_slots_are_loaded_is_deleted_some_at_a_time(driver: Driver) -> None:
    crawled(driver)
    copied, sizes = driver.copy.mirror, []
    write = copied._base.write

    def written(batch, *, sync: bool) -> None:
        sizes.append(len(batch))
        write(batch, sync=sync)

    with patch.object(copied._base, "write", written), patch.object(mirror, "CLEARED_MAX", 8):
        copied.clear(range(SLOTS))
    assert held_by(driver.store) == {}
    assert len(sizes) > 3 and max(sizes[1:]) <= 8, "the first has the ranges as well"


def test_a_copy_is_used_again_unless_somebody_else_had_the_slot(driver: Driver, tmp_path: Path) -> None:
    crawled(driver)
    driver.store.close()
    with patch.object(PostgresTruth, "load", side_effect=AssertionError("nothing is to be loaded")):
        driver.store = driver.open()
    slot = next(iter(held_by(driver.store)))[1][0]
    driver.store.close()
    other = Copy(driver.url, tmp_path / "other", driver.limits, driver.now, lambda host: REST, name="b", held={slot})
    other.store.close()
    loaded = []
    load = PostgresTruth.load
    with patch.object(PostgresTruth, "load", lambda self, slot, rows: loaded.append(slot) or load(self, slot, rows)):
        driver.store = driver.open()
    filled = {row[0] for row in rows(driver.url, "SELECT DISTINCT slot FROM work")}
    assert set(loaded) == filled, "it had leased all of them"


@pytest.mark.parametrize("is_killed", [True, False])
def test_a_copy_is_of_no_use_where_a_failover_gave_its_epoch_to_another(driver: Driver, tmp_path: Path, is_killed) -> None:
    """The last that the standby did not get is that the slots were got."""
    driver.commit([link("a/1")])
    driver.reopen()
    mine = driver.copy
    rows(driver.url, "UPDATE slot SET owner = NULL, until = NULL, epoch = epoch - 1")
    rows(driver.url, "UPDATE member SET seen = seen - interval '1 hour'")
    other = Copy(driver.url, tmp_path / "other", driver.limits, driver.now, lambda host: REST, name="b")
    assert other.mirror.epochs == mine.mirror.epochs
    driver.store = other.store
    driver.commit([link("a/2")])
    other.store.close()
    if is_killed:
        dies(mine)
        driver.store = driver.open()
    else:
        driver.store = mine.store
        mine.store.rewind()
        mine.hold(driver.now)
    assert driver.store.lookup(link("a/2").url) == "waiting"
    assert len(driver.claim()) == 2


def commit_without_an_answer(*, was_made: bool):
    commit = PostgresTruth.commit

    def unanswered(self, changes):
        if was_made:
            commit(self, changes)
        self._drop()
        raise RemoteError("the answer was lost")

    return unanswered


@pytest.mark.parametrize("was_made", [True, False])
def test_after_a_commit_without_an_answer_nothing_is_written_until_it_is_looked_up(driver: Driver, was_made: bool) -> None:
    """Other calls may wait for the engine's thread, and come before the pump has heard of it."""
    crawled(driver)
    unanswered = commit_without_an_answer(was_made=was_made)
    store, every = driver.store, Selection(outcomes=frozenset({"timeout"}))
    prepared = driver.prepare([link("new/1")])
    with patch.object(PostgresTruth, "commit", unanswered), pytest.raises(RemoteError):
        store.revive_some(every)
    later: list[Callable[[], object]] = [
        lambda: store.revive_some(every),
        lambda: store.order(RecrawlOrder(driver.now, driver.now)),
        lambda: store.set_suspects({}),
        lambda: driver.make_true(prepared),
        lambda: driver.prepare([link("new/2")]),
        lambda: store.claim(100, 100, driver.now + 1000, {}),
    ]
    for call in later:
        with pytest.raises(RemoteError):
            call()
    store.rewind()
    assert store.revive_some(every).count == (0 if was_made else 7)
    check_counts(driver)
    assert held_by(store).keys() >= true_of(driver.url)


def test_nothing_is_written_ahead_while_it_is_not_known_whether_what_was_ahead_before_is_true(driver: Driver) -> None:
    driver.commit([link(f"h{n}/1") for n in range(4)])
    for lease, after in zip(driver.claim(), (1, 1, 9, 9), strict=True):
        driver.settle(lease, retry(after))
    driver.now += 2
    driver.claim(hosts=0)
    commit = PostgresTruth.commit

    def unanswered(self, changes):
        commit(self, changes)
        raise RemoteError("the answer was lost")

    with patch.object(PostgresTruth, "commit", unanswered), pytest.raises(RemoteError):
        driver.copy.mirror.catch_up()
    driver.now += 10
    with pytest.raises(RemoteError):
        driver.claim()
    driver.store.rewind()
    assert held_by(driver.store).keys() == true_of(driver.url) | {place for place in held_by(driver.store) if place[0] == "ready"}


@pytest.mark.parametrize("was_made", [True, False])
def test_a_commit_that_was_not_answered_is_looked_up(driver: Driver, was_made: bool) -> None:
    crawled(driver)
    unanswered = commit_without_an_answer(was_made=was_made)
    driver.now += 1
    before = driver.store.stats().known
    prepared = driver.prepare([link("new/1"), link("new/2")])
    with patch.object(PostgresTruth, "commit", unanswered), pytest.raises(RemoteError):
        driver.make_true(prepared)
    with patch.object(PostgresTruth, "load", side_effect=AssertionError("nothing is to be loaded")):
        driver.store.rewind()
        driver.copy.hold(driver.now)
    assert (driver.store.clock() == driver.now) == was_made
    assert driver.store.stats().known == before + 2 * was_made
    assert driver.store.lookup(link("new/1").url) == ("waiting" if was_made else None)
    driver.commit([link("new/3")])
    assert driver.store.lookup(link("new/3").url) == "waiting"


@pytest.mark.parametrize("lost", ["UPDATE member SET commits = commits - 1", "DELETE FROM member"])
def test_a_process_whose_commits_the_database_has_lost_ends(driver: Driver, lost: str) -> None:
    driver.commit([link("a/1")])
    driver.commit([link("a/2")])
    rows(driver.url, lost)
    for _ in range(2):
        with pytest.raises(StorageError, match="has lost commits") as told_of:
            driver.store.rewind()
        assert told_of.value.final
    driver.store.close()
    driver.store = driver.open()


def test_what_became_due_ahead_of_a_commit_is_true_with_it(driver: Driver, tmp_path: Path) -> None:
    driver.commit([link("a/1")])
    driver.settle(driver.claim_one("a/1"), retry(1.0))
    driver.now += 5
    assert names(driver.claim()) == ["a/1"]  # promoted here alone
    assert rows(driver.url, "SELECT family FROM work WHERE family IN (0, 2)") == [(2,)]
    driver.commit([link("b/1")])
    assert sorted(rows(driver.url, "SELECT family FROM work WHERE family IN (0, 2)")) == [(0,), (0,)]
    driver.now += 5
    driver.store.rewind()
    assert sorted(names(driver.claim())) == ["a/1", "b/1"]


@pytest.mark.parametrize(("bound", "most"), [("AHEAD_MAX", 12), ("AHEAD_BYTES_MAX", 600)])
def test_what_is_written_ahead_is_true_before_it_is_much(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, bound: str, most: int
) -> None:
    """Nothing else may be committed for long: in a pause, or while hosts rest."""
    monkeypatch.setattr(f"crawler.frontier.cluster.mirror.{bound}", most)
    driver.commit([link(f"h{n}/1") for n in range(30)])
    for after, lease in enumerate(driver.claim()):
        driver.settle(lease, retry(10.0 + after))
    began = driver.now
    for after in range(30):
        driver.now = began + 10.0 + after
        driver.claim()
        assert len(driver.copy.mirror._carried) < 12 + 5
    assert rows(driver.url, "SELECT count(*) FROM work WHERE family = 2")[0][0] < 5


def test_what_was_written_ahead_of_a_slot_that_is_lost_is_not_counted(driver: Driver) -> None:
    driver.commit([link("a/1")])
    lease = driver.claim_one("a/1")
    driver.settle(lease, done())
    driver.store.order(RecrawlOrder(driver.now, 9e9))
    assert driver.store.fulfil(1000) == 1 and driver.store.stats().waiting == 1
    mirror, slot = driver.copy.mirror, lease.key[0]
    epoch = mirror.epochs[slot]
    mirror.drop([slot])
    driver.store.slots_changed(0, {}, [slot])
    for refused in (lambda: mirror.kept({slot: epoch + 1}), lambda: driver.commit([link("b/1")])):
        with pytest.raises(RemoteError) as lost:
            refused()
        assert lost.value.at_once
    driver.store.rewind()
    assert driver.store.stats().waiting == 0 and len(driver.store.orders()) == 1


def test_links_of_slots_that_are_not_held_are_sent_and_nothing_of_them_is_settled(driver: Driver) -> None:
    driver.commit([link("a/1"), link("b/1")])
    lease = next(lease for lease in driver.claim() if lease.link.host == "a.test")
    mirror, slot = driver.copy.mirror, lease.key[0]
    with pytest.raises(RemoteError) as lost:
        prepared = driver.prepare((), [(lease, done())])
        mirror.drop([slot])
        driver.store.slots_changed(0, {}, [slot])
        driver.make_true(prepared)
    assert lost.value.at_once
    driver.store.rewind()
    mirror.drop([slot])
    mirror.route({at: 77 if at == slot else mirror.number for at in range(SLOTS)})
    prepared = driver.prepare([link("a/2"), link("b/2")])
    assert list(prepared.verdicts) == [FOREIGN, NEW]
    driver.copy.outbox.append(prepared)
    driver.make_true(prepared)
    driver.copy.outbox.committed()
    assert rows(driver.url, "SELECT dest FROM box") == [(77,)]
    with pytest.raises(RemoteError):
        driver.prepare((), [(lease, done())])


def test_a_working_copy_is_no_backup(driver: Driver, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="back up the crawl's database"):
        driver.store.copy_to(tmp_path / "copy")


def dies(copy: Copy) -> None:
    """Without a word to anybody."""
    copy.store._database.close()
    copy.truth.close()


def test_what_ended_a_process_is_counted_wherever_its_slot_is_by_then(driver: Driver, tmp_path: Path) -> None:
    """1. By the member that still has the slot, though it must be loaded. 2. By its heir, as the takeover tells. 3. By its owner,
    whom the member that comes back tells of what the heir could not know; and not of what it could."""
    driver.commit([link(f"h{n}/1") for n in range(40)])
    long, short = (lease.key for lease in driver.claim(hosts=2, per_host=1))
    driver.store.set_suspects({long: 1})
    dies(driver.copy)
    rows(driver.url, "UPDATE member SET out_long = %s", [long])
    rows(driver.url, "UPDATE slot SET until = clock_timestamp()")
    heir = Copy(driver.url, tmp_path / "heir", driver.limits, driver.now, lambda host: REST, name="b")
    assert heir.store.suspects() == {long: 2}
    back = Copy(driver.url, tmp_path / "store", driver.limits, driver.now, lambda host: REST, held=())
    back.store.set_suspects({long: 1, short: 1})  # what it finds on its disk
    assert short not in back.store.suspects()
    told = Accused(back.mirror, back.store)
    told.tell(dict.fromkeys(range(SLOTS), heir.mirror.number))
    [(id, data)] = heir.truth.receive([], 9)
    assert message_of(id, data).accused == [short]
    told.tell(dict.fromkeys(range(SLOTS), heir.mirror.number))
    assert len(heir.truth.receive([], 9)) == 1, "once"
    heir.accused.count([short])
    assert heir.store.suspects() == {long: 2, short: 1}
    heir.store.close()
    back.hold(driver.now, range(SLOTS))
    assert back.store.suspects() == {long: 2, short: 1}
    rows(driver.url, "UPDATE slot SET epoch = epoch + 5")  # what it has on disk is of no use
    dies(back)
    again = Copy(driver.url, tmp_path / "store", driver.limits, driver.now, lambda host: REST, held=())
    again.store.set_suspects({short: 1})
    again.hold(driver.now, range(SLOTS))
    assert again.store.suspects() == {long: 2, short: 2}
    again.store.close()
    driver.store = driver.open()


def test_whoever_reads_a_node_is_told_of_which_slots_its_copy_may_lag(tmp_path: Path) -> None:
    """Where it is whole, and does not know a page, that was removed."""
    path = tmp_path / "frontier"
    driver = Driver("cluster", path / "part-00")
    driver.make_true(driver.prepare([link("a/1")]), {"results/x": Mark(1)})
    slot = driver.copy.mirror.share.keys_by().host(link("a/1").host)[0]

    def lags() -> bool:
        with contextlib.closing(NodeReader(path, Node(driver.copy.node, by_domain=False))) as reader:
            return reader.lags("results/x", link("a/1").url)

    assert not lags()
    driver.copy.mirror.drop([slot])
    assert not lags(), "its copy stays as it was"
    driver.copy.mirror.clear([slot], [slot])
    assert lags(), "it is about to be loaded"
    driver.store.close()
