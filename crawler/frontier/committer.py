"""One batch made true: prepare → write → commit, over two threads; and cutting back after a failure.

The engine thread owns the store, the writer thread owns archive and results. The law: what ``commit`` returned from is
durable; after a StorageError nothing of the batch is, once ``rewind`` has returned.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from msgspec import Struct

from crawler.core.model import Known, Lease, Mark
from crawler.frontier.store import Batch, Prepared, Store

T = TypeVar("T")


class Journal(Struct, frozen=True):
    """What writes the files of a batch: ``write`` appends and syncs it and gives (known, marks), ``written`` follows its
    commit, ``unwrite`` cuts every file back to the given marks. All run in the writer thread."""

    write: Callable[[Prepared], tuple[Sequence[Known | None], Mapping[str, Mark]]]
    written: Callable[[], None]
    unwrite: Callable[[Mapping[str, Mark]], object]


class Committer:
    def __init__(self, store: Store, journal: Journal) -> None:
        self._store = store
        self._journal = journal
        self._engine = ThreadPoolExecutor(1, "engine")
        self._writer = ThreadPoolExecutor(1, "writer")

    async def commit(self, batch: Batch) -> Prepared:
        """Make a batch durable. Raises StorageError: then ``rewind``."""
        prepared = await self.on_engine(self._store.prepare, batch)
        known, marks = await self._in(self._writer, self._journal.write, prepared)
        await self.on_engine(self._store.commit, prepared, known, marks)
        await self._in(self._writer, self._journal.written)
        return prepared

    async def rewind(self, claimed: Sequence[Lease]) -> None:
        """Back to the last commit, in store and files; ``claimed`` are still held. Raises StorageError: try again."""
        await self.on_engine(self._store.rewind, claimed)
        marks = await self.on_engine(self._store.marks)
        await self._in(self._writer, self._journal.unwrite, marks)

    async def on_engine(self, call: Callable[..., T], *args: object) -> T:
        """Run a store call in its thread."""
        return await self._in(self._engine, call, *args)

    async def _in(self, thread: ThreadPoolExecutor, call: Callable[..., T], *args: object) -> T:
        """A cancelled caller waits for the call: half a commit is never left behind."""
        future = asyncio.get_running_loop().run_in_executor(thread, call, *args)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            raise

    def close(self) -> None:
        self._engine.shutdown()
        self._writer.shutdown()
