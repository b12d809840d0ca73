"""Talking to a running daemon from the command line: one request, one answer, in plain words.

The law: what could not be done is a sentence on standard error and an exit code that is not 0; data goes to standard output.
"""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator, Mapping
from typing import IO, Any, Final
from urllib.parse import quote, urlencode

from crawler.config.types import split_host_port
from crawler.core.errors import CrawlerError

TIMEOUT_S: Final = 90.0
"""Longer than the daemon waits for a client, so that its answer says what was wrong."""
_PIECE_BYTES: Final = 64 << 10
_ANSWER_BYTES_MAX: Final = 64 << 20
_EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 what listens on every address is asked on loopback


class Refused(CrawlerError):
    """The daemon could not be asked, or said no. ``status`` is 0 where it did not answer."""

    def __init__(self, message: str, status: int = 0, problem: Mapping[str, Any] | None = None) -> None:
        self.status = status
        self.problem = problem or {}
        super().__init__(message)


class Client:
    """``listen`` is the daemon's HOST:PORT, ``token`` its bearer token if it has one."""

    def __init__(self, listen: str, token: str | None = None, timeout_s: float = TIMEOUT_S) -> None:
        host, port = split_host_port(listen)
        self._host, self._port = _EVERYWHERE.get(host, host), port
        self._listen, self._token, self._timeout_s = listen, token, timeout_s

    @contextlib.contextmanager
    def open(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None = None,
        body: IO[bytes] | Iterator[bytes] | bytes | None = None,
    ) -> Iterator[http.client.HTTPResponse]:
        """The answer, its body not read yet. Refused: there is none, or it is a problem."""
        words = urlencode({key: value for key, value in (query or {}).items() if value is not None}, quote_via=quote)
        headers = {"Content-Type": "text/plain"} if body is not None else {}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s)
        try:
            # it may answer before it has read everything: what it says then is worth reading
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.request(method, f"{path}?{words}" if words else path, body, headers)
            answer = connection.getresponse()
            if answer.status >= 400:
                raise _refused(answer)
            yield answer
        except (OSError, http.client.HTTPException) as error:
            said = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise Refused(f"no answer from {self._listen}: {said}; is it running (crawler serve)?") from error
        finally:
            connection.close()

    def ask(self, method: str, path: str, query: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The answer's JSON object."""
        with self.open(method, path, query) as answer:
            return dict(json.loads(answer.read(_ANSWER_BYTES_MAX)))

    def add(self, lines: IO[bytes], *, tag: str | None = None, name: str | None = None) -> dict[str, Any]:
        """Send a list; what became of it, once it is committed."""
        pieces = iter(lambda: lines.read(_PIECE_BYTES), b"")
        with self.open("POST", "/v1/seeds", {"tag": tag, "list": name}, pieces) as answer:
            return dict(json.loads(answer.read(_ANSWER_BYTES_MAX)))

    def results(self, cursor: str = "0-0", wait_s: int = 0) -> Iterator[tuple[str, bytes]]:
        """(cursor behind it, rows) for as long as there are more; with ``wait_s`` for ever."""
        while True:
            rows = bytearray()
            with self.open("GET", "/v1/results", {"cursor": cursor, "wait": wait_s}) as answer:
                cursor = answer.headers["Next-Cursor"]
                while piece := answer.read(_PIECE_BYTES):
                    rows += piece
            if rows:
                yield cursor, bytes(rows)
            elif not wait_s:
                return


def _refused(answer: http.client.HTTPResponse) -> Refused:
    text = answer.read(_ANSWER_BYTES_MAX).decode("utf-8", "replace")
    try:
        problem = json.loads(text)
        detail = str(problem["detail"])
    except (ValueError, KeyError, TypeError):
        problem, detail = {}, text.strip() or answer.reason
    return Refused(detail, answer.status, problem)
