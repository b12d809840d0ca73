"""The daemon in this process: what it says of itself."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
from types import SimpleNamespace

import aiohttp
import pytest
from support.daemons import PLAIN
from support.webs import Answer, Web

from crawler.config.load import load
from crawler.core.errors import StorageError
from crawler.core.snapshot import Snapshot
from crawler.crawl import status as status_module
from crawler.crawl.wiring import open_crawl
from crawler.service import health, sd_notify
from crawler.service import serve as serve_module
from crawler.service.reload import Changes
from crawler.service.sd_notify import Notifier
from crawler.service.steered import Direct


@pytest.mark.parametrize(
    ("stopped_by", "error", "said"),
    [
        ("SIGTERM", None, "ended by SIGTERM: "),
        (None, StorageError("the disk is gone"), "ended by an error: "),
        ("SIGTERM", StorageError("the disk is gone"), "ended by SIGTERM: "),
    ],
)
def test_what_an_error_ended_has_not_ended_by_itself(caplog, stopped_by, error, said):
    caplog.set_level(logging.INFO)
    crawl = SimpleNamespace(stats=lambda state: Snapshot(at=0.0, state=state), stopped_by=stopped_by)
    report = serve_module.ended(crawl, error)
    assert caplog.records[-1].getMessage().startswith(said) and report.exit_code == (3 if error else 0)


async def test_it_tells_its_status_once_a_minute(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(serve_module, "STATUS_EVERY_S", 0.05)
    caplog.set_level(logging.INFO)
    config = load(PLAIN | {"output": str(tmp_path)}, environ={}).config
    port = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve_module.serve(config, load=lambda: config, on_ready=port.set_result))
    async with asyncio.timeout(30), aiohttp.ClientSession(f"http://127.0.0.1:{await port}") as session:
        while not (told := [record for record in caplog.records if record.msg == "status"]):
            await asyncio.sleep(0.01)
        (await session.post("/v1/drain")).release()
        assert (await serving).exit_code == 0
    assert told[0].levelname == "INFO"
    assert (told[0].state, told[0].known, told[0].done, told[0].failed, told[0].seconds_left) == ("running", 0, 0, 0, None)


async def test_what_it_tells_has_the_speed_of_late(tmp_path, monkeypatch, caplog):
    """However far apart two status lines are, and whenever a signal asks for one."""
    monkeypatch.setattr(serve_module, "STATUS_EVERY_S", 0.6)
    monkeypatch.setattr(status_module, "RATE_WINDOW_S", 0.3)
    monkeypatch.setattr(status_module, "RATE_S_MIN", 0.1)
    monkeypatch.setattr(health, "SAMPLE_EVERY_S", 0.02)
    caplog.set_level(logging.INFO)
    config = load(PLAIN | {"output": str(tmp_path), "rate": 40}, environ={}).config
    port = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve_module.serve(config, load=lambda: config, on_ready=port.set_result))
    with Web({"127.0.0.1": {f"/{n}": Answer(body=b"x") for n in range(200)}}).running() as web:
        async with asyncio.timeout(30), aiohttp.ClientSession(f"http://127.0.0.1:{await port}") as session:
            (await session.post("/v1/seeds", data="\n".join(web.url("127.0.0.1", f"/{n}") for n in range(200)))).release()

            def with_speed():
                """A machine that has just stood still has had none of late."""
                told = [one for one in caplog.records if one.msg == "status" and 40 <= one.done < one.known]
                return [one for one in told if one.pages_per_second > 0 and one.seconds_left is not None]

            def lines():
                said = [one.getMessage() for one in caplog.records if " in flight" in one.getMessage()]
                return [line for line in said if " · 0/s" not in line]

            while not (told := with_speed()):
                await asyncio.sleep(0.01)
            while not lines():
                os.kill(os.getpid(), signal.SIGUSR1)
                await asyncio.sleep(0.01)
            (await session.post("/v1/drain")).release()
            assert (await serving).exit_code == 0
    assert told[0].bytes_per_second > 0


async def test_systemd_is_told_that_it_is_ready_once_its_socket_takes_more(tmp_path, monkeypatch):
    """One daemon of many that begin while the service manager is busy: its queue of messages is full."""
    monkeypatch.setattr(sd_notify, "STATUS_EVERY_S", 0.02)
    address = str(tmp_path / "notify")
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as others,
    ):
        manager.bind(address)
        manager.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                others.sendto(b"of others", address)
        notifier = Notifier({"NOTIFY_SOCKET": address})
        notifier.ready()
        for _ in range(3):
            notifier.reloading()
            notifier.ready()
        keeping = asyncio.create_task(notifier.keep(lambda: None, lambda: "fine"))
        told, loop = [], asyncio.get_running_loop()
        async with asyncio.timeout(30):
            while told.count(b"WATCHDOG=1") < 3:
                told.append(await loop.sock_recv(manager, 100))
        keeping.cancel()
    states = [each.partition(b"=")[0] for each in told if each.startswith((b"READY", b"RELOADING"))]
    assert states == [b"RELOADING", b"READY"], "where it waits for a reload, READY alone is not its end"


async def test_reloads_do_not_pile_up_behind_one_that_hangs_and_the_last_state_is_read(tmp_path):
    config = load(PLAIN | {"output": str(tmp_path)}, environ={}).config
    hangs, written, read = threading.Event(), [], []

    def read_slowly():
        read.append(written[-1])
        hangs.wait(30)
        return config.replaced(delay=read[-1])

    async with open_crawl(config) as crawl:
        async with asyncio.TaskGroup() as tasks:
            with serve_module.reloading(tasks, Changes(Direct(crawl), tmp_path), Notifier({}), read_slowly) as calls:
                for delay in range(1, 10):
                    written.append(delay)
                    calls[signal.SIGHUP]()
                    while not read:
                        await asyncio.sleep(0.01)
                hangs.set()
                while len(read) < 2 or crawl.config.delay != 9:
                    await asyncio.sleep(0.01)
        assert (read, crawl.config.delay) == ([1, 9], 9)
