"""``--processes`` on a machine that stalls: one process of a crawl stands still, while the others go on."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from support.crews import are_gone, children, kill, parts_of
from support.programs import LOCAL, crawler, crawling, rows_of
from support.webs import Answer, Web, page

HOSTS = [f"127.0.9.{n}" for n in range(1, 9)]
TWO = ("--processes", "2", "--min-free-disk", "0", "--parsers", "0", "--memory-limit", "1GiB")


@pytest.mark.parametrize("which", ["part", "nursery"])
def test_one_that_stands_still_when_the_parent_is_killed_keeps_nobody_out_of_the_directory(tmp_path: Path, which: str) -> None:
    """It has inherited the directory's lock: it was in use until somebody found and killed it."""
    web = Web({HOSTS[0]: {"/": Answer(hang=True)}}, default=lambda host, path: page())
    with web.running():
        urls = [web.url(host) for host in HOSTS]
        command = ("run", *urls, "-o", str(tmp_path), *LOCAL, *TWO)
        with crawling(*command) as process:
            while len(web.visits) < len(HOSTS):
                time.sleep(0.01)
            alive = [*children(process.pid), *parts_of(process.pid)]
            os.kill(alive[0 if which == "nursery" else -1], signal.SIGSTOP)
        web.hosts = {}
        try:
            ended = crawler(*command)
            assert (ended.returncode, are_gone(alive)) == (0, True), ended.stderr
        finally:
            for pid in alive:
                kill(pid)
    assert Counter(row["canonical"] for row in rows_of(tmp_path)) == Counter(urls)
