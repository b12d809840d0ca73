"""CDXJ: one index line per response, as cdxj-indexer makes it from the record, and the sorting of a full index.

Invariants: sorting holds no more than RUN_BYTES of lines in memory, and can be done again from any point it was killed at.
"""

from __future__ import annotations

import heapq
import os
import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from json.encoder import encode_basestring_ascii as quoted
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

import orjson

from crawler.core.durable import rename, storing, sync_file
from crawler.core.model import Ref
from crawler.core.page import Page
from crawler.core.text import field_text
from crawler.output.archive.records import LINE_BREAKS, date, lines_of
from crawler.output.archive.surt import surt

RUN_BYTES: Final = 4 << 20
PIECE_BYTES_MIN: Final = 4 << 10
"""Read of each run at a time, however many there are."""

LINE_BYTES_MAX: Final = 1 << 20
"""Of a line that is read at once."""
USUAL_BYTES_MAX: Final = 64
"""Of a Content-Type whose bare type is remembered."""
_DIGITS: Final = {ord(char): None for char in "-:TZ"}
_BARE: Final = re.compile(r"[;\s]")


def line(page: Page, ref: Ref, digest: str, *, is_revisit: bool) -> bytes:
    """The index line of a response or revisit record. ``digest``: the body's, as text. A revisit for a 304 has the status of the
    record that it repeats."""
    stamp = date(page.fetched_at).translate(_DIGITS)
    mime = "warc/revisit" if is_revisit else _mime(page)
    status = None if is_revisit and page.status == 304 else str(page.status)
    said = line_of(Pointer(page.url, stamp, digest, ref.offset, ref.length, mime, status), ref.file)
    return by_head(said) if page.is_by_head else said


def by_head(line: bytes) -> bytes:
    """The line of a response that was asked for by HEAD: no page to be replayed."""
    return line[:-2] + b', "method": "HEAD"}\n'


class Pointer(NamedTuple):
    """What a line says of where a record stands, which one it is, and what it holds."""

    url: str
    stamp: str
    digest: str
    offset: int
    length: int
    mime: str | None
    status: str | None


def line_of(said: Pointer, file: str) -> bytes:
    """The index line that says this of a record in ``file``."""
    fields = f'"mime": {quoted(said.mime)}, ' if said.mime is not None else ""
    status = f'"status": "{said.status}", ' if said.status is not None else ""
    return (
        f'{surt(said.url)} {said.stamp} {{"url": {quoted(said.url)}, {fields}{status}'
        f'"digest": "{said.digest}", "length": "{said.length}", "offset": "{said.offset}", '
        f'"filename": "{file.rpartition("/")[2]}"}}\n'
    ).encode()


def pointer(url: str, date: str, digest: str, offset: int, length: int, http: bytes, *, is_revisit: bool) -> Pointer:
    """As the line of a record has it; ``date`` is the record's, ``http`` the head of the response in it, if it has one."""
    lines = lines_of(http)
    first = next(lines)
    named = (field.partition(b":") for field in lines)
    mime = next((_bare(value) for name, _, value in named if name.lower() == b"content-type"), None)
    status = first.split(b" ", 2)[1].decode("latin-1") if first.count(b" ") else None
    return Pointer(url, date.translate(_DIGITS), digest, offset, length, "warc/revisit" if is_revisit else mime, status)


def read_line(text: bytes) -> tuple[str, Pointer] | None:
    """(file name, what it says) of an index line; None if it is damaged."""
    try:
        key, stamp, fields = text.decode().split(" ", 2)
        said = orjson.loads(fields)
        where, what = (int(said["offset"]), int(said["length"])), (said.get("mime"), said.get("status"))
        place = Pointer(said["url"], stamp, said["digest"], *where, *what)
        return (said["filename"], place) if surt(place.url) == key else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def lines_before(file: BinaryIO, length: int, end: int) -> Iterator[tuple[bytes, tuple[str, Pointer] | None]]:
    """The lines of an index that was ``length`` bytes long when its WARC file was ``end``, each as ``read_line`` has it. Lines of
    later records may follow, or stand between them by now: a full index is sorted. Damaged ones are told within ``length``."""
    at, size = 0, os.fstat(file.fileno()).st_size  # it may grow meanwhile
    while at < size and (text := file.readline(min(size - at, LINE_BYTES_MAX))):
        found = read_line(text)
        if found[1].offset < end if found is not None else at < length:
            yield text, found
        at += len(text)


def _mime(page: Page) -> str | None:
    """The bare type of the first Content-Type field, as the indexer's reader of that line sees it."""
    for name, value in page.headers:
        if len(name) == 12 and name.lower() == b"content-type":
            return _bare_usual(value) if len(value) <= USUAL_BYTES_MAX else _bare(value)
    return None


def _bare(value: bytes) -> str:
    return _BARE.split(field_text(LINE_BREAKS.sub(b" ", value)).strip(), maxsplit=1)[0]


_bare_usual = lru_cache(256)(_bare)


def sort(path: Path, run_bytes: int = RUN_BYTES) -> None:
    """Sort the file's lines bytewise (as ``LC_ALL=C sort``); it is replaced whole, durably, or not at all."""
    runs = path.with_name(path.name + ".runs")
    merged = path.with_name(path.name + ".tmp")
    try:
        with storing(path), path.open("rb") as source, runs.open("w+b") as scratch:
            ends = _write_runs(source, scratch, run_bytes)
            if len(ends) > 1:
                with merged.open("wb") as out:
                    out.writelines(heapq.merge(*_read_runs(scratch.fileno(), ends, run_bytes)))
            sync_file(merged if len(ends) > 1 else runs)
        rename(merged if len(ends) > 1 else runs, path)
    finally:  # half a file is useless
        with storing(runs):
            runs.unlink(missing_ok=True)
            merged.unlink(missing_ok=True)


def _write_runs(source: BinaryIO, scratch: BinaryIO, run_bytes: int) -> list[int]:
    """Sorted runs of the lines, one after the other; where each ends."""
    ends = []
    while lines := source.readlines(run_bytes):
        lines.sort()
        scratch.writelines(lines)
        ends.append(scratch.tell())
    scratch.flush()
    return ends


def _read_runs(fd: int, ends: list[int], run_bytes: int) -> list[Iterator[bytes]]:
    piece_bytes = max(PIECE_BYTES_MIN, run_bytes // len(ends))
    return [_lines(fd, start, end, piece_bytes) for start, end in pairwise([0, *ends])]


def _lines(fd: int, start: int, end: int, piece_bytes: int) -> Iterator[bytes]:
    rest = b""
    while start < end:
        piece = os.pread(fd, min(piece_bytes, end - start), start)
        start += len(piece)
        *whole, rest = (rest + piece).split(b"\n")
        for text in whole:
            yield text + b"\n"
