"""What others said, as it may be shown: no character in it ends a line, steers a terminal or becomes a formula. Also the patterns
that media types and hosts are matched by. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

_FORMULA: Final = ("=", "+", "-", "@")
_PORTS: Final = {"http": (":80",), "https": (":443",)}
_OBEYED: Final = re.compile(rb"\x7f|\xc2[\x80-\x9f]")


def field_text(value: bytes) -> str:
    """The value of a header field, which means UTF-8 where it can, and latin-1 elsewhere."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def printable(text: str) -> str:
    """For a terminal or a log: one line, its control characters as question marks."""
    return text if text.isprintable() else "".join(letter if letter.isprintable() else "?" for letter in text)


def cell(text: str) -> str:
    """For a table: spreadsheets calculate a cell that begins like a formula, unless an apostrophe stands before it."""
    text = printable(text)
    return f"'{text}" if text.startswith(_FORMULA) else text


def counted(count: int, noun: str) -> str:
    """``1 URL``, ``2,000 URLs``: for nouns that take an s."""
    return f"{count:,} {noun}" + "s" * (count != 1)


def share(count: int, total: int) -> str:
    """`` (12.3%)``, and nothing where there is no total: 100.0% is said of all alone."""
    if not total:
        return ""
    rounded = f"{count / total:.1%}"
    return f" ({'99.9%' if rounded == '100.0%' and count < total else rounded})"


def amount(size: float) -> str:
    """``3.4 MB``, in powers of 1000."""
    for prefix in ("", "k", "M", "G", "T"):
        if size < 999.5 or prefix == "T":
            return f"{size:.0f} B" if not prefix else f"{size:.3g} {prefix}B" if size < 100 else f"{size:.0f} {prefix}B"
        size /= 1000
    raise AssertionError


def json_text(line: bytes) -> bytes:
    """JSON as it was, but for the control characters that JSON lets stand: a terminal would obey them."""
    return _OBEYED.sub(lambda found: b"\\u%04x" % ord(found[0].decode()), line)


def matches_mime(mime: str, pattern: str) -> bool:
    """Whether a media type is of a type or range such as ``image/*`` (RFC 9110 12.5.1); both in lower case."""
    return pattern in (mime, "*/*") or (pattern.endswith("/*") and mime.startswith(pattern[:-1]))


def host_patterns(host: str) -> Iterator[str]:
    """Every pattern that a host key is of: ``a.example.org:8080``, ``a.example.org``, which means every port, those of what lies
    above it, such as ``*.example.org``, and ``*``. Or those that an origin is of: ``https://a.example.org`` is at port 443 alone,
    and its host, which http shares, at that and at 80.

    With a dot behind its name, as a link may write it, it is the same host."""
    scheme, mark, name = host.partition("://")
    default_ports, host = (_PORTS[scheme], name) if mark else ((":80", ":443"), host)
    for key in dict.fromkeys((host, host.replace(".:", ":").removesuffix("."))):
        name, colon, port = key.rpartition(":")
        ends: tuple[str, ...] = (f":{port}", "")
        if not colon or not port.isdigit():  # none, or a part of an IPv6 address
            name, ends = key, (*default_ports, "")
        above = [name[at:] for at, letter in enumerate(name) if letter == "."]
        for end in ends:
            yield name + end
            yield f"*{end}"
            yield from (f"*{domain}{end}" for domain in above)
