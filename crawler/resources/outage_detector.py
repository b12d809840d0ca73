"""Detects loss of our own connectivity from the outcomes of visits. Pure; the caller passes the time.

Invariants: while it is open whether our own network is to blame for an outcome, the outcome is held, neither written nor given
up. It comes back exactly once: as judged, or to be given back unvisited. One response from any host ends every suspicion.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from typing import Final, Generic, Literal, TypeAlias, TypeVar

from crawler.core.errors import OUTCOME_OF

HOLD_S: Final = 30.0
HELD_MAX: Final = 500
HOSTS_ALIVE_MIN: Final = 5
"""So many hosts that had responded before, failing one after the other, are no coincidence."""
QUIET_S: Final = 1.0
"""Where nobody has responded for so long, one that is heard of no more counts as one of these, and silence is held."""
VAIN_S: Final = 3600.0
"""But not again for so long where that was in vain: of few hosts each page that hangs would be waited for, or asked for twice."""
HOSTS_LOCAL_MIN: Final = 2
"""The same where this machine itself says that it has no way out."""
REMEMBERED_MAX: Final = 10_000
"""Hosts remembered to have responded lately: as many in each of two generations."""
WITNESSES_MAX: Final = 5
PROBE_FIRST_S: Final = 5.0
PROBE_LAST_S: Final = 60.0
PROBES_IN_DOUBT: Final = 5
"""Where nobody ever responded but names were resolved, the hosts may simply be dead: believed after so many vain probes."""

Sign: TypeAlias = Literal["response", "silence", "unheard", "suspect", "unnamed", "local", "nothing"]
"""response: somebody out there spoke · silence: a lost network may be why · unheard: so it may, and it is how visits end that
were out when it was lost · suspect: typical of one · unnamed: so is this, and no name server spoke either · local: this machine
says so itself · nothing: no network was involved."""

_SIGNS: Final[dict[str, Sign]] = {
    "connect_timeout": "suspect",
    "unreachable": "suspect",
    "dns_timeout": "unnamed",
    "servfail": "unnamed",
    "resolver_unreachable": "local",
    "first_byte_timeout": "unheard",
    "read_timeout": "unheard",
    "total_timeout": "silence",
}
_UNTRIED: Final = frozenset({"robots_denied", "blocked", "invalid_url", "skipped"})
_NO_WAY_OUT: Final = frozenset({"ENETUNREACH", "ENETDOWN", "ENONET", "EADDRNOTAVAIL"})
"""The last of a connection to IPv6 where this machine has no such address any more."""
_PROXY_REFUSES: Final = frozenset({"status 407", "no tunnel"})

T = TypeVar("T")


def network_sign(reason: str | None, detail: str = "") -> Sign:
    """What a visit's reason (of errors.REASONS; None: an HTTP response) says of the network; ``detail`` as FetchError has it."""
    if reason is None:
        return "response"
    if reason == "unreachable" and detail in _NO_WAY_OUT:
        return "local"
    if reason == "proxy":
        return _proxy_sign(detail)
    return _SIGNS.get(reason) or ("nothing" if OUTCOME_OF.get(reason) in _UNTRIED else "response")


def _proxy_sign(detail: str) -> Sign:
    """Of a proxy that was no help. Three cases: it will not have us, or says nothing, as one may that cannot reach the host; it
    tells of the host; it takes no connection, or its name has no address."""
    if detail in _PROXY_REFUSES:
        return "suspect"
    return "response" if detail.startswith("status ") else "local"


class Outage(Generic[T]):
    """``T`` is whatever the caller needs to settle a visit. Every method that returns items returns (item, as_judged): False
    means the visit is given back, not an attempt."""

    def __init__(self, *, hosts_max: int = 50, remembered_max: int = REMEMBERED_MAX) -> None:
        self._hosts_max = hosts_max
        self._remembered_max = remembered_max
        self._held: deque[tuple[float, T]] = deque()
        self._streak: OrderedDict[str, tuple[bool, Sign]] = OrderedDict()
        """Hosts that failed since the last response: whether they had responded before, and how they failed."""
        self._failed: set[int] = set()
        """All of them, by hash, and those that fail while we are offline."""
        self._dead: set[int] = set()
        """Proved to be so by an outage that was none: by themselves they are no reason to suspect another."""
        self._responded: set[int] = set()
        self._responded_before: set[int] = set()
        self._witnesses: deque[str] = deque(maxlen=WITNESSES_MAX)
        self._last_witness: str | None = None
        self._heard_at = math.inf
        """When somebody responded last. Infinite, so that no time is long after it, if nobody ever has."""
        self._is_silent = False
        """Whether silence is held, or has had us think that we are offline."""
        self._vain_until = -math.inf
        """Until then it is the hosts' own, as it proved to be."""
        self._blind = False
        """A long row of dead hosts proved to be just that: until the next response only hosts that had responded count."""
        self._doubtful = False
        self._since: float | None = None
        self._probe_at = self._probe_wait_s = 0.0
        self._probes = 0

    def __repr__(self) -> str:
        state = "offline" if self.offline else "blind" if self._blind else "online"
        return f"<Outage {state}, {len(self._streak)} hosts failing, {len(self._held)} held>"

    @property
    def held(self) -> int:
        """How many are held."""
        return len(self._held)

    @property
    def offline(self) -> bool:
        return self._since is not None

    @property
    def since(self) -> float:
        """When the present outage began; 0.0 if there is none."""
        return self._since or 0.0

    @property
    def is_blind(self) -> bool:
        """A long row of dead hosts is taken for just that, until the next response: see ``reached``, and PROBES_IN_DOUBT."""
        return self._blind

    @property
    def is_calm(self) -> bool:
        """Nothing is held or suspected: a response changes no more than who responded last."""
        return not self._held and not self._streak and self._since is None and not self._blind

    def responded(self, host: str, now: float) -> None:
        """A host has responded while all was calm."""
        self._last_witness, self._heard_at = host, now
        if hash(host) not in self._responded:
            self._remember(host)

    def note(self, item: T, host: str, sign: Sign, now: float) -> list[tuple[T, bool]]:
        """A visit has ended with this sign; what may be settled now. ``item`` may be among it, or be held."""
        if sign == "nothing":
            return [(item, True)]
        if sign == "response":
            return self._on_response(item, host, now)
        is_quiet = now >= max(self._heard_at + QUIET_S, self._vain_until)
        if sign == "unheard" and not (is_quiet and self._has_responded(host)):
            sign = "silence"
        is_new = sign == "local" or (sign != "silence" and hash(host) not in self._dead)
        if is_new and sign != "local" and len(self._failed) < self._remembered_max:
            self._failed.add(hash(host))
        if self.offline:
            return self._still_offline(item)
        if is_new:
            self._streak.pop(host, None)
            self._streak[host] = (self._has_responded(host), sign)
            if len(self._streak) > self._hosts_max:
                self._streak.popitem(last=False)
        elif not self._streak and not (is_quiet and sign == "silence"):
            return [(item, True)]
        self._is_silent |= is_quiet and sign in ("silence", "unheard")
        self._held.append((now, item))
        if self._out():
            self._begin(now)
            return self._release(as_judged=False)
        return self._release(before=now - HOLD_S, leave=HELD_MAX)

    def tick(self, now: float, *, idle: bool) -> list[tuple[T, bool]]:
        """What has been held long enough; everything if ``idle``: no other visit is out that could tell more."""
        released = self._release(leave=0) if idle else self._release(before=now - HOLD_S, leave=HELD_MAX)
        if released:
            self._see_vain(now)
        return released

    def flush(self) -> list[tuple[T, bool]]:
        """Everything held, to be given back: the crawl ends, and nobody knows."""
        return self._release(as_judged=False)

    def probe(self, now: float) -> bool:
        """Whether one visit may be tried now although we are offline; counts as tried. Always False online."""
        if self._since is None or now < self._probe_at:
            return False
        self._probes += 1
        self._probe_wait_s = min(self._probe_wait_s * 2, PROBE_LAST_S)
        self._probe_at = now + self._probe_wait_s
        return True

    @property
    def witnesses(self) -> tuple[str, ...]:
        """Host keys that responded last. While offline, one whose port takes a connection settles it: see ``reached``."""
        last = (self._last_witness,) if self._last_witness is not None else ()
        return tuple(dict.fromkeys((*last, *reversed(self._witnesses))))

    def reached(self, *, names_speak: bool = True, at_once: bool = True) -> None:
        """A witness can be reached, so the hosts that failed are really gone; they no longer count as having responded. Unless
        ``names_speak``, they may be there: the name servers are not. Unless ``at_once``, the network may have come back while it
        was tried."""
        if not self.offline:
            return
        for host in self._streak:
            self._responded.discard(hash(host))
            self._responded_before.discard(hash(host))
        was_lost = self._probes != 1 or not at_once
        if not was_lost:
            self._see_vain(self.since)
        if not was_lost and names_speak:
            if len(self._dead) + len(self._failed) > self._remembered_max:
                self._dead.clear()
            self._dead |= self._failed
            self._responded -= self._failed
            self._responded_before -= self._failed
        self._end(is_blind=True)

    def _on_response(self, item: T, host: str, now: float) -> list[tuple[T, bool]]:
        if not (self.offline and self._probes):  # else it was lost
            self._see_vain(now)
        self._heard_at = now
        self._remember(host)
        self._end(is_blind=False)
        return [*self._release(leave=0), (item, True)]

    def _see_vain(self, now: float) -> None:
        """The network was never lost."""
        if self._is_silent:
            self._is_silent, self._vain_until = False, now + VAIN_S

    def _end(self, *, is_blind: bool) -> None:
        self._is_silent = False
        self._streak.clear()
        self._failed.clear()
        self._since, self._blind = None, is_blind

    def _remember(self, host: str) -> None:
        self._dead.discard(hash(host))
        if hash(host) not in self._responded:
            if len(self._responded) >= self._remembered_max:
                self._responded_before, self._responded = self._responded, set()
            self._responded.add(hash(host))
        if host not in self._witnesses:
            self._witnesses.append(host)

    def _has_responded(self, host: str) -> bool:
        return hash(host) in self._responded or hash(host) in self._responded_before

    def _out(self) -> bool:
        """Whether this row of failures shows that it is us."""
        alive = sum(responded for responded, _ in self._streak.values())
        local = sum(responded and sign == "local" for responded, sign in self._streak.values())
        known = len(self._responded) + len(self._responded_before)
        if alive >= HOSTS_ALIVE_MIN or 0 < min(known, HOSTS_LOCAL_MIN) <= local:
            self._doubtful = False
            return True
        named = sum(sign == "suspect" for _, sign in self._streak.values())
        self._doubtful = not self._witnesses and named * 2 > len(self._streak)
        return len(self._streak) >= self._hosts_max and not self._blind

    def _begin(self, now: float) -> None:
        self._since = now
        self._probes = 0
        self._probe_at = now + PROBE_FIRST_S
        self._probe_wait_s = PROBE_FIRST_S

    def _still_offline(self, item: T) -> list[tuple[T, bool]]:
        if self._doubtful and self._probes >= PROBES_IN_DOUBT:
            self.reached()
            return [(item, True)]
        return [(item, False)]

    def _release(self, *, as_judged: bool = True, before: float = float("inf"), leave: int = 0) -> list[tuple[T, bool]]:
        """Those held since before a time, or beyond a number, oldest first."""
        free = []
        while self._held and (self._held[0][0] <= before or len(self._held) > leave):
            free.append((self._held.popleft()[1], as_judged))
        return free


__all__ = ["Outage", "Sign", "network_sign"]
