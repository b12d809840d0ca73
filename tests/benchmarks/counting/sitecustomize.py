"""Counts every call of a Python function in a process of the crawler, from its start: for ``counts.py``, which puts this
folder on PYTHONPATH and names a file of CELLS in PYTHON_CALLS.

A parser process adds to its cell of that file, of which it inherits no more than the name: it may write no file, but a
mapping is none. A call is the start of a function, or a coroutine or generator that goes on.
"""

import mmap
import os
import sys
import threading

MAIN, PARSER = range(2)
CELLS = 2


def count_into(cells: memoryview, cell: int) -> None:
    def count(frame: object, event: str, argument: object) -> None:
        if event == "call":
            cells[cell] += 1

    sys.setprofile(count)
    threading.setprofile(count)


if path := os.environ.get("PYTHON_CALLS"):
    with open(path, "r+b") as file:
        shared = memoryview(mmap.mmap(file.fileno(), CELLS * 8)).cast("Q")
    count_into(shared, PARSER if "crawler.parse.child" in sys.orig_argv else MAIN)
