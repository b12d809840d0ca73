"""c-ares' channels: each is a thread and some descriptors."""

from __future__ import annotations

import asyncio
import os

from support.sinful import Site
from support.sinful_net import name_server, odd_ports

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
