"""aiohttp's connection, observed: a response belongs to the request that was written to it, and how it ended is known.

Invariants: at most one final response per request is ever handed on. A byte that nobody asked for ends the connection. A
connection goes back to the pool only if its response ended exactly where the framing said (RFC 9112 sections 6.3 and 9.3).
aiohttp alone keeps a connection on which more arrived, and reads that as the response to the next request.
"""

from __future__ import annotations

import asyncio
import ctypes
import re
import select
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final

from aiohttp.client_exceptions import ServerDisconnectedError
from aiohttp.client_proto import ResponseHandler
from aiohttp.helpers import EMPTY_BODY_STATUS_CODES
from aiohttp.http import RawResponseMessage
from aiohttp.http_exceptions import LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

from crawler.core.errors import our_errno
from crawler.fetch.chunks import Chunks
from crawler.fetch.exchange import CURRENT, Exchange
from crawler.fetch.framing import content_length, head_fault, is_indented, may_be_kept, mended, stays_open
from crawler.fetch.tls_waste import REST_BYTES_MAX, TlsWaste, is_wasteful, received_bytes

_START: Final = b"HTTP/"
"""Of a head. The parser would take RTSP/ and ICE/ as well."""
TLS_HELD_BYTES: Final = 64 << 10
"""While reading is paused, TLS takes no more from the kernel once it holds so much: by itself it would take 256 KiB, and then up
to 256 KiB more."""
TLS_AGAIN_BYTES: Final = 32 << 10
"""With so much it goes on: more than a record, so that it never waits for the rest of one."""
LONG_HEAD_BYTES: Final = 16 << 10
"""A head that grows beyond this is received when there is memory for as much as a head may have."""
PIECES_MAX: Final = 1024
"""Of a body that nobody reads: the list of them, and what Python takes for each, take some 60 KiB."""
_head_end: Final = re.compile(rb"\n\r?\n").search
"""A bare line feed ends a line, for the parser too (RFC 9112 section 2.2)."""
_UNKNOWN: Final = -1


class _PollFd(ctypes.Structure):
    """struct pollfd of poll(2)."""

    _fields_ = (("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short))


_poll: Final = ctypes.PyDLL(None).poll
"""Keeps the interpreter's lock, unlike ``select.poll``: it never waits, and giving the lock away for each fetch would hand
the loop's time to whichever thread wants it, five milliseconds at once."""


class Watched(ResponseHandler):
    """One connection. From ``set_response_params`` to the end of the response it belongs to an Exchange.

    aiohttp's parser is given whole heads, and nothing else: bodies are framed here.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        head_bytes_max: int,
        interim_max: int,
        on_lost: Callable[[Watched], None] = lambda connection: None,
        tls_waste: TlsWaste | None = None,
    ) -> None:
        super().__init__(loop)
        self._on_lost = on_lost
        self._tls_waste = tls_waste
        self._content_bytes = 0
        self._head_bytes_max = head_bytes_max
        self._interim_max = interim_max
        self._exchange: Exchange | None = None
        self._params: dict[str, Any] = {}
        self._head = bytearray()  # what has come of one
        self._judged_bytes = 0  # of that, when it was last asked whether it can still become one
        self._held = b""  # what has come of a long head that waits for memory
        self._lost: tuple[BaseException | None] | None = None  # how the connection ended while it did: told once that is read
        self._is_granted = False  # there is memory, but the connection is being closed
        self._left = _UNKNOWN
        self._chunks: Chunks | None = None
        self._dirty = False
        self._closed_in_order = False
        self._unread: Any = None  # a pointer to a _PollFd, made once: it costs more than the call
        self._sock: socket.socket | None = None  # of a TLS connection
        self.ip: str | None = None
        """The peer's address."""
        self.is_tls = False
        self.handshake_bytes = 0
        """Received before all else, by TLS: mostly certificates."""
        self.largest_bytes = 0
        """By TLS: most that came at a time: a handshake, or what came for one response, with tickets."""
        self._wire_bytes = 0  # received by TLS when the last response ended

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        self.ip = str(peer[0]) if isinstance(peer, tuple) and peer else None
        self.is_tls = transport.get_extra_info("sslcontext") is not None
        sock = transport.get_extra_info("socket")
        self._unread = ctypes.byref(_PollFd(sock.fileno(), select.POLLIN)) if sock is not None else None
        if self.is_tls and sock is not None and self._tls_waste is not None:
            self._sock = sock
            self._tls_waste.begin(self, sock)
            transport.set_read_buffer_limits(TLS_HELD_BYTES, TLS_AGAIN_BYTES)  # type: ignore[attr-defined]  # asyncio's and uvloop's have it
            self.handshake_bytes = self.largest_bytes = self._wire_bytes = received_bytes(sock)

    def hand_over(self) -> None:
        """A tunnel is made: what is received from here on is the host's, by a protocol of its own, which is also told of the end.
        What this one holds would keep its transport, with buffers of some 500 KiB, in a cycle."""
        self.transport = self._parser = self._payload = self._exchange = None
        if self._tls_waste is not None:
            self._tls_waste.end(self)

    @property
    def idle(self) -> bool:
        """Connected, its last response over, and nothing but that ever received."""
        transport = self.transport
        if self._exchange is not None or self._dirty or transport is None or self.should_close:
            return False
        return not transport.is_closing()

    def rest(self) -> None:
        """It waits for its next use. The payload may have what nobody has read."""
        self._parser = self._payload = None

    def is_quiet(self) -> bool:
        """Of a connection that was idle: it still is, and nothing lies unread in the kernel: neither bytes, which would be the
        response to what was not asked yet, nor the peer's FIN."""
        if self._exchange is not None or self._dirty or self._unread is None or self._is_over():
            return False
        return bool(_poll(self._unread, 1, 0) == 0)

    def set_response_params(self, **params: Any) -> None:
        """A request is about to be written: its exchange is that of the running task."""
        exchange = CURRENT.get()
        assert exchange is not None
        exchange.begin(self.ip, tls=self.is_tls, unasked=self._dirty)
        self._exchange = exchange
        self._head.clear()
        self._judged_bytes = 0
        self._held = b""
        self._left = _UNKNOWN
        self._chunks = None
        self._params = params
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        self._content_bytes += len(data)
        exchange = self._exchange
        if exchange is None:
            if data:
                self._dirty = True
                self._drop()
            return
        exchange.received += len(data)
        if self._held:  # reading is paused, and what was under way comes all the same
            self._held += data
        else:
            self._receive(data, exchange)

    def _receive(self, data: bytes, exchange: Exchange) -> None:
        if exchange.message is None:
            data = self._feed_head(data, exchange)
        if exchange.message is not None and self._exchange is not None and (data or not self._left):
            self._feed_body(data, exchange)

    def pause_reading(self) -> None:
        """aiohttp's own would tell the parser."""
        self._reading_paused = True
        self._pause_transport_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """aiohttp asks for it at every chunk that is read, and at each end."""
        if self._reading_paused:
            self._reading_paused = False
            self._resume_transport_reading()

    # -- head -----------------------------------------------------------------------------------------------------

    def _feed_head(self, data: bytes, exchange: Exchange) -> bytes:
        """Heads, one at a time, until the final one is there; the bytes after it. Linear in the data, however many heads or
        empty lines it holds."""
        at, size = 0, len(data)
        most = size - (exchange.received - self._head_bytes_max)  # the place that no head may go beyond
        while at < size and not self._is_over():
            if not self._head and data[at] in b"\r\n":  # empty lines before a head (RFC 9112 section 2.2)
                at = size - len(data[at:].lstrip(b"\r\n"))
                continue
            if not _START.startswith((self._head[: len(_START)] + data[at : at + len(_START)])[: len(_START)]):
                self._fail("malformed", "not HTTP")
                break
            end = self._end_of_head(data, at)
            behind = size if end < 0 else end
            if len(self._head) + behind - at > LONG_HEAD_BYTES and not self._has_room(exchange):
                self._wait_for_room(data[at:], exchange)
                return b""
            if behind > most:
                self._head.extend(data[at:most])
                self._judge()  # it may be known better what is wrong with it
                self._fail_as_too_large()
                break
            if end < 0:
                self._head.extend(data[at:])
                if len(self._head) >= 2 * self._judged_bytes:  # linear, in however small pieces it comes
                    self._judge()
                break
            head = bytes(self._head) + data[at:end] if self._head else data[at:end]
            self._head.clear()
            self._judged_bytes = 0
            self._take_head(head, exchange)
            at = end
            if exchange.message is not None:
                return data[at:]
        if size > most and not self._is_over():  # empty lines
            self._fail_as_too_large()
        return b""

    def _fail_as_too_large(self) -> None:
        self._fail("header_too_large", f"a head of over {self._head_bytes_max} bytes")

    def _end_of_head(self, data: bytes, at: int) -> int:
        """The place behind the end of the head that goes on at ``at``; -1 if it is not in the data. It may have begun in what
        came before."""
        if (before := self._head[-2:]) and (seam := _head_end(before + data[at : at + 2])) is not None:
            return at + seam.end() - len(before)
        found = _head_end(data, at)
        return found.end() if found is not None else -1

    def _take_head(self, head: bytes, exchange: Exchange) -> None:
        """Interim responses are counted and dropped; the final one is handed on, and its body begins."""
        if is_indented(head):
            self._fail("malformed", "white space before the first field")
        elif (parsed := self._parse(head, may_be_mended=True)) is None:
            self._fail("malformed", "no empty line behind the head")
        elif 100 <= parsed[0].code < 200 and parsed[0].code != 101:
            exchange.interim += 1
            self._should_close |= parsed[0].should_close
            self._renew_parser()  # whatever its fields say of a body or an end, another follows (RFC 9110 15.2)
            if exchange.interim > self._interim_max:
                self._fail("too_many_interim", f"over {self._interim_max}")
        elif fault := head_fault(parsed[0]):
            self._fail(*fault)
        else:
            self._hand_on(*parsed, exchange)

    def _parse(self, head: bytes, *, may_be_mended: bool) -> tuple[RawResponseMessage, StreamReader] | None:
        """The response that a head begins; None if it is refused, or if the parser sees other ends: an empty value before
        "\\r\\r\\n" is one for it. What it refuses and browsers do not is tried again, as they read it."""
        assert self._parser is not None
        try:
            messages, _, _ = self._parser.feed_data(head)
        except Exception as error:
            reason, detail = _parser_reason(error)
            if may_be_mended and reason == "malformed" and (other := mended(head)) is not None:
                self._renew_parser()
                return self._parse(other, may_be_mended=False)
            self._fail(reason, detail)
            return None
        if len(messages) != 1:
            return None
        message, payload = messages[0]
        has_read_on = payload.total_bytes or (message.chunked and payload.is_eof() and not self._is_bodiless(message))
        return None if has_read_on else (message, payload)

    def _is_bodiless(self, message: RawResponseMessage) -> bool:
        return self._skip_payload or message.code in EMPTY_BODY_STATUS_CODES

    def _judge(self, *, is_all: bool = False) -> None:
        """Fail if what has come of a head cannot become one, whatever follows: a server that sends no more, or a flood, is
        not waited for. Of its last line only if that ``is_all`` there will be: the next may go on with it, as what has come of
        that one may."""
        self._judged_bytes = len(self._head)
        end = self._head.rfind(b"\n", 0, None if is_all else -1) + 1
        while end and self._head.startswith((b" ", b"\t"), end):
            end = self._head.rfind(b"\n", 0, end - 1) + 1
        self._parse(bytes(self._head[:end]) + b"\r\n" if end else bytes(self._head), may_be_mended=True)
        self._renew_parser()

    def _renew_parser(self) -> None:
        super().set_response_params(**self._params)

    def _hand_on(self, message: RawResponseMessage, payload: StreamReader, exchange: Exchange) -> None:
        exchange.message = message
        if not may_be_kept(message):
            self._should_close = True
        elif not (self._skip_payload and stays_open(message)):  # one to HEAD without a length: the parser thinks that it closes
            self._should_close |= message.should_close
        if payload.is_eof():
            self._left = 0
        elif message.chunked:
            self._chunks = Chunks(self._head_bytes_max)
        elif (length := content_length(message)) is not None:
            self._left = length
        self._parser = None  # which has all of the head, twice: half a megabyte, of a long one
        self._payload = payload
        self.feed_data((message, EMPTY_PAYLOAD if self._is_bodiless(message) else payload), 0)

    # -- a long head that waits for memory ------------------------------------------------------------------------

    def _has_room(self, exchange: Exchange) -> bool:
        """Whether there is memory for a long head. Asked once for each exchange: if not, ``_go_on`` is called when there is."""
        room, exchange.room = exchange.room, None
        return room is None or room.head(self._head_bytes_max, self._go_on)

    def _wait_for_room(self, data: bytes, exchange: Exchange) -> None:
        """Nothing is read until there is memory, and no deadline passes."""
        self._held = data
        self._pause_transport_reading()
        if exchange.deadline is not None:
            exchange.deadline.hold()

    def _go_on(self) -> None:
        """There is memory for the head. A connection that is just being closed goes on as soon as it is lost: it cannot be fed
        until then."""
        exchange = self._exchange
        if exchange is None or self.transport is None:
            return
        if exchange.deadline is not None:
            exchange.deadline.go_on()
        if self._lost is None:
            self._resume_transport_reading()
            self._is_granted = self.transport.is_closing()
            if self._is_granted:
                return
        self._feed_held(exchange)

    def _feed_held(self, exchange: Exchange) -> None:
        held, self._held = self._held, b""
        self._receive(held, exchange)
        self._end_wait()

    def _end_wait(self) -> None:
        """No head waits any more. A connection that was lost while one did: now it is."""
        self._held = b""
        if self._lost is not None:
            (exc,), self._lost = self._lost, None
            self.connection_lost(exc)

    # -- body -----------------------------------------------------------------------------------------------------

    def _feed_body(self, data: bytes, exchange: Exchange) -> None:
        payload, chunks = self._payload, self._chunks
        if payload is None:
            return
        size = len(data)
        if chunks is not None:
            data = chunks.feed(data)
            exchange.framing = chunks.framing
            self._dirty |= not chunks.is_exact
            is_over = chunks.is_over
        elif self._left != _UNKNOWN:
            data = data[: self._left]
            self._dirty |= len(data) < size
            self._left -= len(data)
            is_over = not self._left
        else:
            is_over = False
        if data:
            payload.feed_data(data)
            if len(payload._buffer) > PIECES_MAX:  # aiohttp's own bound is one of bytes
                self.pause_reading()
        if chunks is not None and chunks.fault is not None:
            self._fail(*chunks.fault)
        elif is_over:
            self._exchange = None
            if self._sock is not None:
                self._weigh(self._sock)
            if self._dirty or exchange.ending is not None:
                self._drop()
            if not payload.is_eof():
                payload.feed_eof()

    def _weigh(self, sock: socket.socket) -> None:
        """A response is over: what came for it, of which a part may be TLS's own."""
        if not self._is_over():
            before, self._wire_bytes = self._wire_bytes, received_bytes(sock)
            self.largest_bytes = max(self.largest_bytes, self._wire_bytes - before)

    # -- endings --------------------------------------------------------------------------------------------------

    def eof_received(self) -> None:
        self._read_out()
        super().eof_received()

    def _read_out(self) -> None:
        """What TLS holds, and whether the peer's goodbye is behind it: asyncio reports the bare end of the connection just alike,
        and uvloop drops what came while reading was paused."""
        tls = self.transport.get_extra_info("ssl_object") if self.transport is not None else None
        try:
            while tls is not None and (data := tls.read(TLS_HELD_BYTES)):
                self.data_received(data)
            self._closed_in_order = True
        except ssl.SSLError as error:
            self._closed_in_order = isinstance(error, ssl.SSLZeroReturnError)

    def connection_lost(self, exc: BaseException | None) -> None:
        if (self._reading_paused or self._held) and self._lost is None and self._exchange is not None:
            self._read_out()
        if self._held:  # what has come may be a whole response: TLS tells of its peer's goodbye though reading is paused
            self._lost, self._sock = (exc,), None
            if self._is_granted and self._exchange is not None:
                self._feed_held(self._exchange)
            return
        exchange, payload = self._exchange, self._payload
        if exchange is not None:
            exchange.lost = True
            exchange.our_errno = our_errno(exc)
            if exchange.message is None:
                if self._head and exchange.ending is None:
                    self._judge(is_all=True)
            else:
                if exchange.ending is None and payload is not None and not payload.is_eof():
                    exchange.ending = self._cut(exchange, exc)
                self._end_payload()
        else:
            self._payload = None  # it is whole, though the parser may not have seen it
        super().connection_lost(exc)
        self._exchange = None
        if self._tls_waste is not None:
            self._tls_waste.end(self)
        self._on_lost(self)

    def _cut(self, exchange: Exchange, exc: BaseException | None) -> tuple[str, str] | None:
        """Why a body that was not complete is cut. One that lasts until the connection closes must see it closed in
        order: FIN, and under TLS a close_notify (RFC 9112 section 9.8)."""
        assert exchange.message is not None
        detail = "connection reset" if exc is not None else "connection closed"
        if exchange.message.chunked:
            return "chunked", detail
        if self._left != _UNKNOWN:
            return "content_length", detail
        if exc is not None or (exchange.tls and not self._closed_in_order):
            return "cut", detail
        return None

    def _end_payload(self) -> None:
        """Let the reader have all that arrived, then the end; ``ending`` says what kind of end it was."""
        payload, self._payload = self._payload, None
        if payload is not None and not payload.is_eof():
            payload.feed_eof()

    def _is_over(self) -> bool:
        return self.transport is None or (self.transport.is_closing() and self._lost is None)

    def _fail(self, reason: str, detail: str) -> None:
        exchange = self._exchange
        if exchange is None:  # a fault before this one ended a connection that was lost while its head waited
            return
        if exchange.ending is None:
            exchange.ending = (reason, detail)
        self._dirty = True
        self.set_exception(ServerDisconnectedError())
        self._end_payload()
        self._drop()

    def close(self) -> None:
        """At once: a TLS connection that says goodbye first reads on for as long as 30 s."""
        self.abort()

    def abort(self) -> None:
        super().abort()
        self._end_wait()

    def end_if_wasteful(self) -> None:
        """Of a TLS connection: end it if what it receives is hardly content, or if it receives much at rest: it was counted
        before that. One that is over is counted no more: uvloop never tells the end of a connection whose task is cancelled just
        as its handshake is done."""
        if self._is_over() and self._tls_waste is not None:
            self._tls_waste.end(self)
        if self._is_over() or self._sock is None:
            return
        if self._exchange is None:
            if received_bytes(self._sock) > self._wire_bytes + REST_BYTES_MAX:
                self._drop()
        elif is_wasteful(self._sock, self._content_bytes):
            self._fail("malformed", "TLS messages that carry nothing")

    def _drop(self) -> None:
        self.force_close()
        self._end_wait()
        if self.transport is not None:
            self.transport.abort()


def _parser_reason(error: BaseException) -> tuple[str, str]:
    if isinstance(error, LineTooLong):
        return "header_too_large", "a line of a response's head"
    message = str(error)
    if "Too many headers" in message:
        return "too_many_headers", ""
    return "malformed", " ".join(message.split())[:100]
