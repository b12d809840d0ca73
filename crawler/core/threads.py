"""Tries whether a process gets its threads. RocksDB and libuv, which begin some of their own, abort it where they get none."""

from __future__ import annotations

import threading
from typing import Final

from crawler.core.errors import lack_of

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
