"""A store that is a working copy of a cluster's truth, opened for the store tests: one member that holds what it is told to."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection
from pathlib import Path

from crawler.core.errors import StorageError
from crawler.core.keys import SLOTS, Share
from crawler.frontier import Limits, Store, open_store
from crawler.frontier.cluster.accused import Accused
from crawler.frontier.cluster.box import Outbox
from crawler.frontier.cluster.mirror import Mirror
from crawler.frontier.cluster.postgres import PostgresTruth, open_crawl
from crawler.frontier.cluster.session import Address
from crawler.frontier.cluster.truth import NOBODY, Truth
from support.postgres import rows

LEASE_S = 600.0


class Copy:
    """``name``: of the member; the same one again is the same member. ``rows_max``: loaded at a time."""

    def __init__(
        self,
        url: str,
        path: Path,
        limits: Limits,
        now: float,
        rest: Callable[[str], float],
        share: Share | None = None,
        name: str = "a",
        lease_s: float = LEASE_S,
        held: Collection[int] | None = None,
        memory_bytes: int = 8 << 20,
        rows_max: int = 100,
    ) -> None:
        self._rows_max = rows_max
        address = Address(url)
        _, secret = open_crawl(address, lease_s, "{}")
        if share is not None and secret != share.secret:
            if rows(url, "SELECT count(*) FROM member") != [(0,)]:
                raise StorageError("the frontier store is of another crawl", final=True)
            rows(url, "UPDATE crawl SET secret = %s", share.secret.to_bytes(8, "big"))
            secret = share.secret
        self.node = node = uuid.uuid5(uuid.NAMESPACE_URL, name)
        self.truth: Truth = PostgresTruth(address, lease_s, node, node, secret)
        joined = self.truth.join(seeding=False)
        self.mirror = Mirror(self.truth, joined, share.group_of if share is not None else None, tells_whole=True)
        self.outbox = Outbox(self.mirror)
        self.mirror.messages = self.outbox
        self._wanted = set(range(SLOTS)) if share is None else {at for at in range(SLOTS) if share.owners[at] == share.own}
        self._wanted = set(held) if held is not None else self._wanted
        self.store: Store = open_store(
            "embedded",
            path,
            limits,
            now=now,
            rest=rest,
            memory_bytes=memory_bytes,
            share=self.mirror.share,
            upstream=self.mirror,
        )
        self.accused = Accused(self.mirror, self.store)
        self.hold(now)

    def hold(self, now: float, held: Collection[int] | None = None) -> None:
        """Take all that may be had, as a member does; from now on ``held`` may."""
        self._wanted = set(held) if held is not None else self._wanted
        tick = self.truth.tick([])
        mirror = self.mirror
        wanted = {slot: epoch for slot, epoch in tick.held.items() if slot in self._wanted and slot not in mirror.epochs}
        kept = mirror.kept(wanted)
        missing = sorted(wanted.keys() - set(kept))
        filled, sequence = self.truth.filled(missing), 0
        mirror.clear(missing, filled)
        for slot in filled:
            mirror.empty(slot)
            sequence = max([sequence, *(mirror.put(*chunk) for chunk in self.truth.load(slot, self._rows_max))])
        suspects = mirror.take(wanted, sequence, now)
        self.store.slots_changed(mirror.sequence, suspects, wanted)
        self.accused.see(tick)
        self.accused.took(wanted)
        others = {slot: mirror.number if slot in mirror.epochs else NOBODY for slot in range(SLOTS)}
        mirror.route(others)
