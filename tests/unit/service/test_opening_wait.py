"""A node that waits for its database ends by a signal, whenever that comes."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from crawler.config import Config
from crawler.service import opening_wait
from crawler.service.opening_wait import wait_for
from crawler.service.signals import Signals


def test_a_signal_that_comes_just_as_the_database_is_there_again_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening_wait, "TRY_EVERY_S", 0.01)
    asked: list[str | None] = ["still away", None]

    def away() -> str | None:
        answer = asked.pop(0)
        if answer is None:
            os.kill(os.getpid(), signal.SIGTERM)
        return answer

    with Signals() as signals:
        waiting = wait_for("database", Config(output=str(tmp_path)), "away", away, signals, endless=False)
        assert asyncio.run(waiting) is signal.SIGTERM


def test_the_crawl_is_opened_when_the_database_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening_wait, "TRY_EVERY_S", 0.01)
    asked: list[str | None] = ["still away", None]
    with Signals() as signals:
        waiting = wait_for("database", Config(output=str(tmp_path)), "away", lambda: asked.pop(0), signals, endless=False)
        assert asyncio.run(waiting) is None
    assert not asked
