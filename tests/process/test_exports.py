"""What other tools load: WACZ, Parquet, CSV, lists of pages, and the summary, each from a real crawl."""

import csv
import errno
import fcntl
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
import zlib
from resource import RLIMIT_AS, RLIMIT_FSIZE, setrlimit
from unittest import mock

import orjson
import pytest
from support.faults.log import Kind, read_log
from support.faults.powercut import Disk, NamesAlone
from support.faults.shim import Faults
from support.programs import CLEAN, LOCAL, command, command_of, crawler, crawling
from support.webs import Answer, Web, redirect
from warcio.archiveiterator import ArchiveIterator

HOST, FAR = "127.0.0.1", "127.0.0.2"


@pytest.fixture(scope="module")
def crawled(tmp_path_factory):
    """(directory, URL of the host) of a list with tags, crawled twice, with requisites."""
    root = tmp_path_factory.mktemp("exports")
    with Web().running() as web:
        pages = {
            "/": Answer(body=b"<title> One\n&amp; <b>only</title><img src=/i.png><img src=/missing.png>"),
            "/old": redirect("/"),
            "/text": Answer(body=b"text", mime="text/plain"),
            "/latin": Answer(body=b"<title>\xe9</title>", mime="text/html; charset=latin1"),
            "/tagged": Answer(
                body="<title>\u00fc".encode("latin1"), mime="text/html; charset=latin1", headers=(("ETag", '"1"'),)
            ),
            "/i.png": Answer(body=b"\x89PNG", mime="image/png"),
        }
        web.hosts = {HOST: pages, FAR: {"/err": Answer(500)}}
        tags = {"/": "a", "/old": 7, "/text": "b", "/latin": "a", "/tagged": "c"}
        lines = [{"url": web.url(HOST, path), "tag": tag} for path, tag in tags.items()]
        lines.append({"url": web.url(FAR, "/err"), "tag": "b"})
        (root / "list").write_bytes(b"\n".join(map(orjson.dumps, lines)))
        run = ("run", "-i", str(root / "list"), "--requisites", "-o", str(root / "out"), *LOCAL, "--retries", "0")
        assert command(*run).returncode == 0
        pages["/text"] = Answer(body=b"other", mime="text/plain")
        assert command("recrawl", str(root / "out")).returncode == 0
        assert command(*run).returncode == 0
        yield root / "out", web.url(HOST)[:-1]


def exported(crawled, *arguments: str) -> list[dict]:
    ended = command("export", str(crawled[0]), *arguments)
    assert ended.returncode == 0, ended.stderr
    return [orjson.loads(line) for line in ended.stdout.splitlines()]


def paths(crawled, *arguments: str) -> list[str]:
    return sorted(row["canonical"].removeprefix(crawled[1]) for row in exported(crawled, *arguments))


def test_filters_choose_what_is_exported(crawled):
    assert paths(crawled) == sorted(["/", "/latin", "/tagged", "/text"] * 2)
    assert paths(crawled, "--final") == ["/", "/", "/latin", "/tagged", "/text"], "one for each line"
    assert paths(crawled, "--tag", "a", "--change", "new") == ["/", "/latin"]
    assert paths(crawled, "--mime", "text/plain", "--final") == ["/text"]
    assert paths(crawled, "--kind", "embed", "--change", "new") == ["/i.png"]
    assert len(paths(crawled, "--outcome", "redirect", "--status", "3xx")) == 2
    assert paths(crawled, "--status", "404,500") == []
    assert len(paths(crawled, "--outcome", "http_error", "--status", "500")) == 2
    assert len(paths(crawled, "--since", "1h")) == 8 and paths(crawled, "--since", "2999-01-01") == []
    assert {row["text"] for row in exported(crawled, "--mime", "text/plain", "--change", "changed")} == {"other"}
    [tagged] = exported(crawled, "--tag", "c", "--final", "--mime", "text/html")
    assert tagged["status"] == 304 and tagged["text"] == "<title>ü", "it is still of the type it was"
    assert len(exported(crawled, "--format", "pages")) == 6
    for wrong in (("--status", "abc"), ("--since", "soon"), ("--change", "old"), ("--format", "wacz"), ("--to", "x")):
        assert command("export", str(crawled[0]), *wrong).returncode == 2


def test_the_same_filters_choose_among_rows(crawled):
    def rows(*filters: str) -> list[str]:
        ended = command("results", str(crawled[0]), *filters)
        assert ended.returncode == 0, ended.stderr
        return sorted(orjson.loads(line)["canonical"].removeprefix(crawled[1]) for line in ended.stdout.splitlines())

    assert len(rows()) == len(rows("--since", "1h")) == 18 and rows("--since", "2999-01-01") == []
    assert rows("--tag", "a", "--tag", "7", "--kind", "seed") == ["/", "/latin", "/old"]
    assert rows("--status", "503") == [] != rows("--status", "404,5xx")
    assert rows("--status", "3xx", "--kind", "seed") == ["/old"], "a code, and a class of codes"
    assert rows("--status", "304") == ["/tagged"]
    assert rows("--mime", "text/plain", "--final") == ["/text"]
    for wrong in (("--status", "abc"), ("--since", "soon")):
        assert command("results", str(crawled[0]), *wrong).returncode == 2


def test_a_page_in_whatever_bytes_is_exported(tmp_path):
    """One whose escape sequences are none ended the export of all that were behind it."""
    with Web().running() as web:
        bodies = {"/a": b"\x1b$B-!\x1b(B", "/b": b"\x1b$\n\x1b\x89\x1b$$\x1b$\x1b$$\x1b", "/c": b"c"}
        web.hosts = {HOST: {path: Answer(body=body, mime="text/html; charset=iso-2022-jp") for path, body in bodies.items()}}
        assert command("run", *(web.url(HOST, path) for path in bodies), "-o", str(tmp_path), *LOCAL).returncode == 0
    ended = command("export", str(tmp_path))
    assert ended.returncode == 0, ended.stderr
    texts = {row["canonical"][-2:]: row["text"] for row in map(orjson.loads, ended.stdout.splitlines())}
    assert texts.keys() == bodies.keys() and (texts["/a"], texts["/c"]) == ("\u2460", "c")


def test_a_table_has_one_header_whatever_is_in_it(crawled):
    text = command("results", str(crawled[0]), "--format", "csv").stdout
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 18 and sum(line.startswith("url,") for line in text.splitlines()) == 1
    assert [row["change"] for row in rows if row["canonical"].endswith("/text")] == ["new", "changed"]


def test_the_pages_are_told_with_their_titles(crawled):
    header, *pages = exported(crawled, "--format", "pages", "--final")
    assert header["format"] == "json-pages-1.0"
    titles = {page["url"].removeprefix(crawled[1]): page["title"] for page in pages}
    assert titles == {"/": "One & <b>only", "/latin": "é", "/tagged": "ü"}, "the last was not modified"
    seeds = [page["url"].removeprefix(crawled[1]) for page in pages if page.get("seed")]
    assert sorted(seeds) == ["/", "/latin", "/tagged"], "a page that was listed is a seed on later visits, too"
    assert len({page["id"] for page in pages}) == 3 and all(re.fullmatch(r"\d{4}-.*Z", page["ts"]) for page in pages)


def test_a_page_of_no_named_type_is_one_of_the_pages(tmp_path):
    """Its links are followed, and a browser shows it; in a WACZ file nobody found it."""
    with Web().running() as web:
        html, xml = b"<title>untyped</title><a href=/found>x</a>", b"<?xml version='1.0'?><feed/>"
        web.hosts = {HOST: {"/": Answer(body=html, mime=None), "/feed": Answer(body=xml, mime=None), "/found": Answer(mime=None)}}
        assert (
            command("run", *map(web.url, (HOST, HOST), ("/", "/feed")), "--depth", "1", "-o", str(tmp_path), *LOCAL).returncode
            == 0
        )
        assert "/found" in web.asked(HOST)
    _, *pages = command("export", str(tmp_path), "--format", "pages").stdout.splitlines()
    assert [orjson.loads(page)["title"] for page in pages] == ["untyped"]


@pytest.mark.parametrize("form", ["parquet", "wacz"])
def test_what_is_no_file_is_not_replaced_by_one(crawled, tmp_path, form):
    """As root a device would be: /dev/null."""
    os.mkfifo(tmp_path / "pipe")
    for to in (tmp_path / "pipe", tmp_path):
        ended = command("export", str(crawled[0]), "--format", form, "--to", str(to))
        assert (ended.returncode, "name a file" in ended.stderr) == (2, True), ended.stderr
    ended = command("export", str(crawled[0]), "--format", form, "--to", "nowhere/x")
    assert (ended.returncode, ended.stderr) == (2, "crawler: nowhere/x: No such file or directory\n")
    assert (tmp_path / "pipe").is_fifo() and [path.name for path in tmp_path.iterdir()] == ["pipe"]
    (tmp_path / "link").symlink_to(tmp_path / "to")
    exported(crawled, "--format", form, "--to", str(tmp_path / "link"))
    assert (tmp_path / "link").is_symlink() and (tmp_path / "to").is_file()
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to("link")
    exported(crawled, "--format", form, "--to", str(tmp_path / "link"))
    assert not (tmp_path / "link").is_symlink(), "a link to itself leads to no file"


def test_an_export_that_is_ended_leaves_nothing_behind(crawled, tmp_path):
    shutil.copytree(crawled[0], tmp_path / "out")
    unread = min((tmp_path / "out" / "warc").iterdir())
    unread.unlink()
    os.mkfifo(unread)  # it waits here for ever
    with crawling("export", str(tmp_path / "out"), "--format", "wacz", "--to", str(tmp_path / "x.wacz")) as process:
        while not list(tmp_path.glob(".x.wacz.*")):
            assert process.poll() is None
        second = command("export", str(crawled[0]), "--format", "wacz", "--to", str(tmp_path / "x.wacz"))
        said = f"crawler: {tmp_path / 'x.wacz'}: another process is just writing it\n"
        assert (second.returncode, second.stderr) == (2, said), "both wrote one file, and ended with: No such file or directory"
        assert list(tmp_path.glob(".x.wacz.*")), "what the first has begun is its own"
        process.terminate()
        assert process.wait(60) == 128 + signal.SIGTERM
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("form", ["parquet", "wacz"])
def test_what_a_killed_export_has_left_is_overwritten(crawled, tmp_path, form):
    (tmp_path / "to.tmp").write_bytes(b"left" * 1_000_000)
    exported(crawled, "--format", form, "--to", str(tmp_path / "to"))
    assert os.listdir(tmp_path) == ["to"] and (tmp_path / "to").stat().st_size < 1_000_000


@pytest.mark.parametrize("folder", ["index", "warc"])
def test_an_archive_that_was_cut_is_not_taken_for_a_whole_one(crawled, tmp_path, folder):
    """An index without its lines would be a WACZ file that replays nothing."""
    shutil.copytree(crawled[0], tmp_path / "out")
    cut = sorted((tmp_path / "out" / folder).iterdir())[0]
    os.truncate(cut, cut.stat().st_size // 2)
    ended = command("export", str(tmp_path / "out"), "--format", "wacz", "--to", str(tmp_path / "x.wacz"))
    assert (ended.returncode, cut.name in ended.stderr) == (3, True), ended.stderr
    assert not (tmp_path / "x.wacz").exists()


def test_of_a_crawl_that_keeps_no_bodies_nothing_is_taken_and_an_earlier_export_stays(tmp_path):
    with Web({HOST: {"/": Answer(body=b"<img src=x>")}}).running() as web:
        assert command("run", web.url(HOST), "--archive", "discard", "-o", str(tmp_path / "out"), *LOCAL).returncode == 0
    ended = command("summary", str(tmp_path / "out"), "--incomplete")
    assert (ended.stdout, "1 page could not be read again" in ended.stderr) == ("", True), "nobody can tell what it lacks"
    (tmp_path / "x.wacz").write_bytes(b"earlier")
    ended = command("export", str(tmp_path / "out"), "--format", "wacz", "--to", str(tmp_path / "x.wacz"))
    assert (ended.returncode, "no WARC files" in ended.stderr) == (2, True)
    assert (tmp_path / "x.wacz").read_bytes() == b"earlier"


def test_the_archive_in_one_file_is_valid_and_every_record_is_found_in_it(crawled, tmp_path):
    file = tmp_path / "out.wacz"
    assert command("export", str(crawled[0]), "--format", "wacz", "--to", str(file)).returncode == 0
    assert list(tmp_path.iterdir()) == [file]
    with zipfile.ZipFile(file) as wacz:
        heads = wacz.read("indexes/index.idx").decode().splitlines()
        blocks = wacz.read("indexes/index.cdx.gz")
        places = [json.loads(head[head.index("{") :]) for head in heads[1:]]
        lines = b"".join(zlib.decompress(blocks[at["offset"] :][: at["length"]], 31) for at in places).splitlines()
        assert lines == sorted(lines) and len(lines) == 16
        for line in lines:
            place = json.loads(line[line.index(b"{") :])
            with wacz.open(f"archive/{place['filename']}") as archive:
                archive.seek(int(place["offset"]))
                record = next(iter(ArchiveIterator(io.BytesIO(archive.read(int(place["length"]))))))
                assert record.rec_headers["WARC-Target-URI"] == place["url"]
        assert all(info.compress_type == zipfile.ZIP_STORED for info in wacz.infolist() if info.filename.startswith("archive/"))
    pytest.importorskip("wacz")
    ended = subprocess.run([sys.executable, "-m", "wacz", "validate", "-f", str(file)], capture_output=True, text=True)
    assert ended.returncode == 0 and "invalid" not in ended.stdout, ended.stdout + ended.stderr


def test_a_page_that_is_kept_no_longer_is_not_in_the_list_of_an_archive(crawled, tmp_path):
    """Whoever chose it there was shown nothing: nor was it for a later visit that repeats its body."""
    shutil.copytree(crawled[0], tmp_path / "out")
    for folder in ("warc", "index"):
        min((tmp_path / "out" / folder).iterdir()).unlink()
    assert command("retire", str(tmp_path / "out"), "--missing").returncode == 0
    ended = command("export", str(tmp_path / "out"), "--format", "wacz", "--to", str(tmp_path / "x.wacz"), "--mime", "text/*")
    assert ended.returncode == 0, ended.stderr
    with zipfile.ZipFile(tmp_path / "x.wacz") as wacz:
        _, *pages = map(orjson.loads, wacz.read("pages/pages.jsonl").splitlines())
        [file] = [name for name in wacz.namelist() if name.startswith("archive/")]
        kept = {
            record.rec_headers["WARC-Target-URI"] for record in ArchiveIterator(wacz.open(file)) if record.rec_type == "response"
        }
    assert {page["url"] for page in pages} <= kept


def test_an_index_that_is_kept_no_longer_is_made_anew(crawled, tmp_path):
    """Of records that stood in no index a reader of the file shows nothing."""
    shutil.copytree(crawled[0], tmp_path / "out")
    was = [index.read_bytes().splitlines() for index in sorted((tmp_path / "out" / "index").iterdir())]
    min((tmp_path / "out" / "index").iterdir()).unlink()
    assert command("retire", str(tmp_path / "out"), "--missing").returncode == 0
    ended = command("export", str(tmp_path / "out"), "--format", "wacz", "--to", str(tmp_path / "x.wacz"))
    assert ended.returncode == 0, ended.stderr
    with zipfile.ZipFile(tmp_path / "x.wacz") as wacz:
        assert zlib.decompress(wacz.read("indexes/index.cdx.gz"), 31).splitlines() == sorted(was[0] + was[1])


def test_an_archive_can_be_taken_while_it_is_written(crawled, tmp_path):
    """Of files that are open, what is committed."""
    from crawler.crawl import open_crawl_reader
    from crawler.output.archive.wacz import write_wacz

    with open_crawl_reader(crawled[0]) as reader:
        marks = dict(reader.marks)
    opened = tmp_path / "open"
    for file, mark in marks.items():
        (opened / file).parent.mkdir(parents=True, exist_ok=True)
        data = (crawled[0] / file).read_bytes()
        (opened / f"{file}.open").write_bytes(data + b"and what no commit knows")
        marks[file] = type(mark)(mark.length)
    assert write_wacz(opened, marks, [b"{}\n"], tmp_path / "x.wacz", title="x", is_retired=lambda file: False) == 2
    with zipfile.ZipFile(tmp_path / "x.wacz") as wacz:
        for file in marks:
            if file.startswith("warc/"):
                assert wacz.read(f"archive/{file[5:]}") == (crawled[0] / file).read_bytes()


def test_rows_are_queried_by_others(crawled, tmp_path):
    duckdb, _ = pytest.importorskip("duckdb"), pytest.importorskip("pyarrow")
    file = tmp_path / "rows.parquet"
    assert command("export", str(crawled[0]), "--format", "parquet", "--to", str(file), "--kind", "all").returncode == 0
    found = duckdb.sql(f"select kind, change, count(*) from '{file}' group by all order by all").fetchall()
    assert {(kind, change): count for kind, change, count in found}["recrawl", "changed"] == 1
    assert sum(count for *_, count in found) == 18
    asked = f"select url, revisit_of_filename, revisit_of_offset from '{file}' where change = 'unchanged' and fetch_status = 200"
    repeated = duckdb.sql(asked).fetchall()
    assert len(repeated) == 3
    for url, name, offset in repeated:
        with (crawled[0] / name).open("rb") as warc:
            warc.seek(offset)
            record = next(iter(ArchiveIterator(warc)))
            assert (record.rec_type, record.rec_headers["WARC-Target-URI"]) == ("response", url)
    asked = f"select fetch_status, url_host_name, tag, epoch(fetch_time) from '{file}' where fetch_status = 500 limit 1"
    [row] = duckdb.sql(asked).fetchall()
    assert row[:3] == (500, FAR, "b") and row[3] > 1.7e9


def test_the_summary_counts_the_last_visit_of_each_url(crawled, tmp_path):
    out = str(crawled[0])
    counts = orjson.loads(command("summary", out, "--json").stdout)
    assert counts["outcomes"] == {"ok": 4, "redirect": 1, "http_error": 1} and counts["kinds"] == {"recrawl": 6, "embed": 2}
    assert counts["changes"] == {"unchanged": 4, "changed": 1}
    assert sum(counts["types"].values()) == 8 and counts["statuses"]["304"] == 1, "a page not modified is of the type it was"
    assert counts["incomplete_pages"] == {f"{crawled[1]}/": 1}
    text = command("summary", out).stdout
    assert text.startswith("6 pages (besides: 2 embed)") and "pages that lack" in text
    page = tmp_path / "page.html"
    for two in (("--html", str(page), "--json"), ("--html", str(page), "--incomplete"), ("--json", "--incomplete")):
        ended = command("summary", out, *two)
        assert (ended.returncode, ended.stdout, page.exists()) == (2, "", False) and "give one of them" in ended.stderr
    assert command("summary", out, "--html", str(page)).returncode == 0
    html = page.read_text()
    assert "<svg" in html and not re.search(r"<script|<link|src=|@import|url\(", html), "it needs nothing from elsewhere"


def test_pandas_reads_the_rows_as_they_lie(crawled):
    pandas = pytest.importorskip("pandas")
    rows = pandas.concat([pandas.read_json(file, lines=True) for file in sorted((crawled[0] / "results").glob("*.jsonl"))])
    pages = rows[(rows.kind != "robots") & (rows.outcome == "ok")]
    assert set(pages.canonical) == {crawled[1] + path for path in ("/", "/latin", "/tagged", "/text", "/i.png")}
    assert (pages[pages.status == 200].bytes_decoded > 0).all() and set(rows.change.dropna()) >= {"new", "changed", "unchanged"}


def test_a_summary_that_does_not_fit_leaves_the_earlier_one(crawled, tmp_path):
    report = tmp_path / "report.html"
    assert crawler("summary", str(crawled[0]), "--html", str(report)).returncode == 0
    before = report.read_bytes()
    limit = len(before) // 2
    ended = crawler("summary", str(crawled[0]), "--html", str(report), preexec_fn=lambda: setrlimit(RLIMIT_FSIZE, (limit, limit)))
    assert ended.returncode == 3 and "File too large" in ended.stderr
    assert report.read_bytes() == before and list(tmp_path.iterdir()) == [report]
    shown = crawler("summary", str(crawled[0]), "--html", "/dev/stdout")
    assert shown.returncode == 0 and shown.stdout.startswith("<!DOCTYPE html>"), shown.stderr


def test_what_an_export_that_was_killed_has_left_goes_with_the_next(crawled, tmp_path, monkeypatch):
    pictures, wacz = tmp_path / "pictures", tmp_path / "out.wacz"
    pictures.mkdir()
    (pictures / ".export-17.tmp").write_bytes(b"left")
    (pictures / "mine.tmp").write_bytes(b"a person's own")
    with (pictures / ".export-18.tmp").open("wb") as another:
        fcntl.flock(another, fcntl.LOCK_EX)
        exported(crawled, "--files", str(pictures))
        assert sorted(path.name for path in pictures.glob(".*")) == [".export-18.tmp"], "of an export that goes on"
    assert (pictures / "mine.tmp").exists()
    monkeypatch.setattr(fcntl, "flock", mock.Mock(side_effect=OSError(errno.ENOLCK, "there are none on this disk")))
    assert len(exported(crawled, "--files", str(pictures))) and (pictures / ".export-18.tmp").exists()
    (tmp_path / ".out.wacz.index-abc").mkdir()
    (tmp_path / ".out.wacz.index-abc" / "x.cdxj").write_bytes(b"left")
    (tmp_path / "out.wacz.tmp").write_bytes(b"left")
    exported(crawled, "--format", "wacz", "--to", str(wacz))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.wacz", "pictures"]


READING = """
import sys
from crawler.cli.main import main
code = main(sys.argv[1:])
[peak] = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(peak.split()[1], file=sys.stderr)
sys.exit(code)
"""
"""Ends with the KiB its process had at most, which unlike ``ru_maxrss`` are none of the one that began it."""


def test_a_page_whose_tree_would_take_gigabytes_costs_a_command_little(tmp_path):
    page = b"<!doctype html><title>t</title>" + b"".join(b"<b a=%d><p>" % n for n in range(40_000)) + b"<img src=/i.png>\xc3\xbc"
    out = str(tmp_path / "out")
    with Web(hosts={HOST: {"/": Answer(body=page, mime="text/html")}}).running() as web:
        url = web.url(HOST)
        assert command("run", url, "-o", out, *LOCAL).returncode == 0

    def read(*arguments: str) -> tuple[str, str]:
        reader = [sys.executable, "-c", READING, *arguments]
        limit = (1 << 30, 1 << 30)
        ended = subprocess.run(
            reader, capture_output=True, text=True, check=False, preexec_fn=lambda: setrlimit(RLIMIT_AS, limit)
        )
        assert ended.returncode == 0, ended.stderr
        assert int(ended.stderr.split()[-1]) < 300 << 10, arguments
        return ended.stdout, ended.stderr

    [body] = map(orjson.loads, read("export", out)[0].splitlines())
    assert (body["encoding"], body["text"].encode()) == ("UTF-8", page)
    [_, line] = map(orjson.loads, read("export", out, "--format", "pages")[0].splitlines())
    assert line["title"] == url, "it has none that is read"
    assert "1 page could not be read again" in read("summary", out, "--incomplete")[1], "nobody can tell what it lacks"


@pytest.mark.parametrize("how", ["export --format parquet --to", "export --format wacz --to", "summary --html"])
def test_a_file_that_stands_there_after_a_power_cut_is_whole(crawled, tmp_path, how):
    """A name may be durable before the bytes that it stands for: there was an empty file."""
    faults = Faults(tmp_path / "disk", tmp_path / "aside")
    faults.folder.joinpath("to").write_bytes(b"earlier")
    shutil.copytree(faults.folder, tmp_path / "before")
    name, *options = how.split()
    words = [name, str(crawled[0]), *options, str(faults.folder / "to")]
    ended = subprocess.run(command_of(words), env=CLEAN | faults.environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    records = read_log(faults.log)
    begun = [
        record for record in records if record.path == str(faults.folder / "to.tmp") and record.kind in (Kind.OPEN, Kind.CREATE)
    ]
    assert len(begun) == 1, "on SMB what one descriptor has locked no other may write: Permission denied"
    [named] = [
        at for at, record in enumerate(records, 1) if record.kind is Kind.RENAME and record.other == str(faults.folder / "to")
    ]
    Disk(faults.folder, tmp_path / "before").play(records[:named]).rebuild(tmp_path / "left", NamesAlone())
    assert (tmp_path / "left" / "to").read_bytes() in (b"earlier", (faults.folder / "to").read_bytes())
