"""Is every file of a crawl's directory whole: nothing but records to the last byte? Whoever opens one must be able to read on."""

from __future__ import annotations

import hashlib
import json
import zlib
from pathlib import Path

FOLDERS = ("warc", "index", "results", "files")


def found_whole(root: Path) -> dict[str, bytes]:
    """Every file that a crawl has written, by name; AssertionError if one does not end with a record."""
    found = {}
    for path in sorted(path for folder in FOLDERS for path in (root / folder).rglob("*") if path.is_file()):
        name, data = str(path.relative_to(root)), path.read_bytes()
        found[name] = data
        assert not name.endswith((".runs", ".tmp")), name
        if name.startswith("files/"):
            assert hashlib.sha256(data).hexdigest() == path.name.partition(".")[0], name
        elif name.startswith("warc/"):
            _check_members(name, data)
        else:
            lines = data.split(b"\n")
            assert lines.pop() == b"", f"{name} ends within a line"
            for line in lines:
                json.loads(line if name.startswith("results/") else line.split(b" ", 2)[2])
    return found


def _check_members(name: str, data: bytes) -> None:
    while data:
        member = zlib.decompressobj(31)
        text = member.decompress(data)
        assert member.eof, f"{name} ends within a member"
        assert text.startswith(b"WARC/1.1\r\n") and text.endswith(b"\r\n\r\n"), name
        data = member.unused_data
