"""Which links robots.txt allows, and which robots.txt must be fetched first. No I/O: the pump and the crawl ask and tell.

Invariants: no link is visited whose origin's rules are not known. Rules that cannot be fetched deny (RFC 9309, 2.3.1.4), but for
five minutes at most, and no longer than until somebody wants it tried again: that verdict is kept nowhere but here.
A robots link carries the origin that waits for it in ``anchor`` and the seed for whose sake it is asked in ``via``, through
at most five redirects.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

from crawler.core import urls
from crawler.core.content_coding import brotli_with_tail
from crawler.core.model import PRIORITY_ROBOTS, Done, Dropped, Link, Outcome, Retry, Unvisited
from crawler.core.page import Page
from crawler.policy import robots_rules
from crawler.policy.exclusion import EXCLUDED
from crawler.policy.robots_cache import RulesCache

REDIRECTS_MAX: Final = 5
"""RFC 9309, 2.3.1.2."""
UNAVAILABLE: Final = ("robots_denied", "robots_unavailable")
BLOCKED: Final = ("robots_denied", "robots_blocked")
"""The robots.txt was redirected to an address, or a host, that may not be connected to. The page's own host is not blocked: to
open that address would be for nothing."""
FAILURE_S_MAX: Final = 300.0
"""So long it is believed that the rules cannot be fetched."""
FAILURES_MAX: Final = 4096
"""Origins of which that is remembered; the others are asked for again sooner."""
FAILURE_BYTES: Final = 400
"""What each of them takes in memory, about. Attempts have as much as failures, a byte each."""
FAILURES_SHARE: Final = 4
"""Of the memory for rules, one in so many bytes at most is for failures."""


def divided(bytes_max: int) -> tuple[int, int]:
    """(bytes of the cache, failures that are remembered) of so much memory: attempts take as much as these."""
    failures_max = min(FAILURES_MAX, bytes_max // FAILURES_SHARE // (2 * FAILURE_BYTES))
    return bytes_max - 2 * FAILURE_BYTES * failures_max, failures_max


Failure = tuple[str, str]
"""(outcome, reason)"""


class RobotsGate:
    """``obeys(origin)`` is False for those whose robots.txt the operator ignores; with ``reads_all`` theirs are read all the
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
        failures_max: int = FAILURES_MAX,
    ) -> None:
        self._cache = cache
        self._failures_max = failures_max
        self._name = name
        self._crawl_delay_cap_s = crawl_delay_cap_s
        self._obeys = obeys
        self._wall = wall
        self._reads_all = reads_all
        self._failures: OrderedDict[str, tuple[float, Failure]] = OrderedDict()  # origin → wall time, how it ended
        self._attempts = _Attempts(max(1, failures_max * FAILURE_BYTES))
        """Visits for rules that have failed and are made again: the host may have left the bench meanwhile."""

    def change(self, *, crawl_delay_cap_s: float) -> None:
        self._crawl_delay_cap_s = crawl_delay_cap_s

    def events(self) -> dict[str, int]:
        """Of the cache of rules: hits, misses, evictions."""
        cache = self._cache
        return {"hit": cache.hits, "miss": cache.misses, "evicted": cache.evictions}

    def ready(self, link: Link) -> bool:
        """Whether a link may be dealt: its origin's rules are at hand and fresh, could not be fetched, or do not matter."""
        origin = urls.origin(link.url)
        if self._failures and self.failed(origin) is not None:
            return True
        rules = self._cache.get(origin)
        if rules is not None and rules.fresh(self._wall(), self._name):
            return True
        return not self._reads_all and not self._obeys(origin)

    def link(self, link: Link) -> Link:
        """The robots link of a link's origin."""
        origin = urls.origin(link.url)
        home = link.anchor or link.url
        attempt = 1 + self._attempts.of(origin)
        return Link(
            f"{origin}/robots.txt", link.host, "robots", priority=PRIORITY_ROBOTS, via=home, anchor=origin, attempt=attempt
        )

    def load(self, origin: str, record: bytes) -> bool:
        """Take in what the store kept; whether it is fresh. Versions that kept failures, too, kept them for an hour."""
        rules = self._cache.put(origin, record)
        if rules is not None and rules.unavailable:
            self._cache.discard(origin)
            return False
        return rules is not None and rules.fresh(self._wall(), self._name)

    def failure(self, link: Link) -> Failure | None:
        """(outcome, reason) where the rules of a link's origin could not be fetched lately: what waits for them ends so."""
        origin = urls.origin(link.url)
        return self.failed(origin) if self._failures and self._obeys(origin) else None

    def deny(self, origin: str, failure: Failure) -> None:
        """The rules of an origin could not be fetched: another part of the crawl has found out."""
        self._keep(origin, failure)

    def forgive(self, host: str | None = None) -> None:
        """Forget that rules could not be fetched: of this host, since somebody wants it tried again; or of all, since the
        settings have changed."""
        if host is None:
            self._failures.clear()
            self._attempts.clear()
        elif self._failures or self._attempts.any:
            for origin in (f"http://{host}", f"https://{host}"):
                self._failures.pop(origin, None)
                self._attempts.set(origin, 0)

    def failed(self, origin: str) -> Failure | None:
        """How the visit for an origin's rules has failed lately."""
        found = self._failures.get(origin)
        if found is None:
            return None
        if abs(self._wall() - found[0]) >= FAILURE_S_MAX:
            del self._failures[origin]
            return None
        return found[1]

    def refuses(self, link: Link) -> tuple[str, str] | None:
        """(outcome, reason) if the link must not be visited. KeyError if its rules have just left the cache."""
        origin = urls.origin(link.url)
        if link.kind == "robots" or not self._obeys(origin):
            return None
        if self._failures and (failure := self.failed(origin)) is not None:
            return failure
        rules = self._cache.get(origin)
        if rules is None:
            raise KeyError(link.url)
        return None if rules.allows(link.url) else ("robots_denied", "rule")

    def delay(self, link: Link) -> float:
        """The Crawl-delay of a link's origin, capped; 0.0 if none is known."""
        origin = urls.origin(link.url)
        rules = self._cache.get(origin) if self._obeys(origin) else None
        return 0.0 if rules is None or not rules.record.crawl_delay else rules.delay(self._crawl_delay_cap_s)

    def memory_used(self) -> int:
        """Bytes held by the cache of rules and the failures that are remembered."""
        return self._cache.memory_bytes + len(self._failures) * FAILURE_BYTES + self._attempts.memory_bytes

    def forget(self) -> None:
        """Empty the cache; the store keeps the records."""
        self._cache.clear()

    def sitemaps(self, origin: str) -> tuple[str, ...] | None:
        """What an origin's robots.txt names as its sitemaps; None while nobody knows. One that cannot be fetched names none where
        it is not obeyed: its pages are visited all the same, and there is the usual place."""
        rules = self._cache.get(origin)
        if rules is not None:
            return rules.sitemaps
        return () if not self._obeys(origin) and self.failed(origin) is not None else None

    def cut(self, outcome: Done, origins: Sequence[str]) -> str:
        """What was not read of a robots.txt, from which the rules of these origins were learned; "" if it is whole."""
        if not origins or outcome.outcome == "redirect":
            return ""
        if outcome.outcome == "too_large":
            return f"only its first {outcome.page.body.size} bytes count"
        named = max(len(self.sitemaps(origin) or ()) for origin in origins)
        return f"only its first {named} sitemaps are read" if named >= robots_rules.SITEMAPS_MAX else ""

    def onward(self, link: Link, outcome: Outcome) -> Link | None:
        """The next robots link, if a robots visit was redirected and may follow."""
        if isinstance(outcome, Done) and outcome.outcome == "redirect" and outcome.outlinks and link.hops < REDIRECTS_MAX:
            return None if self._at_hand(outcome.outlinks[0]) else outcome.outlinks[0]
        return None

    def learn(self, link: Link, outcome: Outcome) -> list[tuple[str, bytes | None]]:
        """What the last visit for some origin's rules taught: (origin, record to keep); None where they could not be fetched.
        Where that origin was redirected to the robots.txt of another, the other's rules are known, too; those of any other page
        count for whoever is redirected to it, so that a page to which many hosts lead is not visited for each."""
        if isinstance(outcome, Retry) and link.anchor is not None:
            self._attempts.set(link.anchor, link.attempt)
        if isinstance(outcome, Retry | Unvisited) or link.anchor is None:
            return []
        own, onward = urls.origin(link.url), link
        read = self._read(outcome)
        found = {link.anchor: read}
        if isinstance(outcome, Done) and outcome.outcome == "redirect" and outcome.outlinks:
            onward = outcome.outlinks[0]
            found[link.anchor] = self._at_hand(onward) or read
        elif link.url == f"{own}/robots.txt":
            found[own] = read
        elif isinstance(read, robots_rules.RobotsRules) and outcome.outcome != "redirect_error":  # which is that chain's
            self._cache.put(link.url, read.to_bytes())  # for the next that leads here
        if found[link.anchor] in (("blocked", "address"), EXCLUDED) and urls.host_key(f"{link.anchor}/") != onward.host:
            found[link.anchor] = BLOCKED
        return [(origin, self._keep(origin, rules)) for origin, rules in found.items()]

    def unlearn(self, link: Link) -> list[str]:
        """A visit was not made, after all: what it may have taught is forgotten, or it would be obeyed while neither rows nor
        archive have it. Returns the origins whose records are not to be kept."""
        origins = [urls.origin(link.url)] + ([link.anchor] if link.anchor is not None else [])
        for of in (*origins, link.url):
            self._cache.discard(of)
            self._failures.pop(of, None)
        return origins

    def _keep(self, origin: str, rules: robots_rules.RobotsRules | Failure) -> bytes | None:
        self._attempts.set(origin, 0)
        if isinstance(rules, robots_rules.RobotsRules):
            self._failures.pop(origin, None)
            record = rules.to_bytes()
            self._cache.put(origin, record)
            return record
        self._failures[origin] = (self._wall(), rules)
        self._failures.move_to_end(origin)
        if len(self._failures) > self._failures_max:
            self._failures.popitem(last=False)
        return None

    def _read(self, outcome: Done | Dropped) -> robots_rules.RobotsRules | Failure:
        """The rules that a visit brought, or how what waits for them ends."""
        if not isinstance(outcome, Done):
            return outcome.outcome, outcome.reason or UNAVAILABLE[1]
        page = outcome.page
        if _is_stacked(page):
            return (outcome.outcome, outcome.reason) if outcome.reason else UNAVAILABLE  # never "ok": it is not read
        body = page.decoded(robots_rules.BODY_BYTES_MAX) if 200 <= page.status < 300 else b""
        is_cut = outcome.outcome == "too_large"
        # bytes behind the end of its content coding are no rules, and do not spoil them
        is_whole = (page.fault is None and outcome.outcome != "truncated") or outcome.reason == "trailing_data"
        if outcome.reason == "content_coding" and page.coding == "br" and (before_tail := _before_tail(page)) is not None:
            body, is_whole = before_tail, True
        is_whole |= outcome.outcome in ("redirect", "redirect_error")  # nobody reads the body of a redirect
        if not (is_cut or is_whole or 400 <= page.status < 500):
            return outcome.outcome, outcome.reason or UNAVAILABLE[1]
        control = page.header("cache-control")
        rules = robots_rules.read(page.status, body, name=self._name, wall=self._wall(), cache_control=control, cut=is_cut)
        return UNAVAILABLE if rules.unavailable else rules

    def _at_hand(self, link: Link) -> robots_rules.RobotsRules | Failure | None:
        """The rules in what the link names, if it was visited lately; of a robots.txt also how its visit failed."""
        origin = urls.origin(link.url)
        is_robots_txt = link.url == f"{origin}/robots.txt"
        if is_robots_txt and (failure := self.failed(origin)) is not None:
            return failure
        rules = self._cache.get(origin if is_robots_txt else link.url)
        return rules if rules is not None and rules.fresh(self._wall(), self._name) else None


class _Attempts:
    """How often in a row the rules of each origin were asked for in vain, in one byte of ``size``. Two origins may share one, and
    their attempts: of 100,000 that fail at a time one in ten or so is asked for less often. To forget some instead, as a cache
    does, would forget all of them by turns, and ask for ever."""

    def __init__(self, size: int) -> None:
        self._counts = bytearray(size)
        self.any = 0
        """How many of these bytes are not 0."""

    @property
    def memory_bytes(self) -> int:
        return len(self._counts)

    def of(self, origin: str) -> int:
        return self._counts[hash(origin) % len(self._counts)]

    def set(self, origin: str, attempts: int) -> None:
        place = hash(origin) % len(self._counts)
        self.any += (attempts > 0) - (self._counts[place] > 0)
        self._counts[place] = min(attempts, 255)

    def clear(self) -> None:
        self._counts = bytearray(len(self._counts))
        self.any = 0


def _before_tail(page: Page) -> bytes | None:
    """The body of a brotli robots.txt that is spoilt only by what follows it."""
    return brotli_with_tail(page.body.prefix(robots_rules.BODY_BYTES_MAX), robots_rules.BODY_BYTES_MAX)


def _is_stacked(page: Page) -> bool:
    """Rules in more than one content coding, which nobody sends: to undo them could take long, and this is done in the loop."""
    return 200 <= page.status < 300 and page.coding is not None and "," in page.coding
