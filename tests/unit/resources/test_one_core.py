"""Which threads are bound to a core, when, and that nothing else is."""

import asyncio
import errno
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from crawler.resources.one_core import CROWDED_LOOKS_MAX, Choice, OneCore

CORES = os.sched_getaffinity(0)


def test_bound_at_the_first_look_and_for_as_long_as_the_core_is_ours() -> None:
    choice = Choice()
    assert [choice.see(share) for share in (0.9, 0.0, 0.2, 0.1)] == ["bind", "stay", "stay", "stay"]


def test_a_crowded_core_is_left_and_the_system_chooses_another() -> None:
    choice = Choice()
    assert [choice.see(share) for share in (0.0, 0.5, 0.5, 0.0, 0.0)] == ["bind", "free", "bind", "stay", "stay"]


def test_where_all_cores_are_crowded_leaving_becomes_rare() -> None:
    choice = Choice()
    steps = [choice.see(0.5) for _ in range(1_000)]
    bound = [len(between) for between in "".join(step[0] for step in steps).split("f")[:-1]]  # looks from one leave to the next
    assert bound == sorted(bound)
    assert max(bound) == CROWDED_LOOKS_MAX
    assert steps.count("free") == len(bound)


def test_a_core_that_is_ours_again_is_left_soon_when_it_gets_crowded() -> None:
    choice = Choice()
    for share in [0.5] * 1_000 + [0.0] * 10:
        choice.see(share)
    assert choice.see(0.5) == "free"


@contextmanager
def idle_thread() -> Iterator[int]:
    """A thread that waits; its native id."""
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    assert thread.native_id is not None
    try:
        yield thread.native_id
    finally:
        over.set()
        thread.join()


@contextmanager
def sleeping_process() -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process.pid


@pytest.mark.skipif(len(CORES) < 2, reason="one core: there is nothing to choose")
async def test_loop_and_named_threads_share_a_core_and_what_they_begin_does_not() -> None:
    loop = threading.get_native_id()
    children: list[int] = []
    with idle_thread() as named, idle_thread() as other:
        core = asyncio.create_task(OneCore(lambda: [named], lambda: children).run())
        while len(os.sched_getaffinity(loop)) > 1:
            await asyncio.sleep(0.01)
        assert os.sched_getaffinity(named) == os.sched_getaffinity(loop)
        assert os.sched_getaffinity(other) == CORES
        with idle_thread() as begun, sleeping_process() as child:
            children.append(child)
            while os.sched_getaffinity(begun) != CORES or os.sched_getaffinity(child) != CORES:
                await asyncio.sleep(0.01)
            core.cancel()
            await asyncio.wait([core])
            for thread in (loop, named, other, begun, child):
                assert os.sched_getaffinity(thread) == CORES


async def test_on_one_core_there_is_nothing_to_do() -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        await asyncio.wait_for(OneCore(tuple, tuple).run(), 10)
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.skipif(len(CORES) < 2, reason="one core: there is nothing to choose")
async def test_where_the_system_refuses_it_the_crawl_goes_on_unbound(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under seccomp: a unit of systemd without @resources, a container."""

    def refuse(thread: int, cores: set[int]) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    await asyncio.wait_for(OneCore(tuple, tuple).run(), 10)
