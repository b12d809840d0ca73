"""Iterates a blocking iterator from asyncio, one item per request, in a daemon thread.

Nothing is read before it is asked for, and a read that never returns (a silent pipe) does not delay the end of the process.
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


class ThreadIterator(Generic[T]):
    """``async for item in ThreadIterator(iterator)``. Errors of the iterator come out where it is awaited. Once nobody holds it
    any more the thread ends, as soon as the iterator lets it."""

    def __init__(self, items: Iterator[T]) -> None:
        self._asked: SimpleQueue[asyncio.Future[T] | None] = SimpleQueue()
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=_read, args=(items, self._asked, self._loop), name="reader", daemon=True).start()

    def __aiter__(self) -> ThreadIterator[T]:
        return self

    async def __anext__(self) -> T:
        future: asyncio.Future[T] = self._loop.create_future()
        self._asked.put(future)
        return await future

    def __del__(self) -> None:
        self._asked.put(None)


def _read(items: Iterator[T], asked: SimpleQueue[asyncio.Future[T] | None], loop: asyncio.AbstractEventLoop) -> None:
    """Until it is asked for None."""
    while (future := asked.get()) is not None:
        try:
            deliver = partial(future.set_result, next(items))
        except StopIteration:
            deliver = partial(future.set_exception, StopAsyncIteration())
        except Exception as error:  # whatever it is, it is raised where the item was awaited
            deliver = partial(future.set_exception, error)
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(_unless_done, future, deliver)
        del future, deliver  # the traceback of an error holds the frames of its waiter


def _unless_done(future: asyncio.Future[T], deliver: Callable[[], None]) -> None:
    if not future.done():
        deliver()
