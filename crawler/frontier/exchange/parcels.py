"""What a commit finds that others own, packed by part: links, robots rules, and where those could not be fetched.

A link sent twice does no harm, so what a page has and was sent lately is not sent again; what makes a row is sent as often as it
is found. A link that came here by mistake is always sent on: perhaps it was this part that had sent it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from msgspec.structs import replace

from crawler.core.batch import FOREIGN, Admitted, Prepared, Settled, found_in
from crawler.core.keys import KEY_BYTES, Share
from crawler.core.link_block import LinkBlock, encode_link
from crawler.core.model import EXPANDED, Done, Link
from crawler.core.urls import host_key
from crawler.frontier.cache import GenerationCache
from crawler.frontier.exchange.segment import Parcel, Piece

PARCEL_BYTES_MAX: Final = 1 << 20
"""About: no parcel takes more, but for what a single page brings."""
SENT_LINKS_MAX: Final = 1 << 15
"""Links remembered as sent lately, about 150 bytes each."""


Sent = GenerationCache[bytes, int]
"""Key of a link → the least depth from which it was sent."""
_NOTHING_SENT: Final[Sent] = GenerationCache(1)


class Packing:
    """A parcel, while it is put together."""

    def __init__(self) -> None:
        self.parcel = Parcel([], [], [])
        self.size = self.links = 0

    def add(self, piece: Piece) -> None:
        self.parcel.pieces.append(piece)
        self.size += sum(map(len, piece.links)) + (piece.block.size if piece.block is not None else 0)
        self.links += len(piece.links) + len(piece.block or ())


class Parcels:
    """Packs for one part of a crawl. What was packed counts as sent once it is committed. ``sends_on``: what is admitted may have
    come here by mistake, since hosts change their owners."""

    def __init__(self, share: Share, *, sends_on: bool = False) -> None:
        self._share, self._sends_on = share, sends_on
        self._keys_by = share.keys_by()
        self._sent: Sent = GenerationCache(SENT_LINKS_MAX // 2)
        self._sending: dict[bytes, int] = {}

    def committed(self) -> None:
        self._sent.update(self._sending)
        self._sending.clear()

    def undone(self) -> None:
        self._sending.clear()

    def forget(self) -> None:
        """What was sent is sent again where it is found again: others may have forgotten it. From any thread: what a commit is
        just adding goes to the cache of before."""
        self._sent = GenerationCache(SENT_LINKS_MAX // 2)

    def of(self, prepared: Prepared) -> Iterator[tuple[int, Packing]]:
        """(part, parcel) of all that the batch found for others."""
        parcels: defaultdict[int, Packing] = defaultdict(Packing)
        if FOREIGN in prepared.verdicts:
            at = 0
            for links, block, source in found_in(prepared.batch):
                foreign = [link for link, verdict in zip(links, prepared.verdicts[at:], strict=False) if verdict == FOREIGN]
                if isinstance(source, Settled) and source.lease.link.kind in EXPANDED:  # a line that named it has its row
                    foreign = [replace(link, input=None, listed=None, extra=None) for link in foreign]
                at += len(links) + len(block or ())
                lately = _NOTHING_SENT if self._sends_on and isinstance(source, Admitted) else self._sent
                for to, piece in self._pieces(foreign, block, lately).items():
                    piece.visited_at, piece.was_redirected = _visited_at(source), source.was_redirected
                    parcels[to].add(piece)
                    if parcels[to].size > PARCEL_BYTES_MAX:
                        yield to, parcels.pop(to)
        for origin, record in prepared.batch.robots.items():
            if (to := self._owner(origin)) != self._share.own:
                parcels[to].parcel.robots.append((origin, record))
        for origin, failure in prepared.batch.denials.items():
            if (to := self._owner(origin)) != self._share.own:
                parcels[to].parcel.denials.append((origin, failure))
        yield from parcels.items()

    def _owner(self, origin: str) -> int:
        return self._share.owner(self._keys_by.host(host_key(f"{origin}/")))

    def _pieces(self, links: list[Link], block: LinkBlock | None, lately: Sent) -> dict[int, Piece]:
        """By part."""
        pieces: dict[int, Piece] = {}
        for link in links:
            to = self._share.owner(self._keys_by.host(link.host))
            pieces.setdefault(to, Piece([], None)).links.append(encode_link(link))
        if block is not None:
            for to, places in self._places(block, lately).items():
                piece = pieces.setdefault(to, Piece([], None))
                piece.block = block.only(places)
        return pieces

    def _places(self, block: LinkBlock, lately: Sent) -> dict[int, list[int]]:
        """Those of the links of a block that others own and were not sent lately, or not from so near, by part."""
        keys, own, depth = block.columns.keys, self._share.own, block.depth
        sent, sending = lately.get, self._sending
        places: dict[int, list[int]] = {}
        for at, to in enumerate(keys[::KEY_BYTES].translate(self._share.owners)):
            if to == own:
                continue
            key = keys[at * KEY_BYTES : (at + 1) * KEY_BYTES]
            before = sending[key] if key in sending else sent(key)
            if before is None or before > depth:
                sending[key] = depth
                if to in places:
                    places[to].append(at)
                else:
                    places[to] = [at]
        return places


def _visited_at(source: Settled | Admitted) -> float:
    """When the page was visited that links are of, seconds since the epoch; 0.0: they are of none."""
    if isinstance(source, Admitted):
        return source.visited_at
    assert isinstance(source.outcome, Done)
    return source.outcome.page.fetched_at
