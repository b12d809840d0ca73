"""What runs in a parser process for a page: its links found, judged by the rules that need no memory, and packed.

Everything that is done for each link is done here, so that the loop only carries the block. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import islice
from typing import Annotated, Final, TypeAlias

from msgspec import Meta, Struct
from msgspec.msgpack import Decoder, Encoder

from crawler.core.domains import domain_of
from crawler.core.keys import Keys
from crawler.core.link_block import Columns, Packer
from crawler.core.reply_limits import PART_LINKS, PARTS_MAX
from crawler.parse.html import Options, outlinks
from crawler.parse.microsyntax import DIRECTIVES
from crawler.policy.scope import RULES, Scope, ScopeRules

FUNCTION: Final = "crawler.crawl.outlinks:packed"
"""As a parser process is told it."""
BEGIN: Final = "crawler.crawl.outlinks:reading_of"
"""The same of what it does first: thousands of expressions take seconds to compile, and tens of MiB."""


class ReadingOptions(Struct, frozen=True, array_like=True):
    """What must be known of a crawl to read its pages. ``with_queries``: it limits the different query strings of a path;
    ``with_modified``: what sitemaps say of the age of their entries matters; ``by_domain``: all hosts of a domain are in one
    slot."""

    options: Options
    scope: ScopeRules
    secret: int
    with_queries: bool
    with_modified: bool = False
    by_domain: bool = False


Parts: TypeAlias = Annotated[list[Columns], Meta(max_length=PARTS_MAX)]
"""Of at most PART_LINKS links each."""
Refused: TypeAlias = Annotated[dict[str, Annotated[int, Meta(ge=0, le=1 << 40)]], Meta(max_length=len(RULES))]
"""References left out, by rule."""


class Packed(Struct, frozen=True, array_like=True):
    """``robots``: directives of X-Robots-Tag and meta robots that are for us. ``encoding``: what the page was read in, by its
    WHATWG name; None if it was not. Nothing else is taken from a process: one that a document took over may say anything."""

    parts: Parts
    robots: Annotated[list[str], Meta(max_length=len(DIRECTIVES))]
    refused: Refused
    encoding: Annotated[str, Meta(max_length=40)] | None = None
    embeds: Parts = []
    """What the page needs to be shown."""

    def __post_init__(self) -> None:
        if not (DIRECTIVES.issuperset(self.robots) and are_known(self.refused)):
            raise ValueError("no such directive, or rule")


_RULES: Final = frozenset(RULES)


def are_known(refused: Refused) -> bool:
    """Whether these are rules: each is counted for ever, and has a metric."""
    return refused.keys() <= _RULES


encode: Final = Encoder().encode
_decode = Decoder(ReadingOptions).decode


@lru_cache(maxsize=4)
def reading_of(encoded: bytes) -> tuple[ReadingOptions, Scope, Keys]:
    reading = _decode(encoded)
    return reading, Scope(reading.scope), Keys(reading.secret, domain_of if reading.by_domain else None)


def packed(
    body: bytes,
    url: str,
    mime: str,
    charset: str | None,
    headers: Sequence[tuple[bytes, bytes]],
    depth: int,
    anchor: str,
    encoded_reading: bytes,
) -> Packed:
    """The links of a page. ``depth`` is theirs, ``anchor`` the seed whose scope they live in; the rest as ``html.outlinks``."""
    reading, scope, keys = reading_of(encoded_reading)
    found = outlinks(body, url, mime, charset, headers, reading.options)
    admitted = scope.admitted(depth, anchor, found.links, found.refused)
    parts = parts_of(admitted, Packer(keys, with_queries=reading.with_queries))
    return Packed(parts, found.robots, found.refused, found.charset)


def parts_of(links: Iterable[tuple[str, str]], packer: Packer) -> list[Columns]:
    """These links (URL, host), packed."""
    left = iter(links)
    parts: list[Columns] = []
    while packer.add(islice(left, PART_LINKS)):
        parts.append(packer.take())
    return parts
