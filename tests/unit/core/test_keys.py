"""Keys of hosts: a fingerprint, and in its first byte the slot, which all hosts of a group share."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.config.hosts import HostRules
from crawler.config.sections import HostConfig, PolitenessConfig
from crawler.core.domains import domain_of
from crawler.core.keys import HOST_BYTES, SLOTS, Keys, Share, divided
from crawler.core.urls import fingerprint

SECRET = 7
names = st.from_regex(r"[a-z]{1,8}(\.[a-z]{1,8}){0,3}(:[0-9]{1,5})?", fullmatch=True)


@given(names)
def test_by_itself_a_host_has_its_fingerprint(name):
    for group_of in (None, lambda host: None, lambda host: host):
        assert Keys(SECRET, group_of).host(name) == fingerprint(name, SECRET)


@given(names, names)
def test_hosts_of_a_domain_share_a_slot_and_nothing_else(domain, name):
    keys_by = Keys(SECRET, domain_of)
    host = f"{name.partition(':')[0]}.{domain}"
    key = keys_by.host(host)
    assert len(key) == HOST_BYTES
    assert key[:1] == fingerprint(domain_of(host), SECRET)[:1] == keys_by.host(domain_of(host))[:1]
    assert key[1:] == fingerprint(host, SECRET)[1:]
    assert keys_by.of(host, f"http://{host}/") == key + fingerprint(f"http://{host}/", SECRET)


@pytest.mark.parametrize("parts", [1, 2, 3, 7, 16, SLOTS])
def test_every_part_owns_one_range_as_large_as_the_others(parts):
    owners = divided(parts)
    assert len(owners) == SLOTS
    assert list(owners) == sorted(owners) and set(owners) == set(range(parts))
    sizes = [owners.count(part) for part in range(parts)]
    assert max(sizes) - min(sizes) <= 1
    assert all(Share(0, owners, SECRET).owner(bytes((slot,)) + b"rest") == owners[slot] for slot in range(SLOTS))


def test_hosts_that_nobody_can_visit_are_not_remembered():
    """A URL may name a host of 2,000 characters, and a page 1,500 of them."""
    keys_by, rules = Keys(7, domain_of), HostRules(PolitenessConfig(host=(HostConfig(match="a.test", delay=1.0),)))
    long = "x" * 2000
    for each in (keys_by.host, domain_of, rules.delay):
        each("a.test")
    tracemalloc.start()
    try:
        for n in range(500):
            host = f"{n}.{long}.test"
            keys_by.host(host), domain_of(host), rules.delay(host)
        assert tracemalloc.get_traced_memory()[0] < 100_000
    finally:
        tracemalloc.stop()
    assert keys_by.host(host) == keys_by.host(host) and domain_of(host) == f"{long}.test"
