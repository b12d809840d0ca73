"""The command ``run``: crawls until nothing is left."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from crawler.cli.arguments import CommandParser
from crawler.cli.options import add_loudness, add_settings, flags
from crawler.cli.output import put, say
from crawler.cli.starting import import_aiohttp, in_a_loop, once_open, opened_for, processes_of, seed_faults
from crawler.core.errors import ConfigError, Exit

if TYPE_CHECKING:
    from crawler.config.sections import Config
    from crawler.service import Report, Signals

NEEDS_OUTPUT: Final = {"output": "-o/--output is missing: name the directory that holds this crawl, such as -o out/"}

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
    spoken = [] if namespace.quiet else warnings(config, os.environ)
    import_aiohttp()
    crawl = partial(_crawl, config, signals, spoken, quiet=namespace.quiet, summary=namespace.json)
    return once_open(config, "run", signals, crawl, Exit.STOPPED)


def _crawl(config: Config, signals: Signals | None, spoken: list[str], *, quiet: bool, summary: bool) -> int:
    from crawler.cli.log import log_of_run
    from crawler.cli.progress import LIVE_EVERY_S, Progress, closing_table, how_to_go_on, mode
    from crawler.output.rows import iso

    shown = mode(config.progress, sys.stderr, os.environ)
    began, since, again = time.monotonic(), time.time(), how_to_go_on(config)
    parts, why = processes_of(config, "run")
    progress = Progress(shown, sys.stderr, again)
    leaving = signals.at_last(progress.leave) if signals is not None else contextlib.nullcontext()
    with opened_for(config, "run", parts) as run_crawl, leaving, progress, log_of_run(config, progress.say):
        while spoken:  # once, however often it is opened
            logger.warning("%s", spoken.pop(0))
        if why:
            logger.info("%s", why)
        interval = LIVE_EVERY_S if shown == "bar" else 1.0
        try:
            report = in_a_loop(lambda: run_crawl(on_snapshot=progress.show, interval=interval, signals=signals))
        except KeyboardInterrupt:
            return Exit.STOPPED  # from another handler than ours: before it began, or after all was committed
    seconds = time.monotonic() - began
    directory = str(config.output)
    with contextlib.suppress(OSError):  # of a terminal that was closed
        if not quiet and not (report.error and report.begun is None):
            table = closing_table(
                report.snapshot,
                seconds,
                directory=f"./{directory}" if directory.startswith("-") else directory,
                stopped_by=report.stopped_by,
                begun=report.begun,
                opened=bool(config.allow_net),
                is_kept=config.store != "memory",
                embeds=config.requisites,
                since=iso(min(since, time.time() - seconds)),  # the clock may have been set back
                error=report.error,
                again=again,
            )
            print(table, file=sys.stderr)
    if report.exit_code == Exit.NOTHING_FETCHED:
        say(f"exit {report.exit_code:d}: nothing could be fetched")
    elif report.exit_code == Exit.FAILURES:
        say(f"exit {report.exit_code:d}: more than {config.max_failed:g} % of what was fetched failed (--max-failed)")
    if summary:
        import json

        put(json.dumps(_summary(report, seconds)))
    return report.exit_code


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
