"""A crawl that loses its power again and again, each time at a random point of what it wrote: continued by the same
command, all that it had acknowledged is there, once.

POWER_CUTS=200 pytest tests/system/test_power_cut.py    cuts that often, in crawls of five to ten cuts each
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.crews import are_gone, children, parts_of
from support.faults.log import Kind, notes, read_log
from support.faults.mixed import MixedCrawl, acknowledged_by
from support.faults.powercut import Disk, NamesAlone, Worst
from support.faults.shim import Faults
from support.paths import SUPPORT
from support.programs import CLEAN, LOCAL, crawler
from support.sinful import running
from support.webs import Answer, Web

CUTS = int(os.environ.get("POWER_CUTS", "2"))
PAGES = 300 if CUTS > 10 else 150
MAPPED = {"out", "synced"}
"""Slots of the visits that are out, and how far the store was synced: a power cut loses nothing with them."""
NOTED = SUPPORT / "faults" / "noted.py"


class Machine:
    """A crawl on a disk that loses its power."""

    def __init__(self, crawl: MixedCrawl, tmp: Path, rng: random.Random, processes: int) -> None:
        self._crawl, self._tmp, self._rng, self._processes = crawl, tmp, rng, processes
        self.disk = tmp / "disk"
        self._base: Path | None = None
        self.acknowledged: dict[str, float] = {}
        self.story: list[str] = []
        """What was done to it, for whoever has to understand a failure."""

    def command(self, *options: str) -> list[str]:
        several = ("--processes", str(self._processes), "--memory-limit", "1GiB")
        return self._crawl.command(self._tmp, self.disk / "out", *several, *options)

    def run_until_the_power_fails(self, seconds: float) -> None:
        number = len(self.story)
        faults = Faults(self.disk, self._tmp / f"aside-{number}")
        command = [sys.executable, str(NOTED), *self.command("--rate", "300")]
        with (self._tmp / f"said-{number}").open("w") as said:
            process = subprocess.Popen(
                command, env=CLEAN | faults.environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said
            )
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                parts = [*children(process.pid), *parts_of(process.pid)]
                process.kill()
                process.wait()
                assert are_gone(parts)
        assert process.returncode in (0, -9), (self._tmp / f"said-{number}").read_text()
        records = read_log(faults.log)
        cut = max(self._rng.randint(0, len(records)) for _ in range(2))
        fresh = self._tmp / f"disk-{number}"
        did = Disk(self.disk, self._base, MAPPED).play(records[:cut]).rebuild(fresh, self._rng)
        self.story.append(f"cut {number}: at {cut} of {len(records)} records after {seconds:.2f} s: {did}")
        self.acknowledged = acknowledged_by(notes(records, cut)) | self.acknowledged  # the first time counts
        shutil.rmtree(self.disk)
        self._base = fresh
        shutil.copytree(fresh, self.disk)


@pytest.mark.timeout(30 * max(CUTS, 5))
@pytest.mark.parametrize("processes", [1, 2])
def test_whatever_was_acknowledged_outlives_power_cuts(tmp_path: Path, processes: int) -> None:
    rng = random.Random(os.environ.get("POWER_CUTS_SEED", time.time_ns()))
    left, number = CUTS, 0
    while left > 0:
        folder = tmp_path / f"crawl-{number}"
        folder.mkdir()
        crawl = MixedCrawl(PAGES)
        with running(crawl.site):
            machine = Machine(crawl, folder, rng, processes)
            try:
                for _ in range(min(left, rng.randint(5, 10))):
                    machine.run_until_the_power_fails(rng.uniform(0.6, PAGES / 75))
                    left -= 1
                ended = crawler(*machine.command())
                assert ended.returncode == 0, ended.stderr
                crawl.check(machine.disk / "out", machine.acknowledged)
            except BaseException as error:
                error.add_note("\n".join([*machine.story, f"kept in {folder}"]))
                raise
        print(f"crawl {number}: {len(machine.acknowledged)} URLs had been acknowledged over {len(machine.story)} power cuts")
        shutil.rmtree(folder)
        number += 1


@pytest.mark.parametrize("processes", [1, 2])
def test_what_was_acknowledged_needs_nothing_that_is_not_synced(tmp_path: Path, processes: int) -> None:
    crawl = MixedCrawl(PAGES)
    with running(crawl.site):
        machine = Machine(crawl, tmp_path, Worst(), processes)
        while not machine.acknowledged:  # for longer each time: on a slow machine it has just begun by then
            machine.run_until_the_power_fails(1.5 * (1 + len(machine.story)))
        ended = crawler(*machine.command())
        assert ended.returncode == 0, ended.stderr
        crawl.check(machine.disk / "out", machine.acknowledged)


def test_a_body_that_is_kept_already_outlives_a_power_cut_when_it_comes_again(tmp_path: Path) -> None:
    """A file system may make a name durable before the bytes that it stands for: ``files`` gave the name of a body that was
    committed to the same bytes anew, unsynced."""
    bodies = {"/1": b"same " * 1000, "/2": b"same " * 1000, "/3": b"small", "/4": b"small"}
    web = Web(default=lambda host, path: Answer(body=bodies[path], wait=0.0 if path in ("/1", "/3") else 0.6))
    faults = Faults(tmp_path / "disk", tmp_path / "aside")
    out = faults.folder / "out"
    with web.running():
        urls = [web.url(f"127.0.3.{path[1:]}", path) for path in bodies]
        command = [sys.executable, str(NOTED), "run", *urls, "-o", str(out), *LOCAL, "--archive", "files", "--processes", "1"]
        ended = subprocess.run(command, env=CLEAN | faults.environment, stdin=subprocess.DEVNULL, check=False)
    assert ended.returncode == 0
    records = read_log(faults.log)
    named = [at for at, record in enumerate(records, 1) if record.kind is Kind.RENAME and "/files/" in record.other]
    assert len(named) >= 2
    for cut in named:
        left = tmp_path / f"left-{cut}"
        Disk(faults.folder, None, MAPPED).play(records[:cut]).rebuild(left, NamesAlone())
        acknowledged = acknowledged_by(notes(records, cut))
        if acknowledged:
            verified = crawler("verify", str(left / "out"))
            assert verified.returncode == 0, verified.stdout + verified.stderr
    assert acknowledged
