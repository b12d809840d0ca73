"""The links of an answer that belong to the crawl: a redirect's target, a page's outlinks, a sitemap's entries.

The law: reading is bounded in bytes, time and links; what is left out is counted under the rule that left it out. More
links than one batch should carry are admitted in parts before their page's outcome, which is harmless: admission is idempotent.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, Literal, Protocol

from msgspec.structs import replace

from crawler.config.sections import Config
from crawler.core import urls
from crawler.core.batch import Admitted
from crawler.core.errors import FetchError
from crawler.core.link_block import LinkBlock, block_of
from crawler.core.model import Done, Link
from crawler.core.page import Body, Page
from crawler.crawl.outlinks import FUNCTION, Packed, Reading, encode
from crawler.parse.html import HEADERS, MIMES, PART_LINKS, RULE_OF, Options
from crawler.parse.microsyntax import robots_tag, text
from crawler.policy.scope import Scope, ScopeRules
from crawler.resources.memory_budget import Reservation, Visit
from crawler.resources.memory_plan import SITEMAP_PART_BYTES, document_bytes

if TYPE_CHECKING:
    from crawler.parse.pool import Fault, Parser

LINKS_PER_OUTCOME_MAX: Final = PART_LINKS
READABLE: Final = frozenset({"ok", "truncated", "too_large"})
PART: Final = 4
"""Of a document that is more than a parser process can hold, one in so many bytes is read: its first ones."""
PART_BYTES_MIN: Final = 64 << 10
PART_BYTES_MAX: Final = 512 << 10
"""Of URLs that a sitemap names, admitted at a time: short references to a long base may stand in it."""
LARGE_BYTES: Final = 64 << 10
"""Of a document whose references are counted, to hold no more memory for its links than it can have."""

Headers = Sequence[tuple[bytes, bytes]]
"""Of an answer, the fields that say something of links."""


class Undo(Protocol):
    """What undoes content codings, and lets others have a turn meanwhile: ``fetcher.finisher``."""

    async def decoded(self, page: Page, limit: int, /) -> bytes: ...

    async def unpacked(self, page: Page, limit: int, /) -> Body: ...

    def decoder_bytes(self, page: Page, limit: int, /) -> int:
        """Memory that either needs beside what comes out."""


class Expander:
    """``admit`` takes links into the next batch; ``parser`` None: pages have no outlinks in this crawl; ``secret`` is the seed of
    the crawl's fingerprints."""

    def __init__(
        self,
        config: Config,
        scope: Scope,
        parser: Parser | None,
        undo: Undo,
        admit: Callable[[Admitted], Awaitable[object]],
        *,
        secret: int,
    ) -> None:
        self._config = config
        self._undo = undo
        self._scope = scope
        self._parser = parser
        self._admit = admit
        self._rules = urls.Rules(config.max_url, config.drop_params, config.sort_query)
        self.parsed: Callable[[float], None] = lambda seconds: None
        """Told how long finding the links of a page took."""
        options = Options(config.name, config.max_outlinks, config.resources, self._rules)
        with_queries = config.max_queries_per_path > 0
        self._reading = encode(Reading(options, ScopeRules.of(config, obey=config.robots), secret, with_queries))
        if config.sitemaps:
            import crawler.parse.sitemap  # noqa: F401 - now: later there may be no descriptor left to import with

    async def expand(self, link: Link, done: Done, room: Visit) -> Done:
        """The same outcome with the links of the page that are admitted, the counts of those that are not, and what it says
        to robots."""
        headers = [(name, value) for name, value in done.page.headers if name.lower() in HEADERS]
        done = await self._expanded(link, done, headers, room)
        if done.robots is None and headers and (said := self._said(headers)):
            return replace(done, robots=said)
        return done

    def _said(self, headers: Headers) -> str | None:
        """The directives in the head of an answer, where nothing more was read."""
        values = [text(value) for name, value in headers if name.lower() == b"x-robots-tag"]
        return _listed(word for value in values for word in robots_tag(value, self._config.name))

    async def _expanded(self, link: Link, done: Done, headers: Headers, room: Visit) -> Done:
        if done.outcome == "redirect":
            return self._redirect(done)
        if done.outcome not in READABLE:
            return done
        if link.kind == "sitemap":
            return await self._sitemap(link, done, room)
        if self._parser is None or not self._scope.follows(link):
            return done
        return await self._page(link, done, headers, room)

    def _redirect(self, done: Done) -> Done:
        for onward in done.outlinks:
            if rule := self._scope.refuses(onward):
                return replace(done, outlinks=(), refused={rule: 1})
        return done

    async def _page(self, link: Link, done: Done, headers: Headers, room: Visit) -> Done:
        page = done.page
        mime = page.mime if page.mime in MIMES else page.sniffed
        if mime not in MIMES and not headers:
            return done
        assert self._parser is not None
        most = self._config.max_parse
        size = min(most, max(page.bytes_decoded, page.bytes_wire))
        held = await room.parse(size, self._config.max_outlinks, self._undo.decoder_bytes(page, most))
        body = await self._undo.decoded(page, most) if mime in MIMES else b""
        if b"<" not in body:  # no tag, in no encoding of the web; a megabyte of zeros would end its parser
            body = b""
        if not body and not headers:
            held.release()
            return done
        if len(body) > LARGE_BYTES:
            held.shrink(document_bytes(len(body), _references(body, headers)))
        began = time.perf_counter()
        place = (link.depth + 1, link.anchor or link.url, self._reading)
        found, fault = await self._outlinks(body, link.url, mime, page.charset, headers, *place)
        self.parsed(time.perf_counter() - began)
        del body
        refused = found.refused
        block = await self._block(link, found, held)
        if fault is not None:
            refused[fault.reason] = refused.get(fault.reason, 0) + 1
        return replace(done, block=block, refused=refused, robots=_listed(found.robots))

    async def _block(self, page: Link, found: Packed, held: Reservation) -> LinkBlock | None:
        """The last part of a page's links, the others being admitted now. What is held of them stays reserved, until the
        outcome is."""
        blocks = [block_of(columns, page) for columns in found.parts if columns.is_sound()]
        if len(blocks) < len(found.parts):  # a document may have taken its process over
            found.refused["parse_crashed"] = found.refused.get("parse_crashed", 0) + len(found.parts) - len(blocks)
        found.parts.clear()
        held.shrink(sum(block.size for block in blocks))
        while len(blocks) > 1:
            await self._admit(Admitted((), block=blocks.pop(0)))
            held.shrink(sum(block.size for block in blocks))
        return blocks[0] if blocks else None

    async def _outlinks(self, body: bytes, *rest: object) -> tuple[Packed, Fault | None]:
        """What the parser finds, and why not all of it. A page of very many links takes more memory than a parser has: its
        first part need not. (It is blamed only alone in a fresh process, so this does not depend on what was read before.)"""
        assert self._parser is not None
        found = await self._parser.call(FUNCTION, body, *rest, result=Packed)
        if isinstance(found, Packed):
            return found, None
        fault = found
        if fault.reason == "parse_crashed" and len(body) // PART >= PART_BYTES_MIN:
            found = await self._parser.call(FUNCTION, body[: len(body) // PART], *rest, result=Packed)
        return (found if isinstance(found, Packed) else Packed([], [], {})), fault

    # -- sitemaps -------------------------------------------------------------------------------------------------

    def sitemaps(self, origin: str, named: tuple[str, ...], home: str | None) -> Iterator[Link]:
        """The sitemaps of an origin whose robots.txt was read: those it names, and the usual place. ``home`` is the seed
        for whose sake it was read: the entries live in its scope, and so must the origin."""
        if not self._config.sitemaps:
            return
        host, home = urls.host_key(origin + "/"), home or origin + "/"
        if self._scope.refuses(Link(f"{origin}/sitemap.xml", host, "sitemap", hops=1, anchor=home)) is None:
            page = Link(f"{origin}/robots.txt", host, "robots", hops=-1, anchor=home)
            yield from self._entries(page, [*named, "/sitemap.xml"], "sitemap", {})

    async def _sitemap(self, link: Link, done: Done, room: Visit) -> Done:
        """Entries of a sitemap are as deep as the seed whose site it describes; its own sitemaps are one hop on."""
        from crawler.parse.sitemap import Reader, read

        await room.take("parse", max(SITEMAP_PART_BYTES, self._undo.decoder_bytes(done.page, self._config.max_sitemap)))
        packed = done.page.coding is not None
        body = await self._undo.unpacked(done.page, self._config.max_sitemap) if packed else done.page.body
        try:
            reader = Reader(depth=link.hops, bytes_max=self._config.max_sitemap)
            refused: dict[str, int] = {}
            links: list[Link] = []
            size = 0
            for part in read(body.chunks(), reader):
                for entry in self._entries(link, part, "sitemap" if reader.kind == "index" else "link", refused):
                    if len(links) >= LINKS_PER_OUTCOME_MAX or size > PART_BYTES_MAX:
                        await self._admit(Admitted(tuple(links)))
                        links, size = [], 0
                    links.append(entry)
                    size += len(entry.url)
                await asyncio.sleep(0)
        finally:
            if packed:
                body.discard()
        if reader.fault:
            refused["sitemap_fault"] = refused.get("sitemap_fault", 0) + 1
        return replace(done, outlinks=tuple(links), refused=refused)

    def _entries(
        self, page: Link, entries: Iterable[str], kind: Literal["sitemap", "link"], refused: dict[str, int]
    ) -> Iterator[Link]:
        """What a sitemap names, but for what a rule refuses, counted in ``refused``."""
        hops = page.hops + 1 if kind == "sitemap" else 0
        for entry in dict.fromkeys(entries):
            try:
                url = urls.parse(entry, page.url, self._rules)
            except FetchError as error:
                rule: str | None = RULE_OF.get(error.reason, error.reason)
                link = None
            else:
                link = Link(url.href, url.host, kind, hops=hops, via=page.url, tag=page.tag, anchor=page.anchor)
                rule = self._scope.refuses(link)
                if kind == "sitemap" and url.host != page.host and not _names_sitemap(url.path):
                    rule = rule or "sitemap_fault"
            if rule is None and link is not None:
                yield link
            elif rule is not None:
                refused[rule] = refused.get(rule, 0) + 1


def _references(body: bytes, headers: Headers) -> int:
    """No document has more: each is the value of an attribute, stands behind a comma, or in a header."""
    return body.count(b"=") + body.count(b",") + sum(1 + value.count(b",") for _, value in headers)


def _listed(words: Iterable[str]) -> str | None:
    return ",".join(sorted(set(words))) or None


_names_sitemap = re.compile(r"sitemap|\.(?:xml|txt|rss|atom)(?:\.gz)?$", re.IGNORECASE).search
"""Of a path: on another host only what is called like a sitemap is taken for one. A page that is visited as a sitemap is known
from then on, and its links are not followed: nobody may have that done to another's pages."""
