"""One crawl, killed again and again at random instants: every URL one final row and one record, and hardly anything fetched
more often than once.

KILLS=100 pytest -s tests/system/test_kills.py    kills that often
"""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
from support.faults.mixed import MixedCrawl
from support.programs import CLEAN, LOCAL, command_of, crawler, crawling, rows_of
from support.sinful import Script, Site, running
from support.webs import Answer, Web

from crawler.core.errors import StorageError
from crawler.frontier import open_reader

KILLS = int(os.environ.get("KILLS", "6"))
WORKERS = 30
RATE = 400
UNCOMMITTED_S = 0.5
"""A batch closes after 0.1 s; its commit, and that of the one before it, may take as long again on a slow disk."""


class CountingSite(Site):
    """Counts what it was asked for."""

    def __init__(self, scripts: dict[str, Script]) -> None:
        super().__init__(host="0.0.0.0", scripts=scripts)
        self.asked: Counter[bytes] = Counter()

    def see(self, request: bytes) -> None:
        target, _, rest = request.removeprefix(b"GET ").partition(b" ")
        self.asked[rest[rest.lower().find(b"host:") :].split(b"\r\n")[0] + target] += 1
        super().see(request)


@pytest.mark.timeout(60 + 10 * KILLS)
def test_killed_at_random_instants_it_loses_nothing_and_stores_nothing_twice(tmp_path: Path) -> None:
    rng = random.Random(os.environ.get("KILLS_SEED", time.time_ns()))
    crawl = MixedCrawl(max(700, 80 * KILLS))
    site = crawl.site = CountingSite(crawl.site.scripts)
    out = tmp_path / "out"
    kills = 0
    with running(site):
        command = command_of(crawl.command(tmp_path, out, "--workers", str(WORKERS), "--rate", str(RATE)))
        while kills < KILLS:
            before = sum(site.asked.values())
            with subprocess.Popen(command, env=CLEAN, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
                while process.poll() is None and (kills % 4 and sum(site.asked.values()) == before):
                    time.sleep(0.005)  # now and then it dies before its first fetch
                time.sleep(rng.uniform(0, 0.6))
                process.kill()
            kills += process.returncode == -9
            if process.returncode != -9:
                break
        ended = crawler(*crawl.command(tmp_path, out, "--workers", str(WORKERS)), timeout=120)
        assert ended.returncode == 0, ended.stderr
        crawl.check(out)
    extra = sum(site.asked.values()) - len(site.asked)
    print(f"{kills} kills over {len(site.asked)} URLs: {extra} fetched again, {extra / max(kills, 1):.1f} a kill")
    assert kills == KILLS, "the crawl ended before it was killed so often"
    assert extra <= kills * (WORKERS + RATE * UNCOMMITTED_S)


OTHERS = 1_000


def settled(out: Path) -> int:
    """URLs settled by now."""
    try:
        reader = open_reader(out / "frontier")
    except StorageError:  # not made yet
        return 0
    try:
        return reader.stats().done
    finally:
        reader.close()


@pytest.mark.parametrize("end", ["kill", "drain"])
def test_a_page_held_up_costs_a_second_visit_of_that_page_alone(tmp_path: Path, end: str) -> None:
    """A thousand others are committed while it is out; then the process is killed, or its drain cancels the visit."""
    answers = iter([Answer(hang=True)])
    web = Web(
        {"127.0.3.1": {"/held": lambda: next(answers, Answer(body=b"at last"))}}, lambda host, path: Answer(body=path.encode())
    )
    listed, out = tmp_path / "list", tmp_path / "out"
    with web.running():
        urls = [web.url("127.0.3.1", "/held"), *(web.url(f"127.0.3.{n % 50 + 2}", f"/{n}") for n in range(OTHERS))]
        listed.write_text("\n".join(urls))
        command = ("run", "-i", str(listed), "-o", str(out), *LOCAL, "--grace", "1s")
        with crawling(*command, "--first-byte-timeout", "10min", "--timeout", "10min") as process:
            while len(web.visits) <= OTHERS or settled(out) < OTHERS:
                assert process.poll() is None
                time.sleep(0.05)
            if end == "kill":
                process.kill()
            else:
                process.terminate()
                assert process.wait(30) == 5
        assert crawler(*command).returncode == 0
    rows = rows_of(out)
    assert Counter(row["canonical"] for row in rows if row["final"]) == Counter(urls) and len(rows) == len(urls)
    assert {row["outcome"] for row in rows} == {"ok"}
    assert web.asked() == Counter([*urls, urls[0]]), "each once, and what was held up once more"
    assert crawler("verify", str(out)).returncode == 0
