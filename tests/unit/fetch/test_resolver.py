"""Names: asked once, remembered for a while, in bounds; failures told apart and soon forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from support.sinful import Site
from support.sinful_net import name_server, odd_ports

from crawler.core.errors import FetchError
from crawler.fetch import resolver as module
from crawler.fetch.guard import Guard
from crawler.fetch.resolver import Resolver


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


async def test_failures_are_remembered_by_kind() -> None:
    async with resolving(timeout_s=0.4) as (resolver, site):
        for name, wanted, remembered in (
            ("nxdomain.sin.test", "nxdomain", True),
            ("empty.sin.test", "no_address", True),
            ("servfail.sin.test", "servfail", True),
            ("silent.sin.test", "dns_timeout", False),
        ):
            assert await reason(resolver, name) == wanted
            before = times_asked(site, name)
            assert await reason(resolver, name) == wanted
            assert (times_asked(site, name) == before) == remembered, name


async def test_an_unreachable_name_server_is_no_missing_name() -> None:
    async with resolving(server="closed") as (resolver, _):
        assert await reason(resolver, "good.sin.test") == "resolver_unreachable"
        assert await reason(resolver, "good.sin.test") == "resolver_unreachable"


async def test_what_is_remembered_is_bounded_and_expires() -> None:
    async with resolving(names_max=3) as (resolver, site):
        for n in range(6):
            await addresses(resolver, f"good.n{n}.sin.test")
        assert list(resolver._cache) == [f"good.n{n}.sin.test" for n in (3, 4, 5)]
        expires, entry = resolver._cache["good.n5.sin.test"]
        assert module.TTL_S_MIN - 5 < expires - asyncio.get_running_loop().time() <= module.TTL_S_MIN  # its TTL is 0
        before = times_asked(site, "good.n5.sin.test")
        resolver._cache["good.n5.sin.test"] = (expires - 100, entry)
        await addresses(resolver, "good.n5.sin.test")
        assert times_asked(site, "good.n5.sin.test") > before


async def test_the_librarys_own_cache_is_emptied_now_and_then(monkeypatch) -> None:
    monkeypatch.setattr(module, "LOOKUPS_PER_CHANNEL_MAX", 4)
    async with resolving() as (resolver, _):
        names = [f"good.n{n}.sin.test" for n in range(40)]
        assert await asyncio.gather(*(addresses(resolver, name) for name in names)) == [["127.0.0.1"]] * 40
        assert resolver._lookups == 40


async def test_a_name_that_changes_its_mind_is_refused_where_it_leads_then() -> None:
    async with resolving() as (resolver, _):
        assert await addresses(resolver, "rebind.sin.test") == ["127.0.0.1"]
        found = set()
        for _ in range(3):
            resolver.forget()
            resolver._dns._channel.reinit()
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
