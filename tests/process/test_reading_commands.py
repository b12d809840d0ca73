"""``results``, ``export``, ``cat``, ``why``, ``retry`` and ``verify`` over a real crawl."""

import base64
import csv
import gzip
import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
from support import webs
from support.programs import CLEAN, LOCAL, command, crawling
from support.sinful import Site, head, page, running, stay

from crawler import StorageError, read
from crawler.output.export import PIECE_BYTES

PICTURE = bytes(range(256)) * 700
TEXT = "<p>grüße \x00 €" * 9000
ZIPPED = gzip.compress(TEXT.encode("latin-1", "replace"))


@pytest.fixture(scope="module")
def site():
    scripts = {
        "picture": [head(len(PICTURE), mime="image/png") + PICTURE, stay],
        "zipped": [head(len(ZIPPED), "Content-Encoding: gzip", mime="text/html; charset=iso-8859-1") + ZIPPED, stay],
        "moved": [head(0, "Location: /good/1", status="301 Moved Permanently"), stay],
        "gone": [head(0, status="404 Not Found"), stay],
        "slow": [30.0, head(0), stay],
    }
    with running(Site(scripts=scripts)) as site:
        yield site


def url(site: Site, path: str) -> str:
    return f"http://127.0.0.1:{site.ports['http']}/{path}"


@pytest.fixture(scope="module", params=["warc", "files"])
def crawled(site, request, tmp_path_factory) -> Path:
    """A list with a page, a duplicate, a redirect, a picture, a compressed page, a 404, a dead port and a fault."""
    root = tmp_path_factory.mktemp(request.param)
    paths = ["good/1", "good/1", "sin/moved", "sin/picture", "sin/zipped", "sin/gone"]
    lines = [*(url(site, path) for path in paths), "http://127.0.0.1:1/", "not a url"]
    (root / "list").write_text("\n".join(lines))
    ended = command(
        "run", "-i", str(root / "list"), "-o", str(root / "out"), *LOCAL, "--retries", "0", "--archive", request.param
    )
    assert ended.returncode == 0, ended.stderr
    return root / "out"


def raw(*arguments: str) -> bytes:
    ended = command(*arguments, text=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_results_are_the_rows_as_written(crawled):
    written = b"".join(file.read_bytes() for file in sorted((crawled / "results").iterdir()))
    assert raw("results", str(crawled)) == written


def test_final_results_are_one_row_a_line_joined_to_the_list(site, crawled):
    rows = [orjson.loads(line) for line in raw("results", str(crawled), "--final").splitlines()]
    assert sorted(row["input"]["line"] for row in rows) == list(range(1, 9))
    by_line = {row["input"]["line"]: row for row in rows}
    assert by_line[2]["outcome"] == by_line[3]["outcome"] == "ok"
    assert by_line[3]["canonical"] == url(site, "good/1")
    assert by_line[8]["outcome"] == "invalid_url"


def test_results_can_be_chosen_by_outcome_and_shown_as_a_table(crawled):
    rows = list(
        csv.DictReader(io.StringIO(raw("results", str(crawled), "--outcome", "http_error,ok", "--format", "csv").decode()))
    )
    assert sorted({row["outcome"] for row in rows}) == ["http_error", "ok"]
    assert {row["status"] for row in rows} == {"200", "404"}


def test_an_outcome_that_does_not_exist_is_a_usage_error(crawled):
    ended = command("results", str(crawled), "--outcome", "timeuot")
    assert ended.returncode == 2 and "did you mean timeout?" in ended.stderr


@pytest.mark.parametrize("words", [["results"], ["export"], ["cat", "http://a.example/"], ["verify"], ["retry"]])
def test_a_directory_without_a_crawl_is_said_to_be_one(tmp_path, words):
    ended = command(words[0], str(tmp_path), *words[1:])
    assert ended.returncode == 2 and "there is no crawl here" in ended.stderr


def test_a_url_where_the_directory_belongs_is_told_as_one(crawled):
    ended = command("cat", "http://a.example/", str(crawled))
    assert ended.returncode == 2
    assert ended.stderr == "crawler: http://a.example/ is a URL: the crawl's directory comes first (crawler cat DIR URL)\n"


def test_a_file_is_no_directory_of_a_crawl(crawled):
    ended = command("results", str(crawled / "crawl.toml"))
    assert (ended.returncode, ended.stderr) == (2, f"crawler: {crawled}/crawl.toml: there is no crawl here\n")


def test_in_python_too_a_directory_without_a_crawl_is_said_to_be_one(tmp_path):
    with pytest.raises(StorageError, match="nowhere: there is no crawl here"):
        next(read(tmp_path / "nowhere"))


def test_cat_prints_the_decoded_body(site, crawled):
    assert raw("cat", str(crawled), url(site, "sin/picture")) == PICTURE
    assert raw("cat", str(crawled), url(site, "sin/zipped")) == gzip.decompress(ZIPPED)
    kept = ZIPPED if (crawled / "warc").exists() and list((crawled / "warc").iterdir()) else gzip.decompress(ZIPPED)
    assert raw("cat", str(crawled), url(site, "sin/zipped"), "--raw") == kept


@pytest.mark.parametrize(("path", "said"), [("good/77", "is not known"), ("sin/gone", None)])
def test_cat_says_why_there_is_nothing(site, crawled, path, said):
    ended = command("cat", str(crawled), url(site, path))
    assert (ended.returncode, ended.stdout) == ((4, "") if said else (0, ""))
    assert said is None or said in ended.stderr


def test_cat_of_a_failure_says_how_it_ended(crawled):
    ended = command("cat", str(crawled), "http://127.0.0.1:1/")
    assert ended.returncode == 4 and "ended as connect_error: no body was kept" in ended.stderr


def test_a_url_may_be_asked_for_as_it_was_listed_or_linked(tmp_path):
    listed, long, asked = "/a?utm_source=mail&y=1&x=2", "/" + "n" * 3000, {}
    with webs.Web(default=lambda host, path: webs.page("/left-out", path)).running() as web:
        for path in (listed, long):
            asked[path] = web.url("127.0.0.1", path)
        rules = ("--drop-params", "utm_*", "--sort-query", "--max-url", "4000")
        (tmp_path / "list").write_text("\n".join(asked.values()))
        assert command("run", "-i", str(tmp_path / "list"), "-o", str(tmp_path / "out"), *rules, *LOCAL).returncode == 0
    assert b"/a?x=2&y=1" in raw("cat", str(tmp_path / "out"), asked[listed])
    assert long.encode() in raw("cat", str(tmp_path / "out"), asked[long])
    told = command("why", web.url("127.0.0.1", "/left-out"), "--via", asked[listed], "--data", str(tmp_path / "out")).stdout
    assert "left out by the rule depth" in told


def test_a_text_that_is_no_url_is_a_usage_error(crawled):
    assert command("cat", str(crawled), "not a url").returncode == 2


def test_export_gives_texts_as_text_and_all_else_in_base64(site, crawled):
    found = {row["url"]: row for row in map(orjson.loads, raw("export", str(crawled)).splitlines())}
    assert set(found) == {url(site, path) for path in ("good/1", "sin/picture", "sin/zipped")}
    assert base64.b64decode(found[url(site, "sin/picture")]["base64"]) == PICTURE
    assert found[url(site, "sin/zipped")]["text"] == TEXT.replace("€", "?")
    assert found[url(site, "good/1")]["text"].encode() == page(1, 2000)


def test_export_can_be_chosen_by_type_and_outcome(site, crawled):
    lines = raw("export", str(crawled), "--mime", "image/*,application/pdf").splitlines()
    assert [orjson.loads(line)["url"] for line in lines] == [url(site, "sin/picture")]
    assert [orjson.loads(line)["status"] for line in raw("export", str(crawled), "--outcome", "http_error").splitlines()] == [404]


@pytest.mark.parametrize("form", ["jsonl", "pages"])
def test_of_a_crawl_that_keeps_no_body_export_says_so(site, tmp_path, form):
    """Not that no page is of the kind that was asked for."""
    assert command("run", *site.good(1), "-o", str(tmp_path / "out"), "--archive", "discard", *LOCAL).returncode == 0
    ended = command("export", str(tmp_path / "out"), "--format", form)
    assert ended.returncode == 0 and ended.stderr.startswith("crawler: no body is kept in this crawl (--archive discard)")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["export", "DIR", "--status", "404"], "no body is of that kind (outcome ok only: --outcome names others; pages only: "),
        (["export", "DIR", "--mime", "video/*", "--outcome", "ok"], "no body is of that kind (pages only: --kind all"),
        (["export", "DIR", "--mime", "video/*", "--kind", "all"], "no body is of that kind (outcome ok only: --outcome names "),
        (["export", "DIR", "--mime", "video/*", "--kind", "all", "--outcome", "ok"], "no body is of that kind; "),
        (["retry", "DIR", "--outcome", "tls_error"], "no URL is due again"),
        (["recrawl", "DIR", "--match", "/nowhere/"], "no URL is due again"),
        (["retire", "DIR", "--missing"], "nothing is retired"),
    ],
)
def test_where_nothing_is_of_that_kind_it_is_said(crawled, words, said):
    ended = command(*(str(crawled) if word == "DIR" else word for word in words))
    assert (ended.returncode, ended.stdout) == (0, "") and said in ended.stderr


def test_where_nothing_is_of_that_kind_the_commands_that_tell_what_there_is_can_be_copied(crawled, tmp_path):
    (tmp_path / "a b").symlink_to(crawled)
    said = command("export", str(tmp_path / "a b"), "--mime", "video/*").stderr
    assert said.endswith(f"what there is: crawler summary '{tmp_path}/a b', crawler results '{tmp_path}/a b'\n")


def test_without_a_daemon_there_is_nothing_to_go_on_from():
    ended = command("results", "--listen", "127.0.0.1:1")
    assert ended.returncode == 1 and len(ended.stderr.splitlines()) == 1
    assert ended.stderr.endswith("; is it running (crawler serve)? Of a crawl's directory: crawler results DIR\n")


def test_export_writes_files_named_by_their_own_digest(site, crawled, tmp_path):
    lines = raw("export", str(crawled), "--files", str(tmp_path / "to")).splitlines()
    files = {path for path in (tmp_path / "to").rglob("*") if path.is_file()}
    assert files == {tmp_path / "to" / orjson.loads(line)["path"] for line in lines} and len(files) == 3
    for path in files:
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name.partition(".")[0]
    assert {path.suffix for path in files} == {".html", ".bin"} or {path.suffix for path in files} == {".html", ".png"}


def test_export_pieces_join_whatever_the_reader_gives():
    """Base64 of pieces is base64 of the whole only if each piece but the last is a multiple of three bytes."""
    from crawler.output.export import FIELDS, json_line
    from crawler.parse.encoding import read_text

    class Dribble(io.BytesIO):
        def read(self, size=-1):
            return super().read(min(size, 7) if size > 0 else size)

    row = dict.fromkeys(FIELDS) | {"mime": "image/png"}
    data = bytes(range(256)) * 3
    assert base64.b64decode(orjson.loads(b"".join(json_line(row, Dribble(data), read_text)))["base64"]) == data
    text = "äöü€" * 100
    row |= {"mime": "text/plain", "charset": "utf-8"}
    assert orjson.loads(b"".join(json_line(row, Dribble(text.encode()), read_text)))["text"] == text
    row |= {"charset": "no-such-charset"}
    assert orjson.loads(b"".join(json_line(row, io.BytesIO(b"\xff ok"), read_text)))["text"] == "\xff ok"  # as browsers do
    row |= {"charset": "utf-8"}
    assert orjson.loads(b"".join(json_line(row, io.BytesIO(b"\xff ok"), read_text)))["text"] == "\ufffd ok"
    assert PIECE_BYTES % 3 == 0


def test_why_tells_what_became_of_a_url(site, crawled):
    def why(*arguments: str) -> str:
        return command("why", *arguments, "--data", str(crawled)).stdout

    assert "settled as ok, status 200, attempt 1" in why(url(site, "good/1"))
    assert f"redirects to {url(site, 'good/1')}" in why(url(site, "sin/moved"))
    assert "settled as connect_error (refused)" in why("http://127.0.0.1:1/")
    assert "line 7 of" in why("http://127.0.0.1:1/")
    assert "is not a URL (syntax): write each URL whole" in why("http://a b/")
    assert "never admitted" in why(url(site, "good/2"))
    assert "left out by the rule depth" in why(url(site, "good/2"), "--via", url(site, "good/1"))
    answer = orjson.loads(why(url(site, "sin/gone"), "--json"))
    assert (answer["state"], answer["record"]["status"], answer["record"]["outcome"]) == ("done", 404, "http_error")


def test_why_names_the_rule_that_only_the_crawl_s_memory_knows(tmp_path):
    with webs.Web(
        default=lambda host, path: webs.page("/a?1", "/a?2", "/a?3", "/b", "/c", "/d", "http://127.0.0.2/")
    ).running() as web:
        seed, bounds = web.url("127.0.0.1"), ("--max-queries-per-path", "2", "--max-pages-per-host", "5")
        command("run", seed, "-o", str(tmp_path / "out"), "--depth", "2", *bounds, *LOCAL)
        for path, said in (("/a?3", "query_explosion"), ("/d", "host_budget"), ("/a?2", None)):
            told = command("why", web.url("127.0.0.1", path), "--data", str(tmp_path / "out")).stdout
            assert (f"left out by the rule {said}" if said else "settled as ok") in told
    assert "left out by the rule host" in command("why", "http://127.0.0.2/", "--data", str(tmp_path / "out")).stdout


def test_why_names_the_line_of_robots_txt(tmp_path):
    texts = {"/robots.txt": webs.text("User-agent: *\nDisallow: /a\nDisallow: /ab*c$\n")}
    with webs.Web({"127.0.0.1": texts}).running() as web:
        url = web.url("127.0.0.1", "/abc")
        command("run", url, "-o", str(tmp_path), "--allow-net", "127.0.0.0/8")
    assert "robots.txt says Disallow: /ab*c$" in command("why", url, "--data", str(tmp_path)).stdout


def test_why_of_what_is_not_known_has_its_exit_code(site, crawled):
    assert command("why", url(site, "good/2"), "--data", str(crawled)).returncode == 4
    assert command("why", url(site, "good/2"), "--data", str(crawled), "--via", "not a url").returncode == 2
    for form in ((), ("--json",)):
        ended = command("why", "example.org", "--data", str(crawled), *form)
        assert (ended.returncode, "syntax" in ended.stdout) == (2, True)


def test_verify_finds_what_was_changed(crawled, tmp_path):
    import shutil

    ended = command("verify", str(crawled))
    assert (ended.returncode, ended.stdout) == (0, "") and "no faults" in ended.stderr
    assert not re.search(r"\b1 (files|records|rows)", ended.stderr)
    copy = tmp_path / "copy"
    shutil.copytree(crawled, copy)
    victim = max(
        (path for path in copy.rglob("*") if path.parent.name == "warc" or "files" in path.parts), key=lambda p: p.stat().st_size
    )
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    ended = command("verify", str(copy))
    assert ended.returncode == 3 and len(ended.stdout.splitlines()) >= 1 and victim.name in ended.stdout


def test_verify_tells_of_settings_that_run_could_not_read(crawled, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(crawled, copy)
    settings = copy / "crawl.toml"
    settings.write_bytes(settings.read_bytes().replace(b"depth", b"de\0th", 1))
    ended = command("verify", str(copy))
    assert ended.returncode == 3 and "crawl.toml: cannot be read as this crawl's configuration" in ended.stdout
    settings.unlink()
    ended = command("verify", str(copy))
    assert ended.returncode == 3 and ended.stdout.startswith(f"{settings} is missing"), "no crawl would go on from such a copy"


def test_retried_urls_are_fetched_again_by_the_same_command(site, tmp_path):
    out = str(tmp_path / "out")
    again = ("run", url(site, "good/5"), url(site, "sin/gone"), "http://127.0.0.1:1/", "-o", out, *LOCAL, "--retries", "0")
    assert command(*again).returncode == 0
    ended = command("retry", out, "--outcome", "http_error,connect_error")
    assert ended.returncode == 0 and ended.stdout == "" and "2 URLs are due again" in ended.stderr
    ended = command(*again)
    assert ended.returncode == 0, ended.stderr
    rows = [orjson.loads(line) for line in raw("results", out).splitlines()]
    assert sorted((row["outcome"], row["attempt"]) for row in rows) == [
        ("connect_error", 1),
        ("connect_error", 2),
        ("http_error", 1),
        ("http_error", 2),
        ("ok", 1),
    ]
    latest = [orjson.loads(line) for line in raw("results", out, "--final").splitlines()]
    assert sorted((row["outcome"], row["attempt"]) for row in latest) == [("connect_error", 2), ("http_error", 2), ("ok", 1)]
    assert "1 URL is due again" in command("retry", out).stderr  # by default not the 404


def test_a_running_crawl_can_be_read_but_not_retried(site, tmp_path):
    out = str(tmp_path / "out")
    words = ("run", url(site, "good/9"), url(site, "sin/slow"), "-o", out, *LOCAL, "--per-host", "2", "--progress", "plain")
    with crawling(*words) as process:
        while "good/9" not in command("results", out).stdout:
            assert process.poll() is None, process.stderr.read()
        assert raw("cat", out, url(site, "good/9")) == page(9, 2000)
        for changed in ("retry", "recrawl"):
            refused = command(changed, out)
            assert refused.returncode == 75 and f"leave DIR out: crawler {changed}" in refused.stderr


def test_in_python_a_crawl_is_read_row_by_row(site, crawled):
    program = (
        "import crawler\n"
        f"for page in crawler.read({str(crawled)!r}):\n"
        "    if page.row['outcome'] == 'ok':\n"
        "        with page.open() as body: print(page.row['url'], len(body.read()))"
    )
    said = subprocess.run([sys.executable, "-c", program], env=CLEAN, capture_output=True, text=True, check=True).stdout
    assert f"{url(site, 'sin/picture')} {len(PICTURE)}\n" in said


def test_nothing_that_a_server_says_steers_the_terminal(tmp_path):
    """Neither while it runs, with every visit logged, nor in what is read afterwards."""
    escapes = "\x1b]0;owned\x07\x1b[2J\x9b2J"
    scripts = {
        "away": [head(0, f"Location: javascript:{escapes}", status="302 Found"), stay],
        "type": [head(2, mime=f"text/{escapes}; charset={escapes}") + b"ok", stay],
        "line": [head(2, status=f"404 {escapes}") + b"ok", stay],
        "break": [f"HTTP/1.1 2{escapes}\r\n\r\n".encode("latin-1")],
        "links": [head(None) + f'<a href="/sin/{escapes}">x</a><a href="http://{escapes}/">x</a>'.encode()],
        "title": [head(None) + f"<title>{escapes}</title>".encode()],
    }
    with running(Site(scripts=scripts)) as site:
        out, addresses = str(tmp_path / "out"), [f"http://127.0.0.1:{site.ports['http']}/sin/{name}" for name in scripts]
        options = ("-o", out, "--depth", "1", "--log-level", "debug", "-v", *LOCAL)
        said = [command("run", *addresses, *options)]
        said += [command("results", out, "--format", form) for form in ("csv", "jsonl")]
        said += [command("why", address, "--data", out, *how) for address in addresses for how in ((), ("--json",))]
        said += [command("export", out, "--format", "pages"), command("export", out, "--outcome", "ok,http_error")]
        said += [command("export", out, "--files", str(tmp_path / "files")), command("verify", out)]
    assert [ended.returncode for ended in said] == [0] * len(said), said
    assert not [ended for ended in said if set(ended.stdout + ended.stderr) & set("\x1b\x07\x9b")]
    (away,) = [row for row in map(orjson.loads, said[2].stdout.splitlines()) if row["reason"] == "bad_location"]
    assert away["location"] == f"javascript:{escapes}", "JSON says it all the same"


def test_verify_reads_the_store_through(crawled, tmp_path):
    """A block that no question needs is found damaged all the same, and named."""
    shutil.copytree(crawled, tmp_path / "copy")
    (table, *_) = sorted((tmp_path / "copy" / "frontier").glob("*.sst"))
    data = bytearray(table.read_bytes())
    data[10] ^= 1
    table.write_bytes(data)
    ended = command("verify", str(tmp_path / "copy"))
    assert ended.returncode == 3 and table.name in ended.stdout and "Traceback" not in ended.stderr, ended


SITEMAP = b'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9"><url><loc>%s</loc></url></urlset>'


@pytest.fixture(scope="module")
def with_helpers(tmp_path_factory):
    """A crawl of two pages, one of them named by a sitemap, with robots.txt as a page that says there is none."""
    out = tmp_path_factory.mktemp("helpers") / "out"
    web = webs.Web({"127.0.0.1": {"/": webs.text("home"), "/mapped": webs.text("mapped")}})
    with web.running():
        robots = webs.Answer(404, b"<html>Not here</html>")
        sitemap = webs.Answer(body=SITEMAP % web.url("127.0.0.1", "/mapped").encode(), mime="application/xml")
        web.hosts["127.0.0.1"].update({"/robots.txt": robots, "/sitemap.xml": sitemap})
        ended = command("run", web.url("127.0.0.1"), "-o", str(out), "--allow-net", "127.0.0.0/8", "--delay", "0", "--sitemaps")
        assert ended.returncode == 0, ended.stderr
    return out, ended.stderr


def paths(lines: bytes) -> list[str]:
    return ["/" + orjson.loads(line)["url"].split("/", 3)[3] for line in lines.splitlines()]


def test_what_is_fetched_for_the_crawl_s_own_sake_is_no_page_of_it(with_helpers):
    out, said = with_helpers
    assert paths(raw("export", str(out))) == ["/", "/mapped"]
    assert paths(raw("results", str(out), "--final")) == ["/", "/mapped"]
    assert "2 of 2 URLs settled" in said and "visited besides, no pages: 1 robots.txt, 1 of sitemaps" in said
    assert "http_error" not in said and "hosts with most failures" not in said


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["--kind", "sitemap"], ["/sitemap.xml"]),
        (["--kind", "robots"], []),
        (["--kind", "robots", "--outcome", "http_error"], ["/robots.txt"]),
        (["--kind", "page,sitemap"], ["/", "/sitemap.xml", "/mapped"]),
        (["--kind", "all", "--outcome", "ok,http_error"], ["/robots.txt", "/", "/sitemap.xml", "/mapped"]),
        (["--kind", "link"], ["/mapped"]),
    ],
)
def test_they_are_exported_where_they_are_asked_for(with_helpers, options, found):
    assert sorted(paths(raw("export", str(with_helpers[0]), *options))) == sorted(found)


def test_rows_can_be_chosen_by_kind(with_helpers):
    out = str(with_helpers[0])
    assert len(raw("results", out).splitlines()) == 4
    assert sorted(paths(raw("results", out, "--kind", "robots,sitemap"))) == ["/robots.txt", "/sitemap.xml"]
    assert sorted(paths(raw("results", out, "--kind", "page"))) == ["/", "/mapped"]
    ended = command("results", out, "--kind", "robot")
    assert ended.returncode == 2 and "did you mean robots?" in ended.stderr


def test_each_line_finds_its_own_url_tag_and_keys_again(tmp_path):
    """Through redirects, duplicates and failures: that is what a list is joined by."""
    hosts = {"/robots.txt": webs.NOT_FOUND, "/a": webs.redirect("/b"), "/b": webs.redirect("c"), "/c": webs.text("end")}
    hosts |= {"/d": webs.redirect("/c"), "/nowhere": webs.redirect("http://[/")}
    with webs.Web({"127.0.0.1": hosts}).running() as web:
        base = web.url("127.0.0.1", "")
        listed = {
            1: {"url": f"HTTP://127.0.0.1:{web.port}/a#x", "tag": 5, "id": "first", "more": {"n": [1, None]}},
            2: {"url": f"{base}/c", "tag": "five"},
            3: {"url": f"{base}/d", "id": 3},
            4: {"url": f"{base}/./c", "id": 4},
            5: {"url": f"{base}/nowhere", "id": 5, "tag": 0.5},
            6: {"url": f"{base}/a\tTitle", "id": 6},
            7: {"url": "no url", "id": 7},
        }
        lines = [json.dumps(line) for line in listed.values()]
        (tmp_path / "list").write_text("\n".join([*lines, f"{base}/c\tTitle", f"{base}/c"]))
        out = str(tmp_path / "out")
        ended = command("run", "-i", str(tmp_path / "list"), "-o", out, *LOCAL)
        assert ended.returncode == 0, ended.stderr
    listed |= {8: {"url": f"{base}/c\tTitle"}, 9: {"url": f"{base}/c"}}
    assert "more_than_url: a line holds one URL and nothing else" in ended.stderr
    rows = [orjson.loads(line) for line in raw("results", out).splitlines()]
    final = [orjson.loads(line) for line in raw("results", out, "--final").splitlines()]
    assert sorted(row["input"]["line"] for row in final) == list(range(1, 10))
    for row in [*rows, *final]:
        line = listed[row["input"]["line"]]
        extra = {key: value for key, value in line.items() if key not in ("url", "tag")}
        assert (row["listed"], row["tag"], row["extra"]) == (line["url"], line.get("tag"), extra or None)
        assert row["url"].lower().startswith("http://") or row["outcome"] == "invalid_url"
    ends = {row["input"]["line"]: (row["outcome"], row["reason"], (row["canonical"] or "").removeprefix(base)) for row in final}
    assert ends == {
        **dict.fromkeys((1, 2, 3, 4, 9), ("ok", None, "/c")),
        5: ("redirect_error", "bad_location", "/nowhere"),
        6: ("invalid_url", "more_than_url", ""),
        7: ("invalid_url", "syntax", ""),
        8: ("invalid_url", "more_than_url", ""),
    }
    table = csv.DictReader(io.StringIO(raw("results", out, "--final", "--format", "csv").decode()))
    by_line = {int(row["input_line"]): row for row in table}
    assert json.loads(by_line[1]["extra"]) == {"id": "first", "more": {"n": [1, None]}} and by_line[1]["tag"] == "5"
    exported = [orjson.loads(line) for line in raw("export", out).splitlines()]
    assert {(line["tag"], line["listed"]) for line in exported} <= {(line.get("tag"), line["url"]) for line in listed.values()}


def test_a_number_of_any_length_comes_back_as_it_was_written(tmp_path):
    number = "123456789012345678901234567890"
    with webs.Web(default=lambda host, path: webs.text("text")).running() as web:
        (tmp_path / "list").write_text(f'{{"url": "{web.url("127.0.0.1", "/")}", "id": {number}, "of": [-{number}, 1.5]}}\n')
        assert command("run", "-i", str(tmp_path / "list"), "-o", str(tmp_path / "out"), *LOCAL).returncode == 0
    out = str(tmp_path / "out")
    for words in (
        ["results", out],
        ["results", out, "--final"],
        ["export", out],
        ["export", out, "--files", str(tmp_path / "f")],
    ):
        told = command(*words).stdout
        assert f'"extra":{{"id":{number},"of":[-{number},1.5]}}' in told, words
        json.loads(told)
    (row,) = csv.DictReader(io.StringIO(command("results", out, "--format", "csv").stdout))
    assert json.loads(row["extra"]) == {"id": int(number), "of": [-int(number), 1.5]}


WITHOUT_THREADS = """
import sys, threading
def refuse(thread):
    raise RuntimeError("can't start new thread")
threading.Thread.start = refuse
from crawler.cli.main import main
sys.exit(main())
"""


def test_a_command_that_gets_no_thread_for_the_store_says_so(crawled):
    """RocksDB aborts the process for want of one."""
    arguments = [sys.executable, "-c", WITHOUT_THREADS, "results", str(crawled)]
    ended = subprocess.run(arguments, env=CLEAN, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 3 and "ulimit -u" in ended.stderr, ended
    assert ended.stdout == "" and "Traceback" not in ended.stderr, ended
