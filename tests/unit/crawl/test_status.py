"""What is told of a crawl at one moment agrees with what its frontier and store hold."""

import asyncio
from typing import get_args

import pytest

from crawler.config.sections import Config
from crawler.core.batch import Admitted
from crawler.core.model import Dropped
from crawler.core.snapshot import LongestHost, Pause, Snapshot, WaitsFor
from crawler.core.text import share
from crawler.crawl.failing_hosts import HOSTS_MAX, FailingHosts
from crawler.crawl.status import FAILING_HOSTS, WAITS, pages_between, snapshot_of
from crawler.crawl.wiring import open_crawl
from crawler.parse.seeds import Chunk, read


@pytest.fixture
def config(tmp_path):
    return Config(output=str(tmp_path / "out"), robots=False, delay=7, per_host=2, workers=5, memory_limit=8 << 30)


def lines(*urls: str) -> Chunk:
    (chunk,) = read([], urls)
    return chunk


class Pumped:
    """An open crawl whose pump runs and whose workers do not: the test takes and settles."""

    def __init__(self, config):
        self._config = config

    async def __aenter__(self):
        self._opened = open_crawl(self._config)
        self.crawl = await self._opened.__aenter__()
        self.pump = asyncio.create_task(self.crawl.pump.run(self.crawl.disk.recover))
        return self

    async def __aexit__(self, *error):
        self.crawl.pump.end()
        await self.pump
        await self._opened.__aexit__(*error)

    async def admit(self, *urls: str) -> None:
        chunk = lines(*urls)
        await (await self.crawl.frontier.admit(Admitted(chunk.links, chunk.faults, chunk.position)))

    async def committed(self) -> None:
        await (await self.crawl.frontier.admit(Admitted(())))


async def test_a_crawl_that_has_not_begun_has_nothing(config):
    async with open_crawl(config) as crawl:
        now = snapshot_of(crawl)
    assert (now.state, now.waits_for, now.reading) == ("running", "nothing", True)
    assert (now.known, now.done, now.waiting, now.in_flight, now.bytes) == (0, 0, 0, 0, 0)
    assert now.longest_host is None and now.failing_hosts == ()


async def test_counts_follow_each_commit(config):
    async with Pumped(config) as pumped:
        await pumped.admit("http://a.test/1", "http://a.test/2", "http://a.test/3", "http://b.test/", "no url", "http://b.test/")
        crawl = pumped.crawl
        now = snapshot_of(crawl)
        assert (now.known, now.waiting, now.done) == (4, 4, 0)
        assert now.lines == {"invalid_url": 1, "duplicate": 1}
        assert now.longest_host == LongestHost("a.test", 3, 7.0, 2)
        lease = await crawl.frontier.take()
        assert snapshot_of(crawl).in_flight == 1
        crawl.frontier.settle(lease, Dropped("dns_error", "nxdomain"))
        await pumped.committed()
        now = snapshot_of(crawl)
        assert (now.known, now.waiting, now.done, now.in_flight) == (4, 3, 1, 0)
        assert now.outcomes == {"dns_error": 1}
        assert now.at >= 0


async def test_the_state_is_what_keeps_it_from_running(config):
    async with open_crawl(config) as crawl:
        frontier = crawl.frontier
        for pause, state in ((Pause.USER, "paused"), (Pause.DISK_LOW, "paused"), (Pause.OFFLINE, "offline")):
            frontier.pause(pause)
            assert snapshot_of(crawl).state == state
            frontier.resume(pause)
        assert snapshot_of(crawl).state == "running"
        frontier.seeds_ended()
        assert not snapshot_of(crawl).reading
        crawl.drain("test")
        assert snapshot_of(crawl).state == "draining"
        assert snapshot_of(crawl, "ended").state == "ended"


@pytest.mark.parametrize(
    ("pause", "waits_for"), [(Pause.DISK, "disk"), (Pause.MEMORY, "memory"), (Pause.OFFLINE, "network"), (Pause.USER, "operator")]
)
async def test_a_pause_of_the_machine_is_what_the_workers_wait_for(config, pause, waits_for):
    async with open_crawl(config) as crawl:
        crawl.frontier.pause(pause)
        assert snapshot_of(crawl).waits_for == waits_for
        crawl.frontier.resume(pause)
        assert snapshot_of(crawl).waits_for == "nothing"


def test_of_more_hosts_than_are_counted_none_has_failed_too_often():
    hosts = FailingHosts()
    for _ in range(3):
        for number in range(3 * HOSTS_MAX):
            hosts.add(f"h{number}.test")
            hosts.add("bad.test")
    told = hosts.top(HOSTS_MAX)
    assert told[0] == ("bad.test", 9 * HOSTS_MAX) and told[1][1] <= 3 and len(told) == HOSTS_MAX


async def test_at_most_ten_failing_hosts_are_named_the_worst_first(config):
    async with open_crawl(config) as crawl:
        for number in range(FAILING_HOSTS + 5):
            for _ in range(number + 1):
                crawl.failing_hosts.add(f"h{number}.test")
        named = snapshot_of(crawl).failing_hosts
    assert named == tuple((f"h{number}.test", number + 1) for number in range(FAILING_HOSTS + 4, 4, -1))


def test_people_are_told_in_words_what_the_workers_wait_for():
    assert {*WAITS, "nothing"} == set(get_args(WaitsFor))


def test_pages_that_are_visited_again_by_schedule_count_as_settled_though_no_more_are_done():
    first, last = (Snapshot(at=at, state="running", done=10, settled=settled) for at, settled in ((0.0, 10), (2.0, 15)))
    assert (pages_between(first, last), pages_between(last, first)) == (5, 0)


def test_all_of_it_is_said_of_all_of_it_alone():
    assert [share(done, 3_003) for done in (0, 1, 3_002, 3_003)] == [" (0.0%)", " (0.0%)", " (99.9%)", " (100.0%)"]
    assert share(0, 0) == ""
