"""What a node of a cluster tells of its own rows and files, though its working copies are not all there, or not all used."""

from __future__ import annotations

import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path

from support.clusters import HOSTS, Cluster, hold, tree, url_of
from support.db_proxy import Proxy
from support.postgres import postgres, rows
from support.programs import command
from support.waiting import wait_until
from support.webs import Answer, Web, redirect

from crawler.frontier.cluster.lost_disks import is_safe
from crawler.frontier.rocksdb.layout import decode_mark

PAGES = 120


def test_rows_of_the_last_commit_of_a_node_that_was_killed_are_final_though_another_has_the_hosts(
    tmp_path: Path,
) -> None:
    web, server, go_on = tree(PAGES), postgres(), threading.Event()
    hold(web, after=60, until=go_on)
    cluster = Cluster(tmp_path, server.url())
    with cluster.running(), web.running(), Proxy(server.port).running() as proxy:
        try:
            through = cluster.url.replace(f":{server.port}/", f":{proxy.port}/")
            cluster.begin("a", url_of(web, 1), url=through)
            wait_until(lambda: len(web.visits) > 5)
            proxy.faults.append("answer")
            wait_until(lambda: proxy.done)
            cluster.kill_all_of("a")
            cluster.begin("b")
            wait_until(lambda: cluster.is_shared("b"))
            cluster.begin("a", "--grace", "1s", url=through)
            wait_until(lambda: cluster.slots_of("a"))
            assert cluster.drain("a") == 5
        finally:
            go_on.set()
        cluster.wait("b")
    cluster.check(web, PAGES)
    told = [command("results", "--final", str(cluster.directory(name))) for name in "ab"]
    rows = [json.loads(line) for one in told for line in one.stdout.splitlines()]
    assert sorted(row["canonical"] for row in rows) == sorted(url_of(web, n) for n in range(1, PAGES + 1))


def test_a_line_that_redirects_to_a_host_of_another_node_has_a_final_row(tmp_path: Path) -> None:
    """The node that has the page does not know of the redirect, which is the other's."""
    web, go_on, lines = tree(4), threading.Event(), tmp_path / "lines"
    pages = web.default

    def answer(host: str, path: str) -> Answer:
        if path.startswith("/r"):
            return redirect(url_of(web, int(path[2:]) * 7))
        return replace(pages(host, path), until=lambda: path != "/4" or go_on.is_set())

    web.default = answer
    cluster = Cluster(tmp_path, postgres().url())
    with cluster.running(), web.running():
        lines.write_text("".join(f"{web.url(HOSTS[n % 40], f'/r{n}')}\n" for n in range(101, 141) if n % 40 != 4))
        try:
            cluster.begin("a", url_of(web, 1))
            wait_until(lambda: cluster.is_shared("a"))
            cluster.begin("b", "-i", str(lines))
            wait_until(lambda: cluster.counts().outcomes.get("redirect") == 39)
        finally:
            go_on.set()
        cluster.wait()
    told = [command("results", "--final", str(cluster.directory(name))) for name in "ab"]
    final = [json.loads(line) for one in told for line in one.stdout.splitlines()]
    assert sorted(row["input"]["line"] for row in final if row["input"] and row["kind"] == "redirect") == list(range(1, 40))


def held_twice() -> tuple[Web, threading.Event, threading.Event]:
    """A tree of which all but the first page comes after the first event, and what is behind 60 pages after the second."""
    web, shared, go_on = tree(PAGES), threading.Event(), threading.Event()
    pages = web.default

    def answer(host: str, path: str) -> Answer:
        until = {1: None}.get(n := int(path[1:]), shared if n <= 60 else go_on)
        return replace(pages(host, path), until=until.is_set if until else None)

    web.default = answer
    return web, shared, go_on


def test_a_node_that_has_fewer_processes_than_before_tells_of_their_files_that_are_not_stored(tmp_path: Path) -> None:
    web, shared, go_on = held_twice()
    cluster = Cluster(tmp_path, postgres().url())

    def begin(processes: int) -> None:
        stored = ("--store-url", f"file://{tmp_path}/store", "--grace", "1s")
        cluster.begin("a", url_of(web, 1), "--processes", str(processes), *stored)

    def marks() -> list[tuple[int, bytes]]:
        return rows(cluster.url, "SELECT member, value FROM own WHERE substring(key FROM 1 FOR 5) = 'mark:'")

    with cluster.running(), web.running():
        try:
            begin(2)
            wait_until(lambda: cluster.is_shared(a=2) and rows(cluster.url, "SELECT count(DISTINCT owner) FROM slot") == [(2,)])
            shared.set()
            wait_until(lambda: len({member for member, _ in marks()}) == 2)
            cluster.kill_all_of("a")
            begin(1)
            wait_until(lambda: "begin it once with --processes 2" in cluster.said("a"))
            assert cluster.drain("a") == 5
            begin(2)
        finally:
            shared.set()
            go_on.set()
        cluster.wait()
    assert all(is_safe(decode_mark(value)) for _, value in marks()) and len(marks()) >= 6


def test_rows_that_a_process_had_written_before_a_power_cut_are_told_though_the_node_has_fewer_now(tmp_path: Path) -> None:
    """A working copy is not synced: it may be as it was minutes ago, and so may the lengths of files that it knows."""
    web, shared, go_on = held_twice()
    cluster = Cluster(tmp_path, postgres().url())
    copy, before = cluster.directory("a") / "frontier" / "part-01", tmp_path / "before"
    with cluster.running(), web.running():
        try:
            cluster.begin("a", url_of(web, 1), "--processes", "2", "--grace", "1s")
            wait_until(lambda: cluster.is_shared(a=2))
            shared.set()
            wait_until(lambda: cluster.counts().outcomes.get("ok", 0) >= 30)  # those that stand behind later ones must wait
            assert cluster.drain("a") == 5
            shutil.copytree(copy, before)
        finally:
            shared.set()
            go_on.set()
        cluster.begin("a", url_of(web, 1), "--processes", "2")
        cluster.wait()
        shutil.rmtree(copy)
        shutil.move(before, copy)
        cluster.begin("a", url_of(web, 1), "--processes", "1")
        cluster.wait()
        wanted = sorted(url_of(web, n) for n in range(1, PAGES + 1))
        for told in (command("results", str(cluster.directory("a"))), command("results", "--final", str(cluster.directory("a")))):
            assert sorted(json.loads(line)["canonical"] for line in told.stdout.splitlines()) == wanted
        assert command("verify", str(cluster.directory("a"))).returncode == 0
        cluster.begin("a", url_of(web, 1), "--processes", "2")
        cluster.wait()
    cluster.check_counts()
