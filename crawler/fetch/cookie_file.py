"""Cookie files in Netscape format, as browsers' exports and curl write them.

Invariant: a cookie goes where its line says: to that host alone or, where the second column is TRUE, also to the hosts below it.
"""

from __future__ import annotations

import io
import re
from http.cookiejar import Cookie, CookieJar, DefaultCookiePolicy, eff_request_host  # type: ignore[attr-defined]
from pathlib import Path
from typing import Final
from urllib.request import Request

from crawler.core import urls
from crawler.core.errors import ConfigError, FetchError

FILE_BYTES_MAX: Final = 1 << 20
_COLUMNS: Final = 7
_HTTP_ONLY: Final = "#HttpOnly_"
_is_first_line = re.compile(r"#(?: Netscape)? HTTP Cookie File").match


class _AsListed(DefaultCookiePolicy):
    """RFC 6265 5.4, 1. What a jar does by itself sends a host's cookie to the hosts below it too, and none to a name without
    dots."""

    def domain_return_ok(self, domain: str, request: Request) -> bool:
        host = str(eff_request_host(request)[0])
        return f".{host}".endswith(domain) if domain[:1] == "." else host == domain

    def return_ok_domain(self, cookie: Cookie, request: Request) -> bool:
        return True  # all of one domain are alike


def read(file: Path, bytes_max: int | None = None) -> CookieJar:
    """What a file lists. ConfigError."""
    jar = CookieJar(_AsListed(rfc2965=False))
    try:
        with file.open("rb") as opened:  # by what is read: a device does not say how large it is
            data = opened.read(-1 if bytes_max is None else bytes_max + 1)
        if bytes_max is not None and len(data) > bytes_max:
            raise ConfigError(f"cookies: {file} is larger than {bytes_max >> 20} MiB")
        first, *lines = io.TextIOWrapper(io.BytesIO(data), "utf-8-sig").read().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cookies: {file}: {getattr(error, 'strerror', None) or error}") from None
    if not _is_first_line(first):
        raise ConfigError(
            f"cookies: {file} is no cookie file in Netscape format: the first line of one is '# Netscape HTTP Cookie File'"
        )
    for number, line in enumerate(lines, 2):
        bare = line.removeprefix(_HTTP_ONLY)
        if bare.strip() and not bare.lstrip().startswith("#"):
            try:
                jar.set_cookie(_cookie(bare.split("\t"), is_hidden=bare != line))
            except (ValueError, OverflowError) as error:
                raise ConfigError(f"cookies: {file}, line {number}: {error}") from None
    return jar


def _cookie(columns: list[str], *, is_hidden: bool) -> Cookie:
    """ValueError, OverflowError: the line is none. Without a last column the value is empty, as curl has it."""
    if len(columns) not in (_COLUMNS - 1, _COLUMNS):
        raise ValueError(f"{len(columns)} columns between tabs, not {_COLUMNS}")
    domain, with_below, path, secure, expires, name, value = (*columns, "")[:_COLUMNS]
    until = int(float(expires or 0)) or None  # 0: for as long as the session lasts
    is_below = with_below.upper() == "TRUE"
    rest = {"HttpOnly": ""} if is_hidden else {}
    text: str | None = value
    if not name:  # set without a name, and sent so
        name, text = value, None
    host = f".{_host(domain)}" if is_below else _host(domain)
    where = (host, is_below, is_below, path, False, secure.upper() == "TRUE", until)
    return Cookie(0, name, text, None, False, *where, until is None, None, None, rest)


def _host(domain: str) -> str:
    """As a request has it: lower case, and ASCII."""
    name = domain.removeprefix(".")
    try:
        return urls.parse(f"http://{name}/").hostname
    except FetchError:
        return name.lower()


__all__ = ["FILE_BYTES_MAX", "read"]
