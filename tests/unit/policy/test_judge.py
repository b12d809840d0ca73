"""One page or one error, one outcome: the table of judgements."""

from __future__ import annotations

import pytest

from crawler.core.errors import REASONS, FetchError
from crawler.core.model import Done, Dropped, Lease, Link, Retry
from crawler.core.page import Body, Page, Timings
from crawler.core.urls import Rules
from crawler.policy.judge import Judge, retry_after, sign_of

WALL = 1_800_000_000.0


def judge(**changes) -> Judge:
    settings = {"retries": 2, "max_redirects": 3, "rules": Rules(), "backoff_max_s": 300.0} | changes
    return Judge(rest=lambda link, first_byte: 1.0, jitter=lambda: 0.5, **settings)


def lease(attempt: int = 1, **link) -> Lease:
    return Lease(Link("http://a.test/x", "a.test", attempt=attempt, **link), b"k")


def page(tmp_path, status: int, *headers: tuple[bytes, bytes], fault: FetchError | None = None) -> Page:
    body = Body(tmp_path)
    body.seal()
    return Page(
        url="http://a.test/x",
        status=status,
        phrase="",
        version="1.1",
        headers=headers,
        request=b"",
        body=body,
        bytes_wire=0,
        bytes_decoded=0,
        coding=None,
        ip="127.0.0.1",
        fetched_at=WALL,
        timings=Timings(0.0, 0.1, 0.2),
        truncated=None,
        fault=fault,
        mime=None,
        charset=None,
        sniffed=None,
    )


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(200, "ok"), (204, "ok"), (304, "ok"), (300, "http_error"), (404, "http_error"), (501, "http_error")],
)
def test_a_status_that_is_final_at_once(tmp_path, status, outcome):
    done = judge().page(lease(), page(tmp_path, status), WALL)
    assert isinstance(done, Done)
    assert (done.outcome, done.reason, done.sign) == (outcome, None, "alive")


@pytest.mark.parametrize(
    ("content_range", "outcome"),
    [
        (None, "truncated"),
        (b"bytes 0-1/100", "truncated"),
        (b"bytes 50-99/100", "truncated"),
        (b"bytes 0-99/*", "truncated"),
        (b"bytes */100", "truncated"),
        (b"nonsense", "truncated"),
        (b"bytes 0-99/100", "ok"),
    ],
)
def test_a_part_that_nobody_asked_for_is_not_the_page(tmp_path, content_range, outcome):
    headers = () if content_range is None else ((b"Content-Range", content_range),)
    done = judge(retries=0).page(lease(), page(tmp_path, 206, *headers), WALL)
    assert (done.outcome, done.reason) == (outcome, "cut" if outcome == "truncated" else None)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_status_that_may_pass_is_tried_again_twice(tmp_path, status):
    for attempt in (1, 2):
        assert isinstance(judge().page(lease(attempt), page(tmp_path, status), WALL), Retry)
    done = judge().page(lease(3), page(tmp_path, status), WALL)
    assert isinstance(done, Done)
    assert done.outcome == "http_error"


def test_a_host_rests_until_its_robots_txt_is_asked_for_again(tmp_path):
    """It is the host's next link: nothing else of it may be visited meanwhile, and it may not be asked for at once."""
    for kind, rest in (("robots", 2.0), ("link", 1.0)):
        retry = judge().page(lease(2, kind=kind), page(tmp_path, 500), WALL)
        assert isinstance(retry, Retry)
        assert (retry.after, retry.rest) == (2.0, rest)
        error = judge().error(lease(2, kind=kind), FetchError("connect_timeout"))
        assert isinstance(error, Retry)
        assert error.rest == rest


@pytest.mark.parametrize("status", [429, 503])
def test_busy_hosts_rest_as_long_as_they_ask(tmp_path, status):
    retry = judge().page(lease(), page(tmp_path, status, (b"Retry-After", b"77")), WALL)
    assert isinstance(retry, Retry)
    assert (retry.sign, retry.rest) == ("busy", 77.0)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        (" 5 ", 5.0),
        ("Fri, 15 Jan 2027 08:01:40 GMT", 100.0),
        ("Fri, 15 Jan 2027 07:00:00 GMT", 0.0),
        ("soon", 0.0),
        ("-1", 0.0),
        ("", 0.0),
        (None, 0.0),
        ("9" * 400, 999999999999.0),
        ("Fri, 99 Jan 99999 99:99:99 GMT", 0.0),
    ],
)
def test_retry_after(value, seconds):
    assert retry_after(value, WALL) == pytest.approx(seconds)


def test_every_reason_is_judged_the_same_way_each_time():
    for outcome, reasons in REASONS.items():
        for reason in reasons:
            error = FetchError(reason)
            first = judge().error(lease(), error)
            retried = outcome in ("timeout", "connect_error", "dns_error", "truncated") and reason != "nxdomain"
            assert isinstance(first, Retry) == retried, reason
            last = judge().error(lease(attempt=3), error)
            assert isinstance(last, Dropped)
            assert (last.outcome, last.reason) == (outcome, reason)


def test_what_an_error_says_of_its_host():
    signs = {reason: sign_of(FetchError(reason)) for reasons in REASONS.values() for reason in reasons}
    assert signs["nxdomain"] == "gone"
    assert {signs[r] for r in ("refused", "unreachable", "servfail", "certificate", "connect_timeout", "first_byte_timeout")} == {
        "failed"
    }
    assert {signs[r] for r in ("malformed", "read_timeout", "cut")} == {"alive"}
    assert {signs[r] for r in ("address", "syntax")} == {"silent"}


def redirect(tmp_path, location: bytes | None, **link) -> Done:
    headers = [] if location is None else [(b"Location", location)]
    done = judge().page(lease(**link), page(tmp_path, 301, *headers), WALL)
    assert isinstance(done, Done)
    return done


def test_a_redirect_is_an_outlink_of_its_own(tmp_path):
    done = redirect(tmp_path, b"/y#part", depth=2, tag="t", anchor="http://a.test/")
    assert done.outcome == "redirect"
    (onward,) = done.outlinks
    assert (onward.url, onward.kind, onward.depth, onward.hops) == ("http://a.test/y", "redirect", 2, 1)
    assert (onward.via, onward.tag, onward.anchor, onward.given) == ("http://a.test/x", "t", "http://a.test/", "/y#part")


@pytest.mark.parametrize(
    ("location", "reason"),
    [(None, "no_location"), (b"ftp://a.test/", "bad_location"), (b"http://[", "bad_location"), (b"/x", "loop")],
)
def test_a_redirect_to_nowhere(tmp_path, location, reason):
    done = redirect(tmp_path, location)
    assert (done.outcome, done.reason, done.outlinks) == ("redirect_error", reason, ())


def test_a_loop_of_any_length_ends(tmp_path):
    link = lease().link
    for step in range(3):
        done = judge().page(Lease(link, b"k"), page(tmp_path, 302, (b"Location", b"/%d" % (step % 2))), WALL)
        assert isinstance(done, Done)
        if done.outcome == "redirect_error":
            assert done.reason == "loop"
            assert step == 2
            return
        link = done.outlinks[0]
    pytest.fail("the loop was not seen")


def test_too_many_redirects(tmp_path):
    assert redirect(tmp_path, b"/y", hops=3).reason == "too_many_redirects"


def test_a_cut_body_is_tried_again_and_then_kept_as_what_it_is(tmp_path):
    cut = page(tmp_path, 200, fault=FetchError("content_length"))
    assert isinstance(judge().page(lease(), cut, WALL), Retry)
    done = judge().page(lease(attempt=3), cut, WALL)
    assert isinstance(done, Done)
    assert (done.outcome, done.reason) == ("truncated", "content_length")


def test_a_body_too_large_is_final_at_once(tmp_path):
    done = judge().page(lease(), page(tmp_path, 200, fault=FetchError("max_body")), WALL)
    assert isinstance(done, Done)
    assert (done.outcome, done.reason) == ("too_large", "max_body")


def test_a_difference_that_was_not_asked_for_is_not_the_page(tmp_path):
    done = judge(retries=0).page(lease(), page(tmp_path, 226), WALL)
    assert (done.outcome, done.reason) == ("truncated", "cut")


def test_a_location_that_is_longer_than_any_url_is_not_kept_as_given(tmp_path):
    """Its fragment is no part of the URL, and would wait on the bench with it."""
    for length, given in ((100, True), (3000, False)):
        location = b"/y#" + b"x" * length
        (onward,) = redirect(tmp_path, location).outlinks
        assert (onward.url, onward.given) == ("http://a.test/y", location.decode() if given else None)
