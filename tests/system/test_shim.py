"""The shim by itself: what it fails, what it lets through, and that its log holds all that happened."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.faults.log import Kind, notes, read_log
from support.faults.powercut import Disk
from support.faults.shim import Faults

PRELUDE = """
import ctypes, fcntl, os, sys
os.chdir(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
def checked(result):
    if result < 0: raise OSError(ctypes.get_errno(), 'libc')
    return result
def put(name, data=b'x' * 100, flags=0):
    fd = os.open(name, os.O_CREAT | os.O_WRONLY | os.O_APPEND | flags)
    os.write(fd, data)
    os.close(fd)
fd = os.open('old', os.O_RDWR)
"""


@pytest.fixture
def faults(tmp_path: Path) -> Faults:
    faults = Faults(tmp_path / "disk", tmp_path / "aside")
    (faults.folder / "old").write_bytes(b"0123456789")
    return faults


def run(faults: Faults, program: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-S", "-c", PRELUDE + program, str(folder or faults.folder)]
    return subprocess.run(command, env={**os.environ, **faults.environment}, capture_output=True, text=True, timeout=60)


CALLS = {
    "write": "os.write(fd, b'new')",
    "pwrite": "os.pwrite(fd, b'new', 5)",
    "writev": "os.writev(fd, [b'n', b'ew'])",
    "read": "os.read(fd, 3)",
    "pread": "os.pread(fd, 3, 0)",
    "fsync": "os.fsync(fd)",
    "fdatasync": "os.fdatasync(fd)",
    "syncfs": "checked(libc.syncfs(fd))",
    "sync_file_range": "checked(libc.sync_file_range(fd, ctypes.c_int64(0), ctypes.c_int64(0), 2))",
    "ftruncate": "os.ftruncate(fd, 3)",
    "truncate": "os.truncate('old', 3)",
    "fallocate": "checked(libc.fallocate(fd, 0, ctypes.c_int64(0), ctypes.c_int64(9000)))",
    "rename": "os.rename('old', 'older')",
    "link": "os.link('old', 'also')",
    "unlink": "os.unlink('old')",
    "mkdir": "os.mkdir('folder')",
    "rmdir": "os.rmdir('folder')",
    "create": "os.open('new', os.O_CREAT | os.O_WRONLY)",
    "open": "os.open('old', os.O_RDONLY)",
}


@pytest.mark.parametrize("code", ["ENOSPC", "EIO"])
@pytest.mark.parametrize("call", CALLS)
def test_every_call_fails_as_told_and_changes_nothing(faults: Faults, call: str, code: str) -> None:
    if call == "rmdir":
        (faults.folder / "folder").mkdir()
    faults.rules(f"{call} {2 if call == 'open' else 1}- {code}")  # the prelude opens once
    before = sorted(faults.folder.rglob("*")), (faults.folder / "old").read_bytes()
    ended = run(faults, f"try: {CALLS[call]}\nexcept OSError as error: print(error.errno)")
    assert (ended.stdout, ended.stderr) == (f"{getattr(errno, code)}\n", "")
    assert (sorted(faults.folder.rglob("*")), (faults.folder / "old").read_bytes()) == before
    assert faults.seen() == [f"{call} {code} {call}"]


@pytest.mark.parametrize("call", CALLS)
def test_outside_its_directory_nothing_is_touched(faults: Faults, tmp_path: Path, call: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "old").write_bytes(b"0123456789")
    if call == "rmdir":
        (outside / "folder").mkdir()
    faults.rules("* 1- EIO")
    ended = run(faults, CALLS[call], outside)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert read_log(faults.log) == []


def test_only_the_calls_from_n_to_m_fail(faults: Faults) -> None:
    faults.rules("write 3-4 EDQUOT")
    program = "for n in range(6):\n  try: print(os.write(fd, b'x' * n))\n  except OSError as error: print(error.strerror)"
    said = run(faults, program).stdout.split("\n")
    assert said[:6] == ["0", "1", "Disk quota exceeded", "Disk quota exceeded", "4", "5"]


def test_a_pattern_chooses_the_files(faults: Faults) -> None:
    faults.rules("write,create 1- ENOSPC *.warc")
    ended = run(faults, "put('a.jsonl'); print('a')\nput('b.warc')")
    assert ended.stdout == "a\n" and "No space left on device" in ended.stderr
    assert sorted(path.name for path in faults.folder.iterdir()) == ["a.jsonl", "old"]


def test_a_short_write_is_half_of_it(faults: Faults) -> None:
    faults.rules("write 1-1 SHORT")
    ended = run(faults, "print(os.write(fd, b'abcdefgh'), os.write(fd, b'abcdefgh'))")
    assert ended.stdout == "4 8\n"
    assert [record.data for record in read_log(faults.log) if record.kind is Kind.WRITE] == [b"abcd", b"abcdefgh"]


def test_killed_at_the_very_call(faults: Faults) -> None:
    faults.rules("write 3-3 KILL")
    ended = run(faults, "while True: os.write(fd, b'ab')")
    assert ended.returncode == -9
    assert (faults.folder / "old").read_bytes() == b"abab456789"


def test_rules_are_switched_while_it_runs(faults: Faults) -> None:
    program = PRELUDE + (
        "for line in sys.stdin:\n"
        "  try: print(os.write(fd, b'abc'), flush=True)\n"
        "  except OSError as error: print(error, flush=True)"
    )
    command = [sys.executable, "-S", "-c", program, str(faults.folder)]
    environment = {**os.environ, **faults.environment}
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin and child.stdout

        def ask() -> str:
            assert child.stdin and child.stdout
            child.stdin.write("write\n")
            child.stdin.flush()
            return child.stdout.readline().strip()

        assert ask() == "3"
        faults.rules("write 1- ENOSPC")
        assert ask() == ask() == "[Errno 28] No space left on device"
        faults.rules()
        assert ask() == "3"


def test_descriptors_given_anew_behind_its_back_are_not_mistaken(faults: Faults) -> None:
    faults.rules("write 1- EIO")
    ended = run(
        faults,
        "import _posixsubprocess\n"  # forks with vfork: the child closes descriptors in our memory
        "os.spawnv(os.P_WAIT, '/bin/true', ['true'])\n"
        "libc.syscall(3, fd)\n"  # close, past the shim
        "pipe, end = os.pipe()\nassert fd in (pipe, end)\nassert os.write(end, b'abc') == 3 and os.read(pipe, 3) == b'abc'",
    )
    assert (ended.returncode, ended.stderr) == (0, "")


def test_children_are_under_it_too(faults: Faults) -> None:
    run(faults, "os.system('echo hello > child'); put('parent')")
    records = read_log(faults.log)
    assert {Path(record.path).name for record in records if record.kind is Kind.CREATE} == {"child", "parent"}
    assert len({record.pid for record in records}) > 1


def test_notes_stand_where_they_were_said(faults: Faults) -> None:
    run(faults, "put('a'); libc.faults_note(b'a is there'); put('b')")
    kinds = [record.kind for record in read_log(faults.log)]
    assert kinds.index(Kind.NOTE) > kinds.index(Kind.WRITE) and notes(read_log(faults.log)) == ["a is there"]


def test_a_shared_mapping_is_named_because_its_stores_are_not_seen(faults: Faults) -> None:
    run(faults, "import mmap; mmap.mmap(fd, 10)[0:1] = b'x'")
    with pytest.raises(ValueError, match="old is written through a shared mapping"):
        Disk(faults.folder, base=faults.folder).play(read_log(faults.log))
    Disk(faults.folder, base=faults.folder, mapped={"old"}).play(read_log(faults.log))


NAMES = st.sampled_from(["a", "b", "c", "folder/a", "folder/b"])
DATA = st.binary(min_size=1, max_size=2000)
STEPS = st.one_of(
    st.builds("put({!r}, {!r})".format, NAMES, DATA),
    st.builds("put({!r}, {!r}, os.O_TRUNC)".format, NAMES, DATA),
    st.builds("os.rename({!r}, {!r})".format, NAMES, NAMES),
    st.builds("os.link({!r}, {!r})".format, NAMES, NAMES),
    st.builds("os.unlink({!r})".format, NAMES),
    st.builds("os.truncate({!r}, {})".format, NAMES, st.integers(0, 3000)),
    st.builds("os.pwrite(os.open({!r}, os.O_RDWR), {!r}, {})".format, NAMES, DATA, st.integers(0, 3000)),
    st.builds("os.writev(os.open({!r}, os.O_RDWR), [{!r}, {!r}])".format, NAMES, DATA, DATA),
    st.builds(
        "checked(libc.posix_fallocate(os.open({!r}, os.O_RDWR), ctypes.c_int64(0), ctypes.c_int64({})))".format,
        NAMES,
        st.integers(1, 3000),
    ),
    st.just("os.mkdir('folder')"),
    st.just("os.rename('folder', 'other')"),
    st.just("os.rmdir('folder')"),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(st.lists(STEPS, min_size=10, max_size=60))
def test_with_nothing_missing_the_rebuilt_directory_is_the_real_one(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str]
) -> None:
    aside = tmp_path_factory.mktemp("run")
    faults = Faults(aside / "disk", aside / "aside")
    (faults.folder / "old").write_bytes(b"0123456789")
    base = aside / "base"
    base.mkdir()
    (base / "old").write_bytes(b"0123456789")
    ended = run(faults, "\n".join(f"try: {step}\nexcept OSError: pass" for step in ["os.mkdir('folder')", *steps]))
    assert ended.stderr == ""
    Disk(faults.folder, base).play(read_log(faults.log)).rebuild(aside / "rebuilt")
    assert tree(aside / "rebuilt") == tree(faults.folder)


def tree(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes() for path in folder.rglob("*")}
