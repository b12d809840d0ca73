"""TLS messages that carry nothing: a peer may send key updates and session tickets for ever, without a byte of a response, and
hundreds of certificates that nobody needs.

A key update of 27 bytes costs 30 µs of the loop, and is answered by one of ours that waits until the peer reads it; OpenSSL has
no limit for them (RFC 8446 4.6.3 asks for none), and a deadline cannot pass while the loop is busy with them. So what the kernel
has received of a connection is held against what came out of it.
"""

from __future__ import annotations

import fcntl
import math
import socket
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from crawler.fetch.connection import Watched
    from crawler.fetch.exchange import Exchange

LOOK_EVERY_S: Final = 1.0
HANDSHAKE_BYTES_MAX: Final = 64 << 10
"""Received before all else: certificates, and names of those that a client's may be from. Ordinary ones are 6 KiB, and clients in
Go take no more than this either. OpenSSL takes 100 KB of them, which become 1.2 MB, and keeps them all."""
FREE_BYTES: Final = 384 << 10
"""Handshake, certificates, tickets, and what is not decrypted yet: uvloop holds up to 256 KiB while reading is paused."""
REST_BYTES_MAX: Final = 16 << 10
"""Received while a connection waits for its next use: a few tickets, or a goodbye."""
FACTOR: Final = 4
"""Beyond that, so many times the content: a record of one byte takes 23."""
RECEIVE_BYTES: Final = 128 << 10
"""The kernel's receive buffer of a TLS connection. libuv reads on, up to 32 times before anything else has a turn, while a read
fills uvloop's buffer of 256 KiB: what is held back at most must be less than that (the kernel doubles this for its own needs)."""
_BYTES_RECEIVED: Final = slice(128, 136)
"""tcpi_bytes_received within struct tcp_info of tcp(7), since Linux 4.1."""


class TlsWaste:
    """The TLS connections that there are, in use or not. ``look`` ends those that waste our time."""

    def __init__(self) -> None:
        self._connections: set[Watched] = set()
        self._handshakes: set[Exchange] = set()
        self._look_at = 0.0

    @contextmanager
    def handshake(self, exchange: Exchange, sock: socket.socket | None = None) -> Iterator[None]:
        """It goes on meanwhile, on a connection that is there already or on those that are made: a peer may hold back its end."""
        exchange.handshakes = [(sock, received_bytes(sock))] if sock is not None else []
        self._handshakes.add(exchange)
        try:
            yield
        finally:
            self._handshakes.discard(exchange)
            exchange.handshakes = None

    def begin(self, connection: Watched, sock: socket.socket) -> None:
        self._connections.add(connection)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)

    def end(self, connection: Watched) -> None:
        self._connections.discard(connection)

    def look(self, now: float, *, at_once: bool) -> None:
        """Once a second at most, or ``at_once``: the loop was busy with something. Handshakes every time."""
        for exchange in self._handshakes:
            if exchange.deadline is not None and any(is_too_long(*each) for each in exchange.handshakes or ()):
                exchange.deadline.arm_at(-math.inf, "handshake")
        if at_once or now >= self._look_at:
            self._look_at = now + LOOK_EVERY_S
            for connection in list(self._connections):
                connection.end_if_wasteful()


def received_bytes(sock: socket.socket) -> int:
    """What the kernel has received of a connection since it was made; 0 once it is closed, of which not all are told at once."""
    with suppress(OSError, ValueError):  # uvloop's has no descriptor then
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_RECEIVED.stop)
        return int.from_bytes(info[_BYTES_RECEIVED], sys.byteorder)
    return 0


def is_too_long(sock: socket.socket, before: int) -> bool:
    """Whether more came in a handshake than may. ``before``: bytes that the kernel had received when it began."""
    return received_bytes(sock) - before > HANDSHAKE_BYTES_MAX


def is_wasteful(sock: socket.socket, content_bytes: int) -> bool:
    """Whether far more was received of a TLS connection than the content that came out of it."""
    received = received_bytes(sock)
    if received <= FREE_BYTES + (1 + FACTOR) * content_bytes:
        return False
    unread = int.from_bytes(fcntl.ioctl(sock.fileno(), termios.FIONREAD, bytes(4)), sys.byteorder)
    return received - unread > FREE_BYTES + (1 + FACTOR) * content_bytes
