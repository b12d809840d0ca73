"""The rules of one robots.txt for our product token (RFC 9309), in a compact form, and which of them decides about a URL.

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
from string import ascii_letters, digits, hexdigits, punctuation
from typing import Final
from urllib.parse import quote, quote_from_bytes

import msgspec
from isal import isal_zlib
from msgspec import Struct

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
RECORDS_BYTES_FACTOR: Final = 3
"""Most that records take for each byte of a file: one that is not ASCII becomes three, packed again to 1.3, and what another
origin's robots.txt is redirected to is kept for both."""
_VERSION: Final = b"\x01"

_LINE: Final = re.compile(
    rb"(?:\A(?:\xef\xbb\xbf)?|[\r\n])[ \t]*+"
    rb"(user[- ]?agent|disallow|dissallow|dissalow|disalow|diasllow|disallaw|allow|crawl[- ]delay|site-?maps?)"
    rb"(?:[ \t]*+:|[ \t])[ \t]*+([^\r\n#]*+)",
    re.IGNORECASE,
)
"""A line that means something to us. Whatever else stands in the file is skipped without a Python object for it.
Misspellings and a missing colon are understood, as Google's parser does."""
_TOKEN: Final = re.compile(rb"[A-Za-z0-9_-]+")
"""RFC 9309 2.2.1 allows no digits in a product token, but real ones have them (MJ12bot)."""
_seconds = re.compile(rb"([0-9.]+(?:e[0-9]+)?)[ \t]*(?:s|secs?|seconds?)?", re.IGNORECASE).fullmatch
"""A Crawl-delay: people write a unit behind it, and mean the same."""
_PRINTABLE: Final = bytes(range(0x21, 0x7F)).decode()
_MAX_AGE: Final = re.compile(r"(?:^|[\s,])max-age\s*=\s*\"?(\d{1,9})", re.IGNORECASE)

RULES_AT_ONCE_MAX: Final = 1_000
RULES_BYTES_AT_ONCE_MAX: Final = 64 << 10
"""Rules that are weighed for one URL. A longer file is narrowed first to the rules that can apply."""


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
        """May this canonical URL be visited?"""
        return self.denied_by(url) is None

    def denied_by(self, url: str) -> str | None:
        """The line that forbids ``url``, or what else does; None if it is allowed."""
        if self._matcher is None:
            if self.unavailable:
                return f"robots.txt: status {self.record.status}" if self.record.status else "robots.txt: no response"
            if not self.record.lines:
                return None
            self._matcher = Matcher(self.record.lines)
        return self._matcher.denied_by(url)

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
    """Bytes of a RobotsRules with its matcher; measured: 200–300 a rule, and its parts between wildcards."""
    lines, pages = record.lines, record.lines.count("/index.html")
    rules = lines.count("\n") + 1 + pages if lines else 0
    text = len(lines) + sum(map(len, record.sitemaps)) + 60 * len(record.sitemaps)
    if is_little(lines):
        return 1_000 + 2 * text + 300 * rules + 4 * len(lines) + 60 * lines.count("*")
    return 1_000 + text + 75 * rules + len(lines) * (2 if pages else 1)


# -- spelling ---------------------------------------------------------------------------------------------------------
# A rule and a URL are compared octet by octet, both in the spelling that the rule asks for: what becomes the same is the same.

_PLAIN: Final = re.compile(r"[A-Za-z0-9._~/=-]*")
"""What every spelling leaves as it is."""
_SPECIAL: Final = re.compile(r"%(?:[0-9A-Fa-f]{2})?|[^A-Za-z0-9._~/?=-]")
_STRAY: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_WHOLE_OR_BEGUN: Final = re.compile(r"%[0-9A-Fa-f]{1,2}")
_UNRESERVED: Final = {
    f"%{a}{b}": char for a in hexdigits for b in hexdigits if (char := chr(int(f"{a}{b}", 16))) in ascii_letters + digits + "-._~"
}
_EITHER_WAY: Final = _UNRESERVED | {"%3D": "=", "%3d": "="} | {char: quote(char) for char in punctuation}


def _spelled(text: str) -> str:
    """What is reserved is escaped, what is unreserved is not (RFC 9309 2.2.2): so either is the same, escaped or not. But only a
    bare slash parts a path, and only a bare question mark begins a query (RFC 3986 2.2). Bytes beyond ASCII stay escaped: a
    rule may end within a character, and need not be UTF-8."""
    return text if _PLAIN.fullmatch(text) else _SPECIAL.sub(lambda found: _EITHER_WAY.get(found[0], found[0].upper()), text)


def _spelled_with_slashes(text: str) -> str:
    """For a rule with a slash in its query: there it parts nothing, and is the same, too (the table of RFC 9309 2.2.2)."""
    return _spelled(_slashed(text))


def _slashed(text: str) -> str:
    path, mark, query = text.partition("?")
    return f"{path}{mark}{query.replace('%2F', '/').replace('%2f', '/')}"


def _spelled_as_written(text: str) -> str:
    """For a rule with a percent sign that begins no escape: "/*%" forbids whatever is escaped, "/*%c" what begins so. There only
    what is unreserved is the same."""
    return _WHOLE_OR_BEGUN.sub(lambda found: _UNRESERVED.get(found[0], found[0].upper()), text)


# -- matching ---------------------------------------------------------------------------------------------------------


class _Rule(Struct, frozen=True, gc=False):
    """A line of a Record, and its pattern cut at the wildcards: ``first``, ``middle`` and ``last`` in one spelling."""

    line: str
    head: str
    """What each URL that it matches begins with, in the common spelling."""
    spelling: Callable[[str], str]
    first: str
    middle: tuple[str, ...]
    last: str | None
    """None: there is no wildcard."""

    def matches(self, path: str) -> bool:
        """``path`` in the same spelling. A part is taken where it is first found behind the one before. That leaves the most to
        those that follow, so there is no going back."""
        if self.last is None:
            return path == self.first
        if not path.startswith(self.first):
            return False
        at = len(self.first)
        for part in self.middle:
            at = path.find(part, at)
            if at < 0:
                return False
            at += len(part)
        return path.endswith(self.last, at)


def _rule(line: str) -> _Rule:
    text, spelling = line[1:], _spelled
    if _STRAY.search(text):
        spelling = _spelled_as_written
    elif "?" in text and "/" in _slashed(text).partition("?")[2]:
        text, spelling = _slashed(text), _spelled_with_slashes
    text = text[:-1] if text[-1] == "$" else f"{text}*"
    first, *middle = map(spelling, text.split("*"))
    last = middle.pop() if middle else None
    return _Rule(line, first if spelling is _spelled else _head(line), spelling, first, tuple(middle), last)


def _head(line: str) -> str:
    return _PLAIN.match(line, 1)[0]  # type: ignore[index]


def _rules(lines: list[str]) -> list[_Rule]:
    """The first that matches decides: the one with the most octets as written, Allow before Disallow (RFC 9309 2.2.2)."""
    return [_rule(line) for line in sorted(lines, key=lambda line: (-len(line), line[0]))]


def _lines(text: str) -> list[str]:
    """Whoever allows "/a/index.html" allows "/a/" as well, as Google's parser has it."""
    lines = text.split("\n")
    return lines + [line[: -len("index.html")] + "$" for line in lines if line[0] == "A" and line.endswith("/index.html")]


def is_little(text: str) -> bool:
    return text.count("\n") < RULES_AT_ONCE_MAX and len(text) <= RULES_BYTES_AT_ONCE_MAX


class Matcher:
    """The rules of a Record's ``lines``, or of a giant file their index. Rules are cut when a URL first asks for it: most begin
    like none that denies, and of most hosts but a few are ever asked about."""

    __slots__ = ("_denied", "_index", "_rules", "_text")

    def __init__(self, text: str) -> None:
        self._text = text
        self._rules: list[_Rule] | None = None
        self._index: list[str] | None = None
        self._denied: tuple[str, ...] = ("",)
        if is_little(text):
            self._denied = tuple({_head(line) for line in text.split("\n") if line[0] == "D"})
        else:
            self._index = _index(text)

    def denied_by(self, url: str) -> str | None:
        """The line that forbids a canonical URL, or why it is forbidden without one; None if it is allowed."""
        at = url.find("/", 8)
        target = url[at:] if at > 0 else "/"
        path = _spelled(target)
        if not path.startswith(self._denied) or path.partition("?")[0] == "/robots.txt":
            return None
        rules = self._applicable(path)
        if rules is None:
            return f"more than {RULES_AT_ONCE_MAX} rules apply, or long ones"
        paths: dict[Callable[[str], str], str] = {_spelled: path}
        for rule in rules:
            if path.startswith(rule.head):
                spelled = paths.get(rule.spelling) or paths.setdefault(rule.spelling, rule.spelling(target))
                if rule.matches(spelled):
                    return None if rule.line[0] == "A" else f"Disallow: {rule.line[1:]}"
        return None

    def _applicable(self, path: str) -> list[_Rule] | None:
        """None: too many to be weighed."""
        if self._index is not None:
            lines = _narrowed(self._index, path)
            few = len(lines) <= RULES_AT_ONCE_MAX and sum(map(len, lines)) <= RULES_BYTES_AT_ONCE_MAX
            return _rules(lines) if few else None
        if self._rules is None:
            self._rules = _rules(_lines(self._text))
        return self._rules


def _index(text: str) -> list[str]:
    """The lines as (head, NUL, sign, rest), sorted."""
    parted = ((_head(line), line) for line in _lines(text))
    return sorted(f"{head}\0{line[0]}{line[1 + len(head) :]}" for head, line in parted)


def _narrowed(index: list[str], path: str) -> list[str]:
    """The lines whose heads ``path`` begins with; no more than one beyond RULES_AT_ONCE_MAX."""
    lines: list[str] = []
    for end in range(len(path) + 1):
        head = path[:end] + "\0"  # which sorts before any longer one
        at = bisect_left(index, head)
        while at < len(index) and index[at].startswith(head) and len(lines) <= RULES_AT_ONCE_MAX:
            lines.append(index[at][end + 1] + path[:end] + index[at][end + 2 :])
            at += 1
        if at == len(index) or not index[at].startswith(path[:end]):
            break
    return lines
