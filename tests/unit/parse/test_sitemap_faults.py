"""Faults in sitemaps: every entry that is not damaged itself is read, before the fault and behind it, and the fault is named.

A catalogue (fault × place × format × encoding × packing) and the same at random; what a library alone makes of it stands in
``crawler.parse.sitemap_repair``.
"""

from __future__ import annotations

import asyncio
import gzip
import re
from xml.etree import ElementTree

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.sitemaps import (
    BYTE_FAULTS,
    ENCODINGS,
    FORMATS,
    HTML_BEFORE,
    PACKINGS,
    PLACES,
    TEXT_BEFORE,
    TEXT_FAULTS,
    URL,
    Read,
    around,
    document,
    entry_of,
    take,
    urls_of,
)

from crawler.config.sections import ParseConfig
from crawler.parse.pool import open_parser
from crawler.parse.sitemap import PART_BYTES
from crawler.parse.sitemap_formats import ENTRY_BYTES_MAX, part
from crawler.parse.sitemap_part import PART_REPLY_BYTES_MAX, How, Part, SitemapState
from crawler.parse.sitemap_repair import REPAIRS_MAX, REPAIRS_PER_CALL_MAX

XML = [form for form in FORMATS if form != "text"]
COUNT = 5
MARK = "\ue000"
"""Where the bytes of a fault are put, once the rest is encoded."""


def broken(form: str, declared: str, fault: str | bytes, place: str, at: int, count: int = COUNT) -> tuple[bytes, list[str]]:
    """A document with a fault, and the URLs of the entries that are not damaged."""
    codec, letters = ENCODINGS[declared]
    text = MARK if isinstance(fault, bytes) else fault
    urls, entries = urls_of(count), []
    for n, url in enumerate(urls):
        here = n == at
        entry = entry_of(form, url + text * (here and place == "url"), letters + text * (here and place == "beside"))
        entries.append(text * (here and place == "between") + entry)
    if place == "first":
        entries.insert(0, text)
    elif place == "last":
        entries.append(text)
    whole = document(form, declared, entries)
    damaged = urls[at] if place in ("url", "beside") else None
    if not isinstance(fault, bytes):
        return whole.encode(codec, "ignore"), [url for url in urls if url != damaged]
    before, _, behind = whole.partition(MARK)
    return before.encode(codec) + fault + behind.encode(codec), [url for url in urls if url != damaged]


def check(read: Read, body: bytes, undamaged: list[str], total: int) -> None:
    assert [url for url in read.urls if url in undamaged] == undamaged, (body, read.urls, read.faults)
    assert read.faults, body
    assert all(words or name == "gzip_cut" for name, words in read.faults.items()), read.faults
    assert len(read.urls) <= total + 1


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("form", XML)
@pytest.mark.parametrize("name", TEXT_FAULTS)
def test_a_fault_damages_its_own_entry_at_most(name: str, form: str, place: str) -> None:
    for at in (0, 2, COUNT - 1):
        body, undamaged = broken(form, "utf-8", TEXT_FAULTS[name], place, at)
        for pack in PACKINGS.values():
            read = take(pack(body))
            try:
                ElementTree.fromstring(body)
            except ElementTree.ParseError:
                check(read, body, undamaged, COUNT)
            else:  # it is no fault there: "]]>" in an attribute
                assert set(undamaged) <= set(read.urls)


@pytest.mark.parametrize("declared", ENCODINGS)
@pytest.mark.parametrize("form", XML)
def test_every_encoding_is_read_and_read_on_after_a_fault(form: str, declared: str) -> None:
    codec, letters = ENCODINGS[declared]
    urls = [*urls_of(3), "http://a.example/" + letters.replace(" ", "")]
    body = document(form, declared, [entry_of(form, url, letters) for url in urls]).encode(codec)
    read = take(body)
    assert (len(read.urls), read.faults) == (4, {})
    assert read.urls[:3] == urls[:3]
    reference = take(document(form, "utf-8", [entry_of(form, url) for url in urls]).encode())
    assert read.urls == reference.urls
    for name, fault in TEXT_FAULTS.items():
        body, undamaged = broken(form, declared, fault, "url", 1)
        read = take(body)
        assert [url for url in read.urls if url in undamaged] == undamaged, (name, read.urls)


@pytest.mark.parametrize("place", ["url", "beside", "between"])
@pytest.mark.parametrize("declared", ["utf-8", "UTF-8", "Shift_JIS", "euc-jp", "gb2312", "GBK", "gb18030", "big5", "euc-kr"])
@pytest.mark.parametrize("name", BYTE_FAULTS)
def test_bytes_that_are_not_of_the_encoding(name: str, declared: str, place: str) -> None:
    """In none of these encodings are they characters, or they are harmless ones."""
    for form in XML:
        body, undamaged = broken(form, declared, BYTE_FAULTS[name], place, 2)
        read = take(body)
        assert [url for url in read.urls if url in undamaged] == undamaged, (body, read.urls)
        try:
            body.decode({"gb2312": "gb18030", "GBK": "gb18030"}.get(declared, ENCODINGS[declared][0]))
        except UnicodeDecodeError:
            assert "encoding" in read.faults


def test_a_wrong_byte_in_a_url_is_sent_as_it_is() -> None:
    body = b"<urlset><url><loc>http://a.example/caf\xe9?x=\xe9&amp;y</loc></url></urlset>"
    read = take(body)
    assert read.urls == ["http://a.example/caf%E9?x=%E9&y"]
    assert read.faults == {"encoding": "line 1: byte 0xE9 is not UTF-8"}


@pytest.mark.parametrize("declared", ["utf-8", "utf-16", "Shift_JIS", "GBK"])
@pytest.mark.parametrize("before", [TEXT_BEFORE, HTML_BEFORE, " \n", "\ufeff\n", "\0", "x", "<!-- generated -->\n", "&", "</p>"])
@pytest.mark.parametrize("form", XML)
def test_text_before_the_declaration(form: str, before: str, declared: str) -> None:
    codec, letters = ENCODINGS[declared]
    urls = urls_of(4)
    body = (before + document(form, declared, [entry_of(form, url, letters) for url in urls])).encode(codec, "ignore")
    for size in (1024, 1 << 20):
        read = take(body, size)
        assert read.urls == urls
        assert bool(read.faults) == bool(before.strip("\ufeff \n\0")), read.faults


@pytest.mark.parametrize("form", XML)
def test_what_follows_the_root(form: str) -> None:
    whole = document(form, "utf-8", [entry_of(form, url) for url in urls_of(3)])
    more = document(form, "utf-8", [entry_of(form, url + "?2") for url in urls_of(3)])
    for behind in ("\n<!-- made by x -->", ""):
        assert take((whole + behind).encode()).faults == {}
    for behind in ("<script>1</script>", "x", "&nbsp;", "\0", "</html>"):
        read = take((whole + behind).encode())
        assert (read.urls, list(read.faults)) == (urls_of(3), ["xml"])
    read = take((whole + more).encode())
    assert (read.urls, list(read.faults)) == ([*urls_of(3), *(url + "?2" for url in urls_of(3))], ["xml"])


@pytest.mark.parametrize("form", XML)
def test_a_root_that_is_damaged(form: str) -> None:
    head, end = around(form, "utf-8")
    entries = "".join(entry_of(form, url) for url in urls_of(3))
    start = head.index("\n") + 1
    found = re.search(r"[ >]", head[start:])
    assert found is not None
    name_end = start + found.start()
    for root in (
        head[:name_end] + " a=b&c" + head[name_end:],  # an attribute without quotes
        head[:name_end] + ' x="<' + head[name_end:],
        head[:name_end] + " \x0b" + head[name_end:],
        head[: start + 3] + "\x0b" + head[start + 3 :],  # its name
        head[:start],  # all of it
    ):
        read = take((root + entries + end).encode())
        assert (read.urls, bool(read.faults)) == (urls_of(3), True), root


@pytest.mark.parametrize("comment", ["<rss> of old", '<feed xml:base="/no/">', "<urlset> <url>", "<entry >"])
def test_what_stands_in_a_comment_is_no_root(comment: str) -> None:
    """Nor an entry. Of a document that had to be repaired as well nothing was read then, or what its links are relative to."""
    for fault in (b"", b"<title>caf\xe9</title>", b"<title>a & b</title>"):
        feed = b'<feed xmlns="http://www.w3.org/2005/Atom" xml:base="/blog/">%b<entry><link href="one"/></entry></feed>' % fault
        read = take(b'<?xml version="1.0"?><!-- %b -->' % comment.encode() + feed)
        assert (read.urls, bool(read.faults)) == (["http://a.example/blog/one"], bool(fault)), fault


def test_entries_that_stand_before_the_root() -> None:
    entries = "".join(f"<url><loc>{url}</loc></url>" for url in urls_of(4))
    body = f"/lost</loc></url>{entries[: len(entries) // 2]}<urlset>{entries[len(entries) // 2 :]}</urlset>"
    assert {*take(body.encode()).urls} >= {*urls_of(4)}


def test_a_well_formed_document_of_something_else_is_no_sitemap_whatever_stands_in_it() -> None:
    for body in (
        b"<opml><url><loc>http://a.example/</loc></url></opml>",
        b"<!DOCTYPE html><title>x</title><urlset><url><loc>http://a.example/</loc></url></urlset>",
        b"\n<HTML><body>http://a.example/\n<rss></rss>",
        b"<!-- x -->\n<!doctype html SYSTEM 'about:legacy-compat'>\nhttp://a.example/\n",
        b"<p>one</p>\n<p>two</p>\nhttp://a.example/\n<p>three",
    ):
        read = take(body)
        assert (read.urls, list(read.faults)) == ([], ["not_a_sitemap"])


def test_a_list_behind_a_warning() -> None:
    for before, urls in ((HTML_BEFORE, urls_of(5)), (TEXT_BEFORE, urls_of(1))):
        read = take((before + "\n".join(urls)).encode())
        assert (read.urls, read.kind) == (urls, "text")
        assert read.refused == {"syntax": 1 + (before is HTML_BEFORE)}


def test_comments_and_cdata_are_what_they_are_beside_a_fault() -> None:
    body = """<urlset><url><loc>http://a.example/?x&y</loc></url>
        <!-- <url><loc>http://a.example/old</loc></url> -->
        <url><loc><![CDATA[http://a.example/?a=1&b=<c>]]></loc><t><![CDATA[<url><loc>http://a.example/quoted</loc></url>]]></t></url>
        <url><t>&nbsp;</t><loc><![CDATA[http://a.example/?a=1&b=2&amp;c]]></loc></url></urlset>"""
    read = take(body.encode())
    assert read.urls == [
        "http://a.example/?x&y",
        "http://a.example/?a=1&b=%3Cc%3E",
        "http://a.example/?a=1&b=2&amp;c",
    ]


@pytest.mark.parametrize(
    ("entry", "urls"),
    [
        ("<url><loc>http://a.example/?a=1&b=2&amp;c=3&copy=4&lt=5</loc></url>", ["?a=1&b=2&c=3&copy=4&lt=5"]),
        ("<url><loc>http://a.example/caf&eacute;</loc></url>", ["caf%C3%A9"]),
        ("<url><loc>http://a.example/?a&nobody;b</loc></url>", ["?a&nobody;b"]),
        ("<url><loc>http://a.example/1</url>", ["1"]),
        ("<url><loc>http://a.example/1<lastmod>x</lastmod></url>", ["1"]),
        ("<url><loc>http://a.example/1</lco></url>", ["1"]),
        ("<url><loc>http://a.example/<b</loc></url>", []),
        ("<url><loc>http://a.example/1<b>2</loc></url>", []),
        ("<url><loc>http://a.exam", []),
        ("<url><loc><![CDATA[http://a.example/1</loc></url>", ["1"]),
        ("<url><loc>http://a.example/1]]></loc></url>", ["1"]),
        ("<url a='><loc>http://a.example/1</loc></url>", ["1"]),
        ("<url><image:loc>http://a.example/i<b></image:loc><loc>http://a.example/1</loc></url>", ["1"]),
        ("<url><loc>http://a.example/1</loc><loc>http://a.example/2&</loc></url>", ["1", "2&"]),
    ],
)
def test_what_is_read_of_a_damaged_entry(entry: str, urls: list[str]) -> None:
    """As much as is plain; never a URL that may have been cut."""
    read = take(f"<urlset>&nbsp;{entry}".encode())
    assert [url.removeprefix("http://a.example/") for url in read.urls] == urls


@pytest.mark.parametrize(
    ("entry", "urls"),
    [
        ('<entry><link href="http://a.example/?x&y&copy=1"/></entry>', ["?x&y&copy=1"]),
        ('<entry><link rel="self" href="/s"/><link rel=alternate href=http://a.example/1></entry>', ["1"]),
        ("<entry><title>x</titel><link href='http://a.example/1'/></entry>", ["1"]),
    ],
)
def test_what_is_read_of_a_damaged_atom_entry(entry: str, urls: list[str]) -> None:
    read = take(f"<feed>{entry}<entry><link href='/2'/></entry></feed>".encode())
    assert [url.removeprefix("http://a.example/") for url in read.urls] == [*urls, "2"]


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_at_random(data: st.DataObject) -> None:
    """Any fault anywhere in a document of any format, encoding, packing and length, read in parts of any size."""
    form, declared = data.draw(st.sampled_from(XML)), data.draw(st.sampled_from(list(ENCODINGS)))
    name = data.draw(st.sampled_from(list(TEXT_FAULTS)))
    place, count = data.draw(st.sampled_from(PLACES)), data.draw(st.integers(1, 30))
    body, undamaged = broken(form, declared, TEXT_FAULTS[name], place, data.draw(st.integers(0, count - 1)), count)
    body = data.draw(st.sampled_from(list(PACKINGS.values())))(body)
    read = take(body, data.draw(st.sampled_from([333, 1024, 1500, 4096, 1 << 20])), first=1024)
    assert [url for url in read.urls if url in undamaged] == undamaged


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_bytes_anywhere(data: st.DataObject) -> None:
    """Between two entries, any bytes but those that begin an entry, an aside or a document type leave the entries readable."""
    noise = data.draw(st.binary(max_size=40))
    form = data.draw(st.sampled_from(XML))
    urls = urls_of(6)
    head, end = around(form, "utf-8")
    entries = [entry_of(form, url).encode() for url in urls]
    body = head.encode() + b"".join(entries[:3]) + noise + b"".join(entries[3:]) + end.encode()
    read = take(body)
    if not any(mark in noise for mark in (b"<!", b"<u", b"<s", b"<i", b"<e")) and noise[-1:] not in (b"<", b"!"):
        assert [url for url in read.urls if url in urls] == urls, (noise, read.urls)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(FORMATS), st.sampled_from(list(ENCODINGS)), st.integers(0, 60), st.sampled_from([300, 1024, 5000]))
def test_the_size_of_the_parts_does_not_matter(form: str, declared: str, count: int, size: int) -> None:
    codec, letters = ENCODINGS[declared]
    body = document(form, declared, [entry_of(form, url, letters) for url in urls_of(count)]).encode(codec)
    whole, parts = take(body), take(body, size, first=1024)
    assert (whole.urls, whole.kind, whole.encoding) == (parts.urls, parts.kind, parts.encoding)
    assert (whole.faults, parts.faults) == (({}, {}) if count or form != "text" else (whole.faults, whole.faults))
    assert whole.urls == urls_of(count)


def test_a_fault_in_each_of_as_many_entries_as_may_be() -> None:
    for entry in ("<url><loc>http://a.example/%d?a&b</loc></url>", "<url><loc>http://a.example/%d</loc></x></url>"):
        body = "<urlset>" + "".join(entry % n for n in range(20_000)) + "</urlset>"
        read = take(body.encode())
        assert len(read.urls) == 20_000
        assert len(read.answers) <= len(body) // PART_BYTES + 20_000 // REPAIRS_PER_CALL_MAX + 3


UNENDED = ("<!--", "<![CDATA[", "<!--<![CDATA[", "<url", "<url a='", "<", '="', "<loc>", "<url><loc>", "<url><loc>&<!--")
UNENDED += ("<url><![CDATA[", "<url><?x ")


@pytest.mark.parametrize("mark", [*UNENDED, "</url>", "&", "&a;", "]]>", "<url></url>&"])
def test_what_never_ends_is_read_in_linear_time(mark: str) -> None:
    """Were it quadratic, this would not end."""
    read = take(("<urlset>" + entry_of("urlset", URL) + mark * ((300 << 10) // len(mark))).encode())
    assert (read.urls, bool(read.faults)) == ([URL], True)
    assert len(read.answers) <= 3 + REPAIRS_MAX // REPAIRS_PER_CALL_MAX + 1


def state_of(answer: Part) -> SitemapState:
    return msgspec.msgpack.decode(answer.state, type=SitemapState)


def test_no_call_reads_what_never_ends_over_and_over() -> None:
    """Each entry is read to the end of the part: a call repairs fewer of them, by as much as that is. 300 KiB of these took 20
    seconds of a parser's time."""
    entry, count = b"<url><?x ", 512 << 7
    body = b"<urlset>&" + entry * count
    answer = part(body, b"", "whole", How(URL))
    assert answer.more
    repaired = count - len(state_of(answer).rest) // len(entry)
    assert 0 < repaired * len(body) < 64 << 20


def test_sections_that_never_end_cost_no_repair_where_all_else_is_well() -> None:
    entries = "".join(f"<url><loc><![CDATA[http://a.example/{n}</loc></url>" for n in range(1_000))
    answer = part(f"<urlset>{entries}".encode(), b"", "whole", How(URL))
    assert answer.entries == [f"http://a.example/{n}" for n in range(1_000)]
    assert state_of(answer).repairs == 0


def test_escape_sequences_that_are_none_damage_only_their_entry() -> None:
    """Where a part ends within them, they are more than CPython's decoder holds."""
    first, last = (entry_of("urlset", url).encode() for url in urls_of(2))
    how = How(URL, "iso-2022-jp")
    begun = part(b"<urlset>" + first + b"<url><loc>http://a.example/\x1b$\n\x1b\x89\x1b$$\x1b$\x1b$$\x1b", b"", "", how)
    ended = part(b"</loc></url>" + last + b"</urlset>", begun.state, "whole", how)
    assert {*urls_of(2)} <= {*begun.entries, *ended.entries} and begun.faults.keys() | ended.faults.keys() >= {"encoding"}


def test_document_types_that_never_end_are_read_within_the_time_that_a_document_has() -> None:
    body = b"<!DOCTYPE" * 28_000 + document("urlset", "utf-8", [entry_of("urlset", URL)]).encode()

    async def read() -> object:
        function = "crawler.parse.sitemap_formats:part"
        async with open_parser(ParseConfig(), parsers=1, preload=function) as parser:
            return await parser.call(function, body, b"", "whole", How(URL), result=Part)

    found = asyncio.run(read())
    assert isinstance(found, Part) and found.entries == [URL] and found.faults.keys() == {"xml"}


def test_an_entry_longer_than_any_is_passed_over() -> None:
    long = f"<url><loc>http://a.example/long</loc><t>{'x' * (ENTRY_BYTES_MAX + 600_000)}</t></url>"
    entries = [entry_of("urlset", url) for url in urls_of(4)]
    read = take(document("urlset", "utf-8", [*entries[:2], long, *entries[2:]]).encode())
    assert [url for url in read.urls if "long" not in url] == urls_of(4)
    assert "entry_too_long" in read.faults


def test_no_answer_is_longer_than_it_may_be_and_none_is_lost() -> None:
    base = "http://a.example/" + "b" * 1900 + "/s.xml"
    for mark in ("", "&"):
        body = b"<feed>" + b"".join(b"<entry><link href='%d'/></entry>" % n for n in range(9_000)) + mark.encode() + b"</feed>"
        read = take(body, url=base)
        assert len(read.urls) == len(set(read.urls)) == 9_000
        assert max(read.answers) < PART_REPLY_BYTES_MAX + 2083
        assert bool(read.faults) == bool(mark)
    read = take(b"\n".join(b"http://a.example/%b%d" % (b"x" * 2000, n) for n in range(1_000)))
    assert (len(read.urls), max(read.answers) < PART_REPLY_BYTES_MAX + 2083) == (1_000, True)


@pytest.mark.parametrize("form", FORMATS)
def test_a_part_that_ends_its_process_loses_no_other(form: str) -> None:
    urls = urls_of(400)
    body = document(form, "utf-8", [entry_of(form, url) for url in urls]).encode()
    parts = len(body) // 4096 + 1
    for number in (0, 1, parts - 2):
        read = take(body, 4096, lost=lambda n, number=number: n == number)
        lost = [url for url in urls if url not in read.urls]
        assert 0 < len("".join(lost)) < 3 * 4096
        assert len(read.urls) - len(set(read.urls) & set(urls)) <= 2


def test_gzip_that_is_cut_or_corrupt_is_read_up_to_there() -> None:
    urls = urls_of(3000)
    whole = gzip.compress(document("urlset", "utf-8", [entry_of("urlset", url) for url in urls]).encode())
    for body, fault in (
        (whole[: len(whole) // 2], "gzip_cut"),
        (whole[:-4], "gzip_cut"),
        (whole[:-8] + b"\0" * 8, "gzip"),
        (whole[: len(whole) // 2] + b"\xff" * 50 + whole[len(whole) // 2 :], "gzip"),
    ):
        read = take(body)
        assert fault in read.faults
        assert "xml" not in read.faults or fault == "gzip"  # what is damaged may come out before it is noticed
        assert read.urls[:1300] == urls[:1300]


def test_a_list_that_is_cut_loses_its_last_line_only() -> None:
    body = gzip.compress("\n".join(urls_of(2000)).encode())
    read = take(body[:-9])
    assert read.urls == urls_of(len(read.urls)) and len(read.urls) > 1900


def test_entities_are_never_expanded_and_a_subset_ends_it() -> None:
    subset = '<!DOCTYPE urlset [<!ENTITY a "http://b.example/"><!ENTITY x SYSTEM "file:///etc/passwd">]>'
    entries = "<url><loc>&a;</loc></url><url><loc>http://a.example/&x;</loc></url>"
    for before in ("", "Warning\n", "<br/>", "<!-- x -->"):
        read = take(f"{before}<?xml version='1.0'?>{subset}<urlset>{entries}</urlset>".encode())
        assert (read.urls, "doctype" in read.faults) == ([], True)


def test_relative_urls_belong_to_the_sitemap() -> None:
    assert take(b"<urlset><url><loc>/x</loc></url></urlset>", url=URL).urls == ["http://a.example/x"]
