"""Rows as a Parquet file, for DuckDB, pandas and Spark. Needs pyarrow (the extra ``parquet``).

Columns are called as in Common Crawl's columnar index (cc-index-table) where they mean the same, else as in rows. No more than
a row group is in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from crawler.core import exact_json
from crawler.core.durable import beside
from crawler.core.errors import ConfigError
from crawler.output.archive.surt import surt
from crawler.output.results import Row

if TYPE_CHECKING:
    import pyarrow

GROUP_ROWS: Final = 10_000
GROUP_CHARS: Final = 16 << 20
"""Of text: then a row group ends with fewer rows."""


def _part(field: str, name: str) -> Callable[[Row], Any]:
    return lambda row: (row.get(field) or {}).get(name)


def _body(name: str) -> Callable[[Row], Any]:
    """Where the body stands that a record repeats."""
    return lambda row: ((row.get("archive") or {}).get("revisit_of") or {}).get(name)


def _url(part: str) -> Callable[[Row], Any]:
    return lambda row: getattr(urlsplit(row["canonical"]), part) or None if row["canonical"] else None


def _json(field: str) -> Callable[[Row], Any]:
    return lambda row: None if row.get(field) is None else exact_json.dumps(row[field]).decode()


def _text(field: str) -> Callable[[Row], Any]:
    return lambda row: None if row.get(field) is None else str(row[field])


# fmt: off
COLUMNS: Final[dict[str, tuple[str, Callable[[Row], Any] | None]]] = {
    # as Common Crawl has them
    "url_surtkey": ("string", lambda row: surt(row["canonical"]) if row["canonical"] else None),
    "url": ("string", lambda row: row["canonical"] or row["url"]),
    "url_protocol": ("string", _url("scheme")),
    "url_host_name": ("string", _url("hostname")),
    "url_path": ("string", _url("path")),
    "url_query": ("string", _url("query")),
    "fetch_time": ("timestamp", lambda row: datetime.fromisoformat(row["fetched_at"])),
    "fetch_status": ("int16", lambda row: row["status"]),
    "fetch_redirect": ("string", lambda row: row["location"]),
    "content_mime_type": ("string", lambda row: row["mime"]),
    "content_charset": ("string", lambda row: row.get("encoding") or row["charset"]),
    "content_truncated": ("string", lambda row: row["truncated"]),
    "warc_filename": ("string", _part("archive", "file")),
    "warc_record_offset": ("int64", _part("archive", "offset")),
    "warc_record_length": ("int64", _part("archive", "length")),
    # as rows have them
    "listed": ("string", None), "outcome": ("string", None), "reason": ("string", None), "kind": ("string", None),
    "change": ("string", None), "final": ("bool", None), "via": ("string", None), "depth": ("int32", None),
    "hops": ("int32", None), "attempt": ("int32", None), "bytes_wire": ("int64", None), "bytes_decoded": ("int64", None),
    "sha256": ("string", None), "ip": ("string", None), "robots": ("string", None), "cut": ("string", None),
    "fault": ("string", None), "tag": ("string", _text("tag")), "extra": ("string", _json("extra")),
    "input_list": ("string", _part("input", "list")), "input_line": ("int64", _part("input", "line")),
    "seconds_queue": ("float64", _part("timings", "queue")), "seconds_first_byte": ("float64", _part("timings", "first_byte")),
    "seconds_total": ("float64", _part("timings", "total")), "path": ("string", _part("archive", "path")),
    "revisit_of_filename": ("string", _body("file")), "revisit_of_offset": ("int64", _body("offset")),
    "revisit_of_length": ("int64", _body("length")),
}
# fmt: on
"""Name → type, and how a row has it: None, by that name."""


def write_parquet(rows: Iterable[Row], to: Path) -> int:
    """Write rows to a new file; how many. A file that could not be finished is not there. ConfigError: pyarrow is not
    installed, or another process writes the same file. Raises OSError, StorageError."""
    try:
        import pyarrow
        from pyarrow.parquet import ParquetWriter
    except ImportError as error:
        raise ConfigError("Parquet needs pyarrow: pip install 'flatcrawler[parquet]'") from error
    schema = _schema(pyarrow)
    count = 0
    with beside(to) as file, ParquetWriter(file, schema, compression="zstd") as writer:
        for group in _groups(rows):
            writer.write_batch(pyarrow.record_batch(group, schema=schema))
            count += len(group[0])
    return count


def _groups(rows: Iterable[Row]) -> Iterator[list[list[Any]]]:
    """Row groups, column by column. Rows themselves are not kept: what a list says besides may take twenty times its text."""
    group: list[list[Any]] = [[] for _ in COLUMNS]
    chars = 0
    for row in rows:
        for column, (name, (_, value)) in zip(group, COLUMNS.items(), strict=True):
            cell = row.get(name) if value is None else value(row)
            column.append(cell)
            chars += len(cell) if isinstance(cell, str) else 0
        if len(group[0]) == GROUP_ROWS or chars >= GROUP_CHARS:
            yield group
            group, chars = [[] for _ in COLUMNS], 0
    if group[0]:
        yield group


def _schema(arrow: Any) -> pyarrow.Schema:
    kinds = {"timestamp": arrow.timestamp("ms", tz="UTC"), "bool": arrow.bool_()}
    return arrow.schema([(name, kinds.get(kind) or getattr(arrow, kind)()) for name, (kind, _) in COLUMNS.items()])
