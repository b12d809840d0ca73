"""A crawl's directory read back, also while the crawl that writes it goes on."""

from __future__ import annotations

import pytest
from support.pages import Crawl, seed, visit

import crawler
from crawler.core.errors import FetchError, StorageError
from crawler.core.model import Done
from crawler.frontier import Limits, open_store
from crawler.output.reader import Reading

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


def test_what_is_open_shows_one_commit(crawl):
    visit(crawl, seed(A, 1), Done(crawl.page(A), "ok"))
    with Reading(crawl.root) as reading:
        visit(crawl, seed(A + "2", 2), Done(crawl.page(A + "2"), "ok"))
        crawl.commit(links=[seed(A, 3)])
        assert [row["url"] for _, row in reading.rows()] == [A]
        assert [row["input"]["line"] for row in reading.final()] == [1]
        assert reading.verify(print).faults == 0
    with Reading(crawl.root) as reading:
        assert [(row["input"]["line"], row["outcome"]) for row in reading.final()] == [(1, "ok"), (2, "ok"), (3, "ok")]
        known = reading.lookup("HTTP://a.example.org")
        with reading.body(known.archive) as body:
            assert body.read() == b"<p>hello"
        assert reading.lookup(A + "never") is None
        with pytest.raises(FetchError):
            reading.lookup("no url")


def test_a_directory_without_a_crawl_is_named(tmp_path):
    with pytest.raises(StorageError, match="frontier"):
        Reading(tmp_path)
