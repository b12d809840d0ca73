"""Every container that lives as long as the crawl has a bound: found by walking the objects of a crawl that runs."""

import asyncio
import gc
from collections import deque
from types import CodeType, FunctionType, ModuleType

from support.machine import Machine
from support.webs import Web, page

from crawler.config.load import load
from crawler.crawl.wiring import open_crawl
from crawler.fetch.connector import IDLE_BYTES
from crawler.frontier import batch
from crawler.resources import memory_plan
from crawler.service.health import open_vitals

WORKERS = 50
BENCH_LINKS = 200
BATCH_LINKS = 500
HOSTS_PER_PAGE = 1 / 5

FIXED = 200
"""Entries of what only the code and the settings decide."""
BATCH = 2 * BATCH_LINKS + 1000
"""A batch is closed when it holds BATCH_LINKS; the last page, or chunk of seeds, may go over."""
CLAIMED = BENCH_LINKS + WORKERS + 2 * BATCH
"""On the bench, out, and in the two batches."""
IDLE = (5 << 20) // IDLE_BYTES + 1
"""What the account of hardly 5 MiB holds, and the one that is just put to it."""

BOUNDS: dict[str, tuple[str, int]] = {
    # class.attribute → the account it is charged to, or what bounds it; entries at most
    "Budget._accounts": ("fixed", FIXED),
    "Budget._measures": ("fixed", FIXED),
    "Config.*": ("settings", FIXED),
    "HostConfig.*": ("settings", FIXED),
    "Counts.*": ("outcomes, reasons and rules are closed sets", FIXED),
    "Counters.*": ("closed sets", FIXED),
    "FailingHosts.*": ("HOSTS_MAX of crawler.crawl.failing_hosts", 1000),
    "Visitor._reserved": ("outcome", CLAIMED),
    "Visits._leases": ("workers", WORKERS),
    "Visits._broken_off": ("workers", WORKERS),
    "Crawl.recent_failures": ("RECENT_FAILURES", FIXED),
    "History.rates": ("HISTORY_MAX", FIXED),
    "_Refuses.*": ("settings", FIXED),
    "VisitMemory.*": ("fixed", 5),
    "Watch._entered": ("fixed", 3),
    "Committer.threads": ("engine and writer", 2),
    "OneCore._spent": ("loop, engine and writer", 3),
    "Rates._samples": ("_SAMPLES_MAX of crawler.crawl.status", 256),
    "Snapshot.*": ("outcomes, reasons and rules are closed sets", FIXED),
    "Metrics.*": ("labels are closed sets", FIXED),
    "Durations.*": ("buckets", FIXED),
    "Disk.errors": ("errno names", FIXED),
    "Plan.accounts": ("fixed", FIXED),
    "Scope.*": ("settings", FIXED),
    "Sitemaps._sites": ("SITES_MAX", 4096),
    "HeavyHosts._domains": ("DOMAINS_MAX", 1024),
    "Journal._lengths": ("open files", FIXED),
    "Journal._rolls": ("by a timer that waits for each, and at the end", FIXED),
    "Journal._rolled": ("files that one batch fills", FIXED),
    "Frontier._paused_at": ("fixed", FIXED),
    "WarcArchive._info": ("fixed", FIXED),
    "WarcArchive._settings": ("settings", FIXED),
    "Pair.told": ("settings", FIXED),
    "WarcArchive._retired": ("files about to be deleted", FIXED),
    "Retention._folders": ("fixed", 3),
    # frontier
    "Workbench._hosts": ("bench", CLAIMED),
    "Workbench._aside": ("bench", CLAIMED),
    "Workbench._resting": ("bench", 2 * CLAIMED + 64),
    "Workbench._lanes": ("bench", CLAIMED),
    "Groups._all": ("bench", 2 * CLAIMED + 64),
    "Groups._waiting": ("bench", CLAIMED),
    "Groups._changed": ("bench", CLAIMED),
    "Groups._resting": ("bench", 2 * CLAIMED + 64),
    "BenchHost.queue": ("bench", BENCH_LINKS),
    "BenchHost.robots_queue": ("bench: a robots link for each host that waits for its rules", CLAIMED),
    "Frontier._out": ("workers", WORKERS),
    "Frontier._waiters": ("workers", WORKERS),
    "Collector._begun": ("fixed", 2),
    "Frontier._limits": ("fixed", FIXED),
    "Frontier._denied": ("hosts on the bench when their robots rules could not be had, until what waits is settled", CLAIMED),
    "Frontier.pauses": ("fixed", FIXED),
    "Refill._exhausted": ("bench", CLAIMED),
    "Refill._low": ("bench", CLAIMED),
    "Refill.emptying": ("as Refill._low", CLAIMED),
    "Got.*": ("what a trip was asked for", CLAIMED),
    "Refill._returned": ("bench", CLAIMED),
    "Refill._sifting": ("SIFTED_HOSTS_MAX", 1024),
    "Refill._robots_wanted": ("bench", CLAIMED),
    "Refill._robots_queued": ("bench: hosts that wait for their rules", CLAIMED),
    "OpenBatch.*": ("outcome; BATCH of links and outcomes", BATCH),
    "Batch.*": ("outcome; BATCH of links and outcomes", BATCH),
    "Decided.*": ("outcome; BATCH of links and outcomes", BATCH),
    "Judged.*": ("outcome; BATCH of links and outcomes", BATCH),
    "Done.*": ("outcome; LINKS_PER_OUTCOME_MAX", 2000),
    "Admission.keys": ("LINKS_MAX of frontier.bundle", 256),
    "Admitted.*": ("BATCH", BATCH),
    "Bundle.lengths": ("LINKS_MAX of frontier.bundle", 256),
    "InFlight._free": ("workers and held visits", WORKERS + 500),
    "InFlight._blamed": ("its slots; the process is about to end", WORKERS + 500),
    "InFlight.found": ("workers and held visits", WORKERS + 500),
    # store
    "Claims._out": ("bench, workers, and in each BATCH", CLAIMED),
    "Claims._passed": ("as Claims._out: BATCH", CLAIMED),
    "Bundles._kept": ("store", CLAIMED),
    "Claims.flying": ("as Claims._out: BATCH", CLAIMED),
    "Claims.lowered": ("BATCH", BATCH),
    "Claims.suspects": ("visits out at a kill, ROBOTS_SUSPECTS_MAX", WORKERS + 1500),
    "Database.*": ("column families", FIXED),
    "HostRecord.lanes": ("priorities", FIXED),
    "Tallies.*": ("NAMES_MAX of lists, and of tags", 2002),
    "Tally.outcomes": ("a closed set", FIXED),
    "Longest._waiting": ("2 HOSTS_MAX", 1025),
    "GenerationCache._young": ("store", 50_000),
    "GenerationCache._old": ("store", 50_000),
    # fetch
    "Connector._acquired": ("connection", WORKERS),
    "Connector._idle": ("idle", IDLE),
    "Connector._conns": ("idle", IDLE + WORKERS),
    "Connector.*": ("waits of aiohttp that are not used", FIXED),
    "TlsWaste._connections": ("connection, idle", IDLE + WORKERS),
    "TlsWaste._handshakes": ("connection", WORKERS),
    "Fetcher._bodies": ("body", WORKERS),
    "Pace._waiting": ("workers", WORKERS),
    "Deadlines._running": ("workers", WORKERS),
    "Lean.params": ("fixed", FIXED),
    "Exchange.tried": ("addresses of one response that are tried", 64),
    "Exchange.handshakes": ("addresses of one response that are tried", 64),
    "Resolver._asked": ("workers", WORKERS),
    "Lines._links": ("a chunk of lines", 1000),
    "Lines._faults": ("a chunk of lines", 1000),
    "Lines._extras": ("a chunk of lines", 1000),
    "Chunk.extras": ("a chunk of lines", 1000),
    "Resolver._cache": ("dns", 3495),
    "Channel.denied": ("DENIED_MAX", 1024),
    "Resolver.events": ("fixed", FIXED),
    "Watched._buffer": ("connection", FIXED),
    "Watched._params": ("arguments of set_response_params", FIXED),
    "Outage._held": ("HELD_MAX", 500),
    "Network._unnamed": ("HELD_MAX", 500),
    "Outage.*": ("REMEMBERED_MAX", 10_000),
    "RulesCache.*": ("robots", 33_000),
    "RobotsGate._failures": ("FAILURES_MAX", 4096),
    # parse
    "ParserPool._functions": ("fixed", FIXED),
    "ParserPool._processes": ("parsers", FIXED),
    "Waiting.*": ("workers", WORKERS),
    "ParserProcess.in_hand": ("parse", WORKERS),
}


def ours(thing) -> bool:
    return type(thing).__module__.partition(".")[0] == "crawler"


def attributes(thing):
    names = [*getattr(thing, "__dict__", ()), *getattr(thing, "__struct_fields__", ())]
    names += [name for cls in type(thing).__mro__ for name in getattr(cls, "__slots__", ())]
    return {name: getattr(thing, name) for name in names if hasattr(thing, name)}


def containers(root) -> dict[str, int]:
    """Class.attribute → entries, of the largest where there are several: of all our objects that are reached from here."""
    found, seen, todo = {}, set(), [root]
    while todo:
        thing = todo.pop()
        if id(thing) in seen or isinstance(thing, type | ModuleType | CodeType):
            continue
        seen.add(id(thing))
        if isinstance(thing, FunctionType):
            todo += [cell.cell_contents for cell in thing.__closure__ or ()]
        elif not ours(thing):
            todo += gc.get_referents(thing)
        else:
            for name, value in attributes(thing).items():
                todo.append(value)
                if isinstance(value, dict | list | set | deque):
                    where = f"{type(thing).__name__}.{name}"
                    found[where] = max(found.get(where, 0), len(value))
    return found


def bound_of(where: str) -> tuple[str, int] | None:
    return BOUNDS.get(where) or BOUNDS.get(where.partition(".")[0] + ".*")


async def largest(root, web: Web, pages: int) -> tuple[dict[str, int], int]:
    """The most entries each container of a crawl of so many listed pages has had, and how many pages were settled."""
    names = [f"127.3.{n // 250}.{n % 250 + 1}" for n in range(int(pages * HOSTS_PER_PAGE))]
    root.mkdir()
    listed = root / "list.txt"
    listed.write_text("".join(f"{web.url(names[n % len(names)], f'/{n}')}\n" for n in range(pages)))
    given = {"input": [str(listed)], "output": str(root / "out"), "allow_net": ["127.0.0.0/8"], "delay": 0, "depth": 1}
    config = load(given | {"workers": WORKERS, "memory_limit": "256MiB"}, environ={}).config
    most: dict[str, int] = {}
    async with open_crawl(config) as crawl, open_vitals(crawl) as vitals:
        crawl.memory._meter = Machine(root / "machine").meter  # the process of the tests may have grown to any size
        running = asyncio.create_task(crawl.run())
        while not running.done():
            add(most, containers(vitals))
            for name, use in crawl.memory.budget.uses().items():
                assert name in ("base", "parsers") or use.used <= use.budget, name
            await asyncio.sleep(0.2)
        await running
        return most, crawl.stats().done


def add(most: dict[str, int], found: dict[str, int]) -> None:
    for where, size in found.items():
        most[where] = max(most.get(where, 0), size)


def grown(first: dict[str, int], then: dict[str, int]) -> dict[str, tuple[int, int]]:
    """What has had far more entries then, and should not."""
    larger = {where: (first.get(where, 0), size) for where, size in then.items() if size > 2 * first.get(where, 0) + 64}
    by = {where: (bound_of(where) or ("", 0))[0] for where in larger.keys() - FILLING}
    return {where: larger[where] for where, what in by.items() if "BATCH" not in what and what != "store"}


async def test_every_container_has_a_bound_and_none_grows_with_the_crawl(tmp_path, monkeypatch):
    """With the bench and the batch small, so that a crawl of some hundred pages fills them. It is looked at now and then, and a
    full moment may be missed: what grows with the crawl is small in every small crawl."""
    monkeypatch.setattr(memory_plan, "BENCH_LINK_BYTES", (8 << 20) // BENCH_LINKS)
    monkeypatch.setattr(batch, "LINKS_MAX", BATCH_LINKS)
    web = Web(default=lambda host, path: page(f"{path}/next", "/all"))
    first: dict[str, int] = {}
    with web.running():
        then, many = await largest(tmp_path / "large", web, 1500)
        for n in range(SMALL_CRAWLS):
            found, few = await largest(tmp_path / f"small {n}", web, 500)
            add(first, found)
            if not grown(first, then):
                break
    assert (few, many) == (500 * 2 + 100, 1500 * 2 + 300), "the list, what it links to"
    assert not [where for where in first.keys() | then.keys() if bound_of(where) is None], "say what bounds them"
    for most in (first, then):
        assert not {where: size for where, size in most.items() if size > bound_of(where)[1]}
    charged = {where for where, (by, _) in BOUNDS.items() if by in memory_plan.SAYS} & first.keys()
    assert len(charged) > 12, "the walk has lost its way"
    assert not grown(first, then)


SMALL_CRAWLS = 4
FILLING = {
    "Refill._exhausted",
    *("RulesCache._kept", "RulesCache._parsed", "Outage._responded", "Longest._waiting"),
    *("Connector._conns", "Connector._idle"),
    *("Workbench._hosts", "Groups._all", "Workbench._resting"),
}
"""Caches and buffers whose bounds are beyond what so few hosts, or a batch, fill."""
