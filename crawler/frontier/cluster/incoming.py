"""Messages of other members: read from the database, admitted, and deleted with the commit that makes them true.

Invariant: a message is admitted once, by the member whose it is when that is committed.
"""

from __future__ import annotations

from typing import Final

from crawler.frontier.cluster.accused import Accused
from crawler.frontier.cluster.box import Message, Outbox, message_of
from crawler.frontier.cluster.engine import Engine
from crawler.frontier.cluster.gauges import Gauges
from crawler.frontier.cluster.mirror import Mirror

MESSAGES_MAX: Final = 4
"""Read at a time; each is about 1 MiB at most."""


class Incoming:
    """``mirror.pending`` are the messages that were read and are not committed yet."""

    def __init__(self, mirror: Mirror, engine: Engine, accused: Accused, gauges: Gauges, outbox: Outbox) -> None:
        self._mirror, self._engine, self._accused, self._gauges = mirror, engine, accused, gauges
        self._outbox = outbox
        self._messages: dict[int, Message] = {}

    async def receive(self) -> bool:
        """Put the next few into the open batch; whether there were any."""
        read = await self._engine.ask(self._mirror.truth.receive, sorted(self._mirror.pending), MESSAGES_MAX)
        for id, data in read or ():
            message = message_of(id, data)
            if message.accused or message.forgets:  # it brings nothing else
                if not await self._engine.between_commits(self._told, message):
                    break
                continue
            committed = await self._engine.pump.frontier.receive(message.admitted, message.robots, message.denials)
            self._mirror.pending.add(id)  # it stands in the open batch, and nothing has happened since it does
            self._messages[id] = message
            committed.add_done_callback(lambda done, message=message: self._committed(message))  # type: ignore[misc]
        return bool(read)

    def _told(self, message: Message) -> bool:
        """(Engine.)"""
        if message.forgets:
            self._outbox.forget()
            self._mirror.take_in(message.id)
            self._mirror.write(self._mirror.batch(), sync=True)
            return True
        return self._accused.told(message.id, message.accused)

    def undone(self) -> None:
        """What was not committed stands in the open batch again, but for messages that are another member's by now."""
        for id in sorted(self._mirror.gone_messages):
            self._mirror.pending.discard(id)
            if (message := self._messages.pop(id, None)) is not None:
                self._engine.pump.holdings.forget_admitted(message.admitted)
        self._mirror.gone_messages = frozenset()

    def _committed(self, message: Message) -> None:
        if self._messages.pop(message.id, None) is not None:
            self._gauges.links_received += message.links
