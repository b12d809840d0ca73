"""An archive as one file that replays anywhere: WACZ 1.1.1 (https://specs.webrecorder.net/wacz/1.1.1/).

Invariants: what is not committed is not in it; WARC files are stored as they are, so that a reader finds a record by its offset;
no more than a piece of anything is in memory. A file that could not be finished is not there.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import shutil
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO, Final

import orjson
from msgspec import Struct

from crawler.core.durable import beside, open_there
from crawler.core.errors import StorageError
from crawler.core.model import Mark
from crawler.core.version import __version__
from crawler.output.archive import cdxj
from crawler.output.archive.surt import player_key
from crawler.output.archive.warc_reader import RecordReader
from crawler.output.archive.warc_verify import RESPONSES, checked_at
from crawler.output.file_names import indexes_in

VERSION: Final = "1.1.1"
PIECE_BYTES: Final = 1 << 20
BLOCK_LINES: Final = 3000
"""Lines of the index in one compressed block; the second index names the first of each."""
BLOCK_BYTES: Final = 4 << 20
"""Of these lines: then a block has fewer. A line may hold a Content-Type of 32 KiB."""
ZIP_BEGAN: Final = (1980, 1, 1, 0, 0, 0)
"""No file in a ZIP file is older: a machine without a clock of its own may begin in 1970."""
_INDEX: Final = "index.cdx.gz"


class _Resource(Struct, frozen=True):
    path: str
    hash: str
    bytes: int


def write_wacz(
    root: Path, marks: Mapping[str, Mark], pages: Iterable[bytes], to: Path, *, title: str, is_retired: Callable[[str], bool]
) -> int:
    """Write the archive of the crawl in ``root`` to a new file; how many WARC files are in it. With none, nothing is written.
    ``pages`` are the lines of ``pages.jsonl``; ``is_retired`` knows of later marks than these. Raises OSError, StorageError where
    a file is missing or too short, and ConfigError where another process writes the same file."""
    kept = {file: mark for file, mark in marks.items() if not mark.retired}
    if not any(file.startswith("warc/") for file in kept):
        return 0
    begun = f".{to.name}.index-"
    with contextlib.suppress(_Nothing), beside(to) as file:
        _remove(to.parent, begun)  # what one to the same file has left that was killed
        try:
            with (
                zipfile.ZipFile(file, "w", allowZip64=True) as target,
                TemporaryDirectory(dir=to.parent, prefix=begun) as scratch,
            ):
                lines = Path(scratch, "index")
                made = _archive(target, root, kept, lines, is_retired)
                if not (count := len(made)):
                    raise _Nothing
                made += _index(target, lines)
                made.append(_spooled(target, "pages/pages.jsonl", pages, Path(scratch, "pages"), zipfile.ZIP_DEFLATED))
                _describe(target, made, title)
        finally:
            _remove(to.parent, begun)  # a signal may come as the directory is being made
    return count


class _Nothing(Exception):
    """All files are retired meanwhile: there is none to write."""


def _remove(folder: Path, begun: str) -> None:
    """The directories in it whose names begin so."""
    for path in [path for path in folder.iterdir() if path.name.startswith(begun)]:
        shutil.rmtree(path, ignore_errors=True)


def _archive(
    target: zipfile.ZipFile, root: Path, kept: Mapping[str, Mark], lines: Path, is_retired: Callable[[str], bool]
) -> list[_Resource]:
    """The WARC files; ``lines`` gets what their indexes hold, or would. One that is retired meanwhile is not taken: it is opened
    together with its index, so that what is begun is whole."""
    index_of, made = indexes_in(kept), []
    with lines.open("wb") as out:
        for file in sorted(file for file in kept if file.startswith("warc/")):
            with contextlib.ExitStack() as stack:
                name = index_of(file)
                index = _opened(root, name, is_retired, stack) if name is not None else None
                if (warc := _opened(root, file, is_retired, stack)) is None:
                    continue
                pieces, size = _committed(root / file, warc, kept[file]), kept[file].length
                made.append(_stored(target, f"archive/{file[5:]}", pieces, size))
                if name is not None and index is not None:
                    out.writelines(_index_lines(root / name, index, kept[name], kept[file]))
                else:
                    out.writelines(_lines_anew(warc, file, kept[file].length))
    return made


def _opened(root: Path, file: str, is_retired: Callable[[str], bool], stack: contextlib.ExitStack) -> BinaryIO | None:
    """A file under whichever name it is there; None if it is kept no longer."""
    try:
        return stack.enter_context(io.BufferedReader(open_there(root / file)))
    except StorageError:
        if is_retired(file):
            return None
        raise


def _stored(
    target: zipfile.ZipFile, path: str, pieces: Iterable[bytes], size: int, compression: int = zipfile.ZIP_STORED
) -> _Resource:
    """A file in it, of ``size`` bytes. Only one that needs them has ZIP64's fields: in front of a smaller one they stand without
    being in the ZIP file's directory, and where none are in there, ReplayWeb.page reads a file from behind its name on."""
    digest = hashlib.sha256()
    info = zipfile.ZipInfo(path, max(ZIP_BEGAN, time.gmtime()[:6]))
    info.compress_type = compression
    with target.open(info, "w", force_zip64=size > zipfile.ZIP64_LIMIT) as out:
        for piece in pieces:
            out.write(piece)
            digest.update(piece)
    return _Resource(path, f"sha256:{digest.hexdigest()}", size)


def _spooled(
    target: zipfile.ZipFile, path: str, pieces: Iterable[bytes], spool: Path, compression: int = zipfile.ZIP_STORED
) -> _Resource:
    """A file whose size shows only once it is made."""
    with spool.open("w+b") as file:
        file.writelines(pieces)
        size = file.tell()
        file.seek(0)
        return _stored(target, path, iter(lambda: file.read(PIECE_BYTES), b""), size, compression)


def _index_lines(path: Path, source: BinaryIO, mark: Mark, warc: Mark) -> Iterator[bytes]:
    """Of the records in it. What was still written may have become longer and been sorted since, with what is not in it."""
    if mark.closed:
        return _committed(path, source, mark)
    return (line for line, _ in cdxj.lines_before(source, mark.length, warc.length))


def _lines_anew(warc: BinaryIO, file: str, end: int) -> Iterator[bytes]:
    """Of the records in it, whose index is kept no longer. StorageError: one is damaged."""
    offset, line = 0, b""  # the request that follows a response tells whether there is a page in it
    while offset < end:
        record = checked_at(warc, file, offset, end)
        if record.kind == "request" and next(RecordReader(warc, file, offset, end).block(), b"").startswith(b"HEAD "):
            line = line and cdxj.by_head(line)
        elif record.kind in RESPONSES:
            yield line
            line = cdxj.line_of(record.place, file)
        offset += record.length
    yield line


def _committed(path: Path, source: BinaryIO, mark: Mark) -> Iterator[bytes]:
    """A file up to its mark. StorageError: it is shorter."""
    left = mark.length
    while left > 0:
        if not (piece := source.read(min(left, PIECE_BYTES))):
            raise StorageError(f"{path}: {mark.length} bytes were committed, but {left} of them are missing", final=True)
        left -= len(piece)
        yield piece


def _index(target: zipfile.ZipFile, lines: Path) -> list[_Resource]:
    """The index lines of all files in order, in compressed blocks, and the index of those blocks. A player finds the block that
    it needs by its own key of a URL, so that is what they are ordered by: a line in another block is as good as none."""
    keyed = lines.with_name("keyed")
    with lines.open("rb") as source, keyed.open("wb") as out:
        out.writelines(map(_keyed, source))
    keyed.replace(lines)
    cdxj.sort(lines)
    heads = [b"!meta 0 " + json.dumps({"format": "cdxj-gzip-1.0", "filename": _INDEX}).encode() + b"\n"]
    with lines.open("rb") as source:
        blocks = _spooled(target, f"indexes/{_INDEX}", _blocks(source, heads), lines.with_name("blocks"))
    return [blocks, _stored(target, "indexes/index.idx", heads, sum(map(len, heads)), zipfile.ZIP_DEFLATED)]


def _keyed(line: bytes) -> bytes:
    """An index line by the key that players look for. A damaged one is told later."""
    try:
        _, stamp, fields = line.split(b" ", 2)
        return b"%s %s %s" % (player_key(orjson.loads(fields)["url"]).encode(), stamp, fields)
    except (ValueError, KeyError, TypeError, AttributeError):
        return line


def _blocks(lines: Iterable[bytes], heads: list[bytes]) -> Iterator[bytes]:
    """Gzip members of so many lines; ``heads`` gets a line for each."""
    offset = size = 0
    block: list[bytes] = []
    for line in lines:
        block.append(line)
        size += len(line)
        if len(block) == BLOCK_LINES or size >= BLOCK_BYTES:
            yield (packed := _packed(block, offset, heads))
            offset += len(packed)
            size = 0
            block.clear()
    if block:
        yield _packed(block, offset, heads)


def _packed(block: list[bytes], offset: int, heads: list[bytes]) -> bytes:
    packer = zlib.compressobj(wbits=31)
    packed = packer.compress(b"".join(block)) + packer.flush()
    place = {"offset": offset, "length": len(packed), "digest": f"sha256:{hashlib.sha256(packed).hexdigest()}"}
    if block[0].count(b" ") < 2:
        raise StorageError(f"an index is damaged, as crawler verify says: {block[0][:80]!r}", final=True)
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
    described = _stored(target, "datapackage.json", [text], len(text), zipfile.ZIP_DEFLATED)
    text = json.dumps({"path": described.path, "hash": described.hash}, indent=2).encode()
    _stored(target, "datapackage-digest.json", [text], len(text), zipfile.ZIP_DEFLATED)


def _name(path: str) -> str:
    """As a data package may call a resource."""
    return re.sub(r"[^-a-z0-9._]", "-", path.rpartition("/")[2].lower())
