"""Between a member's RocksDB and the truth. The store decides and collects its writes as ever; they are translated to rows (see
``rows``), made true, and only then written here, unsynced: RocksDB is a working copy.

Invariants. What is written here with a commit is true. A slot's copy may be used again if nobody else has had the slot since, and
every commit of ours is in it: its note says under which epoch it was held, and a count how many commits there are. A database
that has failed over may have forgotten that we got a slot, and have given the same epoch to another; not where it still has a
commit of ours that came later. What is written here ahead of a commit (links that became due) goes with the next one; until
then the notes of its slots are gone. It is in the counts: where one of its slots is lost before, all that is not committed is
made again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

from msgspec import Struct
from rocksdict import WriteBatch

from crawler.core.batch import Prepared
from crawler.core.errors import RemoteError, StorageError
from crawler.core.keys import HOST_BYTES, SLOTS, GroupOf, Share
from crawler.frontier.cluster.rows import FAMILIES, OWN, WORK_FAMILIES, Rows, is_suspect
from crawler.frontier.cluster.truth import NOBODY, Changes, Joined, Row, Truth
from crawler.frontier.parts_reader import total
from crawler.frontier.rocksdb.database import Database, translated
from crawler.frontier.rocksdb.layout import (
    BY_SLOT,
    BY_TIME,
    COPY,
    QUEUE_KEY_BYTES,
    STATE_KEY,
    SUSPECT,
    TIME_BYTES,
    decode_host,
    decode_state,
    slot_range,
)
from crawler.frontier.rocksdb.opening import open_database, read_schema
from crawler.frontier.rocksdb.upstream import Ops, Recorded
from crawler.frontier.store import Counts
from crawler.frontier.suspects import ROBOTS_KEY

COMMITS_KEY: Final = b"commits"
"""How many commits of this member are in this copy."""
GOT_KEY: Final = b"got"
"""After how many commits a slot was got last."""
BOX: Final = "\0box"
SEEDS_ENDED: Final = "\0seeds"
"""Sources of positions that are no lists: a message was taken in; this member has read its lists to their end."""
NOT_OURS: Final = 255
"""In ``Share.owners``: nobody owns the slot, or it is being loaded."""
MEMBERS_MAX: Final = 254
AHEAD_MAX: Final = 10_000
"""Entries written here ahead of a commit: with more they are one."""
AHEAD_BYTES_MAX: Final = 4 << 20
"""The same of what they hold: a page and its link may have 10 KB."""
CLEARED_MAX: Final = 10_000
"""Entries deleted at a time."""


BROUGHT_MEMORY_BYTES: Final = 8 << 20


class Messages(Protocol):
    """What the journal has packed for others."""

    def take(self) -> list[tuple[int, bytes]]:
        """(member, message) of the batch that was appended last."""


class _Sent(Struct):
    """A commit that may be true."""

    commits: int
    ops: Ops
    carried: frozenset[int]


class Mirror:
    """See ``Upstream``. ``joined``: as this process has joined. ``tells_whole``: its counts are the crawl's, not its own.

    The engine thread calls it, but for ``slots`` and ``share``, which others read."""

    def __init__(self, truth: Truth, joined: Joined, group_of: GroupOf | None, *, tells_whole: bool) -> None:
        self.truth: Final = truth
        self.number: Final = joined.number
        self.share: Final = Share(0, bytes((NOT_OURS,)) * SLOTS, joined.secret, group_of)
        self.members: list[int] = [joined.number]
        """By their numbers in ``share.owners``; none at NOT_OURS."""
        self.slots = bytearray(SLOTS)
        self.taken_at = [0.0] * SLOTS
        self.sequence = 0
        self.epochs: dict[int, int] = {}
        """Of the slots that are held here: loaded, and written only here."""
        self.elsewhere: Counts = Counts()
        """What the other nodes have counted."""
        self.messages: Messages | None = None
        self.pending: set[int] = set()
        """Messages taken in that no commit has made true yet."""
        self.gone_messages: frozenset[int] = frozenset()
        """Of these, those that are not ours any more, since this member has joined anew."""
        self.is_sure = True
        """Whether it is known here what is true."""
        self.accused: set[bytes] = set()
        """Visits that may have ended a process, of slots not held here: counted once they are, or told to their owners."""
        self.counted_elsewhere: Final = frozenset(key for key in joined.out_long if key[0] not in joined.held)
        """Visits of this member's last process that those who have taken their slots since have counted."""
        self.tells_whole = tells_whole
        self._joined, self._state, self._commits = joined, joined.state, joined.commits
        self._rows = Rows(self.share.keys_by())
        self._database: Database | None = None
        self._notes: dict[int, bytes] = {}
        self._carried: Ops = {}
        self._carried_bytes = 0
        self._sent: _Sent | None = None
        self._boxes: Sequence[tuple[int, bytes]] = ()
        self._taken: list[int] = []
        self._seeds_ended = False
        self._has_left = False

    # -- opening --------------------------------------------------------------------------------------------------

    def rejoin(self) -> None:
        """StorageError, ``final``: what was committed is not true any more, and more than the working copy goes by it: how far
        lists are read, what was sent. A process that begins goes by what the database has."""
        self._joined = self.truth.join(seeding=False)
        if self._joined.number != self.number or self._joined.commits < self._commits:
            raise StorageError(
                "cluster: the database has lost commits that it had acknowledged, as after a failover without a synchronous "
                "standby: begin this node again, it goes on with what the database has",
                final=True,
            )
        if self.pending:
            self.gone_messages = frozenset(self.pending - self.truth.still_mine(sorted(self.pending)))

    def renew(self) -> None:
        """It is open, which may have taken longer than a lease: what is held from now on."""
        held = self.truth.tick([], wants=False).held
        self.drop([slot for slot, epoch in self.epochs.items() if held.get(slot) != epoch])

    def opened(self, database: Database) -> None:
        self._database = database
        joined, sent = self._joined, self._sent
        if sent is not None and joined.commits == sent.commits and self._copied() == sent.commits - 1:
            self._apply(sent)  # its COMMIT was not answered, but done
        self._sent = None
        self._carried, self._boxes, self._taken, self._seeds_ended = {}, (), [], False
        self._carried_bytes = 0
        is_whole = self._copied() == joined.commits
        self._commits, self._state = joined.commits, joined.state
        self._keep_slots(joined, is_whole)
        self._bring_own(joined)
        self.is_sure = True

    def _copied(self) -> int:
        value = self._base.get("meta", COMMITS_KEY)
        return int.from_bytes(value, "big") if value is not None else 0

    def _apply(self, sent: _Sent) -> None:
        batch = WriteBatch(raw_mode=True)
        for (family, key), value in sent.ops.items():
            if value is None:
                batch.delete(key, self._base.handle(family))
            else:
                batch.put(key, value, self._base.handle(family))
        self._note_commit(batch, sent)
        self._base.write(batch, sync=False)

    def _keep_slots(self, joined: Joined, is_whole: bool) -> None:
        """Of the slots that are still this member's, those whose copy is whole are dealt from; the others are loaded anew."""
        database, meta = self._base, self._base.handle("meta")
        noted = {key[len(COPY)]: value for key, value in database.scan("meta", COPY)}
        is_proved = int.from_bytes(database.get("meta", GOT_KEY) or b"", "big") < joined.commits
        batch = WriteBatch(raw_mode=True)
        self._notes.clear()
        self.epochs.clear()
        for slot, value in noted.items():
            epoch, sequence = _note_of(value)
            is_held = joined.held.get(slot) == epoch + 1
            if not is_whole or not (is_held or is_proved):
                batch.delete(COPY + bytes((slot,)), meta)
                continue
            self.sequence = max(self.sequence, sequence)
            self._notes[slot] = value
            if is_held:
                self.epochs[slot] = epoch + 1
                self._notes[slot] = _note(epoch + 1, sequence)
                batch.put(COPY + bytes((slot,)), self._notes[slot], meta)
        batch.put(COMMITS_KEY, joined.commits.to_bytes(8, "big"), meta)
        if self.epochs:
            batch.put(GOT_KEY, joined.commits.to_bytes(8, "big"), meta)
        database.write(batch, sync=False)
        owners = bytearray(self.share.owners)
        for slot in range(SLOTS):
            is_held = slot in self.epochs
            self.slots[slot] = is_held
            if is_held or owners[slot] == self.share.own:
                owners[slot] = self.share.own if is_held else NOT_OURS
        self.share.owners = bytes(owners)

    def _bring_own(self, joined: Joined) -> None:
        """What only this member writes stands here as it is true."""
        database, meta = self._base, self._base.handle("meta")
        batch = WriteBatch(raw_mode=True)
        for prefix in OWN:
            for key, _ in database.scan("meta", prefix):
                if key not in joined.own:
                    batch.delete(key, meta)
        for key, value in joined.own.items():
            batch.put(key, value, meta)
        if joined.state:
            batch.put(STATE_KEY, joined.state, meta)
        else:
            batch.delete(STATE_KEY, meta)
        database.write(batch, sync=False)

    @property
    def _base(self) -> Database:
        assert self._database is not None
        return self._database

    # -- what a store asks ----------------------------------------------------------------------------------------

    def batch(self) -> Recorded:
        return Recorded(self._base.names)

    def enclose(self, prepared: Prepared) -> None:
        self._boxes = self.messages.take() if self.messages is not None else ()
        self._taken = []
        for admitted in prepared.batch.admitted:
            source, value = admitted.position or ("", b"")
            if source == BOX:
                self._taken.append(int.from_bytes(value, "big"))
            elif source == SEEDS_ENDED:
                self._seeds_ended = True

    def take_in(self, message: int) -> None:
        """The next ``write`` makes this message true as well: it brings no batch."""
        self._taken = [message]

    def is_message(self, source: str) -> bool:
        return source in (BOX, SEEDS_ENDED)

    def refuse_foreign(self, keys: Iterable[bytes]) -> None:
        if any(key[0] not in self.epochs for key in keys):
            raise RemoteError("slots of this node were lost: what is not committed is made again", at_once=True)

    def suspects_held(self, counts: Mapping[bytes, int]) -> dict[bytes, int]:
        held = {key: count for key, count in counts.items() if key.startswith(ROBOTS_KEY) or key[0] in self.epochs}
        self.accused |= counts.keys() - held.keys()
        return held

    def total(self, counts: Counts) -> Counts:
        return total([counts, self.elsewhere]) if self.tells_whole else counts

    # -- what is true, and then here ------------------------------------------------------------------------------

    def write(self, batch: Recorded, *, sync: bool) -> None:
        if self._sent is not None:
            raise RemoteError("whether the last commit is true is not known: it is looked up", at_once=True)
        if not sync and len(self._carried) < AHEAD_MAX and self._carried_bytes < AHEAD_BYTES_MAX:
            self._write_ahead(batch)
            return
        ops = self._carried | batch.ops
        carried = frozenset(self._rows.slots_of(self._carried))
        changes = Changes(self._commits, self._state, boxes=self._boxes, taken=self._taken, seeds_ended=self._seeds_ended)
        touched = self._rows.add(changes, ops)
        changes.slots = {slot: self.epochs.get(slot, -1) for slot in sorted(touched)}
        self.refuse_foreign(bytes((slot,)) for slot in changes.slots)
        sent = _Sent(self._commits + 1, batch.ops, carried)
        self._sent, self.is_sure = sent, False
        self.truth.commit(changes)
        self._note_commit(batch.raw, sent)
        self._base.write(batch.raw, sync=False)
        self._sent, self.is_sure = None, True
        self._commits, self._state = sent.commits, changes.state
        self._carried, self._carried_bytes = {}, 0
        self.pending.difference_update(self._taken)
        self._boxes, self._taken, self._seeds_ended = (), [], False

    def catch_up(self) -> None:
        """What was written ahead is true."""
        if self._carried:
            self.write(self.batch(), sync=True)

    def _write_ahead(self, batch: Recorded) -> None:
        for slot in self._rows.slots_of(batch.ops):
            batch.raw.delete(COPY + bytes((slot,)), self._base.handle("meta"))
        self._base.write(batch.raw, sync=False)
        self._carried |= batch.ops
        self._carried_bytes += sum([len(value) for value in batch.ops.values() if value is not None])

    def _note_commit(self, batch: WriteBatch, sent: _Sent) -> None:
        meta = self._base.handle("meta")
        batch.put(COMMITS_KEY, sent.commits.to_bytes(8, "big"), meta)
        for slot in sent.carried:
            if slot in self._notes:
                batch.put(COPY + bytes((slot,)), self._notes[slot], meta)

    # -- slots that come and go -----------------------------------------------------------------------------------

    @translated
    def kept(self, slots: Mapping[int, int]) -> list[int]:
        """Of slots just got under these epochs, those whose copy here is whole. RemoteError, ``at_once``: something was written
        ahead of a slot that was lost, and is counted."""
        self.refuse_foreign(bytes((slot,)) for slot in self._rows.slots_of(self._carried))
        return [
            slot for slot, epoch in slots.items() if slot in self._notes and _note_of(self._notes[slot])[0] in (epoch - 1, epoch)
        ]

    @translated
    def clear(self, slots: Collection[int], filled: Collection[int] = ()) -> bool:
        """Forget what is here of them: they are about to be loaded. Of those that are ``filled`` pages stand until it is their
        turn (``empty``): whoever reads this node's rows asks for them. True: it is done."""
        base, meta, gone, batch = self._base, self._base.handle("meta"), frozenset(slots), WriteBatch(raw_mode=True)
        for slot in gone:
            self._notes.pop(slot, None)
            batch.delete(COPY + bytes((slot,)), meta)
            if slot not in filled:
                self._empty(batch, slot)
        for family, key in self._scattered(gone):
            batch.delete(key, base.handle(family))
            if len(batch) >= CLEARED_MAX:
                base.write(batch, sync=False)
                batch = WriteBatch(raw_mode=True)
        base.write(batch, sync=False)
        return True

    @translated
    def empty(self, slot: int) -> bool:
        """Of a slot that was cleared nothing is left: its rows come next. True: it is done."""
        batch = WriteBatch(raw_mode=True)
        self._empty(batch, slot)
        self._base.write(batch, sync=False)
        return True

    def _empty(self, batch: WriteBatch, slot: int) -> None:
        for family in BY_SLOT:
            batch.delete_range(*slot_range(slot), self._base.handle(family))

    def _scattered(self, slots: frozenset[int]) -> Iterator[tuple[str, bytes]]:
        """What stands here of these slots among that of others: (family, key)."""
        base = self._base
        for family in BY_TIME:
            yield from ((family, key) for key, _ in base.scan(family) if key[TIME_BYTES] in slots)
        yield from (("robots", key) for key, _ in base.scan("robots") if self._rows.slot("robots", key) in slots)
        yield from (("meta", key) for key, _ in base.scan("meta", SUSPECT) if is_suspect(key) and key[len(SUSPECT)] in slots)

    @translated
    def put(self, table: int, rows: Sequence[Row]) -> int:
        """Rows of a slot that is loaded; the greatest sequence among them."""
        base, batch, sequence = self._base, WriteBatch(raw_mode=True), 0
        handles = {code: base.handle("meta" if name == "suspect" else name) for code, name in FAMILIES[table].items()}
        if table == 0:
            for _, family, key, value in rows:
                batch.put(key, value, handles[family])
        else:
            for _, family, key, value in rows:
                if family == WORK_FAMILIES["queue"]:
                    sequence = max(sequence, int.from_bytes(key[9:QUEUE_KEY_BYTES], "big"))
                elif family == WORK_FAMILIES["due"]:
                    sequence = max(sequence, int.from_bytes(key[17:25], "big"))
                elif family == WORK_FAMILIES["suspect"]:
                    key = SUSPECT + key
                elif family == WORK_FAMILIES["host"] and len(key) == HOST_BYTES and (entry := decode_host(value).ready_key(key)):
                    batch.put(entry, b"", base.handle("ready"))
                batch.put(key, value, handles[family])
        base.write(batch, sync=False)
        return sequence

    @translated
    def take(self, slots: Mapping[int, int], sequence: int, now: float) -> dict[bytes, int]:
        """From now on these slots (with their epochs) are held: all of them is here. Suspects that stand in them."""
        batch, meta = WriteBatch(raw_mode=True), self._base.handle("meta")
        self.sequence = max(self.sequence, sequence)
        owners = bytearray(self.share.owners)
        for slot, epoch in slots.items():
            before = _note_of(self._notes[slot])[1] if slot in self._notes else 0
            self._notes[slot] = _note(epoch, max(sequence, before, self._sequence_now()))
            batch.put(COPY + bytes((slot,)), self._notes[slot], meta)
            self.epochs[slot], self.taken_at[slot], self.slots[slot] = epoch, now, 1
            owners[slot] = self.share.own
        batch.put(GOT_KEY, self._commits.to_bytes(8, "big"), meta)
        self._base.write(batch, sync=False)
        self.share.owners = bytes(owners)
        found = self._base.scan("meta", SUSPECT)
        return {key[len(SUSPECT) :]: int(value) for key, value in found if is_suspect(key) and key[len(SUSPECT)] in slots}

    def _sequence_now(self) -> int:
        return decode_state(self._state).sequence if self._state else 0

    def drop(self, slots: Collection[int]) -> None:
        """These are held no more. Their copies stay."""
        owners = bytearray(self.share.owners)
        for slot in slots:
            self.slots[slot] = 0
            self.epochs.pop(slot, None)
            if owners[slot] == self.share.own:
                owners[slot] = NOT_OURS
        self.share.owners = bytes(owners)

    def route(self, owners: Mapping[int, int]) -> None:
        """Whom to send to what others own: slot → member."""
        others = sorted({owner for owner in owners.values() if owner not in (NOBODY, self.number)})
        if len(others) >= MEMBERS_MAX:
            raise StorageError(f"cluster: more than {MEMBERS_MAX} members: take fewer nodes, or fewer --processes", final=True)
        numbers = {member: number for number, member in enumerate(others, 1)}
        self.members = [self.number, *others]
        self.share.owners = bytes(
            self.share.own if slot in self.epochs else numbers.get(owners.get(slot, NOBODY), NOT_OURS) for slot in range(SLOTS)
        )

    def member_of(self, number: int) -> int:
        """The member that a number in ``share.owners`` stands for."""
        return self.members[number] if number < len(self.members) else NOBODY

    def withdraw(self) -> None:
        """This directory cannot be a member's, after all: the crawl waits for nothing of it."""
        with contextlib.suppress(StorageError):
            self.truth.withdraw()

    def leave(self) -> None:
        if self._has_left:
            return
        self._has_left = True
        try:
            self.truth.leave()
        except StorageError:
            pass  # the leases end by themselves
        finally:
            self.truth.close()


@translated
def bring(path: Path, mirror: Mirror) -> None:
    """The working copy in ``path``, which no process goes on with, in line with what is true: it says how far files are read, and
    after a power cut may be minutes behind. StorageError: it cannot be opened, or is of another crawl."""
    with contextlib.closing(open_database(path, BROUGHT_MEMORY_BYTES)) as database:
        schema = read_schema(database)
        if schema is None or schema.secret != mirror.share.secret:
            raise StorageError(f"{path}: the frontier store is of another crawl", final=True)
        mirror.opened(database)


def _note(epoch: int, sequence: int) -> bytes:
    return epoch.to_bytes(8, "big") + sequence.to_bytes(8, "big")


def _note_of(value: bytes) -> tuple[int, int]:
    return int.from_bytes(value[:8], "big"), int.from_bytes(value[8:], "big")
