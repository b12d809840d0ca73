"""The crawler as a process of its own: run it to its end, in the background, or on a terminal."""

import contextlib
import os
import pty
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import orjson

CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("CRAWLER_") and name != "NO_COLOR"}
LOCAL = ("--allow-net", "127.0.0.0/8", "--no-robots", "--delay", "0")
"""What a crawl of a server on this machine needs."""


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
