"""All parts of a crawl, as their parent has them; here without processes."""

from types import SimpleNamespace

from crawler.config.load import load
from crawler.service.parts.channel import Gone
from crawler.service.parts.crew import Crew


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
