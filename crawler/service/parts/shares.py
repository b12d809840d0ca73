"""What one part of a crawl may use of everything that its settings give to the whole. Pure.

Invariant: what the parts may use together is never more than the setting. They begin with even shares. What counts for the crawl
as a whole (max_pages, max_bytes, max_time) is the parent's; of retain_bytes each part sees what files all have.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from crawler.config.sections import Config
from crawler.core.errors import ConfigError
from crawler.resources.memory_plan import PARENT_BYTES

LEAST_SHARE: Final = 0.1
"""Of a rate, which all parts together keep whatever they use."""
HEADROOM: Final = 1.25


def share_of(config: Config, part: int, parts: int, *, memory_limit: int, parsers: int) -> Config:
    """The settings of one part. ``memory_limit`` and ``parsers`` are those of the whole. ConfigError: there is not enough."""
    if config.workers < parts:
        raise ConfigError(f"processes: {parts} processes need as many workers at least: --workers {parts}")
    return config.replaced(
        workers=config.workers // parts + (part < config.workers % parts),
        memory_limit=memory_of(memory_limit, parts),
        parsers=max(1, parsers // parts) if parsers else 0,
        rate=config.rate / parts,
        bandwidth=max(1, config.bandwidth // parts) if config.bandwidth else 0,  # 0 means no limit
        input=config.input if part == 0 else (),
        urls=config.urls if part == 0 else (),
        max_bytes=0,
        max_time=0.0,
        metrics_listen=None,
        fresh=False,
    )


def paced(limit: float, used: Sequence[float], waits: Sequence[bool]) -> list[float]:
    """What each part may use of a rate, by what it used of late per second and whether it waits for more: who does not wait
    keeps what it uses and some more, and those who wait share the rest evenly. Together no more than the limit, and nobody so
    little that it could not be seen to want more."""
    parts = len(used)
    least = limit * LEAST_SHARE / parts
    wants = [math.inf if wait else max(least, use * HEADROOM) for use, wait in zip(used, waits, strict=True)]
    shares, left = [0.0] * parts, limit
    for more, part in enumerate(sorted(range(parts), key=wants.__getitem__)):
        shares[part] = min(wants[part], left / (parts - more))
        left = max(0.0, left - shares[part])
    return [min(limit, share + left / parts) for share in shares]


def memory_of(limit: int, parts: int) -> int:
    """Of the whole limit, in bytes; never 0, which would mean that none is set."""
    return max(1, (limit - PARENT_BYTES) // parts)
