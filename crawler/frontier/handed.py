"""What the frontier is handed to decide with: politeness, robots rules, what is excluded, and room for links.
``crawler.policy`` and ``crawler.resources`` have what crawls use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from crawler.core.batch import Admitted, HostRest
from crawler.core.model import Link, Outcome, Retry


class RobotsGate(Protocol):
    """What is known of robots.txt; ``crawler.policy.robots_gate`` has the one that crawls use."""

    def ready(self, link: Link) -> bool:
        """Whether the rules of a link's origin are at hand and fresh."""

    def link(self, link: Link) -> Link:
        """The robots link of a link's origin."""

    def load(self, origin: str, record: bytes) -> bool:
        """Take in the record the store kept for an origin; whether that made it ready."""

    def learn(self, link: Link, outcome: Outcome) -> Sequence[tuple[str, bytes | None]]:
        """What the end of a robots link taught: (origin, record to keep) of each; None where the rules could not be fetched."""

    def unlearn(self, link: Link) -> Sequence[str]:
        """That visit was not made, after all. Returns the origins whose records are not to be kept."""

    def failure(self, link: Link) -> tuple[str, str] | None:
        """(outcome, reason) where the rules of a link's origin could not be fetched lately: what waits for them ends so."""

    def failed(self, origin: str) -> tuple[str, str] | None:
        """(outcome, reason) where the rules of an origin could not be fetched lately."""

    def deny(self, origin: str, failure: tuple[str, str]) -> None:
        """The rules of an origin could not be fetched: another part of the crawl has found out."""

    def forgive(self, host: str) -> None:
        """Forget that the rules of a host could not be fetched."""


class Politeness(Protocol):
    """How long hosts rest; ``crawler.policy.politeness`` has the one that crawls use."""

    def pause(self, link: Link) -> float:
        """Between two visits of a link's host, whatever the first one brought; seconds."""

    def retry_in(self, link: Link, outcome: Retry) -> float:
        """Seconds until a link is due again."""

    def after(self, link: Link, outcome: Outcome, host: HostRest, now: float, pause: float) -> HostRest:
        """The rest of a host after a visit of a link, given its state before; ``pause``: as it was when the visit began."""


class Exclusion(Protocol):
    """What the operator wants visited no more; ``crawler.policy.exclusion`` has the one that crawls use."""

    is_set: bool
    """Whether there is anything to refuse by."""

    def blocks(self, host: str) -> bool:
        """Whether nothing at all of a host is to be visited."""

    @property
    def refuses(self) -> Callable[[Link], tuple[str, str] | None]:
        """(outcome, reason) of a link that is wanted no more; another function once the settings have changed."""


class Held(Protocol):
    """Memory that is reserved."""

    def release(self) -> None: ...


class LinksRoom(Protocol):
    """Where memory for links that are admitted by themselves is reserved: ``crawler.resources.memory_budget.Budget``."""

    async def links(self, admitted: Admitted, /) -> Held: ...


class Handed(NamedTuple):
    """All of it. ``robots`` None: no robots.txt is asked for."""

    politeness: Politeness
    robots: RobotsGate | None
    exclusion: Exclusion
    links_room: LinksRoom
