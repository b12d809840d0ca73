"""Opening a store's directory: create it, recognise it, or refuse it with the reason.

Invariant: a directory that is damaged, or newer than this program, is never written to. What a power cut tore before it
was ever synced is no damage.
"""

from __future__ import annotations

import errno
import logging
import secrets
from pathlib import Path
from typing import Final

from rocksdict import WriteBatch

from crawler.core.errors import StorageError
from crawler.core.threads import STORE_THREADS, try_threads
from crawler.frontier.rocksdb.database import Database, files_max_default, files_max_to_read, storage_error, translated
from crawler.frontier.rocksdb.layout import SCHEMA, SCHEMA_KEY, STATE_KEY, URL_RULES, Schema, decode_schema, encode
from crawler.frontier.rocksdb.manifest import trim
from crawler.frontier.rocksdb.watermark import NAME, noted

logger: Final = logging.getLogger(__name__)

_BEING_MADE: Final = "the frontier store is not made yet: this crawl has just begun, or its first start was cut off"
_CURE: Final = "restore a copy of the crawl, or begin anew: --fresh"
_DAMAGED: Final = frozenset({errno.ENOENT, errno.ENOTDIR})


def open_database(path: Path, memory_bytes: int, *, read_only: bool = False) -> Database:
    """StorageError, with the path, where it cannot be opened; ``final`` where it is damaged. LackError: no threads are left."""
    if not Database.was_opened:  # its threads stay
        try_threads(STORE_THREADS)
    try:
        if not (path / "CURRENT").exists() and (read_only or _has_data(path)):
            if _is_being_made(path):
                raise StorageError(f"{path}: {_BEING_MADE}", final=True)
            raise StorageError(f"{path}: no frontier store here, or its file CURRENT is missing: {_CURE}", final=True)
        if (synced := noted(path)) is None:
            if not read_only:
                logger.warning("%s is damaged: this start cannot tell whether the store lost acknowledged commits", path / NAME)
            synced = 0
        if synced and not read_only:
            _look(path, memory_bytes, synced)
        files_max = files_max_to_read(path) if read_only else files_max_default()
        try:
            database = Database(path, memory_bytes, files_max, read_only)
            return _not_before(synced, database) if read_only else database
        except StorageError:
            raise
        except Exception as error:
            if read_only or not storage_error(error).final or trim(path) is None:
                raise
        return Database(path, memory_bytes, files_max, read_only)
    except StorageError:
        raise
    except Exception as error:  # rocksdict raises bare Exception
        if read_only and "Column family not found" in str(error) and _is_being_made(path):
            raise StorageError(f"{path}: {_BEING_MADE}", final=True) from error
        told = storage_error(error)
        damaged = told.final or told.errno in _DAMAGED
        what = "the frontier store is damaged" if damaged else "the frontier store cannot be opened"
        cure = f"; {_CURE}" if damaged else ""
        raise StorageError(f"{path}: {what}: {error}{cure}", errno=told.errno, final=damaged) from error


def _look(path: Path, memory_bytes: int, synced: int) -> None:
    """First read only: opening to write would bury what the log still holds behind its damage, and delete the tables that a cut
    MANIFEST does not name."""
    try:
        database = Database(path, memory_bytes, files_max_default(), read_only=True)
    except Exception:
        return  # opening to write will say why, or mend it
    _not_before(synced, database).close()


def _not_before(synced: int, database: Database) -> Database:
    if (end := database.sequence()) >= synced:
        return database
    database.close()
    what = f"it can be read up to entry {end} only, {synced} were acknowledged"
    raise StorageError(f"{database.path}: the frontier store is damaged: {what}; {_CURE}", final=True)


def _has_data(path: Path) -> bool:
    """Files that a store leaves only once it has held something. (A first open that was killed leaves others.)"""
    return path.is_dir() and any(file.suffix == ".sst" for file in path.iterdir())


def _is_being_made(path: Path) -> bool:
    """What a first open leaves that is not at its end."""
    return path.is_dir() and not _has_data(path) and noted(path) == 0


@translated
def read_schema(database: Database) -> Schema | None:
    """None: the store was made just now. Refuses what this program does not know."""
    value = database.get("meta", SCHEMA_KEY)
    if value is None:
        if database.get("meta", STATE_KEY) is not None or any(database.scan("seen")):
            raise StorageError(f"{database.path}: the frontier store is damaged: it does not say its schema; {_CURE}", final=True)
        return None
    schema = decode_schema(value)
    if schema.schema > SCHEMA:
        what = f"was written by a newer version (schema {schema.schema}, this one knows {SCHEMA})"
        raise StorageError(f"{database.path}: the frontier store {what}", final=True)
    if schema.url_rules != URL_RULES:
        what = f"was written with URL rules {schema.url_rules}, this version has {URL_RULES}"
        raise StorageError(f"{database.path}: the frontier store {what}: begin a new crawl", final=True)
    return schema


@translated
def make_schema(database: Database, found: Schema | None, secret: int | None = None) -> Schema:
    """Name a new store, or one of an earlier schema, which from now on holds what earlier versions cannot read. ``secret``:
    of the crawl that a new store is a part of."""
    if found is not None and found.schema == SCHEMA:
        return found
    if found is not None:
        secret = found.secret
    schema = Schema(SCHEMA, URL_RULES, secrets.randbits(64) if secret is None else secret)
    batch = WriteBatch(raw_mode=True)
    batch.put(SCHEMA_KEY, encode(schema), database.handle("meta"))
    database.write(batch, sync=True)
    return schema
