"""Who takes part in ``run.py``, and the command line of each. What it asks for beyond its URLs is its own default, but for
politeness, which nobody practises here."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from measure import CLIENT_CPU, HERE, SERVER_CPU

PEERS = HERE / "peers"
OURS = ("--delay", "0", "--factor", "0", "--allow-net", "127.0.0.0/8", "--progress", "none", "-q")
LIGHT = ("--store", "memory", "--archive", "discard")
SESSION = (str(HERE / "session_way.py"),)
UVLOOP = (
    *("-s", "TWISTED_REACTOR=twisted.internet.asyncioreactor.AsyncioSelectorReactor"),
    *("-s", "ASYNCIO_EVENT_LOOP=uvloop.Loop"),
)
WGET = ("--quiet", "--delete-after", "--no-directories", "--tries=1", "--no-config", "--no-hsts")
WGET2 = (*WGET, "--max-threads=100", "--cookies=off")
FOLLOWING = ("-r", "-l", "inf", "-H")

Workload = Literal["list", "crawl"]


@dataclass(frozen=True)
class Job:
    """What a contender is given. ``list``: the file of URLs it begins with; ``ca``: the authority of the web's certificates,
    None where it is plain."""

    workload: Workload
    folder: Path
    list: Path
    pages: int
    ca: Path | None
    per_host: int


@dataclass(frozen=True)
class Contender:
    name: str
    command: Callable[[Job], Sequence[str]]
    workloads: tuple[Workload, ...] = ("list", "crawl")
    needs: str | None = None
    """A program that must be on the path."""
    finite: bool = False
    """It cannot be told to stop after so many pages: it crawls a web that ends."""
    per_host: int | None = None
    """Visits at a time at one host. None: it has no such limit, or is run with its own."""
    tls: bool = False
    """By TLS, whatever the profile; its ratios are to the same REF and floor as the others'."""
    cpus: str = CLIENT_CPU
    """As taskset takes them."""


def ours(*options: str, program: Sequence[str] = ("-m", "crawler")) -> Callable[[Job], Sequence[str]]:
    def command(job: Job) -> Sequence[str]:
        crawl = ("--depth", "-1", "--scope", "any", "--max-pages", str(job.pages))
        settings = [*OURS, *(crawl if job.workload == "crawl" else ("--no-robots",)), "--per-host", str(job.per_host)]
        if job.ca:
            settings += ["--ca-file", str(job.ca)]
        return [sys.executable, *program, "run", "-i", str(job.list), "-o", str(job.folder / "out"), *settings, *options]

    return command


def scrapy(job: Job) -> Sequence[str]:
    """It verifies no certificate by default."""
    arguments = ["-a", f"path={job.list}", "-a", f"out={job.folder / 'bodies'}"]
    limit = ["-s", f"CLOSESPIDER_PAGECOUNT={job.pages}"] if job.workload == "crawl" else []
    return ["scrapy", "runspider", str(PEERS / f"scrapy_{job.workload}.py"), *UVLOOP, *arguments, *limit]


def wget(*program: str) -> Callable[[Job], Sequence[str]]:
    def command(job: Job) -> Sequence[str]:
        trusted = [f"--ca-certificate={job.ca}"] if job.ca else []
        return [*program, *trusted, *(FOLLOWING if job.workload == "crawl" else ()), "-i", str(job.list)]

    return command


def reference(job: Job) -> Sequence[str]:
    trusted = ["env", f"SSL_CERT_FILE={job.ca}"] if job.ca else []
    return [*trusted, sys.executable, str(HERE / "ref.py"), str(job.list)]


def contenders(per_host: Sequence[int]) -> list[Contender]:
    """All there are; ``ours`` once for each number of visits at a time at one host, its variants with the first of them."""
    first, *more = per_host
    return [
        Contender("wget2", wget("wget2", *WGET2), needs="wget2", finite=True),
        Contender("wget --warc", wget("wget", *WGET, "--warc-file=w"), needs="wget", finite=True),
        Contender("Scrapy", scrapy, needs="scrapy"),
        Contender(_named("ours", first), ours(), per_host=first),
        *(Contender(_named("ours", number), ours(), per_host=number) for number in more),
        Contender("ours, TLS", ours(), per_host=first, tls=True),
        Contender("ours, nothing kept", ours(*LIGHT), per_host=first),
        Contender("ours, session.request", ours(program=SESSION), per_host=first),
    ]


def by_cores() -> list[Contender]:
    """This crawler on one core and on two, where the web has its share of the second."""
    both = f"{CLIENT_CPU},{SERVER_CPU}"
    one, two = ours("--processes", "1"), ours("--processes", "2", "--memory-limit", "1GiB")
    return [
        Contender("1 core, 1 process", one),
        Contender("2 cores, 1 process", one, cpus=both),
        Contender("2 cores, 2 processes", two, cpus=both),
    ]


def _named(name: str, per_host: int) -> str:
    return name if per_host == 1 else f"{name}, per-host {per_host}"
