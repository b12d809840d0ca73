"""The life of one URL, and the wiring of all parts. Names are imported when first asked for: what only reads a status line
must not load a crawl.

wiring, files, planning, membership   put a crawl together: parts, files on disk, memory, cluster
crawl, ending, checkpoints            the crawl as a whole
visitor, visits                       what a worker does with each link
expand, sitemaps                      the links of a response; outlinks, embeds and sitemap_entries run in parser processes
recrawl                               what becomes due again; thread_iter reads the lists
status, metrics, exposition           what people and programs are told; failing_hosts
reading, explain, incomplete          a directory read back; explain_text
maintenance, dividing                 a directory changed while no process runs it
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crawler.crawl.crawl import Crawl
    from crawler.crawl.metrics import Readings
    from crawler.crawl.planning import plan_of
    from crawler.crawl.reading import open_crawl_reader, read
    from crawler.crawl.wiring import open_crawl

_HOMES = {
    "Crawl": "crawl",
    "Readings": "metrics",
    "open_crawl": "wiring",
    "open_crawl_reader": "reading",
    "plan_of": "planning",
    "read": "reading",
}

__all__ = ["Crawl", "Readings", "open_crawl", "open_crawl_reader", "plan_of", "read"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
