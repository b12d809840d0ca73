"""What one attempt at one URL learns on its way: shared by socket factory, connection and fetcher.

It belongs to the attempt, not to the connection: a connection that goes back to the pool forgets its exchange.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final, Protocol

from aiohttp.http import RawResponseMessage
from msgspec import Struct

from crawler.fetch.deadline import Deadline

TUNNEL_MADE: Final = 200
"""The status that aiohttp takes for a tunnel."""


class HeadRoom(Protocol):
    """``crawler.resources.memory_budget.VisitMemory``"""

    def head(self, size: int, granted: Callable[[], None], /) -> bool: ...


class Exchange(Struct, kw_only=True, eq=False):
    """Filled in as the attempt proceeds. ``sent_at`` is monotonic time, ``sent_wall`` wall time, both in seconds."""

    proxied: bool = False
    """The socket leads to a proxy that the operator named, not to the URL's host."""
    tunnel: bool = False
    """The proxy must still be asked for a way through (CONNECT)."""
    fresh: bool = False
    """Pooled connections must not be used."""
    room: HeadRoom | None = None
    """Where memory for a long head is to be had; None: it needs not be asked for, or not any more."""
    deadline: Deadline | None = None
    """Of the attempt, once it runs."""
    first_byte_s: float = 0.0
    """From the request being written, the deadline waits so long for the first byte."""
    reused: bool = False
    tried: list[tuple[Any, ...]] = []
    """Addresses that sockets were made for since the connection was asked for."""
    handshakes: list[tuple[socket.socket, int]] | None = None
    """Sockets on which TLS begins, each with the bytes that it had received before; None: on none."""
    refused: str | None = None
    """The guard's rule, if it refused the address."""
    our_errno: int = 0
    """An error of this machine: met while connecting, or since the request; 0 if none."""
    connecting: bool = False
    """The request under way is the CONNECT."""
    unasked: bool = False
    tls: bool = False
    lost: bool = False
    ip: str | None = None
    received: int = 0
    """Bytes since the request, framing and all."""
    framing: int = 0
    """Of these, what framed the chunks of the body."""
    interim: int = 0
    """1xx responses received."""
    message: RawResponseMessage | None = None
    """The head of the final response."""
    ending: tuple[str, str] | None = None
    """(reason, detail) of a response that did not end as its framing promised."""
    sent_at: float = 0.0
    sent_wall: float = 0.0

    def begin(self, ip: str | None, *, tls: bool, unasked: bool) -> None:
        """A request is about to be written on a connection to ``ip``; ``unasked``: something has come on it already."""
        self.ip, self.tls, self.unasked = ip, tls, unasked
        self.our_errno = 0  # met at one address, and another did
        self.message = None  # a CONNECT's, if any
        self.received = self.framing = 0
        self.connecting = self.tunnel and not self.connecting
        self.sent_at = time.monotonic()
        self.sent_wall = time.time()
        if self.deadline is not None and not self.connecting:
            self.deadline.arm(self.first_byte_s, "first_byte_timeout")

    @property
    def is_sent(self) -> bool:
        """The host itself has been given the request: a proxy's tunnel is not it."""
        return self.sent_at > 0.0 and not self.connecting

    @property
    def is_through(self) -> bool:
        """The proxy has made the tunnel, and the host has not been given the request yet: what fails now is TLS with the host."""
        return self.connecting and self.message is not None and self.message.code == TUNNEL_MADE

    def forget(self) -> None:
        """The attempt is over. Callbacks of a connection keep the context they were made in, and this with it."""
        self.message = self.room = self.deadline = None


CURRENT: Final[ContextVar[Exchange | None]] = ContextVar("exchange", default=None)


def current() -> Exchange:
    """The exchange of the running task."""
    found = CURRENT.get()
    assert found is not None, "no exchange is open in this context"
    return found
