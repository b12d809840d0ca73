"""The order of what takes bytes: small ones first, and a large one not for ever behind them."""

from crawler.core.waiting import Waiting

LARGE_BYTES = 1000
LARGE = LARGE_BYTES + 1


def taken(waiting: Waiting[str], count: int) -> str:
    names = []
    for _ in range(count):
        _, first = waiting.first
        names.append(waiting.pop())
        assert names[-1] == first
    return " ".join(names)


def of(*items: tuple[int, str]) -> Waiting[str]:
    waiting: Waiting[str] = Waiting(LARGE_BYTES)
    for size, name in items:
        waiting.append(size, name)
    return waiting


def test_small_ones_go_first_and_each_kind_keeps_its_order():
    waiting = of((LARGE, "A"), (LARGE, "B"), (10, "a"), (LARGE_BYTES, "b"))
    assert taken(waiting, 4) == "a b A B" and not waiting


def test_a_large_one_is_overtaken_by_no_more_bytes_than_it_has():
    waiting = of((4 * LARGE, "A"), (4 * LARGE, "B"), *((LARGE_BYTES, str(n)) for n in range(15)))
    assert taken(waiting, 17) == "0 1 2 3 4 A 5 6 7 8 9 B 10 11 12 13 14"


def test_small_ones_that_overtake_nothing_do_not_count():
    waiting = of(*((LARGE_BYTES, str(n)) for n in range(20)))
    assert taken(waiting, 20).split() == [str(n) for n in range(20)]
    waiting = of((LARGE, "A"), (10, "a"))
    assert taken(waiting, 2) == "a A"


def test_what_is_given_back_is_the_first_of_its_kind():
    waiting = of((LARGE, "A"), (LARGE, "B"), (10, "a"), (10, "b"))
    assert waiting.pop() == "a"
    waiting.give_back(10, "a")
    waiting.give_back(LARGE, "C")
    assert taken(waiting, 5) == "a b C A B"
