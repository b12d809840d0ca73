"""Where pages are kept. One Protocol, three kinds: ``warc``, ``files``, ``discard``.

Only the writer thread calls an archive, between the store's prepare and commit (crawler.journal). The law: ``append``
promises nothing; what lies before a mark that was committed is there once and for ever.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from crawler.model import Done, Lease, Mark, Ref


class Archive(Protocol):
    """Every method may raise StorageError; after that only ``rewind`` and ``close`` may be called."""

    def append(self, lease: Lease, done: Done) -> Ref | None:
        """Write one page and its index line; None if this kind keeps nothing."""

    def sync(self) -> dict[str, Mark]:
        """Make all appended bytes durable; the marks of the files that changed. A full file is marked ``closed``."""

    def committed(self) -> None:
        """The marks of the last ``sync`` are committed: closed files get their final name and sorted index."""

    def rewind(self, marks: Mapping[str, Mark]) -> None:
        """Cut every file back to its mark and continue from there. Used at start, and after a failed batch."""

    def roll(self) -> None:
        """Ask for the open files to be closed by the next ``sync`` (end of a crawl)."""

    def close(self) -> None: ...


__all__ = ["Archive", "Sequence"]
