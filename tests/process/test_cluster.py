"""``run --cluster``: one crawl on several nodes, each a process here, over one PostgreSQL; each may be killed, frozen or cut off
at any time, and so may the database.

CLUSTER_PAGES=20000 pytest -s -m slow tests/process/test_cluster.py    crawls that many pages
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import re
import signal
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

import pytest
from support.clusters import SETTINGS, Cluster, check_spacing, hold, tree, url_of
from support.crews import kill, wait_for_parts
from support.db_proxy import Proxy
from support.postgres import PASSWORD, postgres, rows
from support.programs import command, port_of_its_own, rows_of
from support.waiting import wait_until
from support.webs import Answer

from crawler.config import Config
from crawler.crawl import files
from crawler.crawl.membership import join
from crawler.crawl.wiring import open_crawl

PAGES = int(os.environ.get("CLUSTER_PAGES", "1200"))


IS_NOTED = "SELECT 1 FROM member WHERE cardinality(out_long) > 0 AND node::text = %s"
"""A node has told of visits that have been out for long."""


@pytest.fixture
def cluster(tmp_path: Path):
    cluster = Cluster(tmp_path, postgres().url())
    with cluster.running():
        yield cluster


def test_a_node_joins_one_is_killed_and_one_drains(cluster: Cluster) -> None:
    pages = min(PAGES, 700)
    cluster.lease_s = 4.0  # one that drains while its lease has run out may not commit: exit 3
    web = tree(pages)
    with web.running():
        cluster.begin("a", url_of(web, 1), "--rate", "5")  # slow: the crawl must outlast all this
        wait_until(lambda: len(web.visits) > 10)
        cluster.begin("b", "--rate", "5")
        cluster.begin("c", "--rate", "5")
        wait_until(lambda: cluster.is_shared("a", "b", "c"))
        cluster.kill("b")
        wait_until(lambda: cluster.is_shared("a", "c"))
        assert cluster.drain("c") == 5
        wait_until(lambda: cluster.is_shared("a"))
        assert cluster.drain("a") == 5
        for name in "abc":
            cluster.begin(name, *([url_of(web, 1)] if name == "a" else []))
        cluster.wait()
        cluster.check(web, pages)


@pytest.mark.parametrize("listed", [(), ("http://h.test/",)])
def test_only_a_node_that_has_a_list_holds_up_the_end_until_it_is_read(cluster: Cluster, tmp_path: Path, listed) -> None:
    config = Config(output=str(tmp_path), cluster=cluster.url, urls=listed)
    joined = join(config, tmp_path, 0)
    assert rows(cluster.url, "SELECT seeding FROM member") == [(bool(listed),)]
    joined.mirror.leave()


@pytest.mark.slow
def test_a_frozen_node_loses_its_slots_and_takes_its_share_again(cluster: Cluster) -> None:
    web = tree(PAGES)
    with web.running():
        cluster.begin("a", url_of(web, 1), "--rate", "60")
        cluster.begin("b", "--rate", "60")
        wait_until(lambda: cluster.is_shared("a", "b") and len(web.visits) > 50)
        cluster.nodes["b"].send_signal(signal.SIGSTOP)
        wait_until(lambda: cluster.is_shared("a"))
        cluster.nodes["b"].send_signal(signal.SIGCONT)
        wait_until(lambda: cluster.is_shared("a", "b"))
        cluster.wait()
        cluster.check(web, PAGES)
    assert "has run out" in cluster.said("b")


@pytest.mark.slow
def test_the_database_is_killed_and_comes_back(cluster: Cluster) -> None:
    web = tree(PAGES)
    server = postgres()
    with web.running():
        cluster.begin("a", url_of(web, 1), "--rate", "60")
        cluster.begin("b", "--rate", "60")
        wait_until(lambda: cluster.is_shared("a", "b") and len(web.visits) > 50)
        server.kill()
        try:
            wait_until(lambda: "waits for database" in cluster.said("a") and "waits for database" in cluster.said("b"))
            visits = len(web.visits)
            time.sleep(cluster.lease_s)
            assert len(web.visits) <= visits + 1
        finally:
            server.start()
        cluster.wait()
        cluster.check(web, PAGES)


@pytest.mark.slow
def test_a_failover_that_loses_commits_ends_the_nodes_and_they_go_on_when_they_are_begun_again(cluster: Cluster) -> None:
    """What they have sent each other is among what is lost."""
    web = tree(400)
    server = postgres()
    with web.running():
        cluster.begin("a", url_of(web, 1), "--rate", "40")
        cluster.begin("b", "--rate", "40")
        wait_until(lambda: cluster.is_shared("a", "b") and len(web.visits) > 40)
        server.kill()
        server.keep()
        server.start()
        visits = len(web.visits)
        wait_until(lambda: len(web.visits) > visits + 60)
        server.kill()
        server.go_back()
        server.start()
        assert [cluster.nodes[name].wait(60) for name in "ab"] == [3, 3]
        assert "has lost commits" in cluster.said("a")
        for name in "ab":
            cluster.begin(name)
        cluster.wait()
        cluster.check(web, 400)


def test_a_process_that_dies_while_the_database_is_gone_is_begun_again_when_it_is_back(cluster: Cluster) -> None:
    web, is_back = tree(120), threading.Event()
    hold(web, after=40, until=is_back)
    server = postgres()
    with web.running():
        node = cluster.begin("a", url_of(web, 1), "--rate", "40", "--processes", "2")
        wait_until(lambda: cluster.is_shared(a=2) and len(web.visits) > 20)
        server.kill()
        try:
            kill(wait_for_parts(node.pid, 2)[0])
            wait_until(lambda: "is begun again when the database is there" in cluster.said("a"))
            time.sleep(1.5)
        finally:
            server.start()
            is_back.set()
        cluster.wait()
        cluster.check(web, 120)


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_node_begun_again_while_the_database_is_away_waits_for_it(cluster: Cluster, processes: str) -> None:
    web, server, port = tree(1), postgres(), port_of_its_own()
    arguments = ("--listen", f"127.0.0.1:{port}", "--processes", processes)

    def health(path: str) -> tuple[int, str]:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def is_alive() -> bool:
        with contextlib.suppress(OSError):  # it listens once it has said why it waits
            return health("/livez") == (200, "ok\n")
        return False

    with web.running():
        cluster.begin("a", *arguments, command="serve")
        wait_until(lambda: "control API on port" in cluster.said("a"))
        assert cluster.drain("a") == 0
        server.kill()
        try:
            cluster.begin("a", *arguments, command="serve")
            wait_until(lambda: "the crawl is opened when it is there" in cluster.said("a"))
            wait_until(is_alive)
            assert health("/readyz") == (503, "waits for database\n")
            status, problem = health("/v1/status")
            assert (status, json.loads(problem)["detail"]) == (503, "the crawl is not open yet: it waits for database; try again")
            assert cluster.drain("a") == 0, "a signal ends it as ever"
            cluster.begin("b", url_of(web, 1))
            assert cluster.nodes["b"].wait(30) == 3, "one that has never been in the crawl may have the wrong URL"
            cluster.begin("b", url_of(web, 1))
            assert cluster.nodes["b"].wait(30) == 3
            cluster.begin("a", *arguments, command="serve")
            wait_until(lambda: cluster.said("a").count("the crawl is opened when it is there") == 2)
        finally:
            server.start()
        wait_until(lambda: cluster.said("a").count("control API on port") == 2)
        wait_until(lambda: health("/readyz") == (200, "ok\n"))
        assert cluster.drain("a") == 0


@pytest.mark.slow
def test_a_commit_without_an_answer_was_made_or_was_not(cluster: Cluster) -> None:
    web = tree(PAGES)
    with web.running(), Proxy(postgres().port).running() as proxy:
        through = cluster.url.replace(f":{postgres().port}/", f":{proxy.port}/")
        cluster.begin("a", url_of(web, 1), "--rate", "60", url=through)
        wait_until(lambda: len(web.visits) > 50)
        proxy.faults += ["answer", "commit", "answer", "commit"]
        wait_until(lambda: not proxy.faults)
        cluster.begin("b")
        cluster.wait()
        assert proxy.done == ["answer", "commit", "answer", "commit"]
        cluster.check(web, PAGES)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_all_at_random(cluster: Cluster, tmp_path: Path) -> None:
    seed = int(os.environ.get("CLUSTER_SEED", time.time_ns() % 1_000_000))
    rng, seconds = random.Random(seed), float(os.environ.get("CLUSTER_S", "120"))
    print(f"CLUSTER_SEED={seed}")
    pages, server, delay = int(seconds * 100), postgres(), 0.1
    web = tree(pages)
    names = ["a", "b", "c", "d"]
    done: Counter[str] = Counter()
    with web.running(), contextlib.ExitStack() as stack:
        proxies = {name: stack.enter_context(Proxy(server.port).running()) for name in names}

        def begin(name: str) -> None:
            seeds = ("-i", str(lists[name]))
            through = cluster.url.replace(f":{server.port}/", f":{proxies[name].port}/")
            cluster.begin(name, *seeds, "--rate", "60", "--processes", "2", "--delay", "100ms", url=through)

        lists = {}
        for at, name in enumerate(names):  # which share half of their lines with the next one's
            lists[name] = tmp_path / f"{name}.txt"
            lists[name].write_text("".join(f"{url_of(web, n)}\n" for n in range(1 + 50 * at, 101 + 50 * at)))
            begin(name)
        wait_until(lambda: len(web.visits) > 50)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            what, name = rng.choice(["kill", "drain", "freeze", "cut", "answer", "commit", "database"]), rng.choice(names)
            done[what] += 1
            if what == "kill":
                cluster.kill_all_of(name)
            elif what == "drain":
                cluster.drain(name)
            elif what == "freeze":
                cluster.freeze(name, rng.uniform(0, 3 * cluster.lease_s))
            elif what == "cut":
                proxies[name].cut()
                time.sleep(rng.uniform(0, 3 * cluster.lease_s))
                proxies[name].heal()
            elif what == "database":
                server.kill()
                time.sleep(rng.uniform(0, 2))
                server.start()
            else:
                proxies[name].faults.append(what)
            time.sleep(rng.uniform(0, 2 * cluster.lease_s))
            if cluster.nodes[name].poll() is not None:
                begin(name)
        for proxy in proxies.values():
            proxy.faults.clear()
        for name in names:
            if cluster.nodes[name].poll() not in (None, 0):
                begin(name)
        cluster.wait(seconds=300)
        print(done, f"{pages} pages, {len(web.visits) - pages} visits again")
        cluster.check(web, pages)
        check_spacing(web, delay)
    for name in names:
        lines = Counter((row["input"]["list"], row["input"]["line"]) for row in cluster.rows() if row["input"] and row["final"])
        assert [lines[str(lists[name]), line] for line in range(1, 101)] == [1] * 100


def status_of(cluster: Cluster) -> dict:
    told = command("cluster", "status", "--json", "--cluster", cluster.url, "--cluster-lease", f"{cluster.lease_s}s")
    assert told.returncode == 0, told.stderr
    return json.loads(told.stdout)


def test_what_a_lost_disk_held_is_visited_again_by_another_node(cluster: Cluster) -> None:
    web, pages, was_refused = tree(40), 40, threading.Event()
    hold(web, after=8, until=was_refused)
    cluster.lease_s = 15.0  # it is alive, and is not taken for dead where the machine stalls
    where = ("--cluster", cluster.url, "--cluster-lease", "15s")
    with web.running():
        cluster.begin("a", url_of(web, 1), url_of(web, 1))
        wait_until(lambda: len(web.visits) > 5)
        alive = command("cluster", "lost", cluster.node_of("a"), *where)
        assert alive.returncode == 2 and "less than a lease ago" in alive.stderr
        was_refused.set()
        cluster.wait()
        seen = status_of(cluster)
        [node] = seen["nodes"]
        assert (node["state"], node["done"], seen["waiting"], seen["known"]) == ("left", pages, 0, pages)
        assert node["only_here_files"] == 3 and node["only_here_bytes"] > 0
        lost = command("cluster", "lost", node["node"][:6], *where)
        assert lost.returncode == 0 and "3 files were only there" in lost.stderr
        assert "rows of 1 listed lines that are no new URL" in lost.stderr
        cluster.begin("b")
        cluster.wait("b")
        again = rows_of(cluster.directory("b"))
        assert sorted(row["canonical"] for row in again) == sorted(url_of(web, n) for n in range(1, pages + 1))
        assert {row["attempt"] for row in again} == {2}
        assert {node["state"] for node in status_of(cluster)["nodes"]} == {"lost", "left"}
        refused = cluster.begin("a", url_of(web, 1))
        assert refused.wait(30) == 2 and "was declared lost" in cluster.said("a")
    table = command("cluster", "status", cluster.url, "--cluster-lease", "15s")
    assert "lost" in table.stdout and PASSWORD not in table.stdout
    for wrong in (("status", cluster.url), ("status", "a"), ("lost",), ("lost", "a", "b")):
        refused = command("cluster", *wrong, *where)
        assert refused.returncode == 2 and PASSWORD not in refused.stdout + refused.stderr


def test_a_line_of_a_lost_nodes_list_has_one_final_row_where_another_is_given_the_list(cluster: Cluster, tmp_path: Path) -> None:
    web, listed = tree(1), tmp_path / "list"
    with web.running():
        listed.write_text("".join(f"{url_of(web, n)}\n" for n in range(2, 32)))
        cluster.begin("a", "-i", str(listed), "--depth", "0")
        cluster.wait()
        where = ("--cluster", cluster.url, "--cluster-lease", "2s")
        assert command("cluster", "lost", cluster.node_of("a"), *where).returncode == 0
        with listed.open("a") as more:
            more.write(f"{url_of(web, 2)}\n{url_of(web, 40)}\n")
        cluster.begin("b", "-i", str(listed), "--depth", "0")
        cluster.wait("b")
    lines = Counter(row["input"]["line"] for row in rows_of(cluster.directory("b")) if row["final"])
    assert lines == dict.fromkeys(range(1, 33), 1)


def test_a_node_that_differs_is_refused_and_so_is_a_directory_begun_otherwise(cluster: Cluster) -> None:
    web = tree(3)
    with web.running():
        cluster.begin("a", url_of(web, 1))
        cluster.wait()
        other = cluster.begin("b", "--politeness-by", "domain")
        assert other.wait(30) == 2
        assert "politeness_by: this crawl was begun with 'host'" in cluster.said("b") and "?schema=" in cluster.said("b")
    alone = command("run", "-o", str(cluster.directory("a")), *SETTINGS)
    assert alone.returncode == 2 and "is a node of a cluster: give --cluster" in alone.stderr
    assert command("retry", str(cluster.directory("a"))).returncode == 2
    assert len(command("results", str(cluster.directory("a"))).stdout.splitlines()) == 3
    assert len(command("results", "--final", str(cluster.directory("a"))).stdout.splitlines()) == 3
    assert command("verify", str(cluster.directory("a"))).returncode == 0
    text = (cluster.directory("a") / "crawl.toml").read_text()
    assert PASSWORD not in text and "***@127.0.0.1" in text


def test_the_password_is_told_nowhere(tmp_path: Path) -> None:
    port = port_of_its_own()
    url = f"postgresql://someone:{PASSWORD}@127.0.0.1:{port}/crawls?schema=x"
    for told in (
        command("run", "http://127.0.0.1:1/", "-o", str(tmp_path / "a"), "--cluster", url),
        command("cluster", "status", "--cluster", url),
        command("config", "show", "--cluster", f"{url}&password={PASSWORD}"),
        command("run", "http://127.0.0.1:1/", "-o", str(tmp_path / "b"), "--cluster", f"mysql://x:{PASSWORD}@y"),
        command("run", "http://127.0.0.1:1/", "-o", str(tmp_path / "b"), "--cluster", url.replace("=x", "=X-Y")),
        command("run", "http://127.0.0.1:1/", "-o", str(tmp_path / "c"), "--cluster", url + "&sslmode=perhaps"),
    ):
        assert PASSWORD not in told.stdout + told.stderr
        assert told.stderr or "***" in told.stdout


async def test_a_node_that_takes_longer_than_a_lease_to_open_suspects_what_has_ended_it(cluster: Cluster, monkeypatch) -> None:
    web = tree(2)
    whole = web.default
    web.default = lambda host, path: Answer(hang=True) if path == "/2" else whole(host, path)
    with web.running():
        cluster.begin("a", url_of(web, 1))
        wait_until(lambda: any(visit.path == "/2" for visit in web.visits))
        wait_until(lambda: rows(cluster.url, IS_NOTED, cluster.node_of("a")))
        cluster.kill("a")
    opened = files._open_store

    def slowly(*arguments):
        store = opened(*arguments)
        rows(cluster.url, "UPDATE slot SET until = clock_timestamp()")
        return store

    monkeypatch.setattr(files, "_open_store", slowly)
    settings = {"output": str(cluster.directory("a")), "cluster": cluster.url, "depth": 99, "scope": "any"}
    async with open_crawl(Config(**settings)) as crawl:
        assert crawl.pump.member.look().held == 0
        assert len(crawl.pump.member._mirror.accused) == 1


@pytest.mark.slow
def test_a_link_that_ends_its_node_is_given_up_after_three(cluster: Cluster) -> None:
    web = tree(40)
    whole = web.default
    web.default = lambda host, path: Answer(hang=True) if path == "/7" else whole(host, path)
    with web.running():
        poison = url_of(web, 7)
        for turn, name in enumerate(["a", "b", "c"], 1):
            cluster.begin(name, *([url_of(web, 1)] if name == "a" else []))
            wait_until(lambda turn=turn: sum(visit.path == "/7" for visit in web.visits) == turn)
            wait_until(lambda name=name: rows(cluster.url, IS_NOTED, cluster.node_of(name)))
            cluster.kill(name)
        cluster.begin("d")
        cluster.wait("d")
    ends = {row["canonical"]: (row["outcome"], row["reason"], row["attempt"]) for row in cluster.rows()}
    assert ends[poison] == ("skipped", "crashed", 4)
    assert sum(end[0] == "ok" for end in ends.values()) == 33, "14, 15 and those below them are found on it alone"


def test_daemons_of_the_cluster_tell_of_the_whole_crawl_and_take_seeds_for_it(cluster: Cluster) -> None:
    web, port = tree(60), port_of_its_own()
    cluster.lease_s = 15.0  # no slot changes hands where the machine stalls
    with web.running():
        cluster.begin("a", "--listen", f"127.0.0.1:{port}", "--processes", "2", command="serve")
        cluster.begin("b", "--listen", f"127.0.0.1:{port_of_its_own()}", command="serve")
        wait_until(lambda: cluster.is_shared("b", a=2))
        where = ("--listen", f"127.0.0.1:{port}")
        assert command("add", url_of(web, 1), *where).returncode == 0

        def status() -> dict:
            return json.loads(command("status", "--json", *where).stdout)

        def is_done(told: dict) -> bool:
            """A machine that stalls for longer than the lease pauses its parts for a moment: that it runs is waited for."""
            return (told["done"], told["state"]) == (60, "running")

        wait_until(lambda: is_done(status()))
        told = status()
        assert (told["known"], told["outcomes"]) == (60, {"ok": 60})
        metrics = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
        assert f'crawler_cluster_slots{{state="held"}} {cluster.slots_of("a")}.0' in metrics
        done = float(re.search(r'crawler_frontier_urls{state="done"} (\S+)', metrics)[1])
        assert 0 < done < 60, "of what this node has counted"
        refused = command("checkpoint", str(cluster.directory("a")), str(cluster.root / "copy"), *where)
        assert refused.returncode != 0 and "back up the crawl's database" in refused.stderr
        check_whose(cluster, port, [url_of(web, n) for n in range(1, 41)])
        for name in "ab":
            assert cluster.drain(name) == 0
    assert Counter(row["canonical"] for row in cluster.rows() if row["outcome"] == "ok").keys() == {
        url_of(web, n) for n in range(1, 61)
    }


def test_a_directory_of_another_crawl_holds_up_no_end(cluster: Cluster) -> None:
    web = tree(5)
    with web.running():
        cluster.begin("a", url_of(web, 1))
        cluster.wait()
        cluster.url = postgres().url()
        cluster.begin("b", url_of(web, 1))
        cluster.wait("b")
        assert cluster.begin("a", url_of(web, 1)).wait(30) == 3 and "is of another crawl" in cluster.said("a")
        cluster.begin("b", url_of(web, 1))
        cluster.wait("b")
    assert [node["state"] for node in status_of(cluster)["nodes"]] == ["left"]


def test_a_node_that_is_begun_again_with_fewer_processes_tells_of_what_the_others_have_counted(cluster: Cluster) -> None:
    web = tree(60)
    with web.running():
        for processes in ("2", "1"):
            cluster.begin("a", url_of(web, 1), "--processes", processes)
            cluster.wait()
    assert cluster.said("a").count("\n60 of 60 URLs settled") == 2


def check_whose(cluster: Cluster, port: int, urls: list[str]) -> None:
    """Whichever process of the node ``a`` leases a host is the one that is asked; of any other host, ``b`` is named."""

    def asked(path: str, body: dict | None = None) -> tuple[int, dict]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    told = {url: asked(f"/v1/urls?url={url}")[1] for url in urls}
    here = [url for url in urls if told[url]["leased_by"]["is_here"]]
    there = next(url for url in urls if url not in here)
    assert told[there]["leased_by"]["node"] == cluster.node_of("b")
    for url in here[:8]:
        assert told[url]["state"] == "done"
        assert asked("/v1/retry", {"url": url}) == (200, {"count": 1})
    status, problem = asked("/v1/retry", {"url": there})
    assert status == 409 and cluster.node_of("b") in problem["detail"]
    said = command("why", there, "--data", str(cluster.directory("a"))).stdout
    assert "this node tells what it last knew of it" in said and "never admitted" not in said
