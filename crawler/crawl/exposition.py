"""Every metric by name, in one registry per crawl, as Prometheus scrapes it.

Invariants: labels come from closed sets, every known child is there from the start at 0, and no label holds a host or a URL.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from crawler.core.model import CHANGES
from crawler.crawl.metrics import (
    CACHE_EVENTS,
    CACHES,
    CONNECTION_STATES,
    ERRNOS,
    HOST_STATES,
    MEMORY_STATES,
    STATES,
    URL_STATES,
    WORKER_STATES,
    Durations,
    Metrics,
    Readings,
)
from crawler.frontier.cluster.gauges import TABLES, Gauges


def registry_of(metrics: Metrics) -> CollectorRegistry:
    """The crawl's own metrics, and those of the process and the interpreter."""
    registry = CollectorRegistry(auto_describe=True)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    registry.register(_Exposed(metrics))
    return registry


def _build(version: str) -> dict[str, str]:
    """Versions of the program and of what it stands on."""
    found = {"version": version, "python": platform.python_version()}
    for name in ("aiohttp", "rocksdict", "uvloop"):
        try:
            found[name] = installed(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


class _Exposed(Collector):
    """All families, made anew at each scrape."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._build = _build(metrics.version)

    def describe(self) -> Iterable[Metric]:
        return [_built(self._build), *_counted(self._metrics), *_read(Readings())]

    def collect(self) -> Iterable[Metric]:
        readings = self._metrics.source()
        yield _built(self._build)
        yield from _counted(self._metrics)
        yield from _read(readings, self._metrics.rules)


def _built(versions: Mapping[str, str]) -> Metric:
    build = GaugeMetricFamily("crawler_build_info", "Versions of the program and of what it stands on.", labels=list(versions))
    build.add_metric(list(versions.values()), 1)
    return build


def _counted(m: Metrics) -> Iterator[Metric]:
    """What the crawl was told of."""
    yield _counters("crawler_fetches_total", "Visits ended, by outcome; each attempt counts.", "outcome", m.fetches)
    codes = {str(code) if code else "other": count for code, count in m.codes.items()}
    yield _counters("crawler_responses_total", "Responses, by status code.", "code", codes)
    yield _counters("crawler_fetch_errors_total", "Visits that failed, by reason.", "reason", m.errors)
    yield _histogram("crawler_fetch_duration_seconds", "Fetches that brought a response.", "", {"": m.fetch_seconds})
    yield _histogram("crawler_phase_duration_seconds", "Parts of a visit, by phase.", "phase", m.phase_seconds)
    yield CounterMetricFamily("crawler_received_bytes_total", "Body bytes as they came over the wire.", m.received)
    yield CounterMetricFamily("crawler_decoded_bytes_total", "Body bytes after content decoding, where it was done.", m.decoded)
    yield _counters("crawler_urls_total", "What became of URLs, by event.", "event", m.events)
    yield _counters("crawler_host_backoffs_total", "Visits after which a host was backed off, by cause.", "cause", m.backoffs)
    yield _counters("crawler_robots_fetches_total", "Fetches of robots.txt, by result.", "result", m.robots)
    yield _histogram("crawler_commit_duration_seconds", "Commits, from closing the batch.", "", {"": m.commit_seconds})
    yield _histogram("crawler_event_loop_lag_seconds", "How late the event loop is.", "", {"": m.lag_seconds})
    exchanged = {"sent": m.links_sent, "received": m.links_received}
    yield _counters("crawler_exchange_links_total", "Links between the processes of a crawl.", "direction", exchanged)
    yield _gauge("crawler_last_fetch_timestamp_seconds", "When the last response came, 0 if none has.", m.last_fetch)


def _uploaded(r: Readings) -> Iterator[Metric]:
    """Full files, and where they are stored besides."""
    yield CounterMetricFamily("crawler_upload_files_total", "Full files stored elsewhere.", r.uploaded_files)
    yield CounterMetricFamily("crawler_upload_bytes_total", "Bytes of full files stored elsewhere.", r.uploaded_bytes)
    yield CounterMetricFamily("crawler_upload_failures_total", "Attempts to store files that failed.", r.upload_failures)
    yield _gauge("crawler_upload_waiting_files", "Full files not stored yet.", r.upload_waiting_files)
    yield _gauge("crawler_upload_waiting_bytes", "Bytes of full files not stored yet.", r.upload_waiting_bytes)
    yield _gauge("crawler_upload_oldest_waiting_seconds", "How long the oldest of them has waited.", r.upload_oldest)


def _read(r: Readings, rules: Iterable[str] = ()) -> Iterator[Metric]:
    """What was read for this scrape."""
    yield _one_of("crawler_state", "1 for the state the crawl is in.", r.state, STATES)
    yield _gauges("crawler_workers", "Workers, by what they do or wait for.", "state", r.workers, WORKER_STATES)
    yield _gauge("crawler_requests_in_flight", "Requests whose response is not complete yet.", r.requests_in_flight)
    yield _gauge("crawler_in_flight_bytes", "Body bytes of requests in flight.", r.bytes_in_flight)
    yield CounterMetricFamily("crawler_written_bytes_total", "Bytes written to archive, index and results.", r.bytes_written)
    yield _gauges("crawler_connections", "Connections, by state.", "state", r.connections, CONNECTION_STATES)
    yield CounterMetricFamily("crawler_connections_opened_total", "Connections made.", r.connections_opened)
    yield _gauges("crawler_frontier_urls", "Known URLs as of the last commit, by state.", "state", r.urls, URL_STATES)
    yield _gauges("crawler_changes", "Visits by what they found, since the last recrawl order.", "change", r.changes, CHANGES)
    yield _gauges("crawler_frontier_hosts", "Known hosts, by state.", "state", r.hosts, HOST_STATES)
    yield from _uploaded(r)
    refused = {**dict.fromkeys(rules, 0), **r.refused}
    yield _counters("crawler_links_refused_total", "Links left out, by rule.", "rule", refused)
    cache = CounterMetricFamily("crawler_cache_events_total", "Cache look-ups and evictions.", labels=["cache", "event"])
    for name in CACHES:
        for event in CACHE_EVENTS:
            cache.add_metric([name, event], r.cache_events.get((name, event), 0))
    yield cache
    yield _gauge("crawler_memory_limit_bytes", "The limit for the whole process tree.", r.memory_limit)
    yield _gauge("crawler_memory_rss_bytes", "Used by the process tree, shared pages counted once.", r.memory_rss)
    budgets = {name: account.budget for name, account in r.accounts.items()}
    yield _gauges("crawler_memory_budget_bytes", "What an account may use.", "account", budgets, budgets)
    used = {name: account.used for name, account in r.accounts.items()}
    yield _gauges("crawler_memory_used_bytes", "What an account uses.", "account", used, used)
    waits = {name: account.waits for name, account in r.accounts.items()}
    yield _counters("crawler_memory_waits_total", "Times something waited for an account.", "account", waits)
    yield _one_of("crawler_memory_state", "1 for the state memory is in.", r.memory_state, MEMORY_STATES)
    yield _gauge("crawler_commit_age_seconds", "How long the oldest uncommitted outcome has waited.", r.commit_age)
    yield _gauge("crawler_disk_free_bytes", "Free on the fullest disk of the crawl's directory.", r.disk_free)
    errors = {**dict.fromkeys(ERRNOS, 0), **r.storage_errors}
    yield _counters("crawler_storage_errors_total", "This machine's own trouble, by errno.", "errno", errors)
    yield _gauge("crawler_descriptors_open", "File descriptors of the process that has most.", r.descriptors_open)
    yield _gauge("crawler_descriptors_limit", "How many it may have.", r.descriptors_limit)
    cpu = "CPU time of the processes that crawl, parsers not among them."
    yield CounterMetricFamily("crawler_cpu_seconds_total", cpu, r.cpu_seconds)
    yield _gauge("crawler_processes", "Processes that crawl.", r.processes)
    yield CounterMetricFamily("crawler_process_restarts_total", "Processes begun again after they died.", r.process_restarts)
    yield _gauge("crawler_exchange_lag_bytes", "How far the slowest process is behind with what others sent.", r.exchange_lag)
    yield from _cluster(r.cluster or Gauges())
    yield _gauge("crawler_config_last_reload_successful", "0 after a reload that was refused.", r.last_reload_successful)


def _cluster(g: Gauges) -> Iterator[Metric]:
    """Of a node of a cluster; all 0 on a machine alone."""
    slots = {"held": g.held, "loading": g.loading}
    yield _gauges("crawler_cluster_slots", "Slots leased by this node, of 256.", "state", slots, slots)
    yield _gauge("crawler_cluster_lease_left_seconds", "How long the shortest lease still runs.", g.lease_left_s)
    yield _gauge("crawler_cluster_oldest_message_seconds", "Age of the oldest message for this node.", g.oldest_message_s)
    yield CounterMetricFamily("crawler_cluster_slots_lost_total", "Slots that others took, or whose lease ran out.", g.slots_lost)
    yield CounterMetricFamily("crawler_cluster_takeovers_total", "Slots taken over from nodes that were gone.", g.takeovers)
    yield CounterMetricFamily("crawler_cluster_loads_total", "Slots loaded from the database.", g.loads)
    yield CounterMetricFamily("crawler_cluster_load_seconds_total", "Time that loading them took.", g.load_seconds)
    dead = dict.fromkeys(TABLES, 0) | dict(g.dead_rows)
    yield _gauges("crawler_cluster_dead_rows", "Rows that vacuum has not taken away yet.", "table", dead, TABLES)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, float(value))


def _gauges(name: str, text: str, label: str, values: Mapping[str, float], known: Iterable[str]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for value in known:
        family.add_metric([value], values.get(value, 0))
    return family


def _one_of(name: str, text: str, current: str, known: Iterable[str]) -> Metric:
    return _gauges(name, text, "state", {current: 1}, known)


def _counters(name: str, text: str, label: str, values: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(name, text, labels=[label])
    for value, count in values.items():
        family.add_metric([value], count)
    return family


def _histogram(name: str, text: str, label: str, values: Mapping[str, Durations]) -> Metric:
    family = HistogramMetricFamily(name, text, labels=[label] if label else [])
    for value, durations in values.items():
        total, buckets = 0, []
        for bound, count in zip((*map(str, durations.bounds), "+Inf"), durations.counts, strict=True):
            total += count
            buckets.append((bound, total))
        family.add_metric([value] if label else [], buckets, durations.sum)
    return family
