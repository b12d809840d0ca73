"""The judge of the cluster's scenarios sees what it must see; and the bench, on a crawl of one machine."""

import pytest
from support.cluster_bench import bench
from support.cluster_net import reason_not
from support.judged_web import Excuse, Visit, judge, not_once
from support.pinch import Pinch, messages_of

A, B = "10.77.2.1", "10.77.2.2"


def visit(begun, ended, client=A, host="h", path="/"):
    return Visit(host, path, begun, ended, client)


@pytest.mark.parametrize(
    "visits, overlaps, hurried",
    [
        ([visit(0, 1), visit(1.2, 2)], 0, 0),
        ([visit(0, 1), visit(0.9, 2, B)], 1, 0),
        ([visit(0, 5), visit(1, 2, B), visit(5.1, 6)], 1, 1),  # the long one counts, not the last one
        ([visit(0, 1), visit(1.1, 2, B)], 0, 1),
        ([visit(0, 1), visit(0.5, 1, host="other")], 0, 0),
    ],
)
def test_whoever_comes_too_early_is_seen(visits, overlaps, hurried):
    verdict = judge(visits, 0.2)
    assert (len(verdict.overlaps), len(verdict.hurried)) == (overlaps, hurried)


def test_what_a_machine_sends_by_itself_is_excused_and_nothing_else():
    visits = [visit(0, 1), visit(0.9, 2, B), visit(2.05, 3), visit(3.1, 4)]
    assert len(judge(visits, 0.2).faults) == 3
    verdict = judge(visits, 0.2, excuses=[Excuse(B, 0.85, 1.1)])
    assert (verdict.excused, len(verdict.faults), verdict.again) == (1, 1, 3)
    late = [visit(0, 1), visit(1.1, 2, B, path="/late"), visit(5, 6, B, path="/late"), visit(6.1, 7, B, path="/once")]
    verdict = judge(late, 0.2, excuses=[Excuse(B, 1.0, 10.0, repeated=True)])
    assert (verdict.excused, len(verdict.faults)) == (2, 0)  # which of the two came to nobody is not seen here
    assert len(judge(late, 0.2, excuses=[Excuse(B, 1.0, 2.0, repeated=True)]).faults) == 1


def test_what_is_not_there_once_is_told():
    assert not_once(["a", "b", "b", "d"], ["a", "b", "c"]) == {"b": 2, "c": 0, "d": 1}


def test_messages_are_told_apart():
    messages = [b"P" + (4 + n).to_bytes(4, "big") + b"x" * n for n in (3, 0, 9)]
    assert list(messages_of(b"".join(messages))) == messages
    assert b"".join(messages_of(b"".join(messages)[:-2])) == b"".join(messages)[:-2]


@pytest.mark.skipif(reason_not() is not None, reason=str(reason_not()))
def test_the_bench_on_one_machine(tmp_path):
    """Two processes, killed and frozen: what the judge and the files say of a crawl that is known to hold its promises."""
    with bench(tmp_path, pages=150, hosts=40, parts=2, clustered=False, stores=True, listed=4) as made:
        node = made.add()
        made.start()
        made.until_all_crawl()
        made.kill(node)
        made.start()
        made.until_all_crawl()
        made.freeze(node)
        made.thaw(node)
        made.finish()
        assert made.faults() == []
        assert made.judged().visits >= 150


def test_a_commit_is_known_by_its_text_and_by_the_name_it_was_prepared_under():
    pinch = Pinch("127.0.0.1", 1)
    begin = b"B\0\0\0\x20\0_pg3_3\0\0\0"
    assert pinch._commit_in(b"P\0\0\0\x10\0COMMIT\0\0\0") > 0
    assert pinch._commit_in(begin) < 0
    assert pinch._commit_in(b"P\0\0\0\x10_pg3_3\0COMMIT\0\0\0") > 0
    assert pinch._commit_in(begin) > 0
    pinch._commit_in(b"P\0\0\0\x10_pg3_3\0SELECT 1\0\0\0")  # of another session
    assert pinch._commit_in(begin) < 0
    pinch.wire.close()
