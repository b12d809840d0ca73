"""Every metric by name, its labels closed and complete from the start, and counts that add up."""

import asyncio
import re
import shutil
import subprocess
import time
from itertools import pairwise
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest

from crawler.core.errors import OUTCOME_OF, FetchError
from crawler.core.model import Done, Dropped, Link, OutcomeName, Retry, Unvisited
from crawler.core.page import Page, Timings
from crawler.crawl.metrics import LAG_EVERY_S, Metrics, Readings
from crawler.resources.memory_budget import Use

NAMES = frozenset(
    re.findall(
        r"\w+",
        """
crawler_upload_files_total crawler_upload_bytes_total crawler_upload_failures_total crawler_upload_waiting_files
crawler_upload_waiting_bytes crawler_upload_oldest_waiting_seconds
crawler_build_info crawler_state crawler_requests_in_flight crawler_workers crawler_fetches_total crawler_responses_total
crawler_fetch_errors_total crawler_fetch_duration_seconds crawler_phase_duration_seconds crawler_received_bytes_total
crawler_decoded_bytes_total crawler_written_bytes_total crawler_in_flight_bytes crawler_connections
crawler_connections_opened_total crawler_frontier_urls crawler_frontier_hosts crawler_urls_total crawler_links_refused_total
crawler_changes crawler_host_backoffs_total crawler_robots_fetches_total crawler_cache_events_total crawler_memory_limit_bytes
crawler_memory_rss_bytes crawler_memory_budget_bytes crawler_memory_used_bytes crawler_memory_waits_total crawler_memory_state
crawler_commit_duration_seconds crawler_commit_age_seconds crawler_disk_free_bytes crawler_storage_errors_total
crawler_descriptors_open crawler_descriptors_limit crawler_cpu_seconds_total
crawler_processes crawler_process_restarts_total crawler_exchange_links_total crawler_exchange_lag_bytes
crawler_cluster_slots crawler_cluster_lease_left_seconds crawler_cluster_oldest_message_seconds crawler_cluster_slots_lost_total
crawler_cluster_takeovers_total crawler_cluster_loads_total crawler_cluster_load_seconds_total crawler_cluster_dead_rows
crawler_event_loop_lag_seconds crawler_config_last_reload_successful crawler_last_fetch_timestamp_seconds
process_resident_memory_bytes process_open_fds python_gc_collections_total python_info
""",
    )
)

FULL = Readings(
    state="paused",
    workers={"busy": 3, "politeness": 97},
    requests_in_flight=3,
    bytes_in_flight=1 << 20,
    connections={"acquired": 3, "idle": 9},
    connections_opened=12,
    urls={"waiting": 10, "done": 5},
    hosts={"resting": 2},
    refused={"depth": 4},
    cache_events={("robots", "hit"): 8},
    memory_limit=1 << 28,
    memory_rss=1 << 27,
    accounts={"store": Use(64 << 20, 32 << 20, 1)},
    memory_state="high",
    commit_age=0.05,
    disk_free=1 << 33,
    storage_errors={"ENOSPC": 1},
    last_reload_successful=False,
)


def page(status=200, **more):
    return Page("http://a.test/", status, "OK", "1.1", (), b"", body=None, **more)


def samples(metrics):
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
    }


def value(metrics, name, **labels):
    return samples(metrics)[name, tuple(sorted(labels.items()))]


def test_every_metric_of_the_design_is_there_and_no_other_of_ours():
    metrics = Metrics(lambda: FULL, version="1.2.3")
    found = {line.split()[2] for line in generate_latest(metrics.registry).decode().splitlines() if line.startswith("# TYPE ")}
    assert found >= NAMES
    assert {name for name in found if name.startswith("crawler_")} <= NAMES


def test_nothing_is_created_and_nothing_names_a_host_or_a_url():
    metrics = Metrics(lambda: FULL)
    labels = {label for _, pairs in samples(metrics) for label, _ in pairs}
    assert not any(name.endswith("_created") for name, _ in samples(metrics))
    assert labels.isdisjoint({"host", "url", "ip", "path"})


def test_every_known_child_is_there_from_the_start_at_zero():
    metrics = Metrics(rules=("depth", "host"))
    before = samples(metrics)
    everything = [(reason, outcome) for reason, outcome in OUTCOME_OF.items()]
    for reason, outcome in everything:
        metrics.visited("link", Dropped(outcome, reason, sign="failed"))
        metrics.visited("robots", Retry(outcome, reason, "busy"))
    for status in range(100, 600):
        metrics.responded(page(status))
    metrics.source = lambda: Readings(refused={"depth": 1}, storage_errors={"EIO": 2, "other": 1})
    after = samples(metrics)
    assert after.keys() == before.keys()
    counters = [name for name in before if name[0].startswith("crawler_") and name[0].endswith(("_total", "_bucket", "_count"))]
    assert len(counters) > 200
    assert {before[name] for name in counters} == {0}


@given(st.lists(st.sampled_from(get_args(OutcomeName)) | st.just("retry") | st.just("unvisited"), min_size=20))
def test_visits_add_up(history):
    metrics = Metrics()
    for name in history:
        if name == "unvisited":
            metrics.visited("link", Unvisited())
        elif name == "retry":
            metrics.visited("link", Retry("timeout", "read_timeout"))
        else:
            metrics.visited("link", Done(page(), name, outlinks=(Link("http://b.test/", "b.test"),)))
    assert sum(metrics.fetches.values()) + metrics.events["returned"] == len(history)
    assert metrics.events["retried"] == history.count("retry") == metrics.errors["read_timeout"]
    assert metrics.events["found"] == sum(name not in ("retry", "unvisited") for name in history)


def test_an_answer_counts_its_code_its_bytes_and_its_phases():
    metrics = Metrics()
    metrics.responded(page(404, bytes_wire=100, bytes_decoded=400, timings=Timings(queue=1.0, first_byte=0.2, total=1.5)))
    metrics.responded(page(299))
    assert value(metrics, "crawler_responses_total", code="404") == 1
    assert value(metrics, "crawler_responses_total", code="other") == 1, "a server must not be able to make labels"
    assert value(metrics, "crawler_received_bytes_total") == 100
    assert value(metrics, "crawler_decoded_bytes_total") == 400
    assert value(metrics, "crawler_phase_duration_seconds_sum", phase="queue") == 1.0
    assert value(metrics, "crawler_phase_duration_seconds_sum", phase="body") == pytest.approx(0.3)
    assert value(metrics, "crawler_last_fetch_timestamp_seconds") == pytest.approx(time.time(), abs=60)


def test_a_value_on_a_bound_falls_into_its_bucket_and_buckets_only_grow():
    metrics = Metrics()
    for seconds in (0.0, 0.005, 0.0051, 59.9, 60.0, 1e9):
        metrics.commit_seconds.observe(seconds)
        metrics.fetch_seconds.observe(seconds)
    found = [
        (labels[0][1], n) for (name, labels), n in samples(metrics).items() if name == "crawler_fetch_duration_seconds_bucket"
    ]
    assert dict(found)["0.005"] == 2
    assert dict(found)["60.0"] == 5
    assert found[-1] == ("+Inf", 6)
    assert all(less[1] <= more[1] for less, more in pairwise(found))


def test_robots_results(tmp_path):
    metrics = Metrics()
    cut = page(200, fault=FetchError("cut"))
    for outcome in (
        Done(page(200), "ok"),
        Done(page(404), "http_error"),
        Done(page(301), "redirect"),
        Done(page(302, fault=FetchError("content_coding")), "redirect"),
        Done(page(429), "http_error"),
        Done(page(503), "http_error"),
        Done(cut, "truncated", "cut"),
        Dropped("dns_error", "nxdomain"),
        Retry("timeout", "connect_timeout"),
    ):
        metrics.visited("robots", outcome)
    assert metrics.robots == {"read": 1, "absent": 1, "redirected": 2, "retried": 1, "unavailable": 4}


def test_admitted_and_settled_count_from_the_opening_and_never_go_back():
    """The store's totals outlive the process, and a retry on request lowers one of them."""
    metrics = Metrics()
    metrics.opened(known=1000, settled=900)
    metrics.committed(0.01, known=1010, settled=950)
    metrics.committed(0.01, known=1010, settled=940)
    metrics.committed(0.01, known=1011, settled=941)
    assert value(metrics, "crawler_urls_total", event="admitted") == 11
    assert value(metrics, "crawler_urls_total", event="settled") == 51
    assert value(metrics, "crawler_commit_duration_seconds_count") == 3


def test_what_is_read_is_shown():
    metrics = Metrics(lambda: FULL, version="1.2.3", rules=("depth", "scope"))
    assert value(metrics, "crawler_state", state="paused") == 1
    assert value(metrics, "crawler_state", state="running") == 0
    assert value(metrics, "crawler_workers", state="politeness") == 97
    assert value(metrics, "crawler_memory_waits_total", account="store") == 1
    assert value(metrics, "crawler_cache_events_total", cache="robots", event="hit") == 8
    assert value(metrics, "crawler_links_refused_total", rule="depth") == 4
    assert value(metrics, "crawler_links_refused_total", rule="scope") == 0
    assert value(metrics, "crawler_config_last_reload_successful") == 0
    assert [dict(labels)["version"] for name, labels in samples(metrics) if name == "crawler_build_info"] == ["1.2.3"]


async def test_a_stalled_loop_counts_once_for_each_wake_up_it_swallowed():
    metrics = Metrics()
    watch = asyncio.create_task(metrics.watch_lag())
    await asyncio.sleep(0)
    time.sleep(5 * LAG_EVERY_S)
    while not metrics.lag_seconds.sum:
        await asyncio.sleep(0.01)
    watch.cancel()
    assert metrics.lag_seconds.sum >= (4 + 3 + 2 + 1) * LAG_EVERY_S * 0.9
    assert sum(metrics.lag_seconds.counts) >= 4


def test_promtool_finds_nothing_to_complain_of():
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: apt install prometheus)")
    metrics = Metrics(lambda: FULL, version="1.2.3", rules=("depth",))
    done = subprocess.run([promtool, "check", "metrics"], input=generate_latest(metrics.registry), capture_output=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")
