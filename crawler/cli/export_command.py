"""The command ``export``: takes what a crawl has brought elsewhere, also while it runs."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from crawler.cli.arguments import PAGE, CommandParser, file_name
from crawler.cli.filter_options import add_filters, filter_of
from crawler.cli.output import ended_in_order, not_written, say, write, write_all
from crawler.cli.read_commands import add_directory, open_reader
from crawler.core import exact_json
from crawler.core.errors import ConfigError, Exit
from crawler.core.text import counted, json_text

if TYPE_CHECKING:
    from argparse import Namespace

    from crawler.output import CrawlReader, Result, Row
    from crawler.output.filters import Filter

_NONE_KEPT: Final = "no body is kept in this crawl (--archive discard); its rows: crawler results {where}"
FORMATS: Final = ("jsonl", "pages", "parquet", "wacz")


def export(arguments: Sequence[str]) -> int:
    parser = CommandParser(
        "export",
        "export DIR [--format jsonl|pages|parquet|wacz] [--to FILE] [--files DIR] [--final] [filters]",
        "Takes what was crawled elsewhere; also while the crawl runs.\n\nexamples:\n"
        "  crawler export out/ --mime text/html > pages.jsonl          bodies, text as text, anything else in base64\n"
        "  crawler export out/ --mime 'image/*' --files pictures/      files named by digest; prints their rows\n"
        "  crawler export out/ --kind robots,sitemap                   what was fetched besides the pages\n"
        "  crawler export out/ --format parquet --to rows.parquet      rows, for DuckDB or pandas (needs pyarrow)\n"
        "  crawler export out/ --format wacz --to out.wacz             the archive in one file, for any replay\n"
        "  crawler export out/ --format pages                          a line per page: URL, time, title",
    )
    add_directory(parser)
    parser.add_argument("--format", choices=FORMATS, default="jsonl", metavar="|".join(FORMATS), help="default jsonl: bodies")
    parser.add_argument("--to", type=file_name, metavar="FILE", help="where a file of the formats parquet and wacz is written")
    parser.add_argument("--files", type=file_name, metavar="DIR", help="write bodies as files to this directory")
    parser.add_argument("--final", action="store_true", help="one row per listed line and page, duplicates resolved, latest only")
    add_filters(parser, outcomes="ok; of parquet all", kind=PAGE)
    namespace = parser.parse(arguments)
    is_file = namespace.format in ("parquet", "wacz")
    if is_file != (namespace.to is not None) or (namespace.files and namespace.format != "jsonl"):
        raise ConfigError("--to FILE is for --format parquet and wacz, which need it; --files DIR is for bodies")
    wanted = filter_of(namespace, outcomes=() if namespace.format == "parquet" else ("ok",), kind=PAGE)
    with open_reader(namespace.directory) as reader:
        if is_file:
            with ended_in_order():
                _to_file(reader, wanted, namespace)
        elif namespace.format == "pages":
            write(map(json_text, _pages(reader, wanted, namespace)))
            if _keeps_none(reader.root):
                say(_NONE_KEPT.format(where=shlex.quote(str(reader.root))))
        else:
            besides = [] if namespace.outcome else ["outcome ok only: --outcome names others"]
            besides += [] if namespace.kind else ["pages only: --kind all looks at embeds and what was fetched besides, too"]
            bodies = _bodies(reader.root, _results(reader, wanted, namespace), namespace.files, besides)
            (write_all if namespace.files else write)(bodies)
    return Exit.OK


def _keeps_none(root: Path) -> bool:
    from crawler.config.crawl_toml import read_section
    from crawler.config.sections import ArchiveConfig

    config = read_section(root, ArchiveConfig, ("archive",))
    return config is not None and config.archive == "discard"


def _rows(reader: CrawlReader, wanted: Filter, namespace: Namespace) -> Iterator[Row]:
    rows: Iterable[Row] = (row for _, row in reader.rows())
    if namespace.final:  # a page is one, however many lines lead to it
        rows = reader.latest() if namespace.format in ("pages", "wacz") else reader.final()
    return (row for row in rows if wanted.wants(row))


def _results(reader: CrawlReader, wanted: Filter, namespace: Namespace) -> Iterator[Result]:
    from crawler.output import Result
    from crawler.output.results import body_ref

    rows = _rows(reader, wanted, namespace)
    if namespace.format in ("pages", "wacz") and not namespace.final:  # a page not modified has its line already
        rows = (row for row in rows if row["status"] != 304)
    placed = ((row, ref) for row in rows if (ref := body_ref(row)) is not None)
    if namespace.format == "wacz":  # what is not in it is none of its pages
        placed = ((row, ref) for row, ref in placed if not reader.is_retired(ref.file))
    return (Result(row, reader.body) for row, _ in placed)


def _pages(reader: CrawlReader, wanted: Filter, namespace: Namespace) -> Iterator[bytes]:
    from crawler.output.pages import page_lines
    from crawler.parse.title import title

    return page_lines(_results(reader, wanted, namespace), title)


def _to_file(reader: CrawlReader, wanted: Filter, namespace: Namespace) -> None:
    to = Path(namespace.to)
    try:
        if to.exists() and not to.is_file():  # a device or a pipe would be gone: the new file takes its name
            raise ConfigError(f"{to}: {'a directory' if to.is_dir() else 'no regular file'}: name a file, which is replaced")
        target = Path(os.path.realpath(to))  # a link stays one, unless it leads to itself
        if namespace.format == "parquet":
            from crawler.output.parquet import write_parquet

            say(f"{to}: {counted(write_parquet(_rows(reader, wanted, namespace), target), 'row')}")
        else:
            from crawler.output.archive.wacz import write_wacz

            title = reader.root.resolve().name
            pages = _pages(reader, wanted, namespace)
            count = write_wacz(reader.root, reader.marks, pages, target, title=title, is_retired=reader.is_retired)
            if not count:
                raise ConfigError(f"{reader.root}: there are no WARC files in it, which WACZ is made of")
            say(f"{to}: {counted(count, 'WARC file')}")
    except OSError as error:
        raise not_written(to, error) from error


def _bodies(root: Path, results: Iterable[Result], to: str | None, besides: Sequence[str]) -> Iterator[bytes]:
    """``besides``: where else to look if there is none."""
    from crawler.output.export import clear, json_line, to_file
    from crawler.parse.encoding import read_text

    if to is not None:
        try:
            clear(Path(to))
        except OSError as error:
            raise not_written(to, error) from error
    matched = retired = 0
    for result in results:
        matched += 1
        try:
            opened = result.open()
        except LookupError:
            retired += 1
            continue
        with opened as body:
            if to is None:
                yield from json_line(result.row, body, read_text)
            else:
                try:
                    made = to_file(result.row, body, Path(to))
                except OSError as error:
                    raise not_written(to, error) from error
                yield json_text(exact_json.dumps(made) + b"\n")
    if not matched:
        elsewhere = f" ({'; '.join(besides)})" if besides else ""
        where = shlex.quote(str(root))
        if _keeps_none(root):
            say(_NONE_KEPT.format(where=where))
            return
        say(f"no body is of that kind{elsewhere}; what there is: crawler summary {where}, crawler results {where}")
    if retired:
        say(f"{'1 body is' if retired == 1 else f'{retired:,} bodies are'} no longer kept: retired with the files they were in")
