"""What a part of a crawl tells its parent."""

import asyncio
import logging
import socket

import msgspec

from crawler.service.parts.channel import Channel
from crawler.service.parts.part import LOG_BYTES_MAX, _close, _ToParent


async def test_lines_that_the_parent_does_not_take_in_time_are_counted_and_told_of():
    """They were gone, and nobody said so: of a log at level debug, while the parent stood still for some seconds."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    loop = asyncio.get_running_loop()
    _, channel = await loop.create_unix_connection(lambda: Channel({}), sock=ours)
    handler = _ToParent(channel, 1)
    record = logging.makeLogRecord({"name": "crawler.x", "levelno": logging.DEBUG, "msg": "x" * 10_000})
    received = bytearray()

    async def emit_more_than_is_taken(dropped: int) -> int:
        sent = 0
        while channel.unsent_bytes < LOG_BYTES_MAX:
            handler.emit(record)
            sent += 1
            await asyncio.sleep(0)
        for _ in range(dropped):
            handler.emit(record)
        return sent

    async def take(lines: int) -> list[list[object]]:
        found: list[list[object]] = []
        async with asyncio.timeout(30):
            while len(found) < lines:
                while len(received) < 4 or len(received) < 4 + (size := int.from_bytes(received[:4], "little")):
                    received.extend(await loop.sock_recv(theirs, 1 << 20))
                found.append(msgspec.msgpack.decode(received[4 : 4 + size])[3])
                del received[: 4 + size]
        return found

    sent = await emit_more_than_is_taken(3)
    await asyncio.sleep(0)
    assert {line[2] for line in await take(sent)} == {"x" * 10_000}
    record.msg = "through"
    handler.emit(record)
    (name, level, text, _, fields), through = await take(2)
    assert (name, level, fields) == ("crawler.service.parts.part", logging.ERROR, {"part": 1})
    assert text == "3 lines were not logged: the parent did not take them fast enough" and through[2] == "through"

    record.msg = "x" * 10_000
    sent = await emit_more_than_is_taken(2)
    ending = loop.create_task(_close(channel, handler))
    *_, last, farewell = await take(sent + 2)
    assert last[2] == "2 lines were not logged: the parent did not take them fast enough" and farewell == []
    ending.cancel()
    channel.close()
    theirs.close()
