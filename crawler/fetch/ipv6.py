"""What this machine's IPv6 is good for. Looked at now and then, for networks come and go; nothing is ever sent."""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

LOOK_EVERY_S: Final = 60.0
_OWN_SCOPES: Final = frozenset({"10", "20"})
"""Of /proc/net/if_inet6: this host, this link."""


class Ipv6:
    """Three cases: 1. The machine has an address beyond its own link: names are asked for both kinds (RFC 3493 6.1,
    AI_ADDRCONFIG). 2. It has only ``::1`` or link-local ones, as most machines: names are asked for IPv4 addresses, and for
    the others where there are none, since the name may be one of this machine's own. 3. It has none."""

    def __init__(self) -> None:
        self._scopes: frozenset[str] = frozenset()
        self._looked_at = -math.inf
        self._has_led = False

    def may_lead_anywhere(self) -> bool:
        """The first case."""
        return not self._look() <= _OWN_SCOPES

    def is_there(self) -> bool:
        """The first case or the second."""
        return bool(self._look())

    def reachable(self, addresses: Sequence[str]) -> Sequence[str]:
        """Those that a route leads to, and all IPv4 ones. Where IPv6 once led somewhere and does so no more, all: then it is
        our network that is down, and connecting will say so."""
        reachable = [ip for ip in addresses if ":" not in ip or _leads_to(ip)]
        self._has_led |= any(":" in ip for ip in reachable)
        return reachable or (addresses if self._has_led else ())

    def _look(self) -> frozenset[str]:
        now = time.monotonic()
        if now - self._looked_at >= LOOK_EVERY_S:
            self._looked_at = now
            self._scopes = _own_scopes()
        return self._scopes


def _own_scopes() -> frozenset[str]:
    """The scopes of this machine's IPv6 addresses, as /proc/net/if_inet6 has them (proc_net(5)); empty where there is none."""
    try:
        lines = Path("/proc/net/if_inet6").read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return frozenset()
    return frozenset(fields[3] for line in lines if len(fields := line.split()) > 3)


def _leads_to(ip: str) -> bool:
    """Whether there is a route to an IPv6 address."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.connect((ip, 53))
    except OSError:
        return False
    return True
