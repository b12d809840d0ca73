"""A crawl's directory read back: rows, bodies, what became of each line, and whether all of it is sound.

The law: what is shown is one commit's state, whole, also while the crawl runs; nothing in the directory is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from crawler.core import urls
from crawler.core.durable import is_there
from crawler.core.model import KINDS, PAGES, Known, Ref
from crawler.frontier import open_reader
from crawler.output.archive.reader import is_gone, open_body
from crawler.output.archive.verify import Verified, verify
from crawler.output.final_rows import final_rows
from crawler.output.results import Result, Row, row_at, rows
from crawler.output.results import read as read_results


class Reading:
    """The directory as of its last commit when this was opened. Every method may raise StorageError."""

    def __init__(self, directory: Path | str) -> None:
        self.root = Path(directory)
        self._store = open_reader(self.root / "frontier")
        self.marks = self._store.marks()

    def __enter__(self) -> Reading:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def results(self, kinds: Collection[str] = ()) -> Iterator[Result]:
        """Every row, or those of these kinds, in the order in which they were written, each with a way to its body."""
        every = read_results(self.root, self.marks, self.body, self.is_retired)
        return (result for result in every if result.row["kind"] in kinds) if kinds else every

    def rows(self, start: tuple[str, int] | None = None) -> Iterator[tuple[Ref, Row]]:
        """Rows with their places, from a place (file, offset) on."""
        return rows(self.root, self.marks, start, self.is_retired)

    def final(self) -> Iterator[Row]:
        """One row per listed line, duplicates resolved, and one per page found besides."""
        return final_rows(self.rows(), self._store.lookup, lambda ref: row_at(self.root, ref))

    def lookup(self, url: str) -> Known | str | None:
        """What is known of a URL, as a person writes it: its record, ``"waiting"``, ``"retrying"``, None. FetchError: it is
        no URL."""
        return self._store.lookup(urls.canonical(url))

    def budgets(self, url: str) -> tuple[int, int]:
        """Links admitted for a canonical URL's host, different query strings for its path."""
        return self._store.budgets(url)

    def robots(self, origins: Sequence[str]) -> list[bytes | None]:
        """The robots records kept for these origins (see ``crawler.policy.robots_rules``)."""
        return self._store.robots(origins)

    def body(self, ref: Ref, *, raw: bool = False) -> BinaryIO:
        """The body at ``Known.archive``: decoded, or as it is kept. LookupError: it is kept no longer."""
        if self.is_retired(ref.file):
            raise LookupError(f"the body is no longer kept: {ref.file} was retired")
        return open_body(self.root, ref, raw=raw)

    def is_retired(self, file: str) -> bool:
        """Whether a file is no longer kept, also if that is so only since this was opened."""
        if is_gone(self.root, self.marks, file):
            return True
        if is_there(self.root / file):
            return False
        self._store.refresh()
        return is_gone(self.root, self._store.marks(), file)

    def verify(self, report: Callable[[str], None]) -> Verified:
        """Check every mark, record, digest, row and entry of the store; each fault is reported in one sentence."""
        verified = verify(self.root, self.marks, (row for _, row in self.rows()), report)
        for fault in self._store.verify():
            verified.faults += 1
            report(str(fault))
        return verified

    def close(self) -> None:
        self._store.close()


def read(directory: Path | str, *, kinds: Collection[str] | None = PAGES) -> Iterator[Result]:
    """The results of a crawl: ``.row`` and ``.open()``, in bounded memory, also while it runs. Rows that are written later
    are not seen. StorageError: there is no crawl, or it is damaged.

    ``kinds``: of rows, such as ``{"seed"}`` or ``{"robots", "sitemap"}``; by default those of pages, None for all. ValueError:
    there is no such kind."""
    wanted = frozenset((kinds,) if isinstance(kinds, str) else kinds or ())
    if unknown := sorted(map(repr, wanted - set(KINDS))):
        raise ValueError(f"there is no kind of row {', '.join(unknown)}: they are {', '.join(KINDS)}")
    return _read(directory, wanted)


def _read(directory: Path | str, kinds: frozenset[str]) -> Iterator[Result]:
    with Reading(directory) as reading:
        yield from reading.results(kinds)
