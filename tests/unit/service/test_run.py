"""``run`` as a process: what it shows."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from support.daemons import ROOMY
from support.webs import Web, page

from crawler.config.load import load
from crawler.core.snapshot import Snapshot
from crawler.crawl.reading import read
from crawler.service.run import run_crawl


async def test_what_the_caller_of_a_crawl_fails_with_ends_it_and_is_raised(tmp_path: Path) -> None:
    """Also where it fails once: nobody was told, and the crawl went on unseen."""
    calls = 0

    def fails_once(now: Snapshot) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise ZeroDivisionError("of the caller")

    web = Web({"127.0.0.1": {f"/{n}": page(f"/{n + 1}") for n in range(10_000)}})
    with web.running():
        settings = {"urls": [web.url("127.0.0.1", "/0")], "output": str(tmp_path / "out"), "depth": -1, "delay": "10ms"}
        settings |= {"allow_net": ["127.0.0.0/8"], "robots": False, "memory_limit": ROOMY}
        with pytest.raises(ZeroDivisionError, match="of the caller"):
            async with asyncio.timeout(60):
                await run_crawl(load(settings).config, on_snapshot=fails_once, interval=0.2)
    assert len(list(read(tmp_path / "out"))) < 10_000
