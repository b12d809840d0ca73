"""Keys of hosts and URLs: fingerprints by a crawl's secret, so that nobody can aim collisions at them. Pure."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final

from xxhash import xxh3_64_digest

HOST_BYTES: Final = 8
URL_BYTES: Final = 8
KEY_BYTES: Final = HOST_BYTES + URL_BYTES
_HOSTS_MAX: Final = 4096


class Keys:
    """``host`` makes the key of a host, ``url`` the second half of the key of an encoded URL, ``of`` that key: its host's,
    then its own. ``secret`` is the seed of ``url``, for loops that would rather call the hash itself."""

    def __init__(self, secret: int) -> None:
        self.secret = secret
        self.host: Callable[[str], bytes] = lru_cache(_HOSTS_MAX)(self._host)

    def url(self, url: bytes) -> bytes:
        return xxh3_64_digest(url, self.secret)

    def of(self, host: str, url: str) -> bytes:
        return self.host(host) + xxh3_64_digest(url.encode(), self.secret)

    def _host(self, host: str) -> bytes:
        return xxh3_64_digest(host.encode(), self.secret)
