"""Where pages are kept. One Protocol, three kinds: ``warc``, ``files``, ``discard``.

Only the writer thread calls an archive, between the store's prepare and commit (crawler.output.journal). The law: ``append``
promises nothing; what lies before a mark that was committed is there once and for ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from crawler.config.sections import ArchiveConfig
from crawler.core.model import Done, Lease, Mark, Ref


class Kept(Struct, frozen=True, gc=False):
    """Where a page was put. ``body`` is where its bytes stand: an earlier record, if ``record`` is a revisit of it."""

    record: Ref
    body: Ref
    body_at: float
    """When ``body`` was fetched: wall time, seconds since the epoch."""
    unmodified: bool = False
    """The server said 304: the page's own body is empty, the digest of what it stands for is the earlier one's."""


class Archive(Protocol):
    """Every method may raise StorageError; after that only ``rewind`` and ``close`` may be called."""

    def append(self, lease: Lease, done: Done) -> Kept | None:
        """Write one page and its index line; None if this kind keeps nothing. It may move the body's spool file."""

    def sync(self) -> dict[str, Mark]:
        """Make all appended bytes durable; the marks of the files that changed. A full file is marked ``closed``."""

    def committed(self) -> None:
        """The marks of the last ``sync`` are committed: closed files get their final name and sorted index."""

    def rewind(self, marks: Mapping[str, Mark]) -> list[str]:
        """Cut every file back to its mark and continue from there; the files moved to lost+found. Used at start, and
        after a failed batch. Marks of files that are not the archive's are left alone."""

    def cut(self, marks: Mapping[str, Mark]) -> None:
        """Close, and cut every file that is being written back to its mark: the process ends, and what was not committed must
        not be found behind it. Only ``close`` may follow."""

    def retire(self, files: Iterable[str]) -> None:
        """These are about to be deleted: nothing that is appended from now on may refer to them."""

    def roll(self) -> None:
        """Ask for the open files to be closed by the next ``sync`` (end of a crawl)."""

    def close(self) -> None: ...


def open_archive(config: ArchiveConfig, root: Path, info: Mapping[str, str] | None = None) -> Archive:
    """The archive of the crawl in ``root``; ``rewind`` must come before the first ``append``.

    ``info``: further fields of a WARC file's first record (``operator``, ``robots``, ``http-header-user-agent``, ...)."""
    if config.archive == "warc":
        from crawler.output.archive.warc import WarcArchive

        return WarcArchive(root, prefix=config.warc_prefix, roll_bytes=config.roll_size, info=info or {})
    if config.archive == "files":
        from crawler.output.archive.files import FilesArchive

        return FilesArchive(root)
    from crawler.output.archive.discard import DiscardArchive

    return DiscardArchive()


__all__ = ["Archive", "Kept", "open_archive"]
