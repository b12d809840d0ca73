"""Copies the full files of a running crawl to where ``store_url`` says: WARC files, their indexes, and rows.

Invariants: a file is marked as stored only once a whole copy of it stands there, and a file is uploaded again until it is
marked; so over kills it is stored once, whatever was seen of it. No trouble here ends a crawl, or is a page's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

from msgspec import Struct
from msgspec.structs import replace
from xxhash import xxh3_64_hexdigest

from crawler.core.durable import link, storing, sync_dir, write_beside
from crawler.core.errors import storage_error_of
from crawler.core.model import Mark
from crawler.core.text import printable
from crawler.output.bucket import Bucket, BucketError, DamagedFile, open_bucket
from crawler.output.file_names import EXCHANGE

LOOK_EVERY_S: Final = 0.25
"""Whether a file was rolled: no more than a number is compared."""
GROUP_FILES_MAX: Final = 16
"""Marked by one commit: what a kill takes from them is looked at once more."""
AGAIN_MIN_S: Final = 1.0
AGAIN_MAX_S: Final = 60.0
"""After a failure: twice as long each time, less some of it by chance."""
ID: Final = "store.id"
"""The file that holds the folder of a crawl's directory where its files are stored."""
PLACE: Final = "store.place"
"""The file that says, of a ``file://`` store, where that folder was made."""

logger: Final = logging.getLogger(__name__)


class WaitingFiles(Struct, frozen=True):
    """Full files that are not stored yet."""

    files: int = 0
    bytes: int = 0
    since: float = 0.0
    """When the oldest of them was written (wall time); 0.0 if there is none."""


class Uploads:
    """``marks`` asks the store, ``mark`` commits marks, one caller at a time under ``marking``; ``rolled`` counts the files
    that got their final names, ``jitter`` gives numbers from 0 to 1; ``folder`` is where in the bucket
    they go, ``place`` tells that from any other. What is marked as stored elsewhere is stored here too."""

    def __init__(
        self,
        root: Path,
        bucket: Bucket,
        folder: str,
        *,
        place: str,
        marks: Callable[[], Awaitable[Mapping[str, Mark]]],
        mark: Callable[[Mapping[str, Mark | None]], Awaitable[None]],
        marking: asyncio.Lock,
        rolled: Callable[[], int],
        jitter: Callable[[], float],
    ) -> None:
        self._root, self._bucket, self._folder, self._place = root, bucket, folder, place
        self._marks, self._mark, self._marking, self._rolled = marks, mark, marking, rolled
        self._jitter = jitter
        self._failed_in_a_row = 0
        self._seen = -1  # as many files had been rolled when it last looked
        self._hurry, self._idle = asyncio.Event(), asyncio.Event()
        self._under_way: asyncio.Timeout | None = None
        self.waiting = WaitingFiles()
        self.stored_files = self.stored_bytes = self.failures = 0
        """Since the start."""
        self.trouble: str | None = None
        """Why what waits cannot be stored just now."""

    async def run(self) -> None:
        """Whenever files are full, store them, for ever. What cannot be stored now is tried again."""
        while True:
            if (rolled := self._rolled()) != self._seen or self.waiting.files or self._failed_in_a_row:
                await self._attempt()
                self._seen = rolled
            if self._seen == self._rolled() and not self.waiting.files and not self._failed_in_a_row:
                self._idle.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause_s()):
                    await self._hurry.wait()
            self._hurry.clear()

    async def finish(self) -> None:
        """Returns when ``run`` has stored all that is full."""
        self._idle.clear()
        self._hurry.set()
        await self._idle.wait()

    def break_off(self) -> None:
        """End what is under way, to be tried again, where it may be what takes the memory. Of a directory it is not, and the
        thread that writes there would go on beside the next one's, into the same file."""
        if self._under_way is not None and not self._bucket.is_bounded:
            self._under_way.reschedule(0.0)
            self._under_way = None

    async def count(self) -> None:
        """What is full and not stored by now, also where there was no time to look."""
        try:
            self._note(await self._full())
        except Exception as error:
            if not isinstance(error, OSError) and storage_error_of(error) is None:
                raise

    def _pause_s(self) -> float:
        if not self._failed_in_a_row:
            return LOOK_EVERY_S
        longest_s: float = min(AGAIN_MAX_S, AGAIN_MIN_S * 2.0 ** min(10, self._failed_in_a_row - 1))
        return longest_s * (0.5 + self._jitter() / 2)

    async def _attempt(self) -> None:
        try:
            await self.look()
        except Exception as error:
            trouble = error if isinstance(error, BucketError | OSError) else storage_error_of(error)
            if trouble is None:
                raise
            self.failures += 1
            self._failed_in_a_row += 1
            told, self.trouble = self.trouble, printable(str(trouble))
            if told != self.trouble:  # once, and not at each attempt
                logger.warning("%d files wait to be stored: %s; trying again", self.waiting.files, self.trouble)
        else:
            if self.trouble is not None:
                logger.info("files are stored again")
            self._failed_in_a_row, self.trouble = 0, None

    async def look(self) -> None:
        """Once: store what is full. One that another file stands in the way of, or that is damaged, holds up no other. Raises
        BucketError."""
        files = await self._full()
        self._note(files)
        waiting = list(files)
        trouble: BucketError | None = None
        while waiting and (trouble is None or trouble.is_of_one):
            group, waiting = waiting[:GROUP_FILES_MAX], waiting[GROUP_FILES_MAX:]
            stored: dict[str, int] = {}
            for file in group:
                length = files[file][1]
                try:
                    await self._put(file, length)
                    stored[file] = length
                except FileNotFoundError:
                    del files[file]  # moved away meanwhile: its mark goes as well, by retention
                except BucketError as error:
                    trouble = error
                    if not error.is_of_one:
                        break
            await self._stored(stored)
            for file in stored:
                del files[file]
            self._note(files)
        if trouble is not None:
            raise trouble

    async def _put(self, file: str, length: int) -> None:
        try:
            async with asyncio.timeout(None) as self._under_way:
                await self._bucket.put(f"{self._folder}/{file}", self._root / file, length)
        except TimeoutError:
            raise BucketError("broken off, as memory was over its limit") from None
        finally:
            self._under_way = None

    async def _full(self) -> dict[str, tuple[float, int]]:
        """(when it was written, length) of each full file that is not stored, the oldest first."""
        marks = await self._marks()
        wanted = {
            file: mark.length
            for file, mark in marks.items()
            if mark.closed and not (mark.is_stored_at(self._place) or mark.retired) and not file.startswith(EXCHANGE)
        }
        return await asyncio.to_thread(self._there, wanted)

    def _there(self, wanted: Mapping[str, int]) -> dict[str, tuple[float, int]]:
        """Those that have their final names, and are whole: an index is sorted before it gets its own."""
        found: dict[str, tuple[float, int]] = {}
        for file, length in wanted.items():
            try:
                stat = (self._root / file).stat()
            except FileNotFoundError:
                continue
            found[file] = stat.st_mtime, length
        return dict(sorted(found.items(), key=lambda one: (one[1][0], one[0])))

    async def _stored(self, files: Mapping[str, int]) -> None:
        """Mark those that are still what they were: they may have been retired meanwhile."""
        if not files:
            return
        async with self._marking:
            marks = await self._marks()
            same = {file: marks[file] for file, length in files.items() if file in marks and marks[file].length == length}
            whole = {file: mark for file, mark in same.items() if mark.closed and not mark.retired}
            stored = {file: replace(mark, stored=True, place=self._place) for file, mark in whole.items()}
            if stored:
                await self._mark(stored)
        self.stored_files += len(files)
        self.stored_bytes += sum(files.values())

    def _note(self, files: Mapping[str, tuple[float, int]]) -> None:
        since = min((at for at, _ in files.values()), default=0.0)
        self.waiting = WaitingFiles(len(files), sum(length for _, length in files.values()), since)


def open_uploads(
    root: Path,
    url: str,
    *,
    marks: Callable[[], Awaitable[Mapping[str, Mark]]],
    mark: Callable[[Mapping[str, Mark | None]], Awaitable[None]],
    marking: asyncio.Lock,
    rolled: Callable[[], int],
    jitter: Callable[[], float],
) -> Uploads:
    """Of the crawl in ``root``, to where ``url`` says. Raises ConfigError, StorageError."""
    bucket, folder = open_bucket(url, root / PLACE), folder_of(root)
    logger.info("full files are stored at %s/%s/", url, folder)
    place = stored_place(url, root)
    return Uploads(root, bucket, folder, place=place, marks=marks, mark=mark, marking=marking, rolled=rolled, jitter=jitter)


async def verify_stored(root: Path, url: str, marks: Mapping[str, Mark], report: Callable[[str], None]) -> tuple[int, int]:
    """Compare each file that is marked as stored with its copy at ``url``, by length and sha256: (files compared, faults), each
    fault reported in one sentence. What is no longer here, or damaged here, is passed over. Raises ConfigError, StorageError;
    BucketError: the store cannot be asked."""
    bucket, compared, faults = open_bucket(url), 0, 0
    if not (root / ID).exists():
        return 0, 0
    folder, place = folder_of(root), stored_place(url, root)
    stored = {file: mark.length for file, mark in sorted(marks.items()) if mark.is_stored_at(place) and not mark.retired}
    for file, length in stored.items():
        try:
            fault = None if await bucket.holds(f"{folder}/{file}", root / file, length) else f"{file}: no copy at {url}/{folder}/"
        except (FileNotFoundError, DamagedFile):
            continue
        except BucketError as error:
            if not error.is_other:
                raise
            fault = f"{file}: the copy at {url}/{folder}/ is another file"
        compared += 1
        if fault is not None:
            faults += 1
            report(fault)
    return compared, faults


def stored_place(url: str, root: Path) -> str:
    """Tells where the files of this directory are stored from any other place: another store, or the folder of a copy of it."""
    return xxh3_64_hexdigest(f"{url}/{folder_of(root)}".encode())


def folder_of(root: Path) -> str:
    """The folder of this directory's files in the bucket: made once, so that neither another directory of the same store, nor
    an earlier crawl that ``--fresh`` set aside, has files by the same names. Raises StorageError."""
    path = root / ID
    with storing(path):
        try:
            return path.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            pass
        host = "".join(char if char.isalnum() or char in "-." else "_" for char in socket.gethostname())[:64]
        made = f"{time.strftime('%Y%m%d%H%M%S', time.gmtime())}-{host}-{secrets.token_hex(4)}"
        temporary = write_beside(path, f"{made}\n".encode("ascii", "replace"))
        with contextlib.suppress(FileExistsError):  # another part of this crawl was first
            if not link(temporary, path) and not path.exists():
                temporary.replace(path)
        temporary.unlink(missing_ok=True)
        sync_dir(root)
        return path.read_text(encoding="ascii").strip()
