"""The crawler's commands: in this process, or as a process of its own to its end, in the background, or on a terminal.

``command`` is the usual way: it costs a tenth of a process. ``crawler`` is for what only a process shows: signals, its three
streams, what it imports, or how it ends.
"""

import contextlib
import gc
import io
import os
import pty
import random
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest import mock

import orjson

from crawler.cli.main import main

CLEAN = {
    name: value
    for name, value in os.environ.items()
    if not (name.startswith("CRAWLER_") or name in ("NO_COLOR", "PYTHONUNBUFFERED") or name.lower().endswith("_proxy"))
}
"""As most people have it: an image's PYTHONUNBUFFERED hides what Python's own end does to what could not be written."""
LOCAL = ("--allow-net", "127.0.0.0/8", "--no-robots", "--delay", "0")
"""What a crawl of a server on this machine needs."""
MOUNTING = ("unshare", "--mount", *(() if os.geteuid() == 0 else ("--map-root-user",)))
"""Before a command that mounts disks of its own."""


def command(*arguments: str, environ: dict[str, str] | None = None, text: bool = True) -> subprocess.CompletedProcess:
    """Run it in this process; as ``crawler``. Without ``text`` standard output is bytes."""
    out, said = (io.TextIOWrapper(io.BytesIO(), "utf-8", newline="", write_through=True) for _ in range(2))
    # by now this process may have grown to any size
    variables = CLEAN | {"CRAWLER_MEMORY_LIMIT": "8GiB"} | (environ or {})
    threshold = gc.get_threshold()
    with mock.patch.dict(os.environ, variables, clear=True), contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
        try:
            code = main(arguments)
        except SystemExit as error:
            code = error.code
        finally:
            gc.unfreeze()
            gc.set_threshold(*threshold)
    data, talk = (stream.detach().getvalue() for stream in (out, said))
    return subprocess.CompletedProcess(arguments, code, data.decode() if text else data, talk.decode())


def command_of(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "crawler", *arguments]


def crawler(*arguments: str, environ: dict[str, str] | None = None, **options) -> subprocess.CompletedProcess[str]:
    options = {"stdin": subprocess.DEVNULL, "capture_output": True, "timeout": 60} | options
    if "input" in options:
        del options["stdin"]
    return subprocess.run(command_of(arguments), env=CLEAN | (environ or {}), text=True, check=False, **options)


@contextlib.contextmanager
def crawling(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """In the background; killed at the end if it still runs."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command_of(arguments), env=CLEAN, text=True, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def on_a_terminal(*arguments: str, environ: dict[str, str] | None = None) -> tuple[int, str]:
    """With all three streams on a terminal; the exit code and what was drawn."""
    leader, follower = pty.openpty()
    streams = {"stdin": follower, "stdout": follower, "stderr": follower}
    process = subprocess.Popen(command_of(arguments), env=CLEAN | {"TERM": "xterm-256color"} | (environ or {}), **streams)
    os.close(follower)
    drawn = b""
    with contextlib.suppress(OSError):  # EIO: the other side is closed
        while chunk := os.read(leader, 65536):
            drawn += chunk
    os.close(leader)
    return process.wait(60), drawn.decode()


def rows_of(directory: Path) -> list[dict]:
    """Every row of an ended crawl."""
    files = sorted((directory / "results").glob("*.jsonl"))
    return [orjson.loads(line) for file in files for line in file.read_bytes().splitlines()]


def port_of_its_own() -> int:
    """A free port below those that the kernel gives to whoever asks for any: no server of another test gets it meanwhile."""
    while True:
        port = random.randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
