"""An archive as one file: whole, or not there."""

from __future__ import annotations

import os
import resource
import threading
import time
import zipfile
import zlib
from pathlib import Path
from types import SimpleNamespace

import orjson
import pytest
from support.pages import Ledger, page_of

from crawler.core.errors import StorageError
from crawler.core.model import Mark, Ref
from crawler.output.archive import cdxj, wacz
from crawler.output.archive.wacz import write_wacz


def kept_always(file: str) -> bool:
    return False


def names(number: int) -> tuple[str, str]:
    unit = f"CRAWL-20261118110640000-{number:05d}-host"
    return f"warc/{unit}.warc.gz", f"index/{unit}.cdxj"


def crawl_of(root: Path, pairs: int) -> dict[str, Mark]:
    """So many full pairs, each of one line; its marks."""
    marks = {}
    for number in reversed(range(pairs)):
        for file, data in zip(names(number), (b"x", b'org,example)/%d 2026 {"n": 1}\n' % number), strict=True):
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).write_bytes(data)
            marks[file] = Mark(len(data), closed=True)
    return marks


def lines_in(file: Path) -> list[bytes]:
    with zipfile.ZipFile(file) as wacz:
        return zlib.decompress(wacz.read("indexes/index.cdx.gz"), 31).splitlines()


def test_any_number_of_files_takes_few_descriptors(tmp_path: Path) -> None:
    marks = crawl_of(tmp_path / "root", 120)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, limits[1]))
    try:
        made = write_wacz(tmp_path / "root", marks, [], tmp_path / "x.wacz", title="x", is_retired=kept_always)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert made == len(lines_in(tmp_path / "x.wacz")) == 120
    assert lines_in(tmp_path / "x.wacz") == sorted(lines_in(tmp_path / "x.wacz"))


def test_an_index_that_was_written_on_and_sorted_meanwhile_names_what_is_in_it(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    for number in range(8):
        if number == 4:
            marks = dict(ledger.marks)
        ledger.append(page_of(tmp_path, b"%d" % number, f"http://example.org/{9 - number}"))
        ledger.commit()
    ledger.roll()
    assert write_wacz(tmp_path, marks, [], tmp_path / "x.wacz", title="x", is_retired=kept_always) == 1
    assert [line.partition(b" ")[0] for line in lines_in(tmp_path / "x.wacz")] == [b"org,example)/%d" % n for n in range(6, 10)]


def test_an_index_that_is_made_anew_is_as_it_was(tmp_path: Path) -> None:
    """Also in what players pass over: what was asked for by HEAD."""
    ledger = Ledger(tmp_path)
    for number, method in enumerate((b"GET", b"HEAD", b"GET", b"HEAD")):
        page = page_of(tmp_path, b"" if method == b"HEAD" else b"page", f"http://example.org/{number}")
        page.request = page.request.replace(b"GET", method)
        ledger.append(page)
    ledger.roll()
    marks = {file: mark for file, mark in ledger.marks.items() if file.startswith("warc/")}
    for kept, name in ((ledger.marks, "x.wacz"), (marks, "y.wacz")):
        assert write_wacz(tmp_path, kept, [], tmp_path / name, title="x", is_retired=kept_always) == 1
    assert lines_in(tmp_path / "x.wacz") == lines_in(tmp_path / "y.wacz")
    assert [b"HEAD" in line for line in lines_in(tmp_path / "x.wacz")] == [False, True, False, True]


def test_an_index_that_is_damaged_is_told(tmp_path: Path) -> None:
    marks = crawl_of(tmp_path / "root", 1)
    index = tmp_path / "root" / names(0)[1]
    index.write_bytes(b"x" * (index.stat().st_size - 1) + b"\n")
    with pytest.raises(StorageError, match="an index is damaged"):
        write_wacz(tmp_path / "root", marks, [], tmp_path / "x.wacz", title="x", is_retired=kept_always)
    assert not (tmp_path / "x.wacz").exists()


def test_an_index_line_without_a_url_is_a_damaged_one(tmp_path: Path) -> None:
    """It ended crawler verify, and the export, with an internal error."""
    line = b'org,example)/ 2026 {"url": 5, "digest": "sha1:X", "length": "1", "offset": "0", "filename": "x.warc.gz"}\n'
    assert cdxj.read_line(line) is None
    marks = crawl_of(tmp_path / "root", 1)
    (tmp_path / "root" / names(0)[1]).write_bytes(line)
    marks[names(0)[1]] = Mark(len(line), closed=True)
    assert write_wacz(tmp_path / "root", marks, [], tmp_path / "x.wacz", title="x", is_retired=kept_always) == 1
    assert lines_in(tmp_path / "x.wacz") == [line[:-1]]


@pytest.mark.parametrize("limit", [None, 100])
def test_files_begin_where_players_look_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int | None) -> None:
    """ReplayWeb.page (ziprangereader.ts of wabac): behind its name, unless the directory has extra fields of it. It could open no
    WACZ file of ours."""
    if limit is not None:
        monkeypatch.setattr(zipfile, "ZIP64_LIMIT", limit)
    ledger = Ledger(tmp_path)
    ledger.append(page_of(tmp_path))
    ledger.commit()
    pages = [b'{"format": "json-pages-1.0"}\n']
    assert write_wacz(tmp_path, ledger.marks, pages, tmp_path / "x.wacz", title="x", is_retired=kept_always) == 1
    data, read = (tmp_path / "x.wacz").read_bytes(), {}
    with zipfile.ZipFile(tmp_path / "x.wacz") as wacz:
        for info in wacz.infolist():
            begin = info.header_offset + 30 + len(info.filename)
            begin += int.from_bytes(data[info.header_offset + 28 :][:2], "little") if info.extra else 0
            body = data[begin : begin + info.compress_size]
            read[info.filename] = zlib.decompress(body, -15) if info.compress_type == zipfile.ZIP_DEFLATED else body
            assert read[info.filename] == wacz.read(info), info.filename
    assert len(read) == 6 and read["pages/pages.jsonl"] == pages[0]


def test_a_page_is_in_the_block_where_players_look_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ReplayWeb.page (multiwacz.ts of wabac): in the last one that begins before its key of the URL ends, and in those before it
    for as long as they begin with it. The keys of other tools are without ``/`` and escapes."""
    monkeypatch.setattr(wacz, "BLOCK_LINES", 2)
    keys = {
        "http://www.example.org/news/": "org,example)/news/",
        "http://example.org/%7Euser/": "org,example)/%7euser/",
        "http://[2001:db8::1]:8080/x": "[2001:db8::1]:8080)/x",
        "http://example.org/a//b?B=1&b-c=2&": "org,example)/a//b?&b-c=2&b=1",
        "http://example.org/?sid=0123456789abcdef0123456789abcdef": "org,example)/?sid=0123456789abcdef0123456789abcdef",
        "https://127.0.0.1:8443/": "1,0,0,127:8443)/",
    }
    ledger = Ledger(tmp_path)
    for url in [*keys, *(f"http://example.org/{name}{n}" for name in ("a", "b", "news-", "~", "~user.", "") for n in range(6))]:
        ledger.append(page_of(tmp_path, url=url))
    ledger.commit()
    write_wacz(tmp_path, ledger.marks, [], tmp_path / "x.wacz", title="x", is_retired=kept_always)
    with zipfile.ZipFile(tmp_path / "x.wacz") as file:
        packed = file.read("indexes/index.cdx.gz")
        blocks = [head.rsplit(" {", 1) for head in file.read("indexes/index.idx").decode().splitlines()[1:]]
    for url, key in keys.items():
        before = [(begin, orjson.loads(f"{{{place}")) for begin, place in blocks if begin < f"{key} 9999"]
        looked_in = [place for begin, place in before if begin.startswith(key)] + [before[-1][1]]
        found = b"".join(zlib.decompress(packed[at["offset"] :][: at["length"]], 31) for at in looked_in)
        assert f'{key} 20261118110640 {{"url": "{url}"'.encode() in found, url


def test_a_clock_that_begins_in_1970_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(gmtime=lambda: time.gmtime(7), strftime=time.strftime)
    monkeypatch.setattr("crawler.output.archive.wacz.time", clock)
    write_wacz(tmp_path / "root", crawl_of(tmp_path / "root", 1), [], tmp_path / "x.wacz", title="x", is_retired=kept_always)
    assert len(lines_in(tmp_path / "x.wacz")) == 1


def test_files_that_are_retired_meanwhile_are_not_taken_and_those_that_were_are_whole(tmp_path: Path) -> None:
    root, to = tmp_path / "root", tmp_path / "x.wacz"
    marks = crawl_of(root, 2)
    first, second = names(0), names(1)
    (root / first[0]).unlink()
    os.mkfifo(root / first[0])

    def retire() -> None:
        with (root / first[0]).open("wb") as pipe:  # it is being read
            for file in (*first, *second):
                (root / file).unlink()
            pipe.write(b"x")

    (thread := threading.Thread(target=retire)).start()
    assert write_wacz(root, marks, [], to, title="x", is_retired=lambda file: not (root / file).exists()) == 1
    thread.join()
    assert lines_in(to) == [b'org,example)/0 2026 {"n": 1}']


def test_a_file_that_is_shorter_than_was_committed_is_told(tmp_path: Path) -> None:
    root, to = tmp_path / "root", tmp_path / "out" / "x.wacz"
    (root / "warc").mkdir(parents=True)
    to.parent.mkdir()
    (root / "warc" / "w.warc.gz").write_bytes(b"x" * 10)
    with pytest.raises(StorageError, match=r"w\.warc\.gz: 20 bytes were committed, but 10"):
        write_wacz(root, {"warc/w.warc.gz": Mark(20, closed=True)}, [], to, title="x", is_retired=kept_always)
    assert list(to.parent.iterdir()) == []


def test_the_second_index_has_the_whole_key_of_each_block(tmp_path: Path) -> None:
    """Braces may stand in a query as they are (https://url.spec.whatwg.org/#query-percent-encode-set)."""
    page = page_of(tmp_path, url='http://example.org/?q={"a":1}', fetched_at=0.0)
    line = cdxj.line(page, Ref("warc/w.warc.gz", 0, 9), "sha1:X", is_revisit=False)
    for folder, name, data in (("warc", names(0)[0][5:], b"x"), ("index", names(0)[1][6:], line)):
        (tmp_path / "root" / folder).mkdir(parents=True)
        (tmp_path / "root" / folder / name).write_bytes(data)
    marks = dict(zip(names(0), (Mark(1, closed=True), Mark(len(line), closed=True)), strict=True))
    write_wacz(tmp_path / "root", marks, [], tmp_path / "x.wacz", title="x", is_retired=kept_always)
    with zipfile.ZipFile(tmp_path / "x.wacz") as wacz:
        _, head = wacz.read("indexes/index.idx").splitlines()
    assert head.startswith(b'org,example)/?q={"a":1} 19700101000000 {"offset": 0, ')


def test_a_block_of_the_index_is_bounded_in_bytes_too(tmp_path: Path) -> None:
    """A block is packed in memory, and a line holds a Content-Type as long as a server likes."""
    marks = crawl_of(tmp_path / "root", 1)
    index, mime = names(0)[1], "x" * (128 << 10)
    lines = [orjson.dumps({"url": f"http://example.org/{n}", "mime": mime}) for n in range(100)]
    data = b"".join(b"org,example)/%03d 2026 %s\n" % pair for pair in enumerate(lines))
    (tmp_path / "root" / index).write_bytes(data)
    marks[index] = Mark(len(data), closed=True)
    write_wacz(tmp_path / "root", marks, [], tmp_path / "x.wacz", title="x", is_retired=kept_always)
    with zipfile.ZipFile(tmp_path / "x.wacz") as file:
        packed = file.read("indexes/index.cdx.gz")
        blocks = [orjson.loads(b"{" + head.rpartition(b" {")[2]) for head in file.read("indexes/index.idx").splitlines()[1:]]
    sizes = [len(zlib.decompress(packed[at["offset"] :][: at["length"]], 31)) for at in blocks]
    assert len(sizes) == 4 and max(sizes) < 5 << 20
    assert sum(sizes) > 100 * len(mime)
