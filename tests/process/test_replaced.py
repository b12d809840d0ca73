"""A crawl's directory that is moved away or replaced while it is crawled: it ends, and writes to no other crawl."""

from __future__ import annotations

import hashlib
import shlex
import subprocess
from pathlib import Path

import pytest
from support.programs import CLEAN, LOCAL, MOUNTING, command, command_of, crawler, crawling, rows_of
from support.waiting import wait_until
from support.webs import Web, page


def files_of(root: Path) -> dict[str, str]:
    """Every file but the lock, and its digest."""
    found = (path for path in root.rglob("*") if path.is_file() and path.name != "lock")
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


@pytest.fixture
def web():
    web = Web()
    web.default = lambda host, path: page(*(f"{path}{n}" for n in range(3))) if len(path) < 6 else page()
    with web.running():
        yield web


@pytest.mark.parametrize("processes", ["1", "2"])
def test_who_is_put_in_its_place_is_not_written_over(web, tmp_path, processes):
    here, aside, other = tmp_path / "out", tmp_path / "aside", tmp_path / "other"
    options = (web.url("127.0.0.2", "/"), *LOCAL, "--depth", "9", "--min-free-disk", "0", "--processes", processes)
    assert crawler("run", *options, "-o", str(other), "--max-pages", "80").returncode == 5
    with crawling("run", *options, "-o", str(here), "--rate", "50") as process:
        wait_until(lambda: here.exists() and sum(path.stat().st_size for path in (here / "results").rglob("*.jsonl")))
        before = files_of(other)
        here.rename(aside)
        other.rename(here)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 3, said
    assert "was moved, deleted or replaced" in said and "Traceback" not in said
    assert files_of(here) == before
    for root in (here, aside):
        assert crawler("run", *options, "-o", str(root)).returncode == 0
        assert len({row["url"] for row in rows_of(root)}) == len(rows_of(root)) == 364
        assert command("verify", str(root)).returncode == 0


def test_moved_away_it_ends(web, tmp_path):
    here = tmp_path / "out"
    with crawling("run", web.url("127.0.0.2", "/"), *LOCAL, "--depth", "9", "-o", str(here), "--rate", "50") as process:
        wait_until(lambda: here.exists() and sum(path.stat().st_size for path in (here / "results").rglob("*.jsonl")))
        here.rename(tmp_path / "trash")
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 3, said
    assert "was moved, deleted or replaced" in said and "Traceback" not in said
    assert not here.exists()


def test_a_crawl_with_a_mounted_folder_is_set_aside_whole_or_not_at_all(web, tmp_path):
    """A folder on which a disk is mounted cannot be moved; an empty one need not be."""
    out = tmp_path / "out"
    (out / "warc").mkdir(parents=True)
    run = shlex.join(command_of(["run", web.url("127.0.0.2", "/"), *LOCAL, "-o", str(out)]))
    steps = [
        f"mount -t tmpfs tmpfs {out}/warc || exit 77; {run}",
        f"{run} --fresh",
        shlex.join(command_of(["verify", str(out)])),
        f"rm {out}/warc/*; {run} --fresh",
        f"ls -d {out}/previous-*",
    ]
    script = "; ".join(f"{step}; echo {number} $?" for number, step in enumerate(steps))
    ended = subprocess.run([*MOUNTING, "sh", "-c", script], env=CLEAN, capture_output=True, text=True, check=False)
    if ended.returncode == 77 or "unshare" in ended.stderr:
        pytest.skip("no mount namespaces here")
    said = ended.stdout.split()
    assert said[:8] == ["0", "0", "1", "2", "2", "0", "3", "0"] and len(said) == 11, ended
    assert "warc: it cannot be set aside: a disk is mounted there" in ended.stderr
    assert {path.name for path in Path(said[8]).iterdir()} == {"frontier", "index", "results", "tmp", "crawl.toml"}
