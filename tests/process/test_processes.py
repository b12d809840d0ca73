"""``run --processes``: one crawl by several processes, each of which, and their parent, may be killed at any time.

KILLS=100 pytest -s tests/process/test_processes.py -k killed_parts    kills that often
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from support.crews import are_gone, children, kill, lives, parts_of, wait_for_parts
from support.faults.mixed import MixedCrawl
from support.programs import CLEAN, LOCAL, command_of, crawler, crawling, rows_of
from support.sinful import running
from support.waiting import wait_until
from support.webs import Answer, Web, page, redirect, text

from crawler.resources import cgroup

KILLS = int(os.environ.get("KILLS", "6"))
HOSTS = [f"127.0.7.{n}" for n in range(1, 21)]
TWO = ("--processes", "2", "--min-free-disk", "0", "--parsers", "0")


def chain(pages: int = 60, wait: float = 0.0) -> Web:
    """Page n links to pages 2n and 2n + 1, of other hosts, up to ``pages`` in all."""
    web = Web()

    def answer(host: str, path: str) -> Answer:
        n = int(path[1:])
        links = [web.url(HOSTS[m % len(HOSTS)], f"/{m}") for m in (2 * n, 2 * n + 1) if m <= pages]
        return page(*links, wait=wait)

    web.default = answer
    return web


def first(web: Web) -> str:
    return web.url(HOSTS[1], "/1")


@pytest.mark.timeout(60 + 10 * KILLS)
def test_killed_parts_and_parents_lose_nothing_and_store_nothing_twice(tmp_path: Path) -> None:
    rng = random.Random(os.environ.get("KILLS_SEED", time.time_ns()))
    crawl = MixedCrawl(max(300, 60 * KILLS))
    out = tmp_path / "out"
    settings = ("--processes", str(rng.randint(2, 4)), "--memory-limit", "2GiB", "--rate", "40")
    kills = parents = 0
    left: list[int] = []
    with running(crawl.site):
        command = command_of(crawl.command(tmp_path, out, *settings))
        while kills < KILLS:
            with subprocess.Popen(command, env=CLEAN, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
                for _ in range(rng.choice([0, 1, 3])):  # parts first, each three times at most: the fourth would end it
                    while not (alive := parts_of(process.pid)) and process.poll() is None:
                        time.sleep(0.005)
                    time.sleep(rng.uniform(0, 0.4))
                    if process.poll() is None:
                        kill(rng.choice(alive))
                        kills += 1
                time.sleep(rng.uniform(0, 0.4))
                left += parts_of(process.pid)
                process.kill()
                process.wait()
            if process.returncode == 75:  # parts of the parent before stood still for longer than they are waited for
                continue
            if process.returncode != -9:
                break
            kills, parents = kills + 1, parents + 1
        assert are_gone(left)
        ended = crawler(*crawl.command(tmp_path, out, *settings[:4]), timeout=120)
        assert ended.returncode == 0, ended.stderr
        crawl.check(out)
    print(f"{kills} kills, {parents} of parents, over {crawl.pages} pages")
    assert kills >= KILLS, "the crawl ended before it was killed so often"


@pytest.mark.parametrize("last", [1, 2, 4])
def test_that_this_machine_has_no_process_left_is_its_trouble_and_the_same_command_goes_on(tmp_path: Path, last: int) -> None:
    """Not an internal error. Forks: one divides the directory, one is the process that forks the parts, which does the others."""
    program = (
        "import errno, os, sys\nforks, fork = [], os.fork\n"
        "def scarce():\n    forks.append(1)\n"
        f"    if len(forks) == {last}: raise OSError(errno.EAGAIN, 'none')\n    return fork()\n"
        "os.fork = scarce\nfrom crawler.cli.main import main\nsys.exit(main())"
    )
    web = chain(20)
    with web.running():
        links = ("--depth", "9", "--scope", "any", "--memory-limit", "1GiB")
        arguments = ("run", first(web), "-o", str(tmp_path), *LOCAL, *TWO, *links)
        scarce = [sys.executable, "-c", program, *arguments]
        done = subprocess.run(scarce, env=CLEAN, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        assert (done.returncode, "no process can be started" in done.stderr) == (3, True), done.stderr
        assert crawler(*arguments).returncode == 0
    assert len(rows_of(tmp_path)) == 20


def test_of_a_crawl_of_which_a_part_cannot_be_opened_no_numbers_are_told(tmp_path: Path) -> None:
    """They were those of the other parts."""
    web = chain(20)
    with web.running():
        arguments = ("run", first(web), "-o", str(tmp_path), *LOCAL, *TWO, "--depth", "9", "--scope", "any")
        assert crawler(*arguments).returncode == 0
        (tmp_path / "frontier" / "part-01" / "CURRENT").write_text("damaged")
        done = crawler(*arguments)
    assert (done.returncode, "part-01: the frontier store is damaged" in done.stderr) == (3, True), done.stderr
    assert "settled" not in done.stderr and "ended" not in done.stderr


def test_a_parent_for_which_this_machine_has_no_thread_goes_on(tmp_path: Path) -> None:
    """It needs one to read how much memory it uses."""
    program = (
        "import os, sys, threading\nstart, parent = threading.Thread.start, os.getpid()\n"
        "def scarce(thread):\n"
        "    if os.getpid() == parent and thread.name.startswith(('asyncio', 'uvloop')):\n"
        '        raise RuntimeError("can\'t start new thread")\n'
        "    return start(thread)\n"
        "threading.Thread.start = scarce\nfrom crawler.cli.main import main\nsys.exit(main())"
    )
    web = chain(20)
    with web.running():
        command = ("run", first(web), "-o", str(tmp_path), *LOCAL, *TWO, "--depth", "9", "--scope", "any")
        scarce = [sys.executable, "-c", program, *command]
        done = subprocess.run(scarce, env=CLEAN, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(rows_of(tmp_path)) == 20


def test_what_parts_have_open_is_closed_when_they_end(tmp_path: Path) -> None:
    web = chain(20)
    with web.running():
        command = ("run", first(web), "-o", str(tmp_path), *LOCAL, *TWO, "--depth", "9", "--scope", "any")
        done = crawler(*command, environ={"PYTHONWARNINGS": "default::ResourceWarning"})
    assert (done.returncode, "ResourceWarning" in done.stderr) == (0, False), done.stderr


def test_a_part_that_is_killed_is_begun_again_and_one_that_goes_on_dying_ends_the_crawl(tmp_path: Path) -> None:
    web = chain(wait=0.05)
    with web.running():
        command = ("run", first(web), "--depth", "9", "--scope", "any", "-o", str(tmp_path / "out"), *LOCAL, *TWO)
        with crawling(*command, "--rate", "1", "--grace", "1s") as process:
            victim = 0
            for _ in range(4):
                victim = wait_for_parts(process.pid, 2, but=victim)[-1]
                kill(victim)
            _, said = process.communicate(timeout=30)
        assert process.returncode == 1
        assert said.count("was killed by signal 9: it is begun again") + said.count("for the 4th time in 10 minutes") >= 4
        ended = crawler(*command)
    assert ended.returncode == 0, ended.stderr
    assert sum(row["outcome"] == "ok" for row in rows_of(tmp_path / "out")) == 60


@pytest.mark.parametrize("signals", [1, 2])
def test_a_signal_drains_all_parts_and_a_second_one_ends_them(tmp_path: Path, signals: int) -> None:
    web = chain()
    held = Answer(hang=True)
    web.hosts = {HOSTS[2]: {"/2": lambda: held}}
    with web.running():
        command = ("run", first(web), "--depth", "9", "--scope", "any", "-o", str(tmp_path / "out"), *LOCAL, *TWO)
        with crawling(*command, "--grace", "1s" if signals == 1 else "50s") as process:
            while not any(visit.path == "/2" for visit in web.visits):
                time.sleep(0.01)
            parts = [*wait_for_parts(process.pid, 2), *children(process.pid)]
            for part in parts:  # as a terminal or a service manager does
                os.kill(part, signal.SIGTERM)
            process.terminate()
            if signals == 2:
                while "draining" not in (process.stderr.readline() if process.stderr else ""):
                    assert process.poll() is None
                process.terminate()
            assert process.wait(30) == 5
        assert are_gone(parts)
        held = page()
        assert crawler(*command).returncode == 0
    done = Counter(row["canonical"] for row in rows_of(tmp_path / "out"))
    assert set(done.values()) == {1}
    assert crawler("verify", str(tmp_path / "out")).returncode == 0


@pytest.mark.parametrize(("fault", "code", "said"), [("", 5, "was killed by signal 9"), ("1 / 0", 1, "ended with exit code 1")])
def test_a_part_that_dies_while_all_drain_is_told_of(tmp_path: Path, fault: str, code: int, said: str) -> None:
    """A fault of the program is the end's exit code, as of a crawl by one process."""
    program = (
        "import sys\nfrom crawler.crawl import crawl\n"
        f"def fail(*a, **k): {fault}\n"
        "crawl.visits_s = fail\nfrom crawler.cli.main import main\nsys.exit(main())"
    )
    asked, is_dead = [], threading.Event()
    web = Web(default=lambda host, path: asked.append(host) or Answer(until=is_dead.is_set))
    with web.running():
        urls = [web.url(host) for host in HOSTS]
        command = ["run", *urls, "-o", str(tmp_path), *LOCAL, *TWO, "--json"]
        command = [sys.executable, "-c", program, *command] if fault else command_of(command)
        with subprocess.Popen(command, env=CLEAN, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            while len(asked) < len(HOSTS):
                time.sleep(0.01)
            victim = parts_of(process.pid)[1]
            process.terminate()
            if not fault:
                while "draining" not in (process.stderr.readline() if process.stderr else ""):
                    assert process.poll() is None
                kill(victim)
                wait_until(lambda: not lives(victim))
            is_dead.set()
            _, talk = process.communicate(timeout=30)
    assert process.returncode == code and f"{said} while it drained" in talk
    assert re.search(r"^ended: .* · 0 in flight$", talk, re.MULTILINE), talk


def test_a_part_that_hangs_does_not_hold_up_the_end_for_ever(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom crawler.service.parts import crew\n"
        "crew.ANSWER_S = crew.STUCK_S = 0.5\nfrom crawler.cli.main import main\nsys.exit(main())"
    )
    web = Web(default=lambda host, path: page())
    web.hosts = {HOSTS[0]: {"/": Answer(hang=True)}}
    with web.running():
        urls = [web.url(host) for host in HOSTS]
        command = ("run", *urls, "-o", str(tmp_path), *LOCAL, *TWO, "--grace", "1s")
        with subprocess.Popen([sys.executable, "-c", program, *command], env=CLEAN, stderr=subprocess.PIPE, text=True) as process:
            while len(web.visits) < len(HOSTS):
                time.sleep(0.01)
            victim = parts_of(process.pid)[1]
            os.kill(victim, signal.SIGSTOP)
            process.terminate()
            try:
                _, talk = process.communicate(timeout=30)
            finally:
                process.kill()
                kill(victim)
        assert (process.returncode, "part 1 has not answered for" in talk) == (5, True), talk
        assert are_gone([victim])
        web.hosts = {}
        assert crawler(*command).returncode == 0
    assert Counter(row["canonical"] for row in rows_of(tmp_path)) == Counter(urls)


FORKS_NO_MORE = """
import os, signal, sys
from crawler.cli.main import main
from crawler.service.parts.nursery import Nursery
begin = Nursery.begin
def killed(nursery, number):
    os.kill(nursery.pid, signal.SIGKILL)
    os.waitid(os.P_PID, nursery.pid, os.WEXITED | os.WNOWAIT)
    return begin(nursery, number)
Nursery.begin = killed
sys.exit(main(sys.argv[1:]))
"""


def test_what_parts_are_forked_from_is_missed_also_before_there_is_one(tmp_path: Path) -> None:
    """It was told as an error of this program."""
    command = ("run", "http://127.0.0.1:1/", "-o", str(tmp_path), *LOCAL, *TWO)
    ended = subprocess.run([sys.executable, "-c", FORKS_NO_MORE, *command], env=CLEAN, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, "Traceback" in ended.stderr) == (1, False), ended.stderr
    assert "the process that begins the parts of this crawl has ended" in ended.stderr


def test_no_more_pages_than_allowed_are_fetched_by_all_parts_together(tmp_path: Path) -> None:
    web, is_dead = chain(400), threading.Event()
    with web.running():
        command = ("run", first(web), "--depth", "9", "--scope", "any", *LOCAL)
        ended = crawler(*command, "-o", str(tmp_path / "one"), "--max-pages", "50", "--json")
        assert (ended.returncode, len(web.visits)) == (5, 50)
        web.visits.clear()
        command = (*command, "-o", str(tmp_path / "out"), *TWO)
        ended = crawler(*command, "--max-pages", "100", "--json")
        assert (ended.returncode, json.loads(ended.stdout)["stopped_by"]) == (5, "max_pages")
        assert len(web.visits) == 100 == json.loads(ended.stdout)["done"]
        every = web.default
        web.default = lambda host, path: replace(every(host, path), until=lambda: len(web.visits) < 130 or is_dead.is_set())
        with crawling(*command, "--max-pages", "100") as process:
            while len(web.visits) < 130:
                time.sleep(0.005)
            kill(wait_for_parts(process.pid, 2)[0])
            is_dead.set()
            assert process.wait(30) == 5
        assert 130 <= len(web.visits) <= 200
        assert crawler(*command).returncode == 0
    assert Counter(row["canonical"] for row in rows_of(tmp_path / "out")) == Counter(set(web.asked()))


def test_a_rate_is_of_the_whole_and_goes_where_the_work_is(tmp_path: Path) -> None:
    """All pages are of one part: it comes to ask nearly as often as the whole may, and never more often, whoever dies."""
    web = Web(default=lambda host, path: page())
    rate = 12
    with web.running():
        (tmp_path / "list").write_text("\n".join(web.url(HOSTS[0], f"/{n}") for n in range(2000)))
        command = ("run", "-i", str(tmp_path / "list"), "-o", str(tmp_path / "out"), *LOCAL, *TWO, "--per-host", "8")
        with crawling(*command, "--rate", str(rate), "--grace", "1s") as process:
            while not is_fast(web, rate * 0.8):
                assert process.poll() is None
                time.sleep(0.05)
            for part in parts_of(process.pid):
                kill(part)
            begun_again = len(web.visits)
            while len(web.visits) < begun_again + 20:
                assert process.poll() is None
                time.sleep(0.05)
            process.terminate()
            assert process.wait(30) == 5
    times = sorted(visit.begun for visit in web.visits)
    assert len(times) - 1 <= rate * (times[-1] - times[0]) + 6


def is_fast(web: Web, rate: float) -> bool:
    """Whether the last ten visits came so fast together."""
    last = [visit.begun for visit in web.visits[-10:]]
    return len(last) == 10 and last[-1] - last[0] < 9 / rate


def test_robots_rules_reach_the_part_that_waits_for_them(tmp_path: Path) -> None:
    """Redirected to hosts of other parts: the rules that were found there, or that they could not be had."""
    web = Web()

    def answer(host: str, path: str) -> Answer:
        n = HOSTS.index(host)
        if path != "/robots.txt":
            return page()
        if n < 10:
            return redirect(web.url(HOSTS[n + 10], "/robots.txt"))
        return text("User-agent: *\nDisallow: /no") if n < 15 else Answer(503)

    web.default = answer
    with web.running():
        urls = [web.url(host, path) for host in HOSTS[:10] for path in ("/yes", "/no")]
        (tmp_path / "list").write_text("\n".join(urls))
        obeying = tuple(word for word in LOCAL if word != "--no-robots")
        ended = crawler("run", "-i", str(tmp_path / "list"), "-o", str(tmp_path / "out"), *obeying, *TWO, "--retries", "0")
    assert ended.returncode == 0, ended.stderr
    rows = {row["canonical"]: (row["outcome"], row["reason"]) for row in rows_of(tmp_path / "out") if row["final"]}
    assert [rows[web.url(HOSTS[0], path)] for path in ("/yes", "/no")] == [("ok", None), ("robots_denied", "rule")]
    assert [rows[web.url(HOSTS[5], path)] for path in ("/yes", "/no")] == [("robots_denied", "robots_unavailable")] * 2
    assert Counter(rows.values()) == Counter({("ok", None): 5, ("robots_denied", "rule"): 5, rows[web.url(HOSTS[5], "/no")]: 10})


def test_what_the_parts_count_is_told_as_one(tmp_path: Path) -> None:
    web = chain()
    web.hosts = {HOSTS[3]: {"/3": Answer(404)}}
    with web.running():
        urls = [first(web), first(web), web.url(HOSTS[3], "/3")]
        (tmp_path / "list").write_text("\n".join([*urls, "no url"]))
        arguments = (
            "run",
            "-i",
            str(tmp_path / "list"),
            "--depth",
            "9",
            "--scope",
            "any",
            *LOCAL,
            "--json",
            "--min-free-disk",
            "0",
        )
        told = []
        for processes in ("1", "3"):
            out = str(tmp_path / processes)
            ended = crawler(*arguments, "-o", out, "--processes", processes, "--memory-limit", "1GiB", "--parsers", "0")
            assert ended.returncode == 0, ended.stderr
            told.append({name: value for name, value in json.loads(ended.stdout).items() if name != "seconds"})
            again = crawler(*arguments, "-o", out, "--memory-limit", "1GiB")  # as it was begun
            assert json.loads(again.stdout)["known"] == told[-1]["known"]
    assert told[0] == told[1]
    assert len(list((tmp_path / "3/frontier").glob("part-*"))) == 3 and not (tmp_path / "1/frontier/parts.toml").exists()


def test_what_a_part_does_before_others_are_open_was_not_done_by_earlier_runs(tmp_path: Path) -> None:
    program = (
        "import asyncio, sys\nfrom contextlib import asynccontextmanager\nfrom crawler.service.parts import part as module\n"
        "opened = module.open_crawl\n@asynccontextmanager\nasync def late(config, *, endless, part):\n"
        "    await asyncio.sleep(part.share.own)\n"
        "    async with opened(config, endless=endless, part=part) as crawl: yield crawl\n"
        "module.open_crawl = late\nfrom crawler.cli.main import main\nsys.exit(main())"
    )
    urls = [f"http://{host}/" for host in HOSTS]
    command = [sys.executable, "-c", program, "run", *urls, "-o", str(tmp_path), "--allow-net", "10.0.0.0/8", "--no-robots", *TWO]
    ended = subprocess.run(command, env=CLEAN, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 4 and "blocked  20" in ended.stderr
    assert "by earlier runs" not in ended.stderr and "this time\n  127" not in ended.stderr, ended.stderr


def test_more_processes_than_there_is_memory_or_work_for_are_refused(tmp_path: Path) -> None:
    for arguments, said in {
        ("--memory-limit", "200MiB"): "each of 2 may use 80 MiB",
        ("--memory-limit", "40MiB"): "each of 2 may use 0 MiB",
        ("--workers", "1"): "at least: --workers 2",
        ("--store", "memory"): "with --store memory there is one process",
    }.items():
        ended = crawler("run", "http://127.0.0.1:1/", "-o", str(tmp_path / "out"), "--processes", "2", *arguments)
        assert (ended.returncode, said in ended.stderr, (tmp_path / "out").exists()) == (2, True, False)


def test_no_host_is_visited_sooner_than_it_may_be_whoever_dies(tmp_path: Path) -> None:
    """One visit at a time, and its rest after each; also of the hosts of a domain together."""
    web = Web(default=lambda host, path: page())
    delay = 0.3
    with web.running():
        names = [f"{name}.{domain}.test" for domain in ("one", "two", "three", "four") for name in ("a", "b")]
        (tmp_path / "list").write_text("\n".join(web.url(name, f"/{n}") for n in range(4) for name in names))
        settings = ("--delay", str(delay), "--factor", "0", "--politeness-by", "domain", "--dns", web.dns)
        command = ("run", "-i", str(tmp_path / "list"), "-o", str(tmp_path / "out"), *LOCAL[:3], *TWO, *settings)
        with crawling(*command) as process:
            victim = 0
            for visits in (6, 14):
                while len(web.visits) < visits:
                    assert process.poll() is None
                    time.sleep(0.005)
                victim = wait_for_parts(process.pid, 2, but=victim)[-1]
                kill(victim)
            assert process.wait(60) == 0
    for domain in ("one", "two", "three", "four"):
        times = sorted((visit.begun, visit.ended) for visit in web.visits if visit.host.endswith(f".{domain}.test"))
        assert len(times) >= 8
        rests = [begun - ended for (_, ended), (begun, _) in pairwise(times)]
        assert min(rests) >= delay - 0.001, domain


def test_another_number_of_processes_goes_on(tmp_path: Path) -> None:
    web = chain(200)
    with web.running():
        command = ("run", first(web), "--depth", "9", "--scope", "any", "-o", str(tmp_path / "out"), *LOCAL, "--parsers", "0")
        for processes in ("1", "2", "3"):
            ended = crawler(*command, "--processes", processes, "--max-pages", "30", "--memory-limit", "1GiB")
            assert ended.returncode == 5, ended.stderr
            assert len(list((tmp_path / "out/frontier").glob("part-*"))) == (0 if processes == "1" else int(processes))
        refused = crawler(*command, "--processes", "2", "--politeness-by", "domain")
        assert (refused.returncode, "begun with host" in refused.stderr) == (2, True)
        assert crawler(*command, "--processes", "1").returncode == 0
    assert set(web.asked().values()) == {1} and len(web.visits) == 200
    assert crawler("verify", str(tmp_path / "out")).returncode == 0
    assert not list((tmp_path / "out/frontier").glob("part*"))


DIVIDES_FOR_LONG = """
import os, sys, time
from crawler.cli.main import main
from crawler.service.parts import opening
def divide(config, root, parts):
    print(os.getpid(), flush=True)
    time.sleep(120)
opening.divided_for = divide
sys.exit(main(sys.argv[1:]))
"""


def test_killed_while_hosts_move_it_leaves_the_directory_to_who_is_begun_next(tmp_path: Path) -> None:
    """Millions of URLs take half a minute, and so long what moved them held the lock: the same command ended with 75."""
    with Web().running() as web:
        command = ("run", web.url(HOSTS[0]), "-o", str(tmp_path / "out"), *LOCAL, "--parsers", "0", "--memory-limit", "1GiB")
        assert crawler(*command, "--processes", "1").returncode == 0
        moving = [sys.executable, "-c", DIVIDES_FOR_LONG, *command, "--processes", "2"]
        with subprocess.Popen(moving, env=CLEAN, stdout=subprocess.PIPE, text=True) as parent:
            assert parent.stdout is not None
            mover = int(parent.stdout.readline())
            parent.kill()
        try:
            assert crawler(*command, "--processes", "2").returncode == 0
        finally:
            kill(mover)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(("processes", "more"), [(1, ()), (2, ()), (4, ("--parsers", "0"))])
def test_memory_of_all_processes_is_flat_and_below_the_limit(tmp_path: Path, processes: int, more: tuple[str, ...]) -> None:
    """While the pages that are known become ten times as many. The peak of the last quarter is told beside that of the second."""
    web = Web()

    def answer(host: str, path: str) -> Answer:
        n = int(path[1:])
        return page(*(web.url(HOSTS[m % len(HOSTS)], f"/{m}") for m in range(10 * n, 10 * n + 10)), "x" * 2000)

    web.default = answer
    limit = 512 << 20
    measured: list[int] = []
    with web.running():
        command = (
            "run",
            first(web),
            "--depth",
            "-1",
            "--scope",
            "any",
            "-o",
            str(tmp_path / "out"),
            *LOCAL,
            "--max-pages",
            "8000",
        )
        settings = ("--processes", str(processes), "--memory-limit", str(limit), "--max-pages", "8000", "--per-host", "4", *more)
        with crawling(*command, *settings, "--min-free-disk", "0") as process:
            while process.poll() is None:
                measured.append(sum(map(cgroup.pss, [process.pid, *descendants(process.pid)])))
                time.sleep(0.1)
            assert process.returncode == 5
    quarter = len(measured) // 4
    before, after = max(measured[quarter : 2 * quarter]), max(measured[-quarter:])
    print(f"{processes} processes: {before >> 20} MiB, then {after >> 20} MiB; peak {max(measured) >> 20} MiB")
    assert max(measured) <= limit
    assert after <= before + limit // 10


def descendants(pid: int) -> list[int]:
    below = children(pid)
    return below + [process for child in below for process in descendants(child)]
