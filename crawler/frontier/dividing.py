"""Divides a frontier anew: each slot goes to the store of its new owner, before any part begins.

    moving.toml written → new stores branched off → slots copied → parts.toml written
    → totals taken over, what was given away deleted → moving.toml deleted

Invariants: killed anywhere, the next start goes on from the beginning of the step that was cut off; a slot has one owner by
parts.toml at any time, and that one has all of it. Nothing is on its way between parts, and no file is open (see
``crawler.crawl.dividing``).
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from crawler.core.durable import storing, sync_dir
from crawler.core.keys import Keys
from crawler.frontier.division import FILE_NAME, MOVING_NAME, Division, division_at, store_of, stores_of, write
from crawler.frontier.exchange.inbox import SOURCE
from crawler.frontier.exchange.outbox import FOLDER
from crawler.frontier.rocksdb.layout import MARK, POSITION
from crawler.frontier.rocksdb.moving import MovingStore

Slots = tuple[int, ...]

GONE: Final = (MARK + FOLDER.encode(), POSITION + SOURCE.encode())
"""Of ``meta``, once it is divided anew: there is no exchange file any more."""


def move(path: Path, new: Division) -> int:
    """From the division that is in force to the new one; the number of entries copied. Nothing of it is in force before all
    is there."""
    write(path / MOVING_NAME, new)
    old = stores_of(path, division_at(path))
    wanted = stores_of(path, new)
    copied = 0
    branches = _branch_off(path, new, old, wanted)
    for source, slots in old.items():
        for target, own in wanted.items():
            if source not in (target, branches.get(target)) and (moved := set(slots) & set(own)):
                with _opened(source, new) as giver, _opened(target, new) as taker:
                    copied += giver.give(taker, moved)
    first = next(iter(old))
    for target in wanted:  # also one that has got nothing
        with _opened(target, new) as taker:
            if target not in old:
                with _opened(first, new) as giver:
                    taker.identify_as(giver)
    if new.parts > 1:
        write(path / FILE_NAME, new)
    else:
        with storing(path):
            (path / FILE_NAME).unlink()
        sync_dir(path)
    return copied


def _branch_off(path: Path, new: Division, old: Mapping[Path, Slots], wanted: Mapping[Path, Slots]) -> dict[Path, Path]:
    """Begin every new store as the one that has most of its slots now; new store → that one. (Not the whole: it stands in the
    folder where the parts are.)"""
    branches = {}
    for target, slots in wanted.items():
        if target not in old and target != path:
            source = max(old, key=lambda source: len(set(old[source]) & set(slots)))
            with _opened(source, new) as giver:
                giver.branch(target)
            with _opened(target, new) as branch:
                branch.begin_anew(slots)
            branches[target] = source
    return branches


def clean_up(path: Path, before: Mapping[Path, object], new: Division, part_of: Callable[[str], int]) -> None:
    """Take over the totals of the stores ``before`` that are no more, and delete what was given away. ``part_of`` says which
    part writes a file of this name: it is to find its mark."""
    wanted = stores_of(path, new)
    first = next(iter(wanted))
    gone = [store for store in before if store not in wanted and (store / "CURRENT").exists()]
    states = []
    for store in [*gone, *wanted]:
        with _opened(store, new) as opened:
            states.append(opened.state)
    for store in gone:
        with _opened(store, new) as ended, _opened(first, new) as heir:
            heir.take_over(ended, f"{new.generation}:{store.name}")
    if new.parts > 1:
        with _opened(first, new) as heir:
            files = heir.marks()
            for part in range(1, new.parts):  # a store is opened once, however many files there are after years
                if given := [file for file in files if part_of(file) == part]:
                    with _opened(store_of(path, part), new) as owner:
                        heir.give_marks(given, owner)
    latest = max(states, key=lambda state: state.now)
    latest_sequence = max(states, key=lambda state: state.sequence)
    for store, slots in wanted.items():
        with _opened(store, new) as opened:
            opened.settle(slots, latest, latest_sequence.sequence, GONE)
    for store in before:
        if store not in wanted:
            _delete(path, store)
    if new.parts > 1:
        _sweep(path)
    _empty_exchange(path.parent / FOLDER)
    with storing(path):
        (path / MOVING_NAME).unlink()
    sync_dir(path)


def secret_of(path: Path) -> int:
    """Of a crawl that is not divided: the seed of its fingerprints. A store whose first opening was cut off gets one."""
    with contextlib.closing(MovingStore(path, None, Keys)) as store:
        return store.secret


def stores_there(path: Path) -> dict[Path, tuple[int, ...]]:
    """Every store that there is, whosever."""
    found = [path] if (path / "CURRENT").exists() else []
    return dict.fromkeys([*found, *sorted(path.glob("part-[0-9][0-9]"))], ())


def _opened(store: Path, new: Division) -> contextlib.closing[MovingStore]:
    return contextlib.closing(MovingStore(store, new.secret, lambda secret: Keys(secret, new.group_of)))


def _delete(path: Path, store: Path) -> None:
    """A store whose hosts are all elsewhere; without its CURRENT it is none, however much is left of it: also once the power
    fails."""
    with storing(store):
        (store / "CURRENT").unlink(missing_ok=True)
    sync_dir(store)
    if store != path:
        with storing(store):
            shutil.rmtree(store)


def _empty_exchange(folder: Path) -> None:
    """Of what the parts have sent each other all has arrived. One file that stayed would be taken, once as many have been written
    anew, for the one that follows."""
    with storing(folder):
        if not folder.exists():
            return
        for file in folder.iterdir():
            if file.is_file():
                file.unlink()
    sync_dir(folder)
    with contextlib.suppress(OSError):  # a disk may be mounted there
        folder.rmdir()


def _sweep(path: Path) -> None:
    """What a store of the whole has left among those of the parts."""
    with storing(path):
        for file in path.iterdir():
            if file.is_file() and not file.name.startswith((FILE_NAME, MOVING_NAME)):
                file.unlink()
