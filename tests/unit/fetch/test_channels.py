"""c-ares' channels: each is a thread and some descriptors."""

from __future__ import annotations

import asyncio
import os

import pytest
from support.sinful import Site
from support.sinful_net import name_server, odd_ports

from crawler.core.errors import FetchError
from crawler.fetch import ipv6
from crawler.fetch.guard import Guard
from crawler.fetch.resolver import Resolver


async def test_channels_for_names_without_an_address_do_not_pile_up(monkeypatch) -> None:
    """One thread closes all of them, which takes longer than to open them: 400 names had 135 threads, and 540 descriptors."""
    monkeypatch.setattr(ipv6.Ipv6, "may_lead_anywhere", lambda _: False)
    async with Site(extras=[name_server, odd_ports]) as site:
        resolver = Resolver(Guard(["127.0.0.0/8"]).refuses, nameservers=[f"127.0.0.1:{site.ports['dns']}"], timeout_s=2.0)
        most = 0
        names = [asyncio.create_task(resolver.resolve(f"empty.n{n}.sin.test")) for n in range(300)]
        while not all(name.done() for name in names):
            await asyncio.sleep(0.01)
            most = max(most, len(os.listdir("/proc/self/task")))
        assert {getattr(name.exception(), "reason", None) for name in names} == {"no_address"}
        await resolver.close()
        assert most - len(os.listdir("/proc/self/task")) < 20


@pytest.mark.parametrize("server", ["fe80::1%none", "[fe80::1%none]:53", "[fe80::1%lo]:53"])
async def test_a_name_server_on_a_link_that_is_not_there_is_unreachable(server: str) -> None:
    """It was called a failure of the name, or, with a port, ended the crawl. c-ares by itself does not look for it again."""
    resolver = Resolver(Guard().refuses, nameservers=[server], timeout_s=0.5)
    try:
        channels = set()
        for name in ("a.test", "b.test"):
            with pytest.raises(FetchError) as caught:
                await resolver.resolve(name)
            assert caught.value.reason == "resolver_unreachable"
            channels.add(resolver._channels.latest)
        assert len(channels) == (1 if "%lo" in server else 2)
    finally:
        await resolver.close()
