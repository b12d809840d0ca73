"""Copies of full files elsewhere: each whole, each once, and no trouble there is a page's or ends a crawl."""

import asyncio
import contextlib
import errno
import logging
import os
import stat
import threading
from unittest import mock

import pytest
from support.full_disk import file_size_limit
from support.object_store import BUCKET, object_store
from support.programs import LOCAL, command
from support.webs import Web, page

from crawler.cli.arguments import CommandParser
from crawler.cli.options import add_settings, flags
from crawler.config.load import load
from crawler.core.errors import ConfigError, StorageError
from crawler.core.model import Mark
from crawler.crawl.checkpoints import take_still
from crawler.crawl.reading import open_crawl_reader
from crawler.output.bucket import PART_BYTES, BucketError, Folder, S3Bucket, open_bucket
from crawler.output.file_names import expired
from crawler.output.uploads import AGAIN_MAX_S, Uploads, folder_of, stored_place, verify_stored

FULL = Mark(10, closed=True)
FILES = ("warc/CRAWL-20261118110640000-00000-host.warc.gz", "index/CRAWL-20261118110640000-00000-host.cdxj")
ROWS = "results/results-000000.jsonl"


class Directory:
    """Full files and their marks, and a bucket that may be in trouble."""

    def __init__(self, root, marks):
        self.root, self.there, self.marks, self.trouble = root / "out", root / "there", dict(marks), None
        for file, mark in self.marks.items():
            (self.root / file).parent.mkdir(parents=True, exist_ok=True)
            (self.root / file).write_bytes(file[-1:].encode() * mark.length)
        self.commits, self.rolled = [], 1
        self.bucket = Folder(self.there)
        self.uploads = Uploads(
            self.root,
            self,
            "id",
            place="here",
            marks=self.ask,
            mark=self.commit,
            marking=asyncio.Lock(),
            rolled=lambda: self.rolled,
            jitter=lambda: 0.0,
        )

    async def ask(self):
        return dict(self.marks)

    async def commit(self, marks):
        for file in marks:
            assert (self.there / self.uploads._folder / file).read_bytes() == (self.root / file).read_bytes(), (
                "it is there before it is marked"
            )
        self.commits += marks
        self.marks |= marks

    async def put(self, name, path, length):
        if self.trouble is not None:
            raise self.trouble
        await self.bucket.put(name, path, length)

    def names(self):
        return sorted(
            str(path.relative_to(self.there / self.uploads._folder)) for path in self.there.rglob("*") if path.is_file()
        )


@pytest.fixture
def crawl(tmp_path):
    return Directory(tmp_path, {**dict.fromkeys((*FILES, ROWS), FULL), "results/results-000001.jsonl": Mark(5)})


async def test_what_is_full_is_stored_and_marked_once(crawl):
    await crawl.uploads.look()
    assert crawl.names() == sorted((*FILES, ROWS)) and sorted(crawl.commits) == crawl.names()
    assert all(crawl.marks[file] == Mark(10, closed=True, stored=True, place="here") for file in crawl.names())
    await crawl.uploads.look()
    assert (len(crawl.commits), crawl.uploads.stored_files, crawl.uploads.stored_bytes) == (3, 3, 30)
    assert crawl.uploads.waiting.files == 0


async def test_a_copy_that_no_commit_knows_is_marked_and_not_made_again(crawl):
    """A kill between the two; what a kill left of an unfinished copy is no copy."""
    await crawl.uploads.look()
    before = {name: (crawl.there / "id" / name).stat().st_ino for name in crawl.names()}
    crawl.marks = dict.fromkeys(crawl.marks, FULL) | {"results/results-000001.jsonl": Mark(5)}
    (crawl.there / "id" / ROWS).rename(crawl.there / "id" / f"{ROWS}.part")
    (crawl.there / "id" / f"{ROWS}.part").write_bytes(b"ha")
    await crawl.uploads.look()
    after = {name: (crawl.there / "id" / name).stat().st_ino for name in crawl.names()}
    assert after.pop(ROWS) and {name: before[name] for name in after} == after and len(before) == len(after) + 1


async def test_a_copy_that_a_kill_left_is_durable_before_it_is_marked(crawl, monkeypatch):
    """Its name may have been given just before."""
    left = crawl.there / "id" / ROWS
    left.parent.mkdir(parents=True)
    left.write_bytes((crawl.root / ROWS).read_bytes())
    synced = []
    monkeypatch.setattr("crawler.output.bucket.sync_dir", synced.append)
    await crawl.uploads.look()
    assert ROWS in crawl.commits and synced == [left.parent]


@pytest.mark.parametrize("other", [b"something", b"something!"])
async def test_another_file_by_that_name_is_left_alone_and_holds_up_no_other(crawl, other):
    target = crawl.there / "id" / FILES[0]
    target.parent.mkdir(parents=True)
    target.write_bytes(other)
    with pytest.raises(BucketError, match="left alone"):
        await crawl.uploads.look()
    assert target.read_bytes() == other and sorted(crawl.commits) == sorted((FILES[1], ROWS))
    assert crawl.uploads.waiting.files == 1


async def test_a_file_that_is_damaged_here_holds_up_no_other(crawl):
    os.truncate(crawl.root / FILES[0], 9)
    os.utime(crawl.root / FILES[0], (0, 0))  # its turn comes first
    with pytest.raises(BucketError, match="1 bytes of it are missing"):
        await crawl.uploads.look()
    assert sorted(crawl.commits) == sorted((FILES[1], ROWS))
    assert crawl.uploads.waiting.files == 1


async def test_copies_of_what_is_damaged_here_are_passed_over(tmp_path):
    crawl = Directory(tmp_path, dict.fromkeys((*FILES, ROWS), FULL))
    url = crawl.there.as_uri()
    crawl.uploads._folder, crawl.uploads._place = folder_of(crawl.root), stored_place(url, crawl.root)
    await crawl.uploads.look()
    os.truncate(crawl.root / FILES[1], 9)
    (crawl.there / crawl.uploads._folder / ROWS).write_bytes(bytes(10))
    faults = []
    assert await verify_stored(crawl.root, url, crawl.marks, faults.append) == (2, 1), faults
    assert "is another file" in faults[0]


async def test_trouble_is_told_once_and_passes(crawl, caplog):
    caplog.set_level(logging.INFO)
    crawl.trouble = BucketError("it is down")
    async with asyncio.timeout(30):
        running = asyncio.create_task(crawl.uploads.run())
        finished = asyncio.create_task(crawl.uploads.finish())
        while crawl.uploads.failures < 2:
            await asyncio.sleep(0.01)
        assert not finished.done() and (crawl.uploads.waiting.files, crawl.uploads.waiting.bytes) == (3, 30)
        assert crawl.uploads.waiting.since == min((crawl.root / file).stat().st_mtime for file in (*FILES, ROWS))
        assert (crawl.uploads.trouble, crawl.commits) == ("it is down", [])
        crawl.trouble = None
        await finished
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
    assert crawl.names() == sorted((*FILES, ROWS)) and crawl.uploads.trouble is None
    assert caplog.messages == ["3 files wait to be stored: it is down; trying again", "files are stored again"]


async def test_no_thread_left_to_copy_in_is_no_end(crawl):
    crawl.trouble = RuntimeError("can't start new thread")
    async with asyncio.timeout(30):
        running = asyncio.create_task(crawl.uploads.run())
        while not crawl.uploads.failures:
            await asyncio.sleep(0.01)
        assert "ulimit -u" in crawl.uploads.trouble
        crawl.trouble = None
        await crawl.uploads.finish()
        running.cancel()
    assert crawl.names() == sorted((*FILES, ROWS))


async def test_marks_that_cannot_be_read_are_no_end(crawl):
    """The crawl's own store is in trouble: that nothing is known to wait does not mean that nothing waits."""
    ask, asked = crawl.ask, 0

    async def failing():
        nonlocal asked
        asked += 1
        if asked < 3:
            raise StorageError("no")
        return await ask()

    crawl.uploads._marks = failing
    async with asyncio.timeout(30):
        running = asyncio.create_task(crawl.uploads.run())
        await crawl.uploads.finish()
        running.cancel()
    assert crawl.names() == sorted((*FILES, ROWS))


async def test_a_copy_into_a_directory_is_not_broken_off(crawl, monkeypatch):
    """It is not what takes the memory. Its thread would give the name to the next one's copy, which is not whole."""
    syncing, may_go_on, fsync = threading.Event(), threading.Event(), os.fsync

    def slow(descriptor):
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            syncing.set()
            may_go_on.wait(30)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    crawl.uploads._bucket = crawl.bucket
    async with asyncio.timeout(30):
        running = asyncio.create_task(crawl.uploads.run())
        await asyncio.to_thread(syncing.wait)
        crawl.uploads.break_off()
        await asyncio.sleep(0.01)
        may_go_on.set()
        await crawl.uploads.finish()
        running.cancel()
    assert crawl.uploads.failures == 0 and crawl.names() == sorted((*FILES, ROWS))


def test_pauses_grow_up_to_a_minute(crawl):
    pauses = []
    for crawl.uploads._failed_in_a_row in (1, 2, 3, 50):
        pauses.append(crawl.uploads._pause_s())
    assert pauses == [0.5, 1.0, 2.0, AGAIN_MAX_S / 2]


async def test_what_goes_meanwhile_is_neither_stored_nor_marked_again(crawl):
    (crawl.root / FILES[0]).unlink()

    async def retired():
        return crawl.marks | {ROWS: Mark(10, closed=True, retired=True)}

    crawl.uploads._bucket = Retiring(crawl, retired)
    await crawl.uploads.look()
    assert crawl.commits == [FILES[1]] and crawl.uploads.waiting.files == 0


class Retiring:
    """The rows are retired while they are on their way."""

    def __init__(self, crawl, retired):
        self._crawl, self._retired = crawl, retired

    async def put(self, name, path, length):
        if name.endswith(ROWS):
            self._crawl.uploads._marks = self._retired
        await self._crawl.bucket.put(name, path, length)


async def test_the_index_that_is_not_sorted_yet_waits(crawl):
    (crawl.root / FILES[1]).rename(crawl.root / f"{FILES[1]}.open")
    await crawl.uploads.look()
    assert FILES[1] not in crawl.names()


def test_only_what_is_stored_expires():
    marks = {FILES[0]: Mark(10, True, stored=True), FILES[1]: FULL, ROWS: Mark(10, True, stored=True, place="here")}
    there = dict.fromkeys(marks, 0.0)
    assert expired(marks, there, 100, 1, 0, stored_at="here") == [ROWS]
    assert expired(marks, there, 100, 1, 0, stored_at="elsewhere") == []
    assert set(expired(marks, there, 100, 1, 0)) == set(marks)


@pytest.mark.parametrize("has_links", [True, False])
def test_the_folder_stays_and_no_two_directories_share_one(tmp_path, monkeypatch, has_links):
    """File systems such as exFAT know no hard links."""
    if not has_links:
        refused = mock.Mock(side_effect=OSError(errno.EPERM, os.strerror(errno.EPERM)))
        monkeypatch.setattr(os, "link", refused)
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    assert folder_of(tmp_path / "a") == folder_of(tmp_path / "a") != folder_of(tmp_path / "b")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["store.id"]


# -- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"store": "s3://bucket/a", "archive": "files"}, "archive = warc"),
        ({"store_url": "file:///x", "store": "memory"}, "store = embedded"),
        ({"store": "s3://bucket/a", "roll_size": "1TiB"}, "at most 40GiB"),
        ({"store": "s3://AKIA:topsecret@bucket/a"}, "environment"),
        ({"store": "http://bucket/a"}, "s3://BUCKET/PREFIX or file:///DIR"),
        ({"store": "file://host/a"}, "file:///DIR"),
        ({"store": "s3://UPPER/a"}, "s3://BUCKET/PREFIX; a bucket's name has 3 to 63 small letters"),
    ],
)
def test_what_cannot_be_is_refused_and_repeats_no_secret(settings, said):
    with pytest.raises(ConfigError) as caught:
        load(settings, environ={})
    assert said in str(caught.value) and "topsecret" not in str(caught.value)


def test_store_is_short_for_store_url_wherever_it_stands(tmp_path):
    (tmp_path / "c.toml").write_text('store = "s3://bucket/from-file/"')
    for given in ({"flags": {"store": "s3://bucket/x"}}, {"environ": {"CRAWLER_STORE": "s3://bucket/x"}}):
        config = load(**{"environ": {}, "file": str(tmp_path / "c.toml")} | given).config
        assert (config.store, config.store_url) == ("embedded", "s3://bucket/x")
    assert load(environ={}, file=str(tmp_path / "c.toml")).config.store_url == "s3://bucket/from-file"
    assert load({"store": "s3://bucket/x", "store_url": "s3://bucket/x"}, environ={}).config.store_url == "s3://bucket/x", "twice"


def test_neither_store_takes_the_place_of_the_other():
    """Of ``--store`` given twice the last counted alone: nothing was stored elsewhere, and nobody told so."""
    parser = CommandParser("run", "run", "")
    add_settings(parser)
    for words in (["--store", "s3://bucket/x", "--store", "embedded"], ["--store=embedded", "--store=s3://bucket/x"]):
        config = load(flags(parser.parse(words)), environ={}).config
        assert (config.store, config.store_url) == ("embedded", "s3://bucket/x")
    with pytest.raises(ConfigError, match="store = memory forgets"):
        load(flags(parser.parse(["--store=s3://bucket/x", "--store=memory"])), environ={})
    with pytest.raises(ConfigError, match="--store and --store-url: give one of them, not both"):
        load(flags(parser.parse(["--store=s3://bucket/x", "--store-url=s3://bucket/y"])), environ={})


def test_a_directory_without_its_scheme_is_told_how_to_be_written():
    with pytest.raises(ConfigError, match="--store: must be s3://BUCKET/PREFIX or file:///DIR"):
        load({"store": "/var/lib/crawls"}, environ={})


# -- S3 ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def s3():
    with object_store() as store:
        yield store


@pytest.fixture
def environ(s3, monkeypatch):
    for name, value in s3.environ.items():
        monkeypatch.setenv(name, value)


async def test_s3_has_each_file_whole_in_parts_of_a_bounded_size(s3, environ, tmp_path):
    bucket = open_bucket(f"s3://{BUCKET}/parts")
    large = os.urandom(2 * PART_BYTES + 1)
    for name, data in (("large", large), ("small", b"x"), ("none", b"")):
        (tmp_path / name).write_bytes(data + b"behind its mark")
        (tmp_path / name).write_bytes(data)
        for _ in range(2):
            await bucket.put(f"id/{name}", tmp_path / name, len(data))
    assert s3.objects("parts") == {"large": large, "small": b"x", "none": b""}
    (tmp_path / "small").write_bytes(b"y")
    with pytest.raises(BucketError, match="left alone") as caught:
        await bucket.put("id/small", tmp_path / "small", 1)
    assert caught.value.is_other and s3.objects("parts")["small"] == b"x"
    with pytest.raises(FileNotFoundError):
        await bucket.put("id/gone", tmp_path / "gone", 1)


async def test_s3_trouble_is_told_in_words_without_secrets(s3, environ, tmp_path, monkeypatch):
    (tmp_path / "f").write_bytes(b"f")
    with pytest.raises(BucketError, match="no such bucket"):
        await S3Bucket("no-such-bucket", "").put("f", tmp_path / "f", 1)
    s3.strict(0)
    try:
        with pytest.raises(BucketError, match="refused: check") as caught:
            await S3Bucket(BUCKET, "").put("f", tmp_path / "f", 1)
    finally:
        s3.strict(1_000_000)
    assert not any(secret in str(caught.value) for secret in ("AKIAEXAMPLE", "not-to-be-told", "\n"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(BucketError, match="cannot be reached"):
        await S3Bucket(BUCKET, "").put("f", tmp_path / "f", 1)


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("301 Moved Permanently", "in another region: check AWS_REGION"),
        ("503 Service Unavailable", "it fails (503 Service Unavailable)"),
        ("403 Forbidden", "this machine's clock (403 Forbidden)"),
    ],
)
async def test_a_refusal_without_a_body_is_told_as_what_it_means(tmp_path, monkeypatch, environ, status, said):
    """As S3 answers HEAD: in which region a bucket is, and that a clock is wrong, it says in bodies only."""

    async def refuse(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        writer.close()

    (tmp_path / "f").write_bytes(b"f")
    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        with pytest.raises(BucketError) as caught:
            await S3Bucket(BUCKET, "").put("f", tmp_path / "f", 1)
    assert said in str(caught.value)


async def test_variables_that_are_set_to_nothing_are_not_set(tmp_path, monkeypatch, environ):
    """As deploy/compose/cluster.yml passes on those that nobody has set: the role of the machine is asked for credentials."""
    asked = []

    async def listen(reader, writer):
        asked.append((await reader.readuntil(b"\r\n\r\n")).split()[1].decode())
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    (tmp_path / "f").write_bytes(b"f")
    async with await asyncio.start_server(listen, "127.0.0.1", 0) as server:
        address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", address)
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        monkeypatch.delenv("AWS_EC2_METADATA_DISABLED", raising=False)
        for name in ("AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION"):
            monkeypatch.setenv(name, "")
        with pytest.raises(BucketError):
            await S3Bucket(BUCKET, "").put("f", tmp_path / "f", 1)
    assert asked and set(asked) == {"/latest/api/token"}


# -- whole crawls -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def web():
    web = Web()
    web.default = lambda host, path: page()
    with web.running():
        yield web


def crawled(web, root, url, *more, environ=None, pages=range(12)):
    urls = [web.url(f"127.0.7.{n % 3 + 1}", f"/{n}") for n in pages]
    settings = ("--store", url, "--min-free-disk", "0", "--roll-size", "2kB")
    return command("run", *urls, "-o", str(root), *LOCAL, *settings, *more, environ=environ)


def written(root):
    """All files that are marked, and whether each is stored."""
    with open_crawl_reader(root) as reader:
        return {file: mark.stored for file, mark in reader.marks.items()}


def test_after_a_run_all_of_it_is_in_the_bucket(s3, web, tmp_path):
    done = crawled(web, tmp_path / "out", f"s3://{BUCKET}/whole", environ=s3.environ)
    assert done.returncode == 0, done.stderr
    assert all(written(tmp_path / "out").values())
    assert s3.objects("whole") == {file: (tmp_path / "out" / file).read_bytes() for file in written(tmp_path / "out")}
    assert not any("not-to-be-told" in path.read_text(errors="replace") for path in (tmp_path / "out").rglob("*.toml"))
    sound = command("verify", str(tmp_path / "out"), "--stored", environ=s3.environ)
    assert (sound.returncode, sound.stdout) == (0, "") and f"{len(written(tmp_path / 'out'))} copies: no faults" in sound.stderr


def test_a_copy_that_is_gone_or_another_is_found(web, tmp_path):
    root, there = tmp_path / "out", tmp_path / "there"
    assert crawled(web, root, f"file://{there}").returncode == 0
    gone, other = sorted(written(root))[:2]
    folder = there / (root / "store.id").read_text().strip()
    (folder / gone).unlink()
    data = bytearray((folder / other).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / other).write_bytes(data)
    found = command("verify", str(root), "--stored")
    told = found.stdout.splitlines()
    assert found.returncode == 3 and len(told) == 2, "the directory itself is sound"
    assert told[0].startswith(f"{gone}: no copy") and told[1].startswith(f"{other}: the copy")
    assert command("verify", str(root)).returncode == 0


def test_a_store_that_is_down_costs_no_page_and_no_file_and_the_next_start_stores_all(web, tmp_path):
    root, there = tmp_path / "out", tmp_path / "there"
    there.write_text("not a directory")
    done = crawled(web, root, f"file://{there}", "--store-wait", "100ms", "--retain-bytes", "1", "--json")
    assert done.returncode == 3 and "are not stored" in done.stderr and '"ok": 12' in done.stdout, done.stderr
    assert not any(written(root).values())
    assert all((root / file).exists() for file in written(root)), "nothing is deleted that is stored nowhere else"
    there.unlink()
    done = crawled(web, root, f"file://{there}")
    assert done.returncode == 0 and all(written(root).values()), done.stderr
    (folder,) = there.iterdir()
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == set(written(root))
    assert command("verify", str(root)).returncode == 0


def test_a_disk_that_is_not_mounted_any_more_is_not_taken_for_an_empty_one(web, tmp_path):
    """What would be stored on the disk below it would be deleted here, and out of sight once the other is mounted again."""
    root, there, other = tmp_path / "out", tmp_path / "there", tmp_path / "other"
    assert crawled(web, root, f"file://{there}").returncode == 0
    there.rename(tmp_path / "away")
    there.mkdir()
    assert command("recrawl", str(root)).returncode == 0
    done = crawled(web, root, f"file://{there}", "--store-wait", "100ms", "--retain-bytes", "1")
    assert done.returncode == 3 and "is a disk missing?" in done.stderr and not any(there.iterdir()), done.stderr
    waiting = {file for file, is_stored in written(root).items() if not is_stored}
    assert waiting and all((root / file).exists() for file in waiting)
    there.rmdir()
    (tmp_path / "away").rename(there)
    done = crawled(web, root, f"file://{there}")
    assert done.returncode == 0 and all(written(root).values()), done.stderr
    assert command("recrawl", str(root)).returncode == 0
    done = crawled(web, root, f"file://{other}")  # another place is begun as the first was
    assert done.returncode == 0 and all(written(root).values()) and any(other.iterdir()), done.stderr


def test_a_copy_of_a_crawl_stores_all_that_it_has_in_its_own_folder(web, tmp_path):
    root, copy, there = tmp_path / "out", tmp_path / "copy", tmp_path / "there"
    assert crawled(web, root, f"file://{there}").returncode == 0
    assert command("checkpoint", str(root), str(copy)).returncode == 0
    assert written(copy).keys() == written(root).keys() and not any(written(copy).values()) and all(written(root).values())
    done = crawled(web, copy, f"file://{there}")
    assert done.returncode == 0 and all(written(copy).values()), done.stderr
    assert len(list(there.iterdir())) == 2
    for directory in (root, copy):
        sound = command("verify", str(directory), "--stored")
        assert (sound.returncode, sound.stdout) == (0, ""), sound.stderr


def test_another_place_gets_all_that_is_there_still(web, tmp_path):
    root, one, other = tmp_path / "out", tmp_path / "one", tmp_path / "other"
    assert crawled(web, root, f"file://{one}").returncode == 0
    done = crawled(web, root, f"file://{other}")
    assert done.returncode == 0, done.stderr
    folder = (root / "store.id").read_text().strip()
    assert {str(path.relative_to(other / folder)) for path in other.rglob("*") if path.is_file()} == set(written(root))
    sound = command("verify", str(root), "--stored")
    assert (sound.returncode, sound.stdout) == (0, "") and f"{len(written(root))} copies" in sound.stderr


def test_a_checkpoint_that_nothing_else_was_done_to_stores_all_anew(web, tmp_path):
    """As ``POST /v1/checkpoint`` makes it."""
    root, there = tmp_path / "out", tmp_path / "there"
    assert crawled(web, root, f"file://{there}").returncode == 0
    copy = take_still(root).path
    done = crawled(web, copy, f"file://{there}")
    assert done.returncode == 0, done.stderr
    folder = there / (copy / "store.id").read_text().strip()
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == set(written(copy))
    assert len(list(there.iterdir())) == 2


async def test_where_the_crawls_own_disk_is_full_no_note_is_left_half_written_and_the_disk_is_named(tmp_path):
    crawl, there = tmp_path / "out", tmp_path / "there"
    crawl.mkdir()
    (crawl / "full").write_bytes(b"x" * 10)
    with file_size_limit(5):
        with pytest.raises(StorageError, match=r"out/store\.id: File too large"):
            folder_of(crawl)
        with pytest.raises(BucketError, match=r"out/store\.place: File too large"):
            await Folder(there, crawl / "store.place").put("id/full", crawl / "full", 10)
    assert [file.name for file in crawl.iterdir()] == ["full"]


async def test_where_the_disk_of_the_copies_is_full_it_is_named(tmp_path):
    (tmp_path / "full").write_bytes(b"x" * 10)
    with file_size_limit(5), pytest.raises(BucketError, match=r"there/id/full\.part: File too large"):
        await Folder(tmp_path / "there").put("id/full", tmp_path / "full", 10)
