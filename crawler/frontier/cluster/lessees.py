"""Who leases which host, for people who ask a node about one that is another's."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from crawler.frontier.cluster.truth import NOBODY, MemberView, Tick


class Lessee(Struct, frozen=True):
    """``is_here``: it is this node; ``is_own``: this part of it."""

    node: str
    machine: str
    is_here: bool
    is_own: bool

    def told(self) -> dict[str, object]:
        """For people who ask by the API."""
        return {"node": self.node, "machine": self.machine, "is_here": self.is_here}


class Lessees:
    """As the database said last. ``node`` and ``member``: whose process this is."""

    def __init__(self, node: str, member: int) -> None:
        self._node, self._member = node, member
        self._owners: Mapping[int, int] = {}
        self._members: Mapping[int, MemberView] = {}

    def see(self, tick: Tick) -> None:
        self._owners = tick.owners
        self._members = {view.number: view for view in tick.members}

    def of(self, slot: int) -> Lessee | None:
        """None: nobody leases it just now, as far as is known."""
        view = self._members.get(self._owners.get(slot, NOBODY))
        return None if view is None else Lessee(view.node, view.name, view.node == self._node, view.number == self._member)
