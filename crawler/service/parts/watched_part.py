"""One part of a crawl as its parent knows it: whether its process is open, what it told last, what earlier ones had counted.

Invariant: what a part has counted never becomes less, however often its process is begun again.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any, Final

from msgspec.msgpack import Decoder
from msgspec.structs import replace

from crawler.config.sections import Config
from crawler.core.snapshot import Snapshot
from crawler.crawl.metrics import Readings
from crawler.service.health import STUCK_S
from crawler.service.parts.channel import Channel, error_of
from crawler.service.parts.merged import Counted, Look, ended_counted, with_ended

DEATHS_MAX: Final = 4
DEATHS_WITHIN_S: Final = 600.0
"""So many deaths of one part in so long end the crawl."""

_looks = Decoder(Look)
_snapshots = Decoder(Snapshot)


class WatchedPart:
    """One part, through all its processes. Made where a loop runs."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.channel: Channel | None = None
        self.is_open = False
        """Its process has opened its share, and has not ended."""
        self.was_open = False
        """The same, whether or not it has ended since."""
        self.away_since: float | None = None
        """Since when it cannot be begun again, for want of something outside."""
        self.has_ended = False
        """By itself, and said so."""
        self.error: Exception | None = None
        self.look = Look(Snapshot(at=0.0, state="opening"))
        self.begun: Snapshot | None = None
        """When it was opened first."""
        self.heard_at = 0.0
        """When its process has answered last, by the monotonic clock."""
        self.before = Counted()
        """By its processes that have ended."""
        self.before_bytes = 0
        self.before_readings = Readings()
        self.config: Config | None = None
        """What its process was told last."""
        self.exit: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.deaths: deque[float] = deque(maxlen=DEATHS_MAX)
        self.restarts = 0

    @property
    def open_channel(self) -> Channel | None:
        """Its channel, while it is open."""
        return self.channel if self.is_open else None

    @property
    def silent_s(self) -> float:
        """How long it has not answered; 0.0 while it is not open."""
        return time.monotonic() - self.heard_at if self.is_open else 0.0

    def stuck(self) -> str | None:
        """What keeps it from making progress: it says so, or says nothing at all."""
        silent_s = self.silent_s
        return f"no answer for {silent_s:.0f} s" if silent_s > STUCK_S else self.look.stuck

    # -- what its process tells -----------------------------------------------------------------------------------

    def opened(self, look: bytes) -> None:
        """It has opened its share."""
        self.looked(look)
        self.is_open, self.was_open, self.away_since = True, True, None
        self.begun = self.begun or self.look.snapshot

    def looked(self, look: bytes) -> None:
        self.look, self.heard_at = _looks.decode(look), time.monotonic()

    def seen(self, snapshot: bytes) -> None:
        """How far it is; the rest of its look stays as it was."""
        self.look, self.heard_at = replace(self.look, snapshot=_snapshots.decode(snapshot)), time.monotonic()

    def ended(self, look: bytes) -> None:
        """By itself."""
        self.look, self.has_ended, self.is_open = _looks.decode(look), True, False

    def failed(self, kind: str, words: list[Any]) -> None:
        self.error, self.is_open = error_of(kind, words), False

    def died(self) -> None:
        """What its process has counted is kept; what it was at is not."""
        seen = self.look
        self.before = ended_counted([self.before, seen.counted])
        self.before_bytes += seen.snapshot.bytes
        still = replace(seen.snapshot, bytes=0, in_flight=0, state="opening", waits_for="nothing")
        was, self.before_readings = seen.readings, self.readings()
        readings = Readings(urls=was.urls, refused=was.refused, memory_limit=was.memory_limit, disk_free=was.disk_free)
        self.look = Look(still, readings, hosts=seen.hosts)

    # -- what is told of it ---------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """With the bytes of its processes that have ended."""
        seen = self.look.snapshot
        return replace(seen, bytes=seen.bytes + self.before_bytes)

    def readings(self) -> Readings:
        """With what its processes that have ended had counted."""
        return with_ended(self.look.readings, self.before_readings)
