"""What one line of a URL list says: the link that it names, or the fault that it is, and what to do about that. Pure.

Invariant: a line that holds more than a URL is a fault, never another URL than was meant.
"""

from __future__ import annotations

import re
from typing import Annotated, Final

import msgspec
import orjson
from msgspec import Meta, Struct

from crawler.core.errors import FetchError
from crawler.core.model import PRIORITY_DEFAULT, Input, LineFault, Link, Tag
from crawler.core.urls import UrlRules, host_key, masked, parse

EXTRA_BYTES_MAX: Final = 1024
"""Of the further keys of a JSON line, as one object."""
LEFT_OUT: Final = "..."
"""The key that counts those that had no room."""
_TAG_INT_MIN: Final = -(1 << 63)
_TAG_INT_MAX: Final = (1 << 64) - 1
_INVISIBLE: Final = "\ufeff\u200b\u200e\u200f"
"""Around a URL they come from copying; white space of any script is stripped as well."""

WHAT_TO_DO: Final = {
    "more_than_url": "a line holds one URL and nothing else: keep that column only (cut -f1, cut -d, -f1), without quotes, "
    'brackets or list marks; or write JSON lines, {"url": "https://...", "id": 17}, whose other keys come back as extra',
    "syntax": "write each URL whole, such as https://example.org/page",
    "scheme": "only http and https can be fetched",
    "too_long": "no longer URLs are fetched than --max-url allows, and no line is longer than 64 KiB",
    "encoding": "save the list as UTF-8",
    "json": "a JSON line is an object with url (text) and, if you like, tag (text or a number), depth, priority (1 to 255): "
    '{"url": "https://...", "tag": "mine"}',
}
"""By the reason of an invalid line."""


class _Entry(Struct, frozen=True):
    """A JSON line; keys that are not ours are the caller's business, and come back. null: as if not given, for what writes a
    table's empty cells so."""

    url: str
    tag: Annotated[str, Meta(max_length=256)] | int | float | None = None
    depth: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    priority: Annotated[int, Meta(ge=1, le=255)] | None = None


_entry = msgspec.json.Decoder(_Entry).decode
_raw = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_userinfo = re.compile(r"((?:\\?[/\\]){2}|:[/\\])[^/\\?#\"\s]*@").sub


def without_secrets(text: str) -> str:
    """What is no URL, or more than one, with what may be credentials in it masked; also where JSON has escaped its slashes."""
    return _userinfo(r"\1***@", text)


def read_line(line: bytes, where: Input, rules: UrlRules, tag: str | None) -> tuple[Link | LineFault, str | None]:
    """What a line says, and its further keys."""
    try:
        text = line.decode()
    except UnicodeDecodeError:
        return LineFault(where, without_secrets(line.decode(errors="replace")), "encoding", tag), None
    if line[0] != 123:  # "{"
        return seed(text, where, rules, tag=tag), None
    try:
        entry = _entry(line)
    except (msgspec.DecodeError, RecursionError):
        return LineFault(where, without_secrets(text), "json", tag), None
    own = tag if entry.tag is None or entry.tag == "" else _tag(entry.tag)
    extra = extra_of(line)
    depth, priority = entry.depth or 0, entry.priority or PRIORITY_DEFAULT
    return seed(entry.url, where, rules, tag=own, depth=depth, priority=priority, extra=extra), extra


def _tag(tag: Tag) -> Tag:
    """As it was given; a whole number beyond 64 bits, which rows cannot hold, as its digits."""
    return str(tag) if isinstance(tag, int) and not _TAG_INT_MIN <= tag <= _TAG_INT_MAX else tag


def extra_of(line: bytes) -> str | None:
    """The keys of a JSON line that are not ours, as a JSON object of at most EXTRA_BYTES_MAX: whole keys in their order and as
    they were written, as many as have room; LEFT_OUT counts the others. None: there are none."""
    found = _raw(line)
    kept, left_out = [], 0
    room = EXTRA_BYTES_MAX - len(f'{{"{LEFT_OUT}":{len(found)}}}')
    for name, value in found.items():
        if name in _Entry.__struct_fields__:
            continue
        pair = orjson.dumps(name) + b":" + bytes(value)
        if len(pair) + 1 > room or not _can_stand_in_a_row(value):
            left_out += 1
        else:
            kept.append(pair)
            room -= len(pair) + 1
    if left_out:
        kept.append(f'"{LEFT_OUT}":{left_out}'.encode())
    return "{" + b",".join(kept).decode() + "}" if kept else None


def _can_stand_in_a_row(value: msgspec.Raw) -> bool:
    """Whoever reads rows must be able to read it, and to write it again: no half surrogates, no endless nesting."""
    try:
        orjson.dumps([[[orjson.loads(bytes(value))]]])
    except (orjson.JSONDecodeError, TypeError):
        return False
    return True


def seed(
    text: str,
    where: Input,
    rules: UrlRules,
    *,
    tag: Tag | None = None,
    depth: int = 0,
    priority: int = PRIORITY_DEFAULT,
    extra: str | None = None,
) -> Link | LineFault:
    """The link that ``text`` names, or the fault that it is. Credentials are dropped: they are the business of ``[[host]]``."""
    text = text.strip().strip(_INVISIBLE).strip()
    try:
        if _more(text):
            raise FetchError("more_than_url")
        url = parse(text, None, rules)
    except FetchError as error:
        within = _within.get(error.reason)
        reason = "more_than_url" if within is not None and within(text) else error.reason
        shown = without_secrets(masked(text)) if reason == "more_than_url" else masked(text)
        return LineFault(where, shown.encode(errors="replace").decode() if reason == "encoding" else shown, reason, tag)
    href = url.href
    given = None if text == href else text if url.credentials is None else masked(text)
    return Link(href, host_key(href), "seed", depth, priority, given=given, input=where, tag=tag, extra=extra)


_more = re.compile(
    r"""
    [\t\r\n\v\f\0]               # the parser of URLs drops most of these: two columns would be one URL
    | \s\s                        # columns of a width
    | \s[#]                       # a comment behind the URL
    | ^[^?#]* \s [-|:>\u2013\u2014]{1,9} \s   # URL - title, in no query or fragment
    | [\s"<>`] ["'<>(\[]{0,4} https?://   # another URL
    | ^[^?#]* [,;|] https?://      # here also, where it is not part of a query
    | " \s? [,;|] | [,;|] \s? "    # cells in quotes
    """,
    re.VERBOSE | re.IGNORECASE,
).search
"""In a text that would be taken for one URL: the signs that it is a URL and something else. A single blank is none: careless
URLs have them, and they are fetched as browsers do."""
_within = {
    "syntax": re.compile(
        r".*[\s\"'<>`(\[{,;|=]https?:// | [\w\ ]+ ([,;|][\w\ ]+)+ $", re.IGNORECASE | re.DOTALL | re.VERBOSE
    ).match,
    "scheme": re.compile(r".*[\s\"<(\[]https?://", re.IGNORECASE | re.DOTALL).match,
}
"""In a text that is no URL, by why it is none: one with something before it, such as a number, a quote, or a bracket; or the
names of a table's columns, whose rows may look like URLs that hold commas."""
