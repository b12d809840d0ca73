"""The dashboard's HTML, section by section. Pure: what is shown is handed in, and escaped here and nowhere else.

No style or script stands in it (the policy of the page forbids both), and every address is relative: it may stand behind a proxy,
below any path.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from string import Template
from typing import Any, Final
from urllib.parse import quote

from crawler.core.model import failed
from crawler.core.text import amount, printable, share
from crawler.crawl.status import duration, state_of

CHART_WIDTH: Final = 300
CHART_HEIGHT: Final = 60
URL_CHARS: Final = 120
"""Of a URL as it is shown; the link has all of it."""

Row = Sequence[str]


def text(value: object) -> str:
    return escape(printable(str(value)))


def page(sections: Mapping[str, str], *, version: int, logs_out: bool) -> str:
    """The whole page."""
    leave = '<form method="post" action="logout"><button>Log out</button></form>' if logs_out else ""
    body = _filled("main.html", **sections, version=version, why=_filled("why.html"), leave=leave)
    return _document("crawler", body, LIVE)


def login(wrong: bool) -> str:
    """What somebody without the token is shown."""
    said = '<p role="alert" class="bad">That is not the token.</p>' if wrong else ""
    return _document("crawler: log in", _filled("login.html", said=said))


def why(url: str, said: str) -> str:
    """What is known of a URL."""
    body = f'{_BACK}<h1>Why</h1><pre tabindex="0">{escape(said)}</pre>{_filled("why.html")}'
    return _document(f"why {url[:URL_CHARS]}", f'<main class="alone broad">{body}</main>')


def refused(said: str) -> str:
    """What could not be done."""
    return _document("crawler: not done", f'<main class="alone"><h1>Not done</h1><p role="alert">{text(said)}</p>{_BACK}</main>')


LIVE: Final = '<script src="page.js" defer></script><noscript><meta http-equiv="refresh" content="5"></noscript>'
_BACK: Final = '<p><a href="./">Back to the crawl</a></p>'


def _document(title: str, body: str, head: str = "") -> str:
    return _filled("document.html", title=text(title), head=head, body=body)


def _filled(name: str, **pieces: object) -> str:
    return _template(name).substitute(pieces)


@cache
def _template(name: str) -> Template:
    return Template((files("crawler.service") / "page" / name).read_text(encoding="utf-8"))


# -- sections -----------------------------------------------------------------------------------------------------------


def head(status: Mapping[str, Any], now: float) -> str:
    good = "good" if status["state"] == "running" else "bad"
    up = duration(max(0.0, now - status["started_at"]))
    return (
        f'<h1>crawler <span class="state {good}" role="status">{text(state_of(status))}</span></h1>'
        f"<p>{text(status['directory'])} · up {text(up)} · process {status['pid']} · version {text(status['version'])}</p>"
    )


def overview(status: Mapping[str, Any], history: Sequence[float], expected: str) -> str:
    left = status["waiting"] + status["retrying"]
    failed_count = failed(status["outcomes"])
    done, known = status["done"], status["known"]
    facts = [
        ("done", f"{done:,} of {known:,}{share(done, known)}"),
        ("left", f"{left:,}" + (f", {status['retrying']:,} to retry" if status["retrying"] else "")),
        ("failed", f"{failed_count:,}{share(failed_count, done)}"),
        ("speed", f"{status['pages_per_second']:,.1f} pages/s, {amount(status['bytes_per_second'])}/s"),
        ("in flight", f"{status['in_flight']:,}"),
        ("time left", expected),
        ("hosts", f"{status['hosts']:,}"),
    ]
    bar = f'<progress max="{max(known, 1)}" value="{done}" aria-label="URLs done"></progress>' if known else ""
    return f"{bar}{_facts(facts)}{chart(history)}"


def chart(history: Sequence[float]) -> str:
    """Pages per second over the last minutes, oldest first."""
    if len(history) < 2:
        return ""
    most = max(history) or 1.0
    step = CHART_WIDTH / (len(history) - 1)
    heights = (CHART_HEIGHT - 2 - (CHART_HEIGHT - 6) * rate / most for rate in history)
    points = " ".join(f"{n * step:.1f},{height:.1f}" for n, height in enumerate(heights))
    said = f"Pages per second over the last minutes: now {history[-1]:,.1f}, at most {max(history):,.1f}"
    return (
        f'<figure><svg viewBox="0 0 {CHART_WIDTH} {CHART_HEIGHT}" preserveAspectRatio="none" role="img" aria-label="{said}">'
        f'<polyline points="{points}"/></svg><figcaption>pages/s of late, at most {max(history):,.1f}</figcaption></figure>'
    )


def steer(status: Mapping[str, Any]) -> str:
    if status["state"] in ("draining", "ended"):
        return "<p>It ends: what is in flight is finished and committed.</p>"
    is_paused = "user" in status["paused_by"]
    action, said = ("resume", "Resume") if is_paused else ("pause", "Pause")
    what = "Nothing is fetched until it is resumed." if is_paused else "Visits are begun as hosts are due."
    button = f'<button name="action" value="{action}">{said}</button>'
    return f'<form method="post" action="steer" class="line"><span>{what}</span>{button}</form>'


def excluded(now: Mapping[str, Sequence[str]], chars_max: int) -> str:
    """The first that fit: every open page is sent all of them."""
    orders = [("exclude", each) for each in now["exclude"]] + [("block", each) for each in now["blocked"]]
    if not orders:
        return "<p>Nothing is excluded.</p>"
    rows: list[str] = []
    for action, value in orders:
        chars_max -= len(row := _undo(action, value))
        if chars_max < 0:
            break
        rows.append(row)
    more = f"<p>and {len(orders) - len(rows):,} more (GET /v1/exclusions)</p>" if len(rows) < len(orders) else ""
    return f'<ul class="plain">{"".join(rows)}</ul>{more}'


def _undo(action: str, value: str) -> str:
    said = f"{'excluded' if action == 'exclude' else 'blocked'}: {value}"
    return (
        f'<li><form method="post" action="steer" class="line"><code>{text(said)}</code>'
        f'<input type="hidden" name="value" value="{escape(value)}"><input type="hidden" name="undo" value="yes">'
        f'<button name="action" value="{action}" aria-label="Undo: {text(said)}">Undo</button></form></li>'
    )


def outcomes(status: Mapping[str, Any]) -> str:
    tables = _counts("by outcome", status["outcomes"]) + _counts("by reason", status["reasons"])
    tables += _counts("lines that are no new URL", status["lines"]) + _counts("links left out, by rule", status["refused"])
    return tables or "<p>Nothing has ended yet.</p>"


def workers(status: Mapping[str, Any], words: str) -> str:
    shown = sorted(status["workers"].items(), key=lambda pair: -pair[1])
    total = sum(status["workers"].values()) or 1
    rows = [
        (text(state), f"{count:,}", f'<meter max="{total}" value="{count}" aria-label="{text(state)}"></meter>')
        for state, count in shown
        if count
    ]
    return f"<p>{text(words)}</p>{_table('workers by state', ('state', 'workers', 'share'), rows)}"


def memory(status: Mapping[str, Any]) -> str:
    now = status["memory"]
    used, limit = now["used"], now["limit"]
    rows = [
        (
            text(name),
            amount(account["used"]),
            amount(account["budget"]),
            f'<meter max="{max(account["budget"], 1)}" value="{min(account["used"], account["budget"])}" '
            f'aria-label="{text(name)}"></meter>',
        )
        for name, account in now["accounts"].items()
        if account["budget"] or account["used"]
    ]
    return (
        f"<p>{amount(used)} of {amount(limit)}, {text(now['state'])}</p>"
        f'<meter class="long" max="{max(limit, 1)}" high="{0.85 * limit:.0f}" value="{used}" aria-label="memory used"></meter>'
        f"{_table('by account', ('account', 'used', 'budget', 'share'), rows)}"
    )


def disk(status: Mapping[str, Any]) -> str:
    errors = ", ".join(f"{count:,} × {name}" for name, count in status["storage_errors"].items() if count)
    return _facts(
        [
            ("free", amount(status["disk_free"])),
            ("oldest uncommitted", f"{status['commit_age']:.1f} s" if status["commit_age"] else "none"),
            ("storage errors", errors or "none"),
            ("received", amount(status["bytes"])),
        ]
    )


def hosts(by: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    def waiting(host: Mapping[str, Any]) -> Row:
        return text(host["host"]), f"{host['waiting']:,}", f"{host['in_flight']:,}", _rest(host)

    def resting(host: Mapping[str, Any]) -> Row:
        why = f"{host['busy']} × asked to slow down" if host["busy"] else f"{host['failures']} failures in a row"
        return text(host["host"]), _rest(host), text(why), f"{host['waiting']:,}"

    def failing(host: Mapping[str, Any]) -> Row:
        return text(host["host"]), f"{host['errors']:,}", f"{host['waiting']:,}"

    return "".join(
        (
            _hosts("most left", ("host", "left", "in flight", "rests"), by["waiting"], waiting),
            _hosts("backed off", ("host", "rests", "why", "left"), by["backoff"], resting),
            _hosts("most failures since the start", ("host", "failures", "left"), by["errors"], failing),
        )
    )


def _hosts(title: str, heads: Row, hosts: Iterable[Mapping[str, Any]], row: Callable[[Mapping[str, Any]], Row]) -> str:
    return _table(title, heads, [row(host) for host in hosts])


def _rest(host: Mapping[str, Any]) -> str:
    return duration(host["due_in"]) if host["due_in"] else "–"


def lists(lists: Sequence[Mapping[str, Any]], tags: Sequence[Mapping[str, Any]], limit: int) -> str:
    return _progress("lists, by lines", lists, limit) + _progress("tags, by URLs", tags, limit)


def _progress(title: str, told: Sequence[Mapping[str, Any]], limit: int) -> str:
    rows = []
    for one in told[:limit]:
        name = "all others" if one["name"] is None else text(one["name"])
        bar = f'<progress max="{max(one["known"], 1)}" value="{one["done"]}" aria-label="{name} done"></progress>'
        rows.append((name, f"{one['done']:,} of {one['known']:,}", bar, f"{failed(one['outcomes']):,}"))
    more = f"<p>and {len(told) - limit:,} more</p>" if len(told) > limit else ""
    return f"{_table(title, ('name', 'done', 'share', 'failed'), rows)}{more}"


def failures(recent: Iterable[tuple[float, str, str, str]]) -> str:
    """(wall time, URL, outcome, reason or status) of each, latest first."""
    rows = [
        (
            f'<a href="why?url={quote(url, safe="")}">{text(url[:URL_CHARS])}</a>',
            text(outcome),
            text(reason),
            time.strftime("%H:%M:%S", time.gmtime(wall)),
        )
        for wall, url, outcome, reason in recent
    ]
    return (
        _table("the last ones, time in UTC", ("URL: why?", "outcome", "reason", "time"), rows) if rows else "<p>None so far.</p>"
    )


# -- pieces -------------------------------------------------------------------------------------------------------------


def _facts(facts: Iterable[tuple[str, str]]) -> str:
    return f"<dl>{''.join(f'<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>' for name, value in facts)}</dl>"


def _counts(title: str, counts: Mapping[str, int]) -> str:
    shown = sorted(((count, name) for name, count in counts.items() if count), reverse=True)
    return _table(title, ("name", "count"), [(text(name), f"{count:,}") for count, name in shown])


def _table(title: str, heads: Row, rows: Sequence[Row]) -> str:
    """Cells are HTML already; the first of a row is its head."""
    if not rows:
        return ""
    top = "".join(f'<th scope="col">{head}</th>' for head in heads)
    lines = (f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>' for first, *rest in rows)
    table = f"<table><caption>{title}</caption><thead><tr>{top}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return f'<div class="scroll" tabindex="0" role="group" aria-label="{title}">{table}</div>'
