"""Machines for a cluster, made of network namespaces: a web, a database and nodes, joined by two bridges, so that a node
can be cut off from either alone. Needs root and ``ip``."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from support.judged_web import host_of
from support.postgres import USER, binaries

WEB_NET, DATABASE_NET = "10.77.0.0/16", "10.78.0.0/24"
DATABASE = "10.78.0.2"


def reason_not() -> str | None:
    """Why there can be none here; None if there can."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return "network namespaces need root and ip"
    return None if binaries() is not None else "no PostgreSQL here (Debian: apt install postgresql)"


def ip(*arguments: object) -> None:
    command = ["ip", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"


class Net:
    """``name`` is the beginning of the names of its namespaces: six letters at most."""

    def __init__(self, name: str, hosts: int) -> None:
        self._name, self._spaces = name, []
        self._space("hub")
        for bridge in ("web", "db"):
            ip("-n", self.space("hub"), "link", "add", f"br{bridge}", "type", "bridge")
            ip("-n", self.space("hub"), "link", "set", f"br{bridge}", "up")
        self.add("web", web="10.77.0.1/16")
        batch = "".join(f"addr add {host_of(k, hosts)}/16 dev web\n" for k in range(hosts))
        subprocess.run(["ip", "-n", self.space("web"), "-batch", "-"], input=batch, text=True, check=True, capture_output=True)
        self.add("db", db=f"{DATABASE}/24")

    def space(self, machine: str) -> str:
        return f"{self._name}-{machine}"

    def add(self, machine: str, **links: str) -> None:
        """A machine with an address on each of these bridges."""
        self._space(machine)
        for bridge, address in links.items():
            theirs = f"{machine}{bridge}"
            peer = ("peer", "name", bridge, "netns", self.space(machine))
            ip("-n", self.space("hub"), "link", "add", theirs, "type", "veth", *peer)
            ip("-n", self.space(machine), "addr", "add", address, "dev", bridge)
            ip("-n", self.space(machine), "link", "set", bridge, "up")
            ip("-n", self.space("hub"), "link", "set", theirs, "up")
            self.join(machine, bridge)

    def cut(self, machine: str, bridge: str) -> None:
        """Everything that is sent is lost, without a word to anybody."""
        ip("-n", self.space("hub"), "link", "set", f"{machine}{bridge}", "nomaster")

    def join(self, machine: str, bridge: str) -> None:
        ip("-n", self.space("hub"), "link", "set", f"{machine}{bridge}", "master", f"br{bridge}")

    def inside(self, machine: str, command: Sequence[object]) -> list[str]:
        return ["ip", "netns", "exec", self.space(machine), *map(str, command)]

    def pids(self, machine: str) -> list[int]:
        done = subprocess.run(["ip", "netns", "pids", self.space(machine)], capture_output=True, text=True)
        return [int(pid) for pid in done.stdout.split()]

    def signal(self, machine: str, number: signal.Signals, but: Sequence[int] = ()) -> None:
        """To every process there, ``but`` these."""
        for pid in self.pids(machine):
            if pid not in but:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)

    def close(self) -> None:
        for machine in self._spaces:
            while self.pids(machine):
                self.signal(machine, signal.SIGCONT)
                self.signal(machine, signal.SIGKILL)
            ip("netns", "del", self.space(machine))

    def _space(self, machine: str) -> None:
        ip("netns", "add", self.space(machine))
        self._spaces.append(machine)
        ip("-n", self.space(machine), "link", "set", "lo", "up")


class Database:
    """PostgreSQL on the machine ``db`` of a net; whoever reaches it may do all. Tests ask it by its socket, which
    no net is between."""

    def __init__(self, net: Net) -> None:
        found = binaries()
        assert found is not None
        folder = Path(tempfile.mkdtemp(prefix="cluster-bench-pg-", dir="/tmp"))  # where another user may go
        self._net, self._folder, self._bin = net, folder, found
        shutil.chown(folder, "postgres" if _is_user("postgres") else "nobody")
        owner = folder.stat()
        self._as = ["setpriv", f"--reuid={owner.st_uid}", f"--regid={owner.st_gid}", "--clear-groups"]
        self._run("initdb", "-U", USER, "--auth=trust", "--no-sync", "-E", "UTF8")
        with (folder / "data" / "pg_hba.conf").open("a") as file:
            file.write(f"host all all {DATABASE_NET} trust\n")
        self.start()

    @property
    def conninfo(self) -> str:
        return f"host={self._folder} user={USER} dbname=postgres"

    def url(self, host: str = DATABASE, port: int = 5432) -> str:
        return f"postgresql://{USER}@{host}:{port}/postgres?schema=bench"

    def start(self) -> None:
        told = {"listen_addresses": DATABASE, "unix_socket_directories": self._folder, "fsync": "off", "shared_buffers": "128MB"}
        options = " ".join(f"-c {name}={value}" for name, value in told.items())
        self._run("pg_ctl", "-w", "-s", "-o", options, "-l", f"{self._folder}/log", "start")

    def kill(self) -> None:
        """All of it at once: what was answered is in its log."""
        self._run("pg_ctl", "-w", "-s", "-m", "immediate", "stop")

    def dump(self) -> None:
        """A backup of the crawl, while it goes on."""
        self._client("pg_dump", "-Fc", "-n", "bench", "-f", self._folder / "bench.dump", self.conninfo)

    def restore(self) -> None:
        """The crawl as it was then; no node may run."""
        self._client("psql", "-q", "-c", "DROP SCHEMA bench CASCADE", self.conninfo)
        self._client("pg_restore", "-d", self.conninfo, self._folder / "bench.dump")

    def _client(self, program: str, *arguments: object) -> None:
        command = [*self._as, self._bin / program, *arguments]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd="/", check=False)
        assert done.returncode == 0, done.stderr

    def close(self) -> None:
        with contextlib.suppress(AssertionError):
            self.kill()
        shutil.rmtree(self._folder)

    def rows(self, statement: str, *values: object) -> list[tuple]:
        import psycopg

        with psycopg.connect(self.conninfo, autocommit=True, options="-c search_path=bench") as connection:
            return connection.execute(statement, values).fetchall()

    def _run(self, program: str, *arguments: object) -> None:
        command = [*self._as, self._bin / program, "-D", self._folder / "data", *arguments]
        with tempfile.TemporaryFile("w+") as said:  # not a pipe: the server keeps it open
            done = subprocess.run(self._net.inside("db", command), stdout=said, stderr=said, cwd="/", check=False)
            said.seek(0)
            assert done.returncode == 0, f"{program}: {said.read()}"


def _is_user(name: str) -> bool:
    import pwd

    with contextlib.suppress(KeyError):
        return bool(pwd.getpwnam(name))
    return False


@contextlib.contextmanager
def net(hosts: int) -> Iterator[Net]:
    made = None
    try:
        made = Net(f"fc{os.getpid() % 10_000}", hosts)
        yield made
    finally:
        if made is not None:
            made.close()
