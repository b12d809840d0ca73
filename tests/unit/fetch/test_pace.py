"""A rate that changes while some wait for it."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crawler.fetch.pace import AT_ONCE_S, Pace


class Hurried(asyncio.SelectorEventLoop):
    """Its time passes when nobody has anything to do."""

    now = 0.0

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        if not self._ready and (due := [timer.when() for timer in self._scheduled if not timer.cancelled()]):
            self.now = max(self.now + 1e-9, min(due))  # no clock stands still
        super()._run_once()


def in_a_hurry(work) -> None:
    with asyncio.Runner(loop_factory=Hurried) as runner:
        runner.run(work)


async def taken(changes: list[tuple[float, float]], takers: int) -> list[float]:
    """When turns were taken by so many who always want one, while the rate changes after so many seconds each."""
    loop, pace = asyncio.get_running_loop(), Pace(changes[0][1])
    times: list[float] = []

    async def take() -> None:
        while True:
            await pace.turn()
            times.append(loop.time())

    tasks = [asyncio.create_task(take()) for _ in range(takers)]
    for seconds, rate in changes:
        pace.change(rate)
        await asyncio.sleep(seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return times


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.1, 2), st.sampled_from([0.5, 2.0, 10.0, 150.0])), min_size=1, max_size=4),
    st.integers(1, 8),
)
def test_between_any_two_moments_there_are_no_more_turns_than_the_rates_of_the_time_allow(changes, takers):
    async def check() -> None:
        times = await taken(changes, takers)
        ends = [sum(seconds for seconds, _ in changes[:n]) for n in range(len(changes) + 1)]

        def allowed(until: float) -> float:
            spans = zip(pairwise(ends), changes, strict=True)
            return sum(max(0.0, min(until, end) - start) * rate for (start, end), (_, rate) in spans)

        allowances = [allowed(at) for at in times]
        on_top = 1 + AT_ONCE_S * max(rate for _, rate in changes)
        for first in range(len(times)):
            for last in (len(times) - 1, *range(first, min(first + 5, len(times)))):
                assert last - first + 1 <= allowances[last] - allowances[first] + on_top + 1e-6
        assert len(times) >= allowed(ends[-1]) - on_top, "and no fewer"

    in_a_hurry(check())


def test_who_waits_is_served_in_order_and_whoever_gives_up_is_passed_over():
    async def check() -> None:
        pace, served = Pace(1), []

        async def wait(name: int) -> None:
            await pace.turn()
            served.append(name)

        tasks = [asyncio.create_task(wait(name)) for name in range(6)]
        await asyncio.sleep(0.5)
        assert (served, pace.waiting) == ([0], 5)
        tasks[1].cancel()
        await asyncio.sleep(0.6)
        assert (served, pace.waiting) == ([0, 2], 3)
        pace.change(0)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (served, pace.waiting) == ([0, 2, 3, 4, 5], 0), "no limit any more"
        await asyncio.wait_for(pace.turn(), 0.001)

    in_a_hurry(check())


@pytest.mark.parametrize(("before", "after", "seconds"), [(0.001, 10, 0.1), (10, 0.5, 2)])
def test_a_change_holds_for_those_that_wait_already(before, after, seconds):
    async def check() -> None:
        loop, pace = asyncio.get_running_loop(), Pace(before)
        await pace.turn()
        waiting = asyncio.create_task(pace.turn())
        await asyncio.sleep(0)
        pace.change(after)
        await waiting
        assert loop.time() == pytest.approx(seconds, rel=0.01)

    in_a_hurry(check())
