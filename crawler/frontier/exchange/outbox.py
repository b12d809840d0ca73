"""What a part sends to the others: one more file of its commits, rolled as all are, kept until everybody has read it.

The law: what a commit makes true of links that others own stands in this file before the commit, and counts only with it.
A link sent twice does no harm, so what was sent lately is not sent again; what makes a row is sent as often as it is found.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from crawler.core.batch import FOREIGN, Batch, Prepared, found_in
from crawler.core.keys import KEY_BYTES, Share
from crawler.core.link_block import LinkBlock, encode_link
from crawler.core.model import EXPANDED, Done, Link, Mark
from crawler.core.rolling import RollingFile
from crawler.core.urls import host_key
from crawler.frontier.cache import GenerationCache
from crawler.frontier.exchange.board import Board, number_of, offset_of, place
from crawler.frontier.exchange.segment import LAST, Parcel, Piece, segment

FOLDER: Final = "exchange/"
ROLL_BYTES: Final = 16 << 20
SEGMENT_BYTES_MAX: Final = 1 << 20
"""About: no segment takes more, but for what a single page brings."""
SENT_LINKS_MAX: Final = 1 << 15
"""Links remembered as sent lately, about 150 bytes each."""


def prefix_of(part: int) -> str:
    return f"{FOLDER}p{part:02d}-"


SUFFIX: Final = ".log"


class Outbox:
    """Called by the writer thread, as the other files of a commit; ``spent`` and ``lag_bytes`` from any. May raise
    StorageError; after that only ``rewind``, ``cut`` and ``close`` may be called. ``rewind`` comes first."""

    def __init__(self, root: Path, share: Share, board: Board, roll_bytes: int = ROLL_BYTES) -> None:
        self._share, self._board, self._roll_bytes = share, board, roll_bytes
        self._keys_by = share.keys_by()
        self._files = RollingFile(root, prefix_of(share.own), SUFFIX, roll_bytes, LAST)
        self._sent: GenerationCache[bytes, int] = GenerationCache(SENT_LINKS_MAX // 2)
        self._sending: dict[bytes, int] = {}
        self.links_sent = 0
        """Since it was opened."""

    # -- what a commit sends --------------------------------------------------------------------------------------

    def append(self, prepared: Prepared) -> None:
        """Write down what the batch found for others."""
        parcels: dict[int, _Packing] = {}
        if FOREIGN in prepared.fresh:
            at = 0
            for links, block, is_again in _found_in(prepared.batch):
                verdicts = prepared.fresh[at : at + len(links)]
                foreign = [link for link, verdict in zip(links, verdicts, strict=True) if verdict == FOREIGN]
                if is_again:
                    foreign = [replace(link, input=None, listed=None, extra=None) for link in foreign]
                at += len(links) + len(block or ())
                for to, piece in self._pieces(foreign, block).items():
                    self._pack(parcels, to).add(piece)
                    if parcels[to].size > SEGMENT_BYTES_MAX:
                        self._write(to, parcels.pop(to))
        for origin, record in prepared.batch.robots.items():
            if (to := self._owner(origin)) != self._share.own:
                self._pack(parcels, to).parcel.robots.append((origin, record))
        for origin, failure in prepared.batch.denials.items():
            if (to := self._owner(origin)) != self._share.own:
                self._pack(parcels, to).parcel.denials.append((origin, failure))
        for to, packing in parcels.items():
            self._write(to, packing)

    def _owner(self, origin: str) -> int:
        return self._share.owner(self._keys_by.host(host_key(f"{origin}/")))

    def _pieces(self, links: list[Link], block: LinkBlock | None) -> dict[int, Piece]:
        """By part."""
        pieces: dict[int, Piece] = {}
        for link in links:
            to = self._share.owner(self._keys_by.host(link.host))
            pieces.setdefault(to, Piece([], None)).links.append(encode_link(link))
        if block is not None:
            for to, places in self._places(block).items():
                piece = pieces.setdefault(to, Piece([], None))
                piece.block = block.only(places)
        return pieces

    def _places(self, block: LinkBlock) -> dict[int, list[int]]:
        """Those of the links of a block that others own and were not sent lately, or not from so near, by part."""
        keys, own, depth = block.columns.keys, self._share.own, block.depth
        sent, sending = self._sent.get, self._sending
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

    def _pack(self, parcels: dict[int, _Packing], to: int) -> _Packing:
        packing = parcels.get(to)
        if packing is None:
            packing = parcels[to] = _Packing()
        return packing

    def _write(self, to: int, packing: _Packing) -> None:
        self._files.write(segment(to, packing.parcel))
        self.links_sent += packing.links

    # -- as a file of the commit ----------------------------------------------------------------------------------

    def sync(self) -> dict[str, Mark]:
        """Make it durable; the mark of the file if it changed."""
        return self._files.sync()

    def committed(self) -> None:
        """The store has committed the mark: the others may read up to it."""
        self._files.committed()
        self._sent.update(self._sending)
        self._sending.clear()
        self._announce()

    def rewind(self, marks: Mapping[str, Mark]) -> list[str]:
        """Back to what the store has committed, which may be more than was announced; the files moved to lost+found."""
        self._sending.clear()
        lost = self._files.rewind(marks)
        self._announce()
        return lost

    def cut(self, marks: Mapping[str, Mark]) -> None:
        """Cut the file back, and close: the process ends."""
        self._files.cut(marks)

    def close(self) -> None:
        self._files.close()

    @property
    def buffered(self) -> int:
        """Bytes appended that wait in memory. May be asked by any thread."""
        return self._files.buffered

    def _announce(self) -> None:
        end = place(self._files.number, self._files.size)
        if end != self._board.written(self._share.own):
            self._board.announce_written(self._share.own, end)
            self._board.ring(self._share.own)

    def _own(self, marks: Mapping[str, Mark]) -> list[tuple[int, str]]:
        """(number, name) of this part's files."""
        prefix = prefix_of(self._share.own)
        return [(int(file[len(prefix) : -len(SUFFIX)]), file) for file in marks if file.startswith(prefix)]

    # -- what all have read ---------------------------------------------------------------------------------------

    def spent(self, marks: Mapping[str, Mark]) -> list[str]:
        """Of the files of these marks, those that everybody has read. The newest is always kept: numbers are never given
        twice."""
        own = self._own(marks)
        end = min(number_of(self._board.read_by_all(self._share.own)), max(own, default=(0, ""))[0])
        return [file for number, file in sorted(own) if number < end]

    def lag_bytes(self) -> int:
        """About how much the slowest part has still to read."""
        written, read = self._board.written(self._share.own), self._board.read_by_all(self._share.own)
        return (number_of(written) - number_of(read)) * self._roll_bytes + offset_of(written) - offset_of(read)


def _found_in(batch: Batch) -> Iterator[tuple[Sequence[Link], LinkBlock | None, bool]]:
    """As ``found_in``; and whether the page was visited for its links alone: a line that named it has its row."""
    visits = [settled.lease.link.kind in EXPANDED for settled in batch.settled if isinstance(settled.outcome, Done)]
    for (links, block), is_again in zip(found_in(batch), chain(visits, repeat(False))):  # noqa: B905 - the second has no end
        yield links, block, is_again


class _Packing:
    """A parcel, while it is put together."""

    def __init__(self) -> None:
        self.parcel = Parcel([], [], [])
        self.size = self.links = 0

    def add(self, piece: Piece) -> None:
        self.parcel.pieces.append(piece)
        self.size += sum(map(len, piece.links)) + (piece.block.size if piece.block is not None else 0)
        self.links += len(piece.links) + len(piece.block or ())
