"""The rules of one robots.txt for our product token (RFC 9309), in a compact form. Protego matches the patterns.

Invariant: a rule that cannot be evaluated within the bounds denies. Nothing here fetches: redirects, retries and back-off
belong to the crawl.
"""

from __future__ import annotations

import codecs
import math
import re
import zlib
from bisect import bisect_left
from collections.abc import Callable
from typing import Final
from urllib.parse import quote_from_bytes

import msgspec
from isal import isal_zlib
from msgspec import Struct
from protego import Protego
from protego._utils import _quote_path

from crawler.core.urls import escaped

BODY_BYTES_MAX: Final = 500 << 10
"""RFC 9309 2.5: at least this much must be parsed; no more is."""
LINE_BYTES_MAX: Final = 16_663
"""A longer line is cut here, as Google's parser does: eight times the longest URL, so that no URL can tell."""
SITEMAPS_MAX: Final = 500
SITEMAP_BYTES_MAX: Final = 2_083
CRAWL_DELAY_SECONDS_MAX: Final = 86_400.0
TTL_SECONDS_MAX: Final = 86_400.0
"""RFC 9309 2.4: not used for longer than a day."""
TTL_SECONDS_MIN: Final = 600.0
"""``Cache-Control: max-age`` may shorten the day, not to a fetch before every page."""
_RECORD_BYTES_MAX: Final = 4 << 20
_VERSION: Final = b"\x01"

_LINE: Final = re.compile(
    rb"(?:\A(?:\xef\xbb\xbf)?|[\r\n])[ \t]*+"
    rb"(user[- ]?agent|disallow|dissallow|dissalow|disalow|diasllow|disallaw|allow|crawl[- ]delay|site-?maps?)"
    rb"(?:[ \t]*+:|[ \t])[ \t]*+([^\r\n#]*+)",
    re.IGNORECASE,
)
"""A line that means something to us. Whatever else stands in the file is skipped without a Python object for it.
Misspellings and a missing colon are understood, as Google's parser and Protego do."""
_TOKEN: Final = re.compile(rb"[A-Za-z0-9_-]+")
"""RFC 9309 2.2.1 allows no digits in a product token, but real ones have them (MJ12bot)."""
_seconds = re.compile(rb"([0-9.]+(?:e[0-9]+)?)[ \t]*(?:s|secs?|seconds?)?", re.IGNORECASE).fullmatch
"""A Crawl-delay: people write a unit behind it, and mean the same."""
_PRINTABLE: Final = bytes(range(0x21, 0x7F)).decode()
_MAX_AGE: Final = re.compile(r"(?:^|[\s,])max-age\s*=\s*\"?(\d{1,9})", re.IGNORECASE)

RULES_AT_ONCE_MAX: Final = 1_000
RULES_BYTES_AT_ONCE_MAX: Final = 64 << 10
"""Rules that Protego reads and weighs for one URL (20 ms at worst). A longer file is narrowed first to the rules that can
apply."""
_PLAIN = re.compile(r"[A-Za-z0-9_.~/=-]*")
"""What Protego compares as it stands, in a pattern and in a URL."""
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")
_KEPT = re.compile(r"%(25|3F|[89A-F][0-9A-F])", re.IGNORECASE)
"""Escapes that Protego would not leave as they are."""
_STRAY = re.compile(r"%(?![0-9A-Fa-f]{2})")
"""A percent sign that begins no escape: "/*%" forbids whatever is escaped."""
_ABOUT_SLASHES = re.compile(r"^[^?\n]*+\?[^/%\n]*+(?:%(?!2F)[^/%\n]*+)*+(?:/|%2F)", re.IGNORECASE | re.MULTILINE).search
"""In rules: one with a slash in its query, which may be escaped."""
_ANYWHERE = re.compile(r"^[^*?\n]*+\*[^%?\n]*+%", re.MULTILINE).search
"""In rules: one with an escape that may stand in a path as well as in a query ("/*%2F")."""
_BARE = re.compile(r"[\"<>\\^`{|}]")
"""What a URL escapes in one place and not in another."""
_ANY = re.compile(r"%(?!24|2[ADE]|3[0-9]|4[1-9A-F]|5[0-9AF]|6[1-9A-F]|7[0-9AE])([0-9A-F]{0,2})", re.IGNORECASE)
"""Percent signs, but for those of escapes that Protego reads as the character, or that keep it from being a wildcard."""
_ONE_OCTET = re.compile(r"%(?:2[1-46-9B-E]|3[A-F]|40|5[B-E]|60|7[B-E])")
"""What Protego makes of a character that stands for itself in a rule."""


class Record(Struct, frozen=True, array_like=True, gc=False):
    """What is kept of a robots.txt. ``lines``: one rule each, ``A`` or ``D`` and the pattern, ASCII."""

    status: int
    """The final HTTP status; 0 if there was no response."""
    fetched_at: float
    """Wall time, seconds."""
    ttl: float
    name: str
    """The product token, lower case, that the rules were chosen for."""
    lines: str = ""
    crawl_delay: float | None = None
    sitemaps: tuple[str, ...] = ()


class RobotsRules:
    """The rules of one origin. The matcher is built when first asked; ``memory_bytes`` counts it from the start."""

    __slots__ = ("_matcher", "memory_bytes", "record", "unavailable")

    def __init__(self, record: Record) -> None:
        self.record = record
        self.unavailable = _unavailable(record.status)
        """Nobody knows the rules (RFC 9309 2.3.1.4: 5xx or no response; 429 as well): nothing may be visited."""
        self.memory_bytes = _estimate(record)
        self._matcher: Matcher | None = None

    @property
    def sitemaps(self) -> tuple[str, ...]:
        """As written there; for all robots."""
        return self.record.sitemaps

    def delay(self, cap: float) -> float:
        """Crawl-delay in seconds, at most ``cap``; 0 if none is asked for."""
        return min(self.record.crawl_delay or 0.0, cap)

    def fresh(self, wall: float, name: str) -> bool:
        """Whether they may still be used at this time, by this robot."""
        return abs(wall - self.record.fetched_at) < self.record.ttl and self.record.name == name.lower()

    def allows(self, url: str) -> bool:
        """May this canonical URL be visited? The longest pattern decides, Allow wins a tie (RFC 9309 2.2.2)."""
        if self.unavailable:
            return False
        if not self.record.lines:
            return True
        if self._matcher is None:
            self._matcher = Matcher(self.record.lines)
        return self._matcher.allows(url)

    def denied_by(self, url: str) -> str | None:
        """The line that forbids ``url``, None if it is allowed. For people: it costs far more than ``allows``."""
        if self.allows(url):
            return None
        if self.unavailable:
            return f"robots.txt: status {self.record.status}" if self.record.status else "robots.txt: no response"
        return denying(self.record.lines, url)

    def to_bytes(self) -> bytes:
        # zlib would fill a quarter of a megabyte anew for each
        return _VERSION + isal_zlib.compress(msgspec.msgpack.encode(self.record))

    @classmethod
    def from_bytes(cls, data: bytes) -> RobotsRules | None:
        """None if it is not one of ours: then robots.txt is fetched again."""
        if data[:1] != _VERSION:
            return None
        try:
            packed = zlib.decompressobj().decompress(data[1:], _RECORD_BYTES_MAX)
            return cls(msgspec.msgpack.decode(packed, type=Record))
        except (zlib.error, msgspec.DecodeError):
            return None


def read(
    status: int,
    body: bytes,
    *,
    name: str,
    wall: float,
    cache_control: str | None = None,
    cut: bool = False,
) -> RobotsRules:
    """Rules from the response at the end of at most five redirects; ``status`` 0 if there was none (RFC 9309 2.3.1).

    2xx: the rules. 3xx (no way to follow further) and 4xx: everything is allowed. 429, 5xx and no response: nothing is.
    ``body`` is decoded content, of which the first 500 KiB count; ``cut``: more came than was kept.
    """
    name = name.lower()
    if _unavailable(status):
        return RobotsRules(Record(status, wall, 0.0, name))
    ttl = _ttl(cache_control)
    if status >= 300:
        return RobotsRules(Record(status, wall, ttl, name))
    cut |= len(body) >= BODY_BYTES_MAX
    if body[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):  # RFC 9309 2.3 asks for UTF-8, and some editors do not
        body = body[: BODY_BYTES_MAX + 1].decode("utf-16", "replace").encode()
    if cut or len(body) >= BODY_BYTES_MAX:
        # A line cut in the middle would say more than its author: "Disallow: /" of "Disallow: /private".
        body = body[: BODY_BYTES_MAX + 1]
        body = body[: max(body.rfind(b"\n"), body.rfind(b"\r"), 0)]
    groups = _Groups(name.encode())
    for line in _LINE.finditer(body):
        groups.add(line[1].lower().replace(b" ", b"-"), body[line.start(2) : min(line.end(2), line.start(1) + LINE_BYTES_MAX)])
    lines, delay = groups.chosen()
    return RobotsRules(Record(status, wall, ttl, name, lines, delay, tuple(groups.sitemaps)))


def _unavailable(status: int) -> bool:
    return status < 200 or status == 429 or status >= 500


def _ttl(cache_control: str | None) -> float:
    if cache_control and (found := _MAX_AGE.search(cache_control)):
        return min(max(float(found[1]), TTL_SECONDS_MIN), TTL_SECONDS_MAX)
    return TTL_SECONDS_MAX


class _Group:
    __slots__ = ("delay", "rules")

    def __init__(self) -> None:
        self.rules: dict[str, None] = {}
        self.delay: float | None = None


class _Groups:
    """Collects the group of one product token and the group of all robots; several of a kind are one (RFC 9309 2.2.1)."""

    def __init__(self, name: bytes) -> None:
        self._name = name
        self._ours, self._anyones = _Group(), _Group()
        self._named = False
        self._open: list[_Group] = []
        self._heading = False
        self.sitemaps: dict[str, None] = {}

    def add(self, key: bytes, value: bytes) -> None:
        value = value.strip()
        if key.startswith(b"user"):
            self._agent(value)
        elif key.startswith(b"site"):
            if len(self.sitemaps) < SITEMAPS_MAX and 0 < len(value) <= SITEMAP_BYTES_MAX:
                self.sitemaps[_text(value)] = None
        else:
            self._heading = False
            if key.startswith(b"crawl"):
                self._delay(value)
            elif value.startswith((b"/", b"*")):
                sign = "A" if key == b"allow" else "D"
                rule = sign + quote_from_bytes(value, _PRINTABLE)
                for group in self._open:
                    group.rules[rule] = None

    def _agent(self, value: bytes) -> None:
        if not self._heading:
            self._open = []
        self._heading = True
        token = _TOKEN.match(value)
        if value == b"*" or value[:2].strip() == b"*":
            self._opens(self._anyones)
        elif token and token[0].lower() == self._name:
            self._named = True
            self._opens(self._ours)

    def _opens(self, group: _Group) -> None:
        if group not in self._open:
            self._open.append(group)

    def _delay(self, value: bytes) -> None:
        try:
            seconds = float(found[1]) if (found := _seconds(value)) else math.inf
        except ValueError:
            return
        if math.isfinite(seconds):
            for group in self._open:
                group.delay = min(max(seconds, group.delay or 0.0), CRAWL_DELAY_SECONDS_MAX)

    def chosen(self) -> tuple[str, float | None]:
        group = self._ours if self._named else self._anyones
        return "\n".join(group.rules), group.delay


def _text(value: bytes) -> str:
    """A URL as it is written; in another encoding than UTF-8, which RFC 9309 2.3 asks for, its bytes are kept, as those of a
    Location are."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return escaped(value)


def _estimate(record: Record) -> int:
    """Bytes of a RobotsRules with its matcher; measured: 300–750 a rule in Protego, and its parts between wildcards."""
    rules = record.lines.count("\n") + 1 if record.lines else 0
    text = len(record.lines) + sum(map(len, record.sitemaps)) + 60 * len(record.sitemaps)
    if is_little(record.lines):
        return 1_000 + 2 * text + 1_000 * rules + 2 * len(record.lines) + 60 * record.lines.count("*")
    return 1_000 + text + 75 * rules + len(record.lines)


# -- matching ---------------------------------------------------------------------------------------------------------


class Matcher:
    """Protego over all the rules, or, of a giant file, over those that can apply to the URL in question. It is built when a URL
    first asks for it: most begin like no rule that denies, and of most hosts but a few are ever asked about."""

    __slots__ = ("_denied", "_index", "_lines", "_spellings", "_tree", "_wholly")

    def __init__(self, lines: str) -> None:
        few = is_little(lines)
        self._wholly = _STRAY.search(lines) is not None
        self._spellings = _spellings(lines)
        self._lines = lines
        self._tree: Protego | None = None
        self._index = None if few else _index(lines)
        self._denied = _denied(lines) if few else ("",)

    def allows(self, url: str) -> bool:
        at = url.find("/", 8)
        if at > 0 and not url.startswith(self._denied, at) and _PLAIN.fullmatch(url, at):
            return True  # none that denies can apply, whatever others allow
        urls = _spelled(url, self._spellings, wholly=self._wholly)
        try:
            if self._index is None:
                if self._tree is None:
                    self._tree = _tree(self._lines.split("\n"), wholly=self._wholly)
                return _allowed(self._tree, urls)
            rules = _narrow(self._index, urls[0])
            few = len(rules) <= RULES_AT_ONCE_MAX and sum(map(len, rules)) <= RULES_BYTES_AT_ONCE_MAX
            return few and _allowed(_tree(rules, wholly=self._wholly), urls)
        except (ValueError, LookupError, ArithmeticError, TypeError, AttributeError, RecursionError):
            return False  # whatever foreign rules provoke in Protego: what cannot be evaluated denies


def is_little(lines: str) -> bool:
    return lines.count("\n") < RULES_AT_ONCE_MAX and len(lines) <= RULES_BYTES_AT_ONCE_MAX


def _tree(rules: list[str], *, wholly: bool = False) -> Protego:
    """Of two rules that match, the one with more octets decides (RFC 9309 2.2.2), as they are written (so does Google). Protego
    takes the longer once they are percent-encoded, where "?" counts three."""
    tree = Protego.parse("User-agent: *\nDisallow: /\n")
    group = tree._user_agents["*"]
    group._rules.clear()
    for line in rules:
        at, text = len(group._rules), _slashed(line[1:])
        (group.allow if line[0] == "A" else group.disallow)(_marked(text, wholly=wholly))
        if line[-1] == "$":
            del group._rules[at]  # the same with a dollar sign that stands for itself: only elsewhere does it (RFC 9309 2.2.3)
        for rule in group._rules[at:]:
            octets = _ONE_OCTET.sub("?", rule.value._pattern).replace("%25", "%")
            rule.value.priority = len(octets) + len(line) - 1 - len(text)
    group.finalize_rules()
    return tree


def _allowed(tree: Protego, urls: list[str]) -> bool:
    """Whether a URL is, which may be spelled in several ways: the longest rule decides that matches one of them."""
    if len(urls) == 1:
        return tree.can_fetch(urls[0], "*")
    paths = [_quote_path(url) for url in urls]
    rules = (rule for rule in tree._user_agents["*"]._rules if any(rule.value.match(path) for path in paths))
    return next((rule.field == "allow" for rule in rules), True)


def _marked(text: str, *, wholly: bool = False) -> str:
    """An escaped question mark begins no query, so it is not the same as one that does (RFC 3986 2.2); to Protego it would be. It
    reads bytes beyond ASCII as UTF-8, so that a rule that ends within a character ("/%D0") would match nothing, and one in
    another encoding too much: they are compared one by one. For that the percent sign of either is escaped itself. ``wholly``:
    so is nearly every other, or to a stray one any "&" would be an escape, as it is to Protego."""
    if wholly:
        text = _BARE.sub(lambda found: f"%{ord(found[0]):02X}", text)
        return _ANY.sub(lambda found: f"%25{found[1].upper()}", text)
    return _KEPT.sub(lambda found: f"%25{found[1].upper()}", text) if "%" in text else text


def _slashed(text: str) -> str:
    """In a query a slash parts nothing, so that it is the same escaped or not (the table of RFC 9309 2.2.2)."""
    path, mark, query = text.partition("?")
    return f"{path}?{query.replace('%2F', '/').replace('%2f', '/')}" if mark else text


def _spellings(lines: str) -> tuple[Callable[[str], str], ...]:
    """How a URL is spelled to be compared with these rules. "/*%2F" is a rule for paths and queries, "/?*%" one for any
    escape: among rules with slashes in their queries, a URL is compared as it is, too."""
    if _ABOUT_SLASHES(lines) is None:
        return (str,)
    return (_slashed, str) if _ANYWHERE(lines) or _STRAY.search(lines) else (_slashed,)


def _spelled(url: str, spellings: tuple[Callable[[str], str], ...], *, wholly: bool) -> list[str]:
    """The different ones; they differ in the query alone."""
    return list(dict.fromkeys([_marked(spelling(url), wholly=wholly) for spelling in spellings]))


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
    wholly = _STRAY.search(lines) is not None
    urls = _spelled(url, _spellings(lines), wholly=wholly)
    for rule in sorted(_narrow(_index(lines), urls[0]), key=len, reverse=True):
        if rule[0] == "D" and not _allowed(_tree([rule], wholly=wholly), urls):
            return f"Disallow: {rule[1:]}"
    return f"more than {RULES_AT_ONCE_MAX} rules apply, or long ones"
