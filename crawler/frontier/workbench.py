"""The in-memory half of the frontier: politeness as a data structure.

Pure: no clock, no I/O; time is an argument. Invariants: a host has at most ``per_host`` visits out; none of its visits
starts before its rest is over; what was put is taken once, put back, or still there.

A host that could deal stands in one place: in the heap while it rests, then in the lane of as many visits as it has out.
The lanes are dealt from the lowest, each in the order in which hosts came: so visits spread over hosts, one at a time,
and a host gets a second connection only when every other due host is being visited.

A group is a further limit that hosts share (``--politeness-by domain``, links that killed a process): a host whose next
link belongs to a group that is full, or rests, waits there until it is called (see bench_groups.py).

A host is prompt once it has responded soon, and slow once it has let a visit wait, each until its next visit. While prompt
hosts have links waiting, some visits are kept for them: however many hosts let their visitors wait, they do not take all
there are. Slow hosts have a lane of their own, dealt from in turn with all the others: hosts that nobody knows yet do not
queue behind a slow one's retries.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from heapq import heapify, heappop, heappush
from itertools import count, islice
from math import inf
from typing import Final, NamedTuple

from crawler.core.batch import HostRest
from crawler.core.model import Lease, Link
from crawler.frontier.bench_groups import Groups
from crawler.frontier.bench_host import ASIDE, HOST_SIZE, NOWHERE, PARKED, RESTING, BenchHost, size


class HostView(NamedTuple):
    """A host on the bench, to be shown. ``waiting`` counts its links on the bench; ``failures`` and ``busy`` those in a row."""

    host: str
    due: float
    waiting: int
    out: int
    failures: int
    busy: int


LANES_MAX: Final = 8
"""By the number of visits out; hosts with more share the last of these lanes."""
SLOW_LANE: Final = LANES_MAX
KEPT: Final = 8
"""One visit in so many is kept for prompt hosts."""
PROMPT_S: Final = 1.0
"""A host is slow whose last visit took longer."""
STALL_S: Final = 0.5
"""The same of a visit that ended without a response."""


class Workbench:
    """Host queues and a heap of due hosts. ``per_host(host)`` is how many visits it may have out at a time;
    ``group_of(host)`` names a group it shares with others, limited like a host, or None; without it there are none.
    ``taken_over(host)``: since when, by the crawl clock, it is dealt here, and how many seconds its group rests then.
    ``visits_max``: there are no more visits than these at a time; None: nobody knows, and none are kept."""

    def __init__(
        self,
        per_host: Callable[[str], int],
        group_of: Callable[[str], str | None] | None = None,
        visits_max: int | None = None,
        taken_over: Callable[[str], tuple[float, float]] = lambda host: (-inf, 0.0),
    ) -> None:
        self._per_host = per_host
        self._hosts: dict[str, BenchHost] = {}
        self._groups = Groups(per_host, group_of, taken_over)
        self._resting: list[tuple[float, int, str]] = []  # a heap
        self._lanes: tuple[OrderedDict[str, BenchHost], ...] = tuple(OrderedDict() for _ in range(LANES_MAX + 1))
        self._lanes_slow_first = (self._lanes[SLOW_LANE], *self._lanes[:SLOW_LANE])
        self._is_slow_next = False
        self._ticket = count()
        self._aside: OrderedDict[str, BenchHost] = OrderedDict()
        self._visits_max = visits_max
        self.limit(None)
        self._slow_out = self._prompt_waiting = 0
        self.waiting = 0
        self.weight = 0
        """As ``waiting``, with each link that is longer than usual counted as several, and each host: see ``size``."""
        self.out = 0
        self.deals_until = inf
        """From this crawl-clock time on ``take`` has nothing: the lease of what is here has run out."""

    def __repr__(self) -> str:
        return f"<Workbench {self.waiting} waiting at {len(self._hosts)} hosts, {self.out} out>"

    def __contains__(self, host: str) -> bool:
        return host in self._hosts

    def __len__(self) -> int:
        return len(self._hosts)

    def put(self, leases: Iterable[Lease]) -> None:
        """Add claimed leases behind their hosts' queues; no visit of a host before its leases' ``due``."""
        for lease in leases:
            name = lease.link.host
            host = self._hosts.get(name)
            if host is None:
                host = self._hosts[name] = BenchHost(lease)
                self.weight += HOST_SIZE
            else:
                host.due = max(host.due, lease.due)
                host.down = None  # the store says so
            (host.robots_queue if lease.link.kind == "robots" else host.queue).append(lease)
            host.share = max(host.share, len(host.queue))
            self._came(lease)
            self._recount(host)
            if host.place == NOWHERE:
                self._place(name, host)

    def put_robots_first(self, lease: Lease) -> None:
        """A robots link at its host: before the queue and even while the host is held. One is enough for an origin, but for those
        that stand in the store's queue."""
        host, link = self._hosts[lease.link.host], lease.link
        if lease.key or all((link.url, link.anchor) != (other.link.url, other.link.anchor) for other in host.robots_queue):
            host.robots_queue.append(lease)
            self._came(lease)
            self._place(lease.link.host, host)

    def rest(self, name: str, due: float) -> bool:
        """No visit of this host before ``due``, crawl-clock seconds; whether it is here, and would have been visited before."""
        if (host := self._hosts.get(name)) is None or due <= host.due:
            return False
        host.due = due
        return True

    def hold_for_robots(self, name: str, held: bool) -> None:
        """While it is held, the host deals nothing but robots links: its rules are not at hand."""
        if host := self._hosts.get(name):
            host.is_held = held
            self._place(name, host)

    def take(self, now: float) -> Lease | None:
        """The next lease that may be visited at ``now``, or None. Its host counts as visited until ``release``."""
        if now >= self.deals_until:
            return None
        # 1. hosts that were put aside, or whose rest is over, come into their lanes
        if self._aside:
            self._come_back(now)
        resting = self._resting
        while resting and resting[0][0] <= now:
            name = heappop(resting)[2]
            host = self._hosts.get(name)
            if host is not None and host.place == RESTING:
                self._enter_lane(name, host)
        # 2. what groups call does so as well; then one host after the other leaves its lane, until one deals
        while True:
            for name, host in self._groups.call(now) if self._groups.may_call(now) else ():
                if host.called_by is not None:
                    self._enter_lane(name, host)
                else:
                    self._rest_until(name, host, host.due)
            for lane in self._lanes_slow_first if self._is_slow_next else self._lanes:
                while lane:
                    name, host = lane.popitem(last=False)
                    host.place = NOWHERE
                    if (lease := self._take_of(name, host, now)) is not None:
                        self._is_slow_next = not host.is_slow
                        return lease
            if not self._groups.may_call(now):
                return None

    def limit(self, visits_max: int | None) -> None:
        """Just now there are no more than so many visits at a time; None: as many as ever."""
        some = [size for size in (visits_max, self._visits_max) if size is not None]
        self._slow_max = inf if self._visits_max is None else min(some) - min(some) // KEPT

    def _take_of(self, name: str, host: BenchHost, now: float) -> Lease | None:
        """A lease of a host that has left its lane. Six cases: 1. a rest has begun meanwhile; 2. it has nothing to deal; 3. it
        has as many visits out as it may have; 4. it is one slow host too many; 5. its group has no turn for it; 6. it deals."""
        lease, was_called, per_host = host.next(), self._groups.uncall(host), self._per_host(name)
        if host.due > now and host.out < per_host:  # 1, also with nothing to deal: the store may not know it yet
            self._rest_until(name, host, host.due)
            return None
        if lease is None:  # 2
            self.forget(name, now)
            return None
        if host.out >= per_host:  # 3
            return None
        may_be_slow = not host.is_prompt
        if may_be_slow and not self._has_room_for_slow():  # 4
            host.place = ASIDE
            self._aside[name] = host
            return None
        if self._groups.concern(lease):  # 5
            if (until := self._groups.stop(name, host, lease, now, was_called=was_called)) is not None:
                if until < inf:
                    self._rest_until(name, host, until)
                return None
            self._groups.enter(name, lease)
        host.has_turn = False  # 6
        (host.robots_queue or host.queue).pop(0)
        self.waiting -= 1
        self.weight -= size(lease)
        host.out += 1
        self.out += 1
        if may_be_slow:
            host.slow_out += 1
            self._slow_out += 1
        self._recount(host)
        if host.out < per_host and host.next() is not None:
            self._enter_lane(name, host)
        return lease

    def give_back(self, lease: Lease) -> None:
        """Undo a ``take`` that led to no visit: the lease is its host's next again, before others of its group, and no rest
        runs."""
        host = self._no_more_out(lease)
        host.has_turn = True
        (host.robots_queue if lease.link.kind == "robots" else host.queue).insert(0, lease)
        self._came(lease)
        self._recount(host)
        self._place(lease.link.host, host)

    def release(self, lease: Lease, rest: HostRest, seconds: float = 0.0, *, responded: bool = True) -> None:
        """A visit ended, which took so long: none of its host (and group) starts before that rest is over."""
        host, due = self._no_more_out(lease), rest.due
        host.due, host.is_new = max(host.due, due), False
        host.failures, host.busy, host.down, host.has_responded = rest.failures, rest.busy, rest.down, rest.has_responded
        host.is_prompt = responded and seconds <= PROMPT_S
        host.is_slow = seconds > (PROMPT_S if responded else STALL_S)
        if host.is_prompt:
            self._slow_out -= host.slow_out
            host.slow_out = 0
            if host.place == ASIDE:
                host.place = NOWHERE
                del self._aside[lease.link.host]
        self._recount(host)
        self._groups.rest(lease.link.host, due, seconds)
        self._place(lease.link.host, host)

    def revive(self, only: Iterable[str] | None) -> None:
        """Hosts that were given up here, or these of them, are tried again: what the visits that are out bring counts anew."""
        for name in self._hosts if only is None else only:
            if (host := self._hosts.get(name)) is not None and host.down:
                host.down, host.failures = None, 0

    def hold_suspects(self, held: bool) -> None:
        """While they are held, no link that is suspected is dealt: what the last one brought is not committed yet."""
        self._groups.hold_suspects(held)

    def state(self, name: str) -> HostRest:
        """How a host on the bench stands."""
        host = self._hosts[name]
        return HostRest(host.due, host.failures, host.down, host.busy, host.has_responded)

    def clear(self, name: str) -> list[Lease]:
        """Take all waiting leases of a host away (it was given up)."""
        if (host := self._hosts.get(name)) is None:
            return []
        leases = [*host.robots_queue, *host.queue]
        host.is_held = False
        host.robots_queue.clear()
        host.queue.clear()
        self._count_out(name, host, leases)
        return leases

    def links(self, name: str) -> list[Link]:
        """Those that wait at a host, without those for its robots rules."""
        host = self._hosts.get(name)
        return [lease.link for lease in host.queue] if host is not None else []

    def withdraw(self, name: str, is_unwanted: Callable[[Link], object]) -> list[Lease]:
        """Take those of a host's waiting leases away whose link is unwanted; robots links stay."""
        if (host := self._hosts.get(name)) is None:
            return []
        leases = [lease for lease in host.queue if is_unwanted(lease.link)]
        gone = {id(lease) for lease in leases}
        host.queue = [lease for lease in host.queue if id(lease) not in gone]
        self._count_out(name, host, leases)
        return leases

    def _count_out(self, name: str, host: BenchHost, leases: Sequence[Lease]) -> None:
        """These leases have left a host's queue, or queues."""
        self._recount(host)
        self.waiting -= len(leases)
        self.weight -= sum(size(lease) for lease in leases)
        self._unpark_empty(name, host)

    def leave(self, name: str) -> None:
        """A host with nothing waiting and nothing out, of which perhaps nothing is committed any more, goes after its rest."""
        host = self._hosts.get(name)
        if host is not None and host.place == NOWHERE and not (host.out or host.queue or host.robots_queue):
            self._rest_until(name, host, host.due)

    def waiting_at(self, name: str) -> int:
        """Links of a host that wait here, without those for its robots rules."""
        host = self._hosts.get(name)
        return len(host.queue) if host is not None else 0

    def forget(self, name: str, now: float, stored_due: float = inf) -> None:
        """Drop a host with nothing waiting and nothing out: its rest is in the store now, as ``stored_due``. What is longer (that
        after a visit given back is not stored) it spends here."""
        host = self._hosts.get(name)
        if host is not None and stored_due < inf:
            host.stored_due = max(host.stored_due, stored_due)
        if host is not None and not host.out and host.place == NOWHERE and not host.queue and not host.robots_queue:
            if host.due > max(stored_due, now):
                self._rest_until(name, host, host.due)
            else:
                self._remove(name)
        self._groups.forget(len(self._hosts), now)

    def send_home(self, until: float, names: Iterable[str] | None = None) -> list[Lease]:
        """Drop the hosts that rest longer than until then, of these or of all; all their waiting leases."""
        named = self._hosts.items() if names is None else [(name, self._hosts[name]) for name in names if name in self._hosts]
        return self._drop([name for name, host in named if host.due > until and self._may_go(host)])

    def queue_at_groups(self, now: float, soon: float, latest: float, pause: Callable[[Link], float]) -> list[tuple[str, float]]:
        """Of the hosts that only wait for their group, those whose turn does not come ``soon``: (host, when it may come), one
        pause of the group after the other, and none after ``latest``. Crawl-clock seconds."""
        return self._groups.late(now, soon, latest, pause)

    def end_turns(self, count: int, now: float) -> list[Lease]:
        """Drop so many of the hosts that came first, of those that have been visited here; all their waiting leases. One that is
        being visited has nothing more to deal, and goes after that."""
        return self._drop(list(islice((name for name, host in self._hosts.items() if self._has_had_turn(host, now)), count)))

    def _has_had_turn(self, host: BenchHost, now: float) -> bool:
        if not host.out:
            return not host.is_new and self._may_go(host, now)
        return bool(host.queue) and not host.is_held and host.visits_for_itself()

    def _may_go(self, host: BenchHost, now: float = 0.0) -> bool:
        """Whether it could deal now or later, nothing of it is out, its rest is over or the store knows it, and it visits no
        robots.txt for another."""
        is_free = not host.out and host.place not in (NOWHERE, ASIDE) and host.due <= max(now, host.stored_due)
        return is_free and host.visits_for_itself()

    def _drop(self, names: Iterable[str]) -> list[Lease]:
        leases: list[Lease] = []
        for name in names:
            leases += self.clear(name)
            if not (host := self._hosts[name]).out:
                if host.place >= 0:
                    self._leave_lane(name, host)
                self._remove(name)
        if len(self._resting) > 2 * len(self._hosts) + 64:
            self._sweep()
        return leases

    def _sweep(self) -> None:
        """Of each host that rests the newest entry in the heap, and no other."""
        newest: dict[str, tuple[float, int, str]] = {}
        for entry in sorted(self._resting, key=lambda entry: entry[1]):
            if (host := self._hosts.get(entry[2])) is not None and host.place == RESTING:
                newest[entry[2]] = entry
        self._resting = list(newest.values())
        heapify(self._resting)

    def shortage(self, name: str, share_links_max: int) -> int:
        """How many more links this host should be given: 0 while its queue is more than half of the most it has had,
        else twice that, up to ``share_links_max``."""
        host = self._hosts.get(name)
        if host is None or len(host.queue) * 2 > host.share:
            return 0
        return max(0, min(share_links_max, host.share * 2) - len(host.queue))

    def next_due(self) -> float | None:
        """When ``take`` may next have something, once it has given all it had; None if only a release or a put can change
        that."""
        due = min(self._resting[0][0] if self._resting else inf, self._groups.next_due())
        return due if due < inf else None

    def leases(self) -> Iterable[Lease]:
        """All waiting leases."""
        for host in self._hosts.values():
            yield from host.robots_queue
            yield from host.queue

    def names(self) -> list[str]:
        """Of all hosts on the bench."""
        return list(self._hosts)

    def hosts(self) -> Iterable[HostView]:
        """Every host on the bench as it stands now."""
        for name, host in self._hosts.items():
            waiting = len(host.queue) + len(host.robots_queue)
            yield HostView(name, host.due, waiting, host.out, host.failures, host.busy)

    def census(self, now: float) -> tuple[int, int, int]:
        """(resting, ready, out): how many hosts rest, are due, and are being visited."""
        resting = out = 0
        for host in self._hosts.values():
            if host.out:
                out += 1
            elif host.due > now:
                resting += 1
        return resting, len(self._hosts) - resting - out, out

    # -- inside ---------------------------------------------------------------------------------------------------

    def _remove(self, name: str) -> None:
        del self._hosts[name]
        self.weight -= HOST_SIZE

    def _came(self, lease: Lease) -> None:
        self.waiting += 1
        self.weight += size(lease)

    def _place(self, name: str, host: BenchHost) -> None:
        """Into the heap if it could deal; out of the lane where it no longer belongs. One that has nothing at all stays there, to
        be dropped by ``take``."""
        if host.place >= 0 and (host.out or host.queue or host.robots_queue):
            self._leave_lane(name, host)
        if host.place == NOWHERE and host.out < self._per_host(name) and host.next() is not None:
            self._rest_until(name, host, host.due)

    def _rest_until(self, name: str, host: BenchHost, due: float) -> None:
        host.place = RESTING
        heappush(self._resting, (due, next(self._ticket), name))

    def _recount(self, host: BenchHost) -> None:
        waits = host.is_prompt and bool(host.queue)
        if waits != host.is_prompt_and_waits:
            host.is_prompt_and_waits = waits
            self._prompt_waiting += 1 if waits else -1

    def _has_room_for_slow(self) -> bool:
        return self._slow_out < self._slow_max or not self._prompt_waiting

    def _come_back(self, now: float) -> None:
        """Of the slow hosts that were put aside the first, if there is room for one: one for each ``take``. Those that rest
        meanwhile do so where others do."""
        while self._aside and self._has_room_for_slow():
            name, host = self._aside.popitem(last=False)
            if host.due <= now:
                self._enter_lane(name, host)
                return
            self._rest_until(name, host, host.due)

    def _enter_lane(self, name: str, host: BenchHost) -> None:
        host.place = SLOW_LANE if host.is_slow else min(host.out, LANES_MAX - 1)
        self._lanes[host.place][name] = host

    def _leave_lane(self, name: str, host: BenchHost) -> None:
        del self._lanes[host.place][name]
        host.place = NOWHERE
        self._groups.uncall(host)

    def _unpark_empty(self, name: str, host: BenchHost) -> None:
        """One that has nothing at all waits for no turn: ``take`` drops it."""
        if host.place == PARKED and not host.queue and not host.robots_queue:
            self._groups.drop(name, host)
            self._rest_until(name, host, host.due)

    def _no_more_out(self, lease: Lease) -> BenchHost:
        """A lease that was taken is out no more; its host."""
        name = lease.link.host
        host = self._hosts[name]
        host.out -= 1
        self.out -= 1
        if host.slow_out:
            host.slow_out -= 1
            self._slow_out -= 1
        if self._groups.concern(lease):
            self._groups.leave(name, lease)
        return host
