"""The file side of a commit: what one batch adds to archive, index and results.

Invariants: between the store's prepare and its commit, everything of the batch is appended and made durable; none of it
counts before the commit, and after a failed one every file is cut back to its mark. Only the writer thread comes here.
"""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from msgspec.structs import replace

from crawler.core.batch import Prepared, Settled
from crawler.core.model import NOT_FETCHED, Done, Dropped, Known, Mark, Ref
from crawler.output.archive import Archive, Kept
from crawler.output.changes import GONE_STATUS, Intervals
from crawler.output.results import Results, Row
from crawler.output.rows import has_record, known_of, rows_of

RECORD_BYTES: Final = 2 << 20
"""Of the record that is being packed: a head of 256 KiB some times over, the packer's tables, a piece of the body."""

logger: Final = logging.getLogger(__name__)


class Outbox(Protocol):
    """What is written down for other parts of the crawl; ``crawler.frontier.exchange.outbox`` has it."""

    def append(self, prepared: Prepared) -> None: ...

    def sync(self) -> dict[str, Mark]: ...

    def committed(self) -> None: ...

    def rewind(self, marks: Mapping[str, Mark]) -> list[str]: ...

    def cut(self, marks: Mapping[str, Mark]) -> None: ...

    def close(self) -> None: ...

    @property
    def buffered(self) -> int: ...


class Journal:
    """Every method may raise StorageError; after that only ``rewind`` and ``close`` may be called. ``rewind`` comes first.
    ``intervals``: when what is settled is to be visited again; None: never by schedule."""

    def __init__(
        self, archive: Archive, results: Results, intervals: Intervals | None = None, outbox: Outbox | None = None
    ) -> None:
        self._intervals = intervals
        self._archive = archive
        self._results = results
        self._outbox = outbox
        self._appending = False
        self._lengths: dict[str, int] = {}
        self._rolls: deque[bool] = deque()  # those asked for and not committed, and whether of the rows as well
        self._rolling = 0  # of these, so many are part of the batch being committed
        self._rolled: list[tuple[str, int]] = []  # full, as of the batch being committed
        self.written_bytes = 0
        """Added to files since it was opened."""
        self.rolled_count = 0
        """Files that are full, and have got their final names, since it was opened; after a failure perhaps some more."""
        self.is_ahead = False
        """Something may have been written that no commit knows."""

    def write(self, prepared: Prepared) -> tuple[Sequence[Known | None], Mapping[str, Mark]]:
        """Append a batch and make it durable: what the store is to know of each settled lease, and the marks of every file it
        touched."""
        known = self.append(prepared)
        marks = self.sync()
        self._count(marks)
        return known, marks

    def append(self, prepared: Prepared) -> list[Known | None]:
        """Write the batch's records, index lines and rows, each once; what the store is to know of each settled lease
        (None: nothing new, for a Retry and for kind ``expand``). Spool files of bodies may have been moved."""
        self.is_ahead = True
        self._appending = True
        try:
            return self._append(prepared)
        finally:
            self._appending = False

    def _append(self, prepared: Prepared) -> list[Known | None]:
        settled = prepared.batch.settled
        wall = prepared.batch.wall
        if prepared.batch.retired:
            self._archive.retire(file for file, mark in prepared.batch.retired.items() if mark is None or mark.retired)
        kept = [self._keep(one) for one in settled]
        known: list[Known | None] = [None] * len(settled)
        for index, row in rows_of(prepared, kept):
            if row["status"] == 304 and index is not None:
                self._tell_type(row, settled[index].lease.known)
            ref = self._told(settled[index]) if index is not None else None
            ref = ref or self._results.append(row)
            if index is not None:
                record = known_of(settled[index], kept[index], row, ref, wall)
                known[index] = record if self._intervals is None else self._scheduled(record, settled[index], prepared.batch.now)
        if self._outbox is not None:
            self._outbox.append(prepared)
        return known

    def _told(self, settled: Settled) -> Ref | None:
        """The row that has told already how a link ended, if it still stands there: of a page that came due by its schedule, and
        is left out for the same reason as last time. A host of a million pages that is blocked, or down, would make a million
        rows each time."""
        before, outcome = settled.lease.known if settled.lease.recrawl else None, settled.outcome
        if before is None or before.due is None or before.row is None or not isinstance(outcome, Dropped):
            return None
        if outcome.outcome not in NOT_FETCHED and outcome.reason != "host_down":
            return None
        is_same = (outcome.outcome, outcome.reason) == (before.outcome, before.reason)
        return before.row if is_same and self._results.holds(before.row) else None

    def _tell_type(self, row: Row, before: Known | None) -> None:
        """A 304 need not say of what type the page is that it confirms, and what it says is often its own: the row of the visit
        before tells how the body that is kept came, and was read."""
        earlier = self._results.row(before.row) if before is not None and before.row is not None else None
        if earlier is not None and before is not None and (before.can_be_confirmed or row["mime"] is None):
            row |= {name: earlier.get(name) for name in ("mime", "charset", "encoding")}

    def _scheduled(self, known: Known, settled: Settled, now: float) -> Known:
        """With the time of its next visit. What is excluded when it is due, or of an unwanted type, keeps its schedule: it may be
        wanted again."""
        assert self._intervals is not None
        before = settled.lease.known
        keeps = known.reason in ("excluded", "mime") and before is not None and before.interval is not None
        if known.link.kind == "robots" or (known.outcome in ("skipped", "invalid_url") and not keeps):
            return known
        change = known.change or ("unchanged" if known.status in GONE_STATUS else None)  # what is still gone is as it was
        interval = self._intervals.after(before.interval if before is not None else None, change)
        return replace(known, interval=interval, due=now + interval)

    def sync(self) -> dict[str, Mark]:
        """Make the batch durable; the marks of every file it touched."""
        self._rolling = len(self._rolls)
        for at in range(self._rolling):  # more may come meanwhile
            self._archive.roll()
            if self._rolls[at]:
                self._results.roll()
        marks = self._archive.sync() | self._results.sync()
        return marks if self._outbox is None else marks | self._outbox.sync()

    def committed(self) -> None:
        """The store has committed the marks: full files are closed, named and sorted."""
        self.is_ahead = False
        self._archive.committed()
        self._results.committed()
        if self._outbox is not None:
            self._outbox.committed()
        for file, size in self._rolled:
            logger.info("file rolled", extra={"file": file, "bytes": size})
        self.rolled_count += len(self._rolled)
        self._rolled.clear()
        for _ in range(self._rolling):
            self._rolls.popleft()
        self._rolling = 0

    def rewind(self, marks: Mapping[str, Mark]) -> list[str]:
        """Cut every file back to what the store committed; the files moved to lost+found. A StorageError that is ``final``
        names a file that is missing or shorter than its mark."""
        self._lengths = {file: mark.length for file, mark in marks.items() if not mark.closed}
        lost = self._archive.rewind(marks) + self._results.rewind(marks)
        if self._outbox is not None:
            lost += self._outbox.rewind(marks)
        self.rolled_count += len(self._rolled)  # a commit that was made all the same: they have got their names just now
        self._rolled.clear()
        self._rolling = 0
        self.is_ahead = False
        return lost

    def cut(self, marks: Mapping[str, Mark]) -> None:
        """Cut every file back, and close: the process ends, and later readers of the directory must find whole records."""
        with contextlib.ExitStack() as stack:
            for files in self._all():
                stack.callback(files.cut, marks)
        self.is_ahead = False

    @property
    def memory_used(self) -> int:
        """Bytes in memory: what waits to be written, and the record being made. May be asked by any thread."""
        return sum(files.buffered for files in self._all()) + RECORD_BYTES * self._appending

    def describe(self, settings: Mapping[str, str]) -> None:
        """Records say that they are made with these settings, from now on. From any thread."""
        self._archive.describe(settings)

    def roll(self, *, rows: bool = False) -> None:
        """The next ``sync`` to begin closes the archive's files, so that other tools find them by their final names; and those of
        the ``rows``, in one commit. From any thread."""
        self._rolls.append(rows)

    def close(self) -> None:
        with contextlib.ExitStack() as stack:
            for files in self._all():
                stack.callback(files.close)

    def _all(self) -> list[Archive | Results | Outbox]:
        """Those that are there."""
        return [self._archive, self._results] if self._outbox is None else [self._archive, self._results, self._outbox]

    def _count(self, marks: Mapping[str, Mark]) -> None:
        for file, mark in marks.items():
            self.written_bytes += mark.length - self._lengths.pop(file, 0)
            if mark.closed:
                self._rolled.append((file, mark.length))
            else:
                self._lengths[file] = mark.length

    def _keep(self, settled: Settled) -> Kept | None:
        if not has_record(settled):
            return None
        assert isinstance(settled.outcome, Done)
        return self._archive.append(settled.lease, settled.outcome)
