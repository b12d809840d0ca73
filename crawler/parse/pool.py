"""A pool of parser subprocesses, each document with a deadline and a memory limit.

Invariants: one document in, one reply or one ``ParseFault`` out, whatever the document does. A document is blamed only if it
fails alone in a fresh process. Bytes waiting are bounded, and a cancelled caller leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import errno
import signal
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from crawler.config.sections import ParseConfig
from crawler.core.errors import StorageError, lack_of
from crawler.core.waiting import Waiting
from crawler.parse.child import FAILED, function_of
from crawler.parse.heavy_hosts import NO_TURN, HeavyHosts
from crawler.parse.limited import MEMORY_BYTES
from crawler.parse.process import IN_HAND_BYTES_MAX, IN_HAND_LOW, NOTHING, Job, ParseFault, ParserProcess, frame_of, reap, start

WAITING_BYTES_MAX: Final = 16 << 20
PROCESS_BYTES: Final = 40 << 20
"""A process at work, for sizing the pool."""
STARTS_MAX: Final = 5
"""A process that does not even start this many times in a row never will."""
START_AGAIN_S: Final = 1.0

T = TypeVar("T")


class PoolStats(NamedTuple):
    """Gauges, then totals since the start."""

    processes: int
    busy: int
    """Of these, those with a document in hand."""
    documents_waiting: int
    """Without a reply yet: in the queue or in a process's hands."""
    bytes_waiting: int
    """Of these documents."""
    callers_waiting: int
    """For room among them, or for a turn."""
    documents: int
    """Replied to since the start, faults included."""
    crashed: int
    timed_out: int
    restarts: int


def pool_size(parsers: int | None, *, cores: int, memory_limit_bytes: int) -> int:
    """How many processes: as set, or one core less than there are, within a quarter of the memory limit; at least one."""
    if parsers is not None:
        return parsers
    return max(1, min(cores - 1, memory_limit_bytes // 4 // PROCESS_BYTES))


class ParserPool:
    """See ``open_parser``."""

    def __init__(self, config: ParseConfig, *, parsers: int, preload: str, memory_bytes: int, waiting_bytes_max: int) -> None:
        self._deadline_s = config.parse_timeout
        self._memory_bytes = memory_bytes
        self._preload = preload
        self._first: bytes | bytearray = NOTHING
        self._waiting_bytes_max = waiting_bytes_max
        self._in_loop = not parsers
        self._queue: Waiting[Job] = Waiting(IN_HAND_BYTES_MAX)
        self._processes: list[ParserProcess] = []
        self._turns: Waiting[asyncio.Future[None]] = Waiting(IN_HAND_BYTES_MAX)
        self._heavy = HeavyHosts(parsers)
        self._waiting = self._waiting_bytes = 0
        self._documents = self._crashed = self._timed_out = self._restarts = 0
        self._functions: dict[str, Any] = {}
        if self._in_loop:
            for path in preload.split():  # later there may be no descriptor left to import with
                function_of(path, self._functions)
        self._trouble: OSError | None = None
        self._have_run = False
        """The installation is in order: that processes end before they are ready is for want of something."""
        self.broken = ""
        """Why no process will ever run: a fault of the installation."""

    def __repr__(self) -> str:
        return f"<Parser {len(self._processes)} processes, {self._waiting} documents, {self._waiting_bytes} bytes>"

    def turn(self, host: str) -> AbstractAsyncContextManager[None]:
        """What to hold while a document of this host is read, its memory included: where those before it took long, it waits."""
        return NO_TURN if self._in_loop else self._heavy.turn(host)

    async def call(self, function: str, *arguments: Any, result: type[T], host: str = "") -> T | ParseFault:
        """What ``module:name`` returns for these arguments; both ways as msgpack (msgspec). StorageError if this machine
        cannot start a process. The function must be pure: it may run twice. ``host``: whose document it is, for ``turn``."""
        reply: T | ParseFault
        if self._in_loop:
            reply = self._here(function, arguments)
        else:
            frame = frame_of(function, arguments)
            if not self._turns.count and self._fits(len(frame)):
                self._waiting += 1
                self._waiting_bytes += len(frame)
            else:
                await self._enter(len(frame))
            try:
                reply = await self._there(frame, result, host)
            finally:
                self._leave(len(frame))
        self._documents += 1
        if isinstance(reply, ParseFault):
            self._crashed += reply.reason == "parse_crashed"
            self._timed_out += reply.reason == "parse_timeout"
        return reply

    def begin_with(self, function: str, *arguments: Any) -> None:
        """What every process that is started from now on calls before it is ready, as ``call`` says: no document's deadline or
        memory limit counts it."""
        if not self._in_loop:
            self._first = frame_of(function, arguments)

    def restart(self) -> None:
        """Replace every process, to give its memory back. What they are at is done again."""
        for process in self._processes:
            process.replace()

    def pids(self) -> list[int]:
        return [process.popen.pid for process in self._processes]

    def stats(self) -> PoolStats:
        busy = sum(bool(process.in_hand) for process in self._processes)
        counts = (self._documents, self._crashed, self._timed_out, self._restarts)
        callers = self._turns.count + self._heavy.waiting
        return PoolStats(len(self._processes), busy, self._waiting, self._waiting_bytes, callers, *counts)

    def _here(self, function: str, arguments: tuple[Any, ...]) -> Any:
        try:
            return function_of(function, self._functions)(*arguments)
        except (OSError, MemoryError) as error:  # a pure function meets neither but by our own fault
            raise StorageError(f"parsing: {error}", errno=getattr(error, "errno", None) or errno.ENOMEM) from error
        except Exception as error:
            if (lack := lack_of(error)) is not None:
                raise StorageError(f"parsing: {error}", errno=lack.errno or errno.ENOMEM) from error
            return ParseFault("parse_crashed", f"{type(error).__name__}: {error}")

    async def _there(self, frame: bytearray, result: type[T], host: str) -> T | ParseFault:
        if (error := self._error()) is not None:
            raise error
        job = Job(frame, asyncio.get_running_loop().create_future())
        self._queue.append(len(frame), job)
        self._deal()
        reply = await job.reply
        if host:
            self._heavy.took(host, job.seconds)
        if isinstance(reply, ParseFault):
            return reply
        status, payload = reply
        if status == FAILED:
            return ParseFault("parse_crashed", bytes(payload).decode(errors="replace"))
        try:
            return msgspec.msgpack.decode(payload, type=result)
        except msgspec.DecodeError as error:  # a document may have taken its process over
            return ParseFault("parse_crashed", str(error))

    # -- the door: bounded in bytes, in the order of ``Waiting`` ----------------------------------------------------

    async def _enter(self, size: int) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._turns.append(size, turn)
        self._let_in()  # it may stand before larger ones
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._let_in()  # it may have stood before smaller ones
            else:
                self._leave(size)
            raise

    def _fits(self, size: int) -> bool:
        return not self._waiting or self._waiting_bytes + size <= self._waiting_bytes_max

    def _leave(self, size: int) -> None:
        self._waiting -= 1
        self._waiting_bytes -= size
        if self._turns.count:
            self._let_in()

    def _let_in(self) -> None:
        while self._turns.count:
            size, turn = self._turns.first
            if not turn.cancelled():
                if not self._fits(size):
                    return
                self._waiting += 1
                self._waiting_bytes += size
                turn.set_result(None)
            self._turns.pop()

    # -- the processes ---------------------------------------------------------------------------------------------

    def _deal(self) -> None:
        """A document has come: it goes to the process with the fewest in hand, or waits until one asks."""
        if len(self._processes) == 1:
            process: ParserProcess | None = self._processes[0]
        else:
            process = min(self._processes, key=lambda process: (not process.open, len(process.in_hand)), default=None)
        if process is not None and len(process.in_hand) <= IN_HAND_LOW:
            process.fill(self._queue)

    async def keep(self) -> None:
        """Keep one process alive. Ends only by cancellation, or when processes cannot run here at all."""
        try:
            await self._keep()
        except Exception as error:
            self.broken = repr(error)
            raise
        finally:
            self._fail()

    async def _keep(self) -> None:
        blamed: Job | None = None
        unexplained = 0  # processes, one after the other, that were never ready, and nobody can say why
        while unexplained < STARTS_MAX:
            try:
                process = await self._start(blamed)
            except OSError as error:
                self._lack(error, blamed)
                blamed = None
                await asyncio.sleep(START_AGAIN_S)
                continue
            self._trouble = None
            self._processes.append(process)
            try:
                await process.ended
            finally:
                self._processes.remove(process)
                process.kill()
                await reap(process.popen)
            if process.broken:
                break
            self._restarts += 1
            if process.ready:
                unexplained, self._have_run = 0, True
                blamed = self._blame(process)
                continue
            if (lack := process.lack or self._lacking(process, unexplained)) is None:
                unexplained += 1
            else:  # it will start some time
                self._lack(lack, blamed)
                blamed = None
            await asyncio.sleep(START_AGAIN_S)
        self.broken = f"parser processes do not run: {process.broken or 'they end before they are ready'}"
        if blamed is not None:
            self._queue.give_back(len(blamed.frame), blamed)

    def _lacking(self, process: ParserProcess, before: int) -> OSError | None:
        """Of a process that ended before it was ready, as so many ``before`` it, and cannot say why. None: they are few; or it
        ends by itself, and none has ever been ready: so it is with this installation."""
        have_run = self._have_run or any(other.ready for other in self._processes)
        if before + 1 < STARTS_MAX or not (have_run or process.popen.returncode == -signal.SIGKILL):
            return None
        return OSError(errno.ENOMEM, "they end, are killed, or are too slow, before they are ready")

    def _lack(self, error: OSError, blamed: Job | None) -> None:
        """This machine has no process for us just now: those who wait are told, also ``blamed``, unless there is another."""
        self._trouble = error
        if blamed is not None:
            self._give_back(blamed)
            self._deal()
        self._fail()

    def _give_back(self, job: Job) -> None:
        """It was not tried alone in a process of its own, after all."""
        job.tried = False
        self._queue.give_back(len(job.frame), job)

    async def _start(self, alone: Job | None) -> ParserProcess:
        return await start(
            self._preload,
            memory_bytes=self._memory_bytes,
            deadline_s=self._deadline_s,
            hungry=lambda process: process.fill(self._queue),
            first=self._first,
            alone=alone,
        )

    def _blame(self, process: ParserProcess) -> Job | None:
        """What becomes of the documents of a process that has ended; the one to try again alone, if any."""
        jobs = list(process.in_hand)
        culprit = jobs.pop(0) if jobs and not process.replaced else None
        for job in reversed(jobs):
            self._give_back(job)
        self._deal()
        if culprit is None or culprit.reply.done():
            return None
        culprit.seconds += process.spent
        if not culprit.tried:
            culprit.tried = True
            return culprit
        culprit.reply.set_result(
            ParseFault("parse_timeout") if process.overran else ParseFault("parse_crashed", "the process died")
        )
        return None

    def _fail(self) -> None:
        """Tell those who wait, if there is no process and will be none soon."""
        while self._queue.count and (error := self._error()) is not None:
            job = self._queue.pop()
            if not job.reply.done():
                job.reply.set_exception(error)

    def _error(self) -> Exception | None:
        if self.broken:
            return RuntimeError(self.broken)
        if self._trouble is not None and not self._processes:
            return StorageError(f"no parser process can be started: {self._trouble}", errno=self._trouble.errno or 0)
        return None


@asynccontextmanager
async def open_parser(
    config: ParseConfig,
    *,
    parsers: int,
    preload: str = "",
    memory_bytes: int = MEMORY_BYTES,
    waiting_bytes_max: int = WAITING_BYTES_MAX,
) -> AsyncIterator[ParserPool]:
    """A pool of ``parsers`` processes (see ``pool_size``); none: everything is parsed in the loop, without protection.

    ``preload``: functions as ``module:name``, separated by blanks, imported before a process counts as ready. The
    processes have ended when the context is left."""
    parser = ParserPool(config, parsers=parsers, preload=preload, memory_bytes=memory_bytes, waiting_bytes_max=waiting_bytes_max)
    keepers = [asyncio.create_task(parser.keep(), name=f"parser {n}") for n in range(parsers)]
    try:
        yield parser
    finally:
        for keeper in keepers:
            keeper.cancel()
        for end in await asyncio.gather(*keepers, return_exceptions=True):
            if isinstance(end, Exception):
                raise end


__all__ = ["ParseFault", "ParserPool", "PoolStats", "open_parser", "pool_size"]
