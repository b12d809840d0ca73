"""HTTP client of a running crawler: where it listens, one request, and how an error response ends a command.

What could not be done is a sentence on standard error and an exit code that is not 0; data goes to standard output.
"""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from errno import errorcode
from functools import wraps
from typing import IO, TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlencode, urlsplit

from crawler.cli.output import say
from crawler.core.errors import NO_ROOM, ConfigError, CrawlerError, Exit
from crawler.core.text import printable
from crawler.core.version import IDENTITY

if TYPE_CHECKING:
    from argparse import Namespace

WHERE: Final = ("listen", "api", "ca_file", "api_token_file")
"""The settings that say where a daemon is."""
_OF_DIRECTORY: Final = " Of a crawl's directory: crawler"
WITHOUT_DAEMON: Final = {
    "why": f"{_OF_DIRECTORY} why URL --data DIR",
    **{name: f"{_OF_DIRECTORY} {name} DIR" for name in ("results", "retry", "recrawl")},
}
"""What may have been meant by a command that was given no directory, where there is no daemon."""
TIMEOUT_S: Final = 90.0
"""Longer than the daemon waits for a client, so that its response says what was wrong."""
ASK_TIMEOUT_S: Final = 40.0
"""For what is asked in one small request: longer than the daemon waits for its store."""
NO_ROOM_NAMES: Final = frozenset(errorcode[number] for number in NO_ROOM)
"""What the daemon says of a disk that takes no more."""
_PIECE_BYTES: Final = 64 << 10
_RESPONSE_BYTES_MAX: Final = 64 << 20
_HEALTH_BYTES_MAX: Final = 1000
_LOOPBACK: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
"""Where to reach a daemon that listens on every address."""


class RequestRefused(CrawlerError):
    """The daemon could not be reached, or refused the request. ``status`` is 0 where there was no response."""

    def __init__(self, message: str, status: int = 0, problem: Mapping[str, Any] | None = None) -> None:
        self.status = status
        self.problem = problem or {}
        super().__init__(message)


class Client:
    """``where`` is the daemon's HOST:PORT, or the URL of a proxy before it; ``token`` its bearer token if it has one, ``ca_file``
    an authority to trust besides the system's."""

    def __init__(self, where: str, token: str | None = None, ca_file: str | None = None) -> None:
        self._where, self._token, self._ca_file = where, token, ca_file

    @contextlib.contextmanager
    def open(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None = None,
        body: IO[bytes] | Iterator[bytes] | bytes | None = None,
        mime: str = "text/plain",
        *,
        timeout_s: float | None = TIMEOUT_S,
    ) -> Iterator[http.client.HTTPResponse]:
        """The response, its body not read yet. RequestRefused: there is none within ``timeout_s`` (None: however long the daemon
        takes), or it is a problem. ConfigError: what is asked for is no text."""
        try:
            words = urlencode({key: value for key, value in (query or {}).items() if value is not None}, quote_via=quote)
        except UnicodeEncodeError as error:  # of a command line that is not UTF-8
            raise ConfigError(f"{printable(error.object)}: must be text in UTF-8") from None
        headers: dict[str, str | bytes] = {"Content-Type": mime} if body is not None else {}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}".encode()
        try:
            with _connected(self._where, timeout_s, self._ca_file) as (connection, below):
                path = below + path
                # it may respond before it has read everything: that response is worth reading
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    connection.request(method, f"{path}?{words}" if words else path, body, headers)
                response = connection.getresponse()
                if IDENTITY not in response.headers:
                    raise self._is_another(response)
                if response.status >= 400:
                    raise _refused(response, knows_token=self._token is not None)
                yield response
        except TimeoutError as error:
            within = f" within {timeout_s:.0f} s" if timeout_s else ""
            raise RequestRefused(f"no response from {self._where}{within}: is it stopped, or very busy?") from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise RequestRefused(f"no response from {self._where}: {reason}; is it running (crawler serve)?") from error

    def ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None = None,
        send: Mapping[str, Any] | None = None,
        *,
        patient: bool = False,
    ) -> dict[str, Any]:
        """The JSON object of the response; ``send`` goes as one. ``patient``: however long it takes, if it responds at all."""
        if patient:
            self.ask("GET", "/v1/status")
        body = None if send is None else json.dumps(send).encode()
        timeout_s = None if patient else ASK_TIMEOUT_S
        with self.open(method, path, query, body, mime="application/json", timeout_s=timeout_s) as response:
            return self._object(response)

    def add(self, lines: IO[bytes], *, tag: str | None = None, name: str | None = None) -> dict[str, Any]:
        """Send a list as it comes; what became of it, once it is committed."""
        read = getattr(lines, "read1", lines.read)  # whoever writes it may take hours, and the daemon waits a minute for more
        pieces = iter(lambda: read(_PIECE_BYTES), b"")
        with self.open("POST", "/v1/seeds", {"tag": tag, "list": name}, pieces) as response:
            return self._object(response)

    def _object(self, response: http.client.HTTPResponse) -> dict[str, Any]:
        try:
            return dict(json.loads(response.read(_RESPONSE_BYTES_MAX)))
        except (ValueError, TypeError, http.client.HTTPException):
            raise RequestRefused(f"what {self._where} responds is cut, or no JSON object", response.status) from None

    def _is_another(self, response: http.client.HTTPResponse) -> RequestRefused:
        proxy = ", or a proxy that lets nobody through to it" if response.status >= 400 else ""
        told = f"what responds at {self._where} is no crawler{proxy} ({response.status} {response.reason})"
        return RequestRefused(f"{told}; another address: --listen or --api", response.status)

    def results(self, cursor: str = "0-0", wait_s: int = 0) -> Iterator[tuple[str, bytes]]:
        """(cursor behind it, rows) for as long as there are more; with ``wait_s`` for ever. RequestRefused: they are cut."""
        while True:
            rows = bytearray()
            with self.open("GET", "/v1/results", {"cursor": cursor, "wait": wait_s}) as response:
                cursor = response.headers["Next-Cursor"]
                while piece := response.read(_PIECE_BYTES):
                    rows += piece
                if response.length:  # so many bytes have not come: the cursor stands behind them
                    raise RequestRefused(f"what {self._where} responds is cut: is it still running?", response.status)
            if rows:
                yield cursor, bytes(rows)
            elif not wait_s:
                return


def health(listen: str, path: str, timeout_s: float) -> tuple[int, str, bool]:
    """(status, text, whether a crawler says so) of ``/livez`` or ``/readyz``, which need no token. OSError, HTTPException: there
    is no response."""
    with _connected(listen, timeout_s) as (connection, _):
        connection.request("GET", path)
        response = connection.getresponse()
        text = response.read(_HEALTH_BYTES_MAX).decode("utf-8", "replace").strip()
        return response.status, text, IDENTITY in response.headers


@contextlib.contextmanager
def _connected(
    where: str, timeout_s: float | None, ca_file: str | None = None
) -> Iterator[tuple[http.client.HTTPConnection, str]]:
    """A connection, and the path below which the daemon stands there."""
    connection, below = _connection(where, timeout_s, ca_file)
    try:
        yield connection, below
    finally:
        connection.close()


def _connection(where: str, timeout_s: float | None, ca_file: str | None) -> tuple[http.client.HTTPConnection, str]:
    if "://" not in where:
        from crawler.config.types import split_host_port

        host, port = split_host_port(where)
        return http.client.HTTPConnection(_LOOPBACK.get(host, host), port, timeout=timeout_s), ""
    parts = urlsplit(where)
    if parts.scheme == "http":
        return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s), parts.path
    import ssl

    context = ssl.create_default_context()
    if ca_file:
        context.load_verify_locations(ca_file)
    return http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=timeout_s, context=context), parts.path


def _refused(response: http.client.HTTPResponse, *, knows_token: bool) -> RequestRefused:
    text = response.read(_RESPONSE_BYTES_MAX).decode("utf-8", "replace")
    try:
        problem = json.loads(text)
        detail = str(problem["detail"])
    except (ValueError, KeyError, TypeError):
        problem, detail = {}, text.strip() or response.reason
    if response.status == http.HTTPStatus.UNAUTHORIZED:
        wrong = "the token given is not the daemon's" if knows_token else "the daemon wants its token"
        detail = f"{wrong}: --api-token-file FILE, or CRAWLER_API_TOKEN in the environment"
    return RequestRefused(detail, response.status, problem)


def client_of(arguments: Namespace) -> Client:
    """The daemon that flags, environment and file name."""
    from crawler.cli.options import flags
    from crawler.config.load import load

    chosen = {key: value for key, value in flags(arguments).items() if key in WHERE}
    config = load(chosen, file=arguments.config).config
    return Client(config.api or config.listen, config.api_token, ca_file=config.ca_file)


def refusable(command: Callable[[Sequence[str]], int]) -> Callable[[Sequence[str]], int]:
    """A request that the daemon refuses is the caller's to mend (exit 2); a disk that is full there is storage (exit 3); a daemon
    that is not there or is busy is neither (exit 1)."""

    @wraps(command)
    def refused_or_done(arguments: Sequence[str]) -> int:
        try:
            return command(arguments)
        except RequestRefused as error:
            instead = "" if error.status else WITHOUT_DAEMON.get(command.__name__, "")
            say(f"{error}{instead}")
            if error.problem.get("errno") in NO_ROOM_NAMES:
                return Exit.STORAGE
            return Exit.USAGE if 400 <= error.status < 500 else Exit.INTERNAL

    return refused_or_done
