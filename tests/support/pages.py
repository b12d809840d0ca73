"""Pages as a fetch would leave them, a ledger that plays the store's part of a commit, and a crawl without a fetcher."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from crawler.config.sections import ArchiveConfig
from crawler.core import urls
from crawler.core.batch import Admitted, Batch, HostRest, Settled
from crawler.core.model import Done, Input, Known, Lease, Link, Mark
from crawler.core.page import Body, Page
from crawler.frontier import Limits
from crawler.frontier.memory import MemoryStore
from crawler.output.archive import Archive, Kept, open_archive
from crawler.output.final_rows import final_rows
from crawler.output.journal import Journal
from crawler.output.results import Results, row_at, rows

WALL = 1_795_000_000.25


def body_of(root: Path, *chunks: bytes) -> Body:
    (root / "tmp").mkdir(exist_ok=True)
    body = Body(root / "tmp")
    for chunk in chunks:
        body.write(chunk)
    body.seal()
    return body


def links_of(found: Done | Admitted) -> list[Link]:
    """Of an outcome, or of an admission."""
    plain = found.outlinks if isinstance(found, Done) else found.links
    return [*plain, *(found.block.links() if found.block is not None else ())]


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
    page = Page(url=url, headers=headers, body=body, **{"request": request, **head, **sizes, **fields})
    if page.coding is not None and "bytes_decoded" not in fields:
        page.bytes_decoded = sum(map(len, page.pieces()))
    return page


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


class Crawl:
    """The pump in one thread: a store that never fails, and the journal under test."""

    def __init__(self, root, kind="warc", roll_size=1 << 30, store=None):
        self.root, self.store, self.now = root, store or MemoryStore(Limits(depth_limited=True)), 1000.0
        config = ArchiveConfig(archive=kind, roll_size=roll_size)
        self.journal = Journal(open_archive(config, root), Results(root, roll_size))
        self.journal.rewind(self.store.marks())
        self.known = []

    def prepare(self, settled=(), links=(), faults=(), extras=None):
        self.now += 1
        hosts = {one.lease.link.host: HostRest(self.now) for one in settled}
        admitted = Admitted(tuple(links), tuple(faults), extras=extras or {})
        batch = Batch(list(settled), [admitted], hosts, {}, self.now, WALL + self.now)
        return self.store.prepare(batch)

    def commit(self, *args, **named):
        prepared = self.prepare(*args, **named)
        self.known = self.journal.append(prepared)
        self.store.commit(prepared, self.known, self.journal.sync())
        self.journal.committed()

    def claim(self, most=100):
        self.now += 1
        return self.store.claim(most, 100, self.now, {})

    def rows(self):
        return [row for _, row in rows(self.root, self.store.marks())]

    def final(self):
        placed = rows(self.root, self.store.marks())
        return list(final_rows(placed, self.store.lookup, lambda ref: row_at(self.root, ref)))

    def page(self, url, content=b"<p>hello", **fields):
        return page_of(self.root, content, url, **fields)


def seed(url, line, **fields):
    return Link(url, urls.host_key(url), input=Input("list.txt", line), **fields)


def visit(crawl, link, outcome, *, known=None):
    """Admit, claim and settle one link; its Known and the rows of its commit."""
    crawl.commit(links=[link])
    before = len(crawl.rows())
    lease = next(lease for lease in crawl.claim() if lease.link.url == link.url)
    if known is not None:
        lease = Lease(lease.link, lease.key, known=known)
    crawl.commit([Settled(lease, outcome)])
    return crawl.known[0], crawl.rows()[before:]
