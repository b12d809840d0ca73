"""The slots of the visits that are out, as the next process finds them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from crawler.core.errors import StorageError
from crawler.frontier.in_flight import OUT_LONG_S, InFlight, open_in_flight

DIES = """
import sys, time, os, signal
from pathlib import Path
from crawler.frontier.in_flight import InFlight
trace = InFlight(Path(sys.argv[1]), 8)
held = trace.enter(b"held")
done = trace.enter(b"done")
trace.leave(done)
time.sleep(float(sys.argv[2]))
trace.enter(b"young")
os.kill(os.getpid(), int(sys.argv[3]))
"""


def die(path: Path, seconds: float, number: signal.Signals) -> None:
    ended = subprocess.run([sys.executable, "-c", DIES, str(path), str(seconds), str(int(number))], check=False, timeout=30)
    assert ended.returncode == -number


def test_after_a_clean_end_nobody_is_suspected(tmp_path):
    trace = InFlight(tmp_path / "out", 4)
    trace.leave(trace.enter(b"key"))
    trace.close()
    trace = InFlight(tmp_path / "out", 2)
    assert (trace.found, trace.crashed) == ([], "")
    trace.close()


@pytest.mark.parametrize("slots", [2, 8, 100])
def test_a_kill_puts_suspicion_on_what_had_been_out_for_long(tmp_path, slots):
    die(tmp_path / "out", OUT_LONG_S, signal.SIGKILL)
    trace = InFlight(tmp_path / "out", slots)
    assert (trace.found, trace.crashed) == ([b"held"], "")
    trace.close()


def test_a_kill_says_nothing_of_visits_that_had_just_begun(tmp_path):
    die(tmp_path / "out", 0.0, signal.SIGKILL)
    trace = InFlight(tmp_path / "out", 8)
    assert trace.found == []
    trace.close()


def test_a_crash_puts_suspicion_on_all_that_were_out(tmp_path):
    die(tmp_path / "out", 0.0, signal.SIGSEGV)
    trace = InFlight(tmp_path / "out", 8)
    assert set(trace.found) == {b"held", b"young"}
    assert "Segmentation fault" in trace.crashed
    trace.close()
    trace = InFlight(tmp_path / "out", 8)
    assert trace.crashed == "", "told once"
    trace.close()


def test_suspicion_that_could_not_be_kept_falls_on_the_same_visits_at_the_next_start(tmp_path):
    """The disk is full, perhaps: the start fails, and is tried again."""
    die(tmp_path / "out", 0.0, signal.SIGSEGV)
    kept: list[dict[bytes, int]] = []

    def fails(counts):
        raise StorageError("no space left", errno=28)

    with pytest.raises(StorageError):
        open_in_flight(tmp_path / "out", 8, SimpleNamespace(suspects=dict, set_suspects=fails))
    trace = open_in_flight(tmp_path / "out", 8, SimpleNamespace(suspects=dict, set_suspects=kept.append))
    assert kept == [{b"held": 1, b"young": 1}] and "Segmentation fault" in trace.crashed
    trace.close()
    trace = open_in_flight(tmp_path / "out", 8, SimpleNamespace(suspects=dict, set_suspects=kept.append))
    assert len(kept) == 1
    trace.close()


def test_slots_are_used_again(tmp_path):
    trace = InFlight(tmp_path / "out", 2)
    for n in range(100):
        slots = [trace.enter(b"%d" % n), trace.enter(b"x" * 31)]
        for slot in slots:
            trace.leave(slot)
    began = time.monotonic()
    trace.heartbeat()
    assert began and os.path.getsize(tmp_path / "out") < 200
    trace.close()


def test_the_visit_that_raised_is_known_however_short_it_was(tmp_path):
    flown = InFlight(tmp_path / "out", 4)
    other, guilty = flown.enter(b"other"), flown.enter(b"guilty")
    flown.blame(guilty)
    flown.leave(guilty)
    flown.leave(other)
    flown.heartbeat()
    flown.close()
    flown = InFlight(tmp_path / "out", 4)
    assert (flown.found, flown.crashed) == ([b"guilty"], "")
    flown.close()


def test_visits_that_are_over_may_be_accused_as_far_as_there_is_room(tmp_path):
    flown = InFlight(tmp_path / "out", 3)
    out = flown.enter(b"out")
    flown.accuse([b"one", b"two", b"three"])
    flown.leave(out)
    flown.close()
    flown = InFlight(tmp_path / "out", 3)
    assert sorted(flown.found) == [b"one", b"two"]
    flown.close()
