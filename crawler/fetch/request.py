"""What we say of ourselves: the request's headers for each host, and the same head for the archive with secrets masked.

The law: a secret goes only to the hosts whose ``[[host]]`` table holds it, and to no record at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final

from msgspec import Struct
from yarl import URL

from crawler import __version__
from crawler.config import FetchConfig, HostConfig, PolitenessConfig
from crawler.decode import ACCEPTED
from crawler.hostrules import HostRules
from crawler.model import Lease

MASK: Final = "***"
PROFILES_MAX: Final = 256


class Profile(Struct, frozen=True):
    """How to ask one host: header fields in order, the same as bytes with secrets masked, and the proxy to go through."""

    fields: tuple[tuple[str, str], ...]
    masked: bytes
    proxy: URL | None


def user_agent(config: FetchConfig) -> str:
    """``Mozilla/5.0 (compatible; NAME/VERSION; +CONTACT)``, unless the operator wrote another."""
    if config.user_agent is not None:
        return config.user_agent
    contact = f"; +{config.contact}" if config.contact else ""
    return f"Mozilla/5.0 (compatible; {config.name}/{__version__}{contact})"


def profiles(config: FetchConfig, hosts: Sequence[HostConfig]) -> Callable[[str], Profile]:
    """A function from host key to Profile."""
    common = {"User-Agent": user_agent(config), "Accept": "*/*", "Accept-Encoding": ACCEPTED}
    for line in config.header:
        name, _, value = line.partition(":")
        _set(common, name, value.strip())
    general = _profile(common, {}, config.proxy)
    if not hosts:
        return lambda host: general
    rules = HostRules(PolitenessConfig.model_validate({"host": tuple(hosts)}))
    made = lru_cache(PROFILES_MAX)(lambda index: _profile(common, hosts[index].headers, hosts[index].proxy or config.proxy))

    def profile_of(host: str) -> Profile:
        table = rules.table(host)
        return general if table is None else made(hosts.index(table))

    return profile_of


def _profile(common: dict[str, str], secret: dict[str, str], proxy: str | None) -> Profile:
    fields = dict(common)
    for name, value in secret.items():
        _set(fields, name, value)
    hidden = {name.lower() for name in secret}
    masked = "".join(f"{name}: {MASK if name.lower() in hidden else value}\r\n" for name, value in fields.items())
    return Profile(tuple(fields.items()), masked.encode("utf-8", "surrogateescape"), URL(proxy) if proxy else None)


def _set(fields: dict[str, str], name: str, value: str) -> None:
    for known in fields:
        if known.lower() == name.lower():
            del fields[known]
            break
    fields[name] = value


def conditions(lease: Lease) -> tuple[tuple[str, str], ...]:
    """Validators of an earlier whole answer (RFC 9110 section 13.1), so that an unchanged page need not be sent again."""
    known = lease.known
    if known is None or known.outcome != "ok" or known.archive is None:
        return ()
    fields = (("If-None-Match", known.etag), ("If-Modified-Since", known.last_modified))
    return tuple((name, value) for name, value in fields if value and value.isprintable() and value.isascii())


def head_of(method: str, url: URL, profile: Profile, extra: tuple[tuple[str, str], ...]) -> bytes:
    """The head as it goes to the origin, secrets masked."""
    line = f"{method} {url.raw_path_qs} HTTP/1.1\r\nHost: {url.host_port_subcomponent}\r\n"
    more = "".join(f"{name}: {value}\r\n" for name, value in extra)
    return line.encode() + profile.masked + more.encode() + b"\r\n"
