"""The guard refuses every address of this machine and its networks, in whatever form it is written."""

import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.core.errors import ConfigError
from crawler.fetch.guard import AddressRefused, Guard, embedded

PUBLIC = ["1.1.1.1", "8.8.8.8", "93.184.216.34", "2606:4700::1111", "2a00:1450:4001::1", "100.128.0.1", "172.32.0.1"]
REFUSED = {
    "127.0.0.1": "loopback",
    "127.255.255.254": "loopback",
    "0.0.0.0": "unspecified",
    "0.1.2.3": "unspecified",
    "10.1.2.3": "private",
    "172.16.0.1": "private",
    "172.31.255.255": "private",
    "192.168.1.1": "private",
    "100.64.0.1": "cgnat",
    "100.127.255.255": "cgnat",
    "169.254.169.254": "link-local",
    "192.0.0.170": "reserved",
    "192.0.2.1": "documentation",
    "198.18.0.1": "benchmarking",
    "198.51.100.7": "documentation",
    "203.0.113.7": "documentation",
    "192.88.99.1": "reserved",
    "224.0.0.1": "multicast",
    "239.255.255.250": "multicast",
    "240.0.0.1": "reserved",
    "255.255.255.255": "reserved",
    "::": "unspecified",
    "::1": "loopback",
    "fe80::1": "link-local",
    "fe80::1%eth0": "scoped",
    "2606:4700::1111%1": "scoped",
    "fec0::1": "private",
    "fc00::1": "private",
    "fd12:3456::1": "private",
    "ff02::1": "multicast",
    "2001:db8::1": "documentation",
    "3fff::1": "documentation",
    "2001:2::1": "reserved",
    "2001:10::1": "reserved",
    "100::1": "reserved",
    "4000::1": "reserved",
    "::2": "reserved",
    "::ffff:127.0.0.1": "loopback",
    "::ffff:10.0.0.1": "private",
    "::ffff:169.254.169.254": "link-local",
    "::127.0.0.1": "loopback",
    "64:ff9b::7f00:1": "loopback",
    "64:ff9b::a9fe:a9fe": "link-local",
    "64:ff9b:1::808:808": "private",
    "2002:7f00:1::": "loopback",
    "2002:a00:1::1": "private",
    "2002:c0a8:101::1": "private",
    "2001:0:7f00:1::": "loopback",
    "2001:0:808:808:0:0:80ff:fffe": "loopback",  # Teredo client 127.0.0.1, each bit flipped
    "2001:0:808:808:0:0:f5ff:fffe": "private",
    "2606:4700::5efe:7f00:1": "loopback",
    "fe80::5efe:808:808": "link-local",
    "localhost": "not an address",
    "127.1": "not an address",
    "0x7f000001": "not an address",
    "2130706433": "not an address",
    "": "not an address",
}


@pytest.mark.parametrize("ip", PUBLIC)
def test_public_addresses_pass(ip: str) -> None:
    assert Guard().refuses(ip) is None


@pytest.mark.parametrize(("ip", "rule"), REFUSED.items())
def test_everything_else_is_refused_by_its_rule(ip: str, rule: str) -> None:
    assert Guard().refuses(ip) == rule


@pytest.mark.parametrize("ip", ["::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1", "2001:0:808:808:0:0:f7f7:f7f7"])
def test_a_dressed_public_address_passes(ip: str) -> None:
    assert Guard().refuses(ip) is None


def dresses(v4: ipaddress.IPv4Address) -> list[str]:
    n = int(v4)
    forms = [
        0xFFFF << 32 | n,
        0x64FF9B << 96 | n,
        0x2002 << 112 | n << 80,
        0x20010000 << 96 | 0x08080808 << 64 | n ^ 0xFFFFFFFF,
        0x20010000 << 96 | n << 64 | 0x08080808 ^ 0xFFFFFFFF,
        0x26064700 << 96 | 0x5EFE << 32 | n,
    ]
    return [str(ipaddress.IPv6Address(form)) for form in forms]


@given(st.ip_addresses(v=4))
def test_no_dress_makes_a_refused_address_pass(v4: ipaddress.IPv4Address) -> None:
    rule = Guard().refuses(str(v4))
    for dress in dresses(v4):
        assert Guard().refuses(dress) == rule, dress
        assert v4 in embedded(ipaddress.IPv6Address(dress))


@given(st.ip_addresses())
def test_nothing_that_python_calls_private_passes(address) -> None:
    inner = embedded(address) if address.version == 6 else ()
    if not inner and (address.is_private or address.is_loopback or address.is_link_local or address.is_multicast):
        assert Guard().refuses(str(address)) is not None


@given(st.ip_addresses())
def test_the_operator_may_allow_and_deny_any_address(address) -> None:
    one = str(address)
    assert Guard(allow=[one]).refuses(one) is None
    assert Guard(deny=[one]).refuses(one) == "deny_net"
    assert Guard(allow=[one], deny=[one]).refuses(one) == "deny_net"


def test_ranges_reach_into_dressed_addresses() -> None:
    local = Guard(allow=["127.0.0.0/8"])
    assert local.refuses("127.1.2.3") is None
    assert local.refuses("::ffff:127.1.2.3") is None
    assert local.refuses("10.0.0.1") == "private"
    assert local.refuses("2001:0:7f00:1:0:0:f5ff:fffe") == "private"  # server allowed, client not
    denied = Guard(deny=["8.8.8.0/24"])
    assert denied.refuses("64:ff9b::808:808") == "deny_net"
    assert denied.refuses("8.8.4.4") is None


def test_bad_ranges_are_reported_together() -> None:
    with pytest.raises(ConfigError) as caught:
        Guard(allow=["10.0.0.1/8", "10.0.0.0/8"], deny=["nonsense"]).refuses("1.1.1.1")
    assert len(caught.value.faults) == 1
    assert "10.0.0.1/8" in caught.value.faults[0]


def test_the_socket_factory_makes_sockets_only_for_permitted_addresses() -> None:
    info = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", 80))
    with pytest.raises(AddressRefused) as caught:
        Guard().socket(info)
    assert caught.value.rule == "loopback"
    with Guard(allow=["127.0.0.1/32"]).socket(info) as made:
        assert made.family == socket.AF_INET
    with pytest.raises(AddressRefused) as caught:
        Guard().socket((socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("2606:4700::1", 80, 0, 3)))
    assert caught.value.rule == "scoped"
