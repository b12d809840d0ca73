"""Sins of content coding: cut, corrupt, trailing, exploding, stacked, or not encoded at all."""

from __future__ import annotations

import gzip
import struct
import zlib
from typing import Final

import brotli
from sinful import Script, head, stay
from sins import Sin, bad, fine

from crawler.decode import MEMBERS_MAX, zstd

TEXT: Final = b"<!doctype html><p>" + b"".join(b"%d bottles of beer. " % n for n in range(3000))
MIB: Final = 1 << 20


def raw_deflate(data: bytes) -> bytes:
    squeeze = zlib.compressobj(wbits=-15)
    return squeeze.compress(data) + squeeze.flush()


def checked_zstd(data: bytes) -> bytes:
    return zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: 1})


def wide_zstd(data: bytes) -> bytes:
    """A frame that asks for a window of 128 MiB."""
    squeeze = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 27})
    return squeeze.compress(data) + squeeze.flush()


ENCODERS: Final = {
    "gzip": ("gzip", gzip.compress),
    "deflate": ("deflate", zlib.compress),
    "deflate-raw": ("deflate", raw_deflate),
    "br": ("br", brotli.compress),
    "zstd": ("zstd", checked_zstd),
}


def encoded(coding: str, body: bytes, status: str = "200 OK") -> Script:
    return [head(len(body), f"Content-Encoding: {coding}", status=status) + body, stay]


def flipped(data: bytes) -> bytes:
    """All bits of the middle flipped: no coding survives that unnoticed."""
    return data[: len(data) // 3] + bytes(b ^ 0xFF for b in data[len(data) // 3 : len(data) // 2]) + data[len(data) // 2 :]


def _of_each_kind() -> dict[str, Sin]:
    sins = {}
    for kind, (coding, encode) in ENCODERS.items():
        whole = encode(TEXT)
        trailing = "content_coding" if kind == "br" else "trailing_data"
        sins |= {
            f"{kind}-good": fine(encoded(coding, whole)),
            f"{kind}-cut": Sin(encoded(coding, whole[:-1]), "truncated", "coding_cut"),
            f"{kind}-cut-in-half": Sin(encoded(coding, whole[: len(whole) // 2]), "truncated", "coding_cut"),
            f"{kind}-one-byte": Sin(encoded(coding, whole[:1]), "truncated", "coding_cut"),
            f"{kind}-trailing-byte": bad(encoded(coding, whole + b"\n"), trailing),
            f"{kind}-trailing-zeros": bad(encoded(coding, whole + bytes(4096)), trailing),
            f"{kind}-bomb": bad(encoded(coding, encode(bytes(3 * MIB))), "decode_ratio", max_body=64 * MIB, max_decode_ratio=20),
            f"{kind}-too-large": Sin(
                encoded(coding, encode(bytes(3 * MIB))), "too_large", "max_decoded", {"max_decode_ratio": 1e6}
            ),
            f"{kind}-just-small-enough": fine(encoded(coding, encode(bytes(MIB))), max_decode_ratio=1.0),
            f"{kind}-short-of-length": Sin(
                [head(len(whole) + 1, f"Content-Encoding: {coding}") + whole], "truncated", "content_length"
            ),
            f"{kind}-empty": fine(encoded(coding, b"")),
            f"{kind}-204": fine(encoded(coding, b"", "204 No Content")),
            f"{kind}-404": fine(encoded(coding, whole, "404 Not Found"), "http_error"),
        }
        if kind != "deflate-raw":  # nearly anything may be raw deflate
            sins[f"{kind}-not-encoded"] = bad(encoded(coding, TEXT), "content_coding")
            sins[f"{kind}-random"] = bad(encoded(coding, bytes(range(255, 0, -1)) * 50), "content_coding")
        if kind in ("gzip", "deflate", "zstd"):
            sins[f"{kind}-corrupt"] = bad(encoded(coding, flipped(whole)), "content_coding")
    return sins


_GZIP: Final = gzip.compress(TEXT)
_STACK: Final = brotli.compress(gzip.compress(zlib.compress(TEXT)))

CODINGS: Final[dict[str, Sin]] = _of_each_kind() | {
    "gzip-wrong-crc": bad(encoded("gzip", _GZIP[:-8] + struct.pack("<I", 1) + _GZIP[-4:]), "content_coding"),
    "gzip-wrong-length": bad(encoded("gzip", _GZIP[:-4] + struct.pack("<I", 1)), "content_coding"),
    "gzip-header-only": Sin(encoded("gzip", _GZIP[:10]), "truncated", "coding_cut"),
    # RFC 1952, 2.3.1.2: an error
    "gzip-reserved-flags": bad(encoded("gzip", _GZIP[:3] + b"\xe0" + _GZIP[4:]), "content_coding"),
    "gzip-members": fine(encoded("gzip", _GZIP * 3)),
    "gzip-last-member-cut": Sin(encoded("gzip", _GZIP * 3 + _GZIP[:-5]), "truncated", "coding_cut"),
    "gzip-many-members": bad(encoded("gzip", gzip.compress(b"") * (MEMBERS_MAX + 1)), "content_coding"),
    "gzip-in-chunks-cut": Sin(
        [head(None, "Content-Encoding: gzip", "Transfer-Encoding: chunked") + b"%x\r\n%s\r\n" % (len(_GZIP), _GZIP)],
        "truncated",
        "chunked",
    ),
    "deflate-wrong-checksum": bad(encoded("deflate", zlib.compress(TEXT)[:-4] + b"abcd"), "content_coding"),
    "deflate-dictionary": bad(encoded("deflate", b"\x78\xbb\x00\x00\x00\x01" + raw_deflate(TEXT)), "content_coding"),
    "zstd-frames": fine(encoded("zstd", checked_zstd(TEXT) * 3)),
    "zstd-skippable": fine(encoded("zstd", b"\x50\x2a\x4d\x18\x04\0\0\0abcd" + checked_zstd(TEXT))),
    "zstd-wide-window": bad(encoded("zstd", wide_zstd(TEXT)), "content_coding"),
    "stacked": fine(encoded("deflate, gzip, br", _STACK)),
    "stacked-in-wrong-order": bad(encoded("br, gzip, deflate", _STACK), "content_coding"),
    "stacked-too-high": bad(encoded("deflate, gzip, br, gzip", gzip.compress(_STACK)), "content_coding"),
    "stacked-bomb": bad(
        encoded("gzip, gzip", gzip.compress(gzip.compress(bytes(3 * MIB)))),
        "decode_ratio",
        max_body=64 * MIB,
        max_decode_ratio=50,
    ),
    "coding-compress": bad(encoded("compress", b"\x1f\x9d\x90" + b"x" * 100), "content_coding"),
    "coding-unheard-of": fine(encoded("utf-8", TEXT)),
    "coding-identity": fine(encoded("identity", TEXT)),
    "coding-x-gzip": fine(encoded("x-gzip", _GZIP)),
    "coding-list-of-nothing": fine(encoded(",,  ,", TEXT)),
}
