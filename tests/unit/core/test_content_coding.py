"""Content codings: whatever was encoded comes back, and nothing that is not whole passes."""

import gzip
import os
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import brotli
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.sins_coding import checked_zstd, raw_deflate

from crawler.core.content_coding import (
    _DECODERS,
    CODINGS_MAX,
    MEMBERS_MAX,
    PIECE_BYTES,
    bounded,
    codings_of,
    decoded,
    decoder_bytes,
    decoder_bytes_max,
    whole,
    zstd,
)
from crawler.core.errors import FetchError

ENCODE = {"gzip": gzip.compress, "deflate": zlib.compress, "raw": raw_deflate, "br": brotli.compress, "zstd": checked_zstd}
KINDS = list(ENCODE)


def coding(kind: str) -> tuple[str, ...]:
    return ("deflate",) if kind == "raw" else (kind,)


def cut(data: bytes, n: int) -> list[bytes]:
    return [data[start : start + n] for start in range(0, len(data), n)]


def reason_of(data: bytes, codings: tuple[str, ...], n: int = 1000) -> str | None:
    try:
        for piece in decoded(cut(data, n), codings):
            assert len(piece) <= PIECE_BYTES
    except FetchError as error:
        return error.reason
    return None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 9, 4096, 1 << 20])
def test_what_was_encoded_comes_back_in_small_pieces(kind: str, n: int) -> None:
    data = os.urandom(3000) * 3 + b"a" * 500_000
    pieces = list(decoded(cut(ENCODE[kind](data), n), coding(kind)))
    assert b"".join(pieces) == data
    assert max(map(len, pieces)) <= PIECE_BYTES


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=5000), kind=st.sampled_from(KINDS), n=st.integers(1, 300), keep=st.floats(0, 0.999))
def test_a_body_cut_anywhere_is_never_whole(data: bytes, kind: str, n: int, keep: float) -> None:
    packed = ENCODE[kind](data)
    assert b"".join(decoded(cut(packed, n), coding(kind))) == data
    part = packed[: int(len(packed) * keep)]
    assert reason_of(part, coding(kind), n) == ("coding_cut" if part else None)


@settings(max_examples=300, deadline=None)
@given(
    data=st.binary(max_size=300).map(lambda data: data * 250),
    kind=st.sampled_from(KINDS),
    keep=st.floats(0, 1) | st.just(1.0),
    flip=st.none() | st.floats(0, 1),
    after=st.sampled_from([b"", b"\0", b"more", gzip.compress(b"x"), checked_zstd(b"x")]),
)
def test_one_step_gives_what_many_do_or_nothing(data: bytes, kind: str, keep: float, flip: float | None, after: bytes) -> None:
    body = bytearray(ENCODE[kind](data))
    body = body[: round(len(body) * keep)] + after
    if flip is not None and body:
        body[int(flip * (len(body) - 1))] ^= 0x20
    found = whole(bytes(body), coding(kind)[0])
    if found is not None:
        assert found == b"".join(decoded(cut(bytes(body), 700), coding(kind)))
    if keep == 1.0 and flip is None and not after:
        assert (found is not None) == (len(data) <= PIECE_BYTES), "what is sound and small takes one step"


@pytest.mark.parametrize("kind", KINDS)
def test_one_step_of_a_bomb_makes_little_more_than_a_piece(kind: str) -> None:
    bomb = ENCODE[kind](bytes(64 << 20))
    assert whole(bomb, coding(kind)[0]) is None
    assert len(_DECODERS[coding(kind)[0]](bomb).decompress(bomb, PIECE_BYTES)) <= 2 * PIECE_BYTES


SPOILT = {
    "gzip": lambda data: gzip.compress(data)[:-8] + b"abcdefgh",
    "deflate": lambda data: zlib.compress(data)[:-4] + b"abcd",
    "br": lambda data: brotli.compress(data) + b"<!-- cached -->",
}


@pytest.mark.parametrize("kind", SPOILT)
@pytest.mark.parametrize("size", [1, 500, 20_000, 200_000])
@pytest.mark.parametrize("n", [1000, 1 << 20])
def test_what_is_spoilt_by_its_last_bytes_alone_is_decoded_to_its_end(kind: str, size: int, n: int) -> None:
    """A call of the decoder that fails drops what it has: all of a small page, with its links."""
    data = (os.urandom(20_000) + bytes(400_000))[:size]
    for codings, body in (((kind,), SPOILT[kind](data)), ((kind, "gzip"), gzip.compress(SPOILT[kind](data)))):
        found = bytearray()
        with pytest.raises(FetchError) as ended:
            for piece in decoded(cut(body, n), codings):
                found += piece
        assert (bytes(found), ended.value.reason) == (data, "content_coding")


@settings(max_examples=60, deadline=None)
@given(data=st.binary(min_size=50, max_size=3000), kind=st.sampled_from(["gzip", "deflate", "zstd"]), where=st.floats(0, 1))
def test_a_flipped_bit_never_gives_other_bytes_unnoticed(data: bytes, kind: str, where: float) -> None:
    spoilt = bytearray(ENCODE[kind](data))
    spoilt[int(where * (len(spoilt) - 1))] ^= 0x20
    try:
        assert b"".join(decoded(cut(bytes(spoilt), 700), coding(kind))) == data
    except FetchError as error:
        assert error.reason in {"content_coding", "coding_cut", "trailing_data"}


@settings(max_examples=100, deadline=None)
@given(noise=st.binary(max_size=400), kind=st.sampled_from(KINDS), n=st.integers(1, 50))
def test_noise_raises_nothing_but_fetch_errors(noise: bytes, kind: str, n: int) -> None:
    reason_of(noise, coding(kind), n)


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_after_the_end_are_a_fault(kind: str) -> None:
    for tail in (b"x", b"\0" * 8, b"<!-- more -->" * 500):
        for n in (1, 1000, 1 << 20):
            # brotli's library does not tell the two apart
            assert reason_of(ENCODE[kind](b"data" * 99) + tail, coding(kind), n) == (
                "content_coding" if kind == "br" else "trailing_data"
            )


def test_gzip_may_have_members_and_zstd_frames_but_not_without_end() -> None:
    for kind in ("gzip", "zstd"):
        one = ENCODE[kind](b"abc")
        assert b"".join(decoded(cut(one * 5, 7), (kind,))) == b"abc" * 5
        assert reason_of(one * (MEMBERS_MAX + 1), (kind,)) == "content_coding"
        assert reason_of(one * 3 + one[:-1], (kind,)) == "coding_cut"


def test_stacked_codings_are_undone_in_reverse_and_bounded() -> None:
    stack = brotli.compress(gzip.compress(zlib.compress(b"deep" * 100)))
    assert b"".join(decoded(cut(stack, 10), ("deflate", "gzip", "br"))) == b"deep" * 100
    assert reason_of(stack, ("gzip",) * (CODINGS_MAX + 1)) == "content_coding"


@pytest.mark.parametrize("outer", ["gzip", "br", "zstd"])
@pytest.mark.parametrize("inner", ["empty blocks", "long name", "skippable frame"])
def test_bytes_that_decode_to_nothing_are_bounded_between_codings(outer: str, inner: str) -> None:
    """Nothing comes out at the end, so no limit there would stop a body of a few kilobytes that is gigabytes in between."""
    made = 0

    def endless() -> Iterator[bytes]:
        nonlocal made
        starts = {"empty blocks": b"\x1f\x8b\x08" + bytes(7), "long name": b"\x1f\x8b\x08\x08" + bytes(6)}
        yield starts.get(inner, b"\x50\x2a\x4d\x18\xff\xff\xff\xff")
        while made < 64 << 20:
            made += 1 << 20
            yield (b"\0\0\0\xff\xff" if inner == "empty blocks" else b"xxxxx") * (1 << 20)

    codings = ("zstd" if inner == "skippable frame" else "gzip", outer)
    with pytest.raises(FetchError, match="decode_ratio"):
        list(decoded(compressed(outer, endless()), codings))
    assert made < 8 << 20


def compressed(kind: str, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Piece by piece, as they are asked for."""
    if kind == "br":
        encoder = brotli.Compressor(quality=1)
        yield from (encoder.process(piece) + encoder.flush() for piece in pieces)
    else:
        squeeze = zstd.ZstdCompressor() if kind == "zstd" else zlib.compressobj(wbits=31)
        end = squeeze.FLUSH_BLOCK if kind == "zstd" else zlib.Z_SYNC_FLUSH
        yield from (squeeze.compress(piece) + squeeze.flush(end) for piece in pieces)


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_chunk_comes_out_where_it_went_in(kind: str) -> None:
    """So that whoever waits for what comes out has a turn, even if nothing does."""
    whole = ENCODE[kind](b"text" * 1000)
    pieces = list(decoded([b"", whole[:5], b"", whole[5:]], coding(kind)))
    assert pieces[:2] == [b"", b""] and b"".join(pieces) == b"text" * 1000


def test_what_is_not_encoded_at_all_is_a_fault_and_nothing_is_an_empty_body() -> None:
    for kind in ("gzip", "zstd", "br"):
        assert reason_of(b"<html><p>hello" * 99, (kind,)) == "content_coding"
        assert reason_of(b"", (kind,)) is None
    assert reason_of(b"anything", ("compress",)) == "content_coding"


def test_a_zstd_frame_may_not_ask_for_a_giant_window() -> None:
    squeeze = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 27})
    frame = squeeze.compress(b"x" * 1000) + squeeze.flush()
    assert reason_of(frame, ("zstd",)) == "content_coding"


@pytest.mark.parametrize("kind", KINDS)
def test_a_bomb_stops_at_its_limit(kind: str) -> None:
    bomb = ENCODE[kind](bytes(8 << 20))
    for limits, reason in (((4 << 20, 1e9), "max_decoded"), ((1 << 30, 10.0), "decode_ratio")):
        pieces = bounded(
            decoded(cut(bomb, 1 << 16), coding(kind)), wire_bytes=len(bomb), decoded_bytes_max=limits[0], ratio_max=limits[1]
        )
        size = 0
        with pytest.raises(FetchError) as caught:
            for piece in pieces:
                size += len(piece)
        assert caught.value.reason == reason
        assert size == min(limits[0], max(1 << 20, int(len(bomb) * limits[1])))


def test_bounds_that_are_just_met_are_met() -> None:
    pieces = bounded([b"a" * 100, b"b" * 100], wire_bytes=1, decoded_bytes_max=200, ratio_max=1)
    assert sum(map(len, pieces)) == 200


@pytest.mark.parametrize(
    ("values", "codings"),
    [
        (["gzip"], ("gzip",)),
        (["x-GZIP"], ("gzip",)),
        (["gzip, br", "deflate"], ("gzip", "br", "deflate")),
        (["identity", "", ",,"], ()),
        (["utf-8"], ()),
        (["none", "gz\x00ip"], ()),
        (["compress"], ("compress",)),
        (["gzip;q=1"], ()),
    ],
)
def test_codings_of_a_header(values: list[str], codings: tuple[str, ...]) -> None:
    assert codings_of(values) == codings


@given(
    value=st.lists(st.sampled_from([b"gzip", b"br", b",", b" ", b"\xa0", b"\xc2\xa0", b"\x85", b"\xc2\x85", b"\x0b"])).map(
        b"".join
    )
)
@example(b"gzip\xa0")
@example(b"gzip\xc2\xa0")
def test_a_body_is_read_back_as_it_was_read(value: bytes) -> None:
    """Where bytes are white space as UTF-8, as the fetcher has them, and not as latin-1, as a record's reader has them, or the
    other way, an ``ok`` page came back empty or still encoded."""
    assert codings_of([value.decode("utf-8", "surrogateescape")]) == codings_of([value.decode("latin-1")])


def test_every_step_of_a_stack_is_a_turn_for_others() -> None:
    """Blocks that decode to nothing, packed once more: much work below, and nothing comes out."""
    raw = zlib.compressobj(wbits=-15)
    inner = b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + b"\0\0\0\xff\xff" * 400_000 + raw.flush() + b"\0" * 8
    outer = zlib.compress(inner, wbits=31)
    pieces = []
    with pytest.raises(FetchError) as refused:
        pieces.extend(decoded([outer], ("gzip", "gzip")))
    assert refused.value.reason == "decode_ratio"
    assert len(pieces) >= 15 and not any(pieces)


MIB = 1 << 20


@pytest.mark.parametrize("log", range(10, 25))
def test_a_brotli_window_is_told_by_the_first_byte(log: int) -> None:
    start = brotli.compress(os.urandom(1000), quality=5, lgwin=log)[:1]
    told = decoder_bytes("br", 1 << 30, start) - decoder_bytes("br", 0, start)
    assert told == 1 << log


@given(start=st.binary(max_size=1), size=st.integers(0, 1 << 32))
def test_no_start_makes_a_decoder_larger_than_the_largest(start: bytes, size: int) -> None:
    assert 0 < decoder_bytes("br", size, start) <= decoder_bytes("br", size) <= decoder_bytes_max(size)
    assert decoder_bytes("gzip", size) == decoder_bytes("deflate", size) == 0


HELD = """
import ctypes, sys
from crawler.core.content_coding import decoded, decoder_bytes

class Mallinfo2(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in
        "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Mallinfo2

def allocated():
    info = libc.mallinfo2()
    return info.uordblks + info.hblkhd

with open(sys.argv[1], "rb") as file:
    data = file.read()
chunks = [data[at : at + 65536] for at in range(0, len(data), 65536)]
for _ in decoded(chunks[:1], (sys.argv[2],)):
    break
before = most = allocated()
for piece in decoded(chunks, (sys.argv[2],)):
    most = max(most, allocated() - len(piece))
print(most - before, decoder_bytes(sys.argv[2], 64 << 20, data[:1]))
"""
GZIP_BYTES = 44 << 10


def widest_br(data: bytes) -> bytes:
    return brotli.compress(data, quality=5, lgwin=24)


def widest_zstd(data: bytes) -> bytes:
    return zstd.compress(data, options={zstd.CompressionParameter.window_log: 23})


@pytest.mark.parametrize(("coding", "compress"), [("br", widest_br), ("zstd", widest_zstd), ("gzip", gzip.compress)])
def test_a_decoder_holds_no_more_than_it_says(tmp_path: Path, coding: str, compress: Callable[[bytes], bytes]) -> None:
    """Of a body that fills the widest window its coding has. Counted by the allocator: what is resident depends on huge pages."""
    (tmp_path / "body").write_bytes(compress(os.urandom(4 * MIB) * 6))
    command = [sys.executable, "-c", HELD, str(tmp_path / "body"), coding]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    held, told = map(int, ran.stdout.split())
    assert told // 2 < held <= (told or GZIP_BYTES)
