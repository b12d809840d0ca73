"""The links of a response that belong to the crawl: a redirect's target, a page's outlinks, a sitemap's entries.

Reading is bounded in bytes, time and links; what is left out is counted under the rule that left it out. More links than one
batch should carry are admitted in parts before their page's outcome, which is harmless: admission is idempotent.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from crawler.config.sections import Config
from crawler.core.batch import Admitted
from crawler.core.link_block import LinkBlock, block_of, embeds_of
from crawler.core.model import EMBED, READABLE, SITEMAPS, Done, Link, is_miscoded
from crawler.core.text import field_text
from crawler.core.urls import origin
from crawler.crawl.embeds import FUNCTION as EMBEDS
from crawler.crawl.embeds import NESTING_MAX
from crawler.crawl.outlinks import BEGIN, FUNCTION, Packed, ReadingOptions, encode
from crawler.parse.html import HEADERS, MIMES, Options
from crawler.parse.microsyntax import robots_tag
from crawler.parse.requisites import MIMES as REQUISITES_MIMES
from crawler.policy.scope import Scope
from crawler.resources.memory_budget import Reservation, VisitMemory
from crawler.resources.memory_plan import document_bytes

if TYPE_CHECKING:
    from crawler.crawl.sitemaps import Sitemaps
    from crawler.fetch.decoding import Finisher
    from crawler.parse.pool import ParseFault, ParserPool

PART: Final = 4
"""Of a document that is more than a parser process can hold, one in so many bytes is read: its first ones."""
PART_BYTES_MIN: Final = 64 << 10
LARGE_BYTES: Final = 64 << 10
"""Of a document whose references are counted, to hold no more memory for its links than it can have."""

_HEADER_CHARS: Final = frozenset(map(len, HEADERS))
Headers = Sequence[tuple[bytes, bytes]]
"""Of a response, the fields that say something of links."""


class Expander:
    """``parser`` None: pages have no outlinks in this crawl; ``undo`` undoes content codings; ``admit`` takes links into the next
    batch; ``secret`` is the seed of the crawl's fingerprints; ``on_parsed`` is told how many seconds finding the links of a page
    took; ``hasten`` is told when URLs say to have been modified; ``by_domain``: hosts of a domain are in one slot. ``obeys``:
    whether what the pages of an origin say to robots is honoured; None: as the setting for all hosts says."""

    def __init__(
        self,
        config: Config,
        scope: Scope,
        parser: ParserPool | None,
        undo: Finisher,
        admit: Callable[[Admitted], Awaitable[object]],
        *,
        secret: int,
        on_parsed: Callable[[float], None] = lambda seconds: None,
        hasten: Callable[[Mapping[str, float]], Awaitable[None]] | None = None,
        by_domain: bool = False,
        obeys: Callable[[str], bool] | None = None,
    ) -> None:
        self._undo = undo
        self._parser = parser
        self._admit = admit
        self._rules = rules = config.url_rules()
        self._secret, self._by_domain, self._obeys = secret, by_domain, obeys
        self._on_parsed = on_parsed
        self._with_modified = hasten is not None
        self._requisites = config.requisites
        self._mimes = REQUISITES_MIMES if config.requisites else MIMES
        self.sitemaps: Sitemaps | None = None
        """None: no sitemaps are read in this crawl."""
        self.change(config, scope)
        if config.sitemaps and parser is not None:
            from crawler.crawl.sitemaps import Sitemaps

            self.sitemaps = Sitemaps(config, scope, rules, self._readings[config.robots], parser, undo, admit, hasten)

    def change(self, config: Config, scope: Scope) -> None:
        """From now on these rules, for what is read from now on."""
        self._config, self._scope = config, scope
        options = Options(config.name, config.max_outlinks, self._rules)
        with_queries = config.max_queries_per_path > 0
        others = (self._secret, with_queries, self._with_modified, self._by_domain)
        self._readings = tuple(
            encode(ReadingOptions(options, replace(scope.rules, obey=obey), *others)) for obey in (False, True)
        )
        """The second where what a page says to robots is honoured."""
        if self._parser is not None:
            self._parser.begin_with(BEGIN, self._readings[config.robots])
        if self.sitemaps is not None:
            self.sitemaps.change(scope, self._readings[config.robots])

    async def expand(self, link: Link, done: Done, room: VisitMemory) -> Done:
        """The same outcome with the links of the page that are admitted, the counts of those that are not, and what it says
        to robots."""
        headers = [field for field in done.page.headers if len(field[0]) in _HEADER_CHARS and field[0].lower() in HEADERS]
        if self._parser is not None or self.sitemaps is not None or done.outcome == "redirect":
            done = await self._expanded(link, done, headers, room)
        if done.robots is None and headers and (said := self._said(headers)):
            return replace(done, robots=said)
        return done

    def _reading_for(self, place: str) -> bytes:
        """What a parser process must know of the crawl to read a page of this origin."""
        return self._readings[self._config.robots if self._obeys is None else self._obeys(place)]

    def _said(self, headers: Headers) -> str | None:
        """The directives in the head of a response, where nothing more was read."""
        values = [field_text(value) for name, value in headers if name.lower() == b"x-robots-tag"]
        return _listed(word for value in values for word in robots_tag(value, self._config.name))

    async def _expanded(self, link: Link, done: Done, headers: Headers, room: VisitMemory) -> Done:
        if done.outcome == "redirect":
            return self._redirect(done)
        if done.page.status == 304 and link.kind in SITEMAPS:
            return done  # what it names was read before
        sitemaps = self.sitemaps
        if sitemaps is not None and await sitemaps.is_one(link, done, room):
            assert self._parser is not None
            async with self._parser.turn(link.host):
                done, is_page = await sitemaps.read(link, done, room)
            if not is_page:
                return done
        if done.outcome not in READABLE and not is_miscoded(done):
            return done
        if self._parser is None or not (self._scope.follows(link) if not self._requisites else link.nesting <= NESTING_MAX):
            return done
        mime = done.page.mime if done.page.mime in self._mimes else done.page.sniffed
        if mime not in self._mimes and not headers:
            return done
        async with self._parser.turn(link.host):
            return await self._page(link, done, mime, headers, room)

    def _redirect(self, done: Done) -> Done:
        for onward in done.outlinks:
            if rule := self._scope.refuses(onward):
                return replace(done, outlinks=(), refused={rule: 1})
        return done

    async def _page(self, link: Link, done: Done, mime: str | None, headers: Headers, room: VisitMemory) -> Done:
        # 1. its body, once there is room for it and for what is found there
        page = done.page
        mimes = self._mimes
        most = self._config.max_parse
        size = min(most, max(page.bytes_decoded, page.bytes_wire))
        held = await room.parse(size, self._config.max_outlinks, self._undo.decoder_bytes(page, most))
        body = await self._undo.decoded(page, size) if mime in mimes else b""  # behind a fault of its coding may be more
        cut = self._cut(done) if mime in mimes else []
        if b"<" not in body and mime in MIMES:  # no tag, in no encoding of the web; a megabyte of zeros would end its parser
            body = b""
        if not body and not headers:
            held.release()
            return _with_cut(done, cut, {}) if cut else done
        if len(body) > LARGE_BYTES and mime in MIMES:
            held.shrink(document_bytes(len(body), _references(body, headers)))
        # 2. what a parser process finds in it
        began = time.perf_counter()
        function = FUNCTION
        place: tuple[object, ...] = (link.depth + 1, link.anchor or link.url, self._reading_for(origin(link.url)))
        if self._requisites:
            function, place = EMBEDS, (*place, link.kind != EMBED and self._scope.follows(link))
        found, fault = await self._outlinks(link.host, function, body, link.url, mime, page.charset, headers, *place)
        self._on_parsed(time.perf_counter() - began)
        del body
        # 3. what is admitted now, and what with the outcome; why it is not all there is
        refused = found.refused
        is_read = bool(found.parts or found.embeds or found.encoding)  # once they are admitted, the lists are empty
        if found.embeds:
            await self._admit_embeds(link, found)
        block = await self._block(link, found, held)
        if fault is not None:
            cut.append((fault.reason, "its first part was read" if is_read else "nothing of it was read"))
        elif "parse_crashed" in refused:
            cut.append(("parse_crashed", f"{refused['parse_crashed']} parts of its links were damaged"))
        if "outlinks" in refused:
            cut.append(("outlinks", f"{refused['outlinks']} references were left out"))
        if cut or done.refused:
            done = _with_cut(done, cut, refused)
            refused = done.refused or refused
        robots = _listed(found.robots) if found.robots else None
        return replace(done, block=block, refused=refused, robots=robots, encoding=found.encoding)

    def _cut(self, done: Done) -> list[tuple[str, str]]:
        """Why not all of a page is there to be read."""
        cut: list[tuple[str, str]] = []
        page = done.page
        if done.outcome != "ok":
            cut.append(("body_cut", f"{page.bytes_decoded} bytes of it came: {done.reason or done.outcome}"))
        if page.bytes_decoded > self._config.max_parse:
            cut.append(("max_parse", f"{self._config.max_parse} of {page.bytes_decoded} bytes were read"))
        return cut

    async def _admit_embeds(self, page: Link, found: Packed) -> None:
        """What a page needs is admitted now: it is known to be needed, whatever becomes of the page's own visit."""
        sound = [embeds_of(columns, page) for columns in found.embeds if columns.is_sound(self._config.max_url)]
        if len(sound) < len(found.embeds):
            found.refused["parse_crashed"] = found.refused.get("parse_crashed", 0) + len(found.embeds) - len(sound)
        found.embeds.clear()
        for block in sound:
            await self._admit(Admitted((), block=block))

    async def _block(self, page: Link, found: Packed, held: Reservation) -> LinkBlock | None:
        """The last part of a page's links, the others being admitted now. What is held of them stays reserved, until the
        outcome is."""
        blocks = [block_of(columns, page) for columns in found.parts if columns.is_sound(self._config.max_url)]
        if len(blocks) < len(found.parts):  # a document may have taken its process over
            found.refused["parse_crashed"] = found.refused.get("parse_crashed", 0) + len(found.parts) - len(blocks)
        found.parts.clear()
        held.shrink(sum([block.size for block in blocks]))
        while len(blocks) > 1:
            await self._admit(Admitted((), block=blocks.pop(0)))
            held.shrink(sum(block.size for block in blocks))
        return blocks[0] if blocks else None

    async def _outlinks(self, host: str, function: str, body: bytes, *rest: object) -> tuple[Packed, ParseFault | None]:
        """What the parser finds, and why not all of it. A page of very many links takes more memory than a parser has: its
        first part need not. (It is blamed only alone in a fresh process, so this does not depend on what was read before.)"""
        assert self._parser is not None
        found = await self._parser.call(function, body, *rest, result=Packed, host=host)
        if isinstance(found, Packed):
            return found, None
        fault = found
        if fault.reason == "parse_crashed" and len(body) // PART >= PART_BYTES_MIN:
            found = await self._parser.call(function, body[: len(body) // PART], *rest, result=Packed, host=host)
        return (found if isinstance(found, Packed) else Packed([], [], {})), fault


def _with_cut(done: Done, cut: list[tuple[str, str]], refused: Mapping[str, int]) -> Done:
    """The outcome with these causes why its page was not read whole, and one count of each."""
    counts = Counter(done.refused or {})
    counts.update(refused)
    counts.update(rule for rule, _ in cut if rule not in refused)
    return replace(done, refused=dict(counts), cut=(*done.cut, *cut))


def _references(body: bytes, headers: Headers) -> int:
    """No document has more: each is the value of an attribute, stands behind a comma, or in a header."""
    return body.count(b"=") + body.count(b",") + sum(1 + value.count(b",") for _, value in headers)


def _listed(words: Iterable[str]) -> str | None:
    return ",".join(sorted(set(words))) or None
