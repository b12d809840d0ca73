"""The pump: what decides the next visit, and the only place from which anything is written.

    settle ─▶ open batch ─▶ commit ─▶ refill: claim ─▶ bench ─▶ deal ─▶ take

The laws. A lease is on the bench, out, or in the batch being settled, never in two of them. Dealing decides; it never
waits for the disk. After a failed write everything is cut back to the last commit and the batch's visits count as not
made. Bounds: the bench in links, the batch in outcomes, links and bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from crawler.core.errors import StorageError
from crawler.core.model import Lease
from crawler.core.urls import origin
from crawler.frontier.batch import OpenBatch
from crawler.frontier.committer import Committer, Journal
from crawler.frontier.dealer import Desk
from crawler.frontier.in_flight import Trace
from crawler.frontier.refill import Refill
from crawler.frontier.settling import Settler, asking_host
from crawler.frontier.store import EXPAND, NEW, Prepared, Store
from crawler.frontier.workbench import Workbench
from crawler.policy.politeness import Rests

T = TypeVar("T")

COMMIT_EVERY_S: Final = 0.1


class Frontier(Settler):
    """See the module. ``recover(error)`` waits until a failed write may be tried again, or raises. ``endless``: the crawl does
    not end when nothing waits."""

    def __init__(
        self,
        store: Store,
        bench: Workbench,
        rests: Rests,
        journal: Journal,
        *,
        recover: Callable[[StorageError], Awaitable[None]],
        clock: Callable[[], float],
        wall: Callable[[], float],
        links_max: int,
        trace: Trace | None = None,
        desk: Desk | None = None,
        endless: bool = False,
    ) -> None:
        self._committer = Committer(store, journal)
        super().__init__(bench, Refill(store, self._committer, bench, clock, links_max), rests, clock, trace, desk)
        self._store = store
        self._recover, self._wall, self._endless = recover, wall, endless
        self._closing: OpenBatch | None = None
        self._ended = False
        self._sick: StorageError | None = None
        self.counts = store.stats()
        self.committed_at = self._opened_at = clock()
        self.commit_seconds: Callable[[float], None] = lambda seconds: None

    def __repr__(self) -> str:
        state = "draining" if self.draining else "finished" if self.finished else "open"
        return f"<Frontier {self._bench.waiting} benched, {len(self._out)} out, {len(self._open.settled)} settling, {state}>"

    @property
    def is_backed_up(self) -> bool:
        """Nothing is dealt because one batch is being committed and the next is full."""
        return self._closing is not None and self._open.is_full()

    @property
    def uncommitted_s(self) -> float:
        """How long the oldest outcome or link that is not committed has waited; 0.0 if there is none."""
        return self._clock() - self._begun[0] if self._begun else 0.0

    @property
    def uncommitted_body_bytes(self) -> int:
        """Of bodies on their way into the archive."""
        return self._open.body_bytes + (self._closing.body_bytes if self._closing is not None else 0)

    def _is_stuck(self) -> bool:
        return self._sick is not None or self.is_backed_up

    def drain(self) -> None:
        """Deal nothing more, for good."""
        super().drain()
        self._full.set()

    async def ask(self, question: Callable[..., T], *args: object) -> T:
        """What the store answers, between two of the pump's own calls. Raises StorageError."""
        return await self._committer.on_engine(question, *args)

    # -- the two loops --------------------------------------------------------------------------------------------

    async def pump(self) -> None:
        """Commit and refill until ``end``. Raises StorageError when a promise can no longer be kept. Cancelled, it leaves
        what is not committed unmade."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._commit_loop(), name="commit")
            tasks.create_task(self._refill_loop(), name="refill")

    async def _commit_loop(self) -> None:
        while self._open or not self._ended:
            await self._dirty.wait()
            await _wait(self._full, COMMIT_EVERY_S)
            await self._commit()
            self._check_finished()
            self.deal()

    def end(self) -> None:
        """All visits have ended and no more is admitted: ``pump`` commits what is settled, once more, and returns."""
        self._ended = True
        self._open.is_last = True
        self._dirty.set()
        self._full.set()
        self._refill.wanted.set()

    async def _commit(self) -> None:
        batch, self._open = self._open, OpenBatch()
        self._closing = batch
        if self._trace is not None:
            self._trace.beat()
        self._dirty.clear()
        self._full.clear()
        self._room.set()
        began = self._clock()
        try:
            if self._sick:
                raise self._sick
            prepared = await self._committer.commit(batch.closed(began, self._wall()))
        except StorageError as error:
            await self._cut_back(error)
            if self._store.clock() == began:  # the disk had taken it before it failed
                self._after_commit(batch, None)
            else:
                self._undo(batch)
        else:
            self._after_commit(batch, prepared)
            self.commit_seconds(self.committed_at - began)
        finally:
            self._closing = None

    def _after_commit(self, batch: OpenBatch, prepared: Prepared | None) -> None:
        self.counts = self._store.stats()
        self.committed_at = now = self._clock()
        batch.discard_bodies()
        for host in batch.hosts:
            self._bench.forget(host, now)
        fresh = [] if prepared is None else prepared.fresh
        queued = (link.host for link, new in zip(batch.links(), fresh, strict=False) if new in (NEW, EXPAND))
        self._refill.committed(batch.hosts, queued)
        batch.resolve()
        del self._begun[:1]

    async def _cut_back(self, error: StorageError) -> None:
        """Wait out what is wrong, then go back to the last commit in store and files. Nothing is dealt meanwhile."""
        self.pause("disk")
        self._sick = error
        while self._sick is not None:
            await self._recover(self._sick)
            self._refill.rewound()  # before looking who holds what: a claim under way is void from here on
            held = [lease for lease, _ in self._out.values()] + list(self._bench.leases())
            held += [settled.lease for settled in self._open.settled]
            try:
                await self._committer.rewind([lease for lease in held if lease.key])
                self._sick = None
            except StorageError as again:
                self._sick = again
        self.resume("disk")

    def _undo(self, batch: OpenBatch) -> None:
        """The batch's visits were not made, and will be; its admissions come again with the next batch."""
        batch.discard_bodies()
        for settled in batch.settled:
            if not settled.lease.key:
                self._bench.gate(asking_host(settled.lease.link), False)
        self._open.prepend(batch)
        del self._begun[1:]
        self._dirty.set()

    async def _refill_loop(self) -> None:
        while not self._ended:
            await self._refill.wait()
            if self._sick is None and not self.draining and not self._ended:
                await self._refill_once()
                self.deal()

    async def _refill_once(self) -> None:
        try:
            got = await self._refill.get(max(1, self.room))
        except StorageError as error:
            self._sick = self._sick or error
            self._mark_dirty(urgent=True)
            return
        if got is None:
            return
        down = [(lease, why) for lease in got.leases if (why := lease.down or self._given_up(lease.link.host))]
        self._bench.put(lease for lease in got.leases if not lease.down and not self._given_up(lease.link.host))
        self._settle_down(down)
        for link, record in got.records:
            if self._desk is None or link.host not in self._bench:
                continue
            if record is not None and self._desk.load(origin(link.url), record):
                self._bench.rest(link.host, self._opened_at + self._desk.delay(link))  # it may just have been visited
                self._bench.gate(link.host, False)
            else:
                self._bench.put_first(Lease(self._desk.link(link), b""))
        self._check_finished()

    def _given_up(self, host: str) -> tuple[str, str] | None:
        """(outcome, reason) if a host was given up in a batch that is not committed yet: the store does not know."""
        for batch in (self._open, self._closing):
            if batch is not None and (rest := batch.hosts.get(host)) is not None:
                return rest.down
        return None

    def _check_finished(self) -> None:
        """The crawl is over when the seeds are committed, nothing is out or uncommitted, and nothing waits."""
        busy = self._endless or self.seeding or self._out or self._open or self._closing or self._sick
        if not busy and self.counts.waiting + self.counts.retrying == 0:
            self.finished = True
            self.deal()

    def close(self) -> None:
        """Close the threads and the trace. Everything is committed or given back by now."""
        if self._timer is not None:
            self._timer.cancel()
        self._committer.close()
        if self._trace is not None:
            self._trace.close()


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
