"""A web crawler that cannot run out of memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from crawler.results import Result

__version__ = "0.1.0"


def read(directory: Path | str) -> Iterator[Result]:
    """Every result of a crawl: ``.row`` and ``.open()``, in bounded memory, also while it runs. See ``crawler.reading``."""
    from crawler.reading import read

    return read(directory)
