"""Earlier crawls in a directory: set aside, and so many of them kept."""

import errno
import fcntl
import os
import random
import shutil
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import pytest
from support.faults.log import read_log
from support.faults.powercut import Disk
from support.faults.shim import Faults

from crawler.config.crawl_toml import write_effective
from crawler.config.sections import Config
from crawler.core.errors import ConfigError
from crawler.output.directory import crawl_in, locked, open_directory


@pytest.mark.parametrize(("keep", "left"), [(None, 5), (2, 2), (0, 0), (9, 5)])
def test_so_many_earlier_crawls_are_kept_the_latest(tmp_path: Path, keep: int | None, left: int) -> None:
    earlier = ["previous-20250101000000", "previous-20260101000000.2", "previous-20260101000000.10", "previous-20260101000000"]
    others = ["previous-mine", "previously", "previous-20240101000000x"]
    for name in (*earlier, *others, "frontier"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "previous-20200101000000").symlink_to(tmp_path / "elsewhere")
    with open_directory(tmp_path, Config(output=str(tmp_path), fresh=True, keep_previous=keep)):
        pass
    assert all((tmp_path / name).is_dir() for name in (*others, "elsewhere", "previous-20200101000000"))
    found = {path.name for path in tmp_path.glob("previous-2*")} - {*others, "previous-20200101000000"}
    assert len(found) == left
    if keep == 2:
        assert "previous-20260101000000.10" in found, "the number counts, not its text; and the one set aside just now"


def test_the_earlier_crawl_is_kept_that_was_set_aside_last_though_the_clock_was_set_back(tmp_path: Path) -> None:
    """It was deleted as soon as it was set aside."""
    (tmp_path / "previous-20991231235959").mkdir()
    for _ in range(3):
        with open_directory(tmp_path, Config(output=str(tmp_path))):
            (tmp_path / "frontier").mkdir()
        with open_directory(tmp_path, Config(output=str(tmp_path), fresh=True, keep_previous=1)):
            pass
        [aside] = tmp_path.glob("previous-*")
        assert (aside / "frontier").is_dir()


KILLED = """
import os, signal, sys
from pathlib import Path
from crawler.config.sections import Config
from crawler.output.directory import open_directory
left, rename = int(sys.argv[2]), Path.rename
def counted(self, target):
    global left
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    return rename(self, target)
Path.rename = counted
with open_directory(Path(sys.argv[1]), Config(output=sys.argv[1], fresh=True, keep_previous=2)):
    pass
"""


@pytest.mark.parametrize("settings", ["crawl.toml", "lost"])
@pytest.mark.parametrize("moved", range(5))
def test_an_earlier_crawl_is_kept_whole_though_a_kill_came_while_it_was_set_aside(
    tmp_path: Path, moved: int, settings: str
) -> None:
    """Of its two halves the latter was kept: the store and its WARC files were deleted. What was still empty, and a half without
    settings, counted as one more."""
    with open_directory(tmp_path, Config(output=str(tmp_path))):
        for name in ("frontier", "warc", "results", "index"):
            (tmp_path / name).mkdir()
    (tmp_path / "crawl.toml").rename(tmp_path / settings)
    (tmp_path / "previous-20200101000000" / "frontier").mkdir(parents=True)
    assert subprocess.run([sys.executable, "-c", KILLED, tmp_path, str(moved)], check=False).returncode == -signal.SIGKILL
    with open_directory(tmp_path, Config(output=str(tmp_path), fresh=True, keep_previous=2)):
        pass
    first, aside = sorted(tmp_path.glob("previous-*"))
    assert first.name == "previous-20200101000000"
    assert {path.name for path in aside.iterdir()} == {"frontier", "warc", "results", "index", "tmp", "crawl.toml"} - {
        "crawl.toml" if settings == "lost" else ""
    }


@pytest.mark.parametrize("store", ["embedded", "memory"])
def test_no_earlier_crawl_makes_way_for_a_start_that_has_begun_nothing(tmp_path: Path, store: str) -> None:
    """One with --fresh that failed, or was killed at once, and came again: what was kept was its settings, and the crawl before
    it was deleted."""
    with open_directory(tmp_path, Config(output=str(tmp_path))):
        (tmp_path / "frontier").mkdir()
    for depth in range(3):
        config = Config(output=str(tmp_path), store=store, archive="discard", depth=depth, fresh=True, keep_previous=1)
        with open_directory(tmp_path, config):
            pass
    [aside] = tmp_path.glob("previous-*")
    assert (aside / "frontier").is_dir()


SET_ASIDE = """
import sys
from crawler.config.sections import Config
from crawler.output.directory import open_directory
with open_directory(__import__("pathlib").Path(sys.argv[1]), Config(output=sys.argv[1], fresh=True)):
    pass
"""


def test_an_earlier_crawl_is_whole_whenever_the_power_fails_while_it_is_set_aside(tmp_path: Path) -> None:
    """Of names that are not synced any may be missing: all of it was gone with the new folder, or half of it left behind."""
    faults = Faults(tmp_path / "disk", tmp_path / "aside")
    parts = ["frontier", "warc", "results", "crawl.toml"]
    for name in parts[:3]:
        (faults.folder / name).mkdir()
        (faults.folder / name / "file").write_text(name)
    write_effective(faults.folder, Config(output=str(faults.folder)))
    shutil.copytree(faults.folder, tmp_path / "before")
    command = [sys.executable, "-c", SET_ASIDE, str(faults.folder)]
    assert subprocess.run(command, env=os.environ | faults.environment, check=False).returncode == 0
    records = read_log(faults.log)
    for seed in range(200):
        rng = random.Random(seed)
        left = tmp_path / f"left-{seed}"
        Disk(faults.folder, tmp_path / "before").play(records[: rng.randint(0, len(records))]).rebuild(left, rng)
        aside = next(left.glob("previous-*"), left / "none")
        moved = [name for name in parts if (aside / name / "file").exists() or (name == "crawl.toml" and (aside / name).exists())]
        assert moved == parts[: len(moved)], "what has moved tells where the rest belongs"
        assert all((left / name).exists() for name in parts[len(moved) :])


def test_a_crawl_that_was_kept_in_memory_is_told_apart_from_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no crawl here"):
        crawl_in(tmp_path)
    with open_directory(tmp_path, config := Config(output=str(tmp_path), store="memory", archive="discard")):
        write_effective(tmp_path, config)
    with pytest.raises(ConfigError, match="its rows are in"):
        crawl_in(tmp_path)


def test_a_store_whose_settings_are_missing_is_not_taken_over_with_others(tmp_path: Path) -> None:
    config = Config(output=str(tmp_path))
    with open_directory(tmp_path, config):
        (tmp_path / "frontier").mkdir()
    (tmp_path / "crawl.toml").rename(tmp_path / "away")
    with pytest.raises(ConfigError, match=r"crawl\.toml is missing"), open_directory(tmp_path, config):
        pass
    (tmp_path / "away").rename(tmp_path / "crawl.toml")
    with open_directory(tmp_path, config):
        pass


def test_settings_that_were_written_by_hand_are_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mine = "delay = 5  # agreed with the webmaster\n"
    (tmp_path / "crawl.toml").write_text(mine)
    for _ in range(2):
        with open_directory(tmp_path, Config(output=str(tmp_path))):
            pass
    assert [path.read_text() for path in (tmp_path / "lost+found").iterdir()] == [mine], "moved once"
    assert "lost+found/crawl.toml" in caplog.text and len(caplog.records) == 1


@pytest.mark.parametrize("left", [None, "node.toml", "CURRENT"])
def test_a_start_that_failed_binds_nobody_to_its_settings(tmp_path: Path, left: str | None) -> None:
    """Only what it began to crawl does."""
    with open_directory(tmp_path, Config(output=str(tmp_path))):
        pass
    if left is not None:
        (tmp_path / "frontier").mkdir()
        (tmp_path / "frontier" / left).write_text("")
    refused = pytest.raises(ConfigError, match="depth: this directory was begun with 0")
    with refused if left == "CURRENT" else nullcontext(), open_directory(tmp_path, Config(output=str(tmp_path), depth=1)):
        pass


def test_a_file_system_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as NFS without its lock daemon."""
    monkeypatch.setattr(fcntl, "flock", mock.Mock(side_effect=OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))))
    with pytest.raises(ConfigError, match=r"No locks available; .* can be locked"), locked(tmp_path):
        pass
