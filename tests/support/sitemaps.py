"""Sitemaps in every format and encoding, and faults to put into them: what a catalogue of broken sitemaps is made from."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable

from crawler.core.urls import UrlRules
from crawler.parse.sitemap import PART_BYTES, Unpacked
from crawler.parse.sitemap_formats import part
from crawler.parse.sitemap_part import End, How, without_part

URL = "http://a.example/s.xml"
FORMATS = ("urlset", "index", "rss", "rdf", "atom", "text", "prefixed")
ENCODINGS = {
    # as declared → (Python's codec, letters that it can say)
    "utf-8": ("utf-8", "Größe 日本 привет"),
    "UTF-8": ("utf-8-sig", "é"),
    "utf-16": ("utf-16", "Größe 日本 привет"),
    "utf-16le": ("utf-16-le", "日本"),
    "utf-16be": ("utf-16-be", "日本"),
    "ISO-8859-1": ("latin-1", "Größe"),
    "windows-1252": ("cp1252", "“Größe”"),
    "windows-1251": ("cp1251", "привет"),
    "koi8-r": ("koi8-r", "привет"),
    "Shift_JIS": ("cp932", "日本語 表示 ソ"),
    "euc-jp": ("euc_jp", "日本語"),
    "iso-2022-jp": ("iso2022_jp", "日本語"),
    "gb2312": ("gbk", "中国 地图"),
    "GBK": ("gbk", "中国 地图"),
    "gb18030": ("gb18030", "中国 地图 \U00020000"),
    "big5": ("big5", "中國 地圖 許功蓋"),
    "euc-kr": ("cp949", "한국어"),
}
TEXT_FAULTS = {
    "bare &": "&",
    "bare & with a name": "?a=1&b=2&copy=3",
    "undefined entity": "&eacute;",
    "entity of HTML": "&nbsp;",
    "entity of nobody": "&nobody;",
    "reference to no character": "&#11;",
    "reference beyond all characters": "&#x110000;",
    "control character": "\x0b",
    "NUL": "\0",
    "DEL and controls": "\x01\x1f\x7f",
    "U+FFFF": "\uffff",
    "<": "< b",
    "]]>": "]]>",
    "end tag of nothing": "</b>",
    "tag without end": "<b>",
    "tag cut": "<b",
    "tag of odd letters": "<b<c>",
    "open quote": '<b a="1>',
    "open comment": "<!-- x ",
    "open CDATA": "<![CDATA[",
    "open instruction": "<?php echo",
    "attribute without quotes": "<b a=1/>",
    "attribute twice": '<b a="1" a="2"/>',
    "attribute with &": '<b a="x&y"/>',
    "XML declaration": '<?xml version="1.0"?>',
    "doctype": "<!DOCTYPE urlset>",
    "open <title>": "<title>",
    "open <script>": "<script>",
}
BYTE_FAULTS = {"wrong byte": b"\xff", "wrong bytes": b"\xfe\x80\xff", "half a character": b"\x81"}
HTML_BEFORE = "<br />\n<b>Warning</b>:  include(x.php): failed to open stream in <b>/y.php</b> on line <b>3</b><br />\n"
TEXT_BEFORE = "Warning: Cannot modify header information - headers already sent by (output started at /y.php:3)\n\n"
PLACES = ("url", "beside", "between", "first", "last")
"""In a URL, elsewhere in its entry, between two entries, before the first, behind the last (all within the root)."""


def entry_of(form: str, url: str, beside: str = "") -> str:
    """One entry; ``beside`` stands in it, after its URL, as text of another element."""
    if form == "text":
        return url + "\n"
    if form == "atom":
        return f'<entry><title>t {beside}</title><link rel="self" href="/never"/><link href="{url}"/></entry>'
    if form in ("rss", "rdf"):
        return f"<item><title>t {beside}</title><link>{url}</link><guid>x</guid></item>"
    prefix = "sm:" if form == "prefixed" else ""
    name = "sitemap" if form == "index" else "url"
    return (
        f"<{prefix}{name}>\n<{prefix}loc> {url}\n</{prefix}loc><{prefix}lastmod>2024 {beside}</{prefix}lastmod></{prefix}{name}>"
    )


def around(form: str, declared: str) -> tuple[str, str]:
    """What stands before and behind the entries."""
    if form == "text":
        return "", ""
    head = f'<?xml version="1.0" encoding="{declared}"?>\n'
    root, end = {
        "urlset": ('<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">', "</urlset>"),
        "prefixed": ('<sm:urlset xmlns:sm="http://www.sitemaps.org/schemas/sitemap/0.9">', "</sm:urlset>"),
        "index": ('<sitemapindex xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">', "</sitemapindex>"),
        "rss": ('<rss version="2.0"><channel><title>x</title><link>http://a.example/</link>', "</channel></rss>"),
        "rdf": (
            '<rdf:RDF xmlns:rdf="http://x/" xmlns="http://y/"><channel><link>http://a.example/</link></channel>',
            "</rdf:RDF>",
        ),
        "atom": ('<feed xmlns="http://www.w3.org/2005/Atom"><link href="http://a.example/"/>', "</feed>"),
    }[form]
    return head + root, end


def urls_of(count: int) -> list[str]:
    return [f"http://a.example/{n}/sitemap.xml" for n in range(count)]


def document(form: str, declared: str, entries: Iterable[str]) -> str:
    head, end = around(form, declared)
    return head + "".join(entries) + end


class Read:
    """What was read of a whole document."""

    def __init__(self) -> None:
        self.urls: list[str] = []
        self.kind: str | None = None
        self.encoding = ""
        self.faults: dict[str, str] = {}
        self.refused: dict[str, int] = {}
        self.answers: list[int] = []


def take(
    body: bytes,
    size: int = PART_BYTES,
    *,
    first: int = 0,
    charset: str | None = None,
    url: str = URL,
    lost: Callable[[int], bool] = lambda number: False,
    **options: int,
) -> Read:
    """A document read as a crawl does: unpacked, in parts of ``size`` bytes (the first may be longer). Parts for which
    ``lost(number)`` says so end their process."""
    read, state = Read(), b""
    unpacked = Unpacked([body[at : at + 65_536] for at in range(0, len(body), 65_536)], **options)
    for number, (data, end) in enumerate(resized(unpacked, size, first)):
        more = True
        while more:
            if lost(number):
                state = without_part(state)
                break
            found = part(data, state, end, How(url, charset, UrlRules()))
            data, state, more = b"", found.state, found.more
            read.urls += found.entries
            read.answers.append(sum(map(len, found.entries)))
            read.kind, read.encoding = found.kind or read.kind, found.encoding
            read.faults |= {name: words for name, (_, words) in found.faults.items() if name not in read.faults}
            for rule, count in found.refused.items():
                read.refused[rule] = read.refused.get(rule, 0) + count
    if unpacked.fault:
        read.faults[unpacked.fault] = unpacked.detail
    return read


def resized(unpacked: Unpacked, size: int, first: int) -> Iterable[tuple[bytes, End]]:
    if size == PART_BYTES:
        yield from unpacked
        return
    parts = list(unpacked)
    body, end = b"".join(data for data, _ in parts), parts[-1][1]
    starts = [0, *range(min(len(body), max(first, size)), len(body), size)]
    for at, start in enumerate(starts):
        is_last = at + 1 == len(starts)
        yield body[start : len(body) if is_last else starts[at + 1]], end if is_last else ""


PACKINGS: dict[str, Callable[[bytes], bytes]] = {"plain": bytes, "gzip": gzip.compress}
