"""Command line options made from the fields of Config: one definition per setting gives the flag, its help and its checks.

argparse only collects text here; ``crawler.config.load`` converts and checks it, and reports all errors at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection
from typing import Any, Final

from crawler.cli.arguments import CommandParser
from crawler.config.fields import Setting
from crawler.config.render import describe
from crawler.config.sections import SECTIONS, Config
from crawler.config.types import is_place

SHORT: Final = {"input": "-i", "output": "-o", "workers": "-w"}
_WORD: Final = {
    "input": "FILE",
    "output": "DIR",
    "ca_file": "FILE",
    "cluster": "URL",
    "cookies": "FILE",
    "proxy_file": "FILE",
    "api_token_file": "FILE",
    "log_file": "FILE",
    "include": "REGEX",
    "exclude": "REGEX",
    "allow_net": "CIDR",
    "deny_net": "CIDR",
    "dns": "ADDRESS",
    "proxy": "URL",
    "header": "LINE",
    "accept_mime": "TYPE",
    "listen": "HOST:PORT",
    "api": "URL",
    "store_url": "URL",
    "server_names": "NAME",
    "metrics_listen": "HOST:PORT",
    "drop_params": "NAME",
}
"""Placeholder of the value in the help, where its type does not give one."""

NOT_FLAGS: Final = frozenset(("urls", "host"))
"""URLs stand alone on the command line; [[host]] tables need a file."""


class _Store(argparse.Action):
    """``--store URL`` beside ``--store embedded|memory`` is the other setting, ``store_url``: neither takes the other's place."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, value: Any, option: str | None = None) -> None:
        before = getattr(namespace, self.dest, value)
        if is_place(before) == is_place(value):
            namespace.store = value
        else:
            namespace.store, namespace.store_url = sorted((before, value), key=is_place)


def add_settings(parser: CommandParser, only: Collection[str] | None = None) -> None:
    """A flag for every setting, or for ``only`` these, grouped as the sections are, and -c for the file."""
    parser.add_argument("-c", "--config", metavar="FILE", help="TOML file with settings (see: crawler config show --example)")
    for section in SECTIONS:
        group = parser.add_argument_group((section.__doc__ or "").lower())
        for key, field in section.fields.items():
            if key not in NOT_FLAGS and (only is None or key in only):
                _add(group, key, field)


def _add(group: Any, key: str, field: Setting) -> None:
    names = [SHORT[key]] if key in SHORT else []
    names.append("--" + key.replace("_", "-"))
    options: dict[str, Any] = {"dest": key, "default": argparse.SUPPRESS, "help": describe(field).replace("%", "%%")}
    if field.annotation is bool:
        options["action"] = argparse.BooleanOptionalAction
    else:
        options["metavar"] = _metavar(key, field)
        options["action"] = _Store if key == "store" else "append" if field.is_list else "store"
    group.add_argument(*names, **options)


def _metavar(key: str, field: Setting) -> str:
    if field.choices:
        return "|".join(field.choices)
    if field.unit:
        return "N|auto" if field.unit == "auto" else field.unit.upper()
    return _WORD.get(key, "N" if field.is_number else "TEXT")


def add_loudness(parser: CommandParser) -> None:
    parser.add_argument("-q", "--quiet", action="store_true", help="print errors only")
    parser.add_argument("-v", "--verbose", action="store_true", help="log every visit")


def flags(namespace: argparse.Namespace) -> dict[str, Any]:
    """The settings given on the command line, by key."""
    given = {key: value for key, value in vars(namespace).items() if key in Config.fields and value != []}
    if getattr(namespace, "quiet", False):
        given = {"progress": "none", "log_level": "error"} | given
    if getattr(namespace, "verbose", False):
        given = {"log_level": "debug"} | given
    return given
