"""How many processes a new crawl has under ``--processes auto``, and why: as many as help, and as there is memory for.

Cautious: what may be small has one, whose directory is the simplest; another start may have more (``crawler.crawl.dividing``).
Nothing here divides a directory that is begun.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from crawler.config.sections import Config
from crawler.core.errors import ConfigError, StorageError
from crawler.core.text import counted
from crawler.crawl import plan_of
from crawler.crawl.planning import memory_limit_of, parsers_of
from crawler.parse.seed_files import blocks
from crawler.service.parts.shares import share_of

PROCESSES_MAX: Final = 16
CORES_SHARE: Final = 0.75
"""Of the cores, where links are followed, as each process has another one that parses; and of a daemon's, beside which there
are those who ask it. Rounded up for a crawl, down for a daemon."""
SHORT_URLS: Final = 10_000
"""One process visits so many in less time than it takes to look at what several have written."""
SAMPLE_URLS_MAX: Final = 100_000
SAMPLE_BYTES_MAX: Final = 8 << 20
"""So much of the lists is looked at, to count their hosts: a tenth of a second."""
PAGES_PER_S: Final = 500
"""What one process does with ease: hosts that may not be asked for more do not need another."""
HOSTS_PER_PROCESS: Final = 16
"""At least, where nothing but the hosts themselves holds visits up: fewer would not be shared out evenly."""

_HOST: Final = re.compile(rb"://([^\s/?#\"]+)")


class Listed(NamedTuple):
    """What is listed, as far as it was looked at."""

    urls: int
    hosts: int


def processes_for(config: Config, *, endless: bool, cores: int | None = None) -> tuple[int, str]:
    """(how many, why not more)"""
    possible, why = _possible(config, cores or len(os.sched_getaffinity(0)), endless=endless)
    if possible == 1 or endless:
        return possible, why
    useful, too_little = _useful(config)
    if useful >= possible:
        return possible, why
    return useful, f"{too_little} (--processes {possible}: as many as cores and memory allow)"


def _possible(config: Config, cores: int, *, endless: bool) -> tuple[int, str]:
    """As many as there are cores and memory for."""
    if config.store == "memory":
        return 1, "with --store memory there is one"
    wanted = cores
    if endless:
        wanted = math.floor(CORES_SHARE * cores)
    elif config.depth or config.sitemaps:
        wanted = math.ceil(CORES_SHARE * cores)
    wanted = min(PROCESSES_MAX, config.workers, wanted)
    for processes in range(wanted, 1, -1):
        if _fit(config, processes, endless=endless):
            return processes, _on_cores(cores, endless=endless) if processes == wanted else _on_memory(config)
    return 1, _on_cores(cores, endless=endless) if wanted < 2 else _on_memory(config)


def _on_cores(cores: int, *, endless: bool) -> str:
    return "a daemon on " * endless + counted(cores, "core")


def _on_memory(config: Config) -> str:
    return f"a memory limit of {memory_limit_of(config) >> 20} MiB"


def _fit(config: Config, processes: int, *, endless: bool) -> bool:
    share = share_of(config, 0, processes, memory_limit=memory_limit_of(config), parsers=parsers_of(config))
    try:
        plan_of(share, endless=endless, is_part=True)
    except ConfigError:
        return False
    return True


# -- how much there is to do ------------------------------------------------------------------------------------------


def _useful(config: Config) -> tuple[int, str]:
    """(how many help with what there is to do, why not more)"""
    if 0 < config.max_pages <= SHORT_URLS:
        return 1, f"no more than {config.max_pages} pages"
    if not all(Path(source).is_file() for source in config.input):
        return 1, "a list of which nobody knows how long it is"
    listed = _listed(config)
    follows = bool(config.depth or config.sitemaps)
    if listed.urls <= SHORT_URLS:
        urls = counted(listed.urls, "URL")
        return 1, f"begun from {urls}, of which nobody knows what comes" if follows else f"a list of {urls}"
    if follows and config.scope in ("any", "domain"):
        return PROCESSES_MAX, ""
    if config.delay:
        useful = math.ceil(listed.hosts * config.per_host / config.delay / PAGES_PER_S)
        return max(1, useful), f"{_hosts(listed)} allow no more pages a second"
    return max(1, listed.hosts // HOSTS_PER_PROCESS), f"{_hosts(listed)}, which are shared out whole"


def _hosts(listed: Listed) -> str:
    seen = f"the first {listed.urls} URLs: " if listed.urls >= SAMPLE_URLS_MAX else ""
    return f"{seen}{listed.hosts} host{'s' * (listed.hosts != 1)}"


def _listed(config: Config) -> Listed:
    """By a look at the lists and URLs, no further than ``SAMPLE_URLS_MAX``."""
    urls, hosts = 0, set()
    for line in _lines(config):
        if (found := _HOST.search(line)) is None:
            continue
        urls += 1
        hosts.add(found[1].lower())
        if urls >= SAMPLE_URLS_MAX:
            break
    return Listed(urls, len(hosts))


def _lines(config: Config) -> Iterator[bytes]:
    yield from (url.encode() for url in config.urls)
    left = SAMPLE_BYTES_MAX
    for source in config.input:
        try:
            for piece in _whole_lines(blocks(source, int)):
                left -= len(piece)
                yield from piece.splitlines()
                if left < 0:
                    return
        except (ConfigError, StorageError):
            continue  # whoever reads it says what is wrong


def _whole_lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes, cut behind line ends only."""
    rest = b""
    for piece in pieces:
        whole, end, after = piece.rpartition(b"\n")
        if end:
            yield rest + whole
            rest = after
        elif len(rest) < SAMPLE_BYTES_MAX:
            rest += piece
    yield rest
