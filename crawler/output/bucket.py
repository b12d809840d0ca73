"""Where copies of full files go: a bucket of an object store (``s3://``), or a directory (``file://``).

Invariants: an object is seen whole or not at all, and one that stands there with other bytes is never replaced. Its bytes
travel in pieces of a bounded size. No credential is in any text that comes from here.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from io import FileIO
from pathlib import Path
from threading import Event
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import unquote, urlsplit

from crawler.core.durable import length_of, make_dir, rename, storing, sync_dir, sync_file, write_beside
from crawler.core.errors import ConfigError, StorageError

T = TypeVar("T")

PIECE_BYTES: Final = 1 << 20
"""Read of a file at a time, to copy or to digest it."""
PART_BYTES: Final = 5 << 20
"""Sent at a time: the least that S3 takes for a part of an upload."""
PARTS_AT_ONCE: Final = 1
UPLOAD_BYTES: Final = 32 << 20
"""Of one upload to S3: the part on its way, the one being read, and what the client library takes (measured: 24 to 31 MiB)."""
_DIGEST: Final = "sha256"
"""The name of an object's own note of its digest (``x-amz-meta-sha256``)."""
_RETRY: Final[Any] = {"max_retries": 2, "retry_timeout": timedelta(seconds=20)}
"""Within one attempt; further ones are the caller's."""
_CODE: Final = re.compile(r"<Code>([A-Za-z]{1,60})</Code>")
_STATUS: Final = re.compile(r"\b([45]\d\d [A-Z][A-Za-z ]{2,30})\b")


class BucketError(Exception):
    """It cannot be stored just now, or (``is_other``) never by this name. The text is one line, and without secrets."""

    def __init__(self, text: str, *, is_other: bool = False) -> None:
        self.is_other = is_other
        super().__init__(text)

    @property
    def is_of_one(self) -> bool:
        """Whether other files can be stored all the same."""
        return self.is_other


class DamagedFile(BucketError):
    """What is to be stored cannot be read, or is shorter than it was: no trouble of the store."""

    is_of_one = True


class Bucket(Protocol):
    is_bounded: bool
    """Whether storing takes no more memory than ``upload_bytes`` says, whatever a store answers."""

    async def put(self, name: str, path: Path, length: int) -> None:
        """A copy of this file, of this length, stands there durably on return, whoever put it there. Raises BucketError
        (DamagedFile: this file is to blame), and FileNotFoundError where there is no such file."""

    async def holds(self, name: str, path: Path, length: int) -> bool:
        """Whether a copy of this file stands there. Raises as ``put``; BucketError, ``is_other``: what stands there is none."""


def open_bucket(url: str, note: Path | None = None) -> Bucket:
    """What a ``store_url`` names; for ``note`` see ``Folder``. ConfigError: what it needs is not installed."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        return Folder(Path(unquote(parts.path)), note)
    return S3Bucket(parts.netloc, parts.path.strip("/"))


def upload_bytes(url: str) -> int:
    """What storing takes in memory, at most: one file is on its way at a time."""
    return 2 * PIECE_BYTES if url.startswith("file:") else UPLOAD_BYTES


class Folder:
    """A directory of this machine, perhaps of a file system that it shares with others, or of a disk that comes and goes.

    ``note`` is a file that remembers in which folder copies were begun: one that has gone since is not made anew, as it would be
    on the disk that is there instead."""

    is_bounded = True

    def __init__(self, root: Path, note: Path | None = None) -> None:
        self._root, self._note = root, note

    async def put(self, name: str, path: Path, length: int) -> None:
        await self._call(self._put, self._root / name, path, length)

    async def holds(self, name: str, path: Path, length: int) -> bool:
        return await self._call(self._holds, self._root / name, path, length)

    async def _call(self, call: Callable[..., T], target: Path, path: Path, length: int) -> T:
        """In a thread; what goes wrong is a BucketError, unless it is ``path`` that is not there."""
        try:
            return await _in_thread(call, target, path, length)
        except FileNotFoundError as error:
            if str(error.filename) == str(path):
                raise
            raise BucketError(f"{error.filename}: {error.strerror}") from error
        except (OSError, StorageError) as error:
            raise BucketError(str(error)) from error

    def _holds(self, target: Path, path: Path, length: int, stop: Event) -> bool:
        if (there := length_of(target)) < 0:
            return False
        own = digest_of(path, length, stop)
        try:
            is_copy = there == length and digest_of(target, length, stop) == own
        except DamagedFile as error:
            raise BucketError(str(error)) from error
        if not is_copy:
            raise _other(str(target))
        return True

    def _put(self, target: Path, path: Path, length: int, stop: Event) -> None:
        if self._holds(target, path, length, stop):
            sync_file(target)  # a kill may have come before it was
            sync_dir(target.parent)
            return
        with path.open("rb", buffering=0) as source:
            self._begin(self._root / target.relative_to(self._root).parts[0])
            make_dir(target.parent)
            part = target.with_name(f"{target.name}.part")
            with part.open("wb", buffering=0) as copy:
                for piece in _pieces(source, length, stop):
                    view = memoryview(piece)
                    with storing(part):
                        while view:
                            view = view[copy.write(view) :]
                with storing(part, syncing=True):
                    os.fsync(copy.fileno())
        rename(part, target)

    def _begin(self, folder: Path) -> None:
        if self._note is None:
            return
        named = os.fsencode(folder)
        is_noted = length_of(self._note) >= 0 and self._note.read_bytes() == named
        if is_noted and not folder.is_dir():
            raise BucketError(f"{folder} has gone: is a disk missing? If the copies were moved, make that directory again")
        if not is_noted:
            make_dir(folder)
            rename(write_beside(self._note, named), self._note)


class S3Bucket:
    """Amazon S3, or what speaks its protocol at AWS_ENDPOINT_URL. Credentials and region are the environment's (the variables
    AWS_*, a role of the machine, the container or the pod)."""

    is_bounded = False
    """The client library reads whatever is answered."""

    def __init__(self, bucket: str, prefix: str) -> None:
        try:
            import obstore
            from obstore.store import S3Store
        except ImportError:
            raise ConfigError("store: s3:// needs the package obstore: pip install 'flatcrawler[s3]'") from None
        _forget_empty()
        endpoint = (
            os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT", "")
        )
        client: Any = {"connect_timeout": "5s", "timeout": "120s", "allow_http": endpoint.startswith("http://")}
        self._name = "/".join(filter(None, (f"s3://{bucket}", prefix)))
        self._obstore: Any = obstore
        try:
            self._store: Any = S3Store(bucket, prefix=prefix or None, client_options=client, retry_config=_RETRY)
        except Exception as error:
            raise ConfigError(f"store: {self._name} cannot be used: {said_of(error)}") from None

    async def put(self, name: str, path: Path, length: int) -> None:
        with self._as_bucket_error(path):
            digest = await _in_thread(digest_of, path, length)
            if await self._is_there(name, length, digest):
                return
            # in parts, none of which is seen before the last
            await self._obstore.put_async(
                self._store,
                name,
                path,
                attributes={_DIGEST: digest},
                chunk_size=PART_BYTES,
                max_concurrency=PARTS_AT_ONCE,
            )
            if not await self._is_there(name, length, digest):
                raise BucketError(f"{self._name}/{name}: it was taken, but is not there")

    async def holds(self, name: str, path: Path, length: int) -> bool:
        with self._as_bucket_error(path):
            return await self._is_there(name, length, await _in_thread(digest_of, path, length))

    @contextmanager
    def _as_bucket_error(self, path: Path) -> Iterator[None]:
        """What goes wrong in here is a BucketError, unless it is ``path`` that is not there."""
        try:
            yield
        except BucketError:
            raise
        except Exception as error:  # the library has a class for each kind of trouble, and plain ones besides
            if isinstance(error, FileNotFoundError) and str(error.filename) == str(path):
                raise
            raise BucketError(f"{self._name}: {said_of(error)}") from None

    async def _is_there(self, name: str, length: int, digest: str) -> bool:
        try:
            found = await self._obstore.get_async(self._store, name, options={"head": True})
        except FileNotFoundError:
            return False
        if found.meta["size"] != length or found.attributes.get(_DIGEST) != digest:
            raise _other(f"{self._name}/{name}")
        return True


def _forget_empty() -> None:
    """A variable that is set to nothing, as Compose files do, is not set: as Amazon's own tools have it. The client library would
    take it for an address, or for credentials that come before a role's."""
    for name in [name for name, value in os.environ.items() if name.startswith("AWS_") and not value]:
        del os.environ[name]


def digest_of(path: Path, length: int, stop: Event) -> str:
    """The sha256 of its first ``length`` bytes. DamagedFile: it has fewer; BucketError: ``stop`` is set meanwhile."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        for piece in _pieces(file, length, stop):
            digest.update(piece)
    return digest.hexdigest()


def _pieces(file: FileIO, length: int, stop: Event) -> Iterator[bytes]:
    left = length
    while left:
        try:
            piece = file.read(min(left, PIECE_BYTES))
        except OSError as error:
            raise DamagedFile(f"{file.name}: {error.strerror}") from error
        if not piece:
            raise DamagedFile(f"{file.name}: {left} bytes of it are missing")
        if stop.is_set():
            raise BucketError("the crawl has ended")
        yield piece
        left -= len(piece)


async def _in_thread(call: Callable[..., T], *args: object) -> T:
    """Run it in a thread, which does not outlive a caller that is cancelled by more than a piece: it gets an event for that."""
    stop = Event()
    try:
        return await asyncio.to_thread(call, *args, stop)
    finally:
        stop.set()


def _other(name: str) -> BucketError:
    return BucketError(
        f"{name}: another file is there by this name; it is left alone: move it away, or store elsewhere", is_other=True
    )


def said_of(error: BaseException) -> str:
    """What a client library says, in one line. What servers send along may name credentials, and addresses with signatures:
    only the server's own word for it and the status are repeated."""
    text = str(error)
    words = [found[1] for pattern in (_CODE, _STATUS) if (found := pattern.search(text))]
    kind = type(error).__name__.removesuffix("Error")
    advice = {
        "PermissionDenied": "access refused: check the credentials (AWS_ACCESS_KEY_ID ..., or the role), the bucket's policy "
        "and this machine's clock",
        "Unauthenticated": "credentials refused: check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the role",
    }.get(kind)
    if advice is None and "redirect without LOCATION" in text:  # so S3 tells it, without a word
        advice = "the bucket is in another region: check AWS_REGION"
    if advice is None:
        named = "it fails" if kind == "Generic" else kind.lower()
        advice = "no such bucket" if "NoSuchBucket" in words else named if words else "it cannot be reached"
    return " ".join([advice, *([f"({', '.join(words)})"] if words else [])])
