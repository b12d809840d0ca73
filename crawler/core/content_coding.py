"""Content codings undone, piece by piece: gzip, deflate, br, zstd and stacks of them (RFC 9110 section 8.4).

Invariants: no input makes a piece larger than PIECE_BYTES. What ends without a fault was whole: every checksum matched,
every end was reached, nothing came after it.
"""

from __future__ import annotations

import errno
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, Final

import brotli  # type: ignore[import-untyped]
from zlib_ng import zlib_ng

from crawler.core.errors import FetchError, StorageError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PIECE_BYTES: Final = 64 << 10
CODINGS_MAX: Final = 8
"""Stacked codings undone at most, whatever ``max_codings`` says."""
MEMBERS_MAX: Final = 1024
"""gzip members or zstd frames in one body at most: each costs a fresh decoder."""
RATIO_FREE_BYTES: Final = 1 << 20
"""A body that decodes to no more than this may have any ratio."""
STACKED_RATIO_MAX: Final = 4
"""What one coding leaves to the next is compressed itself: beyond RATIO_FREE_BYTES hardly more comes out than went in. Bytes
that decode to nothing (empty blocks, skippable frames) are seen by no limit of what comes out at the end."""
_ZSTD_WINDOW_LOG_MAX: Final = 23  # 8 MiB, the window of the zstd content coding (RFC 9659 section 3)
_ZSTD_BYTES: Final = 512 << 10
"""Of a zstd decoder beside its window: two blocks of 128 KiB and its tables."""
_BROTLI_WINDOW_LOG_MAX: Final = 24  # 16 MiB
_BROTLI_BYTES: Final = 3 << 20
"""Of a brotli decoder beside its window: 256 prefix codes of each of three kinds (RFC 7932 section 3.5), as tables."""
_BROTLI_FEED_BYTES: Final = 4 << 10
_BROTLI_TAIL_BYTES_MAX: Final = 64 << 10
_AGAIN_BYTES_MAX: Final = 32 << 10
"""A body that is decoded again, in small steps, is no larger."""
_AGAIN_STEPS: Final = (256, 1)
"""Their bytes: the second time from where the first has failed."""

_IDENTITY: Final = frozenset({"", "identity"})
_ALIASES: Final = {"x-gzip": "gzip", "x-compress": "compress"}
_UNSUPPORTED: Final = frozenset({"compress", "exi", "pack200-gzip", "aes128gcm", "dcb", "dcz", "sdch"})
_LISTED: Final = re.compile("[^,]++").finditer
_TOKEN: Final = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")

Stage = Callable[[Iterable[bytes]], Iterator[bytes]]


def codings_of(values: Iterable[str]) -> tuple[str, ...]:
    """The codings of Content-Encoding field values, in the order they were applied; of more than can be undone one too many.

    Tokens that no registry knows (``utf-8``, ``none``, ...) are left out, as browsers do: such bodies are not encoded. So are
    those with bytes beyond ASCII: as UTF-8 and as latin-1, different ones would be white space.
    """
    found: list[str] = []
    for value in values:
        for token in _LISTED(value):
            if len(found) > CODINGS_MAX:
                break
            name = token[0].strip().lower() if token[0].isascii() else ""
            name = _ALIASES.get(name, name)
            if name not in _IDENTITY and _TOKEN.fullmatch(name) and (name in _STAGES or name in _UNSUPPORTED):
                found.append(name)
    return tuple(found)


def decoded(chunks: Iterable[bytes], codings: tuple[str, ...]) -> Iterator[bytes]:
    """The chunks with their codings undone, in pieces of at most PIECE_BYTES bytes. A step of any of the decoders from which
    nothing comes (there are bytes that decode to nothing for long) is an empty piece, and so is an empty chunk: whoever waits
    for what comes out has a turn at each.

    FetchError: ``coding_cut`` the input ends early · ``content_coding`` corrupt, a wrong checksum, or a coding we cannot
    undo · ``trailing_data`` more follows the end · ``decode_ratio`` between two codings. No input at all is an empty body.
    """
    if len(codings) > CODINGS_MAX:
        raise FetchError("content_coding", f"over {CODINGS_MAX} codings")
    pieces: Iterable[bytes] = chunks
    for above, name in enumerate(reversed(codings)):
        pieces = stacked(pieces, name) if above < len(codings) - 1 else _stage(name)(pieces)
    yield from pieces


def whole(data: bytes, coding: str) -> bytes | None:
    """What a body decodes to, in one step. None unless it is whole, and decodes to no more than PIECE_BYTES: then ``decoded``
    tells more."""
    if (make := _DECODERS.get(coding)) is None:
        return None
    try:
        decoder = make(data)
        piece: bytes = decoder.decompress(data, PIECE_BYTES)
    except Exception:
        return None
    return piece if decoder.eof and not decoder.unused_data and len(piece) <= PIECE_BYTES else None


def stacked(chunks: Iterable[bytes], coding: str) -> Iterator[bytes]:
    """As ``decoded`` for one coding, below which another waits."""
    stage = _stage(coding)
    left = RATIO_FREE_BYTES

    def counted() -> Iterator[bytes]:
        nonlocal left
        for chunk in chunks:
            left += STACKED_RATIO_MAX * len(chunk)
            yield chunk

    for piece in stage(counted()):
        left -= len(piece)
        if left < 0:
            raise FetchError("decode_ratio", f"over {STACKED_RATIO_MAX} : 1 between codings")
        yield piece


def _stage(coding: str) -> Stage:
    if (stage := _STAGES.get(coding)) is None:
        raise FetchError("content_coding", coding)
    return partial(_as_far_as_it_goes, stage)


def _as_far_as_it_goes(stage: Stage, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """A call that fails drops its output, which is all of a little body whose checksum is wrong, or with bytes behind its end: so
    that is decoded again for the rest, to the byte that fails."""
    begun = bytearray()
    came = given = safe = 0

    def kept() -> Iterator[bytes]:
        nonlocal came
        for chunk in chunks:
            came += len(chunk)
            if came <= _AGAIN_BYTES_MAX:
                begun.extend(chunk)
            else:
                begun.clear()
            yield chunk

    def again(step: int) -> Iterator[bytes]:
        nonlocal safe
        yield bytes(begun[:safe])
        for at in range(safe, came, step):
            safe = at
            yield bytes(begun[at : at + step])

    try:
        for piece in stage(kept()):
            given += len(piece)
            yield piece
        return
    except FetchError as error:
        if error.reason != "content_coding" or came > _AGAIN_BYTES_MAX:
            raise
        fault = error.kept()
    for step in _AGAIN_STEPS:
        known = given
        with suppress(FetchError):
            for piece in stage(again(step)):
                new = piece[known:]
                known = max(0, known - len(piece))
                given += len(new)
                yield new
    raise fault


def decoder_bytes(coding: str, output_bytes_max: int, start: bytes = b"") -> int:
    """Most that a decoder of ``coding`` holds in memory: its tables, and its window, of which it touches no more than has come
    out. ``start``: the first byte of its input, if that is known. What it takes in and gives out comes in addition; so do the
    44 KiB of gzip and deflate, for which this is 0."""
    if coding == "br":
        return min(_brotli_window_bytes(start), output_bytes_max) + _BROTLI_BYTES
    if coding == "zstd":  # each frame has a window of its own: the first does not tell
        return min(1 << _ZSTD_WINDOW_LOG_MAX, output_bytes_max) + _ZSTD_BYTES
    return 0


def decoders_bytes(codings: Iterable[str]) -> int:
    """The same for those of a stack that are undone at the same time, however much comes out."""
    return sum(decoder_bytes(coding, 1 << _BROTLI_WINDOW_LOG_MAX) for coding in codings)


def decoder_bytes_max(output_bytes_max: int) -> int:
    """The same for any coding, alone or in a stack that is undone one after the other."""
    return max(decoder_bytes(coding, between_bytes_max(output_bytes_max)) for coding in _STAGES)


def between_bytes_max(output_bytes_max: int) -> int:
    """Most that one coding of a stack may leave to the next: nothing is made larger by coding it but by a little, and what is
    beyond that decodes to nothing."""
    return output_bytes_max + output_bytes_max // 64 + RATIO_FREE_BYTES


def _brotli_window_bytes(start: bytes) -> int:
    """RFC 7932 section 9.1, WBITS: 1, 4 or 7 bits, least significant first."""
    if not start:
        return 1 << _BROTLI_WINDOW_LOG_MAX
    bits = start[0]
    if not bits & 1:
        return 1 << 16
    if n := bits >> 1 & 7:
        return 1 << 17 + n
    n = bits >> 4 & 7
    return 1 << (8 + n if n else 17)


def bounded(pieces: Iterable[bytes], *, wire_bytes: int, decoded_bytes_max: int, ratio_max: float) -> Iterator[bytes]:
    """The pieces, up to the limits. FetchError: ``max_decoded`` or ``decode_ratio``, after the prefix that was allowed."""
    ratio_bytes_max = max(RATIO_FREE_BYTES, int(wire_bytes * ratio_max))
    left = min(decoded_bytes_max, ratio_bytes_max)
    for piece in pieces:
        if len(piece) > left:
            if left:
                yield piece[:left]
            if ratio_bytes_max < decoded_bytes_max:
                raise FetchError("decode_ratio", f"over {ratio_max:g} : 1")
            raise FetchError("max_decoded", f"over {decoded_bytes_max} bytes")
        left -= len(piece)
        yield piece


def _members(chunks: Iterable[bytes], make: Callable[[], Any], magics: tuple[bytes, ...]) -> Iterator[bytes]:
    """Decoders of the bz2 kind (eof, needs_input, unused_data), one after the other for as long as a magic follows."""
    magic_bytes = len(magics[0])
    decoder: Any = None
    members = 0
    held = b""
    for chunk in chunks:
        if not chunk:
            yield chunk
            continue
        data = held + chunk
        held = b""
        while True:
            if decoder is None:
                if len(data) < magic_bytes:
                    held = data
                    break
                if data[:magic_bytes] not in magics:
                    raise FetchError("trailing_data" if members else "content_coding", "no magic number")
                members += 1
                if members > MEMBERS_MAX:
                    raise FetchError("content_coding", f"over {MEMBERS_MAX} members")
                decoder = make()
            piece = _step(decoder, data)
            data = b""
            yield piece
            if decoder.eof:
                data = decoder.unused_data
                decoder = None
            elif decoder.needs_input:
                break
    if decoder is not None or (held and not members):
        raise FetchError("coding_cut")
    if held:
        raise FetchError("trailing_data")


def _step(decoder: Any, data: bytes) -> bytes:
    try:
        piece: bytes = decoder.decompress(data, PIECE_BYTES)
    except MemoryError:
        raise StorageError("out of memory while decoding", errno=errno.ENOMEM) from None
    except Exception as error:  # zlib.error, ZstdError, and whatever else a body may provoke in them
        raise FetchError("content_coding", str(error)) from None
    return piece


class _Inflate:
    """zlib-ng's decoder with the face of bz2's. zlib's takes twice its time for text; isal's a fifth less, but four times as much
    for a page of many small blocks, as servers send that flush while they write."""

    __slots__ = ("_decoder", "eof", "needs_input", "unused_data")

    def __init__(self, window: int) -> None:
        self._decoder = zlib_ng.decompressobj(window)
        self.eof = False
        self.needs_input = True
        self.unused_data = b""

    def decompress(self, data: bytes, limit: int) -> bytes:
        decoder = self._decoder
        piece = decoder.decompress(decoder.unconsumed_tail + data, limit)
        self.eof, self.unused_data = decoder.eof, decoder.unused_data
        self.needs_input = not decoder.unconsumed_tail and len(piece) < limit
        return piece


class _Brotli:
    """brotli's decoder with the same face. It says of no byte that it is not its own: more behind the end is an error."""

    __slots__ = ("_decoder", "eof", "unused_data")

    def __init__(self) -> None:
        self._decoder = brotli.Decompressor()
        self.eof = False
        self.unused_data = b""

    def decompress(self, data: bytes, limit: int) -> bytes:
        piece: bytes = self._decoder.process(data, output_buffer_limit=limit)
        self.eof = self._decoder.is_finished()
        return piece


def _unzipping(data: bytes = b"") -> _Inflate:
    return _Inflate(16 + zlib.MAX_WBITS)


def _inflating(data: bytes) -> _Inflate:
    """zlib's format as RFC 9110 says, or raw deflate as many servers send: its first two bytes tell."""
    is_zlib = data[0] & 0x0F == 8 and (data[0] << 8 | data[1]) % 31 == 0
    return _Inflate(zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS)


def _unpacking(data: bytes = b"") -> zstd.ZstdDecompressor:
    return zstd.ZstdDecompressor(options={int(zstd.DecompressionParameter.window_log_max): _ZSTD_WINDOW_LOG_MAX})


_DECODERS: Final[dict[str, Callable[[bytes], Any]]] = {
    "gzip": _unzipping,
    "deflate": _inflating,
    "br": lambda data: _Brotli(),
    "zstd": _unpacking,
}


def _gzip(chunks: Iterable[bytes]) -> Iterator[bytes]:
    return _members(chunks, _unzipping, (b"\x1f\x8b",))


def _zstd(chunks: Iterable[bytes]) -> Iterator[bytes]:
    skippable = tuple(bytes((0x50 + n, 0x2A, 0x4D, 0x18)) for n in range(16))
    return _members(chunks, _unpacking, (b"\x28\xb5\x2f\xfd", *skippable))


def _deflate(chunks: Iterable[bytes]) -> Iterator[bytes]:
    decoder: Any = None
    held = b""
    for chunk in chunks:
        if not chunk:
            yield chunk
            continue
        data = held + chunk
        held = b""
        if decoder is None:
            if len(data) < 2:
                held = data
                continue
            decoder = _inflating(data)
        elif decoder.eof:
            raise FetchError("trailing_data")
        while True:
            piece = _step(decoder, data)
            data = b""
            yield piece
            if decoder.eof or decoder.needs_input:
                break
        if decoder.eof and decoder.unused_data:
            raise FetchError("trailing_data")
    if held or (decoder is not None and not decoder.eof):
        raise FetchError("coding_cut")


def _brotli(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The library calls corrupt data and data after the end by one name, so here both are ``content_coding``."""
    decoder = brotli.Decompressor()
    empty = True
    for chunk in chunks:
        if not chunk:
            yield chunk
        for start in range(0, len(chunk), _BROTLI_FEED_BYTES):  # a call that fails drops its output: small calls lose little
            empty = False
            yield from _brotli_fed(decoder, chunk[start : start + _BROTLI_FEED_BYTES])
    if not empty and not decoder.is_finished():
        raise FetchError("coding_cut")


def _brotli_fed(decoder: Any, data: bytes) -> Iterator[bytes]:
    more = True
    while more:
        try:
            piece: bytes = decoder.process(data, output_buffer_limit=PIECE_BYTES)
            more = not decoder.is_finished() and (len(piece) >= PIECE_BYTES or not decoder.can_accept_more_data())
        except MemoryError:
            raise StorageError("out of memory while decoding", errno=errno.ENOMEM) from None
        except Exception as error:  # brotli.error, and whatever else a body may provoke in it
            raise FetchError("content_coding", str(error)) from None
        data = b""
        for offset in range(0, max(1, len(piece)), PIECE_BYTES):  # the limit is a hint to the library
            yield piece[offset : offset + PIECE_BYTES]


def brotli_with_tail(data: bytes, limit: int) -> bytes | None:
    """What a little brotli body decodes to that is whole and has bytes behind its end, at most ``limit`` bytes of it; None if it
    is another. Read byte by byte, to see the end before the bytes that spoil it."""
    decoder = brotli.Decompressor()
    found = bytearray()
    for at in range(min(len(data), _BROTLI_TAIL_BYTES_MAX)):
        try:
            for piece in _brotli_fed(decoder, data[at : at + 1]):
                found += piece
                if len(found) > limit:
                    return None
        except FetchError:
            return None
        if decoder.is_finished():
            return bytes(found)
    return None


_STAGES: Final[dict[str, Stage]] = {"gzip": _gzip, "deflate": _deflate, "br": _brotli, "zstd": _zstd}
ACCEPTED: Final = ", ".join(_STAGES)
"""The Accept-Encoding header: what this module undoes."""
REPLAYED: Final = "gzip, br"
"""The same where bodies are kept as they come: what those undo who replay an archive. To pywb zstd is no coding, to
ReplayWeb.page nor is deflate: they show such a page as the bytes that it came in."""
