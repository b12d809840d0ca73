"""``serve --processes``: what the control API tells and does, where several processes do the work."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import resource
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest
from support.crews import are_gone, children, kill, parts_of, wait_for_parts
from support.daemons import served
from support.programs import CLEAN, LOCAL, crawler, port_of_its_own, rows_of
from support.waiting import wait_until
from support.webs import Answer, Web, page

HOSTS = [f"127.0.8.{n}" for n in range(1, 21)]
THREE = ("--processes", "3", "--parsers", "0", "--memory-limit", "1GiB", "--depth", "2", "--scope", "any")


@pytest.fixture(scope="module")
def web():
    """Each host has pages that link to the next host's; one answers that there is nothing."""
    web = Web({HOSTS[4]: {"/gone": Answer(404)}})

    def answer(host: str, path: str) -> Answer:
        links = [web.url(HOSTS[(HOSTS.index(host) + 1) % 20], f"{path}x")] if host in HOSTS and len(path) < 4 else []
        return page(*links, f"/{'y' * 3}")

    web.default = answer
    with web.running():
        yield web


@pytest.fixture(scope="module")
def daemon(web, tmp_path_factory):
    with served(tmp_path_factory.mktemp("served"), *THREE) as daemon:
        urls = [web.url(host, "/a") for host in HOSTS[:10]] + [web.url(HOSTS[4], "/gone"), "no url", web.url(HOSTS[0], "/a")]
        daemon.listed = "\n".join(urls).encode()
        daemon.told = daemon.ask("POST", "/v1/seeds?list=mine", daemon.listed)
        until(daemon, lambda status: status["done"] == status["known"] == 42)
        yield daemon


def until(daemon, is_so):
    status = {}

    def wanted():
        nonlocal status
        status = daemon.ask("GET", "/v1/status")
        return is_so(status)

    try:
        wait_until(wanted)
    except AssertionError as error:
        raise AssertionError(f"{error}: {status}") from None
    return status


def raw(daemon, path):
    with urllib.request.urlopen(f"http://{daemon.listen}{path}", timeout=30) as answer:
        return answer.read(), answer.headers


def rows_from(daemon, cursor=""):
    found = []
    while True:
        data, headers = raw(daemon, f"/v1/results?cursor={cursor}" if cursor else "/v1/results")
        if not data:
            return found, headers["Next-Cursor"]
        found += [json.loads(line) for line in data.splitlines()]
        cursor = headers["Next-Cursor"]


def test_seeds_are_taken_and_acknowledged(daemon):
    assert (daemon.told["lines"], daemon.told["accepted"], daemon.told["invalid"]) == (13, 12, 1)
    again = daemon.ask("POST", "/v1/seeds?list=mine", daemon.listed)
    assert again["accepted"] == 0, "it is continued behind what was read"


def test_seeds_that_come_before_the_processes_are_open_wait_for_them(web, tmp_path):
    listen = f"127.0.0.1:{port_of_its_own()}"
    serve = [sys.executable, "-m", "crawler", "serve", "--data", str(tmp_path), "--listen", listen]
    command = [*serve, "--min-free-disk", "0", *LOCAL, *THREE]
    request = urllib.request.Request(f"http://{listen}/v1/seeds", web.url(HOSTS[0], "/a").encode(), method="POST")
    with subprocess.Popen(command, env=CLEAN, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            while True:
                try:
                    with urllib.request.urlopen(request, timeout=60) as response:
                        assert json.loads(response.read())["accepted"] == 1
                    break
                except urllib.error.HTTPError:
                    raise
                except urllib.error.URLError:
                    assert process.poll() is None  # it does not listen yet
                    time.sleep(0.01)
        finally:
            process.kill()


@pytest.mark.parametrize("waits", [True, False])
def test_no_line_is_lost_where_the_process_that_takes_seeds_dies_within_a_list(web, tmp_path, waits):
    listed = "\n".join(web.url(HOSTS[n % 20], f"/{n}yyy") for n in range(20_000)).encode()
    first, second = len(listed) // 3, len(listed) // 3 + (64 << 10)
    with contextlib.ExitStack() as stack:
        daemon = stack.enter_context(served(tmp_path, *THREE))
        daemon.ask("POST", "/v1/pause")
        client = stack.enter_context(contextlib.closing(http.client.HTTPConnection(daemon.listen, timeout=60)))
        client.putrequest("POST", "/v1/seeds?list=mine")
        client.putheader("Content-Length", str(len(listed)))
        client.endheaders()
        client.send(listed[:first])
        until(daemon, lambda status: status["known"] > 1000)
        parts = parts_of(daemon.process.pid)
        kill(parts[0])
        with contextlib.suppress(ConnectionError):  # it may have answered already
            client.send(listed[first:second])
            if waits:
                wait_for_parts(daemon.process.pid, 3, but=parts[0])
                until(daemon, lambda status: sum(status["workers"].values()) == 100)
            client.send(listed[second:])
            client.getresponse().read()
        assert daemon.ask("POST", "/v1/seeds?list=mine", listed)["lines"] == 20_000
        deadline = time.monotonic() + 30
        until(daemon, lambda status: status["known"] == 20_000 or time.monotonic() > deadline)
        assert daemon.ask("GET", "/v1/lists")["lists"][0]["known"] == 20_000


def test_the_status_and_the_metrics_are_those_of_all(daemon):
    status = daemon.ask("GET", "/v1/status")
    assert status["outcomes"]["ok"] == status["done"] - 1 and status["outcomes"]["http_error"] == 1
    assert status["lines"] == {"invalid_url": 1, "duplicate": 1} and status["hosts"] == 12
    assert sum(status["workers"].values()) == 100 and status["memory"]["limit"] == 1 << 30
    assert 0 < status["memory"]["used"] < 1 << 30

    def told():
        """The parts are looked at every second, one a little later than another."""
        lines = dict(line.rsplit(" ", 1) for line in raw(daemon, "/metrics")[0].decode().splitlines() if line[0] != "#")
        sent, received = (lines[f'crawler_exchange_links_total{{direction="{way}"}}'] for way in ("sent", "received"))
        return lines if int(float(lines['crawler_fetches_total{outcome="ok"}'])) == ok and sent == received else None

    ok = status["outcomes"]["ok"]
    lines = wait_until(told)
    assert int(float(lines['crawler_frontier_urls{state="done"}'])) == status["done"]
    assert float(lines["crawler_commit_duration_seconds_count"]) > 3
    assert float(lines["crawler_processes"]) == 3
    assert float(lines['crawler_exchange_links_total{direction="sent"}']) > 0
    assert raw(daemon, "/readyz")[0] == b"ok\n" == raw(daemon, "/livez")[0]


def test_descriptors_and_cpu_are_those_of_the_processes_that_crawl(daemon):
    """Whoever looked at the parent alone would see nothing of the crawl."""
    parts = parts_of(daemon.process.pid)
    tick = os.sysconf("SC_CLK_TCK")
    stats = [Path(f"/proc/{part}/stat").read_text().rpartition(")")[2].split() for part in parts]
    cpu = sum(int(fields[11]) + int(fields[12]) for fields in stats) / tick

    def told():
        lines = dict(line.rsplit(" ", 1) for line in raw(daemon, "/metrics")[0].decode().splitlines() if line[0] != "#")
        seen = [float(lines[f"crawler_{name}"]) for name in ("descriptors_open", "descriptors_limit", "cpu_seconds_total")]
        most = max(len(os.listdir(f"/proc/{part}/fd")) for part in parts)
        return seen[0] >= most and seen[1] == resource.getrlimit(resource.RLIMIT_NOFILE)[0] and seen[2] >= cpu

    wait_until(told)


def test_every_row_comes_once_with_the_cursor(daemon):
    rows, cursor = rows_from(daemon)
    results = Path(daemon.ask("GET", "/v1/status")["directory"], "results")
    parts = {file.name[:3] for file in results.iterdir() if file.stat().st_size}  # hosts may all belong to two of three
    assert {place[:3] for place in cursor.split(".")} == parts and len(parts) > 1
    assert Counter(row["canonical"] for row in rows if row["reason"] != "duplicate").most_common(1)[0][1] == 1
    assert len(rows) == daemon.ask("GET", "/v1/status")["done"] + 2
    assert rows_from(daemon, cursor) == ([], cursor)
    for wrong in ("0-1", "p07-0-1", "p00-9-0", f"{cursor}.{cursor}"):
        with pytest.raises(urllib.error.HTTPError, match="400"):
            raw(daemon, f"/v1/results?cursor={wrong}")


def test_one_url_is_asked_of_its_owner(daemon, web):
    for host in HOSTS[:6]:
        told = daemon.ask("GET", f"/v1/urls?url={web.url(host, '/a')}")
        assert (told["state"], told["record"]["outcome"], told["row"]["outcome"], told["host"]) == (
            "done",
            "ok",
            "ok",
            f"{host}:{web.port}",
        )
        assert raw(daemon, f"/v1/body?url={web.url(host, '/a')}")[0].startswith(b"<a href=")
    absent = daemon.ask("GET", f"/v1/urls?url={web.url(HOSTS[3], '/deep')}&via={web.url(HOSTS[2], '/axx')}")
    assert (absent["state"], absent["via"]) == ("unknown", web.url(HOSTS[2], "/axx"))
    hosts = daemon.ask("GET", "/v1/hosts?sort=errors&limit=3")["hosts"]
    assert [(host["host"], host["errors"]) for host in hosts] == [(f"{HOSTS[4]}:{web.port}", 1)]
    assert "part 2" in raw(daemon, "/debug/memory")[0].decode()


def test_a_seed_that_is_acknowledged_is_known_from_then_on(web, tmp_path):
    """It is committed where seeds are taken, and for a moment on its way to the process that has its host."""
    with served(tmp_path, *THREE) as daemon:
        daemon.ask("POST", "/v1/pause")
        for n in range(1, 11):
            url = web.url(f"127.0.9.{n}")
            assert daemon.ask("POST", "/v1/seeds", url.encode())["accepted"] == 1
            assert daemon.ask("GET", f"/v1/urls?url={url}")["state"] == "waiting", n


def test_a_part_that_dies_while_the_disk_is_full_is_begun_again_when_there_is_room(web, tmp_path):
    """The daemon ended with exit 3, while its other processes waited for the disk."""
    with served(tmp_path, *THREE) as daemon:
        victim = wait_for_parts(daemon.process.pid, 3)[1]
        (nursery,) = children(daemon.process.pid)
        before = resource.prlimit(nursery, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))  # for whom it begins from now on
        kill(victim)
        daemon.said(r"is begun again when there is room on the disk: .*File too large")
        resource.prlimit(nursery, resource.RLIMIT_FSIZE, before)
        daemon.ask("POST", "/v1/seeds", "\n".join(web.url(f"127.0.9.{n}") for n in range(1, 21)).encode())
        until(daemon, lambda status: status["outcomes"].get("ok", 0) >= 20 and not status["waiting"])


@pytest.mark.parametrize("more", [0, 8])
def test_a_part_that_dies_while_no_process_can_be_started_is_begun_again_when_one_can(web, tmp_path, more):
    """The daemon ended with exit 3, though its other processes went on: memory that lacks kills one, and forks none. With what it
    takes to fork one, and not to make its loop, it ended with exit 1 at once, and nobody said why."""
    with served(tmp_path, *THREE) as daemon:
        victim = wait_for_parts(daemon.process.pid, 3)[1]
        (nursery,) = children(daemon.process.pid)
        used = {int(fd) for fd in os.listdir(f"/proc/{nursery}/fd")}
        none_left = min(set(range(len(used) + 1)) - used)
        before = resource.prlimit(
            nursery, resource.RLIMIT_NOFILE, (none_left + more, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        )
        kill(victim)
        daemon.said(r"is begun again when this machine has what it lacks: no process can be started: .*Too many open files")
        resource.prlimit(nursery, resource.RLIMIT_NOFILE, before)
        daemon.ask("POST", "/v1/seeds", "\n".join(web.url(f"127.0.9.{n}") for n in range(21, 41)).encode())
        until(daemon, lambda status: status["outcomes"].get("ok", 0) >= 20 and not status["waiting"])


def test_settings_and_pauses_hold_for_all_and_for_those_that_are_begun_again(daemon, web):
    paused = daemon.ask("POST", "/v1/pause")
    assert (paused["state"], paused["paused_by"]) == ("paused", ["user"])
    assert daemon.ask("PATCH", "/v1/settings", b'{"rate": 90, "log_level": "debug"}', {"Content-Type": "application/json"})[
        "rate"
    ] == pytest.approx(90)
    known = daemon.ask("GET", "/v1/status")["known"]
    assert daemon.ask("POST", "/v1/seeds", "\n".join(web.url(host, "/bbb") for host in HOSTS).encode())["accepted"] == 20
    until(daemon, lambda status: status["waiting"] == 20)
    victim = parts_of(daemon.process.pid)[-1]
    kill(victim)
    wait_for_parts(daemon.process.pid, 3, but=victim)
    status = until(daemon, lambda status: sum(status["workers"].values()) == 100 and status["state"] == "paused")
    assert (status["state"], status["known"], status["waiting"]) == ("paused", known + 20, 20), "it is paused, too"
    daemon.ask("POST", "/v1/resume")
    until(daemon, lambda status: status["waiting"] == 0 == status["in_flight"] and status["done"] >= known + 20)


def test_what_is_changed_while_a_process_is_begun_again_holds_for_it_too(daemon, web):
    """It is told of the old settings before, and is open only after the change."""
    parts = parts_of(daemon.process.pid)
    kill(parts[1])
    (begun,) = set(wait_for_parts(daemon.process.pid, 3, but=parts[1])) - set(parts)
    os.kill(begun, signal.SIGSTOP)
    json_type = {"Content-Type": "application/json"}
    with ThreadPoolExecutor(1) as asker:
        told = asker.submit(daemon.ask, "POST", "/v1/exclusions", b'{"exclude": ["/qqq"]}', json_type)
        wait([told], 10)  # on a machine that stalls it is open already, and is waited for
        os.kill(begun, signal.SIGCONT)
        told.result()
    until(daemon, lambda status: sum(status["workers"].values()) == 100)
    daemon.ask("POST", "/v1/seeds", "\n".join(web.url(host, "/qqq") for host in HOSTS).encode())
    until(daemon, lambda status: status["reasons"].get("excluded") == 20 and status["waiting"] + status["in_flight"] == 0)
    assert not [visit for visit in web.visits if visit.path == "/qqq"]
    daemon.ask("POST", "/v1/exclusions", b'{"exclude": ["/qqq"], "undo": true}', json_type)
    daemon.ask("POST", "/v1/remove", b'{"outcome": ["skipped"]}', json_type)


def test_a_process_that_is_begun_again_visits_nothing_before_it_is_told_of_a_pause(daemon, web):
    parts = parts_of(daemon.process.pid)
    daemon.ask("POST", "/v1/pause")
    daemon.ask("POST", "/v1/seeds", "\n".join(web.url(host, "/ppp") for host in HOSTS).encode())
    until(daemon, lambda status: status["waiting"] == 20)
    kill(parts[1])
    wait_for_parts(daemon.process.pid, 3, but=parts[1])
    os.kill(daemon.process.pid, signal.SIGSTOP)
    time.sleep(2)  # it opens, and nobody answers
    os.kill(daemon.process.pid, signal.SIGCONT)
    until(daemon, lambda status: sum(status["workers"].values()) == 100 and status["state"] == "paused")
    assert not [visit for visit in web.visits if visit.path == "/ppp"]
    daemon.ask("POST", "/v1/resume")
    until(daemon, lambda status: status["waiting"] + status["in_flight"] == 0)


def test_a_process_that_stands_still_is_no_life(tmp_path):
    """However well its parent is: a service manager would leave it so for ever."""
    listen = f"127.0.0.1:{port_of_its_own()}"
    program = "from crawler.service.parts import watched_part as w; w.STUCK_S = 2.0; from crawler.cli.main import main; main()"
    serve = [sys.executable, "-c", program, "serve", "--data", str(tmp_path), "--listen", listen, "--min-free-disk", "0"]

    def health(path, wanted):
        def told():
            try:
                with urllib.request.urlopen(f"http://{listen}{path}", timeout=60) as response:
                    said = response.read().decode()
            except urllib.error.HTTPError as error:
                with error:
                    said = error.read().decode()
            except urllib.error.URLError:
                said = "it does not listen yet"
            return wanted in said

        wait_until(told)

    with subprocess.Popen([*serve, *LOCAL, *THREE], env=CLEAN, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            parts = wait_for_parts(process.pid, 3)
            health("/readyz", "ok")
            os.kill(parts[1], signal.SIGSTOP)
            health("/livez", "part 1: no answer for")
            os.kill(parts[1], signal.SIGCONT)
            health("/livez", "ok")
        finally:
            process.kill()


def test_it_drains_when_it_is_told_to_and_goes_on_later(web, tmp_path):
    with served(tmp_path, *THREE) as daemon:
        daemon.ask("POST", "/v1/seeds", "\n".join(web.url(host, "/c") for host in HOSTS[:5]).encode())
        parts = parts_of(daemon.process.pid)
        assert len(parts) == 3
        daemon.ask("POST", "/v1/drain")
        assert daemon.process.wait(30) == 0 and are_gone(parts)
    with served(tmp_path, "--depth", "2", "--scope", "any", "--memory-limit", "1GiB", "--parsers", "0") as daemon:
        status = until(daemon, lambda status: status["done"] == status["known"] == 21)
        assert len(parts_of(daemon.process.pid)) == 3, "as it was begun"
        daemon.process.terminate()
        assert daemon.process.wait(30) == 0
    assert len(rows_of(tmp_path)) == status["done"]
    assert crawler("verify", str(tmp_path)).returncode == 0


def test_lists_exclusions_and_choices_are_those_of_all(daemon, web):
    lists = {one["name"]: one for one in daemon.ask("GET", "/v1/lists")["lists"]}
    assert (lists["mine"]["known"], lists["mine"]["waiting"]) == (13, 0)
    assert lists["mine"]["outcomes"] == {"ok": 10, "http_error": 1, "invalid_url": 1, "skipped": 1}
    json_type = {"Content-Type": "application/json"}
    excluded = daemon.ask("POST", "/v1/exclusions", b'{"exclude": ["/zzz"]}', json_type)
    assert excluded["exclude"] == ["/zzz"]
    urls = [web.url(host, "/zzz") for host in HOSTS[:8]]
    before = len(web.visits)
    daemon.ask("POST", "/v1/seeds", "\n".join(urls).encode())
    until(daemon, lambda status: status["reasons"].get("excluded") == 8 and status["waiting"] == 0)
    assert len(web.visits) == before
    assert daemon.ask("POST", "/v1/exclusions", b'{"exclude": ["/zzz"], "undo": true}', json_type)["exclude"] == []
    assert daemon.ask("POST", "/v1/retry", b'{"outcome": ["skipped"]}', json_type)["count"] == 8
    until(daemon, lambda status: "excluded" not in status["reasons"] and status["waiting"] + status["in_flight"] == 0)
    assert {visit.path for visit in web.visits[before:]} == {"/zzz"}
    told = crawler("retry", "--outcome", "http_error", "--listen", daemon.listen)
    assert (told.returncode, "1 URL is due again" in told.stderr) == (0, True), told.stderr
    until(daemon, lambda status: status["waiting"] + status["in_flight"] == 0 and status["outcomes"].get("http_error") == 1)
    host = f"{HOSTS[4]}:{web.port}"
    assert (
        daemon.ask("POST", "/v1/remove", json.dumps({"host": host, "outcome": ["http_error"]}).encode(), json_type)["count"] == 1
    )
    assert "http_error" not in daemon.ask("GET", "/v1/status")["outcomes"]
    page, _ = raw(daemon, "/")
    assert b"mine" in page


def test_urls_that_were_forgotten_are_new_whichever_process_finds_them_again(daemon, web):
    """Links that a process had sent lately it did not send again."""
    json_type = {"Content-Type": "application/json"}

    def visits(path: str) -> int:
        return sum(visit.path == path for visit in web.visits)

    daemon.ask("POST", "/v1/seeds", "\n".join(web.url(host, "/q") for host in HOSTS).encode())
    until(daemon, lambda status: visits("/qxx") == 20 and status["done"] == status["known"])
    for path, order, host in [("/qx", "remove", host) for host in HOSTS] + [("/q", "retry", host) for host in HOSTS]:
        assert daemon.ask("POST", f"/v1/{order}", json.dumps({"url": web.url(host, path)}).encode(), json_type)["count"] == 1
    until(daemon, lambda status: visits("/qx") == 40 and status["done"] == status["known"])


def test_a_recrawl_is_of_all_their_pages(daemon):
    there = daemon.ask("GET", "/v1/status")["outcomes"]["ok"]
    daemon.ask("POST", "/v1/recrawl")
    status = until(
        daemon, lambda status: status["waiting"] + status["in_flight"] == 0 and sum(status["changes"].values()) >= there
    )
    assert status["changes"] == {"unchanged": there}


def test_no_counter_becomes_less_when_a_process_is_begun_again(daemon):
    """A monitor takes one that does for one that began at 0 again, and all that is left of it for an increase."""

    def counters():
        lines = (line.rsplit(" ", 1) for line in raw(daemon, "/metrics")[0].decode().splitlines() if line.startswith("crawler_"))
        return {name: float(value) for name, value in lines if name.partition("{")[0].endswith("_total")}

    daemon.ask("GET", "/v1/status")
    before, victim = counters(), parts_of(daemon.process.pid)[0]
    assert before["crawler_written_bytes_total"] > 0 < before["crawler_connections_opened_total"]
    kill(victim)
    restarts = before["crawler_process_restarts_total"] + 1
    while counters()["crawler_process_restarts_total"] < restarts:
        time.sleep(0.01)
    away = counters()
    wait_for_parts(daemon.process.pid, 3, but=victim)
    until(daemon, lambda status: status["state"] == "running")
    back = counters()
    assert [name for name in before if not before[name] <= away[name] <= back[name]] == []
