"""Local failures pause the crawl, end it only when they last, and are over once a commit went through."""

import errno
import logging
import math
import shutil
from pathlib import Path

import pytest
from support.frontiers import Time, frontier
from support.other_disk import on_another_disk

from crawler.core.errors import StorageError
from crawler.resources.disk import SCARCE_PATIENCE_S, WAIT_S_MAX, WATCH_EVERY_S, Disk

FULL = StorageError("no space", errno=errno.ENOSPC)
TOO_MUCH = 1 << 62
"""Of free disk: no disk has it."""
PATIENCE_S = 600.0
Usage = type(shutil.disk_usage("/"))


class World:
    def __init__(self, root: Path, patience_s: float = PATIENCE_S) -> None:
        self.time = Time()
        self.frontier = frontier(self.time)
        self.disk = Disk(root, self.frontier, min_free_bytes=0, patience_s=patience_s, clock=self.time, sleep=self.time.sleep)

    def fill(self, is_full: bool = True) -> None:
        self.disk.change(min_free_bytes=TOO_MUCH if is_full else 0)


@pytest.fixture
def world(tmp_path, caplog):
    caplog.set_level(logging.INFO, "crawler.resources")  # what the frontier logs of pauses is not of interest here
    return World(tmp_path)


def test_a_disk_that_is_low_pauses_and_resumes_by_itself(world, caplog):
    world.disk.look()
    assert world.frontier.pauses == set() and world.disk.free_bytes > 0
    world.fill()
    for _ in range(3):
        world.disk.look()
    assert world.frontier.pauses == {"disk_low"}
    world.fill(False)
    world.disk.look()
    assert world.frontier.pauses == set()
    assert [line.partition(" ")[0] for line in caplog.messages] == ["disk:", "disk:"], "said once each"


@pytest.mark.parametrize(
    ("size", "free", "said"),
    [
        (100 << 30, 900 << 20, "900 MiB free at {}, less than min_free_disk (1024 MiB)"),
        (100 << 30, 1100 << 20, ""),
        (512 << 20, 500 << 20, ""),
        (2 << 30, 103 << 20, ""),
        (2 << 30, 102 << 20, "102 MiB free at {}, less than a twentieth of that disk (102 MiB)"),
        (4 << 20, 1 << 20, ""),
        (4 << 20, 1 << 19, "0 MiB free at {}, less than a twentieth of that disk (1 MiB)"),
    ],
)
async def test_the_disk_of_a_folder_counts_as_well(tmp_path, caplog, monkeypatch, size, free, said):
    """With room on the one, writes to the other were tried again and again, with new visits each time. A small disk paused the
    crawl from its start, however empty it was."""
    with on_another_disk(tmp_path) as other:
        folder = tmp_path / "warc"
        folder.symlink_to(other)
        usage = {tmp_path: (50 << 40, 0, 50 << 40), folder: (size, size - free, free)}
        monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage._make(usage[path]))
        world = World(tmp_path)
        world.disk = Disk(
            tmp_path, world.frontier, min_free_bytes=1 << 30, patience_s=9.0, clock=world.time, folders=("warc", "x")
        )
        world.disk.look()
        assert world.frontier.pauses == ({"disk_low"} if said else set())
        assert said.format(folder) in caplog.text
        assert world.disk.free_bytes == free


def test_a_disk_that_stays_low_ends_the_crawl_when_the_patience_is_over(world):
    world.fill()
    world.disk.look()
    world.time.now += PATIENCE_S
    world.disk.look()
    world.time.now += 1
    with pytest.raises(StorageError, match=r"is full: less than min_free_disk .*; make room$") as raised:
        world.disk.look()
    assert raised.value.errno == errno.ENOSPC


async def test_a_disk_that_cannot_be_asked_is_trouble_of_this_machine(tmp_path):
    (tmp_path / "gone").symlink_to("gone")
    world = World(tmp_path / "gone")
    with pytest.raises(StorageError, match="gone: "):
        world.disk.look()
    with pytest.raises(StorageError, match="gone: "):
        await world.disk.recover(FULL)


def test_each_time_that_the_disk_is_low_has_the_whole_patience(world):
    for _ in range(3):
        world.fill()
        world.disk.look()
        world.time.now += PATIENCE_S - 1
        world.disk.look()
        world.fill(False)
        world.disk.look()


def test_what_is_still_committed_while_the_disk_is_low_does_not_lengthen_the_patience(world):
    world.fill()
    world.disk.look()
    world.time.now += PATIENCE_S - 1
    world.disk.committed()
    world.disk.look()
    world.time.now += 2
    with pytest.raises(StorageError):
        world.disk.look()


async def test_the_watch_looks_again_and_again(world):
    world.fill()
    with pytest.raises(StorageError):
        await world.disk.watch()
    assert set(world.time.slept) == {WATCH_EVERY_S} and PATIENCE_S <= sum(world.time.slept) <= PATIENCE_S + 2


async def test_failures_that_passed_are_over_however_late_the_next_one_comes(world):
    """Each write fails once and then goes through: that is no long failure, even if hours pass between them."""
    for _ in range(5):
        await world.disk.recover(FULL)
        world.disk.committed()
        world.time.now += 10 * PATIENCE_S
    assert world.disk.errors == {"ENOSPC": 5}


async def test_writes_that_keep_failing_end_the_crawl_when_the_patience_is_over(world):
    began = world.time.now
    with pytest.raises(StorageError, match="no space"):
        for _ in range(1000):
            await world.disk.recover(FULL)
    assert PATIENCE_S < world.time.now - began <= PATIENCE_S + 2 * WAIT_S_MAX


async def test_the_wait_grows_while_writes_fail_and_begins_anew_after_a_commit(world):
    async def waited() -> float:
        began = world.time.now
        await world.disk.recover(FULL)
        return world.time.now - began

    assert [await waited() for _ in range(6)] == [1, 2, 4, 8, 15, 15]
    world.disk.committed()
    assert await waited() == 1


async def test_a_write_is_tried_again_only_when_there_is_room(world):
    world.fill()
    with pytest.raises(StorageError):
        await world.disk.recover(FULL)
    assert sum(world.time.slept) >= PATIENCE_S
    world.disk.committed()
    await world.disk.recover(StorageError("no descriptor", errno=errno.EMFILE))


async def test_the_daemon_waits_for_ever(tmp_path):
    world = World(tmp_path, math.inf)
    for _ in range(1000):
        await world.disk.recover(FULL)
    world.fill()
    world.disk.look()
    world.time.now += 1e9
    world.disk.look()


@pytest.mark.parametrize(
    "error", [StorageError("damaged", final=True), StorageError("bad sector", errno=errno.EIO)], ids=["final", "EIO"]
)
async def test_what_can_never_pass_ends_at_once(world, error):
    with pytest.raises(StorageError) as raised:
        await world.disk.recover(error)
    assert raised.value is error and world.time.slept == []


async def test_who_drains_does_not_wait_for_a_disk(world):
    world.frontier.drain()
    with pytest.raises(StorageError):
        await world.disk.recover(FULL)
    assert world.time.slept == []


async def test_a_drain_that_begins_while_the_disk_is_waited_for_ends_the_waiting(tmp_path):
    world = World(tmp_path, math.inf)
    world.fill()
    began = world.time.now

    async def sleep(seconds: float) -> None:
        await Time.sleep(world.time, seconds)
        assert world.time.now - began < 1000, "it waits on"
        if world.time.now - began > 100:
            world.frontier.drain()

    world.disk._sleep = sleep
    with pytest.raises(StorageError):
        await world.disk.recover(FULL)
    assert world.time.now - began <= 100 + WATCH_EVERY_S


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
async def test_a_visit_that_cannot_keep_its_body_pauses_until_the_watch_sees_room(world, number):
    await world.disk.visit_failed(StorageError("spool", errno=number), 5)
    assert world.frontier.pauses == {"disk_low"}
    world.disk.look()
    assert world.frontier.pauses == set()
    assert world.disk.errors == {errno.errorcode[number]: 1}


async def test_a_quota_that_no_look_at_the_disk_shows_ends_the_crawl_too(world):
    """There is always room, says the file system; no body can be kept, and nothing is ever committed."""
    began = world.time.now
    with pytest.raises(StorageError):
        while True:
            await world.disk.visit_failed(StorageError("spool", errno=errno.EDQUOT), 5)
            world.time.now += WATCH_EVERY_S
            world.disk.look()
    assert world.time.now - began == pytest.approx(PATIENCE_S, abs=2)


async def test_a_quota_that_lets_other_pages_through_does_not(world):
    for _ in range(1000):
        await world.disk.visit_failed(StorageError("spool", errno=errno.EDQUOT), 5)
        world.time.now += WATCH_EVERY_S
        world.disk.look()
        world.disk.committed()


async def test_no_descriptors_left_means_fewer_fetches_and_more_again_as_they_go_through(world, caplog):
    lack = StorageError("no descriptor", errno=errno.EMFILE)
    await world.disk.visit_failed(lack, 40)
    assert world.frontier._limits == {"scarce": 20}
    assert caplog.messages[-1].startswith("no descriptor: allow more descriptors"), "what to do stands in it"
    assert caplog.messages[-1].endswith("fetches at a time now: 20")
    await world.disk.visit_failed(lack, 18)
    assert world.frontier._limits == {"scarce": 9}
    for ceiling in range(10, 16):
        world.disk.visit_worked(16)
        assert world.frontier._limits == {"scarce": ceiling}
    world.disk.visit_worked(16)
    assert world.frontier._limits == {}
    world.disk.visit_worked(16)
    assert world.frontier._limits == {}


async def test_no_descriptor_for_even_one_fetch_ends_the_crawl_in_time(world):
    lack, began = StorageError("no descriptor", errno=errno.EMFILE), world.time.now
    with pytest.raises(StorageError):
        while True:
            await world.disk.visit_failed(lack, 1)
    assert world.time.now - began == pytest.approx(SCARCE_PATIENCE_S, abs=2)


async def test_a_lack_that_passed_is_over(world):
    lack = StorageError("no descriptor", errno=errno.EMFILE)
    for _ in range(5):
        await world.disk.visit_failed(lack, 1)
        world.disk.visit_worked(100)
        world.time.now += 10 * SCARCE_PATIENCE_S


async def test_any_other_failure_of_a_visit_is_raised(world):
    with pytest.raises(StorageError, match="store"):
        await world.disk.visit_failed(StorageError("store", errno=0), 1)
    assert world.disk.errors == {"other": 1}
