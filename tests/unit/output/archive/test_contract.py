"""What every archive promises, over all three kinds."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tracemalloc
from io import BytesIO
from unittest.mock import Mock

import pytest
from fastwarc.warc import ArchiveIterator, WarcRecordType
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.other_disk import on_another_disk
from support.pages import Ledger, page_of
from support.programs import MOUNTING

from crawler.core.errors import StorageError
from crawler.output.archive import Kept, files, open_body

KINDS = ["warc", "files", "discard"]


@pytest.fixture(params=KINDS)
def ledger(request, tmp_path):
    ledger = Ledger(tmp_path, request.param)
    yield ledger
    ledger.archive.close()


def content(ledger: Ledger, kept: Kept, **how: bool) -> bytes:
    with open_body(ledger.root, kept.body, **how) as body:
        return body.read()


def test_what_was_kept_is_read_back(ledger):
    pages = [b"", b"\0", b"<p>hello", bytes(range(256)) * 1024]
    kept = [ledger.append(page_of(ledger.root, page)) for page in pages]
    ledger.commit()
    if ledger.config.archive == "discard":
        assert kept == [None] * 4
        assert not ledger.marks
    else:
        assert [content(ledger, one) for one in kept] == pages
        assert all(one.record == one.body and one.body_at == pytest.approx(1_795_000_000.25) for one in kept)


def test_it_is_read_back_by_its_final_name_before_and_after_the_roll(ledger):
    kept = ledger.append(page_of(ledger.root, b"body"))
    ledger.commit()
    for _ in range(2):
        assert kept is None or content(ledger, kept) == b"body"
        ledger.roll()
        ledger.reopen()


@pytest.mark.parametrize("kind", ["warc", "files"])
def test_its_folder_may_be_on_another_disk(kind, tmp_path):
    with on_another_disk(tmp_path) as disk:
        (tmp_path / kind).symlink_to(disk)
        ledger = Ledger(tmp_path, kind)
        pages = [b"body", bytes(range(256)) * 1024]
        for _ in range(2):  # the second time each is there already
            kept = [ledger.append(page_of(tmp_path, page)) for page in pages]
            ledger.commit()
            assert [content(ledger, one) for one in kept] == pages
        assert kind == "warc" or list((tmp_path / "tmp").iterdir()) == []
        ledger.roll()
        ledger.append(page_of(tmp_path, b"not committed"))
        ledger.archive.close()
        lost = Ledger.reopen(ledger)
        assert len(lost) == (2 if kind == "warc" else 0)
        ledger.archive.close()


@pytest.mark.parametrize("is_kept", [False, True], ids=["new", "kept already"])
def test_of_pages_of_one_batch_that_are_the_same_one_is_written(is_kept, tmp_path):
    """Each of a host's pages that do not exist was a file of its own, synced before it replaced the one before."""
    ledger = Ledger(tmp_path, "files")
    if is_kept:
        ledger.append(page_of(tmp_path, b"no such page"))
        ledger.commit()
    pages = [page_of(tmp_path, b"no such page", f"http://www.example.org/{number}") for number in range(5)]
    kept = [ledger.append(page) for page in pages]
    ledger.commit()
    assert [content(ledger, one) for one in kept] == [b"no such page"] * 5
    assert [page.body.path is not None for page in pages] == [True, False, False, False, False]
    ledger.append(again := page_of(tmp_path, b"no such page"))
    ledger.commit()
    assert again.body.path is not None, "a power cut may have left the other without its bytes"
    ledger.archive.close()


@pytest.mark.parametrize("spool", ["here", "on another disk"])
def test_bodies_that_come_again_are_synced_together(spool, tmp_path, monkeypatch):
    """A thousand of a batch were synced one by one where the spool is on another disk."""
    with on_another_disk(tmp_path) as disk:
        if spool != "here":
            (tmp_path / "tmp").symlink_to(disk)
        ledger = Ledger(tmp_path, "files")
        bodies = [b"%d" % number for number in range(5)]
        for body in bodies:
            ledger.append(page_of(tmp_path, body))
        ledger.commit()
        synced: list[int] = []
        monkeypatch.setattr(os, "fdatasync", synced.append)
        kept = [ledger.append(page_of(tmp_path, body)) for body in bodies]
        ledger.commit()
        assert [content(ledger, one) for one in kept] == bodies and synced == []
        ledger.append(page_of(tmp_path, bodies[0]))
        with monkeypatch.context() as full:
            full.setattr(files, "sync_file_system", fail := Mock(side_effect=StorageError("full")))
            with pytest.raises(StorageError):
                ledger.archive.sync()
        assert fail.called and ledger.archive.rewind(ledger.marks) == []
        assert len([path for path in (tmp_path / "files").rglob("*") if path.is_file()]) == 5
        ledger.archive.close()


COUNTED = """
import os, sys
from pathlib import Path
from support.pages import Ledger, page_of
from support.programs import MOUNTING
root, synced = Path(sys.argv[1]), []
ledger = Ledger(root, "files")
for _ in range(2):
    for number in range(5):
        ledger.append(page_of(root, b"%d" % number))
    os.fdatasync = synced.append
    ledger.commit()
assert synced == [], synced
"""


def test_bodies_that_come_again_are_synced_together_on_two_mounts_of_one_disk(tmp_path):
    """Such as two volumes of a container: nothing can be renamed from one to the other."""
    files = tmp_path / "root" / "files"
    files.mkdir(parents=True)
    (tmp_path / "volume").mkdir()
    run = shlex.join([sys.executable, "-c", COUNTED, str(tmp_path / "root")])
    ended = subprocess.run(
        [*MOUNTING, "sh", "-c", f"mount --bind {tmp_path}/volume {files} || exit 77; {run}"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode == 77 or "unshare" in ended.stderr:
        pytest.skip("no mount namespaces here")
    assert ended.returncode == 0, ended.stderr


def test_of_bodies_that_come_again_a_kill_leaves_nothing(tmp_path, monkeypatch):
    """Those that were on their way from a spool on another disk stayed for ever."""
    with on_another_disk(tmp_path) as disk:
        (tmp_path / "tmp").symlink_to(disk)
        ledger = Ledger(tmp_path, "files")
        ledger.append(page_of(tmp_path, b"kept"))
        ledger.commit()
        ledger.append(page_of(tmp_path, b"kept"))
        monkeypatch.setattr(files, "sync_file_system", Mock(side_effect=StorageError("killed")))
        with pytest.raises(StorageError):
            ledger.archive.sync()
        left = [path for path in (tmp_path / "files").rglob("*") if path.is_file()]
        ledger.reopen()
        assert len(left) == 2 and len([path for path in (tmp_path / "files").rglob("*") if path.is_file()]) == 1


def test_a_body_larger_than_memory_is_streamed_in_and_out(ledger):
    piece = bytes(range(256)) * 256
    page = page_of(ledger.root, (piece for _ in range(640)))  # 40 MiB
    tracemalloc.start()
    kept = ledger.append(page)
    ledger.commit()
    if kept is not None:
        with open_body(ledger.root, kept.body) as body:
            size = sum(map(len, iter(lambda: body.read(65536), b"")))
        assert size == page.body.size
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


def test_appending_waits_for_rewind_to_make_the_directories(tmp_path):
    ledger = Ledger(tmp_path / "new" / "dir", "warc")
    assert {path.name for path in ledger.root.iterdir()} == {"warc", "index"}
    assert ledger.files("warc") == []
    ledger.archive.close()


def test_nothing_to_commit_names_no_file(ledger):
    ledger.roll()
    assert ledger.marks == {}
    ledger.append(page_of(ledger.root))
    ledger.commit()
    assert ledger.archive.sync() == {}


step = st.one_of(
    st.integers(0, 3000),  # append a page of that many bytes
    st.just("commit"),
    st.just("fail"),  # the batch is not committed: rewind within the process
    st.just("roll"),
    st.tuples(st.just("kill"), st.binary(max_size=300)),  # and what a torn write leaves behind the marks
)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=st.lists(step, min_size=15, max_size=50))
def test_what_was_committed_is_there_once_whatever_happens(tmp_path_factory, kind, steps):
    ledger = Ledger(tmp_path_factory.mktemp("a"), kind, roll_size=6000)
    committed: list[tuple[Kept, bytes]] = []
    pending: list[tuple[Kept, bytes]] = []
    for number, action in enumerate(steps):
        if isinstance(action, int):
            text = (b"%d " % number * 3000)[:action]
            kept = ledger.append(page_of(ledger.root, text, f"http://www.example.org/{number}"))
            if kept is not None:
                pending.append((kept, text))
            continue
        if action == "commit" or action == "roll":
            ledger.roll() if action == "roll" else ledger.commit()
            committed += pending
        elif action == "fail":
            ledger.archive.sync()
            assert ledger.archive.rewind(ledger.marks) == []
        else:
            tear(ledger, action[1])
            ledger.reopen()
        pending = []
    ledger.commit()
    for kept, text in committed + pending:
        assert content(ledger, kept) == text
    if kind == "warc":
        assert responses(ledger) == sorted((kept.record.file, kept.record.offset) for kept, _ in committed + pending)
    ledger.archive.close()


def tear(ledger: Ledger, trash: bytes) -> None:
    """Leave the open files at any length beyond their marks."""
    ledger.archive.close()
    for path in [*ledger.root.glob("warc/*.open"), *ledger.root.glob("index/*.open")]:
        mark = ledger.marks.get(str(path.relative_to(ledger.root)).removesuffix(".open"))
        with path.open("r+b") as file:
            file.truncate(mark.length if mark else 0)
            file.seek(0, 2)
            file.write(trash)


def responses(ledger: Ledger) -> list[tuple[str, int]]:
    """Where the committed responses stand, by an independent reader."""
    return sorted(
        (file, record.stream_pos)
        for file in ledger.marks
        if file.startswith("warc/")
        for record in ArchiveIterator(BytesIO(ledger.read(file)), record_types=WarcRecordType.response)
    )
