"""The front cache forgets, but never lies, and stays within its bound; the longest queues stay few."""

from hypothesis import given
from hypothesis import strategies as st

from crawler.frontier.counters import Longest
from crawler.frontier.rocksdb.cache import GenerationCache

keys = st.integers(0, 30)
steps = st.one_of(
    st.tuples(st.just("set"), keys, st.integers()),
    st.tuples(st.just("get"), keys),
    st.tuples(st.just("pick"), st.lists(keys)),
    st.tuples(st.just("update"), st.dictionaries(keys, st.integers(), max_size=12)),
)


@given(st.integers(1, 8), st.lists(steps, min_size=20, max_size=120))
def test_what_it_remembers_is_what_was_put_last(size: int, history: list[tuple]) -> None:
    recent: GenerationCache[int, int] = GenerationCache(size)
    truth: dict[int, int] = {}
    for what, *arguments in history:
        if what == "set":
            key, value = arguments
            recent[key] = truth[key] = value
            assert recent.get(key) == value
        elif what == "get":
            assert recent.get(arguments[0]) in (None, truth.get(arguments[0]))
        elif what == "pick":
            found, missing = recent.pick(arguments[0])
            assert found.keys() | missing == set(arguments[0]) and found.keys().isdisjoint(missing)
            assert all(truth[key] == value for key, value in found.items())
        else:
            recent.update(arguments[0])
            truth |= arguments[0]
            assert sum(recent.get(key) == value for key, value in arguments[0].items()) >= min(size, len(arguments[0]))
        assert len(recent) <= 2 * size


def test_what_is_asked_for_again_and_again_stays() -> None:
    recent: GenerationCache[int, int] = GenerationCache(100)
    recent[0] = 7
    for key in range(1, 10_000):
        recent.update({key: key})
        if key % 50 == 0:
            assert recent.pick([0]) == ({0: 7}, set())


def test_the_longest_queues_are_found_among_very_many() -> None:
    longest = Longest()
    for host in range(100_000):
        longest.note(f"h{host}", host % 1000 + 1)
    longest.note("h999", 0)
    longest.note("giant", 10**6)
    assert longest.top(2) == [("giant", 10**6), ("h1999", 1000)]
    assert len(longest.top(10**9)) <= 2 * Longest.HOSTS_MAX
    for host in range(100_000):
        longest.note(f"h{host}", 0)
    longest.note("giant", 1)
    assert longest.top(9) == [("giant", 1)]
