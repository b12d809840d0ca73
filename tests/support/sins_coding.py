"""Sins of content coding: cut, corrupt, trailing, exploding, stacked, or not encoded at all."""

from __future__ import annotations

import gzip
import struct
import zlib
from typing import Final

import brotli

from crawler.core.content_coding import MEMBERS_MAX, zstd
from support.sinful import Script, head, rst, stay
from support.sins import Sin, bad, fine

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


def zstd_window(log: int) -> bytes:
    """A frame that asks for a window of 2**log bytes, and holds nothing."""
    return b"\x28\xb5\x2f\xfd\0" + bytes([log - 10 << 3]) + b"\x01\0\0"


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
        whole, zeros = encode(TEXT), encode(bytes(3 * MIB))
        trailing = "content_coding" if kind == "br" else "trailing_data"
        sins |= {
            f"{kind}-good": fine(encoded(coding, whole)),
            f"{kind}-cut": Sin(encoded(coding, whole[:-1]), "truncated", "coding_cut"),
            f"{kind}-cut-in-half": Sin(encoded(coding, whole[: len(whole) // 2]), "truncated", "coding_cut"),
            f"{kind}-one-byte": Sin(encoded(coding, whole[:1]), "truncated", "coding_cut"),
            f"{kind}-trailing-byte": bad(encoded(coding, whole + b"\n"), trailing),
            f"{kind}-trailing-zeros": bad(encoded(coding, whole + bytes(4096)), trailing),
            f"{kind}-bomb": bad(encoded(coding, zeros), "decode_ratio", max_body=64 * MIB, max_decode_ratio=20),
            f"{kind}-too-large": Sin(encoded(coding, zeros), "too_large", "max_decoded", {"max_decode_ratio": 1e6}),
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
_TWICE: Final = gzip.compress(_GZIP)
_NAMED: Final = b"\x1f\x8b\x08\x08\0\0\0\0\0\x03"
_EMPTY_BLOCK: Final = b"\0\0\0\xff\xff"
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
    # Nothing comes out at the end, and much in between: bytes that decode to nothing.
    "stacked-skippable": bad(
        encoded("zstd, zstd", zstd.compress(b"\x50\x2a\x4d\x18\xf0\xff\xff\xff" + bytes(50 * MIB))), "decode_ratio"
    ),
    "stacked-long-name": bad(encoded("gzip, gzip", gzip.compress(_NAMED + b"x" * (20 * MIB))), "decode_ratio"),
    "stacked-empty-blocks": bad(encoded("gzip, zstd", zstd.compress(_GZIP[:10] + _EMPTY_BLOCK * (4 * MIB))), "decode_ratio"),
    "stacked-twice": fine([head(len(_TWICE), "Content-Encoding: gzip", "Content-Encoding: gzip") + _TWICE, stay]),
    "stacked-100": bad([head(len(TEXT), *["Content-Encoding: gzip"] * 100) + TEXT, stay], "content_coding"),
    "gzip-long-name": Sin(encoded("gzip", _NAMED + b"x" * MIB), "truncated", "coding_cut", {"max_body": 4 * MIB}),
    "gzip-empty-blocks": Sin(encoded("gzip", _GZIP[:10] + _EMPTY_BLOCK * 100_000), "truncated", "coding_cut"),
    "gzip-then-html": bad(encoded("gzip", _GZIP + b"<html>"), "trailing_data"),
    "gzip-then-half-a-magic": bad(encoded("gzip", _GZIP + b"\x1f"), "trailing_data"),
    "gzip-then-a-magic": Sin(encoded("gzip", _GZIP + b"\x1f\x8b"), "truncated", "coding_cut"),
    "gzip-method-9": bad(encoded("gzip", b"\x1f\x8b\x09" + _GZIP[3:]), "content_coding"),
    "gzip-close-cut": Sin([head(None, "Content-Encoding: gzip") + _GZIP[:-1]], "truncated", "coding_cut"),
    "gzip-close-reset": Sin([head(None, "Content-Encoding: gzip") + _GZIP[:-9], 0.1, rst], "truncated", "cut"),
    "zstd-window-2**31": bad(encoded("zstd", zstd_window(31)), "content_coding"),
    "zstd-window-2**41": bad(encoded("zstd", zstd_window(41)), "content_coding"),
    "zstd-wrong-size": bad(encoded("zstd", b"\x28\xb5\x2f\xfd\x20\x09\x19\0\0hi!"), "content_coding"),
    "zstd-dictionary": bad(encoded("zstd", b"\x28\xb5\x2f\xfd\x21\x01\x03\x19\0\0abc"), "content_coding"),
    "zstd-skippable-only": fine(encoded("zstd", b"\x50\x2a\x4d\x18\x04\0\0\0abcd")),
    "zstd-skippable-cut": Sin(encoded("zstd", b"\x50\x2a\x4d\x18\xff\xff\xff\xff" + b"x" * 99), "truncated", "coding_cut"),
    "br-large-window": bad(encoded("br", b"\x11\x3f" + b"x" * 100), "content_coding"),
    "coding-upper-case": fine(encoded("X-GZIP", _GZIP)),
    "coding-tabs": fine(encoded("\tgzip\t", _GZIP)),
    "coding-identity-too": fine(encoded("identity, gzip", _GZIP)),
    "coding-quoted": fine(encoded('"gzip"', TEXT)),
    "coding-compress": bad(encoded("compress", b"\x1f\x9d\x90" + b"x" * 100), "content_coding"),
    "coding-unheard-of": fine(encoded("utf-8", TEXT)),
    "coding-identity": fine(encoded("identity", TEXT)),
    "coding-x-gzip": fine(encoded("x-gzip", _GZIP)),
    "coding-list-of-nothing": fine(encoded(",,  ,", TEXT)),
}
