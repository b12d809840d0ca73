"""The bytes of a URL list: opened, its format recognised by its first bytes, decompressed piece by piece.

Invariant: a list takes no more memory than one block and its decoder's window. A list that cannot be read is an error of one
sentence that names it.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, cast

from isal import igzip, isal_zlib

from crawler.core.errors import OUR_ERRNOS, ConfigError, StorageError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

STDIN: Final = "-"
BLOCK_BYTES: Final = 64 << 10
_ZSTD_WINDOW_LOG_MAX: Final = 23  # 8 MiB, what levels up to 19 ask for; --ultra and --long want more of the reader

HEAD_BYTES: Final = 6
GZIP: Final = b"\x1f\x8b"
ZSTD: Final = (b"\x28\xb5\x2f\xfd", *(bytes((0x50 + n, 0x2A, 0x4D, 0x18)) for n in range(16)))
"""A frame, or one to be skipped, with which parallel compressors begin (RFC 8878, 3.1)."""
_FOREIGN: Final = {
    b"BZh": "it is compressed with bzip2; {read} read: bzcat FILE | crawler ... -i -",
    b"\xfd7zXZ\0": "it is compressed with xz; {read} read: xzcat FILE | crawler ... -i -",
    b"PK\3\4": "it is a zip archive; unpack it first",
    b"\xff\xfe": "it is UTF-16; save it as UTF-8",
    b"\xfe\xff": "it is UTF-16; save it as UTF-8",
}
READ: Final = "gzip and zstd are"
_ERRORS: Final = (OSError, EOFError, ValueError, cast(type[Exception], isal_zlib.error), zstd.ZstdError)


def blocks(source: str, line: Callable[[], int], stdin: BinaryIO | None = None) -> Iterator[bytes]:
    """The decompressed bytes of a list, at most ``BLOCK_BYTES`` at a time, and what is there rather than wait for more.

    ``line`` tells how many lines were read, for the message. ConfigError: it cannot be read, or not to its end.
    StorageError: this machine is short of something."""
    with ExitStack() as stack:
        try:
            read = _decompressed(source, _open(source, stdin, stack), stack)
            while block := read(BLOCK_BYTES):
                yield block
        except _ERRORS as error:
            raise _unreadable(source, line(), error) from error


def _decompressed(source: str, read: Callable[[int], bytes], stack: ExitStack) -> Callable[[int], bytes]:
    head = b""
    while len(head) < HEAD_BYTES and (more := read(HEAD_BYTES - len(head))):
        head += more
    if what := foreign(head, READ):
        raise ConfigError(f"list {source}: {what}")
    headed = _Headed(head, read)
    if head.startswith(GZIP):
        return stack.enter_context(igzip.IGzipFile(fileobj=headed, mode="rb")).read1  # type: ignore[no-untyped-call]
    if head.startswith(ZSTD):
        options = {int(zstd.DecompressionParameter.window_log_max): _ZSTD_WINDOW_LOG_MAX}
        return stack.enter_context(zstd.ZstdFile(headed, options=options)).read1
    return cast(Callable[[int], bytes], headed.read)


def foreign(head: bytes, read: str) -> str | None:
    """Why a list with these first ``HEAD_BYTES`` is not read, and what to do; None: it may be. ``read``: "gzip is", which is."""
    return next((what.format(read=read) for magic, what in _FOREIGN.items() if head.startswith(magic)), None)


def _unreadable(source: str, line: int, error: Exception) -> ConfigError | StorageError:
    """The error to raise for what reading raised, met behind ``line`` lines."""
    what = (error.strerror if isinstance(error, OSError) else None) or str(error)
    if isinstance(error, OSError) and "://" in source:
        return ConfigError(f"list {source}: this is a URL, not a file: name it without -i")
    if isinstance(error, OSError) and error.errno in OUR_ERRNOS:
        return StorageError(f"list {source}: {what}", errno=error.errno)
    if not line:
        return ConfigError(f"list {source}: {what}")
    advice = "Repair it or make it anew; a crawl that continues goes on there."
    return ConfigError(f"list {source}: {what}, after line {line}. {advice}")


def check(sources: Sequence[str]) -> list[str]:
    """One sentence for each list that cannot be opened, or is of a format that is not read. Of files only the first bytes are
    looked at, of anything else, such as standard input, nothing: they come once."""
    faults = []
    for source in dict.fromkeys(sources):
        try:
            if source != STDIN and not (path := Path(source)).is_fifo():  # opening a pipe waits for its writer
                with path.open("rb", buffering=0) as file:
                    if path.is_file() and (what := foreign(file.read(HEAD_BYTES), READ)):
                        faults.append(f"list {source}: {what}")
        except _ERRORS as error:
            faults.append(str(_unreadable(source, 0, error)))
    return faults


def _open(source: str, stdin: BinaryIO | None, stack: ExitStack) -> Callable[[int], bytes]:
    if source != STDIN:
        return stack.enter_context(Path(source).open("rb")).read1
    if stdin is None:
        if sys.stdin is None:
            raise ConfigError("list -: there is no standard input")
        stdin = sys.stdin.buffer
    return cast(Callable[[int], bytes], getattr(stdin, "read1", stdin.read))


class _Headed(io.RawIOBase):
    """A file of which the first bytes were already read."""

    def __init__(self, head: bytes, read: Callable[[int], bytes]) -> None:
        self._head, self._rest = head, read

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        room = memoryview(buffer).cast("B")
        data = self._head or self._rest(len(room))
        taken = data[: len(room)]
        self._head = data[len(taken) :]
        room[: len(taken)] = taken
        return len(taken)
