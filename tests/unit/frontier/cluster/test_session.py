"""Sessions with the database: where it is, and what holds in them whatever it is set to."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Generator
from pathlib import Path

import psycopg
import pytest
from psycopg.waiting import Wait
from support.postgres import PASSWORD, emptied, postgres, rows, schema_of

from crawler.config import Config
from crawler.core.errors import ConfigError
from crawler.crawl.membership import join
from crawler.frontier.cluster.overview import look
from crawler.frontier.cluster.session import Address, connect


@pytest.fixture
def url() -> str:
    return emptied()


def test_a_database_may_know_of_no_encoding(tmp_path: Path) -> None:
    """As initdb makes it where the locale is C."""
    url = postgres().url()
    rows(url, "CREATE DATABASE ascii ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    url = url.replace("/postgres?", "/ascii?")
    for _ in range(2):
        join(Config(output=str(tmp_path), cluster=url), tmp_path, 0).mirror.leave()
    assert [node.state for node in look(Address(url), 2.0).nodes] == ["left"]
    assert str(uuid.UUID(look(Address(url), 2.0).nodes[0].node))


def test_an_address_shows_no_password_and_names_a_schema() -> None:
    pytest.importorskip("psycopg")
    address = Address(f"postgresql://u:{PASSWORD}@db.example:5433/crawls?schema=x_1&sslmode=require")
    assert address.shown == "db.example:5433/crawls (x_1)" and address.schema == "x_1"
    assert "schema" not in address.conninfo and "sslmode=require" in address.conninfo
    assert address.clean(f"password {PASSWORD} is\n wrong") == "password *** is wrong"
    with pytest.raises(ConfigError, match="schema"):
        Address("postgresql://db/crawls?schema=a;drop")


@pytest.mark.parametrize(
    ("given", "libpq"),
    [
        ("postgresql:///crawls?host=/run/postgresql&schema=x_1", "postgresql:///crawls?host=/run/postgresql"),
        ("postgresql://u@db/crawls?schema=x_1&passfile=/my%20own/pass", "postgresql://u@db/crawls?passfile=/my%20own/pass"),
        ("postgresql://u@db/crawls?password=a+b&schema=x_1", "postgresql://u@db/crawls?password=a+b"),
        ("postgresql://u:a#b@a:1,b:2/crawls?schema=x_1&connect_timeout=3", "postgresql://u:a#b@a:1,b:2/crawls?connect_timeout=3"),
        ("postgresql://db/crawls?schema=x_1", "postgresql://db/crawls"),
    ],
)
def test_what_is_not_the_schema_comes_to_libpq_as_it_was_given(given: str, libpq: str) -> None:
    address = Address(given)
    assert (address.schema, address.conninfo) == ("x_1", libpq)


def test_settings_of_a_session_that_the_url_asks_for_hold_too(url: str) -> None:
    with contextlib.closing(connect(Address(f"{url}&options=-c%20work_mem%3D7MB%20-c%20search_path%3Dpublic"), 15.0)) as session:
        assert session.execute("SELECT current_setting('work_mem'), current_schema()").fetchone() == ("7MB", schema_of(url))


def test_a_response_that_goes_on_and_on_ends_the_session(url: str) -> None:
    """Something always comes, or is taken, but never the end of it."""

    def going_on() -> Generator[int, int, None]:
        for _ in range(1_000_000):
            yield Wait.W

    with contextlib.closing(connect(Address(url), 15.0)) as session:
        session.patience_s = 0.01
        with pytest.raises(psycopg.OperationalError, match="no end of a response"):
            session.wait(going_on())
        assert session.closed


def test_every_session_has_settings_below_the_lease(url: str) -> None:
    rows(url, "ALTER ROLE crawler SET default_transaction_isolation = 'serializable'")
    with contextlib.closing(connect(Address(url), 15.0)) as session:
        shown = {name: session.execute(f"SHOW {name}").fetchone()[0] for name in (
            "idle_in_transaction_session_timeout", "statement_timeout", "synchronous_commit", "search_path",
            "transaction_isolation",
        )}  # fmt: skip
    rows(url, "ALTER ROLE crawler RESET default_transaction_isolation")
    assert shown == {
        "idle_in_transaction_session_timeout": "5s",
        "statement_timeout": "12s",
        "synchronous_commit": "on",
        "search_path": schema_of(url),
        "transaction_isolation": "read committed",
    }
