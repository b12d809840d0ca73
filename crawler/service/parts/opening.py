"""Opens a crawl for several processes: its directory, its division, what the parts share, and the nursery they come from.

All of it before there is a loop or a thread: what is made here is inherited by every part, the directory's lock with it.
"""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from mmap import mmap
from pathlib import Path
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from crawler.config.sections import Config
from crawler.core.errors import ConfigError, StorageError
from crawler.crawl import plan_of
from crawler.crawl.dividing import divided_for
from crawler.crawl.files import CrawlPart
from crawler.crawl.planning import memory_limit_of, parsers_of
from crawler.frontier.cluster.node import check_node
from crawler.frontier.division import Division, division_at
from crawler.frontier.exchange.board import Board
from crawler.output import open_directory
from crawler.resources.memory_plan import PARENT_BYTES, LimitTooSmall
from crawler.service.parts.nursery import Nursery, apart, open_nursery, require_no_store
from crawler.service.parts.part import crawl_part, part_main
from crawler.service.parts.shares import share_of

if TYPE_CHECKING:
    import asyncio
    import socket

_PRELOAD: Final = ("crawler.frontier.rocksdb.store", "crawler.frontier.exchange.exchange", "crawler.policy.robots_gate")
"""What a part imports once it runs: imported before, it is shared."""
_PRELOAD_CLUSTER: Final = ("crawler.frontier.cluster.member", "crawler.frontier.cluster.postgres")


class Opened(Struct, frozen=True):
    """A crawl whose parts can be begun."""

    root: Path
    division: Division
    board: Board
    nursery: Nursery

    def share(self, config: Config, part: int) -> Config:
        """The settings of one part."""
        return _share(config, part, self.division.parts)


@contextlib.contextmanager
def open_parts(
    config: Config, parts: int, new_loop: Callable[[], asyncio.AbstractEventLoop], *, endless: bool = False
) -> Iterator[Opened]:
    """ConfigError, and StorageError where the directory cannot be opened, as ``open_crawl``."""
    if config.output is None:
        raise ConfigError("no directory: name one with --output")
    if config.store == "memory":
        raise ConfigError("processes: with --store memory there is one process: a part that died would forget what it knew")
    require_no_store()
    check_memory(config, parts, endless=endless)
    if not config.fresh:
        check_node(Path(config.output) / "frontier", is_cluster=config.cluster is not None)
    with contextlib.ExitStack() as stack:
        root = stack.enter_context(open_directory(Path(config.output), config))
        division = _divided(config, root, parts) if config.cluster is None else _members(config, root, parts)
        bells = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(parts)]
        for bell in bells:
            stack.callback(os.close, bell)
        board = Board(parts, mmap(-1, Board.size(parts)), bells)
        for name in _PRELOAD:
            import_module(name)
        gc.freeze()
        main = partial(_main, division, board, new_loop, endless=endless)
        yield Opened(root, division, board, stack.enter_context(open_nursery(main)))


def _members(config: Config, root: Path, parts: int) -> Division:
    """Of a node of a cluster: who owns which host is the database's to say."""
    from crawler.core.keys import SLOTS
    from crawler.crawl.membership import node_in

    node_in(config, root)
    for name in _PRELOAD_CLUSTER:
        import_module(name)
    return Division(parts, bytes(SLOTS), 0, config.politeness_by == "domain", 1)  # hosts move: see ``is_divided_anew``


def _divided(config: Config, root: Path, parts: int) -> Division:
    """``divided_for``, which opens stores."""

    def divide() -> None:
        divided_for(config, root, parts)

    died = f"{root}: the crawl could not be divided: the next start goes on with it"
    apart(divide, died)
    if (division := division_at(root / "frontier")) is None:
        raise StorageError(died)
    return division


def _main(
    division: Division,
    board: Board,
    new_loop: Callable[[], asyncio.AbstractEventLoop],
    number: int,
    sock: socket.socket,
    *,
    endless: bool,
) -> int:
    part = CrawlPart(division.share(number), board, division.generation > 0)
    return part_main(new_loop, lambda: crawl_part(part, sock, endless=endless))


def _share(config: Config, part: int, parts: int) -> Config:
    return share_of(config, part, parts, memory_limit=memory_limit_of(config), parsers=parsers_of(config))


def plan_of_parts(config: Config, parts: int) -> str:
    """The memory limit as several processes divide it, for people. ConfigError if it is too small."""
    check_memory(config, parts, endless=False)
    table = plan_of(_share(config, 0, parts), is_part=True).table()
    return f"each of {parts} processes, beside {PARENT_BYTES >> 20}MiB for their parent\n{table}"


def check_memory(config: Config, parts: int, *, endless: bool) -> None:
    """ConfigError: the memory limit is too small for so many."""
    share = _share(config, parts - 1, parts)
    try:
        plan_of(share, endless=endless, is_part=True)
    except LimitTooSmall as error:
        said = (
            f"processes: each of {parts} may use {(share.memory_limit or 0) >> 20} MiB of the memory limit, which is too little"
        )
        whole = LimitTooSmall(error.plan, error.smallest_bytes * parts + PARENT_BYTES, error.others, of=f"{parts} processes")
        raise ConfigError([said, *whole.faults, "or take fewer --processes"]) from None
