"""Checkpoints of a crawl, whether it runs or not: which parts are asked in which order.

Several processes make one consistent cut without standing still together. A link on its way stands in the exchange file of its
sender until its receiver has committed it. So it is enough that nobody begins to read what others send, and nobody deletes what
all have read, from before the first store is cut until after the last: then each store has read, in its cut, no further than
its senders had written in theirs, and what it has not read is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from msgspec import Struct

from crawler.core.errors import ConfigError, StorageError
from crawler.core.model import Mark
from crawler.crawl.crawl import Crawl
from crawler.crawl.maintenance import open_stores
from crawler.frontier import Store
from crawler.frontier.division import FILE_NAME, division_at, moving_at, store_of
from crawler.output.checkpoint import Checkpoint, Copied, Cut

FRONTIER: Final = "frontier"
_DIVIDED: Final = (f"{FRONTIER}/{FILE_NAME}",)


class Taken(Struct, frozen=True):
    """What one store's cut came to: seconds that its commits were held up, files, their bytes, and files that were not there."""

    seconds: float
    files: int
    bytes: int
    missing: tuple[str, ...]

    @staticmethod
    def of(cut: Cut) -> Taken:
        return Taken(cut.seconds, cut.files, cut.bytes, tuple(cut.missing))


async def take(crawl: Crawl, root: Path, name: str | None = None) -> Copied:
    """A checkpoint of a crawl that runs. ConfigError: there can be none of that name; StorageError: not now; TimeoutError: a
    commit takes too long."""
    checkpoint = Checkpoint(root, name)
    await asyncio.to_thread(checkpoint.prepare)
    cut = checkpoint.cut()
    try:
        await crawl.pump.between_commits(cut.take, FRONTIER, partial(_copied, crawl.store))
        await asyncio.to_thread(cut.copy)
    except BaseException:
        cut.close()
        checkpoint.discard()
        raise
    await asyncio.to_thread(checkpoint.finish)
    return _summed(checkpoint, [Taken.of(cut)])


def take_still(root: Path) -> Copied:
    """A checkpoint of a crawl that does not run. As ``take``; StorageError with EWOULDBLOCK: it does."""
    with open_stores(root) as stores:
        if moving_at(root / FRONTIER) is not None:
            raise ConfigError(f"{root}: its hosts are being divided anew: go on with the command of this crawl first")
        division = division_at(root / FRONTIER)
        checkpoint = Checkpoint(root)
        checkpoint.prepare()
        taken = []
        try:
            if division is not None:
                checkpoint.make(FRONTIER)
            for part, store in enumerate(stores):
                cut = checkpoint.cut()
                try:
                    cut.take(FRONTIER if division is None else _store_of(part), partial(_copied, store))
                    cut.copy()
                finally:
                    cut.close()
                taken.append(Taken.of(cut))
        except BaseException:
            checkpoint.discard()
            raise
        checkpoint.finish(_DIVIDED if division is not None else ())
        return _summed(checkpoint, taken)


def _store_of(part: int) -> str:
    return str(store_of(Path(FRONTIER), part))


def _copied(store: Store, path: Path) -> Mapping[str, Mark]:
    store.copy_to(path)
    return store.marks()


def _summed(checkpoint: Checkpoint, taken: Sequence[Taken]) -> Copied:
    """What the cuts of all stores came to together."""
    return Copied(
        checkpoint.path,
        max(each.seconds for each in taken),
        sum(each.files for each in taken),
        sum(each.bytes for each in taken),
        tuple(file for each in taken for file in each.missing),
    )


# -- of a crawl by several processes ----------------------------------------------------------------------------------


class Cutters(Protocol):
    """The processes of a crawl. A coroutine returns when all of them have done it; StorageError: one cannot, or has just died.
    The other methods neither wait nor fail: a process that has died holds nothing."""

    async def hold_exchange(self) -> None:
        """From now on nobody begins to read what others send, and nobody deletes."""

    async def cut(self, made: Path) -> None:
        """Each its own store, into ``made``."""

    def let_go(self) -> None:
        """From now on they read and delete again."""

    async def copy(self) -> Sequence[Taken]:
        """The files that were still being written at the cut."""

    def forget(self) -> None:
        """Drop what was cut."""


async def take_of_all(cutters: Cutters, root: Path, name: str | None = None) -> Copied:
    """A checkpoint of a crawl by several processes. As ``take``."""
    checkpoint = Checkpoint(root, name)
    await asyncio.to_thread(checkpoint.prepare)
    try:
        checkpoint.make(FRONTIER)
        try:
            await cutters.hold_exchange()
            await cutters.cut(checkpoint.made)
        finally:
            cutters.let_go()
        taken = await cutters.copy()
    except BaseException:
        cutters.forget()
        checkpoint.discard()
        raise
    await asyncio.to_thread(checkpoint.finish, _DIVIDED)
    return _summed(checkpoint, taken)


@contextmanager
def _in_time() -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise StorageError("a commit takes too long: ask once more") from None


class PartCutter:
    """What each of the processes does for a checkpoint of all, as ``Cutters`` has it. It lets go of the exchange by itself only
    when it ends. Methods raise StorageError: not now."""

    def __init__(self, crawl: Crawl, part: int) -> None:
        self._crawl, self._part = crawl, part
        self._intake = crawl.pump.intake
        self._cut: Cut | None = None
        self._holds = False
        self._turn = 0
        """How often it was to let go: where that has changed while it waited, whoever asked it to hold has given up."""

    async def hold_exchange(self) -> None:
        if not self._holds:
            turn = self._turn
            if self._intake is not None:
                with _in_time():
                    await self._intake.hold()
                if turn != self._turn:
                    self._intake.let_go()
                    raise StorageError(f"what process {self._part} of this crawl was at took too long: ask once more")
            self._holds = True

    async def cut(self, made: Path) -> None:
        if not self._holds:  # it was begun again since
            raise StorageError(f"process {self._part} of this crawl has just been begun again: ask once more")
        self.forget()
        self._cut = Cut(self._crawl.root, made)
        with _in_time():
            await self._crawl.pump.between_commits(self._cut.take, _store_of(self._part), partial(_copied, self._crawl.store))

    def let_go(self) -> None:
        self._turn += 1
        if self._holds:
            self._holds = False
            if self._intake is not None:
                self._intake.let_go()

    async def copy(self) -> Taken:
        cut = self._cut
        if cut is None:
            raise StorageError(f"process {self._part} of this crawl has just been begun again: ask once more")
        await asyncio.to_thread(cut.copy)
        self._cut = None
        return Taken.of(cut)

    def forget(self) -> None:
        if self._cut is not None:
            self._cut.close()
            self._cut = None
