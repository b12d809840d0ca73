"""The head of each request, and the same head for the archive with its secrets masked.

Invariant: a secret is sent only to the hosts whose ``[[host]]`` table holds it, and is written to no record.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final

from msgspec import Struct
from yarl import URL

from crawler.config.hosts import HostRules
from crawler.config.sections import FetchConfig, HostConfig, PolitenessConfig
from crawler.config.types import MASKED
from crawler.core.content_coding import ACCEPTED
from crawler.core.errors import FetchError
from crawler.core.model import EMBED, Lease, Link
from crawler.core.page import SHA1_OF_NOTHING
from crawler.core.urls import name_fault, origin
from crawler.core.version import __version__

PROFILES_MAX: Final = 256
PLACES_MAX: Final = 1024
"""Hosts of which it is kept how they are connected to."""
_CODED_TAG: Final = re.compile(r'((?:W/)?"[^"]*)-(?:gzip|br)"')
"""Apache's of a body that it compresses: asked by it, it sends the page again, changed or not; it knows the tag without the
ending."""


class Profile(Struct, frozen=True):
    """How to ask one host: header fields in order, as bytes, as bytes with secrets masked; the proxy to go through."""

    fields: tuple[tuple[str, str], ...]
    block: bytes
    masked: bytes
    proxy: URL | None


class Request(Struct, frozen=True, gc=False):
    """One request, as every way of sending it wants it. ``host`` is without brackets."""

    method: str
    href: str
    tls: bool
    host: str
    port: int
    fields: tuple[tuple[str, str], ...]
    head: bytes
    """As it goes over the wire, but through a proxy."""
    masked: bytes
    """As it is archived."""
    proxy: URL | None


def request_of(
    method: str, href: str, profile: Profile, extra: tuple[tuple[str, str], ...], cookie: str | None = None
) -> Request:
    """``href`` is canonical; ``extra`` are further fields; ``cookie`` is sent unless the profile has one, and not archived.
    FetchError ``syntax``: it has no place to connect to; ``nxdomain``: no host can have its name, whoever would be asked (a
    proxy takes any, and TLS then fails on it)."""
    scheme, separator, rest = href.partition("://")
    authority, slash, path = rest.partition("/")
    if not separator or not slash or not href.isascii():
        raise FetchError("syntax", "the URL cannot be requested")
    name, port = _place(scheme, authority)
    if cookie is not None:
        profile = _with_cookie(profile, cookie)
    start = f"{method} /{path} HTTP/1.1\r\nHost: {authority}\r\n".encode()
    end = "".join(f"{key}: {value}\r\n" for key, value in extra).encode() + b"\r\n" if extra else b"\r\n"
    masked = start + profile.masked + end
    return Request(
        method,
        href,
        scheme == "https",
        name,
        port,
        profile.fields + extra,
        masked if profile.block is profile.masked else start + profile.block + end,
        masked,
        profile.proxy,
    )


def _with_cookie(profile: Profile, cookie: str) -> Profile:
    """A [[host]] table that sets cookies has the last word."""
    if any(name.lower() == "cookie" for name, _ in profile.fields):
        return profile
    block = profile.block + f"Cookie: {cookie}\r\n".encode()
    masked = profile.masked + f"Cookie: {MASKED}\r\n".encode()
    return Profile((*profile.fields, ("Cookie", cookie)), block, masked, profile.proxy)


@lru_cache(PLACES_MAX)
def _place(scheme: str, authority: str) -> tuple[str, int]:
    """Where to connect to: a name or address without brackets, and a port."""
    name, colon, port = authority.rpartition(":")
    if not colon or port.endswith("]"):
        name, port = authority, "443" if scheme == "https" else "80"
    if not name or not port.isdigit() or "@" in authority:
        raise FetchError("syntax", "the URL cannot be requested")
    if fault := name_fault(name):
        raise FetchError("nxdomain", fault, permanent=True)
    return name[1:-1] if name.startswith("[") else name, int(port)


def user_agent(config: FetchConfig) -> str:
    """``Mozilla/5.0 (compatible; NAME/VERSION; +CONTACT)``, unless the operator wrote another."""
    if config.user_agent is not None:
        return config.user_agent
    contact = f"; +{config.contact}" if config.contact else ""
    return f"Mozilla/5.0 (compatible; {config.name}/{__version__}{contact})"


def profiles(config: FetchConfig, hosts: Sequence[HostConfig], codings: str = ACCEPTED) -> Callable[[str], Profile]:
    """A function from origin (or host key) to Profile. ``codings`` are asked for."""
    common = {"User-Agent": user_agent(config), "Accept": "*/*", "Accept-Encoding": codings}
    for line in config.header:
        name, _, value = line.partition(":")
        _set(common, name, value.strip())
    general = _profile(common, {}, config.proxy)
    if not hosts:
        return lambda place: general
    rules = HostRules(PolitenessConfig(host=tuple(hosts)))
    tables = {table.match: table for table in reversed(hosts)}  # of two with one match the first
    made = lru_cache(PROFILES_MAX)(lambda match: _profile(common, tables[match].headers, tables[match].proxy or config.proxy))

    def profile_of(place: str) -> Profile:
        table = rules.table(place)
        return general if table is None else made(table.match)

    return profile_of


def _profile(common: dict[str, str], secret: dict[str, str], proxy: str | None) -> Profile:
    fields = dict(common)
    for name, value in secret.items():
        _set(fields, name, value)
    hidden = {name.lower() for name in secret}
    block = _block(fields)
    masked = _block({name: MASKED if name.lower() in hidden else value for name, value in fields.items()}) if secret else block
    return Profile(tuple(fields.items()), block, masked, URL(proxy) if proxy else None)


def _block(fields: dict[str, str]) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in fields.items()).encode("utf-8", "surrogateescape")


def _set(fields: dict[str, str], name: str, value: str) -> None:
    for known in fields:
        if known.lower() == name.lower():
            del fields[known]
            break
    fields[name] = value


def referer(link: Link) -> tuple[tuple[str, str], ...]:
    """What a browser says of the document that embeds this: the whole URL to its own origin, the origin to others, nothing from
    https to http (``strict-origin-when-cross-origin``, the default of Referrer Policy)."""
    if link.kind != EMBED or link.via is None or (link.via.startswith("https:") and not link.url.startswith("https:")):
        return ()
    return (("Referer", link.via if origin(link.via) == origin(link.url) else f"{origin(link.via)}/"),)


def conditions(lease: Lease) -> tuple[tuple[str, str], ...]:
    """Validators of an earlier whole response (RFC 9110 section 13.1), so that an unchanged page need not be sent again. An ETag
    of ``*`` is none, and asked for it would fit whatever the page has become. Where there was no body, as by HEAD, "not modified"
    would leave it at that."""
    known = lease.known
    if known is None or not known.can_be_confirmed or known.archive is None or known.digest == SHA1_OF_NOTHING:
        return ()
    etag = known.etag
    if etag is not None and (plain := _CODED_TAG.fullmatch(etag)):
        etag = f'{etag}, {plain[1]}"'
    fields = (("If-None-Match", etag), ("If-Modified-Since", known.last_modified))
    return tuple((name, value) for name, value in fields if value and value != "*" and value.isprintable() and value.isascii())
