"""Local failures (disk full, out of descriptors, store errors): they pause the crawl or end it, and are never a page's fate.

Invariant: the crawl goes on by itself when the cause is gone. It ends with StorageError when that takes longer than
``patience_s`` (infinite in the daemon) or can never pass (EIO, a damaged file).
"""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import shutil
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Final, NamedTuple

from crawler.core.durable import storing
from crawler.core.errors import RemoteError, StorageError
from crawler.core.snapshot import Limiter, Pause
from crawler.resources.dealing import Dealing

WATCH_EVERY_S: Final = 1.0
WAIT_S_MAX: Final = 15.0
"""Between two attempts at a write that failed."""
FREE_BYTES_MIN: Final = 1 << 20
"""Below this much free disk nothing can be trusted to be written, whatever the operator allows."""
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Errors of a disk that is full: it is waited for."""
FOLDER_SHARE: Final = 20
"""A disk mounted on a folder of the crawl need have no more free than this part of it: one that is small would never do."""
SCARCE: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})
"""Errors of a machine that has no more to give just now: there are fewer fetches at a time."""
SCARCE_PATIENCE_S: Final = 60.0
"""How long even one fetch at a time may be too many."""

logger: Final = logging.getLogger(__name__)


class DiskRoom(NamedTuple):
    """What is free on the disk of a folder, and what has to be."""

    free_bytes: int
    least_bytes: int
    place: Path


class Disk:
    """Watches the disk under ``root``, and those that may be mounted on its ``folders``; takes the StorageErrors of visits and
    commits.

    Two clocks run against the patience, each from its own beginning to its own end: the disk is low (until there is room
    again), and writes fail (until a commit goes through: that there is room is no proof, a quota may be full)."""

    def __init__(
        self,
        root: Path,
        dealing: Dealing,
        *,
        min_free_bytes: int,
        patience_s: float,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        folders: Iterable[str] = (),
    ) -> None:
        self._root, self._folders = root, tuple(root / name for name in folders)
        self._dealing = dealing
        self._min_free_bytes = max(min_free_bytes, FREE_BYTES_MIN)
        self._patience_s = patience_s
        self._clock = clock
        self._sleep = sleep
        self._low_since: float | None = None
        self._failing_since: float | None = None
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
            self.look()
            await self._sleep(WATCH_EVERY_S)

    def look(self) -> None:
        """Once. Raises StorageError when the disk has been low for too long, or cannot be asked: it is gone."""
        disks = self._disks()
        self.free_bytes = min(disk.free_bytes for disk in disks)
        if (low := _low(disks)) is None:
            self._low_since = None
            if Pause.DISK_LOW in self._dealing.pauses:
                logger.info("disk: %d MiB free again; going on", self.free_bytes >> 20)
                self._dealing.resume(Pause.DISK_LOW)
        else:
            rule = "min_free_disk" if low.least_bytes == self._min_free_bytes else "a twentieth of that disk"
            least = f"{rule} ({low.least_bytes >> 20} MiB)"
            if self._low_since is None:
                self._low_since = self._clock()
            if Pause.DISK_LOW not in self._dealing.pauses:
                said = "disk: %d MiB free at %s, less than %s; paused until there is more"
                logger.warning(said, low.free_bytes >> 20, low.place, least)
                self._dealing.pause(Pause.DISK_LOW)
            full = f"the disk of {low.place} is full: less than {least} has been free for too long; make room"
            self._give_up_in_time(self._low_since, StorageError(full, errno=errno.ENOSPC))

    async def recover(self, error: StorageError) -> None:
        """Wait until a failed write may be tried again. Raises the error if that is never, took too long, or the crawl drains."""
        if isinstance(error, RemoteError):
            await self._reconnect(error)
            return
        self._count(error)
        if error.final or error.errno == errno.EIO or self._dealing.draining:
            raise error
        logger.warning("storage: %s; going back to the last commit", error)
        since = self._write_failed()
        while True:
            self._give_up_in_time(since, error)
            await self._wait(self._wait_s, error)
            self._wait_s = min(self._wait_s * 2, WAIT_S_MAX)
            if error.errno not in FULL or _low(self._disks()) is None:
                return

    async def _wait(self, seconds: float, error: StorageError) -> None:
        """In steps: a drain may begin meanwhile, and does not wait for a disk."""
        until = self._clock() + seconds
        while (left_s := until - self._clock()) > 0:
            await self._sleep(min(left_s, WATCH_EVERY_S))
            if self._dealing.draining:
                raise error

    async def _reconnect(self, error: RemoteError) -> None:
        """As ``recover``, for the database of a crawl of many machines: what it has decided is taken at once; where it cannot be
        reached, it is tried again every second."""
        if error.at_once:
            logger.warning("%s", error)
            return
        if self._dealing.draining:
            raise error
        if self._failing_since is None:
            logger.warning("database: %s; going back to the last commit when it is there again", error)
        self._give_up_in_time(self._write_failed(), error)
        await self._sleep(WATCH_EVERY_S)

    def committed(self) -> None:
        """A commit went through: whatever kept writes from going through is over."""
        self._failing_since = None
        self._wait_s = WATCH_EVERY_S

    async def visit_failed(self, error: StorageError, out: int) -> None:
        """A visit met our own trouble; its lease was given back. Slows down, pauses, or raises."""
        self._count(error)
        if error.errno in FULL:
            self._give_up_in_time(self._write_failed(), error)
            if Pause.DISK_LOW not in self._dealing.pauses:
                logger.warning("disk: %s; paused", error)
                self._dealing.pause(Pause.DISK_LOW)  # the watch resumes it
            return
        if error.errno not in SCARCE:
            raise error
        now = self._clock()
        if self._scarce_since is None:
            self._scarce_since = now
        if now - self._scarce_since > SCARCE_PATIENCE_S and self._out_max == 1:
            raise error
        before, self._out_max = self._out_max, max(1, min(out, self._out_max or out) // 2)
        self._dealing.limit(Limiter.SCARCE, self._out_max)
        if self._out_max != before:
            logger.warning("%s; fetches at a time now: %d", error, self._out_max)
        await self._sleep(WATCH_EVERY_S)

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

    def _disks(self) -> list[DiskRoom]:
        """Of each disk. Raises StorageError."""
        with storing(self._root):
            disk = self._root.stat().st_dev
            found = [DiskRoom(shutil.disk_usage(self._root).free, self._min_free_bytes, self._root)]
            others = [folder for folder in self._folders if folder.exists() and folder.stat().st_dev != disk]
        for folder in others:
            with storing(folder):
                size, _, free = shutil.disk_usage(folder)
            found.append(DiskRoom(free, max(min(self._min_free_bytes, size // FOLDER_SHARE), FREE_BYTES_MIN), folder))
        return found

    def _count(self, error: StorageError) -> None:
        name = errno.errorcode.get(error.errno, "other")
        self.errors[name] = self.errors.get(name, 0) + 1

    def _write_failed(self) -> float:
        """Since when writes fail."""
        if self._failing_since is None:
            self._failing_since = self._clock()
        return self._failing_since

    def _give_up_in_time(self, since: float, error: StorageError) -> None:
        if self._patience_s < math.inf and self._clock() - since > self._patience_s:
            raise error


def _low(disks: list[DiskRoom]) -> DiskRoom | None:
    """The disk that lacks most of what has to be free; None if none lacks any."""
    worst = min(disks, key=lambda disk: disk.free_bytes - disk.least_bytes)
    return worst if worst.free_bytes < worst.least_bytes else None
