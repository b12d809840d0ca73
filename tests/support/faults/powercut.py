"""The directory as a power cut would leave it, rebuilt from the log of ``faults.c`` up to a point.

The law: what was synced before the cut is there; of everything else any part may be missing. Bytes: none, a prefix with
its last write torn, or each sector as of any moment, with zeros where a length grew and its bytes did not come. Names:
a prefix of their changes, or any of them that do not build on one that is missing; a name is safe only once its
directory was synced. After a failed sync what it should have made safe may be gone, whatever a later sync says.

A sector is written as a whole, as the page cache held it at some moment: of two writes into one the later never comes alone.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from support.faults.log import SYNCHRONOUS, Kind, Record

SECTOR_BYTES = 512
MODES = ("none", "prefix", "any", "all")
"""Of what was not synced: none of it, all up to a point, any part, all."""


@dataclass(slots=True)
class Change:
    """A write (``data``) or a new length (``data`` is None) of one file, at ``index`` in the log."""

    index: int
    offset: int
    data: bytes | None
    safe: bool = False
    lost: bool = False

    def apply(self, to: bytearray) -> None:
        if self.data is None:
            del to[self.offset :]
            to.extend(bytes(self.offset - len(to)))
        else:
            to.extend(bytes(max(0, self.offset - len(to))))
            to[self.offset : self.offset + len(self.data)] = self.data


@dataclass(slots=True, eq=False)
class File:
    """``safe`` bytes, and the changes since in their order."""

    safe: bytearray = field(default_factory=bytearray)
    changes: list[Change] = field(default_factory=list)

    def sync(self, before: int, failed: bool) -> None:
        for change in self.changes:
            if change.index < before:
                change.lost |= failed
                change.safe |= not failed and not change.lost
        while self.changes and self.changes[0].safe:
            self.changes.pop(0).apply(self.safe)


@dataclass(slots=True, eq=False)
class Folder:
    """``now``: its names as the processes see them; ``safe``: as the disk has them for certain."""

    now: dict[str, File | Folder] = field(default_factory=dict)
    safe: dict[str, File | Folder] = field(default_factory=dict)


Names = Callable[[Folder], dict[str, File | Folder]]


@dataclass(slots=True)
class Renaming:
    """A change of names: ``node`` comes to ``new`` and goes from ``old`` (each a place, or None)."""

    index: int
    node: File | Folder
    old: tuple[Folder, str] | None
    new: tuple[Folder, str] | None

    @property
    def places(self) -> list[tuple[Folder, str]]:
        return [place for place in (self.old, self.new) if place is not None]

    def apply(self, names: Names) -> None:
        if self.old is not None:
            names(self.old[0]).pop(self.old[1], None)
        if self.new is not None:
            names(self.new[0])[self.new[1]] = self.node


class Disk:
    """What the records up to a cut did to the directory ``root``. ``base``: what it held, safely, before the first.
    ``mapped``: names of files whose stores through a mapping may be left out, because nothing relies on them."""

    def __init__(self, root: Path, base: Path | None = None, mapped: Collection[str] = ()) -> None:
        self._root = str(root.resolve())
        self._top = Folder()
        self._inodes: dict[int, File | Folder] = {}
        self._names: list[Renaming] = []
        self._files: dict[File, None] = {}
        self._syncs: dict[tuple[int, int], int] = {}
        self._index = 0
        self._mapped = mapped
        if base is not None:
            _load(base, self._top)

    def play(self, records: Iterable[Record]) -> Disk:
        for record in records:
            self._play(record)
            self._index += 1
        return self

    # -- playing the log ----------------------------------------------------------------------------------------------

    def _play(self, record: Record) -> None:
        match record.kind:
            case Kind.OPEN:
                if record.inode not in self._inodes:
                    self._inodes[record.inode] = self._at(record.path)
            case Kind.CREATE | Kind.MKDIR:
                made = Folder() if record.kind is Kind.MKDIR else File()
                self._inodes[record.inode] = made
                self._rename(Renaming(self._index, made, None, self._place(record.path)))
            case Kind.WRITE | Kind.TRUNCATE:
                self._change(record)
            case Kind.RENAME | Kind.LINK:
                old = None if record.kind is Kind.LINK else self._place(record.path)
                self._rename(Renaming(self._index, self._at(record.path), old, self._place(record.other)))
            case Kind.UNLINK | Kind.RMDIR:
                self._rename(Renaming(self._index, self._at(record.path), self._place(record.path), None))
            case Kind.SYNC_BEGIN | Kind.SYNCFS_BEGIN:
                self._syncs[record.pid, record.sync] = self._index
            case Kind.SYNC_END | Kind.SYNCFS_END:
                self._sync(record, self._syncs.pop((record.pid, record.sync)))
            case Kind.MMAP if Path(record.path).name not in self._mapped:
                raise ValueError(f"{record.path} is written through a shared mapping: its log is not whole")
            case Kind.MMAP | Kind.NOTE | Kind.FAULT:
                pass

    def _place(self, path: str) -> tuple[Folder, str]:
        folder, _, name = path.rpartition("/")
        node = self._at(folder)
        assert isinstance(node, Folder)
        return node, name

    def _at(self, path: str) -> File | Folder:
        node: File | Folder = self._top
        for step in path.removeprefix(self._root).strip("/").split("/"):
            if step:
                assert isinstance(node, Folder), path
                node = node.now[step]
        return node

    def _change(self, record: Record) -> None:
        node = self._inodes.get(record.inode) or self._at(record.path)
        assert isinstance(node, File)
        data = record.data if record.kind is Kind.WRITE else None
        node.changes.append(Change(self._index, record.offset, data))
        self._files[node] = None
        if record.flags & SYNCHRONOUS:
            node.sync(self._index + 1, failed=False)

    def _rename(self, renaming: Renaming) -> None:
        if renaming.old is not None and renaming.new is not None and renaming.new[0].now.get(renaming.new[1]) is renaming.node:
            return  # two names of one file: rename(2) does nothing
        renaming.apply(lambda folder: folder.now)
        self._names.append(renaming)

    def _sync(self, record: Record, begun: int) -> None:
        failed = record.error != 0
        if record.kind is Kind.SYNCFS_END:
            for file in self._files:
                file.sync(begun, failed)
            if not failed:
                self._make_safe(lambda renaming: True, begun)
            return
        node = self._inodes[record.inode]
        if isinstance(node, File):
            node.sync(begun, failed)
        elif not failed:
            self._make_safe(lambda renaming: (renaming.new or renaming.old or (None,))[0] is node, begun)

    def _make_safe(self, wanted: Callable[[Renaming], bool], before: int) -> None:
        """These changes of names, and those that they build on."""
        needed: set[tuple[Folder, str]] = set()
        rest, safe = [], []
        for renaming in reversed(self._names):
            builds_on = not needed.isdisjoint(renaming.places)
            if builds_on or (renaming.index < before and wanted(renaming)):
                needed.update(renaming.places)
                safe.append(renaming)
            else:
                rest.append(renaming)
        for renaming in reversed(safe):
            renaming.apply(lambda folder: folder.safe)
        self._names = rest[::-1]

    # -- the cut ------------------------------------------------------------------------------------------------------

    def rebuild(self, target: Path, rng: random.Random | None = None) -> str:
        """Write what is left into ``target``, which must not exist; without ``rng`` nothing is missing. Says what it did."""
        bytes_mode = rng.choice(MODES) if rng else "all"
        names_mode = rng.choice(MODES) if rng else "all"
        until = rng.randint(0, self._index) if rng else self._index
        entries: dict[Folder, dict[str, File | Folder]] = {}

        def names(folder: Folder) -> dict[str, File | Folder]:
            return entries.setdefault(folder, dict(folder.safe))

        for renaming in _surviving(self._names, names_mode, until, rng):
            renaming.apply(names)
        target.mkdir()
        _write(self._top, target, names, lambda file: _contents(file, bytes_mode, until, rng), {})
        return f"bytes {bytes_mode}, names {names_mode}" + (f", until {until}" if "prefix" in (bytes_mode, names_mode) else "")


class Worst(random.Random):
    """The power fails at the last moment, and nothing is left but what was synced."""

    def randint(self, a: int, b: int) -> int:
        return b

    def choice(self, seq):
        return "none" if "none" in seq else seq[-1]


class NamesAlone(Worst):
    """Every name is as it was last; of what was not synced no byte is there."""

    def __init__(self) -> None:
        super().__init__()
        self._chosen = iter(("none", "all"))

    def choice(self, seq):
        return next(self._chosen)


def _load(path: Path, folder: Folder) -> None:
    for child in path.iterdir():
        node: File | Folder
        if child.is_dir():
            node = Folder()
            _load(child, node)
        else:
            node = File(bytearray(child.read_bytes()))
        folder.now[child.name] = folder.safe[child.name] = node


def _surviving(names: list[Renaming], mode: str, until: int, rng: random.Random | None) -> list[Renaming]:
    if mode == "all":
        return names
    if mode == "prefix":
        return [renaming for renaming in names if renaming.index < until]
    kept, missing = [], set()
    for renaming in names:
        if mode == "none" or not missing.isdisjoint(renaming.places) or (rng and rng.random() < 0.5):
            missing.update(renaming.places)
        else:
            kept.append(renaming)
    return kept


def _contents(file: File, mode: str, until: int, rng: random.Random | None) -> bytes:
    if rng is not None and mode == "any":
        return _sectors(file, rng)
    data = bytearray(file.safe)
    unsafe = [change for change in file.changes if not change.safe and mode != "none" and (mode == "all" or change.index < until)]
    for change in file.changes:
        if rng is not None and mode == "prefix" and unsafe and change is unsafe[-1] and change.data is not None:
            Change(change.index, change.offset, change.data[: rng.randrange(len(change.data) + 1)]).apply(data)
        elif change.safe or change in unsafe:
            change.apply(data)
    return bytes(data)


def _sectors(file: File, rng: random.Random) -> bytes:
    """Each sector, and the length, as of any moment since it was last synced."""
    data = bytearray(file.safe)
    lengths = [len(data)]
    sectors: dict[int, list[bytes]] = {}
    for change in file.changes:
        if change.data is None:
            touched = range(change.offset // SECTOR_BYTES, -(-max(len(data), change.offset) // SECTOR_BYTES))
        else:
            touched = range(change.offset // SECTOR_BYTES, -(-(change.offset + len(change.data)) // SECTOR_BYTES))
        for number in touched:
            sectors.setdefault(number, [_sector(data, number)])
        change.apply(data)
        if change.safe:
            lengths.clear()
        lengths.append(len(data))
        for number in touched:
            if change.safe:
                sectors[number].clear()
            sectors[number].append(_sector(data, number))
    for number, versions in sectors.items():
        start = number * SECTOR_BYTES
        data.extend(bytes(max(0, start + SECTOR_BYTES - len(data))))
        data[start : start + SECTOR_BYTES] = rng.choice((versions[0], versions[-1], rng.choice(versions)))
    length = rng.choice(lengths)
    return bytes(data[:length]) + bytes(max(0, length - len(data)))


def _sector(data: bytearray, number: int) -> bytes:
    return bytes(data[number * SECTOR_BYTES : (number + 1) * SECTOR_BYTES]).ljust(SECTOR_BYTES, b"\0")


def _write(folder: Folder, target: Path, names: Names, contents: Callable[[File], bytes], written: dict[File, Path]) -> None:
    for name, node in names(folder).items():
        path = target / name
        if isinstance(node, Folder):
            path.mkdir()
            _write(node, path, names, contents, written)
        elif node in written:
            os.link(written[node], path)
        else:
            path.write_bytes(contents(node))
            written[node] = path
