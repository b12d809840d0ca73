"""The command ``config``: checks settings, shows those in effect, and describes them all."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

from crawler.cli.arguments import CommandParser, file_name
from crawler.cli.options import add_settings, flags
from crawler.cli.output import say, write
from crawler.config.load import load, warnings
from crawler.config.render import example, schema, to_toml
from crawler.config.sections import Config
from crawler.core.errors import ConfigError, Exit
from crawler.core.text import counted


def config(arguments: Sequence[str]) -> int:
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
    parser.add_argument("file", nargs="?", type=file_name, metavar="FILE", help="the same as --config FILE")
    parser.add_argument("--example", action="store_true", help="show the defaults, every setting explained")
    parser.add_argument("--memory", action="store_true", help="show how the memory limit is divided")
    add_settings(parser)
    namespace = parser.parse(arguments)
    if namespace.action == "schema":
        print(json.dumps(schema(), indent=2))
    elif namespace.action == "show" and namespace.example:
        write((example().encode(),))
    else:
        if namespace.file and namespace.config:
            raise ConfigError(f"two files are given, {namespace.config} and {namespace.file}: a crawl has one")
        file = namespace.file or namespace.config
        from crawler.cli.named_urls import check_urls

        def faults_of(config: Config) -> list[str]:
            found = check_urls(config.urls, config.url_rules())
            return found + (_memory_faults(config) if namespace.action == "check" else [])

        loaded = load(flags(namespace), file=file, also=faults_of)
        if namespace.action == "show" and namespace.memory:
            print(_memory_table(loaded.config))
        elif namespace.action == "show":
            write((to_toml(loaded.config, loaded.origins).encode(),))
        else:
            found = warnings(loaded.config, os.environ)
            for line in found:
                say(f"warning: {line}")
            with_warnings = f", {counted(len(found), 'warning')}" if found else ""
            say(f"{file or 'the settings'}: no faults{with_warnings}")
    return Exit.OK


def _memory_faults(config: Config) -> list[str]:
    """Why no crawl can begin with this memory limit."""
    try:
        _divided(config, config.processes or 1)
    except ConfigError as error:
        return list(error.faults)
    return []


def _memory_table(config: Config) -> str:
    from crawler.cli.starting import processes_of

    parts, _ = processes_of(config, "run")
    return _divided(config, parts)


def _divided(config: Config, parts: int) -> str:
    """The memory limit of so many processes, as a table. ConfigError: it is too small."""
    if parts == 1:
        from crawler.crawl import plan_of

        return plan_of(config).table()
    from crawler.service.parts.opening import plan_of_parts

    return plan_of_parts(config, parts)
