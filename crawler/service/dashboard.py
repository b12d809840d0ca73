"""The page at ``/``: the crawl as a person sees it, and its few buttons. Server-rendered; live where a browser runs scripts.

Invariants: nothing is asked of another host, and nothing but the page's own script and style is run. Only those who may
use the API may use the page; a token is given once. However many look, the crawl is asked once in LIVE_S.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from importlib.resources import files
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl

import orjson
from aiohttp import hdrs, web

from crawler.core.errors import ConfigError, StorageError
from crawler.crawl.explain_text import as_text
from crawler.crawl.status import WAITS, Left
from crawler.frontier.progress import LIST, TAG
from crawler.service import dashboard_html as html
from crawler.service import session
from crawler.service.api_errors import Problem, body_of
from crawler.service.listener import Handler

if TYPE_CHECKING:
    from crawler.service.api import Control

LIVE_S: Final = 2.0
LISTENERS_MAX: Final = 100
"""Open pages that are live; any other is refreshed by hand."""
MADE_S: Final = 30.0
"""For what is shown to be known, and for what is ordered: a process of the crawl may hang."""
SLOW_S: Final = 30.0
"""A browser that takes nothing for so long is cut off; it comes back by itself."""
HOSTS_SHOWN: Final = 8
PROGRESS_SHOWN: Final = 20
EXCLUDED_CHARS_MAX: Final = 64 << 10
"""Of what is excluded, as it is shown: megabytes may be, and each open page may take its time."""


class Dashboard:
    """``control`` is asked for what is shown, and does what is ordered."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._sections: dict[str, str] = {}
        self._version = secrets.randbelow(1 << 48)
        """Begins anywhere: what an earlier process has shown is no version of this one's."""
        self._rendered_at = -LIVE_S
        self._rendering = asyncio.Lock()
        self._changed: bytes = b""
        """What differs from the version before, as an event."""
        self._listeners = 0
        self._closing = asyncio.Event()

    def routes(self) -> list[tuple[str, str, Handler]]:
        return [
            ("GET", "/", self._control.follow.few_at_a_time(self.get_page)),
            ("GET", "/events", self.get_events),
            ("GET", "/why", self.get_why),
            ("GET", "/page.css", _asset("page.css", "text/css")),
            ("GET", "/page.js", _asset("page.js", "text/javascript")),
            ("POST", "/login", self.post_login),
            ("POST", "/logout", self.post_logout),
            ("POST", "/steer", self.post_steer),
        ]

    async def close(self, app: web.Application) -> None:
        """The listener ends: so do the live pages."""
        self._closing.set()

    # -- what is shown --------------------------------------------------------------------------------------------

    async def get_page(self, request: web.Request) -> web.Response:
        await self._render()
        return session.page(html.page(self._sections, version=self._version, logs_out=self._control.token is not None))

    async def get_why(self, request: web.Request) -> web.Response:
        url = request.query.get("url", "")
        try:
            async with asyncio.timeout(MADE_S):
                said = as_text(await self._control.explained(url, None))
        except Problem as problem:
            said = problem.detail
        return session.page(html.why(url, said))

    async def get_events(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events: each a JSON object of the sections that have changed, as HTML."""
        if self._listeners >= LISTENERS_MAX:
            raise Problem(503, "too many pages are live; try again", headers={hdrs.RETRY_AFTER: "10"})
        self._listeners += 1
        response = web.StreamResponse(headers=session.HEADERS | {"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
        try:
            await response.prepare(request)
            if request.method != hdrs.METH_HEAD:
                await self._follow(response, request.headers.get("Last-Event-ID", request.query.get("version", "")))
            return response
        except (StorageError, TimeoutError):
            if not response.prepared:
                raise
            if request.transport is not None:
                request.transport.abort()  # the response has begun; the browser comes back by itself
            return response
        finally:
            self._listeners -= 1

    async def _follow(self, response: web.StreamResponse, seen: str) -> None:
        while not self._closing.is_set():
            await self._render()
            if seen != str(self._version):
                event = self._changed if seen == str(self._version - 1) else _event(self._version, self._sections)
                seen = str(self._version)
                async with asyncio.timeout(SLOW_S):
                    await response.write(event)
            try:
                async with asyncio.timeout(LIVE_S):
                    await self._closing.wait()
            except TimeoutError:
                pass

    async def _render(self) -> None:
        """Sections as they are now, or were a moment ago: then there is nothing to do."""
        async with asyncio.timeout(MADE_S), self._rendering:
            now = time.monotonic()
            if now - self._rendered_at < LIVE_S / 2:
                return
            sections = await self._sections_now()
            self._rendered_at = now
            if changed := {name: text for name, text in sections.items() if self._sections.get(name) != text}:
                self._sections = sections
                self._version += 1
                self._changed = _event(self._version, changed)

    async def _sections_now(self) -> dict[str, str]:
        control = self._control
        status = await control.status()
        hosts = {sort: await control.hosts(sort, HOSTS_SHOWN) for sort in ("waiting", "backoff", "errors")}
        lists, tags = await control.steering.progress_of(LIST), await control.steering.progress_of(TAG)
        return {
            "head": html.head(status, time.time()),
            "overview": html.overview(status, control.vitals.history.rates, _words(control.vitals.left())),
            "steer": html.steer(status),
            "excluded": html.excluded(control.changes.excluded(), EXCLUDED_CHARS_MAX),
            "outcomes": html.outcomes(status),
            "workers": html.workers(status, _sentence(WAITS.get(status["waits_for"], "they are all busy"))),
            "memory": html.memory(status),
            "disk": html.disk(status),
            "hosts": html.hosts(hosts),
            "lists": html.lists(lists, tags, PROGRESS_SHOWN),
            "failures": html.failures(reversed(await control.crawl.failures())),
        }

    # -- what is ordered ------------------------------------------------------------------------------------------

    async def post_steer(self, request: web.Request) -> web.Response:
        form = await _form(request)
        action, value, undo = form.get("action", ""), form.get("value", ""), form.get("undo") == "yes"
        try:
            async with asyncio.timeout(MADE_S):  # what is undone was shown as it is; what a person has typed may end with a space
                await self._steer(action, value if undo else value.strip(), undo=undo, sure=form.get("sure") == "yes")
        except ConfigError as error:
            return session.page(html.refused(str(error)), status=400)
        self._rendered_at = -LIVE_S
        return web.Response(status=303, headers={hdrs.LOCATION: "./"})

    async def _steer(self, action: str, value: str, *, undo: bool, sure: bool) -> None:
        control = self._control
        if action == "pause":
            await control.pause()
        elif action == "resume":
            await control.resume()
        elif action == "drain" and sure:
            control.drain()
        elif action in ("exclude", "block") and (value or undo):
            expressions, hosts = ([value], []) if action == "exclude" else ([], [value])
            await control.changes.exclude(expressions, hosts, undo=undo)
        else:
            raise ConfigError("nothing was ordered")

    # -- who may --------------------------------------------------------------------------------------------------

    async def post_login(self, request: web.Request) -> web.Response:
        token = self._control.token
        given = (await _form(request)).get("token", "").strip()
        if token is None or not hmac.compare_digest(given.encode(), token.encode()):
            return session.login_page(wrong=True)
        response = web.Response(status=303, headers={hdrs.LOCATION: "./"})
        kept = session.session_of(token, time.time() + session.SESSION_S)
        is_secure = request.secure or request.headers.get("X-Forwarded-Proto") == "https"
        # without a path: below the one that a proxy shows it at
        cookie = f"{session.cookie_of(token)}={kept}; HttpOnly; SameSite=Strict"
        response.headers[hdrs.SET_COOKIE] = cookie + "; Secure" * is_secure
        return response

    async def post_logout(self, request: web.Request) -> web.Response:
        response = web.Response(status=303, headers={hdrs.LOCATION: "./"})
        if (token := self._control.token) is not None:
            response.headers[hdrs.SET_COOKIE] = f"{session.cookie_of(token)}=; HttpOnly; SameSite=Strict; Max-Age=0"
        return response


async def _form(request: web.Request) -> dict[str, str]:
    """As browsers send our forms. Whatever else may come, perhaps of somebody who has no token, is no fault of ours."""
    if request.content_type != "application/x-www-form-urlencoded":
        raise Problem(415, "send a form as application/x-www-form-urlencoded")
    return dict(parse_qsl((await body_of(request)).decode(errors="replace"), keep_blank_values=True))


def _words(left: Left | None) -> str:
    if left is None:
        return "–"
    alone = f" ({left.host.host} alone, at {left.host.rest:g} s)" if left.host is not None else ""
    return f"{left}{alone}"


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."


def _event(version: int, sections: Mapping[str, str]) -> bytes:
    return b"id: %d\nevent: sections\ndata: %b\n\n" % (version, orjson.dumps(sections))


def _asset(name: str, mime: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def respond(request: web.Request) -> web.Response:
        body = (files("crawler.service") / "page" / name).read_bytes()
        return web.Response(body=body, content_type=mime, charset="utf-8", headers=session.HEADERS)

    return respond
