"""What one way to keep pages is: its writer (``Archive``), and how its records are named, found, read and checked (``Kind``).

``crawler.output.archive`` has the table of kinds. Nothing outside this folder asks which kind it deals with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from msgspec import Struct

from crawler.config.sections import ArchiveConfig
from crawler.core.errors import StorageError
from crawler.core.model import Done, Lease, Mark, Ref

Place = dict[str, Any]
"""The ``archive`` field of a row."""


class Kept(Struct, frozen=True, gc=False):
    """Where a page was put. ``body`` is where its bytes stand: an earlier record, if ``record`` is a revisit of it."""

    record: Ref
    body: Ref
    body_at: float
    """When ``body`` was fetched: wall time, seconds since the epoch."""
    unmodified: bool = False
    """The server said 304: the page's own body is empty, the digest of what it stands for is the earlier one's."""


class Archive(Protocol):
    """The writer. Only the writer thread calls it, between the store's prepare and commit (crawler.output.journal).

    Every method may raise StorageError; after that only ``rewind`` and ``close`` may be called. ``append`` promises nothing;
    what lies before a mark that was committed is there once and for ever."""

    def append(self, lease: Lease, done: Done) -> Kept | None:
        """Write one page and its index line; None if this kind keeps nothing. It may move the body's spool file."""

    def describe(self, settings: Mapping[str, str]) -> None:
        """What is appended from now on was made with these settings. May be called by any thread."""

    def sync(self) -> dict[str, Mark]:
        """Make all appended bytes durable; the marks of the files that changed. A full file is marked ``closed``."""

    def committed(self) -> None:
        """The marks of the last ``sync`` are committed: closed files get their final name and sorted index."""

    def rewind(self, marks: Mapping[str, Mark]) -> list[str]:
        """Cut every file back to its mark and continue from there; the files moved to lost+found. Used at start, and
        after a failed batch. Marks of files that are not the archive's are left alone."""

    def cut(self, marks: Mapping[str, Mark]) -> None:
        """Close, and cut every file that is being written back to its mark: the process ends, and what was not committed must
        not be found behind it. Only ``close`` may follow."""

    def retire(self, files: Iterable[str]) -> None:
        """These are about to be deleted: nothing that is appended from now on may refer to them."""

    def roll(self) -> None:
        """Ask for the open files to be closed by the next ``sync`` (end of a crawl)."""

    def close(self) -> None: ...

    @property
    def buffered(self) -> int:
        """Bytes appended that wait in memory. May be asked by any thread."""


class UnmarkedArchive:
    """What there is to do for files that have no marks: none is rolled, cut back or closed, and nothing waits in memory."""

    def describe(self, settings: Mapping[str, str]) -> None: ...

    def sync(self) -> dict[str, Mark]:
        return {}

    def committed(self) -> None: ...

    def rewind(self, marks: Mapping[str, Mark]) -> list[str]:
        return []

    def cut(self, marks: Mapping[str, Mark]) -> None: ...

    def retire(self, files: Iterable[str]) -> None: ...

    def roll(self) -> None: ...

    def close(self) -> None: ...

    @property
    def buffered(self) -> int:
        return 0


class Findings:
    """What ``crawler.output.verify`` has counted and reported so far. ``rows_retired``: some rows are no longer kept, or not
    readable."""

    def __init__(self, report: Callable[[str], None], *, rows_retired: bool = False) -> None:
        self._report = report
        self.rows_retired = rows_retired
        self.files = self.records = self.rows = self.faults = 0

    def fault(self, text: str) -> None:
        self.faults += 1
        self._report(text)

    @contextmanager
    def noting(self) -> Iterator[None]:
        """A StorageError in here is a fault, and ends nothing."""
        try:
            yield
        except StorageError as error:
            self.fault(str(error))


class Checker(Protocol):
    """Checks the records of one kind, and that rows and records belong together."""

    def row(self, ref: Ref, row: Mapping[str, Any]) -> None:
        """The next row whose record is of this kind, and where it stands."""

    def end(self) -> None:
        """There are no more rows."""


class Kind(Protocol):
    """How what an ``Archive`` wrote is found again. Files are named relative to the crawl's directory ``root``.

    Files with marks are named ``FOLDER/PREFIX-TIME-SERIAL-HOST...`` (see ``crawler.output.file_names``)."""

    @property
    def folders(self) -> tuple[str, ...]:
        """What it makes in the crawl's directory; records are in the first."""

    @property
    def has_marks(self) -> bool:
        """Whether commits know the lengths of its files; otherwise each of them is whole and stands for itself."""

    @property
    def decodes(self) -> bool:
        """Whether bodies are kept without their content coding."""

    def writer(
        self, config: ArchiveConfig, root: Path, info: Mapping[str, str], settings: Mapping[str, str], part: int
    ) -> Archive:
        """See ``crawler.output.archive.open_archive``."""

    def place(self, kept: Kept) -> Place:
        """What a row says of where its record stands, and whose body it repeats."""

    def refs(self, place: Place, body_bytes: int) -> tuple[Ref, Ref] | None:
        """(record, body) of such a place; None if it is another kind's. ``body_bytes``: length of the decoded body."""

    def is_gone(self, root: Path, marks: Mapping[str, Mark], file: str) -> bool:
        """Whether a file is no longer kept."""

    def open(self, root: Path, ref: Ref, *, raw: bool) -> BinaryIO:
        """The body at ``ref``, in bounded memory: decoded, or ``raw`` as it is kept. StorageError: there is none."""

    def checker(self, root: Path, marks: Mapping[str, Mark], findings: Findings) -> Checker:
        """Check what the marks name, and what the rows do that it will be handed."""
