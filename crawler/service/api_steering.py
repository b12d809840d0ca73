"""Steering a running crawl: what is not to be visited any more.

Invariant: what a response says has happened. No visit of a link that it excludes is begun after it, nor goes on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import orjson
from aiohttp import web

from crawler.core.errors import ConfigError
from crawler.service.api_errors import Problem

EXCLUSIONS_MAX: Final = 1000
"""Of one request, and of each kind in all: every waiting link is held against each of them."""

Exclude = Callable[..., Awaitable[dict[str, Any]]]
"""``crawler.service.reload.Changes.exclude``."""


class Steering:
    """``exclude(expressions, hosts, undo=)`` changes what is excluded and says what it is then."""

    def __init__(self, exclude: Exclude, excluded: Callable[[], dict[str, Any]]) -> None:
        self._exclude, self._excluded = exclude, excluded

    async def get_exclusions(self, request: web.Request) -> web.Response:
        """GET /v1/exclusions"""
        return json_response(self._excluded())

    async def post_exclusions(self, request: web.Request) -> web.Response:
        """POST /v1/exclusions"""
        wanted = await json_object(request, {"exclude", "block", "undo"})
        expressions, hosts = _texts(wanted, "exclude"), _texts(wanted, "block")
        undo = wanted.get("undo", False)
        if not isinstance(undo, bool):
            raise Problem(400, "undo must be true or false")
        if not expressions and not hosts:
            raise Problem(400, "exclude what? give exclude, regular expressions, or block, hosts")
        now = self._excluded()
        if not undo and max(len(expressions) + len(now["exclude"]), len(hosts) + len(now["blocked"])) > EXCLUSIONS_MAX:
            raise Problem(400, f"at most {EXCLUSIONS_MAX} expressions and as many hosts: one expression may match many URLs")
        try:
            return json_response(await self._exclude(expressions, hosts, undo=undo))
        except ConfigError as error:
            raise Problem(400, str(error), faults=list(error.faults)) from None


async def json_object(request: web.Request, keys: set[str]) -> dict[str, Any]:
    """The object that a request carries, with no other keys than these. Problem: it carries none."""
    if request.content_type != "application/json":
        raise Problem(415, "send a JSON object as application/json")
    try:
        found = orjson.loads(await request.read())
    except orjson.JSONDecodeError as error:
        raise Problem(400, f"not JSON: {error}") from None
    if not isinstance(found, dict):
        raise Problem(400, "send a JSON object")
    if unknown := sorted(found.keys() - keys):
        raise Problem(400, f"there is no {', '.join(unknown)} here; known are {', '.join(sorted(keys))}")
    return found


def json_response(value: Any) -> web.Response:
    body = orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)
    return web.Response(body=body, content_type="application/json", headers={"Cache-Control": "no-store"})


def _texts(wanted: dict[str, Any], key: str) -> list[str]:
    value = wanted.get(key, [])
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts) or len(texts) > EXCLUSIONS_MAX:
        raise Problem(400, f"{key} must be a list of at most {EXCLUSIONS_MAX} texts")
    return list(dict.fromkeys(texts))
