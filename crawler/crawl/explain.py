"""Why a URL is where it is: its state and record, or the rule that leaves it out. Asked of the directory, not of the web."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol

from msgspec.structs import asdict

from crawler.config.render import read_section
from crawler.config.sections import ScopeConfig
from crawler.core import urls
from crawler.core.errors import FetchError
from crawler.core.model import Known, Link
from crawler.core.text import printable
from crawler.policy.robots_rules import Rules
from crawler.policy.scope import Scope


class Memory(Protocol):
    """What a crawl remembers of canonical URLs (see ``Store``)."""

    def lookup(self, url: str) -> Known | str | None: ...

    def budgets(self, url: str) -> tuple[int, int]: ...

    def robots(self, origins: Sequence[str]) -> list[bytes | None]: ...


PLACES: Final = {
    "host": "links to other hosts than the seed's are left out",
    "domain": "links to other domains than the seed's are left out",
    "prefix": "links that do not begin as the seed does are left out",
    "any": "",
}


def explain(root: Path, memory: Memory, url: str, via: str | None = None, *, is_retired: Callable[[str], bool]) -> dict[str, Any]:
    """What is remembered in the crawl of directory ``root``, and of which files ``is_retired`` says so.

    ``state`` is done, waiting, retrying, unknown or invalid; then the record, or the rule that refuses it as a link (of
    the page ``via``, if that is known). FetchError: ``via`` is no URL."""
    config = read_section(root, ScopeConfig) or ScopeConfig()
    try:
        canonical = urls.parse(url, rules=urls.Rules(config.max_url, config.drop_params, config.sort_query)).href
    except FetchError as error:
        return {"url": url, "canonical": None, "state": "invalid", "rule": error.reason}
    answer: dict[str, Any] = {"url": url, "canonical": canonical, "state": "unknown"}
    known = memory.lookup(canonical)
    if isinstance(known, Known):
        places = {"archive": known.archive, "row": known.row}
        retired = [name for name, place in places.items() if place is not None and is_retired(place.file)]
        return answer | {"state": "done", "record": record_of(known) | {"retired": retired}} | _denial(memory, known)
    if known is not None:
        return answer | {"state": known}
    return answer | _refusal(memory, config, canonical, via)


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


def _denial(memory: Memory, known: Known) -> dict[str, Any]:
    """The line of robots.txt that forbids it, as it is kept now."""
    record = memory.robots([urls.origin(known.link.url)])[0] if known.reason == "rule" else None
    rules = Rules.from_bytes(record) if record else None
    return {"denied_by": rules.denied_by(known.link.url) if rules else None}


def _refusal(memory: Memory, config: ScopeConfig, url: str, via: str | None) -> dict[str, Any]:
    page = memory.lookup(urls.canonical(via)) if via else None
    if isinstance(page, Known):
        depth, anchor = page.link.depth + 1, page.link.anchor or page.link.url
    else:
        depth, anchor = 0, None  # nothing is known of where the link stands: place and depth cannot refuse it
    rule = Scope(config).refuses(Link(url, urls.host_key(url), "link", depth, anchor=anchor))
    rule = rule or _refused_by_memory(config, url, *memory.budgets(url))
    told = {"rule": rule, "depth": config.depth, "scope": config.scope}
    if via:
        told["via"] = page.link.url if isinstance(page, Known) else None
    return told


def _refused_by_memory(config: ScopeConfig, url: str, admitted: int, queries: int) -> str | None:
    """The rule that a store's counts speak for: the budgets, and the place where nothing was ever admitted for a host."""
    if config.scope == "host" and config.depth and not admitted:
        return "host"
    if "?" in url and 0 < config.max_queries_per_path <= queries:
        return "query_explosion"
    if 0 < config.max_pages_per_host <= admitted:
        return "host_budget"
    return None


def told(answer: dict[str, Any]) -> str:
    """For a person."""
    lines = [str(answer["canonical"] or answer["url"])]
    if answer["state"] == "invalid":
        lines.append(f"is no URL: {answer['rule']}")
    elif answer["state"] == "unknown":
        lines += _unknown(answer)
    elif answer["state"] == "done":
        lines += _done(answer["record"])
        if answer.get("denied_by"):
            lines.append(f"robots.txt says {answer['denied_by']}")
    else:
        lines.append({"waiting": "waits for its visit", "retrying": "failed, and waits to be tried again"}[answer["state"]])
    lines += _prospects(answer)
    return "\n  ".join(map(printable, lines))


def _unknown(answer: dict[str, Any]) -> list[str]:
    if answer["rule"]:
        return [f"left out by the rule {answer['rule']}"]
    if "via" in answer and answer["via"] is None:
        return ["never admitted, and the page it is said to stand on was not fetched"]
    if "via" in answer:
        return ["never admitted, though no rule refuses it: the link was not found on that page, or it says nofollow"]
    said = f"followed to depth {answer['depth']}" if answer["depth"] >= 0 else "followed without limit"
    place = PLACES[answer["scope"]]
    return ["never admitted: it was not listed, and not found on a page", f"links are {said}" + (f"; {place}" if place else "")]


def _prospects(answer: dict[str, Any]) -> list[str]:
    """What only a running daemon knows."""
    lines = ["is being visited"] if answer.get("in_flight") else []
    if answer["state"] in ("waiting", "retrying") and answer.get("host_due_in"):
        lines.append(f"its host rests {answer['host_due_in']:.0f} s more")
    if answer.get("robots") not in (None, "allowed"):
        lines.append(
            {"rule": "robots.txt forbids it", "not asked yet": "its robots.txt has not been asked for yet"}.get(
                answer["robots"], "its robots.txt cannot be had"
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
    for name, said in (("archive", "body"), ("row", "row")):
        if place := record[name]:
            gone = " (no longer kept: that file was retired)" if name in record.get("retired", ()) else ""
            lines.append(f"{said}: {place['file']}, {place['length']} bytes at {place['offset']}{gone}")
    return lines
