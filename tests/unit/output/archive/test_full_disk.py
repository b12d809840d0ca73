"""A disk that fills up in the middle of a batch: the batch is cut away, and goes through once there is room."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest
from support.pages import Crawl, Ledger, page_of, seed
from support.whole import found_whole

from crawler.core.batch import Settled
from crawler.core.errors import StorageError
from crawler.core.model import Done
from crawler.output.archive import open_body


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB, where one may be mounted."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(path)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to mount a tmpfs")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        size = 65536
        while size:
            try:
                file.write(bytes(size))
            except OSError as error:
                assert error.errno == errno.ENOSPC
                size //= 2


@pytest.mark.parametrize("kind", ["warc", "files"])
@pytest.mark.parametrize("begun", [True, False], ids=["in a file of an earlier batch", "in a new file"])
def test_a_batch_that_does_not_fit_leaves_nothing_and_fits_later(small_disk, kind, begun):
    ledger = Ledger(small_disk, kind)
    kept = []
    if begun:
        kept.append((ledger.append(page_of(small_disk, b"first")), b"first"))
        ledger.commit()
    batch = [os.urandom(20_000) for _ in range(8)]
    pages = [page_of(small_disk, content) for content in batch]  # in memory
    fill(small_disk / "ballast")
    with pytest.raises(StorageError) as raised:
        for page in pages:
            ledger.append(page)
        ledger.archive.sync()
    assert raised.value.errno == errno.ENOSPC
    assert not raised.value.final
    (small_disk / "ballast").unlink()
    ledger.archive.rewind(ledger.marks)
    for page in pages:
        page.body.discard()
    kept += [(ledger.append(page_of(small_disk, content)), content) for content in batch]
    ledger.commit()
    for one, content in kept:
        with open_body(small_disk, one.body) as body:
            assert body.read() == content
    if kind == "warc":
        assert len([path for path in ledger.files("warc") if path.stat().st_size]) == 1
    ledger.archive.close()


@pytest.mark.parametrize("kind", ["warc", "files", "discard"])
@pytest.mark.parametrize("begun", [True, False], ids=["in files of an earlier batch", "in new files"])
def test_who_leaves_a_full_disk_leaves_whole_records_only(small_disk, kind, begun):
    """Archive, index, rows and bodies end where the last commit says, also in files that no commit knows."""
    crawl, committed = Crawl(small_disk, kind), {}

    def batch(names, size):
        crawl.commit(links=[seed(f"http://h/{name}", 1) for name in names])
        return [Settled(lease, Done(crawl.page(lease.link.url, os.urandom(size)), "ok")) for lease in crawl.claim()]

    if begun:
        crawl.commit(batch(["a", "b"], 3000))
        committed = found_whole(small_disk)
        assert committed or kind == "discard"
    settled = batch(range(30), 20_000)
    prepared = crawl.prepare(settled)
    fill(small_disk / "ballast")
    if kind == "discard":  # nothing but rows: they must be more than there is room for
        for one in settled:
            one.outcome.page.headers += ((b"Location", b"x" * 30_000),)
    with pytest.raises(StorageError):
        crawl.journal.append(prepared)
        crawl.journal.sync()
    assert crawl.journal.is_ahead
    crawl.journal.cut(crawl.store.marks())
    crawl.journal.close()
    for one in settled:
        one.outcome.page.body.discard()
    left = found_whole(small_disk)
    assert committed.items() <= left.items()
    assert not [name for name in left.keys() - committed.keys() if left[name] and not name.startswith("files/")]


def test_no_room_to_sort_an_index_is_made_good_later(small_disk):
    ledger = Ledger(small_disk)
    for number in range(50):
        ledger.append(page_of(small_disk, b"%d" % number, f"http://example.org/{100 - number}"))
    ledger.archive.roll()
    ledger.marks |= ledger.archive.sync()
    fill(small_disk / "ballast")
    with pytest.raises(StorageError, match=r"\.cdxj\.open"):
        ledger.archive.committed()
    assert len(ledger.files("index")) == 1, "nothing half done is left"
    (small_disk / "ballast").unlink()
    assert ledger.archive.rewind(ledger.marks) == []
    lines = ledger.files("index")[0].read_bytes().splitlines()
    assert len(lines) == 50 and len(ledger.files("index")) == 1
    assert lines == sorted(lines)
    ledger.archive.close()
