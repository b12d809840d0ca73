"""How a crawl ends before nothing is left: why, and how long what is in flight may take then.

Invariant: a signal, or the API, that asks a crawl to end waits no longer than its grace. A limit of the configuration that is
reached (``max_pages``, ``max_bytes``, ``max_time``) sets no such deadline: the rest has as much time as at a natural end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

GRACE_FOR_COMMIT_S: Final = 1.0
"""The part of the grace kept for the last commit."""
GRACE_FOR_UPLOADS: Final = 1 / 3
"""The share of the grace kept for what was written last to be stored."""


class Ending:
    """Begins at most once; the first reason counts."""

    def __init__(self) -> None:
        self.why: str | None = None
        """A signal's name, "control API", or the limit that was reached; None: nothing ends the crawl early."""
        self._begun, self._asked = asyncio.Event(), asyncio.Event()
        self._asked_at = 0.0
        """When somebody has asked it to end, by the loop's clock: a signal, or the API."""

    def begin(self, why: str) -> None:
        if self.why is None:
            self.why = why
        if not why.startswith("max_") and not self._asked.is_set():
            self._asked_at = asyncio.get_running_loop().time()
            self._asked.set()
        self._begun.set()

    async def begun(self) -> None:
        """Returns when it has begun."""
        await self._begun.wait()

    async def give_time(self, work: Coroutine[Any, Any, None], wait_s: float, grace_s: float) -> None:
        """Let ``work`` go on for at most ``wait_s``, and no longer than the grace, once the crawl is asked to end."""
        working = asyncio.create_task(work, name="ending")
        asked = asyncio.create_task(self._asked.wait(), name="asked")
        try:
            await asyncio.wait([working, asked], timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
            if self._asked.is_set():
                left_s = self._asked_at + grace_s - GRACE_FOR_COMMIT_S - asyncio.get_running_loop().time()
                await asyncio.wait([working], timeout=max(0.0, left_s))
        finally:
            working.cancel()
            asked.cancel()


def visits_s(grace_s: float, *, uploads: bool) -> float:
    """How much of the grace the visits in flight may take, in seconds; ``uploads``: files are stored elsewhere after them."""
    for_uploads_s = grace_s * GRACE_FOR_UPLOADS if uploads else 0.0
    return max(0.0, grace_s - for_uploads_s - GRACE_FOR_COMMIT_S)
