"""Divides a crawl that nobody runs among another number of processes, before it goes on.

First everything on its way between the parts is committed where it was sent to, and every file is closed: a part goes on with no
file of another's. Then the hosts move (``crawler.frontier.dividing``).
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from crawler.config.sections import Config
from crawler.core.batch import Batch
from crawler.core.errors import ConfigError
from crawler.core.keys import Share, divided
from crawler.crawl.maintenance import empty_batch
from crawler.frontier import Limits, Store, open_store
from crawler.frontier.division import Division, begin, check, division_at, is_empty, is_switched, moving_at, parts_at, store_of
from crawler.frontier.in_flight import open_in_flight
from crawler.frontier.recrawl import SLICE_PAGES
from crawler.output import Journal, Results
from crawler.output.archive import open_archive
from crawler.output.file_names import WHOLE, part_of

if TYPE_CHECKING:
    from crawler.frontier.exchange.exchange import Exchange

logger: Final = logging.getLogger(__name__)


def divided_for(config: Config, root: Path, parts: int) -> Division | None:
    """The division of the crawl in ``root`` among so many ``parts``, made first where there is another; None for one part. The
    directory must be locked. ConfigError: it cannot be divided so."""
    path, by_domain = root / "frontier", config.politeness_by == "domain"
    if is_empty(path):
        return begin(path, parts, by_domain=by_domain) if parts > 1 else None
    if (unfinished := moving_at(path)) is not None:
        _divide(config, root, unfinished)
    found = division_at(path)
    if (found.parts if found is not None else 1) == parts:
        if found is not None:
            check(found, parts, by_domain=by_domain)
        return found
    check(found, parts, by_domain=by_domain)
    from crawler.frontier.dividing import secret_of

    secret = found.secret if found is not None else secret_of(path)
    generation = found.generation + 1 if found is not None else 1
    _divide(config, root, Division(parts, divided(parts), secret, by_domain and parts > 1, generation))
    return division_at(path)


def make_whole(config: Config, root: Path) -> None:
    """For one process: what is divided is made whole where that is asked for (``processes = 1``), or was begun already.
    ConfigError: neither."""
    if (parts := parts_at(root / "frontier")) > 1 and config.processes != 1:
        raise ConfigError(
            f"{root}: {parts} processes share this crawl: go on with crawler run or serve; processes = 1 makes it whole again"
        )
    divided_for(config, root, 1)


def _divide(config: Config, root: Path, new: Division) -> None:
    from crawler.frontier.dividing import clean_up, move, stores_there

    path, began = root / "frontier", time.monotonic()
    copied = 0
    if not is_switched(path, new):
        _settle_files(config, root, division_at(path))
        copied = move(path, new)
    clean_up(path, stores_there(path), new, part_of)
    logger.info("processes: now %d, divided in %.1f s: %d entries copied", new.parts, time.monotonic() - began, copied)


def _settle_files(config: Config, root: Path, division: Division | None) -> None:
    """Everything that parts have sent each other is committed where it was sent to, and every file is closed."""
    with contextlib.ExitStack() as stack:
        if division is None:
            store = stack.enter_context(_opened(config, root, None))
            _close_files(store, stack.enter_context(_journal(config, root, store, WHOLE)))
            return
        from crawler.frontier.exchange.board import Board
        from crawler.frontier.exchange.exchange import Exchange

        board = Board(division.parts)
        stores = [stack.enter_context(_opened(config, root, share)) for share in division.shares()]
        exchanges = [
            Exchange(root, share, board, store.positions()) for share, store in zip(division.shares(), stores, strict=True)
        ]
        journals = [
            stack.enter_context(_journal(config, root, store, part, exchanges[part])) for part, store in enumerate(stores)
        ]
        for store, journal, exchange in zip(stores, journals, exchanges, strict=True):
            while (received := exchange.inbox.receive()) is not None:
                _commit(store, journal, replace(empty_batch(store), admitted=received.admitted, robots=dict(received.robots)))
                exchange.committed(received)
            _close_files(store, journal)


@contextlib.contextmanager
def _opened(config: Config, root: Path, share: Share | None) -> Iterator[Store]:
    path = root / "frontier" if share is None else store_of(root / "frontier", share.own)
    store = open_store("embedded", path, Limits.of(config), now=time.time(), rest=lambda host: 0.0, share=share)
    with contextlib.closing(store):
        open_in_flight(path / "out", config.workers, store).close()
        yield store


@contextlib.contextmanager
def _journal(config: Config, root: Path, store: Store, part: int, exchange: Exchange | None = None) -> Iterator[Journal]:
    files = open_archive(config, root, part=part), Results(root, config.roll_size, part)
    journal = Journal(*files, outbox=exchange.outbox if exchange is not None else None)
    with contextlib.closing(journal):
        for name in journal.rewind(store.marks()):
            logger.warning("%s: not part of the last commit; moved to lost+found/", name)
        yield journal


def _close_files(store: Store, journal: Journal) -> None:
    """Fulfil what was ordered, since an order is one store's and does not move; then close the files."""
    while store.fulfil(SLICE_PAGES) is not None:
        pass
    journal.roll(rows=True)
    _commit(store, journal, empty_batch(store))


def _commit(store: Store, journal: Journal, batch: Batch) -> None:
    prepared = store.prepare(batch)
    known, marks = journal.write(prepared)
    store.commit(prepared, known, marks)
    journal.committed()
