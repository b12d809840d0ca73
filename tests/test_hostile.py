"""Every sin of the misbehaving site ends as it must, alone on a fetcher; and the next page of that server is the right one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sinful import Site, page, running
from sins import SECOND_ANSWER, SINS, Sin

from crawler.config import FetchConfig
from crawler.errors import FetchError
from crawler.fetch import open_fetcher
from crawler.model import Done, Lease, Link
from crawler.urls import Rules, host_key
from crawler.verdict import Judge

LIMITS = {"allow_net": ("127.0.0.0/8",), "max_body": 1 << 20}
JUDGE = Judge(retries=0, max_redirects=10, rules=Rules(), backoff_max_s=1.0, rest=lambda link, first: 0.0, jitter=lambda: 0.0)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with running(Site(scripts={name: sin.script for name, sin in SINS.items()})) as site:
        yield site


def lease_of(url: str, **link) -> Lease:
    return Lease(Link(url, host_key(url), **link), b"")


async def end_of(fetcher, url: str) -> tuple[str, str | None, bytes]:
    """(outcome, reason, body) of one attempt, its page given back."""
    lease = lease_of(url)
    try:
        got = await fetcher.fetch(lease)
    except FetchError as error:
        settled = JUDGE.error(lease, error)
        return settled.outcome, settled.reason, b""
    body = b"".join(got.body.chunks())
    got.body.discard()
    settled = JUDGE.page(lease, got, 0.0)
    assert isinstance(settled, Done)
    return settled.outcome, settled.reason, body


@asynccontextmanager
async def fetching(tmp: Path, **config):
    async with open_fetcher(FetchConfig.model_validate(LIMITS | config), tmp=tmp, decode_body=False) as fetcher:
        yield fetcher


@pytest.mark.parametrize("name", SINS)
async def test_each_sin_ends_as_it_must_and_spoils_no_other_page(site: Site, tmp_path: Path, name: str) -> None:
    sin: Sin = SINS[name]
    origin = f"http://127.0.0.1:{site.ports['http']}"
    async with fetching(tmp_path, **sin.config) as fetcher:
        outcome, reason, body = await end_of(fetcher, f"{origin}/sin/{name}")
        assert (outcome, reason) == (sin.outcome, sin.reason)
        assert b"WRONG" not in body
        if name in SECOND_ANSWER:
            await asyncio.sleep(0.25)  # what comes after the next request was written cannot be told from its answer
        if sin.config.get("method") != "HEAD":
            assert (await end_of(fetcher, f"{origin}/good/7?bytes=5000")) == ("ok", None, page(7, 5000))
        assert fetcher.stats().connections_acquired == 0
        assert fetcher.stats().in_flight == 0
    assert list(tmp_path.iterdir()) == []
    while site.connections:
        await asyncio.sleep(0.01)
