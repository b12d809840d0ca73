"""Joins a crawl of many machines: the only code that knows which database holds its truth."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from crawler.config import Config
from crawler.core.clock import Clock
from crawler.core.domains import domain_of
from crawler.core.errors import ConfigError, StorageError
from crawler.frontier import Store
from crawler.frontier.cluster.node import Node, identity_conflicts, make_node, others_of
from crawler.frontier.division import store_of

if TYPE_CHECKING:
    from crawler.frontier.cluster.box import Outbox
    from crawler.frontier.cluster.member import Member
    from crawler.frontier.cluster.mirror import Mirror
    from crawler.frontier.cluster.session import Address

IDENTITY: Final = ("depth", "scope", "drop_params", "sort_query", "politeness_by", "requisites", "sitemaps")
"""What every node must have alike: it decides what is known, and who owns it."""

logger: Final = logging.getLogger(__name__)


class Membership(Struct, frozen=True):
    """One part of a node, once it has joined."""

    mirror: Mirror
    outbox: Outbox
    node: Node
    parts: int
    """How many it has."""
    ahead_s: float
    """The crawl's clock less this machine's monotonic one."""
    lost_positions: Mapping[str, Sequence[bytes]]
    """How far nodes that were declared lost had read their lists."""

    @property
    def now(self) -> float:
        """The crawl's clock: that of all nodes, however long one of them takes to open what it has. Rests end by it."""
        return self.ahead_s + time.monotonic()

    def member(self, config: Config, store: Store, clock: Clock) -> Member:
        """Its life in the crawl's loop, over its working copy."""
        from crawler.frontier.cluster.member import Member, WorkingCopy

        assert isinstance(store, WorkingCopy)
        name, lease_s = str(self.node.name), config.cluster_lease
        parts = [str(self.node.member(part)) for part in range(self.parts)]
        stores = config.store_url is not None
        return Member(self.mirror, store, self.outbox, node=name, parts=parts, lease_s=lease_s, clock=clock.now, stores=stores)


def node_in(config: Config, root: Path) -> Node:
    """The node in a directory. ConfigError: it was begun without a cluster, or cannot join one."""
    if config.store == "memory":
        raise ConfigError("store memory: a node of a cluster keeps its part of the crawl on disk: leave it out")
    _need_client()
    return make_node(root / "frontier", by_domain=config.politeness_by == "domain")


def _need_client() -> None:
    try:
        import psycopg  # noqa: F401
    except ImportError:
        raise ConfigError("cluster: the client of PostgreSQL is not installed: pip install 'flatcrawler[cluster]'") from None


def address_of(config: Config) -> Address:
    """Of the crawl's database. ConfigError: its client is not installed, or the URL is none."""
    _need_client()
    from crawler.frontier.cluster.session import Address

    return Address(config.cluster or "")


def why_away(config: Config) -> str | None:
    """Why the database cannot be reached just now; None if it can, or has another fault, which opening the crawl tells."""
    address = address_of(config)
    from crawler.frontier.cluster.session import why_away

    return why_away(address, config.cluster_lease)


def join(config: Config, root: Path, part: int, parts: int = 1) -> Membership:
    """ConfigError: this node differs from the crawl in what must be alike. RemoteError: the database cannot be reached."""
    node = node_in(config, root)
    from crawler.frontier.cluster.box import Outbox
    from crawler.frontier.cluster.mirror import Mirror
    from crawler.frontier.cluster.postgres import PostgresTruth, open_crawl
    from crawler.frontier.cluster.truth import ahead_s

    address = address_of(config)
    own = identity_of(config)
    begun, secret = open_crawl(address, config.cluster_lease, json.dumps(own, sort_keys=True))
    if conflicts := identity_conflicts(json.loads(begun), own):
        advice = f"the crawl in {address.shown} was begun with other settings; use them, or begin another (?schema=NAME)"
        raise ConfigError([*conflicts, advice])
    truth = PostgresTruth(address, config.cluster_lease, node.member(part), node.name, secret)
    try:
        truth.check_alone()
        joined = truth.join(seeding=part == 0 and bool(config.urls or config.input))
        numbers = others_of(root / "frontier", parts) if part == 0 else []
        others = {number: truth.ended(node.member(number)) for number in numbers}
    except BaseException:
        truth.close()
        raise
    group_of = domain_of if node.by_domain else None
    mirror = Mirror(truth, joined, group_of, tells_whole=part == 0)
    for number, ended in others.items():
        if ended is not None:
            _bring(store_of(root / "frontier", number), Mirror(truth, ended, group_of, tells_whole=False))
    outbox = Outbox(mirror)
    mirror.messages = outbox
    return Membership(mirror, outbox, node, parts, ahead_s(joined), joined.lost_positions)


def _bring(path: Path, other: Mirror) -> None:
    from crawler.frontier.cluster.mirror import bring

    try:
        bring(path, other)
    except StorageError as error:
        logger.warning("cluster: of rows that another process of this node has written some may not be read: %s", error)


def identity_of(config: Config) -> dict[str, object]:
    values: dict[str, object] = {key: getattr(config, key) for key in IDENTITY}
    plain: dict[str, object] = json.loads(json.dumps(values))
    return plain | {"byteorder": sys.byteorder}
