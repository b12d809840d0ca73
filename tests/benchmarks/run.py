"""List and crawl workloads, this crawler and its peers side by side: CPU seconds, ratios to the floor and to REF, pages a
second, peak memory, connections opened.

    python tests/benchmarks/run.py --workload list --pages 20000 --per-host 1,8
    python tests/benchmarks/run.py --workload crawl --pages 10000 --only ours --known-share 0.9 --json crawl.json
    python tests/benchmarks/run.py --readme             # both workloads, the README's table in Markdown
    python tests/benchmarks/run.py --cores              # this crawler on one core and on two, in Markdown
    python tests/benchmarks/run.py --quick              # counts only, in half a minute: see counts.py

Each round runs REF, the parts of floor.py, every contender, and REF again; the ratios are to this round's own floor and to
the mean of its two REFs. What is printed is the median of the rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import get_args

import counts
import floor
from contenders import Contender, Job, Workload, by_cores, contenders, reference
from measure import SERVER_CPU, SETTLE_S, Farm, Profile, farm, prepare, run

FINITE_PAGES = 10
"""Pages a host in the web for peers that cannot be told to stop after so many."""
CRAWL_SEEDS = 20
ENDED_WELL = (0, 5, 8)
"""5: ours, at its --max-pages; 8: wget and wget2, some response was an error."""
README_PER_HOST = (1, 8)
TLS_HOSTS_MAX = 1000
"""Each takes a socket and a certificate of its own."""


@dataclass(frozen=True)
class Result:
    """Of one run. Pages are those the server gave out whole; CPU is in seconds per 1,000 of them."""

    workload: Workload
    name: str
    pages: int
    cpu_s_per_1000: float
    pages_per_s: float
    pss_mib: float
    connections: int
    """Opened, as the web counted them."""
    web_busy: float
    """Share of the time in which the web's CPU was busy, TLS terminator and all: near 1 it was the web that was measured."""
    code: int | None
    alone_per_s: float = 0.0
    """Pages a second, without the time that the web took from the client's CPUs."""
    of_floor: float = 0.0
    of_ref: float = 0.0


class Webs:
    """The webs of one call, each begun when it is first asked for: an endless and a finite one, plain and by TLS."""

    def __init__(self, stack: contextlib.ExitStack, folder: Path, profile: Profile, hosts: int, options: Sequence[str]) -> None:
        self._stack, self._folder, self._profile, self._hosts, self._options = stack, folder, profile, hosts, options
        self._webs: dict[tuple[bool, bool], Farm] = {}
        self._lists: dict[tuple[Farm, int], Path] = {}

    def of(self, *, finite: bool = False, tls: bool = False) -> Farm:
        kind = (finite, tls or self._profile.tls)
        if kind not in self._webs:
            pages = ["--pages", str(FINITE_PAGES)] if finite else []
            options = ["--hosts", str(self._hosts), *pages, *self._profile.farm_options, *self._options]
            started = farm(0, *options, tls_hosts=self._hosts if kind[1] else 0)
            self._webs[kind] = self._stack.enter_context(started)
        return self._webs[kind]

    def list_of(self, web: Farm, count: int) -> Path:
        """A file that names so many of its pages, turn by turn over the hosts."""
        key = (web, count)
        if key not in self._lists:
            self._lists[key] = self._folder / f"list-{len(self._lists)}"
            self._lists[key].write_text("\n".join(web.urls(count, self._hosts)) + "\n")
        return self._lists[key]


@dataclass(frozen=True)
class Bench:
    """One call's webs and wishes."""

    webs: Webs
    profile: Profile
    hosts: int
    pages: dict[Workload, int]
    timeout_s: float

    def measured(self, contender: Contender, workload: Workload) -> Result:
        """One run in an empty folder."""
        is_finite = contender.finite and workload == "crawl"
        web = self.webs.of(finite=is_finite, tls=contender.tls)
        pages = self.pages[workload]
        seeds = CRAWL_SEEDS if workload == "crawl" else pages
        if is_finite:
            pages, seeds = self.hosts * FINITE_PAGES, 1  # wget crawls the web once for each
        source = self.webs.list_of(web, seeds)
        with tempfile.TemporaryDirectory(prefix="benchmark-", dir=source.parent) as folder:
            job = Job(workload, Path(folder), source, pages, web.ca, contender.per_host or 1)
            time.sleep(SETTLE_S)
            web.reset()
            busy_s = web.busy_s()
            done = run(contender.command(job), timeout_s=self.timeout_s, cwd=job.folder, cpu=contender.cpus)
            busy_s = web.busy_s() - busy_s
            stats = web.stats()
        served = max(int(stats["pages_ok"]), 1)
        if done.code not in ENDED_WELL or served < pages // 2:
            print(f"  {contender.name}: exit {done.code}, {served} pages\n{done.said[-2000:]}", file=sys.stderr)
        cpus = contender.cpus.split(",")
        shared_s = busy_s / len(cpus) if SERVER_CPU in cpus else 0.0
        result = Result(
            workload,
            contender.name,
            served,
            1000 * done.cpu_s / served,
            served / done.wall_s,
            done.pss_bytes / 2**20,
            int(stats["connections"]) - 1,  # but the one that asked for the figures
            busy_s / done.wall_s,
            done.code,
            served / (done.wall_s - shared_s),
        )
        print(f"  {workload}, {contender.name}: {result.cpu_s_per_1000:.3f} CPU s per 1,000 pages", file=sys.stderr)
        return result

    def floor(self, workload: Workload) -> Result:
        web, pages = self.webs.of(), self.pages[workload]
        urls = self.webs.list_of(web, pages).read_text()
        wanted = floor.LIST if workload == "list" else floor.CRAWL
        cpu_s = sum(floor.cost_of(part, urls, self.profile, web.ca) for part in wanted)
        print(f"  {workload}, floor: {1000 * cpu_s / pages:.3f} CPU s per 1,000 pages", file=sys.stderr)
        return Result(workload, "floor", pages, 1000 * cpu_s / pages, 0.0, 0.0, 0, 0.0, 0)

    def one_round(self, taking_part: Sequence[Contender], workload: Workload) -> list[Result]:
        ref = Contender("REF", lambda job: reference(replace(job, workload="list")))

        def measured_ref() -> Result:
            return replace(self.measured(ref, "list"), workload=workload)

        results = [measured_ref(), self.floor(workload)]
        results += [self.measured(each, workload) for each in taking_part if workload in each.workloads]
        results.append(measured_ref())
        of_floor = results[1].cpu_s_per_1000
        of_ref = (results[0].cpu_s_per_1000 + results[-1].cpu_s_per_1000) / 2
        return [replace(one, of_floor=one.cpu_s_per_1000 / of_floor, of_ref=one.cpu_s_per_1000 / of_ref) for one in results]


def medians(results: Sequence[Result]) -> list[Result]:
    """One for each workload and name, in the order in which they were first run."""
    lines = []
    for workload, name in dict.fromkeys((result.workload, result.name) for result in results):
        runs = [asdict(one) for one in results if (one.workload, one.name) == (workload, name)]
        middle = {key: statistics.median(one[key] for one in runs) for key in runs[0] if key not in ("workload", "name", "code")}
        worst = next((one["code"] for one in runs if one["code"] not in ENDED_WELL), runs[-1]["code"])
        lines.append(Result(**middle, workload=workload, name=name, code=worst))
    return lines


# -- how it is told ---------------------------------------------------------------------------------------------------------


def table(lines: Sequence[Result]) -> str:
    head = ["", "CPU s per 1,000 pages", "× floor", "× REF", "pages", "pages/s", "peak PSS MiB", "connections", "web busy"]
    return _markdown([head, *(_row(line) for line in sorted(lines, key=lambda line: line.cpu_s_per_1000))])


def cores_table(lines: Sequence[Result]) -> str:
    """Both workloads side by side, by cores and processes."""
    head = ["", *(f"{workload}, {figure}" for workload in get_args(Workload) for figure in ("CPU s", "pages/s", "peak PSS MiB"))]
    rows = []
    for name in dict.fromkeys(line.name for line in lines if line.alone_per_s and line.name != "REF"):
        cells = [name]
        for workload in get_args(Workload):
            found = next(line for line in lines if (line.workload, line.name) == (workload, name))
            cells += [f"{found.cpu_s_per_1000:.3f}", _whole(found.alone_per_s), _whole(found.pss_mib)]
        rows.append(cells)
    return _markdown([head, *rows])


def readme_table(lines: Sequence[Result]) -> str:
    """Both workloads side by side."""
    figures = ("CPU s", "× floor", "× REF", "connections")
    head = ["", *(f"{workload}, {figure}" for workload in get_args(Workload) for figure in figures)]
    rows = []
    for name in dict.fromkeys(line.name for line in lines):
        cells = [_name(next(line for line in lines if line.name == name)).replace("ours", "this")]
        for workload in get_args(Workload):
            found = next((line for line in lines if (line.workload, line.name) == (workload, name)), None)
            cells += [*_costs(found), _whole(found.connections)] if found else [""] * len(figures)
        rows.append(cells)
    return _markdown([head, *rows])


def _row(line: Result) -> list[str]:
    counted = [_whole(line.pages_per_s), _whole(line.pss_mib), _whole(line.connections)]
    return [_name(line), *_costs(line), f"{line.pages:,.0f}", *counted, f"{line.web_busy:.0%}" if line.web_busy else ""]


def _name(line: Result) -> str:
    return line.name if line.code in ENDED_WELL else f"{line.name} (exit {line.code})"


def _costs(line: Result) -> list[str]:
    return [f"{line.cpu_s_per_1000:.3f}", f"{line.of_floor:.2f}", f"{line.of_ref:.2f}"]


def _whole(value: float) -> str:
    return f"{value:,.0f}" if value else ""


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (rows[0], ["---"] * len(rows[0]), *rows[1:]))


# -- what is asked for --------------------------------------------------------------------------------------------------------


def chosen(options: argparse.Namespace) -> list[Contender]:
    if options.cores:
        return by_cores()
    found = contenders(options.per_host)
    if options.only:
        found = [one for one in found if any(one.name.startswith(name) for name in options.only)]
    elif not options.readme:
        found = [one for one in found if not one.tls]  # --tls makes all of them so
    missing = [one.name for one in found if one.needs and not shutil.which(one.needs)]
    if missing:
        print(f"not installed, left out: {', '.join(missing)}", file=sys.stderr)
    return [one for one in found if one.name not in missing]


def numbers(text: str) -> tuple[int, ...]:
    found = tuple(int(part) for part in text.split(","))
    if min(found) < 1:
        raise ValueError
    return found


def share(text: str) -> float:
    if not 0 <= float(text) <= 0.9:
        raise argparse.ArgumentTypeError("between 0 and 0.9: two of a page's twenty links are always new")
    return float(text)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", choices=(*get_args(Workload), "both"), default="list")
    parser.add_argument("--pages", type=int, help="default: 20000 of a list, 10000 of a crawl")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--hosts", type=int, default=200)
    parser.add_argument("--per-host", type=numbers, help="visits at a time at one host, ours: 1, or several such as 1,8")
    parser.add_argument("--known-share", type=share, default=0.0, help="of a page's links: 0.9 is a crawl's steady state")
    parser.add_argument("--gzip", action="store_true", help="the web compresses where it is asked to")
    parser.add_argument("--tls", action="store_true", help="all by TLS, every host with a certificate of its own")
    parser.add_argument("--latency", type=int, default=0, help="milliseconds before each response")
    parser.add_argument("--only", action="append", help="only contenders whose name begins so; may be repeated")
    parser.add_argument("--farm", action="append", default=[], help="a further option of webfarm; may be repeated")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds after which a run is ended")
    parser.add_argument("--dir", type=Path, help="where a run keeps what it crawls while it lasts (default: /tmp)")
    parser.add_argument("--json", type=Path, help="write every run and the medians here")
    parser.add_argument("--readme", action="store_true", help="both workloads, per-host 1 and 8, TLS; the README's table")
    parser.add_argument("--cores", action="store_true", help="both workloads, this crawler on 1 and 2 cores, web counted out")
    parser.add_argument("--quick", action="store_true", help="counts only: connections, function and system calls a page")
    options = parser.parse_args()
    if options.readme or options.cores:
        options.workload = "both"
    options.per_host = options.per_host or (README_PER_HOST if options.readme else (1,))
    if options.hosts > TLS_HOSTS_MAX and (options.tls or options.readme):
        parser.error(f"--hosts {options.hosts}: at most {TLS_HOSTS_MAX} by TLS")
    return options


@contextlib.contextmanager
def opened(options: argparse.Namespace) -> Iterator[Bench]:
    profile = Profile(options.gzip, options.tls, options.latency, options.known_share)
    pages: dict[Workload, int] = {"list": options.pages or 20_000, "crawl": options.pages or 10_000}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmarks-", dir=options.dir)))
        webs = Webs(stack, folder, profile, options.hosts, options.farm)
        yield Bench(webs, profile, options.hosts, pages, options.timeout)


def main() -> None:
    options = parsed()
    prepare()
    if options.quick:
        print("\n".join(f"{name:44} {value:10,.1f}" for name, value in counts.quick().items()))
        return
    taking_part = chosen(options)
    workloads = get_args(Workload) if options.workload == "both" else (options.workload,)
    results: list[Result] = []
    with opened(options) as bench:
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
            for workload in workloads:
                results += bench.one_round(taking_part, workload)
    lines = medians(results)
    if options.json:
        arguments = {key: str(value) for key, value in vars(options).items()}
        found = {"options": arguments, "medians": [asdict(one) for one in lines], "runs": [asdict(one) for one in results]}
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    if options.readme or options.cores:
        print(cores_table(lines) if options.cores else readme_table(lines))
        return
    for workload in workloads:
        print(f"\n{workload}\n\n{table([line for line in lines if line.workload == workload])}")


if __name__ == "__main__":
    main()
