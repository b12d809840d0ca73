"""aiohttp's connection pool, with the bounds and checks that it lacks; see ``connection`` for a single connection.

Invariants: no socket is made for an address the guard refuses. A pooled connection is used again only if nothing lies unread
on it. At most ``idle_max`` connections, with ``idle_bytes_max`` of memory, wait for their next use.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from ipaddress import ip_address
from itertools import islice
from typing import Any, Final, cast

import aiohttp
from aiohttp.abc import ResolveResult
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ClientRequest, ConnectionKey
from aiohttp.connector import Connection
from aiohttp.tracing import Trace

from crawler.core.errors import OUR_ERRNOS, FetchError
from crawler.fetch.certificates import is_odd, matches, names
from crawler.fetch.connection import Watched
from crawler.fetch.errors import tls_closed
from crawler.fetch.exchange import Exchange, current
from crawler.fetch.guard import AddressRefused, Guard
from crawler.fetch.resolver import Resolver
from crawler.fetch.tls_waste import HANDSHAKE_BYTES_MAX, TlsWaste

KEEPALIVE_S: Final = 5.0
WORTH_KEEPING_S: Final = KEEPALIVE_S / 2
"""Where no more can wait, one that has waited longer makes room for the next; of younger ones none does. Hosts come round in
turn: if the oldest always went, and there are some more hosts than room, every one would go just before it is wanted."""
LOOKED_AT_MAX: Final = 16
"""Connections, the oldest first, that are looked at for one that is worth less than the next."""
IDLE_BYTES: Final = 16 << 10
"""What a connection that waits takes of memory: 9 KiB were measured."""
IDLE_TLS_BYTES: Final = 48 << 10
TLS_BUFFERS: Final = 2.25
"""By TLS it keeps its state, and buffers as large as what once came at a time: measured with responses of 1 to 300 KB."""
READ_BYTES_MAX: Final = 200 << 10
"""Beyond that they grow no more: uvloop reads 256 KiB at a time."""
HANDSHAKE_BYTES: Final = 6 << 10
CERTIFICATE_FACTOR: Final = 16
"""It keeps all certificates that the peer sent, whether it needs them or not: those of 85 KB (300 little ones) take 1.4 MB.
Ordinary ones are within IDLE_TLS_BYTES."""
HAPPY_EYEBALLS_S: Final = 0.25


class Connector(aiohttp.TCPConnector):
    """The one pool of a crawl. ``limit`` is off: the crawl's workers are the limit. ``make_tls(check_names=...)`` makes the TLS
    contexts; without it the host's name is checked here: see ``certificates``."""

    def __init__(
        self,
        guard: Guard,
        resolver: Resolver,
        *,
        make_tls: Callable[..., ssl.SSLContext],
        idle_max: int,
        idle_bytes_max: int,
        idle_per_host_max: int,
        head_bytes_max: int,
        interim_max: int,
    ) -> None:
        super().__init__(
            limit=0,
            resolver=resolver,
            use_dns_cache=False,
            happy_eyeballs_delay=HAPPY_EYEBALLS_S,
            socket_factory=self._socket,
            keepalive_timeout=KEEPALIVE_S,
        )
        self.resolver: Final = resolver
        self._guard = guard
        self._make_tls = make_tls
        self._idle_max = idle_max
        self._idle_bytes_max = idle_bytes_max
        self._idle_bytes = 0
        self._idle_per_host_max = idle_per_host_max
        self.opened = 0
        """Connections made since the start, with their handshake where they have one; those that failed are not counted."""
        self._idle: OrderedDict[ResponseHandler, tuple[ConnectionKey, float, int]] = OrderedDict()  # since when, and its bytes
        self.tls_waste = TlsWaste()
        self._factory = partial(Watched, self._loop, head_bytes_max, interim_max, self._on_lost, self.tls_waste)  # type: ignore[assignment]

    @property
    def acquired(self) -> int:
        """Connections in use or being made."""
        return len(self._acquired)

    @property
    def idle(self) -> int:
        """Connections kept for a next use."""
        return len(self._idle)

    @property
    def idle_bytes(self) -> int:
        """What they take of memory, about."""
        return self._idle_bytes

    def forget(self) -> None:
        """Forget addresses, and close the connections that wait for a next use."""
        self.resolver.forget()
        while self._idle:
            self._close_idle(next(iter(self._idle)))

    async def addresses(self, name: str, port: int) -> list[ResolveResult]:
        """Where a name or an address literal may be reached; nowhere if no name server speaks now, whatever is remembered.
        FetchError as the resolver's, StorageError."""
        try:
            version = ip_address(name).version
        except ValueError:
            return await self.resolver.resolve(name, port) if await self.resolver.is_heard(name) else []
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        return [ResolveResult(hostname=name, host=name, port=port, family=family, proto=socket.IPPROTO_TCP, flags=0)]

    async def _wrap_create_connection(
        self, *args: Any, addr_infos: list[Any], **kwargs: Any
    ) -> tuple[asyncio.Transport, ResponseHandler]:
        """Each address is tried once. Once all have failed, aiohttp tries all but the first again, and so on: ten connections to
        four addresses where nobody listens."""
        tried, left = current().tried, addr_infos.copy()
        while True:
            tried.clear()
            try:
                return await super()._wrap_create_connection(*args, addr_infos=left, **kwargs)
            except aiohttp.ClientConnectorError as error:
                last = left[-1:]
                left = [each for each in left if each not in tried] if tried else []
                if not left and len(tried) > 1 and error.errno is None:  # each failed in its own way: the last says why
                    left = last
                if not left:
                    addr_infos.clear()
                    raise

    def _socket(self, addr_info: tuple[Any, ...]) -> socket.socket:
        exchange = current()
        exchange.tried.append(addr_info)
        try:
            made = socket.socket(*addr_info[:3]) if exchange.proxied else self._guard.socket(addr_info)
            if exchange.handshakes is not None:
                exchange.handshakes.append((made, 0))
            return made
        except AddressRefused as refused:
            exchange.refused = refused.rule
            raise
        except OSError as error:
            if error.errno in OUR_ERRNOS:
                exchange.our_errno = error.errno or 0
            raise

    # -- names in certificates: a proxy's as well as that of the host behind it

    def _get_ssl_context(self, req: Any) -> ssl.SSLContext | None:
        """The system's certificates are read with the first https link: 30 ms that a crawl without one need not take."""
        if req.is_ssl() and self._ssl is True:
            self._ssl = self._make_tls(check_names=True)
        context = super()._get_ssl_context(req)
        return self._make_tls(check_names=False) if context is self._ssl and self._is_odd(req) else context

    def _is_odd(self, req: Any) -> bool:
        checks = isinstance(self._ssl, ssl.SSLContext) and self._ssl.check_hostname
        return checks and is_odd(req.url.raw_host or "")

    async def _create_direct_connection(self, req: Any, *args: Any, **kwargs: Any) -> tuple[asyncio.Transport, ResponseHandler]:
        if not req.is_ssl():
            return await super()._create_direct_connection(req, *args, **kwargs)
        with self.tls_waste.handshake(current()):
            made = await super()._create_direct_connection(req, *args, **kwargs)
        self._check(req, *made)
        return made

    async def _start_tls_connection(
        self, underlying_transport: asyncio.Transport, req: Any, *args: Any, **kwargs: Any
    ) -> tuple[asyncio.BaseTransport, ResponseHandler]:
        if isinstance(proxy := underlying_transport.get_protocol(), Watched):
            proxy.hand_over()
        with self.tls_waste.handshake(current(), underlying_transport.get_extra_info("socket")):
            made = await super()._start_tls_connection(underlying_transport, req, *args, **kwargs)
        if made[0].is_closing():  # uvloop takes TLS that ends within a proxy's for a handshake that is done
            cast(asyncio.Transport, made[0]).abort()
            raise tls_closed()
        self._check(req, *made)
        return made

    def _check(self, req: Any, transport: asyncio.BaseTransport, protocol: ResponseHandler) -> None:
        """Close a connection, and raise, whose handshake was too long or whose certificate is another host's."""
        if cast(Watched, protocol).handshake_bytes > HANDSHAKE_BYTES_MAX:
            cast(asyncio.Transport, transport).abort()
            raise FetchError("handshake", f"of over {HANDSHAKE_BYTES_MAX} bytes")
        if self._is_odd(req):
            self._check_name(req, transport)

    def _check_name(self, req: Any, transport: asyncio.BaseTransport) -> None:
        """Close the connection, and raise, unless the certificate is for this host."""
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and matches(req.url.raw_host, names(tls.getpeercert())):
            return
        cast(asyncio.Transport, transport).abort()  # uvloop's are no subclass of it
        raise aiohttp.ClientConnectorCertificateError(req.connection_key, ssl.CertificateError("hostname mismatch"))

    # -- the pool

    def reuse(self, key: ConnectionKey, exchange: Exchange) -> Watched | None:
        """A pooled connection that is certainly at rest, as one in use from now on; to be given to ``_release``."""
        if exchange.fresh or (waiting := self._conns.get(key)) is None:
            return None
        found: Watched | None = None
        not_before = time.monotonic() - KEEPALIVE_S
        while waiting and found is None:
            protocol, since = waiting.popleft()
            assert isinstance(protocol, Watched)
            self._leave(protocol)
            if since >= not_before and protocol.is_quiet():
                found = protocol
            else:
                protocol.abort()
        if not waiting:
            del self._conns[key]
        if found is not None:
            self._acquired.add(found)
            exchange.reused = True
            exchange.tunnel = False
        return found

    async def _create_connection(
        self,
        req: ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109  aiohttp's name
    ) -> ResponseHandler:
        made = await super()._create_connection(req, traces, timeout)
        self.opened += 1
        return made

    async def _get(self, key: ConnectionKey, traces: list[Trace]) -> Connection | None:
        protocol = self.reuse(key, current())
        return Connection(self, key, protocol, self._loop) if protocol is not None else None

    def _release(self, key: ConnectionKey, protocol: ResponseHandler, *, should_close: bool = False) -> None:
        """Back to the pool, or closed at once: a TLS connection that says goodbye first may linger for long."""
        if should_close or not (isinstance(protocol, Watched) and protocol.idle):
            protocol.abort()
            super()._release(key, protocol, should_close=True)
            return
        if self._closed:
            return
        now = time.monotonic()
        weight = _weight(key, protocol)
        if not self._find_room(weight, now):
            protocol.abort()
            super()._release(key, protocol, should_close=True)
            return
        if self._cleanup_handle is None:
            super()._release(key, protocol)
        else:  # the same, as nobody waits for a connection: there is no limit
            self._acquired.discard(protocol)
            self._conns[key].append((protocol, now))
        protocol.rest()
        self._idle[protocol] = key, now, weight
        self._idle_bytes += weight
        if (same := self._conns.get(key)) and len(same) > self._idle_per_host_max:
            same.popleft()[0].abort()

    def _leave(self, protocol: ResponseHandler) -> None:
        """It waits no more."""
        if (waited := self._idle.pop(protocol, None)) is not None:
            self._idle_bytes -= waited[2]

    def _find_room(self, weight: int, now: float) -> bool:
        """Whether one more can wait, once those that are worth less are closed: that have waited long, or take twice as much."""
        if weight > self._idle_bytes_max:
            return False
        while len(self._idle) >= self._idle_max or self._idle_bytes + weight > self._idle_bytes_max:
            for protocol, (_, since, taken) in islice(self._idle.items(), LOOKED_AT_MAX):
                if now - since >= WORTH_KEEPING_S or taken >= 2 * weight:
                    self._close_idle(protocol)
                    break
            else:
                return False
        return True

    def _on_lost(self, protocol: ResponseHandler) -> None:
        if protocol in self._idle:
            self._take_out(protocol)

    def _close_idle(self, protocol: ResponseHandler) -> None:
        self._take_out(protocol)
        protocol.abort()

    def _take_out(self, protocol: ResponseHandler) -> None:
        """Of aiohttp's pool as well, which would hold it until the next clean-up."""
        key, _, _ = self._idle[protocol]
        self._leave(protocol)
        if (same := self._conns.get(key)) is not None:
            for entry in [entry for entry in same if entry[0] is protocol]:
                same.remove(entry)
            if not same:
                del self._conns[key]


def _weight(key: ConnectionKey, protocol: Watched) -> int:
    """Bytes of memory of a connection that waits, about. The host's TLS may be within that of a proxy, with buffers of its own:
    500 such took 262 MB."""
    if not protocol.is_tls:
        return IDLE_BYTES
    buffers = TLS_BUFFERS * min(protocol.largest_bytes, READ_BYTES_MAX)
    certificates = CERTIFICATE_FACTOR * max(0, protocol.handshake_bytes - HANDSHAKE_BYTES)
    layers = 2 if key.is_ssl and key.proxy is not None and key.proxy.scheme == "https" else 1
    return layers * (IDLE_TLS_BYTES + int(buffers)) + certificates
