"""What is told of a visit against the one before, over histories of visits; and when the next one is."""

import pytest
from support.pages import Crawl, seed, visit
from support.stores import revive

from crawler.core.batch import Settled
from crawler.core.model import Done, Dropped
from crawler.policy.intervals import Intervals

URL = "http://a.example.org/"
HEAD = b"HEAD / HTTP/1.1\r\nHost: a.example.org\r\n\r\n"


def ends(crawl: Crawl, name: str) -> Done | Dropped:
    if name == "timeout":
        return Dropped("timeout", "total_timeout")
    if name.startswith("to-"):
        headers = ((b"Location", name.encode()),)
        return Done(crawl.page(URL, b"moved", status=302, headers=headers), "redirect")
    if name == "cut":
        return Done(crawl.page(URL, b"o"), "truncated", "content_length")
    if name.startswith("head"):
        status = int(name[4:] or 200)
        headers = ((b"ETag", b'"head"'),)
        return Done(crawl.page(URL, b"", status=status, headers=headers, request=HEAD), "ok" if status == 200 else "http_error")
    status = int(name) if name.isdigit() else 200
    outcome = "ok" if status in (200, 304) else "http_error"
    return Done(crawl.page(URL, b"" if status == 304 else name.encode(), status=status, headers=((b"ETag", b'"x"'),)), outcome)


@pytest.mark.parametrize("kind", ["warc", "files", "discard"])
@pytest.mark.parametrize(
    ("visits", "changes"),
    [
        ("one one 304 two two", "new unchanged unchanged changed unchanged"),
        ("one 304 one 304", "new unchanged unchanged unchanged"),
        ("404 304 one", "- new changed"),
        ("to-a 304 to-a", "new changed changed"),
        ("one 503 one timeout 503 two", "new - unchanged - - changed"),
        ("one timeout 410 404 one", "new - gone - new"),
        ("404 404 one", "- - new"),
        ("timeout one", "- new"),
        ("to-a to-a to-b one to-b", "new unchanged changed changed changed"),
        ("to-a 503 to-a 404", "new - unchanged gone"),
        ("one cut one cut cut two", "new - unchanged - - changed"),
        ("one cut 503 one cut 404", "new - - unchanged - gone"),
        ("to-a cut to-a", "new - unchanged"),
        ("404 cut cut one", "- new unchanged changed"),
        ("one head one head head two", "new - unchanged - - changed"),
        ("one head 304 503 head one", "new - unchanged - - unchanged"),
        ("one head503 head one head404 head", "new - - unchanged gone new"),
        ("one head cut head one", "new - - - unchanged"),
        ("head head 503 head404", "new - - gone"),
        ("to-a head to-a", "new - unchanged"),
    ],
)
def test_a_visit_is_compared_with_the_last_one_that_could_tell(tmp_path, kind, visits, changes):
    crawl, known, found = Crawl(tmp_path, kind), None, []
    for name in visits.split():
        if known is None:
            known, rows = visit(crawl, seed(URL, 1), ends(crawl, name))
        else:
            revive(crawl.store, known.outcome)
            [lease] = crawl.claim()
            crawl.commit([Settled(lease, ends(crawl, name))])
            [known], rows = crawl.known, crawl.rows()[-1:]
        assert rows[0]["change"] == known.change
        found.append(known.change or "-")
    assert found == changes.split()


def test_only_what_is_whole_may_be_confirmed_by_the_server(tmp_path):
    crawl = Crawl(tmp_path)
    for n, (outcome, etag) in enumerate((("ok", '"x"'), ("http_error", None), ("truncated", None))):
        url = f"{URL}{n}"
        page = crawl.page(url, headers=((b"ETag", b'"x"'),))
        assert visit(crawl, seed(url, n), Done(page, outcome))[0].etag == etag


@pytest.mark.parametrize("kind", ["warc", "files"])
def test_asked_by_head_a_page_is_no_other_and_what_was_kept_of_it_is_there(tmp_path, kind):
    crawl = Crawl(tmp_path, kind)
    first, _ = visit(crawl, seed(URL, 1), ends(crawl, "one"))
    for name in ("head", "timeout", "head"):
        revive(crawl.store, "ok", "timeout")
        [lease] = crawl.claim()
        crawl.commit([Settled(lease, ends(crawl, name))])
    [known] = crawl.known
    assert (known.outcome, known.archive, known.archived_at) == ("ok", first.archive, first.fetched_at)
    assert (known.digest, known.etag) == (first.digest, '"x"'), "it may be asked for again by its own validators"
    assert [row["sha256"] == crawl.rows()[0]["sha256"] for row in crawl.rows()] == [True, False, False, False]


def test_what_never_changes_is_visited_less_often_and_what_does_more_often():
    intervals = Intervals(1000, min_s=200, max_s=3000)
    assert intervals.after(None, "new") == intervals.after(None, None) == 1000
    assert intervals.after(1000, "unchanged") == 1500 and intervals.after(1500, "gone") == 2250
    assert intervals.after(2250, "unchanged") == intervals.after(3000, "unchanged") == 3000
    assert intervals.after(1000, "changed") == 500 and intervals.after(300, "changed") == 200
    assert intervals.after(700, None) == 700, "a failure tells nothing"
    assert intervals.after(3000, "new") == 1000, "it is there again"


def test_what_is_still_gone_is_visited_less_often_and_what_only_fails_is_not(tmp_path):
    """Of a crawl that comes back for years ever more pages are gone."""
    crawl, intervals = Crawl(tmp_path), []
    crawl.journal._intervals = Intervals(1000, min_s=200, max_s=3000)
    known, _ = visit(crawl, seed(URL, 1), ends(crawl, "one"))
    for name in ["410", "404", "503", "timeout", "404", "404", "one"]:
        revive(crawl.store, known.outcome)
        [lease] = crawl.claim()
        crawl.commit([Settled(lease, ends(crawl, name))])
        [known] = crawl.known
        intervals.append(known.interval)
    assert intervals == [1500, 2250, 2250, 2250, 3000, 3000, 1000]
