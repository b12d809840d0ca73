"""Result rows as a table (CSV, RFC 4180). Pure."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, Final

import orjson

from crawler.core import exact_json
from crawler.core.text import cell, printable
from crawler.output.results import FIELDS, Row

COLUMNS: Final = {
    "input": ("list", "line"),
    "timings": ("queue", "first_byte", "total"),
    "archive": ("file", "offset", "length", "path"),
}
"""Fields that are objects, and what becomes of them in a table: ``input_list``, ``input_line``, ..."""


def csv_lines(rows: Iterable[Row], *, with_header: bool = True) -> Iterator[str]:
    """A header line, unless what these are appended to has one, and a line per row, with plain line ends. Text that a
    spreadsheet would take for a formula gets an apostrophe, control characters are question marks: the rows themselves are as
    they came."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = [f"{name}_{part}" if part else name for name in FIELDS for part in COLUMNS.get(name, ("",))]
    for cells in chain([names] if with_header else (), map(_cells, rows)):
        writer.writerow(cells)
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()


def _cells(row: Row) -> list[Any]:
    cells: list[Any] = []
    for name in FIELDS:
        parts = COLUMNS.get(name)
        if parts is None:
            cells.append(_cell(row.get(name)))
        else:
            whole = row.get(name) or {}
            cells += [_cell(whole.get(part)) for part in parts]
    return cells


def _cell(value: Any) -> Any:
    """JSON's words for true and false, nothing for null."""
    if value is None:
        return ""
    if isinstance(value, str):
        return cell(value)
    if isinstance(value, bool):
        return orjson.dumps(value).decode()
    return printable(exact_json.dumps(value).decode()) if isinstance(value, dict) else value
