"""Sins by weight: the responses that cost most of memory or time to receive, each with its end under ``MAX_BODY``.

Those of other catalogues that are heavy already stand here under their own names; what is long is made when it is asked for.
"""

from __future__ import annotations

import functools
import gzip
import random
import zlib
from collections.abc import Callable
from typing import Final

import brotli

from crawler.core.content_coding import MEMBERS_MAX, zstd
from support.sinful import Conn, Step, head
from support.sins import SINS, Sin, bad
from support.sins_coding import MIB

MAX_BODY: Final = 8 * MIB
LARGE_BYTES: Final = MAX_BODY - (64 << 10)
"""Of bodies that are just small enough, coded or not: noise, which no coding makes smaller."""
HUGE_BYTES: Final = 64 * MIB
BINARY: Final = "application/octet-stream"
"""Of noise: read as HTML it would cost its parser process."""


def sent(make: Callable[[], bytes]) -> Step:
    """The bytes that ``make`` gives, made once."""
    once = functools.cache(make)

    async def play(conn: Conn) -> None:
        data = memoryview(once())
        for start in range(0, len(data), MIB):
            await conn.send(bytes(data[start : start + MIB]))

    return play


def whole(coding: str, make: Callable[[], bytes], mime: str = "text/html") -> list[Step]:
    """A response of known length, made when it is asked for."""
    once = functools.cache(make)
    field = (f"Content-Encoding: {coding}",) if coding else ()
    return [sent(lambda: head(len(once()), *field, mime=mime) + once())]


@functools.cache
def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


@functools.cache
def far_repeats(size: int) -> bytes:
    """Noise that comes again after so long that only a wide window makes it small."""
    return (noise(4 * MIB) * (size // (4 * MIB) + 1))[:size]


def wide_br(data: bytes) -> bytes:
    """With the widest window there is: 16 MiB."""
    return brotli.compress(data, quality=1, lgwin=24)


def br_bomb() -> bytes:
    return brotli.compress(far_repeats(HUGE_BYTES), quality=5, lgwin=24)


def thrice_br() -> bytes:
    return wide_br(wide_br(wide_br(noise(LARGE_BYTES - 4096))))


def wide_zstd(data: bytes) -> bytes:
    """With the widest window of the content coding (RFC 9659 section 3): 8 MiB."""
    squeeze = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 23})
    return squeeze.compress(data) + squeeze.flush()


def links(size: int) -> bytes:
    """A page of as many links as fit, which lead to few other pages."""
    text = b"".join(b"<a href=/l/%d>" % (number % 50) for number in range(size // 13))
    return text[:size]


@functools.cache
def long_links(port: int) -> bytes:
    """A page of links as long as may be, all to one host: those of every such page are the same."""
    text = b"".join(b"<a href=//127.0.2.1:%d/l?%d=%s>" % (port, number, b"x" * 2000) for number in range(LARGE_BYTES // 2050))
    data = gzip.compress(text, 1)
    return head(len(data), "Content-Encoding: gzip") + data


async def send_long_links(conn: Conn) -> None:
    await sent(lambda: long_links(conn.site.ports["http"]))(conn)


_CHUNKED: Final = head(None, "Transfer-Encoding: chunked")
_CAPPED: Final = {"max_body": MAX_BODY}

HEAVY: Final[dict[str, Sin]] = {
    # decoders and what comes out of them
    "heavy-gzip-bomb": Sin(whole("gzip", lambda: gzip.compress(bytes(HUGE_BYTES))), "too_large", "max_decoded", _CAPPED),
    "heavy-deflate-bomb": Sin(whole("deflate", lambda: zlib.compress(bytes(HUGE_BYTES))), "too_large", "max_decoded", _CAPPED),
    "heavy-br-bomb": Sin(whole("br", br_bomb, BINARY), "too_large", "max_decoded", _CAPPED),
    "heavy-zstd-bomb": Sin(
        whole("zstd", lambda: wide_zstd(far_repeats(HUGE_BYTES)), BINARY), "too_large", "max_decoded", _CAPPED
    ),
    "heavy-br": Sin(whole("br", lambda: wide_br(noise(LARGE_BYTES)), BINARY), "ok", None, _CAPPED),
    "heavy-zstd": Sin(whole("zstd", lambda: wide_zstd(noise(LARGE_BYTES)), BINARY), "ok", None, _CAPPED),
    "heavy-br-thrice": Sin(whole("br, br, br", thrice_br, BINARY), "ok", None, _CAPPED),
    "heavy-gzip-members": Sin(whole("gzip", lambda: gzip.compress(noise(7 << 10)) * MEMBERS_MAX, BINARY), "ok", None, _CAPPED),
    # bodies
    "heavy-body": Sin(whole("", lambda: noise(LARGE_BYTES), BINARY), "ok", None, _CAPPED),
    "heavy-links": Sin(whole("", lambda: links(LARGE_BYTES)), "ok", None, _CAPPED),
    "heavy-long-links": Sin([send_long_links], "ok", None, _CAPPED),
    "close-endless": SINS["close-endless"],
    "chunked-endless": SINS["chunked-endless"],
    "length-exabytes": SINS["length-exabytes"],
    # heads
    "headers-endless": SINS["headers-endless"],
    "header-endless": SINS["header-endless"],
    "fold-endless": SINS["fold-endless"],
    "heavy-cookies": Sin([head(4, *(f"Set-Cookie: c{n}={'x' * 1000}" for n in range(240))), *(b"o", 1.0) * 4], "ok"),
    "heavy-cookies-thousands": bad([head(2, *(f"Set-Cookie: c{n}={'x' * 60}" for n in range(4000))) + b"ok"], "too_many_headers"),
    "chunked-trailers-endless": SINS["chunked-trailers-endless"],
}
