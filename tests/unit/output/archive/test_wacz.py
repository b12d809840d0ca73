"""An archive as one file: whole, or not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from crawler.core.errors import StorageError
from crawler.core.model import Mark
from crawler.output.archive.wacz import write_wacz


def test_a_file_that_is_shorter_than_was_committed_is_told(tmp_path: Path) -> None:
    root, to = tmp_path / "root", tmp_path / "out" / "x.wacz"
    (root / "warc").mkdir(parents=True)
    to.parent.mkdir()
    (root / "warc" / "w.warc.gz").write_bytes(b"x" * 10)
    with pytest.raises(StorageError, match=r"w\.warc\.gz: 20 bytes were committed, but 10"):
        write_wacz(root, {"warc/w.warc.gz": Mark(20, closed=True)}, [], to, title="x")
    assert list(to.parent.iterdir()) == []
