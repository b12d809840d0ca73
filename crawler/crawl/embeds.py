"""What runs in a parser process for a page of a crawl with requisites: its links, and what it needs to be shown.

As ``crawler.crawl.outlinks``, which does it for a page of any other crawl. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from crawler.core.link_block import Packer
from crawler.crawl.outlinks import Packed, packed, parts_of, reading_of
from crawler.parse.requisites import requisites

FUNCTION: Final = "crawler.crawl.embeds:packed_whole"
"""As a parser process is told it."""
PRELOAD: Final = "tinycss2:parse_component_value_list"
NESTING_MAX: Final = 5
"""Documents in one another that are read for what they need."""


def packed_whole(
    body: bytes,
    url: str,
    mime: str,
    charset: str | None,
    headers: Sequence[tuple[bytes, bytes]],
    depth: int,
    anchor: str,
    encoded_reading: bytes,
    with_links: bool,
) -> Packed:
    """As ``outlinks.packed``; ``with_links``: the page is read for links as well."""
    reading, scope, keys = reading_of(encoded_reading)
    found = requisites(body, url, mime, charset, headers, reading.options)
    embeds = parts_of(scope.embeds(found.links, found.refused), Packer(keys, with_queries=reading.with_queries))
    if not with_links:
        return Packed([], [], found.refused, found.charset, embeds)
    links = packed(body, url, mime, charset, headers, depth, anchor, encoded_reading)
    links.refused.pop("resource", None)  # they are among what it needs
    for rule, count in found.refused.items():
        links.refused[rule] = max(count, links.refused.get(rule, 0))  # a frame is found both ways
    return replace(links, embeds=embeds)
