"""How far each list and each tag is: counted as a batch is committed, for at most NAMES_MAX of either. Pure.

Where that many lists are told apart, those that are done and were touched least lately join all others, so that a new one is
seen for as long as the crawl lives. A tag has no end, so it stays.

A line of a list is done when its own visit has ended, or that of the page its redirects lead to. What a tag is carried on to
(the links of a page, redirects) counts under it as any other URL.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from crawler.core.batch import EXPAND, FOREIGN, KNOWN, NEW, Prepared, Settled, link_verdicts
from crawler.core.model import EXPANDED, NOT_PAGES, Done, Dropped, Known, Link, Tag

if TYPE_CHECKING:
    from crawler.frontier.admission import Admission

NAMES_MAX: Final = 1000
"""Of lists, and of tags, told apart; all others are one together."""
JOINED_AT_ONCE: Final = 100
"""Lists that join all others when there is no room for a new one."""
LIST: Final = "list:"
TAG: Final = "tag:"


class Tally(Struct, array_like=True):
    """``known``: lines of a list, URLs of a tag; ``outcomes`` of those that are done."""

    known: int = 0
    outcomes: dict[str, int] = {}

    @property
    def done(self) -> int:
        return sum(self.outcomes.values())

    def end(self, outcome: str, by: int = 1) -> None:
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + by
        if not self.outcomes[outcome]:
            del self.outcomes[outcome]


class Tallies:
    """``kept`` are the tallies by their keys: ``list:NAME``, ``tag:`` and the tag as JSON, or either alone for all others. Those
    of a part may be less than nothing: what another has counted was forgotten here, since hosts were divided anew."""

    def __init__(self, kept: Mapping[str, Tally] = {}, *, is_part: bool = False) -> None:
        self._is_part = is_part
        self._tallies = dict(kept)
        self._counts = {kind: sum(key.startswith(kind) for key in kept) for kind in (LIST, TAG)}
        self.touched: set[str] = set()
        """Keys of what has changed, or has gone, since this was emptied."""

    def of(self, kind: str) -> dict[str, Tally]:
        """Of LIST or TAG: by name, or tag as JSON; "" is all others."""
        return {key[len(kind) :]: tally for key, tally in self._tallies.items() if key.startswith(kind)}

    def changed(self) -> dict[str, Tally | None]:
        """By key: what is to be kept. None: it is no more."""
        changed = {key: self._tallies.get(key) for key in self.touched}
        self.touched.clear()
        return changed

    def note(self, prepared: Prepared, admitted: Iterable[Admission]) -> None:
        """A batch is committed."""
        if self._counts[LIST] >= NAMES_MAX and not self._is_part:  # what a part has counted may lack what others have
            self._join_ended()
        for entry in admitted:
            if entry.tag is not None and entry.is_page and not entry.expand:
                self._tally(TAG, _tagged(entry.tag), begins=True).known += len(entry.keys)
        verdicts = link_verdicts(prepared)
        for settled in prepared.batch.settled:
            found = next(verdicts) if isinstance(settled.outcome, Done) else ((), b"")
            link = settled.lease.link
            if (link.tag is not None or link.input is not None) and link.kind not in EXPANDED and link.kind not in NOT_PAGES:
                self._end(settled, *found)
        for part in prepared.batch.admitted:
            self._admit(part.links, next(verdicts)[1], has_ended=part.was_redirected)
            for fault in part.faults:
                tallies = [self._tally(LIST, fault.input.list, begins=True)]
                tallies += [self._tally(TAG, _tagged(fault.tag), begins=True)] if fault.tag is not None else []
                for tally in tallies:
                    tally.known += 1
                    tally.end("invalid_url")

    def _admit(self, links: Sequence[Link], verdicts: bytes, *, has_ended: bool) -> None:
        """``has_ended``: their line."""
        for link, verdict in zip(links, verdicts, strict=True):
            if link.input is None or verdict == FOREIGN:  # its owner counts it
                continue
            if link.kind == "seed":
                self._tally(LIST, link.input.list, begins=True).known += 1
            if verdict in (KNOWN, EXPAND) and link.kind in ("seed", "redirect") and not has_ended:  # or of another part
                self._tally(LIST, link.input.list).end("skipped")

    def _end(self, settled: Settled, found: Sequence[Link], verdicts: bytes) -> None:
        """A visit has ended. A line ends with it, unless it was redirected to what is still to be visited."""
        link, outcome = settled.lease.link, settled.outcome
        if not isinstance(outcome, Done | Dropped):
            return
        if link.tag is not None:
            self._tally(TAG, _tagged(link.tag)).end(outcome.outcome)
        if link.input is None or settled.was_redirected:
            return  # the line has ended: here, as it was not followed, or elsewhere
        if outcome.outcome == "redirect" and found and verdicts[0] in (NEW, FOREIGN, KNOWN, EXPAND):
            if verdicts[0] in (KNOWN, EXPAND):
                self._tally(LIST, link.input.list).end("skipped")  # a duplicate stands for the line
        else:
            self._tally(LIST, link.input.list).end(outcome.outcome)

    def undo(self, known: Known, *, forgotten: bool) -> None:
        """A settled URL is to be visited once more, or known no more. A line that was redirected ended elsewhere."""
        link = known.link
        if link.kind in NOT_PAGES:
            return
        tallies = [self._tally(TAG, _tagged(link.tag))] if link.tag is not None else []
        if link.input is not None and known.outcome != "redirect" and not known.line_has_ended:
            tallies.append(self._list_of(link.input.list, known.outcome))
        for tally in tallies:
            if self._is_part or tally.outcomes.get(known.outcome):  # not of a directory begun by an earlier version
                tally.end(known.outcome, -1)
                tally.known -= forgotten

    def _list_of(self, name: str, outcome: str) -> Tally:
        """Where a line that has ended is counted. One that joined all others, and whose list has gone on since, returns to it."""
        tally, others = self._tally(LIST, name), self._tallies.get(LIST, Tally())
        if not self._is_part and not tally.outcomes.get(outcome) and others.outcomes.get(outcome):
            for each, by in ((self._tally(LIST, ""), -1), (tally, 1)):
                each.known += by
                each.end(outcome, by)
        return tally

    def _tally(self, kind: str, name: str, *, begins: bool = False) -> Tally:
        """``begins``: it may be the first that is heard of the name. Otherwise one that is not told apart was, or is, among all
        others, if there are any."""
        key = kind + name
        is_other = kind in self._tallies and not (begins or self._is_part)
        if key not in self._tallies and (is_other or self._counts[kind] >= NAMES_MAX):
            key = kind
        if key not in self._tallies:
            self._counts[kind] += 1
        self._tallies[key] = tally = self._tallies.pop(key, None) or Tally(0, {})  # the last touched is the last of them
        self.touched.add(key)
        return tally

    def _join_ended(self) -> None:
        """Make room for new lists."""
        ended = [f"{LIST}{name}" for name, tally in self.of(LIST).items() if name and tally.done == tally.known]
        for key in ended[:JOINED_AT_ONCE]:
            joined, others = self._tallies.pop(key), self._tally(LIST, "")
            others.known += joined.known
            for outcome, count in joined.outcomes.items():
                others.end(outcome, count)
            self.touched.add(key)
            self._counts[LIST] -= 1


def _tagged(tag: Tag) -> str:
    return json.dumps(tag, ensure_ascii=False)
