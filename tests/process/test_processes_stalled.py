"""``--processes`` on a machine that stalls: one process of a crawl stands still, while the others go on."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
from collections import Counter
from pathlib import Path

import pytest
from support.crews import are_gone, children, kill, lives, parts_of
from support.daemons import Served
from support.programs import CLEAN, LOCAL, command, crawler, crawling, port_of_its_own, rows_of
from support.waiting import wait_until
from support.webs import Answer, Web, page

from crawler.config.sections import Config
from crawler.service.parts import auto
from crawler.service.run import run_crawl

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


def test_a_reload_for_which_a_part_stands_still_leaves_other_changes_their_turn(tmp_path: Path) -> None:
    """They were refused, untried, for as long as it stood still."""
    program = "import crawler.service.reload as reload; reload.IN_EFFECT_S = 0.3; from crawler.cli.main import main; main()"
    config, listen = tmp_path / "crawl.toml", f"127.0.0.1:{port_of_its_own()}"
    config.write_text("retries = 1\n")
    command = ("serve", "--config", str(config), "--data", str(tmp_path / "out"), "--listen", listen, *LOCAL, *TWO)
    web = Web(default=lambda host, path: page())
    with web.running(), subprocess.Popen([sys.executable, "-c", program, *command], env=CLEAN, stderr=subprocess.PIPE) as process:
        daemon = Served(process, listen)
        try:
            daemon.said(rb"control API on port")
            os.kill(parts_of(process.pid)[1], signal.SIGSTOP)
            config.write_text("retries = 2\n")
            process.send_signal(signal.SIGHUP)
            wait_until(lambda: daemon.ask("GET", "/v1/settings")["retries"] == 2)
            with pytest.raises(urllib.error.HTTPError, match="504") as told:
                daemon.ask("POST", "/v1/exclusions", b'{"exclude": ["/no"]}', {"Content-Type": "application/json"})
            assert b"the change holds" in told.value.read(), "and not: try again"
            assert daemon.ask("GET", "/v1/exclusions")["exclude"] == ["/no"]
            os.kill(parts_of(process.pid)[1], signal.SIGCONT)
            daemon.ask("POST", "/v1/seeds", "\n".join(web.url(host, path) for host in HOSTS for path in ("/", "/no")).encode())
            wait_until(lambda: daemon.ask("GET", "/v1/status")["done"] == 2 * len(HOSTS))
            process.terminate()
            said = process.stderr.read() if process.stderr else b""
            assert process.wait(30) == 0
        finally:
            process.kill()
    assert {visit.path for visit in web.visits} == {"/"}, "it has followed"
    for key in (b"retries", b"exclude"):
        assert b"changed: %b; a process of this crawl, or a visit, has not followed yet" % key in said


def test_a_pause_that_one_part_does_not_follow_is_in_the_log(tmp_path: Path) -> None:
    """The others followed it, and 504 was all that was told."""
    program = "import sys, crawler.service.api as api; from crawler.cli.main import main; api.REQUEST_S = 0.5; sys.exit(main())"
    listen = f"127.0.0.1:{port_of_its_own()}"
    command = ("serve", "--data", str(tmp_path), "--listen", listen, *LOCAL, *TWO)
    with subprocess.Popen([sys.executable, "-c", program, *command], env=CLEAN, stderr=subprocess.PIPE) as process:
        daemon = Served(process, listen)
        try:
            daemon.said(rb"control API on port")
            victim = parts_of(process.pid)[1]
            for order in ("pause", "resume"):
                os.kill(victim, signal.SIGSTOP)
                with pytest.raises(urllib.error.HTTPError, match="504"):
                    daemon.ask("POST", f"/v1/{order}")
                os.kill(victim, signal.SIGCONT)
            process.terminate()
            said = process.stderr.read() if process.stderr else b""
            assert process.wait(30) == 0
        finally:
            process.kill()
    assert b"paused by the control API" in said and b"resumed by the control API" in said


def test_a_part_that_is_ended_for_its_silence_is_told_of_once(tmp_path: Path) -> None:
    """Four times a second it was told of, for as long as it did not end: it may wait for a disk."""
    program = (
        "import sys\nfrom crawler.service.parts import crew\n"
        "crew.ANSWER_S = crew.STUCK_S = 0.2\nfrom crawler.cli.main import main\nsys.exit(main())"
    )
    web = Web(default=lambda host, path: Answer(hang=True))
    with web.running():
        command = ("run", *(web.url(host) for host in HOSTS), "-o", str(tmp_path), *LOCAL, *TWO, "--grace", "0.2s")
        run = [sys.executable, "-c", program, *command]
        with subprocess.Popen(run, env=CLEAN, stderr=subprocess.PIPE, text=True) as process:
            try:
                while len(web.visits) < len(HOSTS):
                    time.sleep(0.01)
                nursery, victim = children(process.pid)[0], parts_of(process.pid)[1]
                os.kill(victim, signal.SIGSTOP)
                os.kill(nursery, signal.SIGSTOP)  # which tells the parent that it has ended
                process.terminate()
                wait_until(lambda: not lives(victim))
                time.sleep(1)
                os.kill(nursery, signal.SIGCONT)
                _, talk = process.communicate(timeout=30)
            finally:
                process.kill()
    assert (process.returncode, talk.count("has not answered for"), are_gone([nursery, victim])) == (5, 1, True), talk


def test_what_the_others_receive_counts_while_a_part_stands_still(tmp_path: Path) -> None:
    """They were seen only when it had answered, or ten seconds later."""
    goes_on, asked = threading.Event(), []
    body = page("/x" * 50_000).body
    web = Web(default=lambda host, path: asked.append(host) or Answer(body=body, wait=0.05, until=goes_on.is_set))
    with web.running():
        urls = [web.url(host, f"/{n}") for n in range(100) for host in HOSTS]
        command = ("run", *urls, "-o", str(tmp_path), *LOCAL, *TWO, "--max-bytes", "1MB", "--depth", "0")
        with crawling(*command) as process:
            while len(asked) < len(HOSTS):
                time.sleep(0.01)
            other, victim = parts_of(process.pid)
            os.kill(victim, signal.SIGSTOP)
            goes_on.set()
            wait_until(lambda: not lives(other))
            os.kill(victim, signal.SIGCONT)
            assert process.wait(30) == 5
    assert len(asked) < len(urls) / 4


def test_a_crawl_that_had_taken_what_is_no_url_goes_on_by_several_processes(tmp_path: Path) -> None:
    """As one of an earlier version did. The store was asked by the process that the others were forked from: they waited for ever
    for threads that only that one had."""
    with Web(default=lambda host, path: page()).running() as web:
        urls = [web.url(HOSTS[0]), "no url"]
        settings = {"urls": urls, "output": str(tmp_path), "robots": False, "allow_net": ["127.0.0.0/8"]}
        asyncio.run(run_crawl(Config(**settings, memory_limit=8 << 30)))  # the tests' own process is large
        ended = crawler("run", *urls, web.url(HOSTS[1]), "-o", str(tmp_path), *LOCAL, *TWO)
    assert ended.returncode == 0, ended.stderr
    assert len(rows_of(tmp_path)) == 3


def test_a_process_that_has_opened_a_crawl_itself_begins_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They would have waited for its threads for ever."""
    asyncio.run(run_crawl(Config(urls=["no url"], output=str(tmp_path / "own"), memory_limit=8 << 30)))
    ended = command("run", "http://127.0.0.1:9/", "-o", str(tmp_path / "out"), *TWO)
    assert ended.returncode == 2 and "begin a new process" in ended.stderr
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(auto, "processes_for", lambda config, endless: (2, "2 cores"))
    ended = command("run", "http://127.0.0.1:9/", "-o", str(tmp_path / "out"), *LOCAL)
    assert (ended.returncode, "1 process: this one has opened a crawl itself" in ended.stderr) == (4, True), ended.stderr


def test_a_recrawl_that_is_ordered_again_visits_no_page_twice(tmp_path: Path) -> None:
    """Those that had taken it the first time, while another stood still, visited everything again."""
    program = (
        "import os, signal, sys\nfrom crawler.service.parts import steering\nstopped = []\nask = steering.SteeredParts._ask\n"
        "async def stopping(self, part, name, *arguments):\n"
        "    if (part, name) == (1, 'recrawl') and not stopped:\n"
        "        stopped.append(os.kill(self._crew._nursery.pids[1], signal.SIGSTOP))\n"
        "        steering.GONE_S = 0.3\n"
        "    return await ask(self, part, name, *arguments)\n"
        "steering.SteeredParts._ask = stopping\nfrom crawler.cli.main import main\nsys.exit(main())"
    )
    listen = f"127.0.0.1:{port_of_its_own()}"
    command = ("serve", "--data", str(tmp_path), "--listen", listen, *LOCAL, *TWO)
    web = Web(default=lambda host, path: page())

    def visits() -> Counter[tuple[str, str]]:
        return Counter((visit.host, visit.path) for visit in web.visits)

    with web.running(), subprocess.Popen([sys.executable, "-c", program, *command], env=CLEAN, stderr=subprocess.PIPE) as process:
        daemon = Served(process, listen)
        try:
            daemon.said(rb"control API on port")
            daemon.ask("POST", "/v1/seeds", "\n".join(web.url(host, path) for host in HOSTS for path in ("/", "/last")).encode())
            wait_until(lambda: daemon.ask("GET", "/v1/status")["done"] == 2 * len(HOSTS))
            with pytest.raises(urllib.error.HTTPError, match="504"):
                daemon.ask("POST", "/v1/recrawl?match=/$")
            wait_until(lambda: 2 in visits().values())
            os.kill(parts_of(process.pid)[1], signal.SIGCONT)
            daemon.ask("POST", "/v1/recrawl?match=/$")
            wait_until(lambda: all(visits()[host, "/"] >= 2 for host in HOSTS))
            daemon.ask("POST", "/v1/recrawl?match=last")
            wait_until(lambda: all(visits()[host, "/last"] == 2 for host in HOSTS))
            process.terminate()
            assert process.wait(30) == 0
        finally:
            process.kill()
    assert set(visits().values()) == {2}
