"""The command ``run``, and what a crawl is in a process: its loop, its memory, its end. ``serve`` begins as it does."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from crawler.cli.arguments import CommandParser
from crawler.cli.options import add_loudness, add_settings, flags
from crawler.core.errors import ConfigError, Exit

if TYPE_CHECKING:
    import asyncio

    from crawler.config.sections import Config
    from crawler.service import Report, Signals

GC_OBJECTS = 2_000
"""New containers between two looks for cycles: 700, Python's own, took 5 % of a crawl's time, this takes 2 %. 20,000 would
take less than 1 %, but what closed connections leave behind then made 25 MiB."""
NEEDS_OUTPUT = {"output": "-o/--output is missing: name the directory that holds this crawl, such as -o out/"}


Command = Literal["run", "serve"]
Crawling = Callable[..., Coroutine[Any, Any, "Report"]]

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

    rules = config.url_rules()
    faults = check_urls(config.urls, rules)
    if faults and config.output is not None:  # an earlier version has taken such URLs, and wrote down that they are none
        faults = check_urls(config.urls[_urls_read(Path(config.output)) :], rules)
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


def _crawl(config: Config, signals: Signals | None, spoken: Sequence[str], *, quiet: bool, summary: bool) -> int:
    from crawler.cli.log import log_of_run
    from crawler.cli.progress import LIVE_EVERY_S, Progress, closing_table, mode

    import_aiohttp()
    shown = mode(config.progress, sys.stderr, os.environ)
    began = time.monotonic()
    if signals is not None and waited_in_vain(config, "run", signals):
        return Exit.STOPPED
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
                is_kept=config.store != "memory",
                error=report.error,
            )
            print(table, file=sys.stderr)
    if summary:
        import json

        print(json.dumps(_summary(report, seconds)))
    return report.exit_code


def waited_in_vain(config: Config, command: Command, signals: Signals) -> bool:
    """A node that has been in its crawl waits for a database that is away: whether a signal has ended that."""
    if config.cluster is None or config.fresh:
        return False
    from crawler.crawl.membership import why_away
    from crawler.frontier.cluster.node import has_joined

    if not has_joined(Path(config.output or "") / "frontier") or (why := why_away(config)) is None:
        return False
    import asyncio

    from crawler.cli.log import log_of_daemon, log_of_run
    from crawler.service.database_wait import wait_for_database

    log = log_of_daemon(config) if command == "serve" else log_of_run(config, partial(print, file=sys.stderr))
    away = partial(why_away, config)
    with log, asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(wait_for_database(config, why, away, signals, endless=command == "serve")) is not None


@contextlib.contextmanager
def opened_for(config: Config, command: Command, parts: int) -> Iterator[Crawling]:
    """What runs or serves the crawl, in this process or in several, which are begun from here."""
    if config.cookies is not None:
        from crawler.fetch.cookies import check_file

        check_file(Path(config.cookies))  # one that cannot be read begins no directory
    _check_addresses(config, command)
    if parts == 1:
        yield partial(_in_one_process(command), config)
        return
    crawl = _in_several_processes(command)
    from crawler.service.parts.opening import open_parts

    settle_memory()
    with open_parts(config, parts, loop_factory(), endless=command == "serve") as opened:
        yield partial(crawl, config, opened)


def _in_one_process(command: Command) -> Crawling:
    if command == "run":
        from crawler.service.run import run_crawl

        return run_crawl
    from crawler.service.serve import serve

    return serve


def _in_several_processes(command: Command) -> Crawling:
    if command == "run":
        from crawler.service.parts.run import run_parts

        return run_parts
    from crawler.service.parts.serve import serve_parts

    return serve_parts


def _check_addresses(config: Config, command: Command) -> None:
    """One that is taken begins no directory, and sets none aside. Where there is a crawl already, its lock is asked first."""
    from crawler.output import is_crawl, locked

    wanted = [address for address in (config.metrics_listen, config.listen if command == "serve" else None) if address]
    root = Path(config.output or "")
    if wanted and (config.fresh or not is_crawl(root)):
        import asyncio

        from crawler.service.listener import check_addresses

        with locked(root) if is_crawl(root) else contextlib.nullcontext():
            asyncio.run(check_addresses(wanted))


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
