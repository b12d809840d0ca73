"""Chunked framing: whatever the chunks, the same body; nothing passes that aiohttp's parser would refuse."""

from __future__ import annotations

import asyncio
import re

import pytest
from aiohttp import HttpVersion11
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpResponseParser
from hypothesis import given, settings
from hypothesis import strategies as st

from crawler.fetch.chunks import LINE_BYTES_MAX, TRAILERS_BYTES_MAX, Chunks

EXTRA_MAX = 64 << 10

sizes = st.integers(1, 40) | st.just(1)
blanks = st.sampled_from([b"", b" ", b"\t", b"  \t "])
names = st.sampled_from([b"name", b"a", b"x-y", b"\xe9"])
values = st.sampled_from([b"", b"=value", b'="a b; c"', b' = "\xff"', b"\t=\tv", b'="\\""'])
extensions = st.lists(st.tuples(blanks, blanks, names, values), max_size=3).map(
    lambda parts: b"".join(before + b";" + after + name + value for before, after, name, value in parts)
)
chunks = st.lists(st.tuples(st.binary(min_size=1, max_size=40), extensions, st.integers(0, 3), st.booleans()), max_size=12)


def framed(drawn: list[tuple[bytes, bytes, int, bool]], last: bytes = b"0\r\n\r\n") -> bytes:
    parts = []
    for data, extension, zeros, upper in drawn:
        size = b"0" * zeros + (b"%X" if upper else b"%x") % len(data)
        parts.append(size + extension + b"\r\n" + data + b"\r\n")
    return b"".join(parts) + last


def fed(data: bytes, cuts: list[int]) -> tuple[bytes, Chunks]:
    reader, out, at = Chunks(EXTRA_MAX), b"", 0
    for end in [*sorted(cut % (len(data) + 1) for cut in cuts), len(data)]:
        out += reader.feed(data[at:end])
        at = end
    return out, reader


@settings(max_examples=300, deadline=None)
@given(
    chunks,
    st.lists(st.integers(0, 10_000), max_size=30),
    st.sampled_from([b"", b";x", b" ; a = b"]),
    st.sampled_from([b"", b"A: b\r\n"]),
)
def test_however_it_is_chunked_and_cut_it_is_the_same_body(drawn, cuts, extension, trailer):
    data = framed(drawn, b"0" + extension + b"\r\n" + trailer + b"\r\n")
    out, reader = fed(data, cuts)
    assert reader.fault is None and reader.is_over
    assert reader.is_exact == (not trailer)
    body = b"".join(data for data, *_ in drawn)
    assert out == body
    last = 1 + len(extension) + 2 + len(trailer) + 2
    assert reader.framing == len(data) - last - len(body) - (2 if drawn else 0)


@settings(max_examples=300, deadline=None)
@given(chunks, st.integers(0, 10_000), st.binary(max_size=4), st.lists(st.integers(0, 10_000), max_size=5))
def test_no_bytes_raise_and_none_are_made_up(drawn, at, noise, cuts):
    data = framed(drawn)
    at %= len(data)
    out, reader = fed(data[:at] + noise + data[at + 1 :], cuts)
    assert reader.fault is None or reader.fault[0] in ("chunked", "malformed")
    assert len(out) <= len(data) + len(noise)


@pytest.mark.parametrize(
    ("cuts", "behind"),
    [([], b""), ([1, 2, 3, 10, 9_000], b""), (range(20_000), b""), ([], b"HTTP/1.1 200 OK\r\n" + b"x" * 20_000)],
)
def test_trailers_are_put_up_with_to_their_limit_and_what_follows_them_is_not_theirs(cuts, behind):
    longest = b"A: ".ljust(TRAILERS_BYTES_MAX - len(b"\r\n" + b"\r\n\r\n"), b"b") + b"\r\n"
    for trailers in (b"", longest):
        out, reader = fed(b"2\r\nok\r\n0\r\n" + trailers + b"\r\n" + behind, list(cuts))
        assert (out, reader.fault, reader.is_over) == (b"ok", None, True)
        assert reader.is_exact == (not trailers and not behind)
    out, reader = fed(b"2\r\nok\r\n0\r\nB" + longest + b"\r\n" + behind, list(cuts))
    assert out == b"ok" and not reader.is_over
    assert reader.fault is not None and reader.fault[0] == "header_too_large"


REFUSED = {
    "no size": b"\r\nhello\r\n0\r\n\r\n",
    "sign": b"+5\r\nhello\r\n0\r\n\r\n",
    "minus": b"-5\r\nhello\r\n0\r\n\r\n",
    "0x": b"0x5\r\nhello\r\n0\r\n\r\n",
    "underscore": b"0_5\r\nhello\r\n0\r\n\r\n",
    "blank before": b" 5\r\nhello\r\n0\r\n\r\n",
    "wide digit": "\uff15\r\nhello\r\n0\r\n\r\n".encode(),
    "overflow": b"1" + b"0" * 16 + b"\r\nhello",
    "bare line feed": b"5\nhello\r\n0\r\n\r\n",
    "line feed in an extension": b"5;a\nb\r\nhello\r\n0\r\n\r\n",
    "return in an extension": b"5;a\rb\r\nhello\r\n0\r\n\r\n",
    "NUL in an extension": b"5;a=\0\r\nhello\r\n0\r\n\r\n",
    "delete in an extension": b"5;a=\x7f\r\nhello\r\n0\r\n\r\n",
    "text behind the size": b"5 hello\r\nhello\r\n0\r\n\r\n",
    "nothing after the data": b"5\r\nhello0\r\n\r\n",
    "return after the data": b"5\r\nhello\r0\r\n\r\n",
    "more than the size": b"2\r\nhello\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("cut", [False, True])
def test_what_two_readers_would_read_differently_is_no_framing(name, cut):
    data = REFUSED[name]
    _, reader = fed(data, list(range(len(data))) if cut else [])
    assert reader.fault is not None and reader.fault[0] == "chunked", name


def test_framing_that_is_none_of_the_body_is_bounded():
    for data in (b"5;" + b"a" * 20_000, b"0" * 20_000, b"5;a=" * LINE_BYTES_MAX, (b"1;" + b"b" * 5000 + b"\r\nx\r\n") * 20):
        _, reader = fed(data, list(range(0, len(data), 1000)))
        assert reader.fault is not None and reader.fault[0] == "malformed"
    _, reader = fed(b"1\r\nx\r\n" * 200_000, [])
    assert reader.fault is None


SPENT = (b"1;" + b"b" * (LINE_BYTES_MAX - 2) + b"\r\nx\r\n") * (EXTRA_MAX // LINE_BYTES_MAX)
"""Hardly an extension is put up with any more."""
LONG = {
    "a chunk when extensions are spent": SPENT + b"10000\r\n" + b"y" * 65536 + b"\r\n0\r\n\r\n",
    "the longest line": b"5;" + b"a" * (LINE_BYTES_MAX - 2) + b"\r\nhello\r\n0\r\n\r\n",
    "one too long": b"5;" + b"a" * (LINE_BYTES_MAX - 1) + b"\r\nhello\r\n0\r\n\r\n",
    "no size and too long": b"x" * 20_000 + b"\r\n",
    "digits and too long": b"1" * 20_000 + b"\r\n",
    "a line feed that comes too late": b"5;" + b"a" * LINE_BYTES_MAX + b"\n\r\n",
}


@pytest.mark.parametrize("name", LONG)
def test_pieces_change_nothing_of_long_lines(name):
    """Once extensions had come, whether a chunk of plain digits was too long a line depended on where it was cut."""
    data = LONG[name]
    whole = fed(data, [])
    line_end = data.index(b"\r\n", len(SPENT) if data.startswith(SPENT) else 0)
    for cut in range(line_end - 4, line_end + 3):
        out, reader = fed(data, [cut])
        assert (out, reader.fault, reader.is_over) == (whole[0], whole[1].fault, whole[1].is_over), cut
    assert name != "a chunk when extensions are spent" or len(whole[0]) == 65540


class _Protocol:
    def pause_reading(self) -> None: ...

    def resume_reading(self, resume_parser: bool = True) -> None: ...


def parsed(body: bytes) -> bytes | None:
    """What aiohttp's parser makes of a chunked body; None if it refuses it, or waits for more."""
    with asyncio.Runner() as runner:
        options = {"response_with_body": True, "read_until_eof": True, "auto_decompress": False}
        parser = HttpResponseParser(_Protocol(), runner.get_loop(), 1 << 20, **options)
        try:
            [(message, payload)], _, _ = parser.feed_data(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
        except (HttpProcessingError, ValueError):
            return None
    assert message.version == HttpVersion11
    return b"".join(payload._buffer) if payload.is_eof() and payload.exception() is None else None


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from([b"5", b"0", b"a", b"\r\n", b"hello", b"\n", b"\r", b";", b"x=y", b" ", b"0\r\n\r\n", b"5\r\nhello\r\n"]),
        max_size=8,
    ).map(b"".join)
)
def test_the_parser_refuses_no_less(data):
    """Differential: what is whole is so to the parser, but for the blanks of extensions and for trailers that it refuses; what is
    refused it refuses, but for some bare line feeds."""
    reader = Chunks(EXTRA_MAX)
    out = reader.feed(data)
    theirs = parsed(data)
    if reader.is_over and reader.fault is None:
        assert theirs == out or (theirs is None and (b" ;" in data or b"; " in data or not reader.is_exact)), data
    else:
        assert theirs is None or re.search(rb"(?<!\r)\n", data), data
