"""The laws of politeness, over long random histories: never more than per_host out, never before the rest is over,
suspects one at a time, nothing lost and nothing twice."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from heapq import heappop, heappush
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from crawler.core.batch import HostRest
from crawler.core.link_block import decode_link, encode_link
from crawler.core.model import Known, Lease, Link
from crawler.frontier import bench_groups
from crawler.frontier.bench_host import HOST_SIZE, size
from crawler.frontier.rocksdb.layout import decode_page, encode_page
from crawler.frontier.workbench import LANES_MAX, PROMPT_S, Workbench
from crawler.resources.memory_plan import BENCH_LINK_BYTES

HOSTS = ["a.test", "b.test", "c.a.test", "d.a.test"]


def lease(host: str, n: int, due: float = 0.0, suspect: bool = False) -> Lease:
    return Lease(Link(f"http://{host}/{n}", host), b"%d" % n, due, suspect)


def domain(host: str) -> str:
    return ".".join(host.split(".")[-2:])


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from(HOSTS), st.integers(0, 3), st.booleans()),
        st.tuples(st.just("take"), st.just(""), st.integers(1, 4), st.just(False)),
        st.tuples(st.just("release"), st.just(""), st.integers(0, 5), st.booleans()),
        st.tuples(st.just("tick"), st.just(""), st.integers(0, 4), st.just(False)),
        st.tuples(st.just("gate"), st.sampled_from(HOSTS), st.integers(0, 1), st.just(False)),
        st.tuples(st.just("first"), st.sampled_from(HOSTS), st.just(0), st.just(False)),
        st.tuples(st.just("clear"), st.sampled_from(HOSTS), st.just(0), st.just(False)),
        st.tuples(st.just("forget"), st.sampled_from(HOSTS), st.just(0), st.just(False)),
        st.tuples(st.just("turns"), st.just(""), st.integers(1, 2), st.just(False)),
    ),
    min_size=20,
    max_size=150,
)


@settings(max_examples=300, deadline=None)
@given(STEPS, st.integers(1, 3), st.booleans(), st.sampled_from([None, 8, 16]))
def test_laws_hold_over_long_histories(steps, per_host, by_domain, visits_max):
    bench = Workbench(lambda host: per_host, domain if by_domain else lambda host: None, visits_max)
    if visits_max is not None:
        bench.limit(visits_max // 8)  # all are kept, or all but one
    now, serial = 0.0, 0
    rest_until: dict[str, float] = {}
    out: list[Lease] = []
    put: Counter[bytes] = Counter()
    gone: Counter[bytes] = Counter()
    gated: set[str] = set()
    heads: set[str] = set()

    def key(host: str) -> str:
        return domain(host) if by_domain else host

    for step, host, n, flag in steps:
        if step == "put":
            if host not in bench:
                gated.discard(host)  # it left with nothing to deal, and comes back as a new one
            serial += 1
            new = lease(host, serial, now + n, suspect=flag and n == 0)
            bench.put([new])
            put[new.key] += 1
            rest_until[host] = max(rest_until.get(host, 0.0), now + n)
        elif step == "first" and host in bench and host not in heads:
            serial += 1
            new = Lease(Link(f"http://{host}/robots.txt", host, "robots"), b"%d" % serial)
            bench.put_robots_first(new)
            heads.add(host)
            put[new.key] += 1
        elif step == "gate":
            bench.hold_for_robots(host, bool(n))
            if host in bench:
                (gated.add if n else gated.discard)(host)
        elif step == "take":
            for _ in range(n):
                gated = {name for name in gated if name in bench}  # a host with nothing to deal leaves, and its gate with it
                kept_for, slow = bench._prompt_waiting, bench._slow_out
                taken = bench.take(now)
                assert not kept_for or bench._slow_out <= max(slow, bench._slow_max), "too many visits of slow hosts"
                if taken is None:
                    break
                name = taken.link.host
                assert rest_until.get(name, 0.0) <= now, "a visit began while its host rested"
                assert rest_until.get("group " + key(name), 0.0) <= now
                if name in gated:
                    assert taken.link.kind == "robots", "a gated host dealt an ordinary link"
                if taken.link.kind == "robots":
                    heads.discard(name)
                out.append(taken)
                assert sum(other.link.host == name for other in out) <= per_host
                if by_domain:
                    assert sum(key(other.link.host) == key(name) for other in out) <= per_host
                assert sum(other.suspect for other in out) <= 1, "two suspects out"
        elif step == "release" and out:
            done = out.pop(n % len(out))
            if flag:
                bench.release(done, HostRest(now + n), PROMPT_S * (n % 3), responded=n < 4)
                name = done.link.host
                rest_until[name] = max(rest_until.get(name, 0.0), now + n)
                if by_domain:
                    group = "group " + key(name)
                    rest_until[group] = max(rest_until.get(group, 0.0), now + n)
                gone[done.key] += 1
            elif done.link.kind != "robots":
                bench.give_back(done)
            else:
                bench.release(done, HostRest(now))
                gone[done.key] += 1
        elif step == "clear" and host in bench:
            for lost in bench.clear(host):
                gone[lost.key] += 1
            gated.discard(host)
            heads.discard(host)
        elif step == "forget":
            known = host in bench
            bench.forget(host, now)
            if known and host not in bench:
                gated.discard(host)
                rest_until.pop(host)  # the store remembers it from here on
        elif step == "turns":
            for lost in bench.end_turns(n, now):
                gone[lost.key] += 1
            for name in {*gated, *heads, *rest_until}.intersection(HOSTS).difference(bench.names()):
                gated.discard(name)
                heads.discard(name)
                rest_until.pop(name, None)  # the store remembers it
        elif step == "tick":
            now += n
        left = Counter(waiting.key for waiting in bench.leases())
        assert put == left + gone + Counter(held.key for held in out)
        assert bench.waiting == left.total()
        assert bench.weight == sum(map(size, bench.leases())) + HOST_SIZE * len(bench)
        assert bench.out == len(out)
        hosts = bench._hosts.values()
        assert bench._prompt_waiting == sum(bool(host.queue) and host.is_prompt for host in hosts)
        assert bench._slow_out == sum(host.slow_out for host in hosts)

    for host in list(gated):
        bench.hold_for_robots(host, False)
    for _ in range(10_000):  # whatever is left comes out, in the end
        now += 10
        while (taken := bench.take(now)) is not None:
            out.append(taken)
        if not out:
            break
        bench.release(out.pop(), HostRest(now))
    assert bench.waiting == 0, "a link was never dealt"


def test_hosts_that_let_their_visitors_wait_do_not_take_all_visits():
    """Of eight visits one is kept for prompt hosts, as long as any of those has links waiting."""
    bench = Workbench(lambda host: 1, visits_max=8)
    bench.put(lease("good", n, 0.0) for n in range(3))
    first = bench.take(0.0)
    assert first is not None
    bench.release(first, HostRest(1.0))
    bench.put(lease(f"silent{n}", 100 + n, 0.0) for n in range(20))
    silent = [taken for _ in range(8) if (taken := bench.take(0.0)) is not None]
    assert len(silent) == 7 and all(taken.link.host.startswith("silent") for taken in silent)

    def dealt() -> str | None:
        taken = bench.take(1.0)
        if taken is None:
            return None
        if taken.link.host == "good":
            bench.release(taken, HostRest(1.0))
        return taken.link.host

    assert dealt() == "good"
    bench.release(silent.pop(), HostRest(9.0), 5.0)
    assert [dealt(), dealt()] == ["silent7", "good"], (
        "the first of those that were put aside; nothing is kept for a host that has nothing"
    )
    assert [dealt(), dealt()] == ["silent8", "silent9"], "nothing is kept for hosts with nothing to visit"


def test_hosts_that_respond_after_seconds_leave_the_others_their_pace():
    """However many there are: 400 hosts that take 2 s for a page, among 50 that take none and rest for 0.2 s."""
    bench = Workbench(lambda host: 1, visits_max=100)
    bench.limit(100)
    took = {f"slow{n}.test": 2.0 for n in range(400)} | {f"{n}.test": 0.0 for n in range(50)}
    for host in took:
        bench.put([lease(host, n) for n in range(300)])
    over: list[tuple[float, int, Lease]] = []  # when each visit that is out ends
    now, visits, serial = 0.0, 0, 0
    while now < 60:
        while len(over) < 100 and (taken := bench.take(now)) is not None:
            serial += 1
            heappush(over, (now + took[taken.link.host], serial, taken))
        now = min(over[0][0] if over else inf, now + 0.05)
        while over and over[0][0] <= now:
            done = heappop(over)[2]
            seconds = took[done.link.host]
            bench.release(done, HostRest(now + max(seconds, 0.2)), seconds)
            visits += now > 20 and not seconds
    assert visits > 0.8 * 50 * 40 / 0.25, "each 0.2 s, and what the steps of this clock add"


def test_hosts_that_nobody_knows_do_not_queue_behind_the_retries_of_slow_ones():
    """While both wait, visits of the two begin in turn; neither waits for all of the other."""
    bench = Workbench(lambda host: 1)
    bench.put(lease(f"slow{n}", n) for n in range(10))
    for _ in range(10):
        bench.release(bench.take(0.0), HostRest(1.0), 1.0, responded=False)
    bench.put(lease(f"slow{n}", 200 + n) for n in range(10))
    bench.put([replace(lease("slow", 100), failures=1)])  # it has been here before
    bench.take(1.0)
    bench.put(lease(f"new{n}", 300 + n) for n in range(6))
    dealt = [taken.link.host.rstrip("0123456789") for _ in range(16) if (taken := bench.take(1.0)) is not None]
    assert dealt == ["new", "slow"] * 6 + ["slow"] * 4


def test_two_visits_at_a_time_start_together_and_rest_together():
    bench = Workbench(lambda host: 2)
    bench.put([lease("a.test", n) for n in range(5)])
    first, second = bench.take(0.0), bench.take(0.0)
    assert first and second and bench.take(0.0) is None
    bench.release(first, HostRest(1.0))
    assert bench.take(0.5) is None
    assert bench.take(1.0) is not None


def test_the_limit_of_a_domain_may_change():
    """Between two visits of it, as that of a host may."""
    per_host = 3
    bench = Workbench(lambda host: per_host, domain)
    bench.put(lease(f"{n}.a.test", n) for n in range(9))

    def out() -> list[Lease]:
        return [taken for _ in range(9) if (taken := bench.take(0.0)) is not None]

    for limit in (3, 1, 2):
        per_host = limit
        taken = out()
        assert len(taken) == limit
        for one in taken:
            bench.release(one, HostRest(0.0))


def test_hosts_take_turns():
    bench = Workbench(lambda host: 1)
    bench.put([lease("a.test", n) for n in range(10)] + [lease("b.test", n) for n in range(10)])
    turns = []
    for now in range(8):
        while (taken := bench.take(float(now))) is not None:
            turns.append(taken.link.host)
            bench.release(taken, HostRest(now + 1.0))
    assert Counter(turns) == {"a.test": 8, "b.test": 8}


def test_a_hungry_hosts_share_doubles_up_to_the_bound():
    bench = Workbench(lambda host: 1)
    bench.put([lease("a.test", 0), lease("a.test", 1)])
    wanted = []
    for n in range(6):
        while (taken := bench.take(0.0)) is not None:
            bench.release(taken, HostRest(0.0))
        wanted.append(bench.shortage("a.test", 32))
        bench.put([lease("a.test", 100 * n + i) for i in range(wanted[-1])])
        assert bench.shortage("a.test", 32) == 0, "it has just been fed"
    assert wanted == [4, 8, 16, 32, 32, 32]


def test_a_link_of_long_texts_counts_as_several():
    plain = Link("http://a.test/1", "a.test", via="http://a.test/", anchor="http://a.test/")
    long = "http://a.test/" + "x" * 2000
    assert size(Lease(plain, b"")) == 1
    assert size(Lease(Link(long, "a.test", via=long, anchor=long), b"")) == 6
    assert size(Lease(replace(plain, given="é" * 2000), b"")) == 8
    assert size(Lease(replace(plain, tag="9" * 4000), b"")) == 4
    known = Known(replace(plain, given="x" * 2000), "redirect", None, 301, 0.0, location=long)
    assert size(Lease(plain, b"", known=known)) == 6


@pytest.mark.parametrize("links_per_host", [1, 4, 256])
@pytest.mark.parametrize("is_known", [False, True])
@pytest.mark.parametrize("length", [60, 700, 2083])
@pytest.mark.parametrize("group_of", [None, lambda host: host], ids=["", "each waits for its domain"])
def test_the_bench_holds_no_more_than_its_account_says(links_per_host, is_known, length, group_of):
    def leases():
        for n in range(512):
            host = f"host{n // links_per_host}.example.org"
            texts = [f"http://{host}/{n}/".ljust(length, each) for each in "uvalg"]
            found = Link(texts[0], host, "link", 2, via=texts[1], anchor=texts[2])
            known = Known(found, "redirect", None, 301, 1e9, location=texts[3], etag="e" * 30, digest=bytes(20), due=1e9 + n)
            encoded = encode_link(found, 0), encode_page(known, 0) if is_known else None
            known = decode_page(encoded[1])[1] if encoded[1] is not None else None
            yield Lease(decode_link(encoded[0])[1], b"%25d" % n, 0.0, known=known)

    bench = Workbench(lambda host: 1, group_of)
    for n in range(512 if group_of is not None else 0):
        bench._groups.rest(f"host{n}.example.org", 10.0, 0.0)
    tracemalloc.start()
    try:
        bench.put(leases())
        assert group_of is None or bench.take(1.0) is None
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    of_claims = 800 * len(bench)  # in the store, which knows what is out
    assert held + of_claims <= BENCH_LINK_BYTES * bench.weight


@given(st.integers(1, 12), st.integers(2, LANES_MAX), st.integers(1, 40))
def test_visits_spread_over_hosts(hosts, per_host, workers):
    """No host is visited twice at a time while another due one is not visited at all; then no third before all have two."""
    bench = Workbench(lambda host: per_host)
    bench.put([lease(f"h{host}.test", n) for host in range(hosts) for n in range(per_host)])
    out: Counter[str] = Counter()
    taken = [found for _ in range(workers) if (found := bench.take(0.0)) is not None]
    for each in taken:
        out[each.link.host] += 1
    assert len(taken) == min(workers, hosts * per_host)
    assert max(out.values()) - min(out[f"h{host}.test"] for host in range(hosts)) <= 1
    for each in taken:
        bench.release(each, HostRest(0.0))
        again = bench.take(0.0)
        out[each.link.host] -= 1
        if again is not None:
            out[again.link.host] += 1
            waiting = Counter(left.link.host for left in bench.leases())
            assert all(out[host] >= out[again.link.host] - 1 for host in waiting)


def test_a_host_that_was_dealt_is_behind_all_that_were_not():
    bench = Workbench(lambda host: 8)
    bench.put([lease(f"h{host}.test", n) for n in range(8) for host in range(5)])
    order = []
    for _ in range(20):
        taken = bench.take(0.0)
        order.append(taken.link.host)
        bench.release(taken, HostRest(0.0))
    assert order == [f"h{n % 5}.test" for n in range(20)]


def test_the_turn_ends_of_hosts_that_came_first_and_were_visited():
    bench = Workbench(lambda host: 1)
    hosts = ("unknown", "rests", "due", "out", "other", "last")
    bench.put([lease(host, n) for host in hosts for n in range(3)])
    first = {taken.link.host: taken for taken in iter(lambda: bench.take(0.0), None)}
    for host in ("unknown", "rests", "due", "other", "last"):
        due = 1.0 if host == "due" else 20.0
        bench.release(first[host], HostRest(due), 0.1)
        if host not in ("unknown", "due"):
            bench.forget(host, 0.0, due)
    bench.put([lease("new", n) for n in range(3)])
    bench.put_robots_first(Lease(Link("http://other/robots.txt", "other", "robots", hops=1), b""))
    assert bench.end_turns(0, 5.0) == []
    assert [left.link.host for left in bench.end_turns(1, 5.0)] == ["rests"] * 2
    bench.put([lease("rests", 7, due=20.0)])
    taken = bench.take(5.0)
    assert taken.link.host in ("due", "new")
    bench.give_back(taken)
    assert [left.link.host for left in bench.end_turns(9, 5.0)] == ["due"] * 2 + ["out"] * 2 + ["last"] * 2
    assert set(bench.names()) == {"unknown", "out", "other", "new", "rests"} and bench.waiting == 2 + 0 + 3 + 3 + 1


class Looked(dict):
    """How often all of it was looked at."""

    times = 0

    def items(self):
        self.times += 1
        return super().items()


def test_groups_that_rest_are_not_looked_through_at_every_visit():
    """Nobody else knows of their rest, which may be long; when it is over, they go."""
    bench = Workbench(lambda host: 1, lambda host: host)
    bench._groups._all = looked = Looked()
    for n in range(2000):
        bench.put([lease(f"h{n}", n)])
        bench.release(bench.take(1.0), HostRest(60.0))
        bench.forget(f"h{n}", 1.0, 60.0)
    assert len(looked) == 2000 and looked.times < 10
    for n in range(5000):
        bench.put([lease(f"h{n}", n)])
        bench.release(bench.take(61.0 + n), HostRest(61.0 + n))
        bench.forget(f"h{n}", 61.0 + n, 61.0 + n)
    assert len(looked) < 200 and looked.times < 100


def test_a_turn_ends_of_a_host_that_is_slow_or_being_visited_though_it_rests_never():
    """But not of one that waits for its robots.txt, or that visits one for another."""
    bench = Workbench(lambda host: 2)
    bench.put([lease(host, n) for host in ("slow", "out", "held", "visits") for n in range(3)])
    first = {taken.link.host: taken for taken in (bench.take(0.0) for _ in range(4))}
    bench.release(first["slow"], HostRest(0.0), 2 * PROMPT_S)
    bench.hold_for_robots("held", True)
    bench.put_robots_first(Lease(Link("http://visits/robots.txt", "visits", "robots", hops=1), b""))
    assert [left.link.host for left in bench.end_turns(9, 1.0)] == ["slow"] * 2 + ["out"] * 2
    assert bench.end_turns(9, 1.0) == [] and bench.names() == ["out", "held", "visits"]
    assert bench.take(1.0).link.kind == "robots"
    bench.release(first["out"], HostRest(1.0))
    bench.forget("out", 1.0, 1.0)
    assert bench.names() == ["held", "visits"]


def test_hosts_that_rest_long_go_home_if_the_store_knows_of_their_rest():
    bench = Workbench(lambda host: 2 if host == "out" else 1)
    hosts = ("soon", "long", "unknown", "out", "own", "other")
    bench.put([lease(host, n) for host in hosts for n in range(4)])
    first = {taken.link.host: taken for taken in iter(lambda: bench.take(0.0), None)}
    assert bench.out == len(hosts) + 1
    for host, taken in first.items():
        due = 10.0 if host == "soon" else 900.0
        bench.release(taken, HostRest(due))
        bench.forget(host, 0.0, 5.0 if host == "unknown" else due)
    for host, hops in (("own", 0), ("other", 1)):
        bench.put_robots_first(Lease(Link(f"http://{host}/robots.txt", host, "robots", hops=hops), b""))
    assert Counter(left.link.host for left in bench.send_home(60.0)) == {"long": 3, "own": 4}
    assert set(bench.names()) == {"soon", "unknown", "out", "other"} and bench.waiting == 3 + 3 + 2 + 4
    assert bench.send_home(60.0) == [] and bench.next_due() == 10.0
    bench.put([lease("long", 7, due=900.0)])
    taken = bench.take(899.0)
    assert taken is not None and taken.link.host == "soon"
    assert bench.take(899.0) is None, "nobody else before the rest is over"


def test_a_group_that_rests_takes_little():
    """It stays when its host has left, and is in no account: with a back-off of an hour for each of many domains, an empty bench
    had 928 bytes for each."""
    groups, now, bench = 2000, 0.0, Workbench(lambda host: 1, group_of=lambda host: host)
    tracemalloc.start()
    try:
        for n in range(groups):
            host = f"host{n}.test"
            bench.put([Lease(Link(f"http://{host}/", host), b"%25d" % n)])
            bench.release(bench.take(now), HostRest(now + 3600, 1))
            bench.forget(host, now, now + 3600)
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(bench) == 0 and held < 400 * groups


def test_there_are_no_more_groups_than_may_be_and_none_loses_its_rest(monkeypatch):
    monkeypatch.setattr(bench_groups, "GROUPS_MAX", 3)
    now, bench = 0.0, Workbench(lambda host: 1, group_of=domain)
    begun = []
    for n in range(9):
        bench.put([lease(f"h.{n}.test", n)])
    while len(begun) < 9:
        while (taken := bench.take(now)) is not None:
            begun.append((now, taken.link.host))
            bench.release(taken, HostRest(now + 10.0))
            bench.forget(taken.link.host, now, stored_due=now + 10.0)
        assert len(bench._groups._all) <= 3
        now += 1.0
        assert now < 100
    assert [at for at, _ in begun] == [0.0] * 3 + [10.0] * 3 + [20.0] * 3


def test_a_group_that_may_have_been_visited_before_rests_first():
    bench = Workbench(lambda host: 1, group_of=domain, taken_over=lambda host: (7.0, 3.0))
    bench.put([lease("1.a.test", 0), lease("2.a.test", 0), lease("1.b.test", 0, suspect=True)])
    assert bench.take(9.0) is None
    one, other = bench.take(10.0), bench.take(10.0)
    assert {one.link.host, other.link.host} == {"1.a.test", "1.b.test"} and bench.take(10.0) is None
    bench.release(one, HostRest(11.0))
    assert bench.take(10.5) is None and bench.take(11.0).link.host == "2.a.test"


def test_a_group_that_was_another_nodes_meanwhile_rests_first_though_it_is_known_here():
    taken_at = [0.0]
    bench = Workbench(lambda host: 1, group_of=domain, taken_over=lambda host: (taken_at[0], 5.0))
    bench.put([lease("1.a.test", 0)])
    bench.release(bench.take(6.0), HostRest(11.0))
    assert bench.take(12.0) is None
    taken_at[0] = 100.0
    bench.put([lease("2.a.test", 0)])
    assert bench.take(104.0) is None and bench.take(105.0).link.host == "2.a.test"


def test_a_group_that_was_visited_here_rests_as_its_visits_say_however_long_a_delay_is_set_for_a_while():
    rest = [5.0]
    bench = Workbench(lambda host: 1, group_of=domain, taken_over=lambda host: (0.0, rest[0]))
    bench.put([lease("1.a.test", 0), lease("2.a.test", 0), lease("3.a.test", 0)])
    bench.release(bench.take(6.0), HostRest(11.0))
    rest[0] = 3600.0
    assert bench.take(10.0) is None
    rest[0] = 5.0
    assert bench.take(11.0).link.host == "2.a.test"


def test_a_group_that_was_not_visited_here_yet_is_visited_once_a_long_delay_is_taken_back():
    """All domains that were not had stood still until it was over, counted from the start of the process."""
    rest = [3600.0]
    bench = Workbench(lambda host: 1, group_of=domain, taken_over=lambda host: (0.0, rest[0]))
    bench.put([lease("1.a.test", 0), lease("2.a.test", 0), lease("1.b.test", 0)])
    assert bench.take(6.0) is None and bench.next_due() <= 16.0
    rest[0] = 5.0
    taken = {bench.take(16.0).link.host for _ in range(2)}
    assert taken in ({"1.a.test", "1.b.test"}, {"2.a.test", "1.b.test"}) and bench.take(16.0) is None


def test_hosts_whose_group_has_no_turn_for_them_soon_are_told_when_it_may_have_one():
    """But not the first of each, those that rest themselves, and those that visit a robots.txt for another."""
    bench = Workbench(lambda host: 1, group_of=domain)
    hosts = [f"{n}.a.test" for n in range(8)] + ["1.b.test"]
    bench.put([lease(host, 0) for host in hosts] + [lease("1.c.test", 0, due=50.0)])
    for _ in range(2):
        bench.release(bench.take(0.0), HostRest(4.0))  # of both domains
    bench.forget("0.a.test", 0.0, 4.0)
    bench.put_robots_first(Lease(Link("http://7.a.test/robots.txt", "7.a.test", "robots", hops=1), b""))
    assert bench.take(0.0) is None
    told = bench.queue_at_groups(0.0, 10.0, 20.0, lambda link: 5.0)
    assert told == [("3.a.test", 14.0), ("4.a.test", 19.0), ("5.a.test", 20.0), ("6.a.test", 20.0)]
    for host, turn in told:
        assert bench.rest(host, turn)
        bench.forget(host, 0.0, turn)
    assert bench.queue_at_groups(0.0, 10.0, 20.0, lambda link: 5.0) == []
    assert {left.link.host for left in bench.send_home(10.0)} == {host for host, _ in told} | {"1.c.test"}
    assert {bench.take(4.0).link.host, bench.take(4.0)} == {"1.a.test", None}


def test_a_host_that_is_being_visited_is_not_told_when_its_group_may_have_a_turn_for_it():
    """Its rest would be that of the whole group, after that visit: 300 s, where each pause was one."""
    bench = Workbench(lambda host: 2, group_of=domain)
    bench.put(lease(f"{n}.a.test", page) for page in range(2) for n in range(6))
    out = [bench.take(0.0), bench.take(0.0)]
    assert bench.take(0.0) is None
    told = bench.queue_at_groups(0.0, 1.0, 300.0, lambda link: 2.0)
    assert told == [("4.a.test", 2.0), ("5.a.test", 3.0)], "two at a time, each pause"
    bench.release(out[0], HostRest(1.0), 0.5)
    bench.release(out[1], HostRest(1.0), 0.5)
    assert [bench.take(1.0).link.host, bench.take(1.0).link.host, bench.take(1.0)] == ["2.a.test", "3.a.test", None]
    late = bench.queue_at_groups(1.0, 1.5, 300.0, lambda link: 0.0)
    assert late == [("1.a.test", 4.0)], "visits take time, too; and behind those that were told before"


@pytest.mark.parametrize("rest", [0.0, 1.0])
def test_a_turn_ends_of_hosts_that_wait_for_their_domain(rest):
    """Where there is no delay, they kept the places until they had no more links, but for one each second."""
    bench = Workbench(lambda host: 1, group_of=domain)
    bench.put(lease(f"{n}.a.test", page) for page in range(3) for n in range(9))
    for now in range(5):
        taken = bench.take(float(now))
        if now < 4:
            bench.release(taken, HostRest(now + rest))
            bench.forget(taken.link.host, now, now + rest)
    assert bench.take(4.0) is None
    assert Counter(left.link.host for left in bench.end_turns(9, 4.0)) == {f"{n}.a.test": 2 for n in range(5)}
    assert set(bench.names()) == {f"{n}.a.test" for n in range(4, 9)}
    bench.release(taken, HostRest(5.0))
    assert bench.take(5.0).link.host == "5.a.test"


@pytest.mark.parametrize("rest", [0.0, 1.0])
def test_a_visit_costs_no_more_however_many_hosts_of_its_domain_wait(monkeypatch, rest):
    """All were woken at each: 13 ms for 2800. They have their turns one after the other."""
    looked: list[str] = []
    stop = bench_groups.Groups.stop

    def counted(self, name, *args, **more):
        looked.append(name)
        return stop(self, name, *args, **more)

    monkeypatch.setattr(bench_groups.Groups, "stop", counted)
    hosts = [f"{n}.a.test" for n in range(500)]
    bench = Workbench(lambda host: 1, group_of=domain)
    bench.put(lease(host, page) for page in range(3) for host in hosts)
    now, visited = 0.0, []
    for _ in range(1000):
        taken = bench.take(now)
        assert bench.take(now) is None, "one at a time"
        visited.append(taken.link.host)
        bench.release(taken, HostRest(now + rest))
        assert bench.next_due() <= now + rest or not rest
        now += rest
    assert visited == hosts * 2
    assert len(looked) < 500 + 3 * 1000


def test_a_host_without_rules_keeps_its_turn_at_its_domain():
    """Or those of the others would take the place of its rules in memory before its next."""
    bench = Workbench(lambda host: 1, group_of=domain)
    bench.put(lease(f"{n}.a.test", n) for n in range(5))
    first = bench.take(0.0)
    assert bench.take(0.0) is None
    bench.release(first, HostRest(1.0))
    bench.give_back(taken := bench.take(1.0))
    bench.hold_for_robots(taken.link.host, True)
    assert bench.take(1.0).link.host == "2.a.test" and bench.take(1.0) is None
    bench.hold_for_robots(taken.link.host, False)
    bench.put([lease("5.a.test", 5)])
    assert bench.take(1.0) is None
    bench.release(Lease(Link("http://2.a.test/2", "2.a.test"), b"2"), HostRest(2.0))
    assert bench.take(2.0).link.host == taken.link.host == "1.a.test"


def test_one_that_was_called_and_has_nothing_any_more_lets_the_next_be_called():
    """It is held, or rests. One that was given up or blocked waits for no turn of its group."""
    bench = Workbench(lambda host: 1, group_of=domain)
    bench.put(lease(f"{n}.a.test", n) for n in range(9))
    first = bench.take(0.0)
    assert bench.take(0.0) is None
    bench.clear("1.a.test")
    bench.withdraw("4.a.test", lambda link: True)
    assert bench.take(0.0) is None
    assert set(bench.names()) == {f"{n}.a.test" for n in (0, 2, 3, 5, 6, 7, 8)}
    bench.hold_for_robots("2.a.test", True)
    bench.rest("3.a.test", 50.0)
    bench.release(first, HostRest(1.0))
    assert bench.take(1.0).link.host == "5.a.test"
    bench.forget("3.a.test", 1.0, 50.0)
    assert {left.link.host for left in bench.send_home(10.0)} == {"3.a.test"}


def test_what_rests_and_has_left_the_bench_stands_in_no_heap():
    bench = Workbench(lambda host: 1)
    for n in range(2000):
        bench.put([lease(f"h{n}", n, 1e6), lease(f"h{n}", 5000 + n, 1e6)])
        assert len(bench.send_home(10.0)) == 2 and len(bench._resting) < 100
