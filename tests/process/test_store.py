"""``--store``: whatever is killed, down or slow, every full file is in the store once and whole in the end."""

import os
import random
import signal
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from support.crews import are_gone, parts_of
from support.daemons import served
from support.object_store import BUCKET, object_store
from support.programs import CLEAN, LOCAL, command, command_of, crawler, crawling
from support.waiting import wait_until
from support.webs import Web, page
from support.wire import wire

from crawler.crawl.reading import open_crawl_reader

KILLS = int(os.environ.get("KILLS", "2"))


@pytest.fixture(scope="module")
def s3():
    with object_store() as store:
        yield store


@pytest.fixture(scope="module")
def web():
    web = Web()
    web.default = lambda host, path: page()
    with web.running():
        yield web


def kept(root: Path) -> dict[str, bytes]:
    """Every file that is marked; all are stored."""
    with open_crawl_reader(root) as reader:
        marks = dict(reader.marks)
    assert all(mark.stored for file, mark in marks.items() if not file.startswith("exchange/")), marks
    return {file: (root / file).read_bytes() for file in marks if not file.startswith("exchange/")}


@pytest.mark.timeout(60 + 10 * KILLS)
def test_killed_again_and_again_each_file_is_stored_once_and_whole(s3, web, tmp_path):
    rng = random.Random(seed := os.environ.get("KILLS_SEED", time.time_ns()))
    print(f"KILLS_SEED={seed}")
    root = tmp_path / "out"
    urls = tmp_path / "urls.txt"
    urls.write_text("".join(web.url(f"127.0.7.{n % 20 + 1}", f"/{n}") + "\n" for n in range(30 * KILLS)))
    settings = ("--processes", "2", "--store", f"s3://{BUCKET}/killed", "--roll-size", "4kB", "--min-free-disk", "0")
    arguments = ("run", "-i", str(urls), "-o", str(root), *LOCAL, *settings)
    for _ in range(KILLS):
        options = {"env": CLEAN | s3.environ, "stdin": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(command_of((*arguments, "--rate", "30")), **options) as process:
            while len(parts_of(process.pid)) < 2 and process.poll() is None:
                time.sleep(0.01)
            time.sleep(rng.uniform(0.2, 1.2))
            parts = parts_of(process.pid)
            process.kill()
        assert are_gone(parts)
    done = crawler(*arguments, environ=s3.environ)
    assert done.returncode == 0, done.stderr
    assert s3.objects("killed") == kept(root)
    assert command("verify", str(root)).returncode == 0


def test_killed_while_an_object_is_on_its_way_nothing_of_it_is_seen(s3, web, tmp_path):
    root, is_stuck = tmp_path / "out", threading.Event()
    url = web.url("127.0.7.1", "/")
    arguments = ("run", url, "-o", str(root), *LOCAL, "--store", f"s3://{BUCKET}/halves", "--min-free-disk", "0")
    with wire(s3.port) as line:

        def up(data: bytes) -> bytes:
            if not is_stuck.is_set() and not data.startswith(b"PUT "):
                return data
            is_stuck.set()
            return data[: len(data) // 2]

        line.up = up
        environ = CLEAN | s3.environ | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{line.port}"}
        with subprocess.Popen(command_of(arguments), env=environ, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            assert is_stuck.wait(30)
            process.kill()
    assert s3.objects("halves") == {}
    done = command(*arguments, environ=s3.environ)
    assert done.returncode == 0 and s3.objects("halves") == kept(root), done.stderr


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_signal_that_cuts_off_what_is_to_be_stored_has_stopped_the_crawl(tmp_path, processes):
    """All was fetched: by one process it was called a fault of the store, exit 3."""
    store, is_away = tmp_path / "there", threading.Event()
    web = Web(default=lambda host, path: page(until=is_away.is_set))
    arguments = ("-o", str(tmp_path / "out"), *LOCAL, "--processes", processes, "--parsers", "0", "--grace", "1s")
    to = ("--store", f"file://{store}")
    with web.running(), crawling("run", web.url("127.0.7.1", "/"), *arguments, *to, "--progress", "none") as process:

        def said(what):
            while what not in (line := process.stderr.readline()):
                assert line, "it has ended"

        said("full files are stored at")
        store.write_text("no directory")
        is_away.set()
        said("wait to be stored")
        process.terminate()
        assert process.wait(30) == 5 and "stopped before the end (SIGTERM)" in process.stderr.read()


def test_a_daemon_rolls_by_time_tells_of_trouble_and_drains_within_its_grace(web, tmp_path):
    root, there = tmp_path / "out", tmp_path / "there"
    more = ("--store", f"file://{there}", "--roll-time", "100ms", "--grace", "3s", "--metrics-listen", "127.0.0.1:0")
    with served(root, *more) as daemon:
        daemon.ask("POST", "/v1/seeds", web.url("127.0.7.1", "/a").encode())
        wait_until(lambda: metric(daemon, "crawler_upload_files_total") >= 3)
        there.rename(tmp_path / "moved")
        there.write_text("no directory")
        daemon.ask("POST", "/v1/seeds", web.url("127.0.7.2", "/b").encode())
        wait_until(lambda: daemon.ask("GET", "/v1/status")["store_trouble"])
        assert (status := daemon.ask("GET", "/v1/status"))["unstored"] > 0 and status["unstored_bytes"] > 0
        assert metric(daemon, "crawler_upload_waiting_files") > 0 and metric(daemon, "crawler_upload_failures_total") > 0
        assert daemon.ask("GET", "/v1/status")["outcomes"] == status["outcomes"] == {**status["outcomes"], "ok": 2}
        shown = command("status", "--listen", daemon.listen).stdout
        assert "wait to be stored: " in shown and "there" in shown, shown
        daemon.process.send_signal(signal.SIGTERM)
        daemon.said(r"\d+ files \(\d+ MiB\) are not stored: .*; the next start goes on with them")
        assert daemon.process.wait(30) == 0


def metric(daemon, name: str) -> float:
    with urllib.request.urlopen(f"http://{daemon.listen}/metrics", timeout=10) as response:
        return next(float(line.split()[1]) for line in response.read().decode().splitlines() if line.startswith(f"{name} "))
