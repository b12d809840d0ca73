"""Errors of the control API as problem details (RFC 9457), and who may use it.

A problem says what the client can do next; what the program did wrong is in its log, not in the response.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import time
from collections.abc import Mapping, Sequence
from errno import errorcode
from typing import Any, Final
from urllib.parse import urlsplit

from aiohttp import hdrs, web

from crawler.config.types import split_host_port
from crawler.core.errors import ConfigError, StorageError, storage_error_of
from crawler.core.urls import parse
from crawler.service import session
from crawler.service.listener import PROBLEM, Handler, problem_details

OPEN: Final = frozenset({"/livez", "/readyz"})
"""For service managers: they need no token, and tell one word."""
BODY_S: Final = 20.0
"""For the body of a request that is not an upload: its client, perhaps one without a token, holds a connection meanwhile."""

logger: Final = logging.getLogger(__name__)


class Problem(Exception):
    """Ends a request. ``more`` are further members of the JSON object."""

    def __init__(self, status: int, detail: str, *, headers: Mapping[str, str] | None = None, **more: Any) -> None:
        self.status, self.detail, self.more, self.headers = status, detail, more, headers
        super().__init__(detail)

    def response(self) -> web.Response:
        body = problem_details(self.status, self.detail, **self.more)
        return web.Response(status=self.status, body=body, content_type=PROBLEM, headers=self.headers)


def as_problem(listen: str, token: str | None, server_names: Sequence[str] = ()) -> Any:
    """The middleware before every handler: refuses who may not ask, and turns errors into problems. ``server_names``: what a
    proxy before this crawl may be called by."""
    served = frozenset(name.lower() for name in server_names)
    names = _own_names(listen) | served

    @web.middleware
    async def admitted(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            if (instead := _admit(request, token, names, served)) is not None:
                return instead
            return await handler(request)
        except Problem as problem:
            return problem.response()
        except web.HTTPException as error:
            error.__traceback__ = None  # the request holds the error whose frames hold the request
            allow = {"Allow": error.headers[hdrs.ALLOW]} if hdrs.ALLOW in error.headers else None
            return Problem(error.status, _DETAILS.get(error.status, error.reason), headers=allow).response()
        except ConfigError as error:
            return Problem(400, str(error), faults=list(error.faults)).response()
        except TimeoutError as error:
            return Problem(504, str(error) or "the store did not respond in time; try again").response()
        except web.RequestPayloadError as error:
            return Problem(400, f"the request's body cannot be read: {error}").response()
        except ConnectionError:
            return Problem(400, "the client has gone").response()  # nobody reads it
        except Exception as error:
            if (trouble := storage_error_of(error)) is not None:
                return _storage(trouble).response()
            logger.exception("control API: %s %s", request.method, request.path)
            return Problem(500, "this should not happen; the crawler's log says more").response()

    return admitted


async def body_of(request: web.Request) -> bytes:
    """The body of a request that is not an upload. Problem: it does not come in time."""
    try:
        async with asyncio.timeout(BODY_S):
            return await request.read()
    except TimeoutError:
        raise Problem(408, f"the request's body did not come within {BODY_S:.0f} s") from None


def host_named(text: str) -> str:
    """The key of a host as a person may write it. FetchError, ValueError: it is none."""
    if not set(text).isdisjoint("/\\?#@"):  # a URL, or more than a host: another one would be meant
        raise ValueError(text)
    return parse(f"http://{text}/").host


def _storage(error: StorageError) -> Problem:
    cause: dict[str, Any] = {"errno": errorcode[error.errno]} if error.errno in errorcode else {}
    return Problem(503, str(error), **cause)


_DETAILS: Final = {
    404: "there is nothing at this path: see GET /v1/openapi.yaml",
    405: "this path does not know this method",
    413: "the request's body is too long",
}


def _own_names(listen: str) -> frozenset[str]:
    host, _ = split_host_port(listen)
    return frozenset({"localhost", "127.0.0.1", "::1", host.lower()})


def _admit(request: web.Request, token: str | None, names: frozenset[str], served: frozenset[str]) -> web.Response | None:
    """Admit clients that know the token, or that are on this machine and not a web page in its browser. A response: what a
    person who has not given the token is shown."""
    is_followed = (request.method, request.path, request.headers.get("Sec-Fetch-Mode")) == ("GET", "/", "navigate")
    if (request.headers.get("Sec-Fetch-Site") == "cross-site" and not is_followed) or not _same_origin(request, served):
        raise Problem(403, "requests of other web sites are refused")
    if token is None:
        if not _is_own(request.host, names):  # DNS rebinding: another site's name that points here
            raise Problem(403, f"ask for this crawler by its address, or by one of server_names; {request.host!r} is neither")
    elif request.path not in OPEN | session.OPEN and not _knows(request, token):
        if request.method in (hdrs.METH_GET, hdrs.METH_HEAD) and request.path in ("/", "/why"):
            return session.login_page()
        raise Problem(401, "give the token as Authorization: Bearer TOKEN", headers={"WWW-Authenticate": "Bearer"})
    return None


def _knows(request: web.Request, token: str) -> bool:
    """Whether the client gives the token, or the browser has been given a session for it."""
    scheme, _, given = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    if scheme.lower() == "bearer":
        return hmac.compare_digest(given.strip().encode(errors="surrogateescape"), token.encode())
    return session.is_session(request.cookies.get(session.cookie_of(token), ""), token, time.time())


def _same_origin(request: web.Request, served: frozenset[str]) -> bool:
    """A proxy may ask by another name than the browser did: by one of ours."""
    origin = request.headers.get(hdrs.ORIGIN)
    if origin is None:
        return True
    try:
        asked = urlsplit(origin).netloc.lower()
    except ValueError:
        return False
    return asked == request.host.lower() or (bool(served) and _is_own(asked, served))


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
