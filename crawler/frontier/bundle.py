"""Links of one host that one page brought, as a store keeps them: one entry for all, from which each leaves by itself. Pure.

A link's place in its bundle never changes; where one has left there is an empty URL.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Final

from msgspec import Struct
from msgspec.msgpack import Decoder, Encoder

from crawler.core.errors import StorageError
from crawler.core.link_block import link_value, packed_text

BUNDLE: Final = 0x80
"""First byte of an encoded bundle; a single link begins with its flags, which are less."""
PLACE_BYTES: Final = 2
LINKS_MAX: Final = 256
"""Of one bundle: it is written anew when some of its links have left."""
URLS_BYTES_MAX: Final = 8 << 10
"""Of one bundle, as long as it has more than one link: while one of them is out all of it is in memory."""


class Bundle(Struct, array_like=True, gc=False):
    """``urls`` one behind the other; ``lengths`` of each, 0 for one that has left; ``tail`` as in ``LinkBlock``."""

    host: str
    tail: bytes
    urls: bytes
    lengths: list[int]

    def places(self) -> list[int]:
        """Of the links that are there."""
        return [place for place, length in enumerate(self.lengths) if length]

    def values(self, places: Collection[int]) -> dict[int, bytes]:
        """The links at these places, as ``encode_link`` makes them."""
        bounds = list(pairwise(accumulate(self.lengths, initial=0)))
        host = packed_text(self.host.encode())
        return {at: link_value(self.urls[bounds[at][0] : bounds[at][1]], host, self.tail) for at in places}

    def without(self, places: Collection[int]) -> Bundle | None:
        """What is left when these have gone; None if that is nothing."""
        bounds = pairwise(accumulate(self.lengths, initial=0))
        kept = [b"" if at in places else self.urls[start:end] for at, (start, end) in enumerate(bounds)]
        return Bundle(self.host, self.tail, b"".join(kept), list(map(len, kept))) if any(kept) else None


def portions(urls: Sequence[bytes]) -> Iterator[slice]:
    """Which of these links each bundle has: in order, in as few as may be."""
    if len(urls) <= LINKS_MAX and sum(map(len, urls)) <= URLS_BYTES_MAX:  # nearly always
        yield slice(0, len(urls))
        return
    start = size = 0
    for at, url in enumerate(urls):
        if at - start == LINKS_MAX or (at > start and size + len(url) > URLS_BYTES_MAX):
            yield slice(start, at)
            start, size = at, 0
        size += len(url)
    yield slice(start, len(urls))


def bundle_of(host: str, tail: bytes, urls: Sequence[bytes]) -> Bundle:
    return Bundle(host, tail, b"".join(urls), list(map(len, urls)))


_encode = Encoder().encode
_bundles = Decoder(Bundle)


def encode_bundle(bundle: Bundle) -> bytes:
    return bytes((BUNDLE,)) + _encode(bundle)


def decode_bundle(value: bytes) -> Bundle:
    try:
        return _bundles.decode(memoryview(value)[1:])
    except ValueError as error:
        raise StorageError(f"frontier store: a bundle of links is damaged: {error}", final=True) from error


def place_key(key: bytes, place: int) -> bytes:
    """The key of a lease: that of its bundle, and its place there."""
    return key + place.to_bytes(PLACE_BYTES, "big")


def values_of(value: bytes) -> list[bytes]:
    """The links of an entry, whether it is one or a bundle, as ``encode_link`` makes them."""
    if not value[0] & BUNDLE:
        return [value]
    bundle = decode_bundle(value)
    return list(bundle.values(bundle.places()).values())
