"""One exchange and its bounded body: spooled, digested while it is written, safely decoded.

Invariants: a body never holds more than ``memory_bytes_max`` bytes in memory. Its digests are those of exactly the bytes
it gives back. A page without ``fault`` is whole.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final, Literal

from msgspec import Struct

from crawler.core.content_coding import decoded
from crawler.core.durable import replace
from crawler.core.errors import FetchError, StorageError
from crawler.core.text import field_text

MEMORY_BYTES_MAX: Final = 64 << 10
CHUNK_BYTES: Final = 64 << 10
SPOOL: Final = "body-"
"""How the name of every spool begins."""
SHA1_OF_NOTHING: Final = hashlib.sha1(usedforsecurity=False).digest()

_MIME: Final = re.compile(r"[a-z0-9!#$&^_.+-]{1,127}/[a-z0-9!#$&^_.+-]{1,127}")
_LISTED: Final = re.compile(r"(?:[^,\"]++|\"(?:[^\"\\]++|\\.)*+\"?)++", re.DOTALL)
"""One of several in a field. A comma within quotes parts none."""
_USUAL: Final = {
    "text/html": ("text/html", None),
    "text/html; charset=utf-8": ("text/html", "utf-8"),
    "text/html; charset=UTF-8": ("text/html", "utf-8"),
    "text/html;charset=UTF-8": ("text/html", "utf-8"),
}
"""What most pages say, read already."""
_CHARSET: Final = re.compile(
    r"(?:[^\"]|\"(?:[^\"\\]++|\\.)*+\"?+)*?;\s*+charset\s*+=\s*+(?:\"([ !#-~]{1,40})(?:\"|$)|([!#-+\--:<-~]{1,40})(?=[\s;,]|$))",
    re.IGNORECASE | re.DOTALL,
)
"""Labels are ASCII (https://encoding.spec.whatwg.org/#names-and-labels): what is not names no encoding. What stands in
another parameter's quotes is no parameter, and quotes may lack their end (https://mimesniff.spec.whatwg.org, 4.4)."""


@contextmanager
def _ours() -> Iterator[None]:
    """Whatever fails here fails on our disk, and is never the page's fate."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"spool: {error}", errno=error.errno or 0) from error


class Body:
    """A sequence of bytes, written once. Every method may raise StorageError.

    Up to ``memory_bytes_max`` bytes stay in memory; beyond, all of it is in one file in ``tmp``, digested while it is
    written. A body in memory is digested when that is first asked: by the writer thread, not in the loop. The descriptor is
    open only while writing.
    """

    __slots__ = ("_fd", "_hashes", "_head", "_memory_bytes_max", "_owned", "_sha1", "_sha256", "_tmp", "path", "size")

    path: Path | None
    """The file that holds the body; None while it is in memory."""
    size: int
    """Bytes written."""

    def __init__(self, tmp: Path, memory_bytes_max: int = MEMORY_BYTES_MAX) -> None:
        self._tmp = tmp
        self._memory_bytes_max = memory_bytes_max
        self._head = bytearray()
        self._hashes: tuple[hashlib._Hash, ...] = ()  # of what was written out so far
        self._sha1 = self._sha256 = b""
        self._fd = -1
        self._owned = False
        self.path = None
        self.size = 0

    def __repr__(self) -> str:
        return f"<Body {self.size} bytes, {self.path or 'in memory'}>"

    def write(self, chunk: bytes) -> None:
        self.size += len(chunk)
        if self._fd >= 0:
            self._write_out(chunk)
            return
        if self.size <= self._memory_bytes_max:
            self._head += chunk
            return
        self._hashes = (hashlib.sha1(usedforsecurity=False), hashlib.sha256())
        self._spill()
        self._write_out(chunk)

    def seal(self) -> None:
        """No more is written: the descriptor is closed."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            with _ours():
                os.close(fd)
        if self._hashes:
            self._sha1, self._sha256 = (running.digest() for running in self._hashes)
            self._hashes = ()

    @property
    def sha1(self) -> bytes:
        """Digest of the sealed body, 20 bytes."""
        self._digest()
        return self._sha1

    @property
    def sha256(self) -> bytes:
        """Digest of the sealed body, 32 bytes."""
        self._digest()
        return self._sha256

    def _digest(self) -> None:
        if not self._sha1:
            assert len(self._head) == self.size, "discarded"
            self._sha1 = hashlib.sha1(self._head, usedforsecurity=False).digest()
            self._sha256 = hashlib.sha256(self._head).digest()

    @property
    def memory_bytes(self) -> int:
        """Bytes held in memory."""
        return len(self._head)

    def open(self) -> BinaryIO:
        """The sealed body from its beginning."""
        if self.path is None:
            return io.BytesIO(self._head)
        with _ours():
            return self.path.open("rb")

    def prefix(self, n: int) -> bytes:
        """The first ``n`` bytes of the sealed body."""
        if self.path is None:
            return bytes(self._head[:n])
        with self.open() as file, _ours():
            return file.read(n)

    def in_memory(self) -> memoryview | None:
        """The sealed body without a copy, where it is held in memory; None where it stands in a file."""
        return memoryview(self._head) if self.path is None else None

    def chunks(self, n: int = CHUNK_BYTES) -> Iterator[bytes]:
        """The sealed body in pieces of at most ``n`` bytes."""
        if self.path is None:
            for start in range(0, len(self._head), n):
                yield bytes(self._head[start : start + n])
            return
        with self.open() as file:
            while True:
                with _ours():
                    chunk = file.read(n)
                if not chunk:
                    return
                yield chunk

    def spool(self) -> Path:
        """Put the sealed body into a file of ``tmp``, where it is read from now on: that file."""
        if self.path is None:
            self._digest()
            self._spill()
            fd, self._fd = self._fd, -1
            with _ours():
                os.close(fd)
        assert self.path is not None
        return self.path

    def move(self, target: Path) -> None:
        """Put the sealed body at ``target``, by one rename where that is on the file system of ``tmp``; it is read there from now
        on."""
        path = self.spool()
        with _ours():
            replace(path, target)
        self.path = target
        self._owned = False

    def discard(self) -> None:
        """Give back memory, descriptor and spool file. May be called at any time, and again."""
        self._head = bytearray()  # not cleared: the traceback of a failed write may still hold a view of it
        if self._fd < 0 and not self._owned:
            return
        fd, self._fd = self._fd, -1
        with _ours():
            try:
                if fd >= 0:
                    os.close(fd)
            finally:
                if self._owned and self.path is not None:
                    self._owned = False
                    self.path.unlink(missing_ok=True)

    def _spill(self) -> None:
        path = self._tmp / f"{SPOOL}{secrets.token_hex(8)}"
        with _ours():
            self._fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666)
        self.path = path
        self._owned = True
        self._write_out(self._head)
        self._head = bytearray()

    def _write_out(self, chunk: bytes | bytearray) -> None:
        for running in self._hashes:
            running.update(chunk)
        view = memoryview(chunk)
        with _ours():
            while view:
                view = view[os.write(self._fd, view) :]


class Timings(Struct, frozen=True, gc=False):
    """Seconds: waiting for a limiter or connection · from the request sent to the response's head · the whole fetch."""

    queue: float = 0.0
    first_byte: float = 0.0
    total: float = 0.0


UNTIMED: Final = Timings()


class Page(Struct):
    """One HTTP exchange. ``fault`` says why it is not whole; its outcome then follows from it."""

    url: str
    """Canonical."""
    status: int
    phrase: str
    """As UTF-8; bytes that are none are halves of surrogate pairs (``surrogateescape``)."""
    version: str
    """``"1.1"``"""
    headers: tuple[tuple[bytes, bytes], ...]
    """As received: order, case and repeats kept."""
    request: bytes
    """The request's head as sent, secrets masked."""
    body: Body
    """After transfer decoding; content codings undone only if the fetcher was asked to."""
    bytes_wire: int = 0
    """Of the body as it came."""
    bytes_decoded: int = 0
    """Of the body with its codings undone, as far as they can be."""
    coding: str | None = None
    """Content codings the body still bears, in the order applied (``"gzip"``, ``"gzip, br"``)."""
    ip: str | None = None
    fetched_at: float = 0.0
    """Wall time, seconds since the epoch."""
    timings: Timings = UNTIMED
    truncated: Literal["length", "time", "disconnect"] | None = None
    """How the body was cut, as WARC-Truncated names it."""
    fault: FetchError | None = None
    mime: str | None = None
    charset: str | None = None
    """By the header: see ``content_type``."""
    sniffed: str | None = None
    """The type by content: a key of sniff.EXTENSIONS."""
    plain: bytes | None = None
    """What the body decodes to, while it is at hand from when its coding was checked: of a small one, until its visit ends."""

    def header(self, name: str) -> str | None:
        """The first field of that name, as UTF-8 if it is that, else latin-1; None if there is none."""
        value = self.raw_header(name)
        return field_text(value) if value is not None else None

    def raw_header(self, name: str) -> bytes | None:
        """The first field of that name as it came; None if there is none."""
        wanted = name.lower().encode()
        for key, value in self.headers:
            if len(key) == len(wanted) and key.lower() == wanted:
                return value
        return None

    @property
    def is_by_head(self) -> bool:
        """Asked for by HEAD: what its body is, the response does not tell."""
        return self.request.startswith(b"HEAD ")

    @property
    def memory_bytes(self) -> int:
        """Bytes of the body held in memory, as it came and decoded."""
        return self.body.memory_bytes + (len(self.plain) if self.plain is not None else 0)

    def pieces(self) -> Iterator[bytes]:
        """The body with its codings undone, as far as they can be, in pieces of at most 64 KiB."""
        codings = tuple(self.coding.split(", ")) if self.coding else ()
        with suppress(FetchError):  # then it is what could be decoded before the fault
            yield from decoded(self.body.chunks(), codings)

    def decoded(self, limit: int) -> bytes:
        """The first ``limit`` bytes of ``pieces``."""
        parts = []
        for piece in self.pieces():
            parts.append(piece[:limit])
            limit -= len(piece)
            if limit <= 0:
                break
        return b"".join(parts)


def content_type(values: Sequence[str]) -> tuple[str | None, str | None]:
    """(bare lower-case type, charset) of Content-Type field values: the last valid one counts, and the charset
    of one before it that names the same type, as in browsers (Fetch, extract a MIME type). They also let a type end at a blank,
    which the standard does not: of "text/html charset=utf-8" the type counts."""
    if len(values) == 1 and (usual := _USUAL.get(values[0])) is not None:
        return usual
    kind: str | None = None
    charset: str | None = None
    for value in values:
        for one in _LISTED.findall(value) if "," in value else (value,):
            mime = next(iter(one.partition(";")[0].lower().split()), "")
            if not _MIME.fullmatch(mime):
                continue
            if mime != kind:
                kind, charset = mime, None
            if found := _CHARSET.match(one):
                charset = (found[1] or found[2]).strip().lower() or None
    return kind, charset
