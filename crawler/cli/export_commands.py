"""The commands that take what a crawl has brought elsewhere: ``export`` and ``summary``. Both read, also while it runs."""

from __future__ import annotations

import itertools
import os
import shlex
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
from msgspec.structs import asdict

from crawler.cli.arguments import CommandParser, changes_of, kinds_of, outcomes_of
from crawler.cli.output import ended_in_order, say, write
from crawler.cli.read_commands import add_directory, add_kind, open_reader
from crawler.core import exact_json
from crawler.core.errors import NO_ROOM, ConfigError, Exit, StorageError
from crawler.core.text import counted, json_text, printable

if TYPE_CHECKING:
    from argparse import Namespace

    from crawler.output import CrawlReader, Result, Row
    from crawler.output.filters import Filter
    from crawler.output.summary import Summary

FORMATS = ("jsonl", "pages", "parquet", "wacz")


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
    parser.add_argument("--to", metavar="FILE", help="where a file of the formats parquet and wacz is written")
    parser.add_argument("--files", metavar="DIR", help="write bodies as files to this directory")
    parser.add_argument("--final", action="store_true", help="one row per listed line and page, the latest attempt only")
    parser.add_argument(
        "--outcome", action="append", default=[], metavar="NAME,...", help="of these outcomes (default ok; of parquet all)"
    )
    add_kind(parser, "page")
    parser.add_argument("--change", action="append", default=[], metavar="NAME,...", help="new, changed, unchanged, gone")
    parser.add_argument("--status", action="append", default=[], metavar="CODE,...", help="such as 200,404, 5xx; 304: unchanged")
    parser.add_argument("--mime", action="append", default=[], metavar="TYPE,...", help="of these types, such as image/*")
    parser.add_argument("--tag", action="append", default=[], metavar="TAG", help="with this label")
    parser.add_argument("--since", metavar="TIME", help="fetched since then: 2026-11-23, or so long ago, such as 7d")
    namespace = parser.parse(arguments)
    is_file = namespace.format in ("parquet", "wacz")
    if is_file != (namespace.to is not None) or (namespace.files and namespace.format != "jsonl"):
        raise ConfigError("--to FILE is for --format parquet and wacz, which need it; --files DIR is for bodies")
    wanted = _filter(namespace, outcomes="" if namespace.format == "parquet" else "ok")
    with open_reader(namespace.directory) as reader:
        if is_file:
            with ended_in_order():
                _to_file(reader, wanted, namespace)
        elif namespace.format == "pages":
            write(_pages(reader, wanted, namespace))
        else:
            besides = [] if namespace.outcome else ["outcome ok only: --outcome names others"]
            besides += [] if namespace.kind else ["pages only: --kind all looks at embeds and what was fetched besides, too"]
            write(_bodies(reader.root, _results(reader, wanted, namespace), namespace.files, besides))
    return Exit.OK


def _filter(namespace: Namespace, *, outcomes: str) -> Filter:
    from crawler.output.filters import Filter

    return Filter(
        outcomes=outcomes_of(namespace.outcome or [outcomes]),
        kinds=kinds_of(namespace.kind or ["page"]),
        changes=changes_of(namespace.change),
        mimes=tuple(_words(namespace.mime)),
        statuses=frozenset(_statuses(namespace.status)),
        tags=frozenset(namespace.tag),
        since=_since(namespace.since) if namespace.since else "",
    )


def _words(texts: Iterable[str]) -> Iterator[str]:
    return (part.lower() for text in texts for part in text.split(",") if part)


def _statuses(texts: Iterable[str]) -> Iterator[str]:
    for word in _words(texts):
        if not (len(word) == 3 and word[0] in "123456789" and (word[1:] == "xx" or word[1:].isdigit())):
            raise ConfigError(f"--status {word}: write a code such as 404, or a class such as 5xx")
        yield word


def _since(text: str) -> str:
    """As rows have it."""
    from datetime import UTC, datetime

    from crawler.config.types import parse_time
    from crawler.output.rows import iso

    try:
        return iso(time.time() - float(parse_time(text)))
    except ValueError:
        pass
    try:
        at = datetime.fromisoformat(text)
        return iso((at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        raise ConfigError(f"--since {text}: write a day such as 2026-11-23, a moment, or how long ago, such as 7d") from None


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
    return (Result(row, reader.body) for row in rows if body_ref(row) is not None)


def _pages(reader: CrawlReader, wanted: Filter, namespace: Namespace) -> Iterator[bytes]:
    from crawler.output.pages import page_lines
    from crawler.parse.title import title

    return page_lines(_results(reader, wanted, namespace), title)


def _to_file(reader: CrawlReader, wanted: Filter, namespace: Namespace) -> None:
    to = Path(namespace.to)
    try:
        if to.exists() and not to.is_file():  # a device or a pipe would be gone: the new file takes its name
            raise ConfigError(f"{to}: {'a directory' if to.is_dir() else 'no regular file'}: name a file, which is replaced")
        target = to.resolve()  # a link stays one
        if namespace.format == "parquet":
            from crawler.output.parquet import write_parquet

            say(f"{to}: {counted(write_parquet(_rows(reader, wanted, namespace), target), 'row')}")
        else:
            from crawler.output.archive.wacz import write_wacz

            title = reader.root.resolve().name
            count = write_wacz(reader.root, reader.marks, _pages(reader, wanted, namespace), target, title=title)
            if not count:
                raise ConfigError(f"{reader.root}: there are no WARC files in it, which WACZ is made of")
            say(f"{to}: {counted(count, 'WARC file')}")
    except OSError as error:
        raise _not_written(to, error) from error


def _bodies(root: Path, results: Iterable[Result], to: str | None, besides: Sequence[str]) -> Iterator[bytes]:
    """``besides``: where else to look if there is none."""
    from crawler.output.export import clear, json_line, to_file
    from crawler.parse.encoding import read_text

    if to is not None:
        try:
            clear(Path(to))
        except OSError as error:
            raise _not_written(to, error) from error
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
                    raise _not_written(to, error) from error
                yield exact_json.dumps(made) + b"\n"
    if not matched:
        elsewhere = f" ({'; '.join(besides)})" if besides else ""
        where = shlex.quote(str(root))
        say(f"no body is of that kind{elsewhere}; what there is: crawler summary {where}, crawler results {where}")
    if retired:
        say(f"{'1 body is' if retired == 1 else f'{retired:,} bodies are'} no longer kept: retired with the files they were in")


def summary(arguments: Sequence[str]) -> int:
    parser = CommandParser(
        "summary",
        "summary DIR [--html FILE | --json | --incomplete]",
        "Shows what a crawl has brought so far: outcomes by status, types, hosts, sizes and durations, and which pages lack "
        "something that they need (--requisites).\n\nexamples:\n"
        "  crawler summary out/\n"
        "  crawler summary out/ --html out.html     the same as one page with plots, readable without a network\n"
        "  crawler summary out/ --incomplete        every page that lacks something, as JSON lines: its URL and what it lacks",
    )
    add_directory(parser)
    parser.add_argument("--html", metavar="FILE", help="write it as one self-contained page")
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    parser.add_argument("--incomplete", action="store_true", help="the pages that lack something, read again one by one")
    namespace = parser.parse(arguments)
    if sum((namespace.html is not None, namespace.json, namespace.incomplete)) > 1:
        raise ConfigError(
            "--html, --json and --incomplete are three ways to show it: give one of them, and the command once for each"
        )
    with open_reader(namespace.directory) as reader:
        if namespace.incomplete:
            from crawler.crawl.incomplete import incomplete_pages

            unread = itertools.count()
            pages = incomplete_pages(reader, lambda: next(unread))
            write(json_text(orjson.dumps(page, default=asdict) + b"\n") for page in pages)
            if unkept := next(unread):
                say(f"{counted(unkept, 'page')} could not be read again: no body is kept")
            return Exit.OK
        summed = reader.summary()
    if namespace.html:
        from crawler.output.summary_page import page

        text = page(summed, title=f"Crawl of {Path(namespace.directory).resolve().name}")
        try:
            with ended_in_order():
                _replace(Path(namespace.html), text.encode())
        except OSError as error:
            raise _not_written(namespace.html, error) from error
        say(f"{namespace.html} is written")
    elif namespace.json:
        print(json_text(orjson.dumps(summed.as_json(), option=orjson.OPT_NON_STR_KEYS)).decode())
    else:
        print("\n".join(_text(summed)))
    return Exit.OK


def _replace(to: Path, data: bytes) -> None:
    """Write it to a file, whole or not at all: what was there before is lost only once it is. Raises OSError."""
    if to.exists() and not to.is_file():  # a device or a pipe
        to.write_bytes(data)
        return
    target = to.resolve()  # a link stays one
    temporary = target.with_name(target.name + ".tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _text(summed: Summary) -> Iterator[str]:
    """For a person."""
    from crawler.crawl.status import amount

    besides = ", ".join(f"{summed.kinds[kind]:,} {kind}" for kind in ("embed", "sitemap", "robots") if summed.kinds[kind])
    yield counted(sum(summed.outcomes.values()), "page") + f" (besides: {besides})" * bool(besides) + f", {amount(summed.bytes)}"
    yield from _columns("outcomes", summed.outcomes.most_common())
    yield from _columns("status codes", sorted(summed.statuses.items()))
    if any(change != "new" for change in summed.changes):
        yield from _columns("against the last visits", summed.changes.most_common())
    yield from _columns(summed.types.titled("types"), summed.types.most())
    yield from _columns(summed.hosts.titled("hosts"), summed.hosts.most())
    yield from _columns(summed.failing.titled("hosts with most failures"), summed.failing.most())
    for name, histogram in (("time to first byte", summed.first_byte), ("whole fetch", summed.total)):
        labels = [f"up to {bound:g} s" for bound in histogram.bounds] + [f"over {histogram.bounds[-1]:g} s"]
        yield from _columns(name, [pair for pair in zip(labels, histogram.counts, strict=True) if pair[1]])
    if summed.missing:
        yield f"{counted(summed.missing, 'requisite')} could not be fetched"
        title = summed.incomplete.titled("pages that lack them, as the first to name them")
        yield from _columns(title, summed.incomplete.most())


def _columns(title: str, counts: Sequence[tuple[str, int]]) -> Iterator[str]:
    if counts:
        yield title
        width, digits = max(len(name) for name, _ in counts), max(len(f"{count:,}") for _, count in counts)
        yield from (f"  {printable(name):<{width}}  {f'{count:,}':>{digits}}" for name, count in counts)


def _not_written(path: Path | str, error: OSError) -> ConfigError | StorageError:
    """Why a file that was asked for could not be written: its disk takes no more, or another is to be named."""
    said = f"{path}: {os.strerror(error.errno) if error.errno else error.strerror}"  # pyarrow's words name a file of its own
    return StorageError(said, errno=error.errno) if error.errno in NO_ROOM else ConfigError(said)
