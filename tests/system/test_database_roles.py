"""What deploy/ says of a cluster's database holds on a real one: the role may touch its schema and nothing else, and the
server takes the settings."""

import os
import re
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from support.postgres import PASSWORD, USER, binaries, postgres

DEPLOY = Path(__file__).parents[2] / "deploy"
psycopg = pytest.importorskip("psycopg", reason="flatcrawler[cluster] is not installed")


@pytest.fixture(scope="module")
def server():
    return postgres()


def as_root(server, database="postgres"):
    return psycopg.connect(host="127.0.0.1", port=server.port, user=USER, password=PASSWORD, dbname=database, autocommit=True)


def as_role(server, database="crawls", password="first", role="crawler_a"):
    return psycopg.connect(host="127.0.0.1", port=server.port, user=role, password=password, dbname=database, autocommit=True)


def psql(server, database, *variables, environ=None):
    command = [binaries() / "psql", "-X", "-q", "-h", "127.0.0.1", "-p", str(server.port), "-U", USER, "-d", database]
    command += [part for variable in variables for part in ("-v", variable)]
    told = os.environ | {"PGPASSWORD": PASSWORD} | (environ or {})
    return subprocess.run([*command, "-f", DEPLOY / "postgresql" / "roles.sql"], env=told, capture_output=True, text=True)


@pytest.fixture(scope="module")
def roles(server):
    """Two crawls in a database, each with its role, and a table of somebody else's."""
    with as_root(server) as root:
        root.execute("CREATE DATABASE crawls")
        root.execute("CREATE DATABASE others")
    with as_root(server, "crawls") as root:
        root.execute("CREATE TABLE public.theirs (x int)")
    for name in ("a", "b"):
        done = psql(server, "crawls", f"role=crawler_{name}", f"schema=crawl_{name}", "password=first")
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
    with as_role(server, role="crawler_b") as other:
        other.execute("CREATE TABLE known (x int)")
    yield server
    with as_root(server) as root:
        root.execute("DROP DATABASE crawls")
        root.execute("DROP DATABASE others")


def test_the_role_may_do_in_its_schema_all_that_a_crawl_does(roles):
    with as_role(roles) as session:
        assert session.execute("SELECT current_schema()").fetchone() == ("crawl_a",)
        session.execute("CREATE TABLE known (p bigint PRIMARY KEY, v bytea) PARTITION BY RANGE (p)")
        session.execute("CREATE TABLE known_0 PARTITION OF known FOR VALUES FROM (0) TO (9) WITH (fillfactor = 70)")
        session.execute("CREATE SEQUENCE mark_id")
        session.execute("SELECT pg_advisory_xact_lock(1)")
        session.execute("INSERT INTO known VALUES (1, 'x') ON CONFLICT (p) DO UPDATE SET v = excluded.v")
        session.execute("DROP TABLE known")


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM public.theirs",
        "SELECT * FROM crawl_b.known",
        "CREATE TABLE crawl_b.mine (x int)",
        "CREATE TABLE public.mine (x int)",
        "CREATE TEMPORARY TABLE mine (x int)",
        "CREATE SCHEMA mine",
        "CREATE DATABASE mine",
        "CREATE ROLE mine",
        "CREATE EXTENSION dblink",
        "SELECT rolpassword FROM pg_authid",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT pg_terminate_backend(pg_backend_pid()) FROM pg_authid",
        "COPY (SELECT 1) TO PROGRAM 'true'",
        "COPY (SELECT 1) TO '/tmp/x'",
        "ALTER ROLE crawler_a SUPERUSER",
        "SET ROLE crawler_b",
        "ALTER SYSTEM SET fsync = off",
    ],
)
def test_the_role_may_do_nothing_else(roles, statement):
    with as_role(roles) as session, pytest.raises(psycopg.errors.InsufficientPrivilege):
        session.execute(statement)


def test_nobody_else_may_connect_to_the_database(roles):
    with as_root(roles) as root:
        root.execute("CREATE ROLE stranger LOGIN PASSWORD 'x'")
    try:
        with pytest.raises(psycopg.OperationalError, match="permission denied"):
            as_role(roles, password="x", role="stranger")
    finally:
        with as_root(roles) as root:
            root.execute("DROP ROLE stranger")


def test_run_again_it_changes_the_password_from_a_file_and_loses_nothing(roles, tmp_path):
    (tmp_path / "password").write_text("sec'ond\n")
    with as_role(roles, role="crawler_b") as session:
        session.execute("INSERT INTO known VALUES (7)")
    environ = {"CRAWLER_PASSWORD_FILE": str(tmp_path / "password")}
    done = psql(roles, "crawls", "role=crawler_b", "schema=crawl_b", environ=environ)
    assert done.returncode == 0, done.stderr
    with as_role(roles, role="crawler_b", password="sec'ond") as session:
        assert session.execute("SELECT x FROM known").fetchall() == [(7,)]
    assert "sec'ond" not in (roles.folder / "log").read_text() and "first" not in (roles.folder / "log").read_text()
    psql(roles, "crawls", "role=crawler_b", "schema=crawl_b", "password=first")


def test_the_crawl_makes_its_tables_as_that_role(roles):
    tables = pytest.importorskip("crawler.frontier.cluster.postgres", reason="no --cluster in this version")
    url = f"postgresql://crawler_a:first@127.0.0.1:{roles.port}/crawls?schema=crawl_a"
    assert urlsplit(url).username == "crawler_a"
    begun, secret = tables.open_crawl(tables.Address(url), 15.0, "{}")
    assert begun == "{}" and secret


def test_the_server_takes_the_settings_as_a_file_of_its_own(server):
    """As the manifests start it. Each setting is read, and checked, as at a start."""
    file = server.folder / "crawler.conf"
    file.write_text((DEPLOY / "postgresql" / "crawler.conf").read_text())
    file.chmod(0o644)
    given = dict(re.findall(r"^(\w+) = '?([^'\n]*?)'?$", file.read_text(), flags=re.M))
    assert len(given) > 20
    for name, value in (("max_connections", "200"), ("shared_buffers", "4GB"), ("autovacuum_naptime", "10")):
        command = [binaries() / "postgres", "-D", server.folder / "data", "-c", f"config_file={file}", "-C", name]
        done = subprocess.run([*server._as, *command], capture_output=True, text=True, cwd="/")
        assert done.returncode == 0 and given[name].startswith(value) and done.stdout.strip(), done.stderr
    with as_root(server) as root:
        known = {name for (name,) in root.execute("SELECT name FROM pg_settings").fetchall()}
        assert given.keys() <= known


def test_every_time_out_ends_before_the_lease_of_a_cluster():
    text = (DEPLOY / "postgresql" / "crawler.conf").read_text()
    given = dict(re.findall(r"^(\w+) = (\d+)s?$", text, flags=re.M))
    silence = int(given["tcp_keepalives_idle"]) + int(given["tcp_keepalives_interval"]) * int(given["tcp_keepalives_count"])
    assert max(int(given["idle_in_transaction_session_timeout"]), int(given["tcp_user_timeout"]), silence) < 15
