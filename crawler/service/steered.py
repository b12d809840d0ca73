"""What the control API may ask of a crawl, and do to it: here for one that runs in this process.

Invariant: nothing here changes a crawl but through methods that it has anyway. ``crawler.service.parts.steering`` has the same
for a crawl by several processes, each of which has a ``Direct`` for its share.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from heapq import nlargest
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from crawler.config.sections import Config
from crawler.core.batch import Admitted
from crawler.core.model import Known, Link, LinkKind, Mark, Ref
from crawler.core.snapshot import Pause, Snapshot
from crawler.core.urls import host_key, origin, parse
from crawler.crawl import Crawl, Readings
from crawler.crawl.checkpoints import take
from crawler.crawl.explain import explain
from crawler.crawl.recrawl import TooManyOrders
from crawler.crawl.status import Left
from crawler.frontier.progress import Tally
from crawler.frontier.recrawl import RecrawlOrder
from crawler.frontier.selection import Selection
from crawler.output import row_at
from crawler.output.archive import is_gone
from crawler.output.checkpoint import Copied
from crawler.output.file_names import folder_of
from crawler.policy.robots_rules import RobotsRules
from crawler.service.health import History

if TYPE_CHECKING:
    from crawler.policy.robots_gate import RobotsGate

HOSTS_MAX: Final = 1000
Sort = Literal["waiting", "backoff", "errors"]
Host = dict[str, Any]
"""As GET /v1/hosts tells of one."""
Failure = tuple[float, str, str, str]
"""(wall time, URL, outcome, reason or status)"""


class Steered(Protocol):
    """URLs are canonical. What asks the store may raise StorageError."""

    @property
    def config(self) -> Config:
        """The settings in effect."""

    @property
    def stopped_by(self) -> str | None:
        """Why the crawl was stopped early; None if it was not."""

    def stats(self) -> Snapshot: ...

    async def look(self) -> None:
        """What is told next is of this moment."""

    def pauses(self) -> Collection[str]: ...

    def hosts_known(self) -> int: ...

    def is_draining(self) -> bool: ...

    def commits(self) -> object:
        """Another value after each commit; None: that is not known."""

    async def hosts(self, sort: Sort, limit: int) -> Sequence[Host]:
        """Those that stand out by one measure, the first of it first."""

    async def explain(self, url: str, given: str, via: str | None) -> dict[str, Any]:
        """What is known of a URL, and why it is where it is; FetchError: ``via`` is none. ``given``: as somebody wrote it."""

    async def lookup(self, url: str) -> Known | str | None: ...

    async def elsewhere(self, host: str) -> str | None:
        """Where else this host's URLs are decided about, in a sentence; None: here."""

    async def marks(self, folder: str = "") -> Mapping[str, Mark]:
        """As ``Pump.marks``. After years there are so many that those who need one folder must not read all."""

    async def position(self, source: str) -> bytes | None:
        """How far a list was read."""

    async def admit(self, admitted: Admitted, behind: asyncio.Future[None] | None = None) -> asyncio.Future[None]:
        """As soon as there is room for it; done when it is committed. ``behind``: the lines before these, of the same list. Where
        they were lost, these are not admitted either, or the list would be continued behind them: StorageError."""

    async def pause(self) -> None: ...

    async def resume(self) -> None: ...

    def drain(self, why: str) -> None: ...

    async def reconfigure(self, config: Config) -> None:
        """From now on these settings hold, as far as they may change while a crawl runs. On return no visit of a link that they
        exclude goes on."""

    async def revive(self, which: Selection) -> int:
        """Make settled URLs due again; how many. StorageError: some may be."""

    async def remove(self, which: Selection) -> int:
        """Forget settled URLs; how many. As ``revive``."""

    async def recrawl(self, older_than_s: float, match: str | None, which: Selection) -> None:
        """Settled URLs become due again, slice by slice (see ``crawler.crawl.maintenance.recrawl``). Durable on return.
        TooManyOrders: as many as may be are not fulfilled yet."""

    async def checkpoint(self, name: str | None) -> Copied:
        """As ``crawler.crawl.checkpoints.take``."""

    async def progress(self, kind: str) -> Mapping[str, Tally]:
        """How far each list or each tag is (see ``crawler.frontier.progress``)."""

    async def failures(self) -> Sequence[Failure]:
        """The last pages that failed, the latest last."""


class Vital(Protocol):
    """As ``Vitals``."""

    history: History

    def readings(self) -> Readings: ...

    def rates(self) -> tuple[float, float]: ...

    def left(self) -> Left | None: ...

    def alive(self) -> str | None: ...

    def ready(self) -> str | None: ...

    async def memory_report(self, trace_s: float = 0.0) -> str:
        """Where the memory is, for people."""


def kind_of(explanation: Mapping[str, Any]) -> LinkKind:
    """As what kind of link a URL is excluded, or not. Nobody knows of what waits in the store how it came there: it may have been
    listed, and what is listed is excluded by less."""
    if explanation["state"] in ("waiting", "retrying"):
        return "seed"
    kind: LinkKind = explanation["record"]["kind"] if "record" in explanation else "link"
    return kind


class Direct:
    """``on_change`` is told of settings that have changed."""

    def __init__(self, crawl: Crawl, on_change: Callable[[Config], None] = lambda config: None) -> None:
        self._crawl, self._on_change = crawl, on_change
        self.drain, self.revive, self.remove = crawl.drain, crawl.pump.revive, crawl.pump.remove

    @property
    def config(self) -> Config:
        return self._crawl.config

    @property
    def stopped_by(self) -> str | None:
        return self._crawl.stopped_by

    def stats(self) -> Snapshot:
        return self._crawl.stats()

    async def look(self) -> None:
        return None

    def pauses(self) -> Collection[str]:
        return self._crawl.frontier.pauses

    def hosts_known(self) -> int:
        return self._crawl.frontier.counts.hosts

    def is_draining(self) -> bool:
        return self._crawl.frontier.draining

    def commits(self) -> object:
        return self._crawl.pump.committed_at

    async def hosts(self, sort: Sort, limit: int) -> Sequence[Host]:
        crawl, now = self._crawl, self._crawl.clock.now()
        benched = {view.host: view for view in crawl.frontier.bench.hosts()}
        waiting: dict[str, int] = dict(await crawl.pump.ask(crawl.store.longest, HOSTS_MAX))
        errors = dict(crawl.failing_hosts.top(HOSTS_MAX))
        if sort == "waiting":
            chosen = list(waiting)[:limit]
        elif sort == "errors":
            chosen = list(errors)[:limit]
        else:
            backed_off = [view for view in benched.values() if view.failures or view.busy]
            chosen = [view.host for view in nlargest(limit, backed_off, key=lambda view: view.due)]
        hosts = []
        for host in chosen:
            view = benched.get(host)
            hosts.append(
                {
                    "host": host,
                    "waiting": waiting.get(host, view.waiting if view else 0),
                    "errors": errors.get(host, 0),
                    "in_flight": view.out if view else 0,
                    "due_in": round(max(0.0, view.due - now), 3) if view else None,
                    "failures": view.failures if view else None,
                    "busy": view.busy if view else None,
                }
            )
        return hosts

    async def explain(self, url: str, given: str, via: str | None) -> dict[str, Any]:
        crawl = self._crawl
        explained = partial(explain, is_retired=self._is_retired)
        explanation = await crawl.pump.ask(explained, crawl.root, crawl.store, given, via)
        if place := explanation.get("record", {}).get("row"):
            explanation["row"] = await asyncio.to_thread(row_at, crawl.root, Ref(**place))
        return explanation | await self.prospects(url, kind_of(explanation))

    async def prospects(self, url: str, kind: LinkKind) -> dict[str, Any]:
        """What stands between a URL and a visit: its host's rest, its robots rules, and what is excluded."""
        crawl, host = self._crawl, parse(url).host
        view = next((view for view in crawl.frontier.bench.hosts() if view.host == host), None)
        prospects: dict[str, Any] = {"host": host, "in_flight": crawl.frontier.is_out(url), "robots": None, "host_due_in": None}
        link = next((link for link in crawl.frontier.bench.links(host) if link.url == url), Link(url, host, kind))
        if crawl.exclusion.refuses(link) is not None:
            prospects["excluded"] = True
        if (member := crawl.pump.member) is not None:
            lessee = member.lessee(host_key(url))
            prospects["leased_by"] = None if lessee is None else lessee.told()
        if view is not None:
            prospects["host_due_in"] = round(max(0.0, view.due - crawl.clock.now()), 3)
        if crawl.robots is not None and crawl.hosts.obeys_robots(origin(url)):
            prospects["robots"] = await self._robots_say(crawl.robots, link)
        return prospects

    async def _robots_say(self, robots: RobotsGate, link: Link) -> str:
        """By the rules that are at hand, or as they were kept."""
        try:
            refused = robots.refuses(link)
        except KeyError:
            (record,) = await self._crawl.pump.ask(self._crawl.store.robots, [origin(link.url)])
            rules = RobotsRules.from_bytes(record) if record is not None else None
            if rules is None or rules.unavailable:
                return "not asked yet"
            return "allowed" if rules.allows(link.url) else "rule"
        return "allowed" if refused is None else refused[1]

    def leases(self, host: str) -> bool:
        """Whether this process is the one that decides about this host's URLs."""
        member = self._crawl.pump.member
        return member is not None and (lessee := member.lessee(host)) is not None and lessee.is_own

    async def elsewhere(self, host: str) -> str | None:
        member = self._crawl.pump.member
        if member is None:
            return None
        if (lessee := member.lessee(host)) is None:
            return f"no node of the cluster leases {host} just now: try again in some seconds"
        return None if lessee.is_here else f"{host} is leased by the node {lessee.node} ({lessee.machine}): ask that one"

    def _is_retired(self, file: str) -> bool:
        """In the engine thread."""
        return is_gone(self._crawl.root, self._crawl.store.marks(folder_of(file)), file)

    async def lookup(self, url: str) -> Known | str | None:
        return await self._crawl.pump.ask(self._crawl.store.lookup, url)

    async def marks(self, folder: str = "") -> Mapping[str, Mark]:
        return await self._crawl.pump.marks(folder)

    async def position(self, source: str) -> bytes | None:
        return (await self._crawl.pump.ask(self._crawl.store.positions, source)).get(source)

    async def admit(self, admitted: Admitted, behind: asyncio.Future[None] | None = None) -> asyncio.Future[None]:
        return await self._crawl.frontier.admit(admitted)

    async def pause(self) -> None:
        self._crawl.frontier.pause(Pause.USER)

    async def resume(self) -> None:
        self._crawl.frontier.resume(Pause.USER)

    async def reconfigure(self, config: Config) -> None:
        self._crawl.reconfigure(config)
        self._on_change(config)
        await self._crawl.visitor.excluded_are_over()

    async def recrawl(self, older_than_s: float, match: str | None, which: Selection) -> None:
        if not await self.may_recrawl():
            raise TooManyOrders
        await self.order_recrawl(self._crawl.clock.wall() - older_than_s, match, which)

    async def may_recrawl(self) -> bool:
        return await self._crawl.recrawler.has_room()

    async def order_recrawl(self, before: float, match: str | None, which: Selection) -> None:
        """Of URLs last visited before this wall time. Whether it may is asked before."""
        await self._crawl.recrawler.order(
            RecrawlOrder(
                self._crawl.clock.now(),
                before,
                tuple(sorted(which.outcomes)),
                match,
                url=which.url,
                host=which.host,
                tag=which.tag,
            )
        )

    async def checkpoint(self, name: str | None) -> Copied:
        return await take(self._crawl, self._crawl.root, name)

    async def progress(self, kind: str) -> Mapping[str, Tally]:
        return await self._crawl.pump.ask(self._crawl.store.progress, kind)

    async def failures(self) -> Sequence[Failure]:
        return tuple(self._crawl.recent_failures)
