"""The control API: a running crawl over HTTP, as described by ``crawler/service/openapi.yaml``.

Invariants: requests change the crawl only through methods that it has anyway (pause, drain, admit, reconfigure). No client,
however slow, holds up a visit: responses are bounded, streamed in pieces, and cut off in time.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from heapq import nlargest
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import msgspec
import orjson
from aiohttp import web
from prometheus_client import CollectorRegistry

from crawler.core.errors import FetchError
from crawler.core.model import Link, Pause, Ref
from crawler.core.urls import UrlRules, parse
from crawler.core.version import __version__
from crawler.crawl import Crawl, Readings
from crawler.crawl.explain import explain
from crawler.output import row_at
from crawler.output.archive import is_gone
from crawler.service.api_errors import Problem, as_problem
from crawler.service.api_seeds import Uploads
from crawler.service.api_streams import Follow
from crawler.service.listener import Handler, watched
from crawler.service.memory_report import memory_report

REQUEST_S: Final = 30.0
"""For a response that is not a stream."""
BODY_BYTES_MAX: Final = 64 << 10
"""Of a request that is not an upload."""
CONNECTIONS_MAX: Final = 128
HOSTS_MAX: Final = 1000
OPENAPI: Final = "openapi.yaml"
_SORTS: Final = ("waiting", "backoff", "errors")


logger: Final = logging.getLogger(__name__)


class Control:
    """What the API needs besides the crawl itself, as functions: ``readings`` and ``rates`` (pages/s, bytes/s) of this
    moment, ``change(settings)`` which applies some settings and gives them all (ConfigError: none was applied)."""

    def __init__(
        self,
        crawl: Crawl,
        root: Path,
        *,
        registry: CollectorRegistry,
        readings: Callable[[], Readings],
        rates: Callable[[], tuple[float, float]] = lambda: (0.0, 0.0),
        change: Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]],
        settings: Callable[[], Mapping[str, Any]],
        alive: Callable[[], str | None] = lambda: None,
        ready: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.crawl, self.root, self.registry = crawl, root, registry
        self.readings, self.rates, self.change, self.settings = readings, rates, change, settings
        self.alive, self.ready = alive, ready
        config = crawl.config
        self.rules = UrlRules(config.max_url, config.drop_params, config.sort_query)
        self.uploads = Uploads(crawl, self.rules)
        self.follow = Follow(crawl, root)
        self.began = time.time()

    def application(self) -> web.Application:
        """To be served by ``listener.open_listener`` on the configured address."""
        config = self.crawl.config
        app = web.Application(client_max_size=BODY_BYTES_MAX, middlewares=[as_problem(config.listen, config.api_token)])
        for method, path, handler in self.routes():
            app.router.add_route(method, path, handler)
        return app

    def routes(self) -> list[tuple[str, str, Handler]]:
        """Exactly the operations of the OpenAPI file."""
        asked = {path: ("GET", path, handler) for path, handler in watched(self.registry, self.alive, self.ready).items()}
        return [
            ("POST", "/v1/seeds", self.uploads.post_seeds),
            ("GET", "/v1/results", self.follow.get_results),
            ("GET", "/v1/body", self.get_body),
            *(
                (method, path, _in_time(handler))
                for method, path, handler in (
                    ("GET", "/v1/status", self.get_status),
                    ("GET", "/v1/hosts", self.get_hosts),
                    ("GET", "/v1/urls", self.get_url),
                    ("POST", "/v1/pause", self.post_pause),
                    ("POST", "/v1/resume", self.post_resume),
                    ("POST", "/v1/drain", self.post_drain),
                    ("GET", "/v1/settings", self.get_settings),
                    ("PATCH", "/v1/settings", self.patch_settings),
                    ("GET", "/v1/openapi.yaml", self.get_openapi),
                    ("GET", "/debug/memory", self.get_memory),
                )
            ),
            *asked.values(),
        ]

    def canonical(self, request: web.Request) -> str:
        """The URL that ``?url=`` names, as this crawl knows it."""
        text = request.query.get("url")
        if not text:
            raise Problem(400, "which URL? give it as ?url=")
        try:
            return parse(text, None, self.rules).href
        except FetchError as error:
            raise Problem(400, f"not a URL that can be crawled: {error.reason} {error.detail}".strip()) from None

    # -- queries ------------------------------------------------------------------------------------------------

    async def get_status(self, request: web.Request) -> web.Response:
        return _json(self.status())

    def status(self) -> dict[str, Any]:
        """Everything about the crawl at this moment."""
        snapshot = msgspec.to_builtins(self.crawl.stats())
        del snapshot["at"]
        readings, (pages, size) = self.readings(), self.rates()
        return {
            "version": __version__,
            "pid": os.getpid(),
            "directory": str(self.root),
            "started_at": self.began,
            **snapshot,
            "paused_by": sorted(self.crawl.frontier.pauses),
            "hosts": self.crawl.frontier.counts.hosts,
            "pages_per_second": round(pages, 3),
            "bytes_per_second": round(size, 1),
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
        limit = _number(request, "limit", 20, HOSTS_MAX)
        crawl, now = self.crawl, self.crawl.clock.now()
        benched = {view.host: view for view in crawl.frontier.bench.hosts()}
        waiting: dict[str, int] = dict(await crawl.pump.ask(crawl.store.longest, HOSTS_MAX))
        errors = dict(crawl.failing_hosts.top(HOSTS_MAX))
        if sort == "waiting":
            chosen = list(waiting)[:limit]
        elif sort == "errors":
            chosen = list(errors)[:limit]
        else:
            backed_off = [view for view in benched.values() if view.failures or view.busy]
            chosen = [view.host for view in nlargest(limit, backed_off, key=lambda view: view.due)]
        hosts = []
        for host in chosen:
            view = benched.get(host)
            hosts.append(
                {
                    "host": host,
                    "waiting": waiting.get(host, view.waiting if view else 0),
                    "errors": errors.get(host, 0),
                    "in_flight": view.out if view else 0,
                    "due_in": round(max(0.0, view.due - now), 3) if view else None,
                    "failures": view.failures if view else None,
                    "busy": view.busy if view else None,
                }
            )
        return _json({"sort": sort, "hosts": hosts})

    async def get_url(self, request: web.Request) -> web.Response:
        """What is known of one URL, and why it is where it is."""
        url = self.canonical(request)
        pump, store = self.crawl.pump, self.crawl.store
        try:
            explained = partial(explain, is_retired=self._is_retired)
            explanation = await pump.ask(explained, self.root, store, request.query["url"], request.query.get("via"))
        except FetchError as error:
            raise Problem(400, f"via is no URL: {error.reason}") from None
        if place := explanation.get("record", {}).get("row"):
            explanation["row"] = await asyncio.to_thread(row_at, self.root, Ref(**place))
        return _json(explanation | self._prospects(url))

    def _is_retired(self, file: str) -> bool:
        """In the engine thread."""
        return is_gone(self.root, self.crawl.store.marks(), file)

    def _prospects(self, url: str) -> dict[str, Any]:
        """What stands between this URL and a visit: its host's rest, and its robots rules as far as they are at hand."""
        crawl, host = self.crawl, parse(url).host
        view = next((view for view in crawl.frontier.bench.hosts() if view.host == host), None)
        prospects: dict[str, Any] = {"host": host, "in_flight": crawl.frontier.is_out(url), "robots": None, "host_due_in": None}
        if view is not None:
            prospects["host_due_in"] = round(max(0.0, view.due - crawl.clock.now()), 3)
        if crawl.robots is not None:
            try:
                refused = crawl.robots.refuses(Link(url, host))
                prospects["robots"] = "allowed" if refused is None else refused[1]
            except KeyError:
                prospects["robots"] = "not asked yet"
        return prospects

    async def get_body(self, request: web.Request) -> web.StreamResponse:
        return await self.follow.get_body(self.canonical(request), request)

    async def get_openapi(self, request: web.Request) -> web.Response:
        text = (files("crawler.service") / OPENAPI).read_bytes()
        return web.Response(body=text, content_type="application/yaml")

    async def get_memory(self, request: web.Request) -> web.Response:
        seconds = _number(request, "seconds", 0, 20)
        return web.Response(text=await memory_report(self.readings(), trace_s=seconds))

    # -- commands ------------------------------------------------------------------------------------------------

    async def post_pause(self, request: web.Request) -> web.Response:
        self.crawl.frontier.pause(Pause.USER)
        logger.info("paused by the control API")
        return _json(self.status())

    async def post_resume(self, request: web.Request) -> web.Response:
        self.crawl.frontier.resume(Pause.USER)
        logger.info("resumed by the control API")
        return _json(self.status())

    async def post_drain(self, request: web.Request) -> web.Response:
        logger.info("drained by the control API")
        self.crawl.drain("control API")
        return _json(self.status())

    async def get_settings(self, request: web.Request) -> web.Response:
        return _json(self.settings())

    async def patch_settings(self, request: web.Request) -> web.Response:
        """JSON merge patch (RFC 7396) of the settings that may change while it runs."""
        if request.content_type not in ("application/json", "application/merge-patch+json"):
            raise Problem(415, "send a JSON object as application/json")
        try:
            changes = orjson.loads(await request.read())
        except orjson.JSONDecodeError as error:
            raise Problem(400, f"not JSON: {error}") from None
        if not isinstance(changes, dict):
            raise Problem(400, "send an object of settings")
        return _json(await self.change(changes))


def _json(value: Mapping[str, Any]) -> web.Response:
    body = orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)
    return web.Response(body=body, content_type="application/json", headers={"Cache-Control": "no-store"})


def _number(request: web.Request, name: str, default: int, largest: int) -> int:
    text = request.query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and int(text) <= largest):
        raise Problem(400, f"{name} must be a whole number of at most {largest}")
    return int(text)


def _in_time(handler: Handler) -> Handler:
    async def bounded(request: web.Request) -> web.StreamResponse:
        async with asyncio.timeout(REQUEST_S):
            return await handler(request)

    return bounded
