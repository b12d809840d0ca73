"""The truth on a real PostgreSQL: fences, leases, and what a member that was cut off leaves behind."""

from __future__ import annotations

import contextlib
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import psycopg
import pytest
from support.postgres import emptied, postgres, rows
from support.waiting import wait_until
from support.wire import wire

from crawler.cli.cluster_command import cluster
from crawler.config import Config
from crawler.core.errors import ConfigError, RemoteError, StorageError
from crawler.crawl.membership import identity_of, join
from crawler.frontier.cluster import schema
from crawler.frontier.cluster.overview import declare_lost, look
from crawler.frontier.cluster.postgres import LOAD_BYTES_MAX, PostgresTruth, open_crawl
from crawler.frontier.cluster.session import Address, connect, storage_error
from crawler.frontier.cluster.truth import Changes
from crawler.frontier.rocksdb.layout import URL_RULES, StoreState, encode
from crawler.frontier.store import Counts

LEASE_S = 2.0
T = TypeVar("T")


@pytest.fixture
def url() -> str:
    return emptied()


@contextlib.contextmanager
def member(url: str, name: str, lease_s: float = LEASE_S) -> Iterator[PostgresTruth]:
    address = Address(url)
    _, secret = open_crawl(address, lease_s, "{}")
    directory = uuid.uuid5(uuid.NAMESPACE_URL, name)
    truth = PostgresTruth(address, lease_s, directory, directory, secret)
    with contextlib.closing(truth):
        yield truth


def patiently(ask: Callable[[], T]) -> T:
    """A member has no more patience than its lease is long: where that is short, a database that stalls is asked again."""
    until = time.monotonic() + 60
    while True:
        try:
            return ask()
        except RemoteError:
            if time.monotonic() > until:
                raise


def changes(commits: int = 0, slots: dict[int, int] | None = None, **fields) -> Changes:
    whole = {"known": [], "known_gone": [], "work": [], "work_gone": [], "own": [], "own_gone": []} | fields
    return Changes(commits, b"state", slots or {}, **whole)


def test_the_clock_of_all_is_the_databases_however_late_it_is_looked_at(tmp_path: Path) -> None:
    """A node that took half a second to open would else have hosts visited half a second early by the next one."""
    url = postgres().url()
    membership = join(Config(output=str(tmp_path), cluster=url), tmp_path, 0)
    try:
        time.sleep(0.5)
        before = membership.now
        [(there,)] = rows(url, "SELECT extract(epoch FROM clock_timestamp())::float8")
        assert before - 0.05 < there < membership.now + 0.05
    finally:
        membership.mirror.leave()


def test_the_clock_of_all_is_not_before_what_was_committed_by_it(url: str, tmp_path: Path) -> None:
    """The database's clock was set back by an hour: else a host that was visited before would rest for an hour at a new node."""
    with member(url, "a") as a:
        number = a.join(seeding=False).number
        was = time.time() + 3600
        rows(url, "UPDATE member SET state = %s WHERE id = %s", encode(StoreState(1, was, was, Counts())), number)
    rows(url, "UPDATE crawl SET identity = %s", json.dumps(identity_of(Config())))
    membership = join(Config(output=str(tmp_path), cluster=url), tmp_path, 0)
    try:
        assert was - 1 < membership.now < was + 60
    finally:
        membership.mirror.leave()
        rows(url, "UPDATE crawl SET identity = '{}'")


def test_slots_are_shared_out_evenly_and_given_back(url: str) -> None:
    with member(url, "a", 60) as a, member(url, "b", 60) as b:
        assert a.join(seeding=True).held == {}
        first = a.tick([])
        assert len(first.held) == 256 and not first.surplus and first.is_member
        b.join(seeding=False)
        assert b.tick([]).held == {}
        again = a.tick([])
        assert len(again.surplus) == 128
        a.release({slot: again.held[slot] for slot in again.surplus})
        got = b.tick([])
        assert got.held.keys() == again.surplus and not got.heired
        assert all(epoch == 2 for epoch in got.held.values())
        a.leave()
        assert len(b.tick([]).held) == 256
        assert {view.is_alive for view in b.tick([]).members} == {True, False}


@pytest.mark.parametrize("members", [3, 17])
def test_however_many_members_there_are_each_has_its_share(url: str, members: int) -> None:
    """The last of 17 had nothing, as 16 had 16 each: it read no list, and the crawl never ended."""
    with contextlib.ExitStack() as stack:
        all_of_them = [stack.enter_context(member(url, str(n), 60)) for n in range(members)]
        held: list[int] = []
        for turn in range(2 * members):
            if turn < members:
                all_of_them[turn].join(seeding=False)
            held = []
            for one in all_of_them[: turn + 1]:
                tick = one.tick([])
                one.release({slot: tick.held[slot] for slot in tick.surplus})
                held.append(len(tick.held) - len(tick.surplus))
        assert sum(held) == 256 and max(held) - min(held) == 1


def test_who_wants_no_slots_gives_all_back_and_the_others_share_them(url: str) -> None:
    with member(url, "a", 60) as a, member(url, "b", 60) as b:
        number = a.join(seeding=True).number
        b.join(seeding=False)
        a.tick([])
        b.tick([])
        low = a.tick([], False)
        assert low.surplus == low.held.keys() and len(low.held) > 0
        assert next(view.is_alive for view in b.tick([]).members if view.number == number), "it holds them still"
        a.release(low.held)
        assert a.tick([], False).held == {}
        assert len(b.tick([]).held) == 256
        assert a.tick([]).held == {}, "it is counted from now on"
        high = b.tick([])
        b.release({slot: high.held[slot] for slot in high.surplus})
        assert len(a.tick([]).held) == 128


def test_slots_that_were_given_up_before_they_were_got_again_are_kept(url: str) -> None:
    """What was sent by a session that was given up here may come to the database late."""
    with member(url, "a", 60) as a:
        a.join(seeding=False)
        before = a.tick([]).held
        held = a.join(seeding=False).held
        a.release(before)
        assert rows(url, "SELECT count(*) FROM slot WHERE owner IS NOT NULL") == [(256,)]
        a.release({7: held[7]})
        assert rows(url, "SELECT id FROM slot WHERE owner IS NULL") == [(7,)]


def test_a_commit_is_made_by_its_owner_only_whole_and_once(url: str) -> None:
    with member(url, "a", 60) as a, member(url, "b", 60) as b:
        a.join(seeding=True)
        held, number = a.tick([]).held, b.join(seeding=False).number
        row = (5, 0, b"\5key", b"value")
        a.commit(changes(0, {5: held[5]}, known=[row], own=[(b"mark:x", b"1")], boxes=[(number, b"to b")], seeds_ended=True))
        assert rows(url, "SELECT slot, key, value FROM known") == [(5, b"\5key", b"value")]
        [(message, data)] = b.receive([], 9)
        assert data == b"to b" and b.receive([message], 9) == []
        for wrong in (
            changes(0, {5: held[5]}),  # an earlier commit, once more
            changes(1, {5: held[5] - 1}),  # by an epoch that is over
            changes(1, {4: held[4], 5: held[5], 6: held[6] - 1}),  # of one slot among those that are held
            changes(1, {}, taken=[message]),  # a message for another
        ):
            wrong.known = [(5, 0, b"\5wrong", b"")]
            with pytest.raises(RemoteError) as told:
                a.commit(wrong)
            assert told.value.at_once
        with pytest.raises(RemoteError):
            b.commit(changes(0, {5: held[5], 6: held[6]}))  # of slots of which it holds none
        assert not a.end().is_seeding and a.end().has_messages
        assert rows(url, "SELECT count(*) FROM known") == [(1,)]
        a.commit(changes(1, {5: held[5]}, known_gone=[(5, 0, b"\5key")]))
        assert rows(url, "SELECT count(*) FROM known") == [(0,)]
        b.commit(changes(0, taken=[message]))
        assert not a.end().has_messages


def test_the_client_says_nothing_of_its_own_where_slots_are_lost(url: str, caplog: pytest.LogCaptureFixture) -> None:
    with member(url, "a", 60) as a:
        a.join(seeding=False)
        held = a.tick([]).held
        with pytest.raises(RemoteError):
            many = [(5, 0, b"%d" % n, b"x" * 1000) for n in range(4000)]  # the answer comes before all is sent
            a.commit(changes(0, {5: held[5] - 1}, known=many, work=many))
    assert not caplog.messages


def test_rows_arrive_as_they_were(url: str) -> None:
    values = [b"", b"\0", bytes(range(256)), b"x" * 70_000]
    known = [(slot, slot % 5, b"%d" % slot, values[slot % len(values)]) for slot in range(256)]
    with member(url, "a", 60) as a:
        a.join(seeding=True)
        held = a.tick([]).held
        a.commit(changes(0, held, known=list(known)))
        assert sorted(rows(url, "SELECT slot, family, key, value FROM known")) == known
        a.commit(changes(1, held, known_gone=[row[:3] for row in known[1:]]))
        assert rows(url, "SELECT slot, family, key, value FROM known") == known[:1]


def test_no_more_of_a_slot_is_loaded_at_a_time_than_memory_is_planned_for(url: str) -> None:
    """Hosts may have robots rules of 500 KB each, and stand in one slot."""
    with member(url, "a", 60) as a:
        rows(url, "INSERT INTO work SELECT 5, 3, int4send(n), %s FROM generate_series(1, 40) AS n", bytes(500_000))
        loaded = [some for _, some in a.load(5, 5000)]
        assert sum(map(len, loaded)) == 40
        assert max(sum(len(value) for *_, value in some) for some in loaded) < LOAD_BYTES_MAX + 500_000


def test_a_list_may_have_a_path_that_no_index_takes(url: str) -> None:
    path = b"position:/" + b"".join(uuid.uuid5(uuid.NAMESPACE_URL, str(n)).hex.encode() + b"/" for n in range(120))
    with member(url, "a", 60) as a:
        a.join(seeding=True)
        a.commit(changes(0, own=[(b"mark:x", b"1"), (path, b"before"), (path + b"2", b"other")]))
        a.commit(changes(1, own=[(path, b"line 7")], own_gone=[path + b"2"]))
        assert a.join(seeding=False).own == {b"mark:x": b"1", path: b"line 7"}


def test_what_is_more_than_the_server_takes_is_final(url: str) -> None:
    long = b"".join(uuid.uuid5(uuid.NAMESPACE_URL, str(n)).bytes for n in range(300))
    with member(url, "a", 60) as a:
        held = a.join(seeding=True) and a.tick([]).held
        with pytest.raises(StorageError, match="index row size") as told:
            a.commit(changes(0, {5: held[5]}, known=[(5, 0, long, b"")]))
        assert told.value.final and not isinstance(told.value, RemoteError)


def test_a_process_that_another_has_followed_commits_nothing(url: str) -> None:
    with member(url, "a", 60) as before, member(url, "a", 60) as after:
        before.join(seeding=True)
        held = before.tick([]).held
        before.commit(changes(0, {7: held[7]}))
        joined = after.join(seeding=True)
        assert joined.commits == 1 and joined.state == b"state" and joined.held == dict.fromkeys(range(256), 2)
        with pytest.raises(RemoteError):
            before.commit(changes(1, {7: held[7]}))
        assert before.tick([]).held == {}
        after.commit(changes(1, {7: 2}))


def test_a_process_that_another_has_followed_learns_of_it_and_takes_nothing_back(url: str) -> None:
    """Both are at work: a directory was copied, or is used by two machines."""
    with member(url, "a", 60) as before, member(url, "a", 60) as after:
        before.join(seeding=False)
        assert len(before.tick([]).held) == 256
        after.join(seeding=False)
        assert not before.tick([]).is_member
        with pytest.raises(StorageError, match="another process has joined as this node") as told_of:
            before.join(seeding=False)
        assert told_of.value.final
        before.leave()
        assert len(after.tick([]).held) == 256, "they are not the first one's to give up"


def test_a_join_that_was_made_and_not_answered_is_nobody_elses(url: str) -> None:
    with member(url, "a", 60) as a:
        a.join(seeding=False)
        number = a._joins_unanswered
        a._follow(a._incarnation, lost=False)  # what is left of a join that was made without an answer
        rows(url, "UPDATE member SET incarnation = incarnation + 1")
        a.join(seeding=False)
        assert a.tick([]).is_member and a._joins_unanswered == number == 0


def test_no_process_begins_while_another_is_at_work_as_the_same_member(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with member(url, "a") as before, member(url, "a") as after:
        after.check_alone()
        before.join(seeding=False)
        before.tick([])
        after.check_alone()  # it is heard of no more
        stopped = threading.Event()

        def live() -> None:
            while not stopped.wait(LEASE_S / 100):  # far more often than it must, for a machine that stalls
                before.tick([])

        before.tick([])
        thread = threading.Thread(target=live)
        thread.start()
        try:
            with pytest.raises(ConfigError, match="a node has one directory"):
                after.check_alone()
        finally:
            stopped.set()
            thread.join()
        before.leave()
        with monkeypatch.context() as patch:
            patch.setattr(time, "sleep", lambda seconds: pytest.fail("one that has left is waited for"))
            after.check_alone()


def test_a_member_declared_lost_while_it_was_frozen_takes_no_slot_when_it_is_thawed(url: str) -> None:
    with member(url, "a") as a:
        a.join(seeding=False)
        assert len(a.tick([]).held) == 256
        rows(url, "UPDATE member SET seen = seen - interval '1 hour'")
        [node] = rows(url, "SELECT node::text FROM member")
        declare_lost(Address(url), LEASE_S, *node)
        thawed = a.tick([])
        assert thawed.held == {} and not thawed.is_member
        with pytest.raises(ConfigError, match="was declared lost"):
            a.join(seeding=False)


def test_a_node_without_a_name_is_none(url: str) -> None:
    """As in a script whose variable is empty: every name begins so."""
    with member(url, "a", 60) as a:
        a.join(seeding=False)
        rows(url, "UPDATE member SET seen = seen - interval '1 hour'")
        with pytest.raises(ConfigError, match="which node is lost"):
            cluster(["lost", "", url])
        assert rows(url, "SELECT lost FROM member") == [(False,)]


def test_a_node_that_has_left_has_left_though_it_once_had_more_processes(url: str) -> None:
    address, node = Address(url), uuid.uuid4()
    _, secret = open_crawl(address, LEASE_S, "{}")
    for part, ends in ((0, False), (1, False), (0, True)):  # killed, and begun again with one process
        with contextlib.closing(PostgresTruth(address, LEASE_S, uuid.uuid5(node, str(part)), node, secret)) as truth:
            truth.join(seeding=False)
            rows(url, "UPDATE member SET seen = seen - interval '1 hour' WHERE dir <> %s", uuid.uuid5(node, str(part)))
            if ends:
                truth.leave()
    assert [node.state for node in look(address, LEASE_S).nodes] == ["left"]
    rows(url, "UPDATE member SET here = true, seen = seen - interval '1 hour'")
    assert [node.state for node in look(address, LEASE_S).nodes] == ["gone"]


def test_slots_of_a_member_cut_off_inside_a_transaction_become_free(url: str) -> None:
    with member(url, "a") as a, member(url, "b") as b:
        number = a.join(seeding=True).number
        held = dict(sorted(a.tick([]).held.items()))
        session = connect(Address(url), LEASE_S)
        with contextlib.closing(session):
            fence = {"slots": list(held), "epochs": list(held.values()), "id": number}
            session.execute("BEGIN")
            session.execute(schema.FENCE_SLOTS, fence)  # and is heard of no more: its locks stay as long as its session
            b.join(seeding=False)
            wait_until(lambda: len(b.tick([]).held) == 256)


def test_slots_of_a_member_frozen_while_it_sends_a_commit_become_free(url: str) -> None:
    """Its machine answers for the connection; and to wait for the rest of a commit is neither to be idle nor to run."""
    with member(url, "a") as a, member(url, "b") as b, contextlib.closing(connect(Address(url), LEASE_S)) as session:
        number = a.join(seeding=True).number
        held = dict(sorted(a.tick([]).held.items()))
        with contextlib.suppress(psycopg.OperationalError), session.pipeline():
            session.execute("BEGIN")
            session.execute(schema.FENCE_SLOTS, {"slots": list(held), "epochs": list(held.values()), "id": number})
            b.join(seeding=False)
            assert not b.tick([]).held, "its lease holds"
            wait_until(lambda: len(b.tick([]).held) == 256)


def test_a_commit_of_a_node_with_a_longer_lease_is_given_that_long(url: str) -> None:
    with member(url, "a", 60) as a, member(url, "b", 0.5) as b, contextlib.closing(connect(Address(url), 60)) as session:
        number = a.join(seeding=True).number
        held = dict(sorted(a.tick([]).held.items()))
        patiently(lambda: b.join(seeding=False))
        with session.pipeline():
            session.execute("BEGIN")
            session.execute(schema.FENCE_SLOTS, {"slots": list(held), "epochs": list(held.values()), "id": number})
            time.sleep(1)
            patiently(b._end_stalled)
            session.execute("COMMIT")


def test_a_join_waits_for_a_commit_of_the_process_before_that_is_under_way(url: str) -> None:
    with member(url, "a", 60) as before, member(url, "a", 60) as after:
        number = before.join(seeding=True).number
        before.tick([])
        with contextlib.closing(connect(Address(url), 60)) as session:
            fence = {"state": b"late", "ended": False, "id": number, "inc": 1, "commits": 0}
            session.execute("BEGIN")
            session.execute(schema.FENCE_MEMBER, fence)
            joined = []
            joining = threading.Thread(target=lambda: joined.append(after.join(seeding=True)))
            joining.start()
            wait_until(lambda: rows(url, "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'") == [(1,)])
            assert not joined
            session.execute("COMMIT")
            joining.join()
        assert (joined[0].commits, joined[0].state) == (1, b"late")


def test_a_schema_of_a_newer_version_or_of_other_rules_is_refused(url: str) -> None:
    with member(url, "a", 60):
        pass
    rows(url, "UPDATE crawl SET schema = 99")
    with pytest.raises(StorageError, match="newer version"):
        open_crawl(Address(url), LEASE_S, "{}")
    rows(url, "UPDATE crawl SET schema = %s, url_rules = 99", schema.SCHEMA)
    with pytest.raises(StorageError, match="URL rules 99"):
        open_crawl(Address(url), LEASE_S, "{}")
    rows(url, "UPDATE crawl SET url_rules = %s", URL_RULES)


def test_all_leases_of_a_member_end_at_one_moment_and_the_member_with_them(url: str) -> None:
    """An heir would else get some of its slots in one tick and the others in the next, and be told twice of what is of none."""
    with member(url, "a") as a:
        a.join(seeding=False)
        for _ in range(2):
            a.tick([])
            [(ends, is_members)] = rows(
                url, "SELECT count(DISTINCT until), bool_and(until = seen + make_interval(secs => 2)) FROM slot, member"
            )
            assert (ends, is_members) == (1, True)


def test_who_takes_slots_over_is_told_of_what_their_owner_was_at_and_who_comes_back_too(url: str) -> None:
    out = [b"\x05link", b"\x06link", b"\xc8link", b"robots:o"]
    with member(url, "a") as a, member(url, "b") as b, member(url, "a", 60) as again:
        a.join(seeding=False)
        a.tick(out)
        b.join(seeding=False)
        got: dict[int, list[bytes]] = {}

        def has_all() -> bool:
            tick = b.tick([])
            got.update(tick.accused)
            return len(tick.held) == 256

        wait_until(has_all)
        assert got == {0: [b"robots:o"], 5: [b"\x05link"], 6: [b"\x06link"], 200: [b"\xc8link"]}
        joined = again.join(seeding=False)
        assert (joined.held, joined.out_long) == ({}, out)
        assert again.join(seeding=False).out_long == [], "it has been told"


@pytest.mark.parametrize("what", ["tick", "commit", "load"])
def test_a_response_that_never_comes_ends_the_session(url: str, what: str, monkeypatch) -> None:
    """The connection stands, and all that is sent is taken: what lies between has not learnt that the server is gone."""
    monkeypatch.setattr("crawler.frontier.cluster.session.LOAD_PATIENCE_S", 0.5)
    server = postgres().port
    with wire(server) as between, member(url.replace(f":{server}/", f":{between.port}/"), "a", 0.5) as a:
        patiently(lambda: a.join(seeding=False))
        patiently(lambda: list(a.load(1, 9)))
        between.down = lambda data: b""
        with pytest.raises(RemoteError, match="no response for"):
            {"tick": lambda: a.tick([]), "commit": lambda: a.commit(changes()), "load": lambda: list(a.load(1, 9))}[what]()
        between.down = lambda data: data
        if what != "load":  # what was asked meanwhile does not wait for another session, one after the other
            with pytest.raises(RemoteError, match="no response for"):
                a.tick([])
        assert patiently(lambda: (a.join(seeding=False), a.tick([]))[1]).is_member
        assert patiently(lambda: list(a.load(1, 9))) == []


def test_whether_there_is_anything_of_a_slot_is_told_by_the_index_alone(url: str) -> None:
    """Where all is in a few slots, a table is read to its end for each of the others, else."""
    full = "INSERT INTO known SELECT i %% 4, 0, decode(md5(i::text), 'hex'), '' FROM generate_series(1, 20000) AS i"
    with member(url, "a", 60) as a:
        rows(url, full)
        rows(url, "INSERT INTO work VALUES (9, 0, 'key', '')")
        rows(url, "ANALYZE known, work")
        assert a.filled(range(256)) == [0, 1, 2, 3, 9]
    plan = "".join(line for (line,) in rows(url, f"EXPLAIN {schema.FILLED}", list(range(256))))
    assert "Seq Scan on known" not in plan and "known_pkey" in plan


@contextlib.contextmanager
def read_only(url: str) -> Iterator[None]:
    """Meanwhile no new session of the crawler may write, as on a standby."""
    setting = "ALTER ROLE crawler {} default_transaction_read_only"
    rows(url, setting.format("SET") + " = on")
    try:
        yield
    finally:
        with psycopg.connect(url.partition("?")[0], options="-c default_transaction_read_only=off", autocommit=True) as own:
            own.execute(setting.format("RESET"))


def test_a_database_that_takes_no_writes_just_now_is_one_that_is_not_to_be_had(url: str) -> None:
    with member(url, "a", 60) as a:
        held = a.join(seeding=True) and a.tick([]).held
        a.close()
        with read_only(url):
            for asked in (lambda: a.join(seeding=False), lambda: a.tick([]), lambda: a.commit(changes(0, {5: held[5]}))):
                with pytest.raises(RemoteError, match="read-only") as told:
                    asked()
                assert not told.value.at_once
        a.join(seeding=False)


def test_a_transaction_that_waited_for_its_node_for_too_long_is_made_again(url: str) -> None:
    with member(url, "a") as a:
        a.join(seeding=True)
        session = connect(Address(url), LEASE_S)
        with contextlib.closing(session):
            session.execute("BEGIN")
            time.sleep(LEASE_S / 2)  # the server ends it after a third of a lease
            with pytest.raises(psycopg.Error) as told_of:
                session.execute("SELECT 1")
    assert isinstance(storage_error(Address(url), told_of.value), RemoteError)
