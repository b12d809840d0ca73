"""The pump over a real store: everything admitted is visited once, politely; a failed write costs a second visit, no more."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from types import SimpleNamespace

import pytest
from msgspec.structs import replace
from support.frontiers import handed, politeness

from crawler.config.sections import Config, HostConfig
from crawler.core.batch import Admitted, HostRest, Prepared, Settled
from crawler.core.clock import Clock
from crawler.core.errors import StorageError
from crawler.core.model import Done, Dropped, Known, Lease, Link, Retry, Unvisited
from crawler.core.page import Body, Page, Timings
from crawler.core.snapshot import Limiter, Pause
from crawler.frontier.batch import OUTCOMES_MAX, OpenBatch
from crawler.frontier.handed import Exclusion, LinksRoom
from crawler.frontier.in_flight import InFlight, _suspects
from crawler.frontier.memory import MemoryStore
from crawler.frontier.pump import Pump
from crawler.frontier.refill import RULES_PER_TRIP_MAX, Got, Refill
from crawler.frontier.selection import Selection
from crawler.frontier.store import Limits
from crawler.frontier.workbench import Workbench
from crawler.policy import robots_rules
from crawler.policy.exclusion import Exclusion as Excluded
from crawler.policy.robots_cache import RulesCache
from crawler.policy.robots_gate import RobotsGate
from crawler.resources.memory_budget import Budget
from crawler.resources.memory_plan import VISIT_ACCOUNTS, Plan


class Files:
    """The journal's place: remembers what was written and committed, and fails when told to."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.pending: list[str] = []
        self.fail_next = 0

    def write(self, prepared: Prepared):
        self.pending = [s.lease.link.url for s in prepared.batch.settled if not isinstance(s.outcome, Retry)]
        if self.fail_next:
            self.fail_next -= 1
            raise StorageError("disk full", errno=28)
        known = [
            None
            if isinstance(s.outcome, Retry)
            else Known(s.lease.link, s.outcome.outcome, s.outcome.reason, None, prepared.batch.wall)
            for s in prepared.batch.settled
        ]
        return known, {}

    def committed(self) -> None:
        self.written += self.pending
        self.pending = []

    def rewind(self, marks) -> None:
        self.pending = []


def empty_page(url, tmp):
    body = Body(tmp)
    body.seal()
    return Page(url, 200, "", "1.1", (), b"", body, 0, 0, None, None, 0.0, Timings(0, 0, 0), None, None, None, None, None)


REFUSED = Dropped("connect_error", "refused", sign="failed")


class World:
    def __init__(
        self,
        *,
        delay: float = 0.0,
        per_host: int = 1,
        failures: int = 8,
        links_room: LinksRoom | None = None,
        in_flight: InFlight | None = None,
        group_of: Callable[[str], str | None] | None = None,
        exclusion: Exclusion | None = None,
    ) -> None:
        self.clock = Clock()
        self.store = MemoryStore(Limits())
        self.files = Files()
        self.bench = Workbench(lambda host: per_host, group_of)
        self.recovered: list[str] = []
        self.pump = Pump(
            self.store,
            self.bench,
            handed(
                politeness(delay, jitter=random.Random(1).random, backoff_max_s=0.05, host_failures=failures),
                links_room,
                exclusion,
            ),
            self.files,
            clock=self.clock.now,
            wall=self.clock.wall,
            links_max=200,
            in_flight=in_flight,
        )
        self.frontier = self.pump.frontier
        self.visits: Counter[str] = Counter()

    async def recover(self, error: StorageError) -> None:
        self.recovered.append(str(error))
        await asyncio.sleep(0)

    async def take(self) -> Lease:
        lease = await self.frontier.take()
        self.visits[lease.link.url] += 1
        return lease

    async def end_with(self, outcome: Dropped, running: asyncio.Task[None]) -> None:
        """All that waits ends so, and then the crawl."""

        async def work() -> None:
            while True:
                self.frontier.settle(await self.take(), outcome)

        worker = asyncio.create_task(work())
        while self.frontier.counts.waiting or self.pump.uncommitted_s:
            await asyncio.sleep(0)
        worker.cancel()
        self.pump.end()
        await running
        self.pump.close()

    async def crawl(self, links, visit, workers: int = 8) -> None:
        async def work() -> None:
            while (lease := await self.frontier.take()) is not None:
                self.visits[lease.link.url] += 1
                self.frontier.settle(lease, await visit(lease))

        async with asyncio.TaskGroup() as tasks:
            pump = tasks.create_task(self.pump.run(self.recover))
            crew = [tasks.create_task(work()) for _ in range(workers)]
            await self.frontier.admit(Admitted(tuple(links)))
            self.frontier.seeds_ended()
            await asyncio.wait(crew)
            self.pump.end()
            await pump
        self.pump.close()


def links(hosts: int, each: int) -> list[Link]:
    return [Link(f"http://h{h}.test/{n}", f"h{h}.test") for n in range(each) for h in range(hosts)]


async def drop(lease):
    await asyncio.sleep(0)
    return Dropped("blocked", "address")


async def test_every_link_is_visited_once():
    world = World()
    await world.crawl(links(20, 50), drop)
    assert world.visits == Counter(link.url for link in links(20, 50))
    assert Counter(world.files.written) == world.visits
    assert world.frontier.counts.done == 1000


async def test_one_host_alone_gets_all_it_has():
    world = World(per_host=4)
    await world.crawl(links(1, 3000), drop)
    assert world.visits.total() == 3000 == len(world.visits)


async def test_outlinks_are_visited_and_known_ones_are_not_visited_again(tmp_path):
    world = World()

    async def visit(lease):
        n = int(lease.link.url.rsplit("/", 1)[1])
        found = [Link(f"http://h0.test/{m}", "h0.test", "link") for m in (2 * n + 1, 2 * n + 2, 0) if m < 500]
        return Done(empty_page(lease.link.url, tmp_path), "ok", outlinks=tuple(found))

    await world.crawl(links(1, 1), visit)
    assert world.visits == Counter({f"http://h0.test/{n}": 1 for n in range(500)})


async def test_a_failed_write_costs_second_visits_and_loses_nothing():
    world = World()
    world.files.fail_next = 3
    await world.crawl(links(20, 50), drop)
    assert set(world.visits) == {link.url for link in links(20, 50)}
    assert Counter(world.files.written) == Counter(link.url for link in links(20, 50)), "written once each"
    assert len(world.recovered) == 3


async def test_nothing_is_asked_of_the_store_while_a_write_is_not_made_good():
    """It was looked 200 times a second whether it may be asked, as long as something was due there: a full disk takes hours."""
    world = World()
    refill = world.pump._refill
    waits, wait = [], refill.wait

    async def waited(**how: bool) -> None:
        waits.append(how)
        await wait(**how)

    async def recover(error: StorageError) -> None:
        refill._due = 0.0
        before = len(waits)
        await asyncio.sleep(0.5)
        assert len(waits) < before + 10

    refill.wait, world.recover, world.files.fail_next = waited, recover, 1
    await world.crawl(links(20, 5), drop)
    assert set(world.files.written) == {link.url for link in links(20, 5)}


async def test_pages_of_a_write_that_failed_take_none_of_those_that_may_be_fetched(tmp_path):
    """They are fetched again: --max-pages is the number that is kept."""
    world = World()
    world.frontier._visits_left = 3
    pump = asyncio.create_task(world.pump.run(world.recover))
    async with asyncio.timeout(20):
        await (await world.frontier.admit(Admitted(tuple(links(1, 5)))))
        for visits_left, fails in ((3, 1), (2, 0)):
            world.files.fail_next = fails
            lease = await world.frontier.take()
            world.frontier.settle(lease, Done(empty_page(lease.link.url, tmp_path), "ok"))
            assert world.frontier.visits_left == 2
            while not (world.recovered if fails else world.frontier.counts.done) or world.frontier.pauses:
                await asyncio.sleep(0)
            assert world.frontier.visits_left == visits_left
        world.pump.end()
        await pump
    world.pump.close()


async def test_a_write_that_never_works_ends_the_crawl():
    world = World()
    world.files.fail_next = 10**6

    async def give_up(error: StorageError) -> None:
        raise error

    world.recover = give_up
    with pytest.raises(ExceptionGroup) as caught:
        await world.crawl(links(2, 5), drop)
    assert caught.group_contains(StorageError, match="disk full")


async def test_a_dead_host_ends_and_its_waiting_links_are_settled_unvisited():
    world = World(failures=3)

    async def visit(lease):
        if lease.link.host == "h0.test":
            return Dropped("connect_error", "refused", sign="failed")
        return await drop(lease)

    await world.crawl(links(3, 2000), visit)
    assert sum(n for url, n in world.visits.items() if url.startswith("http://h0.")) == 3
    assert world.frontier.counts.done == 6000
    assert world.frontier.counts.outcomes["connect_error"] == 2000
    known = world.store.lookup("http://h0.test/1999")
    assert isinstance(known, Known)
    assert (known.outcome, known.reason) == ("connect_error", "host_down")


async def test_what_waits_for_dead_hosts_is_settled_batch_by_batch_however_slow_the_disk_is():
    world = World(failures=1)
    settled: list[int] = []
    write = world.files.write

    def slow(prepared: Prepared):
        settled.append(len(prepared.batch.settled))
        time.sleep(0.02)
        return write(prepared)

    world.files.write = slow

    async def visit(lease):
        return Dropped("connect_error", "refused", sign="failed")

    await world.crawl(links(20, 1000), visit)
    assert world.frontier.counts.done == 20_000
    assert max(settled) < 3 * OUTCOMES_MAX


async def test_a_retry_comes_again_as_the_next_attempt():
    world = World()
    attempts: list[int] = []

    async def visit(lease):
        attempts.append(lease.link.attempt)
        return Retry("timeout", "read_timeout", "alive") if len(attempts) < 3 else await drop(lease)

    await world.crawl(links(1, 1), visit)
    assert attempts == [1, 2, 3]


async def test_a_lease_given_back_is_no_attempt():
    world = World()
    attempts: list[int] = []

    async def visit(lease):
        attempts.append(lease.link.attempt)
        return Unvisited() if len(attempts) < 3 else await drop(lease)

    await world.crawl(links(1, 1), visit)
    assert attempts == [1, 1, 1]


async def test_what_a_visit_given_back_has_brought_is_held_no_longer():
    """Perhaps nothing is committed for long: offline, or where all slots are lost, every visit that ends is given back."""
    world = World()
    world.bench.put([Lease(link, b"%d" % n) for n, link in enumerate(links(1, 2))])
    room = Budget(Plan(1 << 30, dict.fromkeys(VISIT_ACCOUNTS, 10_000), 4, 0)).account("outcome")
    world.frontier.settle(await world.frontier.take(), Unvisited(), (await room.take(10_000)).release)
    assert room.used == 0
    world.frontier.settle(await world.frontier.take(), Dropped("blocked", "address"), (await room.take(10_000)).release)
    assert room.used == 10_000, "until it is committed"
    world.pump.close()


@pytest.mark.parametrize(
    ("outcome", "is_prompt"),
    [(Dropped("skipped", "mime", sign="alive"), True), (Dropped("timeout", "total_timeout", sign="mute"), False)],
)
async def test_a_host_that_gave_no_response_is_not_prompt_however_short_the_visit_was(outcome, is_prompt):
    world = World()
    before: list[bool] = []

    async def visit(lease):
        before.append(world.bench._hosts[lease.link.host].is_prompt)
        return outcome

    await world.crawl(links(1, 2), visit)
    assert before == [False, is_prompt]


async def test_a_drain_commits_what_was_visited_and_keeps_the_rest():
    world = World()

    async def visit(lease):
        if world.visits.total() == 50:
            world.frontier.drain()
        return await drop(lease)

    await world.crawl(links(10, 50), visit)
    assert len(world.files.written) == world.visits.total() < 500
    assert world.store.stats().waiting == 500 - world.visits.total()


@pytest.mark.parametrize("per_host", [1, 3])
async def test_politeness_holds_through_the_pump(per_host):
    world = World(delay=0.02, per_host=per_host)
    out: Counter[str] = Counter()
    ended: dict[str, float] = {}

    async def visit(lease):
        host = lease.link.host
        out[host] += 1
        assert out[host] <= per_host
        assert world.clock.now() - ended.get(host, 0.0) >= 0.02
        await asyncio.sleep(0.001)
        out[host] -= 1
        ended[host] = world.clock.now()
        return Dropped("bad_response", "malformed", sign="alive")

    await world.crawl(links(5, 30), visit, workers=20)
    assert world.visits.total() == 150


async def test_a_rest_that_is_not_committed_yet_stays_on_the_bench():
    """A host is visited again while a commit takes long: afterwards the store knows the rest before, and no more."""
    world = World()
    (link,) = links(1, 1)
    lease = Lease(link, b"")
    world.bench.put([lease])
    assert world.bench.take(world.clock.now()) == lease
    earlier = OpenBatch()
    earlier.hosts[link.host] = HostRest(world.clock.now())
    last = HostRest(world.clock.now() + 60)
    world.bench.release(lease, last)
    world.pump._batches.open.hosts[link.host] = last
    world.pump._after_commit(earlier, None)
    assert world.bench.state(link.host).due == last.due
    world.pump._batches.close()
    later = OpenBatch()
    later.hosts[link.host] = last
    world.pump._after_commit(later, None)
    assert link.host not in world.bench, "now the store knows"
    world.pump.close()


def test_what_the_pages_of_a_failed_batch_left_out_is_counted_once(tmp_path):
    """They are visited again."""
    link = Link("http://a.test/", "a.test")
    visit = Settled(Lease(link, b""), Done(empty_page(link.url, tmp_path), "ok", refused={"nofollow": 2, "scope": 1}))
    failed, later = OpenBatch(), OpenBatch()
    failed.settle(visit, None)
    assert failed.closed(0.0, 0.0).refused == {"scope": 1, "nofollow": 2}
    later.prepend(failed)
    later.settle(visit, None)
    assert later.closed(0.0, 0.0).refused == {"scope": 1, "nofollow": 2}


async def test_rules_are_read_for_no_more_hosts_than_can_be_dealt() -> None:
    world, asked = World(), []
    read = world.store.robots
    world.store.robots = lambda origins: asked.append(len(origins)) or read(origins)
    refill = Refill(world.store, world.pump._committer, world.bench, world.clock.now, 200)
    links = [Link(f"http://{n}.test/", f"{n}.test") for n in range(3 + RULES_PER_TRIP_MAX + 1)]
    for link in links:
        refill.want_robots(link)
    trips = [await refill.get(rules_max) for rules_max in (3, 1000, 1000, 1000)]
    assert [link for got in trips for link, _, _ in got.records] == links
    assert asked == [3, RULES_PER_TRIP_MAX, 1]


async def test_a_batch_closes_at_once_where_nothing_else_is_to_be_done(monkeypatch):
    """Else a chain of pages waits for the batch's time at every link of it."""
    monkeypatch.setattr("crawler.frontier.pump.COMMIT_EVERY_S", 3600.0)
    world = World()
    frontier = world.frontier
    pump = asyncio.create_task(world.pump.run(world.recover))
    await frontier.admit(Admitted((Link("http://a.example/", "a.example"),)))
    frontier.seeds_ended()
    async with asyncio.timeout(20):
        lease = await frontier.take()
        assert lease is not None
        frontier.settle(lease, Dropped("timeout", "total_timeout"))
        assert await frontier.take() is None, "committed, so that the crawl is over"
        world.pump.end()
        await pump
    world.pump.close()


@pytest.mark.parametrize(
    "outcome",
    [
        Retry("http_error", None, "busy"),
        Retry("dns_error", None, "failed"),
        Retry("http_error", None, "alive", retry_after_s=60.0),
    ],
)
async def test_a_batch_closes_at_once_where_a_host_is_to_be_left_alone(monkeypatch, outcome):
    """Else a kill within the batch's time forgets what it asked for: a Retry-After may stand on any response but a success."""
    monkeypatch.setattr("crawler.frontier.pump.COMMIT_EVERY_S", 3600.0)
    world = World()
    pump = asyncio.create_task(world.pump.run(world.recover))
    await world.frontier.admit(Admitted(tuple(links(3, 1))))
    world.frontier.seeds_ended()
    async with asyncio.timeout(20):
        one, _, _ = [await world.frontier.take() for _ in range(3)]
        world.frontier.settle(one, outcome)
        while not world.frontier.counts.retrying:
            await asyncio.sleep(0.01)
    pump.cancel()
    await asyncio.wait([pump])
    world.pump.close()


async def test_how_long_a_visit_has_been_out_is_known_though_nothing_is_committed(tmp_path, monkeypatch):
    """Else the last link of a crawl is never suspected, however often the process is killed for it."""
    monkeypatch.setattr("crawler.frontier.in_flight.OUT_LONG_S", 0.1)
    monkeypatch.setattr("crawler.frontier.pump.BEAT_EVERY_S", 0.01)
    world = World(in_flight=InFlight(tmp_path / "out", 4))
    pump = asyncio.create_task(world.pump.run(world.recover))
    await world.frontier.admit(Admitted((Link("http://a.example/", "a.example"),)))
    world.frontier.seeds_ended()
    async with asyncio.timeout(20):
        lease = await world.frontier.take()
        while not _suspects((tmp_path / "out").read_bytes(), crashed=False):
            await asyncio.sleep(0.01)
        world.frontier.settle(lease, Dropped("timeout", "total_timeout"))
        assert await world.frontier.take() is None
        world.pump.end()
        await pump
    world.pump.close()


async def test_links_admitted_by_themselves_hold_memory_until_they_are_committed():
    room = Budget(Plan(1 << 30, dict.fromkeys(VISIT_ACCOUNTS, 10_000), 4, 0))
    outcome = room.account("outcome")
    world = World(links_room=room)
    committed = await world.frontier.admit(Admitted(tuple(links(1, 10))))
    assert outcome.used >= 7000
    second = asyncio.create_task(world.frontier.admit(Admitted(tuple(links(2, 5)))))
    given_up = asyncio.create_task(world.frontier.admit(Admitted(tuple(links(3, 2)))))
    async with asyncio.timeout(20):
        while outcome.waiting_count < 2:
            await asyncio.sleep(0)
        given_up.cancel()
        world.files.fail_next = 1  # the batch is not committed, and what it owes stays reserved
        pump = asyncio.create_task(world.pump.run(world.recover))
        await committed
        await (await second)
        assert world.recovered and outcome.used == 0 and given_up.cancelled()
        world.pump.end()
        await pump
    world.pump.close()


@pytest.mark.parametrize(("length", "most"), [(1, 200), (2000, 100)])
async def test_the_bench_holds_fewer_links_where_they_are_long(length, most):
    world = World()
    long = [Link(f"http://h{n}.test/{'x' * length}", f"h{n}.test", via="http://v.test/" + "x" * length) for n in range(600)]
    world.frontier.pause(Pause.USER)
    pump = asyncio.create_task(world.pump.run(world.recover))
    await (await world.frontier.admit(Admitted(tuple(long))))
    while not world.bench.waiting:
        await asyncio.sleep(0.01)
    for _ in range(20):
        await asyncio.sleep(0.01)
        assert world.bench.waiting <= most
    world.pump.end()
    pump.cancel()
    await asyncio.gather(pump, return_exceptions=True)
    world.pump.close()


async def test_the_bench_holds_no_more_though_many_hosts_run_low_at_once():
    """While a trip to the store takes long, all of them are visited; then each is to have more."""
    world, weights = World(), []
    claim, take_in = world.store.claim, world.pump._take_in

    def slow_claim(*wanted):
        time.sleep(0.02)
        return claim(*wanted)

    def weighed(got):
        take_in(got)
        weights.append(world.bench.weight)

    world.store.claim, world.pump._take_in = slow_claim, weighed
    await world.crawl(links(40, 80), drop, workers=40)
    assert world.visits.total() == 3200
    assert max(weights) <= 200


async def test_hosts_that_ask_for_hours_do_not_keep_others_from_the_bench():
    world = World()
    world.frontier._politeness = politeness(backoff_max_s=1000.0)
    frontier = world.frontier
    slow = [Link(f"http://slow{host}.test/{n}", f"slow{host}.test") for host in range(100) for n in range(4)]

    async def work() -> None:
        while (lease := await frontier.take()) is not None:
            world.visits[lease.link.host] += 1
            asks = Retry("http_error", None, "busy", retry_after_s=900.0)
            frontier.settle(lease, asks if lease.link.host.startswith("slow") else Dropped("skipped", "mime", sign="alive"))

    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        pump = tasks.create_task(world.pump.run(world.recover))
        crew = [tasks.create_task(work()) for _ in range(8)]
        await (await frontier.admit(Admitted(tuple(slow))))
        await (await frontier.admit(Admitted(tuple(links(300, 1)))))
        while frontier.counts.done < 300 or frontier.counts.retrying < 100:
            await asyncio.sleep(0.01)
        assert set(world.visits.values()) == {1} and world.bench.waiting <= 200
        frontier.drain()
        await asyncio.wait(crew)
        world.pump.end()
        await pump
    world.pump.close()
    assert world.store.stats().waiting == 300, "of each slow host the other three"


@pytest.mark.parametrize("is_kept", [False, True])
async def test_hosts_that_rest_for_long_after_their_rules_came_do_not_keep_others_from_the_bench(is_kept):
    """They were visited for them, or may just have been when the process began: the store is told how long they rest."""
    world = World()
    robots = Robots(world, None)
    slow = [Link(f"http://slow{host}.test/{n}", f"slow{host}.test") for host in range(100) for n in range(4)]
    world.frontier._politeness.pause = lambda link: 900.0 if link.host.startswith("slow") else 0.0
    if is_kept:
        world.pump._opened_at = world.clock.now()  # not for the first time
        read = robots_rules.read(404, b"", name="bot", wall=world.clock.wall()).to_bytes()
        world.store._robots = {f"http://slow{host}.test": read for host in range(100)}
    other = links(10, 1)
    async with asyncio.timeout(60):
        crawl = asyncio.create_task(robots.crawl([*slow, *other]))
        while not {link.url for link in other} <= set(world.visits):
            await asyncio.sleep(0.01)
        assert not any(link.url in world.visits for link in slow)
        world.frontier.drain()
        await crawl


@pytest.mark.parametrize(
    ("delay", "workers", "prompt_s"), [(0.01, 8, 1.0), (0.0, 100, 1.0), (0.0, 8, 0.0)], ids=["rest", "always out", "slow"]
)
async def test_hosts_that_have_links_for_ever_do_not_keep_others_from_the_bench(monkeypatch, delay, workers, prompt_s):
    """It has places for fifty, which were given more as they were visited, and the others none until those had no more."""
    monkeypatch.setattr("crawler.frontier.pump.ROOM_EVERY_S", 0.01)
    monkeypatch.setattr("crawler.frontier.workbench.PROMPT_S", prompt_s)
    world = World(delay=delay)
    hosts: set[str] = set()

    async def visit(lease):
        await asyncio.sleep(0 if delay else 0.002)
        hosts.add(lease.link.host)
        if len(hosts) == 200:
            world.frontier.drain()
        return Retry("http_error", None, "alive")

    async with asyncio.timeout(60):
        await world.crawl(links(200, 100), visit, workers)
    assert len(hosts) == 200


@pytest.mark.parametrize("is_large_domain", [False, True])
async def test_hosts_that_rest_do_not_keep_others_from_a_bench_of_which_nothing_can_be_dealt(monkeypatch, is_large_domain):
    """They rest for less than what is long by itself; or they wait for the one domain to which most of them belong."""
    monkeypatch.setattr("crawler.frontier.pump.ROOM_EVERY_S", 0.01)
    world = World(delay=30.0, group_of=(lambda host: host[:1]) if is_large_domain else None)
    first = [Link(f"http://first{n}.test/{page}", f"first{n}.test") for n in range(200) for page in range(4)]
    others = [Link(f"http://{n}.test/", f"{n}.test") for n in range(10)]
    monkeypatch.setattr(world.bench, "end_turns", lambda count, now: [])  # by turns too few leave
    hosts: Counter[str] = Counter()

    async def visit(lease):
        hosts[lease.link.host] += 1
        if {link.host for link in others} <= hosts.keys():
            world.frontier.drain()
        return Dropped("skipped", "mime", sign="alive")

    async with asyncio.timeout(20):
        await world.crawl([*first, *others], visit)
    assert max(hosts.values()) == 1 and len(hosts) <= (11 if is_large_domain else 210)


async def test_a_host_that_rests_makes_way_with_the_commit_of_its_visit(monkeypatch):
    """While workers are idle. It kept its place for a second, or until a rest of up to 5 s was over."""
    monkeypatch.setattr("crawler.frontier.pump.ROOM_EVERY_S", 1e9)
    world = World(delay=30.0)

    async def visit(lease):
        if world.visits.total() >= 600:
            world.frontier.drain()
        return Dropped("skipped", "mime", sign="alive")

    async with asyncio.timeout(20):
        await world.crawl(links(1000, 3), visit)
    assert len({url.rpartition("/")[0] for url in world.visits}) >= 600


async def test_it_says_why_nothing_is_dealt():
    """What the workers wait for is decided where nothing is dealt, and nowhere else."""
    world = World(delay=60.0)
    frontier, pump = world.frontier, asyncio.create_task(world.pump.run(world.recover))

    async def reason() -> str:
        asked = asyncio.create_task(frontier.take())
        await asyncio.sleep(0)
        assert not asked.done()
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        return frontier.waits_for

    assert await reason() == "frontier"
    await (await frontier.admit(Admitted(tuple(links(3, 2)))))
    out = [await frontier.take()]
    for limiter, expected in ((Limiter.MEMORY, "memory"), (Limiter.DESCRIPTORS, "descriptors"), (Limiter.SCARCE, "descriptors")):
        frontier.limit(limiter, 1)
        assert await reason() == expected
        frontier.limit(limiter, None)
    pauses = {Pause.USER: "operator", Pause.OFFLINE: "network", Pause.MEMORY: "memory", Pause.DISK_LOW: "disk"}
    for pause, expected in pauses.items():
        frontier.pause(pause)
        assert await reason() == expected, "the gravest is told"
    for pause in pauses:
        frontier.resume(pause)
    out += [await frontier.take(), await frontier.take()]
    for lease in out:
        frontier.settle(lease, Unvisited())  # its host rests all the same
    assert await reason() == "politeness"
    world.pump.end()
    await pump
    world.pump.close()


async def test_where_all_that_is_left_is_out_no_host_rests():
    """It said ``politeness`` of the last page of a slow server, as if a shorter delay would help."""
    world = World(delay=0.2)
    pump = asyncio.create_task(world.pump.run(world.recover))
    for left, expected in ((2, "politeness"), (1, "frontier")):
        await (await world.frontier.admit(Admitted(tuple(links(1, left)))))
        lease = await world.frontier.take()
        asked = asyncio.create_task(world.frontier.take())
        await asyncio.sleep(0)
        assert world.frontier.waits_for == expected
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        world.frontier.settle(lease, Dropped("skipped", "mime", sign="alive"))
    world.pump.end()
    await pump
    world.pump.close()


# -- robots rules that cannot be had ------------------------------------------------------------------------------


class Robots:
    """A gate over real rules, and how the visit of a robots.txt ends."""

    def __init__(self, world: World, outcome: Dropped) -> None:
        cache = RulesCache(1 << 20)
        self.gate = RobotsGate(cache, name="bot", crawl_delay_cap_s=1.0, obeys=lambda host: True, wall=world.clock.wall)
        self.outcome: Dropped | None = outcome
        world.pump._robots = world.frontier._robots = self.gate
        self.world = world

    async def crawl(self, links, more=()) -> None:
        world = self.world

        async def work() -> None:
            while (lease := await world.frontier.take()) is not None:
                world.visits[lease.link.url] += 1
                if lease.link.kind == "robots":
                    outcome = self.outcome or Dropped("robots_denied", "rule")
                    learned = self.gate.learn(lease.link, outcome)
                    if self.outcome is None:
                        record = robots_rules.read(404, b"", name="bot", wall=world.clock.wall()).to_bytes()
                        self.gate.forgive()
                        self.gate._cache.put(lease.link.anchor, record)
                        learned = [(lease.link.anchor, record)]
                    world.frontier.settle(lease, outcome)
                    world.frontier.rules_learned(learned)
                else:
                    try:
                        refused = self.gate.refuses(lease.link)
                    except KeyError:  # the rules are known no longer
                        world.frontier.settle(lease, Unvisited())
                    else:
                        world.frontier.settle(lease, Dropped(*refused) if refused else Dropped("skipped", "mime"))

        async with asyncio.TaskGroup() as tasks:
            pump = tasks.create_task(world.pump.run(world.recover))
            crew = [tasks.create_task(work()) for _ in range(4)]
            await (await world.frontier.admit(Admitted(tuple(links))))
            for batch in more:
                while world.frontier.counts.waiting:
                    await asyncio.sleep(0)
                self.outcome = None
                await (await world.frontier.admit(Admitted(tuple(batch))))
            world.frontier.seeds_ended()
            await asyncio.wait(crew)
            world.pump.end()
            await pump
        world.pump.close()


async def test_a_rest_that_no_store_knows_is_spent_on_the_bench():
    """Of two visits at a time one ends, and the other is broken off later: its link comes back before its rest is over."""
    world = World(per_host=2)
    world.bench.put([Lease(link, b"%d" % n) for n, link in enumerate(links(1, 2))])
    now = world.clock.now()
    one, other = world.bench.take(now), world.bench.take(now)
    earlier = OpenBatch()
    earlier.hosts[one.link.host] = HostRest(now + 1)
    world.bench.release(one, HostRest(now + 1))
    world.bench.release(other, HostRest(now + 60))  # given back
    world.pump._after_commit(earlier, None)
    world.bench.put([other])
    assert world.bench.take(now + 59) is None
    assert world.bench.take(now + 60) is other
    world.bench.release(other, HostRest(now + 120))
    world.bench.forget(one.link.host, now + 60, now + 90)
    assert one.link.host in world.bench
    assert world.bench.take(now + 120) is None and one.link.host not in world.bench, "its rest is over"
    world.pump.close()


@pytest.mark.parametrize("count", [1, 3000])
async def test_what_waits_for_rules_that_cannot_be_had_is_settled_however_long_its_host_rests(count):
    """Its back-off is far longer than the test may last, and as long as the verdict is kept."""
    world = World(delay=10_000.0)
    ended = Dropped("connect_error", "refused", sign="failed")
    await Robots(world, ended).crawl([*links(1, count), *(Link(f"http://other{n}.test/", f"other{n}.test") for n in range(5))])
    assert world.frontier.counts.reasons["refused"] >= count
    assert {url for url in world.visits if "//h0." in url} == {"http://h0.test/robots.txt"}
    assert world.visits["http://h0.test/robots.txt"] == 1
    assert world.frontier.counts.waiting == 0


async def test_a_new_seed_has_the_robots_txt_asked_for_again():
    world = World()
    robots = Robots(world, Dropped("timeout", "first_byte_timeout", sign="mute"))
    later = [Link(f"http://h0.test/later{n}", "h0.test", "seed") for n in range(30)]
    await robots.crawl(links(1, 50), [later])
    assert world.visits["http://h0.test/robots.txt"] == 2
    assert sum(world.visits[link.url] for link in later) == 30
    assert world.frontier.counts.reasons["first_byte_timeout"] >= 50


async def test_rules_of_one_scheme_that_cannot_be_had_say_nothing_of_the_other():
    """Both are one host on the bench."""
    world = World()
    robots = Robots(world, Dropped("tls_error", "handshake", sign="alive"))
    read = robots_rules.read(404, b"", name="bot", wall=world.clock.wall()).to_bytes()
    robots.gate._cache.put("http://h0.test", read)
    mixed = [Link(f"{scheme}://h0.test/{n}", "h0.test") for n in range(700) for scheme in ("http", "https")]
    await robots.crawl(mixed)
    assert {url for url in world.visits if url.startswith("https:")} == {"https://h0.test/robots.txt"}
    assert sum(url.startswith("http:") for url in world.visits) == 700
    assert world.frontier.counts.reasons["handshake"] >= 700


async def test_hosts_get_their_rules_after_a_trip_to_the_store_that_failed():
    world = World()
    fails, read = [True], world.store.robots

    def robots(origins):
        if fails:
            fails.clear()
            raise StorageError("input/output error", errno=5)
        return read(origins)

    world.store.robots = robots
    async with asyncio.timeout(30):
        await Robots(world, None).crawl(links(5, 2))
    assert len(world.recovered) == 1
    assert world.visits == Counter(link.url for link in links(5, 2)) + Counter(f"http://h{n}.test/robots.txt" for n in range(5))


@pytest.mark.parametrize("outcome", [None, Dropped("timeout", "first_byte_timeout", sign="mute")], ids=["read", "failed"])
async def test_rules_whose_visit_was_not_committed_are_asked_for_again(outcome):
    """They were obeyed, while rows and archive had no trace of them."""
    world = World()
    every = {f"http://h{n}.test/robots.txt" for n in range(5)}
    write = world.files.write

    def fails_once(prepared: Prepared):
        if not world.recovered and every & {settled.lease.link.url for settled in prepared.batch.settled}:
            world.files.fail_next = 1
        return write(prepared)

    world.files.write = fails_once
    async with asyncio.timeout(30):
        await Robots(world, outcome).crawl(links(5, 20))
    assert world.recovered == ["disk full"]
    assert Counter(world.files.written) == Counter(every) + Counter(link.url for link in links(5, 20))
    assert {f"{of}/robots.txt" for of in world.store._robots} == (every if outcome is None else set())


async def all_are_visited(world: World, every: list[Link], visit: Callable[[Lease], Awaitable[None]], *, workers: int) -> None:
    """By so many workers, each of whose visits settles what it was dealt."""

    async def work() -> None:
        while (lease := await world.frontier.take()) is not None:
            world.visits[lease.link.url] += 1
            await visit(lease)

    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        pump = tasks.create_task(world.pump.run(world.recover))
        crew = [tasks.create_task(work()) for _ in range(workers)]
        await world.frontier.admit(Admitted(tuple(every)))
        world.frontier.seeds_ended()
        await asyncio.wait(crew)
        world.pump.end()
        await pump
    world.pump.close()
    assert {link.url for link in every} <= set(world.visits) and world.frontier.counts.waiting == 0


async def test_hosts_whose_rules_stand_at_hosts_in_the_store_do_not_fill_the_bench_for_ever(tmp_path):
    """As example.org/robots.txt leads to www.example.org: none could be claimed, for as many hosts waited as the bench holds."""
    world = World()
    robots = Robots(world, None)
    ended: Counter[str] = Counter()

    async def visit(lease: Lease) -> None:
        link = lease.link
        page = empty_page(link.url, tmp_path)
        if link.kind != "robots":
            world.frontier.settle(lease, Done(page, "ok"))
            return
        if not link.host.startswith("www."):
            www = f"www.{link.host}"
            onward = Link(f"http://{www}/robots.txt", www, "robots", hops=1, anchor=link.anchor)
            assert not world.frontier.put_robots(onward)
            world.frontier.settle(lease, Done(page, "redirect", outlinks=(onward,)))
            return
        ended[link.host] += 1
        number = int(link.host.removeprefix("www.h").removesuffix(".test"))
        if ended[link.host] == 1 and number % 3:  # it fails, or is given back
            world.frontier.settle(lease, Retry("timeout", "read_timeout", "mute") if number % 3 == 1 else Unvisited())
            return
        record = robots_rules.read(404, b"", name="bot", wall=world.clock.wall()).to_bytes()
        robots.gate._cache.put(link.anchor, record)
        world.frontier.settle(lease, Done(page, "ok"))
        world.frontier.rules_learned([(link.anchor, record)])

    await all_are_visited(world, links(600, 1), visit, workers=8)


async def test_all_visits_for_rules_that_stand_at_one_host_are_made_however_full_the_bench_is(tmp_path):
    """Many hosts lead to one that is in the store; what waits for the other rules leaves no place for a second claim of it."""
    world = World()
    robots = Robots(world, None)
    known: set[str] = set()
    all_known = asyncio.Event()

    async def visit(lease: Lease) -> None:
        link = lease.link
        page = empty_page(link.url, tmp_path)
        if link.kind != "robots":
            await all_known.wait()  # until then nobody makes room
            world.frontier.settle(lease, Done(page, "ok"))
        elif link.host != "all.test":
            onward = Link("http://all.test/robots.txt", "all.test", "robots", hops=1, anchor=link.anchor)
            is_queued = not world.frontier.put_robots(onward)
            world.frontier.settle(lease, Done(page, "redirect", outlinks=(onward,) if is_queued else ()))
        else:
            record = robots_rules.read(404, b"", name="bot", wall=world.clock.wall()).to_bytes()
            robots.gate._cache.put(link.anchor, record)
            known.add(link.anchor)
            if len(known) == 40:
                all_known.set()
            world.frontier.settle(lease, Done(page, "ok"))
            world.frontier.rules_learned([(link.anchor, record)])

    await all_are_visited(world, links(40, 4), visit, workers=60)


async def test_who_waits_for_rules_asks_again_where_another_member_has_the_host_they_were_redirected_to():
    """The visit for them waited on the bench of that host, and stands in no queue."""
    world = World()
    Robots(world, None)
    waiting, leaving = links(2, 1)
    world.bench.put([Lease(waiting, b"1"), Lease(leaving, b"2")])
    world.bench.hold_for_robots(waiting.host, True)
    onward = Link("http://h1.test/robots.txt", leaving.host, "robots", anchor="http://h0.test")
    assert world.frontier.put_robots(onward)
    world.pump.holdings.give_back_waiting({1}, lambda host: int(host[1]))
    asks = asyncio.create_task(world.frontier.take())
    await asyncio.sleep(0)
    assert list(world.pump._refill._robots_wanted) == [waiting.host]
    asks.cancel()
    world.pump.close()


async def test_no_robots_txt_is_visited_at_a_host_that_is_anothers_by_now():
    """It is on the bench still, since a visit was out when its slot was lost; to its owner the link goes through the queue."""
    world = World()
    (link,) = links(1, 1)
    world.bench.put([Lease(link, b"1")])
    out = await world.frontier.take()
    onward = Link("http://h0.test/robots.txt", link.host, "robots", anchor="http://other.test")
    world.frontier.deals = lambda host: host != link.host
    world.pump.holdings.give_back_waiting({0}, lambda host: 0)
    world.frontier.settle(out, Unvisited())
    assert link.host in world.bench and not world.frontier.put_robots(onward)
    assert world.bench.waiting == 0
    world.pump.close()


# -- what takes hosts off the bench -------------------------------------------------------------------------------


def is_empty(bench: Workbench) -> bool:
    """Once all rests are over."""
    assert bench.take(1e12) is None
    return not bench.names() and not bench.weight


async def test_no_host_of_a_lost_slot_stays_on_the_bench():
    """Each kept a place for ever: what was out of them and given back, was settled and is nobody's, or waited for rules."""
    world = World()
    world.bench.put([Lease(link, b"%d" % n) for n, link in enumerate(links(3, 1))])
    leases = [await world.frontier.take() for _ in range(2)]
    world.frontier.settle(leases[0], Dropped("skipped", "mime"))
    world.bench.hold_for_robots("h2.test", True)
    assert world.bench.take(0.0) is None
    world.frontier.deals = lambda host: False
    world.pump.holdings.evict({0}, lambda lease: 0, lambda host: 0)
    world.frontier.settle(leases[1], Unvisited())
    assert is_empty(world.bench)
    world.pump.close()


class Blocked:
    """These hosts are wanted no more."""

    def __init__(self, *hosts: str) -> None:
        self.hosts, self.is_set = hosts, True

    def blocks(self, host: str) -> bool:
        return host in self.hosts

    def refuses(self, link: Link) -> tuple[str, str] | None:
        return ("skipped", "excluded") if self.blocks(link.host) else None


async def test_blocked_hosts_that_wait_for_rules_leave_the_bench():
    world = World(exclusion=Blocked("h0.test"))
    (link,) = links(1, 1)
    world.bench.put([Lease(link, b"1")])
    world.bench.hold_for_robots(link.host, True)
    assert world.bench.take(world.clock.now()) is None
    await world.pump.sifter.sift()
    assert is_empty(world.bench)
    world.pump.close()


async def test_a_blocked_host_leaves_the_bench_though_its_rules_come_before_its_turn():
    """It was due, and nobody had looked at it yet: it kept its place for ever."""
    world = World(exclusion=Blocked("h1.test"))
    world.bench.put([Lease(link, b"%d" % n) for n, link in enumerate(links(2, 1))])
    lease = await world.frontier.take()
    assert lease is not None and lease.link.host == "h0.test"
    await world.pump.sifter.sift()
    world.bench.hold_for_robots("h1.test", False)
    world.frontier.settle(lease, Unvisited())
    assert is_empty(world.bench)
    world.pump.close()


async def test_hosts_are_blocked_though_one_of_them_leaves_the_bench_meanwhile():
    """What waits for the rules of the first is settled, and so there is dealing: the second has nothing to deal, and goes."""
    world = World(exclusion=Blocked("h0.test", "h1.test"))
    Robots(world, None)
    asks = asyncio.create_task(world.frontier.take())
    await asyncio.sleep(0)
    onward = Link("http://h0.test/robots.txt", "h0.test", "robots", hops=1, anchor="http://h2.test")
    now = world.clock.now() - 10.0
    world.bench.put([Lease(onward, b"1", now + 60.0), Lease(Link("http://h1.test/", "h1.test"), b"2")])
    world.bench.release(world.bench.take(now), HostRest(now + 1.0))
    world.bench.forget("h1.test", now, now)  # its rest is spent here
    await world.pump.sifter.sift()
    assert world.bench.names() == ["h0.test"] and not world.bench.waiting
    asks.cancel()
    world.pump.close()


class Slow(Blocked):
    """Many expressions: each link takes a while. ``judged`` are the threads that links were judged in."""

    def __init__(self, *hosts: str) -> None:
        super().__init__(*hosts)
        self.judged: list[int] = []

    def refuses(self, link: Link) -> tuple[str, str] | None:
        self.judged.append(threading.get_ident())
        time.sleep(0.001)
        return ("skipped", "excluded") if link.host in self.hosts else None

    def blocks(self, host: str) -> bool:
        return False


async def test_others_have_turns_while_what_waits_is_judged_anew() -> None:
    """With 10,000 expressions the loop stood still for 14 s, and with 30,000 the watchdog ended the process."""
    excluded = Slow("h0.test", "h1.test")
    world = World(exclusion=excluded)
    world.bench.put([Lease(link, b"%d" % n) for n, link in enumerate(links(4, 50))])
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    other = asyncio.create_task(others())
    await world.pump.sifter.sift()
    other.cancel()
    assert world.bench.waiting == 100 and len(excluded.judged) == 200
    assert turns >= 10
    world.pump.close()


async def test_a_drain_does_not_wait_until_all_that_waits_is_judged_anew() -> None:
    """Each commit found more to commit: 2,000 links and 30,000 expressions made it 6 s longer."""
    excluded = Slow("h0.test", "h1.test")
    world = World(exclusion=excluded)
    world.bench.put([Lease(link, b"%d" % n) for n, link in enumerate(links(4, 50))])
    sifts = asyncio.create_task(world.pump.sifter.sift())
    while not excluded.judged:
        await asyncio.sleep(0)
    world.frontier.drain()
    await sifts
    assert len(excluded.judged) == 50 and world.bench.waiting == 150, "of the host it was at"
    world.pump.close()


async def test_what_is_wanted_again_by_the_time_it_is_judged_waits_on() -> None:
    """An exclusion that is taken back, or another in its place: links were left out for good after that had been answered."""

    class TakenBack(Blocked):
        def refuses(self, link: Link) -> tuple[str, str] | None:
            self.refuses = lambda link: None
            return "skipped", "excluded"

        def blocks(self, host: str) -> bool:
            return False

    world = World(exclusion=TakenBack())
    world.bench.put([Lease(link, b"%d" % n) for n, link in enumerate(links(1, 3))])
    await world.pump.sifter.sift()
    assert world.bench.waiting == 3
    world.pump.close()


async def test_what_is_wanted_again_by_the_time_it_is_claimed_is_dealt() -> None:
    """The same of what is judged in the engine thread, where it may take a second."""
    judging, go_on = threading.Event(), threading.Event()

    def blocks(origin: str) -> bool:
        judging.set()
        return go_on.wait()

    exclusion = Excluded(Config(host=[HostConfig(match="h0.test", block=True)]), (), blocks)
    world = World(exclusion=exclusion)
    running = asyncio.create_task(world.pump.run(world.recover))
    await world.frontier.admit(Admitted(tuple(links(1, 1))))
    takes = asyncio.create_task(world.take())
    while not judging.is_set():
        await asyncio.sleep(0)
    exclusion.change(Config())
    go_on.set()
    while not takes.done() and not world.frontier.counts.done:
        await asyncio.sleep(0)
    assert takes.done()
    world.frontier.settle(takes.result(), Dropped("skipped", "mime"))
    world.pump.end()
    await running
    world.pump.close()


async def test_what_is_claimed_is_judged_in_the_engine_thread() -> None:
    """It is up to a thousand links at a time."""
    excluded = Slow("h1.test")
    world = World(exclusion=excluded, per_host=3)
    running = asyncio.create_task(world.pump.run(world.recover))
    await (await world.frontier.admit(Admitted(tuple(links(2, 3)))))
    taken = [await world.take() for _ in range(3)]
    assert {lease.link.host for lease in taken} == {"h0.test"}
    assert excluded.judged and threading.get_ident() not in excluded.judged
    for lease in taken:
        world.frontier.settle(lease, Dropped("skipped", "mime"))
    while world.frontier.counts.done < 6:
        await asyncio.sleep(0)
    world.frontier.drain()
    world.pump.end()
    await running
    world.pump.close()


# -- hosts given up -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delay", [0.0, 1000.0])
async def test_hosts_that_were_given_up_are_remembered_by_the_store_alone(delay):
    """However many there are, however long they rest, and however often links of them are found."""
    world = World(failures=1, delay=delay)

    async def work() -> None:
        while (lease := await world.frontier.take()) is not None:
            world.frontier.settle(lease, Dropped("connect_error", "refused", sign="failed"))

    async with asyncio.TaskGroup() as tasks:
        pump = tasks.create_task(world.pump.run(world.recover))
        crew = [tasks.create_task(work()) for _ in range(4)]
        for found in range(3):
            more = [Link(f"http://h{host}.test/{found}", f"h{host}.test", "link") for host in range(1000)]
            await (await world.frontier.admit(Admitted(tuple(more))))
            while world.frontier.counts.waiting or world.pump.uncommitted_s:
                await asyncio.sleep(0)
        assert len(world.bench) == 0 and len(world.pump._refill._exhausted) < 500
        world.frontier.seeds_ended()
        await asyncio.wait(crew)
        world.pump.end()
        await pump
    world.pump.close()
    assert world.frontier.counts.reasons == {"refused": 1000, "host_down": 2000}


async def test_lines_added_later_to_a_host_that_was_given_up_are_tried():
    world = World(failures=3)
    is_back = False

    async def visit(lease):
        await asyncio.sleep(0)
        return Dropped("skipped", "mime", sign="alive") if is_back else Dropped("connect_error", "refused", sign="failed")

    async def work() -> None:
        while (lease := await world.frontier.take()) is not None:
            world.visits[lease.link.url] += 1
            world.frontier.settle(lease, await visit(lease))

    later = [Link(f"http://h0.test/later{n}", "h0.test", "seed") for n in range(2000)]
    async with asyncio.TaskGroup() as tasks:
        pump = tasks.create_task(world.pump.run(world.recover))
        crew = [tasks.create_task(work()) for _ in range(4)]
        await (await world.frontier.admit(Admitted(tuple(links(1, 1500)))))
        while world.frontier.counts.waiting:
            await asyncio.sleep(0)
        assert world.visits.total() == 3
        is_back = True
        await (await world.frontier.admit(Admitted(tuple(later))))
        world.frontier.seeds_ended()
        await asyncio.wait(crew)
        world.pump.end()
        await pump
    world.pump.close()
    assert sum(world.visits[link.url] for link in later) == 2000
    assert world.frontier.counts.reasons == {"refused": 3, "host_down": 1497, "mime": 2000}


async def test_a_retry_that_is_ordered_while_a_host_is_given_up_is_not_undone_by_that_commit():
    """It was: the person was told how many are due again, and all of them were settled unfetched at once."""
    world = World(failures=2)
    first, second = links(1, 2)
    ordered = threading.Event()

    def write(prepared: Prepared, whole=world.files.write):
        if any(rest.down for rest in prepared.batch.hosts.values()):
            assert ordered.wait(10)
        return whole(prepared)

    world.files.write = write
    async with asyncio.TaskGroup() as tasks:
        pump = tasks.create_task(world.pump.run(world.recover))
        for one in (first, second):
            await (await world.frontier.admit(Admitted((one,))))
            world.frontier.settle(await world.take(), REFUSED)
            while one is first and world.pump.uncommitted_s:
                await asyncio.sleep(0)
        assert world.pump._batches.given_up("h0.test"), "with a commit that is not made yet"
        while world.pump._batches.closing is None:
            await asyncio.sleep(0)
        assert await world.pump.revive(Selection(host="h0.test")) == 1
        ordered.set()
        await world.end_with(REFUSED, pump)
    assert world.visits == {first.url: 2, second.url: 1}
    assert world.frontier.counts.reasons == {"refused": 2}


async def test_a_host_that_is_given_up_while_a_retry_goes_through_the_records_is_tried_again():
    world = World(failures=2)
    begun, given_up = threading.Event(), threading.Event()

    def revive_some(which: Selection, after: bytes, whole=world.store.revive_some):
        begun.set()
        assert given_up.wait(10)
        return whole(which, after)

    world.store.revive_some = revive_some

    first, second = links(1, 2)
    async with asyncio.TaskGroup() as tasks:
        pump = tasks.create_task(world.pump.run(world.recover))
        await (await world.frontier.admit(Admitted((first,))))
        world.frontier.settle(await world.take(), REFUSED)
        await (await world.frontier.admit(Admitted((second,))))
        lease = await world.take()
        retry = tasks.create_task(world.pump.revive(Selection(outcomes=frozenset({"connect_error"}))))
        while not begun.is_set():
            await asyncio.sleep(0)
        world.frontier.settle(lease, REFUSED)
        assert world.bench.state("h0.test").down
        given_up.set()
        assert await retry == 1
        await world.end_with(REFUSED, pump)
    assert world.visits == {first.url: 2, second.url: 1}
    assert world.frontier.counts.reasons == {"refused": 2}


async def test_what_a_lost_disk_held_of_one_slot_has_no_host_of_another_tried_again():
    """A node looks through one slot after the other for it, meanwhile its other hosts are given up as ever."""
    world = World(failures=1)
    async with asyncio.TaskGroup() as tasks:
        pump = tasks.create_task(world.pump.run(world.recover))
        await (await world.frontier.admit(Admitted(tuple(links(1, 1500)))))
        world.frontier.settle(await world.take(), REFUSED)
        assert world.pump._batches.given_up("h0.test"), "with a commit that is not made yet"
        assert await world.pump.revive(Selection(files=frozenset({"lost"}), slot=0)) == 0
        await world.end_with(REFUSED, pump)
    assert world.frontier.counts.reasons == {"refused": 1, "host_down": 1499}


async def test_a_visit_that_was_out_when_its_host_was_given_up_does_not_undo_a_retry():
    """It counted as one more failure in a row: the host was given up again, and what was due again settled unfetched."""
    world = World(per_host=2, failures=2)

    async with asyncio.TaskGroup() as tasks:
        pump = tasks.create_task(world.pump.run(world.recover))
        await (await world.frontier.admit(Admitted(tuple(links(1, 3)))))
        slow = await world.take()
        for _ in range(2):
            world.frontier.settle(await world.take(), REFUSED)
        while world.pump.uncommitted_s:
            await asyncio.sleep(0)
        assert world.bench.state("h0.test").down
        assert await world.pump.revive(Selection(host="h0.test")) == 2
        world.frontier.settle(slow, REFUSED)
        await world.end_with(Dropped("skipped", "mime", sign="alive"), pump)
    assert world.frontier.counts.reasons == {"refused": 1, "mime": 2}


async def test_suspects_are_visited_and_committed_one_at_a_time():
    """So that a commit that ends the process is known to have been one of them's doing."""
    world = World(per_host=9)
    together = []
    write = world.files.write
    world.files.write = lambda prepared: together.append(sum(s.lease.suspect for s in prepared.batch.settled)) or write(prepared)
    claim = world.store.claim
    world.store.claim = lambda *args: [replace(lease, suspect=True) for lease in claim(*args)]
    await world.crawl(links(5, 8), drop)
    assert world.visits.total() == 40
    assert set(together) <= {0, 1} and sum(together) == 40


@pytest.mark.parametrize("is_made", [True, False])
async def test_the_next_suspect_waits_though_one_that_was_settled_unfetched_is_committed(is_made):
    """Or though its batch has failed: the one that was visited meanwhile is not committed yet."""
    world = World()
    world.bench.put([Lease(link, b"%d" % n, suspect=True) for n, link in enumerate(links(3, 1))])
    world.frontier.settle_unfetched([(world.bench.clear("h0.test")[0], ("skipped", "crashed"))])
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def commit(batch):
        begun.set()
        await go_on.wait()
        if not is_made:
            raise StorageError("disk full", errno=28)

    async def rewind(claimed): ...

    world.pump._committer.commit, world.pump._committer.rewind, world.pump._recover = commit, rewind, world.recover
    committing = asyncio.create_task(world.pump._commit())
    await begun.wait()
    world.frontier.settle(await world.frontier.take(), Dropped("skipped", "mime", sign="alive"))
    go_on.set()
    await committing
    assert world.bench.take(world.clock.now()) is None
    world.pump._after_commit(world.pump._batches.close(), None)
    assert world.bench.take(world.clock.now()) is not None
    world.pump.close()


async def test_a_crawl_delay_outlives_the_rules_it_was_read_from():
    """A visit is out while the rules of its host are given up for others': the host rests as long all the same."""
    world = World()
    cache = RulesCache(1 << 20)
    gate = RobotsGate(cache, name="bot", crawl_delay_cap_s=30.0, obeys=lambda host: True, wall=world.clock.wall)
    rules = robots_rules.read(200, b"User-agent: *\nCrawl-delay: 20\n", name="bot", wall=world.clock.wall())
    cache.put("http://h0.test", rules.to_bytes())
    world.frontier._robots, world.frontier._politeness._crawl_delay = gate, gate.delay
    (link,) = links(1, 1)
    world.bench.put([Lease(link, b"1")])
    lease = await world.frontier.take()
    gate.forget()
    began = world.clock.now()
    world.frontier.settle(lease, Dropped("timeout", "total_timeout", sign="mute"))
    assert world.bench.state(link.host).due >= began + 20
    world.pump.close()


async def test_a_crawl_delay_counts_from_the_visit_for_the_rules_wherever_they_were_found():
    """A robots.txt that leads to another host's: the first visit was of this host, and only the second told of its delay."""
    world = World()
    robots = Robots(world, Dropped("robots_denied", "rule"))
    world.frontier._politeness._crawl_delay = robots.gate.delay
    (link,) = links(1, 1)
    world.bench.put([Lease(link, b"1")])
    record = robots_rules.read(200, b"User-agent: *\nCrawl-delay: 20\n", name="bot", wall=world.clock.wall()).to_bytes()
    began = world.clock.now()
    await world.frontier.receive((), [("http://h0.test", record)], ())
    assert world.bench.state(link.host).due >= began + 1, "the cap of the gate"
    world.pump.close()


def test_hosts_of_a_member_that_has_made_no_commit_count_as_visited_when_it_began():
    """It may have been killed before its first one, and have had slots and visits out."""
    world = World()
    member = SimpleNamespace(deals=lambda host: True, taken_at=lambda host: 0.0)
    clock = world.clock
    pump = Pump(world.store, world.bench, handed(), world.files, clock=clock.now, wall=clock.wall, links_max=9, member=member)
    assert pump.taken_at("h0.test") == pump.committed_at
    pump.close()
    world.pump.close()


async def test_a_crawl_delay_holds_after_a_start_even_where_the_rules_must_be_asked_for_again():
    """The last visit before a kill is not known: rules that have grown old since still say how long it is to rest after that."""
    world = World()
    cache = RulesCache(1 << 20)
    gate = RobotsGate(cache, name="bot", crawl_delay_cap_s=30.0, obeys=lambda host: True, wall=world.clock.wall)
    world.frontier._robots, world.frontier._politeness._crawl_delay = gate, gate.delay
    old = robots_rules.read(200, b"User-agent: *\nCrawl-delay: 20\n", name="bot", wall=world.clock.wall() - 90_000)
    (link,) = links(1, 1)
    world.bench.put([Lease(link, b"1")])
    world.pump._opened_at = world.clock.now()  # not for the first time
    world.pump._take_in_robots(gate, link, old.to_bytes(), 0)
    assert world.bench.take(world.pump._opened_at + 19) is None
    assert world.bench.take(world.pump._opened_at + 20).link.kind == "robots"
    world.pump.close()


@pytest.mark.parametrize("is_at_hand", [False, True])
async def test_a_crawl_delay_holds_for_a_host_that_was_taken_over(is_at_hand):
    """The last visit of the node that had it is not known here, and this one has run for long."""
    world = World()
    robots = Robots(world, Dropped("robots_denied", "rule"))
    world.frontier._politeness._crawl_delay = robots.gate.delay
    taken_at = world.clock.now() + 1000
    world.pump.member = SimpleNamespace(taken_at=lambda host: taken_at)
    record = robots_rules.read(200, b"User-agent: *\nCrawl-delay: 20\n", name="bot", wall=world.clock.wall()).to_bytes()
    (link,) = links(1, 1)
    if is_at_hand:
        robots.gate.load("http://h0.test", record)
    world.pump._take_in(Got([Lease(link, b"1", taken_at)], [], set(), set(), {}))
    if not is_at_hand:
        world.pump._take_in_robots(robots.gate, link, record, 0)
    assert world.bench.state(link.host).due == taken_at + 1, "the cap of the gate"
    world.pump.close()
