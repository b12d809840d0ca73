"""Seeds over HTTP: a list of any length, read no faster than the frontier admits it, acknowledged when it is committed.

Invariants: what was acknowledged is never lost; the rest can be sent again under the same name, and is continued where it
stopped. No upload holds more than a few blocks in memory, and one that stalls is ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import time
import zlib
from collections.abc import AsyncIterator, Iterator
from errno import ENOSPC, errorcode
from typing import Any, Final, TypeVar

import orjson
from aiohttp import hdrs, web

from crawler.core.batch import Admitted
from crawler.core.errors import ConfigError, StorageError
from crawler.core.snapshot import Pause
from crawler.core.urls import UrlRules
from crawler.parse.seed_files import GZIP, HEAD_BYTES, ZSTD, foreign
from crawler.parse.seeds import ARGV, Chunk, Lines
from crawler.service.api_errors import Problem
from crawler.service.steered import Steered

BLOCK_BYTES: Final = 16 << 10
"""Parsed at a time, some 300 URLs: about 2 ms of the loop."""
ERRORS_MAX: Final = 100
"""Invalid lines named in a response; the results have them all."""
STALL_S: Final = 60.0
UPLOAD_BYTES_MAX: Final = 64 << 30
UPLOADS_MAX: Final = 8
UNWRITTEN_S: Final = 20.0
"""How long a client waits while the disk, or the database, takes no writes."""
_NAME: Final = re.compile(r"[A-Za-z0-9._~-]{1,100}")
_TAG_CHARS_MAX: Final = 256
T = TypeVar("T")


class ReceivedLists:
    """The lists that are being received."""

    def __init__(self, crawl: Steered, rules: UrlRules) -> None:
        self._crawl = crawl
        self._rules = rules
        self._names: set[str] = set()
        self._left: set[asyncio.Task[None]] = set()

    async def post_seeds(self, request: web.Request) -> web.Response:
        """POST /v1/seeds"""
        name, tag, is_named = self._named(request)
        if Pause.DISK in self._crawl.pauses():
            raise _unwritten(self._crawl)
        if len(self._names) >= UPLOADS_MAX:
            raise Problem(503, f"{UPLOADS_MAX} lists are being received already; try again", headers={hdrs.RETRY_AFTER: "5"})
        if name in self._names:
            raise Problem(409, f"list {name} is being received already")
        self._names.add(name)
        async with contextlib.AsyncExitStack() as at_end:
            at_end.callback(self._names.discard, name)
            position = await self._crawl.position(name) if is_named else None
            upload = _Upload(self._crawl, Lines(name, self._rules, position, tag), is_named)
            # or the list, sent again at once, would begin before what is not committed yet
            try:
                await upload.receive(request)
            except _Unwritten:
                self._leave(upload, at_end.pop_all())
                raise
            except Exception:
                await upload.under_way()
                raise
        return web.Response(body=orjson.dumps({"list": name, **upload.summary()}), content_type="application/json")

    def _leave(self, upload: _Upload, at_end: contextlib.AsyncExitStack) -> None:
        """Its client is not kept waiting until there is room."""

        async def end() -> None:
            async with at_end:
                await upload.under_way()

        self._left.add(task := asyncio.create_task(end(), name="upload"))
        task.add_done_callback(self._left.discard)

    def _named(self, request: web.Request) -> tuple[str, str | None, bool]:
        """(list, tag, whether the client chose the list's name)"""
        if request.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() not in ("identity", "gzip", "x-gzip"):
            raise Problem(415, "send the list plain or gzip")
        tag = request.query.get("tag")
        if tag is not None and not 0 < len(tag) <= _TAG_CHARS_MAX:
            raise Problem(400, f"tag must have 1 to {_TAG_CHARS_MAX} characters")
        name = request.query.get("list")
        if name is None:
            return f"upload-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(4)}", tag, False
        if not _NAME.fullmatch(name) or name in (ARGV, "-", *self._crawl.config.input):
            raise Problem(
                400, "list must be 1 to 100 letters, digits or ._~- and not the name of a list the crawler reads itself"
            )
        return name, tag, True


class _Upload:
    def __init__(self, crawl: Steered, lines: Lines, is_named: bool) -> None:
        self._crawl = crawl
        self._lines = lines
        self._keep_position = is_named  # without a name it cannot be continued
        self._admitting: asyncio.Future[asyncio.Future[None]] | None = None
        self._committed: asyncio.Future[None] | None = None
        self._accepted = self._invalid = 0
        self._taken = 0
        """Lines up to the last chunk that was."""
        self._errors: list[dict[str, Any]] = []

    async def receive(self, request: web.Request) -> None:
        try:
            async for block in _blocks(request):
                await self._admit(block)
                await asyncio.sleep(0)  # what is packed tightly unpacks into many blocks: others have their turn between
            for chunk in self._lines.finish():
                await self._take(chunk)
        except ConfigError as error:
            await self._commit()
            raise Problem(409, str(error), **self.summary()) from None
        except TimeoutError:
            await self._commit()
            raise Problem(408, f"nothing came for {STALL_S:.0f} s; what is told here is committed", **self.summary()) from None
        except (zlib.error, EOFError) as error:
            await self._commit()
            raise Problem(400, f"not gzip, or not to its end: {error}", **self.summary()) from None
        await self._commit()

    async def _admit(self, block: bytes) -> None:
        for chunk in self._lines.feed(block):
            await self._take(chunk)

    async def _take(self, chunk: Chunk) -> None:
        if self._crawl.is_draining():
            await self._commit()
            told = self.summary() | {"lines": self._taken}
            raise Problem(503, "the crawler is ending; what is told here is committed", **told)
        self._accepted += len(chunk.links)
        self._invalid += len(chunk.faults)
        for fault in chunk.faults[: max(0, ERRORS_MAX - len(self._errors))]:
            self._errors.append({"line": fault.input.line, "text": fault.text[:200], "reason": fault.reason})
        position = chunk.position if self._keep_position else None
        if chunk.links or chunk.faults or position:
            admitted = Admitted(chunk.links, chunk.faults, position, extras=chunk.extras)
            self._admitting = asyncio.ensure_future(self._crawl.admit(admitted, self._committed))
            self._committed = await self._unless_unwritten(self._admitting)
        self._taken = self._lines.line

    async def _commit(self) -> None:
        """Batches are committed in order: with the last chunk all are."""
        if self._committed is not None:
            await self._unless_unwritten(self._committed)

    async def _unless_unwritten(self, done: asyncio.Future[T]) -> T:
        """Its result. _Unwritten: it waits for room on the disk, or for the database, and goes on waiting."""
        while not (await asyncio.wait([done], timeout=UNWRITTEN_S))[0]:
            if not {Pause.DISK, Pause.DATABASE}.isdisjoint(self._crawl.pauses()):
                raise _unwritten(self._crawl)
        return done.result()

    async def under_way(self) -> None:
        """Until what was taken is committed, or lost."""
        with contextlib.suppress(StorageError):
            if self._admitting is not None:
                await (await self._admitting)

    def summary(self) -> dict[str, Any]:
        return {
            "lines": self._lines.line,
            "accepted": self._accepted,
            "invalid": self._invalid,
            "errors": self._errors,
        }


class _Unwritten(Problem):
    """Nothing can be committed just now; what was taken of the list will be."""


def _unwritten(crawl: Steered) -> _Unwritten:
    """Exit code 3 of the commands, where it is the disk."""
    if Pause.DISK in crawl.pauses():
        what, more = f"the disk of {crawl.config.output} takes no writes: make room there", {"errno": errorcode[ENOSPC]}
    else:
        what, more = "the database takes no writes", {}
    detail = f"{what}, then send the list again; nothing of it is acknowledged"
    return _Unwritten(503, detail, headers={hdrs.RETRY_AFTER: "15"}, **more)


async def _blocks(request: web.Request) -> AsyncIterator[bytes]:
    """The list, unpacked if it begins like gzip, in blocks of bounded size. TimeoutError: the client stalls."""
    data = b""
    while len(data) < HEAD_BYTES and (more := await _read(request)):
        data += more
    _refuse_foreign(data)
    unpack = _Gunzip() if data.startswith(GZIP) else None
    left = UPLOAD_BYTES_MAX
    while data:
        for block in (data,) if unpack is None else unpack.feed(data):
            left -= len(block)
            if left < 0:
                raise Problem(413, f"a list may have {UPLOAD_BYTES_MAX >> 30} GiB; send it in parts")
            yield block
        data = await _read(request)
    if unpack is not None:
        unpack.finish()


def _refuse_foreign(head: bytes) -> None:
    """Not a line of it could be read, and each would be written down as an invalid one."""
    if head.startswith(ZSTD):
        raise Problem(415, "the list is compressed with zstd: send it plain or gzip (zstdcat FILE | crawler add -i -)")
    if what := foreign(head, "gzip is"):
        raise Problem(415, f"the list cannot be read: {what}")


async def _read(request: web.Request) -> bytes:
    async with asyncio.timeout(STALL_S):
        return await request.content.read(BLOCK_BYTES)


class _Gunzip:
    """gzip of any number of members, unpacked in blocks."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(31)
        self._inside = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        while True:
            if not self._inside:
                data = data.lstrip(b"\0")  # padding
                self._inside = bool(data)
            block = self._member.decompress(data, BLOCK_BYTES)
            data = self._member.unconsumed_tail
            if self._member.eof:
                data = self._member.unused_data
                self._member, self._inside = zlib.decompressobj(31), False
            if block:
                yield block
            if not data and len(block) < BLOCK_BYTES:
                return

    def finish(self) -> None:
        if self._inside:
            raise EOFError("it is cut")
