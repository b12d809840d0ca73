"""A proxy before the database, that swallows what is told: the answer to a commit, or the commit itself; or everything."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Literal

COMMIT_BYTES_MIN = 1200
"""No other request is so long."""

Fault = Literal["answer", "commit"]


class Proxy:
    """``faults`` are done one after the other, each to one commit; ``is_cut``: nothing passes, and nothing is closed.
    ``sessions_left``: so many more are let through, and others closed at once; None: any number."""

    def __init__(self, to_port: int) -> None:
        self._to_port = to_port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.faults: list[Fault] = []
        self.done: list[Fault] = []
        self.is_cut = False
        self.sessions_left: int | None = None
        self._cut = threading.Condition()
        self._sockets: list[socket.socket] = []

    @contextlib.contextmanager
    def running(self) -> Iterator[Proxy]:
        thread = threading.Thread(target=self._accept, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.heal()
            self._listening.shutdown(socket.SHUT_RDWR)
            self._listening.close()
            for one in self._sockets:
                _close(one)
            thread.join()

    def cut(self) -> None:
        self.is_cut = True

    def heal(self) -> None:
        with self._cut:
            self.is_cut = False
            self._cut.notify_all()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
                if self.sessions_left == 0:
                    client.close()
                    continue
                if self.sessions_left is not None:
                    self.sessions_left -= 1
                server = socket.create_connection(("127.0.0.1", self._to_port))
            except OSError:
                if self._listening.fileno() < 0:
                    return
                with contextlib.suppress(UnboundLocalError):
                    client.close()
                if not _is_listening(self._listening):
                    return
                continue
            self._sockets += [client, server]
            pair = _Pair(self, client, server)
            threading.Thread(target=pair.requests, daemon=True).start()
            threading.Thread(target=pair.answers, daemon=True).start()

    def wait_while_cut(self) -> None:
        with self._cut:
            while self.is_cut:
                self._cut.wait()


class _Pair:
    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy, self._client, self._server = proxy, client, server
        self._swallows = False

    def requests(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._client.recv(1 << 20):
                self._proxy.wait_while_cut()
                if self._proxy.faults and len(data) >= COMMIT_BYTES_MIN:
                    fault = self._proxy.faults.pop(0)
                    self._proxy.done.append(fault)
                    if fault == "commit":
                        break
                    self._swallows = True
                self._server.sendall(data)
        self._end()

    def answers(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._server.recv(1 << 20):
                if self._swallows:
                    break
                self._proxy.wait_while_cut()
                self._client.sendall(data)
        self._end()

    def _end(self) -> None:
        _close(self._client)
        _close(self._server)


def _close(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()


def _is_listening(one: socket.socket) -> bool:
    with contextlib.suppress(OSError):
        return bool(one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    return False
