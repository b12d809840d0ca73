"""The last step of a fetch: prove that the body's content codings are whole, undo them if asked to, tell what it is.

The law: a body whose coding is cut, corrupt or explosive never leaves here without a fault; while it decodes, the loop
goes on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from crawler.core.content_coding import bounded, decoded
from crawler.core.errors import FetchError
from crawler.core.page import Body, Page
from crawler.core.sniff import PREFIX_BYTES, sniff

DECODERS_MAX: Final = 4
"""Bodies decoded at a time: a brotli window alone may be 16 MiB."""
TURN_S: Final = 0.005
"""Time after which others have a turn."""


class Finisher:
    """``decode_body``: the page's body is replaced by its decoded form, spooled in ``tmp``."""

    def __init__(self, tmp: Path, *, decode_body: bool, ratio_max: float, codings_max: int) -> None:
        self._tmp = tmp
        self._decode_body = decode_body
        self._ratio_max = ratio_max
        self._codings_max = codings_max
        self._turns = asyncio.Semaphore(DECODERS_MAX)

    async def finish(self, page: Page, codings: tuple[str, ...], limit: int) -> None:
        """Complete a page whose body is sealed. ``limit``: most bytes it may decode to. Raises StorageError."""
        if not codings:
            page.bytes_decoded = page.body.size
            page.sniffed = sniff(page.body.prefix(PREFIX_BYTES), page.mime)
            return
        page.coding = ", ".join(codings)
        if len(codings) > self._codings_max:
            page.fault = page.fault or FetchError("content_coding", f"{len(codings)} codings")
            return
        target = Body(self._tmp) if self._decode_body else None
        try:
            await self._prove(page, codings, limit, target)
        except BaseException:
            if target is not None:
                target.discard()
            raise
        if target is not None:
            target.seal()
            page.body.discard()
            page.body = target
            page.coding = None

    async def _prove(self, page: Page, codings: tuple[str, ...], limit: int, target: Body | None) -> None:
        prefix = bytearray()
        size = 0

        def take(piece: bytes) -> None:
            nonlocal size
            if len(prefix) < PREFIX_BYTES:
                prefix.extend(piece[: PREFIX_BYTES - len(prefix)])
            size += len(piece)
            if target is not None:
                target.write(piece)

        pieces = decoded(page.body.chunks(), codings)
        pieces = bounded(pieces, wire_bytes=page.body.size, decoded_bytes_max=limit, ratio_max=self._ratio_max)
        try:
            await self._each(pieces, take)
        except FetchError as error:
            if page.fault is None:  # else the body is known to be cut, and its coding with it
                page.fault = error
                if target is not None:
                    page.truncated = "length" if error.reason in ("max_decoded", "decode_ratio") else "disconnect"
        page.bytes_decoded = size
        page.sniffed = sniff(bytes(prefix), page.mime)

    async def decoded(self, page: Page, limit: int) -> bytes:
        """The first ``limit`` bytes of a page's body with its codings undone, as far as they can be. Raises StorageError."""
        if page.coding is None:
            return page.body.prefix(limit)
        parts: list[bytes] = []
        await self._undo(page, limit, parts.append)
        return b"".join(parts)

    async def unpacked(self, page: Page, limit: int) -> Body:
        """The same as a body of its own, which the caller discards."""
        body = Body(self._tmp)
        try:
            await self._undo(page, limit, body.write)
            body.seal()
        except BaseException:
            body.discard()
            raise
        return body

    async def _undo(self, page: Page, limit: int, take: Callable[[bytes], object]) -> None:
        codings = tuple(page.coding.split(", ")) if page.coding else ()
        if len(codings) <= self._codings_max:
            with suppress(FetchError):  # then it is what could be decoded before the fault
                await self._each(_first(limit, decoded(page.body.chunks(), codings)), take)

    async def _each(self, pieces: Iterator[bytes], take: Callable[[bytes], object]) -> None:
        """Hand on every piece. Few do so at a time, and others have a turn in between."""
        async with self._turns:
            turn = time.monotonic()
            for piece in pieces:
                take(piece)
                if time.monotonic() - turn > TURN_S:
                    await asyncio.sleep(0)
                    turn = time.monotonic()


def _first(n: int, pieces: Iterator[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        yield piece[:n]
        n -= len(piece)
        if n <= 0:
            return
