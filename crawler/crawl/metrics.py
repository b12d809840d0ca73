"""What happens in a crawl, counted, and what is read of it: what ``exposition`` tells a scraper.

What happens is counted in plain integers (a visit costs about a microsecond; the client library's own counters would cost
six), with every known label there from the start at 0. What *is* is read when it is scraped, from one ``Readings``: never
counted beside the thing itself, so no gauge can drift. All of it on the event loop: no locks.
"""

from __future__ import annotations

import asyncio
import errno
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, get_args

from msgspec import Struct

from crawler.core.errors import OUR_ERRNOS, REASONS
from crawler.core.model import Done, Outcome, OutcomeName, Retry, Unvisited
from crawler.core.page import Page
from crawler.core.snapshot import CrawlState, WaitsFor
from crawler.frontier.cluster.gauges import Gauges
from crawler.resources.memory_budget import Use

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

STATES: Final = get_args(CrawlState)
WORKER_STATES: Final = ("busy", *(reason for reason in get_args(WaitsFor) if reason != "nothing"))
"""busy: it visits a URL · the others: what an idle worker waits for. Their sum is the number of workers."""
MEMORY_STATES: Final = ("normal", "high", "critical", "over", "single")
"""normal · high: over 85 %, fewer fetches · critical: over 95 %, none · over: a tenth of the visits is given up,
the longest out first · single: one fetch at a time until it helps."""
CONNECTION_STATES: Final = ("acquired", "idle")
URL_STATES: Final = ("waiting", "retrying", "recrawl", "done")
"""retrying: the last attempt failed · recrawl: settled, and due again by schedule · done: settled, and not due again. A URL is
in one of them."""
HOST_STATES: Final = ("resting", "ready", "out", "stored")
"""On the bench and resting, due, or being visited; stored: known, and not on the bench."""
CACHES: Final = ("dns", "robots")
CACHE_EVENTS: Final = ("hit", "miss", "evicted")

SECONDS: Final = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Bounds of a visit and its phases."""
COMMIT_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0)
LAG_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
PHASES: Final = ("queue", "first_byte", "body", "parse")
"""queue: until the request is sent (rate, name lookup, connecting) · first_byte: from then to the response's head · body: to
its end · parse: finding the links, queueing for a parser included."""
CODES: Final = tuple(str(code.value) for code in HTTPStatus if code >= HTTPStatus.OK)
ERRORS: Final = (*(reason for outcome, reasons in REASONS.items() if outcome != "skipped" for reason in reasons), "host_down")
EVENTS: Final = ("found", "admitted", "settled", "retried", "returned")
"""found: links of pages that belong to the crawl · admitted: became known · settled: will not be visited again by itself ·
retried: failed and due again · returned: given back unvisited (drain, our own trouble)."""
BACKOFFS: Final = ("busy", "failed", "gone")
ROBOTS_RESULTS: Final = ("read", "absent", "redirected", "retried", "unavailable")
ERRNOS: Final = (*sorted(errno.errorcode[number] for number in OUR_ERRNOS), "other")
LAG_EVERY_S: Final = 0.25
_LAG_STEPS_MAX: Final = 400


class Readings(Struct, frozen=True, kw_only=True):
    """What a scrape reads of the crawl at that moment. Mappings may leave out what is 0; a part that is not there reads as 0.
    Sizes in bytes, times in seconds."""

    state: CrawlState = "opening"
    workers: Mapping[str, int] = {}
    """By WORKER_STATES."""
    requests_in_flight: int = 0
    bytes_in_flight: int = 0
    """Of bodies that are being received."""
    bytes_written: int = 0
    """To archive, index and results since the start."""
    connections: Mapping[str, int] = {}
    connections_opened: int = 0
    """Since the start."""
    urls: Mapping[str, int] = {}
    hosts: Mapping[str, int] = {}
    changes: Mapping[str, int] = {}
    """What visits found, by change, since a recrawl was last ordered."""
    refused: Mapping[str, int] = {}
    """Links left out, by rule, since the directory was begun."""
    cache_events: Mapping[tuple[str, str], int] = {}
    """By (cache, event), since the start."""
    memory_limit: int = 0
    memory_rss: int = 0
    """Of the whole process tree, shared pages counted once."""
    accounts: Mapping[str, Use] = {}
    memory_state: str = "normal"
    commit_age: float = 0.0
    """How long the oldest outcome or link not yet committed has waited; 0 if there is none."""
    disk_free: int = 0
    storage_errors: Mapping[str, int] = {}
    """By errno name, since the start."""
    uploaded_files: int = 0
    """Stored at ``store_url`` since the start."""
    uploaded_bytes: int = 0
    upload_failures: int = 0
    upload_waiting_files: int = 0
    """Full, and not stored yet."""
    upload_waiting_bytes: int = 0
    upload_oldest: float = 0.0
    """How long the oldest of them has waited."""
    last_reload_successful: bool = True
    processes: int = 1
    """That crawl."""
    process_restarts: int = 0
    exchange_lag: int = 0
    """Bytes that the slowest process is behind with what another has sent it."""
    descriptors_open: int = 0
    """Of the process that has most, and what it may have."""
    descriptors_limit: int = 0
    cpu_seconds: float = 0.0
    """Of the processes that crawl, since the start."""
    cluster: Gauges | None = None
    """Of a node of a cluster; None: it is none."""


class Durations:
    """A histogram of seconds."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.sum += seconds


class Metrics:
    """The counters of one crawl. ``source`` is asked at each scrape; ``rules`` are the names of the rules that refuse links."""

    def __init__(self, source: Callable[[], Readings] = Readings, *, version: str = "", rules: Iterable[str] = ()) -> None:
        self.source = source
        self.fetches = dict.fromkeys(get_args(OutcomeName), 0)
        self.codes = {**dict.fromkeys((int(code) for code in CODES), 0), 0: 0}
        self.errors = dict.fromkeys(ERRORS, 0)
        self.events = dict.fromkeys(EVENTS, 0)
        self.backoffs = dict.fromkeys(BACKOFFS, 0)
        self.robots = dict.fromkeys(ROBOTS_RESULTS, 0)
        self.rules = tuple(rules)
        self.received = self.decoded = 0
        self.links_sent = self.links_received = 0
        """Between the processes of a crawl."""
        self.last_fetch = 0.0
        self.fetch_seconds = Durations(SECONDS)
        self.phase_seconds = {phase: Durations(SECONDS) for phase in PHASES}
        self.commit_seconds = Durations(COMMIT_SECONDS)
        self.lag_seconds = Durations(LAG_SECONDS)
        self._queue, self._first_byte, self._body, self._parse = self.phase_seconds.values()
        self._known = self._settled = 0
        self.version = version

    @cached_property
    def registry(self) -> CollectorRegistry:
        """What a scrape reads. The client library is imported only where something is scraped: it takes 20 ms of a start."""
        from crawler.crawl.exposition import registry_of

        return registry_of(self)

    # -- what happens ---------------------------------------------------------------------------------------------

    def responded(self, page: Page) -> None:
        """An exchange brought a response, whatever is made of it."""
        codes, timings = self.codes, page.timings
        codes[page.status if page.status in codes else 0] += 1
        self.received += page.bytes_wire
        self.decoded += page.bytes_decoded
        queue, first_byte, total = timings.queue, timings.first_byte, timings.total
        self.fetch_seconds.observe(total)
        self._queue.observe(queue)
        self._first_byte.observe(first_byte)
        self._body.observe(total - queue - first_byte)
        self.last_fetch = time.time()

    def parsed(self, seconds: float) -> None:
        """The links of a page were found."""
        self._parse.observe(seconds)

    def visited(self, kind: str, outcome: Outcome) -> None:
        """A visit of a link of this kind ended."""
        if isinstance(outcome, Unvisited):
            self.events["returned"] += 1
            return
        name, reason = outcome.outcome, outcome.reason
        self.fetches[name] += 1
        if reason is not None and reason in self.errors:
            self.errors[reason] += 1
        if outcome.sign in self.backoffs:
            self.backoffs[outcome.sign] += 1
        if isinstance(outcome, Done):
            self.events["found"] += len(outcome.outlinks) + (len(outcome.block) if outcome.block is not None else 0)
        elif isinstance(outcome, Retry):
            self.events["retried"] += 1
        if kind == "robots":
            self.robots[_robots_result(outcome)] += 1

    def opened(self, known: int, settled: int) -> None:
        """The store's totals when the crawl was opened: what is admitted and settled is counted from here."""
        self._known, self._settled = known, settled

    def committed(self, seconds: float, known: int, settled: int) -> None:
        """A commit went through in this time; the store's totals after it, what was removed since among the known."""
        self.commit_seconds.observe(seconds)
        self.events["admitted"] += max(0, known - self._known)
        self.events["settled"] += max(0, settled - self._settled)
        self._known, self._settled = known, settled

    async def watch_lag(self) -> None:
        """Measure how late the loop wakes a sleeper, for ever. A stall counts once for each wake-up it swallowed, so
        that a quantile says what any callback would have met."""
        clock = asyncio.get_running_loop().time
        while True:
            due = clock() + LAG_EVERY_S
            await asyncio.sleep(LAG_EVERY_S)
            late = max(0.0, clock() - due)
            for _ in range(_LAG_STEPS_MAX):
                self.lag_seconds.observe(late)
                late -= LAG_EVERY_S
                if late <= 0:
                    break


def _robots_result(outcome: Outcome) -> str:
    if isinstance(outcome, Retry):
        return "retried"
    if isinstance(outcome, Done) and outcome.outcome == "redirect":
        return "redirected"
    if isinstance(outcome, Done) and (outcome.page.fault is None or outcome.outcome == "too_large"):
        status = outcome.page.status
        if 200 <= status < 300:
            return "read"
        if 400 <= status < 500 and status != HTTPStatus.TOO_MANY_REQUESTS:
            return "absent"
    return "unavailable"
