"""What is known of a host, kept in a cache that no overlong name enters. Pure.

Invariant: however long the names are that URLs have, a cache of N hosts holds no more than N names that a host can have.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")

HOST_CHARS_MAX: Final = 253 + len(":65535")
"""Of the key of a host that can be visited (RFC 1035 2.3.4). URLs may name longer ones, each of 2,000 characters."""


def remembered(of_host: Callable[[str], T], hosts_max: int) -> Callable[[str], T]:
    """A function of a host key, with a cache. A hit costs no call of Python's."""
    return _Remembered(of_host, hosts_max).__getitem__


class _Remembered(dict[str, T]):
    def __init__(self, of_host: Callable[[str], T], hosts_max: int) -> None:
        self._of_host, self._hosts_max = of_host, hosts_max

    def __missing__(self, host: str) -> T:
        found = self._of_host(host)
        if len(host) <= HOST_CHARS_MAX:
            if len(self) >= self._hosts_max:
                self.clear()
            self[host] = found
        return found
