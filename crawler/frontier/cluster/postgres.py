"""The truth on PostgreSQL, by psycopg 3: measured against asyncpg on a commit of 100 pages (23 µs of CPU a page here, 31 there),
and synchronous, as the engine thread that calls it is.

Invariants: a commit is one round trip, and its fence fails by itself. Whatever ends a session ends what it had under way: its
locks are gone within a lease even if the machine is cut off in the middle of it, by the settings of every session. The
password of a URL is in no message.
"""

from __future__ import annotations

import logging
import secrets
import socket
import time
import uuid
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from itertools import islice
from typing import Any, Final, Literal, cast

import psycopg
from psycopg import sql

from crawler.core.errors import ConfigError, RemoteError, StorageError
from crawler.frontier.cluster import schema as tables
from crawler.frontier.cluster.columns import byteas, small_ints
from crawler.frontier.cluster.gauges import TABLES
from crawler.frontier.cluster.session import NOT_OURS, Address, Session, connect, storage_error
from crawler.frontier.cluster.truth import NOBODY, TICK_EVERY_S_MAX, BoxView, Changes, End, Joined, MemberView, Row, RowKey, Tick
from crawler.frontier.rocksdb.layout import POSITION, URL_RULES, file_name

MARK_PREFIX: Final = b"mark:"
LONG_KEY: Final = b"long:"
OWN_KEY_BYTES_MAX: Final = 1024
"""In the table ``own``: its index takes 2.6 KB."""
LOAD_BYTES_MAX: Final = 4 << 20
"""Of rows that are loaded at a time, but for the last of them: a robots record may have 500 KB."""
BEATS_OF_THE_DEAD_MAX: Final = 2
"""What a process sent last may be done after its end."""
LEAVE_S: Final = 3.0
"""How long a database that was lost is waited for to say good-bye, in place of a lease: those end by themselves."""

logger: Final = logging.getLogger(__name__)


def open_crawl(address: Address, lease_s: float, identity: str) -> tuple[str, int]:
    """Make the schema and its tables if they are not there, or migrate them; the identity the crawl was begun with (as text),
    and its secret."""
    with connect(address, max(lease_s, 30.0)) as connection:
        try:
            with connection.transaction():
                connection.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [f"flatcrawler {address.schema}"])
                name = sql.Identifier(address.schema)
                if connection.execute("SELECT to_regnamespace(%s)", [address.schema]).fetchone() == (None,):
                    connection.execute(sql.SQL("CREATE SCHEMA {}").format(name))
                if connection.execute("SELECT to_regclass(%s)", [f"{address.schema}.crawl"]).fetchone() == (None,):
                    connection.execute(tables.TABLES)
                    secret = secrets.token_bytes(8)
                    values = [tables.SCHEMA, identity, secret, URL_RULES]
                    connection.execute("INSERT INTO crawl (schema, identity, secret, url_rules) VALUES (%s, %s, %s, %s)", values)
                found = connection.execute("SELECT schema, identity, secret, url_rules FROM crawl").fetchone()
                if found is None:
                    raise StorageError(f"{address.shown}: the table crawl is empty: the schema is damaged", final=True)
                _migrate(connection, address, int(found[0]), int(found[3]))
        except psycopg.Error as error:
            raise storage_error(address, error) from None
    return str(found[1]), int.from_bytes(found[2], "big")


def _migrate(connection: Session, address: Address, schema: int, url_rules: int) -> None:
    if schema > tables.SCHEMA:
        what = f"was made by a newer version (schema {schema}, this one knows {tables.SCHEMA})"
        raise StorageError(f"{address.shown}: the crawl {what}", final=True)
    if url_rules != URL_RULES:
        what = f"was begun with URL rules {url_rules}, this version has {URL_RULES}: begin another, in another schema"
        raise StorageError(f"{address.shown}: the crawl {what}", final=True)
    while schema < tables.SCHEMA:
        connection.execute(tables.MIGRATIONS[schema])
        schema += 1
        connection.execute("UPDATE crawl SET schema = %s", [schema])


class PostgresTruth:
    """See ``Truth``. ``directory`` is this member's name for ever, ``node`` what its parts have in common."""

    def __init__(self, address: Address, lease_s: float, directory: uuid.UUID, node: uuid.UUID, secret: int) -> None:
        self._address, self._lease_s, self._directory, self._node = address, lease_s, directory, node
        self._secret = secret
        self._connection: Session | None = None
        self._loading: Session | None = None
        self._lost: StorageError | None = None
        """Why the last session has ended. Until this member joins anew no other is begun: what was asked meanwhile would wait for
        a database that is silent, one after the other."""
        self._number = NOBODY
        self._incarnation = 0
        self._joins_unanswered = 0
        self._is_new = False

    # -- sessions -------------------------------------------------------------------------------------------------

    def _session(self) -> Session:
        if self._lost is not None:
            raise self._lost.with_traceback(None)
        if self._connection is None or self._connection.closed:
            try:
                self._connection = connect(self._address, self._lease_s)
            except StorageError as error:
                self._lost = error
                raise
        return self._connection

    def _failed(self, error: psycopg.Error) -> RemoteError | StorageError:
        """A session is not used again after any error but a fence's: nothing is known of what it had under way."""
        failure = storage_error(self._address, error)
        if isinstance(error, NOT_OURS) and self._connection is not None and not self._connection.closed:
            try:
                self._connection.rollback()
            except psycopg.Error:
                self._lose(failure)
        else:
            self._lose(failure)
        return failure

    def _lose(self, why: StorageError) -> None:
        self._lost = why
        self._drop()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _all(self, statement: str, values: Sequence[object] | Mapping[str, object] = ()) -> list[tuple[Any, ...]]:
        try:
            return self._session().execute(statement, values).fetchall()
        except psycopg.Error as error:
            raise self._failed(error) from None

    def _do(self, statement: str, values: Sequence[object] | Mapping[str, object] = ()) -> int:
        try:
            return self._session().execute(statement, values).rowcount
        except psycopg.Error as error:
            raise self._failed(error) from None

    # -- membership -----------------------------------------------------------------------------------------------

    def check_alone(self) -> None:
        """Before the first ``join``, as which no process may be at work. Waits for what the one before said last to grow old.
        ConfigError: it goes on saying that it lives."""
        said: set[object] = set()
        values = {"dir": self._directory, "within": 2 * min(self._lease_s / 4, TICK_EVERY_S_MAX)}
        while found := self._all(tables.SEEN, values):
            said.update(found)
            if len(said) > BEATS_OF_THE_DEAD_MAX:
                raise ConfigError(
                    "cluster: this node is being crawled as by another process, which has this directory too, or a copy of it: "
                    "a node has one directory, and a directory one process; take another --output here"
                )
            time.sleep(0.05)

    def _follow(self, incarnation: int, *, lost: bool) -> None:
        """``incarnation``: of the process that has joined last. Joins of ours may have been made without an answer."""
        if lost:
            raise ConfigError(
                "cluster: this directory was declared lost (crawler cluster lost), and what it held is visited again: "
                "take another --output, or --fresh"
            )
        self._joins_unanswered += 1
        if self._incarnation and incarnation >= self._incarnation + self._joins_unanswered:
            raise StorageError(
                f"{self._address.shown}: another process has joined as this node: it has this directory too, or a copy of it. "
                "What is committed is safe; end one of the two, and begin it again with another --output",
                final=True,
            )

    def join(self, *, seeding: bool) -> Joined:
        self._lost = None
        try:
            connection = self._session()
            with connection.transaction():
                values = {"dir": self._directory, "node": self._node, "name": socket.gethostname(), "seeding": seeding}
                before = connection.execute(tables.BEFORE, values).fetchone()
                if before is not None:
                    self._follow(before[1], lost=before[2])
                row = connection.execute(tables.JOIN, values).fetchone()
                assert row is not None
                self._number, incarnation, commits, state = row
                keep = connection.execute(tables.KEEP, {"lease": self._lease_s, "id": self._number})
                held = {int(slot): int(epoch) for slot, epoch in keep.fetchall()}
                own = connection.execute("SELECT key, value FROM own WHERE member = %s", [self._number]).fetchall()
                states = [bytes(state) for (state,) in connection.execute("SELECT state FROM member").fetchall()]
                ahead_s = _ahead_s(connection)
                left = connection.execute(tables.LEFT, [POSITION, LONG_KEY]).fetchall() if seeding else []
        except psycopg.Error as error:
            raise self._failed(error) from None
        self._incarnation, self._joins_unanswered, self._is_new = incarnation, 0, before is None
        out_long = _keys(before[0]) if before is not None else []
        lost: dict[str, list[bytes]] = {}
        for row in left:
            for key, position in _own_of([row]).items():
                if key.startswith(POSITION):
                    lost.setdefault(file_name(POSITION, key), []).append(position)
        return Joined(self._number, self._secret, commits, bytes(state), _own_of(own), held, ahead_s, out_long, lost, states)

    def ended(self, directory: uuid.UUID) -> Joined | None:
        try:
            connection = self._session()
            with connection.transaction():
                row = connection.execute(tables.ENDED, {"dir": directory}).fetchone()
                if row is None:
                    return None
                own = connection.execute("SELECT key, value FROM own WHERE member = %s", [row[0]]).fetchall()
        except psycopg.Error as error:
            raise self._failed(error) from None
        return Joined(row[0], self._secret, row[1], bytes(row[2]), _own_of(own), held={}, ahead_s=0.0)

    def tick(self, out_long: Sequence[bytes], wants: bool = True) -> Tick:
        who = {"id": self._number, "inc": self._incarnation, "lease": self._lease_s}
        values = who | {"out": list(out_long), "wants": wants}
        try:
            connection = self._session()
            with connection.pipeline():
                held = connection.execute(tables.TICK, values)
                owners = connection.execute(tables.OWNERS)
                members = connection.execute(tables.MEMBERS, {"lease": self._lease_s})
                boxes = connection.execute(tables.BOXES)
                mine = held.fetchall()
                by_slot = {int(slot): int(owner) if owner is not None else NOBODY for slot, owner in owners.fetchall()}
                views = members_of(members.fetchall())
                waiting = boxes_of(boxes.fetchall())
        except psycopg.Error as error:
            raise self._failed(error) from None
        for slot, *_ in mine:  # another snapshot: what is ours by now
            by_slot[slot] = self._number
        if NOBODY in by_slot.values():
            self._end_stalled()
        is_member = any(view.number == self._number and view.incarnation == self._incarnation for view in views)
        return Tick(
            {int(slot): int(epoch) for slot, epoch, *_ in mine},
            frozenset(slot for slot, _, surplus, *_ in mine if surplus),
            {slot: owner for slot, _, _, owner, _ in mine if owner is not None and owner != self._number},
            {slot: _keys(accused) for slot, *_, accused in mine if accused},
            by_slot,
            views,
            waiting,
            is_member=is_member,
        )

    def _end_stalled(self) -> None:
        """Commits that others began more than a lease ago and have not sent to their end: they keep slots that are free."""
        [(ended,)] = self._all(tables.STALLED)
        if ended:
            logger.warning("cluster: a node has stalled in the middle of a commit, which is ended: it kept hosts that are free")

    def release(self, slots: Mapping[int, int]) -> None:
        self._do(tables.RELEASE, {"slots": list(slots), "epochs": list(slots.values()), "id": self._number})

    def leave(self) -> None:
        if self._lost is not None:
            self._lost, self._connection = None, connect(self._address, min(self._lease_s, LEAVE_S))
        own = "SELECT id FROM member WHERE id = %s AND incarnation = %s"
        self._do(f"UPDATE slot SET owner = NULL, until = NULL WHERE owner = ({own})", [self._number, self._incarnation])  # noqa: S608
        gone = "UPDATE member SET here = false, out_long = '{}' WHERE id = %s AND incarnation = %s"
        self._do(gone, [self._number, self._incarnation])

    def withdraw(self) -> None:
        if self._is_new:
            gone = "DELETE FROM member WHERE id = %s AND incarnation = %s AND commits = 0"
            self._do(gone, [self._number, self._incarnation])

    # -- what is true ---------------------------------------------------------------------------------------------

    def commit(self, changes: Changes) -> None:
        mine = {"id": self._number, "inc": self._incarnation}
        try:
            connection = self._session()
            with connection.pipeline():
                run = connection.execute
                run("BEGIN")
                fence = {"state": changes.state, "ended": changes.seeds_ended, "commits": changes.commits}
                run(tables.FENCE_MEMBER, mine | fence)
                if changes.slots:
                    ordered = dict(sorted(changes.slots.items()))
                    slots = {"slots": list(ordered), "epochs": list(ordered.values())}
                    run(tables.FENCE_SLOTS, mine | slots)
                if changes.taken:
                    run(tables.TAKE, mine | {"ids": list(changes.taken)})
                _put(connection, "known", changes.known)
                _delete(connection, "known", changes.known_gone)
                _put(connection, "work", changes.work)
                _delete(connection, "work", changes.work_gone)
                if changes.own:
                    run(tables.PUT_OWN, [self._number, *_columns(sorted(_own_row(*pair) for pair in changes.own))])
                if changes.own_gone:
                    run(tables.DELETE_OWN, [self._number, [_own_row(key, b"")[0] for key in changes.own_gone]])
                if changes.boxes:
                    run(tables.SEND, _columns(changes.boxes))
                run("COMMIT")
        except psycopg.Error as error:
            raise self._failed(error) from None

    def filled(self, slots: Sequence[int]) -> list[int]:
        return [slot for (slot,) in self._all(tables.FILLED, [list(slots)])]

    def load(self, slot: int, rows_max: int) -> Generator[tuple[int, list[Row]], None, None]:
        try:
            if self._loading is None or self._loading.closed:
                self._loading = connect(self._address, self._lease_s, loads=True)
            for table, name in enumerate(("known", "work")):
                statement = (
                    f"COPY (SELECT slot, family, key, value FROM {name} WHERE slot = {int(slot)}) TO STDOUT (FORMAT BINARY)"  # noqa: S608
                )
                with self._loading.cursor() as cursor, cursor.copy(statement) as copy:
                    copy.set_types(["int2", "int2", "bytea", "bytea"])
                    rows = cast(Iterator[Row], copy.rows())
                    while some := _some(rows, rows_max):
                        yield table, some
        except psycopg.Error as error:
            if self._loading is not None:
                self._loading.close()
            raise storage_error(self._address, error) from None

    # -- messages -------------------------------------------------------------------------------------------------

    def receive(self, without: Sequence[int], limit: int) -> list[tuple[int, bytes]]:
        return [(id, bytes(data)) for id, data in self._all(tables.RECEIVE, [self._number, list(without), limit])]

    def still_mine(self, messages: Sequence[int]) -> set[int]:
        asked = "SELECT id FROM box WHERE id = ANY(%s::bigint[]) AND dest = %s"
        return {id for (id,) in self._all(asked, [list(messages), self._number])}

    def adopt(self, alive: Sequence[int], limit: int) -> int:
        return self._do(tables.ADOPT, [self._number, list(alive), limit])

    def send(self, member: int, message: bytes) -> None:
        self._do(tables.SEND, [[member], [message]])

    def marks_of(self, members: Sequence[int]) -> Mapping[bytes, bytes]:
        asked = "SELECT key, value FROM own WHERE member = ANY(%s::int[]) AND substring(key FROM 1 FOR 5) = %s"
        return dict(self._all(asked, [list(members), MARK_PREFIX]))

    def dead_rows(self) -> Mapping[str, int]:
        counts: dict[str, int] = dict(self._all(tables.DEAD_ROWS, [self._address.schema]))
        return {table: counts.get(table, 0) for table in TABLES}

    def end(self) -> End:
        [(seeding, messages, states)] = self._all(tables.END)
        return End(seeding, messages, [bytes(state) for state in states or ()])

    def close(self) -> None:
        self._drop()
        loading, self._loading = self._loading, None
        if loading is not None:
            loading.close()


def members_of(rows: Sequence[tuple[Any, ...]]) -> list[MemberView]:
    return [
        MemberView(number, node, name, seen_ago_s, alive, seeding, lost, bytes(state), incarnation, directory)
        for number, node, name, seen_ago_s, alive, seeding, lost, state, incarnation, directory in rows
    ]


def boxes_of(rows: Sequence[tuple[Any, ...]]) -> dict[int, BoxView]:
    return {int(dest): BoxView(int(count), int(size), float(oldest)) for dest, count, size, oldest in rows}


def _keys(found: Sequence[bytes]) -> list[bytes]:
    return [bytes(key) for key in found]


def _own_row(key: bytes, value: bytes) -> tuple[bytes, bytes]:
    """A key may hold the path of a list, which may be longer than PostgreSQL's index takes: then it stands before the value."""
    if len(key) <= OWN_KEY_BYTES_MAX:
        return key, value
    return LONG_KEY + sha256(key).digest(), len(key).to_bytes(4, "big") + key + value


def _ahead_s(connection: Session) -> float:
    """By how much the database's clock is ahead of this machine's monotonic one. It was read at half the round trip, about."""
    began = time.monotonic()
    row = connection.execute("SELECT extract(epoch FROM clock_timestamp())::float8").fetchone()
    assert row is not None
    return float(row[0]) - (began + time.monotonic()) / 2


def _own_of(rows: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """What stands in such rows."""
    own, long = {}, {}
    for name, value in rows:
        if name.startswith(LONG_KEY):
            end = 4 + int.from_bytes(value[:4], "big")
            long[value[4:end]] = value[end:]
        else:
            own[name] = value
    return own | long


def _columns(rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]


def _some(rows: Iterator[Row], rows_max: int) -> list[Row]:
    """The next ones; none: there are no more."""
    some, left = [], LOAD_BYTES_MAX
    for row in islice(rows, rows_max):
        some.append(row)
        left -= len(row[3])
        if left <= 0:
            break
    return some


def _put(connection: Session, table: Literal["known", "work"], rows: list[Row]) -> None:
    if rows:
        rows.sort()
        slots, families, keys, values = zip(*rows, strict=True)
        connection.execute(
            tables.PUT.format(table=table), [small_ints(slots), small_ints(families), byteas(keys), byteas(values)]
        )


def _delete(connection: Session, table: Literal["known", "work"], keys: list[RowKey]) -> None:
    if keys:
        keys.sort()
        slots, families, names = zip(*keys, strict=True)
        connection.execute(tables.DELETE.format(table=table), [small_ints(slots), small_ints(families), byteas(names)])
