"""The command line: the table of commands, and the exit code of each.

Invariants: standard output is data, standard error is talk; the exit code is one of ``errors.Exit``. Everything heavy is
imported inside the command that needs it, so that ``--help`` and ``--version`` are quick.
"""

from __future__ import annotations

import contextlib
import gc
import io
import os
import sys
from collections.abc import Callable, Sequence
from errno import EWOULDBLOCK
from importlib import import_module
from typing import TYPE_CHECKING, Final

from crawler.cli.output import forget_output, forget_talk, make_output_whole, say, stand_in_for_closed, takes_more
from crawler.core.errors import NO_ROOM, ConfigError, Exit, StorageError, lack_of
from crawler.core.meant import did_you_mean
from crawler.core.version import __version__

if TYPE_CHECKING:
    from crawler.service import Signals

Command = Callable[..., int]
"""Takes its arguments; those that crawl also the process's signals."""

START_GC_OBJECTS: Final = 200_000
"""New containers between two looks for cycles, until a crawl sets its own. What is imported stays: to look through it after each
700, which is Python's own, took a tenth of a start."""

HELP: Final = """\
Crawl the URLs of a list; the same command again continues where it was killed:
    crawler run -i urls.txt -o out/
Follow links, three links deep, within the domain:
    crawler run https://example.org --depth 3 --scope domain -o out/
See the results:
    crawler results out/ --outcome timeout,dns_error
    crawler cat out/ https://example.org/

commands:
"""


def _from(module: str, name: str) -> Command:
    """A command of ``crawler.cli``, imported only when it is called."""

    def command(*arguments: object) -> int:
        called: Command = getattr(import_module(f"crawler.cli.{module}"), name)
        return called(*arguments)

    return command


COMMANDS: Final[dict[str, tuple[Command, str]]] = {
    "run": (_from("run_command", "run"), "crawl until nothing is left, or continue a crawl"),
    "serve": (_from("daemon_commands", "serve"), "run a crawler as a daemon, controlled over HTTP"),
    "add": (_from("daemon_commands", "add"), "add URLs to a running crawler"),
    "status": (_from("daemon_commands", "status"), "show how a running crawler is doing"),
    "pause": (_from("daemon_commands", "pause"), "pause a running crawler"),
    "resume": (_from("daemon_commands", "resume"), "resume a paused crawler"),
    "drain": (_from("daemon_commands", "drain"), "stop a running crawler gracefully"),
    "exclude": (_from("daemon_commands", "exclude"), "keep a running crawler from URLs that match"),
    "block": (_from("daemon_commands", "block"), "keep a running crawler from hosts"),
    "results": (_from("read_commands", "results"), "print result rows"),
    "cat": (_from("read_commands", "cat"), "print the archived body of a URL"),
    "export": (_from("export_command", "export"), "export bodies, rows (Parquet), page lists, or the archive (WACZ)"),
    "summary": (_from("summary_command", "summary"), "show what a crawl has brought, also as one page with plots"),
    "why": (_from("read_commands", "why"), "explain what happened to a URL"),
    "retry": (_from("change_commands", "retry"), "schedule failed URLs to be fetched again"),
    "recrawl": (_from("change_commands", "recrawl"), "visit a crawl's pages again, to see what has changed"),
    "cluster": (_from("cluster_command", "cluster"), "show the nodes of a crawl of many machines; declare one lost"),
    "retire": (_from("change_commands", "retire"), "mark archive files as moved or deleted"),
    "checkpoint": (_from("checkpoint_command", "checkpoint"), "copy a crawl's directory as of one moment"),
    "verify": (_from("read_commands", "verify"), "check the integrity of everything a crawl has written"),
    "config": (_from("config_command", "config"), "check, show or describe settings"),
    "healthcheck": (_from("daemon_commands", "healthcheck"), "check that a running crawler is alive"),
}


RELOADS: Final = {"run": False, "serve": True}
"""The commands that crawl, and whether SIGHUP lets them read their configuration again."""


def _help() -> str:
    return (
        HELP
        + "".join(f"  {name:<12} {summary}\n" for name, (_, summary) in COMMANDS.items())
        + (
            "\ncrawler COMMAND --help explains one, crawler --version tells the version.\n"
            "crawler help rows|outcomes|exit-codes|memory\n"
            "Exit codes: 0 done, 1 internal error, 2 usage or configuration,\n"
            "3 storage or memory, 4 nothing could be fetched,\n"
            "5 stopped early (the same command continues),\n"
            "8 more failures than --max-failed, 75 the directory is in use.\n"
        )
    )


def _topic(name: str) -> int:
    """``crawler help TOPIC``: a text of its own, or a command's help."""
    if name in COMMANDS:
        return COMMANDS[name][0](["--help"])
    from crawler.cli.help_topics import TOPICS, topics

    if name in TOPICS:
        print(TOPICS[name][0]())
        return Exit.OK
    say(f"there is no help on {name}{did_you_mean(name, [*TOPICS, *COMMANDS])}")
    with contextlib.suppress(OSError):
        print(topics(), file=sys.stderr)
    return Exit.USAGE


def _dispatch(arguments: Sequence[str], signals: Signals | None) -> int:
    name = arguments[0] if arguments else ""
    if signals is not None:
        return COMMANDS[name][0](arguments[1:], signals)
    if name in COMMANDS:
        return COMMANDS[name][0](arguments[1:])
    if name == "help" and len(arguments) > 1 and arguments[1] not in ("-h", "--help"):
        return _topic(arguments[1])
    if name in ("-h", "--help", "help"):
        print(_help(), end="")
        return Exit.OK
    if name in ("-V", "--version"):
        print(f"flatcrawler {__version__}")
        return Exit.OK
    if not name:
        with contextlib.suppress(OSError):
            print(_help(), end="", file=sys.stderr)
        return Exit.USAGE
    otherwise = "; did you mean crawler run?" if "://" in name or name.startswith("-") else ": see crawler --help"
    say(f"there is no command {name}{did_you_mean(name, COMMANDS, otherwise)}")
    return Exit.USAGE


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code. Without ``arguments`` the process ends with it."""
    if arguments is None:
        stand_in_for_closed()
        make_output_whole()
    words = sys.argv[1:] if arguments is None else arguments
    signals = _taken(words)
    is_crawling = signals is not None and arguments is None
    gc.set_threshold(START_GC_OBJECTS, *gc.get_threshold()[1:])
    try:
        code = _dispatch(words, signals)
        sys.stdout.flush()
    except BrokenPipeError:
        forget_output()  # the reader has seen enough: no error
        code = Exit.OK
    except KeyboardInterrupt:
        code = Exit.INTERRUPTED
    except Exception as error:
        if is_crawling and RELOADS[words[0]] and _nobody_reads() and not takes_more(sys.stderr):
            sys.stderr = io.StringIO()  # a daemon's exit code says more than nothing
        code = _failed(error)
    finally:
        if arguments is None and takes_more(sys.stderr):  # else who reads it may be slow, or be gone for good: see below
            forget_talk()
        if signals is not None and arguments is None:
            signals.ignore()
        elif signals is not None:
            signals.give_back()
    if is_crawling and _nobody_reads():
        os._exit(code)
    return code


def _nobody_reads() -> bool:
    """Whether lines of the log wait to be written: Python's own end would wait for them, for ever."""
    from crawler.cli.log import lines_are_stuck

    return lines_are_stuck()


def _taken(words: Sequence[str]) -> Signals | None:
    """The signals of a command that crawls, before anything else is done: none may kill it. None for other commands."""
    if not words or words[0] not in RELOADS:
        return None
    from crawler.service import Signals

    signals = Signals(reloads=RELOADS[words[0]])
    signals.take()
    return signals


def _failed(error: Exception) -> int:
    """Say why, and the exit code."""
    cause: BaseException = error
    while isinstance(cause, BaseExceptionGroup) and len(cause.exceptions) == 1:
        cause = cause.exceptions[0]  # a group of tasks wraps what ended it
    if isinstance(cause, ConfigError):
        for fault in cause.faults:
            say(fault)
        return Exit.USAGE
    if isinstance(cause, OSError) and cause.errno in NO_ROOM:
        say(f"{cause.filename or 'the output'}: {cause.strerror}")
        forget_output()
        return Exit.STORAGE
    if isinstance(cause, StorageError):
        say(str(cause))
        return Exit.LOCKED if cause.errno == EWOULDBLOCK else Exit.STORAGE
    if (lack := lack_of(error)) is not None:
        say(str(lack))
        return Exit.STORAGE
    import traceback

    traceback.print_exception(error)
    say("internal error: this should not happen; please report it with the lines above")
    return Exit.INTERNAL
