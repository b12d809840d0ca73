"""Opens a crawl's directory for reading: the one place where rows and archive meet the store that knows them."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from pathlib import Path

from crawler.config import HostRules
from crawler.config.crawl_toml import read_section
from crawler.config.sections import PolitenessConfig, ScopeConfig
from crawler.core.errors import ConfigError, StorageError
from crawler.core.model import KINDS, PAGES
from crawler.frontier import open_reader
from crawler.frontier.division import division_at, require_divided
from crawler.output import CrawlReader, Result, crawl_in
from crawler.policy.scope import Scope


def scope_in(root: Path) -> Scope:
    """The rules of the crawl in ``root`` as it runs now, blocked hosts among them. ConfigError: they cannot be read."""
    hosts = HostRules(read_section(root, PolitenessConfig) or PolitenessConfig())
    return Scope(read_section(root, ScopeConfig) or ScopeConfig(), blocked=hosts.blocked)


def open_crawl_reader(directory: Path | str) -> CrawlReader:
    """The crawl in ``directory``, also while another process runs it. StorageError: there is none, it is damaged, or it is being
    divided anew."""
    root = Path(directory)
    path = root / "frontier"
    require_divided(path)
    division = division_at(path)
    with contextlib.ExitStack() as stack:
        reader = stack.enter_context(CrawlReader(root, open_reader(path)))
        require_divided(path)
        if division_at(path) != division:
            raise StorageError(f"{root}: its hosts were divided anew meanwhile: ask again")
        stack.pop_all()
        return reader


def read(directory: Path | str, *, kinds: Collection[str] | None = PAGES) -> Iterator[Result]:
    """The results of a crawl: ``.row`` and ``.open()``, in bounded memory, also while it runs. Rows that are written later
    are not seen. StorageError: there is no crawl, or it is damaged.

    ``kinds``: of rows, such as ``{"seed"}`` or ``{"robots", "sitemap"}``; by default those of pages, None for all. ValueError:
    there is no such kind."""
    wanted = frozenset(KINDS if kinds is None else (kinds,) if isinstance(kinds, str) else kinds)
    if unknown := sorted(map(repr, wanted - set(KINDS))):
        raise ValueError(f"there is no kind of row {', '.join(unknown)}: they are {', '.join(KINDS)}")
    return _read(directory, wanted)


def _read(directory: Path | str, kinds: frozenset[str]) -> Iterator[Result]:
    try:
        root = crawl_in(directory)
    except ConfigError as error:
        raise StorageError(str(error), final=True) from error
    with open_crawl_reader(root) as reader:
        yield from reader.results(kinds) if kinds else ()
