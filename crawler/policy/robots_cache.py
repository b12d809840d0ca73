"""A cache of robots rules by origin, or by the URL of a page that robots.txt files are redirected to.

Invariant: it holds at most ``bytes_max`` bytes, for any number of origins and any rules.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from crawler.policy.robots_rules import RobotsRules


class RulesCache:
    """Rules by origin within ``bytes_max``: half of it for many origins as compressed bytes, half for the few in use.

    The store keeps them all; a miss here is read from there. Least recently used go first.
    """

    _ENTRY_BYTES: Final = 250

    def __init__(self, bytes_max: int) -> None:
        self._part_bytes_max = bytes_max // 2
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._parsed: OrderedDict[str, RobotsRules] = OrderedDict()
        self._kept_bytes = self._parsed_bytes = 0
        self.hits = self.misses = self.evictions = 0
        """Since it was made; only compressed records are counted as evicted."""

    def get(self, origin: str) -> RobotsRules | None:
        rules = self._parsed.get(origin)
        if rules is not None:
            self._parsed.move_to_end(origin)
            self.hits += 1
            return rules
        data = self._kept.get(origin)
        rules = RobotsRules.from_bytes(data) if data is not None else None
        if rules is None:
            self.misses += 1
            return None
        self._kept.move_to_end(origin)
        self.hits += 1
        self._remember(origin, rules)
        return rules

    def put(self, origin: str, data: bytes) -> RobotsRules | None:
        """Keep a record as the store has it. Returns its rules, None if the bytes are not a record."""
        self.discard(origin)
        rules = RobotsRules.from_bytes(data)
        if rules is None:
            return None
        size = len(origin) + len(data) + self._ENTRY_BYTES
        if size <= self._part_bytes_max:
            self._kept[origin] = data
            self._kept_bytes += size
        self._remember(origin, rules)
        while self._kept_bytes > self._part_bytes_max:
            old, gone = self._kept.popitem(last=False)
            self._kept_bytes -= len(old) + len(gone) + self._ENTRY_BYTES
            self.evictions += 1
        return rules

    def discard(self, origin: str) -> None:
        if (data := self._kept.pop(origin, None)) is not None:
            self._kept_bytes -= len(origin) + len(data) + self._ENTRY_BYTES
        if (rules := self._parsed.pop(origin, None)) is not None:
            self._parsed_bytes -= len(origin) + rules.memory_bytes

    def clear(self) -> None:
        """Give the memory back."""
        self._kept.clear()
        self._parsed.clear()
        self._kept_bytes = self._parsed_bytes = 0

    @property
    def memory_bytes(self) -> int:
        return self._kept_bytes + self._parsed_bytes

    def _remember(self, origin: str, rules: RobotsRules) -> None:
        size = len(origin) + rules.memory_bytes
        if size > self._part_bytes_max:
            return
        self._parsed[origin] = rules
        self._parsed_bytes += size
        while self._parsed_bytes > self._part_bytes_max:
            old, gone = self._parsed.popitem(last=False)
            self._parsed_bytes -= len(old) + gone.memory_bytes
