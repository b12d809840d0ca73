"""URL lists of any size, read lazily: plain, gzip or zstd, one URL or one JSON object a line, from files, standard input,
the command line or an upload.

Invariants: every line that is neither blank nor a comment comes out exactly once, as a link or as a fault, and each chunk
carries the position behind it. A position holds a hash of all that was consumed, so a list is continued only if it still
begins with exactly that. No list, line or archive makes a chunk larger than one block and one line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO, Final

import msgspec
from msgspec import Struct
from xxhash import xxh3_128, xxh3_128_digest

from crawler.core.errors import ConfigError
from crawler.core.model import Input, LineFault, Link
from crawler.core.urls import UrlRules
from crawler.parse.seed_files import STDIN, blocks
from crawler.parse.seed_lines import read_line, seed, without_secrets

ARGV: Final = "argv"
"""The source that stands for the URLs on the command line; their line is their place, from 1."""
CHUNK_LINES_MAX: Final = 1000
LINE_BYTES_MAX: Final = 64 << 10
_SHOWN_BYTES: Final = 1024  # of a line that was too long
_BOM: Final = b"\xef\xbb\xbf"
_UTF_16: Final = re.compile(rb"\xff\xfe|\xfe\xff|[^\0]\0[^\0]\0|\0[^\0]\0[^\0]", re.DOTALL).match


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


_encode = msgspec.msgpack.Encoder().encode
_position = msgspec.msgpack.Decoder(_Position).decode


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
            text = without_secrets(line[:_SHOWN_BYTES].decode(errors="replace"))
            self._faults.append(LineFault(where, text + "…", "too_long", self._tag))
            return
        found, extra = read_line(line, where, self._rules, self._tag)
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


def lines_read(position: bytes | None) -> int:
    """How many lines of a source lie before a position."""
    return _position(position).line if position else 0


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
