"""The archive kind ``warc``: WARC 1.1 files and their CDXJ indexes, appended in pairs, rolled at a commit.

Invariants: a file is named ``.open`` exactly until the commit that closed it; what a kill left undone between that commit
and the new names is done at the next ``rewind``. An uncommitted file goes to lost+found and is never deleted.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import BinaryIO, Final

from msgspec import Struct

from crawler.config.sections import ArchiveConfig
from crawler.core.durable import OPEN, MarkedFile, cut_back, is_there, length_of, lose, make_dir, missing, rename, storing
from crawler.core.errors import StorageError
from crawler.core.model import Done, Known, Lease, Mark, Ref
from crawler.core.page import Page
from crawler.core.version import __version__
from crawler.output.archive import cdxj, gzip_member, records
from crawler.output.archive.kind import Findings, Kept, Place
from crawler.output.archive.warc_reader import codings_at, open_record_body
from crawler.output.archive.warc_verify import WarcChecker
from crawler.output.file_names import part_of, part_prefix, retired_in

_NAME: Final = re.compile(r"[A-Za-z0-9_]+-\d{17}-\d{5,}-(?:p\d{2,}~)?[A-Za-z0-9._-]+")
# fmt: off
_COMPRESSED: Final = frozenset({
    "image/png", "image/jpeg", "image/gif", "image/webp", "image/avif", "audio/mpeg", "audio/flac",
    "application/ogg", "video/mp4", "video/webm", "font/woff", "font/woff2", "application/zip",
    "application/gzip", "application/x-bzip2", "application/x-xz", "application/zstd",
    "application/x-7z-compressed", "application/vnd.rar",
})
# fmt: on
"""Types that deflating does not make smaller."""


class Pair(Struct):
    """A WARC file and its index that are being written. ``name`` is without folder and suffix."""

    name: str
    warc: MarkedFile
    index: MarkedFile
    closed: bool = False
    """By the last ``sync``: takes no more records."""
    file: str = ""
    """The WARC file's final name, with its folder."""
    told: Mapping[str, str] | None = None
    """The settings in its last warcinfo's company; None: this process has written none yet."""
    info_at: int = 0
    """Where that warcinfo stands."""
    info: str = ""
    """Its identifier."""

    def __post_init__(self) -> None:
        self.file = _warc_file(self.name)


class WarcArchive:
    """See ``Archive``. ``info`` and ``settings`` are what each file says of itself in its first records; ``part``: which part of
    a divided crawl writes here."""

    def __init__(
        self,
        root: Path,
        *,
        prefix: str,
        roll_bytes: int,
        info: Mapping[str, str],
        settings: Mapping[str, str],
        part: int,
    ) -> None:
        self._settings = settings
        self._root = root
        self._prefix = prefix
        self._roll_bytes = roll_bytes
        self._part = part
        self._host = re.sub(r"[^A-Za-z0-9._-]", "_", socket.gethostname())[:64] or "localhost"
        self._info = {
            "software": f"flatcrawler/{__version__}",
            "format": "WARC File Format 1.1",
            "conformsTo": "http://iipc.github.io/warc-specifications/specifications/warc-format/warc-1.1/",
            "hostname": self._host,
            **info,
        }
        self._pair: Pair | None = None
        self._begun: str | None = None
        """The name of the last pair that was begun here: perhaps no commit knows it."""
        self._changed = False
        self._rolling = False
        self._serial = 0
        self._retired: set[str] = set()  # and perhaps not deleted yet

    def append(self, lease: Lease, done: Done) -> Kept:
        page = done.page
        pair = self._pair or self._create()
        assert not pair.closed, "append between sync and committed"
        self._changed = True
        file, warc = pair.file, pair.warc
        if pair.told is not self._settings:
            self._describe(pair)
        offset = warc.size
        http, common, identifier = records.http_head(page), records.about(page, pair.info), records.record_id(file, offset)
        if lease.known is not None and (earlier := self._repeated(lease.known, page)):
            of, of_wall, raw = earlier
            digest = records.sha1_text(raw)
            data = records.revisit(page, http, common, identifier, of, of_wall, digest)
            warc.append(gzip_member.deflated_whole(data + records.END))
            end = warc.size
            record = Ref(file, offset, end - offset)
            kept = Kept(record, of, of_wall, unmodified=page.status == 304)
        else:
            digest = records.sha1_text(page.body.sha1)
            for piece in _response(page, records.response(page, http, common, identifier, digest)):
                end = warc.append(piece) + len(piece)
            record = Ref(file, offset, end - offset)
            kept = Kept(record, record, page.fetched_at)
        pair.index.append(cdxj.line(page, record, digest, is_revisit=kept.body is not record))
        if page.request:
            data = records.request(page, common, records.record_id(file, end), identifier)
            warc.append(gzip_member.deflated_whole(data))
        return kept

    def describe(self, settings: Mapping[str, str]) -> None:
        self._settings = settings

    def _describe(self, pair: Pair) -> None:
        """By whom and how what follows is made: at a file's beginning, where another process goes on with it, perhaps of another
        version and with other settings, and where those have changed."""
        settings = self._settings  # read once: a thread may change it meanwhile
        told, pair.told = pair.told, settings
        if settings == told:
            return
        wall, warc, pair.info_at = time.time(), pair.warc, pair.warc.size
        pair.info = records.record_id(pair.file, pair.info_at)
        warc.append(gzip_member.deflated_whole(records.warcinfo(pair.file, pair.info, wall, self._info) + records.END))
        if settings:
            data = records.settings(records.record_id(pair.file, warc.size), pair.info, wall, settings)
            warc.append(gzip_member.deflated_whole(data + records.END))

    def sync(self) -> dict[str, Mark]:
        pair = self._pair
        rolling, self._rolling = self._rolling, False
        if pair is None or not pair.warc.size or not (self._changed or rolling):
            return {}
        pair.warc.sync()
        pair.index.sync()
        pair.closed = rolling or pair.warc.size >= self._roll_bytes
        self._changed = False
        return {
            pair.file: Mark(pair.warc.size, pair.closed),
            _index_file(pair.name): Mark(pair.index.size, pair.closed),
        }

    def committed(self) -> None:
        if self._pair is not None and self._pair.closed:
            name = self._pair.name
            self.close()
            self._finish(name)

    def rewind(self, marks: Mapping[str, Mark]) -> list[str]:
        # 1. Forget what is open. The file begun here may be one that no commit knows.
        before = self._pair
        ours = before.name if before is not None else None
        with suppress(StorageError):  # what its descriptors still held lies behind the mark
            self.close()
        for folder in ("warc", "index"):
            make_dir(self._root / folder)
        # 2. Files that no commit knows go to lost+found, but for our own.
        names = _names_in(marks)
        self._retired = {file for file, mark in marks.items() if mark.retired}
        newest = max(map(_serial, names), default=-1)
        lost = [lose(self._root, path) for name, path in self._uncommitted(newest) if name not in names and name != ours]
        # 3. Files that a commit knows: closed ones are finished, the open one is cut back and continued.
        for name in sorted(names):
            self._restore(name, marks[_warc_file(name)], marks.get(_index_file(name), Mark(0)))
        # 4. Our own that no commit knows is begun again.
        if ours is not None and ours not in names:
            self._open(ours, 0, 0)
            newest = _serial(ours)
        pair = self._pair
        if before is not None and pair is not None and pair.name == ours and before.info_at < pair.warc.size:
            pair.told, pair.info_at, pair.info = before.told, before.info_at, before.info
        self._serial = newest + 1
        return lost

    def cut(self, marks: Mapping[str, Mark]) -> None:
        with suppress(StorageError):  # what its descriptors still held lies behind the mark
            self.close()
        names = _names_in({file: mark for file, mark in marks.items() if not mark.closed})
        for name in {*names, *((self._begun,) if self._begun else ())}:
            for file in (_warc_file(name), _index_file(name)):
                cut_back(self._root / f"{file}{OPEN}", marks.get(file, Mark(0)).length)

    def retire(self, files: Iterable[str]) -> None:
        self._retired = {file for file in {*self._retired, *files} if length_of(self._root / file) >= 0}

    def roll(self) -> None:
        self._rolling = True

    def close(self) -> None:
        pair, self._pair = self._pair, None
        self._changed = False
        if pair is not None:
            try:
                pair.warc.close()
            finally:
                pair.index.close()

    @property
    def buffered(self) -> int:
        pair = self._pair
        return pair.warc.buffered + pair.index.buffered if pair is not None else 0

    def _repeated(self, known: Known, page: Page) -> tuple[Ref, float, bytes] | None:
        """The earlier record that holds this very body, when it was fetched, and its digest."""
        if known.archive is None or known.digest is None or page.truncated:
            return None
        if page.status == 304 and not known.can_be_confirmed:
            return None
        if page.status != 304 and (known.digest != page.body.sha1 or not page.body.size):
            return None
        path = self._root / known.archive.file
        if not is_there(path) or known.archive.file in self._retired:
            return None  # the body must be kept anew
        if page.status != 304 and self._coding_of(known.coding, known.archive) != (page.coding or ""):
            return None
        return known.archive, known.archived_at or known.fetched_at, known.digest

    def _coding_of(self, told: str | None, earlier: Ref) -> str | None:
        """The content codings of the body in a record, by whose head it is read: where a server has begun, or ceased, to say that
        the same bytes are gzip, they are another page. None: it cannot be read."""
        if told is not None:  # to look costs an unchanged page more than all else, and on a slow disk a seek
            return told
        try:
            return ", ".join(codings_at(self._root, earlier))
        except StorageError:
            return None

    def _create(self) -> Pair:
        wall = time.time()
        stamp = time.strftime("%Y%m%d%H%M%S", time.gmtime(wall)) + f"{int(wall * 1000) % 1000:03d}"
        name = f"{self._prefix}-{stamp}-{self._serial:05d}-{part_prefix(self._part, '~')}{self._host}"
        warc = MarkedFile.create(self._root / f"{_warc_file(name)}{OPEN}")
        try:
            index = MarkedFile.create(self._root / f"{_index_file(name)}{OPEN}")
        except StorageError:
            warc.close()
            raise
        self._serial += 1
        self._begun = name
        self._pair = pair = Pair(name, warc, index)
        return pair

    def _open(self, name: str, warc: int, index: int) -> None:
        """Continue a pair from these lengths."""
        file = MarkedFile.open(self._root / f"{_warc_file(name)}{OPEN}", warc)
        try:
            self._pair = Pair(name, file, MarkedFile.open(self._root / f"{_index_file(name)}{OPEN}", index))
        except StorageError:
            file.close()
            raise

    def _restore(self, name: str, warc: Mark, index: Mark) -> None:
        """Bring one committed pair to what its marks say."""
        if warc.retired:
            return
        if not warc.closed:
            self._open(name, warc.length, index.length)
            return
        for file, mark in ((_warc_file(name), warc.length), (_index_file(name), -1 if index.retired else index.length)):
            path, opened = self._root / file, self._root / f"{file}{OPEN}"
            if length_of(opened) >= 0:
                MarkedFile.open(opened, mark).close()
            elif length_of(path) < mark:
                raise missing(path, mark)
        self._finish(name)

    def _finish(self, name: str) -> None:
        """Give a closed pair its names and the index its order, as far as that is not done."""
        warc, index = _warc_file(name), _index_file(name)
        for file in (warc, index):
            opened = self._root / f"{file}{OPEN}"
            if length_of(opened) >= 0:
                if file == index:
                    cdxj.sort(opened)
                rename(opened, self._root / file)

    def _uncommitted(self, newest: int) -> Iterator[tuple[str, Path]]:
        """Files begun after the newest one that a commit names: never renamed, so still ``.open``."""
        for folder, suffix in (("warc", f".warc.gz{OPEN}"), ("index", f".cdxj{OPEN}")):
            with storing(self._root / folder):
                paths = sorted((self._root / folder).glob(f"*{suffix}"))
            for path in paths:
                name = path.name.removesuffix(suffix)
                if _NAME.fullmatch(name) and part_of(f"{folder}/{name}") == self._part and _serial(name) > newest:
                    yield name, path


def _warc_file(name: str) -> str:
    return f"warc/{name}.warc.gz"


def _index_file(name: str) -> str:
    return f"index/{name}.cdxj"


def _names_in(files: Iterable[str]) -> set[str]:
    """The pairs whose WARC files are among these."""
    return {file.removeprefix("warc/").removesuffix(".warc.gz") for file in files if file.startswith("warc/")}


def _serial(name: str) -> int:
    return int(name.split("-", 3)[2])


def _response(page: Page, head: bytes) -> Iterable[bytes]:
    """The member of a response record, in pieces."""
    body = page.body
    if page.coding or page.sniffed in _COMPRESSED:
        return gzip_member.stored(head, chain(body.chunks(gzip_member.STORED_BYTES_MAX), (records.END,)))
    if (whole := body.in_memory()) is not None:
        return (gzip_member.deflated_whole(b"".join((head, whole, records.END))),)
    return gzip_member.deflated(chain((head,), body.chunks(), (records.END,)))


class WarcKind:
    """See ``Kind``."""

    folders = ("warc", "index")
    has_marks = True
    decodes = False

    def writer(
        self, config: ArchiveConfig, root: Path, info: Mapping[str, str], settings: Mapping[str, str], part: int
    ) -> WarcArchive:
        return WarcArchive(root, prefix=config.warc_prefix, roll_bytes=config.roll_size, info=info, settings=settings, part=part)

    def place(self, kept: Kept) -> Place:
        record, body = kept.record, kept.body
        place: Place = {"file": record.file, "offset": record.offset, "length": record.length}
        if body != record:
            place["revisit_of"] = {"file": body.file, "offset": body.offset, "length": body.length}
        return place

    def refs(self, place: Place, body_bytes: int) -> tuple[Ref, Ref] | None:
        if "file" not in place:
            return None
        body = place.get("revisit_of", place)
        return Ref(place["file"], place["offset"], place["length"]), Ref(body["file"], body["offset"], body["length"])

    def is_gone(self, root: Path, marks: Mapping[str, Mark], file: str) -> bool:
        return retired_in(marks)(file)

    def open(self, root: Path, ref: Ref, *, raw: bool) -> BinaryIO:
        return open_record_body(root, ref, raw=raw)

    def checker(self, root: Path, marks: Mapping[str, Mark], findings: Findings) -> WarcChecker:
        return WarcChecker(root, marks, findings)


WARC: Final = WarcKind()
