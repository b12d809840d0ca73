"""Explains what happened to a URL: its state and record, or the rule that leaves it out. Asks the store, not the web."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from msgspec.structs import asdict

from crawler.config import HostRules
from crawler.config.crawl_toml import read_section
from crawler.config.sections import PolitenessConfig, ScopeConfig
from crawler.core import urls
from crawler.core.durable import is_there
from crawler.core.errors import FetchError
from crawler.core.model import EMBED, READABLE, Known, Link, is_miscoded
from crawler.crawl.reading import scope_in
from crawler.output.results import Row, row_at
from crawler.policy.robots_rules import RobotsRules

if TYPE_CHECKING:
    from crawler.frontier import Store
    from crawler.output import CrawlReader
    from crawler.policy.scope import Scope

_HTML: Final = frozenset({"text/html", "application/xhtml+xml"})


def explain(
    root: Path, store: Store | CrawlReader, url: str, via: str | None = None, *, is_retired: Callable[[str], bool]
) -> dict[str, Any]:
    """What the store of the crawl in ``root`` knows of a URL, and which files that it names ``is_retired``.

    ``state`` is done, waiting, retrying, unknown or invalid; then the record, or the rule that refuses it as a link (of
    the page ``via``, if that is known). FetchError: ``via`` is not a URL."""
    config = read_section(root, ScopeConfig) or ScopeConfig()
    rules = config.url_rules()
    try:
        canonical = urls.parse(url, rules=rules).href
    except FetchError as error:
        return {"url": urls.masked(url), "canonical": None, "state": "invalid", "rule": error.reason}
    explanation: dict[str, Any] = {"url": urls.masked(url), "canonical": canonical, "state": "unknown"}
    known = store.lookup(canonical)
    if isinstance(known, Known):
        places = {"archive": known.archive, "row": known.row}
        retired = [name for name, place in places.items() if place is not None and is_retired(place.file)]
        kept = {name: place for name, place in places.items() if place is not None and name not in retired}
        elsewhere = [name for name, place in kept.items() if not is_there(root / place.file)]
        gone = {"retired": retired, "elsewhere": elsewhere}
        record = record_of(known) | _reading_of(_row(root, known, is_retired)) | gone
        return explanation | {"state": "done", "record": record} | _denial(store, known)
    if known is not None:
        return explanation | {"state": known}
    if via is None:
        return explanation | _refusal(root, store, config, canonical)
    return explanation | _absence(root, store, config, canonical, urls.parse(via, rules=rules).href, is_retired)


def record_of(known: Known) -> dict[str, Any]:
    """What the store keeps of a settled URL, in the words of a result row."""
    link = known.link
    return {
        "outcome": known.outcome,
        "reason": known.reason,
        "status": known.status,
        "fetched_at": known.fetched_at,
        "location": known.location,
        "kind": link.kind,
        "depth": link.depth,
        "hops": link.hops,
        "attempt": link.attempt,
        "change": known.change,
        "interval": known.interval,
        "due": None if known.interval is None else known.fetched_at + known.interval,  # the crawl clock may be far ahead
        "via": link.via,
        "input": link.input and {"list": link.input.list, "line": link.input.line},
        "tag": link.tag,
        "archive": known.archive and asdict(known.archive),
        "row": known.row and asdict(known.row),
    }


def _denial(store: Store | CrawlReader, known: Known) -> dict[str, Any]:
    """The line of robots.txt that forbids it, as it is kept now."""
    record = store.robots([urls.origin(known.link.url)])[0] if known.reason == "rule" else None
    rules = RobotsRules.from_bytes(record) if record else None
    return {"denied_by": rules.denied_by(known.link.url) if rules else None}


def _row(root: Path, known: Known, is_retired: Callable[[str], bool]) -> Row:
    """The result row of a settled URL; empty if it is kept no longer."""
    if known.row is None or is_retired(known.row.file):
        return {}
    return row_at(root, known.row) or {}


def _reading_of(row: Row) -> dict[str, Any]:
    """How its text was read."""
    return {name: row.get(name) for name in ("encoding", "cut", "fault")}


def _refusal(root: Path, store: Store | CrawlReader, config: ScopeConfig, url: str) -> dict[str, Any]:
    """Nothing is known of where the link stands: place and depth cannot refuse it."""
    rule = scope_in(root).refuses(Link(url, urls.host_key(url), "link"))
    rule = rule or _refused_by_counts(config, url, *store.budgets(url))
    return {"rule": rule, "depth": config.depth, "scope": config.scope}


def _absence(
    root: Path, store: Store | CrawlReader, config: ScopeConfig, url: str, via: str, is_retired: Callable[[str], bool]
) -> dict[str, Any]:
    """Why a link that is said to stand on the page ``via``, a canonical URL, was not admitted."""
    absence: dict[str, Any] = {"rule": None, "depth": config.depth, "scope": config.scope, "via": None, "unread": None}
    page = store.lookup(via)
    if isinstance(page, Known):
        obeys = HostRules(read_section(root, PolitenessConfig) or PolitenessConfig()).obeys_robots(urls.origin(page.link.url))
        scope, budgets = scope_in(root), store.budgets(url)
        via_page = _Via(config, scope, page, _row(root, page, is_retired), obeys)
        needed = {"rule_if_needed": _refused_as_needed(config, scope, url, budgets)} if config.requisites else {}
        return absence | {"via": page.link.url} | via_page.left_out(url, budgets) | needed
    if page is not None:
        absence |= {"via": via, "unread": "it waits for its visit"}
    return absence


class _Via:
    """A settled page on which a link is said to stand. ``obeys``: what it says to robots is honoured."""

    def __init__(self, config: ScopeConfig, scope: Scope, page: Known, row: Row, obeys: bool) -> None:
        self._config, self._scope, self._page, self._row, self._obeys = config, scope, page, row, obeys

    def left_out(self, url: str, budgets: tuple[int, int]) -> dict[str, Any]:
        """The rule that leaves out a link of this page, or why none of its links, or not all, were looked at. Only a rule that
        was applied to the page's links is named."""
        page, row, is_sitemap = self._page, self._row, self._is_sitemap()
        if page.outcome not in READABLE and not is_miscoded(page):
            return {"unread": self._unread()}
        if not is_sitemap and not self._scope.follows(page.link):
            return {"rule": "depth"}
        is_unread = row.get("encoding", "") is None and not row.get("cut")  # "": a row of an earlier version
        if is_unread and not is_sitemap and not _was_read_before(row):
            return {"unread": f"its body was not read for links; its type is {row['mime'] or 'not told'}"}
        depth = page.link.depth + (not is_sitemap)
        rule = self._scope.refuses(Link(url, urls.host_key(url), "link", depth, anchor=page.link.anchor or page.link.url))
        if rule is None and self._obeys and "nofollow" in (row.get("robots") or "").split(","):
            rule = "nofollow"
        if row.get("cut"):
            return {"rule": rule, "cut": row["cut"], "fault": row["fault"]}
        return {"rule": rule or _used_up(self._config, url, *budgets)}

    def _is_sitemap(self) -> bool:
        """What was named as one, and what a person listed that may have been read as one."""
        link, config = self._page.link, self._config
        return link.kind == "sitemap" or bool(config.sitemaps and link.input and self._row.get("mime") not in _HTML)

    def _unread(self) -> str:
        if self._page.location:
            return f"it redirects to {self._page.location}"
        return f"it ended as {self._page.outcome}" + (f" ({self._page.reason})" if self._page.reason else "")


def _was_read_before(row: Row) -> bool:
    """A page that is not modified is not read again: its row does not say how it was when it was."""
    return row["status"] == 304 and row["mime"] in _HTML


def _refused_as_needed(config: ScopeConfig, scope: Scope, url: str, budgets: tuple[int, int]) -> str | None:
    """The rule that refuses it as what a page needs to be shown: place and depth do not."""
    return scope.refuses(Link(url, urls.host_key(url), EMBED)) or _used_up(config, url, *budgets)


def _refused_by_counts(config: ScopeConfig, url: str, admitted: int, queries: int) -> str | None:
    """The rule that a store's counts speak for: the budgets, and the place where nothing was ever admitted for a host."""
    if config.scope == "host" and config.depth and not admitted:
        return "host"
    return _used_up(config, url, admitted, queries)


def _used_up(config: ScopeConfig, url: str, admitted: int, queries: int) -> str | None:
    """The budget that is used up."""
    if "?" in url and 0 < config.max_queries_per_path <= queries:
        return "query_explosion"
    if 0 < config.max_pages_per_host <= admitted:
        return "host_budget"
    return None
