"""Rate and bandwidth, shared among the parts of a crawl by what they use."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.config.load import load
from crawler.service.parts.channel import Gone
from crawler.service.parts.pacing import Pacing
from crawler.service.parts.shares import LEAST_SHARE, paced, share_of

USES = st.lists(st.tuples(st.floats(0, 1e9), st.booleans()), min_size=1, max_size=16)


@given(st.floats(0.01, 1e9), USES)
def test_shares_are_together_the_limit_and_nobody_has_nothing(limit, uses):
    shares = paced(limit, [use for use, _ in uses], [waits for _, waits in uses])
    assert math.isclose(sum(shares), limit, rel_tol=1e-9)
    assert min(shares) >= limit * LEAST_SHARE / len(shares) * (1 - 1e-9)
    waiting = [share for share, (_, waits) in zip(shares, uses, strict=True) if waits]
    assert not waiting or max(waiting) - min(waiting) <= 1e-6 * limit, "those who wait have the same"
    assert not waiting or min(waiting) >= max(shares) * (1 - 1e-6), "and nobody has more than they"


def test_who_waits_gets_what_others_do_not_use():
    assert paced(100, [10, 0, 25], [False, False, True]) == pytest.approx([12.5, 10 / 3, 100 - 12.5 - 10 / 3])
    assert paced(0, [0, 0], [True, False]) == [0, 0]


class Parts:
    """Take what they are told, unless they are not there, or die of it; ``most`` is what they ever might use together."""

    def __init__(self, pacing: Pacing, config, parts: int) -> None:
        self.pacing, self.config = pacing, config
        self.fate: list[str] = ["lives"] * parts
        self.wants = [0.0] * parts
        self.shares = [pacing.settings(config, part).rate for part in range(parts)]
        self.counted = [0.0] * parts

    async def ask(self, part: int, name: str, *arguments: float):
        if self.fate[part] != "lives" and name == self.fate[part]:
            raise Gone
        if name == "used":
            self.counted[part] += min(self.wants[part], self.shares[part])
            return self.counted[part], 0, int(self.wants[part] > self.shares[part]), 0
        self.shares[part] = arguments[0]
        if self.fate[part] == "deaf":
            raise Gone  # it has taken it, and nobody knows
        assert sum(self.shares) <= self.config.rate * (1 + 1e-9)
        return True

    def begin_again(self, part: int) -> None:
        self.shares[part] = self.pacing.settings(self.config, part).rate
        self.counted[part] = 0.0


@given(st.data())
async def test_parts_never_know_of_more_than_the_limit_together(data):
    config = load({"output": "out", "rate": 100.0}, environ={}).config
    parts = Parts(pacing := Pacing(config, 3), config, 3)
    for _ in range(6):
        for part in range(3):
            parts.wants[part] = data.draw(st.sampled_from([0.0, 5.0, 1000.0]))
            parts.fate[part] = data.draw(st.sampled_from(["lives", "lives", "used", "pace", "deaf"]))
        await pacing.share(parts.ask)
        assert sum(parts.shares) <= 100 * (1 + 1e-9)
        for part in range(3):
            if parts.fate[part] != "lives":
                parts.begin_again(part)
        assert sum(parts.shares) <= 100 * (1 + 1e-9)


@pytest.mark.parametrize("behind", ["used", "pace"])
@pytest.mark.parametrize("rate", [100.0, 10.0])
async def test_settings_that_are_changed_within_a_round_hold(behind, rate):
    """Each part takes them right behind a question of that round."""
    config = load({"output": "out", "rate": 100.0}, environ={}).config
    parts = Parts(pacing := Pacing(config, 3), config, 3)
    parts.wants = [1000.0, 0.0, 0.0]
    is_changed = False

    async def ask(part: int, name: str, *arguments: float):
        nonlocal is_changed
        answer = await parts.ask(part, name, *arguments)
        if name == behind and part == 2 and not is_changed:
            is_changed = True
            parts.config = config.replaced(rate=rate)
            pacing.change(parts.config)
            parts.shares = [pacing.settings(parts.config, each).rate for each in range(3)]
        return answer

    for _ in range(5):
        await pacing.share(ask)
    assert is_changed and sum(parts.shares) <= rate * (1 + 1e-9)
    assert parts.shares[0] > 0.8 * rate


async def test_one_with_all_the_work_has_nearly_all_of_it():
    config = load({"output": "out", "rate": 100.0}, environ={}).config
    parts = Parts(pacing := Pacing(config, 4), config, 4)
    parts.wants = [1000.0, 0.0, 0.0, 0.0]
    for _ in range(3):
        await pacing.share(parts.ask)
    assert parts.shares[0] > 90
    pacing.change(config.replaced(rate=8.0))
    assert pacing.settings(config, 0).rate == 2


def test_a_small_limit_divided_is_not_none():
    """0 means no limit."""
    config = load({"bandwidth": 3}, environ={}).config
    shares = [share_of(config, part, 4, memory_limit=1 << 30, parsers=0) for part in range(4)]
    assert {share.bandwidth for share in shares} == {1}
    none = share_of(load({}, environ={}).config, 0, 4, memory_limit=1 << 30, parsers=0)
    assert none.bandwidth == 0
