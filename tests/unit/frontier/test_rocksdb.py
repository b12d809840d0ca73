"""What only the durable store promises: kills, failed writes, damaged directories, readers beside it, bounded files."""

import errno
import os
import random
import resource
import shutil
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from unittest.mock import patch

import msgspec
import pytest
from msgspec.structs import replace
from rocksdict import Options, Rdict, WriteBatch
from support.killed_crawl import name
from support.paths import ROOT, SUPPORT, TESTS
from support.stores import NO_PAGE, REST, TIMEOUT, Driver, done, link, names, pack, retry, revive

from crawler.core.batch import KNOWN, HostRest
from crawler.core.errors import StorageError
from crawler.core.keys import Keys
from crawler.core.model import Done, Known, Lease, Mark, Ref
from crawler.frontier import Limits, open_reader
from crawler.frontier.recrawl import RecrawlOrder
from crawler.frontier.rocksdb.claims import TAKEN_BYTES_MAX, Claims
from crawler.frontier.rocksdb.database import Database
from crawler.frontier.rocksdb.layout import SCHEMA, SCHEMA_KEY, STATE_KEY, URL_RULES, Schema, decode_schema, encode
from crawler.frontier.rocksdb.seen import CHOSEN_BYTES_MAX
from crawler.frontier.selection import Selection


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Driver]:
    driver = Driver("embedded", tmp_path / "store")
    yield driver
    driver.store.close()


# -- ends ---------------------------------------------------------------------------------------------------------


def test_everything_is_there_again_after_a_clean_end(driver: Driver) -> None:
    driver.commit([link(f"a/{i}") for i in range(10)] + [link("b/0")])
    lease = next(lease for lease in driver.claim(per_host=1) if lease.link.host == "a.test")
    driver.settle(lease, done(link("c/0")), HostRest(driver.now + 50, 4, None, 2))
    counts = driver.store.stats()
    driver.reopen()
    assert driver.store.stats() == counts
    assert isinstance(driver.store.lookup(lease.link.url), Known)
    driver.now += REST
    assert sorted(names(driver.claim())) == ["b/0", "c/0"]
    driver.now += 50
    leases = driver.claim()
    assert names(leases) == [f"a/{i}" for i in range(1, 10)]
    assert (leases[0].failures, leases[0].busy) == (4, 2)


def test_what_is_out_is_not_read_again(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host of a long list has many links on the bench: to claim one more must not walk over all of them."""
    read: list[bytes] = []
    entries = Claims._entries
    monkeypatch.setattr(Claims, "_entries", lambda self, key, *rest: read.append(key) or entries(self, key, *rest))
    driver.commit([link(f"a/{i}") for i in range(300)])
    leases = driver.claim(1, 10)
    for _ in range(9):
        leases += driver.claim(0, 0, {"a.test": 10})
    assert names(leases) == [f"a/{i}" for i in range(100)] and len(read) == 100
    driver.settle(leases.pop(0), done())
    leases += driver.claim(0, 0, {"a.test": 10})
    assert names(leases[-10:]) == [f"a/{i}" for i in range(100, 110)] and len(read) == 110
    driver.store.give_back(leases[40:42])
    again = driver.claim(0, 0, {"a.test": 3})
    assert names(again) == ["a/41", "a/42", "a/110"], "what was given back comes first"
    driver.reopen()
    driver.now += REST
    assert names(driver.claim(1, 300)) == [f"a/{i}" for i in range(1, 300)]


def test_a_claim_of_long_lines_is_bounded_and_passes_over_none(driver: Driver) -> None:
    hosts, per_host = [f"h{n}.test" for n in range(200)], 3
    for host in hosts:  # each line as long as a list may have them
        lines = (link(f"{host.partition('.')[0]}/{i}") for i in range(per_host))
        driver.commit([replace(one, given=one.url + "#" + "x" * (60 << 10)) for one in lines])
    first = driver.claim(100, per_host)
    assert TAKEN_BYTES_MAX <= sum(len(lease.link.given or "") for lease in first) < TAKEN_BYTES_MAX + (64 << 10)
    on_bench = {lease.link.host for lease in first}
    more = driver.claim(0, 0, dict.fromkeys(hosts, per_host))
    assert sum(len(lease.link.given or "") for lease in more) <= TAKEN_BYTES_MAX + len(hosts) * (64 << 10)
    assert {lease.link.host for lease in more} >= set(hosts) - on_bench, "one of each that was asked for"
    leases = [*first, *more]
    while leases:
        driver.commit((), [(lease, retry(0.0) if lease.link.attempt == 1 else done()) for lease in leases])
        driver.now += 1
        leases = driver.claim(1000, per_host)
        assert sum(len(lease.link.given or "") for lease in leases) <= TAKEN_BYTES_MAX + (64 << 10)
    assert driver.store.stats().waiting + driver.store.stats().retrying == 0


@pytest.mark.parametrize("how", ["revive", "recrawl"])
def test_settled_long_lines_wait_again_a_few_at_a_time(driver: Driver, how: str) -> None:
    lines = [link(f"h{n}/") for n in range(200)]
    driver.commit([replace(one, given=one.url + "#" + "x" * (60 << 10)) for one in lines])
    while leases := driver.claim(1000, 1):
        driver.commit((), [(lease, done()) for lease in leases])
    which = Selection(outcomes=frozenset({"ok"}))
    driver.store.order(RecrawlOrder(driver.now, 9e9))
    counts, after = [], b""
    while how == "revive":
        step = driver.store.revive_some(which, after)
        counts.append(step.count)
        if step.after is None:
            break
        after = step.after
    while how == "recrawl" and (count := driver.store.fulfil(1000)) is not None:
        counts.append(count)
    assert sum(counts) == len(lines) == driver.store.stats().waiting
    assert max(counts) <= 1 + CHOSEN_BYTES_MAX // (60 << 10)


def test_bundles_of_many_hosts_are_not_all_in_memory(driver: Driver) -> None:
    """One link of each host is out, and with it a bundle of 10 KiB: the bench may have links of thousands of hosts."""
    hosts, per_host = 300, 20
    [lease] = (driver.commit([link("page/0", "seed")]), driver.claim())[1]
    urls = [f"http://h{host}.test/{n}".ljust(400, "x") for host in range(hosts) for n in range(per_host)]
    block = pack(urls, Keys(driver.store.secret()), lease.link)
    driver.commit((), [(lease, Done(NO_PAGE, "ok", block=block))])
    tracemalloc.start()
    try:
        leases = driver.claim(hosts, 1)
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(leases) == hosts and held < hosts * 4_000
    visited: list[str] = []
    driver.store.rewind(leases)
    while leases:
        given_back = leases[: len(leases) // 2]
        driver.store.give_back(given_back)
        driver.commit((), [(lease, done()) for lease in leases[len(given_back) :]])
        visited += [lease.link.url for lease in leases[len(given_back) :]]
        driver.now += 1
        leases = driver.claim(hosts, 5)
    assert sorted(visited) == sorted(urls)


def test_at_open_every_host_counts_as_just_visited(driver: Driver) -> None:
    driver.commit([link("a/0"), link("b/0")])
    driver.now += 100
    driver.reopen()
    driver.commit([link("new/0")])
    due = {lease.link.host: lease.due for lease in driver.claim()}
    assert due["a.test"] == due["b.test"] == pytest.approx(driver.now + REST, abs=0.01)
    assert due["new.test"] == driver.now  # nobody can have visited it before


def test_the_clock_never_goes_back_behind_the_last_commit(driver: Driver) -> None:
    driver.now = 5000.0
    driver.commit([link("a/0")])
    driver.now = 100.0  # the machine's clock was set back
    driver.reopen()
    assert driver.store.clock() == 5000.001
    driver.now = driver.store.clock() + 1
    assert driver.claim()[0].due == 5000.001 + REST


def test_nothing_is_lost_and_nothing_twice_over_kills(tmp_path: Path) -> None:
    pages, chance = 6000, random.Random(20)
    path, acknowledged = tmp_path / "store", tmp_path / "acknowledged"
    command = [sys.executable, str(SUPPORT / "killed_crawl.py"), str(path), str(acknowledged), str(pages)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), str(ROOT)])}
    kills = 0
    while True:
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            try:
                assert process.wait(60 if kills == 12 else chance.random() * 0.15) == 0
                break
            except subprocess.TimeoutExpired:
                process.kill()
                kills += 1
    lines = acknowledged.read_text().split()
    assert kills >= 3
    assert len(lines) == len(set(lines))  # settled once, although visits may have been repeated
    driver = Driver("embedded", path)
    counts = driver.store.stats()
    assert counts.known == counts.done == pages and counts.outcomes == {"ok": pages}
    assert all(isinstance(driver.store.lookup(link(name(page)).url), Known) for page in range(pages))
    assert pages - len(lines) <= kills * 4 * 2  # a kill between commit and acknowledgement
    driver.store.close()


# -- failed writes ------------------------------------------------------------------------------------------------


@contextmanager
def files_no_longer_than(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def fill(driver: Driver, batches: int = 10_000) -> tuple[list[str], list[str], StorageError]:
    """Commit until the disk refuses: the links that were acknowledged, those of the failed batch, the error."""
    kept: list[str] = []
    for i in range(batches):
        batch = [link(f"h{j % 7}/{i}/{j}") for j in range(100)]
        try:
            driver.commit(batch)
        except StorageError as error:
            return kept, [one.url for one in batch], error
        kept += [one.url for one in batch]
    raise AssertionError("the disk never filled")


def check_after_failure(driver: Driver, kept: list[str], failed: list[str]) -> None:
    assert all(driver.store.lookup(url) == "waiting" for url in kept)
    there = [driver.store.lookup(url) == "waiting" for url in failed]
    assert all(there) or not any(there)
    assert all(there) == (driver.store.clock() == driver.now)
    assert driver.store.stats().known == len(kept) + sum(there)


def test_after_a_failed_write_the_store_is_what_was_committed(driver: Driver) -> None:
    driver.commit([link("held/0"), link("held/1")])
    [held] = driver.claim(1, 1)
    with files_no_longer_than(150_000):
        kept, failed, error = fill(driver)
    with files_no_longer_than(0), pytest.raises(StorageError):
        driver.store.rewind([held])  # to open it, something must be written
    assert error.errno == errno.EFBIG and not error.final
    driver.store.rewind([held])
    check_after_failure(driver, [*kept, held.link.url, link("held/1").url], failed)
    assert names(driver.claim(0, 0, {"held.test": 9})) == ["held/1"]
    driver.settle(held, TIMEOUT)
    assert driver.store.stats().done == 1
    driver.reopen()
    assert isinstance(driver.store.lookup(held.link.url), Known)


def test_an_opening_that_failed_keeps_nothing_locked(driver: Driver, tmp_path: Path) -> None:
    """Where descriptors end in the middle of it: the next attempt may come while somebody still keeps the error."""
    driver.commit([link("a/0")])
    synced = tmp_path / "store" / "synced"
    synced.rename(tmp_path / "aside")
    synced.mkdir()  # what is opened last cannot be
    with pytest.raises(StorageError) as kept:
        driver.store.rewind()
    synced.rmdir()
    (tmp_path / "aside").rename(synced)
    driver.store.rewind()
    assert driver.store.lookup(link("a/0").url) == "waiting"
    assert "Is a directory" in str(kept.value)


def test_a_commit_that_failed_but_is_there_is_told(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    driver.commit([link("a/0")])

    def write(self: Database, batch: WriteBatch, *, sync: bool) -> None:
        written(self, batch, sync=False)
        raise StorageError("the sync failed", errno=errno.EIO)

    written = Database.write
    with monkeypatch.context() as patch:
        patch.setattr(Database, "write", write)
        with pytest.raises(StorageError):
            driver.commit([link("a/1")])
    driver.store.rewind()
    assert driver.store.clock() == driver.now
    check_after_failure(driver, [link("a/0").url], [link("a/1").url])
    assert driver.commit([link("a/1")]) == [KNOWN]


def test_after_a_failed_write_nothing_is_written_until_the_store_is_opened_anew(driver: Driver) -> None:
    """Other calls may wait for the engine's thread, and come before the pump has heard of it."""
    driver.commit([link("a/0"), link("a/1")])
    [lease] = driver.claim(1, 1)
    full = StorageError("no room", errno=errno.ENOSPC)
    with patch.object(Database, "write", side_effect=full), pytest.raises(StorageError):
        driver.settle(lease, TIMEOUT)
    for call in (lambda: driver.commit([link("a/2")]), driver.claim, lambda: driver.store.set_suspects({})):
        with pytest.raises(StorageError):
            call()
    driver.store.rewind()
    driver.commit([link("a/2")])
    counts = driver.store.stats()
    assert (counts.known, counts.waiting, counts.done) == (3, 3, 0)
    assert len(driver.claim()) == 3


def test_a_full_disk_is_told_as_such_and_nothing_is_lost(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if mount is None or subprocess.run([mount, "-t", "tmpfs", "-o", "size=2m", "none", disk], capture_output=True).returncode:
        pytest.skip("no right to mount a small tmpfs")
    try:
        driver = Driver("embedded", disk / "store")
        ballast = disk / "ballast"
        ballast.write_bytes(b"x" * 1_000_000)
        kept, failed, error = fill(driver)
        assert error.errno == errno.ENOSPC
        ballast.unlink()
        driver.store.rewind()
        check_after_failure(driver, kept, failed)
        driver.commit([link("more/0")])
        driver.store.close()
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_after_an_error_only_rewind_and_close_do_anything_but_say_so(driver: Driver) -> None:
    driver.commit([link("a/0")])
    driver.store.close()
    for call in (
        driver.claim,
        driver.store.marks,
        driver.commit,
        driver.store.next_due,
        lambda: driver.store.lookup("http://a.test/"),
    ):
        with pytest.raises(StorageError):
            call()
    driver.store.close()
    driver.store.rewind()
    assert driver.store.lookup(link("a/0").url) == "waiting"


# -- directories --------------------------------------------------------------------------------------------------


def filled(path: Path) -> Driver:
    driver = Driver("embedded", path)
    for i in range(3):
        driver.commit([link(f"h{j}/{i}") for j in range(200)])
        driver.reopen()
    return driver


def refused(path: Path) -> StorageError:
    with pytest.raises(StorageError) as caught:
        Driver("embedded", path).store.close()
    assert str(path) in str(caught.value)
    return caught.value


def test_a_store_of_a_newer_version_is_refused_untouched(tmp_path: Path) -> None:
    filled(tmp_path / "store").store.close()
    for schema, words in ((Schema(SCHEMA + 1, URL_RULES, 1), "newer"), (Schema(SCHEMA, URL_RULES + 1, 1), "URL rules")):
        database = Database(tmp_path / "store", 8 << 20, 20)
        batch = WriteBatch(raw_mode=True)
        batch.put(SCHEMA_KEY, encode(schema), database.handle("meta"))
        database.write(batch, sync=True)
        database.close()
        error = refused(tmp_path / "store")
        assert error.final and words in str(error)
        with pytest.raises(StorageError, match=words):
            open_reader(tmp_path / "store")


def test_a_store_of_an_earlier_schema_goes_on_and_says_so(tmp_path: Path) -> None:
    """It may now hold what the earlier version would misread."""
    path = tmp_path / "store"
    filled(path).store.close()
    database = Database(path, 8 << 20, 20)
    value = database.get("meta", SCHEMA_KEY)
    assert value is not None
    now = decode_schema(value)
    batch = WriteBatch(raw_mode=True)
    batch.put(SCHEMA_KEY, encode(Schema(SCHEMA - 1, now.url_rules, now.secret)), database.handle("meta"))
    database.write(batch, sync=True)
    database.close()
    open_reader(path).close()
    driver = Driver("embedded", path)
    assert driver.store.state().counts.waiting == 600
    driver.store.close()
    database = Database(path, 8 << 20, 20)
    value = database.get("meta", SCHEMA_KEY)
    assert value is not None and decode_schema(value) == now
    database.close()


@pytest.mark.parametrize(
    "damage", ["no current", "odd current", "no manifest", "short manifest", "odd manifest", "no table", "short table"]
)
def test_a_damaged_directory_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "store"
    filled(path).store.close()
    how, what = damage.split()
    victim = {"current": path / "CURRENT", "manifest": next(path.glob("MANIFEST-*")), "table": next(path.glob("*.sst"))}[what]
    content = victim.read_bytes()
    if how == "no":
        victim.unlink()
    else:
        victim.write_bytes(content[: len(content) // 2] if how == "short" else b"\xff" * len(content))
    error = refused(path)
    assert error.final and "restore a copy of the crawl, or begin anew: --fresh" in str(error)
    assert len(list(path.glob("*.sst"))) >= 5  # nothing was made anew over it


@pytest.mark.parametrize("damage", ["first", "middle", "last", "cut", "gone"])
def test_a_log_damaged_in_its_middle_is_not_taken_for_one_that_ends_there(tmp_path: Path, damage: str) -> None:
    """Of a process that was killed: RocksDB would take back all commits from the damage on, without a word."""
    driver = Driver("embedded", tmp_path / "living")
    for turn in range(20):
        driver.commit([link(f"{turn}/{n}") for n in range(5)])
    path = shutil.copytree(tmp_path / "living", tmp_path / "store")
    driver.store.close()
    undamaged = Driver("embedded", shutil.copytree(path, tmp_path / "undamaged"))
    assert undamaged.store.stats().known == 100
    undamaged.store.close()
    (log,) = path.glob("*.log")
    content = bytearray(log.read_bytes())
    at = {"first": 20, "middle": len(content) // 2, "last": len(content) - 5}.get(damage, 0)
    content[at] ^= 1
    log.write_bytes(content[: len(content) // 2] if damage == "cut" else content)
    if damage == "gone":
        log.unlink()
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    assert refused(path).final
    with pytest.raises(StorageError, match="damaged"):
        open_reader(path)
    assert {name: (path / name).read_bytes() for name in before} == before, "nothing was written over it"


def test_a_manifest_that_ends_early_is_not_taken_for_a_whole_one(tmp_path: Path) -> None:
    """Of a store that was closed in order: there is no log that could tell. Half a copy may be cut between two records."""
    driver = filled(tmp_path / "whole")
    driver.commit([link(f"late/{n}") for n in range(5)])
    driver.store.close()
    ends = record_ends(next((tmp_path / "whole").glob("MANIFEST-*")).read_bytes())
    opened = 0
    for end in ends[:-1]:
        path = shutil.copytree(tmp_path / "whole", tmp_path / f"cut-{end}")
        os.truncate(next(path.glob("MANIFEST-*")), end)
        before = {file.name: file.read_bytes() for file in path.iterdir() if not file.name.startswith("LOG")}
        try:
            driver = Driver("embedded", path)
        except StorageError as error:
            assert error.final and {name: (path / name).read_bytes() for name in before} == before, "nothing was written over it"
            with pytest.raises(StorageError, match="damaged"):
                open_reader(path)
        else:
            assert driver.store.stats().known == 605, f"cut at {end} of {ends[-1]}"
            driver.store.close()
            opened += 1
    assert opened < len(ends) // 2


def record_ends(manifest: bytes) -> list[int]:
    """Where the records of a MANIFEST of one block end (four bytes of checksum, two of length, one of type)."""
    ends, at = [], 0
    while at < len(manifest):
        at += 7 + int.from_bytes(manifest[at + 4 : at + 6], "little")
        ends.append(at)
    return ends


@pytest.mark.parametrize("content", [b"", b"cut", b"\xff" * 16])
def test_a_watermark_that_is_damaged_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes) -> None:
    driver = Driver("embedded", tmp_path / "store")
    driver.commit([link("a/0")])
    driver.reopen()
    assert caplog.records == []
    driver.store.close()
    (tmp_path / "store" / "synced").write_bytes(content)
    with closing(open_reader(tmp_path / "store")):
        assert caplog.records == [], "a reader may come while it is made"
    again = Driver("embedded", tmp_path / "store")
    assert again.store.stats().known == 1
    assert [record.levelname for record in caplog.records] == ["WARNING"] and f"{tmp_path}/store/synced is damaged" in caplog.text
    again.reopen()
    assert len(caplog.records) == 1, "it is mended"
    again.store.close()


def test_a_damaged_block_is_found_when_it_is_read(tmp_path: Path) -> None:
    driver = filled(tmp_path / "store")
    driver.store.close()
    for table in (tmp_path / "store").glob("*.sst"):
        content = bytearray(table.read_bytes())
        content[10] ^= 0xFF
        table.write_bytes(content)
    with pytest.raises(StorageError, match=r"Corruption|mismatch|damaged"):
        driver.store = driver.open()
        driver.now += 100
        driver.claim()


def test_no_damage_whatever_is_more_than_a_storage_error(tmp_path: Path) -> None:
    filled(tmp_path / "store").store.close()
    chance = random.Random(7)
    for turn in range(25):
        path = tmp_path / str(turn)
        shutil.copytree(tmp_path / "store", path)
        victim = chance.choice(sorted(path.iterdir()))
        content = bytearray(victim.read_bytes())
        for _ in range(chance.choice([1, 3, 50])):
            if content:
                content[chance.randrange(len(content))] = chance.randrange(256)
        victim.write_bytes(content[: chance.choice([len(content), len(content) // 3])])
        try:
            driver = Driver("embedded", path, now=2000.0)
            driver.claim()
            driver.commit([link("z/0")])
            driver.store.close()
        except StorageError:
            pass
        shutil.rmtree(path)


def test_odd_places_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert refused(tmp_path / "file").errno in (errno.EEXIST, errno.ENOTDIR)
    driver = Driver("embedded", tmp_path / "store")
    assert not refused(tmp_path / "store").final  # in use
    driver.store.close()
    with pytest.raises(StorageError, match="no frontier store"):
        open_reader(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_a_store_killed_while_it_was_made_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "store"
    Driver("embedded", path).store.close()
    (path / "CURRENT").unlink()
    for made_later in [*path.glob("*.sst"), *path.glob("*.log")]:
        made_later.unlink()
    driver = Driver("embedded", path)
    driver.commit([link("a/0")])
    driver.now += REST
    assert [lease.link.url for lease in driver.claim()] == [link("a/0").url]
    driver.store.close()


@pytest.mark.parametrize("made", ["nothing", "no families", "some families"])
def test_who_reads_a_store_that_is_not_made_yet_is_told_so(tmp_path: Path, made: str) -> None:
    """As a SIGKILL in the first start leaves it: what was said was "Column family not found: queue"."""
    path = tmp_path / "store"
    path.mkdir()
    if made != "nothing":
        database = Rdict(str(path), Options(raw_mode=True))
        for family in ("seen", "queue") if made == "some families" else ():
            database.create_column_family(family, Options(raw_mode=True)).close()
        database.close()
    with pytest.raises(StorageError, match="is not made yet: this crawl has just begun, or its first start was cut off"):
        open_reader(path)
    Driver("embedded", path).store.close()
    open_reader(path).close()


def test_a_directory_of_a_version_that_counted_robots_txt_and_sitemaps_as_pages_goes_on(driver: Driver) -> None:
    """Nothing is scanned: what is settled anew is counted as it is now, and until then as it was."""
    robots, sitemap = Lease(link("a/robots.txt", "robots"), b""), link("a/map", "sitemap")
    driver.commit([link("a/0"), sitemap], [(robots, done(outcome="http_error"))])
    driver.settle(driver.claim_one("a/0"), done())
    driver.settle(driver.claim_one("a/map"), TIMEOUT)
    driver.store.close()
    database = Database(driver.path, 8 << 20, 100)
    batch = WriteBatch(raw_mode=True)
    for key, value in database.scan("page"):
        batch.put(key, b"\0" + value[1:], database.handle("page"))
    state = msgspec.msgpack.decode(database.get("meta", STATE_KEY))
    state[3] = {"known": 3, "done": 3, "hosts": 1, "outcomes": {"ok": 1, "http_error": 1, "timeout": 1}}
    state[3]["reasons"] = {"total_timeout": 1}
    batch.put(STATE_KEY, encode(state), database.handle("meta"))
    database.write(batch, sync=True)
    database.close()
    driver.store = driver.open()
    counts = driver.store.stats()
    assert (counts.known, counts.done, counts.not_pages) == (3, 3, {})
    driver.settle(robots, done(outcome="http_error"))
    counts = driver.store.stats()
    assert (counts.known, counts.done, counts.outcomes) == (2, 2, {"ok": 1, "timeout": 1})
    assert counts.not_pages == {"robots": 1}
    assert revive(driver.store, "timeout") == 1
    driver.now += 10
    driver.settle(driver.claim_one("a/map"), done())
    counts = driver.store.stats()
    assert (counts.known, counts.waiting, counts.done, counts.outcomes) == (1, 0, 1, {"ok": 1})
    assert counts.not_pages == {"robots": 1, "sitemap": 1}


# -- readers ------------------------------------------------------------------------------------------------------


def test_a_reader_sees_what_was_committed_when_it_looked(driver: Driver) -> None:
    driver.commit([link("a/0"), link("a/1")])
    driver.make_true(driver.prepare([link("b/0")]), {"results": Mark(10)})
    reader = open_reader(driver.path)
    driver.settle(driver.claim(1, 1)[0], done())
    assert reader.lookup(link("b/0").url) == "waiting" and reader.lookup(link("c/0").url) is None
    assert reader.marks() == {"results": Mark(10)}
    assert (reader.stats().known, reader.stats().done) == (3, 0)
    reader.refresh()
    assert reader.stats() == driver.store.stats()
    reader.close()


def test_a_reader_beside_a_busy_writer_sees_whole_commits(driver: Driver) -> None:
    stop = threading.Event()

    def write() -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            driver.now += 0.001
            links = [link(f"h{i}/{turn}", given="x" * 500) for i in range(100)]
            driver.make_true(driver.prepare(links), {"results": Mark(turn)})

    writer = threading.Thread(target=write)
    driver.make_true(driver.prepare(()), {"results": Mark(0)})
    writer.start()
    try:
        seen = set()
        until = time.monotonic() + 4
        while time.monotonic() < until or len(seen) <= 3:
            reader = open_reader(driver.path)
            turn = reader.marks()["results"].length
            assert reader.stats().known == 100 * turn
            for i in range(100):
                assert turn == 0 or reader.lookup(link(f"h{i}/{turn}").url) == "waiting"
                assert reader.lookup(link(f"h{i}/{max(1, turn // 2)}").url) == "waiting" or turn == 0
            reader.close()
            seen.add(turn)
    finally:
        stop.set()
        writer.join()


def test_a_reader_outlives_files_that_the_writer_has_merged_away(driver: Driver) -> None:
    driver.commit([link(f"h{i}/0") for i in range(500)])
    driver.reopen()
    reader = open_reader(driver.path)
    for turn in range(1, 12):
        driver.commit([link(f"h{i}/{turn}") for i in range(500)])
        driver.reopen()
    assert all(reader.lookup(link(f"h{i}/0").url) == "waiting" for i in range(500))
    reader.close()


def test_a_reader_shows_one_commit_whatever_is_merged_meanwhile(driver: Driver) -> None:
    """More tables than RocksDB opens at once by itself: each is held from the beginning, and so is what stands in it."""
    driver.limits = Limits(recrawl=True)
    pages: list[str] = []

    def crawl(row: str) -> None:
        driver.reopen()
        driver.now += 2
        driver.fields = {"due": driver.now + 1000, "interval": 9.0, "row": Ref(row, 0, 1)}
        driver.commit((), [(lease, done()) for lease in driver.claim(50, 1)])

    while len(list(driver.path.glob("*.sst"))) <= 18:
        new = [f"h{host}/{len(pages)}" for host in range(50)]
        driver.commit([link(name) for name in new])
        crawl("first")
        driver.reopen()
        pages += new
    with closing(open_reader(driver.path)) as reader:
        driver.now += 2000
        for _ in range(len(pages) // 50 + 3):
            crawl("second")
        driver.reopen()
        assert {reader.lookup(link(name).url).row.file for name in pages} == {"first"}


# -- bounds -------------------------------------------------------------------------------------------------------


def test_files_of_its_own_do_not_pile_up(driver: Driver) -> None:
    for _ in range(8):
        driver.commit([link("a/0")])
        driver.reopen()
    names = [file.name for file in driver.path.iterdir()]
    assert sum(name.startswith("LOG") for name in names) <= 3
    assert sum(name.startswith(("MANIFEST", "OPTIONS")) for name in names) <= 4


def test_sixty_four_descriptors_are_enough(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    of_others = max(0, len(os.listdir("/proc/self/fd")) - 16)  # what tests before this one have left open
    resource.setrlimit(resource.RLIMIT_NOFILE, (64 + of_others, hard))
    try:
        driver = Driver("embedded", tmp_path / "store")
        chance = random.Random(3)
        for turn in range(30):
            driver.commit([link(f"h{i}/{turn}", given=chance.randbytes(400).hex()) for i in range(1000)])
            driver.now += 2
            driver.commit((), [(lease, done()) for lease in driver.claim(300, 1)])
        driver.reopen()
        assert len(list(driver.path.glob("*.sst"))) > 10
        assert all(driver.store.lookup(link(f"h{i}/{turn}").url) for turn in range(30) for i in range(0, 1000, 50))
        opened = [os.readlink(entry) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]
        assert sum(file.startswith(str(driver.path)) for file in opened) <= 32 + of_others
        driver.store.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_memory_used_stays_within_what_was_given(driver: Driver) -> None:
    for turn in range(40):
        driver.commit([link(f"h{i % 500}/{turn}/{i}") for i in range(1000)])
        driver.now += 1
        driver.commit((), [(lease, done()) for lease in driver.claim(per_host=2)])
    used = driver.store.memory_used()
    assert used <= 8 << 20
    driver.store.shed()
    assert driver.store.memory_used() < used
    assert driver.store.lookup(link("h0/0/0").url)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_million_pages_due_at_once_take_no_more_memory_than_a_slice(tmp_path):
    """They come back a slice at a time, by schedule and by order; what is in memory is what the store was given."""
    driver = Driver("embedded", tmp_path / "store", Limits(recrawl=True))
    pages, hosts = 1_000_000, 2000

    def crawl(due: float) -> int:
        visited = 0
        while leases := driver.claim(64, 64):
            driver.fields = {"due": due, "interval": 9.0}
            driver.commit((), [(lease, done()) for lease in leases])
            driver.now += 0.01
            visited += len(leases)
        return visited

    for first in range(0, pages, 10_000):
        driver.commit([link(f"h{n % hosts}/{n}") for n in range(first, first + 10_000)])
    due = driver.now + 100_000
    assert crawl(due) == pages and driver.store.stats().recrawl == pages
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    driver.now = due + 1
    assert crawl(due * 2) == pages
    driver.store.order(RecrawlOrder(driver.now, 9e9))
    while driver.store.fulfil(1000) is not None:
        pass
    assert crawl(due * 3) == pages
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    driver.store.close()
    assert grown < 24 << 20, f"{grown >> 20} MiB"
