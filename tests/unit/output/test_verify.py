"""``verify`` finds nothing in a sound crawl, and names every kind of damage, one sentence each."""

from __future__ import annotations

import gzip
import os
import random
import shutil
import tracemalloc
import zlib

import orjson
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from support.pages import Crawl, seed, visit
from support.stores import revive

from crawler.core.batch import Settled
from crawler.core.durable import length_of
from crawler.core.model import Done, Dropped, Mark
from crawler.output.archive.warc import WarcArchive
from crawler.output.file_names import retired_in
from crawler.output.verify import verify

PAGES = 6


def crawled(root, kind="warc", rolled=True):
    """Six pages, the fifth a revisit of the first, a failure; in two files or one."""
    crawl = Crawl(root, kind)
    for number in range(4):
        if number == 2 and rolled:
            crawl.journal.roll()
        url = f"http://example.org/{9 - number}"
        visit(crawl, seed(url, number), Done(crawl.page(url, content(url), coding="gzip" if number % 2 else None), "ok"))
    visit(crawl, seed("http://example.org/down", 5), Dropped("timeout", "read_timeout"))
    revive(crawl.store, "ok")
    lease, other, *_ = crawl.claim()
    crawl.commit([Settled(lease, Done(crawl.page(lease.link.url, content(lease.link.url)), "ok"))])
    crawl.commit([Settled(other, Done(crawl.page(other.link.url, b"new"), "ok"))])
    if rolled:
        crawl.journal.roll()
        crawl.commit([], [seed("http://example.org/unvisited", 9)])
    return crawl


def content(url):
    return random.Random(url).randbytes(500)


def check(crawl, marks=None, now=None):
    """``marks`` were read when it began; ``now`` is what a commit has made of them since."""
    marks, faults = marks or crawl.store.marks(), []
    now = now or marks
    found = verify(crawl.root, marks, lambda: now, retired_in(now), faults.append)
    assert found.faults == len(faults)
    return found, faults


@pytest.mark.parametrize("rolled", [True, False])
@pytest.mark.parametrize("kind", ["warc", "files", "discard"])
def test_a_sound_crawl_has_no_fault(tmp_path, kind, rolled):
    crawl = crawled(tmp_path, kind, rolled)
    found, faults = check(crawl)
    assert faults == []
    assert found.rows == PAGES + 1
    files = 2 if rolled else 1
    assert (found.files, found.records) == {
        "warc": (2 * files + 1, 2 * PAGES + files),
        "files": (1, PAGES),
        "discard": (1, 0),
    }[kind]
    crawl.journal.close()


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    crawl = crawled(tmp_path_factory.mktemp("sound"))
    crawl.journal.close()
    return crawl


@pytest.fixture
def crawl(sound, tmp_path):
    """A copy that may be damaged."""
    shutil.copytree(sound.root, tmp_path / "copy")
    copy = object.__new__(Crawl)
    copy.root, copy.store = tmp_path / "copy", sound.store
    return copy


def first_of(crawl, folder):
    return crawl.root / min(key for key in crawl.store.marks() if key.startswith(folder))


@pytest.mark.parametrize("folder", ["warc", "index", "results"])
@pytest.mark.parametrize("harm", ["missing", "shorter"])
def test_a_file_that_is_missing_or_shorter_is_named(crawl, folder, harm):
    path = first_of(crawl, folder)
    path.unlink() if harm == "missing" else os.truncate(path, path.stat().st_size // 2)
    found, faults = check(crawl)
    assert found.faults
    assert f"{path}: " in faults[0]
    assert ("but it is missing" if harm == "missing" else "but it is only") in faults[0]


def test_an_index_that_is_missing_is_one_fault(crawl):
    first_of(crawl, "index").unlink()
    found, faults = check(crawl)
    assert (found.faults, len(faults)) == (1, 1), faults


@pytest.mark.parametrize("harm", ["missing", "shorter"])
def test_results_that_are_missing_or_shorter_are_one_fault(crawl, harm):
    path = first_of(crawl, "results")
    path.unlink() if harm == "missing" else os.truncate(path, path.stat().st_size // 2)
    found, faults = check(crawl)
    assert (found.faults, len(faults)) == (1, 1), faults


def test_rows_of_a_missing_file_do_not_hide_those_of_the_next(crawl):
    """One fault, of the file itself: its rows have nothing to be checked against, and all others have their records."""
    path = first_of(crawl, "warc")
    path.unlink()
    _, faults = check(crawl)
    assert len(faults) == 1 and f"{path}: " in faults[0], faults


def says_the_same(sound, copy, path, place) -> bool:
    """Whether the member still unpacks, checksum and all, to what it held."""
    texts = []
    for root in (sound.root, copy.root):
        data = (root / path.relative_to(copy.root)).read_bytes()[place["offset"] :][: place["length"]]
        try:
            texts.append(gzip.decompress(data))
        except (OSError, EOFError, zlib.error):
            return False
    return texts[0] == texts[1]


@settings(max_examples=100, deadline=None)
@given(place=st.floats(0, 0.999), bit=st.integers(0, 7))
def test_a_flipped_bit_in_a_record_is_found_and_the_rest_is_still_checked(sound, tmp_path_factory, place, bit):
    copy = object.__new__(Crawl)
    copy.root, copy.store = tmp_path_factory.mktemp("flip") / "copy", sound.store
    shutil.copytree(sound.root, copy.root)
    path = first_of(copy, "warc")
    answers = [row["archive"] for row in sound.rows() if row["archive"] and row["archive"]["file"].endswith(path.name)]
    at = answers[0]["offset"] + 10 + int(place * (answers[0]["length"] - 10))  # behind the gzip header, whose time is free text
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1 << bit]))
    if says_the_same(sound, copy, path, answers[0]):
        shutil.rmtree(copy.root)
        reject()  # between the end of the deflated data and its checksum are up to seven bits that mean nothing
    found, faults = check(copy)
    assert any(f"{path.name}: the " in fault and f" at {answers[0]['offset']} " in fault for fault in faults)
    assert found.records >= 2 * PAGES - 1
    shutil.rmtree(copy.root)


def rewrite(crawl, change):
    """Change the rows and their mark."""
    path = first_of(crawl, "results")
    found = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in change(found)))
    marks = crawl.store.marks() | {f"results/{path.name}": Mark(path.stat().st_size)}

    class Store:
        def marks(self):
            return marks

    crawl.store = Store()


def test_a_row_whose_body_is_another_is_named(crawl):
    rewrite(crawl, lambda found: [found[0] | {"sha256": "00" * 32}, *found[1:]])
    _, (fault,) = check(crawl)
    assert "is not the one of its row (0000" in fault


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows[1:], "no row names the record at"),
        (lambda rows: [rows[0], *rows], "a row names a record at"),
        (lambda rows: [*rows[:-1], moved(rows[-1], offset=5_000_000)], "which is not there"),
        (lambda rows: [moved(rows[0], length=7), *rows[1:]], "its row says otherwise"),
        (lambda rows: [*rows, moved(rows[0], file="warc/other.warc.gz")], "a row names this file, but no commit does"),
        (lambda rows: [*rows, rows[0] | {"archive": {"file": "warc/x", "offset": 1}}], "names a place that no archive has"),
    ],
)
def test_rows_and_records_that_do_not_match_are_named(crawl, change, said):
    rewrite(crawl, change)
    _, faults = check(crawl)
    assert any(said in fault for fault in faults)


def test_a_row_that_cannot_be_read_is_one_fault(crawl):
    """Not one for each record behind it as well."""
    path = first_of(crawl, "results")
    path.write_bytes(b"X" + path.read_bytes()[1:])
    found, (fault,) = check(crawl)
    assert "the row at 0 is damaged" in fault and found.records >= PAGES, "which are read all the same"


def moved(row, **place):
    return row | {"archive": row["archive"] | place}


@pytest.mark.parametrize(("harm", "said"), [("order", "is out of order"), ("fewer", "lines for")])
def test_an_index_that_is_not_in_order_or_not_whole_is_named(crawl, harm, said):
    path = first_of(crawl, "index")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(reversed(lines)) if harm == "order" else b"".join(lines).replace(b"\n", b" ", 1))
    _, (fault,) = check(crawl)
    assert said in fault
    assert path.name in fault


@pytest.mark.parametrize("name", ["url", "digest", "length", "offset", "filename"])
def test_an_index_that_points_elsewhere_is_named(crawl, name):
    path = first_of(crawl, "index")
    first, *others = path.read_bytes().splitlines(keepends=True)
    key, stamp, fields = first.split(b" ", 2)
    before = orjson.loads(fields)[name].encode()
    value, label = before[:-1] + bytes((before[-1] ^ 1,)), f'"{name}'.encode()
    for changed in (fields.replace(before, value), fields.replace(label, b"'" + label[1:])):
        path.write_bytes(b"".join((key, b" ", stamp, b" ", changed, *others)))
        _, (fault,) = check(crawl)
        assert path.name in fault


@pytest.mark.parametrize(("said", "changed"), [(b"text/html", b"text/htmk"), (b'"200"', b'"404"'), (b'"mime"', b'"mimf"')])
def test_an_index_that_says_something_else_of_a_record_is_named(crawl, said, changed):
    path = first_of(crawl, "index")
    before = path.read_bytes()
    assert said in before
    path.write_bytes(before.replace(said, changed, 1))
    _, (fault,) = check(crawl)
    assert path.name in fault and "or what they hold" in fault


def test_an_index_with_the_time_of_another_visit_is_named(crawl):
    path = first_of(crawl, "index")
    *others, last = path.read_bytes().splitlines(keepends=True)
    key, _, fields = last.split(b" ", 2)
    path.write_bytes(b"".join((*others, key, b" 20991231235959 ", fields)))
    _, (fault,) = check(crawl)
    assert path.name in fault and "do not say where the records stand" in fault


def test_a_kill_between_a_roll_and_the_final_names_leaves_nothing_amiss(tmp_path, monkeypatch):
    """The files are marked as closed; their indexes are put in order as they get their names, at the next start."""
    crawl = crawled(tmp_path, rolled=False)
    monkeypatch.setattr(WarcArchive, "committed", lambda archive: None)
    crawl.journal.roll()
    crawl.commit([], [seed("http://example.org/unvisited", 9)])
    (index,) = (tmp_path / "index").iterdir()
    lines = index.read_bytes().splitlines()
    assert index.suffix == ".open" and lines != sorted(lines) and check(crawl)[1] == []


def test_an_index_that_was_written_on_and_sorted_meanwhile_is_whole(tmp_path):
    """Its lines as of when it began stand among later ones."""
    crawl = Crawl(tmp_path)
    for number in range(8):
        if number == 4:
            marks = crawl.store.marks()
        url = f"http://example.org/{9 - number}"
        visit(crawl, seed(url, number), Done(crawl.page(url, content(url)), "ok"))
    assert check(crawl, marks)[1] == []
    crawl.journal.roll()
    crawl.commit([], [seed("http://example.org/unvisited", 9)])
    assert check(crawl, marks, crawl.store.marks())[1] == []
    path = first_of(crawl, "index")
    path.write_bytes(path.read_bytes().replace(b"/9", b"/x"))
    assert check(crawl, marks, crawl.store.marks())[0].faults


def test_a_file_that_gets_its_final_name_between_two_looks_is_not_missed(crawl, monkeypatch):
    path = first_of(crawl, "warc")
    opened = path.rename(path.with_name(f"{path.name}.open"))

    def looked(at):
        length = length_of(at)
        if at == path and opened.exists():
            opened.rename(path)
        return length

    monkeypatch.setattr("crawler.output.verify.length_of", looked)
    assert check(crawl)[1] == [] and not opened.exists()


def test_a_body_file_that_is_not_what_its_name_says_is_named(tmp_path):
    crawl = crawled(tmp_path, "files")
    paths = sorted(path for path in (tmp_path / "files").rglob("*") if path.is_file())
    with paths[0].open("r+b") as file:
        file.write(b"!")
    paths[1].unlink()
    _, faults = check(crawl)
    assert any(f"{paths[0].name}: its sha256 is" in fault for fault in faults)
    assert any(f"{paths[1].name}: No such file" in fault for fault in faults)
    crawl.journal.close()


def test_what_was_retired_is_not_missed(crawl):
    path = first_of(crawl, "warc")
    index = crawl.root / "index" / path.name.replace(".warc.gz", ".cdxj")
    marks = crawl.store.marks()
    for gone in (path, index):
        gone.unlink()
        key = str(gone.relative_to(crawl.root))
        marks[key] = Mark(marks[key].length, closed=True, retired=True)
    assert check(crawl, marks)[1] == []


@pytest.mark.parametrize("folder", ["warc", "results"])
def test_what_is_retired_meanwhile_is_not_missed(crawl, folder):
    marks = crawl.store.marks() | {"exchange/p00-000000.log": Mark(9, closed=True)}  # deleted, as all have read it
    gone = {file for file in marks if file.startswith("results/")}
    if folder == "warc":
        path = first_of(crawl, "warc")
        gone = {f"warc/{path.name}", f"index/{path.name.replace('.warc.gz', '.cdxj')}"}
    for file in gone:
        (crawl.root / file).unlink()
    now = crawl.store.marks() | {file: Mark(marks[file].length, closed=True, retired=True) for file in gone}
    found, faults = check(crawl, marks, now)
    assert (faults, found.rows > 0) == ([], folder == "warc")


def test_a_large_body_is_checked_in_bounded_memory(tmp_path):
    crawl = Crawl(tmp_path)
    piece = os.urandom(65536)
    url = "http://example.org/"
    visit(crawl, seed(url, 1), Done(crawl.page(url, (piece for _ in range(400))), "ok"))
    tracemalloc.start()
    _, faults = check(crawl)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert faults == []
    assert peak < 4 << 20
    crawl.journal.close()
