"""What the control API may ask of a crawl by several processes, and do to it (see ``crawler.service.steered``).

What concerns one URL is asked of the part that owns its host; seeds go to the first part, which reads all lists.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from weakref import WeakKeyDictionary

import msgspec

from crawler.config.sections import Config
from crawler.core.batch import Admitted
from crawler.core.errors import StorageError
from crawler.core.model import Known, Mark, Ref
from crawler.core.snapshot import Snapshot
from crawler.core.sums import added
from crawler.core.urls import host_key
from crawler.crawl import open_crawl_reader
from crawler.crawl.checkpoints import Taken, take_of_all
from crawler.crawl.crawl import RECENT_FAILURES
from crawler.crawl.explain import explain
from crawler.crawl.recrawl import TooManyOrders
from crawler.frontier.progress import Tally
from crawler.frontier.selection import Selection
from crawler.output import row_at
from crawler.output.checkpoint import Copied
from crawler.service.parts.channel import Gone
from crawler.service.parts.crew import Crew
from crawler.service.parts.opening import Opened
from crawler.service.parts.seeding import encode_admitted
from crawler.service.steered import Failure, Host, Sort, kind_of

ADMITTED_AT_ONCE_MAX: Final = 8
"""Chunks of seeds on their way to the first part."""
READERS_MAX: Final = 2
"""Of all stores at once."""
GONE_AGAIN_S: Final = 0.1
GONE_S: Final = 20.0
"""So long a part is waited for that is just being begun again."""
DELIVERED_AGAIN_S: Final = 0.02
DELIVERED_TRIES_MAX: Final = 100
ORDERED_AGAIN_S: Final = 600.0
"""So long the same recrawl, ordered again, is the one that not all parts have said to have taken."""
LOST: Final = "the process that takes seeds has died, and is begun again: send the rest again"
ENDED: Final = "the crawl has ended"
_MEASURES: Final[Mapping[Sort, str]] = {"waiting": "waiting", "errors": "errors", "backoff": "due_in"}

_known = msgspec.msgpack.Decoder(Known | str | None)
_tallies = msgspec.msgpack.Decoder(dict[str, Tally])
encode: Final = msgspec.msgpack.Encoder().encode
_taken = msgspec.msgpack.Decoder(Taken)
_marks = msgspec.msgpack.Decoder(dict[str, Mark])


class SteeredParts:
    """``on_change`` is told of settings that have changed."""

    def __init__(self, crew: Crew, opened: Opened, on_change: Callable[[Config], None] = lambda config: None) -> None:
        self._crew, self._root, self._on_change = crew, opened.root, on_change
        self._share, self._board = opened.division.share(0), opened.board
        self._keys_by = self._share.keys_by()
        self._parts, self._is_node = opened.division.parts, crew.config.cluster is not None
        self._room = asyncio.Semaphore(ADMITTED_AT_ONCE_MAX)
        self._ordering, self._reading = asyncio.Lock(), asyncio.Semaphore(READERS_MAX)
        self._half_taken: tuple[object, float] | None = None
        """A recrawl that not all parts have said to have taken, and when it was ordered, by wall time."""
        self._lives: WeakKeyDictionary[asyncio.Future[None], int] = WeakKeyDictionary()
        """Which process seeds were sent to, by what ``admit`` gave for them."""
        self.pause, self.resume, self.drain, self.look = crew.pause, crew.resume, crew.drain, crew.look
        self.pauses, self.hosts_known = crew.pauses, crew.hosts_known

    @property
    def config(self) -> Config:
        return self._crew.config

    @property
    def stopped_by(self) -> str | None:
        return self._crew.stopped_by

    def stats(self) -> Snapshot:
        return self._crew.stats()

    def is_draining(self) -> bool:
        return self._crew.is_draining

    def commits(self) -> object:
        return None

    async def hosts(self, sort: Sort, limit: int) -> Sequence[Host]:
        found: list[Host] = [host for hosts in await self._crew.ask_each("hosts", sort, limit) for host in hosts]
        return sorted(found, key=lambda host: host[_MEASURES[sort]] or 0, reverse=True)[:limit]

    async def explain(self, url: str, given: str, via: str | None) -> dict[str, Any]:
        """By the stores of all parts, as they are committed: what stands on another host's page is another part's."""

        def read() -> dict[str, Any]:
            with open_crawl_reader(self._root) as reader:
                explanation = explain(self._root, reader, given, via, is_retired=reader.is_retired)
                if place := explanation.get("record", {}).get("row"):
                    explanation["row"] = row_at(self._root, Ref(**place))
                return explanation

        explanation = await self._read(read)
        if explanation["state"] == "unknown" and not self._is_node:
            await self._delivered(await self._owner(host_key(url)))
            explanation = await self._read(read)
        prospects: dict[str, Any] = await self._ask_owner(url, "prospects", url, kind_of(explanation))
        return explanation | prospects

    async def _read(self, read: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """In a thread, few at a time: each holds in memory what the parts have not written into tables yet."""
        async with self._reading:
            return await asyncio.to_thread(read)

    async def _delivered(self, owner: int) -> None:
        """Wait until a part has taken in what the others have sent by now, links of acknowledged seeds among it; but not long."""
        sent = [(part, self._board.written(part)) for part in range(self._parts) if part != owner]
        for _ in range(DELIVERED_TRIES_MAX):
            if all(self._board.read(owner, part) >= until for part, until in sent):
                return
            await asyncio.sleep(DELIVERED_AGAIN_S)

    async def lookup(self, url: str) -> Known | str | None:
        known: Known | str | None = _known.decode(await self._ask_owner(url, "lookup", url))
        return known

    async def elsewhere(self, host: str) -> str | None:
        return await self._ask(0, "elsewhere", host) if self._is_node else None

    async def marks(self, folder: str = "") -> Mapping[str, Mark]:
        told = [await self._ask(part, "marks", folder) for part in range(self._parts)]
        return {file: mark for marks in told for file, mark in _marks.decode(marks).items()}

    async def position(self, source: str) -> bytes | None:
        position: bytes | None = await self._ask(0, "position", source)
        return position

    async def admit(self, admitted: Admitted, behind: asyncio.Future[None] | None = None) -> asyncio.Future[None]:
        """What is sent to one process is admitted one after the other: with the last of it, all of it is committed. The API
        listens before the processes are open: seeds that come so early wait for them."""
        try:
            async with asyncio.timeout(GONE_S):
                await self._crew.opened.wait()
        except TimeoutError:
            raise StorageError("the processes of this crawl are not open yet: send the rest again") from None
        await self._room.acquire()
        life = self._crew.life(0)
        if behind is not None and self._is_lost(behind, life):
            self._room.release()
            raise StorageError(LOST)
        sent = asyncio.create_task(self._admit(encode_admitted(admitted), life), name="seeds")
        self._lives[sent] = life
        sent.add_done_callback(self._admitted)
        return sent

    def _is_lost(self, sent: asyncio.Future[None], life: int) -> bool:
        """Whether these lines are not committed, and will not be by the process that lives now."""
        if sent.done():
            return sent.cancelled() or sent.exception() is not None
        return self._lives[sent] != life

    async def _admit(self, admitted: bytes, life: int) -> None:
        try:
            if self._crew.life(0) != life:
                raise Gone
            await self._crew.ask(0, "admit", admitted)
        except Gone:
            raise StorageError(LOST) from None

    def _admitted(self, task: asyncio.Task[None]) -> None:
        self._room.release()
        if not task.cancelled():
            task.exception()  # counts as heard: the client that sent it may have gone

    async def revive(self, which: Selection) -> int:
        return await self._choose("revive", which)

    async def remove(self, which: Selection) -> int:
        try:
            return await self._choose("remove", which)
        finally:  # some may be, also where not all parts have answered
            self._crew.tell_all("forget_sent")

    async def recrawl(self, older_than_s: float, match: str | None, which: Selection) -> None:
        """All parts that have such URLs take the order, or none does: one order at a time, and all are asked before. Where one
        does not take it all the same, whoever orders it again means no page that was visited since."""
        async with self._ordering:
            meant = await self._meant(which)
            if not all([await self._ask(part, "may_recrawl") for part in meant]):
                raise TooManyOrders
            order, now, half = (older_than_s, match, which), time.time(), self._half_taken
            if half is None or half[0] != order or not 0 <= now - half[1] <= ORDERED_AGAIN_S:
                half = self._half_taken = order, now
            for part in meant:
                await self._ask(part, "recrawl", half[1] - older_than_s, match, encode(which))
            self._half_taken = None

    async def checkpoint(self, name: str | None) -> Copied:
        return await take_of_all(_Cutters(self._crew, self._parts, self._ask), self._root, name)

    async def _choose(self, action: str, which: Selection) -> int:
        """One part after the other: where one cannot, the same request again does the rest. Each takes as long as it has
        records."""
        return sum([await self._once_there(part, action, encode(which)) for part in await self._meant(which)])

    async def _meant(self, which: Selection) -> Sequence[int]:
        """The parts that have such URLs."""
        return [await self._owner(which.place)] if which.place is not None else range(self._parts)

    async def progress(self, kind: str) -> Mapping[str, Tally]:
        total: dict[str, Tally] = {}
        for part in range(self._parts):
            for name, tally in _tallies.decode(await self._ask(part, "progress", kind)).items():
                total[name] = added([total.get(name, Tally()), tally])
        return total

    async def failures(self) -> Sequence[Failure]:
        found = [tuple(failure) for failures in await self._crew.ask_each("failures") for failure in failures]
        return sorted(found)[-RECENT_FAILURES:]

    async def reconfigure(self, config: Config) -> None:
        self._on_change(config)
        await self._crew.reconfigure(config)

    async def _ask_owner(self, url: str, name: str, *arguments: object) -> Any:
        return await self._ask(await self._owner(host_key(url)), name, *arguments)

    async def _owner(self, host: str) -> int:
        """Of a node of a cluster: whichever leases it; the first, where that is another node's."""
        if not self._is_node:
            return self._share.owner(self._keys_by.host(host))
        told = [await self._ask(part, "leases", host) for part in range(self._parts)]
        return told.index(True) if True in told else 0

    async def _ask(self, part: int, name: str, *arguments: object) -> Any:
        """Of a part, once it is there, what it answers soon."""
        async with asyncio.timeout(GONE_S):
            return await self._once_there(part, name, *arguments)

    async def _once_there(self, part: int, name: str, *arguments: object) -> Any:
        """Of a part, whenever it answers. TimeoutError: it is not begun again in time; StorageError: never."""
        until: float | None = None
        while True:
            try:
                return await self._crew.ask(part, name, *arguments)
            except Gone:
                if self._crew.is_over(part):
                    raise StorageError(ENDED) from None
                now = asyncio.get_running_loop().time()
                until = until or now + GONE_S
                if now >= until:
                    raise TimeoutError from None
                await asyncio.sleep(GONE_AGAIN_S)


class _Cutters:
    """All parts, as a checkpoint asks them (see ``crawler.crawl.checkpoints.Cutters``)."""

    def __init__(self, crew: Crew, parts: int, ask: Callable[[int, str], Awaitable[Any]]) -> None:
        """``ask`` waits for a part that is just being begun."""
        self._crew, self._parts, self._ask = crew, parts, ask

    async def hold_exchange(self) -> None:
        for part in range(self._parts):
            await self._ask(part, "hold_exchange")

    async def cut(self, made: Path) -> None:
        await self._each("cut", str(made))

    def let_go(self) -> None:
        self._crew.tell_all("let_go")

    def forget(self) -> None:
        self._crew.tell_all("forget_cut")

    async def copy(self) -> Sequence[Taken]:
        return [_taken.decode(taken) for taken in await self._each("copy")]

    async def _each(self, name: str, *arguments: object) -> list[Any]:
        """What all of them answer, each once it has done it."""
        asked = (self._crew.ask(part, name, *arguments) for part in range(self._parts))
        answers = await asyncio.gather(*asked, return_exceptions=True)  # whoever has begun has ended before it is let go
        for part, answer in enumerate(answers):
            if isinstance(answer, Gone):
                raise StorageError(f"process {part} of this crawl is just being begun again: ask once more")
            if isinstance(answer, BaseException):
                raise answer
        return list(answers)
