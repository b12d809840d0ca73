"""What is no longer kept: by age and bytes, or because an operator moved it. Never before the store knows."""

import asyncio
import json
import logging
import os
import shutil

import pytest
from support.daemons import daemon, served
from support.programs import LOCAL, command, crawler
from support.sinful import Site, head, running, stay

from crawler import read
from crawler.core.errors import StorageError
from crawler.core.model import Mark
from crawler.crawl.reading import open_crawl_reader
from crawler.output import retention as retention_module
from crawler.output.file_names import GONE, UNNAMED, expired, noticed, number_of, retired_in
from crawler.output.retention import Retention


def warc(number):
    return f"warc/CRAWL-20261118110640000-{number:05d}-host.warc.gz"


def index(number):
    return f"index/CRAWL-20261118110640000-{number:05d}-host.cdxj"


def rows(number):
    return f"results/results-{number:06d}.jsonl"


def marks_of(pairs, results=0):
    """So many pairs of 100 + 10 bytes and results of 50, the last of each still open."""
    marks = {}
    for n in range(pairs):
        marks |= {warc(n): Mark(100, n < pairs - 1), index(n): Mark(10, n < pairs - 1)}
    return marks | {rows(n): Mark(50, n < results - 1) for n in range(results)}


def there_of(marks, *gone):
    """Number n was written at the time n."""
    return {file: float(number_of(file)) for file, mark in marks.items() if mark.closed and file not in gone}


# -- what is decided --------------------------------------------------------------------------------------------------


def test_nothing_expires_without_a_limit_and_what_is_open_never_does():
    marks = marks_of(3, 3)
    assert expired(marks, there_of(marks), 1e9, 0, 0) == []
    assert set(expired(marks, there_of(marks), 1e9, 1, 1)) == {file for file, mark in marks.items() if mark.closed}


def test_age_takes_the_older_ones_each_warc_with_its_index():
    marks = marks_of(5, 5)
    assert set(expired(marks, there_of(marks), 100, 98.5, 0)) == {warc(0), index(0), rows(0), warc(1), index(1), rows(1)}


def test_bytes_take_the_oldest_until_the_rest_fits():
    marks = marks_of(5)
    assert expired(marks, there_of(marks), 100, 0, 550) == []
    assert expired(marks, there_of(marks), 100, 0, 549) == [warc(0), index(0)]
    assert expired(marks, there_of(marks), 100, 0, 330) == [warc(0), index(0), warc(1), index(1)]


def test_files_of_other_parts_count_and_are_left_to_them():
    marks = marks_of(3)
    others = {
        "warc/CRAWL-20261118110640000-00000-p01~host.warc.gz": (0.5, 100),
        "results/p01-results-000000.jsonl": (UNNAMED, 50),
    }

    def chosen(bytes_max):
        return expired(marks, there_of(marks), 100, 0, bytes_max, others=others)

    assert chosen(330 + 150) == []
    assert chosen(330 + 149) == chosen(330 + 150 - 110 - 100) == [warc(0), index(0)]
    assert chosen(330 + 150 - 110 - 101) == [warc(0), index(0), warc(1), index(1)]


def test_a_crawl_that_is_divided_anew_keeps_as_many_bytes_as_before(tmp_path):
    """The files that were written while it was whole are one part's."""
    root, lines = tmp_path / "out", tmp_path / "list"
    with running(Site(scripts={})) as site:
        for url in site.good(4):
            with lines.open("a") as file:
                file.write(f"{url}\n")
            done = command("run", "-i", str(lines), "-o", str(root), "--processes", "1", *LOCAL)
            assert done.returncode == 0, done.stderr
    size = sum(path.stat().st_size for folder in ("warc", "index", "results") for path in (root / folder).iterdir())
    with served(root, "--processes", "2", "--retain-bytes", str(size)) as daemon:
        daemon.ask("PATCH", "/v1/settings", f'{{"retain_bytes": {size - 1}}}'.encode(), {"Content-Type": "application/json"})
        told = daemon.said(r"retired and deleted (\d+) files")
        assert told[1] == "2", "a pair is enough"
        assert len(list((root / "warc").iterdir())) == 3


def test_what_an_operator_has_moved_away_does_not_count():
    marks = marks_of(5)
    assert expired(marks, there_of(marks, warc(1), index(1)), 100, 0, 440) == []


def test_a_file_that_has_not_got_its_name_yet_is_left_alone():
    marks = marks_of(3)
    assert expired(marks, there_of(marks) | {warc(0): UNNAMED}, 100, 1, 1) == [warc(1), index(1)]


def test_what_has_gone_loses_its_mark_but_the_newest_of_each_kind():
    marks = marks_of(3, 1) | {rows(0): Mark(50, closed=True), warc(2): Mark(100, closed=True), index(2): Mark(10, closed=True)}
    assert noticed(marks, there_of(marks, warc(0), rows(0), warc(2))) == {
        warc(0): None,
        index(0): None,
        rows(0): GONE,
        warc(2): GONE,
        index(2): GONE,
    }


def test_an_index_lost_alone_is_remembered_until_its_warc_goes():
    marks = marks_of(3)
    assert noticed(marks, there_of(marks, index(0))) == {index(0): GONE}
    marks[index(0)] = GONE
    assert noticed(marks, there_of(marks, index(0))) == {}
    assert noticed(marks, there_of(marks, index(0), warc(0))) == {warc(0): None, index(0): None}


def test_half_a_pair_that_was_to_be_deleted_is_deleted_yet():
    marks = marks_of(3) | {warc(0): Mark(100, True, True), index(0): Mark(10, True, True)}
    assert noticed(marks, there_of(marks, warc(0))) == {warc(0): None}


def test_a_file_without_a_mark_was_retired_if_a_later_one_has_one():
    is_retired = retired_in({warc(3): Mark(5), rows(1): Mark(5, True, True)})
    assert is_retired(warc(2)) and is_retired(rows(0)) and is_retired(rows(1))
    assert not is_retired(warc(3)) and not is_retired(warc(4)) and not is_retired("files/ab/cd/x.html")


def test_of_a_file_with_a_mark_no_other_is_looked_at():
    """It is asked for each body that is read, and a store that files are sent to every ten minutes has thousands in a month."""

    class Marks(dict):
        def __iter__(self):
            raise AssertionError("all marks are looked at")

    is_retired = retired_in(Marks({warc(3): Mark(5), warc(2): Mark(5, True, True)}))
    assert is_retired(warc(2)) and not is_retired(warc(3))


# -- what is done -----------------------------------------------------------------------------------------------------


class Directory:
    """Files and marks, and a commit that may fail."""

    def __init__(self, root, marks, **limits):
        self.root, self.marks, self.broken = root, marks, None
        for name in ("warc", "index", "results"):
            (root / name).mkdir()
        for file, mark in marks.items():
            (root / file).write_bytes(b"x" * mark.length)
            os.utime(root / file, (number_of(file), number_of(file)))
        self.retention = Retention(
            root,
            **{"age_s": 0, "bytes_max": 0} | limits,
            marks=self.ask,
            retire=self.retire,
            wall=lambda: 100.0,
            marking=asyncio.Lock(),
        )

    async def ask(self):
        return self.marks

    async def retire(self, marks):
        if self.broken:
            raise self.broken
        for file, mark in marks.items():
            assert mark in (None, GONE) or (self.root / file).exists(), "what is deleted is marked before"
            if mark is None:
                del self.marks[file]
            else:
                self.marks[file] = mark

    def names(self):
        return sorted(str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file())


async def test_the_mark_comes_first_then_the_file_goes_then_the_mark(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    crawl = Directory(tmp_path, marks_of(3), bytes_max=220)
    await crawl.retention.look()
    assert crawl.names() == sorted([warc(1), index(1), warc(2), index(2)])
    assert crawl.marks[warc(0)] == Mark(100, True, True)
    assert caplog.messages == [f"retired and deleted 2 files, 0 MiB, from {warc(0)} on"]
    await crawl.retention.look()
    assert crawl.marks.keys() == {warc(1), index(1), warc(2), index(2)}
    await crawl.retention.look()
    assert len(caplog.messages) == 1


async def test_a_failed_commit_deletes_nothing(tmp_path):
    crawl = Directory(tmp_path, marks_of(3), age_s=1)
    before, crawl.broken = crawl.names(), StorageError("no")
    with pytest.raises(StorageError):
        await crawl.retention.look()
    assert crawl.names() == before


async def test_no_thread_left_to_look_in_is_no_end(tmp_path, monkeypatch):
    monkeypatch.setattr(retention_module, "LOOK_EVERY_S", 0.01)
    crawl = Directory(tmp_path, marks_of(3), bytes_max=220)
    crawl.broken = RuntimeError("can't start new thread")
    running = asyncio.create_task(crawl.retention.run())
    await asyncio.sleep(0.05)
    crawl.broken = None
    async with asyncio.timeout(30):
        while len(crawl.names()) > 4:
            await asyncio.sleep(0.01)
    running.cancel()


async def test_what_a_kill_left_retired_is_deleted(tmp_path):
    marks = marks_of(3) | {warc(0): Mark(100, True, True), index(0): Mark(10, True, True)}
    crawl = Directory(tmp_path, marks)
    await crawl.retention.look()
    assert not (tmp_path / warc(0)).exists() and not (tmp_path / index(0)).exists()


async def test_what_an_operator_moved_is_told_once_and_is_his_when_it_comes_back(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    crawl = Directory(tmp_path, marks_of(3, 2))
    for file in (warc(0), rows(0)):
        (tmp_path / file).rename(tmp_path / "away")
        await crawl.retention.look()
        await crawl.retention.look()
        (tmp_path / "away").rename(tmp_path / file)
    await crawl.retention.look()
    assert caplog.messages == [
        f"{index(0)}: moved or deleted while the crawl runs: retired",
        f"{warc(0)}: moved or deleted while the crawl runs: retired",
        f"{rows(0)}: moved or deleted while the crawl runs: retired",
    ]
    assert (tmp_path / warc(0)).exists() and (tmp_path / index(0)).exists() and (tmp_path / rows(0)).exists()


async def test_a_folder_that_is_another_one_tells_nothing_of_its_files(tmp_path):
    crawl = Directory(tmp_path, marks_of(3))
    (tmp_path / "warc").rename(tmp_path / "unmounted")
    (tmp_path / "warc").mkdir()
    before = dict(crawl.marks)
    with pytest.raises(StorageError, match="is a disk missing"):
        await crawl.retention.look()
    assert crawl.marks == before


async def test_a_folder_that_cannot_be_looked_at_is_looked_at_again(tmp_path):
    crawl = Directory(tmp_path, marks_of(3))
    before = dict(crawl.marks)
    (tmp_path / "warc").rename(tmp_path / "aside")
    (tmp_path / "warc").symlink_to("warc")
    with pytest.raises(StorageError, match="warc: "):
        await crawl.retention.look()
    (tmp_path / "warc").unlink()
    (tmp_path / "aside").rename(tmp_path / "warc")
    await crawl.retention.look()
    assert crawl.marks == before


# -- in a crawl -------------------------------------------------------------------------------------------------------

SMALL = ("--roll-size", "1", "--min-free-disk", "0")
"""Every commit fills the files."""


@pytest.fixture(scope="module")
def site():
    with running(Site()) as site:
        yield site


def good(site, *numbers):
    return [f"http://127.0.0.1:{site.ports['http']}/good/{n}" for n in numbers]


async def crawled(root, site, *numbers):
    """One commit, and so one file of each kind, for each page."""
    async with daemon(root, roll_size=1) as running:
        for n in numbers:
            await running.ask("POST", "/v1/seeds", data=good(site, n)[0])
            await running.until(waiting=0, in_flight=0)


async def test_a_file_that_was_moved_while_nothing_ran_ends_the_crawl_until_somebody_says_so(tmp_path, site):
    root = tmp_path / "out"
    await crawled(root, site, 1, 2)
    first = min((root / "warc").iterdir())
    file = f"warc/{first.name}"
    first.rename(tmp_path / "away.warc.gz")
    done = crawler("run", "-o", str(root), *LOCAL, *SMALL)
    assert done.returncode == 3
    assert file in done.stderr and "crawler retire DIR FILE" in done.stderr and "Traceback" not in done.stderr

    for wrong, said in (
        ([], "which files"),
        (["warc/none"], "no such file"),
        ([f"warc/{max(os.listdir(root / 'warc'))}"], "there"),
    ):
        done = command("retire", str(root), *wrong)
        assert (done.returncode, said in done.stderr) == (2, True), done.stderr
    done = command("retire", str(root), file)
    assert done.returncode == 0 and f"{file} is retired" in done.stderr
    assert "nothing is retired" in command("retire", str(root), "--missing").stderr
    await crawled(root, site, 3)

    (url,) = good(site, 1)
    done = command("cat", str(root), url)
    assert (done.returncode, "is no longer kept" in done.stderr, "Traceback" in done.stderr) == (4, True, False)
    assert "no longer kept" in command("why", url, "--data", str(root)).stdout
    done = command("export", str(root))
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 2 and "1 body is no longer kept" in done.stderr
    assert command("verify", str(root)).returncode == 0
    gone, *kept = list(read(root))
    with pytest.raises(LookupError, match="no longer kept"):
        gone.open()
    for result in kept:
        result.open().close()


@pytest.mark.parametrize("words", [["retire", "--missing"], ["retry"], ["recrawl"]])
async def test_without_the_file_that_it_goes_on_with_a_crawl_is_not_changed_either(tmp_path, site, words):
    done = crawler("run", *good(site, 1), "-o", str(tmp_path), *LOCAL)
    assert done.returncode == 0, done.stderr
    file = tmp_path / "results" / "results-000000.jsonl"
    file.rename(tmp_path / "away")
    done = command(words[0], str(tmp_path), *words[1:])
    assert done.returncode == 3 and f"{file}: " in done.stderr and "it is missing; put it back" in done.stderr
    (tmp_path / "away").rename(file)
    assert command(words[0], str(tmp_path), *words[1:]).returncode == 0


async def test_rows_that_were_retired_are_passed_over(tmp_path, site):
    root = tmp_path / "out"
    await crawled(root, site, 1, 2, 3)
    (root / "results" / "results-000000.jsonl").unlink()
    (root / "results" / "results-000002.jsonl").unlink()
    done = command("retire", str(root), "--missing")
    assert done.returncode == 0, done.stderr
    await crawled(root, site, 4)
    urls = [json.loads(line)["url"] for line in command("results", str(root)).stdout.splitlines()]
    assert urls == good(site, 2, 4)
    assert (root / "results" / "results-000003.jsonl").exists(), "no number is given twice"
    assert command("verify", str(root)).returncode == 0
    assert command("results", str(root), "--final").returncode == 0


async def test_a_running_crawl_notices_and_deletes_and_answers_for_it(tmp_path, site):
    root = tmp_path / "d"
    await crawled(root, site, 1, 2)
    first, second = sorted((root / "warc").iterdir())
    with served(root, *SMALL[:2]) as daemon:
        shutil.move(first, tmp_path)
        daemon.ask("PATCH", "/v1/settings", b'{"retain_age": "365d"}', {"Content-Type": "application/json"})
        assert daemon.said(rf"warc/{first.name}: moved or deleted while the crawl runs: retired")
        daemon.ask("PATCH", "/v1/settings", b'{"retain_age": "1ms"}', {"Content-Type": "application/json"})
        assert daemon.said(r"retired and deleted \d files")
        assert not second.exists() and not list((root / "index").glob(f"{second.name.removesuffix('.warc.gz')}*"))
        daemon.ask("POST", "/v1/seeds", good(site, 3)[0].encode())
        daemon.process.kill()
    with served(root, *SMALL[:2]) as daemon:
        assert daemon.ask("GET", "/v1/status")["known"] == 3
        assert "retain_age = 0.001" not in (root / "crawl.toml").read_text(), "settings of a start are those of its flags"


async def test_the_api_tells_of_what_was_retired(tmp_path, site):
    root = tmp_path / "d"
    await crawled(root, site, 1, 2)
    async with daemon(root, roll_size=1) as running:
        crawl = running.crawl
        crawl.retention.change(age_s=1e-9, bytes_max=0)
        await crawl.retention.look()
        await crawl.retention.look()
        (url,) = good(site, 1)
        status, told = await running.ask("GET", "/v1/body", params={"url": url})
        assert (status, "retired" in told["detail"]) == (410, True)
        _, told = await running.ask("GET", "/v1/urls", params={"url": url})
        assert (told["record"]["retired"], told["row"]) == (["archive", "row"], None)
        for cursor in ("0-0", "0-5", "1-1"):
            async with running.session.get("/v1/results", params={"cursor": cursor}) as answer:
                assert (answer.status, await answer.text()) == (200, "")
                behind = answer.headers["Next-Cursor"]
        status, _ = await running.ask("GET", "/v1/results", params={"cursor": "7-0"})
        assert status == 400
        await running.session.post("/v1/seeds", data=good(site, 9)[0].encode())
        await running.until(done=3)
        async with running.session.get("/v1/results", params={"cursor": behind}) as answer:
            assert json.loads(await answer.text())["url"] == good(site, 9)[0]


ETAG = [head(4, 'ETag: "1"') + b"page", stay]


async def test_nothing_is_asked_by_condition_whose_body_was_retired(tmp_path):
    with running(Site(scripts={"etag": ETAG})) as site:
        for is_retired in (False, True):
            async with daemon(tmp_path, roll_size=1) as d:
                await d.ask("POST", "/v1/seeds", data=f"http://127.0.0.1:{site.ports['http']}/sin/etag".encode())
                await d.until(waiting=0, in_flight=0, done=1)
            assert (b"If-None-Match" in site.requests[-1]) is False, "the first, and after it was retired"
            if not is_retired:
                assert command("retry", str(tmp_path), "--outcome", "ok").returncode == 0
                async with daemon(tmp_path, roll_size=1) as d:
                    await d.until(waiting=0, in_flight=0, done=1)
                assert b"If-None-Match" in site.requests[-1]
                for path in (tmp_path / "warc").iterdir():
                    path.unlink()
                assert command("retire", str(tmp_path), "--missing").returncode == 0
                assert command("retry", str(tmp_path), "--outcome", "ok").returncode == 0


def test_retention_of_bodies_that_stand_for_many_pages_is_refused(tmp_path):
    done = command("run", "http://a.test/", "-o", str(tmp_path), "--archive", "files", "--retain-age", "30d")
    assert (done.returncode, "--retain-age" in done.stderr) == (2, True)


async def test_marks_are_dropped_from_the_store_for_good(tmp_path, site):
    root = tmp_path / "out"
    await crawled(root, site, *range(4))
    for name in ("warc", "index"):
        for path in sorted((root / name).iterdir())[:-1]:
            path.unlink()
    assert command("retire", str(root), "--missing").returncode == 0
    with open_crawl_reader(root) as reader:
        assert sorted(file.partition("/")[0] for file in reader.marks if not file.startswith("results")) == ["index", "warc"]
