"""What the frontier must know of the links that the operator excludes."""

from __future__ import annotations

from typing import Protocol

from crawler.core.model import Link


class Exclusion(Protocol):
    """``crawler.policy.exclusion`` has the one that crawls use."""

    is_set: bool
    """Whether there is anything to refuse by."""

    def blocks(self, host: str) -> bool:
        """Whether nothing at all of a host is to be visited."""

    def refuses(self, link: Link) -> tuple[str, str] | None:
        """(outcome, reason) of a link that is wanted no more."""
