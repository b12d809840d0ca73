"""Functions that parser processes are given in tests: one for every way a document can go wrong."""

import contextlib
import ctypes
import errno
import os
import signal
import sys
import time


def echo(body: bytes, *more: object) -> list[object]:
    return [len(body), *more]


def process(body: bytes = b"") -> int:
    return os.getpid()


def lacking(body: bytes) -> str:
    raise OSError(errno.EMFILE, "Too many open files")


def modules() -> list[str]:
    return sorted(sys.modules)


def descriptors() -> list[str]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one that lists them is gone
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return found


def environment() -> list[str]:
    return sorted(os.environ)


def resident() -> int:
    with open("/proc/self/smaps_rollup") as file:
        fields = dict(line.split(":", 1) for line in file.read().splitlines()[1:])
    return int(fields["Rss"].split()[0]) << 10


def act(body: bytes) -> str:
    """Do what the document says."""
    verb, _, rest = body.decode().partition(" ")
    if verb == "abort":
        os.abort()
    elif verb == "segfault":
        ctypes.string_at(0)
    elif verb == "exit":
        os._exit(0)
    elif verb == "spin":
        while True:
            pass
    elif verb == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif verb == "sleep":
        time.sleep(float(rest))
    elif verb == "swell":
        kept = [bytes([n % 256]) * (1 << 20) for n in range(int(rest))]
        return str(len(kept))
    elif verb == "raise":
        raise ValueError(rest)
    elif verb == "once":  # crashes unless it was here before
        if not os.path.exists(rest):
            os.mkdir(rest)
            os.abort()
    elif verb == "long":
        return "x" * int(rest)
    elif verb == "write":
        with open(rest, "w") as file:
            file.write("x")
            file.flush()
    elif verb == "forge":  # a process taken over says what it likes
        os.write(0, bytes.fromhex(rest))
        time.sleep(60)
    return verb


_kept = []


def keep(mebibytes: int, more: object = None) -> int:
    _kept.append(bytes(range(256)) * (mebibytes << 12))
    return os.getpid()
