"""Rows of a crawl whose store may be behind what is committed, as the working copy of a cluster's node."""

from __future__ import annotations

import math

import pytest
from support.pages import Crawl, seed, visit

from crawler.core.batch import Settled
from crawler.core.model import Done, Input, Known, Link
from crawler.frontier.recrawl import RecrawlOrder
from crawler.output.reader import CrawlReader

A, B = "http://a.example.org/", "http://b.example.org/"


class Behind:
    """The store as a reader sees it; of some URLs it knows less."""

    def __init__(self, crawl: Crawl, known: dict[str, str | None], *, lags: bool, is_partial: bool = True) -> None:
        self._store, self._known, self._lags = crawl.store, known, lags
        self.is_partial = is_partial

    def lags(self, file: str, url: str) -> bool:
        return self._lags

    def lookup(self, url: str) -> Known | str | None:
        return self._known[url] if url in self._known else self._store.lookup(url)

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


def redirect(crawl: Crawl, url: str, line: int) -> Done:
    page = crawl.page(url, status=302, headers=((b"Location", b"//b.example.org"),))
    onward = Link(B, "b.example.org", "redirect", via=url, input=Input("list.txt", line), hops=1)
    return Done(page, "redirect", outlinks=(onward,))


def test_a_line_that_came_by_a_redirect_of_another_node_has_its_row(crawl) -> None:
    """The first that led to a page has the page's own; for the others its row stands, named as they named it."""
    for line in (1, 2):
        visit(crawl, seed(f"{A}{line}", line), redirect(crawl, f"{A}{line}", line))
        if line == 1:
            crawl.commit([Settled(crawl.claim()[0], Done(crawl.page(B), "ok"))])
    for lags, is_partial in ((True, True), (False, True), (False, False)):
        known = {f"{A}1": None, f"{A}2": "waiting"}
        reader = CrawlReader(crawl.root, Behind(crawl, known, lags=lags, is_partial=is_partial))
        told = [(row["url"], row["outcome"], row["input"] and row["input"]["line"]) for row in reader.final()]
        assert told == ([(B, "ok", 1), (B, "ok", 2)] if is_partial else [(B, "ok", None)])
