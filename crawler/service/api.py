"""The control API: a running crawl over HTTP, as described by ``crawler/service/openapi.yaml``.

Invariants: requests change the crawl only through methods that it has anyway (pause, drain, admit, reconfigure). No client,
however slow, holds up a visit: responses are bounded, streamed in pieces, and cut off in time.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, cast

import msgspec
from aiohttp import hdrs, web
from prometheus_client import CollectorRegistry

from crawler.core.errors import FetchError
from crawler.core.meant import did_you_mean
from crawler.core.text import printable
from crawler.core.urls import parse
from crawler.core.version import __version__
from crawler.service.api_errors import Problem, as_problem
from crawler.service.api_seeds import ReceivedLists
from crawler.service.api_steering import Steering, json_object, json_response
from crawler.service.api_streams import FILTERS, Follow
from crawler.service.dashboard import Dashboard
from crawler.service.listener import Handler, watched
from crawler.service.reload import Changes
from crawler.service.steered import HOSTS_MAX, Host, Sort, Steered, Vital

REQUEST_S: Final = 30.0
"""For a response that is not a stream."""
BODY_BYTES_MAX: Final = 64 << 10
"""Of a request that is not an upload."""
CONNECTIONS_MAX: Final = 128
OPENAPI: Final = "openapi.yaml"
_SORTS: Final = ("waiting", "backoff", "errors")

logger: Final = logging.getLogger(__name__)


class Control:
    """The API of a crawl in ``root``: its ``vitals``, and the ``changes`` of its settings."""

    def __init__(
        self,
        crawl: Steered,
        root: Path,
        *,
        registry: CollectorRegistry,
        vitals: Vital,
        changes: Changes,
    ) -> None:
        self.crawl, self.root, self.registry = crawl, root, registry
        self.vitals, self.changes = vitals, changes
        config = crawl.config
        self.token = config.api_token
        self.rules = config.url_rules()
        self.lists = ReceivedLists(crawl, self.rules)
        self.steering = Steering(crawl, self.rules, changes.exclude, changes.excluded, self.status)
        self.follow = Follow(crawl, root)
        self.began = time.time()

    def application(self) -> web.Application:
        """To be served by ``listener.open_listener`` on the configured address."""
        config = self.crawl.config
        admission = as_problem(config.listen, config.api_token, config.server_names)
        app = web.Application(client_max_size=BODY_BYTES_MAX, middlewares=[admission])
        dashboard = Dashboard(self)
        app.on_shutdown.append(dashboard.close)
        for method, path, handler in (*self.routes(), *dashboard.routes()):
            app.router.add_route(method, path, handler)
            if method == hdrs.METH_GET:
                app.router.add_route(hdrs.METH_HEAD, path, handler)
        return app

    def routes(self) -> list[tuple[str, str, Handler]]:
        """Exactly the operations of the OpenAPI file."""
        watching = watched(self.registry, self.vitals.alive, self.vitals.ready)
        asked: list[tuple[str, str, Handler]] = [("GET", path, handler) for path, handler in watching.items()]

        def large(handler: Handler) -> Handler:
            return self.follow.few_at_a_time(_in_time(handler))

        return [
            ("POST", "/v1/seeds", _asked(self.lists.post_seeds, "tag", "list")),
            ("GET", "/v1/results", _asked(self.follow.get_results, "cursor", "wait", *FILTERS)),
            ("GET", "/v1/body", _asked(self.get_body, "url", "raw")),
            ("POST", "/v1/retry", _asked(self.steering.post_retry)),
            ("POST", "/v1/remove", _asked(self.steering.post_remove)),
            ("POST", "/v1/checkpoint", _asked(self.steering.post_checkpoint)),
            ("GET", "/v1/hosts", _asked(large(self.get_hosts), "sort", "limit")),
            ("GET", "/v1/urls", _asked(_in_time(self.get_url), "url", "via")),
            ("POST", "/v1/recrawl", _asked(_in_time(self.steering.post_recrawl), "older_than", "match", "outcome")),
            ("GET", "/debug/memory", _asked(_in_time(self.get_memory), "seconds")),
            ("GET", "/v1/lists", _asked(large(self.steering.get_lists))),
            ("GET", "/v1/tags", _asked(large(self.steering.get_tags))),
            ("GET", "/v1/settings", _asked(large(self.get_settings))),
            ("GET", "/v1/exclusions", _asked(large(self.steering.get_exclusions))),
            *(
                (method, path, _asked(_in_time(handler)))
                for method, path, handler in (
                    ("GET", "/v1/status", self.get_status),
                    ("POST", "/v1/pause", self.post_pause),
                    ("POST", "/v1/resume", self.post_resume),
                    ("POST", "/v1/drain", self.post_drain),
                    ("PATCH", "/v1/settings", self.patch_settings),
                    ("POST", "/v1/exclusions", self.steering.post_exclusions),
                    ("GET", "/v1/openapi.yaml", self.get_openapi),
                )
            ),
            *asked,
        ]

    def canonical(self, request: web.Request) -> str:
        """The URL that ``?url=`` names, as this crawl knows it."""
        return self.known_as(request.query.get("url", ""))

    def known_as(self, text: str) -> str:
        if not text:
            raise Problem(400, "which URL? give it as ?url=")
        try:
            return parse(text, None, self.rules).href
        except FetchError as error:
            raise Problem(400, f"not a URL that can be crawled: {error.reason} {error.detail}".strip()) from None

    # -- queries ------------------------------------------------------------------------------------------------

    async def get_status(self, request: web.Request) -> web.Response:
        return json_response(await self.status())

    async def status(self) -> dict[str, Any]:
        """Everything about the crawl at this moment."""
        await self.crawl.look()
        snapshot = msgspec.to_builtins(self.crawl.stats())
        del snapshot["at"]
        readings, (pages, size), left = self.vitals.readings(), self.vitals.rates(), self.vitals.left()
        return {
            "version": __version__,
            "pid": os.getpid(),
            "directory": str(self.root.absolute()),
            "started_at": self.began,
            **snapshot,
            "paused_by": sorted(self.crawl.pauses()),
            "hosts": self.crawl.hosts_known(),
            "pages_per_second": round(pages, 3),
            "bytes_per_second": round(size, 1),
            "time_left": left
            and {"seconds": round(left.seconds), "at_least": left.at_least, "host": msgspec.to_builtins(left.host)},
            "workers": dict(readings.workers),
            "connections": dict(readings.connections),
            "memory": {
                "limit": readings.memory_limit,
                "used": readings.memory_rss,
                "state": readings.memory_state,
                "accounts": {name: account._asdict() for name, account in readings.accounts.items()},
            },
            "disk_free": readings.disk_free,
            "commit_age": round(readings.commit_age, 3),
            "storage_errors": dict(readings.storage_errors),
        }

    async def get_hosts(self, request: web.Request) -> web.Response:
        """The hosts that stand out, by one of three measures."""
        sort = request.query.get("sort", "waiting")
        if sort not in _SORTS:
            raise Problem(400, f"sort must be one of {', '.join(_SORTS)}")
        return json_response({"sort": sort, "hosts": await self.hosts(sort, _number(request, "limit", 20, HOSTS_MAX))})

    async def hosts(self, sort: str, limit: int) -> Sequence[Host]:
        """``waiting``, ``backoff`` or ``errors``: the first so many by that."""
        return await self.crawl.hosts(cast("Sort", sort), limit)

    async def get_url(self, request: web.Request) -> web.Response:
        """What is known of one URL, and why it is where it is."""
        return json_response(await self.explained(request.query.get("url", ""), request.query.get("via")))

    async def explained(self, given: str, via: str | None) -> dict[str, Any]:
        """The same; Problem: it is no URL, or ``via`` is none."""
        try:
            return await self.crawl.explain(self.known_as(given), given, via)
        except FetchError as error:
            raise Problem(400, f"via is no URL: {error.reason}") from None

    async def get_body(self, request: web.Request) -> web.StreamResponse:
        return await self.follow.get_body(self.canonical(request), request)

    async def get_openapi(self, request: web.Request) -> web.Response:
        text = (files("crawler.service") / OPENAPI).read_bytes()
        return web.Response(body=text, content_type="application/yaml")

    async def get_memory(self, request: web.Request) -> web.Response:
        seconds = _number(request, "seconds", 0, 20)
        return web.Response(text=await self.vitals.memory_report(seconds))

    # -- commands ------------------------------------------------------------------------------------------------

    async def pause(self) -> None:
        logger.info("paused by the control API")  # those who follow it do, though one may stand still
        await self.crawl.pause()

    async def resume(self) -> None:
        logger.info("resumed by the control API")
        await self.crawl.resume()

    def drain(self) -> None:
        logger.info("drained by the control API")
        self.crawl.drain("control API")

    async def post_pause(self, request: web.Request) -> web.Response:
        await self.pause()
        return json_response(await self.status())

    async def post_resume(self, request: web.Request) -> web.Response:
        await self.resume()
        return json_response(await self.status())

    async def post_drain(self, request: web.Request) -> web.Response:
        self.drain()
        return json_response(await self.status())

    async def get_settings(self, request: web.Request) -> web.Response:
        return json_response(self.changes.settings())

    async def patch_settings(self, request: web.Request) -> web.Response:
        """JSON merge patch (RFC 7396) of the settings that may change while it runs."""
        changes = await json_object(request, types=("application/json", "application/merge-patch+json"))
        return json_response(await self.changes.patch(changes))


def _number(request: web.Request, name: str, default: int, largest: int) -> int:
    text = request.query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and int(text) <= largest):
        raise Problem(400, f"{name} must be a whole number of at most {largest}")
    return int(text)


def _asked(handler: Handler, *known: str) -> Handler:
    """The same, asked with no other query parameters than these: a misspelt one would change what is meant."""

    async def checked(request: web.Request) -> web.StreamResponse:
        if unknown := sorted(request.query.keys() - set(known)):
            meant = did_you_mean(unknown[0], known, f"; known are {', '.join(known)}" if known else "")
            raise Problem(400, f"there is no parameter {printable(unknown[0])[:80]} here{meant}")
        return await handler(request)

    return checked


def _in_time(handler: Handler) -> Handler:
    async def bounded(request: web.Request) -> web.StreamResponse:
        async with asyncio.timeout(REQUEST_S):
            return await handler(request)

    return bounded
