"""One crawl as a process: run, serve, the control API. Names are imported when first asked for.

run, serve           the two ways to run a crawl: loop, signals, exit code; sd_notify, reload, opening_wait
health               what a scrape and a health check are told; memory_report
steered              what the API may ask of a crawl: here, or of several processes (parts/)
listener             the only way connections are accepted
api                  the control API: api_seeds, api_steering, api_streams, api_errors; dashboard (dashboard_html, session)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crawler.service.run import Report, run_crawl
    from crawler.service.signals import Signals

_HOMES = {"Report": "run", "Signals": "signals", "run_crawl": "run"}

__all__ = ["Report", "Signals", "run_crawl"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
