"""What a node of a cluster tells of its own rows, though its working copy is not all there."""

from __future__ import annotations

import json
import threading
from pathlib import Path

from support.clusters import Cluster, hold, tree, url_of
from support.db_proxy import Proxy
from support.postgres import postgres
from support.programs import command
from support.waiting import wait_until

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
            cluster.begin("a", url=through)
            wait_until(lambda: cluster.is_shared("a", "b"))
            assert cluster.drain("a") == 5
        finally:
            go_on.set()
        cluster.wait("b")
    cluster.check(web, PAGES)
    told = [command("results", "--final", str(cluster.directory(name))) for name in "ab"]
    rows = [json.loads(line) for one in told for line in one.stdout.splitlines()]
    assert sorted(row["canonical"] for row in rows) == sorted(url_of(web, n) for n in range(1, PAGES + 1))
