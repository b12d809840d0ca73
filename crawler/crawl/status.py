"""A running crawl at one moment: its snapshot, its rates, when it will be done, and the status line. Reads, never changes.

``snapshot_of``, and what it calls, reads the crawl; all else here is pure and knows the snapshot alone.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from crawler.core.model import failed
from crawler.core.snapshot import CrawlState, LongestHost, Pause, Snapshot, WaitsFor
from crawler.core.text import amount, printable

if TYPE_CHECKING:
    from crawler.crawl.crawl import Crawl
    from crawler.frontier.frontier import Frontier

FAILING_HOSTS: Final = 10
RATE_WINDOW_S: Final = 30.0
RATE_S_MIN: Final = 1.0
_SAMPLES_MAX: Final = 256
_WORTH_SAYING_S: Final = 60.0
_LEFT_S_MAX: Final = 1e9
"""Some 30 years: beyond it no forecast means anything, and a host's delay can make one that is infinite."""

WAITS: Final[Mapping[str, str]] = {
    "politeness": "politeness: every host with a URL left rests",
    "frontier": "nothing: there is no URL left to visit",
    "memory": "memory",
    "disk": "the disk",
    "descriptors": "file descriptors: the process may open no more",
    "rate": "the crawl-wide rate or bandwidth",
    "network": "the network: ours is down",
    "parser": "the parsers",
    "operator": "you: the crawl is paused",
    "exchange": "another process or node, which is behind with the links it was sent",
    "database": "the database of the cluster: it cannot be reached, or has given this node no hosts yet",
}
"""What the workers wait for (``WaitsFor``), in words for people; nothing where they are all busy."""


def snapshot_of(crawl: Crawl, state: CrawlState | None = None) -> Snapshot:
    frontier = crawl.frontier
    counts = frontier.counts
    return Snapshot(
        at=time.monotonic(),
        state=state or _state(frontier),
        waits_for=_waits_for(crawl),
        reading=frontier.seeding,
        known=counts.known,
        waiting=counts.waiting,
        retrying=counts.retrying,
        done=counts.done,
        in_flight=frontier.out_count,
        bytes=crawl.body_bytes,
        outcomes=counts.outcomes,
        statuses=counts.statuses,
        reasons=counts.reasons,
        not_pages=counts.not_pages,
        refused=counts.refused,
        lines=counts.lines,
        recrawl=counts.recrawl,
        changes=counts.changes,
        settled=counts.settled,
        longest_host=_longest_host(crawl),
        failing_hosts=crawl.failing_hosts.top(FAILING_HOSTS),
        unstored=crawl.uploads.waiting.files if crawl.uploads is not None else 0,
        unstored_bytes=crawl.uploads.waiting.bytes if crawl.uploads is not None else 0,
        store_trouble=crawl.uploads.trouble if crawl.uploads is not None else None,
    )


def _state(frontier: Frontier) -> CrawlState:
    if frontier.draining:
        return "draining"
    return "offline" if Pause.OFFLINE in frontier.pauses else "paused" if frontier.pauses else "running"


def _waits_for(crawl: Crawl) -> WaitsFor:
    """What most of the workers wait for. Three cases:

    1. A pause.
    2. Of the visits out, half or more are held up inside: by the crawl-wide rate, for a parser, or for room in memory. That
       is the bottleneck, whatever the idle workers are short of.
    3. Otherwise, what the frontier says: why it dealt nothing to the workers that asked in vain."""
    frontier, parser = crawl.frontier, crawl.parser
    if (paused := frontier.paused_by) is not None:
        return paused
    held_up: dict[WaitsFor, int] = {
        "rate": crawl.fetcher.stats().waiting_for_rate,
        "parser": parser.stats().documents_waiting if parser is not None else 0,
        "memory": crawl.memory.budget.waiting_count,
    }
    most = max(held_up, key=held_up.__getitem__)
    if held_up[most] and held_up[most] * 2 >= frontier.out_count:
        return most
    return frontier.waits_for if frontier.idle_count else "nothing"


def _longest_host(crawl: Crawl) -> LongestHost | None:
    longest = crawl.store.longest(1)
    if not longest:
        return None
    host, waiting = longest[0]
    hosts = crawl.hosts
    return LongestHost(host, waiting, hosts.delay(host), hosts.per_host(host))


class Eta(NamedTuple):
    """Seconds until the crawl is done as far as is known now; ``host`` if that one's politeness decides it."""

    seconds: float
    host: LongestHost | None


def eta(rest: int, rate: float, longest: LongestHost | None) -> Eta | None:
    """max(rest ÷ rate, how long the longest host lasts); None if nothing can be said."""
    by_rate = rest / rate if rate > 0 else None
    by_host = longest.lasts_s if longest else 0.0
    if longest and by_host > (by_rate or 0.0):
        return Eta(by_host, longest)
    return None if by_rate is None else Eta(by_rate, None)


class Left(NamedTuple):
    """How long a crawl goes on, as far as that can be said honestly. ``at_least``: more URLs come meanwhile, so it takes
    longer. ``host`` as in ``Eta``."""

    seconds: float
    at_least: bool
    host: LongestHost | None

    def __str__(self) -> str:
        return f"{'at least ' * self.at_least}{duration(self.seconds)}"


def left(now: Snapshot, rates: Rates) -> Left | None:
    """None: it does not run, nothing is left, or nothing is known: a rate of a few seconds is none."""
    rest = now.waiting + now.retrying
    if now.state != "running" or not rest:
        return None
    expected = eta(rest, rates.pages if rates.seconds >= RATE_S_MIN else 0.0, now.longest_host)
    if expected is None:
        return None
    is_longer = expected.seconds > _LEFT_S_MAX
    return Left(min(expected.seconds, _LEFT_S_MAX), is_longer or now.reading or rates.found > 0, expected.host)


def pages_between(first: Snapshot, last: Snapshot) -> int:
    """How many pages were settled meanwhile: by schedule again, which makes no more of them done, or for the first time. Never
    negative, though a store that is set back after a failed commit has fewer done."""
    return max(0, last.done - first.done, last.settled - first.settled)


class Rates:
    """Pages and bytes per second over the last 30 s of snapshots."""

    def __init__(self) -> None:
        self._samples: deque[Snapshot] = deque(maxlen=_SAMPLES_MAX)

    def add(self, snapshot: Snapshot) -> None:
        if self._samples and snapshot.at - self._samples[-1].at < RATE_WINDOW_S / _SAMPLES_MAX:
            return
        self._samples.append(snapshot)
        while snapshot.at - self._samples[0].at > RATE_WINDOW_S:
            self._samples.popleft()

    @property
    def pages(self) -> float:
        return pages_between(self._samples[0], self._samples[-1]) / self.seconds if self.seconds else 0.0

    @property
    def bytes(self) -> float:
        return (self._samples[-1].bytes - self._samples[0].bytes) / self.seconds if self.seconds else 0.0

    @property
    def found(self) -> float:
        """URLs that became known."""
        return max(0, self._samples[-1].known - self._samples[0].known) / self.seconds if self.seconds else 0.0

    @property
    def seconds(self) -> float:
        """Between the first and the last sample."""
        return self._samples[-1].at - self._samples[0].at if self._samples else 0.0


def duration(seconds: float) -> str:
    """``27 h``, ``3 min 20 s``, ``2 d 3 h``: at most two units."""
    rest = round(seconds)
    parts: list[str] = []
    for length, name in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        count, rest = divmod(rest, length)
        if count or (not parts and name == "s"):
            parts.append(f"{count:,} {name}")
        elif parts:
            break
    return " ".join(parts[:2])


def _per_second(rate: float) -> str:
    return f"{rate:,.0f}/s" if rate >= 10 or not rate else f"{rate:.1f}/s"


def status_line(now: Snapshot, rates: Rates) -> str:
    """What failed and how long it goes on, first, since a line may be cut; then done of known, how fast, and what the workers
    wait for."""
    expected = left(now, rates)
    failures = failed(now.outcomes)
    parts = [
        *([f"{failures:,} failed"] if failures else []),
        *([f"{expected} left"] if expected else []),
        f"{now.done:,}/{now.known:,}{'+' * now.reading} URLs",
        _per_second(rates.pages),
        f"{amount(rates.bytes)}/s",
        f"{now.in_flight:,} in flight",
    ]
    if now.retrying:
        parts.append(f"{now.retrying:,} to retry")
    if now.unstored:
        parts.append(f"{now.unstored:,} files to store")
    if now.waits_for != "nothing" and now.state != "ended":
        parts.append(f"waits for {now.waits_for}")
    line = f"{now.state}: " * (now.state != "running") + " · ".join(parts)
    if expected and expected.host and expected.seconds >= _WORTH_SAYING_S:
        line += " " + _politeness_rules(expected.seconds, expected.host)
    return line


def status_fields(now: Snapshot, rates: Rates) -> dict[str, object]:
    """The same as fields of a log line."""
    expected = left(now, rates)
    return {
        "state": now.state,
        "known": now.known,
        "done": now.done,
        "waiting": now.waiting,
        "retrying": now.retrying,
        "failed": failed(now.outcomes),
        "in_flight": now.in_flight,
        "pages_per_second": round(rates.pages, 1),
        "bytes_per_second": round(rates.bytes),
        "waits_for": now.waits_for,
        "seconds_left": None if expected is None else round(expected.seconds),
    }


def state_of(status: Mapping[str, Any]) -> str:
    """Of what ``GET /v1/status`` responds, in words: ``paused by user``."""
    by = ", ".join(status["paused_by"])
    return f"{status['state']} by {by}" if by else str(status["state"])


def _politeness_rules(seconds: float, host: LongestHost) -> str:
    return f"({printable(host.host)} alone: {duration(seconds)} at {host.rest:g} s; if it is yours: --delay 0 --per-host 16)"
