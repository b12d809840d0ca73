"""A running crawl at one moment, and what its idle workers wait for. Reads, never changes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from crawler.core.model import LongestHost, Pause, Snapshot, State, WaitsFor

if TYPE_CHECKING:
    from crawler.crawl.crawl import Crawl
    from crawler.frontier.frontier import Frontier

FAILING_HOSTS: Final = 10


def snapshot_of(crawl: Crawl, state: State | None = None) -> Snapshot:
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
        reasons=counts.reasons,
        not_pages=counts.not_pages,
        refused=counts.refused,
        lines=counts.lines,
        longest_host=_longest_host(crawl),
        failing_hosts=crawl.failing_hosts.top(FAILING_HOSTS),
    )


def _state(frontier: Frontier) -> State:
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
