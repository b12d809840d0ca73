"""Canonical URLs: the WHATWG standard's own cases, and a fast path that may not differ from its parser."""

from __future__ import annotations

import json
import warnings
from typing import Any

import ada_url
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.corpora import corpus

from crawler.core.errors import FetchError
from crawler.core.urls import Base, Url, UrlRules, fingerprint, host_key, join, masked, origin, parse
from crawler.output.archive.surt import surt

# ---- the standard's cases


def cases(name: str) -> list[dict[str, Any]]:
    return [case for case in json.loads(corpus(name).read_text()) if isinstance(case, dict)]


def without_secrets(case: dict[str, Any]) -> str:
    """What the case's URL looks like without fragment and credentials: the one way canonical is not the standard's href."""
    return f"{case['protocol']}//{case['host']}{case['pathname']}{case['search']}"


def test_every_case_of_the_url_standard() -> None:
    """891 cases without an exception: what must fail fails, what is neither http nor https is refused as such."""
    seen = 0
    for case in cases("url/urltestdata.json"):
        seen += 1
        if case.get("failure"):
            with pytest.raises(FetchError) as failed:
                parse(case["input"], case["base"])
            assert failed.value.outcome == "invalid_url"
        elif case["protocol"] not in ("http:", "https:"):
            with pytest.raises(FetchError) as failed:
                parse(case["input"], case["base"])
            assert failed.value.reason == "scheme", case
        else:
            url = parse(case["input"], case["base"])
            empty_query = "?" if case["href"].partition("#")[0].endswith("?") and not case["search"] else ""
            assert url.href == without_secrets(case) + empty_query, case
            assert (url.host, url.hostname) == (case["host"], case["hostname"]), case
            assert origin(url.href) == case.get("origin", origin(url.href))
            assert (url.credentials is None) == (not case["username"] and not case["password"])
            assert parse(url.href).href == url.href, "canonical is a fixed point"
    assert seen == 891


def test_every_case_of_domain_to_ascii() -> None:
    """87 cases (the file's other six entries are remarks) without an exception."""
    seen = 0
    for case in cases("url/toascii.json"):
        seen += 1
        for before in ("https://", "HTTPS://"):  # the second never takes the fast path
            if case["output"] is None:
                with pytest.raises(FetchError):
                    parse(f"{before}{case['input']}/x")
            else:
                assert parse(f"{before}{case['input']}/x").hostname == case["output"], case
    assert seen == 87


# ---- the fast path against the parser

PIECES = (
    "/ / .. . a b1 %2e %2E %41 % ? # : @ http: https: HTTP:// // h.x 127.1 0x1 :80 :443 :8080 \\ ' | [ ] [::1] ^ ` { } \" < > "
    "x=1 & ../ ./ xn-- _ - ~ A.B ! * ; , + = $ ( ) mailto: é Ａ http://example.org http://a.example:81 ../p/12?x#y"
)
TOKENS = st.sampled_from([*PIECES.split(), " ", "\t", "\n", "\x00", "\x7f", "\ud800"])
TEXTS = st.one_of(st.lists(TOKENS, max_size=8).map("".join), st.text(max_size=12))
BASES = [
    "http://127.1.1.1:8900/p/12",
    "https://example.org/",
    "http://a/b//c/d?x=/y/",
    "https://[::1]:8/a/..%2f/b?",
    "http://a//",
]


def by_parser(text: str, base: str | None) -> str | None:
    try:
        href = ada_url.join_url(base or "about:blank", text)
    except ValueError:
        return None
    if not href.startswith(("http://", "https://")):
        return None
    cut = ada_url.URL(href)
    cut.username = cut.password = ""
    return cut.href.partition("#")[0]


def by_us(text: str, base: str | None) -> str | None:
    try:
        return parse(text).href if base is None else Base(base).join(text)
    except FetchError as error:
        assert error.outcome == "invalid_url"
        return None


@settings(max_examples=3000, deadline=None)
@given(text=TEXTS, base=st.sampled_from([*BASES, None]))
@example("//", BASES[0])
@example("http:a", BASES[0])
@example("a:b", BASES[0])
@example("..", BASES[0])
@example("../:a", BASES[0])
@example("http://h:00080", None)
@example("http://1.2", None)
@example("?'", BASES[0])
def test_joining_by_slices_is_joining_by_the_parser(text: str, base: str | None) -> None:
    assert by_us(text, base) == by_parser(text, base)


@pytest.mark.parametrize(
    "reference", ["/p/1", "12", "../p/9", "?a=b", "", "#x", "http://h.example/p#part", "//h.example/", "a%20b"]
)
def test_ordinary_references_take_the_fast_path(reference: str) -> None:
    assert Base(BASES[0])._join_plain(reference) == by_parser(reference, BASES[0])


@pytest.mark.parametrize("reference", ["/p/1", "/p/1?a=b&c", "12", "a/b.html?q", "http://h.example/p", "https://h.example/p?q=1"])
def test_what_most_links_are_is_joined_by_one_expression(reference: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Base, "_join_plain", None)
    assert Base(BASES[0]).join(reference) == by_parser(reference, BASES[0])


# ---- our own rules


def test_a_url_names_its_host() -> None:
    url = parse("HTTPS://Bücher.example:8443/a/../b?q=1#frag")
    assert url.href == "https://xn--bcher-kva.example:8443/b?q=1"
    assert (url.host, url.hostname) == ("xn--bcher-kva.example:8443", "xn--bcher-kva.example")
    assert origin(url.href) == "https://xn--bcher-kva.example:8443"
    assert parse("http://[2001:DB8::1]:81/").host == "[2001:db8::1]:81"
    assert host_key(parse("http://h:80/").href) == host_key(parse("https://h:443/").href) == "h"
    assert host_key(parse("http://h:443/").href) == "h:443"
    assert (parse("http://h/").href, parse("http://h/?").href) == ("http://h/", "http://h/?")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("example.org", "syntax"),
        ("http://", "syntax"),
        ("http://exa mple.org/", "syntax"),
        ("http://h:99999/", "syntax"),
        ("", "syntax"),
        ("ftp://example.org/", "scheme"),
        ("javascript:void(0)", "scheme"),
        ("java\nscript:void(0)", "scheme"),
        ("data:text/html," + "x" * 100_000, "scheme"),
        ("http://h/" + "x" * 2075, "too_long"),
        ("http://h/" + "ü" * 1000, "too_long"),
        ("http://h/ " + "x" * 10_000_000, "too_long"),
        ("http://h/\udcff", "encoding"),
    ],
)
def test_what_is_not_a_url_of_ours_is_refused_with_its_reason(text: str, reason: str) -> None:
    with pytest.raises(FetchError) as failed:
        parse(text)
    assert (failed.value.outcome, failed.value.reason) == ("invalid_url", reason)


def test_the_longest_url_is_still_taken() -> None:
    assert len(parse("http://h/" + "x" * 2074).href) == 2083
    assert len(parse("http://h/" + "x" * 2075, None, UrlRules(3000)).href) == 2084


def test_credentials_are_handed_over_apart_and_never_shown() -> None:
    url = parse("http://me:s%40cret@example.org/a@b")
    assert url == Url("http://example.org/a@b", "me:s@cret")
    assert "cret" not in repr(url)
    assert parse("//me@h/", "https://other.example/").credentials == "me:"
    assert parse("http://h/a@b").credentials is None


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://u:p@h/x@y", "http://***@h/x@y"),
        ("http:\\\\u:p@h", "http:\\\\***@h"),
        ("  http://a:b@c@d/", "  http://***@d/"),
        ("h\tttp://a:b@c", "h\tttp://***@c"),
        ("//u:p@h", "//***@h"),
        ("http://u:p@[no host", "http://***@[no host"),
        ("user:pw@host", "user:***@host"),
        ("http://h/@x?a@b", "http://h/@x?a@b"),
        ("mailto:me@example.org", "mailto:me@example.org"),
        ("/a@b", "/a@b"),
        ("", ""),
    ],
)
def test_masking_hides_passwords_even_in_what_is_no_url(text: str, shown: str) -> None:
    assert masked(text) == shown


@given(before=st.lists(TOKENS, max_size=3).map("".join), after=st.lists(TOKENS, max_size=3).map("".join))
@settings(max_examples=1000, deadline=None)
def test_what_the_parser_takes_for_credentials_is_masked(before: str, after: str) -> None:
    text = f"{before}http://user:hunter2@{after}"
    try:
        found = parse(text).credentials
    except FetchError:
        return
    if found is not None and "hunter2" in found:
        assert "hunter2" not in masked(text)


def test_masking_is_linear() -> None:
    masked("x:" + " " * 10_000_000)
    masked("/" * 10_000_000)


def test_parameters_are_dropped_and_sorted_only_when_asked() -> None:
    href = "http://h/p?utm_source=a&b=2&a=1&b=1&%75tm_medium=x"
    assert parse(href).href == href
    assert parse(href, None, UrlRules(drop_params=("utm_*",))).href == "http://h/p?b=2&a=1&b=1"
    assert parse(href, None, UrlRules(drop_params=("utm_*",), sort_query=True)).href == "http://h/p?a=1&b=2&b=1"
    assert parse(href, None, UrlRules(drop_params=("*",))).href == "http://h/p"
    assert Base("http://h/x", UrlRules(drop_params=("s?d", "phpsessid"))).join("?sid=1&Sid=2") == "http://h/x?Sid=2"
    assert UrlRules(drop_params=("f[size]", "i[]")).apply("http://h/?f[size]=1&i[]=2&i%5B%5D=3&f=4") == "http://h/?f=4"
    assert UrlRules(max_bytes=10, drop_params=("a",)).apply("http://h/?a=12345678") == "http://h/"


def test_join_is_base_join() -> None:
    assert join("http://h/a/b?c", "../d#e") == "http://h/d"


def test_fingerprints_are_stable_and_seeded() -> None:
    assert fingerprint("http://h/") == fingerprint(b"http://h/")
    assert fingerprint("").hex() == "2d06800538d394c2", "XXH3_64 of nothing, as published"
    assert fingerprint("http://h/", seed=1) != fingerprint("http://h/")


# ---- SURT


def reference_surt(href: str) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its source has invalid escapes
        return str(pytest.importorskip("surt").surt(href))


SESSION = "0123456789abcdef0123456789ABCDEF"


@pytest.mark.parametrize(
    "href",
    [
        "http://example.org/",
        "https://www.example.org:8443/A/B/?b=2&a&a=&A=1",
        "http://www12.www.example.org/",
        "http://127.1.1.1:8900/p/12",
        "http://[2001:db8::1]/",
        "http://[::1]:81/x",
        "http://h:443/",
        "http://h//a///b//",
        "http://h/%252e%252e/%2541?%2541=%26",
        "http://h/%E2%82%AC?%e2%82%ac",
        "http://h/%3fa%23b",
        "http://h/?",
        "http://h/x??",
        "http://h/?&b&&a",
        f"http://h/x?a=1&jsessionid={SESSION}&b=2",
        f"http://h/x?PHPSESSID={SESSION}",
        f"http://h/x?mysid={SESSION}&a",
        "http://h/x?ASPSESSIONIDABCDEFGH=ABCDEFGHIJKLMNOPQRSTUVWX&a",
        "http://h/x?a=1&cfid=1&cftoken=2",
        "http://h/a/(S(abcdefghijklmnopqrstuvwx))/b.aspx",
        "http://h/a/(abcdefghijklmnopqrstuvwx)/b.ASPX",
        "http://h/a/(abc)/b.aspx",
    ],
)
def test_surt_keys_of_known_forms(href: str) -> None:
    assert surt(parse(href).href) == reference_surt(parse(href).href)


@settings(max_examples=1500, deadline=None)
@given(text=st.lists(TOKENS, max_size=8).map("".join))
def test_surt_keys_are_those_of_the_surt_package(text: str) -> None:
    """But for hosts with empty labels: there the package collapses dots and reads the rest as an IPv4 address anew."""
    href = by_us(text, "http://www.example.org/a/b?c=d")
    if href is not None and "" not in Url(href).hostname.removesuffix(".").split("."):
        assert surt(href) == reference_surt(href)


@pytest.mark.parametrize("text", ["//" + "a" * (8 << 20) + "\1", "http://" + "a" * (8 << 20) + " ", "?" + "a" * (8 << 20) + "\1"])
def test_a_text_that_is_no_plain_url_is_looked_at_once(text):
    """Trying every length of its host would take minutes, and the time-out of this test."""
    for attempt in (Base("http://a.test/").join, parse):
        with pytest.raises(FetchError):
            attempt(text)
