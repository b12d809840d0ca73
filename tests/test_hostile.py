"""Every sin of the misbehaving site ends as it must, alone on a fetcher; and the next page of that server is the right one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sinful import Site, page, running
from sinful_net import EXTRAS
from sins import SECOND_ANSWER, SINS, Sin
from sins_coding import CODINGS
from sins_net import NET

from crawler import urls
from crawler.config import FetchConfig
from crawler.errors import FetchError
from crawler.fetch import open_fetcher
from crawler.model import Done, Lease, Link
from crawler.verdict import Judge

ALL = SINS | CODINGS | NET
LIMITS = {"allow_net": ("127.0.0.0/8",), "max_body": 1 << 20}
JUDGE = Judge(
    retries=0, max_redirects=10, rules=urls.Rules(), backoff_max_s=1.0, rest=lambda link, first: 0.0, jitter=lambda: 0.0
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running(Site(scripts={name: sin.script for name, sin in ALL.items()}, extras=EXTRAS)) as site:
        site.ports["ca"] = tmp_path_factory.mktemp("ca") / "ca.pem"
        site.ports["ca"].write_bytes(site.ca_pem)
        yield site


def filled_in(value: Any, site: Site) -> Any:
    """A value with the site's ports in it."""
    if isinstance(value, str):
        for name, port in site.ports.items():
            value = value.replace(f"{{{name}}}", str(port))
    elif isinstance(value, tuple):
        value = tuple(filled_in(item, site) for item in value)
    return value


def lease_of(url: str, **link: Any) -> Lease:
    parsed = urls.parse(url)
    return Lease(Link(parsed.href, parsed.host, **link), b"")


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
async def fetching(tmp: Path, site: Site, **config: Any):
    settings = LIMITS | {key: filled_in(value, site) for key, value in config.items()}
    async with open_fetcher(FetchConfig.model_validate(settings), tmp=tmp, decode_body=False) as fetcher:
        yield fetcher


@pytest.mark.parametrize("name", ALL)
async def test_each_sin_ends_as_it_must_and_spoils_no_other_page(site: Site, tmp_path: Path, name: str) -> None:
    sin: Sin = ALL[name]
    url = filled_in(sin.given or "http://127.0.0.1:{http}/sin/NAME", site).replace("NAME", name)
    async with fetching(tmp_path, site, **sin.config) as fetcher:
        outcome, reason, body = await end_of(fetcher, url)
        assert outcome == sin.outcome
        assert reason in (sin.reason if isinstance(sin.reason, tuple) else (sin.reason,))
        assert b"WRONG" not in body
        if name in SECOND_ANSWER or "second" in name:
            await asyncio.sleep(0.25)  # what comes after the next request was written cannot be told from its answer
        if "/sin/" in url and sin.config.get("method") != "HEAD":
            good = urls.join(url, "/good/7?bytes=5000")
            assert (await end_of(fetcher, good)) == ("ok", None, page(7, 5000))
        assert fetcher.stats().connections_acquired == 0
        assert fetcher.stats().in_flight == 0
    assert list(tmp_path.iterdir()) == []
    while site.connections:
        await asyncio.sleep(0.01)
