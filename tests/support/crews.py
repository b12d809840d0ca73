"""The processes of a crawl that has several: its parent, the one they are forked from, and the parts."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path


def children(pid: int) -> list[int]:
    """Process ids, the oldest first; of what has ended already, none. Ids begin anew at 1 when they have come to their end."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[1]) == pid and fields[0] != "Z":
                found.append((int(fields[19]), int(path.parent.name)))  # when it was begun, in hundredths of a second
    return [child for _, child in sorted(found)]


def parts_of(parent: int) -> list[int]:
    """Process ids of the parts that live."""
    return [part for nursery in children(parent) for part in children(nursery)]


def wait_for_parts(parent: int, count: int, *, but: int = 0) -> list[int]:
    """The parts, as soon as there are so many, none of them ``but``."""
    while True:
        parts = parts_of(parent)
        if len(parts) == count and but not in parts:
            return parts
        time.sleep(0.01)


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def are_gone(pids: list[int]) -> bool:
    """Whether none of them lives any more, after a moment."""
    until = time.monotonic() + 10
    while any(lives(pid) for pid in pids):
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
