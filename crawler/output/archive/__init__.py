"""Where pages are kept: the table of kinds, and what can be asked without knowing the kind.

A new kind is a file with its ``Archive`` and ``Kind`` and a line in ``KINDS``; its name is a value of ``archive`` in
``crawler.config.sections``.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Final

from crawler.config.sections import ArchiveConfig
from crawler.core.errors import StorageError
from crawler.core.model import Mark, Ref
from crawler.output.archive.discard import DISCARD
from crawler.output.archive.files import FILES
from crawler.output.archive.kind import Archive, Checker, Findings, Kept, Kind, Place
from crawler.output.archive.warc import WARC
from crawler.output.file_names import WHOLE, retired_in

KINDS: Final[dict[str, Kind]] = {"warc": WARC, "files": FILES, "discard": DISCARD}
"""By the value of the setting ``archive``."""

FOLDERS: Final = tuple(folder for kind in KINDS.values() for folder in kind.folders)
"""Made in a crawl's directory."""
MARKED_FOLDERS: Final = tuple(folder for kind in KINDS.values() if kind.has_marks for folder in kind.folders)
"""Of these, the ones with files whose lengths are committed."""

_KIND_OF: Final = {kind.folders[0]: kind for kind in KINDS.values() if kind.folders}


def open_archive(
    config: ArchiveConfig,
    root: Path,
    info: Mapping[str, str] | None = None,
    settings: Mapping[str, str] | None = None,
    part: int = WHOLE,
) -> Archive:
    """The archive of the crawl in ``root``; ``rewind`` must come before the first ``append``.

    ``info``: further fields of a WARC file's first record (``operator``, ``robots``, ``http-header-user-agent``, ...);
    ``settings``: those of its second one, without secrets; ``part``: which part of a divided crawl writes it."""
    return KINDS[config.archive].writer(config, root, info or {}, settings or {}, part)


def kind_of(file: str) -> Kind | None:
    """The kind whose records stand in this file; None if it is no archive file."""
    return _KIND_OF.get(file.partition("/")[0])


def place_of(kept: Kept) -> Place:
    """A row's ``archive`` field."""
    return _KIND_OF[kept.record.file.partition("/")[0]].place(kept)


def refs_of(row: Mapping[str, Any]) -> tuple[Ref, Ref] | None:
    """Where the (record, body) of a row stand; None if nothing was kept. StorageError: no kind of archive knows the place."""
    place = row["archive"]
    if place is None:
        return None
    with suppress(KeyError):  # damaged
        for kind in _KIND_OF.values():
            if (refs := kind.refs(place, row["bytes_decoded"])) is not None:
                return refs
    raise StorageError(f"the row of {row['url']} names a place that no archive has: {place}")


def is_gone(root: Path, marks: Mapping[str, Mark], file: str) -> bool:
    """Whether the file that a ``Ref`` names, of a record or of a row, is no longer kept."""
    kind = kind_of(file)
    return retired_in(marks)(file) if kind is None else kind.is_gone(root, marks, file)


def open_body(root: Path, ref: Ref, *, raw: bool = False) -> BinaryIO:
    """The body that ``Kept.body`` names, in bounded memory: decoded, or ``raw`` as it is kept.

    Of a body whose coding is cut or corrupt (its row says so), what can be decoded. StorageError: it is not there."""
    kind = kind_of(ref.file)
    if kind is None:
        raise StorageError(f"{ref.file}: no archive has such a file")
    return kind.open(root, ref, raw=raw)


def decoder_bytes(body: BinaryIO) -> int:
    """Most memory that is taken to decode a body that was opened, once much of it has been read."""
    return int(getattr(getattr(body, "raw", None), "decoder_bytes", 0))


# fmt: off
__all__ = [
    "FOLDERS", "KINDS", "MARKED_FOLDERS", "Archive", "Checker", "Findings", "Kept", "Kind", "Place", "decoder_bytes", "is_gone",
    "kind_of",
    "open_archive", "open_body", "place_of", "refs_of",
]
# fmt: on
