"""All parts of a crawl, as their parent has them; here without processes."""

from types import SimpleNamespace

from crawler.config.load import load
from crawler.core.model import Snapshot
from crawler.service.parts.channel import Gone
from crawler.service.parts.crew import Crew, _Part
from crawler.service.parts.merged import Look


class Channel:
    def __init__(self, answer):
        self.answer = answer

    async def ask(self, name, *arguments):
        if self.answer is None:
            raise Gone
        return self.answer


async def test_a_report_names_the_part_that_it_is_of():
    """One of them is just being begun again, and one dies while it is asked."""
    config = load({}, environ={}).config
    crew = Crew(config, 4, SimpleNamespace(), lambda part: config, SimpleNamespace())
    for number, answer in ((1, "one"), (2, None), (3, "three")):
        crew._parts[number].channel, crew._parts[number].is_open = Channel(answer), True
    assert await crew.memory_report() == "part 1\none\npart 3\nthree"


async def test_of_a_part_that_died_it_is_not_told_what_its_workers_waited_for():
    part = _Part(0)
    part.look = Look(Snapshot(at=0.0, state="running", known=7, in_flight=3, waits_for="politeness"))
    part.died()
    assert part.snapshot() == Snapshot(at=0.0, state="opening", known=7)
