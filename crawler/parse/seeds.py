"""URL lists of any size, read lazily: plain, gzip or zstd, one URL or one JSON object a line, from files, standard input,
the command line or an upload.

Invariants: every line that is neither blank nor a comment comes out exactly once, as a link or as a fault, and each chunk
carries the position behind it. A position holds a hash of all that was consumed, so a list is continued only if it still
begins with exactly that. No list, line or archive makes a chunk larger than one block and one line.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, BinaryIO, Final, TypeAlias

import msgspec
import orjson
from msgspec import Meta, Struct
from xxhash import xxh3_128, xxh3_128_digest

from crawler.core.errors import ConfigError, FetchError
from crawler.core.model import PRIORITY_DEFAULT, Input, Link, Tag
from crawler.core.urls import UrlRules, host_key, masked, parse
from crawler.parse.seed_files import STDIN, blocks

ARGV: Final = "argv"
"""The source that stands for the URLs on the command line; their line is their place, from 1."""
CHUNK_LINES_MAX: Final = 1000
LINE_BYTES_MAX: Final = 64 << 10
_SHOWN_BYTES: Final = 1024  # of a line that was too long
EXTRA_BYTES_MAX: Final = 1024
"""Of the further keys of a JSON line, as one object."""
LEFT_OUT: Final = "..."
"""The key that counts those that had no room."""
_TAG_INT_MIN: Final = -(1 << 63)
_TAG_INT_MAX: Final = (1 << 64) - 1
_BOM: Final = b"\xef\xbb\xbf"
_INVISIBLE: Final = "\ufeff\u200b\u200e\u200f"
"""Around a URL they come from copying; white space of any script is stripped as well."""
_UTF_16: Final = re.compile(rb"\xff\xfe|\xfe\xff|[^\0]\0[^\0]\0|\0[^\0]\0[^\0]", re.DOTALL).match

LineFault: TypeAlias = tuple[Input, str, str, Tag | None]
"""An invalid line: (input, text, reason, tag)."""

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


class Chunk(Struct, frozen=True):
    """What up to ``CHUNK_LINES_MAX`` lines said, and the position behind them: to be committed together.

    ``position`` is (source, opaque position); ``extras`` are the further keys of the lines among ``faults``."""

    links: tuple[Link, ...]
    faults: tuple[LineFault, ...]
    position: tuple[str, bytes]
    extras: Mapping[Input, str] = {}


class _Position(Struct, frozen=True, array_like=True):
    line: int = 0
    offset: int = 0
    """Bytes consumed, decompressed."""
    digest: bytes = xxh3_128_digest(b"")
    """xxh3-128 of these bytes."""
    broken: bool = False
    """The last line had no line end: what follows may only begin with one."""


class _Entry(Struct, frozen=True):
    """A JSON line; keys that are not ours are the caller's business, and come back. null: as if not given, for what writes a
    table's empty cells so."""

    url: str
    tag: Annotated[str, Meta(max_length=256)] | int | float | None = None
    depth: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    priority: Annotated[int, Meta(ge=1, le=255)] | None = None


_encode = msgspec.msgpack.Encoder().encode
_position = msgspec.msgpack.Decoder(_Position).decode
_entry = msgspec.json.Decoder(_Entry).decode
_raw = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_userinfo = re.compile(r"((?:\\?[/\\]){2}|:[/\\])[^/\\?#\"\s]*@").sub


class Lines:
    """A list in pieces: ``feed`` it bytes, ``finish`` it, take the chunks. Resumes behind ``position`` of an earlier run."""

    def __init__(self, source: str, rules: UrlRules, position: bytes | None = None, tag: str | None = None) -> None:
        self.line = 0
        """Lines consumed so far."""
        self._source, self._rules, self._tag = source, rules, tag
        self._behind = _position(position) if position else _Position()
        self._offset = 0
        self._hash = xxh3_128()
        self._rest = bytearray()  # the begun line, at most LINE_BYTES_MAX
        self._long: bytes | None = None  # the head of a line longer than that, of which the rest is passed over
        self._links: list[Link] = []
        self._faults: list[LineFault] = []
        self._extras: dict[Input, str] = {}

    def feed(self, data: bytes) -> Iterator[Chunk]:
        """The chunks that ``data`` completes (hand over 64 KiB or so); exhaust it before the next call.

        ConfigError: the list has changed."""
        if self._offset < self._behind.offset:
            data = self._pass(data)
        if self._behind.broken and data:
            data = self._mend(bytes(self._rest) + data)
        if self._long is not None:
            data = self._skip(data)
        begun, end, behind = data.rpartition(b"\n")
        if end:
            lines = (bytes(self._rest) + begun).split(b"\n")
            self._rest.clear()
            yield from self._chunks(lines)
        self._rest += behind
        if len(self._rest) > LINE_BYTES_MAX:
            self._consume(bytes(self._rest))
            self._long = bytes(self._rest[:_SHOWN_BYTES])
            self._rest.clear()

    def finish(self) -> Iterator[Chunk]:
        """The end of the list; its last line may lack a line end. ConfigError: it ended before the position."""
        if self._offset < self._behind.offset:
            raise ConfigError(self._changed("it is shorter than what was read of it"))
        if self._behind.broken:
            return
        broken = bool(self._rest) or self._long is not None
        if self._rest:
            self._consume(bytes(self._rest))
            self._take(bytes(self._rest))
        elif self._long is not None:
            self._take(self._long, too_long=True)
        if broken or self._faults:
            yield self._chunk(broken)

    def _chunks(self, lines: list[bytes]) -> Iterator[Chunk]:
        for start in range(0, len(lines), CHUNK_LINES_MAX):
            part = lines[start : start + CHUNK_LINES_MAX]
            self._consume(b"\n".join(part) + b"\n")
            for line in part:
                self._take(line)
            yield self._chunk()

    def _consume(self, data: bytes) -> None:
        self._hash.update(data)
        self._offset += len(data)

    def _pass(self, data: bytes) -> bytes:
        """Pass over what an earlier run consumed; what lies behind it."""
        left = self._behind.offset - self._offset
        self._consume(data[:left])
        if self._offset == self._behind.offset:
            if self._hash.digest() != self._behind.digest:
                raise ConfigError(self._changed("it was changed in what was already read of it"))
            self.line = self._behind.line
        return data[left:]

    def _mend(self, data: bytes) -> bytes:
        """The last line known had no line end: the list may only have grown behind one. What lies behind that."""
        if data == b"\r":
            self._rest = bytearray(data)  # perhaps half of a line end
            return b""
        self._rest.clear()
        end = 2 if data.startswith(b"\r\n") else 1
        if data[end - 1 : end] != b"\n":
            raise ConfigError(self._changed("its last line was changed after it had been read"))
        self._consume(data[:end])
        self._behind = _Position()
        return data[end:]

    def _skip(self, data: bytes) -> bytes:
        """Pass over the rest of a line that is too long."""
        begun, end, behind = data.partition(b"\n")
        self._consume(begun + end)
        if end:
            self._take(self._long or b"", too_long=True)
            self._long = None
        return behind

    def _chunk(self, broken: bool = False) -> Chunk:
        position = _encode(_Position(self.line, self._offset, self._hash.digest(), broken))
        chunk = Chunk(tuple(self._links), tuple(self._faults), (self._source, position), self._extras)
        self._links, self._faults, self._extras = [], [], {}
        return chunk

    def _take(self, raw: bytes, too_long: bool = False) -> None:
        self.line += 1
        if self.line == 1 and _UTF_16(raw):
            raise ConfigError(f"{self._called()}: it is UTF-16; save it as UTF-8")
        line = raw.strip()
        if line[:1] == _BOM[:1]:  # of the list, or of one that was laid behind another
            line = line.removeprefix(_BOM).lstrip()
        if not line or line[0] == 35:  # "#"
            return
        where = Input(self._source, self.line)
        if too_long or len(line) > LINE_BYTES_MAX:
            text = _without_secrets(line[:_SHOWN_BYTES].decode(errors="replace"))
            self._faults.append((where, text + "…", "too_long", self._tag))
            return
        found, extra = _read_line(line, where, self._rules, self._tag)
        if isinstance(found, Link):
            self._links.append(found)
        else:
            self._faults.append(found)
            if extra is not None:
                self._extras[where] = extra

    def _called(self) -> str:
        return {STDIN: "standard input", ARGV: "the URLs on the command line"}.get(self._source, f"list {self._source}")

    def _changed(self, why: str) -> str:
        return (
            f"{self._called()}: {why} (line {self._behind.line}). Give the same list as before, longer at its end if you like; "
            "give it another name or another directory if it is a new one; or leave it out to go on with what is known."
        )


def _without_secrets(text: str) -> str:
    """What is no URL, or more than one, with what may be credentials in it masked; also where JSON has escaped its slashes."""
    return _userinfo(r"\1***@", text)


def _read_line(line: bytes, where: Input, rules: UrlRules, tag: str | None) -> tuple[Link | LineFault, str | None]:
    """What a line says, and its further keys."""
    try:
        text = line.decode()
    except UnicodeDecodeError:
        return (where, _without_secrets(line.decode(errors="replace")), "encoding", tag), None
    if line[0] != 123:  # "{"
        return seed(text, where, rules, tag=tag), None
    try:
        entry = _entry(line)
    except (msgspec.DecodeError, RecursionError):
        return (where, _without_secrets(text), "json", tag), None
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
        shown = _without_secrets(masked(text)) if reason == "more_than_url" else masked(text)
        return (where, shown.encode(errors="replace").decode() if reason == "encoding" else shown, reason, tag)
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


_HOST: Final = re.compile(r"(?:localhost|\[[0-9A-Fa-f:.]+\]|[^\s/?#@:]+\.[^\s/?#@:]+)(?::\d{1,5})?(?:[/?#]\S*)?")
_LIST: Final = re.compile(r"\.(?:txt|csv|tsv|jsonl?|ndjson|lst|list|urls?|gz|zst)$", re.IGNORECASE)


def lines_read(position: bytes | None) -> int:
    """How many lines of a source lie before a position."""
    return _position(position).line if position else 0


def check_urls(urls: Sequence[str], rules: UrlRules | None = None, *, command: str = "crawler run") -> list[str]:
    """One sentence for each text that is no URL, with what to type instead. It may be the name of a list, of a directory, or a
    host. Reads nothing."""
    where, faults = Input(ARGV, 0), []
    for text in dict.fromkeys(urls):
        found = seed(text, where, rules or UrlRules())
        if not isinstance(found, Link):
            faults.append(_what_to_type(text.strip(), found[1], found[2], command))
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


def read(
    lists: Sequence[str],
    urls: Sequence[str] = (),
    positions: Mapping[str, bytes] | None = None,
    rules: UrlRules | None = None,
    stdin: BinaryIO | None = None,
    lost: Mapping[str, Sequence[bytes]] | None = None,
) -> Iterator[Chunk]:
    """Every seed of ``urls`` and then of ``lists``, each list once, behind its position if it has one. ``lost``: positions of
    other readers, who read no more: one of theirs holds for a list without an own one that begins as theirs did.

    Blocks while it reads: a thread of its own is the place for it. ConfigError: a list that cannot be read or has changed;
    the chunks before it stand. StorageError: this machine is short of something."""
    positions, rules = positions or {}, rules or UrlRules()
    if urls:
        if ARGV in lists:
            raise ConfigError(f"list {ARGV}: call it ./{ARGV}; {ARGV} is the name of the URLs on the command line")
        yield from _read_argv(urls, rules, positions.get(ARGV))
    for source in dict.fromkeys(lists):
        position = positions.get(source)
        if position is None and lost is not None and source != STDIN:
            position = _furthest(source, lost.get(source, ()))
        yield from _read_list(Lines(source, rules, position), source, stdin)


def _furthest(source: str, positions: Sequence[bytes]) -> bytes | None:
    """The last of these positions up to which the list is the one that was read."""
    for position in sorted(positions, key=lambda position: _position(position).offset, reverse=True):
        lines = Lines(source, UrlRules(), position)
        try:
            for block in blocks(source, lambda: 0, None):
                if any(True for _ in lines.feed(block)) or lines.line:
                    return position  # it is behind what was read
            next(lines.finish(), None)
        except ConfigError:
            continue
        return position
    return None


def _read_list(lines: Lines, source: str, stdin: BinaryIO | None) -> Iterator[Chunk]:
    for block in blocks(source, lambda: lines.line, stdin):
        yield from lines.feed(block)
    yield from lines.finish()


def _read_argv(urls: Sequence[str], rules: UrlRules, position: bytes | None) -> Iterator[Chunk]:
    lines = [url.encode(errors="surrogatepass").replace(b"\n", b" ") for url in urls]
    behind = _position(position) if position else _Position()
    begun = b"\n".join(lines[: behind.line])
    if len(lines) < behind.line or xxh3_128_digest(begun) != behind.digest:
        raise ConfigError(
            "the URLs on the command line: the crawl began with others. Give the same ones, more at the end "
            "if you like, or none; or begin in another directory, or anew (--fresh)."
        )
    for start in range(behind.line, len(urls), CHUNK_LINES_MAX):
        end = min(start + CHUNK_LINES_MAX, len(urls))
        found = [seed(urls[index].strip(), Input(ARGV, index + 1), rules) for index in range(start, end)]
        data = b"\n".join(lines[:end])
        yield Chunk(
            tuple(one for one in found if isinstance(one, Link)),
            tuple(one for one in found if not isinstance(one, Link)),
            (ARGV, _encode(_Position(end, len(data), xxh3_128_digest(data)))),
        )
