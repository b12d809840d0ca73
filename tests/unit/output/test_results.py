"""Rows on disk: appended, rolled, cut back, read back; nothing beyond a mark is ever seen."""

from __future__ import annotations

import csv
import io
import os
import tracemalloc

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crawler.core.errors import StorageError
from crawler.core.model import Mark, Ref
from crawler.output.csv_rows import csv_lines
from crawler.output.results import FIELDS, Results, body_ref, read, row_at, rows


def row(**fields):
    """With nothing in it but what every row has."""
    told = {"url": "u", "outcome": "ok", "kind": "seed", "final": True, "fetched_at": "2026-11-28T23:41:38.901Z"}
    return {"schema": 1, **dict.fromkeys(FIELDS), **told, **fields}


ROW_BYTES = len(orjson.dumps(row(n=0))) + 1


class Book:
    """Results and the marks that were committed."""

    def __init__(self, root, roll_bytes=1 << 30):
        self.root, self.roll_bytes, self.marks = root, roll_bytes, {}
        self.reopen()

    def reopen(self):
        if hasattr(self, "results"):
            self.results.close()
        self.results = Results(self.root, self.roll_bytes)
        return self.results.rewind(self.marks)

    def commit(self):
        self.marks |= self.results.sync()
        self.results.committed()

    def names(self):
        return sorted(path.name for path in (self.root / "results").iterdir())

    def read(self, **how):
        return [row for _, row in rows(self.root, self.marks, **how)]


@pytest.fixture
def book(tmp_path):
    book = Book(tmp_path)
    yield book
    book.results.close()


def test_rows_are_read_back_in_order_up_to_the_mark(book):
    refs = [book.results.append(row(n=n)) for n in range(3)]
    book.commit()
    book.results.append(row(n="not committed"))
    book.results.sync()
    assert book.read() == [row(n=0), row(n=1), row(n=2)]
    assert [ref for ref, _ in rows(book.root, book.marks)] == refs
    assert [row_at(book.root, ref) for ref in refs] == book.read()


def test_files_roll_at_a_commit(tmp_path):
    book = Book(tmp_path, roll_bytes=3 * ROW_BYTES)
    for n in range(9):
        book.results.append(row(n=n))
        book.results.append(row(n=-n))
        if n % 2:
            book.commit()
        if n == 5:
            assert book.reopen() == []
    book.commit()
    assert book.names() == [f"results-{n:06d}.jsonl" for n in range(5)]
    assert [mark.closed for _, mark in sorted(book.marks.items())] == [True] * 4 + [False]
    assert [found["n"] for found in book.read()] == [m for n in range(9) for m in (n, -n)]
    assert book.results.sync() == {}
    book.results.close()


def test_reading_goes_on_from_a_cursor(tmp_path):
    book = Book(tmp_path, roll_bytes=5 * ROW_BYTES // 2)
    refs = []
    for n in range(7):
        refs.append(book.results.append(row(n=n)))
        book.commit()
    book.results.close()
    for at, ref in enumerate(refs):
        assert [found["n"] for found in book.read(start=(ref.file, ref.offset + ref.length))] == list(range(at + 1, 7))


step = st.one_of(st.text(max_size=40), st.sampled_from(["commit", "fail"]), st.tuples(st.just("kill"), st.binary(max_size=99)))


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(step, min_size=10, max_size=60))
def test_what_was_committed_is_read_once_whatever_happens(tmp_path_factory, steps):
    book = Book(tmp_path_factory.mktemp("r"), roll_bytes=4 * ROW_BYTES)
    committed, pending = [], []
    for action in steps:
        if isinstance(action, str) and action not in ("commit", "fail"):
            book.results.append(row(fault=action))
            pending.append(action)
            continue
        if action == "commit":
            book.commit()
            committed += pending
        elif action == "fail":
            book.results.sync()
            assert book.results.rewind(book.marks) == []
        else:
            book.results.close()
            tear(book, action[1])
            book.reopen()
        pending = []
        assert [found["fault"] for found in book.read()] == committed
    book.results.close()


def tear(book, trash):
    open_files = [name for name in book.names() if not book.marks.get(f"results/{name}", Mark(0)).closed]
    for name in open_files:
        path = book.root / "results" / name
        os.truncate(path, book.marks.get(f"results/{name}", Mark(0)).length)
        with path.open("ab") as file:
            file.write(trash)


def test_a_file_no_commit_knows_is_moved_and_others_are_left_alone(book):
    book.results.append(row(n=0))
    book.results.sync()  # killed before the commit
    (book.root / "results" / "notes.txt").write_text("mine")
    (book.root / "results" / "results-000007.jsonl").write_text("mine")
    assert book.reopen() == ["lost+found/results-000000.jsonl"]
    book.results.append(row(n=1))
    book.commit()
    assert book.read() == [row(n=1)]
    assert book.names() == ["notes.txt", "results-000000.jsonl", "results-000007.jsonl"]


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("harm", ["missing", "shorter"])
def test_a_committed_file_that_is_missing_or_shorter_is_named(tmp_path, closed, harm):
    book = Book(tmp_path, roll_bytes=1 if closed else 2 * ROW_BYTES)
    book.results.append(row(n=0))
    book.commit()
    path = tmp_path / "results" / "results-000000.jsonl"
    path.unlink() if harm == "missing" else os.truncate(path, 3)
    for attempt in (book.reopen, book.read):
        with pytest.raises(StorageError, match=rf"results-000000\.jsonl: {ROW_BYTES} bytes were committed") as raised:
            attempt()
        assert raised.value.final


@pytest.mark.parametrize(("closed", "advice"), [(True, "crawler retire DIR FILE"), (False, "--fresh")])
def test_who_reads_rows_that_are_missing_is_not_sent_to_retire_what_is_not_full(tmp_path, closed, advice):
    with pytest.raises(StorageError, match=advice):
        list(rows(tmp_path, {"results/results-000000.jsonl": Mark(10, closed=closed)}))


def test_retired_files_are_passed_over(tmp_path):
    book = Book(tmp_path, roll_bytes=1)
    refs = []
    for n in range(3):
        refs.append(book.results.append(row(n=n)))
        book.commit()
    (tmp_path / refs[1].file).unlink()
    book.marks[refs[1].file] = Mark(8, closed=True, retired=True)
    assert book.reopen() == []
    assert [found["n"] for found in book.read()] == [0, 2]
    assert row_at(tmp_path, refs[1]) is None
    assert book.results.append(row(n=3)).file == "results/results-000003.jsonl"
    book.results.close()


def test_a_file_that_is_retired_just_now_is_passed_over(tmp_path):
    """Once it was found there, and before it is opened."""
    book = Book(tmp_path, roll_bytes=1)
    for n in range(2):
        book.results.append(row(n=n))
        book.commit()
    book.results.close()
    first = tmp_path / "results" / "results-000000.jsonl"

    def is_retired(file):
        was_there = (tmp_path / file).exists()
        first.unlink(missing_ok=True)
        return not was_there

    assert [found["n"] for found in book.read(is_retired=is_retired)] == [1]


@pytest.mark.parametrize(
    "harm",
    [
        b"[1]\n",
        b"{]}\n",
        b'{"n":',
        b'{"n":1}\n',
        *(
            orjson.dumps(row(**wrong)) + b"\n"
            for wrong in ({"status": "200"}, {"fetched_at": "2026-11-28T23:4q:38.901Z"}, {"timings": {}}, {"archive": []})
        ),
    ],
)
def test_damage_is_named(book, harm):
    book.results.append(row(n=0))
    book.commit()
    path = book.root / "results" / "results-000000.jsonl"
    with path.open("ab") as file:
        file.write(harm)
    book.marks["results/results-000000.jsonl"] = Mark(path.stat().st_size)
    with pytest.raises(
        StorageError, match=rf"results-000000\.jsonl: the row (at {ROW_BYTES} is damaged|before \d+ does not end)"
    ):
        book.read()


def test_text_that_is_not_unicode_is_made_so(book):
    book.results.append(row(url="http://x/\udcff", input={"list": "l\udce9st", "line": 1}))
    book.commit()
    assert book.read() == [row(url="http://x/�", input={"list": "l�st", "line": 1})]


def test_long_rows_pass_and_reading_is_bounded(book):
    long = "x" * 100_000
    for n in range(600):
        book.results.append(row(n=n, fault=long))
    book.commit()
    tracemalloc.start()
    assert sum(1 for _ in rows(book.root, book.marks)) == 600
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


def test_a_result_opens_the_body_its_row_names(book):
    place = {"file": "warc/x.warc.gz", "offset": 7, "length": 9}
    book.results.append(row(url="u1", archive=place, bytes_decoded=5))
    book.results.append(row(url="u2", archive={**place, "offset": 70, "revisit_of": place}, bytes_decoded=5))
    book.results.append(row(url="u3", archive={"path": "files/ab/cd/x.html"}, bytes_decoded=5))
    book.results.append(row(url="u4", archive=None))
    book.commit()
    *kept, none = read(book.root, book.marks, lambda ref: io.BytesIO(repr(ref).encode()))
    first = Ref("warc/x.warc.gz", 7, 9)
    assert [result.open().read().decode() for result in kept] == list(map(repr, [first, first, Ref("files/ab/cd/x.html", 0, 5)]))
    assert none.row["url"] == "u4"
    with pytest.raises(LookupError, match="no body was kept of u4"):
        none.open()
    assert body_ref(none.row) is None


def test_csv_is_one_flat_line_per_row():
    row = dict.fromkeys(FIELDS) | {
        "url": 'http://x/"a",b',
        "final": True,
        "input": {"list": "l", "line": 3},
        "timings": {"queue": 0.5, "first_byte": 1.0, "total": 2.0},
        "archive": {"path": "files/x"},
        "extra": {"k": "\x9b31m"},
    }
    table = list(csv.DictReader(io.StringIO("".join(csv_lines([row, dict.fromkeys(FIELDS)])))))
    filled = {name: value for name, value in table[0].items() if value}
    assert filled == {
        "url": 'http://x/"a",b',
        "final": "true",
        "input_list": "l",
        "input_line": "3",
        "timings_queue": "0.5",
        "timings_first_byte": "1.0",
        "timings_total": "2.0",
        "archive_path": "files/x",
        "extra": '{"k":"?31m"}',
    }
    assert set(table[1].values()) == {""}
    assert orjson.loads(orjson.dumps(row)) == row


def test_csv_is_no_formula_and_steers_no_terminal():
    said = ["=HYPERLINK(1)", "+1", "-1", "@SUM(1)", "\x1b[2J", "\t=1", "http://x/=1"]
    rows = [dict.fromkeys(FIELDS) | {"location": text, "status": 200} for text in said]
    table = list(csv.DictReader(io.StringIO("".join(csv_lines(rows)))))
    assert [row["location"] for row in table] == ["'=HYPERLINK(1)", "'+1", "'-1", "'@SUM(1)", "?[2J", "?=1", "http://x/=1"]
    assert {row["status"] for row in table} == {"200"}
