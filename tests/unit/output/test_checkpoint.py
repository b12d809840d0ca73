"""The cut of one store: what is still written is copied whole, or the checkpoint fails."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from support.full_disk import file_size_limit

from crawler.core.errors import StorageError
from crawler.core.model import Mark
from crawler.output.checkpoint import Checkpoint, Cut


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


def test_checkpoints_of_one_second_have_names_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "gmtime", lambda: time.struct_time((2026, 1, 2, 3, 4, 5, 4, 2, 0)))
    names = []
    for _ in range(3):
        checkpoint = Checkpoint(tmp_path)
        checkpoint.path.mkdir(parents=True)
        names.append(checkpoint.path.name)
    assert names == ["20260102T030405Z", "20260102T030405Z-2", "20260102T030405Z-3"]
