"""Numbered files of one kind: one is appended to, and when it is full, a commit closes it and the next one follows.

Invariant: numbers are never given twice. What no commit knows is cut off; a file that is not ours is left alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from crawler.core.durable import MarkedFile, cut_back, length_of, lose, make_dir, missing
from crawler.core.errors import StorageError
from crawler.core.model import Mark


class RollingFile:
    """The files ``PREFIX000000SUFFIX`` and so on in ``root``, all in one folder; ``rewind`` must come before the first
    ``write``. Every method may raise StorageError; after that only ``rewind``, ``cut`` and ``close`` may be called.

    ``trailer`` ends every file that is full."""

    def __init__(self, root: Path, prefix: str, suffix: str, roll_bytes: int, trailer: bytes = b"") -> None:
        self._root, self._prefix, self._suffix = root, prefix, suffix
        self._roll_bytes, self._trailer = roll_bytes, trailer
        self._is_own = re.compile(re.escape(prefix) + r"(\d{6,})" + re.escape(suffix)).fullmatch
        self._file: MarkedFile | None = None
        self._begun: str | None = None
        """The last file that was begun here: perhaps no commit knows it."""
        self._changed = False
        self._closed = self._rolling = False
        self.number = 0
        """Of the file that is written, or will be next."""

    @property
    def size(self) -> int:
        """Bytes of the file that is written; 0 where it is yet to be made."""
        return self._file.size if self._file is not None else 0

    @property
    def buffered(self) -> int:
        """Bytes appended that wait in memory. May be asked by any thread."""
        file = self._file
        return file.buffered if file is not None else 0

    def write(self, data: bytes) -> tuple[str, int]:
        """Append; (file, offset) of where it stands."""
        if self._file is None:
            self._file = self._create()
        assert not self._closed, "written between sync and committed"
        self._changed = True
        return self._key(), self._file.append(data)

    def sync(self) -> dict[str, Mark]:
        """Make all that was appended durable; the mark of the file if it changed. A full file is marked ``closed``."""
        rolling, self._rolling = self._rolling, False
        if self._file is None or not self._file.size or not (self._changed or rolling):
            return {}
        self._closed = rolling or self._file.size >= self._roll_bytes
        if self._closed and self._trailer:
            self._file.append(self._trailer)
        self._file.sync()
        self._changed = False
        return {self._key(): Mark(self._file.size, self._closed)}

    def roll(self) -> None:
        """The next ``sync`` closes the file."""
        self._rolling = True

    def committed(self) -> None:
        """The mark of the last ``sync`` is committed: a full file is followed by a new one."""
        if self._closed:
            self.close()
            self.number += 1

    def rewind(self, marks: Mapping[str, Mark]) -> list[str]:
        """Cut the open file back to its mark and continue from there; the files moved to lost+found."""
        ours = self._key() if self._file is not None else None
        with suppress(StorageError):  # what its descriptor still held lies behind the mark
            self.close()
        make_dir((self._root / self._prefix).parent)
        own = {key: (int(match[1]), mark) for key, mark in marks.items() if (match := self._is_own(key))}
        self.number = max((number for number, _ in own.values()), default=-1) + 1
        lost = []
        for key, (number, mark) in own.items():
            if not mark.closed:
                self._file = MarkedFile.open(self._root / key, mark.length)
                self.number = number
            elif not mark.retired and length_of(self._root / key) < mark.length:
                raise missing(self._root / key, mark.length)
        if self._file is None and length_of(self._root / self._key()) >= 0:
            if self._key() == ours:
                self._file = MarkedFile.open(self._root / ours, 0)  # begun by this process, and not committed
            else:
                lost.append(lose(self._root, self._root / self._key()))
        return lost

    def cut(self, marks: Mapping[str, Mark]) -> None:
        """Close, and cut the open file back to its mark: the process ends. Only ``close`` may follow."""
        with suppress(StorageError):
            self.close()
        names = {key for key, mark in marks.items() if self._is_own(key) and not mark.closed}
        for key in {*names, *((self._begun,) if self._begun else ())}:
            cut_back(self._root / key, marks.get(key, Mark(0)).length)

    def close(self) -> None:
        file, self._file = self._file, None
        self._changed = self._closed = False
        if file is not None:
            file.close()

    def _key(self) -> str:
        return f"{self._prefix}{self.number:06d}{self._suffix}"

    def _create(self) -> MarkedFile:
        while length_of(self._root / self._key()) >= 0:
            self.number += 1  # somebody else's: left alone
        file = MarkedFile.create(self._root / self._key())
        self._begun = self._key()
        return file
