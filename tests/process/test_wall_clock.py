"""A wall clock that is set while a crawl begins: it goes on at once."""

import shlex
import subprocess
import sys
import time

import orjson
from support import webs
from support.programs import CLEAN, LOCAL, crawler, rows_of

SET_BACK = """
import sys, time
from crawler.core import clock
ahead = iter([86400.0])
class Set:
    monotonic = time.monotonic
    def time():
        return time.time() + next(ahead, 0.0)
clock.time = Set
from crawler.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
"""By a day, after the first look at it."""


def test_a_wall_clock_that_is_set_back_meanwhile_holds_nothing_up(tmp_path):
    with webs.Web(default=lambda host, path: webs.text("page")).running() as web:
        command = [sys.executable, "-c", SET_BACK, "run", web.url("127.0.0.1", "/"), "-o", str(tmp_path / "out"), *LOCAL]
        ended = subprocess.run(command, env=CLEAN, capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == 0, ended.stderr
    assert [row["outcome"] for row in rows_of(tmp_path / "out")] == ["ok"]


def test_the_command_that_lists_changes_lists_those_after_the_wall_clock_was_set_back(tmp_path):
    out, bodies = str(tmp_path / "out"), iter(["first", "second"])
    first_look = SET_BACK.replace("from crawler.core import clock\n", "from crawler.cli import run_command as clock\n")
    web = webs.Web(default=lambda host, path: webs.text(next(bodies) if path == "/" else ""))
    with web.running():
        run = ("run", web.url("127.0.0.1", "/"), "-o", out, *LOCAL)
        assert crawler(*run).returncode == 0
        assert crawler("recrawl", out).returncode == 0
        command = [sys.executable, "-c", first_look, *run]
        ended = subprocess.run(command, env=CLEAN, capture_output=True, text=True, timeout=100, check=False)
    told = ended.stderr.partition("to list them: crawler ")[2].splitlines()[0]
    assert crawler(*shlex.split(told)).stdout.count('"change":"changed"') == 1


AHEAD = """
import sys, time
real = time.time
time.time = lambda: real() + 86400.0
from crawler.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def test_pages_that_were_visited_before_the_wall_clock_was_set_back_are_visited_again(tmp_path):
    out = str(tmp_path / "out")
    with webs.Web(default=lambda host, path: webs.text("page")).running() as web:
        command = [sys.executable, "-c", AHEAD, "run", web.url("127.0.0.1", "/"), "-o", out, *LOCAL]
        assert subprocess.run(command, env=CLEAN, capture_output=True, timeout=100, check=False).returncode == 0
    for options, said in (["--older-than", "1h"], "no URL is due again"), ([], "1 URL is due again"):
        command = [sys.executable, "-m", "crawler", "recrawl", out, *options]
        ended = subprocess.run(command, env=CLEAN, capture_output=True, text=True, timeout=100, check=False)
        assert said in ended.stderr, ended.stderr


def test_when_a_page_is_visited_again_is_told_by_the_wall_clock_though_that_was_ahead_once(tmp_path):
    """The crawl clock, which never runs back, is ahead for good: it told the day after."""
    out = str(tmp_path / "out")
    with webs.Web(default=lambda host, path: webs.text("page")).running() as web:
        run = ("run", web.url("127.0.0.1", "/"), "-o", out, *LOCAL, "--recrawl-every", "10s", "--recrawl-min", "0")
        for begin in (["-c", AHEAD], ["-m", "crawler", "recrawl", out], ["-m", "crawler"]):
            command = [sys.executable, *begin, *(() if "recrawl" in begin else run)]
            assert subprocess.run(command, env=CLEAN, capture_output=True, timeout=100, check=False).returncode == 0
        command = [sys.executable, "-m", "crawler", "why", web.url("127.0.0.1", "/"), "--data", out, "--json"]
        told = orjson.loads(subprocess.run(command, env=CLEAN, capture_output=True, timeout=100, check=False).stdout)["record"]
    assert abs(told["due"] - time.time()) < 43200
