"""The command ``checkpoint``: a copy of a crawl's directory that opens, whether a daemon runs it or nobody does."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from errno import EWOULDBLOCK
from pathlib import Path
from typing import TYPE_CHECKING

from crawler.cli.arguments import CommandParser, file_name
from crawler.cli.client import WHERE, RequestRefused, client_of, refusable
from crawler.cli.options import add_settings
from crawler.cli.output import ended_in_order, say
from crawler.core.errors import ConfigError, Exit, StorageError

if TYPE_CHECKING:
    from argparse import Namespace


@refusable
def checkpoint(arguments: Sequence[str]) -> int:
    parser = CommandParser(
        "checkpoint",
        "checkpoint DIR TARGET [options]",
        "Copies a crawl's directory as of one moment, to be kept as a backup or to go on from: also while crawler serve runs it, "
        "which is then asked to. Full files are shared with the original by hard links where TARGET is on the same disk. The "
        "copy of a copy is how a backup is restored.\n\nexamples:\n"
        "  crawler checkpoint /var/lib/crawler/default /var/lib/crawler/monday\n"
        "  crawler checkpoint /var/lib/crawler/monday /var/lib/crawler/restored      go on from there\n"
        "  crawler verify /var/lib/crawler/monday",
    )
    parser.add_argument("directory", metavar="DIR", help="the crawl's directory")
    parser.add_argument("target", type=file_name, metavar="TARGET", help="what is made; it must not exist")
    add_settings(parser, only=WHERE)
    namespace = parser.parse(arguments)
    from crawler.crawl.maintenance import forget_stored
    from crawler.output import crawl_in
    from crawler.output.checkpoint import move

    root, target = crawl_in(namespace.directory), Path(namespace.target)
    _require_free(root, target)
    with ended_in_order():
        made, missing = _taken(root, namespace)
        try:
            move(made, target)
        except (SystemExit, KeyboardInterrupt):
            say(f"the checkpoint is at {made}")
            raise
    forget_stored(target)
    for file in missing:
        say(f"{file} was not there: crawler retire {shlex.quote(str(target))} --missing says so in the copy")
    say(f"{target}: a copy of {root}")
    return Exit.OK


def _require_free(root: Path, target: Path) -> None:
    """ConfigError: nothing can be put there. It is asked first: what was taken by then would stay in the crawl's directory."""
    from crawler.output.checkpoint import left_unfinished

    try:
        if target.exists() or target.is_symlink():  # such as "." and "/", which have no name to be changed
            raise ConfigError(f"{target}: there is something already")
        parent = next(folder for folder in target.absolute().parents if folder.exists())
        if not os.access(parent, os.W_OK | os.X_OK, effective_ids=True):  # else capabilities do not count
            raise ConfigError(f"{target}: nothing can be written to {parent}")
        left = left_unfinished(root, target)
    except OSError as error:
        raise ConfigError(f"{target}: {error.strerror}") from error
    if left is not None:
        raise ConfigError(f"{left}: left by a copy that was not finished: delete it")


def _taken(root: Path, namespace: Namespace) -> tuple[Path, Sequence[str]]:
    """Where it is, and files that were missing."""
    from crawler.crawl.checkpoints import take_still

    try:
        copied = take_still(root)
        return copied.path, copied.missing
    except StorageError as error:
        if error.errno != EWOULDBLOCK:
            raise
        return _asked_for(root, namespace, error)


def _asked_for(root: Path, namespace: Namespace, in_use: StorageError) -> tuple[Path, Sequence[str]]:
    """By the daemon that uses the directory. StorageError: there is none that can be asked."""
    client = client_of(namespace)
    try:
        directory = client.ask("GET", "/v1/status")["directory"]
    except RequestRefused as error:
        said = f"{in_use}: crawler run is copied when it has ended, and crawler serve cannot be asked for a copy: {error}"
        raise StorageError(said, errno=EWOULDBLOCK) from error
    if not Path(directory).exists() or not Path(directory).samefile(root):
        raise StorageError(f"{in_use}; the daemon that was asked runs {directory}", errno=EWOULDBLOCK)
    told = client.ask("POST", "/v1/checkpoint", patient=True)
    return root / "checkpoints" / Path(told["path"]).name, told["missing"]
