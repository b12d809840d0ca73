"""How the crawl's one session is opened: limits, trust and bounds put together, and closed again without a trace."""

from __future__ import annotations

import asyncio
import asyncio.sslproto
import logging
import os
import resource
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import aiohttp

from crawler.config.sections import FetchConfig, HostConfig
from crawler.core.errors import OUR_ERRNOS, ConfigError
from crawler.core.page import MEMORY_BYTES_MAX, Body
from crawler.fetch.connector import Connector
from crawler.fetch.decoding import Finisher
from crawler.fetch.fetcher import Fetcher
from crawler.fetch.guard import Guard
from crawler.fetch.request import profiles, user_agent
from crawler.fetch.resolver import Resolver
from crawler.fetch.transport import LEAN_VERSIONS, READ_BYTES, BySession, Lean, Transport

if TYPE_CHECKING:
    from crawler.fetch.cookies import Cookies

logger: Final = logging.getLogger(__name__)

TLS_BUFFER_BYTES: Final = 32 << 10
DESCRIPTORS_KEPT_MAX: Final = 256
"""Left to the store, the archive, the control API and the libraries."""
DESCRIPTORS_KEPT_MIN: Final = 36
"""What they have open in a small crawl."""
DESCRIPTORS_PER_FETCH: Final = 3
"""A socket, a second one while happy eyeballs race, a spool file."""


@asynccontextmanager
async def open_fetcher(
    config: FetchConfig,
    *,
    tmp: Path,
    decode_body: bool,
    hosts: Sequence[HostConfig] = (),
    per_host: int = 1,
    lean: bool | None = None,
    names_max: int = 4096,
    idle_bytes_max: int = 16 << 20,
    body_memory_bytes: int = MEMORY_BYTES_MAX,
    cookies: Cookies | None = None,
) -> AsyncIterator[Fetcher]:
    """The crawl's one session. ``tmp`` is where bodies are spooled; with ``decode_body`` they are kept with their content
    codings undone; ``hosts`` are the ``[[host]]`` tables; ``lean`` chooses the transport (by default aiohttp's version does).
    At most ``names_max`` names, and idle connections that take ``idle_bytes_max``, are kept; ``body_memory_bytes`` of a body
    stay in memory. ``cookies``: those of the crawl, if it has any. Raises ConfigError."""
    if lean is None and not (lean := aiohttp.__version__ in LEAN_VERSIONS):
        logger.warning("aiohttp %s: the lean way was not tested with it; session.request costs 0.1 ms more", aiohttp.__version__)
    guard = Guard(config.allow_net, config.deny_net)
    make_tls = cache(partial(tls_context, config.ca_file, insecure=config.insecure))
    if config.ca_file is not None:
        make_tls(check_names=True)  # what is wrong with it is told at the start; else the first https link is early enough
    finisher = Finisher(tmp, decode_body=decode_body, ratio_max=config.max_decode_ratio, codings_max=config.max_codings)
    profile_of = profiles(config, hosts, finisher.accepted)
    concurrency_max, idle_max = shares(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    # asyncio allots a buffer of this size to every TLS connection: 256 KiB unless told otherwise.
    asyncio.sslproto.SSLProtocol.max_size = TLS_BUFFER_BYTES
    resolver = Resolver(
        guard.refuses,
        nameservers=config.dns,
        timeout_s=config.dns_timeout,
        addresses_max=config.max_addresses,
        names_max=names_max,
    )
    loop = asyncio.get_running_loop()
    handled = loop.get_exception_handler()
    loop.set_exception_handler(_told_of_closed_connections(handled))
    try:
        connector = Connector(
            guard,
            resolver,
            make_tls=make_tls,
            idle_max=idle_max,
            idle_bytes_max=idle_bytes_max,
            idle_per_host_max=per_host,
            head_bytes_max=config.max_head,
            interim_max=config.max_interim,
        )
        heads = _heads(config)
        async with _session(connector, heads) as session:
            by_session = BySession(session, user_agent(config))
            transport: Transport = Lean(connector, by_session, heads | {"read_until_eof": True}) if lean else by_session
            new_body = partial(Body, tmp, body_memory_bytes)
            yield Fetcher(config, transport, connector, guard, profile_of, new_body, finisher, concurrency_max, cookies)
    finally:
        loop.set_exception_handler(handled)
        await resolver.close()


def _heads(config: FetchConfig) -> dict[str, Any]:
    """How aiohttp is to read responses."""
    return {
        "auto_decompress": False,
        "read_bufsize": READ_BYTES,
        "max_line_size": config.max_header_line,
        "max_field_size": config.max_header_line,
        "max_headers": config.max_headers,
    }


def _session(connector: Connector, heads: Mapping[str, Any]) -> aiohttp.ClientSession:
    """Without aiohttp's cookies, timers, retries and environment: a crawl has its own."""
    session = aiohttp.ClientSession(
        connector=connector, cookie_jar=aiohttp.DummyCookieJar(), timeout=aiohttp.ClientTimeout(), trust_env=False, **heads
    )
    session._retry_connection = False
    return session


_UNHEARD: Final = "Future exception was never retrieved"
Handler: TypeAlias = Callable[[asyncio.AbstractEventLoop, dict[str, Any]], object]


def _told_of_closed_connections(handled: Handler | None) -> Handler:
    """uvloop complains, with a traceback, of a TLS connection that is dropped from within what it has just received, and of a
    handshake that fails just as its visit is cancelled; asyncio (Python 3.11: it calls itself with an argument too many) of TLS
    that ends within a proxy's. Whatever a server must do to that end would fill the log. The visit knows why its connection
    ended."""

    def told(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, RuntimeError) and "handler is closed" in str(error):
            return
        if isinstance(error, TypeError) and "_abort()" in str(error):
            return
        if isinstance(error, (ssl.SSLError, ConnectionError)) and context.get("message") == _UNHEARD:
            return
        if handled is not None:
            handled(loop, context)
        else:
            loop.default_exception_handler(context)

    return told


def shares(descriptors: int) -> tuple[int, int]:
    """(fetches at a time, idle connections) that a limit of so many descriptors allows."""
    usable = max(1, descriptors - min(DESCRIPTORS_KEPT_MAX, max(DESCRIPTORS_KEPT_MIN, descriptors // 2)))
    idle_max = usable // 4
    return max(1, (usable - idle_max) // DESCRIPTORS_PER_FETCH), idle_max


def tls_context(ca_file: str | None, *, insecure: bool, check_names: bool = True) -> ssl.SSLContext:
    """One context for all: the system's authorities and ``ca_file``; HTTP/1.1 only. Without ``check_names`` the caller must find
    out whether a certificate is for the host it asked for. ConfigError, or OSError: this machine lacks what it takes to read
    them now."""
    try:
        if (system := ssl.get_default_verify_paths().cafile) is not None:
            os.close(os.open(system, os.O_RDONLY))  # OpenSSL says nothing of a file it cannot open, and trusts nobody
    except OSError as error:
        if error.errno in OUR_ERRNOS:
            raise
    context = ssl.create_default_context()
    if ca_file is not None:
        try:
            context.load_verify_locations(cafile=ca_file)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"ca_file: {ca_file}: no certificates can be read: {error.strerror or error}") from None
    if insecure or not check_names:
        context.check_hostname = False
    if insecure:
        context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    return context
