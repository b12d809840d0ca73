"""One file per body: ``files/ab/cd/<sha256>.<ext>``, decoded, named by its own digest and the type found in its bytes.

The law: nothing a server says reaches a path, and a name only ever stands for the bytes it is the digest of. Files carry
no marks: one that no commit knows is whole, bears its content's name and is harmless.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from crawler.core.durable import storing, sync_file_system
from crawler.core.model import Done, Lease, Mark, Ref
from crawler.core.sniff import EXTENSIONS
from crawler.output.archive import Kept

FALLBACK = "bin"


class FilesArchive:
    def __init__(self, root: Path) -> None:
        """``root`` must be on one file system with the spool: bodies are renamed into place."""
        self._root = root
        self._dirty = False

    def append(self, lease: Lease, done: Done) -> Kept:
        """The body of the same digest is replaced by itself: what a power cut may have left of an uncommitted one goes."""
        known = lease.known
        if done.page.status == 304 and known and known.archive:
            return Kept(known.archive, known.archive, known.archived_at or known.fetched_at, unmodified=True)
        body = done.page.body
        digest = body.sha256.hex()
        name = f"files/{digest[:2]}/{digest[2:4]}/{digest}.{EXTENSIONS.get(done.page.sniffed or '', FALLBACK)}"
        path = self._root / name
        if not path.parent.is_dir():
            with storing(path.parent):
                path.parent.mkdir(parents=True, exist_ok=True)
        self._dirty = True
        body.move(path)
        ref = Ref(name, 0, body.size)
        return Kept(ref, ref, done.page.fetched_at)

    def sync(self) -> dict[str, Mark]:
        if self._dirty:
            sync_file_system(self._root)
            self._dirty = False
        return {}

    def committed(self) -> None: ...

    def rewind(self, marks: Mapping[str, Mark]) -> list[str]:
        self._dirty = False
        return []

    def cut(self, marks: Mapping[str, Mark]) -> None: ...

    def retire(self, files: Iterable[str]) -> None: ...

    def roll(self) -> None: ...

    def close(self) -> None: ...
