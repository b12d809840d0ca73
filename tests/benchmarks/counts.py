"""Counts that tell what a page costs and do not depend on how fast or busy the machine is: connections opened, calls of
Python functions, system calls.

    python tests/benchmarks/run.py --quick

Two runs of different length over the same fixed web: what the longer one has more, divided by the pages it has more, is a
page's share, and start-up is left out. ``tests/benchmarks/README.md`` says what each figure means.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

from contenders import Job, Workload, ours
from measure import HERE, farm
from msgspec import Struct

HOSTS = 50
PER_HOST = 8
PAGES = 1000
"""Of the shorter run. A crawl's web ends there: the same pages are crawled, whichever come first."""
CALLS = struct.Struct("2Q")
"""As counting/sitecustomize.py writes them: of the main process, and of the parser process."""
STRACE = ("strace", "-f", "-c")


class Counted(Struct, frozen=True):
    """Of one run; or a page's share of it, with ``pages`` and ``connections`` those of the longer run."""

    pages: int
    connections: int
    calls: float = 0.0
    """Of Python functions in the main process."""
    parser_calls: float = 0.0
    system_calls: float = 0.0
    """Of the whole process tree."""


Way = Callable[[Sequence[str], Path], dict[str, float]]
"""Runs a command, with a folder for what it needs: what it counted."""


def quick() -> dict[str, float]:
    """Every figure by its name; system calls only where strace works."""
    found: dict[str, float] = {}
    for workload in get_args(Workload):
        counted = a_page(workload)
        found[f"{workload} of {counted.pages:,} over {HOSTS} hosts: connections"] = counted.connections
        found[f"{workload}: function calls a page"] = counted.calls
        if counted.parser_calls:
            found[f"{workload}: function calls a page, parser"] = counted.parser_calls
        if strace_works():
            found[f"{workload}: system calls a page"] = a_page(workload, with_strace).system_calls
    return found


def a_page(workload: Workload, way: Way | None = None) -> Counted:
    """A page's share of what ``way`` counts, which is function calls by default."""
    short, long = (_run(workload, scale, way or with_profile) for scale in (1, 2))
    pages = long.pages - short.pages
    shares = {name: (getattr(long, name) - getattr(short, name)) / pages for name in ("calls", "parser_calls", "system_calls")}
    return Counted(long.pages, long.connections, **shares)


def _run(workload: Workload, scale: int, way: Way) -> Counted:
    """A list of ``scale`` times PAGES, or the whole of a web that has so many."""
    per_host = scale * PAGES // HOSTS
    with farm(0, f"--hosts={HOSTS}", f"--pages={per_host}", "--gzip=0") as web, TemporaryDirectory() as folder:
        listed = Path(folder, "list")
        listed.write_text("\n".join(web.urls(scale * PAGES if workload == "list" else HOSTS, HOSTS)) + "\n")
        job = Job(workload, Path(folder), listed, 0, None, PER_HOST)
        web.reset()
        counted = way(ours("--parsers", "1")(job), Path(folder))
        stats = web.stats()
        return Counted(int(stats["pages_ok"]), int(stats["connections"]) - 1, **counted)


def with_profile(command: Sequence[str], folder: Path) -> dict[str, float]:
    cells = folder / "cells"
    cells.write_bytes(bytes(CALLS.size))
    environ = {"PYTHONPATH": f"{HERE / 'counting'}:{os.environ.get('PYTHONPATH', '')}", "PYTHON_CALLS": str(cells)}
    subprocess.run(command, env=os.environ | environ, stdin=subprocess.DEVNULL, check=True)
    calls, parser_calls = CALLS.unpack(cells.read_bytes())
    return {"calls": calls, "parser_calls": parser_calls}


def with_strace(command: Sequence[str], folder: Path) -> dict[str, float]:
    table = folder / "strace"
    subprocess.run([*STRACE, "-o", str(table), *command], stdin=subprocess.DEVNULL, check=True)
    return {"system_calls": int(table.read_text().splitlines()[-1].split()[3])}


def strace_works() -> bool:
    return shutil.which("strace") is not None and not subprocess.run([*STRACE, "true"], capture_output=True).returncode
