"""The options that choose among rows, the same of every command that prints or exports them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from crawler.cli.arguments import CommandParser, changes_of, kinds_of, names_in, outcomes_of
from crawler.core.errors import ConfigError

if TYPE_CHECKING:
    from argparse import Namespace

    from crawler.output.filters import Filter

DAY_CHARS: Final = 8
"""Of a day without dashes: 20261123 is not so many seconds ago."""
KINDS_HELP: Final = "of these kinds: seed, link, redirect, recrawl, embed, sitemap, robots; page: all but the last three; all"


def add_filters(parser: CommandParser, *, outcomes: str, kind: str) -> None:
    """``outcomes`` and ``kind`` tell the defaults."""
    group = parser.add_argument_group("filters")
    group.add_argument(
        "--outcome", action="append", default=[], metavar="NAME,...", help=f"of these outcomes (default {outcomes})"
    )
    group.add_argument("--kind", action="append", default=[], metavar="NAME,...", help=f"{KINDS_HELP} (default {kind})")
    group.add_argument("--change", action="append", default=[], metavar="NAME,...", help="new, changed, unchanged, gone")
    group.add_argument("--status", action="append", default=[], metavar="CODE,...", help="such as 200,404, 5xx; 304: unchanged")
    group.add_argument("--mime", action="append", default=[], metavar="TYPE,...", help="of these types, such as image/*")
    group.add_argument("--tag", action="append", default=[], metavar="TAG", help="with this label")
    group.add_argument("--since", metavar="TIME", help="fetched since then: 2026-11-23 (UTC), or so long ago, such as 7d")


def filter_of(namespace: Namespace, *, outcomes: Sequence[str], kind: str) -> Filter:
    """What was chosen; else these defaults, no ``outcomes`` being all. Raises ConfigError."""
    from crawler.output.filters import Filter

    return Filter(
        outcomes=outcomes_of(namespace.outcome or outcomes),
        kinds=kinds_of(namespace.kind or [kind]),
        changes=changes_of(namespace.change),
        mimes=tuple(name.lower() for name in names_in("mime", namespace.mime)),
        statuses=frozenset(_statuses(namespace.status)),
        tags=frozenset(namespace.tag),
        since="" if namespace.since is None else _since(namespace.since),
    )


def _statuses(texts: Sequence[str]) -> Iterator[str]:
    for word in map(str.lower, names_in("status", texts)):
        if not (len(word) == 3 and word[0] in "123456789" and (word[1:] == "xx" or word[1:].isdigit())):
            raise ConfigError(f"--status {word}: write a code such as 404, or a class such as 5xx")
        yield word


def _since(text: str) -> str:
    """As rows have it: none is from before 1970, and earlier years would not sort as text."""
    from datetime import UTC, datetime

    from crawler.config.types import parse_time
    from crawler.output.rows import iso

    try:
        if text.isdigit() and len(text) == DAY_CHARS:
            raise ValueError
        at = time.time() - float(parse_time(text))
    except ValueError:
        try:
            moment = datetime.fromisoformat(text)
            at = (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            raise ConfigError(f"--since {text}: write a day such as 2026-11-23, a moment, or how long ago, such as 7d") from None
    return iso(max(0.0, at))
