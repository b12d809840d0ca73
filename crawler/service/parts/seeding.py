"""Seeds on their way from the parent, which was sent them, to the part that admits them for all. Pure."""

from __future__ import annotations

from typing import Final

import msgspec

from crawler.core.batch import Admitted
from crawler.core.link_block import decode_link, encode_link
from crawler.core.model import Input, LineFault


class _Words(msgspec.Struct, array_like=True):
    links: list[bytes]
    """As ``encode_link`` makes them."""
    faults: list[LineFault]
    position: tuple[str, bytes] | None
    extras: list[tuple[Input, str]]


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(_Words).decode


def encode_admitted(admitted: Admitted) -> bytes:
    """Of links that came unpacked."""
    links = [encode_link(link) for link in admitted.links]
    return _encode(_Words(links, list(admitted.faults), admitted.position, list(admitted.extras.items())))


def decode_admitted(data: bytes) -> Admitted:
    words = _decode(data)
    links = tuple(decode_link(value)[1] for value in words.links)
    return Admitted(links, tuple(words.faults), words.position, extras=dict(words.extras))
