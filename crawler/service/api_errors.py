"""Errors of the control API as problem details (RFC 9457), and who may use it.

A problem says what the client can do next; what the program did wrong is in its log, not in the response.
"""

from __future__ import annotations

import hmac
import ipaddress
import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlsplit

import orjson
from aiohttp import hdrs, web

from crawler.config.types import split_host_port
from crawler.core.errors import ConfigError, StorageError
from crawler.service.listener import Handler

OPEN: Final = frozenset({"/livez", "/readyz"})
"""For service managers: they need no token, and tell one word."""


logger: Final = logging.getLogger(__name__)


class Problem(Exception):
    """Ends a request. ``more`` are further members of the JSON object."""

    def __init__(self, status: int, detail: str, *, headers: Mapping[str, str] | None = None, **more: Any) -> None:
        self.status, self.detail, self.more, self.headers = status, detail, more, headers
        super().__init__(detail)

    def response(self) -> web.Response:
        title = HTTPStatus(self.status).phrase
        body = {"type": "about:blank", "title": title, "status": self.status, "detail": self.detail, **self.more}
        return web.Response(
            status=self.status, body=orjson.dumps(body), content_type="application/problem+json", headers=self.headers
        )


def as_problem(listen: str, token: str | None) -> Any:
    """The middleware before every handler: refuses who may not ask, and turns errors into problems."""
    names = _own_names(listen)

    @web.middleware
    async def admitted(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            _admit(request, token, names)
            return await handler(request)
        except Problem as problem:
            return problem.response()
        except web.HTTPException as error:
            allow = {"Allow": error.headers[hdrs.ALLOW]} if hdrs.ALLOW in error.headers else None
            return Problem(error.status, _DETAILS.get(error.status, error.reason), headers=allow).response()
        except ConfigError as error:
            return Problem(400, str(error), faults=list(error.faults)).response()
        except StorageError as error:
            return Problem(503, str(error)).response()
        except TimeoutError:
            return Problem(504, "the store did not respond in time; try again").response()
        except web.RequestPayloadError as error:
            return Problem(400, f"the request's body cannot be read: {error}").response()
        except ConnectionError:
            return Problem(400, "the client has gone").response()  # nobody reads it
        except Exception:
            logger.exception("control API: %s %s", request.method, request.path)
            return Problem(500, "this should not happen; the crawler's log says more").response()

    return admitted


_DETAILS: Final = {
    404: "there is nothing at this path: see GET /v1/openapi.yaml",
    405: "this path does not know this method",
    413: "the request's body is too long",
}


def _own_names(listen: str) -> frozenset[str]:
    host, _ = split_host_port(listen)
    return frozenset({"localhost", "127.0.0.1", "::1", host.lower()})


def _admit(request: web.Request, token: str | None, names: frozenset[str]) -> None:
    """Admit clients that know the token, or that are on this machine and not a web page in its browser."""
    if request.headers.get("Sec-Fetch-Site") == "cross-site" or not _same_origin(request):
        raise Problem(403, "requests of other web sites are refused")
    if token is None:
        if not _is_own(request.host, names):  # DNS rebinding: another site's name that points here
            raise Problem(403, f"ask for this crawler by its address; {request.host!r} is not it")
    elif request.path not in OPEN:
        scheme, _, given = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), token.encode()):
            raise Problem(401, "give the token as Authorization: Bearer TOKEN", headers={"WWW-Authenticate": "Bearer"})


def _same_origin(request: web.Request) -> bool:
    origin = request.headers.get(hdrs.ORIGIN)
    return origin is None or urlsplit(origin).netloc.lower() == request.host.lower()


def _is_own(host: str, names: frozenset[str]) -> bool:
    """Whether a Host field names this machine; the port may be that of a tunnel."""
    try:
        name, _ = split_host_port(host)
    except ValueError:
        return False
    try:
        return str(ipaddress.ip_address(name)) in names
    except ValueError:
        return name.lower() in names
