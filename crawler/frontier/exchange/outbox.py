"""What a part sends to the others: one more file of its commits, rolled as all are, kept until everybody has read it.

Invariant: what a commit makes true of links that others own stands in this file before the commit, and counts only with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from crawler.core.batch import Prepared
from crawler.core.keys import Share
from crawler.core.model import Mark
from crawler.core.rolling import RollingFile
from crawler.frontier.exchange.board import Board, number_of, offset_of, place
from crawler.frontier.exchange.parcels import Parcels
from crawler.frontier.exchange.segment import LAST, segment

FOLDER: Final = "exchange/"
ROLL_BYTES: Final = 16 << 20


def prefix_of(part: int) -> str:
    return f"{FOLDER}p{part:02d}-"


SUFFIX: Final = ".log"


class Outbox:
    """Called by the writer thread, as the other files of a commit; ``spent`` and ``lag_bytes`` from any. May raise
    StorageError; after that only ``rewind``, ``cut`` and ``close`` may be called. ``rewind`` comes first."""

    def __init__(self, root: Path, share: Share, board: Board, roll_bytes: int = ROLL_BYTES) -> None:
        self._share, self._board, self._roll_bytes = share, board, roll_bytes
        self._parcels = Parcels(share)
        self._files = RollingFile(root, prefix_of(share.own), SUFFIX, roll_bytes, LAST)
        self.links_sent = 0
        """Since it was opened."""

    # -- what a commit sends --------------------------------------------------------------------------------------

    def append(self, prepared: Prepared) -> None:
        """Write down what the batch found for others."""
        for to, packing in self._parcels.of(prepared):
            self._files.write(segment(to, packing.parcel))
            self.links_sent += packing.links

    def forget(self) -> None:
        """As ``Parcels.forget``."""
        self._parcels.forget()

    # -- as a file of the commit ----------------------------------------------------------------------------------

    def sync(self) -> dict[str, Mark]:
        """Make it durable; the mark of the file if it changed."""
        return self._files.sync()

    def committed(self) -> None:
        """The store has committed the mark: the others may read up to it."""
        self._files.committed()
        self._parcels.committed()
        self._announce()

    def rewind(self, marks: Mapping[str, Mark]) -> list[str]:
        """Back to what the store has committed, which may be more than was announced; the files moved to lost+found."""
        self._parcels.undone()
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
