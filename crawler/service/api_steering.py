"""Steering a running crawl: what is not to be visited any more, what is to be visited again, and how far lists and tags are.

Invariant: what a response says has happened. No visit of a link that it excludes is begun after it, nor goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence, Set
from typing import Any, Final, get_args

import orjson
from aiohttp import web
from msgspec.structs import asdict

from crawler.config.types import host_match
from crawler.core.errors import ConfigError, FetchError
from crawler.core.model import OutcomeName
from crawler.core.text import counted
from crawler.core.urls import UrlRules, parse
from crawler.crawl.recrawl import TooManyOrders, checked
from crawler.frontier.progress import LIST, TAG
from crawler.frontier.recrawl import ORDERS_MAX
from crawler.frontier.selection import Selection
from crawler.service.api_errors import Problem, body_of, host_named
from crawler.service.steered import Steered

logger: Final = logging.getLogger(__name__)

EXCLUSIONS_MAX: Final = 1000
"""Of one request, and of each kind in all: every waiting link is held against each of them."""

CHOSEN_BY: Final = frozenset({"url", "host", "outcome", "tag"})
"""See ``Selection``."""

Exclude = Callable[..., Awaitable[dict[str, Any]]]
"""``crawler.service.reload.Changes.exclude``."""


class Steering:
    """``exclude(expressions, hosts, undo=)`` changes what is excluded and says what it is then; ``status`` is the crawl's."""

    def __init__(
        self,
        crawl: Steered,
        rules: UrlRules,
        exclude: Exclude,
        excluded: Callable[[], dict[str, Any]],
        status: Callable[[], Awaitable[dict[str, Any]]],
    ) -> None:
        self._crawl, self._rules = crawl, rules
        self._exclude, self._excluded = exclude, excluded
        self._status = status
        self._one_at_a_time = asyncio.Lock()

    async def get_exclusions(self, request: web.Request) -> web.Response:
        """GET /v1/exclusions"""
        return json_response(self._excluded())

    async def post_exclusions(self, request: web.Request) -> web.Response:
        """POST /v1/exclusions"""
        wanted = await json_object(request, {"exclude", "block", "undo"})
        expressions, hosts = _texts(wanted, "exclude"), _as_kept(_texts(wanted, "block"))
        undo = wanted.get("undo", False)
        if not isinstance(undo, bool):
            raise Problem(400, "undo must be true or false")
        if not expressions and not hosts:
            raise Problem(400, "exclude what? give exclude, regular expressions, or block, hosts")
        now = self._excluded()
        together = {*expressions, *now["exclude"]}, {*hosts, *now["blocked"]}
        if not undo and max(map(len, together)) > EXCLUSIONS_MAX:
            raise Problem(400, f"at most {EXCLUSIONS_MAX} expressions and as many hosts: one expression may match many URLs")
        try:
            return json_response(await self._exclude(expressions, hosts, undo=undo))
        except ConfigError as error:
            raise Problem(400, str(error), faults=list(error.faults)) from None

    async def post_retry(self, request: web.Request) -> web.Response:
        """POST /v1/retry"""
        return await self._chosen(request, self._crawl.revive, "due again")

    async def post_remove(self, request: web.Request) -> web.Response:
        """POST /v1/remove"""
        return await self._chosen(request, self._crawl.remove, "known no more")

    async def _chosen(self, request: web.Request, apply: Callable[[Selection], Awaitable[int]], what: str) -> web.Response:
        """However many records there are: no deadline, but one at a time."""
        wanted = await json_object(request, CHOSEN_BY)
        if not wanted:
            raise Problem(400, "which URLs? give url, host, outcome or tag; what is given must all be true of a URL")
        which = self._selection(wanted)
        if self._one_at_a_time.locked():
            raise Problem(503, "another such request goes on; try again", headers={"Retry-After": "5"})
        await self._is_here(which)
        async with self._one_at_a_time:
            count = await apply(which)
        logger.info("%s %s %s by the control API", counted(count, "URL"), "is" if count == 1 else "are", what)
        return json_response({"count": count})

    async def post_recrawl(self, request: web.Request) -> web.Response:
        """POST /v1/recrawl: what is given, as parameters or as a JSON object, must all be true of a URL; nothing means all."""
        wanted: dict[str, Any] = dict(request.query)
        if "outcome" in wanted:
            wanted["outcome"] = [name for text in request.query.getall("outcome") for name in text.split(",") if name]
        if request.can_read_body:
            wanted |= await json_object(request, CHOSEN_BY | {"older_than", "match"})
        older_than, match = wanted.pop("older_than", "0"), wanted.pop("match", None)
        if not isinstance(older_than, str | int | float) or isinstance(older_than, bool) or not isinstance(match, str | None):
            raise Problem(400, "older_than must be a time, such as 7d, or seconds, and match a regular expression")
        which = self._selection(wanted)
        try:
            older_than_s, match = checked(str(older_than), match)
        except ValueError as error:
            raise Problem(400, str(error)) from None
        await self._is_here(which)
        try:
            await self._crawl.recrawl(older_than_s, match, which)
        except TooManyOrders:
            raise Problem(409, f"{ORDERS_MAX} recrawls are ordered and not fulfilled yet: wait for them") from None
        logger.info("recrawl ordered by the control API")
        return json_response(await self._status(), status=202)

    async def _is_here(self, which: Selection) -> None:
        """Problem: another node of a cluster has these URLs."""
        if which.place is not None and (told := await self._crawl.elsewhere(which.place)) is not None:
            raise Problem(409, told)

    def _selection(self, wanted: dict[str, Any]) -> Selection:
        if None in wanted.values():
            raise Problem(400, "null says nothing: leave it out")
        url, host, outcomes, tag = wanted.get("url"), wanted.get("host"), _texts(wanted, "outcome"), wanted.get("tag")
        if "outcome" in wanted and not outcomes:  # a list that somebody's filter has left empty means none, not all
            raise Problem(400, "outcome names none: leave it out where any outcome will do")
        if unknown := sorted(set(outcomes) - set(get_args(OutcomeName))):
            raise Problem(400, f"there is no outcome {', '.join(unknown)}; known are {', '.join(get_args(OutcomeName))}")
        if not isinstance(tag, str | int | float | None) or isinstance(tag, bool):
            raise Problem(400, "tag must be text or a number")
        if not isinstance(url, str | None) or not isinstance(host, str | None) or "" in (url, host):
            raise Problem(400, "url and host must be text")
        try:
            canonical = parse(url, None, self._rules).href if url is not None else None
            host = host_named(host) if host is not None else None
        except (FetchError, ValueError) as error:
            raise Problem(400, f"not a URL, or a host: {error}") from None
        return Selection(canonical, host, frozenset(outcomes), tag)

    async def post_checkpoint(self, request: web.Request) -> web.Response:
        """POST /v1/checkpoint"""
        wanted = await json_object(request, {"name"}) if request.can_read_body else {}
        name = wanted.get("name")
        if "name" in wanted and not isinstance(name, str):
            raise Problem(400, "name must be text")
        if self._one_at_a_time.locked():
            raise Problem(503, "another such request goes on; try again", headers={"Retry-After": "5"})
        async with self._one_at_a_time:
            copied = await self._crawl.checkpoint(name)
        logger.info("checkpoint", extra={"path": str(copied.path), "seconds": round(copied.seconds, 3)})
        return json_response(asdict(copied) | {"path": str(copied.path.absolute())})

    async def get_lists(self, request: web.Request) -> web.Response:
        """GET /v1/lists"""
        return json_response({"lists": await self.progress_of(LIST)})

    async def get_tags(self, request: web.Request) -> web.Response:
        """GET /v1/tags"""
        return json_response({"tags": await self.progress_of(TAG)})

    async def progress_of(self, kind: str) -> list[dict[str, Any]]:
        """How far each list or tag is, the one with most left first. ``name`` is null for all that are not told apart."""
        tallies = await self._crawl.progress(kind)
        told = [
            {
                "name": None if not name else name if kind == LIST else orjson.loads(name),
                "known": tally.known,
                "done": tally.done,
                "waiting": tally.known - tally.done,
                "outcomes": dict(tally.outcomes),
            }
            for name, tally in tallies.items()
        ]
        return sorted(told, key=lambda one: (-one["waiting"], -one["known"]))


async def json_object(
    request: web.Request, keys: Set[str] | None = None, *, types: Sequence[str] = ("application/json",)
) -> dict[str, Any]:
    """The object that a request carries, with no other keys than these. Problem: it carries none."""
    if request.content_type not in types:
        raise Problem(415, "send a JSON object as application/json")
    try:
        found = orjson.loads(await body_of(request))
    except orjson.JSONDecodeError as error:
        raise Problem(400, f"not JSON: {error}") from None
    if not isinstance(found, dict):
        raise Problem(400, "send a JSON object")
    if keys is not None and (unknown := sorted(found.keys() - keys)):
        raise Problem(400, f"there is no {', '.join(unknown)} here; known are {', '.join(sorted(keys))}")
    return found


def json_response(value: Any, status: int = 200) -> web.Response:
    body = orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)
    return web.Response(body=body, status=status, content_type="application/json", headers={"Cache-Control": "no-store"})


def _texts(wanted: dict[str, Any], key: str) -> list[str]:
    texts = wanted.get(key, [])
    if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts) or len(texts) > EXCLUSIONS_MAX:
        raise Problem(400, f"{key} must be a list of at most {EXCLUSIONS_MAX} texts, none of them empty")
    return list(dict.fromkeys(texts))


def _as_kept(hosts: list[str]) -> list[str]:
    """Hosts as people write them, as settings have them; as they are where one is none, which is told where it is to be taken."""
    try:
        return list(dict.fromkeys(map(host_match, hosts)))
    except ValueError:
        return hosts
