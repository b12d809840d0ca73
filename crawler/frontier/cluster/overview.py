"""A cluster seen from outside, by a person: its nodes, what is on its way, what only one disk holds; and a node declared lost."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing

import psycopg
from msgspec import Struct

from crawler.core.errors import ConfigError
from crawler.core.keys import SLOTS
from crawler.frontier.cluster import schema as tables
from crawler.frontier.cluster.lost_disks import is_safe
from crawler.frontier.cluster.postgres import MARK_PREFIX, boxes_of, members_of
from crawler.frontier.cluster.session import Address, Session, connect, storage_error
from crawler.frontier.cluster.truth import NOBODY, BoxView, MemberView
from crawler.frontier.parts_reader import total
from crawler.frontier.rocksdb.layout import decode_mark, decode_state
from crawler.frontier.store import Counts


class NodeView(Struct):
    """One node: all its parts together."""

    node: str
    name: str
    """Of its machine."""
    state: str
    """alive, left, gone (not heard of for a lease), lost (declared so)"""
    parts: int
    slots: int
    seen_ago_s: float
    reads_lists: bool
    """Its URL lists are not read to their end, as far as is committed."""
    messages: int
    """For it, not read yet."""
    messages_oldest_s: float
    done: int
    """What it has settled."""
    only_here_files: int
    only_here_bytes: int
    """Of its files, what no store has a copy of."""
    lines: int
    """Listed lines that are no URL of their own (``duplicate``, ``invalid_url``), whose rows it wrote."""


class Overview(Struct):
    nodes: list[NodeView]
    slots_free: int
    messages_for_nobody: int
    messages_oldest_s: float
    known: int
    waiting: int
    retrying: int
    done: int


def look(address: Address, lease_s: float) -> Overview:
    """ConfigError: there is no crawl. RemoteError: the database cannot be reached."""
    with closing(_opened(address, lease_s)) as connection:
        try:
            with connection.transaction():
                connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
                members = members_of(connection.execute(tables.MEMBERS, {"lease": lease_s}).fetchall())
                owners = dict(connection.execute(tables.OWNERS).fetchall())
                boxes = boxes_of(connection.execute(tables.BOXES).fetchall())
                here = dict(connection.execute("SELECT id, here FROM member").fetchall())
                marks = connection.execute(
                    "SELECT member, value FROM own WHERE substring(key FROM 1 FOR 5) = %s", [MARK_PREFIX]
                ).fetchall()
        except psycopg.Error as error:
            raise storage_error(address, error) from None
    alone: dict[int, list[int]] = {}
    for member, value in marks:
        mark = decode_mark(value)
        if not is_safe(mark):
            alone.setdefault(member, []).append(mark.length)
    counts = total([_counts(member) for member in members])
    by_node: dict[str, list[MemberView]] = {}
    for member in members:
        by_node.setdefault(member.node, []).append(member)
    owned = [owner for owner in owners.values() if owner is not None]
    return Overview(
        nodes=[_node(node, parts, owned, boxes, here, alone) for node, parts in by_node.items()],
        slots_free=SLOTS - len(owned),
        messages_for_nobody=boxes[NOBODY].messages if NOBODY in boxes else 0,
        messages_oldest_s=max((box.oldest_s for box in boxes.values()), default=0.0),
        known=counts.known,
        waiting=counts.waiting,
        retrying=counts.retrying,
        done=counts.done,
    )


def _counts(member: MemberView) -> Counts:
    return decode_state(member.state).counts if member.state else Counts()


def _node(
    node: str,
    parts: list[MemberView],
    owned: list[int],
    boxes: Mapping[int, BoxView],
    here: Mapping[int, bool],
    alone: Mapping[int, list[int]],
) -> NodeView:
    numbers = {part.number for part in parts}
    last = min(parts, key=lambda part: part.seen_ago_s)  # the others may be of more processes than it has by now
    is_here = here[last.number]
    state = "lost" if parts[0].is_lost else "alive" if any(part.is_alive for part in parts) else "gone" if is_here else "left"
    waiting = [boxes[number] for number in numbers if number in boxes]
    lengths = [length for number in numbers for length in alone.get(number, ())]
    counts = total([_counts(part) for part in parts])
    return NodeView(
        node=node,
        name=last.name,
        state=state,
        parts=len(parts),
        slots=sum(owner in numbers for owner in owned),
        seen_ago_s=last.seen_ago_s,
        reads_lists=any(part.is_seeding for part in parts) and not parts[0].is_lost,
        messages=sum(box.messages for box in waiting),
        messages_oldest_s=max((box.oldest_s for box in waiting), default=0.0),
        done=counts.done,
        only_here_files=len(lengths),
        only_here_bytes=sum(lengths),
        lines=sum(counts.lines.values()),
    )


def declare_lost(address: Address, lease_s: float, name: str) -> NodeView:
    """From now on the pages that only this node's disk held are due again; the node as it was. ``name``: of the node, or how that
    begins, or of its machine. ConfigError: there is no such node, or several, or it was heard of within a lease."""
    found = [node for node in look(address, lease_s).nodes if node.node.startswith(name.lower()) or node.name == name]
    if not found:
        raise ConfigError(f"there is no node {name} in {address.shown}: crawler cluster status lists them")
    if len(found) > 1:
        raise ConfigError(f"{name} is several nodes: {', '.join(node.node for node in found)}")
    with closing(_opened(address, lease_s)) as connection:
        try:
            with connection.transaction():
                values = {"node": found[0].node, "lease": lease_s}
                connection.execute(tables.STALLED)
                alive = connection.execute(tables.DECLARED, values).fetchone()
                if alive is None:
                    raise ConfigError(f"{name} was heard of less than a lease ago: only a node that is gone can be lost")
                connection.execute(tables.GIVEN_UP, values)
        except psycopg.Error as error:
            raise storage_error(address, error) from None
    return found[0]


def _opened(address: Address, lease_s: float) -> Session:
    connection = connect(address, max(lease_s, 10.0))
    try:
        if connection.execute("SELECT to_regclass(%s)", [f"{address.schema}.crawl"]).fetchone() == (None,):
            raise ConfigError(f"there is no crawl in {address.shown}")
    except BaseException:
        connection.close()
        raise
    return connection
