"""What a scrape reads of a running crawl: its state at that moment, as plain numbers handed in by one function.

The law: whatever can be read is read, never counted beside the thing itself, so no gauge can drift. Every label set is
closed, and a part that is not there reads as 0.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Final, get_args

from msgspec import Struct

from crawler.core.errors import OUR_ERRNOS
from crawler.core.model import State, WaitsFor

STATES: Final = get_args(State)
WORKER_STATES: Final = ("busy", *(reason for reason in get_args(WaitsFor) if reason != "nothing"))
"""busy: it visits a URL · the others: what an idle worker waits for. Their sum is the number of workers."""
MEMORY_STATES: Final = ("normal", "high", "critical", "over", "single")
"""normal · high: over 85 %, fewer fetches · critical: over 95 %, none · over: the largest bodies are given up ·
single: one fetch at a time until it helps."""
CONNECTION_STATES: Final = ("acquired", "idle")
URL_STATES: Final = ("waiting", "retrying", "recrawl", "done")
"""retrying: the last attempt failed. A URL is in one of them; nothing is due again by schedule, so ``recrawl`` is always 0."""
HOST_STATES: Final = ("resting", "ready", "out", "stored")
"""On the bench and resting, due, or being visited; stored: known, and not on the bench."""
CACHES: Final = ("dns", "robots")
CACHE_EVENTS: Final = ("hit", "miss", "evicted")
ERRNOS: Final = (*sorted(errno.errorcode[number] for number in OUR_ERRNOS), "other")


class Account(Struct, frozen=True):
    """A named part of the memory limit, in bytes; ``waits``: how often somebody had to wait for it."""

    budget: int
    used: int
    waits: int = 0


class Readings(Struct, frozen=True, kw_only=True):
    """Mappings may leave out what is 0. Sizes in bytes, times in seconds."""

    state: State = "opening"
    workers: Mapping[str, int] = {}
    """By WORKER_STATES."""
    requests_in_flight: int = 0
    bytes_in_flight: int = 0
    """Of bodies that are being received."""
    bytes_written: int = 0
    """To archive, index and results since the start."""
    connections: Mapping[str, int] = {}
    connections_opened: int = 0
    """Since the start."""
    urls: Mapping[str, int] = {}
    hosts: Mapping[str, int] = {}
    refused: Mapping[str, int] = {}
    """Links left out, by rule, since the directory was begun."""
    cache_events: Mapping[tuple[str, str], int] = {}
    """By (cache, event), since the start."""
    memory_limit: int = 0
    memory_rss: int = 0
    """Of the whole process tree, shared pages counted once."""
    accounts: Mapping[str, Account] = {}
    memory_state: str = "normal"
    commit_age: float = 0.0
    """How long the oldest outcome or link not yet committed has waited; 0 if there is none."""
    disk_free: int = 0
    storage_errors: Mapping[str, int] = {}
    """By errno name, since the start."""
    last_reload_successful: bool = True
