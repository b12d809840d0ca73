"""WARC records as others read them: warcio and FastWARC are the oracles, cdxj-indexer says what the index must be."""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import io
import os
import re
import subprocess
import sys
import tracemalloc
import zlib
from itertools import pairwise

import orjson
import pytest
from cdxj_indexer.main import CDXJIndexer
from fastwarc.warc import ArchiveIterator as FastIterator
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from support.pages import WALL, Ledger, known_of, page_of
from warcio.archiveiterator import ArchiveIterator

from crawler.core.errors import StorageError
from crawler.core.model import Mark, Ref
from crawler.output.archive import cdxj, open_body
from crawler.output.archive.records import sha1_text
from crawler.output.archive.warc_verify import checked_at


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger(tmp_path)
    yield ledger
    ledger.archive.close()


def records_of(ledger: Ledger) -> list:
    """Every committed record: (fields, http status and fields or None, payload), as warcio reads them, digests checked."""
    found = []
    for file in sorted(ledger.marks):
        if file.startswith("warc/"):
            for record in ArchiveIterator(io.BytesIO(ledger.read(file)), check_digests="raise"):
                payload = record.raw_stream.read()
                assert record.digest_checker.passed is not False
                found.append((dict(record.rec_headers.headers), record.http_headers, payload))
    return found


def fast_records_of(ledger: Ledger) -> list:
    found = []
    for file in sorted(ledger.marks):
        if file.startswith("warc/"):
            for record in FastIterator(io.BytesIO(ledger.read(file)), parse_http=False):
                kind = record.headers["WARC-Type"]
                if kind != "warcinfo":
                    assert record.verify_block_digest()
                if kind == "response":
                    record.parse_http()
                    assert record.verify_payload_digest()
                found.append((dict(record.headers), record.reader.read()))
    return found


def indexed(ledger: Ledger) -> tuple[list[str], list[str]]:
    """The lines cdxj-indexer makes of the closed files, sorted, and ours."""
    ledger.roll()
    out = io.StringIO()
    names = [str(ledger.root / file) for file in ledger.marks if file.startswith("warc/")]
    indexer = CDXJIndexer(None, names)
    indexer.output = out
    for name in names:
        with open(name, "rb") as file:
            indexer.process_one(file, out, name)
    ours = "".join(ledger.read(file).decode() for file in sorted(ledger.marks) if file.startswith("index/"))
    return sorted(out.getvalue().splitlines()), sorted(ours.splitlines())


def test_a_page_is_a_response_and_its_request_behind_a_warcinfo(ledger):
    kept = ledger.append(page_of(ledger.root, b"<p>hi", truncated="length"))
    ledger.commit()
    (info, _, fields), (answer, http, payload), (asked, request, none) = records_of(ledger)

    assert info["WARC-Type"] == "warcinfo"
    assert info["WARC-Filename"] == kept.record.file.removeprefix("warc/")
    assert b"format: WARC File Format 1.1\r\n" in fields
    assert b"operator: tests\r\n" in fields

    assert re.fullmatch(
        r"<urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}>", answer["WARC-Record-ID"]
    )
    assert {key: answer[key] for key in sorted(answer) if key not in ("WARC-Record-ID", "WARC-Block-Digest")} == {
        "Content-Length": str(len(b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<p>hi")),
        "Content-Type": "application/http; msgtype=response",
        "WARC-Date": "2026-11-18T11:06:40Z",
        "WARC-IP-Address": "192.0.2.7",
        "WARC-Identified-Payload-Type": "text/html",
        "WARC-Payload-Digest": "sha1:" + base64.b32encode(hashlib.sha1(b"<p>hi").digest()).decode(),
        "WARC-Target-URI": "http://www.example.org/a?b=1",
        "WARC-Truncated": "length",
        "WARC-Type": "response",
        "WARC-Warcinfo-ID": info["WARC-Record-ID"],
    }
    assert (http.statusline, http.headers, payload) == ("200 OK", [("Content-Type", "text/html; charset=utf-8")], b"<p>hi")

    assert asked["WARC-Type"] == "request"
    assert asked["Content-Type"] == "application/http; msgtype=request"
    assert asked["WARC-Concurrent-To"] == answer["WARC-Record-ID"]
    assert asked["WARC-Target-URI"] == answer["WARC-Target-URI"]
    assert asked["WARC-Record-ID"] != answer["WARC-Record-ID"]
    assert (request.protocol, none) == ("GET", b"")
    assert len(fast_records_of(ledger)) == 3


def test_a_file_says_anew_how_what_follows_was_made(ledger):
    """Where another process goes on with it, and where settings have changed; not behind a batch that failed."""

    def keep(path: str) -> None:
        ledger.append(page_of(ledger.root, url=f"http://www.example.org/{path}"))
        ledger.commit()

    def told() -> dict[str, bytes]:
        found, info, settings = {}, {}, {}
        for fields, _, payload in records_of(ledger):
            if fields["WARC-Type"] == "warcinfo":
                info[fields["WARC-Record-ID"]] = settings[fields["WARC-Record-ID"]] = payload
            elif fields["WARC-Type"] == "metadata":
                assert fields["WARC-Concurrent-To"] == fields["WARC-Warcinfo-ID"] == list(info)[-1], "it stands beside it"
                settings[fields["WARC-Warcinfo-ID"]] = payload
            elif fields["WARC-Type"] == "response":
                assert fields["WARC-Warcinfo-ID"] == list(info)[-1]
                found[fields["WARC-Target-URI"][-1]] = settings[fields["WARC-Warcinfo-ID"]]
        assert len(info) == infos
        return found

    infos = 1
    keep("a")
    ledger.append(page_of(ledger.root))
    ledger.archive.rewind(ledger.marks)
    keep("b")
    assert told()["a"] == told()["b"]
    ledger.reopen()
    infos = 2
    keep("c")
    ledger.archive.describe({"max_body": '"1MiB"'})
    infos = 3
    keep("d")
    ledger.archive.describe({"max_body": '"1MiB"'})
    keep("e")
    assert b"operator: tests\r\n" in told()["c"] and told()["d"] == told()["e"] == b'max_body: "1MiB"\r\n'
    ledger.archive.describe({})
    ledger.append(page_of(ledger.root))
    ledger.archive.rewind(ledger.marks)
    infos = 4
    keep("f")
    assert b"operator: tests\r\n" in told()["f"], "what was cut off with the batch is said again"


def test_settings_that_change_while_a_file_says_them_are_said_next(ledger):
    said = [{"n": "1"}, {"n": "1"}, {"n": "2"}]

    class Hurried(type(ledger.archive)):
        """Changed by another thread between any two looks."""

        @property
        def _settings(self):
            return said.pop(0) if len(said) > 1 else said[0]

    ledger.archive.__class__ = Hurried
    for _ in range(2):
        ledger.append(page_of(ledger.root))
    ledger.commit()
    assert [payload for fields, _, payload in records_of(ledger) if fields["WARC-Type"] == "metadata"][-1] == b"n: 2\r\n"


@given(digest=st.binary(min_size=20, max_size=20))
def test_digests_are_written_in_base32(digest):
    assert sha1_text(digest) == "sha1:" + base64.b32encode(digest).decode()


def test_file_names_and_one_gzip_member_per_record(ledger):
    for _ in range(3):
        ledger.append(page_of(ledger.root, os.urandom(70_000)))
    ledger.append(page_of(ledger.root, os.urandom(5000), coding="gzip"))
    ledger.commit()
    (path,) = ledger.files("warc")
    assert re.fullmatch(r"CRAWL-20\d{15}-00000-[\w.-]+\.warc\.gz\.open", path.name)
    data, members = path.read_bytes(), 0
    while data:
        undone = zlib.decompressobj(31)
        record = undone.decompress(data)
        assert record.startswith(b"WARC/1.1\r\n")
        assert record.endswith(b"\r\n\r\n")
        data, members = undone.unused_data, members + 1
    assert members == 1 + 2 * 4


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 300_000])
@pytest.mark.parametrize("form", ["plain", "coded", "compressed type"])
def test_bodies_come_back_byte_for_byte(ledger, size, form):
    content = os.urandom(size // 2) + b"x" * (size - size // 2)
    how = {"plain": {}, "coded": {"coding": "br"}, "compressed type": {"sniffed": "image/png"}}[form]
    kept = ledger.append(page_of(ledger.root, content, **how))
    ledger.commit()
    (_, _, first), *_ = [found for found in records_of(ledger) if found[0]["WARC-Type"] == "response"]
    assert first == content
    assert len(fast_records_of(ledger)) == 3
    with open_body(ledger.root, kept.body, raw=True) as body:
        assert body.read() == content


def test_a_transfer_coding_is_renamed_and_the_length_is_true(ledger):
    headers = ((b"Transfer-encoding", b"chunked"), (b"X", b"1"), (b"Content-Length", b"7"), (b"Content-Encoding", b"gzip"))
    content = gzip.compress(b"<p>hello")
    kept = ledger.append(page_of(ledger.root, content, headers=headers, coding="gzip"))
    ledger.commit()
    _, (_, http, payload), _ = records_of(ledger)
    assert http.headers == [
        ("X-Crawl-Transfer-encoding", "chunked"),
        ("X", "1"),
        ("X-Crawl-Content-Length", "7"),
        ("Content-Encoding", "gzip"),
        ("Content-Length", str(len(content))),
    ]
    assert payload == content
    with open_body(ledger.root, kept.body) as body:
        assert body.read() == b"<p>hello"
    with open_body(ledger.root, kept.body, raw=True) as body:
        assert body.read() == content


def test_of_a_cut_coding_the_part_that_can_be_decoded_is_read(ledger):
    content = gzip.compress(os.urandom(100_000), 0)[:50_000]
    kept = ledger.append(page_of(ledger.root, content, headers=((b"Content-Encoding", b"gzip"),), coding="gzip"))
    ledger.commit()
    with open_body(ledger.root, kept.body) as body:
        assert 40_000 < len(body.read()) < 50_000


def test_an_unchanged_body_is_a_revisit_of_the_first_record(ledger):
    first = page_of(ledger.root, b"same")
    kept = ledger.append(first)
    ledger.commit()
    known = known_of(first, kept)
    for days in (1, 2):
        again = page_of(ledger.root, b"same", fetched_at=WALL + 86400 * days)
        revisit = ledger.append(again, known)
        assert (revisit.body, revisit.body_at) == (kept.body, WALL)
        assert revisit.record != kept.record
        known = known_of(again, revisit)
    ledger.commit()
    answers = [found for found in records_of(ledger) if found[0]["WARC-Type"] != "request"]
    original = answers[1][0]
    for fields, http, payload in answers[2:]:
        assert fields["WARC-Type"] == "revisit"
        assert fields["WARC-Profile"] == "http://netpreserve.org/warc/1.1/revisit/identical-payload-digest"
        assert fields["WARC-Refers-To"] == original["WARC-Record-ID"]
        assert fields["WARC-Refers-To-Date"] == original["WARC-Date"]
        assert fields["WARC-Refers-To-Target-URI"] == original["WARC-Target-URI"]
        assert fields["WARC-Payload-Digest"] == original["WARC-Payload-Digest"]
        assert fields["WARC-Truncated"] == "length"
        assert (http.statusline, payload) == ("200 OK", b"")
    assert len(fast_records_of(ledger)) == 7


def test_not_modified_is_a_revisit(ledger):
    first = page_of(ledger.root, b"same")
    kept = ledger.append(first)
    answer = page_of(ledger.root, b"", status=304, phrase="Not Modified", headers=((b"ETag", b'"1"'),))
    revisit = ledger.append(answer, known_of(first, kept))
    assert revisit.unmodified
    assert revisit.body == kept.body
    ledger.commit()
    fields, http, _ = records_of(ledger)[3]
    assert fields["WARC-Profile"].endswith("/revisit/server-not-modified")
    assert fields["WARC-Payload-Digest"] == records_of(ledger)[1][0]["WARC-Payload-Digest"]
    assert http is None, "or a browser that is replayed the page is sent a 304, and shows nothing"
    theirs, ours = indexed(ledger)
    assert ours == theirs


def test_the_index_tells_what_was_asked_for_by_head(ledger):
    """By this field, as cdxj-indexer writes it, players pass over what would replay as an empty page."""
    head = b"HEAD /a?b=1 HTTP/1.1\r\nHost: www.example.org\r\n\r\n"
    for request in (head, head.replace(b"HEAD", b"GET")):
        kept = ledger.append(page_of(ledger.root, b"", request=request))
        ledger.commit()
    [file] = [file for file in ledger.marks if file.startswith("index/")]
    by_head, by_get = ledger.read(file).splitlines(keepends=True)
    assert orjson.loads(by_head[by_head.index(b"{") :])["method"] == "HEAD" and b"method" not in by_get
    assert cdxj.read_line(by_head)[1].digest == cdxj.read_line(by_get)[1].digest and kept.record.offset


def test_no_revisit_of_what_is_gone_cut_empty_or_different(ledger):
    first = page_of(ledger.root, b"same")
    known = known_of(first, ledger.append(first))
    ledger.roll()
    for page in (
        page_of(ledger.root, b"other"),
        page_of(ledger.root, b"same", truncated="time"),
        page_of(ledger.root, b"same"),
    ):
        if page.body.sha1 == first.body.sha1 and page.truncated is None:
            os.rename(ledger.root / known.archive.file, ledger.root / "elsewhere")
            ledger.marks[known.archive.file] = Mark(0, closed=True, retired=True)
        assert ledger.append(page, known).body != known.archive
    empty = page_of(ledger.root, b"")
    assert ledger.append(empty, known_of(empty, ledger.append(empty))).body != known.archive


@pytest.mark.parametrize("coded_first", [True, False])
def test_no_revisit_of_the_same_bytes_that_were_of_another_coding(ledger, coded_first):
    """A server that ceases, or begins, to say that a body is gzip sends another page in the same bytes."""
    packed = gzip.compress(b"<p>text")
    plain = page_of(ledger.root, packed, sniffed="application/gzip")
    coded = page_of(ledger.root, packed, headers=((b"Content-Encoding", b"gzip"),), coding="gzip")
    first, again = (coded, plain) if coded_first else (plain, coded)
    known = known_of(first, ledger.append(first))
    ledger.commit()
    kept = ledger.append(again, known)
    same = ledger.append(first, known)
    ledger.commit()
    assert same.body == known.archive != kept.body
    with open_body(ledger.root, kept.body) as body:
        assert body.read() == (packed if coded_first else b"<p>text")


def test_what_is_known_of_a_page_says_what_it_may_repeat_without_a_look_at_its_record(ledger):
    """A look at each took longer than all else that an unchanged page costs here, and a disk that turns had a seek for it."""
    packed = gzip.compress(b"<p>text")
    page = page_of(ledger.root, packed, headers=((b"Content-Encoding", b"gzip"),), coding="gzip")
    kept = ledger.append(page)
    ledger.commit()
    os.truncate(ledger.files("warc")[0], 0)
    known = replace(known_of(page, kept), coding="gzip")
    assert ledger.append(page, known).body == kept.body
    assert ledger.append(page_of(ledger.root, packed), known).body != kept.body


def test_no_revisit_of_what_is_about_to_be_deleted(ledger):
    first = page_of(ledger.root, b"same")
    known = known_of(first, ledger.append(first))
    ledger.roll()
    ledger.archive.retire([known.archive.file])
    assert ledger.append(page_of(ledger.root, b"same"), known).body != known.archive
    ledger.commit()
    ledger.marks[known.archive.file] = Mark(9, closed=True, retired=True)
    ledger.reopen()
    assert (ledger.root / known.archive.file).exists()
    assert ledger.append(page_of(ledger.root, b"same"), known).body != known.archive


def test_an_answer_304_to_an_unconditional_request_is_kept_as_it_is(ledger):
    assert not ledger.append(page_of(ledger.root, b"", status=304)).unmodified


raw = st.binary(max_size=30)
token = st.from_regex(rb"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,12}", fullmatch=True)
header = st.tuples(st.one_of(token, st.sampled_from([b"Content-Type", b"content-type", b"Transfer-Encoding"])), raw)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(headers=st.lists(header, max_size=5), phrase=st.text(max_size=20), status=st.integers(100, 999), content=raw)
@example(headers=[(b"Content-Type", b"text/html\xa0;x")], phrase="\udcff", status=200, content=b"")
@example(headers=[(b"Content-Type", b"text/\xc3\xa9\x85 ;x")], phrase="", status=200, content=b"")
@example(headers=[(b"Content-Type", b"")], phrase="", status=200, content=b"")
@example(headers=[(b"Content-Type", b"a\r\n\r\nb")], phrase="x\r\n\r\ny", status=200, content=b"")
def test_whatever_a_server_sends_oracles_and_index_agree(tmp_path_factory, headers, phrase, status, content):
    ledger = Ledger(tmp_path_factory.mktemp("w"))
    phrase = phrase.encode("utf-8", "surrogateescape" if phrase == "\udcff" else "replace").decode("utf-8", "surrogateescape")
    page = page_of(ledger.root, content, headers=tuple(headers), phrase=phrase, status=status)
    kept = ledger.append(page)
    theirs, ours = indexed(ledger)
    assert ours == theirs
    assert len(records_of(ledger)) == len(fast_records_of(ledger)) == 3
    with open_body(ledger.root, kept.body, raw=True) as body:
        assert body.read() == content


def test_the_index_is_what_cdxj_indexer_makes(ledger):
    first = page_of(ledger.root, b"same", "https://www.example.org:8443/Path/?z=1&a=2")
    kept = ledger.append(first)
    ledger.append(page_of(ledger.root, b"same", first.url, fetched_at=WALL + 9), known_of(first, kept))
    ledger.append(page_of(ledger.root, b"x", 'http://[2001:db8::1]/"quoted"\\?q="', headers=(), status=404, phrase=""))
    ledger.append(page_of(ledger.root, b"r", "http://example.org/robots.txt", headers=((b"Content-Type", b"text/plain "),)))
    ledger.append(page_of(ledger.root, b"long", headers=((b"X", b"y" * 32_000), (b"Content-Type", b"t/" + b"z" * 20_000))))
    ledger.append(page_of(ledger.root, b"n", headers=((b"Content-Type", b"text/a\0b; c"), (b"content-type", b"text/second"))))
    ledger.append(page_of(ledger.root, b"u", headers=((b"Content-Type", "text/\xe9\u3000;x".encode()), (b"A", b":"))))
    theirs, ours = indexed(ledger)
    assert len(ours) == 7
    assert ours == theirs
    for line in ours:
        name, place = cdxj.read_line(line if isinstance(line, bytes) else line.encode())
        with (ledger.root / "warc" / name).open("rb") as file:
            checked = checked_at(file, name, place.offset, place.offset + place.length)
            assert checked.place == place, "as verify compares them"


def test_a_rolled_index_is_sorted_bytewise(ledger):
    for number in range(200):
        ledger.append(page_of(ledger.root, b"x", f"http://h{number * 7 % 200}.example.org/%C3%A9{number}"))
    ledger.roll()
    (path,) = ledger.files("index")
    expected = subprocess.run(["sort", str(path)], env={"LC_ALL": "C"}, stdout=subprocess.PIPE, check=True).stdout
    assert path.read_bytes() == expected
    assert path.suffix == ".cdxj"


def test_warcio_and_fastwarc_check_the_files_clean(ledger):
    for number in range(5):
        ledger.append(page_of(ledger.root, os.urandom(100_000 * (number % 2)), coding="gzip" if number % 3 else None))
    ledger.roll()
    (path,) = ledger.files("warc")
    for tool in (["-m", "warcio.cli", "check"], ["-m", "fastwarc.cli", "check", "--verify-payloads"]):
        done = subprocess.run([sys.executable, *tool, str(path)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_files_roll_at_a_commit_and_never_between(ledger):
    ledger.config = ledger.config.replaced(roll_size=5000)
    ledger.reopen()
    for _ in range(4):
        for _ in range(4):
            ledger.append(page_of(ledger.root, os.urandom(2000)))
        assert len([path for path in ledger.files("warc") if path.suffix == ".open"]) == 1
        ledger.commit()
    names = [path.name for path in ledger.files("warc")]
    assert len(names) == 4
    assert all(mark.closed for mark in ledger.marks.values())
    assert [int(name.split("-")[2]) for name in names] == [0, 1, 2, 3]
    assert [path.name for path in ledger.files("index")] == [name.replace(".warc.gz", ".cdxj") for name in names]


def test_serials_continue_over_restarts_and_retired_files(ledger):
    for number in range(3):
        ledger.append(page_of(ledger.root))
        ledger.roll()
        if number == 1:
            for file in list(ledger.marks):
                (ledger.root / file).unlink()
                ledger.marks[file] = Mark(0, closed=True, retired=True)
        ledger.reopen()
    serials = [int(name.split("-")[2]) for name in ledger.marks if name.startswith("warc/")]
    assert sorted(serials) == [0, 1, 2]


class Killed(BaseException):
    """Stands for SIGKILL between two system calls."""


def calls_of_a_roll(tmp_path, monkeypatch, stop: int | None) -> int:
    """Roll a file; be killed before the ``stop``-th change of the disk. How many changes there are."""
    ledger = Ledger(tmp_path)
    kept = [ledger.append(page_of(ledger.root, b"%d" % number, f"http://example.org/{9 - number}")) for number in range(9)]
    ledger.archive.roll()
    ledger.marks |= ledger.archive.sync()
    done = 0

    def counted(change):
        def call(*args, **named):
            nonlocal done
            if done == stop:
                raise Killed
            done += 1
            return change(*args, **named)

        return call

    with monkeypatch.context() as patch:
        for name in ("replace", "fsync", "fdatasync", "unlink"):
            patch.setattr(os, name, counted(getattr(os, name)))
        with contextlib.suppress(Killed):
            ledger.archive.committed()
        ledger.archive.close()
    assert ledger.reopen() == []
    assert {path.suffix for path in [*ledger.files("warc"), *ledger.files("index")]} == {".gz", ".cdxj"}
    lines = ledger.read(next(file for file in ledger.marks if file.startswith("index/"))).splitlines()
    assert lines == sorted(lines)
    assert len(lines) == 9
    for number, one in enumerate(kept):
        with open_body(ledger.root, one.body) as body:
            assert body.read() == b"%d" % number
    ledger.archive.close()
    return done


def test_a_kill_at_any_instant_of_a_roll_is_made_good_at_the_next_start(tmp_path, monkeypatch):
    changes = calls_of_a_roll(tmp_path / "whole", monkeypatch, None)
    assert changes >= 5
    for stop in range(changes):
        calls_of_a_roll(tmp_path / str(stop), monkeypatch, stop)


def test_an_index_larger_than_a_run_is_merged(tmp_path):

    lines = [b"%d line\n" % (number * 7919 % 5000) for number in range(5000)]
    path = tmp_path / "x.cdxj.open"
    path.write_bytes(b"".join(lines))
    (tmp_path / "x.cdxj.open.tmp").write_bytes(b"left by a kill")
    cdxj.sort(path, run_bytes=1000)
    merged = path.read_bytes().splitlines(keepends=True)
    assert merged == sorted(lines)
    assert list(tmp_path.iterdir()) == [path]
    assert all(one <= two for one, two in pairwise(merged))


def test_a_file_no_commit_knows_goes_to_lost_and_found(ledger):
    ledger.append(page_of(ledger.root))
    ledger.commit()
    ledger.roll()
    ledger.append(page_of(ledger.root))
    ledger.archive.sync()  # killed before the commit
    (begun,) = [path.name for path in ledger.files("warc") if path.suffix == ".open"]
    (ledger.root / "warc" / "notes.txt").write_text("not ours")
    (ledger.root / "warc" / "OTHER-20200101000000000-00000-x.warc.gz.open").write_text("older than the last commit")
    assert ledger.reopen() == [f"lost+found/{begun}", f"lost+found/{begun.replace('.warc.gz', '.cdxj')}"]
    assert (ledger.root / "lost+found" / begun).stat().st_size
    assert {path.name[:5] for path in ledger.files("warc")} == {"CRAWL", "notes", "OTHER"}
    ledger.append(page_of(ledger.root))
    ledger.commit()
    assert len(records_of(ledger)) == 6


@pytest.mark.parametrize("folder", ["warc", "index"])
@pytest.mark.parametrize("harm", ["missing", "shorter"])
@pytest.mark.parametrize("rolled", [True, False])
def test_a_committed_file_that_is_missing_or_shorter_is_named(ledger, folder, harm, rolled):
    ledger.append(page_of(ledger.root))
    ledger.commit()
    if rolled:
        ledger.roll()
    (path,) = ledger.files(folder)
    path.unlink() if harm == "missing" else os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(StorageError, match=re.escape(str(path))) as raised:
        ledger.reopen()
    assert raised.value.final


@pytest.mark.parametrize("damage", ["flip", "cut", "moved"])
def test_damage_is_an_error_that_names_the_place(ledger, damage):
    kept = ledger.append(page_of(ledger.root, os.urandom(1000)))
    ledger.commit()
    (path,) = ledger.files("warc")
    ref = kept.record
    with path.open("r+b") as file:
        if damage == "flip":
            file.seek(ref.offset + ref.length // 2)
            byte = file.read(1)[0]
            file.seek(-1, 1)
            file.write(bytes([byte ^ 1]))
        elif damage == "cut":
            file.truncate(ref.offset + ref.length - 5)
        else:
            ref = type(ref)(ref.file, ref.offset + 1, ref.length)
    with pytest.raises(StorageError, match=rf"{re.escape(ref.file)}: the (gzip member|record) at {ref.offset} "):
        open_body(ledger.root, ref).read()


LINES = b"".join(b"%06x: b\r\n" % n for n in range(40_000))


@pytest.mark.parametrize(
    ("lines", "status", "fields"),
    [
        (LINES, b"", b""),
        (b"", b"", LINES),
        (b"", b" " * 400_000, b""),
        (b"", b"", b"Content-Encoding: %s\r\n" % (b"ab," * 130_000)),
    ],
    ids=["record", "response", "status line", "codings"],
)
def test_a_head_of_very_many_parts_is_read_in_no_more_memory_than_its_bytes(lines, status, fields, tmp_path):
    """In an archive that somebody else has made, or a disk has damaged."""
    http = b"HTTP/1.1 200 OK%s\r\n%sContent-Type: text/plain\r\n\r\n" % (status, fields)
    block, body = http + b"ok", b"ok"
    digests = [sha1_text(hashlib.sha1(data).digest()) for data in (block, body)]
    head = "WARC/1.1\r\nWARC-Type: response\r\nContent-Length: {}\r\nWARC-Block-Digest: {}\r\nWARC-Payload-Digest: {}\r\n"
    made = gzip.compress(head.format(len(block), *digests).encode() + lines + b"\r\n" + block + b"\r\n\r\n", 1)
    (tmp_path / "warc").mkdir()
    (tmp_path / "warc/made").write_bytes(made)
    tracemalloc.start()
    try:
        checked = checked_at(io.BytesIO(made), "made", 0, len(made))
        with open_body(tmp_path, Ref("warc/made", 0, len(made))) as opened:
            assert opened.read() == body
        assert tracemalloc.get_traced_memory()[1] < 6 * len(lines + http)
    finally:
        tracemalloc.stop()
    assert (checked.kind, checked.place.status, checked.place.mime) == ("response", "200", "text/plain")
