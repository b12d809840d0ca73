"""Which pages of an archive lack something that they need: read again from what is kept, so that a crawl pays nothing for it.

Exact but for what only a ``Link`` header names, and for what scripts load. Nothing is remembered but what the style sheets and
frames read lately lack.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import lru_cache
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

REMEMBERED_MAX: Final = 4096
REDIRECTS_MAX: Final = 10
Missing = frozenset[str]


class IncompletePage(Struct, frozen=True):
    """A page, and the URLs of what it needs that could not be fetched or is not fetched yet."""

    url: str
    missing: list[str]


def incomplete_pages(reader: CrawlReader, on_unread: Callable[[], object] = lambda: None) -> Iterator[IncompletePage]:
    """In the order in which they were fetched. ``on_unread`` is called for each page whose body is not kept, or takes too much
    memory to be read: what it needs nobody can tell. StorageError: the directory is damaged."""
    needs = _Needs(reader, on_unread)
    for row in reader.latest():
        is_page = row["kind"] != EMBED and row["outcome"] in READABLE and row["mime"] in HTML
        if is_page and (missing := needs.missing_in(row, 0)):
            yield IncompletePage(row["canonical"], sorted(missing))


class _Needs:
    def __init__(self, reader: CrawlReader, on_unread: Callable[[], object]) -> None:
        self._reader, self._on_unread = reader, on_unread
        scope = read_section(reader.root, ScopeConfig) or ScopeConfig()
        self._scope = scope_in(reader.root)
        self._max_parse = (read_section(reader.root, ParseConfig) or ParseConfig()).max_parse
        self._options = Options("", scope.max_outlinks, scope.url_rules())
        self._missing_of = lru_cache(REMEMBERED_MAX)(self._found_missing)

    def missing_in(self, row: Row, nesting: int) -> Missing:
        """What a document needs and lacks, with what is needed by that."""
        found = self._found_in(row)
        if found is None:
            if not nesting:
                self._on_unread()
            return frozenset()
        wanted = [url for url, _ in self._scope.embeds(found.links, {})]
        return frozenset().union(*(self._missing_of(url, nesting + 1) for url in wanted))

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
        return self.missing_in(row, nesting)
