"""Rows of a crawl whose store may be behind what is committed, as the working copy of a cluster's node."""

from __future__ import annotations

import math

import pytest
from support.pages import Crawl, seed, visit

from crawler.core.batch import Settled
from crawler.core.model import Done, Known
from crawler.frontier.recrawl import RecrawlOrder
from crawler.output.reader import CrawlReader

A = "http://a.example.org/"


class Behind:
    """The store as a reader sees it; of some URLs it knows less."""

    def __init__(self, crawl: Crawl, known: dict[str, str | None], *, lags: bool) -> None:
        self._store, self._known, self._lags = crawl.store, known, lags

    def lookup(self, url: str) -> Known | str | None:
        return self._known[url] if url in self._known else self._store.lookup(url)

    def lags(self, file: str, url: str) -> bool:
        return self._lags

    def marks(self):
        return self._store.marks()

    marks_now = marks


@pytest.fixture
def crawl(tmp_path):
    crawl = Crawl(tmp_path)
    yield crawl
    crawl.journal.close()


def told(crawl: Crawl, known: dict[str, str | None], *, lags: bool = True) -> tuple[list[str], list[str]]:
    """URLs of the final rows, and of the latest."""
    reader = CrawlReader(crawl.root, Behind(crawl, known, lags=lags))
    return [row["url"] for row in reader.final()], [row["url"] for row in reader.latest()]


@pytest.mark.parametrize("known", ["waiting", None])
def test_a_page_that_was_visited_has_its_row_only_where_the_store_may_lag(crawl, known) -> None:
    for number in (1, 2):
        visit(crawl, seed(f"{A}{number}", number), Done(crawl.page(f"{A}{number}"), "ok"))
    assert told(crawl, {f"{A}2": known}) == ([f"{A}1", f"{A}2"],) * 2
    assert told(crawl, {f"{A}2": known}, lags=False) == ([f"{A}1"],) * 2, "it was removed, and named again perhaps"


def test_a_line_that_stands_for_a_page_that_waits_is_no_visit_of_it(crawl) -> None:
    """A crawl of 1,000 pages that were each listed twice told of 1,000 that were skipped."""
    crawl.commit(links=[seed(A, 1)])
    crawl.commit(links=[seed(A, 2)])
    assert told(crawl, {}) == ([A], [])


def test_of_a_page_that_was_visited_again_one_row_is_told(crawl) -> None:
    visit(crawl, seed(A, 1), Done(crawl.page(A), "ok"))
    crawl.store.order(RecrawlOrder(crawl.now, math.inf))
    crawl.store.fulfil(10)
    crawl.commit([Settled(crawl.claim()[0], Done(crawl.page(A), "ok"))])
    assert [row["kind"] for row in crawl.rows()] == ["seed", "recrawl"]
    assert told(crawl, {A: None}) == ([A], [A])
