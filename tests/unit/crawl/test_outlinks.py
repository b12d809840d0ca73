"""A page's links, packed in a parser process, are those that the page has and the scope admits, whatever the page."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from crawler.config.sections import ScopeConfig
from crawler.core.domains import domain_of
from crawler.core.keys import HOST_BYTES, Keys
from crawler.core.link_block import NO_QUERY, QUERY_BYTES, block_of
from crawler.core.model import Link
from crawler.core.reply_limits import PART_LINKS
from crawler.core.urls import fingerprint
from crawler.crawl.outlinks import Packed, ReadingOptions, encode, packed, reading_of
from crawler.crawl.sitemap_entries import PackedPart
from crawler.parse.html import Options, outlinks
from crawler.policy.scope import Scope, ScopeRules

SECRET = 7
PAGE = "http://www.example.org/a/b"

references = st.one_of(
    st.sampled_from(
        ["/", "c", "../d?x=1", "?y", "#z", "//other.example/", "http://www.example.org:81/", "mailto:x", "http://[", "é?ü"]
    ),
    st.text("ab/?.=&", max_size=12),
    st.builds("http://{}.example.org/{}".format, st.sampled_from(["www", "b", "c"]), st.text("ab/?", max_size=8)),
)
elements = st.one_of(
    st.builds('<a href="{}">'.format, references),
    st.builds('<a rel=nofollow href="{}">'.format, references),
    st.builds('<iframe src="{}">'.format, references),
    st.sampled_from(["<meta name=robots content=nofollow>", "<base href=/base/x>", "<p>"]),
)
configs = st.builds(
    ScopeConfig,
    scope=st.sampled_from(["host", "domain", "prefix", "any"]),
    depth=st.sampled_from([-1, 1, 2]),
    exclude=st.sampled_from([(), ("x=",), ("other",)]),
    include=st.sampled_from([(), ("example",)]),
    max_path_depth=st.sampled_from([0, 2]),
    max_repeated_segments=st.sampled_from([0, 1]),
    max_url=st.sampled_from([2083, 30]),
)


@given(
    st.lists(elements, max_size=20),
    configs,
    st.booleans(),
    st.integers(0, 2),
    st.sampled_from([None, "http://b.example.org/"]),
    st.booleans(),
)
def test_as_one_by_one(parts, config, obey, depth, anchor, by_domain):
    body = "".join(parts).encode()
    page = Link(PAGE, "www.example.org", depth=depth, tag="t", anchor=anchor)
    options = Options("bot")
    found = outlinks(body, PAGE, "text/html", "utf-8", [], options)
    refused, anchor = dict(found.refused), anchor or PAGE
    rules = replace(ScopeRules.of(config), obey=obey)
    admitted = list(Scope(rules).admitted(depth + 1, anchor, found.links, refused))
    links = [Link(url, host, "link", depth + 1, via=PAGE, tag="t", anchor=anchor) for url, host in admitted]

    reading = encode(ReadingOptions(options, rules, SECRET, True, by_domain=by_domain))
    keys_by = Keys(SECRET, domain_of if by_domain else None)
    made = packed(body, PAGE, "text/html", "utf-8", [], depth + 1, anchor, reading)
    blocks = [block_of(columns, page) for columns in made.parts]
    assert [link for block in blocks for link in block.links()] == links
    assert (made.refused, made.robots) == (refused, found.robots)
    for block in blocks:
        assert block.columns.is_sound(2083)
        for at, (key, link) in enumerate(zip(block.keys(), block.links(), strict=True)):
            assert key == keys_by.host(link.host) + fingerprint(link.url, SECRET)
            path, mark, _ = link.url.partition("?")
            query = block.columns.queries[at * QUERY_BYTES : (at + 1) * QUERY_BYTES] or NO_QUERY
            assert query == (fingerprint(path, SECRET) if mark else NO_QUERY)
            assert len(key[:HOST_BYTES]) == HOST_BYTES


def test_very_many_links_come_in_parts():
    body = b"".join(b"<a href=/%d>" % n for n in range(2 * PART_LINKS + 1))
    reading = encode(ReadingOptions(Options(), ScopeRules(depth=-1), SECRET, False))
    made = packed(body, PAGE, "text/html", "utf-8", [], 1, PAGE, reading)
    assert [len(part) for part in made.parts] == [PART_LINKS, PART_LINKS, 1]
    assert not any(part.queries for part in made.parts)


@pytest.mark.parametrize(
    "said",
    [
        ([], [], {"a rule of its own": 1}),
        ([], [], {"depth": -1}),
        ([], [], {"depth": 1 << 63}),
        ([], [], {f"r{n}": 1 for n in range(1000)}),
        ([], ["noindex", "x" * 8_000_000], {}),
        ([], ["noindex"] * 1000, {}),
        ([], [], {}, "x" * 8_000_000),
        ([([], b"", b"", b"")] * 1000, [], {}),
        ([], [], {}, None, [([], b"", b"", b"")] * 1000),
    ],
)
def test_a_process_taken_over_adds_no_rule_and_fills_no_row(said):
    """Each rule is counted for ever, and what robots and encoding say stands in the page's row."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode(said), type=Packed)


SOUND = {"entries": [], "kind": "urlset", "encoding": "UTF-8", "state": b"", "refused": {"syntax": 1}, "faults": {"xml": (1, "")}}


@pytest.mark.parametrize(
    ("forged", "count"),
    [
        ({"refused": {"a rule of its own": 1}}, 0),
        ({"faults": {"a fault of its own": (1, "")}}, 0),
        ({"faults": {"xml": (1, "x" * 8_000_000)}}, 0),
        ({"encoding": "x" * 8_000_000}, 0),
        ({"entries": ["http://h/"] * 200_000}, 0),
        ({"entries": ["http://h/", "x"]}, 0),
        ({"entries": ["http://h/a\r\nHost: i"]}, 0),
        ({"entries": ["http://h/\u00e9"]}, 0),
        ({"more": False, "modified": {"x": 1.0}}, 0),
        ({}, -1),
    ],
)
def test_neither_does_one_that_reads_a_sitemap(forged, count):
    def decoded(part, count):
        return msgspec.msgpack.decode(msgspec.msgpack.encode((list(part.values()), [], count, False)), type=PackedPart)

    assert decoded(SOUND, 0).part.refused == {"syntax": 1}
    with pytest.raises(msgspec.ValidationError):
        decoded(SOUND | forged, count)


def test_expressions_are_compiled_once_whatever_else_differs():
    """With a table for a host whose robots.txt is not obeyed there are two of these: a process that had begun with one, with
    100,000 of exclude, had no memory left for the other, and every page of that host ended as parse_crashed."""
    rules = ScopeRules(exclude=("/a", "/b"), include=("/",))
    others = (replace(rules, obey=False), replace(rules, blocked=(("c.example", True),)))
    begun, *after = (encode(ReadingOptions(Options("bot"), each, SECRET, False)) for each in (rules, *others))
    scope = reading_of(begun)[1]
    for each in after:
        other = reading_of(each)[1]
        assert other is not scope
        assert other._exclude is scope._exclude and other._include is scope._include
