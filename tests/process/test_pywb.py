"""What pywb replays of an archive: whole pages, and revisits as the page. By hand, with ``PYWB=/path/to/bin``: pywb wants an
environment of its own, as it brings another brotli."""

import contextlib
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from support.programs import LOCAL, command
from support.replay import captures
from support.webs import Answer, Web, page

PYWB = os.environ.get("PYWB", "")
HOST, CDN = "127.0.0.1", "127.0.0.2"

pytestmark = pytest.mark.skipif(not PYWB, reason="PYWB names no directory with pywb's commands")


@contextlib.contextmanager
def replayed(crawl: Path, root: Path):
    """The archive of a crawl served by pywb; where."""
    root.mkdir()
    subprocess.run([f"{PYWB}/wb-manager", "init", "c"], cwd=root, check=True, capture_output=True)
    files = [str(path) for path in sorted((crawl / "warc").iterdir())]
    subprocess.run([f"{PYWB}/wb-manager", "add", "c", *files], cwd=root, check=True, capture_output=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with subprocess.Popen([f"{PYWB}/wayback", "-p", str(port), "-b", "127.0.0.1"], cwd=root, stderr=subprocess.PIPE) as server:
        try:
            while server.poll() is None:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port}/c"
        finally:
            server.kill()


def asked(url: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(url, timeout=30) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, b""


def test_every_capture_replays_with_its_body(tmp_path):
    """Of both weeks: a page that was the same, one not modified, one that has changed, and what they need."""
    with Web().running() as web:
        far = web.url(CDN)
        pages = {
            "/": page("/same", "/tagged", "/changes"),
            "/same": Answer(body=f"<img src={far}i.png>".encode()),
            "/tagged": Answer(body=b"<p>tagged", headers=(("ETag", '"1"'),)),
            "/changes": Answer(body=b"<p>before"),
        }
        web.hosts = {HOST: dict(pages), CDN: {"/i.png": Answer(body=b"\x89PNG", mime="image/png")}}
        run = ("run", web.url(HOST), "--depth", "1", "--requisites", "-o", str(tmp_path / "out"), *LOCAL)
        assert command(*run).returncode == 0
        web.hosts[HOST]["/changes"] = Answer(body=b"<p>after")
        time.sleep(1)  # captures of one second are one to a reader
        assert command("recrawl", str(tmp_path / "out")).returncode == 0
        assert command(*run).returncode == 0
    found = captures(tmp_path / "out")
    assert len(found) == 10 and sum(capture.kind == "revisit" for capture in found) == 4
    with replayed(tmp_path / "out", tmp_path / "pywb") as where:
        for capture in found:
            stamp = "".join(char for char in capture.date if char.isdigit())
            assert asked(f"{where}/{stamp}id_/{capture.url}") == (200, capture.body), capture
