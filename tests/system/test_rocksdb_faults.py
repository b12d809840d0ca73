"""RocksDB alone, as the store uses it: written without sync, then ``flush_wal(True)``. What that acknowledged is there
after any power cut, and a batch is there whole or not at all; an acknowledgement is never given for a failed write."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
from rocksdict import Options, Rdict
from support.faults.log import notes, read_log
from support.faults.powercut import SECTOR_BYTES, Disk
from support.faults.shim import Faults

from crawler.frontier.rocksdb.manifest import crc32c, masked_crc, trim

PROGRAM = """
import ctypes, sys
from rocksdict import Options, Rdict, WriteBatch
note = ctypes.CDLL(None).faults_note
def open_store(path):
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.create_missing_column_families(True)
    options.set_write_buffer_size(64 << 10)
    options.set_target_file_size_base(64 << 10)
    options.set_level_zero_file_num_compaction_trigger(2)
    return Rdict(path, options, {"one": options, "two": options})
def commit(store, number):
    batch = WriteBatch(raw_mode=True)
    for key in range(5):
        for family in ("one", "two"):
            batch.put(b"%06d.%d" % (number, key), b"v%d" % number * 100, store.get_column_family_handle(family))
    store.write(batch)
    store.flush_wal(True)
    note(b"%d" % number)
store = open_store(sys.argv[1])
batches = int(sys.argv[2])
for number in range(batches):
    try:
        commit(store, number)
    except Exception as error:
        print(error, flush=True)
        break
    if number == batches // 2:
        store.close()
        store = open_store(sys.argv[1])
"""


def run(faults: Faults, batches: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, str(faults.folder), str(batches)]
    environment = {**os.environ, **faults.environment}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)


def opened(path: Path) -> Rdict:
    options = Options(raw_mode=True)
    options.create_missing_column_families(True)
    return Rdict(str(path), options, {"one": options, "two": options})


def found(path: Path) -> dict[int, set[bytes]]:
    """Batches by number: the keys of both families."""
    batches: dict[int, set[bytes]] = {}
    if not (path / "CURRENT").exists():
        return batches
    try:
        store = opened(path)
    except Exception as error:
        assert str(error).startswith("Corruption") and trim(path), error
        store = opened(path)
    for family in ("one", "two"):
        for key, value in store.get_column_family(family).items():
            assert value == b"v%d" % int(key[:6]) * 100
            batches.setdefault(int(key[:6]), set()).add(family.encode() + key)
    store.close()
    return batches


def check(path: Path, acknowledged: list[str]) -> None:
    batches = found(path)
    assert all(len(keys) == 10 for keys in batches.values()), "a batch is there in part"
    missing = {int(number) for number in acknowledged} - set(batches)
    assert not missing, f"acknowledged, but not there: {sorted(missing)}"
    assert sorted(batches) == list(range(len(batches))), "an earlier batch is missing, a later one is there"


def test_what_was_acknowledged_is_there_after_any_power_cut(tmp_path: Path) -> None:
    faults = Faults(tmp_path / "disk", tmp_path / "aside")
    assert run(faults, 400).returncode == 0
    records = read_log(faults.log)
    assert len(notes(records)) == 400
    assert sum(record.path.endswith(".sst") for record in records) > 10, "no table was written: too little happened"
    rng = random.Random(20)
    for number in range(30):
        cut = rng.randrange(len(records))
        target = tmp_path / f"after-{number}"
        said = Disk(faults.folder).play(records[:cut]).rebuild(target, rng)
        try:
            check(target, notes(records, cut))
        except Exception as error:
            error.add_note(f"cut at {cut} of {len(records)}: {said}")
            raise


@pytest.mark.parametrize("gone", ["first", "second"])
def test_a_manifest_torn_while_it_was_being_synced_is_cut_and_nothing_acknowledged_is_lost(tmp_path: Path, gone: str) -> None:
    """RocksDB alone refuses such a directory as corrupt. Of two edits in one sync, the first lies over the end of a sector,
    and one of its two sectors did not come."""
    faults = Faults(tmp_path / "disk", tmp_path / "aside")
    assert run(faults, 50).returncode == 0
    manifest = faults.folder / (faults.folder / "CURRENT").read_text().strip()
    whole = manifest.read_bytes()
    before = SECTOR_BYTES - len(whole) % SECTOR_BYTES
    if before < 20:  # room for the header and more
        before += SECTOR_BYTES
    first = edit(b"x" * (before + 60))
    torn = bytes(before) + first[before:] if gone == "first" else first[:before] + bytes(len(first) - before)
    manifest.write_bytes(whole + torn + edit(b"y" * 9))
    with pytest.raises(Exception, match="Corruption") if gone == "second" else nullcontext():
        opened(faults.folder).close()
    check(faults.folder, notes(read_log(faults.log)))
    if gone == "second":
        assert manifest.with_name(f"torn-{manifest.name}").read_bytes().startswith(whole + torn)


def edit(data: bytes) -> bytes:
    """A whole record of RocksDB's log format."""
    return struct.pack("<I", masked_crc(crc32c(b"\x01" + data))) + struct.pack("<HB", len(data), 1) + data


def test_a_manifest_damaged_otherwise_is_left_as_it_is(tmp_path: Path) -> None:
    faults = Faults(tmp_path / "disk", tmp_path / "aside")
    assert run(faults, 20).returncode == 0
    manifest = faults.folder / (faults.folder / "CURRENT").read_text().strip()
    for offset in (10, 200, manifest.stat().st_size - 3):
        data = bytearray(manifest.read_bytes())
        data[offset] ^= 0xFF
        manifest.write_bytes(data)
        assert trim(faults.folder) is None and manifest.read_bytes() == data
        data[offset] ^= 0xFF
        manifest.write_bytes(data)
    assert trim(faults.folder) is None


@pytest.mark.parametrize(
    "rule", ["write 60-60 ENOSPC", "write 60- ENOSPC", "fdatasync,fsync 30-30 EIO", "create 40- ENOSPC", "rename 6- EIO"]
)
def test_a_failed_write_is_told_and_nothing_acknowledged_is_lost(tmp_path: Path, rule: str) -> None:
    faults = Faults(tmp_path / "disk", tmp_path / "aside")
    faults.rules(rule)
    ended = run(faults, 400)
    said = ended.stdout + ended.stderr
    assert faults.seen() and ("No space" in said or "Input/output" in said), ended
    records = read_log(faults.log)
    assert len(notes(records)) < 400
    check(faults.folder, notes(records))
    rng = random.Random(20)
    for number in range(3):
        target = tmp_path / f"after-{number}"
        Disk(faults.folder).play(records).rebuild(target, rng)
        check(target, notes(records))
