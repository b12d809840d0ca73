"""What a style sheet, or a style attribute, loads: the URLs of url(), src(), image-set() and @import. Pure.

tinycss2 splits the text into tokens (CSS Syntax Level 3). It takes half a second for 200 KiB, and few rules load anything: of a
long text only those are given to it that could.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

SHORT_CHARS: Final = 16 << 10
"""A text that is tokenised whole."""
RULE_CHARS_MAX: Final = 256 << 10
"""Of one rule, up to its brace, with what it loads: pictures may stand in it as data."""

_loads = re.compile(r"url\(|src\(|image-set\(|@import|\\", re.IGNORECASE).search
_data = re.compile(r"url\(\s*+(?:\"data:[^\"\\]*+\"|'data:[^'\\]*+'|data:[^\s()\"'\\]*+)\s*+\)", re.IGNORECASE).sub
_token = re.compile(
    r"""
    /\*.*?(?:\*/|\Z)
    | "(?:[^"\\\n\r\f]++|\\(?:\r\n|.))*+"?
    | '(?:[^'\\\n\r\f]++|\\(?:\r\n|.))*+'?
    | (?<![\w-])url\(\s*+(?!["'])(?:[^)\\]++|\\.)*+\)?
    | \\.
    | \}
    """,
    re.DOTALL | re.IGNORECASE | re.VERBOSE,
).sub
"""A comment, a brace, and where neither is one: in strings, addresses and behind a backslash (CSS Syntax, 4.3)."""
_END: Final = "\0"
"""Of a rule. Style sheets have none (CSS Syntax, 3.3)."""
_SETS: Final = frozenset({"image-set", "-webkit-image-set"})


def urls(text: str) -> Iterator[str]:
    """Each reference as it is written, without what is its own data."""
    for piece in _pieces(text):
        yield from _urls(piece)


def _pieces(text: str) -> Iterator[str]:
    """The rules that may load something; a short text whole."""
    if _loads(text) is None:
        return
    text = _data("none", text)
    if len(text) <= SHORT_CHARS:
        yield text
        return
    for rule in _token(_parted, text.replace(_END, "\ufffd")).split(_END):
        if _loads(rule) is not None:
            yield rule[:RULE_CHARS_MAX]


def _parted(token: re.Match[str]) -> str:
    return " " if token[0].startswith("/*") else _END if token[0] == "}" else token[0]


def _urls(text: str) -> Iterator[str]:
    from tinycss2 import parse_component_value_list  # a crawl without requisites need not load it

    stack = [iter(parse_component_value_list(text, skip_comments=True))]
    while stack:
        node = next(stack[-1], None)
        if node is None:
            stack.pop()
        elif node.type == "url":
            yield node.value
        elif node.type == "at-keyword":
            if (reference := _prelude(node.lower_value, stack[-1])) is not None:
                yield reference
        elif node.type == "function":
            if node.lower_name in ("url", "src"):
                yield from (one.value for one in node.arguments if one.type == "string")
            else:
                if node.lower_name in _SETS:
                    yield from (one.value for one in node.arguments if one.type == "string")
                stack.append(iter(node.arguments))
        elif node.type in ("{} block", "() block", "[] block"):
            stack.append(iter(node.content))


def _prelude(name: str, nodes: Iterator[Any]) -> str | None:
    """What an at-rule loads. The name of a namespace is a URL that nothing is loaded from."""
    if name == "namespace":
        next((node for node in nodes if node == ";"), None)
    if name != "import":
        return None
    node = next((node for node in nodes if node.type != "whitespace"), None)
    if node is None or node.type not in ("string", "url", "function"):
        return None
    if node.type == "function":
        return next((str(one.value) for one in node.arguments if one.type == "string"), None)
    return str(node.value)
