"""All parts of a crawl, as their parent has them; here without processes."""

import errno
import socket
from types import SimpleNamespace

import pytest

from crawler.config.load import load
from crawler.core.errors import RemoteError, StorageError, lack_of
from crawler.core.snapshot import Snapshot
from crawler.service.parts.channel import Gone, error_of, words_of
from crawler.service.parts.crew import Crew
from crawler.service.parts.merged import Look
from crawler.service.parts.nursery import Nursery, awaited
from crawler.service.parts.watched_part import WatchedPart


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


@pytest.mark.parametrize(
    ("lists", "first_was_open", "may"), [([], True, True), (["-"], False, True), (["-", "b.txt"], True, False)]
)
async def test_what_was_read_of_standard_input_is_not_read_by_a_crawl_that_is_opened_anew(lists, first_was_open, may):
    """The rest of it is no list that goes on behind the lines that were read: that ended the node with exit 2."""
    config = load({"input": lists}, environ={}).config
    crew = Crew(config, 2, SimpleNamespace(), lambda part: config, SimpleNamespace())
    crew._parts[0].was_open = first_was_open
    assert crew.may_open_anew(RemoteError("it is away")) is may
    full = StorageError("the disk is full", errno=errno.ENOSPC)
    assert (crew.may_open_anew(full), crew.may_open_anew(full, or_full=True)) == (False, may)
    assert not crew.may_open_anew(StorageError("the store is damaged", final=True), or_full=True)
    crew.opened.set()
    assert not crew.may_open_anew(RemoteError("it is away")), "what it was at while it ran is in its report"


async def test_a_part_is_over_where_no_process_of_it_comes_any_more():
    config = load({}, environ={}).config
    crew = Crew(config, 2, SimpleNamespace(), lambda part: config, SimpleNamespace())
    one, two = crew._parts
    one.has_ended, two.channel = True, SimpleNamespace(tell=None)
    assert crew.is_over(0) and not crew.is_over(1)
    two.channel = None
    assert not crew.is_over(1), "it is just being begun again"
    crew.drain("SIGTERM")
    assert crew.is_over(1), "while all drain, none is"


async def test_of_a_part_that_died_it_is_not_told_what_its_workers_waited_for():
    part = WatchedPart(0)
    part.look = Look(Snapshot(at=0.0, state="running", known=7, in_flight=3, waits_for="politeness"))
    part.died()
    assert part.snapshot() == Snapshot(at=0.0, state="opening", known=7)


@pytest.mark.parametrize(
    "lack",
    [
        lack_of(RuntimeError("can't start new thread")),
        lack_of(MemoryError()),
        StorageError("part-01: Too many open files", errno=errno.EMFILE),
    ],
)
def test_what_a_part_that_is_begun_again_lacks_to_open_is_waited_for(lack):
    """Where no process could be forked for it, it was; but with one left, and no thread, the crawl ended with exit 3."""
    told = error_of(*words_of(lack))
    assert (str(told), awaited(told)) == (str(lack), "this machine has what it lacks")
    assert awaited(StorageError("the frontier store is damaged", final=True)) is None


def test_a_part_whose_socket_cannot_be_sent_is_told_of_as_one_that_cannot_be_forked():
    """sendmsg(2): ENOBUFS, ENOMEM, ETOOMANYREFS. Here the nursery's socket leads nowhere."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as unconnected:
        nursery, told = Nursery(0, unconnected), []
        nursery.not_begun = lambda number, why: told.append((number, why))
        with nursery.begin(3) as ours:
            assert ours.recv(1) == b""
    assert told == [(3, errno.ENOTCONN)]
