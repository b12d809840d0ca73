"""How many processes a new crawl has under ``--processes auto``, and why: as many as help, and as there is memory for."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from crawler.config.sections import Config
from crawler.core.errors import ConfigError, FetchError
from crawler.core.urls import parse
from crawler.crawl import plan_of
from crawler.crawl.wiring import memory_limit_of, parsers_of
from crawler.service.parts.shares import share_of

PROCESSES_MAX: Final = 16
CORES_SHARE: Final = 0.75
"""Of the cores, where links are followed: each process has another one that parses."""
SHORT_URLS: Final = 1000
SHORT_BYTES: Final = 64 << 10


def processes_for(config: Config, *, endless: bool, cores: int | None = None) -> tuple[int, str]:
    """(how many, why not more)"""
    cores = cores or len(os.sched_getaffinity(0))
    follows = bool(config.depth or config.sitemaps)
    wanted = min(PROCESSES_MAX, config.workers, math.ceil(CORES_SHARE * cores) if follows else cores)
    if config.store == "memory":
        return 1, "with --store memory there is one"
    if not endless and (why := _too_little(config, follows=follows)):
        return 1, why
    on_cores = f"{cores} core{'s' * (cores > 1)}"
    on_memory = f"a memory limit of {memory_limit_of(config) >> 20} MiB"
    for processes in range(wanted, 1, -1):
        if _fit(config, processes, endless=endless):
            return processes, on_cores if processes == wanted else on_memory
    return 1, on_cores if wanted < 2 else on_memory


def _too_little(config: Config, *, follows: bool) -> str | None:
    """What there is so little to do of that more processes would not help."""
    if not config.input:
        if follows and config.scope in ("host", "prefix") and len(set(_hosts(config.urls))) == 1:
            return "one host, which one process visits"
        if not follows and len(config.urls) <= SHORT_URLS:
            return f"a list of {len(config.urls)} URLs"
    elif not follows and "-" not in config.input and _bytes(config.input) <= SHORT_BYTES:
        return "a short list"
    return None


def _hosts(urls: Iterable[str]) -> list[str]:
    hosts = []
    for url in urls:
        try:
            hosts.append(parse(url).host)
        except FetchError:
            hosts.append(url)
    return hosts


def _bytes(paths: Iterable[str]) -> int:
    try:
        return sum(Path(path).stat().st_size for path in paths)
    except OSError:
        return SHORT_BYTES + 1  # whoever reads it says what is wrong


def _fit(config: Config, processes: int, *, endless: bool) -> bool:
    share = share_of(config, 0, processes, memory_limit=memory_limit_of(config), parsers=parsers_of(config))
    try:
        plan_of(share, endless=endless, is_part=True)
    except ConfigError:
        return False
    return True
