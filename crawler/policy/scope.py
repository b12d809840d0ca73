"""Which links belong to this crawl: by place, depth, expression and shape. Pure.

Invariant: a link is admitted, or refused by exactly one rule, which has a name and is counted under it. A URL that the operator
named is never refused here. Places are taken from the link's anchor, the seed it descends from; the target of a seed's redirect
is its own anchor, because http://example.org often means https://www.example.org (unless redirects are to stay in scope).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Protocol

from msgspec import Struct

from crawler.core.domains import domain_of
from crawler.core.model import EMBED, EXPANDED, Link
from crawler.core.remembered import remembered
from crawler.core.text import host_patterns
from crawler.core.urls import URL_BYTES_MAX, host_key, origin

if TYPE_CHECKING:
    from crawler.config.sections import ScopeConfig

RULES: Final = (
    "depth",
    "host",
    "domain",
    "prefix",
    "include",
    "exclude",
    "block",
    "url_length",
    "path_depth",
    "repeated_segments",
    "nofollow",
    # a page's references that name nothing to fetch, only what it is made of, or are too many: see crawler.parse.html
    "resource",
    "syntax",
    "scheme",
    "encoding",
    "outlinks",
    "sitemap_name",
    # documents that were not read to their end, or not as they stand: one each
    "max_parse",
    "body_cut",
    "parse_crashed",
    "parse_timeout",
    "sitemap_fault",
    "max_robots",
    # these need the store's memory
    "host_budget",
    "query_explosion",
)
"""Every rule that leaves links out, for metrics and for ``why``."""

_NAMED: Final = frozenset({"seed", "robots", *EXPANDED})
_ANYWHERE: Final = "http://anywhere.invalid/"
_PLACES_MAX: Final = 1024


class FoundLink(Protocol):
    """An outlink as a page gives it (``crawler.parse.html.Outlink``)."""

    @property
    def url(self) -> str: ...
    @property
    def host(self) -> str: ...
    @property
    def nofollow(self) -> bool: ...


class ScopeRules(Struct, frozen=True, array_like=True):
    """The settings of a Scope, as a parser process is sent them; see ``crawler.config.sections.ScopeConfig``."""

    scope: str = "host"
    depth: int = 0
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    max_url: int = URL_BYTES_MAX
    max_path_depth: int = 0
    max_repeated_segments: int = 0
    obey: bool = True
    """Honour rel=nofollow and its kin (off where robots.txt is not obeyed either)."""
    blocked: tuple[tuple[str, bool], ...] = ()
    """Of hosts: ``crawler.config.HostRules.blocked``."""

    @classmethod
    def of(cls, config: ScopeConfig, blocked: tuple[tuple[str, bool], ...] = ()) -> ScopeRules:
        settings = {name: getattr(config, name) for name in cls.__struct_fields__ if name not in ("obey", "blocked")}
        return cls(**settings, blocked=blocked)


class Scope:
    """The rules of one crawl."""

    def __init__(self, config: ScopeConfig | ScopeRules, *, blocked: tuple[tuple[str, bool], ...] = ()) -> None:
        self.rules: Final = config if isinstance(config, ScopeRules) else ScopeRules.of(config, blocked)
        """As a parser process is sent them."""
        rules = self.rules
        self._outside = _OUTSIDE.get(rules.scope)
        self._include = searches(rules.include)
        self._exclude = searches(rules.exclude)
        self._blocked = {match: (at, blocks) for at, (match, blocks) in reversed(list(enumerate(rules.blocked)))}
        self._blocks = remembered(self._is_blocked, _PLACES_MAX) if rules.blocked else None
        shapes = [depth for depth in (rules.max_path_depth, rules.max_repeated_segments) if depth > 0]
        self._plain = 0 if self._include or self._exclude or self._blocks else min(shapes, default=rules.max_url) + 2
        """A URL with no more slashes than this can offend no rule of shape or expression; 0: none is so plain."""

    def follows(self, page: Link) -> bool:
        """Whether a page at this depth may have outlinks at all; if not, it need not be parsed."""
        return self.rules.depth < 0 or page.depth < self.rules.depth

    def site(self, anchor: str) -> str:
        """One anchor for all that have the same place."""
        if self._outside is None:
            return _ANYWHERE
        host, folder = _place(anchor)
        if self.rules.scope == "domain":
            return f"http://{domain_of(host)}/"
        return f"http://{host}{folder if self.rules.scope == 'prefix' else '/'}"

    def refuses(self, link: Link) -> str | None:
        """The rule that refuses a link, None if it is admitted."""
        kind, url = link.kind, link.url
        if kind in _NAMED:
            return None
        if len(url) > self.rules.max_url:
            return "url_length"
        if kind == EMBED:
            return self._named_out(url)
        if kind == "sitemap":
            return self._refuses_sitemap(link)
        if kind == "redirect":
            if link.anchor is None:
                return self._named_out(url)
        elif link.depth > self.rules.depth >= 0:
            return "depth"
        return self._refuses(url, link.host, link.anchor or url)

    def admitted(self, depth: int, anchor: str, found: Iterable[FoundLink], refused: dict[str, int]) -> Iterator[tuple[str, str]]:
        """URL and host of those that belong to the crawl, at this depth; the others are counted in ``refused``, by rule."""
        too_deep = 0 <= self.rules.depth < depth
        max_url, obey, outside, plain = self.rules.max_url, self.rules.obey, self._outside, self._plain
        for one in found:
            url, host = one.url, one.host
            if one.nofollow and obey:
                rule: str | None = "nofollow"
            elif len(url) > max_url:
                rule = "url_length"
            elif too_deep:
                rule = "depth"
            elif plain and url.count("/") <= plain and (outside is None or not outside(url, host, anchor)):
                rule = None
            else:
                rule = self._refuses(url, host, anchor)
            if rule is None:
                yield url, host
            else:
                refused[rule] = refused.get(rule, 0) + 1

    def embeds(self, found: Iterable[FoundLink], refused: dict[str, int]) -> Iterator[tuple[str, str]]:
        """URL and host of what a page needs, wherever that is; the others are counted in ``refused``, by rule."""
        for one in found:
            rule = "url_length" if len(one.url) > self.rules.max_url else self._named_out(one.url)
            if rule is None:
                yield one.url, one.host
            else:
                refused[rule] = refused.get(rule, 0) + 1

    def _refuses(self, url: str, host: str, anchor: str) -> str | None:
        """What place, shape and expressions say."""
        rules = self.rules
        if self._outside is not None and self._outside(url, host, anchor):
            return rules.scope
        path = url.partition("?")[0]
        depth = path.count("/") - 2 - path.endswith("/")
        if depth > rules.max_path_depth > 0:
            return "path_depth"
        if depth > rules.max_repeated_segments > 0 and _repeats(path) > rules.max_repeated_segments:
            return "repeated_segments"
        if rule := self._named_out(url):
            return rule
        if self._include and not any(search(url) for search in self._include):
            return "include"
        return None

    def _refuses_sitemap(self, link: Link) -> str | None:
        """It is read for the pages it names: it may stand wherever a robots.txt says, and beside the one that names it."""
        if rule := self._named_out(link.url):
            return rule
        if self._outside is None or not link.hops or (link.via and link.host == host_key(link.via)):
            return None
        outside = _other_host if self.rules.scope == "prefix" else self._outside
        return self.rules.scope if outside(link.url, link.host, link.anchor or link.url) else None

    def _named_out(self, url: str) -> str | None:
        """What the operator wants left out, wherever it stands."""
        if self._exclude and any(search(url) for search in self._exclude):
            return "exclude"
        return "block" if self._blocks is not None and self._blocks(origin(url)) else None

    def _is_blocked(self, place: str) -> bool:
        """As the first table says that is of this origin."""
        found = (self._blocked[pattern] for pattern in host_patterns(place) if pattern in self._blocked)
        return min(found, default=(0, False))[1]


def _other_host(url: str, host: str, anchor: str) -> bool:
    return host != _place(anchor)[0]


def _other_domain(url: str, host: str, anchor: str) -> bool:
    home = _place(anchor)[0]
    if host == home:
        return False
    domain = domain_of(home)
    # most links elsewhere end in something else: the list of suffixes is only asked about those that do not
    return domain not in host or domain_of(host) != domain


def _other_prefix(url: str, host: str, anchor: str) -> bool:
    home, folder = _place(anchor)
    return host != home or not url.startswith(folder, url.index("/", 8))


_OUTSIDE: Final = {"host": _other_host, "domain": _other_domain, "prefix": _other_prefix}
"""By ``scope``: whether a URL, at a host, stands elsewhere than an anchor."""


@lru_cache(maxsize=2)
def searches(expressions: tuple[str, ...]) -> tuple[Callable[[str], object], ...]:
    """What looks for each of these in a URL. Those of include and of exclude are compiled once for all rules that have them,
    which may differ in other ways: 100,000 take seconds, and 78 MiB."""
    return tuple(re.compile(expression).search for expression in expressions)


@lru_cache(maxsize=_PLACES_MAX)
def _place(anchor: str) -> tuple[str, str]:
    """Host key and folder of an anchor; http and https are one place."""
    path = anchor.partition("?")[0]
    return host_key(anchor), path[path.index("/", 8) : path.rindex("/") + 1]


def _repeats(path: str) -> int:
    """How often the most frequent segment of a URL's path stands in it."""
    segments = path.split("/")[3:]
    if segments[-1] == "":
        segments.pop()
    return max(Counter(segments).values(), default=0)
