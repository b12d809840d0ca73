"""Sitemaps: every form, every cap, and hostile files that end with what was read and a named fault."""

import gzip
import subprocess
import sys
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.sitemaps import take

from crawler.parse import sitemap_formats, sitemap_part
from crawler.parse.sitemap import PART_BYTES, Unpacked
from crawler.parse.sitemap_formats import ENTRY_BYTES_MAX

XMLNS = b'xmlns="http://www.sitemaps.org/schemas/sitemap/0.9"'
URLSET = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<urlset '
    + XMLNS
    + b' xmlns:image="http://www.google.com/schemas/sitemap-image/1.1">'
    b"<url><loc> https://a.example/?x=1&amp;y=2 </loc><lastmod>2024-01-01</lastmod>"
    b"<image:image><image:loc>https://a.example/i.png</image:loc></image:image></url>"
    b"<url><loc><![CDATA[https://a.example/b]]></loc></url><url><loc>https://a.example/\xc3\xa9</loc></url></urlset>"
)
URLS = ["https://a.example/?x=1&y=2", "https://a.example/b", "https://a.example/%C3%A9"]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, PART_BYTES])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_urlset(size, pack):
    read = take(pack(URLSET), size)
    assert (read.urls, read.kind, read.encoding, read.faults) == (URLS, "urlset", "UTF-8", {})


def test_index():
    read = take(b"<sitemapindex " + XMLNS + b"><sitemap><loc>https://a.example/1.xml.gz</loc></sitemap></sitemapindex>")
    assert (read.urls, read.kind, read.faults) == (["https://a.example/1.xml.gz"], "index", {})


def test_rss_and_rdf():
    rss = b"""<rss version="2.0" xmlns:atom="http://www.w3.org/2005/Atom"><channel><link>https://a.example/</link>
        <atom:link href="https://a.example/feed"/><item><title>t</title><link>https://a.example/1</link></item>
        <item><source><guid>https://a.example/2</guid></source></item></channel></rss>"""
    assert take(rss).urls == ["https://a.example/1"]
    rdf = b"""<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns="http://purl.org/rss/1.0/">
        <channel><link>https://a.example/</link></channel><item><link>https://a.example/1</link></item></rdf:RDF>"""
    read = take(rdf)
    assert (read.urls, read.kind, read.faults) == (["https://a.example/1"], "rss", {})


@pytest.mark.parametrize("fault", ["", "<title>a & b</title>"])
@pytest.mark.parametrize(
    ("item", "path"),
    [
        ("<guid>https://a.example/p</guid>", "p"),
        ('<guid isPermaLink="true"><![CDATA[ https://a.example/p?a&b ]]></guid>', "p?a&b"),
        ('<guid isPermaLink="false">https://a.example/p</guid>', None),
        ('<guid isPermalink=" False ">https://a.example/p</guid>', None),
        ("<guid>tag:a.example,2024:1</guid>", None),
        ("<link/><guid>https://a.example/p</guid>", "p"),
        ("<guid>https://a.example/p</guid><link>https://a.example/l</link>", "l"),
        ("<link>https://a.example/l</link><guid>https://a.example/p</guid>", "l"),
    ],
)
def test_an_item_without_a_link_is_at_its_guid(item, path, fault):
    """RSS 2.0: a guid is a URL that can be opened unless isPermaLink says "false"; and an item need not have a link."""
    rss = (
        f'<rss version="2.0"><channel><item>{fault}{item}</item><item><link>https://a.example/last</link></item></channel></rss>'
    )
    assert take(rss.encode()).urls == [f"https://a.example/{end}" for end in (path, "last") if end]


@pytest.mark.parametrize("size", [7, 1 << 20])
@pytest.mark.parametrize("fault", ["", "<title>a & b</title>", "<title>caf\udce9</title>"])
@pytest.mark.parametrize("before", ["", '<?xml version="1.0"?>\n', "Warning: headers already sent\n"])
def test_atom_says_what_its_links_are_relative_to(size, fault, before):
    """RFC 4287 2: any element may have an xml:base, which is resolved against that of the element around it."""
    atom = f"""{before}<feed xmlns="http://www.w3.org/2005/Atom" xml:base="/blog/">{fault}<link href="/"/>
        <entry><link href="one"/></entry><entry xml:base="2024/"><link href="two"/><link xml:base="b/" href="three"/></entry>
        <entry><link href="/four"/></entry><entry xml:base="http://[bad"><link href="five"/></entry>
        <entry xml:base="https://b.example/x/"><link href="https://a.example/six"/></entry></feed>""".encode(
        errors="surrogateescape"
    )
    paths = ["blog/one", "blog/2024/two", "blog/2024/b/three", "four", "blog/five", "six"]
    how, state, found = sitemap_part.How("https://a.example/feeds/atom.xml"), b"", []
    for at in range(0, len(atom), size):
        part = sitemap_formats.part(atom[at : at + size], state, "whole" if at + size >= len(atom) else "", how)
        state = part.state
        found += part.entries
    assert found == [f"https://a.example/{path}" for path in paths]


def test_atom():
    atom = b"""<feed xmlns="http://www.w3.org/2005/Atom"><link href="https://a.example/"/>
        <entry><link rel="edit" href="https://a.example/edit"/><link href="https://a.example/1"/></entry>
        <entry><link rel="alternate" href="/2"/></entry></feed>"""
    read = take(atom)
    assert (read.urls, read.kind, read.faults) == (["https://a.example/1", "http://a.example/2"], "atom", {})


@pytest.mark.parametrize("size", [64, 100, PART_BYTES])
def test_text(size):
    body = "\ufeff\nhttps://a.example/1\r\n# a comment\r\n  HTTP://a.example/é \rftp://a.example/\nhttps://a.example/last"
    expected = ["https://a.example/1", "http://a.example/%C3%A9", "https://a.example/last"]
    for encoding in ("utf-8", "utf-16"):
        data = body.lstrip("\ufeff") if encoding == "utf-16" else body
        read = take(data.encode(encoding), size)
        assert (read.urls, read.kind, read.faults, read.refused) == (expected, "text", {}, {"syntax": 2})


@pytest.mark.parametrize(
    ("encoding", "declared", "charset"),
    [
        ("utf-8-sig", "utf-8", None),
        ("utf-8-sig", "utf-8", "latin1"),
        ("utf-16", "utf-16", None),
        ("utf-16", "utf-16", "utf-8"),
        ("utf-16le", None, None),
        ("utf-16be", None, "utf-8"),
        ("latin-1", "ISO-8859-1", None),
        ("latin-1", "utf-8", "ISO-8859-1"),
        ("cp1252", "windows-1252", None),
        ("utf-8", "UTF-16", None),
        ("utf-8", "utf8", None),
        ("utf-8", None, "utf-16"),
        ("utf-8", "koi8-r", "utf-8"),
    ],
)
def test_encodings(encoding, declared, charset):
    """BOM, header, declaration (RFC 7303, 3); what cannot be so is not believed."""
    head = f'<?xml version="1.0" encoding="{declared}"?>' if declared else ""
    text = f"\n{head}<urlset><url><loc>https://a.example/é</loc></url></urlset>"
    for size in (64, PART_BYTES):
        read = take(text.encode(encoding), size, charset=charset)
        assert (read.urls, read.faults) == (["https://a.example/%C3%A9"], {})


@pytest.mark.parametrize(
    "name", ["zlib_codec", "x" * 39, "iso-8859-12", "undefined", "idna", "utf-7", "hz-gb-2312", "unicode_escape"]
)
def test_an_encoding_that_is_not_read(name):
    """It is named, and what is ASCII is read."""
    body = f'<?xml version="1.0" encoding="{name}"?><urlset><url><loc>http://a.example/</loc></url></urlset>'.encode()
    read = take(body)
    assert (read.urls, read.faults) == (["http://a.example/"], {"encoding": f"{name} is not read"})


def many(count: int) -> bytes:
    return b"<urlset>" + b"".join(b"<url><loc>http://a.example/%d</loc></url>" % n for n in range(count)) + b"</urlset>"


def test_the_caps():
    read = take(many(1_000), bytes_max=10_000)
    assert (list(read.faults), read.urls[-1]) == (["too_large"], f"http://a.example/{len(read.urls) - 1}")
    read = take(gzip.compress(many(1_000)), bytes_max=10_000)
    assert (list(read.faults), len(read.urls) > 100) == (["too_large"], True)
    long = b"http://a.example/" + b"x" * sitemap_part.URL_CHARS_MAX
    for body in (
        b"http://a.example/\n" + long,
        b"<urlset><url><loc>http://a.example/</loc></url><url><loc>" + long + b"</loc></url></urlset>",
    ):
        read = take(body)
        assert (read.urls, read.faults, read.refused) == (["http://a.example/"], {}, {"url_length": 1})


LAUGHS = b'<!DOCTYPE lolz [<!ENTITY a "ha">' + b"".join(
    b'<!ENTITY %c "%s">' % (98 + n, b"&%c;" % (97 + n) * 10) for n in range(9)
)
FIRST = b"<urlset><url><loc>http://a.example/</loc></url>"

HOSTILE = {
    "billion laughs": (LAUGHS + b"]><urlset><url><loc>&j;</loc></url></urlset>", 0, "doctype"),
    "quadratic entity": (b'<!DOCTYPE u [<!ENTITY a "' + b"x" * 100_000 + b'">]><urlset>' + b"&a;" * 9999, 0, "doctype"),
    "external entity": (b'<!DOCTYPE u [<!ENTITY a SYSTEM "file:///etc/passwd">]><urlset><url><loc>&a;</loc>', 0, "doctype"),
    "parameter entity": (b'<!DOCTYPE u [<!ENTITY % a SYSTEM "http://a/"> %a;]><urlset>', 0, "doctype"),
    "html": (b"<!DOCTYPE html>\n<html><head><title>Not found</title>", 0, "not_a_sitemap"),
    "another root": (b"<opml><url><loc>http://a.example/</loc></url></opml>", 0, "not_a_sitemap"),
    "empty": (b"", 0, "not_a_sitemap"),
    "one byte": (b"<", 0, "not_a_sitemap"),
    "half a magic": (b"\x1f", 0, "not_a_sitemap"),
    "blank": (b" \r\n\t" * 100_000, 0, "not_a_sitemap"),
    "prose": (b"Service unavailable\n" * 10_000, 0, "not_a_sitemap"),
    "noise": (bytes(range(256)) * 4_000, 0, "not_a_sitemap"),
    "cut": (URLSET[:-30], 2, "xml"),
    "deep": (FIRST + b"<a>" * 300_000, 1, "too_deep"),
    "names": (FIRST + b"".join(b"<a%d/>" % n for n in range(200_000)), 1, "entry_too_long"),
    "long names": (FIRST + b"".join(b"<%b%d>" % (b"a" * 300, n) for n in range(9_000)), 1, "too_deep"),
    "attribute names": (FIRST + b"".join(b"<a b%d=''/>" % n for n in range(200_000)), 1, "entry_too_long"),
    "endless tag": (FIRST + b"<" + b"a" * 3_000_000, 1, "entry_too_long"),
    "endless attribute": (FIRST + b"<a b='" + b"a" * 3_000_000, 1, "entry_too_long"),
    "endless comment": (FIRST + b"<!--" + b"a" * 3_000_000, 1, "entry_too_long"),
    "endless instruction": (FIRST + b"<?a " + b"a" * 3_000_000, 1, "entry_too_long"),
    "endless text": (FIRST + b"<url><loc>" + b"a" * 60_000_000, 1, "too_large"),
    "endless line": (b"http://a.example/\n" + b"a" * 60_000_000, 1, "too_large"),
    "endless character data": (FIRST + b"<url><loc><![CDATA[" + b"a" * 3_000_000, 1, "entry_too_long"),
    "attributes": (FIRST + b"<a " + b" ".join(b"b%d=''" % n for n in range(20_000)) + b"/>", 1, "xml"),
    "siblings": (FIRST + b"<a/>" * 300_000, 1, "xml"),
    "nothing but faults": (FIRST + b"<url><loc>&</url>" * 60_000, 1, "too_many_faults"),
    "nothing but faults without end": (FIRST + b"<url><b>" * 20_000, 1, "too_deep"),
    "gzip cut": (gzip.compress(URLSET)[:-9], 0, "gzip_cut"),
    "gzip corrupt": (gzip.compress(URLSET)[:30] + b"\xff" * 100, 0, "gzip gzip_cut"),
    "gzip wrong checksum": (gzip.compress(URLSET)[:-8] + b"\0" * 8, 3, "gzip"),
    "gzip bomb": (gzip.compress(FIRST + b" " * 60_000_000), 1, "decode_ratio too_large"),
    "gzip of gzip": (gzip.compress(gzip.compress(URLSET)), 0, "not_a_sitemap"),
    "gzip members": (gzip.compress(b"") * 100_000, 0, "gzip"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_sitemap_ends_with_what_was_read_and_a_fault(name):
    body, known, fault = HOSTILE[name]
    read = take(body)
    assert set(read.faults) & set(fault.split()), read.faults
    assert len(read.urls) >= known
    assert read.urls[:1] in ([], ["http://a.example/"], URLS[:1])


def test_gzip_members_and_padding():
    read = take(gzip.compress(FIRST) + gzip.compress(b"</urlset>") + b"\0" * 512)
    assert (read.urls, read.faults) == (["http://a.example/"], {})


def test_little_gzip_comes_out_in_parts():
    """65 KiB of gzip holds 50,000 URLs here; no part is longer than another, and it ends with one that says so."""
    parts = list(Unpacked([gzip.compress(many(50_000))]))
    assert {len(data) for data, _ in parts[:-1]} == {PART_BYTES}
    assert [end for _, end in parts] == [""] * (len(parts) - 1) + ["whole"]
    assert b"".join(data for data, _ in parts) == many(50_000)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=6), st.integers(50, 70_000))
def test_unpacking_does_not_depend_on_how_the_bytes_come(members, size):
    plain = b"".join(bytes([65 + n]) * 70_000 * n for n in members)
    packed = b"".join(gzip.compress(bytes([65 + n]) * 70_000 * n) for n in members)
    for body in (packed, plain):
        unpacked = Unpacked(body[at : at + size] for at in range(0, len(body), size))
        assert b"".join(data for data, _ in unpacked) == plain
        assert unpacked.fault is None


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([URLSET, gzip.compress(URLSET), zlib.compress(URLSET), b"http://a/\n" * 9]), st.data())
def test_damage_never_escapes(body, data):
    at = data.draw(st.integers(0, len(body)))
    body = body[:at] + data.draw(st.binary(max_size=6)) + body[at + data.draw(st.integers(0, 9)) :]
    take(body)
    take(body, data.draw(st.integers(1, 40)))


def test_memory_is_bounded_by_a_part_and_an_entry():
    """Read in a process of its own, hostile names, tags and text hold no more than some MiB, and leave nothing behind."""
    program = """
import sys
from crawler.parse.sitemap_formats import part
from crawler.parse.sitemap_part import How
def resident(): return int(open("/proc/self/statm").read().split()[1]) * 4096
first = b"<urlset><url><loc>http://a.example/</loc></url>"
bodies = [
    first + b"".join(b"<a%d/>" % n for n in range(60_000)), first + b"".join(b"<a b%d=''/>" % n for n in range(40_000)),
    first + b"<a>" * 200_000, first + b"<a b='" + b"a" * 1_000_000, first + b"<!--" + b"a" * 1_000_000,
    first + b"<url>&" * 5_000, first + b"<url><loc>&eacute;" + b"<![CDATA[" * 50_000, b"Service unavailable" * 50_000,
]
before = 0
for _ in range(3):
    for body in bodies:
        state = b""
        for at in range(0, len(body), 262_144):
            data, more = body[at : at + 262_144], True
            while more:
                found = part(data, state, "", How("http://a.example/"))
                data, state, more = b"", found.state, found.more
                assert len(state) < 3 << 19, len(state)
    before = before or resident()
print((resident() - before) >> 20)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(ended.stdout) <= 4


def test_an_entry_may_be_long_and_stand_anywhere():
    article = b"<t>" + b"a" * (ENTRY_BYTES_MAX - 10_000) + b"</t>"
    entries = [b"<url><loc>http://a.example/%d</loc>%b</url>" % (n, article if n % 2 else b"") for n in range(6)]
    read = take(b"<urlset>" + b"".join(entries) + b"</urlset>")
    assert (read.urls, read.faults) == ([f"http://a.example/{n}" for n in range(6)], {})


def test_what_names_no_url_comes_in_parts_too():
    """So that whoever reads has a turn at each."""
    text = b"http://a.test/\n" + b"a\n" * (1 << 20)
    for body in (text, zlib.compress(text, wbits=31)):
        assert len(list(Unpacked([body]))) >= len(text) // PART_BYTES
        assert take(body).urls == ["http://a.test/"]


def test_the_parent_imports_no_parser_of_html():
    program = "import sys, crawler.parse.sitemap; print([name for name in ('turbohtml', 'lxml') if name in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["[]"]


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2024-01-01", 1704067200.0),
        ("2024-01", 1704067200.0),
        ("2024", 1704067200.0),
        ("2024-13", None),
        ("202401x", None),
        ("20240", None),
        ("2024-01-01T01:00:00+01:00", 1704067200.0),
        ("2024-01-01T00:00Z", 1704067200.0),
        ("2024-01-01T00:00:00.5Z", 1704067200.5),
        ("yesterday", None),
        ("Mon, 32 Jan 2024 00:00:00 GMT", None),
        ("", None),
    ],
)
def test_when_an_entry_was_modified(text, at):
    """https://www.w3.org/TR/NOTE-datetime: a year, a year and a month, or a complete date."""
    url = f"<urlset><url><lastmod> {text} </lastmod><loc>https://a.example/</loc></url><url><loc>/b</loc></url></urlset>"
    how = sitemap_part.How("https://a.example/sitemap.xml", with_modified=True)
    part = sitemap_formats.part(url.encode(), b"", "whole", how)
    assert (part.entries, part.faults) == (["https://a.example/", "https://a.example/b"], {})
    assert part.modified == ({"https://a.example/": at} if at is not None else {})
    how = sitemap_part.How("https://a.example/sitemap.xml")
    assert sitemap_formats.part(url.encode(), b"", "whole", how).modified == {}


@pytest.mark.parametrize("date", ["2024-01-01T01:00:00+01:00", "Mon, 01 Jan 2024 00:00:00 GMT", "1 Jan 2024 01:00:00 +0100"])
@pytest.mark.parametrize(
    "feed",
    [
        "<rss><channel><pubDate>Tue, 02 Jan 2024 00:00:00 GMT</pubDate><item>{}<pubDate>{}</pubDate></item>{}</channel></rss>",
        "<rdf:RDF xmlns:dc='x' xmlns:rdf='y'><item>{}<dc:date>{}</dc:date></item>{}</rdf:RDF>",
        "<feed><updated>2024-01-02</updated><entry><published>2023-01-01</published>{}<updated>{}</updated></entry>{}</feed>",
    ],
)
def test_when_an_entry_of_a_feed_was_modified(feed, date):
    """https://www.sitemaps.org/protocol.html, "Other Sitemap formats": by pubDate in RSS, by updated in Atom."""
    link = "<link href='https://a.example/'/>" if "entry" in feed else "<link>https://a.example/</link>"
    other = f"<entry>{link}</entry>" if "entry" in feed else f"<item>{link}</item>"
    text = feed.format(link, date, other.replace("example/", "example/b"))
    how = sitemap_formats.How("https://a.example/feed", with_modified=True)
    part = sitemap_formats.part(text.encode(), b"", "whole", how)
    assert part.entries == ["https://a.example/", "https://a.example/b"]
    assert part.modified == {"https://a.example/": 1704067200.0}
    how = sitemap_formats.How("https://a.example/feed")
    assert sitemap_formats.part(text.encode(), b"", "whole", how).modified == {}
