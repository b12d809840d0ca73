"""The file descriptors of this process."""

from __future__ import annotations

import resource
from errno import EMFILE, ENFILE
from pathlib import Path


def open_and_limit() -> tuple[int, int]:
    """How many are open, and how many may be. Where none is left to count them with: all; where they cannot be seen: 0."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    try:
        return sum(1 for _ in Path("/proc/self/fd").iterdir()) - 1, limit  # one of them is the listing's own
    except OSError as error:
        return limit if error.errno in (EMFILE, ENFILE) else 0, limit
