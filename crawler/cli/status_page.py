"""The page of ``crawler status``: progress, speed, what the crawl waits for, and which hosts stand out. Pure."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from crawler.core.model import failed
from crawler.core.text import amount, counted, printable, share
from crawler.crawl.status import WAITS, duration, state_of

_WIDTH: Final = 12


def page(status: Mapping[str, Any], hosts: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """``status`` and ``hosts``: the responses of GET /v1/status and /v1/hosts, the latter by ``sort``."""
    lines = [_headline(status), ""]
    lines += [f"{name:<{_WIDTH}}{text}" for name, text in _facts(status)]
    lines += _table("outcomes", status["outcomes"])
    if failed(status["outcomes"]):
        lines += _table("reasons", status["reasons"])
    lines += _table("lines that are no new URL", status["lines"])
    lines += _table("visited besides, no pages", status.get("not_pages", {}))
    lines += _table("left out", status["refused"])
    lines += _hosts("most left", hosts.get("waiting", ()), lambda host: f"{host['waiting']:,} left")
    lines += _hosts("backed off", hosts.get("backoff", ()), _backoff)
    return "\n".join(lines)


def _headline(status: Mapping[str, Any]) -> str:
    up = duration(max(0.0, time.time() - status["started_at"]))
    return f"{state_of(status)} · {printable(status['directory'])} · up {up} · pid {status['pid']} · {status['version']}"


def _facts(status: Mapping[str, Any]) -> list[tuple[str, str]]:
    left = status["waiting"] + status["retrying"]
    hosts = counted(status["hosts"], "host")
    retrying = f", {status['retrying']:,} of them to retry" if status["retrying"] else ""
    failures = failed(status["outcomes"])
    done, known = status["done"], status["known"]
    facts = [
        ("failed", f"{failures:,}{share(failures, done)}"),
        ("URLs", f"{done:,} of {known:,} done{share(done, known)}, {left:,} left{retrying}, {hosts}"),
        (
            "speed",
            f"{status['pages_per_second']:,.1f}/s, {amount(status['bytes_per_second'])}/s, {status['in_flight']:,} in flight",
        ),
    ]
    if expected := status.get("time_left"):
        host = expected["host"]
        alone = f" ({printable(host['host'])} alone, at {host['rest']:g} s)" if host else ""
        facts.append(("ends in", f"{'at least ' * expected['at_least']}{duration(expected['seconds'])}{alone}"))
    if status["waits_for"] in WAITS:
        facts.append(("waits for", WAITS[status["waits_for"]]))
    memory = status["memory"]
    limit = f" of {amount(memory['limit'])}" if memory["limit"] else ""
    facts.append(("memory", f"{amount(memory['used'])}{limit}, {memory['state']}{_fullest(memory['accounts'])}"))
    errors = "".join(f", {count} × {name}" for name, count in status.get("storage_errors", {}).items() if count)
    late = f", oldest uncommitted {duration(status['commit_age'])}" if status["commit_age"] >= 1 else ""
    facts.append(("disk", f"{amount(status['disk_free'])} free{late}{errors}"))
    if waiting := status.get("unstored", 0):
        why = f": {printable(status['store_trouble'])}" if status.get("store_trouble") else ""
        facts.append(("store", f"{waiting:,} full files ({amount(status['unstored_bytes'])}) wait to be stored{why}"))
    return facts


def _fullest(accounts: Mapping[str, Mapping[str, int]]) -> str:
    shares = [(account["used"] / account["budget"], name) for name, account in accounts.items() if account["budget"]]
    return f", fullest account {max(shares)[1]} {max(shares)[0]:.0%}" if shares else ""


def _table(title: str, counts: Mapping[str, int]) -> list[str]:
    shown = sorted(((count, name) for name, count in counts.items() if count), reverse=True)
    if not shown:
        return []
    digits = len(f"{shown[0][0]:,}")
    return ["", title, *(f"  {count:>{digits},}  {printable(name)}" for count, name in shown)]


def _hosts(title: str, hosts: Sequence[Mapping[str, Any]], say: Any) -> list[str]:
    if not hosts:
        return []
    width = min(60, max(len(host["host"]) for host in hosts))
    return ["", title, *(f"  {printable(host['host']):<{width}}  {say(host)}" for host in hosts)]


def _backoff(host: Mapping[str, Any]) -> str:
    why = f"{host['busy']} × asked to slow down" if host["busy"] else f"{host['failures']} failures in a row"
    return f"rests {duration(host['due_in'] or 0)}, {why}, {host['waiting']:,} left"
