"""What a crawl has on disk: its directory, its store, and the files that are written. Opened in the order of their dependence and
closed in the reverse one.

Invariants: all are at the same commit once they are open. What is closed holds whole records only, for any reader.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from msgspec import Struct

from crawler.config import Config, HostRules
from crawler.config.render import as_fields
from crawler.core.clock import Clock
from crawler.core.durable import make_dir
from crawler.core.errors import StorageError
from crawler.core.keys import Share
from crawler.core.model import Mark
from crawler.crawl.dividing import make_whole
from crawler.fetch.request import user_agent
from crawler.frontier import Limits, Store, open_reader, open_store
from crawler.frontier.cluster.node import check_node
from crawler.frontier.division import store_of
from crawler.frontier.in_flight import InFlight, open_in_flight
from crawler.output import Journal, Results, make_tmp, open_directory
from crawler.output.archive import open_archive
from crawler.output.file_names import WHOLE
from crawler.policy.intervals import Intervals
from crawler.resources.memory_plan import Plan
from crawler.resources.network import HELD_MAX

if TYPE_CHECKING:
    from crawler.crawl.membership import Membership
    from crawler.frontier.exchange.board import Board
    from crawler.frontier.exchange.exchange import Exchange
    from crawler.output.journal import Outbox

logger: Final = logging.getLogger(__name__)


class CrawlPart(Struct, frozen=True):
    """Which part of a divided crawl a process is, and what it shares with the others: of a node of a cluster, their number."""

    share: Share
    board: Board
    is_divided_anew: bool = False
    """Hosts have moved between stores: one may count what another holds. Of all together the counts are right."""


class Files(NamedTuple):
    """What of a crawl is on disk, opened and at its last commit."""

    root: Path
    tmp: Path
    store: Store
    journal: Journal
    in_flight: InFlight | None
    exchange: Exchange | None
    membership: Membership | None
    opened_at: float
    """By the crawl's clock, which begins no earlier: a host never seen rests from then."""


def open_files(config: Config, hosts: HostRules, plan: Plan, part: CrawlPart | None, stack: contextlib.ExitStack) -> Files:
    """In the order of their dependence; ``stack`` closes them in the reverse one."""
    assert config.output is not None
    if part is None and not config.fresh:
        check_node(Path(config.output) / "frontier", is_cluster=config.cluster is not None)
    root = Path(config.output) if part else stack.enter_context(open_directory(Path(config.output), config))
    own, tmp = root / "frontier", root / "tmp"
    number, parts = (part.share.own, part.board.parts) if part is not None else (0, 1)
    if part is not None:
        tmp = make_tmp(store_of(tmp, number))  # another process of this part may have left spools there
    if part is not None or config.cluster is not None:
        own = store_of(own, number)
    else:
        make_whole(config, root)
    membership = exchange = None
    if config.cluster is not None:
        from crawler.crawl.membership import join  # not needed for one machine

        membership = join(config, root, number, parts)
        stack.callback(membership.mirror.leave)
    if own.parent != root:
        make_dir(own)  # RocksDB makes it too, but syncs no name of it
    now = Clock().now() if membership is None else membership.now
    try:
        store = _open_store(config, own, hosts, plan, part.share if part is not None else None, membership, now)
    except StorageError as error:
        if membership is not None and error.final:  # a store of another crawl, most of all
            membership.mirror.withdraw()
        raise
    stack.callback(store.close)  # again: see _leave
    writer = WHOLE
    outbox: Outbox | None = None
    if membership is not None:
        writer, outbox = membership.mirror.number, membership.outbox
    elif part is not None:
        exchange = _open_exchange(root, store, part)
        writer, outbox = number, exchange.outbox
    archive = open_archive(config, root, _provenance(config), as_fields(config), writer)
    results = Results(root, config.roll_size, writer)
    journal = Journal(archive, results, _intervals(config), outbox)
    stack.callback(_leave, config, own, store, journal, membership)
    for name in journal.rewind(store.marks()):
        logger.warning("%s: not part of the last commit; moved to lost+found/", name)
    if membership is not None:
        membership.mirror.renew()
    in_flight = open_in_flight(own / "out", config.workers + HELD_MAX, store) if config.store == "embedded" else None
    return Files(root, tmp, store, journal, in_flight, exchange, membership, now)


def _provenance(config: Config) -> dict[str, str]:
    """What a WARC file says of its crawl, as far as it is told; names as in WARC 1.1 and the DCMI terms."""
    sent = {name.lower(): value for name, _, value in (line.partition(": ") for line in config.header)}
    info = {
        "operator": config.operator,
        "http-header-from": sent.get("from", config.contact),
        "http-header-user-agent": user_agent(config),
        "robots": "classic" if config.robots else "ignore",
        "description": config.description,
    }
    return {name: value for name, value in info.items() if value}


def _intervals(config: Config) -> Intervals | None:
    """None where nothing is visited again by schedule."""
    if not config.recrawl_every:
        return None
    return Intervals(config.recrawl_every, min_s=config.recrawl_min, max_s=config.recrawl_max)


def _open_exchange(root: Path, store: Store, part: CrawlPart) -> Exchange:
    from crawler.frontier.exchange.exchange import Exchange  # not needed for a whole crawl

    return Exchange(root, part.share, part.board, store.positions())


def _leave(config: Config, own: Path, store: Store, journal: Journal, membership: Membership | None) -> None:
    """Close store and journal. What no commit knows is cut off, so that any reader finds whole records only. How much that is can
    be told only once the store is closed: a commit that failed may be there all the same. (A node whose last COMMIT got no
    response does not know it: its next start does.)"""
    try:
        store.close()
    finally:
        try:
            if journal.is_ahead and (membership is None or membership.mirror.is_sure):
                journal.cut(_committed(config, own, store))
        except StorageError:
            pass  # the next start does it
        finally:
            journal.close()


def _committed(config: Config, own: Path, store: Store) -> Mapping[str, Mark]:
    """The marks that a closed store holds."""
    if config.store == "memory":
        return store.marks()
    with contextlib.closing(open_reader(own)) as reader:
        return reader.marks()


def _open_store(
    config: Config, own: Path, hosts: HostRules, plan: Plan, share: Share | None, membership: Membership | None, now: float
) -> Store:
    if membership is not None:
        share = membership.mirror.share
    return open_store(
        config.store,
        own,
        Limits.of(config),
        now=now,
        rest=hosts.delay,
        memory_bytes=plan.accounts["store"],
        share=share,
        upstream=membership.mirror if membership is not None else None,
    )
