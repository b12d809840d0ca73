"""The misbehaving web site: raw sockets, so that nothing is too wrong to be said. ``sins`` says what it does.

A sin is a script: bytes are sent, floats are seconds of silence, functions do the rest. ``/sin/NAME`` plays that script,
``/good/N?bytes=M`` is a decent page of M deterministic bytes. Ports of their own: TLS servers, a name server, a proxy,
ports that answer before they are asked or never.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

Step = bytes | float | Callable[["Conn"], Awaitable[None]]
Script = Sequence[Step]


class Conn:
    """The server's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, site: Site) -> None:
        self.reader, self.writer, self.site = reader, writer, site
        self.keep = False
        """The script left the connection usable: read the next request."""

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def play(self, script: Script) -> None:
        for step in script:
            if isinstance(step, bytes):
                await self.send(step)
            elif isinstance(step, float):
                await asyncio.sleep(step)
            else:
                await step(self)

    async def reset(self) -> None:
        """RST instead of FIN."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def cut_tls(self) -> None:
        """FIN below TLS, without its close_notify."""
        ours = self.writer.get_extra_info("socket")
        if ours is None:  # the client was faster
            return
        with socket.socket(fileno=os.dup(ours.fileno())) as sock:
            sock.shutdown(socket.SHUT_RDWR)
        await self.hang()

    async def hang(self) -> None:
        """Say nothing more until the client goes."""
        while await self.reader.read(65536):
            pass

    async def stay(self) -> None:
        self.keep = True


async def rst(conn: Conn) -> None:
    await conn.reset()


async def hang(conn: Conn) -> None:
    await conn.hang()


async def stay(conn: Conn) -> None:
    await conn.stay()


async def heard(conn: Conn) -> None:
    """Wait until the client says something."""
    await conn.reader.read(1)


async def cut_tls(conn: Conn) -> None:
    await conn.cut_tls()


def once(so: Callable[[], object]) -> Callable[[Conn], Awaitable[None]]:
    """Go on as soon as it is so."""

    async def wait(conn: Conn) -> None:
        while not so():
            await asyncio.sleep(0.005)

    return wait


def forever(data: bytes, every: float = 0.0) -> Callable[[Conn], Awaitable[None]]:
    """The same bytes until the client goes."""

    async def play(conn: Conn) -> None:
        while not conn.writer.is_closing():
            await conn.send(data)
            await asyncio.sleep(every)

    return play


def head(length: int | None = None, *fields: str, status: str = "200 OK", mime: str = "text/html") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {mime}", *fields]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


def page(n: int, size: int) -> bytes:
    """The deterministic body of ``/good/N``."""
    start = b"<!doctype html><title>%d</title>" % n
    noise = b"".join(hashlib.sha256(b"%d.%d" % (n, k)).hexdigest().encode() for k in range(size // 64 + 1))
    return (start + noise)[:size]


@dataclass
class Site:
    """A running site. ``async with Site() as site``; every server listens on loopback, on ports of its own."""

    host: str = "127.0.0.1"
    port: int = 0
    scripts: dict[str, Script] = field(default_factory=dict)
    ports: dict[str, Any] = field(default_factory=dict)
    requests: list[bytes] = field(default_factory=list)
    """Heads of the last requests seen, at most REQUESTS_MAX."""
    ca_pem: bytes = b""
    name_server: Any = None
    extras: Sequence[Callable[[Site], Any]] = ()
    """Context managers for further servers; each may set ``ports``."""

    REQUESTS_MAX = 1000

    def good(self, count: int, first: int = 0) -> list[str]:
        """URLs of so many good pages, from ``/good/FIRST`` on."""
        return [f"http://127.0.0.1:{self.ports['http']}/good/{n}" for n in range(first, first + count)]

    async def __aenter__(self) -> Site:
        self._stack = contextlib.AsyncExitStack()
        self._tasks: set[asyncio.Task[None]] = set()
        self.ports["http"] = await self.listen(self.serve, port=self.port)
        for extra in self.extras:
            await self._stack.enter_async_context(extra(self))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stack.aclose()
        for _ in range(3):  # until what was aborted, TLS above its socket, has closed
            await asyncio.sleep(0)

    @property
    def connections(self) -> int:
        """Connections that clients hold open."""
        return len(self._tasks)

    async def listen(self, serve: Callable[[Conn], Awaitable[None]], port: int = 0, **options: Any) -> int:
        """Start a server; its port."""

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            try:
                await serve(Conn(reader, writer, self))
            except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                pass
            except asyncio.CancelledError:  # the site ends: what is not sent yet never will be
                writer.transport.abort()
            finally:
                self._tasks.discard(task)
                with contextlib.suppress(OSError, RuntimeError):
                    writer.close()

        server = await asyncio.start_server(handle, self.host, port, **options)
        self._stack.callback(server.close)
        return int(server.sockets[0].getsockname()[1])

    async def serve(self, conn: Conn) -> None:
        """Requests of one connection, one after the other."""
        conn.keep = True
        while conn.keep:
            conn.keep = False
            request = await conn.reader.readuntil(b"\r\n\r\n")
            self.see(request)
            await self.answer(conn, request.split(b" ", 2)[1].decode("latin-1"))

    async def answer(self, conn: Conn, target: str) -> None:
        """One request: target is the URL or its path and query."""
        parts = urlsplit(target)
        options = {key: values[0] for key, values in parse_qs(parts.query).items()}
        if parts.path.startswith("/sin/"):
            script = self.scripts.get(parts.path.removeprefix("/sin/"))
            await conn.play([head(0, status="404 Not Found"), stay] if script is None else script)
        elif parts.path.startswith("/good/"):
            body = page(int(parts.path.removeprefix("/good/")), int(options.get("bytes", 2000)))
            await conn.play([head(len(body)) + body, stay])
        else:
            await conn.play(self.index())

    def trust(self, ca_file: Path) -> None:
        """Write the authority's certificate; {ca} in a sin stands for this file."""
        ca_file.write_bytes(self.ca_pem)
        self.ports["ca"] = ca_file

    def see(self, request: bytes) -> None:
        self.requests = [*self.requests[1 - self.REQUESTS_MAX :], request]

    def index(self) -> Script:
        links = "".join(f'<li><a href="/sin/{name}">{name}</a>' for name, script in self.scripts.items() if script)
        links += "".join(f'<li><a href="/good/{n}">{n}</a>' for n in range(len(self.scripts)))
        body = f"<!doctype html><title>sins</title><ul>{links}</ul>".encode()
        return [head(len(body)) + body, stay]


@contextlib.contextmanager
def running(site: Site) -> Iterator[Site]:
    """The site in a thread with a loop of its own, for tests that each have theirs."""
    ready = threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def live() -> None:
        async with site:
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(live(),), name="site")
    thread.start()
    try:
        assert ready.wait(30), "the site did not start"
        yield site
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()
