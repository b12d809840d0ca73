"""A node of a cluster whose database goes away while the node is being opened, or ended."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.clusters import Cluster, tree, url_of
from support.db_proxy import Proxy
from support.postgres import postgres
from support.waiting import wait_until


@pytest.mark.parametrize(("processes", "sessions"), [("1", 1), ("2", 4)])
def test_a_node_whose_database_goes_away_while_it_opens_waits_for_it(tmp_path: Path, processes: str, sessions: int) -> None:
    """Once it was seen to be there; or when one of the node's parts has joined."""
    web, server = tree(20), postgres()
    cluster = Cluster(tmp_path, server.url())
    with cluster.running(), web.running(), Proxy(server.port).running() as proxy:
        through = cluster.url.replace(f":{server.port}/", f":{proxy.port}/")
        arguments = (url_of(web, 1), "--processes", processes)
        cluster.begin("a", *arguments, url=through)
        cluster.wait()
        proxy.sessions_left = sessions
        cluster.begin("a", *arguments, url=through)
        wait_until(lambda: "the crawl is opened when it is there" in cluster.said("a"))
        assert cluster.drain("a") == 5, "a signal ends it as ever"
        proxy.sessions_left = sessions
        cluster.begin("a", *arguments, url=through)
        wait_until(lambda: cluster.said("a").count("the crawl is opened when it is there") == 2)
        proxy.sessions_left = None
        cluster.wait()


def test_a_node_that_is_ended_while_its_database_is_silent_asks_it_no_further(tmp_path: Path) -> None:
    """What was asked behind the commit that got no response waited for a connection, each by itself, and told of it by a
    traceback."""
    web, server = tree(500), postgres()
    cluster = Cluster(tmp_path, server.url())
    with cluster.running(), web.running(), Proxy(server.port).running() as proxy:
        through = cluster.url.replace(f":{server.port}/", f":{proxy.port}/")
        cluster.begin("a", url_of(web, 1), "--rate", "50", url=through)
        wait_until(lambda: len(web.visits) > 20)
        proxy.cut()
        assert cluster.drain("a") == 3
    assert "no response for" in cluster.said("a") and "Traceback" not in cluster.said("a")
