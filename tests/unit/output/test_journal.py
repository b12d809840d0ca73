"""One batch is records, index lines and rows exactly once; every listed line has one final row, whatever it leads to."""

from __future__ import annotations

import gzip
import io
import math
import os
import random
from collections import Counter

import orjson
import pytest
from fastwarc.warc import ArchiveIterator, WarcRecordType
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from support.pages import WALL, Crawl, seed, visit
from support.stores import revive

from crawler.core import urls
from crawler.core.batch import Settled
from crawler.core.errors import FetchError, StorageError
from crawler.core.model import Done, Dropped, Input, Known, LineFault, Link, Retry
from crawler.frontier.recrawl import RecrawlOrder
from crawler.output.archive import open_body
from crawler.output.results import FIELDS, body_ref, row_at
from crawler.policy.judge import Judge
from crawler.resources.memory_plan import WRITE_BYTES


@pytest.fixture
def crawl(tmp_path):
    crawl = Crawl(tmp_path)
    yield crawl
    crawl.journal.close()


A = "http://a.example.org/"
B = "http://b.example.org/"


CUT = (("body_cut", "8 bytes of it came"), ("outlinks", "3 references were left out"))


def test_what_is_rolled_in_the_middle_of_a_commit_is_rolled_in_the_next_records_and_rows_alike(crawl, monkeypatch):
    """Else a disk that is lost takes rows along whose records were stored already, and these are fetched again."""
    visit(crawl, seed(A, 1), Done(crawl.page(A), "ok"))
    sync = crawl.journal._archive.sync

    def while_it_rolls():
        marks = sync()
        crawl.journal.roll(rows=True)
        return marks

    with monkeypatch.context() as patched:
        patched.setattr(crawl.journal._archive, "sync", while_it_rolls)
        crawl.commit()
    for closed in (False, True):
        files = {file.partition("/")[0]: mark.closed for file, mark in crawl.store.marks().items()}
        assert files == {"warc": closed, "index": closed, "results": closed}
        crawl.commit()


def test_what_was_to_be_rolled_by_a_commit_that_failed_is_rolled_by_the_next(crawl):
    """Else the last files of a crawl stay open, and are stored nowhere else."""
    visit(crawl, seed(A, 1), Done(crawl.page(A), "ok"))
    crawl.journal.roll(rows=True)
    crawl.journal.write(crawl.prepare())
    crawl.journal.rewind(crawl.store.marks())
    crawl.commit()
    assert {mark.closed for mark in crawl.store.marks().values()} == {True}


def test_full_files_that_get_their_names_only_after_a_failure_are_told_of(crawl):
    """Else nobody stores them elsewhere before another one is full."""
    visit(crawl, seed(A, 1), Done(crawl.page(A), "ok"))
    crawl.journal.roll()
    prepared = crawl.prepare()
    crawl.store.commit(prepared, *crawl.journal.write(prepared))
    (opened,) = (crawl.root / "warc").iterdir()
    opened.with_suffix("").mkdir()
    with pytest.raises(StorageError):
        crawl.journal.committed()
    opened.with_suffix("").rmdir()
    before = crawl.journal.rolled_count
    crawl.journal.rewind(crawl.store.marks())
    assert [path.suffix for path in (crawl.root / "warc").iterdir()] == [".gz"]
    assert crawl.journal.rolled_count > before


def test_a_row_has_every_field(crawl):
    page = crawl.page(A, status=203, mime="text/html", charset="utf-8", truncated="length")
    link = seed(A, 7, given="HTTP://a.example.org", tag="t", depth=2, hops=1, via=B, attempt=3)
    known, (row,) = visit(crawl, link, Done(page, "truncated", "cut", encoding="UTF-8", cut=CUT))
    assert list(row) == ["schema", *FIELDS]
    assert row == {
        "schema": 1,
        "url": "HTTP://a.example.org",
        "canonical": A,
        "outcome": "truncated",
        "status": 203,
        "reason": "cut",
        "kind": "seed",
        "input": {"list": "list.txt", "line": 7},
        "final": True,
        "via": B,
        "depth": 2,
        "hops": 1,
        "location": None,
        "mime": "text/html",
        "charset": "utf-8",
        "bytes_wire": 8,
        "bytes_decoded": 8,
        "sha256": page.body.sha256.hex(),
        "truncated": "length",
        "fetched_at": "2026-11-18T11:06:40.250Z",
        "attempt": 3,
        "timings": {"queue": 0.0, "first_byte": 0.0, "total": 0.0},
        "ip": "192.0.2.7",
        "archive": {"file": known.archive.file, "offset": known.archive.offset, "length": known.archive.length},
        "tag": "t",
        "robots": None,
        "listed": "HTTP://a.example.org",
        "extra": None,
        "encoding": "UTF-8",
        "cut": "body_cut,outlinks",
        "fault": "body_cut: 8 bytes of it came; outlinks: 3 references were left out",
        "change": "new",
    }
    assert row_at(crawl.root, known.row) == row
    assert known.digest == page.body.sha1


def test_no_answer_is_a_row_without_a_record(crawl):
    known, (row,) = visit(crawl, seed(A, 1), Dropped("timeout", "read_timeout"))
    assert {name: row[name] for name in ("outcome", "reason", "final", "status", "archive", "sha256", "attempt")} == {
        "outcome": "timeout",
        "reason": "read_timeout",
        "final": True,
        "status": None,
        "archive": None,
        "sha256": None,
        "attempt": 1,
    }
    assert row["fetched_at"]
    assert known.archive is None
    assert not list((crawl.root / "warc").iterdir())


def test_a_body_that_was_not_wanted_is_no_record(crawl):
    _, (row,) = visit(crawl, seed(A, 1), Done(crawl.page(A, b""), "skipped", "mime"))
    assert (row["archive"], row["sha256"], row["status"]) == (None, None, 200)


def test_retry_and_expand_write_nothing(crawl):
    crawl.commit(links=[seed(A, 1), Link(B, "b.example.org", "expand")])
    for lease in crawl.claim():
        expand = lease.link.url == B
        crawl.commit([Settled(lease, Done(crawl.page(B), "ok") if expand else Retry("timeout", "total_timeout"), 1e9)])
        assert crawl.known == [None]
    assert crawl.rows() == []
    assert crawl.store.marks() == {}


@pytest.mark.parametrize("kind", ["robots", "sitemap"])
def test_rows_of_what_is_no_page_are_never_final(crawl, kind):
    _, (row,) = visit(crawl, Link(A + "robots.txt", "a.example.org", kind), Done(crawl.page(A + "robots.txt"), "ok"))
    assert (row["final"], row["archive"] is not None) == (False, True)
    assert crawl.final() == []


@pytest.mark.parametrize(("status", "outcome"), [(200, "ok"), (404, "http_error"), (410, "http_error")])
def test_a_robots_txt_that_is_not_there_is_not_ok(crawl, status, outcome):
    """That allows everything; but what was sent instead is no robots.txt."""
    link = Link(A + "robots.txt", "a.example.org", "robots")
    known, (row,) = visit(crawl, link, Done(crawl.page(link.url, status=status), "ok"))
    assert row["outcome"] == known.outcome == outcome


def redirect(page, target, link, **fields):
    onward = Link(target, urls.host_key(target), "redirect", via=page.url, input=link.input, hops=link.hops + 1, **fields)
    return Done(page, "redirect", outlinks=(onward,))


def test_a_redirect_that_carries_on_is_not_final_and_one_that_does_not_is(crawl):
    page = crawl.page(A, status=301, headers=((b"Location", b"//b.example.org"),))
    known, (row,) = visit(crawl, seed(A, 1), redirect(page, B, seed(A, 1)))
    assert (row["final"], row["location"], known.location) == (False, B, B)
    refused = crawl.page(A + "2", status=301, headers=((b"Location", b"//b.example.org"),))
    known, (row,) = visit(crawl, seed(A + "2", 2), Done(refused, "redirect"))
    assert (row["final"], row["location"], known.location) == (True, B, B)


def test_a_redirect_to_a_known_page_is_followed_by_a_duplicate_row_for_the_line(crawl):
    visit(crawl, seed(B, 1), Done(crawl.page(B), "ok"))
    page = crawl.page(A, status=302, headers=((b"Location", b"//b.example.org"),))
    _, (first, second) = visit(crawl, seed(A, 2), redirect(page, B, seed(A, 2), given="//b.example.org"))
    assert (first["final"], first["outcome"]) == (False, "redirect")
    assert {name: second[name] for name in ("url", "canonical", "outcome", "reason", "kind", "input", "final", "via")} == {
        "url": B,
        "canonical": B,
        "outcome": "skipped",
        "reason": "duplicate",
        "kind": "redirect",
        "input": {"list": "list.txt", "line": 2},
        "final": True,
        "via": A,
    }
    found = Link(A + "found", "a.example.org", "link")
    page = crawl.page(A + "found", status=302, headers=((b"Location", b"//b.example.org"),))
    _, rows_of_found = visit(crawl, found, redirect(page, B, found))
    assert len(rows_of_found) == 1  # nobody listed it


def test_a_redirect_that_is_followed_no_more_takes_the_line_back(crawl):
    """Its target is excluded by now: the line has the redirect's row, not also that of the page it led to before."""
    page = crawl.page(A, status=302, headers=((b"Location", B.encode()),))
    visit(crawl, seed(A, 1), redirect(page, B, seed(A, 1)))
    crawl.commit([Settled(lease, Done(crawl.page(B), "ok")) for lease in crawl.claim()])
    crawl.commit(links=[seed(A, 2)])
    revive(crawl.store, "redirect")
    page = crawl.page(A, status=302, headers=((b"Location", B.encode()),))
    crawl.commit([Settled(lease, Done(page, "redirect")) for lease in crawl.claim()])
    told = [(row["canonical"], row["outcome"], row["input"] and row["input"]["line"]) for row in crawl.final()]
    assert sorted(told, key=str) == [(A, "redirect", 1), (A, "redirect", 2), (B, "ok", None)]


def test_lines_known_already_and_lines_that_are_no_url(crawl):
    faults = [LineFault(Input("list.txt", 3), "http://user:secret@[", "syntax", "t")]
    crawl.commit(links=[seed(A, 1), seed(A, 2, given="http://A.example.org")], faults=faults)
    duplicate, invalid = crawl.rows()
    assert (duplicate["url"], duplicate["canonical"], duplicate["reason"]) == ("http://A.example.org", A, "duplicate")
    assert (duplicate["input"]["line"], duplicate["final"]) == (2, True)
    assert (invalid["url"], invalid["canonical"], invalid["outcome"]) == ("http://***@[", None, "invalid_url")
    assert (invalid["reason"], invalid["tag"], invalid["final"]) == ("syntax", "t", True)


def test_credentials_and_hostile_text_do_not_reach_rows(crawl):
    headers = ((b"Location", b"http://me:secret@[/"), (b"Content-Type", b"\xff\xfe"))
    page = crawl.page(A, status=302, headers=headers)
    link = seed(A, 1, given="http://me:secret@a.example.org/\udcff")
    _, (row,) = visit(crawl, link, Done(page, "redirect_error", "bad_location"))
    assert b"secret" not in orjson.dumps(row)
    assert (row["url"], row["location"]) == ("http://***@a.example.org/�", "http://***@[/")


def test_validators_are_kept_unless_they_are_long(crawl):
    for number, (etag, kept) in enumerate([(b'"x"', '"x"'), (b"x" * 600, None)]):
        url = f"{A}{number}"
        page = crawl.page(url, headers=((b"ETag", etag), (b"Last-Modified", b"then")))
        known, _ = visit(crawl, seed(url, number), Done(page, "ok"))
        assert (known.etag, known.last_modified) == (kept, kept and "then")


@pytest.mark.parametrize("kind", ["warc", "files"])
@pytest.mark.parametrize("again", ["unmodified", "identical", "timeout"])
def test_what_was_known_of_a_body_outlives_a_visit_that_brings_none(tmp_path, kind, again):
    crawl = Crawl(tmp_path, kind)
    first, (row,) = visit(crawl, seed(A, 1), Done(crawl.page(A, b"same", headers=((b"ETag", b'"1"'),)), "ok"))
    revive(crawl.store, "ok")
    (lease,) = crawl.claim()
    later = {"fetched_at": WALL + 99}
    outcome = {
        "unmodified": lambda: Done(crawl.page(A, b"", status=304, headers=(), **later), "ok"),
        "identical": lambda: Done(crawl.page(A, b"same", headers=(), **later), "ok"),
        "timeout": lambda: Dropped("timeout", "total_timeout"),
    }[again]()
    crawl.commit([Settled(lease, outcome)])
    (known,) = crawl.known
    assert (known.archive, known.digest) == (first.archive, first.digest)
    assert known.archived_at == (None if (kind, again) == ("files", "identical") else WALL)
    assert known.etag == (None if again == "identical" else '"1"')
    with open_body(crawl.root, known.archive) as body:
        assert body.read() == b"same"
    latest = crawl.rows()[-1]
    if again != "timeout":
        with open_body(crawl.root, body_ref(latest)) as body:
            assert body.read() == b"same"
    if (kind, again) == ("warc", "unmodified"):
        assert latest["sha256"] is None
        assert latest["archive"]["revisit_of"] == row["archive"]
        assert latest["archive"]["offset"] > row["archive"]["offset"]
    crawl.journal.close()


def test_the_codings_of_a_body_are_known_for_as_long_as_it_is(crawl):
    """Of several the record alone says them."""
    packed, head = gzip.compress(b"<p>text"), ((b"Content-Encoding", b"gzip"),)
    coded, many = {"headers": head, "coding": "gzip"}, "gzip, br"
    outcomes = [
        Done(crawl.page(A, packed, **coded), "ok"),
        Done(crawl.page(A, packed, **coded), "ok"),
        Done(crawl.page(A, b"", headers=(), status=304), "ok"),
        Dropped("timeout", "total_timeout"),
        Done(crawl.page(A, packed), "ok"),
        Done(crawl.page(A, b"x", coding=many), "bad_response", "content_coding"),
    ]
    codings = []
    crawl.commit(links=[seed(A, 1)])
    for outcome in outcomes:
        (lease,) = crawl.claim()
        crawl.commit([Settled(lease, outcome)])
        revive(crawl.store, "ok", "timeout", "bad_response")
        codings.append(crawl.known[-1].coding)
    assert codings == ["gzip", "gzip", "gzip", "gzip", "", None]
    assert ["revisit_of" in row["archive"] for row in crawl.rows() if row["archive"]] == [False, True, True, False, False]


@pytest.mark.parametrize("said", [{}, {"mime": "text/plain"}, {"mime": "text/html", "charset": "utf-8"}])
def test_a_page_is_of_the_type_that_its_body_came_with_whatever_a_304_says(crawl, said):
    """Many servers put the type on it that they put on everything; then the page was among no pages any more."""
    was = Done(crawl.page(A, "<p>ü".encode("latin-1"), mime="text/html", charset="latin-1"), "ok")
    visit(crawl, seed(A, 1), replace(was, encoding="windows-1252"))
    for _ in range(2):
        revive(crawl.store, "ok")
        (lease,) = crawl.claim()
        crawl.commit([Settled(lease, Done(crawl.page(A, b"", status=304, **said), "ok"))])
        latest = crawl.rows()[-1]
        assert (latest["status"], latest["mime"]) == (304, "text/html")
        assert (latest["charset"], latest["encoding"]) == ("latin-1", "windows-1252")


@pytest.mark.parametrize("kind", ["warc", "files"])
@pytest.mark.parametrize(("outcome", "status"), [("truncated", 200), ("http_error", 404), ("redirect", 302)])
def test_a_304_confirms_nothing_but_a_whole_page(tmp_path, kind, outcome, status):
    crawl = Crawl(tmp_path, kind)
    first, _ = visit(crawl, seed(A, 1), Done(crawl.page(A, b"half a pa", status=status), outcome))
    revive(crawl.store, outcome)
    (lease,) = crawl.claim()
    crawl.commit([Settled(lease, Done(crawl.page(A, b"", status=304, fetched_at=WALL + 99), "ok"))])
    (known,), latest = crawl.known, crawl.rows()[-1]
    assert known.archive != first.archive and latest["sha256"] and "revisit_of" not in latest["archive"]
    with open_body(crawl.root, body_ref(latest)) as body:
        assert body.read() == b"", "what came, and not what the server says it stands for"
    crawl.journal.close()


@pytest.mark.parametrize(
    ("first", "again", "by_schedule", "rows"),
    [
        (("skipped", "excluded"), ("skipped", "excluded"), True, 1),
        (("skipped", "excluded"), ("skipped", "excluded"), False, 2),
        (("skipped", "excluded"), ("robots_denied", "rule"), True, 2),
        (("connect_error", "host_down"), ("connect_error", "host_down"), True, 1),
        (("connect_error", "refused"), ("connect_error", "refused"), True, 2),
        (("connect_error", "refused"), ("connect_error", "host_down"), True, 2),
    ],
)
def test_that_a_page_is_still_left_out_when_it_is_due_is_told_once(crawl, first, again, by_schedule, rows):
    visit(crawl, seed(A, 1), Dropped(*first))
    crawl.store._pages = {key: replace(page, due=1.0 if by_schedule else None) for key, page in crawl.store._pages.items()}
    crawl.store.order(RecrawlOrder(crawl.now, math.inf, (first[0],)))
    crawl.store.fulfil(1)
    (lease,) = crawl.claim()
    crawl.commit([Settled(lease, Dropped(*again))])
    assert len(crawl.rows()) == rows
    assert [(row["outcome"], row["reason"], row["final"]) for row in crawl.final()] == [(*again, True)]
    assert crawl.store.lookup(A).fetched_at == WALL + crawl.now


def test_a_batch_that_is_not_committed_leaves_nothing(crawl):
    crawl.commit(links=[seed(A, 1), seed(B, 2)])
    leases = crawl.claim()
    crawl.commit([Settled(leases[0], Done(crawl.page(leases[0].link.url), "ok"))])
    before = crawl.store.marks()
    for _ in range(2):
        prepared = crawl.prepare([Settled(leases[1], Done(crawl.page(leases[1].link.url, b"x" * 5000), "ok"))])
        crawl.journal.append(prepared)
        crawl.journal.sync()
        assert crawl.journal.rewind(crawl.store.marks()) == []
        assert crawl.store.marks() == before
        assert len(crawl.rows()) == 1
    for file, mark in before.items():
        path = crawl.root / (file if file.startswith("results") else file + ".open")
        assert path.stat().st_size == mark.length


# -- the law of lines, over random webs ----------------------------------------------------------------------------

NAMES = [f"http://h{n % 2}.example.org/{n}" for n in range(7)]
place = st.integers(0, len(NAMES) - 1)
web_of = st.lists(st.one_of(st.just("page"), st.just("gone"), place, place), min_size=len(NAMES), max_size=len(NAMES))
line_of = st.one_of(place, place, st.just("invalid"))


def answer(crawl, judge, lease, web):
    """What the web, as it is now, answers to a visit."""
    url = lease.link.url
    what = web[NAMES.index(url)]
    if what == "gone":
        return judge.error(lease, FetchError("refused"))
    if what == "page":
        return judge.page(lease, crawl.page(url, url.encode(), headers=()), WALL)
    return judge.page(lease, crawl.page(url, b"", status=301, headers=((b"Location", NAMES[what].encode()),)), WALL)


def run_out(crawl, judge, web, dice, lines=()):
    """Admit the lines and visit until nothing waits, in random batches, some of which fail."""
    todo, leases, settled = list(enumerate(lines, 1)), [], []
    while todo or leases or settled or crawl.store.stats().waiting + crawl.store.stats().retrying:
        leases = leases or crawl.claim(dice.randint(1, 3))
        dice.shuffle(leases)
        while leases and dice.random() < 0.7:
            lease = leases.pop()
            settled.append(Settled(lease, answer(crawl, judge, lease, web), crawl.now + 1))
        chunk, todo = todo[:2], todo[2:]
        links = [
            seed(NAMES[what], line, given=as_listed(what), extra=f'{{"id":{line}}}') for line, what in chunk if what != "invalid"
        ]
        faults = [LineFault(Input("list.txt", line), "no url", "syntax", None) for line, what in chunk if what == "invalid"]
        extras = {where: f'{{"id":{where.line}}}' for where, *_ in faults}
        if dice.random() < 0.2:
            crawl.journal.append(crawl.prepare(settled, links, faults, extras))
            crawl.journal.rewind(crawl.store.marks())
            if dice.random() < 0.5:
                crawl.journal.close()
                crawl = Crawl(crawl.root, roll_size=4000, store=crawl.store)
        crawl.commit(settled, links, faults, extras)
        settled = []
    return crawl


def as_listed(what):
    """As a list gives it: not as it is fetched."""
    return "no url" if what == "invalid" else NAMES[what].replace("http://h", "HTTP://H")


def end_of(web, at):
    """Where a line leads; None in a loop."""
    for _ in range(len(NAMES) + 1):
        if not isinstance(web[at], int):
            return NAMES[at], web[at]
        at = web[at]
    return None


@settings(max_examples=120, deadline=None)
@given(
    webs=st.lists(web_of, min_size=1, max_size=3), lines=st.lists(line_of, min_size=1, max_size=9), number=st.integers(0, 1 << 32)
)
def test_every_listed_line_has_one_final_row_and_it_is_that_of_its_page(tmp_path_factory, webs, lines, number):
    dice = random.Random(number)
    crawl = Crawl(tmp_path_factory.mktemp("j"), roll_size=4000)
    judge = Judge(retries=1, max_redirects=10, rules=urls.UrlRules())
    crawl = run_out(crawl, judge, webs[0], dice, lines)
    listed = Counter(row["input"]["line"] for row in crawl.rows() if row["final"] and row["input"])
    assert listed == Counter(range(1, len(lines) + 1))
    for web in webs:
        if web is not webs[0]:
            revive(crawl.store, "ok", "redirect", "connect_error", "redirect_error")
            crawl = run_out(crawl, judge, web, dice)
        by_line = {}
        final = crawl.final()
        for row in [*crawl.rows(), *final]:
            if row["input"]:
                line = row["input"]["line"]
                assert (row["listed"], row["extra"]) == (as_listed(lines[line - 1]), {"id": line})
            assert row["canonical"] is None or row["url"].lower() in NAMES
        for row in final:
            assert row["final"]
            if row["input"]:
                assert by_line.setdefault(row["input"]["line"], row) is row
        assert sorted(by_line) == list(range(1, len(lines) + 1))
        for line, what in enumerate(lines, 1):
            if web is webs[0] or by_line[line]["reason"] != "loop":  # a link made due again keeps the chain it was found by
                check_line(by_line[line], what, web)
    check_archive(crawl)
    crawl.journal.close()


def check_line(row, what, web):
    if what == "invalid":
        assert row["outcome"] == "invalid_url"
        return
    end = end_of(web, what)
    if end is None:
        assert row["outcome"] in ("redirect_error", "skipped")  # skipped: listed pages that redirect to each other
    else:
        assert (row["canonical"], row["outcome"]) == (end[0], {"page": "ok", "gone": "connect_error"}[end[1]])


def check_archive(crawl):
    """One record per answered visit, each where its row says, none besides."""
    placed = [row["archive"] for row in crawl.rows() if row["archive"]]
    found = []
    for file, mark in crawl.store.marks().items():
        if file.startswith("warc/"):
            path = crawl.root / file
            data = (path if path.exists() else path.with_name(path.name + ".open")).read_bytes()
            kinds = WarcRecordType.response | WarcRecordType.revisit
            found += [(file, one.stream_pos) for one in ArchiveIterator(io.BytesIO(data[: mark.length]), record_types=kinds)]
    assert sorted(found) == sorted((place["file"], place["offset"]) for place in placed)
    for row in crawl.rows():
        if row["archive"] and row["outcome"] == "ok":
            with open_body(crawl.root, body_ref(row)) as body:
                assert body.read() == row["canonical"].encode()
    for url in NAMES:
        known = crawl.store.lookup(url)
        assert known is None or isinstance(known, Known)


def test_bytes_written_count_from_the_opening(tmp_path):
    first = Crawl(tmp_path)
    visit(first, seed("http://a.example/", 1), Done(first.page("http://a.example/"), "ok"))
    first.journal.close()
    again = Crawl(tmp_path, store=first.store)
    before = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    prepared = again.prepare(links=[seed("http://b.example/", 2)], faults=[LineFault(Input("list", 3), "x", "syntax", None)])
    again.store.commit(prepared, *again.journal.write(prepared))
    again.journal.committed()
    grown = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) - before
    assert again.journal.written_bytes == grown > 0
    again.journal.close()


@pytest.mark.parametrize("kind", ["warc", "files", "discard"])
def test_what_is_written_takes_little_memory_however_much_it_is(tmp_path, kind):
    crawl = Crawl(tmp_path, kind)
    held = []

    def chunks():
        for _ in range(128):
            yield os.urandom(64 << 10)

    bodies = [crawl.page(f"{A}{n}", chunks(), mime="application/octet-stream") for n in range(2)]
    pages = [*bodies, *(crawl.page(f"{B}{n}", b"<p>" * n, headers=((b"X", b"x" * 5000),)) for n in range(90))]
    crawl.commit(links=[seed(page.url, at) for at, page in enumerate(pages)])
    leases = {lease.link.url: lease for lease in crawl.claim(1000)}
    append = crawl.journal._archive.append

    def watched(*args):
        held.append(crawl.journal.memory_used)
        return append(*args)

    crawl.journal._archive.append = watched
    prepared = crawl.prepare([Settled(leases[page.url], Done(page, "ok")) for page in pages])
    known = crawl.journal.append(prepared)
    assert 0 < max(held) <= WRITE_BYTES
    assert (crawl.journal.memory_used > 0) == bool(crawl.journal._results.buffered)
    crawl.store.commit(prepared, known, crawl.journal.sync())
    assert crawl.journal.memory_used == 0
    crawl.journal.close()
