"""The title of a page, for lists of pages."""

from __future__ import annotations

from contextlib import suppress
from typing import BinaryIO, Final

from crawler.parse.html import document_of, said_of
from crawler.parse.limited import limited_memory

HEAD_BYTES: Final = 256 << 10
"""Of a page that are looked at."""
TITLE_CHARS_MAX: Final = 500


def title(body: BinaryIO, mime: str | None, charset: str | None) -> str | None:
    """The text of the first <title> that has any, its spaces folded; None if there is none. Those of pictures (SVG) and templates
    are no page's, and a page that takes too much memory has none."""
    head = body.read(HEAD_BYTES)
    with suppress(MemoryError), limited_memory():
        for element in said_of(document_of(head, charset, mime), "title"):
            if element.namespace.value == "html" and (text := " ".join("".join(element.strings).split())):
                return text[:TITLE_CHARS_MAX]
    return None
