"""Streams results and bodies over HTTP, to readers that may be slow, gone for weeks, or back after a restart.

Invariants: a cursor stands behind a committed row, so it never expires; a reader stops at the mark. A stream holds one
piece in memory, whatever it streams.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Set
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Final, get_args

import orjson
from aiohttp import hdrs, web
from msgspec import Struct

from crawler.core.durable import is_there, length_of, missing, storing
from crawler.core.errors import FetchError, StorageError
from crawler.core.model import KINDS, Known, Mark, OutcomeName
from crawler.core.urls import host_key
from crawler.output.archive import decoder_bytes, is_gone, open_body
from crawler.output.file_names import WHOLE, folder_of, number_of, part_of, part_prefix
from crawler.output.results import ROW_BYTES_MAX, Row
from crawler.resources.memory_budget import Account, Reservation
from crawler.service.api_errors import Problem, host_named
from crawler.service.listener import Handler
from crawler.service.steered import Steered

ROWS_BYTES: Final = 1 << 20
"""Of one response, cut where a row ends."""
PIECE_BYTES: Final = 16 << 10
STREAMS_MAX: Final = 24
"""At a time, of some 110 KiB each: what is on its way to a client that does not read. Others wait."""
DECODERS_BYTES: Final = 40 << 20
"""Of bodies that are being decoded for clients: the windows of two by brotli, or of four by zstd."""
DECODED_FREE_BYTES: Final = 256 << 10
"""A decoder touches no more of its window than has come out of it: ordinary pages need not wait for another's."""
LARGE_MAX: Final = 2
"""At a time, of one kind of responses that are made whole and may be as large as that of 1,000 long tags: 1 MiB."""
SLOT_S: Final = 30.0
SLOW_S: Final = 30.0
RATE_MIN: Final = 16 << 10
"""Bytes per second; a client that takes less for longer than SLOW_S is cut off, and may come back with its cursor."""
WAIT_S_MAX: Final = 60.0
_LOOK_EVERY_S: Final = 0.25
_CURSOR: Final = re.compile(r"(?:p(\d{2,10})-)?(\d{1,9})-(\d{1,18})")
NEXT: Final = "Next-Cursor"
FOLDER: Final = "results/"


Cursor = dict[int, tuple[int, int]]
"""How far the rows of each part of a crawl were read: (number of the results file, offset). A crawl that is not divided is one
part, WHOLE; of a part that is not in it nothing was read."""


class RowRange(Struct, frozen=True):
    """Rows of one part from ``offset`` to ``end`` of the results file ``number``; ``path`` is None where there are none."""

    number: int
    offset: int
    end: int
    path: Path | None = None
    part: int = WHOLE
    backlog: int = 0
    """Bytes from ``offset`` on, also of later files."""


class Follow:
    """The readers of one crawl in ``root``."""

    def __init__(self, crawl: Steered, root: Path) -> None:
        self._crawl, self._root = crawl, root
        self._slots = asyncio.Semaphore(STREAMS_MAX)
        self._decoders = Account("decoders", DECODERS_BYTES)

    async def get_results(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/results"""
        wanted = wanted_rows(request)
        cursor = _cursor(request.query.get("cursor", "0-0"))
        rows = await self._rows(request, cursor, _wait(request))
        behind = _text(cursor | {rows.part: (rows.number, rows.end)})
        headers = {NEXT: behind, "Cache-Control": "no-store", "Content-Type": "application/x-ndjson"}
        response = web.StreamResponse(headers=headers)
        left = rows.end - rows.offset
        if wanted is None:
            response.content_length = left
        if rows.path is None:
            return web.Response(headers=headers)
        try:
            file = rows.path.open("rb", buffering=0)
        except FileNotFoundError:
            raise Problem(503, "these rows are being retired; try again", headers={"Retry-After": "1"}) from None
        with file:
            file.seek(rows.offset)

            def read() -> bytes:
                nonlocal left
                piece = file.read(min(left, PIECE_BYTES))
                left -= len(piece)
                return piece

            return await self._stream(request, response, read if wanted is None else partial(_some, read, wanted, bytearray()))

    async def get_body(self, url: str, request: web.Request) -> web.StreamResponse:
        """GET /v1/body"""
        raw = request.query.get("raw", "false")
        if raw not in ("true", "false"):
            raise Problem(400, "raw must be true or false")
        known = await self._crawl.lookup(url)
        if not isinstance(known, Known):
            raise Problem(404, "this URL has not been fetched", state=known or "unknown")
        if known.archive is None:
            raise Problem(404, "no body was kept of this URL", outcome=known.outcome)
        marks = await self._crawl.marks(folder_of(known.archive.file))
        if await asyncio.to_thread(is_gone, self._root, marks, known.archive.file):
            raise Problem(410, f"the body of this URL is no longer kept: {known.archive.file} was retired", outcome=known.outcome)
        if self._crawl.config.cluster is not None and not await asyncio.to_thread(is_there, self._root / known.archive.file):
            raise Problem(404, f"the body is on the node that fetched it, in {known.archive.file}", outcome=known.outcome)
        # a foreign document: a browser must neither show nor run it
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Disposition": "attachment",
            "Content-Security-Policy": "sandbox",
            "X-Content-Type-Options": "nosniff",
        }
        with await asyncio.to_thread(open_body, self._root, known.archive, raw=raw == "true") as body:
            if (needed := decoder_bytes(body)) > DECODERS_BYTES:
                raise Problem(422, "it takes too much memory to undo its content codings: ask for it as it is kept (raw=true)")
            return await self._stream(request, web.StreamResponse(headers=headers), lambda: body.read(PIECE_BYTES), needed)

    async def _rows(self, request: web.Request, cursor: Cursor, wait_s: float) -> RowRange:
        """What comes behind the cursor, as soon as there is something, or nothing after ``wait_s``; or once the client has gone,
        whose connection counts until its request ends."""
        crawl, clock = self._crawl, asyncio.get_running_loop().time
        until = clock() + wait_s
        seen: object = None
        while True:
            if seen is None or crawl.commits() != seen:
                seen = crawl.commits()
                rows = await asyncio.to_thread(rows_behind, self._root, await crawl.marks(FOLDER), cursor)
            if rows.path is not None or crawl.is_draining() or clock() >= until or request.transport is None:
                return rows
            await asyncio.sleep(_LOOK_EVERY_S)

    def few_at_a_time(self, handler: Handler) -> Handler:
        """Its responses, which may be large, are made and sent within slots of their own."""
        slots = asyncio.Semaphore(LARGE_MAX)

        async def limited(request: web.Request) -> web.StreamResponse:
            async with _slot(slots):
                made = await handler(request)
                assert isinstance(made, web.Response) and isinstance(made.body, bytes)
                response = web.StreamResponse(status=made.status, headers=made.headers)
                response.content_length = len(made.body)
                body = BytesIO(made.body)

                async def read() -> bytes:
                    return body.read(PIECE_BYTES)

                return await self._send(request, response, read)

        return limited

    async def _stream(
        self, request: web.Request, response: web.StreamResponse, read: Callable[[], bytes], decoder_bytes: int = 0
    ) -> web.StreamResponse:
        async with _slot(self._slots):
            return await self._send(request, response, partial(asyncio.to_thread, read), decoder_bytes)

    async def _send(
        self, request: web.Request, response: web.StreamResponse, read: Callable[[], Awaitable[bytes]], decoder_bytes: int = 0
    ) -> web.StreamResponse:
        """Piece by piece, no faster than the client takes them. What fails midway, or is taken too slowly, cuts the
        connection: the response has begun. So does a decoder for which there is no room in time."""
        decoder: Reservation | None = None
        left = DECODED_FREE_BYTES
        try:
            piece = await read()
            if request.transport is not None:
                request.transport.set_write_buffer_limits(PIECE_BYTES)
            await response.prepare(request)
            async with asyncio.timeout(SLOW_S) as deadline:
                while piece and request.method != hdrs.METH_HEAD:
                    await response.write(piece)
                    deadline.reschedule((deadline.when() or 0.0) + len(piece) / RATE_MIN)
                    left -= len(piece)
                    if left < 0 and decoder_bytes and decoder is None:
                        decoder = await self._decoders.take(decoder_bytes)
                    piece = await read()
                await response.write_eof()
        except ConnectionError:
            pass  # the client has gone
        except (StorageError, OSError):  # a TimeoutError is an OSError
            if not response.prepared:
                raise
            if request.transport is not None:
                request.transport.abort()
        finally:
            if decoder is not None:
                decoder.release()
        return response


@contextlib.asynccontextmanager
async def _slot(slots: asyncio.Semaphore) -> AsyncIterator[None]:
    """Problem: none is free in time."""
    try:
        async with asyncio.timeout(SLOT_S):
            await slots.acquire()
    except TimeoutError:
        raise Problem(503, "too many are reading; try again", headers={"Retry-After": "5"}) from None
    try:
        yield
    finally:
        slots.release()


def wanted_rows(request: web.Request) -> Callable[[Row], bool] | None:
    """Which rows a reader wants; None: all. Each filter is names with commas between them, and may be given again. Problem: there
    are none such."""
    tests: list[Callable[[Row], bool]] = []
    for name, (known, value_of) in _FILTERS.items():
        if name not in request.query:
            continue
        names = frozenset(",".join(request.query.getall(name)).split(","))
        if "" in names:
            raise Problem(400, f"{name} must be names with commas between them")
        if known and (unknown := sorted(names - known)):
            raise Problem(400, f"there is no {name} {unknown[0]!r}; known are {', '.join(sorted(known))}")
        if name == "host":
            names = frozenset(map(_host, names))
        if name == "status" and not all(each.isascii() and each.isdigit() for each in names):
            raise Problem(400, "status must be HTTP statuses with commas between them")
        tests.append(partial(_is_among, value_of, names))
    return (lambda row: all(test(row) for test in tests)) if tests else None


def _host(text: str) -> str:
    try:
        return host_named(text)
    except (FetchError, ValueError):
        raise Problem(400, f"{text!r} is no host") from None


def _is_among(value_of: Callable[[Row], object], names: frozenset[str], row: Row) -> bool:
    value = value_of(row)
    return value is not None and str(value) in names


_FILTERS: Final[Mapping[str, tuple[Set[str], Callable[[Row], object]]]] = {
    "outcome": (frozenset(get_args(OutcomeName)), lambda row: row["outcome"]),
    "reason": (frozenset(), lambda row: row["reason"]),
    "kind": (frozenset(KINDS), lambda row: row["kind"]),
    "status": (frozenset(), lambda row: row["status"]),
    "tag": (frozenset(), lambda row: row["tag"]),
    "host": (frozenset(), lambda row: host_key(row["canonical"]) if row["canonical"] else None),
    "list": (frozenset(), lambda row: row["input"] and row["input"]["list"]),
}
FILTERS: Final = tuple(_FILTERS)


def _some(read: Callable[[], bytes], is_wanted: Callable[[Row], bool], held: bytearray) -> bytes:
    """The next rows that are wanted; nothing if there are no more. ``held`` is the beginning of a row. In a thread."""
    while piece := read():
        held += piece
        end = held.rfind(b"\n") + 1
        found = [line for line in bytes(held[:end]).splitlines(keepends=True) if is_wanted(orjson.loads(line))]
        del held[:end]
        if found:
            return b"".join(found)
    return b""


def rows_behind(root: Path, marks: Mapping[str, Mark], cursor: Cursor) -> RowRange:
    """The rows that come next, at most ROWS_BYTES of them or one: of the part that has most. Problem: the cursor was never given
    out."""
    parts: dict[int, dict[int, str]] = {}
    for file in marks:
        if file.startswith(FOLDER):
            parts.setdefault(part_of(file), {})[number_of(file)] = file
    for part in cursor:
        if cursor[part] != (0, 0) and part not in parts:
            raise Problem(400, "there is no such cursor")
    found = [_behind(root, marks, part, parts[part], cursor.get(part, (0, 0))) for part in sorted(parts)]
    return max(found, key=lambda rows: rows.backlog, default=RowRange(0, 0, 0, part=min(cursor, default=WHOLE)))


def _behind(root: Path, marks: Mapping[str, Mark], part: int, files: Mapping[int, str], cursor: tuple[int, int]) -> RowRange:
    """The same of the results files of one part, by number."""
    number, offset = cursor
    if number > max(files):
        raise Problem(400, "there is no such cursor")
    ahead = sorted(each for each in files if each >= number)
    backlog = sum(marks[files[at]].length for at in ahead if not marks[files[at]].retired)
    for at in ahead:
        mark = marks[files[at]]
        start = offset if at == number else 0
        if mark.retired:
            continue
        if start > mark.length:
            raise Problem(400, "there is no such cursor")
        if start == mark.length:
            backlog -= start
            if mark.closed:
                continue
            return RowRange(at, start, start, part=part)
        path = root / files[at]
        if length_of(path) < mark.length:
            raise missing(path, mark.length, full=mark.closed)
        return RowRange(at, start, _last_row_end(path, start, mark.length), path, part, backlog - start)
    length = marks[files[max(files)]].length
    return RowRange(max(files), length, length, part=part)


def _last_row_end(path: Path, start: int, mark: int) -> int:
    """Where the last row ends that is wholly within ROWS_BYTES from ``start``; the first row's end where it is longer."""
    with storing(path), path.open("rb") as file:
        if start:
            file.seek(start - 1)
            if file.read(1) != b"\n":
                raise Problem(400, "there is no such cursor")
        end = min(mark, start + ROWS_BYTES)
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


def _cursor(text: str) -> Cursor:
    cursor: Cursor = {}
    for word in text.split("."):
        match = _CURSOR.fullmatch(word)
        part = int(match[1]) if match is not None and match[1] else WHOLE
        if match is None or part in cursor:
            raise Problem(400, f"cursor must be what an earlier response gave as {NEXT}")
        cursor[part] = int(match[2]), int(match[3])
    return cursor


def _text(cursor: Cursor) -> str:
    """As ``_cursor`` reads it."""
    begun = {part: place for part, place in cursor.items() if place != (0, 0)} or {WHOLE: (0, 0)}
    return ".".join(f"{part_prefix(part, '-')}{number}-{offset}" for part, (number, offset) in sorted(begun.items()))


def _wait(request: web.Request) -> float:
    text = request.query.get("wait", "0")
    if not (text.isascii() and text.isdigit() and len(text) <= 3 and int(text) <= WAIT_S_MAX):
        raise Problem(400, f"wait must be a whole number of seconds, at most {WAIT_S_MAX:.0f}")
    return float(text)
