"""Kept bodies for other programs: as JSON lines with the text or base64, or as files named by their own digest.

Invariants: a body of any size passes through in pieces, and nothing a server sends reaches a path.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeAlias

from crawler.core import exact_json
from crawler.core.durable import is_ours
from crawler.core.sniff import EXTENSIONS, PREFIX_BYTES, sniff
from crawler.core.text import json_text
from crawler.output.results import Row

_BEGUN: Final = ".export-"
_BEGUN_AGAIN_MAX: Final = 10
"""Files that are begun for one body: each other export deletes one at the most."""
PIECE_BYTES: Final = 48 << 10
"""A multiple of three, so that base64 of the pieces is base64 of the whole."""
# fmt: off
FIELDS: Final = (
    "url", "canonical", "outcome", "status", "kind", "mime", "charset", "fetched_at", "truncated", "tag", "input", "listed",
    "extra",
)
# fmt: on
"""Of the row, repeated beside its body."""
ReadText: TypeAlias = Callable[[BinaryIO, str | None, str | None, str | None], tuple[str, Iterator[str]]]
"""A body, its type and charset by the header, and its encoding if that is known → the encoding, and the text in pieces."""
_TEXTUAL: Final = frozenset(("application/json", "application/xhtml+xml", "application/xml", "application/javascript"))


def json_line(row: Row, body: BinaryIO, read_text: ReadText) -> Iterator[bytes]:
    """One line in pieces: the row's fields and ``text``, or ``base64`` where the body is not declared as text. ``encoding`` is
    what the text was decoded by, also where the row does not know it; bytes that are not of it become U+FFFD."""
    fields = {name: row.get(name) for name in FIELDS}
    if not _is_text(row["mime"] or ""):
        yield json_text(exact_json.dumps({**fields, "encoding": None})[:-1]) + b',"base64":"'
        while piece := body.read(PIECE_BYTES):
            yield base64.b64encode(_filled(piece, body))
    else:
        encoding, pieces = read_text(body, row["mime"], row["charset"], row.get("encoding"))
        yield json_text(exact_json.dumps({**fields, "encoding": encoding})[:-1]) + b',"text":"'
        for text in pieces:
            yield _escaped(text)
    yield b'"}\n'


def _is_text(mime: str) -> bool:
    return mime.startswith("text/") or mime in _TEXTUAL or mime.endswith(("+xml", "+json"))


def _filled(piece: bytes, body: BinaryIO) -> bytes:
    """The piece with as many further bytes as make its length a multiple of three, except at the end."""
    while len(piece) % 3 and (more := body.read(3 - len(piece) % 3)):
        piece += more
    return piece


def _escaped(text: str) -> bytes:
    return json.dumps(text)[1:-1].encode()


def clear(directory: Path) -> None:
    """Delete what an export to this directory left that was killed; one that goes on holds a lock on its own. Raises OSError."""
    for left in directory.glob(f"{_BEGUN}*.tmp"):
        with suppress(FileNotFoundError), left.open("rb") as file:
            if _is_locked(file):
                left.unlink()


def _is_locked(file: BinaryIO) -> bool:
    """Whether it is ours alone; never where the file system knows no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False


def _begun(directory: Path) -> BinaryIO:
    """A new file, ours alone. Until it is locked, another export that begins may take it for one that was left."""
    for left in reversed(range(_BEGUN_AGAIN_MAX)):
        file = (directory / f"{_BEGUN}{secrets.token_hex(8)}.tmp").open("xb")  # containers may have one process id
        if is_ours(file, Path(file.name)) or not left:
            break
        file.close()
    return file


def to_file(row: Row, body: BinaryIO, directory: Path) -> dict[str, Any]:
    """Write the decoded body to ``directory/ab/cd/<sha256>.<type>``; the row's fields and the path. Raises OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    digest, prefix = hashlib.sha256(), b""
    with _begun(directory) as file:  # locked until it has its name
        temporary = Path(file.name)
        try:
            while piece := body.read(PIECE_BYTES):
                prefix += piece[: max(0, PREFIX_BYTES - len(prefix))]
                digest.update(piece)
                file.write(piece)
            file.flush()
            name = digest.hexdigest()
            path = Path(name[:2], name[2:4], f"{name}.{EXTENSIONS.get(sniff(prefix, row['mime']) or '', 'bin')}")
            (directory / path).parent.mkdir(parents=True, exist_ok=True)
            temporary.replace(directory / path)
        finally:
            temporary.unlink(missing_ok=True)
    return {**{field: row.get(field) for field in FIELDS}, "path": str(path)}
