"""Explains what happened to a URL: its state and record, or the rule that leaves it out. Asks the store, not the web."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from msgspec.structs import asdict

from crawler.config.render import read_section
from crawler.config.sections import ScopeConfig
from crawler.core import urls
from crawler.core.errors import FetchError
from crawler.core.model import Known, Link
from crawler.core.text import printable
from crawler.policy.robots_rules import Rules
from crawler.policy.scope import Scope

if TYPE_CHECKING:
    from crawler.frontier import Store
    from crawler.output import CrawlReader

PLACES: Final = {
    "host": "links to other hosts than the seed's are left out",
    "domain": "links to other domains than the seed's are left out",
    "prefix": "links that do not begin as the seed does are left out",
    "any": "",
}


def explain(
    root: Path, store: Store | CrawlReader, url: str, via: str | None = None, *, is_retired: Callable[[str], bool]
) -> dict[str, Any]:
    """What the store of the crawl in ``root`` knows of a URL, and which files that it names ``is_retired``.

    ``state`` is done, waiting, retrying, unknown or invalid; then the record, or the rule that refuses it as a link (of
    the page ``via``, if that is known). FetchError: ``via`` is not a URL."""
    config = read_section(root, ScopeConfig) or ScopeConfig()
    try:
        canonical = urls.parse(url, rules=urls.Rules(config.max_url, config.drop_params, config.sort_query)).href
    except FetchError as error:
        return {"url": url, "canonical": None, "state": "invalid", "rule": error.reason}
    explanation: dict[str, Any] = {"url": url, "canonical": canonical, "state": "unknown"}
    known = store.lookup(canonical)
    if isinstance(known, Known):
        places = {"archive": known.archive, "row": known.row}
        retired = [name for name, place in places.items() if place is not None and is_retired(place.file)]
        return explanation | {"state": "done", "record": record_of(known) | {"retired": retired}} | _denial(store, known)
    if known is not None:
        return explanation | {"state": known}
    return explanation | _refusal(store, config, canonical, via)


def record_of(known: Known) -> dict[str, Any]:
    """What the store keeps of a settled URL, in the words of a result row."""
    link = known.link
    return {
        "outcome": known.outcome,
        "reason": known.reason,
        "status": known.status,
        "fetched_at": known.fetched_at,
        "location": known.location,
        "kind": link.kind,
        "depth": link.depth,
        "hops": link.hops,
        "attempt": link.attempt,
        "via": link.via,
        "input": link.input and {"list": link.input.list, "line": link.input.line},
        "tag": link.tag,
        "archive": known.archive and asdict(known.archive),
        "row": known.row and asdict(known.row),
    }


def _denial(store: Store | CrawlReader, known: Known) -> dict[str, Any]:
    """The line of robots.txt that forbids it, as it is kept now."""
    record = store.robots([urls.origin(known.link.url)])[0] if known.reason == "rule" else None
    rules = Rules.from_bytes(record) if record else None
    return {"denied_by": rules.denied_by(known.link.url) if rules else None}


def _refusal(store: Store | CrawlReader, config: ScopeConfig, url: str, via: str | None) -> dict[str, Any]:
    page = store.lookup(urls.canonical(via)) if via else None
    if isinstance(page, Known):
        depth, anchor = page.link.depth + 1, page.link.anchor or page.link.url
    else:
        depth, anchor = 0, None  # nothing is known of where the link stands: place and depth cannot refuse it
    rule = Scope(config).refuses(Link(url, urls.host_key(url), "link", depth, anchor=anchor))
    rule = rule or _refused_by_counts(config, url, *store.budgets(url))
    refusal = {"rule": rule, "depth": config.depth, "scope": config.scope}
    if via:
        refusal["via"] = page.link.url if isinstance(page, Known) else None
    return refusal


def _refused_by_counts(config: ScopeConfig, url: str, admitted: int, queries: int) -> str | None:
    """The rule that a store's counts speak for: the budgets, and the place where nothing was ever admitted for a host."""
    if config.scope == "host" and config.depth and not admitted:
        return "host"
    if "?" in url and 0 < config.max_queries_per_path <= queries:
        return "query_explosion"
    if 0 < config.max_pages_per_host <= admitted:
        return "host_budget"
    return None


def as_text(explanation: dict[str, Any]) -> str:
    """For a person."""
    lines = [str(explanation["canonical"] or explanation["url"])]
    if explanation["state"] == "invalid":
        lines.append(f"is not a URL: {explanation['rule']}")
    elif explanation["state"] == "unknown":
        lines += _unknown(explanation)
    elif explanation["state"] == "done":
        lines += _done(explanation["record"])
        if explanation.get("denied_by"):
            lines.append(f"robots.txt says {explanation['denied_by']}")
    else:
        lines.append({"waiting": "waits for its visit", "retrying": "failed, and waits to be tried again"}[explanation["state"]])
    lines += _prospects(explanation)
    return "\n  ".join(map(printable, lines))


def _unknown(explanation: dict[str, Any]) -> list[str]:
    if explanation["rule"]:
        return [f"left out by the rule {explanation['rule']}"]
    if "via" in explanation and explanation["via"] is None:
        return ["never admitted, and the page it is said to stand on was not fetched"]
    if "via" in explanation:
        return ["never admitted, though no rule refuses it: the link was not found on that page, or it says nofollow"]
    extent = f"followed to depth {explanation['depth']}" if explanation["depth"] >= 0 else "followed without limit"
    place = PLACES[explanation["scope"]]
    return ["never admitted: it was not listed, and not found on a page", f"links are {extent}" + (f"; {place}" if place else "")]


def _prospects(explanation: dict[str, Any]) -> list[str]:
    """What only a running daemon knows."""
    lines = ["is being visited"] if explanation.get("in_flight") else []
    if explanation["state"] in ("waiting", "retrying") and explanation.get("host_due_in"):
        lines.append(f"its host rests {explanation['host_due_in']:.0f} s more")
    if explanation.get("robots") not in (None, "allowed"):
        lines.append(
            {"rule": "robots.txt forbids it", "not asked yet": "its robots.txt has not been asked for yet"}.get(
                explanation["robots"], "its robots.txt cannot be had"
            )
        )
    return lines


def _done(record: dict[str, Any]) -> list[str]:
    ended = record["outcome"] + (f" ({record['reason']})" if record["reason"] else "")
    at = datetime.fromtimestamp(record["fetched_at"], UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    status = f", status {record['status']}" if record["status"] else ""
    lines = [f"settled as {ended}{status}, attempt {record['attempt']}, {at}"]
    source = record["input"]
    found = f", found on {record['via']}" if record["via"] else ""
    listed = f", line {source['line']} of {source['list']}" if source else ""
    lines.append(f"{record['kind']}, depth {record['depth']}{found}{listed}")
    if record["location"]:
        lines.append(f"redirects to {record['location']}")
    for name, label in (("archive", "body"), ("row", "row")):
        if place := record[name]:
            gone = " (no longer kept: that file was retired)" if name in record.get("retired", ()) else ""
            lines.append(f"{label}: {place['file']}, {place['length']} bytes at {place['offset']}{gone}")
    return lines
