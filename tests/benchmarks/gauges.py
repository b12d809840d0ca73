"""What a running crawl says of itself, and what its process tree holds."""

from __future__ import annotations

import contextlib
import random
import re
import socket
import time
import urllib.error
import urllib.request
from pathlib import Path

VFORK_S = 0.02
"""A child that was made by vfork runs another program by then."""


def tree_pss(pid: int, parent: bytes = b"") -> int:
    """PSS in bytes of a process and all that descend from it: what they share is counted once. ``parent``: the command line
    of its parent. A child that has the same was just made by vfork, and its memory is its parent's; or it is a part of the crawl,
    and keeps it."""
    total = 0
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        if command == parent:
            time.sleep(VFORK_S)
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        children = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return 0
    if found := re.search(r"(?m)^Pss: +(\d+)", rollup):
        total += int(found[1]) << 10
    return total + sum(tree_pss(int(child), command) for names in children for child in names)


def scraped(port: int) -> dict[str, float]:
    """The samples of http://127.0.0.1:port/metrics by name and labels; empty while nobody answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
    except (OSError, urllib.error.URLError):
        return {}
    samples = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
    return {name: float(value) for name, value in samples}


def free_port() -> int:
    """Below those that the kernel gives to connections: none gets it before the server is there that it is for."""
    while True:
        port = random.randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
