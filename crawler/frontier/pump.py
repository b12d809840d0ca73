"""The pump: drives commits and refills of the frontier, and the only place from which anything is written.

    settle ─▶ open batch ─▶ commit ─▶ refill: claim ─▶ bench ─▶ deal ─▶ take

Invariant: after a failed write everything is cut back to the last commit, and the batch's visits count as not made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from math import inf
from typing import TYPE_CHECKING, Final, TypeVar

from msgspec.structs import replace

from crawler.core.batch import Prepared
from crawler.core.errors import RemoteError, StorageError
from crawler.core.model import Lease, Link, Mark
from crawler.core.snapshot import Pause
from crawler.core.urls import origin
from crawler.frontier.batch import Collector, OpenBatch
from crawler.frontier.committer import Committer, Journal
from crawler.frontier.frontier import Frontier
from crawler.frontier.handed import Handed, RobotsGate
from crawler.frontier.holdings import Holdings
from crawler.frontier.host_state import CRASHES_MAX
from crawler.frontier.in_flight import InFlight
from crawler.frontier.refill import CLAIM_LINKS_PER_HOST, Got, Refill
from crawler.frontier.selection import Selection, Step
from crawler.frontier.sifter import Sifter
from crawler.frontier.store import Store
from crawler.frontier.suspects import suspect_key
from crawler.frontier.workbench import Workbench

if TYPE_CHECKING:
    from crawler.frontier.cluster.member import Member
    from crawler.frontier.exchange.intake import Intake

T = TypeVar("T")

COMMIT_EVERY_S: Final = 0.1
"""How long a batch collects that is neither full nor urgent."""
STILL_S: Final = 30.0
"""How long ``between_commits`` waits for a commit to end, where nothing else is said."""
BEAT_EVERY_S: Final = 0.25
LONG_REST_S: Final = 60.0
"""A host that rests longer waits in the store where the bench is full."""
SHORT_REST_S: Final = 1.0
"""The same while workers are idle and hosts in the store are due."""
QUEUE_S_MAX: Final = 300.0
"""So far ahead at most a host is told when its group may have a turn for it: the next run may have shorter pauses."""
ROOM_EVERY_S: Final = 1.0
"""How often such hosts are looked for."""
TURNS: Final = 64
"""If there are none, and others are due, of so many hosts the one that came first goes back instead: its turn is over."""


class Pump:
    """The frontier over a store and a journal. ``clock()`` is crawl-clock time, ``wall()`` wall time; the bench holds
    ``links_max`` links at most. ``visits_max`` and ``on_unfetched`` are the frontier's.

    ``endless``: the crawl does not end when nothing waits. ``intake``: of what the other parts of the crawl send; then it
    ends when nothing waits anywhere. ``member``: as which one of a crawl of many machines; then that says when it ends."""

    def __init__(
        self,
        store: Store,
        bench: Workbench,
        handed: Handed,
        journal: Journal,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
        links_max: int,
        in_flight: InFlight | None = None,
        visits_max: int | None = None,
        on_unfetched: Callable[[str], None] = lambda host: None,
        endless: bool = False,
        intake: Intake | None = None,
        member: Member | None = None,
    ) -> None:
        self._store, self._clock, self._wall = store, clock, wall
        self._politeness, self._robots, self._in_flight, self._endless = handed.politeness, handed.robots, in_flight, endless
        self.intake: Final = intake
        self.member: Final = member
        self.is_idle = False
        """Nothing is out or uncommitted here, and no seeds are still to come."""
        self._batches = Collector()
        self._committer = Committer(store, journal)
        self._refill = Refill(store, self._committer, bench, clock, links_max)
        self.frontier: Final = Frontier(
            bench,
            self._refill,
            self._batches,
            handed,
            clock,
            in_flight=in_flight,
            visits_max=visits_max,
            on_unfetched=on_unfetched,
        )
        self.holdings: Final = Holdings(self.frontier, self._batches)
        self.sifter: Final = Sifter(self.frontier, self._refill, self._batches, handed.exclusion)
        if member is not None:
            self.frontier.deals = member.deals
        self.frontier.counts = store.stats()
        self.committed_at = clock()
        self._opened_at = self.committed_at if store.clock() or member is not None else -inf
        self._recover: Callable[[StorageError], Awaitable[None]]
        self._on_commit: Sequence[Callable[[float], None]] = ()
        self._still = asyncio.Lock()
        """Held by a commit, or by whoever wants none to be under way."""
        self._ended = False
        self._failure: StorageError | None = None
        self._made_room_at = -inf

    @property
    def uncommitted_s(self) -> float:
        """How long the oldest outcome or link that is not committed has waited; 0.0 if there is none."""
        return self._batches.uncommitted_s(self._clock())

    @property
    def threads(self) -> Collection[int]:
        """Native ids of the threads that store and files are written in."""
        return self._committer.threads

    def out_long(self) -> list[bytes]:
        """The keys of visits that have been out for long."""
        return self._in_flight.out_long() if self._in_flight is not None else []

    async def ask(self, question: Callable[..., T], *args: object) -> T:
        """What the store finds, between two of the pump's own calls. Raises StorageError."""
        try:
            return await self._committer.on_engine(question, *args)
        except StorageError:
            if isinstance(self._failure, RemoteError):  # the store is closed as long as the database is away
                raise self._failure.with_traceback(None) from None
            raise

    async def marks(self, folder: str = "") -> Mapping[str, Mark]:
        """How far each file, or each of one folder, is committed. Raises StorageError."""
        return await self.ask(self._store.marks, folder)

    async def between_commits(self, call: Callable[..., T], *args: object, still_s: float = STILL_S) -> T:
        """As ``ask``, while no commit is under way. Raises StorageError, and TimeoutError where one takes longer than
        ``still_s``."""
        if self._failure is not None:
            raise self._failure.with_traceback(None)  # until it is made good a commit is under way
        async with asyncio.timeout(still_s):
            await self._still.acquire()
        try:
            return await self.ask(call, *args)
        finally:
            self._still.release()

    async def revive(self, which: Selection) -> int:
        """Make settled URLs due again; how many. Durable on return. Raises StorageError: some may be."""
        self._revive_hosts(which.hosts)
        return await self._step_by_step(self._store.revive_some, which, revives=True)

    async def remove(self, which: Selection) -> int:
        """Forget settled URLs; how many. As ``revive``."""
        try:
            return await self._step_by_step(self._store.remove_some, which)
        finally:  # some may be, also where it has failed
            if self.member is not None:
                await self.member.has_forgotten()

    async def _step_by_step(self, some: Callable[[Selection, bytes], Step], which: Selection, *, revives: bool = False) -> int:
        """What ``which`` means, in short steps between the pump's own calls; how many URLs. ``revives``: their hosts as well."""
        total, after = 0, b""
        while True:
            try:
                step = await self.ask(some, which, after)
            except StorageError as error:
                self.failed(error)
                raise
            total += step.count
            if revives:
                self._revive_hosts(step.hosts)
            self.frontier.counts = self._store.stats()
            if self._robots is not None:
                for host in step.hosts:
                    self._robots.forgive(host)
            self._refill.committed((), step.hosts)
            if step.after is None:
                return total
            after = step.after

    def _revive_hosts(self, only: Collection[str] | None) -> None:
        """All hosts that were given up, or these of them, are to be tried again; also where the store does not know of it yet."""
        self.frontier.bench.revive(only)
        self._batches.revive(only)

    async def change(self, call: Callable[..., T], *args: object) -> T | None:
        """As ``ask``, for what writes to the store; None where it failed, or something failed before: it is made good first."""
        if self._failure is not None:
            return None
        try:
            done = await self._committer.on_engine(call, *args)
        except StorageError as error:
            self.failed(error)
            return None
        self.frontier.counts = self._store.stats()
        self._refill.restocked()
        return done

    async def run(
        self, recover: Callable[[StorageError], Awaitable[None]], on_commit: Sequence[Callable[[float], None]] = ()
    ) -> None:
        """Commit and refill until ``end``. Raises StorageError when a promise can no longer be kept. Cancelled, it leaves
        what is not committed unmade.

        ``recover(error)`` waits until a failed write may be tried again, or raises; ``on_commit`` are called after each
        commit with the seconds it took."""
        self._recover, self._on_commit = recover, on_commit
        async with asyncio.TaskGroup() as tasks:
            loops = [
                tasks.create_task(self._commit_loop(), name="commit"),
                tasks.create_task(self._refill_loop(), name="refill"),
            ]
            others = [tasks.create_task(self.sifter.run(), name="sift")]
            if self.member is not None:
                others.append(tasks.create_task(self.member.run(self), name="member"))
            if self._in_flight is not None:
                others.append(tasks.create_task(self._beat_loop(self._in_flight), name="heartbeat"))
            if self.intake is not None:
                others.append(tasks.create_task(self.intake.run(self), name="exchange"))
            await asyncio.wait(loops)
            for task in others:
                task.cancel()

    def end(self) -> None:
        """All visits have ended and no more is admitted: ``run`` commits what is settled, once more, and returns."""
        self._ended = True
        self._batches.end()
        self._refill.wanted.set()

    @property
    def has_ended(self) -> bool:
        """Whether nothing more may be admitted."""
        return self._ended

    def close(self) -> None:
        """Close the threads and the trace. Everything is committed or given back by now."""
        self.frontier.close()
        self._committer.close()
        if self._in_flight is not None:
            self._in_flight.close()

    async def _beat_loop(self, in_flight: InFlight) -> None:
        """Also while nothing is committed: how long a visit had been out at the end of the process is told by the last beat."""
        while True:
            in_flight.heartbeat()
            await asyncio.sleep(BEAT_EVERY_S)

    # -- commit ---------------------------------------------------------------------------------------------------

    async def _commit_loop(self) -> None:
        while self._batches.open or not self._ended:
            await self._batches.due(COMMIT_EVERY_S)
            async with self._still:
                await self._commit()
            self._check_finished(committed=True)
            self.frontier.deal()

    async def _commit(self) -> None:
        """Four ends: 1. it has failed, and the disk had taken the batch all the same; 2. it has failed: its visits are not made;
        3. a fault of the program, which ends it; 4. it is committed."""
        batch = self._batches.close()
        began = self._clock()
        try:
            if self._failure:
                raise self._failure
            prepared = await self._committer.commit(batch.closed(began, self._wall()))
        except StorageError as error:
            await self._cut_back(error)
            if self._store.clock() == began:  # 1
                self._after_commit(batch, None)
            else:  # 2
                batch.discard_bodies()
                self.frontier.undone(batch.settled, batch)
                self._batches.undo(batch)
                self.frontier.bench.hold_suspects(self._batches.open.has_suspect)
            if self.member is not None:
                self.member.undone()
        except Exception:  # 3
            self._accuse(batch)
            raise
        else:  # 4
            self._after_commit(batch, prepared)
            for listener in self._on_commit:
                listener(self.committed_at - began)

    def _accuse(self, batch: OpenBatch) -> None:
        """What one of these visits brought cannot be written, and ends the process. If some were suspected before, it is one
        of them: they are visited, and committed, one at a time."""
        if self._in_flight is not None:
            leases = [settled.lease for settled in batch.settled]
            self._in_flight.accuse(map(suspect_key, [lease for lease in leases if lease.suspect] or leases))

    def _after_commit(self, batch: OpenBatch, prepared: Prepared | None) -> None:
        self.frontier.counts = self._store.stats()
        self.committed_at = now = self._clock()
        batch.discard_bodies()
        if batch.has_suspect:
            self.frontier.bench.hold_suspects(self._batches.open.has_suspect)
        unknown = self._batches.open.hosts  # visited again meanwhile: of these the store does not know the last rest yet
        for host in batch.hosts.keys() - unknown.keys():
            self.frontier.bench.forget(host, now, batch.hosts[host].due)
        self._refill.committed(batch.hosts, () if prepared is None else prepared.fed)
        self._refill.robots_queued(batch.robots_hosts())
        if self._robots is not None:
            for host in batch.seed_hosts():  # a person wants something of it; the store has lifted its own verdict
                self._robots.forgive(host)
        batch.resolve()
        self._batches.committed()
        if self._refill.others_wait and self.frontier.room:
            self._give_back(self.frontier.bench.send_home(now + SHORT_REST_S, batch.hosts))

    async def _cut_back(self, error: StorageError) -> None:
        """Wait out what is wrong, then go back to the last commit in store and files. Nothing is dealt meanwhile."""
        self._failure = self._failure or error  # the first tells what is wrong
        self._pause_for(self._failure)
        while self._failure is not None:
            await self._recover(self._failure)
            self._refill.rewound()  # before looking who holds what: a claim under way is void from here on
            held = self.frontier.leases_held() + [settled.lease for settled in self._batches.open.settled]
            try:
                await self._committer.rewind([lease for lease in held if lease.key])
                self._failure = None
                self._refill.wanted.set()
            except StorageError as again:
                self._failure = again
        if self.member is not None:
            self.member.rewound()  # and resumes, if there is anything to deal
        self.frontier.resume(Pause.DISK)

    def _pause_for(self, error: StorageError) -> None:
        self.frontier.pause(Pause.DATABASE if isinstance(error, RemoteError) else Pause.DISK)

    # -- refill ---------------------------------------------------------------------------------------------------

    async def _refill_loop(self) -> None:
        while not self._ended:
            await self._refill.wait(in_vain=self._failure is not None or self.frontier.draining)
            if self._refill.emptying or self.frontier.refusing() is not None:
                await self._batches.room()  # what is settled unfetched goes straight into the batch
            if self._failure is None and not (self.frontier.draining or self.frontier.finished or self._ended):
                self._make_room()
                await self._refill_once()
                self.frontier.deal()

    def _make_room(self) -> None:
        """Where the bench is full, or others wait in the store: hosts that rest for long go back there, or else some that have
        had their turn. Otherwise hosts with rests of hours, or with links without end, would in the end hold all the places."""
        bench, refill, now = self.frontier.bench, self._refill, self._clock()
        if (refill.has_room and not refill.others_wait) or now - self._made_room_at < ROOM_EVERY_S:
            return
        self._made_room_at = now
        soon = now + (SHORT_REST_S if refill.others_wait and self.frontier.room else LONG_REST_S)
        if refill.others_wait:  # or the hosts of a large domain would hold all the places, and rest by turns
            for host, turn in bench.queue_at_groups(now, soon, now + QUEUE_S_MAX, self._politeness.pause):
                self.frontier.rest(host, turn)
        leases = bench.send_home(soon)
        if not leases and refill.others_wait:
            leases = bench.end_turns(len(bench) // TURNS + 1, now)
            refill.make_way(leases)
        self._give_back(leases)

    def _give_back(self, leases: Sequence[Lease]) -> None:
        """Leases that have left the bench unvisited, to the store."""
        for lease in leases:
            self.frontier.give_back(lease)

    async def _refill_once(self) -> None:
        refuses = self.frontier.refusing()
        try:
            got = await self._refill.get(max(1, self.frontier.room), refuses)
        except StorageError as error:
            self.failed(error)
            return
        if got is None:
            return
        if refuses != self.frontier.refusing():  # the settings have changed: what is still excluded is left out when it is dealt
            got.excluded.clear()
        self.frontier.counts = self._store.stats()  # what has become due again waits now
        self._take_in(got)
        for link, record, crashes in got.records:
            if self._robots is not None and link.host in self.frontier.bench and self.frontier.deals(link.host):
                self._take_in_robots(self._robots, link, record, crashes)
        self._check_finished()

    def restocked(self) -> None:
        """The store may have more of any host."""
        self._refill.restocked()

    @property
    def failure(self) -> StorageError | None:
        """What has failed, and is not made good yet."""
        return self._failure

    def failed(self, error: StorageError) -> None:
        """The commit loop cuts back; nothing may be dealt until it has."""
        self._failure = self._failure or error
        self._pause_for(self._failure)
        self._batches.mark_dirty(self._clock(), urgent=True)

    def _take_in(self, got: Got) -> None:
        """Claimed links. Three cases: 1. They are settled at once, where their host was given up meanwhile, their robots rules
        cannot be fetched, or they are excluded. 2. They were claimed for that, but their host is tried again, or they are wanted
        after all: the store has more of the host than there is room for here. 3. They come onto the bench."""
        down: list[tuple[Lease, tuple[str, str]]] = []
        up: list[Lease] = []
        room = {host: max(0, CLAIM_LINKS_PER_HOST - self.frontier.bench.waiting_at(host)) for host in got.sifted}
        for lease in got.leases:
            host = lease.link.host
            if not self.frontier.deals(host):  # its slot has gone meanwhile
                self._refill.give_back(lease)
                continue
            why = lease.down or self._batches.given_up(host) or self.frontier.denial(lease.link)
            if why is None and (why := got.excluded.get(lease.key)) is not None:
                self._refill.sift(host)
            if why is not None:
                down.append((lease, why))
            elif host in got.emptied or room.get(host) == 0:
                self._refill.give_back(lease)
            else:
                if host in room:
                    room[host] -= 1
                up.append(lease)
        self.frontier.bench.put(up)
        for lease in up if self.member is not None else ():  # the rules may be at hand since the host was ours before
            self.frontier.rest(lease.link.host, self.taken_at(lease.link.host) + self._politeness.pause(lease.link))
        self.frontier.settle_unfetched(down)
        self.frontier.denied_while(self._refill.emptying)

    def taken_at(self, host: str) -> float:
        """When, by the crawl clock, a host may just have been visited: by the process before, or by the node that had it."""
        return self._opened_at if self.member is None else max(self._opened_at, self.member.taken_at(host))

    def _take_in_robots(self, robots: RobotsGate, link: Link, record: bytes | None, crashes: int) -> None:
        """What the store kept for a host that waits for its rules: they are fresh, or must be fetched first; but never again
        where that visit has ended the process too often."""
        is_fresh = record is not None and robots.load(origin(link.url), record)
        if record is not None:
            self.frontier.rest(link.host, self.taken_at(link.host) + self._politeness.pause(link))
        if is_fresh:
            return self.frontier.bench.hold_for_robots(link.host, False)
        wanted = robots.link(link)
        lease = Lease(replace(wanted, attempt=wanted.attempt + crashes), b"", suspect=crashes > 0)
        if crashes >= CRASHES_MAX:
            self.frontier.settle_unfetched([(lease, ("skipped", "crashed"))])
        else:
            self.frontier.bench.put_robots_first(lease)

    def _check_finished(self, *, committed: bool = False) -> None:
        """The crawl is over when the seeds are committed, nothing is out or uncommitted, and nothing waits."""
        frontier, batches = self.frontier, self._batches
        is_busy = frontier.seeding or frontier.out_count or batches.open or batches.closing or self._failure
        is_busy = is_busy or (frontier.counts.recrawl and self._refill.is_behind())
        self.is_idle = not is_busy
        is_done = not is_busy and frontier.counts.waiting + frontier.counts.retrying == 0
        if self.intake is not None and self.member is None:
            self.intake.exchange.tell(done=is_done, committed=committed)
        elif is_done and self.member is None:
            self.over()

    @property
    def may_end(self) -> bool:
        """Whether it ends once nothing is left to do, and has not yet."""
        return not (self._endless or self.frontier.finished)

    def over(self) -> None:
        """Nothing is left to do anywhere: it ends, unless it is endless."""
        if not self._endless:
            self.frontier.finish()

    def counted(self) -> None:
        """What others have counted is known anew."""
        self.frontier.counts = self._store.stats()
        self._check_finished()
