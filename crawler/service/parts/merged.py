"""What the parts of a crawl tell of themselves, and the same of the whole. Pure.

Counts are sums: each page, host and link is one part's. What is not a count says what holds most of the crawl up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from crawler.core.snapshot import CrawlState, LongestHost, Snapshot, WaitsFor
from crawler.core.sums import added, summed
from crawler.crawl.metrics import MEMORY_STATES, Durations, Metrics, Readings
from crawler.crawl.status import FAILING_HOSTS
from crawler.frontier.cluster.gauges import Gauges, together
from crawler.resources.memory_budget import Use

_STATES: Final[Sequence[CrawlState]] = ("draining", "running", "offline", "paused", "opening", "ended")
"""The state of the whole is the first of these that a part is in which has something to do."""


class Counted(Struct, frozen=True):
    """What ``Metrics`` has counted."""

    counters: Mapping[str, Mapping[str, int]] = {}
    codes: Mapping[int, int] = {}
    sizes: Mapping[str, int] = {}
    last_fetch: float = 0.0
    durations: Mapping[str, tuple[list[int], float]] = {}
    """Of each histogram the counts of its buckets, and the sum."""


class Look(Struct, frozen=True):
    """One part at one moment."""

    snapshot: Snapshot
    readings: Readings = Readings()
    counted: Counted = Counted()
    stuck: str | None = None
    """As ``Vitals.alive``."""
    unready: str | None = "opening"
    """As ``Vitals.ready``."""
    pauses: tuple[str, ...] = ()
    hosts: int = 0
    """Known."""


# -- the snapshot -------------------------------------------------------------------------------------------------


def whole(snapshots: Sequence[Snapshot], state: CrawlState | None = None) -> Snapshot:
    """Of all parts: each as it was seen last."""
    if not snapshots:
        return Snapshot(at=0.0, state=state or "opening")
    # a part without URLs runs: but nobody crawls where all that have some are paused, or offline
    idle = ("running", "frontier", 0)
    at_work = [one for one in snapshots if (one.state, one.waits_for, one.in_flight) != idle] or snapshots
    first: CrawlState = next(name for name in _STATES if any(one.state == name for one in at_work))
    failing = summed([dict(one.failing_hosts) for one in snapshots])
    return added(
        snapshots,
        at=max(one.at for one in snapshots),
        state=state or first,
        waits_for=_waits_for([one.waits_for for one in snapshots]),
        reading=any(one.reading for one in snapshots),
        longest_host=max((one.longest_host for one in snapshots if one.longest_host), key=_lasts, default=None),
        failing_hosts=tuple(sorted(failing.items(), key=lambda pair: (-pair[1], pair[0]))[:FAILING_HOSTS]),
        store_trouble=next((one.store_trouble for one in snapshots if one.store_trouble), None),
    )


def _lasts(host: LongestHost) -> tuple[float, int]:
    return host.lasts_s, host.waiting


def _waits_for(reasons: Sequence[WaitsFor]) -> WaitsFor:
    """What most of those wait for that have something to do; the first of them where there are as many of each."""
    return Counter([reason for reason in reasons if reason != "frontier"] or reasons).most_common(1)[0][0]


# -- what a scrape reads ------------------------------------------------------------------------------------------


def all_readings(parts: Sequence[Readings], state: CrawlState, **own: object) -> Readings:
    """Of all parts, in the ``state`` that ``whole`` tells; ``own`` is what the parent knows better."""
    if not parts:
        return replace(Readings(), state=state, **own)
    accounts: dict[str, Use] = {}
    for one in parts:
        for name, use in one.accounts.items():
            before = accounts.get(name)
            accounts[name] = use if before is None else Use(*(a + b for a, b in zip(before, use, strict=True)))
    told = {
        "accounts": accounts,
        "memory_state": max((one.memory_state for one in parts), key=MEMORY_STATES.index),
        "commit_age": max(one.commit_age for one in parts),
        "disk_free": min(one.disk_free for one in parts),
        "upload_oldest": max(one.upload_oldest for one in parts),
        "last_reload_successful": all(one.last_reload_successful for one in parts),
        "exchange_lag": max(one.exchange_lag for one in parts),
        "descriptors_open": max(one.descriptors_open for one in parts),
        "descriptors_limit": parts[0].descriptors_limit,
        "cluster": together([one.cluster for one in parts if one.cluster is not None]),
    }
    return added(parts, state=state, **(told | own))


_SINCE_START: Final = (
    "bytes_written",
    "connections_opened",
    "cache_events",
    "storage_errors",
    "uploaded_files",
    "uploaded_bytes",
    "upload_failures",
    "cpu_seconds",
)
_SINCE_JOINED: Final = ("slots_lost", "takeovers", "loads", "load_seconds")


def with_ended(now: Readings, ended: Readings) -> Readings:
    """The readings of a part, with what its processes that have ended had counted: what is counted never becomes less."""
    counts = added([now, ended], **{name: None for name in Readings.__struct_fields__ if name not in _SINCE_START})
    accounts = dict(now.accounts)
    for name, use in ended.accounts.items():
        own = accounts.get(name, Use(0, 0, 0))
        accounts[name] = own._replace(waits=own.waits + use.waits)
    return replace(
        now,
        **{name: getattr(counts, name) for name in _SINCE_START},
        accounts=accounts,
        cluster=_joined_again(now.cluster, ended.cluster),
    )


def _joined_again(now: Gauges | None, ended: Gauges | None) -> Gauges | None:
    if ended is None:
        return now
    if now is None:  # it is just being begun
        return replace(ended, held=0, loading=0, oldest_message_s=0.0)
    return replace(now, **{name: getattr(now, name) + getattr(ended, name) for name in _SINCE_JOINED})


_COUNTERS: Final = ("fetches", "errors", "events", "backoffs", "robots")
_HISTOGRAMS: Final = ("fetch_seconds", "commit_seconds", "lag_seconds")


_SIZES: Final = ("received", "decoded", "links_sent", "links_received")


def counted(metrics: Metrics) -> Counted:
    return Counted(
        {name: getattr(metrics, name) for name in _COUNTERS},
        metrics.codes,
        {name: getattr(metrics, name) for name in _SIZES},
        metrics.last_fetch,
        {name: (one.counts, one.sum) for name, one in _histograms(metrics).items()},
    )


def put_counted(metrics: Metrics, parts: Sequence[Counted]) -> None:
    """What these have counted, in place of what was there."""
    for name in _COUNTERS:
        getattr(metrics, name).update(summed([one.counters.get(name, {}) for one in parts]))
    metrics.codes.update(summed([one.codes for one in parts]))
    for name in _SIZES:
        setattr(metrics, name, sum(one.sizes.get(name, 0) for one in parts))
    metrics.last_fetch = max((one.last_fetch for one in parts), default=0.0)
    for name, histogram in _histograms(metrics).items():
        found = [one.durations[name] for one in parts if name in one.durations]
        if found:
            histogram.counts = [sum(column) for column in zip(*(counts for counts, _ in found), strict=True)]
            histogram.sum = sum(total for _, total in found)


def _histograms(metrics: Metrics) -> dict[str, Durations]:
    phases = {f"phase {name}": one for name, one in metrics.phase_seconds.items()}
    return {name: getattr(metrics, name) for name in _HISTOGRAMS} | phases


def ended_counted(parts: Sequence[Counted]) -> Counted:
    """Of processes that have ended, as one: what was counted does not become less when a part is started again."""
    scratch = Metrics()
    put_counted(scratch, parts)
    return counted(scratch)
