"""One straight coroutine per exchange: send the request, read the body chunk by chunk within bounds, return the page.

Invariants: every way a server can misbehave ends within its deadline and its limits, as a Page or a FetchError. However a fetch
ends, cancellation included, it gives back its connection, timer and spool file.
"""

from __future__ import annotations

import asyncio
import math
import socket
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from aiohttp.abc import ResolveResult
from aiohttp.http import RawResponseMessage
from aiohttp.streams import StreamReader
from msgspec import Struct

from crawler.config.sections import FetchConfig, HostConfig
from crawler.core.content_coding import codings_of
from crawler.core.errors import FetchError, StorageError
from crawler.core.model import SITEMAPS, Lease, Link
from crawler.core.page import Body, Page, Timings, content_type
from crawler.core.text import matches_mime
from crawler.core.urls import origin
from crawler.fetch.connector import Connector
from crawler.fetch.deadline import Deadline, Deadlines
from crawler.fetch.decoding import Finisher, Room, tell
from crawler.fetch.errors import lacking, raise_ours
from crawler.fetch.exchange import CURRENT, Exchange
from crawler.fetch.guard import Guard
from crawler.fetch.pace import Pace
from crawler.fetch.request import Profile, Request, conditions, profiles, referer, request_of
from crawler.fetch.transport import Transport

if TYPE_CHECKING:
    from crawler.fetch.cookies import Cookies

QUANTUM_BYTES: Final = 64 << 10
"""The byte rate is paid in pieces of this size."""
FRAMING_FREE_BYTES: Final = 512 << 10
FRAMING_BYTES_PER_S: Final = 256 << 10
"""Chunk framing beyond the free bytes of a body, and beyond as much as there is body, is read no faster over the whole crawl: a
body in chunks of one byte comes whole, and all of them together take some hundredths of a core."""
_READ_BY_US: Final = frozenset({"robots", *SITEMAPS})
"""Kinds of links that are read for the crawl's own sake: by GET, and of any type."""
REACH_S: Final = 3.0
"""A host that neither takes nor refuses a connection within this is not reached."""
RACE_S: Final = 1.0
"""The news that a connection is closed takes no longer: a request that is written meanwhile nobody sees."""
TIME_REASONS: Final = frozenset({"read_timeout", "total_timeout", "min_rate"})
"""Of a body that was cut because it took too long."""


class FetchStats(Struct, frozen=True):
    """Gauges, then totals since the start."""

    in_flight: int
    connections_acquired: int
    connections_idle: int
    requests: int
    bytes_wire: int
    bytes_in_flight: int = 0
    """Gauge: received of bodies that are not whole yet."""
    idle_bytes: int = 0
    """Gauge: memory that idle connections take."""
    waiting_for_rate: int = 0
    """Gauge: fetches that the crawl-wide rate or bandwidth holds up."""
    connections_opened: int = 0


class Fetcher:
    """Made by ``open_fetcher``."""

    def __init__(
        self,
        config: FetchConfig,
        transport: Transport,
        connector: Connector,
        guard: Guard,
        profile_of: Callable[[str], Profile],
        new_body: Callable[[], Body],
        finisher: Finisher,
        concurrency_max: int,
        cookies: Cookies | None,
    ) -> None:
        self._config = config
        self._cookies = cookies
        self._transport = transport
        self._connector = connector
        self._guard = guard
        self._profile_of = profile_of
        self._new_body = new_body
        self.concurrency_max = concurrency_max
        """Fetches at a time that the descriptor limit allows."""
        self._loop = asyncio.get_running_loop()
        self._deadlines = Deadlines(self._loop, connector.tls_waste)
        self._bodies: set[Body] = set()  # of fetches in flight
        self.finisher = finisher
        self._in_flight = self._requests = self._bytes_wire = self._owed_bytes = 0
        self._request_pace, self._byte_pace = Pace(config.rate), Pace(config.bandwidth / QUANTUM_BYTES)
        self._framing_pace = Pace(FRAMING_BYTES_PER_S / QUANTUM_BYTES)

    def __repr__(self) -> str:
        return f"<Fetcher {self._in_flight} in flight, {self._connector.acquired} connected, {self._connector.idle} idle>"

    def pace(self, rate: float, bandwidth: float) -> None:
        """From now on: requests per second and bytes per second over the whole crawl; 0 means no limit."""
        self._request_pace.change(rate)
        self._byte_pace.change(bandwidth / QUANTUM_BYTES)

    @property
    def held_up(self) -> tuple[int, int]:
        """Fetches that wait for the rate, and for the bandwidth."""
        return self._request_pace.waiting, self._byte_pace.waiting

    def change(self, config: FetchConfig, hosts: Sequence[HostConfig] = ()) -> None:
        """From the next request on: deadlines, limits of bodies, accept_mime, rates, headers and proxies; the session keeps
        all else."""
        self._config = config
        self._profile_of = profiles(config, hosts, self.finisher.accepted)
        self.pace(config.rate, config.bandwidth)

    def stats(self) -> FetchStats:
        connected = self._connector
        return FetchStats(
            self._in_flight,
            connected.acquired,
            connected.idle,
            self._requests,
            self._bytes_wire,
            sum(body.size for body in self._bodies),
            connected.idle_bytes,
            sum(self.held_up),
            connected.opened,
        )

    @property
    def names_known(self) -> int:
        """Host names whose addresses are kept."""
        return self._connector.resolver.names_known

    @property
    def names_events(self) -> dict[str, int]:
        """Of the cache of names: hits, misses, evictions."""
        return self._connector.resolver.events

    @property
    def names_told(self) -> int:
        """Lookups to which a name server had something to say."""
        return self._connector.resolver.told

    async def speak(self) -> bool:
        """Whether a name server says anything now; True if none ever did."""
        try:
            async with asyncio.timeout(2 * REACH_S):
                return await self._connector.resolver.speaks()
        except (StorageError, TimeoutError):
            return False

    def forget(self) -> None:
        """Give back what is only kept to be quicker next time: addresses and idle connections."""
        self._connector.forget()

    async def reaches(self, host: str) -> bool:
        """Whether a host key's port takes a connection now, or refuses it, and a name server speaks of its name: a sign that our
        own network works. Nothing is sent. Never of a host of which http or https is behind a proxy: its name is looked up, and
        connections made, by that alone."""
        if any(self._profile_of(f"{scheme}://{host}").proxy is not None for scheme in ("http", "https")):
            return False
        name, _, port = host.rpartition(":") if host.rpartition(":")[2].isdigit() else (host, "", "80")
        try:
            async with asyncio.timeout(REACH_S):
                for found in await self._connector.addresses(name.strip("[]"), int(port)):
                    if await self._takes_connection(found):
                        return True
        except (FetchError, StorageError, TimeoutError):
            pass
        return False

    async def _takes_connection(self, found: ResolveResult) -> bool:
        kind = (found["family"], socket.SOCK_STREAM, found["proto"], "", (found["host"], found["port"]))
        try:
            with self._guard.socket(kind) as probe:
                probe.setblocking(False)
                await self._loop.sock_connect(probe, (found["host"], found["port"]))
        except ConnectionRefusedError:
            return True  # by somebody out there: it may speak on another port only
        except OSError:
            return False
        return True

    async def fetch(self, lease: Lease, room: Room | None = None) -> Page:
        """One attempt at a link. ``room``: where memory is to be had for what few responses need. FetchError: no response came
        that could be read. StorageError: the fault is ours."""
        started = time.monotonic()
        self._in_flight += 1
        try:
            if self._request_pace.per_second:
                await self._request_pace.turn()
            link = lease.link
            method = "GET" if link.kind in _READ_BY_US else self._config.method
            cookie = self._cookies.header(link.url) if self._cookies is not None else None
            request = request_of(method, link.url, self._profile_of(origin(link.url)), conditions(lease) + referer(link), cookie)
            proxied = request.proxy is not None
            if proxied:
                self._check_literal(request.host)
            tunnel = proxied and request.tls
            exchange = Exchange(proxied=proxied, tunnel=tunnel, room=room)
            try:
                return await self._exchange(link, request, exchange, started, room)
            except FetchError as error:
                if not _was_closed_before(exchange, error):
                    raise
            # A kept connection was closed just as it was used again: nobody has seen the request (RFC 9112 section 9.3.1).
            if self._request_pace.per_second:
                await self._request_pace.turn()
            again = Exchange(proxied=proxied, tunnel=tunnel, fresh=True, room=room)
            return await self._exchange(link, request, again, started, room)
        finally:
            self._in_flight -= 1

    async def _exchange(self, link: Link, request: Request, exchange: Exchange, started: float, room: Room | None) -> Page:
        config = self._config
        is_sitemap = link.kind in SITEMAPS
        limit = config.max_sitemap if is_sitemap else config.max_robots if link.kind == "robots" else config.max_body
        body = self._new_body()
        self._bodies.add(body)
        head_at = 0.0
        fault: FetchError | None = None
        CURRENT.set(exchange)
        self._requests += 1
        try:
            try:
                with Deadline(self._deadlines, config.timeout) as deadline:
                    exchange.deadline, exchange.first_byte_s = deadline, config.first_byte_timeout
                    deadline.arm(config.connect_timeout, "connect_timeout")
                    try:
                        async with self._transport.ask(request) as content:
                            self._take_head(link, exchange)
                            head_at = time.monotonic()
                            fault = await self._read(content, body, limit, deadline, exchange)
                    except Exception as error:
                        raise_ours(error, exchange, tls=request.tls)
                        raise
            except FetchError as error:
                error.sent = exchange.is_sent
                error.shared |= exchange.proxied and not exchange.sent_at  # it was the proxy that could not be had
                if not head_at:
                    if exchange.message is not None:
                        error.first_byte_s = time.monotonic() - exchange.sent_at
                    error.stray = exchange.reused and error.reason == "malformed"
                    raise
                fault = error.kept()
            if exchange.our_errno:
                raise lacking(exchange.our_errno)
            if fault is None and exchange.ending is not None:
                fault = FetchError(*exchange.ending)
            body.seal()
            message = exchange.message
            assert message is not None
            page = _page(request, message, body, fault)
            page.ip = None if exchange.proxied else exchange.ip
            page.fetched_at = exchange.sent_wall
            if body.size and "Content-Encoding" in message.headers:
                codings = codings_of(message.headers.getall("Content-Encoding"))
                await self.finisher.finish(page, codings, limit, room)
            else:
                tell(page)
            page.timings = Timings(exchange.sent_at - started, head_at - exchange.sent_at, time.monotonic() - started)
            self._bytes_wire += page.bytes_wire
            return page
        except BaseException:
            body.discard()
            raise
        finally:
            self._bodies.discard(body)
            exchange.forget()

    async def _read(
        self, content: StreamReader, body: Body, limit: int, deadline: Deadline, exchange: Exchange
    ) -> FetchError | None:
        """The body, chunk by chunk, at most ``limit`` bytes; the fault if there is more."""
        config = self._config
        begun = self._loop.time()
        paid = FRAMING_FREE_BYTES
        if not content.is_eof():
            deadline.arm_at(begun + config.read_timeout, "read_timeout")
        while chunk := await content.readany():
            if len(chunk) > limit - body.size:
                body.write(chunk[: limit - body.size])
                return FetchError("max_body", f"over {limit} bytes")
            body.write(chunk)
            size = len(chunk)
            del chunk  # the next may be long in coming
            if self._byte_pace.per_second:
                begun += await self._pay(size, deadline)
            if content.at_eof():
                break
            while exchange.framing - body.size - paid >= QUANTUM_BYTES:
                paid += QUANTUM_BYTES
                began = self._loop.time()
                deadline.arm_at(math.inf, "total_timeout")  # the waiting is theirs, but silence it is not
                await self._framing_pace.turn()
                begun += self._loop.time() - began
            silent_at = self._loop.time() + config.read_timeout
            slow_at = begun + max(config.min_rate_grace, body.size / config.min_rate) if config.min_rate else silent_at
            deadline.arm_at(*((slow_at, "min_rate") if slow_at < silent_at else (silent_at, "read_timeout")))
        return None

    async def _pay(self, size: int, deadline: Deadline) -> float:
        """Wait for the crawl's byte rate; the seconds waited."""
        self._owed_bytes += size
        waited = 0.0
        while self._owed_bytes >= QUANTUM_BYTES and self._byte_pace.per_second:
            self._owed_bytes -= QUANTUM_BYTES
            deadline.hold()
            try:
                await self._byte_pace.turn()
            finally:
                waited += deadline.go_on()
        return waited

    def _check_literal(self, host: str) -> None:
        """Behind a proxy no socket is made for the URL's own address, but one written in the URL is known here already."""
        if (":" in host or host.replace(".", "").isdigit()) and (rule := self._guard.refuses(host)):
            raise FetchError("address", rule)

    def _take_head(self, link: Link, exchange: Exchange) -> None:
        """The cookies that a response sets, whatever becomes of its body. Refuse it by its head alone."""
        message = exchange.message
        assert message is not None
        if message.code == 407 and exchange.proxied and link.url.startswith("http:"):  # by a tunnel only the host speaks
            raise FetchError("proxy", "status 407", shared=True)
        if self._cookies is not None and "Set-Cookie" in message.headers:
            self._cookies.received(link.url, message.headers.getall("Set-Cookie"))
        accepted = self._config.accept_mime
        if accepted and message.code == 200 and link.kind not in _READ_BY_US:
            mime, _ = _content_type(message)
            if mime is not None and not any(matches_mime(mime, pattern) for pattern in accepted):
                raise FetchError("mime", mime)


def _was_closed_before(exchange: Exchange, error: FetchError) -> bool:
    """Whether a kept connection may have been closed before the request came. A server that closes it later has seen the request:
    that visit has failed, and is made again when the host has rested."""
    is_closed = exchange.reused and not exchange.received and error.reason in ("disconnected", "reset")
    return is_closed and time.monotonic() - exchange.sent_at <= RACE_S


def _page(request: Request, message: RawResponseMessage, body: Body, fault: FetchError | None) -> Page:
    page = Page(
        request.href,
        message.code,
        message.reason,
        f"{message.version.major}.{message.version.minor}",
        message.raw_headers,
        request.masked,
        body,
        bytes_wire=body.size,
        fault=fault,
    )
    page.mime, page.charset = _content_type(message)
    if fault is not None:
        page.truncated = "length" if fault.reason == "max_body" else "time" if fault.reason in TIME_REASONS else "disconnect"
    return page


def _content_type(message: RawResponseMessage) -> tuple[str | None, str | None]:
    return content_type(tuple(message.headers.getall("Content-Type", ())))
