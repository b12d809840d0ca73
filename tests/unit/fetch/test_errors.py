"""The border: whatever a library raises of a name, a head or a body ends one exchange; a bug of ours passes as it is."""

from __future__ import annotations

import asyncio
import builtins
import json
import re
import zipfile
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import pytest
from support.hostile import fetching, lease_of, sinful_site
from support.sinful import running

from crawler.core.errors import REASONS, FetchError, StorageError
from crawler.fetch.errors import raise_ours
from crawler.fetch.exchange import Exchange

CLOSED = {reason for reasons in REASONS.values() for reason in reasons}
ORDINARY = [
    kind
    for kind in vars(builtins).values()
    if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, Warning | BaseExceptionGroup)
]
"""Every exception of the language."""
LIBRARYS = [asyncio.InvalidStateError, asyncio.IncompleteReadError, json.JSONDecodeError, re.error, zipfile.BadZipFile]


def made(kind: type[Exception]) -> Exception:
    for arguments in ((), ("x",), ("x", b"y", 0, 1, "z"), ("x", "y", 0, 1, "z"), ("x", 0, 1, "z"), ("x", "y", 0), (b"x", 0)):
        try:
            return kind(*arguments)
        except TypeError:
            continue
    raise AssertionError(kind)


def in_a_library(error: Exception) -> None:
    """Raised in code that is not ours."""
    code = compile("def call(error):\n    raise error\n", "library", "exec")
    names: dict[str, object] = {"__name__": "library.module"}
    exec(code, names)
    names["call"](error)  # type: ignore[operator]


def in_ours(error: Exception) -> None:
    code = compile("def call(error):\n    raise error\n", "ours", "exec")
    names: dict[str, object] = {"__name__": "crawler.fetch.fetcher"}
    exec(code, names)
    names["call"](error)  # type: ignore[operator]


@contextmanager
def border(exchange, *, tls):
    """As the fetcher has it."""
    try:
        yield
    except Exception as error:
        raise_ours(error, exchange, tls=tls)
        raise


@pytest.mark.parametrize("sent", [False, True])
@pytest.mark.parametrize("kind", [*ORDINARY, *LIBRARYS, aiohttp.ClientError, aiohttp.InvalidURL, aiohttp.ServerDisconnectedError])
def test_nothing_that_a_library_raises_passes(kind, sent):
    exchange = Exchange(proxied=False, tunnel=False)
    exchange.sent_at = 1.0 if sent else 0.0
    with pytest.raises((FetchError, StorageError)) as caught, border(exchange, tls=True):
        in_a_library(made(kind))
    if isinstance(caught.value, FetchError):
        assert caught.value.reason in CLOSED
        assert "x" not in caught.value.detail.split(), "nothing foreign is quoted"


@pytest.mark.parametrize("kind", [AssertionError, AttributeError, KeyError, RuntimeError, TypeError, ZeroDivisionError])
def test_a_bug_of_ours_is_one(kind):
    with pytest.raises(kind), border(Exchange(), tls=False):
        in_ours(kind("x"))


@pytest.mark.parametrize("kind", [asyncio.CancelledError, KeyboardInterrupt, SystemExit])
def test_an_end_passes(kind):
    with pytest.raises(kind), border(Exchange(), tls=False):
        in_a_library(kind())


LABELS = [
    "a",
    "",
    "a" * 63,
    "a" * 64,
    "xn--a",
    "xn--",
    "xn--\xe9",
    "-",
    "_",
    "%",
    "*",
    "1",
    "0x7f",
    "\xad",
    "\u2100",
    "\U0001f600",
]
HOSTS = [".".join(labels) for first in LABELS for labels in ([first, "test"], ["test", first], [first], [first, first, "test"])]


@pytest.fixture(scope="module")
def site():
    with running(sinful_site()) as site:
        yield site


@pytest.mark.parametrize("proxy", [None, "http://127.0.0.1:{proxy-good}", "http://127.0.0.1:{proxy-hang}"])
@pytest.mark.parametrize("lean", [True, False])
async def test_no_name_in_a_url_passes_the_border(site, tmp_path: Path, proxy, lean):
    """Each of 64 names, over http and https, through every way."""
    ended = 0
    limits = {"connect_timeout": 0.3, "first_byte_timeout": 0.3, "dns_timeout": 0.3, "dns": ("127.0.0.1:{dns}",)}
    async with fetching(tmp_path, site, lean=lean, proxy=proxy, **limits) as fetcher:

        async def fetched(url: str) -> int:
            try:
                lease = lease_of(url)
            except FetchError:
                return 0  # no URL at all
            try:
                (await fetcher.fetch(lease)).body.discard()
            except FetchError as error:
                assert error.reason in CLOSED
            return 1

        for scheme in ("http", "https"):
            ended += sum(await asyncio.gather(*(fetched(f"{scheme}://{host}/") for host in HOSTS)))
    assert ended > len(HOSTS)
