"""A page's links on their way to the frontier: in parts, each admitted before the next is read, none lost."""

from __future__ import annotations

from typing import Any

import pytest
from pages import page_of

from crawler.budget import Budget
from crawler.config import Config
from crawler.expand import Expander
from crawler.links import Outlink, Packed, encode
from crawler.model import Done, Link
from crawler.parse import Fault, open_parser
from crawler.plan import PARSE_COPIES, divide
from crawler.scope import Scope

SEED = "http://www.example.org/a?b=1"
LINK = Link(SEED, "www.example.org")


class Reader:
    """Stands where the parser processes stand, and answers what it was given; keeps what it was asked."""

    def __init__(self, *answers: Packed | Fault) -> None:
        self.answers = list(answers)
        self.asked: list[bytes] = []

    async def call(self, function: str, body: bytes, *rest: Any, result: Any) -> Packed | Fault:
        self.asked.append(body)
        return self.answers.pop(0)


class Trial:
    """An expander whose admitted links are kept, with what was reserved for parsing at that moment."""

    def __init__(self, parser: Any, **config: Any) -> None:
        settings = Config(**{"depth": 1, "scope": "host", **config})
        self.budget = Budget(divide(256 << 20, workers=8, parsers=1, max_parse=2 << 20))
        self.admitted: list[Link] = []
        self.held: list[int] = []
        self.expander = Expander(settings, Scope(settings), parser, self._admit)

    async def _admit(self, admitted: Any) -> None:
        assert len(admitted.links) <= 2000
        self.admitted += admitted.links
        self.held.append(self.budget.account("parse").used)

    async def expand(self, page: Any) -> Done:
        async with self.budget.visit() as room:
            room.received(0)
            done = await self.expander.expand(LINK, Done(page, "ok"), room)
        assert self.budget.account("parse").used == 0
        return done


def part(first: int, count: int) -> bytes:
    numbers = range(first, first + count)
    return encode([Outlink(f"http://www.example.org/{n}", "www.example.org", "a", n == 7) for n in numbers])


async def test_parts_are_admitted_one_after_the_other_and_what_is_unread_stays_reserved(tmp_path):
    parts = [part(0, 2000), part(2000, 2000), part(4000, 5)]
    trial = Trial(Reader(Packed(list(parts), ["noarchive"], {"scheme": 3})))
    done = await trial.expand(page_of(tmp_path, b"<a>" * 100_000, SEED))
    urls = [link.url for link in (*trial.admitted, *done.outlinks)]
    assert urls == [f"http://www.example.org/{n}" for n in range(4005) if n != 7]
    assert trial.held == [sum(map(len, parts)), sum(map(len, parts[1:]))]
    assert (done.refused, done.robots) == ({"scheme": 3, "nofollow": 1}, "noarchive")


async def test_a_damaged_part_is_its_documents_fault_and_loses_no_other(tmp_path):
    trial = Trial(Reader(Packed([part(0, 3), b"\xc1", part(3, 3)], [], {})))
    done = await trial.expand(page_of(tmp_path, b"<a>", SEED))
    assert [link.url[-1] for link in (*trial.admitted, *done.outlinks)] == ["0", "1", "2"]
    assert done.refused == {"parse_crashed": 1}


async def test_a_page_that_ends_its_parser_is_read_in_its_first_quarter(tmp_path):
    reader = Reader(Fault("parse_crashed"), Packed([part(0, 3)], [], {}))
    body = b"<a>" * 200_000
    done = await Trial(reader).expand(page_of(tmp_path, body, SEED))
    assert reader.asked == [body, body[: len(body) // 4]]
    assert (len(done.outlinks), done.refused) == (3, {"parse_crashed": 1})


@pytest.mark.parametrize("body", [b"\0" * (2 << 20), b"", b"no tag at all", "kein Tag > hier".encode("utf-16")])
async def test_what_has_no_tag_is_not_sent_to_a_parser_but_for_its_headers(body, tmp_path):
    html = (b"Content-Type", b"text/html")
    reader = Reader(Packed([part(0, 1)], [], {}), Packed([], [], {}))
    done = await Trial(reader).expand(page_of(tmp_path, body, SEED, (html, (b"Link", b"</0>; rel=next")), mime="text/html"))
    assert reader.asked == [b""]
    assert len(done.outlinks) == 1
    done = await Trial(reader).expand(page_of(tmp_path, body, SEED, (html,), mime="text/html"))
    assert reader.asked[1:] == []
    assert done.outlinks == ()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16be", "shift-jis", "iso-2022-jp", "gb18030", "euc-kr", "big5"])
async def test_a_tag_is_seen_in_every_encoding(encoding, tmp_path):
    body = '<a href="/0">一</a>'.encode(encoding)
    async with open_parser(Config(), parsers=0, preload="crawler.links:packed") as parser:
        page = page_of(tmp_path, body, SEED, ((b"Content-Type", b"text/html"),), mime="text/html", charset=encoding)
        assert [link.url for link in (await Trial(parser).expand(page)).outlinks] == ["http://www.example.org/0"]


async def test_a_large_page_through_the_real_reader(tmp_path):
    body = b"".join(b"<a href=/%d>x</a>" % n for n in range(4500))
    async with open_parser(Config(), parsers=0, preload="crawler.links:packed") as parser:
        trial = Trial(parser)
        done = await trial.expand(page_of(tmp_path, body, SEED, mime="text/html"))
    assert [link.url for link in (*trial.admitted, *done.outlinks)] == [f"http://www.example.org/{n}" for n in range(4500)]
    assert len(done.outlinks) == 500
    assert max(trial.held) <= PARSE_COPIES * len(body)
