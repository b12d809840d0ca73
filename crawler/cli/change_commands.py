"""The commands ``retry``, ``recrawl`` and ``retire``: change a crawl that is not running, or tell the daemon that runs it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from errno import EWOULDBLOCK
from typing import Final

from crawler.cli.arguments import CommandParser, outcomes_of
from crawler.cli.client import WHERE, client_of, refusable
from crawler.cli.options import add_settings
from crawler.cli.output import say
from crawler.core.errors import ConfigError, Exit, StorageError
from crawler.core.model import RETRIED
from crawler.core.text import counted

ITS_DIRECTORY: Final = "the crawl's directory; without it the running daemon is told"


@refusable
def retry(arguments: Sequence[str]) -> int:
    parser = CommandParser(
        "retry",
        "retry [DIR] [--outcome NAME,...]",
        "Schedules finished URLs to be fetched again by the command that began the crawl, or by the daemon that runs it. Each "
        "new row has a higher attempt.\n\n"
        "examples:\n"
        "  crawler retry out/                                what failed by network, server or our own settings\n"
        "  crawler retry out/ --outcome http_error,timeout\n"
        "  crawler retry out/ --outcome blocked              after --allow-net was widened\n"
        "  crawler run -i urls.txt -o out/                   now fetch them\n"
        "  crawler retry --outcome timeout                   by the crawler running on this machine, at once",
    )
    parser.add_argument("directory", metavar="DIR", nargs="?", help=ITS_DIRECTORY)
    parser.add_argument("--outcome", action="append", default=[], metavar="NAME,...", help=f"default {', '.join(RETRIED)}")
    add_settings(parser, only=WHERE)
    namespace = parser.parse(arguments)
    outcomes = outcomes_of(namespace.outcome or RETRIED)
    if namespace.directory is None:
        told = client_of(namespace).ask("POST", "/v1/retry", send={"outcome": sorted(outcomes)}, patient=True)
        say(_due_again(told["count"]))
        return Exit.OK
    from crawler.crawl.maintenance import revive
    from crawler.output import crawl_in

    with _its_daemon_named("retry"):
        count = revive(crawl_in(namespace.directory), outcomes)
    say(_due_again(count, ": go on with the command of this crawl"))
    return Exit.OK


@refusable
def recrawl(arguments: Sequence[str]) -> int:
    parser = CommandParser(
        "recrawl",
        "recrawl [DIR] [--older-than TIME] [--outcome NAME,...] [--match REGEX]",
        "Makes the pages of a crawl due again, to see what has changed since. Unchanged ones cost no body where the server can "
        "tell, and are stored once; rows say new, changed, unchanged or gone.\n\nexamples:\n"
        "  crawler recrawl out/                              every page; then go on with the command of the crawl:\n"
        "  crawler run -i urls.txt -o out/\n"
        "  crawler results out/ --change new,changed,gone --since 1d    what has changed\n"
        "  crawler recrawl out/ --older-than 7d --match '/news/'\n"
        "  crawler recrawl --older-than 1d                   by the crawler running on this machine, at once",
    )
    parser.add_argument("directory", metavar="DIR", nargs="?", help=ITS_DIRECTORY)
    parser.add_argument("--older-than", default="0", metavar="TIME", help="only what was last visited so long ago, such as 7d")
    parser.add_argument(
        "--outcome", action="append", default=[], metavar="NAME,...", help="only what ended so (default: all but skipped)"
    )
    parser.add_argument("--match", metavar="REGEX", help="only URLs that match")
    add_settings(parser, only=WHERE)
    namespace = parser.parse(arguments)
    from crawler.crawl.recrawl import checked

    outcomes = outcomes_of(namespace.outcome)
    try:
        older_than_s, match = checked(namespace.older_than, namespace.match)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if namespace.directory is None:
        query = {"older_than": namespace.older_than, "outcome": ",".join(sorted(outcomes)) or None, "match": match}
        client_of(namespace).ask("POST", "/v1/recrawl", query)
        say("ordered: the pages become due again, some thousand at a time")
        return Exit.OK
    from crawler.crawl.maintenance import recrawl as ordered
    from crawler.output import crawl_in

    with _its_daemon_named("recrawl"):
        count = ordered(crawl_in(namespace.directory), older_than_s=older_than_s, outcomes=outcomes, match=match)
    say(_due_again(count, ": go on with the command of this crawl"))
    return Exit.OK


@contextlib.contextmanager
def _its_daemon_named(command: str) -> Iterator[None]:
    """StorageError: the directory is in use, and what to do if that is by a daemon, which takes the command itself."""
    try:
        yield
    except StorageError as error:
        if error.errno != EWOULDBLOCK:
            raise
        raise StorageError(f"{error}; if crawler serve runs it, leave DIR out: crawler {command}", errno=EWOULDBLOCK) from error


def _due_again(count: int, then: str = "") -> str:
    if not count:
        return "no URL is due again: none was settled so"
    return f"{counted(count, 'URL')} {'is' if count == 1 else 'are'} due again{then}"


def retire(arguments: Sequence[str]) -> int:
    parser = CommandParser(
        "retire",
        "retire DIR FILE ... | retire DIR --missing",
        "Marks full files of a crawl as no longer kept: they were moved or deleted while it did not run. It then continues "
        "without them; any other missing file ends it with exit 3. (A running crawl notices by itself.)\n\n"
        "examples:\n"
        "  crawler retire out/ --missing                          all files that are missing\n"
        "  crawler retire out/ results/results-000000.jsonl       this one, named as in the directory",
    )
    parser.add_argument("directory", metavar="DIR", help="the crawl's directory (run's --output)")
    parser.add_argument("files", metavar="FILE", nargs="*", help="relative to DIR; a WARC file takes its index with it")
    parser.add_argument("--missing", action="store_true", help="every full file that is missing")
    namespace = parser.parse(arguments)
    from crawler.crawl.maintenance import retire as retired_in
    from crawler.output import crawl_in

    root = crawl_in(namespace.directory)
    if bool(namespace.files) == namespace.missing:
        raise ConfigError("which files? name them as in the directory, or give --missing for all that are missing")
    retired = retired_in(root, namespace.files)
    for file in retired:
        say(f"{file} is retired")
    if not retired:
        say("nothing is retired: no full file is missing that was not retired before")
    return Exit.OK
