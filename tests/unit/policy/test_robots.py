"""robots.txt: RFC 9309 against Google's cases, hostile files, bounded memory."""

import gzip
import json
import multiprocessing
import os
import random
import re
import tracemalloc
import zlib
from pathlib import Path

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.corpora import corpus
from support.pages import page_of

from crawler.core import urls
from crawler.core.model import Done, Link
from crawler.policy import robots_rules
from crawler.policy.robots_cache import RulesCache
from crawler.policy.robots_gate import RobotsGate
from crawler.policy.robots_rules import RobotsRules, read

GOOGLES = {
    "http://foo.bar/foo/bar/baz": "RFC 9309 2.2.2: an escaped unreserved character is decoded before comparison; "
    "the standard's own table has /foo/bar/%62%61%7A match /foo/bar/baz",
}
"""URLs of the cases in which Google's parser differs from us, with the reason."""


def cases() -> list[dict[str, object]]:
    return json.loads(corpus("robots/google_robots_cases.json").read_text())["cases"]


def rules(text: str | bytes, name: str = "flatcrawler", **more: object) -> RobotsRules:
    body = text.encode() if isinstance(text, str) else text
    return read(200, body, name=name, wall=0.0, **more)  # type: ignore[arg-type]


def test_google_cases():
    """Every case of Google's parser, but for the one in which RFC 9309 says otherwise."""
    differ = [
        case
        for case in cases()
        if rules(case["robots"], case["user_agent"]).allows(case["url"]) != case["allowed"]  # type: ignore[arg-type]
    ]
    assert len(differ) == 1
    assert {case["test"] for case in differ} == {"ID_Encoding"}
    assert {case["url"] for case in differ} == set(GOOGLES)


@pytest.mark.parametrize(
    ("text", "path", "allowed"),
    [
        ("Allow: /%D0%B0\nDisallow: /*=12345", "/%D0%B0?a=12345", False),
        ("Allow: /*?p=\nDisallow: /admin/", "/admin/?p=1", False),
        ("Allow: /*?page=\nDisallow: /private/", "/private/?page=2", False),
        ("Disallow: /*?*&\nAllow: /feeds/", "/feeds/?a&b", True),
        ("Disallow: /a:b\nAllow: /*abcd", "/a:babcd", True),
        ("Disallow: /*?p=\nAllow: /p", "/p?p=1", False),
        ("Allow: /é\nDisallow: /*a?b", "/%C3%A9a?b", True),
        ("Allow: /x$y/index.html\nDisallow: /x$y", "/x$y/", True),
        ("Disallow: /*%3A\nAllow: /abc:", "/abc:", True),
        ("Disallow: /*%3A\nAllow: /ab:", "/ab:", False),
        ("Disallow: /%7E\nAllow: /*", "/~", False),
    ],
)
def test_of_two_rules_the_one_with_more_octets_decides(text: str, path: str, allowed: bool) -> None:
    """RFC 9309 2.2.2: the most specific match is the match that has the most octets; as they are written, as Google has it."""
    assert rules(f"User-agent: *\n{text}\n").allows(f"http://h.example{path}") is allowed
    many = "".join(f"Disallow: /none/{n}\n" for n in range(robots_rules.RULES_AT_ONCE_MAX))
    assert rules(f"User-agent: *\n{text}\n{many}").allows(f"http://h.example{path}") is allowed


@pytest.mark.parametrize("rule", ["/*%", "/*%2", "/*%C3%", "/*%zz\nDisallow: /a{b}\nDisallow: /a b\nDisallow: /c&"])
def test_a_percent_sign_that_begins_no_escape_stands_for_the_beginning_of_any(rule: str) -> None:
    """What is not escaped is none of them."""
    denied = {
        "/*%": ["/a%20b", "/a b", "/\u00e4", "/%c3%a4", "/a%26b", "/a%2fb", "/100%", "/%zz", "/%3F", "/a{b}"],
        "/*%2": ["/a%20b", "/a b", "/a%26b", "/a%2fb"],
        "/*%C3%": ["/\u00e4", "/%c3%a4"],
    }.get(rule, ["/a%20b", "/a b", "/%zz", "/a{b}", "/a%7bb}", "/c&d"])
    others = ["/a", "/a?x=1&y=2", "/a&b", "/a+b", "/a'b", "/a,b:c;d", "/a%61", "/a%7E"]
    text = f"User-agent: *\nDisallow: {rule}\n"
    many = "".join(f"Disallow: /none/{n}\n" for n in range(robots_rules.RULES_AT_ONCE_MAX))
    for found in (rules(text), rules(text + many)):
        hrefs = [urls.parse(path, "http://h.example/").href for path in (*denied, *others)]
        assert [found.allows(href) for href in hrefs] == [False] * len(denied) + [True] * len(others)
        assert all(str(found.denied_by(href)).startswith("Disallow: ") for href in hrefs[: len(denied)])


@pytest.mark.parametrize(
    ("rule", "path", "allowed"),
    [
        ("/%D0", "/%d0%b0%D0%B1", False),
        ("/*%D0", "/wiki/%D0%B0", False),
        ("/*%D0", "/wiki/%D1%80", True),
        ("/\u0430", "/%D0%B0%D0%B1", False),
        ("/caf%E9", "/caf%e9/x", False),
        ("/caf%E9", "/caf%E8", True),
        ("/%B1%A8$", "/%B1%A8", False),
        ("/%B1%A8$", "/%B1%A9", True),
        ("/%D0", "/%25D0", True),
        ("/%25D0", "/%D0%B0", True),
        ("/*%25", "/100%25", False),
        ("/*%25", "/%D0%B0", True),
        ("/100%25$", "/100%", False),
        ("/%3B", "/%3%42", True),
        ("/%D0", "/%D%30", True),
        ("/*discount", "/50%discount", False),
    ],
)
def test_bytes_beyond_ascii_are_compared_one_by_one(rule: str, path: str, allowed: bool) -> None:
    """RFC 9309 2.2.2 compares octets, whole characters of UTF-8 or not."""
    text = f"User-agent: *\nDisallow: {rule}\n"
    many = "".join(f"Disallow: /none/{n}\n" for n in range(robots_rules.RULES_AT_ONCE_MAX))
    for found in (rules(text), rules(text + many)):
        assert found.allows(f"http://h.example{path}") is allowed
        assert (found.denied_by(f"http://h.example{path}") is None) is allowed


@pytest.mark.parametrize(
    ("rule", "path", "allowed"),
    [
        ("/*?", "/wiki/Who%3F", True),
        ("/*?", "/wiki/Who%3f", True),
        ("/*?", "/wiki/Who?", False),
        ("/wiki/Who?", "/wiki/Who%3F", True),
        ("/wiki/Who%3F", "/wiki/Who%3fIsIt", False),
        ("/wiki/Who%3f", "/wiki/Who%3F", False),
        ("/wiki/Who%3F", "/wiki/Who?x", True),
        ("/*:", "/wiki/A%3AB", False),
        ("/a&\nDisallow: /%zz", "/a%26b", False),
        ("/a%26b\nDisallow: /%zz", "/a&b", False),
    ],
)
def test_an_escaped_question_mark_begins_no_query(rule: str, path: str, allowed: bool) -> None:
    """RFC 3986 2.2: URIs that differ in an escape of a reserved character are not equivalent. Google takes them so. Of the
    other reserved characters RFC 9309 2.2.2 says that they are, whatever other rules there are."""
    found = rules(f"User-agent: *\nDisallow: {rule}\n")
    url = f"http://h.example{path}"
    assert found.allows(url) is allowed
    assert (found.denied_by(url) is None) is allowed


@pytest.mark.parametrize(
    ("rule", "path", "allowed"),
    [
        ("/foo/bar?baz=https://foo.bar", "/foo/bar?baz=https%3A%2F%2Ffoo.bar", False),
        ("/foo/bar?baz=https%3a%2f%2ffoo.bar", "/foo/bar?baz=https://foo.bar", False),
        ("/*?*%2F", "/a?b=/", False),
        ("/a%2Fb?c=/", "/a/b?c=/", True),
        ("/a%2Fb?c=/", "/a%2fb?c=%2F", False),
        ("/*c=%2F", "/a?c=%2F", False),
        ("/*%2F", "/a/b", True),
    ],
)
def test_an_escaped_slash_is_a_slash_in_a_query_alone(rule: str, path: str, allowed: bool) -> None:
    """RFC 9309 2.2.2: the standard's own table escapes those of /foo/bar?baz=https://foo.bar before it compares them."""
    text, many = f"User-agent: *\nDisallow: {rule}\n", "".join(f"Disallow: /other/{n}?a=/\n" for n in range(2000))
    for found in (rules(text), rules(text + many) if "?" in rule else rules(text)):
        assert found.allows(f"http://h.example{path}") is allowed
        assert (found.denied_by(f"http://h.example{path}") is None) is allowed


@pytest.mark.parametrize("rule", ["/*%2F", "/*c=%2F", "/*c=%2", "/*%", "/a?c=%|/a/c=%", "/*?*%2|/a/c=%2"])
def test_an_escaped_slash_wherever_it_stands_is_forbidden_whatever_other_rules_say(rule: str) -> None:
    """A rule with a slash in its query had those of every URL's read as plain ones, and this rule held for none of them."""
    lines = "".join(f"Disallow: {each}\n" for each in (*rule.split("|"), "/x?y=/"))
    found = rules(f"User-agent: *\n{lines}")
    for path, allowed in (("/a?c=%2Fb", False), ("/a/c=%2F", False), ("/x?y=%2F", False), ("/x?y=/", False), ("/a?d=/", True)):
        assert found.allows(f"http://h.example{path}") is allowed
        assert (found.denied_by(f"http://h.example{path}") is None) is allowed


@pytest.mark.parametrize(
    ("lines", "path", "denied_by"),
    [
        ("D/*/b|D/x?u=/", "/?a=%2Fb", None),
        ("D/*%2F|A/search?q=%2F", "/search?q=%2Fx", None),
        ("D/*%2F|A/s?q=https://", "/s?q=https%3A%2F%2Fa", None),
        ("D/*q=%2F|A/s?q=%2F", "/s?q=%2Fx", None),
        ("D/login|A/*return=%2F|D/x?u=/", "/login?return=%2Fhome", None),
        ("D/*%|A/s?q=/", "/s?q=%2Fx", None),
        ("D/%*|A/%20", "/%20b", None),
        ("A/*%2F|D/search?q=%2F", "/search?q=%2Fx", "/search?q=%2F"),
        ("A/s?q=%2F|D/*?q=/a", "/s?q=%2Fabc", None),
        ("A/a?q|D/*%2F%2F|D/x?u=/", "/a?q=%2F%2F", "/*%2F%2F"),
    ],
)
def test_the_longest_rule_decides_however_each_spells_its_slashes(lines: str, path: str, denied_by: str | None) -> None:
    """A URL that any rule denied in one of its spellings was denied, whatever a longer one allowed."""
    text = "User-agent: *\n" + "".join(f"{'Allow' if line[0] == 'A' else 'Disallow'}: {line[1:]}\n" for line in lines.split("|"))
    many = "".join(f"Disallow: /none/{n}\n" for n in range(robots_rules.RULES_AT_ONCE_MAX))
    for found in (rules(text), rules(text + many)):
        assert found.allows(f"http://h.example{path}") is (denied_by is None)
        assert found.denied_by(f"http://h.example{path}") == (denied_by and f"Disallow: {denied_by}")


@pytest.mark.parametrize("status", [200, 204, 206, 299])
def test_an_answer_is_read(status):
    found = read(status, b"User-agent: *\nDisallow: /private\n", name="f", wall=0)
    assert not found.unavailable
    assert not found.allows("http://a.example/private/x")
    assert found.allows("http://a.example/")


@pytest.mark.parametrize("status", [301, 304, 307, 400, 401, 403, 404, 410, 451, 499])
def test_no_robots_txt_allows_everything(status):
    """RFC 9309 2.3.1.2 and 2.3.1.3; what stands in the error page is no rule."""
    found = read(status, b"User-agent: *\nDisallow: /\n", name="f", wall=0)
    assert not found.unavailable
    assert found.allows("http://a.example/x")


@pytest.mark.parametrize("status", [0, 100, 429, 500, 503, 599, 999])
def test_unknown_rules_allow_nothing(status):
    """RFC 9309 2.3.1.4; 429 is a server's word for later, not for yes."""
    found = read(status, b"User-agent: *\nAllow: /\n", name="f", wall=0)
    assert found.unavailable
    assert not found.allows("http://a.example/")
    assert "robots.txt: " in str(found.denied_by("http://a.example/"))


def test_a_day_at_most():
    assert rules("").record.ttl == 86_400
    assert rules("", cache_control="public, max-age=3600").record.ttl == 3_600
    assert rules("", cache_control="max-age=0, no-cache").record.ttl == 600
    assert rules("", cache_control="max-age=99999999").record.ttl == 86_400
    assert rules("", cache_control="s-max-age=7200 foo").record.ttl == 86_400
    found = read(200, b"", name="Bot", wall=1_000_000)
    assert found.fresh(1_000_000 + 86_399, "bot")
    assert not found.fresh(1_000_000 + 86_400, "bot")
    assert not found.fresh(1_000_000 - 90_000, "bot"), "the wall clock was put back: no longer than a day either"
    assert not found.fresh(1_000_001, "other"), "the rules were chosen for another name"


def test_groups():
    """Our own group only, merged if it stands there twice; everyone's if there is none; a named group may be empty."""
    text = """
        User-agent: other
        User-agent: FlatCrawler/1.0
        Disallow: /a
        User-agent: *
        Disallow: /
        useragent: flatcrawler
        Disallow: /b
    """
    ours = rules(text)
    assert [ours.allows(f"http://h/{path}") for path in "abc"] == [False, False, True]
    assert not rules(text, "third").allows("http://h/c")
    assert rules("User-agent: flatcrawler\nUser-agent: *\nDisallow:\n").allows("http://h/")
    assert rules("User-agent: flatcrawler\n\nSitemap: /s\n").allows("http://h/"), "named, and nothing forbidden"
    assert rules("User-agent: flatcrawlerbot\nDisallow: /\n").allows("http://h/"), "another robot's longer name"
    assert rules("User-agent: flat\nDisallow: /\n").allows("http://h/"), "another robot's shorter name"
    assert rules("Disallow: /\n").allows("http://h/"), "a rule that speaks to nobody"
    assert not rules("\ufeffUser-agent: * all of you\r\nDisallow /x y\r\n").allows("http://h/x%20y")


def test_longest_match_wins_and_allow_wins_ties():
    found = rules("User-agent: *\nDisallow: /\nAllow: /p\nDisallow: /p*.html$\nAllow: /q\nDisallow: /q\n")
    assert found.allows("http://h/page")
    assert not found.allows("http://h/page.html")
    assert found.allows("http://h/page.html?x")
    assert found.allows("http://h/q")
    assert found.allows("http://h/robots.txt"), "RFC 9309 2.2.2: implicitly allowed"
    assert found.denied_by("http://h/page.html") == "Disallow: /p*.html$"
    assert found.denied_by("http://h/other") == "Disallow: /"
    assert found.denied_by("http://h/q") is None


def test_bytes_that_are_no_text():
    """A rule may be in any encoding, hold NUL or a form feed: it stays one rule, and never breaks the reader."""
    found = rules(b"User-agent: *\nDisallow: /caf\xe9\nDisallow: /a\x00b\x0cAllow: /\nDisallow: /\xe3\x83\x84\n")
    assert not found.allows("http://h/caf%E9/x")
    assert not found.allows("http://h/%E3%83%84")
    assert found.allows("http://h/a")
    assert rules(random.Random(1).randbytes(300_000)).allows("http://h/")
    assert rules(zlib.compress(b"User-agent: *\nDisallow: /\n")).allows("http://h/")
    assert rules("<html><p>User agent * is not what\n<p>disallow everyone\nallow me</html>").allows("http://h/")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_rules_in_utf_16_are_rules(encoding):
    text = "\ufeffUser-agent: *\r\nDisallow: /caf\u00e9\r\nCrawl-delay: 7\r\n"
    found = rules(text.encode(encoding))
    assert not found.allows("http://h/caf%C3%A9/x") and found.allows("http://h/caf") and found.delay(30) == 7
    for end in range(1, 12):
        cut = read(200, (text + "Disallow: /private").encode(encoding)[:-end], name="flatcrawler", wall=0.0, cut=True)
        assert cut.record.lines == "D/caf%C3%A9", "a line that is not whole is none"
    for more in range(20):
        long = f"{text}#{'.' * more}\r\n" + "Disallow: /private\r\n" * 20_000
        assert read(200, long.encode(encoding), name="flatcrawler", wall=0.0).record.lines == "D/caf%C3%A9\nD/private"


def test_crawl_delay_is_read_and_capped():
    text = "User-agent: *\nCrawl-delay: {}\n\nUser-agent: x\nDisallow: /\n"
    assert rules(text.format("2.5")).delay(30) == 2.5
    assert rules(text.format("1e9")).delay(30) == 30
    assert rules(text.format("7")).allows("http://h/"), "Crawl-delay closes the list of agents: the next group is not ours"
    for written in ("5 seconds", "5s", "5 Sec", "5.0", "5 # seconds"):
        assert rules(text.format(written)).delay(30) == 5, written
    for nonsense in ("nan", "inf", "-1", "ten", "", "1,5", "1.5.2", ".", "5 minutes", "1e999"):
        assert rules(text.format(nonsense)).delay(30) == 0
    assert rules("User-agent: *\nCrawl-delay: 9\nUser-agent: flatcrawler\nDisallow: /x\n").delay(30) == 0


def test_sitemaps_are_everyones_and_bounded():
    lines = ["Sitemap: https://h/a.xml", "User-agent: x", "site-map: https://h/b.xml", "Sitemap: https://h/a.xml"]
    assert rules("\n".join(lines)).sitemaps == ("https://h/a.xml", "https://h/b.xml")
    many = rules("\n".join(f"Sitemap: https://h/{n}.xml" for n in range(5_000)))
    assert len(many.sitemaps) == robots_rules.SITEMAPS_MAX
    assert rules(f"Sitemap: https://h/{'x' * 3_000}").sitemaps == ()
    assert rules("Sitemap: https://h/\u00e9.xml".encode()).sitemaps == ("https://h/\u00e9.xml",)
    assert rules(b"Sitemap: https://h/\xe9.xml").sitemaps == ("https://h/%E9.xml",), "as a Location with such bytes"


def test_only_whole_lines_of_the_first_500_kib():
    """A rule cut by the limit is left out: 'Disallow: /' of 'Disallow: /private' would close the site."""
    head = "User-agent: *\nDisallow: /first\n"
    filler = "#" * (robots_rules.BODY_BYTES_MAX - len(head) - len("\nDisallow: /")) + "\n"
    found = rules(head + filler + "Disallow: /private\n")
    assert found.allows("http://h/x")
    assert not found.allows("http://h/first")
    assert rules("User-agent: *\nDisallow: /" + "x" * robots_rules.BODY_BYTES_MAX).allows("http://h/")
    short = b"User-agent: *\nDisallow: /first\nDisallow: /"
    assert not robots_rules.read(200, short, name="bot", wall=0.0).allows("http://h/x")
    assert robots_rules.read(200, short, name="bot", wall=0.0, cut=True).allows("http://h/x"), "less than that was kept"


HOSTILE = {
    "newlines": b"\n" * 500_000,
    "carriage returns": b"\r" * 500_000,
    "spaces": b" " * 500_000,
    "indented nothing": b"\n   " * 125_000,
    "one endless word": b"user-agent" * 50_000,
    "one endless agent": b"User-agent: " + b"x" * 499_000,
    "agents": b"User-agent: *\n" * 35_000,
    "groups": b"User-agent: *\nDisallow: /x\n" * 18_000,
    "stars": b"User-agent: *\nDisallow: /" + b"*a" * 249_000 + b"b$\n",
    "star rules": b"User-agent: *\n" + b"".join(b"Disallow: /*a*a*a*%x$\n" % n for n in range(900)),
    "colons": b":" * 500_000,
    "comments": b"User-agent: *\n" + b"#\n" * 240_000,
    "escapes": b"User-agent: *\nDisallow: /" + b"%" * 16_000 + b"\nDisallow: /" + b"%4" * 8_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_ends_soon(name):
    """Each would run into the test's time limit if anything in it were quadratic."""
    found = rules(HOSTILE[name])
    assert len(found.to_bytes()) < 64 << 10
    for url in ("http://h/", "http://h/" + "a" * 2_000, "http://h/" + "%61" * 600):
        found.allows(url)
        found.denied_by(url)


def test_a_giant_file_is_obeyed_to_its_last_rule():
    """40,000 rules fill the 500 KiB; only those that can apply are ever weighed."""
    text = "User-agent: *\nAllow: /1f/index.html\n" + "".join(f"Disallow:/{n:x}/\n" for n in range(30_000))
    found = rules(text)
    assert not found.allows("http://h/0/")
    assert not found.allows("http://h/752f/x")
    assert not found.allows("http://h/75%32f/x")
    assert found.allows("http://h/7530/x")
    assert found.allows("http://h/1f/")
    assert not found.allows("http://h/1f/x")
    assert found.denied_by("http://h/752f/x") == "Disallow: /752f/"
    assert RobotsRules.from_bytes(found.to_bytes()).record == found.record  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("rule", "path", "allowed"),
    [
        ("/a$", "/a", False),
        ("/a$", "/a$", True),
        ("/a$", "/a%24b", True),
        ("/*.php$", "/x.php$y", True),
        ("/a$b", "/a$bc", False),
        ("/a$b", "/a", True),
        ("/a$$", "/a$", False),
        ("/a$$", "/a$$", True),
        ("/a$b$", "/a$b", False),
        ("/a$b$", "/a$bc", True),
        ("/a%24", "/a$b", False),
    ],
)
def test_a_dollar_sign_is_special_at_the_end_only_and_there_nothing_else(rule: str, path: str, allowed: bool) -> None:
    """RFC 9309 2.2.3: the one at the end does not stand for itself as well."""
    assert rules(f"User-agent: *\nDisallow: {rule}\n").allows(f"http://h.example{path}") is allowed
    many = "".join(f"Disallow: /none/{n}\n" for n in range(robots_rules.RULES_AT_ONCE_MAX))
    assert rules(f"User-agent: *\nDisallow: {rule}\n{many}").allows(f"http://h.example{path}") is allowed


def test_more_rules_than_can_be_weighed_deny():
    text = "User-agent: *\n" + "".join(f"Allow: /*{n}\n" for n in range(robots_rules.RULES_AT_ONCE_MAX + 1))
    found = rules(text)
    assert not found.allows("http://h/1")
    assert "rules apply" in str(found.denied_by("http://h/1"))


def test_a_character_is_the_same_escaped_or_not_unless_it_parts_a_url() -> None:
    for octet in range(0x21, 0x7F):
        spelled = chr(octet), f"%{octet:02X}", f"%{octet:02x}"
        for rule in spelled[1:] if spelled[0] in "%*$" else spelled:
            matcher = robots_rules.Matcher(f"D/x{rule}x$")
            same = spelled if spelled[0] not in "/?" else spelled[:1] if rule == spelled[0] else spelled[1:]
            assert tuple(path for path in spelled if matcher.denied_by(f"http://h.example/x{path}x")) == same


_ALIKE = ["/", "%2F", "?"], ["?", "%3F"], ["&", "%26"], ["$", "%24"], ["*", "%2A"], ["g", "%67"], ["%25", "%c3"]


def _rules_and_path(pieces: list[str]) -> st.SearchStrategy[tuple[list[str], str]]:
    """Of few pieces, so that rules match."""
    pattern = st.lists(st.sampled_from([*pieces, "*", "h"]), max_size=6).map("".join)
    end = st.sampled_from(["", "", "$", "/index.html"])
    line = st.tuples(st.sampled_from(["A/", "D/", "D*"]), pattern, end).map("".join)
    return st.tuples(st.lists(line, min_size=1, max_size=4), pattern)


def _letters(text: str) -> str:
    """One letter for each octet, another for those that are not the same escaped."""
    kept = {"%2F": "\ue000", "%3F": "\ue001", "%25": "\ue002"}
    return re.sub("%(..)", lambda found: kept.get(found[0]) or chr(int(found[1], 16)), text)


def _holds(pattern: str, path: str) -> bool:
    query = pattern.partition("?")[2]
    if "/" in query or "%2f" in query.lower():  # then slashes are the same in queries
        pattern, path = (re.sub(r"\?.*", lambda found: re.sub("%2[Ff]", "/", found[0]), text) for text in (pattern, path))
    parts = [re.escape(_letters(part)) for part in pattern.removesuffix("$").split("*")]
    return re.match(".*".join(parts) + (r"\Z" if pattern.endswith("$") else ""), _letters(path)) is not None


@given(st.sampled_from(_ALIKE).flatmap(_rules_and_path))
@example((["D/*4"], "a4"))
@example((["D/a$"], "a"))
@example((["D/hh*h$"], "hh"))
@example((["D/g?%2F"], "g?/"))
@example((["A/a/index.html", "D/a/"], "a/"))
def test_the_longest_rule_that_matches_decides(drawn: tuple[list[str], str]) -> None:
    """Against regular expressions over octets, in a little file and in a giant one."""
    lines, path = drawn
    pages = [line.removesuffix("index.html") + "$" for line in lines if line[0] == "A" and line.endswith("/index.html")]
    found = [(len(line), line[0] == "A") for line in lines + pages if _holds(line[1:], f"/{path}")]
    allowed = max(found, default=(0, True))[1]
    many = [f"D/none/{n}" for n in range(robots_rules.RULES_AT_ONCE_MAX)]
    for matcher in (robots_rules.Matcher("\n".join(lines)), robots_rules.Matcher("\n".join(lines + many))):
        assert (matcher.denied_by(f"http://h.example/{path}") is None) is allowed


@pytest.mark.parametrize(
    "rule",
    ["D/a/{}", "D/{}$", "D/*{}*ab*cd*ef$", "A/{}/index.html", "D/&&&&&&&&&&&&&&&&{}", "D/%d0%BB{}", "D/x?u=%2f{}", "D/*%{}"],
)
@pytest.mark.parametrize("number", [1, 10, 999, 5000])
def test_rules_take_no_more_memory_than_they_are_said_to(rule: str, number: int) -> None:
    lines = "\n".join(rule.replace("{}", str(n)) for n in range(number))
    data = RobotsRules(robots_rules.Record(200, 0.0, 1.0, "x", lines)).to_bytes()
    tracemalloc.start()
    try:
        found = RobotsRules.from_bytes(data)
        assert found is not None
        found.allows("http://h.example/a/%20x/%d0%BB%d0?u=%2f")
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held <= found.memory_bytes


def test_kept_bytes_come_back_or_are_refused():
    found = rules("User-agent: *\nDisallow: /x\nCrawl-delay: 3\nSitemap: https://h/s.xml\n")
    data = found.to_bytes()
    back = RobotsRules.from_bytes(data)
    assert back is not None
    assert back.record == found.record
    assert len(read(404, b"", name="f", wall=1e9).to_bytes()) < 64, "most sites have none: a million of them must be cheap"
    for damaged in (b"", b"\x02" + data[1:], data[:-9], b"\x01nonsense", b"\x01" + zlib.compress(b"nonsense")):
        assert RobotsRules.from_bytes(damaged) is None
    bomb = b"\x01" + zlib.compress(msgspec.msgpack.encode([200, 0.0, 0.0, "f", "x" * (64 << 20)]))
    assert RobotsRules.from_bytes(bomb) is None


@given(
    st.lists(st.tuples(st.sampled_from(["get", "put", "discard", "clear"]), st.integers(0, 9), st.integers(0, 30)), min_size=20)
)
def test_the_cache_never_exceeds_its_bytes(steps):
    cache = RulesCache(40_000)
    kept: dict[str, bytes] = {}
    for verb, host, size in steps:
        origin = f"http://{host}.example"
        if verb == "put":
            kept[origin] = rules("User-agent: *\n" + "".join(f"Disallow: /{n}\n" for n in range(size))).to_bytes()
            assert cache.put(origin, kept[origin]) is not None
        elif verb == "get" and (found := cache.get(origin)) is not None:
            assert found.to_bytes() == kept[origin]
        elif verb == "discard":
            cache.discard(origin)
            assert cache.get(origin) is None
        elif verb == "clear":
            cache.clear()
        kept_bytes = sum(250 + len(o) + len(d) for o, d in cache._kept.items())
        parsed_bytes = sum(len(o) + r.memory_bytes for o, r in cache._parsed.items())
        assert kept_bytes <= 20_000
        assert parsed_bytes <= 20_000
        assert cache.memory_bytes == kept_bytes + parsed_bytes


def test_the_cache_holds_fewer_rules_of_long_urls():
    """Of pages that robots.txt files are redirected to: their URLs were in no account, and as long as all the rest."""
    record, cache = rules("").to_bytes(), RulesCache(1 << 20)
    tracemalloc.start()
    try:
        for n in range(3000):
            cache.put(f"http://{n}.example/".ljust(2083, "a"), record)
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held <= 1 << 20


def test_rules_too_big_for_the_cache_still_count():
    cache = RulesCache(10_000)
    big = rules("User-agent: *\n" + "".join(f"Disallow: /{n}/\n" for n in range(500)))
    found = cache.put("http://big.example", big.to_bytes())
    assert found is not None
    assert not found.allows("http://big.example/499/")
    assert cache.put("http://small.example", rules("").to_bytes()) is not None
    assert cache.get("http://small.example") is not None
    assert cache.put("http://small.example", b"damaged") is None
    assert cache.get("http://small.example") is None


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_many_decisions_in_bounded_memory():
    """20,000 origins, 300,000 decisions, an account of 2 MiB: a process of its own no longer grows once that is full."""
    process = multiprocessing.get_context("spawn").Process(target=_decide_many_times)
    process.start()
    process.join()
    assert process.exitcode == 0


def _decide_many_times() -> None:
    texts = ["User-agent: *\n" + "".join(f"Disallow: /{n}*p{k}/\n" for n in range(k % 30)) for k in range(100)]
    store = [rules(text).to_bytes() for text in texts]
    draw = random.Random(4)
    cache = RulesCache(2 << 20)
    urls = [f"http://h/{n}/p{n}/" for n in range(100)]
    before = denied = 0
    for n in range(300_000):
        if n == 200_000:
            assert cache.evictions
            before = _resident()
        if n % 20 == 0:
            host = draw.randrange(20_000)
            origin = f"http://www.{host}.example"
            found = cache.get(origin) or cache.put(origin, store[host % 100])
        denied += not found.allows(urls[n % 100])  # type: ignore[union-attr]
    assert cache.evictions > 10_000
    assert cache.memory_bytes <= 2 << 20
    assert 0 < denied < 300_000
    assert _resident() - before < 2 << 20


def test_a_group_named_a_thousand_times_is_one():
    groups = robots_rules._Groups(b"flatcrawler")
    for _ in range(1000):
        groups.add(b"user-agent", b"*")
        groups.add(b"user-agent", b"flatcrawler")
    assert len(groups._open) == 2
    groups.add(b"disallow", b"/a")
    assert groups.chosen() == ("D/a", None)


@pytest.mark.parametrize("pattern", [b"\xff" * 490, b"*\xff" * 244, b"*ab" * 160])
def test_long_patterns_are_weighed_a_few_at_a_time_and_deny_where_too_many_apply(pattern):
    many = rules(b"user-agent: *\n" + b"".join(b"disallow: /%s%d\n" % (pattern, n) for n in range(999)))
    assert not many.allows("http://a.test/x")
    assert many._matcher._rules is None
    assert many.memory_bytes < 3 << 20
    few = rules(b"user-agent: *\n" + b"".join(b"disallow: /%d/%s\n" % (n, pattern) for n in range(999)))
    assert few.allows("http://a.test/x") and few.allows("http://a.test/7/x")


@pytest.mark.parametrize(("coding", "allowed"), [(None, True), ("gzip", True), ("gzip, gzip", False)])
def test_rules_in_codings_within_codings_are_not_undone_in_the_loop_and_deny(coding, allowed, tmp_path):
    body = b"User-agent: *\nDisallow: /private\n"
    for _ in coding.split(", ") if coding else ():
        body = gzip.compress(body)
    page = page_of(tmp_path, body, "http://a.test/robots.txt", coding=coding)
    desk = RobotsGate(RulesCache(1 << 20), name="bot", crawl_delay_cap_s=1.0, obeys=lambda host: True, wall=lambda: 0.0)
    desk.learn(Link("http://a.test/robots.txt", "a.test", "robots", anchor="http://a.test"), Done(page, "ok"))
    assert (desk.refuses(Link("http://a.test/x", "a.test")) is None) is allowed
    assert desk.refuses(Link("http://a.test/private", "a.test")) is not None
