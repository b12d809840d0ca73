"""The command line: the table of commands, and the exit code of each.

Invariants: standard output is data, standard error is talk; the exit code is one of ``errors.Exit``. Everything heavy is
imported inside the command that needs it, so that ``--help`` and ``--version`` are quick.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Sequence
from errno import EWOULDBLOCK
from importlib import import_module
from typing import TYPE_CHECKING, Final

from crawler.cli.output import forget_output, say, stand_in_for_closed
from crawler.core.errors import NO_ROOM, NO_THREAD, ConfigError, Exit, StorageError, is_no_thread
from crawler.core.text import counted, did_you_mean
from crawler.core.version import __version__

if TYPE_CHECKING:
    from crawler.config.sections import Config
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


def _config(arguments: Sequence[str]) -> int:
    from crawler.cli.arguments import CommandParser
    from crawler.cli.options import add_settings, flags
    from crawler.config.render import example, schema, to_toml

    parser = CommandParser(
        "config",
        "config check|show|schema [FILE] [options]",
        "examples:\n"
        "  crawler config check crawler.toml           lists all errors of a file\n"
        "  crawler config show -c crawler.toml -w 50   the settings in effect, and where each comes from\n"
        "  crawler config show --example               a complete file with every setting explained\n"
        "  crawler config show --memory --memory-limit 256MiB   how the limit is divided, or why it is too small\n"
        "  crawler config schema                       JSON schema of the file, for editors",
    )
    parser.add_argument("action", choices=("check", "show", "schema"), metavar="check|show|schema")
    parser.add_argument("file", nargs="?", metavar="FILE", help="the same as --config FILE")
    parser.add_argument("--example", action="store_true", help="show the defaults, every setting explained")
    parser.add_argument("--memory", action="store_true", help="show how the memory limit is divided")
    add_settings(parser)
    namespace = parser.parse(arguments)
    if namespace.action == "schema":
        import json

        print(json.dumps(schema(), indent=2))
    elif namespace.action == "show" and namespace.example:
        print(example(), end="")
    else:
        file = namespace.file or namespace.config
        from crawler.config.load import load, warnings
        from crawler.parse.seeds import check_urls

        loaded = load(flags(namespace), file=file, also=lambda config: check_urls(config.urls, config.url_rules()))
        if namespace.action == "show" and namespace.memory:
            print(_memory_table(loaded.config))
        elif namespace.action == "show":
            print(to_toml(loaded.config, loaded.origins), end="")
        else:
            found = warnings(loaded.config)
            for line in found:
                say(f"warning: {line}")
            with_warnings = f", {counted(len(found), 'warning')}" if found else ""
            say(f"{file or 'the settings'}: no faults{with_warnings}")
    return Exit.OK


def _memory_table(config: Config) -> str:
    from crawler.cli.crawl_commands import processes_of
    from crawler.crawl import plan_of

    parts, _ = processes_of(config, "run")
    if parts == 1:
        return plan_of(config).table()
    from crawler.service.parts.opening import plan_of_parts

    return plan_of_parts(config, parts)


def _healthcheck(arguments: Sequence[str]) -> int:
    from crawler.cli.arguments import CommandParser
    from crawler.cli.options import add_settings, flags

    parser = CommandParser(
        "healthcheck",
        "healthcheck [--ready] [options]",
        "Checks that the crawler on this machine is alive: exit 0 if it is, 1 if not.\n\nexamples:\n"
        "  crawler healthcheck\n"
        "  crawler healthcheck --ready --metrics-listen 127.0.0.1:9701",
    )
    parser.add_argument("--ready", action="store_true", help="check that it accepts work, not only that it is alive")
    add_settings(parser, only=("listen", "metrics_listen"))
    namespace = parser.parse(arguments)
    from crawler.config.load import load

    config = load(flags(namespace), file=namespace.config).config
    return _ask_health(config.metrics_listen or config.listen, "/readyz" if namespace.ready else "/livez")


def _ask_health(listen: str, path: str) -> int:
    from http.client import HTTPException

    from crawler.cli.client import health

    try:
        status, text = health(listen, path, timeout_s=5)
    except (OSError, HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        say(f"no response from {listen}: {reason}; is it running?")
        return Exit.INTERNAL
    say(f"{listen}{path}: {status} {text}")
    return Exit.OK if status == 200 else Exit.INTERNAL


def _from(module: str, name: str) -> Command:
    """A command imported only when it is called."""

    def command(*arguments: object) -> int:
        called: Command = getattr(import_module(f"crawler.{module}"), name)
        return called(*arguments)

    return command


COMMANDS: Final[dict[str, tuple[Command, str]]] = {
    "run": (_from("cli.crawl_commands", "run"), "crawl until nothing is left, or continue a crawl"),
    "serve": (_from("cli.daemon_commands", "serve"), "run a crawler as a daemon, controlled over HTTP"),
    "add": (_from("cli.daemon_commands", "add"), "add URLs to a running crawler"),
    "status": (_from("cli.daemon_commands", "status"), "show how a running crawler is doing"),
    "pause": (_from("cli.daemon_commands", "pause"), "pause a running crawler"),
    "resume": (_from("cli.daemon_commands", "resume"), "resume a paused crawler"),
    "drain": (_from("cli.daemon_commands", "drain"), "stop a running crawler gracefully"),
    "exclude": (_from("cli.daemon_commands", "exclude"), "keep a running crawler from URLs that match"),
    "block": (_from("cli.daemon_commands", "block"), "keep a running crawler from hosts"),
    "results": (_from("cli.read_commands", "results"), "print result rows"),
    "cat": (_from("cli.read_commands", "cat"), "print the archived body of a URL"),
    "export": (_from("cli.export_commands", "export"), "export bodies, rows (Parquet), page lists, or the archive (WACZ)"),
    "summary": (_from("cli.export_commands", "summary"), "show what a crawl has brought, also as one page with plots"),
    "why": (_from("cli.read_commands", "why"), "explain what happened to a URL"),
    "retry": (_from("cli.change_commands", "retry"), "schedule failed URLs to be fetched again"),
    "recrawl": (_from("cli.change_commands", "recrawl"), "visit a crawl's pages again, to see what has changed"),
    "cluster": (_from("cli.cluster_command", "cluster"), "show the nodes of a crawl of many machines; declare one lost"),
    "retire": (_from("cli.change_commands", "retire"), "mark archive files as moved or deleted"),
    "checkpoint": (_from("cli.checkpoint_command", "checkpoint"), "copy a crawl's directory as of one moment"),
    "verify": (_from("cli.read_commands", "verify"), "check the integrity of everything a crawl has written"),
    "config": (_config, "check, show or describe settings"),
    "healthcheck": (_healthcheck, "check that a running crawler is alive"),
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
    print(topics(), file=sys.stderr)
    return Exit.USAGE


def _dispatch(arguments: Sequence[str], signals: Signals | None) -> int:
    name = arguments[0] if arguments else ""
    if signals is not None:
        return COMMANDS[name][0](arguments[1:], signals)
    if name in COMMANDS:
        return COMMANDS[name][0](arguments[1:])
    if name == "help" and len(arguments) > 1:
        return _topic(arguments[1])
    if name in ("-h", "--help", "help"):
        print(_help(), end="")
        return Exit.OK
    if name in ("-V", "--version"):
        print(f"flatcrawler {__version__}")
        return Exit.OK
    if not name:
        print(_help(), end="", file=sys.stderr)
        return Exit.USAGE
    otherwise = "; did you mean crawler run?" if "://" in name else ": see crawler --help"
    say(f"there is no command {name}{did_you_mean(name, COMMANDS, otherwise)}")
    return Exit.USAGE


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code. Without ``arguments`` the process ends with it."""
    if arguments is None:
        stand_in_for_closed()
    words = sys.argv[1:] if arguments is None else arguments
    signals = _taken(words)
    gc.set_threshold(START_GC_OBJECTS, *gc.get_threshold()[1:])
    try:
        code = _dispatch(words, signals)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        forget_output()  # the reader has seen enough: no error
        return Exit.OK
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        return _failed(error)
    finally:
        if signals is not None and arguments is None:
            signals.ignore()
        elif signals is not None:
            signals.give_back()


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
    if is_no_thread(error):
        say(NO_THREAD)
        return Exit.STORAGE
    import traceback

    traceback.print_exception(error)
    say("internal error: this should not happen; please report it with the lines above")
    return Exit.INTERNAL
