"""A crawl's directory read back, also while the crawl that writes it goes on."""

from __future__ import annotations

import io
from contextlib import closing

import orjson
import pytest
from msgspec.structs import replace
from support.pages import Crawl, seed, visit

import crawler
from crawler.config.crawl_toml import write_effective
from crawler.config.sections import Config
from crawler.core.errors import FetchError, StorageError
from crawler.core.model import Done, Link
from crawler.crawl.maintenance import empty_batch
from crawler.crawl.reading import open_crawl_reader
from crawler.frontier import Limits, open_store
from crawler.output.archive import open_body

A = "http://a.example.org/"


@pytest.fixture(params=["warc", "files"])
def crawl(request, tmp_path):
    store = open_store("embedded", tmp_path / "frontier", Limits(), now=1000.0, rest=lambda host: 0.0, memory_bytes=8 << 20)
    crawl = Crawl(tmp_path, request.param, store=store)
    yield crawl
    crawl.journal.close()
    store.close()


def test_rows_and_bodies_while_it_runs(crawl):
    for number in range(5):
        visit(crawl, seed(f"{A}{number}", number), Done(crawl.page(f"{A}{number}", b"body %d" % number), "ok"))
        found = {}
        for result in crawler.read(crawl.root):
            with result.open() as body:
                found[result.row["url"]] = body.read()
        assert found == {f"{A}{n}": b"body %d" % n for n in range(number + 1)}
        if number == 2:
            crawl.journal.roll()


def test_pages_are_read_and_what_is_none_only_where_asked_for(crawl):
    for kind in ("seed", "link", "redirect", "sitemap", "robots"):
        link = Link(A + kind, "a.example.org", kind)
        visit(crawl, link, Done(crawl.page(link.url, kind.encode()), "ok"))

    def kinds(**asked) -> list[str]:
        return [result.row["kind"] for result in crawler.read(crawl.root, **asked)]

    assert kinds() == ["seed", "link", "redirect"]
    assert kinds(kinds=None) == ["seed", "link", "redirect", "sitemap", "robots"]
    assert kinds(kinds=set()) == []
    assert kinds(kinds={"robots", "seed"}) == ["seed", "robots"]
    assert kinds(kinds=["sitemap"]) == kinds(kinds="sitemap") == ["sitemap"]
    with pytest.raises(ValueError, match=r"no kind of row 'robot'.*seed, link, redirect, sitemap, robots"):
        crawler.read(crawl.root, kinds=("robot", "seed"))


def test_rows_of_an_earlier_version_lack_the_newest_fields(crawl):
    """They are read, exported and joined all the same."""
    from crawler.output.csv_rows import csv_lines
    from crawler.output.export import json_line
    from crawler.parse.encoding import read_text

    newest = ("listed", "extra", "encoding", "cut", "fault")
    visit(crawl, seed(A, 1), Done(crawl.page(A), "ok"))
    with open_crawl_reader(crawl.root) as reader:
        old = [{name: value for name, value in row.items() if name not in newest} for row in reader.final()]
        assert orjson.loads(b"".join(json_line(old[0], io.BytesIO(b"x"), read_text)))["listed"] is None
        assert [line.count(",") for line in csv_lines(old)] == [next(csv_lines(())).count(",")] * 2


def test_what_is_open_shows_one_commit(crawl):
    write_effective(crawl.root, Config())
    visit(crawl, seed(A, 1), Done(crawl.page(A), "ok"))
    with open_crawl_reader(crawl.root) as reader:
        visit(crawl, seed(A + "2", 2), Done(crawl.page(A + "2"), "ok"))
        crawl.commit(links=[seed(A, 3)])
        assert [row["url"] for _, row in reader.rows()] == [A]
        assert [row["input"]["line"] for row in reader.final()] == [1]
        assert reader.verify(print).faults == 0
    with open_crawl_reader(crawl.root) as reader:
        assert [(row["input"]["line"], row["outcome"]) for row in reader.final()] == [(1, "ok"), (2, "ok"), (3, "ok")]
        known = reader.lookup("HTTP://a.example.org")
        with reader.body(known.archive) as body:
            assert body.read() == b"<p>hello"
        assert reader.lookup(A + "never") is None
        with pytest.raises(FetchError):
            reader.lookup("no url")


def test_it_goes_on_showing_that_commit_when_a_file_is_retired_meanwhile(tmp_path, monkeypatch):
    """And the store is asked once for a file, not once for each row that names it."""
    store = open_store("embedded", tmp_path / "frontier", Limits(), now=1000.0, rest=lambda host: 0.0, memory_bytes=8 << 20)
    crawl = Crawl(tmp_path, roll_size=1, store=store)
    visit(crawl, seed(A, 1), Done(crawl.page(A), "ok"))
    with closing(store), closing(crawl.journal), open_crawl_reader(tmp_path) as reader:
        asked = []
        marks_now = reader._store.marks_now
        monkeypatch.setattr(reader._store, "marks_now", lambda: asked.append(1) or marks_now())
        visit(crawl, seed(A + "2", 2), Done(crawl.page(A + "2"), "ok"))
        file = reader.lookup(A).archive.file
        retired = {file: replace(store.marks()[file], retired=True)}
        store.commit(store.prepare(replace(empty_batch(store), retired=retired)), [], {})
        (tmp_path / file).unlink()
        for _ in range(3):
            with pytest.raises(LookupError):
                reader.body(reader.lookup(A).archive)
        assert asked == [1] and reader.lookup(A + "2") is None


def test_a_directory_without_a_crawl_is_named(tmp_path):
    with pytest.raises(StorageError, match="frontier"):
        open_crawl_reader(tmp_path)


def test_a_body_that_is_retired_just_now_is_kept_no_longer(crawl, monkeypatch):
    """Once its file was found there, and before it is opened."""
    visit(crawl, seed(A, 1), Done(crawl.page(A, b"body"), "ok"))
    crawl.journal.roll()
    crawl.commit([], [seed(f"{A}2", 2)])
    with open_crawl_reader(crawl.root) as reader:
        (result,) = reader.results()

        def opened(root, ref, *, raw):
            retired = {file: replace(mark, retired=True) for file, mark in reader.marks.items() if file == ref.file}
            crawl.store.commit(crawl.store.prepare(replace(empty_batch(crawl.store), retired=retired)), [], {})
            (root / ref.file).unlink()
            return open_body(root, ref, raw=raw)

        monkeypatch.setattr("crawler.output.reader.open_body", opened)
        with pytest.raises(LookupError, match="was retired"):
            result.open()
