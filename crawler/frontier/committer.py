"""Makes one batch durable: prepare → write → commit, over two threads; and cuts back after a failure.

The engine thread owns the store, the writer thread owns archive and results. Invariants: what ``commit`` returned from is
durable; after a StorageError nothing of the batch is, once ``rewind`` has returned.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from crawler.core.batch import Batch, Prepared
from crawler.core.errors import StorageError
from crawler.core.model import Known, Lease, Mark
from crawler.frontier.store import Store

T = TypeVar("T")


class Journal(Protocol):
    """What writes the files of a batch, in the writer thread. Every method may raise StorageError."""

    def write(self, prepared: Prepared) -> tuple[Sequence[Known | None], Mapping[str, Mark]]:
        """Append and sync a batch: what the store is to know of each settled link, and the marks of the files touched."""

    def committed(self) -> None:
        """The store has committed those marks."""

    def rewind(self, marks: Mapping[str, Mark]) -> object:
        """Cut every file back to these marks."""


class Committer:
    """The two threads, over a store and a journal; the loop waits for one call of either at a time."""

    def __init__(self, store: Store, journal: Journal) -> None:
        self._store = store
        self._journal = journal
        self.threads: list[int] = []
        """Native ids of the two, once each has begun."""
        self._engine = ThreadPoolExecutor(1, "engine", self._begun)
        self._writer = ThreadPoolExecutor(1, "writer", self._begun)
        self._is_closed = False

    async def commit(self, batch: Batch) -> Prepared:
        """Make a batch durable. Raises StorageError: then ``rewind``."""
        prepared = await self.on_engine(self._store.prepare, batch)
        known, marks = await self._in(self._writer, self._journal.write, prepared)
        await self.on_engine(self._store.commit, prepared, known, marks)
        await self._in(self._writer, self._journal.committed)
        return prepared

    async def rewind(self, claimed: Sequence[Lease]) -> None:
        """Back to the last commit, in store and files; ``claimed`` are still held. Raises StorageError: try again."""
        await self.on_engine(self._store.rewind, claimed)
        marks = await self.on_engine(self._store.marks)
        await self._in(self._writer, self._journal.rewind, marks)

    async def on_engine(self, call: Callable[..., T], *args: object) -> T:
        """Run a store call in its thread."""
        return await self._in(self._engine, call, *args)

    async def _in(self, thread: ThreadPoolExecutor, call: Callable[..., T], *args: object) -> T:
        """A cancelled caller waits for the call: half a commit is never left behind. Raises StorageError once it is closed: the
        control API may ask to the last."""
        if self._is_closed:
            raise StorageError("the store is closed: the crawl has ended")
        future = asyncio.get_running_loop().run_in_executor(thread, call, *args)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            if (error := future.exception()) is not None and not isinstance(error, StorageError):
                raise error from None  # a fault of ours
            raise

    def _begun(self) -> None:
        self.threads.append(threading.get_native_id())

    def close(self) -> None:
        self._is_closed = True
        self._engine.shutdown()
        self._writer.shutdown()
