"""Sitemaps: every form, every cap, and hostile files that end with what was read and a named fault."""

import gc
import gzip
import tracemalloc
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crawler.parse import sitemap
from crawler.parse.sitemap import Reader, read

XMLNS = b'xmlns="http://www.sitemaps.org/schemas/sitemap/0.9"'
URLSET = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<urlset '
    + XMLNS
    + b' xmlns:image="http://www.google.com/schemas/sitemap-image/1.1">'
    b"<url><loc> https://a.example/?x=1&amp;y=2 </loc><lastmod>2024-01-01</lastmod>"
    b"<image:image><image:loc>https://a.example/i.png</image:loc></image:image></url>"
    b"<url><loc><![CDATA[https://a.example/b]]></loc></url><url><loc>https://a.example/\xc3\xa9</loc></url></urlset>"
)
URLS = ["https://a.example/?x=1&y=2", "https://a.example/b", "https://a.example/é"]


def take(data: bytes, size: int = 1 << 20, **options) -> tuple[list[str], Reader]:
    reader = Reader(**options)
    urls = [url for start in range(0, len(data), size) for url in reader.feed(data[start : start + size])]
    return urls + reader.close(), reader


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1 << 20])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_urlset(size, pack):
    urls, reader = take(pack(URLSET), size)
    assert (urls, reader.kind, reader.fault) == (URLS, "urlset", None)


def test_index():
    body = b"<sitemapindex " + XMLNS + b"><sitemap><loc>https://a.example/1.xml.gz</loc></sitemap></sitemapindex>"
    urls, reader = take(body)
    assert (urls, reader.kind, reader.fault) == (["https://a.example/1.xml.gz"], "index", None)
    urls, reader = take(body, depth=sitemap.INDEX_DEPTH_MAX)
    assert (urls, reader.kind, reader.fault) == ([], "index", "index_depth")


def test_rss_and_rdf():
    rss = b"""<rss version="2.0" xmlns:atom="http://www.w3.org/2005/Atom"><channel><link>https://a.example/</link>
        <atom:link href="https://a.example/feed"/><item><title>t</title><link>https://a.example/1</link></item>
        <item><guid>https://a.example/2</guid></item></channel></rss>"""
    assert take(rss)[0] == ["https://a.example/1"]
    rdf = b"""<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns="http://purl.org/rss/1.0/">
        <channel><link>https://a.example/</link></channel><item><link>https://a.example/1</link></item></rdf:RDF>"""
    urls, reader = take(rdf)
    assert (urls, reader.kind) == (["https://a.example/1"], "rss")


def test_atom():
    atom = b"""<feed xmlns="http://www.w3.org/2005/Atom"><link href="https://a.example/"/>
        <entry><link rel="edit" href="https://a.example/edit"/><link href="https://a.example/1"/></entry>
        <entry><link rel="alternate" href="/2"/></entry></feed>"""
    urls, reader = take(atom)
    assert (urls, reader.kind) == (["https://a.example/1", "/2"], "atom")


@pytest.mark.parametrize("size", [1, 5, 1 << 20])
def test_text(size):
    body = "\ufeff\nhttps://a.example/1\r\n# a comment\r\n  HTTP://a.example/é \rftp://a.example/\nhttps://a.example/last"
    expected = ["https://a.example/1", "HTTP://a.example/é", "https://a.example/last"]
    for encoding in ("utf-8", "utf-16"):
        data = body.lstrip("\ufeff") if encoding == "utf-16" else body
        urls, reader = take(data.encode(encoding), size)
        assert (urls, reader.kind, reader.fault, reader.skipped) == (expected, "text", None, 2)


@pytest.mark.parametrize(
    ("encoding", "declared"),
    [
        ("utf-8-sig", "utf-8"),
        ("utf-16", "utf-16"),
        ("utf-16le", None),
        ("utf-16be", None),
        ("latin-1", "ISO-8859-1"),
        ("cp1252", "windows-1252"),
        ("utf-8", "UTF-16"),
        ("utf-8", "utf8"),
    ],
)
def test_encodings(encoding, declared):
    head = f'<?xml version="1.0" encoding="{declared}"?>' if declared else ""
    text = f"\n{head}<urlset><url><loc>https://a.example/é</loc></url></urlset>".removeprefix("\n" if "16" in encoding else "")
    for size in (1, 3, 1 << 20):
        urls, reader = take(text.encode(encoding), size)
        assert (urls, reader.fault) == (["https://a.example/é"], None)


@pytest.mark.parametrize("name", ["shift_jis", "gbk", "zlib_codec", "x" * 39, "iso-8859-12", "undefined", "idna", ""])
def test_an_encoding_we_do_not_read(name):
    _, reader = take(f'<?xml version="1.0" encoding="{name}"?><urlset><url><loc>http://a/</loc></url></urlset>'.encode())
    assert reader.fault == "encoding"


def many(count: int) -> bytes:
    return b"<urlset>" + b"".join(b"<url><loc>http://a.example/%d</loc></url>" % n for n in range(count)) + b"</urlset>"


def test_the_caps():
    urls, reader = take(many(50_000))
    assert (len(urls), reader.fault) == (50_000, None)
    urls, reader = take(many(50_001))
    assert (len(urls), reader.fault) == (50_000, "too_many_urls")
    urls, reader = take(many(1_000), bytes_max=10_000)
    assert (reader.fault, urls[-1]) == ("too_large", f"http://a.example/{len(urls) - 1}")
    urls, reader = take(gzip.compress(many(1_000)), bytes_max=10_000)
    assert (reader.fault, len(urls) > 100) == ("too_large", True)
    urls, reader = take(b"\n".join(b"http://a.example/%d" % n for n in range(50_001)))
    assert (len(urls), reader.fault) == (50_000, "too_many_urls")
    long = b"http://a.example/" + b"x" * sitemap.URL_CHARS_MAX
    for body in (
        b"http://a.example/\n" + long,
        b"<urlset><url><loc>http://a.example/</loc></url><url><loc>" + long + b"</loc></url></urlset>",
    ):
        urls, reader = take(body)
        assert (urls, reader.fault, reader.skipped) == (["http://a.example/"], None, 1)


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
    "one byte": (b"<", 0, "xml"),
    "half a magic": (b"\x1f", 0, "not_a_sitemap"),
    "blank": (b" \r\n\t" * 100_000, 0, "not_a_sitemap"),
    "prose": (b"Service unavailable\n" * 10_000, 0, "not_a_sitemap"),
    "noise": (bytes(range(256)) * 4_000, 0, "not_a_sitemap"),
    "cut": (URLSET[:-30], 2, "xml"),
    "not well formed": (FIRST + b"<url><loc>http://a.example/?a&b</loc></url></urlset>", 1, "xml"),
    "unknown entity": (FIRST + b"<url><loc>&nbsp;</loc></url></urlset>", 1, "xml"),
    "wrong bytes": (FIRST + b"<url><loc>\xff\xfe</loc></url></urlset>", 1, "xml"),
    "deep": (FIRST + b"<a>" * 1_000_000, 1, "too_deep"),
    "names": (FIRST + b"".join(b"<a%d/>" % n for n in range(200_000)), 1, "too_many_names"),
    "attribute names": (FIRST + b"".join(b"<a b%d=''/>" % n for n in range(200_000)), 1, "too_many_names"),
    "endless tag": (FIRST + b"<" + b"a" * 3_000_000, 1, "token_too_long"),
    "endless attribute": (FIRST + b"<a b='" + b"a" * 3_000_000, 1, "token_too_long"),
    "endless comment": (FIRST + b"<!--" + b"a" * 3_000_000, 1, "token_too_long"),
    "endless instruction": (FIRST + b"<?a " + b"a" * 3_000_000, 1, "token_too_long"),
    "endless text": (FIRST + b"<url><loc>" + b"a" * 60_000_000, 1, "too_large"),
    "endless line": (b"http://a.example/\n" + b"a" * 60_000_000, 1, "too_large"),
    "endless character data": (FIRST + b"<url><loc><![CDATA[" + b"a" * 3_000_000, 1, "xml"),
    "attributes": (FIRST + b"<a " + b" ".join(b"b%d=''" % n for n in range(20_000)) + b"/>", 1, "too_many_names"),
    "siblings": (FIRST + b"<a/>" * 1_000_000, 1, "xml"),
    "gzip cut": (gzip.compress(URLSET)[:-9], 0, "gzip_cut"),
    "gzip corrupt": (gzip.compress(URLSET)[:30] + b"\xff" * 100, 0, "gzip gzip_cut"),
    "gzip wrong checksum": (gzip.compress(URLSET)[:-8] + b"\0" * 8, 0, "gzip"),
    "gzip bomb": (gzip.compress(FIRST + b" " * 60_000_000), 1, "decode_ratio too_large"),
    "gzip of gzip": (gzip.compress(gzip.compress(URLSET)), 0, "not_a_sitemap"),
    "gzip members": (gzip.compress(b"") * 100_000, 0, "not_a_sitemap"),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("size", [1 << 14, 1 << 30])
def test_a_hostile_sitemap_ends_with_what_was_read_and_a_fault(name, size):
    body, known, fault = HOSTILE[name]
    urls, reader = take(body, size)
    assert reader.fault in fault.split()
    assert len(urls) >= known
    assert urls[:1] in ([], ["http://a.example/"], URLS[:1])
    assert reader.feed(URLSET) == [] == reader.close()


def test_gzip_members_and_padding():
    urls, reader = take(gzip.compress(FIRST) + gzip.compress(b"</urlset>") + b"\0" * 512)
    assert (urls, reader.fault) == (["http://a.example/"], None)


def test_little_gzip_comes_out_in_parts():
    """65 KiB of gzip holds 50,000 URLs here; no part is made of more than 64 KiB of them."""
    reader = Reader()
    parts = list(read([gzip.compress(many(50_000))], reader))
    assert sum(map(len, parts)) == 50_000
    assert max(map(len, parts)) < 2_000
    assert reader.fault is None


@settings(max_examples=200)
@given(st.sampled_from([URLSET, gzip.compress(URLSET), zlib.compress(URLSET), b"http://a/\n" * 9]), st.data())
def test_damage_never_escapes(body, data):
    at = data.draw(st.integers(0, len(body)))
    body = body[:at] + data.draw(st.binary(max_size=6)) + body[at + data.draw(st.integers(0, 9)) :]
    whole, one = take(body, 1 << 20)
    split, other = take(body, data.draw(st.integers(1, 40)))
    if body[:2] == b"\x1f\x8b":  # a broken stream loses the output of the call that found out
        assert (one.fault is None) == (other.fault is None)
    else:
        assert (whole, one.fault, one.kind) == (split, other.fault, other.kind)


def test_memory_is_flat_and_given_back():
    """Hostile names, tags and text, read twice, leave nothing behind and never hold more than 4 MiB."""
    bodies = [HOSTILE[name][0] for name in ("names", "deep", "endless tag", "endless comment", "attributes", "cut", "prose")]

    def chunks(body: bytes):
        return (body[start : start + 65_536] for start in range(0, len(body), 65_536))

    tracemalloc.start()
    try:
        for body in bodies:
            for _ in read(chunks(body), Reader()):
                pass
        gc.disable()
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        for body in bodies:
            for _ in read(chunks(body), Reader()):
                pass
        now, peak = tracemalloc.get_traced_memory()
    finally:
        gc.enable()
        tracemalloc.stop()
    assert peak - before < 4 << 20
    assert now - before < 128 << 10, "no reader is left over for the garbage collector"


def test_what_names_no_url_comes_in_parts_too():
    """So that whoever reads has a turn at each."""
    from crawler.parse.sitemap import read

    text = b"http://a.test/\n" + b"a\n" * (1 << 20)
    for body in (text, zlib.compress(text, wbits=31)):
        parts = list(read([body], Reader()))
        assert len(parts) >= len(text) >> 16
        assert [url for part in parts for url in part] == ["http://a.test/"]
