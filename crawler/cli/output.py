"""Where a command's text goes: talk to standard error, data to standard output."""

from __future__ import annotations

import contextlib
import io
import os
import select
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from crawler.core.errors import NO_ROOM, OUR_ERRNOS, ConfigError, StorageError
from crawler.core.text import printable

if TYPE_CHECKING:
    from pathlib import Path


def say(text: str) -> None:
    """Talk to the person: never on standard output, and nothing in it steers a terminal. Where it cannot be said, the exit code
    tells."""
    said = "\n".join(map(printable, text.split("\n")))
    with contextlib.suppress(OSError):  # of a reader that has gone, of a disk that is full
        sys.stderr.write(f"crawler: {said}\n")  # in one piece: other threads write lines as well


def takes_more(stream: TextIO) -> bool:
    """Whether a line is written at once. A pipe that nobody reads must not hold up the crawl."""
    try:
        return bool(select.select([], [stream], [], 0)[1])
    except (OSError, ValueError):
        return True  # it is no file


def put(line: str) -> None:
    """A line of data, from a command whose exit code says more: that is told also where nobody reads the line."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        forget_output()


def write(pieces: Iterable[bytes]) -> None:
    """Data, on standard output."""
    for piece in pieces:
        sys.stdout.buffer.write(piece)


def write_all(pieces: Iterator[bytes]) -> None:
    """As ``write``, of a command that does more than print: it goes on to its end where nobody reads what it prints."""
    try:
        write(pieces)
    except BrokenPipeError:
        forget_output()
        write(pieces)


def not_written(path: Path | str, error: OSError) -> ConfigError | StorageError:
    """Why a file that was asked for could not be written: this machine lacks something, or another is to be named."""
    said = f"{path}: {os.strerror(error.errno) if error.errno else error.strerror}"  # pyarrow's words name a file of its own
    return StorageError(said, errno=error.errno) if error.errno in NO_ROOM | OUR_ERRNOS else ConfigError(said)


def stand_in_for_closed() -> None:
    """Standard streams that were closed before this process began lead nowhere. Otherwise the first files that it opens get their
    numbers, and whatever is said is written into them."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free is this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))


class _Waiting(io.FileIO):
    """A descriptor that another process may have made non-blocking: what it does not take now, it takes later."""

    def write(self, data: Any) -> int:
        while (written := super().write(data)) is None:
            select.select([], [self], [])
        return written


def make_output_whole() -> None:
    """Each byte for standard output is written, or an error raised. Python's own does neither where it is unbuffered
    (PYTHONUNBUFFERED, as in most images): it drops what a disk or pipe did not take of one write. A letter that a terminal's
    encoding lacks is a question mark."""
    out = sys.stdout
    if isinstance(out, io.TextIOWrapper):
        whole = io.BufferedWriter(_Waiting(out.fileno(), "wb", closefd=False))
        lines = out.line_buffering or out.write_through
        errors = "replace" if out.errors == "strict" else out.errors
        sys.stdout = io.TextIOWrapper(whole, out.encoding, errors, line_buffering=lines)


@contextlib.contextmanager
def ended_in_order() -> Iterator[None]:
    """SIGTERM, and SIGHUP of a terminal that is closed, end what runs in here as an exception would, so that no unfinished file
    is left. (Not for what writes to standard output: its reader may take no more of it.)"""
    taken = {}
    if threading.current_thread() is threading.main_thread():
        numbers = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_DFL]
        taken = {number: signal.signal(number, _end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in taken.items():
            signal.signal(number, handler)


def _end(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def forget_talk() -> None:
    """What standard error did not take must not be tried again at exit: where Python buffers it, the exit code would be 120."""
    try:
        sys.stderr.flush()
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def forget_output() -> None:
    """What is still buffered must not be tried again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
