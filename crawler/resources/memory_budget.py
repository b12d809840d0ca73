"""The memory limit divided into named accounts, and admission to those that fill and empty with every visit.

No deadlock: accounts are acquired in the order of VISIT_ACCOUNTS, and none is awaited while a later one is held. ``outcome`` is
emptied by the commit alone, which waits for no account.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import chain
from types import TracebackType
from typing import Final, NamedTuple

from crawler.core.batch import Admitted
from crawler.core.model import Done, text_bytes
from crawler.core.waiting import Waiting
from crawler.resources.memory_plan import (
    HEAD_COPIES,
    LINK_BYTES,
    VISIT_ACCOUNTS,
    Plan,
    reading_bytes,
)

LATER: Final = {name: VISIT_ACCOUNTS[at:] for at, name in enumerate(VISIT_ACCOUNTS)}
"""What may not be held when an account is taken: itself, and those behind it."""
HEADS_WAITING_SHARE: Final = 0.25
"""Of all visits: no more of them wait for room for a long head."""
OUTCOME_BYTES: Final = 2048
FIELD_BYTES: Final = 192
"""A header field of a page, without its text."""


class Use(NamedTuple):
    """An account at this moment: bytes it may use, bytes it uses, and how often somebody has had to wait for it."""

    budget: int
    used: int
    waits: int


class Reservation:
    """Bytes taken from an account, given back by ``release`` or at the end of a ``with``; twice does no harm."""

    __slots__ = ("_account", "bytes")

    def __init__(self, account: Account, size: int) -> None:
        self._account = account
        self.bytes = size

    def shrink(self, size: int) -> None:
        """Keep only so much, now that it is known."""
        if (freed := self.bytes - size) > 0:
            self.bytes = size
            self._account.give(freed)

    def release(self) -> None:
        if size := self.bytes:
            self.bytes = 0
            self._account.give(size)

    def __enter__(self) -> Reservation:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()


LARGE_BYTES: Final = 8 << 20
"""A reservation beyond it is a large one. That of an ordinary page is 4 MiB while it is parsed, for a reply that few need."""
AHEAD: Final = 8
"""A large document is overtaken by some thirty ordinary ones, which take about as long together."""


class Account:
    """``bytes_max`` to reserve from, in the order of ``Waiting``."""

    def __init__(self, name: str, bytes_max: int) -> None:
        self.name = name
        self.bytes_max = bytes_max
        self.used = 0
        self.waits = 0
        self._waiting: Waiting[asyncio.Future[None]] = Waiting(LARGE_BYTES, AHEAD)

    def __repr__(self) -> str:
        return f"<{self.name} {self.used} of {self.bytes_max} bytes, {self._waiting.count} waiting>"

    @property
    def waiting_count(self) -> int:
        return self._waiting.count

    def take_now(self, size: int) -> Reservation | None:
        """As ``take``, if nobody must wait."""
        size = min(size, self.bytes_max)
        if self._waiting.count or self.used + size > self.bytes_max:
            return None
        self.used += size
        return Reservation(self, size)

    async def take(self, size: int) -> Reservation:
        """Wait until there is room. One reservation larger than the account counts, and waits, as the whole account."""
        if (reservation := self.take_now(size)) is not None:
            return reservation
        turn = self.queue(size)
        try:
            await turn
        except asyncio.CancelledError:
            self.leave(turn, size)
            raise
        return Reservation(self, min(size, self.bytes_max))

    def queue(self, size: int) -> asyncio.Future[None]:
        """A place in the queue: when it is done, ``size`` is taken. It must be left if it is wanted no longer."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(min(size, self.bytes_max), turn)
        self.give(0)  # it may stand before larger ones
        self.waits += not turn.done()
        return turn

    def leave(self, turn: asyncio.Future[None], size: int) -> None:
        """Give up a place in the queue, or what was taken by it."""
        if turn.done() and not turn.cancelled():
            self.give(min(size, self.bytes_max))
        else:
            turn.cancel()
            self.give(0)  # smaller ones may have stood behind it

    def give(self, size: int) -> None:
        self.used -= size
        while self._waiting.count:
            wanted, turn = self._waiting.first
            if not turn.cancelled():
                if self.used + wanted > self.bytes_max:
                    return
                self.used += wanted
                turn.set_result(None)
            self._waiting.pop()


class VisitMemory:
    """What one visit holds, or one after the other. See ``Budget.visit``.

    What every visit takes, room for connection and body, is two plain numbers: most visits make no reservation but the last."""

    __slots__ = (
        *("_accounts", "_body", "_body_account", "_body_bytes", "_budget", "_connection", "_connection_account"),
        *("_give_up", "_held", "_turn", "_waiting_max", "has_no_room"),
    )

    def __init__(self, budget: Budget, waiting_max: int, give_up: Callable[[], object] | None) -> None:
        self._waiting_max, self._give_up = waiting_max, give_up
        self.has_no_room = False
        """It was given up: too many others wait for the same."""
        self._budget, self._body_bytes = budget, budget.plan.body_bytes
        self._accounts = accounts = budget._accounts
        self._connection_account, self._body_account = accounts["connection"], accounts["body"]
        self._connection = self._body = 0  # bytes taken from these two
        self._held: dict[str, Reservation] = {}
        self._turn: tuple[asyncio.Future[None], int] | None = None  # in the queue for a long head

    def begin(self) -> bool:
        """Take what every visit takes, if nobody must wait for it; else ``wait``. ``release`` at the end."""
        assert not self._connection and not self._body and not self._held, "one visit at a time"
        self.has_no_room = False
        connection, body = self._connection_account, self._body_account
        connection_bytes = self._budget.connection_bytes
        if (
            connection.used + connection_bytes > connection.bytes_max
            or body.used + self._body_bytes > body.bytes_max
            or connection._waiting.count
            or body._waiting.count
        ):
            return False
        connection.used += connection_bytes
        body.used += self._body_bytes
        self._connection, self._body = connection_bytes, self._body_bytes
        return True

    async def wait(self) -> None:
        """The same as soon as there is room."""
        try:
            self._connection = (await self._connection_account.take(self._budget.connection_bytes)).bytes
            self._body = (await self._body_account.take(self._body_bytes)).bytes
        except BaseException:
            self.release()
            raise

    async def __aenter__(self) -> VisitMemory:
        if not self.begin():
            await self.wait()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()

    def _check(self, name: str) -> None:
        held = self._held
        if held:
            for other in LATER[name]:
                assert other not in held or not held[other].bytes, f"{name} after {other}"

    def head(self, size: int, granted: Callable[[], None]) -> bool:
        """Room for a head of up to ``size`` bytes, which is no ordinary one: whether it is there now. If not, ``granted`` is
        called when it is; a response is received by callbacks, which cannot wait. The visit is given up where so many wait
        already that few visits would be left for other hosts: a server that stalls within a long head keeps its room until the
        deadline."""
        self._check("head")
        account, size = self._accounts["head"], HEAD_COPIES * size
        if (reservation := account.take_now(size)) is not None:
            self._held["head"] = reservation
            return True
        if self._give_up is not None and account.waiting_count >= self._waiting_max:
            self.has_no_room = True
            self._give_up()
            return False
        turn = account.queue(size)
        self._turn = turn, size

        def taken(_: asyncio.Future[None]) -> None:
            if self._turn is not None and self._turn[0] is turn:  # else it was left
                self._turn = None
                self._held["head"] = Reservation(account, min(size, account.bytes_max))
                granted()

        turn.add_done_callback(taken)
        return False

    @property
    def has_long_head(self) -> bool:
        """Memory was taken for one: ``received`` must be told how much it needs."""
        return bool(self._held)

    def received(self, memory_bytes: int, head_bytes: int = 0) -> None:
        """The response is here: its connection is free, its body holds ``memory_bytes`` (the rest is on disk), its head
        ``head_bytes``."""
        self._connection_account.give(self._connection)
        self._connection = 0
        if (freed := self._body - memory_bytes) > 0:
            self._body = memory_bytes
            self._body_account.give(freed)
        if self._held and (head := self._held.get("head")) is not None:
            head.shrink(HEAD_COPIES * head_bytes)

    async def decode(self, size: int) -> Reservation:
        """For a decoder and what it needs; to be released when that is gone (``with await visit.decode(n):``)."""
        self._check("parse")
        account = self._accounts["parse"]
        self._held["parse"] = reservation = account.take_now(size) or await account.take(size)
        return reservation

    async def parse(self, input_bytes: int, outlinks: int, decoder_bytes: int) -> Reservation:
        """For a document of so many decoded bytes and at most so many links, which a decoder of ``decoder_bytes`` undoes first;
        to be released when what was found in it is held no longer."""
        return await self.decode(reading_bytes(input_bytes, outlinks, decoder_bytes))

    async def outcome(self, size: int) -> Reservation:
        """For an outcome and what it holds in memory: body, headers, outlinks. It outlives the visit; the commit releases it."""
        return self.outcome_now(size) or await self._accounts["outcome"].take(size)

    def outcome_now(self, size: int) -> Reservation | None:
        """The same, if nobody must wait for it."""
        self._check("outcome")
        return self._accounts["outcome"].take_now(size)

    def release(self) -> None:
        if self._turn is not None:
            (turn, size), self._turn = self._turn, None
            self._accounts["head"].leave(turn, size)
        if self._connection:
            self._connection_account.give(self._connection)
            self._connection = 0
        if self._body:
            self._body_account.give(self._body)
            self._body = 0
        if self._held:
            for reservation in self._held.values():
                reservation.release()
            self._held.clear()


class Budget:
    """The accounts of one crawl. Those that are fixed are bounded by the parts themselves; ``measure`` says by what to
    read how much of one is used."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.connection_bytes = plan.connection_bytes
        """Each visit that begins takes so much for its connection; a proxy may be named while the crawl runs."""
        self._accounts = {name: Account(name, plan.accounts[name]) for name in VISIT_ACCOUNTS}
        self._measures: dict[str, Callable[[], int]] = {}

    def __repr__(self) -> str:
        return f"<Budget {', '.join(f'{a.name} {a.used}/{a.bytes_max}' for a in self._accounts.values())}>"

    def account(self, name: str) -> Account:
        """One of VISIT_ACCOUNTS."""
        return self._accounts[name]

    @property
    def waiting_count(self) -> int:
        """Visits that wait for room in some account."""
        return sum(account.waiting_count for account in self._accounts.values())

    def measure(self, name: str, used: Callable[[], int]) -> None:
        assert name in self.plan.accounts, name
        self._measures[name] = used

    def visit(self, give_up: Callable[[], object] | None = None) -> VisitMemory:
        """Room for one visit after the other, each with its worst case of connection and body reserved: ``begin``, or ``wait``
        where that says no, and ``release`` at the end (``async with`` does the same). Nobody waits while fewer than
        ``plan.visits_max`` are out. ``give_up()`` ends the visit as one that was not made."""
        waiting_max = max(1, int(self.plan.visits_max * HEADS_WAITING_SHARE))
        return VisitMemory(self, waiting_max, give_up)

    async def links(self, admitted: Admitted) -> Reservation:
        """For links that are admitted by themselves; the commit releases it."""
        lines = LINK_BYTES * (len(admitted.links) + len(admitted.faults)) + admitted.text_bytes
        account, size = self._accounts["outcome"], lines + (admitted.block.size if admitted.block is not None else 0)
        return account.take_now(size) or await account.take(size)

    def uses(self) -> dict[str, Use]:
        """Every account by name, for the gauges."""
        found = {}
        for name, size in self.plan.accounts.items():
            account = self._accounts.get(name)
            used = account.used if account else self._measures[name]() if name in self._measures else 0
            found[name] = Use(size, used, account.waits if account else 0)
        return found


def weight(done: Done) -> int:
    """About what an outcome holds in memory until it is committed, bytes."""
    page = done.page
    head = head_bytes(page.headers) + len(page.request)
    told = (page.phrase, page.mime, page.charset, done.robots)  # by the head, which may have no more than that
    texts = text_bytes("".join(filter(None, told)))
    links = sum([LINK_BYTES + link.text_bytes for link in done.outlinks])
    return OUTCOME_BYTES + page.memory_bytes + head + texts + links + (done.block.size if done.block is not None else 0)


def head_bytes(headers: Sequence[tuple[bytes, bytes]]) -> int:
    """About what the fields of a head hold in memory, bytes."""
    return FIELD_BYTES * len(headers) + sum(map(len, chain.from_iterable(headers)))


__all__ = ["Account", "Budget", "Reservation", "Use", "VisitMemory", "head_bytes", "weight"]
