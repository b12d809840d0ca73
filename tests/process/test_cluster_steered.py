"""``serve --cluster`` that is steered all the time (seeds, retry, recrawl), while nodes and the database are killed, frozen and
cut off at random: what is counted is what is true in the end, and every line that was taken has its row.

CLUSTER_S=120 CLUSTER_SEED=2 pytest -s -m slow tests/process/test_cluster_steered.py
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import psycopg
import pytest
from support.clusters import HOSTS, Cluster, tree, url_of
from support.db_proxy import Proxy
from support.postgres import postgres, rows
from support.programs import command, port_of_its_own
from support.waiting import wait_until
from support.webs import Web, page

NAMES = ("a", "b", "c")


class Client(threading.Thread):
    """Asks one node for this and that, again and again. ``taken``: (list, line) of what it has acknowledged."""

    def __init__(self, port: int, web: Web, rng: random.Random, stop: threading.Event) -> None:
        super().__init__()
        self._port, self._web, self._rng, self._stop_it = port, web, rng, stop
        self.taken: list[tuple[str, int]] = []

    def run(self) -> None:
        rng = self._rng
        while not self._stop_it.wait(rng.uniform(0.1, 0.8)):
            what = rng.choice(["seeds", "seeds", "retry", "retry", "recrawl"])
            which = rng.choice(
                [{"host": rng.choice(HOSTS)}, {"outcome": ["ok"]}, {"url": url_of(self._web, rng.randrange(1, 500))}]
            )
            if what == "seeds":
                lines = [url_of(self._web, rng.randrange(10_000, 12_000)) for _ in range(30)]
                told = self._post("/v1/seeds", "\n".join(lines).encode(), "text/plain")
                if told is not None:
                    self.taken += [(told["list"], line) for line in range(1, 31)]
            else:
                self._post(f"/v1/{what}", json.dumps(which).encode(), "application/json")

    def _post(self, path: str, body: bytes, mime: str) -> dict | None:
        request = urllib.request.Request(f"http://127.0.0.1:{self._port}{path}", body, {"Content-Type": mime})
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            assert error.code in (409, 503), error.read()
        except OSError:
            pass  # it does not run just now
        return None


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_counts_are_true_and_no_line_is_lost_however_it_is_steered(tmp_path: Path) -> None:
    seed = int(os.environ.get("CLUSTER_SEED", time.time_ns() % 1_000_000))
    rng, seconds, server = random.Random(seed), float(os.environ.get("CLUSTER_S", "60")), postgres()
    print(f"CLUSTER_SEED={seed}")
    cluster, web, stop = Cluster(tmp_path, server.url()), tree(500), threading.Event()
    ports = {name: port_of_its_own() for name in NAMES}
    with cluster.running(), web.running(), contextlib.ExitStack() as stack:
        proxies = {name: stack.enter_context(Proxy(server.port).running()) for name in NAMES}

        def begin(name: str) -> None:
            through = cluster.url.replace(f":{server.port}/", f":{proxies[name].port}/")
            processes = ("--processes", rng.choice("112"))
            cluster.begin(name, "--listen", f"127.0.0.1:{ports[name]}", *processes, url=through, command="serve")

        for name in NAMES:
            begin(name)
        wait_until(lambda: command("add", url_of(web, 1), "--listen", f"127.0.0.1:{ports['a']}").returncode == 0)
        clients = [Client(port, web, random.Random(f"{seed} {port}"), stop) for port in ports.values()]
        for client in clients:
            client.start()
        stack.callback(stop.set)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            name = rng.choice(NAMES)
            _blow(rng, cluster, name, proxies[name])
            time.sleep(rng.uniform(0, 1.5 * cluster.lease_s))
            for name in NAMES:
                if cluster.nodes[name].poll() is not None:
                    begin(name)
        stop.set()
        for client in clients:
            client.join()
        for name in NAMES:
            proxies[name].faults.clear()
            if cluster.nodes[name].poll() is not None:
                begin(name)

        def without_row() -> list[tuple[str, int]]:
            named = [row["input"] for row in cluster.rows() if row["input"] and row["final"]]
            ended = {(line["list"], line["line"]) for line in named}
            return [line for client in clients for line in client.taken if line not in ended]

        def is_done() -> bool:
            """What was uploaded last may not have been read yet: then nothing waits either."""
            with contextlib.suppress(psycopg.Error):
                counts = cluster.counts()
                nothing_waits = counts.waiting == counts.retrying == 0 and not rows(cluster.url, "SELECT FROM box")
                return nothing_waits and not without_row()
            return False

        wait_until(is_done, 120)
        assert [cluster.drain(name) for name in NAMES] == [0, 0, 0]
        cluster.check_counts()
    lost = without_row()
    assert not lost, f"{len(lost)} lines have no final row: {lost[:3]}"
    for name in NAMES:
        assert command("verify", str(cluster.directory(name))).returncode == 0


def _blow(rng: random.Random, cluster: Cluster, name: str, proxy: Proxy) -> None:
    what = rng.choice(["kill", "drain", "freeze", "cut", "answer", "commit", "database", "sessions"])
    if what == "kill":
        cluster.kill_all_of(name)
    elif what == "drain":
        cluster.drain(name)
    elif what == "freeze":
        cluster.freeze(name, rng.uniform(0, 3 * cluster.lease_s))
    elif what == "cut":
        proxy.cut()
        time.sleep(rng.uniform(0, 3 * cluster.lease_s))
        proxy.heal()
    elif what == "database":
        postgres().kill()
        time.sleep(rng.uniform(0, 2))
        postgres().start()
    elif what == "sessions":
        ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name ~ '^flatcrawler' LIMIT 2"
        rows(cluster.url, ended)
    else:
        proxy.faults.append("answer" if what == "answer" else "commit")


def test_urls_that_were_forgotten_are_new_whichever_node_finds_them_again(tmp_path: Path) -> None:
    """Links that a member had sent lately it did not send again: of the same node neither. One of them is frozen meanwhile."""
    web, ports = Web(), {name: port_of_its_own() for name in "ab"}
    cluster = Cluster(tmp_path, postgres().url(), lease_s=3.0)
    after = dict(zip(HOSTS, HOSTS[1:] + HOSTS[:1], strict=True))
    web.default = lambda host, path: page(*([web.url(after[host], "/found")] if path == "/" else []))

    def asked(name: str, path: str, body: bytes, mime: str = "application/json") -> dict | None:
        request = urllib.request.Request(f"http://127.0.0.1:{ports[name]}{path}", body, {"Content-Type": mime})
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            assert error.code in (409, 503), error.read()  # another node has the host, or nobody just now
            return None

    def choose(names: str, order: str, path: str) -> int:
        urls = [json.dumps({"url": web.url(host, path)}).encode() for host in HOSTS]
        return sum(told["count"] for url in urls for name in names if (told := asked(name, f"/v1/{order}", url)) is not None)

    def are_found() -> bool:
        choose("ab", "retry", "/")
        return min(web.asked(host)["/found"] for host in HOSTS) >= 2

    with cluster.running(), web.running():
        for name, processes in (("a", "2"), ("b", "1")):
            cluster.begin(name, "--listen", f"127.0.0.1:{ports[name]}", "--processes", processes, command="serve")
        wait_until(lambda: cluster.is_shared("b", a=2))
        asked("a", "/v1/seeds", "\n".join(web.url(host, "/") for host in HOSTS).encode(), "text/plain")
        wait_until(lambda: cluster.counts().outcomes.get("ok") == 80)
        cluster.nodes["b"].send_signal(signal.SIGSTOP)
        wait_until(lambda: cluster.is_shared(a=2))
        wait_until(lambda: choose("a", "remove", "/found") == 0 and cluster.counts().known == 40)
        cluster.nodes["b"].send_signal(signal.SIGCONT)
        wait_until(lambda: cluster.is_shared("b", a=2))
        wait_until(are_found)
        for name in "ab":
            assert cluster.drain(name) == 0
