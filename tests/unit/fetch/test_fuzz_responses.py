"""Answers cut into pieces anywhere, and answers with bytes changed: one fetcher takes them all and no good page suffers."""

from __future__ import annotations

import asyncio
import gzip
import random
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import uvloop
from support.hostile import end_of, fetching
from support.sinful import Conn, Script, Site, head, page, running, stay

from crawler.core.errors import OUTCOME_OF

CASES = 300
AT_ONCE = 12
BODY = page(1, 5000)
ZIPPED = gzip.compress(BODY)
ENDINGS = {None, *OUTCOME_OF}


def chunked(rng: random.Random, body: bytes) -> bytes:
    parts = []
    while body:
        n = rng.randint(1, 2000)
        parts.append(b"%x\r\n%s\r\n" % (len(body[:n]), body[:n]))
        body = body[n:]
    return b"".join(parts) + b"0\r\n\r\n"


def answers(rng: random.Random) -> list[tuple[bytes, bool]]:
    """(whole answers to the same page in every framing, whether the connection may be kept)"""
    te = "Transfer-Encoding: chunked"
    return [
        (head(len(BODY)) + BODY, True),
        (head(None, te) + chunked(rng, BODY), True),
        (head(len(ZIPPED), "Content-Encoding: gzip") + ZIPPED, True),
        (head(None, te, "Content-Encoding: gzip") + chunked(rng, ZIPPED), True),
        (b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + head(len(BODY)) + BODY, True),
        (head(None, "Connection: close") + BODY, False),
    ]


def in_pieces(rng: random.Random, data: bytes) -> Script:
    cuts = sorted(rng.sample(range(1, len(data)), rng.randint(0, 6)))
    pieces = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    return [step for piece in pieces for step in (piece, 0.0)]


def spoilt(rng: random.Random, data: bytes) -> bytes:
    """Some bytes changed, left out, put in, repeated; mostly in the head."""
    spoilt = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(min(len(spoilt), rng.choice((120, 120, 400, 10_000))))
        match rng.randrange(5):
            case 0:
                spoilt[at] = rng.randrange(256)
            case 1:
                del spoilt[at : at + rng.randint(1, 30)]
            case 2:
                spoilt[at:at] = rng.choice((b"\r\n", b"\n", b"\0", b":", b"\r\n\r\n", b"0", rng.randbytes(5)))
            case 3:
                spoilt[at:at] = spoilt[at : at + rng.randint(1, 60)]
            case 4:
                spoilt[at:at] = head(3) + b"abc"
    return bytes(spoilt)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with running(Site()) as site:
        yield site


async def all_of(scripts: list[Script], site: Site, tmp: Path, lean: bool) -> list[tuple[str, str | None, bytes]]:
    """The ends of each script's page, by one fetcher; after each a good page of the same host, which must be right."""
    done = [threading.Event() for _ in scripts]
    site.scripts.update({f"{n}": [_telling(script, done[n])] for n, script in enumerate(scripts)})
    at_once = asyncio.Semaphore(AT_ONCE)
    limits = {"first_byte_timeout": 20.0, "read_timeout": 20.0, "max_body": 1 << 20}

    async def one(n: int) -> tuple[str, str | None, bytes]:
        origin = f"http://n{n}.localhost:{site.ports['http']}"
        async with at_once:
            end = await end_of(fetcher, f"{origin}/sin/{n}")
            while not done[n].is_set():  # what comes after the next request was written cannot be told from its answer
                await asyncio.sleep(0.01)
            assert await end_of(fetcher, f"{origin}/good/{n}?bytes=300") == ("ok", None, page(n, 300))
            return end

    async with fetching(tmp, site, lean=lean, **limits) as fetcher:
        ends = await asyncio.gather(*(one(n) for n in range(len(scripts))))
        assert fetcher.stats().connections_acquired == 0
    assert list(tmp.iterdir()) == []
    return ends


def _telling(script: Script, done: threading.Event) -> Callable[[Conn], Awaitable[None]]:
    async def play(conn: Conn) -> None:
        try:
            await conn.play(script)
        finally:
            done.set()

    return play


def run(scripts: list[Script], site: Site, tmp: Path, lean: bool) -> list[tuple[str, str | None, bytes]]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(all_of(scripts, site, tmp, lean))


@pytest.mark.parametrize("lean", [True, False])
def test_an_answer_may_come_in_any_pieces(site: Site, tmp_path: Path, lean: bool) -> None:
    rng = random.Random(7)
    whole = [answer for _ in range(CASES // 6) for answer in answers(rng)]
    scripts: list[Script] = [[*in_pieces(rng, data), *([stay] if kept else [])] for data, kept in whole]
    for (data, _), end in zip(whole, run(scripts, site, tmp_path, lean), strict=True):
        assert end == ("ok", None, ZIPPED if b"gzip" in data[:200] else BODY)


def with_line_feeds(answer: bytes) -> bytes:
    """The last head's line ends without their returns."""
    start, end = answer.rindex(b"HTTP/1.1 200"), answer.index(b"\r\n\r\n", answer.rindex(b"HTTP/1.1 200")) + 4
    return answer[:start] + answer[start:end].replace(b"\r\n", b"\n") + answer[end:]


def test_pieces_change_nothing_of_how_an_answer_ends(site: Site, tmp_path: Path) -> None:
    rng = random.Random(11)
    whole = []
    for _ in range(CASES // 2):
        answer = rng.choice(answers(rng))[0]
        whole.append(spoilt(rng, with_line_feeds(answer) if rng.random() < 0.5 else answer) + rng.choice((b"", b"\r\n", b"more")))
    pieces: list[Script] = [in_pieces(rng, data) for data in whole]
    ends = run([*([data] for data in whole), *pieces], site, tmp_path, lean=True)
    for data, one, other in zip(whole, ends, ends[len(whole) :], strict=False):
        assert one[:2] == other[:2], data[:200]
        assert one[0] != "ok" or one[2] == other[2], data[:200]


@pytest.mark.parametrize("lean", [True, False])
@pytest.mark.parametrize("seed", [1, 2])
def test_an_answer_that_is_spoilt_ends_in_one_of_the_known_ways(site: Site, tmp_path: Path, seed: int, lean: bool) -> None:
    rng = random.Random(seed)
    scripts: list[Script] = [in_pieces(rng, spoilt(rng, rng.choice(answers(rng))[0])) for _ in range(CASES)]
    for outcome, reason, _ in run(scripts, site, tmp_path, lean):
        assert reason in ENDINGS
        assert reason is None or outcome == OUTCOME_OF[reason]
