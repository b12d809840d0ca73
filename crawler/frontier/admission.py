"""Which links of a batch are new: the rules every store shares. Pure: what a store knows is handed in as functions.

Invariant: the verdicts depend only on what was committed and on the order of the batch, so that under a depth limit the set
of pages crawled does not depend on timing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import compress
from typing import Final, NamedTuple

from msgspec import Struct
from msgspec.structs import replace
from xxhash import xxh3_64_digest

from crawler.core.batch import (
    EXPAND,
    FOREIGN,
    HOST_BUDGET,
    KNOWN,
    NEW,
    QUERY_EXPLOSION,
    Batch,
    Prepared,
    Verdict,
    found_in,
)
from crawler.core.keys import HOST_BYTES, KEY_BYTES, Keys, Share
from crawler.core.link_block import (
    NO_QUERY,
    QUERY_BYTES,
    LinkBlock,
    decode_link,
    encode_link,
    link_value,
    packed_text,
)
from crawler.core.model import (
    EMBED,
    EMBED_DEPTH,
    EXPANDED,
    NOT_PAGES,
    PRIORITY_DEFAULT,
    THERE,
    Done,
    Known,
    Link,
    Outcome,
    Retry,
    Tag,
    is_miscoded,
)
from crawler.core.urls import host_key, is_called_sitemap
from crawler.frontier.bundle import bundle_of, encode_bundle, portions
from crawler.frontier.counters import LINE_ENDED, RECORDED, UNCOUNTED
from crawler.frontier.store import Limits

BOUNDED_KINDS: Final = frozenset({"link", "sitemap", "embed"})
"""A seed, a redirect or a robots link is never left out by a budget."""

QUEUED: Final = (NEW, EXPAND)
_NEW: Final = int(NEW)  # comparing with an IntEnum takes three times as long
_ARE_NEW, _ARE_EXPANDED = (bytes(verdict == wanted for verdict in range(256)) for wanted in (NEW, EXPAND))
"""By which a column of verdicts becomes one of ones and zeros."""

# How a link is judged.
UNBOUNDED: Final = 0
"""Whatever the budgets say."""
BOUNDED: Final = 1
"""Within the budgets."""
ASIDE: Final = 2
"""Not at all: it is a visit for robots rules."""
FORGED: Final = 3
"""It is left out: its key is not its own."""
AWAY: Final = 4
"""Elsewhere: another part owns its host."""
UNJUDGED: Final = {ASIDE: EXPAND, FORGED: KNOWN, AWAY: FOREIGN}
"""What becomes of links that are not judged."""


class BatchColumns(Struct):
    """A batch's links side by side, in the order of ``found_in``. ``keys`` are KEY_BYTES each: the host's, then the URL's;
    ``paths`` holds the key of the URL before its question mark for the places that have one, ``roles`` for those of sitemaps
    the key of the sitemap as that of one site (``role_of``)."""

    keys: list[bytes]
    depths: list[int]
    ways: bytearray
    """How each is judged: UNBOUNDED to AWAY."""
    paths: dict[int, bytes]
    roles: dict[int, bytes]

    def asked(self) -> list[bytes]:
        """All keys of which it matters whether they are known: of links that are judged here."""
        keys = self.keys
        if AWAY in self.ways:
            keys = [key for key, way in zip(keys, self.ways, strict=True) if way != AWAY]
        return [*keys, *self.roles.values()] if self.roles else keys


class Ask(Struct, frozen=True):
    """What ``judge`` needs to be told. ``fruitful``: which of these known URLs were settled fruitfully or are being
    visited now. ``admitted``: links admitted so far, by host key. ``queries``: different query strings so far, by path key."""

    fruitful: Callable[[Collection[bytes]], set[bytes]]
    admitted: Callable[[Collection[bytes]], dict[bytes, int]]
    queries: Callable[[Collection[bytes]], dict[bytes, int]]


class Judged(Struct):
    verdicts: bytearray
    """As in ``Prepared``."""
    depths: dict[bytes, int]
    """Least depth of every URL that is new, or that was found nearer than before."""
    queries: dict[bytes, int]
    """Different query strings by path key, where this batch adds to them."""
    roles: list[bytes]
    """Keys of sitemaps as those of their sites, where they are new; they stand in ``depths`` as well."""


def is_own_visit(link: Link) -> bool:
    """Whether how a visit ends, or fails, is how its URL does. One for links alone (EXPANDED), or for robots rules, changes
    nothing that is known of the URL."""
    return link.kind not in EXPANDED and link.kind != "robots"


def is_robots_record(before: Known | None, *, is_known: bool) -> bool:
    """Whether the record of a robots.txt is kept at its URL: not if that was, or is to be, visited as a page.

    ``before``: the record there is, if any; ``is_known``: the URL is known, settled or not."""
    return not is_known if before is None else before.link.kind == "robots"


def role_of(link: Link) -> str | None:
    """A sitemap as that of one site, None for any other link. ``anchor`` is the same for all sitemaps of a site
    (``Scope.site``); no URL has a blank. A listed line, or where it redirects to, may be a sitemap if it is called like one."""
    if link.kind == "sitemap" or (link.input is not None and is_called_sitemap(link.url)):
        return f"{link.url} {link.anchor or link.url}"
    return None


def expanded(link: Link) -> Link:
    """A link to a known URL, as it is queued for what it links to."""
    if link.kind == "robots":
        return link
    return replace(link, kind="expand_sitemap" if link.kind == "sitemap" else "expand")


def is_robots_txt(link: Link) -> bool:
    """Whether a visit for robots rules is also the visit of its URL: of the file itself, not of what it was redirected to,
    which may be any page."""
    return link.url.endswith("/robots.txt") and link.url.count("/") == 3


def fruitful(ended: Outcome | Known) -> bool:
    """Whether a visit that ended so may have had outlinks: only then is it worth expanding once more."""
    return isinstance(ended, (Done, Known)) and (ended.outcome in THERE or is_miscoded(ended))


class EndedVisits(NamedTuple):
    """The visits of a batch, by the keys of their URLs."""

    keys: list[bytes]
    """Of all that are settled, in order."""
    fruitful: dict[bytes, bool]
    """Whether they may have had outlinks; without visits for robots rules."""
    robots: dict[bytes, int]
    """Depths of the robots.txt files, which are known from this batch on."""


def ended_in(batch: Batch, keys_by: Keys) -> EndedVisits:
    ended = EndedVisits([], {}, {})
    for settled in batch.settled:
        link = settled.lease.link
        key = keys_by.of(link.host, link.url)
        ended.keys.append(key)
        if link.kind != "robots":
            ended.fruitful[key] = fruitful(settled.outcome)
        elif is_robots_txt(link):
            ended.robots[key] = 0
    return ended


def check_settled(batch: Batch, known: Sequence[Known | None]) -> None:
    """ValueError unless every settled link has its record, but for those that are to be retried or expanded."""
    for settled, record in zip(batch.settled, known, strict=True):
        if record is None and not isinstance(settled.outcome, Retry) and settled.lease.link.kind not in EXPANDED:
            raise ValueError(f"settled without a record: {settled.lease}")


def columns_of(batch: Batch, keys_by: Keys, limits: Limits, share: Share | None) -> BatchColumns:
    """The keys of a batch's links, and how each is judged. ``share``: which hosts are judged here, None: all."""
    columns = BatchColumns([], [], bytearray(), {}, {})
    ways = None if share is None else bytes(BOUNDED if owner == share.own else AWAY for owner in share.owners)
    with_paths = limits.queries_per_path > 0
    for links, block, _ in found_in(batch):
        for link in links:
            key = keys_by.of(link.host, link.url)
            if share is not None and share.owner(key) != share.own:
                way = AWAY
            else:
                way = ASIDE if link.kind == "robots" else BOUNDED if link.kind in BOUNDED_KINDS else UNBOUNDED
                if with_paths and "?" in link.url:
                    columns.paths[len(columns.keys)] = keys_by.of(link.host, link.url.partition("?")[0])
                if limits.sitemaps and (role := role_of(link)) is not None:
                    columns.roles[len(columns.keys)] = keys_by.of(link.host, role)
            columns.keys.append(key)
            columns.depths.append(link.depth if link.kind != EMBED else EMBED_DEPTH)
            columns.ways.append(way)
        if block is not None:
            _add_block(columns, block, with_paths, ways)
    return columns


def _add_block(columns: BatchColumns, block: LinkBlock, with_paths: bool, ways: bytes | None) -> None:
    """``ways``: by the first byte of a key; None: all are BOUNDED."""
    start, keys = len(columns.keys), block.keys()
    columns.keys += keys
    columns.depths += [block.depth] * len(keys)
    columns.ways += bytes((BOUNDED,)) * len(keys) if ways is None else block.columns.keys[::KEY_BYTES].translate(ways)
    if with_paths and block.columns.queries:
        for at, key in enumerate(keys, start):
            query = block.columns.queries[(at - start) * QUERY_BYTES : (at - start + 1) * QUERY_BYTES]
            if query != NO_QUERY and columns.ways[at] == BOUNDED:
                columns.paths[at] = key[:HOST_BYTES] + query


class Admission(Struct, frozen=True):
    """What joins a host's queue as one entry: a link, or a bundle of links."""

    keys: Sequence[bytes]
    """Of the URLs. All are of one host."""
    value: bytes
    """As ``encode_link`` or ``encode_bundle`` makes it."""
    host: str
    priority: int = PRIORITY_DEFAULT
    expand: bool = False
    """Its URL was known before; this is no new page."""
    is_seed: bool = False
    is_page: bool = True
    tag: Tag | None = None

    @property
    def host_key(self) -> bytes:
        return self.keys[0][:HOST_BYTES]


class Admissions:
    """What joins the queues, in the order of the batch. Links of a block are not decoded, but for those that are expanded."""

    def __init__(self, batch: Batch, columns: BatchColumns, judged: Judged, keys_by: Keys) -> None:
        self._columns, self._judged, self._keys_by = columns, judged, keys_by
        self.entries: list[Admission] = []
        self.forged: list[int] = []
        """Places of links whose keys are not theirs: the process that read the page was taken over."""
        at = 0
        for links, block, source in found_in(batch):
            for link in links:
                if judged.verdicts[at] in QUEUED:
                    expand, of_line = judged.verdicts[at] == EXPAND, link.kind == "redirect" and link.input is not None
                    flags = LINE_ENDED if of_line and source.was_redirected else 0
                    self.entries.append(self._of_link(link, columns.keys[at], expand, flags))
                at += 1
            if block is not None:
                end = at + len(block)
                if any(judged.verdicts[at:end]):
                    self._add_block(block, at)
                at = end

    def _of_link(self, link: Link, key: bytes, expand: bool, flags: int = 0) -> Admission:
        is_page = link.kind not in NOT_PAGES
        flags |= (RECORDED if expand else 0) | (0 if is_page else UNCOUNTED)
        value = encode_link(expanded(link) if expand else link, flags)
        return Admission((key,), value, link.host, link.priority, expand, link.kind == "seed", is_page, link.tag)

    def _add_block(self, block: LinkBlock, start: int) -> None:
        """Its new links by host, in order; those that are expanded each by itself."""
        end = start + len(block)
        keys, verdicts = self._columns.keys[start:end], self._judged.verdicts[start:end]
        links = list(zip(keys, block.urls(), strict=True))
        by_host: defaultdict[bytes, list[tuple[bytes, bytes]]] = defaultdict(list)
        for link in compress(links, verdicts.translate(_ARE_NEW)):
            by_host[link[0][:HOST_BYTES]].append(link)
        for key, url in compress(links, verdicts.translate(_ARE_EXPANDED)):
            decoded = decode_link(link_value(url, packed_text(host_key(url.decode()).encode()), block.tail))[1]
            self.entries.append(self._of_link(decoded, key, True))
        for group in by_host.values():
            group_keys, urls = map(list, zip(*group, strict=True))
            host = host_key(urls[0].decode())
            if self._are_theirs(host, group_keys, urls):
                self._add_group(block, host, group_keys, urls)
            else:
                self.forged += self._forged_in(block, start)
                return

    def _add_group(self, block: LinkBlock, host: str, keys: list[bytes], urls: list[bytes]) -> None:
        if len(urls) == 1:
            value = link_value(urls[0], packed_text(host.encode()), block.tail)
            self.entries.append(Admission(keys, value, host, block.priority, tag=block.tag))
            return
        for some in portions(urls):
            bundle = bundle_of(host, block.tail, urls[some])
            self.entries.append(Admission(keys[some], encode_bundle(bundle), host, block.priority, tag=block.tag))

    def _are_theirs(self, host: str, keys: list[bytes], urls: list[bytes]) -> bool:
        """Whether these are the keys of these URLs, all of this host."""
        places = (f"http://{host}/".encode(), f"https://{host}/".encode())
        of_host, secret = self._keys_by.host(host), self._keys_by.secret
        if [url for url in urls if not url.startswith(places)]:
            return False
        return [of_host + xxh3_64_digest(url, secret) for url in urls] == keys

    def _forged_in(self, block: LinkBlock, start: int) -> list[int]:
        """Places of the new links of a block whose keys are not theirs."""
        keys, verdicts = self._columns.keys, self._judged.verdicts
        new = ((at, url) for at, url in enumerate(block.urls(), start) if verdicts[at] in QUEUED)
        return [at for at, url in new if self._keys_by.of(host_key(url.decode()), url.decode()) != keys[at]]


class Decided(Prepared):
    """A prepared batch, with what the store itself needs to commit it."""

    settled: list[bytes]
    """Keys of the settled links."""
    judged: Judged
    admitted: list[Admission]
    """What joins the queues."""
    forged: int
    """Links left out, as their keys are not their own."""


def decide(
    batch: Batch,
    ended: EndedVisits,
    columns: BatchColumns,
    known_of: Callable[[], dict[bytes, int]],
    limits: Limits,
    ask: Ask,
    keys_by: Keys,
) -> Decided:
    """The verdicts on a batch, and what follows from them. ``known_of()`` is asked for the least depths of the columns' keys,
    as the store has them. Where links are forged, all is judged again without them: a forged key must not make another's
    page known."""
    forged = 0
    while True:
        judged = judge(columns, ended.robots | known_of(), limits, ask)
        admissions = Admissions(batch, columns, judged, keys_by)
        if not admissions.forged:
            entries = admissions.entries
            fed = frozenset(entry.host for entry in entries)
            return Decided(batch, bytes(judged.verdicts), fed, ended.keys, judged, entries, forged)
        forged += len(admissions.forged)
        for at in admissions.forged:
            columns.ways[at] = FORGED


def judge(columns: BatchColumns, known: dict[bytes, int], limits: Limits, ask: Ask) -> Judged:
    """A verdict for each link. ``known`` holds the least depth of those known before; those of this batch are added to it.

    Five cases, in this order:
    1. a robots link is queued whatever is known; a link of another part is sent there, and a forged one left out;
    2. an unknown URL is new, unless a budget of its host or path is used up;
    3. a known URL stays known where depths do not matter, or it was found no nearer;
    4. one that was found nearer is queued again for its links, if it may have had any;
    5. else it is known, at its new depth.
    Then a known sitemap is queued again for each site that names it for the first time, and is to have its entries."""
    depth_limited = limits.depth_limited
    worth = _worth(columns, known, ask) if depth_limited else set()
    budgets = _Budgets(columns, known, limits, ask)
    judged = Judged(bytearray(len(columns.keys)), {}, budgets.queries, [])
    verdicts, depths, ways = judged.verdicts, judged.depths, columns.ways
    if not depth_limited and not budgets.apply and max(ways, default=UNBOUNDED) <= BOUNDED:
        for at, key in enumerate(columns.keys):  # of the five cases only the second is left
            if key not in known:
                known[key] = depths[key] = columns.depths[at]
                verdicts[at] = _NEW
        _judge_roles(columns, known, judged)
        return judged
    for at, key in enumerate(columns.keys):
        depth = known.get(key)
        if ways[at] > BOUNDED:
            verdicts[at] = UNJUDGED[ways[at]]
        elif depth is None:
            verdicts[at] = verdict = budgets.verdict(at, key) if budgets.apply else NEW
            if verdict == NEW:
                known[key] = depths[key] = columns.depths[at]
        elif depth_limited and columns.depths[at] < depth:
            known[key] = depths[key] = columns.depths[at]
            if key in worth:
                verdicts[at] = EXPAND
                worth.discard(key)  # queued once: a still shorter path found now lowers that link's depth
    _judge_roles(columns, known, judged)
    return judged


def _judge_roles(columns: BatchColumns, known: dict[bytes, int], judged: Judged) -> None:
    """Known sitemaps are queued again for each site that names them for the first time."""
    verdicts = judged.verdicts
    for at, role in columns.roles.items():
        if role not in known and verdicts[at] in (KNOWN, *QUEUED):
            known[role] = judged.depths[role] = 0
            judged.roles.append(role)
            if verdicts[at] == KNOWN:
                verdicts[at] = EXPAND


def _worth(columns: BatchColumns, known: Mapping[bytes, int], ask: Ask) -> set[bytes]:
    """Known URLs found nearer than before that may have had links."""
    places = zip(columns.keys, columns.depths, columns.ways, strict=True)
    nearer = {key for key, depth, way in places if depth < known.get(key, 0) and way <= BOUNDED}
    return ask.fruitful(nearer) if nearer else set()


class _Budgets:
    """The budgets of hosts and paths, as far as the unknown links need them."""

    def __init__(self, columns: BatchColumns, known: Mapping[bytes, int], limits: Limits, ask: Ask) -> None:
        self._pages_max, self._queries_max = limits.pages_per_host, limits.queries_per_path
        self._columns = columns
        self._admitted: dict[bytes, int] = {}
        self._queries: dict[bytes, int] = {}
        self.queries: dict[bytes, int] = {}
        if self._pages_max:
            ways = columns.ways
            hosts = {key[:HOST_BYTES] for at, key in enumerate(columns.keys) if key not in known and ways[at] <= BOUNDED}
            self._admitted = ask.admitted(hosts) if hosts else {}
        if self._queries_max and (paths := {path for at, path in columns.paths.items() if columns.keys[at] not in known}):
            self._queries = ask.queries(paths)
        self.apply = bool(self._pages_max or (self._queries_max and columns.paths))

    def verdict(self, at: int, key: bytes) -> Verdict:
        host, is_bounded = key[:HOST_BYTES], self._columns.ways[at] == BOUNDED
        if self._pages_max and is_bounded and self._admitted.get(host, 0) >= self._pages_max:
            return HOST_BUDGET
        if self._queries_max and (path := self._columns.paths.get(at)) is not None:
            count = self._queries.get(path, 0)
            if is_bounded and count >= self._queries_max:
                return QUERY_EXPLOSION
            self.queries[path] = self._queries[path] = count + 1
        if self._pages_max:
            self._admitted[host] = self._admitted.get(host, 0) + 1
        return NEW
