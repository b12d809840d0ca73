"""The commands ``run``, ``retry``, ``recrawl`` and ``retire``: crawl, and change a crawl that is not running."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from crawler.cli.arguments import CommandParser, outcomes_of
from crawler.cli.client import WHERE, client_of, refusable
from crawler.cli.options import add_loudness, add_settings, flags
from crawler.cli.output import say
from crawler.core.errors import ConfigError, Exit
from crawler.core.text import counted

if TYPE_CHECKING:
    import asyncio

    from crawler.config.sections import Config
    from crawler.service import Report, Signals

GC_OBJECTS = 2_000
"""New containers between two looks for cycles: 700, Python's own, took 5 % of a crawl's time, this takes 2 %. 20,000 would
take less than 1 %, but what closed connections leave behind then made 25 MiB."""
NEEDS_OUTPUT = {"output": "-o/--output is missing: name the directory that holds this crawl, such as -o out/"}


Command = Literal["run", "serve"]

logger: Final = logging.getLogger(__name__)


def run(arguments: Sequence[str], signals: Signals | None = None) -> int:
    parser = CommandParser(
        "run",
        "run [URL ...] [-i FILE] ... -o DIR [options]",
        "Crawls until nothing is left. Repeating the command continues where it was stopped or killed.\n\nexamples:\n"
        "  crawler run -i urls.txt -o out/                                            fetch a list\n"
        "  zcat urls.gz | crawler run -i - -o out/                                    from standard input\n"
        "  crawler run https://example.org --depth 3 --scope domain -o out/           follow links\n"
        "  crawler run -i urls.txt -o out/ --archive files --accept-mime 'image/*'    keep bodies as files\n"
        "  crawler run http://127.0.0.1:8000/ --allow-net 127.0.0.0/8 --no-robots --delay 0 -o out/   your own server\n\n"
        "Ctrl-C, SIGTERM, SIGHUP  finish what is in flight, within --grace, and end; a second one ends at once, without loss\n"
        "SIGUSR1, SIGUSR2         log a status line, a memory report",
    )
    parser.add_argument("urls", nargs="*", metavar="URL", help="start URLs")
    parser.add_argument("--json", action="store_true", help="print a summary as one JSON object at the end")
    add_settings(parser)
    add_loudness(parser)
    namespace = parser.parse(arguments)
    from crawler.config.load import load, warnings
    from crawler.output import is_crawl

    config = load(flags(namespace), file=namespace.config, needs=NEEDS_OUTPUT, also=seed_faults).config
    if not (config.urls or config.input or config.cluster or is_crawl(Path(config.output or ""))):
        raise ConfigError(
            f"nothing to crawl: name URLs or a list (-i FILE), or a directory with a crawl, which {config.output} is not"
        )
    return _crawl(config, signals, [] if namespace.quiet else warnings(config), quiet=namespace.quiet, summary=namespace.json)


def seed_faults(config: Config) -> list[str]:
    """What is wrong with the lists and URLs of a configuration."""
    from crawler.parse.seed_files import check
    from crawler.parse.seeds import check_urls

    faults = check_urls(config.urls)
    if faults and config.output is not None:  # an earlier version has taken such URLs, and wrote down that they are none
        faults = check_urls(config.urls[_urls_read(Path(config.output)) :])
    return [*check(config.input), *faults]


def _urls_read(root: Path) -> int:
    """How many URLs of the command line the crawl in ``root`` has read; 0 if there is no crawl."""
    from crawler.frontier import open_reader
    from crawler.output import is_crawl
    from crawler.parse.seeds import ARGV, lines_read

    if not is_crawl(root):
        return 0
    with contextlib.closing(open_reader(root / "frontier")) as reader:
        return lines_read(reader.positions().get(ARGV))


ITS_DIRECTORY = "the crawl's directory; without it the running daemon is told"
RETRIED = "timeout,connect_error,dns_error,tls_error,bad_response,truncated,blocked"
"""Outcomes that another attempt or other settings may change; they say nothing about the page itself."""


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
    parser.add_argument(
        "--outcome", action="append", default=[], metavar="NAME,...", help=f"default {RETRIED.replace(',', ', ')}"
    )
    add_settings(parser, only=WHERE)
    namespace = parser.parse(arguments)
    outcomes = outcomes_of(namespace.outcome or [RETRIED])
    if namespace.directory is None:
        told = client_of(namespace).ask("POST", "/v1/retry", send={"outcome": sorted(outcomes)})
        say(_due_again(told["count"]))
        return Exit.OK
    from crawler.crawl.maintenance import revive
    from crawler.output import crawl_in

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
        "  crawler results out/ --change new,changed,gone    what is told\n"
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

    count = ordered(crawl_in(namespace.directory), older_than_s=older_than_s, outcomes=outcomes, match=match)
    say(_due_again(count, ": go on with the command of this crawl"))
    return Exit.OK


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


def _crawl(config: Config, signals: Signals | None, spoken: Sequence[str], *, quiet: bool, summary: bool) -> int:
    from crawler.cli.log import log_of_run
    from crawler.cli.progress import LIVE_EVERY_S, Progress, closing_table, mode

    import_aiohttp()
    shown = mode(config.progress, sys.stderr, os.environ)
    began = time.monotonic()
    parts, why = processes_of(config, "run")
    with opened_for(config, "run", parts) as run_crawl, Progress(shown, sys.stderr) as progress, log_of_run(config, progress.say):
        for line in spoken:
            logger.warning("%s", line)
        if why:
            logger.info("%s", why)
        interval = LIVE_EVERY_S if shown == "bar" else 1.0
        try:
            report = in_a_loop(lambda: run_crawl(on_snapshot=progress.show, interval=interval, signals=signals))
        except KeyboardInterrupt:
            return Exit.STOPPED  # from another handler than ours: before it began, or after all was committed
    seconds = time.monotonic() - began
    with contextlib.suppress(OSError):  # of a terminal that was closed
        if not quiet:
            table = closing_table(
                report.snapshot,
                seconds,
                directory=str(config.output),
                stopped_by=report.stopped_by,
                begun=report.begun,
                opened=bool(config.allow_net),
            )
            print(table, file=sys.stderr)
    if summary:
        import json

        print(json.dumps(_summary(report, seconds)))
    return report.exit_code


@contextlib.contextmanager
def opened_for(config: Config, command: Command, parts: int) -> Iterator[Callable[..., Coroutine[Any, Any, Report]]]:
    """What runs or serves the crawl, in this process or in several, which are begun from here."""
    if parts == 1:
        name = "run_crawl" if command == "run" else "serve"
        yield partial(getattr(import_module(f"crawler.service.{command}"), name), config)
        return
    from crawler.service.parts.opening import open_parts

    crawl = getattr(import_module(f"crawler.service.parts.{command}"), f"{command}_parts")
    settle_memory()
    with open_parts(config, parts, loop_factory(), endless=command == "serve") as opened:
        yield partial(crawl, config, opened)


def processes_of(config: Config, command: Command) -> tuple[int, str]:
    """How many a crawl is to have: as the settings say, as its directory is divided, or as many as help; and why, if nobody has
    said so."""
    if config.processes:
        return config.processes, ""
    from crawler.frontier.division import is_empty, parts_at

    path = Path(config.output or "") / "frontier"
    if config.output is not None and not config.fresh and not is_empty(path):
        return parts_at(path), ""
    from crawler.service.parts.auto import processes_for

    processes, why = processes_for(config, endless=command == "serve")
    return processes, f"{processes} process{'es' * (processes > 1)}: {why}"


def import_aiohttp() -> None:
    """aiohttp without what it prepares, when it is imported, for defaults that a crawl replaces: the system's certificates in two
    TLS contexts (55 ms), and c-ares (20 ms). The crawl's own connector makes its own of either, when a link first needs it.

    For a process that is the crawler's own: elsewhere those defaults are others' to use."""
    if "aiohttp" in sys.modules:
        return
    import ssl

    ssl.SSLContext.set_default_verify_paths = lambda context: None  # type: ignore[assignment]
    sys.modules["aiodns"] = None  # type: ignore[assignment] # as if it were not installed
    try:
        import aiohttp  # noqa: F401
    finally:
        del ssl.SSLContext.set_default_verify_paths  # it was inherited
        del sys.modules["aiodns"]


def in_a_loop(crawl: Callable[[], Coroutine[Any, Any, Report]]) -> Report:
    """Run it to its end."""
    import asyncio

    settle_memory()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(crawl())


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """uvloop where it is installed: a fifth of the memory for every TLS connection, and less work on each."""
    try:
        import uvloop

        return uvloop.new_event_loop
    except ImportError:
        import asyncio

        return asyncio.new_event_loop


def settle_memory() -> None:
    """Before threads and other processes begin."""
    from crawler.resources.memory_pressure import tidy_heaps

    tidy_heaps()
    gc.freeze()  # what is imported by now stays
    gc.set_threshold(GC_OBJECTS, *gc.get_threshold()[1:])


def _summary(report: Report, seconds: float) -> dict[str, Any]:
    end = report.snapshot
    return {
        "exit_code": int(report.exit_code),
        "stopped_by": report.stopped_by,
        "error": report.error,
        "seconds": round(seconds, 3),
        "known": end.known,
        "done": end.done,
        "waiting": end.waiting,
        "retrying": end.retrying,
        "bytes": end.bytes,
        "outcomes": dict(end.outcomes),
        "reasons": dict(end.reasons),
        "not_pages": dict(end.not_pages),
        "refused": dict(end.refused),
        "lines": dict(end.lines),
        "recrawl": end.recrawl,
        "changes": dict(end.changes),
        "unstored": end.unstored,
        "failing_hosts": dict(end.failing_hosts),
    }
