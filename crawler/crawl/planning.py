"""How much memory a crawl, and each of its parts, may use: what a configuration means on this machine."""

from __future__ import annotations

import os
from typing import Final

from crawler.config import Config
from crawler.output.bucket import upload_bytes
from crawler.resources import cgroup
from crawler.resources.memory_plan import (
    BASE_BYTES,
    CLIENT_BYTES,
    CONNECTION_BYTES,
    PART_BASE_BYTES,
    TUNNEL_BYTES,
    Needs,
    Plan,
    default_limit,
    divide,
)

EXPRESSION_BYTES: Final = 256
EXPRESSION_CHAR_BYTES: Final = 16
"""Of a regular expression, compiled, and of each of its characters: 100,000 of 34 took 78 MiB."""
EXPRESSIONS_BYTES_FREE: Final = 1 << 20


def plan_of(config: Config, *, endless: bool = False, is_part: bool = False) -> Plan:
    """The memory limit, divided. ConfigError if it is too small. ``is_part``: it is what one part of a crawl may use."""
    parsers = parsers_of(config)
    control = (endless or config.metrics_listen is not None) and not is_part
    needs = Needs(
        upload=upload_bytes(config.store_url) if config.store_url is not None else 0,
        workers=config.workers,
        parsers=parsers,
        max_parse=config.max_parse if config.depth or config.requisites else 0,
        max_body=max(config.max_body, config.max_robots, config.max_sitemap if config.sitemaps else 0),
        max_head=config.max_head,
        max_outlinks=config.max_outlinks,
        control=control,
        base=(PART_BASE_BYTES if is_part else BASE_BYTES) + (CLIENT_BYTES if config.cluster is not None else 0),
        expressions=_expressions_bytes(config),
        connection=connection_bytes_of(config),
    )
    return divide(memory_limit_of(config), needs)


def connection_bytes_of(config: Config) -> int:
    """What the connection of each visit may take, by whatever proxies there are."""
    proxies = [proxy for proxy in (config.proxy, *(host.proxy for host in config.host)) if proxy]
    return TUNNEL_BYTES if any(proxy.lower().startswith("https:") for proxy in proxies) else CONNECTION_BYTES


def _expressions_bytes(config: Config) -> int:
    """What include and exclude take, compiled, beyond what any crawl has room for."""
    bytes_each = (EXPRESSION_BYTES + EXPRESSION_CHAR_BYTES * len(one) for one in (*config.include, *config.exclude))
    return max(0, sum(bytes_each) - EXPRESSIONS_BYTES_FREE)


def memory_limit_of(config: Config) -> int:
    """For the whole process tree."""
    group = cgroup.find()
    return config.memory_limit or default_limit(group.limit if group else None)


def parsers_of(config: Config) -> int:
    """How many parser processes there are."""
    if not (config.depth or config.sitemaps or config.requisites):
        return 0
    from crawler.parse.pool import pool_size

    return pool_size(config.parsers, cores=os.cpu_count() or 1, memory_limit_bytes=memory_limit_of(config))
