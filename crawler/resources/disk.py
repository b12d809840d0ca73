"""Our own trouble: a full disk, no descriptors, a failing store. It pauses the crawl or ends it; it is never a page's fate.

The law: whatever is wrong here resumes by itself when its cause is gone, and ends the crawl with StorageError when
that takes longer than ``patience_s`` (infinite in the daemon) or can never pass (EIO, a damaged file).
"""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from crawler.core.errors import StorageError
from crawler.core.model import Limiter, Pause
from crawler.resources.dealing import Dealing

WATCH_EVERY_S: Final = 1.0
WAIT_S_MAX: Final = 15.0
FREE_BYTES_MIN: Final = 1 << 20
"""Below this much free disk nothing can be trusted to be written, whatever the operator allows."""
DISK: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
SCARCE: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})
SCARCE_PATIENCE_S: Final = 60.0


logger: Final = logging.getLogger(__name__)


class Disk:
    """Watches the disk under ``root`` and takes the StorageErrors of visits and commits."""

    def __init__(
        self,
        root: Path,
        dealing: Dealing,
        *,
        min_free_bytes: int,
        patience_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._root = root
        self._dealing = dealing
        self._min_free_bytes = max(min_free_bytes, FREE_BYTES_MIN)
        self._patience_s = patience_s
        self._clock = clock
        self._since: float | None = None
        self._wait_s = WATCH_EVERY_S
        self._scarce_since: float | None = None
        self._out_max: int | None = None
        self.free_bytes = 0
        self.errors: dict[str, int] = {}
        """Storage errors by errno name."""

    def change(self, *, min_free_bytes: int) -> None:
        self._min_free_bytes = max(min_free_bytes, FREE_BYTES_MIN)

    async def watch(self) -> None:
        """Pause the frontier while the disk is low; raises StorageError when that lasts too long."""
        while True:
            self._look()
            await asyncio.sleep(WATCH_EVERY_S)

    def _look(self) -> None:
        self.free_bytes = _free_bytes(self._root)
        if self.free_bytes >= self._min_free_bytes:
            if Pause.DISK_LOW in self._dealing.pauses:
                logger.info("disk: %d MiB free again; going on", self.free_bytes >> 20)
                self._since = None
                self._dealing.resume(Pause.DISK_LOW)
        else:
            if Pause.DISK_LOW not in self._dealing.pauses:
                logger.warning(
                    "disk: %d MiB free at %s, less than min_free_disk (%d MiB); paused until there is more",
                    self.free_bytes >> 20,
                    self._root,
                    self._min_free_bytes >> 20,
                )
                self._since = self._since or self._clock()
                self._dealing.pause(Pause.DISK_LOW)
            self._give_up_in_time(StorageError(f"the disk of {self._root} is full", errno=errno.ENOSPC))

    async def recover(self, error: StorageError) -> None:
        """Wait until a failed write may be tried again. Raises the error if that is never, or took too long."""
        self._count(error)
        if error.final or error.errno == errno.EIO or self._dealing.draining:
            raise error
        logger.warning("storage: %s; going back to the last commit", error)
        self._since = self._since or self._clock()
        while True:
            self._give_up_in_time(error)
            await asyncio.sleep(self._wait_s)
            self._wait_s = min(self._wait_s * 2, WAIT_S_MAX)
            if error.errno not in DISK or _free_bytes(self._root) >= self._min_free_bytes:
                return

    def committed(self) -> None:
        """A commit went through: what was wrong is over."""
        self._since = None
        self._wait_s = WATCH_EVERY_S

    async def visit_failed(self, error: StorageError, out: int) -> None:
        """A visit met our own trouble; its lease was given back. Slows down, pauses, or raises."""
        self._count(error)
        if error.errno in DISK:
            self._since = self._since or self._clock()
            if Pause.DISK_LOW not in self._dealing.pauses:
                logger.warning("disk: %s; paused", error)
                self._dealing.pause(Pause.DISK_LOW)  # the watch resumes it
            return
        if error.errno not in SCARCE:
            raise error
        now = self._clock()
        self._scarce_since = self._scarce_since or now
        if now - self._scarce_since > SCARCE_PATIENCE_S and self._out_max == 1:
            raise error
        before, self._out_max = self._out_max, max(1, min(out, self._out_max or out) // 2)
        self._dealing.limit(Limiter.SCARCE, self._out_max)
        if self._out_max != before:
            logger.warning("%s: at most %d fetches at a time now", errno.errorcode[error.errno], self._out_max)
        await asyncio.sleep(WATCH_EVERY_S)

    def visit_worked(self, workers: int) -> None:
        """A fetch went through: allow one more at a time, up to the workers."""
        if self._out_max is None:
            return
        self._scarce_since = None
        self._out_max += 1
        if self._out_max >= workers:
            self._out_max = None
            self._dealing.limit(Limiter.SCARCE, None)
        else:
            self._dealing.limit(Limiter.SCARCE, self._out_max)

    def _count(self, error: StorageError) -> None:
        name = errno.errorcode.get(error.errno, "other")
        self.errors[name] = self.errors.get(name, 0) + 1

    def _give_up_in_time(self, error: StorageError) -> None:
        if self._since is not None and self._patience_s < math.inf and self._clock() - self._since > self._patience_s:
            raise error


def _free_bytes(root: Path) -> int:
    found = os.statvfs(root)
    return found.f_bavail * found.f_frsize
