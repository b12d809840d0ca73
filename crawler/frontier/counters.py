"""The counters of a store while a commit changes them, and the hosts with the longest queues.

Invariant: known = waiting + retrying + done, except for what waits and is no new page (links to expand once more) and for what
is no page at all; the latter is never known, and once settled it is counted by its kind alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping
from heapq import nlargest
from typing import Any, Final, TypeVar

from crawler.core.batch import EXPAND, HOST_BUDGET, KNOWN, QUERY_EXPLOSION, Prepared, Settled, found_in, link_verdicts
from crawler.core.model import NOT_PAGES, Known, Link
from crawler.frontier.recrawl import NEVER
from crawler.frontier.store import Counts

K = TypeVar("K", bound=Hashable)

RETRYING: Final = 1
"""Flag of a waiting link: its last attempt failed."""
RECORDED: Final = 2
"""Flag of a waiting link: its URL was settled before (to be retried on request, or to be expanded once more)."""
UNCOUNTED: Final = 4
"""Flag of a waiting link that is no page: it is not among the known. (Earlier versions counted a sitemap while it waited.)"""
RECRAWL: Final = 8
"""Flag of a waiting link: its URL was settled before, and is to be visited again to see what has changed."""
LINE_ENDED: Final = 0x20
"""Flag of a waiting link: a redirect of a listed line, which had led elsewhere before, and is counted there."""

RULE_OF: Final = {HOST_BUDGET: "host_budget", QUERY_EXPLOSION: "query_explosion"}


class Counters:
    """Counts that can change; ``freeze`` gives them as a value."""

    def __init__(self, counts: Counts) -> None:
        self.known, self.waiting, self.retrying = counts.known, counts.waiting, counts.retrying
        self.recrawl, self.done, self.hosts = counts.recrawl, counts.done, counts.hosts
        self.outcomes, self.reasons, self.refused = dict(counts.outcomes), dict(counts.reasons), dict(counts.refused)
        self.lines, self.not_pages = dict(counts.lines), dict(counts.not_pages)
        self.statuses, self.changes, self.settled = dict(counts.statuses), dict(counts.changes), counts.settled
        self.recrawl_skipped = counts.recrawl_skipped

    def freeze(self) -> Counts:
        values: dict[str, Any] = {name: getattr(self, name) for name in Counts.__struct_fields__}
        return Counts(**values | {name: dict(value) for name, value in values.items() if isinstance(value, dict)})

    def admit(self, links: int, *, is_new_page: bool) -> None:
        self.waiting += links
        if is_new_page:
            self.known += links

    def leave(self, link: Link, flags: int) -> None:
        """A waiting link was settled."""
        if link.kind == "sitemap" and not flags & UNCOUNTED:
            self.known -= 1
        if flags & RETRYING:
            self.retrying -= 1
        else:
            self.waiting -= 1

    def retry(self, flags: int) -> None:
        """A waiting link failed and waits on."""
        if not flags & RETRYING:
            self.waiting -= 1
            self.retrying += 1

    def settle(self, record: Known, by: int = 1, *, as_page: bool | None = None) -> None:
        """A URL is settled; with ``by=-1`` it is so no more. ``as_page``: how it was counted, where that is not told by its kind
        (in a directory of an earlier version everything was a page)."""
        if record.link.kind in NOT_PAGES if as_page is None else not as_page:
            _add(self.not_pages, record.link.kind, by)
            return
        if record.change is not None and by > 0:
            _add(self.changes, record.change, by)
        if record.due is not None:
            self.recrawl += by
            self.recrawl_skipped += by * (record.outcome in NEVER)
        self.done += by
        self.settled += max(0, by)
        _add(self.outcomes, record.outcome, by)
        if record.outcome == "http_error" and (by > 0 or str(record.status) in self.statuses):
            _add(self.statuses, str(record.status), by)
        if record.reason is not None:
            _add(self.reasons, record.reason, by)

    def refuse(self, refused: Mapping[str, int]) -> None:
        for rule, count in refused.items():
            _add(self.refused, rule, count)

    def judged(self, prepared: Prepared, forged: int) -> None:
        """Links that a budget left out, or that a parser process made up, and listed lines that have a row at once."""
        if forged:
            self.refuse({"parse_crashed": forged})
        verdicts = _told_first(prepared)
        for verdict, rule in RULE_OF.items():
            if count := verdicts.count(verdict):
                self.refuse({rule: count})
        admitted = list(link_verdicts(prepared))[-len(prepared.batch.admitted) :] if prepared.batch.admitted else []
        duplicates = (
            link.kind == "seed" and verdict in (KNOWN, EXPAND)
            for links, verdicts in admitted
            for link, verdict in zip(links, verdicts, strict=True)
        )
        _add(self.lines, "duplicate", sum(duplicates))
        _add(self.lines, "invalid_url", sum(len(part.faults) for part in prepared.batch.admitted))
        for part in prepared.batch.admitted:
            for fault in part.faults:
                _add(self.reasons, fault.reason, 1)


def _told_first(prepared: Prepared) -> bytes:
    """The verdicts on the links of a batch, but for those of pages that were read before."""
    if not any(settled.is_read_again for settled in prepared.batch.settled):
        return prepared.verdicts
    parts, at = [], 0
    for links, block, source in found_in(prepared.batch):
        end = at + len(links) + len(block or ())
        if not (isinstance(source, Settled) and source.is_read_again):
            parts.append(prepared.verdicts[at:end])
        at = end
    return b"".join(parts)


def _add(counts: dict[str, int], name: str, by: int) -> None:
    if total := counts.get(name, 0) + by:
        counts[name] = total
    else:
        counts.pop(name, None)


def land(flying: Counter[K], key: K) -> None:
    """One link less of a URL is out."""
    flying[key] -= 1
    if flying[key] <= 0:
        del flying[key]


class Longest:
    """The longest queues among the hosts touched lately; bounded, so a host long untouched may be missed."""

    HOSTS_MAX: Final = 512

    def __init__(self) -> None:
        self._waiting: dict[str, int] = {}
        self._least = 0

    def note(self, host: str, waiting: int) -> None:
        if waiting > self._least:
            self._waiting[host] = waiting
        else:
            self._waiting.pop(host, None)
        if len(self._waiting) > 2 * self.HOSTS_MAX:
            self._waiting = dict(self.top(self.HOSTS_MAX))
            self._least = min(self._waiting.values())
        elif len(self._waiting) < self.HOSTS_MAX // 2:
            self._least = 0

    def top(self, limit: int) -> list[tuple[str, int]]:
        """Longest first. May be asked from any thread."""
        return nlargest(limit, list(self._waiting.items()), key=lambda item: item[1])
