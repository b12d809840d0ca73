"""Several parts of a crawl, told as one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from crawler.core.snapshot import LongestHost, Snapshot
from crawler.core.sums import added, summed
from crawler.crawl.metrics import Readings
from crawler.frontier.cluster.gauges import Gauges
from crawler.frontier.parts_reader import total
from crawler.frontier.store import Counts
from crawler.resources.memory_budget import Use
from crawler.service.parts.merged import all_readings, whole, with_ended

numbers = st.integers(0, 100)
counts = st.builds(
    Counts, known=numbers, done=numbers, outcomes=st.dictionaries(st.sampled_from(["ok", "dns"]), st.integers(-5, 5))
)


@given(parts=st.lists(counts, max_size=4))
def test_totals_are_sums(parts: list[Counts]) -> None:
    told = total(parts)
    assert (told.known, told.done) == (sum(one.known for one in parts), sum(one.done for one in parts))
    for outcome in ("ok", "dns"):
        assert told.outcomes.get(outcome, 0) == sum(one.outcomes.get(outcome, 0) for one in parts)


def test_what_comes_to_nothing_is_left_out() -> None:
    assert summed([{"ok": 1, "dns": 2}, {"ok": -1}]) == {"dns": 2}


def test_what_is_no_number_must_be_told() -> None:
    parts = [Snapshot(at=1.0, state="running"), Snapshot(at=2.0, state="running")]
    with pytest.raises(TypeError):
        added(parts)


def test_a_whole_crawl_is_what_its_parts_are() -> None:
    host = LongestHost("a.test", 5, 1.0, 1)
    one = Snapshot(
        at=1.0,
        state="running",
        waits_for="politeness",
        known=3,
        outcomes={"ok": 2},
        statuses={"404": 1},
        failing_hosts=(("a.test", 2),),
    )
    two = Snapshot(
        at=2.0,
        state="paused",
        reading=True,
        known=4,
        outcomes={"ok": 1, "dns": 1},
        longest_host=host,
        failing_hosts=(("b.test", 3),),
        store_trouble="no room",
    )
    told = whole([one, two])
    assert (told.at, told.state, told.waits_for, told.reading, told.known) == (2.0, "running", "politeness", True, 7)
    assert (told.outcomes, told.statuses) == ({"ok": 3, "dns": 1}, {"404": 1})
    assert (told.longest_host, told.store_trouble) == (host, "no room")
    assert told.failing_hosts == (("b.test", 3), ("a.test", 2))
    assert whole([]).state == "opening" and whole([one], "draining").state == "draining"
    idle, cut_off = replace(one, waits_for="frontier"), replace(one, state="offline", waits_for="network")
    assert whole([idle, cut_off]).state == "offline" and whole([one, cut_off, idle]).state == "running"
    assert whole([idle, idle]).state == whole([replace(idle, in_flight=1), cut_off]).state == "running"


def test_readings_of_a_whole_crawl() -> None:
    one = Readings(
        state="running",
        urls={"done": 2},
        accounts={"bench": Use(1, 2, 3)},
        memory_state="high",
        commit_age=0.5,
        disk_free=7,
        upload_oldest=3.0,
        exchange_lag=9,
        descriptors_open=8,
        cpu_seconds=1.5,
        cluster=Gauges(held=2, lease_left_s=1.5),
    )
    two = Readings(
        urls={"done": 1, "waiting": 4}, accounts={"bench": Use(3, 4, 5)}, commit_age=0.1, disk_free=5, cluster=Gauges(held=1)
    )
    two = replace(two, descriptors_open=9, cpu_seconds=0.5)
    told = all_readings([one, two], "running", processes=2)
    assert (told.state, told.urls, told.accounts) == ("running", {"done": 3, "waiting": 4}, {"bench": Use(4, 6, 8)})
    assert (told.memory_state, told.commit_age, told.disk_free) == ("high", 0.5, 5)
    assert (told.upload_oldest, told.exchange_lag, told.processes, told.last_reload_successful) == (3.0, 9, 2, True)
    assert (told.descriptors_open, told.cpu_seconds) == (9, 2.0)
    assert told.cluster == Gauges(held=3, lease_left_s=0.0)
    assert all_readings([], "opening", processes=3).processes == 3


def test_what_is_counted_does_not_become_less_when_a_part_is_begun_again() -> None:
    accounts, events = {"bench": Use(9, 5, 2)}, {("dns", "hit"): 3}
    ended = Readings(
        cpu_seconds=2.0, bytes_written=7, cache_events=events, accounts=accounts, disk_free=1, cluster=Gauges(held=4, loads=2)
    )
    away = with_ended(Readings(disk_free=5), ended)
    assert (away.bytes_written, away.cache_events, away.disk_free) == (7, events, 5)
    assert (away.cpu_seconds, with_ended(Readings(cpu_seconds=1.0), ended).cpu_seconds) == (2.0, 3.0)
    assert (away.accounts, away.cluster) == ({"bench": Use(0, 0, 2)}, Gauges(loads=2))
    again = Readings(bytes_written=1, cache_events={("dns", "miss"): 1}, accounts=accounts, cluster=Gauges(held=3, loads=1))
    told = with_ended(again, ended)
    assert (told.bytes_written, told.cache_events) == (8, events | {("dns", "miss"): 1})
    assert (told.accounts, told.cluster) == ({"bench": Use(9, 5, 4)}, Gauges(held=3, loads=3))
