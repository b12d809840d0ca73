"""Outlinks: every form a page may link in, read as the standards say; bounded and linear whatever the page."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.corpora import corpus

from crawler.core.reply_limits import OUTLINKS_BYTES_FACTOR, OUTLINKS_BYTES_FREE, OUTLINKS_BYTES_MAX
from crawler.core.urls import UrlRules, host_key, parse
from crawler.parse.html import (
    Options,
    Outlink,
    Outlinks,
    outlinks,
)
from crawler.parse.microsyntax import link_header, query_codec, reencoded, refresh, robots_tag, srcset
from crawler.parse.requisites import requisites
from crawler.policy.scope import RULES

PAGE = "http://example.org/dir/page"
Headers = list[tuple[bytes, bytes]]


def read(html: str | bytes, headers: Headers | None = None, charset: str | None = None, **options: Any) -> Outlinks:
    body = html.encode() if isinstance(html, str) else html
    found = outlinks(body, PAGE, "text/html", charset, headers or [], Options(**{"agent": "ourbot", **options}))
    assert set(found.refused) <= set(RULES)
    for link in found.links:
        assert (link.url, link.host) == (parse(link.url).href, host_key(link.url))
    return found


def urls(html: str | bytes, headers: Headers | None = None, **options: Any) -> list[str]:
    return [link.url.removeprefix("http://example.org") for link in read(html, headers, **options).links]


def test_a_page_with_everything_on_it() -> None:
    html = """<!doctype html><head>
      <link rel=canonical href=/canonical><link rel="alternate nofollow" hreflang=de href=/de><link rel=next href=?page=2>
      <link rel=license href=/license><link rel=stylesheet href=/style.css><link rel="shortcut icon" href=/icon>
      <link rel=preconnect href=//cdn.example><link href="/norel"><link rel=preload imagesrcset="/p1 1x, /p2 2x" href="/p0">
      <meta http-equiv=Refresh content="5; URL='/onward'">
      <body><a href=" one
      ">1</a><a href="../two#x">2</a><a href="#here">me</a><a href>me too</a><a name=x>none</a>
      <area href=/area rel=NoFollow><iframe src=/iframe></iframe><svg><a xlink:href=/svg></a></svg>
      <img src=/img srcset="/img1 480w, /img2 2x"><picture><source srcset="/s1, /s2 2x"></picture>
      <a href="mailto:me@example.org">m</a><a href="javascript:void(0)">j</a><a href="http://[bad">b</a>
      <a href="HTTP://Other.example:80/%7Ex?b&amp;a">o</a><a href=/two>again</a>
      <!-- <a href=/comment> --><script>"<a href=/script>"</script><textarea><a href=/textarea></textarea>
      <noscript><a href=/noscript></a></noscript><template><a href=/template></a></template>
      <form action=/form></form><a href=one rel=nofollow>once more</a>"""
    found = read(html, charset="utf-8")
    assert [link.url.removeprefix("http://example.org") for link in found.links] == [
        *("/onward", "/canonical", "/dir/page?page=2", "/license", "/dir/one", "/two", "/iframe", "/svg"),
        *("http://other.example/%7Ex?b&a", "/noscript", "/template", "/de", "/area"),
    ]
    assert {link.url for link in found.links if link.nofollow} == {"http://example.org/de", "http://example.org/area"}
    assert found.refused == {"resource": 11, "scheme": 2, "syntax": 1}
    assert (found.charset, found.robots) == ("UTF-8", [])


@pytest.mark.parametrize(
    ("attributes", "is_page"),
    [
        ("rel=alternate hreflang=de", True),
        ("rel='Alternate' type='text/html; charset=utf-8'", True),
        ("rel=alternate type=application/rss+xml", True),
        ("rel=alternate type=application/atom+xml", True),
        ("rel=alternate type=application/feed+json", True),
        ("rel=alternate type=application/pdf", True),
        ("rel=alternate media=handheld", True),
        ("rel=canonical", True),
        ("rel='prev nofollow'", True),
        ("rel='next prefetch'", True),
        ("rel=author", True),
        ("rel=license", True),
        ("rel=help", True),
        ("rel=privacy-policy", True),
        ("rel=alternate type=application/json+oembed", False),
        ("rel=alternate type=text/xml+oembed", False),
        ("rel=alternate type=application/json", False),
        ("rel=alternate type=application/activity+json", False),
        ("rel=alternate type='image/png'", False),
        ("rel='alternate stylesheet' href=/x", False),
        ("rel='alternate icon' type=image/svg+xml", False),
        ("rel='SHORTCUT ICON'", False),
        ("rel=apple-touch-icon", False),
        ("rel=mask-icon", False),
        ("rel=manifest", False),
        ("rel=preload as=script", False),
        ("rel=prefetch", False),
        ("rel=modulepreload", False),
        ("rel=pingback", False),
        ("rel=EditURI type=application/rsd+xml", False),
        ("rel=wlwmanifest type=application/wlwmanifest+xml", False),
        ("rel=search type=application/opensearchdescription+xml", False),
        ("rel='https://api.w.org/'", False),
        ("rel=amphtml", True),
        ("rel=shortlink", False),
        ("rel=''", False),
        ("", False),
    ],
)
def test_a_link_element_is_followed_by_its_meaning(attributes: str, is_page: bool) -> None:
    """HTML, 4.6.7: hyperlinks, not what a page is made of or what only programs ask for; so in a Link header."""
    found = read(f"<link href=/x {attributes}>")
    assert (len(found.links), found.refused) == ((1, {}) if is_page else (0, {"resource": 1}))
    header = "; ".join(re.sub(r"='([^']*)'", r'="\1"', word) for word in re.split(r" (?=\w+=)", attributes))
    assert len(read("", [(b"Link", f"</x>; {header}".encode())]).links) == is_page


def test_what_an_a_links_to_is_followed_whatever_it_is() -> None:
    html = "<link rel=icon href=/icon.png><a href=/icon.png>i</a><img srcset='/icon.png 2x'>"
    assert urls(html) == ["/icon.png"]


@pytest.mark.parametrize("name", ["script", "style", "title", "textarea", "iframe", "noembed", "noframes", "xmp", "svg:title"])
def test_an_empty_element_of_xhtml_ends_where_it_begins(name: str) -> None:
    """XML 3.1: <script src="a.js"/> is a whole element; HTML 13.2.5.4: there it begins a text that ends with </script>."""
    page = f"""<?xml version="1.0"?>
    <html xmlns="http://www.w3.org/1999/xhtml"><head><{name}
      class="a/b"/><{name}/></head><body><a href="/one">1</a><{name}>/</{name}><a href="/two">2</a></body></html>"""
    found = outlinks(page.encode(), PAGE, "application/xhtml+xml", None, [], Options())
    assert [link.url for link in found.links] == ["http://example.org/one", "http://example.org/two"]
    if name != "svg:title":
        assert urls(page) != ["/one", "/two"], "as a browser reads what is sent as text/html"


def test_frames_are_documents() -> None:
    assert urls("<frameset><frame src=/menu><frame src=/main></frameset>") == ["/menu", "/main"]


@pytest.mark.parametrize(
    ("base", "links"),
    [
        ("<base href=/other/>", "/other/x"),
        ("<base href=/other/><base href=/second/>", "/other/x"),
        ("<base target=_top><base href=/second/>", "/second/x"),
        ("<svg><base href=/svg/></svg><base href=/second/>", "/second/x"),
        ("<math><base href=/math/></math>", "/dir/x"),
        ("<svg><foreignObject><base href=/inner/></foreignObject></svg>", "/inner/x"),
        ("<base href='//h.example'>", "http://h.example/x"),
        ("<base href='http://[bad'>", "/dir/x"),
        ("<base href='data:text/html,x'>", "/dir/x"),
        ("<base href='javascript:x'>", "/dir/x"),
        ("", "/dir/x"),
    ],
)
def test_the_base_of_a_page(base: str, links: str) -> None:
    """It holds for links before it, and for a refresh too, but not for headers."""
    assert urls(f"<a href=x>1</a>{base}") == [links]
    assert urls(f"{base}<meta http-equiv=refresh content='0;url=x'>", [(b"Link", b"<y>; rel=next")]) == ["/dir/y", links]


INERT = "<base href=/t/><meta name=robots content=nofollow><meta http-equiv=refresh content='0;url=/r'><a href=b>"


@pytest.mark.parametrize(
    "page",
    [
        f"<template>{INERT}<template>{INERT}</template>{INERT}</template><base href=/x/><a href=a>",
        f"<base href=/x/><div><template shadowrootmode=open>{INERT}</template></div><a href=a>",
    ],
)
def test_what_stands_in_a_template_says_nothing_of_its_page(page: str) -> None:
    """HTML 4.12.3: its contents are of another document; only its links are looked at."""
    found = read(page)
    assert {link.url for link in found.links} == {"http://example.org/x/a", "http://example.org/x/b"}
    assert not found.robots
    assert read(page + INERT).robots == ["nofollow"]


def test_a_base_elsewhere_leaves_nothing_relative_to_fetch() -> None:
    found = read("<base href='ftp://h.example/'><a href=x>1</a><a href='http://h.example/y'>2</a>")
    assert [link.url for link in found.links] == ["http://h.example/y"]
    assert found.refused == {"syntax": 1}


def test_links_in_headers() -> None:
    headers = [
        (b"Link", b'<https://h.example/a>; rel="canonical", </b>;rel=next;title="a, <c>; rel=x", <d>'),
        (b"LINK", b"</style.css>; rel=preload; as=style"),
        (b"link", b"<//cdn.example>; rel=preconnect"),
        (b"link", "</\u00fc>; rel=next nofollow".encode()),
        (b"Refresh", b"3; url=/onward"),
        (b"Location", b"/never"),
    ]
    found = outlinks(b"<a href=/body>", PAGE, "application/pdf", None, headers, Options())
    assert [link.url for link in found.links] == [
        "https://h.example/a",
        "http://example.org/b",
        "http://example.org/%C3%BC",
        "http://example.org/onward",
    ]
    assert (found.charset, found.refused) == (None, {"resource": 2})
    assert list(link_header('<a>; rel="unended, <b>')) == [("a", "", "")]
    assert list(link_header('<a>; Type="text/html" ;REL=next, <b>;type=image/png')) == [
        ("a", "next", "text/html"),
        ("b", "", "image/png"),
    ]
    assert list(link_header("no link, <b>")) == []


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ('<a>; title="x, <c>; rel=icon"; rel=next', [("a", "next", "")]),
        ('<a>; x="; rel=next"; rel=license', [("a", "license", "")]),
        ('<a>; x="\\"; rel=next"; REL = "help up" ; Type="text/html"', [("a", "help up", "text/html")]),
        ("<a>; rel=next; rel=stylesheet;type=b/c", [("a", "next", "b/c")]),
        ("<a>;; xrel=next; rel*=next", [("a", "", "")]),
        ("<a>; rel; rel=next, <b>;rel=prev", [("a", "", ""), ("b", "prev", "")]),
    ],
)
def test_a_link_header_is_read_parameter_by_parameter(value: str, found: list[tuple[str, str, str]]) -> None:
    """RFC 8288, 3.3 and appendix B: what stands in quotes is no parameter, and of two of a name the first counts."""
    assert list(link_header(value)) == found


@pytest.mark.parametrize(
    ("value", "url"),
    [
        ("0;url=/x", "/x"),
        (" 5 ; URL = '/x' ;", "/x"),
        ('1.5,"/x y" z', "/x y"),
        ("3 /x", "/x"),
        (".5;/x", "/x"),
        ("0;url=/x?url=y", "/x?url=y"),
        ("0; url", "url"),
        ("5", None),
        ("5;", None),
        ("5; url=", None),
        ("x;url=/x", None),
        ("", None),
        ("5x;url=/y", None),
        ("\u0663;url=/x", None),
        ("0;url=\u00a0/x\u3000", "\u00a0/x\u3000"),
    ],
)
def test_refresh_values(value: str, url: str | None) -> None:
    assert refresh(value) == url


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("a", ["a"]),
        ("a 1x, b 2x", ["a", "b"]),
        ("a,b", ["a,b"]),
        ("a, b", ["a", "b"]),
        (" , a ,,b 100w,", ["a", "b"]),
        ("data:,x 1x, c", ["data:,x", "c"]),
        ("a (1,2) 1x, b", ["a", "b"]),
        ("a (1,2", ["a"]),
        ("", []),
        (",,", []),
    ],
)
def test_srcset_values(value: str, found: list[str]) -> None:
    assert list(srcset(value)) == found


@pytest.mark.parametrize(
    ("headers", "meta", "robots"),
    [
        (["noindex, nofollow"], "", ["nofollow", "noindex"]),
        (["none"], "", ["nofollow", "noindex"]),
        (["otherbot: nofollow"], "", []),
        (["OurBot: nofollow"], "", ["nofollow"]),
        (["otherbot: noindex, nofollow, ourbot: noarchive"], "", ["noarchive"]),
        (["otherbot: noindex", "nofollow"], "", ["nofollow"]),
        (["unavailable_after: 25 Jun 2010 15:00:00 PST, nofollow"], "", ["nofollow"]),
        (["unavailable_after: Friday, 25-Jun-10 15:00:00 GMT, nofollow"], "", ["nofollow"]),
        (["max-snippet: 5, noindex"], "", ["noindex"]),
        (["all"], "<meta name=robots content='index, follow'>", []),
        ([], "<META NAME=ROBOTS CONTENT='NOFOLLOW noindex'>", ["nofollow", "noindex"]),
        ([], "<meta name=robots content='noindex; nofollow'>", ["nofollow", "noindex"]),
        (["noindex;nofollow"], "", ["nofollow", "noindex"]),
        (["otherbot: noindex;nofollow"], "", []),
        ([], "<meta name=ourbot content=none>", ["nofollow", "noindex"]),
        ([], "<meta name=otherbot content=none>", []),
        (["noindex"], "<meta name=robots content=nofollow>", ["nofollow", "noindex"]),
    ],
)
def test_robots_directives(headers: list[str], meta: str, robots: list[str]) -> None:
    found = read(f"{meta}<a href=/x>", [(b"X-Robots-Tag", value.encode()) for value in headers])
    assert found.robots == robots
    assert [link.nofollow for link in found.links] == ["nofollow" in robots]


def test_without_a_name_of_ours_no_directive_is_addressed_to_us() -> None:
    assert robots_tag("otherbot: nofollow", "") == set()
    assert read("<meta content=nofollow><a href=/x>", agent="").robots == []


def test_of_two_references_to_one_page_the_one_to_follow_counts() -> None:
    for html in ("<a rel=nofollow href=x></a><a href=x></a>", "<a href=x></a><a rel=nofollow href=x></a>"):
        assert read(html).links == [Outlink("http://example.org/dir/x", "example.org")]


# ---- encodings


def encoding_cases() -> list[tuple[bytes, str]]:
    cases = []
    for path in sorted(corpus("html/encoding").glob("*.dat")):
        for case in (b"\n" + path.read_bytes()).split(b"\n#data\n")[1:]:
            body, _, encoding = case.partition(b"\n#encoding\n")
            cases.append((body, encoding.split(b"\n")[0].strip().decode().lower()))
    return cases


def test_every_case_of_html_encoding_sniffing() -> None:
    """82 cases without an exception. (The one of scripted/ wants document.write: scripts are not run.)"""
    cases = encoding_cases()
    assert len(cases) == 82
    for body, encoding in cases:
        assert (read(body).charset or "").lower() == encoding, body


def test_what_nobody_declares_is_detected() -> None:
    assert read((corpus("html/encoding") / "chardet/test_big5.txt").read_bytes()).charset == "Big5"


@pytest.mark.parametrize(
    ("body", "charset", "encoding", "path"),
    [
        (b"\xef\xbb\xbf<meta charset=koi8-r><a href=\xc3\xa9>", "windows-1251", "UTF-8", "%C3%A9"),
        (b"<meta charset=koi8-r><a href=\xc3\xa9>", "UTF8", "UTF-8", "%C3%A9"),
        (b"<meta charset=koi8-r><a href=\xe9>", None, "KOI8-R", "%D0%98"),
        (b"<meta charset=koi8-r><a href=\xe9>", "no-such-charset", "KOI8-R", "%D0%98"),
        (b"<a href=\xc3\xa9>", None, "UTF-8", "%C3%A9"),
        (b"<a href=\xe9>", "latin1", "windows-1252", "%C3%A9"),
        ("<a href=\u20ac>".encode("utf-16-be"), "utf-16be", "UTF-16BE", "%E2%82%AC"),
        (b"<a href=x>", "iso-2022-kr", "replacement", None),
        (b"<?xml version='1.0' encoding='koi8-r'?><a href=\xe9>", None, "KOI8-R", "%D0%98"),
        (b"<?xml version='1.0' encoding='koi8-r'?><a href=\xe9>", "latin1", "windows-1252", "%C3%A9"),
        (b"<?xml version='1.0' encoding='koi8-r'?><a href=\xe9>", "no-such-charset", "KOI8-R", "%D0%98"),
        (b"<?xml version='1.0' encoding='koi8-r'?><meta charset=latin1><a href=\xe9>", None, "windows-1252", "%C3%A9"),
        (b"<?xml version='1.0' encoding='no-such'?><a href=\xc3\xa9>", "nor-such", "UTF-8", "%C3%A9"),
        (b"<?xml version='1.0' encoding='utf-16'?><a href=\xc3\xa9>", None, "UTF-8", "%C3%A9"),
        ("<?xml version='1.0'?><a href=\xe9>".encode("utf-16-le"), None, "UTF-16LE", "%C3%A9"),
        ("<?xml version='1.0' encoding='koi8-r'?><a href=\xe9>".encode("utf-16-be"), "none", "UTF-16BE", "%C3%A9"),
    ],
)
def test_bom_over_header_over_meta(body: bytes, charset: str | None, encoding: str, path: str | None) -> None:
    found = read(body, charset=charset)
    assert found.charset == encoding
    assert [link.url for link in found.links] == ([] if path is None else ["http://example.org/dir/" + path])


@pytest.mark.parametrize(
    ("charset", "href", "url"),
    [
        ("utf-8", "ü?ü#ü", "%C3%BC?%C3%BC"),
        ("utf-16le", "ü?ü", "%C3%BC?%C3%BC"),
        ("windows-1252", "ü?q=ü&x='%20 y#ü", "%C3%BC?q=%FC&x=%27%20%20y"),
        ("windows-1251", "?\u20ac\u00fc", "?%88%26%23252%3B"),
        ("shift_jis", "?\u8868", "?%95\\"),
        ("gbk", "?\u4f60", "?%C4%E3"),
        ("big5", "?\u4f60", "?%A7A"),
        ("big5", "?\uff5e\u2027\u20ac\u5305\u5341", "?%A1%E3%A1E%A3%E1%A5]%A4Q"),
        ("big5", "?\u2022\u00e9", "?%26%238226%3B%26%23233%3B"),
        ("euc-kr", "?\ud55c", "?%C7%D1"),
        ("iso-8859-8-i", "?\u05d0", "?%E0"),
        ("iso-2022-jp", "?\u3042", '?%1B$B$"%1B(B'),
        ("windows-1252", "?ü #ü", "?%FC%20"),
        ("windows-1252", "?\x81ü", "?%81%FC"),
        ("koi8-u", "?\u045e", "?%AE"),
        ("x-user-defined", "?\uf780\uf7ff\u00e9", "?%80%FF%26%23233%3B"),
        ("gbk", "?\u20ac\ue78d\ue864\ue5e5", "?%80%A6%D9%FE%A0%26%2358853%3B"),
        ("euc-jp", "?\uff5e\uff0d\u2460\u9ad9\u3042\uff76", "?%A1%C1%A1%DD%AD%A1%FC%E2%A4%A2%8E%B6"),
        ("euc-jp", "?\u00e9", "?%26%23233%3B"),
        ("euc-jp", "?\u2212\u00a5\u203e", "?%A1%DD\\~"),
        ("shift_jis", "?\u2212\u00a5\u203e\u00a2\ue000\uff76", "?%81|\\~%26%23162%3B%26%2357344%3B%B6"),
        ("shift_jis", "?\u9ad9\u2170\uffe2", "?%FB%FC%FA@%81%CA"),
        ("iso-2022-jp", "?a\u203eb\\\u2460\uff5e\uff76\uff9ec", "?a%1B(J~b%1B(B\\%1B$B-!!A%+!+%1B(Bc"),
        ("iso-2022-jp", "?\u3042\u00e9\u000e", '?%1B$B$"%1B(B%26%23233%3B%26%2365533%3B'),
        ("gb18030", "?\u20ac\ufe10\ue5e5\ue7c7\U0001f600", "?%A2%E3%A6%D9%26%2358853%3B%815%F47%949%FC6"),
    ],
)
def test_queries_are_sent_in_the_encoding_of_the_page(charset: str, href: str, url: str) -> None:
    """As browsers do (URL, query state): a server of a legacy site decodes nothing else."""
    escaped = href.encode("ascii", "xmlcharrefreplace").decode()
    body = f'<a href="{escaped}">'.encode("utf-16-le" if charset == "utf-16le" else "ascii")
    wanted = parse("http://example.org/dir/page" + url if url[0] == "?" else "http://example.org/dir/" + url).href
    assert [link.url for link in read(body, charset=charset).links] == [wanted]


@given(text=st.text(), charset=st.sampled_from(["windows-1252", "shift_jis", "gb18030", "iso-2022-jp", "x-user-defined", "big5"]))
@settings(max_examples=300, deadline=None)
def test_reencoding_never_fails_and_touches_only_queries(text: str, charset: str) -> None:
    codec = query_codec(charset)
    assert codec is not None
    text = text.encode("utf-8", "replace").decode()
    again = reencoded("path?" + text, codec)
    assert again.startswith("path?")
    assert again.partition("#")[0].isascii()
    assert reencoded(text.replace("?", ""), codec) == text.replace("?", "")


# ---- bounds


def test_more_links_than_are_taken_are_counted() -> None:
    found = read("".join(f"<a href=/{i}>" for i in range(1000)), max_outlinks=100)
    assert (len(found.links), found.refused) == (100, {"outlinks": 900})
    assert read("<a href=/1><a href=/1><a href=/2>", max_outlinks=2).refused == {}
    none = read("<a href=/1><a href=/2>", max_outlinks=0)
    assert (none.links, none.refused) == ([], {"outlinks": 2})


def test_a_long_base_does_not_make_a_huge_answer() -> None:
    body = b"<base href='/" + b"b" * 2000 + b"/'>" + b"".join(b"<a href=%d>" % i for i in range(10_000))
    found = read(body)
    free = max(OUTLINKS_BYTES_FREE, OUTLINKS_BYTES_FACTOR * len(body))
    assert free - 2083 < sum(len(link.url) for link in found.links) <= free + 2083 <= OUTLINKS_BYTES_MAX
    assert len(found.links) + found.refused["outlinks"] == 10_000
    assert len(msgspec.msgpack.encode(found)) < 8 << 20


def test_the_crawls_url_rules_hold_for_links() -> None:
    html = f"<a href='/x?b=1&utm_source=y&a=2'><a href=/{'y' * 50}>"
    found = read(html, rules=UrlRules(max_bytes=60, drop_params=("utm_*",), sort_query=True))
    assert [link.url for link in found.links] == ["http://example.org/x?a=2&b=1"]
    assert found.refused == {"url_length": 1}


HOSTILE = {
    "depth": b"<div>" * 200_000,
    "formatting": b"<a><b>" * 170_000,
    "unique formatting": b"".join(b"<font c=%d>" % i for i in range(80_000)),
    "options": b"<select>" + b"<option>" * 130_000,
    "unique attributes": b"<a " + b" ".join(b"a%d=1" % i for i in range(100_000)) + b">",
    "attribute without end": b'<a href="' + b"x" * 1_000_000,
    "long reference": b'<a href="' + b"x" * 1_000_000 + b'">',
    "tables": b"<table><a href=x>y" * 60_000,
    "entities": b"<a href='" + b"&notit;" * 140_000 + b"'>",
    "srcset": b"<img srcset='x" + b"," * 1_000_000 + b"'>",
    "srcset parentheses": b"<img srcset='x " + b"(" * 1_000_000 + b"'>",
    "refresh": b"<meta http-equiv=refresh content='1" + b" ." * 500_000 + b"'>",
    "rel": b"<a href=/x rel='" + b"x " * 500_000 + b"'>",
    "type": b"<link rel=next href=/x type='" + b" " * 1_000_000 + b"'>",
    "bad schemes": b"<a href=a:>" * 90_000,
    "nothing but angles": b"<" * 1_000_000,
    "zeros": b"\0" * 1_000_000,
    "high bytes": b"\xff" * 1_000_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pages_are_read_to_their_end(name: str) -> None:
    """A megabyte each; what would be quadratic in it runs into the test's own time limit."""
    found = read(HOSTILE[name])
    assert len(found.links) <= 2
    requisites(HOSTILE[name], PAGE, "text/html", None, (), Options())


@pytest.mark.parametrize(
    "value",
    [
        *(b"<" * 32_000, b"<a>;" * 8_000, b'<a>;x="' + b"\\" * 32_000, b"<a>" + b",;" * 16_000, b'""' * 16_000),
        b'<a>; rel=next; type="' + b" " * 32_000 + b'"',
    ],
)
@pytest.mark.parametrize("name", [b"Link", b"Refresh", b"X-Robots-Tag"])
def test_hostile_headers_are_read_to_their_end(name: bytes, value: bytes) -> None:
    read(b"", [(name, value)])


@settings(max_examples=400, deadline=None)
@given(
    body=st.one_of(
        st.binary(max_size=200),
        st.lists(
            st.sampled_from(
                ["<a href=", "<base href=", "<link rel=", "<img srcset=", "<meta http-equiv=refresh content=", *"'\"> /?#&;,x5é"]
            )
        ).map(lambda parts: "".join(parts).encode()),
    ),
    charset=st.sampled_from([None, "utf-8", "gbk", "utf-16", "nonsense"]),
    headers=st.lists(st.tuples(st.sampled_from([b"link", b"refresh", b"x-robots-tag"]), st.binary(max_size=60)), max_size=3),
)
def test_no_page_raises(body: bytes, charset: str | None, headers: Headers) -> None:
    read(body, headers, charset)
    requisites(body, PAGE, "text/html", charset, headers, Options())
