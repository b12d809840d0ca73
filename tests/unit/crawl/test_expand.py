"""A page's links on their way to the frontier: in parts, each admitted before the next is read, none lost."""

from __future__ import annotations

import gzip
import zlib
from array import array
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import brotli
import pytest
from msgspec.structs import replace
from support.pages import links_of, page_of
from support.stores import pack

from crawler.config.sections import Config
from crawler.core.keys import Keys
from crawler.core.link_block import Columns, block_of
from crawler.core.model import Done, Link
from crawler.core.reply_limits import PART_LINKS
from crawler.crawl.expand import LARGE_BYTES, Expander
from crawler.crawl.outlinks import BEGIN, FUNCTION, Packed
from crawler.fetch.decoding import Finisher
from crawler.parse.heavy_hosts import NO_TURN
from crawler.parse.pool import ParseFault, open_parser
from crawler.policy.scope import Scope
from crawler.resources.memory_budget import Budget
from crawler.resources.memory_plan import Needs, divide, document_bytes

SEED = "http://www.example.org/a?b=1"
LINK = Link(SEED, "www.example.org")
SECRET = 7


class Reader:
    """Stands where the parser processes stand, and answers what it was given; keeps what it was asked."""

    def __init__(self, *answers: Packed | ParseFault) -> None:
        self.answers = list(answers)
        self.asked: list[bytes] = []
        self.readings: list[bytes] = []
        self.begun: list[tuple[object, ...]] = []

    def begin_with(self, *call: object) -> None:
        self.begun.append(call)

    def turn(self, host: str) -> AbstractAsyncContextManager[None]:
        return NO_TURN

    async def call(self, function: str, body: bytes, *rest: Any, result: Any, host: str) -> Packed | ParseFault:
        self.asked.append(body)
        self.readings.append(rest[-1])
        return self.answers.pop(0)


class Trial:
    """An expander whose admitted links are kept, with what was reserved for parsing at that moment."""

    def __init__(self, root: Path, parser: Any, **config: Any) -> None:
        settings = Config(**{"depth": 1, "scope": "host", **config})
        self.budget = Budget(
            divide(256 << 20, Needs(8, 1, max_parse=2 << 20, max_body=8 << 20, max_head=256 << 10, max_outlinks=100_000))
        )
        self.admitted: list[Link] = []
        self.held: list[int] = []
        self.sizes: list[int] = []
        finisher = Finisher(root, decode_body=False, ratio_max=100.0, codings_max=3)
        self.expander = Expander(settings, Scope(settings), parser, finisher, self._admit, secret=SECRET)

    async def _admit(self, admitted: Any) -> None:
        links = links_of(admitted)
        assert len(links) <= 2000
        self.admitted += links
        self.sizes.append(sum(len(link.url) for link in links))
        self.held.append(self.budget.account("parse").used)

    async def expand(self, page: Any) -> Done:
        async with self.budget.visit() as room:
            room.received(0)
            done = await self.expander.expand(LINK, Done(page, "ok"), room)
        assert self.budget.account("parse").used == 0
        return done


def part(first: int, count: int) -> Columns:
    return pack([f"http://www.example.org/{n}" for n in range(first, first + count)], Keys(SECRET), LINK).columns


def size(part: Columns) -> int:
    return block_of(part, LINK).size


async def test_parts_are_admitted_one_after_the_other_and_what_is_unread_stays_reserved(tmp_path):
    parts = [part(0, 2000), part(2000, 2000), part(4000, 5)]
    trial = Trial(tmp_path, Reader(Packed(list(parts), ["noarchive"], {"scheme": 3, "nofollow": 1})))
    done = await trial.expand(page_of(tmp_path, b"<a>" * 100_000, SEED))
    urls = [link.url for link in (*trial.admitted, *links_of(done))]
    assert urls == [f"http://www.example.org/{n}" for n in range(4005)]
    assert trial.held == [sum(map(size, parts)), sum(map(size, parts[1:]))]
    assert (done.refused, done.robots) == ({"scheme": 3, "nofollow": 1}, "noarchive")


class Holding(Reader):
    """Remembers what was reserved when it was asked."""

    trial: Trial

    async def call(self, *args: Any, **named: Any) -> Any:
        self.held = self.trial.budget.account("parse").used
        return await super().call(*args, **named)


@pytest.mark.parametrize(
    ("body", "references"), [(b"<p>word " * 100_000, 0), (b"<a href=/x>" * 50, 50), (b"<a href=/x>" * 70_000, 70_000)]
)
async def test_a_document_holds_what_it_and_all_that_may_come_of_it_take(tmp_path, body, references):
    """A large one whose references were counted no more than that; a small one as much as any of its size."""
    reader = Holding(Packed([part(0, 3)], [], {}))
    reader.trial = trial = Trial(tmp_path, reader)
    await trial.expand(page_of(tmp_path, body, SEED))
    exactly = document_bytes(len(body), references)
    assert reader.held == exactly if len(body) > LARGE_BYTES else reader.held >= exactly


async def test_a_damaged_part_is_its_documents_fault_and_loses_no_other(tmp_path):
    damaged = [replace(part(6, 1), keys=b"short"), replace(part(7, 1), urls=b"\xff"), replace(part(8, 1), ends=b"")]
    trial = Trial(tmp_path, Reader(Packed([part(0, 3), *damaged, part(3, 3)], [], {})))
    done = await trial.expand(page_of(tmp_path, b"<a>", SEED))
    assert [link.url[-1] for link in (*trial.admitted, *links_of(done))] == ["0", "1", "2", "3", "4", "5"]
    assert done.refused == {"parse_crashed": 3}


@pytest.mark.parametrize("ends", [[60, 0, 60], [0, 0, 60], [60, 60, 60], [20, 40, 59], [20, 40, 1 << 30]])
async def test_links_of_a_part_share_no_text(tmp_path, ends):
    """A thousand that overlap would each be as long as the whole reply, 8 MiB: gigabytes once they are taken apart."""
    forged = replace(part(0, 3), urls=b"x" * 60, ends=array("I", ends).tobytes())
    trial = Trial(tmp_path, Reader(Packed([forged, part(3, 1)], [], {})))
    done = await trial.expand(page_of(tmp_path, b"<a>", SEED))
    assert [link.url[-1] for link in (*trial.admitted, *links_of(done))] == ["3"]
    assert done.refused == {"parse_crashed": 1}


@pytest.mark.parametrize(
    "forged", ["x", "abc/", "http://h", "http://h/a\r\nHost: i", "http://h/a b", "http://h/\0", "http://h/\x7f"]
)
async def test_a_link_is_what_a_url_can_be(tmp_path, forged):
    """It stands in a line of a request and of a record, and a store cuts its host out of it."""
    keys = part(0, 1).keys
    columns = Columns(keys, forged.encode(), array("I", [len(forged)]).tobytes(), b"")
    trial = Trial(tmp_path, Reader(Packed([columns, part(3, 1)], [], {})))
    done = await trial.expand(page_of(tmp_path, b"<a>", SEED))
    assert [link.url[-1] for link in (*trial.admitted, *links_of(done))] == ["3"]
    assert done.refused == {"parse_crashed": 1}


@pytest.mark.parametrize("forged", [["/" + "x" * 3000], ["/same"] * (PART_LINKS + 1)])
async def test_no_link_is_longer_and_no_part_holds_more_than_may_be(tmp_path, forged):
    columns = pack([f"http://www.example.org{path}" for path in forged], Keys(SECRET), LINK).columns
    trial = Trial(tmp_path, Reader(Packed([columns], [], {})))
    done = await trial.expand(page_of(tmp_path, b"<a>", SEED))
    assert (links_of(done), trial.admitted, done.refused) == ([], [], {"parse_crashed": 1})


async def test_a_page_that_ends_its_parser_is_read_in_its_first_quarter(tmp_path):
    reader = Reader(ParseFault("parse_crashed"), Packed([part(0, 3)], [], {}))
    body = b"<a>" * 200_000
    done = await Trial(tmp_path, reader).expand(page_of(tmp_path, body, SEED))
    assert reader.asked == [body, body[: len(body) // 4]]
    assert (len(links_of(done)), done.refused) == (3, {"parse_crashed": 1})
    assert done.cut == (("parse_crashed", "its first part was read"),)
    trial = Trial(tmp_path, Reader(ParseFault("parse_crashed"), ParseFault("parse_crashed")))
    done = await trial.expand(page_of(tmp_path, body, SEED))
    assert done.cut == (("parse_crashed", "nothing of it was read"),)


@pytest.mark.parametrize("body", [b"\0" * (2 << 20), b"", b"no tag at all", "kein Tag > hier".encode("utf-16")])
async def test_what_has_no_tag_is_not_sent_to_a_parser_but_for_its_headers(body, tmp_path):
    html = (b"Content-Type", b"text/html")
    reader = Reader(Packed([part(0, 1)], [], {}), Packed([], [], {}))
    headers = (html, (b"Link", b"</0>; rel=next"))
    done = await Trial(tmp_path, reader).expand(page_of(tmp_path, body, SEED, headers, mime="text/html"))
    assert reader.asked == [b""]
    assert len(links_of(done)) == 1
    done = await Trial(tmp_path, reader).expand(page_of(tmp_path, body, SEED, (html,), mime="text/html"))
    assert reader.asked[1:] == []
    assert links_of(done) == []


async def test_what_has_no_links_holds_nothing_while_its_outcome_waits(tmp_path):
    html = ((b"Content-Type", b"text/html"),)
    for body in (b"no tag", b"<p>no link"):
        trial = Trial(tmp_path, Reader(Packed([], [], {})))
        async with trial.budget.visit() as room:
            room.received(0)
            await trial.expander.expand(LINK, Done(page_of(tmp_path, body, SEED, html, mime="text/html"), "ok"), room)
            assert trial.budget.account("parse").used == 0


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16be", "shift-jis", "iso-2022-jp", "gb18030", "euc-kr", "big5"])
async def test_a_tag_is_seen_in_every_encoding(encoding, tmp_path):
    body = '<a href="/0">一</a>'.encode(encoding)
    async with open_parser(Config(), parsers=0, preload=FUNCTION) as parser:
        page = page_of(tmp_path, body, SEED, ((b"Content-Type", b"text/html"),), mime="text/html", charset=encoding)
        assert [link.url for link in links_of(await Trial(tmp_path, parser).expand(page))] == ["http://www.example.org/0"]


async def test_a_process_begins_with_what_its_pages_are_read_by(tmp_path):
    """Thousands of expressions take longer to compile than a page may take to be parsed, and more memory."""
    reader = Reader(Packed([], [], {}), Packed([], [], {}))
    trial = Trial(tmp_path, reader, exclude=["/a"])
    await trial.expand(page_of(tmp_path, b"<a href=/0>", SEED, mime="text/html"))
    changed = Config(depth=1, exclude=("/a", "/b"))
    trial.expander.change(changed, Scope(changed))
    await trial.expand(page_of(tmp_path, b"<a href=/0>", SEED, mime="text/html"))
    assert reader.begun == [(BEGIN, reading) for reading in reader.readings]
    assert reader.begun[0] != reader.begun[1]


async def test_a_large_page_through_the_real_reader(tmp_path):
    body = b"".join(b"<a href=/%d>x</a>" % n for n in range(4500))
    async with open_parser(Config(), parsers=0, preload=FUNCTION) as parser:
        trial = Trial(tmp_path, parser)
        done = await trial.expand(page_of(tmp_path, body, SEED, mime="text/html"))
    assert [link.url for link in (*trial.admitted, *links_of(done))] == [f"http://www.example.org/{n}" for n in range(4500)]
    assert len(links_of(done)) == 500
    assert max(trial.held) <= document_bytes(len(body), 100_000)


async def test_more_codings_than_are_undone_are_not_undone_for_links_either(tmp_path):
    body = gzip.compress(b"<a href=/0>")
    for number, asked in ((3, [b"<a href=/0>"]), (4, [])):
        for _ in range(number - 1):
            body = gzip.compress(body)
        reader = Reader(Packed([], [], {}))
        page = page_of(tmp_path, body, SEED, mime="text/html", coding=", ".join(["gzip"] * number))
        await Trial(tmp_path, reader).expand(page)
        assert reader.asked == asked
        body = gzip.compress(b"<a href=/0>")


@pytest.mark.parametrize("is_kept_decoded", [False, True])
@pytest.mark.parametrize(
    ("coding", "more", "reason"), [(gzip.compress, b"\r\n", "trailing_data"), (zlib.compress, b"x", "trailing_data")]
)
async def test_of_a_page_in_a_faulty_coding_what_could_be_decoded_is_read(tmp_path, is_kept_decoded, coding, more, reason):
    """Browsers show a page whole behind whose coding there are more bytes."""
    name = "gzip" if coding is gzip.compress else "deflate"
    html = b"<a href=/0>"
    page = page_of(tmp_path, coding(html) + more, SEED, mime="text/html", coding=name)
    if is_kept_decoded:
        page = page_of(tmp_path, html, SEED, mime="text/html")
    trial = Trial(tmp_path, Reader(Packed([part(0, 1)], [], {})))
    async with trial.budget.visit() as room:
        room.received(0)
        done = await trial.expander.expand(LINK, Done(page, "bad_response", reason), room)
    assert (len(links_of(done)), trial.expander._parser.asked) == (1, [html])
    assert done.cut == (("body_cut", f"{page.bytes_decoded} bytes of it came: {reason}"),)


async def test_of_what_decodes_to_too_much_no_more_is_read_than_there_was_room_for(tmp_path):
    """Behind the limit there is more to be decoded, which nothing was reserved for."""
    html = b"<a href=/0>" * (1 << 20)
    page = page_of(tmp_path, brotli.compress(html), SEED, mime="text/html", bytes_decoded=0)
    reader = Holding(Packed([part(0, 1)], [], {}))
    reader.trial = trial = Trial(tmp_path, reader)
    await Finisher(tmp_path, decode_body=False, ratio_max=100.0, codings_max=3).finish(page, ("br",), 64 << 20)
    assert page.fault is not None and page.fault.reason == "decode_ratio"
    async with trial.budget.visit() as room:
        room.received(0)
        await trial.expander.expand(LINK, Done(page, "bad_response", "decode_ratio"), room)
    [body] = reader.asked
    assert len(body) <= page.bytes_decoded < trial.expander._config.max_parse and reader.held >= document_bytes(len(body), 1)
