"""Names to addresses, with what a crawl needs beyond c-ares (see ``channels``): to know why a name has no address, and to ask
again.

Invariants: only addresses are remembered, never that there are none: each further attempt asks the name server again. A name
that had addresses keeps them for a while when it suddenly has none (RFC 8767). Addresses the guard refuses never leave here, and
all that is remembered is bounded.

Names are absolute: search domains of the machine are not tried, for a foreign page's ``http://wiki/`` must not become a host
of the network that we are in.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import Any, Final

from aiohttp.abc import AbstractResolver, ResolveResult
from msgspec import Struct

from crawler.core.errors import FetchError
from crawler.core.urls import name_fault
from crawler.fetch.channels import KEPT_BY_CARES, Channel, Channels, is_spoilt, reason_of
from crawler.fetch.exchange import CURRENT
from crawler.fetch.ipv6 import Ipv6

TTL_S_MIN, TTL_S_MAX = 60, 3600
STALE_S_MAX: Final = 300.0
"""So long beyond their time addresses serve a name that is now said to have none, or of which nobody says anything."""
STALE_ASK_EVERY_S: Final = 5.0
"""The name is asked for again so often meanwhile."""
NODES_MAX: Final = 64
"""Addresses of one response that are looked at."""
BY_TCP_MAX: Final = 2
"""Names at once of which UDP brought no address, so that TCP may be tried: of 64 KB c-ares makes up to 20 MB for a moment."""
ALONE_MAX: Final = 8
"""Names at once that are asked for again by UDP, each alone: a thread and four descriptors."""
ALONE_REST_S: Final = 0.05
"""After each: c-ares closes a channel, a thread and some descriptors, in one thread for all of them, which takes milliseconds."""

Entry = tuple[str, ...] | str
"""The addresses, or the reason why there are none."""


class _Known(Struct):
    addresses: tuple[str, ...]
    fresh_until: float
    """Loop time; then the name is asked for again."""
    stale_until: float


class _Lookup(Struct, eq=False):
    """One, for all who ask for the name meanwhile."""

    host: str
    until: float
    """Loop time; what comes later counts as silence, but is remembered."""
    found: tuple[str, ...] = ()
    is_kept: bool = True
    """What is found is remembered."""
    is_empty: bool = False
    """There was a response without an address: UDP may have had no room for one."""
    is_spoilt: bool = False
    """There came what is no response: it may have been another name's."""


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
        self._cache: OrderedDict[str, _Known] = OrderedDict()
        self._asked: dict[str, asyncio.Task[Entry]] = {}
        self._channels = Channels(nameservers, timeout_s)
        self._by_tcp = asyncio.Semaphore(BY_TCP_MAX)
        self._alone = asyncio.Semaphore(ALONE_MAX)
        self._ipv6 = Ipv6()
        self.events = {"hit": 0, "miss": 0, "evicted": 0}
        """Of the cache."""
        self.told = 0
        """Lookups to which a name server had something to say."""
        self._last_told = ""
        """The name that one gave addresses for last."""

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
            entry = await asyncio.shield(self._asked.get(host) or self._begin(host))
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

    async def is_heard(self, host: str) -> bool:
        """Whether a name server, or /etc/hosts, says anything of a name now, asked through a channel that remembers nothing.
        StorageError."""
        return await self._is_heard(_Lookup(host, self._loop.time() + self._timeout_s), self._channels.open(by_udp_alone=True))

    async def speaks(self) -> bool:
        """Whether a name server says anything now of names that none can remember: in the top-level domain of the name that one
        told last, or beside it. True if none was told. StorageError."""
        parent, top = self._last_told.partition(".")[2], self._last_told.rpartition(".")[2]
        for zone in filter(None, (top, parent)):
            lookup = _Lookup(f"{secrets.token_hex(4)}.{zone}", self._loop.time() + self._timeout_s, is_kept=False)
            if await self._is_heard(lookup, self._channels.open(by_udp_alone=True)):
                return True
        return not self._last_told

    async def _is_heard(self, lookup: _Lookup, channel: Channel) -> bool:
        try:
            return await self._ask_for_each_kind(lookup, channel) in ("", *KEPT_BY_CARES)
        finally:
            channel.cancel()

    async def close(self) -> None:
        lookups = list(self._asked.values())
        for lookup in lookups:
            lookup.cancel()
        await asyncio.gather(*lookups, return_exceptions=True)
        self._asked.clear()
        await self._channels.close()

    def forget(self) -> None:
        """Names are asked for anew from now on: c-ares forgets, too."""
        self._cache.clear()
        self._channels.forget()

    @property
    def names_known(self) -> int:
        """Names that are remembered."""
        return len(self._cache)

    # -- what is remembered ---------------------------------------------------------------------------------------

    def _fresh(self, host: str) -> tuple[str, ...] | None:
        """The addresses of a name, while they need not be asked for."""
        known = self._cache.get(host)
        if known is None or known.fresh_until <= self._loop.time():
            return None
        self._cache.move_to_end(host)
        return known.addresses

    def _stale(self, host: str) -> tuple[str, ...] | None:
        """Those of a name of which a lookup has brought none."""
        if (known := self._cache.get(host)) is None:
            return None
        now = self._loop.time()
        if now >= known.stale_until:
            del self._cache[host]
            return None
        known.fresh_until = max(known.fresh_until, now + STALE_ASK_EVERY_S)
        return known.addresses

    def _learn(self, lookup: _Lookup, nodes: Sequence[Any]) -> None:
        addresses, ttl_s = self._addresses(nodes)
        if not addresses:
            return
        lookup.found = addresses
        if not lookup.is_kept:
            return
        fresh_until = self._loop.time() + ttl_s
        self._cache[lookup.host] = _Known(addresses, fresh_until, fresh_until + STALE_S_MAX)
        self._cache.move_to_end(lookup.host)
        if len(self._cache) > self._names_max:
            self._cache.popitem(last=False)
            self.events["evicted"] += 1
        if (latest := self._channels.latest) is not None:
            latest.denied.discard(lookup.host)

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

    # -- one lookup -----------------------------------------------------------------------------------------------

    def _begin(self, host: str) -> asyncio.Task[Entry]:
        """It outlives those who give up."""
        task = self._asked[host] = self._loop.create_task(self._look_up(host))
        task.add_done_callback(_heard)
        return task

    async def _look_up(self, host: str) -> Entry:
        """StorageError: this machine lacks what it takes."""
        try:
            if (wait_s := self._channels.wait_s(host)) > 0:
                await asyncio.sleep(wait_s)
            lookup = _Lookup(host, self._loop.time() + self._timeout_s)
            reason = await self._ask_for_each_kind(lookup, self._channels.shared(host))
            if lookup.is_spoilt and reason not in ("", "dns_timeout"):
                reason = await self._ask_alone(lookup, reason, self._alone, by_udp_alone=True)
            if lookup.is_empty and reason not in ("", "dns_timeout"):
                reason = await self._ask_alone(lookup, reason, self._by_tcp, by_udp_alone=False)
            return lookup.found or self._stale(host) or reason
        finally:
            self._asked.pop(host, None)

    async def _ask_for_each_kind(self, lookup: _Lookup, channel: Channel) -> str:
        """For IPv4 and IPv6 addresses at once, or for the latter where there are none of the former: wherever they may lead
        somewhere."""
        if self._ipv6.may_lead_anywhere():
            return await self._ask(lookup, channel, socket.AF_UNSPEC)
        reason = await self._ask(lookup, channel, socket.AF_INET)
        if reason == "no_address" and self._ipv6.is_there():
            reason = await self._ask(lookup, channel, socket.AF_INET6)
        return reason

    async def _ask(self, lookup: _Lookup, channel: Channel, family: socket.AddressFamily) -> str:
        """The reason why nothing was found, or nothing."""
        reason = ""
        for _ in range(2):  # c-ares calls it an unreachable server, too, where it had no descriptor a moment ago
            query = channel.ask(lookup.host, family)
            query.add_done_callback(partial(self._came, lookup))
            await asyncio.wait([query], timeout=lookup.until - self._loop.time())
            if not query.done():
                return "dns_timeout"
            if lookup.found:
                return ""
            reason = reason_of(query)
            if reason != "resolver_unreachable":
                break
        if reason in KEPT_BY_CARES:
            self.told += 1
            channel.deny(lookup.host)
        lookup.is_empty |= reason == "no_address"
        lookup.is_spoilt |= is_spoilt(query)
        return reason

    def _came(self, lookup: _Lookup, query: asyncio.Future[Any]) -> None:
        """Addresses are remembered however late they come."""
        if query.cancelled() or query.exception() is not None:
            return
        nodes = query.result().nodes
        self._learn(lookup, nodes)
        if any(node.ttl for node in nodes):  # what /etc/hosts has comes without
            self.told += 1
            if lookup.is_kept:
                self._last_told = lookup.host

    async def _ask_alone(self, lookup: _Lookup, reason: str, room: asyncio.Semaphore, *, by_udp_alone: bool) -> str:
        """By UDP again, and by TCP if that is truncated, through a channel of its own, which goes with what it keeps. Where
        many wait for that, what was said stands: names without an address must not wait behind those that drip."""
        try:
            async with asyncio.timeout_at(lookup.until - self._timeout_s / 2):
                await room.acquire()
        except TimeoutError:
            return reason
        try:
            channel = self._channels.open(by_udp_alone=by_udp_alone)
            reason = await self._ask_for_each_kind(lookup, channel)
            channel.cancel()
            return reason
        finally:
            self._loop.call_later(ALONE_REST_S, room.release)


def _heard(task: asyncio.Task[Entry]) -> None:
    """Of a lookup's error: whoever asked may be gone."""
    if not task.cancelled():
        task.exception()
