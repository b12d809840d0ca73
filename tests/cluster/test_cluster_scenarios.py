"""What a cluster must live through, each blow alone, and all of them at random; judged at the web and by what is on the disks.

CLUSTER_MINUTES=10 CLUSTER_SEED=7 pytest -m slow -s tests/cluster/test_cluster_scenarios.py -k random
"""

from __future__ import annotations

import os
import random
import shutil
import time
from datetime import datetime

import pytest
from support.cluster_bench import bench, faketime, figures, pages_for, random_blows, rows_in, wait_for
from support.cluster_net import reason_not
from support.judged_web import visits_of

from crawler.config.sections import Config

MINUTES = float(os.environ.get("CLUSTER_MINUTES", "10"))
SEED = os.environ.get("CLUSTER_SEED", str(time.time_ns() % 1_000_000))
LEASE_S = 3.0
MONOTONIC = {"FAKETIME_DONT_FAKE_MONOTONIC": "1", "FAKETIME_FORCE_MONOTONIC_FIX": "0"}
"""libfaketime leaves that clock alone, and waits by it too: else the interpreter waits an hour for its lock, or not at all."""

pytestmark = [
    pytest.mark.skipif(reason_not() is not None, reason=str(reason_not())),
    pytest.mark.skipif("cluster" not in Config.fields, reason="no --cluster in this version"),
    pytest.mark.timeout(600),
]


def crawling(made, nodes, **options):
    """So many nodes, each of which has visited something."""
    for _ in range(nodes):
        made.add(**options)
    for node in made.nodes:
        made.start(node)
    made.until_all_crawl()
    return made.nodes


@pytest.mark.slow
def test_a_node_that_is_killed_is_replaced_and_comes_back(tmp_path):
    with bench(tmp_path, pages=900, hosts=30, lease_s=5.0) as made:  # a machine that stalls for 4 s is no fault
        first, _ = crawling(made, 2)
        assert made.taken_over(first, made.kill(first)) < 2 * made.lease_s
        made.finish()
        assert made.faults() == []


# -- each alone -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("returns", [True, False])
def test_kill(tmp_path, returns):
    with bench(tmp_path, pages=2500, parts=2, lease_s=LEASE_S) as made:
        nodes = crawling(made, 5)
        assert made.taken_over(nodes[2], made.kill(nodes[2])) < 2 * LEASE_S
        if returns:
            made.start(nodes[2])
            made.until_all_crawl(nodes[2])
        made.finish()
        assert made.faults() == []


@pytest.mark.slow
def test_a_node_joins_and_one_drains_and_shares_are_even(tmp_path):
    with bench(tmp_path, pages=3000, parts=2, lease_s=LEASE_S) as made:
        nodes = crawling(made, 3)
        made.start(joined := made.add())
        made.until_all_crawl(joined)
        shares = "SELECT count(*) FROM slot WHERE until > clock_timestamp() GROUP BY owner"
        wait_for("shares are even", lambda: sorted(made.database.rows(shares)) == [(32,)] * 8)
        assert made.drain(nodes[0]) == 5, "stopped early: the same command continues"
        since = time.monotonic()
        made.taken_over(nodes[0], since)
        wait_for("shares are fair", lambda: max(made.database.rows(shares)) == (43,) and len(made.database.rows(shares)) == 6)
        made.finish()
        assert made.faults() == []


@pytest.mark.slow
@pytest.mark.parametrize("ends", [False, True])
def test_cut_off_from_the_database_inside_a_transaction(tmp_path, ends):
    """The trap: a session that is gone keeps the locks of its slots, unless its settings end it. ``ends``: the others end the
    crawl before the victim is back, which then ends as well."""
    hosts = 20
    with bench(tmp_path, pages=pages_for(15.0 if ends else 45.0, hosts), hosts=hosts, parts=1, lease_s=LEASE_S) as made:
        victim = crawling(made, 4, pinched=True)[1]
        made.pinch(victim, "half")
        assert made.taken_over(victim, made.cut(victim, "db")) < 2 * LEASE_S
        seen = made.visits_by(victim)
        time.sleep(2 * LEASE_S)
        if ends:
            wait_for("the others have ended the crawl", lambda: [node for node in made.nodes if node.runs] == [victim], 120.0)
        assert made.visits_by(victim) == seen, "it visits nothing that it does not hold"
        made.mend(victim, "db")
        if not ends:
            made.until_all_crawl(victim)
            assert made.visits_by(victim) > seen, "its share is its own again"
        made.finish()
        assert made.faults() == []


@pytest.mark.slow
def test_cut_off_from_the_web_only(tmp_path):
    with bench(tmp_path, pages=2500, parts=1, hosts=100, lease_s=LEASE_S) as made:
        victim = crawling(made, 4)[1]
        made.cut(victim, "web")
        time.sleep(4 * LEASE_S)
        made.mend(victim, "web")
        made.finish()
        assert made.faults() == [], "never a page's fate"


@pytest.mark.slow
def test_frozen_for_longer_than_the_lease(tmp_path):
    with bench(tmp_path, pages=2500, parts=2, lease_s=LEASE_S) as made:
        victim = crawling(made, 5)[3]
        assert made.taken_over(victim, made.freeze(victim)) < 2 * LEASE_S
        made.thaw(victim)
        made.until_all_crawl(victim)
        made.finish()
        assert made.faults() == []


@pytest.mark.slow
def test_the_database_is_killed_and_comes_back(tmp_path):
    with bench(tmp_path, pages=2500, parts=2, lease_s=LEASE_S) as made:
        crawling(made, 5)
        made.kill_database()
        time.sleep(LEASE_S)
        asked = [visit.begun for visit in visits_of(made.log)[0]]
        time.sleep(2 * LEASE_S)
        later = [visit for visit in visits_of(made.log)[0] if visit.begun > max(asked) + 1]
        assert not later, "nothing is visited that nobody holds"
        made.start_database()
        made.until_all_crawl()
        made.finish()
        assert made.faults() == []


@pytest.mark.slow
@pytest.mark.parametrize("what", ["answer", "request"])
def test_a_commit_whose_response_is_lost(tmp_path, what):
    """``answer``: it was committed. ``request``: it was not. Both are told apart, again and again."""
    with bench(tmp_path, pages=2000, parts=1, lease_s=LEASE_S) as made:
        victim = crawling(made, 3, pinched=True)[0]
        for _ in range(5):
            made.pinch(victim, what)
            made.until_all_crawl(victim)
        made.finish()
        assert made.faults() == []


@pytest.mark.slow
@pytest.mark.parametrize("offset", ["+1h", "-1h"])
def test_a_clock_that_is_an_hour_off(tmp_path, offset):
    library = faketime()
    if library is None:
        pytest.skip("no libfaketime here (Debian: libfaketime)")
    with bench(tmp_path, pages=1500, parts=1, lease_s=LEASE_S) as made:
        for _ in range(3):
            made.add()
        wrong = made.nodes[1]
        wrong.environ = {"LD_PRELOAD": str(library), "FAKETIME": offset, **MONOTONIC}
        for node in made.nodes:
            made.start(node)
        made.until_all_crawl()
        made.finish()
        assert made.faults() == []
        times = [
            datetime.fromisoformat(row["fetched_at"]).timestamp()
            for node in (wrong, made.nodes[0])
            for row in rows_in(next((node.directory / "results").iterdir()))[:1]
        ]
        assert 3000 < abs(times[0] - times[1]) < 4200, "it was off"


@pytest.mark.slow
@pytest.mark.parametrize("stores", [True, False])
def test_a_disk_is_lost(tmp_path, stores):
    """With a store, what was stored stays; without, all of it is fetched again. Nothing else is."""
    with bench(tmp_path, pages=2500, parts=1, lease_s=LEASE_S, stores=stores) as made:
        victim = crawling(made, 3)[2]
        wait_for("it has done something", lambda: made.visits_by(victim) > 150)
        if stores:
            wait_for("some of it is stored", lambda: len(made.stored_of(victim)) >= 6)
        fetched = {visit.path for visit in visits_of(made.log)[0] if visit.client == victim.address}
        made.kill(victim)
        made.lose_disk(victim)
        made.finish()
        assert made.faults() == []
        verdict = made.judged()
        assert verdict.again <= len(fetched) + 100
        if stores:
            assert verdict.again < len(fetched), "what was stored is not fetched again"


@pytest.mark.slow
def test_a_link_that_kills_whoever_visits_it(tmp_path):
    with bench(tmp_path, pages=1500, parts=1, lease_s=LEASE_S, poison=True) as made:
        nodes = {node.address: node for node in crawling(made, 3)}
        deaths = 0
        until = time.monotonic() + 120
        while deaths < 3:
            assert time.monotonic() < until, f"it was visited {deaths} times"
            warned = visits_of(made.log)[1]
            if len(warned) > deaths:
                made.kill(nodes[warned[deaths].client])
                deaths += 1
                made.start(nodes[warned[deaths - 1].client])
            time.sleep(0.02)
        made.finish()
        assert made.faults() == []
        assert len(visits_of(made.log)[1]) == 3, "it is visited three times, on whatever nodes"


@pytest.mark.slow
def test_two_die_at_once_and_the_last_one_goes_on_alone(tmp_path):
    with bench(tmp_path, pages=1500, parts=1, lease_s=LEASE_S) as made:
        nodes = crawling(made, 3)
        for node in nodes[:2]:
            made.kill(node)
        since = time.monotonic()
        assert made.taken_over(nodes[0], since) < 2 * LEASE_S and made.taken_over(nodes[1], since) < 2 * LEASE_S
        made.finish()
        assert made.faults() == []


@pytest.mark.slow
def test_a_backup_is_restored_as_deploy_says(tmp_path):
    """The database of an earlier moment, with files of a later one: working copies go, and the files are cut back."""
    with bench(tmp_path, pages=1500, parts=2, lease_s=LEASE_S) as made:
        nodes = crawling(made, 2)
        wait_for("something is done", lambda: sum(map(made.visits_by, nodes)) > 300)
        made.database.dump()
        wait_for("more is done", lambda: sum(map(made.visits_by, nodes)) > 700)
        for node in nodes:
            made.kill(node)
        made.database.restore()
        for node in nodes:
            for copy in (node.directory / "frontier").glob("part-*"):
                shutil.rmtree(copy)
        made.finish()
        assert made.faults() == []
        assert made.judged().again > 100, "it went back"


# -- all at random ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(600 + 240 * MINUTES)
def test_random_blows(tmp_path):
    print(f"CLUSTER_SEED={SEED}")
    hosts, began = 30, time.monotonic()
    with bench(tmp_path, pages=pages_for(MINUTES * 60, hosts), hosts=hosts, parts=2, lease_s=LEASE_S) as made:
        crawling(made, 5, pinched=True)
        dealt = random_blows(made, random.Random(SEED), MINUTES * 60, nodes_max=7)
        print(*made.told, sep="\n")
        made.finish(600 + 120 * MINUTES)
        print(figures(made, dealt, time.monotonic() - began))
        assert made.faults() == []
