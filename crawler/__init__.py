"""A web crawler that cannot run out of memory.

From Python: ``async with open_crawl(Config(urls=(...,), output="out")) as crawl: await crawl.run()`` runs a crawl, and
``for page in read("out")`` gives ``.row`` and ``.open()`` of every page, in bounded memory, also while it runs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crawler.config.sections import Config
    from crawler.core.errors import ConfigError, CrawlerError, FetchError, StorageError
    from crawler.crawl.crawl import Crawl
    from crawler.crawl.reading import read
    from crawler.crawl.wiring import open_crawl
    from crawler.service.run import run_crawl

_HOMES = {
    "Config": "config.sections",
    "ConfigError": "core.errors",
    "Crawl": "crawl.crawl",
    "CrawlerError": "core.errors",
    "FetchError": "core.errors",
    "StorageError": "core.errors",
    "open_crawl": "crawl.wiring",
    "read": "crawl.reading",
    "run_crawl": "service.run",
}
"""Public names and where they live. Imported when first asked for: ``crawler --version`` should not load them."""

__all__ = [
    "Config",
    "ConfigError",
    "Crawl",
    "CrawlerError",
    "FetchError",
    "StorageError",
    "open_crawl",
    "read",
    "run_crawl",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
