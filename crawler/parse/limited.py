"""A memory limit for foreign HTML that a command reads itself: no crawl waits for it, so it needs no parser process.

A few hundred KB of HTML can make a tree of gigabytes (formatting elements that are open are made anew in every paragraph).
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

MEMORY_BYTES: Final = 64 << 20
"""What one document may make a process map beyond what it has: of a parser process, its own 20 MiB."""


@contextmanager
def limited_memory() -> Iterator[None]:
    """What is read within it gets no more than MEMORY_BYTES, or MemoryError is raised. Of the whole process: for commands."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:  # noqa: PTH123 - pathlib is not loaded everywhere
        limit = int(file.read().split()[0]) * resource.getpagesize() + MEMORY_BYTES
    if soft == resource.RLIM_INFINITY or limit < soft:
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
