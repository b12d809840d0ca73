"""Pages as a fetch would leave them, and a ledger that plays the store's part of a commit."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from crawler.archive import Archive, Kept, open_archive
from crawler.config import ArchiveConfig
from crawler.model import Done, Known, Lease, Link, Mark
from crawler.page import Body, Page

WALL = 1_795_000_000.25


def body_of(root: Path, *chunks: bytes) -> Body:
    (root / "tmp").mkdir(exist_ok=True)
    body = Body(root / "tmp")
    for chunk in chunks:
        body.write(chunk)
    body.seal()
    return body


def page_of(
    root: Path,
    content: bytes | Iterable[bytes] = b"<p>hello",
    url: str = "http://www.example.org/a?b=1",
    headers: tuple[tuple[bytes, bytes], ...] = ((b"Content-Type", b"text/html; charset=utf-8"),),
    **fields: Any,
) -> Page:
    body = body_of(root, *((content,) if isinstance(content, bytes) else content))
    head = {"status": 200, "phrase": "OK", "version": "1.1", "ip": "192.0.2.7", "fetched_at": WALL, "sniffed": "text/html"}
    request = b"GET /a?b=1 HTTP/1.1\r\nHost: www.example.org\r\n\r\n"
    sizes = {"bytes_wire": body.size, "bytes_decoded": body.size}
    return Page(url=url, headers=headers, body=body, **{"request": request, **head, **sizes, **fields})


def lease_of(page: Page, known: Known | None = None, **link: Any) -> Lease:
    return Lease(Link(page.url, "www.example.org", **link), b"key", known=known)


class Ledger:
    """An archive and what was committed of it."""

    def __init__(self, root: Path, kind: str = "warc", roll_size: int = 1 << 30) -> None:
        self.root = root
        self.config = ArchiveConfig(archive=kind, roll_size=roll_size)
        self.marks: dict[str, Mark] = {}
        self.archive: Archive
        self.reopen()

    def append(self, page: Page, known: Known | None = None) -> Kept | None:
        return self.archive.append(lease_of(page, known), Done(page, "ok"))

    def commit(self) -> None:
        self.marks |= self.archive.sync()
        self.archive.committed()

    def roll(self) -> None:
        self.archive.roll()
        self.commit()

    def reopen(self) -> list[str]:
        """Begin again from what was committed, as after a kill."""
        if hasattr(self, "archive"):
            self.archive.close()
        self.archive = open_archive(self.config, self.root, {"operator": "tests"})
        return self.archive.rewind(self.marks)

    def files(self, folder: str) -> list[Path]:
        return sorted((self.root / folder).iterdir())

    def read(self, file: str) -> bytes:
        """The committed bytes of a file, by its final name."""
        path = self.root / file
        path = path if path.exists() else path.with_name(path.name + ".open")
        return path.read_bytes()[: self.marks[file].length]


def known_of(page: Page, kept: Kept) -> Known:
    """What the store would know of a page that was kept."""
    link = Link(page.url, "www.example.org")
    at = None if kept.body_at == page.fetched_at else kept.body_at
    return Known(link, "ok", None, page.status, page.fetched_at, kept.body, digest=page.body.sha1, archived_at=at)
