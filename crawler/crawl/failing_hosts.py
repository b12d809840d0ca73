"""The few hosts that fail most, counted in bounded memory."""

from __future__ import annotations

from typing import Final

HOSTS_MAX: Final = 1000


class FailingHosts:
    """Counts per host for at most HOSTS_MAX hosts: the space-saving sketch of Metwally et al., so a host counted more than
    1/HOSTS_MAX of all times is always there. What is told of a host is what was surely its own: never too high."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._inherited: dict[str, int] = {}
        """Of these, what a host took over from the one whose place it took."""

    def add(self, host: str) -> None:
        count = self._counts.get(host)
        if count is not None:
            self._counts[host] = count + 1
        elif len(self._counts) < HOSTS_MAX:
            self._counts[host] = 1
        else:
            least = min(self._counts, key=self._counts.__getitem__)
            inherited = self._counts.pop(least)
            self._inherited.pop(least, None)
            self._counts[host], self._inherited[host] = inherited + 1, inherited

    def top(self, n: int) -> tuple[tuple[str, int], ...]:
        """(host, count) of the n highest, highest first."""
        own = ((host, count - self._inherited.get(host, 0)) for host, count in self._counts.items())
        return tuple(sorted(own, key=lambda pair: (-pair[1], pair[0]))[:n])
