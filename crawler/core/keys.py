"""Keys of hosts and URLs: fingerprints by a crawl's secret, so that nobody can aim collisions at them. Pure."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Final

from xxhash import xxh3_64_digest

HOST_BYTES: Final = 8
URL_BYTES: Final = 8
KEY_BYTES: Final = HOST_BYTES + URL_BYTES
_HOSTS_MAX: Final = 4096


class Keys:
    """``host`` makes the key of a host, ``url`` the second half of the key of an encoded URL, ``of`` that key: its host's,
    then its own."""

    def __init__(self, secret: int) -> None:
        self.url: Callable[[bytes], bytes] = partial(xxh3_64_digest, seed=secret)
        self.host: Callable[[str], bytes] = lru_cache(_HOSTS_MAX)(self._host)

    def of(self, host: str, url: str) -> bytes:
        return self.host(host) + self.url(url.encode())

    def _host(self, host: str) -> bytes:
        return self.url(host.encode())
