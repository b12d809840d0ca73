"""TLS before a webfarm: for each connection one to the web, bytes handed on as they come. Ends with its parent.

    python tests/benchmarks/tls_front.py PORT WEB_PORT HOSTS CA_FILE

Every host has a certificate of its own, from an authority made at the start and written to CA_FILE; "ready" is printed when
all of them listen. The CPU it takes is the server's: no figure of a client counts it.
"""

from __future__ import annotations

import asyncio
import ctypes
import signal
import ssl
import sys
from functools import partial
from pathlib import Path
from typing import cast

import trustme
import uvloop

BACKLOG = 256
PR_SET_PDEATHSIG = 1


class Side(asyncio.Protocol):
    """One of the two connections of a pair. What arrives before the other one is there waits in ``early``."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.other: Side | None = None
        self.early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.other is None or self.other.transport is None:
            self.early.append(data)
        else:
            self.other.transport.write(data)

    def pause_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()


class Front(Side):
    """The client's side: it opens the web's."""

    def __init__(self, web_port: int, opening: set[asyncio.Task[None]]) -> None:
        super().__init__()
        self._web_port, self._opening = web_port, opening

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        task = asyncio.ensure_future(self._open())
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open(self) -> None:
        assert self.transport is not None
        back = Side()
        back.other = self
        await asyncio.get_running_loop().create_connection(lambda: back, "127.0.0.1", self._web_port)
        assert back.transport is not None
        self.other = back
        if self.transport.is_closing():
            back.transport.close()
        back.transport.writelines(self.early)
        self.early.clear()


def address(host: int) -> str:
    """As webfarm numbers its hosts."""
    return f"127.{1 + host // 62500}.{1 + host // 250 % 250}.{1 + host % 250}"


async def main(port: int, web_port: int, hosts: int, ca_file: Path) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    authority = trustme.CA()
    front = partial(Front, web_port, set())
    for host in range(hosts):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(address(host)).configure_cert(context)
        await asyncio.get_running_loop().create_server(front, address(host), port, ssl=context, backlog=BACKLOG)
    authority.cert_pem.write_to_path(str(ca_file))
    print("ready", flush=True)
    await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(*map(int, sys.argv[1:4]), Path(sys.argv[4])))
