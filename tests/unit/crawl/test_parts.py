"""A crawl divided into parts, each with its own store and files, read back as one. The parts run in one loop here."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections import Counter
from pathlib import Path

import pytest
from msgspec.structs import replace
from support.daemons import ROOMY
from support.programs import crawler
from support.webs import Web, page, redirect, text
from warcio.archiveiterator import ArchiveIterator

from crawler.config.load import load
from crawler.config.sections import Config
from crawler.core.errors import StorageError
from crawler.core.keys import Share
from crawler.core.urls import host_key
from crawler.crawl.dividing import divided_for
from crawler.crawl.files import CrawlPart
from crawler.crawl.reading import open_crawl_reader
from crawler.crawl.wiring import open_crawl
from crawler.frontier.division import division_at, store_of
from crawler.frontier.exchange.board import Board
from crawler.output import CrawlReader, open_directory

PARTS = 3
HOSTS = [f"127.0.7.{n}" for n in range(1, 13)]


def config_of(root: Path, **settings: object) -> Config:
    plain = {"allow_net": ("127.0.0.0/8",), "delay": 0, "min_free_disk": 0, "memory_limit": ROOMY, "parsers": 0}
    return load(plain | {"output": str(root)} | settings, environ={}).config


async def crawled(config: Config) -> Share:
    """All parts, from their opening to the end; who owns what."""
    root = Path(config.output)
    bells = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(PARTS)]
    board = Board(PARTS, bells=bells)

    async def run(number: int) -> None:
        async with open_crawl(config, part=CrawlPart(division.share(number), board)) as crawl:
            await crawl.run()

    with open_directory(root, config):
        division = divided_for(config, root, PARTS)
        async with asyncio.TaskGroup() as tasks:
            for number in range(PARTS):
                tasks.create_task(run(number))
    for bell in bells:
        os.close(bell)
    return division.share(0)


def ring(n: int) -> str:
    return HOSTS[n % len(HOSTS)]


def web_of() -> Web:
    """Every page links to pages of other hosts and to its own; ``/r`` of a host redirects to the next host's ``/0``."""
    web = Web()

    def answer(host: str, path: str):
        n = HOSTS.index(host)
        if path == "/robots.txt":
            return text("User-agent: *\nDisallow: /no") if n % 3 else redirect(f"http://{ring(n + 1)}:{web.port}/robots.txt")
        if path == "/r":
            return redirect(f"http://{ring(n + 1)}:{web.port}/0")
        links = [f"http://{ring(n + step)}:{web.port}/{step}" for step in range(5)]
        return page(*links, "/no", f"{path}x" if len(path) < 4 else "/")

    web.default = answer
    return web


async def test_parts_crawl_what_one_process_would(tmp_path):
    web = web_of()
    with web.running():
        urls = [web.url(host, path) for host in HOSTS[:6] for path in ("/r", "/0", "/r")]
        (tmp_path / "list").write_text("\n".join([*urls, "no url"]))
        settings = {"input": (str(tmp_path / "list"),), "depth": 3, "scope": "any"}
        one = config_of(tmp_path / "one", **settings)
        async with open_crawl(one) as crawl:
            await crawl.run()
        alone = web.asked()
        web.visits.clear()
        share = await crawled(config_of(tmp_path / "many", **settings))
        together = web.asked()
    # one may ask for a robots.txt again, for whose host another part has followed a redirect to it
    assert {url for url in alone if "robots" not in url} == {url for url in together if "robots" not in url}
    again = [url for url, times in together.items() if times > 1 and "robots" not in url]
    with open_crawl_reader(tmp_path / "one") as first, open_crawl_reader(tmp_path / "many") as second:
        assert told(first) == told(second)
        owners = {share.owner(share.keys_by().host(host_key(web.url(host)))) for host in HOSTS}
        owners.add(0)  # the line that is no URL
        written = {file.split("/")[1][:4] for file in second.marks if file.startswith("results/")}
        assert written == {f"p{number:02}-" for number in owners}
        faults: list[str] = []
        verified = second.verify(faults.append)
        assert faults == [] and verified.records >= len(records_of(tmp_path / "many"))
        assert all(second.lookup(url).link.depth > 0 for url in again), "only what was found nearer is visited once more"
        assert sum(1 for _ in second.results()) == verified.rows
        body = second.lookup(urls[1]).archive
        assert second.body(body).read() == first.body(first.lookup(urls[1]).archive).read()
        robots = second.robots([f"http://{host}:{web.port}" for host in HOSTS])
        assert None not in robots
    kept = Counter(url for url in records_of(tmp_path / "many") if "robots" not in url)
    assert kept == Counter({url for url in together if "robots" not in url}), "each page has one record"
    assert not (tmp_path / "many/lost+found").exists()


async def test_a_wall_clock_that_goes_back_costs_no_line_its_final_row(tmp_path, monkeypatch):
    """Whoever is sent the target of a redirect, and knows it already, writes the line's row later than the page was visited."""
    web, began, asked = web_of(), time.time(), itertools.count()
    monkeypatch.setattr(time, "time", lambda: began - next(asked) / 100)
    with web.running():
        urls = [web.url(host, path) for path in ("/0", "/r") for host in HOSTS]
        (tmp_path / "list").write_text("\n".join(urls))
        await crawled(config_of(tmp_path / "out", input=(str(tmp_path / "list"),)))
    with open_crawl_reader(tmp_path / "out") as reader:
        lines = Counter(row["input"]["line"] for row in reader.final() if row["input"] is not None)
    assert lines == dict.fromkeys(range(1, len(urls) + 1), 1)


def records_of(root: Path) -> list[str]:
    """The URLs of the pages kept."""
    urls: list[str] = []
    for file in (root / "warc").iterdir():
        with file.open("rb") as stream:
            kept = (record for record in ArchiveIterator(stream) if record.rec_type in ("response", "revisit"))
            urls += [record.rec_headers["WARC-Target-URI"] for record in kept]
    return urls


def told(reading: CrawlReader) -> object:
    """What may not depend on who crawled it."""
    counts = reading._store.stats()
    lines = [row for row in reading.final() if row["input"] is not None]
    finals = sorted((row["input"]["line"], row["canonical"] or "", row["outcome"], row["listed"] or "") for row in lines)
    rows = [result.row for result in reading.results({"seed", "link", "redirect"})]
    pages = Counter((row["canonical"], row["outcome"]) for row in rows if row["reason"] != "duplicate")
    totals = (counts.known, counts.done, counts.waiting, counts.hosts, counts.lines, counts.outcomes)
    return finals, pages, totals


async def test_a_second_run_goes_on_where_the_first_ended(tmp_path):
    web = web_of()
    with web.running():
        (tmp_path / "list").write_text("\n".join(web.url(host, "/0") for host in HOSTS[:3]))
        settings = {"input": (str(tmp_path / "list"),), "depth": 1, "scope": "any"}
        await crawled(config_of(tmp_path / "out", **settings))
        asked = web.asked()
        (tmp_path / "list").write_text("\n".join(web.url(host, "/0") for host in HOSTS[:6]))
        await crawled(config_of(tmp_path / "out", **settings))
        pages = Counter({url: times for url, times in web.asked().items() if "robots" not in url})
        assert set(pages.values()) == {1} and len(pages) > len(asked)
        ended = await asyncio.to_thread(crawler, "retry", str(tmp_path / "out"), "--outcome", "ok")
        assert (ended.returncode, "are due again" in ended.stderr) == (0, True)
        due = int(ended.stderr.split()[1].replace(",", ""))
        assert due == len(pages)
        await crawled(config_of(tmp_path / "out", **settings))
        again = Counter({url: times for url, times in web.asked().items() if "robots" not in url})
    assert again == Counter(dict.fromkeys(pages, 2))
    assert crawler("verify", str(tmp_path / "out")).returncode == 0


async def test_hosts_of_a_domain_are_visited_by_one_part(tmp_path):
    web = Web(default=lambda host, path: page(*(f"http://{name}.one.test:{web.port}/" for name in "abcdefgh")))
    with web.running():
        urls = (web.url("a.one.test"),)
        settings = {"depth": 2, "scope": "any", "dns": (web.dns,), "politeness_by": "domain", "robots": False}
        await crawled(config_of(tmp_path / "out", urls=urls, **settings))
        assert len(web.asked()) == 8 == web.asked().total()
    division = division_at(tmp_path / "out/frontier")
    owners = {division.share(0).owner(division.share(0).keys_by().host(f"{name}.one.test")) for name in "abcdefgh"}
    assert len(owners) == 1
    with open_crawl_reader(tmp_path / "out") as reading:
        assert all(reading.lookup(web.url(f"{name}.one.test")).outcome == "ok" for name in "abcdefgh")


@pytest.mark.parametrize("damage", ["", "schema = 2", 'schema = 1\nprocesses = 2\nby_domain = false\nsecret = "z"\nowners = ""'])
def test_a_damaged_division_is_told(tmp_path, damage):
    (tmp_path / "parts.toml").write_text(damage)
    with pytest.raises(StorageError, match=r"parts\.toml") as caught:
        division_at(tmp_path)
    assert caught.value.final


async def test_what_a_part_keeps_of_others_is_a_fault(tmp_path):
    web = web_of()
    with web.running():
        settings = {"urls": tuple(web.url(host, "/0") for host in HOSTS), "depth": 0}
        await crawled(config_of(tmp_path / "out", **settings))
    path = tmp_path / "out/frontier"
    division = division_at(path)
    host = next(host for host in HOSTS if division.share(0).owner(division.share(0).keys_by().host(f"{host}:{web.port}")) != 0)
    assert host_key(web.url(host)) == f"{host}:{web.port}"
    text_of = (path / "parts.toml").read_text()
    other = replace(division, owners=bytes(0 if owner == 1 else owner for owner in division.owners))
    (path / "parts.toml").write_text(text_of.replace(division.owners.hex(), other.owners.hex()))
    ended = crawler("verify", str(tmp_path / "out"))
    assert ended.returncode == 3 and "are another part's" in ended.stdout
    assert store_of(path, 1).name in ended.stdout
