"""A memory limit for foreign HTML that a command reads itself: no crawl waits for it, so it needs no parser process.

A few hundred KB of HTML can make a tree of gigabytes (formatting elements that are open are made anew in every paragraph).
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from crawler.core.errors import NO_PROC, ConfigError

MEMORY_BYTES: Final = 64 << 20
"""What one document may make a process map beyond what it has: of a parser process, its own 20 MiB."""


@contextmanager
def limited_memory() -> Iterator[None]:
    """What is read within it gets no more than MEMORY_BYTES, or MemoryError is raised. Of the whole process: for commands.
    ConfigError: no /proc is mounted, which says how much the process has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    try:
        with open("/proc/self/statm") as file:  # noqa: PTH123 - pathlib is not loaded everywhere
            limit = int(file.read().split()[0]) * resource.getpagesize() + MEMORY_BYTES
    except FileNotFoundError:
        raise ConfigError(f"{NO_PROC}: the memory that a page takes to be read cannot be limited") from None
    if soft == resource.RLIM_INFINITY or limit < soft:
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
