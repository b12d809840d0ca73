"""What makes a directory a node of a cluster: ``frontier/node.toml`` names it for ever. And reading a node's stores.

A node's parts are members, each by the node's name and its number: so a node may have another number of processes at any start.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final

from msgspec import Struct

from crawler.core.domains import domain_of
from crawler.core.durable import length_of, make_dir, rename, storing, sync_file
from crawler.core.errors import ConfigError, StorageError
from crawler.core.model import Known
from crawler.frontier.division import is_empty, table_of
from crawler.frontier.parts_reader import StoresReader

FILE_NAME: Final = "node.toml"


class Node(Struct, frozen=True):
    name: uuid.UUID
    by_domain: bool

    def member(self, part: int) -> uuid.UUID:
        """The name of one of its parts."""
        return uuid.uuid5(self.name, str(part))


def is_node(path: Path) -> bool:
    """Whether the frontier in ``path`` is a node's."""
    return length_of(path / FILE_NAME) >= 0


def has_joined(path: Path) -> bool:
    """Whether the node has been in its crawl: until then it has no working copy."""
    return is_node(path) and any(path.glob("part-[0-9][0-9]"))


def others_of(path: Path, parts: int) -> list[int]:
    """Numbers of processes that the node had, and has no more, now that it has so many."""
    numbers = [int(store.name[-2:]) for store in path.glob("part-[0-9][0-9]") if (store / "CURRENT").exists()]
    return sorted(number for number in numbers if number >= parts)


def check_node(path: Path, *, is_cluster: bool) -> None:
    """Before anything is changed there. ConfigError: the directory was begun otherwise."""
    if is_cluster and not is_node(path) and not is_empty(path):
        raise ConfigError("cluster: this directory was begun without: take another --output, or --fresh to set it aside")
    if not is_cluster and is_node(path):
        raise ConfigError("cluster: this directory is a node of a cluster: give --cluster, or --fresh to set it aside")


def node_at(path: Path) -> Node | None:
    """StorageError, ``final``: its file is damaged."""
    file = path / FILE_NAME
    if (table := table_of(file)) is None:
        return None
    try:
        return Node(uuid.UUID(table["node"]), bool(table["by_domain"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StorageError(f"{file}: damaged: {error!r}", final=True) from error


def make_node(path: Path, *, by_domain: bool) -> Node:
    """The node in this directory, which gets a name if it has none."""
    found = node_at(path)
    if found is not None:
        return found
    node, file = Node(uuid.uuid4(), by_domain), path / FILE_NAME
    make_dir(path)
    new = file.with_name(f"{FILE_NAME}.new")
    with storing(new):
        text = f'node = "{node.name}"\nby_domain = {str(by_domain).lower()}\n'
        new.write_text(f"# A node of a crawl of many machines. Written by the crawler: do not change or copy it.\n{text}")
    sync_file(new)
    rename(new, file)
    return node


class NodeReader(StoresReader):
    """As ``RocksReader``, over the stores of a node's parts: working copies, which tell of what they do not hold as it was. That
    may be before the last commits of a process that was killed."""

    is_partial: ClassVar[bool] = True
    """Of the hosts of other nodes it knows nothing."""

    def __init__(self, path: Path, node: Node) -> None:
        stores = [store for store in sorted(path.glob("part-[0-9][0-9]")) if (store / "CURRENT").exists()]
        if not stores:
            raise StorageError(f"{path}: no frontier store here yet", final=True)
        super().__init__(stores, domain_of if node.by_domain else None)
        self._writers = {file: reader for reader in self._readers for file in reader.marks()}

    def lookup(self, url: str) -> Known | str | None:
        """A record before a link that waits: the copy where it waits may be older."""
        found = [known for reader in self._readers if (known := reader.lookup(url)) is not None]
        records = [known for known in found if isinstance(known, Known)]
        return max(records, key=lambda known: known.fetched_at) if records else next(iter(found), None)

    def lags(self, file: str, url: str) -> bool:
        """Whether the copy of the part that writes a results file may not know yet what that says of a URL."""
        return (writer := self._writers.get(file)) is not None and not writer.is_whole(url)

    def budgets(self, url: str) -> tuple[int, int]:
        return max(reader.budgets(url) for reader in self._readers)

    def robots(self, origins: Sequence[str]) -> list[bytes | None]:
        told = [reader.robots(origins) for reader in self._readers]
        return [next((record for record in records if record is not None), None) for records in zip(*told, strict=True)]


def identity_conflicts(begun: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """One sentence for each setting in which a node differs from the crawl."""
    keys = [key for key in now if begun.get(key) != now[key]]
    return [f"{key}: this crawl was begun with {begun.get(key)!r}, here it is {now[key]!r}" for key in keys]
