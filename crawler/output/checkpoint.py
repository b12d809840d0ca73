"""A copy of a crawl's directory that opens: one consistent cut, taken while the crawl goes on.

Invariant: what the copy's store says is what its files hold. The cut itself is short: the store's own checkpoint, a hard link to
each full file, and the files that are still written opened; all between two commits. What those hold up to their marks never
changes, so it is copied afterwards, and so are full files that cannot be linked. A crawl by several processes has a cut for each
store. A copy that was not finished is never seen under its name.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

from msgspec import Struct

from crawler.config.crawl_toml import FILE_NAME
from crawler.core.durable import OPEN, length_of, link, make_dir, missing, rename, storing, sync_dir, sync_file_system
from crawler.core.errors import NO_ROOM, OUR_ERRNOS, ConfigError, StorageError
from crawler.core.model import Mark
from crawler.output.archive import KINDS

FOLDER: Final = "checkpoints"
_UNFINISHED: Final = ".unfinished"
_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")
_PIECE_BYTES: Final = 1 << 20
_UNMARKED: Final = tuple(folder for kind in KINDS.values() if not kind.has_marks for folder in kind.folders)
"""Of bodies that are files of their own, each named by its content: they never change, and one that no row names does no harm."""


class Copied(Struct, frozen=True):
    """``seconds``: how long commits were held up. ``missing``: files that were not there, and must be said to be retired."""

    path: Path
    seconds: float
    files: int
    bytes: int
    missing: tuple[str, ...]


class Cut:
    """What one store knows of, on its way from ``root`` into ``made``."""

    def __init__(self, root: Path, made: Path) -> None:
        self._root, self._made = root, made
        self._open: list[tuple[BinaryIO, Path, int]] = []
        self._full: list[tuple[str, int]] = []  # that could not be linked; not opened, as there may be any number
        self.missing: list[str] = []
        self.seconds = 0.0
        self.files = self.bytes = 0

    def take(self, store: str, copy_store: Callable[[Path], Mapping[str, Mark]]) -> None:
        """While nothing is committed to it. ``copy_store(path)`` makes a copy of the store there, and says its marks; ``store``:
        where in the directory it is."""
        began = time.monotonic()
        marks = copy_store(self._made / store)
        with storing(self._made):
            for folder in {file.partition("/")[0] for file in marks}:
                (self._made / folder).mkdir(exist_ok=True)
        for file, mark in marks.items():
            if not mark.retired:
                self._take(file, mark)
        self.seconds = time.monotonic() - began

    def _take(self, file: str, mark: Mark) -> None:
        with storing(self._root / file):
            for name in (file, file + OPEN):
                try:
                    if mark.closed:
                        self._link(name, mark.length)
                    else:
                        self._open.append(((self._root / name).open("rb", buffering=0), self._made / name, mark.length))
                except FileNotFoundError:
                    continue
                self.files += 1
                self.bytes += mark.length
                return
        if not mark.closed:  # it cannot be retired: such a copy would never open
            raise missing(self._root / file, mark.length, full=False)
        self.missing.append(file)

    def _link(self, name: str, length: int) -> None:
        """A full file; or it is copied afterwards."""
        is_linked = link(self._root / name, self._made / name)
        if length_of((self._made if is_linked else self._root) / name) < length:
            raise missing(self._root / name, length)
        if not is_linked:
            self._full.append((name, length))

    def copy(self) -> None:
        """Afterwards: what is still written, up to its mark, and full files that could not be linked, but for those that were
        retired meanwhile."""
        try:
            while self._open:
                source, target, length = self._open.pop()
                with source, storing(target):
                    _copy(source, target, length)
            for name, length in self._full:
                with storing(self._made / name):
                    try:
                        with (self._root / name).open("rb", buffering=0) as source:
                            _copy(source, self._made / name, length)
                    except FileNotFoundError:
                        self.missing.append(name)
                        self.files -= 1
                        self.bytes -= length
        finally:
            self.close()

    def close(self) -> None:
        for source, _, _ in self._open:
            source.close()
        self._open.clear()


def _free_name(folder: Path) -> str:
    """The time; several of one second are numbered."""
    name = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    numbered = (f"{name}-{n}" for n in itertools.count(2))
    return next(free for free in itertools.chain([name], numbered) if not (folder / free).exists())


class Checkpoint:
    """Of the crawl in ``root``. ConfigError: there can be none of that name."""

    def __init__(self, root: Path, name: str | None = None) -> None:
        name = _free_name(root / FOLDER) if name is None else name
        if not _NAME.fullmatch(name) or name.endswith(_UNFINISHED):
            raise ConfigError(f"checkpoint: {name!r} is no name: give letters, digits and ._-")
        self._root = root
        self.path = root / FOLDER / name
        if self.path.exists():
            raise ConfigError(f"{self.path}: there is a checkpoint of that name")
        self.made = self.path.with_name(name + _UNFINISHED)
        """Where it is made."""

    def prepare(self) -> None:
        """Make room: what an earlier attempt left unfinished goes."""
        with storing(self.made):
            make_dir(self.made.parent)
            for left in self.made.parent.glob(f"*{_UNFINISHED}"):
                shutil.rmtree(left)
            self.made.mkdir()

    def make(self, folder: str) -> None:
        """One in which cuts put what is theirs."""
        with storing(self.made):
            (self.made / folder).mkdir()

    def cut(self) -> Cut:
        """Of one store, to be taken."""
        return Cut(self._root, self.made)

    def finish(self, also: Sequence[str] = ()) -> None:
        """Once every cut is copied: the copy gets its name. ``also``: further files, which do not change while it is made."""
        try:
            with storing(self.made):
                for folder in _UNMARKED:
                    if (self._root / folder).is_dir():
                        shutil.copytree(self._root / folder, self.made / folder, copy_function=_link_or_copy)
                for file in (FILE_NAME, *also):
                    if (self._root / file).exists():
                        shutil.copyfile(self._root / file, self.made / file)
            sync_file_system(self.made)
            rename(self.made, self.path)
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        """It is not wanted, or cannot be."""
        shutil.rmtree(self.made, ignore_errors=True)


def _copy(source: BinaryIO, target: Path, length: int) -> None:
    left = length
    with target.open("xb") as file:  # buffered: a raw file may take less than it is given
        while left:
            piece = source.read(min(left, _PIECE_BYTES))
            if not piece:
                raise StorageError(f"{target}: the file it is copied from is shorter than was committed", final=True)
            file.write(piece)
            left -= len(piece)


def _link_or_copy(source: str, target: str) -> object:
    """One that has gone meanwhile was an orphan."""
    with suppress(FileNotFoundError):
        if not link(Path(source), Path(target)):
            shutil.copyfile(source, target)
    return target


def left_unfinished(root: Path, target: Path) -> Path | None:
    """What a killed copy to another disk has left where this one would begin; None if there is nothing. Raises OSError."""
    made = _made(target)
    return made if made.exists() and made.stat().st_dev != root.stat().st_dev else None


def _made(target: Path) -> Path:
    """Where a copy to another disk is made."""
    return target.with_name(target.name + _UNFINISHED)


def move(source: Path, target: Path) -> None:
    """A finished checkpoint to where it is wanted, which must not exist: by its name, or copied to another disk. ConfigError;
    StorageError: there is no room."""
    if target.exists():
        raise ConfigError(f"{target}: there is something already")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            source.rename(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            _copy_all(source, target)
            shutil.rmtree(source, ignore_errors=True)
        sync_dir(target.parent)
    except OSError as error:
        said = f"{target}: {error.strerror}; the checkpoint is at {source}"
        raise StorageError(said, errno=error.errno) if error.errno in NO_ROOM | OUR_ERRNOS else ConfigError(said) from error


def _copy_all(source: Path, target: Path) -> None:
    """To another disk, durably. Raises OSError where one cannot be copied: nothing of it is left there. ConfigError."""
    made = _made(target)
    if made.exists():
        raise ConfigError(f"{made}: left by a copy that was not finished: delete it; the checkpoint is at {source}")
    try:
        for folder, _, files in os.walk(source):
            to = made / Path(folder).relative_to(source)
            to.mkdir()
            for file in files:
                shutil.copy2(Path(folder, file), to / file)
        sync_file_system(made)
        made.rename(target)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
