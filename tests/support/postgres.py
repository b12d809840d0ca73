"""A PostgreSQL server for the tests: begun once, when it is first asked for, in a directory of its own, on a free port.

Where there is none on the machine (Debian: postgresql), the tests that need it are skipped, and say so.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from support.programs import port_of_its_own

PASSWORD = "geheim-4711"
USER = "crawler"
_SETTINGS = {
    "fsync": "off",  # what is killed here is the server, never the machine
    "full_page_writes": "off",
    "listen_addresses": "127.0.0.1",
    "max_connections": "100",
    "shared_buffers": "64MB",
    "password_encryption": "scram-sha-256",
    "log_statement": "none",
}
_schemas = itertools.count(1)


def binaries() -> Path | None:
    """Of the newest version there is."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    if found:
        return found[-1].parent
    beside = shutil.which("initdb")
    return Path(beside).resolve().parent if beside else None


class Server:
    """``settings``: others than the tests'."""

    def __init__(self, bin: Path, settings: Mapping[str, str] = MappingProxyType({})) -> None:
        self._bin, self._settings = bin, settings
        self.port = port_of_its_own()
        self.folder = Path(tempfile.mkdtemp(prefix="flatcrawler-pg-", dir="/tmp"))
        self._as: list[str] = []
        if os.geteuid() == 0:
            nobody = _unprivileged()
            os.chown(self.folder, nobody.pw_uid, nobody.pw_gid)
            self._as = ["setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]
        atexit.register(self.remove)
        password = self.folder / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        self._run("initdb", "-U", USER, "--auth=scram-sha-256", f"--pwfile={password}", "--no-sync", "-E", "UTF8")
        self.start()

    def _run(self, program: str, *arguments: str) -> None:
        command = [*self._as, str(self._bin / program), "-D", str(self.folder / "data"), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd="/", check=False)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"

    def start(self) -> None:
        told = {**_SETTINGS, **self._settings, "port": str(self.port), "unix_socket_directories": str(self.folder)}
        options = " ".join(f"-c {name}={value}" for name, value in told.items())
        self._run("pg_ctl", "-w", "-s", "-o", options, "-l", str(self.folder / "log"), "start")

    def kill(self) -> None:
        """All of it at once, as SIGKILL: what was committed is in its log."""
        self._run("pg_ctl", "-w", "-s", "-m", "immediate", "stop")

    def keep(self) -> None:
        """As it is, killed, for ``go_back``: what is committed from now on is lost then."""
        self._replace("kept", "data")

    def go_back(self) -> None:
        self._replace("data", "kept")

    def _replace(self, target: str, source: str) -> None:
        shutil.rmtree(self.folder / target, ignore_errors=True)
        subprocess.run([*self._as, "cp", "-a", self.folder / source, self.folder / target], check=True)

    @contextlib.contextmanager
    def over_tls(self, chain: bytes, key: bytes) -> Iterator[None]:
        """Meanwhile it can be asked over TLS too."""
        for name, content in (("tls.crt", chain), ("tls.key", key)):
            file = self.folder / "data" / name
            file.touch(mode=0o600)
            file.write_bytes(content)
            shutil.chown(file, self.folder.stat().st_uid, self.folder.stat().st_gid)
        try:
            self._set("ssl_cert_file = 'tls.crt'", "ssl_key_file = 'tls.key'", "ssl = on")
            yield
        finally:
            self._set("ssl = off")

    def _set(self, *settings: str) -> None:
        url = self.url("public")
        with (self.folder / "data" / "postgresql.auto.conf").open("a") as file:
            file.write("".join(f"{setting}\n" for setting in settings))
        self._run("pg_ctl", "-s", "reload")
        wanted = settings[-1].rpartition(" ")[2]
        end = time.monotonic() + 20
        while rows(url, "SHOW ssl") != [(wanted,)]:  # it reads them when it comes to it
            assert time.monotonic() < end, f"{settings} are not read"
            time.sleep(0.01)

    def remove(self) -> None:
        with contextlib.suppress(AssertionError):
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, schema: str | None = None, port: int | None = None) -> str:
        """Of a crawl of its own."""
        name = schema or f"crawl_{next(_schemas)}_{os.getpid()}"
        return f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{port or self.port}/postgres?schema={name}"


def _unprivileged() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    pytest.skip("PostgreSQL will not run as root, and there is no user nobody")


@functools.cache
def postgres() -> Server:
    """The server of this test process; skips where there is none."""
    pytest.importorskip("psycopg", reason="flatcrawler[cluster] is not installed")
    bin = binaries()
    if bin is None:
        pytest.skip("no PostgreSQL here (Debian: apt install postgresql)")
    return Server(bin)


_EMPTIED = """DELETE FROM known; DELETE FROM work; DELETE FROM own; DELETE FROM box; DELETE FROM member;
  UPDATE slot SET owner = NULL, until = NULL, epoch = 0"""


@functools.cache
def _spare() -> str:
    return postgres().url()


def emptied() -> str:
    """The URL of a crawl in which there is nothing, for tests that only need one at a time: making its tables takes longer than
    they do."""
    from crawler.frontier.cluster.postgres import open_crawl
    from crawler.frontier.cluster.session import Address

    open_crawl(Address(_spare()), 30.0, "{}")
    rows(_spare(), _EMPTIED)
    rows(_spare(), "UPDATE crawl SET secret = %s", secrets.token_bytes(8))
    return _spare()


def schema_of(url: str) -> str:
    return url.rpartition("schema=")[2].partition("&")[0]


@contextlib.contextmanager
def asked(url: str) -> Iterator[object]:
    """A session of the test's own, in the schema of a crawl."""
    import psycopg

    bare = url.partition("?")[0]
    with psycopg.connect(bare, autocommit=True, options=f"-c search_path={schema_of(url)}") as connection:
        yield connection


def rows(url: str, statement: str, *values: object) -> list[tuple]:
    with asked(url) as connection:
        found = connection.execute(statement, values)
        return found.fetchall() if found.description else []
