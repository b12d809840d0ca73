"""How a memory limit is divided. Pure arithmetic over sizes that were measured.

The law: the accounts never add up to more than the limit. What a crawl needs whatever it meets is fixed and must fit; the
rest is for visits, and how much rest there is decides how many are made at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from crawler.core.errors import ConfigError

_KIB: Final = 1 << 10
_MIB: Final = 1 << 20

BASE_BYTES: Final = 72 * _MIB
"""Interpreter and libraries (62 MiB when imported) and what the allocator cannot give back."""
PARSER_OWN_BYTES: Final = 16 * _MIB
"""A parser process at rest, without what it shares."""
PARSER_BYTES_MIN: Final = 40 * _MIB
PARSER_BYTES_MAX: Final = 128 * _MIB
"""One process with its document, which takes 9 times its size (25 times if it is hostile)."""
STORE_BYTES_MIN: Final = 24 * _MIB
STORE_BYTES_MAX: Final = 128 * _MIB
CONTROL_BYTES: Final = 4 * _MIB
DNS_BYTES: Final = 2 * _MIB
CONNECTION_BYTES: Final = 192 * _KIB
"""One in use: the read buffer up to its high-water mark, TLS buffers and state."""
BODY_BYTES: Final = 128 * _KIB
"""Of a body that is being received: what stays in memory of it, and one chunk."""
BENCH_LINK_BYTES: Final = 1_200
DNS_NAME_BYTES: Final = 600
PARSE_COPIES: Final = 3
"""A document on its way to a parser process: decoded, framed, and its links coming back."""
VISITS_MIN: Final = 4
OUTCOME_BYTES_MIN: Final = 8 * _MIB
OUTCOME_BYTES_MAX: Final = 96 * _MIB
PARSE_BYTES_MAX: Final = 64 * _MIB

LIMIT_BYTES: Final = 512 * _MIB
LIMIT_BYTES_MAX: Final = 1 << 40
VISIT_ACCOUNTS: Final = ("connection", "body", "parse", "outcome")
"""In the order in which a visit takes them."""
SAYS: Final[Mapping[str, str]] = {
    "base": "interpreter and libraries",
    "store": "the store's cache and write buffers",
    "parsers": "parser processes",
    "bench": "links waiting in memory, and their hosts",
    "robots": "rules of robots.txt",
    "dns": "addresses of hosts",
    "idle": "connections kept for a next request",
    "write": "what is being written",
    "control": "metrics and control",
    "connection": "connections in use",
    "body": "bodies being received",
    "parse": "documents being parsed",
    "outcome": "outcomes and links not yet committed",
}


class Plan(Struct, frozen=True):
    """``accounts`` in bytes, by name; ``visits_max``: how many visits can be out at a time."""

    limit: int
    accounts: Mapping[str, int]
    visits_max: int
    parsers: int

    @property
    def parser_memory_bytes(self) -> int:
        """What one document may make a parser process grow by."""
        return self.accounts["parsers"] // max(1, self.parsers) - PARSER_OWN_BYTES

    @property
    def bench_links_max(self) -> int:
        return self.accounts["bench"] // BENCH_LINK_BYTES

    @property
    def dns_names_max(self) -> int:
        return self.accounts["dns"] // DNS_NAME_BYTES

    def table(self) -> str:
        """The accounts for people, one a line, and their sum."""
        return _table(self.accounts, self.limit)


def default_limit(cgroup_bytes: int | None) -> int:
    """512 MiB, or 80 % of what the cgroup allows if that is less."""
    return min(LIMIT_BYTES, cgroup_bytes * 4 // 5) if cgroup_bytes else LIMIT_BYTES


def divide(limit: int, *, workers: int, parsers: int, max_parse: int, control: bool = False) -> Plan:
    """The plan for ``limit`` bytes. ConfigError if it is too small: the table, the smallest limit that would do, and the
    largest settings that would."""
    plan = _divided(limit, workers, parsers, max_parse, control)
    if plan.visits_max >= min(VISITS_MIN, workers):
        return plan
    faults = [
        f"memory_limit {_words(limit)} is too small:\n{plan.table()}",
        f"the smallest memory_limit for these settings is {_words(_smallest(workers, parsers, max_parse, control))}",
    ]
    if (fewer := _largest_parsers(limit, workers, parsers, max_parse, control)) is not None:
        faults.append(f"with this memory_limit: parsers {fewer}")
    if (shorter := _largest_parse(limit, workers, parsers, max_parse, control)) is not None:
        faults.append(f"with this memory_limit: max_parse {_words(shorter)}")
    raise ConfigError(faults)


def _divided(limit: int, workers: int, parsers: int, max_parse: int, control: bool) -> Plan:
    accounts = {
        "base": BASE_BYTES,
        "store": _between(STORE_BYTES_MIN, limit // 4, STORE_BYTES_MAX),
        "parsers": parsers * _between(PARSER_BYTES_MIN, limit // 8 // max(1, parsers), PARSER_BYTES_MAX),
        "bench": _between(2 * _MIB, limit // 32, 16 * _MIB),
        "robots": _between(2 * _MIB, limit // 32, 32 * _MIB),
        "dns": DNS_BYTES,
        "idle": _between(1 * _MIB, limit // 64, 16 * _MIB),
        "write": _between(4 * _MIB, limit // 32, 16 * _MIB),
        "control": CONTROL_BYTES if control else 0,
    }
    rest = limit - sum(accounts.values())
    accounts["parse"] = PARSE_COPIES * max_parse
    accounts["outcome"] = _between(OUTCOME_BYTES_MIN, rest // 4, OUTCOME_BYTES_MAX)
    rest -= accounts["parse"] + accounts["outcome"]
    visits = min(workers, max(0, rest // (CONNECTION_BYTES + BODY_BYTES)))
    accounts["connection"] = visits * CONNECTION_BYTES
    accounts["body"] = visits * BODY_BYTES
    rest -= accounts["connection"] + accounts["body"]
    if rest > 0 and visits:
        # Larger batches and more documents on their way have a use for what is left; beyond that nobody has.
        accounts["outcome"] = max(accounts["outcome"], min(accounts["outcome"] + rest // 2, OUTCOME_BYTES_MAX))
        accounts["parse"] = max(accounts["parse"], min(accounts["parse"] + rest // 2, PARSE_BYTES_MAX))
    return Plan(limit, {name: accounts[name] for name in SAYS}, visits, parsers)


def _fits(limit: int, workers: int, parsers: int, max_parse: int, control: bool) -> bool:
    return _divided(limit, workers, parsers, max_parse, control).visits_max >= min(VISITS_MIN, workers)


def _smallest(workers: int, parsers: int, max_parse: int, control: bool) -> int:
    """In whole MiB."""
    low, high = 0, LIMIT_BYTES_MAX // _MIB
    while high - low > 1:
        middle = (low + high) // 2
        if _fits(middle * _MIB, workers, parsers, max_parse, control):
            high = middle
        else:
            low = middle
    return high * _MIB


def _largest_parsers(limit: int, workers: int, parsers: int, max_parse: int, control: bool) -> int | None:
    return next((fewer for fewer in range(parsers - 1, -1, -1) if _fits(limit, workers, fewer, max_parse, control)), None)


def _largest_parse(limit: int, workers: int, parsers: int, max_parse: int, control: bool) -> int | None:
    while (max_parse := max_parse // 2) >= 64 * _KIB:
        if _fits(limit, workers, parsers, max_parse, control):
            return max_parse
    return None


def _between(low: int, value: int, high: int) -> int:
    return max(low, min(value, high))


def _table(accounts: Mapping[str, int], limit: int) -> str:
    lines = [f"  {name:<11}{_words(size):>10}  {SAYS[name]}" for name, size in accounts.items() if size]
    return "\n".join([*lines, f"  {'sum':<11}{_words(sum(accounts.values())):>10}  of {_words(limit)}"])


def _words(size: int) -> str:
    return f"{size / _MIB:.0f}MiB" if size >= 10 * _MIB or size % _MIB == 0 else f"{size / _KIB:.0f}KiB"


__all__ = ["Plan", "default_limit", "divide"]
