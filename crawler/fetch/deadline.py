"""One timer over one fetch: whichever of its deadlines comes first ends it.

The law: only the other side's slowness counts. Time that we made it wait (``hold``), or in which this process stood
still, is given back.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Final

from crawler.core.errors import FetchError

LATE_S: Final = 0.5
"""A timer that fires this much late tells of our own standstill: what came meanwhile may still lie unread."""
STANDSTILLS_MAX: Final = 5
"""So many are forgiven: a loop that is always late must not keep a fetch for ever."""


class Deadline:
    """``with Deadline(loop, total_s) as deadline: deadline.arm(10.0, "connect_timeout") ...``; raises FetchError there.
    It begins to run when it is first armed.

    Like ``asyncio.timeout``, with a reason, and moved on without touching the timer: a fast fetch costs one timer.
    """

    __slots__ = (
        "_begun_cancels",
        "_held_at",
        "_loop",
        "_reason",
        "_standstills",
        "_task",
        "_timer",
        "_timer_at",
        "_total_at",
        "_when",
        "expired",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, total_s: float) -> None:
        self._loop = loop
        self._total_at = loop.time() + total_s
        self._when = self._total_at
        self._reason = "total_timeout"
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._held_at = 0.0
        self._standstills = 0
        self.expired: str | None = None
        """The reason, once the deadline has passed."""

    def arm(self, after_s: float, reason: str) -> None:
        """From now on: ``reason`` after that many seconds, or ``total_timeout`` if that comes first."""
        self.arm_at(self._loop.time() + after_s, reason)

    def arm_at(self, when: float, reason: str) -> None:
        """As ``arm``, at a loop time."""
        if when >= self._total_at:
            when, reason = self._total_at, "total_timeout"
        self._when = when
        self._reason = reason
        if self._timer is None or when < self._timer_at:
            self._start(when)

    def hold(self) -> None:
        """What is waited for until ``go_on`` is not the other side's doing."""
        self._held_at = self._loop.time()

    def go_on(self) -> float:
        """End of ``hold``: every deadline moves by the seconds held, which are returned."""
        held = self._loop.time() - self._held_at
        self._held_at = 0.0
        self._when += held
        self._total_at += held
        return held

    def __enter__(self) -> Deadline:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._begun_cancels = task.cancelling()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.expired is None:
            return
        if self._task.uncancel() <= self._begun_cancels and kind is not None and issubclass(kind, asyncio.CancelledError):
            raise FetchError(self.expired) from None

    def _start(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = when
        self._timer = self._loop.call_at(when, self._fire)

    def _fire(self) -> None:
        self._timer = None
        now = self._loop.time()
        late = now - self._timer_at
        if self._held_at:
            self._start(now + LATE_S)
        elif late > LATE_S and self._standstills < STANDSTILLS_MAX:
            self._standstills += 1
            self._when += late
            self._total_at += late
            self._start(max(now + LATE_S, self._when))
        elif self._when > now:
            self._start(self._when)
        else:
            self.expired = self._reason
            self._task.cancel()
