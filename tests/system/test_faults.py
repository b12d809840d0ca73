"""A real crawl while the system calls under it fail, RocksDB's included: it pauses and goes on, or ends with exit 3; no page
is blamed, and the same command without the fault ends with everything there, once.

FAULTS=all pytest tests/system/test_faults.py    every call with every kind of fault, some minutes
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.faults.log import notes, read_log
from support.faults.mixed import MixedCrawl, acknowledged_by
from support.faults.shim import Faults
from support.paths import SUPPORT, TESTS
from support.programs import CLEAN, LOCAL, command, crawler, rows_of
from support.sinful import Site, head, page, running, stay
from support.whole import found_whole

from crawler.core.urls import host_key
from crawler.frontier.division import division_at

BY_SESSION = TESTS / "benchmarks" / "session_way.py"
NOTED = SUPPORT / "faults" / "noted.py"
GOES_ON, ENDS = (0,), (3,)
EITHER = (0, 3)

WHILE_IT_RUNS = [
    ("write 3-3 ENOSPC", GOES_ON),
    ("write,pwrite 5- ENOSPC", ENDS),
    ("pwrite 2-2 EIO", ENDS),
    ("fdatasync 2-2 EIO", ENDS),
    ("create 2-2 EMFILE", GOES_ON),
    ("rename 2-2 EDQUOT", GOES_ON),
    ("write,pwrite 1-200 SHORT", GOES_ON),
    ("fdatasync 2-3 SLEEP:1500", GOES_ON),
]
AT_THE_START = [("create 2-2 ENOSPC", ENDS), ("fsync 1-1 EIO", ENDS)]
if os.environ.get("FAULTS") == "all":
    CALLS = ("write", "pwrite", "fsync", "fdatasync", "create", "open", "rename", "unlink", "ftruncate", "mkdir", "read", "pread")
    ERRORS = ("ENOSPC", "EDQUOT", "EIO", "EMFILE", "ENOMEM")
    RULES = [(f"{call} {which} {error}", EITHER) for call in CALLS for error in ERRORS for which in ("2-2", "7-7", "4-")]
    WHILE_IT_RUNS += RULES
    AT_THE_START += RULES


@pytest.fixture(scope="module")
def crawl() -> Iterator[MixedCrawl]:
    crawl = MixedCrawl(100)
    with running(crawl.site):
        yield crawl


class Trial:
    """One crawl under the shim, and the same command without it."""

    def __init__(
        self, crawl: MixedCrawl, tmp: Path, disk_wait: str = "3s", archive: str = "warc", rate: str = "200", processes: int = 1
    ) -> None:
        self._crawl, self._tmp = crawl, tmp
        self.faults = Faults(tmp / "disk", tmp / "aside")
        self.out = tmp / "disk" / "out"
        self._said = (tmp / "said").open("w+")
        options = ("--rate", rate, "--disk-wait", disk_wait, "--archive", archive, "--processes", str(processes))
        command = [sys.executable, str(NOTED), *crawl.command(tmp, self.out, *options)]
        streams = {"stdin": subprocess.DEVNULL, "stdout": self._said, "stderr": self._said}
        self.command = command, CLEAN | self.faults.environment, streams

    def __enter__(self) -> Trial:
        arguments, environment, streams = self.command
        self.process = subprocess.Popen(arguments, env=environment, **streams)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self._said.close()

    @property
    def said(self) -> str:
        return (self._tmp / "said").read_text()

    def acknowledged(self) -> dict[str, float]:
        return acknowledged_by(notes(read_log(self.faults.log))) if self.faults.log.exists() else {}

    def wait_until_something_is_acknowledged(self) -> None:
        while not self.acknowledged():
            assert self.process.poll() is None, self.said
            time.sleep(0.02)

    def ends(self, codes: tuple[int, ...]) -> None:
        """It ends so, blames nobody, and is continued to a whole crawl."""
        code = self.process.wait(60)
        assert code in codes, f"exit {code}\n{self.said}"
        assert "Traceback" not in self.said, self.said
        found_whole(self.out)
        if (self.out / "results").is_dir():
            assert self._crawl.blamed(self.out) == []
        again = crawler(*self._crawl.command(self._tmp, self.out))
        assert again.returncode == 0, again.stderr
        self._crawl.check(self.out, self.acknowledged())


@pytest.mark.parametrize(("rule", "codes"), WHILE_IT_RUNS)
def test_a_fault_while_it_runs(crawl: MixedCrawl, tmp_path: Path, rule: str, codes: tuple[int, ...]) -> None:
    with Trial(crawl, tmp_path, "1s" if codes == ENDS else "3s") as trial:
        trial.wait_until_something_is_acknowledged()
        trial.faults.rules(rule)
        trial.ends(codes)
        assert trial.faults.seen() or codes == EITHER, "the fault never came"


@pytest.mark.parametrize(("rule", "codes"), AT_THE_START)
def test_a_fault_while_it_starts(crawl: MixedCrawl, tmp_path: Path, rule: str, codes: tuple[int, ...]) -> None:
    trial = Trial(crawl, tmp_path)
    trial.faults.rules(rule)
    with trial:
        trial.ends(codes)
        assert trial.faults.seen() or codes == EITHER, "the fault never came"


def test_failures_that_passed_are_over(crawl: MixedCrawl, tmp_path: Path) -> None:
    """The patience is for one failure that lasts, not for two that passed long after each other."""
    with Trial(crawl, tmp_path, "1500ms", rate="30") as trial:
        trial.wait_until_something_is_acknowledged()
        for number in (1, 2, 3):
            settled, began = len(trial.acknowledged()), time.monotonic()
            trial.faults.rules("pwrite 1-1 ENOSPC")
            while len(trial.acknowledged()) <= settled or time.monotonic() - began < 2:
                assert trial.process.poll() is None, trial.said
                time.sleep(0.02)
            assert trial.said.count("going back to the last commit") == number
        trial.ends(GOES_ON)


TORN = [("warc", "*.warc.gz.open"), ("warc", "*.cdxj.open"), ("warc", "*.jsonl"), ("files", "*/body-*"), ("discard", "*.jsonl")]


@pytest.mark.parametrize(("archive", "file"), TORN)
def test_who_gives_up_on_a_full_disk_leaves_no_torn_record(crawl: MixedCrawl, tmp_path: Path, archive: str, file: str) -> None:
    """A record is written to its half, then nothing more fits: exit 3, and what any reader finds are whole records."""
    with Trial(crawl, tmp_path, "1s", archive) as trial:
        trial.wait_until_something_is_acknowledged()
        tears = [f"write,pwrite 1-1 {action} {file}" for action in ("SHORT", "ENOSPC")] * 15  # each attempt tears anew
        trial.faults.rules(*tears, f"write,pwrite 1- ENOSPC {file}")
        assert trial.process.wait(60) == 3, trial.said
        assert len(trial.faults.seen()) > 3
        found_whole(trial.out)
    verified = command("verify", str(trial.out))
    assert verified.returncode == 0, verified


def test_it_pauses_on_a_full_disk_and_goes_on_by_itself(crawl: MixedCrawl, tmp_path: Path) -> None:
    with Trial(crawl, tmp_path, "60s") as trial:
        trial.wait_until_something_is_acknowledged()
        trial.faults.rules("write,pwrite,create,fallocate 1- ENOSPC")
        while "waits for disk" not in trial.said:
            assert trial.process.poll() is None, trial.said
            time.sleep(0.02)
        settled = len(trial.acknowledged())
        trial.faults.rules()
        trial.ends(GOES_ON)
        assert len(trial.acknowledged()) > settled


@pytest.mark.slow
def test_a_disk_that_is_full_for_one_process_pauses_that_one_alone(crawl: MixedCrawl, tmp_path: Path) -> None:
    """The other one goes on, and what it sends to the first one stands in the exchange file."""
    with Trial(crawl, tmp_path, disk_wait="100s", rate="80", processes=2) as trial:
        trial.wait_until_something_is_acknowledged()
        trial.faults.rules(*(f"write,pwrite,create,fallocate 1- ENOSPC {files}" for files in ("*/part-01/*", "*/p01*", "*p01~*")))
        while "No space left" not in trial.said:
            assert trial.process.poll() is None, trial.said
            time.sleep(0.02)
        before = trial.acknowledged()
        while len(trial.acknowledged()) < len(before) + 10:
            assert trial.process.poll() is None, trial.said
            time.sleep(0.02)
        division = division_at(trial.out / "frontier")
        share = division.share(0)
        owners = {share.owner(share.keys_by().host(host_key(url))) for url in trial.acknowledged().keys() - before.keys()}
        assert owners == {0}
        trial.faults.rules()
        trial.ends(GOES_ON)


@pytest.mark.parametrize("rule", ["recv 11-30 ENOBUFS", "recv 11-30 ENOMEM", "send 11-20 ENOBUFS"])
@pytest.mark.parametrize("program", [["-m", "crawler"], [str(BY_SESSION)]], ids=["lean", "session"])
def test_a_lack_met_while_an_answer_comes_cuts_no_page(tmp_path: Path, rule: str, program: list[str]) -> None:
    """Every other thing that is read is the second half of a body."""
    halves = page(1, 4000), page(2, 4000)
    site = Site(host="0.0.0.0", scripts={"halves": [head(8000) + halves[0], 0.05, halves[1], stay]})
    faults = Faults(tmp_path / "disk", tmp_path / "aside")
    with running(site):
        port = site.ports["http"]
        urls = [f"http://127.0.0.{n}:{port}/sin/halves?{k}" for n in range(1, 11) for k in range(4)]
        faults.rules(f"{rule} *:{port}")
        command = [sys.executable, *program, "run", "-i", "-", "-o", str(tmp_path / "out"), *LOCAL, "--retries", "0"]
        ended = subprocess.run(
            [*command, "--min-free-disk", "1MiB", "--archive", "files"],
            env=CLEAN | faults.environment,
            input="\n".join(urls),
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert ended.returncode == 0, ended.stderr
    assert faults.seen(), "the fault never came"
    assert Counter((row["outcome"], row["bytes_wire"]) for row in rows_of(tmp_path / "out")) == {("ok", 8000): len(urls)}


@pytest.mark.parametrize("parsers", ["0", "1"])
def test_forty_descriptors_are_enough(crawl: MixedCrawl, tmp_path: Path, parsers: str) -> None:
    """Fewer fetches, then; no page is blamed, and none loses its links."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "crawler", *crawl.command(tmp_path, out, "--workers", "200", "--parsers", parsers)]
    starved = ["prlimit", "--nofile=40", *command]
    ended = subprocess.run(starved, env=CLEAN, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=90)
    assert ended.returncode == 0, ended.stderr
    crawl.check(out)
