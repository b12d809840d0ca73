"""The division of the memory limit, and random histories of admission: no leak, no deadlock, never above an account."""

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from support.pages import page_of

from crawler.config.load import load
from crawler.core.batch import Admitted
from crawler.core.content_coding import decoder_bytes
from crawler.core.errors import ConfigError
from crawler.core.model import Done, Input, LineFault, Link
from crawler.core.page import MEMORY_BYTES_MAX
from crawler.crawl import planning
from crawler.resources.memory_budget import AHEAD, Account, Budget, weight
from crawler.resources.memory_plan import (
    BODY_BYTES,
    CONNECTION_BYTES,
    HEAD_COPIES,
    TUNNEL_BYTES,
    VISIT_ACCOUNTS,
    Needs,
    Plan,
    default_limit,
    divide,
    document_bytes,
    reading_bytes,
)

MIB = 1 << 20


@given(
    st.integers(1, 1 << 43),
    st.integers(1, 100_000),
    st.integers(0, 64),
    st.integers(0, 1 << 30),
    st.integers(0, 1 << 40),
    st.integers(0, 1 << 24),
    st.booleans(),
)
def test_a_plan_fits_its_limit_or_is_refused_with_one_that_does(limit, workers, parsers, max_parse, max_body, max_head, control):
    needs = Needs(workers, parsers, max_parse, max_body, max_head, 100_000, control)
    try:
        plan = divide(limit, needs)
    except ConfigError as error:
        assert "too small" in error.faults[0]
        assert "interpreter and libraries" in error.faults[0]
        smallest = int(error.faults[1].rpartition(" ")[2].removesuffix("MiB")) * MIB
        assert smallest > limit
        assert divide(smallest, needs).visits_max >= min(4, workers)
        with pytest.raises(ConfigError):
            divide(smallest - MIB, needs)
        for fault in error.faults[2:]:
            *_, key, value = fault.split()
            fewer = int(value) if key == "parsers" else int(value[:-3]) << {"KiB": 10, "MiB": 20}[value[-3:]]
            assert divide(limit, replace(needs, **{key: fewer})).visits_max >= min(4, workers)
    else:
        assert sum(plan.accounts.values()) <= limit
        assert min(4, workers) <= plan.visits_max <= workers
        assert plan.accounts["connection"] == plan.visits_max * CONNECTION_BYTES
        largest = max(decoder_bytes("br", max_body), decoder_bytes("zstd", max_body))
        if max_parse:
            largest = max(largest, document_bytes(max_parse, 100_000), reading_bytes(max_parse, 100_000))
        assert plan.accounts["parse"] >= largest, "no reservation exceeds its account"
        assert plan.accounts["head"] >= HEAD_COPIES * max_head
        assert all(size >= 0 for size in plan.accounts.values())
        assert plan.accounts["body"] == plan.visits_max * plan.body_bytes
        assert plan.parser_memory_bytes > 0 or not parsers


@pytest.mark.parametrize(
    ("told", "size"),
    [
        ({}, CONNECTION_BYTES),
        ({"proxy": "http://p.example:3128"}, CONNECTION_BYTES),
        ({"proxy": "https://p.example:3128"}, TUNNEL_BYTES),
        ({"host": [{"match": "a.example", "proxy": "HTTPS://p.example:3128"}]}, TUNNEL_BYTES),
    ],
)
async def test_by_way_of_a_tls_proxy_a_visit_takes_more(told, size):
    """600 workers took 283 MiB under a limit of 256 MiB."""
    told = told | {"urls": ["https://a.example/"], "memory_limit": "256MiB", "workers": 600}
    budget = Budget(planning.plan_of(load(told, environ={}).config))
    assert budget.account("connection").bytes_max == budget.plan.visits_max * size
    async with budget.visit(), budget.visit():
        assert budget.account("connection").used == 2 * size


def test_room_is_left_for_thousands_of_expressions():
    """100,000 took 160 MiB, in no account, and each parser process 80 of the 48 that its documents had."""
    told = {"urls": ["https://a.example/"], "depth": 1, "parsers": 2, "memory_limit": "1GiB", "workers": 10}
    few = planning.plan_of(load(told | {"exclude": ["/private/"] * 50}, environ={}).config)
    assert few == planning.plan_of(load(told, environ={}).config)
    many = planning.plan_of(load(told | {"include": ["x" * 34] * 50_000, "exclude": ["y" * 34] * 50_000}, environ={}).config)
    assert many.accounts["base"] - few.accounts["base"] > 145 * MIB
    assert many.accounts["parsers"] - few.accounts["parsers"] > 145 * MIB
    assert many.parser_memory_bytes == few.parser_memory_bytes
    assert sum(many.accounts.values()) <= 1 << 30


def test_a_number_of_parsers_that_nobody_can_mean_is_refused_at_once():
    needs = Needs(100, 1 << 62, 4 * MIB, 64 * MIB, 256 << 10, 100_000)
    with pytest.raises(ConfigError, match="parsers 8"):
        divide(512 * MIB, needs)


def test_ordinary_limits():
    needs = Needs(
        workers=500, parsers=1, max_parse=4 * MIB, max_body=64 * MIB, max_head=256 << 10, max_outlinks=100_000, control=True
    )
    small = divide(256 * MIB, needs)
    assert small.visits_max > 60
    assert small.accounts["store"] == 64 * MIB
    ordinary = divide(512 * MIB, replace(needs, workers=100))
    assert ordinary.visits_max == 100
    assert ordinary.accounts["idle"] > 4 * small.accounts["idle"], "what nothing else has a use for keeps connections"
    assert (small.body_memory_bytes, ordinary.body_memory_bytes) == (MEMORY_BYTES_MAX, 2 * MEMORY_BYTES_MAX)
    assert divide(150 * MIB, replace(needs, workers=100, parsers=0, max_parse=0)).visits_max >= 4
    assert "256MiB" in small.table().splitlines()[-1]
    assert default_limit(None) == default_limit(1 << 40) == 512 * MIB
    assert default_limit(100 * MIB) == 80 * MIB


def plan_of(connection: int, body: int, parse: int, outcome: int, head: int = MIB) -> Plan:
    sizes = (connection, body, head, parse, outcome)
    return Plan(1 << 30, dict(zip(VISIT_ACCOUNTS, sizes, strict=True)) | {"base": 7}, 4, 0)


async def test_first_come_first_served_also_for_the_large():
    account = Account("x", 100)
    first = await account.take(60)
    order = []

    async def later(size: int) -> None:
        (await account.take(size)).release()
        order.append(size)

    tasks = []
    for size in (90, 10, 20):
        tasks.append(asyncio.ensure_future(later(size)))
        await asyncio.sleep(0)
    assert account.waits == 3
    first.release()
    await asyncio.gather(*tasks)
    assert order == [90, 10, 20]
    assert account.used == 0


async def test_a_cancelled_waiter_holds_nobody_up():
    account = Account("x", 100)
    first = await account.take(60)
    large = asyncio.ensure_future(account.take(90))
    small = asyncio.ensure_future(account.take(40))
    await asyncio.sleep(0)
    large.cancel()
    (await small).release()
    granted = asyncio.ensure_future(account.take(90))
    await asyncio.sleep(0)
    first.release()
    granted.cancel()  # it was given its turn, and goes without it
    with pytest.raises(asyncio.CancelledError):
        await granted
    assert account.used == 0


async def test_more_than_all_counts_as_all():
    account = Account("x", 100)
    with await account.take(10**9) as all_of_it:
        assert all_of_it.bytes == account.used == 100
        all_of_it.shrink(30)
        assert account.used == 30
    all_of_it.release()
    assert account.used == 0


async def test_what_may_not_be_waited_for():
    """An earlier account is never taken while a later one is held: that is how two visits would wait for each other."""
    budget = Budget(plan_of(10**6, 10**6, 10**6, 10**6))
    async with budget.visit() as visit:
        await visit.parse(10, 1, 0)
        with pytest.raises(AssertionError):
            await visit.decode(1)
    assert all(use.used == 0 for use in budget.uses().values())


async def test_uses_are_told_for_every_account():
    budget = Budget(plan_of(10**6, 10**6, 10**6, 10**6))
    budget.measure("base", lambda: 5)
    async with budget.visit() as visit:
        assert budget.uses()["connection"] == (10**6, CONNECTION_BYTES, 0)
        visit.received(100)
        assert budget.uses()["connection"].used == 0
        assert budget.uses()["body"].used == 100
        outcome = await visit.outcome(50)
    assert budget.uses() == {
        "connection": (10**6, 0, 0),
        "body": (10**6, 0, 0),
        "head": (MIB, 0, 0),
        "parse": (10**6, 0, 0),
        "outcome": (10**6, 50, 0),
        "base": (7, 5, 0),
    }
    outcome.release()
    assert budget.account("outcome").used == 0


class History:
    """A crowd of visits that succeed, fail and are cancelled at any moment, and a commit that frees outcomes."""

    def __init__(self, seed: int, budget: Budget) -> None:
        self.draw = random.Random(seed)
        self.budget = budget
        self.uncommitted = []
        self.ended = 0

    def check(self) -> None:
        for name in VISIT_ACCOUNTS:
            account = self.budget.account(name)
            assert 0 <= account.used <= account.bytes_max
        assert sum(held.bytes for held in self.uncommitted) <= self.budget.account("outcome").used

    async def pause(self) -> None:
        for _ in range(self.draw.randrange(4)):
            await asyncio.sleep(0)
            self.check()
        if self.draw.random() < 0.05:
            raise OSError

    async def visit(self) -> None:
        async with self.budget.visit() as visit:
            await self.pause()
            if self.draw.random() < 0.3:
                granted = asyncio.Event()
                if not visit.head(self.draw.randrange(1, 40), granted.set):
                    await granted.wait()
                await self.pause()
            visit.received(self.draw.randrange(BODY_BYTES), self.draw.randrange(10))
            await self.pause()
            if self.draw.random() < 0.7:
                with await visit.decode(self.draw.randrange(1, 40)):
                    await self.pause()
                with await visit.decode(self.draw.randrange(1, 120)):
                    await self.pause()
            held = await visit.outcome(self.draw.randrange(200))
            self.uncommitted.append(held)
        self.ended += 1

    async def commit(self) -> None:
        while True:
            for _ in range(self.draw.randrange(1, 30)):
                await asyncio.sleep(0)
            batch, self.uncommitted = self.uncommitted, []
            for held in batch:
                held.release()
            self.check()

    async def run(self, visits: int) -> None:
        committing = asyncio.ensure_future(self.commit())
        tasks = [asyncio.ensure_future(self.visit()) for _ in range(visits)]
        while any(not task.done() for task in tasks):
            if self.draw.random() < 0.3:
                self.draw.choice(tasks).cancel()
            await asyncio.sleep(0)
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(end) for end in ends} <= {type(None), OSError, asyncio.CancelledError}
        while self.uncommitted:
            await asyncio.sleep(0)
        committing.cancel()


@settings(max_examples=60)
@given(
    st.integers(0, 1 << 32),
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(50, 400),
    st.integers(100, 900),
    st.integers(40, 400),
)
def test_no_history_leaks_or_stops_or_exceeds_an_account(seed, connections, bodies, parse, outcome, head):
    budget = Budget(plan_of(connections * CONNECTION_BYTES, bodies * BODY_BYTES, parse, outcome, head))
    history = History(seed, budget)

    async def main() -> None:
        async with asyncio.timeout(20):  # a deadlock ends here
            await history.run(40)

    asyncio.run(main())
    assert all(use.used == 0 for name, use in budget.uses().items() if name in VISIT_ACCOUNTS)
    assert not any(budget.account(name)._waiting for name in VISIT_ACCOUNTS)


def test_an_outcome_weighs_what_its_links_and_headers_hold(tmp_path):
    page = page_of(tmp_path, b"x" * 1000, headers=((b"Name", b"v" * 500),))
    alone = weight(Done(page, "ok"))
    assert alone >= 1000 + 504
    long = tuple(Link(f"http://a.test/{'x' * 2000}{n}", "a.test") for n in range(10))
    assert weight(Done(page, "ok", None, long)) - alone >= 10 * 2000
    for name in ("phrase", "mime", "charset"):
        told = replace(page, **{name: "\udcff" * 15_000})
        assert weight(Done(told, "ok")) - alone >= 2 * 14_000, "a thousand of them in each batch"


async def test_lines_of_a_list_weigh_what_their_texts_hold():
    budget, text = Budget(plan_of(0, 0, 0, 100 * MIB, 0)), "\N{EARTH GLOBE EUROPE-AFRICA}" * 1000
    where = Input("list", 1)
    link = Link("http://a.test/", "a.test", given=text, extra=text, input=where)
    for admitted in (Admitted((link,) * 10), Admitted((), (LineFault(where, text, "json", None),) * 20)):
        with await budget.links(admitted) as held:
            assert held.bytes >= 20 * 4 * 1000
    with await budget.links(Admitted((), extras={where: text})) as held:
        assert held.bytes >= 4 * 1000


async def test_small_reservations_do_not_wait_for_all_the_large_ones_before_them():
    account = Account("parse", 40 * MIB)
    held = [await account.take(20 * MIB), await account.take(15 * MIB)]
    large = [asyncio.ensure_future(account.take(20 * MIB)) for _ in range(3)]
    await asyncio.sleep(0)
    assert account.waiting_count == account.waits == 3
    small = 0
    while True:
        try:
            reservation = await asyncio.wait_for(account.take(4 * MIB), 0.05)
        except TimeoutError:
            break
        reservation.release()
        small += 1
    assert small == AHEAD * 20 // 4, "and then it is the large one's turn"
    held[0].release()
    first = await large[0]
    (await account.take(4 * MIB)).release()
    for reservation in (held[1], first):
        reservation.release()
    for reservation in await asyncio.gather(*large[1:]):
        reservation.release()
    assert (account.used, account.waiting_count) == (0, 0)
