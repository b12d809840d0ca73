"""The first test to read: one page, from a line of a list to its record, its row, and why it is where it is.

Each step is the function that does it in a crawl, called by hand. In a crawl, ``Visitor`` and ``Pump`` call them.
"""

import asyncio
from io import BytesIO

from support.webs import Web, page
from warcio.archiveiterator import ArchiveIterator

import crawler
from crawler.config.load import load
from crawler.core.batch import Admitted
from crawler.core.model import Done
from crawler.crawl.explain import explain
from crawler.crawl.wiring import open_crawl


async def test_the_life_of_a_url(tmp_path):
    web = Web({"127.0.0.1": {"/": page("/next")}})
    with web.running():
        seed = web.url("127.0.0.1")
        listed, out = tmp_path / "list", tmp_path / "out"
        listed.write_text(seed + "\n")
        settings = {"input": [str(listed)], "output": str(out), "depth": 1, "robots": False, "allow_net": ["127.0.0.0/8"]}
        async with open_crawl(load(settings).config) as crawl, asyncio.TaskGroup() as tasks:
            frontier, store, pump = crawl.frontier, crawl.store, crawl.pump
            running = tasks.create_task(pump.run(crawl.disk.recover))

            # named: a line becomes a link of depth 0, with the line as its input
            (chunk,) = crawl.seeds
            (link,) = chunk.links
            assert (link.url, link.depth, link.kind, link.input.line) == (seed, 0, "seed", 1)
            assert store.lookup(seed) is None

            # admitted: once the batch is committed the URL is known, whatever kills the process
            await (await frontier.admit(Admitted(chunk.links, chunk.faults, chunk.position)))
            assert store.lookup(seed) == "waiting"

            # leased and dealt: the right to visit it once, when its host is due
            lease = await frontier.take()
            assert lease.link == link and frontier.out_count == 1

            # visited: fetched, read and judged, and nothing is written yet
            outcome = await crawl.visitor.visit(lease, crawl.memory.budget.visit())
            assert isinstance(outcome, Done) and (outcome.outcome, outcome.page.status) == ("ok", 200)
            assert [found.url for found in outcome.block.links()] == [web.url("127.0.0.1", "/next")]
            assert store.lookup(seed) == "waiting"

            # settled and committed: record, row, outcome and outlinks become true together
            crawl.visitor.settle(lease, outcome)
            crawl.journal.roll()
            pump.end()
            await running
            assert (store.lookup(seed).outcome, store.lookup(web.url("127.0.0.1", "/next"))) == ("ok", "waiting")

            # why it is where it is
            assert explain(out, store, seed, is_retired=lambda file: False)["record"]["outcome"] == "ok"

    # one row, joined to its list; one body; one record
    (result,) = crawler.read(out)
    assert (result.row["url"], result.row["outcome"], result.row["input"]) == (seed, "ok", {"list": str(listed), "line": 1})
    with result.open() as body:
        assert body.read() == web.hosts["127.0.0.1"]["/"].body
    (file,) = (out / "warc").glob("*.warc.gz")
    records = [record.rec_type for record in ArchiveIterator(BytesIO(file.read_bytes()))]
    assert records == ["warcinfo", "metadata", "response", "request"], "who made the file and how, then the page"
