"""How much a parser process replies to one document, at most. ``crawler.parse`` keeps to it; the memory plan relies on that."""

from __future__ import annotations

from typing import Final

REPLY_BYTES_MAX: Final = 8 << 20
"""All of it."""
PART_LINKS: Final = 2000
"""Links that come in one piece: about half a megabyte, once they are objects."""
PARTS_MAX: Final = 128
"""Such pieces of one document, which names no more than 200,000 links."""
OUTLINKS_BYTES_MAX: Final = 3 << 20
"""The URLs in it."""
OUTLINKS_BYTES_FREE: Final = 256 << 10
OUTLINKS_BYTES_FACTOR: Final = 4
"""Short references to a long base must not become a huge reply: beyond the free ones, URLs take no more than the document itself,
times the factor."""
