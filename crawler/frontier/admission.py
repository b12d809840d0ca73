"""Which links of a batch are new: the rules every store shares. Pure: what a store knows is handed in as functions.

The law: the verdicts depend only on what was committed and on the order of the batch, so that under a depth limit the set
of pages crawled does not depend on timing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from typing import Final, Generic, TypeVar

from msgspec import Struct

from crawler.core.batch import EXPAND, HOST_BUDGET, KNOWN, NEW, QUERY_EXPLOSION, Batch, Verdict
from crawler.core.model import Done, Known, Link, Outcome, Retry
from crawler.frontier.store import Limits

K = TypeVar("K", bound=Hashable)

FRUITFUL: Final = frozenset({"ok", "redirect", "truncated", "too_large"})
"""Outcomes that may have had outlinks: only these are worth expanding once more."""

_BOUNDED_KINDS: Final = frozenset({"link", "sitemap"})


class Ask(Struct, Generic[K], frozen=True):
    """What ``judge`` needs to be told. ``fruitful``: which of these known URLs were settled fruitfully or are being
    visited now. ``admitted``: links admitted so far, by host. ``queries``: different query strings so far, by the URL
    before its question mark."""

    fruitful: Callable[[Collection[K]], set[K]]
    admitted: Callable[[Collection[str]], dict[str, int]]
    queries: Callable[[Collection[str]], dict[str, int]]


class Judged(Struct, Generic[K]):
    fresh: list[Verdict]
    """As in ``Prepared``."""
    depths: dict[K, int]
    """Least depth of every URL that is new, or that was found nearer than before."""
    queries: dict[str, int]
    """Different query strings by the URL before its question mark, where this batch adds to them."""


def is_aside(link: Link) -> bool:
    """A visit for robots rules is none of the page's at that URL: it is made as often as it is asked for."""
    return link.kind == "robots"


def is_robots_txt(link: Link) -> bool:
    """Whether a visit for robots rules is also the visit of its URL: of the file itself, not of what it was redirected to,
    which may be any page."""
    return link.url.endswith("/robots.txt") and link.url.count("/") == 3


def fruitful(outcome: Outcome) -> bool:
    """Whether a visit that ended so may have had outlinks."""
    return isinstance(outcome, Done) and outcome.outcome in FRUITFUL


def check_settled(batch: Batch, known: Sequence[Known | None]) -> None:
    """ValueError unless every settled link has its record, but for those that are to be retried or expanded."""
    for settled, record in zip(batch.settled, known, strict=True):
        if record is None and not isinstance(settled.outcome, Retry) and settled.lease.link.kind != "expand":
            raise ValueError(f"settled without a record: {settled.lease}")


def links_of(batch: Batch) -> list[Link]:
    """All links of a batch, in the order of ``Prepared.fresh``."""
    links: list[Link] = []
    for settled in batch.settled:
        if isinstance(settled.outcome, Done):
            links += settled.outcome.outlinks
    for admitted in batch.admitted:
        links += admitted.links
    return links


def judge(links: Sequence[Link], keys: Sequence[K], known: dict[K, int], limits: Limits, ask: Ask[K]) -> Judged[K]:
    """A verdict for each link. ``keys`` are the URLs' keys; ``known`` holds the least depth of those known before, and
    those of this batch are added to it."""
    depth_limited = limits.depth_limited
    worth: set[K] = set()
    if depth_limited:
        nearer = {key for link, key in zip(links, keys, strict=True) if link.depth < known.get(key, 0) and not is_aside(link)}
        worth = ask.fruitful(nearer) if nearer else set()
    unknown = [link for link, key in zip(links, keys, strict=True) if key not in known and not is_aside(link)]
    rules = _Rules(unknown, limits, ask)
    fresh: list[Verdict] = []
    depths: dict[K, int] = {}
    for link, key in zip(links, keys, strict=True):
        depth = known.get(key)
        if is_aside(link):
            verdict = EXPAND
        elif depth is None:
            verdict = rules.verdict(link)
            if verdict == NEW:
                known[key] = depths[key] = link.depth
        elif not depth_limited or link.depth >= depth:
            verdict = KNOWN
        else:
            known[key] = depths[key] = link.depth
            verdict = EXPAND if key in worth else KNOWN
            worth.discard(key)  # queued once: a still shorter path found now lowers that link's depth
        fresh.append(verdict)
    return Judged(fresh, depths, rules.queries)


class _Rules:
    """The budgets of hosts and paths, as far as these links need them."""

    def __init__(self, links: Sequence[Link], limits: Limits, ask: Ask[K]) -> None:
        self._pages_max, self._queries_max = limits.pages_per_host, limits.queries_per_path
        self._admitted: dict[str, int] = {}
        self._queries: dict[str, int] = {}
        self.queries: dict[str, int] = {}
        if self._pages_max and (hosts := {link.host for link in links}):
            self._admitted = ask.admitted(hosts)
        if self._queries_max and (paths := {link.url.partition("?")[0] for link in links if "?" in link.url}):
            self._queries = ask.queries(paths)

    def verdict(self, link: Link) -> Verdict:
        bounded = link.kind in _BOUNDED_KINDS
        if self._pages_max and bounded and self._admitted.get(link.host, 0) >= self._pages_max:
            return HOST_BUDGET
        if self._queries_max and "?" in link.url:
            path = link.url.partition("?")[0]
            if bounded and self._queries.get(path, 0) >= self._queries_max:
                return QUERY_EXPLOSION
            self.queries[path] = self._queries[path] = self._queries.get(path, 0) + 1
        if self._pages_max:
            self._admitted[link.host] = self._admitted.get(link.host, 0) + 1
        return NEW
