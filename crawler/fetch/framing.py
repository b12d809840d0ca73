"""What the head of a response says of its body and its connection, and heads that could be read in two ways (RFC 9112). Pure.

Invariant: where aiohttp's parser and another reader may find different ends of one body, the response is refused.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Final

from aiohttp.http import HttpVersion10, HttpVersion11, RawResponseMessage

LENGTH_MAX: Final = (1 << 63) - 1
"""The parser takes 2^64 - 1 for no length at all."""
_DIGITS_MAX: Final = len(str(LENGTH_MAX))
LINES_MAX: Final = 512
"""Of a head that may be mended: twice as many as ``max_headers`` lets pass by default."""
_is_name: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})
_looks_framing: Final = re.compile(rb"\AHTTP/|content-length|transfer-encoding", re.IGNORECASE).search
_without_folds: Final = partial(re.compile(rb"\r?\n[ \t]+").sub, b" ")


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


def is_indented(head: bytes) -> bool:
    """Whether white space stands before the first field of a whole head: the parser takes it for the head's end, or for nothing,
    and other readers leave out the line (RFC 9112 section 2.2)."""
    return head[head.index(b"\n") + 1] in b" \t"


def mended(head: bytes) -> bytes | None:
    """A whole head that the parser refuses, as browsers read it; None: no better. Without the white space behind names
    (RFC 9112 section 5.1), without lines that name no field, and with one length where there are equal ones (section 6.3).
    Names that frame are left as they are, and lines that could be read as such, or begin another response."""
    start, *lines = _without_folds(head).split(b"\n", LINES_MAX)
    kept, lengths = [start], set[bytes]()
    for line in lines if len(lines) < LINES_MAX else ():
        name, colon, value = line.partition(b":")
        if colon and name.lower() == b"content-length":
            new = {length.strip(b" \t\r") for length in value.split(b",")} - lengths
            lengths |= new
            if len(new) == 1:
                kept.append(b"%b: %b\r" % (name, *new))
            elif new:
                kept.append(line)
        elif colon and _is_name(plain := name.rstrip(b" \t")) and plain.lower() not in _FRAMING:
            kept.append(plain + colon + value)
        elif _looks_framing(name) or not line.strip(b"\r"):  # or is the head's end
            kept.append(line)
    found = b"\n".join(kept)
    return found if found != head and len(lines) < LINES_MAX else None


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
