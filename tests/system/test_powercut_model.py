"""The rebuilder by itself: what was synced is there after any cut, and what was not is really put in doubt."""

from __future__ import annotations

import errno
import random
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from support.faults.log import Kind, Record
from support.faults.powercut import Disk

ROOT = Path("/disk")


class Story:
    """Writes a log as the shim would."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self._inodes: dict[str, int] = {".": 1}
        self._lengths: dict[str, int] = {}
        self._syncs = 0
        self._say(Kind.OPEN, inode=1, path=".")

    def _say(
        self,
        kind: Kind,
        inode: int = 0,
        offset: int = 0,
        data: bytes = b"",
        path: str = "",
        other: str = "",
        sync: int = 0,
        error: int = 0,
    ) -> None:
        paths = [str(ROOT / name) if name else "" for name in (path, other)]
        self.records.append(Record(kind, 7, error, inode, sync, offset, len(data), 0, *paths, data))

    def create(self, name: str) -> None:
        self._inodes[name], self._lengths[name] = max(self._inodes.values()) + 1, 0
        self._say(Kind.CREATE, self._inodes[name], path=name)

    def append(self, name: str, data: bytes) -> None:
        self._say(Kind.WRITE, self._inodes[name], self._lengths[name], data)
        self._lengths[name] += len(data)

    def sync(self, name: str, error: int = 0, between: tuple[str, bytes] | None = None) -> None:
        self._syncs += 1
        self._say(Kind.SYNC_BEGIN, self._inodes[name], sync=self._syncs)
        if between:
            self.append(*between)
        self._say(Kind.SYNC_END, self._inodes[name], sync=self._syncs, error=error)

    def rename(self, old: str, new: str) -> None:
        self._inodes[new], self._lengths[new] = self._inodes.pop(old), self._lengths.pop(old)
        self._say(Kind.RENAME, path=old, other=new)

    def unlink(self, name: str) -> None:
        del self._inodes[name]
        self._say(Kind.UNLINK, path=name)

    def futures(self, cut: int | None = None, seeds: int = 200) -> set[tuple[tuple[str, bytes], ...]]:
        """All that different power cuts leave."""
        disk = Disk(ROOT).play(self.records[:cut])
        found = set()
        with tempfile.TemporaryDirectory() as folder:
            for seed in range(seeds):
                target = Path(folder, str(seed))
                disk.rebuild(target, random.Random(seed))
                found.add(tuple(sorted((path.name, path.read_bytes()) for path in target.iterdir())))
        return found


def test_a_file_whose_directory_was_not_synced_may_be_missing() -> None:
    story = Story()
    story.create("a")
    story.append("a", b"data")
    story.sync("a")
    assert story.futures() == {(), (("a", b"data"),)}
    story.sync(".")
    assert story.futures() == {(("a", b"data"),)}


def test_an_unsynced_append_is_whole_torn_zeros_or_not_there() -> None:
    story = Story()
    story.create("a")
    story.sync(".")
    story.append("a", b"x" * 600)
    left = {dict(names)["a"] for names in story.futures()}
    assert {b"", b"x" * 600, bytes(600), bytes(512) + b"x" * 88, b"x" * 512 + bytes(88)} <= left
    assert any(0 < len(data) < 600 for data in left)


def test_unsynced_sectors_come_in_any_order() -> None:
    story = Story()
    story.create("a")
    story.sync(".")
    story.append("a", b"1" * 512)
    story.append("a", b"2" * 512)
    left = {dict(names)["a"] for names in story.futures()}
    assert {b"", b"1" * 512, b"1" * 512 + b"2" * 512, bytes(512) + b"2" * 512, b"1" * 512 + bytes(512), bytes(1024)} <= left


def test_within_a_sector_a_later_write_never_comes_without_the_earlier() -> None:
    story = Story()
    story.create("a")
    story.sync(".")
    story.append("a", b"1")
    story.append("a", b"2")
    assert {dict(names)["a"] for names in story.futures()} == {b"", b"1", b"12", b"\0", b"\0\0", b"1\0"}


def test_a_sync_covers_what_was_written_before_it_began() -> None:
    story = Story()
    story.create("a")
    story.sync(".")
    story.append("a", b"before")
    story.sync("a", between=("a", b"during"))
    left = {dict(names)["a"] for names in story.futures()}
    assert b"before" in left and b"beforeduring" in left and all(data.startswith(b"before") for data in left)


def test_after_a_failed_sync_another_one_saves_nothing_of_what_it_had_lost() -> None:
    story = Story()
    story.create("a")
    story.sync(".")
    story.append("a", b"x")
    story.sync("a", error=errno.EIO)
    story.sync("a")
    assert {dict(names)["a"] for names in story.futures()} == {b"", b"x", b"\0"}


def test_a_rename_over_a_file_leaves_the_old_or_the_new_one() -> None:
    story = Story()
    story.create("a")
    story.append("a", b"old")
    story.sync("a")
    story.sync(".")
    story.create("a.tmp")
    story.append("a.tmp", b"new")
    story.sync("a.tmp")
    story.rename("a.tmp", "a")
    assert {dict(names)["a"] for names in story.futures()} == {b"old", b"new"}
    story.sync(".")
    assert story.futures() == {(("a", b"new"),)}


def test_a_rename_before_the_bytes_are_synced_may_leave_an_empty_file() -> None:
    story = Story()
    story.create("a.tmp")
    story.append("a.tmp", b"new")
    story.rename("a.tmp", "a")
    story.sync(".")
    assert (("a", b""),) in story.futures()


def test_names_are_lost_together_with_what_they_build_on() -> None:
    story = Story()
    story.create("a")
    story.rename("a", "b")
    story.rename("b", "c")
    story.create("other")
    names = {tuple(name for name, _ in left) for left in story.futures()}
    assert names == {(), ("a",), ("b",), ("c",), ("other",), ("a", "other"), ("b", "other"), ("c", "other")}


def test_an_unlink_may_not_have_happened() -> None:
    story = Story()
    story.create("a")
    story.append("a", b"x")
    story.sync("a")
    story.sync(".")
    story.unlink("a")
    assert story.futures() == {(), (("a", b"x"),)}


FILES = ("a", "b", "c")
STEPS = st.one_of(
    st.tuples(st.just("append"), st.sampled_from(FILES), st.binary(min_size=1, max_size=1500)),
    st.tuples(st.just("sync"), st.sampled_from((*FILES, "."))),
    st.tuples(st.just("rotate"), st.sampled_from(FILES)),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(STEPS, min_size=20, max_size=60), st.data())
def test_whatever_was_synced_under_a_synced_name_is_there_after_any_cut(
    steps: list[tuple[object, ...]], data: st.DataObject
) -> None:
    story = Story()
    serial = 0
    written: dict[str, bytes] = {}
    synced: dict[str, bytes] = {}
    promised: list[tuple[int, dict[str, bytes]]] = []
    current: dict[str, str] = {}
    named: set[str] = set()
    for step in steps:
        match step:
            case ("append", str(slot), bytes(text)):
                if slot not in current:
                    serial += 1
                    current[slot] = f"{slot}{serial}"
                    story.create(current[slot])
                    written[current[slot]] = b""
                story.append(current[slot], text)
                written[current[slot]] += text
            case ("sync", "."):
                story.sync(".")
                named = set(written)
            case ("sync", str(slot)) if slot in current:
                story.sync(current[slot])
                synced[current[slot]] = written[current[slot]]
            case ("rotate", str(slot)) if slot in current:
                del current[slot]
        promised.append((len(story.records), {name: synced.get(name, b"") for name in named}))
    cut, promise = data.draw(st.sampled_from(promised))
    cut += data.draw(st.integers(0, len(story.records) - cut))
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "after")
        Disk(ROOT).play(story.records[:cut]).rebuild(target, random.Random(data.draw(st.integers())))
        left = {path.name: path.read_bytes() for path in target.iterdir()}
    for name, content in promise.items():
        assert left[name].startswith(content)
    for name, content in left.items():
        assert len(content) <= len(written[name])
