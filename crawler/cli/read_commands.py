"""The commands that read a crawl's directory, also while it runs: ``results``, ``cat``, ``why``, ``verify``."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import orjson

from crawler.cli.arguments import ALL, CommandParser
from crawler.cli.client import WHERE, RequestRefused, client_of, refusable
from crawler.cli.filter_options import add_filters, filter_of
from crawler.cli.options import add_settings
from crawler.cli.output import put, say, write
from crawler.core import exact_json
from crawler.core.errors import ConfigError, Exit, FetchError, StorageError
from crawler.core.text import counted, json_text, printable

if TYPE_CHECKING:
    from argparse import Namespace

    from crawler.core.model import Known
    from crawler.output import CrawlReader, Row

WAIT_S: Final = 50
"""How long one request waits for rows; then the next one does."""


@refusable
def results(arguments: Sequence[str]) -> int:
    parser = CommandParser(
        "results",
        "results [DIR] [--final] [--format jsonl|csv] [filters] [options]",
        "Prints result rows in the order in which they were written.\n\nexamples:\n"
        "  crawler results out/                                     all rows, as JSON lines\n"
        "  crawler results out/ --final --format csv > out.csv      one row per line and page found, as a table\n"
        "  crawler results out/ --outcome timeout,dns_error         failed in one of these ways\n"
        "  crawler results out/ --tag news --since 7d --status 5xx   of this label, fetched since then, with such a response\n"
        "  crawler results out/ --change gone                       pages that a recrawl did not find any more\n"
        "  crawler results --follow                                 from the crawler running on this machine, as they come\n"
        "  crawler results --follow --cursor 0-52310                from where an earlier command stopped (it prints where)",
    )
    parser.add_argument(
        "directory", metavar="DIR", nargs="?", help="the crawl's directory; without it the running daemon is asked"
    )
    parser.add_argument("--follow", action="store_true", help="wait for more (daemon only)")
    parser.add_argument("--cursor", metavar="N-N", default="0-0", help="where to begin (daemon only)")
    parser.add_argument("--final", action="store_true", help="one row per listed line and page, duplicates resolved, latest only")
    parser.add_argument("--format", choices=("jsonl", "csv"), default="jsonl", metavar="jsonl|csv", help="default jsonl")
    add_filters(parser, outcomes=ALL, kind=ALL)
    add_settings(parser, only=WHERE)
    namespace = parser.parse(arguments)
    wanted = filter_of(namespace, outcomes=(), kind=ALL).wants
    if namespace.directory is None:
        return _results_of_daemon(namespace, wanted)
    if namespace.follow or namespace.cursor != "0-0":
        raise ConfigError("--follow and --cursor are for a daemon: leave DIR out")
    with open_reader(namespace.directory) as reader:
        rows = reader.final() if namespace.final else (row for _, row in reader.rows())
        write(_as_text(filter(wanted, rows), namespace.format))
    return Exit.OK


def _results_of_daemon(namespace: Namespace, wanted: Callable[[Row], bool]) -> int:
    if namespace.final:
        raise ConfigError("--final needs the crawl's directory: name DIR")
    client = client_of(namespace)
    cursor, is_refused = namespace.cursor, False

    def rows() -> Iterator[Row]:
        nonlocal cursor
        for behind, page in client.results(cursor, WAIT_S if namespace.follow else 0):
            for line in page.splitlines():
                row = exact_json.loads(line)
                if wanted(row):
                    yield row
            sys.stdout.flush()
            cursor = behind

    try:
        write(_as_text(rows(), namespace.format, is_begun=cursor != "0-0"))
    except KeyboardInterrupt:
        pass
    except RequestRefused:
        is_refused = True
        raise
    finally:
        if not is_refused or cursor != namespace.cursor:
            say(f"to go on from here: --cursor {cursor}")
    return Exit.OK


def _as_text(rows: Iterable[Row], form: str, *, is_begun: bool = False) -> Iterator[bytes]:
    """``is_begun``: earlier rows are printed already, with the header of a table."""
    if form == "csv":
        from crawler.output.csv_rows import csv_lines

        return (line.encode() for line in csv_lines(rows, with_header=not is_begun))
    return (json_text(exact_json.dumps(row) + b"\n") for row in rows)


def cat(arguments: Sequence[str]) -> int:
    parser = CommandParser(
        "cat",
        "cat DIR URL [--raw]",
        "Prints the archived body of a URL.\n\nexamples:\n"
        "  crawler cat out/ https://example.org/\n"
        "  crawler cat out/ https://example.org/ --raw | gunzip       as it was sent",
    )
    add_directory(parser)
    parser.add_argument("url", metavar="URL")
    parser.add_argument("--raw", action="store_true", help="as archived, without undoing its content coding")
    namespace = parser.parse(arguments)
    from crawler.core.durable import is_there
    from crawler.core.urls import masked
    from crawler.frontier.cluster.node import is_node

    if "://" in namespace.directory:
        raise ConfigError(f"{namespace.directory} is a URL: the crawl's directory comes first (crawler cat DIR URL)")
    with open_reader(namespace.directory) as reader:
        known, url = _lookup(reader, namespace.url), masked(namespace.url)
        if known is None or isinstance(known, str) or known.archive is None:
            return _nothing(url, known)
        if is_node(reader.root / "frontier") and not is_there(reader.root / known.archive.file):
            say(f"{url}: the body is on the node that fetched it, in {known.archive.file}")
            return Exit.NOTHING_FETCHED
        try:
            body = reader.body(known.archive, raw=namespace.raw)
        except LookupError as error:
            say(f"{url}: {error}")
            return Exit.NOTHING_FETCHED
        with body:
            shutil.copyfileobj(body, sys.stdout.buffer)
    return Exit.OK


def _nothing(url: str, known: Known | str | None) -> int:
    if known is None:
        reason = "is not known to this crawl"
    elif isinstance(known, str):
        reason = "is not fetched yet"
    else:
        reason = f"ended as {known.outcome}: no body was kept"
    say(f"{url} {reason}")
    return Exit.NOTHING_FETCHED


@refusable
def why(arguments: Sequence[str]) -> int:
    parser = CommandParser(
        "why",
        "why URL [--data DIR] [--via URL] [--json] [options]",
        "Explains what happened to a URL: its state, outcome, attempts and record, or the rule that left it out.\n\nexamples:\n"
        "  crawler why https://example.org/ --data out/\n"
        "  crawler why https://example.org/                 asks the crawler running on this machine\n"
        "  crawler why https://example.org/a/b --data out/ --via https://example.org/   as a link of that page",
    )
    parser.add_argument("url", metavar="URL")
    parser.add_argument(
        "--data", metavar="DIR", dest="directory", help="the crawl's directory; without it the running daemon is asked"
    )
    parser.add_argument("--via", metavar="URL", help="the page that links to it: decides depth and scope")
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    add_settings(parser, only=WHERE)
    namespace = parser.parse(arguments)
    from crawler.crawl.explain import explain
    from crawler.crawl.explain_text import as_text

    if namespace.directory is None:
        explanation = client_of(namespace).ask("GET", "/v1/urls", {"url": namespace.url, "via": namespace.via})
        return _explained(explanation, None if namespace.json else as_text(explanation))
    from crawler.core.urls import masked
    from crawler.frontier.cluster.node import is_node

    with open_reader(namespace.directory) as reader:
        try:
            explanation = explain(reader.root, reader, namespace.url, namespace.via, is_retired=reader.is_retired)
        except FetchError as error:
            raise ConfigError(f"{masked(namespace.via or namespace.url)}: not a URL ({error.reason})") from error
        if is_node(reader.root / "frontier"):
            explanation["leased_by"] = None  # nobody who would know is asked
    return _explained(explanation, None if namespace.json else as_text(explanation))


def _explained(explanation: Mapping[str, object], text: str | None) -> int:
    """Print it, as JSON without ``text``; the exit code."""
    if text is None:
        write((json_text(orjson.dumps(explanation)), b"\n"))
    else:
        put(text)
    return {"unknown": Exit.NOTHING_FETCHED, "invalid": Exit.USAGE}.get(str(explanation["state"]), Exit.OK)


def verify(arguments: Sequence[str]) -> int:
    parser = CommandParser(
        "verify",
        "verify DIR [--stored]",
        "Checks every record against its digests, every row's place and digest against its record, every index against its file, "
        "every file against what was committed.\n"
        "Prints each fault; exit 0 if there is none, 3 otherwise.\n\nexamples:\n  crawler verify out/\n"
        "  crawler verify out/ --stored      and every copy where --store has put it",
    )
    add_directory(parser)
    parser.add_argument("--stored", action="store_true", help="compare full files with their copies in the store, too")
    namespace = parser.parse(arguments)

    def report(fault: str) -> None:
        put(printable(fault))

    with open_reader(namespace.directory) as reader:
        found = reader.verify(report)
        counts = f"{counted(found.files, 'file')}, {counted(found.records, 'record')}, {counted(found.rows, 'row')}"
        compared, faults = _stored(reader, report) if namespace.stored else (0, 0)
    faults += found.faults
    say(f"{counts}{f', {compared:,} copies' if namespace.stored else ''}: {counted(faults, 'fault') if faults else 'no faults'}")
    return Exit.STORAGE if faults else Exit.OK


def _stored(reader: CrawlReader, report: Callable[[str], None]) -> tuple[int, int]:
    """(copies compared, faults)"""
    import asyncio

    from crawler.config.crawl_toml import read_section
    from crawler.config.sections import StorageConfig
    from crawler.output.bucket import BucketError
    from crawler.output.uploads import verify_stored

    config = read_section(reader.root, StorageConfig, ("store_url",))
    if config is None or config.store_url is None:
        raise ConfigError(f"{reader.root}: nothing of this crawl is stored elsewhere (--store): leave --stored out")
    try:
        return asyncio.run(verify_stored(reader.root, config.store_url, reader.marks, report))
    except BucketError as error:
        raise StorageError(f"the copies cannot be compared: {error}") from error


def add_directory(parser: CommandParser) -> None:
    parser.add_argument("directory", metavar="DIR", help="the crawl's directory (run's --output)")


def open_reader(directory: str) -> CrawlReader:
    from crawler.crawl import open_crawl_reader
    from crawler.output import crawl_in

    return open_crawl_reader(crawl_in(directory))


def _lookup(reader: CrawlReader, url: str) -> Known | str | None:
    from crawler.core.urls import masked

    try:
        return reader.lookup(url)
    except FetchError as error:
        raise ConfigError(f"{masked(url)}: not a URL ({error.reason}): write it whole, such as https://example.org/") from error
