"""The commands of a daemon: ``serve`` runs it, the others talk to it."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import time
from argparse import SUPPRESS, Namespace
from collections.abc import Callable, Coroutine, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NoReturn

from crawler.cli.arguments import CommandParser
from crawler.cli.client import WHERE, Client, RequestRefused, client_of, health, refusable
from crawler.cli.options import add_loudness, add_settings, flags
from crawler.cli.output import say
from crawler.cli.starting import import_aiohttp, in_a_loop, once_open, opened_for, processes_of, seed_faults
from crawler.core.errors import ConfigError, Exit
from crawler.core.text import printable

if TYPE_CHECKING:
    from crawler.config.sections import Config
    from crawler.service import Report, Signals

WATCH_EVERY_S: Final = 2.0
NEEDS_DATA: Final = {
    "output": "--data is missing (output in a file): name the directory that holds this crawl, such as --data /var/lib/crawler"
}

logger: Final = logging.getLogger(__name__)


def serve(arguments: Sequence[str], signals: Signals | None = None) -> int:
    parser = CommandParser(
        "serve",
        "serve --data DIR [options]",
        "Runs a crawler as a daemon, controlled over HTTP (see: crawler add, crawler status).\n\nexamples:\n"
        "  crawler serve --data /var/lib/crawler --config /etc/crawler/crawler.toml\n"
        "  crawler serve --data out/ --depth 3 --metrics-listen 127.0.0.1:9701\n\n"
        "SIGTERM, SIGINT  finish what is in flight, within --grace, and end; a second one ends at once, without loss\n"
        "SIGHUP           read the configuration again\n"
        "SIGUSR1, SIGUSR2 log a status line, a memory report",
    )
    parser.add_argument(
        "--data", dest="output", default=SUPPRESS, metavar="DIR", help="the crawl's directory; the same as --output"
    )
    add_settings(parser)
    add_loudness(parser)
    namespace = parser.parse(arguments)
    from crawler.config.load import load, warnings

    def read() -> Config:
        return load(flags(namespace), file=namespace.config, needs=NEEDS_DATA, also=seed_faults).config

    config = read()
    from crawler.cli.log import log_of_daemon

    import_aiohttp()
    ports: list[int] = []
    spoken = warnings(config, os.environ)

    def crawl() -> int:
        parts, why = processes_of(config, "serve")
        with opened_for(config, "serve", parts) as served, log_of_daemon(config) as log:
            while spoken:  # once, however often it is opened
                logger.warning("%s", spoken.pop(0))
            if why:
                logger.info("%s", why)

            def daemon() -> Coroutine[Any, Any, Report]:
                return served(load=read, on_ready=ports.append, on_change=lambda new: log.change(new.log_level), signals=signals)

            return in_a_loop(daemon).exit_code

    return once_open(config, "serve", signals, crawl, Exit.OK, lambda: bool(ports))


@refusable
def add(arguments: Sequence[str]) -> int:
    parser = CommandParser(
        "add",
        "add [URL ...] [-i FILE] ... [--tag TAG] [--list NAME]",
        "Adds URLs to a running crawler. Exit 0 means that they are committed: they survive any crash.\n\nexamples:\n"
        "  crawler add https://example.org/ --tag news\n"
        "  crawler add -i more.txt.gz                 a list of any length, plain or gzip, as run reads them\n"
        "  crawler add -i more.txt --list more        with a name, the same command again continues after a failure\n"
        "  find-urls | crawler add -i -",
    )
    parser.add_argument("urls", nargs="*", metavar="URL")
    parser.add_argument("-i", "--input", action="append", default=[], metavar="FILE", help="a URL list, - for standard input")
    parser.add_argument("--tag", metavar="TAG", help="a label that comes back in the results")
    parser.add_argument("--list", metavar="NAME", help="the list's name in the results; it can be continued under it")
    client, namespace = _client(parser, arguments)
    if not namespace.urls and not namespace.input:
        raise ConfigError("nothing to add: name URLs or a list (-i FILE)")
    from crawler.cli.named_urls import check_urls
    from crawler.core.urls import UrlRules
    from crawler.parse.seeds import LINE_BYTES_MAX

    rules = UrlRules(LINE_BYTES_MAX)  # how long a URL may be, the daemon knows
    if faults := check_urls(namespace.urls, rules, command="crawler add"):
        raise ConfigError(faults)
    if namespace.list and len(namespace.input) + bool(namespace.urls) != 1:
        raise ConfigError("--list names one list: give one -i FILE, or URLs")
    ended = 0
    if namespace.urls:
        import io

        ended |= _add(client, io.BytesIO("\n".join(namespace.urls).encode(errors="surrogatepass")), "the URLs", namespace)
    for name in namespace.input:
        ended |= _add_file(client, name, namespace)
    return ended


def _add_file(client: Client, name: str, namespace: Namespace) -> int:
    if name == "-":
        return _add(client, sys.stdin.buffer, "standard input", namespace)
    try:
        with Path(name).open("rb") as stream:
            return _add(client, stream, name, namespace)
    except OSError as error:
        raise ConfigError(f"--input {name}: {error.strerror}") from error


def _add(client: Client, lines: BinaryIO, called: str, namespace: Namespace) -> int:
    try:
        added = client.add(lines, tag=namespace.tag, name=namespace.list)
    except RequestRefused as error:
        if "accepted" in error.problem:
            _say_added(called, error.problem)
        elif error.status in (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNSUPPORTED_MEDIA_TYPE):
            raise RequestRefused(f"{called}: {error}", error.status, error.problem) from error
        raise
    _say_added(called, added)
    return Exit.OK


def _say_added(called: str, added: Mapping[str, Any]) -> None:
    invalid = f", {added['invalid']:,} invalid" if added["invalid"] else ""
    say(f"{called}: {added['accepted']:,} accepted{invalid}" + (f", as list {added['list']}" if "list" in added else ""))
    for error in added["errors"]:
        say(f"  line {error['line']}: {error['reason']}: {error['text']}")
    from crawler.parse.seed_lines import WHAT_TO_DO

    for reason in sorted({error["reason"] for error in added["errors"]} & WHAT_TO_DO.keys()):
        say(f"  {reason}: {WHAT_TO_DO[reason]}")
    if added["invalid"] > len(added["errors"]):
        say(f"  and {added['invalid'] - len(added['errors']):,} more")


@refusable
def status(arguments: Sequence[str]) -> int:
    parser = CommandParser(
        "status",
        "status [--json] [--watch] [options]",
        "Shows how a running crawler is doing.\n\nexamples:\n"
        "  crawler status\n"
        "  crawler status --watch               again every two seconds, until Ctrl-C\n"
        "  crawler status --json | jq .known\n"
        "  crawler status --json --watch        one object a line",
    )
    parser.add_argument("--json", action="store_true", help="all of it as one JSON object")
    parser.add_argument("--watch", action="store_true", help="again every two seconds")
    client, namespace = _client(parser, arguments)
    if not namespace.watch:
        print(_status(client, as_json=namespace.json, indent=2))
        return Exit.OK
    from crawler.cli.progress import mode

    drawn = not namespace.json and mode("auto", sys.stdout, os.environ) == "bar"
    try:
        _watch(lambda: _status(client, as_json=namespace.json), drawn=drawn)
    except KeyboardInterrupt:
        return Exit.OK


def _status(client: Client, *, as_json: bool, indent: int | None = None) -> str:
    now = client.ask("GET", "/v1/status")
    if as_json:
        import json

        return json.dumps(now, indent=indent)
    from crawler.cli.status_page import page

    hosts = {sort: client.ask("GET", "/v1/hosts", {"sort": sort, "limit": 5})["hosts"] for sort in ("waiting", "backoff")}
    return page(now, hosts)


def _watch(status: Callable[[], str], *, drawn: bool) -> NoReturn:
    """Every two seconds, for ever. A daemon that does not respond may be on its way up again; one that refuses will not be."""
    while True:
        try:
            text = status()
        except RequestRefused as error:
            if 0 < error.status < HTTPStatus.INTERNAL_SERVER_ERROR:
                raise
            text = f"{error}; trying again"
            if not drawn:  # who reads the objects reads nothing else
                say(text)
                text = ""
        if drawn:  # over what was there, so that nothing flickers; no more than fits
            size = shutil.get_terminal_size()
            lines = [line[: size.columns - 1] for line in text.splitlines()[: size.lines - 1]]
            text = "\x1b[H" + "".join(f"{line}\x1b[K\n" for line in lines) + "\x1b[J"
        if text:
            print(text, end="" if drawn else "\n", flush=True)
        time.sleep(WATCH_EVERY_S)


@refusable
def pause(arguments: Sequence[str]) -> int:
    return _steer(
        "pause", "Pauses a running crawler: it starts no more visits until resume, and finishes those in flight.", arguments
    )


@refusable
def resume(arguments: Sequence[str]) -> int:
    return _steer("resume", "Resumes a paused crawler.", arguments)


@refusable
def drain(arguments: Sequence[str]) -> int:
    return _steer("drain", "Stops a running crawler gracefully: it finishes what is in flight, commits, and ends.", arguments)


@refusable
def exclude(arguments: Sequence[str]) -> int:
    parser = CommandParser(
        "exclude",
        "exclude [REGEX ...] [--undo] [options]",
        "Keeps a running crawler from URLs that match, from now on: what waits is settled unfetched (skipped, excluded), what is "
        "being fetched is given up, links are left out. Without an expression it lists what is excluded. It holds until the "
        "crawler ends or reads its configuration again; to keep it for longer, write it there (exclude).\n\nexamples:\n"
        "  crawler exclude '/calendar/[0-9]+'\n"
        "  crawler exclude '/calendar/[0-9]+' --undo",
    )
    parser.add_argument("exclude", nargs="*", metavar="REGEX", help="searched for in the whole URL")
    return _exclude(parser, "exclude", "excluded", arguments)


@refusable
def block(arguments: Sequence[str]) -> int:
    parser = CommandParser(
        "block",
        "block [HOST ...] [--undo] [options]",
        "Keeps a running crawler from hosts, from now on, robots.txt included: see crawler exclude. Without a host it lists what "
        "is blocked.\n\nexamples:\n"
        "  crawler block trap.example.org\n"
        "  crawler block '*.example.org' --undo",
    )
    parser.add_argument("block", nargs="*", metavar="HOST", help="a host, or the hosts below a domain: *.example.org")
    return _exclude(parser, "block", "blocked", arguments)


def _exclude(parser: CommandParser, key: str, done: str, arguments: Sequence[str]) -> int:
    parser.add_argument("--undo", action="store_true", help="do so no longer")
    client, namespace = _client(parser, arguments)
    wanted: list[str] = getattr(namespace, key)
    if wanted:
        client.ask("POST", "/v1/exclusions", send={key: wanted, "undo": namespace.undo})
        say(f"{'no longer ' * namespace.undo}{done}: {', '.join(map(printable, wanted))}")
    else:
        now = client.ask("GET", "/v1/exclusions")
        for each in now["blocked" if key == "block" else key]:
            print(printable(each))
    return Exit.OK


def _steer(name: str, what: str, arguments: Sequence[str]) -> int:
    examples = f"{what}\n\nexamples:\n  crawler {name}\n  crawler {name} --listen 127.0.0.1:9702"
    client, _ = _client(CommandParser(name, f"{name} [options]", examples), arguments)
    now = client.ask("POST", f"/v1/{name}")
    from crawler.crawl.status import state_of

    say(f"{state_of(now)}, {now['in_flight']:,} in flight")
    return Exit.OK


def healthcheck(arguments: Sequence[str]) -> int:
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

    try:
        status, text, is_crawler = health(listen, path, timeout_s=5)
    except (OSError, HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        say(f"no response from {listen}: {reason}; is it running?")
        return Exit.INTERNAL
    if not is_crawler:
        say(f"{listen}{path}: {status}, of another server: what responds there is no crawler")
        return Exit.INTERNAL
    say(f"{listen}{path}: {status} {text.partition(chr(10))[0]}")
    return Exit.OK if status == HTTPStatus.OK else Exit.INTERNAL


def _client(parser: CommandParser, arguments: Sequence[str]) -> tuple[Client, Namespace]:
    """The daemon that the settings name, and the command's own arguments."""
    add_settings(parser, only=WHERE)
    namespace = parser.parse(arguments)
    return client_of(namespace), namespace
