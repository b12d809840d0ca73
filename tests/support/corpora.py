"""Conformance data that is read where it lies: ``$CRAWLER_SHARED/corpora``, or ``../shared/corpora`` beside the checkout."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def corpus(name: str) -> Path:
    """The file or folder ``name`` of the corpora; the test is skipped where there is none."""
    shared = os.environ.get("CRAWLER_SHARED") or Path(__file__).parents[3] / "shared"
    path = Path(shared) / "corpora" / name
    if not path.exists():
        pytest.skip(f"no {path}: set CRAWLER_SHARED to the folder that holds corpora/")
    return path
