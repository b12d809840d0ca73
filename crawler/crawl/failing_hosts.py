"""The few hosts that fail most, counted in bounded memory."""

from __future__ import annotations

from typing import Final

HOSTS_MAX: Final = 1000


class FailingHosts:
    """Counts per host for at most HOSTS_MAX hosts: the space-saving sketch of Metwally et al., so a count is never too
    low, and a host counted more than 1/HOSTS_MAX of all times is always there."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def add(self, host: str) -> None:
        count = self._counts.get(host)
        if count is not None:
            self._counts[host] = count + 1
        elif len(self._counts) < HOSTS_MAX:
            self._counts[host] = 1
        else:
            least = min(self._counts, key=self._counts.__getitem__)
            self._counts[host] = self._counts.pop(least) + 1

    def top(self, n: int) -> tuple[tuple[str, int], ...]:
        """(host, count) of the n highest, highest first."""
        return tuple(sorted(self._counts.items(), key=lambda pair: (-pair[1], pair[0]))[:n])
