"""What runs in a parser process for a part of a sitemap: its entries found, judged by the rules that need no memory, and packed.

As ``crawler.crawl.outlinks`` does for a page. Pure.
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta, Struct

from crawler.core.link_block import URL_BYTES_MIN, Packer, is_printable
from crawler.core.urls import host_key
from crawler.crawl.outlinks import Parts, are_known, parts_of, reading_of
from crawler.parse.html import Outlink
from crawler.parse.sitemap_formats import part
from crawler.parse.sitemap_part import End, How, Part

FUNCTION: Final = "crawler.crawl.sitemap_entries:packed_part"
"""As a parser process is told it."""


class PackedPart(Struct, array_like=True):
    """``part.entries`` are those of an index; those of any other sitemap stand in ``links``, without what a rule refuses.
    ``count`` is how many entries were taken, ``is_over`` says that there are more than may be."""

    part: Part
    links: Parts
    count: Annotated[int, Meta(ge=0)]
    is_over: bool

    def __post_init__(self) -> None:
        """A process that a document took over may say anything, also what would end the line that it stands in."""
        said = (*self.part.entries, *self.part.modified)
        if not (are_known(self.part.refused) and is_printable("".join(said).encode())):
            raise ValueError("no such rule, or URLs that are none")
        if min(map(len, said), default=URL_BYTES_MIN) < URL_BYTES_MIN:
            raise ValueError("a URL that is none")


def packed_part(
    data: bytes, state: bytes, end: End, left: int, url: str, charset: str | None, depth: int, anchor: str, encoded_reading: bytes
) -> PackedPart:
    """Read on with these bytes; ``state`` and ``end`` as in ``sitemap_formats.part``, at most ``left`` entries are taken. ``url``
    and ``charset`` are the sitemap's, ``depth`` and ``anchor`` those of the links it names."""
    reading, scope, keys = reading_of(encoded_reading)
    found = part(data, state, end, How(url, charset, reading.options.rules, reading.with_modified))
    if found.modified:  # a sitemap speaks for the site it stands at, and for the one that names it
        hosts = (host_key(url), host_key(anchor))
        found.modified = {entry: at for entry, at in found.modified.items() if host_key(entry) in hosts}
    is_over = len(found.entries) > left
    del found.entries[left:]
    count = len(found.entries)
    links: Parts = []
    if found.kind != "index":
        entries = [Outlink(entry, host_key(entry)) for entry in found.entries]
        found.entries = []
        admitted = scope.admitted(depth, anchor, entries, found.refused)
        links = parts_of(admitted, Packer(keys, with_queries=reading.with_queries))
    return PackedPart(found, links, count, is_over)
