"""One page or one error, one outcome: the table of judgements."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.core.errors import REASONS, FetchError
from crawler.core.model import CODING_FAULTS, Done, Dropped, Lease, Link, Retry
from crawler.core.page import Body, Page, Timings
from crawler.core.urls import UrlRules
from crawler.policy.judge import Judge, host_sign, may_pass, retry_after

WALL = 1_800_000_000.0


def judge(**changes) -> Judge:
    return Judge(**({"retries": 2, "max_redirects": 3, "rules": UrlRules()} | changes))


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


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 506, 507, 508, 509, 520, 526, 530, 598, 599, 600, 999])
def test_a_status_that_may_pass_is_tried_again_twice(tmp_path, status):
    for attempt in (1, 2):
        assert isinstance(judge().page(lease(attempt), page(tmp_path, status), WALL), Retry)
    done = judge().page(lease(3), page(tmp_path, status), WALL)
    assert isinstance(done, Done)
    assert done.outcome == "http_error"


def test_which_statuses_may_pass():
    final = {status for status in range(100, 1000) if not may_pass(status)}
    assert final == set(range(100, 500)) - {408, 425, 429} | {501, 505}


@pytest.mark.parametrize("retries", [0, 2])
@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308, 403, 404, 413, 425, 429, 500, 503, 520, 599])
def test_what_retry_after_asks_for_is_heard_whatever_it_stands_on(tmp_path, status, retries):
    headers = ((b"retry-AFTER", b"77"), (b"Location", b"/elsewhere"))
    outcome = judge(retries=retries).page(lease(), page(tmp_path, status, *headers), WALL)
    assert isinstance(outcome, Retry if may_pass(status) and retries else Done)
    assert outcome.retry_after_s == 77.0
    assert outcome.sign == ("busy" if status in (429, 503) else "alive")


@pytest.mark.parametrize("status", [500, 503, 520])
def test_an_error_that_may_pass_is_tried_again_whatever_its_page_is_like(tmp_path, status):
    """A proxy's error page may be broken itself."""
    broken = page(tmp_path, status, (b"Retry-After", b"77"), fault=FetchError("trailing_data"))
    retry = judge().page(lease(), broken, WALL)
    assert isinstance(retry, Retry)
    assert (retry.reason, retry.retry_after_s, retry.sign) == ("trailing_data", 77.0, "busy" if status == 503 else "alive")
    done = judge().page(lease(attempt=3), broken, WALL)
    assert isinstance(done, Done)
    assert (done.outcome, done.reason) == ("bad_response", "trailing_data")


@pytest.mark.parametrize("reason", sorted(CODING_FAULTS))
@pytest.mark.parametrize("kind", ["seed", "robots"])
def test_a_redirect_is_followed_whatever_its_body_is_coded_in(tmp_path, reason, kind):
    onward = page(tmp_path, 302, (b"Location", b"/y"), fault=FetchError(reason))
    done = judge().page(lease(kind=kind), onward, WALL)
    assert isinstance(done, Done)
    assert (done.outcome, done.reason, [link.url for link in done.outlinks]) == ("redirect", None, ["http://a.test/y"])


@pytest.mark.parametrize("status", [200, 302, 304, 404])
def test_a_broken_coding_is_told_where_it_leads_nowhere(tmp_path, status):
    done = judge().page(lease(), page(tmp_path, status, fault=FetchError("content_coding")), WALL)
    assert isinstance(done, Done)
    assert (done.outcome, done.reason) == ("bad_response", "content_coding")


@pytest.mark.parametrize("reason", ["content_length", "chunked", "read_timeout"])
@pytest.mark.parametrize("kind", ["seed", "robots"])
def test_a_redirect_that_is_cut_on_its_way_is_asked_for_again_and_followed_at_last(tmp_path, reason, kind):
    """A server may promise a body with each redirect and send none: browsers do not wait for it."""
    cut = page(tmp_path, 302, (b"Location", b"/y"), fault=FetchError(reason))
    assert isinstance(judge().page(lease(kind=kind), cut, WALL), Retry)
    done = judge().page(lease(kind=kind, attempt=3), cut, WALL)
    assert isinstance(done, Done)
    assert (done.outcome, done.reason, [link.url for link in done.outlinks]) == ("redirect", None, ["http://a.test/y"])
    nowhere = judge().page(lease(kind=kind, attempt=3), page(tmp_path, 302, fault=FetchError(reason)), WALL)
    assert isinstance(nowhere, Done)
    assert (nowhere.outcome, nowhere.reason) == (FetchError(reason).outcome, reason)


@pytest.mark.parametrize("reason", ["unsolicited", "max_body"])
def test_a_redirect_that_nobody_asked_for_or_that_has_no_end_is_not_followed(tmp_path, reason):
    done = judge().page(lease(), page(tmp_path, 302, (b"Location", b"/y"), fault=FetchError(reason)), WALL)
    assert isinstance(done, Done)
    assert (done.reason, done.outlinks) == (reason, ())


@pytest.mark.parametrize(
    ("date", "seconds"),
    [
        (b"Fri, 15 Jan 2027 07:50:00 GMT", 60.0),  # its clock is ten minutes slow
        (b"Fri, 15 Jan 2027 07:51:00 GMT", 0.0),
        (b"yesterday", 0.0),
    ],
)
def test_a_date_to_retry_after_is_by_the_clock_of_who_sets_it(tmp_path, date, seconds):
    headers = ((b"Date", date), (b"Retry-After", b"Fri, 15 Jan 2027 07:51:00 GMT"))
    assert judge().page(lease(), page(tmp_path, 503, *headers), WALL).retry_after_s == seconds


def test_a_page_that_is_well_has_no_wish(tmp_path):
    done = judge().page(lease(), page(tmp_path, 200, (b"Retry-After", b"77")), WALL)
    assert done.retry_after_s == 0.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        ("2.5", 2.5),
        (" 5 ", 5.0),
        ("Fri, 15 Jan 2027 08:01:40 GMT", 100.0),
        ("Fri, 15 Jan 2027 07:00:00 GMT", 0.0),
        ("soon", 0.0),
        ("-1", 0.0),
        ("", 0.0),
        (None, 0.0),
        ("9" * 400, 999999999999.0),
        ("Fri, 99 Jan 99999 99:99:99 GMT", 0.0),
        ("Sat, 01 Jan 0001 00:00:00 +2359", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 -2359", pytest.approx(251_602_329_599 - 1.8e9 + 86_340, rel=0.01)),
        ("Fri, 15 Jan 2027 08:01:40 +9999", 0.0),
        ("\udc80", 0.0),
        ("\0", 0.0),
        ("²", 0.0),
    ],
)
def test_retry_after(value, seconds):
    assert retry_after(value, WALL) == pytest.approx(seconds)


def test_every_reason_is_judged_the_same_way_each_time():
    for outcome, reasons in REASONS.items():
        for reason in reasons:
            error = FetchError(reason)
            first = judge().error(lease(), error)
            retried = outcome in ("timeout", "connect_error", "dns_error", "truncated")
            assert isinstance(first, Retry) == retried, reason
            last = judge().error(lease(attempt=3), error)
            assert isinstance(last, Dropped)
            assert (last.outcome, last.reason) == (outcome, reason)


def test_what_will_never_be_otherwise_is_not_tried_again():
    assert isinstance(judge().error(lease(), FetchError("nxdomain", permanent=True)), Dropped)


def sign(reason: str, *, sent: bool = False, shared: bool = False) -> str:
    error = FetchError(reason, shared=shared)
    error.sent = sent
    return host_sign(error)


@pytest.mark.parametrize("reason", [reason for reasons in REASONS.values() for reason in reasons])
def test_what_an_error_says_of_its_host(reason):
    """A host is down if it has no address, no connection or no TLS. What happens to a request that it has taken is the URL's."""
    outcome = FetchError(reason).outcome
    unasked = outcome in ("blocked", "invalid_url")
    if unasked or outcome == "tls_error" or reason == "nxdomain":
        wanted = "silent" if unasked else "gone" if reason == "nxdomain" else "failed"
        assert sign(reason) == sign(reason, sent=True) == wanted
    elif outcome in ("dns_error", "connect_error", "timeout"):
        assert (sign(reason), sign(reason, sent=True)) == ("failed", "mute")
    else:
        assert sign(reason) == sign(reason, sent=True) == "alive"
    assert sign(reason, shared=True) == "silent"


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
    ("location", "target"),
    [
        (b"/\xf8", "http://a.test/%F8"),
        (b"/jos\xe9?q=\xe9#\xe9", "http://a.test/jos%E9?q=%E9"),
        (b"/caf\xc3\xa9", "http://a.test/caf%C3%A9"),
        (b"/\x93\xfa\x96{", "http://a.test/%93%FA%96%7B"),  # Shift_JIS, of which one byte is ASCII
        (b"?\xff\xfe\x80", "http://a.test/x?%FF%FE%80"),
        (b"/\xc3\xa9\xe9/%e9%C3", "http://a.test/%C3%A9%E9/%e9%C3"),
        (b"/\xed\xa0\x80", "http://a.test/%ED%A0%80"),
        (b"http://b\xc3\xbccher.test/\xfc", "http://xn--bcher-kva.test/%FC"),
        (b"//user:\xe9@b.test/\xe9", "http://b.test/%E9"),
    ],
)
def test_bytes_of_a_location_are_asked_for_as_they_are(tmp_path, location, target):
    assert redirect(tmp_path, location).outlinks[0].url == target


@given(st.binary(max_size=40))
def test_no_bytes_of_a_location_are_lost_or_changed(tmp_path_factory, path):
    """Percent-decoded, the path asked for is the path sent, but for what the URL standard does to ASCII."""
    path = bytes(byte for byte in path if byte >= 0x80 or chr(byte).isalnum())
    (onward,) = redirect(tmp_path_factory.getbasetemp(), b"/y/" + path).outlinks
    assert unquote_to_bytes(onward.url.removeprefix("http://a.test/y/")) == path


@given(st.binary(max_size=80))
def test_no_location_and_no_retry_after_raises(tmp_path_factory, value):
    headers = ((b"Location", value), (b"Retry-After", value))
    judge().page(lease(), page(tmp_path_factory.getbasetemp(), 302, *headers), WALL)


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
    for length, is_kept in ((100, True), (3000, False)):
        location = b"/y#" + b"x" * length
        (onward,) = redirect(tmp_path, location).outlinks
        assert (onward.url, onward.given) == ("http://a.test/y", location.decode() if is_kept else None)
