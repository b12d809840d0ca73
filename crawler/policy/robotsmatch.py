"""Whether a URL matches the rules that were chosen from a robots.txt. Protego matches the patterns.

The law: a URL is decided in bounded time, whatever the rules; where that is not possible, they deny.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from typing import Final

from protego import Protego

RULES_AT_ONCE_MAX: Final = 1_000
RULES_BYTES_AT_ONCE_MAX: Final = 64 << 10
"""Rules that Protego reads and weighs for one URL (20 ms at worst). A longer file is narrowed first to the rules that can
apply."""
_PLAIN = re.compile(r"[A-Za-z0-9_.~/=-]*")
"""What Protego compares as it stands, in a pattern and in a URL."""
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")


class Matcher:
    """Protego over all the rules, or, of a giant file, over those that can apply to the URL in question."""

    __slots__ = ("_denied", "_index", "_tree")

    def __init__(self, lines: str) -> None:
        few = is_little(lines)
        self._tree = _tree(lines.split("\n")) if few else None
        self._index = [] if few else _index(lines)
        self._denied = _denied(lines) if few else ("",)

    def allows(self, url: str) -> bool:
        at = url.find("/", 8)
        if at > 0 and not url.startswith(self._denied, at) and _PLAIN.fullmatch(url, at):
            return True  # none that denies can apply, whatever others allow
        try:
            if self._tree is not None:
                return self._tree.can_fetch(url, "*")
            rules = _narrow(self._index, url)
            few = len(rules) <= RULES_AT_ONCE_MAX and sum(map(len, rules)) <= RULES_BYTES_AT_ONCE_MAX
            return few and _tree(rules).can_fetch(url, "*")
        except (ValueError, LookupError, ArithmeticError, TypeError, AttributeError, RecursionError):
            return False  # whatever foreign rules provoke in Protego: what cannot be evaluated denies


def is_little(lines: str) -> bool:
    return lines.count("\n") < RULES_AT_ONCE_MAX and len(lines) <= RULES_BYTES_AT_ONCE_MAX


def _tree(rules: list[str]) -> Protego:
    words = {"A": "Allow: ", "D": "Disallow: "}
    return Protego.parse("User-agent: *\n" + "\n".join(words[rule[0]] + rule[1:] for rule in rules))


def _denied(lines: str) -> tuple[str, ...]:
    """What any plain path begins with that one of the rules denies, letter for letter."""
    return tuple({rule[1 : _PLAIN.match(rule, 1).end()] for rule in lines.split("\n") if rule[0] == "D"})  # type: ignore[union-attr]


def _index(lines: str) -> list[str]:
    """The rules sorted by the part of the pattern that any URL it matches begins with, letter for letter; NUL after it."""
    index = []
    for rule in lines.split("\n"):
        plain = rule[1 : _PLAIN.match(rule, 1).end()]  # type: ignore[union-attr]
        if rule[0] == "A":
            plain = plain.removesuffix("index.html")  # Protego takes "Allow: /a/index.html" to allow "/a/" as well
        index.append(f"{plain}\0{rule[0]}{rule[1 + len(plain) :]}")
    index.sort()
    return index


def _narrow(index: list[str], url: str) -> list[str]:
    """The rules that may match ``url``; no more than one beyond RULES_AT_ONCE_MAX."""
    path = url[url.find("/", url.find("//") + 2) :] if url.count("/") > 2 else "/"
    path = _ESCAPE.sub(lambda found: _unescape(found[0]), path)
    rules: list[str] = []
    for end in range(len(path) + 1):
        key = path[:end] + "\0"
        for at in range(bisect_left(index, key), len(index)):
            if not index[at].startswith(key) or len(rules) > RULES_AT_ONCE_MAX:
                break
            rules.append(index[at][end + 1] + path[:end] + index[at][end + 2 :])
    return rules


def _unescape(escape: str) -> str:
    char = chr(int(escape[1:], 16))
    return char if char != "/" and _PLAIN.fullmatch(char) else escape


def denying(lines: str, url: str) -> str:
    """The line that forbids a URL which these rules forbid. For people: it costs far more than to ask whether they do."""
    for rule in sorted(_narrow(_index(lines), url), key=len, reverse=True):
        if rule[0] == "D" and not _tree([rule]).can_fetch(url, "*"):
            return f"Disallow: {rule[1:]}"
    return f"more than {RULES_AT_ONCE_MAX} rules apply, or long ones"
