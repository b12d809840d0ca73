"""What the operator set for single hosts: ``[[host]]`` tables over the general settings. Pure; the first match wins.

A table may be for one port. Where http and https of a host may differ, it is asked for by origin (``https://example.org``); how
the host is treated with either is asked for by host key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

from crawler.config.sections import HostConfig, PolitenessConfig
from crawler.core.remembered import remembered
from crawler.core.text import host_patterns

HOSTS_REMEMBERED_MAX: Final = 4096


class HostRules:
    """Per host key: delay and per_host. Per origin: whether robots.txt is obeyed, what is visited, headers and proxy."""

    def __init__(self, config: PolitenessConfig) -> None:
        self.change(config)

    def change(self, config: PolitenessConfig) -> None:
        """From now on these rules. The engine thread may be looking for a table: each is looked for in those of one time."""
        places = {table.match: at for at, table in reversed(list(enumerate(config.host)))}
        self._config = config
        self._find = partial(_table_of, config.host, places)
        self._table = remembered(self._find, HOSTS_REMEMBERED_MAX) if config.host else None
        self._pace = remembered(self._pace_of, HOSTS_REMEMBERED_MAX) if config.host else None
        self.factor = config.factor
        """A rest is at least so many times as long as the response took to begin."""

    def table(self, origin: str) -> HostConfig | None:
        """The ``[[host]]`` table for an origin (or a host key), None if there is none."""
        find = self._table  # once: the engine thread asks as well, and the settings may change meanwhile
        return find(origin) if find is not None else None

    def delay(self, host: str) -> float:
        """Rest after a visit, seconds. http and https of a host share it: the longer one that their tables set."""
        pace = self._pace
        return self._config.delay if pace is None else pace(host)[0]

    def per_host(self, host: str) -> int:
        """Visits at a time: of http and https together, the fewer that their tables set."""
        pace = self._pace
        return self._config.per_host if pace is None else pace(host)[1]

    def obeys_robots(self, origin: str) -> bool:
        table = self._table(origin) if self._table is not None else None
        return self._config.robots if table is None or table.robots is None else table.robots

    def blocks(self, origin: str) -> bool:
        """Whether nothing of an origin is to be visited."""
        table = self.table(origin)
        return table is not None and bool(table.block)

    @property
    def blocked(self) -> tuple[tuple[str, bool], ...]:
        """(match, whether it blocks) of each table, in order, up to the last that does."""
        tables = [(table.match, bool(table.block)) for table in self._config.host]
        last = max((at for at, (_, blocks) in enumerate(tables) if blocks), default=-1)
        return tuple(tables[: last + 1])

    def _pace_of(self, host: str) -> tuple[float, int]:
        found = [self._find(f"{scheme}://{host}") for scheme in ("http", "https")]
        delays = [table.delay for table in found if table is not None and table.delay is not None]
        counts = [table.per_host for table in found if table is not None and table.per_host is not None]
        return max(delays, default=self._config.delay), min(counts, default=self._config.per_host)


def _table_of(tables: Sequence[HostConfig], places: Mapping[str, int], origin: str) -> HostConfig | None:
    """The first of these tables that is for an origin. ``places``: of the first with each pattern."""
    found = [places[pattern] for pattern in host_patterns(origin) if pattern in places]
    return tables[min(found)] if found else None
