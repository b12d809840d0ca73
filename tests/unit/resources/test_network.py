"""What a lost network may be to blame for is held, and settled once somebody answers or given back once nobody does."""

import asyncio
import logging

import pytest
from support.frontiers import Time, frontier, lease
from support.pages import page_of

from crawler.core.errors import StorageError
from crawler.core.model import Done, Dropped, Retry, Unvisited
from crawler.resources.network import Network

SUSPECT = Retry("timeout", "connect_timeout")
SILENT = Dropped("timeout", "read_timeout")
REFUSED = Dropped("connect_error", "refused")
PATIENCE_S = 600.0


class World:
    def __init__(self) -> None:
        self.time, self.settled = Time(), []
        self.frontier = frontier(self.time)
        self.reachable: set[str] = set()
        self.tried: list[str] = []
        self.connect_s = 0.0
        self.names_told, self.speaks, self.asked = 0, True, 0
        self.network = Network(
            self.frontier,
            self.reaches,
            self,
            clock=self.time,
            patience_s=PATIENCE_S,
        )

    async def reaches(self, host: str) -> bool:
        self.tried.append(host)
        self.time.now += self.connect_s
        return host in self.reachable

    async def speak(self) -> bool:
        self.asked += 1
        return self.speaks

    def ends(self, outcome, *hosts: str) -> None:
        for host in hosts:
            self.settle(self.network.observe(lease(f"http://{host}/"), outcome))

    def settle(self, visits) -> None:
        self.settled += ((lease.link.host, outcome) for lease, outcome in visits)

    async def watched(self, until) -> None:
        """As the crawl watches, until that holds."""
        while not until():
            self.time.now += 1
            self.settle(self.network.tick())
            await self.network.probe()
            await asyncio.sleep(0)


@pytest.fixture
def world(caplog):
    caplog.set_level(logging.INFO, "crawler.resources")  # what the frontier logs of pauses is not of interest here
    return World()


def hosts(count: int, name: str = "h") -> list[str]:
    return [f"{name}{number}.test" for number in range(count)]


def test_an_answer_is_settled_at_once(world):
    world.ends(REFUSED, "a.test")
    assert world.settled == [("a.test", REFUSED)] and world.frontier._held == 0


def test_what_may_be_our_fault_is_held_until_somebody_answers(world, caplog):
    world.ends(SUSPECT, *hosts(10))
    world.ends(SILENT, "b.test")
    assert world.settled == [] and world.frontier._held == 11
    world.ends(REFUSED, "a.test")
    assert world.settled == [*((host, SUSPECT) for host in hosts(10)), ("b.test", SILENT), ("a.test", REFUSED)]
    assert world.frontier._held == 0 and not caplog.messages


def test_when_nobody_answers_the_crawl_pauses_and_all_that_was_held_is_given_back(world, caplog):
    world.ends(SUSPECT, *hosts(49))
    assert world.frontier.pauses == set()
    world.ends(SUSPECT, "last.test")
    assert world.frontier.pauses == {"offline"} and len(caplog.messages) == 1
    assert [outcome for _, outcome in world.settled] == [Unvisited()] * 50


def test_a_page_that_was_cut_meanwhile_is_given_back_with_its_body(world, tmp_path):
    page = page_of(tmp_path, [b"x" * 100_000])
    world.ends(SUSPECT, *hosts(49))
    world.ends(Done(page, "timeout", "read_timeout"), "cut.test")
    assert page.body.path is not None and page.body.path.exists()
    world.ends(SUSPECT, "last.test")
    assert ("cut.test", Unvisited()) in world.settled and not page.body.path.exists()


async def test_the_first_answer_from_anybody_ends_it(world, caplog):
    world.ends(SUSPECT, *hosts(50))
    world.ends(REFUSED, "a.test")
    assert world.frontier.pauses == set() and world.settled[-1] == ("a.test", REFUSED) and len(caplog.messages) == 2


async def test_a_host_that_had_answered_is_tried_and_ends_it_when_it_can_be_reached(world, caplog):
    world.ends(REFUSED, "witness.test")
    world.ends(SUSPECT, *hosts(50))
    await world.watched(lambda: len(world.tried) > 2)
    assert set(world.tried) == {"witness.test"} and world.frontier.pauses == {"offline"}
    world.reachable.add("witness.test")
    await world.watched(lambda: not world.frontier.pauses)
    assert len(caplog.messages) == 2


@pytest.mark.parametrize(("connect_s", "is_held"), [(0.1, False), (3.0, True)])
async def test_a_witness_that_takes_no_connection_at_once_leaves_it_open_whether_the_network_was_lost(world, connect_s, is_held):
    world.connect_s, world.reachable = connect_s, set(hosts(8))
    for _ in range(2):
        world.ends(REFUSED, *hosts(8))
        world.time.now += 30.0
        world.settled.clear()
        world.ends(SILENT, *hosts(8))
        await world.watched(lambda: not world.frontier.pauses)
    assert world.settled == [(host, Unvisited() if is_held else SILENT) for host in hosts(8)]


async def test_one_visit_is_dealt_now_and_then_to_see_whether_anybody_answers(world):
    from crawler.core.model import Lease, Link

    world.ends(SUSPECT, *hosts(50))
    world.frontier.bench.put(Lease(Link(f"http://p.test/{n}", "p.test"), bytes([n + 1])) for n in range(9))
    takers = [asyncio.create_task(world.frontier.take()) for _ in range(3)]
    await world.watched(lambda: any(taker.done() for taker in takers))
    assert sum(taker.done() for taker in takers) == 1, "one at a time"
    for taker in takers:
        taker.cancel()
    await asyncio.wait(takers)


async def test_an_outage_longer_than_the_patience_ends_the_crawl_and_a_shorter_one_before_counts_for_nothing(world):
    world.ends(SUSPECT, *hosts(50))
    world.time.now += PATIENCE_S - 10
    world.ends(REFUSED, "a.test")
    world.ends(SUSPECT, *hosts(50, "again"))
    began = world.time.now
    with pytest.raises(StorageError, match="network is down"):
        await world.watched(lambda: False)
    assert world.time.now - began >= PATIENCE_S


async def test_what_is_held_while_nothing_else_is_out_is_settled_as_judged(world):
    """No other visit could tell more."""
    world.ends(SUSPECT, *hosts(3))
    assert world.settled == []
    await world.watched(lambda: world.settled)
    assert world.settled == [(host, SUSPECT) for host in hosts(3)] and world.frontier.pauses == set()


@pytest.mark.parametrize("speaks", [True, False])
async def test_a_zone_that_is_silent_for_ever_pauses_the_others_once_and_name_servers_that_are_each_time(world, speaks):
    untold = Retry("dns_error", "dns_timeout")
    world.speaks = speaks
    world.reachable.add("192.0.2.1")
    for time in range(3):
        world.ends(REFUSED, "192.0.2.1")
        world.ends(untold, *hosts(50))
        assert world.frontier.pauses == ({"offline"} if time == 0 or not speaks else set())
        await world.watched(lambda: not world.frontier.pauses)


def test_the_end_of_the_crawl_gives_back_what_is_held(world):
    world.ends(SUSPECT, *hosts(3))
    world.settle(world.network.flush())
    assert [outcome for _, outcome in world.settled] == [Unvisited()] * 3 and world.frontier._held == 0


async def test_why_nobody_responds_is_told(world, caplog):
    world.ends(Retry("connect_error", "proxy", "failed", "status 407"), *hosts(50))
    assert "last fault: proxy, status 407" in caplog.text
    world.ends(Dropped("blocked", "address", "private"), "refused.test")  # nobody was asked: that is no reason
    world.time.now += PATIENCE_S
    with pytest.raises(StorageError, match="last fault: proxy, status 407"):
        await world.watched(lambda: False)


async def test_where_nobody_ever_responds_it_is_not_said_that_somebody_did(world, caplog):
    world.ends(SUSPECT, *hosts(50))
    for number in range(20):
        world.time.now += 100
        await world.network.probe()
        world.ends(SUSPECT, f"probed{number}.test")
        if not world.frontier.pauses:
            break
    assert not world.frontier.pauses
    assert "responds again" not in caplog.text and "taken to work after all" in caplog.text


UNNAMED = Retry("dns_error", "servfail")
FINE = Dropped("connect_error", "refused")


@pytest.mark.parametrize("reason", ["servfail", "dns_timeout", "resolver_unreachable"])
async def test_a_name_that_no_name_server_tells_is_given_back_though_hosts_respond_at_known_addresses(world, reason, caplog):
    """It was its host's fault as soon as any of them did: 25 of 900 hosts failed for good in 44 s of SERVFAIL."""
    world.speaks = False
    failed = Retry("dns_error", reason)
    for n in range(5):
        world.ends(failed, f"h{n}.test")
        world.ends(FINE, "127.0.0.1")
    assert {host for host, _ in world.settled} == {"127.0.0.1"} and world.frontier._held == 5
    await world.watched(lambda: len(world.settled) == 10)
    assert all(isinstance(outcome, Unvisited) and outcome.rest_s for host, outcome in world.settled if host != "127.0.0.1")
    assert world.frontier._held == 0 and not world.frontier.pauses and world.asked == 1 and len(caplog.messages) == 1


async def test_it_is_its_hosts_fault_where_a_name_server_tells_another(world):
    world.speaks = False
    world.ends(UNNAMED, "bad.test")
    world.names_told += 1
    world.ends(FINE, "a.test")
    assert ("bad.test", UNNAMED) in world.settled and world.asked == 0


async def test_or_says_anything_when_it_is_asked(world):
    world.ends(UNNAMED, "bad.test")
    world.ends(FINE, "a.test")
    await world.watched(lambda: len(world.settled) == 2)
    assert ("bad.test", UNNAMED) in world.settled and world.asked == 1


async def test_name_servers_that_say_nothing_for_longer_than_the_patience_end_the_crawl(world):
    """Not those that were silent twice, long ago and now."""
    world.speaks = False
    for _ in range(2):
        world.ends(UNNAMED, "h.test")
        world.ends(FINE, "a.test")
        await world.watched(lambda: not world.frontier._held)
        world.time.now += PATIENCE_S + 1
    with pytest.raises(StorageError, match="network is down"):
        for _ in range(1000):
            world.time.now += 1
            world.ends(UNNAMED, "h.test")
            world.ends(FINE, "a.test")
            await world.watched(lambda: not world.frontier._held)


async def test_those_whose_names_nobody_has_told_are_given_back_at_the_end(world):
    world.ends(UNNAMED, "h.test")
    world.ends(FINE, "a.test")
    world.settle(world.network.flush())
    assert world.settled[-1] == ("h.test", Unvisited()) and world.frontier._held == 0
