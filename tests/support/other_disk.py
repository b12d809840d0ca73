"""A directory on another file system, where nothing can be renamed to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import pytest

_MEMORY: Final = Path("/dev/shm")


@contextmanager
def on_another_disk(than: Path) -> Iterator[Path]:
    """An empty one, on another than this is on. The test is skipped where there is none."""
    if not os.access(_MEMORY, os.W_OK) or _MEMORY.stat().st_dev == than.stat().st_dev:
        pytest.skip("there is one file system only")
    with TemporaryDirectory(dir=_MEMORY) as made:
        yield Path(made)
