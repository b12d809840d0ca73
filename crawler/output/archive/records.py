"""WARC/1.1 records (ISO 28500:2017) as bytes. Pure: heads only, bodies are laid behind them by the caller.

Invariants: a record's identifier follows from its place alone, so that a revisit can name a record from a ``Ref``. The block
holds what the server sent as it came, except the one field that would now be false: ``Transfer-Encoding``.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator, Mapping
from functools import lru_cache, partial
from typing import Final

from xxhash import xxh3_128_hexdigest

from crawler.core.model import Ref
from crawler.core.page import Page

END: Final = b"\r\n\r\n"
"""Behind every record's block."""

_sha1: Final = partial(hashlib.sha1, usedforsecurity=False)
_PROFILE: Final = "http://netpreserve.org/warc/1.1/revisit/"
LINE_BREAKS: Final = re.compile(rb"[\r\n\0]")
"""What would end a field line early for one reader or another."""


def lines_of(head: bytes) -> Iterator[bytes]:
    """One after the other: a head of megabytes may be nothing but little lines."""
    at = 0
    while (end := head.find(b"\r\n", at)) >= 0:
        yield head[at:end]
        at = end + 2
    yield head[at:]


def date(wall: float) -> str:
    """WARC-Date, in seconds: what an index resolves revisits by has no fractions either."""
    return _date(int(wall))


@lru_cache(maxsize=64)
def _date(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(second))


_PAIRS: Final = [one + two for one in "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567" for two in "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"]


def sha1_text(digest: bytes) -> str:
    """``sha1:`` and the 20 bytes in base32 (RFC 4648): two letters for every ten bits. base64.b32encode takes four times as
    long, and every page needs three."""
    n = int.from_bytes(digest)
    return (
        f"sha1:{_PAIRS[n >> 150]}{_PAIRS[n >> 140 & 1023]}{_PAIRS[n >> 130 & 1023]}{_PAIRS[n >> 120 & 1023]}"
        f"{_PAIRS[n >> 110 & 1023]}{_PAIRS[n >> 100 & 1023]}{_PAIRS[n >> 90 & 1023]}{_PAIRS[n >> 80 & 1023]}"
        f"{_PAIRS[n >> 70 & 1023]}{_PAIRS[n >> 60 & 1023]}{_PAIRS[n >> 50 & 1023]}{_PAIRS[n >> 40 & 1023]}"
        f"{_PAIRS[n >> 30 & 1023]}{_PAIRS[n >> 20 & 1023]}{_PAIRS[n >> 10 & 1023]}{_PAIRS[n & 1023]}"
    )


def record_id(file: str, offset: int) -> str:
    """``<urn:uuid:...>`` (version 8, RFC 9562) of the record at ``offset`` of the file, named with or without its folder."""
    digits = xxh3_128_hexdigest(f"{file.rpartition('/')[2]}:{offset}".encode())
    return f"<urn:uuid:{digits[:8]}-{digits[8:12]}-8{digits[13:16]}-a{digits[17:20]}-{digits[20:]}>"


def warcinfo(file: str, identifier: str, wall: float, info: Mapping[str, str]) -> bytes:
    """The whole record, without ``END``, that says how those behind it were made, up to the next of its kind."""
    block = _fields(info)
    return (
        f"WARC/1.1\r\nWARC-Type: warcinfo\r\nWARC-Record-ID: {identifier}\r\nWARC-Date: {date(wall)}\r\n"
        f"WARC-Filename: {file.rpartition('/')[2]}\r\nWARC-Block-Digest: {_block_digest(block)}\r\n"
        f"Content-Type: application/warc-fields\r\nContent-Length: {len(block)}\r\n\r\n"
    ).encode() + block


def _fields(values: Mapping[str, str]) -> bytes:
    """The block of a record of type application/warc-fields."""
    text = "".join(f"{name}: {' '.join(value.split())}\r\n" for name, value in values.items())
    return text.encode("utf-8", "surrogateescape")


def settings(identifier: str, info: str, wall: float, values: Mapping[str, str]) -> bytes:
    """The whole metadata record, without ``END``, of the settings that belong to the warcinfo record ``info``."""
    block = _fields(values)
    return (
        f"WARC/1.1\r\nWARC-Type: metadata\r\nWARC-Record-ID: {identifier}\r\n"
        f"WARC-Warcinfo-ID: {info}\r\nWARC-Concurrent-To: {info}\r\nWARC-Date: {date(wall)}\r\n"
        f"WARC-Block-Digest: {_block_digest(block)}\r\nContent-Type: application/warc-fields\r\n"
        f"Content-Length: {len(block)}\r\n\r\n"
    ).encode() + block


def about(page: Page, info: str) -> str:
    """The fields that response, request and revisit record of a page have in common. ``info``: identifier of their warcinfo."""
    address = f"WARC-IP-Address: {page.ip}\r\n" if page.ip else ""
    return f"WARC-Warcinfo-ID: {info}\r\nWARC-Date: {date(page.fetched_at)}\r\nWARC-Target-URI: {page.url}\r\n{address}"


def response(page: Page, http: bytes, common: str, identifier: str, digest: str) -> bytes:
    """The record's head up to the body, ``http`` included. ``common``: see ``about``; ``digest``: the body's, as text."""
    block = _sha1(http)
    body = page.body
    if (whole := body.in_memory()) is not None:
        block.update(whole)
    else:
        for piece in body.chunks():
            block.update(piece)
    sniffed = f"WARC-Identified-Payload-Type: {page.sniffed}\r\n" if page.sniffed else ""
    truncated = f"WARC-Truncated: {page.truncated}\r\n" if page.truncated else ""
    return (
        f"WARC/1.1\r\nWARC-Type: response\r\nWARC-Record-ID: {identifier}\r\n{common}"
        f"WARC-Payload-Digest: {digest}\r\n{sniffed}{truncated}WARC-Block-Digest: {sha1_text(block.digest())}\r\n"
        f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(http) + body.size}\r\n\r\n"
    ).encode() + http


def revisit(page: Page, http: bytes, common: str, identifier: str, of: Ref, of_wall: float, digest: str) -> bytes:
    """The whole record but ``END``: the response's head, and where the body it would repeat stands. The head of a 304 is left
    out, so that a reader replays the page with its own head: a browser that is sent the 304 shows nothing."""
    profile = "identical-payload-digest"
    if page.status == 304:
        profile, http = "server-not-modified", b""
    return (
        f"WARC/1.1\r\nWARC-Type: revisit\r\nWARC-Record-ID: {identifier}\r\n{common}"
        f"WARC-Profile: {_PROFILE}{profile}\r\nWARC-Refers-To: {record_id(of.file, of.offset)}\r\n"
        f"WARC-Refers-To-Target-URI: {page.url}\r\nWARC-Refers-To-Date: {date(of_wall)}\r\n"
        f"WARC-Payload-Digest: {digest}\r\nWARC-Truncated: length\r\nWARC-Block-Digest: {_block_digest(http)}\r\n"
        f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(http)}\r\n\r\n"
    ).encode() + http


def request(page: Page, common: str, identifier: str, concurrent_to: str) -> bytes:
    """The whole record, of the request whose response has the identifier ``concurrent_to``."""
    block = page.request
    return b"".join(
        (
            f"WARC/1.1\r\nWARC-Type: request\r\nWARC-Record-ID: {identifier}\r\n{common}"
            f"WARC-Concurrent-To: {concurrent_to}\r\nWARC-Block-Digest: {_block_digest(block)}\r\n"
            f"Content-Type: application/http; msgtype=request\r\nContent-Length: {len(block)}\r\n\r\n".encode(),
            block,
            END,
        )
    )


def http_head(page: Page) -> bytes:
    """Status line and fields as received: order, case and repeats kept. A transfer coding is undone already: its field is
    renamed, and a Content-Length says how long the body is."""
    version = "1.0" if page.version == "1.0" else "1.1"
    lines = [f"HTTP/{version} {page.status} ".encode() + page.phrase.encode("utf-8", "surrogateescape")]
    fields = page.headers
    for name, _ in fields:
        if len(name) == 17 and name.lower() == b"transfer-encoding":
            fields = _dechunked(fields, page.body.size)
            break
    lines += [name + b": " + value for name, value in fields]
    head = b"\r\n".join(lines) + END
    if head.count(b"\n") != len(lines) + 1 or head.count(b"\r") != len(lines) + 1 or b"\0" in head:
        head = b"\r\n".join(LINE_BREAKS.sub(b" ", line) for line in lines) + END
    return head


def _dechunked(fields: tuple[tuple[bytes, bytes], ...], size: int) -> tuple[tuple[bytes, bytes], ...]:
    moved = {b"transfer-encoding", b"content-length"}
    kept = tuple((b"X-Crawl-" + name if name.lower() in moved else name, value) for name, value in fields)
    return (*kept, (b"Content-Length", b"%d" % size))


def _block_digest(block: bytes) -> str:
    return sha1_text(_sha1(block).digest())
