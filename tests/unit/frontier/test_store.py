"""The contract of a store, over every kind: what this suite does not promise, the pump may not rely on."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest
from msgspec.structs import replace
from support.pages import page_of
from support.stores import NO_PAGE, REST, TIMEOUT, Driver, done, link, names, pack, retry, revive

from crawler.core.batch import EXPAND, FOREIGN, HOST_BUDGET, KNOWN, NEW, QUERY_EXPLOSION, Admitted, Batch, HostRest, Settled
from crawler.core.errors import StorageError
from crawler.core.keys import SLOTS, Keys, Share
from crawler.core.model import Done, Dropped, Input, Known, Lease, LineFault, Link, Mark
from crawler.frontier.admission import Decided
from crawler.frontier.bundle import URLS_BYTES_MAX
from crawler.frontier.host_state import CRASHES_MAX
from crawler.frontier.recrawl import RecrawlOrder
from crawler.frontier.selection import Selection
from crawler.frontier.store import Limits
from crawler.frontier.suspects import CRASHED, ROBOTS_SUSPECTS_MAX, robots_key

DOWN = ("dns_error", "host_down")


@pytest.fixture(params=["memory", "embedded", "cluster"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def driver(kind: str, tmp_path: Path):
    driver = Driver(kind, tmp_path / "store")
    yield driver
    driver.store.close()


@pytest.fixture
def limited(kind: str, tmp_path: Path):
    driver = Driver(kind, tmp_path / "store", Limits(depth_limited=True, sitemaps=True))
    yield driver
    driver.store.close()


# -- claims -------------------------------------------------------------------------------------------------------


def test_a_new_store_knows_nothing_and_waits_for_nothing(driver: Driver) -> None:
    counts = driver.store.stats()
    assert (counts.known, counts.waiting, counts.done, counts.hosts) == (0, 0, 0, 0)
    assert driver.claim() == [] and driver.store.next_due() is None
    assert driver.store.lookup("http://a.test/") is None
    assert driver.store.clock() == driver.store.last_commit_wall() == 0.0


def test_a_claimed_link_is_not_claimed_again(driver: Driver) -> None:
    driver.commit([link(f"a/{i}") for i in range(5)])
    first = driver.claim(per_host=2)
    assert names(first) == ["a/0", "a/1"]
    assert driver.claim() == []  # the host has links out
    assert names(driver.claim(0, 0, {"a.test": 2})) == ["a/2", "a/3"]
    assert names(driver.claim(0, 0, {"a.test": 9, "unknown.test": 9})) == ["a/4"]
    assert driver.claim(9, 9, {"a.test": 9}) == []


def test_what_is_given_back_comes_first_again(driver: Driver) -> None:
    driver.commit([link(f"a/{i}") for i in range(4)])
    first = driver.claim(per_host=3)
    driver.store.give_back(first[:2])
    assert driver.claim() == []  # a/2 is still out
    assert names(driver.claim(0, 0, {"a.test": 1})) == ["a/0"]
    driver.store.give_back([first[2]])
    driver.store.give_back([Lease(link("a/robots.txt"), b"")])  # stood in no queue
    assert names(driver.claim(0, 0, {"a.test": 9})) == ["a/1", "a/2", "a/3"]
    assert driver.store.stats().waiting == 4


def test_a_host_whose_links_all_came_back_is_claimed_as_before(driver: Driver) -> None:
    driver.commit([link(f"{host}/{i}") for host in "abc" for i in range(2)])
    leases = driver.claim()
    assert len(leases) == 6
    driver.store.give_back(leases)
    assert sorted(names(driver.claim())) == sorted(names(leases))


def test_claims_take_from_as_many_hosts_as_asked(driver: Driver) -> None:
    driver.commit([link(f"{host}/{i}") for i in range(3) for host in "abcde"])
    leases = driver.claim(hosts=2, per_host=2)
    assert sorted(Counter(lease.link.host for lease in leases).values()) == [2, 2]
    more = driver.claim(hosts=9, per_host=1)
    assert len(more) == 3
    assert {lease.link.host for lease in leases}.isdisjoint(lease.link.host for lease in more)


def test_within_a_host_by_priority_then_first_in_first_out(driver: Driver) -> None:
    driver.commit([link("a/p1"), link("a/r1", priority=16), link("a/p2")])
    driver.commit([link("a/r2", priority=16), link("a/p3"), link("a/late", priority=200), link("a/robots", priority=0)])
    assert names(driver.claim()) == ["a/robots", "a/r1", "a/r2", "a/p1", "a/p2", "a/p3", "a/late"]


def test_order_survives_what_was_settled_in_between(driver: Driver) -> None:
    driver.commit([link(f"a/{i}") for i in range(50)])
    for i in range(40):
        driver.settle(driver.claim_one(f"a/{i}"), done())
    driver.commit([link("a/r", priority=16)])
    assert names(driver.claim()) == ["a/r", *(f"a/{i}" for i in range(40, 50))]


def test_a_host_is_not_claimed_before_it_is_due(driver: Driver) -> None:
    driver.commit([link("a/0"), link("a/1"), link("b/0")])
    lease = next(lease for lease in driver.claim(per_host=1) if lease.link.host == "a.test")
    driver.settle(lease, done(), HostRest(driver.now + 10, failures=3, busy=2))
    assert driver.claim() == []
    assert driver.store.next_due() == pytest.approx(driver.now + 10, abs=0.01)
    driver.now += 10
    [lease] = driver.claim()
    assert (lease.failures, lease.busy) == (3, 2)
    assert lease.due == pytest.approx(driver.now, abs=0.01)


def test_next_due_names_retries_too(driver: Driver) -> None:
    driver.commit([link("a/0"), link("b/0")])
    first, second = driver.claim()
    assert driver.store.next_due() is None  # all that waits is out
    driver.settle(first, retry(30))
    at = driver.now + 30
    assert driver.store.next_due() == pytest.approx(at)
    driver.settle(second, retry(10))
    assert driver.store.next_due() == pytest.approx(driver.now + 10)
    driver.store.give_back([])
    driver.now = at + 1
    assert len(driver.claim()) == 2
    assert driver.store.next_due() is None


def test_hosts_are_claimed_by_the_time_they_are_due(driver: Driver) -> None:
    for host in "cab":
        driver.commit([link(f"{host}/0"), link(f"{host}/1")])
    assert names(driver.claim(hosts=3, per_host=1)) == ["c/0", "a/0", "b/0"]


# -- dedupe and rules ---------------------------------------------------------------------------------------------


def test_a_url_is_new_once(driver: Driver) -> None:
    assert driver.commit([link("a/0"), link("a/1"), link("a/0")]) == [NEW, NEW, KNOWN]
    lease = driver.claim_one("a/0")
    assert driver.commit([link("a/0"), link("b/0")], [(lease, done(link("a/0"), link("b/0"), link("c/0")))]) == [
        KNOWN,
        NEW,
        NEW,
        KNOWN,
        KNOWN,
    ]
    counts = driver.store.stats()
    assert (counts.known, counts.waiting, counts.done, counts.hosts) == (4, 3, 1, 3)
    assert counts.outcomes == {"ok": 1} and counts.reasons == {}


def test_preparing_changes_nothing(driver: Driver) -> None:
    before = driver.store.stats()
    driver.prepare([link("a/0")])
    assert driver.store.stats() == before and driver.claim() == []
    assert driver.store.lookup(link("a/0").url) is None
    assert driver.commit([link("a/0")]) == [NEW]


def test_a_lease_that_is_not_claimed_is_a_bug_told_before_anything_is_written(driver: Driver) -> None:
    driver.commit([link("a/0")])
    lease = driver.claim_one("a/0")
    driver.store.give_back([lease])
    with pytest.raises(ValueError, match="not claimed"):
        driver.settle(lease, done())
    lease = driver.claim_one("a/0")
    prepared = driver.prepare((), [(lease, done())])
    with pytest.raises(ValueError, match="without a record"):
        driver.store.commit(prepared, [None], {})
    driver.make_true(prepared)
    assert driver.store.stats().done == 1


def test_host_budget_counts_what_was_admitted_but_never_refuses_a_seed_or_redirect(kind: str, tmp_path: Path) -> None:
    driver = Driver(kind, tmp_path / "store", Limits(pages_per_host=3))
    assert driver.commit([link(f"a/{i}") for i in range(5)]) == [NEW, NEW, NEW, HOST_BUDGET, HOST_BUDGET]
    assert driver.commit([link("a/s", "seed"), link("a/r", "redirect"), link("a/m", "sitemap"), link("b/0"), link("a/0")]) == [
        NEW,
        NEW,
        HOST_BUDGET,
        NEW,
        KNOWN,
    ]
    if kind == "embedded":
        driver.reopen()
    assert driver.commit([link("a/4")]) == [HOST_BUDGET]
    assert driver.store.stats().refused == {"host_budget": 4}
    assert driver.store.budgets(link("a/4").url) == (5, 0)
    assert driver.store.budgets(link("c/0").url) == (0, 0)
    assert driver.store.lookup(link("a/4").url) is None
    driver.store.close()


def test_query_explosion_is_per_path(kind: str, tmp_path: Path) -> None:
    driver = Driver(kind, tmp_path / "store", Limits(queries_per_path=2))
    assert driver.commit([link("a/x?1"), link("a/x?1"), link("a/x?2"), link("a/x?3"), link("a/y?3"), link("a/x")]) == [
        NEW,
        KNOWN,
        NEW,
        QUERY_EXPLOSION,
        NEW,
        NEW,
    ]
    assert driver.commit([link("a/x?4"), link("a/x?5", "seed"), link("a/y?4"), link("b/x?4")]) == [QUERY_EXPLOSION, NEW, NEW, NEW]
    if kind == "embedded":
        driver.reopen()
    assert driver.commit([link("a/y?5"), link("a/x?1")]) == [QUERY_EXPLOSION, KNOWN]
    assert driver.store.stats().refused == {"query_explosion": 3}
    assert [driver.store.budgets(link(path).url)[1] for path in ("a/x?9", "a/y?9", "a/z?9")] == [3, 2, 0]
    driver.store.close()


def test_links_refused_elsewhere_are_counted(driver: Driver) -> None:
    for _ in range(2):
        driver.store.commit(driver.store.prepare(Batch([], [], {}, {"depth": 2, "scope": 1}, driver.now, 1.0)), [], {})
    assert driver.store.stats().refused == {"depth": 4, "scope": 2}


# -- depth --------------------------------------------------------------------------------------------------------


def test_a_waiting_link_takes_the_least_depth_it_was_found_at(limited: Driver) -> None:
    assert limited.commit([link("a/0", depth=3), link("a/0", depth=2), link("a/1", depth=3)]) == [NEW, KNOWN, NEW]
    assert limited.commit([link("a/1", depth=1)]) == [KNOWN]
    assert [lease.link.depth for lease in limited.claim()] == [2, 1]


def test_depth_is_left_alone_where_it_does_not_matter(driver: Driver) -> None:
    driver.commit([link("a/0", depth=3), link("a/0", depth=2)])
    lease = driver.claim_one("a/0")
    assert lease.link.depth == 3
    driver.settle(lease, done())
    assert driver.commit([link("a/0", depth=0)]) == [KNOWN]


def test_a_page_found_nearer_after_its_visit_is_expanded_once_more(limited: Driver) -> None:
    limited.commit([link("a/0", depth=3)])
    limited.settle(limited.claim_one("a/0"), done())
    assert limited.commit([link("a/0", depth=3), link("a/0", depth=2), link("a/0", depth=1)]) == [KNOWN, EXPAND, KNOWN]
    counts = limited.store.stats()
    assert (counts.known, counts.waiting, counts.done) == (1, 1, 1)
    lease = limited.claim_one("a/0")
    assert (lease.link.kind, lease.link.depth) == ("expand", 1)
    assert lease.known is not None and lease.known.outcome == "ok"
    assert limited.settle(lease, done(link("a/1", depth=2))) == [NEW]
    counts = limited.store.stats()
    assert (counts.known, counts.waiting, counts.done, counts.outcomes) == (2, 1, 1, {"ok": 1})
    known = limited.store.lookup(link("a/0").url)
    assert isinstance(known, Known) and known.link.kind == "link"


def test_a_page_found_nearer_during_its_visit_is_expanded_once_more(limited: Driver) -> None:
    limited.commit([link("a/0", depth=3), link("b/0", depth=1)])
    a, b = sorted(limited.claim(), key=lambda lease: lease.link.host)
    assert limited.settle(b, done(link("a/0", depth=2))) == [EXPAND]
    limited.settle(a, done())
    assert [(lease.link.kind, lease.link.depth) for lease in limited.claim()] == [("expand", 2)]


def test_a_page_settled_and_found_nearer_in_one_batch_is_expanded(limited: Driver) -> None:
    limited.commit([link("a/0", depth=3), link("b/0", depth=1)])
    a, b = sorted(limited.claim(), key=lambda lease: lease.link.host)
    assert limited.commit((), [(a, done()), (b, done(link("a/0", depth=2)))]) == [EXPAND]


@pytest.mark.parametrize(("reason", "verdict"), [("trailing_data", EXPAND), ("content_coding", EXPAND), ("malformed", KNOWN)])
def test_a_page_in_a_faulty_coding_is_expanded_as_well(limited: Driver, tmp_path: Path, reason: str, verdict: int) -> None:
    """What could be decoded of it is read for links; so it is found nearer whatever came first."""
    limited.commit([link("a/0", depth=3), link("a/1", depth=3)])
    first, second = limited.claim()
    ended = Done(page_of(tmp_path), "bad_response", reason)
    limited.settle(first, ended)
    assert limited.commit([link("a/0", depth=1)]) == [verdict]
    assert limited.commit([link("a/1", depth=1)], [(second, ended)]) == [verdict]


def test_a_visit_without_outlinks_is_not_repeated_for_a_shorter_path(limited: Driver) -> None:
    limited.commit([link(f"a/{i}", depth=3) for i in range(4)])
    leases = limited.claim()
    limited.settle(leases[0], TIMEOUT)
    assert limited.commit([link("a/0", depth=1)]) == [KNOWN]
    found = done(link("a/1", depth=1), link("a/2", depth=1))
    assert limited.commit((), [(leases[1], TIMEOUT), (leases[2], retry(5)), (leases[3], found)]) == [KNOWN, KNOWN]
    limited.now += 6
    [lease] = limited.claim()
    assert (lease.link.url, lease.link.depth, lease.link.attempt) == (link("a/2").url, 1, 2)


def test_a_link_claimed_while_the_batch_is_written_has_the_depth_that_batch_found(limited: Driver) -> None:
    limited.commit([link("a/0", depth=3)])
    prepared = limited.prepare([link("a/0", depth=1)])
    lease = limited.claim_one("a/0")
    limited.make_true(prepared)
    assert list(prepared.verdicts) == [KNOWN] and lease.link.depth == 1
    assert limited.commit([link("a/0", depth=1)]) == [KNOWN]
    assert limited.commit([link("a/0", depth=0)]) == [EXPAND]


def test_a_sitemap_is_read_for_each_site_that_names_it_whatever_of_it_is_known(driver: Driver) -> None:
    """Once a site, as the first or for its links alone: that has no second record."""
    of_a, of_b = (link("m/s", "sitemap", anchor=f"http://{site}.test/") for site in "ab")
    assert driver.commit([of_a, of_a, of_b]) == [NEW, KNOWN, EXPAND]
    assert driver.commit([link("m/s", "seed"), of_b]) == [KNOWN, KNOWN]
    counts = driver.store.stats()
    assert (counts.known, counts.waiting, counts.done) == (0, 2, 0)
    first, second = driver.claim()
    assert (first.link.kind, first.link.anchor) == ("sitemap", of_a.anchor)
    assert (second.link.kind, second.link.anchor) == ("expand_sitemap", of_b.anchor)
    driver.settle(first, done())
    driver.settle(second, done(link("b/1")))
    counts = driver.store.stats()
    assert (counts.known, counts.waiting, counts.done, counts.not_pages) == (1, 1, 0, {"sitemap": 1})
    if driver.kind == "embedded":
        driver.reopen()
    assert driver.commit([of_a, of_b]) == [KNOWN, KNOWN]
    assert driver.commit([link("m/s", "sitemap", anchor="http://c.test/")]) == [EXPAND]


def test_a_page_or_seed_that_a_site_names_as_its_sitemap_is_read_as_one(limited: Driver) -> None:
    limited.commit([link("a/s", "seed"), link("a/t", depth=1)])
    for lease in limited.claim():
        limited.settle(lease, done())
    named = [link(name, "sitemap", anchor="http://a.test/") for name in ("a/s", "a/t")]
    assert limited.commit(named) == [EXPAND, EXPAND]
    assert [lease.link.kind for lease in limited.claim()] == ["expand_sitemap"] * 2
    assert limited.commit([*named, link("a/s"), link("a/t", depth=1)]) == [KNOWN] * 4
    known = limited.store.lookup(link("a/s").url)
    assert isinstance(known, Known) and known.link.kind == "seed"


def test_a_listed_sitemap_is_read_for_its_own_place_whatever_of_it_is_known(driver: Driver) -> None:
    """As a line of a list, or what that redirects to, and only if it is called like one; a line stays a duplicate."""
    names = ("m/sitemap?page=1", "m/feed.atom", "m/urls.TXT", "m/s.xml.gz", "m/page")
    driver.commit([link(name, "sitemap", anchor="http://b.test/") for name in names])
    lines = [link(name, kind, input=Input("list", 1)) for name in names for kind in ("seed", "redirect")]
    assert driver.commit(lines) == [EXPAND, KNOWN] * 4 + [KNOWN] * 2
    assert driver.commit(lines) == [KNOWN] * 10
    assert driver.store.stats().lines == {"duplicate": 10}
    assert sorted(lease.link.kind for lease in driver.claim()) == ["expand"] * 4 + ["sitemap"] * 5


def test_where_no_sitemaps_are_read_none_is_expanded(kind: str, tmp_path: Path) -> None:
    driver = Driver(kind, tmp_path / "store", Limits())
    lines = [link("m/s.xml", "link"), link("m/s.xml", "seed", input=Input("list", 1))]
    assert driver.commit(lines) == [NEW, KNOWN]
    driver.store.close()


def test_a_sitemap_of_another_site_is_tried_again_when_it_fails(driver: Driver) -> None:
    driver.commit([link("m/s", "sitemap", anchor=f"http://{site}.test/") for site in "ab"])
    first, second = driver.claim()
    driver.commit((), [(first, done()), (second, retry(2))])
    driver.now += 3
    [again] = driver.claim()
    assert (again.link.kind, again.link.attempt, again.link.anchor) == ("expand_sitemap", 2, "http://b.test/")
    driver.settle(again, TIMEOUT)
    counts = driver.store.stats()
    assert (counts.known, counts.waiting, counts.retrying, counts.not_pages) == (0, 0, 0, {"sitemap": 1})


def test_lines_that_are_no_url_of_their_own_are_counted(driver: Driver) -> None:
    fault = LineFault(Input("list", 9), "no URL", "syntax", None)

    def commit(*names: str, faults: int) -> None:
        driver.now += 0.001
        admitted = Admitted(tuple(link(name, "seed") for name in names), (fault,) * faults)
        driver.make_true(driver.store.prepare(Batch([], [admitted], {}, {}, driver.now, driver.now)))

    driver.commit([link("a/1"), link("a/1")])  # no lines
    assert driver.store.stats().lines == {}
    commit("a/1", "b/1", "b/1", "b/2", faults=2)
    assert driver.store.stats().lines == {"duplicate": 2, "invalid_url": 2}
    commit("b/2", faults=1)
    assert driver.store.stats().lines == {"duplicate": 3, "invalid_url": 3}
    if driver.kind == "embedded":
        driver.reopen()
        assert driver.store.stats().lines == {"duplicate": 3, "invalid_url": 3}


# -- outcomes -----------------------------------------------------------------------------------------------------


def test_an_outcome_and_its_outlinks_are_kept_together(driver: Driver) -> None:
    driver.commit([link("a/0")])
    driver.settle(driver.claim_one("a/0"), done(link("a/1"), link("b/1")))
    known = driver.store.lookup(link("a/0").url)
    assert isinstance(known, Known) and known.outcome == "ok"
    assert driver.store.lookup(link("b/1").url) == "waiting"
    assert sorted(names(driver.claim())) == ["a/1", "b/1"]


def test_a_retry_comes_back_at_its_time_before_its_peers(driver: Driver) -> None:
    driver.commit([link("a/0"), link("a/1"), link("a/2"), link("a/r", priority=16)])
    first = driver.claim(per_host=2)
    assert names(first) == ["a/r", "a/0"]
    driver.settle(first[0], done())
    driver.settle(first[1], retry(20))
    counts = driver.store.stats()
    assert (counts.known, counts.waiting, counts.retrying, counts.done) == (4, 2, 1, 1)
    assert driver.store.lookup(link("a/0").url) == "retrying"
    driver.settle(driver.claim_one("a/1"), done())
    driver.now += 20
    driver.commit([link("a/r2", priority=16)])
    leases = driver.claim()
    assert names(leases) == ["a/r2", "a/0", "a/2"]
    assert [lease.link.attempt for lease in leases] == [1, 2, 1]
    assert driver.store.lookup(link("a/0").url) == "retrying"
    driver.settle(leases[1], retry(5))
    assert driver.store.stats().retrying == 1
    driver.store.give_back(leases)
    driver.now += 6
    lease = next(lease for lease in driver.claim() if lease.link.attempt == 3)
    driver.settle(lease, TIMEOUT)
    counts = driver.store.stats()
    assert (counts.retrying, counts.done, counts.outcomes) == (0, 3, {"ok": 2, "timeout": 1})
    assert counts.reasons == {"total_timeout": 1}


def test_many_retries_due_at_once_all_come_back(driver: Driver) -> None:
    driver.commit([link(f"h{i % 50}/{i}") for i in range(2500)])
    driver.commit((), [(lease, retry(10)) for lease in driver.claim()])
    assert driver.claim() == []
    driver.now += 10.1
    back = [lease for _ in range(3) for lease in driver.claim(low={f"h{i}.test": 100 for i in range(50)})]
    assert len(back) == 2500 == len(set(names(back)))


def test_a_host_given_up_has_its_links_settled_at_once(driver: Driver) -> None:
    driver.commit([link(f"a/{i}") for i in range(6)])
    [lease] = driver.claim(per_host=1)
    driver.settle(lease, Dropped("dns_error", "nxdomain"), HostRest(driver.now + 600, 8, DOWN))
    leases = driver.claim(per_host=3)
    assert [lease.down for lease in leases] == [DOWN] * 3
    leases += driver.claim(0, 0, {"a.test": 100})
    assert len(leases) == 5
    driver.commit((), [(lease, Dropped(*DOWN)) for lease in leases], {})
    counts = driver.store.stats()
    assert (counts.waiting, counts.done) == (0, 6)
    assert counts.reasons == {"nxdomain": 1, "host_down": 5}


def test_a_new_seed_tries_a_given_up_host_again(driver: Driver) -> None:
    """When its rest is over; one more failure is enough to give it up anew."""
    driver.commit([link("a/0", "seed")])
    rest = HostRest(driver.now + 600, 8, DOWN, 2, True)
    driver.settle(driver.claim_one("a/0"), Dropped("dns_error", "nxdomain"), rest)
    driver.commit([link("a/2")])  # a link does not
    assert [lease.down for lease in driver.claim()] == [DOWN]
    driver.commit([link("a/3", "seed")])
    [lease] = driver.claim(0, 0, {"a.test": 1})
    assert (lease.down, lease.failures, lease.busy, lease.has_responded) == (None, 7, 2, True)
    assert lease.due == rest.due


def test_a_host_given_up_by_an_earlier_process_is_tried_again(tmp_path: Path) -> None:
    """It may be there now, or the settings right; one more failure is enough to give it up anew."""
    driver = Driver("embedded", tmp_path / "store")
    driver.commit([link(f"a/{i}") for i in range(9)])
    [lease] = driver.claim(per_host=1)
    driver.settle(lease, TIMEOUT, HostRest(driver.now, 8, DOWN, 0, True))
    driver.now += 1
    driver.reopen()
    [lease] = driver.claim(per_host=1)
    assert (lease.down, lease.failures, lease.has_responded) == (None, 7, True)
    assert lease.due == driver.now + REST
    driver.settle(lease, TIMEOUT, HostRest(driver.now, 8, DOWN, 0, True))
    assert [lease.down for lease in driver.claim(per_host=3)] == [DOWN] * 3
    driver.store.close()


def test_that_a_host_has_responded_is_never_forgotten(driver: Driver) -> None:
    driver.commit([link("a/0"), link("a/1"), link("a/2")])
    driver.settle(driver.claim_one("a/0"), TIMEOUT, HostRest(driver.now, 0, None, 0, True))
    driver.settle(driver.claim_one("a/1"), TIMEOUT, HostRest(driver.now, 1, None, 0, False))
    if driver.kind == "embedded":
        driver.reopen()
    driver.now += REST
    assert driver.claim_one("a/2").has_responded


def test_revived_urls_are_visited_once_more(driver: Driver) -> None:
    driver.commit([link(f"a/{i}") for i in range(3)] + [link("b/0")])
    leases = driver.claim()
    rests = {"a.test": HostRest(driver.now), "b.test": HostRest(driver.now + 99, 8, DOWN)}
    driver.commit((), [(lease, TIMEOUT if names([lease])[0] in ("a/1", "b/0") else done()) for lease in leases], rests)
    assert revive(driver.store, "timeout", "dns_error") == 2
    assert revive(driver.store, "timeout", "dns_error") == 0
    counts = driver.store.stats()
    assert (counts.known, counts.waiting, counts.done, counts.outcomes, counts.reasons) == (4, 2, 2, {"ok": 2}, {})
    driver.now += 100
    revived = driver.claim()
    assert sorted(names(revived)) == ["a/1", "b/0"]
    assert all(lease.link.attempt == 2 and lease.down is None and lease.known for lease in revived)
    assert isinstance(driver.store.lookup(link("a/1").url), Known)
    driver.commit((), [(lease, done()) for lease in revived])
    counts = driver.store.stats()
    assert (counts.known, counts.waiting, counts.done, counts.outcomes) == (4, 0, 4, {"ok": 4})
    assert revive(driver.store, "timeout") == 0


def test_more_urls_than_one_step_holds_are_revived(driver: Driver) -> None:
    driver.commit([link(f"h{i % 7}/{i}") for i in range(2300)])
    leases = driver.claim(per_host=1000)
    driver.commit((), [(lease, TIMEOUT if i % 2 else done()) for i, lease in enumerate(leases)])
    assert revive(driver.store, "timeout") == 1150
    driver.now += 1
    assert len({lease.link.url for lease in driver.claim(per_host=1000)}) == 1150


def test_a_url_that_stood_in_no_queue_is_settled_all_the_same(driver: Driver) -> None:
    robots = Lease(link("a/robots.txt", "robots"), b"")
    driver.commit([link("a/0")])
    assert driver.commit([link("a/robots.txt")], [(robots, done())]) == [KNOWN]
    assert counted(driver) == (1, 1, 0, {}, {"robots": 1})
    driver.settle(robots, done(outcome="http_error"))
    assert counted(driver) == (1, 1, 0, {}, {"robots": 1})
    assert driver.store.lookup(robots.link.url).outcome == "http_error", "as the latest visit found it"
    driver.commit([link("b/robots.txt")])
    driver.settle(Lease(link("b/robots.txt", "robots"), b""), done())
    assert driver.store.lookup(link("b/robots.txt").url) == "waiting"  # it has a visit of its own coming
    assert counted(driver) == (2, 2, 0, {}, {"robots": 1})
    assert revive(driver.store, "http_error") == 0


def counted(driver: Driver, aside: int = 0) -> tuple[int, int, int, Mapping[str, int], Mapping[str, int]]:
    """``aside``: how many wait that are no pages."""
    counts = driver.store.stats()
    assert counts.known == counts.waiting - aside + counts.retrying + counts.done
    return counts.known, counts.waiting + counts.retrying, counts.done, counts.outcomes, counts.not_pages


def test_a_robots_txt_that_is_a_page_as_well_stays_one(driver: Driver) -> None:
    """Somebody listed it: what a later visit for its rules finds changes neither its record nor any count."""
    driver.commit([link("a/robots.txt", "seed")])
    aside = Lease(link("a/robots.txt", "robots"), b"")
    driver.settle(aside, done(outcome="http_error"))
    driver.settle(driver.claim_one("a/robots.txt"), done())
    assert counted(driver) == (1, 0, 1, {"ok": 1}, {})
    driver.settle(aside, done(outcome="http_error"))
    assert counted(driver) == (1, 0, 1, {"ok": 1}, {})
    assert driver.store.lookup(aside.link.url).link.kind == "seed"
    assert revive(driver.store, "ok") == 1
    driver.settle(aside, done(outcome="http_error"))
    assert counted(driver) == (1, 1, 0, {}, {})
    driver.settle(driver.claim_one("a/robots.txt"), done(outcome="http_error"))
    assert counted(driver) == (1, 0, 1, {"http_error": 1}, {})


def test_sitemaps_are_work_while_they_wait_and_no_pages(driver: Driver) -> None:
    driver.commit([link("a/map", "sitemap"), link("a/map2", "sitemap"), link("a/0")])
    assert counted(driver, 2) == (1, 3, 0, {}, {})
    driver.settle(driver.claim_one("a/map"), done(link("a/1"), outcome="ok"))
    assert counted(driver, 1) == (2, 3, 0, {}, {"sitemap": 1})
    driver.settle(driver.claim_one("a/map2"), TIMEOUT)
    assert counted(driver) == (2, 2, 0, {}, {"sitemap": 2})
    assert driver.commit([link("a/map"), link("a/map", "sitemap"), link("a/map", "seed")]) == [KNOWN] * 3
    assert revive(driver.store, "timeout") == 1
    assert counted(driver, 1) == (2, 3, 0, {}, {"sitemap": 1})
    for name in ("a/0", "a/1", "a/map2"):
        driver.settle(driver.claim_one(name), done())
    assert counted(driver) == (2, 0, 2, {"ok": 2}, {"sitemap": 2})
    if driver.kind == "embedded":
        driver.reopen()
        assert counted(driver) == (2, 0, 2, {"ok": 2}, {"sitemap": 2})


# -- what killed the process --------------------------------------------------------------------------------------


def test_suspects_count_as_attempts_and_are_given_up_in_the_end(driver: Driver) -> None:
    driver.commit([link("a/0"), link("a/1"), link("a/2")])
    keys = [lease.key for lease in driver.claim()]
    driver.store.rewind()
    driver.store.set_suspects({keys[0]: 1, keys[1]: CRASHES_MAX, b"never a key of one": 1})
    assert driver.store.suspects() == {keys[0]: 1, keys[1]: CRASHES_MAX}
    if driver.kind == "embedded":
        driver.reopen()
    leases = driver.claim()
    assert [lease.suspect for lease in leases] == [True, True, False]
    assert [lease.link.attempt for lease in leases] == [2, 1 + CRASHES_MAX, 1]
    assert [lease.down for lease in leases] == [None, ("skipped", "crashed"), None]
    driver.commit((), [(leases[0], retry(1)), (leases[1], Dropped("skipped", "crashed"))])
    assert driver.store.suspects() == {}
    driver.store.set_suspects({keys[1]: 1})
    assert driver.store.suspects() == {}
    driver.now += 2
    [lease] = driver.claim(0, 0, {"a.test": 1})
    assert lease.link.attempt == 3 and not lease.suspect


def test_a_robots_visit_is_suspected_until_it_ends_otherwise(driver: Driver) -> None:
    driver.commit([link("a/0")])
    keys = {host: robots_key(f"http://{host}.test") for host in "ab"}
    driver.store.set_suspects({keys["a"]: 1, keys["b"]: CRASHES_MAX})
    if driver.kind == "embedded":
        driver.reopen()
    assert driver.store.suspects() == {keys["a"]: 1, keys["b"]: CRASHES_MAX}
    visits = {host: Lease(link(f"{host}/robots.txt", "robots", anchor=f"http://{host}.test"), b"") for host in "ab"}
    driver.commit((), [(visits["b"], CRASHED)])
    assert keys["b"] in driver.store.suspects()
    driver.commit((), [(visits["a"], TIMEOUT)])
    if driver.kind == "embedded":
        driver.reopen()
    assert driver.store.suspects() == {keys["b"]: CRASHES_MAX}


def test_a_revived_url_has_its_robots_txt_suspected_no_more(driver: Driver) -> None:
    driver.commit([link("a/0")])
    driver.settle(driver.claim_one("a/0"), CRASHED)
    driver.store.set_suspects({robots_key("http://a.test"): CRASHES_MAX})
    assert revive(driver.store, "skipped") == 1
    if driver.kind == "embedded":
        driver.reopen()
    assert driver.store.suspects() == {}


def test_suspected_robots_visits_are_bounded(driver: Driver) -> None:
    driver.store.set_suspects({robots_key(f"http://h{n}.test"): 1 + (n < 10) for n in range(ROBOTS_SUSPECTS_MAX)})
    driver.store.set_suspects({robots_key(f"http://more{n}.test"): 2 for n in range(100)})
    if driver.kind == "embedded":
        driver.reopen()
    kept = driver.store.suspects()
    assert len(kept) == ROBOTS_SUSPECTS_MAX
    assert sum(count == 2 for count in kept.values()) == 110


# -- what else it keeps -------------------------------------------------------------------------------------------


def test_marks_positions_robots_and_identity_are_kept(driver: Driver) -> None:
    listed = link("a/0", "seed", input=Input("list", 1), given="HTTP://a.test/0", tag="t", chain=b"12345678")
    admitted = Admitted((listed,), (), ("list \udce9", b"position 1"))
    batch = Batch([], [admitted], {}, {}, 1000.25, 77.5, {"http://a.test": b"rules"})
    driver.store.commit(driver.store.prepare(batch), [], {"results/a": Mark(5), "warc/b": Mark(7)})
    batch = Batch([], [], {}, {}, 1000.5, 78.5, {"http://b.test": b""})
    driver.store.commit(driver.store.prepare(batch), [], {"warc/b": Mark(9, True), "c": Mark(9, True), "d": Mark(9, True)})
    batch = Batch([], [], {}, {}, 1000.5, 78.5, retired={"c": Mark(0, True, True), "d": None, "never": None})
    driver.store.commit(driver.store.prepare(batch), [], {})
    driver.store.set_identity(b"this crawl")
    secret = driver.store.secret()
    if driver.kind == "embedded":
        driver.reopen()
    assert driver.store.marks() == {"results/a": Mark(5), "warc/b": Mark(9, True), "c": Mark(0, True, True)}
    assert driver.store.marks("warc/") == {"warc/b": Mark(9, True)}
    assert driver.store.positions() == driver.store.positions("list") == {"list \udce9": b"position 1"}
    assert driver.store.positions("other") == {}
    assert driver.store.robots(["http://b.test", "http://c.test", "http://a.test"]) == [b"", None, b"rules"]
    assert driver.store.identity() == b"this crawl"
    assert (driver.store.clock(), driver.store.last_commit_wall()) == (1000.5, 78.5)
    assert driver.store.secret() == secret and 0 <= secret < 1 << 64
    driver.now += 10
    assert driver.claim()[0].link == listed


def test_the_longest_queues_are_known(driver: Driver) -> None:
    driver.commit([link(f"a/{i}") for i in range(3)] + [link(f"b/{i}") for i in range(5)] + [link("c/0")])
    assert driver.store.longest(2) == [("b.test", 5), ("a.test", 3)]
    leases = driver.claim()
    driver.commit((), [(lease, done()) for lease in leases if lease.link.host != "a.test"])
    assert driver.store.longest(2) == [("a.test", 3)]


def test_rewind_forgets_claims_but_those_still_held(driver: Driver) -> None:
    driver.commit([link(f"a/{i}") for i in range(3)] + [link(f"b/{i}") for i in range(3)])
    leases = driver.claim(per_host=2)
    held = [lease for lease in leases if lease.link.host == "a.test"]
    driver.prepare([link("c/0")])
    driver.store.rewind(held)
    driver.now += REST
    assert names(driver.claim()) == ["b/0", "b/1", "b/2"]
    driver.settle(held[0], done())
    assert names(driver.claim(0, 0, {"a.test": 9})) == ["a/2"]
    assert driver.store.lookup(link("c/0").url) is None


def test_an_empty_batch_is_a_commit_like_any_other(driver: Driver) -> None:
    assert driver.commit() == []
    assert driver.store.clock() == driver.now


def test_a_million_second_rest_and_a_time_before_zero_are_times(driver: Driver) -> None:
    driver.commit([link("a/0"), link("a/1")])
    lease = driver.claim_one("a/0")
    driver.settle(lease, done(), HostRest(-5.0))
    lease = driver.claim_one("a/1")
    driver.settle(lease, retry(1e6))
    assert driver.store.next_due() == pytest.approx(driver.now + 1e6)


def test_settled_links_may_be_any_url(driver: Driver) -> None:
    urls = ["http://[2001:db8::1]:8080/", "https://a.test/?q=%F0%9F%8D%8C", "https://xn--bcher-kva.test/" + "x" * 1900]
    links = tuple(Link(url, url.split("/")[2], "seed") for url in urls)
    driver.commit(links)
    leases = driver.claim()
    assert {lease.link.url for lease in leases} == set(urls)
    driver.commit((), [(lease, done()) for lease in leases])
    assert all(isinstance(driver.store.lookup(url), Known) for url in urls)


@pytest.mark.parametrize("length", [200, 300, 70_000, 1 << 20])
def test_links_of_a_page_may_be_as_long_as_the_settings_allow(driver: Driver, length: int) -> None:
    [lease] = (driver.commit([link("a/0", "seed")]), driver.claim())[1]
    urls = [link(f"{host}/{'x' * length}{n}").url for host, n in (("a", 1), ("b", 1), ("b", 2))]  # alone, and in a bundle
    block = pack(urls, Keys(driver.store.secret()), lease.link)
    assert [one.url for one in block.links()] == urls
    driver.commit([], [(lease, Done(NO_PAGE, "ok", block=block))])
    assert {one.link.url for one in driver.claim()} == set(urls)


@pytest.mark.parametrize(("length", "entries"), [(10, 2), (100, 5), (1500, 60), (20_000, 300)])
def test_little_of_what_a_page_links_to_is_held_beside_what_is_out(driver: Driver, length: int, entries: int) -> None:
    [lease] = (driver.commit([link("a/0", "seed")]), driver.claim())[1]
    urls = [link(f"b/{n}{'x' * length}").url for n in range(300)]
    block = pack(urls, Keys(driver.store.secret()), lease.link)
    driver.now += 0.001
    prepared = driver.prepare([], [(lease, Done(NO_PAGE, "ok", block=block))])
    assert isinstance(prepared, Decided)
    assert max(len(entry.value) for entry in prepared.admitted) < max(URLS_BYTES_MAX, length) + 2048
    assert len(prepared.admitted) == entries
    driver.make_true(prepared)
    leases = driver.claim(per_host=7)
    while more := driver.claim(0, 0, {"b.test": 1000}):  # long ones come a few at a time
        leases += more
    assert [one.link.url for one in leases] == urls


def test_oversized_validators_are_dropped_or_kept_but_never_fatal(driver: Driver) -> None:
    driver.commit([link("a/0")])
    lease = driver.claim_one("a/0")
    prepared = driver.store.prepare(Batch([Settled(lease, Done(None, "ok"))], [], {}, {}, driver.now, 1.0))
    driver.store.commit(prepared, [Known(lease.link, "ok", None, 200, 1.0, etag="e" * 10_000)], {})
    known = driver.store.lookup(lease.link.url)
    assert isinstance(known, Known) and (known.etag is None or driver.kind == "memory")


def test_links_whose_keys_are_not_theirs_are_left_out(driver: Driver) -> None:
    """A document may have taken its parser process over: it can name links, but keep nobody else's from being visited."""
    [lease] = (driver.commit([link("a/0", "seed")]), driver.claim())[1]
    keys_by = Keys(driver.store.secret())
    honest = pack([link("b/1").url, link("a/2").url], keys_by, lease.link)
    aimed = pack([link("b/1").url, link("c/3").url], keys_by, lease.link).columns.keys
    forged = replace(honest, columns=replace(honest.columns, keys=aimed))
    assert driver.commit([link("c/3", "seed")], [(lease, Done(NO_PAGE, "ok", block=forged))]) == [NEW, KNOWN, NEW]
    assert sorted(names(driver.claim())) == ["b/1", "c/3"] and driver.store.stats().refused == {"parse_crashed": 1}
    assert driver.commit([link("a/2", "seed")]) == [NEW]


# -- recrawl ------------------------------------------------------------------------------------------------------


@pytest.fixture
def coming_back(kind: str, tmp_path: Path):
    driver = Driver(kind, tmp_path / "store", Limits(recrawl=True, sitemaps=True))
    yield driver
    driver.store.close()


def settle_all(driver: Driver, *, outcome: Done | Dropped | None = None, **fields: object) -> list[str]:
    """Visit whatever may be claimed; ``fields`` of the records."""
    leases, driver.fields = driver.claim(), fields
    driver.commit((), [(lease, outcome or done()) for lease in leases])
    driver.fields = {}
    driver.now += 0.01
    return sorted(names(leases))


def order(driver: Driver, **fields: object) -> None:
    driver.store.order(RecrawlOrder(driver.now, 9e9, **fields))


@pytest.mark.parametrize(("outcome", "reason"), [("ok", None), ("bad_response", "trailing_data")])
def test_a_recrawl_does_not_count_again_what_a_budget_left_out(kind: str, tmp_path: Path, outcome: str, reason: str) -> None:
    page = page_of(tmp_path)
    driver = Driver(kind, tmp_path / "store", Limits(recrawl=True, pages_per_host=3))
    driver.commit([link("a/0"), link("b/0")])
    leases = driver.claim()
    many = {lease: tuple(link(f"a/{lease.link.host}{n}") for n in range(4)) for lease in leases}
    driver.commit([link("a/x")], [(leases[0], Done(page, outcome, reason, many[leases[0]])), (leases[1], TIMEOUT)])
    assert driver.store.stats().refused == {"host_budget": 3}
    order(driver)
    driver.store.fulfil(10)
    driver.now += REST
    again = driver.claim()
    assert sorted(lease.recrawl for lease in again) == [False, False, True, True]
    visits = [(lease, done(*(link(f"a/{lease.link.host}{n}") for n in range(4)))) for lease in again if lease.recrawl]
    driver.commit([link("a/y")], visits)
    assert driver.store.stats().refused == {"host_budget": 3 + 4 + 1}, "one page is read for the first time"
    driver.store.close()


def test_what_is_ordered_becomes_due_again_slice_by_slice(driver: Driver) -> None:
    every = [f"h{i % 3}/{i}" for i in range(25)]
    driver.commit(link(name) for name in every)
    settle_all(driver, change="new", due=None)
    assert driver.store.fulfil(10) is None and driver.store.stats().changes == {"new": 25}
    order(driver, outcomes=("ok",), match="/[0-9]$")
    assert driver.store.stats().changes == {}, "they are counted anew"
    found = [driver.store.fulfil(10)]
    if driver.kind == "embedded":
        driver.reopen()
        driver.now += REST
    found += iter(lambda: driver.store.fulfil(10), None)
    assert len(found) == 3 and sum(found) == 10 and driver.store.orders() == []
    counts = driver.store.stats()
    assert (counts.known, counts.waiting, counts.done) == (25, 10, 15)
    order(driver)
    assert sum(iter(lambda: driver.store.fulfil(10), None)) == 15, "what waits already is not made due twice"
    leases = driver.claim()
    assert sorted(names(leases)) == sorted(every)
    assert all(lease.recrawl and lease.known is not None and lease.link.attempt == 1 for lease in leases)
    driver.commit((), [(lease, retry(0)) for lease in leases[:1]])
    driver.now += REST
    [again] = driver.claim(0, 0, {leases[0].link.host: 9})
    assert again.recrawl and again.known is not None and again.link.attempt == 2, "also when it is tried again"
    driver.fields = {"change": "changed"}
    driver.commit((), [(lease, done()) for lease in [again, *leases[1:]]])
    counts = driver.store.stats()
    assert (counts.known, counts.waiting, counts.done, counts.changes) == (25, 0, 25, {"changed": 25})
    assert counts.settled == 50, "each visit counts"


@pytest.mark.parametrize(
    ("fields", "meant"),
    [
        ({"host": link("h1/0").host}, [f"h1/{i}" for i in range(1, 25, 3)]),
        ({"url": link("h2/5").url}, ["h2/5"]),
        ({"url": link("h2/4").url}, []),
        ({"url": link("h2/5").url, "host": link("h1/0").host}, []),
        ({"tag": 7}, ["h0/0", "h0/3"]),
    ],
)
def test_an_order_of_a_host_a_url_or_a_tag(driver: Driver, fields: dict[str, object], meant: list[str]) -> None:
    driver.commit(link(f"h{i % 3}/{i}", tag=7 if i in (0, 3) else "7") for i in range(25))
    settle_all(driver)
    order(driver, **fields)
    assert sum(iter(lambda: driver.store.fulfil(3), None)) == len(meant)
    driver.now += REST
    assert sorted(names(driver.claim())) == sorted(meant)


def test_what_is_removed_meanwhile_does_not_come_back(coming_back: Driver) -> None:
    driver = coming_back
    driver.commit([link(f"a/{i}") for i in range(6)])
    at = driver.now + 50
    settle_all(driver, due=at)
    order(driver)
    before = driver.store.fulfil(2)
    every = [f"a/{i}" for i in range(6)]
    removed = [name for name in every if driver.store.remove_some(Selection(url=link(name).url)).count][:4]
    after = sum(iter(lambda: driver.store.fulfil(2), None))
    known = {name for name in every if driver.store.lookup(link(name).url) is not None}
    assert (before, after, len(removed), len(known)) == (2, 0, 4, 2), "those that wait already cannot be removed"
    driver.now = at + REST
    assert sorted(settle_all(driver)) == sorted(known)
    counts = driver.store.stats()
    assert (counts.known, counts.waiting, counts.recrawl, counts.done) == (len(known), 0, 0, len(known))


def test_what_is_removed_while_a_batch_that_found_it_nearer_is_written_is_unknown(kind: str, tmp_path: Path) -> None:
    driver = Driver(kind, tmp_path / "store", Limits(depth_limited=True))
    driver.commit([link("a/0", depth=2)])
    settle_all(driver)
    prepared = driver.prepare([link("a/0", depth=1)])
    assert driver.store.remove_some(Selection(url=link("a/0").url)).count == 1
    driver.make_true(prepared)
    assert driver.store.lookup(link("a/0").url) is None
    assert driver.commit([link("a/0", depth=2)]) == [NEW]
    driver.store.close()


def test_only_what_is_meant_becomes_due(driver: Driver) -> None:
    driver.commit([link("a/0"), link("a/skipped"), link("a/map", "sitemap"), link("a/failed")])
    leases = {names([lease])[0]: lease for lease in driver.claim()}
    ends = {"a/skipped": Dropped("skipped", "crashed"), "a/failed": TIMEOUT}
    driver.commit((), [(lease, ends.get(name, done())) for name, lease in leases.items()])
    driver.settle(Lease(link("a/robots.txt", "robots"), b""), done())
    driver.store.order(RecrawlOrder(driver.now, 5.0))  # all were visited at 5.0
    assert driver.store.fulfil(100) == 0
    order(driver)
    assert driver.store.fulfil(100) == 3
    assert sorted(names(driver.claim())) == ["a/0", "a/failed", "a/map"]
    counts = driver.store.stats()
    assert (counts.known, counts.waiting, counts.done, counts.not_pages) == (3, 3, 1, {"robots": 1})


def test_a_host_given_up_is_tried_once_for_an_order(driver: Driver) -> None:
    driver.commit([link("a/0"), link("a/1")])
    leases = driver.claim()
    driver.commit((), [(lease, TIMEOUT) for lease in leases], {"a.test": HostRest(driver.now + 50, 8, DOWN)})
    driver.now += 60
    ordered_at = driver.now
    for expected in (None, DOWN):
        driver.store.order(RecrawlOrder(ordered_at, 9e9, match="/0"))
        assert driver.store.fulfil(10) == 1
        [lease] = driver.claim()
        assert lease.down == expected
        driver.settle(lease, TIMEOUT, HostRest(driver.now, 8, DOWN))


def test_what_has_a_schedule_becomes_due_when_it_says(coming_back: Driver) -> None:
    driver = coming_back
    driver.commit([link("a/0"), link("b/0"), link("a/map", "sitemap")])
    at = driver.now + 100
    assert settle_all(driver, due=at, interval=100.0) == ["a/0", "a/map", "b/0"]
    counts = driver.store.stats()
    assert (counts.waiting, counts.recrawl, counts.done) == (0, 2, 2), "a sitemap is not among the pages"
    assert driver.claim() == [] and driver.store.next_due() == pytest.approx(at)
    if driver.kind == "embedded":
        driver.reopen()
    driver.now = at + REST
    leases = driver.claim()
    assert sorted(names(leases)) == ["a/0", "a/map", "b/0"] and all(lease.recrawl for lease in leases)
    counts = driver.store.stats()
    assert (counts.waiting, counts.recrawl, counts.done) == (3, 0, 0)
    driver.commit((), [(lease, done()) for lease in leases])
    assert driver.store.next_due() is None


def test_a_schedule_is_void_once_the_page_was_visited_for_another_reason(coming_back: Driver) -> None:
    driver = coming_back
    driver.commit([link("a/0"), link("a/1")])
    first = driver.now + 100
    settle_all(driver, due=first)
    order(driver, match="/0")
    assert driver.store.fulfil(10) == 1 and driver.store.stats().recrawl == 1
    assert settle_all(driver, due=first + 900) == ["a/0"]
    assert driver.store.stats().recrawl == 2
    driver.now = first + REST
    assert settle_all(driver, due=first + 900) == ["a/1"]
    driver.now = first + 900 + REST
    assert sorted(names(driver.claim())) == ["a/0", "a/1"]


def test_a_schedule_holds_whose_time_comes_together_with_one_that_is_void(coming_back: Driver) -> None:
    """Nothing was claimed meanwhile: the crawl did not run, or was paused."""
    driver = coming_back
    driver.commit([link("a/0")])
    settle_all(driver, due=driver.now + 100)
    order(driver)
    assert driver.store.fulfil(10) == 1 and settle_all(driver, due=driver.now + 150) == ["a/0"]
    driver.now += 200
    assert names(driver.claim()) == ["a/0"]
    counts = driver.store.stats()
    assert (counts.waiting, counts.recrawl, counts.done) == (1, 0, 0)
    assert driver.store.next_due() is None


def test_a_schedule_is_given_to_what_has_none(coming_back: Driver) -> None:
    driver = coming_back
    driver.commit([link(f"a/{i}") for i in range(5)])
    settle_all(driver)
    driver.store.order(RecrawlOrder(driver.now, 25.0, every=50.0))  # visited at 5.0, and now it is 25.0
    assert driver.store.fulfil(10) == 5 and driver.claim() == []
    assert driver.store.stats().recrawl == driver.store.stats().done == 5
    assert driver.store.next_due() == pytest.approx(driver.now + 30)
    driver.store.order(RecrawlOrder(driver.now, 25.0, every=50.0))
    assert driver.store.fulfil(10) == 0, "they have one"
    driver.now += 31
    assert len(driver.claim()) == 5


def test_a_schedule_is_given_to_what_was_visited_before_the_wall_clock_was_set_back(coming_back: Driver) -> None:
    driver = coming_back
    driver.commit([link("a/0")])
    settle_all(driver)  # at 5.0
    driver.store.order(RecrawlOrder(driver.now, 3.0, every=50.0))
    assert driver.store.fulfil(10) == 1 and driver.store.stats().recrawl == 1
    assert driver.store.next_due() == pytest.approx(driver.now + 50)


def test_without_a_setting_a_schedule_stays_as_it_is(driver: Driver) -> None:
    driver.commit([link("a/0")])
    settle_all(driver, due=driver.now)
    driver.now += 9
    assert driver.claim() == [] and driver.store.stats().recrawl == 1


def test_a_claim_brings_back_no_more_than_a_slice(coming_back: Driver) -> None:
    """However many become due at once, no more of them wait, and are in memory, than were asked for."""
    driver = coming_back
    driver.commit([link(f"h{i % 9}/{i}") for i in range(2500)])
    while settle_all(driver, due=driver.now + 50):
        pass
    driver.now += 60
    waiting = []
    for _ in range(4):
        driver.store.give_back(driver.claim(hosts=2, per_host=3))
        waiting.append(driver.store.stats().waiting)
    assert waiting == [1000, 2000, 2500, 2500]


def test_a_page_that_says_to_be_newer_is_due_at_once(driver: Driver) -> None:
    driver.commit([link("a/0"), link("a/1"), link("a/2")])
    settle_all(driver)
    driver.commit([link("a/3")])
    modified = {link(f"a/{i}").url: at for i, at in enumerate((6.0, 5.0, 7.0, 9.0))} | {link("a/unknown").url: 9.0}
    assert driver.store.hasten(modified) == 2
    assert driver.store.hasten(modified) == 0
    assert sorted(names(driver.claim())) == ["a/0", "a/2", "a/3"]


# -- a part of a crawl --------------------------------------------------------------------------------------------

SECRET = 11


def share_of(*names: str) -> Share:
    """A part that owns the slots of these hosts."""
    own = {Keys(SECRET).host(f"{name}.test")[0] for name in names}
    return Share(0, bytes(0 if slot in own else 1 for slot in range(SLOTS)), SECRET)


def test_what_another_part_owns_is_sent_there_and_nothing_is_kept_of_it(kind: str, tmp_path: Path) -> None:
    limits = Limits(depth_limited=True, pages_per_host=2, queries_per_path=1)
    driver = Driver(kind, tmp_path / "store", limits, share=share_of("a", "c"))
    assert driver.store.secret() == SECRET
    links = [link("a/0", "seed"), link("b/0", "seed"), link("b/0"), link("b/x?1"), link("c/x?1", depth=3), link("b/r", "robots")]
    assert driver.commit(links) == [NEW, FOREIGN, FOREIGN, FOREIGN, NEW, FOREIGN]
    counts = driver.store.stats()
    assert (counts.known, counts.waiting, counts.hosts, counts.lines, counts.refused) == (2, 2, 2, {}, {})
    assert driver.store.lookup(link("b/0").url) is None
    lease = next(lease for lease in driver.claim() if lease.link.host == "a.test")
    found = [f"http://{name}.test/{n}" for n in range(2) for name in "abc"]
    block = pack(found, Keys(SECRET), replace(lease.link, depth=0))
    assert driver.commit((), [(lease, Done(NO_PAGE, "ok", block=block))]) == [KNOWN, FOREIGN, NEW, NEW, FOREIGN, HOST_BUDGET]
    origins = ["http://a.test", "http://b.test", "http://c.test"]
    driver.commit((), robots=dict.fromkeys(origins, b"rules"))
    assert driver.store.robots(origins) == [b"rules", None, b"rules"]
    driver.store.close()


def test_hosts_of_a_domain_are_one_parts(kind: str, tmp_path: Path) -> None:
    keys_by = Keys(SECRET, lambda host: "test")
    slot = keys_by.host("a.test")[0]
    share = Share(0, bytes(0 if at == slot else 1 for at in range(SLOTS)), SECRET, lambda host: "test")
    driver = Driver(kind, tmp_path / "store", share=share)
    assert driver.commit([link(f"{name}/0") for name in "abcdefgh"]) == [NEW] * 8
    assert len(driver.claim()) == 8
    assert driver.store.lookup(link("h/0").url) == "waiting"
    driver.store.close()


def test_a_store_of_another_crawl_is_no_part_of_this_one(tmp_path: Path) -> None:
    Driver("embedded", tmp_path / "store", share=share_of("a")).store.close()
    with pytest.raises(StorageError, match="another crawl"):
        Driver("embedded", tmp_path / "store", share=replace(share_of("a"), secret=12))
