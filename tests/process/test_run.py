"""``crawler run`` as a person or a script meets it: real processes against a real server, streams and exit codes."""

import asyncio
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import orjson
import pytest
from support import webs
from support.programs import CLEAN, LOCAL, command, crawler, crawling, on_a_terminal, rows_of
from support.sinful import Site, hang, head, once, running, stay
from warcio.archiveiterator import ArchiveIterator

from crawler.core.errors import StorageError
from crawler.frontier.rocksdb.store import RocksStore
from crawler.output.directory import _set_aside


@pytest.fixture(scope="module")
def site():
    scripts = {
        "lame": [0.2, head(2) + b"ok", stay],
        "hang": [hang],
        "gone": [head(0, status="404 Not Found"), stay],
    }
    with running(Site(scripts=scripts)) as site:
        yield site


def sin(site: Site, name: str) -> str:
    return f"http://127.0.0.1:{site.ports['http']}/sin/{name}"


def wait_for_request(process, site: Site, path: str) -> None:
    while not any(f" {path} ".encode() in request for request in site.requests):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    site.requests.clear()


def records_of(directory: Path) -> list[tuple[str, str]]:
    """(type, URI) of every WARC record, as warcio reads them."""
    found = []
    for file in (directory / "warc").iterdir():
        with file.open("rb") as stream:
            found += [(record.rec_type, record.rec_headers["WARC-Target-URI"]) for record in ArchiveIterator(stream)]
    return found


def wait_for_talk(process, text: str) -> str:
    """Read standard error until the text has been said."""
    said = ""
    for line in process.stderr:
        said += line
        if text in line:
            return said
    raise AssertionError(f"{text!r} was never said: {said}")


def test_a_list_is_crawled_and_told_about(site, tmp_path):
    out = tmp_path / "out"
    (tmp_path / "list").write_text("\n".join([*site.good(30), "# comment", "", sin(site, "gone")]))
    ended = command("run", "-i", str(tmp_path / "list"), "-o", str(out), *LOCAL)
    assert (ended.returncode, ended.stdout) == (0, "")
    assert Counter(row["outcome"] for row in rows_of(out)) == {"ok": 30, "http_error": 1}
    lines = ended.stderr.splitlines()
    assert any(line.startswith("31 of 31 URLs settled") for line in lines)
    assert f"to list what failed: crawler results {out} --outcome http_error" in lines
    assert f"  127.0.0.1:{site.ports['http']}  1" in lines
    assert "robots.txt is not obeyed" in ended.stderr
    assert "\x1b" not in ended.stderr


def test_the_list_may_come_from_standard_input(site, tmp_path):
    ended = crawler("run", "-i", "-", "-o", str(tmp_path), *LOCAL, input="\n".join(site.good(5)))
    assert ended.returncode == 0 and len(rows_of(tmp_path)) == 5


def test_the_summary_is_one_json_object_and_quiet_is_quiet(site, tmp_path):
    ended = command("run", *site.good(3), "-o", str(tmp_path), *LOCAL, "--json", "-q")
    assert (ended.returncode, ended.stderr) == (0, "")
    summary = orjson.loads(ended.stdout)
    assert summary["exit_code"] == 0 and summary["outcomes"] == {"ok": 3}
    assert summary["done"] == summary["known"] == 3 and summary["stopped_by"] is None


def test_the_same_command_again_fetches_nothing_twice(site, tmp_path):
    words = ("run", *site.good(3, first=1000), "-o", str(tmp_path), *LOCAL)
    assert command(*words).returncode == 0
    seen = len(site.requests)
    ended = command(*words)
    assert ended.returncode == 0 and "3 of 3 URLs settled" in ended.stderr
    assert len(site.requests) == seen and len(rows_of(tmp_path)) == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_drains_and_the_same_command_continues(site, tmp_path, number):
    urls = site.good(40)
    words = ("run", *urls, "-o", str(tmp_path), *LOCAL, "--delay", "100ms", "--progress", "plain")
    with crawling(*words) as process:
        wait_for_talk(process, "URLs")
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 5
    assert f"stopped before the end ({number.name}): the same command continues" in said
    assert command(*words, "--delay", "0").returncode == 0
    assert sorted(row["url"] for row in rows_of(tmp_path)) == sorted(urls)


def test_a_second_signal_ends_at_once_without_loss(site, tmp_path):
    has_ended = threading.Event()
    site.scripts["held"] = [once(has_ended.is_set), head(2) + b"ok", stay]
    urls = [sin(site, "held"), *site.good(5)]
    words = ("run", *urls, "-o", str(tmp_path), *LOCAL, "--per-host", "8", "--progress", "plain")
    with crawling(*words) as process:
        wait_for_request(process, site, "/sin/held")
        process.send_signal(signal.SIGINT)
        wait_for_talk(process, "draining")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 5
    has_ended.set()
    assert command(*words).returncode == 0
    assert sorted(row["url"] for row in rows_of(tmp_path)) == sorted(urls)


def test_a_drain_does_not_wait_for_a_page_that_never_comes(site, tmp_path):
    words = ("run", sin(site, "hang"), *site.good(3), "-o", str(tmp_path), *LOCAL, "--per-host", "8", "--grace", "2s")
    with crawling(*words, "--timeout", "10min", "--first-byte-timeout", "10min") as process:
        wait_for_request(process, site, "/sin/hang")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 5
    assert "waits for its visit" in command("why", sin(site, "hang"), "--data", str(tmp_path)).stdout


def test_killed_again_and_again_it_loses_nothing_and_stores_nothing_twice(site, tmp_path):
    urls = site.good(160, first=5000)
    (tmp_path / "list").write_text("\n".join(urls))
    out = tmp_path / "out"
    words = ("run", "-i", str(tmp_path / "list"), "-o", str(out), *LOCAL, "--per-host", "4", "--delay", "10ms")
    for kill in range(3):
        with crawling(*words) as process:
            wait_for_request(process, site, f"/good/{5000 + 50 * kill}")
            process.kill()
    assert command(*words).returncode == 0
    assert sorted(row["url"] for row in rows_of(out) if row["final"]) == sorted(urls)
    assert Counter(uri for kind, uri in records_of(out) if kind == "response") == Counter(urls)
    assert command("verify", str(out)).returncode == 0


def test_an_unexpected_exception_ends_the_crawl_with_a_traceback(site, tmp_path):
    program = (
        "import sys\nfrom crawler.cli.main import main\nfrom crawler.policy import judge\n"
        "def boom(*_): raise ZeroDivisionError('not expected')\n"
        "judge.Judge.page = boom\nsys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, "run", *site.good(3), "-o", str(tmp_path), *LOCAL]
    ended = subprocess.run(command, env=CLEAN, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1 and "ZeroDivisionError: not expected" in ended.stderr and "internal error" in ended.stderr
    assert rows_of(tmp_path) == []


def test_a_directory_has_one_crawler_at_a_time(site, tmp_path):
    with crawling("run", sin(site, "hang"), "-o", str(tmp_path), *LOCAL, "--progress", "plain") as process:
        wait_for_request(process, site, "/sin/hang")
        ended = command("run", *site.good(1), "-o", str(tmp_path), *LOCAL)
        assert ended.returncode == 75 and "in use" in ended.stderr


def test_all_faults_of_a_command_line_are_told_at_once():
    ended = command("run", "-w", "many", "--delay", "soon", "-i", "/not/there", "-i", "/")
    assert ended.returncode == 2 and ended.stdout == ""
    said = [line.removeprefix("crawler: ").partition(":")[0] for line in ended.stderr.splitlines()]
    assert sorted(said) == ["--delay 'soon'", "--workers 'many'", "-o/--output is missing", "list /", "list /not/there"]


def test_nothing_is_begun_where_a_list_or_the_cookies_are_missing(tmp_path):
    out = tmp_path / "out"
    assert command("run", "-i", str(tmp_path / "none"), "-o", str(out)).returncode == 2
    assert command("run", "http://127.0.0.1/", "--cookies", str(tmp_path / "none"), "-o", str(out)).returncode == 2
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-o", "{tmp}/new"], "nothing to crawl"),
        (["http://a.example/", "-o", "{tmp}/file"], "{tmp}/file"),
        (["-i", "{tmp}/none.txt", "-o", "{tmp}/new"], "none.txt"),
        (["http://a.example/", "-o", "{tmp}/new", "-c", "{tmp}/none.toml"], "none.toml"),
    ],
)
def test_what_cannot_be_done_is_said_plainly(tmp_path, arguments, said):
    (tmp_path / "file").write_text("")
    ended = command("run", *(argument.format(tmp=tmp_path) for argument in arguments))
    assert ended.returncode == 2, ended.stderr
    assert said.format(tmp=tmp_path) in ended.stderr and "Traceback" not in ended.stderr


def test_a_command_that_it_names_can_be_given_as_it_stands_however_the_directory_is_called(site, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = command("run", *site.good(1), "-o=-my crawl", *LOCAL)
    named = shlex.split(ended.stderr.splitlines()[-1].rpartition(": crawler ")[2])
    assert named == ["summary", "./-my crawl"] and command(*named).returncode == 0


def test_a_crawl_is_not_continued_as_another_one(site, tmp_path):
    assert command("run", *site.good(1), "-o", str(tmp_path), *LOCAL).returncode == 0
    ended = command("run", *site.good(1), "-o", str(tmp_path), *LOCAL, "--depth", "2", "--archive", "files")
    assert ended.returncode == 2
    assert "archive: this directory was begun with" in ended.stderr and "depth: this directory was begun with 0" in ended.stderr
    assert command("run", *site.good(1), "-o", str(tmp_path), *LOCAL, "--archive", "files", "--fresh").returncode == 0
    assert len(list(tmp_path.glob("previous-*/warc/*"))) == 1


def test_what_pages_say_to_robots_is_honoured_and_recorded(tmp_path):
    said = {
        "headed": "noindex, nofollow",
        "other": "otherbot: noindex, nofollow",
        "named": "otherbot: none, flatcrawler: noarchive",
    }
    pages = {f"/{name}": webs.page(f"/{name}/on", headers=(("X-Robots-Tag", value),)) for name, value in said.items()}
    pages["/meta"] = webs.Answer(body=b"<meta name=robots content='NoFollow, noindex'><a href=/meta/on>x</a>")
    pages["/"] = webs.page(*pages)
    with webs.Web({"127.0.0.1": pages}).running() as web:
        options = ("--allow-net", "127.0.0.0/8", "--delay", "0")
        assert command("run", web.url("127.0.0.1"), "-o", str(tmp_path), "--depth", "2", *options).returncode == 0
    robots = {row["canonical"].partition(f":{web.port}")[2]: row["robots"] for row in rows_of(tmp_path)}
    both = "nofollow,noindex"
    assert {path: word for path, word in robots.items() if word} == {"/headed": both, "/meta": both, "/named": "noarchive"}
    assert {path for path in robots if path.endswith("/on")} == {"/other/on", "/named/on"}


@pytest.mark.parametrize("general", [True, False])
def test_what_pages_say_to_robots_is_honoured_where_robots_txt_is(tmp_path, general):
    """Not everywhere or nowhere: a [[host]] table may say otherwise than the crawl."""
    config, out = tmp_path / "c.toml", tmp_path / "out"
    config.write_text(f'robots = {str(general).lower()}\n[[host]]\nmatch = "127.0.0.2"\nrobots = {str(not general).lower()}\n')
    pages = {"/": webs.Answer(body=b"<meta name=robots content=nofollow><a href=/on>x</a>"), "/on": webs.page()}
    with webs.Web({"127.0.0.1": pages, "127.0.0.2": pages}).running() as web:
        urls = [web.url("127.0.0.1"), web.url("127.0.0.2")]
        options = ("--depth", "1", "--allow-net", "127.0.0.0/8", "--delay", "0", "--config", str(config))
        assert command("run", *urls, "-o", str(out), *options).returncode == 0
    for url, obeys in zip(urls, (general, not general), strict=True):
        host = url.partition("//")[2].partition(":")[0]
        assert web.asked(host) == {"/": 1} | ({"/robots.txt": 1} if obeys else {"/on": 1})
        told = command("why", f"{url}not-there", "--via", url, "--data", str(out)).stdout
        assert ("left out by the rule nofollow" in told) is obeys


def test_a_crawl_can_be_set_aside_as_often_as_one_likes(tmp_path):
    for number in range(3):
        (tmp_path / "frontier").mkdir()
        (tmp_path / "crawl.toml").write_text(str(number))
        _set_aside(tmp_path)
    assert sorted(path.read_text() for path in tmp_path.glob("previous-*/crawl.toml")) == ["0", "1", "2"]


def test_what_a_person_keeps_in_the_directory_stays_there(site, tmp_path):
    mine = [tmp_path / "tmp" / "mine.txt", tmp_path / "tmp" / "sub" / "mine.txt", tmp_path / "files" / "mine.txt"]
    for path in mine:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    (tmp_path / "tmp" / "body-0123").write_text("of a process that was killed")
    assert command("run", *site.good(1), "-o", str(tmp_path), *LOCAL, "--archive", "files").returncode == 0
    assert [path.read_text() for path in mine] == ["mine"] * 3 and not (tmp_path / "tmp" / "body-0123").exists()


def test_nothing_fetched_and_too_many_failures_have_their_exit_codes(site, tmp_path):
    ended = command("run", "http://127.0.0.1:1/", "-o", str(tmp_path / "a"), *LOCAL, "--retries", "0", "-q")
    assert (ended.returncode, ended.stderr) == (4, "crawler: exit 4: nothing could be fetched\n")
    words = ("run", *site.good(3), sin(site, "gone"), "-o", str(tmp_path / "b"), *LOCAL)
    ended = command(*words, "--max-failed", "20")
    assert ended.returncode == 8 and "exit 8: more than 20 % of what was fetched failed (--max-failed)" in ended.stderr
    assert command(*words, "--max-failed", "30").returncode == 0


def test_a_host_given_up_stands_among_those_with_most_failures(site, tmp_path):
    dead = [f"http://127.0.0.9:1/{n}" for n in range(20)]
    options = ("--retries", "0", "--backoff-max", "10ms", "--json")
    ended = command("run", *site.good(1), sin(site, "gone"), *dead, "-o", str(tmp_path), *LOCAL, *options)
    assert orjson.loads(ended.stdout)["failing_hosts"] == {"127.0.0.9:1": 20, f"127.0.0.1:{site.ports['http']}": 1}
    assert Counter(row["reason"] for row in rows_of(tmp_path) if row["outcome"] == "connect_error").keys() == {
        "refused",
        "host_down",
    }


def test_a_list_without_a_url_is_told_as_such(tmp_path):
    (tmp_path / "list").write_text("www.example.org\nftp://example.org/\n# comment\n")
    ended = command("run", "-i", str(tmp_path / "list"), "-o", str(tmp_path / "out"), "--json")
    assert ended.returncode == 4 and orjson.loads(ended.stdout)["lines"] == {"invalid_url": 2}
    assert "  invalid_url  2" in ended.stderr.splitlines()
    assert f"to list what failed: crawler results {tmp_path / 'out'} --outcome invalid_url" in ended.stderr


def test_a_private_address_is_blocked_and_the_flag_that_opens_it_is_named(site, tmp_path):
    ended = command("run", *site.good(1), "-o", str(tmp_path), "--no-robots")
    assert ended.returncode == 4 and "--allow-net CIDR" in ended.stderr
    assert [row["outcome"] for row in rows_of(tmp_path)] == ["blocked"]


@pytest.mark.parametrize("limit", [("--max-pages", "5"), ("--max-bytes", "10kB"), ("--max-time", "1s")])
def test_a_limit_stops_early(site, tmp_path, limit):
    words = ("run", *site.good(60), "-o", str(tmp_path), *LOCAL, "--delay", "50ms", *limit)
    ended = command(*words, "--json")
    assert ended.returncode == 5 and "stopped before the end (max_" in ended.stderr
    rows, seconds = len(rows_of(tmp_path)), orjson.loads(ended.stdout)["seconds"]
    assert rows <= 40 and (seconds >= 1 if "--max-time" in limit else rows >= 3), "in a second of its own nobody knows how many"


@pytest.mark.parametrize(("limit", "processes"), [("--max-pages=5", "1"), ("--max-bytes=25", "1"), ("--max-bytes=25", "2")])
def test_a_limit_of_as_much_as_there_is_stops_nothing(tmp_path, limit, processes):
    """A crawl of which nothing was left was called one that was stopped early."""
    with webs.Web(default=lambda host, path: webs.text("12345")).running() as web:
        urls = [web.url(f"127.0.7.{n}", "/") for n in range(5)]
        run = command if processes == "1" else crawler  # no part is forked from a process that has opened a crawl
        ended = run("run", *urls, "-o", str(tmp_path), *LOCAL, limit, "--processes", processes, "--parsers", "0", "--json")
    assert ended.returncode == 0 and "stopped before the end" not in ended.stderr, ended.stderr
    told = orjson.loads(ended.stdout)
    assert (told["stopped_by"], told["done"], told["bytes"]) == (None, 5, 25)


def test_the_live_line_is_drawn_on_a_terminal_and_leaves_only_the_table(site, tmp_path):
    code, drawn = on_a_terminal("run", *site.good(5), sin(site, "lame"), "-o", str(tmp_path), *LOCAL)
    assert code == 0
    assert "in flight" in drawn and "\x1b[2K" in drawn  # the line, and its erasure
    assert drawn.rstrip().endswith(f"  ok  6\r\nto see what it has brought: crawler summary {tmp_path}")


def test_progress_can_be_plain_on_a_terminal_and_colour_is_not_used(site, tmp_path):
    _, drawn = on_a_terminal("run", *site.good(5), "-o", str(tmp_path), *LOCAL, "--progress", "plain", environ={"NO_COLOR": "1"})
    assert "in flight" in drawn and "\x1b" not in drawn


def test_verbose_tells_of_every_visit_and_json_lines_are_json(site, tmp_path):
    ended = command("run", *site.good(3), sin(site, "gone"), "-o", str(tmp_path / "a"), *LOCAL, "-v")
    visits = [line for line in ended.stderr.splitlines() if line.startswith("crawler: visit ")]
    assert len(visits) == 4 and any("outcome=http_error" in line and "status=404" in line for line in visits)
    options = ("-v", "--log-format", "json", "--progress", "none")
    ended = command("run", *site.good(3), "-o", str(tmp_path / "b"), *LOCAL, *options)
    told = [orjson.loads(line) for line in ended.stderr.splitlines() if line.startswith("{")]
    assert [line["event"] for line in told if line["level"] == "debug"] == ["visit"] * 3
    assert {line["outcome"] for line in told if line["level"] == "debug"} == {"ok"}


def test_two_crawls_beside_each_other_do_not_meet(site, tmp_path):
    codes: list[int] = []

    def one(name: str) -> None:
        codes.append(crawler("run", *site.good(20), "-o", str(tmp_path / name), *LOCAL).returncode)

    threads = [threading.Thread(target=one, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [0, 0] and all(len(rows_of(Path(tmp_path / name))) == 20 for name in "ab")


def test_the_way_out_of_blocked_leads_out(site, tmp_path):
    """Each hint that is followed is followed by the next one, until the page is there."""
    words = ("run", *site.good(2), "-o", str(tmp_path), "--no-robots", "--delay", "0")
    said = command(*words).stderr
    assert "to open a range: --allow-net CIDR" in said
    said = command(*words, "--allow-net", "127.0.0.0/8").stderr
    assert "to open a range" not in said and f"crawler retry {tmp_path} --outcome blocked" in said
    assert "2 URLs are due again" in command("retry", str(tmp_path), "--outcome", "blocked").stderr
    said = command(*words, "--allow-net", "127.0.0.0/8").stderr
    assert "\n  blocked" not in said and "blocked:" not in said and "--outcome" not in said
    assert [row["outcome"] for row in rows_of(tmp_path)] == ["blocked", "blocked", "ok", "ok"]


def test_blocked_is_among_what_is_retried_by_default(site, tmp_path):
    words = ("run", *site.good(3), "-o", str(tmp_path), "--no-robots", "--delay", "0")
    command(*words)
    assert "3 URLs are due again" in command("retry", str(tmp_path)).stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["example.org"], "crawler run https://example.org"),
        (["{}/urls.txt"], "is a file, not a URL: to read the URLs in it: crawler run -i {}/urls.txt"),
        (["https://example.org/", "{}/urls.txt"], "crawler run -i {}/urls.txt"),
        (["-i", "https://example.org/"], "this is a URL, not a file: name it without -i"),
        (["http://a.test/\thttp://b.test/"], "a line holds one URL"),
        (["https://example.org/", "--memory-limit", "1MiB"], "memory_limit"),
    ],
)
def test_what_cannot_be_meant_says_what_to_type_and_begins_no_directory(tmp_path, words, said):
    (tmp_path / "urls.txt").write_text("https://example.org/\n")
    ended = command("run", *(word.format(tmp_path) for word in words), "-o", str(tmp_path / "new" / "out"))
    assert ended.returncode == 2 and said.format(tmp_path) in ended.stderr, ended
    assert not (tmp_path / "new").exists()


def test_a_crawl_that_had_taken_what_is_no_url_goes_on_with_the_same_command(site, tmp_path):
    """As an earlier version did: it stands there as a line that is none."""
    from crawler.config.sections import Config
    from crawler.service.run import run_crawl

    urls = [*site.good(1), "no url"]
    settings = {"urls": urls, "output": str(tmp_path), "robots": False, "allow_net": ["127.0.0.0/8"]}
    asyncio.run(run_crawl(Config(**settings, memory_limit=8 << 30)))  # the tests' own process is large
    ended = command("run", *urls, "-o", str(tmp_path), *LOCAL)
    assert ended.returncode == 0, ended
    ended = command("run", *urls, "another", "-o", str(tmp_path), *LOCAL)
    assert ended.returncode == 2 and "another: not a URL" in ended.stderr


def test_robots_txt_and_sitemaps_do_not_count_for_max_pages(tmp_path):
    hosts = {f"127.0.0.{n}": {"/": webs.text("page"), "/robots.txt": webs.text("")} for n in range(2, 12)}
    with webs.Web(hosts).running() as web:
        urls = [web.url(host) for host in hosts]
        options = ("--allow-net", "127.0.0.0/8", "--delay", "0", "--sitemaps", "--max-pages", "6", "--workers", "1")
        ended = command("run", *urls, "-o", str(tmp_path), *options)
    assert ended.returncode == 5 and "stopped before the end (max_pages)" in ended.stderr
    assert "\n6 of " in ended.stderr and "visited besides, no pages: " in ended.stderr
    assert Counter(row["outcome"] for row in rows_of(tmp_path) if row["kind"] == "seed") == {"ok": 6}


def test_a_robots_txt_that_cannot_be_fetched_hides_no_sitemap_where_it_is_not_obeyed(tmp_path):
    """It names none; but its host's pages are visited all the same, and the usual place is known."""
    named = b'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9"><url><loc>%s</loc></url></urlset>'
    with webs.Web({"127.0.0.1": {"/": webs.text("page"), "/mapped": webs.text("mapped")}}).running() as web:
        sitemap = webs.Answer(body=named % web.url("127.0.0.1", "/mapped").encode(), mime="application/xml")
        web.hosts["127.0.0.1"] |= {"/robots.txt": webs.Answer(503), "/sitemap.xml": sitemap}
        options = ("--allow-net", "127.0.0.0/8", "--delay", "0", "--sitemaps", "--no-robots", "--retries", "0")
        assert command("run", web.url("127.0.0.1"), "-o", str(tmp_path), *options).returncode == 0
        mapped = web.url("127.0.0.1", "/mapped")
    assert [row["outcome"] for row in rows_of(tmp_path) if row["url"] == mapped] == ["ok"]


def test_hosts_that_stop_in_the_middle_of_a_long_head_hold_up_no_others(tmp_path):
    """There are many more of them than visits, and each is waited for far longer than this test lasts."""
    part = head(0, *(f"X-{n}: {'x' * 1000}" for n in range(100)))[:-2]
    with running(Site(host="0.0.0.0", scripts={"stops": [part, hang]})) as site:
        urls = [f"http://127.0.1.{n}:{site.ports['http']}/sin/stops" for n in range(1, 41)]
        urls += [f"http://127.0.2.{1 + n % 5}:{site.ports['http']}/good/{n}" for n in range(20)]
        patience = ("--first-byte-timeout", "600s", "--memory-limit", "200MiB", "--workers", "16", "--processes", "1")
        with crawling("run", *urls, "-o", str(tmp_path), *LOCAL, *patience) as process:
            results = tmp_path / "results" / "results-000000.jsonl"
            while not results.exists() or results.read_bytes().count(b'"outcome":"ok"') < 20:
                assert process.poll() is None, process.stderr.read()
                time.sleep(0.05)
    assert {row["outcome"] for row in rows_of(tmp_path)} == {"ok"}


def test_a_store_that_has_failed_and_cannot_be_closed_either_does_not_hide_how_the_crawl_ended(site, tmp_path, monkeypatch):
    close = RocksStore.close

    def fail(store, *batch):
        raise StorageError("nothing can be written", final=True)

    def close_in_vain(store):
        close(store)
        raise StorageError("it has failed before")

    monkeypatch.setattr(RocksStore, "commit", fail)
    monkeypatch.setattr(RocksStore, "close", close_in_vain)
    ended = command("run", *site.good(1), "-o", str(tmp_path / "out"), *LOCAL)
    assert (ended.returncode, "nothing can be written" in ended.stderr) == (3, True), ended.stderr
    assert "0 of 0 URLs settled" in ended.stderr and "it has failed before" not in ended.stderr
