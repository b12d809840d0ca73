"""One loop from its beginning to its end, also where this machine has no thread left by then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from crawler.core.errors import lack_of

T = TypeVar("T")


def run_to_its_end(new_loop: Callable[[], asyncio.AbstractEventLoop], main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """What it returns or raises, in a loop of its own, also where no thread is left to wait for those of the loop: all else has
    ended. StorageError where no descriptors are left to end in order: uvloop cannot be closed then."""
    runner = asyncio.Runner(loop_factory=new_loop)
    runner.get_loop()  # or it cannot be had, and what was to run is told of as never awaited
    try:
        return runner.run(main())
    finally:
        try:
            runner.close()
        except RuntimeError as error:
            if lack_of(error) is None:
                if (lack := lack_of(error.__context__)) is None:
                    raise
                raise lack from error


__all__ = ["run_to_its_end"]
