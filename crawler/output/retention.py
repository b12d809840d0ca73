"""Retires closed files of a running crawl: deletes them by age and bytes, and notices those that its operator moved away.

Invariants: what the store knows comes first. A file is deleted only after a commit has marked it as retired, and loses its
mark only after it has gone; after a kill in between the rest is done again. A file without a mark is never deleted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from crawler.core.durable import OPEN, storing
from crawler.core.errors import StorageError, storage_error_of
from crawler.core.model import Mark
from crawler.output.archive import MARKED_FOLDERS
from crawler.output.file_names import EXCHANGE, UNNAMED, expired, noticed, number_of

LOOK_EVERY_S: Final = 60.0
FOLDERS: Final = (*MARKED_FOLDERS, "results")
"""With files that have marks."""

logger: Final = logging.getLogger(__name__)


class Retention:
    """The files of the crawl in ``root``. ``marks`` asks the store, ``retire`` commits marks (None: no mark any more), both
    under ``marking``; ``wall`` is wall time, as files have it. ``stored_at``: nothing is deleted that is not
    stored at that place (see ``crawler.output.uploads``). ``is_part``: of other parts of the crawl there are files as well."""

    def __init__(
        self,
        root: Path,
        *,
        age_s: float,
        bytes_max: int,
        marks: Callable[[], Awaitable[Mapping[str, Mark]]],
        retire: Callable[[Mapping[str, Mark | None]], Awaitable[None]],
        wall: Callable[[], float],
        marking: asyncio.Lock,
        stored_at: str | None = None,
        is_part: bool = False,
    ) -> None:
        self._root, self._age_s, self._bytes_max = root, age_s, bytes_max
        self._marks, self._retire, self._wall = marks, retire, wall
        self._marking, self._stored_at, self._is_part = marking, stored_at, is_part
        self._folders = _folders(root)
        self._wanted = asyncio.Event()

    def change(self, *, age_s: float, bytes_max: int) -> None:
        """From now on; looks at once."""
        self._age_s, self._bytes_max = age_s, bytes_max
        self._wanted.set()

    async def run(self) -> None:
        """Look for ever. What cannot be done now is tried again: no trouble here ends a crawl."""
        while True:
            try:
                await self.look()
            except Exception as error:
                if (trouble := storage_error_of(error)) is None:
                    raise
                logger.warning("retention: %s; looking again in %.0f s", trouble, LOOK_EVERY_S)
            try:
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._wanted.wait()
            except TimeoutError:
                pass
            self._wanted.clear()

    async def look(self) -> None:
        """Once: notice what has gone, retire what is old or too much, delete what is retired. Raises StorageError."""
        async with self._marking:
            await self._look()

    async def _look(self) -> None:
        # 1. Decide: closed files that have gone, and those to be deleted.
        marks = {file: mark for file, mark in (await self._marks()).items() if not file.startswith(EXCHANGE)}
        there = await asyncio.to_thread(self._there, marks)
        gone = noticed(marks, there)
        others = await asyncio.to_thread(self._others, marks) if self._is_part and self._bytes_max else {}
        limits = self._age_s, self._bytes_max
        old = expired(marks, there, self._wall(), *limits, stored_at=self._stored_at, others=others)
        retired = {file: replace(marks[file], retired=True) for file in old}
        # 2. The store first.
        if gone or retired:
            await self._retire({**retired, **gone})
        for file in sorted(file for file in gone if not marks[file].retired):
            logger.info("%s: moved or deleted while the crawl runs: retired", file)
        # 3. Only now delete: what was retired just now, and what a kill kept an earlier look from deleting.
        doomed = [file for file, mark in {**marks, **retired}.items() if mark.retired and mark.length and file in there]
        if doomed:
            await asyncio.to_thread(self._delete, doomed)
            size = sum(marks[file].length for file in doomed)
            logger.info("retired and deleted %d files, %d MiB, from %s on", len(doomed), size >> 20, doomed[0])

    def _there(self, marks: Mapping[str, Mark]) -> dict[str, float]:
        if _folders(self._root) != self._folders:
            raise StorageError(f"{self._root}: a folder is not the one it was when the crawl began: is a disk missing?")
        times = {file: _written_at(self._root / file) for file, mark in marks.items() if mark.closed}
        return {file: time for file, time in times.items() if time is not None}

    def _others(self, marks: Mapping[str, Mark]) -> dict[str, tuple[float, int]]:
        """(when it was written, bytes) of each file of the other parts."""
        found: dict[str, tuple[float, int]] = {}
        for folder in FOLDERS:
            with storing(self._root / folder), suppress(FileNotFoundError):
                for path in (self._root / folder).iterdir():
                    is_open = path.name.endswith(OPEN)
                    file = f"{folder}/{path.name.removesuffix(OPEN)}"
                    if number_of(file) >= 0 and file not in marks:
                        with suppress(FileNotFoundError):  # renamed or deleted meanwhile
                            stat = path.stat()
                            found[file] = UNNAMED if is_open else stat.st_mtime, stat.st_size
        return found

    def _delete(self, files: Iterable[str]) -> None:
        for file in files:
            with storing(self._root / file):
                (self._root / file).unlink(missing_ok=True)


def _written_at(path: Path) -> float | None:
    """When a closed file was last written; None if it has gone."""
    with storing(path):
        for name in (path, path.with_name(path.name + OPEN), path):  # it may be renamed between two looks
            try:
                found = name.stat()
            except FileNotFoundError:
                continue
            return found.st_mtime if name is path else UNNAMED
    return None


def _folders(root: Path) -> list[tuple[int, int] | None]:
    """Which directories they are: of one that is mounted there no file is missing when it is not."""
    found: list[tuple[int, int] | None] = []
    for name in FOLDERS:
        with storing(root / name):
            try:
                stat = (root / name).stat()
            except FileNotFoundError:
                found.append(None)
            else:
                found.append((stat.st_dev, stat.st_ino))
    return found
