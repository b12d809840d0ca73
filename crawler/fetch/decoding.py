"""The last step of a fetch: check that the body's content codings are whole, undo them if asked to, find out the type.

Invariants: a body whose coding is cut, corrupt or explosive gets a fault. The event loop goes on while a body is decoded.
No decoder runs before its memory is reserved, and of one body never more than one at a time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from pathlib import Path
from typing import Final, Protocol

from crawler.core.content_coding import (
    ACCEPTED,
    PIECE_BYTES,
    REPLAYED,
    between_bytes_max,
    bounded,
    decoded,
    decoder_bytes,
    stacked,
    whole,
)
from crawler.core.errors import FetchError
from crawler.core.page import Body, Page
from crawler.core.sniff import PREFIX_BYTES, sniff

AT_ONCE: Final = 4
"""Bodies that are decoded in one turn of the loop."""
TURN_S: Final = 0.005
"""Time after which others have a turn."""


class Room(Protocol):
    """Memory that a visit takes when it is known to be needed: ``crawler.resources.memory_budget.VisitMemory``."""

    def head(self, size: int, granted: Callable[[], None], /) -> bool: ...

    async def decode(self, size: int, /) -> AbstractContextManager[object]: ...


class Finisher:
    """``decode_body``: the page's body is replaced by its decoded form, spooled in ``tmp``."""

    def __init__(self, tmp: Path, *, decode_body: bool, ratio_max: float, codings_max: int) -> None:
        self._tmp = tmp
        self._decode_body = decode_body
        self._ratio_max = ratio_max
        self._codings_max = codings_max
        self._turns = asyncio.Semaphore(AT_ONCE)

    @property
    def accepted(self) -> str:
        """The codings to be asked for."""
        return ACCEPTED if self._decode_body else REPLAYED

    async def finish(self, page: Page, codings: tuple[str, ...], limit: int, room: Room | None = None) -> None:
        """Complete a page whose body is sealed. ``limit``: most bytes it may decode to. Raises StorageError."""
        if not codings:
            tell(page)
            return
        page.coding = ", ".join(codings)
        if len(codings) > self._codings_max:
            page.fault = page.fault or FetchError("content_coding", f"over {self._codings_max} codings")
            return
        target = Body(self._tmp) if self._decode_body else None
        needed = self.decoder_bytes(page, limit)
        try:
            with await room.decode(needed) if room is not None and needed else nullcontext():
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
        if len(codings) == 1 and page.body.memory_bytes <= PIECE_BYTES and page.body.path is None:
            plain = whole(page.body.prefix(page.body.size), codings[0])
            if plain is not None and len(plain) <= limit:  # so it is for nearly every page
                if target is not None:
                    target.write(plain)
                else:
                    page.plain = plain
                page.bytes_decoded = len(plain)
                page.sniffed = sniff(plain[:PREFIX_BYTES], page.mime)
                return
        prefix = bytearray()
        size = 0

        def take(piece: bytes) -> None:
            nonlocal size
            if len(prefix) < PREFIX_BYTES:
                prefix.extend(piece[: PREFIX_BYTES - len(prefix)])
            size += len(piece)
            if target is not None:
                target.write(piece)

        wire_bytes = page.body.size
        inner, fault = await self._peeled(page.body, codings, limit)
        try:
            pieces = decoded(inner.chunks(), codings[:1])
            pieces = bounded(pieces, wire_bytes=wire_bytes, decoded_bytes_max=limit, ratio_max=self._ratio_max)
            try:
                await self._each(pieces, take)
            except FetchError as error:
                fault = fault or error.kept()
        finally:
            if inner is not page.body:
                inner.discard()
        if fault is not None and page.fault is None:  # else the body is known to be cut, and its coding with it
            page.fault = fault
            if target is not None:
                page.truncated = "length" if fault.reason in ("max_decoded", "decode_ratio") else "disconnect"
        page.bytes_decoded = size
        page.sniffed = sniff(bytes(prefix), page.mime)

    def decoder_bytes(self, page: Page, limit: int) -> int:
        """Memory that must be reserved before a page's codings are undone, up to ``limit`` bytes."""
        if page.coding is None:
            return 0
        *inner, outer = page.coding.split(", ")
        start = page.body.prefix(1) if outer == "br" else b""
        most = between_bytes_max(limit) if inner else limit
        return max(decoder_bytes(outer, most, start), *(decoder_bytes(coding, most) for coding in inner), 0)

    async def decoded(self, page: Page, limit: int) -> bytes:
        """The first ``limit`` bytes of a page's body with its codings undone, as far as they can be. Raises StorageError. The
        caller has reserved ``decoder_bytes``, and twice the result."""
        if page.coding is None:
            return page.body.prefix(limit)
        if page.plain is not None:
            return page.plain[:limit]
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
        if len(codings) > self._codings_max:
            return
        inner, _ = await self._peeled(page.body, codings, limit)
        try:
            with suppress(FetchError):  # then it is what could be decoded before the fault
                await self._each(_first(limit, decoded(inner.chunks(), codings[:1])), take)
        finally:
            if inner is not page.body:
                inner.discard()

    async def _peeled(self, body: Body, codings: tuple[str, ...], limit: int) -> tuple[Body, FetchError | None]:
        """The body with all its codings undone but the one that was applied first, by way of the disk: the windows of all their
        decoders together might be more than a small limit can spare, and nobody sends such bodies in earnest. The first fault
        found; then it is what could be decoded before. The caller discards it, if it is another than ``body``."""
        outer, fault = body, None
        for coding in reversed(codings[1:]):
            inner = Body(self._tmp)
            try:
                await self._each(_between(outer, coding, limit), inner.write)
                inner.seal()
            except FetchError as error:
                fault = fault or error.kept()
                inner.seal()
            except BaseException:
                inner.discard()
                raise
            finally:
                if outer is not body:
                    outer.discard()
            outer = inner
        return outer, fault

    async def _each(self, pieces: Iterator[bytes], take: Callable[[bytes], object]) -> None:
        """Hand on every piece; few do so in one turn of the loop. However it ends, the decoder is gone then."""
        with closing(pieces):  # type: ignore[type-var]
            is_over = False
            while not is_over:
                async with self._turns:
                    is_over = _turn(pieces, take)
                    if not is_over:
                        await asyncio.sleep(0)


def tell(page: Page) -> None:
    """Complete a page whose sealed body bears no coding."""
    page.bytes_decoded = page.body.size
    page.sniffed = sniff(page.body.prefix(PREFIX_BYTES), page.mime)


def _turn(pieces: Iterator[bytes], take: Callable[[bytes], object]) -> bool:
    """Hand on pieces for TURN_S; whether there are no more."""
    began = time.monotonic()
    for piece in pieces:
        take(piece)
        if time.monotonic() - began > TURN_S:
            return False
    return True


def _between(body: Body, coding: str, limit: int) -> Iterator[bytes]:
    """What one coding leaves to the next, of which at most ``limit`` bytes come: what is far beyond them decodes to nothing."""
    left = between_bytes_max(limit)
    for piece in stacked(body.chunks(), coding):
        left -= len(piece)
        if left < 0:
            raise FetchError("decode_ratio", "more between codings than comes out of them")
        yield piece


def _first(n: int, pieces: Iterator[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        yield piece[:n]
        n -= len(piece)
        if n <= 0:
            return
