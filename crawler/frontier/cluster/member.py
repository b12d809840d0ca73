"""A member's life in the crawl's loop: leases, loading, giving up, messages, and the end of the crawl.

Invariants. After ``until``, by this machine's own monotonic clock, nothing of a slot is dealt, and what is out is broken off,
whether the database responds or not. A slot is dealt from only when all of it is here and no visit of an earlier lease is out.
Owners of slots change between two commits, never within one. The phase of a slot changes on the loop alone, once the engine has
done its part.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

from crawler.core.batch import Admitted
from crawler.core.errors import RemoteError, StorageError
from crawler.core.model import Lease
from crawler.core.snapshot import Pause
from crawler.frontier.cluster.accused import Accused
from crawler.frontier.cluster.box import Outbox, oblivion
from crawler.frontier.cluster.engine import Engine
from crawler.frontier.cluster.gauges import Gauges
from crawler.frontier.cluster.incoming import Incoming
from crawler.frontier.cluster.lessees import Lessee, Lessees
from crawler.frontier.cluster.lost_disks import LostDisks, is_safe
from crawler.frontier.cluster.mirror import SEEDS_ENDED, Mirror
from crawler.frontier.cluster.room import Room
from crawler.frontier.cluster.slots import Phase, Slots
from crawler.frontier.cluster.truth import NOBODY, TICK_EVERY_S_MAX, Row, Tick
from crawler.frontier.parts_reader import total
from crawler.frontier.rocksdb.layout import decode_mark, decode_state
from crawler.frontier.store import Store

if TYPE_CHECKING:
    from crawler.frontier.pump import Pump

SURE: Final = 0.9
"""Of a lease: the rest is for a clock that runs a little slower than the database's."""
STEP_S: Final = 0.05
RECEIVE_EVERY_S: Final = 0.1
END_EVERY_S: Final = 0.2
ADOPTED_MAX: Final = 64
LOAD_ROWS: Final = 5_000
DEAD_ROWS_EVERY_S: Final = 30.0
LAG_BYTES_MAX: Final = 64 << 20
"""Of messages for one member: while it is further behind, nothing is dealt."""

logger: Final = logging.getLogger(__name__)


@runtime_checkable
class WorkingCopy(Store, Protocol):
    """A store whose slots come and go."""

    def slots_changed(self, sequence: int, suspects: Mapping[bytes, int], lost: Collection[int]) -> None: ...


class Member:
    """``on_lost(slots)`` breaks off the visits of slots. ``clock()`` is crawl-clock time. ``parts``: names (of the directories)
    of all members that this node runs as. ``stores``: files are to be stored elsewhere."""

    def __init__(
        self,
        mirror: Mirror,
        store: WorkingCopy,
        outbox: Outbox,
        *,
        node: str,
        parts: Collection[str],
        lease_s: float,
        clock: Callable[[], float],
        stores: bool = False,
    ) -> None:
        self._mirror, self._store, self._outbox = mirror, store, outbox
        self._parts, self._lease_s, self._clock = parts, lease_s, clock
        self._beat_s: Final = min(lease_s / 4, TICK_EVERY_S_MAX)
        """How often it says that it lives. No commit may keep it from that for longer."""
        self._keys_by = mirror.share.keys_by()
        self._engine: Final = Engine()
        self.on_lost: Callable[[Collection[int]], None] = lambda slots: None
        self.gauges: Final = Gauges()
        self._lessees: Final = Lessees(node, mirror.number)
        self._slots: Final = Slots(mirror.epochs)  # its last process had them, and nobody since
        self._owners: dict[int, int] = {}
        self._until = -math.inf
        self._generation = 0
        self._accused = Accused(mirror, store)
        self._incoming: Final = Incoming(mirror, self._engine, self._accused, self.gauges, outbox)
        self._lost_disks = LostDisks(mirror.truth, self._engine)
        self._opened = asyncio.Event()
        self._dead_rows_at = -math.inf
        self._room: Final = Room()
        self._node: Final = node
        self._tells_what_is_left = stores and mirror.tells_whole
        self._has_forgotten = False
        self._others: Sequence[int] = ()
        """Members that live, as of the last tick."""

    # -- what others ask ------------------------------------------------------------------------------------------

    def slot_of(self, lease: Lease) -> int:
        return lease.key[0] if lease.key else self.slot_of_host(lease.link.host)

    def slot_of_host(self, host: str) -> int:
        return self._keys_by.host(host)[0]

    def deals(self, host: str) -> bool:
        """Whether visits of this host may begin."""
        return self._mirror.slots[self.slot_of_host(host)] == 1

    def taken_at(self, host: str) -> float:
        """Crawl clock at which this host was taken over: another may have visited it just before."""
        return self._mirror.taken_at[self.slot_of_host(host)]

    def lessee(self, host: str) -> Lessee | None:
        return self._lessees.of(self.slot_of_host(host))

    def is_lost(self, lease: Lease) -> bool:
        """Whether the slot of this visit is not ours any more: however the visit ends, it does not count here."""
        return not self._slots.is_here(self.slot_of(lease))

    async def opened(self) -> None:
        """Until there is something to crawl for."""
        await self._opened.wait()

    def seeds_ended(self) -> Admitted:
        """What says, with the commit it is in, that this member has read its lists to their end."""
        return Admitted((), position=(SEEDS_ENDED, b""))

    async def has_forgotten(self) -> None:
        """URLs of hosts that are leased here: whoever has sent them here lately is told. Where that cannot be, with the next
        tick."""
        self._outbox.forget()  # perhaps it was from here, before the host was
        self._has_forgotten = True
        if self._others:
            await self._tell_forgotten()

    def look(self) -> Gauges:
        gauges = self.gauges
        gauges.held, gauges.loading = len(self._slots.here()), len(self._slots.wanted)
        gauges.lease_left_s = max(0.0, self._until - self._clock()) if self._slots.all else 0.0
        gauges.links_sent = self._outbox.links_sent
        return gauges

    # -- its life -------------------------------------------------------------------------------------------------

    async def run(self, pump: Pump) -> None:
        """Until cancelled."""
        self._engine.begin(pump)
        self._until = self._clock() + SURE * self._lease_s  # it has just joined; nothing is dealt before the first tick
        pump.frontier.bench.deals_until = -math.inf
        pump.frontier.pause(Pause.DATABASE)
        with ThreadPoolExecutor(1, "loader") as loader:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._guard(), name="lease guard")
                tasks.create_task(self._keep(), name="leases")
                tasks.create_task(self._load_loop(loader), name="slots")
                tasks.create_task(self._receive_loop(), name="messages")
                tasks.create_task(self._end_loop(), name="end")

    @property
    def _pump(self) -> Pump:
        return self._engine.pump

    # -- leases ---------------------------------------------------------------------------------------------------

    async def _guard(self) -> None:
        while True:
            left = self._until - self._clock()
            if left <= 0 and (slots := set(self._slots.all)):
                logger.warning("cluster: the lease of %d slots has run out: what is out of them is broken off", len(slots))
                self._lose(slots)
            await asyncio.sleep(min(max(left, 0.01), 0.1))

    async def _keep(self) -> None:
        while True:
            sent, generation = self._clock(), self._generation
            wants = self._room.wants_slots(self._pump.frontier.pauses, sent)
            tick = await self._engine.ask(self._mirror.truth.tick, self._pump.out_long(), wants)
            if tick is not None and generation == self._generation:
                if not tick.is_member:
                    self._pump.failed(RemoteError("cluster: another process has taken this member's place", at_once=True))
                else:
                    if self._clock() > self._until:  # others may have taken it for dead, and told it nothing
                        self._outbox.forget()
                    self._until = sent + SURE * self._lease_s
                    self._pump.frontier.bench.deals_until = self._until
                    await self._reconcile(tick)
                    self._pace()
            await self._count_dead_rows()
            due = sent + self._beat_s
            while (now := self._clock()) < due:
                await self._settle_slots()
                await asyncio.sleep(min(STEP_S, max(0.0, due - now)))

    async def _count_dead_rows(self) -> None:
        if (now := self._clock()) - self._dead_rows_at >= DEAD_ROWS_EVERY_S:
            self._dead_rows_at = now
            self.gauges.dead_rows = await self._engine.ask(self._mirror.truth.dead_rows) or {}

    async def _reconcile(self, tick: Tick) -> None:
        """Bring the slots held here in line with what the database says."""
        mirror, slots = self._mirror, self._slots
        moved = {slot for slot in slots.all & tick.held.keys() if mirror.epochs.get(slot, tick.held[slot]) != tick.held[slot]}
        self._lose(moved | (slots.all - tick.held.keys()))
        slots.see(tick)
        self._accused.see(tick)
        if unwanted := tick.surplus - slots.here():
            slots.forget(unwanted)
            await self._engine.ask(mirror.truth.release, {slot: tick.held[slot] for slot in sorted(unwanted)})
        self._leave(tick.surplus)
        if stay := slots.stay(tick.surplus):
            await self._deal_again(stay)
        self._see(tick)
        await self._pass_on(tick)
        self._others = [view.number for view in tick.members if view.is_alive and view.number != mirror.number]
        if self._has_forgotten:
            await self._tell_forgotten()
        if self._tells_what_is_left:
            await self._tell_what_is_left(tick)

    async def _deal_again(self, slots: set[int]) -> None:
        """These were to be given up, and are not any more."""
        for slot in slots & self._mirror.epochs.keys():
            self._mirror.slots[slot] = 1
        await self._engine.ask(self._store.slots_changed, 0, {}, ())

    def _see(self, tick: Tick) -> None:
        """Note what the other members lease and have counted, and how far behind they are."""
        self._lessees.see(tick)
        mirror, alive = self._mirror, {view.number for view in tick.members if view.is_alive}
        others = [decode_state(view.state).counts for view in tick.members if view.directory not in self._parts and view.state]
        mirror.elsewhere = total(others)
        self._pump.counted()
        self._lost_disks.told(frozenset(view.number for view in tick.members if view.is_lost))
        mine = tick.boxes.get(mirror.number)
        self.gauges.oldest_message_s = mine.oldest_s if mine is not None else 0.0
        lags = any(box.size > LAG_BYTES_MAX for member, box in tick.boxes.items() if member in alive or member == NOBODY)
        if lags:
            self._pump.frontier.pause(Pause.EXCHANGE)
        elif Pause.EXCHANGE in self._pump.frontier.pauses:
            self._pump.frontier.resume(Pause.EXCHANGE)

    async def _pass_on(self, tick: Tick) -> None:
        """Whom to send to from now on; and messages for nobody, once every slot has an owner."""
        alive = {view.number for view in tick.members if view.is_alive}
        owners = {slot: owner if owner in alive else NOBODY for slot, owner in tick.owners.items()}
        if owners != self._owners and await self._engine.between_commits(self._route, owners, still_s=self._beat_s):
            self._owners = owners
        if self._mirror.accused:
            await self._engine.ask(self._accused.tell, owners)
        if NOBODY not in owners.values() and any(member not in alive for member in tick.boxes):
            await self._engine.ask(self._mirror.truth.adopt, sorted(alive), ADOPTED_MAX)

    async def _tell_what_is_left(self, tick: Tick) -> None:
        """Once: files of processes that this node has no more wait to be stored until it has them again."""
        gone = [view.number for view in tick.members if view.node == self._node and view.directory not in self._parts]
        marks = await self._engine.ask(self._mirror.truth.marks_of, gone)
        if marks is None:
            return
        self._tells_what_is_left = False
        left = [mark.length for mark in map(decode_mark, marks.values()) if mark.length and not is_safe(mark)]
        if left:
            what = f"{len(left)} files ({sum(left) >> 20} MiB) of processes that this node has no more"
            again = len(self._parts) + len(gone)
            logger.warning("cluster: %s are not stored: to have them stored, begin it once with --processes %d", what, again)

    async def _tell_forgotten(self) -> None:
        self._has_forgotten = False
        if await self._engine.ask(self._send_forgotten, self._others) is None:
            self._has_forgotten = True

    def _send_forgotten(self, members: Sequence[int]) -> bool:
        """(Engine.)"""
        for member in members:
            self._mirror.truth.send(member, oblivion())
        return True

    def _route(self, owners: Mapping[int, int]) -> bool:
        self._mirror.route(owners)
        return True

    # -- losing and giving up -------------------------------------------------------------------------------------

    def _lose(self, slots: Collection[int]) -> None:
        """These are not ours any more, from now on."""
        if not slots:
            return
        here = self._slots.lose(slots)
        self._lost_disks.lost(slots)
        for slot in slots:
            self._stop(slot)
        self.gauges.slots_lost += len(here)
        self._pace()
        self._pump.holdings.evict(here, self.slot_of, self.slot_of_host)
        self.on_lost(here)

    def _stop(self, slot: int) -> None:
        self._mirror.slots[slot] = 0
        self._mirror.epochs.pop(slot, None)

    def _leave(self, surplus: Collection[int]) -> None:
        """Nothing more of these is dealt; what is out ends as ever."""
        if slots := self._slots.leave(surplus):
            for slot in slots:
                self._mirror.slots[slot] = 0
            self._pump.holdings.give_back_waiting(slots, self.slot_of_host)

    async def _settle_slots(self) -> None:
        """What was lost leaves the store; what is to be given up is, as soon as nothing of it is out or uncommitted."""
        if gone := sorted(self._slots.dropping):
            dropped = await self._engine.between_commits(self._drop, gone, still_s=self._beat_s)
            if dropped:
                self._slots.dropping.difference_update(gone)
        if leaving := self._slots.at(Phase.LEAVING):
            free = sorted(leaving - self._pump.holdings.slots_out(self.slot_of))
            if free and await self._engine.between_commits(self._release, free, still_s=self._beat_s) is not None:
                self._slots.forget(free)
                self._pace()

    def _drop(self, slots: list[int]) -> bool:
        gone = [slot for slot in slots if slot not in self._slots.all]
        self._mirror.drop(gone)
        self._store.slots_changed(0, {}, gone)
        return True

    def _release(self, slots: list[int]) -> bool:
        self._mirror.catch_up()
        held = {slot: self._mirror.epochs[slot] for slot in slots if slot in self._mirror.epochs}
        self._mirror.drop(slots)
        self._store.slots_changed(0, {}, slots)
        self._mirror.truth.release(held)
        return True

    def rewound(self) -> None:
        """The store was opened anew, and this member has joined anew: what it holds now is known to the mirror alone."""
        mirror, slots = self._mirror, self._slots
        self._generation += 1
        self._owners = {}
        mirror.drop(mirror.epochs.keys() - slots.here())  # visits of these may still be ending
        self._lose(slots.all - mirror.epochs.keys())
        slots.dropping.clear()
        for phase in (Phase.HELD, Phase.LEAVING):
            for slot in slots.at(phase):
                mirror.slots[slot] = phase is Phase.HELD
        self._pace()

    def undone(self) -> None:
        """What was not committed stands in the open batch again."""
        self._incoming.undone()

    def _pace(self) -> None:
        """Without a slot there is nothing to deal; but where none is wanted, it is not the database that is waited for."""
        frontier = self._pump.frontier
        if self._slots.here() or (not self._room.wants and self._pump.failure is None):
            frontier.resume(Pause.DATABASE)
        else:
            frontier.pause(Pause.DATABASE)

    # -- loading --------------------------------------------------------------------------------------------------

    async def _load_loop(self, loader: ThreadPoolExecutor) -> None:
        while True:
            slots = self._slots
            out = self._pump.holdings.slots_out(self.slot_of) if slots.wanted else set()
            wanted = {slot: epoch for slot, epoch in slots.wanted.items() if slot not in out | slots.dropping}
            if wanted and self._pump.failure is None:
                await self._load(wanted, loader)
                self._pace()
            if not self._opened.is_set() and slots.all and not slots.wanted:
                self._opened.set()
            if not await self._search_lost_disks():
                await asyncio.sleep(STEP_S)

    async def _search_lost_disks(self) -> bool:
        """One slot, where none is to be loaded; whether there was any."""
        if not self._lost_disks.members or self._slots.wanted or self._pump.failure is not None:
            return False
        return await self._lost_disks.search(self._held())

    async def _load(self, wanted: Mapping[int, int], loader: ThreadPoolExecutor) -> None:
        """Three cases: 1. the copy of a slot is whole here; 2. there is nothing of it; 3. it is loaded, one slot after the
        other."""
        generation, mirror = self._generation, self._mirror
        kept = await self._engine.ask(mirror.kept, wanted)
        if kept is None or generation != self._generation:
            return
        await self._take({slot: wanted[slot] for slot in kept}, generation, 0)
        missing = sorted(wanted.keys() - set(kept))
        filled = await self._engine.ask(mirror.truth.filled, missing) if missing else None
        if filled is None or not await self._engine.ask(mirror.clear, missing, filled):
            return
        await self._take({slot: wanted[slot] for slot in missing if slot not in filled}, generation, 0)
        for slot in sorted(filled):
            if self._slots.wanted.get(slot) == wanted[slot] and generation == self._generation:
                began = self._clock()
                is_empty = await self._engine.ask(mirror.empty, slot)
                sequence = await self._load_slot(slot, loader) if is_empty else None
                if sequence is None:
                    return
                self.gauges.loads += 1
                self.gauges.load_seconds += self._clock() - began
                await self._take({slot: wanted[slot]}, generation, sequence)
                self._pace()

    async def _load_slot(self, slot: int, loader: ThreadPoolExecutor) -> int | None:
        """The greatest sequence in it; None: it could not be read. What is not read to its end is closed where it is read: that
        may wait for the database as well."""
        rows_of = self._mirror.truth.load(slot, LOAD_ROWS)
        loop, sequence = asyncio.get_running_loop(), 0
        try:
            while (rows := await loop.run_in_executor(loader, _next, rows_of)) is not None:
                greatest = await self._engine.ask(self._mirror.put, *rows)
                if greatest is None or slot not in self._slots.wanted:
                    return None
                sequence = max(sequence, greatest)
        except StorageError as error:
            self._pump.failed(error)
            return None
        finally:
            with contextlib.suppress(StorageError):
                await loop.run_in_executor(loader, rows_of.close)
        return sequence

    async def _take(self, slots: Mapping[int, int], generation: int, sequence: int) -> None:
        """From now on these are dealt from; but those that were lost meanwhile, or are held anew, which are left again."""
        taken = await self._engine.between_commits(self._took, slots, generation, sequence) if slots else None
        for slot in taken or ():
            is_heired = slot in self._slots.heired
            if self._slots.loaded(slot, slots[slot]):
                self.gauges.takeovers += is_heired
            else:
                self._stop(slot)
        if taken:
            self._pump.restocked()

    def _took(self, slots: Mapping[int, int], generation: int, sequence: int) -> list[int]:
        """(Engine.)"""
        own = {slot: epoch for slot, epoch in slots.items() if self._slots.wanted.get(slot) == epoch}
        if generation != self._generation or not own:
            return []
        suspects = self._mirror.take(own, sequence, self._clock())
        self._store.slots_changed(self._mirror.sequence, suspects, own)
        self._accused.took(own)
        return list(own)

    def _held(self) -> set[tuple[int, int]]:
        """(slot, epoch)"""
        epochs = self._mirror.epochs
        return {(slot, epochs[slot]) for slot in self._slots.at(Phase.HELD) if slot in epochs}

    # -- messages, and the end ------------------------------------------------------------------------------------

    async def _receive_loop(self) -> None:
        while True:
            may_receive = not self._pump.frontier.draining and not self._slots.wanted and bool(self._slots.all)
            if not (may_receive and await self._incoming.receive()):
                await asyncio.sleep(RECEIVE_EVERY_S)

    async def _see_the_end(self) -> None:
        """With the last counts of all."""
        tick = await self._engine.ask(self._mirror.truth.tick, [])
        if tick is not None:
            self._see(tick)
            self._pump.frontier.finish()

    async def _end_loop(self) -> None:
        """The crawl is over when, in one snapshot, nobody reads lists, nothing is on its way, and nothing waits."""
        while True:
            if self._may_be_over():
                end = await self._engine.ask(self._mirror.truth.end)
                if end is not None and not end.is_seeding and not end.has_messages:
                    counts = total([decode_state(state).counts for state in end.states if state])
                    if counts.waiting + counts.retrying == 0 and self._may_be_over():
                        await self._see_the_end()
            await asyncio.sleep(END_EVERY_S)

    def _may_be_over(self) -> bool:
        """Whether there is nothing left to do here."""
        is_idle = self._pump.may_end and self._pump.is_idle
        return is_idle and bool(self._slots.all) and not self._slots.wanted and not self._lost_disks.are_left(self._held())


def _next(rows: Iterator[tuple[int, list[Row]]]) -> tuple[int, list[Row]] | None:
    return next(rows, None)
