"""Sessions with the database of a cluster, and where it is.

Invariant: every wait for a response has an end. libpq sets none, and what lies between may hold a connection whose server is
gone.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Generator
from typing import Any, Final, TypeVar, cast
from urllib.parse import unquote

import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict

from crawler.config.types import MASKED
from crawler.core.errors import ConfigError, RemoteError, StorageError
from crawler.frontier.cluster.columns import Byteas, ByteasDumper, SmallInts, SmallIntsDumper

T = TypeVar("T")

logging.getLogger("psycopg").setLevel(logging.ERROR)  # it warns of what follows from an error that is raised, and told by us

SCHEMA_DEFAULT: Final = "crawler"
LOAD_PATIENCE_S: Final = 60.0
"""For the next rows of a slot."""
WHOLE_MAX: Final = 4
"""How many times ``Session.patience_s`` a response may take that goes on and on."""
_NAME: Final = re.compile(r"[a-z_][a-z0-9_]{0,62}")
NOT_OURS: Final = (errors.DivisionByZero, errors.CardinalityViolation)
"""What a fence fails with."""
TOO_LARGE: Final = "54"
"""The class of what is more than the server can ever take: psycopg counts it as operational, and yet it does not pass."""
PASSING: Final = ("25006", "25P03", "25P04")
"""What psycopg does not count as operational, and yet passes: a server takes no writes just now, as a standby does, and one whose
disk is full; a transaction had waited for its node for too long, as where that was frozen."""


class Address:
    """A ``postgresql://`` URL: ``?schema=NAME`` names the crawl's schema, everything else is libpq's. ConfigError: it is none."""

    def __init__(self, url: str) -> None:
        before, _, query = url.partition("?")
        own = [word for word in query.split("&") if word.startswith("schema=")]
        self.schema = unquote(own[-1].partition("=")[2]) if own else SCHEMA_DEFAULT
        if not _NAME.fullmatch(self.schema):
            raise ConfigError("cluster: the schema must be small letters, digits and _, such as ?schema=crawl_1")
        others = "&".join(word for word in query.split("&") if word not in own)  # as they were: libpq reads no + as a space
        self.conninfo = f"{before}?{others}" if others else before
        try:
            told = conninfo_to_dict(self.conninfo)
        except psycopg.Error:
            raise ConfigError("cluster: not a URL that PostgreSQL's libpq can read") from None
        self.options = str(told.get("options") or "")
        """For the server: its settings in the session, before ours."""
        self._secrets = [str(told["password"])] if told.get("password") else []
        self.shown = f"{told.get('host') or 'localhost'}:{told.get('port') or 5432}/{told.get('dbname') or ''} ({self.schema})"
        """Without user and password."""

    def clean(self, text: str) -> str:
        """A message without the password, should a server have repeated it."""
        for secret in self._secrets:
            text = text.replace(secret, MASKED)
        return " ".join(text.split())


class Session(psycopg.Connection[Any]):
    """``patience_s``: for each response, and WHOLE_MAX times that while it still comes. After it the session is over: nothing is
    known of what it had under way."""

    patience_s = LOAD_PATIENCE_S

    def wait(self, gen: Generator[Any, Any, T], *arguments: Any, **named: Any) -> T:
        return super().wait(self._patiently(gen), *arguments, **named)

    def _patiently(self, gen: Generator[Any, Any, T]) -> Generator[Any, Any, T]:
        """The same; libpq's socket is asked for again and again, and is not ready where nothing comes."""
        began = time.monotonic()
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                wanted = gen.send(ready)
                waited_s = time.monotonic() - began
                if waited_s >= self.patience_s * (WHOLE_MAX if ready else 1):
                    self.pgconn.finish()
                    raise psycopg.OperationalError(f"no {'end of a ' if ready else ''}response for {waited_s:.3g} s")
        except StopIteration as done:
            return cast(T, done.value)


def connect(address: Address, lease_s: float, *, loads: bool = False) -> Session:
    """A session with all its settings: not above the lease, whatever that is. ``loads``: it takes no locks, and may take long."""
    idle_ms, statement_ms = int(lease_s * 1000 / 3), 0 if loads else int(lease_s * 800)
    try:
        session = Session.connect(
            address.conninfo,
            autocommit=True,
            client_encoding="utf8",  # or texts of a database that knows of no encoding come as bytes
            connect_timeout=max(2, int(lease_s * 2 / 3)),
            tcp_user_timeout=int(lease_s * 1000 * 2 / 3),
            keepalives_idle=max(1, int(lease_s / 3)),
            keepalives_interval=max(1, int(lease_s / 5)),
            keepalives_count=2,
            application_name=f"flatcrawler {lease_s:.3f}",  # see STALLED
            options=f"{address.options} -c statement_timeout={statement_ms} -c idle_in_transaction_session_timeout={idle_ms}"
            f" -c tcp_user_timeout={int(lease_s * 1000 * 2 / 3)} -c tcp_keepalives_idle={max(1, int(lease_s / 3))}"
            f" -c tcp_keepalives_interval={max(1, int(lease_s / 5))} -c tcp_keepalives_count=2"
            r" -c default_transaction_isolation=read\ committed"  # fences are by locks: stricter ones fail again and again
            f" -c synchronous_commit=on -c search_path={address.schema}",
        )
    except psycopg.Error as error:
        raise storage_error(address, error) from None
    session.adapters.register_dumper(SmallInts, SmallIntsDumper)
    session.adapters.register_dumper(Byteas, ByteasDumper)
    session.patience_s = max(LOAD_PATIENCE_S, lease_s) if loads else lease_s
    return session


def why_away(address: Address, lease_s: float) -> str | None:
    """Why the database cannot be reached, or takes no writes; None if it does, or has a fault that does not pass."""
    try:
        with connect(address, lease_s) as session:
            is_read_only = session.execute("SHOW transaction_read_only").fetchone() == ("on",)
    except RemoteError as error:
        return str(error)
    except psycopg.Error as error:
        failure = storage_error(address, error)
        return str(failure) if isinstance(failure, RemoteError) else None
    except StorageError:
        return None
    return f"{address.shown}: it takes no writes just now" if is_read_only else None


def storage_error(address: Address, error: Exception) -> RemoteError | StorageError:
    """What an error of the database means to us."""
    if isinstance(error, NOT_OURS):
        return RemoteError(f"{address.shown}: slots of this node were lost: what is not committed is made again", at_once=True)
    text = f"{address.shown}: {address.clean(str(error)) or type(error).__name__}"
    if isinstance(error, psycopg.Error) and (error.sqlstate or "").startswith(TOO_LARGE):
        return StorageError(text, final=True)
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return RemoteError(text)
    if isinstance(error, psycopg.Error) and error.sqlstate in PASSING:
        return RemoteError(text)
    return StorageError(text, final=True)  # a fault of ours, or a schema that somebody has changed, or may not be touched
