"""The daemon in this process: what it says of itself."""

import asyncio
import logging

import aiohttp
from support.daemons import PLAIN

from crawler.config.load import load
from crawler.service import serve as serve_module


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
