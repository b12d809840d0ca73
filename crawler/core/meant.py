"""What a person meant who wrote a name of a setting, an option or a command that there is not. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

_BEGINNING: Final = re.compile("^(?:-+|CRAWLER_)")
"""Of names that all begin so: it says nothing of how alike they are."""

_ELSEWHERE: Final = {
    **dict.fromkeys(("max-depth", "depth-limit", "level", "recursive", "mirror"), "depth"),
    **dict.fromkeys(("wait", "crawl-delay", "download-delay"), "delay"),
    **dict.fromkeys(("rate-limit", "requests-per-second"), "rate"),
    **dict.fromkeys(("concurrency", "max-concurrency", "parallelism", "threads"), "workers"),
    **dict.fromkeys(("domains", "allowed-domains", "span-hosts", "no-parent"), "scope"),
    **dict.fromkeys(("limit", "page-limit", "max-urls"), "max-pages"),
    **dict.fromkeys(("size-limit", "quota"), "max-bytes"),
    **dict.fromkeys(("max-size", "max-file-size"), "max-body"),
    **dict.fromkeys(("mime", "accept", "content-type"), "accept-mime"),
    **dict.fromkeys(("seeds", "seed-file", "url-list"), "input"),
    **dict.fromkeys(("crawl", "fetch"), "run"),
    "time-limit": "max-time",
    "limit-rate": "bandwidth",
    "accept-regex": "include",
    "reject-regex": "exclude",
    "no-check-certificate": "insecure",
    "warc-file": "archive",
    "overwrite": "fresh",
    "proxies": "proxy",
    "stop": "drain",
    "start": "serve",
    "restore": "checkpoint",
}
"""What other crawlers call it: what looks most like that may mean something else here."""


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """What to append to a sentence on a name that is not known: the known one that other crawlers call so, that alone begins so,
    or looks most like it, if one does."""
    import difflib  # only where something was mistyped

    by_end = {_BEGINNING.sub("", one): one for one in known}
    end = _BEGINNING.sub("", name)
    usual = _ELSEWHERE.get(_plain(end))
    if usual is not None and (meant := [one for ending, one in by_end.items() if _plain(ending) == usual]):
        return f"; did you mean {meant[0]}?"
    close = [one for one in by_end if end and one.startswith(end)]
    if len(close) != 1:
        close = difflib.get_close_matches(end, list(by_end), n=1)
    return f"; did you mean {by_end[close[0]]}?" if close else otherwise


def _plain(end: str) -> str:
    """A setting's name is written alike as a flag, in the environment and in a file."""
    return end.replace("_", "-").lower()
