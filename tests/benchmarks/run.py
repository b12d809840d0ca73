"""List and crawl workloads, this crawler and its peers side by side: CPU seconds, wall, peak memory, ratios to REF.

    python tests/benchmarks/run.py --workload list --pages 20000 --rounds 5
    python tests/benchmarks/run.py --workload crawl --pages 10000 --rounds 5 --only ours --json crawl.json

Each round runs REF, every contender, and REF again; a ratio is to the mean of the two REFs of its round.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from measure import HERE, SETTLE_S, Farm, farm, prepare, run

PEERS = HERE / "peers"
OURS = ("--delay", "0", "--factor", "0", "--allow-net", "127.0.0.0/8", "--progress", "none", "-q")
FINITE_PAGES = 10
"""Pages a host in the web for peers that cannot be told to stop after so many."""


@dataclass(frozen=True)
class Job:
    """What a contender is given."""

    folder: Path
    list: Path
    pages: int


@dataclass(frozen=True)
class Contender:
    name: str
    workload: str
    command: Callable[[Job], Sequence[str]]
    needs: str | None = None
    """A program that must be on the path."""
    finite: bool = False
    environ: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Result:
    """Of one run. Pages are those the server gave out whole; CPU in seconds per 1,000 of them."""

    name: str
    pages: int
    cpu_s_per_1000: float
    ratio: float
    pages_per_s: float
    pss_mib: float
    connections: int
    code: int | None


def ours(workload: str, *options: str, program: Sequence[str] = ("-m", "crawler")) -> Callable[[Job], Sequence[str]]:
    def command(job: Job) -> Sequence[str]:
        settings = ["--no-robots"] if workload == "list" else ["--depth", "-1", "--scope", "any", "--max-pages", str(job.pages)]
        return [sys.executable, *program, "run", "-i", str(job.list), "-o", str(job.folder / "out"), *OURS, *settings, *options]

    return command


def scrapy(workload: str) -> Callable[[Job], Sequence[str]]:
    def command(job: Job) -> Sequence[str]:
        arguments = ["-a", f"path={job.list}", "-a", f"out={job.folder / 'bodies'}"]
        limit = ["-s", f"CLOSESPIDER_PAGECOUNT={job.pages}"] if workload == "crawl" else []
        return ["scrapy", "runspider", str(PEERS / f"scrapy_{workload}.py"), *UVLOOP, *arguments, *limit]

    return command


UVLOOP = (
    *("-s", "TWISTED_REACTOR=twisted.internet.asyncioreactor.AsyncioSelectorReactor"),
    *("-s", "ASYNCIO_EVENT_LOOP=uvloop.Loop"),
)
WGET = ("--quiet", "--delete-after", "--no-directories", "--tries=1", "--no-config")
WGET2 = ("--quiet", "--max-threads=100", "--no-directories", "--tries=1", "--delete-after", "--no-config", "--cookies=off")
SESSION = (str(HERE / "session_way.py"),)
LIGHT = ("--store", "memory", "--archive", "discard")
CONTENDERS = (
    Contender("ours", "list", ours("list")),
    Contender("ours, session.request", "list", ours("list", program=SESSION)),
    Contender("ours, nothing kept", "list", ours("list", *LIGHT)),
    Contender("wget --warc", "list", lambda job: ["wget", *WGET, "-i", str(job.list), f"--warc-file={job.folder / 'w'}"], "wget"),
    Contender("wget2", "list", lambda job: ["wget2", *WGET2, "-i", str(job.list)], "wget2"),
    Contender("Scrapy", "list", scrapy("list"), "scrapy"),
    Contender("ours", "crawl", ours("crawl")),
    Contender("ours, session.request", "crawl", ours("crawl", program=SESSION)),
    Contender("ours, nothing kept", "crawl", ours("crawl", *LIGHT)),
    Contender(
        "wget --warc",
        "crawl",
        lambda job: ["wget", *WGET, "-r", "-l", "inf", "-H", "-i", str(job.list), f"--warc-file={job.folder / 'w'}"],
        "wget",
        finite=True,
    ),
    Contender(
        "wget2", "crawl", lambda job: ["wget2", *WGET2, "-r", "-l", "inf", "-H", "-i", str(job.list)], "wget2", finite=True
    ),
    Contender("Scrapy", "crawl", scrapy("crawl"), "scrapy"),
)


def reference(job: Job) -> Sequence[str]:
    return [sys.executable, str(HERE / "ref.py"), str(job.list)]


def measured(name: str, command: Callable[[Job], Sequence[str]], web: Farm, source: Path, pages: int, timeout_s: float) -> Result:
    """One run in an empty folder. ``ratio`` is filled in later."""
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=source.parent) as folder:
        time.sleep(SETTLE_S)
        web.reset()
        done = run(command(Job(Path(folder), source, pages)), timeout_s=timeout_s, cwd=Path(folder))
        stats = web.stats()
    served = max(int(stats["pages_ok"]), 1)
    if done.code not in (0, 5) or served < pages // 2:
        print(f"  {name}: exit {done.code}, {served} pages\n{done.said[-2000:]}", file=sys.stderr)
    cpu = 1000 * done.cpu_s / served
    return Result(name, served, cpu, 0.0, served / done.wall_s, done.pss_bytes / 2**20, int(stats["connections_peak"]), done.code)


def one_round(
    contenders: Sequence[Contender], webs: dict[bool, Farm], lists: dict[str, Path], options: argparse.Namespace
) -> list[Result]:
    def ref() -> Result:
        return measured("REF", reference, webs[False], lists["ref"], options.pages, options.timeout)

    first = ref()
    results = []
    for contender in contenders:
        source = lists["finite" if contender.finite else contender.workload]
        pages = min(options.pages, 200 * FINITE_PAGES) if contender.finite else options.pages
        results.append(measured(contender.name, contender.command, webs[contender.finite], source, pages, options.timeout))
        print(f"  {results[-1].name}: {results[-1].cpu_s_per_1000:.3f} CPU s per 1,000 pages", file=sys.stderr)
    last = ref()
    unit = (first.cpu_s_per_1000 + last.cpu_s_per_1000) / 2
    return [Result(**{**asdict(one), "ratio": one.cpu_s_per_1000 / unit}) for one in (first, last, *results)]


def medians(results: Sequence[Result]) -> list[Result]:
    """One line for each name, in the order of their cost."""
    lines = []
    for name in dict.fromkeys(result.name for result in results):
        runs = [asdict(result) for result in results if result.name == name]
        middle = {key: statistics.median(one[key] for one in runs) for key in runs[0] if key not in ("name", "code")}
        lines.append(Result(**middle, name=name, code=runs[-1]["code"]))
    return sorted(lines, key=lambda line: line.ratio)


def table(lines: Sequence[Result]) -> str:
    rows = ["", "CPU s per 1,000 pages", "× REF", "pages", "pages/s", "peak PSS MiB", "connections"], ["---"] * 7
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (*rows, *(_cells(line) for line in lines)))


def _cells(line: Result) -> list[str]:
    found = [f"{line.cpu_s_per_1000:.3f}", f"{line.ratio:.2f}", f"{line.pages:,.0f}", f"{line.pages_per_s:,.0f}"]
    return [line.name, *found, f"{line.pss_mib:.0f}", f"{line.connections:.0f}"]


def chosen(options: argparse.Namespace) -> list[Contender]:
    found = [one for one in CONTENDERS if one.workload == options.workload]
    if options.only:
        found = [one for one in found if any(one.name.startswith(name) for name in options.only)]
    missing = [one.name for one in found if one.needs and not shutil.which(one.needs)]
    if missing:
        print(f"not installed, left out: {', '.join(missing)}", file=sys.stderr)
    return [one for one in found if one.name not in missing]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", choices=("list", "crawl"), default="list")
    parser.add_argument("--pages", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--hosts", type=int, default=200)
    parser.add_argument("--port", type=int, default=8930, help="of the web; the next one is taken too where a peer needs it")
    parser.add_argument("--only", action="append", help="only contenders whose name begins so; may be repeated")
    parser.add_argument("--farm", action="append", default=["--gzip=0"], help="a further option of webfarm; may be repeated")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds after which a run is ended")
    parser.add_argument("--dir", type=Path, help="where a run keeps what it crawls while it lasts (default: /tmp)")
    parser.add_argument("--json", type=Path, help="write every run and the medians here")
    options = parser.parse_args()
    contenders = chosen(options)
    prepare()
    with (
        tempfile.TemporaryDirectory(prefix="benchmarks-", dir=options.dir) as folder,
        farm(options.port, "--hosts", str(options.hosts), *options.farm) as web,
        farm(options.port + 1, "--hosts", "200", "--pages", str(FINITE_PAGES), *options.farm) as finite,
    ):
        lists = {name: Path(folder, name) for name in ("ref", "list", "crawl", "finite")}
        lists["ref"].write_text("\n".join(web.urls(options.pages, options.hosts)) + "\n")
        lists["list"].write_text(lists["ref"].read_text())
        lists["crawl"].write_text("\n".join(web.urls(20, options.hosts)) + "\n")
        lists["finite"].write_text("\n".join(finite.urls(200, 200)) + "\n")
        results: list[Result] = []
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
            results += one_round(contenders, {False: web, True: finite}, lists, options)
    lines = medians(results)
    print(table(lines))
    if options.json:
        arguments = {key: str(value) for key, value in vars(options).items()}
        found = {"options": arguments, "medians": [asdict(one) for one in lines], "runs": [asdict(one) for one in results]}
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
