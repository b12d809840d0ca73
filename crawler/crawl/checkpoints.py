"""Checkpoints of a crawl, whether it runs or not: which parts are asked in which order."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from crawler.core.errors import ConfigError
from crawler.core.model import Mark
from crawler.crawl.crawl import Crawl
from crawler.crawl.maintenance import stores_of
from crawler.frontier import Store
from crawler.frontier.division import read as read_division
from crawler.output.checkpoint import Checkpoint, Copied


async def take(crawl: Crawl, root: Path, name: str | None = None) -> Copied:
    """Of a crawl that runs. ConfigError: there can be none of that name; StorageError: not now; TimeoutError: a commit takes too
    long."""
    checkpoint = Checkpoint(root, name)
    await asyncio.to_thread(checkpoint.prepare)
    try:
        await crawl.pump.between_commits(checkpoint.cut, lambda path: _copied(crawl.store, path))
    except BaseException:
        checkpoint.discard()
        raise
    return await asyncio.to_thread(checkpoint.finish)


def take_still(root: Path, name: str | None = None) -> Copied:
    """Of a crawl that does not run. As ``take``; StorageError with EWOULDBLOCK: it does."""
    if read_division(root / "frontier") is not None:
        raise ConfigError(f"a crawl by several processes is copied once it has stopped, by any program: cp -a {root} COPY")
    with stores_of(root) as stores:
        store = next(stores)
        checkpoint = Checkpoint(root, name)
        checkpoint.prepare()
        try:
            checkpoint.cut(lambda path: _copied(store, path))
        except BaseException:
            checkpoint.discard()
            raise
        return checkpoint.finish()


def _copied(store: Store, path: Path) -> Mapping[str, Mark]:
    store.copy_to(path)
    return store.marks()
