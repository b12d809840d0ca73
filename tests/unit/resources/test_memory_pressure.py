"""The memory watch: real and made-up /proc and /sys/fs/cgroup, and what each state does."""

import mmap
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.machine import Machine

from crawler.resources import cgroup
from crawler.resources.memory_pressure import (
    CRITICAL,
    END_AFTER_S,
    HIGH,
    RESTART_AFTER_S,
    SINGLE_AFTER_S,
    MemoryReading,
    Meter,
    Watch,
)

MIB = 1 << 20


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def rollup(pss_kib: int) -> str:
    return f"00400000-7fff [rollup]\nRss:  {pss_kib * 2} kB\nPss:  {pss_kib} kB\nPss_Dirty: 1 kB\n"


@pytest.fixture
def proc(tmp_path):
    path = tmp_path / "proc"
    put(path / "self" / "smaps_rollup", rollup(100_000))
    put(path / "7" / "smaps_rollup", rollup(20_000))
    put(path / "8" / "status", "Name: x\nVmRSS:\t 5000 kB\n")
    put(path / "self" / "cgroup", "0::/\n")
    return path


@pytest.fixture
def root(tmp_path):
    return tmp_path / "cgroup"


def test_the_tree_is_added_up(proc, root):
    """A process that hides its maps counts what it has resident; one that is gone counts nothing."""
    meter = Meter(200 * MIB, lambda: [7, 8, 9], proc=proc, root=root)
    assert meter.read() == MemoryReading(125_000 << 10, 200 * MIB)
    assert meter.read().pressure == pytest.approx(125_000 / 204_800)


def test_without_a_descriptor_to_read_with_the_last_reading_stays(proc, root):
    """None would say that all is well."""
    meter = Meter(200 * MIB, lambda: [7, 8, 9], proc=proc, root=root)
    before = meter.read()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        assert meter.read() == before
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    put(proc / "self" / "smaps_rollup", "Pss: 1 kB\n")
    assert meter.read().pss < before.pss


def test_v2_the_smallest_ancestor_limits(proc, root):
    put(proc / "self" / "cgroup", "0::/crawl.slice/crawler@a.service\n")
    put(root / "crawl.slice" / "memory.max", f"{300 * MIB}\n")
    put(root / "crawl.slice" / "memory.stat", f"anon {200 * MIB}\nfile {900 * MIB}\nkernel {20 * MIB}\nshmem {10 * MIB}\n")
    put(root / "crawl.slice" / "crawler@a.service" / "memory.max", "max\n")
    put(root / "crawl.slice" / "crawler@a.service" / "memory.stat", f"anon {100 * MIB}\n")
    found = cgroup.find(proc, root)
    assert found == cgroup.Group(root / "crawl.slice", 300 * MIB)
    assert cgroup.used(found) == 230 * MIB
    reading = Meter(1 << 30, proc=proc, root=root).read()
    assert reading.pressure == pytest.approx(230 / 300), "a neighbour in the slice has taken it, and it is full all the same"
    put(root / "crawl.slice" / "crawler@a.service" / "memory.max", f"{100 * MIB}\n")
    assert Meter(1 << 30, proc=proc, root=root).read().pressure == 1.0, "limits may change while we run"


def test_v2_what_the_kernel_can_drop_is_not_used(proc, root):
    put(root / "memory.max", f"{100 * MIB}")
    put(root / "memory.stat", f"anon {MIB}\nshmem 0\nkernel {50 * MIB}\nslab_reclaimable {30 * MIB}\n")
    assert cgroup.used(cgroup.find(proc, root)) == 21 * MIB
    put(root / "memory.stat", f"anon {MIB}\nkernel_stack {MIB}\npagetables {MIB}\nslab_unreclaimable {MIB}\nslab_reclaimable 9\n")
    assert cgroup.used(cgroup.find(proc, root)) == 4 * MIB, "kernels before 5.18"


def test_v2_in_a_container(proc, root):
    """The name under which the host knows the group does not exist inside: the mount is the group."""
    put(proc / "self" / "cgroup", "0::/../../docker/abc\n")
    put(root / "memory.max", f"{64 * MIB}\n")
    assert cgroup.find(proc, root) == cgroup.Group(root, 64 * MIB)


def test_v1(proc, root):
    put(proc / "self" / "cgroup", "9:name=systemd:/x\n4:cpu,memory:/docker/abc\n0::/\n")
    put(root / "memory" / "memory.limit_in_bytes", "9223372036854771712\n")
    path = root / "memory" / "docker" / "abc"
    put(path / "memory.limit_in_bytes", f"{128 * MIB}\n")
    put(path / "memory.stat", f"rss 1\ntotal_cache {90 * MIB}\ntotal_rss {40 * MIB}\ntotal_shmem {2 * MIB}\n")
    put(path / "memory.kmem.usage_in_bytes", f"{3 * MIB}\n")
    found = cgroup.find(proc, root)
    assert found == cgroup.Group(path, 128 * MIB, v1=True)
    assert cgroup.used(found) == 45 * MIB


def test_growth_is_urgent_only_where_it_may_change_something(tmp_path):
    machine = Machine(tmp_path)
    assert machine.meter.read().pss == 100 * MIB and not machine.meter.is_urgent()
    for own, is_urgent in (200, False), (212, False), (220, True), (300, True), (90, False):
        machine.set(own, 100)
        assert machine.meter.is_urgent() is is_urgent, own
    machine.set(300, 100)
    machine.meter.read()
    machine.set(304, 100)
    assert not machine.meter.is_urgent(), "it has just been read, and little has come"
    machine.set(310, 100)
    assert machine.meter.is_urgent()


@given(st.binary(max_size=80), st.binary(max_size=80), st.binary(max_size=80))
def test_strange_files_are_no_error(tmp_path_factory, group, limit, stat):
    base = tmp_path_factory.mktemp("strange")
    (base / "proc" / "self").mkdir(parents=True)
    (base / "proc" / "self" / "cgroup").write_bytes(b"0::/\n" + group)
    (base / "proc" / "self" / "smaps_rollup").write_bytes(stat)
    (base / "memory.max").write_bytes(limit)
    (base / "memory.stat").write_bytes(stat)
    reading = Meter(MIB, proc=base / "proc", root=base).read()
    assert reading.pressure >= 0
    assert Meter(MIB, proc=base / "nowhere", root=base / "nowhere").read() == MemoryReading(0, MIB)


def test_the_real_thing():
    """64 MiB more in this process and 30 in a child are seen, and gone when they are gone."""
    child = subprocess.Popen(
        [sys.executable, "-c", "x = bytes(range(256)) * (30 << 12); print(len(x), flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdin and child.stdout
    try:
        alone = Meter(1 << 30).read()
        child.stdout.readline()
        with_child = Meter(1 << 30, lambda: [child.pid]).read()
        assert 25 * MIB < with_child.pss - alone.pss < 60 * MIB
        held = mmap.mmap(-1, 64 * MIB)
        for at in range(0, 64 * MIB, 4096):
            held[at] = 1
        assert 60 * MIB < Meter(1 << 30).read().pss - alone.pss < 80 * MIB
        held.close()
        assert Meter(1 << 30).read().pss - alone.pss < 10 * MIB
    finally:
        with child.stdin, child.stdout:
            child.kill()
        child.wait()
    assert cgroup.pss(child.pid) == 0
    assert alone.group_limit == 0 or alone.group_used > 0


GIVING = """
import os
from crawler.resources.cgroup import pss
from crawler.resources.memory_pressure import give_back
before = pss(os.getpid())
blocks = [bytearray(2_000) for _ in range(30_000)]
full = pss(os.getpid())
del blocks[:-1]
give_back()
print(full - before, pss(os.getpid()) - before)
"""


def test_giving_back():
    """60 MiB of small blocks below one that stays: glibc alone would keep them. In a process with its own heap."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    told = subprocess.run([sys.executable, "-c", GIVING], capture_output=True, text=True, check=True, env=environment)
    full, after = map(int, told.stdout.split())
    assert full > 50 * MIB
    assert after < 15 * MIB


def test_fewer_visits_between_high_and_critical():
    watch = Watch(100)
    assert watch.see(0.5, 50, 0.0) == ("normal", 100, False, 0, False, False)
    visits = [watch.see(HIGH + n / 1000, 50, float(n)).visits_max for n in range(1, 100, 7)]
    assert visits == sorted(visits, reverse=True)
    assert visits[0] > 95
    assert visits[-1] >= 1
    assert watch.see(HIGH - 0.01, 50, 101.0).state == "high", "not left at once"
    assert watch.see(HIGH - 0.03, 50, 102.0) == ("normal", 100, False, 0, False, False)


def test_critical_deals_none_and_gives_back_now_and_then():
    watch = Watch(100)
    given = [now for now in range(40) if watch.see(0.97, 5, now * 1.0).give_back]
    assert given == [0, 10, 20, 30]
    decision = watch.see(0.94, 5, 41.0)
    assert (decision.state, decision.visits_max) == ("critical", 0)
    assert watch.see(0.92, 5, 42.0).state == "high"
    assert watch.see(0.96, 5, 43.0).give_back, "at once when it begins anew"


def test_over_gives_up_the_largest():
    watch = Watch(100)
    assert watch.see(1.01, 100, 0.0)[:4] == ("over", 0, True, 10)
    assert watch.see(1.01, 3, 0.5).give_up == 1
    assert watch.see(1.01, 0, 1.0).give_up == 0
    assert watch.see(0.97, 0, 1.5).state == "critical"
    assert watch.given_up == 11


def test_it_never_stalls_for_ever():
    """Somebody else's leak: nothing in flight and still no room. One at a time, new parsers, and in the end an end."""
    watch = Watch(100)
    seen, now = {}, 0.0
    while not (decision := watch.see(1.2, int(now / 3) % 2 if now > 40 else 0, now)).end:
        seen.setdefault((decision.state, decision.visits_max), now)
        if decision.restart_parsers:
            assert seen.setdefault("restart", now) == now, "once"
        now += 0.5
    assert seen == {("over", 0): 0.0, ("single", 1): SINGLE_AFTER_S, "restart": RESTART_AFTER_S}
    assert now == END_AFTER_S


def test_single_ends_when_it_helps():
    watch = Watch(100)
    now = 0.0
    while watch.see(0.97, 0, now).state != "single":
        now += 0.5
    assert watch.see(0.94, 1, now + 1).state == "single"
    assert watch.see(0.5, 1, now + 2) == ("normal", 100, False, 0, False, False)
    assert watch.see(0.97, 0, now + 3).visits_max == 0, "and the patience is new"


@given(st.lists(st.tuples(st.floats(0, 2), st.integers(0, 200)), min_size=20, max_size=300))
def test_decisions_are_sound_whatever_is_read(readings):
    watch = Watch(100)
    for at, (pressure, out) in enumerate(readings):
        decision = watch.see(pressure, out, at * 0.5)
        assert 0 <= decision.visits_max <= 100
        assert decision.give_up <= out
        if pressure > CRITICAL:
            assert decision.visits_max <= 1
        if pressure < HIGH - 0.02:
            assert decision == ("normal", 100, False, 0, False, False)
        assert not decision.end


def test_threads_share_two_heaps():
    program = """
import ctypes, threading
from crawler.resources.memory_pressure import tidy_heaps
tidy_heaps()
all_there = threading.Barrier(8)
threads = [threading.Thread(target=lambda: (bytes(1000), all_there.wait())) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
libc.malloc_info(0, ctypes.c_void_p(libc.fdopen(1, b"w")))
libc.fflush(None)
"""
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert 1 <= told.count("<heap nr=") <= 2


def test_large_blocks_go_back_as_soon_as_they_are_freed():
    program = """
import ctypes
from pathlib import Path
from crawler.resources.memory_pressure import tidy_heaps
def resident(): return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
tidy_heaps()
def block(size):
    address = libc.malloc(size)
    ctypes.memset(ctypes.c_void_p(address), 1, size)
    return address
for _ in range(8): libc.free(ctypes.c_void_p(block(8 << 20)))  # by now glibc would keep such blocks in the heap
before = resident()
held = [block(1 << 20) for _ in range(64)]
small = block(1000)  # behind them
for address in held: libc.free(ctypes.c_void_p(address))
print(resident() - before)
"""
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert int(told) < 16 << 20


def test_a_crawl_begins_with_tidy_heaps_and_a_patient_collector():
    program = """
import gc
from crawler.cli import starting
from crawler.resources import memory_pressure
memory_pressure.tidy_heaps = lambda: print("tidy")
async def crawl(): print(gc.get_threshold()[0], gc.get_freeze_count() > 1000)
starting.in_a_loop(crawl)
"""
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert told.split() == ["tidy", "20000", "True"]


def test_what_is_free_goes_back_to_the_system():
    program = """
import ctypes
from pathlib import Path
from crawler.resources.memory_pressure import trim
def resident(): return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
held = [libc.malloc(60_000) for _ in range(1000)]
for address in held: ctypes.memset(ctypes.c_void_p(address), 1, 60_000)
for address in held[:-1]: libc.free(ctypes.c_void_p(address))  # the last keeps the heap from shrinking by itself
before = resident()
trim()
print(before - resident())
"""
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert int(told) > 30 << 20
