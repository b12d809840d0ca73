"""A web that is judged by what it sees: ``python -m support.judged_web HOSTS PAGES PORT LOG``, in a network of its own.

Each host is an address of its own (``host_of``). Page n is at host n mod HOSTS, and links to pages 2n and 2n + 1 up to PAGES,
wherever they are; the first pages are what lists name. Each visit is a line of LOG: host, path, when it began and ended (the
machine's monotonic clock), and who asked. A poison page takes some seconds, and
says before its end, as a line of its own, who asked for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

POISON_S = 2.0
POISON = "/poison"


class Visit(NamedTuple):
    host: str
    path: str
    begun: float
    ended: float
    client: str


class Excuse(NamedTuple):
    """What no crawler can hold back: bytes that its machine sends although it is frozen or cut off when they are due.
    ``repeated``: only of a page that is visited once more, since its response came to nobody."""

    client: str
    begin: float
    end: float
    repeated: bool = False


def host_of(number: int, hosts: int) -> str:
    which = number % hosts
    return f"10.77.{10 + which // 250}.{1 + which % 250}"


def url_of(number: int, hosts: int, port: int) -> str:
    return f"http://{host_of(number, hosts)}:{port}/{number}"


class JudgedWeb:
    def __init__(self, hosts: int, pages: int, port: int, log: Path) -> None:
        self._hosts, self._pages, self._port = hosts, pages, port
        self._log = log.open("a", buffering=1)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, client = writer.get_extra_info("sockname")[0], writer.get_extra_info("peername")[0]
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                begun = time.monotonic()
                path = head.split(b" ", 2)[1].decode()
                if path == POISON:
                    await asyncio.sleep(POISON_S)
                    self._log.write(json.dumps([host, POISON, begun, None, client]) + "\n")
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(reader.read(1), POISON_S)
                        return  # whoever asked is gone
                body = self._body(path)
                ended = time.monotonic()  # before anything leaves: whoever asked cannot know it earlier
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                self._log.write(json.dumps([host, path, begun, ended, client]) + "\n")
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()

    def _body(self, path: str) -> bytes:
        number = int(path[1:]) if path[1:].isdigit() else 0
        linked = [m for m in (2 * number, 2 * number + 1) if 0 < number < m <= self._pages]
        links = "".join(f'<a href="{url_of(m, self._hosts, self._port)}">{m}</a>' for m in linked)
        return f"<!doctype html><title>{path}</title>{links}<p>{'text ' * 100}".encode()


async def main() -> None:
    hosts, pages, port, log = sys.argv[1:]
    web = JudgedWeb(int(hosts), int(pages), int(port), Path(log))
    server = await asyncio.start_server(web.serve, "0.0.0.0", int(port), backlog=1024)
    print("ready", flush=True)
    await server.serve_forever()


# -- the judge --------------------------------------------------------------------------------------------------------


def visits_of(log: Path) -> tuple[list[Visit], list[Visit]]:
    """(visits, those of the poison that were said before they ended)"""
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("]")]
    return [Visit(*line) for line in lines if line[3] is not None], [Visit(*line) for line in lines if line[3] is None]


@dataclass
class Verdict:
    """What a judge at the servers says."""

    visits: int = 0
    again: int = 0
    """Visits beyond the first of a page."""
    overlaps: list[str] = field(default_factory=list)
    hurried: list[str] = field(default_factory=list)
    excused: int = 0
    pause_min_s: float = float("inf")

    @property
    def faults(self) -> list[str]:
        return [*self.overlaps, *self.hurried]


def judge(visits: Sequence[Visit], rest_s: float, *, slack_s: float = 0.005, excuses: Sequence[Excuse] = ()) -> Verdict:
    """One visit at a host at a time, and ``rest_s`` between two, whoever makes them. ``slack_s``: of the judge's own clock."""
    counts = Counter((visit.host, visit.path) for visit in visits)
    verdict = Verdict(len(visits), len(visits) - len(counts))
    by_host: dict[str, list[Visit]] = defaultdict(list)
    for visit in visits:
        excused = any(
            each.client == visit.client and each.begin < visit.begun < each.end and not (each.repeated and counts[visit[:2]] == 1)
            for each in excuses
        )
        if excused:
            verdict.excused += 1
        else:
            by_host[visit.host].append(visit)
    for host, ours in by_host.items():
        ours.sort(key=lambda visit: visit.begun)
        ended = 0.0
        for before, visit in pairwise(ours):
            ended = max(ended, before.ended)
            pause_s = visit.begun - ended
            verdict.pause_min_s = min(verdict.pause_min_s, pause_s)
            said = f"{host}: {visit.path} by {visit.client} {pause_s * 1000:.0f} ms after {before.path} by {before.client}"
            if pause_s < 0:
                verdict.overlaps.append(said)
            elif pause_s < rest_s - slack_s:
                verdict.hurried.append(said)
    return verdict


def not_once(found: Iterable[str], wanted: Iterable[str]) -> dict[str, int]:
    """How often each is there that is not there once, or is not wanted."""
    counts, names = Counter(found), set(wanted)
    return {name: counts[name] for name in names | counts.keys() if counts[name] != 1 or name not in names}


if __name__ == "__main__":
    asyncio.run(main())
