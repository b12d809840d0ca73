"""What a part of a crawl does for a checkpoint of all."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from crawler.core.errors import StorageError
from crawler.core.model import Mark
from crawler.crawl.checkpoints import PartCutter, take_still
from crawler.crawl.maintenance import empty_batch, open_stores
from crawler.frontier.division import begin
from crawler.frontier.exchange.intake import Intake


async def test_an_exchange_that_is_held_too_late_is_let_go():
    """What is under way in a part takes longer than its parent waits: that has told it to let go by then."""
    intake = Intake(SimpleNamespace(), lambda: 0.0)
    cutter = PartCutter(SimpleNamespace(root=Path(), pump=SimpleNamespace(intake=intake)), 0)
    await intake.hold()  # something is under way
    late = asyncio.create_task(cutter.hold_exchange())
    await asyncio.sleep(0)
    cutter.let_go()
    next_one = asyncio.create_task(cutter.hold_exchange())
    await asyncio.sleep(0)
    intake.let_go()
    with pytest.raises(StorageError, match="once more"):
        await late
    await next_one
    cutter.let_go()
    async with asyncio.timeout(5):
        await intake.hold()


@pytest.mark.parametrize("parts", [1, 2])
def test_a_disk_without_room_for_a_folder_of_a_copy_is_told_as_such(tmp_path, monkeypatch, parts):
    """It was an internal error, and of a daemon's copy 500."""
    (tmp_path / "results").mkdir()
    if parts > 1:
        begin(tmp_path / "frontier", parts, by_domain=False)
    else:
        (tmp_path / "frontier").mkdir()
    with open_stores(tmp_path) as stores:
        for part, store in enumerate(stores):
            (tmp_path / (file := f"results/p{part:02}-results-000000.jsonl")).write_text("")
            store.commit(store.prepare(empty_batch(store)), [], {file: Mark(0)})
    mkdir, left = Path.mkdir, 0

    def full(path: Path, *args: object, **named: object) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        mkdir(path, *args, **named)

    monkeypatch.setattr(Path, "mkdir", full)
    for number in range(1, 20):
        left = number
        try:
            copied = take_still(tmp_path)
        except StorageError as error:
            assert error.errno == errno.ENOSPC
            assert not any((tmp_path / "checkpoints").glob("*"))
        else:
            break
    assert number > 3 and (copied.path / "results").is_dir()
