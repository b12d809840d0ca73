"""Which addresses may be connected to. Pure rules over the IANA special-purpose registries, and the socket factory.

Invariant: the decision is made on the very address a socket is made for, whatever named it: a seed, a link, a redirect,
robots.txt or a DNS response. An address refused as IPv4 is also refused in every IPv6 form that embeds it.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, Final

from crawler.core.errors import ConfigError

_RULES_V4: Final = tuple(
    (IPv4Network(net), rule)
    for net, rule in (
        ("0.0.0.0/8", "unspecified"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "cgnat"),
        ("127.0.0.0/8", "loopback"),
        ("169.254.0.0/16", "link-local"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "reserved"),
        ("192.0.2.0/24", "documentation"),
        ("192.88.99.0/24", "reserved"),
        ("192.168.0.0/16", "private"),
        ("198.18.0.0/15", "benchmarking"),
        ("198.51.100.0/24", "documentation"),
        ("203.0.113.0/24", "documentation"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
    )
)
_RULES_V6: Final = tuple(
    (IPv6Network(net), rule)
    for net, rule in (
        ("::/128", "unspecified"),
        ("::1/128", "loopback"),
        ("64:ff9b:1::/48", "private"),
        ("100::/64", "reserved"),
        ("fc00::/7", "private"),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "private"),
        ("ff00::/8", "multicast"),
        ("2001::/32", ""),
        ("2001::/23", "reserved"),
        ("2001:db8::/32", "documentation"),
        ("3fff::/20", "documentation"),
    )
)
"""The first match counts; "" is a form whose embedded addresses decide."""
_GLOBAL_V6: Final = IPv6Network("2000::/3")
_MAPPED: Final = IPv6Network("::ffff:0:0/96")
_COMPATIBLE: Final = IPv6Network("::/96")
_NAT64: Final = IPv6Network("64:ff9b::/96")
_6TO4: Final = IPv6Network("2002::/16")
_TEREDO: Final = IPv6Network("2001::/32")
_ISATAP: Final = (0x00005EFE, 0x02005EFE)


class AddressRefused(OSError):
    """Raised where a socket was asked for; ``rule`` says why it was not made."""

    def __init__(self, ip: str, rule: str) -> None:
        super().__init__(errno.EACCES, f"{ip} is refused: {rule}")
        self.rule = rule


def embedded(address: IPv6Address) -> tuple[IPv4Address, ...]:
    """The IPv4 addresses an IPv6 address stands for: v4-mapped, v4-compatible, NAT64 (RFC 6052), 6to4, Teredo, ISATAP."""
    value = int(address)
    low = IPv4Address(value & 0xFFFFFFFF)
    if address in _MAPPED or address in _NAT64 or (address in _COMPATIBLE and value > 0xFFFF):
        return (low,)
    if address in _6TO4:
        return (IPv4Address(value >> 80 & 0xFFFFFFFF),)
    if address in _TEREDO:
        return (IPv4Address(value >> 64 & 0xFFFFFFFF), IPv4Address(value & 0xFFFFFFFF ^ 0xFFFFFFFF))
    if (value >> 32 & 0xFFFFFFFF) in _ISATAP:
        return (low,)
    return ()


class Guard:
    """``allow`` and ``deny`` are CIDR ranges; deny beats allow, allow beats the defaults."""

    def __init__(self, allow: Iterable[str] = (), deny: Iterable[str] = ()) -> None:
        self._allow = _networks("allow_net", allow)
        self._deny = _networks("deny_net", deny)

    def refuses(self, ip: str) -> str | None:
        """The rule that forbids a connection to ``ip``, or None. Anything that is not an address is refused."""
        if "%" in ip:
            return "scoped"
        try:
            address = ipaddress.ip_address(ip)
        except ValueError:
            return "not an address"
        forms: tuple[IPv4Address | IPv6Address, ...] = (address,)
        if isinstance(address, IPv6Address):
            forms += embedded(address)
        if any(form in net for form in forms for net in self._deny):
            return "deny_net"
        if any(address in net for net in self._allow):
            return None
        if isinstance(address, IPv4Address):
            return _rule_v4(address)
        if len(forms) > 1:
            rules = (None if any(form in net for net in self._allow) else _rule_v4(form) for form in forms[1:])
            return next((rule for rule in rules if rule), None) or _rule_v6(address, embeds=True)
        return _rule_v6(address, embeds=False)

    def socket(self, addr_info: tuple[Any, ...]) -> socket.socket:
        """A TCP socket for ``getaddrinfo``'s tuple: what aiohttp calls socket_factory. Raises AddressRefused."""
        family, kind, proto, _, sockaddr = addr_info
        scope = sockaddr[3] if len(sockaddr) > 3 else 0
        if rule := "scoped" if scope else self.refuses(sockaddr[0]):
            raise AddressRefused(sockaddr[0], rule)
        return socket.socket(family, kind, proto)


def _rule_v4(address: IPv4Address | IPv6Address) -> str | None:
    return next((rule for net, rule in _RULES_V4 if address in net), None)


def _rule_v6(address: IPv6Address, *, embeds: bool) -> str | None:
    for net, rule in _RULES_V6:
        if address in net:
            return rule or None
    return None if embeds or address in _GLOBAL_V6 else "reserved"


def _networks(key: str, ranges: Iterable[str]) -> tuple[IPv4Network | IPv6Network, ...]:
    faults = []
    found = []
    for text in ranges:
        try:
            found.append(ipaddress.ip_network(text))
        except ValueError as error:
            faults.append(f"{key}: {text!r} is no address range: {error}")
    if faults:
        raise ConfigError(faults)
    return tuple(found)
