"""Every sin of the misbehaving site ends as it must, alone on a fetcher; and the next page of that server is the right one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop
from support.hostile import ALL, be_patient, end_of, fetching, sinful_site, url_of
from support.sinful import Site, page, running
from support.sins import SECOND_ANSWER

from crawler.core import urls


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running(sinful_site()) as site:
        site.trust(tmp_path_factory.mktemp("ca") / "ca.pem")
        yield site


async def commit(name: str, site: Site, tmp: Path, *, lean: bool) -> None:
    sin = ALL[name]
    url = url_of(name, site)
    async with fetching(tmp, site, lean=lean, **sin.config) as fetcher:
        outcome, reason, body = await end_of(fetcher, url)
        assert outcome == sin.outcome, name
        assert reason in (sin.reason if isinstance(sin.reason, tuple) else (sin.reason,)), name
        assert b"WRONG" not in body
        if name in SECOND_ANSWER or "second" in name:
            async with asyncio.timeout(30):  # what comes after the next request was written cannot be told from its answer
                while fetcher.stats().connections_idle:
                    await asyncio.sleep(0.01)
        if "/sin/" in url and sin.config.get("method") != "HEAD":
            be_patient(fetcher)
            good = urls.join(url, "/good/7?bytes=5000")
            assert (await end_of(fetcher, good)) == ("ok", None, page(7, 5000)), name
        assert fetcher.stats().connections_acquired == 0
        assert fetcher.stats().in_flight == 0


WAYS = {
    "lean on asyncio": (None, True),
    "lean on uvloop": (uvloop.new_event_loop, True),
    "session on asyncio": (None, False),
    "session on uvloop": (uvloop.new_event_loop, False),
}
AT_ONCE = 24


def ends_of_all(site: Site, tmp: Path, way: str) -> list[Exception]:
    """The faults found, each with a note of its sin. Each sin has a fetcher of its own; so many are committed at a time, for most
    of them wait."""
    factory, lean = WAYS[way]
    faults: list[Exception] = []

    async def commit_all() -> None:
        at_once = asyncio.Semaphore(AT_ONCE)

        async def one(name: str) -> None:
            async with at_once:
                try:
                    await commit(name, site, tmp, lean=lean)
                except Exception as error:
                    error.add_note(name)
                    faults.append(error)

        async with asyncio.TaskGroup() as tasks:
            for name in ALL:
                tasks.create_task(one(name))
        assert list(tmp.iterdir()) == []
        async with asyncio.timeout(60):
            while site.connections:
                await asyncio.sleep(0.01)

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(commit_all())
    return faults


@pytest.mark.parametrize("way", WAYS)
def test_each_sin_ends_as_it_must_and_spoils_no_other_page(site: Site, tmp_path: Path, way: str) -> None:
    """On either loop and by either way. One test of all: each of the workers that a run is divided among would commit all of them
    again to tell of some."""
    if faults := ends_of_all(site, tmp_path, way):
        raise ExceptionGroup("sins that ended otherwise", faults)
