"""Divides a crawl anew, cut off at every step in turn, and ends what was begun; run as a process of its own, which opens no
store itself: what is forked from one that has would wait for threads it does not have.

    python divided.py START SCRATCH AFTER STRIDE URL...

For every STRIDEth cut, and first for none, what then stands there is printed as one line (see ``told``).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from crawler.config.load import load
from crawler.core.errors import StorageError
from crawler.crawl.dividing import divided_for
from crawler.crawl.maintenance import recrawl
from crawler.crawl.reading import open_crawl_reader
from crawler.frontier import dividing
from crawler.frontier.division import division_at, moving_at, stores_of
from crawler.frontier.rocksdb.database import Database
from crawler.output import locked


def told(root: Path, urls: list[str]) -> list[str]:
    """What a division must leave as it was."""
    with open_crawl_reader(root) as reader:
        counts = reader._store.stats()
        assert counts.known <= counts.waiting + counts.retrying + counts.done
        named = {name: dict(sorted(getattr(counts, name).items())) for name in ("outcomes", "reasons", "lines")}
        totals = [counts.known, counts.waiting, counts.retrying, counts.done, counts.hosts]
        known = [str(reader.lookup(url)) for url in urls]
        rows = sorted(row["canonical"] for _, row in reader.rows())
        faults = [str(fault) for fault in reader._store.verify()]
        return [str(named), str(totals), *known, *rows, *faults]


def forked(work: Callable[[], None]) -> int:
    """The exit code of a process that does it: 9, it was cut off."""
    sys.stdout.flush()
    if (pid := os.fork()) == 0:
        code = 1
        try:
            work()
            sys.stdout.flush()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def divide(root: Path, parts: int, cut_at: int = 0) -> None:
    """The process is gone before the step with this number."""
    steps = itertools.count(1)

    def step(method):
        def stepped(*args, **kwargs):
            if next(steps) == cut_at:
                os._exit(9)
            return method(*args, **kwargs)

        return stepped

    Database.write = step(Database.write)
    dividing.write, dividing.sync_dir = step(dividing.write), step(dividing.sync_dir)
    shutil.rmtree = step(shutil.rmtree)
    config = load({"output": str(root), "depth": 9, "scope": "any"}, environ={}).config
    with locked(root):
        divided_for(config, root, parts)


def show(root: Path, urls: list[str]) -> None:
    frontier = root / "frontier"
    assert moving_at(frontier) is None
    assert set(stores_of(frontier, division_at(frontier))) == {path.parent for path in frontier.rglob("CURRENT")}
    print(json.dumps(told(root, urls)))


def look(start: Path, root: Path) -> None:
    """What was cut off is read as it was, or neither read nor changed."""

    def read(directory: Path) -> tuple[list[str], list[StorageError]]:
        with open_crawl_reader(directory) as reader:
            return sorted(row["canonical"] for _, row in reader.rows()), list(reader._store.verify())

    try:
        assert read(root) == read(start)
    except StorageError as error:
        assert "are being divided anew" in str(error), error
        with contextlib.suppress(StorageError):
            recrawl(root)
            raise AssertionError("stores that hold the same were changed") from None


def main(start: Path, scratch: Path, parts: int, stride: int, urls: list[str]) -> None:
    for cut_at in itertools.count(0, stride):
        root = scratch / "cut"
        shutil.copytree(start, root)
        code = forked(lambda: divide(root, parts, cut_at))  # noqa: B023
        assert code in (0, 9), code
        if code:
            assert forked(lambda: look(start, root)) == 0  # noqa: B023
            assert forked(lambda: divide(root, parts)) == 0  # noqa: B023
        assert forked(lambda: show(root, urls)) == 0  # noqa: B023
        shutil.rmtree(root)
        if not code and cut_at:
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5:])
