"""``crawler serve`` as a service manager, an operator and a script meet it: signals, notices, clients, kills."""

import contextlib
import gzip
import itertools
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.daemons import Served, served
from support.full_disk import file_size_limit
from support.programs import CLEAN, LOCAL, command, crawler, crawling, port_of_its_own, rows_of
from support.sinful import Site, head, once, running, stay
from support.waiting import wait_until

from crawler.cli import client as client_module
from crawler.cli.change_commands import retry


@pytest.fixture(scope="module")
def site():
    with running(Site(scripts={"slow": [30.0, head(2) + b"ok", stay]})) as site:
        yield site


def unreachable(count):
    return "\n".join(f"http://host-{n % 97}.test/{n}" for n in range(count)).encode()


def until(daemon, **wanted):
    def status():
        told = daemon.ask("GET", "/v1/status")
        return told if all(told[key] == value for key, value in wanted.items()) else None

    return wait_until(status)


def answer_of(port, path):
    """Status and body; None where nobody listens."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}") as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read()
    except urllib.error.URLError:
        return None


def ended(daemon, number=signal.SIGTERM):
    """Exit code and the rest of the log."""
    daemon.process.send_signal(number)
    return daemon.process.wait(30), daemon.process.stderr.read()


# -- lifecycle --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_it_and_that_is_a_good_end(tmp_path, site, number):
    drains = threading.Event()
    site.scripts["held"] = [once(drains.is_set), head(2) + b"ok", stay]
    with served(tmp_path / "d") as daemon:
        daemon.ask("POST", "/v1/seeds", f"http://127.0.0.1:{site.ports['http']}/sin/held".encode())
        until(daemon, in_flight=1)
        daemon.process.send_signal(number)
        until(daemon, state="draining")
        drains.set()
        code, log = daemon.process.wait(30), daemon.process.stderr.read()
    assert (code, number.name in log) == (0, True)
    assert [row["outcome"] for row in rows_of(tmp_path / "d")] == ["ok"], "what was in flight was finished"


def test_a_second_signal_ends_it_at_once_without_loss(tmp_path, site):
    with served(tmp_path / "d") as daemon:
        daemon.ask("POST", "/v1/seeds", f"http://127.0.0.1:{site.ports['http']}/sin/slow".encode())
        until(daemon, in_flight=1)
        daemon.process.send_signal(signal.SIGTERM)
        until(daemon, state="draining")
        assert ended(daemon)[0] == 5
    with served(tmp_path / "d") as daemon:
        assert daemon.ask("GET", "/v1/status")["waiting"] == 1


def test_it_does_not_end_by_itself_and_each_of_run_and_serve_continues_the_other(tmp_path, site):
    root = tmp_path / "d"
    assert command("run", *site.good(2), "-o", str(root), *LOCAL).returncode == 0
    with served(root) as daemon:
        assert daemon.ask("GET", "/v1/status")["done"] == 2
        daemon.ask("POST", "/v1/seeds", "\n".join(site.good(3, first=1)).encode())
        until(daemon, done=4)
        assert ended(daemon)[0] == 0
    done = command("run", *site.good(2), *site.good(1, first=9), "-o", str(root), *LOCAL)
    assert done.returncode == 0, done.stderr
    assert sorted(row["url"] for row in rows_of(root) if row["outcome"] == "ok") == sorted(
        [*site.good(4), *site.good(1, first=9)]
    )


def test_an_address_in_use_is_said_plainly(tmp_path):
    out = str(tmp_path / "d")
    run = ("run", "http://127.0.0.1:9/", "-o", out, *LOCAL)
    serve = ("serve", "--data", out, "--listen", "127.0.0.1:0")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for words in (
            ("serve", "--data", out, "--listen", address),
            (*serve, "--metrics-listen", address),
            (*run, "--metrics-listen", address, "--processes", "1"),
            (*run, "--metrics-listen", address, "--processes", "2", "--memory-limit", "1GiB"),
            (*run, "--metrics-listen", address, "--fresh"),
        ):
            done = crawler(*words)
            assert (done.returncode, "cannot listen on" in done.stderr, "Traceback" in done.stderr) == (2, True, False)
            assert not (tmp_path / "d").exists(), "nothing is begun"
    done = crawler("serve", "--data", out, "--listen", address, "--metrics-listen", address)
    assert (done.returncode, "cannot listen on" in done.stderr, (tmp_path / "d").exists()) == (2, True, False), "one for two"


def test_an_address_in_use_sets_no_crawl_aside_and_the_lock_is_asked_first(tmp_path):
    out = tmp_path / "d"
    with served(out) as daemon:
        done = crawler("serve", "--data", str(out), "--listen", daemon.listen, "--fresh")
        assert (done.returncode, "in use by another process" in done.stderr) == (75, True)
        other = tmp_path / "other"
        assert crawler("run", "http://127.0.0.1:9/", "-o", str(other), "--archive", "discard").returncode == 4
        done = crawler("serve", "--data", str(other), "--listen", daemon.listen, "--fresh")
        assert (done.returncode, "cannot listen on" in done.stderr) == (2, True)
        assert (other / "frontier").exists() and not list(other.glob("previous-*"))


def test_two_daemons_do_not_share_a_directory(tmp_path):
    with served(tmp_path / "d"):
        assert crawler("serve", "--data", str(tmp_path / "d"), "--listen", "127.0.0.1:0").returncode == 75


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_daemon_that_goes_on_while_the_disk_is_full_waits_for_room(tmp_path, processes):
    """It ended with exit 3, five times within a minute, and systemd began it no more, whatever room was made afterwards."""
    options = ("--processes", processes, "--memory-limit", "1GiB", "--parsers", "0", "--no-robots")
    with served(tmp_path, *options) as daemon:
        assert ended(daemon)[0] == 0
    port = port_of_its_own()
    arguments = ("serve", "--data", str(tmp_path), "--listen", f"127.0.0.1:{port}", "--log-format", "text", *options)
    for is_stopped in (True, False):
        with file_size_limit(0), crawling(*arguments) as process:
            daemon = Served(process, f"127.0.0.1:{port}")
            daemon.said(r"disk: .*crawl.toml.*File too large.*; the crawl is opened when there is room")
            if is_stopped:
                code, said = ended(daemon)
                assert code == 0 and "ended by SIGTERM while waiting for the disk: the crawl was not opened" in said
                continue
            wait_until(lambda: answer_of(port, "/readyz") == (503, b"waits for disk\n"))
            wait_until(lambda: answer_of(port, "/livez") == (200, b"ok\n"))
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            said = list(itertools.takewhile(lambda line: "control API on port" not in line, process.stderr))
            is_warned = sum("robots.txt is not obeyed" in line for line in said)
            assert is_warned == (processes == "2"), "of several the first opening comes no further; it is said once"
            until(daemon, state="running")
            assert ended(daemon)[0] == 0


@contextlib.contextmanager
def unread():
    """The end of a pipe that takes no more, until the block is left."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    for size in (4096, 1):
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, b"x" * size)
    os.set_blocking(writer, True)
    try:
        yield writer
    finally:
        os.close(writer)
        os.close(reader)


@contextlib.contextmanager
def unheard(*words, log, stderr=None):
    program = [sys.executable, "-m", "crawler", *words]
    with subprocess.Popen(program, env=CLEAN, stderr=stderr or log, pass_fds=[log]) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_daemon_whose_log_nobody_reads_ends_while_it_waits_for_room(tmp_path):
    """The program that reads its log may wait for the same disk."""
    options = ("--processes", "1", "--parsers", "0")
    with served(tmp_path, *options) as daemon:
        assert ended(daemon)[0] == 0
    port = port_of_its_own()
    words = ("serve", "--data", str(tmp_path), "--listen", f"127.0.0.1:{port}", *options)
    with unread() as log, file_size_limit(0), unheard(*words, log=log) as process:
        wait_until(lambda: answer_of(port, "/readyz") == (503, b"waits for disk\n"))
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_a_crawl_that_cannot_be_opened_ends_where_nobody_reads_its_log(tmp_path, site):
    """As long as it stood there no service manager began it again, or told anybody."""
    options = (*LOCAL, "--processes", "1", "--no-robots")
    assert crawler("run", *site.good(1), "-o", str(tmp_path), *options).returncode == 0
    (warc,) = (tmp_path / "warc").iterdir()
    warc.unlink()
    serve = ("serve", "--data", str(tmp_path), "--listen", "127.0.0.1:0", *options)
    with unread() as log:
        with unheard(*serve, log=log) as process:
            assert process.wait(20) == 3
        run = ("run", "-o", str(tmp_path), *options, "--log-file", f"/dev/fd/{log}")
        with unheard(*run, log=log, stderr=subprocess.DEVNULL) as process:
            assert process.wait(20) == 3


STOPPED = """
import os, signal, sys
from crawler.cli import daemon_commands
from crawler.cli.main import main

opened_for = daemon_commands.opened_for

def stopped(*arguments):
    os.kill(os.getpid(), signal.SIGTERM)
    return opened_for(*arguments)

daemon_commands.opened_for = stopped
sys.exit(main(sys.argv[1:]))
"""


def test_a_daemon_that_is_told_to_stop_while_it_cannot_be_opened_ends_well(tmp_path):
    """With several processes it ended with exit 3."""
    options = ("--processes", "2", "--memory-limit", "1GiB", "--parsers", "0")
    with served(tmp_path, *options) as daemon:
        assert ended(daemon)[0] == 0
    limit = (tmp_path / "crawl.toml").stat().st_size + 100  # the stores have larger files
    words = ("serve", "--data", str(tmp_path), "--listen", "127.0.0.1:0", "--log-format", "text", *options)
    with file_size_limit(limit):
        told = subprocess.run(
            [sys.executable, "-c", STOPPED, *words], env=CLEAN, capture_output=True, text=True, timeout=60, check=False
        )
    assert told.returncode == 0 and "ended by SIGTERM" in told.stderr and "File too large" in told.stderr, told


def test_a_directory_that_cannot_be_begun_on_a_full_disk_is_an_error(tmp_path):
    """Whoever begins it is there to see it."""
    with file_size_limit(0), crawling("serve", "--data", str(tmp_path / "d"), "--listen", "127.0.0.1:0") as process:
        assert process.wait(30) == 3 and "File too large" in process.stderr.read()


@pytest.mark.parametrize("lines", [20_000])
def test_acknowledged_seeds_survive_a_kill(tmp_path, lines):
    root = tmp_path / "d"
    with served(root) as daemon:
        daemon.ask("POST", "/v1/pause")
        told = daemon.ask("POST", "/v1/seeds?list=mine", gzip.compress(unreachable(lines)))
        daemon.process.kill()
        assert told["accepted"] == lines
    with served(root) as daemon:
        assert daemon.ask("GET", "/v1/status")["known"] == lines
        daemon.ask("POST", "/v1/pause")
        assert daemon.ask("POST", "/v1/seeds?list=mine", unreachable(lines))["accepted"] == 0


def test_an_upload_that_a_kill_cut_is_continued_under_its_name(tmp_path):
    root, body = tmp_path / "d", unreachable(60_000)
    with served(root) as daemon:
        daemon.ask("POST", "/v1/pause")
        host, port = daemon.listen.split(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(b"POST /v1/seeds?list=big HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body))
            connection.sendall(body[: len(body) // 2])
            while not daemon.ask("GET", "/v1/status")["known"]:
                time.sleep(0.01)
            daemon.process.kill()
    with served(root) as daemon:
        daemon.ask("POST", "/v1/pause")
        known = daemon.ask("GET", "/v1/status")["known"]
        assert known
        told = daemon.ask("POST", "/v1/seeds?list=big", body)
        assert told["lines"] == 60_000
        assert known + told["accepted"] == 60_000 == daemon.ask("GET", "/v1/status")["known"]


# -- signals ----------------------------------------------------------------------------------------------------------


def test_a_reload_takes_over_what_may_change_and_says_what_may_not(tmp_path):
    file = tmp_path / "crawler.toml"
    file.write_text('rate = 5\nworkers = 7\nmetrics_listen = "127.0.0.1:0"\n')
    with served(tmp_path / "d", "--config", str(file)) as daemon:
        file.write_text("rate = 6\nworkers = 8\n")
        daemon.process.send_signal(signal.SIGHUP)
        assert daemon.said(r"workers has changed; it takes effect with the next start")
        assert daemon.said(r"changed: rate")
        told = daemon.ask("GET", "/v1/settings")
        assert (told["rate"], told["workers"], told["delay"]) == (6.0, 7, 0.0), "flags still win"
        file.write_text('rate = "fast"\nworkers = 0\n')
        daemon.process.send_signal(signal.SIGHUP)
        assert daemon.said(r"reload refused")
        assert daemon.said(r"workers '?0'?: must be at least 1")
        assert daemon.said(r"rate 'fast': must be a number")
        assert daemon.ask("GET", "/v1/settings")["rate"] == 6.0
        assert metric(daemon, "crawler_config_last_reload_successful") == 0
        file.write_text("rate = 7\n")
        daemon.process.send_signal(signal.SIGHUP)
        daemon.said(r"changed: rate")
        assert metric(daemon, "crawler_config_last_reload_successful") == 1
        assert "rate = 7" in (tmp_path / "d" / "crawl.toml").read_text()


def test_a_reload_tells_for_each_setting_what_it_takes(tmp_path):
    """What a crawl was begun with would be refused by the next start: to say that it takes effect then would be false."""
    file = tmp_path / "crawler.toml"
    file.write_text("")
    with served(tmp_path / "d", "--config", str(file)) as daemon:
        changed = {"archive": '"files"', "depth": "3", "scope": '"domain"'}
        changed |= {"drop_params": '["z"]', "sort_query": "true", "store": '"memory"', "workers": "7", "max_url": "99"}
        changed |= {"urls": '["http://a.test/"]'}
        file.write_text("".join(f"{key} = {value}\n" for key, value in changed.items()))
        daemon.process.send_signal(signal.SIGHUP)
        said = {}
        while said.keys() != changed.keys():
            found = daemon.said(r"reload: (\w+) has changed; (.*)$")
            said[found[1]] = found[2]
    for key, text in said.items():
        assert ("--fresh" in text) == (key not in ("workers", "max_url", "urls")), (key, text)
        assert ("with the next start" in text) == (key in ("workers", "max_url", "urls")), (key, text)
    (tmp_path / "list").write_text("")
    for key, text in said.items():  # and that is so
        file.write_text(f"{key} = {changed[key]}\n")
        ended = command("run", "-o", str(tmp_path / "d"), "-c", str(file), "-i", str(tmp_path / "list"), "--max-time", "100ms")
        assert (ended.returncode == 2) == ("--fresh" in text), (key, ended)


def test_a_reload_takes_over_nothing_that_the_crawl_as_it_was_begun_forbids(tmp_path):
    file = tmp_path / "crawler.toml"
    file.write_text('archive = "files"\n')
    with served(tmp_path / "d", "--config", str(file)) as daemon:
        file.write_text('retain_age = "30d"\nrate = 3\n')  # fine with warc, as it stands there now
        daemon.process.send_signal(signal.SIGHUP)
        assert daemon.said(r"reload refused|changed: ")[0] == "reload refused"
        assert daemon.said(r"retain_age: does not cover bodies kept with archive = files")
        told = daemon.ask("GET", "/v1/settings")
        assert (told["retain_age"], told["rate"]) == (0.0, 0.0)
        assert metric(daemon, "crawler_config_last_reload_successful") == 0


def test_a_reload_that_finds_too_few_descriptors_is_refused_and_ends_nothing(tmp_path):
    """Whether a text that is no URL was taken by an earlier version is asked of the store."""
    file = tmp_path / "crawler.toml"
    file.write_text("")
    with served(tmp_path / "d", "--config", str(file)) as daemon:
        file.write_text('urls = ["no-url"]\n')
        used = {int(fd) for fd in os.listdir(f"/proc/{daemon.process.pid}/fd")}
        limits = resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE)
        fewer = min(set(range(len(used) + 1)) - used) + 1
        resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE, (fewer, limits[1]))
        daemon.process.send_signal(signal.SIGHUP)
        assert daemon.said(r"reload refused|ended by")[0] == "reload refused"
        resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE, limits)
        assert metric(daemon, "crawler_config_last_reload_successful") == 0


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_reload_that_hangs_does_not_hold_up_the_end(tmp_path, processes):
    """Only a second signal ended it: the file stands on a disk that hangs."""
    file = tmp_path / "crawler.toml"
    file.write_text("")
    options = ("--processes", processes, "--memory-limit", "1GiB", "--parsers", "0")
    with served(tmp_path / "d", "--config", str(file), *options) as daemon:
        file.unlink()
        os.mkfifo(file)
        daemon.process.send_signal(signal.SIGHUP)
        other = None
        while other is None:  # until it reads
            with contextlib.suppress(OSError):
                other = os.open(file, os.O_WRONLY | os.O_NONBLOCK)
        daemon.process.terminate()
        assert daemon.process.wait(30) == 0
        os.close(other)


def test_the_log_may_be_a_file_that_is_rotated(tmp_path):
    log = tmp_path / "crawler.log"
    with crawling("serve", "--data", str(tmp_path / "d"), "--listen", "127.0.0.1:0", "--log-file", str(log)) as process:
        while not log.exists() or "control API on port" not in log.read_text():
            time.sleep(0.02)
        log.rename(tmp_path / "crawler.log.1")
        while not log.exists() or not log.read_text().endswith("\n"):
            process.send_signal(signal.SIGUSR1)
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0 and process.stderr.read() == ""
        told = [json.loads(line) for line in log.read_text().splitlines()]
        assert told[-1]["event"].startswith("ended by SIGTERM") and told[-1]["level"] == "info"


def test_a_level_that_was_changed_holds_for_all_that_is_said(tmp_path):
    with served(tmp_path / "d") as daemon:
        daemon.ask("PATCH", "/v1/settings", b'{"log_level": "error"}', {"Content-Type": "application/json"})
        daemon.ask("POST", "/v1/pause")
        code, said = ended(daemon)
        assert (code, "paused by" in said, "ended by" in said) == (0, False, False)


def metric(daemon, name):
    with urllib.request.urlopen(f"http://{daemon.listen}/metrics") as answer:
        (value,) = [line.split()[-1] for line in answer.read().decode().splitlines() if line.split(" ")[0] == name]
    return float(value)


def test_signals_ask_for_a_status_line_and_a_memory_report(tmp_path):
    with served(tmp_path / "d") as daemon:
        daemon.process.send_signal(signal.SIGUSR1)
        assert daemon.said(r"0/0\+? URLs · ")
        daemon.process.send_signal(signal.SIGUSR2)
        assert daemon.said(r"memory: [\d.]+ of [\d.]+ MiB")
        assert daemon.said(r"Visitor.work")


def test_systemd_is_told_how_it_goes(tmp_path):
    told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    told.bind(str(tmp_path / "notify"))
    told.settimeout(20)

    def wait_for(*messages):
        seen = []
        while not all(any(text.startswith(message) for text in seen) for message in messages):
            seen += told.recv(4096).decode().split("\n")
        return seen

    with told, served(tmp_path / "d", environ={"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "600000"}) as daemon:
        assert wait_for("STATUS=opening", "READY=1", "WATCHDOG=1", "STATUS=0/0 URLs")
        wait_for("WATCHDOG=1")
        wait_for("WATCHDOG=1")
        daemon.process.send_signal(signal.SIGHUP)
        seen = wait_for("RELOADING=1", "MONOTONIC_USEC=", "READY=1")
        assert seen.index("RELOADING=1") < seen.index("READY=1")
        daemon.process.send_signal(signal.SIGTERM)
        wait_for("STOPPING=1")
        assert daemon.process.wait(30) == 0


# -- clients ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def daemon(tmp_path_factory, site):
    with served(tmp_path_factory.mktemp("daemon") / "d", "--per-host", "4") as daemon:
        yield daemon


def client(daemon, *arguments, **options):
    """In this process, but for what needs a standard input."""
    run = crawler if options else command
    return run(*arguments, environ={"CRAWLER_LISTEN": daemon.listen}, **options)


def test_add_tells_what_became_of_each_list(daemon, site, tmp_path):
    (tmp_path / "list.gz").write_bytes(gzip.compress("\n".join([*site.good(5), "nonsense"]).encode()))
    done = client(daemon, "add", *site.good(2, first=5), "-i", str(tmp_path / "list.gz"), "--tag", "t")
    assert done.returncode == 0, done.stderr
    assert "the URLs: 2 accepted" in done.stderr
    assert "list.gz: 5 accepted, 1 invalid" in done.stderr
    assert "line 6: syntax: nonsense" in done.stderr
    done = client(daemon, "add", "-i", "-", input="\n".join(site.good(1, first=7)))
    assert "standard input: 1 accepted" in done.stderr
    until(daemon, done=8)
    done = client(daemon, "add", "-i", "-", input="\x1b]2;title\x07\x9b31m\r!\0\n")
    assert "?]2;title??31m?!" in done.stderr and done.stderr.replace("\n", "").isprintable(), "lists are not to steer a terminal"


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (b"\x28\xb5\x2f\xfd", "zstdcat FILE | crawler add -i -"),
        (b"BZh91", "bzip2; gzip is read"),
        (b"\xff\xfe", "save it as UTF-8"),
    ],
)
def test_a_list_of_another_format_is_refused_and_no_line_of_it_is_written_down(daemon, tmp_path, head, said):
    before = daemon.ask("GET", "/v1/status")["lines"]
    (tmp_path / "list").write_bytes(head + 100_000 * b"x\ny\xff\n")
    done = client(daemon, "add", "-i", str(tmp_path / "list"))
    assert done.returncode == 2 and said in done.stderr
    assert done.stderr.startswith(f"crawler: {tmp_path}/list: the list "), "one command may send several"
    assert daemon.ask("GET", "/v1/status")["lines"] == before


def test_status_is_a_page_and_a_json_object(daemon, site):
    client(daemon, "add", *site.good(1, first=40))
    while not json.loads(client(daemon, "status", "--json").stdout)["done"]:
        pass
    done = client(daemon, "status")
    assert done.returncode == 0
    assert done.stdout.startswith("running · ")
    assert "done (" in done.stdout and "memory" in done.stdout and "disk" in done.stdout
    assert json.loads(client(daemon, "status", "--json").stdout)["state"] == "running"
    elsewhere = crawler("status", "--listen", daemon.listen, environ={"PYTHONIOENCODING": "euc-jp"})
    assert (elsewhere.returncode, elsewhere.stdout[:10]) == (0, "running ? "), "an encoding that has no such dot"


def test_why_and_results_ask_the_daemon_where_no_directory_is_named(daemon, site):
    (url,) = site.good(1, first=20)
    assert client(daemon, "why", url).returncode == 4
    assert client(daemon, "add", url, "--list", "asked").returncode == 0
    while "settled as ok" not in (done := client(daemon, "why", url)).stdout:
        assert done.returncode in (0, 4), done.stderr
    assert "line 1 of asked" in done.stdout
    assert json.loads(client(daemon, "why", url, "--json").stdout)["state"] == "done"
    done = client(daemon, "results", "--outcome", "ok")
    assert done.returncode == 0
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert url in {row["url"] for row in rows} and {row["outcome"] for row in rows} == {"ok"}
    cursor = done.stderr.split("--cursor ")[1].strip()
    assert client(daemon, "results", "--cursor", cursor).stdout == ""
    assert client(daemon, "results", "--cursor", cursor, "--format", "csv").stdout == "", "a table that goes on has its header"
    assert client(daemon, "results", "--format", "csv").stdout.startswith("url,")
    assert client(daemon, "results", "--cursor", "77-0").returncode == 2
    assert client(daemon, "results", "--final").returncode == 2


def test_results_are_followed_as_they_come(daemon, site):
    (url,) = site.good(1, first=30)
    with crawling("results", "--follow", "--listen", daemon.listen) as following:
        client(daemon, "add", url)
        while json.loads(following.stdout.readline())["url"] != url:
            pass
        following.send_signal(signal.SIGINT)
        assert following.wait() == 0
        assert "--cursor" in following.stderr.read()


def test_pause_resume_and_health(daemon):
    assert "paused" in client(daemon, "pause").stderr
    assert client(daemon, "status").stdout.startswith("paused by user")
    assert client(daemon, "healthcheck", "--ready").returncode == 0
    assert "running" in client(daemon, "resume").stderr
    daemon.ask("PATCH", "/v1/settings", b'{"min_free_disk": "1000TiB"}', {"Content-Type": "application/json"})
    until(daemon, state="paused")
    assert "paused by disk_low, 0 in flight" in client(daemon, "resume").stderr, "what holds it up now is said"


def test_what_is_refused_is_said_plainly(daemon, tmp_path):
    done = client(daemon, "add", "http://a.test/", "--list", "a/b")
    assert (done.returncode, "list must be" in done.stderr) == (2, True)
    assert client(daemon, "add").returncode == 2
    assert client(daemon, "add", "-i", str(tmp_path / "none")).returncode == 2
    done = client(daemon, "add", "http://a.test/" + "n" * 3000)  # how long is too long, the daemon knows
    assert "the URLs: 0 accepted, 1 invalid" in done.stderr and "too_long" in done.stderr
    done = command("status", "--listen", "127.0.0.1:1")
    assert done.returncode == 1
    assert "no response from 127.0.0.1:1" in done.stderr and "Traceback" not in done.stderr


def test_an_order_that_takes_as_long_as_there_are_records_is_waited_for(monkeypatch, capsys):
    """Otherwise it was carried out, and the command said that nobody was there."""
    monkeypatch.setattr(client_module, "ASK_TIMEOUT_S", 0.3)

    def slow(port: socket.socket) -> None:
        for wait_s in (0, 1):  # whether it responds at all, is asked first
            connection, _ = port.accept()
            with connection:
                connection.recv(1 << 16)
                time.sleep(wait_s)
                start = b"HTTP/1.1 200 OK\r\nCrawler-API: v1\r\nContent-Length: 11\r\nConnection: close\r\n\r\n"
                connection.sendall(start + b'{"count":7}')
                while connection.recv(1 << 16):
                    pass

    with socket.create_server(("127.0.0.1", 0)) as port, ThreadPoolExecutor(1) as server:
        served_it = server.submit(slow, port)
        assert retry(["--outcome", "timeout", "--listen", f"127.0.0.1:{port.getsockname()[1]}"]) == 0
        served_it.result(10)
    assert capsys.readouterr().err == "crawler: 7 URLs are due again\n"


def test_another_server_at_that_address_is_said_to_be_no_crawler():
    def hello(port: socket.socket) -> None:
        for _ in range(2):
            connection, _ = port.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                while connection.recv(1 << 16):
                    pass

    with socket.create_server(("127.0.0.1", 0)) as port, ThreadPoolExecutor(1) as server:
        served_both = server.submit(hello, port)
        for words in (["status"], ["add", "http://a.test/"]):
            done = command(*words, "--listen", f"127.0.0.1:{port.getsockname()[1]}")
            assert done.returncode == 1 and "is no crawler" in done.stderr and "Traceback" not in done.stderr
        served_both.result(10)


def test_a_token_is_read_from_its_file(tmp_path):
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    with served(tmp_path / "d", "--api-token-file", str(token)) as daemon:
        done = client(daemon, "status")
        assert (done.returncode, "--api-token-file" in done.stderr) == (2, True)
        assert client(daemon, "status", "--api-token-file", str(token)).returncode == 0
        with contextlib.suppress(urllib.error.HTTPError):
            daemon.ask("GET", "/v1/status")
            raise AssertionError("no token was asked for")


def test_an_address_open_to_others_needs_a_token(tmp_path):
    done = command("serve", "--data", str(tmp_path / "d"), "--listen", "0.0.0.0:0")
    assert (done.returncode, "api_token_file" in done.stderr) == (2, True)


def test_drain_ends_it(tmp_path):
    with served(tmp_path / "d") as daemon:
        assert "draining" in client(daemon, "drain").stderr
        assert daemon.process.wait(30) == 0


def test_metrics_are_served_on_an_address_of_their_own_without_token(tmp_path):
    port = port_of_its_own()
    token = tmp_path / "token"
    token.write_text("s3cret")
    with served(tmp_path / "d", "--metrics-listen", f"127.0.0.1:{port}", "--api-token-file", str(token)):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            assert b'crawler_state{state="running"} 1.0' in answer.read()
        assert command("healthcheck", "--metrics-listen", f"127.0.0.1:{port}").returncode == 0


def test_no_descriptor_is_left_behind_by_clients_that_go(daemon):
    def sockets():
        """The store's files come and go."""
        held = 0
        for name in os.listdir(f"/proc/{daemon.process.pid}/fd"):
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                held += os.readlink(f"/proc/{daemon.process.pid}/fd/{name}").startswith("socket:")
        return held

    before = sockets()
    host, port = daemon.listen.split(":")
    for n in range(60):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall((b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n", b"POST /v1/se", b"")[n % 3])
    deadline = time.monotonic() + 20
    while sockets() > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert sockets() <= before


def test_exclusions_from_the_command_line(tmp_path):
    with served(tmp_path / "d") as daemon:
        where = ("--listen", daemon.listen)
        assert command("exclude", "/trap/", "x[0-9]", *where).returncode == 0
        assert command("exclude", "/trap/", "--undo", *where).returncode == 0
        assert command("exclude", *where).stdout == "x[0-9]\n"
        assert command("block", "*.test", *where).stderr == "crawler: blocked: *.test\n"
        assert command("block", *where).stdout == "*.test\n"
        refused = command("exclude", "(", *where)
        assert (refused.returncode, "is not a regular expression" in refused.stderr) == (2, True)


def test_the_log_tells_what_happens_in_fields(tmp_path, site):
    """A pause and its end, a host that is given up, a file that is full; and nothing of it is a warning."""
    with served(tmp_path / "d", "--log-format", "json", "--host-failures", "1", "--retries", "0") as daemon:
        told = {}

        def until(event):
            for line in daemon.process.stderr:
                found = json.loads(line)
                told[found["event"]] = found
                if found["event"] == event:
                    return found

        daemon.ask("POST", "/v1/pause")
        daemon.ask("POST", "/v1/resume")
        assert until("paused")["pause"] == "user"
        assert until("resumed")["seconds"] >= 0
        daemon.ask("POST", "/v1/seeds", b"http://127.0.0.9:1/")
        given_up = until("host given up")
        assert (given_up["host"], given_up["outcome"], given_up["level"]) == ("127.0.0.9:1", "connect_error", "info")
        daemon.ask("POST", "/v1/seeds", site.good(1)[0].encode())
        while daemon.ask("GET", "/v1/status")["done"] < 2:
            time.sleep(0.02)
        daemon.ask("POST", "/v1/drain")
        rolled = until("file rolled")
        assert rolled["file"].startswith("warc/") and rolled["bytes"] > 0
