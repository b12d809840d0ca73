"""A blocking iterator, one item at a time, from a thread that nobody waits for.

The law: it reads nothing that was not asked for, and a read that never returns (a silent pipe) does not hold up the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from functools import partial
from queue import SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")


class Lazily(Generic[T]):
    """``async for item in Lazily(iterator)``. Errors of the iterator come out where it is awaited."""

    def __init__(self, items: Iterator[T]) -> None:
        self._items = items
        self._asked: SimpleQueue[asyncio.Future[T]] = SimpleQueue()
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._read, name="reader", daemon=True).start()

    def __aiter__(self) -> Lazily[T]:
        return self

    async def __anext__(self) -> T:
        future: asyncio.Future[T] = self._loop.create_future()
        self._asked.put(future)
        return await future

    def _read(self) -> None:
        while True:
            future = self._asked.get()
            try:
                answer = partial(future.set_result, next(self._items))
            except StopIteration:
                answer = partial(future.set_exception, StopAsyncIteration())
            except Exception as error:  # whatever it is, it is raised where the item was awaited
                answer = partial(future.set_exception, error)
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                self._loop.call_soon_threadsafe(_unless_done, future, answer)


def _unless_done(future: asyncio.Future[T], answer: Callable[[], None]) -> None:
    if not future.done():
        answer()
