"""Whether it is our own network: proved over random histories, and over the crawls in which it matters."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.core import errors
from crawler.resources.outage_detector import HELD_MAX, HOLD_S, QUIET_S, VAIN_S, Outage, network_sign

SIGNS = ["response", "silence", "unheard", "suspect", "unnamed", "local", "nothing"]
FAILING = ["suspect", "unnamed", "local"]


def fail(outage, hosts, now=0.0, sign="suspect"):
    """What comes back when these hosts fail one after the other."""
    return [back for host in hosts for back in outage.note(host, host, sign, now)]


def names(count, word="dead"):
    return [f"{word}{n}.example" for n in range(count)]


def answer(outage, hosts):
    for host in hosts:
        outage.note(host, host, "response", 0.0)


def test_every_reason_has_a_sign():
    reasons = [reason for reasons in errors.REASONS.values() for reason in reasons]
    signs = {reason: network_sign(reason) for reason in reasons}
    assert {reason for reason, sign in signs.items() if sign in FAILING} == {
        "connect_timeout",
        "unreachable",
        "dns_timeout",
        "servfail",
        "resolver_unreachable",
        "proxy",
    }
    for reason in ("nxdomain", "refused", "reset", "certificate", "content_length", "max_body", "loop", "min_rate"):
        assert signs[reason] == "response"
    for reason in ("rule", "robots_unavailable", "address", "syntax", "duplicate"):
        assert signs[reason] == "nothing"
    assert network_sign(None) == "response"
    assert network_sign("unreachable", "ENETUNREACH") == "local"
    assert network_sign("unreachable", "EHOSTUNREACH") == "suspect"


@pytest.mark.parametrize(
    ("detail", "sign"),
    [
        ("ECONNREFUSED", "local"),
        ("nxdomain", "local"),
        ("status 407", "suspect"),
        ("no tunnel", "suspect"),
        ("status 502", "response"),
        ("status 403", "response"),
    ],
)
def test_a_proxy_that_is_lost_is_our_network_and_one_that_speaks_tells_of_the_host(detail, sign):
    assert network_sign("proxy", detail) == sign


def test_a_list_of_dead_hosts_is_just_that():
    """Nobody ever answered and there are fewer than 50: judged as they are, after the hold or when nothing else is out."""
    outage = Outage()
    assert fail(outage, names(49)) == []
    assert not outage.offline
    assert outage.tick(HOLD_S - 1, idle=False) == []
    assert outage.tick(HOLD_S, idle=False) == [(host, True) for host in names(49)]
    assert fail(outage, names(3)) == []
    assert outage.tick(0.0, idle=True) == [(host, True) for host in names(3)]


def test_fifty_hosts_in_a_row():
    outage = Outage()
    fail(outage, names(30))
    assert fail(outage, names(30)) == [], "the same hosts again are no more hosts"
    back = fail(outage, names(50)[30:])
    assert outage.offline
    assert back == [(host, False) for host in [*names(30), *names(30), *names(50)[30:]]]
    assert fail(outage, ["another.example"]) == [("another.example", False)]


def test_an_answer_between_ends_the_row():
    outage = Outage()
    fail(outage, names(49))
    back = outage.note("x", "refuses.example", "response", 1.0)
    assert back == [*((host, True) for host in names(49)), ("x", True)]
    assert fail(outage, names(49)) == []
    assert not outage.offline


def test_five_hosts_that_had_responded():
    outage = Outage()
    answer(outage, names(6, "live"))
    assert fail(outage, [*names(4, "live"), *names(20)]) == []
    back = fail(outage, ["live4.example"])
    assert outage.offline
    assert len(back) == 25
    assert not any(as_judged for _, as_judged in back)


def test_no_way_out_of_this_machine():
    outage = Outage()
    answer(outage, names(3, "live"))
    assert fail(outage, ["live0.example", "dead.example"], sign="local") == []
    assert fail(outage, ["live1.example"], sign="local")[0] == ("live0.example", False)
    assert outage.offline
    alone = Outage()
    answer(alone, ["live.example"])
    assert fail(alone, ["other.example"], sign="local") == [], "one without IPv4, perhaps"
    assert len(fail(alone, ["live.example"], sign="local")) == 2, "the only host we know: enough"
    assert alone.offline


def test_silence_waits_with_the_rest():
    """A first byte that never came: before a row of failures it is the host's, within one it may be ours."""
    outage = Outage()
    answer(outage, names(5, "live"))
    assert outage.note("a", "slow.example", "silence", 0.0) == [("a", True)]
    fail(outage, names(1))
    assert outage.note("b", "slow.example", "silence", 0.0) == []
    assert ("b", False) in fail(outage, names(5, "live"))
    assert outage.note("c", "slow.example", "silence", 0.0) == [("c", False)]


def test_visits_that_were_out_when_the_network_was_lost_are_no_pages_fate():
    """All workers waited for a first byte: the first of them were judged before one could try to connect, and fail."""
    outage = Outage()
    answer(outage, names(8, "live"))
    for host in ["new.example", *names(4, "live")]:
        assert outage.note(host, host, network_sign("first_byte_timeout"), 30.0) == []
    back = outage.note("e", "live4.example", network_sign("read_timeout"), 30.0)
    assert outage.offline
    assert back == [("new.example", False), *((host, False) for host in names(4, "live")), ("e", False)]


def test_hosts_that_are_not_heard_while_others_respond_are_slow():
    outage = Outage()
    answer(outage, names(9, "live"))
    now = 0.0
    for n in range(8):
        outage.note("x", "live8.example", "response", now := now + QUIET_S)
        assert outage.note(n, f"live{n}.example", "unheard", now + QUIET_S / 2) == [(n, True)]
    assert fail(outage, names(8, "live"), now + 600, network_sign("total_timeout")) == [], "these may have been heard of"
    assert fail(outage, names(60), now + 600, "unheard") == [], "and these never were"
    assert not outage.offline
    assert len(outage.note("x", "live8.example", "response", now + 601)) == 69
    assert fail(outage, names(8, "live"), now + 700, "unheard") == [(host, True) for host in names(8, "live")], "as they were"
    never = Outage()
    assert fail(never, names(60), 1e9, "unheard") == [(host, True) for host in names(60)], "where nobody ever responds"


@pytest.mark.parametrize("end", ["held for long", "nothing else is out", "a response", "offline, a response", "a witness"])
def test_silence_that_was_the_hosts_own_is_not_held_again_for_an_hour(end):
    """Pages that hang, one after the other, on hosts that respond in between: each would be waited for, or given back."""
    outage, hosts = Outage(), names(8, "live")
    answer(outage, hosts)
    fail(outage, hosts if end in ("offline, a response", "a witness") else hosts[:3], 30.0, "unheard")
    if end == "held for long":
        assert len(outage.tick(30.0 + HOLD_S, idle=False)) == 3
    elif end == "nothing else is out":
        assert len(outage.tick(30.5, idle=True)) == 3
    elif end == "a witness":
        assert outage.probe(40.0)
        outage.reached()
    for host in hosts:
        outage.note("x", host, "response", 60.0)
    for now in (90.0, VAIN_S):
        assert fail(outage, hosts, now, "unheard") == [(host, True) for host in hosts]
        assert not outage.offline
    assert fail(outage, hosts[:3], 60.0 + VAIN_S, "unheard") == [], "but then it may be our network"


def test_a_network_that_was_lost_can_be_lost_again_within_the_hour():
    outage, hosts = Outage(), names(8, "live")
    for now in (30.0, 130.0):
        for host in hosts:
            outage.note("x", host, "response", now)
        assert len(fail(outage, hosts, now + 30.0, "unheard")) == 8
        assert outage.offline
        assert outage.probe(now + 40.0)
        outage.reached(at_once=False)  # it came back while the witness was tried
    quick = Outage()
    for now in range(60):  # hosts that take no connection are no silence
        quick.note("x", "live.example", "response", now)
        fail(quick, names(1), now + QUIET_S, "suspect")
    assert fail(quick, ["live.example"], 80.0, "unheard") == []


def test_probes_double_and_the_first_answer_resumes():
    outage = Outage()
    answer(outage, names(5, "live"))
    fail(outage, names(5, "live"), now=100.0)
    times = []
    now = 100.0
    while len(times) < 8:
        now += 0.25
        if outage.probe(now):
            times.append(now - 100.0)
            assert not outage.probe(now)
            assert fail(outage, ["live0.example"], now) == [("live0.example", False)]
    assert times == [5, 15, 35, 75, 135, 195, 255, 315]
    assert outage.offline
    assert outage.note("x", "live0.example", "response", now) == [("x", True)]
    assert not outage.offline
    assert not outage.probe(now + 1e9)
    assert (outage.since, outage.held) == (0.0, 0)


def test_a_long_list_of_dead_hosts_ends():
    """Nobody ever answered, but their names were resolved: believed to be dead after five vain probes, and judged."""
    outage = Outage()
    assert len(fail(outage, names(50))) == 50
    now = 0.0
    for _ in range(5):
        assert fail(outage, ["in-flight.example"], now) == [("in-flight.example", False)]
        now = outage._probe_at
        assert outage.probe(now)
    assert fail(outage, names(1), now) == [("dead0.example", True)]
    assert not outage.offline
    assert fail(outage, names(1000), now)[0] == ("dead0.example", True)
    assert not outage.offline
    answer(outage, ["live.example"])
    fail(outage, names(50), now)
    assert outage.offline, "a response: the network is worth suspecting again"


def test_no_name_server_is_never_taken_for_dead_hosts():
    outage = Outage()
    fail(outage, names(50), sign="unnamed")
    for _ in range(50):
        now = outage._probe_at
        assert outage.probe(now)
        assert fail(outage, names(1), now, "unnamed") == [("dead0.example", False)]
    assert outage.offline


def test_the_tail_of_a_crawl_is_settled_by_a_witness():
    """Only dead hosts are left of a broad crawl: no lease could ever bring a response, but one that answered before can."""
    outage = Outage()
    answer(outage, names(200, "live"))
    assert outage.witnesses[0] == "live199.example"
    assert len(outage.witnesses) == 5
    fail(outage, [*names(4, "live"), *names(46)])
    assert outage.offline
    for _ in range(9):
        assert outage.probe(outage._probe_at)
        assert fail(outage, names(1)) == [("dead0.example", False)]
    outage.reached()
    assert not outage.offline
    assert fail(outage, [*names(4, "live"), *names(300)])[-1:] in ([], [("dead299.example", True)])
    assert not outage.offline, "these hosts are gone, and no longer speak for the network"
    assert all(as_judged for _, as_judged in outage.tick(1e9, idle=False))
    fail(outage, names(50, "live")[40:])
    assert outage.offline, "others still do"


def false_alarm(outage, hosts, sign="unnamed"):
    fail(outage, hosts, sign=sign)
    assert outage.offline
    assert outage.probe(outage._probe_at)
    outage.reached()


def test_hosts_that_an_outage_has_proved_dead_are_no_reason_for_another():
    """A zone that is silent for ever, and hosts that respond: each fifty time-outs in a row paused them all."""
    outage = Outage()
    answer(outage, ["live.example"])
    false_alarm(outage, names(80))
    answer(outage, ["live.example"])
    assert fail(outage, names(80), sign="unnamed") == [(host, True) for host in names(80)]
    fail(outage, ["other.example"])
    assert fail(outage, names(30), sign="unnamed") == [], "but they wait with others"
    fail(outage, names(49, "other"))
    assert outage.offline


def test_they_count_again_once_they_have_responded_or_where_this_machine_has_no_way_out():
    for again in ("suspect", "local"):
        outage = Outage()
        answer(outage, names(80, "live"))
        false_alarm(outage, names(50, "live"))
        answer(outage, names(50, "live") if again == "suspect" else ["live79.example"])
        fail(outage, names(50, "live"), sign=again)
        assert outage.offline


def test_an_outage_that_lasts_proves_nobody_dead():
    outage = Outage()
    answer(outage, ["live.example"])
    fail(outage, names(50))
    for _ in range(2):
        assert outage.probe(outage._probe_at)
    outage.reached()
    answer(outage, ["live.example"])
    fail(outage, names(50))
    assert outage.offline


def test_an_outage_in_the_middle_of_a_broad_crawl():
    """100 visits out at once, new hosts all the time, then nothing comes back: not one of these is a page's fate."""
    outage = Outage()
    judged, now = [], 0.0
    for n in range(1000):
        now += 0.05
        sign = "suspect" if n % 10 == 3 else "response"
        judged += [item for item, as_judged in outage.note(n, f"h{n}", sign, now) if as_judged]
    assert len(judged) >= 998
    back = [pair for n in range(1000, 1200) for pair in outage.note(n, f"h{n}", "unnamed", now + (n - 1000) * 0.1)]
    assert outage.offline
    assert {item for item, as_judged in back if as_judged} <= set(range(1000))
    assert {item for item, as_judged in back if not as_judged} >= set(range(1000, 1200))


steps = st.lists(
    st.tuples(st.sampled_from(["note", "note", "note", "tick", "idle", "probe", "reached", "flush"]), st.integers(0, 80))
    | st.tuples(st.sampled_from(SIGNS), st.integers(0, 80)),
    min_size=20,
    max_size=400,
)


@given(steps, st.lists(st.floats(0, 40), min_size=1, max_size=9), st.sampled_from(["answers", "never"]))
def test_what_is_noted_comes_back_exactly_once(history, pauses, mode):
    outage = Outage(hosts_max=8, remembered_max=10)
    now, count, held = 0.0, 0, {}
    for at, (verb, host) in enumerate(history):
        now += pauses[at % len(pauses)] if at % 7 == 0 else 0.1
        before = outage.offline
        if verb in ("tick", "idle"):
            back = outage.tick(now, idle=verb == "idle")
        elif verb == "flush":
            back = outage.flush()
            assert not any(as_judged for _, as_judged in back)
        elif verb == "probe":
            assert not (outage.probe(now) and not before)
            back = []
        elif verb == "reached":
            outage.reached()
            back = []
        else:
            sign = verb if verb != "note" else FAILING[host % 3]
            if mode == "never" and sign == "response":
                sign = "suspect"
            held[count] = now
            back = outage.note(count, f"h{host}", sign, now)
            count += 1
            if sign == "response":
                assert not outage.offline
                assert all(as_judged for _, as_judged in back)
                assert outage.held == 0
        for item, _ in back:
            del held[item]  # each was held, and comes back once
        assert outage.held == len(held) <= HELD_MAX
        assert not (outage.offline and held), "nothing waits for an outage to end"
        assert len(outage._streak) <= 8
        assert len(outage._responded) <= 10 >= len(outage._responded_before)
        assert len(outage._failed) <= 10 >= len(outage._dead)
        if verb == "tick":
            assert all(since > now - HOLD_S for since in held.values())
    for item, _ in outage.flush():
        del held[item]
    assert not held


@given(st.lists(st.tuples(st.integers(0, 48), st.sampled_from(["silence", "unheard", *FAILING])), max_size=300))
def test_fewer_than_fifty_dead_hosts_are_never_our_network(failures):
    outage = Outage()
    for at, (host, sign) in enumerate(failures):
        outage.note(at, f"h{host}", sign, at * 0.5)
        assert not outage.offline


def test_memory_is_bounded():
    outage = Outage()
    for n in range(100_000):
        outage.note(n, f"h{n}", "response", 0.0)
    assert len(outage._responded) + len(outage._responded_before) <= 20_000
    for n in range(2_000):
        outage.note(n, "one.example", "suspect", 0.0)
    assert outage.held <= HELD_MAX
