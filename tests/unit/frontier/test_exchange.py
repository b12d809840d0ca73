"""Parts that send each other links against one store that has them all: the same pages, at the same depths, with the same
final rows, whatever comes first and whoever is killed when."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from support.frontiers import handed, politeness
from support.pages import WALL, page_of
from support.stores import REST, packed, revive

from crawler.config.sections import ArchiveConfig
from crawler.core.batch import FOREIGN, Admitted, Batch, HostRest, Prepared, Settled
from crawler.core.clock import Clock
from crawler.core.errors import StorageError
from crawler.core.keys import Keys, Share, divided
from crawler.core.link_block import Packer, embeds_of
from crawler.core.model import PRIORITY_REDIRECT, Done, Dropped, Input, Lease, Link, Mark, Outcome, Retry
from crawler.core.urls import host_key
from crawler.frontier import Limits, Store, open_store
from crawler.frontier.exchange import intake as intake_module
from crawler.frontier.exchange import parcels as parcels_module
from crawler.frontier.exchange.board import Board
from crawler.frontier.exchange.exchange import Exchange
from crawler.frontier.exchange.inbox import Inbox, Received
from crawler.frontier.exchange.intake import Intake
from crawler.frontier.exchange.outbox import Outbox
from crawler.frontier.exchange.parcels import Parcels
from crawler.frontier.memory import MemoryStore
from crawler.frontier.progress import LIST
from crawler.frontier.pump import Pump
from crawler.frontier.workbench import Workbench
from crawler.output.archive import open_archive
from crawler.output.checkpoint import Cut
from crawler.output.file_names import WHOLE
from crawler.output.journal import Journal
from crawler.output.results import Results, rows

SECRET = 0x1234_5678_9ABC_DEF0
DEPTH = 3


class Web:
    """What every URL answers: ("ok", links), ("redirect", target), ("gone",), and how often it fails before that."""

    def __init__(self, answers: dict[str, tuple], failures: dict[str, int], lines: list[str]) -> None:
        self.answers, self.failures, self.lines = answers, failures, lines

    def seeds(self) -> list[Link]:
        return [Link(url, host_key(url), input=Input("list", n)) for n, url in enumerate(self.lines, 1)]

    def end_of(self, url: str) -> str:
        """Where its redirects lead."""
        while self.answers[url][0] == "redirect":
            url = self.answers[url][1]
        return url

    def visit(self, root: Path, lease: Lease) -> Outcome:
        link = lease.link
        if link.attempt <= self.failures.get(link.url, 0):
            return Retry("timeout", None, 0.0)
        kind, *rest = self.answers[link.url]
        if kind == "gone":
            return Dropped("timeout", "total_timeout")
        page = page_of(root, b"", link.url)
        if kind == "redirect":
            onward = Link(
                rest[0],
                host_key(rest[0]),
                "redirect",
                link.depth,
                PRIORITY_REDIRECT,
                link.hops + 1,
                via=link.url,
                input=link.input,
                listed=link.as_listed,
            )
            return Done(page, "redirect", outlinks=(onward,))
        depth = link.depth + 1
        shared = Link("", "", "link", depth, via=link.url, anchor=link.anchor or link.url)
        found = [replace(shared, url=url, host=host_key(url)) for url in rest[0]]
        return packed(Done(page, "ok", outlinks=tuple(found) if depth <= DEPTH else ()), SECRET)


@st.composite
def webs(draw) -> Web:
    count = draw(st.integers(2, 12))
    urls = [f"http://h{draw(st.integers(0, 5))}.test/{n}" for n in range(count)]
    some = st.lists(st.sampled_from(urls), max_size=4, unique=True)
    answers: dict[str, tuple] = {}
    for n, url in enumerate(urls):
        kind = draw(st.sampled_from(["ok", "ok", "redirect", "gone"]))
        later = urls[n + 1 :]  # where redirects run in a circle, the order decides which of them is told so
        if kind == "redirect" and later:
            answers[url] = ("redirect", draw(st.sampled_from(later)))
        else:
            answers[url] = ("gone",) if kind == "gone" else ("ok", draw(some))
    failures = {url: draw(st.integers(0, 1)) for url in urls}
    return Web(answers, failures, draw(st.lists(st.sampled_from(urls), min_size=1, max_size=6)))


class Killed(Exception):
    """The process is gone."""


class Failed(Exception):
    """A write failed: all is cut back to the last commit, and the process goes on."""


class Part:
    """One process, as its store and files see it: every step of the pump by itself, with a kill between any two."""

    def __init__(self, root: Path, kind: str, web: Web, share: Share, board: Board) -> None:
        self.root, self.kind, self.web, self.share, self.board = root, kind, web, share, board
        self.is_alone = board.parts == 1
        self.now = 1000.0
        self.lines = 0
        self.store: Store = self.open_store()
        self.begin()

    def open_store(self) -> Store:
        path = self.root / "frontier" / str(self.share.own)
        limits = Limits(depth_limited=True)
        return open_store(self.kind, path, limits, now=self.now, rest=lambda host: REST, memory_bytes=8 << 20, share=self.share)

    def begin(self) -> None:
        """What a process does when it starts."""
        outbox = None if self.is_alone else Outbox(self.root, self.share, self.board, roll_bytes=300)
        config = ArchiveConfig(archive="discard")
        self.journal = Journal(
            open_archive(config, self.root),
            Results(self.root, 1 << 20, WHOLE if self.is_alone else self.share.own),
            outbox=outbox,
        )
        self.journal.rewind(self.store.marks())
        self.outbox = outbox
        self.inbox = None if self.is_alone else Inbox(self.root, self.share, self.board, self.store.positions())
        self.lines = int.from_bytes(self.store.positions().get("list", b""), "big")
        self.settled: list[Settled] = []
        self.admitted: list[Admitted] = []
        self.robots: dict[str, bytes] = {}
        self.received: list[Received] = []

    def kill(self) -> None:
        self.journal.close()
        self.store.rewind()
        self.begin()

    def cut_back(self, admitted: list[Admitted], robots: dict[str, bytes], received: list[Received]) -> None:
        """What the pump does after a failed commit: visits count as not made, what came in comes with the next batch."""
        self.store.rewind([one.lease for one in self.settled])
        self.journal.rewind(self.store.marks())
        self.admitted, self.robots, self.received = admitted, robots, received

    # -- steps

    def seed(self, chance: random.Random) -> None:
        seeds = self.web.seeds()[self.lines : self.lines + chance.randint(1, 3)]
        if self.share.own == 0 and seeds:
            self.lines += len(seeds)
            self.admitted.append(Admitted(tuple(seeds), position=("list", self.lines.to_bytes(4, "big"))))

    def visit(self, chance: random.Random) -> None:
        self.now += REST + 0.001
        for lease in self.store.claim(chance.randint(1, 3), chance.randint(1, 2), self.now, {}):
            outcome = self.web.visit(self.root, lease)
            self.settled.append(Settled(lease, outcome, self.now if isinstance(outcome, Retry) else 0.0))

    def receive(self, chance: random.Random) -> None:
        if self.inbox is None:
            return
        for _ in range(chance.randint(1, 3)):
            received = [got] if (got := self.inbox.receive()) is not None else self.inbox.passed()
            self.take(received)

    def take(self, received: list[Received]) -> None:
        for one in received:
            self.received.append(one)
            self.admitted += one.admitted
            self.robots |= one.robots

    def commit(self, chance: random.Random, ends: type[Exception] = Killed, end_at: int = -1) -> None:
        """``ends`` before the step with the number ``end_at``."""
        self.now += 0.001
        hosts = {one.lease.link.host: HostRest(self.now) for one in self.settled}
        batch = Batch(self.settled, self.admitted, hosts, {}, self.now, WALL, self.robots)
        taken = self.admitted, self.robots, self.received
        self.settled, self.admitted, self.robots, self.received = [], [], {}, []
        try:
            self.make_true(batch, ends, end_at)
        except Failed:
            self.cut_back(*taken)
            return
        for one in taken[2]:
            self.inbox.committed(one)

    def make_true(self, batch: Batch, ends: type[Exception], end_at: int) -> None:
        if end_at == 0:
            raise ends
        prepared = self.store.prepare(batch)
        known = self.journal.append(prepared)
        if end_at == 1:
            raise ends
        marks = self.journal.sync()
        if end_at == 2:
            raise ends
        self.store.commit(prepared, known, marks)
        if ends is Killed and end_at == 3:
            raise Killed
        self.journal.committed()
        if ends is Killed and end_at == 4:
            raise Killed

    def clean(self, chance: random.Random) -> None:
        """Delete what all have read, as the pump does: the mark goes last."""
        for file in self.outbox.spent(self.store.marks()) if self.outbox is not None else ():
            self.retire({file: replace(self.store.marks()[file], retired=True)})
            (self.root / file).unlink(missing_ok=True)
            if chance.random() < 0.2:
                raise Killed
            self.retire({file: None})

    def retire(self, marks) -> None:
        self.now += 0.001
        self.store.commit(self.store.prepare(Batch([], [], {}, {}, self.now, WALL, retired=marks)), [], {})

    @property
    def is_idle(self) -> bool:
        counts = self.store.stats()
        if self.settled or self.admitted or counts.waiting or counts.retrying:
            return False
        return self.share.own > 0 or self.lines == len(self.web.lines)

    def close(self) -> None:
        self.journal.close()
        self.store.close()


STEPS = ("seed", "visit", "visit", "receive", "receive", "commit", "commit", "clean")
AMONG_CUTS = ("seed", "visit", "visit", "commit", "commit")
"""While a checkpoint is made nobody begins to receive, and nobody deletes."""


def crew_of(root: Path, kind: str, web: Web, parts: int) -> list[Part]:
    board = Board(parts)
    for folder in ("results", "exchange", "frontier"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    return [Part(root, kind, web, Share(part, divided(parts), SECRET), board) for part in range(parts)]


def take_steps(crew: list[Part], chance: random.Random, kills: float, steps: tuple[str, ...], number: int) -> bool:
    """So many steps of all parts in any order; whether nothing is left anywhere before they are done."""
    for _ in range(number):
        part = chance.choice(crew)
        step = chance.choice(steps)
        try:
            if chance.random() < kills:
                if step != "commit":
                    raise Killed
                part.commit(chance, chance.choice([Killed, Failed]), chance.randint(0, 4))
                continue
            getattr(part, step)(chance)
        except Killed:
            part.kill()
        if all(one.is_idle and (one.inbox is None or one.inbox.is_read) for one in crew):
            return True
    return False


def crawled(root: Path, kind: str, web: Web, parts: int, seed: int, kills: float) -> list[Part]:
    """One crawl from beginning to end."""
    crew = crew_of(root, kind, web, parts)
    assert take_steps(crew, random.Random(seed), kills, STEPS, 10_000), "the crawl does not end"
    return crew


def told(root: Path, web: Web, crew: list[Part]) -> dict[str, object]:
    """What must be the same in every order."""
    depths: dict[str, int] = {}
    ends: dict[str, str] = {}
    for url in web.answers:
        # a URL is known to its owner alone
        known = [part for part in crew if part.store.lookup(url) is not None]
        assert len(known) <= 1
        for part in known:
            key = part.store._keys_by.of(host_key(url), url)
            depths[url] = part.store._depths[key] if part.kind == "memory" else part.store._seen.depths([key])[key]
            ends[url] = part.store.lookup(url).outcome
    made = [row for part in crew for _, row in rows(root, part.store.marks())]
    own = Counter(row["canonical"] for row in made if row["reason"] != "duplicate")
    finals = Counter(row["input"]["line"] for row in made if row["final"] and row["input"])
    assert set(own.values()) <= {1}, "a page has two rows"
    assert finals == Counter(range(1, len(web.lines) + 1)), "a line has no final row, or two"
    lines = {row["input"]["line"]: web.end_of(row["canonical"]) for row in made if row["final"] and row["input"]}
    counts = [part.store.stats() for part in crew]
    totals = [sum(getattr(one, name) for one in counts) for name in ("known", "done", "waiting", "retrying", "hosts")]
    assert set(own) == set(ends)
    return {"ends": ends, "depths": depths, "lines": lines, "totals": totals}


def same(kind: str, web: Web, parts: int, seed: int, kills: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        one = crawled(Path(folder) / "one", kind, web, 1, seed, 0.0)
        many = crawled(Path(folder) / "many", kind, web, parts, seed, kills)
        try:
            assert told(Path(folder) / "many", web, many) == told(Path(folder) / "one", web, one)
        finally:
            for part in one + many:
                part.close()


@pytest.mark.parametrize("kind", ["memory", "embedded"])
def test_a_redirect_visited_again_ends_its_line_once_in_whatever_part(tmp_path, kind):
    share = Share(0, divided(2), SECRET)
    names = {share.owner(Keys(SECRET).host(name)): f"http://{name}/" for name in (f"h{n}.test" for n in range(20))}
    web = Web({names[0]: ("redirect", names[1]), names[1]: ("ok", [])}, {}, [names[0]])
    crew = crawled(tmp_path, kind, web, 2, 1, 0.0)
    for part in crew:
        revive(part.store, "redirect")
    assert take_steps(crew, random.Random(1), 0.0, STEPS, 10_000)
    tallies = [tally for part in crew for tally in part.store.progress(LIST).values()]
    for part in crew:
        part.close()
    assert (sum(tally.known for tally in tallies), sum(tally.done for tally in tallies)) == (1, 1)


@settings(max_examples=40)
@given(webs(), st.integers(2, 4), st.integers(0, 1 << 30), st.sampled_from([0.0, 0.02, 0.1]))
def test_parts_are_as_one(web, parts, seed, kills):
    same("memory", web, parts, seed, kills)


@settings(max_examples=5)
@given(webs(), st.integers(2, 3), st.integers(0, 1 << 30))
def test_parts_on_disk_are_as_one(web, parts, seed):
    same("embedded", web, parts, seed, 0.05)


def copied(crew: list[Part], made: Path, chance: random.Random, among: tuple[str, ...]) -> None:
    """A checkpoint of all parts, cut one after the other while they go on."""
    made.mkdir()
    (made / "frontier").mkdir()

    def store_of(part: Part, path: Path):
        part.store.copy_to(path)
        return part.store.marks()

    for part in chance.sample(crew, len(crew)):
        cut = Cut(part.root, made)
        cut.take(f"frontier/{part.share.own}", partial(store_of, part))
        cut.copy()
        assert not cut.missing
        take_steps(crew, chance, 0.0, among, chance.randint(0, 60))


def goes_on(web: Web, parts: int, seed: int, among: tuple[str, ...] = AMONG_CUTS) -> None:
    """From a checkpoint, as from the original."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        one = crawled(root / "one", "memory", web, 1, seed, 0.0)
        wanted = told(root / "one", web, one)
        crew = crew_of(root / "many", "embedded", web, parts)
        take_steps(crew, chance, 0.02, STEPS, chance.randint(0, 100))
        copied(crew, root / "copy", chance, among)
        take_steps(crew, chance, 0.05, STEPS, chance.randint(0, 30))
        for part in crew:
            part.close()
        copies = crew_of(root / "copy", "embedded", web, parts)
        try:
            assert take_steps(copies, chance, 0.02, STEPS, 10_000), "the copy does not end"
            assert told(root / "copy", web, copies) == wanted
        finally:
            for part in [*one, *copies]:
                part.close()


@settings(max_examples=int(os.environ.get("CHECKPOINTS", "2")), deadline=None)
@given(st.integers(2, 3), st.integers(0, 1 << 30))
def test_a_checkpoint_is_one_cut_though_parts_are_cut_one_after_the_other(parts, seed):
    urls = [f"http://h{n % 6}.test/{n}" for n in range(14)]
    answers = {url: ("ok", [urls[m] for m in (2 * n + 1, 2 * n + 2) if m < 14]) for n, url in enumerate(urls)}
    goes_on(Web(answers, {}, urls[:2]), parts, seed)


# -- pumps that run -----------------------------------------------------------------------------------------------


class Running:
    """Parts in one loop, with the pump and the bells that processes have."""

    def __init__(self, root: Path, parts: int, *, endless: bool = False) -> None:
        for folder in ("results", "exchange", "frontier"):
            (root / folder).mkdir()
        self.root, self.clock, self.endless = root, Clock(), endless
        self.bells = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(parts)]
        self.board = Board(parts, bells=self.bells)
        self.visits: Counter[str] = Counter()
        self.pumps: dict[int, Pump] = {}
        self.stores = [MemoryStore(Limits(depth_limited=True), Share(part, divided(parts), SECRET)) for part in range(parts)]

    async def part(self, number: int, seeds: list[Link], outlinks) -> None:
        share, store = Share(number, divided(self.board.parts), SECRET), self.stores[number]
        exchange = Exchange(self.root, share, self.board, store.positions(), roll_bytes=2000)
        config = ArchiveConfig(archive="discard")
        journal = Journal(open_archive(config, self.root), Results(self.root, 1 << 20, number), outbox=exchange.outbox)
        journal.rewind(store.marks())
        bench = Workbench(lambda host: 1)
        rests = politeness(backoff_max_s=1.0, host_failures=8)
        clock, wall = self.clock.now, self.clock.wall
        intake, endless = Intake(exchange, clock), self.endless
        pump = Pump(store, bench, handed(rests), journal, clock=clock, wall=wall, links_max=100, intake=intake, endless=endless)
        self.pumps[number] = pump

        async def work() -> None:
            while (lease := await pump.frontier.take()) is not None:
                self.visits[lease.link.url] += 1
                pump.frontier.settle(lease, outlinks(self.root, lease))

        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(pump.run(self.recover))
            crew = [tasks.create_task(work()) for _ in range(4)]
            if seeds:
                await pump.frontier.admit(Admitted(tuple(seeds)))
            pump.frontier.seeds_ended()
            await asyncio.wait(crew)
            pump.end()
            await running
        pump.close()
        journal.close()

    async def recover(self, error: StorageError) -> None:
        if error.final:
            raise error

    async def crawl(self, seeds: list[Link], outlinks) -> None:
        async with asyncio.TaskGroup() as tasks:
            for number in range(self.board.parts):
                tasks.create_task(self.part(number, seeds if number == 0 else [], outlinks))
        for bell in self.bells:
            os.close(bell)


def chained(root: Path, lease: Lease) -> Outcome:
    """Page n of host h has the pages 2n and 2n + 1 of the next hosts: up to 255 in all, some of them at the far end of a chain of
    parts that have nothing else to do."""
    n = int(lease.link.url.rpartition("/")[2])
    urls = [f"http://h{m % 7}.test/{m}" for m in (2 * n, 2 * n + 1) if m < 256]
    links = [Link(url, host_key(url), "link", lease.link.depth + 1, via=lease.link.url, anchor=lease.link.url) for url in urls]
    return packed(Done(page_of(root, b"", lease.link.url), "ok", outlinks=tuple(links)), SECRET)


@pytest.mark.parametrize("parts", [2, 4])
async def test_pumps_send_each_other_all_there_is_and_end_together(tmp_path, parts):
    running = Running(tmp_path, parts)
    await running.crawl([Link("http://h1.test/1", "h1.test")], chained)
    assert running.visits == Counter(f"http://h{n % 7}.test/{n}" for n in range(1, 256))
    counts = [store.stats() for store in running.stores]
    assert sum(one.done for one in counts) == 255 == sum(one.known for one in counts)
    assert sum(one.waiting for one in counts) == 0


async def test_parts_of_a_daemon_do_not_look_again_and_again_whether_it_is_over(tmp_path, monkeypatch):
    monkeypatch.setattr(intake_module, "EVERY_S", 0.01)
    running = Running(tmp_path, 2, endless=True)
    crawl = asyncio.create_task(running.crawl([Link("http://h1.test/1", "h1.test")], chained))
    while len(running.visits) < 255 or running.board.look() is None:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    assert [pump.intake.exchange._seen for pump in running.pumps.values()] == [None, None]
    for pump in running.pumps.values():
        pump.frontier.drain()
    await crawl


async def test_nothing_is_read_of_what_others_send_while_a_part_holds_the_exchange(tmp_path):
    running = Running(tmp_path, 2)
    crawl = asyncio.create_task(running.crawl([Link(f"http://{THERE}/1", THERE), Link(f"http://{HERE}/1", HERE)], nothing))
    while 1 not in running.pumps:
        await asyncio.sleep(0)
    await running.pumps[1].intake.hold()
    while not running.visits or not running.board.written(0):  # its own page is visited, the other one is sent
        await asyncio.sleep(0.001)
    for _ in range(50):  # it is told again and again that there is something
        os.eventfd_write(running.bells[1], 1)
        await asyncio.sleep(0.002)
    assert (running.pumps[1].intake.exchange.inbox.links_received, set(running.visits)) == ({0: 0}, {f"http://{HERE}/1"})
    running.pumps[1].intake.let_go()
    await crawl
    assert set(running.visits) == {f"http://{HERE}/1", f"http://{THERE}/1"}


async def test_files_that_all_have_read_are_deleted_later_where_there_is_no_thread_to_delete_in(tmp_path, monkeypatch):
    monkeypatch.setattr(intake_module, "EVERY_S", 0.01)
    running, refused = Running(tmp_path, 2), []
    start = threading.Thread.start

    def scarce(thread: threading.Thread) -> None:
        if thread.name.startswith(("asyncio", "uvloop")) and len(refused) < 3:
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", scarce)
    crawl = asyncio.create_task(running.crawl([Link("http://h1.test/1", "h1.test")], chained))
    await crawl
    assert len(refused) == 3 and running.visits.keys() == {f"http://h{n % 7}.test/{n}" for n in range(1, 256)}


async def test_a_part_goes_on_where_the_store_fails_while_it_looks_for_files_that_all_have_read(tmp_path, monkeypatch):
    monkeypatch.setattr(intake_module, "EVERY_S", 0.01)
    running = Running(tmp_path, 2)
    crawl = asyncio.create_task(running.crawl([Link("http://h1.test/1", "h1.test")], chained))
    while 1 not in running.pumps:
        await asyncio.sleep(0)
    read, fails = running.stores[1].marks, [StorageError("no file descriptors left", errno=errno.EMFILE)]

    def marks(folder: str = "") -> Mapping[str, Mark]:
        if fails:
            raise fails.pop()
        return read(folder)

    running.stores[1].marks = marks
    await crawl
    assert not fails and running.visits.keys() == {f"http://h{n % 7}.test/{n}" for n in range(1, 256)}


def nothing(root: Path, lease: Lease) -> Outcome:
    return Done(page_of(root, b"", lease.link.url), "ok")


async def test_a_part_that_has_something_to_do_again_when_another_has_ended_ends_too(tmp_path):
    """As where a page comes due by schedule: what it finds for the other is read by the next start."""
    running, (here, there) = Running(tmp_path, 2), (host_of(0), host_of(1))

    def found(root: Path, lease: Lease) -> Outcome:
        links = [Link(f"http://{here}/new", here, "link", 1)] if lease.link.url.endswith("again") else []
        return Done(page_of(root, b"", lease.link.url), "ok", outlinks=tuple(links))

    crawl = asyncio.create_task(running.crawl([Link(f"http://{there}/1", there)], found))
    async with asyncio.timeout(20):
        while not running.visits:
            await asyncio.sleep(0.001)
        await running.pumps[1].intake.hold()  # it is as slow to notice the end as it may be
        while not running.pumps[0].has_ended:
            await asyncio.sleep(0.001)
        await (await running.pumps[1].frontier.admit(Admitted((Link(f"http://{there}/again", there),))))
        while f"http://{there}/again" not in running.visits:
            await asyncio.sleep(0.001)
        running.pumps[1].intake.let_go()
        await crawl
    assert set(running.visits) == {f"http://{there}/1", f"http://{there}/again"}
    assert [store.stats().waiting for store in running.stores] == [0, 0]
    inbox = Inbox(tmp_path, Share(0, divided(2), SECRET), running.board, running.stores[0].positions())
    assert (received := inbox.receive()) is not None and received.links == 1


async def test_a_crawl_of_nothing_ends(tmp_path):
    running = Running(tmp_path, 3)
    await running.crawl([], chained)
    assert not running.visits


async def test_nothing_is_dealt_while_another_part_is_far_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("crawler.frontier.exchange.exchange.LAG_BYTES_MAX", -1)
    running = Running(tmp_path, 2)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await running.crawl([Link("http://h1.test/1", "h1.test")], chained)
    assert not running.visits


# -- one thing at a time ------------------------------------------------------------------------------------------


def host_of(part: int, parts: int = 2) -> str:
    """The name of a host that a part owns."""
    share = Share(part, divided(parts), SECRET)
    return next(f"h{n}.test" for n in range(1000) if share.owner(share.keys_by().host(f"h{n}.test")) == part)


HERE, THERE = host_of(0), host_of(1)


@pytest.fixture
def parts(tmp_path):
    board = Board(2)
    (tmp_path / "frontier").mkdir()
    crew = [Part(tmp_path, "memory", Web({}, {}, []), Share(part, divided(2), SECRET), board) for part in range(2)]
    yield crew
    for part in crew:
        part.close()


def sends(part: Part, *links: Link, fails: bool = False) -> None:
    """One page brings these."""
    page = page_of(part.root, b"", f"http://{HERE}/")
    outcome = packed(Done(page, "ok", outlinks=links), SECRET)
    part.admitted.append(Admitted(outcome.outlinks, block=outcome.block))
    part.commit(random.Random(0), Failed if fails else Killed, 2 if fails else -1)


def gets(part: Part) -> list[Link]:
    """All that was sent to it since, which is then committed."""
    links: list[Link] = []
    while received := [got] if (got := part.inbox.receive()) is not None else part.inbox.passed():
        part.take(received)
        for admitted in [admitted for one in received for admitted in one.admitted]:
            links += [*admitted.links, *(admitted.block.links() if admitted.block is not None else ())]
    part.commit(random.Random(0))
    return links


def found(path: str, depth: int = 1, host: str = THERE, **fields: object) -> Link:
    return Link(f"http://{host}/{path}", host, "link", depth, via=f"http://{HERE}/", anchor=f"http://{HERE}/", **fields)


def test_what_was_sent_lately_is_sent_again_only_from_nearer(parts):
    sends(parts[0], found("a", 3), found("b", 3), found("own", 3, HERE))
    assert gets(parts[1]) == [found("a", 3), found("b", 3)]
    sends(parts[0], found("a", 3), found("c", 3))
    sends(parts[0], found("a", 4), found("d", 4))
    sends(parts[0], found("a", 3), found("b", 3))
    sends(parts[0], found("b", 2))
    assert gets(parts[1]) == [found("c", 3), found("d", 4), found("b", 2)]
    assert parts[0].outbox.links_sent == 5 == parts[1].inbox.links_received[0]


def test_what_a_failed_commit_sent_was_not_sent(parts):
    sends(parts[0], found("a"), fails=True)
    assert gets(parts[1]) == []
    parts[0].commit(random.Random(0))
    assert gets(parts[1]) == [found("a")]


def test_what_makes_a_row_is_sent_as_often_as_it_is_found(parts):
    seed = Link(f"http://{THERE}/a", THERE, input=Input("list", 1))
    for line in (1, 2):
        sends(parts[0], replace(seed, input=Input("list", line)))
    redirect = replace(seed, kind="redirect", input=Input("list", 3), listed=f"http://{HERE}/3")
    sends(parts[0], redirect, replace(redirect, url=f"http://{THERE}/new", input=Input("list", 4)), replace(redirect, input=None))
    assert len(gets(parts[1])) == 5
    made = [row for _, row in rows(parts[1].root, parts[1].store.marks())]
    assert [(row["input"]["line"], row["canonical"], row["reason"], row["final"]) for row in made] == [
        (2, seed.url, "duplicate", True),
        (3, seed.url, "duplicate", True),
    ]
    assert parts[1].store.stats().lines == {"duplicate": 1}  # the line of a redirect is a URL of its own
    assert parts[0].store.stats().lines == {}


@pytest.mark.parametrize(("kind", "input"), [("seed", Input("list", 1)), ("expand", None)])
def test_what_a_line_leads_to_when_it_is_visited_for_links_alone_is_no_lines(parts, kind, input):
    """The line that found a page again, nearer, has its row."""
    onward = Link(f"http://{THERE}/a", THERE, "redirect", via=f"http://{HERE}/", input=Input("list", 1), listed=f"http://{HERE}/")
    lease = Lease(Link(f"http://{HERE}/", HERE, kind, input=Input("list", 1)), b"")
    settled = Settled(lease, Done(page_of(parts[0].root, b"", lease.link.url), "redirect", outlinks=(onward,)))
    outbox = parts[0].outbox
    outbox.append(Prepared(Batch([settled], [], {}, {}, 0.0, WALL), bytes((FOREIGN,)), frozenset()))
    outbox.sync()
    outbox.committed()
    assert [link.input for link in gets(parts[1])] == [input]


def test_robots_rules_go_to_the_part_whose_origin_asked(parts):
    robots = Link(f"http://{THERE}/robots.txt", THERE, "robots", anchor=f"http://{HERE}")
    sends(parts[0], robots)
    sends(parts[0], robots)
    assert gets(parts[1]) == [robots, robots]
    parts[1].robots = {f"http://{HERE}": b"rules", f"http://{THERE}": b"rules"}
    parts[1].commit(random.Random(0))
    assert gets(parts[0]) == []
    assert [part.store.robots([f"http://{HERE}", f"http://{THERE}"]) for part in parts] == [[b"rules", None], [None, b"rules"]]


def test_a_file_is_deleted_when_all_have_read_it_and_never_the_newest(parts):
    for n in range(20):
        sends(parts[0], found(f"{n}"))
    files = sorted(file for file in parts[0].store.marks() if file.startswith("exchange/p00"))
    assert len(files) > 3 and parts[0].outbox.spent(parts[0].store.marks()) == []
    assert parts[0].outbox.lag_bytes() > 0
    assert len(gets(parts[1])) == 20 and parts[1].inbox.is_read
    assert parts[0].outbox.lag_bytes() == 0
    assert parts[0].outbox.spent(parts[0].store.marks()) == files[:-1]


def test_what_is_for_others_is_passed_over(tmp_path):
    board, owners = Board(3), divided(3)
    (tmp_path / "frontier").mkdir()
    crew = [Part(tmp_path, "memory", Web({}, {}, []), Share(part, owners, SECRET), board) for part in range(3)]
    for n in range(9):
        sends(crew[0], found(f"{n}", host=host_of(1, 3)))
    assert len(gets(crew[1])) == 9 and crew[1].inbox.is_read
    assert crew[2].inbox.receive() is None and not crew[2].inbox.is_read
    assert crew[0].outbox.spent(crew[0].store.marks()) == []
    assert gets(crew[2]) == [] and crew[2].inbox.is_read
    assert crew[0].outbox.spent(crew[0].store.marks())
    assert not crew[2].inbox.passed()
    for part in crew:
        part.close()


@given(st.data())
def test_damage_is_told_with_the_name_of_the_file(data):
    with tempfile.TemporaryDirectory() as folder:
        root, board = Path(folder), Board(2)
        (root / "frontier").mkdir()
        crew = [Part(root, "memory", Web({}, {}, []), Share(part, divided(2), SECRET), board) for part in range(2)]
        for n in range(data.draw(st.integers(1, 6))):
            sends(crew[0], found(f"{n}"))
        file = data.draw(st.sampled_from(sorted((root / "exchange").glob("p00-*"))))
        content = bytearray(file.read_bytes())
        at = data.draw(st.integers(0, len(content) - 1))
        damage = data.draw(st.sampled_from(["bit", "cut", "gone"]))
        if damage == "bit":
            content[at] ^= 1 << data.draw(st.integers(0, 7))
            file.write_bytes(content)
        elif damage == "cut":
            file.write_bytes(content[:at])
        else:
            file.unlink()
        with pytest.raises(StorageError, match=file.name) as caught:
            gets(crew[1])
        assert caught.value.final
        for part in crew:
            part.close()


def test_a_part_of_what_a_page_needs_keeps_its_place_in_the_queue_and_its_tag():
    page = Link(f"http://{HERE}/", HERE, tag="label")
    packer = Packer(Keys(SECRET), with_queries=False)
    packer.add([(f"http://{THERE}/{n}.png", THERE) for n in range(3)])
    whole = embeds_of(packer.take(), page)
    part = whole.only([2])
    assert (part.priority, part.tag, part.depth) == (whole.priority, "label", whole.depth)
    assert part.links() == whole.links()[2:]


@pytest.mark.parametrize("fails_at", ["marks", "delete"])
async def test_a_store_or_disk_that_fails_while_read_files_are_deleted_is_made_good_by_the_pump(fails_at):
    """As after any failed write: the crawl waits for it, and does not end."""
    failure = StorageError("closed", errno=errno.ENOSPC)
    failed: list[StorageError] = []

    def fails(*_: object) -> dict[str, Mark]:
        raise failure

    async def marks() -> dict[str, Mark]:
        return fails() if fails_at == "marks" else {"exchange/p00-000000.log": Mark(1, True)}

    exchange = SimpleNamespace(spent=list, delete=fails)
    frontier = SimpleNamespace(retire=lambda marks: asyncio.sleep(0))
    await Intake(exchange, time.monotonic)._delete_spent(SimpleNamespace(marks=marks, frontier=frontier, failed=failed.append))
    assert failed == [failure]


def test_what_was_sent_may_be_forgotten_while_a_commit_adds_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """POST /v1/remove makes a part forget in its loop; its commits are the writer thread's: a KeyError there ended the part."""
    monkeypatch.setattr(parcels_module, "SENT_LINKS_MAX", 2000)
    parcels, ended = Parcels(Share(0, divided(2), SECRET)), threading.Event()

    def forget() -> None:
        while not ended.is_set():
            parcels.forget()

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=forget)
    thread.start()
    try:
        for _ in range(3000):  # each of these was sent before, from a greater depth
            parcels._sending.update(dict.fromkeys((b"%d" % number for number in range(600)), 1))
            parcels.committed()
    finally:
        ended.set()
        thread.join()
        sys.setswitchinterval(before)
