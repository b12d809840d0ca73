"""What is checked before a crawl begins."""

from __future__ import annotations

import contextlib
import errno
import gc
import gzip
import itertools
import json
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Literal

import pytest

from crawler.cli import starting
from crawler.cli.starting import once_open, seed_faults
from crawler.config.sections import Config
from crawler.core.errors import Exit, RemoteError, StorageError
from crawler.crawl import membership
from crawler.frontier.cluster.node import make_node
from crawler.service import Signals, opening_wait


def test_a_url_that_is_short_enough_without_its_dropped_parameters_is_no_fault():
    url = "http://example.org/?utm_source=" + "x" * 40
    (fault,) = seed_faults(Config(urls=(url,), max_url=40))
    assert "too_long" in fault
    assert seed_faults(Config(urls=(url,), max_url=40, drop_params=("utm_*",))) == []


@pytest.fixture
def node(tmp_path: Path) -> Config:
    """One that has been in its crawl, whose database is away."""
    pytest.importorskip("psycopg", reason="flatcrawler[cluster] is not installed")
    (tmp_path / "frontier" / "part-00").mkdir(parents=True)
    make_node(tmp_path / "frontier", by_domain=False)
    return Config(output=str(tmp_path), cluster="postgresql://crawler@127.0.0.1:1/postgres", disk_wait=0.05)


def test_run_gives_up_a_database_that_is_away_once_it_has_waited_for_it(node: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waited twice as long: before it opened the crawl, and again when that failed."""
    monkeypatch.setattr(opening_wait, "TRY_EVERY_S", 0.01)
    opened = 0

    def crawl() -> int:
        nonlocal opened
        opened += 1
        raise RemoteError("it is away")

    with Signals() as signals, pytest.raises(RemoteError, match="it is away"):
        once_open(node, "run", signals, crawl, Exit.STOPPED)
    assert opened == 1


def test_a_crawl_that_is_opened_again_and_again_leaves_nothing_behind(node: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a database takes one session, and not those of the crawl. What was left of each was frozen by the next."""
    monkeypatch.setattr(opening_wait, "TRY_EVERY_S", 0.01)
    monkeypatch.setattr(membership, "why_away", lambda config: None)
    left: weakref.WeakSet[Report] = weakref.WeakSet()

    class Report:
        pass

    def crawl() -> int:
        report = Report()
        report.of = report  # a cycle, as between a crew and its nursery
        left.add(report)
        gc.freeze()  # as ``settle_memory``
        if next(tries) == 3:
            return len(left)
        raise RemoteError("no session is left")

    tries = itertools.count()
    try:
        with Signals() as signals:
            assert once_open(node, "serve", signals, crawl, Exit.OK) == 1
    finally:
        gc.unfreeze()


@pytest.mark.parametrize(
    ("store", "there"), [("memory", "crawl.toml"), ("embedded", "frontier"), ("memory", "a"), ("embedded", "a")]
)
def test_a_daemon_that_goes_on_waits_for_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Literal["memory", "embedded"], there: str
) -> None:
    """With --store memory it ended with exit 3, whatever had been there."""
    monkeypatch.setattr(opening_wait, "TRY_EVERY_S", 0.01)
    monkeypatch.setattr(starting, "DISK_AGAIN_S", 0.0)
    (tmp_path / there).mkdir()
    tries = itertools.count()

    def crawl() -> int:
        if next(tries) < 2:
            raise StorageError("no room", errno=errno.ENOSPC)
        return 7

    config = Config(output=str(tmp_path), store=store, listen="127.0.0.1:0")
    with Signals() as signals, contextlib.nullcontext() if there != "a" else pytest.raises(StorageError):
        assert once_open(config, "serve", signals, crawl, Exit.OK) == 7
    assert next(tries) == (3 if there != "a" else 1)


def test_a_daemon_that_waits_for_a_full_disk_leaves_the_directory_to_a_command_that_makes_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it was opened again just then it ended with exit 75, after which systemd begins none again."""
    monkeypatch.setattr(opening_wait, "TRY_EVERY_S", 0.01)
    monkeypatch.setattr(starting, "DISK_AGAIN_S", 0.0)
    (tmp_path / "frontier").mkdir()
    numbers = [errno.ENOSPC, errno.EWOULDBLOCK, errno.EWOULDBLOCK, errno.ENOSPC]

    def crawl() -> int:
        if numbers:
            raise StorageError("not now", errno=numbers.pop(0))
        return 7

    config = Config(output=str(tmp_path), listen="127.0.0.1:0")
    with Signals() as signals:
        assert once_open(config, "serve", signals, crawl, Exit.OK) == 7
        numbers.append(errno.EWOULDBLOCK)
        with pytest.raises(StorageError):
            once_open(config, "serve", signals, crawl, Exit.OK)


ENDED_AT_ONCE = """
import sys
from crawler.cli.run_command import run
from crawler.service import Signals

with Signals() as signals:
    for _ in range(2):
        run(["http://127.0.0.1:1/", "-o", sys.argv[1], "--no-robots", "--retries", "0"], signals)
    signals.end_at_once()
"""


def test_a_crawl_that_is_over_is_not_ended_at_once(tmp_path: Path) -> None:
    """A node that had been opened several times told several times that it was."""
    arguments = [sys.executable, "-c", ENDED_AT_ONCE, str(tmp_path / "out")]
    ended = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 5 and "URLs settled" in ended.stderr, ended
    assert "ended at once" not in ended.stderr, ended


LISTENING = """
import resource, sys
from crawler.cli.starting import import_aiohttp, in_a_loop
from crawler.core.errors import StorageError

import_aiohttp()
from crawler.service.listener import open_listener

async def listen():
    async with open_listener("localhost:0", {}):
        pass

mapped = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (mapped + (4 << 20), resource.RLIM_INFINITY))
try:
    in_a_loop(listen)
except StorageError as error:
    sys.exit(str(error))
"""


def test_a_loop_for_which_there_are_no_threads_is_not_begun() -> None:
    """libuv would abort the process for want of one, without a word: that of a parent of several has tried none."""
    ended = subprocess.run([sys.executable, "-c", LISTENING], capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 1 and "ulimit -u" in ended.stderr, ended


UNFOLLOWED = """
import sys, threading
start = threading.Thread.start
def refuse(thread):
    if getattr(thread._target, "__name__", "") == "_do_shutdown":
        raise RuntimeError("can't start new thread")
    start(thread)
threading.Thread.start = refuse
from crawler.cli.main import main
sys.exit(main())
"""


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_crawl_that_has_ended_tells_how_though_no_thread_is_left_to_end_its_loop(tmp_path: Path, processes: str) -> None:
    """It ended with exit 3, without a table or the object of --json, whatever had become of it."""
    words = ["http://127.0.0.1:1/", "-o", str(tmp_path / "out"), "--retries", "0", "--processes", processes, "--json"]
    arguments = [sys.executable, "-c", UNFOLLOWED, "run", *words]
    ended = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 4 and "1 of 1 URLs settled" in ended.stderr, ended
    assert json.loads(ended.stdout)["exit_code"] == 4
    assert "Traceback" not in ended.stderr, "of a part that had ended"


def test_what_ends_a_crawl_is_told_though_no_thread_is_left_to_end_its_loop(tmp_path: Path) -> None:
    """A list that is damaged was a lack of threads, exit 3."""
    whole = gzip.compress("".join(f"http://127.0.0.1:1/{n}\n" for n in range(1000)).encode())
    (tmp_path / "list.gz").write_bytes(whole[: len(whole) // 2])
    words = ["-i", str(tmp_path / "list.gz"), "-o", str(tmp_path / "out"), "--retries", "0", "--processes", "1"]
    arguments = [sys.executable, "-c", UNFOLLOWED, "run", *words]
    ended = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 2 and "list.gz: Compressed file ended" in ended.stderr, ended


WAITING = """
import os, sys, time
from crawler.cli import starting
from crawler.config import Config
from crawler.crawl import membership
from crawler.service import Signals
from crawler.service import opening_wait

membership.why_away = lambda config: None
config = Config(output=sys.argv[1], cluster="postgresql:///a", metrics_listen="localhost:0")
opening_wait.TRY_EVERY_S = 0.0
with Signals() as signals:
    starting._waited_in_vain(config, "run", signals, "database", "away", 0.0)
for _ in range(500):  # one that has ended for Python may take the system a moment more
    if len(threads := os.listdir("/proc/self/task")) == 1:
        break
    time.sleep(0.01)
print(len(threads))
"""


def test_whoever_has_waited_for_a_database_has_no_threads_of_it(tmp_path: Path) -> None:
    """Parts are forked from it. It listens on a name meanwhile, which uvloop looks up in threads that stay."""
    arguments = [sys.executable, "-c", WAITING, str(tmp_path / "out")]
    ended = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=60)
    assert ended.stdout == "1\n", ended
