"""Settled URLs that a person chose are due again, or known no more; and how far lists and tags are. Counts stay right."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from msgspec.structs import replace
from support.stores import TIMEOUT, Driver, done, link, names, pack, revive

from crawler.core.batch import KNOWN, NEW, Admitted, Batch
from crawler.core.keys import Keys
from crawler.core.model import Input, Known, LineFault, Link
from crawler.frontier import progress
from crawler.frontier.progress import LIST, TAG, Tally
from crawler.frontier.selection import LOOKED_AT, Selection, in_steps


@pytest.fixture(params=["memory", "embedded"])
def driver(request: pytest.FixtureRequest, tmp_path: Path):
    driver = Driver(request.param, tmp_path / "store")
    yield driver
    driver.store.close()


def listed(name: str, line: int = 1, **fields: object) -> Link:
    return link(name, "seed", input=Input("mine", line), **fields)


def settled(driver: Driver, count: int = 6) -> None:
    """Half of them timed out; two hosts, two tags."""
    driver.commit([link(f"{'ab'[n % 2]}/{n}", tag="x" if n < 3 else 2) for n in range(count)])
    leases = driver.claim(per_host=10_000)
    driver.commit((), [(lease, TIMEOUT if int(lease.link.url[14:]) % 3 else done()) for lease in leases])


@pytest.mark.parametrize(
    ("which", "chosen"),
    [
        (Selection(url="http://a.test/2"), ["a/2"]),
        (Selection(url="http://a.test/99"), []),
        (Selection(host="b.test"), ["b/1", "b/3", "b/5"]),
        (Selection(host="c.test"), []),
        (Selection(outcomes={"ok"}), ["a/0", "b/3"]),
        (Selection(tag="x"), ["a/0", "a/2", "b/1"]),
        (Selection(tag=2, host="a.test"), ["a/4"]),
        (Selection(tag="2"), []),
    ],
)
def test_what_is_chosen_is_due_again_and_nothing_else(driver: Driver, which: Selection, chosen: list[str]) -> None:
    settled(driver)
    assert in_steps(driver.store.revive_some, which) == len(chosen)
    driver.now += 100
    assert sorted(names(driver.claim(per_host=100))) == chosen
    counts = driver.store.stats()
    assert (counts.known, counts.waiting, counts.done) == (6, len(chosen), 6 - len(chosen))


def test_what_was_removed_is_new_when_it_is_found_again(driver: Driver) -> None:
    settled(driver)
    assert in_steps(driver.store.remove_some, Selection(host="a.test")) == 3
    assert driver.store.lookup("http://a.test/0") is None
    counts = driver.store.stats()
    assert (counts.known, counts.waiting, counts.done, counts.outcomes) == (3, 0, 3, {"ok": 1, "timeout": 2})
    assert driver.store.removed == 3
    assert driver.commit([link("a/0"), link("b/1")]) == [NEW, KNOWN]
    if driver.kind == "embedded":
        driver.reopen()
        assert driver.store.lookup("http://a.test/2") is None and driver.store.stats().known == 4


def test_while_pages_are_being_removed_none_counts_twice(driver: Driver) -> None:
    """Whoever counts what is admitted reads both from another thread."""
    settled(driver, 4000)
    with ThreadPoolExecutor(1) as engine:
        removing = engine.submit(in_steps, driver.store.remove_some, Selection())
        while not removing.done():
            assert driver.store.removed + driver.store.own_counts().known <= 4000
        assert removing.result() == 4000 == driver.store.removed


def test_what_waits_again_is_not_removed(driver: Driver) -> None:
    settled(driver)
    revive(driver.store, "ok")
    assert in_steps(driver.store.remove_some, Selection()) == 4
    assert (driver.store.stats().known, driver.store.stats().waiting) == (2, 2)


def test_a_step_looks_at_so_many_records_only(driver: Driver) -> None:
    driver.commit([link(f"a/{n}") for n in range(LOOKED_AT + 10)])
    driver.commit((), [(lease, done()) for lease in driver.claim(per_host=10_000)])
    step = driver.store.remove_some(Selection(outcomes={"timeout"}))
    assert step.count == 0 and (step.after is not None) == (driver.kind == "embedded")
    assert in_steps(driver.store.remove_some, Selection()) == LOOKED_AT + 10


def test_http_errors_are_counted_by_their_status(driver: Driver) -> None:
    driver.commit([link(f"a/{n}") for n in range(3)])
    driver.commit((), [(lease, done(outcome="http_error")) for lease in driver.claim()])
    assert driver.store.stats().statuses == {"200": 3}, "the journal of these tests says 200 of every page"
    in_steps(driver.store.revive_some, Selection(url="http://a.test/1"))
    assert driver.store.stats().statuses == {"200": 2}


def test_lists_that_are_done_make_room_for_new_ones(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that is sent a list every ten minutes has had a thousand within a week."""
    monkeypatch.setattr(progress, "NAMES_MAX", 4)
    monkeypatch.setattr(progress, "JOINED_AT_ONCE", 2)
    for name in ("a", "b", "c", "d"):
        driver.commit([link(f"{name}/0", "seed", input=Input(name, 1))])
        driver.now += 9
        lease = driver.claim_one(f"{name}/0")
        if name != "b":
            driver.settle(lease, done())
    ended, others = Tally(1, {"ok": 1}), Tally(2, {"ok": 2})
    if driver.kind == "embedded":
        driver.reopen()
    assert driver.store.progress(LIST) == {"b": Tally(1, {}), "d": ended, "": others}, "those that are not done stay"
    in_steps(driver.store.revive_some, Selection(url="http://a.test/0"))
    assert driver.store.progress(LIST)[""] == Tally(2, {"ok": 1}), "what was counted there is undone there"
    driver.now += 9
    driver.settle(next(lease for lease in driver.claim() if lease.link.host == "a.test"), done())
    assert driver.store.progress(LIST)[""] == others
    driver.commit([link("a/1", "seed", input=Input("a", 2))])
    in_steps(driver.store.revive_some, Selection(url="http://a.test/0"))
    assert driver.store.progress(LIST)["a"] == Tally(2, {}), "a list that goes on is done when all that waits of it is"
    driver.now += 9
    driver.settle(next(lease for lease in driver.claim() if lease.link.url == "http://a.test/0"), done())
    assert driver.store.progress(LIST) == {"b": Tally(1, {}), "a": Tally(2, {"ok": 1}), "": others}, "of c and d"


def test_what_another_part_has_counted_is_less_than_nothing_where_it_is_undone():
    """Hosts were divided anew: their URLs are here, what was counted of them is there. Together it is right."""
    known = Known(listed("http://a.test/"), "ok", None, 200, 0.0)
    here, alone = progress.Tallies(is_part=True), progress.Tallies()
    for one in (here, alone):
        one.undo(known, forgotten=False)
    assert (here.of(LIST)["mine"].outcomes, alone.of(LIST)["mine"].outcomes) == ({"ok": -1}, {})


# -- progress ---------------------------------------------------------------------------------------------------------


def test_each_line_of_a_list_ends_once(driver: Driver) -> None:
    """Through its redirects; a duplicate and an invalid line at once."""
    lines = [listed("a/0", 1), listed("a/1", 2), listed("a/0", 3), listed("a/3", 4)]
    fault = LineFault(Input("mine", 5), "ftp://", "scheme", "bad")
    driver.now += 1
    driver.make_true(driver.store.prepare(Batch([], [Admitted(tuple(lines), (fault,))], {}, {}, driver.now, 1.0)))
    assert driver.store.progress(LIST) == {"mine": Tally(5, {"skipped": 1, "invalid_url": 1})}
    assert driver.store.progress(TAG) == {'"bad"': Tally(1, {"invalid_url": 1})}
    first, second, third = driver.claim()
    onward = link("a/9", "redirect", input=Input("mine", 1))
    driver.commit((), [(first, done(onward, outcome="redirect")), (second, done())])
    assert driver.store.progress(LIST)["mine"] == Tally(5, {"skipped": 1, "invalid_url": 1, "ok": 1})
    driver.commit((), [(third, done(link("a/1", "redirect", input=Input("mine", 4)), outcome="redirect"))])
    driver.now += 9
    driver.settle(driver.claim_one("a/9"), TIMEOUT)
    ended = Tally(5, {"skipped": 2, "invalid_url": 1, "ok": 1, "timeout": 1})
    assert driver.store.progress(LIST)["mine"] == ended and ended.done == 5
    revive(driver.store, "timeout")
    assert driver.store.progress(LIST)["mine"].done == 4
    driver.now += 9
    driver.settle(driver.claim_one("a/9"), done())
    if driver.kind == "embedded":
        driver.reopen()
    assert driver.store.progress(LIST)["mine"] == Tally(5, {"skipped": 2, "invalid_url": 1, "ok": 2})


def test_a_redirect_that_is_not_followed_ends_its_line_once_however_often_it_is_visited(driver: Driver) -> None:
    """It leads out of scope, or what it led to is excluded by now."""
    driver.commit([listed("a/0", 1), listed("b/0", 2)])
    first, second = sorted(driver.claim(), key=lambda lease: lease.link.url)
    onward = link("c/0", "redirect", input=Input("mine", 2))
    driver.commit((), [(first, done(outcome="redirect")), (second, done(onward, outcome="redirect"))])
    driver.now += 9
    driver.settle(driver.claim_one("c/0"), done())
    for _ in range(3):
        revive(driver.store, "redirect")
        driver.now += 9
        driver.commit((), [(lease, done(outcome="redirect")) for lease in driver.claim()])
    assert driver.store.stats().outcomes == {"redirect": 2, "ok": 1}
    assert driver.store.progress(LIST) == {"mine": Tally(2, {"redirect": 1, "ok": 1})}


def test_a_tag_counts_what_its_pages_link_to(driver: Driver) -> None:
    driver.commit([listed("a/0", tag="t"), link("b/0", tag=1)])
    for lease in driver.claim():
        page = Link(lease.link.url, lease.link.host, tag=lease.link.tag)
        block = pack([f"{lease.link.url}{n}" for n in range(3)], Keys(driver.store.secret()), page)
        driver.commit((), [(lease, replace(done(), block=block))])
    assert driver.store.progress(TAG) == {'"t"': Tally(4, {"ok": 1}), "1": Tally(4, {"ok": 1})}
    in_steps(driver.store.remove_some, Selection(tag=1))
    assert driver.store.progress(TAG)["1"] == Tally(3, {})


def test_more_names_than_are_told_apart_are_one_together(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "NAMES_MAX", 2)
    driver.commit([link(f"a/{n}", tag=n) for n in range(5)])
    assert driver.store.progress(TAG) == {"0": Tally(1, {}), "1": Tally(1, {}), "": Tally(3, {})}
