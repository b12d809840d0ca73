"""What a crawl has brought, counted over its rows: outcomes by status, types, hosts, sizes, durations, and over time. Pure.

Invariant: however many rows, what is held is bounded: of hosts and types the most frequent ones, of times a few hundred steps.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlsplit

from crawler.core.model import EMBED, NO_FAILURE, NOT_PAGES
from crawler.output.results import Row

KEPT_MAX: Final = 2000
"""Hosts, types or pages that are counted by name at a time."""
NAME_CHARS_MAX: Final = 4096
"""Of each: longer than nearly every URL. A type may be as long as a line of a head."""
FEW_MAX: Final = 1000
"""Statuses, or names of a set that is closed, unless the rows are of somebody else's making."""
FEW_CHARS_MAX: Final = 64
OTHERS: Final = "others"
SHOWN: Final = 10
STEPS_MAX: Final = 240
SIZE_BOUNDS: Final = tuple(1 << bits for bits in range(10, 31, 2))
"""Bytes: 1 KiB, 4 KiB, ... 1 GiB."""
SECONDS_BOUNDS: Final = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)


class Top:
    """Counts of the most frequent names: a space-saving sketch. What is told of a name is what was surely its own: where it
    ``is_cut``, because there were too many names, a count may be too low, never too high."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._inherited: dict[str, int] = {}
        """Of these, what a name may have had before, while it was not kept."""
        self._floor = 0

    def add(self, name: str, by: int = 1) -> None:
        name = name[:NAME_CHARS_MAX]
        if name not in self._counts and len(self._counts) >= KEPT_MAX:
            kept = self._counts.most_common(KEPT_MAX // 2)
            self._floor = kept[-1][1]
            self._counts = Counter(dict(kept))
            self._inherited = {name: self._inherited.get(name, 0) for name in self._counts}
        if name not in self._counts:
            self._counts[name] = self._inherited[name] = self._floor
        self._counts[name] += by

    def most(self, number: int = SHOWN) -> list[tuple[str, int]]:
        return Counter({name: count - self._inherited[name] for name, count in self._counts.items()}).most_common(number)

    @property
    def is_cut(self) -> bool:
        return self._floor > 0

    def titled(self, title: str) -> str:
        """What stands above its counts."""
        return f"{title} (at least)" if self.is_cut else title

    def __len__(self) -> int:
        return len(self._counts)


class Few(Counter[str]):
    """Counts by names of which there are few."""

    def add(self, name: str) -> None:
        name = name[:FEW_CHARS_MAX]
        self[name if name in self or len(self) < FEW_MAX else OTHERS] += 1


class Histogram:
    """How many values are at most each bound; the last is for what is above."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)

    def add(self, value: float) -> None:
        self.counts[next((at for at, bound in enumerate(self.bounds) if value <= bound), len(self.bounds))] += 1


class Timeline:
    """Counts by name in equal steps, which grow so that there are never too many."""

    def __init__(self) -> None:
        self.step_s = 1
        self.steps: dict[int, Few] = {}

    def add(self, at: float, name: str) -> None:
        self.steps.setdefault(int(at // self.step_s), Few()).add(name)
        while max(self.steps) - min(self.steps) >= STEPS_MAX:
            self.step_s *= 2
            wider: dict[int, Few] = {}
            for step, counts in self.steps.items():
                wider.setdefault(step // 2, Few()).update(counts)
            self.steps = wider

    def as_json(self) -> dict[str, Any]:
        """``counts`` by the second at which each step begins."""
        return {"step": self.step_s, "counts": {at * self.step_s: dict(self.steps[at]) for at in sorted(self.steps)}}


class Summary:
    """Of rows that are the latest of their URLs."""

    def __init__(self) -> None:
        self.outcomes = Few()
        """Of pages, as statuses, reasons and changes; the other counts are of what pages need, too."""
        self.statuses = Few()
        self.kinds = Few()
        """Of all rows."""
        self.changes = Few()
        self.reasons = Few()
        self.types, self.hosts, self.failing, self.host_bytes = Top(), Top(), Top(), Top()
        self.bytes = 0
        """Of all bodies, as sent."""
        self.sizes = Histogram(SIZE_BOUNDS)
        self.first_byte, self.total = Histogram(SECONDS_BOUNDS), Histogram(SECONDS_BOUNDS)
        self.times = Timeline()
        self.incomplete = Top()
        """Pages that lack something they need, and how much of it."""
        self.missing = 0
        """Requisites that could not be fetched."""

    def add(self, row: Row) -> None:
        kind = row["kind"]
        self.kinds.add(kind)
        self.bytes += row["bytes_wire"] or 0
        if kind in NOT_PAGES:
            return
        host = _host(row["canonical"] or "")
        if kind != EMBED:
            self.outcomes.add(row["outcome"])
            if row["status"] is not None:
                self.statuses.add(str(row["status"]))
            if row["reason"]:
                self.reasons.add(row["reason"])
            if row.get("change"):
                self.changes.add(row["change"])
        is_failure = row["outcome"] not in NO_FAILURE
        self.hosts.add(host)
        self.times.add(_seconds(row["fetched_at"]), "failed" if is_failure else row["outcome"])
        if is_failure:
            self.failing.add(host)
        if row["bytes_wire"] is None:
            return
        self.types.add(row["mime"] or "unknown")
        if row["status"] != 304:  # it has no body
            self.host_bytes.add(host, row["bytes_wire"])
            self.sizes.add(row["bytes_wire"])
            self.first_byte.add(row["timings"]["first_byte"])
            self.total.add(row["timings"]["total"])

    def lacks(self, page: str) -> None:
        """A page needs something that could not be fetched."""
        self.missing += 1
        self.incomplete.add(page)

    def as_json(self) -> dict[str, Any]:
        """All of it, for programs."""
        return {
            "pages": sum(self.outcomes.values()),
            "bytes": self.bytes,
            "outcomes": dict(self.outcomes),
            "statuses": dict(self.statuses),
            "reasons": dict(self.reasons),
            "kinds": dict(self.kinds),
            "changes": dict(self.changes),
            "types": dict(self.types.most(100)),
            "hosts": dict(self.hosts.most(100)),
            "failing_hosts": dict(self.failing.most(100)),
            "host_bytes": dict(self.host_bytes.most(100)),
            "sizes": {"bounds": list(self.sizes.bounds), "counts": self.sizes.counts},
            "first_byte_seconds": {"bounds": list(self.first_byte.bounds), "counts": self.first_byte.counts},
            "total_seconds": {"bounds": list(self.total.bounds), "counts": self.total.counts},
            "times": self.times.as_json(),
            "missing_requisites": self.missing,
            "incomplete_pages": dict(self.incomplete.most(1000)),
        }


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


def _seconds(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()
