"""Which links belong to the crawl: every rule by its name, places by the anchor, seeds never refused."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from crawler.config.sections import ScopeConfig
from crawler.core.domains import domain_of
from crawler.core.model import Link
from crawler.core.urls import host_key
from crawler.policy.scope import RULES, Scope, ScopeRules

SEED = "http://www.example.co.uk/docs/start?x=/y/"


def link(url: str, kind: Any = "link", anchor: str | None = SEED, depth: int = 1) -> Link:
    return Link(url, host_key(url), kind, depth, anchor=anchor)


def refuses(url: str, kind: Any = "link", anchor: str | None = SEED, depth: int = 1, **config: Any) -> str | None:
    return Scope(ScopeConfig(**{"depth": 5, **config})).refuses(link(url, kind, anchor, depth))


PLACES = [
    # url, host, domain, prefix
    ("http://www.example.co.uk/docs/a", True, True, True),
    ("https://www.example.co.uk/docs/a", True, True, True),
    ("http://www.example.co.uk/docs/", True, True, True),
    ("http://www.example.co.uk/docs", True, True, False),
    ("http://www.example.co.uk/other", True, True, False),
    ("http://www.example.co.uk:8080/docs/a", False, True, False),
    ("http://example.co.uk/docs/a", False, True, False),
    ("http://shop.example.co.uk/", False, True, False),
    ("http://otherexample.co.uk/", False, False, False),
    ("http://www.example.co.uk.evil.example/docs/", False, False, False),
    ("http://co.uk/", False, False, False),
    ("http://elsewhere.example/docs/", False, False, False),
]


@pytest.mark.parametrize(("url", "host", "domain", "prefix"), PLACES)
def test_places_are_those_of_the_anchor(url: str, host: bool, domain: bool, prefix: bool) -> None:
    assert refuses(url, scope="host") == (None if host else "host")
    assert refuses(url, scope="domain") == (None if domain else "domain")
    assert refuses(url, scope="prefix") == (None if prefix else "prefix")
    assert refuses(url, scope="any") is None


@pytest.mark.parametrize(
    ("host", "domain"),
    [
        ("www.example.org", "example.org"),
        ("a.b.example.co.uk:8443", "example.co.uk"),
        ("one.github.io", "one.github.io"),
        ("x.one.github.io", "one.github.io"),
        ("github.io", "github.io"),
        ("bucket.s3.amazonaws.com", "bucket.s3.amazonaws.com"),
        ("h7.farm.test", "farm.test"),
        ("127.1.1.1", "127.1.1.1"),
        ("127.1.1.1:8900", "127.1.1.1"),
        ("[2001:db8::1]", "[2001:db8::1]"),
        ("[2001:db8::1]:81", "[2001:db8::1]"),
        ("localhost", "localhost"),
        ("co.uk", "co.uk"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("a.xn--55qx5d.cn", "a.xn--55qx5d.cn"),
    ],
)
def test_the_domain_of_a_host(host: str, domain: str) -> None:
    """Private suffixes count: authors on github.io are not one site. Addresses and bare names are their own."""
    assert domain_of(host) == domain


def test_domains_below_a_private_suffix_are_apart() -> None:
    assert refuses("http://two.github.io/", anchor="http://one.github.io/", scope="domain") == "domain"
    assert refuses("http://a.one.github.io/", anchor="http://one.github.io/", scope="domain") is None
    assert refuses("http://bucket.s3.amazonaws.com/", anchor="http://amazonaws.com/", scope="domain") == "domain"
    assert refuses("http://9.127.1.1.1.example/", anchor="http://127.1.1.1/", scope="domain") == "domain"


def test_depth_counts_links_and_not_redirects() -> None:
    home = "http://www.example.co.uk/"
    scope = Scope(ScopeConfig(depth=5))
    assert [scope.refuses(link(home, depth=depth)) for depth in (1, 5, 6)] == [None, None, "depth"]
    assert refuses(home, "redirect", depth=9) is None
    assert Scope(ScopeConfig(depth=-1)).refuses(link(home, depth=10_000)) is None
    scope = Scope(ScopeConfig(depth=2))
    assert [scope.follows(link(home, depth=depth)) for depth in (0, 1, 2, 3)] == [True, True, False, False]
    assert not Scope(ScopeConfig()).follows(link(home, "seed", None, 0)), "depth 0 is a list: nothing needs parsing"
    assert Scope(ScopeConfig(depth=-1)).follows(link(home, depth=99))


@pytest.mark.parametrize("kind", ["seed", "robots", "expand"])
def test_what_was_named_or_admitted_before_is_never_refused(kind: str) -> None:
    url = "http://else.example/" + "a/" * 100 + "x" * 3000
    assert refuses(url, kind, depth=99, scope="host", include=("never",), exclude=(".",)) is None


def test_a_seeds_redirect_is_its_own_anchor_and_a_pages_is_not() -> None:
    moved = "https://moved.example/a/b"
    assert refuses(moved, "redirect", anchor=None) is None
    assert refuses(moved, "redirect", anchor=None, include=("never",)) is None
    assert refuses(moved, "redirect", anchor=None, exclude=("/a/",)) == "exclude"
    assert refuses(moved, "redirect", anchor=SEED) == "host"
    links, refused = admitted(1, moved, [found("https://moved.example/c"), found(SEED)], depth=1)
    assert (links, refused) == (["https://moved.example/c"], {"host": 1})


def test_include_and_exclude_are_searched_in_the_whole_url() -> None:
    url = "http://www.example.co.uk/docs/a.html?p=1"
    assert refuses(url, include=(r"\.html", "never")) is None
    assert refuses(url, include=(r"\.pdf$", "^https:")) == "include"
    assert refuses(url, exclude=("never", r"\?p=")) == "exclude"
    assert refuses(url, include=("docs",), exclude=("docs",)) == "exclude"
    assert refuses(url, include=("(?i)DOCS",)) is None


@pytest.mark.parametrize(
    ("path", "rule"),
    [
        ("a/" * 4, None),
        ("a/b/c/d/e", "path_depth"),
        ("a/b/c/d/e/", "path_depth"),
        ("a/b/c/d/", None),
        ("?q=/a/b/c/d/e/f/g", None),
        ("x/y/x/y", None),
        ("x/x/x/y", "repeated_segments"),
        ("x////", "repeated_segments"),
        ("y" * 2100, "url_length"),
    ],
)
def test_shapes_of_traps(path: str, rule: str | None) -> None:
    repeated = 4 if path == "a/" * 4 else 2
    assert refuses("http://www.example.co.uk/" + path, max_path_depth=4, max_repeated_segments=repeated) == rule
    assert refuses("http://www.example.co.uk/" + path, max_path_depth=0, max_repeated_segments=0, max_url=9999) is None


class Seen(NamedTuple):
    url: str
    host: str
    nofollow: bool = False


def found(url: str, **flags: bool) -> Seen:
    return Seen(url, host_key(url), **flags)


def admitted(at_depth: int, anchor: str, links: list[Seen], obey: bool = True, **config: Any) -> tuple[list[str], dict[str, int]]:
    """The URLs of a page's links that belong to the crawl, and the counts of the others."""
    refused: dict[str, int] = {}
    belonging = list(Scope(replace(ScopeRules.of(ScopeConfig(**config)), obey=obey)).admitted(at_depth, anchor, links, refused))
    assert all(host == host_key(url) for url, host in belonging)
    return [url for url, _ in belonging], refused


def test_links_of_a_page_belong_to_the_crawl_or_are_counted() -> None:
    everything = [
        found("http://h/b"),
        found("http://other/"),
        found("http://h/n", nofollow=True),
        found("http://h/" + "x" * 3000),
        found("http://h/private"),
    ]
    links, refused = admitted(2, "http://h/", everything, depth=2, exclude=("private",))
    assert links == ["http://h/b"]
    assert refused == {"host": 1, "nofollow": 1, "url_length": 1, "exclude": 1}
    assert sum(refused.values()) + len(links) == len(everything), "nothing is dropped silently"
    assert admitted(2, "http://h/", everything[:1], depth=1) == ([], {"depth": 1})
    assert admitted(2, "http://h/", everything[2:3], depth=2, obey=False) == (["http://h/n"], {})


URLS = st.builds(
    "{}://{}/{}".format,
    st.sampled_from(["http", "https"]),
    st.sampled_from(["a.example", "b.a.example", "b.example:81", "127.0.0.1", "[::1]"]),
    st.lists(st.sampled_from(["a", "b", "", "x" * 30]), max_size=8).map("/".join),
)


@settings(max_examples=300, deadline=None)
@given(
    url=URLS,
    anchor=URLS,
    depth=st.integers(1, 4),
    config=st.builds(
        ScopeConfig,
        scope=st.sampled_from(["host", "domain", "prefix", "any"]),
        depth=st.integers(-1, 3),
        max_url=st.integers(16, 80),
        max_path_depth=st.integers(0, 6),
        max_repeated_segments=st.integers(0, 3),
        include=st.sampled_from([(), ("a", "//b")]),
        exclude=st.sampled_from([(), ("/b/",)]),
    ),
)
def test_one_link_and_a_pages_links_are_judged_alike(url: str, anchor: str, depth: int, config: ScopeConfig) -> None:
    """``why`` asks about one link what the crawl decided about many."""
    scope = Scope(config)
    refused: dict[str, int] = {}
    links = [link(url, anchor=anchor, depth=depth) for url, _ in scope.admitted(depth, anchor, [found(url)], refused)]
    rule = scope.refuses(link(url, anchor=anchor, depth=depth))
    assert rule is None or rule in RULES
    assert (rule is None) == bool(links)
    assert refused == ({} if rule is None else {rule: 1})
    if links:
        assert scope.refuses(links[0]) is None
