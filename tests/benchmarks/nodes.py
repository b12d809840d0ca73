"""What one node of a cluster settles, and what two do: CPU of the nodes, of the database and of the web, a page each.

    python tests/benchmarks/nodes.py --pages 15000

A crawl of links by nodes of one process, each on a core of its own, over a PostgreSQL that syncs; measured once a fifth of its
pages are there. Database and web share the same cores, so it is the CPU that tells: per CPU second given to its nodes, and to
the database, two must settle nearly twice what one does.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import psycopg
from cluster import SYNCING
from contenders import OURS
from measure import HERE, Farm, Profile, cpu_s, farm, prepare, tree

sys.path.insert(0, str(HERE.parent))

from support.postgres import PASSWORD, USER, Server, binaries

HOSTS, SEEDS = 200, 20
WAIT_S = 600.0


def busy_s(pids: Iterable[int]) -> float:
    """CPU seconds of these processes and all that descend from them and live."""
    return sum(cpu_s(each) for pid in pids for each in tree(pid))


@contextlib.contextmanager
def crawling(count: int, web: Farm, url: str, folder: Path) -> Iterator[list[int]]:
    """So many nodes; their process ids."""
    seeds = folder / "seeds"
    seeds.write_text("\n".join(web.urls(SEEDS, HOSTS)) + "\n")
    crawl = ["--cluster", url, *OURS, "--depth", "-1", "--scope", "any", "--processes", "1", "--no-robots"]
    nodes = []
    for number in range(count):
        command = ["taskset", "-c", str(number), sys.executable, "-m", "crawler", "run", *crawl]
        command += ["-o", str(folder / f"node-{number}"), *(["-i", str(seeds)] if not number else [])]
        nodes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
    try:
        yield [node.pid for node in nodes]
    finally:
        for node in nodes:
            node.terminate()
        for node in nodes:
            node.wait(60)


def measured(count: int, pages: int, web: Farm) -> str:
    """``pages``: for each node."""
    folder = binaries()
    assert folder is not None, "there is no PostgreSQL here"
    server = Server(folder, SYNCING)
    with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory(prefix="nodes-") as made:
        stack.callback(server.remove)
        base = f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{server.port}"
        with psycopg.connect(f"{base}/postgres", autocommit=True) as connection:
            connection.execute("CREATE DATABASE crawl")
        database = int((server.folder / "data" / "postmaster.pid").read_text().split()[0])
        web.reset()
        with crawling(count, web, f"{base}/crawl", Path(made)) as nodes:

            def reading() -> tuple[float, ...]:
                return time.monotonic(), web.stats()["pages_ok"], busy_s(nodes), busy_s([database]), web.busy_s()

            def until(enough: float) -> tuple[float, ...]:
                ends = time.monotonic() + WAIT_S
                while (now := reading())[1] < enough:
                    assert time.monotonic() < ends, "they crawl no more"
                    time.sleep(0.1)
                return now

            begun = until(count * pages / 5)
            ended = until(begun[1] + count * pages)
        seconds, settled, *spent = (after - before for before, after in zip(begun, ended, strict=True))
        node, server_cpu, web_cpu = (1e6 * one / settled for one in spent)
        return (
            f"{count} nodes: {settled:,.0f} pages, {settled / seconds:,.0f} a second; "
            f"a page: nodes {node:.0f}, database {server_cpu:.0f}, web {web_cpu:.0f} µs of CPU"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=15_000, help="for each node")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    prepare()
    with farm(0, "--hosts", str(HOSTS), *Profile().farm_options) as web:
        for _ in range(options.rounds):
            for count in (1, 2):
                print(measured(count, options.pages, web), flush=True)


if __name__ == "__main__":
    main()
