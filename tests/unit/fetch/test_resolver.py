"""Names: asked once, remembered for a while, in bounds; failures told apart and soon forgotten."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from unittest.mock import Mock

import aiodns
import pycares
import pytest
import support
from msgspec.structs import replace
from support.hostile import fetching
from support.sinful import Site
from support.sinful_net import NameServer, name_server, odd_ports

import crawler
from crawler.core.errors import FetchError, StorageError
from crawler.fetch import channels, ipv6
from crawler.fetch import resolver as module
from crawler.fetch.guard import Guard
from crawler.fetch.resolver import Resolver
from crawler.resources.disk import SCARCE
from crawler.resources.outage_detector import network_sign


@asynccontextmanager
async def resolving(**options) -> AsyncIterator[tuple[Resolver, Site]]:
    async with Site(extras=[name_server, odd_ports]) as site:
        allow = options.pop("allow", ["127.0.0.0/8"])
        server = options.pop("server", "dns")
        resolver = Resolver(Guard(allow).refuses, nameservers=[f"127.0.0.1:{site.ports[server]}"], **options)
        try:
            yield resolver, site
        finally:
            await resolver.close()


async def addresses(resolver: Resolver, name: str) -> list[str]:
    return [found["host"] for found in await resolver.resolve(name, 80)]


async def reason(resolver: Resolver, name: str) -> str:
    with pytest.raises(FetchError) as caught:
        await resolver.resolve(name, 80)
    return caught.value.reason


def expire(resolver: Resolver, name: str, after: float = 0.0) -> None:
    """As if its time had come, and so many seconds more had passed."""
    known = resolver._cache[name]
    past = known.fresh_until - asyncio.get_running_loop().time() + after
    resolver._cache[name] = replace(known, fresh_until=known.fresh_until - past, stale_until=known.stale_until - past)


@pytest.fixture
def renewals(monkeypatch) -> list[int]:
    """An entry for each channel that another took the place of."""
    found: list[int] = []
    renew = channels.Channels._renew

    def noted(self, latest):
        found.append(latest.kept_bytes)
        return renew(self, latest)

    monkeypatch.setattr(channels.Channels, "_renew", noted)
    return found


def times_asked(site: Site, name: str) -> int:
    """How often the name server was asked for IPv4 or IPv6 addresses of the name."""
    return site.name_server.asked.count(name)


async def test_a_name_is_asked_once_and_remembered() -> None:
    async with resolving() as (resolver, site):
        found = await asyncio.gather(*(addresses(resolver, "good.sin.test") for _ in range(50)))
        assert found == [["127.0.0.1"]] * 50
        first = times_asked(site, "good.sin.test")
        assert first in (1, 2)  # with or without IPv6
        await addresses(resolver, "good.sin.test")
        assert times_asked(site, "good.sin.test") == first


FAILURES = {
    "nxdomain": "nxdomain",
    "empty": "no_address",
    "servfail": "servfail",
    "refused": "servfail",
    "formerr": "servfail",
    "notimp": "servfail",
    "garbage": "servfail",
    "lying-count": "servfail",
    "cname-loop": "no_address",
    "pointer-loop": "servfail",
    "silent": "dns_timeout",
    "wrong-id": "dns_timeout",
}
"""How the name server fails, and the reason then."""


def patience_s(kind: str) -> float:
    """Short only where it passes."""
    return 0.6 if FAILURES[kind] == "dns_timeout" else 5.0


@pytest.mark.parametrize("soa", [False, True])
@pytest.mark.parametrize("kind", FAILURES)
async def test_whoever_asks_again_is_answered_by_the_name_server(monkeypatch, kind: str, soa: bool) -> None:
    """No failure is remembered, whatever its zone says of how long it holds (RFC 2308); a wrong answer passes."""
    monkeypatch.setattr(channels, "RENEW_EVERY_S", 0.0)
    async with resolving(timeout_s=patience_s(kind)) as (resolver, site):
        name = f"good.x{kind}.sin.test"
        site.name_server.says(name, kind, soa=soa)
        for _ in range(2):
            before = times_asked(site, name)
            assert await reason(resolver, name) == FAILURES[kind]
            assert times_asked(site, name) > before
        site.name_server.says(name, "good")
        assert await addresses(resolver, name) == ["127.0.0.1"]


@pytest.mark.parametrize("kind", FAILURES)
async def test_a_name_that_had_addresses_keeps_them_for_a_while(monkeypatch, kind: str) -> None:
    """RFC 8767: what the name server said before is better than that it fails now."""
    monkeypatch.setattr(channels, "RENEW_EVERY_S", 0.0)
    async with resolving(timeout_s=patience_s(kind)) as (resolver, site):
        name = f"good.x{kind}.sin.test"
        await addresses(resolver, name)
        site.name_server.says(name, kind)
        expire(resolver, name)
        before = times_asked(site, name)
        assert await addresses(resolver, name) == ["127.0.0.1"]
        assert times_asked(site, name) > before
        before = times_asked(site, name)
        assert await addresses(resolver, name) == ["127.0.0.1"]
        assert times_asked(site, name) == before, "it is not asked for every visit"
        expire(resolver, name, after=module.STALE_S_MAX)
        assert await reason(resolver, name) == FAILURES[kind]
        assert resolver.names_known == 0
        site.name_server.says(name, "good")
        assert await addresses(resolver, name) == ["127.0.0.1"]


async def test_addresses_that_come_late_are_remembered() -> None:
    async with resolving(timeout_s=0.4) as (resolver, site):
        site.name_server.says("good.sin.test", "silent")
        assert await reason(resolver, "good.sin.test") == "dns_timeout"
        site.name_server.says("good.sin.test", "good")
        while not resolver.names_known:
            await asyncio.sleep(0.02)
        asked = times_asked(site, "good.sin.test")
        assert await addresses(resolver, "good.sin.test") == ["127.0.0.1"]
        assert times_asked(site, "good.sin.test") == asked


async def test_a_lookup_in_vain_takes_no_time_from_what_was_learned_meanwhile() -> None:
    """Such as by what came late of the one before: it was remembered for five seconds."""
    async with resolving(timeout_s=0.4) as (resolver, site):
        asking = asyncio.create_task(addresses(resolver, "silent.sin.test"))
        while not site.name_server.asked:
            await asyncio.sleep(0.01)
        fresh_until = asyncio.get_running_loop().time() + 60.0
        resolver._cache["silent.sin.test"] = module._Known(("127.0.0.9",), fresh_until, fresh_until + 300.0)
        assert await asking == ["127.0.0.9"]
        assert resolver._cache["silent.sin.test"].fresh_until == fresh_until


async def test_one_query_is_one_failure() -> None:
    async with resolving() as (resolver, site):
        site.name_server.says("good.sin.test", "servfail")
        ended = await asyncio.gather(*(resolver.resolve("good.sin.test") for _ in range(20)), return_exceptions=True)
        assert [error.shared for error in ended] == [False] + [True] * 19


ADDRESSES = {
    "first": {"20010db8000000000000000000000001": "00", "fe80000000000000000000000000000a": "20", "0" * 31 + "1": "10"},
    "second": {"fe80000000000000000000000000000a": "20", "0" * 31 + "1": "10"},
    "loopback": {"0" * 31 + "1": "10"},
    "none": {},
}


@pytest.mark.parametrize("case", ADDRESSES)
@pytest.mark.parametrize(
    ("kind", "leads", "found"),
    [
        ("six", {"::1"}, ["::1"]),
        ("six", set(), []),
        ("both", {"::1"}, ["127.0.0.1", "::1"]),
        ("both", set(), ["127.0.0.1"]),
        ("good", set(), ["127.0.0.1"]),
    ],
)
async def test_addresses_of_ipv6_are_asked_for_where_they_may_be_reached(monkeypatch, case, kind, leads, found) -> None:
    monkeypatch.setattr(ipv6, "_own_scopes", lambda: frozenset(ADDRESSES[case].values()))
    monkeypatch.setattr(ipv6, "_leads_to", lambda ip: ip in leads)
    async with resolving(allow=["127.0.0.0/8", "::1/128"]) as (resolver, site):
        if case == "none" and kind == "six":
            found = []
        if case != "first" and kind == "both":
            found = ["127.0.0.1"]  # the one is enough, and asking for the other would double the queries
        if found:
            assert sorted(await addresses(resolver, f"{kind}.sin.test")) == found
        else:
            assert await reason(resolver, f"{kind}.sin.test") == "no_address"
        asked = times_asked(site, f"{kind}.sin.test")
        once = 2 if case == "first" or (kind == "six" and case != "none") else 1
        assert asked == (once if found else 2 * once), "an address may have been cut off"


async def test_where_ipv6_is_lost_the_network_is_to_blame(monkeypatch) -> None:
    routes = {"::1"}
    monkeypatch.setattr(ipv6, "_leads_to", lambda ip: ip in routes)
    async with resolving(allow=["::1/128"]) as (resolver, _):
        assert await addresses(resolver, "six.sin.test") == ["::1"]
        routes.clear()
        assert await addresses(resolver, "six.other.sin.test") == ["::1"], "connecting to it tells of our network"


LOSING_IPV6 = """
import asyncio, subprocess, sys
from pathlib import Path
from crawler.core.errors import FetchError
from support.hostile import fetching, lease_of
from support.sinful import Site
from support.sinful_net import NameServer, name_server, odd_ports

async def main():
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    nets = ("127.0.0.0/8", "::1/128")
    async with Site(extras=[name_server, odd_ports]) as site, fetching(
        Path(sys.argv[1]), site, dns=("127.0.0.1:{dns}",), allow_net=nets
    ) as fetcher:
        for _ in range(2):
            try:
                await fetcher.fetch(lease_of(f"http://six.sin.test:{site.ports['closed']}/"))
            except FetchError as error:
                print(error.reason, error.detail)
            for host in (f"both.sin.test:{site.ports['http']}", f"six.sin.test:{site.ports['closed']}"):
                print(await fetcher.reaches(host))
            subprocess.run(["ip", "-6", "addr", "del", "::1/128", "dev", "lo"], stderr=subprocess.DEVNULL)

asyncio.run(main())
"""


def test_a_host_of_ipv6_is_unreachable_once_this_machine_has_none(tmp_path) -> None:
    """The kernel says of it what it says where ports run out, which is no visit's fate: the host was visited for ever. A host
    with another address is reached all the same; one that refuses has answered."""
    alone = ["unshare", "--net", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    tools = shutil.which("unshare") and shutil.which("ip")
    if not tools or subprocess.run([*alone, "ip", "link", "set", "lo", "up"], capture_output=True, check=False).returncode:
        pytest.skip("no network namespaces here")
    paths = os.pathsep.join(str(Path(one.__file__).parents[1]) for one in (crawler, support))
    command = [*alone, sys.executable, "-c", LOSING_IPV6, str(tmp_path)]
    said = subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, check=True)
    assert said.stdout.splitlines() == ["refused ECONNREFUSED", "True", "True", "unreachable EADDRNOTAVAIL", "True", "False"]
    assert network_sign("unreachable", "EADDRNOTAVAIL") == "local"


async def test_names_are_asked_as_they_are(tmp_path) -> None:
    """No search domain is appended (RFC 3986 3.2.2): one bare name means the same on every machine."""
    async with resolving() as (resolver, site):
        for name in ("good", "nxdomain", "nxdomain.a"):
            with contextlib.suppress(FetchError):
                await resolver.resolve(name)
        assert set(site.name_server.asked) <= {"good", "nxdomain", "nxdomain.a"}


@pytest.mark.parametrize(("kind", "is_reached"), [("good", True), ("nxdomain", True), ("servfail", False), ("silent", False)])
async def test_a_host_is_not_reached_by_what_is_remembered_of_its_name(tmp_path, kind: str, is_reached: bool) -> None:
    """Of 1,500 hosts 308 failed for good while the only name server did: another was reached, so the network was said to work."""
    async with (
        Site(extras=[name_server, odd_ports]) as site,
        fetching(tmp_path, site, dns=("127.0.0.1:{dns}",), dns_timeout=0.5) as fetcher,
    ):
        assert await fetcher.reaches(f"good.sin.test:{site.ports['http']}")
        site.name_server.says("good.sin.test", kind)
        assert await fetcher.reaches(f"good.sin.test:{site.ports['http']}") is is_reached


async def test_name_servers_speak_if_they_tell_what_none_remembers(tmp_path) -> None:
    async with (
        Site(extras=[name_server, odd_ports]) as site,
        fetching(tmp_path, site, dns=("127.0.0.1:{dns}",), dns_timeout=0.5) as fetcher,
    ):
        site.name_server.ttl_s = 1
        site.name_server.says("good.sin.test", "servfail")
        resolver = fetcher._connector.resolver
        assert await fetcher.speak() and not site.name_server.asked, "none ever did"
        await resolver.resolve("good.n1.sin.test")
        await resolver.resolve("localhost")
        for name, told in (("good.sin.test", 1), ("nxdomain.sin.test", 2)):
            with pytest.raises(FetchError):
                await resolver.resolve(name)
            assert fetcher.names_told == told
        asked = len(site.name_server.asked)
        assert await fetcher.speak() and fetcher.names_told == 3
        assert {name.partition(".")[2] for name in site.name_server.asked[asked:]} == {"test"}, "its own zone may fail"
        site.name_server.remembers = set(site.name_server.asked)
        assert not await fetcher.speak() and fetcher.names_told == 3, "what it has told before it may remember"


ODD_NAMES = [
    "a..test",
    ".",
    "a" * 64,
    "x\0y",
    "a b",
    "\udc80",
    "xn--\xe9",
    "é" * 300,
    "a$b.test",
    "",
    "a" * 300,
    "*.test",
    "-.test",
]


@pytest.mark.parametrize("name", ODD_NAMES)
async def test_no_name_raises_anything_but_a_fetch_error(name: str) -> None:
    async with resolving(timeout_s=0.5) as (resolver, _):
        with contextlib.suppress(FetchError):
            await resolver.resolve(name)
        assert resolver._asked == {}


async def test_an_unreachable_name_server_is_no_missing_name() -> None:
    async with resolving(server="closed") as (resolver, _):
        assert await reason(resolver, "good.sin.test") == "resolver_unreachable"
        assert await reason(resolver, "good.sin.test") == "resolver_unreachable"


async def test_what_is_remembered_is_bounded_and_expires() -> None:
    async with resolving(names_max=3) as (resolver, site):
        for n in range(6):
            await addresses(resolver, f"good.n{n}.sin.test")
        assert list(resolver._cache) == [f"good.n{n}.sin.test" for n in (3, 4, 5)]
        known = resolver._cache["good.n5.sin.test"]
        assert module.TTL_S_MIN - 5 < known.fresh_until - asyncio.get_running_loop().time() <= module.TTL_S_MIN  # its TTL is 0
        before = times_asked(site, "good.n5.sin.test")
        expire(resolver, "good.n5.sin.test")
        await addresses(resolver, "good.n5.sin.test")
        assert times_asked(site, "good.n5.sin.test") > before


async def test_the_librarys_own_cache_is_emptied_now_and_then(monkeypatch, renewals) -> None:
    monkeypatch.setattr(channels, "CHANNEL_BYTES_MAX", 4 * channels.LOOKUP_BYTES)
    async with resolving() as (resolver, _):
        names = [f"good.n{n}.sin.test" for n in range(40)]
        assert await asyncio.gather(*(addresses(resolver, name) for name in names)) == [["127.0.0.1"]] * 40
        assert len(renewals) >= 7


async def test_names_of_thousands_of_addresses_are_kept_nowhere_as_such() -> None:
    """Of ours a few are remembered; what c-ares keeps goes with the channel that each has for itself, and is in no account."""
    async with resolving(addresses_max=3) as (resolver, _):
        for n in range(10):
            assert await addresses(resolver, f"tcp-thousands.n{n}.sin.test") == ["127.0.0.1"]
        assert resolver._channels.latest.kept_bytes < 10 * 3000 * channels.NODE_BYTES / 20
        assert len(await addresses(resolver, "many.sin.test")) == 3
        assert list(resolver._channels._all) == [resolver._channels.latest]
        assert await addresses(resolver, "mixed.sin.test") == ["127.0.0.1"]
        assert max(len(known.addresses) for known in resolver._cache.values()) <= 2 * 3


@pytest.mark.parametrize(("kind", "by_tcp"), [("cut", 0), ("tcp-good", 1), ("tcp-aliased", 1)])
async def test_tcp_is_tried_where_a_truncated_response_has_no_address(monkeypatch, kind: str, by_tcp: int) -> None:
    """A few addresses do: of the thousands that TCP may bring c-ares makes some MB for each name."""
    monkeypatch.setattr(ipv6.Ipv6, "may_lead_anywhere", lambda _: False)
    async with resolving() as (resolver, site):
        assert await addresses(resolver, f"{kind}.sin.test") == ["127.0.0.1"]
        assert site.name_server.by_tcp == [kind] * by_tcp
        assert not resolver._channels.latest.denied


async def test_tcp_is_tried_for_a_few_names_at_once(monkeypatch) -> None:
    """The others hear what UDP said, and whoever needs no TCP waits for none of them."""
    monkeypatch.setattr(ipv6.Ipv6, "may_lead_anywhere", lambda _: False)
    async with resolving(timeout_s=2.0) as (resolver, site):
        slow = [asyncio.create_task(reason(resolver, f"tcp-silent.n{n}.sin.test")) for n in range(20)]
        while len(site.name_server.by_tcp) < module.BY_TCP_MAX and not any(task.done() for task in slow):
            await asyncio.sleep(0.01)
        none = asyncio.create_task(reason(resolver, "empty.sin.test"))
        assert await addresses(resolver, "good.sin.test") == ["127.0.0.1"]
        said = await asyncio.gather(*slow)
        assert sorted(set(said)) == ["dns_timeout", "no_address"]
        assert said.count("dns_timeout") == module.BY_TCP_MAX
        assert await none == "no_address"
        assert await addresses(resolver, "tcp-good.sin.test") == ["127.0.0.1"], "there is room again"
    assert not resolver._asked


async def test_what_is_no_response_spoils_no_lookup_but_its_own(monkeypatch) -> None:
    """It comes by the socket of all, and c-ares gives up every query of it: those that wait longer are asked again, alone."""
    answers = NameServer._answer

    def at_last(server: NameServer, query: bytes) -> Iterator[bytes]:
        given = list(answers(server, query))
        return iter(given if given == [b"garbage"] or server.asked.count("garbage.test") >= channels._TRIES else ())

    monkeypatch.setattr(NameServer, "_answer", at_last)
    async with resolving() as (resolver, _):
        spoilt, *found = await asyncio.gather(
            reason(resolver, "garbage.test"), *(addresses(resolver, f"good.sin{n}.test") for n in range(5))
        )
        assert (spoilt, found) == ("servfail", [["127.0.0.1"]] * 5)


async def test_the_names_that_a_name_leads_to_count_as_kept(monkeypatch, renewals) -> None:
    """c-ares writes them out in each record: of a chain of eight it keeps 13 KB, not 2."""
    monkeypatch.setattr(channels, "CHANNEL_BYTES_MAX", 64 << 10)
    async with resolving() as (resolver, _):
        for n in range(25):
            assert await addresses(resolver, f"aliased.n{n}.sin.test") == ["127.0.0.1"]
        assert len(renewals) in (1, 2), "25 of 4 KB, or of 6 with IPv6"


async def test_a_name_counts_for_what_it_may_have_led_through_to_nothing(monkeypatch, renewals) -> None:
    """c-ares keeps the chain, and does not tell of it: of eight long names 11 KB were kept, and 2 counted."""
    monkeypatch.setattr(channels, "CHANNEL_BYTES_MAX", 64 << 10)
    async with resolving() as (resolver, _):
        for n in range(25):
            assert await reason(resolver, f"nxdomain.n{n}.sin.test") == "nxdomain"
        assert len(renewals) >= 3, "25 of 11 KB"


async def test_channels_that_wait_for_silent_servers_are_few(monkeypatch) -> None:
    """Each is a thread and six descriptors: a zone had as many of them as its names come in five seconds."""
    monkeypatch.setattr(channels, "CHANNEL_BYTES_MAX", 1 << 10)
    monkeypatch.setattr(channels, "RENEW_EVERY_S", 1000.0)
    async with resolving() as (resolver, _), asyncio.TaskGroup() as tasks:
        waiting = []
        for n in range(30):
            waiting.append(tasks.create_task(resolver.resolve(f"silent.n{n}.sin.test", 80)))
            assert await reason(resolver, f"nxdomain.n{n}.sin.test") == "nxdomain"
        assert len(resolver._channels._all) == channels.CHANNELS_MAX
        for task in waiting:
            task.cancel()


async def test_where_memory_is_short_the_librarys_cache_goes_as_well(monkeypatch) -> None:
    async with resolving() as (resolver, site):
        name = "aliased.sin.test"
        assert await addresses(resolver, name) == ["127.0.0.1"]
        asked = times_asked(site, name)
        resolver.forget()
        assert await addresses(resolver, name) == ["127.0.0.1"]
        assert times_asked(site, name) == asked, "a channel of this second stays"
        monkeypatch.setattr(channels, "RENEW_EVERY_S", 0.0)
        resolver.forget()
        assert await addresses(resolver, name) == ["127.0.0.1"]
        assert times_asked(site, name) == 2 * asked
        assert list(resolver._channels._all) == [resolver._channels.latest]


async def test_a_name_that_changes_its_mind_is_refused_where_it_leads_then() -> None:
    async with resolving() as (resolver, _):
        assert await addresses(resolver, "rebind.sin.test") == ["127.0.0.1"]
        found = set()
        for _ in range(3):
            resolver.forget()
            resolver._channels.latest._dns._channel.reinit()
            try:
                found |= set(await addresses(resolver, "rebind.sin.test"))
            except FetchError as error:
                found.add(error.reason)
        assert "address" in found
        assert "10.0.0.1" not in found


async def test_addresses_are_few_and_only_permitted_ones() -> None:
    async with resolving(addresses_max=3) as (resolver, _):
        assert len(await addresses(resolver, "many.sin.test")) == 3
        assert await addresses(resolver, "mixed.sin.test") == ["127.0.0.1"]
        assert await reason(resolver, "all-refused.sin.test") == "address"


async def test_whoever_gives_up_does_not_spoil_it_for_the_others() -> None:
    async with resolving(timeout_s=0.5) as (resolver, site):
        impatient = asyncio.create_task(addresses(resolver, "good.sin.test"))
        patient = asyncio.create_task(addresses(resolver, "good.sin.test"))
        await asyncio.sleep(0)
        impatient.cancel()
        assert await patient == ["127.0.0.1"]
        with pytest.raises(asyncio.CancelledError):
            await impatient
        alone = asyncio.create_task(addresses(resolver, "silent.sin.test"))
        await asyncio.sleep(0.05)
        alone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await alone
    assert site.name_server.asked.count("silent.sin.test") >= 1


async def test_channels_do_not_pile_up(monkeypatch, renewals) -> None:
    """However many names must be asked for anew, the next channel comes when the last is old enough, and only that one stays."""
    async with resolving() as (resolver, site):
        for n in range(20):
            assert await reason(resolver, f"nxdomain.n{n}.sin.test") == "nxdomain"
        assert not renewals, "what is not asked for again needs no other channel"
        monkeypatch.setattr(channels, "RENEW_EVERY_S", 60.0)
        resolver._channels.latest.opened_at -= 60.0 - 0.2  # it is old enough in a moment, and the next one is not
        found = await asyncio.gather(*(resolver.resolve(f"nxdomain.n{n}.sin.test") for n in range(20)), return_exceptions=True)
        assert [error.reason for error in found] == ["nxdomain"] * 20
        assert len(renewals) == 1
        assert list(resolver._channels._all) == [resolver._channels.latest]
        assert all(times_asked(site, f"nxdomain.n{n}.sin.test") > 1 for n in range(20))


@pytest.mark.parametrize("spent", [[0, 0], [24], [0, 24]])
async def test_an_unreachable_server_is_asked_once_more_for_it_may_be_us(monkeypatch, spent) -> None:
    """c-ares calls it so, too, when it had no descriptor: by the time that is looked at, one may have come free again."""
    left = list(spent)
    monkeypatch.setattr(channels, "descriptors_spent", lambda: left.pop(0))
    async with resolving(server="closed") as (resolver, _):
        with pytest.raises(StorageError if spent[-1] else FetchError) as caught:
            await resolver.resolve("good.sin.test")
        assert left == []
        assert (caught.value.errno if spent[-1] else caught.value.reason) == (24 if spent[-1] else "resolver_unreachable")
        assert resolver._asked == {}


@pytest.mark.parametrize(
    ("code", "advice"),
    [(pycares.errno.ARES_ENOMEM, "allow more memory"), (pycares.errno.ARES_EFILE, "allow more descriptors")],
)
async def test_what_c_ares_does_not_get_for_a_lookup_is_a_lack_that_may_pass(monkeypatch, code, advice):
    """One without a number ends a crawl at once; with it there are fewer fetches at a time."""

    def refuse(*arguments: object, **options: object) -> asyncio.Future[None]:
        asked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        asked.set_exception(aiodns.error.DNSError(code, "a lack"))
        return asked

    monkeypatch.setattr(aiodns.DNSResolver, "getaddrinfo", refuse)
    async with resolving() as (resolver, _):
        with pytest.raises(StorageError, match=advice) as caught:
            await resolver.resolve("good.sin.test")
        assert caught.value.errno in SCARCE
        assert resolver._asked == {}


@pytest.mark.parametrize(
    "lack",
    [
        MemoryError(),
        ImportError("_cares.so: failed to map segment from shared object"),
        ImportError("_cares.so: cannot open shared object file: Too many open files"),
    ],
)
async def test_what_the_first_lookup_of_all_does_not_get_is_a_lack_that_may_pass(monkeypatch, lack):
    """It loads c-ares; and what was lacking may be there again when that is looked for."""

    def refuse(*arguments: object, **options: object) -> None:
        raise lack

    monkeypatch.setattr(aiodns, "DNSResolver", refuse)
    async with resolving() as (resolver, _):
        with pytest.raises(StorageError, match="name lookup cannot begin") as caught:
            await resolver.resolve("a.test")
        assert caught.value.errno in SCARCE


async def test_where_there_is_no_thread_for_the_lookups_it_says_what_to_do(monkeypatch):
    """c-ares begins one with the first channel of a process, which another test may have made."""

    def refuse(*arguments: object, **options: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(aiodns, "DNSResolver", refuse)
    async with resolving() as (resolver, _):
        with pytest.raises(StorageError, match="ulimit -u"):
            await resolver.resolve("a.test")


def test_that_no_socket_can_be_had_is_no_fault_of_the_name_server(monkeypatch):
    """socket(2) needs memory as well as a descriptor."""
    with monkeypatch.context() as patched:
        patched.setattr(socket, "socket", Mock(side_effect=OSError(errno.ENOBUFS, "No buffer space available")))
        assert channels.descriptors_spent() == errno.ENOBUFS
    assert channels.descriptors_spent() == 0
