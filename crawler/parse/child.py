"""The program of a parser process: ``python -m crawler.parse.child``, started by crawler.parse.process only.

Invariants: it holds one socket (as standard input) and nothing else of the crawl's. It replies to documents in order, one frame
each. It never outlives its parent, its memory limit, or by much its deadline. Imports are few: each is paid per process. Its
first request is of the parent's own making, perhaps empty: what it takes is no document's, and it has no reply.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import resource
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import Any, BinaryIO, Final

import msgspec

from crawler.core.errors import lack_of

READY: Final = 0
VALUE: Final = 1
FAILED: Final = 2
"""The function raised: the payload is its name for people."""
BROKEN: Final = 3
"""The process cannot do its work at all."""
LACKING: Final = 4
"""This machine did not give what it needs to begin: the payload is the errno, as ``<I``."""
RETIRE: Final = 0x80
"""Added to a reply's status: replace me, I have grown."""
HEAD: Final = struct.Struct("<IBf")
"""Of a reply: payload bytes, status, and the CPU seconds that it took. Of a request only the bytes, as ``<I``."""
LENGTH: Final = struct.Struct("<I")
GROWN_BYTES_MAX: Final = 24 << 20
"""Resident growth since the start that is given back to the system by ending the process."""
GROWN_CHECK_BYTES: Final = 1 << 20
"""How much input may pass between two looks at it."""
IGNORED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""What the parent may be told, and its whole process group with it."""
_PR_SET_PDEATHSIG: Final = 1
_PAGE_BYTES: Final = resource.getpagesize()


def function_of(path: str, known: dict[str, Callable[..., Any]]) -> Callable[..., Any]:
    """The function named ``module:name``. The parent names it; a document never can."""
    function = known.get(path)
    if function is None:
        module, _, name = path.partition(":")
        function = known[path] = getattr(importlib.import_module(module), name)
    return function


def main(preload: str, parent: int, memory_bytes: int, alarm_s: float, reply_bytes_max: int) -> None:
    _shield(parent)
    pipe = socket.socket(fileno=os.dup(0))
    with open(0, "rb", buffering=64 << 10) as requests:
        try:
            known: dict[str, Callable[..., Any]] = {}
            for path in preload.split():
                function_of(path, known)
            if first := _request(requests):
                path, *arguments = msgspec.msgpack.decode(first)
                function_of(path, known)(*arguments)
            _limit(memory_bytes)
        except Exception as error:
            if (lack := lack_of(error)) is not None:
                _reply(pipe, LACKING, LENGTH.pack(lack.errno))
            else:
                _reply(pipe, BROKEN, f"{type(error).__name__}: {error}".encode())
            return
        _reply(pipe, READY, b"")
        _serve(requests, pipe, known, alarm_s, reply_bytes_max)


def _request(requests: BinaryIO) -> bytes | None:
    """The next one, which may be empty; None: the parent has gone, or is done."""
    head = requests.read(LENGTH.size)
    return requests.read(LENGTH.unpack(head)[0]) if len(head) == LENGTH.size else None


def _serve(
    requests: BinaryIO, pipe: socket.socket, known: dict[str, Callable[..., Any]], alarm_s: float, reply_bytes_max: int
) -> None:
    start_bytes = _resident_bytes()
    passed_bytes = 0
    while (request := _request(requests)) is not None:
        path, *arguments = msgspec.msgpack.decode(request)
        size = len(request)
        del request  # the document is among the arguments
        began = time.process_time()
        signal.setitimer(signal.ITIMER_REAL, alarm_s)  # the parent kills us first; unless it is gone itself
        try:
            payload = msgspec.msgpack.encode(function_of(path, known)(*arguments))
            status = VALUE
            if len(payload) > reply_bytes_max:
                status, payload = FAILED, f"a reply of {len(payload)} bytes".encode()
        except MemoryError:
            os._exit(1)  # whose memory it was is only known of a fresh process
        except Exception as error:
            if lack_of(error) is not None:
                os._exit(1)  # nor whether this machine lacks it
            status, payload = FAILED, f"{type(error).__name__}: {error}".encode(errors="replace")[:1_000]
        signal.setitimer(signal.ITIMER_REAL, 0)
        passed_bytes += size
        if passed_bytes > GROWN_CHECK_BYTES:
            passed_bytes = 0
            if _resident_bytes() - start_bytes > GROWN_BYTES_MAX:
                status |= RETIRE
        _reply(pipe, status, payload, time.process_time() - began)


def _reply(pipe: socket.socket, status: int, payload: bytes, seconds: float = 0.0) -> None:
    try:
        pipe.sendall(HEAD.pack(len(payload), status, seconds) + payload)
    except OSError:
        os._exit(0)  # nobody is left to reply to


def _shield(parent: int) -> None:
    """Live no longer than the parent, ignore what the parent is told, dump no core, be the first to go when memory ends."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        with open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123 - pathlib is not loaded here
            file.write("500")
    except OSError:
        pass  # not granted everywhere
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def _limit(memory_bytes: int) -> None:
    """No more than ``memory_bytes`` of address space beyond what the interpreter and libraries have mapped by now."""
    with open("/proc/self/statm") as file:  # noqa: PTH123
        mapped_bytes = int(file.read().split()[0]) * _PAGE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (mapped_bytes + memory_bytes, mapped_bytes + memory_bytes))


def _resident_bytes() -> int:
    with open("/proc/self/statm") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * _PAGE_BYTES


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5]))
