"""Keys of hosts and URLs: fingerprints by a crawl's secret, so that nobody can aim collisions at them. Pure.

A host's key begins with its slot. Slots divide a crawl among processes: one slot is one range of keys in every family of a
store, and has one owner, who decides everything about its hosts alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from msgspec import Struct
from xxhash import xxh3_64_digest

from crawler.core.remembered import remembered

HOST_BYTES: Final = 8
URL_BYTES: Final = 8
KEY_BYTES: Final = HOST_BYTES + URL_BYTES
SLOTS: Final = 256
"""For ever: a slot is the first byte of a key."""
_HOSTS_MAX: Final = 4096

GroupOf = Callable[[str], str | None]
"""The group of hosts that must have one owner, by host key; None: the host is its own."""


class Keys:
    """``host`` makes the key of a host, ``url`` the second half of the key of an encoded URL, ``of`` that key: its host's,
    then its own. ``secret`` is the seed of ``url``, for loops that would rather call the hash itself.

    The key of a host is its fingerprint. With ``group_of`` its first byte, the slot, is that of its group's fingerprint."""

    def __init__(self, secret: int, group_of: GroupOf | None = None) -> None:
        self.secret, self._group_of = secret, group_of
        self.host: Callable[[str], bytes] = remembered(self._host, _HOSTS_MAX)

    def url(self, url: bytes) -> bytes:
        return xxh3_64_digest(url, self.secret)

    def of(self, host: str, url: str) -> bytes:
        return self.host(host) + xxh3_64_digest(url.encode(), self.secret)

    def _host(self, host: str) -> bytes:
        key = self.url(host.encode())
        group = self._group_of(host) if self._group_of is not None else None
        return key if group is None or group == host else self.url(group.encode())[:1] + key[1:]


class Share(Struct):
    """What one part of a crawl must know of its division: which part it is, who owns which slot, and how keys are made. In a
    crawl of many machines ``owners`` changes, between two commits."""

    own: int
    owners: bytes
    """SLOTS bytes: slot → number of the part."""
    secret: int
    """Of the whole crawl."""
    group_of: GroupOf | None = None

    def owner(self, key: bytes) -> int:
        """The part that decides about the host, or URL, with this key."""
        return self.owners[key[0]]

    def keys_by(self) -> Keys:
        return Keys(self.secret, self.group_of)


def divided(parts: int) -> bytes:
    """The slots, shared out among so many parts: as ``Share.owners``. Each owns one range."""
    return bytes(slot * parts // SLOTS for slot in range(SLOTS))
