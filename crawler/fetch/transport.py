"""Two transports over one pool: aiohttp's ``session.request``, and a lean one through the same connector, connection and parser
that leaves out what a crawl does elsewhere (redirects, cookies, timers, decoding).

Invariant: both send the same bytes and end alike; the whole hostile catalogue runs on both. The lean one uses private names of
aiohttp and is chosen only on the versions it was tested with.
"""

from __future__ import annotations

from functools import lru_cache
from types import TracebackType
from typing import Any, Final, Protocol

import aiohttp
from aiohttp.client_exceptions import ServerDisconnectedError
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.streams import StreamReader
from yarl import URL

from crawler.core.urls import origin
from crawler.fetch.connector import Connector
from crawler.fetch.exchange import CURRENT
from crawler.fetch.request import Request

LEAN_VERSIONS: Final = frozenset({"3.14.5"})
READ_BYTES: Final = 64 << 10
"""Low water of a connection's read buffer; reading pauses above twice this."""
KEYS_MAX: Final = 1024
_NO_TIMEOUT: Final = aiohttp.ClientTimeout()


class OpenRequest(Protocol):
    """``async with transport.ask(request) as content``: the final head has come, the body is still to be read."""

    async def __aenter__(self) -> StreamReader: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...


class Transport(Protocol):
    """How a request is sent and its response's head received."""

    def ask(self, request: Request, /) -> OpenRequest: ...


class BySession:
    """As any user of aiohttp would. A request for a tunnel through a proxy is aiohttp's own, and says it is aiohttp unless told
    otherwise; what else a request says (``[[host]]`` tables, cookies) is not for the proxy."""

    def __init__(self, session: aiohttp.ClientSession, user_agent: str) -> None:
        self._session = session
        self._user_agent = user_agent

    def ask(self, request: Request) -> OpenRequest:
        return _OpenBySession(
            self._session.request(
                request.method,
                _url(request.href),
                headers=_fields(request),
                proxy=request.proxy,
                proxy_headers={"User-Agent": self._user_agent},
                allow_redirects=False,
                # behind a proxy aiohttp would look for the dot in the certificate, and send it (RFC 6066 3 forbids it)
                server_hostname=request.host.rstrip(".") if request.tls and request.host.endswith(".") else None,
            )
        )


class _OpenBySession:
    __slots__ = ("_context",)

    def __init__(self, context: Any) -> None:
        self._context = context

    async def __aenter__(self) -> StreamReader:
        response = await self._context.__aenter__()
        content: StreamReader = response.content
        return content

    async def __aexit__(self, *error: Any) -> None:
        await self._context.__aexit__(*error)


class Lean:
    """Through the session's connector. ``params`` are those of ResponseHandler.set_response_params.

    Requests through a proxy go ``by_session``: they are few, and their rules many.
    """

    def __init__(self, connector: Connector, by_session: BySession, params: dict[str, Any]) -> None:
        self.connector = connector
        self._by_session = by_session
        self.params = params

    def ask(self, request: Request) -> OpenRequest:
        return self._by_session.ask(request) if request.proxy is not None else _OpenLean(self, request)


class _OpenLean:
    """What the connector wants to know of a request, and the exchange itself."""

    __slots__ = ("_lean", "_protocol", "_request", "connection_key", "is_tls", "port")

    proxy = None
    server_hostname = None
    ssl = True  # the connector's own context

    def __init__(self, lean: Lean, request: Request) -> None:
        self._lean = lean
        self._request = request
        self._protocol: ResponseHandler | None = None
        self.port = request.port
        self.is_tls = request.tls
        self.connection_key = _key(request.host, request.port, request.tls)

    def is_ssl(self) -> bool:
        return self.is_tls

    @property
    def url(self) -> URL:
        return _url(self._request.href)

    async def __aenter__(self) -> StreamReader:
        connector = self._lean.connector
        exchange = CURRENT.get()
        assert exchange is not None
        protocol: ResponseHandler | None = connector.reuse(self.connection_key, exchange)
        if protocol is None:
            connection = await connector.connect(self, [], _NO_TIMEOUT)  # type: ignore[arg-type]
            protocol, connection._protocol = connection.protocol, None  # released by us, as one that is used again
        assert protocol is not None
        self._protocol = protocol
        try:
            protocol.set_response_params(skip_payload=self._request.method == "HEAD", **self._lean.params)
            transport = protocol.transport
            if transport is None or transport.is_closing():
                raise ServerDisconnectedError
            transport.write(self._request.head)
            _, payload = await protocol.read()
        except BaseException:
            connector._release(self.connection_key, protocol, should_close=True)
            raise
        return payload

    async def __aexit__(self, *_: Any) -> None:
        assert self._protocol is not None
        # closed there unless the response ended exactly and nothing followed
        self._lean.connector._release(self.connection_key, self._protocol)


@lru_cache(KEYS_MAX)
def _key(host: str, port: int, tls: bool) -> ConnectionKey:
    return ConnectionKey(host, port, tls, True, None, None, None, None)


def _fields(request: Request) -> tuple[tuple[str, str], ...]:
    """aiohttp leaves out the dot behind a host's name."""
    if not request.host.endswith("."):
        return request.fields
    return (("Host", origin(request.href).partition("://")[2]), *request.fields)


def _url(href: str) -> URL:
    try:
        if href.endswith("?"):  # yarl takes an empty query for none, and so asks for another page
            start = len(origin(href))
            return URL(href[:start] + "/", encoded=True).with_path(href[start:], encoded=True)
        return URL(href, encoded=True)
    except ValueError as error:
        raise aiohttp.InvalidURL(href) from error
