"""What the store tests share: links by name, and a driver that plays the pump in one thread on a clock of its own."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import cast

from msgspec.structs import replace

from crawler.core.batch import Admitted, Batch, HostRest, Prepared, Settled
from crawler.core.keys import Keys, Share
from crawler.core.link_block import LinkBlock, Packer, block_of
from crawler.core.model import EXPANDED, PRIORITY_DEFAULT, Done, Dropped, Known, Lease, Link, Mark, Outcome, Retry
from crawler.core.page import Page
from crawler.core.urls import fingerprint, host_key
from crawler.frontier import Limits, Store, open_store
from crawler.frontier.selection import Selection, in_steps

NO_PAGE = cast(Page, None)
"""A store looks at the page of an outcome only where its content coding is faulty."""

REST = 1.0
NO_LIMITS = Limits(sitemaps=True)


def link(name: str, kind: str = "link", **fields: object) -> Link:
    """``a/1`` is http://a.test/1."""
    host, _, path = name.partition("/")
    url = f"http://{host}.test/{path}"
    return Link(url, host_key(url), kind, **fields)


def done(*outlinks: Link, outcome: str = "ok") -> Done:
    return Done(NO_PAGE, outcome, None, outlinks)


def pack(urls: Sequence[str], keys_by: Keys, page: Link) -> LinkBlock:
    """A block of these URLs, found on a page."""
    packer = Packer(keys_by, with_queries=True)
    packer.add((url, host_key(url)) for url in urls)
    return block_of(packer.take(), page)


def packed(outcome: Outcome, secret: int) -> Outcome:
    """The same, with as many of its last links as a block can hold in one."""
    if not isinstance(outcome, Done):
        return outcome
    links = list(outcome.outlinks)
    last: list[Link] = []
    while links and _fits(links[-1], last):
        last.insert(0, links.pop())
    if not last:
        return outcome
    page = Link(last[0].via or "", "", depth=last[0].depth - 1, tag=last[0].tag, anchor=last[0].anchor)
    block = pack([one.url for one in last], Keys(secret), page)
    assert block.links() == last
    return replace(outcome, outlinks=tuple(links), block=block)


def _fits(link: Link, others: list[Link]) -> bool:
    shared = replace(link, url="", host="")
    if link.via is None or link.anchor is None:
        return False
    is_new = all(link.url != other.url and shared == replace(other, url="", host="") for other in others)
    return link.kind == "link" and link.priority == PRIORITY_DEFAULT and is_new


TIMEOUT = Dropped("timeout", "total_timeout")


class RetryIn(Retry, frozen=True):
    after: float = 0.0


def retry(after: float) -> RetryIn:
    return RetryIn("timeout", "total_timeout", after=after)


def record(lease: Lease, outcome: Outcome, **fields: object) -> Known | None:
    """What the journal would give for it."""
    if isinstance(outcome, Retry) or lease.link.kind in EXPANDED:
        return None
    assert isinstance(outcome, Done | Dropped)
    return Known(lease.link, outcome.outcome, outcome.reason, 200, 5.0, **fields)


def revive(store: Store, *outcomes: str) -> int:
    """URLs that ended so are due again; how many."""
    return in_steps(store.revive_some, Selection(outcomes=frozenset(outcomes)))


class Driver:
    """A store, a clock, and the steps of the pump. ``store`` may be opened anew by ``reopen``."""

    def __init__(
        self, kind: str, path: Path, limits: Limits = NO_LIMITS, now: float = 1000.0, share: Share | None = None
    ) -> None:
        self.kind, self.path, self.limits, self.now, self.share = kind, path, limits, now, share
        self.url: str | None = None
        """Of kind ``cluster``: where its truth is."""
        self.fields: dict[str, object] = {}
        """Further fields of the records of what is settled."""
        self.store = self.open()

    def open(self) -> Store:
        rest = lambda host: REST  # noqa: E731
        if self.kind == "cluster":
            from support.copies import Copy
            from support.postgres import emptied

            self.url = self.url or emptied()
            self.copy = Copy(self.url, self.path, self.limits, self.now, rest, self.share)
            return self.copy.store
        return open_store(self.kind, self.path, self.limits, now=self.now, rest=rest, memory_bytes=8 << 20, share=self.share)

    def reopen(self) -> None:
        self.store.close()
        self.store = self.open()

    def prepare(
        self,
        links: Iterable[Link] = (),
        settled: Iterable[tuple[Lease, Outcome]] = (),
        hosts: Mapping[str, HostRest] | None = None,
        **fields: object,
    ) -> Prepared:
        settled = [
            Settled(lease, outcome, self.now + outcome.after if isinstance(outcome, RetryIn) else 0.0)
            for lease, outcome in settled
        ]
        rests = {one.lease.link.host: HostRest(self.now) for one in settled} if hosts is None else dict(hosts)
        admitted = [Admitted(tuple(links))]
        return self.store.prepare(Batch(settled, admitted, rests, {}, self.now, self.now + 0.5, **fields))

    def make_true(self, prepared: Prepared, marks: Mapping[str, Mark] | None = None) -> None:
        known = [record(settled.lease, settled.outcome, **self.fields) for settled in prepared.batch.settled]
        self.store.commit(prepared, known, marks or {})

    def commit(self, *args: object, **fields: object) -> list[int]:
        """Prepare and commit at once; the verdicts."""
        self.now += 0.001
        prepared = self.prepare(*args, **fields)
        self.make_true(prepared)
        return list(prepared.verdicts)

    def settle(self, lease: Lease, outcome: Outcome, rest: HostRest | None = None) -> list[int]:
        return self.commit((), [(lease, outcome)], None if rest is None else {lease.link.host: rest})

    def by_fingerprint(self, urls: Iterable[str]) -> list[str]:
        """In the order in which the durable store keeps them."""
        secret = self.store.secret()
        return sorted(urls, key=lambda url: fingerprint(host_key(url), secret) + fingerprint(url, secret))

    def claim(self, hosts: int = 100, per_host: int = 100, low: Mapping[str, int] | None = None) -> list[Lease]:
        return self.store.claim(hosts, per_host, self.now, low or {})

    def claim_one(self, name: str) -> Lease:
        """The next link of all, which must be this one."""
        [lease] = self.claim(1, 1)
        assert lease.link.url == link(name).url
        return lease


def names(leases: Iterable[Lease]) -> list[str]:
    """The reverse of ``link``."""
    return [lease.link.url.removeprefix("http://").replace(".test/", "/", 1) for lease in leases]
