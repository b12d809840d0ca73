"""A running crawl at one moment, and what its idle workers wait for. Reads, never changes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from crawler.core.model import LongestHost, Snapshot, State, WaitsFor

if TYPE_CHECKING:
    from crawler.crawl.crawl import Crawl
    from crawler.frontier.pump import Frontier

FAILING_HOSTS: Final = 10
PAUSED_BY: Final[dict[str, WaitsFor]] = {"disk": "disk", "disk_low": "disk", "memory": "memory", "offline": "network"}


def snapshot_of(crawl: Crawl, state: State | None = None) -> Snapshot:
    frontier = crawl.frontier
    counts = frontier.counts
    return Snapshot(
        at=time.monotonic(),
        state=state or _state(frontier),
        waits_for=_waits_for(frontier),
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
        failing_hosts=crawl.failing.top(FAILING_HOSTS),
    )


def _state(frontier: Frontier) -> State:
    if frontier.draining:
        return "draining"
    return "offline" if "offline" in frontier.pauses else "paused" if frontier.pauses else "running"


def _waits_for(frontier: Frontier) -> WaitsFor:
    for pause, what in PAUSED_BY.items():
        if pause in frontier.pauses:
            return what
    if not frontier.idle_count:
        return "nothing"
    if frontier.is_backed_up:
        return "disk"
    return "politeness" if frontier.bench.waiting or frontier.counts.waiting + frontier.counts.retrying else "frontier"


def _longest_host(crawl: Crawl) -> LongestHost | None:
    longest = crawl.parts.store.longest(1)
    if not longest:
        return None
    host, waiting = longest[0]
    hosts = crawl.parts.hosts
    return LongestHost(host, waiting, hosts.delay(host), hosts.per_host(host))
