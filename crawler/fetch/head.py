"""What is wrong with the head of an answer that the parser let pass. Pure.

The law: a head whose framing two readers could read differently is no answer (RFC 9112 sections 5.1 and 6.3).
"""

from __future__ import annotations

from typing import Final

from aiohttp.http import HttpVersion10, RawResponseMessage

LENGTH_MAX: Final = (1 << 63) - 1
"""The parser takes 2^64 - 1 for no length at all."""
_DIGITS_MAX: Final = len(str(LENGTH_MAX))


def fault_of(message: RawResponseMessage) -> tuple[str, str] | None:
    """(reason, detail), or None."""
    if message.code == 101:
        return "upgrade", ""
    if message.version.major != 1 or message.code < 200:
        return "malformed", "status line"
    for name, _ in message.raw_headers:
        if name[-1:] == b" ":  # let pass where it frames: "Content-Length : 5" then counts for the parser, or does not
            return "malformed", "space after a field name"
    if message.chunked or "Transfer-Encoding" in message.headers:
        transfer = ",".join(message.headers.getall("Transfer-Encoding", ())).strip(" \t").lower()
        if transfer not in (("chunked",) if message.chunked else ("", "identity")):
            return "malformed", "transfer coding"
    if (length_of(message) or 0) > LENGTH_MAX:
        return "malformed", "content length"
    return None


def length_of(message: RawResponseMessage) -> int | None:
    """Content-Length; beyond LENGTH_MAX if it is larger than that, however many digits it has. None if there is none."""
    text = message.headers.get("Content-Length", "")
    if not (text.isascii() and text.isdigit()):
        return None
    digits = text.lstrip("0") or "0"
    return int(digits) if len(digits) <= _DIGITS_MAX else LENGTH_MAX + 1


def may_be_kept(message: RawResponseMessage) -> bool:
    """Whether the connection may serve again: HTTP/1.0 knows no chunks, so whoever sends them frames by mistake (6.1)."""
    return not (message.chunked and message.version == HttpVersion10)
