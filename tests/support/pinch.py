"""A pinched wire to a PostgreSQL server, as a process: ``python -m support.pinch HOST PORT SOCKET``, which says its port.

One word to the Unix socket SOCKET says what becomes of the next transaction; the same word comes back once that has happened:
``half`` only half of its messages go on, and nothing afterwards · ``answer`` it is committed, nobody is told, and the
connection breaks · ``request`` its COMMIT never goes on, and the connection breaks · ``pass`` all goes on, from now on.
"""

from __future__ import annotations

import contextlib
import re
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from support.wire import Wire

_PREPARED = re.compile(rb"P.{4}(_pg3_\d+)\0([^\0]*)\0", re.DOTALL)
"""A statement that psycopg prepares once it was used some times: afterwards it is known by its name alone."""
SILENCE_S = 0.3
"""Between what is swallowed and the end of the connection: the server has its time to commit."""


class Pinch:
    def __init__(self, host: str, port: int) -> None:
        self.wire = Wire((host, port))
        self.wire.up, self.wire.down = self._up, self._down
        self._order = "pass"
        self._commits: set[bytes] = set()
        self._done = threading.Event()
        self._is_silent = False

    def obey(self, order: str, is_wanted: Callable[[], bool]) -> None:
        """Returns when it has happened, or is wanted no more."""
        self._done.clear()
        self._order = order
        if order == "pass":
            self._is_silent = False
            return
        while not self._done.wait(0.05):
            if not is_wanted():
                self._order = "pass"
                return
        if order != "half":
            time.sleep(SILENCE_S)
            self.wire.cut()
            self._is_silent = False
            self.wire.mend()

    def _up(self, data: bytes) -> bytes:
        if self._is_silent:
            return b""
        at = self._commit_in(data)
        if self._order == "pass" or at < 0:
            return data
        order, self._order = self._order, "pass"
        self._is_silent = True
        self._done.set()
        if order == "answer":
            return data
        if order == "half":
            messages = list(messages_of(data))
            return b"".join(messages[: len(messages) // 2])
        return data[:at]

    def _commit_in(self, data: bytes) -> int:
        """Where its COMMIT begins, by its text or by the name it was prepared under; or less than 0."""
        for name, statement in _PREPARED.findall(data):
            (self._commits.add if statement == b"COMMIT" else self._commits.discard)(name)
        places = [data.find(mark) for mark in (b"COMMIT", *(b"\0" + name + b"\0" for name in self._commits))]
        return max(places)

    def _down(self, data: bytes) -> bytes:
        return b"" if self._is_silent else data


def messages_of(data: bytes) -> list[bytes]:
    """A client's messages, after the first one of a connection: a letter, and a length that counts itself. What is cut off
    stays as it is."""
    found, at = [], 0
    while at < len(data):
        end = at + 1 + int.from_bytes(data[at + 1 : at + 5], "big")
        found.append(data[at:end])
        at = max(end, at + 1)
    return found


def main() -> None:
    host, port, path = sys.argv[1:]
    pinch = Pinch(host, int(port))
    with socket.socket(socket.AF_UNIX) as control:
        control.bind(path)
        control.listen()
        print(pinch.wire.port, flush=True)
        while True:
            order, _ = control.accept()
            with order:
                word = order.recv(100).decode()
                pinch.obey(word, lambda order=order: not is_closed(order))
                with contextlib.suppress(OSError):
                    order.sendall(word.encode())


def is_closed(peer: socket.socket) -> bool:
    try:
        return peer.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False


def order(path: Path, word: str, timeout: float = 30.0) -> None:
    """Tell the one at ``path``, and wait until it has happened. TimeoutError: no transaction came by."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(timeout)
        asking.connect(str(path))
        asking.sendall(word.encode())
        asking.recv(100)


if __name__ == "__main__":
    main()
