"""Names to addresses by aiodns, with the one thing a crawl needs beyond it: to know why a name has no address.

The law: NXDOMAIN, an empty answer, a failing server, silence and an unreachable resolver are five different reasons; what
is remembered is bounded and soon forgotten; addresses the guard refuses never leave here.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING, Any, Final

from aiohttp.abc import AbstractResolver, ResolveResult

from crawler.core.errors import OUR_ERRNOS, FetchError, StorageError
from crawler.fetch.exchange import CURRENT

if TYPE_CHECKING:
    import aiodns

TTL_S_MIN, TTL_S_MAX = 60, 3600
NEGATIVE_TTL_S: Final = {"nxdomain": 60.0, "no_address": 60.0, "servfail": 5.0}
"""How long a failure is remembered; silence and an unreachable resolver are not."""
LOOKUPS_PER_CHANNEL_MAX: Final = 4096
"""c-ares keeps each answer for its TTL, without bound: after this many lookups its cache is emptied."""
NODES_MAX: Final = 64
"""Addresses of one answer that are looked at."""
IPV6_LOOK_S: Final = 60.0
_TRIES: Final = 4

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
_OURS: Final = ("ARES_ENOMEM", "ARES_EFILE")

Entry = tuple[str, ...] | str
"""The addresses, or the reason why there are none."""


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
        self._timeout_s = timeout_s
        self._addresses_max = addresses_max
        self._names_max = names_max
        self._nameservers = list(nameservers) or None
        self._cache: OrderedDict[str, tuple[float, Entry]] = OrderedDict()
        self._asked: dict[str, asyncio.Future[Entry]] = {}
        self._lookups = 0
        self.events = {"hit": 0, "miss": 0, "evicted": 0}
        """Of the cache."""
        self._family = socket.AF_UNSPEC
        self._ipv6_looked_at = -IPV6_LOOK_S

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC) -> list[ResolveResult]:
        """The addresses of ``host``, in order of preference. FetchError: one of dns_error's reasons, or ``address``."""
        entry = self._known(host)
        self.events["miss" if entry is None else "hit"] += 1
        if entry is None:
            entry = await asyncio.shield(self._asked.get(host) or self._ask(host))
        if isinstance(entry, str):
            raise FetchError(entry)
        exchange = CURRENT.get()
        if exchange is not None and exchange.proxied:
            allowed = entry
        else:
            allowed = tuple(ip for ip in entry if self._refuses(ip) is None)
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

    @cached_property
    def _dns(self) -> aiodns.DNSResolver:
        """c-ares, loaded with the first name: 20 ms, and a thread, that addresses do without. Raises StorageError."""
        try:
            import aiodns
            import pycares

            return aiodns.DNSResolver(
                nameservers=self._nameservers,
                loop=self._loop,
                timeout=max(self._timeout_s / _TRIES, 0.25),
                tries=_TRIES,
                flags=pycares.ARES_FLAG_EDNS | pycares.ARES_FLAG_NOSEARCH,
            )
        except Exception as error:
            if ours := _descriptors_spent():
                raise StorageError("name lookup: no descriptor left", errno=ours) from error
            raise

    async def close(self) -> None:
        for waiting in self._asked.values():
            waiting.cancel()
        self._asked.clear()
        if "_dns" in vars(self):
            await self._dns.close()

    @property
    def names_known(self) -> int:
        return len(self._cache)

    def forget(self) -> None:
        """Empty the cache."""
        self._cache.clear()

    def _known(self, host: str) -> Entry | None:
        found = self._cache.get(host)
        if found is None:
            return None
        if found[0] <= self._loop.time():
            del self._cache[host]
            return None
        self._cache.move_to_end(host)
        return found[1]

    def _ask(self, host: str) -> asyncio.Future[Entry]:
        """One lookup for all who ask for this name meanwhile; it outlives those who give up. Raises StorageError."""
        dns = self._dns
        self._lookups += 1
        if self._lookups % LOOKUPS_PER_CHANNEL_MAX == 0:
            dns._channel.reinit()
        waiting: asyncio.Future[Entry] = self._loop.create_future()
        self._asked[host] = waiting
        timer = self._loop.call_later(self._timeout_s, self._answer, host, waiting, "dns_timeout")
        query = dns.getaddrinfo(host, family=self._families(), type=socket.SOCK_STREAM)
        query.add_done_callback(partial(self._answered, host, waiting, timer))
        return waiting

    def _answered(
        self, host: str, waiting: asyncio.Future[Entry], timer: asyncio.TimerHandle, query: asyncio.Future[Any]
    ) -> None:
        timer.cancel()
        if query.cancelled():
            waiting.cancel()
            return
        error = query.exception()
        if error is None:
            entry, ttl_s = _addresses(query.result().nodes)
        else:
            name = _error_names().get(error.args[0], "") if error.args else ""
            if name in _OURS:
                self._fail(host, waiting, StorageError("name lookup: out of memory or files"))
                return
            entry = _REASONS.get(name, "servfail")
            ttl_s = NEGATIVE_TTL_S.get(entry, 0.0)
            if entry in ("resolver_unreachable", "dns_timeout") and (ours := _descriptors_spent()):
                self._fail(host, waiting, StorageError("name lookup: no descriptor left", errno=ours))
                return
        if ttl_s:
            self._cache[host] = (self._loop.time() + ttl_s, entry)
            if len(self._cache) > self._names_max:
                self._cache.popitem(last=False)
                self.events["evicted"] += 1
        self._answer(host, waiting, entry)

    def _answer(self, host: str, waiting: asyncio.Future[Entry], entry: Entry) -> None:
        if self._asked.get(host) is waiting:
            del self._asked[host]
        if not waiting.done():
            waiting.set_result(entry)

    def _fail(self, host: str, waiting: asyncio.Future[Entry], error: StorageError) -> None:
        if self._asked.get(host) is waiting:
            del self._asked[host]
        if not waiting.done():
            waiting.set_exception(error)
            waiting.exception()  # whoever asked may be gone: nobody need hear of it

    def _families(self) -> socket.AddressFamily:
        """Only IPv4 where IPv6 leads nowhere: asked again now and then, for networks come and go."""
        now = self._loop.time()
        if now - self._ipv6_looked_at >= IPV6_LOOK_S:
            self._ipv6_looked_at = now
            self._family = socket.AF_UNSPEC if _has_ipv6() else socket.AF_INET
        return self._family


@cache
def _error_names() -> dict[object, str]:
    """c-ares' errors by number."""
    from pycares import errno

    return {getattr(errno, name): name for name in (*_REASONS, *_OURS)}


def _addresses(nodes: Sequence[Any]) -> tuple[Entry, float]:
    """(addresses without repeats or scopes, or a reason; seconds to remember it)"""
    found: dict[str, None] = {}
    ttl_s = TTL_S_MAX
    for node in nodes[:NODES_MAX]:
        address = node.addr[0].decode("ascii", "replace")
        if node.family in (socket.AF_INET, socket.AF_INET6):
            found[address] = None
            ttl_s = min(ttl_s, node.ttl)
    if not found:
        return "no_address", NEGATIVE_TTL_S["no_address"]
    return tuple(found), float(max(ttl_s, TTL_S_MIN))


def _has_ipv6() -> bool:
    """Whether there is a route to the global IPv6 network. Sends nothing."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.connect(("2001:500:2::c", 53))
    except OSError:
        return False
    return True


def _descriptors_spent() -> int:
    """The errno if no descriptor can be had now, else 0: c-ares calls that an unreachable server."""
    try:
        os.close(os.dup(2))
    except OSError as error:
        if error.errno in OUR_ERRNOS:
            return error.errno or 0
    return 0
