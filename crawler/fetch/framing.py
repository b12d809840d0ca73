"""What the head of a response says of its body and its connection, and heads that could be read in two ways (RFC 9112). Pure.

Invariant: where aiohttp's parser and another reader may find different ends of one body, the response is refused.
"""

from __future__ import annotations

import re
from typing import Final

from aiohttp.http import HttpVersion10, HttpVersion11, RawResponseMessage

LENGTH_MAX: Final = (1 << 63) - 1
"""The parser takes 2^64 - 1 for no length at all."""
_DIGITS_MAX: Final = len(str(LENGTH_MAX))
_NAME: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}+"
_BLANKS_MAX: Final = 8
_FIELDS_MAX: Final = 1024
"""Of one part of a head, so many names are rid of white space: four times as many as ``max_headers`` lets pass by default. In 200
KB stood 40,000, which took 26 ms of the loop, and the parser refuses them anyway."""
_begun: Final = re.compile(rb"\n(?:%b[ \t]{0,%d}+)?\Z" % (_NAME, _BLANKS_MAX)).search
_BEGUN_BYTES_MAX: Final = 1 + 64 + _BLANKS_MAX
_blank: Final = re.compile(
    rb"(\n(?!(?:content-length|transfer-encoding)[ \t])%b)[ \t]{1,%d}+:" % (_NAME, _BLANKS_MAX), re.IGNORECASE
).sub


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


def without_blanks(head: bytes, *, is_whole: bool) -> tuple[bytes, bytes]:
    """A part of a head without the white space behind the names of its fields, which the parser refuses: no sender may leave it
    there, but a proxy takes it away from a response (RFC 9112 section 5.1), as browsers do. What frames keeps it, and is refused.
    Also what is not to be parsed before more has come, at most 73 bytes: a line that may be about to name a field.
    ``is_whole``: none does."""
    begun = None if is_whole else _begun(head, max(0, len(head) - _BEGUN_BYTES_MAX))
    head, rest = (head, b"") if begun is None else (head[: begun.start()], begun[0])
    return _blank(rb"\1:", head, _FIELDS_MAX) if b" :" in head or b"\t:" in head else head, rest


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
