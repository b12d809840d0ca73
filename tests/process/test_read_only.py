"""Whoever may read a crawl's directory can use all that reads it, whether the crawl has ended, runs, or was killed."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import webs
from support.programs import CLEAN, LOCAL, command_of, crawler, crawling
from support.unwritable import by_mount, by_permission

ALL = """
import contextlib, io, json, sys
from pathlib import Path
import crawler
from crawler.cli.main import main

ends = []
for command in json.loads(sys.argv[2]):
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = main(command)
    ends.append((code, out.buffer.getvalue().decode()))
for page in crawler.read(sys.argv[1]):
    with page.open() as body:
        body.read()
print(json.dumps(ends))
"""
"""Runs commands one after the other in one process, then reads every body."""


@contextlib.contextmanager
def crawled(state: str, directory: Path, web: webs.Web, archive: str):
    """A crawl in this state, of which the page /0 was fetched at least."""
    urls = [web.url("127.0.0.1", f"/{n}") for n in range(5)] + [web.url("127.0.0.2", "/slow")] * (state != "finished")
    with crawling("run", *urls, "-o", str(directory), "--archive", archive, *LOCAL, "--progress", "plain") as process:
        if state == "finished":
            assert process.wait(60) == 0
        else:
            while crawler("results", str(directory)).stdout.count("\n") < 5:
                assert process.poll() is None, process.stderr.read()
        if state == "killed":
            process.send_signal(signal.SIGKILL)
            process.wait(60)
        yield


def snapshot(directory: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in [directory, *directory.rglob("*")]}


@pytest.mark.parametrize("unwritable", [by_permission, by_mount])
@pytest.mark.parametrize(
    ("state", "archive"),
    [("finished", "warc"), ("finished", "files"), ("running", "warc"), ("running", "files"), ("killed", "warc")],
)
def test_all_that_reads_needs_no_leave_to_write(tmp_path, state, archive, unwritable):
    out = tmp_path / "out"
    answers = {"/slow": webs.Answer(hang=True)}
    web = webs.Web({"127.0.0.2": answers}, default=lambda host, path: webs.text(f"page {path}"))
    with web.running(), crawled(state, out, web, archive), unwritable(out) as before:
        url = web.url("127.0.0.1", "/0")
        there = snapshot(out)
        commands = [
            ["results", str(out)],
            ["results", str(out), "--final", "--format", "csv"],
            ["export", str(out)],
            ["export", str(out), "--files", str(tmp_path / "to")],
            ["cat", str(out), url],
            ["why", url, "--data", str(out)],
            ["verify", str(out)],
        ]
        ended = subprocess.run(
            [*before, sys.executable, "-c", ALL, str(out), json.dumps(commands)],
            env=CLEAN,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, ended
        ends = json.loads(ended.stdout)
        assert [code for code, _ in ends] == [0] * len(commands), ends
        *_, cat, why, verify = [text for _, text in ends]
        assert cat == "page /0" and "settled as ok" in why and "no faults" in verify
        if state != "running":
            assert snapshot(out) == there, "reading changes nothing"


@pytest.mark.parametrize("command", [["results", "{}"], ["retry", "{}"], ["run", "-o", "{}"]])
def test_a_directory_that_may_not_be_looked_into_is_said_to_be_so(tmp_path, command):
    (tmp_path / "out" / "frontier").mkdir(parents=True)
    with by_permission(tmp_path / "out") as before:
        (tmp_path / "out").chmod(0)
        arguments = [word.format(tmp_path / "out") for word in command]
        ended = subprocess.run([*before, *command_of(arguments)], env=CLEAN, capture_output=True, text=True, check=False)
        (tmp_path / "out").chmod(0o700)
    assert ended.returncode == 2 and ended.stderr.endswith("out: Permission denied\n"), ended


def test_an_archive_that_may_not_be_read_is_not_found_to_be_without_faults(tmp_path):
    out = tmp_path / "out"
    web = webs.Web(default=lambda host, path: webs.text("page"))
    with web.running(), crawled("finished", out, web, "warc"), by_permission(out) as before:
        [archive] = (out / "warc").iterdir()
        archive.chmod(0)
        verify = [*before, *command_of(["verify", str(out)])]
        ended = subprocess.run(verify, env=CLEAN, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (3, f"{archive}: Permission denied\n"), ended


def mounted(script: str) -> list[str]:
    """Words before a command, which sees the mounts that ``script`` makes."""
    before = [
        "unshare",
        "--mount",
        *([] if os.geteuid() == 0 else ["--map-root-user"]),
        "sh",
        "-c",
        f'{script} && exec "$@"',
        "sh",
    ]
    if subprocess.run([*before, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespaces here")
    return before


def test_without_proc_no_store_is_called_damaged_and_a_crawl_says_what_it_lacks(tmp_path):
    before, out = mounted("mount -t tmpfs none /proc"), tmp_path / "out"
    web = webs.Web(default=lambda host, path: webs.page("/1") if path == "/0" else webs.text("page"))
    with web.running():
        url = web.url("127.0.0.1", "/0")
        run = ["run", url, "-o", str(out), "--depth", "1", *LOCAL]
        pages = ["export", str(out), "--format", "pages"]
        verify = ["verify", str(out)]
        ends = []
        listed = ["run", url, "-o", str(tmp_path / "listed"), *LOCAL]
        for command in (run, [*run, "--parsers", "0"], verify, pages, listed):
            done = subprocess.run([*before, *command_of(command)], env=CLEAN, capture_output=True, text=True, timeout=60)
            ends.append((done.returncode, done.stderr.splitlines()[-1]))
    (refused, why), (crawled, _), (verified, counts), (unread, what), (a_list, _) = ends
    assert (refused, crawled, verified, unread, a_list) == (2, 0, 0, 2, 0), ends
    assert why.startswith("crawler: /proc is not mounted") and what.startswith("crawler: /proc is not mounted"), ends
    assert "2 rows: no faults" in counts, ends


def test_where_the_shared_memory_is_full_the_temporary_directory_does(tmp_path):
    before = mounted("mount -t tmpfs -o size=4k full /dev/shm && { cat /dev/zero >/dev/shm/all; true; }")
    out = str(tmp_path / "out")
    web = webs.Web(default=lambda host, path: webs.text("page"))
    with web.running():
        run = ["run", web.url("127.0.0.1", "/"), "-o", out, "--min-free-disk", "0", *LOCAL]
        for command in (run, ["verify", out], ["results", out], run):
            done = subprocess.run([*before, *command_of(command)], env=CLEAN, capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", ["retry", "retire"])
def test_what_changes_a_crawl_says_that_it_must_write(tmp_path, command):
    out = tmp_path / "out"
    web = webs.Web(default=lambda host, path: webs.text("page"))
    with web.running(), crawled("finished", out, web, "warc"), by_permission(out) as before:
        arguments = [command, str(out), *(["--missing"] if command == "retire" else [])]
        ended = subprocess.run([*before, *command_of(arguments)], env=CLEAN, capture_output=True, text=True, check=False)
    assert ended.returncode == 2 and "it must be a directory that can be written" in ended.stderr, ended


LONG = "a" * 300
"""A name that no file system takes."""


@pytest.mark.parametrize("closed", ["out", "out/frontier", LONG])
def test_a_directory_that_may_not_be_looked_into_is_told_as_such(tmp_path, closed):
    (tmp_path / "out" / "frontier").mkdir(parents=True)
    (tmp_path / "urls").write_text("http://127.0.0.1:9/\n")
    with by_permission(tmp_path / "out") as before:
        if closed != LONG:
            (tmp_path / closed).chmod(0o700 if before else 0)
        root = str(tmp_path / (closed if closed == LONG else "out"))
        commands = [("run", "-i", str(tmp_path / "urls"), "-o", root), ("serve", "--data", root), ("checkpoint", root, "copy")]
        for command in [*commands, ("run", *commands[0][1:], "--processes", "1")]:
            done = subprocess.run([*before, *command_of(command)], env=CLEAN, capture_output=True, text=True, timeout=60)
            assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
            assert f"{root}: " in done.stderr
        if closed != LONG:
            (tmp_path / closed).chmod(0o755)


def test_a_checkpoint_whose_place_cannot_be_told_is_refused_before_it_is_taken(tmp_path):
    with webs.Web({"127.0.0.1": {"/": webs.page()}}).running() as web:
        assert crawler("run", web.url("127.0.0.1"), "-o", str(tmp_path / "out"), *LOCAL).returncode == 0
    done = crawler("checkpoint", str(tmp_path / "out"), str(tmp_path / LONG))
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_a_disk_with_a_folder_for_what_it_has_lost_itself_is_a_crawls_directory_too(tmp_path):
    """That of ext4 is root's."""
    out = tmp_path / "out"
    (out / "lost+found").mkdir(parents=True)
    web = webs.Web(default=lambda host, path: webs.text("page"))
    with web.running(), by_permission(out / "lost+found") as before:
        (out / "lost+found").chmod(0)

        def run(*further):
            run = command_of(["run", web.url("127.0.0.1", "/"), "-o", str(out), "--processes", "1", *further, *LOCAL])
            return subprocess.run([*before, *run], env=CLEAN, capture_output=True, text=True, check=False)

        assert (ended := run()).returncode == 0, ended.stderr
        (full,) = (out / "warc").iterdir()
        (out / "warc" / full.name.replace("-00000-", "-00001-")).with_suffix(".gz.open").touch()  # by a kill
        assert (ended := run()).returncode == 0, ended.stderr
        assert len(list((out / "lost+found.crawl").iterdir())) == 1
        assert (ended := run("--fresh")).returncode == 0, ended.stderr
        (aside,) = out.glob("previous-*")
        assert (aside / "lost+found.crawl").exists() and (out / "lost+found").exists()
        (out / "lost+found").chmod(0o700)
