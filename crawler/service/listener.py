"""A bounded HTTP listener: the only way this package accepts connections.

Invariants: at most ``connections_max`` connections are open, and no client holds one for ever. A client that sends no
complete request head in time is closed, and so is one whose head does not end; one that stops reading is closed by TCP itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from errno import EADDRINUSE, EADDRNOTAVAIL, EAFNOSUPPORT
from http import HTTPStatus
from typing import Final, cast

import orjson
from aiohttp import StreamReader, web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from prometheus_client import CollectorRegistry
from prometheus_client.aiohttp import make_aiohttp_handler

from crawler.config.types import split_host_port
from crawler.core.errors import ConfigError, StorageError, lack_of
from crawler.core.text import printable
from crawler.core.version import IDENTITY

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

CONNECTIONS_MAX: Final = 64
CLIENTS_MIN: Final = 4
"""So many must find a descriptor at the start."""
IDLE_S: Final = 30.0
"""For a request head to be complete, and between two requests."""
SHUTDOWN_S: Final = 2.0
"""For requests under way to end, once nothing is listened for any more."""
STALLED_S: Final = 60
"""For what was sent to be taken by the client."""
HEADER_BYTES_MAX: Final = 16 << 10
"""Of one line of a request's head."""
HEAD_BYTES_MAX: Final = 32 << 10
"""Of all its lines: aiohttp bounds each of them and their number, and would hold some 4 MiB of every client."""
READ_BYTES: Final = 16 << 10
"""Twice this may wait to be read of one connection before its client is slowed."""
logger: Final = logging.getLogger(__name__)
logger.addFilter(lambda record: not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError)))
"""A malformed request is its client's fault: the client is told, and the log is not filled with it."""
PROBLEM: Final = "application/problem+json"
_LONG_LINE: Final = f"no line of a request's head may be longer than {HEADER_BYTES_MAX:,} bytes, its URL included"


def problem_details(status: int, detail: str, **more: object) -> bytes:
    """Problem details (RFC 9457), as JSON; ``more`` are further members."""
    title = HTTPStatus(status).phrase
    return orjson.dumps({"type": "about:blank", "title": title, "status": status, "detail": detail, **more})


def _raw(status: HTTPStatus, detail: str, *fields: str) -> bytes:
    """A whole response, to a client of whom no request was read."""
    body = problem_details(status, detail)
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}",
        f"{IDENTITY}: v1",
        "Connection: close",
        *fields,
        f"Content-Type: {PROBLEM}",
        f"Content-Length: {len(body)}",
    )
    return "\r\n".join((*head, "", "")).encode() + body


_BUSY: Final = _raw(HTTPStatus.SERVICE_UNAVAILABLE, "too many clients are connected; try again", "Retry-After: 1")
_TOO_LONG: Final = _raw(
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"the head of a request may have {HEAD_BYTES_MAX:,} bytes at most"
)

_PRIVATE: Final = ("_request_count", "_messages", "_buffer_paused", "_reading_paused", "_current_request")
"""What ``_Client`` goes by. Under a later aiohttp that lacks one of them, only aiohttp's own bounds hold."""


class _Client(web.RequestHandler):
    """A connection whose request heads, and what follows a body in chunks, are bounded as a whole."""

    __slots__ = ("_body", "_unfinished_bytes")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._body: StreamReader | None = None
        self._unfinished_bytes = 0
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Bytes one after the other of which comes neither a request nor anything of a body belong to a head."""
        requests, body = self._request_count, self._body_bytes
        super().data_received(data)
        if self._request_count != requests and self._messages:
            self._body = self._messages[-1][1]
            self._unfinished_bytes = 0
        elif self._body_bytes != body or self._buffer_paused or self._reading_paused:
            self._unfinished_bytes = 0
        else:
            self._unfinished_bytes += len(data)
            if self._unfinished_bytes > HEAD_BYTES_MAX:
                self._refuse()

    @property
    def _body_bytes(self) -> int:
        return 0 if self._body is None else self._body.total_bytes

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Nothing of the application sees what cannot be read as a request."""
        super().handle_error(request, status, exc, message)
        detail = _LONG_LINE if isinstance(exc, LineTooLong) else printable((message or "").partition("\n")[0]) or "no request"
        response = web.Response(
            status=status, body=problem_details(status, detail), content_type=PROBLEM, headers={IDENTITY: "v1"}
        )
        response.force_close()
        return response

    def _refuse(self) -> None:
        if self.transport is not None and self._current_request is None:
            self.transport.write(_TOO_LONG)
        self.force_close()


class _Refusal(asyncio.Protocol):
    """One connection too many: says so and hangs up."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        refused = cast(asyncio.Transport, transport)  # uvloop's are no subclass of it
        refused.write(_BUSY)
        refused.close()


@contextlib.asynccontextmanager
async def open_listener(
    address: str,
    served: web.Application | Mapping[str, Handler],
    *,
    connections_max: int = CONNECTIONS_MAX,
    idle_s: float = IDLE_S,
) -> AsyncIterator[int]:
    """Serve an application, or GET handlers by path, on HOST:PORT; the port bound. ConfigError: it cannot be bound.
    StorageError: there are no descriptors for it."""
    if isinstance(served, web.Application):
        app = served
    else:
        app = web.Application()
        for path, handler in served.items():
            app.router.add_get(path, handler)
    app.on_response_prepare.append(_identify)
    runner = web.AppRunner(
        app,
        access_log=None,
        logger=logger,
        keepalive_timeout=idle_s,
        lingering_time=1.0,
        max_line_size=HEADER_BYTES_MAX,
        max_field_size=HEADER_BYTES_MAX,
        auto_decompress=False,
        read_bufsize=READ_BYTES,
        shutdown_timeout=SHUTDOWN_S,
    )
    await runner.setup()
    server, loop = runner.server, asyncio.get_running_loop()
    assert server is not None
    is_bounded = hasattr(server, "_kwargs") and all(hasattr(web.RequestHandler, name) for name in _PRIVATE)

    def accept() -> asyncio.BaseProtocol:
        if len(server.connections) >= connections_max:
            return _Refusal()
        return _Client(server, loop=loop, **server._kwargs) if is_bounded else server()

    listening: list[asyncio.Server] = []
    try:
        sockets = await _bind(address)
        try:
            for bound in sockets:
                begun = await loop.create_server(accept, sock=bound)
                listening.append(begun)
            _require_room(address, sockets[0])
            yield sockets[0].getsockname()[1]
        finally:
            for each in listening:
                each.close()
    finally:
        await runner.cleanup()


async def _identify(request: web.Request, response: web.StreamResponse) -> None:
    response.headers[IDENTITY] = "v1"


def watched(registry: CollectorRegistry, alive: Callable[[], str | None], ready: Callable[[], str | None]) -> dict[str, Handler]:
    """/metrics, /livez and /readyz, without token: what a scraper and a service manager ask."""
    return {"/metrics": make_aiohttp_handler(registry), **health(alive, ready)}


def health(alive: Callable[[], str | None], ready: Callable[[], str | None]) -> dict[str, Handler]:
    """/livez and /readyz. Each function says what is wrong, None if nothing is."""
    return {"/livez": _health(alive), "/readyz": _health(ready)}


def _health(check: Callable[[], str | None]) -> Handler:
    async def respond(request: web.Request) -> web.StreamResponse:
        wrong = check()
        return web.Response(status=503 if wrong else 200, text=f"{wrong or 'ok'}\n", headers={"Cache-Control": "no-store"})

    return respond


async def check_addresses(addresses: Iterable[str]) -> None:
    """ConfigError: one of them cannot be listened on just now, beside the others. LackError: for want of descriptors."""
    with contextlib.ExitStack() as stack:
        for address in addresses:
            for bound in await _bind(address):
                stack.enter_context(bound)


def _require_room(address: str, listening: socket.socket) -> None:
    """StorageError: a client could not be served, and nobody would say so: the loop takes it and hangs up."""
    with contextlib.ExitStack() as stack:
        try:
            for _ in range(CLIENTS_MIN):
                stack.enter_context(listening.dup())
        except OSError as error:
            said = f"no file descriptors are left for those who connect to {address}"
            raise StorageError(said, errno=error.errno or 0) from error


async def _bind(address: str) -> list[socket.socket]:
    """All addresses of a name that this machine has: ``localhost`` may have one by IPv6 where there is no IPv6."""
    host, port = split_host_port(address)
    sockets: list[socket.socket] = []
    not_here: OSError | None = None
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, *_, place in dict.fromkeys(found):
            try:
                bound = socket.create_server(place[:2], family=family, backlog=128)
            except OSError as error:
                if error.errno not in (EADDRNOTAVAIL, EAFNOSUPPORT):
                    raise
                not_here = error
                continue
            sockets.append(bound)
            bound.setblocking(False)
            if hasattr(socket, "TCP_USER_TIMEOUT"):  # what is accepted inherits it
                bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, STALLED_S * 1000)
        if not_here is not None and not sockets:
            raise not_here
    except OSError as error:
        for bound in sockets:
            bound.close()
        if (lack := lack_of(error)) is not None:
            raise lack from error
        in_use = "Address already in use: name another" if error.errno == EADDRINUSE else None  # Python says the address again
        why = in_use or error.strerror or error
        raise ConfigError(f"--listen or --metrics-listen: cannot listen on {address}: {why}") from error
    return sockets
