"""How a memory limit is divided. Pure arithmetic over measured sizes.

Invariant: the accounts never add up to more than the limit. What every crawl needs is fixed and must fit; the rest is for visits
and decides how many are made at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from crawler.core.content_coding import decoder_bytes_max
from crawler.core.errors import ConfigError
from crawler.core.reply_limits import OUTLINKS_BYTES_FACTOR, OUTLINKS_BYTES_FREE, OUTLINKS_BYTES_MAX, REPLY_BYTES_MAX
from crawler.core.urls import URL_BYTES_MAX

_KIB: Final = 1 << 10
_MIB: Final = 1 << 20

BASE_BYTES: Final = 72 * _MIB
"""Interpreter and libraries (62 MiB when imported) and what the allocator cannot give back."""
PART_BASE_BYTES: Final = 40 * _MIB
"""The same of a process that is one part of a crawl: it shares the libraries with the others."""
CLIENT_BYTES: Final = 12 * _MIB
"""Of the client of the database, in a crawl of many machines."""
PARENT_BYTES: Final = 40 * _MIB
"""The parent of the parts, and the process they are forked from."""
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
"""One in use: the read buffer up to its high-water mark, an ordinary head, TLS buffers and state; afterwards the decoder of its
body, but for what ``decoder_bytes`` counts."""
TUNNEL_BYTES: Final = 2 * CONNECTION_BYTES
"""The same by way of a proxy that is spoken to by TLS: the host's TLS is within the proxy's. 175 of them in full use took
100 MiB more."""
BODY_BYTES: Final = 128 * _KIB
"""Of a body that is being received: what stays in memory of it, and one chunk."""
LARGE_BODY_BYTES: Final = 192 * _KIB
"""The same, where all visits find room for it: of ordinary pages hardly one then goes by way of the disk."""
BODY_CHUNK_BYTES: Final = 64 * _KIB
HEAD_COPIES: Final = 3
"""A long head while it is received and kept: its lines, the same as a list and as a table of text."""
BENCH_LINK_BYTES: Final = 1_200
DNS_NAME_BYTES: Final = 600
WRITE_BYTES: Final = 4 * _MIB
"""Buffers of the files that are appended to, half a MiB each, and the record being packed."""
REPLY_LINK_BYTES: Final = 28
"""Of a link beside its URL, in a parser's reply (crawler.core.link_block)."""
LINK_BYTES: Final = 700
"""A link as an object, without the text of its URL."""
REFERENCE_BYTES_MIN: Final = 6
SITEMAP_PART_BYTES: Final = 6 * 512 * _KIB
"""A part of a sitemap, and what is kept of the part before, on its way to a parser process and back: its entries are read and
admitted in parts."""
VISITS_MIN: Final = 4
VISITS_FEW: Final = 16
OUTCOME_BYTES_MIN: Final = 8 * _MIB
OUTCOME_BYTES_MAX: Final = 64 * _MIB
PARSE_BYTES_MAX: Final = 64 * _MIB
HEAD_BYTES_MAX: Final = 16 * _MIB
IDLE_BYTES_MAX: Final = 256 * _MIB
SETTING_BYTES_MIN: Final = 64 * _KIB
"""No smaller setting is proposed."""

LIMIT_BYTES: Final = 512 * _MIB
LIMIT_BYTES_MAX: Final = 1 << 40
_GROWING: Final = (
    ("outcome", OUTCOME_BYTES_MAX),
    ("idle", IDLE_BYTES_MAX),
    ("parse", PARSE_BYTES_MAX),
    ("head", HEAD_BYTES_MAX),
)
"""Larger batches, more hosts whose connections wait (most speak TLS: a handshake takes as much CPU as a page), more documents
and long heads at a time: each takes half of what the ones before have left, and so much at most."""
VISIT_ACCOUNTS: Final = ("connection", "body", "head", "parse", "outcome")
"""In the order in which a visit takes them."""
SAYS: Final[Mapping[str, str]] = {
    "base": "interpreter and libraries",
    "store": "the store's cache and write buffers",
    "parsers": "parser processes",
    "bench": "links waiting in memory, and their hosts",
    "robots": "rules of robots.txt",
    "dns": "addresses of hosts",
    "idle": "connections kept for a next request",
    "write": "file buffers, and the record being written",
    "upload": "a file on its way to where it is stored",
    "control": "metrics and control",
    "connection": "connections in use",
    "body": "bodies being received",
    "head": "long response heads",
    "parse": "documents being decoded or parsed",
    "outcome": "outcomes and links not yet committed",
}


class Plan(Struct, frozen=True):
    """``accounts`` in bytes, by name; ``visits_max``: how many visits can be out at a time."""

    limit: int
    accounts: Mapping[str, int]
    visits_max: int
    parsers: int
    body_bytes: int = BODY_BYTES
    """Of each visit, in the account of that name."""
    connection_bytes: int = CONNECTION_BYTES
    """The same."""
    parser_own_bytes: int = PARSER_OWN_BYTES
    """Of each parser process, before it has a document."""

    @property
    def body_memory_bytes(self) -> int:
        """How much of a body stays in memory."""
        return self.body_bytes - BODY_CHUNK_BYTES

    @property
    def parser_memory_bytes(self) -> int:
        """What one document may make a parser process grow by."""
        return self.accounts["parsers"] // max(1, self.parsers) - self.parser_own_bytes

    @property
    def bench_links_max(self) -> int:
        return self.accounts["bench"] // BENCH_LINK_BYTES

    @property
    def dns_names_max(self) -> int:
        return self.accounts["dns"] // DNS_NAME_BYTES

    def table(self) -> str:
        """The accounts for people, one a line, and their sum."""
        lines = [f"  {name:<11}{_words(size):>10}  {SAYS[name]}" for name, size in self.accounts.items() if size]
        return "\n".join([*lines, f"  {'sum':<11}{_words(sum(self.accounts.values())):>10}  of {_words(self.limit)}"])


def default_limit(cgroup_bytes: int | None) -> int:
    """512 MiB, or 80 % of what the cgroup allows if that is less."""
    return min(LIMIT_BYTES, cgroup_bytes * 4 // 5) if cgroup_bytes else LIMIT_BYTES


def document_bytes(input_bytes: int, outlinks: int) -> int:
    """Most that a document of so many decoded bytes takes on its way to a parser process and back: itself and the same as it
    is handed over, and what comes back and is unpacked. ``outlinks``: no more than so many come of it."""
    outlinks = min(outlinks, input_bytes // REFERENCE_BYTES_MIN + 1)
    urls = min(OUTLINKS_BYTES_MAX, max(OUTLINKS_BYTES_FREE, OUTLINKS_BYTES_FACTOR * input_bytes), URL_BYTES_MAX * outlinks)
    return 2 * input_bytes + 2 * min(REPLY_BYTES_MAX, urls + REPLY_LINK_BYTES * outlinks)


def reading_bytes(input_bytes: int, outlinks: int, decoder_bytes: int | None = None) -> int:
    """The same from the moment it is decoded, in pieces that are then put together."""
    if decoder_bytes is None:
        decoder_bytes = decoder_bytes_max(input_bytes)
    return max(2 * input_bytes + decoder_bytes, document_bytes(input_bytes, outlinks))


class Needs(Struct, frozen=True):
    """The settings that a plan depends on. ``max_parse`` 0: no document is parsed. ``max_body``: most bytes that anything is
    decoded to. ``expressions``: bytes that those of the scope take, compiled."""

    workers: int
    parsers: int
    max_parse: int
    max_body: int
    max_head: int
    max_outlinks: int
    control: bool = False
    upload: int = 0
    base: int = BASE_BYTES
    connection: int = CONNECTION_BYTES
    expressions: int = 0


class LimitTooSmall(ConfigError):
    """A memory limit that cannot be divided. ``smallest_bytes`` would do; ``others`` are other settings that would."""

    def __init__(self, plan: Plan, smallest_bytes: int, others: Sequence[str], *, of: str = "these settings") -> None:
        self.plan, self.smallest_bytes, self.others = plan, smallest_bytes, others
        table = f"memory_limit {_words(plan.limit)} is too small:\n{plan.table()}"
        super().__init__([table, f"the smallest memory_limit for {of} is {_words(smallest_bytes)}", *others])


def divide(limit: int, needs: Needs) -> Plan:
    """The plan for ``limit`` bytes. ConfigError if it is too small: the table, the smallest limit that would do, and the
    largest settings that would."""
    plan = _divided(limit, needs)
    if _is_enough(plan, needs):
        return plan
    faults = []
    if (fewer := _largest_parsers(limit, needs)) is not None:
        faults.append(f"with this memory_limit: parsers {fewer}")
    less = {name: _largest(name, limit, needs) for name in ("max_parse", "max_body", "max_head")}
    faults += [f"with this memory_limit: {name} {_words(size)}" for name, size in less.items() if size is not None]
    raise LimitTooSmall(plan, _smallest(needs), faults)


def _divided(limit: int, needs: Needs) -> Plan:
    """A quarter is the store's; where that leaves room for few visits, as little as it can do with."""
    plan = _beside_store(limit, needs, _between(STORE_BYTES_MIN, limit // 4, STORE_BYTES_MAX))
    return plan if plan.visits_max >= min(VISITS_FEW, needs.workers) else _beside_store(limit, needs, STORE_BYTES_MIN)


def _beside_store(limit: int, needs: Needs, store_bytes: int) -> Plan:
    accounts = {
        "base": needs.base + 2 * needs.expressions,  # of a change, those before it as well
        "store": store_bytes,
        "parsers": needs.parsers
        * (_between(PARSER_BYTES_MIN, limit // 8 // max(1, needs.parsers), PARSER_BYTES_MAX) + needs.expressions),
        "bench": _between(2 * _MIB, limit // 32, 16 * _MIB),
        "robots": _between(2 * _MIB, limit // 32, 32 * _MIB),
        "dns": DNS_BYTES,
        "idle": _between(1 * _MIB, limit // 64, 16 * _MIB),
        "write": WRITE_BYTES,
        "upload": needs.upload,
        "control": CONTROL_BYTES if needs.control else 0,
    }
    rest = limit - sum(accounts.values())
    accounts["head"] = _between(HEAD_COPIES * needs.max_head, limit // 128, HEAD_BYTES_MAX)
    reading = reading_bytes(needs.max_parse, needs.max_outlinks) if needs.max_parse else 0
    accounts["parse"] = max(decoder_bytes_max(needs.max_body), reading, SITEMAP_PART_BYTES)
    rest -= accounts["head"] + accounts["parse"]
    accounts["outcome"] = _between(OUTCOME_BYTES_MIN, rest // 4, OUTCOME_BYTES_MAX)
    rest -= accounts["outcome"]
    visits = min(needs.workers, max(0, rest // (needs.connection + BODY_BYTES)))
    body_bytes = LARGE_BODY_BYTES if visits * (needs.connection + LARGE_BODY_BYTES) <= rest else BODY_BYTES
    accounts["connection"] = visits * needs.connection
    accounts["body"] = visits * body_bytes
    rest -= accounts["connection"] + accounts["body"]
    if rest > 0 and visits:
        for name, most in _GROWING:
            more = max(0, min(rest // 2, most - accounts[name]))
            accounts[name] += more
            rest -= more
    own_bytes = PARSER_OWN_BYTES + needs.expressions
    return Plan(limit, {name: accounts[name] for name in SAYS}, visits, needs.parsers, body_bytes, needs.connection, own_bytes)


def _is_enough(plan: Plan, needs: Needs) -> bool:
    return plan.visits_max >= min(VISITS_MIN, needs.workers)


def _fits(limit: int, needs: Needs) -> bool:
    return _is_enough(_divided(limit, needs), needs)


def _smallest(needs: Needs) -> int:
    """In whole MiB."""
    low, high = 0, LIMIT_BYTES_MAX // _MIB
    while high - low > 1:
        middle = (low + high) // 2
        if _fits(middle * _MIB, needs):
            high = middle
        else:
            low = middle
    return high * _MIB


def _largest_parsers(limit: int, needs: Needs) -> int | None:
    most = min(needs.parsers, limit // PARSER_BYTES_MIN + 1)
    return next((fewer for fewer in range(most - 1, -1, -1) if _fits(limit, replace(needs, parsers=fewer))), None)


def _largest(name: str, limit: int, needs: Needs) -> int | None:
    """Half of a setting in bytes, or a quarter ..., if that would do."""
    size = getattr(needs, name)
    while (size := size // 2) >= SETTING_BYTES_MIN:
        if _fits(limit, replace(needs, **{name: size})):
            return int(size)
    return None


def _between(low: int, value: int, high: int) -> int:
    return max(low, min(value, high))


def _words(size: int) -> str:
    if 0 < size < _KIB:
        return f"{size} bytes"
    return f"{size / _MIB:.0f}MiB" if size >= 10 * _MIB or size % _MIB == 0 else f"{size / _KIB:.0f}KiB"


__all__ = [
    "PARENT_BYTES",
    "PART_BASE_BYTES",
    "LimitTooSmall",
    "Needs",
    "Plan",
    "default_limit",
    "divide",
    "document_bytes",
    "reading_bytes",
]
