"""What a part of a crawl does for a checkpoint of all."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest

from crawler.core.errors import StorageError
from crawler.crawl.checkpoints import PartCutter
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
