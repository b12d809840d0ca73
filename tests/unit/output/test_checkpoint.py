"""The cut of one store: what is still written is copied whole, or the checkpoint fails."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest
from support.full_disk import file_size_limit

from crawler.core.errors import StorageError
from crawler.core.model import Mark
from crawler.output.checkpoint import Checkpoint, Cut, move


@pytest.fixture
def cut(tmp_path: Path) -> Cut:
    """Of a file of 4,000 committed bytes, which is still written."""
    root, made = tmp_path / "root", tmp_path / "made"
    (root / "results").mkdir(parents=True)
    made.mkdir()
    (root / "results" / "r").write_bytes(b"x" * 4000 + b"and what no commit knows")
    cut = Cut(root, made)
    cut.take("frontier", lambda path: {"results/r": Mark(4000)})
    return cut


def test_what_is_still_written_is_copied_up_to_its_mark(cut: Cut, tmp_path: Path) -> None:
    cut.copy()
    assert (tmp_path / "made" / "results" / "r").read_bytes() == b"x" * 4000


def test_a_disk_that_fills_up_with_the_last_piece_is_told(cut: Cut) -> None:
    with file_size_limit(3000), pytest.raises(StorageError, match="results/r"):
        cut.copy()


@pytest.mark.parametrize(("closed", "length"), [(True, 3999), (False, 3999), (False, -1)])
def test_a_copy_that_would_not_open_is_not_made(tmp_path: Path, closed: bool, length: int) -> None:
    root, made = tmp_path / "root", tmp_path / "made"
    (root / "results").mkdir(parents=True)
    made.mkdir()
    if length >= 0:
        (root / "results" / "r").write_bytes(b"x" * length)
    cut = Cut(root, made)
    with pytest.raises(StorageError, match="committed"):
        cut.take("frontier", lambda path: {"results/r": Mark(4000, closed=closed)})
        cut.copy()


def test_a_full_file_that_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "made").mkdir()
    cut = Cut(tmp_path / "root", tmp_path / "made")
    cut.take("frontier", lambda path: {"results/r": Mark(4000, closed=True)})
    assert cut.missing == ["results/r"]


@pytest.fixture
def no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """As onto another file system."""

    def refuse(source: Path, target: Path) -> None:
        os.stat(source)
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(source))

    monkeypatch.setattr(os, "link", refuse)


def test_full_files_that_cannot_be_linked_are_copied_without_a_descriptor_each(tmp_path: Path, no_links: None) -> None:
    root, made = tmp_path / "root", tmp_path / "made"
    (root / "warc").mkdir(parents=True)
    made.mkdir()
    marks = {f"warc/w{n}": Mark(4000, closed=True) for n in range(50)}
    for file in marks:
        (root / file).write_bytes(b"x" * 4001)
    cut = Cut(root, made)
    before = len(os.listdir("/proc/self/fd"))
    cut.take("frontier", lambda path: marks | {"warc/gone": Mark(1, closed=True)})
    assert len(os.listdir("/proc/self/fd")) == before
    (root / "warc" / "w7").unlink()  # retired meanwhile
    cut.copy()
    assert sorted(cut.missing) == ["warc/gone", "warc/w7"]
    assert (cut.files, cut.bytes) == (49, 49 * 4000)
    assert [path.stat().st_size for path in (made / "warc").iterdir()] == [4000] * 49


def test_a_full_file_that_cannot_be_linked_and_is_too_short_is_told(tmp_path: Path, no_links: None) -> None:
    (tmp_path / "root" / "warc").mkdir(parents=True)
    (tmp_path / "root" / "warc" / "w").write_bytes(b"x" * 3999)
    (tmp_path / "made").mkdir()
    with pytest.raises(StorageError, match="only 3999 bytes long"):
        Cut(tmp_path / "root", tmp_path / "made").take("frontier", lambda path: {"warc/w": Mark(4000, closed=True)})


def test_bodies_that_cannot_be_linked_are_copied(tmp_path: Path, no_links: None) -> None:
    (tmp_path / "files" / "ab").mkdir(parents=True)
    (tmp_path / "files" / "ab" / "body").write_bytes(b"body")
    (tmp_path / "crawl.toml").touch()
    checkpoint = Checkpoint(tmp_path, "copy")
    checkpoint.prepare()
    checkpoint.finish()
    assert (checkpoint.path / "files" / "ab" / "body").read_bytes() == b"body"


def test_another_disk_without_room_for_a_checkpoint_is_no_fault_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tmp_path / "made"
    made.mkdir()
    (made / "file").write_bytes(b"x" * 4000)

    def elsewhere(source: Path, target: Path) -> Path:
        raise OSError(errno.EXDEV, "elsewhere")

    monkeypatch.setattr(Path, "rename", elsewhere)
    with file_size_limit(3000), pytest.raises(StorageError, match="the checkpoint is at") as caught:
        move(made, tmp_path / "target")
    assert caught.value.errno == errno.EFBIG
    assert (made / "file").exists() and not list(tmp_path.glob("target*"))


def test_checkpoints_of_one_second_have_names_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "gmtime", lambda: time.struct_time((2026, 1, 2, 3, 4, 5, 4, 2, 0)))
    names = []
    for _ in range(3):
        checkpoint = Checkpoint(tmp_path)
        checkpoint.path.mkdir(parents=True)
        names.append(checkpoint.path.name)
    assert names == ["20260102T030405Z", "20260102T030405Z-2", "20260102T030405Z-3"]
