"""The cookies of a crawl that has logged in: those of the operator's file, and what hosts set since.

Invariants: what a host sets goes back to that host alone, whatever domain it names; those of the file go where the file says.
All that is kept is bounded in bytes, and none of it is archived as a request's.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
from collections import OrderedDict
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from http.cookiejar import (  # type: ignore[attr-defined]
    Cookie,
    CookieJar,
    DefaultCookiePolicy,
    MozillaCookieJar,
    eff_request_host,
)
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final
from urllib.request import Request

from crawler.core.durable import rename, storing, sync_file
from crawler.core.errors import ConfigError, StorageError, lack_of
from crawler.fetch import cookie_file
from crawler.fetch.cookie_file import FILE_BYTES_MAX
from crawler.fetch.set_cookie import COOKIE_BYTES_MAX, SetCookie, looked_at

FILE_NAME: Final = "cookies.txt"
"""In the crawl's directory: what hosts have set, so that the next run need not log in again."""
HOST_BYTES_MAX: Final = 64 << 10
"""Of a host's own cookies; what it sets beyond that is not kept (RFC 6265 6.1 asks for 50 of 4 KiB)."""
BYTES_MAX: Final = 4 << 20
"""Of all hosts' own, in memory; those of the host that was asked longest ago go first."""
COOKIE_COST_BYTES: Final = 576
"""What each takes beside its text; a host may have 100 of 64 bytes."""
JAR_BYTES: Final = 1_500
"""What a host takes beside its cookies."""
SAVED_EVERY_S: Final = 30.0
GONE_MAX: Final = 1000
"""Hosts without cookies, of which that is still to be saved."""

logger: Final = logging.getLogger(__name__)

_LOGIN: Final = b"# of the login file written at "
"""The last line of what is kept, a comment in that format: nanoseconds since the epoch."""


class _OwnHost(DefaultCookiePolicy):
    """A cookie belongs to the host that set it, if it may set it for the domain that it names at all (RFC 6265 5.3)."""

    def set_ok(self, cookie: Cookie, request: Request) -> bool:
        if not super().set_ok(cookie, request):
            return False
        cookie.domain, cookie.domain_specified, cookie.domain_initial_dot = _key_of(request), False, False
        text = cookie.name + (cookie.value or "")
        return len(text) <= COOKIE_BYTES_MAX and _can_be_sent(text + cookie.path)


def _asked(href: str) -> Request:
    """A request as a jar wants it; nothing is opened."""
    return Request(href)  # noqa: S310


def _can_be_sent(text: str) -> bool:
    """What cannot is not kept either: a tab ends a column of the file, and not every text has an encoding."""
    return text.isascii() and text.isprintable()


def _key_of(request: Request) -> str:
    """By which jars know the host of a request."""
    return str(eff_request_host(request)[1])


class _Jar(CookieJar):
    """One that forgets with the last cookie of a path the path as well, which may be long: hosts set and delete for ever, and
    whatever is asked of a jar goes through all of its paths."""

    def clear(self, domain: str | None = None, path: str | None = None, name: str | None = None) -> None:
        super().clear(domain, path, name)
        if name is not None and not (paths := self._cookies[domain])[path]:  # type: ignore[attr-defined]
            del paths[path]


class Cookies:
    """``listed`` are those of the operator's file. Everything here belongs to the event loop."""

    def __init__(self, listed: CookieJar, own: Sequence[Cookie] = ()) -> None:
        self._listed: dict[str, list[Cookie]] = {}  # by domain: a browser's export has thousands
        for cookie in listed:
            self._listed.setdefault(cookie.domain.lstrip("."), []).append(cookie)
        self._policy = listed._policy  # type: ignore[attr-defined]
        self._own_policy = _OwnHost(rfc2965=False)
        self._hosts: OrderedDict[str, _Jar] = OrderedDict()
        self._sizes: dict[str, int] = {}
        self._changed: set[str] = set()
        for cookie in own:
            self._jar(cookie.domain).set_cookie(cookie)
            self._measure(cookie.domain)

    def header(self, href: str) -> str | None:
        """The value of the Cookie field for a request; None if there are none for it."""
        host = _key_of(_asked(href))
        own = _pairs(self._hosts.get(host), href)
        if own:
            self._hosts.move_to_end(host)
        names = {name for name, _ in own}
        listed = (pair for name, pair in _pairs(self._listed_for(href), href) if name not in names)
        return "; ".join((*listed, *(pair for _, pair in own))) or None

    def _listed_for(self, href: str) -> CookieJar | None:
        if not (found := list(self._listed_above(_asked(href)))):
            return None
        jar = CookieJar(self._policy)
        for cookie in found:
            jar.set_cookie(cookie)
        return jar

    def _listed_above(self, asked: Request) -> Iterator[Cookie]:
        """Those of a request's host, and of the domains above it."""
        for name in dict.fromkeys(eff_request_host(asked)):
            parts = name.split(".")
            for at in range(len(parts)):
                yield from self._listed.get(".".join(parts[at:]), ())

    def received(self, href: str, values: Sequence[str]) -> None:
        """What a response sets, one field after the other: a jar would delete first, and then set."""
        asked = _asked(href)
        host = _key_of(asked)
        jar = self._jar(host)
        is_tls = asked.type == "https"
        for value in looked_at(values):
            field = SetCookie(value, host, is_tls=is_tls)
            if is_tls or not self._hides_secure(field, host, asked):
                self._take(jar, host, asked, field)
        if not len(jar):
            self._forget(host)
        while self.memory_bytes > BYTES_MAX:
            self._forget(next(iter(self._hosts)))

    @property
    def memory_bytes(self) -> int:
        """What the hosts' own take."""
        return sum(self._sizes.values()) + JAR_BYTES * len(self._sizes)

    def _hides_secure(self, field: SetCookie, host: str, asked: Request) -> bool:
        """Whether what came without TLS would stand in for, or delete, a cookie that goes by TLS only (RFC 6265bis 5.7). For one
        of the file any of its name stands in."""
        path = field.path or asked.selector.partition("?")[0].rpartition("/")[0] or "/"
        for cookie in self._hosts[host]:
            if cookie.secure and cookie.name == field.name and f"{path}/".startswith(f"{cookie.path.rstrip('/')}/"):
                return True
        return any(cookie.secure and cookie.name == field.name for cookie in self._listed_above(asked))

    def _take(self, jar: CookieJar, host: str, asked: Request, response: Any) -> None:
        before = len(jar)
        made = jar.make_cookies(response, asked)
        if len(jar) < before:  # deleted
            self._measure(host)
            self._changed.add(host)
        for cookie in made:
            if jar._policy.set_ok(cookie, asked):  # type: ignore[attr-defined]
                jar.set_cookie(cookie)
                if self._measure(host) > HOST_BYTES_MAX:
                    jar.clear(cookie.domain, cookie.path, cookie.name)
                    self._measure(host)
                self._changed.add(host)

    def changed(self) -> dict[str, list[Cookie]]:
        """What hosts have set, of those whose cookies have changed since this was last asked for."""
        changed, self._changed = self._changed, set()
        return {host: list(self._hosts.get(host, ())) for host in changed}

    def not_saved(self, hosts: Collection[str]) -> None:
        """What ``changed`` told of them could not be saved: it will tell them again. Of hosts that have none by now, so many at
        most: perhaps it can never be saved."""
        gone = (host for host in hosts if host not in self._hosts)
        self._changed.update((host for host in hosts if host in self._hosts), islice(gone, GONE_MAX))

    def _jar(self, host: str) -> _Jar:
        if host not in self._hosts:
            self._hosts[host] = _Jar(self._own_policy)
            self._sizes[host] = 0
        self._hosts.move_to_end(host)
        return self._hosts[host]

    def _measure(self, host: str) -> int:
        self._sizes[host] = size = sum(map(_size, self._hosts[host]))
        return size

    def _forget(self, host: str) -> None:
        del self._hosts[host], self._sizes[host]
        if len(self._changed) > len(self._hosts) + GONE_MAX:
            self._changed.discard(host)


def _size(cookie: Cookie) -> int:
    return len(cookie.name) + len(cookie.value or "") + len(cookie.path) + COOKIE_COST_BYTES


def _pairs(jar: CookieJar | None, href: str) -> list[tuple[str, str]]:
    """(name, ``name=value``) of those that a jar sends to a URL: those of the longest path first, and none for another of its
    name (RFC 6265 5.4)."""
    if jar is None:
        return []
    asked = _asked(href)
    jar.add_cookie_header(asked)
    pairs = (asked.get_header("Cookie") or "").split("; ")
    return [(pair.partition("=")[0], pair) for pair in pairs if pair and _can_be_sent(pair)]


@contextlib.asynccontextmanager
async def open_cookies(file: Path, root: Path) -> AsyncIterator[Cookies]:
    """Those of a file, and those of the crawl in ``root``, saved there while it runs. ConfigError: they cannot be read. Several
    processes of a crawl keep theirs in one file."""
    kept = root / FILE_NAME
    listed, own = cookie_file.read(file, FILE_BYTES_MAX), _own(file, kept)
    if all(cookie.is_expired() for cookie in chain(listed, own)):
        logger.warning("cookies: %s lists none that has not expired: log in again, and export them anew", file)
    cookies = Cookies(listed, own)
    login = _written_at(file)
    saving = asyncio.create_task(_save_now_and_then(cookies, file, kept, login), name="cookies")
    try:
        yield cookies
    finally:
        saving.cancel()
        try:
            await asyncio.wait([saving])
        finally:
            _save(cookies.changed(), file, kept, login)


def check_file(file: Path) -> None:
    """ConfigError: it is no file of cookies, or it cannot be read."""
    cookie_file.read(file, FILE_BYTES_MAX)


def _own(file: Path, kept: Path) -> list[Cookie]:
    """What hosts have set under another file counts no more: that is a new login. Which file it was, what is kept says itself;
    earlier versions did not."""
    if not kept.exists():
        return []
    login = _written_at(file)
    try:
        last = kept.read_bytes().rstrip().rpartition(b"\n")[2]
    except OSError as error:
        raise ConfigError(f"cookies: {kept}: {error.strerror}") from None
    if last.startswith(_LOGIN):
        is_over = login is not None and last != _LOGIN + b"%d" % login
    else:
        is_over = login is not None and kept.stat().st_mtime_ns < login
    return [] if is_over else list(cookie_file.read(kept))


def _written_at(file: Path) -> int | None:
    return file.stat().st_mtime_ns if file.exists() else None


async def _save_now_and_then(cookies: Cookies, file: Path, kept: Path, login: int | None) -> None:
    while True:
        await asyncio.sleep(SAVED_EVERY_S)
        changed, is_saved = cookies.changed(), False
        try:
            is_saved = await asyncio.to_thread(_save, changed, file, kept, login)
        except RuntimeError as error:
            if (lack := lack_of(error)) is None:
                raise
            logger.warning("cookies are not saved: %s", lack)
        finally:
            if not is_saved:
                cookies.not_saved(changed)


def _save(changed: dict[str, list[Cookie]], file: Path, kept: Path, login: int | None) -> bool:
    """Whole or not at all, and then False; readable by its owner only. What other processes have saved of other hosts stays, as
    far as there is room. Once there is another file than that of ``login``, what hosts have set is of a session that is over."""
    temporary = kept.with_name(f"{FILE_NAME}.tmp")
    try:
        with storing(file):
            if not changed or _written_at(file) not in (login, None):
                return True
        with storing(temporary):
            locked = os.open(kept.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(locked, fcntl.LOCK_EX)
            jar, size = MozillaCookieJar(), 0
            others = (cookie for cookie in _own(file, kept) if cookie.domain not in changed)
            for cookie in chain(*changed.values(), others):
                if (size := size + _size(cookie)) <= BYTES_MAX:
                    jar.set_cookie(cookie)
            with storing(temporary):
                os.close(os.open(temporary, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600))
                jar.save(str(temporary), ignore_discard=True, ignore_expires=True)
                if login is not None:
                    with temporary.open("ab") as end:
                        end.write(_LOGIN + b"%d\n" % login)
            sync_file(temporary)
            rename(temporary, kept)
        finally:
            os.close(locked)
    except (StorageError, ConfigError) as error:
        logger.warning("cookies are not saved: %s", error)
        return False
    return True
