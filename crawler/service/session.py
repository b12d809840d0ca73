"""Who has given the token in a browser, and what a page of ours may do there.

A session is a signature by the token over its own end: nothing is remembered here, and a new token ends them all.
"""

from __future__ import annotations

import hmac
from hashlib import sha256
from typing import Final

from aiohttp import web

from crawler.service import dashboard_html

SESSION_S: Final = 12 * 3600
OPEN: Final = frozenset({"/login", "/page.css", "/page.js"})
"""Needed before anybody has given the token."""
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # without one a form would be sent as from nowhere
    "Cache-Control": "no-store",
}


def cookie_of(token: str) -> str:
    """The name of the cookie: one for each token, as browsers send the same cookies to all ports of a machine."""
    return f"crawler-{_signature(token, 'cookie')[:8]}"


def session_of(token: str, until: float) -> str:
    """What a browser keeps instead of the token: good until then, and for this token only."""
    return f"{until:.0f}.{_signature(token, f'{until:.0f}')}"


def is_session(text: str, token: str, now: float) -> bool:
    until, _, signature = text.partition(".")
    if not (text.isascii() and until.isdigit() and len(until) < 15):
        return False
    return hmac.compare_digest(signature, _signature(token, until)) and int(until) > now


def _signature(token: str, what: str) -> str:
    return hmac.new(token.encode(), f"crawler page {what}".encode(), sha256).hexdigest()


def login_page(*, wrong: bool = False) -> web.Response:
    return page(dashboard_html.login(wrong), status=401)


def page(text: str, status: int = 200) -> web.Response:
    """A page that runs nothing but its own script, and is shown in no other."""
    return web.Response(status=status, text=text, content_type="text/html", headers=HEADERS)
