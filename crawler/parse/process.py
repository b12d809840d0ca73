"""One parser process as its parent sees it: a queue of documents handed over, and the frames between.

Invariant: every document handed over gets its reply, or is first in ``in_hand`` when the process has ended: that one is to blame.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, Literal, NamedTuple, cast

import msgspec

from crawler.core.reply_limits import REPLY_BYTES_MAX
from crawler.core.waiting import Waiting
from crawler.parse.child import FAILED, HEAD, IGNORED, LACKING, LENGTH, READY, RETIRE, VALUE

TICKS: Final = 4
"""The deadline is counted in quarters that the loop has really seen: a loop that stood still blames no document."""
START_TICKS: Final = 120
START_TICK_S: Final = 0.5
"""Whatever the deadline is: to start takes as long for a short one."""
ALARM_S_MIN: Final = 5.0
"""A parent that is there comes before it, however busy it is."""
ALARM_S_MAX: Final = 1e9
"""About as long as a timer can be set to."""
IN_HAND_HIGH: Final = 8
IN_HAND_LOW: Final = 2
"""Documents handed over together: filled up to HIGH when LOW are left, so that small ones share a system call."""
IN_HAND_BYTES_MAX: Final = 256 << 10
"""Beyond it a process gets only one document more, and a document is a large one."""
_KEPT_ENVIRONMENT: Final = ("LANG", "LC_ALL", "LD_", "PYTHON", "PATH")
"""Nothing else of the environment reaches a process that reads hostile input: there may be secrets in it."""
_ALLOCATOR: Final = {"MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": str(8 << 20), "MALLOC_MMAP_THRESHOLD_": str(4 << 20)}
"""glibc keeps 8 MiB between documents rather than asking for them anew each time: a tenth of the time."""

NOTHING: Final = LENGTH.pack(0)
"""A request of no bytes, for a process with nothing to do before its first document."""
_encoder = msgspec.msgpack.Encoder()


class ParseFault(NamedTuple):
    """A document that could not be parsed. ``detail`` is for people."""

    reason: Literal["parse_crashed", "parse_timeout"]
    detail: str = ""


class Job:
    """A document on its way: the frame to send, and who waits for the reply: (status, payload)."""

    __slots__ = ("frame", "reply", "seconds", "tried")

    def __init__(self, frame: bytes | bytearray, reply: asyncio.Future[tuple[int, bytes | memoryview] | ParseFault]) -> None:
        self.frame = frame
        self.reply = reply
        self.tried = False
        self.seconds = 0.0  # that it took, all tries together: of CPU, but where it ended its process


def frame_of(function: str, arguments: tuple[object, ...]) -> bytearray:
    """A request as it is sent: its length, the function's name and its arguments."""
    frame = bytearray(LENGTH.size)
    _encoder.encode_into((function, *arguments), frame, LENGTH.size)
    LENGTH.pack_into(frame, 0, len(frame) - LENGTH.size)
    return frame


class ParserProcess(asyncio.Protocol):
    """``hungry(process)`` is called when it is ready and whenever it can take more; ``ended`` is done when it is gone."""

    def __init__(
        self,
        popen: subprocess.Popen[bytes],
        deadline_s: float,
        hungry: Callable[[ParserProcess], None],
        alone: Job | None,
    ) -> None:
        self.popen = popen
        self.in_hand: deque[Job] = deque()
        self.ready = False
        self._alone = alone
        """A document that ended another process: read first, with no other beside it."""
        self.retiring = False
        self.overran = False
        self.replaced = False
        """Ended for no fault of its documents."""
        self.broken = ""
        self.lack: OSError | None = None
        """What this machine did not give for it to begin."""
        self.loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = self.loop.create_future()
        self._since = self.loop.time()
        """When the first in hand was begun; if it is alone, the process was begun for it."""
        self._transport: asyncio.WriteTransport | None = None
        self._tick_s = deadline_s / TICKS
        self._hungry = hungry
        self._ticks = 0
        self._timer: asyncio.TimerHandle | None = None
        self._bytes_in_hand = 0
        self._buffer = bytearray()

    @property
    def open(self) -> bool:
        """Whether it takes documents at all."""
        return self.ready and self._alone is None and not self.retiring and not self.ended.done()

    def fill(self, queue: Waiting[Job]) -> None:
        """Take the first documents of the queue, as many as make a handful."""
        if not self.open:
            return
        frames: list[bytes | bytearray] = []
        while queue.count and len(self.in_hand) < IN_HAND_HIGH:
            _, job = queue.first
            if not job.reply.done():  # its caller is still there
                if self.in_hand and self._bytes_in_hand + len(job.frame) > IN_HAND_BYTES_MAX:
                    break
                self.in_hand.append(job)
                self._bytes_in_hand += len(job.frame)
                frames.append(job.frame)
            queue.pop()
        if frames:
            self._send(frames)

    def _send(self, frames: list[bytes | bytearray]) -> None:
        assert self._transport is not None
        if len(frames) == len(self.in_hand):
            self._ticks = 0
            if self._alone is None:
                self._since = self.loop.time()
        self._transport.write(frames[0] if len(frames) == 1 else b"".join(frames))
        if self._timer is None:
            self._timer = self.loop.call_later(self._tick_s, self._tick)

    @property
    def spent(self) -> float:
        """Seconds on the first in hand so far."""
        return self.loop.time() - self._since

    def replace(self) -> None:
        """End it for no fault of its documents: they are done again elsewhere."""
        self.replaced = True
        self.kill()

    def kill(self) -> None:
        """End it. Its documents remain in hand; ``ended`` follows."""
        self.popen.kill()
        if self._transport is not None:
            self._transport.abort()
        elif not self.ended.done():
            self.ended.set_result(None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's is none by class
        self._timer = self.loop.call_later(START_TICK_S, self._tick)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self.ended.done():
            self.ended.set_result(None)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        at = 0
        while len(self._buffer) - at >= HEAD.size:
            size, status, seconds = HEAD.unpack_from(self._buffer, at)
            if size > REPLY_BYTES_MAX:
                self.kill()
                return
            if len(self._buffer) - at - HEAD.size < size:
                break
            at += HEAD.size + size
            if at == len(self._buffer):  # as large replies end: it is not copied
                whole, self._buffer = self._buffer, bytearray()
                self._received(status, memoryview(whole)[at - size :], seconds)
                at = 0
            else:
                self._received(status, bytes(memoryview(self._buffer)[at - size : at]), seconds)
        if at:
            del self._buffer[:at]
        if len(self.in_hand) <= IN_HAND_LOW:
            self._hungry(self)

    def _received(self, status: int, payload: bytes | memoryview, seconds: float) -> None:
        self._ticks = 0
        if not self.ready:
            if status == READY:
                self.ready = True
                if self._timer is not None:
                    self._timer.cancel()
                    self._timer = None
                if self._alone is not None:
                    self.in_hand.append(self._alone)
                    self._bytes_in_hand = len(self._alone.frame)
                    self._send([self._alone.frame])
                return
            if status == LACKING:
                number = LENGTH.unpack(payload)[0]
                self.lack = OSError(number, os.strerror(number))
            else:
                self.broken = bytes(payload).decode(errors="replace")
            self.kill()
        elif self.in_hand and status & ~RETIRE in (VALUE, FAILED):
            job = self.in_hand.popleft()
            self._bytes_in_hand -= len(job.frame)
            self._alone = None
            spent, self._since = self.spent, self.loop.time()
            job.seconds += seconds if seconds < spent else spent  # a document may have taken its process over
            self.retiring = self.retiring or bool(status & RETIRE)
            if not job.reply.done():
                job.reply.set_result((status & ~RETIRE, payload))
            if self.retiring and not self.in_hand:
                self.kill()
        else:
            self.kill()  # it no longer does what it is for

    def _tick(self) -> None:
        self._timer = None
        if self.ended.done() or (self.ready and not self.in_hand):
            return
        self._ticks += 1
        if self._ticks > (TICKS if self.ready else START_TICKS):
            self.overran = True
            self.kill()
        else:
            self._timer = self.loop.call_later(self._tick_s if self.ready else START_TICK_S, self._tick)


async def start(
    preload: str,
    *,
    memory_bytes: int,
    deadline_s: float,
    hungry: Callable[[ParserProcess], None],
    first: bytes | bytearray,
    alone: Job | None = None,
) -> ParserProcess:
    """Start a process and connect to it; it says itself when it is ready, with ``first`` done. OSError if there is no room for
    one."""
    ours, theirs = socket.socketpair()
    environment = {key: value for key, value in os.environ.items() if key.startswith(_KEPT_ENVIRONMENT)}
    environment |= {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)} | _ALLOCATOR
    limits = (str(os.getpid()), str(memory_bytes), str(min(max(deadline_s * 3, ALARM_S_MIN), ALARM_S_MAX)), str(REPLY_BYTES_MAX))
    try:
        with theirs, _deaf():
            popen = subprocess.Popen(  # noqa: ASYNC220, S603 - vfork and exec: half a millisecond
                (sys.executable, "-P", "-B", "-m", "crawler.parse.child", preload, *limits),
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
            )
    except BaseException:
        ours.close()
        raise
    try:
        transport, process = await asyncio.get_running_loop().create_unix_connection(
            lambda: ParserProcess(popen, deadline_s, hungry, alone), sock=ours
        )
        transport.write(first)
    except BaseException:
        popen.kill()
        popen.wait()
        ours.close()
        raise
    return process


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """What is started here is born with these signals blocked: sent to the whole process group, or to all of a service, they
    would kill it before it ignores them by itself."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, IGNORED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


async def reap(popen: subprocess.Popen[bytes]) -> None:
    """Wait for a process that was killed, or has closed its socket, to be gone."""
    popen.kill()
    while popen.poll() is None:  # noqa: ASYNC110 - nothing tells us
        await asyncio.sleep(0.002)


__all__ = ["NOTHING", "Job", "ParseFault", "ParserProcess", "frame_of", "reap", "start"]
