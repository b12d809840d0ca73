"""What ``crawler.crawl.explain`` says of a URL, in words for people. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from crawler.core.text import printable
from crawler.parse.seed_lines import WHAT_TO_DO

_HERE: Final = {"is_here": True}
PLACES: Final = {
    "host": "links to other hosts than the seed's are left out",
    "domain": "links to other domains than the seed's are left out",
    "prefix": "links that do not begin as the seed does are left out",
    "any": "",
}


def as_text(explanation: dict[str, Any]) -> str:
    """The lines for one URL: what it is, what became of it, what is to come."""
    lines = [str(explanation["canonical"] or explanation["url"])]
    if explanation["state"] == "invalid":
        reason = explanation["rule"]
        lines.append(f"is not a URL ({reason}): {WHAT_TO_DO.get(reason, WHAT_TO_DO['syntax'])}")
    elif explanation["state"] == "unknown":
        lines += ["is not known to this node"] if _is_leased_elsewhere(explanation) else _unknown(explanation)
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
        is_told = "via" in explanation
        told = f"{'' if is_told else 'never admitted; found on a page, it would be '}left out by the rule {explanation['rule']}"
        needed = explanation.get("rule_if_needed")
        if needed is None or needed == explanation["rule"]:
            return [told]
        return [told, f"if that page needs it to be shown: left out by the rule {needed}"]
    if explanation.get("unread"):
        return [f"never admitted, and no links were read of the page it is said to stand on: {explanation['unread']}"]
    if "via" in explanation and explanation["via"] is None:
        return ["never admitted, and the page it is said to stand on was not fetched"]
    if explanation.get("cut"):
        return [f"never admitted: it is not in what was read of that page ({explanation['fault']})"]
    if "via" in explanation:
        return [
            "never admitted, though no rule refuses it: no link to it was found on that page, or one that says nofollow; "
            "images, styles and the like are no links (--requisites)"
        ]
    extent = f"followed to depth {explanation['depth']}" if explanation["depth"] >= 0 else "followed without limit"
    place = PLACES[explanation["scope"]]
    links = f"links are {extent}" + (f"; {place}" if place else "")
    told = "if a page links to it, --via with that page's URL tells why that was not followed"
    return ["never admitted: it was not listed, and no link that is followed leads to it", links, told]


def _is_leased_elsewhere(explanation: dict[str, Any]) -> bool:
    """Of a node of a cluster: whether others decide about this URL, or that is not known here."""
    lessee = explanation.get("leased_by", _HERE)
    return not (lessee and lessee["is_here"])


def _prospects(explanation: dict[str, Any]) -> list[str]:
    """What only a running daemon knows."""
    if _is_leased_elsewhere(explanation):
        lessee = explanation["leased_by"]
        who = f"the node {lessee['node']} ({lessee['machine']})" if lessee else "whichever node leases its host"
        return [f"this node tells what it last knew of it; ask {who}"]
    lines = ["is being visited"] if explanation.get("in_flight") else []
    if explanation["state"] in ("waiting", "retrying") and explanation.get("excluded"):
        lines.append("is excluded: when its turn comes it is settled unfetched")
    if explanation["state"] in ("waiting", "retrying") and explanation.get("host_due_in"):
        lines.append(f"its host rests {explanation['host_due_in']:.0f} s more")
    if explanation.get("robots") not in (None, "allowed"):
        lines.append(
            {"rule": "robots.txt forbids it", "not asked yet": "its robots.txt has not been asked for yet"}.get(
                explanation["robots"], "its robots.txt cannot be fetched"
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
    far = f", depth {record['depth']}" if record["depth"] else ""
    lines.append(f"{record['kind']}{far}{found}{listed}")
    if record["location"]:
        lines.append(f"redirects to {record['location']}")
    if record.get("encoding"):
        lines.append(f"read as {record['encoding']}")
    if record.get("cut"):
        lines.append(f"not read whole, or not as it stands: {record['fault']}")
    if record["change"]:
        lines.append(f"against the visit before: {record['change']}")
    if record["due"]:
        lines.append(f"visited again {_about(record['due'])}")
    for name, label in (("archive", "body"), ("row", "row")):
        if place := record[name]:
            gone = " (no longer kept: that file was retired)" if name in record.get("retired", ()) else ""
            gone = gone or (" (not in this directory)" if name in record.get("elsewhere", ()) else "")
            lines.append(f"{label}: {place['file']}, {place['length']} bytes at {place['offset']}{gone}")
    return lines


def _about(due: float) -> str:
    """``recrawl_every`` may lead beyond what a calendar has."""
    try:
        return datetime.fromtimestamp(due, UTC).strftime("about %Y-%m-%d %H:%M UTC")
    except (OverflowError, ValueError):
        return "after the year 9999"
