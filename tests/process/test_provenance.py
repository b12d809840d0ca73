"""An archive says by whom and how it was made, and requests say where what they ask for is embedded."""

import gzip
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from fastwarc.warc import ArchiveIterator as FastIterator
from support.daemons import daemon
from support.programs import LOCAL, command, crawling
from support.webs import Answer, Web, page
from warcio.archiveiterator import ArchiveIterator

HOST, FAR = "127.0.0.1", "127.0.0.2"


def test_a_file_says_by_whom_and_how_it_was_made(tmp_path):
    out = tmp_path / "out"
    settings = ("--operator", "Example Archive", "--description", "The autumn crawl", "--contact", "https://example.org/bot")
    with Web({HOST: {"/": page()}}).running() as web:
        assert command("run", web.url(HOST), "-o", str(out), *LOCAL, *settings).returncode == 0
    [file] = (out / "warc").iterdir()
    with file.open("rb") as stream:
        info, how, *_ = (
            (record.rec_type, record.rec_headers, record.content_stream().read()) for record in ArchiveIterator(stream)
        )
    fields = dict(line.split(": ", 1) for line in info[2].decode().splitlines())
    assert info[0] == "warcinfo" and fields["operator"] == "Example Archive" and fields["description"] == "The autumn crawl"
    assert fields["robots"] == "ignore" and fields["http-header-from"] == "https://example.org/bot"
    assert fields["http-header-user-agent"].startswith("Mozilla/5.0 (compatible; flatcrawler/")
    assert how[0] == "metadata" and how[1]["WARC-Concurrent-To"] == info[1]["WARC-Record-ID"]
    assert 'operator: "Example Archive"\r\n' in how[2].decode() and "max_redirects: 10\r\n" in how[2].decode()
    with file.open("rb") as stream:
        kinds = Counter(str(record.record_type).rpartition(".")[2] for record in FastIterator(stream))
    assert kinds == {"warcinfo": 1, "metadata": 1, "response": 1, "request": 1}
    indexer = Path(sys.executable).with_name("cdxj-indexer")
    indexed = subprocess.run([indexer, "--sort", file], capture_output=True, text=True, check=True)
    [index] = (out / "index").iterdir()
    assert indexed.stdout == index.read_text(), "settings are nothing to be replayed"
    assert command("verify", str(out)).returncode == 0


def test_a_file_that_a_kill_has_left_says_who_goes_on_with_it(tmp_path):
    """All its records said that they were asked for as the first user agent does, and kept by the first operator."""
    out = tmp_path / "out"
    with Web().running() as web:
        web.hosts = {HOST: {"/": page("/next"), "/next": Answer(hang=True)}}
        run = ("run", web.url(HOST), "--depth", "1", "-o", str(out), *LOCAL)
        with crawling(*run, "--user-agent", "One", "--operator", "first") as process:
            while sum(len(file.read_bytes()) for file in out.glob("results/*")) == 0 or len(web.asked(HOST)) < 2:
                assert process.poll() is None
                time.sleep(0.02)
        web.hosts = {HOST: {"/": page("/next"), "/next": page()}}
        sent = ("--contact", "https://example.org/bot", "--header", "From: bot@example.org")
        assert command(*run, "--user-agent", "Two", "--operator", "second", *sent).returncode == 0
    [file] = (out / "warc").iterdir()
    made, found = {}, []
    with file.open("rb") as stream:
        for record in ArchiveIterator(stream):
            if record.rec_type == "warcinfo":
                block = record.content_stream().read().decode()
                fields = dict(line.split(": ", 1) for line in block.splitlines())
                told = (fields["operator"], fields["http-header-user-agent"], fields.get("http-header-from"))
                made[record.rec_headers["WARC-Record-ID"]] = told
            elif record.rec_type == "request":
                operator, *told = made[record.rec_headers["WARC-Warcinfo-ID"]]
                assert told == [record.http_headers["User-Agent"], record.http_headers["From"]]
                found.append((operator, told[0]))
    assert found == [("first", "One"), ("second", "Two")]
    assert command("verify", str(out)).returncode == 0


async def test_records_name_the_settings_that_held_when_they_were_made(tmp_path):
    with Web({HOST: {"/before": page(), "/after": page()}}).running() as web:
        async with daemon(tmp_path) as d:
            await d.ask("POST", "/v1/seeds", data=web.url(HOST, "/before").encode())
            await d.until(done=1)
            assert (await d.ask("PATCH", "/v1/settings", json={"max_body": "1MiB"}))[0] == 200
            await d.ask("POST", "/v1/seeds", data=web.url(HOST, "/after").encode())
            await d.until(done=2)
    [file] = (tmp_path / "warc").iterdir()
    settings, found = {}, {}
    with file.open("rb") as stream:
        for record in ArchiveIterator(stream):
            fields = record.rec_headers
            if record.rec_type == "metadata":
                lines = record.content_stream().read().decode().splitlines()
                settings[fields["WARC-Warcinfo-ID"]] = dict(line.split(": ", 1) for line in lines)["max_body"]
            elif record.rec_type == "response":
                found[fields["WARC-Target-URI"].rpartition("/")[2]] = settings[fields["WARC-Warcinfo-ID"]]
    assert found == {"before": '"64MiB"', "after": '"1MiB"'}


def test_what_is_embedded_is_asked_for_as_browsers_do(tmp_path):
    with Web().running() as web:
        near, far = web.url(HOST), web.url(FAR)
        body = f"<img src=/near.png><img src={far}far.png><link rel=stylesheet href={far}far.css><a href=/page>".encode()
        css = Answer(body=b"a{background:url(deep.png)}", mime="text/css")
        web.hosts = {HOST: {"/?q=1": Answer(body=body), "/page": page()}, FAR: {"/far.css": css}}
        run = ("run", f"{near}?q=1", "--depth", "1", "--requisites", "-o", str(tmp_path), *LOCAL)
        assert command(*run).returncode == 0
        told = {visit.path: visit.fields.get("referer") for visit in web.visits}
    assert told == {
        "/?q=1": None,
        "/page": None,
        "/near.png": f"{near}?q=1",
        "/far.png": near,
        "/far.css": near,
        "/deep.png": f"{far}far.css",
    }


def test_a_crawl_that_has_logged_in(tmp_path):
    """Its cookies go where the file says, those that a host sets to that host; none is archived as a request's."""
    with Web().running() as web:
        near, far = web.url(HOST), web.url(FAR)
        entry = page("/two", f"{far}elsewhere", headers=(("Set-Cookie", "renewed=1; Path=/"),))
        web.hosts = {HOST: {"/": entry, "/two": page()}, FAR: {"/elsewhere": page()}}
        login = tmp_path / "login.txt"
        login.write_text(f"# Netscape HTTP Cookie File\n{HOST}\tFALSE\t/\tFALSE\t0\tsession\ts3cret\n")
        run = ("run", near, "--scope", "any", "--depth", "1", "-o", str(tmp_path / "out"), *LOCAL)
        assert command(*run, "--cookies", str(login)).returncode == 0
        sent = {visit.path: visit.fields.get("cookie") for visit in web.visits}
        assert sent == {"/": "session=s3cret", "/two": "session=s3cret; renewed=1", "/elsewhere": None}
        assert command("recrawl", str(tmp_path / "out")).returncode == 0
        assert command(*run, "--cookies", str(login)).returncode == 0
        (again,) = [visit for visit in web.visits[3:] if visit.path == "/"]
        assert again.fields["cookie"] == "session=s3cret; renewed=1", "it is kept from run to run"
        assert command(*run, "--cookies", "/nowhere").returncode == 2
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file() and path.name != "cookies.txt":
            content = path.read_bytes()
            assert b"s3cret" not in (gzip.decompress(content) if path.suffix == ".gz" else content), path
    asked = [pair for file in (tmp_path / "out" / "warc").iterdir() for pair in requests_in(file)]
    assert {cookie for uri, cookie in asked if uri.startswith(near)} == {"***"}
    assert {cookie for uri, cookie in asked if uri.startswith(far)} == {None}


def requests_in(file):
    with file.open("rb") as stream:
        requests = (record for record in ArchiveIterator(stream) if record.rec_type == "request")
        return [(record.rec_headers["WARC-Target-URI"], record.http_headers["Cookie"]) for record in requests]
