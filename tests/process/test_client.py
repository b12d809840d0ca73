"""The commands that ask a daemon, where something else responds, nothing does, or not to this token."""

import http.server
import os
import pty
import select
import signal
import socket
import subprocess
import threading

import pytest
from support.daemons import served
from support.programs import CLEAN, command, command_of, crawling
from support.waiting import wait_until

from crawler.cli import client as client_module
from crawler.cli.change_commands import retry
from crawler.cli.daemon_commands import drain
from crawler.core.version import IDENTITY
from crawler.service.api import REQUEST_S

ASKED = [
    ["status", "--json"],
    ["add", "http://a.test/"],
    ["pause"],
    ["exclude", "x"],
    ["recrawl"],
    ["retry"],
    ["results"],
    ["why", "http://a.test/"],
]


class Other(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        is_json = self.path.startswith("/json/")
        body = b'{"count": 1}' if is_json else b"<!DOCTYPE html>\n<p>\x1b[31mnothing here"
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200 if is_json else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def other():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize("words", ASKED, ids=lambda words: words[0])
def test_another_server_is_no_crawler_whatever_it_responds(other, words):
    for path, code in (("json", 1), ("page", 2)):
        done = command(*words, "--api", f"{other}/{path}")
        last = done.stderr.splitlines()[-1]
        assert (done.returncode, done.stdout) == (code, ""), done
        assert "is no crawler" in last and "--api" in last and "Traceback" not in done.stderr and "\x1b" not in done.stderr


class Dying(Other):
    """A daemon that is killed in the middle of its rows."""

    def do_GET(self):
        rows = b'{"url": "http://a.test/"}\n' * 2
        self.send_response(200)
        for name, value in ((IDENTITY, "v1"), ("Next-Cursor", "0-52"), ("Content-Length", str(len(rows)))):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(rows[:26])


def test_rows_that_come_cut_are_not_taken_for_all_of_them():
    """The cursor that came with them stands behind those that did not come."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Dying) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        done = command("results", "--cursor", "0-9", "--listen", f"127.0.0.1:{server.server_address[1]}")
        server.shutdown()
    assert (done.returncode, done.stdout, "is cut" in done.stderr) == (1, "", True), done
    assert "0-52" not in done.stderr


def test_what_the_daemon_says_when_it_has_waited_long_enough_comes_in_time():
    """Both waited for 30 s, and it was chance who told what."""
    assert client_module.ASK_TIMEOUT_S > REQUEST_S + 5


@pytest.mark.parametrize("order", [drain, retry], ids=["drain", "retry"])
def test_a_daemon_that_is_stopped_is_not_waited_for_without_end(monkeypatch, capsys, order):
    monkeypatch.setattr(client_module, "ASK_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert order(["--listen", f"127.0.0.1:{silent.getsockname()[1]}"]) == 1
    assert "is it stopped, or very busy?" in capsys.readouterr().err


def test_a_token_that_is_wrong_is_told_from_one_that_is_missing(tmp_path):
    token = tmp_path / "token"
    token.write_text("s3cretä\n")
    with served(tmp_path / "d", "--api-token-file", str(token)) as daemon:
        where = ["--listen", daemon.listen]
        assert "wants its token" in command("status", *where).stderr
        for wrong, said in (("s3cret", "not the daemon's"), ("two\nlines", "must be one line")):
            done = command("status", *where, environ={"CRAWLER_API_TOKEN": wrong})
            assert done.returncode == 2 and said in done.stderr and wrong not in done.stderr
        assert command("status", *where, "--api-token-file", str(token)).returncode == 0


@pytest.mark.parametrize("words", ["why http://a.test/\udce4", "add http://a.test/ --tag \udce4"], ids=["why", "add"])
def test_a_word_that_is_no_text_is_the_callers_to_mend(words):
    """As it stands in the arguments where it was typed in Latin-1."""
    done = command(*words.split(), "--listen", "127.0.0.1:1")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1) and "UTF-8" in done.stderr, done


def test_a_list_from_a_pipe_is_sent_as_it_comes(tmp_path):
    """The daemon ends a list of which nothing comes for a minute."""
    with served(tmp_path / "d") as daemon:
        adding = command_of(["add", "-i", "-", "--listen", daemon.listen])
        with subprocess.Popen(adding, env=CLEAN, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as adder:
            adder.stdin.write("http://a.invalid/\n")
            adder.stdin.flush()
            wait_until(lambda: daemon.ask("GET", "/v1/status")["known"] == 1)
            said = adder.communicate("http://b.invalid/\n")[1]
    assert adder.returncode == 0 and "2 accepted" in said


@pytest.mark.parametrize("how", [["--json"], []], ids=["json", "text"])
def test_a_watch_says_beside_its_data_that_nobody_responds(how):
    with crawling("status", "--watch", *how, "--listen", "127.0.0.1:1") as watching:
        [first], _, _ = select.select([watching.stdout, watching.stderr], [], [])
        assert first is watching.stderr and "trying again" in first.readline()
        watching.send_signal(signal.SIGINT)
        assert (watching.communicate(timeout=60)[0], watching.returncode) == ("", 0)


@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_a_watch_draws_only_where_the_terminal_can(term):
    leader, follower = pty.openpty()
    watch = command_of(["status", "--watch", "--listen", "127.0.0.1:1"])
    with subprocess.Popen(watch, env=CLEAN | {"TERM": term}, stdin=follower, stdout=follower, stderr=follower) as watching:
        seen = b""
        while b"no response" not in seen:
            seen += os.read(leader, 4096)
        watching.send_signal(signal.SIGINT)
    os.close(leader)
    os.close(follower)
    assert (b"\x1b" in seen) == (term != "dumb")


@pytest.mark.parametrize("field", [b"Authorization: Bearer \xff", b"Cookie: crawler=\xff.\xff"], ids=["token", "session"])
def test_bytes_that_are_no_text_are_no_token(tmp_path, field):
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    with (
        served(tmp_path / "d", "--api-token-file", str(token)) as daemon,
        socket.create_connection(("127.0.0.1", int(daemon.listen.rpartition(":")[2]))) as asking,
    ):
        asking.sendall(b"GET /v1/status HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" + field + b"\r\n\r\n")
        assert asking.recv(1 << 16).startswith(b"HTTP/1.1 401 ")
