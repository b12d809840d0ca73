"""Sitemaps: which belong to a site, and which URLs they name. Parser processes read their bytes, part by part.

Every site that names a sitemap gets its entries, whatever is known of them already. What is not read, or not as it stands, is
counted, named in the sitemap's row and logged.
"""

from __future__ import annotations

import asyncio
import logging
import re
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from crawler.config.sections import Config
from crawler.core import urls
from crawler.core.batch import Admitted
from crawler.core.errors import FetchError
from crawler.core.link_block import LinkBlock, block_of
from crawler.core.model import EMBED, READABLE, SITEMAPS, Done, Link, is_miscoded
from crawler.core.page import Page
from crawler.core.reply_limits import PART_LINKS
from crawler.crawl.sitemap_entries import FUNCTION, PackedPart
from crawler.parse.html import MIMES
from crawler.parse.pool import ParseFault, ParserPool
from crawler.parse.sitemap import INDEX_DEPTH_MAX, PART_BYTES, URLS_MAX, Unpacked
from crawler.parse.sitemap_part import Part, without_part
from crawler.policy.scope import Scope
from crawler.resources.memory_budget import VisitMemory
from crawler.resources.memory_plan import SITEMAP_PART_BYTES

SITES_MAX: Final = 4096
LOST_PARTS_MAX: Final = 3
"""A sitemap so many parts of which ended their parser, or ran out of time, is read no further."""
MORE_MAX: Final = 4096
"""Replies to the parts of one sitemap that say that they are not all of it: those that are full, or had many faults to repair."""
AT_ONCE: Final = 2
"""Sitemaps of more than one part that are read at a time: while the links of one are admitted, the parsers read another."""
_LOOKED_AT_BYTES: Final = 4 << 10
_MEDIA: Final = ("image/", "audio/", "video/", "font/")

if TYPE_CHECKING:
    from crawler.fetch.decoding import Finisher

logger = logging.getLogger(__name__)


class Sitemaps:
    """``reading`` is what a parser process must know of the crawl (``outlinks.ReadingOptions``, encoded); ``admit`` takes links
    into the next batch; ``hasten`` is told when entries say to have been modified."""

    def __init__(
        self,
        config: Config,
        scope: Scope,
        rules: urls.UrlRules,
        reading: bytes,
        parser: ParserPool,
        undo: Finisher,
        admit: Callable[[Admitted], Awaitable[object]],
        hasten: Callable[[Mapping[str, float]], Awaitable[None]] | None = None,
    ) -> None:
        self._hasten = hasten
        self._config = config
        self._scope = scope
        self._rules = rules
        self._reading = reading
        self._parser = parser
        self._undo = undo
        self._admit = admit
        self._sites: dict[int, int] = {}  # hash of origin and site, which may be long → hash of the names of its sitemaps
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._naming = asyncio.Lock()

    def change(self, scope: Scope, reading: bytes) -> None:
        """From now on these rules. What those before refused may be admitted."""
        self._scope, self._reading = scope, reading
        self._sites.clear()

    async def name(self, link: Link, named: Callable[[str], Sequence[str] | None]) -> None:
        """Admit the sitemaps of the origin of a link that is about to be visited, for the site that the link belongs to, when
        that site first comes there, and when others are named than before: those that the origin's robots.txt names, and the
        usual place. ``named(origin)`` is None while nobody knows. (What is remembered of sites may be forgotten: the store
        knows which sitemaps it has.)"""
        if link.kind in ("robots", EMBED):
            return
        origin, site = urls.origin(link.url), self._scope.site(link.anchor or link.url)
        of = hash((origin, site))
        if not self._is_named(of, named(origin)):
            async with self._naming:  # one may have 500 of 2 KiB each, and is in no account until there is room for them
                if (found := named(origin)) is None or self._is_named(of, found):
                    return
                if len(self._sites) >= SITES_MAX:
                    self._sites.clear()
                scope = self._scope
                if links := tuple(self.of(origin, found, site)):
                    await self._admit(Admitted(links))
                if scope is self._scope:  # else rules have changed, of which others may be admitted
                    self._sites[of] = hash(tuple(found))

    def _is_named(self, of: int, found: Sequence[str] | None) -> bool:
        """Whether this is known of a site; also where nobody knows what there is."""
        return found is None or self._sites.get(of) == hash(tuple(found))

    def of(self, origin: str, named: Sequence[str], site: str) -> Iterator[Link]:
        """The sitemaps of an origin. The entries live in the scope of ``site``, and so must the origin."""
        host = urls.host_key(origin + "/")
        if self._scope.refuses(Link(f"{origin}/sitemap.xml", host, "sitemap", hops=1, anchor=site)) is None:
            page = Link(f"{origin}/robots.txt", host, "robots", hops=-1, anchor=site)
            for name in dict.fromkeys((*named, "/sitemap.xml")):
                try:
                    url = urls.parse(name, page.url, self._rules)
                except FetchError:
                    continue
                link, rule = self._sitemap(page, url.href)
                if rule is None:
                    yield link

    async def is_one(self, link: Link, done: Done, room: VisitMemory) -> bool:
        """Whether a response is to be read as a sitemap: a link that was named as one, or a line of a list (or where it redirects
        to) that looks like one."""
        page = done.page
        if done.outcome not in READABLE and not is_miscoded(done):
            return False
        if link.kind in SITEMAPS:
            return True
        if link.input is None or (page.sniffed or page.mime or "").startswith(_MEDIA):
            return False
        with await room.decode(self._undo.decoder_bytes(page, _LOOKED_AT_BYTES)):
            head = await self._undo.decoded(page, _LOOKED_AT_BYTES)
        if head[:2] == b"\x1f\x8b":
            try:
                head = zlib.decompressobj(31).decompress(head, _LOOKED_AT_BYTES)
            except zlib.error:
                return False
        head = head.replace(b"\0", b"")  # of UTF-16
        if _is_sitemap(head):
            return page.mime not in MIMES or not _is_html(head)
        is_listing = _is_list(head) and urls.is_called_sitemap(link.url)
        return page.mime not in MIMES and bool(_is_feed(head) or is_listing)

    async def read(self, link: Link, done: Done, room: VisitMemory) -> tuple[Done, bool]:
        """The same outcome with what the sitemap names, and whether it is a page instead, to be read as one. The entries are as
        deep as the page whose site it describes; its own sitemaps are one hop on."""
        page = done.page
        most, is_coded = self._config.max_sitemap, page.coding is not None
        body = page.body
        if is_coded:
            with await room.decode(max(SITEMAP_PART_BYTES, self._undo.decoder_bytes(page, most))):
                body = await self._undo.unpacked(page, min(most, max(page.bytes_decoded, page.bytes_wire)))
        try:
            reading = _Reading(link, page)
            unpacked = Unpacked(body.chunks(), bytes_max=most, is_cut=done.outcome != "ok")
            is_one_part = body.size <= PART_BYTES and body.prefix(2) != b"\x1f\x8b"
            async with nullcontext() if is_one_part else self._turns:
                links, block = await self._links(reading, unpacked, room)
        finally:
            if is_coded:
                body.discard()
        if reading.kind is None and link.kind not in SITEMAPS:
            return done, True
        if done.outcome != "ok":
            reading.fault(done.reason or done.outcome, 1, "")
        if unpacked.fault:
            reading.fault(unpacked.fault, 1, unpacked.detail)
        if reading.faults:
            words = reading.words()
            reading.refuse("sitemap_fault")
            reading.cut["sitemap_fault"] = words
            is_guess = reading.kind is None and link.url.endswith("/sitemap.xml") and list(reading.faults) == ["not_a_sitemap"]
            logger.log(logging.DEBUG if is_guess else logging.WARNING, "sitemap_fault: %s: %s", link.url, words)
        if over := reading.refused.get("outlinks"):
            reading.cut["outlinks"] = f"{over} references were left out"
        cut = tuple(reading.cut.items())
        done = replace(done, outlinks=links, block=block, refused=reading.refused, encoding=reading.encoding, cut=cut)
        return done, reading.kind is None and self._is_page(link, page)

    def _is_page(self, link: Link, page: Page) -> bool:
        """Whether what was named as a sitemap is a page of the site, such as a list of links for people."""
        is_html = (page.mime in MIMES or page.sniffed in MIMES) and not _is_file(_path(link.url))
        return is_html and self._scope.refuses(replace(link, kind="link")) is None

    async def _links(self, reading: _Reading, unpacked: Unpacked, room: VisitMemory) -> tuple[tuple[Link, ...], LinkBlock | None]:
        """The last of what is named, sitemaps and links; the others are admitted now."""
        links: list[Link] = []
        block: LinkBlock | None = None
        async for found in self._parts(reading, unpacked, room):
            for link in self._sitemaps(reading, found.part):
                if len(links) >= PART_LINKS:
                    await self._admit(Admitted(tuple(links)))
                    links.clear()
                links.append(link)
            if self._hasten is not None and found.part.modified:
                await self._hasten(found.part.modified)
            for columns in found.links:
                if not columns.is_sound(self._config.max_url):  # a document may have taken its process over
                    reading.refuse("parse_crashed")
                    continue
                if block is not None:
                    await self._admit(Admitted((), block=block))
                block = block_of(columns, reading.link, deeper=0)
        return tuple(links), block

    def _sitemaps(self, reading: _Reading, part: Part) -> Iterator[Link]:
        """The sitemaps that an index names, but for what a rule refuses."""
        for url in part.entries:
            if part.kind != "index" or not url.startswith(("http://", "https://")):
                continue  # a document may have taken its process over
            link, rule = self._sitemap(reading.link, url)
            if rule is None:
                yield link
            else:
                reading.refuse(rule)

    async def _parts(self, reading: _Reading, unpacked: Unpacked, room: VisitMemory) -> AsyncIterator[PackedPart]:
        """What a parser process reads, until the end or a cap. Memory is held for one part at a time, before it is there:
        otherwise a visit that needs the whole account would wait until all sitemaps are read, and every visit behind it as
        well."""
        link, charset = reading.link, reading.charset
        place = (link.url, charset, link.depth, link.anchor or link.url, self._reading)
        state, left, more_left = b"", URLS_MAX, MORE_MAX
        parts, end = iter(unpacked), ""
        while not end:
            with await room.decode(SITEMAP_PART_BYTES):
                (data, end), more = next(parts), True
                while more:
                    found = await self._parser.call(FUNCTION, data, state, end, left, *place, result=PackedPart, host=link.host)
                    if isinstance(found, ParseFault):
                        if reading.lost(found, len(data)) >= LOST_PARTS_MAX:
                            return
                        state = without_part(state)
                        break
                    part = found.part
                    data, state, more = b"", part.state, part.more
                    reading.take(part)
                    if part.kind == "index" and link.hops >= INDEX_DEPTH_MAX:
                        reading.fault("index_depth", 1, f"over {INDEX_DEPTH_MAX} indexes in one another")
                        return
                    left -= found.count
                    more_left -= more
                    yield found
                    if found.is_over:
                        reading.fault("too_many_urls", 1, f"only {URLS_MAX} of its URLs are read")
                        return
                    if more_left < 0:  # a document may have taken its process over
                        reading.refuse("parse_crashed")
                        reading.cut["parse_crashed"] = f"its parser had more after {MORE_MAX} replies"
                        return

    def _sitemap(self, page: Link, url: str) -> tuple[Link, str | None]:
        """A sitemap that another, or a robots.txt, names, and the rule that refuses it."""
        host, site = urls.host_key(url), self._scope.site(page.anchor or page.url)
        link = Link(url, host, "sitemap", page.depth, hops=page.hops + 1, via=page.url, tag=page.tag, anchor=site)
        rule = self._scope.refuses(link)
        if rule is None and host != page.host and not urls.is_called_sitemap(url):
            # What is visited as a sitemap is known from then on, and if it is a page its links are not followed: nobody may
            # have that done to another's.
            rule = "sitemap_name"
        return link, rule


class _Reading:
    """What is known of one sitemap that is being read."""

    def __init__(self, link: Link, page: Page) -> None:
        self.link, self.charset = link, page.charset
        self.kind: str | None = None
        self.encoding: str | None = None
        self.refused: dict[str, int] = {}
        self.cut: dict[str, str] = {}
        self.faults: dict[str, tuple[int, str]] = {}
        self._lost = self._lost_bytes = 0

    def take(self, part: Part) -> None:
        self.kind, self.encoding = part.kind or self.kind, part.encoding
        for rule, count in part.refused.items():
            self.refuse(rule, count)
        for name, (count, detail) in part.faults.items():
            self.fault(name, count, detail)

    def fault(self, name: str, count: int, detail: str) -> None:
        before, first = self.faults.get(name, (0, detail))
        self.faults[name] = before + count, first

    def lost(self, fault: ParseFault, size: int) -> int:
        """A part could not be read; how many there are of them."""
        self.refuse(fault.reason)
        self._lost += 1
        self._lost_bytes += size
        self.cut[fault.reason] = f"{self._lost_bytes} bytes were not read"
        return self._lost

    def refuse(self, rule: str, count: int = 1) -> None:
        self.refused[rule] = self.refused.get(rule, 0) + count

    def words(self) -> str:
        """``xml, 3 times, first line 12: undefined entity; too_large: ...``"""
        said = (
            name + (f", {count} times, first" if count > 1 and detail else "") + (f": {detail}" if detail else "")
            for name, (count, detail) in self.faults.items()
        )
        return "; ".join(said)


def _path(url: str) -> str:
    return url.partition("?")[0][len(urls.origin(url)) :]


_is_file = re.compile(r"\.(?:xml|txt|rss|atom)(?:\.gz)?$", re.IGNORECASE).search
_is_sitemap = re.compile(rb"<(?:[A-Za-z_][\w.\-]{0,40}:)?(?:urlset|sitemapindex)[\s>]").search
_is_feed = re.compile(rb"<(?:rss|feed|(?:[A-Za-z_][\w.\-]{0,40}:)RDF)[\s>]").search
_is_html = re.compile(rb"\s*<(?:!DOCTYPE\s+html|html)[\s>]", re.IGNORECASE).match
_is_list = re.compile(rb"(?:\xef\xbb\xbf)?\s*https?://", re.IGNORECASE).match
