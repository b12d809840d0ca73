"""A small process from which the parts of a crawl are forked, at the start and each time one has died.

It is forked itself before its parent has a loop or threads of work, with all imported that a part needs: its children share
that memory, and none inherits a lock that somebody held. It does nothing but fork and wait.

Invariant: it lives no longer than the parent, and neither do the parts: each sees the parent's end of its socket closed. Where
it stands still and cannot see that, the kernel ends it: it has inherited the directory's lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import os
import select
import signal
import socket
import struct
import traceback
from collections.abc import Callable, Iterator
from typing import Any, Final, NoReturn

from msgspec import msgpack

from crawler.core.errors import OUR_ERRNOS, ConfigError, LackError, RemoteError, StorageError, lack_of, storage_error_of
from crawler.frontier import has_opened_a_store
from crawler.resources.disk import FULL, SCARCE
from crawler.service.parts.channel import error_of, words_of
from crawler.service.signals import HANDLED

_ORDER: Final = struct.Struct("<B")
"""The number of the part to be begun; its socket comes along."""
_WORD: Final = struct.Struct("<Bii")
"""The number of a part, its process id, and how that ended (as ``os.waitstatus_to_exitcode``), or BEGUN. Of one that this machine
had no process for, or not enough for it: an errno, and NOT_BEGUN."""
BEGUN: Final = -1000
NOT_BEGUN: Final = -1001
"""No process ends so."""
_LACKS: Final = 100
"""A part that lacks something when it cannot say so yet ends with this and the errno."""
_PR_SET_PDEATHSIG: Final = 1

Main = Callable[[int, socket.socket], int]
"""What a part does with its number and its socket; its exit code."""


class Nursery:
    """The parent's side. ``begin`` has a part begun, and ``ended`` is told the number and the exit code of each that ends
    (negative: the signal that killed it)."""

    def __init__(self, pid: int, sock: socket.socket) -> None:
        self.pid, self._sock = pid, sock
        self.pids: dict[int, int] = {}
        """Number of a part → its process id."""
        self.ended: Callable[[int, int], None] = lambda number, code: None
        self.not_begun: Callable[[int, int], None] = lambda number, why: None
        """Called with the number of a part that could not be forked, or had not enough to begin, and why not: an errno."""
        self.lost: Callable[[], None] = lambda: None
        """Called when it has ended, which it must not."""

    def begin(self, number: int) -> socket.socket:
        """Our end of the socket of a part that is being forked. Of one that cannot be, ``not_begun`` or ``lost`` tells."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(self._sock, [_ORDER.pack(number)], [theirs.fileno()])
            except (BrokenPipeError, ConnectionResetError):
                pass
            except OSError as error:
                self.not_begun(number, error.errno or 0)
        return ours

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """Within a running loop."""
        loop = asyncio.get_running_loop()
        self._sock.setblocking(False)
        loop.add_reader(self._sock, self._hear)
        try:
            yield
        finally:
            loop.remove_reader(self._sock)

    def _hear(self) -> None:
        while True:
            try:
                data = self._sock.recv(_WORD.size)
            except BlockingIOError:
                return
            except ConnectionError:
                data = b""
            if not data:
                asyncio.get_running_loop().remove_reader(self._sock)
                self.lost()
                return
            number, pid, code = _WORD.unpack(data)
            if code == BEGUN:
                self.pids[number] = pid
                continue
            self.pids.pop(number, None)
            if code == NOT_BEGUN:
                self.not_begun(number, pid)
            else:
                self.ended(number, code)

    def kill(self, only: int | None = None) -> None:
        """End all parts, or one of them, at once: what is committed is safe."""
        for number, pid in self.pids.items():
            if only in (None, number):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        """It ends, and is waited for."""
        self._sock.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


@contextlib.contextmanager
def open_nursery(main: Main) -> Iterator[Nursery]:
    """Fork it; ``main`` is what each part does."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    parent = os.getpid()
    pid = fork()
    if pid == 0:
        die_with(parent)
        ours.close()
        _be_one(theirs, main)
    theirs.close()
    nursery = Nursery(pid, ours)
    try:
        yield nursery
    finally:
        nursery.close()


def fork() -> int:
    """As ``os.fork``. StorageError: this machine has no process left."""
    try:
        return os.fork()
    except OSError as error:
        raise no_process(error.errno or 0) from error


def apart(work: Callable[[], Any], died: str) -> Any:
    """What ``work`` returns, as msgpack knows it, done in another process: no part could be forked from one that has opened a
    store itself. That process ends with this one: it may have inherited the directory's lock, and the next start would find that
    taken. Raises ConfigError and StorageError as ``work``; StorageError with the text ``died`` where its process has died."""
    receiving, sending = os.pipe()
    parent = os.getpid()
    if (pid := fork()) == 0:
        code = 1
        try:
            os.close(receiving)
            die_with(parent)
            os.write(sending, msgpack.encode(_told(work)))
            code = 0
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(sending)
    with open(receiving, "rb") as pipe:  # noqa: PTH123 - a descriptor
        data = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if not data:
        raise StorageError(f"{died} (exit code {code})")
    kind, value = msgpack.decode(data)
    if kind:
        raise error_of(kind, value)
    return value


def _told(work: Callable[[], Any]) -> tuple[str, Any]:
    try:
        return "", work()
    except Exception as error:
        known = error if isinstance(error, ConfigError) else storage_error_of(error)
        if known is None:
            raise
        return words_of(known)


def require_no_store() -> None:
    """ConfigError: this process has opened a store, and no part can be forked from it any more. RocksDB has begun threads, and
    keeps them: what is forked does not have them, and waits for them for ever as soon as something is to be written."""
    if has_opened_a_store():
        raise ConfigError("processes: several cannot be begun by a process that has opened a crawl itself: begin a new process")


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its ``parent`` ends, even while this one is stopped (prctl(2), PR_SET_PDEATHSIG).
    What counts is the end of the thread that forked: it must be one that lasts as long as its process."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def no_process(why: int) -> LackError:
    """Without its errno: EAGAIN is also that of a directory that is in use."""
    said = "no process can be started: allow more of them (ulimit -u, or TasksMax of systemd), or more memory"
    return LackError(f"{said} ({os.strerror(why)})")


def awaited(error: Exception) -> str | None:
    """When a process that could not be begun, or could not open its part, may be begun all the same; None: never."""
    if isinstance(error, RemoteError):
        return "the database is there"
    number = error.errno if isinstance(error, StorageError) else 0
    if number in FULL:
        return "there is room on the disk"
    return "this machine has what it lacks" if isinstance(error, LackError) or number in SCARCE else None


def _be_one(parent: socket.socket, main: Main) -> NoReturn:
    code = 1
    try:
        for number in HANDLED:
            signal.signal(number, signal.SIG_IGN)
        _fork_on_demand(parent, main)
        code = 0
    finally:
        os._exit(code)


def _fork_on_demand(parent: socket.socket, main: Main) -> None:
    """Until the parent has gone."""
    wake, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    numbers: dict[int, int] = {}  # pid → part
    nursery = os.getpid()
    while True:
        readable, _, _ = select.select([parent.fileno(), wake], [], [])
        if wake in readable:
            with contextlib.suppress(BlockingIOError):
                os.read(wake, 4096)
            _report(parent, numbers)
        if parent.fileno() in readable:
            data, fds, _, _ = socket.recv_fds(parent, _ORDER.size, 1)
            if not data:
                return
            number = _ORDER.unpack(data)[0]
            try:
                if not fds:
                    raise OSError(errno.EMFILE, "no descriptor for its socket")
                pid = os.fork()
            except OSError as error:
                for fd in fds:
                    os.close(fd)
                parent.send(_WORD.pack(number, error.errno or 0, NOT_BEGUN))
                continue
            if pid == 0:
                die_with(nursery)
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for fd in (wake, woken):
                    os.close(fd)
                parent.close()
                _be_part(number, socket.socket(fileno=fds[0]), main)
            os.close(fds[0])
            numbers[pid] = number
            parent.send(_WORD.pack(number, pid, BEGUN))


def _report(parent: socket.socket, numbers: dict[int, int]) -> None:
    """Tell of all that have ended."""
    while numbers:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        if (number := numbers.pop(pid, None)) is not None:
            code = os.waitstatus_to_exitcode(status)
            lacks = code - _LACKS in OUR_ERRNOS
            parent.send(_WORD.pack(number, code - _LACKS if lacks else pid, NOT_BEGUN if lacks else code))


def _be_part(number: int, sock: socket.socket, main: Main) -> NoReturn:
    code = 1
    try:
        code = main(number, sock)
    except Exception as error:
        if (lack := lack_of(error)) is not None and lack.errno:
            code = _LACKS + lack.errno
        else:
            traceback.print_exc()  # nobody else tells
    finally:
        os._exit(code)
