"""No signal kills a crawl before it has said so: from the moment it can hear them to its exit."""

import contextlib
import fcntl
import os
import pty
import resource
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support import webs
from support.programs import CLEAN, LOCAL, command_of, crawler, crawling, rows_of
from support.waiting import wait_until

HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


@pytest.fixture(scope="module")
def web():
    web = webs.Web({"127.0.0.2": {"/slow": webs.Answer(hang=True)}}, default=lambda host, path: webs.text(f"page {path}"))
    with web.running():
        yield web


def listens(process: subprocess.Popen, number: signal.Signals = signal.SIGUSR2) -> bool:
    """Whether it has a handler for a signal by now: the interpreter has none while it starts."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    caught = int(next(line.split()[1] for line in lines if line.startswith("SigCgt")), 16)
    return bool(caught >> number - 1 & 1)


def wait_until_it_listens(process: subprocess.Popen) -> None:
    while not listens(process):
        assert process.poll() is None
        time.sleep(0.002)


def test_signals_that_only_ask_never_kill_however_many_come_and_whenever(web, tmp_path):
    urls = [web.url("127.0.0.1", f"/{n}") for n in range(10)]
    with crawling("run", *urls, "-o", str(tmp_path), *LOCAL, "--progress", "none") as process:
        wait_until_it_listens(process)
        with ThreadPoolExecutor(1) as reader:
            heard = reader.submit(process.stderr.read)  # a pipe that nobody reads would hold up its end
            while process.poll() is None:
                process.send_signal(signal.SIGUSR1)
                process.send_signal(signal.SIGUSR2)
                time.sleep(0.002)
            said = heard.result()
    assert process.returncode == 0, said
    assert "10 of 10 URLs settled" in said and "/10 URLs" in said and "blocks allocated" in said
    assert len(rows_of(tmp_path)) == 10


def test_what_is_sent_to_all_of_a_service_kills_no_parser_either(web, tmp_path):
    """As ``systemctl kill`` does, and a terminal: also to parsers that have just been started."""
    urls = [web.url("127.0.0.1", f"/{n}") for n in range(10)]
    command = command_of(["run", *urls, "-o", str(tmp_path), *LOCAL, "--depth", "1", "--parsers", "2", "--progress", "none"])
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=CLEAN, text=True, start_new_session=True, **streams) as process:
        wait_until_it_listens(process)
        with ThreadPoolExecutor(1) as reader:
            heard = reader.submit(process.stderr.read)
            while process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGUSR1)
                time.sleep(0.005)
            said = heard.result()
    assert process.returncode == 0 and "10 of 10 URLs settled" in said, said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("moment", ["at its start", "while it opens", "while it crawls"])
def test_a_signal_that_stops_drains_whenever_it_comes(web, tmp_path, number, moment):
    urls = [web.url("127.0.0.1", f"/{n}") for n in range(30)]
    command = ("run", *urls, "-o", str(tmp_path), *LOCAL, "--rate", "2", "--progress", "plain")
    with crawling(*command) as process:
        wait_until_it_listens(process)
        while moment == "while it opens" and not (tmp_path / "frontier").exists():
            assert process.poll() is None
            time.sleep(0.001)
        if moment == "while it crawls":
            process.stderr.readline()
            process.stderr.readline()
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 5, said
    assert f"stopped before the end ({number.name})" in said
    assert crawler(*command, "--rate", "0").returncode == 0
    assert sorted(row["url"] for row in rows_of(tmp_path)) == sorted(urls)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_second_ends_at_once_also_before_it_crawls(web, tmp_path, number):
    with crawling("run", web.url("127.0.0.2", "/slow"), "-o", str(tmp_path), *LOCAL, "--grace", "1h") as process:
        wait_until_it_listens(process)
        process.send_signal(number)
        process.send_signal(signal.SIGTERM if number != signal.SIGTERM else signal.SIGINT)
        assert process.wait(60) == 5


def test_who_was_started_to_survive_its_terminal_survives_it(web, tmp_path):
    urls = [web.url("127.0.0.1", f"/{n}") for n in range(20)]
    command = ["nohup", *command_of(["run", *urls, "-o", str(tmp_path), *LOCAL, "--rate", "50", "--progress", "none"])]
    with subprocess.Popen(
        command, env=CLEAN, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        wait_until_it_listens(process)
        while process.poll() is None:
            process.send_signal(signal.SIGHUP)
            time.sleep(0.01)
    assert process.returncode == 0 and len(rows_of(tmp_path)) == 20


@pytest.mark.parametrize("progress", ["bar", "plain"])
def test_a_terminal_that_is_closed_drains_it_and_what_it_says_to_nobody_does_no_harm(web, tmp_path, progress):
    leader, follower = pty.openpty()

    def own_terminal() -> None:
        os.setsid()
        fcntl.ioctl(follower, termios.TIOCSCTTY, 0)

    urls = [web.url("127.0.0.1", f"/{n}") for n in range(200)]
    command = ("run", *urls, "-o", str(tmp_path), *LOCAL, "--rate", "20", "--progress", progress)
    streams = {"stdin": follower, "stdout": follower, "stderr": follower}
    process = subprocess.Popen(command_of(command), env=CLEAN | {"TERM": "xterm"}, preexec_fn=own_terminal, **streams)
    os.close(follower)
    drawn = b""
    while drawn.count(b"URLs") < 1:
        drawn += os.read(leader, 65536)
    os.close(leader)
    assert process.wait(60) == 5
    assert crawler(*command, "--rate", "0").returncode == 0
    assert len(rows_of(tmp_path)) == 200


@pytest.mark.parametrize("processes", ["1", "2"])
def test_the_second_gives_the_terminal_back_and_says_what_continues(web, tmp_path, processes):
    leader, follower = pty.openpty()
    words = ["run", web.url("127.0.0.2", "/slow"), "-o", str(tmp_path), *LOCAL, "--processes", processes]
    streams = {"stdin": follower, "stdout": follower, "stderr": follower}
    with subprocess.Popen(command_of(words), env=CLEAN | {"TERM": "xterm"}, **streams) as process:
        os.close(follower)
        drawn = b""
        for awaited in (b"1 in flight", b"draining"):
            while awaited not in drawn:
                drawn += os.read(leader, 65536)
            process.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):  # EIO: the other side is closed
            while chunk := os.read(leader, 65536):
                drawn += chunk
        assert process.wait(60) == 5
    os.close(leader)
    assert drawn.rindex(b"\x1b[?25h") > drawn.rindex(b"\x1b[?25l"), "the cursor is shown again"
    assert drawn.endswith(b"crawler: ended at once: the same command continues\r\n")


def test_a_reader_of_its_talk_that_goes_away_does_not_end_it(web, tmp_path):
    urls = [web.url("127.0.0.1", f"/{n}") for n in range(20)]
    with crawling(
        "run", *urls, "-o", str(tmp_path), *LOCAL, "--rate", "50", "--progress", "plain", "--max-pages", "10"
    ) as process:
        process.stderr.readline()
        process.stderr.close()
        assert process.wait(60) == 5, "its own exit code, not one for the reader"
    assert len(rows_of(tmp_path)) >= 10


@contextlib.contextmanager
def full_pipe() -> Iterator[tuple[int, int]]:
    """(end that could be read, end that takes nothing): a write blocks."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"x")
    os.set_blocking(writing, True)
    try:
        yield reading, writing
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_daemon_whose_log_nobody_reads_ends_all_the_same(tmp_path, processes):
    command = ("serve", "--data", str(tmp_path), "--listen", "127.0.0.1:0", "--processes", processes)
    with full_pipe() as (_, writing), subprocess.Popen(command_of(command), env=CLEAN, stderr=writing) as process:
        try:
            wait_until_it_listens(process)
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()


def test_a_crawl_goes_on_while_nobody_reads_what_it_says(web, tmp_path):
    urls = [web.url("127.0.0.1", f"/{n}") for n in range(20)]
    command = command_of(("run", *urls, "-o", str(tmp_path), *LOCAL, "--progress", "plain"))
    with full_pipe() as (reading, writing), subprocess.Popen(command, env=CLEAN, stderr=writing) as process:
        try:
            rows = tmp_path / "results" / "results-000000.jsonl"
            wait_until(lambda: rows.exists() and rows.read_bytes().count(b"\n") == 20)
            os.set_blocking(reading, False)
            while process.poll() is None:
                with contextlib.suppress(BlockingIOError):
                    os.read(reading, 1 << 16)
            assert process.returncode == 0
        finally:
            process.kill()


def test_the_daemon_hears_what_came_before_it_was_open(tmp_path):
    config = tmp_path / "crawler.toml"
    config.write_text("delay = 3\n")
    out = tmp_path / "out"
    command = ("serve", "--data", str(out), "-c", str(config), "--listen", "127.0.0.1:0", "--log-format", "text")
    with crawling(*command) as process:
        wait_until_it_listens(process)
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            process.send_signal(number)
        said = ""
        while not ("blocks allocated" in said and "URLs" in said):
            line = process.stderr.readline()
            assert line, said
            said += line
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 0


USER = """
import asyncio, signal, sys
from crawler import Config, run_crawl
mine = signal.signal(signal.SIGUSR1, lambda *_: None)
before = [signal.getsignal(number) for number in {handled}]
asyncio.run(run_crawl(Config(urls=[sys.argv[1]], output=sys.argv[2], allow_net=["127.0.0.0/8"])))
assert before == [signal.getsignal(number) for number in {handled}]
"""


def test_a_program_of_somebody_else_gets_its_own_handlers_back(web, tmp_path):
    program = USER.format(handled=[int(number) for number in HANDLED])
    command = [sys.executable, "-c", program, web.url("127.0.0.1", "/1"), str(tmp_path)]
    subprocess.run(command, env=CLEAN, check=True, capture_output=True, text=True)
    assert [row["outcome"] for row in rows_of(tmp_path) if row["kind"] == "seed"] == ["ok"]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core: there is nothing to choose")
def test_a_crawl_runs_its_interpreter_on_one_core_and_nothing_else_of_it(web, tmp_path):
    """Of its threads the loop's, the engine's and the writer's; parsers, and what the store begins, run where they may."""
    urls = [web.url("127.0.0.1", "/page"), web.url("127.0.0.2", "/slow")]
    all_cores = os.sched_getaffinity(0)
    with crawling("run", *urls, "-o", str(tmp_path), *LOCAL, "--depth", "1", "--progress", "none") as process:
        tasks = Path(f"/proc/{process.pid}/task")

        def is_bound() -> bool:
            """By one look; raises ProcessLookupError where a thread or a parser ends meanwhile."""
            parsers = [int(pid) for pid in Path(tasks, str(process.pid), "children").read_text().split()]
            threads = {int(task.name): os.sched_getaffinity(int(task.name)) for task in tasks.iterdir()}
            bound = [cores for cores in threads.values() if cores != all_cores]
            same = len(bound) == 3 and threads[process.pid] in bound and all(cores == bound[0] for cores in bound)
            return same and len(bound[0]) == 1 and any(parsers) and all(os.sched_getaffinity(pid) == all_cores for pid in parsers)

        found = False
        while not found:
            assert process.poll() is None
            time.sleep(0.01)
            with contextlib.suppress(ProcessLookupError):
                found = is_bound()
        process.kill()
        process.communicate()


def test_a_crawl_that_is_stopped_while_it_has_no_descriptors_ends_without_a_traceback(web, tmp_path):
    urls = [web.url("127.0.0.1", f"/{n}") for n in range(200)]
    command = ("run", *urls, "-o", str(tmp_path), *LOCAL)
    with crawling(*command, "--rate", "20") as process:
        wait_until(lambda: sum(path.stat().st_size for path in (tmp_path / "results").rglob("*.jsonl")))
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 3 and "ulimit -n" in said and "Traceback" not in said, said
    assert crawler(*command).returncode == 0
    assert sorted(row["url"] for row in rows_of(tmp_path)) == sorted(urls)
