"""Makes due again what only a lost disk held: each slot is looked through once, by the member that holds it, while it crawls."""

from __future__ import annotations

import logging
from collections.abc import Collection, Set
from typing import TYPE_CHECKING, Final

from crawler.core.errors import StorageError
from crawler.core.model import Mark
from crawler.frontier.cluster.engine import Engine
from crawler.frontier.rocksdb.layout import MARK, decode_mark, file_name
from crawler.frontier.selection import Selection

if TYPE_CHECKING:
    from crawler.frontier.cluster.truth import Truth

logger: Final = logging.getLogger(__name__)


class LostDisks:
    """``told`` says which members were declared lost. Slots are told apart by their epochs: one that comes again is looked
    through again, which finds nothing once it is done."""

    def __init__(self, truth: Truth, engine: Engine) -> None:
        self._truth, self._engine = truth, engine
        self.members: frozenset[int] = frozenset()
        """Declared lost."""
        self._files: frozenset[str] | None = None
        """Of these members, those that nobody else has; None: not asked yet."""
        self._searched: set[tuple[int, int]] = set()
        self._due_again = 0
        """Pages, not told yet."""

    def told(self, members: frozenset[int]) -> None:
        if members != self.members:
            self.members, self._files, self._searched = members, None, set()

    def are_left(self, held: Set[tuple[int, int]]) -> bool:
        """Whether one of these slots (with its epoch) is still to be looked through."""
        return bool(self.members) and not held <= self._searched

    def lost(self, slots: Collection[int]) -> None:
        """They may come again under the same epoch, and what is being looked through was perhaps not to its end."""
        self._searched = {place for place in self._searched if place[0] not in slots}

    async def search(self, held: Set[tuple[int, int]]) -> bool:
        """Of one slot more, pages whose record or row stands in a file that nobody else has are due again. False: that was not
        done, or there is none."""
        if not self.are_left(held):
            return False
        if self._files is None:
            members = self.members
            marks = await self._engine.ask(self._truth.marks_of, sorted(members))
            if marks is None or members != self.members:
                return False
            self._files = frozenset(file_name(MARK, key) for key, value in marks.items() if not is_safe(decode_mark(value)))
        searched, files = self._searched, self._files
        searched &= held  # of earlier epochs none comes again
        slot, epoch = min(held - searched)
        try:
            count = await self._engine.pump.revive(Selection(files=files, slot=slot)) if files else 0
        except StorageError:
            return False  # the pump makes it good, and this is done again
        searched.add((slot, epoch))  # for members that were lost when it began: meanwhile there may be more
        self._due_again += count
        if self._due_again and not self.are_left(held):
            logger.warning("cluster: %d pages that only a lost disk held are due again", self._due_again)
            self._due_again = 0
        return True


def is_safe(mark: Mark) -> bool:
    """Whether a file is elsewhere too, or was not to be kept."""
    return mark.retired or mark.stored
