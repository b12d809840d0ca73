"""The file descriptors of this process."""

from __future__ import annotations

import resource
from pathlib import Path


def open_and_limit() -> tuple[int, int]:
    """How many are open, and how many may be. Where none is left to count them with: all."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    try:
        return sum(1 for _ in Path("/proc/self/fd").iterdir()) - 1, limit  # one of them is the listing's own
    except OSError:
        return limit, limit
