"""Names to addresses by aiodns, with what a crawl needs beyond it: to know why a name has no address, and to ask again.

Invariants: NXDOMAIN, an empty response, a failing server, silence and an unreachable resolver are five different reasons.
Only addresses are remembered, never that there are none: each further attempt asks the name server again. A name that had
addresses keeps them for a while when it suddenly has none (RFC 8767). Addresses the guard refuses never leave here, and all
that is remembered is bounded.

Names are absolute: search domains of the machine are not tried, for a foreign page's ``http://wiki/`` must not become a host
of the network that we are in.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from aiohttp.abc import AbstractResolver, ResolveResult
from msgspec import Struct

from crawler.core.errors import OUR_ERRNOS, FetchError, StorageError, lack_of
from crawler.core.urls import name_fault
from crawler.fetch.exchange import CURRENT
from crawler.fetch.ipv6 import Ipv6

if TYPE_CHECKING:
    import aiodns

TTL_S_MIN, TTL_S_MAX = 60, 3600
STALE_S_MAX: Final = 300.0
"""So long beyond their time addresses serve a name that is now said to have none, or of which nobody says anything."""
STALE_ASK_EVERY_S: Final = 5.0
"""The name is asked for again so often meanwhile."""
CHANNEL_BYTES_MAX: Final = 4 << 20
"""c-ares keeps each response for its TTL, without bound: once it may have so much, a new channel takes its place."""
LOOKUP_BYTES: Final = 2 << 10
"""What it keeps of a response beside the addresses and all names, about."""
NAME_COPIES: Final = 10
"""Of the name that was asked for."""
NODE_BYTES: Final = 160
"""Of an address, to which its name comes. A response by TCP may have 4,000."""
ALIAS_BYTES: Final = 180
"""Of each name that stands for another, to which both come; in each of two responses where IPv6 is asked for as well."""
DENIED_BYTES: Final = 9 << 10
"""Of a name that does not exist, or has no address: it may lead through eight long ones to nothing, and c-ares does not tell."""
CHANNELS_MAX: Final = 8
"""A channel is a thread and some descriptors, for as long as a lookup in it waits: while there are so many ..."""
RENEW_EVERY_S: Final = 1.0
"""... there is a new one no more often than this."""
NODES_MAX: Final = 64
"""Addresses of one response that are looked at."""
BY_TCP_MAX: Final = 2
"""Names at once of which UDP brought no address, so that TCP may be tried: of 64 KB c-ares makes up to 20 MB for a moment."""
BY_TCP_REST_S: Final = 0.05
"""After each: c-ares closes a channel, a thread and some descriptors, in one thread for all of them, which takes milliseconds."""
_TRIES: Final = 4
_TRY_S_MAX: Final = 86400.0
"""c-ares counts the milliseconds of one of them in 32 bits."""

_REASONS: Final = {
    "ARES_ENODATA": "no_address",
    "ARES_ENOTFOUND": "nxdomain",
    "ARES_ENONAME": "nxdomain",
    "ARES_EBADNAME": "nxdomain",
    "ARES_EFORMERR": "servfail",
    "ARES_ESERVFAIL": "servfail",
    "ARES_ENOTIMP": "servfail",
    "ARES_EREFUSED": "servfail",
    "ARES_EBADRESP": "servfail",
    "ARES_ETIMEOUT": "dns_timeout",
    "ARES_ECONNREFUSED": "resolver_unreachable",
}
_OURS: Final = {"ARES_ENOMEM": errno.ENOMEM, "ARES_EFILE": errno.EMFILE}
"""A lack of this machine: it may be over by now."""
KEPT_BY_CARES: Final = frozenset({"nxdomain", "no_address"})
"""c-ares remembers these as their SOA says (RFC 2308 section 5), and cannot be told not to."""

Entry = tuple[str, ...] | str
"""The addresses, or the reason why there are none."""


class _Known(Struct):
    addresses: tuple[str, ...]
    fresh_until: float
    """Loop time; then the name is asked for again."""
    stale_until: float


class Resolver(AbstractResolver):
    """``refuses`` is the guard's rule for an address. ``nameservers``: ADDRESS or ADDRESS:PORT; none means the system's.
    ``names_max``: how many names are remembered."""

    def __init__(
        self,
        refuses: Callable[[str], str | None],
        *,
        nameservers: Sequence[str] = (),
        timeout_s: float = 5.0,
        addresses_max: int = 4,
        names_max: int = 4096,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._refuses = refuses
        self._nameservers = list(nameservers) or None
        self._timeout_s = timeout_s
        self._addresses_max = addresses_max
        self._names_max = names_max
        self._cache: OrderedDict[str, _Known] = OrderedDict()
        self._asked: dict[str, asyncio.Future[Entry]] = {}
        self._channels: WeakSet[aiodns.DNSResolver] = WeakSet()  # a former one lives until the last of its lookups is over
        self._by_tcp = asyncio.Semaphore(BY_TCP_MAX)
        self._tasks: set[asyncio.Task[None]] = set()  # of those that wait for it or have it; at most one for each asked
        self._channel_number = 0
        self._renewed_at = self._loop.time()
        self._dns: aiodns.DNSResolver | None = None  # the latest channel; loaded with the first name
        self._denied: OrderedDict[str, int] = OrderedDict()  # name → the channel that may remember it has no address
        self._channel_bytes = 0  # that c-ares may keep
        self.events = {"hit": 0, "miss": 0, "evicted": 0}
        """Of the cache."""
        self._ipv6 = Ipv6()

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC) -> list[ResolveResult]:
        """The addresses of ``host``, in order of preference. FetchError: one of dns_error's reasons, or ``address``; or
        ``proxy``, where it is the proxy's name."""
        entry: Entry | None = self._fresh(host)
        self.events["miss" if entry is None else "hit"] += 1
        is_shared = False
        if entry is None:
            if not (host and host.isascii() and host.isprintable()) or name_fault(host):
                raise FetchError("nxdomain", "no such name can exist", permanent=True)  # pycares raises what it likes, or asks
            is_shared = host in self._asked
            entry = await asyncio.shield(self._asked.get(host) or self._ask(host))
        exchange = CURRENT.get()
        proxied = exchange is not None and exchange.proxied
        if isinstance(entry, str):
            raise FetchError("proxy", entry) if proxied else FetchError(entry, shared=is_shared)
        allowed = entry if proxied else tuple(ip for ip in entry if self._refuses(ip) is None)
        if not allowed:
            raise FetchError("address", f"{entry[0]}: {self._refuses(entry[0])}")
        return [
            ResolveResult(
                hostname=host,
                host=ip,
                port=port,
                family=socket.AF_INET6 if ":" in ip else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for ip in allowed[: self._addresses_max]
        ]

    async def close(self) -> None:
        for waiting in self._asked.values():
            waiting.cancel()
        self._asked.clear()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for dns in list(self._channels):
            await dns.close()

    def forget(self) -> None:
        """Names are asked for anew from now on: c-ares forgets, too."""
        self._cache.clear()
        if self._dns is not None and self._loop.time() >= self._renewed_at + RENEW_EVERY_S:
            self._renew_channel()

    @property
    def names_known(self) -> int:
        """Names that are remembered."""
        return len(self._cache)

    def _fresh(self, host: str) -> tuple[str, ...] | None:
        """The addresses of a name, while they need not be asked for."""
        known = self._cache.get(host)
        if known is None:
            return None
        if known.fresh_until <= self._loop.time():
            return None
        self._cache.move_to_end(host)
        return known.addresses

    # -- one lookup -----------------------------------------------------------------------------------------------

    def _ask(self, host: str) -> asyncio.Future[Entry]:
        """One lookup for all who ask for this name meanwhile; it outlives those who give up."""
        waiting: asyncio.Future[Entry] = self._loop.create_future()
        self._asked[host] = waiting
        wait_s = 0.0
        if self._denied.get(host) == self._channel_number:  # this channel might say so again without asking
            wait_s = self._renewed_at + RENEW_EVERY_S - self._loop.time()
        if wait_s > 0:
            self._loop.call_later(wait_s, self._begin, host, waiting)
        else:
            self._begin(host, waiting)
        return waiting

    def _begin(self, host: str, waiting: asyncio.Future[Entry]) -> None:
        if waiting.done():
            return
        self._channel_bytes += LOOKUP_BYTES + NAME_COPIES * len(host)
        if self._is_channel_full() or self._denied.get(host) == self._channel_number:
            self._renew_channel()
        if self._dns is None:
            try:
                self._dns = self._open_channel(by_udp_alone=True)
            except StorageError as error:
                self._fail(host, waiting, error)
                return
        timer = self._loop.call_later(self._timeout_s, self._end, host, waiting, "dns_timeout")
        waiting.add_done_callback(lambda _: timer.cancel())
        self._query(host, waiting, self._first_family(), self._dns, self._channel_number)

    def _first_family(self) -> socket.AddressFamily:
        return socket.AF_UNSPEC if self._ipv6.may_lead_anywhere() else socket.AF_INET

    def _query(
        self,
        host: str,
        waiting: asyncio.Future[Entry],
        family: socket.AddressFamily,
        dns: aiodns.DNSResolver,
        channel: int | None,
        *,
        is_second: bool = False,
    ) -> None:
        query = dns.getaddrinfo(host, family=family, type=socket.SOCK_STREAM)
        query.add_done_callback(partial(self._came, host, waiting, family, dns, channel, is_second))

    async def _ask_by_tcp(self, host: str, waiting: asyncio.Future[Entry], reason: str) -> None:
        """By UDP again, and by TCP if that is truncated, through a channel of its own, which goes with what it keeps. Where
        many wait for that, what UDP said stands: names without an address must not wait behind those that drip."""
        try:
            async with asyncio.timeout(self._timeout_s / 2):
                await self._by_tcp.acquire()
        except TimeoutError:
            self._end(host, waiting, reason)
            return
        rest_s = 0.0
        try:
            if not waiting.done():
                rest_s = BY_TCP_REST_S
                dns = self._open_channel(by_udp_alone=False)
                self._query(host, waiting, self._first_family(), dns, None)
                await asyncio.wait([waiting])
                dns.cancel()
        except StorageError as error:
            self._fail(host, waiting, error)
        finally:
            self._loop.call_later(rest_s, self._by_tcp.release)

    def _came(
        self,
        host: str,
        waiting: asyncio.Future[Entry],
        family: socket.AddressFamily,
        dns: aiodns.DNSResolver,
        channel: int | None,
        is_second: bool,
        query: asyncio.Future[Any],
    ) -> None:
        """What a query brought; ``dns`` is kept until then, and has no number where it may use TCP. Six cases:

        1. addresses, or nothing that anybody waits for any more;
        2. no memory, or no descriptor: that is our own trouble;
        3. c-ares calls it an unreachable server, too, where it had no descriptor a moment ago: it is asked once more;
        4. no IPv4 address: the name is asked for an IPv6 one, wherever that may lead somewhere;
        5. there was no room for an address, or there is none: TCP tells;
        6. a reason why there is none."""
        if query.cancelled():
            waiting.cancel()
            return
        error = query.exception()
        nodes = query.result().nodes if error is None else ()
        reason, code = "no_address", None
        if error is not None:
            code = _error_names().get(error.args[0]) if error.args else None
            reason = _REASONS.get(code or "", "servfail")
        if channel == self._channel_number:
            if error is None:
                self._channel_bytes += _kept_bytes(host, query.result(), 2 if family == socket.AF_UNSPEC else 1)
            elif reason in KEPT_BY_CARES:
                self._channel_bytes += DENIED_BYTES
        addresses, ttl_s = self._addresses(nodes) if error is None else ((), 0.0)
        if addresses:
            self._learn(host, addresses, ttl_s)
            self._end(host, waiting, addresses)
        if waiting.done():  # what comes too late counts as silence
            return
        lacking = _OURS.get(code or "", 0)
        if reason in ("resolver_unreachable", "dns_timeout"):
            lacking = descriptors_spent()
        if lacking:
            self._fail(host, waiting, StorageError("name lookup: out of memory or descriptors", errno=lacking))
        elif reason == "resolver_unreachable" and not is_second:
            self._query(host, waiting, family, dns, channel, is_second=True)
        elif reason == "no_address" and family == socket.AF_INET and self._ipv6.is_there():
            self._query(host, waiting, socket.AF_INET6, dns, channel)
        else:
            if channel is not None and (reason in KEPT_BY_CARES or family == socket.AF_INET6):
                self._deny(host, channel)
            if channel is not None and (reason == "no_address" or family == socket.AF_INET6):
                task = self._loop.create_task(self._ask_by_tcp(host, waiting, reason))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            else:
                self._end(host, waiting, reason)

    def _end(self, host: str, waiting: asyncio.Future[Entry], entry: Entry) -> None:
        """A lookup is over. Where it brought no address, those that the name had serve for a while."""
        if isinstance(entry, str) and (known := self._cache.get(host)) is not None:
            now = self._loop.time()
            if now < known.stale_until:
                known.fresh_until = now + STALE_ASK_EVERY_S
                entry = known.addresses
            else:
                del self._cache[host]
        if self._asked.get(host) is waiting:
            del self._asked[host]
        if not waiting.done():
            waiting.set_result(entry)

    def _fail(self, host: str, waiting: asyncio.Future[Entry], error: StorageError) -> None:
        if self._asked.get(host) is waiting:
            del self._asked[host]
        if not waiting.done():
            waiting.set_exception(error)
            waiting.exception()  # counts as heard: whoever asked may be gone

    def _learn(self, host: str, addresses: tuple[str, ...], ttl_s: float) -> None:
        fresh_until = self._loop.time() + ttl_s
        self._cache[host] = _Known(addresses, fresh_until, fresh_until + STALE_S_MAX)
        self._cache.move_to_end(host)
        if len(self._cache) > self._names_max:
            self._cache.popitem(last=False)
            self.events["evicted"] += 1
        self._denied.pop(host, None)

    # -- channels -------------------------------------------------------------------------------------------------

    def _open_channel(self, *, by_udp_alone: bool) -> aiodns.DNSResolver:
        """By UDP alone a truncated response is taken as it is: its few addresses do. StorageError: this machine has no
        descriptor, thread or memory for it. c-ares is loaded with the first name: 20 ms that addresses do without."""
        try:
            import aiodns
            import pycares

            dns = aiodns.DNSResolver(
                nameservers=self._nameservers,
                loop=self._loop,
                timeout=min(max(self._timeout_s / _TRIES, 0.25), _TRY_S_MAX),
                tries=_TRIES,
                flags=pycares.ARES_FLAG_EDNS | pycares.ARES_FLAG_NOSEARCH | (pycares.ARES_FLAG_IGNTC if by_udp_alone else 0),
            )
        except Exception as error:  # without descriptors an import fails in as many ways as c-ares
            lack = lack_of(error)
            number = descriptors_spent() or (lack.errno if lack is not None else 0)
            raise StorageError(f"name lookup cannot begin: {lack or error}", errno=number) from error
        self._channels.add(dns)
        return dns

    def _is_channel_full(self) -> bool:
        """Whether another should take its place for what it keeps, and may."""
        if self._channel_bytes <= CHANNEL_BYTES_MAX:
            return False
        return len(self._channels) < CHANNELS_MAX or self._loop.time() >= self._renewed_at + RENEW_EVERY_S

    def _renew_channel(self) -> None:
        """Another takes its place, which remembers nothing; the lookups under way end in the old one."""
        try:
            dns = self._open_channel(by_udp_alone=True)
        except StorageError:
            return  # the old one goes on
        self._dns = dns
        self._channel_number += 1
        self._channel_bytes = 0
        self._renewed_at = self._loop.time()

    def _deny(self, host: str, channel: int) -> None:
        self._denied[host] = channel
        self._denied.move_to_end(host)
        if len(self._denied) > self._names_max // 4 + 1:
            self._denied.popitem(last=False)

    def _addresses(self, nodes: Sequence[Any]) -> tuple[tuple[str, ...], float]:
        """(addresses without repeats or scopes, and without those that no route leads to: the first that a proxy, and that we
        ourselves may be asked to connect to; seconds to remember them)"""
        found: dict[str, None] = {}
        ttl_s = TTL_S_MAX
        for node in nodes[:NODES_MAX]:
            if node.family in (socket.AF_INET, socket.AF_INET6):
                found[node.addr[0].decode("ascii", "replace")] = None
                ttl_s = min(ttl_s, node.ttl)
        if any(":" in ip for ip in found):
            permitted = [ip for ip in found if self._refuses(ip) is None]  # what is refused stays, to say so
            for lost in set(permitted).difference(self._ipv6.reachable(permitted)):
                del found[lost]
        ours = islice((ip for ip in found if self._refuses(ip) is None), self._addresses_max)
        kept = dict.fromkeys((*islice(found, self._addresses_max), *ours))
        return tuple(kept), float(max(ttl_s, TTL_S_MIN))


def _kept_bytes(host: str, result: Any, responses: int) -> int:
    """What c-ares keeps of so many responses beside what it keeps of any, about: each record has its names written out."""
    aliases = [len(each.alias) + len(each.name) for each in result.cnames]
    return responses * (ALIAS_BYTES * len(aliases) + sum(aliases)) + (NODE_BYTES + max([len(host), *aliases])) * len(result.nodes)


@cache
def _error_names() -> dict[object, str]:
    """c-ares' errors by number."""
    from pycares import errno as numbers

    return {getattr(numbers, name): name for name in (*_REASONS, *_OURS)}


def descriptors_spent() -> int:
    """The errno if no socket can be had now, else 0: c-ares calls that an unreachable server."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()
    except OSError as error:
        if error.errno in OUR_ERRNOS:
            return error.errno or 0
    return 0
