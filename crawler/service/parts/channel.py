"""Talk between two processes of one crawl over a socket pair: questions with answers, and words that need none.

    length4 | msgpack [kind, number, name or value, arguments]

Invariants: what is said arrives in its order, whole, or not at all, because the other side has gone; then every question that
is open ends with ``Gone``. Both sides are this program, forked from one process: nothing here is foreign input.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable, Mapping
from inspect import isawaitable
from typing import Any, Final, TypeAlias

import msgspec

from crawler.core.errors import ConfigError, FetchError, LackError, RemoteError, StorageError

TELL: Final = 0
ASK: Final = 1
ANSWER: Final = 2
FAULT: Final = 3
_LENGTH: Final = struct.Struct("<I")

Handler: TypeAlias = Callable[..., Any | Awaitable[Any]]
"""Called with the arguments as msgpack knows them; what it returns, or what its awaitable returns, is the answer."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


class Gone(Exception):
    """The other side has ended, or is about to."""


class Channel(asyncio.Protocol):
    """One end. ``handlers`` by name; ``gone`` is done when the other side has closed."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = handlers
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.WriteTransport | None = None
        self._buffer = bytearray()
        self._open: dict[int, asyncio.Future[Any]] = {}
        self._answering: set[asyncio.Task[None]] = set()
        self._number = 0
        self.gone: Final[asyncio.Future[None]] = self._loop.create_future()

    def tell(self, name: str, *arguments: object) -> None:
        """Say it; lost if the other side has gone."""
        self._send(TELL, 0, name, arguments)

    async def ask(self, name: str, *arguments: object) -> Any:
        """What the other side's handler returns. Raises ``Gone``, and what that raised of ConfigError, StorageError, FetchError
        and LookupError; RuntimeError for all else."""
        if self.gone.done():
            raise Gone
        self._number += 1
        number = self._number
        answer = self._open[number] = self._loop.create_future()
        self._send(ASK, number, name, arguments)
        try:
            return await answer
        finally:
            self._open.pop(number, None)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close it now, whatever the other side has not taken yet."""
        if self._transport is not None:
            self._transport.abort()

    @property
    def unsent_bytes(self) -> int:
        """What the other side has not taken yet."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def _send(self, kind: int, number: int, what: object, arguments: object = ()) -> None:
        if self._transport is None or self.gone.done():
            return
        data = _encode((kind, number, what, arguments))
        self._transport.write(_LENGTH.pack(len(data)) + data)

    # -- as the loop's protocol -----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment] # uvloop's is none by class

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        at = 0
        while len(self._buffer) - at >= _LENGTH.size:
            size = _LENGTH.unpack_from(self._buffer, at)[0]
            if len(self._buffer) - at - _LENGTH.size < size:
                break
            at += _LENGTH.size
            message = _decode(memoryview(self._buffer)[at : at + size])
            at += size
            self._received(*message)
        del self._buffer[:at]

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.gone.done():
            self.gone.set_result(None)
        for answer in self._open.values():
            if not answer.done():
                answer.set_exception(Gone())

    def _received(self, kind: int, number: int, what: Any, arguments: list[Any]) -> None:
        if kind in (ANSWER, FAULT):
            answer = self._open.get(number)
            if answer is None or answer.done():
                return
            if kind == ANSWER:
                answer.set_result(what)
            else:
                answer.set_exception(error_of(*what))
            return
        task = self._loop.create_task(self._handle(kind, number, what, arguments), name=f"channel {what}")
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _handle(self, kind: int, number: int, name: str, arguments: list[Any]) -> None:
        try:
            value = self._handlers[name](*arguments)
            if isawaitable(value):
                value = await value
        except Gone:
            return
        except Exception as error:
            if kind == TELL:
                raise
            self._send(FAULT, number, words_of(error))
        else:
            if kind == ASK:
                self._send(ANSWER, number, value)


def words_of(error: Exception) -> tuple[str, list[Any]]:
    if isinstance(error, ConfigError):
        return "config", list(error.faults)
    if isinstance(error, RemoteError):
        return "remote", [str(error)]
    if isinstance(error, LackError):
        return "lack", [str(error), error.errno]
    if isinstance(error, StorageError):
        return "storage", [str(error), error.errno, error.final]
    if isinstance(error, FetchError):
        return "fetch", [error.reason, error.detail]
    if isinstance(error, LookupError):
        return "lookup", [str(error)]
    return "other", [f"{type(error).__name__}: {error}"]


def error_of(kind: str, words: list[Any]) -> Exception:
    if kind == "config":
        return ConfigError(words)
    if kind == "remote":
        return RemoteError(words[0])
    if kind == "lack":
        return LackError(words[0], errno=words[1])
    if kind == "storage":
        return StorageError(words[0], errno=words[1], final=words[2])
    if kind == "fetch":
        return FetchError(*words)
    return LookupError(words[0]) if kind == "lookup" else RuntimeError(words[0])
