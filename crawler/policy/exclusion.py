"""What an operator wants visited no more: judged again for every link that waits, when it is claimed and when it is dealt.

Invariant: a link that these rules refuse is not fetched, however long it has waited; nothing is searched for in the store, and
nothing is computed where no setting asks for it. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from crawler.core.model import Link
from crawler.core.urls import origin
from crawler.policy.scope import searches

if TYPE_CHECKING:
    from crawler.config.sections import Config

Why = tuple[str, str]
"""(outcome, reason)"""
Search = Callable[[str], object]
EXCLUDED: Final[Why] = ("skipped", "excluded")


class Exclusion:
    """``begun`` are the expressions that the crawl was begun with: what a person listed knowing them is visited all the same;
    one that came later holds for what is listed as well. ``blocks(origin)`` says whether an origin is blocked."""

    def __init__(self, config: Config, begun: Sequence[str], blocks: Callable[[str], bool]) -> None:
        self._begun = frozenset(begun)
        self._blocks = blocks
        self._settings: object = None
        self.change(config)

    def change(self, config: Config) -> bool:
        """From now on these settings; whether anything is excluded that may not have been before."""
        settings = (config.include, config.exclude, tuple((table.match, table.block) for table in config.host))
        if settings == self._settings:
            return False
        self._settings = settings
        exclude = searches(config.exclude)
        later = zip(exclude, config.exclude, strict=True)
        listed = [search for search, pattern in later if pattern not in self._begun]
        self._any_blocked = any(table.block for table in config.host)
        blocks = self._blocks if self._any_blocked else None
        self.refuses: Callable[[Link], Why | None] = _Refuses(exclude, listed, searches(config.include), blocks)
        """(outcome, reason) of a link that is wanted no more. Another one whenever the settings change: what the one before has
        judged since, in another thread or in turns, may be wanted after all."""
        self.is_set = bool(config.exclude or config.include or self._any_blocked)
        """Whether there is anything to refuse by."""
        return self.is_set

    def blocks(self, host: str) -> bool:
        """Whether nothing at all of this host is to be visited."""
        return self._any_blocked and all(self._blocks(f"{scheme}://{host}") for scheme in ("http", "https"))


class _Refuses:
    """By the settings of one time."""

    def __init__(
        self,
        exclude: Sequence[Search],
        exclude_listed: Sequence[Search],
        include: Sequence[Search],
        blocks: Callable[[str], bool] | None,
    ) -> None:
        self._exclude, self._exclude_listed, self._include, self._blocks = exclude, exclude_listed, include, blocks

    def __call__(self, link: Link) -> Why | None:
        """Three cases: 1. nothing of a blocked host is wanted; 2. nothing that an expression excludes, but for robots.txt, which
        is no page, and for lines listed under that very expression; 3. of what pages link to, nothing that no expression
        includes."""
        if self._blocks is not None and self._blocks(origin(link.url)):
            return EXCLUDED
        kind, url = link.kind, link.url
        if kind == "robots":
            return None
        if any(search(url) for search in (self._exclude if kind != "seed" else self._exclude_listed)):
            return EXCLUDED
        is_found = kind == "link" or (kind == "redirect" and link.anchor is not None)
        if is_found and self._include and not any(search(url) for search in self._include):
            return EXCLUDED
        return None
