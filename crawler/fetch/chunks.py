"""Chunked framing (RFC 9112 7.1). aiohttp's parser refuses the blank that a chunk extension may begin with (7.1.1, BWS: a
recipient MUST parse it), and calls back into Python several times for every chunk, so that a body in chunks of one byte would
cost seconds.

Invariant: nothing passes here that llhttp would refuse but for white space before an extension, and what trailers say, which
nobody reads.
"""

from __future__ import annotations

import re
from typing import Final

LINE_BYTES_MAX: Final = 16 << 10
"""A chunk's size and its extensions."""
TRAILERS_BYTES_MAX: Final = 16 << 10
"""Behind the last chunk."""
_end: Final = re.compile(rb"\n\r?\n").search
_SIZE: Final = re.compile(rb"([0-9A-Fa-f]+)[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?").fullmatch
_between: Final = re.compile(rb"\r?\n0*([1-9A-Fa-f][0-9A-Fa-f]{0,7})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?\r\n").match
"""What stands between chunks. A bare line feed behind one the parser takes as well."""
_DIGITS_MAX: Final = 16
"""Hexadecimal, beyond leading zeros: 64 bits."""


class Chunks:
    """``feed`` what has come after the head. ``extra_max``: bytes of extensions and padding that are put up with."""

    __slots__ = (
        "_carry",
        "_extra_left",
        "_is_last",
        "_left",
        "_trailers_left",
        "_within",
        "fault",
        "framing",
        "is_exact",
        "is_over",
    )

    def __init__(self, extra_max: int) -> None:
        self._extra_left = extra_max
        self._trailers_left = TRAILERS_BYTES_MAX
        self._is_last = False  # the last chunk has begun
        self._carry = b""  # the beginning of a line
        self._left = 0  # bytes of this chunk's data to come
        self._within = False  # a chunk has begun: a line end is due after its data
        self.framing = 0
        """Bytes that were no data, of the chunks before the last."""
        self.is_over = False
        self.is_exact = True
        """There were no trailers, and nothing has come behind the body."""
        self.fault: tuple[str, str] | None = None
        """(reason, detail) once the framing cannot be read on."""

    def feed(self, data: bytes) -> bytes:
        """What there is of the body in it; nothing more once there is a fault."""
        if self.fault is not None:
            return b""
        if self._is_last:
            self._skip_trailers(data)
            return b""
        data, self._carry = self._carry + data if self._carry else data, b""
        body: list[bytes] = []
        at = 0
        while at < len(data):
            if self._left:
                piece = data[at : at + self._left]
                body.append(piece)
                self._left -= len(piece)
                at += len(piece)
                continue
            begin = at
            if self._within and (between := _between(data, at)) is not None:
                digits, start = between[1], between.end()
                extra = start - at - len(digits) - (3 if data[at] == 10 else 4)
                if not extra or extra <= min(self._extra_left, LINE_BYTES_MAX - _DIGITS_MAX):
                    self._extra_left -= extra
                    self.framing += start - at
                    size = int(digits, 16)
                    piece = data[start : start + size]
                    body.append(piece)
                    at = start + len(piece)
                    self._left = size - len(piece)
                    continue
            if self._within:
                if data[at : at + 2] == b"\r":
                    self._carry = b"\r"
                    break
                if data[at : at + 2] != b"\r\n" and data[at : at + 1] != b"\n":  # as lenient as the parser is here
                    self.fault = ("chunked", "framing of the body")
                    break
                at += 2 if data[at : at + 1] == b"\r" else 1
            end = data.find(b"\r\n", at)
            line = data[at:] if end < 0 else data[at:end]
            if not self._bears(line if end >= 0 else line.removesuffix(b"\r")):
                break
            if end < 0:
                self._carry = data[begin:]
                break
            found = self._size(line)
            if found is None:
                break
            if not found:
                self._is_last = True
                self._skip_trailers(data[end:])
                break
            self._left, self._within = found, True
            self.framing += end + 2 - begin
            at = end + 2
        return b"".join(body)

    def _skip_trailers(self, data: bytes) -> None:
        """They begin with the line end of the last chunk, and end with an empty line."""
        seen, held = self._carry + data, len(self._carry)
        end = _end(seen)
        self._trailers_left -= len(data) if end is None else end.end() - held
        self._carry = seen[-2:]
        if self._trailers_left < 0:
            self.fault = ("header_too_large", f"trailers of over {TRAILERS_BYTES_MAX} bytes")
        elif end is not None:
            self.is_over = True
            self.is_exact = end.end() == len(seen) and TRAILERS_BYTES_MAX - self._trailers_left == len(b"\r\n\r\n")

    def _bears(self, line: bytes) -> bool:
        """Whether a line may go on so, however much of it has come. A bare line feed ends none."""
        most = min(LINE_BYTES_MAX, self._extra_left + _DIGITS_MAX)
        if b"\n" in line[:most]:
            self.fault = ("chunked", "framing of the body")
        elif len(line) > most:
            self.fault = ("malformed", "a chunk's line is too long")
        return self.fault is None

    def _size(self, line: bytes) -> int | None:
        match = _SIZE(line)
        if match is None:
            self.fault = ("chunked", "framing of the body")
            return None
        digits = match[1].lstrip(b"0")
        self._extra_left -= len(line) - len(digits)
        if len(digits) > _DIGITS_MAX:
            self.fault = ("chunked", "framing of the body")
        elif self._extra_left < 0:
            self.fault = ("malformed", "more chunk extensions than body")
        return None if self.fault else int(digits or b"0", 16)
