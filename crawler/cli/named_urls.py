"""What stands on a command line for a URL, and is none: what to type instead."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from crawler.core.model import Input, Link
from crawler.core.urls import UrlRules
from crawler.parse.seed_files import STDIN
from crawler.parse.seed_lines import WHAT_TO_DO, seed
from crawler.parse.seeds import ARGV

_HOST: Final = re.compile(r"(?:localhost|\[[0-9A-Fa-f:.]+\]|[^\s/?#@:]+\.[^\s/?#@:]+)(?::\d{1,5})?(?:[/?#]\S*)?")
_LIST: Final = re.compile(r"\.(?:txt|csv|tsv|jsonl?|ndjson|lst|list|urls?|gz|zst)$", re.IGNORECASE)


def check_urls(urls: Sequence[str], rules: UrlRules | None = None, *, command: str = "crawler run") -> list[str]:
    """One sentence for each text that is no URL, with what to type instead. It may be the name of a list, of a directory, or a
    host. Reads nothing."""
    where, faults = Input(ARGV, 0), []
    for text in dict.fromkeys(urls):
        found = seed(text, where, rules or UrlRules())
        if not isinstance(found, Link):
            faults.append(_what_to_type(text.strip(), found.text, found.reason, command))
    return faults


def _what_to_type(text: str, shown: str, reason: str, command: str) -> str:
    if text == STDIN:
        return f"-: to read a list from standard input: {command} -i -"
    try:
        is_dir, is_there = Path(text).is_dir(), Path(text).exists()
    except OSError:  # no name of a file, or one that we may not look at
        is_dir = is_there = False
    if not text:
        return "an empty text is no URL"
    if "://" not in text and is_dir:
        go_on = f": to go on with the crawl in it: {command} -o {shlex.quote(text)}" if command == "crawler run" else ""
        return f"{shown} is a directory, not a URL{go_on}"
    if "://" not in text and is_there:
        return f"{shown} is a file, not a URL: to read the URLs in it: {command} -i {shlex.quote(text)}"
    if "://" not in text and _LIST.search(text):
        return f"{shown} is no URL, and there is no such file: a list is named with -i FILE"
    if _HOST.fullmatch(text):
        return f"{shown} is no whole URL: {command} {shlex.quote(f'https://{text}')} (or http://)"
    return f"{shown}: not a URL ({reason}): {WHAT_TO_DO.get(reason, WHAT_TO_DO['syntax'])}"
