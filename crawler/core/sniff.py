"""The type of a body, by its first bytes: a closed table after the WHATWG MIME Sniffing Standard (section 7).

Invariant: the result is always a key of EXTENSIONS or None; a server's header can only choose among the kinds of text that
have no signature of their own.
"""

from __future__ import annotations

import re
from typing import Final

PREFIX_BYTES: Final = 1445
"""Bytes of a decoded body that ``sniff`` looks at (the standard's resource header)."""

EXTENSIONS: Final[dict[str, str]] = {
    "text/html": "html",
    "application/xhtml+xml": "xhtml",
    "text/xml": "xml",
    "application/rss+xml": "rss",
    "application/atom+xml": "atom",
    "image/svg+xml": "svg",
    "application/json": "json",
    "text/plain": "txt",
    "text/css": "css",
    "text/javascript": "js",
    "text/csv": "csv",
    "text/markdown": "md",
    "application/pdf": "pdf",
    "application/postscript": "ps",
    "application/rtf": "rtf",
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/gif": "gif",
    "image/webp": "webp",
    "image/avif": "avif",
    "image/bmp": "bmp",
    "image/tiff": "tif",
    "image/x-icon": "ico",
    "audio/mpeg": "mp3",
    "audio/wav": "wav",
    "audio/flac": "flac",
    "audio/midi": "mid",
    "application/ogg": "ogg",
    "video/mp4": "mp4",
    "video/webm": "webm",
    "video/x-msvideo": "avi",
    "font/woff": "woff",
    "font/woff2": "woff2",
    "font/ttf": "ttf",
    "font/otf": "otf",
    "application/zip": "zip",
    "application/gzip": "gz",
    "application/x-bzip2": "bz2",
    "application/x-xz": "xz",
    "application/zstd": "zst",
    "application/x-7z-compressed": "7z",
    "application/vnd.rar": "rar",
    "application/x-tar": "tar",
    "application/wasm": "wasm",
    "application/vnd.ms-office": "ole",
    "application/vnd.sqlite3": "sqlite",
}
"""Every type ``sniff`` may name, with the file name extension it is kept under."""

_MAGIC: Final[tuple[tuple[int, bytes, str], ...]] = (
    (0, b"%PDF-", "application/pdf"),
    (0, b"%!PS-Adobe-", "application/postscript"),
    (0, b"{\\rtf", "application/rtf"),
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"GIF87a", "image/gif"),
    (0, b"GIF89a", "image/gif"),
    (8, b"WEBPVP8", "image/webp"),
    (4, b"ftypavif", "image/avif"),
    (0, b"BM", "image/bmp"),
    (0, b"II*\0", "image/tiff"),
    (0, b"MM\0*", "image/tiff"),
    (0, b"\0\0\1\0", "image/x-icon"),
    (0, b"\0\0\2\0", "image/x-icon"),
    (0, b"ID3", "audio/mpeg"),
    (8, b"WAVE", "audio/wav"),
    (8, b"AVI ", "video/x-msvideo"),
    (0, b"fLaC", "audio/flac"),
    (0, b"MThd\0\0\0\x06", "audio/midi"),
    (0, b"OggS\0", "application/ogg"),
    (4, b"ftyp", "video/mp4"),
    (0, b"\x1a\x45\xdf\xa3", "video/webm"),
    (0, b"wOFF", "font/woff"),
    (0, b"wOF2", "font/woff2"),
    (0, b"\0\1\0\0\0", "font/ttf"),
    (0, b"OTTO", "font/otf"),
    (0, b"PK\3\4", "application/zip"),
    (0, b"\x1f\x8b\x08", "application/gzip"),
    (0, b"BZh", "application/x-bzip2"),
    (0, b"\xfd7zXZ\0", "application/x-xz"),
    (0, b"\x28\xb5\x2f\xfd", "application/zstd"),
    (0, b"7z\xbc\xaf\x27\x1c", "application/x-7z-compressed"),
    (0, b"Rar!\x1a\x07", "application/vnd.rar"),
    (257, b"ustar", "application/x-tar"),
    (0, b"\0asm", "application/wasm"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "application/vnd.ms-office"),
    (0, b"SQLite format 3\0", "application/vnd.sqlite3"),
)
_AT_START: Final = {
    first: tuple((magic, kind) for start, magic, kind in _MAGIC if start == 0 and magic[0] == first)
    for first in {magic[0] for start, magic, _ in _MAGIC if start == 0}
}
_WITHIN: Final = tuple(entry for entry in _MAGIC if entry[0])
_LETTERS: Final = frozenset({"image/bmp", "audio/mpeg", "font/otf", "application/x-bzip2"})
"""Marked by two to four letters, with which a text may begin as well."""
_RIFF: Final = frozenset({"image/webp", "audio/wav", "video/x-msvideo"})

_TAGS: Final = (
    rb"!DOCTYPE HTML|HTML|HEAD|SCRIPT|IFRAME|H1|DIV|FONT|TABLE|A|STYLE|TITLE|B|BODY|BR|P|META|LINK|UL|NAV|MAIN|SECTION|SPAN"
)
_HTML: Final = re.compile(rb"[\t\n\f\r ]*<(?:!--|(?:" + _TAGS + rb")[\t\n\f\r />])", re.I)
_XML: Final = re.compile(rb"[\t\n\f\r ]*<\?xml[\t\n\f\r ]")
_COMMENT: Final = re.compile(rb"<!--.*?(?:-->|\Z)", re.DOTALL)
_ROOT: Final = re.compile(rb"<(?![?!])(?:[A-Za-z_][\w.-]*:)?([A-Za-z_][\w.-]*)")
_BARE_ROOT: Final = re.compile(rb"[\t\n\f\r ]*<(svg|rss|feed)[\t\n\f\r >]")
_ROOTS: Final = {
    b"html": "application/xhtml+xml",
    b"svg": "image/svg+xml",
    b"rss": "application/rss+xml",
    b"feed": "application/atom+xml",
}
_BINARY: Final = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")
_BOMS: Final = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
_WITH_COMMENTS: Final = frozenset({"text/css", "text/javascript", "text/xml"})
_TEXT_BY_HEADER: Final = {
    "text/html": "text/html",
    "text/css": "text/css",
    "text/csv": "text/csv",
    "text/markdown": "text/markdown",
    "text/javascript": "text/javascript",
    "application/javascript": "text/javascript",
    "application/x-javascript": "text/javascript",
    "application/ecmascript": "text/javascript",
    "application/json": "application/json",
    "application/xhtml+xml": "application/xhtml+xml",
    "application/xml": "text/xml",
    "text/xml": "text/xml",
}


def sniff(prefix: bytes, mime: str | None) -> str | None:
    """The type of the body that begins with ``prefix`` (decoded, the first PREFIX_BYTES); ``mime`` is the header's type.

    None: empty, or binary data of no known kind.
    """
    data = prefix[:PREFIX_BYTES]
    if not data:
        return None
    if (kind := _magic(data)) is not None:
        return kind
    for bom, encoding in _BOMS:
        if data.startswith(bom):
            data = data[len(bom) :].decode(encoding, "replace").encode() or b" "
            break
    bare = _COMMENT.sub(b"", data) if b"<!--" in data else data  # what stands in one begins nothing
    if _HTML.match(bare):
        return "text/html"
    if _XML.match(bare):
        root = _ROOT.search(bare)
        return _ROOTS.get(root[1].lower(), "text/xml") if root else "text/xml"
    if found := _BARE_ROOT.match(bare):
        return _ROOTS[found[1]]
    if _HTML.match(data):  # by a comment, with which others may begin as well
        return named if (named := _text(data, mime)) in _WITH_COMMENTS else "text/html"
    if _BINARY.search(data):
        return None
    return _text(data, mime)


def _magic(data: bytes) -> str | None:
    for magic, kind in _AT_START.get(data[0], ()):
        if data.startswith(magic) and (kind not in _LETTERS or _BINARY.search(data)):
            return kind
    if data[0] == 0x3C:  # "<": nothing that is marked further on begins so
        return None
    for start, magic, kind in _WITHIN:
        if data.startswith(magic, start) and (kind not in _RIFF or data.startswith(b"RIFF")):
            return kind
    return None


def _text(data: bytes, mime: str | None) -> str:
    if mime is not None:
        if named := _TEXT_BY_HEADER.get(mime):
            return named
        if mime.endswith("+json"):
            return "application/json"
        if mime.endswith("+xml"):
            return "text/xml"
    elif data.lstrip()[:1] in (b"{", b"["):
        return "application/json"
    return "text/plain"
