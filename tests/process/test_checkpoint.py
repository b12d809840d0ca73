"""A copy of a crawl's directory, taken while it crawls: it is whole, and a crawl goes on from it without loss."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
import urllib.error
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from support.crews import kill, parts_of
from support.daemons import served
from support.other_disk import on_another_disk
from support.programs import CLEAN, LOCAL, MOUNTING, command, command_of, crawler, rows_of
from support.sinful import Site, running
from support.webs import Web, page

NOBODY = 65534


@pytest.fixture(scope="module")
def site():
    with running(Site(host="0.0.0.0")) as site:
        yield site


def urls(site, count, hosts=20):
    return [f"http://127.0.0.{n % hosts + 1}:{site.ports['http']}/good/{n}" for n in range(count)]


def settled(root):
    return [row["url"] for row in rows_of(root) if row["outcome"] == "ok"]


def ask_for_a_copy(daemon, name):
    headers = {"Content-Type": "application/json"}
    return daemon.ask("POST", "/v1/checkpoint", json.dumps({"name": name}).encode(), headers.items())


@pytest.mark.parametrize("archive", ["warc", pytest.param("files", marks=pytest.mark.slow)])
def test_a_copy_of_a_crawl_that_runs_is_whole_and_goes_on(tmp_path, site, archive):
    """Files are rolled all the time, and the original is killed after the copy was taken."""
    wanted, settings = urls(site, 300), ("--archive", archive, "--roll-size", "40kB")
    root, copy = tmp_path / "d", tmp_path / "copy"
    with served(root, "--rate", "400", *settings) as daemon:
        daemon.ask("POST", "/v1/seeds?list=l", "\n".join(wanted).encode())
        while daemon.ask("GET", "/v1/status")["done"] < 100:
            time.sleep(0.01)
        done = command("checkpoint", str(root), str(copy), "--listen", daemon.listen)
        assert done.returncode == 0, done.stderr
        told = ask_for_a_copy(daemon, "mine")
        assert (told["path"], told["missing"]) == (str(root / "checkpoints" / "mine"), [])
        daemon.process.kill()
    assert 100 <= len(settled(copy)) <= 300
    again = tmp_path / "again"
    assert command("checkpoint", str(root / "checkpoints" / "mine"), str(again)).returncode == 0, "a copy of a copy"
    (tmp_path / "list").write_text("")
    for directory in (copy, again, root):  # the original, too: it shares files with them
        if directory != root:
            assert command("verify", str(directory)).returncode == 0
        gone_on = command("run", "-i", str(tmp_path / "list"), "-o", str(directory), *LOCAL, *settings)
        assert gone_on.returncode == 0, gone_on.stderr
        assert sorted(settled(directory)) == sorted(wanted), "each once"
        assert command("verify", str(directory)).returncode == 0


@pytest.mark.parametrize(("copied_at", "pages"), [((15, 40), 80), pytest.param(range(20, 400, 20), 450, marks=pytest.mark.slow)])
def test_a_copy_of_several_processes_is_one_cut(tmp_path, copied_at, pages):
    """They send each other nearly every link. Parts are killed among the copies, and all of it after the last one."""
    hosts = [f"127.0.11.{n}" for n in range(1, 21)]
    web = Web()

    def answer(host, path):
        n = int(path[1:])
        return page(*(web.url(hosts[m % 20], f"/{m}") for m in (2 * n, 2 * n + 1) if m <= pages))

    web.default = answer
    links = ("--depth", "20", "--scope", "any", "--parsers", "0", "--memory-limit", "1GiB", "--roll-size", "40kB")
    root = tmp_path / "d"
    with web.running():
        copies = []
        with served(root, *links, "--processes", "3", "--rate", "100") as daemon:
            daemon.ask("POST", "/v1/seeds", web.url(hosts[1], "/1").encode())
            for done in copied_at:
                while daemon.ask("GET", "/v1/status")["done"] < done:
                    time.sleep(0.01)
                copies.append(tmp_path / f"copy-{done}")
                told = command("checkpoint", str(root), str(copies[-1]), "--listen", daemon.listen)
                assert told.returncode == 0, told.stderr
                assert len(settled(copies[-1])) >= done
                if len(copies) % 8 == 1:
                    kill(parts_of(daemon.process.pid)[0])
            kill(daemon.process.pid)
            daemon.process.wait()
        copies.append(tmp_path / "still")
        while command("checkpoint", str(root), str(copies[-1])).returncode == 75:
            time.sleep(0.01)  # its parts are about to end
        (tmp_path / "list").write_text("")
        for directory in copies[1:]:
            gone_on = crawler("run", "-i", str(tmp_path / "list"), "-o", str(directory), *LOCAL, *links)
            assert gone_on.returncode == 0, gone_on.stderr
            assert sorted(settled(directory)) == sorted(web.url(hosts[n % 20], f"/{n}") for n in range(1, pages + 1))
            assert command("verify", str(directory)).returncode == 0
            assert len(list((directory / "frontier").glob("part-*"))) == 3


def test_what_was_opened_for_a_copy_of_which_one_process_has_no_part_is_closed(tmp_path):
    root, web = tmp_path / "d", Web(default=lambda host, path: page("/x"))
    with web.running(), served(root, "--processes", "2", "--parsers", "0", "--memory-limit", "1GiB") as daemon:
        daemon.ask("POST", "/v1/seeds", "\n".join(web.url(f"127.0.12.{n}", "/") for n in range(1, 20)).encode())
        while daemon.ask("GET", "/v1/status")["done"] < 19:
            time.sleep(0.01)
        other, lost = sorted((root / "results").iterdir())
        lost.unlink()
        with pytest.raises(urllib.error.HTTPError) as refused:
            ask_for_a_copy(daemon, "a")
        with refused.value as told:
            assert told.code == 503
        opened = [Path(f"/proc/{part}/fd").iterdir() for part in parts_of(daemon.process.pid)]
        assert [fd.resolve() for fds in opened for fd in fds].count(other) == 1


def test_what_cannot_be_copied_is_said(tmp_path, site):
    root = tmp_path / "d"
    assert command("run", *urls(site, 2), "-o", str(root), *LOCAL).returncode == 0
    assert command("checkpoint", str(root), str(root)).returncode == 2
    assert command("checkpoint", str(tmp_path), str(tmp_path / "x")).returncode == 2
    for target, said in (
        (".", ".: there is something already"),
        ("/", "/: there is something already"),
        ("", "must not be empty"),
    ):
        refused = command("checkpoint", str(root), target)
        assert (refused.returncode, said in refused.stderr) == (2, True), refused.stderr
    with served(tmp_path / "other") as daemon, served(root) as mine:
        refused = command("checkpoint", str(root), str(tmp_path / "x"), "--listen", daemon.listen)
        assert (refused.returncode, "the daemon that was asked runs" in refused.stderr) == (75, True)
        refused = command("checkpoint", str(root), str(tmp_path / "x"), "--listen", "127.0.0.1:1")
        assert (refused.returncode, "crawler run is copied when it has ended" in refused.stderr) == (75, True)
        mine.process.kill()
        ask_for_a_copy(daemon, "a")
        for name in ("a", "../a", "a.unfinished", ".a"):
            with pytest.raises(OSError):
                ask_for_a_copy(daemon, name)
    (root / "checkpoints" / "x.unfinished").mkdir(parents=True)
    assert command("checkpoint", str(root), str(tmp_path / "x")).returncode == 0
    assert not list((root / "checkpoints").iterdir()), "what a kill left is gone"


def test_where_nothing_can_be_put_no_copy_is_taken(tmp_path, site):
    """Each attempt left one more in the crawl's directory: of every night, where the disk of a backup is read-only."""
    root, disk = tmp_path / "d", tmp_path / "disk"
    assert command("run", *urls(site, 1), "-o", str(root), *LOCAL).returncode == 0
    (tmp_path / "link").symlink_to("nowhere")
    refused = command("checkpoint", str(root), str(tmp_path / "link"))
    assert (refused.returncode, "there is something already" in refused.stderr) == (2, True), refused.stderr
    assert not list(root.glob("checkpoints/*"))
    disk.mkdir()
    copy = shlex.join(command_of(["checkpoint", str(root), str(disk / "new" / "copy")]))
    ended = subprocess.run(
        [*MOUNTING, "sh", "-c", f"mount -t tmpfs -o ro tmpfs {disk} || exit 77; {copy}"],
        env=CLEAN,
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode == 77:
        pytest.skip("no disk can be mounted here")
    assert (ended.returncode, f"nothing can be written to {disk}" in ended.stderr) == (2, True), ended.stderr
    assert not list(root.glob("checkpoints/*"))


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="only root gives capabilities")
def test_a_user_who_may_write_there_by_capability_alone_makes_a_copy(site):
    """Such as a service for backups, with CAP_DAC_OVERRIDE: access(2) does not count it, and it was refused."""
    with TemporaryDirectory() as folder:  # which others may look into
        Path(folder).chmod(0o755)
        root, target = Path(folder, "d"), Path(folder, "copy")
        assert command("run", *urls(site, 1), "-o", str(root), *LOCAL).returncode == 0
        for path in (root, *root.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
        may = ["--inh-caps", "+dac_override", "--ambient-caps", "+dac_override"]
        copied = ["setpriv", "--reuid", str(NOBODY), "--clear-groups", *may, *command_of(["checkpoint", str(root), str(target)])]
        ended = subprocess.run(copied, env=CLEAN, capture_output=True, text=True, check=False)
        if ended.stderr.startswith("setpriv:"):
            pytest.skip("no capabilities can be given here")
        assert ended.returncode == 0 and target.is_dir(), ended.stderr


def test_a_daemon_that_was_given_a_relative_path_is_asked_from_another_directory(tmp_path, monkeypatch):
    (tmp_path / "elsewhere" / "d").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with served(Path("d")) as daemon:
        monkeypatch.chdir("elsewhere")
        done = command("checkpoint", "../d", "../copy", "--listen", daemon.listen)
        assert done.returncode == 0, done.stderr
        assert ask_for_a_copy(daemon, "a")["path"] == str(tmp_path / "d" / "checkpoints" / "a")
    assert command("verify", str(tmp_path / "copy")).returncode == 0


def test_a_copy_that_does_not_fit_on_another_disk_is_not_there_and_one_that_fits_is_whole(tmp_path, site):
    root, disk = tmp_path / "d", tmp_path / "disk"
    disk.mkdir()
    assert command("run", *urls(site, 20), "-o", str(root), *LOCAL).returncode == 0
    copies = root / "checkpoints"

    def on_disk_of(size, target):
        """What is said, and what is on the disk afterwards."""
        copy = shlex.join(command_of(["checkpoint", str(root), target]))
        verify = shlex.join(command_of(["verify", target]))
        script = f"mount -t tmpfs -o size={size} tmpfs {disk} || exit 77; {copy}; echo rc $?; ls -A {disk}; {verify}"
        ended = subprocess.run([*MOUNTING, "sh", "-c", script], env=CLEAN, capture_output=True, text=True, check=False)
        if ended.returncode == 77 or "unshare" in ended.stderr:
            pytest.skip("no mount namespaces here")
        return ended.stderr, ended.stdout.split()

    said, there = on_disk_of("64k", f"{disk}/copy")
    assert there == ["rc", "3"] and "No space left on device; the checkpoint is at" in said, said
    assert [command("verify", str(made)).returncode for made in copies.iterdir()] == [0], "it is where it is said to be"
    said, there = on_disk_of("64m", f"{disk}/copy")
    assert there == ["rc", "0", "copy"] and "no faults" in said, said
    assert len(list(copies.iterdir())) == 1, "the second was moved"


def test_a_copy_to_another_disk_that_is_ended_leaves_nothing_there(tmp_path, site):
    root = tmp_path / "d"
    assert command("run", *urls(site, 3), "-o", str(root), *LOCAL).returncode == 0
    program = (
        "import os, shutil, signal, sys; from crawler.cli.main import main\n"
        "shutil.copy2 = lambda *given: os.kill(os.getpid(), signal.SIGTERM)\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    with on_another_disk(tmp_path) as disk:
        arguments = (sys.executable, "-c", program, "checkpoint", str(root), str(disk / "copy"))
        ended = subprocess.run(arguments, env=CLEAN, capture_output=True, text=True, check=False)
        (made,) = (root / "checkpoints").iterdir()
        assert ended.returncode == 143 and f"the checkpoint is at {made}" in ended.stderr, ended
        assert list(disk.iterdir()) == []
        (disk / "copy.unfinished").mkdir()  # by a kill
        ended = command("checkpoint", str(root), str(disk / "copy"))
        assert ended.returncode == 2 and "copy.unfinished: left by a copy" in ended.stderr, ended
        assert [*(root / "checkpoints").iterdir()] == [made], "no further one is taken, to stay there"
        (disk / "copy.unfinished").rmdir()
        assert command("checkpoint", str(root), str(disk / "copy")).returncode == 0
