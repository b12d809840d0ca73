"""Which slots a member has, and how far it is with each. Pure: what follows from a step is the member's to do.

    (none) ─▶ LOADING ─▶ HELD ◀─▶ LEAVING ─▶ (none)        lost: ─▶ (none), from anywhere

Invariants. A slot stands in ``wanted`` exactly while it is LOADING. What was here and is lost stands in ``dropping`` until the
store has let go of it; until then it is not loaded, though it may be wanted again.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Set
from enum import Enum

from crawler.frontier.cluster.truth import Tick


class Phase(Enum):
    LOADING = "loading"
    HELD = "held"
    LEAVING = "leaving"
    """It is given back as soon as nothing of it is out or uncommitted."""


class Slots:
    """``held``: those that are here already. Changed on the loop alone; other threads may ask."""

    def __init__(self, held: Iterable[int]) -> None:
        self._phases: dict[int, Phase] = dict.fromkeys(held, Phase.HELD)
        self.wanted: dict[int, int] = {}
        """Slot → epoch."""
        self.heired: set[int] = set()
        """Of those wanted, the ones that another member had not given up."""
        self.dropping: set[int] = set()

    @property
    def all(self) -> Set[int]:
        return self._phases.keys()

    def at(self, phase: Phase) -> set[int]:
        return {slot for slot, at in self._phases.items() if at is phase}

    def here(self) -> set[int]:
        """HELD or LEAVING."""
        return self._phases.keys() - self.wanted.keys()

    def is_here(self, slot: int) -> bool:
        return slot in self._phases and slot not in self.wanted

    def see(self, tick: Tick) -> None:
        """What the database says is this member's is wanted, but for what is here and what would be too much."""
        for slot, epoch in tick.held.items():
            if slot in self.wanted or (slot not in self._phases and slot not in tick.surplus):
                self._phases[slot], self.wanted[slot] = Phase.LOADING, epoch
        self.heired |= tick.heired.keys() & self.wanted.keys()

    def loaded(self, slot: int, epoch: int) -> bool:
        """All of it is here. False: it was lost meanwhile, or is wanted under another epoch, and is to be dropped."""
        if self.wanted.get(slot) != epoch:
            self.dropping.add(slot)
            return False
        del self.wanted[slot]
        self.heired.discard(slot)
        self._phases[slot] = Phase.HELD
        return True

    def leave(self, surplus: Iterable[int]) -> set[int]:
        """Those of a surplus that are HELD are LEAVING now."""
        slots = {slot for slot in surplus if self._phases.get(slot) is Phase.HELD}
        self._phases |= dict.fromkeys(slots, Phase.LEAVING)
        return slots

    def stay(self, surplus: Container[int]) -> set[int]:
        """Those that are LEAVING and are no surplus any more are HELD again."""
        slots = {slot for slot in self.at(Phase.LEAVING) if slot not in surplus}
        self._phases |= dict.fromkeys(slots, Phase.HELD)
        return slots

    def lose(self, slots: Collection[int]) -> set[int]:
        """These are not this member's any more. Those of them that were here, and are to be dropped."""
        here = {slot for slot in slots if self.is_here(slot)}
        self.forget(slots)
        self.dropping |= here
        return here

    def forget(self, slots: Iterable[int]) -> None:
        """These were given back."""
        for slot in slots:
            self._phases.pop(slot, None)
            self.wanted.pop(slot, None)
            self.heired.discard(slot)
