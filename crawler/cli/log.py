"""What an operator reads: one line an event, as text or JSON, on standard error or in a file.

The law: a reader that does not read, or a disk that does not write, never holds up the crawl. Lines wait in a bounded queue;
what finds no room or cannot be written is dropped and counted, and the count is told as soon as lines get through again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, MutableMapping
from io import FileIO
from pathlib import Path
from queue import Empty, Full, Queue
from typing import Any, Final, Literal

import structlog

from crawler.core.errors import ConfigError
from crawler.core.model import Done, Dropped, Lease, Outcome, Retry
from crawler.core.text import printable

LINES_MAX: Final = 10_000
CLOSE_S: Final = 2.0
"""How long the last lines may take to be written."""

LEVELS: Final = ("debug", "info", "warning", "error")

Event = MutableMapping[str, Any]


class Log:
    """``log("text")`` says something, ``log.visit(...)`` tells of one visit (of which only ``debug`` is told); what libraries
    log through ``logging`` comes along while it is open. ``write`` gets whole lines, in a thread of its own. Context manager:
    on leaving, what waits is written, unless nobody reads it."""

    def __init__(
        self, write: Callable[[str], object], *, level: str, form: Literal["text", "json"], stamped: bool = True
    ) -> None:
        self._write = write
        self._lines: Queue[str] = Queue(LINES_MAX)
        self._ended = threading.Event()
        self.dropped = 0
        """Lines that found no room, or could not be written."""
        self._processors: list[Any] = [
            *([structlog.processors.TimeStamper(fmt="iso", key="time")] if stamped else []),
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            _in_order,
            structlog.processors.JSONRenderer() if form == "json" else _as_text,
        ]
        self.change(level)
        self._folded = _Folded(self)
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)

    def __enter__(self) -> Log:
        logging.getLogger().addHandler(self._folded)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger().removeHandler(self._folded)
        self._ended.set()
        self._thread.join(CLOSE_S)

    def change(self, level: str) -> None:
        """From now on what is less severe is left out."""
        least = structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()])
        self._logger: Any = structlog.wrap_logger(_Lines(self._put), processors=self._processors, wrapper_class=least)

    def __call__(self, text: str, level: str = "info", **more: Any) -> None:
        getattr(self._logger, level)(text, **more)

    def visit(self, lease: Lease, outcome: Outcome) -> None:
        """One line for a visit that was one (a lease given back was none)."""
        if not isinstance(outcome, Done | Dropped | Retry):
            return
        link = lease.link
        told: dict[str, Any] = {"outcome": outcome.outcome, "reason": outcome.reason, "url": link.url, "attempt": link.attempt}
        if isinstance(outcome, Done):
            page = outcome.page
            told |= {"status": page.status, "bytes": page.bytes_wire, "seconds": round(page.timings.total, 3)}
        elif isinstance(outcome, Retry):
            told["retry_in"] = round(outcome.after, 3)
        self("visit", "debug", **told)

    def _put(self, line: str) -> None:
        try:
            self._lines.put_nowait(line)
        except Full:
            self.dropped += 1

    def _run(self) -> None:
        told = 0
        while True:
            try:
                line = self._lines.get(timeout=0.1)
            except Empty:
                if self._ended.is_set():
                    return
                continue
            try:
                self._write(line)
            except (OSError, ValueError):  # a full disk, a closed stream
                self.dropped += 1
                continue
            if self.dropped > told and self._lines.qsize() < LINES_MAX // 2:
                lost, told = self.dropped - told, self.dropped
                self(f"{lost} lines were not logged: nobody read them fast enough, or they could not be written", "error")


class _Lines:
    """What structlog hands its lines to, whatever their level."""

    def __init__(self, put: Callable[[str], None]) -> None:
        self.debug = self.info = self.warning = self.error = put


class _Folded(logging.Handler):
    """What libraries say, as lines like all others."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        level = "error" if record.levelno >= logging.ERROR else "warning"
        try:
            self._log(record.getMessage(), level, logger=record.name, exc_info=record.exc_info)
        except Exception:
            self.handleError(record)


class LogFile:
    """A file that lines are appended to; ``reopen`` lets it be rotated by a rename. ConfigError: it cannot be opened."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        try:
            self._file = self._open()
        except OSError as error:
            raise ConfigError(f"log_file {path}: {error.strerror}") from error
        self._asked = threading.Event()

    def _open(self) -> FileIO:
        return self._path.open("ab", buffering=0)

    def reopen(self) -> None:
        """Before the next line."""
        self._asked.set()

    def __call__(self, line: str) -> None:
        """In the log's thread. OSError: it was not written."""
        if self._asked.is_set():
            new = self._open()  # where that fails it is tried again with the next line
            self._asked.clear()
            old, self._file = self._file, new
            old.close()
        self._file.write(f"{line}\n".encode(errors="backslashreplace"))

    def close(self) -> None:
        self._file.close()


def _in_order(_: Any, __: str, event: Event) -> Mapping[str, Any]:
    """When, how severe and what come first; libraries' lines without an exception say nothing of one."""
    first = {key: event[key] for key in ("time", "level", "event") if key in event}
    return first | {key: value for key, value in event.items() if key not in first and key != "exc_info"}


def _as_text(_: Any, __: str, event: Event) -> str:
    """``2026-11-23T12:00:00.000000Z text key=value``; nothing in it can end the line early or steer a terminal."""
    start = [event.pop("time")] if "time" in event else []
    del event["level"]
    trace = f"\n{trace}" if (trace := event.pop("exception", "")) else ""
    said = event.pop("event")
    more = (f"{key}={printable(str(value))}" for key, value in event.items() if value is not None)
    text = " ".join([*start, said, *more])
    return "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in text + trace)
