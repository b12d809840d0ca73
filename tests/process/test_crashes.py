"""A visit that ends the process three times is settled as crashed, whatever raised and wherever: the crawl comes to its end."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from support import webs
from support.programs import CLEAN, command_of, crawler, rows_of

BREAKS = {
    "fetch": "from crawler.fetch.fetcher import Fetcher as C; name = 'fetch'; of = lambda a: a[1].link.url",
    "judge": "from crawler.policy.judge import Judge as C; name = 'page'; of = lambda a: a[1].link.url",
    "expand": "from crawler.crawl.expand import Expander as C; name = 'expand'; of = lambda a: a[1].url",
    "refusal": "from crawler.policy.robots_gate import RobotsGate as C; name = 'refuses'; of = lambda a: a[1].url",
    "rest": "from crawler.policy.politeness import Politeness as C; name = 'after'; of = lambda a: a[1].url",
    "robots": (
        "from crawler.policy.robots_gate import RobotsGate as C; name = 'learn';"
        "of = lambda a: a[1].url if type(a[2]).__name__ == 'Done' else ''"
    ),
    "row": (
        "from crawler.output.journal import Journal as C; name = 'write';"
        "of = lambda a: ' '.join(s.lease.link.url for s in a[1].batch.settled if type(s.outcome).__name__ == 'Done')"
    ),
}
"""Where a library might raise: which call, and the URL that it is for."""
BREAK = """
import asyncio, inspect, sys
{where}
whole = getattr(C, name)
def check(a):
    if {poison!r} in of(a):
        raise {error}
if inspect.iscoroutinefunction(whole):
    async def broken(*a, **k):
        check(a)
        return await whole(*a, **k)
else:
    def broken(*a, **k):
        check(a)
        return whole(*a, **k)
setattr(C, name, broken)
from crawler.cli.main import main
print(*(main(sys.argv[1:]) for _ in range({times})))
"""


LOCAL = "--allow-net 127.0.0.0/8 --delay 0 --factor 0 --progress none --retries 0 --depth 1"


UNFORESEEN = "ArithmeticError('nobody has foreseen this')"
NO_THREAD = """RuntimeError("can't start new thread")"""


def run(tmp_path: Path, name: str, urls: list[str], times: int, error: str = UNFORESEEN) -> list[int]:
    """The same command so many times in one process, but that one of the crawler's calls raises for one URL; the exit codes."""
    poison = "//127.0.0.3" if name == "robots" else "/poison"
    program = BREAK.format(where=BREAKS[name], poison=poison, times=times, error=error)
    command = [sys.executable, "-c", program, "run", *urls, "-o", str(tmp_path / "out"), *LOCAL.split()]
    ended = subprocess.run(command, env=CLEAN, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 0, ended
    return list(map(int, ended.stdout.split()))


@pytest.mark.parametrize("name", BREAKS)
def test_what_ends_the_process_thrice_is_given_up(tmp_path, name):
    pages = {f"/{n}": webs.page() for n in range(6)} | {"/poison": webs.page()}
    with webs.Web({"127.0.0.2": pages, "127.0.0.3": pages}).running() as web:
        urls = [web.url("127.0.0.2", f"/{n}") for n in range(6)]
        urls += [web.url("127.0.0.3", "/0" if name == "robots" else "/poison")]
        if name == "fetch":
            assert [run(tmp_path, name, urls, 1) for _ in range(4)] == [[1], [1], [1], [0]]
        else:
            assert run(tmp_path, name, urls, 4) == [1, 1, 1, 0]
    ends = Counter((row["outcome"], row["reason"]) for row in rows_of(tmp_path / "out") if row["kind"] != "robots")
    assert ends == {("ok", None): 6, ("skipped", "crashed"): 1}


@pytest.mark.parametrize("lack", [NO_THREAD, "MemoryError()", 'OSError(24, "Too many open files")'])
def test_what_this_machine_lacks_is_no_fate_of_a_page(tmp_path, lack):
    """As where ``ulimit -u``, ``-v`` or TasksMax is reached: exit code 3, however often, and then the page is fetched."""
    pages = {f"/{n}": webs.page() for n in range(6)} | {"/poison": webs.page()}
    with webs.Web({"127.0.0.2": pages, "127.0.0.3": pages}).running() as web:
        urls = [web.url("127.0.0.2", f"/{n}") for n in range(6)] + [web.url("127.0.0.3", "/poison")]
        assert [run(tmp_path, "fetch", urls, 1, error=lack) for _ in range(4)] == [[3]] * 4
        ended = crawler("run", *urls, "-o", tmp_path / "out", *LOCAL.split())
        assert ended.returncode == 0, ended.stderr
    ends = Counter((row["outcome"], row["reason"]) for row in rows_of(tmp_path / "out") if row["kind"] != "robots")
    assert ends == {("ok", None): 7}


def test_a_crawl_that_can_start_no_thread_says_so_without_a_traceback(tmp_path):
    program = """
import sys, threading
start = threading.Thread.start
def refuse(thread):
    if thread.name == "reader":
        raise RuntimeError("can't start new thread")
    start(thread)
threading.Thread.start = refuse
from crawler.cli.main import main
sys.exit(main())
"""
    command = ["run", "http://127.0.0.2:9/", "-o", str(tmp_path / "out"), *LOCAL.split()]
    ended = subprocess.run(
        [sys.executable, "-c", program, *command], env=CLEAN, capture_output=True, text=True, check=False, timeout=60
    )
    assert (ended.returncode, "Traceback" in ended.stderr) == (3, False), ended.stderr
    assert "TasksMax" in ended.stderr


def test_where_threads_are_too_few_nothing_is_begun(tmp_path):
    """RocksDB and libuv abort the process for want of one."""
    program = """
import sys, threading
start = threading.Thread.start
def refuse(thread):
    if threading.active_count() > 10:
        raise RuntimeError("can't start new thread")
    start(thread)
threading.Thread.start = refuse
from crawler.cli.main import main
sys.exit(main())
"""
    command = [sys.executable, "-c", program, "run", "http://127.0.0.2:9/", "-o", str(tmp_path / "out"), *LOCAL.split()]
    ended = subprocess.run(command, env=CLEAN, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 3 and "TasksMax" in ended.stderr, ended.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("processes", ["1", "2"])
@pytest.mark.parametrize("descriptors", [10, 12, 14, 24])
def test_where_descriptors_are_too_few_it_says_what_to_do(tmp_path, descriptors, processes):
    told_of_descriptors(descriptors, "run", "http://127.0.0.2:9/", "-o", tmp_path / "out", "--processes", processes)


def test_where_they_do_not_even_do_to_look_at_an_address_it_says_so(tmp_path):
    told_of_descriptors(6, "serve", "--data", tmp_path / "out", "--listen", "127.0.0.1:0")


def told_of_descriptors(descriptors, *arguments):
    words = [*map(str, arguments), *LOCAL.split()]
    command = ["sh", "-c", f'ulimit -n {descriptors}; exec "$@"', "sh", *command_of(words)]
    ended = subprocess.run(command, env=CLEAN, capture_output=True, text=True, check=False, timeout=60)
    assert (ended.returncode, "Traceback" in ended.stderr) == (3, False), ended.stderr
    assert "ulimit -n" in ended.stderr and "never awaited" not in ended.stderr
