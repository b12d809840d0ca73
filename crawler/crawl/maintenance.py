"""What a person changes in the directory of a crawl that is not running: URLs made due again, files no longer kept."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path

from msgspec.structs import replace

from crawler.config.crawl_toml import read_identity
from crawler.core.batch import Batch
from crawler.core.clock import Clock
from crawler.core.durable import OPEN, is_there, length_of, missing
from crawler.core.errors import ConfigError
from crawler.core.model import Mark
from crawler.frontier import Limits, Store, open_reader, open_store
from crawler.frontier.cluster.node import is_node
from crawler.frontier.division import division_at, require_divided, store_of
from crawler.frontier.recrawl import SLICE_PAGES, RecrawlOrder
from crawler.frontier.selection import Selection, in_steps
from crawler.output import locked
from crawler.output.file_names import EXCHANGE, noticed


def revive(root: Path, outcomes: frozenset[str]) -> int:
    """Make the URLs that ended with one of ``outcomes`` due again; how many. StorageError with EWOULDBLOCK: it is running."""
    with open_stores(root) as stores:
        return sum(in_steps(store.revive_some, Selection(outcomes=outcomes)) for store in stores)


def recrawl(root: Path, *, older_than_s: float = 0.0, outcomes: frozenset[str] = frozenset(), match: str | None = None) -> int:
    """Make settled URLs due again that were last visited so long ago; how many. ``outcomes``: only these, by default all but what
    is not to be visited again; ``match``: a regular expression. Killed midway, the crawl goes on with it. StorageError with
    EWOULDBLOCK: it is running."""
    before = time.time() - older_than_s if older_than_s else math.inf  # visited before the wall clock was set back, too
    with open_stores(root) as stores:
        return sum(_recrawl(store, before, outcomes, match) for store in stores)


def _recrawl(store: Store, before: float, outcomes: frozenset[str], match: str | None) -> int:
    """Of one store."""
    store.order(RecrawlOrder(Clock(store.clock()).now(), before, tuple(sorted(outcomes)), match))
    total = 0
    while (count := store.fulfil(SLICE_PAGES)) is not None:
        total += count
    return total


def retire(root: Path, files: Sequence[str]) -> list[str]:
    """Mark ``files``, or all closed files that are not there, as no longer kept; which these are. ConfigError: one of
    ``files`` cannot be. StorageError with EWOULDBLOCK: it is running."""
    with open_stores(root) as stores:
        with contextlib.closing(open_reader(root / "frontier")) as reader:
            marks = _own(reader.marks())
        if faults := [fault for file in files if (fault := _why_kept(root, file, marks.get(file))) is not None]:
            raise ConfigError(faults)
        return sorted(file for store in stores for file in _retired(root, store, files))


def _retired(root: Path, store: Store, files: Sequence[str]) -> list[str]:
    """Of the files of one store."""
    marks = _own(store.marks())
    there = {file: 0.0 for file, mark in marks.items() if (file not in files if files else is_there(root / file))}
    gone = {file: mark for file, mark in noticed(marks, there).items() if not marks[file].retired}
    _mark(store, gone)
    return list(gone)


def forget_stored(root: Path) -> None:
    """Of a copy of a crawl: what that crawl has stored elsewhere stands in a folder of its own, and this one stores it anew."""
    with contextlib.closing(open_reader(root / "frontier")) as reader:
        if not any(mark.stored for mark in reader.marks().values()):
            return
    with open_stores(root) as stores:
        for store in stores:
            _mark(store, {file: replace(mark, stored=False) for file, mark in store.marks().items() if mark.stored})


def empty_batch(store: Store) -> Batch:
    """Of a crawl that is not running: at the time of its last commit."""
    return Batch([], [], {}, {}, store.clock(), store.last_commit_wall())


def _mark(store: Store, marks: Mapping[str, Mark | None]) -> None:
    if marks:
        store.commit(store.prepare(replace(empty_batch(store), retired=dict(marks))), [], {})


def _own(marks: Mapping[str, Mark]) -> dict[str, Mark]:
    """Without the files that the parts of a crawl send each other, and delete themselves."""
    return {file: mark for file, mark in marks.items() if not file.startswith(EXCHANGE)}


def _why_kept(root: Path, file: str, mark: Mark | None) -> str | None:
    """Why a file cannot be retired; None if it can."""
    if mark is None or mark.retired:
        return f"{file}: no such file was written by this crawl, or it is retired already"
    if not mark.closed:
        return f"{file}: it is not full yet: the crawl must go on with it"
    if is_there(root / file):
        return f"{file}: it is still there: move or delete it first"
    return None


def _require_open_files(root: Path, marks: Mapping[str, Mark]) -> None:
    """StorageError where the crawl could not go on either: a file that is not full yet is missing, or shorter than its mark."""
    for file, mark in marks.items():
        path = root / file
        if not mark.closed and max(length_of(path), length_of(path.with_name(path.name + OPEN))) < mark.length:
            raise missing(path, mark.length, full=False)


@contextlib.contextmanager
def open_stores(root: Path) -> Iterator[Iterator[Store]]:
    """The stores of a crawl that no process runs, nor can begin to run meanwhile: it has one, or one for each of its parts.
    Each is closed when the next is asked for, so that where this is cut off, the same command again does the rest."""
    path = root / "frontier"
    if is_node(path):
        advice = "ask the nodes that run (POST /v1/retry, /v1/recrawl), and back up the crawl's database (pg_dump)"
        raise ConfigError(f"{root} is a node of a cluster: {advice}")
    with locked(root):
        require_divided(path)
        begun = read_identity(root) or {"depth": 0}
        limits = Limits(depth_limited=begun["depth"] > 0)
        division = division_at(path)

        def opened() -> Generator[Store]:
            for share in division.shares() if division is not None else [None]:
                own = path if share is None else store_of(path, share.own)
                store = open_store("embedded", own, limits, now=time.time(), rest=lambda host: 0.0, share=share)
                with contextlib.closing(store):
                    _require_open_files(root, _own(store.marks()))
                    yield store

        with contextlib.closing(opened()) as stores:
            yield stores
