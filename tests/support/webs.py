"""Webs made for a test: what each host answers, served over real sockets, and everything that was asked, with its times.

Every address of 127.0.0.0/8 and every name is a host of its own, all on one port; names need ``--dns`` (see ``Web.dns``).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


class Visit(NamedTuple):
    """One request. ``ended`` is stamped before the last bytes leave: whoever asked cannot know it earlier."""

    host: str
    path: str
    begun: float
    ended: float
    agent: str
    fields: Mapping[str, str] = {}
    """Header fields of the request; names and values in lower case."""


@dataclass(frozen=True)
class Answer:
    """It begins once ``until`` says so, and ``wait`` seconds later; ``hang``: it never does. ``body`` is encoded already."""

    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    mime: str | None = "text/html; charset=utf-8"
    wait: float = 0.0
    hang: bool = False
    until: Callable[[], object] | None = None


Page = Answer | Callable[[], Answer]

NOT_FOUND = Answer(404)


def page(*links: str, **fields) -> Answer:
    """HTML that links to these."""
    return Answer(body="".join(f'<a href="{link}">{n}</a>' for n, link in enumerate(links)).encode(), **fields)


def redirect(location: str, status: int = 302) -> Answer:
    return Answer(status, headers=(("Location", location),))


def text(body: str, **fields) -> Answer:
    return Answer(body=body.encode(), mime="text/plain", **fields)


@dataclass
class Web:
    """``hosts``: name or address → path with query → what is there. ``default``: for paths that stand nowhere."""

    hosts: Mapping[str, Mapping[str, Page]] = field(default_factory=dict)
    default: Callable[[str, str], Answer] = lambda host, path: NOT_FOUND
    visits: list[Visit] = field(default_factory=list)
    port: int = 0
    dns_port: int = 0

    def url(self, host: str, path: str = "/") -> str:
        return f"http://{host}:{self.port}{path}"

    @property
    def dns(self) -> str:
        return f"127.0.0.1:{self.dns_port}"

    def asked(self, host: str | None = None) -> Counter[str]:
        """Paths asked for at a host; at all hosts, URLs."""
        if host is None:
            return Counter(self.url(visit.host, visit.path) for visit in self.visits)
        return Counter(visit.path for visit in self.visits if visit.host == host)

    def reset(self, hosts: Mapping[str, Mapping[str, Page]]) -> None:
        """Another web at the same port."""
        self.hosts, self.visits = hosts, []

    def catch_up(self) -> None:
        """Returns when everything that was sent before has been noticed: a loaded machine may be late."""
        with socket.create_connection(("127.0.0.1", self.port)) as asking:
            asking.sendall(b"OPTIONS * HTTP/1.1\r\n\r\n")
            asking.recv(1)

    def answer(self, host: str, path: str) -> Answer:
        found = self.hosts.get(host, {}).get(path)
        if found is None:
            return self.default(host, path)
        return found if isinstance(found, Answer) else found()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                request = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                begun, visits = time.monotonic(), self.visits
                path = request.split(" ", 2)[1]
                if path == "*":  # catch_up
                    break
                fields = dict(line.lower().split(": ", 1) for line in request.split("\r\n")[1:] if line)
                host = fields["host"].rpartition(":")[0]
                answer = self.answer(host, path)
                if answer.hang:
                    visits.append(Visit(host, path, begun, float("inf"), fields["user-agent"]))
                    await reader.read()
                    break
                while answer.until is not None and not answer.until():
                    await asyncio.sleep(0.005)
                if answer.wait:
                    await asyncio.sleep(answer.wait)
                visits.append(Visit(host, path, begun, time.monotonic(), fields["user-agent"], fields))
                if (tag := dict(answer.headers).get("ETag")) and tag == fields.get("if-none-match"):
                    answer = Answer(304, headers=answer.headers, mime=None)
                writer.write(_encoded(answer))
                await writer.drain()
        with contextlib.suppress(OSError):
            writer.close()

    @contextlib.contextmanager
    def running(self) -> Iterator[Web]:
        """In a thread with a loop of its own."""
        loop = asyncio.new_event_loop()
        ready, stop = threading.Event(), asyncio.Event()
        thread = threading.Thread(target=loop.run_until_complete, args=(self._live(ready, stop),), name="web")
        thread.start()
        try:
            assert ready.wait(30), "the web did not start"
            yield self
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join()
            loop.close()

    async def _live(self, ready: threading.Event, stop: asyncio.Event) -> None:
        tasks: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(_tracked(self.serve, tasks), "0.0.0.0", self.port, backlog=1000)
        self.port = server.sockets[0].getsockname()[1]
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(_NameServer, local_addr=("127.0.0.1", 0))
        self.dns_port = transport.get_extra_info("sockname")[1]
        ready.set()
        await stop.wait()
        transport.close()
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _tracked(serve: Callable[..., Awaitable[None]], tasks: set[asyncio.Task[None]]) -> Callable[..., Awaitable[None]]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await serve(reader, writer)
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            tasks.discard(task)

    return handle


def _encoded(answer: Answer) -> bytes:
    lines = [f"HTTP/1.1 {answer.status} Whatever", f"Content-Length: {len(answer.body)}"]
    if answer.mime is not None:
        lines.append(f"Content-Type: {answer.mime}")
    lines += [f"{name}: {value}" for name, value in answer.headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + answer.body


class _NameServer(asyncio.DatagramProtocol):
    """Every name is 127.0.0.1, but for those under ``.nowhere``."""

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        at, name = 12, b""
        while data[at]:
            name, at = data[at + 1 : at + 1 + data[at]], at + 1 + data[at]
        question = data[12 : at + 5]
        missing = name.lower() == b"nowhere"
        records = [socket.inet_aton("127.0.0.1")] if question[-4:-2] == b"\0\1" and not missing else []
        answers = b"".join(b"\xc0\x0c" + question[-4:] + struct.pack(">IH", 60, len(record)) + record for record in records)
        head = struct.pack(">HHHHH", 0x8183 if missing else 0x8180, 1, len(records), 0, 0)
        self.transport.sendto(data[:2] + head + question + answers, addr)
