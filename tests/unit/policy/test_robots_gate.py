"""The verdict that robots rules cannot be had: for five minutes at most, and only until somebody wants it tried again."""

from __future__ import annotations

import gzip
import zlib

import brotli
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.pages import page_of

from crawler.core.errors import REASONS, FetchError
from crawler.core.model import Done, Dropped, Link, Retry, Unvisited
from crawler.policy.robots_cache import RulesCache
from crawler.policy.robots_gate import BLOCKED, FAILURE_BYTES, FAILURE_S_MAX, FAILURES_MAX, UNAVAILABLE, RobotsGate, divided
from crawler.policy.robots_rules import Record, RobotsRules

HOST = "a.test"
PAGE = Link("http://a.test/x", HOST)
ROBOTS = Link("http://a.test/robots.txt", HOST, "robots", anchor="http://a.test", via="http://a.test/x")
DENIES = b"User-agent: *\nDisallow: /private\n"
PRIVATE = Link("http://a.test/private", HOST)


class Time:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def gate(time: Time | None = None) -> RobotsGate:
    return RobotsGate(
        RulesCache(1 << 20),
        name="bot",
        crawl_delay_cap_s=1.0,
        obeys=lambda origin: origin != "http://free.test",
        wall=time or Time(),
    )


def failures(tmp_path) -> list[Done | Dropped]:
    """How a robots.txt cannot be had: as fetch and judge say it."""
    errors = [
        (outcome, reason) for outcome in ("timeout", "connect_error", "dns_error", "tls_error") for reason in REASONS[outcome]
    ]
    dropped = [Dropped(outcome, reason) for outcome, reason in [*errors, ("skipped", "crashed"), ("dns_error", "host_down")]]
    statuses = [
        Done(page_of(tmp_path, b"busy", ROBOTS.url, status=status), "http_error") for status in (429, 500, 503, 520, 599, 999)
    ]
    cut = page_of(tmp_path, DENIES, ROBOTS.url, fault=FetchError("chunked"))
    return [*dropped, *statuses, Done(cut, "truncated", "chunked")]


def test_what_waits_for_rules_that_cannot_be_had_ends_as_their_fetch_did(tmp_path):
    for outcome in failures(tmp_path):
        desk = gate()
        assert desk.learn(ROBOTS, outcome) == [("http://a.test", None)]
        status = outcome.page.status if isinstance(outcome, Done) else 0
        wanted = UNAVAILABLE if status >= 300 else (outcome.outcome, outcome.reason)
        assert desk.ready(PAGE), "it is dealt, to be settled"
        assert desk.refuses(PAGE) == desk.failure(PAGE) == wanted
        assert desk.delay(PAGE) == 0.0


def test_only_an_end_teaches_anything():
    for outcome in (Retry("timeout", "read_timeout"), Unvisited()):
        assert gate().learn(ROBOTS, outcome) == []


def test_the_attempts_at_a_robots_txt_are_counted_though_its_host_leaves_the_bench_between_them():
    desk, failed = gate(), Retry("http_error", None, "busy")
    for attempt in (1, 2, 3):
        link = desk.link(PAGE)
        assert link.attempt == attempt
        desk.learn(link, failed)
    desk.learn(desk.link(PAGE), Dropped("timeout", "read_timeout"))
    assert desk.link(PAGE).attempt == 1, "the next is asked for anew"
    desk.learn(desk.link(PAGE), failed)
    desk.forgive("a.test")
    assert desk.link(PAGE).attempt == 1
    desk.learn(desk.link(PAGE), failed)
    desk.forgive()
    assert desk.link(PAGE).attempt == 1


def test_attempts_are_counted_at_any_number_of_hosts():
    """Each was forgotten before its host came round again, and asked for without end: with 20,000 hosts whose robots.txt was 503,
    and was to be asked for 15 s later, the crawl did not end."""
    desk, failed = gate(), Retry("http_error", None, "alive")
    pages = [Link(f"http://h{n}.test/", f"h{n}.test") for n in range(3 * FAILURES_MAX)]
    used = desk.memory_used()
    for attempt in (1, 2, 3):
        asked = [desk.link(page) for page in pages]
        assert all(link.attempt >= attempt for link in asked)
        assert sum(link.attempt > attempt for link in asked) < len(asked) // 20, "few share a place"
        for link in asked:
            desk.learn(link, failed)
    assert desk.memory_used() == used
    for link in asked:
        desk.learn(link, Dropped("http_error"))
    assert all(desk.link(page).attempt == 1 for page in pages)


@pytest.mark.parametrize("bytes_max", [2 << 20, 32 << 20])
def test_rules_and_failures_share_their_memory(bytes_max):
    cache_bytes, failures_max = divided(bytes_max)
    cache = RulesCache(cache_bytes)
    desk = RobotsGate(
        cache, name="bot", crawl_delay_cap_s=1.0, obeys=lambda host: True, wall=lambda: 0.0, failures_max=failures_max
    )
    for n in range(FAILURES_MAX + 5):
        for kind, failed in (("a", Dropped("timeout", "read_timeout")), ("b", Retry("timeout", "read_timeout"))):
            desk.learn(desk.link(Link(f"http://{kind}{n}.test/", f"{kind}{n}.test")), failed)
    left = bytes_max - desk.memory_used()
    assert bytes_max * 3 // 4 <= cache_bytes <= left, "both of them full"
    assert failures_max >= 600


verbs = st.one_of(
    st.tuples(st.just("fail"), st.integers(0, 3)),
    st.tuples(st.just("read"), st.integers(0, 3)),
    st.tuples(st.just("wait"), st.sampled_from([1.0, 100.0, FAILURE_S_MAX, -7.0])),
    st.tuples(st.just("forgive"), st.integers(-1, 3)),
    st.tuples(st.just("forget"), st.just(0)),
)


@given(st.lists(verbs, max_size=30))
def test_the_verdict_is_kept_as_long_as_it_may_be_and_no_longer(tmp_path_factory, history):
    """Against a model: origin → when it failed; ``forgive`` of a host takes both of its schemes."""
    time = Time()
    desk, failed, read = gate(time), {}, set()
    origins = ["http://a.test", "https://a.test", "http://b.test", "http://a.test:81"]
    body = page_of(tmp_path_factory.getbasetemp(), DENIES, ROBOTS.url)
    for verb, value in history:
        if verb in ("fail", "read"):
            origin = origins[value]
            host = origin.partition("//")[2]
            link = Link(f"{origin}/robots.txt", host, "robots", anchor=origin)
            desk.learn(link, Dropped("timeout", "first_byte_timeout") if verb == "fail" else Done(body, "ok"))
            if verb == "fail":
                failed[origin] = time.now
            else:
                failed.pop(origin, None)
                read.add(origin)
        elif verb == "wait":
            time.now += value
        elif verb == "forget":
            desk.forget()
            read.clear()
        else:
            host = None if value < 0 else origins[value].partition("//")[2]
            desk.forgive(host)
            failed = {of: at for of, at in failed.items() if host is not None and of.partition("//")[2] != host}
        failed = {of: at for of, at in failed.items() if abs(time.now - at) < FAILURE_S_MAX}
        for origin in origins:
            link = Link(f"{origin}/x", origin.partition("//")[2])
            is_failed = origin in failed
            assert (desk.failure(link) is not None) == is_failed
            assert desk.ready(link) == (is_failed or origin in read)


def test_failures_are_bounded():
    desk = gate()
    for n in range(FAILURES_MAX + 10):
        link = Link(f"http://{n}.test/robots.txt", f"{n}.test", "robots", anchor=f"http://{n}.test")
        desk.learn(link, Dropped("timeout", "first_byte_timeout"))
    assert not desk.ready(Link("http://9.test/", "9.test"))
    assert desk.ready(Link("http://10.test/", "10.test"))
    assert desk.memory_used() <= 2 * FAILURES_MAX * FAILURE_BYTES


def test_a_failure_that_an_earlier_version_kept_is_none():
    old = RobotsRules(Record(0, Time.now, 3600.0, "bot"))
    desk = gate()
    assert not desk.load("http://a.test", old.to_bytes())
    assert not desk.ready(PAGE)


def test_a_host_whose_robots_txt_is_ignored_is_not_denied_by_it():
    desk = gate()
    link = Link("http://free.test/robots.txt", "free.test", "robots", anchor="http://free.test")
    desk.learn(link, Dropped("timeout", "first_byte_timeout"))
    page = Link("http://free.test/", "free.test")
    assert desk.refuses(page) is desk.failure(page) is None


def redirected(tmp_path, location: str) -> Done:
    page = page_of(tmp_path, b"", ROBOTS.url, ((b"Location", location.encode()),), status=302)
    onward = Link(location, location.split("/")[2], "robots", hops=1, anchor="http://a.test", via=PAGE.url)
    return Done(page, "redirect", outlinks=(onward,))


@pytest.mark.parametrize(
    "target",
    ["http://10.0.0.1/robots.txt", "http://[fd00::1]/robots.txt", "http://inside.test/deep/rules", "https://inside.test/"],
)
def test_a_robots_txt_that_leads_to_a_refused_address_has_a_reason_of_its_own(tmp_path, target):
    """The page's own host is not blocked: to open that address to the crawl would be for nothing."""
    desk = gate()
    onward = desk.onward(ROBOTS, redirected(tmp_path, target))
    desk.learn(onward, Dropped("blocked", "address"))
    assert desk.refuses(PAGE) == BLOCKED == ("robots_denied", "robots_blocked")
    own = Link(target, onward.host)
    if target.endswith("/robots.txt"):
        assert desk.refuses(own) == ("blocked", "address"), "its own pages are"


def test_a_host_that_is_itself_at_a_refused_address_is_blocked(tmp_path):
    desk = gate()
    desk.learn(ROBOTS, Dropped("blocked", "address"))
    assert desk.refuses(PAGE) == ("blocked", "address")
    desk = gate()
    onward = desk.onward(ROBOTS, redirected(tmp_path, "http://a.test/rules.txt"))
    desk.learn(onward, Dropped("blocked", "address"))
    assert desk.refuses(PAGE) == ("blocked", "address")


def test_a_redirect_to_what_is_known_to_fail_ends_as_that(tmp_path):
    desk = gate()
    other = Link("http://b.test/robots.txt", "b.test", "robots", anchor="http://b.test")
    desk.learn(other, Dropped("timeout", "read_timeout"))
    outcome = redirected(tmp_path, "http://b.test/robots.txt")
    assert desk.onward(ROBOTS, outcome) is None
    desk.learn(ROBOTS, outcome)
    assert desk.refuses(PAGE) == ("timeout", "read_timeout")


def test_a_page_to_which_many_robots_txt_lead_is_visited_for_the_first_of_them(tmp_path):
    time = Time()
    desk, target = gate(time), "http://parking.test/bought"
    outcome = redirected(tmp_path, target)
    onward = desk.onward(ROBOTS, outcome)
    assert onward.url == target
    assert desk.learn(onward, Dropped("timeout", "read_timeout")) == [("http://a.test", None)]
    assert desk.onward(ROBOTS, outcome) is not None, "a failure is nobody's but of who asked"
    desk.learn(onward, Done(page_of(tmp_path, b"User-agent: *\nDisallow: /p", target), "ok"))
    other = Link("http://b.test/robots.txt", "b.test", "robots", anchor="http://b.test", via="http://b.test/")
    assert desk.onward(other, outcome) is None
    assert [of for of, _ in desk.learn(other, outcome)] == ["http://b.test"]
    assert desk.refuses(Link("http://b.test/p", "b.test")) == ("robots_denied", "rule")
    assert desk.refuses(Link("http://b.test/x", "b.test")) is None
    time.now += 25 * 3600
    assert desk.onward(other, outcome) is not None, "it is as old as rules may be"


TAILS = [b"\n", b"\0", b"\0" * 512, b"\r\n<!-- served by 7 -->", b"x", b"\x1f", b"\xff" * 9000]


@pytest.mark.parametrize("fault", [None, FetchError("coding_cut")])
@pytest.mark.parametrize(
    ("outcome", "reason"), [("redirect", None), ("redirect_error", "loop"), ("redirect_error", "bad_location")]
)
def test_redirects_that_lead_to_no_rules_allow_everything_whatever_their_bodies_are(tmp_path, fault, outcome, reason):
    """RFC 9309 2.3.1.2. What waits would else end as a redirect that never was."""
    onward = (Link("http://a.test/7.txt", HOST, "robots", hops=6, anchor="http://a.test"),) if outcome == "redirect" else ()
    last = Link("http://a.test/6.txt", HOST, "robots", hops=5, anchor="http://a.test", via=PAGE.url)
    page = page_of(tmp_path, b"moved", last.url, status=302, fault=fault)
    desk, end = gate(), Done(page, outcome, reason, outlinks=onward)
    assert desk.onward(last, end) is None
    desk.learn(last, end)
    assert desk.refuses(PAGE) is desk.failure(PAGE) is None


def packed(coding: str, body: bytes) -> bytes:
    if coding == "gzip":
        return gzip.compress(body)
    if coding == "deflate":
        return zlib.compress(body)
    return brotli.compress(body)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br"])
@pytest.mark.parametrize("tail", TAILS)
def test_rules_are_read_whatever_stands_behind_the_end_of_their_coding(tmp_path, coding, tail):
    fault = FetchError("content_coding" if coding == "br" else "trailing_data")
    page = page_of(tmp_path, packed(coding, DENIES) + tail, ROBOTS.url, coding=coding, fault=fault)
    desk = gate()
    desk.learn(ROBOTS, Done(page, fault.outcome, fault.reason))
    assert desk.refuses(PAGE) is None
    assert desk.refuses(PRIVATE) == ("robots_denied", "rule")


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br"])
def test_rules_that_are_spoilt_before_their_end_are_none(tmp_path, coding):
    body = packed(coding, DENIES + bytes(range(256)) * 9)[:-20] + b"\xff" * 40
    page = page_of(tmp_path, body, ROBOTS.url, coding=coding, fault=FetchError("content_coding"))
    desk = gate()
    assert desk.learn(ROBOTS, Done(page, "bad_response", "content_coding")) == [("http://a.test", None)]
    assert desk.refuses(PAGE) == ("bad_response", "content_coding")


def test_rules_in_stacked_codings_are_none_and_no_page_is_taken_for_fetched(tmp_path):
    """They came whole, so their own visit ends well; what waits for them must not end so."""
    page = page_of(tmp_path, gzip.compress(gzip.compress(DENIES)), ROBOTS.url, coding="gzip, gzip")
    desk = gate()
    assert desk.learn(ROBOTS, Done(page, "ok")) == [("http://a.test", None)]
    assert desk.refuses(PAGE) == UNAVAILABLE
