"""The pages that --max-pages leaves, allowed to the parts of a crawl."""

from __future__ import annotations

import asyncio
import random

import pytest

from crawler.service.parts import visits as module
from crawler.service.parts.channel import Gone
from crawler.service.parts.visits import AllowedVisits


class Part:
    """Has ``left`` visits, of which ``out`` are under way; hears and is heard in order, each word some time under way."""

    def __init__(self, number: int, rng: random.Random) -> None:
        self.number, self.rng = number, rng
        self.left = self.out = self.done = self.given_back = 0
        self.is_busy = True
        self.hears, self.speaks = asyncio.Lock(), asyncio.Lock()

    async def under_way(self, way: asyncio.Lock) -> None:
        async with way:
            for _ in range(self.rng.choice([0, 0, 1, 5, 30])):
                await asyncio.sleep(0)

    async def give_up(self) -> int:
        await self.under_way(self.hears)
        spare = max(0, self.left - self.out)
        self.left, self.given_back = self.left - spare, self.given_back + spare
        given_back = self.given_back
        await self.under_way(self.speaks)
        return given_back

    async def work(self) -> None:
        while True:
            await asyncio.sleep(0)
            if self.is_busy and self.left > self.out:
                self.out += 1
                for _ in range(self.rng.randrange(9)):
                    await asyncio.sleep(0)
                self.out -= 1
                if self.rng.random() < 0.7:  # else it was no page, or is tried again
                    self.left, self.done = self.left - 1, self.done + 1

    async def change_mood(self) -> None:
        while True:
            self.is_busy = self.rng.random() < 0.6
            for _ in range(self.rng.choice([5, 40])):
                await asyncio.sleep(0)

    async def ask(self, visits: AllowedVisits, parts: list[Part]) -> None:
        while True:
            held = self.left, max(0, self.left - self.out), self.given_back
            await self.under_way(self.speaks)
            allowed = await visits.allow(lambda part, name: parts[part].give_up(), self.number, *held)
            if visits.are_used:
                return
            await self.under_way(self.hears)
            self.left += allowed
            for _ in range(self.rng.choice([0, 3])):
                await asyncio.sleep(0)


@pytest.mark.parametrize("count", [2, 3, 4])
async def test_as_many_pages_are_visited_as_may_be_however_what_parts_say_crosses(count: int) -> None:
    for seed in range(20):
        rng = random.Random(seed)
        visits, parts = AllowedVisits(60, count), [Part(number, rng) for number in range(count)]
        tasks = [asyncio.create_task(what) for part in parts for what in (part.work(), part.work(), part.change_mood())]
        asking = [asyncio.create_task(part.ask(visits, parts)) for part in parts]
        await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
        assert sum(part.done for part in parts) == 60, seed
        for task in (*tasks, *asking):
            task.cancel()
        await asyncio.gather(*tasks, *asking, return_exceptions=True)


async def test_a_part_that_hangs_holds_up_nobody_and_what_it_gives_back_late_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_S", 0.05)

    async def ask(part: int, name: str) -> int:
        if part == 0:
            await asyncio.Event().wait()
        if part == 1:
            raise Gone
        return 2

    visits = AllowedVisits(8, 4)
    for part in (0, 1, 3):
        visits.take(part)
    visits.left = 0
    assert await visits.allow(ask, 2, 0, 0, 0) == 1
    assert visits.left == 1, "of the two that part 3 has given back"
    assert await visits.allow(ask, 0, 4, 4, given_back=3) == 1
    assert visits.left == 3, "with the three that part 0 has given back meanwhile"


async def test_visits_that_a_part_would_have_been_allowed_that_has_died_are_left_to_the_others() -> None:
    visits = AllowedVisits(9, 2)
    while visits.take(1):
        pass

    async def ask(part: int, name: str) -> int:
        visits.lose(0)
        return 9

    assert await visits.allow(ask, 0, 0, 0, 0) == 0
    assert visits.left == 9 and not visits.are_used
    visits.lose(1)
    assert visits.left == 9, "what it had given back before it died"


def test_visits_are_allowed_once() -> None:
    visits, taken = AllowedVisits(100, 2), 0
    while got := visits.take(0):
        taken += got
    assert taken == 100 and not visits.are_used
    visits.lose(0)
    assert visits.are_used, "what a part had that died is used"
