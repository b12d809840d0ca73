"""Configures logging: one line per event, as text or JSON, on standard error or in a file.

Every module of this package logs through ``logging.getLogger(__name__)``:

error     it ends the crawl, or something is lost
warning   it pauses, slows down or is refused: disk, storage, network, descriptors, memory, a reload, a crash before
info      it begins, pauses, goes on again, ends, or was changed; a file was rolled, a host given up; a daemon's status each
          minute
debug     one line for each visit

Invariant: a reader that does not read, or a disk that does not write, never holds up the crawl. Lines wait in a bounded
queue; what finds no room or cannot be written is dropped and counted, and the count is logged as soon as lines get through.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from copy import copy
from datetime import UTC, datetime
from logging.handlers import QueueHandler, QueueListener, WatchedFileHandler
from queue import SimpleQueue
from typing import Any, Final, Literal

from crawler.config import Config
from crawler.core.errors import NO_ROOM, ConfigError
from crawler.core.log_record import extra_of
from crawler.core.text import printable

LINES_BYTES_MAX: Final = 8 << 20
"""Of all lines that wait: some thousands."""
RECORD_BYTES: Final = 1_800
"""A line as an object, without its texts."""
CLOSE_S: Final = 2.0
"""How long the last lines may take to be written."""

PACKAGE: Final = "crawler"

_STUCK: Final = "stuck log"
"""The name of a thread that has not written the last lines of a log in time."""

ROUTINE: Final = frozenset({"file rolled", "host given up", "paused", "resumed"})
"""What a log tells, and a person before a live line need not be: pauses have words of their own, hosts stand in the table."""

Form = Literal["text", "json"]

_LOST: Final = "%d lines were not logged: they were not read fast enough, or could not be written"

logger: Final = logging.getLogger(__name__)


class Log(QueueListener):
    """What this package logs from ``level`` on, and libraries from a warning on, written by ``sink`` in another thread.

    Context manager: on leaving, the waiting lines are written, unless that takes longer than ``CLOSE_S``."""

    def __init__(self, sink: logging.Handler, *, level: str, form: Form, stamped: bool = True) -> None:
        self._records: SimpleQueue[logging.LogRecord] = SimpleQueue()
        sink.setFormatter(JsonFormatter() if form == "json" else TextFormatter(stamped=stamped))
        sink.handleError = self._not_written  # type: ignore[method-assign]
        super().__init__(self._records, sink)
        self._door = _Door(self._records, self.start)
        self._sink = sink
        self._unwritten = self._reported = 0
        self.change(level)

    @property
    def dropped(self) -> int:
        """Lines that found no room, or could not be written."""
        return self._door.dropped + self._unwritten

    def change(self, level: str) -> None:
        """From now on only what is at least this severe."""
        self._door.setLevel(level.upper())
        logging.getLogger(PACKAGE).setLevel(level.upper())

    def __enter__(self) -> Log:
        self._door.open()
        logging.getLogger().addHandler(self._door)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger().removeHandler(self._door)
        logging.getLogger(PACKAGE).setLevel(logging.NOTSET)
        self.enqueue_sentinel()
        if (thread := getattr(self, "_thread", None)) is not None:
            thread.join(CLOSE_S)
            if thread.is_alive():
                thread.name = _STUCK
                return
        with suppress(OSError):  # what a full disk has not taken is lost: no exit code says less for it
            self._sink.close()

    def handle(self, record: logging.LogRecord) -> None:
        before = self._unwritten
        self._door.taken_bytes += _size(record)
        try:
            super().handle(record)
        except OSError:  # the file cannot be opened anew; the next line tries again
            self._unwritten += 1
        is_through = self._unwritten == before and self._door.is_half_empty
        if is_through and (lost := self.dropped - self._reported):
            self._reported += lost
            super().handle(logger.makeRecord(__name__, logging.ERROR, __file__, 0, _LOST, (lost,), None))

    def _not_written(self, record: logging.LogRecord) -> None:
        """A full disk, a closed stream: in the log's thread, while the exception is handled."""
        self._unwritten += 1


def lines_are_stuck() -> bool:
    """Whether the last lines of a log that has ended are still not written. Python's own end would wait for their thread for
    ever."""
    return any(thread.name == _STUCK for thread in threading.enumerate())


class _Door(QueueHandler):
    """Takes a record into the queue, if there is room. Its text is made here: what it names may change later.

    ``write`` begins the thread that writes them: not while that of an earlier log is stuck, or a process that opens its crawl
    again and again would have ever more of them."""

    def __init__(self, records: SimpleQueue[logging.LogRecord], write: Callable[[], None]) -> None:
        super().__init__(records)
        self._records = records
        self._write: Callable[[], None] | None = write
        self.dropped = self._put_bytes = 0
        self.taken_bytes = 0
        """Of lines that wait no longer; each of the two counts is one thread's."""

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        text, record = record.getMessage(), copy(record)
        record.msg, record.args = text, None
        return record

    def open(self) -> None:
        if self._write is not None and not lines_are_stuck():
            self._write()
            self._write = None

    def enqueue(self, record: logging.LogRecord) -> None:
        with suppress(RuntimeError):  # no thread is left just now
            self.open()
        size = _size(record)
        if self._put_bytes - self.taken_bytes + size <= LINES_BYTES_MAX:
            self._put_bytes += size
            self._records.put_nowait(record)
        else:
            self.dropped += 1

    @property
    def is_half_empty(self) -> bool:
        return self._put_bytes - self.taken_bytes <= LINES_BYTES_MAX // 2


def _size(record: logging.LogRecord) -> int:
    """What a line takes in memory while it waits, about."""
    return RECORD_BYTES + len(record.msg) + sum(len(value) for value in extra_of(record).values() if isinstance(value, str))


class CallHandler(logging.Handler):
    """Hands each line to a function, such as the one that writes above a progress bar."""

    def __init__(self, write: Callable[[str], object]) -> None:
        super().__init__()
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._write(self.format(record))
        except (OSError, ValueError):
            self.handleError(record)


def log_of_run(config: Config, say: Callable[[str], None]) -> Log:
    """As text for a person, beside the progress lines; as JSON only where that was asked for. ConfigError: see below."""
    as_json = config.log_format == "json"
    if config.log_file:
        return Log(_file(config.log_file), level=config.log_level, form="json" if as_json else "text")
    if as_json:
        return Log(CallHandler(say), level=config.log_level, form="json")
    sink = CallHandler(lambda line: say(f"crawler: {line}"))
    if config.log_level == "info":
        sink.addFilter(lambda record: record.getMessage() not in ROUTINE)
    return Log(sink, level=config.log_level, form="text", stamped=False)


def log_of_daemon(config: Config) -> Log:
    """As JSON where no person reads along; text has the time. ConfigError: the log file cannot be opened."""
    sink = _file(config.log_file) if config.log_file else CallHandler(lambda line: print(line, file=sys.stderr, flush=True))
    is_watched = not config.log_file and sys.stderr.isatty()
    as_json = config.log_format == "json" or (config.log_format == "auto" and not is_watched)
    return Log(sink, level=config.log_level, form="json" if as_json else "text")


def _file(path: str) -> WatchedFileHandler:
    """A file that is opened anew after it was renamed or deleted (logrotate), and where the disk has room for it. ConfigError: it
    cannot be opened."""
    try:
        return WatchedFileHandler(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        if error.errno in NO_ROOM:
            return WatchedFileHandler(path, encoding="utf-8", errors="backslashreplace", delay=True)
        raise ConfigError(f"log_file {path}: {error.strerror}") from error


class TextFormatter(logging.Formatter):
    """``2026-11-23T12:00:00.000000Z warning: text key=value``; nothing in it can end the line early or steer a terminal."""

    def __init__(self, *, stamped: bool) -> None:
        super().__init__()
        self._stamped = stamped

    def format(self, record: logging.LogRecord) -> str:
        start = [_time(record)] if self._stamped else []
        if record.levelno >= logging.WARNING:
            start.append(f"{record.levelname.lower()}:")
        fields = (f"{key}={printable(str(value))}" for key, value in _fields(record).items() if value is not None)
        line = " ".join([*start, record.getMessage(), *fields])
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in line)


class JsonFormatter(logging.Formatter):
    """One object a line: ``time``, ``level``, ``event``, then the fields of the event, ``logger`` of a library's line, and
    ``exception`` with its traceback."""

    def format(self, record: logging.LogRecord) -> str:
        event = {"time": _time(record), "level": record.levelname.lower(), "event": record.getMessage()} | _fields(record)
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return json.dumps(event, default=str)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """The ``extra`` of the record, and the logger of a line that is not this package's."""
    fields = extra_of(record)
    if record.name.partition(".")[0] != PACKAGE:
        fields["logger"] = record.name
    return fields
