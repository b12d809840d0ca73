"""What only a lost disk held is due again: each slot is looked through once by whoever holds it, while the crawl goes on."""

from __future__ import annotations

import logging
from collections.abc import Set
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
        self._searched: set[tuple[int, int]] = set()

    def told(self, members: frozenset[int]) -> None:
        if members != self.members:
            self.members = members
            self._searched.clear()

    def are_left(self, held: Set[tuple[int, int]]) -> bool:
        """Whether one of these slots (with its epoch) is still to be looked through."""
        return bool(self.members) and bool(held - self._searched)

    async def search(self, held: Set[tuple[int, int]]) -> None:
        """Pages whose record or row stands in a file that nobody else has are due again."""
        if not self.are_left(held):
            return
        marks = await self._engine.ask(self._truth.marks_of, sorted(self.members))
        if marks is None:
            return
        files = {file_name(MARK, key) for key, value in marks.items() if not is_safe(decode_mark(value))}
        try:
            count = await self._engine.pump.revive(Selection(files=frozenset(files))) if files else 0
        except StorageError:
            return  # the pump makes it good, and this is done again
        if count:
            logger.warning("cluster: %d pages that only a lost disk held are due again", count)
        self._searched = set(held)  # of earlier epochs none comes again


def is_safe(mark: Mark) -> bool:
    """Whether a file is elsewhere too, or was not to be kept."""
    return mark.retired or mark.stored
