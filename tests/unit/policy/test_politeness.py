"""How long a host rests and when it is given up: each wish by itself, then long histories of visits."""

from __future__ import annotations

from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.frontiers import politeness
from support.pages import page_of

from crawler.core.batch import HostRest
from crawler.core.model import Done, Dropped, Link, Outcome, Retry, Unvisited
from crawler.core.page import Page, Timings

NOW = 1000.0
LINK = Link("http://a.test/1", "a.test", "link")
ROBOTS = Link("http://a.test/robots.txt", "a.test", "robots")


def page(first_byte_s: float = 0.0) -> Page:
    return Page("", 200, "", "1.1", (), b"", cast("object", None), timings=Timings(0.0, first_byte_s, 0.0))  # type: ignore[arg-type]


UNKNOWN = HostRest(0.0)


def rest_after(outcome: Outcome, host: HostRest = UNKNOWN, link: Link = LINK, **settings: float) -> float:
    polite = politeness(**({"delay_s": 1.0, "backoff_max_s": 300.0} | settings))
    return polite.after(link, outcome, host, NOW, polite.pause(link)).due - NOW


@pytest.mark.parametrize(
    ("settings", "outcome", "seconds"),
    [
        ({}, Done(page(), "ok"), 1.0),
        ({"factor": 2.0}, Done(page(3.0), "ok"), 6.0),
        ({"factor": 2.0}, Retry("truncated", "cut", "alive", first_byte_s=3.0), 6.0),
        ({"factor": 2.0}, Dropped("skipped", "mime", sign="alive", first_byte_s=3.0), 6.0),
        ({"crawl_delay_s": 7.0}, Done(page(), "ok"), 7.0),
        ({"crawl_delay_s": 7.0}, Dropped("connect_error", "reset", sign="mute"), 7.0),
        ({}, Done(page(), "http_error", retry_after_s=77.0), 77.0),
        ({}, Retry("http_error", None, "alive", retry_after_s=77.0), 77.0),
        ({"backoff_max_s": 50.0}, Done(page(), "redirect", retry_after_s=77.0), 50.0),
        ({}, Dropped("blocked", "address"), 0.0),
        ({}, Unvisited(), 1.0),
        ({"crawl_delay_s": 7.0}, Unvisited(), 7.0),
        ({}, Unvisited(10.0, "mute"), 10.0),
        ({"crawl_delay_s": 17.0}, Unvisited(10.0, "mute"), 17.0),
    ],
)
def test_what_one_visit_asks_for(settings, outcome, seconds):
    assert rest_after(outcome, HostRest(NOW), **settings) == seconds


@pytest.mark.parametrize(("sign", "counted"), [("failed", "failures"), ("gone", "failures"), ("busy", "busy")])
def test_a_host_that_fails_or_is_busy_backs_off_further_each_time(sign, counted):
    for times in range(6):
        host = HostRest(NOW, **{counted: times}, has_responded=True)
        assert rest_after(Retry("timeout", None, sign), host, jitter=lambda: 0.5, host_failures=99) == max(1.0, 0.5 * 2**times)


def test_a_host_rests_until_its_robots_txt_is_asked_for_again():
    """It is the host's next link: nothing else of it may be visited meanwhile, and it may not be asked for at once."""
    outcome = Retry("http_error", None, "alive")
    for link, seconds in (
        (ROBOTS, 1.0),
        (ROBOTS.retried(), 2.0),
        (ROBOTS.retried().retried(), 4.0),
        (LINK.retried().retried(), 1.0),
    ):
        assert rest_after(outcome, link=link) == seconds


@pytest.mark.parametrize("outcome", [Done(page(), "ok"), Dropped("timeout", "total_timeout", sign="mute"), Unvisited()])
def test_a_crawl_delay_that_was_known_when_the_visit_began_holds_after_it(outcome):
    """By its end the rules may have left the memory for those of others."""
    assert politeness(1.0).after(LINK, outcome, UNKNOWN, NOW, 7.0).due == NOW + 7.0


@pytest.mark.parametrize("outcome", [Done(page(), "ok"), Dropped("timeout", "total_timeout", sign="mute"), Unvisited()])
def test_a_delay_that_was_set_during_a_visit_holds_after_it(outcome):
    assert politeness(60.0).after(LINK, outcome, UNKNOWN, NOW, 1.0).due == NOW + 60.0


def test_a_link_backs_off_by_itself_and_a_name_longer():
    polite = politeness(backoff_max_s=5.0)
    timeout, name = Retry("timeout", "connect_timeout"), Retry("dns_error", "servfail")
    links = (LINK, LINK.retried(), LINK.retried().retried())
    assert [polite.retry_in(link, timeout) for link in links] == [1.0, 2.0, 2.5]
    assert [polite.retry_in(link, name) for link in links] == [2.0, 2.5, 2.5]


def given_up(*outcomes: Outcome, **settings: int) -> int | None:
    """After which of these visits in a row, from 1; None: it is not."""
    polite, host = politeness(**settings), HostRest(NOW)
    for count, outcome in enumerate(outcomes, 1):
        host = polite.after(LINK, outcome, host, NOW, polite.pause(LINK))
        if host.down is not None:
            return count
    return None


FAILED = Retry("connect_error", "refused", "failed")
MUTE = Retry("connect_error", "disconnected", "mute")
GONE = Retry("dns_error", "nxdomain", "gone")
GONE_FOR_GOOD = Dropped("dns_error", "nxdomain", sign="gone")
ALIVE = Done(page(), "ok")
UNASKED = Dropped("blocked", "address")


@pytest.mark.parametrize(
    ("outcomes", "count"),
    [
        ([FAILED] * 9, 8),
        ([FAILED] * 7 + [ALIVE] + [FAILED] * 7, None),
        ([FAILED] * 7 + [MUTE] * 50, None),
        ([FAILED] * 7 + [MUTE] + [FAILED] * 7, None),
        ([FAILED] * 7 + [MUTE] + [FAILED] * 8, 16),
        ([FAILED] * 7 + [UNASKED] * 50 + [Unvisited()], None),
        ([MUTE] * 500, None),
        ([GONE] * 9, 3),
        ([GONE_FOR_GOOD], 1),
        ([GONE, GONE_FOR_GOOD], 2),
        ([ALIVE, *[GONE] * 9], 9),
        ([ALIVE, *[GONE_FOR_GOOD] * 9], 9),
        ([MUTE, *[GONE_FOR_GOOD] * 9], 9),
        ([FAILED, GONE_FOR_GOOD], 2),
    ],
)
def test_when_a_host_is_given_up(outcomes, count):
    assert given_up(*outcomes) == count


def test_host_failures_is_the_limit_of_all():
    assert given_up(*[FAILED] * 9, host_failures=2) == given_up(*[GONE] * 9, host_failures=2) == 2


outcomes = st.sampled_from([FAILED, MUTE, GONE, GONE_FOR_GOOD, ALIVE, UNASKED, Unvisited(), Retry("http_error", None, "busy")])


@given(st.lists(outcomes, max_size=60), st.integers(1, 10), st.floats(0.0, 0.999))
def test_only_signs_of_the_host_in_a_row_give_it_up_and_no_rest_is_ever_shortened(history, host_failures, jitter):
    polite = politeness(1.0, jitter=lambda: jitter, backoff_max_s=60.0, host_failures=host_failures)
    host, now, in_a_row, ever = HostRest(NOW), NOW, 0, False
    for outcome in history:
        before, host = host, polite.after(LINK, outcome, host, now, polite.pause(LINK))
        sign = "silent" if isinstance(outcome, Unvisited) else outcome.sign
        ever |= sign in ("alive", "busy", "mute")
        in_a_row = 0 if sign in ("alive", "busy", "mute") else in_a_row + (sign in ("failed", "gone"))
        assert host.due >= before.due and host.due <= max(before.due, now + 60.0)
        assert (host.failures, host.has_responded) == (in_a_row, ever)
        if host.down is not None:
            assert in_a_row >= host_failures or (sign == "gone" and not ever)
            assert host.down == (outcome.outcome, "host_down")
            return
        assert in_a_row < host_failures
        now += 0.5


def test_a_page_takes_its_first_byte_from_its_timings(tmp_path):
    kept = page_of(tmp_path, b"x", url="http://a.test/1")
    assert rest_after(Done(kept, "ok"), factor=100.0) == max(1.0, 100.0 * kept.timings.first_byte)
    kept.body.discard()
