"""Whether a process gets its threads. RocksDB and libuv, which begin some of their own, abort it where they get none."""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, TypeVar

from crawler.core.errors import lack_of

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

T = TypeVar("T")

CRAWL_THREADS: Final = 13
"""Of one process that crawls, its first left out, its parser process counted in."""
STORE_THREADS: Final = 4
"""Of RocksDB, with one to spare."""
LOOP_THREADS: Final = 5
"""Of libuv, which begins them with the first name that is looked up, with one to spare."""


def try_threads(count: int) -> None:
    """Begin and end so many. Raises StorageError."""
    over = threading.Event()
    begun: list[threading.Thread] = []
    try:
        for _ in range(count):
            thread = threading.Thread(target=over.wait)
            thread.start()
            begun.append(thread)
    except RuntimeError as error:
        raise lack_of(error) or error from error
    finally:
        over.set()
        for thread in begun:
            thread.join()


def run_to_its_end(new_loop: Callable[[], AbstractEventLoop], main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """What it returns or raises, in a loop of its own, also where no thread is left to wait for those of the loop: all else has
    ended. StorageError where no descriptors are left to end in order: uvloop cannot be closed then."""
    import asyncio  # here: some that open a store have no loop

    runner = asyncio.Runner(loop_factory=new_loop)
    runner.get_loop()  # or it cannot be had, and what was to run is told of as never awaited
    try:
        return runner.run(main())
    finally:
        try:
            runner.close()
        except RuntimeError as error:
            if lack_of(error) is None:
                raise lack_of(error.__context__) or error from error
