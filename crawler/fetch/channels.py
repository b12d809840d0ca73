"""c-ares by aiodns, within bounds. A channel is a thread, some descriptors, and all that it was told.

Invariants: c-ares keeps each response for its TTL, without bound, so a channel is replaced once it may have kept too much, or
might say without asking that a name has no address. Of a truncated response by UDP the shared channel takes what there is;
TCP is for channels of one name.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from crawler.config.types import split_host_port
from crawler.core.errors import OUR_ERRNOS, StorageError, lack_of

if TYPE_CHECKING:
    import aiodns

CHANNEL_BYTES_MAX: Final = 4 << 20
"""Once it may have kept so much, a new channel takes its place."""
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
DENIED_MAX: Final = 1024
"""Such names of a channel that are told apart: twice as many as fill it."""
CHANNELS_MAX: Final = 8
"""A channel is there for as long as a lookup in it waits: while there are so many ..."""
RENEW_EVERY_S: Final = 1.0
"""... there is a new one no more often than this."""
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
    "ARES_ENOSERVER": "resolver_unreachable",
}
_NO_SERVER: Final = 26
"""ARES_ENOSERVER, which pycares has no name for."""
_OURS: Final = {"ARES_ENOMEM": errno.ENOMEM, "ARES_EFILE": errno.EMFILE}
"""A lack of this machine: it may be over by now."""
KEPT_BY_CARES: Final = frozenset({"nxdomain", "no_address"})
"""c-ares remembers these as their SOA says (RFC 2308 section 5), and cannot be told not to."""


class Channel:
    """``denied``: names of which it may say again, without asking, that they have no address. It lives until the last of its
    queries is over."""

    def __init__(self, dns: aiodns.DNSResolver, opened_at: float) -> None:
        self._dns = dns
        self.opened_at = opened_at
        """Loop time."""
        self.kept_bytes = 0
        """What c-ares may keep of all that was asked."""
        self.denied: set[str] = set()

    def ask(self, host: str, family: socket.AddressFamily) -> asyncio.Future[Any]:
        """A query; its result has ``nodes``, one for each address. See ``reason_of``."""
        self.kept_bytes += LOOKUP_BYTES + NAME_COPIES * len(host)
        query = self._dns.getaddrinfo(host, family=family, type=socket.SOCK_STREAM)
        query.add_done_callback(partial(self._count, host, 2 if family == socket.AF_UNSPEC else 1))
        return query

    def _count(self, host: str, responses: int, query: asyncio.Future[Any]) -> None:
        if query.cancelled():
            return
        if (error := query.exception()) is None:
            self.kept_bytes += _kept_bytes(host, query.result(), responses)
        elif _REASONS.get(name := _name_of(error)) in KEPT_BY_CARES:
            self.kept_bytes += DENIED_BYTES
        elif name == "ARES_ENOSERVER":  # and looks for none any more
            self.kept_bytes = CHANNEL_BYTES_MAX + 1

    def deny(self, host: str) -> None:
        if len(self.denied) < DENIED_MAX:
            self.denied.add(host)

    def cancel(self) -> None:
        """End its queries."""
        self._dns.cancel()

    async def close(self) -> None:
        await self._dns.close()


class Channels:
    """``nameservers``: ADDRESS or ADDRESS:PORT; none means the system's. ``timeout_s`` is that of a whole lookup."""

    def __init__(self, nameservers: Sequence[str], timeout_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._nameservers = [_as_cares_has_it(server) for server in nameservers] or None
        self._try_s = min(max(timeout_s / _TRIES, 0.25), _TRY_S_MAX)
        self._all: WeakSet[Channel] = WeakSet()
        self.latest: Channel | None = None
        """The one that is shared; opened with the first name."""

    def wait_s(self, host: str) -> float:
        """Seconds until the name server can be asked for a name that the latest channel denies: another must take its place."""
        if self.latest is None or host not in self.latest.denied:
            return 0.0
        return self.latest.opened_at + RENEW_EVERY_S - self._loop.time()

    def shared(self, host: str) -> Channel:
        """The one to ask for a name, by UDP alone. StorageError: none can be had."""
        latest = self.latest
        if latest is None:
            self.latest = latest = self.open(by_udp_alone=True)
        elif host in latest.denied or (latest.kept_bytes > CHANNEL_BYTES_MAX and self._may_have_another(latest)):
            latest = self._renew(latest)
        return latest

    def open(self, *, by_udp_alone: bool) -> Channel:
        """StorageError: this machine has no descriptor, thread or memory for it. c-ares is loaded with the first: 20 ms that
        addresses do without."""
        try:
            import aiodns
            import pycares

            dns = aiodns.DNSResolver(
                nameservers=self._nameservers,
                loop=self._loop,
                timeout=self._try_s,
                tries=_TRIES,
                flags=pycares.ARES_FLAG_EDNS | pycares.ARES_FLAG_NOSEARCH | (pycares.ARES_FLAG_IGNTC if by_udp_alone else 0),
            )
        except Exception as error:  # without descriptors an import fails in as many ways as c-ares
            lack = lack_of(error)
            number = descriptors_spent() or (lack.errno if lack is not None else 0)
            raise StorageError(f"name lookup cannot begin: {lack or error}", errno=number) from error
        channel = Channel(dns, self._loop.time())
        self._all.add(channel)
        return channel

    def forget(self) -> None:
        if self.latest is not None and self._loop.time() >= self.latest.opened_at + RENEW_EVERY_S:
            self._renew(self.latest)

    async def close(self) -> None:
        for channel in list(self._all):
            await channel.close()

    def _may_have_another(self, latest: Channel) -> bool:
        return len(self._all) < CHANNELS_MAX or self._loop.time() >= latest.opened_at + RENEW_EVERY_S

    def _renew(self, latest: Channel) -> Channel:
        """Another takes its place, which remembers nothing; the lookups under way end in the old one."""
        try:
            self.latest = self.open(by_udp_alone=True)
        except StorageError:
            return latest  # it goes on
        return self.latest


def reason_of(query: asyncio.Future[Any]) -> str:
    """Why a query brought no address: NXDOMAIN, an empty response, a failing server, silence and an unreachable server are five
    different reasons. StorageError: this machine is why."""
    if (error := query.exception()) is None:
        return "no_address"
    name = _name_of(error)
    reason, lacking = _REASONS.get(name, "servfail"), _OURS.get(name, 0)
    if reason in ("resolver_unreachable", "dns_timeout"):
        lacking = descriptors_spent()
    if lacking:
        raise StorageError("name lookup: out of memory or descriptors", errno=lacking)
    return reason


def is_spoilt(query: asyncio.Future[Any]) -> bool:
    """Whether there came what is no response. It may have been to another's question: c-ares then asks anew, as one more of their
    tries, whatever it has asked by the same socket."""
    return (error := query.exception()) is not None and _name_of(error) == "ARES_EBADRESP"


def _kept_bytes(host: str, result: Any, responses: int) -> int:
    """What c-ares keeps of so many responses beside what it keeps of any, about: each record has its names written out."""
    aliases = [len(each.alias) + len(each.name) for each in result.cnames]
    return responses * (ALIAS_BYTES * len(aliases) + sum(aliases)) + (NODE_BYTES + max([len(host), *aliases])) * len(result.nodes)


def _name_of(error: BaseException) -> str:
    return _error_names().get(error.args[0], "") if error.args else ""


@cache
def _error_names() -> dict[object, str]:
    """c-ares' errors by number."""
    from pycares import errno as numbers

    return {getattr(numbers, name, _NO_SERVER): name for name in (*_REASONS, *_OURS)}


def _as_cares_has_it(server: str) -> str:
    """``[fe80::1%eth0]:53`` has its zone behind the port there."""
    host, port = split_host_port(server)
    address, percent, zone = host.partition("%")
    return f"[{address}]:{port}%{zone}" if percent and port else server


def descriptors_spent() -> int:
    """The errno if no socket can be had now, else 0: c-ares calls that an unreachable server."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()
    except OSError as error:
        if error.errno in OUR_ERRNOS:
            return error.errno or 0
    return 0
