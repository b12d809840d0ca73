"""The deadlines of all fetches, looked at by one timer: whichever of a fetch's deadlines comes first ends it.

Only the other side's slowness counts. Time that we made it wait (``hold``), or in which this process stood still, is given
back.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import TYPE_CHECKING, Final

from crawler.core.errors import FetchError

if TYPE_CHECKING:
    from crawler.fetch.tls_waste import TlsWaste

LOOK_EVERY_S: Final = 0.05
"""A deadline is met so much late at most."""
LATE_S: Final = 0.5
"""A look that comes this much late tells of our own standstill: what came meanwhile may still lie unread."""
STANDSTILLS_MAX: Final = 5
"""So many are forgiven: a loop that is always late must not keep a fetch for ever."""


class Deadlines:
    """Those that run. The timer runs only while there are any."""

    def __init__(self, loop: asyncio.AbstractEventLoop, tls_waste: TlsWaste | None = None) -> None:
        self.loop = loop
        self._tls_waste = tls_waste
        self._running: set[Deadline] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._look_at = 0.0

    def __len__(self) -> int:
        return len(self._running)

    def _start(self) -> None:
        self._look_at = self.loop.time() + LOOK_EVERY_S
        self._timer = self.loop.call_at(self._look_at, self._look)

    def _look(self) -> None:
        self._timer = None
        now = self.loop.time()
        late = now - self._look_at
        if self._tls_waste is not None:  # a connection that keeps the loop from its work ends before the others are late
            self._tls_waste.look(now, at_once=late > LATE_S)
        for deadline in list(self._running):
            if late > LATE_S:
                deadline.stood_still(late, now)
            deadline.look(now)
        if self._running:
            self._start()


class Deadline:
    """``with Deadline(deadlines, total_s) as deadline: deadline.arm(10.0, "connect_timeout") ...``; raises FetchError there.

    Like ``asyncio.timeout``, with a reason, and moved on without touching a timer."""

    __slots__ = (
        "_begun_cancels",
        "_deadlines",
        "_held_at",
        "_loop",
        "_reason",
        "_standstills",
        "_task",
        "_total_at",
        "_when",
        "expired",
    )

    def __init__(self, deadlines: Deadlines, total_s: float) -> None:
        self._deadlines = deadlines
        self._loop = deadlines.loop
        self._total_at = self._loop.time() + total_s
        self._when = self._total_at
        self._reason = "total_timeout"
        self._held_at = 0.0
        self._standstills = 0
        self.expired: str | None = None
        """The reason, once the deadline has passed."""

    def arm(self, after_s: float, reason: str) -> None:
        """From now on: ``reason`` after that many seconds, or ``total_timeout`` if that comes first."""
        when = self._loop.time() + after_s
        self._when, self._reason = (when, reason) if when < self._total_at else (self._total_at, "total_timeout")

    def arm_at(self, when: float, reason: str) -> None:
        """As ``arm``, at a loop time."""
        self._when, self._reason = (when, reason) if when < self._total_at else (self._total_at, "total_timeout")

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

    def stood_still(self, seconds: float, now: float) -> None:
        """This process did: what came meanwhile must have a chance to be read."""
        if self._standstills < STANDSTILLS_MAX and not self._held_at:
            self._standstills += 1
            self._total_at = max(self._total_at + seconds, now + LATE_S)
            self._when = max(self._when + seconds, now + LATE_S)

    def look(self, now: float) -> None:
        """End the fetch if its time is over."""
        if self._when <= now and not self._held_at and self.expired is None:
            self.expired = self._reason
            self._task.cancel()

    def __enter__(self) -> Deadline:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._begun_cancels = task.cancelling()
        deadlines = self._deadlines
        deadlines._running.add(self)
        if deadlines._timer is None:
            deadlines._start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._deadlines._running.discard(self)
        if self.expired is None:
            return
        if self._task.uncancel() <= self._begun_cancels and kind is not None and issubclass(kind, asyncio.CancelledError):
            raise FetchError(self.expired) from None
