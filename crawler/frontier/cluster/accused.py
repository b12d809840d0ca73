"""Visits that may have ended a process, counted once for each, wherever their links are by then.

Who counts it: 1. the member itself, as it starts again and still has the slot; or once it has loaded it. 2. The heir of the slot,
of what the member was at for long when it was last heard of: the takeover itself brings it, since a member that comes back tells
of other visits. 3. The owner of the slot, told by the member that has come back, of what the heir could not know.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from crawler.frontier.cluster.box import accusation
from crawler.frontier.cluster.mirror import Mirror
from crawler.frontier.cluster.truth import NOBODY, Tick
from crawler.frontier.store import Store

logger: Final = logging.getLogger(__name__)


class Accused:
    """The accused visits of slots that are not held here, yet or any more: at most what was out of each process that ended."""

    def __init__(self, mirror: Mirror, store: Store) -> None:
        self._mirror, self._store = mirror, store
        self._heired: dict[int, Sequence[bytes]] = {}
        mirror.accused -= mirror.counted_elsewhere

    def see(self, tick: Tick) -> None:
        """What was heired by it, and what is held no more."""
        self._heired = {slot: keys for slot, keys in (self._heired | tick.accused).items() if slot in tick.held}

    def took(self, slots: Collection[int]) -> None:
        """From now on these are held: before anything is dealt of them. (Engine.)"""
        heired = {key for slot in slots for key in self._heired.get(slot, ())}
        own = {key for key in self._mirror.accused if key[0] in slots}
        if heired:
            logger.warning("cluster: %d visits of a member that is gone are suspected of its end: one at a time", len(heired))
        self.count(heired | own)
        self._mirror.accused -= own
        for slot in slots:
            self._heired.pop(slot, None)

    def count(self, keys: Iterable[bytes]) -> bool:
        """Each of these once more. (Engine.)"""
        if keys:
            counts = self._store.suspects()
            self._store.set_suspects({key: counts.get(key, 0) + 1 for key in keys})
        return True

    def told(self, message: int, keys: Iterable[bytes]) -> bool:
        """As ``count``, in the commit that takes in the message that brought them. (Engine.)"""
        self._mirror.take_in(message)
        return self.count(keys)

    def tell(self, owners: Mapping[int, int]) -> None:
        """Those of slots that are others'. (Engine.)"""
        theirs: dict[int, list[bytes]] = defaultdict(list)
        for key in self._mirror.accused:
            if (owner := owners.get(key[0], NOBODY)) not in (NOBODY, self._mirror.number):
                theirs[owner].append(key)
        for owner, keys in theirs.items():
            self._mirror.truth.send(owner, accusation(keys))
            self._mirror.accused.difference_update(keys)
