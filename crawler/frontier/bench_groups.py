"""Groups of hosts on the workbench that are limited together: those of a domain, those of links that killed a process. Pure.

A host whose group is full, or rests, or has others waiting, waits there behind them (it is PARKED). It is called when its turn
has come: so many at a time as the group may have more visits. One that was called deals, or the next one is called. So a visit
costs the same, however many hosts wait.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from math import inf
from typing import Final

from crawler.core.model import Lease, Link
from crawler.frontier.bench_host import NOWHERE, PARKED, BenchHost

SUSPECTS: Final = "\0suspects"
"""The group of links that were out when the process died: one at a time."""
GROUPS_MAX: Final = 65_536
"""Of 180 bytes. A group stays while it rests, though its hosts have gone home: where so many rest, no other is begun."""
GROUPS_LOOK_EVERY_S: Final = 1.0
ASK_AGAIN_S: Final = 10.0
"""So often a host whose group was taken over asks how long that is to rest: the delay may have been taken back."""
VISIT_S_MAX: Final = 1.0
"""A visit that took longer is not taken as the rule: the turns of a group would be told too late."""


class Group:
    """What its hosts share."""

    __slots__ = ("called", "due", "is_timed", "limit", "out", "queued_until", "since", "visit_s")

    def __init__(self) -> None:
        self.limit = 1  # of suspects; that of hosts may change
        self.out = self.called = 0
        self.due = self.queued_until = 0.0  # the second: its hosts in the store have been told turns before that
        self.since = -inf  # when the last one of its hosts that was visited here was taken over
        self.visit_s = 0.0  # how long its last visit took
        self.is_timed = False


class Groups:
    """``per_host(host)`` is how many visits a host may have out, and its group; ``group_of(host)`` names that, or None;
    ``taken_over(host)`` tells when (by the crawl clock) it was taken over from whoever may just have visited its group, and how
    many seconds that rests after a visit."""

    def __init__(
        self,
        per_host: Callable[[str], int],
        group_of: Callable[[str], str | None] | None,
        taken_over: Callable[[str], tuple[float, float]],
    ) -> None:
        self._per_host, self._group_of, self._taken_over = per_host, group_of, taken_over
        self._all: dict[str, Group] = {}
        self._needed = 0  # when it was last looked which are
        self._looked_at = -inf
        self._waiting: dict[str, dict[str, BenchHost]] = {}  # group → hosts that wait there; an OrderedDict has 160 bytes more
        self._changed: dict[str, None] = {}  # groups with hosts waiting that may have a turn for one
        self._resting: list[tuple[float, int, str]] = []  # a heap of those whose hosts wait for its rest to be over
        self._ticket = count()

    def concern(self, lease: Lease) -> bool:
        """Whether a lease may belong to a group."""
        return lease.suspect or self._group_of is not None

    def stop(self, name: str, host: BenchHost, lease: Lease, now: float, *, was_called: bool) -> float | None:
        """None if a host may deal this lease now. Else until when it rests, to ask again: there is no room for another group, or
        its own may just have been visited by others; or inf: it waits from here on until it is called."""
        was_called |= host.has_turn
        for key in self._of(name, lease):
            if key not in self._all and not self._has_room(now):
                return now + GROUPS_LOOK_EVERY_S
            group, waiting = self._group(key), self._waiting.get(key)
            if key != SUSPECTS:
                since, rest = self._taken_over(name)
                if since > group.since and since + rest > now:  # also of one that is known: it may have been another node's
                    return min(since + rest, now + ASK_AGAIN_S)
            is_free = group.due <= now and group.out + group.called < self._limit(key, group, name)
            if not is_free or (waiting is not None and not was_called):
                if waiting is None or was_called:
                    self._waiting[key] = {name: host, **(waiting or {})}
                else:
                    waiting[name] = host
                host.place = PARKED
                self._changed[key] = None
                return inf
        return None

    def enter(self, name: str, lease: Lease) -> None:
        """A visit of this lease began."""
        for key in self._of(name, lease):
            group = self._group(key)
            group.out += 1
            if key != SUSPECTS:
                group.since = max(group.since, self._taken_over(name)[0])

    def leave(self, name: str, lease: Lease) -> None:
        """The visit of this lease ended, or was not made."""
        for key in self._of(name, lease):
            self._group(key).out -= 1
            self._may_call(key)

    def rest(self, name: str, due: float, seconds: float) -> None:
        """After a visit of this host, which took so long: none of its group before ``due``."""
        if self._group_of is not None and (key := self._group_of(name)) is not None:
            group = self._group(key)
            group.due, group.visit_s = max(group.due, due), min(seconds, VISIT_S_MAX)

    def hold_suspects(self, held: bool) -> None:
        self._group(SUSPECTS).limit = 0 if held else 1
        self._may_call(SUSPECTS)

    def may_call(self, now: float) -> bool:
        """Whether ``call`` may have something."""
        return bool(self._changed) or (bool(self._resting) and self._resting[0][0] <= now)

    def call(self, now: float) -> list[tuple[str, BenchHost]]:
        """Hosts that wait no more: each was called (see ``called_by``), or rests itself."""
        while self._resting and self._resting[0][0] <= now:
            key = heappop(self._resting)[2]
            if (group := self._all.get(key)) is not None:
                group.is_timed = False
                self._may_call(key)
        changed, self._changed = self._changed, {}
        back: list[tuple[str, BenchHost]] = []
        for key in changed:
            if (waiting := self._waiting.get(key)) is None:
                continue
            group = self._all[key]
            while waiting and group.due <= now:
                name = next(iter(waiting))
                if group.out + group.called >= self._limit(key, group, name):
                    break
                host = waiting.pop(name)
                host.place = NOWHERE
                if host.due <= now:
                    host.called_by = key
                    group.called += 1
                back.append((name, host))
            if not waiting:
                self._waiting.pop(key, None)
            elif group.due > now and not group.is_timed:
                group.is_timed = True
                heappush(self._resting, (group.due, next(self._ticket), key))
        return back

    def uncall(self, host: BenchHost) -> bool:
        """A host has left its lane; whether it was there because it was called."""
        if (key := host.called_by) is None:
            return False
        host.called_by = None
        self._all[key].called -= 1
        self._may_call(key)
        return True

    def drop(self, name: str, host: BenchHost) -> None:
        """A host that is PARKED waits no more."""
        for key in (SUSPECTS, self._group_of(name) if self._group_of is not None else None):
            waiting = self._waiting.get(key) if key is not None else None
            if key is not None and waiting is not None and waiting.pop(name, None) is not None and not waiting:
                del self._waiting[key]
        host.place = NOWHERE

    def late(self, now: float, soon: float, latest: float, pause: Callable[[Link], float]) -> list[tuple[str, float]]:
        """Of the hosts that only wait for their group, those whose turn does not come ``soon``: (host, when it may come), one
        visit of the group after the other, and none after ``latest``. Crawl-clock seconds."""
        late = []
        for key, waiting in self._waiting.items():
            group = self._all[key]
            turn = max(now, group.due)
            for name, host in waiting.items() if key != SUSPECTS else ():
                if (lease := host.next()) is None or host.out or host.due > now or not host.visits_for_itself():
                    continue  # one that is being visited: its group would rest with it
                apart = (pause(lease.link) + group.visit_s) / max(1, self._per_host(name))
                if turn <= soon:
                    turn += apart
                else:
                    told = min(latest, max(turn, group.queued_until))
                    group.queued_until = told + apart
                    late.append((name, told))
        return late

    def next_due(self) -> float:
        """When a rest is over that hosts wait for; inf if they wait for none."""
        return self._resting[0][0] if self._resting else inf

    def forget(self, hosts: int, now: float) -> None:
        """Drop the groups that nobody needs, where they are many beside so many hosts."""
        if len(self._all) > 2 * max(hosts, self._needed) + 64:
            self._forget(now)

    # -- inside ---------------------------------------------------------------------------------------------------

    def _forget(self, now: float) -> None:
        idle = [key for key, group in self._all.items() if group.due <= now and self._is_idle(key, group)]
        for key in idle:
            del self._all[key]
        self._needed, self._looked_at = len(self._all), now

    def _is_idle(self, key: str, group: Group) -> bool:
        return not (group.out or group.called or group.is_timed or key in self._waiting) and group.limit > 0

    def _has_room(self, now: float) -> bool:
        if len(self._all) >= GROUPS_MAX and now >= self._looked_at + GROUPS_LOOK_EVERY_S:
            self._forget(now)
        return len(self._all) < GROUPS_MAX

    def _limit(self, key: str, group: Group, name: str) -> int:
        return group.limit if key == SUSPECTS else self._per_host(name)

    def _may_call(self, key: str) -> None:
        if key in self._waiting:
            self._changed[key] = None

    def _of(self, name: str, lease: Lease) -> tuple[str, ...]:
        group = self._group_of(name) if self._group_of is not None else None
        if lease.suspect:
            return (SUSPECTS,) if group is None else (SUSPECTS, group)
        return () if group is None else (group,)

    def _group(self, name: str) -> Group:
        found = self._all.get(name)
        if found is None:
            found = self._all[name] = Group()
        return found
