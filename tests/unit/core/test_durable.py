"""An append-only file and its mark: real files, real failures (RLIMIT_FSIZE stands in for a full disk)."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.full_disk import file_size_limit
from support.other_disk import on_another_disk

from crawler.core.durable import BUFFER_BYTES_MAX, MarkedFile, beside, length_of, lose, rename, sync_file_system
from crawler.core.errors import StorageError


def test_append_gives_the_offset_whether_written_or_not(tmp_path):
    file = MarkedFile.create(tmp_path / "f")
    assert [file.append(b"abc"), file.append(b""), file.append(b"de")] == [0, 3, 3]
    assert (file.size, length_of(file.path)) == (5, 0)
    file.sync()
    assert file.append(b"f") == 5
    file.flush()
    file.close()
    assert file.path.read_bytes() == b"abcdef"


def test_the_buffer_is_bounded(tmp_path):
    file = MarkedFile.create(tmp_path / "f")
    for _ in range(3):
        file.append(bytes(BUFFER_BYTES_MAX // 2))
    assert length_of(file.path) == BUFFER_BYTES_MAX
    file.append(bytes(BUFFER_BYTES_MAX + 1))
    assert length_of(file.path) == file.size
    file.close()


def test_create_refuses_a_name_that_is_taken(tmp_path):
    (tmp_path / "f").write_bytes(b"mine")
    with pytest.raises(StorageError, match="f: File exists"):
        MarkedFile.create(tmp_path / "f")


@pytest.mark.parametrize("there", [None, b"", b"ab"])
def test_a_file_missing_or_shorter_than_its_mark_is_final_and_named(tmp_path, there):
    if there is not None:
        (tmp_path / "f").write_bytes(there)
    with pytest.raises(StorageError, match=r"f: 3 bytes were committed, but it is (missing|only \d bytes long)") as raised:
        MarkedFile.open(tmp_path / "f", 3)
    assert raised.value.final and "; put it back" in str(raised.value)


def test_after_a_failed_write_nothing_but_cut_and_close(tmp_path):
    file = MarkedFile.create(tmp_path / "f")
    file.append(b"committed")
    file.sync()
    mark = file.size
    with file_size_limit(mark + 3):
        file.append(b"too much")
        with pytest.raises(StorageError) as raised:
            file.sync()
        assert raised.value.errno == errno.EFBIG
        assert not raised.value.final
    for attempt in (file.flush, file.sync, lambda: file.append(bytes(BUFFER_BYTES_MAX + 1))):
        with pytest.raises(StorageError, match="a write failed before"):
            attempt()
    file.cut(mark)
    file.append(b", once")
    file.sync()
    file.close()
    assert file.path.read_bytes() == b"committed, once"


def test_a_full_device_is_a_storage_error_with_its_errno():
    file = MarkedFile(Path("/dev/full"), os.open("/dev/full", os.O_WRONLY), 0)
    file.append(b"x")
    with pytest.raises(StorageError, match="/dev/full: No space left") as raised:
        file.flush()
    assert raised.value.errno == errno.ENOSPC
    file.close()
    file.close()


step = st.one_of(st.binary(max_size=64), st.just("sync"), st.just("cut"), st.just("kill"), st.integers(1, 40))


@given(steps=st.lists(step, min_size=10, max_size=60))
def test_what_was_marked_is_there_once_whatever_comes_after(tmp_path_factory, steps):
    path = tmp_path_factory.mktemp("m") / "f"
    file = MarkedFile.create(path)
    truth, pending = b"", b""
    for action in steps:
        if isinstance(action, bytes):
            assert file.append(action) == len(truth + pending)
            pending += action
        elif action == "sync":
            file.sync()
            truth, pending = truth + pending, b""
        elif action == "cut":
            file.cut(len(truth))
            pending = b""
        else:  # a kill leaves any part of what was not synced, or the trash a torn write leaves
            file.close()
            with path.open("r+b") as torn:
                torn.truncate(len(truth))
                torn.seek(len(truth))
                torn.write(b"\xee" * (0 if action == "kill" else action))
            file, pending = MarkedFile.open(path, len(truth)), b""
    file.sync()
    file.close()
    assert path.read_bytes() == truth + pending


def test_lose_never_overwrites(tmp_path):
    for content in (b"1", b"2"):
        (tmp_path / "x").write_bytes(content)
        lose(tmp_path, tmp_path / "x")
    assert {p.name: p.read_bytes() for p in (tmp_path / "lost+found").iterdir()} == {"x": b"1", "x.1": b"2"}


def test_a_file_is_lost_from_another_disk_as_well(tmp_path):
    with on_another_disk(tmp_path) as disk:
        (disk / "x").write_bytes(b"1")
        assert lose(tmp_path, disk / "x") == "lost+found/x"
        assert list(disk.iterdir()) == []
    assert [path.read_bytes() for path in (tmp_path / "lost+found").iterdir()] == [b"1"]


def test_a_name_on_another_disk_stands_for_all_of_a_file_or_for_what_it_did(tmp_path):
    with on_another_disk(tmp_path) as disk:
        (disk / "x").write_bytes(b"1")
        (tmp_path / "y").write_bytes(bytes(100_000))
        with file_size_limit(50_000), pytest.raises(StorageError) as caught:
            rename(tmp_path / "y", disk / "x")
        assert caught.value.errno == errno.EFBIG
        assert [path.read_bytes() for path in disk.iterdir()] == [b"1"] and (tmp_path / "y").exists()


def test_rename_and_sync_file_system(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(b"1")
    rename(tmp_path / "a" / "x", tmp_path / "y")
    sync_file_system(tmp_path)
    assert (tmp_path / "y").read_bytes() == b"1"
    with pytest.raises(StorageError, match="nowhere"):
        sync_file_system(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (Path.unlink, "is missing; put it back, or begin anew"),
        (lambda path: path.rename(path.with_name("moved")), "is missing; put it back, or begin anew"),
        (lambda path: os.truncate(path, 2), "only 2 bytes"),
    ],
)
def test_a_file_that_is_taken_away_while_it_is_written_is_written_no_more(tmp_path, harm, said):
    file = MarkedFile.create(tmp_path / "f")
    file.append(b"abc")
    file.sync()
    harm(file.path)
    file.append(b"def")
    with pytest.raises(StorageError, match=said) as raised:
        file.sync()
    assert raised.value.final
    file.close()
    with pytest.raises(StorageError, match=said):
        MarkedFile.open(file.path, 3)


def test_what_is_written_beside_a_file_follows_no_link(tmp_path):
    """Its name can be told: in a folder where others write, a link led to a file that was overwritten."""
    (tmp_path / "another's").write_bytes(b"theirs")
    (tmp_path / "f.tmp").symlink_to("another's")
    with pytest.raises(OSError) as refused, beside(tmp_path / "f") as file:
        file.write(b"ours")
    assert refused.value.errno == errno.ELOOP
    assert (tmp_path / "another's").read_bytes() == b"theirs" and not (tmp_path / "f").exists()
