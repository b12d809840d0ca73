"""One process tree measured: CPU seconds, wall time, peak memory; and the synthetic web it works on.

The law: whatever is started here is ended here, by its own process id, and nothing listens beyond loopback's users.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gauges import free_port

HERE = Path(__file__).parent
SAMPLE_EVERY_S = 0.25
CLIENT_CPU, SERVER_CPU = "0", "1"
SETTLE_S = 0.3
START_TRIES = 5
UNCACHED = "PYTHONDONTWRITEBYTECODE"
"""Not handed on: a program that is installed is compiled once, and not at every start (0.2 s)."""
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Run:
    """What one run cost. ``cpu_s``: user and system of the whole tree, start-up included; ``pss_bytes``: its peak."""

    code: int | None
    wall_s: float
    cpu_s: float
    pss_bytes: int
    samples: list[tuple[float, int]] = field(default_factory=list)
    """(seconds since the start, PSS in bytes)"""
    said: str = ""


def tree(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found, pending = [], [pid]
    while pending:
        found.append(pending.pop())
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{found[-1]}/task"):
                pending += map(int, Path(f"/proc/{found[-1]}/task/{task}/children").read_text().split())
    return found


def cpu_s(pid: int) -> float:
    """User and system time of a process and of those children that it has waited for; 0 when it is gone."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / TICKS
    return 0.0


def pss_bytes(pid: int) -> int:
    """Proportional set size: shared pages count once over the tree."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    return 0


def run(
    command: Sequence[str],
    *,
    timeout_s: float,
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    cpu: str = CLIENT_CPU,
) -> Run:
    """Run a command on its CPU to its end, or until ``timeout_s``; then its whole process group is ended."""
    pin = ["taskset", "-c", cpu] if cpu and shutil.which("taskset") else []
    with tempfile.TemporaryFile() as said:
        begun = time.monotonic()
        process = subprocess.Popen(
            [*pin, *command],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            env={**{name: value for name, value in os.environ.items() if name != UNCACHED}, **(environ or {})},
            cwd=cwd,
            start_new_session=True,
        )
        samples: list[tuple[float, int]] = []
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(SAMPLE_EVERY_S):
                samples.append((time.monotonic() - begun, sum(pss_bytes(pid) for pid in tree(process.pid))))
                if time.monotonic() - begun > timeout_s:
                    os.killpg(process.pid, signal.SIGKILL)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        finally:
            wall = time.monotonic() - begun
            ended.set()
            watcher.join()
        process.returncode = os.waitstatus_to_exitcode(status)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it left behind
        said.seek(max(0, said.tell() - 4000))
        text = said.read().decode(errors="replace")
    cpu_s = usage.ru_utime + usage.ru_stime
    return Run(process.returncode, wall, cpu_s, max((pss for _, pss in samples), default=0), samples, text)


@dataclass(frozen=True)
class Profile:
    """How the web answers. ``known_share``: of a page's links, those to pages that a breadth-first crawl has met before."""

    gzip: bool = False
    tls: bool = False
    latency_ms: int = 0
    known_share: float = 0.0

    @property
    def farm_options(self) -> list[str]:
        found = [f"--gzip={self.gzip:d}", f"--latency-ms={self.latency_ms}"]
        return [*found, f"--known={self.known_share}"] if self.known_share else found


class Farm:
    """A running webfarm, with TLS before it where it has a ``ca``: the file with the authority of its certificates."""

    def __init__(self, port: int, pid: int, front: subprocess.Popen[bytes] | None, tls_port: int, ca: Path) -> None:
        self.port = port
        self.ca = ca if front else None
        self._binary = f"/proc/{pid}/exe"
        self._pids = [pid, front.pid] if front else [pid]
        self._naming = ["--port", str(port), "--tls-port", str(tls_port)]

    def busy_s(self) -> float:
        """CPU seconds of the web and what stands before it, since they were started."""
        return sum(cpu_s(pid) for pid in self._pids)

    def stats(self) -> dict[str, float]:
        return dict(json.loads(self._ask("__stats")))

    def reset(self) -> None:
        self._ask("__reset")

    def _ask(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{path}", timeout=10) as answer:
            return bytes(answer.read())

    def urls(self, count: int, hosts: int) -> list[str]:
        command = [self._binary, "--urls", str(count), "--hosts", str(hosts), *self._naming]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


@contextlib.contextmanager
def farm(port: int, *options: str, tls_hosts: int = 0) -> Iterator[Farm]:
    """Build (once) and start webfarm on the server's CPU. ``port``: 0 is any that is free. ``tls_hosts``: so many of its
    hosts are to be had by TLS as well, and named so."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="farm-")))
        tls_port = free_port() if tls_hosts else 0
        port, pid = _started(port, *options, *(["--tls-port", str(tls_port)] if tls_hosts else []))
        stack.callback(os.kill, pid, signal.SIGTERM)
        front = _fronted(tls_port, port, tls_hosts, folder / "ca.pem") if tls_hosts else None
        if front:
            stack.callback(front.wait)
            stack.callback(front.terminate)
        yield Farm(port, pid, front, tls_port, folder / "ca.pem")


def _fronted(port: int, web_port: int, hosts: int, ca: Path) -> subprocess.Popen[bytes]:
    pin = ["taskset", "-c", SERVER_CPU] if shutil.which("taskset") else []
    command = [*pin, sys.executable, str(HERE / "tls_front.py"), str(port), str(web_port), str(hosts), str(ca)]
    front = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert front.stdout is not None
    if front.stdout.readline() != b"ready\n":
        raise SystemExit("the TLS terminator did not start")
    return front


def _started(port: int, *options: str) -> tuple[int, int]:
    """Its port and process id. A port that was free may be taken by the time it listens there: then another one."""
    environ = {**os.environ, "WEBFARM_CPU": SERVER_CPU, "WEBFARM_LOG": os.devnull}
    for _ in range(1 if port else START_TRIES):
        chosen = port or free_port()
        command = [str(HERE / "webfarm" / "start.sh"), "--port", str(chosen), *options]
        started = subprocess.run(command, env=environ, capture_output=True, text=True)
        if not started.returncode:
            return chosen, int(started.stdout)
    raise SystemExit(f"webfarm did not start: {started.stderr.strip()}")


def prepare() -> None:
    """The harness itself stays off the client's CPU, and cleans up when it is told to end."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if hasattr(os, "sched_setaffinity") and len(os.sched_getaffinity(0)) > 1:
        os.sched_setaffinity(0, {int(SERVER_CPU)})
