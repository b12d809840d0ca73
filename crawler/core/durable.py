"""An append-only file that can be cut back to a mark, and what makes a name as durable as its bytes.

Invariant: a write that failed is never tried again in place. From then on the file only takes ``cut`` and ``close``;
what lies before the last synced mark is there, whatever happens behind it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

from crawler.core.errors import ConfigError, StorageError

BUFFER_BYTES_MAX: Final = 512 << 10
"""Appended bytes that wait for one larger write."""


@contextmanager
def storing(path: Path, *, syncing: bool = False) -> Iterator[None]:
    """OSError → StorageError that names the file. EIO of a sync is final: asked again, the kernel would say all is well."""
    try:
        yield
    except OSError as error:
        final = syncing and error.errno == errno.EIO
        raise StorageError(f"{path}: {error.strerror or error}", errno=error.errno or 0, final=final) from error


class MarkedFile:
    """``size`` counts every byte appended, written or not. All methods may raise StorageError."""

    __slots__ = ("_buffer", "_failed", "_fd", "_waiting_bytes", "_written", "path")

    def __init__(self, path: Path, fd: int, size: int) -> None:
        """Use ``create`` or ``open``."""
        self.path = path
        self._fd = fd
        self._written = size
        self._buffer = memoryview(bytearray(BUFFER_BYTES_MAX))
        """Kept for as long as the file is open: one that is made anew for each write is also mapped anew, page by page."""
        self._waiting_bytes = 0  # appended and not written yet: the first of the buffer
        self._failed = False

    def __repr__(self) -> str:
        return f"<MarkedFile {self.path} {self.size} bytes{', failed' * self._failed}{', closed' * (self._fd < 0)}>"

    @classmethod
    def create(cls, path: Path) -> MarkedFile:
        """A new empty file; its name is durable on return."""
        with storing(path):
            fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666)
        try:
            sync_dir(path.parent)
        except StorageError:
            os.close(fd)
            raise
        return cls(path, fd, 0)

    @classmethod
    def open(cls, path: Path, mark: int) -> MarkedFile:
        """The file cut back to ``mark`` bytes. One that is missing or shorter ends the crawl: that error is final."""
        if length_of(path) < mark:
            raise missing(path, mark, full=False)
        with storing(path):
            file = cls(path, os.open(path, os.O_WRONLY | os.O_CLOEXEC), mark)
        try:
            file.cut(mark)
        except StorageError:
            file.close()
            raise
        return file

    @property
    def size(self) -> int:
        return self._written + self._waiting_bytes

    @property
    def buffered(self) -> int:
        """Bytes that wait in memory."""
        return self._waiting_bytes

    def append(self, data: bytes) -> int:
        """Add ``data``; the offset it begins at."""
        waiting = self._waiting_bytes
        offset = self._written + waiting
        if waiting + len(data) > BUFFER_BYTES_MAX:
            self.flush()
            waiting = 0
        if len(data) > BUFFER_BYTES_MAX:
            self._write(data)
        else:
            self._waiting_bytes = waiting + len(data)
            self._buffer[waiting : self._waiting_bytes] = data
        return offset

    def flush(self) -> None:
        """Hand everything to the kernel."""
        if self._waiting_bytes or self._failed:
            data = self._buffer[: self._waiting_bytes]
            self._waiting_bytes = 0
            self._write(data)

    def sync(self) -> None:
        """Everything appended is on the disk."""
        self.flush()
        self._failed = True
        with storing(self.path, syncing=True):
            os.fdatasync(self._fd)
        self._failed = False

    def cut(self, mark: int) -> None:
        """Forget what lies behind ``mark``, and that a write failed there."""
        self._waiting_bytes = 0
        with storing(self.path):
            os.ftruncate(self._fd, mark)
        self._written = mark
        self._failed = False

    def close(self) -> None:
        """What was not flushed is lost. May be called again."""
        fd, self._fd = self._fd, -1
        self._waiting_bytes = 0
        self._failed = True
        if fd >= 0:
            with storing(self.path):
                os.close(fd)

    def _write(self, data: bytes | memoryview) -> None:
        if self._failed:
            raise StorageError(f"{self.path}: a write failed before, or it is closed", errno=errno.EBADF)
        if length_of(self.path) < self._written:  # somebody took it away: what is written now would be lost, or follow a hole
            raise missing(self.path, self._written, full=False)
        self._failed = True
        with storing(self.path), memoryview(data) as view:
            done = 0
            while done < len(view):
                done += os.pwrite(self._fd, view[done:], self._written + done)
        self._written += done
        self._failed = False


def length_of(path: Path) -> int:
    """In bytes; -1 if there is no such file."""
    with storing(path):
        try:
            return path.stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return -1


def cut_back(path: Path, mark: int) -> None:
    """Cut a file that nobody writes any more back to ``mark`` bytes, if it is there and longer."""
    if length_of(path) > mark:
        with storing(path):
            os.truncate(path, mark)


OPEN: Final = ".open"
"""Ends the name of an archive file until the commit that closes it."""


def is_there(path: Path) -> bool:
    """Whether a file stands there by its final name, or by the one it has while it is written."""
    return any(length_of(name) >= 0 for name in (path, path.with_name(path.name + OPEN), path))  # perhaps renamed between looks


def open_there(path: Path) -> io.FileIO:
    """The file that ``is_there``, to be read, under whichever of its names it has just now."""
    with storing(path):
        for name in (path, path.with_name(path.name + OPEN)):
            try:
                return name.open("rb", buffering=0)
            except FileNotFoundError:
                continue
        return path.open("rb", buffering=0)  # renamed between the two looks


def missing(path: Path, mark: int, *, full: bool = True) -> StorageError:
    """The error that ends a crawl: bytes that were committed are gone. A file that is not ``full`` cannot be retired."""
    length = length_of(path)
    found = "missing" if length < 0 else f"only {length} bytes long"
    otherwise = "say that it is no longer kept: crawler retire DIR FILE" if full else "begin anew: --fresh"
    advice = f"; put it back, or {otherwise}" if length < 0 else "; put it back whole, or begin anew: --fresh"
    return StorageError(f"{path}: {mark} bytes were committed, but it is {found}{advice}", final=True)


def sync_file(path: Path) -> None:
    """The bytes of a file are durable on return."""
    with storing(path, syncing=True):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fdatasync(fd)
        finally:
            os.close(fd)


def sync_dir(path: Path) -> None:
    """The names in a directory are durable on return."""
    with storing(path, syncing=True):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def make_dir(path: Path) -> None:
    """A directory, made with its parents if need be; its name is durable on return, whoever made it."""
    made = [path, *(parent for parent in path.parents if not parent.exists())]
    with storing(path):
        path.mkdir(parents=True, exist_ok=True)
    for name in made:
        try:
            sync_dir(name.parent)
        except StorageError as error:
            if error.errno != errno.EACCES:
                raise
            sync_file_system(path)  # its parent may not be opened


def write_beside(path: Path, data: bytes) -> Path:
    """A file beside ``path`` that holds ``data`` durably, to be given that name; nothing of it is left where this fails."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with storing(path):
            temporary.write_bytes(data)
        sync_file(temporary)
    except StorageError:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


@contextmanager
def beside(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the name ``path`` once it is written, durably; where that fails, what stands there is left alone. Of two
    processes that write the same one is refused: ConfigError. Only this descriptor may write: to others a file that is locked is
    closed on SMB (flock(2), CIFS details). Raises OSError, StorageError."""
    temporary = path.with_name(f"{path.name}.tmp")
    with open(temporary, "wb", opener=_untruncated) as file:  # what a kill has left is taken over
        if not is_ours(file, temporary):
            raise ConfigError(f"{path}: another process is just writing it")
        try:
            file.truncate()
            yield file
            file.flush()
            with storing(path, syncing=True):
                os.fdatasync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _untruncated(name: str, flags: int) -> int:
    return os.open(name, flags & ~os.O_TRUNC | os.O_NOFOLLOW, 0o666)


def is_ours(file: BinaryIO, path: Path) -> bool:
    """Lock it: whether nobody else writes it, or has deleted it or given it another name since it was opened. There may be no
    locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False


def replace(source: Path, target: Path, *, syncing: bool = False) -> None:
    """Give a file another name, which stands for all of it or is left alone; on another file system for a copy, durable if
    ``syncing``. Raises OSError, StorageError."""
    try:
        source.replace(target)
        return
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    copy = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    try:
        shutil.copyfile(source, copy)
        if syncing:
            sync_file(copy)
        copy.replace(target)
    finally:
        copy.unlink(missing_ok=True)
    source.unlink()


_NO_LINKS: Final = frozenset({errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS})


def link(source: Path, target: Path) -> bool:
    """Another name of a file; whether it could be given: not on another file system, such as one that is mounted on a folder of
    the crawl, and on some there are no hard links. Raises OSError."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return False
    return True


def rename(source: Path, target: Path) -> None:
    """A rename within or between directories, durable on return."""
    with storing(source):
        replace(source, target, syncing=True)
    sync_dir(target.parent)
    if source.parent != target.parent:
        sync_dir(source.parent)


LOST: Final = "lost+found"
LOST_ALSO: Final = "lost+found.crawl"


def lose(root: Path, path: Path) -> str:
    """Move a file that no commit knows to ``root``/lost+found, under a name that is free there; its new name. Where that is the
    file system's own, and not ours to use, it is the folder ``LOST_ALSO``."""
    folder = root / LOST
    make_dir(folder)
    if not os.access(folder, os.W_OK | os.X_OK):
        make_dir(folder := root / LOST_ALSO)
    target = folder / path.name
    number = 0
    while length_of(target) >= 0:
        number += 1
        target = target.with_name(f"{path.name}.{number}")
    rename(path, target)
    return str(target.relative_to(root))


_libc: Final = ctypes.CDLL(None, use_errno=True)


def sync_file_system(path: Path) -> None:
    """Every byte and name written to the file system that holds ``path`` is durable on return (syncfs(2))."""
    with storing(path, syncing=True):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if _libc.syncfs(fd) != 0:
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code))
        finally:
            os.close(fd)
