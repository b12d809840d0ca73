"""The archive kind ``discard``: keeps nothing. For link checks and benchmarks.

Invariant: it has no folder, so no file is ever taken for one of this kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

from crawler.config.sections import ArchiveConfig
from crawler.core.errors import StorageError
from crawler.core.model import Done, Lease, Mark, Ref
from crawler.output.archive.kind import Findings, Kept, Place, UnmarkedArchive


class DiscardArchive(UnmarkedArchive):
    def append(self, lease: Lease, done: Done) -> None:
        return None


class DiscardKind:
    """See ``Kind``."""

    folders = ()
    has_marks = False
    decodes = False

    def writer(
        self, config: ArchiveConfig, root: Path, info: Mapping[str, str], settings: Mapping[str, str], part: int
    ) -> DiscardArchive:
        return DiscardArchive()

    def place(self, kept: Kept) -> Place:
        raise AssertionError("nothing is kept")

    def refs(self, place: Place, body_bytes: int) -> None:
        return None

    def is_gone(self, root: Path, marks: Mapping[str, Mark], file: str) -> bool:
        return True

    def open(self, root: Path, ref: Ref, *, raw: bool) -> BinaryIO:
        raise StorageError(f"{ref.file}: nothing is kept")

    def checker(self, root: Path, marks: Mapping[str, Mark], findings: Findings) -> DiscardChecker:
        return DiscardChecker()


class DiscardChecker:
    def row(self, ref: Ref, row: Mapping[str, Any]) -> None: ...

    def end(self) -> None: ...


DISCARD: Final = DiscardKind()
