"""The pump's engine thread, as a member of a cluster asks it.

Invariant: no failure ends the member. The pump makes it good, and what was asked is asked again later.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from crawler.core.errors import StorageError
from crawler.frontier.pump import STILL_S, Pump

T = TypeVar("T")


class Engine:
    """``begin`` comes first."""

    def __init__(self) -> None:
        self._pump: Pump | None = None

    def begin(self, pump: Pump) -> None:
        self._pump = pump

    @property
    def pump(self) -> Pump:
        assert self._pump is not None
        return self._pump

    async def ask(self, call: Callable[..., T], *args: object) -> T | None:
        """What the call returns; None where the database cannot be reached, or something else has failed."""
        if self.pump.failure is not None:
            return None
        try:
            return await self.pump.ask(call, *args)
        except StorageError as error:
            self.pump.failed(error)
            return None

    async def between_commits(self, call: Callable[..., T], *args: object, still_s: float = STILL_S) -> T | None:
        """As ``ask``, while no commit is under way; None also where one takes longer than ``still_s``."""
        if self.pump.failure is not None:
            return None
        try:
            return await self.pump.between_commits(call, *args, still_s=still_s)
        except TimeoutError:
            return None
        except StorageError as error:
            self.pump.failed(error)
            return None
