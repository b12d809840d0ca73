"""One part of a crawl, as a process of its own: it opens and runs its share, and does what its parent says.

Invariants: it lives no longer than its parent. It ends by itself only when the whole crawl has nothing left to do; how it
ended it says before it ends, and where it does not say so it has died.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import pickle
import socket
import time
import traceback
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import msgspec

from crawler.config.sections import Config
from crawler.core.errors import ConfigError, Exit, StorageError, first_of, lack_of
from crawler.core.log_record import extra_of
from crawler.crawl import Crawl, open_crawl
from crawler.crawl.checkpoints import PartCutter
from crawler.crawl.files import CrawlPart
from crawler.frontier.selection import Selection
from crawler.service.health import Vitals, open_vitals
from crawler.service.loop import run_to_its_end
from crawler.service.parts.channel import Channel, Gone, words_of
from crawler.service.parts.merged import Look, counted
from crawler.service.parts.seeding import decode_admitted
from crawler.service.steered import Direct

LOG_BYTES_MAX: Final = 1 << 20
"""Of lines that the parent has not taken yet: beyond it they are dropped, which is told."""
ASK_AGAIN_S: Final = 0.2

_selections = msgspec.msgpack.Decoder(Selection)
encode: Final = msgspec.msgpack.Encoder().encode


async def crawl_part(part: CrawlPart, sock: socket.socket, *, endless: bool) -> int:
    """Open and run one part until it ends; the exit code. The parent first says with which settings."""
    begun: asyncio.Future[Config] = asyncio.get_running_loop().create_future()
    handlers: dict[str, Callable[..., Any]] = {"begin": lambda config: begun.set_result(pickle.loads(config))}  # noqa: S301 - our own
    _, channel = await asyncio.get_running_loop().create_unix_connection(lambda: Channel(handlers), sock=sock)
    channel.gone.add_done_callback(_end_at_once)
    config = await begun
    package = logging.getLogger("crawler")
    package.setLevel(config.log_level.upper())
    log = _ToParent(channel, part.share.own)
    logging.getLogger().handlers[:] = [log]
    try:
        async with open_crawl(config, endless=endless, part=part) as crawl, open_vitals(crawl) as vitals:
            deputy = Deputy(crawl, vitals, channel, part.share.own)
            handlers |= deputy.handlers()
            await channel.ask("opened", encode(deputy.look()))  # what was said to all meanwhile comes before the answer
            async with deputy.asking_for_visits():
                await crawl.run()
            end = encode(deputy.look(ended=True))
        channel.tell("ended", end, crawl.stopped_by)
        code = Exit.OK
    except* (StorageError, ConfigError) as group:
        error = first_of(group)
        channel.tell("failed", *words_of(error))
        code = Exit.STORAGE if isinstance(error, StorageError) else Exit.USAGE
    except* Exception as group:
        if (lack := lack_of(group)) is not None:
            channel.tell("failed", *words_of(lack))
            code = Exit.STORAGE
        else:
            logging.getLogger(__name__).error("internal error:\n%s", "".join(traceback.format_exception(group)))
            code = Exit.INTERNAL
    await _close(channel, log)
    return int(code)


def _end_at_once(gone: asyncio.Future[None]) -> None:
    """The parent has gone: what is committed is safe."""
    os._exit(Exit.STOPPED)


async def _close(channel: Channel, log: _ToParent) -> None:
    """Returns once the parent has taken all that it was told, and the channel is closed."""
    logging.getLogger().removeHandler(log)
    await asyncio.sleep(0)  # what was logged last is told first
    log.tell_dropped()
    with contextlib.suppress(Gone, RuntimeError):
        await channel.ask("farewell")
    channel.gone.remove_done_callback(_end_at_once)
    channel.abort()
    await channel.gone


class Deputy:
    """What the parent may ask of a part."""

    def __init__(self, crawl: Crawl, vitals: Vitals, channel: Channel, part: int) -> None:
        self._crawl, self._vitals, self._channel = crawl, vitals, channel
        self._direct = Direct(crawl)
        self._cutter = PartCutter(crawl, part)
        self._admitting = asyncio.Lock()
        self._wanted = asyncio.Event()
        self._given_back = 0

    def handlers(self) -> dict[str, Callable[..., Any]]:
        return {
            "look": lambda: encode(self.look()),
            "snapshot": lambda: encode(self._crawl.stats()),
            "drain": self._crawl.drain,
            "give_up_visits": self.give_up_visits,
            "used": self.used,
            "pace": self.pace,
            "memory_report": self._vitals.memory_report,
            "hosts": self._direct.hosts,
            "prospects": self._direct.prospects,
            "leases": self._direct.leases,
            "elsewhere": self._direct.elsewhere,
            "lookup": self.lookup,
            "marks": self.marks,
            "position": self._direct.position,
            "admit": self.admit,
            "pause": self._direct.pause,
            "resume": self._direct.resume,
            "reconfigure": self.reconfigure,
            "revive": lambda which: self._direct.revive(_selections.decode(which)),
            "remove": lambda which: self._direct.remove(_selections.decode(which)),
            "forget_sent": self.forget_sent,
            "may_recrawl": self._direct.may_recrawl,
            "recrawl": lambda before, match, which: self._direct.order_recrawl(before, match, _selections.decode(which)),
            "progress": self.progress,
            "failures": self._direct.failures,
            "hold_exchange": self._cutter.hold_exchange,
            "cut": lambda made: self._cutter.cut(Path(made)),
            "let_go": self._cutter.let_go,
            "copy": self.copy,
            "forget_cut": self._cutter.forget,
        }

    def look(self, *, ended: bool = False) -> Look:
        crawl = self._crawl
        if crawl.pump.intake is not None:
            exchange = crawl.pump.intake.exchange
            crawl.metrics.links_sent = exchange.outbox.links_sent
            crawl.metrics.links_received = sum(exchange.inbox.links_received.values())
        return Look(
            crawl.stats("ended" if ended else None),
            self._vitals.readings(),
            counted(crawl.metrics),
            self._vitals.alive(),
            self._vitals.ready(),
            tuple(sorted(crawl.frontier.pauses)),
            crawl.frontier.counts.hosts,
        )

    def give_up_visits(self) -> int:
        """Keep no more visits than are out; how many were given back since the process began."""
        self._given_back += self._crawl.frontier.give_up_visits()
        return self._given_back

    def used(self) -> tuple[int, int, int, int]:
        """Of the crawl-wide limits: requests and bytes since the process began, and visits that wait for the rate and for the
        bandwidth."""
        fetched = self._crawl.fetcher.stats()
        return fetched.requests, fetched.bytes_wire, *self._crawl.fetcher.held_up

    def pace(self, rate: float, bandwidth: float) -> bool:
        self._crawl.fetcher.pace(rate, bandwidth)
        return True

    def forget_sent(self) -> None:
        """Another part has forgotten URLs: found again here, they are sent again."""
        if self._crawl.pump.intake is not None:
            self._crawl.pump.intake.exchange.outbox.forget()

    async def lookup(self, url: str) -> bytes:
        return encode(await self._direct.lookup(url))

    async def marks(self, folder: str) -> bytes:
        return encode(await self._direct.marks(folder))

    async def admit(self, admitted: bytes) -> None:
        """Returns when it is committed. What was told first is admitted first."""
        async with self._admitting:
            committed = await self._direct.admit(decode_admitted(admitted))
        await committed

    async def copy(self) -> bytes:
        return encode(await self._cutter.copy())

    async def progress(self, kind: str) -> bytes:
        return encode(await self._direct.progress(kind))

    async def reconfigure(self, config: bytes) -> None:
        new = pickle.loads(config)  # noqa: S301 - our own
        logging.getLogger("crawler").setLevel(new.log_level.upper())
        await self._direct.reconfigure(new)

    @contextlib.asynccontextmanager
    async def asking_for_visits(self) -> Any:
        """Under --max-pages: whenever this part could visit more than it may."""
        if not self._crawl.config.max_pages:
            yield
            return
        frontier = self._crawl.frontier
        frontier.visits_wanted = self._wanted.set
        self._crawl.visits_used = self._wanted.set
        asking = asyncio.create_task(self._ask_for_visits(), name="visits")
        try:
            yield
        finally:
            asking.cancel()

    async def _ask_for_visits(self) -> None:
        frontier = self._crawl.frontier
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            spare = max(0, frontier.visits_left - frontier.out_count)
            allowed = await self._channel.ask("visits", frontier.visits_left, spare, self._given_back)
            if allowed:
                frontier.allow(allowed)
            else:
                await asyncio.sleep(ASK_AGAIN_S)
                frontier.deal()


class _ToParent(logging.Handler):
    """Hands each line to the parent, which alone writes the log."""

    def __init__(self, channel: Channel, part: int) -> None:
        super().__init__()
        self._channel, self._part = channel, part
        self._loop = asyncio.get_running_loop()
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip()
        fields = {
            key: value if isinstance(value, int | float | str | None) else str(value) for key, value in extra_of(record).items()
        }
        arguments = (record.name, record.levelno, text, record.created, fields | {"part": self._part})
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._tell, arguments)

    def _tell(self, arguments: tuple[object, ...]) -> None:
        if self._channel.unsent_bytes >= LOG_BYTES_MAX:
            self._dropped += 1
            return
        self.tell_dropped()
        self._channel.tell("log", *arguments)

    def tell_dropped(self) -> None:
        """Of lines that were dropped since it was told last."""
        if self._dropped:
            text = f"{self._dropped} lines were not logged: the parent did not take them fast enough"
            self._channel.tell("log", __name__, logging.ERROR, text, time.time(), {"part": self._part})
            self._dropped = 0


def part_main(new_loop: Callable[[], asyncio.AbstractEventLoop], crawl: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """In a process that was forked for it."""
    gc.freeze()
    return run_to_its_end(new_loop, crawl)
