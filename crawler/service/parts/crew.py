"""All parts of a crawl, as their parent keeps them: begun, begun again, watched, and drained together.

Invariants: a change is told to all parts, also to those begun later. A part that dies is begun again; one that goes on dying ends
the crawl, as does an error that a part cannot recover from. The parent crawls nothing, and opens no store that is written to.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import pickle
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final

from crawler.config.sections import Config
from crawler.core.errors import RemoteError, StorageError, lack_of
from crawler.core.snapshot import CrawlState, Snapshot
from crawler.crawl.metrics import Metrics, Readings
from crawler.crawl.planning import memory_limit_of
from crawler.crawl.status import Left, Rates, left
from crawler.resources import cgroup
from crawler.resources.descriptors import open_and_limit
from crawler.resources.disk import FULL
from crawler.service.health import STUCK_S, History
from crawler.service.parts.channel import Channel, Gone
from crawler.service.parts.merged import all_readings, put_counted, whole
from crawler.service.parts.nursery import Nursery, awaited, no_process
from crawler.service.parts.pacing import Pacing
from crawler.service.parts.visits import AllowedVisits
from crawler.service.parts.watched_part import DEATHS_MAX, DEATHS_WITHIN_S, WatchedPart

AWAY_S: Final = 1.0
"""How often a part is begun again that waits for the database, the disk or this machine."""
SNAPSHOT_EVERY_S: Final = 0.25
LOOK_EVERY_S: Final = 1.0
ANSWER_S: Final = 10.0
"""A part that does not answer for so long is shown as it was."""

logger: Final = logging.getLogger(__name__)


class PartsError(Exception):
    """A part goes on dying: a fault of the program, or of what is around it."""


class Crew:
    """``share(number)`` gives the settings of a part as they are now."""

    def __init__(self, config: Config, parts: int, nursery: Nursery, share: Callable[[int], Config], metrics: Metrics) -> None:
        self.config, self.metrics = config, metrics
        self._nursery, self._share = nursery, share
        self._parts = [WatchedPart(number) for number in range(parts)]
        self._pacing = Pacing(config, parts)
        self._visits = AllowedVisits(config.max_pages, parts) if config.max_pages else None
        self.stopped_by: str | None = None
        """As ``Crawl.stopped_by``."""
        self._is_paused = False
        self._error: Exception | None = None
        self._memory_limit = memory_limit_of(config)
        self._own_bytes = 0
        """Memory of the parent, and of the process that parts are forked from."""
        self._drain = asyncio.Event()
        self.lately: Final = Rates()
        self.history = History()
        self.last_reload_successful: Callable[[], bool] = lambda: True
        self.begun: Snapshot | None = None
        """What earlier runs had left in the directory, once all parts are open."""
        self.opened: Final = asyncio.Event()

    # -- the whole ------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until every part has ended. Raises what ended one of them early: StorageError, ConfigError, PartsError."""
        self._nursery.ended = self._ended
        self._nursery.not_begun = self._not_begun
        self._nursery.lost = self._lose_nursery
        with self._nursery.heard():
            async with asyncio.TaskGroup() as tasks:
                keepers = [tasks.create_task(self._keep(part), name=f"part {part.number}") for part in self._parts]
                helpers = [tasks.create_task(self._watch(), name="watch")]
                helpers.append(tasks.create_task(self._pacing.keep(self.ask), name="pacing"))
                if self.config.max_time:
                    helpers.append(tasks.create_task(self._stop_in(self.config.max_time), name="max_time"))
                await asyncio.wait(keepers)
                for helper in helpers:
                    helper.cancel()
        if self._error is not None:
            raise self._error

    def drain(self, why: str) -> None:
        """All parts finish what is in flight within the grace, commit, end."""
        if self.stopped_by is None:
            self.stopped_by = why
        self._drain.set()
        self.tell_all("drain", why)

    async def drains(self) -> None:
        """Returns when a drain has begun."""
        await self._drain.wait()

    def may_open_anew(self, error: Exception, *, or_full: bool = False) -> bool:
        """Whether it was ended by a database that went away, or by a full disk, before all parts were open. Not where the first
        may have begun to read standard input: the rest of it would be taken for all."""
        is_full = or_full and isinstance(error, StorageError) and error.errno in FULL
        is_away = (is_full or isinstance(error, RemoteError)) and not self.opened.is_set()
        return is_away and not ("-" in self.config.input and self._parts[0].was_open)

    def kill(self) -> None:
        """End all parts at once: what is committed is safe."""
        self._nursery.kill()

    def stats(self, state: CrawlState | None = None) -> Snapshot:
        """The crawl as its parts were seen last."""
        return whole([part.snapshot() for part in self._parts], state)

    def readings(self) -> Readings:
        of_parts = sum(part.look.readings.memory_rss for part in self._parts)
        parts = [part.readings() for part in self._parts]
        own_open, limit = open_and_limit()
        return all_readings(
            parts,
            state=self.stats().state,
            memory_limit=self._memory_limit,
            memory_rss=of_parts + self._own_bytes,
            last_reload_successful=self.last_reload_successful(),
            processes=sum(part.is_open for part in self._parts),
            process_restarts=sum(part.restarts for part in self._parts),
            descriptors_open=max(own_open, *(part.descriptors_open for part in parts)),
            descriptors_limit=limit,
            cpu_seconds=time.process_time() + sum(part.cpu_seconds for part in parts),
        )

    async def pause(self) -> None:
        """Nothing is dealt until ``resume``."""
        self._is_paused = True
        await self.ask_each("pause")

    async def resume(self) -> None:
        self._is_paused = False
        await self.ask_each("resume")

    async def reconfigure(self, config: Config) -> None:
        """From now on these settings hold; once all parts that live have taken them."""
        self.config = config
        self._pacing.change(config)
        answers = []
        for part in self._parts:
            if (channel := part.open_channel) is not None:  # else it is told when it is open
                part.config = self._settings(part.number)
                answers.append(channel.ask("reconfigure", pickle.dumps(part.config)))
        await asyncio.gather(*answers, return_exceptions=True)

    def pauses(self) -> set[str]:
        return {pause for part in self._parts for pause in part.look.pauses}

    def hosts_known(self) -> int:
        return sum(part.look.hosts for part in self._parts)

    @property
    def is_draining(self) -> bool:
        return self._drain.is_set()

    async def ask(self, number: int, name: str, *arguments: object) -> Any:
        """What one part answers. Raises as ``Channel.ask``; ``Gone``: it is just being begun."""
        if (channel := self._parts[number].open_channel) is None:
            raise Gone
        return await channel.ask(name, *arguments)

    def is_over(self, number: int) -> bool:
        """Whether the process of a part has ended, and none is begun again."""
        part = self._parts[number]
        return part.has_ended or (self.is_draining and part.channel is None)

    def life(self, number: int) -> int:
        """How many processes of a part have died: another value, another process."""
        return self._parts[number].restarts

    def rates(self) -> tuple[float, float]:
        """URLs settled and body bytes received per second, of late."""
        return self.lately.pages, self.lately.bytes

    def left(self) -> Left | None:
        """As ``Vitals.left``."""
        return left(self.stats(), self.lately)

    def alive(self) -> str | None:
        """As ``Vitals.alive``: what keeps a part from making progress."""
        return next((f"part {part.number}: {stuck}" for part in self._parts if (stuck := part.stuck())), None)

    def ready(self) -> str | None:
        """As ``Vitals.ready``: why a part takes no new work."""
        return next((f"part {part.number}: {part.look.unready}" for part in self._parts if part.look.unready), None)

    async def memory_report(self, trace_s: float = 0.0) -> str:
        """Where the memory of each part is, for people."""
        reports = await self._answers("memory_report", trace_s)
        return "\n".join(f"part {number}\n{report}" for number, report in reports.items())

    async def look(self) -> None:
        """See all parts anew."""
        async with asyncio.TaskGroup() as tasks:
            for part in self._parts:
                tasks.create_task(self._look(part))
        await self._sum_up()

    async def _sum_up(self) -> None:
        """What is known of the whole, from what was seen of its parts."""
        now = self.stats()
        self.lately.add(now)
        if self.opened.is_set():  # what parts bring along when they are opened was not settled just now
            self.history.add(now)
        put_counted(self.metrics, [one for part in self._parts for one in (part.before, part.look.counted)])
        try:
            self._own_bytes = await asyncio.to_thread(lambda: cgroup.pss("self") + cgroup.pss(self._nursery.pid))
        except RuntimeError as error:
            if lack_of(error) is None:  # no thread is left: as it was read last
                raise

    async def ask_each(self, name: str, *arguments: object) -> list[Any]:
        """What each part answers that is open, in their order."""
        return list((await self._answers(name, *arguments)).values())

    async def _answers(self, name: str, *arguments: object) -> dict[int, Any]:
        """What each part answers that is open, by its number."""
        channels = {part.number: channel for part in self._parts if (channel := part.open_channel) is not None}
        asked = (channel.ask(name, *arguments) for channel in channels.values())
        answers = zip(channels, await asyncio.gather(*asked, return_exceptions=True), strict=True)
        return {number: answer for number, answer in answers if not isinstance(answer, BaseException)}

    def tell_all(self, name: str, *arguments: object) -> None:
        """Without waiting; to those that are open."""
        for part in self._parts:
            if (channel := part.open_channel) is not None:
                channel.tell(name, *arguments)

    # -- one part -------------------------------------------------------------------------------------------------

    async def _keep(self, part: WatchedPart) -> None:
        """Begin it, and begin it again, until it has ended by itself or cannot go on."""
        while True:
            code = await self._live(part)
            if part.has_ended:
                return
            if part.error is not None:
                if await self._waits_outside(part, part.error):
                    part.error = None
                    continue
                self._fail(part.error)
                return
            if self._visits is not None:
                self._visits.lose(part.number)
            if self._drain.is_set() or self._error is not None:
                self._died_at_the_end(part, code)
                return
            if (fault := self._why_not_again(part, code)) is not None:
                self._fail(fault)
                return

    async def _waits_outside(self, part: WatchedPart, error: Exception) -> bool:
        """Whether a part that could not open is to be begun again, since what it lacks may come back: the database, room on the
        disk, or what it takes to begin a process. For ever while another part is open, else for ``disk_wait``."""
        what = awaited(error)
        if what is None or part.was_open or not self.opened.is_set():
            return False
        if part.away_since is None:
            part.away_since = time.monotonic()
            logger.warning("part %d is begun again when %s: %s", part.number, what, error)
        if time.monotonic() - part.away_since > self.config.disk_wait and not any(other.is_open for other in self._parts):
            return False
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._drain.wait(), AWAY_S)
        return not self._drain.is_set()

    async def _live(self, part: WatchedPart) -> int:
        """One process of it, from its beginning to its end; the exit code."""
        part.exit = asyncio.get_running_loop().create_future()
        part.is_open = part.was_open = False
        sock = self._nursery.begin(part.number)
        _, channel = await asyncio.get_running_loop().create_unix_connection(lambda: Channel(self._handlers(part)), sock=sock)
        part.channel = channel
        try:
            part.config = self._settings(part.number)
            channel.tell("begin", pickle.dumps(part.config))
            return await part.exit
        finally:
            part.channel, part.is_open = None, False
            channel.close()

    def _settings(self, number: int) -> Config:
        """Of a part, as they are now."""
        return self._pacing.settings(self._share(number), number)

    def _handlers(self, part: WatchedPart) -> dict[str, Callable[..., Any]]:
        def opened(look: bytes) -> None:
            assert part.channel is not None
            part.opened(look)
            for name, arguments in self._missed(part):
                part.channel.tell(name, *arguments)
            if not self.opened.is_set() and all(each.is_open or each.has_ended for each in self._parts):
                self.begun = whole([each.begun for each in self._parts if each.begun is not None])
                self.opened.set()

        return {
            "opened": opened,
            "ended": lambda look, stopped_by: part.ended(look),
            "failed": part.failed,
            "log": _log,
            "farewell": lambda: None,
            "visits": lambda *held: self._allow(part.number, *held),
        }

    def _missed(self, part: WatchedPart) -> Iterator[tuple[str, tuple[object, ...]]]:
        """What has been said to all while this part was not there."""
        if part.config != (config := self._settings(part.number)):
            part.config = config
            yield "reconfigure", (pickle.dumps(config),)
        if self._is_paused:
            yield "pause", ()
        if self._drain.is_set():
            yield "drain", (self.stopped_by or "another part",)

    def _why_not_again(self, part: WatchedPart, code: int) -> Exception | None:
        """Why a part that has died cannot be begun again; None if it can."""
        part.died()
        part.deaths.append(time.monotonic())
        how = _how(code)
        if part.number == 0 and "-" in self.config.input:
            return PartsError(f"part 0 {how}, and what it has read of standard input cannot be read again: repeat the command")
        if len(part.deaths) == DEATHS_MAX and part.deaths[-1] - part.deaths[0] < DEATHS_WITHIN_S:
            return PartsError(f"part {part.number} {how}, for the {DEATHS_MAX}th time in {DEATHS_WITHIN_S / 60:.0f} minutes")
        part.restarts += 1
        logger.error("part %d %s: it is begun again", part.number, how)
        return None

    def _died_at_the_end(self, part: WatchedPart, code: int) -> None:
        """While all drain, a part is not begun again; nor is its fault swallowed."""
        part.died()
        if self._error is None:
            logger.error("part %d %s while it drained: the next start goes on with what it was at", part.number, _how(code))
            if code > 0:
                self._fail(PartsError(f"part {part.number} {_how(code)}"))

    def _fail(self, error: Exception) -> None:
        """The others drain; the crawl ends with the first error."""
        if self._error is None:
            self._error = error
        self.tell_all("drain", "another part")
        self._drain.set()

    def _ended(self, number: int, code: int) -> None:
        if not self._parts[number].exit.done():
            self._parts[number].exit.set_result(code)

    def _not_begun(self, number: int, why: int) -> None:
        if not self._parts[number].was_open:
            self._parts[number].error = no_process(why)
        self._ended(number, 1)

    def _lose_nursery(self) -> None:
        self._fail(PartsError("the process that begins the parts of this crawl has ended"))
        self.kill()
        for part in self._parts:
            if not part.exit.done():
                part.exit.set_result(1)

    # -- what is watched for all ----------------------------------------------------------------------------------

    async def _watch(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for part in self._parts:
                tasks.create_task(self._follow(part), name=f"follow {part.number}")
            while True:
                await self._sum_up()
                await asyncio.sleep(LOOK_EVERY_S)

    async def _follow(self, part: WatchedPart) -> None:
        """Look at one part again and again, so that another that stands still holds up nothing; drain where a limit of the whole
        is reached."""
        looked_at = 0.0
        while True:
            is_due = (now := time.monotonic()) - looked_at >= LOOK_EVERY_S
            looked_at = now if is_due else looked_at
            await (self._look(part) if is_due else self._see(part))
            if self.config.max_bytes and self.stats().bytes >= self.config.max_bytes:
                self.drain("max_bytes")
            if self._drain.is_set():
                self._end_silent(part)
            await asyncio.sleep(SNAPSHOT_EVERY_S)

    def _end_silent(self, part: WatchedPart) -> None:
        """While all drain, one that counts as stuck, and says nothing for longer than the grace, is waited for no more."""
        if (silent_s := part.silent_s) > max(self.config.grace, STUCK_S):
            logger.error("part %d has not answered for %.0f s: it is ended", part.number, silent_s)
            self._nursery.kill(part.number)
            part.is_open = False

    async def _look(self, part: WatchedPart) -> None:
        async with self._asked(part) as channel:
            if channel is not None and (seen := await channel.ask("look")) and part.open_channel is channel:
                part.looked(seen)

    async def _see(self, part: WatchedPart) -> None:
        async with self._asked(part) as channel:
            if channel is not None and (seen := await channel.ask("snapshot")) and part.open_channel is channel:
                part.seen(seen)

    @contextlib.asynccontextmanager
    async def _asked(self, part: WatchedPart) -> AsyncIterator[Channel | None]:
        """Its channel, if it is open; what it does not answer in time is left as it was."""
        with contextlib.suppress(Gone, TimeoutError):
            async with asyncio.timeout(ANSWER_S):
                yield part.open_channel

    async def _stop_in(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self.drain("max_time")

    async def _allow(self, number: int, left: int, spare: int, given_back: int) -> int:
        """As ``AllowedVisits.allow``."""
        visits = self._visits
        if visits is None or self.stopped_by is not None:
            return 0
        allowed = await visits.allow(self.ask, number, left, spare, given_back)
        if visits.are_used:
            self.drain("max_pages")
        return allowed


def _how(code: int) -> str:
    """How a part has died."""
    return f"was killed by signal {-code}" if code < 0 else f"has ended with exit code {code}"


def _log(name: str, level: int, text: str, created: float, fields: dict[str, Any]) -> None:
    """A line of a part, in the parent's log."""
    to = logging.getLogger(name)
    if to.isEnabledFor(level):
        record = logging.makeLogRecord(
            {"name": name, "levelno": level, "levelname": logging.getLevelName(level), "msg": text, "created": created, **fields}
        )
        to.handle(record)


__all__ = ["Crew", "PartsError"]
