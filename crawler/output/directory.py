"""The crawl's directory: whether it holds a crawl and which, its lock, and setting an earlier crawl aside.

Invariants: one process at a time; a directory begun with one identity is not continued with another; nothing is deleted but
earlier crawls, where the operator says how many are kept.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from crawler.config.crawl_toml import (
    FILE_NAME,
    IDENTITY,
    identity,
    identity_conflicts,
    is_somebodys,
    read_identity,
    write_effective,
)
from crawler.config.sections import Config
from crawler.core.durable import LOST, LOST_ALSO, lose, make_dir, storing, sync_dir
from crawler.core.errors import OUR_ERRNOS, ConfigError, StorageError
from crawler.core.page import SPOOL
from crawler.output.archive import FOLDERS
from crawler.output.file_names import EXCHANGE

PARTS: Final = (
    *("frontier", *FOLDERS, "results", "exchange", LOST, LOST_ALSO, "tmp"),
    *("cookies.txt", "store.id", "store.place", "crawl.toml"),
)
"""In the order in which ``--fresh`` moves them: killed midway, it leaves no store beside another crawl's settings."""
LOCK: Final = "lock"
_is_previous = re.compile(r"previous-\d{14}(?:\.\d+)?").fullmatch

logger: Final = logging.getLogger(__name__)
PARTS_END_S: Final = 1.0
"""Where several processes have crawled: when their parent was killed, the others are gone a moment later, and the lock with
them."""


def crawl_in(directory: Path | str) -> Path:
    """The directory, in which there is a crawl. ConfigError: there is none."""
    if not is_crawl(root := Path(directory)):
        if (begun := read_identity(root)) is not None and begun["store"] == "memory":
            raise ConfigError(f"{root}: with --store memory a crawl is forgotten at its end; its rows are in {root / 'results'}")
        raise ConfigError(f"{root}: there is no crawl here")
    return root


def is_crawl(root: Path) -> bool:
    """Whether there is a crawl in ``root``. ConfigError: it may not be read."""
    try:
        (root / "frontier" / "..").stat()  # it is there, is a directory, and may be looked into
        return True
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise ConfigError(f"{root}: {error.strerror}") from error


@contextlib.contextmanager
def open_directory(root: Path, config: Config) -> Iterator[Path]:
    """Make or take over ``root`` for this process. ConfigError: it cannot be used so; StorageError with EWOULDBLOCK:
    another process holds it."""
    with locked(root):
        if config.fresh:
            _set_aside(root)
            if config.keep_previous is not None:
                _forget(root, config.keep_previous)
        else:
            _check_identity(root, config)
        make_tmp(root / "tmp")
        if is_somebodys(mine := root / FILE_NAME):
            logger.warning("%s was written by hand: kept as %s", mine, root / lose(root, mine))
        write_effective(root, config)
        yield root


@contextlib.contextmanager
def locked(root: Path) -> Iterator[None]:
    """No other process changes anything in ``root``, which is made if it is not there. Raises as ``open_directory``."""
    try:
        with storing(root):
            make_dir(root)
            lock = os.open(root / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except StorageError as error:
        if error.errno in OUR_ERRNOS:
            raise
        raise ConfigError(f"{error}; it must be a directory that can be written") from error
    try:
        until = time.monotonic() + (PARTS_END_S if (root / EXCHANGE).exists() else 0.0)
        while not _is_free(lock, root):
            if time.monotonic() >= until:
                raise StorageError(f"{root} is in use by another process", errno=errno.EWOULDBLOCK)
            time.sleep(0.02)
        yield
    finally:
        os.close(lock)


def _is_free(lock: int, root: Path) -> bool:
    """Whether it is ours now. ConfigError: there are no locks."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except OSError as error:
        raise ConfigError(f"{root}: {error.strerror}; it must be on a file system where files can be locked (flock)") from error


def _set_aside(root: Path) -> None:
    """ConfigError: a folder cannot be moved; then all is where it was."""
    parts = [root / name for name in PARTS if (root / name).exists() and not _stays(root / name)]
    if not parts:
        return
    half = _half_moved(root, parts)
    if half is None and all(path.name in (FILE_NAME, "tmp") for path in parts):
        return  # a start that failed, or was killed, before it had begun anything: no earlier crawl makes way for it
    aside = half or _free_name(root)
    moved: list[Path] = []
    with storing(root):
        aside.mkdir(exist_ok=True)
        sync_dir(root)
        try:
            for path in parts:  # one after the other, also for a power cut: what has moved tells where the rest belongs
                path.rename(aside / path.name)
                moved.append(path)
                sync_dir(aside)
                sync_dir(root)
        except OSError as error:
            for done in reversed(moved):
                (aside / done.name).rename(done)
            if half is None:
                aside.rmdir()
            if error.errno not in (errno.EBUSY, errno.EXDEV):
                raise
            advice = "a disk is mounted there: empty it, or give another --output"
            raise ConfigError(f"{path}: it cannot be set aside: {advice}") from error


def _free_name(root: Path) -> Path:
    """Behind those of earlier crawls, though the clock was set back since then: the last of them are kept. One that a kill has
    left empty is no earlier crawl."""
    found = _previous(root)
    with storing(root):
        if found and not any(found[-1].iterdir()):
            return found[-1]
    stamp, number = max((_moment(path.name) for path in found), default=(0, 0))
    stamp, number = max((int(time.strftime("%Y%m%d%H%M%S", time.gmtime())), 0), (stamp, number + 1))
    while (aside := root / f"previous-{stamp:014}{f'.{number}' if number else ''}").exists():
        number += 1
    return aside


def _moment(name: str) -> tuple[int, int]:
    """By which earlier crawls are ordered."""
    stamp, _, number = name.removeprefix("previous-").partition(".")
    return int(stamp), int(number or 0)


def _half_moved(root: Path, parts: Iterable[Path]) -> Path | None:
    """Where the rest of these parts is, if a kill came while they were set aside: of the store, which goes first, and not of the
    settings, which go last, if there are any."""
    if is_crawl(root) or not (found := _previous(root)):
        return None
    is_half = is_crawl(found[-1]) and not any((found[-1] / name).exists() for name in (FILE_NAME, *(path.name for path in parts)))
    return found[-1] if is_half else None


def _stays(path: Path) -> bool:
    """Whether it cannot be set aside and need not be: a disk mounted there that holds nothing, or a file system's own folder."""
    if path.name == LOST and not os.access(path, os.W_OK):
        return True
    with storing(path):
        return path.is_mount() and all(inner.name == LOST for inner in path.iterdir())


def _forget(root: Path, keep: int) -> None:
    """Delete all earlier crawls but the latest ``keep``. What was made by somebody else is left alone."""
    found = _previous(root)
    with storing(root):
        for path in found[: max(0, len(found) - keep)]:
            shutil.rmtree(path)
            logger.info("earlier crawl deleted", extra={"path": str(path)})


def _previous(root: Path) -> list[Path]:
    """Earlier crawls, the latest last."""
    with storing(root):
        found = [path for path in root.iterdir() if _is_previous(path.name) and path.is_dir() and not path.is_symlink()]
    return sorted(found, key=lambda path: _moment(path.name))


def _has_begun(root: Path) -> bool:
    """Whether there is anything of the crawl that crawl.toml tells of: a start that failed leaves at most the name of a node."""
    return any(path.name != "node.toml" for path in (root / "frontier").glob("*"))


def _check_identity(root: Path, config: Config) -> None:
    begun = read_identity(root)
    if begun is None:
        if is_crawl(root):
            settings = ", ".join(IDENTITY)
            raise ConfigError(
                f"{root / FILE_NAME} is missing, which says how this crawl was begun: put it back, or write one with what it was "
                f"begun with ({settings})"
            )
        return
    if begun["store"] != "memory" and not _has_begun(root):
        return
    if conflicts := identity_conflicts(begun, identity(config)):
        advice = f"{root} was begun with other settings; use them, another --output, or --fresh to set it aside"
        raise ConfigError([*conflicts, advice])


def make_tmp(tmp: Path) -> Path:
    """The folder without spools, which are useless once their process has gone. Other files there are left alone."""
    try:
        tmp.mkdir(exist_ok=True)
        for path in tmp.rglob(f"{SPOOL}*"):
            path.unlink()
    except OSError as error:
        raise StorageError(f"{tmp}: {error.strerror}", errno=error.errno or 0) from error
    return tmp
