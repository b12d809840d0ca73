"""An archive as one file: whole, or not there."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from support.pages import page_of

from crawler.core.errors import StorageError
from crawler.core.model import Mark, Ref
from crawler.output.archive import cdxj
from crawler.output.archive.wacz import write_wacz


def test_a_file_that_is_shorter_than_was_committed_is_told(tmp_path: Path) -> None:
    root, to = tmp_path / "root", tmp_path / "out" / "x.wacz"
    (root / "warc").mkdir(parents=True)
    to.parent.mkdir()
    (root / "warc" / "w.warc.gz").write_bytes(b"x" * 10)
    with pytest.raises(StorageError, match=r"w\.warc\.gz: 20 bytes were committed, but 10"):
        write_wacz(root, {"warc/w.warc.gz": Mark(20, closed=True)}, [], to, title="x")
    assert list(to.parent.iterdir()) == []


def test_the_second_index_has_the_whole_key_of_each_block(tmp_path: Path) -> None:
    """Braces may stand in a query as they are (https://url.spec.whatwg.org/#query-percent-encode-set)."""
    page = page_of(tmp_path, url='http://example.org/?q={"a":1}', fetched_at=0.0)
    line = cdxj.line(page, Ref("warc/w.warc.gz", 0, 9), "sha1:X", is_revisit=False)
    for folder, name, data in (("warc", "w.warc.gz", b"x"), ("index", "w.cdxj", line)):
        (tmp_path / "root" / folder).mkdir(parents=True)
        (tmp_path / "root" / folder / name).write_bytes(data)
    marks = {"warc/w.warc.gz": Mark(1, closed=True), "index/w.cdxj": Mark(len(line), closed=True)}
    write_wacz(tmp_path / "root", marks, [], tmp_path / "x.wacz", title="x")
    with zipfile.ZipFile(tmp_path / "x.wacz") as wacz:
        _, head = wacz.read("indexes/index.idx").splitlines()
    assert head.startswith(b'org,example)/?q={"a":1} 19700101000000 {"offset": 0, ')
