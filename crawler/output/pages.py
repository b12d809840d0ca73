"""The pages of a crawl as a list for people and readers: ``pages.jsonl`` of WACZ 1.1.1 (https://specs.webrecorder.net/wacz/1.1.1/).

Invariant: one line per page that was fetched whole or in part, in the order in which they were.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import BinaryIO, Final, TypeAlias

import orjson

from crawler.core.sniff import PREFIX_BYTES, sniff
from crawler.output.results import Result, Row, body_ref

HEADER: Final = {"format": "json-pages-1.0", "id": "pages", "title": "All Pages"}
HTML: Final = frozenset({"text/html", "application/xhtml+xml"})
ReadTitle: TypeAlias = Callable[[BinaryIO, str | None, str | None], str | None]
"""A page's body, its type and the encoding it was read by → its title."""


def page_lines(results: Iterable[Result], read_title: ReadTitle) -> Iterator[bytes]:
    """A header, then a line per page. Bodies that are kept no longer leave a page without its title."""
    yield orjson.dumps(HEADER, option=orjson.OPT_APPEND_NEWLINE)
    for result in results:
        row = result.row
        if body_ref(row) is None or not _is_html(result):
            continue
        page = {"id": _id(row["canonical"], row["fetched_at"]), "url": row["canonical"], "ts": row["fetched_at"]}
        title = _title(result, read_title)
        seed = {"seed": True} if row["kind"] == "seed" or _is_listed_again(row) else {}
        yield orjson.dumps(page | {"title": title or row["canonical"]} | seed, option=orjson.OPT_APPEND_NEWLINE)


def _is_listed_again(row: Row) -> bool:
    """A later visit's row says recrawl and no more how the page came: one that was listed has its line, and nothing before it."""
    return row["kind"] == "recrawl" and row["input"] is not None and not row["hops"]


def _is_html(result: Result) -> bool:
    """Also what no header names a type of, where its bytes do: browsers show it as a page."""
    mime = result.row["mime"]
    if mime is None:
        with suppress(LookupError), result.open() as body:
            mime = sniff(body.read(PREFIX_BYTES), None)
    return mime in HTML


def _title(result: Result, read_title: ReadTitle) -> str | None:
    try:
        with result.open() as body:
            return read_title(body, result.row["mime"], result.row.get("encoding") or result.row["charset"])
    except LookupError:
        return None


def _id(url: str, at: str) -> str:
    return hashlib.sha256(f"{at} {url}".encode()).hexdigest()[:22]
