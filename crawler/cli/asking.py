"""What commands that ask a running daemon share: how it is found, and how its refusal ends."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Final

from crawler.cli.options import flags
from crawler.core.errors import Exit

if TYPE_CHECKING:
    from crawler.cli.client import Client

WHERE: Final = ("listen", "api_token_file")
"""The settings that say where a daemon is."""


def client_of(given: Namespace) -> Client:
    """The daemon that flags, environment and file name."""
    from crawler.cli.client import Client
    from crawler.config.load import load

    chosen = {key: value for key, value in flags(given).items() if key in WHERE}
    config = load(chosen, file=given.config).config
    return Client(config.listen, config.api_token)


def refusable(command: Callable[[Sequence[str]], int]) -> Callable[[Sequence[str]], int]:
    """What the daemon refuses is the caller's to mend (exit 2); that it cannot be asked, or is busy, is not (exit 1)."""

    @wraps(command)
    def asked(arguments: Sequence[str]) -> int:
        from crawler.cli.client import Refused

        try:
            return command(arguments)
        except Refused as error:
            print(f"crawler: {error}", file=sys.stderr)
            return Exit.USAGE if 400 <= error.status < 500 else Exit.INTERNAL

    return asked
