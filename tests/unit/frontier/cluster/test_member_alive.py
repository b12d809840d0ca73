"""A member over a real pump, whose commits take long."""

from __future__ import annotations

import asyncio
import threading
import uuid
from contextlib import closing
from pathlib import Path

from support.copies import Copy
from support.frontiers import NoFiles, handed
from support.postgres import emptied
from support.stores import link
from support.waiting import until

from crawler.core.batch import Admitted
from crawler.core.clock import Clock
from crawler.core.errors import StorageError
from crawler.frontier import Limits
from crawler.frontier.cluster.member import Member
from crawler.frontier.cluster.postgres import PostgresTruth, open_crawl
from crawler.frontier.cluster.session import Address
from crawler.frontier.cluster.slots import Phase
from crawler.frontier.pump import Pump
from crawler.frontier.workbench import Workbench

LEASE_S = 6.0


class SlowDisk(NoFiles):
    """Writes wait for ``go_on``."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()

    def write(self, prepared):
        self.begun.set()
        self.go_on.wait(30)
        return super().write(prepared)


async def test_a_member_goes_on_saying_that_it_lives_while_a_slow_disk_keeps_it_from_giving_slots_up(
    tmp_path: Path, monkeypatch
) -> None:
    url, clock, disk, ticks = emptied(), Clock(), SlowDisk(), []
    copy = Copy(url, tmp_path / "store", Limits(), clock.now(), lambda host: 1.0, lease_s=LEASE_S)
    tick = copy.truth.tick
    monkeypatch.setattr(copy.truth, "tick", lambda *arguments: ticks.append(tick(*arguments)) or ticks[-1])
    member = Member(copy.mirror, copy.store, copy.outbox, node="a", parts=(), lease_s=LEASE_S, clock=clock.now)
    bench = Workbench(lambda host: 1)
    pump = Pump(copy.store, bench, handed(), disk, clock=clock.now, wall=clock.wall, links_max=99, member=member)

    async def recover(error: StorageError) -> None:
        raise error

    running = asyncio.create_task(pump.run(recover))
    await member.opened()
    committed = await pump.frontier.admit(Admitted((link("a/1"),)))
    await asyncio.to_thread(disk.begun.wait, 20)
    address, other = Address(url), uuid.uuid4()
    with closing(PostgresTruth(address, LEASE_S, other, other, open_crawl(address, LEASE_S, "{}")[1])) as truth:
        await asyncio.to_thread(lambda: truth.join(seeding=False))
        await until(lambda: member._slots.at(Phase.LEAVING))
        told = len(ticks)
        await until(lambda: len(ticks) > told + 2)
        disk.go_on.set()
        await committed
        await until(lambda: not member._slots.at(Phase.LEAVING))
    pump.end()
    await running
    pump.close()
    copy.store.close()
