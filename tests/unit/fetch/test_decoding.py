"""Small bodies decoded in one step: nothing of a page is another than by the long way."""

from __future__ import annotations

import gzip
import random
import zlib
from pathlib import Path
from typing import Any

import brotli
import pytest
from support.pages import page_of

from crawler.core.content_coding import PIECE_BYTES, zstd
from crawler.core.errors import FetchError
from crawler.core.page import MEMORY_BYTES_MAX, Body
from crawler.fetch import decoding
from crawler.fetch.decoding import Finisher
from crawler.resources.memory_plan import BODY_CHUNK_BYTES

ENCODE = {"gzip": gzip.compress, "deflate": zlib.compress, "br": brotli.compress, "zstd": zstd.compress}
SIZES = (0, 1, 5000, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1)


def coded(rnd: random.Random) -> tuple[str, bytes]:
    """A body and its coding: whole, cut, with a tail, doubled, or damaged."""
    coding = rnd.choice(list(ENCODE))
    size = rnd.choice(SIZES)
    plain = rnd.choice([rnd.randbytes(size), bytes(size), (b"<!doctype html><p>word " * (size // 20 + 1))[:size]])
    data = ENCODE[coding](plain)
    spoilt = bytearray(data)
    if spoilt:
        spoilt[rnd.randrange(len(spoilt))] ^= 1 << rnd.randrange(8)
    return coding, rnd.choice(
        [data, data, data[: rnd.randrange(len(data) + 1)], data + rnd.randbytes(3), data * 2, bytes(spoilt)]
    )


@pytest.mark.parametrize("decode_body", [False, True])
@pytest.mark.parametrize("memory_bytes", [MEMORY_BYTES_MAX, 2 * MEMORY_BYTES_MAX])
async def test_a_page_is_the_same_however_it_is_decoded(tmp_path: Path, monkeypatch, decode_body, memory_bytes):
    rnd = random.Random(1)
    in_one_step = 0

    async def finished(data: bytes, coding: str, limit: int, fault: FetchError | None) -> tuple[Any, ...]:
        nonlocal in_one_step
        page = page_of(tmp_path, b"", fault=fault)
        page.body = Body(tmp_path, memory_bytes)
        page.body.write(data)
        page.body.seal()
        finisher = Finisher(tmp_path, decode_body=decode_body, ratio_max=100, codings_max=2)
        await finisher.finish(page, (coding,), limit)
        in_one_step += page.plain is not None
        assert page.memory_bytes <= memory_bytes + BODY_CHUNK_BYTES, "as each visit reserves"
        ended = page.fault.reason if page.fault is not None else None
        body = page.body.sha256, page.body.sha1, b"".join(page.body.chunks()), await finisher.decoded(page, limit)
        page.body.discard()
        return ended, page.truncated, page.bytes_decoded, page.sniffed, page.coding, *body

    for _ in range(400):
        coding, data = coded(rnd)
        limit, fault = rnd.choice([0, 4999, PIECE_BYTES, 1 << 20]), rnd.choice([None, None, FetchError("chunked")])
        found = await finished(data, coding, limit, fault)
        with monkeypatch.context() as patch:
            patch.setattr(decoding, "whole", lambda data, coding: None)
            assert found == await finished(data, coding, limit, fault), (coding, limit, fault, data[:40])
    assert in_one_step > 60 or decode_body
