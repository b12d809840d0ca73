"""Whether a member has room for what it would fetch: one whose disk stays low leaves its hosts to the others. Pure.

A person who pauses a node means its hosts: they stay its own.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Set
from typing import Final

from crawler.core.snapshot import Pause

LOW_S_MAX: Final = 60.0
"""Of a disk, until others are to crawl what this member held."""

logger: Final = logging.getLogger(__name__)


class Room:
    def __init__(self) -> None:
        self._low_since = math.inf
        self.wants = True
        """As it was asked last."""

    def wants_slots(self, pauses: Set[Pause], now: float) -> bool:
        self._low_since = min(self._low_since, now) if Pause.DISK_LOW in pauses else math.inf
        wants = now - self._low_since < LOW_S_MAX
        if wants != self.wants:
            self.wants = wants
            logger.warning("cluster: %s", "slots are taken again" if wants else "the disk stays low: all slots are given back")
        return wants
