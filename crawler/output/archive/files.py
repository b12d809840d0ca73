"""The archive kind ``files``: one file per body, ``files/ab/cd/<sha256>.<ext>``, named by its digest and sniffed type.

Invariants: nothing a server sends reaches a path; a name stands only for the bytes it is the digest of. Files carry no
marks: one that no commit knows is whole, has the name of its content, and does no harm.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Final

from crawler.config.sections import ArchiveConfig
from crawler.core.durable import is_there, length_of, open_there, storing, sync_file_system
from crawler.core.errors import StorageError
from crawler.core.model import Done, Lease, Mark, Ref
from crawler.core.page import Body
from crawler.core.sniff import EXTENSIONS
from crawler.output.archive.kind import Findings, Kept, Place, UnmarkedArchive
from crawler.output.file_names import WHOLE

FALLBACK: Final = "bin"
FOLDER: Final = "files"
AGAIN: Final = ".again"
"""In it, until they are durable, bodies whose names are given already."""
READ_BYTES: Final = 1 << 20


class FilesArchive(UnmarkedArchive):
    def __init__(self, root: Path, part: int = WHOLE) -> None:
        """Bodies are renamed into place, or copied where that is on another file system than the spool."""
        self._root = root
        self._again = root / FOLDER / (AGAIN if part == WHOLE else f"{AGAIN}-{part}")  # other parts may keep the same body
        self._batch: dict[Path, Body | None] = {}  # its names; the body for one given before

    def append(self, lease: Lease, done: Done) -> Kept:
        """The body of the same digest is replaced by itself: what a power cut may have left of an uncommitted one goes. Only by
        one that is durable: pages that are committed may have that name."""
        known = lease.known
        if done.page.status == 304 and known and known.archive and known.can_be_confirmed:
            return Kept(known.archive, known.archive, known.archived_at or known.fetched_at, unmodified=True)
        body = done.page.body
        digest = body.sha256.hex()
        name = f"{FOLDER}/{digest[:2]}/{digest[2:4]}/{digest}.{EXTENSIONS.get(done.page.sniffed or '', FALLBACK)}"
        path = self._root / name
        if path not in self._batch:  # a thousand pages of one batch that are the same are written once
            self._keep(body, path)
        ref = Ref(name, 0, body.size)
        return Kept(ref, ref, done.page.fetched_at)

    def _keep(self, body: Body, path: Path) -> None:
        if not path.parent.is_dir():
            with storing(path.parent):
                path.parent.mkdir(parents=True, exist_ok=True)
        if length_of(path) >= 0:
            body.spool()
            self._batch[path] = body
        else:
            body.move(path)
            self._batch[path] = None

    def sync(self) -> dict[str, Mark]:
        again = [(body, path) for path, body in self._batch.items() if body is not None]
        if again:
            with storing(self._again):
                self._again.mkdir(exist_ok=True)
            for body, path in again:  # the spool may be on another disk, or another mount of this one: all are synced together
                body.move(self._again / path.name)
            sync_file_system(self._again)
            for body, path in again:
                body.move(path)
        if self._batch:
            sync_file_system(self._root / FOLDER)
            self._batch.clear()
        return {}

    def rewind(self, marks: Mapping[str, Mark]) -> list[str]:
        """Also what a kill has left goes."""
        with storing(self._again), suppress(FileNotFoundError):
            for path in self._again.iterdir():
                path.unlink()
        self._batch.clear()
        return []


class FilesKind:
    """See ``Kind``."""

    folders = (FOLDER,)
    has_marks = False
    decodes = True

    def writer(
        self, config: ArchiveConfig, root: Path, info: Mapping[str, str], settings: Mapping[str, str], part: int
    ) -> FilesArchive:
        return FilesArchive(root, part)

    def place(self, kept: Kept) -> Place:
        return {"path": kept.record.file}

    def refs(self, place: Place, body_bytes: int) -> tuple[Ref, Ref] | None:
        if "path" not in place:
            return None
        ref = Ref(place["path"], 0, body_bytes)
        return ref, ref

    def is_gone(self, root: Path, marks: Mapping[str, Mark], file: str) -> bool:
        """There are no marks: a file that is not there was deleted."""
        return not is_there(root / file)

    def open(self, root: Path, ref: Ref, *, raw: bool) -> BinaryIO:
        return io.BufferedReader(open_there(root / ref.file))

    def checker(self, root: Path, marks: Mapping[str, Mark], findings: Findings) -> FilesChecker:
        return FilesChecker(root, findings)


class FilesChecker:
    """Each body against its name and its row; a body that several rows name is read for each of them."""

    def __init__(self, root: Path, findings: Findings) -> None:
        self._root, self._findings = root, findings

    def row(self, ref: Ref, row: Mapping[str, Any]) -> None:
        with self._findings.noting():
            self._check(ref.file, row["sha256"])

    def end(self) -> None: ...

    def _check(self, name: str, sha256: str | None) -> None:
        digest = hashlib.sha256()
        with open_there(self._root / name) as file, storing(self._root / name):
            while piece := file.read(READ_BYTES):
                digest.update(piece)
        self._findings.records += 1
        if digest.hexdigest() != name.rpartition("/")[2].partition(".")[0] or sha256 not in (None, digest.hexdigest()):
            raise StorageError(f"{name}: its sha256 is {digest.hexdigest()}")


FILES: Final = FilesKind()
