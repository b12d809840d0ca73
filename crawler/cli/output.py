"""Where a command's text goes: talk to standard error, data to standard output."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable


def say(text: str) -> None:
    """Talk to the person: never on standard output."""
    sys.stderr.write(f"crawler: {text}\n")  # in one piece: other threads write lines as well


def write(pieces: Iterable[bytes]) -> None:
    """Data, on standard output."""
    for piece in pieces:
        sys.stdout.buffer.write(piece)


def forget_output() -> None:
    """What is still buffered must not be tried again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
