"""A wire that can be pinched: a TCP proxy between two programs, which passes everything on until it is told otherwise."""

import contextlib
import selectors
import socket
import threading
from collections.abc import Callable, Iterator


class Wire:
    """Client programs connect to ``port``. ``up`` and ``down`` see what passes to the server and back, and return what is to
    pass on: less, nothing (b""), or all of it. ``cut`` breaks all connections, and refuses new ones until ``mend``."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self.up: Callable[[bytes], bytes] = lambda data: data
        self.down: Callable[[bytes], bytes] = lambda data: data
        self._is_cut = False
        self._peers: dict[socket.socket, tuple[socket.socket, bool]] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._lock = threading.Lock()
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def cut(self) -> None:
        with self._lock:
            self._is_cut = True
            for one in list(self._peers):
                self._drop(one)

    def mend(self) -> None:
        self._is_cut = False

    def close(self) -> None:
        self._is_closed.set()
        self._thread.join()
        self.cut()
        self._listener.close()
        self._selector.close()

    def _run(self) -> None:
        while not self._is_closed.is_set():
            for key, _ in self._selector.select(0.05):
                with self._lock:
                    if key.fileobj is self._listener:
                        self._accept()
                    elif key.fileobj in self._peers:
                        self._pass(key.fileobj)  # type: ignore[arg-type]

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        try:
            if self._is_cut:
                raise OSError
            server = socket.create_connection(self._target, timeout=5)
        except OSError:
            client.close()
            return
        self._peers[client], self._peers[server] = (server, True), (client, False)
        for one in (client, server):
            one.settimeout(5)
            self._selector.register(one, selectors.EVENT_READ)

    def _pass(self, one: socket.socket) -> None:
        other, is_up = self._peers[one]
        try:
            data = one.recv(65536)
            passed = (self.up if is_up else self.down)(data)
            if passed:
                other.sendall(passed)
        except OSError:
            data = b""
        if not data:
            self._drop(one)

    def _drop(self, one: socket.socket) -> None:
        if one not in self._peers:
            return
        for end in (one, self._peers[one][0]):
            self._selector.unregister(end)
            del self._peers[end]
            end.close()


@contextlib.contextmanager
def wire(port: int, host: str = "127.0.0.1") -> Iterator[Wire]:
    one = Wire((host, port))
    try:
        yield one
    finally:
        one.close()
