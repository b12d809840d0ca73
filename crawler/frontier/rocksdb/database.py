"""One open RocksDB, tuned to a number of bytes, its errors translated.

Invariants: after a failed write nothing is tried again on this handle; it is closed, and the next one reads what is true.
Every error of RocksDB becomes a StorageError. A scan that ends early raises.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import re
import resource
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

from msgspec import DecodeError
from rocksdict import (
    AccessType,
    BlockBasedOptions,
    Cache,
    Checkpoint,
    ChecksumType,
    ColumnFamily,
    DbClosedError,
    DBCompressionType,
    DBPath,
    Options,
    Rdict,
    RdictIter,
    WriteBatch,
    WriteBufferManager,
)

from crawler.core.errors import StorageError, lack_of
from crawler.frontier.rocksdb.layout import FAMILIES
from crawler.frontier.rocksdb.watermark import Watermark

P = ParamSpec("P")
R = TypeVar("R")

MEMORY_BYTES_MIN: Final = 8 << 20
TABLE_BYTES: Final = 4 << 20
"""Small files: their filters and indexes must fit into the block cache piecewise."""
LOG_BYTES_MAX: Final = 1 << 20
WAL_BYTES_MAX: Final = 32 << 20
"""Bounds what an open after a kill has to replay."""
FILES_ALL: Final = -1
"""As RocksDB understands it: every table is opened with the database, and stays so."""
TO_READ_MAX: Final = 4096
"""Tables that are all opened to be read: of a store of 16 GiB."""

_COMPRESSED: Final = frozenset({"queue", "due", "page", "robots"})
ASKED_MAX: Final = 256
"""Keys looked up in one call: what RocksDB lays out for them then fits into the heap. Mapped anew each time, it was a third of
their cost."""
_CHURNING: Final = frozenset({"queue", "due", "ready"})
_ERRNOS: Final = {
    os.strerror(number): number
    for number in (
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EIO,
        errno.EROFS,
        errno.EACCES,
        errno.EPERM,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.EAGAIN,
        errno.ENOTDIR,
        errno.ENOENT,
    )
}

_rust_errno = re.compile(r"\(os error (\d+)\)").search
_is_manifest = re.compile(r"MANIFEST-\d+").fullmatch


def storage_error(error: Exception) -> StorageError:
    """What RocksDB said, with the errno it hides in its text; ``final`` if the files themselves are wrong."""
    text = str(error)
    told = _rust_errno(text)
    number = int(told[1]) if told else next((number for words, number in _ERRNOS.items() if words in text), 0)
    return StorageError(f"frontier store: {text}", errno=number, final=text.startswith("Corruption"))


def translated(method: Callable[P, R]) -> Callable[P, R]:
    """The border: RocksDB's errors (bare ``Exception``) become StorageError, our own bugs stay what they are.

    Whoever keeps such an error must not keep the database open by it: the frames it came through are cleared of cursors
    and handles."""

    @functools.wraps(method)
    def inner(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(*args, **kwargs)
        except Exception as error:
            traceback.clear_frames(error.__traceback__)
            if type(error) is Exception or isinstance(error, DbClosedError | OSError):
                raise storage_error(error) from error
            if isinstance(error, DecodeError):
                raise StorageError(f"frontier store: damaged value: {error}", final=True) from error
            raise

    return inner


def files_max_default() -> int:
    """A quarter of the descriptors this process may have, within reason."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(20, min(512, soft // 4 if soft > 0 else 512))


def files_max_to_read(path: Path) -> int:
    """All of them, if this process may hold so many open: none goes while it is read, whatever the writer merges meanwhile."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    tables = sum(file.suffix == ".sst" for file in path.iterdir())
    try:
        held = sum(1 for _ in Path("/proc/self/fd").iterdir())
    except FileNotFoundError:  # no /proc is mounted: the store is none the worse for it
        return files_max_default()
    most = min(TO_READ_MAX, (soft - held) // 2) if soft >= 0 else TO_READ_MAX
    return FILES_ALL if tables <= most else files_max_default()


@contextlib.contextmanager
def _stand_in(path: Path) -> Iterator[Path]:
    """A folder that a store may be opened in to be read, while the store's own stays as it is: rocksdict writes a file of its
    own into every folder it opens, to read as well. Needed only for as long as the opening takes. Raises OSError.

    RocksDB looks here for CURRENT and the MANIFEST it names; tables and log are opened in ``path``. In memory where that can
    be had: a full disk must not keep anybody from reading; nor must a full memory."""
    current = (path / "CURRENT").read_bytes()
    manifest = os.fsdecode(current.strip())
    with contextlib.ExitStack() as stack:
        try:
            try:
                folder = _filled(stack, "/dev/shm", current)  # noqa: S108 mkdtemp makes a name nobody else has
            except OSError:
                folder = _filled(stack, None, current)
            if _is_manifest(manifest):  # or RocksDB says what is wrong with it
                (folder / manifest).symlink_to(path / manifest)
        except OSError as error:
            if (lack := lack_of(error)) is not None:
                raise lack from error
            what = f"to read a crawl takes room for some bytes in a temporary directory: {error.strerror}; name one by TMPDIR"
            raise StorageError(f"{path}: {what}", errno=error.errno or 0) from error
        yield folder


def _filled(stack: contextlib.ExitStack, where: str | None, current: bytes) -> Path:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="crawler-", dir=where)))
    (folder / "CURRENT").write_bytes(current)
    return folder


def _opened_to_read(path: Path, options: Options, families: dict[str, Options]) -> Rdict:
    own = str(path.absolute())
    options.set_wal_dir(own)
    options.set_db_paths([DBPath(own, 1 << 60)])
    with _stand_in(path.absolute()) as folder:
        try:
            return Rdict(str(folder), options, families, AccessType.read_only(False))
        except Exception as error:
            raise Exception(str(error).replace(str(folder), own)) from error  # as rocksdict raises it, by the store's name


class Database:
    """``memory_bytes`` bounds block cache and write buffers together. Once closed, every method says so."""

    was_opened = False
    """By this process, or by one that it was forked from: there are threads of RocksDB, whatever is closed since."""

    def __init__(self, path: Path, memory_bytes: int, files_max: int, read_only: bool = False) -> None:
        Database.was_opened = True
        self.path = path
        self._cache_bytes = max(memory_bytes, MEMORY_BYTES_MIN)
        self._cache = Cache(self._cache_bytes)
        buffers = WriteBufferManager.new_write_buffer_manager_with_cache(self._cache_bytes // 4, False, self._cache)
        families = {name: self._options(name, memory_bytes) for name in FAMILIES}
        options = self._database_options(buffers, files_max, not read_only)
        self._families: dict[str, Rdict] = {}
        self._handles: dict[str, ColumnFamily] = {}
        self._watermark: Watermark | None = None
        self._rdict: Rdict | None = _opened_to_read(path, options, families) if read_only else Rdict(str(path), options, families)
        try:
            self._place = path.stat()
            self._watermark = None if read_only else Watermark(path)
            for name in FAMILIES:
                self._families[name] = self._rdict.get_column_family(name)
                self._handles[name] = self._rdict.get_column_family_handle(name)
        except BaseException:
            self.close()  # or it stays open, and locked, for as long as anybody keeps the error
            raise
        self.names = {id(handle): name for name, handle in self._handles.items()}
        """Families, by ``id`` of their handles."""

    def _database_options(self, buffers: WriteBufferManager, files_max: int, create: bool) -> Options:
        options = self._options("meta", 0)
        options.create_if_missing(create)
        options.create_missing_column_families(create)
        options.set_write_buffer_manager(buffers)
        options.set_max_open_files(files_max)
        options.set_max_file_opening_threads(1)
        options.set_max_background_jobs(2)
        options.set_max_total_wal_size(WAL_BYTES_MAX)
        options.set_max_manifest_file_size(4 << 20)
        options.set_max_log_file_size(LOG_BYTES_MAX)
        options.set_keep_log_file_num(2)
        options.set_stats_dump_period_sec(0)
        options.set_stats_persist_period_sec(0)
        options.set_skip_stats_update_on_db_open(True)
        options.set_compaction_readahead_size(256 << 10)
        options.set_is_fd_close_on_exec(True)
        return options

    def _options(self, family: str, memory_bytes: int) -> Options:
        table = BlockBasedOptions()
        table.set_block_cache(self._cache)
        table.set_block_size(4 << 10)
        table.set_cache_index_and_filter_blocks(True)
        table.set_bloom_filter(10, False)
        table.set_format_version(5)
        table.set_checksum_type(ChecksumType.xxh3())
        options = Options(raw_mode=True)
        options.set_block_based_table_factory(table)
        options.set_optimize_filters_for_hits(True)
        options.set_compression_type(DBCompressionType.lz4() if family in _COMPRESSED else DBCompressionType.none())
        options.set_write_buffer_size(min(TABLE_BYTES, max(1 << 20, memory_bytes // 16)))
        options.set_max_write_buffer_number(6)
        if family == "seen":  # most keys asked for are in no buffer: a filter says so in half the time of a search
            options.set_memtable_prefix_bloom_ratio(0.1)
            options.set_memtable_whole_key_filtering(True)
        options.set_target_file_size_base(TABLE_BYTES)
        options.set_max_bytes_for_level_base(8 * TABLE_BYTES)
        # A write that stalls would hold the whole process: it holds the interpreter lock.
        options.set_level_zero_slowdown_writes_trigger(64)
        options.set_level_zero_stop_writes_trigger(256)
        options.set_soft_pending_compaction_bytes_limit(0)
        options.set_hard_pending_compaction_bytes_limit(0)
        if family in _CHURNING:
            options.add_compact_on_deletion_collector_factory(4096, 2048, 0.5)
        return options

    def handle(self, family: str) -> ColumnFamily:
        """What a WriteBatch calls the family."""
        if self._rdict is None:
            raise DbClosedError("closed")
        return self._handles[family]

    def get(self, family: str, key: bytes) -> bytes | None:
        value: bytes | None = self._families[family].get(key)
        return value

    def many(self, family: str, keys: list[bytes]) -> list[bytes | None]:
        """Aligned with ``keys``; far cheaper if they are sorted."""
        get = self._families[family].get
        asked: list[Any] = keys  # its stub wants an invariant list of a union
        if len(asked) <= ASKED_MAX:
            return list(get(asked) or ())
        return [value for at in range(0, len(asked), ASKED_MAX) for value in get(asked[at : at + ASKED_MAX]) or ()]

    def found(self, family: str, keys: Iterable[bytes]) -> list[tuple[bytes, bytes]]:
        """Those of these keys that are there, in order, with their values."""
        asked = sorted(keys)
        values = self.many(family, asked) if asked else []
        return [(key, value) for key, value in zip(asked, values, strict=True) if value is not None]

    def cursor(self, family: str) -> RdictIter:
        """An iterator over the present. Where it becomes invalid, ask its ``status()``: an error looks like an end."""
        return self._families[family].iter()

    def scan(self, family: str, prefix: bytes = b"", start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """All entries whose key begins with ``prefix``, or those from ``start`` on."""
        at = prefix or start
        found: Iterator[tuple[Any, Any]] = self._families[family].items(from_key=at or None)  # at half a cursor's cost
        for key, value in found:
            if not key.startswith(prefix):
                return
            yield key, value
            at = key
        cursor = self.cursor(family)  # it tells an error from an end
        cursor.seek(at)
        if cursor.valid():
            cursor.next()
        cursor.status()

    def write(self, batch: WriteBatch, *, sync: bool) -> None:
        """All of it or nothing. The sync is a call of its own, because ``write`` holds the interpreter lock."""
        if self._rdict is None:
            raise DbClosedError("closed")
        self._rdict.write(batch)
        if sync:
            self._rdict.flush_wal(True)
            if self._watermark is not None:
                self._watermark.note(self.sequence())

    def copy_to(self, path: Path) -> None:
        """A database of its own in ``path``, which shares this one's tables."""
        if self._rdict is None:
            raise DbClosedError("closed")
        Checkpoint(self._rdict).create_checkpoint(str(path))
        options = self.path / "rocksdict-config.json"  # which rocksdict writes, and wants to find again
        if options.exists():
            shutil.copyfile(options, path / options.name)

    def sequence(self) -> int:
        """How many entries were ever written."""
        if self._rdict is None:
            raise DbClosedError("closed")
        return self._rdict.latest_sequence_number()

    def memory_used(self) -> int:
        return self._cache.get_usage()

    def shed(self) -> None:
        """Empty the block cache, but for what is in use."""
        self._cache.set_capacity(0)
        self._cache.set_capacity(self._cache_bytes)

    @property
    def is_in_place(self) -> bool:
        """Whether its folder still stands at its path. RocksDB makes new files by that path: those of a folder that was put there
        instead it would write over."""
        try:
            return os.path.samestat(self.path.stat(), self._place)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return True  # the disk's trouble, which others tell

    def check_place(self) -> None:
        """StorageError, ``final``: the folder is elsewhere."""
        if not self.is_in_place:
            what = "was moved, deleted or replaced while this crawl ran; nothing was written to what is there now"
            raise StorageError(f"{self.path}: {what}: put it back, or begin anew: --fresh", errno=errno.ENOENT, final=True)

    def close(self) -> None:
        """Flush and close. Every cursor must be gone by now: it would keep the database open, and locked. One that is not in its
        place stays open as long as the process lives: what counts is in the log."""
        if self._rdict is None:
            return
        if not self.is_in_place:
            for kept in [*self._families.values(), self._rdict]:
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))  # rocksdict flushes what is forgotten, too
            self._rdict = None
            return
        end = self.sequence()
        rdict, self._rdict = self._rdict, None
        self._handles.clear()
        failed: Exception | None = None
        for opened in [*self._families.values(), rdict]:
            try:
                opened.close()
            except Exception as error:
                failed = failed or error
        if self._watermark is not None:
            if failed is None:
                self._watermark.note(end)
            self._watermark.close()
        if failed is not None:
            raise failed
