"""SURT: the sort key of CDX files, as pywb and the Internet Archive's tools make it (the rules of webarchive-commons'
IAURLCanonicalizer). Pure.

Invariant: byte for byte the key that cdxj-indexer writes for the same canonical URL. It is not a form that could be
fetched: session ids, letter case and the order of parameters are gone.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote_from_bytes, unquote_to_bytes

_PRINTABLE: Final = "".join(chr(code) for code in range(33, 127) if chr(code) not in "#%")
_PORT: Final = re.compile(r".*:\d+").fullmatch
_PLAIN: Final = re.compile(r"/[A-Za-z0-9._~/-]*").fullmatch
"""Paths with nothing to unescape and no session id, of which only the letter case goes: most of them."""
_WWW: Final = re.compile(r"www\d*\.").match
_PATH_SESSIONS: Final = (
    re.compile(rb"(.*/)\((?:[a-z]\([0-9a-z]{24}\))+\)/([^?]+\.aspx.*)"),
    re.compile(rb"(.*/)\([0-9a-z]{24}\)/([^?]+\.aspx.*)"),
)
_QUERY_SESSIONS: Final = tuple(
    re.compile(rb"(.*)" + parameter + rb"(?:&(.*))?", re.IGNORECASE)
    for parameter in (
        rb"jsessionid=[0-9a-z]{32}",
        rb"phpsessid=[0-9a-z]{32}",
        rb"sid=[0-9a-z]{32}",
        rb"aspsessionid[a-z]{8}=[a-z]{24}",
        rb"cfid=[^&]+&cftoken=[^&]+",
    )
)


def surt(href: str) -> str:
    """The SURT key of a canonical URL: ``https://www.example.org:8443/A?b&a`` → ``org,example:8443)/a?a&b``."""
    authority, slash, rest = href.partition("://")[2].partition("/")
    path, _, query = (slash + rest).partition("?")
    name, colon, port = authority.rpartition(":") if _PORT(authority) else (authority, "", "")
    host = name.strip("[]").replace("..", ".").strip(".")
    if www := _WWW(host):
        host = host[www.end() :]
    key = f"{','.join(reversed(host.split('.')))}{colon}{port})"
    if _PLAIN(path) and "//" not in path and "/." not in path:
        key += path.lower() if len(path) < 2 or path[-1] != "/" else path[:-1].lower()
    else:
        key += _path(_unescape(path.encode())).decode()
    if not query:
        return key
    ordered = _query(_escape(_unescape(query.encode()))).decode()
    return f"{key}?{ordered}" if ordered else key


def player_key(href: str) -> str:
    """The key by which ReplayWeb.page looks for a canonical URL in the index of a WACZ file (``getSurt`` of warcio.js): nothing
    is unescaped, and nothing left out but ``www.`` and letter case: ``http://www.example.org/A/?b&a`` is
    ``org,example)/a/?a&b``."""
    authority, slash, rest = href.lower().partition("://")[2].partition("/")
    name, colon, port = authority.rpartition(":") if _PORT(authority) else (authority, "", "")
    if www := _WWW(name):
        name = name[www.end() :]
    path, _, query = rest.partition("?")
    key = f"{','.join(reversed(name.split('.')))}{colon}{port}){slash}{path}"
    return f"{key}?{'&'.join(sorted(query.split('&')))}" if query else key


def _path(path: bytes) -> bytes:
    kept: list[bytes] = []
    for segment in path.split(b"/")[1:]:
        if segment == b".." and kept:
            kept.pop()
        elif segment != b".":
            kept.append(segment)
    last = kept.pop() if kept else b""
    path = _escape(b"/" + b"".join(segment + b"/" for segment in kept if segment) + last).lower()
    for session in _PATH_SESSIONS:
        if match := session.fullmatch(path):
            path = match[1] + match[2]
    return path[:-1] if len(path) > 1 and path.endswith(b"/") else path


def _query(query: bytes) -> bytes:
    for session in _QUERY_SESSIONS:
        if match := session.fullmatch(query):
            query = match[1] + (match[2] or b"")
    query = query.lower()
    return b"&".join(b"=".join(pair) for pair in sorted(part.split(b"=", 1) for part in query.split(b"&")))


def _unescape(data: bytes) -> bytes:
    while (plain := unquote_to_bytes(data)) != data:
        data = plain
    return data


def _escape(data: bytes) -> bytes:
    return quote_from_bytes(data, safe=_PRINTABLE).encode()
