"""What deals visits, as far as those who watch memory, disk and network steer it. The frontier is one."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Protocol

from crawler.core.snapshot import Limiter, Pause


class Dealing(Protocol):
    @property
    def pauses(self) -> AbstractSet[Pause]:
        """Those that hold now."""

    @property
    def draining(self) -> bool:
        """No more visits are dealt, for good."""

    @property
    def visiting_count(self) -> int:
        """Visits out that have not ended: without those held until it is known whose fault they were."""

    def pause(self, why: Pause) -> None:
        """Deal nothing until ``resume`` with the same reason."""

    def resume(self, why: Pause) -> None: ...

    def limit(self, by: Limiter, visits_max: int | None) -> None:
        """At most so many visits out at a time; None: as many as there are workers."""

    def hold(self, visits: int) -> None:
        """So many of the visits out have ended, and are held until it is known whose fault their end was."""

    def deal_one(self) -> None:
        """While offline: deal one lease all the same, to see whether anybody responds."""
