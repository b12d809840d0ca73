"""The parser of a command's arguments, and of outcomes and kinds among them."""

from __future__ import annotations

import argparse
import contextlib
import re
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Any, Final, NoReturn, get_args

from crawler.core.errors import ConfigError, Exit
from crawler.core.meant import did_you_mean

_GAP: Final = re.compile(r"(?<=\S) {3,}(?=\S)")
"""Between an example and what it does."""


def _width() -> int:
    return max(40, min(110, shutil.get_terminal_size().columns - 2))


def _fitted(text: str, width: int) -> str:
    """Prose is wrapped; where the examples do not fit, what each does stands below it; nothing else is touched."""
    lines = text.splitlines()
    too_long = any(len(line) > width for line in lines if line.startswith(" "))
    fitted = []
    for line in lines:
        if not line.startswith(" "):
            fitted += textwrap.wrap(line, width) or [""]
        elif too_long:
            fitted.append(_GAP.sub("\n      ", line))
        else:
            fitted.append(line)
    return "\n".join(fitted)


class CommandParser(argparse.ArgumentParser):
    """Examples first, one short usage line, and a suggestion for a flag that does not exist."""

    def __init__(self, name: str, usage: str, examples: str) -> None:
        super().__init__(
            prog=f"crawler {name}".strip(),
            usage=f"crawler {usage}",
            description=_fitted(examples, _width()),
            formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=30, width=_width()),
            allow_abbrev=False,
        )

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Options and names in any order."""
        namespace, unknown = self.parse_known_intermixed_args(arguments)
        if unknown:
            if not unknown[0].startswith("-"):
                hint = ": a directory is named by --data" if "--data" in self._option_string_actions else ""
                if self.prog == "crawler status":
                    hint = ": it asks a daemon; crawler summary tells of a directory"
                self.error(f"{unknown[0]} is one name too many{hint} (see {self.prog} --help)")
            flag = unknown[0].partition("=")[0]
            meant = did_you_mean(flag, self._option_string_actions, f" (see {self.prog} --help)")
            self.error(f"there is no {flag} here{meant}")
        return namespace

    def print_help(self, file: Any = None) -> None:
        """OSError where it cannot be written: argparse would say nothing."""
        print(self.format_help(), end="", file=file, flush=True)

    def error(self, message: str) -> NoReturn:
        if message.endswith("expected one argument"):
            message += " (one that begins with a dash is joined to its option by =)"
        with contextlib.suppress(OSError):  # the exit code tells
            print(f"{self.prog}: {message}\nusage: {self.usage}", file=sys.stderr)
        raise SystemExit(Exit.USAGE)


def file_name(text: str) -> str:
    """Of a file or directory that is meant: an empty name would be the directory that the command stands in, or no file."""
    if not text:
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def outcomes_of(texts: Sequence[str]) -> frozenset[str]:
    """``--outcome a,b --outcome c`` as a set. Raises ConfigError."""
    from crawler.core.model import OutcomeName

    return _named("outcome", texts, get_args(OutcomeName))


def changes_of(texts: Sequence[str]) -> frozenset[str]:
    """``--change a,b`` as a set. Raises ConfigError."""
    from crawler.core.model import CHANGES

    return _named("change", texts, CHANGES)


ALL: Final = "all"
PAGE: Final = "page"


def kinds_of(texts: Sequence[str]) -> frozenset[str]:
    """``--kind a,b --kind c`` as a set; ``page`` stands for all that are pages; empty for ``all``. Raises ConfigError."""
    from crawler.core.model import KINDS, PAGES

    names = _named("kind", texts, (*KINDS, PAGE, ALL))
    if ALL in names:
        return frozenset()
    return names - {PAGE} | (PAGES if PAGE in names else frozenset())


def names_in(option: str, texts: Sequence[str]) -> list[str]:
    """``--option a,b --option c`` as a list. ConfigError: it was given and names none, as of a variable that is not set: to take
    that for all would be another order."""
    names = [name for text in texts for name in text.split(",") if name]
    if texts and not names:
        raise ConfigError(f"--{option} names none: leave it out where any will do")
    return names


def _named(option: str, texts: Sequence[str], known: Sequence[str]) -> frozenset[str]:
    names = names_in(option, texts)
    faults = []
    for name in names:
        if name not in known:
            meant = did_you_mean(name, known, f"; {', '.join(known)}")
            faults.append(f"--{option} {name}: there is no such {option}{meant}")
    if faults:
        raise ConfigError(faults)
    return frozenset(names)
