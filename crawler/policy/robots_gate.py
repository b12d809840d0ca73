"""Which links robots.txt allows, and which robots.txt must be fetched first. No I/O: the pump and the crawl ask and tell.

The law: no link is visited whose origin's rules are not known, and rules that cannot be had deny (RFC 9309, 2.3.1.4).
A robots link carries the origin that waits for it in ``anchor`` and the seed for whose sake it is asked in ``via``, through
at most five redirects.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from crawler.core import urls
from crawler.core.model import PRIORITY_ROBOTS, Done, Dropped, Link, Outcome, Retry, Unvisited
from crawler.core.page import Page
from crawler.policy import robots_rules
from crawler.policy.robots_cache import RulesCache

REDIRECTS_MAX: Final = 5
"""RFC 9309, 2.3.1.2."""
UNAVAILABLE: Final = ("robots_denied", "robots_unavailable")


class RobotsDesk:
    """``obeys(host)`` is False for hosts whose robots.txt the operator ignores; with ``reads_all`` theirs are read all the
    same, for the sitemaps they name. ``wall()`` gives seconds since the epoch."""

    def __init__(
        self,
        cache: RulesCache,
        *,
        name: str,
        crawl_delay_cap_s: float,
        obeys: Callable[[str], bool],
        wall: Callable[[], float],
        reads_all: bool = False,
    ) -> None:
        self._cache = cache
        self._name = name
        self._crawl_delay_cap_s = crawl_delay_cap_s
        self._obeys = obeys
        self._wall = wall
        self._reads_all = reads_all

    def change(self, *, crawl_delay_cap_s: float) -> None:
        self._crawl_delay_cap_s = crawl_delay_cap_s

    def events(self) -> dict[str, int]:
        """Of the cache of rules: hits, misses, evictions."""
        stats = self._cache.stats()
        return {"hit": stats.hits, "miss": stats.misses, "evicted": stats.evictions}

    def ready(self, link: Link) -> bool:
        """Whether a link may be dealt: its origin's rules are at hand and fresh, or do not matter."""
        rules = self._cache.get(urls.origin(link.url))
        if rules is not None and rules.fresh(self._wall(), self._name):
            return True
        return not self._reads_all and not self._obeys(link.host)

    def link(self, link: Link) -> Link:
        """The robots link of a link's origin."""
        origin = urls.origin(link.url)
        home = link.anchor or link.url
        return Link(f"{origin}/robots.txt", link.host, "robots", priority=PRIORITY_ROBOTS, via=home, anchor=origin)

    def load(self, origin: str, record: bytes) -> bool:
        """Take in what the store kept; whether it is fresh."""
        rules = self._cache.put(origin, record)
        return rules is not None and rules.fresh(self._wall(), self._name)

    def refuses(self, link: Link) -> tuple[str, str] | None:
        """(outcome, reason) if the link must not be visited. KeyError if its rules have just left the cache."""
        if link.kind == "robots" or not self._obeys(link.host):
            return None
        rules = self._cache.get(urls.origin(link.url))
        if rules is None:
            raise KeyError(link.url)
        if rules.unavailable:
            return rules.record.failure or UNAVAILABLE
        return None if rules.allows(link.url) else ("robots_denied", "rule")

    def delay(self, link: Link) -> float:
        """The Crawl-delay of a link's origin, capped; 0.0 if none is known."""
        rules = self._cache.get(urls.origin(link.url)) if self._obeys(link.host) else None
        return rules.delay(self._crawl_delay_cap_s) if rules is not None else 0.0

    def memory_used(self) -> int:
        """Bytes held by the cache."""
        stats = self._cache.stats()
        return stats.kept_bytes + stats.parsed_bytes

    def forget(self) -> None:
        """Empty the cache; the store keeps the records."""
        self._cache.clear()

    def sitemaps(self, origin: str) -> tuple[str, ...]:
        """What an origin's robots.txt names as its sitemaps."""
        rules = self._cache.get(origin)
        return rules.sitemaps if rules is not None else ()

    def onward(self, link: Link, outcome: Outcome) -> Link | None:
        """The next robots link, if a robots visit was redirected and may follow."""
        if isinstance(outcome, Done) and outcome.outcome == "redirect" and outcome.outlinks and link.hops < REDIRECTS_MAX:
            return None if self._at_hand(outcome.outlinks[0]) else outcome.outlinks[0]
        return None

    def learn(self, link: Link, outcome: Outcome) -> list[tuple[str, bytes]]:
        """What the last visit for some origin's rules taught: (origin, record to keep). Where that origin was redirected to
        the robots.txt of another, the other's rules are known, too."""
        if isinstance(outcome, Retry | Unvisited) or link.anchor is None:
            return []
        origins = {link.anchor}
        if isinstance(outcome, Done) and outcome.outcome == "redirect" and outcome.outlinks:
            rules = self._at_hand(outcome.outlinks[0]) or self._read(outcome)
        else:
            rules = self._read(outcome)
            origins |= {own for own in (urls.origin(link.url),) if link.url == f"{own}/robots.txt"}
        record = rules.to_bytes()
        for origin in origins:
            self._cache.put(origin, record)
        return [(origin, record) for origin in origins]

    def _read(self, outcome: Done | Dropped) -> robots_rules.Rules:
        if isinstance(outcome, Done) and not _is_stacked(outcome.page):
            page = outcome.page
            body = page.decoded(robots_rules.BODY_BYTES_MAX) if 200 <= page.status < 300 else b""
            cut = outcome.outcome == "too_large"
            if cut or (page.fault is None and outcome.outcome != "truncated") or 400 <= page.status < 500:
                control = page.header("cache-control")
                return robots_rules.read(page.status, body, name=self._name, wall=self._wall(), cache_control=control, cut=cut)
        failure = (outcome.outcome, outcome.reason or "robots_unavailable")
        return robots_rules.read(0, b"", name=self._name, wall=self._wall(), failure=failure)

    def _at_hand(self, link: Link) -> robots_rules.Rules | None:
        """The rules in a robots.txt, if that is what the link names and it was read lately."""
        origin = urls.origin(link.url)
        rules = self._cache.get(origin) if link.url == f"{origin}/robots.txt" else None
        return rules if rules is not None and rules.fresh(self._wall(), self._name) else None


def _is_stacked(page: Page) -> bool:
    """Rules in more than one content coding, which nobody sends: to undo them could take long, and this is done in the loop."""
    return 200 <= page.status < 300 and page.coding is not None and "," in page.coding
