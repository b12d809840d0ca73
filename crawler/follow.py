"""Results and bodies over HTTP, streamed: readers that may be slow, gone for weeks, or back after a restart.

The law: a cursor stands behind a row that was committed, so it is good for ever; a reader stops at the mark. A stream
holds one piece in memory, whatever it streams.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from aiohttp import web
from msgspec import Struct

from crawler.archive.reader import open_body
from crawler.crawl import Crawl
from crawler.errors import StorageError
from crawler.marked import length_of, missing, storing
from crawler.model import Known, Mark
from crawler.problems import Problem
from crawler.results import ROW_BYTES_MAX, number_of

PAGE_BYTES: Final = 1 << 20
"""Rows of one answer, as far as rows end."""
PIECE_BYTES: Final = 64 << 10
WAIT_S_MAX: Final = 60.0
_LOOK_EVERY_S: Final = 0.25
_CURSOR: Final = re.compile(r"(\d{1,9})-(\d{1,18})")
NEXT: Final = "Next-Cursor"


class Page(Struct, frozen=True):
    """Rows from ``offset`` to ``end`` of the results file ``number``; ``path`` is None where there are none."""

    number: int
    offset: int
    end: int
    path: Path | None = None


async def get_results(crawl: Crawl, root: Path, request: web.Request) -> web.StreamResponse:
    """GET /v1/results"""
    cursor = _cursor(request.query.get("cursor", "0-0"))
    page = await _page(crawl, root, cursor, _wait(request))
    headers = {NEXT: f"{page.number}-{page.end}", "Cache-Control": "no-store"}
    if page.path is None:
        return web.Response(content_type="application/x-ndjson", headers=headers)
    response = web.StreamResponse(headers={**headers, "Content-Type": "application/x-ndjson"})
    response.content_length = page.end - page.offset
    with page.path.open("rb") as file:
        file.seek(page.offset)
        left = page.end - page.offset

        def read() -> bytes:
            nonlocal left
            piece = file.read(min(left, PIECE_BYTES))
            left -= len(piece)
            return piece

        return await _stream(request, response, read)


async def _page(crawl: Crawl, root: Path, cursor: tuple[int, int], wait_s: float) -> Page:
    """What comes behind the cursor, as soon as there is something, or nothing after ``wait_s``."""
    clock = asyncio.get_running_loop().time
    until = clock() + wait_s
    seen = -1.0
    while True:
        if crawl.frontier.committed_at != seen:
            seen = crawl.frontier.committed_at
            marks = await crawl.frontier.ask(crawl.parts.store.marks)
            page = await asyncio.to_thread(page_behind, root, marks, cursor)
        if page.path is not None or crawl.frontier.draining or clock() >= until:
            return page
        await asyncio.sleep(_LOOK_EVERY_S)


def page_behind(root: Path, marks: Mapping[str, Mark], cursor: tuple[int, int]) -> Page:
    """The rows that come next, at most PAGE_BYTES of them or one. Problem: the cursor was never given out."""
    number, offset = cursor
    numbers = {number_of(key): key for key in marks if key.startswith("results/")}
    if number not in numbers and cursor != (0, 0):
        raise Problem(400, "there is no such cursor")
    for at in sorted(each for each in numbers if each >= number):
        mark = marks[numbers[at]]
        start = offset if at == number else 0
        if start > mark.length:
            raise Problem(400, "there is no such cursor")
        if mark.retired or (start == mark.length and mark.closed):
            continue
        if start == mark.length:
            return Page(at, start, start)
        path = root / numbers[at]
        if length_of(path) < mark.length:
            raise missing(path, mark.length)
        return Page(at, start, _last_row_end(path, start, mark.length), path)
    last = max(numbers, default=0)
    return Page(last, marks[numbers[last]].length if numbers else 0, marks[numbers[last]].length if numbers else 0)


def _last_row_end(path: Path, start: int, mark: int) -> int:
    """Where the last row ends that is wholly within a page from ``start``; the first row's end where it is longer."""
    with storing(path), path.open("rb") as file:
        if start:
            file.seek(start - 1)
            if file.read(1) != b"\n":
                raise Problem(400, "there is no such cursor")
        end = min(mark, start + PAGE_BYTES)
        while end > start:
            begin = max(start, end - PIECE_BYTES)
            file.seek(begin)
            at = file.read(end - begin).rfind(b"\n")
            if at >= 0:
                return begin + at + 1
            end = begin
        file.seek(start)
        row = file.readline(min(mark - start, ROW_BYTES_MAX))
    if not row.endswith(b"\n"):
        raise StorageError(f"{path}: the row at {start} does not end", final=True)
    return start + len(row)


def _cursor(text: str) -> tuple[int, int]:
    match = _CURSOR.fullmatch(text)
    if match is None:
        raise Problem(400, f"cursor must be what an earlier answer gave as {NEXT}")
    return int(match[1]), int(match[2])


def _wait(request: web.Request) -> float:
    text = request.query.get("wait", "0")
    if not (text.isascii() and text.isdigit() and len(text) <= 3 and int(text) <= WAIT_S_MAX):
        raise Problem(400, f"wait must be a whole number of seconds, at most {WAIT_S_MAX:.0f}")
    return float(text)


async def get_body(crawl: Crawl, root: Path, url: str, request: web.Request) -> web.StreamResponse:
    """GET /v1/body"""
    raw = request.query.get("raw", "false")
    if raw not in ("true", "false"):
        raise Problem(400, "raw must be true or false")
    known = await crawl.frontier.ask(crawl.parts.store.lookup, url)
    if not isinstance(known, Known):
        raise Problem(404, "this URL has not been fetched", state=known or "unknown")
    if known.archive is None:
        raise Problem(404, "no body was kept of this URL", outcome=known.outcome)
    body = await asyncio.to_thread(open_body, root, known.archive, raw=raw == "true")
    # it is somebody else's: a browser must neither show it nor run it
    headers = {
        "Content-Type": "application/octet-stream",
        "Content-Disposition": "attachment",
        "Content-Security-Policy": "sandbox",
        "X-Content-Type-Options": "nosniff",
    }
    with body:
        return await _stream(request, web.StreamResponse(headers=headers), lambda: body.read(PIECE_BYTES))


async def _stream(request: web.Request, response: web.StreamResponse, read: Callable[[], bytes]) -> web.StreamResponse:
    """Piece by piece, no faster than the client takes them. What fails midway cuts the connection: the answer has begun."""
    piece = await asyncio.to_thread(read)
    await response.prepare(request)
    try:
        while piece:
            await response.write(piece)
            piece = await asyncio.to_thread(read)
    except (StorageError, OSError) as error:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError(str(error)) from error
    await response.write_eof()
    return response
