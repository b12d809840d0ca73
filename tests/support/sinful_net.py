"""Servers of the misbehaving site beside its HTTP one: TLS, a name server, proxies, ports that refuse or swallow."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import socket
import ssl
import struct
import tempfile
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Final

import trustme

from support.sinful import Conn, Script, Site, forever, hang, head, heard, rst

CERTIFICATES: Final = (
    *("good", "self-signed", "expired", "not-yet", "wrong-host", "wants-certificate", "only-1.2", "only-1.1"),
    *("long-chain", "refuses-name", "other-protocol", "wildcard", "tickets"),
)
TICKETS: Final = 4000
"""Of some 250 bytes each, all sent after the handshake."""
HANDSHAKES: Final[dict[str, Script]] = {
    # port name: what is said instead of a handshake
    "hang": [hang],
    "drip": [b"\x16\x03\x03\x40\x00", forever(b"\x02", 0.05)],
    "plain-http": [head(0, status="400 Bad Request")],
    "garbage": [bytes(range(256)) * 20, hang],
    "close": [],
    "reset": [rst],
    "alert": [b"\x15\x03\x03\x00\x02\x02\x28"],
    "old-version": [b"\x15\x03\x01\x00\x02\x02\x46"],
    "endless-records": [forever(b"\x16\x03\x03\x40\x00" + bytes(0x4000))],
}
PROXIES: Final[dict[str, Script]] = {
    # port name: what a proxy says, whatever it is asked
    "403": [head(0, status="403 Forbidden"), hang],
    "407": [head(0, "Proxy-Authenticate: Basic", status="407 Proxy Authentication Required"), hang],
    "garbage": [b"garbage\r\n\r\n", hang],
    "close": [],
    "hang": [hang],
    "endless-head": [b"HTTP/1.1 200 OK\r\nA: ", forever(b"b" * 8192)],
    "tunnel-closed": [b"HTTP/1.1 200 OK\r\n\r\n", heard],
    "tunnel-spoilt": [head(2) + b"more", hang],
    "tunnel-chunked": [head(None, "Transfer-Encoding: chunked") + b"no chunk\r\n", hang],
    "not-tls": [b"HTTP/1.1 200 OK\r\n\r\n", heard, b"this is no TLS" * 100, hang],
}
BANNERS: Final[dict[str, Script]] = {
    "ssh": [b"SSH-2.0-OpenSSH_9.2\r\n", hang],
    "smtp": [b"220 mail.example ESMTP\r\n", hang],
}

Serve = Callable[[Conn], Awaitable[None]]


def saying(script: Script, *, after_request: bool = False) -> Serve:
    """A server that knows one script."""

    async def serve(conn: Conn) -> None:
        if after_request:
            conn.site.see(await conn.reader.readuntil(b"\r\n\r\n"))
        await conn.play(script)

    return serve


@contextlib.asynccontextmanager
async def tls_ports(site: Site) -> AsyncIterator[None]:
    """``tls-NAME`` for CERTIFICATES and HANDSHAKES; ``site.ca_pem`` is the authority to trust."""
    ca = trustme.CA()
    site.ca_pem = ca.cert_pem.bytes()
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    for name in CERTIFICATES:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        issuer = trustme.CA() if name == "self-signed" else ca
        names = {"wrong-host": ["elsewhere.test"], "wildcard": ["*.sin.test"]}
        identities = names.get(name, ["localhost", *(f"127.0.0.{n}" for n in range(1, 100))])
        dates = {"expired": {"not_after": now - day}, "not-yet": {"not_before": now + day}}.get(name, {})
        issuer.issue_cert(*identities, **dates).configure_cert(context)
        if name == "good":
            site.ports["proxy-tls"] = await site.listen(_proxy, ssl=context)
        if name == "only-1.2":
            context.maximum_version = ssl.TLSVersion.TLSv1_2
        if name == "only-1.1":
            context.set_ciphers("ALL:@SECLEVEL=0")
            with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
                context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
        if name == "long-chain":
            _chain(context, ca)
        if name == "refuses-name":
            context.sni_callback = lambda *_: ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        if name == "other-protocol":
            context.set_alpn_protocols(["h2"])
        if name == "wants-certificate":
            context.verify_mode = ssl.CERT_REQUIRED
            site.ports[f"tls-{name}"] = await site.listen(_refusing(context))
        elif name == "tickets":
            context.num_tickets = TICKETS
            site.ports["tls-tickets"] = await site.listen(saying([hang]), ssl=context)
        else:
            site.ports[f"tls-{name}"] = await site.listen(site.serve, ssl=context)
    for name, script in HANDSHAKES.items():
        site.ports[f"tls-{name}"] = await site.listen(saying(script))
    yield


def _chain(context: ssl.SSLContext, ca: trustme.CA) -> None:
    """As many certificates as take 300 KiB."""
    leaf = ca.issue_cert("localhost")
    with tempfile.NamedTemporaryFile() as file:
        file.write(leaf.private_key_and_cert_chain_pem.bytes() + ca.cert_pem.bytes() * 600)
        file.flush()
        context.load_cert_chain(file.name)


def _refusing(context: ssl.SSLContext) -> Serve:
    """TLS by hand, so that the alert of a failed handshake is sent before the end."""

    async def serve(conn: Conn) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_side=True)
        failed = False
        while not failed:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                failed = True
            await conn.send(outgoing.read())
            if not failed:
                if not (data := await conn.reader.read(65536)):
                    return  # the client has gone in the middle
                incoming.write(data)
        await conn.hang()

    return serve


@contextlib.asynccontextmanager
async def proxy_ports(site: Site) -> AsyncIterator[None]:
    """``proxy-NAME`` for PROXIES, and ``proxy-good``, which does its work."""
    site.ports["proxy-good"] = await site.listen(_proxy)
    for name, script in PROXIES.items():
        site.ports[f"proxy-{name}"] = await site.listen(saying(script, after_request=True))
    yield


async def _proxy(conn: Conn) -> None:
    """CONNECT is tunnelled to loopback; anything else is answered as the site would, whatever its host."""
    request = await conn.reader.readuntil(b"\r\n\r\n")
    conn.site.see(request)
    method, target, _ = request.split(b" ", 2)
    if method != b"CONNECT":
        await conn.site.answer(conn, target.decode())
        return
    reader, writer = await asyncio.open_connection("127.0.0.1", int(target.rpartition(b":")[2]))
    await conn.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
    try:
        async with asyncio.TaskGroup() as both:
            both.create_task(_pump(conn.reader, writer))
            both.create_task(_pump(reader, conn.writer))
    finally:
        writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError, RuntimeError):
        writer.close()


@contextlib.asynccontextmanager
async def odd_ports(site: Site) -> AsyncIterator[None]:
    """``closed`` refuses, ``full`` swallows connection attempts, ``banner-NAME`` speaks first."""
    for name, script in BANNERS.items():
        site.ports[f"banner-{name}"] = await site.listen(saying(script))
    with _bound() as closed, _bound() as full, contextlib.ExitStack() as waiting:
        site.ports["closed"] = closed.getsockname()[1]
        site.ports["full"] = full.getsockname()[1]
        full.listen(0)
        for _ in range(3):  # Linux lets one more than the backlog in; the rest of the SYNs are dropped
            one = waiting.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        yield


def _bound() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    return sock


class NameServer(asyncio.DatagramProtocol):
    """Answers by the first label of the name, or as it is told by ``says``: see ``_answer``. ``asked`` are the names of all
    queries, ``by_tcp`` the first labels of those that came by TCP."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.ttl_s = 0
        self.remembers: set[str] | None = None
        """Those that alone do not fail."""
        self.by_tcp: list[str] = []
        self._said: dict[str, tuple[str, bool]] = {}

    def says(self, name: str, kind: str, *, soa: bool = False) -> None:
        """From now on ``name`` is answered as ``kind``; with ``soa``, with how long there is nothing (RFC 2308 3)."""
        self._said[name] = kind, soa

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        for answer in self._answer(data):
            self.transport.sendto(answer, addr)

    def _answer(self, query: bytes) -> Iterator[bytes]:
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode("latin-1").lower())
            at += 1 + query[at]
        kind, question = labels[0] if labels else "", query[12 : at + 5]
        kind, soa = self._said.get(".".join(labels), (kind, False))
        if self.remembers is not None and ".".join(labels) not in self.remembers:
            kind = "servfail"
        v6 = question[-4:-2] == b"\0\x1c"
        self.asked.append(".".join(labels))
        if kind.startswith("tcp-"):
            alias = [_alias(0)] if kind == "tcp-aliased" else []
            yield query[:2] + struct.pack(">HHHHH", 0x8380, 1, len(alias), 0, 0) + question + b"".join(alias)  # TC: ask by TCP
            return
        code = {"nxdomain": 3, "servfail": 2, "refused": 5, "formerr": 1, "notimp": 4}.get(kind, 0)
        if kind == "silent":
            return
        if kind == "garbage":
            yield b"garbage"
            return
        addresses = RECORDS.get(kind, ())
        if kind == "rebind":
            addresses = ("127.0.0.1",) if self.asked.count(".".join(labels)) <= 2 else ("10.0.0.1",)
        records = [socket.inet_pton(socket.AF_INET6 if v6 else socket.AF_INET, ip) for ip in addresses if (":" in ip) == v6]
        answers = [b"\xc0\x0c" + question[-4:] + struct.pack(">IH", self.ttl_s, len(r)) + r for r in records]
        if kind == "cname-loop":
            answers = [b"\xc0\x0c\0\5\0\1\0\0\0\0\0\2\xc0\x0c"]
        if kind == "other-name":
            answers = [b"\5other\4test\0" + question[-4:] + struct.pack(">IH", 60, 4) + socket.inet_aton("127.0.0.1")]
        if kind == "lying-count":
            answers, records = [b""] * 5, []
        if kind == "cname-chain":
            answers = [_alias(n) for n in range(200)]
        if kind == "aliased":
            named = [_LONG + b"\4n004\0" + question[-4:] + struct.pack(">IH", 60, len(r)) + r for r in records]
            answers = [_alias(n, _LONG) for n in range(4)] + named
        if kind == "pointer-loop":
            answers = [b"\xc0" + bytes([12 + len(question)]) + question[-4:] + struct.pack(">IH", 60, 4) + bytes(4)]
        if kind == "long-ago":
            answers = [b"\xc0\x0c" + question[-4:] + struct.pack(">IH", 2**32 - 1, len(r)) + r for r in records]
        number = b"\xff\xff" if kind == "wrong-id" else query[:2]
        answers += [_AUTHORITY] if soa else []
        counts = (len(answers) - soa, int(soa))
        truncated = 0x200 if kind == "cut" else 0
        yield number + struct.pack(">HHHHH", 0x8180 | truncated | code, 1, *counts, 0) + question + b"".join(answers)


_AUTHORITY: Final = b"\4test\0\0\6\0\1" + struct.pack(">IH", 60, 22) + b"\0\0" + struct.pack(">IIIII", 1, 60, 60, 60, 60)
"""A start of authority that lets everybody remember for a minute that there is nothing."""


_LONG: Final = 2 * (b"\x3c" + 60 * b"x")
"""How a long name begins."""


def _alias(n: int, begins: bytes = b"") -> bytes:
    """One link of a chain of names; it begins at the question."""
    name, target = b"\xc0\x0c" if not n else begins + b"\4n%03d\0" % n, begins + b"\4n%03d\0" % (n + 1)
    return name + struct.pack(">HHIH", 5, 1, 60, len(target)) + target


async def _by_tcp(conn: Conn) -> None:
    """The same name server by TCP: the first label is ``tcp-`` and what it does. A connection is for many queries."""
    while True:
        (size,) = struct.unpack(">H", await conn.reader.readexactly(2))
        query = await conn.reader.readexactly(size)
        kind, question = query[13 : 13 + query[12]].decode(), query[12 : query.index(b"\0", 12) + 5]
        conn.site.name_server.by_tcp.append(kind)
        address = b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4\x7f\0\0\1" if question[-3] == 1 else b""
        count = {"tcp-thousands": 3000}.get(kind, 1) if address else 0
        answer = query[:2] + struct.pack(">HHHHH", 0x8180, 1, count, 0, 0) + question + address * count
        match kind:
            case "tcp-silent":
                await conn.hang()
            case "tcp-cut":
                await conn.send(struct.pack(">H", len(answer)) + answer[:20])
                return
            case "tcp-endless":
                await forever(b"\xff" * 65536)(conn)
            case "tcp-drip":
                await conn.play([bytes([byte]) for byte in struct.pack(">H", 2000)] + [forever(b"\0", 0.05)])
            case _:
                await conn.send(struct.pack(">H", len(answer)) + answer)


RECORDS: Final[dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(("good", "good_", "good__a-b", "good_x", "good_xsin"), ("127.0.0.1",)),
    "wrong-id": ("127.0.0.1",),
    "private": ("10.0.0.1",),
    "metadata": ("169.254.169.254",),
    "any": ("0.0.0.0",),
    "mapped": ("::ffff:10.0.0.1",),
    "nat64": ("64:ff9b::a9fe:a9fe",),
    "six-to-four": ("2002:a00:1::1",),
    "teredo": ("2001:0:808:808:0:0:f5ff:fffe",),
    "link-local": ("fe80::1",),
    "all-refused": ("10.0.0.1", "192.168.0.1", "::1", "fd00::1"),
    "mixed": ("10.0.0.1", "127.0.0.1", "fd00::1"),
    "six": ("::1",),
    "both": ("127.0.0.1", "::1"),
    "dead": ("127.1.0.8", "127.1.0.9"),
    "dead-then-good": ("127.1.0.9", "127.0.0.1"),
    "many": tuple(f"127.1.1.{n}" for n in range(1, 26)),
    "thousands": ("127.0.0.1",) * 3000,
    "thousands-private": tuple(f"10.0.{n // 250}.{n % 250}" for n in range(3000)),
    "long-ago": ("127.0.0.1",),
    "aliased": ("127.0.0.1",),
    "cut": ("127.0.0.1",),
}


@contextlib.asynccontextmanager
async def name_server(site: Site) -> AsyncIterator[None]:
    """``dns``: a name server for names like KIND.sin.test."""
    loop = asyncio.get_running_loop()
    for _ in range(100):  # the port must be free for both
        transport, protocol = await loop.create_datagram_endpoint(NameServer, local_addr=("127.0.0.1", 0))
        try:
            await site.listen(_by_tcp, port=transport.get_extra_info("sockname")[1])
            break
        except OSError:
            transport.close()
    else:
        raise OSError("no port is free for UDP and TCP")
    site.ports["dns"] = transport.get_extra_info("sockname")[1]
    site.name_server = protocol
    try:
        yield
    finally:
        transport.close()


EXTRAS: Final = (tls_ports, proxy_ports, odd_ports, name_server)
