"""What the tests of fetching share: the running site, a fetcher with its ports filled in, an attempt and its end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

from crawler.config.sections import FetchConfig, HostConfig
from crawler.core import urls
from crawler.core.errors import FetchError
from crawler.core.model import Done, Lease, Link
from crawler.core.page import MEMORY_BYTES_MAX
from crawler.fetch import Fetcher, open_fetcher, session
from crawler.policy.judge import Judge
from support.sinful import Site
from support.sinful_net import EXTRAS
from support.sins import SINS, Sin
from support.sins_coding import CODINGS
from support.sins_net import NET
from support.sins_smuggled import SMUGGLED

# Authorities take 40 ms to load: the hundreds of fetchers of these tests share them.
session.tls_context = cache(session.tls_context)  # type: ignore[assignment]

ALL = SINS | CODINGS | NET | SMUGGLED
LIMITS: dict[str, Any] = {"allow_net": ("127.0.0.0/8",), "max_body": 1 << 20}
JUDGE = Judge(retries=0, max_redirects=10, rules=urls.UrlRules())


def sinful_site() -> Site:
    return Site(scripts={name: sin.script for name, sin in ALL.items()}, extras=EXTRAS)


def filled_in(value: Any, site: Site) -> Any:
    """A value with the site's ports in it."""
    if isinstance(value, str):
        for name, port in site.ports.items():
            value = value.replace(f"{{{name}}}", str(port))
    elif isinstance(value, tuple):
        value = tuple(filled_in(item, site) for item in value)
    return value


def url_of(name: str, site: Site) -> str:
    sin: Sin = ALL[name]
    return str(filled_in(sin.given or "http://127.0.0.1:{http}/sin/NAME", site).replace("NAME", name))


def lease_of(url: str, known: Any = None, **link: Any) -> Lease:
    parsed = urls.parse(url)
    return Lease(Link(parsed.href, parsed.host, **link), b"", known=known)


@asynccontextmanager
async def fetching(
    tmp: Path,
    site: Site,
    *,
    decode_body: bool = False,
    hosts: tuple[dict[str, Any], ...] = (),
    lean: bool = True,
    body_memory_bytes: int = MEMORY_BYTES_MAX,
    **config: Any,
) -> AsyncIterator[Fetcher]:
    settings = LIMITS | {key: filled_in(value, site) for key, value in config.items()}
    tables = [HostConfig(**{key: filled_in(value, site) for key, value in host.items()}) for host in hosts]
    opening = open_fetcher(
        FetchConfig(**settings),
        tmp=tmp,
        decode_body=decode_body,
        hosts=tables,
        lean=lean,
        body_memory_bytes=body_memory_bytes,
    )
    async with opening as fetcher:
        yield fetcher


def be_patient(fetcher: Fetcher) -> None:
    """From the next request on: what a busy machine makes late is no fault of a good page."""
    seconds = {"connect_timeout": 30.0, "first_byte_timeout": 30.0, "read_timeout": 30.0, "timeout": 60.0, "min_rate": 0}
    fetcher._config = fetcher._config.replaced(**seconds)


async def end_of(fetcher: Fetcher, url: str) -> tuple[str, str | None, bytes]:
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
