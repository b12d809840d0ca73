"""TLS to the database of a cluster: with an authority of one's own, to the server that was meant, or not at all."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import trustme
from support.clusters import SETTINGS
from support.postgres import PASSWORD, postgres, rows
from support.programs import command

from crawler.core.errors import Exit
from crawler.frontier.cluster.session import Address, connect


def certificate(authority: trustme.CA, name: str) -> tuple[bytes, bytes]:
    leaf = authority.issue_cert(name)
    return b"".join(blob.bytes() for blob in leaf.cert_chain_pems), leaf.private_key_pem.bytes()


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return authority


def run(directory: Path, url: str):
    return command(
        "run", "-o", str(directory), *SETTINGS, "--cluster", url, "http://127.0.0.1:1/", "--no-robots", "--retries", "0"
    )


def verified(tmp_path: Path) -> str:
    return f"{postgres().url()}&sslmode=verify-full&sslrootcert={tmp_path / 'ca.pem'}"


def test_a_node_over_tls(tmp_path: Path, authority: trustme.CA) -> None:
    url = verified(tmp_path)
    with postgres().over_tls(*certificate(authority, "127.0.0.1")):
        ended = run(tmp_path / "node", url)
        assert "1 of 1 URLs settled" in ended.stderr
        told = command("cluster", "status", url)
        assert told.returncode == 0 and "1 of 1 URLs done" in told.stdout
        with contextlib.closing(connect(Address(url), 5.0)) as session:
            assert session.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetchall() == [(True,)]
    assert rows(url.partition("&")[0], "SELECT count(*) FROM member") == [(1,)]


@pytest.mark.parametrize(
    "server, said",
    [
        ("another's", "certificate verify failed"),
        ("of another name", 'does not match host name "127.0.0.1"'),
        ("without TLS", "does not support SSL"),
    ],
)
def test_another_server_is_talked_to_by_nobody(tmp_path: Path, authority: trustme.CA, server: str, said: str) -> None:
    url = verified(tmp_path)
    whose = trustme.CA() if server == "another's" else authority
    chain, key = certificate(whose, "db.example" if server == "of another name" else "127.0.0.1")
    if server == "without TLS":
        ends = [run(tmp_path / "node", url), command("cluster", "status", url)]
    else:
        with postgres().over_tls(chain, key):
            ends = [run(tmp_path / "node", url), command("cluster", "status", url)]
    for ended in ends:
        assert ended.returncode == Exit.STORAGE and said in ended.stderr
        assert PASSWORD not in ended.stderr + ended.stdout
        assert "127.0.0.1" in ended.stderr and "Traceback" not in ended.stderr
