"""A crawl's directory read back: rows, bodies, what became of each line, and whether all of it is sound.

Invariants: what is shown is the state of one commit, whole, also while the crawl runs; nothing in the directory is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Protocol

from crawler.config.crawl_toml import FILE_NAME, read_identity, read_section
from crawler.config.sections import ScopeConfig
from crawler.core import urls
from crawler.core.durable import is_there
from crawler.core.errors import ConfigError, StorageError
from crawler.core.model import EMBED, THERE, Known, Mark, Ref
from crawler.output.archive import Findings, is_gone, open_body
from crawler.output.file_names import number_of
from crawler.output.final_rows import final_rows, is_ahead
from crawler.output.results import Result, Row, row_at, rows
from crawler.output.results import read as read_results
from crawler.output.summary import Summary
from crawler.output.verify import verify

EMBEDS_MAX: Final = 64
"""Documents and redirects between a requisite and its page."""


class StoreReader(Protocol):
    """What a store shows to readers beside it (see ``crawler.frontier.open_reader``)."""

    def lookup(self, url: str) -> Known | str | None: ...

    @property
    def is_partial(self) -> bool:
        """What it does not know may be another's to know: of a redirect, where it leads."""

    def lags(self, file: str, url: str) -> bool:
        """Whether it may not know yet what a results file says of a canonical URL."""

    def budgets(self, url: str) -> tuple[int, int]: ...

    def robots(self, origins: Sequence[str]) -> list[bytes | None]: ...

    def marks(self) -> Mapping[str, Mark]: ...

    def marks_now(self) -> Mapping[str, Mark]: ...

    def verify(self) -> Iterable[StorageError]: ...

    def close(self) -> None: ...


class CrawlReader:
    """The crawl in ``root`` as of its last commit when ``store`` was opened. Every method may raise StorageError."""

    def __init__(self, root: Path, store: StoreReader) -> None:
        """Closes ``store`` in the end."""
        self.root = root
        self._store = store
        self.marks = store.marks()
        self._gone: set[str] = set()
        """Files with marks that are kept no longer, as far as they were asked for."""

    def __enter__(self) -> CrawlReader:
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
        store = self._store
        return final_rows(self.rows(), store.lookup, lambda ref: row_at(self.root, ref), store.lags, is_partial=store.is_partial)

    def latest(self) -> Iterator[Row]:
        """Of every URL that was settled, the row of its last visit."""
        for ref, row in self.rows():
            if row["canonical"] is None:
                continue
            known = self._store.lookup(row["canonical"])
            if (isinstance(known, Known) and known.row == ref) or is_ahead(ref, row, known, self._store.lags):
                yield row

    def summary(self) -> Summary:
        """What the crawl has brought so far, the last visit of each URL."""
        summary = Summary()
        for row in self.latest():
            summary.add(row)
            if row["kind"] == EMBED and row["outcome"] not in THERE:
                summary.lacks(self._page_of(row["via"]))
        return summary

    def _page_of(self, via: str) -> str:
        """The page that needs what a requisite needs, however they are nested."""
        for _ in range(EMBEDS_MAX):
            known = self._store.lookup(via)
            if not isinstance(known, Known) or known.link.kind != EMBED or known.link.via is None:
                break
            via = known.link.via
        return via

    def lookup(self, url: str) -> Known | str | None:
        """What is known of a URL, as a person writes it: its record, ``"waiting"``, ``"retrying"``, None. FetchError: it is
        no URL. ConfigError: the settings that say what is canonical in this crawl cannot be read."""
        config = read_section(self.root, ScopeConfig, ("max_url", "drop_params", "sort_query")) or ScopeConfig()
        return self._store.lookup(urls.parse(url, rules=config.url_rules()).href)

    def known(self, url: str) -> Known | str | None:
        """As ``lookup``, of a canonical URL."""
        return self._store.lookup(url)

    def open_body(self, row: Row) -> BinaryIO:
        """The decoded body of a row. LookupError: none was kept, or it is kept no longer."""
        return Result(row, self.body).open()

    def budgets(self, url: str) -> tuple[int, int]:
        """Links admitted for a canonical URL's host, different query strings for its path."""
        return self._store.budgets(url)

    def robots(self, origins: Sequence[str]) -> list[bytes | None]:
        """The robots records kept for these origins (see ``crawler.policy.robots_rules``)."""
        return self._store.robots(origins)

    def body(self, ref: Ref, *, raw: bool = False) -> BinaryIO:
        """The body at ``Known.archive``: decoded, or as it is kept. LookupError: it is kept no longer."""
        gone = LookupError(f"the body is no longer kept: {ref.file} was retired")
        if self.is_retired(ref.file):
            raise gone
        try:
            return open_body(self.root, ref, raw=raw)
        except StorageError:
            if self.is_retired(ref.file):  # just now
                raise gone from None
            raise

    def is_retired(self, file: str) -> bool:
        """Whether a file is no longer kept, also if that is so only since this was opened. May be asked for every row."""
        if file in self._gone:
            return True
        if is_gone(self.root, self.marks, file):
            found = True
        else:
            found = not is_there(self.root / file) and is_gone(self.root, self._store.marks_now(), file)
        if found and number_of(file) >= 0:
            self._gone.add(file)
        return found

    def verify(self, report: Callable[[str], None]) -> Findings:
        """Check every mark, record, digest, row and entry of the store, and that the crawl's settings can be read; each fault is
        reported in one sentence."""
        findings = verify(self.root, self.marks, self._store.marks_now, self.is_retired, report)
        try:
            if read_identity(self.root) is None:
                findings.fault(
                    f"{self.root / FILE_NAME} is missing, which says how this crawl was begun: no crawl goes on without it"
                )
        except (ConfigError, StorageError) as error:
            findings.fault(str(error))
        for fault in self._store.verify():
            findings.fault(str(fault))
        return findings

    def close(self) -> None:
        self._store.close()
