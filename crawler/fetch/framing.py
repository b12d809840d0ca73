"""What the head of a response says of its body and its connection, and heads that could be read in two ways (RFC 9112). Pure.

Invariant: where aiohttp's parser and another reader may find different ends of one body, the response is refused.
"""

from __future__ import annotations

from typing import Final

from aiohttp.http import HttpVersion10, HttpVersion11, RawResponseMessage

LENGTH_MAX: Final = (1 << 63) - 1
"""The parser takes 2^64 - 1 for no length at all."""
_DIGITS_MAX: Final = len(str(LENGTH_MAX))


def head_fault(message: RawResponseMessage) -> tuple[str, str] | None:
    """What the parser let pass and another reader could frame differently (RFC 9112 sections 5.1 and 6.3): (reason, detail)."""
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
    if (content_length(message) or 0) > LENGTH_MAX:
        return "malformed", "content length"
    return None


def content_length(message: RawResponseMessage) -> int | None:
    """Content-Length; beyond LENGTH_MAX if it is larger than that, however many digits it has. None if there is none."""
    text = message.headers.get("Content-Length", "")
    if not (text.isascii() and text.isdigit()):
        return None
    digits = text.lstrip("0") or "0"
    return int(digits) if len(digits) <= _DIGITS_MAX else LENGTH_MAX + 1


def stays_open(message: RawResponseMessage) -> bool:
    """Whether its sender means to go on after a response of HTTP/1.1 (RFC 9112 section 9.3), whatever frames its body."""
    options = ",".join(message.headers.getall("Connection", ())).lower().split(",")
    return message.version == HttpVersion11 and all(option.strip() != "close" for option in options)


def may_be_kept(message: RawResponseMessage) -> bool:
    """Whether the connection may serve again: HTTP/1.0 has no chunks, so a sender of them cannot be relied on to frame (6.1)."""
    return not (message.chunked and message.version == HttpVersion10)
