"""How near memory is to its limit, and what to do about it. The decisions are pure; the caller passes the time.

Invariant: it recovers by itself and never stalls for ever: with nothing in flight and no way down it deals one visit at a time,
then restarts the parsers, then ends the crawl, which can be resumed.
"""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, Literal, NamedTuple, TypeAlias

from crawler.resources import cgroup

EVERY_S: Final = 0.5
LOOK_EVERY_S: Final = 0.05
"""Between two readings: whether so much has come that the next one cannot wait."""
GROWN_SHARE: Final = 0.02
"""Of the limit: less growth is not looked at."""
HIGH: Final = 0.85
CRITICAL: Final = 0.95
OVER: Final = 1.0
STEADY: Final = 0.02
"""A state is left this much below where it was entered, so that it does not flutter."""
GIVE_BACK_EVERY_S: Final = 10.0
TRIM_EVERY_S: Final = 60.0
"""Heaps through which bodies of any size pass are full of holes: left alone they grow by some MiB in ten minutes."""
SINGLE_AFTER_S: Final = 30.0
RESTART_AFTER_S: Final = 600.0
END_AFTER_S: Final = 660.0
GIVE_UP_SHARE: Final = 0.1
HEAPS_MAX: Final = 2
BLOCK_BYTES_MIN: Final = 128 << 10
"""A block of memory from this size on goes back to the system as soon as it is freed. isal takes one of 280 KiB for every
record it packs, and mapping that anew each time costs a list some 15 % of its CPU; but with 512 KiB memory grew by 48 MB an
hour over a web half of whose pages are hostile, and with this by nothing."""
FREE_BYTES_MAX: Final = 2 << 20
"""Kept at the end of a heap."""
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
"""mallopt(3)."""

MemoryState: TypeAlias = Literal["normal", "high", "critical", "over", "single"]


class MemoryReading(NamedTuple):
    """Bytes. ``pss``: of the process tree, what is shared counted once. The group's are 0 where no group limits us."""

    pss: int
    limit: int
    group_used: int = 0
    group_limit: int = 0

    @property
    def pressure(self) -> float:
        """The nearer of the two limits, as a fraction used."""
        group = self.group_used / self.group_limit if self.group_limit else 0.0
        return max(self.pss / self.limit, group)


class Decision(NamedTuple):
    state: MemoryState
    visits_max: int
    """At most so many visits out; 0 deals none."""
    give_back: bool = False
    """Empty caches and return free memory to the system, now."""
    give_up: int = 0
    """So many visits are to end, unvisited: those that have been out longest."""
    restart_parsers: bool = False
    end: bool = False
    """End the crawl: the limit cannot be held (exit 3)."""


class Meter:
    """Reads what the tree uses: this process and ``children()``. ``proc`` and ``root`` stand for /proc and /sys/fs/cgroup."""

    def __init__(
        self,
        limit: int,
        children: Callable[[], Iterable[int]] = tuple,
        *,
        proc: Path = cgroup.PROC,
        root: Path = cgroup.CGROUP,
    ) -> None:
        self._limit = limit
        self._children = children
        self._proc = proc
        self._root = root
        self._read = MemoryReading(0, limit)
        self._read_resident = 0

    def read(self) -> MemoryReading:
        """A few milliseconds of system calls: for a thread. A group's limit may be changed while we run. The last reading where
        there is no descriptor to read with."""
        resident = self._resident()
        own, *others = (cgroup.pss(pid, self._proc) for pid in self._tree())
        group = cgroup.find(self._proc, self._root)
        if own or not self._read.pss:
            self._read_resident = resident
            self._read = MemoryReading(own + sum(others), self._limit, *((cgroup.used(group), group.limit) if group else ()))
        return self._read

    def is_urgent(self) -> bool:
        """Whether the tree has grown by so much since the last reading that another state may be due. Some 50 µs."""
        grown = self._resident() - self._read_resident
        return grown > GROWN_SHARE * self._limit and self._read.pss + grown > HIGH * self._limit

    def _resident(self) -> int:
        return sum(cgroup.resident(pid, self._proc) for pid in self._tree())

    def _tree(self) -> tuple[int | str, ...]:
        return ("self", *self._children())


class Watch:
    """Decides by readings taken about twice a second. ``visits_max``: how many visits the budget allows."""

    def __init__(self, visits_max: int) -> None:
        self._visits_max = visits_max
        self.state: MemoryState = "normal"
        self.given_back = 0
        """Times memory was given back, since the start."""
        self.given_up = 0
        """Visits, since the start."""
        self.restarts = 0
        """Of the parsers, since the start."""
        self._given_back_at: float | None = None
        self._critical_since: float | None = None
        self._idle_since: float | None = None
        self._restarted = False

    def __repr__(self) -> str:
        return f"<Watch {self.state}>"

    def see(self, pressure: float, visits_out: int, now: float) -> Decision:
        """What to do at this ``pressure`` (fraction of the limit) with so many visits out."""
        level = self._level(pressure)
        if level in ("normal", "high"):
            self._critical_since = self._idle_since = None
            self._restarted = False
            self.state = level
            return Decision(level, self._visits_max if level == "normal" else self._fewer(pressure))
        if self._critical_since is None:
            self._critical_since = now
            self._given_back_at = None
        give_back = self._given_back_at is None or now - self._given_back_at >= GIVE_BACK_EVERY_S
        if give_back:
            self._given_back_at = now
            self.given_back += 1
        if self._is_single(visits_out, now):
            self.state = "single"
            return self._last_resort(now - self._critical_since, give_back)
        self.state = level
        give_up = max(1, int(visits_out * GIVE_UP_SHARE)) if level == "over" and visits_out else 0
        self.given_up += give_up
        return Decision(level, 0, give_back, give_up)

    def _level(self, pressure: float) -> MemoryState:
        """The state by pressure alone, a little reluctant to go down."""
        floors: tuple[tuple[MemoryState, float], ...] = (("over", OVER), ("critical", CRITICAL), ("high", HIGH))
        at = "critical" if self.state == "single" else self.state
        reached = False
        for state, floor in floors:
            reached = reached or state == at
            if pressure > floor - (STEADY if reached else 0.0):
                return state
        return "normal"

    def _fewer(self, pressure: float) -> int:
        """From all at 85 % down to one at 95 %."""
        share = (CRITICAL - pressure) / (CRITICAL - HIGH)
        return max(1, min(self._visits_max, int(self._visits_max * share)))

    def _is_single(self, visits_out: int, now: float) -> bool:
        if self.state == "single":
            return True
        if visits_out:
            self._idle_since = None
            return False
        if self._idle_since is None:
            self._idle_since = now
        return now - self._idle_since >= SINGLE_AFTER_S

    def _last_resort(self, since: float, give_back: bool) -> Decision:
        restart = since >= RESTART_AFTER_S and not self._restarted
        if restart:
            self._restarted = True
            self.restarts += 1
        return Decision("single", 1, give_back, 0, restart, since >= END_AFTER_S)


def tidy_heaps() -> None:
    """Before threads begin (glibc; elsewhere nothing happens). Few heaps: each thread would get one of its own, whose free
    parts serve no other; a crawl of many hosts holds some 15 MiB less so. Large blocks apart from them: after the first
    few it would lay those into the heaps too, and bodies of megabytes leave holes there that nothing else fits into."""
    setting = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if setting is not None:
        setting(_M_ARENA_MAX, HEAPS_MAX)
        setting(_M_MMAP_THRESHOLD, BLOCK_BYTES_MIN)
        setting(_M_TRIM_THRESHOLD, FREE_BYTES_MAX)


def trim() -> None:
    """Return what the allocator holds free to the system (glibc; elsewhere nothing happens). Some 10 ms: for a thread."""
    trimming = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trimming is not None:
        trimming(0)


def give_back() -> None:
    """As ``trim``, once cycles of dead objects are gone."""
    gc.collect()
    trim()


__all__ = ["Decision", "MemoryReading", "MemoryState", "Meter", "Watch", "give_back", "tidy_heaps", "trim"]
