"""What an operator reads on standard error: one line an event, as text or JSON.

The law: a reader that does not read never holds up the crawl. Lines wait in a bounded queue; what finds no room is dropped
and counted, and the count is told as soon as there is room again.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from queue import Empty, Full, Queue
from typing import Any, Final, Literal

from crawler.model import Done, Dropped, Lease, Outcome, Retry

LINES_MAX: Final = 10_000
CLOSE_S: Final = 2.0
"""How long the last lines may take to be written."""


LEVELS: Final = ("debug", "info", "warning", "error")


class Log:
    """``log("text")`` says something, ``log.visit(...)`` tells of one visit; ``level`` holds for what is said, whether visits
    are told of is the crawl's to know, as that may change while it runs. ``write`` gets whole lines, in a thread of its own.
    Context manager: on leaving, what waits is written, unless nobody reads it."""

    def __init__(
        self, write: Callable[[str], object], *, level: str, form: Literal["text", "json"], stamped: bool = True
    ) -> None:
        self._write = write
        self._least = LEVELS.index(level)
        self._form = _as_json if form == "json" else _as_text
        self._stamped = stamped
        self._lines: Queue[str] = Queue(LINES_MAX)
        self._ended = threading.Event()
        self.dropped = 0
        """Lines that found no room."""
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)

    def __enter__(self) -> Log:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(CLOSE_S)

    def __call__(self, text: str, level: str = "info") -> None:
        if LEVELS.index(level) >= self._least:
            self._say(level, text, {})

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
        self._say("debug", "visit", told)

    def _say(self, level: str, text: str, more: dict[str, Any]) -> None:
        event: dict[str, Any] = {"time": datetime.now(UTC).isoformat(timespec="milliseconds")} if self._stamped else {}
        try:
            self._lines.put_nowait(self._form(event | {"level": level, "event": text} | more))
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
            self._write(line)
            if self.dropped > told and self._lines.qsize() < LINES_MAX // 2:
                lost, told = self.dropped - told, self.dropped
                self(f"{lost} lines were not logged: nobody read them fast enough", "error")


def _as_json(event: dict[str, Any]) -> str:
    return json.dumps(event)


def _as_text(event: dict[str, Any]) -> str:
    """``2026-11-23T12:00:00.000+00:00 text key=value``; nothing in it can end the line early or steer a terminal."""
    start = [event.pop("time")] if "time" in event else []
    del event["level"]
    text = " ".join([*start, event.pop("event"), *(f"{key}={value}" for key, value in event.items() if value is not None)])
    return "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in text)
