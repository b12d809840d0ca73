"""Which pages of an archive lack something that they need: read again from what is kept, so that a crawl pays nothing for it.

Exact but for what only a ``Link`` header names, and for what scripts load. Nothing is remembered but what the style sheets and
frames read lately lack, and of that only so many bytes: a server may name any number of each.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

from msgspec import Struct

from crawler.config.crawl_toml import read_section
from crawler.config.sections import ParseConfig, ScopeConfig
from crawler.core.model import EMBED, READABLE, Known
from crawler.crawl.embeds import NESTING_MAX
from crawler.crawl.reading import scope_in
from crawler.output import CrawlReader, Row, row_at
from crawler.parse.html import MIMES as HTML
from crawler.parse.html import Options, Outlinks
from crawler.parse.limited import limited_memory
from crawler.parse.requisites import MIMES, requisites

REMEMBERED_BYTES_MAX: Final = 16 << 20
"""Of what style sheets and frames lack, as ``_size`` has it."""
MISSING_BYTES_MAX: Final = 8 << 20
"""Of the URLs that one page lacks: a document has no more of them."""
DOCUMENTS_MAX: Final = 256
"""Read for one page."""
REDIRECTS_MAX: Final = 10
Missing = frozenset[str]


class _TooMuchError(Exception):
    """What a page needs is more than can be told in bounded memory and time."""


class IncompletePage(Struct, frozen=True):
    """A page, and the URLs of what it needs that could not be fetched or is not fetched yet."""

    url: str
    missing: list[str]


def incomplete_pages(reader: CrawlReader, on_unread: Callable[[], object] = lambda: None) -> Iterator[IncompletePage]:
    """In the order in which they were fetched. ``on_unread`` is called for each page whose body is not kept, or takes too much
    memory to be read, by itself or with what it needs: what it lacks nobody can tell. StorageError: the directory is damaged."""
    needs = _Needs(reader, on_unread)
    for row in reader.latest():
        if row["kind"] == EMBED or row["mime"] not in HTML:
            continue
        if row["outcome"] not in READABLE and not row.get("encoding"):  # what is miscoded may have been read
            continue
        try:
            missing = needs.of_page(row)
        except _TooMuchError:
            on_unread()
            continue
        if missing:
            yield IncompletePage(row["canonical"], sorted(missing))


class _Needs:
    def __init__(self, reader: CrawlReader, on_unread: Callable[[], object]) -> None:
        self._reader, self._on_unread = reader, on_unread
        scope = read_section(reader.root, ScopeConfig) or ScopeConfig()
        self._scope = scope_in(reader.root)
        self._max_parse = (read_section(reader.root, ParseConfig) or ParseConfig()).max_parse
        self._options = Options("", scope.max_outlinks, scope.url_rules())
        self._remembered: OrderedDict[tuple[str, int], Missing] = OrderedDict()
        self._remembered_bytes = 0
        self._documents_left = 0

    def of_page(self, row: Row) -> Missing:
        """What a page lacks."""
        self._documents_left = DOCUMENTS_MAX
        return self._missing_in(row, 0)

    def _missing_in(self, row: Row, nesting: int) -> Missing:
        """What a document needs and lacks, with what is needed by that."""
        self._documents_left -= 1
        if self._documents_left < 0:
            raise _TooMuchError
        found = self._found_in(row)
        if found is None:
            if not nesting:
                self._on_unread()
            return frozenset()
        missing: set[str] = set()
        left = MISSING_BYTES_MAX
        for url, _ in self._scope.embeds(found.links, {}):
            more = self._missing_of(url, nesting + 1) - missing
            if (left := left - sum(map(len, more))) < 0:
                raise _TooMuchError
            missing |= more
        return frozenset(missing)

    def _missing_of(self, url: str, nesting: int) -> Missing:
        """The same of what is there by a URL, which many pages may need."""
        key = (url, nesting)
        found = self._remembered.get(key)
        if found is not None:
            self._remembered.move_to_end(key)
            return found
        found = self._found_missing(url, nesting)
        self._remembered[key] = found
        self._remembered_bytes += _size(url, found)
        while self._remembered_bytes > REMEMBERED_BYTES_MAX:
            (old, _), gone = self._remembered.popitem(last=False)
            self._remembered_bytes -= _size(old, gone)
        return found

    def _found_in(self, row: Row) -> Outlinks | None:
        """None: its body was not kept, or is kept no longer; or it is hostile."""
        try:
            with self._reader.open_body(row) as body:
                content = body.read(self._max_parse)
        except LookupError:
            return None
        with suppress(MemoryError), limited_memory():
            return requisites(content, row["canonical"], row["mime"], row["charset"], (), self._options)
        return None

    def _found_missing(self, url: str, nesting: int) -> Missing:
        known = self._reader.known(url)
        for _ in range(REDIRECTS_MAX):
            if not isinstance(known, Known) or known.outcome != "redirect" or known.location is None:
                break
            known = self._reader.known(known.location)
        if not isinstance(known, Known) or known.outcome not in READABLE:
            return frozenset((url,))
        row = row_at(self._reader.root, known.row) if known.row is not None else None
        if nesting > NESTING_MAX or row is None or known.link.kind != EMBED or row["mime"] not in MIMES:
            return frozenset()
        return self._missing_in(row, nesting)


def _size(url: str, missing: Missing) -> int:
    """Bytes of memory that it takes to remember them, about."""
    return 500 + len(url) + sum(150 + len(lost) for lost in missing)
