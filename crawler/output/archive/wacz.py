"""An archive as one file that replays anywhere: WACZ 1.1.1 (https://specs.webrecorder.net/wacz/1.1.1/).

Invariants: what is not committed is not in it; WARC files are stored as they are, so that a reader finds a record by its offset;
no more than a piece of anything is in memory. A file that could not be finished is not there.
"""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import json
import re
import shutil
import time
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO, Final

from msgspec import Struct

from crawler.core.durable import length_of, missing, open_there
from crawler.core.errors import StorageError
from crawler.core.model import Mark
from crawler.core.version import __version__
from crawler.output.archive import cdxj

VERSION: Final = "1.1.1"
PIECE_BYTES: Final = 1 << 20
BLOCK_LINES: Final = 3000
"""Lines of the index in one compressed block; the second index names the first of each."""
_INDEX: Final = "index.cdx.gz"


class _Resource(Struct, frozen=True):
    path: str
    hash: str
    bytes: int


def write_wacz(root: Path, marks: Mapping[str, Mark], pages: Iterable[bytes], to: Path, *, title: str) -> int:
    """Write the archive of the crawl in ``root`` to a new file; how many WARC files are in it. With none, nothing is written.
    ``pages`` are the lines of ``pages.jsonl``. Raises OSError, and StorageError where a file is missing or too short."""
    kept = {file: mark for file, mark in marks.items() if not mark.retired}
    warcs = sorted(file for file in kept if file.startswith("warc/"))
    if not warcs:
        return 0
    temporary, begun = to.with_name(to.name + ".tmp"), f".{to.name}.index-"
    for left in [path for path in to.parent.iterdir() if path.name.startswith(begun)]:  # by one to the same file that was killed
        shutil.rmtree(left)
    try:
        with temporary.open("wb") as stream, zipfile.ZipFile(stream, "w", allowZip64=True) as target:
            made = [_stored(target, f"archive/{file[5:]}", _committed(root, file, kept[file])) for file in warcs]
            with TemporaryDirectory(dir=to.parent, prefix=begun) as scratch:
                made += _index(target, root, kept, Path(scratch))
            made.append(_stored(target, "pages/pages.jsonl", pages, zipfile.ZIP_DEFLATED))
            _describe(target, made, title)
        temporary.replace(to)
    finally:
        temporary.unlink(missing_ok=True)
    return len(warcs)


def _stored(target: zipfile.ZipFile, path: str, pieces: Iterable[bytes], compression: int = zipfile.ZIP_STORED) -> _Resource:
    digest, size = hashlib.sha256(), 0
    info = zipfile.ZipInfo(path, time.gmtime()[:6])
    info.compress_type = compression
    with target.open(info, "w", force_zip64=True) as out:
        for piece in pieces:
            out.write(piece)
            digest.update(piece)
            size += len(piece)
    return _Resource(path, f"sha256:{digest.hexdigest()}", size)


def _committed(root: Path, file: str, mark: Mark) -> Iterator[bytes]:
    """A file up to its mark, under whichever name it is there. StorageError: it is shorter."""
    left = mark.length
    with open_there(root / file) as source:
        while left > 0:
            if not (piece := source.read(min(left, PIECE_BYTES))):
                raise StorageError(
                    f"{root / file}: {mark.length} bytes were committed, but {left} of them are missing", final=True
                )
            left -= len(piece)
            yield piece


def _index(target: zipfile.ZipFile, root: Path, kept: Mapping[str, Mark], scratch: Path) -> list[_Resource]:
    """The index lines of all files in order, in compressed blocks, and the index of those blocks."""
    heads = [b"!meta 0 " + json.dumps({"format": "cdxj-gzip-1.0", "filename": _INDEX}).encode() + b"\n"]
    with contextlib.ExitStack() as stack:
        sources = [_lines(stack.enter_context(path.open("rb"))) for path in _sorted_files(root, kept, scratch)]
        blocks = _stored(target, f"indexes/{_INDEX}", _blocks(heapq.merge(*sources), heads))
    return [blocks, _stored(target, "indexes/index.idx", heads, zipfile.ZIP_DEFLATED)]


def _sorted_files(root: Path, kept: Mapping[str, Mark], scratch: Path) -> Iterator[Path]:
    """Of a file that is being written, a copy up to its mark is sorted."""
    for file, mark in sorted(kept.items()):
        if not file.startswith("index/"):
            continue
        if mark.closed and (length := length_of(root / file)) >= 0:
            if length < mark.length:
                raise missing(root / file, mark.length)
            yield root / file
            continue
        copy = scratch / file[6:]
        with copy.open("wb") as out:
            out.writelines(_committed(root, file, mark))
        cdxj.sort(copy)
        yield copy


def _lines(file: BinaryIO) -> Iterator[bytes]:
    return iter(file)


def _blocks(lines: Iterator[bytes], heads: list[bytes]) -> Iterator[bytes]:
    """Gzip members of so many lines; ``heads`` gets a line for each."""
    offset = 0
    block: list[bytes] = []
    for line in lines:
        block.append(line)
        if len(block) == BLOCK_LINES:
            yield (packed := _packed(block, offset, heads))
            offset += len(packed)
            block.clear()
    if block:
        yield _packed(block, offset, heads)


def _packed(block: list[bytes], offset: int, heads: list[bytes]) -> bytes:
    packer = zlib.compressobj(wbits=31)
    packed = packer.compress(b"".join(block)) + packer.flush()
    place = {"offset": offset, "length": len(packed), "digest": f"sha256:{hashlib.sha256(packed).hexdigest()}"}
    key, stamp, _ = block[0].split(b" ", 2)
    heads.append(key + b" " + stamp + b" " + json.dumps(place | {"filename": _INDEX}).encode() + b"\n")
    return packed


def _describe(target: zipfile.ZipFile, made: Iterable[_Resource], title: str) -> None:
    """What is in it, with digests, and the digest of that."""
    resources = [{"name": _name(one.path), "path": one.path, "hash": one.hash, "bytes": one.bytes} for one in made]
    package = {
        "profile": "data-package",
        "title": title,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "software": f"flatcrawler/{__version__}",
        "wacz_version": VERSION,
        "resources": resources,
    }
    text = json.dumps(package, indent=2).encode()
    described = _stored(target, "datapackage.json", [text], zipfile.ZIP_DEFLATED)
    digest = {"path": described.path, "hash": described.hash}
    _stored(target, "datapackage-digest.json", [json.dumps(digest, indent=2).encode()], zipfile.ZIP_DEFLATED)


def _name(path: str) -> str:
    """As a data package may call a resource."""
    return re.sub(r"[^-a-z0-9._]", "-", path.rpartition("/")[2].lower())
