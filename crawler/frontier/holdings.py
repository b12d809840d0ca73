"""What a process has in memory of a crawl's slots: leases on the bench, out, or in a batch that is not committed.

A member of a crawl of many machines asks for it before it gives a slot up, and takes it away where a slot was lost.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from crawler.core.batch import Admitted
from crawler.core.model import Done, Lease
from crawler.frontier.batch import Collector
from crawler.frontier.frontier import Frontier


class Holdings:
    """``slot_of``, where it is asked for, is the slot of a lease, ``slot_of_host`` that of a host by its name."""

    def __init__(self, frontier: Frontier, batches: Collector) -> None:
        self._frontier, self._batches = frontier, batches

    def slots_out(self, slot_of: Callable[[Lease], int]) -> set[int]:
        """Slots of which something is out, or settled and not committed."""
        batches = [batch for batch in (self._batches.open, self._batches.closing) if batch is not None]
        out = {slot_of(lease) for lease in self._frontier.leases_out()}
        return out | {slot_of(settled.lease) for batch in batches for settled in batch.settled}

    def give_back_waiting(self, slots: Collection[int], slot_of_host: Callable[[str], int]) -> None:
        """What waits on the bench of these slots goes back to the store. Hosts that waited for robots rules that one of these
        hosts was to be visited for ask again."""
        bench = self._frontier.bench
        for host in [host for host in bench.names() if slot_of_host(host) in slots]:
            for lease in bench.clear(host):
                self._frontier.give_back(lease)
            bench.leave(host)

    def evict(self, slots: Collection[int], slot_of: Callable[[Lease], int], slot_of_host: Callable[[str], int]) -> None:
        """These slots are others' now: what is here of them on the bench, or settled and not committed, is nobody's."""
        self.give_back_waiting(slots, slot_of_host)
        batch = self._batches.open
        gone = [settled for settled in batch.settled if slot_of(settled.lease) in slots]
        for settled in gone:
            if isinstance(settled.outcome, Done):
                settled.outcome.page.body.discard()
        batch.settled = [settled for settled in batch.settled if slot_of(settled.lease) not in slots]
        batch.hosts = {host: rest for host, rest in batch.hosts.items() if slot_of_host(host) not in slots}
        if any(settled.lease.suspect for settled in gone):
            batch.has_suspect = False
            self._frontier.bench.hold_suspects(False)
        self._frontier.undone(gone, batch)

    def forget_admitted(self, gone: Sequence[Admitted]) -> None:
        """Links, and what came with them, that another member admits: they leave the open batch."""
        ids = {id(admitted) for admitted in gone}
        batch = self._batches.open
        batch.admitted = [admitted for admitted in batch.admitted if id(admitted) not in ids]
